"""Two workers, two connections: what a lock or a compare-and-set must decide.

PostgreSQL and MariaDB only. On SQLite a writing transaction excludes every other one from its
beginning, so the interleavings below cannot happen there.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import repeat

import pytest
from sqlalchemy import Connection, Engine

from b24sync.core.model import Batch, BatchState, Command, Operation, ResultOutcome, Row
from b24sync.core.policies import Policy
from b24sync.core.settlement import Settlement
from b24sync.drain import Order, drain
from b24sync.edge import lanes, ledger, tables, taking
from b24sync.edge.database import transact, writing
from b24sync.edge.lanes import Lane
from b24sync.edge.settling import settle
from tests.fakes import ScriptedPortal
from tests.house import (
    Clerk,
    add_portal,
    add_row,
    add_rows,
    change,
    endings,
    in_threads,
    maybe_taken,
    one,
    rows_of,
    states,
    taken,
    world_of,
)

PATIENCE_S = 20


@pytest.fixture
def engine(server_engine: Engine) -> Engine:
    """A server's database with one portal whose lane is due."""
    add_portal(server_engine, next_due_at=0)
    return server_engine


def _row(row_id: int) -> Row:
    return Row(
        id=row_id,
        portal="default",
        lane=0,
        kind="contact",
        key="a",
        operation=Operation.ADD,
        fields={},
        params=None,
    )


def _applied(row_id: int, remote_id: str = "46") -> Settlement:
    return Settlement(
        row=_row(row_id),
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        charged=True,
        remote_id=remote_id,
        link_present=True,
    )


def _journalled(engine: Engine, *row_ids: int) -> tuple[Lane, int]:
    """A worker that took the lane and wrote down what it is about to send."""
    mine = taken(engine, owner="first")
    commands = tuple(
        Command(
            row_ids=(row_id,),
            kind="contact",
            key="a",
            operation=Operation.ADD,
            method="crm.item.add",
            query="",
        )
        for row_id in row_ids
    )
    batch = Batch(labels=tuple(command.label for command in commands), commands=commands)
    rows = {row_id: _row(row_id) for row_id in row_ids}
    with writing(engine) as connection:
        number = ledger.journal(connection, mine, batch, rows, digest="")
        lanes.open_batch(connection, mine, number, lease_ms=60_000)
    return mine, number


def _goes(mine: Lane, number: int, connection: Connection) -> bool:
    return ledger.go(connection, mine, number, deadline_ms=60_000, quiet_ms=90_000)


def _successor(engine: Engine) -> Lane:
    """The next owner, after the first one's lease has ended."""
    change(engine, tables.lane, {"lease_until": 0})
    return taken(engine, owner="second")


def _recovers(engine: Engine, mine: Lane, number: int) -> BatchState | None:
    def recover(connection: Connection) -> BatchState | None:
        became = ledger.recover(connection, number)
        lanes.close_batch(connection, mine, number, reached=False)
        return became

    return transact(engine, recover)


def _settles(engine: Engine, number: int, *settlements: Settlement) -> bool:
    return transact(engine, lambda c: settle(c, number, settlements, http_status=200).recorded)


