"""Chores: one process at a time runs one, and prune removes what is old and nothing else."""

from functools import partial

import pytest
from sqlalchemy import Engine

from b24sync.edge import chores, tables
from b24sync.edge.database import reading, transact, writing
from tests.house import (
    add_batch,
    add_portal,
    add_rows,
    change,
    database_now,
    in_threads,
    one,
)

HOUR_MS = 3_600_000


def begin(engine: Engine, *, every_ms: int = HOUR_MS, lease_ms: int = HOUR_MS) -> int | None:
    """Try to become the one who prunes."""
    work = partial(chores.begin, name="prune", every_ms=every_ms, lease_ms=lease_ms)
    return transact(engine, work)


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


def test_a_chore_is_held_longer_by_who_has_it_only(engine: Engine) -> None:
    """A run that takes long says so; one whose lease somebody else has taken since learns of it."""
    token = begin(engine, lease_ms=1000)
    assert token is not None
    hold = partial(chores.hold, name="prune", lease_ms=HOUR_MS)

    held = transact(engine, partial(hold, token=token))
    until = one(engine, tables.chore)["lease_until"]
    stale = transact(engine, partial(hold, token=token - 1))
    transact(engine, partial(chores.end, name="prune", token=token))
    ended = transact(engine, partial(hold, token=token))

    assert (held, stale, ended) == (True, False, False)
    assert until > database_now(engine) + HOUR_MS // 2
    assert one(engine, tables.chore)["lease_until"] == 0
