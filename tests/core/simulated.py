"""A portal's time limits and its callers with a clock of their own; nothing waits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from b24sync.core.admitting import admitted
from b24sync.core.batching import compose
from b24sync.core.learning import Timings, cut, learned
from b24sync.core.limits import MethodTime
from b24sync.core.model import Command, Operation, Plan, Row
from b24sync.core.pacing import BASKETS, MethodPace, Pace, Rules

EPOCH_S = 1_790_000_000.0


@dataclass(slots=True)
class Meter:
    """What a portal has counted of each method, in baskets that begin with whole minutes."""

    rules: Rules
    baskets: dict[str, dict[int, tuple[float, float]]] = field(
        default_factory=dict[str, dict[int, tuple[float, float]]]
    )

    def used(self, method: str, now: float) -> tuple[float, float]:
        """Seconds in the window, and when the oldest basket drops out."""
        kept = self.baskets.setdefault(method, {})
        for number in [n for n, (at, _) in kept.items() if at + self.rules.window_s <= now]:
            del kept[number]
        oldest = min((at for at, _ in kept.values()), default=now)
        return sum(used for _, used in kept.values()), oldest + self.rules.window_s

    def charge(self, method: str, seconds: float, now: float) -> None:
        """Count a call."""
        number = int(now // (self.rules.window_s / BASKETS))
        at, used = self.baskets.setdefault(method, {}).get(number, (now, 0.0))
        self.baskets[method][number] = (at, used + seconds)

    def admits(self, method: str, now: float) -> bool:
        """Whether a call is done."""
        limit_s = self.rules.method_s
        return limit_s is None or self.used(method, now)[0] < limit_s


@dataclass(slots=True)
class Run:
    """What a caller came to.

    Units: seconds; ``refused`` and ``cuts`` are the times at which that happened.
    """

    done: dict[str, int] = field(default_factory=dict[str, int])
    refused: list[float] = field(default_factory=list[float])
    cuts: list[float] = field(default_factory=list[float])
    writes: int = 0
    requests: int = 0

    @property
    def commands(self) -> int:
        """All that were done."""
        return sum(self.done.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A portal: what its commands cost, how fast it is called, what it refuses.

    Shape: ``costs`` draw what one command of a method takes. ``parallel``: commands take their
    method's time, and not the request's, as if many were served at once.
    Units: ``overhead_s`` of each request, ``gap_s`` between two of them.
    """

    costs: Mapping[str, Callable[[Random], float]]
    rules: Rules = Rules()  # noqa: RUF009 - frozen
    overhead_s: float = 0.3
    gap_s: float = 0.5
    parallel: bool = False
    seed: int = 1


def command(number: int, method: str) -> Command:
    """A command of a row of its own."""
    return Command(
        row_ids=(number,),
        kind=method,
        key=str(number),
        operation=Operation.UPDATE,
        method=method,
        query="",
    )


def row(command: Command) -> Row:
    """The row of a command."""
    return Row(
        id=command.row_ids[0],
        portal="default",
        lane=0,
        kind=command.kind,
        key=command.key,
        operation=command.operation,
        fields={},
        params={},
    )


def learner(
    site: Site,
    lasts_s: float,
    *,
    known_s: Mapping[str, float] | None = None,
    rules: Rules | None = None,
) -> Run:
    """Call a portal as a lane does, with as many commands of each method as it will take.

    ``known_s`` are costs that were learned before; ``rules`` are what is set for the portal, by
    default as it is.
    """
    run, meter, dice = Run(), Meter(site.rules), Random(site.seed)  # noqa: S311 - repeatable
    known: dict[str, MethodPace] = {
        method: MethodPace(cost_s=cost_s) for method, cost_s in (known_s or {}).items()
    }
    queue = [command(n, m) for n, m in enumerate(site.costs)]
    waits: dict[str, float] = {}
    now, number = EPOCH_S, len(queue)
    while now < EPOCH_S + lasts_s:
        pace = Pace(now_ms=int(now * 1000), methods=dict(known), rules=rules or site.rules)
        free = [m for m in site.costs if waits.get(m, 0.0) <= now]
        waiting = [command(number + n, free[n % len(free)]) for n in range(50)] if free else []
        number += 50
        let_in = admitted(Plan(commands=tuple(waiting)), pace, [row(c) for c in waiting])
        for postponed in let_in.plan.postponed:
            method = waiting[postponed.row_id - waiting[0].row_ids[0]].method
            waits[method] = postponed.until_ms / 1000
        if not let_in.plan.commands:
            now = min([at for at in waits.values() if at > now], default=now + 1.0)
            continue
        batch, _ = compose(let_in.plan.commands, pace=pace)
        now += _served(site, run, meter, dice, batch.commands, pace, known, now)
    return run


