"""Portals that move: where the credential may follow, and what no portal-wide refusal costs."""

import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, repeat

import pytest
from sqlalchemy import Engine

from b24sync.core.errors import SettingsError
from b24sync.core.faults import FAULTS, FaultRow, Where
from b24sync.core.policies import Policy
from b24sync.drain import Order, Tally, drain
from b24sync.edge import portals, tables, tenants
from b24sync.edge.database import reading, transact, writing
from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.settings import Settings, from_mapping
from b24sync.world import World, credential_of
from tests.fakes import Answer, Asked, Line, ScriptedPortal
from tests.house import (
    Clerk,
    add_portal,
    add_rows,
    batch_answer,
    change,
    database_now,
    endings,
    one,
    refusal,
    rows_of,
    time_passes,
    world_of,
)

OLD = "https://acme.bitrix24.com"
NEW = "https://acme-group.bitrix24.eu"
HOOK = f"{OLD}/rest/1/hush/"


def _redirect(to: str) -> Answer:
    return Answer(
        status=302, body=b"<html>moved</html>", headers={"Location": f"{to}/rest/1/hush/"}
    )


def _portal(*script: Line) -> ScriptedPortal:
    """A portal that says these lines, and then does everything that it is asked."""
    return ScriptedPortal(chain(script, repeat(Clerk())))


@pytest.fixture
def house(sqlite_engine: Engine) -> Engine:
    """A database with the portal ``default``, at the address of its webhook in the cloud."""
    add_portal(sqlite_engine, base_url=OLD)
    return sqlite_engine


@pytest.fixture
def connected(sqlite_engine: Engine, sandbox: Sandbox) -> Iterator[World]:
    """A world whose portal is the sandbox, over real sockets."""
    world = world_of(sqlite_engine, webhook_url=sandbox.webhook_url)
    transact(
        sqlite_engine,
        partial(portals.ensure_default, webhook_url=sandbox.webhook_url),
    )
    yield world
    world.client.close()


