"""``b24sync backfill``: rows that were there before, a few thousand at a time."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from b24sync.backfill import (
    MOST_WAITING,
    STEP,
    Asked,
    Rest,
    captured,
    feed,
    query,
    rehearse,
    selected,
    steer,
)
from b24sync.backfill import start as begin
from b24sync.cli.desk import (
    FAILED,
    Desk,
    Refused,
    as_json,
    check_portal,
    confirmed,
    epilog,
    is_terminal,
)
from b24sync.cli.interrupts import Interrupt, until_interrupted
from b24sync.cli.layout import NARROW, counted, number, record, span, table
from b24sync.core.backfilling import BELOW_ALL, OVER, BackfillState, Recipe, left_ms
from b24sync.core.changes import LARGEST, SMALLEST
from b24sync.core.model import Change
from b24sync.edge import backfills
from b24sync.edge.backfills import Backfill, Fed
from b24sync.edge.database import reading
from b24sync.world import DEFAULT_PORTAL, World

SHOWN = 5
"""Changes that a dry run shows."""

FULL_WAIT_S = 1.0
LOCKED_WAIT_S = 0.2

STYLES: Mapping[BackfillState, str] = {
    BackfillState.RUNNING: "green",
    BackfillState.PAUSED: "yellow",
    BackfillState.DONE: "dim",
    BackfillState.FAILED: "bold red",
    BackfillState.CANCELLED: "dim",
}


@click.group()
def backfill() -> None:
    """Sync rows that were there before, without writing them all at once.

    A back-fill reads a source in the order of a key and feeds the outbox as long as few of its rows
    wait there, less urgent than every change. Workers feed it; so does `start --feed`.
    """
    # As a worker does with -A: an application's modules are those of the folder one stands in.
    if "" not in sys.path:
        sys.path.insert(0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options that say what is read and what becomes of it."""

    kind: str
    portal: str
    sql: str | None
    sql_file: Path | None
    select: str | None
    captured: str | None
    mapped: str | None
    keys: tuple[str, ...]
    entity_key: str | None
    columns: tuple[str, ...]
    references: tuple[str, ...]
    constants: tuple[str, ...]
    operation: str
    most_waiting: int
    step: int
    priority: int
    only_missing: bool
    skip_bad: bool
    unlocked: bool
    elsewhere: bool


