"""What the bucket promises: it never lies about the wait, and the portal's word beats our count."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.errors import SettingsError
from b24sync.core.limits import Bucket

NOW_MS = 1_790_000_000_000

instants = st.integers(min_value=NOW_MS - 10**7, max_value=NOW_MS + 10**7)
buckets = st.builds(
    Bucket,
    level=st.floats(min_value=0, max_value=1000),
    capacity=st.floats(min_value=1, max_value=500),
    leak_per_s=st.floats(min_value=0.01, max_value=100),
    updated_at_ms=instants,
)


def bucket(level: float) -> Bucket:
    """Give an ordinary portal's bucket at a level."""
    return Bucket(level=level, capacity=50, leak_per_s=2, updated_at_ms=NOW_MS)


def test_a_level_falls_by_the_leak_and_stops_at_zero() -> None:
    """Two requests leak a second, and an empty bucket stays empty."""
    filled = bucket(10)

    levels = [filled.level_at(NOW_MS + ms) for ms in (0, 500, 4000, 5000, 60_000)]

    assert levels == [10, 9, 2, 0, 0]


def test_a_request_that_fits_does_not_wait() -> None:
    """Up to the capacity there is no wait."""
    roomy = bucket(49)

    wait_ms = roomy.wait_ms(NOW_MS)

    assert wait_ms == 0


def test_a_full_bucket_waits_until_one_request_has_leaked() -> None:
    """At 50 of 50 one request needs half a second, of which 200 ms have passed."""
    full = bucket(50)

    waits_ms = (full.wait_ms(NOW_MS), full.wait_ms(NOW_MS + 200))

    assert waits_ms == (500, 300)


def test_a_charge_leaks_first_and_then_pours() -> None:
    """The level is brought up to date before one is added, and the instant is kept."""
    used = bucket(10)

    charged = used.charged(NOW_MS + 1000)

    assert charged == Bucket(level=9, capacity=50, leak_per_s=2, updated_at_ms=NOW_MS + 1000)


def test_a_refusal_fills_the_bucket_whatever_was_counted() -> None:
    """After the portal said "full", one request's leak must be waited for."""
    nearly_empty = bucket(1)

    filled = nearly_empty.filled(NOW_MS)

    assert filled.level == 50
    assert filled.wait_ms(NOW_MS) == 500


def test_a_refusal_never_empties_an_overfull_bucket() -> None:
    """What was charged above the capacity still has to leak."""
    overfull = bucket(53)

    filled = overfull.filled(NOW_MS)

    assert filled.level == 53


def test_a_clock_that_went_back_lets_nothing_leak_and_is_not_believed() -> None:
    """An earlier instant changes neither the level nor the instant that is kept."""
    used = bucket(10)

    charged = used.charged(NOW_MS - 60_000)

    assert charged == Bucket(level=11, capacity=50, leak_per_s=2, updated_at_ms=NOW_MS)


@pytest.mark.parametrize(
    ("capacity", "leak_per_s", "setting"),
    [
        pytest.param(0.5, 2, "capacity", id="holds no request"),
        pytest.param(math.nan, 2, "capacity", id="capacity is no number"),
        pytest.param(math.inf, 2, "capacity", id="limits nothing"),
        pytest.param(50, 0, "leak_per_s", id="never empties"),
        pytest.param(50, math.nan, "leak_per_s", id="leak is no number"),
    ],
)
def test_a_bucket_that_would_wait_for_ever_is_refused(
    capacity: float, leak_per_s: float, setting: str
) -> None:
    """Nonsense is refused at construction and names the setting."""
    with pytest.raises(SettingsError) as refused:
        Bucket(level=0, capacity=capacity, leak_per_s=leak_per_s, updated_at_ms=NOW_MS)

    assert refused.value.setting == setting


@given(buckets, instants)
def test_no_level_and_no_wait_is_negative(any_bucket: Bucket, now_ms: int) -> None:
    """Whatever the clock says."""
    level, wait_ms = any_bucket.level_at(now_ms), any_bucket.wait_ms(now_ms)

    assert level >= 0
    assert wait_ms >= 0


@given(buckets, instants, st.integers(min_value=0, max_value=10**7))
def test_charging_and_filling_never_shorten_the_wait(
    any_bucket: Bucket, charged_at_ms: int, later_ms: int
) -> None:
    """No request and no refusal makes the next request go sooner."""
    now_ms = charged_at_ms + later_ms
    before_ms = any_bucket.wait_ms(now_ms)

    after_charge_ms = any_bucket.charged(charged_at_ms).wait_ms(now_ms)
    after_refusal_ms = any_bucket.filled(charged_at_ms).wait_ms(now_ms)

    # One millisecond is the rounding of two subtractions instead of one.
    assert after_charge_ms >= before_ms - 1
    assert after_refusal_ms >= before_ms - 1


@given(buckets, instants)
def test_after_the_wait_one_request_fits(any_bucket: Bucket, now_ms: int) -> None:
    """The wait that was told is enough, counted from the later of the two clocks."""
    from_ms = max(now_ms, any_bucket.updated_at_ms)

    later_ms = from_ms + any_bucket.wait_ms(from_ms)

    assert any_bucket.level_at(later_ms) + 1 <= any_bucket.capacity + 1e-6
