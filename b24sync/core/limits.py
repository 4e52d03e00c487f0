"""What a portal's limits allow, as values: when the next request fits, how much a method has used.

The bucket is arithmetic only. It asks no clock, waits for nothing and remembers by being replaced.

Our count is an estimate, the portal's refusal is the truth: other programs behind the same address
pour into the same bucket, and a plan may be another than we were told. So refusals teach (``taught``)
what can be believed (``believed``), and time lets it be forgotten.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from b24sync.core.errors import SettingsError

_MS_PER_S = 1000

TOGETHER_MS = 2_000
"""Refusals so close behind one that taught are of the same requests, and teach no more."""

RECOVERY_MS = 600_000
"""Without a refusal for so long, the plan's figures are believed again, whatever was taught."""

LESS = 0.75
"""What is left of the believed figures after a refusal that teaches."""

LEAST = 0.1
"""The share of the plan's figures below which nothing is taught."""

LATENESS_S = 0.2
"""By how much one request may be later on its way than another, and none be refused for it."""

MOST_LATE = 0.5
"""The share of the bucket that is kept for lateness at the most."""

MOST_KEPT = 0.2
"""The share of the bucket that is kept for people at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast a portal may be called.

    Units: ``x`` requests at once, ``y`` requests per second.
    Raises: SettingsError, if not even one request would ever fit.
    Source: Bitrix24 REST manual, "Limits": 50 and 2 per second, 250 and 5 for Enterprise.
    """

    x: float = 50.0
    y: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a rate at which nothing would go."""
        if not 1 <= self.x < math.inf:
            raise SettingsError("rate", f"{self.x:g} at once holds no request; give at least 1")
        if not 0 < self.y < math.inf:
            raise SettingsError("rate", f"{self.y:g} per second never goes on; give more than 0")


USUAL = Rate()
ENTERPRISE = Rate(x=250.0, y=5.0)
PLANS: Mapping[str, Rate] = MappingProxyType(
    {
        "free": USUAL,
        "basic": USUAL,
        "standard": USUAL,
        "professional": USUAL,
        "enterprise": ENTERPRISE,
    }
)
"""The rate of each plan of the cloud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a portal's refusals have taught of its rate.

    Shape: ``refusals`` counts all that there were.
    Units: as ``Rate``; ``at_ms`` is when it was taught, epoch milliseconds.
    """

    x: float
    y: float
    at_ms: int
    refusals: int


def taught(plan: Rate, before: Lesson | None, now_ms: int) -> Lesson:
    """What a refusal teaches: the second within ten minutes that the figures are lower, and so on.

    A single one only says that the bucket is full, for which other programs may be the cause, or a
    request that was late. Those that come together count once.
    Raises: nothing.
    """
    if before is None:
        return Lesson(x=plan.x, y=plan.y, at_ms=now_ms, refusals=1)
    elapsed_ms = max(0, now_ms - before.at_ms)
    refusals = before.refusals + 1
    if elapsed_ms < TOGETHER_MS:
        return replace(before, refusals=refusals)
    if elapsed_ms >= RECOVERY_MS:
        return Lesson(x=plan.x, y=plan.y, at_ms=now_ms, refusals=refusals)
    now = believed(plan, before, now_ms)
    return Lesson(
        x=max(1.0, plan.x * LEAST, now.x * LESS),
        y=max(plan.y * LEAST, now.y * LESS),
        at_ms=now_ms,
        refusals=refusals,
    )


def believed(plan: Rate, lesson: Lesson | None, now_ms: int) -> Rate:
    """What can be believed of a rate: what was taught, more with every second, the plan at the most.

    Raises: nothing.
    """
    if lesson is None:
        return plan
    recovered = max(0, now_ms - lesson.at_ms) / RECOVERY_MS
    # What was taught under another plan may be less than this one's least.
    return Rate(
        x=min(plan.x, max(1.0, lesson.x) + plan.x * recovered),
        y=min(plan.y, max(plan.y * LEAST, lesson.y) + plan.y * recovered),
    )


_is_group = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}").fullmatch


def egress_group(name: str) -> str:
    """The name of an address from which portals are called.

    Raises: SettingsError for one that cannot be.
    """
    if _is_group(name) is None:
        raise SettingsError(
            "egress_group",
            f"{name!r} is no name: 1 to 64 letters, digits, dots, dashes and underlines",
        )
    return name


def late_share(plan: Rate) -> float:
    """What of the bucket is not used, because requests reach the portal later than they are counted.

    One that was late and one that was not are closer together there than here.
    Units: requests.
    Raises: nothing.
    """
    return min(plan.y * LATENESS_S, plan.x * MOST_LATE)


def people_share(plan: Rate, wanted: float) -> float:
    """What of the bucket is left to people.

    Units: requests.
    Raises: nothing.
    """
    return min(wanted, plan.x * MOST_KEPT)


def room(x: float, reserve: float) -> float:
    """How full the bucket may get if so much is left free; one request fits an empty one all the same.

    Units: requests.
    Raises: nothing.
    """
    return max(1.0, x - reserve)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A leaky bucket: every request pours one in, time lets it leak, above capacity is refused.

    Units: ``level`` and ``capacity`` in requests, ``leak_per_s`` in requests per second,
    ``updated_at_ms`` in epoch milliseconds.
    Raises: SettingsError, if not even one request would ever fit.
    Source: Bitrix24 REST manual, "Limits": 50 and 2 per second, 250 and 5 for Enterprise.
    """

    level: float
    capacity: float
    leak_per_s: float
    updated_at_ms: int

    def __post_init__(self) -> None:
        """Refuse a bucket whose wait would never end."""
        if not 1 <= self.capacity < math.inf:
            raise SettingsError("capacity", f"{self.capacity} holds no request; give at least 1")
        if not 0 < self.leak_per_s < math.inf:
            raise SettingsError("leak_per_s", f"{self.leak_per_s} never empties; give more than 0")

    def level_at(self, now_ms: int) -> float:
        """Tell the level at an instant; a clock that went back lets nothing leak.

        Units: requests, never below zero.
        Raises: nothing.
        """
        elapsed_s = max(0, now_ms - self.updated_at_ms) / _MS_PER_S
        return max(0.0, self.level - elapsed_s * self.leak_per_s)

    def wait_ms(self, now_ms: int) -> int:
        """Tell how long until one more request fits; zero if it fits now.

        Units: milliseconds, rounded up.
        Raises: nothing.
        """
        excess = self.level_at(now_ms) + 1 - self.capacity
        # A millionth of a millisecond is the float's noise and must not cost a whole one.
        return max(0, math.ceil(round(excess / self.leak_per_s * _MS_PER_S, 6)))

    def charged(self, now_ms: int) -> "Bucket":
        """Pour one request in.

        Raises: nothing; a request sent over the capacity is charged too.
        """
        return self._at(now_ms, self.level_at(now_ms) + 1)

    def filled(self, now_ms: int) -> "Bucket":
        """Believe the portal that says it is full, whatever was counted here.

        Raises: nothing.
        """
        return self._at(now_ms, max(self.capacity, self.level_at(now_ms)))

    def _at(self, now_ms: int, level: float) -> "Bucket":
        return replace(self, level=level, updated_at_ms=max(now_ms, self.updated_at_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTime:
    """What the portal says of one method's time budget.

    ``is_blocked``: the portal refused the method; nothing of it goes before ``reset_at_ms``, and
    ``operating_s`` is only what was heard before.
    Units: ``operating_s`` is seconds used in the last ten minutes; ``reset_at_ms`` is epoch
    milliseconds by the portal's clock, ``None`` if it named no time.
    Source: Bitrix24 REST manual, "Limits", ``operating`` and ``operating_reset_at``.
    """

    operating_s: float
    reset_at_ms: int | None = None
    is_blocked: bool = False
