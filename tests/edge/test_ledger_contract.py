"""The table of moves against the statements: what may move does, what may not does not.

Every event is tried on a row, and on a batch, of every state. Which of them are legal is read from
the table; what a move leaves behind is written here by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, RowMapping, delete, select

from b24sync.core.lifecycle import BATCH_MOVES, ROW_MOVES, BatchEvent, RowEvent
from b24sync.core.model import (
    Batch,
    BatchState,
    Closing,
    Command,
    Operation,
    Plan,
    Postponed,
    Ref,
    ResultOutcome,
    Row,
    RowState,
    Waiting,
)
from b24sync.core.settlement import Settlement
from b24sync.edge import lanes, ledger, settling, tables, unsent
from b24sync.edge.database import writing
from b24sync.edge.guards import Raced, row_of
from b24sync.edge.lanes import Lane
from b24sync.edge.ledger import Heads
from b24sync.edge.waiting import hold, postpone, release_parked, release_waiting
from tests.house import (
    Found,
    add_batch,
    add_portal,
    add_row,
    add_rows,
    change,
    one,
    rows_in,
    rows_of,
    states,
    taken,
)

IN_A_BATCH = {RowState.BATCHED: BatchState.SENDING, RowState.DOUBT: BatchState.DOUBT}
RECORDS = (tables.outbox, tables.result, tables.dead, tables.link, tables.rollup)


def _row(row_id: int) -> Row:
    return Row(
        id=row_id,
        portal="default",
        lane=0,
        kind="contact",
        key="k",
        operation=Operation.UPSERT,
        fields={},
        params=None,
    )


def _settlement(row_id: int, **values: object) -> Settlement:
    plain = Settlement(row=_row(row_id), outcome=None, method="crm.item.add", cmd_no=0)
    return replace(plain, **values)  # type: ignore[arg-type] # the fields are given by name


def _applied(row_id: int) -> Settlement:
    return _settlement(
        row_id, outcome=ResultOutcome.APPLIED, final=True, charged=True, remote_id="7"
    )


def _batch_of(*row_ids: int) -> Batch:
    commands = tuple(
        Command(
            row_ids=(row_id,),
            kind="contact",
            key=f"k{row_id}",
            operation=Operation.ADD,
            method="crm.item.add",
            query="",
            marker=f"contact:k{row_id}",
        )
        for row_id in row_ids
    )
    return Batch(labels=tuple(command.label for command in commands), commands=commands)


def _claim(connection: Connection, mine: Lane, row_id: int, _batch_id: int) -> None:
    ledger.journal(connection, mine, _batch_of(row_id), {row_id: _row(row_id)}, digest="")


def _park(connection: Connection, mine: Lane, row_id: int, batch_id: int) -> None:
    add_row(connection, "k", id=row_id - 1)
    ledger.read_heads(connection, mine, limit=50)
    connection.execute(delete(tables.outbox).where(tables.outbox.c.id == row_id - 1))
    _settle(connection, batch_id, _settlement(row_id, requeue_ms=0, is_behind=True))


def _release(connection: Connection, _mine: Lane, _row_id: int, _batch_id: int) -> None:
    release_parked(connection, "default", [("contact", "k")])
    parent = replace(_row(1), kind="company", key="parent")
    release_waiting(connection, [replace(_settlement(1), row=parent)])


def _hold(connection: Connection, _mine: Lane, row_id: int, _batch_id: int) -> None:
    hold(connection, "default", [Waiting(row_id=row_id, target=Ref("company", "parent"))])


def _stop(connection: Connection, _mine: Lane, row_id: int, batch_id: int) -> None:
    stopped = _settlement(
        row_id, outcome=ResultOutcome.STOPPED, charged=True, stopped=True, error_code="BAD"
    )
    _settle(connection, batch_id, stopped)


def _settle(connection: Connection, batch_id: int, settlement: Settlement) -> None:
    settling.settle(connection, batch_id, [settlement], http_status=200)


def _finish(connection: Connection, _mine: Lane, row_id: int, batch_id: int) -> None:
    _settle(connection, batch_id, _applied(row_id))


def _requeue(connection: Connection, _mine: Lane, row_id: int, batch_id: int) -> None:
    postpone(connection, [Postponed(row_id=row_id, until_ms=0)])
    _settle(connection, batch_id, _settlement(row_id, requeue_ms=0))


def _lose(connection: Connection, _mine: Lane, _row_id: int, batch_id: int) -> None:
    ledger.doubt(connection, batch_id, reason="silence")


def _close(connection: Connection, _mine: Lane, row_id: int, _batch_id: int) -> None:
    plan = Plan(closing=(Closing(row_id=row_id, outcome=ResultOutcome.CANCELLED),))
    unsent.set_aside(connection, plan, {row_id: _row(row_id)})


ROW_ACTS: dict[RowEvent, Callable[[Connection, Lane, int, int], None]] = {
    RowEvent.CLAIM: _claim,
    RowEvent.PARK: _park,
    RowEvent.RELEASE: _release,
    RowEvent.HOLD: _hold,
    RowEvent.FINISH: _finish,
    RowEvent.REQUEUE: _requeue,
    RowEvent.STOP: _stop,
    RowEvent.LOSE: _lose,
    RowEvent.CLOSE: _close,
}

BATCH_ACTS: dict[BatchEvent, Callable[[Connection, Lane, int, int], bool]] = {
    BatchEvent.GO: lambda connection, mine, batch_id, _row_id: ledger.go(
        connection, mine, batch_id, deadline_ms=10, quiet_ms=20
    ),
    BatchEvent.RETURN: lambda connection, _mine, batch_id, _row_id: ledger.give_back(
        connection, batch_id, reason="not reached"
    ),
    BatchEvent.SETTLE: lambda connection, _mine, batch_id, row_id: (
        settling.settle(connection, batch_id, [_applied(row_id)], http_status=200).recorded
    ),
    BatchEvent.LOSE: lambda connection, _mine, batch_id, _row_id: ledger.doubt(
        connection, batch_id, reason="silence"
    ),
}


@pytest.fixture
def mine(engine: Engine) -> Lane:
    """The lane of the only portal, taken."""
    add_portal(engine, next_due_at=0)
    return taken(engine)


def _add_in(connection: Connection, state: RowState, row_id: int) -> int:
    """A row in a state, and the batch that it is in or would be in."""
    number = add_batch(connection, IN_A_BATCH.get(state, BatchState.SENDING))
    place = {"batch_id": number, "cmd_no": 0} if state in IN_A_BATCH else {}
    waits = {"waits_for": "company parent"} if state is RowState.HELD else {}
    add_row(connection, "k", id=row_id, state=state, **place, **waits)
    return number


def _everything(connection: Connection) -> list[list[Found]]:
    return [rows_in(connection, table) for table in RECORDS]


@pytest.mark.parametrize("moved", RowEvent)
def test_a_row_makes_the_legal_moves_and_no_other(
    engine: Engine, mine: Lane, moved: RowEvent
) -> None:
    """From every state: the state that the table names follows, or nothing at all changes."""
    for row_id, state in enumerate(RowState, start=100):
        with writing(engine) as connection, connection.begin_nested() as attempt:
            number = _add_in(connection, state, row_id)
            before = _everything(connection)

            try:
                with connection.begin_nested():
                    ROW_ACTS[moved](connection, mine, row_id, number)
            except Raced:
                assert (state, moved) not in ROW_MOVES

            left = [row["state"] for row in rows_in(connection, tables.outbox, id=row_id)]
            if (state, moved) in ROW_MOVES:
                target = ROW_MOVES[state, moved]
                assert left == ([] if target is None else [target]), f"{state} {moved}"
            else:
                assert _everything(connection) == before, f"{state} {moved}"
            attempt.rollback()


@pytest.mark.parametrize("moved", BATCH_ACTS)
def test_a_batch_makes_the_legal_moves_and_no_other(
    engine: Engine, mine: Lane, moved: BatchEvent
) -> None:
    """From every state: the state that the table names follows, or its rows stay untouched."""
    for state in BatchState:
        with writing(engine) as connection, connection.begin_nested() as attempt:
            number = add_batch(connection, state)
            row_state = "doubt" if state is BatchState.DOUBT else "batched"
            row_id = add_row(connection, "k", state=row_state, batch_id=number, cmd_no=0)
            before = _everything(connection)

            did = BATCH_ACTS[moved](connection, mine, number, row_id)

            (left,) = rows_in(connection, tables.batch, id=number)
            assert did == ((state, moved) in BATCH_MOVES), f"{state} {moved}"
            assert left["state"] == BATCH_MOVES.get((state, moved), state), f"{state} {moved}"
            if not did:
                assert _everything(connection) == before, f"{state} {moved}"
            attempt.rollback()


def test_every_event_of_a_row_has_a_statement() -> None:
    """An event that no statement carries out is a line in the table and nothing else."""
    assert set(ROW_ACTS) == {event for _, event in ROW_MOVES}


def test_an_owner_of_yesterday_writes_nothing(engine: Engine, mine: Lane) -> None:
    """Each statement of an owner names its epoch; after the next owner it finds no lane."""
    (row_id,) = add_rows(engine, "k")
    change(engine, tables.lane, {"lease_until": 0})
    taken(engine)
    before = (one(engine, tables.lane), rows_of(engine, tables.outbox))

    with writing(engine) as connection:
        kept = lanes.keep(connection, mine, lease_ms=60_000)
        lanes.open_batch(connection, mine, 77, lease_ms=60_000)
        lanes.stop(connection, mine, row_id)
        lanes.put_first(connection, mine, [row_id], rest_ms=60_000)
        stood = lanes.stands_still(connection, replace(mine, stopped_by=row_id))
        lanes.strike(connection, mine, rest_ms=60_000, silent=False)
        lanes.release(connection, mine, served=50)
        lanes.release(connection, mine, served=50, rest_ms=60_000)

    assert not kept
    assert stood
    assert (one(engine, tables.lane), rows_of(engine, tables.outbox)) == before
    assert row_id


def test_a_closed_batch_of_another_owner_is_not_forgotten(engine: Engine, mine: Lane) -> None:
    """Whoever closes a batch late must not clear the open batch of the lane's present owner."""
    with writing(engine) as connection:
        lanes.open_batch(connection, mine, 8, lease_ms=60_000)

        lanes.close_batch(connection, mine, 7, reached=True)

    assert one(engine, tables.lane)["open_batch_id"] == 8


