"""What is over and old is removed, and partitions are made ahead: one run, by a worker or a person.

Whoever comes first does it, whoever comes meanwhile finds it done. It may end at any moment, and the
next run goes on: every step is a transaction of its own, and what it left is found again.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection, select

from b24sync.core.retention import Grain, Partition, expired, is_short, missing
from b24sync.edge import chores, partitions, retention
from b24sync.edge.database import now_ms as database_clock
from b24sync.edge.database import reading, transact
from b24sync.edge.partitions import MOVED_AT_MOST, CrowdedError, HinderedError, Partitions, Stored
from b24sync.edge.retention import BATCHES, DEAD, DUPLICATES, Aged, Counted
from b24sync.world import World

log = logging.getLogger("b24sync")

CHORE = "prune"
LEASE_MS = 300_000
HOLD_S = 60.0
"""How often a run that takes long says that it is still there."""

MINUTES, COUNTS, BUDGETS = "counts per minute", "counts", "method budgets"


@dataclass(slots=True, kw_only=True)
class Pruned:
    """What one run did; ``is_over``, nothing is left to do. ``hindered`` says what could not be done.

    Shape: ``removed`` counts rows by what they are; of partitions, their rows are an estimate.
    """

    made: list[str] = field(default_factory=list[str])
    dropped: list[Stored] = field(default_factory=list[Stored])
    removed: dict[str, int] = field(default_factory=dict[str, int])
    hindered: list[str] = field(default_factory=list[str])
    is_over: bool = False

    @property
    def rows(self) -> int:
        """All rows that were removed one by one."""
        return sum(self.removed.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One thing that a run would do.

    Shape: ``partition`` is its name, of those that go whole; ``rows`` is an estimate then.
    Units: ``oldest_ms`` epoch milliseconds; ``keep_ms`` how long it is kept; ``size`` bytes, if the
    database tells.
    """

    what: str
    keep_ms: int
    rows: int
    oldest_ms: int | None = None
    size: int | None = None
    partition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run would do now, and what somebody should know of partitions."""

    due: tuple[Due, ...]
    to_make: tuple[Partition, ...]
    notes: tuple[str, ...]
    now_ms: int


Watching = Callable[[str, int], None]
"""Told after each step what went, and how many rows."""


def _unwatched(_what: str, _rows: int) -> None:
    return


def survey(world: World) -> Survey:
    """What a run would do now.

    Writes: nothing.
    """
    keep, grain = world.settings.keep, world.settings.grain
    with reading(world.engine) as connection:
        found = partitions.look(connection)
        now = _now(connection, found)
        due = [
            Due(
                what="results",
                keep_ms=keep.results_ms,
                rows=part.rows,
                oldest_ms=part.from_ms or None,
                size=part.size,
                partition=part.name,
            )
            for part in _expired(found, now, keep.results_ms)
        ]
        for aged, keep_ms in _aged(world, connection, found):
            due.append(_due(aged.name, keep_ms, retention.count(connection, aged, now - keep_ms)))
        unfolded_from = retention.folded_until(connection, CHORE)
        for code in retention.counted_portals(connection):
            pair = retention.count_counts(
                connection, code, unfolded_from_ms=unfolded_from, keep=keep, now_ms=now
            )
            due += (
                _due(COUNTS, keep.rollups_ms, pair[0]),
                _due(MINUTES, keep.minutes_ms, pair[1]),
            )
        budgets = retention.count_budgets(connection, now - keep.budgets_ms)
        due.append(_due(BUDGETS, keep.budgets_ms, budgets))
        notes = tuple(problem.text for problem in partitions.problems(connection, grain))
    return Survey(
        due=_summed(due),
        to_make=() if found is None else missing(found.dated, grain, now),
        notes=notes,
        now_ms=now,
    )


def prune(
    world: World,
    *,
    every_ms: int,
    lasting: Callable[[], bool],
    watching: Watching = _unwatched,
    move_all: bool = False,
) -> Pruned | None:
    """Make partitions, drop those that are over, and remove what else is; ``None``, another does.

    ``every_ms`` is the interval in which it is done once, 0 for now. ``move_all``: move what the
    catch-all holds, however much.
    Writes: result, its partitions, batch, rollup, dead, duplicate, method_budget, chore.
    """
    begin = partial(chores.begin, name=CHORE, every_ms=every_ms, lease_ms=LEASE_MS)
    token = transact(world.engine, begin)
    if token is None:
        return None
    run = _Run(world=world, token=token, lasting=lasting, watching=watching)
    try:
        run.all(move_all=move_all)
    finally:
        transact(world.engine, partial(chores.end, name=CHORE, token=token))
    return run.done


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run, while it lasts."""

    world: World
    token: int
    lasting: Callable[[], bool]
    watching: Watching
    done: Pruned = field(default_factory=Pruned)
    held_s: float = 0.0
    is_ours: bool = True

    def all(self, *, move_all: bool) -> None:
        """Every step, the cheapest and most useful first."""
        self.held_s = self.world.clock()
        keep = self.world.settings.keep
        with reading(self.world.engine) as connection:
            found = partitions.look(connection)
            now = _now(connection, found)
        if found is not None:
            self._make(found, move_all=move_all)
            self._drop(found, now)
            self._tell()
        with reading(self.world.engine) as connection:
            aged = tuple(_aged(self.world, connection, partitions.look(connection)))
        for each, keep_ms in aged:
            self._remove(each, now - keep_ms)
        self._fold(now - keep.rollups_ms, retention.hours(now - keep.minutes_ms))
        self._repeat(BUDGETS, partial(retention.remove_budgets, before_ms=now - keep.budgets_ms))
        while self._goes_on():
            if retention.free_pages(self.world.engine) == 0:
                break
        self.done.is_over = self._goes_on() and not self.done.hindered

    def _goes_on(self) -> bool:
        if self.is_ours and self.world.clock() - self.held_s > HOLD_S:
            self.held_s = self.world.clock()
            hold = partial(chores.hold, name=CHORE, token=self.token, lease_ms=LEASE_MS)
            self.is_ours = transact(self.world.engine, hold)
        return self.is_ours and self.lasting()

    def _count(self, what: str, rows: int) -> None:
        self.done.removed[what] = self.done.removed.get(what, 0) + rows
        self.watching(what, rows)

    def _make(self, found: Partitions, *, move_all: bool) -> None:
        at_most = None if move_all else MOVED_AT_MOST
        for part in missing(found.dated, self.world.settings.grain, found.now_ms):
            if not self._goes_on():
                return
            try:
                partitions.make(self.world.engine, part, at_most=at_most)
            except CrowdedError as error:
                self._hindered(f"partition {part.name} cannot be made", error)
                continue
            except HinderedError as error:
                # Who holds a lock holds it against the next one too, and each try lets others wait.
                self._hindered(f"partition {part.name} cannot be made", error)
                return
            self.done.made.append(part.name)
            log.info("partition_made name=%s", part.name)

    def _drop(self, found: Partitions, now: int) -> None:
        for part in _expired(found, now, self.world.settings.keep.results_ms):
            if not self._goes_on():
                return
            try:
                partitions.drop(self.world.engine, part)
            except HinderedError as error:
                self._hindered(f"partition {part.name} cannot be dropped", error)
                return
            self.done.dropped.append(part)
            self.watching("results", part.rows)
            log.info("partition_dropped name=%s rows=%d", part.name, part.rows)

    def _hindered(self, what: str, error: HinderedError) -> None:
        self.done.hindered.append(f"{what}: {error}")
        log.warning("prune_hindered what=%r why=%r", what, str(error))

    def _tell(self) -> None:
        """Say in the log what somebody should look at."""
        found, grain = partitions.current(self.world.engine), self.world.settings.grain
        if found is None or grain is Grain.NONE:
            return
        if is_short(found.dated, grain, found.now_ms):
            log.error("partition_missing rest_rows=%d", found.rest_rows)
        elif found.rest_rows:
            log.warning("partition_rest rows=%d", found.rest_rows)

    def _remove(self, aged: Aged, before_ms: int) -> None:
        after_id, is_last = 0, False
        while not is_last and self._goes_on():
            with reading(self.world.engine) as connection:
                page = retention.page(connection, aged, after_id, before_ms)
            if page is None:
                return
            if page.over:
                work = partial(
                    retention.remove,
                    aged=aged,
                    after_id=after_id,
                    last_id=page.last_id,
                    before_ms=before_ms,
                )
                self._count(aged.name, transact(self.world.engine, work))
            after_id, is_last = page.last_id, page.is_last

    def _fold(self, gone_before: int, folded_before: int) -> None:
        """Of every portal: remove the counts that are too old, and fold those that are old."""
        engine = self.world.engine
        with reading(engine) as connection:
            since = retention.folded_until(connection, CHORE)
            codes = retention.counted_portals(connection)
        for code in codes:
            old = partial(retention.remove_counts, code=code, before_ms=gone_before)
            self._repeat(COUNTS, old)
            for begin, end in self._days(code, since, folded_before):
                work = partial(retention.fold, code=code, from_ms=begin, to_ms=end)
                self._count(MINUTES, transact(engine, work))
        if self._goes_on():
            note = partial(retention.note_folded, name=CHORE, token=self.token)
            transact(engine, partial(note, until_ms=max(since, folded_before)))

    def _days(self, code: str, since: int, end_ms: int) -> Generator[tuple[int, int]]:
        """The stretches of time, at most a day each, in which something may be left to fold."""
        while self._goes_on():
            with reading(self.world.engine) as connection:
                first = retention.first_minute(connection, code, since, end_ms)
            if first is None:
                return
            begin = retention.hours(first)
            since = retention.next_day(begin, end_ms)
            yield begin, since

    def _repeat(self, what: str, work: Callable[[Connection], int]) -> None:
        while self._goes_on():
            gone = transact(self.world.engine, work)
            if gone == 0:
                return
            self._count(what, gone)


