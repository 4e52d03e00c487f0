"""How portals stand: counts and ages are those of the tables."""

import pytest
from sqlalchemy import Engine, insert

from b24sync.edge import tables, views
from b24sync.edge.database import reading, writing
from b24sync.edge.views import Backlog, LaneView, Overview
from tests.house import FAR_MS, add_portal, add_rows, change, database_now

MINUTE_MS = 60_000


def overview(engine: Engine) -> Overview:
    """The overview in a transaction of its own."""
    with reading(engine) as connection:
        return views.overview(connection)


def test_unfinished_rows_are_counted_by_where_they_stand(engine: Engine) -> None:
    """Ready rows that are due later are told apart from those due now."""
    add_rows(engine, "a", "b", due_at=0)
    add_rows(engine, "c", due_at=database_now(engine) + FAR_MS)
    add_rows(engine, "d", state="held", waits_for="company x")
    add_rows(engine, "e", state="parked")
    add_rows(engine, "f", state="batched", batch_id=1, cmd_no=0)
    add_rows(engine, "g", state="doubt", batch_id=1, cmd_no=1)

    backlog = overview(engine).backlogs["default"]

    assert (backlog.ready, backlog.later) == (2, 1)
    assert (backlog.held, backlog.parked, backlog.batched, backlog.doubt) == (1, 1, 1, 1)
    assert backlog.total == 7


def test_the_oldest_due_row_tells_how_long_nobody_came(engine: Engine) -> None:
    """Rows that are not due yet do not count, however old they are."""
    now = database_now(engine)
    add_rows(engine, "due", due_at=0, created_at=now - 5 * MINUTE_MS)
    add_rows(engine, "later", due_at=now + FAR_MS, created_at=now - 90 * MINUTE_MS)

    oldest_ms = overview(engine).backlogs["default"].oldest_ms

    assert oldest_ms is not None
    assert 5 * MINUTE_MS <= oldest_ms < 6 * MINUTE_MS


def test_a_backlog_can_be_narrowed(engine: Engine) -> None:
    """One portal, some kinds."""
    add_portal(engine)
    add_rows(engine, "a")
    add_rows(engine, "b", kind="deal")
    add_rows(engine, "c", kind="deal", portal="other")

    with reading(engine) as connection:
        found = views.backlogs(connection, code="default", kinds=("deal",))

    assert {code: backlog.total for code, backlog in found.items()} == {"default": 1}


def test_rows_of_a_portal_that_does_not_exist_stand_out(engine: Engine) -> None:
    """A misspelt code is found before somebody misses its changes."""
    add_portal(engine)
    add_rows(engine, "a")
    add_rows(engine, "b", portal="defualt")

    assert overview(engine).unknown == ("defualt",)


def test_dead_letters_count_while_they_are_open(engine: Engine) -> None:
    """A replayed or dropped letter needs nobody any more."""
    row = {
        "outbox_id": 1,
        "portal": "default",
        "lane": 0,
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "delete",
        "generation": 0,
        "mergeable": True,
        "priority": 0,
        "deliveries": 1,
        "attempts": 1,
        "not_runs": 0,
        "enqueued_at": 0,
        "reason": "invalid",
        "error_code": "X",
        "first_error": "X",
        "last_error": "X",
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.dead), [row | {"closed_at": at} for at in (None, 1)])

    assert overview(engine).dead == {"default": 1}


def test_throughput_is_that_of_the_last_minutes(engine: Engine) -> None:
    """The roll-ups are added up by outcome; older minutes are history."""
    now = database_now(engine)
    counts = [(now, "applied", 3), (now, "failed", 1), (now - MINUTE_MS, "applied", 4)]
    counts.append((now - 20 * MINUTE_MS, "applied", 100))
    with writing(engine) as connection:
        connection.execute(
            insert(tables.rollup),
            [
                {
                    "portal": "default",
                    "minute": minute,
                    "outcome": outcome,
                    "n": n,
                    "latency_sum_ms": 0,
                    "latency_max_ms": 0,
                }
                for minute, outcome, n in counts
            ],
        )

    assert overview(engine).recent == {"default": {"applied": 7, "failed": 1}}