def test_journalling_puts_exactly_these_rows_into_the_batch(engine: Engine, mine: Lane) -> None:
    """Each row knows its batch and its place, and has been delivered once more; others do not."""
    first, left_out, second = add_rows(engine, "a", "b", "c", deliveries=2, attempts=1)

    with writing(engine) as connection:
        rows = {first: _row(first), second: _row(second)}
        number = ledger.journal(
            connection, mine, _batch_of(second, first), rows, digest="fingerprint"
        )

    found = {row["id"]: row for row in rows_of(engine, tables.outbox)}
    assert [(found[i]["state"], found[i]["batch_id"], found[i]["cmd_no"]) for i in found] == [
        ("batched", number, 1),
        ("ready", None, None),
        ("batched", number, 0),
    ]
    assert [found[i]["deliveries"] for i in (first, left_out, second)] == [3, 2, 3]
    assert {row["attempts"] for row in found.values()} == {1}


def test_rows_that_go_as_one_have_one_place_in_the_batch(engine: Engine, mine: Lane) -> None:
    """The first of them is ready, the others stand behind it; all are delivered together."""
    first, alone, second, third = add_rows(engine, "a", "b", "a", "a")
    change(engine, tables.outbox, {"state": "parked"}, id=second)
    single, merged = _batch_of(alone, first).commands
    merged = replace(merged, row_ids=(first, second, third), lead=third)
    batch = Batch(labels=("r2", "r1"), commands=(single, merged))

    with writing(engine) as connection:
        rows = {row_id: _row(row_id) for row_id in (first, alone, second, third)}
        number = ledger.journal(connection, mine, batch, rows, digest="")

    found = [(row["id"], row["cmd_no"]) for row in rows_of(engine, tables.outbox, batch_id=number)]
    assert found == [(first, 1), (alone, 0), (second, 1), (third, 1)]
    assert {(row["state"], row["deliveries"]) for row in rows_of(engine, tables.outbox)} == {
        ("batched", 1)
    }
    plan = one(engine, tables.batch)["plan"]
    assert list(plan) == ["r2", "r1"]
    assert (plan["r1"]["rows"], plan["r1"]["lead"]) == ([first, second, third], third)


