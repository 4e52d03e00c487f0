"""Several lanes of one portal: the order of an entity holds whatever lanes its rows are in."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from b24sync.core.model import Batch, Change, Command, Operation, Ref, ResultOutcome, Row, Waiting
from b24sync.core.settlement import Settlement
from b24sync.core.shards import shard_of
from b24sync.edge import lanes, ledger, shards, tables, taking
from b24sync.edge.database import transact, writing
from b24sync.edge.lanes import Lane
from b24sync.edge.settling import settle
from b24sync.edge.waiting import hold
from b24sync.outbox import Outbox
from tests.house import (
    FAR_MS,
    add_portal,
    add_rows,
    change,
    one,
    rows_of,
    states,
)

PATIENCE_S = 20


def _house(engine: Engine) -> Engine:
    """A portal with two lanes, both due."""
    add_portal(engine, next_due_at=0, shards=2)
    with writing(engine) as connection:
        connection.execute(tables.lane.insert().values(portal="default", lane=1, next_due_at=0))
    return engine


def _owned(engine: Engine, number: int) -> Lane:
    with writing(engine) as connection:
        mine = taking.take(
            connection, owner="test", lease_ms=FAR_MS, without=[("default", 1 - number)]
        )
    assert mine is not None
    return mine


def _row(row_id: int, key: str = "a", *, lane: int = 0) -> Row:
    return Row(
        id=row_id,
        portal="default",
        lane=lane,
        kind="contact",
        key=key,
        operation=Operation.UPSERT,
        fields={},
        params=None,
    )


def _journal(connection: Connection, mine: Lane, *row_ids: int) -> int:
    """One command that carries these rows, as it is about to be sent."""
    command = Command(
        row_ids=row_ids,
        kind="contact",
        key="a",
        operation=Operation.ADD,
        method="crm.item.add",
        query="",
    )
    batch = Batch(labels=(command.label,), commands=(command,))
    number = ledger.journal(
        connection, mine, batch, {row_id: _row(row_id) for row_id in row_ids}, digest=""
    )
    lanes.open_batch(connection, mine, number, lease_ms=FAR_MS)
    return number


def _sent(engine: Engine, mine: Lane, *row_ids: int) -> int:
    with writing(engine) as connection:
        number = _journal(connection, mine, *row_ids)
        assert ledger.go(connection, mine, number, deadline_ms=60_000, quiet_ms=90_000)
    return number


def _applied(row_id: int, key: str = "a") -> Settlement:
    return Settlement(
        row=_row(row_id, key),
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        charged=True,
        remote_id="46",
        link_present=True,
    )


def _settle(connection: Connection, number: int, *settlements: Settlement) -> None:
    settle(connection, number, settlements, http_status=200, trusting=True)


def _beside(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_follower_in_another_lane_is_no_head(engine: Engine) -> None:
    """It is parked where it is, and goes on in its own lane when the row before it has gone."""
    _house(engine)
    (first,) = add_rows(engine, "a", lane=0)
    (second,) = add_rows(engine, "a", lane=1)
    mine, other = _owned(engine, 0), _owned(engine, 1)
    number = _sent(engine, mine, first)

    with writing(engine) as connection:
        before = ledger.read_heads(connection, other, limit=50)
    parked = states(engine)
    with writing(engine) as connection:
        _settle(connection, number, _applied(first))
        after = ledger.read_heads(connection, other, limit=50)

    assert before.rows == ()
    assert parked == {"a": "batched parked"}
    assert [row.id for row in after.rows] == [second]


def test_a_follower_that_is_just_being_taken_along_is_left_to_whoever_takes_it(
    server_engine: Engine,
) -> None:
    """One owner puts both rows into its batch while the other finds the second one behind the first."""
    engine = _house(server_engine)
    (first,) = add_rows(engine, "a", lane=0)
    (second,) = add_rows(engine, "a", lane=1)
    mine, other = _owned(engine, 0), _owned(engine, 1)

    with writing(engine) as connection:
        _journal(connection, mine, first, second)
        with writing(engine) as beside:
            heads = ledger.read_heads(beside, other, limit=50)

    assert heads.rows == ()
    assert states(engine) == {"a": "batched batched"}


def test_a_row_that_is_parked_while_the_one_before_it_is_settled_goes_on(
    server_engine: Engine,
) -> None:
    """Whoever settles waits for whoever parks, and then releases what was parked."""
    engine = _house(server_engine)
    (first,) = add_rows(engine, "a", lane=0)
    add_rows(engine, "a", lane=1)
    mine, other = _owned(engine, 0), _owned(engine, 1)
    number = _sent(engine, mine, first)

    with writing(engine) as connection:
        ledger.read_heads(connection, other, limit=50)
        beside = _beside(lambda: transact(engine, lambda c: _settle(c, number, _applied(first))))
        beside.join(0.5)
        waited = beside.is_alive()
    beside.join(PATIENCE_S)

    assert waited
    assert states(engine) == {"a": "ready"}


def test_a_row_is_not_parked_behind_one_that_is_leaving(server_engine: Engine) -> None:
    """The settlement has looked for parked rows already; this one stays ready and is met again."""
    engine = _house(server_engine)
    (first,) = add_rows(engine, "a", lane=0)
    add_rows(engine, "a", lane=1)
    mine, other = _owned(engine, 0), _owned(engine, 1)
    number = _sent(engine, mine, first)

    with writing(engine) as connection:
        _settle(connection, number, _applied(first))
        with writing(engine) as beside:
            heads = ledger.read_heads(beside, other, limit=50)

    assert heads.rows == ()
    assert states(engine) == {"a": "ready"}


def _waiting(row_id: int) -> list[Waiting]:
    return [Waiting(row_id=row_id, target=Ref("contact", "a"))]


def test_a_child_does_not_wait_for_an_id_that_is_being_written(server_engine: Engine) -> None:
    """Its parent in another lane is settled at this moment; it looks again a little later."""
    engine = _house(server_engine)
    (parent,) = add_rows(engine, "a", lane=0)
    (child,) = add_rows(engine, "b", lane=1)
    number = _sent(engine, _owned(engine, 0), parent)

    with writing(engine) as connection:
        _settle(connection, number, _applied(parent))
        with writing(engine) as beside:
            hold(beside, "default", _waiting(child))

    row = one(engine, tables.outbox)
    assert (row["state"], row["waits_for"]) == ("ready", None)
    assert row["due_at"] > 0


def test_a_child_does_not_wait_for_an_id_that_was_just_written(house: Engine) -> None:
    """Its parent was settled after the links were read."""
    (child,) = add_rows(house, "b")
    with writing(house) as connection:
        connection.execute(
            tables.link.insert().values(
                portal="default", kind="contact", entity_key="a", remote_id="46", state="present"
            )
        )
        hold(connection, "default", _waiting(child))

    assert states(house) == {"b": "ready"}


def test_a_child_that_waits_is_released_by_the_settlement_that_waited_for_it(
    server_engine: Engine,
) -> None:
    """The other way round: the child is being held when its parent is settled."""
    engine = _house(server_engine)
    (parent,) = add_rows(engine, "a", lane=0)
    (child,) = add_rows(engine, "b", lane=1)
    number = _sent(engine, _owned(engine, 0), parent)

    with writing(engine) as connection:
        hold(connection, "default", _waiting(child))
        beside = _beside(lambda: transact(engine, lambda c: _settle(c, number, _applied(parent))))
        beside.join(0.5)
        waited = beside.is_alive()
    beside.join(PATIENCE_S)

    assert waited
    assert states(engine) == {"b": "ready"}


@pytest.mark.parametrize(
    ("lane", "owned_too", "expected"),
    [
        ({"next_due_at": None}, False, True),
        ({"next_due_at": 10**15}, False, True),
        ({"next_due_at": 10**15, "rests_until": 10**15}, False, False),
        ({"next_due_at": 0, "lease_until": 10**15, "lease_owner": "x"}, False, False),
        ({"next_due_at": 0, "lease_until": 10**15, "lease_owner": "x"}, True, True),
        ({"next_due_at": 0}, True, False),
    ],
    ids=["nothing to do", "later", "rests", "owned", "owned, too", "due already"],
)
def test_the_other_lanes_are_woken_for_what_was_released(
    engine: Engine, lane: dict[str, Any], *, owned_too: bool, expected: bool
) -> None:
    """A lane with due rows that nobody has noticed is due, and its owner is told to look again."""
    _house(engine)
    add_rows(engine, "a", lane=1)
    mine = _owned(engine, 0)
    change(engine, tables.lane, lane, lane=1)

    with writing(engine) as connection:
        rung = taking.ring(connection, mine, owned_too=owned_too)

    after = one(engine, tables.lane, lane=1)
    assert (rung, after["wake_seq"]) == (int(expected), int(expected))
    if expected:
        assert after["next_due_at"] < 10**15


def test_rows_are_written_to_the_lane_of_their_entity(engine: Engine) -> None:
    """A portal with one shard has one lane, and so has one that must be able to stop."""
    add_portal(engine, "two", shards=2)
    add_portal(engine, "four", shards=4)
    add_portal(engine, "one")
    add_portal(engine, "strict", shards=2, policy={"halt": "strict"})
    keys = [f"c-{number}" for number in range(40)]
    changes = [
        Change("contact", key, "delete", portal=code)
        for code in ("one", "two", "four", "strict", "nobody's")
        for key in keys
    ]

    with writing(engine) as connection:
        Outbox().enqueue_many(connection, changes)

    written: dict[str, dict[str, int]] = {}
    for row in rows_of(engine, tables.outbox):
        written.setdefault(row["portal"], {})[row["entity_key"]] = row["lane"]
    assert written["two"] == {key: shard_of("contact", key, 2) for key in keys}
    assert set(written["four"].values()) == {0, 1, 2, 3}
    for code in ("one", "strict", "nobody's"):
        assert set(written[code].values()) == {0}


def test_the_number_of_shards_is_read_once_in_a_while(engine: Engine) -> None:
    """Not for every row; what was known before is as good, and after a minute it is known anew."""
    add_portal(engine, shards=1)
    now = [1000.0]
    outbox = Outbox(clock=lambda: now[0])
    found: list[set[int]] = []
    for shards_now, later_s in ((1, 0), (4, shards.KEEP_S - 1), (4, shards.KEEP_S + 1)):
        change(engine, tables.portal, {"shards": shards_now})
        now[0] = 1000.0 + later_s
        with writing(engine) as connection:
            connection.execute(tables.outbox.delete())
            outbox.enqueue(connection, *(Change("contact", f"{n}", "delete") for n in range(40)))
        found.append({row["lane"] for row in rows_of(engine, tables.outbox)})

    assert found == [{0}, {0}, {0, 1, 2, 3}]
