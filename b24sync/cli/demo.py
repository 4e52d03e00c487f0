"""``b24sync demo``: everything embedded, so that one command shows all of it.

A sandbox portal in this process, SQLite, the embedded broker, and a Celery worker with beat in
another process, as they would run for real; in a directory that vanishes afterwards.
"""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import click
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from b24sync.cli import demo_changes
from b24sync.cli.demo_stage import Stage, ring, running_worker, set_stage
from b24sync.cli.desk import FAILED, Desk, as_json, epilog, is_terminal
from b24sync.cli.interrupts import Interrupt, until_interrupted
from b24sync.cli.layout import OUTCOME_STYLES, complaint, counted, number, table
from b24sync.core.model import Operation, ResultOutcome
from b24sync.edge import portals, stories, views
from b24sync.edge.database import reading, writing
from b24sync.edge.stories import ResultChoice, ResultView
from b24sync.outbox import enqueue_many

LOOK_S = 0.15
PATIENCE_S = 90.0
"""When the show is ended although rows are left, on a very slow machine."""
EXAMPLES = 8
"""Failures that are shown one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How it went."""

    written: int
    left: int
    took_s: float
    is_interrupted: bool


@click.command(
    short_help="See it work, with everything embedded.",
    epilog=epilog(
        "b24sync demo",
        "b24sync demo --rows 2000 --keep /tmp/demo",
        exits="0  all settled: the failures are part of it; 1  changes were left, for it was "
        "interrupted or very slow; 2  the directory is in use",
    ),
)
@click.option("--rows", type=click.IntRange(40, 20_000), default=400, show_default=True)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the database, to look around in it afterwards.",
)
@as_json
@click.pass_obj
def demo(desk: Desk, *, rows: int, keep: Path | None, as_json: bool) -> int:
    """See it work: a portal, a database, a broker and a worker, all on this machine.

    A few hundred mixed changes are written in one transaction, among them wrong ones, and sent to
    a portal that also refuses a few requests for their rate and rests a method for a while. At the
    end stands what became of each. Nothing outside a temporary directory is touched.
    """
    with until_interrupted() as stopped, ExitStack() as stack:
        stage = stack.enter_context(set_stage(keep))
        if not as_json:
            _introduce(desk, stage)
        with running_worker(stage) as worker:
            course = _play(desk, stage, rows, _Watch(worker=worker, stopped=stopped))
        # While it ended, the worker wrote down what was under way.
        course = replace(course, left=_look(stage)[0])
        _report(desk, stage, course, kept=keep, as_json=as_json)
    return FAILED if course.left else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """Whether the show goes on."""

    worker: "subprocess.Popen[bytes]"
    stopped: Interrupt

    def rest(self, stage: Stage) -> None:
        """Wait a moment, or until somebody interrupts.

        Raises: click.ClickException if the worker ended on its own, with its last words.
        """
        self.stopped.wait(LOOK_S)
        if self.worker.poll() is not None and not self.stopped.is_set():
            said = (stage.folder / "worker.log").read_text(errors="replace").strip()
            last = said.splitlines()[-1] if said else "nothing"
            raise click.ClickException(f"the worker ended by itself; its last words: {last}")


def _play(desk: Desk, stage: Stage, rows: int, watch: _Watch) -> Course:
    """Write, ring, and watch until nothing is left."""
    begun_s = monotonic()
    with writing(stage.engine) as connection:
        written = enqueue_many(connection, demo_changes.changes(rows))
    ring(stage)
    left = written
    with _bar(desk) as progress:
        task = progress.add_task("sending", total=written, news="")
        while left and not watch.stopped.is_set() and monotonic() - begun_s < PATIENCE_S:
            watch.rest(stage)
            left, news = _look(stage)
            progress.update(task, completed=written - left, news=news)
    return Course(
        written=written,
        left=left,
        took_s=monotonic() - begun_s,
        is_interrupted=watch.stopped.is_set(),
    )


def _look(stage: Stage) -> tuple[int, str]:
    """How many rows are left, and what is going on."""
    with reading(stage.engine) as connection:
        backlogs = views.backlogs(connection)
        recent = views.overview(connection).recent.get(portals.DEFAULT, {})
    backlog = backlogs.get(portals.DEFAULT)
    if backlog is None:
        return 0, ""
    failed = recent.get(ResultOutcome.FAILED, 0)
    parts = [f"{len(stage.sandbox.requests())} requests"]
    parts += [f"{failed} refused"] if failed else []
    parts += [f"{backlog.held + backlog.parked} waiting for others"] if backlog.held else []
    parts += [f"{backlog.later} resting"] if backlog.later else []
    return backlog.total, ", ".join(parts)


def _bar(desk: Desk) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[news]}"),
        console=desk.err,
        transient=True,
        disable=not is_terminal(desk.err),
        expand=True,
    )


def _introduce(desk: Desk, stage: Stage) -> None:
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    shown.add_row("portal", f"a sandbox on {stage.sandbox.url}")
    shown.add_row("database", "SQLite, with the outbox and its results")
    shown.add_row("broker", "embedded, a SQLite file of its own")
    shown.add_row("worker", "celery -A b24sync worker -B")
    desk.err.print(Panel(shown, title="b24sync demo", title_align="left", expand=False))


