"""Portals that are stopped are asked by themselves, now and then, and go on when they are well."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from typing import cast

import pytest
import requests
from celery import Celery
from sqlalchemy import Engine, QueuePool

import b24sync.tasks  # noqa: F401 - whoever runs a task imports it
from b24sync.core.grants import Pair, document_of
from b24sync.core.model import PortalState
from b24sync.drain import Order, drain, heeding
from b24sync.drain.probing import PROBES_PER_RUN, probe
from b24sync.edge import applications, probes, tables, tenants
from b24sync.edge.applications import StoredApplication
from b24sync.edge.database import reading, transact, writing
from b24sync.edge.probes import Stopped
from b24sync.edge.tokens import Keyring, new_key
from b24sync.plugin import install
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings
from b24sync.world import World
from tests.fakes import Answer, Asked, Line, ScriptedPortal
from tests.house import (
    FAR_MS,
    Clerk,
    Found,
    add_portal,
    add_rows,
    batch_answer,
    change,
    commands_of,
    database_now,
    endings,
    in_threads,
    one,
    refusal,
    rows_of,
    world_of,
)

HOUR = 3_600_000
MINUTE = 60_000
OLD = "https://acme.bitrix24.com"
NEW = "https://acme-group.bitrix24.eu"
HOOK = f"{OLD}/rest/1/hush/"

BLOCKED = refusal("OVERLOAD_LIMIT", "REST API is blocked due to overload.", 503)
UNPAID = refusal("PAYMENT_REQUIRED", "Subscription has ended", 401)


def _well(asked: Asked) -> Answer:
    """The answer of a portal to a probe, whatever its label."""
    return batch_answer(dict.fromkeys(commands_of(asked), "2026-11-21T12:00:00+00:00"))


def _stopped(engine: Engine, state: str = "overloaded", reason: str = "OVERLOAD_LIMIT: b") -> None:
    """The portal ``default``, stopped and due for a probe."""
    add_portal(engine, base_url=OLD, state=state, state_reason=reason, probe_at=0)


def _scripted(script: Iterable[Line]) -> ScriptedPortal:
    portal = ScriptedPortal(script)
    portal.scripts_probes = True
    return portal


def _world(engine: Engine, *script: Line) -> tuple[World, ScriptedPortal]:
    portal = _scripted(script)
    return world_of(engine, portal, webhook_url=HOOK), portal


def _in_ms(engine: Engine, found: Found) -> int:
    """How long until the next probe."""
    return int(found["probe_at"]) - database_now(engine)


def test_a_portal_goes_on_by_itself_when_it_is_well(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped by a block, asked an hour later by a harmless call, and drained again at once."""
    add_portal(engine, base_url=OLD)
    add_rows(engine, "a")
    portal = _scripted(chain([BLOCKED, _well], repeat(Clerk())))
    world = world_of(engine, portal, webhook_url=HOOK)
    drain(world, Order())
    stopped = one(engine, tables.portal)
    early = probe(world)
    change(engine, tables.portal, {"probe_at": 0})

    with caplog.at_level(logging.INFO, logger="b24sync"):
        well = probe(world)
    drain(world, Order())

    assert stopped["state"] == "overloaded"
    assert 59 * MINUTE < stopped["probe_at"] - stopped["state_at"] <= 75 * MINUTE
    assert (early, well) == ((), ("default",))
    assert list(commands_of(portal.asked[1]).values()) == ["server.time"]
    assert len(portal.asked) == 3
    assert endings(engine) == {1: ["applied"]}
    found = one(engine, tables.portal)
    assert (found["state"], found["state_reason"]) == ("active", None)
    assert (found["probe_at"], found["probes"]) == (None, 0)
    assert "portal_well portal=default state=overloaded" in caplog.text


