"""Partitions in time: dates written by hand, and laws that hold on every calendar."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.retention import (
    AHEAD,
    BEGINNING_MS,
    DAY_MS,
    END_MS,
    HOUR_MS,
    LATEST_MS,
    Grain,
    Partition,
    bare_from,
    expired,
    is_short,
    missing,
    name_of,
    pages_to_free,
    period,
)

INSTANTS = st.integers(min_value=BEGINNING_MS, max_value=LATEST_MS)
DATED = st.sampled_from([Grain.MONTH, Grain.DAY])


def at(text: str) -> int:
    """An instant as people write it."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def part(begin: str, end: str) -> Partition:
    """A partition between two days."""
    return Partition(name=name_of(at(begin)), from_ms=at(begin), to_ms=at(end))


@st.composite
def partitions(draw: st.DrawFn) -> tuple[Partition, ...]:
    """Any partitions that do not overlap, around some instant."""
    start = draw(INSTANTS)
    bounds = draw(st.lists(st.integers(1, 200 * DAY_MS), max_size=12))
    made: list[Partition] = []
    for number, length in enumerate(bounds):
        if number % 2 == 0 or draw(st.booleans()):
            made.append(Partition(name=name_of(start), from_ms=start, to_ms=start + length))
        start += length
    return tuple(made)


@pytest.mark.parametrize(
    ("grain", "instant", "begin", "end"),
    [
        (Grain.MONTH, "2026-11-21T18:00", "2026-11-01", "2026-12-01"),
        (Grain.MONTH, "2026-12-31T23:59", "2026-12-01", "2027-01-01"),
        (Grain.MONTH, "2028-02-29T12:00", "2028-02-01", "2028-03-01"),
        (Grain.MONTH, "2027-01-31T00:00", "2027-01-01", "2027-02-01"),
        (Grain.DAY, "2028-02-29T12:00", "2028-02-29", "2028-03-01"),
        (Grain.DAY, "2026-11-21", "2026-11-21", "2026-11-22"),
    ],
)
def test_a_period_is_a_month_or_a_day_of_utc(
    grain: Grain, instant: str, begin: str, end: str
) -> None:
    """Leap days and the turn of a year are where calendars are got wrong."""
    assert period(grain, at(instant)) == (at(begin), at(end))


def test_months_are_made_ahead() -> None:
    """This one and three more, named by the day on which they begin."""
    made = missing((), Grain.MONTH, at("2026-11-21T18:00"))

    assert made == (
        part("2026-11-01", "2026-12-01"),
        part("2026-12-01", "2027-01-01"),
        part("2027-01-01", "2027-02-01"),
        part("2027-02-01", "2027-03-01"),
    )
    assert [each.name for each in made] == ["p20261101", "p20261201", "p20270101", "p20270201"]


def test_what_is_there_is_not_made_again() -> None:
    """A month later, one month more."""
    there = missing((), Grain.MONTH, at("2026-11-21"))

    assert missing(there, Grain.MONTH, at("2026-12-01")) == (part("2027-03-01", "2027-04-01"),)


def test_from_months_to_days_the_months_that_are_there_stay() -> None:
    """Days begin behind the last month that was made."""
    there = [part("2026-11-01", "2026-12-01")]

    made = missing(there, Grain.DAY, at("2026-11-29"))

    assert made[0] == part("2026-12-01", "2026-12-02")
    assert made[-1] == part("2026-12-13", "2026-12-14")


def test_from_days_to_months_the_gap_is_filled() -> None:
    """The rest of the month is one partition; what lies behind now is none."""
    there = [part("2026-11-05", "2026-11-22")]

    made = missing(there, Grain.MONTH, at("2026-11-21"))

    assert made[:2] == (part("2026-11-22", "2026-12-01"), part("2026-12-01", "2027-01-01"))


def test_at_the_end_of_the_calendar_no_period_is_made_twice() -> None:
    """A broken clock is no reason for two partitions of one name."""
    made = missing((), Grain.MONTH, at("9998-12-01"))

    assert [each.name for each in made] == ["p99981201", "p99990101"]


def test_without_partitions_none_are_made_or_missed() -> None:
    """The setting ``none`` leaves everything to the catch-all."""
    now = at("2026-11-21")

    assert missing((), Grain.NONE, now) == ()
    assert not is_short((), Grain.NONE, now)
    assert period(Grain.NONE, now) == (BEGINNING_MS, END_MS)


