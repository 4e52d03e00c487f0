"""What a portal's limits leave for the next batch, as values.

A portal gives each method so much time in a sliding window of ten baskets, and cuts a request that
lasts too long. What is known of both is learned from its answers (``learning``) and read once by a
claim, which decides by it alone (``admitting``, ``batching``).

The portal looks at a method's time before each call: the call that crosses the limit is done, the
next one is refused. Time comes back basket by basket, each a window after its first call.

Source: Bitrix24 REST manual, "Limits".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt

BATCH = "batch"
"""The method that pays for a whole request, on portals that do not charge the methods in it."""

BASKETS = 10
"""Into so many parts a portal cuts its window."""

MARGIN = 0.01
"""The part of a method's time that is left alone: clocks differ, and so do roundings."""

DEVIATIONS = 3.0
"""How much dearer than usual commands may turn out before a bound is passed."""

WORST = 0.9
"""The part of the longest request that even dear commands should keep."""

BELIEVED_MS = 24 * 3_600_000
"""For how long it is believed that a portal allows less than is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of one portal, as far as they are set and not learned.

    ``share``: the part of the longest request that a batch is expected to take; ``start``: commands
    of unknown cost in one request.
    Units: ``method_s`` seconds of one method in ``window_s`` seconds, ``None``, nobody counts them;
    ``request_s`` is the longest request in seconds.
    """

    method_s: float | None = 480.0
    window_s: float = 600.0
    request_s: float = 60.0
    share: float = 0.6
    start: int = 10

    @property
    def window_ms(self) -> int:
        """The window, in milliseconds."""
        return int(self.window_s * 1000)

    @property
    def basket_ms(self) -> int:
        """One part of the window, in milliseconds."""
        return self.window_ms // BASKETS

    @property
    def room_s(self) -> float:
        """What a request is expected to take at the most, in seconds."""
        return self.request_s * self.share


USUAL = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What commands are expected to take.

    Units: seconds, and their square.
    """

    mean_s: float = 0.0
    variance: float = 0.0

    def __add__(self, other: "Load") -> "Load":
        """One after the other."""
        return Load(mean_s=self.mean_s + other.mean_s, variance=self.variance + other.variance)

    @property
    def worst_s(self) -> float:
        """What they take if they turn out dear."""
        return self.mean_s + DEVIATIONS * sqrt(self.variance)


NO_LOAD = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPace:
    """What is known of one method on one portal.

    Shape: ``baskets`` are the first call and the time used of each that counts, the oldest first.
    ``limit_s``: the portal refused at that many seconds already. ``max_bytes``: the largest request,
    of ``batch`` only. ``found_ms``: when these two were found.
    Units: ``cost_s`` seconds for a command, ``None``, not known; ``spread_s`` its deviation; baskets
    and times in milliseconds, by the database's clock.
    """

    cost_s: float | None = None
    spread_s: float = 0.0
    baskets: tuple[tuple[int, int], ...] = ()
    limit_s: float | None = None
    blocked_until_ms: int = 0
    max_bytes: int | None = None
    found_ms: int = 0
    updated_ms: int = 0

    def used_s(self, now_ms: int, window_ms: int) -> float:
        """How much of its time is used at a moment.

        Units: seconds.
        """
        return sum(used for first, used in self.baskets if first + window_ms > now_ms) / 1000


UNKNOWN = MethodPace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What is known of a portal's limits at one moment.

    Shape: ``methods`` by name; those of which nothing is known are absent.
    Units: ``now_ms`` is epoch milliseconds by the database's clock.
    """

    now_ms: int
    methods: Mapping[str, MethodPace] = field(default_factory=dict[str, MethodPace])
    rules: Rules = USUAL

    @property
    def blocked(self) -> Mapping[str, int]:
        """The methods of which nothing goes now, with the end of that."""
        ends = {method: self.rests_until(method) for method in self.methods}
        return {method: until for method, until in ends.items() if until}

    @property
    def max_bytes(self) -> int | None:
        """The largest request, if the portal refused a larger one lately."""
        known = self.of(BATCH)
        return known.max_bytes if known.found_ms + BELIEVED_MS > self.now_ms else None

    def of(self, method: str) -> MethodPace:
        """What is known of a method; nothing, if it is that."""
        return self.methods.get(method, UNKNOWN)

    def ceiling_s(self, method: str) -> float | None:
        """So much of a method's time may be used; ``None``, nobody counts it."""
        limit_s, known = self.rules.method_s, self.of(method)
        if limit_s is None:
            return None
        if known.limit_s is not None and known.found_ms + BELIEVED_MS > self.now_ms:
            limit_s = min(limit_s, known.limit_s)
        return limit_s * (1 - MARGIN)

    def rests_until(self, method: str, before: Load = NO_LOAD) -> int:
        """When so much of a method's time is left that it is called again behind these; 0, now.

        Units: epoch milliseconds.
        """
        known, ceiling_s = self.of(method), self.ceiling_s(method)
        until = known.blocked_until_ms if known.blocked_until_ms > self.now_ms else 0
        if ceiling_s is None:
            return until
        below_s, window_ms = ceiling_s - before.worst_s, self.rules.window_ms
        left_s = known.used_s(self.now_ms, window_ms)
        for first, used in known.baskets:
            if left_s < below_s:
                break
            if first + window_ms > self.now_ms:
                left_s -= used / 1000
                until = max(until, first + window_ms)
        return until

    def has_room(self, method: str, before: Load) -> bool:
        """Whether a method is called once more behind these, whose time is not counted yet."""
        ceiling_s = self.ceiling_s(method)
        used_s = self.of(method).used_s(self.now_ms, self.rules.window_ms)
        return ceiling_s is None or used_s + before.worst_s < ceiling_s

    def is_beyond(self, method: str, before: Load) -> bool:
        """Whether these alone are more than a method may use: no waiting makes room for them."""
        ceiling_s = self.ceiling_s(method)
        return ceiling_s is not None and before.worst_s >= ceiling_s

    def load(self, method: str, room_s: float | None = None) -> Load:
        """What a command of a method is expected to take.

        Shape: of one that is not known, so much that ``start`` of them fill a request of ``room_s``.
        """
        known = self.of(method)
        if known.cost_s is None:
            room_s = self.rules.room_s if room_s is None else room_s
            return Load(mean_s=room_s / self.rules.start)
        return Load(mean_s=known.cost_s, variance=known.spread_s**2)

    def bears(self, load: Load, room_s: float | None = None) -> bool:
        """Whether one request may take that long."""
        room_s = self.rules.room_s if room_s is None else room_s
        worst_s = max(WORST * self.rules.request_s, room_s)
        # A millionth is the noise of a sum that is exactly full.
        return load.mean_s <= room_s * (1 + 1e-6) and load.worst_s <= worst_s

    def fitting(self, methods: Iterable[str], room_s: float | None = None) -> int:
        """How many of these commands, from the first one on, one request may hold; at least one."""
        total, count = NO_LOAD, 0
        for method in methods:
            total += self.load(method, room_s)
            if count and not self.bears(total, room_s):
                break
            count += 1
        return count
