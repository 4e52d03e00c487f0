"""When a portal that is stopped is asked by itself: times written by hand."""

import pytest

from b24sync.core.model import PortalState
from b24sync.core.probes import SCHEDULES, Age, next_probe_ms

HOUR = 3_600_000
DAY = 24 * HOUR
ALMOST_ONE = 1 - 2**-53

PASSING = "insufficient_scope"


@pytest.mark.parametrize(
    ("state", "code", "waits"),
    [
        pytest.param(PortalState.OVERLOADED, "", [HOUR, HOUR, HOUR], id="a block: hourly"),
        pytest.param(
            PortalState.PLAN_LOST, "", [HOUR, 2 * HOUR, 4 * HOUR, 6 * HOUR, 6 * HOUR], id="plan"
        ),
        pytest.param(PortalState.GONE, "", [DAY, DAY], id="gone: daily"),
        pytest.param(
            PortalState.AUTH_LOST,
            PASSING,
            [HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, DAY, DAY],
            id="rights",
        ),
        pytest.param(PortalState.MISCONFIGURED, "HTTP_404", [HOUR, 2 * HOUR], id="a page"),
        pytest.param(PortalState.MISCONFIGURED, "HTTP_302", [HOUR, 2 * HOUR], id="a redirect"),
        pytest.param(PortalState.AUTH_LOST, "NO_AUTH_FOUND", [None], id="a lost webhook"),
        pytest.param(PortalState.AUTH_LOST, "invalid_grant", [None], id="lost tokens"),
        pytest.param(PortalState.AUTH_LOST, "expired_token", [None], id="an expired token"),
        pytest.param(PortalState.MISCONFIGURED, "INVALID_REQUEST", [None], id="plain http"),
        pytest.param(PortalState.MISCONFIGURED, "NEW_CODE", [None], id="unlisted"),
        pytest.param(PortalState.MISCONFIGURED, "webhook_url", [None], id="a wrong setting"),
        pytest.param(PortalState.MISCONFIGURED, "", [None], id="no code"),
        pytest.param(PortalState.PAUSED, PASSING, [None], id="an operator"),
        pytest.param(PortalState.ACTIVE, PASSING, [None], id="called as usual"),
    ],
)
def test_what_may_pass_by_itself_is_asked_more_and_more_seldom(
    state: PortalState, code: str, waits: list[int | None]
) -> None:
    """By its state, and where that can mean a lost credential or a wrong setting, by its code."""
    found = [
        next_probe_ms(state, code, age=Age(probes=probes), renews=False, jitter=0.0)
        for probes in range(len(waits))
    ]

    assert found == waits


@pytest.mark.parametrize("code", ["user_access_error", "authorization_error", "INSUFFICIENT_SCOPE"])
def test_rights_that_an_administrator_gives_back_are_noticed(code: str) -> None:
    """The credential stays as it is stored; the code is read in any case."""
    wait_ms = next_probe_ms(PortalState.AUTH_LOST, code, age=Age(), renews=False, jitter=0.0)

    assert wait_ms == HOUR


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [(0.0, HOUR), (0.5, HOUR + HOUR // 8), (ALMOST_ONE, HOUR + HOUR // 4 - 1)],
)
def test_the_dice_spread_probes_over_a_quarter_of_their_time(jitter: float, expected: int) -> None:
    """Never earlier than planned."""
    age = Age(probes=0)

    assert (
        next_probe_ms(PortalState.OVERLOADED, "", age=age, renews=False, jitter=jitter) == expected
    )


@pytest.mark.parametrize(
    ("state", "days"),
    [(PortalState.OVERLOADED, 30), (PortalState.PLAN_LOST, 90), (PortalState.GONE, 30)],
)
def test_after_a_while_only_a_person_asks(state: PortalState, days: int) -> None:
    """The last probe comes within the time."""
    at_end = [
        next_probe_ms(
            state, "", age=Age(ms=days * DAY - left_ms, probes=9), renews=False, jitter=0.0
        )
        for left_ms in (DAY, 0)
    ]

    assert at_end[0] is not None
    assert at_end[1] is None


def test_where_asking_may_cost_a_renewal_it_is_done_once_a_day() -> None:
    """An application that renews its tokens every hour is blocked."""
    waits = [
        next_probe_ms(state, "", age=Age(), renews=True, jitter=0.0)
        for state in (PortalState.OVERLOADED, PortalState.PLAN_LOST, PortalState.GONE)
    ]

    assert waits == [DAY, DAY, DAY]


def test_every_state_has_been_thought_of() -> None:
    """A new one has a line, and be it that nobody asks."""
    assert set(SCHEDULES) == set(PortalState)


@pytest.mark.parametrize("probes", [-1, 10**9])
def test_no_count_of_probes_is_too_strange(probes: int) -> None:
    """Whatever stands in the table."""
    wait_ms = next_probe_ms(
        PortalState.PLAN_LOST, "", age=Age(probes=probes), renews=False, jitter=0.0
    )

    assert wait_ms in {HOUR, 6 * HOUR}