def test_a_portal_of_the_cloud_is_followed_in_the_same_run(
    house: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing ran at the old address, so nothing is charged, and the next pass is at the new one."""
    add_rows(house, "a", "b")
    portal = _portal(_redirect(NEW))

    with caplog.at_level(logging.INFO, logger="b24sync"):
        tally = drain(world_of(house, portal, webhook_url=HOOK), Order())

    found = one(house, tables.portal)
    assert (found["base_url"], found["moved_from"], found["state"]) == (NEW, OLD, "active")
    assert abs(found["moved_at"] - database_now(house)) < 60_000
    assert [asked.url for asked in portal.asked] == [
        f"{OLD}/rest/1/hush/batch",
        f"{NEW}/rest/1/hush/batch",
    ]
    assert tally == Tally(batches=2, deferred=2, outcomes={"applied": 2})
    assert [row["attempt"] for row in rows_of(house, tables.result, final=True)] == [1, 1]
    assert f"portal_moved portal=default from={OLD} to={NEW}" in caplog.text
    assert "hush" not in caplog.text


def test_a_portal_that_moved_twice_while_nobody_called_is_followed_twice(house: Engine) -> None:
    """And the setting that still names the first address does not send it back."""
    third = "https://acme.bitrix24.de"
    add_rows(house, "a")
    portal = _portal(_redirect(NEW), _redirect(third))
    world = world_of(house, portal, webhook_url=HOOK)

    drain(world, Order())
    is_changed = transact(house, partial(portals.ensure_default, webhook_url=HOOK))

    found = one(house, tables.portal)
    assert not is_changed
    assert (found["base_url"], found["moved_from"]) == (third, f"{NEW} {OLD}")
    assert portal.asked[-1].url == f"{third}/rest/1/hush/batch"


def test_a_circle_of_redirects_stops_the_portal_for_a_person(house: Engine) -> None:
    """Two hosts that name each other would be called for ever."""
    add_rows(house, "a")
    portal = _portal(_redirect(NEW), _redirect(OLD))

    drain(world_of(house, portal, webhook_url=HOOK), Order())

    found = one(house, tables.portal)
    assert (found["base_url"], found["state"]) == (NEW, "misconfigured")
    assert found["state_reason"] == (
        f"HTTP_302: the portal redirects back to {OLD}, where it came from a short while ago; if "
        "that is its own: `b24sync portal move default --to acme.bitrix24.com`"
    )
    assert len(portal.asked) == 2


def test_to_a_host_that_nobody_trusts_not_even_a_connection_is_made(
    sqlite_engine: Engine, sandbox: Sandbox, connected: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A redirect followed would hand the credential to whoever the answer names."""
    add_rows(sqlite_engine, "a")
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        host = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        sandbox.add_fault("redirect", location=f"http://{host}", times=None)

        drain(connected, Order())
        time_passes(sqlite_engine)
        drain(connected, Order())

        elsewhere.setblocking(False)  # noqa: FBT003 - the socket's own signature
        with pytest.raises(BlockingIOError):
            elsewhere.accept()

    found = one(sqlite_engine, tables.portal)
    assert (found["base_url"], found["state"]) == (sandbox.url, "misconfigured")
    assert f"b24sync portal move default --to http://{host}" in found["state_reason"]
    assert len(sandbox.requests()) == 1
    assert [row["attempts"] for row in rows_of(sqlite_engine, tables.outbox)] == [0]
    assert "portal_paused portal=default state=misconfigured code=HTTP_302 remedy=" in caplog.text
    assert sandbox.config.code not in caplog.text


def test_a_trusted_host_is_followed(
    sqlite_engine: Engine, sandbox: Sandbox, connected: World
) -> None:
    """The setting is a person's word, given beforehand."""
    add_rows(sqlite_engine, "a")
    with Sandbox(SandboxConfig()) as elsewhere:
        host = elsewhere.url.removeprefix("http://")
        sandbox.add_fault("redirect", location=elsewhere.url, times=None)
        trusting = replace(connected.settings, trusted_hosts=(host,))

        tally = drain(replace(connected, settings=trusting), Order())

        assert tally.outcomes == {"applied": 1}
        assert len(elsewhere.records("contact")) == 1
        assert one(sqlite_engine, tables.portal)["base_url"] == elsewhere.url


def test_a_redirect_of_a_look_is_followed_like_any_other(house: Engine) -> None:
    """What was asked is asked again where the portal is, and nothing is set aside for it."""
    add_rows(house, "a", fields={"name": "Ann"})

    def nobody(asked: Asked) -> Answer:
        return batch_answer({label: {"items": []} for label in asked.params["cmd"]})

    portal = _portal(_redirect(NEW), nobody)
    match = {"contact": Policy(match="name")}

    tally = drain(world_of(house, portal, webhook_url=HOOK, policies=match), Order())

    assert [asked.url.partition("/rest/")[0] for asked in portal.asked] == [OLD, NEW, NEW]
    assert tally == Tally(looks=2, batches=1, outcomes={"applied": 1})
    assert one(house, tables.portal)["base_url"] == NEW


def test_only_who_knows_the_address_moves_the_portal(engine: Engine) -> None:
    """The second lane that is told of a move, and whoever comes late, change nothing."""
    add_portal(engine, base_url=OLD)
    with reading(engine) as connection:
        known = tenants.tenant(connection, "default")

    with writing(engine) as connection:
        first = tenants.move(connection, known, NEW)
        second = tenants.move(connection, known, "https://acme.bitrix24.de")

    assert (first, second) == (True, False)
    with reading(engine) as connection:
        moved = tenants.tenant(connection, "default")
    assert (moved.base_url, moved.moved_from) == (NEW, OLD)
    assert moved.moved_at_ms == one(engine, tables.portal)["moved_at"]


def test_a_late_redirect_from_the_old_address_does_not_stop_the_portal(house: Engine) -> None:
    """Another lane was told first, while this one waited for its answer."""
    add_rows(house, "a")

    def moved_meanwhile(_asked: object) -> Answer:
        with reading(house) as connection:
            known = tenants.tenant(connection, "default")
        with writing(house) as connection:
            tenants.move(connection, known, NEW)
        return _redirect(NEW)

    portal = ScriptedPortal([moved_meanwhile, Clerk()])
    drain(world_of(house, portal, webhook_url=HOOK), Order())

    found = one(house, tables.portal)
    assert (found["state"], found["moved_from"]) == ("active", OLD)
    assert endings(house) == {1: ["applied"]}


@pytest.mark.parametrize(
    ("setting", "called"),
    [
        pytest.param(HOOK, f"{NEW}/rest/1/hush/", id="still the old address"),
        pytest.param(f"{NEW}/rest/1/new/", f"{NEW}/rest/1/new/", id="the new address"),
        pytest.param(
            "https://other.example/rest/1/new/",
            "https://other.example/rest/1/new/",
            id="another address",
        ),
    ],
)
def test_the_setting_counts_until_its_portal_has_moved_away(
    engine: Engine, setting: str, called: str
) -> None:
    """A move outlives the setting that it made old; a setting that was changed since counts again."""
    transact(engine, partial(portals.ensure_default, webhook_url=HOOK))
    with reading(engine) as connection:
        known = tenants.tenant(connection, "default")
    transact(engine, partial(tenants.move, of=known, to=NEW))

    transact(engine, partial(portals.ensure_default, webhook_url=setting))

    with reading(engine) as connection:
        now = tenants.tenant(connection, "default")
    assert credential_of(world_of(engine, webhook_url=setting), now).base_url == called
    assert now.base_url == called.partition("/rest/")[0]


def test_an_address_that_a_person_stores_has_no_past(sqlite_engine: Engine) -> None:
    """Neither a circle nor an old setting is seen in it."""
    add_portal(sqlite_engine, "acme", base_url=NEW, moved_from=OLD, moved_at=1)

    replaced = partial(portals.replace, code="acme", address=portals.Address(base_url=OLD))
    transact(sqlite_engine, replaced)

    found = one(sqlite_engine, tables.portal)
    assert (found["base_url"], found["moved_from"], found["moved_at"]) == (OLD, None, None)


def test_trusted_hosts_are_a_list_or_a_text_with_commas() -> None:
    """As the other setting with several values; what is no host is refused by its name."""
    told = ".acme.example, crm.acme.example:8443"

    settings = from_mapping({"b24sync_trusted_hosts": told})

    assert settings.trusted_hosts == (".acme.example", "crm.acme.example:8443")
    assert Settings().trusted_hosts == ()
    with pytest.raises(SettingsError, match=r"^trusted_hosts: '\.com' is no host, or a suffix"):
        from_mapping({"b24sync_trusted_hosts": [".com"]})


PORTAL_WIDE = [row for row in FAULTS if row.portal_state is not None]


def _said(record: logging.LogRecord) -> str:
    return record.getMessage()


def _refused(row: FaultRow) -> Answer:
    text = "REST is available only on commercial plans" if row.text else "No"
    return refusal(row.code, text, 403)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        *(
            pytest.param(_refused(row), str(row.portal_state), id=f"{row.where}:{row.code}")
            for row in PORTAL_WIDE
        ),
        pytest.param(refusal("expired_token", "", 401), "auth_lost", id="a webhook's token"),
        pytest.param(refusal("NEW_CODE", "", 400), "misconfigured", id="unlisted"),
        pytest.param(Answer(status=403, body=b"<h1>no</h1>"), "misconfigured", id="page 403"),
        pytest.param(Answer(status=404, body=b"<h1>no</h1>"), "misconfigured", id="page 404"),
        pytest.param(_redirect("https://evil.example"), "misconfigured", id="untrusted redirect"),
        pytest.param(Answer(status=301), "misconfigured", id="redirect to nowhere"),
    ],
)
def test_no_refusal_of_the_whole_portal_costs_a_row_anything(
    house: Engine, caplog: pytest.LogCaptureFixture, answer: Answer, state: str
) -> None:
    """It counts as put into a batch, and as nothing else; when the portal is well it goes at once."""
    add_rows(house, "a", "b")
    portal = _portal(answer)
    world = world_of(house, portal, webhook_url=HOOK)

    first = drain(world, Order())
    rows = rows_of(house, tables.outbox)
    time_passes(house)
    second = drain(world, Order())

    assert (first, second) == (Tally(batches=1, deferred=2), Tally())
    assert one(house, tables.portal)["state"] == state
    assert {
        (row["state"], row["attempts"], row["not_runs"], row["losses"], row["deliveries"])
        for row in rows
    } == {("ready", 0, 0, 0, 1)}
    assert rows_of(house, tables.result) == rows_of(house, tables.dead) == []
    (told,) = [line for line in map(_said, caplog.records) if line.startswith("portal_paused")]
    assert told.startswith(f"portal_paused portal=default state={state} code=")
    assert " remedy=" in told

    with writing(house) as connection:
        tenants.resume(connection, "default")
    drain(world, Order())

    assert endings(house) == {1: ["applied"], 2: ["applied"]}
    assert len(portal.asked) == 2


def test_the_table_has_refusals_of_requests_and_of_whole_batches() -> None:
    """So that the test before this one is about something."""
    assert len(PORTAL_WIDE) > 20
    assert {row.where for row in PORTAL_WIDE} == {Where.REQUEST, Where.BATCH}


def test_back_to_the_address_before_is_a_move_like_any_other_an_hour_later(house: Engine) -> None:
    """What is a circle at once is somebody's will after a while."""
    change(house, tables.portal, {"base_url": NEW, "moved_from": OLD, "moved_at": 1})
    add_rows(house, "a")
    portal = _portal(_redirect(OLD))

    drain(world_of(house, portal, webhook_url=HOOK), Order())

    found = one(house, tables.portal)
    assert (found["base_url"], found["moved_from"]) == (OLD, NEW)
    assert endings(house) == {1: ["applied"]}
