"""Pruning: what is over and old goes, nothing else does, and any run may be cut short."""

import json
from collections.abc import Callable
from functools import partial

import pytest
from sqlalchemy import Engine, insert, update

from b24sync.core.retention import DAY_MS, HOUR_MS, Grain, Partition, name_of, period
from b24sync.edge import chores, partitions, retention, schema, tables
from b24sync.edge.database import make_engine, reading, transact, writing
from b24sync.pruning import BUDGETS, COUNTS, MINUTES, Pruned, prune, survey
from tests.house import (
    add_batch,
    add_portal,
    change,
    database_now,
    one,
    rows_of,
    world_of,
)

FIRST = 1_760_000_400_000
"""A whole hour, long ago."""


def add_result(engine: Engine, *ages_ms: int) -> None:
    """Final results that are so old; each is that of the row of that number."""
    now = database_now(engine)
    rows = [
        {
            "finished_at": now - age_ms,
            "outbox_id": age_ms,
            "portal": "default",
            "kind": "contact",
            "entity_key": "a",
            "operation": "add",
            "outcome": "applied",
            "final": True,
            "attempt": 1,
            "enqueued_at": now - age_ms,
        }
        for age_ms in ages_ms
    ]
    with writing(engine) as connection:
        connection.execute(insert(tables.result), rows)


def add_count(engine: Engine, *minutes: int, code: str = "p", outcome: str = "applied") -> None:
    """Counts of minutes: the first is 1 change of 10 ms, the second 2 of 20 ms in all, and so on."""
    rows = [
        {
            "portal": code,
            "minute": minute,
            "outcome": outcome,
            "n": number,
            "latency_sum_ms": 10 * number,
            "latency_max_ms": 100 * number,
        }
        for number, minute in enumerate(minutes, start=1)
    ]
    with writing(engine) as connection:
        connection.execute(insert(tables.rollup), rows)


def add_dead(engine: Engine, number: int, closed_at: int | None) -> None:
    """A dead letter, as old as can be."""
    row = {
        "outbox_id": number,
        "portal": "default",
        "lane": 0,
        "kind": "contact",
        "entity_key": f"c-{number}",
        "operation": "add",
        "generation": 0,
        "mergeable": True,
        "priority": 0,
        "deliveries": 1,
        "attempts": 1,
        "not_runs": 0,
        "enqueued_at": 1,
        "reason": "refused",
        "error_code": "E",
        "first_error": "E",
        "last_error": "E",
        "dead_at": 1,
        "closed_at": closed_at,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.dead), row)


def add_duplicate(engine: Engine, number: int, closed_at: int | None) -> None:
    """A second record, found long ago."""
    row = {
        "portal": "default",
        "kind": "contact",
        "entity_key": "a",
        "kept_id": "1",
        "other_id": str(number),
        "found_by": "audit",
        "found_at": 1,
        "closed_at": closed_at,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.duplicate), row)


def pruned(
    engine: Engine, *, every_ms: int = 0, lasting: Callable[[], bool] = lambda: True
) -> Pruned | None:
    """One run, if nobody else is at it."""
    return prune(world_of(engine), every_ms=every_ms, lasting=lasting)


def done(engine: Engine, **settings: object) -> Pruned:
    """One run that nobody else hinders."""
    found = prune(world_of(engine, None, **settings), every_ms=0, lasting=lambda: True)
    assert found is not None
    return found


def times(number: int) -> Callable[[], bool]:
    """Lasting for so many looks."""
    left = [number]

    def lasting() -> bool:
        left[0] -= 1
        return left[0] >= 0

    return lasting


