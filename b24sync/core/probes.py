"""When a portal that is not called is asked by itself whether it is well again.

A pause that a person must end costs hours that nobody needed to lose, where the trouble passed by
itself: somebody paid, a block was lifted, a server came back. So such a portal is asked now and
then, more and more seldom, and after a while not any more. What an operator has stopped is never
asked, and neither is what no asking can mend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from b24sync.core.faults import may_pass
from b24sync.core.model import PortalState

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RENEWING_MS = DAY_MS
"""The least time between two probes that may cost a renewal each."""

SPREAD = 0.25
"""How much later than planned the dice may put a probe: thousands of portals that were stopped in
the same second are not asked in the same second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a state is probed.

    Units: milliseconds. ``first_ms`` after the stop comes the first probe; the time between two
    doubles up to ``cap_ms``; ``until_ms`` after the stop comes no other. ``by_code``: only what the
    table of faults says may pass.
    """

    first_ms: int
    cap_ms: int
    until_ms: int
    by_code: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """How long a portal has been stopped, and how often it was asked since.

    Units: ``ms`` milliseconds.
    """

    ms: int = 0
    probes: int = 0


SCHEDULES: Mapping[PortalState, Schedule | None] = MappingProxyType(
    {
        PortalState.ACTIVE: None,
        # An operator's will.
        PortalState.PAUSED: None,
        # Rights are given back; a credential that is lost is not, and its code tells them apart.
        PortalState.AUTH_LOST: Schedule(
            first_ms=HOUR_MS, cap_ms=DAY_MS, until_ms=14 * DAY_MS, by_code=True
        ),
        PortalState.PLAN_LOST: Schedule(first_ms=HOUR_MS, cap_ms=6 * HOUR_MS, until_ms=90 * DAY_MS),
        # A block by hand is not loosened by asking often.
        PortalState.OVERLOADED: Schedule(first_ms=HOUR_MS, cap_ms=HOUR_MS, until_ms=30 * DAY_MS),
        PortalState.GONE: Schedule(first_ms=DAY_MS, cap_ms=DAY_MS, until_ms=30 * DAY_MS),
        # A server that shows a page where REST should answer may be under repair.
        PortalState.MISCONFIGURED: Schedule(
            first_ms=HOUR_MS, cap_ms=DAY_MS, until_ms=14 * DAY_MS, by_code=True
        ),
    }
)
"""Each state and its schedule; ``None``, only a person ends it."""


def next_probe_ms(
    state: PortalState, code: str, *, age: Age, renews: bool, jitter: float
) -> int | None:
    """How long until a portal is asked the next time; ``None``, never by itself.

    Shape: ``code`` is what it was stopped for. ``renews``: asking may cost a renewal of its tokens,
    and an application that renews often is blocked.
    Units: milliseconds; ``jitter`` in [0, 1).
    Raises: nothing.
    Source: Bitrix24 REST manual, "OAuth 2.0", automatic renewal: never on an hourly schedule.
    """
    schedule = SCHEDULES[state]
    if schedule is None or (schedule.by_code and not may_pass(code)):
        return None
    wait_ms = min(schedule.cap_ms, schedule.first_ms << min(max(age.probes, 0), 16))
    wait_ms = max(wait_ms, RENEWING_MS) if renews else wait_ms
    wait_ms += int(jitter * SPREAD * wait_ms)
    return wait_ms if age.ms + wait_ms <= schedule.until_ms else None
