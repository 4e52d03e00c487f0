"""What the bucket promises: it never lies about the wait, and the portal's word beats our count."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.errors import SettingsError
from b24sync.core.limits import (
    ENTERPRISE,
    PLANS,
    RECOVERY_MS,
    TOGETHER_MS,
    USUAL,
    Bucket,
    Lesson,
    Rate,
    believed,
    egress_group,
    late_share,
    people_share,
    room,
    taught,
)

NOW_MS = 1_790_000_000_000

instants = st.integers(min_value=NOW_MS - 10**7, max_value=NOW_MS + 10**7)
buckets = st.builds(
    Bucket,
    level=st.floats(min_value=0, max_value=1000),
    capacity=st.floats(min_value=1, max_value=500),
    leak_per_s=st.floats(min_value=0.01, max_value=100),
    updated_at_ms=instants,
)

plans = st.builds(
    Rate,
    x=st.floats(min_value=1, max_value=500),
    y=st.floats(min_value=0.01, max_value=100),
)
# Steps from one refusal to the next; a clock may go back.
steps_ms = st.lists(st.integers(min_value=-5_000, max_value=700_000), max_size=12)


def lesson(*at_ms: int, plan: Rate = USUAL) -> Lesson:
    """Give what refusals at these times after the first have taught."""
    learned = taught(plan, None, NOW_MS)
    for each in at_ms:
        learned = taught(plan, learned, NOW_MS + each)
    return learned


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


def test_every_plan_but_one_has_the_usual_rate() -> None:
    """50 and 2 per second; Enterprise has 250 and 5."""
    assert {name for name, rate in PLANS.items() if rate == Rate(x=50, y=2)} == {
        "free",
        "basic",
        "standard",
        "professional",
    }
    assert PLANS["enterprise"] == ENTERPRISE == Rate(x=250, y=5)


@pytest.mark.parametrize(
    ("x", "y"), [(0.5, 2), (math.nan, 2), (math.inf, 2), (50, 0), (50, -1), (50, math.inf)]
)
def test_a_rate_at_which_nothing_goes_is_refused(x: float, y: float) -> None:
    """Whoever says it is told at once, and no worker meets it."""
    with pytest.raises(SettingsError, match=r"^rate: "):
        Rate(x=x, y=y)


def test_a_single_refusal_teaches_nothing_of_the_figures() -> None:
    """It fills the bucket; another program's one burst must not slow a portal down."""
    learned = lesson()

    assert learned == Lesson(x=50, y=2, at_ms=NOW_MS, refusals=1)
    assert believed(USUAL, learned, NOW_MS) == USUAL


def test_a_second_refusal_takes_a_quarter_and_three_minutes_bring_it_back() -> None:
    """37.5 and 1.5 then; a twelfth of the plan's figures comes back in 50 seconds."""
    learned = lesson(10_000)

    after = [believed(USUAL, learned, NOW_MS + 10_000 + ms) for ms in (0, 60_000, 149_000, 150_000)]

    assert (learned.x, learned.y, learned.refusals) == (37.5, 1.5, 2)
    assert after[0] == Rate(x=37.5, y=1.5)
    assert [after[1].x, after[1].y] == pytest.approx([42.5, 1.7])
    assert after[2].x < 50
    assert after[3] == USUAL


def test_refusals_that_come_together_teach_once() -> None:
    """Four lanes that were refused in one moment say the same thing four times."""
    learned = lesson(10_000, 10_100, 10_200, 11_999)

    assert (learned.x, learned.y, learned.at_ms) == (37.5, 1.5, NOW_MS + 10_000)
    assert learned.refusals == 5


def test_a_refusal_goes_on_from_what_is_believed_by_then() -> None:
    """A minute after the second one 42.5 is believed, and three quarters of it are 31.9."""
    learned = lesson(10_000, 70_000)

    assert [learned.x, learned.y] == pytest.approx([31.875, 1.275])