@pytest.mark.parametrize("fate", ["held", "in another batch", "deleted"])
def test_a_follower_that_changed_in_between_undoes_the_claim_too(
    engine: Engine, mine: Lane, fate: str
) -> None:
    """It was said with the others, so without it they would say something else."""
    first, second = add_rows(engine, "a", "a")
    with writing(engine) as connection:
        number = add_batch(connection, "sending")
        if fate == "deleted":
            connection.execute(delete(tables.outbox).where(tables.outbox.c.id == second))
    if fate != "deleted":
        place = {"state": "batched", "batch_id": number, "cmd_no": 0}
        change(engine, tables.outbox, {"state": "held"} if fate == "held" else place, id=second)
    (command,) = _batch_of(first).commands
    batch = Batch(labels=("r1",), commands=(replace(command, row_ids=(first, second)),))
    before = rows_of(engine, tables.outbox)
    rows = {first: _row(first), second: _row(second)}

    with pytest.raises(Raced), writing(engine) as connection:
        ledger.journal(connection, mine, batch, rows, digest="")

    assert rows_of(engine, tables.outbox) == before


def test_the_journal_says_what_will_be_sent(engine: Engine, mine: Lane) -> None:
    """After a crash the batch row alone must tell which rows, which method and which marker."""
    (row_id,) = add_rows(engine, "a")

    with writing(engine) as connection:
        ledger.journal(
            connection, mine, _batch_of(row_id), {row_id: _row(row_id)}, digest="fingerprint"
        )

    found = one(engine, tables.batch)
    assert (found["state"], found["lane_epoch"], found["n_commands"]) == ("journalled", 1, 1)
    assert found["request_hash"] == "fingerprint"
    assert found["plan"] == {
        f"r{row_id}": {
            "method": "crm.item.add",
            "rows": [row_id],
            "kind": "contact",
            "key": f"k{row_id}",
            "operation": "add",
            "marker": f"contact:k{row_id}",
            "lead": row_id,
            "linked": False,
            "repeatable": False,
            "left_out": [],
        }
    }


