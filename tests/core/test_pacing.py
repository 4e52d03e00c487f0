"""What is left of a method's time, and how long a request may be expected to take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.pacing import BATCH, Load, MethodPace, Pace, Rules

NOW = 1_790_000_000_000
MINUTE = 60_000
WINDOW = 600_000


def pace_of(rules: Rules | None = None, /, **methods: MethodPace) -> Pace:
    """What is known at the present moment."""
    return Pace(now_ms=NOW, methods=methods, rules=rules or Rules())


def test_a_method_of_which_nothing_is_known_goes() -> None:
    """Nothing is held against it, and ten of its commands fill a request."""
    pace = pace_of()

    assert (pace.rests_until("m"), pace.blocked) == (0, {})
    assert pace.fitting(["m"] * 50) == 10


def test_a_method_that_was_refused_rests_until_it_may_be_called() -> None:
    """The end of a block that is over is not told."""
    pace = pace_of(
        m=MethodPace(blocked_until_ms=NOW + 5_000), over=MethodPace(blocked_until_ms=NOW)
    )

    assert pace.blocked == {"m": NOW + 5_000}


def test_time_comes_back_basket_by_basket() -> None:
    """470 + 10 seconds are the limit; when the first basket drops out, 10 are left used."""
    used = MethodPace(baskets=((NOW - 9 * MINUTE, 470_000), (NOW - MINUTE, 10_000)), cost_s=1.0)

    assert pace_of(m=used).rests_until("m") == NOW + MINUTE
    assert Pace(now_ms=NOW + MINUTE, methods={"m": used}).rests_until("m") == 0


def test_where_the_oldest_basket_is_too_little_the_next_one_is_waited_for() -> None:
    """A call that crossed the limit by far leaves no room when one second comes back."""
    used = MethodPace(
        baskets=((NOW - 9 * MINUTE, 1_000), (NOW - 8 * MINUTE, 200_000), (NOW - 1, 290_000))
    )

    assert pace_of(m=used).rests_until("m") == NOW + 2 * MINUTE


def test_baskets_that_dropped_out_count_no_more() -> None:
    """A window after its first call a basket is gone, at that very moment."""
    used = MethodPace(baskets=((NOW - WINDOW, 480_000),))

    assert pace_of(m=used).rests_until("m") == 0
    assert Pace(now_ms=NOW - 1, methods={"m": used}).rests_until("m") == NOW


def test_the_last_hundredth_of_the_limit_is_left_alone() -> None:
    """From 475.2 seconds on a method of 480 rests."""
    below = MethodPace(baskets=((NOW, 475_100),))
    above = MethodPace(baskets=((NOW, 475_200),))

    assert pace_of(m=below).rests_until("m") == 0
    assert pace_of(m=above).rests_until("m") == NOW + WINDOW


@pytest.mark.parametrize(
    ("limit_s", "found_ms", "ceiling_s"),
    [
        pytest.param(None, 0, 475.2, id="as set"),
        pytest.param(420.0, NOW, 415.8, id="found lower"),
        pytest.param(900.0, NOW, 475.2, id="found higher"),
        pytest.param(420.0, NOW - 24 * 3_600_000, 475.2, id="found a day ago"),
    ],
)
def test_a_portal_that_refuses_sooner_is_believed_for_a_day(
    limit_s: float | None, found_ms: int, ceiling_s: float
) -> None:
    """Its own limit may be lower than the one that is set."""
    pace = pace_of(m=MethodPace(limit_s=limit_s, found_ms=found_ms))

    assert pace.ceiling_s("m") == pytest.approx(ceiling_s)


def test_where_nobody_counts_only_refusals_hold() -> None:
    """Without a limit, no sum of seconds is too much."""
    pace = pace_of(
        Rules(method_s=None), m=MethodPace(baskets=((NOW, 10**6),), blocked_until_ms=NOW + 1)
    )

    assert pace.rests_until("m") == NOW + 1
    assert pace.has_room("m", Load(mean_s=10**6))
    assert not pace.is_beyond("m", Load(mean_s=10**6))


def test_commands_on_their_way_take_room_and_their_deviations_too() -> None:
    """Four commands of 10 and deviation 5 may take 40 + 3 * 10; 400 and 70 are under 475.2."""
    known = {"m": MethodPace(cost_s=10.0, spread_s=5.0, baskets=((NOW, 400_000),))}
    pace = Pace(now_ms=NOW, methods=known)
    one = pace.load("m")

    assert pace.has_room("m", one + one + one + one)
    assert not pace.has_room("m", one + one + one + one + one)


def test_what_is_more_than_the_limit_by_itself_is_told() -> None:
    """No waiting makes room for it."""
    pace = pace_of()

    assert pace.is_beyond("m", Load(mean_s=475.2))
    assert not pace.is_beyond("m", Load(mean_s=475.0))


@pytest.mark.parametrize(
    ("cost_s", "spread_s", "count"),
    [
        pytest.param(0.02, 0.01, 50, id="cheap"),
        pytest.param(0.72, 0.0, 50, id="exactly six tenths of a minute"),
        pytest.param(0.73, 0.0, 49, id="a little more"),
        pytest.param(3.1, 1.7, 11, id="dear and uneven: 34.1 + 16.9 are under 54"),
        pytest.param(10.0, 12.0, 1, id="very uneven: 10 + 36 are, two are not"),
        pytest.param(40.0, 0.0, 1, id="one is always sent"),
    ],
)
def test_a_request_holds_what_a_share_of_its_time_is_expected_to_do(
    cost_s: float, spread_s: float, count: int
) -> None:
    """Six tenths; and even dear commands stay under nine."""
    pace = pace_of(m=MethodPace(cost_s=cost_s, spread_s=spread_s))

    assert pace.fitting(["m"] * 50) == count


def test_methods_of_a_request_share_its_time() -> None:
    """One of ten seconds leaves room for seven unknown ones of 3.6."""
    pace = pace_of(dear=MethodPace(cost_s=10.0))

    assert pace.fitting(["dear", *["new"] * 20]) == 8


def test_a_shorter_request_holds_fewer() -> None:
    """Questions have less time; ten unknown ones fill it all the same."""
    pace = pace_of(m=MethodPace(cost_s=1.0))

    assert pace.fitting(["m"] * 50, 7.5) == 7
    assert pace.fitting(["new"] * 50, 7.5) == 10


def test_the_size_that_a_portal_refused_is_remembered_for_a_day() -> None:
    """It belongs to the request as a whole."""
    found = MethodPace(max_bytes=5_000, found_ms=NOW)

    assert pace_of().max_bytes is None
    assert pace_of(**{BATCH: found}).max_bytes == 5_000
    assert Pace(now_ms=NOW + 24 * 3_600_000, methods={BATCH: found}).max_bytes is None


@given(
    st.lists(
        st.tuples(st.integers(NOW - 2 * WINDOW, NOW), st.integers(0, 600_000)), max_size=11
    ).map(sorted),
    st.floats(min_value=0, max_value=400),
)
def test_what_rests_goes_when_it_was_promised_and_not_before(
    baskets: list[tuple[int, int]], before_s: float
) -> None:
    """The end that is told is the first moment at which there is room."""
    known = {"m": MethodPace(baskets=tuple(baskets))}
    before = Load(mean_s=before_s)

    until = Pace(now_ms=NOW, methods=known).rests_until("m", before)

    if until:
        assert not Pace(now_ms=until - 1, methods=known).has_room("m", before)
    assert Pace(now_ms=until or NOW, methods=known).has_room("m", before)
