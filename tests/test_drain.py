"""One pass and many, from the outbox to the portal and back, on every database."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import cast

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, QueuePool, event, insert, text

from b24sync.core.model import HaltMode, PortalState, Ref, Unreadable
from b24sync.core.policies import Policy
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
    HaltingClerk,
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
ONE_BY_ONE = {"*": Policy(merge=False)}
SORRY = ("INTERNAL_SERVER_ERROR", "Internal server error")
HTML = Answer(body=b"<html><h1>502 Bad Gateway</h1></html>", status=502)


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
    assert (lane["breaker"], lane["fail_streak"]) == ("half_open", 1)


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
    assert [asked.commands for asked in sandbox.requests()] == [3, 1]


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
    blocked = one(house, tables.method_budget, method="user.add")
    time_passes(house)
    third = drain(world, Order())

    assert first == Tally(batches=1, outcomes={"applied": 2}, deferred=1)
    assert second == Tally(batches=1, outcomes={"applied": 1})
    assert [(row["entity_key"], row["attempts"]) for row in waiting] == [
        ("slow 1", 0),
        ("slow 2", 0),
    ]
    assert all(row["due_at"] > row["created_at"] for row in waiting)
    assert blocked["blocked_until"] > waiting[0]["created_at"]
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
            (
                "HTTP_302: the portal redirects to https://moved.example, which is not among the "
                "trusted hosts; if that is its own: `b24sync portal move default --to moved.example`"
            ),
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


def test_a_worker_without_the_key_leaves_the_portal_to_those_that_have_it(
    house: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker that was deployed with another key must not stop a portal for all."""
    keyring = Keyring.from_keys([new_key()])
    secret = keyring.encrypt("rest/1/hush/")
    values = {"secret": secret, "secret_key_id": keyring.key_ids[0]}
    change(house, tables.portal, values, code="default")
    (row_id,) = add_rows(house, "a")
    portal = _portal(Clerk())
    world = world_of(house, portal, webhook_url=None)

    astray = drain(replace(world, keyring=Keyring.from_keys([new_key()])), Order())

    assert (astray, portal.asked) == (Tally(), [])
    assert "key_missing portal=default lane=0" in caplog.text
    assert one(house, tables.portal)["state"] == "active"
    drain(replace(world, keyring=keyring), Order())
    assert endings(house) == {row_id: ["applied"]}


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


def test_changes_of_one_entity_arrive_in_their_order(house: Engine, sandbox: Sandbox) -> None:
    """One by one, each after the answer to the one before; the last value stands."""
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=ONE_BY_ONE)
    _rename_twice(house)

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(batches=3, outcomes={"applied": 6})
    written = [str(cast("Found", c.params["fields"])["name"]) for c in sandbox.journal()]
    assert written == ["Ann", "Ann", "Anna", "Anna", "Annette", "Annette"]
    assert [r["name"] for r in sandbox.records("contact").values()] == ["Annette", "Annette"]


