"""Partitions of results: made, filled, dropped, and never in a writer's way."""

from functools import partial

import pytest
from sqlalchemy import Engine, func, insert, select, text

from b24sync.core.retention import DAY_MS, HOUR_MS, Grain, Partition, name_of, period
from b24sync.edge import partitions, schema, tables
from b24sync.edge.database import insert_any_order, make_engine, reading, transact, writing
from b24sync.edge.partitions import HinderedError, Partitions
from tests.house import database_now

ON_SERVERS = pytest.mark.parametrize("backend", ["postgresql", "mariadb"])


def result_of(number: int, finished_at: int | None = None) -> dict[str, object]:
    """A final result; of now, unless told otherwise."""
    row: dict[str, object] = {
        "outbox_id": number,
        "portal": "default",
        "kind": "contact",
        "entity_key": f"c-{number}",
        "operation": "add",
        "outcome": "applied",
        "final": True,
        "attempt": 1,
        "enqueued_at": 1,
        "headers": None,
    }
    return row if finished_at is None else row | {"finished_at": finished_at}


def add_results(engine: Engine, *finished_at: int) -> None:
    """Results of these instants, by the statement that a settlement uses."""
    rows = [result_of(number, at) for number, at in enumerate(finished_at, start=1)]
    work = partial(insert_any_order, statement=insert(tables.result), rows=rows)
    transact(engine, work)


def count(engine: Engine) -> int:
    """All results."""
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(tables.result)).scalar_one())


def look(engine: Engine) -> Partitions:
    """The partitions, which are there."""
    found = partitions.current(engine)
    assert found is not None
    return found


def stretch(begin: int, end: int) -> Partition:
    """A partition between two instants."""
    return Partition(name=name_of(begin), from_ms=begin, to_ms=end)


@pytest.fixture
def bare(empty_engine: Engine) -> Engine:
    """Migrated tables with nothing but the catch-all."""
    schema.upgrade(empty_engine, grain=Grain.NONE)
    return empty_engine


@ON_SERVERS
def test_an_upgrade_makes_this_month_and_three_more(engine: Engine) -> None:
    """Results of now stand in a dated partition from the first one on, and the catch-all is empty."""
    now = database_now(engine)
    add_results(engine, now, now)
    with writing(engine) as connection:
        connection.execute(insert(tables.result), result_of(3))

    found = look(engine)
    assert len(found.dated) == 4
    assert found.dated[0].to_ms == period(Grain.MONTH, now)[1]
    assert found.rest_rows == 0
    with reading(engine) as connection:
        ids = connection.execute(select(tables.result.c.id)).scalars().all()
        assert partitions.problems(connection, Grain.MONTH) == ()
    assert sorted(ids) == [1, 2, 3]


@ON_SERVERS
def test_without_a_partition_a_writer_succeeds_and_somebody_is_told(bare: Engine) -> None:
    """The catch-all takes what fits nowhere; `db check` and `status` say so."""
    add_results(bare, database_now(bare))

    with reading(bare) as connection:
        said = [problem.text for problem in partitions.problems(connection, Grain.MONTH)]
        unasked = partitions.problems(connection, Grain.NONE)

    assert count(bare) == 1
    assert [line.split(",")[0] for line in said] == [
        "the next partition is missing",
        "the catch-all partition holds 1 results",
    ]
    assert unasked == ()
    assert [p.text for p in schema.check(bare, Grain.MONTH) if not p.blocks][-2:] == said


@ON_SERVERS
def test_a_new_partition_takes_over_what_the_catch_all_holds(bare: Engine) -> None:
    """A run that comes late puts things right; other times stay where they are."""
    now = database_now(bare)
    begin, end = period(Grain.DAY, now)
    add_results(bare, now, now, end + HOUR_MS)

    partitions.make(bare, stretch(begin, end))

    found = look(bare)
    assert [(part.from_ms, part.to_ms) for part in found.dated][-1][1] == end
    assert found.rest_rows == 1
    assert count(bare) == 3


