"""Chores: one process at a time runs one, and prune removes what is old and nothing else."""

from functools import partial

import pytest
from sqlalchemy import Engine, insert

from b24sync.edge import chores, tables
from b24sync.edge.database import reading, transact, writing
from tests.house import (
    FAR_MS,
    add_batch,
    add_portal,
    add_rows,
    change,
    database_now,
    in_threads,
    one,
    rows_of,
    states,
)

HOUR_MS = 3_600_000
KEEP = chores.Retention(results_ms=2 * HOUR_MS, rollups_ms=4 * HOUR_MS)


def begin(engine: Engine, *, every_ms: int = HOUR_MS, lease_ms: int = HOUR_MS) -> int | None:
    """Try to become the one who prunes."""
    work = partial(chores.begin, name="prune", every_ms=every_ms, lease_ms=lease_ms)
    return transact(engine, work)


def add_result(engine: Engine, *ages_ms: int) -> None:
    """Final results that are so old."""
    now = database_now(engine)
    with writing(engine) as connection:
        for age_ms in ages_ms:
            connection.execute(
                insert(tables.result).values(
                    finished_at=now - age_ms,
                    outbox_id=age_ms,
                    portal="default",
                    kind="contact",
                    entity_key="a",
                    operation="add",
                    outcome="applied",
                    final=True,
                    attempt=1,
                    enqueued_at=now - age_ms,
                )
            )


def add_counts(engine: Engine, *ages_ms: int, portals: int = 1) -> None:
    """Counts of minutes that are so old, for so many portals."""
    now = database_now(engine)
    with writing(engine) as connection:
        connection.execute(
            insert(tables.rollup),
            [
                {
                    "portal": f"p{number}",
                    "minute": now - age_ms,
                    "outcome": "applied",
                    "n": 1,
                    "latency_sum_ms": 1,
                    "latency_max_ms": 1,
                }
                for age_ms in ages_ms
                for number in range(portals)
            ],
        )


def prune(engine: Engine) -> int:
    """Remove one chunk."""
    return transact(engine, partial(chores.prune_chunk, keep=KEEP))


def test_of_many_who_begin_at_once_one_does(engine: Engine) -> None:
    """However many beats ring, a chore runs once in its interval."""
    tokens: list[int | None] = []

    in_threads([lambda: tokens.append(begin(engine))] * 6)

    assert sorted(token or 0 for token in tokens) == [0, 0, 0, 0, 0, 1]


def test_a_chore_that_has_run_waits_for_its_next_time(engine: Engine) -> None:
    """The lease is given back and the interval still counts, up to half of it."""
    first = begin(engine)
    assert first == 1
    transact(engine, partial(chores.end, name="prune", token=first))

    at_once = begin(engine)
    change(engine, tables.chore, {"last_run_at": database_now(engine) - HOUR_MS * 2 // 5})
    early = begin(engine)
    change(engine, tables.chore, {"last_run_at": database_now(engine) - HOUR_MS * 3 // 5})
    next_time = begin(engine)

    assert (at_once, early, next_time) == (None, None, 2)


def test_the_lease_of_a_dead_process_lapses(engine: Engine) -> None:
    """Whoever comes after it runs the chore, and what the dead one would write is not written."""
    late = begin(engine)
    change(engine, tables.chore, {"last_run_at": 0})
    held = begin(engine)
    change(engine, tables.chore, {"lease_until": 0})

    taken = begin(engine)
    assert late is not None
    transact(engine, partial(chores.end, name="prune", token=late))

    assert (held, taken) == (None, 2)
    assert one(engine, tables.chore)["lease_until"] > database_now(engine)


@pytest.mark.parametrize(
    ("lease", "found"),
    [
        pytest.param({"lease_until": None, "lease_owner": None}, True, id="given back"),
        pytest.param({"lease_until": 1, "lease_owner": "gone"}, True, id="lapsed"),
        pytest.param({"lease_until": 10**15, "lease_owner": "here"}, False, id="owned"),
    ],
)
def test_a_batch_is_abandoned_when_nobody_owns_its_lane(
    engine: Engine, lease: dict[str, object], *, found: bool
) -> None:
    """A worker that is only slow keeps its batch."""
    add_portal(engine)
    with writing(engine) as connection:
        number = add_batch(connection, "sending")
    change(engine, tables.lane, {"open_batch_id": number} | lease)

    with writing(engine) as connection:
        abandoned = chores.abandoned_batches(connection)
        chores.forget_batch(connection, number)

    assert abandoned == ((number,) if found else ())
    assert (one(engine, tables.lane)["open_batch_id"] is None) == found


def test_the_portals_are_named_that_only_rows_know(engine: Engine) -> None:
    """Nobody drains their rows, so somebody must be told; before, between and behind known ones."""
    add_portal(engine, "b")
    add_portal(engine, "d")
    for code in ("d", "a", "c2", "b", "c1", "e", "a"):
        add_rows(engine, "k", portal=code)

    with reading(engine) as connection:
        unknown = chores.unknown_portals(connection)
        some = chores.unknown_portals(connection, limit=2)

    assert unknown == ("a", "c1", "c2", "e")
    assert len(some) == 2


def test_without_rows_or_portals_no_portal_is_unknown(engine: Engine) -> None:
    """An empty table names nobody."""
    with reading(engine) as connection:
        unknown = chores.unknown_portals(connection)

    assert unknown == ()


def test_another_batch_of_the_lane_is_not_forgotten(engine: Engine) -> None:
    """A lane that has gone on to its next batch remembers that one."""
    add_portal(engine)
    with writing(engine) as connection:
        former, latter = add_batch(connection, "answered"), add_batch(connection, "sending")
    change(engine, tables.lane, {"open_batch_id": latter})

    with writing(engine) as connection:
        chores.forget_batch(connection, former)

    assert one(engine, tables.lane)["open_batch_id"] == latter


def test_only_what_is_old_is_removed(engine: Engine) -> None:
    """Results and closed batches after one span, counts after another; what is open stays."""
    add_portal(engine)
    add_result(engine, HOUR_MS, 3 * HOUR_MS)
    add_counts(engine, 3 * HOUR_MS, 5 * HOUR_MS)
    with writing(engine) as connection:
        old, new = add_batch(connection, "answered"), add_batch(connection, "answered")
        doubted = add_batch(connection, "doubt")
    change(engine, tables.batch, {"closed_at": database_now(engine) - HOUR_MS}, id=new)
    change(engine, tables.batch, {"created_at": 1}, id=doubted)

    removed = prune(engine)

    assert removed == 3
    assert [row["outbox_id"] for row in rows_of(engine, tables.result)] == [HOUR_MS]
    assert [row["id"] for row in rows_of(engine, tables.batch)] == [new, doubted]
    assert old not in (new, doubted)
    assert len(rows_of(engine, tables.rollup)) == 1
    assert prune(engine) == 0
    assert states(engine) == {}


def test_a_chunk_is_not_more_than_a_chunk(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year's results are not removed in one transaction, nor a year's counts."""
    monkeypatch.setattr(chores, "CHUNK", 3)
    add_result(sqlite_engine, *(FAR_MS * 10 + number for number in range(7)))
    add_counts(sqlite_engine, *(FAR_MS * 20 + number for number in range(4)), portals=2)

    removed = [prune(sqlite_engine) for _ in range(4)]

    assert removed == [3 + 4, 3 + 4, 1, 0]
