"""Lists as one parameter mean the same on every database, and indexes are used for them."""

from collections.abc import Sequence

from sqlalchemy import Engine, bindparam, delete, select, text, update

from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.edge.lists import Listed, Mapped, Spread, among, each_of, is_in, not_among, number_of
from tests.house import add_rows, rows_of

outbox = tables.outbox

KEYS = ["a", "it's", 'quo"ted', "back\\slash", "per%cent", "Ж é 漢", "A"]


def _found(engine: Engine, column: str, wanted: Sequence[object]) -> list[object]:
    with writing(engine) as connection:
        chosen = select(outbox.c[column]).where(is_in(outbox.c[column], wanted))
        return list(connection.execute(chosen.order_by(outbox.c.id)).scalars())


def test_texts_of_any_sort_are_found_by_a_list(engine: Engine) -> None:
    """Letter by letter, in the case that they are written in."""
    add_rows(engine, *KEYS, "b")

    assert _found(engine, "entity_key", [*KEYS, "nobody"]) == KEYS
    assert _found(engine, "entity_key", ["a"]) == ["a"]


def test_numbers_are_found_by_a_list_and_nothing_by_none(engine: Engine) -> None:
    """Twice the same number is once."""
    first, second, third = add_rows(engine, "a", "b", "c")

    assert _found(engine, "id", [third, first, third, 10**15]) == [first, third]
    assert _found(engine, "id", []) == []
    assert _found(engine, "id", [second]) == [second]


def test_the_others_are_found_by_what_they_are_not(engine: Engine) -> None:
    """The opposite of the same list."""
    first, second, third = add_rows(engine, "a", "b", "c")
    statement = select(outbox.c.id).where(
        not_among(outbox.c.id, bindparam("these", type_=Listed()))
    )

    with writing(engine) as connection:
        found = connection.execute(statement.order_by(outbox.c.id), {"these": [second]}).scalars()

        assert list(found) == [first, third]


def test_each_row_gets_the_number_that_belongs_to_it(engine: Engine) -> None:
    """By its own number, whatever the order of either."""
    first, second, third = add_rows(engine, "a", "b", "c")
    numbers = {third: 7, first: 0, second: 7}
    statement = (
        update(outbox)
        .where(among(outbox.c.id, bindparam("ids", type_=Listed())))
        .values(priority=number_of(outbox.c.id, bindparam("numbers", type_=Mapped())))
    )

    with writing(engine) as connection:
        moved = connection.execute(statement, {"ids": list(numbers), "numbers": numbers}).rowcount

    assert moved == 3
    assert {row["id"]: row["priority"] for row in rows_of(engine, outbox)} == numbers


def test_a_list_is_rows(engine: Engine) -> None:
    """In its order, as the texts that were given; an empty one is none."""
    rows = each_of(bindparam("keys", type_=Spread())).table_valued("value", name="keys")

    with writing(engine) as connection:
        listed = connection.execute(select(rows.c.value), {"keys": KEYS}).scalars().all()
        nothing = connection.execute(select(rows.c.value), {"keys": []}).scalars().all()

    assert (list(listed), list(nothing)) == (KEYS, [])


def test_an_index_is_used_for_a_list(lite_house: Engine) -> None:
    """A condition that is compared with true is none that an index helps with."""
    statement = delete(outbox).where(among(outbox.c.id, bindparam("ids", type_=Listed())))
    written = str(statement.compile(dialect=lite_house.dialect))

    with writing(lite_house) as connection:
        plan = connection.execute(
            text(f"EXPLAIN QUERY PLAN {written.replace('?', ':ids')}"), {"ids": "[1]"}
        )
        steps = [row[3] for row in plan]

    assert any(step.startswith("SEARCH b24sync_outbox USING INTEGER PRIMARY KEY") for step in steps)
