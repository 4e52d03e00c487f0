"""One pass and many, from the outbox to the portal and back, on every database."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import cast

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, QueuePool, event, insert, text

from b24sync.core.errors import SettingsError
from b24sync.core.model import HaltMode, PortalState, Ref, Unreadable
from b24sync.core.refs import stored
from b24sync.drain import Order, Tally, drain
from b24sync.edge import dead_letters, tables, tenants
from b24sync.edge.database import make_engine, writing
from b24sync.edge.tokens import Keyring, new_key
from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.world import World
from tests.fakes import Answer, Asked, Line, ScriptedPortal
from tests.house import (
    Clerk,
    Found,
    add_batch,
    add_portal,
    add_row,
    add_rows,
    batch_answer,
    change,
    commands_of,
    endings,
    one,
    refusal,
    rows_of,
    states,
    taken,
    time_passes,
    world_of,
)

STATEMENTS_PER_BATCH = 22

ARGUMENT = ("INVALID_ARG_VALUE", "Name is not a name")
OUT_OF_TIME = ("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.")
SORRY = ("INTERNAL_SERVER_ERROR", "Internal server error")
HTML = Answer(body=b"<html><h1>502 Bad Gateway</h1></html>", status=502)


@pytest.fixture
def house(engine: Engine) -> Engine:
    """A database with the portal ``default``, whose rate no test uses up."""
    add_portal(engine)
    return engine


@pytest.fixture
def lite_house(sqlite_engine: Engine) -> Engine:
    """The same on SQLite only, for tables of answers that no database reads differently."""
    add_portal(sqlite_engine)
    return sqlite_engine


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An emulated portal over HTTP."""
    with Sandbox(SandboxConfig()) as running:
        yield running


@pytest.fixture
def connected(house: Engine, sandbox: Sandbox) -> Iterator[World]:
    """A world whose portal is the sandbox, over real sockets."""
    world = world_of(house, webhook_url=sandbox.webhook_url)
    yield world
    world.client.close()


def _keys(count: int) -> list[str]:
    return [f"k{number:03}" for number in range(count)]


def _call(engine: Engine, key: str, method: str = "user.add") -> int:
    (row_id,) = add_rows(
        engine, key, kind="call", operation="call", method=method, fields=None, params={"NAME": key}
    )
    return row_id


def _link(engine: Engine, *keys: str) -> None:
    with writing(engine) as connection:
        for number, key in enumerate(keys, start=900):
            connection.execute(
                insert(tables.link).values(
                    portal="default",
                    kind="contact",
                    entity_key=key,
                    remote_id=str(number),
                    state="present",
                )
            )


def _portal(*script: Line) -> ScriptedPortal:
    """A portal that says these lines, and then does everything that it is asked."""
    return ScriptedPortal(chain(script, repeat(Clerk())))


def test_one_bad_row_costs_none_of_its_neighbours(house: Engine) -> None:
    """Fifty travel together; forty-nine are applied and one is buried with its reason."""
    keys = [*_keys(49), "bad"]
    ids = add_rows(house, *keys)
    portal = ScriptedPortal([Clerk(refused={"=bad": ARGUMENT})])

    tally = drain(world_of(house, portal), Order())

    assert tally == Tally(batches=1, outcomes={"applied": 49, "failed": 1})
    assert endings(house) == {
        row_id: ["failed" if key == "bad" else "applied"]
        for row_id, key in zip(ids, keys, strict=True)
    }
    assert rows_of(house, tables.outbox) == []
    letter = one(house, tables.dead)
    assert (letter["entity_key"], letter["error_code"]) == ("bad", "INVALID_ARG_VALUE")
    assert letter["attempts"] == 1


def test_fifty_due_rows_are_one_request_of_fifty_commands(house: Engine) -> None:
    """The portal's rate counts requests, so every request is full while there is enough to say."""
    add_rows(house, *_keys(120))
    portal = _portal()

    tally = drain(world_of(house, portal), Order())

    assert [len(asked.params["cmd"]) for asked in portal.asked] == [50, 50, 20]
    assert {asked.params["halt"] for asked in portal.asked} == {0}
    assert tally == Tally(batches=3, outcomes={"applied": 120})


def test_refused_and_held_rows_leave_no_gaps_in_a_batch(house: Engine) -> None:
    """Rows that cannot be sent are set aside, and others take their seats."""
    company = stored(Ref("company", "acme"))
    with writing(house) as connection:
        for key in _keys(30):
            add_row(connection, f"held {key}", fields={"companyId": company})
            add_row(connection, f"refused {key}", operation="update")
            add_row(connection, f"fine {key}")
        for key in _keys(20):
            add_row(connection, f"more {key}")
    portal = _portal()

    tally = drain(world_of(house, portal), Order())

    assert [len(asked.params["cmd"]) for asked in portal.asked] == [50]
    assert tally.outcomes == {"applied": 50, "failed": 30}
    assert set(states(house).values()) == {"held"}
    assert len(states(house)) == 30
    assert {letter["reason"] for letter in rows_of(house, tables.dead)} == {"refused"}