def test_changes_of_one_entity_that_wait_together_go_as_one(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """The last value is all that the portal sees, and each row has a result of its own."""
    ids = _rename_twice(house)

    tally = drain(connected, Order())

    assert tally == Tally(batches=1, outcomes={"applied": 2, "merged": 4})
    written = [str(cast("Found", c.params["fields"])["name"]) for c in sandbox.journal()]
    assert written == ["Annette", "Annette"]
    assert [r["name"] for r in sandbox.records("contact").values()] == ["Annette", "Annette"]
    found = {
        r["outbox_id"]: (r["outcome"], r["merged_into"]) for r in rows_of(house, tables.result)
    }
    first, other = ids[:2]
    assert found == {first: ("applied", None), other: ("applied", None)} | {
        row_id: ("merged", (first, other)[place % 2]) for place, row_id in enumerate(ids[2:])
    }


def _rename_twice(engine: Engine) -> list[int]:
    """Two contacts by turns, each named three times; the ids of the rows."""
    with writing(engine) as connection:
        return [
            add_row(connection, key, fields={"name": name})
            for name in ("Ann", "Anna", "Annette")
            for key in ("c-1", "c-2")
        ]


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
    change(house, tables.batch, {"quiet_until": 10**15})

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
    # At the beginning, before a lane, when it is taken, before its doubts, before its batch; then it
    # is over: before another batch, when the lane is released, and before another lane.
    seconds = iter([0.0, 1.0, 1.5, 2.0, 3.0, 31.0, 31.5, 32.0])
    world = replace(plain, clock=lambda: next(seconds))

    tally = drain(world, Order())

    assert tally == Tally(batches=1, outcomes={"applied": 1}, more=True)
    assert one(house, tables.lane)["vtime"] == 31.5 - 1.5


def test_a_limit_is_kept_to_the_row(house: Engine) -> None:
    """Seven of ten, in batches of three: three, three and one."""
    add_rows(house, *_keys(10))
    portal = _portal()

    tally = drain(world_of(house, portal, batch_size=3), Order(limit=7))

    assert [len(asked.params["cmd"]) for asked in portal.asked] == [3, 3, 1]
    assert tally == Tally(batches=3, outcomes={"applied": 7}, more=True)
    assert len(rows_of(house, tables.outbox)) == 3


def test_a_limit_is_kept_where_more_rows_would_go_as_one(house: Engine) -> None:
    """Who asks for two rows gets two, one after the other, and no third merged into them."""
    ids = add_rows(house, "a", "a", "a")
    portal = _portal()

    tally = drain(world_of(house, portal), Order(limit=2))

    assert tally == Tally(batches=2, outcomes={"applied": 2}, more=True)
    assert endings(house) == {ids[0]: ["applied"], ids[1]: ["applied"]}


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
            HaltingClerk,
            lambda: HaltingClerk({"k0": [ARGUMENT], "k3": [OUT_OF_TIME]}),
            lambda: HaltingClerk({"k2": [SORRY]}, silent=["k5"]),
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
    order=st.sampled_from([Order(), *(Order(halt=mode) for mode in HaltMode)]),
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
    order: Order,
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
        drain(world, order)
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
    ids = add_rows(house, "a", "b")
    portal = _portal()

    drain(world_of(house, portal), Order())

    labels = list(commands_of(portal.asked[0]))
    assert labels == [f"r{row_id}" for row_id in ids]


MANY = 10_000


def _write_many(engine: Engine, *, barrier_at: int | None = None) -> list[int]:
    """Ten thousand updates of one contact, of which one may have to be by itself; their ids."""
    rows = [
        {
            "kind": "contact",
            "entity_key": "c-1",
            "operation": "update",
            "fields": {"name": f"n{number}", f"part{number % 7}": number},
            "mergeable": number != barrier_at,
        }
        for number in range(MANY)
    ]
    with writing(engine) as connection:
        connection.execute(insert(tables.outbox), rows)
    return [row["id"] for row in rows_of(engine, tables.outbox)]


def _linked_record(engine: Engine, sandbox: Sandbox, key: str, **fields: object) -> int:
    """A contact that is on the portal already, and known."""
    params = {"entityTypeId": 3, "fields": {"name": "old"} | fields}
    record = cast("Found", sandbox.call("crm.item.add", params))["item"]
    link = {"portal": "default", "kind": "contact", "entity_key": key, "state": "present"}
    with writing(engine) as connection:
        connection.execute(insert(tables.link), link | {"remote_id": str(record["id"])})
    return int(record["id"])


def _parts(record: Mapping[str, object]) -> dict[str, int]:
    """The parts of the name that the many updates have written."""
    return {f"part{n}": int(str(record[f"part{n}"])) for n in range(7)}


def test_ten_thousand_updates_of_one_entity_are_a_handful_of_commands(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """The portal gets the last value of every field, and every row has its end."""
    record_id = _linked_record(house, sandbox, "c-1")
    ids = _write_many(house)

    tally = drain(connected, Order())

    assert [(r.method, r.commands) for r in sandbox.requests()] == [("batch", 1), ("batch", 1)]
    assert tally.outcomes == {"applied": 2, "merged": MANY - 2}
    record = sandbox.records("contact")[record_id]
    assert record["name"] == f"n{MANY - 1}"
    last = {number % 7: number for number in range(MANY)}
    assert _parts(record) == {f"part{n}": last[n] for n in range(7)}
    found = endings(house)
    assert sorted(found) == ids
    assert {found[ids[0]][0], found[ids[5000]][0]} == {"applied"}
    assert all(found[row_id] == ["merged"] for row_id in (*ids[1:5000], *ids[5001:]))
    into = {r["outbox_id"]: r["merged_into"] for r in rows_of(house, tables.result)}
    assert {into[row_id] for row_id in ids[1:5000]} == {ids[0]}
    assert {into[row_id] for row_id in ids[5001:]} == {ids[5000]}
    assert rows_of(house, tables.outbox) == []
    assert sum(row["n"] for row in rows_of(house, tables.rollup)) == MANY


def test_a_row_that_is_not_to_be_merged_parts_ten_thousand(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """What was before it is said before it, what comes after is said after it."""
    record_id = _linked_record(house, sandbox, "c-1")
    barrier_at = MANY // 2 + 3
    ids = _write_many(house, barrier_at=barrier_at)

    tally = drain(connected, Order())

    names = [cast("Found", c.params["fields"])["name"] for c in sandbox.journal()]
    assert names == ["n4999", "n5002", "n5003", "n9999"]
    assert [r.commands for r in sandbox.requests()] == [1, 1, 1, 1]
    assert tally.outcomes == {"applied": 4, "merged": MANY - 4}
    alone = cast("Found", sandbox.journal()[2].params["fields"])
    assert alone == {"name": "n5003", f"part{barrier_at % 7}": str(barrier_at)}
    assert sandbox.records("contact")[record_id]["name"] == f"n{MANY - 1}"
    found = endings(house)
    assert sorted(found) == ids
    applied = [ids.index(row_id) for row_id in ids if found[row_id] == ["applied"]]
    assert applied == [0, 5000, barrier_at, barrier_at + 1]


PHONE_FORMS = [
    pytest.param("contact", {"fm": {"PHONE": ["+1", "+2"]}}, id="by type"),
    pytest.param(
        "contact",
        {
            "fm": [
                {"typeId": "PHONE", "value": "+1", "valueType": "WORK"},
                {"typeId": "PHONE", "value": "+2"},
            ]
        },
        id="a list with types",
    ),
    pytest.param(
        "contact",
        {"fm": {"PHONE": ["+2", {"value": "+1", "valueType": "WORK"}, "+2"]}},
        id="by type, turned round",
    ),
    pytest.param("crm.contact", {"PHONE": ["+1", "+2"]}, id="classic"),
    pytest.param(
        "crm.contact",
        {"PHONE": [{"VALUE": "+1", "VALUE_TYPE": "WORK"}, "+2"]},
        id="classic, with a type",
    ),
]


def _phones(sandbox: Sandbox) -> list[str]:
    """The phone numbers of the only contact, sorted."""
    (record,) = sandbox.records("contact").values()
    rows = cast("list[Found]", record.get("fm") or [])
    return sorted(row["value"] for row in rows if row["typeId"] == "PHONE")


@pytest.mark.parametrize("trouble", ["none", "too many requests", "an error that passes"])
@pytest.mark.parametrize(("kind", "fields"), PHONE_FORMS)
def test_a_value_of_a_multi_value_field_is_never_there_twice(
    lite_house: Engine, sandbox: Sandbox, kind: str, fields: Found, trouble: str
) -> None:
    """Said again, said in another form, tried again: the record holds each value once, always."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url, policies=ONE_BY_ONE)
    first = {"fm": {"PHONE": "+1"}} if kind == "contact" else {"PHONE": "+1"}
    add_rows(lite_house, "a", kind=kind, fields=first)
    drain(world, Order())
    held = [_phones(sandbox)]
    update = "crm.item.update" if kind == "contact" else "crm.contact.update"

    for _ in range(3):
        if trouble == "too many requests":
            sandbox.add_fault("error", code="QUERY_LIMIT_EXCEEDED", skip=1)
        elif trouble == "an error that passes":
            sandbox.add_fault("command", method=update, code=SORRY[0], executed=True)
        add_rows(lite_house, "a", kind=kind, operation="update", fields=fields)
        for _ in range(3):
            drain(world, Order())
            held.append(_phones(sandbox))
            time_passes(lite_house)
    world.client.close()

    assert held[0] == ["+1"]
    assert held[-1] == ["+1", "+2"]
    assert all(len(set(phones)) == len(phones) for phones in held)
    assert states(lite_house) == {}
    outcomes = [row["outcome"] for row in rows_of(lite_house, tables.result, operation="update")]
    assert {o for o in outcomes if o != "retried"} <= {"applied", "unchanged"}
    # What is there already is read and not written.
    writes = [c for c in sandbox.journal() if c.method == update and c.executed]
    assert len(writes) == 1


def test_values_that_wait_together_are_said_once(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """The last word counts, type by type, and nothing of it is appended to what is there."""
    _linked_record(
        house, sandbox, "a", fm=[{"typeId": "PHONE", "value": "+0", "valueType": "WORK"}]
    )
    with writing(house) as connection:
        for values in ({"PHONE": ["+1"]}, {"EMAIL": ["a@b.c"]}, {"PHONE": ["+1", "+2"]}):
            add_row(connection, "a", operation="update", fields={"fm": values})

    tally = drain(connected, Order())

    assert tally == Tally(batches=1, looks=1, outcomes={"applied": 1, "merged": 2})
    (record,) = sandbox.records("contact").values()
    held = sorted((r["typeId"], r["value"]) for r in cast("list[Found]", record["fm"]))
    assert held == [("EMAIL", "a@b.c"), ("PHONE", "+1"), ("PHONE", "+2")]


def test_after_a_lost_answer_values_are_not_said_again_by_themselves(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """The portal did the work; the row is in doubt, and nothing is sent while it may go on."""
    _linked_record(house, sandbox, "a")
    sandbox.add_fault("reset", executed=True, method="crm.item.update")
    add_rows(house, "a", operation="update", fields={"fm": {"PHONE": ["+1"]}})

    tally = drain(connected, Order())
    time_passes(house)
    again = drain(connected, Order())

    assert tally == Tally(batches=1, looks=1, outcomes={"unknown": 1})
    assert again == Tally()
    assert states(house) == {"a": "doubt"}
    assert _phones(sandbox) == ["+1"]
    assert one(house, tables.link)["sent_fields"] is None


def test_a_field_that_the_portal_does_not_know_is_told_by_its_name(house: Engine) -> None:
    """The portal says yes to everything; the record that is read afterwards does not."""
    with Sandbox(SandboxConfig(strict_fields=True)) as strict:
        verify = {"contact": Policy(verify=True)}
        world = world_of(house, webhook_url=strict.webhook_url, policies=verify)
        good, typo = add_rows(house, "good", "typo")
        change(house, tables.outbox, {"fields": {"name": "Ann", "pots": "boss"}}, id=typo)

        tally = drain(world, Order())
        add_rows(house, "good", operation="update", fields={"name": "Anna", "post": "boss"})
        update = drain(world, Order())
        world.client.close()

    assert tally == Tally(batches=1, outcomes={"applied": 1, "different": 1})
    assert update == Tally(batches=1, outcomes={"applied": 1})
    assert endings(house)[good] == ["applied"]
    result = one(house, tables.result, outbox_id=typo)
    assert (result["outcome"], result["final"]) == ("different", True)
    assert result["error_text"] == "pots: not a field of the record"
    assert one(house, tables.link, entity_key="typo")["remote_id"] == result["remote_id"]
    assert [r.commands for r in strict.requests()] == [2, 2, 1, 1]


def test_values_that_are_not_there_afterwards_are_told_too(house: Engine) -> None:
    """The portal made something else of a phone number; the difference names both."""

    def read(asked: Asked) -> Answer:
        (label,) = commands_of(asked)
        phone = {"id": 9, "typeId": "PHONE", "valueType": "WORK", "value": "+7"}
        return batch_answer({label: {"item": {"id": 1, "name": "Ann", "fm": [phone]}}})

    verify = {"contact": Policy(verify=True)}
    add_rows(house, "a", fields={"name": "Ann", "fm": {"PHONE": ["+1"]}})

    drain(world_of(house, ScriptedPortal([Clerk(), read]), policies=verify), Order())

    result = one(house, tables.result)
    assert result["outcome"] == "different"
    assert result["error_text"] == "fm: wanted '{PHONE: [+1]}', found '+7'"


def test_a_verification_that_is_lost_leaves_the_answer_as_it_was(
    house: Engine, sandbox: Sandbox
) -> None:
    """What was applied is applied; nothing is in doubt because a reading failed."""
    verify = {"contact": Policy(verify=True)}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=verify)
    sandbox.add_fault("html", method="crm.item.get")
    add_rows(house, "a")

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(batches=1, outcomes={"applied": 1})


def test_what_was_said_last_is_not_said_again(house: Engine, sandbox: Sandbox) -> None:
    """No request at all, and a result that says so; another value, or another field, is sent."""
    spare = {"contact": Policy(skip_unchanged=True)}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=spare)
    said: list[tuple[int, Mapping[str, int]]] = []
    for fields in (
        {"name": "Ann", "post": "boss"},
        {"name": "Ann", "post": "boss"},
        {"post": "boss"},
        {"post": "none"},
        {"post": "boss"},
        {"name": "Ann", "comments": "c"},
        {"comments": "c", "name": "Ann", "post": "boss"},
    ):
        add_rows(house, "a", fields=fields)
        tally = drain(world, Order())
        said.append((tally.requests, tally.outcomes))
    world.client.close()

    sent, spared = (1, {"applied": 1}), (0, {"unchanged": 1})
    assert said == [sent, spared, spared, sent, sent, sent, spared]
    unchanged = rows_of(house, tables.result, outcome="unchanged")
    assert {(r["final"], r["batch_id"], r["method"]) for r in unchanged} == {(True, None, None)}
    assert len(sandbox.requests()) == 4


def test_unchanged_rows_that_were_merged_have_their_ends(house: Engine, sandbox: Sandbox) -> None:
    """Three that say together what was said before: one unchanged, two merged into it."""
    spare = {"contact": Policy(skip_unchanged=True)}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=spare)
    add_rows(house, "a", fields={"name": "Ann"})
    drain(world, Order())
    with writing(house) as connection:
        for name in ("Anna", "Annette", "Ann"):
            add_row(connection, "a", fields={"name": name})

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(outcomes={"unchanged": 1, "merged": 2})
    assert (states(house), len(sandbox.requests())) == ({}, 1)


def test_after_a_doubt_the_same_is_said_again(house: Engine, sandbox: Sandbox) -> None:
    """Nobody knows what the record holds, so nothing is spared any more."""
    spare = {"contact": Policy(skip_unchanged=True, merge=False)}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=spare)
    add_rows(house, "a", fields={"name": "Ann"})
    drain(world, Order())
    sandbox.add_fault("html", method="crm.item.update", executed=True)
    add_rows(house, "a", fields={"name": "Anna"})
    drain(world, Order())
    with writing(house) as connection:
        connection.execute(tables.outbox.delete())
    add_rows(house, "a", fields={"name": "Ann"})
    time_passes(house)

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(batches=1, outcomes={"applied": 1})
    assert [r["name"] for r in sandbox.records("contact").values()] == ["Ann"]


@pytest.mark.parametrize("by", ["marker", "secondName"])
def test_a_record_that_is_there_already_is_adopted_and_not_made_again(
    house: Engine, sandbox: Sandbox, by: str
) -> None:
    """Found by the external key, or by a field: it is linked, and the change is an update of it."""
    fields = {"name": "old", "originatorId": "b24sync", "originId": "contact:a", "secondName": "x"}
    sandbox.call("crm.item.add", {"entityTypeId": 3, "fields": {"name": "other"}})
    sandbox.call("crm.item.add", {"entityTypeId": 3, "fields": fields})
    match = {"contact": Policy(match=by)}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=match)
    add_rows(house, "a", fields={"name": "Ann", "secondName": "x"})
    add_rows(house, "b", fields={"name": "Bob", "secondName": "y"})

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(batches=1, looks=1, outcomes={"applied": 2})
    links = {row["entity_key"]: row["remote_id"] for row in rows_of(house, tables.link)}
    assert links == {"a": "2", "b": "3"}
    names = [str(record["name"]) for record in sandbox.records("contact").values()]
    assert names == ["other", "Ann", "Bob"]
    methods = [command.method for command in sandbox.journal()]
    assert methods == ["crm.item.list"] * 2 + ["crm.item.update", "crm.item.add"]


def test_several_records_that_match_are_nobodys(house: Engine, sandbox: Sandbox) -> None:
    """Which one is meant is for a person to say; nothing is made, nothing is changed."""
    for _ in range(2):
        sandbox.call("crm.item.add", {"entityTypeId": 3, "fields": {"name": "Ann"}})
    match = {"contact": Policy(match="name")}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=match)
    add_rows(house, "a", fields={"name": "Ann"})

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(looks=1, outcomes={"failed": 1})
    letter = one(house, tables.dead)
    assert letter["error_code"] == "several_matches"
    assert "2 records of the portal match by name: 1, 2" in letter["last_error"]
    assert rows_of(house, tables.link) == []


def test_a_record_that_belongs_to_another_key_is_not_taken_from_it(
    house: Engine, sandbox: Sandbox
) -> None:
    """Two keys that mean one record are a mistake that a person must see."""
    match = {"contact": Policy(match="name")}
    world = world_of(house, webhook_url=sandbox.webhook_url, policies=match)
    add_rows(house, "a", fields={"name": "Ann"})
    drain(world, Order())
    add_rows(house, "b", fields={"name": "Ann"})

    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(looks=1, outcomes={"failed": 1})
    assert one(house, tables.dead)["error_code"] == "link_conflict"
    assert [row["entity_key"] for row in rows_of(house, tables.link)] == ["a"]


def test_a_look_is_followed_by_its_batch_however_short_the_slice(
    house: Engine, sandbox: Sandbox
) -> None:
    """What was read is forgotten with the lane, and would be read for ever."""
    match = {"contact": Policy(match="marker")}
    world = world_of(
        house, webhook_url=sandbox.webhook_url, policies=match, slice_batches=1, batch_size=2
    )
    fields = {"name": "old", "originatorId": "b24sync", "originId": "contact:k000"}
    sandbox.call("crm.item.add", {"entityTypeId": 3, "fields": fields})
    add_rows(house, *_keys(3), fields={"fm": {"PHONE": ["+1"]}})

    tallies = [drain(world, Order()) for _ in range(2)]
    world.client.close()

    assert [tally.batches for tally in tallies] == [1, 1]
    assert states(house) == {}
    assert len(sandbox.records("contact")) == 3


@pytest.mark.parametrize(
    ("silence", "breaker", "losses"),
    [
        pytest.param(HTML, "half_open", 1, id="a page"),
        pytest.param(requests.ReadTimeout(), "half_open", 1, id="silence"),
        pytest.param(requests.ConnectTimeout(), "open", 0, id="not reached"),
    ],
)
def test_a_look_that_is_not_answered_costs_no_attempt_and_the_portal_is_left_alone(
    lite_house: Engine, silence: Line, breaker: str, losses: int
) -> None:
    """Nothing was changed, so nothing is in doubt; the rows are where they were."""
    match = {"contact": Policy(match="marker")}
    portal = _portal(silence)
    add_rows(lite_house, "a", "b")

    tally = drain(world_of(lite_house, portal, policies=match), Order())

    assert tally.batches == 0
    assert len(portal.asked) == 1
    rows = rows_of(lite_house, tables.outbox)
    assert {(row["state"], row["attempts"], row["deliveries"]) for row in rows} == {("ready", 0, 0)}
    assert {row["losses"] for row in rows} == {losses}
    assert rows_of(lite_house, tables.result) == rows_of(lite_house, tables.batch) == []
    lane = one(lite_house, tables.lane)
    assert (lane["breaker"], lane["fail_streak"]) == (breaker, 1)


@pytest.mark.parametrize("halt", HaltMode)
def test_a_question_that_meets_trouble_of_the_server_is_put_again_later(
    house: Engine, sandbox: Sandbox, connected: World, halt: HaltMode
) -> None:
    """Its row is put off at no charge, with what was said; only strictly do the others wait too."""
    world = replace(connected, chance=lambda: 0.5)
    for key in ("a", "b"):
        _linked_record(house, sandbox, key)
        add_rows(house, key, operation="update", fields={"fm": {"PHONE": ["+1"]}})
    sandbox.add_fault("command", method="crm.item.get", code=SORRY[0], text=SORRY[1])

    drain(world, Order(halt=halt))
    left = rows_of(house, tables.outbox)
    asked = len(sandbox.requests())
    if halt is not HaltMode.STRICT:
        drain(world, Order(halt=halt))
    at_once = len(sandbox.requests())
    time_passes(house)
    drain(world, Order(halt=halt))

    if halt is HaltMode.STRICT:
        assert [row["entity_key"] for row in left] == ["a", "b"]
    else:
        (row,) = left
        assert row["last_error"] == "INTERNAL_SERVER_ERROR: Internal server error"
        assert 4_000 < row["due_at"] - row["created_at"] < 20_000
    assert {(row["state"], row["attempts"], row["deliveries"]) for row in left} == {("ready", 0, 0)}
    assert at_once == asked
    assert states(house) == {}
    assert {tuple(outcomes) for outcomes in endings(house).values()} == {("applied",)}


def test_a_question_that_is_refused_for_good_ends_its_row(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """What may not be read cannot be written with care; nothing is sent, and a letter says why."""
    _linked_record(house, sandbox, "a")
    add_rows(house, "a", operation="update", fields={"fm": {"PHONE": ["+1"]}})
    sandbox.add_fault("command", method="crm.item.get", code="ACCESS_DENIED", text="Access denied.")

    tally = drain(connected, Order())

    assert tally == Tally(looks=1, outcomes={"failed": 1})
    letter = one(house, tables.dead)
    assert (letter["error_code"], letter["deliveries"]) == ("cannot_read", 0)
    assert "ACCESS_DENIED Access denied." in letter["last_error"]


@pytest.mark.parametrize(
    "fields", [{"name": "Anna"}, {"name": "Anna", "fm": {"PHONE": ["+1"]}}], ids=["plain", "values"]
)
def test_a_record_that_is_gone_is_made_anew_by_an_upsert(
    house: Engine, sandbox: Sandbox, connected: World, fields: Found
) -> None:
    """Somebody deleted it on the portal: another life begins, under another marker."""
    add_rows(house, "a", fields={"name": "Ann"})
    drain(connected, Order())
    before = one(house, tables.link)
    sandbox.call("crm.item.delete", {"entityTypeId": 3, "id": 1})
    (row_id,) = add_rows(house, "a", fields=fields)

    tally = drain(connected, Order())

    assert tally.outcomes == {"retried": 1, "applied": 1}
    after = one(house, tables.link)
    (record,) = sandbox.records("contact").values()
    assert (before["remote_id"], before["generation"]) == ("1", 0)
    assert (after["remote_id"], after["generation"], after["state"]) == ("2", 1, "present")
    assert (record["name"], record["originId"]) == ("Anna", "contact:a#1")
    assert endings(house)[row_id] == ["applied"]
    results = rows_of(house, tables.result, outbox_id=row_id)
    assert [(r["outcome"], r["method"], r["error_code"]) for r in results] == [
        ("retried", "crm.item.update", "NOT_FOUND"),
        ("applied", "crm.item.add", None),
    ]
    if "fm" in fields:
        assert _phones(sandbox) == ["+1"]


def test_several_rows_of_a_record_that_is_gone_end_in_one_new_record(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """Refused as one, made anew as one, with the last values; each row has one end."""
    add_rows(house, "a", fields={"name": "Ann"})
    drain(connected, Order())
    sandbox.call("crm.item.delete", {"entityTypeId": 3, "id": 1})
    with writing(house) as connection:
        ids = [
            add_row(connection, "a", fields={"name": name, "post": post})
            for name, post in (("Anna", "p"), ("Annette", "q"), ("Annabel", "r"))
        ]

    drain(connected, Order())

    (record,) = sandbox.records("contact").values()
    assert (record["name"], record["post"]) == ("Annabel", "r")
    assert (record["id"], record["originId"]) == (2, "contact:a#1")
    found = endings(house)
    assert all(found[row_id] in (["applied"], ["merged"]) for row_id in ids)
    assert (states(house), one(house, tables.link)["generation"]) == ({}, 1)


def test_an_update_of_a_record_that_is_gone_fails_and_the_next_upsert_makes_it(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """Only an upsert may make what is not there; the link is forgotten either way."""
    add_rows(house, "a", fields={"name": "Ann"})
    drain(connected, Order())
    sandbox.call("crm.item.delete", {"entityTypeId": 3, "id": 1})
    add_rows(house, "a", operation="update", fields={"name": "Anna"})

    failed = drain(connected, Order())
    state = one(house, tables.link)["state"]
    add_rows(house, "a", fields={"name": "Annette"})
    made = drain(connected, Order())

    assert (failed.outcomes, state, made.outcomes) == ({"failed": 1}, "deleted", {"applied": 1})
    (record,) = sandbox.records("contact").values()
    assert (record["name"], record["originId"]) == ("Annette", "contact:a#1")
