"""What an answer teaches of a portal's limits.

What commands cost, what a method has used of its time, how large a request may be. Only what matters is told, because telling it is a statement: what a method has used is kept by the
portal and repeated in every answer, and costs differ a little from command to command.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

from b24sync.core.limits import MethodTime
from b24sync.core.pacing import BATCH, DEVIATIONS, UNKNOWN, MethodPace, Pace, Rules

WEIGHT = 0.05
"""The weight of one command in the cost of its method: a full batch counts for nine tenths."""

STEP = 0.02
"""The part of the limit by which the time used must have changed to be written down."""

NEAR = 0.8
"""The part of the limit from which every change is."""

CHANGE = 0.1
"""The part by which a cost must have changed; or that part of a full request, if that is more."""

STALE_MS = 60_000
"""What was not written down for so long is, however little it is."""

DEARER = 2.0
"""How much dearer commands are held for at least, whose request was cut."""

MAX_COMMANDS = 50
"""As many as one request may hold."""

LEAST_BYTES = 1024
"""No portal is believed to take less in one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What an answer says of time.

    Shape: ``costs_s``, by method, what each of its commands took; ``budgets``, by method, what is
    used of its time, that of the whole request as ``batch`` if that pays. ``reset_at_ms`` in them is
    what the method's own last call was told. ``marks``, by method, what was used after each of its
    commands.
    Units: seconds; ``finished_ms`` and the times of marks epoch milliseconds by the portal's clock,
    ``None`` if it told none.
    """

    costs_s: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    budgets: Mapping[str, MethodTime] = field(default_factory=dict[str, MethodTime])
    marks: Mapping[str, Sequence[tuple[int, float]]] = field(
        default_factory=dict[str, Sequence[tuple[int, float]]]
    )
    finished_ms: int | None = None


def learned(pace: Pace, told: Timings, *, now_ms: int) -> Mapping[str, MethodPace]:
    """What is to be remembered of the methods of which an answer said something that matters.

    Shape: by method, in their order.
    Units: ``now_ms`` is when the answer came, by the database's clock.
    Raises: nothing.
    """
    lessons: dict[str, MethodPace] = {}
    for method in sorted({*told.costs_s, *told.budgets}):
        old = pace.of(method)
        new = _costing(old, told.costs_s.get(method, ()))
        budget = told.budgets.get(method)
        if budget is not None and pace.rules.method_s is not None:
            ahead_ms = 0 if told.finished_ms is None else told.finished_ms - now_ms
            clock = _Clock(rules=pace.rules, now_ms=now_ms, ahead_ms=ahead_ms)
            marks = told.marks.get(method, ()) if told.finished_ms is not None else ()
            new = _used(new, budget, marks, clock)
            if budget.is_blocked:
                new = _refused(pace, method, new, budget, now_ms)
        if _matters(old, new, pace.rules, now_ms):
            lessons[method] = replace(new, updated_ms=now_ms)
    return lessons


def cut(pace: Pace, methods: Iterable[str], *, now_ms: int) -> Mapping[str, MethodPace]:
    """What is to be remembered of commands whose request took longer than the portal allows.

    Shape: ``methods`` of all of them. They cost so much more that half of the same request is made the
    next time, at the most: how much longer it would have taken nobody knows.
    Raises: nothing.
    """
    loads = [(method, pace.load(method)) for method in methods]
    expected_s = sum(load.mean_s for _, load in loads)
    least_s = max(pace.rules.request_s, 2 * pace.rules.room_s)
    factor = max(DEARER, least_s / expected_s) if expected_s > 0 else DEARER
    return {
        method: replace(
            pace.of(method),
            cost_s=min(load.mean_s * factor, pace.rules.request_s),
            updated_ms=now_ms,
        )
        for method, load in sorted(loads)
    }


def too_large(pace: Pace, size: int, *, now_ms: int) -> Mapping[str, MethodPace]:
    """What is to be remembered of a request that the portal did not take for its size.

    Units: ``size`` in bytes.
    Raises: nothing.
    """
    half = max(LEAST_BYTES, size // 2)
    return {BATCH: replace(pace.of(BATCH), max_bytes=half, found_ms=now_ms, updated_ms=now_ms)}


def _costing(old: MethodPace, costs_s: Sequence[float]) -> MethodPace:
    """The usual cost and its deviation, moved towards what was measured."""
    if not costs_s:
        return old
    mean, variance = old.cost_s, old.spread_s**2
    if mean is None:
        mean = sum(costs_s) / len(costs_s)
        variance = sum((cost - mean) ** 2 for cost in costs_s) / len(costs_s)
        return replace(old, cost_s=mean, spread_s=sqrt(variance))
    for cost in costs_s:
        away = cost - mean
        mean += WEIGHT * away
        variance = (1 - WEIGHT) * (variance + WEIGHT * away * away)
    return replace(old, cost_s=mean, spread_s=sqrt(variance))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """When an answer came, by the database's clock; the portal's is so far ahead of it."""

    rules: Rules
    now_ms: int
    ahead_ms: int

    def basket(self, at_ms: int) -> int:
        """Which of the portal's baskets a moment belongs to."""
        return (at_ms + self.ahead_ms) // self.rules.basket_ms

    def first_ms(self, reset_at_ms: int) -> int | None:
        """When the oldest basket had its first call, as its end says; ``None``, it makes no sense."""
        # Whole seconds are cut ones.
        whole_ms = 1000 if reset_at_ms % 1000 == 0 else 0
        left_ms = reset_at_ms - self.ahead_ms - self.now_ms + whole_ms
        if not 0 < left_ms <= self.rules.window_ms + whole_ms:
            return None
        return min(self.now_ms + left_ms - self.rules.window_ms, self.now_ms)