@backfill.command(
    short_help="Begin a back-fill.",
    epilog=epilog(
        "b24sync backfill start firms --kind company --captured shop.sync:captured",
        "b24sync backfill start people --kind contact --key id \\",
        "    --query 'SELECT id, name, firm FROM customers' --field name=name \\",
        "    --ref companyId=company:firm --dry-run",
        "b24sync backfill start seats --kind deal --key hall --key no --entity-key '{hall}-{no}' \\",
        "    --select shop.sync:seats --only-missing --feed",
        exits="0  it is written down, or done; 1  it failed, or rows were refused; 2  it makes no "
        "sense, and nothing was written; 3  a database cannot be used",
    ),
)
@click.argument("code")
@click.option("--kind", required=True, metavar="K", help="The kind of the entities.")
@click.option("--portal", default=DEFAULT_PORTAL, show_default=True, metavar="CODE")
@click.option(
    "--captured", metavar="MODULE:NAME", help="What capture(…) returned: its own mapping."
)
@click.option("--class", "mapped", metavar="NAME", help="Which class, if several have this kind.")
@click.option("--query", "sql", metavar="SQL", help="A SELECT.")
@click.option(
    "--query-file",
    "sql_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The same, from a file.",
)
@click.option(
    "--select", metavar="MODULE:FUNCTION", help="A function that makes a SQLAlchemy select."
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="COLUMN",
    help="A column of the query's unique, indexed key; repeatable, in the order of the index.",
)
@click.option(
    "--entity-key",
    metavar="COLUMN",
    help="The entity's key, or a template: '{country}:{id}'.  [default: the --key]",
)
@click.option(
    "--field",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="A field and its column; repeatable. Without any, every column under its own name.",
)
@click.option(
    "--ref",
    "references",
    multiple=True,
    metavar="FIELD=KIND:COLUMN",
    help="A field that refers to another entity by its key; repeatable.",
)
@click.option(
    "--set", "constants", multiple=True, metavar="FIELD=VALUE", help="The same in every change."
)
@click.option(
    "--operation",
    type=click.Choice(["upsert", "add", "update", "delete"]),
    default="upsert",
    show_default=True,
)
@click.option("--only-missing", is_flag=True, help="Leave out what has a record already.")
@click.option(
    "--skip-bad", is_flag=True, help="Pass over rows that cannot be changes, and count them."
)
@click.option(
    "--most-waiting",
    type=click.IntRange(1),
    default=MOST_WAITING,
    show_default=True,
    help="Feed as long as fewer rows wait.",
)
@click.option(
    "--step",
    type=click.IntRange(1, 10_000),
    default=STEP,
    show_default=True,
    help="Rows in one transaction, locked meanwhile.",
)
@click.option(
    "--priority",
    type=click.IntRange(SMALLEST, LARGEST),
    default=BELOW_ALL,
    show_default=True,
    help="The smaller goes first; changes have 0.",
)
@click.option("--elsewhere", is_flag=True, help="Read the database of B24SYNC_SOURCE_URL.")
@click.option(
    "--unlocked",
    is_flag=True,
    help="Do not lock rows: nobody changes them meanwhile, or old values may overwrite new ones.",
)
@click.option("--no-count", is_flag=True, help="Do not count the rows first, which reads them all.")
@click.option("--dry-run", is_flag=True, help="Show the first changes and write nothing.")
@click.option("--feed", "feeds", is_flag=True, help="Feed it from here, until it is done.")
@as_json
@click.pass_obj
def start(
    desk: Desk,
    /,
    code: str,
    *,
    no_count: bool,
    dry_run: bool,
    feeds: bool,
    as_json: bool,
    **given: object,
) -> int:
    """Begin the back-fill CODE.

    The rows come from one of --captured, --query and --select. Each becomes an upsert; what has a
    record is updated. A change of an entity that is written meanwhile goes first, or together with
    its row. Of each step the rows are locked while it is written, half a second at the most as a
    rule; nobody is ever waited for.
    """
    options = _Options(**given)  # type: ignore[arg-type] # click has read each option as its type
    asked = Asked(
        code=code,
        portal=options.portal,
        kind=options.kind,
        source=_source(options),
        most_waiting=options.most_waiting,
        step=options.step,
        priority=options.priority,
        only_missing=options.only_missing,
        skip_bad=options.skip_bad,
    )
    with desk.opened() as world:
        check_portal(world, options.portal)
        if dry_run:
            return _dry(desk, world, asked, as_json=as_json)
        found = begin(world, asked, counts=not no_count)
        if feeds:
            return _followed(desk, world, code, as_json=as_json)
    if as_json:
        desk.emit(_record(found))
    else:
        rows = "its rows" if found.estimate is None else counted(found.estimate, "row")
        desk.show(Text(f"{code}: {rows} will be fed", "bold"))
        desk.note(f"next: a running worker feeds it, or b24sync backfill resume {code} --feed")
    return 0