@pytest.mark.parametrize("fate", ["held", "deleted"])
def test_a_row_that_changed_in_between_undoes_the_whole_claim(
    engine: Engine, mine: Lane, fate: str
) -> None:
    """What was planned from is not there any more, so nothing of the plan may be journalled."""
    ids = add_rows(engine, "a", "b", "c")
    if fate == "held":
        change(engine, tables.outbox, {"state": "held"}, id=ids[1])
    else:
        with writing(engine) as connection:
            connection.execute(delete(tables.outbox).where(tables.outbox.c.id == ids[1]))
    before = rows_of(engine, tables.outbox)

    with pytest.raises(Raced), writing(engine) as connection:
        ledger.journal(
            connection, mine, _batch_of(*ids), {row_id: _row(row_id) for row_id in ids}, digest=""
        )

    assert rows_of(engine, tables.outbox) == before
    assert rows_of(engine, tables.batch) == []


def test_only_the_first_go_of_a_batch_counts(engine: Engine, mine: Lane) -> None:
    """The compare-and-set before the socket lets one sender through, however many try."""
    with writing(engine) as connection:
        number = add_batch(connection, "journalled")

    with writing(engine) as connection:
        first = ledger.go(connection, mine, number, deadline_ms=60_000, quiet_ms=90_000)
    after_first = one(engine, tables.batch)
    with writing(engine) as connection:
        second = ledger.go(connection, mine, number, deadline_ms=5, quiet_ms=5)

    assert (first, second) == (True, False)
    assert one(engine, tables.batch) == after_first
    assert abs(after_first["deadline_at"] - after_first["sending_at"] - 60_000) < 1000
    assert abs(after_first["quiet_until"] - after_first["sending_at"] - 90_000) < 1000