def _now(connection: Connection, found: Partitions | None) -> int:
    if found is not None:
        return found.now_ms
    return int(connection.execute(select(database_clock())).scalar_one())


def _expired(found: Partitions | None, now: int, keep_ms: int) -> tuple[Stored, ...]:
    if found is None:
        return ()
    names = {part.name for part in expired(found.dated, now, keep_ms)}
    return tuple(part for part in found.dated if part.name in names)


def _aged(
    world: World, connection: Connection, found: Partitions | None
) -> Iterator[tuple[Aged, int]]:
    """What is removed in chunks, and how long it is kept."""
    keep = world.settings.keep
    if found is None or found.rest_rows:
        rest_only = found is not None and bool(found.dated)
        yield retention.results_in(connection, rest_only=rest_only), keep.results_ms
    yield BATCHES, keep.batches_ms
    yield DEAD, keep.closed_ms
    yield DUPLICATES, keep.closed_ms


def _due(what: str, keep_ms: int, counted: Counted) -> Due:
    return Due(what=what, keep_ms=keep_ms, rows=counted.rows, oldest_ms=counted.oldest_ms)


def _summed(due: list[Due]) -> tuple[Due, ...]:
    """One line for each sort of rows, and for each partition; without those that come to nothing."""
    sums: dict[tuple[str, str | None], Due] = {}
    for each in due:
        known = sums.get((each.what, each.partition))
        if known is None:
            sums[each.what, each.partition] = each
            continue
        oldest = [at for at in (known.oldest_ms, each.oldest_ms) if at is not None]
        sums[each.what, each.partition] = Due(
            what=each.what,
            keep_ms=each.keep_ms,
            rows=known.rows + each.rows,
            oldest_ms=min(oldest, default=None),
        )
    return tuple(each for each in sums.values() if each.rows or each.partition)
