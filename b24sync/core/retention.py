"""What is kept for how long, and how the results' time is cut into partitions.

A partition is a stretch of time that is removed whole, so that keeping a month costs the same
whether a thousand results or a hundred million lie behind it. Partitions are made ahead of their
time; one that is missing costs nothing but tidiness, because a catch-all takes what fits nowhere.

Source: delivery protocol, 2 (g) and 4.1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
BEGINNING_MS = 0
"""Before every result."""
END_MS = 2**63 - 1
"""After every result."""
LATEST_MS = 253_370_764_800_000
"""The year 9999, behind which no calendar goes; a clock that shows it is broken."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Grain(StrEnum):
    """How long one partition is."""

    MONTH = "month"
    DAY = "day"
    NONE = "none"
    """There are none but the catch-all, from which rows are removed in chunks."""


AHEAD = {Grain.MONTH: 3, Grain.DAY: 14, Grain.NONE: 0}
"""Periods that are made before they begin: time for somebody to see that it is not done any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A stretch of time with a name; ``to_ms`` is the first instant behind it.

    Units: epoch milliseconds.
    """

    name: str
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long what is over is kept.

    Shape: ``minutes_ms`` is the age at which counts per minute become counts per hour; ``closed_ms``
    is about dead letters and duplicates that somebody has dealt with.
    Units: milliseconds.
    """

    results_ms: int
    batches_ms: int
    minutes_ms: int
    rollups_ms: int
    closed_ms: int
    budgets_ms: int


def period(grain: Grain, at_ms: int) -> tuple[int, int]:
    """The first instant of the period in which an instant lies, and the first one behind it.

    Shape: months and days of UTC; all of time for ``none``.
    Units: epoch milliseconds; instants that no calendar has are taken for its nearest.
    """
    at = _EPOCH + timedelta(milliseconds=min(max(at_ms, BEGINNING_MS), LATEST_MS))
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if grain is Grain.DAY:
        return _ms(midnight), _ms(midnight + timedelta(days=1))
    if grain is Grain.NONE:
        return BEGINNING_MS, END_MS
    first = midnight.replace(day=1)
    # From the first of any month, 32 days on is always in the next one.
    return _ms(first), _ms((first + timedelta(days=32)).replace(day=1))


def missing(there: Iterable[Partition], grain: Grain, now_ms: int) -> tuple[Partition, ...]:
    """The partitions to make now, the earliest first: for this period and those ahead.

    Where partitions of another length stand already, only the gaps between them are filled.
    """
    covered = sorted((part.from_ms, part.to_ms) for part in there)
    made: list[Partition] = []
    at_ms = now_ms
    for _ in range(AHEAD[grain] + 1 if grain is not Grain.NONE else 0):
        if at_ms > LATEST_MS:
            break
        begin, end = period(grain, at_ms)
        made += [
            Partition(name=name_of(gap_from), from_ms=gap_from, to_ms=gap_to)
            for gap_from, gap_to in _gaps(covered, begin, end)
            # No result will ever fall into a gap that lies behind.
            if gap_to > now_ms
        ]
        at_ms = end
    return tuple(made)


def expired(there: Iterable[Partition], now_ms: int, keep_ms: int) -> tuple[Partition, ...]:
    """The partitions that hold nothing that is still to be kept, the oldest first."""
    gone = (part for part in there if part.to_ms <= now_ms - keep_ms)
    return tuple(sorted(gone, key=lambda part: part.to_ms))


def bare_from(there: Iterable[Partition], now_ms: int) -> int:
    """The first instant from now on that no partition covers.

    Units: epoch milliseconds.
    """
    at_ms = now_ms
    for begin, end in sorted((part.from_ms, part.to_ms) for part in there):
        if begin <= at_ms < end:
            at_ms = end
    return at_ms


def is_short(there: Iterable[Partition], grain: Grain, now_ms: int) -> bool:
    """Whether somebody should look: this period, or the next one, is not covered to its end."""
    if grain is Grain.NONE:
        return False
    _, next_begins = period(grain, now_ms)
    _, next_ends = period(grain, next_begins)
    return bare_from(there, now_ms) < min(next_ends, LATEST_MS)


def name_of(from_ms: int) -> str:
    """What a partition that begins then is called: ``p20261101``; off midnight, with the rest."""
    days, rest_ms = divmod(min(max(from_ms, BEGINNING_MS), LATEST_MS), DAY_MS)
    at = _EPOCH + timedelta(days=days)
    return f"p{at:%Y%m%d}" + (f"_{rest_ms}" if rest_ms else "")


def pages_to_free(pages: int, free: int) -> int:
    """How many empty pages a file may give back; a tenth of the file stays, to be used again."""
    return max(0, free - pages // 10)


def _gaps(covered: Iterable[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """What of a stretch no other one covers; ``covered`` in order."""
    gaps: list[tuple[int, int]] = []
    for other_begin, other_end in covered:
        if other_begin > begin:
            gaps.append((begin, min(other_begin, end)))
        begin = max(begin, other_end)
        if begin >= end:
            return gaps
    return [*gaps, (begin, end)]


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)