def test_a_portal_that_cannot_be_reached_says_when_it_is_tried_again(engine: Engine) -> None:
    """The breaker's end outweighs the due time of the rows."""
    now = database_now(engine)
    add_portal(engine)
    breaker = {"breaker": "open", "breaker_until": now + FAR_MS, "fail_streak": 3}
    change(engine, tables.lane, {"next_due_at": now} | breaker, portal="default")

    lane = overview(engine).lanes["default"]

    assert lane.fail_streak == 3
    assert lane.next_due_ms is not None
    assert lane.next_due_ms > FAR_MS - MINUTE_MS
    assert lane.resting_ms == lane.next_due_ms


def test_a_lane_at_rest_waits_for_nothing(engine: Engine) -> None:
    """No due time, no owner: it is the pump's to find rows for it."""
    add_portal(engine)

    assert overview(engine).lanes == {"default": LaneView()}
    assert overview(engine).backlogs.get("default", Backlog()).total == 0


def test_a_lane_that_stands_still_is_told_with_the_row_and_its_words(engine: Engine) -> None:
    """Which row, what it was to do, what the portal said, and how long ago."""
    add_portal(engine)
    (row_id,) = add_rows(
        engine, "c-1", state="held", state_reason="stopped: BAD: no", last_error="BAD: no"
    )
    change(engine, tables.lane, {"stopped_by": row_id}, portal="default")
    result = {
        "outbox_id": row_id,
        "portal": "default",
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "upsert",
        "outcome": "stopped",
        "final": False,
        "attempt": 1,
        "enqueued_at": 0,
        "finished_at": database_now(engine) - 5 * MINUTE_MS,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.result), result)

    (stop,) = overview(engine).stops["default"]

    assert (stop.lane, stop.row_id, stop.state) == (0, row_id, "held")
    assert (stop.kind, stop.key, stop.operation) == ("contact", "c-1", "upsert")
    assert stop.said == "BAD: no"
    assert stop.doubt_ms is None
    assert stop.stopped_ms is not None
    assert 5 * MINUTE_MS <= stop.stopped_ms < 6 * MINUTE_MS


def test_a_row_in_doubt_stops_its_lane_until_it_is_looked_into(engine: Engine) -> None:
    """Afterwards the owner of the lane finds out by itself, and nobody has to decide."""
    add_portal(engine)
    doubt = {"state": "doubt", "batch_id": 1, "cmd_no": 0, "state_reason": "cut"}
    (row_id,) = add_rows(engine, "c-1", due_at=database_now(engine) + FAR_MS, **doubt)
    change(engine, tables.lane, {"stopped_by": row_id}, portal="default")

    (stop,) = overview(engine).stops["default"]
    change(engine, tables.outbox, {"due_at": 0}, id=row_id)
    afterwards = overview(engine).stops

    assert (stop.state, stop.said, stop.stopped_ms) == ("doubt", "cut", None)
    assert stop.doubt_ms is not None
    assert FAR_MS - MINUTE_MS < stop.doubt_ms <= FAR_MS
    assert afterwards == {}


@pytest.mark.parametrize("state", ["ready", "parked"])
def test_a_lane_goes_on_with_the_row_that_stopped_it(engine: Engine, state: str) -> None:
    """However the row went on, nothing is told of it any more; nor when it is gone."""
    add_portal(engine)
    (row_id,) = add_rows(engine, "c-1", state=state)

    stops: list[object] = []
    for number in (row_id, 404):
        change(engine, tables.lane, {"stopped_by": number}, portal="default")
        stops.append(overview(engine).stops)

    assert stops == [{}, {}]


def test_a_backlog_can_leave_out_lanes_that_wait_for_a_person(engine: Engine) -> None:
    """Rows behind a held one go no further by themselves; those behind one in doubt will."""
    later = database_now(engine) + FAR_MS
    in_doubt = {"state": "doubt", "batch_id": 1, "cmd_no": 0, "due_at": later}
    for code, first in (("stops", {"state": "held"}), ("doubts", in_doubt), ("goes", {})):
        add_portal(engine, code)
        number, _ = add_rows(engine, "a", portal=code, **first), add_rows(engine, "b", portal=code)
        change(engine, tables.lane, {"stopped_by": number[0]}, portal=code)

    with reading(engine) as connection:
        going = views.backlogs(connection, going_only=True)
        every = views.backlogs(connection)

    assert {code: backlog.total for code, backlog in going.items()} == {"doubts": 2, "goes": 2}
    assert {code: backlog.total for code, backlog in every.items()} == {
        "doubts": 2,
        "goes": 2,
        "stops": 2,
    }