def test_any_number_of_rows_that_cannot_be_sent_do_not_hide_one_that_can(house: Engine) -> None:
    """A claim sets aside so many and no more, and the next goes on from there."""
    add_rows(house, *_keys(90), operation="update")
    add_rows(house, *(f"held {key}" for key in _keys(90)), fields={"c": stored(Ref("deal", "x"))})
    (fine,) = add_rows(house, "fine")
    portal = _portal()

    tally = drain(world_of(house, portal, batch_size=2), Order())

    assert tally.outcomes == {"failed": 90, "applied": 1}
    assert endings(house)[fine] == ["applied"]
    assert len(portal.asked) == 1


def test_a_cancelled_and_an_expired_row_are_never_sent(house: Engine) -> None:
    """They end with a result of their own."""
    (cancelled,) = add_rows(house, "cancelled", cancel_requested=True)
    (expired,) = add_rows(house, "expired", expires_at=1)
    portal = ScriptedPortal([])

    tally = drain(world_of(house, portal), Order())

    assert endings(house) == {cancelled: ["cancelled"], expired: ["expired"]}
    assert tally == Tally(outcomes={"cancelled": 1, "expired": 1})


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(body=b"<html>maintenance</html>"), id="HTML"),
        pytest.param(Answer(body=b'{"result":{"result":{"c0":{"item"'), id="half a JSON"),
        pytest.param(Answer(body=[]), id="a list"),
        pytest.param(Answer(body=b""), id="nothing"),
        pytest.param(HTML, id="502"),
        pytest.param(Answer(body=b"", status=504), id="504"),
        pytest.param(batch_answer([]), id="empty sections"),
        pytest.param(refusal(*SORRY, 500), id="500 for the whole request"),
        pytest.param(requests.ReadTimeout(), id="silence"),
        pytest.param(requests.ConnectionError("reset"), id="a reset"),
    ],
)
def test_after_an_answer_that_cannot_be_used_rows_are_visibly_in_doubt(
    lite_house: Engine, answer: Line
) -> None:
    """Sent, and nobody knows: no row is lost, none is repeated, and each says that it is unknown."""
    ids = add_rows(lite_house, *_keys(5))
    portal = ScriptedPortal([answer])
    world = world_of(lite_house, portal)

    tally = drain(world, Order())
    time_passes(lite_house)
    again = drain(world, Order())

    assert tally == Tally(batches=1, outcomes={"unknown": 5})
    assert again == Tally()
    rows = rows_of(lite_house, tables.outbox)
    batch = one(lite_house, tables.batch)
    assert {row["state"] for row in rows} == {"doubt"}
    assert {row["due_at"] for row in rows} == {batch["quiet_until"]}
    assert {(row["attempts"], row["deliveries"]) for row in rows} == {(0, 1)}
    assert all(row["last_error"] for row in rows)
    assert (batch["state"], batch["closed_at"]) == ("doubt", None)
    assert [r["outbox_id"] for r in rows_of(lite_house, tables.result, outcome="unknown")] == ids
    assert endings(lite_house) == {}


def test_a_command_without_an_answer_is_in_doubt_and_its_neighbours_are_applied(
    house: Engine,
) -> None:
    """Silence about one command is never taken for failure."""
    add_rows(house, "a", "mute", "b")
    portal = ScriptedPortal([Clerk(silent=["=mute"])])

    tally = drain(world_of(house, portal), Order())

    assert tally.outcomes == {"applied": 2, "unknown": 1}
    assert states(house) == {"mute": "doubt"}


def test_other_entities_go_on_beside_a_batch_in_doubt(house: Engine) -> None:
    """One lost answer does not stop a portal, but the doubted entity's next change waits."""
    add_rows(house, "a")
    world = world_of(house, _portal(requests.ReadTimeout()))
    drain(world, Order())
    add_rows(house, "a", "b")
    time_passes(house)

    tally = drain(world, Order())

    assert tally.outcomes == {"applied": 1}
    assert states(house) == {"a": "doubt parked"}
    lane = one(house, tables.lane)
    assert (lane["open_batch_id"], lane["lease_until"]) == (None, None)


