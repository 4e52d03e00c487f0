"""What a person reads of a stopped portal, and the command that calls it somewhere else."""

import io
from functools import partial

import pytest
from sqlalchemy import Engine

from b24sync.edge import tables, tenants
from b24sync.edge.database import reading, transact
from b24sync.edge.portals import ensure_default
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings
from tests.cli.conftest import Cli
from tests.house import add_portal, add_rows, change, database_now, one

OLD = "https://acme.bitrix24.com"
NEW = "https://acme-group.bitrix24.eu"
MINUTE = 60_000


def test_a_portal_is_moved_and_goes_on_there(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """It redirects, nobody trusts the host, a person does, and its rows arrive."""
    add_rows(sqlite_engine, "c-1", portal="acme")
    with Sandbox() as elsewhere:
        acme.add_fault("redirect", location=elsewhere.url, times=None)
        assert cli("sync").code == 0
        stopped = one(sqlite_engine, tables.portal)
        command = stopped["state_reason"].partition("`b24sync ")[2].rstrip("`").split()

        moved = cli(*command, "--yes")
        synced = cli("sync", "--json")

        assert stopped["state"] == "misconfigured"
        assert command == ["portal", "move", "acme", "--to", elsewhere.url]
        assert moved.code == 0
        assert moved.out == f"the portal acme is called at {elsewhere.url}\n"
        assert acme.url in moved.err
        assert synced.document["outcomes"] == {"applied": 1}
        assert len(elsewhere.records("contact")) == 1
    found = one(sqlite_engine, tables.portal)
    assert (found["state"], found["moved_from"]) == ("active", acme.url)


@pytest.mark.parametrize(
    ("answer", "code", "address"),
    [
        pytest.param("", 2, OLD, id="nobody is there"),
        pytest.param("n\n", 2, OLD, id="no"),
        pytest.param("y\n", 0, NEW, id="yes"),
    ],
)
def test_a_move_is_confirmed_by_a_person(
    cli: Cli,
    sqlite_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    address: str,
) -> None:
    """Both addresses are shown first; without a yes nothing is changed."""
    add_portal(sqlite_engine, "acme", base_url=OLD)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    ran = cli("portal", "move", "acme", "--to", "Acme-Group.bitrix24.eu")

    assert ran.code == code
    assert OLD in ran.err
    assert NEW in ran.err
    assert one(sqlite_engine, tables.portal)["base_url"] == address


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ("acme.bitrix24.com", "at https://acme.bitrix24.com already"),
        ("http://crm.acme.example", "is not https"),
        ("https://crm.acme.example/rest/1/hush/", "is no host"),
        ("me@crm.acme.example", "is no host"),
        ("", "is no host"),
    ],
)
def test_a_host_that_makes_no_sense_is_refused(
    cli: Cli, sqlite_engine: Engine, told: str, complaint: str
) -> None:
    """Exit code 2 and what to write instead."""
    add_portal(sqlite_engine, "acme", base_url=OLD)

    ran = cli("portal", "move", "acme", "--to", told, "--yes")

    assert ran.code == 2
    assert complaint in " ".join(ran.err.split())
    assert one(sqlite_engine, tables.portal)["base_url"] == OLD


def test_an_unknown_portal_is_not_moved(cli: Cli, sqlite_engine: Engine) -> None:
    """The known ones are named."""
    add_portal(sqlite_engine, "acme")

    ran = cli("portal", "move", "acne", "--to", "acme.bitrix24.com", "--yes")

    assert ran.code == 2
    assert "known are: acme" in ran.err


@pytest.mark.parametrize(
    ("before", "after"), [("paused", "paused"), ("auth_lost", "active"), ("active", "active")]
)
def test_a_pause_of_an_operator_outlives_a_move(
    cli: Cli, sqlite_engine: Engine, before: str, after: str
) -> None:
    """Every other stop ends with it."""
    add_portal(sqlite_engine, "acme", base_url=OLD, state=before, state_reason="mine")

    ran = cli("portal", "move", "acme", "--to", NEW, "--yes", "--json")

    assert ran.document == {"portal": "acme", "from": OLD, "to": NEW, "state": after}
    found = one(sqlite_engine, tables.portal)
    assert (found["state"], found["base_url"]) == (after, NEW)