@pytest.mark.parametrize(
    ("policy", "halt"),
    [(None, None), ({"halt": "strict"}, "strict"), ({"other": 1}, None), (["halt"], None)],
    ids=repr,
)
def test_a_portal_is_told_with_the_halt_mode_of_its_policy(
    engine: Engine, policy: object, halt: str | None
) -> None:
    """Nothing is made up where the policy names none."""
    add_portal(engine, policy=policy)

    assert overview(engine).portals["default"].halt == halt


def test_a_lane_that_stands_still_is_shown_with_the_row_that_somebody_decides_on(
    engine: Engine,
) -> None:
    """Which row, what the portal said of it, and for how long; a stop that is over is not shown."""
    now = database_now(engine)
    add_portal(engine)
    add_portal(engine, "other")
    add_portal(engine, "over")
    (held,) = add_rows(engine, "a", operation="update", state="held", last_error="BAD: no name")
    (doubted,) = add_rows(
        engine,
        "b",
        portal="other",
        state="doubt",
        batch_id=1,
        cmd_no=0,
        due_at=now + FAR_MS,
        state_reason="no answer",
    )
    (ready,) = add_rows(engine, "c", portal="over")
    stopped = {
        "outbox_id": held,
        "portal": "default",
        "kind": "contact",
        "entity_key": "a",
        "operation": "update",
        "outcome": "stopped",
        "final": False,
        "attempt": 1,
        "enqueued_at": 0,
        "finished_at": now - MINUTE_MS,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.result).values(**stopped))
    for code, row_id in (("default", held), ("other", doubted), ("over", ready)):
        change(engine, tables.lane, {"stopped_by": row_id}, portal=code)

    stops = overview(engine).stops

    assert set(stops) == {"default", "other"}
    (stop,), (doubt,) = stops["default"], stops["other"]
    assert (stop.row_id, stop.kind, stop.key, stop.operation) == (held, "contact", "a", "update")
    assert (stop.state, stop.said, stop.doubt_ms) == ("held", "BAD: no name", None)
    assert stop.stopped_ms is not None
    assert MINUTE_MS <= stop.stopped_ms < 2 * MINUTE_MS
    assert (doubt.row_id, doubt.state, doubt.said) == (doubted, "doubt", "no answer")
    assert doubt.stopped_ms is None
    assert doubt.doubt_ms is not None
    assert FAR_MS - MINUTE_MS < doubt.doubt_ms <= FAR_MS


def test_the_halt_mode_of_a_portal_is_that_of_its_policy(engine: Engine) -> None:
    """Shown as it is written; without one there is none."""
    add_portal(engine, "a", policy={"halt": "chain"})
    add_portal(engine, "b", policy={"other": 1})
    add_portal(engine, "c")

    portals = overview(engine).portals

    assert {code: portal.halt for code, portal in portals.items()} == {
        "a": "chain",
        "b": None,
        "c": None,
    }


def test_a_backlog_can_leave_out_what_waits_for_a_person(engine: Engine) -> None:
    """Whoever drains until nothing is left must not wait for a lane that stands still."""
    add_portal(engine)
    add_portal(engine, "other")
    (held,) = add_rows(engine, "a", state="held")
    add_rows(engine, "b")
    add_rows(engine, "c", portal="other")
    change(engine, tables.lane, {"stopped_by": held}, portal="default")

    with reading(engine) as connection:
        all_of_them = views.backlogs(connection)
        going = views.backlogs(connection, going_only=True)

    assert {code: backlog.total for code, backlog in all_of_them.items()} == {
        "default": 2,
        "other": 1,
    }
    assert {code: backlog.total for code, backlog in going.items()} == {"other": 1}