@pytest.mark.parametrize(
    "silence",
    [
        pytest.param(requests.ReadTimeout(), id="no answer"),
        pytest.param(Answer(status=502, body=b"<html>"), id="a page"),
    ],
)
def test_a_portal_that_answers_nothing_usable_is_left_alone_for_a_while(
    house: Engine, silence: Answer | Exception
) -> None:
    """Else a portal that is down for an hour would put batch after batch in doubt."""
    add_rows(house, *(f"k{number}" for number in range(120)))
    portal = _portal(silence)

    tally = drain(world_of(house, portal), Order())

    assert len(portal.asked) == 1
    assert tally.outcomes == {"unknown": 50}
    lane = one(house, tables.lane)
    assert (lane["breaker"], lane["fail_streak"]) == ("open", 1)


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "html", "executed": True},
        {"action": "cut_json", "executed": True},
        {"action": "cut_body", "executed": True},
        {"action": "reset", "executed": True},
        {"action": "empty", "executed": True},
        {"action": "body", "text": "[]", "executed": True},
        {"action": "html", "executed": True, "commands": 2},
    ],
    ids=lambda fault: " ".join(str(value) for value in fault.values()),
)
def test_what_was_executed_behind_a_lost_answer_is_not_executed_again(
    lite_house: Engine, sandbox: Sandbox, fault: dict[str, object]
) -> None:
    """Over real sockets: the portal did the work, the answer broke, and nothing is sent twice."""
    add_rows(lite_house, *_keys(3))
    sandbox.add_fault(str(fault["action"]), **{k: v for k, v in fault.items() if k != "action"})

    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    drain(world, Order())
    time_passes(lite_house)
    drain(world, Order())
    world.client.close()

    assert set(states(lite_house).values()) == {"doubt"}
    assert len(states(lite_house)) == 3
    assert len(sandbox.records("contact")) == fault.get("commands", 3)
    assert len(sandbox.requests()) == 1


def test_a_refusal_for_rate_costs_no_attempt_and_the_rows_go_later(house: Engine) -> None:
    """The portal did not look at them; the bucket believes it, and the lane rests."""
    change(house, tables.portal, {"rate_y": 0.5}, code="default")
    add_rows(house, *_keys(3))
    portal = _portal(refusal("QUERY_LIMIT_EXCEEDED", "Too many requests", 503))
    world = world_of(house, portal)

    first = drain(world, Order())
    resting = (rows_of(house, tables.outbox), one(house, tables.bucket)["level"])
    time_passes(house)
    second = drain(world, Order())

    assert first == Tally(batches=1, deferred=3)
    assert {(r["state"], r["attempts"], r["deliveries"]) for r in resting[0]} == {("ready", 0, 1)}
    assert resting[1] == 1000
    assert second == Tally(batches=1, outcomes={"applied": 3})
    assert {result["attempt"] for result in rows_of(house, tables.result)} == {1}


def test_an_empty_bucket_makes_the_worker_leave_not_wait(house: Engine) -> None:
    """The rows stay ready, and the lane is due when a request fits again."""
    change(house, tables.portal, {"rate_x": 1, "rate_y": 0.01}, code="default")
    add_rows(house, *_keys(3))
    portal = _portal()
    began = time.monotonic()

    tally = drain(world_of(house, portal, batch_size=1), Order())

    assert tally == Tally(batches=1, outcomes={"applied": 1})
    assert len(portal.asked) == 1
    assert time.monotonic() - began < 10
    assert list(states(house).values()) == ["ready", "ready"]
    assert one(house, tables.lane)["next_due_at"] > rows_of(house, tables.outbox)[0]["created_at"]


def test_a_method_out_of_time_delays_its_own_rows_only(house: Engine) -> None:
    """The other methods of the batch are applied, and later rows of it are not even sent."""
    add_rows(house, "a", "b")
    _call(house, "slow 1")
    portal = ScriptedPortal(
        [Clerk(refused={"user.add": OUT_OF_TIME}), Clerk(), Clerk()],
    )
    world = world_of(house, portal)

    first = drain(world, Order())
    add_rows(house, "c")
    _call(house, "slow 2")
    second = drain(world, Order())
    waiting = rows_of(house, tables.outbox)
    blocked = one(house, tables.method_budget)
    time_passes(house)
    third = drain(world, Order())

    assert first == Tally(batches=1, outcomes={"applied": 2}, deferred=1)
    assert second == Tally(batches=1, outcomes={"applied": 1})
    assert [(row["entity_key"], row["attempts"]) for row in waiting] == [
        ("slow 1", 0),
        ("slow 2", 0),
    ]
    assert all(row["due_at"] > row["created_at"] for row in waiting)
    assert blocked["method"] == "user.add"
    assert third == Tally(batches=1, outcomes={"applied": 2})


