"""What is urgent does not wait for all that is as little urgent as the row that it stands behind."""

import pytest
from sqlalchemy import Connection, Engine

from b24sync.core.model import RowState
from b24sync.drain import Order, drain
from b24sync.edge import ledger, tables, taking
from b24sync.edge.database import writing
from b24sync.edge.lanes import Lane
from tests.fakes import ScriptedPortal
from tests.house import (
    Clerk,
    add_batch,
    add_row,
    add_rows,
    commands_of,
    one,
    states,
    taken,
    world_of,
)

LAST = 32_767
IN_A_BATCH = {RowState.BATCHED: "sending", RowState.DOUBT: "doubt"}


def _state(connection: Connection, state: RowState) -> dict[str, object]:
    if state not in IN_A_BATCH:
        return {"state": str(state)}
    batch = add_batch(connection, IN_A_BATCH[state])
    return {"state": str(state), "batch_id": batch, "cmd_no": 0}


def _mine(engine: Engine) -> Lane:
    with writing(engine) as connection:
        taking.wake(connection)
    return taken(engine)


@pytest.mark.parametrize(
    "state", [RowState.READY, RowState.BATCHED, RowState.DOUBT, RowState.HELD], ids=str
)
def test_a_row_becomes_as_urgent_as_the_row_that_is_parked_behind_it(
    house: Engine, state: RowState
) -> None:
    """Whatever it waits for itself: when that is over, it goes before all that is less urgent."""
    with writing(house) as connection:
        first = add_row(connection, "k", priority=LAST, **_state(connection, state))
    add_rows(house, "other", "another", priority=LAST)
    add_rows(house, "k", priority=5)
    urgent = add_rows(house, "k", priority=-3)[0]
    mine = _mine(house)

    with writing(house) as connection:
        ledger.read_heads(connection, mine, limit=1)

    assert one(house, tables.outbox, id=first)["priority"] == -3
    assert one(house, tables.outbox, id=urgent)["state"] == "parked"
    assert one(house, tables.outbox, entity_key="other")["priority"] == LAST


def test_a_row_that_became_urgent_is_read_next_though_it_is_old(house: Engine) -> None:
    """An owner that goes on reading where whole batches stand would pass it over for seconds."""
    first = add_rows(house, "k", priority=LAST)[0]
    add_rows(house, *"abcd")
    mine = _mine(house)
    with writing(house) as connection:
        ledger.read_heads(connection, mine, limit=2)
    add_rows(house, "k", priority=-1)
    with writing(house) as connection:
        ledger.read_heads(connection, mine, limit=2)

    add_rows(house, *"efgh", priority=-1)
    with writing(house) as connection:
        heads = ledger.read_heads(connection, mine, limit=2)

    assert heads.rows[0].id == first


def test_a_row_stays_as_urgent_as_it_is_before_less_urgent_ones(house: Engine) -> None:
    """A row in a batch is not put off for what comes after it."""
    with writing(house) as connection:
        first = add_row(connection, "k", priority=-3, **_state(connection, RowState.BATCHED))
    add_rows(house, "k", priority=5)

    mine = _mine(house)

    with writing(house) as connection:
        ledger.read_heads(connection, mine, limit=10)

    assert one(house, tables.outbox, id=first)["priority"] == -3


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "one after the other"])
def test_an_urgent_change_goes_in_one_of_the_next_two_batches(
    house: Engine, *, merge: bool
) -> None:
    """However many rows of no urgency wait, and whether or not one of them is of its entity."""
    keys = [f"k{number:03}" for number in range(300)]
    add_rows(house, *keys, priority=LAST)
    add_rows(house, "k250", fields={"name": "urgent"}, mergeable=merge)
    add_rows(house, "new", fields={"name": "hasty"})
    portal = ScriptedPortal([Clerk()] * 2)

    drain(world_of(house, portal, slice_batches=2), Order())

    sent = [list(commands_of(asked).values()) for asked in portal.asked]
    about = [number for number, lines in enumerate(sent) if any("k250" in one for one in lines)]
    urgent = [number for number, lines in enumerate(sent) if any("urgent" in one for one in lines)]
    assert len(sent[0]) == 50
    assert any("hasty" in line for line in sent[0])
    assert about == [0]
    assert urgent == ([0] if merge else [1])
    assert "k250" not in states(house)
