"""How portals stand: counts and ages are those of the tables."""

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
