"""The portal's limits: request rate and time budget per method.

Source: manual, "Limits".
"""

import threading
from dataclasses import dataclass, field

from b24sync.sandbox.config import SandboxConfig

_BASKETS = 10
_WHOLE_S = 60.0
"""The shortest window whose end is told in whole seconds, as portals do; shorter ones are scaled."""
_USUAL_LEAK = 2.0


class Bucket:
    """The leaky bucket of the request rate; safe to use from several threads."""

    def __init__(self, config: SandboxConfig) -> None:
        """Start empty."""
        self._threshold = config.bucket_x
        self._leak = _USUAL_LEAK if config.bucket_y is None else config.bucket_y
        self._refusals_count = config.refusals_fill_bucket
        self._lock = threading.Lock()
        self._level = 0.0
        self._seen_at = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may pass at a moment (seconds); one that passes is counted."""
        if self._threshold is None:
            return True
        with self._lock:
            leaked = max(0.0, now - self._seen_at) * self._leak
            self._level = max(0.0, self._level - leaked)
            self._seen_at = now
            # The manual refuses once the counter is above the threshold, so a full bucket of
            # X requests passes and the next one does not.
            passes = self._level + 1 <= self._threshold
            if passes or self._refusals_count:
                self._level += 1
            return passes

    def empty(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._level = 0.0


@dataclass(slots=True)
class _Budget:
    baskets: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])
    """Number of the basket: time of its first call, seconds used."""


class OperatingMeter:
    """The time each method has used in the window, by credential; for use under one lock."""

    def __init__(self, config: SandboxConfig) -> None:
        """Start with nothing used."""
        self._limit = config.operating_limit_s
        self._window_s = config.operating_window_s
        self._basket_s = config.operating_window_s / _BASKETS
        self._budgets: dict[tuple[str, str], _Budget] = {}

    def blocks(self, credential: str, method: str, now: float) -> bool:
        """Whether a method's time is used up at a moment."""
        if self._limit is None:
            return False
        return self.used(credential, method, now)[0] >= self._limit

    def charge(self, credential: str, method: str, seconds: float, now: float) -> None:
        """Count the time of a call."""
        budget = self._budgets.setdefault((credential, method), _Budget())
        number = int(now // self._basket_s)
        first, used = budget.baskets.get(number, (now, 0.0))
        budget.baskets[number] = (first, used + seconds)

    def used(self, credential: str, method: str, now: float) -> tuple[float, float]:
        """Seconds used in the window, and the unix time when the oldest basket drops out."""
        budget = self._budgets.get((credential, method))
        if budget is None:
            return 0.0, self._told(now + self._window_s)
        baskets = budget.baskets
        for number in [n for n, (first, _) in baskets.items() if first + self._window_s <= now]:
            del baskets[number]
        oldest = min((first for first, _ in baskets.values()), default=now)
        return sum(used for _, used in baskets.values()), self._told(oldest + self._window_s)

    def all_used(self, now: float) -> dict[str, dict[str, float]]:
        """Seconds used in the window, by credential and method."""
        found: dict[str, dict[str, float]] = {}
        for credential, method in self._budgets:
            found.setdefault(credential, {})[method] = self.used(credential, method, now)[0]
        return found

    def _told(self, at: float) -> float:
        """A time as the portal tells it."""
        return int(at) if self._window_s >= _WHOLE_S else at

    def clear(self) -> None:
        """Forget all calls."""
        self._budgets.clear()