def _in_background(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def test_a_worker_that_came_back_from_the_dead_sends_nothing(engine: Engine) -> None:
    """Its lane was recovered while it was frozen before the go: both of its guards fail."""
    (row_id,) = add_rows(engine, "a")
    mine, number = _journalled(engine, row_id)
    successor = _successor(engine)
    became = _recovers(engine, successor, number)

    with writing(engine) as connection:
        kept = lanes.keep(connection, mine, lease_ms=60_000)
        gone = ledger.go(connection, mine, number, deadline_ms=60_000, quiet_ms=90_000)

    assert became is BatchState.RETURNED
    assert (kept, gone) == (False, False)
    assert states(engine) == {"a": "ready"}


def test_a_recovery_waits_for_a_go_that_is_being_committed_and_then_doubts(engine: Engine) -> None:
    """What is being sent at this very moment must not be given back as never sent."""
    (row_id,) = add_rows(engine, "a")
    mine, number = _journalled(engine, row_id)

    with writing(engine) as connection:
        assert ledger.go(connection, mine, number, deadline_ms=60_000, quiet_ms=90_000)
        thread, became = _in_background(partial(_recovers, engine, mine, number))
        thread.join(0.2)
        waited = thread.is_alive()
    thread.join(PATIENCE_S)

    assert waited
    assert became == [BatchState.DOUBT]
    assert states(engine) == {"a": "doubt"}


def test_a_go_waits_for_a_recovery_that_is_being_committed_and_then_fails(engine: Engine) -> None:
    """Of go and recovery, exactly one happens."""
    (row_id,) = add_rows(engine, "a")
    mine, number = _journalled(engine, row_id)

    def goes() -> bool:
        return transact(engine, lambda c: ledger.go(c, mine, number, deadline_ms=1, quiet_ms=1))

    with writing(engine) as connection:
        assert ledger.recover(connection, number) is BatchState.RETURNED
        thread, gone = _in_background(goes)
        thread.join(0.2)
        waited = thread.is_alive()
    thread.join(PATIENCE_S)

    assert waited
    assert gone == [False]
    assert one(engine, tables.batch)["state"] == "returned"


def test_a_late_answer_to_a_batch_in_doubt_counts(engine: Engine) -> None:
    """The batch is the fence, not the lease: what the first owner heard is true."""
    (row_id,) = add_rows(engine, "a")
    mine, number = _journalled(engine, row_id)
    assert transact(engine, partial(_goes, mine, number))
    successor = _successor(engine)
    became = _recovers(engine, successor, number)

    counted = _settles(engine, number, _applied(row_id))
    again = _settles(engine, number, _applied(row_id, "47"))

    assert became is BatchState.DOUBT
    assert (counted, again) == (True, False)
    assert endings(engine) == {row_id: ["applied"]}
    assert one(engine, tables.link)["remote_id"] == "46"
    assert rows_of(engine, tables.outbox) == []


def test_an_answer_and_a_recovery_at_once_end_in_one_truth(engine: Engine) -> None:
    """Whoever comes first: the row is applied once, and nothing stays behind."""
    for _ in range(8):
        (row_id,) = add_rows(engine, "a")
        mine, number = _journalled(engine, row_id)
        assert transact(engine, partial(_goes, mine, number))
        successor = _successor(engine)

        in_threads(
            [
                partial(_settles, engine, number, _applied(row_id)),
                partial(_recovers, engine, successor, number),
            ]
        )

        assert endings(engine)[row_id] == ["applied"]
        assert rows_of(engine, tables.outbox) == []
        assert one(engine, tables.batch, id=number)["state"] == "answered"
        change(engine, tables.lane, {"lease_until": 0})


def test_two_answers_at_once_are_recorded_once(engine: Engine) -> None:
    """The second writer finds the batch answered and stores what it heard for comparison."""
    for _ in range(8):
        (row_id,) = add_rows(engine, "a")
        mine, number = _journalled(engine, row_id)
        assert transact(engine, partial(_goes, mine, number))

        in_threads([partial(_settles, engine, number, _applied(row_id))] * 2)

        assert endings(engine)[row_id] == ["applied"]
        assert one(engine, tables.batch, id=number)["late_at"] is not None
        change(engine, tables.lane, {"lease_until": 0})


def test_a_row_that_is_being_taken_out_costs_its_neighbour_no_answer(engine: Engine) -> None:
    """A person's DELETE that is not committed yet is waited for, and then believed."""
    gone, stays = add_rows(engine, "a", "b")
    mine, number = _journalled(engine, gone, stays)
    assert transact(engine, partial(_goes, mine, number))
    other = replace(_applied(stays, "47"), row=replace(_row(stays), key="b"))

    with writing(engine) as connection:
        connection.execute(tables.outbox.delete().where(tables.outbox.c.id == gone))
        thread, recorded = _in_background(lambda: _settles(engine, number, _applied(gone), other))
        thread.join(0.3)
    thread.join(PATIENCE_S)

    assert recorded == [True]
    assert endings(engine) == {stays: ["applied"]}
    assert one(engine, tables.batch, id=number)["state"] == "answered"


def test_takers_never_share_a_lane(engine: Engine) -> None:
    """Eight at once over a few lanes: each lane has one owner, and none is left over."""
    codes = [f"p{number:02}" for number in range(23)]
    for code in codes:
        add_portal(engine, code, next_due_at=0)
    owned: list[tuple[str, int]] = []
    deadline = time.monotonic() + PATIENCE_S

    def takes() -> None:
        while len(owned) < 24 and time.monotonic() < deadline:
            mine = maybe_taken(engine)
            if mine is not None:
                owned.append((mine.tenant.code, mine.epoch))

    in_threads([takes] * 8)

    assert sorted(owned) == [("default", 1), *((code, 1) for code in codes)]


def test_a_taken_lane_does_not_hide_the_others(engine: Engine) -> None:
    """While one taker's transaction is open, the next finds the next lane and does not wait."""
    for code in ("a", "b", "c"):
        add_portal(engine, code, next_due_at=0)
    codes: list[str] = []

    with writing(engine) as first, writing(engine) as second, writing(engine) as third:
        for connection in (first, second, third):
            mine = taking.take(connection, owner="x", lease_ms=60_000)
            codes.append("none" if mine is None else mine.tenant.code)

    assert codes == ["a", "b", "c"]


def test_rows_of_an_open_transaction_are_picked_up_when_it_commits(engine: Engine) -> None:
    """A long transaction of an application neither blocks a pass nor loses its rows to it."""
    add_rows(engine, "early", "shared")
    world = world_of(engine, ScriptedPortal(repeat(Clerk())))
    users = engine.execution_options(isolation_level="REPEATABLE READ")

    with users.connect() as connection, connection.begin():
        late = add_row(connection, "late")
        add_row(connection, "shared")
        first = drain(world, Order())
    second = drain(world, Order())

    assert first.outcomes == {"applied": 2}
    assert second.outcomes == {"applied": 2}
    assert late in endings(engine)


def test_an_older_row_that_commits_late_is_not_passed_over(engine: Engine) -> None:
    """Ids are given before the commit, so a smaller one may appear after a larger one."""
    world = world_of(engine, ScriptedPortal(repeat(Clerk())))

    with engine.connect() as connection, connection.begin():
        older = add_row(connection, "older")
        (newer,) = add_rows(engine, "newer")
        drain(world, Order())
    drain(world, Order())

    assert older < newer
    assert endings(engine) == {newer: ["applied"], older: ["applied"]}


@pytest.mark.parametrize("merge", [True, False], ids=["merging", "one by one"])
def test_applications_write_while_workers_claim_and_nobody_deadlocks(
    engine: Engine, *, merge: bool
) -> None:
    """Four writers at REPEATABLE READ on shared entities, two workers: every row ends once."""
    portal = ScriptedPortal(repeat(Clerk()))
    policies = {"*": Policy(merge=merge)}
    world = world_of(engine, portal, slice_batches=3, policies=policies)
    users = engine.execution_options(isolation_level="REPEATABLE READ")
    ids: list[int] = []
    finished: list[bool] = []
    deadline = time.monotonic() + PATIENCE_S

    def writes() -> None:
        for number in range(10):
            with users.connect() as connection, connection.begin():
                mine = [add_row(connection, f"k{(number + n) % 7}") for n in range(3)]
            ids.extend(mine)
        finished.append(True)

    def works() -> None:
        while time.monotonic() < deadline:
            is_last = len(finished) == 4
            drain(world, Order())
            if is_last and not rows_of(engine, tables.outbox):
                return

    in_threads([writes] * 4 + [works] * 2, within_s=2 * PATIENCE_S)

    assert len(ids) == 120
    found = endings(engine)
    assert sorted(found) == sorted(ids)
    assert all(len(outcomes) == 1 for outcomes in found.values())
    assert rows_of(engine, tables.outbox) == []
    # Each command is the end of one row; the rows merged into it end with it.
    applied = [row_id for row_id, outcomes in found.items() if outcomes == ["applied"]]
    merged = [row_id for row_id, outcomes in found.items() if outcomes == ["merged"]]
    assert sum(len(asked.params["cmd"]) for asked in portal.asked) == len(applied)
    assert len(applied) + len(merged) == 120
    assert bool(merged) is merge
