"""``b24sync sync``: drain in this process, without a broker."""

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import click
from rich.logging import RichHandler
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import FAILED, Desk, as_json, check_portal, epilog
from b24sync.cli.held import ways_on
from b24sync.cli.interrupts import Interrupt, until_interrupted
from b24sync.cli.layout import (
    OUTCOME_STYLES,
    OUTCOME_WORDS,
    bar,
    complaint,
    counted,
    number,
    outcome_text,
    read_span,
    record,
    span,
    table,
)
from b24sync.core.model import FINAL_OUTCOMES, HaltMode, PortalState, ResultOutcome, RowState
from b24sync.drain import Order, Tally, drain
from b24sync.drain.probing import probe
from b24sync.edge import portals, stories, taking, tenants, views
from b24sync.edge.database import reading
from b24sync.edge.stories import ResultView
from b24sync.edge.views import Backlog, Overview, StopView
from b24sync.world import World, credential_of

LONGEST_WAIT_S = 1.0
"""How long to wait at the most before looking again: changes may come in at any time."""

FAILURES = (ResultOutcome.FAILED, ResultOutcome.STOPPED)
"""Outcomes after which the run has not done what it should."""

TROUBLES = (*FAILURES, ResultOutcome.DIFFERENT)
"""Outcomes that are told one by one, at most so many of each."""

TROUBLES_SHOWN = 10