def test_refusals_without_end_leave_a_tenth() -> None:
    """5 and 0.2 per second: slow, and it goes."""
    learned = lesson(*range(10_000, 400_000, 3_000))

    assert believed(USUAL, learned, learned.at_ms) == Rate(x=5, y=0.2)


def test_after_ten_minutes_without_a_refusal_the_next_one_is_a_first_one() -> None:
    """Their count goes on; what they taught is forgotten."""
    learned = lesson(10_000, 10_000 + RECOVERY_MS)

    assert learned == Lesson(x=50, y=2, at_ms=NOW_MS + 10_000 + RECOVERY_MS, refusals=3)


def test_what_was_taught_of_another_plan_is_kept_within_this_one() -> None:
    """Neither above the plan nor below a tenth of it, whichever way it was changed."""
    of_enterprise, of_usual = lesson(plan=ENTERPRISE), lesson(*range(3_000, 90_000, 3_000))

    smaller = believed(USUAL, of_enterprise, NOW_MS)
    larger = believed(ENTERPRISE, of_usual, of_usual.at_ms)

    assert smaller == USUAL
    assert larger == Rate(x=5, y=0.5)


@given(plans, steps_ms, st.integers(min_value=-10_000, max_value=10**7))
def test_what_is_believed_is_between_a_tenth_and_the_plan(
    plan: Rate, steps: list[int], later_ms: int
) -> None:
    """Whatever was refused, and whatever the clock says."""
    at_ms, learned = NOW_MS, None
    for step in steps:
        at_ms += step
        learned = taught(plan, learned, at_ms)

    now = believed(plan, learned, at_ms + later_ms)

    assert max(1, plan.x / 10 - 1e-9) <= now.x <= plan.x
    assert plan.y / 10 - 1e-9 <= now.y <= plan.y


@given(plans, steps_ms)
def test_ten_minutes_without_a_refusal_bring_everything_back(plan: Rate, steps: list[int]) -> None:
    """The time is stated, and it is the same for every plan."""
    at_ms, learned = NOW_MS, taught(plan, None, NOW_MS)
    for step in steps:
        at_ms += step
        learned = taught(plan, learned, at_ms)

    assert believed(plan, learned, learned.at_ms + RECOVERY_MS) == plan


@given(plans, steps_ms, st.integers(min_value=0, max_value=RECOVERY_MS))
def test_a_refusal_never_raises_what_is_believed_and_time_never_lowers_it(
    plan: Rate, steps: list[int], later_ms: int
) -> None:
    """More refusals, less; more time, more."""
    at_ms, learned = NOW_MS, taught(plan, None, NOW_MS)
    for step in steps:
        at_ms = max(at_ms + step, at_ms)
        before, learned = learned, taught(plan, learned, at_ms)
        was, now = believed(plan, before, at_ms), believed(plan, learned, at_ms)
        assert now.x <= was.x + 1e-9
        assert now.y <= was.y + 1e-9
        later = believed(plan, learned, at_ms + later_ms)
        assert later.x >= now.x
        assert later.y >= now.y


@given(
    plans,
    st.lists(
        st.tuples(
            st.integers(min_value=0, max_value=5_000),
            st.integers(min_value=-60_000, max_value=0),
            st.sampled_from(["work", "work", "work", "person", "refusal"]),
            st.floats(min_value=0, max_value=600),
        ),
        max_size=60,
    ),
    st.sampled_from([0, 0, 500, 60_000]),
)
def test_no_interleaving_goes_above_the_rate_as_the_portal_counts_it(
    plan: Rate, events: list[tuple[int, int, str, float]], most_ms: int
) -> None:
    """Workers with any reserves, people and refusals; our clock may go back, and never runs ahead.

    A clock that was behind and is right again has told too much time: by so much at the most.
    """
    true_ms, newest_ms = 0, NOW_MS
    mine = Bucket(level=0, capacity=plan.x, leak_per_s=plan.y, updated_at_ms=NOW_MS)
    learned: Lesson | None = None
    portal = 0.0
    for passed_ms, back_ms, event, reserve in events:
        true_ms += passed_ms
        portal = max(0.0, portal - passed_ms / 1000 * plan.y)
        newest_ms = NOW_MS + true_ms
        now_ms = newest_ms + max(back_ms, -most_ms)
        if event == "refusal":
            learned = taught(plan, learned, now_ms)
        now = believed(plan, learned, now_ms)
        if event == "refusal":
            mine = replace(mine, capacity=now.x, leak_per_s=now.y).filled(now_ms)
            continue
        free = 0.0 if event == "person" else reserve
        mine = replace(mine, capacity=room(now.x, free), leak_per_s=now.y)
        if mine.wait_ms(now_ms) == 0:
            mine = mine.charged(now_ms)
            portal += 1
        assert portal <= plan.x + plan.y * most_ms / 1000 + 1e-6