@pytest.mark.parametrize(
    ("now", "gone"),
    [
        pytest.param("2026-10-30T23:59", [], id="its last result is 29 days old"),
        pytest.param("2026-10-31T00:00", ["p20260901"], id="30 days"),
        pytest.param("2027-05-01", ["p20260901", "p20261001"], id="long after"),
    ],
)
def test_a_partition_goes_when_its_last_instant_may(now: str, gone: list[str]) -> None:
    """Never a result before its time; up to a period later."""
    there = [part("2026-10-01", "2026-11-01"), part("2026-09-01", "2026-10-01")]

    dropped = expired(there, at(now), 30 * DAY_MS)

    assert [each.name for each in dropped] == gone


@pytest.mark.parametrize(
    ("there", "short"),
    [
        pytest.param([], True, id="none"),
        pytest.param([part("2026-11-01", "2026-12-01")], True, id="this month only"),
        pytest.param([part("2026-12-01", "2027-01-01")], True, id="the next month only"),
        pytest.param([part("2026-11-01", "2027-01-01")], False, id="to the end of the next"),
        pytest.param(
            [part("2026-12-01", "2027-01-01"), part("2026-11-01", "2026-12-01")],
            False,
            id="in any order",
        ),
    ],
)
def test_somebody_is_told_when_the_next_period_is_not_covered(
    there: list[Partition], *, short: bool
) -> None:
    """A month is time enough to act."""
    assert is_short(there, Grain.MONTH, at("2026-11-21")) == short


def test_a_name_off_midnight_is_a_name_of_its_own() -> None:
    """Somebody may have made partitions by hand."""
    assert name_of(at("2026-11-01") + HOUR_MS) == "p20261101_3600000"


@pytest.mark.parametrize(
    ("pages", "free", "given_back"), [(1000, 100, 0), (1000, 101, 1), (1000, 900, 800), (0, 0, 0)]
)
def test_a_tenth_of_a_file_stays_for_use(pages: int, free: int, given_back: int) -> None:
    """A file that shrinks to the last page grows again at the next batch."""
    assert pages_to_free(pages, free) == given_back


@given(grain=DATED, at_ms=INSTANTS)
def test_an_instant_lies_in_its_period_and_periods_touch(grain: Grain, at_ms: int) -> None:
    """Time is cut without gaps and without overlaps."""
    begin, end = period(grain, at_ms)

    assert begin <= at_ms < end
    assert period(grain, begin) == period(grain, end - 1) == (begin, end)
    assert begin % DAY_MS == end % DAY_MS == 0


@given(there=partitions(), grain=DATED, now_ms=INSTANTS)
def test_what_is_made_fills_the_gaps_and_nothing_else(
    there: tuple[Partition, ...], grain: Grain, now_ms: int
) -> None:
    """No two overlap, no two have one name, and a second look finds nothing to make."""
    made = missing(there, grain, now_ms)

    ranges = sorted((each.from_ms, each.to_ms) for each in (*there, *made))
    assert all(one[1] <= other[0] for one, other in pairwise(ranges))
    assert all(each.from_ms < each.to_ms and each.to_ms > now_ms for each in made)
    assert len({each.name for each in made}) == len(made)
    assert missing((*there, *made), grain, now_ms) == ()


@given(there=partitions(), grain=DATED, now_ms=INSTANTS)
def test_after_making_all_that_is_ahead_is_covered(
    there: tuple[Partition, ...], grain: Grain, now_ms: int
) -> None:
    """So nothing is missed until so many periods have passed without a run."""
    made = (*there, *missing(there, grain, now_ms))

    ends = now_ms
    for _ in range(AHEAD[grain] + 1):
        _, ends = period(grain, ends)
    assert bare_from(made, now_ms) >= min(ends, LATEST_MS)
    assert not is_short(made, grain, now_ms)


@given(there=partitions(), now_ms=INSTANTS, keep_ms=st.integers(1, 1000 * DAY_MS))
def test_what_is_dropped_holds_nothing_to_keep(
    there: tuple[Partition, ...], now_ms: int, keep_ms: int
) -> None:
    """And what holds nothing to keep is dropped, the oldest first."""
    gone = expired(there, now_ms, keep_ms)

    assert all(each.to_ms - 1 < now_ms - keep_ms for each in gone)
    assert all(each.to_ms > now_ms - keep_ms for each in set(there) - set(gone))
    assert [each.to_ms for each in gone] == sorted(each.to_ms for each in gone)