@ON_SERVERS
def test_too_many_results_are_moved_only_on_demand(bare: Engine) -> None:
    """Writers wait while it lasts, so a person decides when."""
    now = database_now(bare)
    add_results(bare, now, now, now)
    part = stretch(*period(Grain.MONTH, now))

    with pytest.raises(HinderedError, match="more than 2 results"):
        partitions.make(bare, part, at_most=2)
    refused = look(bare)
    partitions.make(bare, part, at_most=None)

    assert refused.dated == ()
    assert look(bare).rest_rows == 0
    assert count(bare) == 3


@ON_SERVERS
def test_a_partition_is_dropped_with_its_results_only(bare: Engine) -> None:
    """What is later stays, and so do the ids: none is given twice."""
    begin, end = period(Grain.DAY, database_now(bare) - 40 * DAY_MS)
    partitions.make(bare, stretch(begin, end))
    partitions.make(bare, stretch(end, end + DAY_MS))
    add_results(bare, begin, end - 1, end, database_now(bare))

    partitions.drop(bare, look(bare).dated[0])

    assert [part.to_ms for part in look(bare).dated] == [end + DAY_MS]
    assert count(bare) == 2
    add_results(bare, database_now(bare))
    with reading(bare) as connection:
        assert connection.execute(select(func.max(tables.result.c.id))).scalar_one() == 5


@ON_SERVERS
def test_whoever_holds_the_table_is_not_waited_for_long(bare: Engine) -> None:
    """A report of an hour hinders the drop; the next run tries again, and nothing is half done."""
    begin, end = period(Grain.DAY, database_now(bare) - 40 * DAY_MS)
    partitions.make(bare, stretch(begin, end))
    add_results(bare, begin)
    with reading(bare) as connection:
        connection.execute(select(tables.result.c.id)).all()
        before = database_now(bare)

        with pytest.raises(HinderedError, match=r"(?i)lock"):
            partitions.drop(bare, look(bare).dated[0])

        waited_ms = database_now(bare) - before
        add_results(bare, end)
    assert waited_ms < 5_000
    assert count(bare) == 2
    partitions.drop(bare, look(bare).dated[0])
    assert count(bare) == 1


@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_partition_is_made_beside_writers_of_others(bare: Engine) -> None:
    """Making one ahead of its time needs nothing that a writer of today holds, but on MariaDB."""
    today = period(Grain.DAY, database_now(bare))
    partitions.make(bare, stretch(*today))
    with writing(bare) as connection:
        connection.execute(insert(tables.result), result_of(1))

        partitions.make(bare, stretch(today[1], today[1] + DAY_MS))

    assert len(look(bare).dated) == 2
    assert count(bare) == 1


@ON_SERVERS
def test_the_same_partition_twice_is_refused_and_harmless(bare: Engine) -> None:
    """Two processes that make it at once end with one."""
    part = stretch(*period(Grain.DAY, database_now(bare)))
    partitions.make(bare, part)

    with pytest.raises(HinderedError):
        partitions.make(bare, part)
    partitions.prepare(bare, (part,))

    assert len(look(bare).dated) == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_where_there_are_no_partitions_there_is_nothing_to_say(engine: Engine) -> None:
    """SQLite has one table."""
    with reading(engine) as connection:
        assert partitions.look(connection) is None
        assert partitions.problems(connection, Grain.MONTH) == ()


def test_partitions_stand_in_the_schema_of_their_table(
    postgresql_original: str, queue_name: str
) -> None:
    """Everything is done where the engine says, and not in the search path."""
    engine = make_engine(postgresql_original, schema=queue_name)
    plain = make_engine(postgresql_original)
    with writing(plain) as connection:
        connection.execute(text(f"CREATE SCHEMA {queue_name}"))
    schema.upgrade(engine, grain=Grain.DAY)
    add_results(engine, 1)

    partitions.drop(engine, look(engine).dated[0])

    assert len(look(engine).dated) == 14
    assert look(engine).rest_rows == 1
    assert len(look(plain).dated) == 4
    schema.downgrade(engine, "base")
    engine.dispose()
    plain.dispose()
