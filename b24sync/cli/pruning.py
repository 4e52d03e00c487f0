"""``b24sync prune``: remove what is over and old, make partitions ahead; or show what that would be."""

import click
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import FAILED, Desk, as_json, epilog
from b24sync.cli.interrupts import until_interrupted
from b24sync.cli.layout import bar, counted, instant, number, span, table, utc
from b24sync.cli.quiet import unlogged
from b24sync.core.retention import DAY_MS, Grain
from b24sync.pruning import Due, Pruned, Survey, survey
from b24sync.pruning import prune as run_prune

UNITS = ("B", "kB", "MB", "GB", "TB")
STEP = 1000


@click.command(
    short_help="Remove what is over and old.",
    epilog=epilog(
        "b24sync prune --dry-run",
        "b24sync prune",
        "b24sync prune --dry-run --json | jq '[.due[].rows] | add'",
        exits="0  all is done, or shown; 1  interrupted, hindered, or somebody else does it; "
        "2  wrong settings; 3  the database cannot be used",
    ),
)
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option(
    "--move", is_flag=True, help="Move results out of the catch-all, however many; writers wait."
)
@as_json
@click.pass_obj
def prune(desk: Desk, *, dry_run: bool, move: bool, as_json: bool) -> int:
    """Remove results, closed batches and counts that are older than they are to be kept.

    A worker with beat does it hourly; where none runs, cron can. Results go by whole partitions on
    PostgreSQL, MariaDB and MySQL, everything else in short transactions. Open batches, dead letters
    and duplicates stay, however old. Ctrl-C ends it in good order; the next run goes on.
    """
    with desk.opened() as world:
        grain = world.settings.grain
        if dry_run:
            _show_survey(desk, survey(world), grain, as_json=as_json)
            return 0
        with (
            until_interrupted() as stopped,
            bar(desk.err, unit="rows") as progress,
            unlogged(),
        ):
            task = progress.add_task("looking", total=None)
            ahead = survey(world)
            progress.update(task, total=sum(due.rows for due in ahead.due))

            def watching(what: str, rows: int) -> None:
                progress.update(task, description=what, advance=rows)

            done = run_prune(
                world,
                every_ms=0,
                lasting=lambda: not stopped.is_set(),
                watching=watching,
                move_all=move,
            )
        left = survey(world).notes
    if done is None:
        desk.note("another process is at it; see `b24sync prune --dry-run` later", style="yellow")
        if as_json:
            desk.emit(_document(Pruned(), left) | {"busy": True})
        return FAILED
    _show_pruned(desk, done, left, as_json=as_json)
    if stopped.is_set():
        desk.note("interrupted; the next run goes on from here", style="yellow")
    return 0 if done.is_over else FAILED


def _show_survey(desk: Desk, found: Survey, grain: Grain, *, as_json: bool) -> None:
    if as_json:
        desk.emit(
            {
                "due": [_due_document(due) for due in found.due],
                "partitions_to_make": [part.name for part in found.to_make],
                "grain": str(grain),
                "notes": list(found.notes),
            }
        )
        return
    if found.due:
        desk.show(_table(found))
    else:
        desk.show(Text("nothing is old enough to go", "green"))
    if found.to_make:
        names = ", ".join(part.name for part in found.to_make)
        parts = counted(len(found.to_make), "partition")
        desk.show(Text(f"{parts} would be made: {names}"))
    for note in found.notes:
        desk.note(note, style="yellow")


def _table(found: Survey) -> Table:
    shown = table(title="What would go")
    shown.add_column("what", style="bold", no_wrap=True)
    shown.add_column("kept", justify="right", no_wrap=True)
    shown.add_column("rows", justify="right", no_wrap=True)
    shown.add_column("oldest", no_wrap=True)
    shown.add_column("size", justify="right", no_wrap=True)
    shown.add_column("how", no_wrap=True)
    for due in found.due:
        is_whole = due.partition is not None
        how = f"drop {due.partition}" if is_whole else f"in steps of {STEP}"
        rows = Text("~" if is_whole else "").append(number(due.rows))
        oldest = "-" if due.oldest_ms is None else instant(due.oldest_ms)
        cells = (due.what, span(due.keep_ms), rows, oldest, _size(due.size), how)
        shown.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return shown


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    amount, unit = float(size), 0
    while amount >= STEP and unit < len(UNITS) - 1:
        amount, unit = amount / STEP, unit + 1
    return f"{amount:.0f} {UNITS[unit]}" if unit == 0 else f"{amount:.1f} {UNITS[unit]}"


def _show_pruned(desk: Desk, done: Pruned, left: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        desk.emit(_document(done, left))
        return
    for name in done.made:
        desk.show(Text(f"made partition {name}"))
    for part in done.dropped:
        rows = counted(part.rows, "result")
        desk.show(Text(f"dropped partition {part.name}: about {rows}, {_size(part.size)}"))
    for what, gone in done.removed.items():
        if gone:
            desk.show(Text(f"removed {number(gone).plain} {what}"))
    if not (done.made or done.dropped or done.rows):
        desk.show(Text("nothing was old enough to go", "green"))
    for why in (*done.hindered, *left):
        desk.note(why, style="yellow")


def _document(done: Pruned, left: tuple[str, ...]) -> dict[str, object]:
    return {
        "made": done.made,
        "dropped": [
            {"partition": part.name, "rows": part.rows, "size": part.size} for part in done.dropped
        ],
        "removed": done.removed,
        "hindered": done.hindered,
        "notes": list(left),
        "over": done.is_over,
        "busy": False,
    }


def _due_document(due: Due) -> dict[str, object]:
    return {
        "what": due.what,
        "keep_days": due.keep_ms / DAY_MS,
        "rows": due.rows,
        "partition": due.partition,
        "oldest": None if due.oldest_ms is None else utc(due.oldest_ms),
        "size": due.size,
    }