def _source(options: _Options) -> dict[str, object]:
    """What is to be read, as the back-fill's row keeps it.

    Raises: click.UsageError for options that do not go together.
    """
    sql = options.sql_file.read_text("utf-8") if options.sql_file is not None else options.sql
    if sum(given is not None for given in (sql, options.select, options.captured)) != 1:
        raise click.UsageError("say one of --captured, --query, --query-file and --select")
    if options.captured is not None:
        has_recipe = options.keys or options.entity_key or options.columns or options.references
        if has_recipe or options.constants or options.elsewhere or options.unlocked:
            raise click.UsageError("--captured has a key and fields of its own")
        return captured(options.captured, options.mapped)
    if not options.keys:
        raise click.UsageError("--key is missing: the unique column in whose order rows are read")
    if options.entity_key is None and len(options.keys) > 1:
        raise click.UsageError("say --entity-key: how a key of several columns is written")
    recipe = Recipe(
        key=options.entity_key or next(iter(options.keys)),
        operation=options.operation,
        fields=_pairs("--field", options.columns),
        references={
            name: _target(target) for name, target in _pairs("--ref", options.references).items()
        },
        constants=_pairs("--set", options.constants),
    )
    where = {"locks": not options.unlocked, "elsewhere": options.elsewhere}
    if options.select is not None:
        return selected(options.select, options.keys, recipe, **where)
    return query(sql or "", options.keys, recipe, **where)


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.UsageError(f"{option} {text!r}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def _target(text: str) -> tuple[str, str]:
    kind, sign, column = text.rpartition(":")
    if not sign or not kind or not column:
        raise click.UsageError(f"--ref …={text}: write FIELD=KIND:COLUMN")
    return kind, column


def _dry(desk: Desk, world: World, asked: Asked, *, as_json: bool) -> int:
    shown, rows = rehearse(world, asked, limit=SHOWN)
    bad = [one for one in shown if isinstance(one, str)]
    good = [one for one in shown if isinstance(one, Change)]
    if as_json:
        changes = [
            {"kind": one.kind, "key": one.key, "operation": one.operation, "fields": one.fields}
            for one in good
        ]
        desk.emit({"dry_run": True, "rows": rows, "changes": changes, "refused": bad})
        return FAILED if bad else 0
    for one in good:
        fields = ", ".join(f"{name}: {value!r}" for name, value in one.fields.items())
        head = Text(f"{one.operation} {one.kind} {one.key}  ", "bold")
        desk.show(head.append(fields, "not bold"))
    for complaint in bad:
        desk.show(Text(f"refused  {complaint}", "red"))
    desk.show(Text(), Text(f"{counted(rows, 'row')} would be read; nothing was written", "bold"))
    return FAILED if bad else 0


@backfill.command(
    "list",
    short_help="List the back-fills.",
    epilog=epilog(
        "b24sync backfill list", exits="0  done; 2  wrong settings; 3  the database cannot be used"
    ),
)
@as_json
@click.pass_obj
def list_(desk: Desk, *, as_json: bool) -> None:
    """List the back-fills, those that are not over first."""
    with desk.opened() as world, reading(world.engine) as connection:
        found = backfills.listed(connection)
        waiting = {one.code: backfills.waiting(connection, one) for one in found if _is_open(one)}
    if as_json:
        desk.emit_each(_record(one, waiting.get(one.code)) for one in found)
    elif not found:
        desk.show(Text("no back-fills", "dim"))
    else:
        desk.show(_table(found, waiting, is_narrow=desk.out.width < NARROW))


def _is_open(one: Backfill) -> bool:
    return one.state not in OVER


def _table(found: tuple[Backfill, ...], waiting: Mapping[str, int], *, is_narrow: bool) -> Table:
    shown = table()
    shown.add_column("code", overflow="fold")
    if not is_narrow:
        shown.add_column("portal", overflow="fold")
    shown.add_column("kind", overflow="fold")
    shown.add_column("state", no_wrap=True)
    names = ["read", "of", "enqueued", "skipped", "refused", "waiting"]
    for name in names[:2] if is_narrow else names:
        shown.add_column(name, justify="right", no_wrap=True)
    for one in found:
        cells = [Text(one.code, "bold")] + ([] if is_narrow else [Text(one.portal)])
        cells += [Text(one.kind), Text(one.state, STYLES[one.state]), number(one.read_rows)]
        cells += [Text("?", "dim") if one.estimate is None else number(one.estimate)]
        if not is_narrow:
            cells += [number(n) for n in (one.enqueued, one.skipped, one.refused)]
            cells += [number(waiting[one.code]) if one.code in waiting else Text("-", "dim")]
        shown.add_row(*cells)
    return shown


@backfill.command(
    epilog=epilog(
        "b24sync backfill show people",
        exits="0  done; 1  it has failed, or rows were refused; 2  there is none of that code; "
        "3  the database cannot be used",
    ),
)
@click.argument("code")
@as_json
@click.pass_obj
def show(desk: Desk, code: str, *, as_json: bool) -> int:
    """Show the back-fill CODE: what it reads, how far it is, and what is wrong with it."""
    with desk.opened() as world:
        return _shown(desk, world, code, as_json=as_json)


def _shown(desk: Desk, world: World, code: str, *, as_json: bool) -> int:
    with reading(world.engine) as connection:
        found = backfills.find(connection, code)
        if found is None:
            known = ", ".join(one.code for one in backfills.listed(connection)) or "none"
            raise Refused(f"there is no back-fill {code!r}; known are: {known}")
        waiting = backfills.waiting(connection, found) if _is_open(found) else None
    if as_json:
        desk.emit(_record(found, waiting))
    else:
        desk.show(_card(found, waiting))
    return FAILED if found.state is BackfillState.FAILED or found.refused else 0


def _card(one: Backfill, waiting: int | None) -> Group:
    document: Mapping[str, Any] = one.source
    what = document.get("query") or document.get("name")
    spent_ms = one.updated_at_ms - one.created_at_ms
    left = left_ms(one.read_rows, one.estimate, spent_ms) if _is_open(one) else None
    lines = {
        "reads": f"{document['sort']}: {' '.join(str(what).split())}",
        "read": _of(one),
        "enqueued": f"{one.enqueued:,}".replace(",", " "),
        "skipped": f"{one.skipped:,}".replace(",", " "),
        "last key": "-" if one.last is None else ", ".join(map(str, one.last)),
        "waiting": "-" if waiting is None else f"{waiting} (feeds below {one.most_waiting})",
        "left": span(left),
    }
    shown = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        shown.add_row(Text(name, "dim"), Text(value))
    head = Text(f"{one.code}  ", "bold").append(one.state, STYLES[one.state])
    head.append(f"  {one.kind} on {one.portal}", "not bold")
    parts: list[Any] = [head, shown]
    if one.refused:
        rows = counted(one.refused, "row")
        parts.append(Text(f"{rows} refused, the last: {one.last_refusal}", "red"))
    if one.reason is not None:
        parts.append(Text(f"failed: {one.reason}", "red"))
        parts.append(Text(f"correct that, then: b24sync backfill resume {one.code}"))
    return Group(*parts)


def _of(one: Backfill) -> str:
    read = f"{one.read_rows:,}".replace(",", " ")
    if not one.estimate:
        return read
    return f"{read} of about {one.estimate:,}".replace(",", " ") + (
        f", {min(100, 100 * one.read_rows // one.estimate)} %"
    )


def _record(one: Backfill, waiting: int | None = None) -> dict[str, object]:
    return record(one) | {"waiting": waiting}


@backfill.command(
    epilog=epilog(
        "b24sync backfill pause people",
        exits="0  done; 2  there is none of that code, or it is over; 3  the database cannot be used",
    ),
)
@click.argument("code")
@as_json
@click.pass_obj
def pause(desk: Desk, code: str, *, as_json: bool) -> None:
    """Feed nothing more of the back-fill CODE until it is resumed.

    What it has written to the outbox is sent all the same.
    """
    with desk.opened() as world:
        steer(world, code, BackfillState.PAUSED)
        _told(desk, world, code, f"{code} is paused", as_json=as_json)


@backfill.command(
    epilog=epilog(
        "b24sync backfill resume people",
        "b24sync backfill resume people --skip-bad --feed",
        exits="0  done; 1  it failed again, or rows were refused; 2  there is none of that code, or "
        "it is over; 3  a database cannot be used",
    ),
)
@click.argument("code")
@click.option(
    "--skip-bad", is_flag=True, help="Pass over rows that cannot be changes, and count them."
)
@click.option("--feed", "feeds", is_flag=True, help="Feed it from here, until it is done.")
@as_json
@click.pass_obj
def resume(desk: Desk, code: str, *, skip_bad: bool, feeds: bool, as_json: bool) -> int:
    """Go on with the back-fill CODE, which was paused or has failed; with --feed, join in."""
    with desk.opened() as world:
        steer(world, code, BackfillState.RUNNING, {"skip_bad": True} if skip_bad else None)
        if feeds:
            return _followed(desk, world, code, as_json=as_json)
        _told(desk, world, code, f"{code} is running", as_json=as_json)
    return 0


@backfill.command(
    epilog=epilog(
        "b24sync backfill cancel people --yes",
        exits="0  done; 2  not confirmed, there is none of that code, or it is over; "
        "3  the database cannot be used",
    ),
)
@click.argument("code")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def cancel(desk: Desk, code: str, *, yes: bool, as_json: bool) -> None:
    """End the back-fill CODE for good.

    What it has written to the outbox is sent all the same.
    """
    confirmed(f"End the back-fill {code} for good?", is_agreed=yes)
    with desk.opened() as world:
        steer(world, code, BackfillState.CANCELLED)
        _told(desk, world, code, f"{code} is cancelled", as_json=as_json)


def _told(desk: Desk, world: World, code: str, words: str, *, as_json: bool) -> None:
    if as_json:
        _shown(desk, world, code, as_json=True)
    else:
        desk.show(Text(words, "bold"))


@dataclass(slots=True, kw_only=True)
class _Bar:
    """The bar, and what it says beside the rows."""

    progress: Progress
    task: TaskID
    world: World
    begun_s: float
    begun_rows: int
    estimate: int | None

    def move(self, fed: Fed) -> None:
        """Some rows further."""
        self.progress.advance(self.task, fed.read_rows)
        self.say("")

    def say(self, why: str) -> None:
        """How fast it goes, how long it takes, and what it waits for."""
        done = int(self.progress.tasks[0].completed)
        spent_s = self.world.clock() - self.begun_s
        new = done - self.begun_rows
        rate = f"{new / spent_s:,.0f} rows/s".replace(",", " ") if spent_s > 0 else ""
        total = None if self.estimate is None else self.estimate - self.begun_rows
        left = left_ms(new, total, spent_s * 1000)
        parts = [rate, f"{span(left)} left" if left is not None else "", why]
        self.progress.update(self.task, told="  ".join(part for part in parts if part))


def _followed(desk: Desk, world: World, code: str, *, as_json: bool) -> int:
    """Feed from here until it is done, or somebody stops it or us."""
    with until_interrupted() as stopped, _progress(desk) as progress:
        with reading(world.engine) as connection:
            found = backfills.find(connection, code)
        before = 0 if found is None else found.read_rows
        estimate = None if found is None else found.estimate
        task = progress.add_task(code, total=estimate, completed=before, told="")
        bar = _Bar(
            progress=progress,
            task=task,
            world=world,
            begun_s=world.clock(),
            begun_rows=before,
            estimate=estimate,
        )
        _feed_until_over(world, code, bar, stopped)
    ended = _shown(desk, world, code, as_json=as_json)
    if stopped.is_set():
        desk.note("stopped as asked; a running worker goes on with it, or `backfill resume --feed`")
    return ended


def _feed_until_over(world: World, code: str, bar: _Bar, stopped: Interrupt) -> None:
    while not stopped.is_set():
        told = feed(world, code, lasting=lambda: not stopped.is_set(), watching=bar.move)
        match told.why:
            case Rest.DONE | Rest.FAILED | Rest.ENDED:
                return
            case Rest.FULL:
                bar.say("waits for the portal")
                stopped.wait(FULL_WAIT_S)
            case Rest.LOCKED:
                bar.say("waits for a row that is being changed")
                stopped.wait(LOCKED_WAIT_S)
            case Rest.TAKEN:
                with reading(world.engine) as connection:
                    found = backfills.find(connection, code)
                if found is None or found.state is not BackfillState.RUNNING:
                    return
                bar.progress.update(bar.task, completed=found.read_rows)
                bar.say("a worker feeds it")
                stopped.wait(FULL_WAIT_S)


def _progress(desk: Desk) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        console=desk.err,
        transient=True,
        disable=not is_terminal(desk.err),
        expand=True,
    )