def test_status_says_of_a_stopped_portal_all_that_a_person_needs(
    cli: Cli, sqlite_engine: Engine
) -> None:
    """Since when, why, what to do and where, how many rows wait, when it is asked by itself."""
    now = database_now(sqlite_engine)
    add_portal(
        sqlite_engine,
        "acme",
        state="plan_lost",
        state_reason="PAYMENT_REQUIRED: Subscription has ended.",
        state_at=now - 90 * MINUTE - 5_000,
        probe_at=now + 30 * MINUTE + 30_000,
        probes=2,
    )
    add_rows(sqlite_engine, "c-1", "c-2", portal="acme")

    told = cli("status")
    listed = cli("portal", "list")
    (portal,) = cli("status", "--json").document["portals"]
    in_list = cli("portal", "list", "--json").document

    (task,) = portal["to_do"]
    for text in (task, " ".join(told.out.split()), " ".join(listed.out.split())):
        assert "acme: plan_lost for 1 h 30 min (since " in text
        assert "): PAYMENT_REQUIRED: Subscription has ended. See in Bitrix24 (Subscription" in text
        assert "Then `b24sync portal resume acme`." in text
        assert "It is asked by itself in 30 min, 2 times so far." in text
    assert "2 rows wait." in task
    for document in (portal, in_list):
        assert document["probes"] == 2
        assert 29 * MINUTE < document["next_probe_ms"] <= 31 * MINUTE
        assert document["state_at"].endswith("Z")


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("auth_lost", "NO_AUTH_FOUND: Wrong", "It is not asked by itself."),
        ("misconfigured", "webhook_url: is no webhook", "It is not asked by itself."),
    ],
)
def test_what_nobody_asks_is_told_as_that(
    cli: Cli, sqlite_engine: Engine, state: str, reason: str, words: str
) -> None:
    """So that nobody waits for it."""
    add_portal(sqlite_engine, "acme", state=state, state_reason=reason)

    (portal,) = cli("status", "--json").document["portals"]

    assert words in portal["to_do"][0]
    assert (portal["next_probe_ms"], portal["probes"]) == (None, 0)


def test_a_setting_that_names_the_address_before_is_told_of(
    cli: Cli, settings: Settings, sqlite_engine: Engine
) -> None:
    """The portal is called where it is now; the setting should say so too."""
    hook = f"{OLD}/rest/1/hush/"
    with_hook = Settings(database_url=settings.database_url, webhook_url=hook)
    transact(sqlite_engine, partial(ensure_default, webhook_url=hook))
    with reading(sqlite_engine) as connection:
        known = tenants.tenant(connection, "default")
    transact(sqlite_engine, partial(tenants.move, of=known, to=NEW))

    told = cli("status", settings=with_hook)
    listed = cli("portal", "list", settings=with_hook)
    (portal,) = cli("status", "--json", settings=with_hook).document["portals"]
    mended = Settings(database_url=settings.database_url, webhook_url=f"{NEW}/rest/1/hush/")
    after = cli("status", settings=mended)

    for text in (portal["to_do"][0], " ".join(told.out.split()), " ".join(listed.out.split())):
        assert f"has moved to {NEW}, and the setting webhook_url (B24SYNC_WEBHOOK_URL)" in text
        assert "hush" not in text
    assert portal["base_url"] == NEW
    assert "Nothing to do." in after.out


def test_a_sync_asks_a_stopped_portal_whose_time_has_come(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Where no worker runs, nobody else would notice that it is well."""
    add_rows(sqlite_engine, "c-1", portal="acme")
    acme.add_fault("error", code="OVERLOAD_LIMIT", text="Blocked")
    first = cli("sync", "--json")
    early = cli("sync", "--until-empty", "--json")
    change(sqlite_engine, tables.portal, {"probe_at": 0})

    late = cli("sync", "--until-empty", "--json")

    assert "overloaded: OVERLOAD_LIMIT: Blocked" in first.document["left"][0]
    assert early.document["outcomes"] == {}
    assert late.document["outcomes"] == {"applied": 1}
    assert [request.method for request in acme.requests()] == ["batch", "batch", "batch"]