def _report(desk: Desk, stage: Stage, course: Course, *, kept: Path | None, as_json: bool) -> None:
    with reading(stage.engine) as connection:
        counted_outcomes = stories.outcomes(connection, ResultChoice())
        choice = ResultChoice(outcomes=(str(ResultOutcome.FAILED),))
        failures = stories.results(connection, choice)
    if as_json:
        desk.emit(_document(stage, course, counted_outcomes))
        return
    if counted_outcomes:
        desk.show(_outcomes(counted_outcomes), Text())
    if failures:
        desk.show(_failures(failures), Text())
    desk.show(_summary(stage, course, _added(counted_outcomes)))
    _what_next(desk, stage, kept)


def _document(
    stage: Stage, course: Course, found: Mapping[tuple[str, str], Mapping[str, int]]
) -> dict[str, object]:
    return {
        "written": course.written,
        "left": course.left,
        "took_s": round(course.took_s, 1),
        "requests": len(stage.sandbox.requests()),
        "outcomes": [
            {"kind": kind, "operation": operation, **counts}
            for (kind, operation), counts in sorted(found.items())
        ],
    }


def _outcomes(found: Mapping[tuple[str, str], Mapping[str, int]]) -> Table:
    """What became of the changes, by kind and operation."""
    columns = [
        outcome
        for outcome in ResultOutcome
        if outcome in (ResultOutcome.APPLIED, ResultOutcome.FAILED)
        or any(outcome in counts for counts in found.values())
    ]
    shown = table()
    shown.show_footer = True
    shown.add_column("kind", footer="all")
    shown.add_column("operation")
    for outcome in columns:
        total = sum(counts.get(outcome, 0) for counts in found.values())
        shown.add_column(str(outcome), footer=_cell(outcome, total), justify="right")
    for (kind, operation), counts in sorted(found.items()):
        cells = [_cell(outcome, counts.get(outcome, 0)) for outcome in columns]
        shown.add_row(kind, operation, *cells)
    return shown


def _cell(outcome: ResultOutcome, n: int) -> Text:
    if not n:
        return Text("·", "dim")
    return Text(number(n).plain, OUTCOME_STYLES[outcome])


def _failures(found: Sequence[ResultView]) -> Table:
    """The portal's reasons, each once, with how often it was given."""
    first: dict[tuple[str, str], ResultView] = {}
    times: dict[tuple[str, str], int] = {}
    for view in found:
        reason = (view.error_code or "", view.error_text or "")
        first.setdefault(reason, view)
        times[reason] = times.get(reason, 0) + 1
    shown = table(title="Refused, as planned")
    shown.add_column("times", justify="right")
    shown.add_column("for instance", overflow="fold")
    shown.add_column("because", overflow="fold")
    for reason, view in list(first.items())[:EXAMPLES]:
        example = f"{view.operation} {view.kind} {view.key}"
        shown.add_row(number(times[reason]), example, complaint(*reason))
    return shown


def _added(found: Mapping[tuple[str, str], Mapping[str, int]]) -> int:
    """How many records the portal should hold or have held, by the results."""
    return sum(
        counts.get(ResultOutcome.APPLIED, 0)
        for (_, operation), counts in found.items()
        if operation in (Operation.ADD, Operation.UPSERT)
    )


def _summary(stage: Stage, course: Course, added: int) -> Text:
    requests = stage.sandbox.requests()
    refused = sum(1 for request in requests if request.status == 503)  # noqa: PLR2004 - HTTP's number
    rested = sum(1 for c in stage.sandbox.journal() if c.code == "OPERATION_TIME_LIMIT")
    done = course.written - course.left
    shown = Text(f"{counted(done, 'change')} settled in {course.took_s:.0f} s", "bold")
    shown.append(f" with {counted(len(requests), 'request')} to the portal.", "not bold")
    refusals = [f"{counted(refused, 'request')} for their rate"] if refused else []
    refusals += [f"{counted(rested, 'command')} for their method's time"] if rested else []
    if refusals:
        shown.append(
            f" It refused {' and '.join(refusals)}: these went again by themselves, at no charge.",
            "not bold",
        )
    executed = sum(1 for c in stage.sandbox.journal() if c.ok and c.method.endswith(".add"))
    if executed == added and not course.left:
        shown.append(f" {counted(added, 'add')} took effect, each of them once.", "not bold")
    if course.is_interrupted:
        shown.append(
            " Interrupted: what is left would have gone on with the next worker.", "yellow"
        )
    elif course.left:
        shown.append(f" {counted(course.left, 'row')} left when time was over.", "yellow")
    return shown


def _what_next(desk: Desk, stage: Stage, kept: Path | None) -> None:
    desk.note("\nWhat next", style="bold")
    if kept is not None:
        desk.note(f"  export B24SYNC_DATABASE_URL={stage.settings.database_url}")
        desk.note("  b24sync status; b24sync dead; b24sync explain deal order-0")
        return
    desk.note("  b24sync demo --keep DIR   and look around with status, results, dead, explain")
    desk.note("  b24sync sandbox           a portal to try your own changes on")
    desk.note("  b24sync db upgrade        and then: portal add, load, sync")