@click.command(
    short_help="Send what is due, from this process.",
    epilog=epilog(
        "b24sync sync                          what is due now",
        "b24sync sync --until-empty            wait for retries and limits, too",
        "b24sync sync --portal acme --kind contact --kind deal --limit 500",
        "b24sync sync --halt strict            stop at the first change that fails",
        exits="0  done, be it that records differ from what was said; 1  some changes failed or "
        "stopped a lane, or the time was over first; 2  unknown portal or mode; 3  the database "
        "cannot be used",
    ),
)
@click.option("--portal", metavar="CODE", help="Only this portal.")
@click.option("--kind", "kinds", multiple=True, metavar="K", help="Only this kind; repeatable.")
@click.option(
    "--halt",
    type=click.Choice([str(mode) for mode in HaltMode]),
    help="How far a failed change reaches.  [default: as the portal's policy says]",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many rows.")
@click.option("--until-empty", is_flag=True, help="Go on until nothing is left that time can mend.")
@click.option("--timeout", type=read_span, metavar="SPAN", help="End after so long: 90s, 30m, 2h.")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens on stderr.")
@as_json
@click.pass_obj
def sync(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    *,
    portal: str | None,
    kinds: tuple[str, ...],
    halt: str | None,
    limit: int | None,
    until_empty: bool,
    timeout: int | None,
    verbose: bool,
    as_json: bool,
) -> int:
    """Send what is due, from this process; no broker and no worker is needed.

    Any number of these and of workers may run at once. The first Ctrl-C ends the run after the
    request under way, the second at once; nothing is lost by either.

    A change that failed makes exit code 1, and so does one that stopped its lane (`b24sync held`).
    One that was applied, but the record read afterwards is different, is a warning only.
    """
    mode = None if halt is None else HaltMode(halt)
    order = Order(portal=portal, kinds=kinds, halt=mode, limit=limit)
    with desk.opened() as world, until_interrupted() as stopped:
        check_portal(world, portal)
        _refuse_closed(world, portal)
        with reading(world.engine) as connection:
            if mode is HaltMode.STRICT:
                portals.refuse_strict(connection, portal)
            newest = stories.last_result_id(connection)
        with (
            bar(desk.err, unit="rows") as progress,
            _logging(progress, is_verbose=verbose),
        ):
            run = _Run(
                world=world,
                order=order,
                stopped=stopped,
                until_empty=until_empty,
                ends_at_s=None if timeout is None else world.clock() + timeout / 1000,
                bar=_Bar(progress=progress, task=progress.add_task("sending", total=None)),
            )
            total, is_late = _drained(run)
        with reading(world.engine) as connection:
            over = views.overview(connection)
            left = _left(views.backlogs(connection, code=portal, kinds=kinds))
            troubles = tuple(
                view
                for outcome in TROUBLES
                for view in stories.results(
                    connection,
                    stories.ResultChoice(portal=portal, outcomes=(outcome,), after_id=newest),
                    limit=TROUBLES_SHOWN,
                )
            )
    stops = [stop for code in left for stop in over.stops.get(code, ())]
    ran = _Ran(tally=total, troubles=troubles, left=_reasons(over, left, portal), stops=stops)
    _report(desk, ran, as_json=as_json)
    if stopped.is_set():
        desk.note("stopped as asked; what is left stays in the outbox")
    if is_late:
        desk.note("the time was over before everything was done", style="yellow")
    has_failed = any(total.outcomes.get(outcome) for outcome in FAILURES)
    return FAILED if has_failed or is_late else 0


def _refuse_closed(world: World, portal: str | None) -> None:
    """Refuse to begin where a credential cannot be read here.

    A pass would pause the portal for everybody, and it is only this shell that lacks the key.
    Raises: CredentialError, SettingsError.
    """
    with reading(world.engine) as connection:
        waiting = views.backlogs(connection, code=portal)
        for view in views.portals(connection):
            if view.state == PortalState.ACTIVE and view.code in waiting:
                credential_of(world, tenants.tenant(connection, view.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """The bar and its only task."""

    progress: Progress
    task: TaskID

    def left(self, rows: int) -> None:
        """Believe a fresh count of what is left."""
        done = self.progress.tasks[0].completed
        self.progress.update(self.task, total=done + rows)

    def saw(self, tally: Tally) -> None:
        """Move by what a pass has finished."""
        self.progress.advance(self.task, _final(tally.outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One call of ``sync``."""

    world: World
    order: Order
    stopped: Interrupt
    until_empty: bool
    ends_at_s: float | None
    bar: _Bar

    def is_over(self) -> bool:
        """Whether somebody or the clock says stop."""
        return self.stopped.is_set() or self.is_late()

    def is_late(self) -> bool:
        """Whether the time is over."""
        return self.ends_at_s is not None and self.world.clock() >= self.ends_at_s


def _drained(run: _Run) -> tuple[Tally, bool]:
    """Slice after slice until there is nothing to do; and whether the time was over before."""
    total = Tally()
    while not run.is_over():
        # Where no worker runs, nobody else would notice that a portal is well again.
        probe(run.world, code=run.order.portal, stopping=run.is_over)
        left = _unfinished(run)
        run.bar.left(sum(backlog.total for backlog in left.values()))
        order = run.order
        if order.limit is not None:
            if total.rows >= order.limit:
                break
            order = replace(order, limit=order.limit - total.rows)
        tally = drain(run.world, order, stopping=run.is_over, watching=run.bar.saw)
        total += tally
        if tally.more and tally.rows:
            continue
        if not run.until_empty or not _is_worth_waiting(run):
            break
        _wait(run)
    going = _unfinished(run, going_only=True)
    is_late = run.is_late() and any(_waits(backlog) for backlog in going.values())
    return total, is_late and not run.stopped.is_set()


def _unfinished(run: _Run, *, going_only: bool = False) -> Mapping[str, Backlog]:
    with reading(run.world.engine) as connection:
        return views.backlogs(
            connection, code=run.order.portal, kinds=run.order.kinds, going_only=going_only
        )


def _is_worth_waiting(run: _Run) -> bool:
    """Whether rows are left that go by themselves.

    Ready, under way or in doubt, of a portal that is called; not in a lane that stands still until
    a person decides.
    """
    with reading(run.world.engine) as connection:
        called = {
            view.code for view in views.portals(connection) if view.state == PortalState.ACTIVE
        }
    going = _unfinished(run, going_only=True)
    return any(_waits(backlog) for code, backlog in going.items() if code in called)


def _waits(backlog: Backlog) -> bool:
    return backlog.ready + backlog.later + backlog.batched + backlog.doubt > 0


def _wait(run: _Run) -> None:
    """Rest until a lane is due, a second at the most; a signal ends it."""
    with reading(run.world.engine) as connection:
        due_ms = taking.next_due_ms(connection, run.order.portal)
    wait_s = LONGEST_WAIT_S if due_ms is None else min(LONGEST_WAIT_S, due_ms / 1000)
    # A lane that somebody else owns is due all the time; looking ten times a second is enough.
    run.stopped.wait(max(0.1, wait_s))


def _final(outcomes: Mapping[str, int]) -> int:
    return sum(n for outcome, n in outcomes.items() if outcome in FINAL_OUTCOMES)


@contextmanager
def _logging(progress: Progress, *, is_verbose: bool) -> Generator[None]:
    """The package's log beside the bar, or nowhere: what matters is in the tables."""
    log = logging.getLogger("b24sync")
    before = (log.handlers, log.propagate, log.level)
    beside = RichHandler(console=progress.console, show_path=False)
    log.handlers = [beside if is_verbose else logging.NullHandler()]
    log.propagate = False
    log.setLevel(logging.INFO if is_verbose else logging.CRITICAL)
    try:
        yield
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])


def _left(backlogs: Mapping[str, Backlog]) -> Mapping[str, Backlog]:
    return {code: backlog for code, backlog in backlogs.items() if backlog.total}


def _reasons(over: Overview, left: Mapping[str, Backlog], portal: str | None) -> list[str]:
    """What is left, and why, a line for each reason."""
    lines: list[str] = []
    for code, backlog in left.items():
        if portal is not None and code != portal:
            continue
        view, lane = over.portals.get(code), over.lanes.get(code)
        waiting = backlog.ready + backlog.later
        if view is None:
            lines.append(f"{code}: {counted(waiting, 'row')} for a portal that does not exist")
        elif view.state != PortalState.ACTIVE and waiting:
            lines.append(f"{code}: {counted(waiting, 'row')} ready; {view.state}: {view.reason}")
        elif lane is not None and lane.resting_ms and waiting:
            lines.append(
                f"{code}: {counted(waiting, 'row')} ready; the portal cannot be reached, next try "
                f"in {span(lane.resting_ms)}"
            )
        elif over.stops.get(code) and waiting:
            lines.append(f"{code}: {counted(waiting, 'row')} ready {_behind(over.stops[code])}")
        elif waiting:
            when = lane.next_due_ms if lane is not None else None
            lines.append(f"{code}: {counted(waiting, 'row')} ready, next in {span(when)}")
        lines += [
            f"{code}: {counted(n, 'row')} {why}"
            for n, why in (
                (backlog.batched, "in a batch of another worker"),
                (backlog.doubt, "in doubt: sent, and the answer is not known"),
                (backlog.held, f"held: `b24sync held list --portal {code}` says what for"),
                (backlog.parked, "behind an earlier row of the same entity"),
            )
            if n
        ]
    return lines


def _behind(stops: Sequence[StopView]) -> str:
    numbers = ", ".join(str(stop.row_id) for stop in stops)
    return f"behind row {numbers}, which stops its lane"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ran:
    """What a run came to, and what is left."""

    tally: Tally
    troubles: Sequence[ResultView]
    left: Sequence[str]
    stops: Sequence[StopView]


def _report(desk: Desk, ran: _Ran, *, as_json: bool) -> None:
    total = ran.tally
    if as_json:
        desk.emit(
            {
                "batches": total.batches,
                "looks": total.looks,
                "outcomes": {str(name): n for name, n in total.outcomes.items()},
                "deferred": total.deferred,
                "left": ran.left,
                "stops": [record(stop) for stop in ran.stops],
            }
        )
        return
    if total.rows or total.looks:
        desk.show(_outcomes(total), Text())
    _tell_troubles(desk, ran)
    done = counted(total.batches, "batch", "batches")
    desk.show(Text(f"{counted(_final(total.outcomes), 'row')} finished in {done}", "bold"))
    for reason in ran.left:
        desk.note(f"left  {reason}", style="yellow")
    for stop in ran.stops:
        if stop.state == RowState.HELD:
            row = f"row {stop.row_id}, {stop.operation} of {stop.kind} {stop.key}"
            words = f"{stop.portal}: its lane stands still at {row}; go on with one of"
            desk.show(Text(), Text(words, "bold red"), ways_on(str(stop.row_id)))


def _tell_troubles(desk: Desk, ran: _Ran) -> None:
    """What went wrong, change by change, and where the rest can be read."""
    for view in ran.troubles:
        entity = Text(f"{view.kind} {view.key} {view.operation}  ", OUTCOME_STYLES[view.outcome])
        desk.show(entity.append(complaint(view.error_code, view.error_text)))
    for outcome in TROUBLES:
        told = sum(view.outcome == outcome for view in ran.troubles)
        more = ran.tally.outcomes.get(outcome, 0) - told
        if more > 0:
            desk.note(f"and {more} more: b24sync results --outcome {outcome}")


def _outcomes(total: Tally) -> Table:
    shown = table()
    shown.add_column("outcome")
    shown.add_column("count", justify="right")
    shown.add_column("means", style="dim")
    for outcome in ResultOutcome:
        if n := total.outcomes.get(outcome, 0):
            shown.add_row(outcome_text(outcome), number(n), OUTCOME_WORDS[outcome])
    if total.deferred:
        shown.add_row(
            "deferred", number(total.deferred), "not sent this time; goes again, at no charge"
        )
    if total.looks:
        shown.add_row("looks", number(total.looks), "requests that only read the portal")
    return shown