def test_the_same_complaint_puts_the_next_probe_off(
    sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Later and later, told at no louder level than it deserves."""
    caplog.set_level(logging.INFO, logger="b24sync")
    _stopped(sqlite_engine, "plan_lost", "PAYMENT_REQUIRED: old words")
    since = one(sqlite_engine, tables.portal)["state_at"]
    world, portal = _world(sqlite_engine, *[UNPAID] * 4)
    waits: list[int] = []

    for _ in range(4):
        change(sqlite_engine, tables.portal, {"probe_at": 0})
        assert probe(world) == ()
        waits.append(round(_in_ms(sqlite_engine, one(sqlite_engine, tables.portal)) / HOUR))

    found = one(sqlite_engine, tables.portal)
    assert waits == [2, 4, 6, 6]
    assert (found["state"], found["state_at"], found["probes"]) == ("plan_lost", since, 4)
    assert found["state_reason"] == "PAYMENT_REQUIRED: Subscription has ended"
    assert len(portal.asked) == 4
    assert [record.levelname for record in caplog.records] == ["INFO"] * 4
    assert "portal_probed portal=default state=plan_lost probes=4 said=PAYMENT_REQ" in caplog.text


def test_another_complaint_is_another_stop(
    sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Told as loudly as a first one; where no asking can mend it, nobody asks any more."""
    _stopped(sqlite_engine)
    change(sqlite_engine, tables.portal, {"state_at": 1, "probes": 5})
    world, _ = _world(sqlite_engine, refusal("NO_AUTH_FOUND", "Wrong webhook", 401))

    probe(world)

    found = one(sqlite_engine, tables.portal)
    assert (found["state"], found["state_reason"]) == ("auth_lost", "NO_AUTH_FOUND: Wrong webhook")
    assert (found["probe_at"], found["probes"]) == (None, 0)
    assert found["state_at"] > 1
    assert "portal_paused portal=default state=auth_lost code=NO_AUTH_FOUND" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(requests.ConnectTimeout(), id="not reached"),
        pytest.param(requests.ReadTimeout(), id="no answer"),
        pytest.param(Answer(body=b"<h1>502</h1>", status=502), id="a page"),
        pytest.param(Answer(body={"result": {}}), id="half an answer"),
        pytest.param(refusal("INTERNAL_SERVER_ERROR", "", 500), id="a failing server"),
        pytest.param(refusal("QUERY_LIMIT_EXCEEDED", "", 503), id="too many requests"),
    ],
)
def test_what_says_nothing_of_the_portals_health_leaves_it_stopped(
    sqlite_engine: Engine, line: Line
) -> None:
    """As it was, with the next probe at its time."""
    _stopped(sqlite_engine)
    world, _ = _world(sqlite_engine, line)

    assert probe(world) == ()

    found = one(sqlite_engine, tables.portal)
    assert (found["state"], found["state_reason"]) == ("overloaded", "OVERLOAD_LIMIT: b")
    assert 59 * MINUTE < _in_ms(sqlite_engine, found) <= HOUR
    assert found["probes"] == 1


@pytest.mark.parametrize("state", [PortalState.PAUSED, PortalState.ACTIVE])
def test_what_an_operator_has_stopped_is_never_asked(
    sqlite_engine: Engine, state: PortalState
) -> None:
    """Not even if the table says when."""
    _stopped(sqlite_engine, str(state), "holidays")
    world, portal = _world(sqlite_engine)

    assert probe(world) == ()
    assert portal.asked == []


def test_a_pause_by_an_operator_has_no_probe(sqlite_engine: Engine) -> None:
    """And ends the one of a stop before it."""
    add_portal(sqlite_engine, probe_at=1, probes=3)

    stop = partial(
        tenants.pause, code="default", state=PortalState.PAUSED, reason="OVERLOAD_LIMIT: mine"
    )
    transact(sqlite_engine, stop)

    found = one(sqlite_engine, tables.portal)
    assert (found["probe_at"], found["probes"]) == (None, 0)


def test_after_its_time_a_portal_is_left_to_a_person(sqlite_engine: Engine) -> None:
    """The last probe is made, and no other is planned."""
    _stopped(sqlite_engine)
    change(sqlite_engine, tables.portal, {"state_at": 1})
    world, portal = _world(sqlite_engine, BLOCKED)

    probe(world)
    probe(world)

    assert len(portal.asked) == 1
    assert one(sqlite_engine, tables.portal)["probe_at"] is None


def test_a_portal_has_one_prober_at_a_time(engine: Engine) -> None:
    """Workers that see it due at the same moment ask it once, and pay once."""
    _stopped(engine)
    with reading(engine) as connection:
        assert probes.due(connection, limit=9) == ("default",)
    taken: list[Stopped] = []

    def take() -> None:
        found = transact(
            engine, partial(probes.take, code="default", following=lambda _stopped: HOUR)
        )
        if found is not None:
            taken.append(found)

    in_threads([take] * 4)

    assert [(found.state, found.code, found.age.probes) for found in taken] == [
        (PortalState.OVERLOADED, "OVERLOAD_LIMIT", 1)
    ]
    assert 0.9 < one(engine, tables.bucket)["level"] <= 1.0