def test_a_portal_that_was_not_reached_gets_everything_back_and_a_rest(house: Engine) -> None:
    """No attempt is charged, the strike is counted, and nobody tries again at once."""
    add_rows(house, *_keys(3))
    portal = _portal(requests.ConnectTimeout())
    world = world_of(house, portal)

    first = drain(world, Order())
    at_once = drain(world, Order())
    lane = one(house, tables.lane)
    rows = rows_of(house, tables.outbox)
    time_passes(house)
    later = drain(world, Order())

    assert first == Tally(batches=1, deferred=3)
    assert at_once == Tally()
    assert (lane["breaker"], lane["fail_streak"], lane["open_batch_id"]) == ("open", 1, None)
    assert {(row["state"], row["attempts"], row["deliveries"]) for row in rows} == {("ready", 0, 1)}
    assert [batch["state"] for batch in rows_of(house, tables.batch)] == ["returned", "answered"]
    assert later == Tally(batches=1, outcomes={"applied": 3})
    assert one(house, tables.lane)["fail_streak"] == 0


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (
            refusal("ACCESS_DENIED", "REST API is available only on commercial plans.", 403),
            "plan_lost",
            "ACCESS_DENIED: REST API is available only on commercial plans.",
        ),
        (refusal("NO_AUTH_FOUND", "Wrong", 401), "auth_lost", "NO_AUTH_FOUND: Wrong"),
        (refusal("OVERLOAD_LIMIT", "Blocked", 503), "overloaded", "OVERLOAD_LIMIT: Blocked"),
        (refusal("PORTAL_DELETED", "Gone", 500), "gone", "PORTAL_DELETED: Gone"),
        (refusal("NEW_CODE", "What?", 400), "misconfigured", "NEW_CODE: What?"),
        (
            Answer(status=302, headers={"Location": "https://moved.example/rest/1/hush/batch"}),
            "misconfigured",
            "the portal has moved to https://moved.example; add it anew under that address",
        ),
    ],
    ids=["no plan", "no credential", "overloaded", "deleted", "unlisted", "moved"],
)
def test_a_refusal_of_the_whole_request_pauses_the_portal_and_charges_nothing(
    lite_house: Engine, answer: Answer, state: str, reason: str
) -> None:
    """A person must act; until then nobody calls, and no row's patience is used up."""
    add_rows(lite_house, *_keys(3))
    portal = _portal(answer)
    world = world_of(lite_house, portal)

    first = drain(world, Order())
    time_passes(lite_house)
    second = drain(world, Order())

    found = one(lite_house, tables.portal)
    assert (found["state"], found["state_reason"]) == (state, reason)
    assert first == Tally(batches=1, deferred=3)
    assert second == Tally()
    assert len(portal.asked) == 1
    assert {(r["state"], r["attempts"]) for r in rows_of(lite_house, tables.outbox)} == {
        ("ready", 0)
    }