def test_an_owner_whose_lane_was_taken_does_not_go(engine: Engine, mine: Lane) -> None:
    """Though nobody has touched its batch yet."""
    with writing(engine) as connection:
        number = add_batch(connection, "journalled")
    change(engine, tables.lane, {"lease_epoch": mine.epoch + 1})

    with writing(engine) as connection:
        gone = ledger.go(connection, mine, number, deadline_ms=60_000, quiet_ms=90_000)

    assert not gone
    assert one(engine, tables.batch)["state"] == "journalled"


def test_a_batch_that_was_never_received_gives_its_rows_back_at_no_charge(engine: Engine) -> None:
    """Deliveries were counted; attempts, due time and order stay what they were."""
    with writing(engine) as connection:
        number = add_batch(connection, "sending")
        add_row(
            connection,
            "a",
            state="batched",
            batch_id=number,
            cmd_no=0,
            deliveries=1,
            attempts=2,
            first_error="long ago",
        )
        add_row(connection, "b", state="batched", batch_id=number, cmd_no=1, deliveries=1)

        assert ledger.give_back(connection, number, reason="not reached")

    rows = rows_of(engine, tables.outbox)
    assert [(row["state"], row["attempts"], row["deliveries"]) for row in rows] == [
        ("ready", 2, 1),
        ("ready", 0, 1),
    ]
    assert [row["first_error"] for row in rows] == ["long ago", "not reached"]
    assert [row["last_error"] for row in rows] == ["not reached", "not reached"]
    assert {(row["batch_id"], row["cmd_no"], row["due_at"]) for row in rows} == {(None, None, 0)}
    assert one(engine, tables.batch)["closed_at"] is not None


def test_a_batch_in_doubt_is_visible_row_by_row(engine: Engine) -> None:
    """Rows rest until the portal has surely stopped, and a result says that nobody knows."""
    with writing(engine) as connection:
        number = add_batch(connection, "sending")
        change_to = {"batch_id": number, "state": "batched"}
        first = add_row(connection, "a", cmd_no=0, **change_to)
        second = add_row(connection, "b", cmd_no=1, attempts=1, **change_to)

        assert ledger.doubt(connection, number, reason="the line was cut")

    rows = rows_of(engine, tables.outbox)
    assert {(row["state"], row["due_at"], row["state_reason"]) for row in rows} == {
        ("doubt", 3, "the line was cut")
    }
    results = rows_of(engine, tables.result)
    assert [(r["outbox_id"], r["outcome"], r["final"], r["attempt"]) for r in results] == [
        (first, "unknown", False, 0),
        (second, "unknown", False, 1),
    ]
    assert [r["cmd_no"] for r in results] == [0, 1]
    assert one(engine, tables.batch)["closed_at"] is None
    assert [(r["outcome"], r["n"]) for r in rows_of(engine, tables.rollup)] == [("unknown", 2)]


@pytest.mark.parametrize(
    ("found", "became", "rows"),
    [
        ("journalled", BatchState.RETURNED, "ready"),
        ("sending", BatchState.DOUBT, "doubt"),
    ],
)
def test_the_open_batch_of_a_vanished_owner_is_recovered(
    engine: Engine, found: str, became: BatchState, rows: str
) -> None:
    """What was not sent goes back; what may have been sent is in doubt, never sent again."""
    with writing(engine) as connection:
        number = add_batch(connection, found)
        add_row(connection, "a", state="batched", batch_id=number, cmd_no=0)

        did = ledger.recover(connection, number)

    assert did is became
    assert one(engine, tables.batch)["state"] == became
    assert one(engine, tables.outbox)["state"] == rows


