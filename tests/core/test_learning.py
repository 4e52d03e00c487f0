"""What an answer teaches, and what of it is worth a statement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.learning import Timings, cut, learned, too_large
from b24sync.core.limits import MethodTime
from b24sync.core.pacing import BATCH, MethodPace, Pace, Rules

NOW = 1_790_000_040_000
"""The beginning of a minute."""
MINUTE = 60_000
WINDOW = 600_000


def pace_of(rules: Rules | None = None, /, **methods: MethodPace) -> Pace:
    """What was known when the request went."""
    return Pace(now_ms=NOW - 1_000, methods=methods, rules=rules or Rules())


def used(seconds: float, reset_at_ms: int | None = None, *, blocked: bool = False) -> Timings:
    """An answer that says what ``m`` has used."""
    time = MethodTime(operating_s=seconds, reset_at_ms=reset_at_ms, is_blocked=blocked)
    return Timings(budgets={"m": time})


def test_the_first_commands_of_a_method_tell_its_cost_and_deviation() -> None:
    """Their mean, and how far they were from it."""
    lesson = learned(pace_of(), Timings(costs_s={"m": [1.0, 3.0]}), now_ms=NOW)

    assert lesson == {"m": MethodPace(cost_s=2.0, spread_s=1.0, updated_ms=NOW)}


def test_a_full_batch_outweighs_all_that_was_known() -> None:
    """Fifty commands that took one second move a cost of ten to 1.7, nine tenths of the way."""
    old = MethodPace(cost_s=10.0, updated_ms=NOW)

    lesson = learned(pace_of(m=old), Timings(costs_s={"m": [1.0] * 50}), now_ms=NOW)

    assert lesson["m"].cost_s == pytest.approx(1 + 9 * 0.95**50)
    assert lesson["m"].spread_s > 0


@pytest.mark.parametrize(
    ("old_s", "costs_s", "is_told"),
    [
        pytest.param(0.02, [0.05] * 50, False, id="cheap, and cheap still"),
        pytest.param(0.02, [0.1] * 50, True, id="cheap no more"),
        pytest.param(2.0, [2.05] * 50, False, id="hardly dearer"),
        pytest.param(2.0, [2.5] * 50, True, id="dearer"),
        pytest.param(2.0, [1.5] * 50, True, id="less dear"),
        pytest.param(2.0, [1.0, 3.0] * 25, True, id="as dear, and uneven"),
    ],
)
def test_only_a_cost_that_would_change_a_batch_is_told(
    old_s: float, costs_s: list[float], *, is_told: bool
) -> None:
    """A tenth of it, or of what a full batch may take for each command."""
    old = MethodPace(cost_s=old_s, updated_ms=NOW)

    lesson = learned(pace_of(m=old), Timings(costs_s={"m": costs_s}), now_ms=NOW)

    assert bool(lesson) is is_told


def test_a_change_that_was_kept_back_for_a_minute_is_told() -> None:
    """What nobody writes down is forgotten with its worker."""
    old = MethodPace(cost_s=2.0, updated_ms=NOW - MINUTE)

    assert learned(pace_of(m=old), Timings(costs_s={"m": [2.01]}), now_ms=NOW)
    assert not learned(pace_of(m=old), Timings(costs_s={"m": [2.01]}), now_ms=NOW - 1)
    assert not learned(pace_of(m=old), Timings(costs_s={"m": []}), now_ms=NOW)


@pytest.mark.parametrize(
    ("before_s", "after_s", "is_told"),
    [
        pytest.param(100.0, 109.0, False, id="less than two hundredths of the limit"),
        pytest.param(100.0, 110.0, True, id="more than that"),
        pytest.param(383.5, 384.0, True, id="anything from four fifths on"),
        pytest.param(100.0, 0.5, True, id="less than before"),
    ],
)
def test_time_used_is_told_in_steps_and_near_the_limit_always(
    before_s: float, after_s: float, *, is_told: bool
) -> None:
    """The portal repeats it in every answer, so nothing is lost."""
    old = MethodPace(cost_s=0.1, baskets=((NOW, round(before_s * 1000)),), updated_ms=NOW)

    assert bool(learned(pace_of(m=old), used(after_s), now_ms=NOW)) is is_told


def test_time_used_is_sorted_into_the_minutes_of_its_answers() -> None:
    """What is more than was known belongs to this one; within a minute there is one basket."""
    first = learned(pace_of(), used(20.0), now_ms=NOW + 5_000)
    second = learned(pace_of(**first), used(50.0), now_ms=NOW + 59_000)
    third = learned(pace_of(**second), used(90.0), now_ms=NOW + 61_000)

    assert third["m"].baskets == ((NOW + 5_000, 50_000), (NOW + 61_000, 40_000))


def test_what_has_dropped_out_on_the_portal_is_taken_from_the_oldest() -> None:
    """Of 20 + 30 + 40 seconds 35 are left: the first has gone, and 25 of the next."""
    old = MethodPace(
        baskets=((NOW - 9 * MINUTE, 20_000), (NOW - 8 * MINUTE, 30_000), (NOW, 40_000))
    )

    lesson = learned(pace_of(m=old), used(45.0), now_ms=NOW)

    assert lesson["m"].baskets == ((NOW - 8 * MINUTE, 5_000), (NOW, 40_000))


def test_a_method_that_has_used_nothing_has_no_baskets() -> None:
    """All of it dropped out."""
    old = MethodPace(baskets=((NOW - 9 * MINUTE, 20_000),))

    assert learned(pace_of(m=old), used(0.0), now_ms=NOW)["m"].baskets == ()


@pytest.mark.parametrize(
    ("reset_at_ms", "finished_ms", "first_ms"),
    [
        pytest.param(NOW + 120_500, None, NOW - 479_500, id="by our clock"),
        pytest.param(NOW + 120_000, None, NOW - 479_000, id="whole seconds are cut"),
        pytest.param(7_120_500, 7_000_000, NOW - 479_500, id="by the portal's own clock"),
        pytest.param(NOW - 1_500, None, NOW - 3 * MINUTE, id="over already"),
        pytest.param(NOW + 9_000_500, None, NOW - 3 * MINUTE, id="far beyond the window"),
        pytest.param(NOW + 600_000, None, NOW, id="at once"),
    ],
)
def test_the_portal_tells_when_the_oldest_basket_began(
    reset_at_ms: int, finished_ms: int | None, first_ms: int
) -> None:
    """It is a window before its end; what makes no sense is not believed."""
    old = MethodPace(baskets=((NOW - 3 * MINUTE, 20_000),))
    time = MethodTime(operating_s=40.0, reset_at_ms=reset_at_ms)
    told = Timings(budgets={"m": time}, finished_ms=finished_ms)

    lesson = learned(pace_of(m=old), told, now_ms=NOW)

    assert lesson["m"].baskets == ((first_ms, 20_000), (NOW, 20_000))


def test_a_refused_method_rests_until_its_oldest_basket_drops_out() -> None:
    """That is when it may be tried first; if it is refused again, the next one is waited for."""
    old = MethodPace(baskets=((NOW - 9 * MINUTE, 100_000), (NOW - 7 * MINUTE, 376_000)))

    first = learned(pace_of(m=old), used(0.0, blocked=True), now_ms=NOW)
    again = learned(pace_of(**first), used(0.0, blocked=True), now_ms=NOW + MINUTE)

    assert first["m"].blocked_until_ms == NOW + MINUTE
    assert again["m"].blocked_until_ms == NOW + 3 * MINUTE
    assert again["m"].limit_s is None


def test_a_refused_method_of_which_nothing_is_known_rests_for_a_basket() -> None:
    """Time is given back minute by minute."""
    lesson = learned(pace_of(), used(0.0, NOW + WINDOW, blocked=True), now_ms=NOW)

    assert lesson["m"] == MethodPace(blocked_until_ms=NOW + MINUTE, updated_ms=NOW)


def test_a_portal_that_refuses_before_the_limit_teaches_its_own() -> None:
    """A command was done at 421 seconds, and the next one refused."""
    known = pace_of(m=MethodPace(cost_s=1.0))
    refused = used(421.0, blocked=True)

    first = learned(known, refused, now_ms=NOW)
    later = learned(pace_of(**first), used(423.0, blocked=True), now_ms=NOW)
    done = learned(pace_of(**first), used(425.0), now_ms=NOW)

    assert (first["m"].limit_s, first["m"].found_ms) == (421.0, NOW)
    assert later["m"].limit_s == 421.0
    assert done["m"].limit_s is None
    assert learned(pace_of(**first), used(421.5), now_ms=NOW)["m"].limit_s == 421.0


def test_where_nobody_counts_nothing_used_is_kept() -> None:
    """A limit of none switches it off; costs are learned all the same."""
    rules = Rules(method_s=None)
    told = Timings(costs_s={"m": [1.0]}, budgets=used(400.0).budgets)

    first = learned(pace_of(rules), told, now_ms=NOW)
    more = learned(pace_of(rules, **first), told, now_ms=NOW)

    assert first["m"].baskets == ()
    assert more == {}
    assert learned(pace_of(rules, **first), Timings(costs_s={"m": [1.1]}), now_ms=NOW) == {}


def test_a_cost_may_come_after_the_time_used() -> None:
    """A request as a whole has no cost of its own."""
    first = learned(pace_of(), used(20.0), now_ms=NOW)
    silent = learned(pace_of(**first), used(21.0), now_ms=NOW)
    second = learned(pace_of(**first), Timings(costs_s={"m": [0.01]}), now_ms=NOW)

    assert first["m"].cost_s is None
    assert silent == {}
    assert second["m"].cost_s == 0.01


def test_a_request_that_was_cut_is_not_made_again() -> None:
    """Ten of three seconds were cut at sixty, so they are held for more than seven: half go next."""
    known = pace_of(m=MethodPace(cost_s=3.0, spread_s=1.0), n=MethodPace(cost_s=3.0))

    lesson = cut(known, ["m"] * 5 + ["n"] * 5, now_ms=NOW)

    assert {method: told.cost_s for method, told in lesson.items()} == pytest.approx(
        {"m": 7.2, "n": 7.2}
    )
    assert {(told.spread_s, told.updated_ms) for told in lesson.values()} == {
        (1.0, NOW),
        (0.0, NOW),
    }


def test_commands_that_were_thought_cheap_are_dear_after_a_cut() -> None:
    """Fifty of a hundredth of a second took sixty: so dear that half go next; none takes more."""
    cheap, dear = MethodPace(cost_s=0.01), MethodPace(cost_s=50.0)

    assert cut(pace_of(m=cheap), ["m"] * 50, now_ms=NOW)["m"].cost_s == pytest.approx(1.44)
    assert cut(pace_of(m=dear), ["m"], now_ms=NOW)["m"].cost_s == 60.0
    assert cut(pace_of(m=MethodPace(cost_s=0.0)), ["m"], now_ms=NOW)["m"].cost_s == 0.0


def test_a_request_that_was_too_large_is_halved() -> None:
    """The bound belongs to the request, and never becomes nothing."""
    assert too_large(pace_of(), 9_001, now_ms=NOW) == {
        BATCH: MethodPace(max_bytes=4_500, found_ms=NOW, updated_ms=NOW)
    }
    assert too_large(pace_of(), 5, now_ms=NOW)[BATCH].max_bytes == 1024


@given(
    st.lists(
        st.tuples(
            st.integers(min_value=0, max_value=90_000), st.floats(min_value=0, max_value=1000)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_known_sums_up_to_what_the_portal_says(steps: list[tuple[int, float]]) -> None:
    """However its numbers move, the baskets hold the last of them, in the order of their times."""
    known: dict[str, MethodPace] = {}
    now = NOW
    for later_ms, seconds in steps:
        now += later_ms
        known |= learned(pace_of(**known), used(seconds), now_ms=now)
        baskets = known.setdefault("m", MethodPace()).baskets
        assert list(baskets) == sorted(baskets)
        assert all(spent > 0 for _, spent in baskets)
        assert abs(known["m"].used_s(now, WINDOW) - seconds) <= 0.02 * 480 + 0.001


def test_commands_of_one_answer_belong_to_the_minutes_of_their_ends() -> None:
    """By the portal's clock, which is five seconds ahead; the request lasted from one to the next."""
    ahead, end = 5_000, NOW + 10_000
    marks = [(NOW - 5_000, 3.0), (NOW - 1_000, 7.0), (NOW + 2_000, 9.0), (end + ahead, 20.0)]
    told = Timings(
        budgets={"m": MethodTime(operating_s=20.0)}, marks={"m": marks}, finished_ms=end + ahead
    )

    lesson = learned(pace_of(), told, now_ms=end)

    assert lesson["m"].baskets == ((NOW - 6_000, 7_000), (end, 13_000))