def _served(  # noqa: PLR0913, PLR0917 - one request with all that it touches
    site: Site,
    run: Run,
    meter: Meter,
    dice: Random,
    commands: Sequence[Command],
    pace: Pace,
    known: dict[str, MethodPace],
    now: float,
) -> float:
    """One request; how long it took, with the gap behind it."""
    run.requests += 1
    costs: dict[str, list[float]] = {}
    budgets: dict[str, MethodTime] = {}
    marks: dict[str, list[tuple[int, float]]] = {}
    took = site.overhead_s
    for each in commands:
        method, at = each.method, now + took
        if not meter.admits(method, at):
            run.refused.append(at - EPOCH_S)
            heard = budgets.get(method, MethodTime(operating_s=0.0))
            budgets[method] = MethodTime(
                operating_s=heard.operating_s, reset_at_ms=heard.reset_at_ms, is_blocked=True
            )
            continue
        cost = site.costs[method](dice)
        if not site.parallel:
            took += cost
        if took > site.rules.request_s:
            run.cuts.append(now - EPOCH_S)
            lessons = cut(pace, [c.method for c in commands], now_ms=int((now + took) * 1000))
            known |= lessons
            return site.rules.request_s + site.gap_s
        meter.charge(method, cost, at)
        used, reset = meter.used(method, at)
        costs.setdefault(method, []).append(cost)
        marks.setdefault(method, []).append((int(at * 1000), used))
        budgets[method] = MethodTime(operating_s=used, reset_at_ms=int(reset) * 1000)
        run.done[method] = run.done.get(method, 0) + 1
    finished_ms = int((now + took) * 1000)
    told = Timings(costs_s=costs, budgets=budgets, marks=marks, finished_ms=finished_ms)
    lessons = learned(pace, told, now_ms=int((now + took) * 1000))
    run.writes += bool(lessons)
    known |= lessons
    return max(took, site.gap_s)


def omniscient(site: Site, lasts_s: float) -> Run:
    """Call the same portal knowing everything: what each command takes, and what is counted.

    Its requests hold as many commands as are done, up to fifty and up to the longest request, and
    it comes at the very moment at which something would be.
    """
    run, meter, dice = Run(), Meter(site.rules), Random(site.seed)  # noqa: S311 - repeatable
    now = EPOCH_S
    upcoming = {method: draw(dice) for method, draw in site.costs.items()}
    while now < EPOCH_S + lasts_s:
        took, count = site.overhead_s, 0
        is_idle = False
        while count < 50 and not is_idle:
            is_idle = True
            for method, draw in site.costs.items():
                cost = upcoming[method]
                spent = 0.0 if site.parallel else cost
                fits = count < 50 and took + spent <= site.rules.request_s
                if fits and meter.admits(method, now + took):
                    took += spent
                    meter.charge(method, cost, now + took)
                    upcoming[method] = draw(dice)
                    run.done[method] = run.done.get(method, 0) + 1
                    count, is_idle = count + 1, False
        run.requests += count > 0
        if count:
            now += max(took, site.gap_s)
        else:
            now = max(now + 0.001, min(meter.used(method, now)[1] for method in site.costs))
    return run