@pytest.mark.parametrize("found", ["answered", "doubt", "returned", "reconciled"])
def test_there_is_nothing_to_recover_in_a_batch_that_was_dealt_with(
    engine: Engine, found: str
) -> None:
    """A second recovery, or one after the answer, leaves everything as it is."""
    with writing(engine) as connection:
        number = add_batch(connection, found)
        before = rows_in(connection, tables.batch)

        did = ledger.recover(connection, number)

        assert did is None
        assert rows_in(connection, tables.batch) == before


def test_rows_are_read_by_priority_and_then_by_age(engine: Engine, mine: Lane) -> None:
    """Smaller priorities go first; among equals the older row does."""
    low, first, second = add_rows(engine, "low", "first", "second")
    change(engine, tables.outbox, {"priority": 5}, id=low)
    (urgent,) = add_rows(engine, "urgent", priority=-1)

    with writing(engine) as connection:
        heads = ledger.read_heads(connection, mine, limit=50)

    assert [row.id for row in heads.rows] == [urgent, first, second, low]
    assert heads == Heads(rows=heads.rows, followed=frozenset(), more=False)


def test_rows_with_later_ones_behind_them_are_told_apart(engine: Engine, mine: Lane) -> None:
    """Only of these the followers have to be read; what stands behind is parked, all of it."""
    (followed, *_), (single,) = add_rows(engine, *["a"] * 70), add_rows(engine, "b")
    (other,) = add_rows(engine, "c")
    add_rows(engine, "c", state="held")
    add_rows(engine, "c", portal="other")

    with writing(engine) as connection:
        heads = ledger.read_heads(connection, mine, limit=3)
    with writing(engine) as connection:
        rest = ledger.read_heads(connection, mine, limit=3, without=[followed])

    assert ([row.id for row in heads.rows], heads.more) == ([followed], True)
    assert heads.followed == {followed}
    assert ([row.id for row in rest.rows], rest.more) == ([single, other], False)
    assert rest.followed == {other}
    assert states(engine) == {
        "a": " ".join(["ready"] + ["parked"] * 69),
        "b": "ready",
        "c": "ready held ready",
    }


def test_rows_that_go_first_are_read_in_the_order_given(engine: Engine, mine: Lane) -> None:
    """Whatever their priorities; those that are not ready, or not due, are passed over."""
    a, b, c, d, e = add_rows(engine, "a", "b", "c", "d", "e")
    change(engine, tables.outbox, {"priority": -1}, id=a)
    change(engine, tables.outbox, {"state": "held"}, id=c)
    change(engine, tables.outbox, {"due_at": 10**15}, id=d)

    with writing(engine) as connection:
        heads = ledger.read_heads(connection, mine, limit=50, only=[d, b, 999, c, a])

    assert [row.id for row in heads.rows] == [b, a]
    assert e not in {row.id for row in heads.rows}


def _followers(engine: Engine, *heads: int) -> dict[int, list[int]]:
    with writing(engine) as connection:
        rows = [row_of(row) for row in _in_order(connection, heads)]
        found = ledger.read_followers(connection, rows)
    return {head: [row.id for row in rows] for head, rows in found.items()}


def _in_order(connection: Connection, ids: tuple[int, ...]) -> Sequence[RowMapping]:
    rows = select(tables.outbox).where(tables.outbox.c.id.in_(ids)).order_by(tables.outbox.c.id)
    return connection.execute(rows).mappings().all()