def test_only_what_is_over_and_old_goes(engine: Engine) -> None:
    """Each sort after its own span; what is open stays, however old, and so does what is young."""
    now = database_now(engine)
    add_portal(engine)
    with writing(engine) as connection:
        old, new = add_batch(connection, "answered"), add_batch(connection, "answered")
        doubted = add_batch(connection, "doubt")
    change(engine, tables.batch, {"closed_at": now - HOUR_MS}, id=new)
    change(engine, tables.batch, {"created_at": 1}, id=doubted)
    for number, closed_at in enumerate((None, 4, now - HOUR_MS), start=1):
        add_dead(engine, number, closed_at)
        add_duplicate(engine, number, closed_at)
    budget = {"portal": "default", "method": "a", "updated_at": 1}
    with writing(engine) as connection:
        connection.execute(insert(tables.method_budget), budget)
        connection.execute(
            insert(tables.method_budget), budget | {"method": "b", "blocked_until": now}
        )
        connection.execute(
            insert(tables.method_budget), budget | {"method": "c", "updated_at": now}
        )
    ahead = survey(world_of(engine))

    found = done(engine)

    assert {due.what: due.rows for due in ahead.due} == {
        "batches": 1,
        "dead letters": 1,
        "duplicates": 1,
        BUDGETS: 1,
    }
    assert {what: rows for what, rows in found.removed.items() if rows} == {
        "batches": 1,
        "dead letters": 1,
        "duplicates": 1,
        BUDGETS: 1,
    }
    assert found.is_over
    assert [row["id"] for row in rows_of(engine, tables.batch)] == [new, doubted]
    assert old not in (new, doubted)
    assert [row["outbox_id"] for row in rows_of(engine, tables.dead)] == [1, 3]
    assert [row["other_id"] for row in rows_of(engine, tables.duplicate)] == ["1", "3"]
    assert [row["method"] for row in rows_of(engine, tables.method_budget)] == ["b", "c"]
    assert survey(world_of(engine)).due == ()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_without_partitions_results_go_in_chunks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year's results are not removed in one transaction."""
    monkeypatch.setattr(retention, "CHUNK", 3)
    add_result(engine, *range(40 * DAY_MS + 6, 40 * DAY_MS - 1, -1), HOUR_MS)
    removed: list[tuple[str, int]] = []

    prune(
        world_of(engine),
        every_ms=0,
        lasting=lambda: True,
        watching=lambda what, rows: removed.append((what, rows)),
    )

    assert removed == [("results", 3), ("results", 3), ("results", 1)]
    assert [row["outbox_id"] for row in rows_of(engine, tables.result)] == [HOUR_MS]


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
def test_without_dated_partitions_the_catch_all_is_emptied_in_chunks(
    empty_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For installations in which workers may not change tables."""
    monkeypatch.setattr(retention, "CHUNK", 3)
    schema.upgrade(empty_engine, grain=Grain.NONE)
    add_result(empty_engine, *range(40 * DAY_MS + 4, 40 * DAY_MS - 1, -1), HOUR_MS)
    ahead = survey(world_of(empty_engine, result_partition="none"))

    found = done(empty_engine, result_partition="none")

    assert [(due.what, due.rows, due.partition) for due in ahead.due] == [("results", 5, None)]
    assert found.removed["results"] == 5
    assert (found.made, found.dropped, found.hindered) == ([], [], [])
    assert [row["outbox_id"] for row in rows_of(empty_engine, tables.result)] == [HOUR_MS]


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
def test_old_partitions_go_whole_and_new_ones_come(empty_engine: Engine) -> None:
    """What lies in a partition that is only partly old stays until all of it is."""
    schema.upgrade(empty_engine, grain=Grain.NONE)
    now = database_now(empty_engine)
    begin, end = period(Grain.DAY, now - 31 * DAY_MS)
    for number in range(3):
        at = begin + number * DAY_MS
        partitions.make(empty_engine, Partition(name=name_of(at), from_ms=at, to_ms=at + DAY_MS))
    gone, rest = now - begin, now - end - DAY_MS
    add_result(empty_engine, gone, rest, 30 * DAY_MS + HOUR_MS // 60, 0)
    ahead = survey(world_of(empty_engine, result_partition="day"))

    found = done(empty_engine, result_partition="day")

    assert [part.name.rpartition("_")[2] for part in found.dropped] == [name_of(begin)]
    assert [due.partition for due in ahead.due] == [part.name for part in found.dropped]
    assert len(ahead.to_make) == len(found.made) == 15
    assert found.removed == {}
    left = {row["outbox_id"] for row in rows_of(empty_engine, tables.result)}
    assert left == {rest, 30 * DAY_MS + HOUR_MS // 60, 0}
    assert survey(world_of(empty_engine, result_partition="day")).notes == ()
    again = done(empty_engine, result_partition="day")
    assert (again.made, again.dropped, again.is_over) == ([], [], True)


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
def test_what_stands_in_the_catch_all_beside_dated_partitions_goes_by_itself(
    engine: Engine,
) -> None:
    """Rows in dated partitions are never removed one by one, however old (PostgreSQL)."""
    add_result(engine, 400 * DAY_MS, 10)
    is_first = engine.dialect.name != "postgresql"

    found = done(engine)

    # MariaDB's first partition has no beginning: what is older than all stands there.
    assert found.removed.get("results", 0) == (0 if is_first else 1)
    assert len(rows_of(engine, tables.result)) == (2 if is_first else 1)


def test_a_drop_that_is_hindered_is_told_and_tried_again(postgresql_original: str) -> None:
    """A report holds the table: nothing is lost, and the next run does it."""
    engine = make_engine(postgresql_original, schema="pruned_while_read")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA pruned_while_read")
    schema.upgrade(engine, grain=Grain.NONE)
    begin, end = period(Grain.DAY, database_now(engine) - 40 * DAY_MS)
    partitions.make(engine, Partition(name="p1", from_ms=begin, to_ms=end))
    add_result(engine, 0)

    with reading(engine) as connection:
        connection.execute(tables.result.select()).all()
        hindered = done(engine)
    freed = done(engine)

    assert not hindered.is_over
    assert [line.split(" cannot")[0] for line in hindered.hindered] == [
        f"partition {name_of(period(Grain.MONTH, database_now(engine))[0])}",
        "partition b24sync_result_p1",
    ]
    assert len(freed.made) == 4
    assert [part.name for part in freed.dropped] == ["b24sync_result_p1"]
    schema.downgrade(engine, "base")
    engine.dispose()


def test_minutes_become_hours_and_the_sums_stay(engine: Engine) -> None:
    """A dashboard of a year sums the same figures from a sixtieth of the rows."""
    cut = retention.hours(database_now(engine) - 7 * DAY_MS)
    hour = cut - HOUR_MS
    add_count(engine, hour, hour + 60_000, hour + 120_000, cut, cut + 60_000)
    add_count(engine, hour + 60_000, outcome="failed")
    add_count(engine, hour - 30 * DAY_MS + 60_000, code="q")

    ahead = survey(world_of(engine))
    found = done(engine)

    kept = [
        (row["portal"], row["minute"], row["outcome"], row["n"], row["latency_sum_ms"])
        for row in rows_of(engine, tables.rollup)
    ]
    assert kept == [
        ("p", hour, "applied", 6, 60),
        ("p", hour, "failed", 1, 10),
        ("p", cut, "applied", 4, 40),
        ("p", cut + 60_000, "applied", 5, 50),
        ("q", hour - 30 * DAY_MS, "applied", 1, 10),
    ]
    assert one(engine, tables.rollup, minute=hour, outcome="applied")["latency_max_ms"] == 300
    assert [(due.what, due.rows) for due in ahead.due] == [(MINUTES, 4)]
    assert found.removed[MINUTES] == 2
    noted = json.loads(one(engine, tables.chore)["resume_from"])
    assert noted == {"folded_until_ms": cut}


def test_folding_again_changes_nothing(engine: Engine) -> None:
    """A run that was cut short before it noted how far it came is simply done again."""
    add_count(engine, FIRST, FIRST + 60_000, FIRST + HOUR_MS + 60_000)
    work = partial(retention.fold, code="p", from_ms=FIRST, to_ms=FIRST + DAY_MS)

    first = transact(engine, work)
    once = rows_of(engine, tables.rollup)
    second = transact(engine, work)

    assert (first, second) == (1, 0)
    assert [(row["minute"], row["n"]) for row in once] == [(FIRST, 3), (FIRST + HOUR_MS, 3)]
    assert rows_of(engine, tables.rollup) == once


def test_counts_of_years_ago_go(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every portal, in chunks, whole minutes at a time."""
    monkeypatch.setattr(retention, "CHUNK", 2)
    old = retention.hours(database_now(engine) - 500 * DAY_MS)
    for code in ("p", "q"):
        add_count(engine, *(old + number * HOUR_MS for number in range(3)), code=code)
        add_count(engine, old, code=code, outcome="failed")
        add_count(engine, old + 300 * DAY_MS, code=code)
    ahead = survey(world_of(engine))

    found = done(engine)

    assert [(due.what, due.rows) for due in ahead.due] == [(COUNTS, 8)]
    assert found.removed[COUNTS] == 8
    assert [row["minute"] for row in rows_of(engine, tables.rollup)] == [old + 300 * DAY_MS] * 2


@pytest.mark.parametrize("looks", range(11))
def test_a_run_that_is_cut_short_is_gone_on_with(lite_house: Engine, looks: int) -> None:
    """Wherever it ends, the lease is given back, and the next run comes to the same end."""
    add_result(lite_house, 40 * DAY_MS, 0)
    add_dead(lite_house, 1, 4)
    hour = retention.hours(database_now(lite_house) - 30 * DAY_MS)
    add_count(lite_house, hour, hour + 60_000)

    cut = pruned(lite_house, lasting=times(looks))
    lease = one(lite_house, tables.chore)["lease_until"]
    rest = done(lite_house)

    assert cut is not None
    assert not cut.is_over
    assert rest.is_over
    assert lease == 0
    assert cut.rows + rest.rows == 1 + 1 + 1
    assert len(rows_of(lite_house, tables.result)) == 1
    assert [row["n"] for row in rows_of(lite_house, tables.rollup)] == [3]


def test_one_at_a_time_and_once_in_its_interval(lite_house: Engine) -> None:
    """However many beats ring; a person may at any time, unless somebody is at it."""
    begin = partial(chores.begin, name="prune", every_ms=HOUR_MS, lease_ms=HOUR_MS)
    token = transact(lite_house, begin)
    assert token is not None

    meanwhile = pruned(lite_house)
    transact(lite_house, partial(chores.end, name="prune", token=token))
    too_early = pruned(lite_house, every_ms=HOUR_MS)
    by_hand = pruned(lite_house)

    assert (meanwhile, too_early) == (None, None)
    assert by_hand is not None


def test_a_sqlite_file_shrinks_when_much_has_gone(sqlite_engine: Engine) -> None:
    """Its empty pages go back to the disk, but for a tenth that the next results will fill."""
    add_result(sqlite_engine, *range(40 * DAY_MS, 40 * DAY_MS + 5000))
    with reading(sqlite_engine) as connection:
        before = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    done(sqlite_engine)

    with reading(sqlite_engine) as connection:
        after = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    assert after < before // 2
    assert free == before // 10


def test_a_file_that_cannot_shrink_is_left_alone(sqlite_engine: Engine) -> None:
    """One that an application made has its own way, and its empty pages are used again."""
    with sqlite_engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("PRAGMA journal_mode=DELETE")
        cursor.execute("PRAGMA auto_vacuum = NONE")
        cursor.execute("VACUUM")
        cursor.close()
    add_result(sqlite_engine, *range(40 * DAY_MS, 40 * DAY_MS + 2000))

    found = done(sqlite_engine)

    assert found.is_over
    assert rows_of(sqlite_engine, tables.result) == []


def test_a_note_that_nobody_can_read_means_from_the_beginning(lite_house: Engine) -> None:
    """Folding again is harmless, stopping for good is not."""
    with writing(lite_house) as connection:
        connection.execute(insert(tables.chore), {"name": "prune", "resume_from": "torn"})
        assert retention.folded_until(connection, "prune") == 0
        connection.execute(update(tables.chore).values(resume_from="[]"))
        assert retention.folded_until(connection, "prune") == 0