@given(plans, st.floats(min_value=0, max_value=1000))
def test_something_always_goes_and_nothing_is_kept_that_is_not_there(
    plan: Rate, wanted: float
) -> None:
    """A reserve leaves one request its place, people have a fifth at the most, lateness a half."""
    late, people = late_share(plan), people_share(plan, wanted)

    assert 1 <= room(plan.x, wanted) <= plan.x
    assert 0 < late <= plan.x / 2
    assert 0 <= people <= min(wanted, plan.x / 5 + 1e-9)


def test_the_usual_shares_are_small() -> None:
    """A fifth of a second's leak for lateness, five of fifty for people."""
    assert late_share(USUAL) == pytest.approx(0.4)
    assert late_share(ENTERPRISE) == pytest.approx(1.0)
    assert late_share(Rate(x=2, y=100)) == 1
    assert people_share(USUAL, 5) == 5
    assert people_share(Rate(x=10, y=2), 5) == 2
    assert (room(50, 5), room(5, 5), room(1, 0)) == (45, 1, 1)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.2]), st.integers(min_value=0, max_value=300)),
        min_size=8,
        max_size=40,
    ),
    st.sampled_from([Rate(x=3, y=2), Rate(x=4, y=5), Rate(x=6, y=10)]),
)
def test_requests_that_are_late_by_less_than_the_share_are_not_refused(
    requests: list[tuple[float, int]], plan: Rate
) -> None:
    """They arrive closer together than they were counted, and the portal has room for that."""
    mine = Bucket(
        level=0, capacity=room(plan.x, late_share(plan)), leak_per_s=plan.y, updated_at_ms=NOW_MS
    )
    now_ms, arrivals = NOW_MS, list[float]()
    for late, gap_ms in requests:
        now_ms += gap_ms + mine.wait_ms(now_ms + gap_ms)
        mine = mine.charged(now_ms)
        # From nothing: as seconds of today the noise of a float is larger than what is looked for.
        arrivals.append((now_ms - NOW_MS) / 1000 + late)
    level, seen_at = 0.0, 0.0

    for at in sorted(arrivals):
        level = max(0.0, level - (at - seen_at) * plan.y) + 1
        seen_at = at
        assert level <= plan.x + 1e-6


@pytest.mark.parametrize("name", ["default", "office-2", "10.0.0.1", "a" * 64])
def test_an_address_has_a_plain_name(name: str) -> None:
    """Letters, digits, dots, dashes and underlines."""
    assert egress_group(name) == name


@pytest.mark.parametrize("name", ["", " ", "-a", "two words", "a" * 65, "bü", "a\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """It would be a bucket of its own that nobody meant."""
    with pytest.raises(SettingsError, match=r"^egress_group: "):
        egress_group(name)


def test_refusals_together_are_those_of_two_seconds() -> None:
    """The next one after that teaches again."""
    at_the_edge = lesson(10_000, 10_000 + TOGETHER_MS)

    assert at_the_edge.x == pytest.approx((37.5 + 50 / 300) * 0.75)