def test_the_followers_of_a_row_are_the_later_ones_of_its_entity(engine: Engine) -> None:
    """Ready or parked, in their order; of other kinds, keys and portals none."""
    a, b, *_ = add_rows(engine, "a", "b")
    more = add_rows(engine, "a", "a", state="parked") + add_rows(engine, "a")
    (of_b,) = add_rows(engine, "b", priority=-9)
    add_rows(engine, "a", kind="deal")
    add_rows(engine, "a", portal="other")

    assert _followers(engine, a, b) == {a: more, b: [of_b]}
    assert _followers(engine) == {}


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param({"state": "held"}, id="held"),
        pytest.param({"due_at": 10**15}, id="due later"),
        pytest.param({"state": "doubt", "batch_id": 1, "cmd_no": 0}, id="in doubt"),
        pytest.param({"state": "batched", "batch_id": 1, "cmd_no": 0}, id="in a batch"),
    ],
)
def test_behind_a_row_that_may_not_move_nothing_follows(
    engine: Engine, obstacle: dict[str, object]
) -> None:
    """Whoever stands behind it must not overtake it."""
    head, follows = add_rows(engine, "a", "a")
    add_rows(engine, "a", **obstacle)
    add_rows(engine, "a", "a", state="parked")

    assert _followers(engine, head) == {head: [follows]}


def test_followers_are_read_up_to_a_bound_that_the_heads_share(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim reads no more than fits its time and memory; the rest has its turn next."""
    monkeypatch.setattr(ledger, "MOST_FOLLOWERS", 6)
    a, b, *_ = add_rows(sqlite_engine, "a", "b", *["a"] * 9, *["b"] * 2)

    assert _followers(sqlite_engine, a) == {a: [3, 4, 5, 6, 7, 8]}
    assert _followers(sqlite_engine, a, b) == {a: [3, 4, 5], b: [12, 13]}


def test_the_first_row_in_doubt_is_found_by_the_batches_of_its_lane(
    engine: Engine, mine: Lane
) -> None:
    """Of this lane only, and while its batch is open."""
    with writing(engine) as connection:
        doubted = [add_batch(connection, state) for state in ("doubt", "sending", "answered")]
        elsewhere = add_batch(connection, "doubt", code="other")
        before = ledger.first_in_doubt(connection, mine)
        for key, number in (("x", elsewhere), ("b", doubted[0]), ("a", doubted[0])):
            portal = "other" if key == "x" else "default"
            place = {"batch_id": number, "cmd_no": 0}
            add_row(connection, key, state="doubt", portal=portal, **place)
        add_row(connection, "c", state="batched", batch_id=doubted[1], cmd_no=0)
        first = ledger.first_in_doubt(connection, mine)

    assert before is None
    assert first == one(engine, tables.outbox, entity_key="b")["id"]


def test_only_due_rows_of_this_lane_and_these_kinds_are_read(engine: Engine, mine: Lane) -> None:
    """Another portal, another lane, another kind and a later time are somebody else's business."""
    (wanted,) = add_rows(engine, "wanted")
    add_rows(engine, "later", due_at=10**15)
    add_rows(engine, "deal", kind="deal")
    add_rows(engine, "elsewhere", portal="other")
    add_rows(engine, "lane", lane=1)

    with writing(engine) as connection:
        heads = ledger.read_heads(connection, mine, limit=50, kinds=("contact",))

    assert [row.id for row in heads.rows] == [wanted]


def test_a_row_is_read_as_it_was_written(engine: Engine, mine: Lane) -> None:
    """Every column that a plan looks at arrives in its type."""
    with writing(engine) as connection:
        row_id = add_row(
            connection,
            "Ключ",
            operation="add",
            fields={"name": "Анна", "opportunity": 1.5},
            params={"useOriginalUfNames": "Y"},
            priority=-3,
            expires_at=123,
            attempts=1,
            deliveries=2,
            not_runs=3,
            cancel_requested=True,
            first_error="x",
            created_at=77,
        )

        (row,) = ledger.read_heads(connection, mine, limit=50).rows

    assert row == Row(
        id=row_id,
        portal="default",
        lane=0,
        kind="contact",
        key="Ключ",
        operation=Operation.ADD,
        fields={"name": "Анна", "opportunity": row.fields["opportunity"]},  # type: ignore[index] # fields are any JSON
        params={"useOriginalUfNames": "Y"},
        priority=-3,
        attempts=1,
        deliveries=2,
        not_runs=3,
        enqueued_at_ms=77,
        expires_at_ms=123,
        cancel_requested=True,
        first_error="x",
    )
