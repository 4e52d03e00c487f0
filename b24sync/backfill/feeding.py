"""Step after step of a back-fill: a page of its source, its changes, and the place behind it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TypeAlias

from sqlalchemy import Connection, Engine, insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from b24sync.backfill.opening import Source, elsewhere, plainly, source_of
from b24sync.core.backfilling import Key, Page, next_size
from b24sync.core.changes import checked
from b24sync.core.errors import B24SyncError, BackfillError
from b24sync.core.model import Change
from b24sync.edge import backfills, sources
from b24sync.edge.backfills import Backfill, Fed
from b24sync.edge.database import (
    TRIES,
    insert_any_order,
    only_asks_again,
    reading,
    transact,
    writing,
)
from b24sync.edge.links import read_links
from b24sync.edge.shards import lane_of
from b24sync.edge.sources import Locked
from b24sync.edge.tables import outbox
from b24sync.world import World

log = logging.getLogger("b24sync")

LEASE_MS = 120_000
"""After that long without a step, a feeder has died."""

HEADER = "backfill"
"""The header by which results tell which back-fill a change came from."""


class Rest(StrEnum):
    """Why a feeder has stopped."""

    DONE = "done"
    FULL = "full"
    LOCKED = "locked"
    TAKEN = "taken"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeding:
    """What a feeder has read, and why it stopped."""

    fed: Fed
    why: Rest
    reason: str | None = None


class _Lost(Exception):  # noqa: N818 - a signal inside this module, not an error
    """The back-fill is not ours any more; the step is undone."""


Watching: TypeAlias = Callable[[Fed], object]


def _unwatched(_fed: Fed) -> None:
    return


def feed(
    world: World,
    code: str,
    *,
    lasting: Callable[[], bool],
    watching: Watching = _unwatched,
) -> Feeding:
    """Feed a back-fill as long as it lasts and few enough of its rows wait.

    ``lasting`` is asked before every step; ``watching`` is told of each that was committed.
    Raises: OperationalError, InterfaceError, DatabaseError if a database is gone; all that was
    committed stays, and the back-fill goes on from there.
    Writes: outbox and backfill, together in each step.
    """
    token = transact(world.engine, partial(backfills.take, code=code, lease_ms=LEASE_MS))
    if token is None:
        return Feeding(fed=Fed(), why=Rest.TAKEN)
    mine = _Mine(world=world, code=code, token=token, lasting=lasting, watching=watching)
    try:
        feeding = _opened(mine)
    except BaseException:
        # Whoever comes next need not wait until the lease is over.
        with suppress(OperationalError, InterfaceError):
            transact(world.engine, partial(backfills.leave, code=code, token=token))
        raise
    if feeding.why is Rest.FAILED:
        reason = feeding.reason or ""
        transact(world.engine, partial(backfills.fail, code=code, token=token, reason=reason))
        log.error("backfill_failed code=%s reason=%r", code, reason)
    elif feeding.why is Rest.DONE:
        log.info("backfill_done code=%s", code)
    else:
        transact(world.engine, partial(backfills.leave, code=code, token=token))
    return feeding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mine:
    """A back-fill that this process feeds."""

    world: World
    code: str
    token: int
    lasting: Callable[[], bool]
    watching: Watching


def _opened(mine: _Mine) -> Feeding:
    with reading(mine.world.engine) as connection:
        found = backfills.find(connection, mine.code)
    if found is None:
        return Feeding(fed=Fed(), why=Rest.TAKEN)
    try:
        with elsewhere(mine.world, found.source) as engine:
            source = source_of(found.source, kind=found.kind, portal=found.portal)
            return _fed(mine, found, source, engine)
    except BackfillError as error:
        return Feeding(fed=Fed(), why=Rest.FAILED, reason=str(error))
    except _Lost:
        return Feeding(fed=Fed(), why=Rest.TAKEN)


def _fed(mine: _Mine, of: Backfill, source: Source, engine: Engine | None) -> Feeding:
    """Step after step."""
    total, size, room = Fed(last=of.last), of.step, 0
    while mine.lasting():
        if room <= 0:
            with reading(mine.world.engine) as connection:
                room = of.most_waiting - backfills.waiting(connection, of)
            if room <= 0:
                return Feeding(fed=total, why=Rest.FULL)
        try:
            step = _step(mine, replace(of, last=total.last), source, engine, size)
        except Locked:
            if size == 1:
                return Feeding(fed=total, why=Rest.LOCKED)
            size = next_size(size, of.step, locked=True)
            continue
        if step is None:
            if size >= of.step:
                keys = "more rows than a step has"
                raise BackfillError(f"{keys} might have one key; it must be unique")
            size = next_size(size, of.step, locked=False)
            continue
        total += step
        room -= step.enqueued
        mine.watching(step)
        if step.is_last:
            return Feeding(fed=total, why=Rest.DONE)
        size = next_size(size, of.step, locked=False)
    return Feeding(fed=total, why=Rest.ENDED)


def _step(
    mine: _Mine, of: Backfill, source: Source, engine: Engine | None, size: int
) -> Fed | None:
    """One page, and the place behind it, in one transaction; ``None``, the page was too short.

    Raises: Locked, _Lost, BackfillError.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return _tried(mine, of, source, engine, size)
        except OperationalError as error:
            if not tries_left or not only_asks_again(error):
                raise
    return None  # pragma: no cover - the last try has returned or raised