def test_a_run_asks_a_bounded_number_of_portals(sqlite_engine: Engine) -> None:
    """The longest overdue first; the others are asked by the next run."""
    for number in range(PROBES_PER_RUN + 5):
        add_portal(
            sqlite_engine,
            f"p{number:02}",
            base_url=OLD,
            state="gone",
            state_reason="PORTAL_DELETED",
            probe_at=100 - number,
        )
    change(sqlite_engine, tables.portal, {"code": "default"}, code="p24")
    world, portal = _world(sqlite_engine, _well)

    first = probe(world)
    asked = [row["code"] for row in rows_of(sqlite_engine, tables.portal, probes=1)]
    second = probe(world)

    assert (first, second) == (("default",), ())
    assert asked == [f"p{number:02}" for number in range(5, 24)]
    assert len(rows_of(sqlite_engine, tables.portal, probes=1)) == PROBES_PER_RUN + 4
    assert len(portal.asked) == 1


def test_a_run_ends_with_its_slice_and_when_the_worker_stops(sqlite_engine: Engine) -> None:
    """Whoever is not asked now stays due."""
    _stopped(sqlite_engine)
    world, portal = _world(sqlite_engine)

    assert probe(world, stopping=lambda: True) == ()
    assert probe(world_of(sqlite_engine, portal, webhook_url=HOOK, slice_s=1e-9)) == ()
    assert probe(world, code="other") == ()

    assert portal.asked == []
    assert one(sqlite_engine, tables.portal)["probe_at"] == 0


def test_a_probe_is_paid_for_like_any_call(sqlite_engine: Engine) -> None:
    """With the rate used up it waits for its turn, and has not been made."""
    _stopped(sqlite_engine)
    change(sqlite_engine, tables.portal, {"rate_x": 1, "rate_y": 0.001})
    world, portal = _world(sqlite_engine, BLOCKED)
    probe(world)
    change(sqlite_engine, tables.portal, {"probe_at": 0})

    probe(world)

    found = one(sqlite_engine, tables.portal)
    assert len(portal.asked) == 1
    assert found["probes"] == 1
    assert 15 * MINUTE < _in_ms(sqlite_engine, found) <= 17 * MINUTE


def test_no_transaction_is_open_while_a_probe_is_waited_for(engine: Engine) -> None:
    """No connection is held and no lock with it."""
    _stopped(engine)
    held: list[int] = []

    def look(asked: Asked) -> Answer:
        held.append(cast("QueuePool", engine.pool).checkedout())
        return _well(asked)

    world, _ = _world(engine, look)

    assert probe(world) == ("default",)
    assert held == [0]


def test_what_a_person_does_during_a_probe_stands(sqlite_engine: Engine) -> None:
    """The answer is about a stop that is over; the pause that came since is an operator's."""
    _stopped(sqlite_engine)

    def paused_meanwhile(asked: Asked) -> Answer:
        with writing(sqlite_engine) as connection:
            tenants.resume(connection, "default")
            tenants.pause(connection, "default", PortalState.PAUSED, reason="mine")
        return _well(asked)

    world, _ = _world(sqlite_engine, paused_meanwhile)

    assert probe(world) == ()

    found = one(sqlite_engine, tables.portal)
    assert (found["state"], found["state_reason"], found["probe_at"]) == ("paused", "mine", None)


def test_a_probe_follows_a_portal_that_has_moved(sqlite_engine: Engine) -> None:
    """By the same rules as any call; at the new address the next run asks at once."""
    _stopped(sqlite_engine)
    moved = Answer(status=302, headers={"Location": f"{NEW}/rest/1/hush/batch"})
    world, portal = _world(sqlite_engine, moved, _well)

    assert probe(world) == ()
    assert probe(world) == ("default",)

    found = one(sqlite_engine, tables.portal)
    assert (found["base_url"], found["moved_from"], found["state"]) == (NEW, OLD, "active")
    assert [asked.url for asked in portal.asked] == [
        f"{OLD}/rest/1/hush/batch",
        f"{NEW}/rest/1/hush/batch",
    ]


def test_a_probe_sends_nothing_to_a_host_that_nobody_trusts(sqlite_engine: Engine) -> None:
    """The reason names it, and the command; the old address is asked again, later."""
    _stopped(sqlite_engine)
    moved = Answer(status=302, headers={"Location": "https://evil.example/rest/1/hush/batch"})
    world, portal = _world(sqlite_engine, moved)

    probe(world)

    found = one(sqlite_engine, tables.portal)
    assert (found["base_url"], found["state"]) == (OLD, "misconfigured")
    assert "`b24sync portal move default --to evil.example`" in found["state_reason"]
    assert 59 * MINUTE < _in_ms(sqlite_engine, found) <= 75 * MINUTE
    assert len(portal.asked) == 1