def test_a_moved_portal_is_named_and_its_new_host_is_sent_nothing(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """A redirect followed would hand the webhook to whoever the answer names."""
    add_rows(house, "a")
    with Sandbox(SandboxConfig()) as elsewhere:
        sandbox.add_fault("redirect", location=elsewhere.url)

        drain(connected, Order())

        portal = one(house, tables.portal)
        assert portal["state"] == "misconfigured"
        assert elsewhere.url in portal["state_reason"]
        assert elsewhere.requests() == []
    assert [row["attempts"] for row in rows_of(house, tables.outbox)] == [0]


def test_a_portal_that_a_person_stops_gets_not_one_request_more(house: Engine) -> None:
    """Whoever stops it has seen something; the worker that has its lane stops with the batch."""
    add_rows(house, *_keys(60))
    portal = _portal()

    def stop(_tally: Tally) -> None:
        with writing(house) as connection:
            tenants.pause(connection, "default", PortalState.PAUSED, reason="enough")

    tally = drain(world_of(house, portal), Order(), watching=stop)

    assert tally == Tally(batches=1, outcomes={"applied": 50})
    assert len(portal.asked) == 1
    assert {row["state"] for row in rows_of(house, tables.outbox)} == {"ready"}


def test_an_answer_that_was_recorded_before_is_counted_by_nobody_else(
    house: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows have their results; a run that comes late did nothing and says nothing else."""
    add_rows(house, "a")

    def closed_meanwhile(asked: Asked) -> Answer:
        values = {"state": "reconciled", "closed_at": 9}
        change(house, tables.batch, values)
        return Clerk(refused={"=a": ARGUMENT})(asked)

    with caplog.at_level(logging.INFO, logger="b24sync"):
        tally = drain(world_of(house, ScriptedPortal([closed_meanwhile])), Order())

    assert tally == Tally(batches=1)
    said = [record.getMessage().split()[0] for record in caplog.records]
    assert said == ["answer_late"]


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(f'{{"a": {"9" * 5000}}}', id="a number of thousands of digits"),
        pytest.param(f'{{"a": 1e{"9" * 20}}}', id="a number beyond all numbers"),
    ],
)
def test_a_number_that_nobody_can_read_stops_nobody_else(house: Engine, document: str) -> None:
    """Its row ends as a dead letter that can be replayed as it was; the next one is sent."""
    _is_unreadable_for_itself(house, document)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_tree_that_nobody_can_read_stops_nobody_else(house: Engine) -> None:
    """The same, where the database has no bound of its own for lists within lists."""
    _is_unreadable_for_itself(house, f'{{"a": {"[" * 4000}{"]" * 4000}}}')


def _is_unreadable_for_itself(house: Engine, document: str) -> None:
    statement = text(
        "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields) "
        "VALUES ('contact', 'bad', 'add', :fields)"
    )
    with writing(house) as connection:
        connection.execute(statement, {"fields": document})
    add_rows(house, "good")

    tally = drain(world_of(house, _portal()), Order())

    assert tally == Tally(batches=1, outcomes={"failed": 1, "applied": 1})
    letter = one(house, tables.dead)
    assert (letter["entity_key"], letter["error_code"]) == ("bad", "unreadable")
    assert letter["last_error"].startswith("unreadable: fields: ")
    with writing(house) as connection:
        dead_letters.replay(connection, [letter["id"]])
    assert one(house, tables.outbox)["fields"] == letter["fields"] == Unreadable(document)


def test_a_portal_without_a_credential_is_paused_with_what_to_do(house: Engine) -> None:
    """Nothing is claimed, nothing is sent."""
    add_rows(house, "a")

    tally = drain(world_of(house, ScriptedPortal([]), webhook_url=None), Order())

    portal = one(house, tables.portal)
    assert portal["state"] == "misconfigured"
    assert "b24sync portal add default" in portal["state_reason"]
    assert tally == Tally()
    assert rows_of(house, tables.batch) == []


def test_a_failing_server_is_tried_again_with_growing_delays_until_the_row_is_dead(
    house: Engine,
) -> None:
    """Each judgement costs an attempt; the letter keeps the first and the last complaint."""
    _link(house, "a")
    (row_id,) = add_rows(house, "a", operation="update")
    complaints = [("INTERNAL_SERVER_ERROR", text) for text in ("first", "second", "third")]
    portal = ScriptedPortal([Clerk(refused={"=a": complaint}) for complaint in complaints])
    world = world_of(house, portal, max_attempts=3, retry_base_s=100)
    world = replace(world, chance=lambda: 0.5)
    delays: list[int] = []

    for _ in range(2):
        drain(world, Order())
        row = one(house, tables.outbox)
        answered = max(b["answered_at"] for b in rows_of(house, tables.batch))
        delays.append(row["due_at"] - answered)
        time_passes(house)
    drain(world, Order())

    assert delays == [pytest.approx(50_000, abs=2_000), pytest.approx(100_000, abs=2_000)]
    assert rows_of(house, tables.outbox) == []
    outcomes = [(r["outcome"], r["attempt"]) for r in rows_of(house, tables.result)]
    assert outcomes == [("retried", 1), ("retried", 2), ("failed", 3)]
    letter = one(house, tables.dead)
    assert (letter["outbox_id"], letter["attempts"], letter["deliveries"]) == (row_id, 3, 3)
    assert letter["first_error"] == "INTERNAL_SERVER_ERROR: first"
    assert letter["last_error"] == "INTERNAL_SERVER_ERROR: third"
    assert letter["reason"] == "exhausted"


def test_an_add_that_failed_inside_the_portal_is_in_doubt_not_repeated(house: Engine) -> None:
    """A handler may fail after the record was made; repeating would make another."""
    add_rows(house, "a", operation="add")
    portal = ScriptedPortal([Clerk(refused={"=a": SORRY})])

    drain(world_of(house, portal), Order())

    assert states(house) == {"a": "doubt"}


def test_changes_of_one_entity_arrive_in_their_order(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """One by one, each after the answer to the one before; the last value stands."""
    with writing(house) as connection:
        for name in ("Ann", "Anna", "Annette"):
            add_row(connection, "c-1", fields={"name": name})
            add_row(connection, "c-2", fields={"name": name})

    tally = drain(connected, Order())

    assert tally == Tally(batches=3, outcomes={"applied": 6})
    written = [str(cast("Found", c.params["fields"])["name"]) for c in sandbox.journal()]
    assert written == ["Ann", "Ann", "Anna", "Anna", "Annette", "Annette"]
    assert [r["name"] for r in sandbox.records("contact").values()] == ["Annette", "Annette"]


def test_a_row_waits_for_the_entity_it_refers_to_and_goes_on_with_its_id(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """Written child first: the parent's id is known when the child is sent."""
    add_rows(house, "child", fields={"name": "Ann", "companyId": stored(Ref("company", "acme"))})
    before = drain(connected, Order())
    held = states(house)
    add_rows(house, "acme", kind="company", fields={"title": "Acme"})

    after = drain(connected, Order())

    assert (before, held) == (Tally(), {"child": "held"})
    assert after.outcomes == {"applied": 2}
    (company,) = sandbox.records("company")
    (contact,) = sandbox.records("contact").values()
    assert int(str(contact["companyId"])) == company


def test_text_that_looks_like_a_reference_travels_alone_and_arrives_unchanged(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """Inside a batch the portal would replace it by somebody else's answer."""
    add_rows(house, "a")
    add_rows(house, "b", fields={"name": "costs $result[c0][item][id] & more"})
    add_rows(house, "c")

    tally = drain(connected, Order())

    assert tally.outcomes == {"applied": 3}
    assert [(r.method, r.commands) for r in sandbox.requests()] == [
        ("batch", 2),
        ("crm.item.add", 1),
    ]
    names = sorted(str(record["name"]) for record in sandbox.records("contact").values())
    assert names == ["a", "c", "costs $result[c0][item][id] & more"]


def test_an_upsert_adds_what_is_unknown_and_updates_what_is_known(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """And a delete removes it; a second delete of a record that is gone is a success."""
    add_rows(house, "a", fields={"name": "Ann"})
    drain(connected, Order())
    add_rows(house, "a", fields={"name": "Anna"})
    drain(connected, Order())
    named = [record["name"] for record in sandbox.records("contact").values()]
    sandbox.call("crm.item.delete", {"entityTypeId": 3, "id": 1})
    add_rows(house, "a", operation="delete", fields=None)

    tally = drain(connected, Order())

    assert named == ["Anna"]
    assert tally == Tally(batches=1, outcomes={"applied": 1})
    assert one(house, tables.link)["state"] == "deleted"


def test_no_transaction_is_open_while_the_portal_is_waited_for(house: Engine) -> None:
    """A portal may take a minute; no connection is held and no lock with it."""
    add_rows(house, *_keys(3))
    held: list[int] = []

    def look(asked: Asked) -> Answer:
        held.append(cast("QueuePool", house.pool).checkedout())
        return Clerk()(asked)

    drain(world_of(house, ScriptedPortal([look])), Order())

    assert held == [0]


def test_a_full_batch_costs_a_bounded_number_of_statements(house: Engine) -> None:
    """Fifty commands down and their outcomes back: statements, not statements per row."""
    add_rows(house, *_keys(150))
    portal = _portal()
    counts: list[int] = []
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)

    event.listen(house, "before_cursor_execute", note)

    def watch(_tally: Tally) -> None:
        counts.append(len(statements))
        statements.clear()

    drain(world_of(house, portal), Order(), watching=watch)

    # Before the first pass the lane is found and taken, and the last finds nothing to send.
    assert len(counts) == 4
    assert max(counts[1:3]) <= STATEMENTS_PER_BATCH


def test_a_batch_that_was_never_sent_is_given_back_by_the_next_owner(house: Engine) -> None:
    """Its worker died between the journal and the go."""
    with writing(house) as connection:
        number = add_batch(connection, "journalled")
        add_row(connection, "a", state="batched", batch_id=number, cmd_no=0, deliveries=1)
    change(house, tables.lane, {"open_batch_id": number, "next_due_at": 0})

    tally = drain(world_of(house, _portal()), Order())

    assert tally.outcomes == {"applied": 1}
    assert [b["state"] for b in rows_of(house, tables.batch)] == ["returned", "answered"]


def test_a_batch_that_may_have_been_sent_is_doubted_by_the_next_owner(house: Engine) -> None:
    """Its worker died after the go; nobody knows what the portal did."""
    with writing(house) as connection:
        number = add_batch(connection, "sending")
        add_row(connection, "a", state="batched", batch_id=number, cmd_no=0, deliveries=1)
    change(house, tables.lane, {"open_batch_id": number, "next_due_at": 0})

    tally = drain(world_of(house, ScriptedPortal([])), Order())

    assert tally == Tally()
    assert states(house) == {"a": "doubt"}
    assert one(house, tables.lane)["open_batch_id"] is None


def test_an_answer_that_comes_after_the_lease_was_lost_still_counts(house: Engine) -> None:
    """The lane has another owner by then, who doubted the batch; the doubt is over."""
    (row_id,) = add_rows(house, "a")
    other: list[Tally] = []

    def slow(asked: Asked) -> Answer:
        change(house, tables.lane, {"lease_until": 0})
        other.append(drain(world_of(house, ScriptedPortal([])), Order()))
        assert states(house) == {"a": "doubt"}
        return Clerk()(asked)

    tally = drain(world_of(house, ScriptedPortal([slow])), Order())

    assert other == [Tally()]
    assert tally.outcomes == {"applied": 1}
    assert endings(house) == {row_id: ["applied"]}
    assert one(house, tables.batch)["state"] == "answered"


def test_a_worker_whose_lane_was_taken_over_before_the_go_sends_nothing(house: Engine) -> None:
    """Frozen between journal and go: another owner has the lane, and the rows, by then."""
    add_rows(house, "a")
    world = world_of(house, ScriptedPortal([]))
    happened: list[str] = []

    def journalled(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("INSERT INTO b24sync_batch"):
            happened.append("journalled")

    def connects(*_args: object) -> None:
        if happened == ["journalled"]:
            happened.append("usurped")
            change(house, tables.lane, {"lease_until": 0})
            taken(house, owner="usurper")

    event.listen(house, "before_cursor_execute", journalled)
    event.listen(house, "checkout", connects)

    tally = drain(world, Order())

    assert happened == ["journalled", "usurped"]
    assert tally == Tally()
    assert one(house, tables.batch)["state"] == "journalled"
    assert one(house, tables.lane)["lease_owner"] == "usurper"


def test_a_slice_ends_after_so_many_batches_and_says_that_there_is_more(house: Engine) -> None:
    """One task must not keep a worker for ever."""
    add_rows(house, *_keys(10))
    portal = _portal()
    world = world_of(house, portal, slice_batches=2, batch_size=3)

    first = drain(world, Order())
    rest = drain(world, Order())

    assert first == Tally(batches=2, outcomes={"applied": 6}, more=True)
    assert rest == Tally(batches=2, outcomes={"applied": 4}, more=False)


def test_a_slice_ends_after_so_many_seconds(house: Engine) -> None:
    """Time is asked before each batch, and an open one is finished."""
    add_rows(house, *_keys(3))
    portal = _portal()
    plain = world_of(house, portal, slice_s=30.0, batch_size=1)
    seconds = iter([0.0, 1.0, 2.0, 31.0, 32.0])
    world = replace(plain, clock=lambda: next(seconds))

    tally = drain(world, Order())

    assert tally == Tally(batches=1, outcomes={"applied": 1}, more=True)


def test_a_limit_is_kept_to_the_row(house: Engine) -> None:
    """Seven of ten, in batches of three: three, three and one."""
    add_rows(house, *_keys(10))
    portal = _portal()

    tally = drain(world_of(house, portal, batch_size=3), Order(limit=7))

    assert [len(asked.params["cmd"]) for asked in portal.asked] == [3, 3, 1]
    assert tally == Tally(batches=3, outcomes={"applied": 7}, more=True)
    assert len(rows_of(house, tables.outbox)) == 3


def test_a_run_for_some_kinds_leaves_the_others_and_ends(house: Engine) -> None:
    """Rows of other kinds keep the lane due, and must not keep the run busy."""
    add_rows(house, "a", "b")
    (deal,) = add_rows(house, "d", kind="deal", fields={"title": "D"})
    portal = _portal()
    began = time.monotonic()

    tally = drain(world_of(house, portal), Order(kinds=("deal",)))

    assert tally == Tally(batches=1, outcomes={"applied": 1})
    assert endings(house) == {deal: ["applied"]}
    assert states(house) == {"a": "ready", "b": "ready"}
    assert time.monotonic() - began < 10


def test_a_run_for_some_kinds_passes_from_lane_to_lane(house: Engine) -> None:
    """A lane without such rows does not hide the next."""
    add_portal(house, "aaa", vtime=-5)
    add_rows(house, "x", portal="aaa")
    (deal,) = add_rows(house, "d", kind="deal", fields={"title": "D"})
    world = world_of(house, _portal())

    drain(world, Order(kinds=("deal",)))

    assert endings(house) == {deal: ["applied"]}


def test_a_run_for_one_portal_leaves_the_others(house: Engine) -> None:
    """Which portal is asked for is all that is looked at."""
    add_portal(house, "other")
    add_rows(house, "x", portal="other")
    (mine,) = add_rows(house, "d")

    drain(world_of(house, _portal()), Order(portal="default"))

    assert endings(house) == {mine: ["applied"]}
    assert states(house) == {"x": "ready"}
    assert one(house, tables.portal, code="other")["state"] == "active"


def test_a_tenant_with_many_rows_does_not_starve_one_with_a_single_row(house: Engine) -> None:
    """Slice by slice, the portal that was served less comes first."""
    key = new_key()
    ring = Keyring.from_keys([key])
    for code in ("flood", "trickle"):
        secret = ring.encrypt("rest/1/hush/")
        address = f"https://{code}.example"
        add_portal(house, code, base_url=address, secret=secret, secret_key_id=ring.key_ids[0])
    add_rows(house, *_keys(40), portal="flood")
    add_rows(house, "single", portal="trickle")
    portal = _portal()
    plain = world_of(house, portal, secret_key=(key,), batch_size=2, slice_batches=4)
    world = replace(plain, keyring=ring)

    drain(world, Order())
    drain(world, Order())

    hosts = [asked.url.split("/")[2] for asked in portal.asked]
    assert hosts == [*["flood.example"] * 4, "trickle.example", *["flood.example"] * 3]


def test_a_worker_that_is_told_to_stop_finishes_its_batch_and_gives_the_lane_back(
    house: Engine,
) -> None:
    """A warm shutdown: nothing new is begun, nothing is left half done."""
    add_rows(house, *_keys(4))
    portal = _portal()
    seen: list[Tally] = []

    tally = drain(
        world_of(house, portal, batch_size=2),
        Order(),
        stopping=lambda: bool(seen),
        watching=seen.append,
    )

    assert seen == [Tally(batches=1, outcomes={"applied": 2})]
    assert tally == Tally(batches=1, outcomes={"applied": 2}, more=True)
    lane = one(house, tables.lane)
    assert (lane["lease_until"], lane["open_batch_id"]) == (None, None)


def test_nothing_to_do_is_nothing_done(house: Engine) -> None:
    """An idle run sends nothing and writes nothing of note."""
    tally = drain(world_of(house, ScriptedPortal([])), Order())

    assert tally == Tally()
    assert one(house, tables.lane)["lease_epoch"] == 0


@pytest.mark.parametrize("halt", [HaltMode.CHAIN, HaltMode.STRICT])
def test_a_halt_mode_that_is_not_there_is_refused(halt: HaltMode) -> None:
    """Better than quietly doing something else."""
    with pytest.raises(SettingsError, match="not available yet"):
        Order(halt=halt)


def test_no_log_line_and_no_table_holds_the_secret_of_the_webhook(
    house: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when all is well nor when the portal fails in its various ways."""
    caplog.set_level(logging.DEBUG)
    script = (
        requests.ConnectTimeout("https://portal.example/rest/1/hush/batch"),
        requests.ReadTimeout("https://portal.example/rest/1/hush/batch"),
        Answer(status=302, headers={"Location": "https://moved.example/rest/1/hush/batch"}),
    )
    world = world_of(house, ScriptedPortal(script))

    for number in range(3):
        add_rows(house, f"k{number}")
        drain(world, Order())
        time_passes(house)

    stored_texts = [str(rows_of(house, table)) for table in tables.metadata.tables.values()]
    assert "hush" not in caplog.text
    assert not any("hush" in text for text in stored_texts)
    assert "portal_unreachable" in caplog.text


def _lines() -> st.SearchStrategy[Callable[[], Line]]:
    """What a portal may say, made anew for each run."""
    return st.sampled_from(
        [
            Clerk,
            Clerk,
            lambda: Clerk(refused={"k0": ARGUMENT, "k3": OUT_OF_TIME}),
            lambda: Clerk(refused={"k1": SORRY, "k2": ("QUERY_LIMIT_EXCEEDED", "")}),
            lambda: Clerk(silent=["k4", "k5"]),
            lambda: HTML,
            lambda: Answer(body=b'{"result":{'),
            lambda: Answer(body=[]),
            lambda: batch_answer([], []),
            lambda: refusal("QUERY_LIMIT_EXCEEDED", "", 503),
            requests.ConnectTimeout,
            requests.ReadTimeout,
        ]
    )


@settings(max_examples=25, deadline=None)
@given(
    script=st.lists(_lines(), max_size=8),
    writes=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([f"k{number}" for number in range(8)]),
                st.sampled_from(["upsert", "update", "delete"]),
            ),
            max_size=12,
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_every_row_is_unfinished_or_has_one_final_result(
    sqlite_original: Path,
    tmp_path_factory: pytest.TempPathFactory,
    script: list[Callable[[], Line]],
    writes: list[list[tuple[str, str]]],
) -> None:
    """Enqueued is final and unfinished together, after every pass, whatever the portal says."""
    file = tmp_path_factory.mktemp("accounting") / "b24sync.db"
    shutil.copy(sqlite_original, file)
    engine = make_engine(f"sqlite:///{file}")
    add_portal(engine)
    portal = _portal(*(line() for line in script))
    world = world_of(engine, portal, batch_size=3, max_attempts=2, slice_batches=4)
    enqueued: set[int] = set()

    for rows in writes:
        with writing(engine) as connection:
            enqueued |= {add_row(connection, key, operation=how) for key, how in rows}
        drain(world, Order())
        time_passes(engine)

        finals = endings(engine)
        unfinished = {row["id"] for row in rows_of(engine, tables.outbox)}
        assert finals.keys() | unfinished == enqueued
        assert not finals.keys() & unfinished
        assert all(len(outcomes) == 1 for outcomes in finals.values())
        assert not rows_of(engine, tables.outbox, state="batched")
        assert one(engine, tables.lane)["open_batch_id"] is None
        dead = {row["outbox_id"] for row in rows_of(engine, tables.dead)}
        assert dead == {row_id for row_id, outcomes in finals.items() if outcomes == ["failed"]}
    engine.dispose()


def test_commands_are_labelled_so_that_no_answer_is_a_list(house: Engine) -> None:
    """A numeric label would lose its command where a portal answers with a list."""
    add_rows(house, "a", "b")
    portal = _portal()

    drain(world_of(house, portal), Order())

    labels = list(commands_of(portal.asked[0]))
    assert labels == ["c0", "c1"]
