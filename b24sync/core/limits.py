"""What a portal's limits allow, as values: when the next request fits, how much a method has used.

The bucket is arithmetic only. It asks no clock, waits for nothing and remembers by being replaced.
"""

import math
from dataclasses import dataclass, replace

from b24sync.core.errors import SettingsError

_MS_PER_S = 1000


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