def _tried(
    mine: _Mine, of: Backfill, source: Source, engine: Engine | None, size: int
) -> Fed | None:
    # The source's locks are held until our rows are committed.
    with (
        writing(engine) if engine is not None else nullcontext() as theirs,
        writing(mine.world.engine) as connection,
    ):
        with plainly(connection) as plain:
            page = _page(source, plain if theirs is None else theirs, of.last, size)
        if page.last is None and not page.is_last:
            return None
        fed = _written_down(mine.world, connection, of, page)
        if not backfills.keep(connection, mine.code, mine.token, fed, lease_ms=LEASE_MS):
            raise _Lost
        return fed


def _page(source: Source, connection: Connection, last: Key | None, size: int) -> Page:
    """The next page; of a query that worked before, and is refused now, the complaint.

    Raises: Locked, BackfillError; what databases raise that are gone, or want it again.
    """
    try:
        return source.page(connection, last, size)
    except DBAPIError as error:
        # Drivers have one class for what is gone and for what is wrong with a statement.
        asks_again = isinstance(error, OperationalError) and only_asks_again(error)
        if asks_again or error.connection_invalidated:
            raise
        raise BackfillError(sources.first_line(error)) from None


def _written_down(world: World, connection: Connection, of: Backfill, page: Page) -> Fed:
    """The changes of a page in the outbox.

    Raises: BackfillError for a row that cannot be a change, unless such rows are passed over.
    """
    rows: list[Mapping[str, object]] = []
    problem: str | None = None
    refused = 0
    for line in page.lines:
        try:
            if line.problem is not None:
                raise BackfillError(line.problem)
            if line.change is not None:
                rows.append(checked(_marked(of, line.change), world.settings.kinds))
        except B24SyncError as error:
            if not of.skip_bad:
                raise BackfillError(str(error)) from None
            problem, refused = str(error), refused + 1
    if of.only_missing:
        known = read_links(connection, of.portal, [(of.kind, str(r["entity_key"])) for r in rows])
        linked = {key for (_, key), link in known.items() if link.remote_id is not None}
        rows = [row for row in rows if row["entity_key"] not in linked]
    keys = {str(row["entity_key"]) for row in rows}
    urgent = backfills.urgencies(connection, of.portal, of.kind, keys)
    rows = [
        {
            **row,
            "priority": min(of.priority, urgent.get(str(row["entity_key"]), of.priority)),
            "lane": lane_of(connection, of.portal, of.kind, str(row["entity_key"])),
        }
        for row in rows
    ]
    # An entity is there once: among themselves, its rows need no order.
    insert_any_order(connection, insert(outbox), rows)
    return Fed(
        last=page.last,
        enqueued=len(rows),
        skipped=len(page.lines) - len(rows) - refused,
        refused=refused,
        last_refusal=problem,
        is_last=page.is_last,
    )


def _marked(of: Backfill, change: Change) -> Change:
    headers = {**change.headers, HEADER: of.code}
    return replace(change, priority=of.priority, headers=headers)