def test_a_host_that_was_trusted_since_is_followed_by_the_next_probe(
    sqlite_engine: Engine,
) -> None:
    """The setting mends a stopped portal without a command."""
    _stopped(sqlite_engine, "misconfigured", "HTTP_302: the portal redirects")
    moved = Answer(status=302, headers={"Location": "https://crm.acme.example/rest/1/hush/batch"})
    portal = _scripted([moved, _well])
    world = world_of(sqlite_engine, portal, webhook_url=HOOK, trusted_hosts=(".acme.example",))

    probe(world)

    assert probe(world) == ("default",)
    assert portal.asked[1].url == "https://crm.acme.example/rest/1/hush/batch"


def test_the_recovering_task_asks_the_portals_that_are_due(sqlite_engine: Engine) -> None:
    """Where workers run, nobody has to do anything."""
    with Sandbox() as sandbox:
        add_portal(
            sqlite_engine,
            base_url=sandbox.url,
            state="overloaded",
            state_reason="OVERLOAD_LIMIT",
            probe_at=0,
        )
        app = Celery("shop", set_as_current=False)
        install(
            app,
            Settings(
                database_url=sqlite_engine.url.render_as_string(hide_password=False),
                webhook_url=sandbox.webhook_url,
            ),
        )

        moved = app.tasks["b24sync.recover"].apply(throw=True).get()

    assert moved == 0
    assert one(sqlite_engine, tables.portal)["state"] == "active"


def test_a_portal_far_from_its_probe_is_left_alone(sqlite_engine: Engine) -> None:
    """However often the tasks run."""
    _stopped(sqlite_engine)
    change(sqlite_engine, tables.portal, {"probe_at": database_now(sqlite_engine) + FAR_MS})
    world, portal = _world(sqlite_engine)

    for _ in range(3):
        assert probe(world) == ()

    assert portal.asked == []


@pytest.fixture
def of_application(sqlite_engine: Engine) -> Iterator[tuple[World, Sandbox]]:
    """A portal that is called with the tokens of an application, stopped, its access token over."""
    key = new_key()
    keyring = Keyring.from_keys([key])
    sealed_by = {"secret_key_id": keyring.key_ids[0]}
    with Sandbox() as sandbox:
        pair = Pair(access=sandbox.access_token, refresh=sandbox.refresh_token)
        application = StoredApplication(
            code="crm",
            client_id=sandbox.config.client_id,
            secret=keyring.encrypt(sandbox.config.client_secret),
            server_url=sandbox.url,
            **sealed_by,
        )
        transact(sqlite_engine, partial(applications.add, application=application))
        add_portal(
            sqlite_engine,
            base_url=sandbox.url,
            auth_kind="oauth",
            app_id="crm",
            secret=keyring.encrypt(document_of(pair)),
            token_expires_at=1,
            state="plan_lost",
            state_reason="PAYMENT_REQUIRED",
            probe_at=0,
            **sealed_by,
        )
        world = replace(world_of(sqlite_engine), keyring=keyring)
        yield world, sandbox
        world.client.close()


def test_a_probe_renews_a_token_that_is_over(of_application: tuple[World, Sandbox]) -> None:
    """Or no portal of an application would ever be well again: a token lives an hour."""
    world, sandbox = of_application

    assert probe(world) == ("default",)

    assert [request.method for request in sandbox.requests()] == ["oauth.token", "batch"]
    assert one(world.engine, tables.portal)["token_version"] == 1


@pytest.mark.parametrize(
    ("code", "state", "days"),
    [
        pytest.param("PAYMENT_REQUIRED", "plan_lost", 1, id="still unpaid"),
        pytest.param("invalid_grant", "auth_lost", None, id="tokens lost"),
    ],
)
def test_a_renewal_that_is_refused_says_how_the_portal_is(
    of_application: tuple[World, Sandbox], code: str, state: str, days: int | None
) -> None:
    """Once a day at the most, since whoever renews often is blocked; what is lost, never again."""
    world, sandbox = of_application
    sandbox.add_fault("error", method="oauth.token", code=code, text="No", times=None)

    assert probe(world) == ()

    found = one(world.engine, tables.portal)
    assert found["state"] == state
    assert str(found["state_reason"]).startswith(code)
    if days is None:
        assert found["probe_at"] is None
    else:
        assert round(_in_ms(world.engine, found) / HOUR) == 24 * days


def test_a_portal_of_an_application_is_asked_a_day_after_its_stop(
    of_application: tuple[World, Sandbox],
) -> None:
    """Not after an hour, as a webhook is, which costs no renewal."""
    world, _ = of_application
    with writing(world.engine) as connection:
        tenants.resume(connection, "default")
        known = tenants.tenant(connection, "default")

        heeding.stop(connection, known, PortalState.OVERLOADED, "OVERLOAD_LIMIT: Blocked")

    assert 24 * HOUR - MINUTE < _in_ms(world.engine, one(world.engine, tables.portal)) <= 30 * HOUR
