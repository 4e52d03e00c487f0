"""An owner goes on reading where it was, and misses nothing for long."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, delete

from b24sync.edge import ledger, tables
from b24sync.edge.database import writing
from b24sync.edge.lanes import SWEEP_S, Floor, Lane
from tests.house import add_portal, add_rows, taken


@pytest.fixture
def house(engine: Engine) -> Engine:
    """A portal whose lane is due."""
    add_portal(engine, next_due_at=0)
    return engine


@pytest.fixture
def mine(house: Engine) -> Lane:
    """A lane with the rows 11 to 20, of which two were read and sent: its owner has a floor."""
    for number in range(11, 21):
        add_rows(house, f"k{number}", id=number)
    mine = taken(house)
    assert read(house, mine) == [11, 12]
    gone(house, 11, 12)
    assert read(house, mine) == [13, 14]
    return mine


def read(engine: Engine, mine: Lane, limit: int = 2) -> list[int]:
    """The next rows, by their ids."""
    with writing(engine) as connection:
        return [row.id for row in ledger.read_heads(connection, mine, limit=limit).rows]


def gone(engine: Engine, *ids: int) -> None:
    """These rows are finished."""
    with writing(engine) as connection:
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id.in_(ids)))


def test_a_smaller_number_that_comes_late_is_found_by_the_next_sweep(
    house: Engine, mine: Lane
) -> None:
    """Numbers are given before they are committed."""
    add_rows(house, "late", id=5)
    before = read(house, mine)
    mine.floor.swept_s -= SWEEP_S

    assert (before, read(house, mine)) == ([13, 14], [5, 13])


def test_the_next_owner_begins_from_the_beginning(house: Engine, mine: Lane) -> None:
    """A floor is in the memory of one owner, and not in the table."""
    add_rows(house, "late", id=5)
    other = Lane(
        tenant=mine.tenant,
        lane=0,
        epoch=mine.epoch + 1,
        wake_seq=0,
        open_batch_id=None,
        fail_streak=0,
    )

    assert read(house, other) == [5, 13]


def test_a_more_urgent_row_goes_before_the_floor_at_once(house: Engine, mine: Lane) -> None:
    """Also when its number is smaller than all of those that wait."""
    add_rows(house, "urgent", id=7, priority=-1)
    add_rows(house, "urgent too", id=30, priority=-1)

    assert read(house, mine, 4) == [7, 30, 13, 14]


@pytest.mark.parametrize("limit", [7, 9])
def test_what_is_less_urgent_follows_when_the_floor_does_not_fill_a_batch(
    house: Engine, mine: Lane, limit: int
) -> None:
    """The rows of the floor's priority are seven, and then come the others."""
    add_rows(house, "patient", id=6, priority=3)
    gone(house, 13)

    assert read(house, mine, limit) == [*range(14, 21), 6][:limit]


def test_behind_rows_of_two_priorities_the_floor_is_that_of_the_last(house: Engine) -> None:
    """The more urgent ones are read whole, whatever their number."""
    add_rows(house, "a", id=20, priority=1)
    for number in (21, 22, 23):
        add_rows(house, f"k{number}", id=number, priority=5)
    mine = taken(house)

    assert read(house, mine) == [20, 21]
    assert (mine.floor.priority, mine.floor.row_id) == (5, 21)
    gone(house, 20, 21)
    add_rows(house, "e", id=3, priority=1)
    assert read(house, mine) == [3, 22]
    assert (mine.floor.priority, mine.floor.row_id) == (5, 22)


def test_what_stood_behind_a_row_of_the_last_batch_is_found(house: Engine) -> None:
    """Its number is greater than that of its head, and so than the floor."""
    ids: Sequence[int] = add_rows(house, "x", "x", "y", "z", "w")
    mine = taken(house)
    assert read(house, mine, 3) == [ids[0], ids[2]]
    gone(house, ids[0], ids[2])
    with writing(house) as connection:
        connection.execute(
            tables.outbox.update().where(tables.outbox.c.id == ids[1]).values(state="ready")
        )

    assert read(house, mine, 3) == [ids[1], ids[3], ids[4]]


def test_a_floor_that_was_never_swept_holds_nothing() -> None:
    """The first read of an owner is from the beginning; a sweep holds for a while."""
    floor = Floor()
    assert not floor.holds(0.0)
    floor.swept(100.0, 0, 50)
    floor.rise(0, 60)
    assert (floor.priority, floor.row_id) == (0, 60)
    assert floor.holds(100.0 + SWEEP_S - 0.1)
    assert not floor.holds(100.0 + SWEEP_S)
