"""What is over and older than it is to be kept: found, counted, and removed in small steps.

Every step is a transaction of its own over about a thousand rows, reached by their primary key, so
that nobody waits for it and whatever is cut short has still done something. Only rows that are over
are ever removed: open batches, dead letters and duplicates stay, however old. No step asks for the
clock: the instant is given, because a database that evaluates its clock for each row uses no index.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Select,
    Table,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    text,
    update,
)

from b24sync.core.retention import DAY_MS, HOUR_MS, Keep, pages_to_free
from b24sync.edge.database import MYSQL_NAMES, upsert
from b24sync.edge.tables import (
    REST,
    batch,
    chore,
    dead,
    duplicate,
    method_budget,
    result,
    rollup,
)

CHUNK = 1000
"""Rows looked at, and at the most removed, in one transaction."""
PAGES = 500
"""Pages that a SQLite file gives back in one transaction."""
INCREMENTAL = 2
"""What SQLite calls a file that gives pages back when asked (``PRAGMA auto_vacuum``)."""

BEFORE = bindparam("before_ms", type_=BigInteger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aged:
    """A table whose rows are numbered as they come about, and are over at some time.

    Shape: ``born`` is when a row was written; no row is over before that. ``hints`` goes behind the
    table's name, by dialect.
    """

    name: str
    table: Table
    born: str
    is_over: ColumnElement[bool]
    hints: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A stretch of a table that was looked at; ``is_last``, there is nothing to find behind it."""

    last_id: int
    over: int
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many rows would go, and how old the oldest is.

    Units: ``oldest_ms`` epoch milliseconds.
    """

    rows: int
    oldest_ms: int | None


BATCHES = Aged(name="batches", table=batch, born="created_at", is_over=batch.c.closed_at < BEFORE)
DEAD = Aged(name="dead letters", table=dead, born="dead_at", is_over=dead.c.closed_at < BEFORE)
DUPLICATES = Aged(
    name="duplicates", table=duplicate, born="found_at", is_over=duplicate.c.closed_at < BEFORE
)


def results_in(connection: Connection, *, rest_only: bool) -> Aged:
    """The results that are removed in chunks: all of them, or those in the catch-all.

    Writes: nothing.
    """
    table, hints = result, dict[str, str]()
    if rest_only and connection.dialect.name == "postgresql":
        table = result.to_metadata(MetaData(), name=f"{result.name}_{REST}")
    elif rest_only:
        hints.update(dict.fromkeys(MYSQL_NAMES, f"PARTITION ({REST})"))
    return Aged(
        name="results",
        table=table,
        born="finished_at",
        is_over=table.c.finished_at < BEFORE,
        hints=hints,
    )


def page(connection: Connection, aged: Aged, after_id: int, before_ms: int) -> Page | None:
    """Look at the next rows of a table; ``None``, there are none.

    Units: ``before_ms`` epoch milliseconds; what was over before that is meant.
    Writes: nothing.
    """
    table, born = aged.table, aged.table.c[aged.born]
    rows = (
        _read(select(table.c.id, born, case((aged.is_over, 1), else_=0).label("over")), aged)
        .where(table.c.id > after_id)
        .order_by(table.c.id)
        .limit(CHUNK)
        .subquery()
    )
    found = connection.execute(
        select(func.max(rows.c.id), func.sum(rows.c.over), func.count(), func.min(rows.c[1])),
        {"before_ms": before_ms},
    ).one()
    if found[0] is None:
        return None
    # Rows are numbered nearly in the order of their times: behind a page of young ones are younger.
    is_last = int(found[2]) < CHUNK or int(found[3]) >= before_ms
    return Page(last_id=int(found[0]), over=int(found[1]), is_last=is_last)


def remove(connection: Connection, aged: Aged, after_id: int, last_id: int, before_ms: int) -> int:
    """Remove what is over of a stretch of a table; the number removed.

    Writes: the table.
    """
    table = aged.table
    gone = table.delete()
    for dialect, hint in aged.hints.items():
        gone = gone.with_hint(hint, dialect_name=dialect)
    gone = gone.where(table.c.id > after_id, table.c.id <= last_id, aged.is_over)
    return connection.execute(gone, {"before_ms": before_ms}).rowcount


def count(connection: Connection, aged: Aged, before_ms: int) -> Counted:
    """How many rows of a table are over since before then.

    Writes: nothing.
    """
    counted = _read(select(func.count(), func.min(aged.table.c[aged.born])), aged)
    rows, oldest = connection.execute(counted.where(aged.is_over), {"before_ms": before_ms}).one()
    return Counted(rows=int(rows), oldest_ms=oldest)


def counted_portals(connection: Connection) -> tuple[str, ...]:
    """The codes under which something is counted, each found by one look at the index.

    Writes: nothing.
    """
    codes: list[str] = []
    code = connection.execute(select(func.min(rollup.c.portal))).scalar()
    while code is not None:
        codes.append(code)
        following = select(func.min(rollup.c.portal)).where(rollup.c.portal > code)
        code = connection.execute(following).scalar()
    return tuple(codes)


def first_minute(connection: Connection, code: str, from_ms: int, before_ms: int) -> int | None:
    """The first minute of a stretch of time in which something was counted.

    Writes: nothing.
    """
    return connection.execute(
        select(func.min(rollup.c.minute)).where(
            rollup.c.portal == code, rollup.c.minute >= from_ms, rollup.c.minute < before_ms
        )
    ).scalar()


def fold(connection: Connection, code: str, from_ms: int, to_ms: int) -> int:
    """Make of a portal's counts per minute counts per hour; how many rows fewer there are.

    An hour's row stands in its first minute. What was folded already stays as it is, so that it may
    be done again. Nobody counts into minutes that are days old.
    Shape: ``from_ms`` and ``to_ms`` are whole hours, at most a day apart.
    Writes: rollup.
    """
    hour = rollup.c.minute - rollup.c.minute % HOUR_MS
    mine = and_(rollup.c.portal == code, rollup.c.minute >= from_ms, rollup.c.minute < to_ms)
    found = connection.execute(
        select(
            hour.label("hour"),
            rollup.c.outcome,
            func.sum(rollup.c.n),
            func.sum(rollup.c.latency_sum_ms),
            func.max(rollup.c.latency_max_ms),
            func.count(),
        )
        .where(mine)
        .group_by(text("hour"), rollup.c.outcome)
        .having(func.max(rollup.c.minute % HOUR_MS) > 0)
    ).all()
    if not found:
        return 0
    connection.execute(rollup.delete().where(mine, rollup.c.minute % HOUR_MS > 0))
    upsert(
        connection,
        rollup,
        [
            {
                "portal": code,
                "minute": int(at),
                "outcome": outcome,
                "n": int(n),
                "latency_sum_ms": int(total),
                "latency_max_ms": int(longest),
            }
            for at, outcome, n, total, longest, _ in found
        ],
        keys=("portal", "minute", "outcome"),
        update=lambda new: {name: new(name) for name in ("n", "latency_sum_ms", "latency_max_ms")},
    )
    return sum(int(row[-1]) for row in found) - len(found)


def remove_counts(connection: Connection, code: str, before_ms: int) -> int:
    """Remove about a chunk of a portal's oldest counts; 0, there are no more.

    Writes: rollup.
    """
    old = select(rollup.c.minute).where(rollup.c.portal == code, rollup.c.minute < before_ms)
    minutes = connection.execute(old.order_by(rollup.c.minute).limit(CHUNK)).scalars().all()
    if not minutes:
        return 0
    # A minute has a row for each outcome; the last one goes whole.
    gone = rollup.delete().where(rollup.c.portal == code, rollup.c.minute <= minutes[-1])
    return connection.execute(gone).rowcount


def count_counts(
    connection: Connection, code: str, *, unfolded_from_ms: int, keep: Keep, now_ms: int
) -> tuple[Counted, Counted]:
    """How many of a portal's counts would go, and how many would be folded into hours.

    Writes: nothing.
    """
    gone_before, folded_before = now_ms - keep.rollups_ms, hours(now_ms - keep.minutes_ms)
    counted = select(func.count(), func.min(rollup.c.minute)).where(rollup.c.portal == code)
    old = connection.execute(counted.where(rollup.c.minute < gone_before)).one()
    loose = connection.execute(
        counted.where(
            rollup.c.minute >= max(gone_before, unfolded_from_ms),
            rollup.c.minute < folded_before,
            rollup.c.minute % HOUR_MS > 0,
        )
    ).one()
    return (
        Counted(rows=int(old[0]), oldest_ms=old[1]),
        Counted(rows=int(loose[0]), oldest_ms=loose[1]),
    )


def hours(at_ms: int) -> int:
    """The whole hour before an instant.

    Units: epoch milliseconds.
    """
    return at_ms - at_ms % HOUR_MS


def next_day(at_ms: int, end_ms: int) -> int:
    """The end of a stretch of at most a day that begins then.

    Units: epoch milliseconds.
    """
    return min(at_ms + DAY_MS, end_ms)


def folded_until(connection: Connection, name: str) -> int:
    """Up to which hour all counts are folded, as the chore has noted it.

    Units: epoch milliseconds; 0, nothing is known of it.
    Writes: nothing.
    """
    noted = connection.execute(select(chore.c.resume_from).where(chore.c.name == name)).scalar()
    try:
        return int(json.loads(noted or "{}")["folded_until_ms"])
    except (ValueError, KeyError, TypeError):
        return 0


def note_folded(connection: Connection, name: str, token: int, until_ms: int) -> None:
    """Note up to which hour all counts are folded, if the chore is still ours.

    Writes: chore.
    """
    connection.execute(
        update(chore)
        .where(chore.c.name == name, chore.c.token == token)
        .values(resume_from=json.dumps({"folded_until_ms": until_ms}))
    )


def remove_budgets(connection: Connection, before_ms: int) -> int:
    """Forget about a chunk of the methods that were not used since then; 0, there are no more.

    Writes: method_budget.
    """
    keys = (method_budget.c.portal, method_budget.c.app_id, method_budget.c.method)
    unused = _unused(before_ms)
    found = connection.execute(select(*keys).where(unused).limit(CHUNK)).all()
    gone = 0
    for row in found:
        mine = and_(*(column == value for column, value in zip(keys, row, strict=True)))
        gone += connection.execute(method_budget.delete().where(mine, unused)).rowcount
    return gone


def count_budgets(connection: Connection, before_ms: int) -> Counted:
    """How many methods would be forgotten.

    Writes: nothing.
    """
    found = connection.execute(
        select(func.count(), func.min(method_budget.c.updated_at)).where(_unused(before_ms))
    ).one()
    return Counted(rows=int(found[0]), oldest_ms=found[1])


def free_pages(engine: Engine) -> int:
    """Give some of a SQLite file's empty pages back; how many are still to be given back.

    Shape: 0 for other databases, and for files that give none back.
    Raises: the driver's own errors.
    Writes: the file, in a transaction of its own.
    """
    if engine.dialect.name != "sqlite":
        return 0
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        try:
            mode, pages, free = (
                int(cursor.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("auto_vacuum", "page_count", "freelist_count")
            )
            wanted = pages_to_free(pages, free) if mode == INCREMENTAL else 0
            if wanted:
                # One page goes with each step, and only a script is stepped to its end: its rows
                # have no columns, which Python takes for no rows.
                cursor.executescript(f"PRAGMA incremental_vacuum({min(PAGES, wanted)})")
        finally:
            cursor.close()
    return max(0, wanted - PAGES)


def _unused(before_ms: int) -> ColumnElement[bool]:
    until = method_budget.c.blocked_until
    return and_(method_budget.c.updated_at < before_ms, or_(until.is_(None), until < before_ms))


def _read(statement: Select[*tuple[Any, ...]], aged: Aged) -> Select[*tuple[Any, ...]]:
    for dialect, hint in aged.hints.items():
        statement = statement.with_hint(aged.table, hint, dialect)
    return statement