def _used(
    old: MethodPace, budget: MethodTime, marks: Sequence[tuple[int, float]], clock: _Clock
) -> MethodPace:
    """What was used, sorted into baskets so that their sum is what the portal says."""
    if budget.is_blocked and not budget.operating_s:
        # A refusal is not timed; what was used before is known from what was answered.
        return old
    baskets = old.baskets
    last = {clock.basket(at - clock.ahead_ms): (at, used_s) for at, used_s in marks}
    for at_ms, used_s in last.values():
        # No answer tells of the future, nor of the time before the request.
        baskets = _summed(baskets, min(at_ms - clock.ahead_ms, clock.now_ms), used_s, clock)
    baskets = _summed(baskets, clock.now_ms, budget.operating_s, clock)
    limit_s = old.limit_s
    usual_s = (old.cost_s or 0.0) + DEVIATIONS * old.spread_s
    if limit_s is not None and not budget.is_blocked and budget.operating_s > limit_s + usual_s:
        # It did what it refused before.
        limit_s = None
    if baskets and budget.reset_at_ms is not None:
        began = clock.first_ms(budget.reset_at_ms)
        if began is not None:
            # A later one cannot have begun before the oldest.
            later = ((max(at, began), spent) for at, spent in baskets[1:])
            baskets = ((began, baskets[0][1]), *later)
    return replace(old, baskets=baskets, limit_s=limit_s)


def _summed(
    baskets: tuple[tuple[int, int], ...], at_ms: int, used_s: float, clock: _Clock
) -> tuple[tuple[int, int], ...]:
    """The baskets at a moment, with what is more than was known in the one of that moment."""
    kept = [basket for basket in baskets if basket[0] + clock.rules.window_ms > at_ms]
    more = round(used_s * 1000) - sum(spent for _, spent in kept)
    if more > 0 and kept and clock.basket(kept[-1][0]) >= clock.basket(at_ms):
        kept[-1] = (kept[-1][0], kept[-1][1] + more)
    elif more > 0:
        kept.append((at_ms, more))
    while more < 0 and kept:
        # The oldest has dropped out, or part of it was somewhere else.
        first, spent = kept.pop(0)
        if spent + more > 0:
            kept.insert(0, (first, spent + more))
        more += spent
    return tuple(kept)


def _refused(
    pace: Pace, method: str, new: MethodPace, budget: MethodTime, now_ms: int
) -> MethodPace:
    """A method that was refused rests until its oldest basket drops out; not known, for one basket."""
    limit_s, found_ms = new.limit_s, new.found_ms
    if budget.operating_s:
        # What was used when it was refused is its limit, if that is less than is set.
        limit_s = min(budget.operating_s, limit_s or budget.operating_s)
        found_ms = now_ms
    window_ms = pace.rules.window_ms
    ends = [first + window_ms for first, _ in new.baskets if first + window_ms > now_ms]
    until = ends[0] if ends else now_ms + pace.rules.basket_ms
    refused = replace(new, limit_s=limit_s, found_ms=found_ms)
    known = Pace(now_ms=now_ms, methods={method: refused}, rules=pace.rules)
    return replace(refused, blocked_until_ms=max(until, known.rests_until(method)))


def _matters(old: MethodPace, new: MethodPace, rules: Rules, now_ms: int) -> bool:
    """Whether it would change a decision that is not far away, or was not written down for long."""
    if old == new:
        return False
    if old is UNKNOWN or now_ms - old.updated_ms >= STALE_MS:
        return True
    if new.blocked_until_ms != old.blocked_until_ms or new.limit_s != old.limit_s:
        return True
    return _costs_otherwise(old, new, rules) or _is_used_otherwise(old, new, rules, now_ms)


def _costs_otherwise(old: MethodPace, new: MethodPace, rules: Rules) -> bool:
    if old.cost_s is None or new.cost_s is None:
        return old.cost_s != new.cost_s
    bound_s = CHANGE * max(old.cost_s, rules.room_s / MAX_COMMANDS)
    return max(abs(new.cost_s - old.cost_s), abs(new.spread_s - old.spread_s)) > bound_s


def _is_used_otherwise(old: MethodPace, new: MethodPace, rules: Rules, now_ms: int) -> bool:
    if rules.method_s is None:
        return False
    limit_s = min(rules.method_s, new.limit_s or rules.method_s)
    before_s, after_s = old.used_s(now_ms, rules.window_ms), new.used_s(now_ms, rules.window_ms)
    return abs(after_s - before_s) > (0.0 if after_s >= NEAR * limit_s else STEP * limit_s)
