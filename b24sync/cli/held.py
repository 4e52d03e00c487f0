"""``b24sync held``: rows that wait for another entity or for a person, and what a person decides."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeAlias

import click
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from b24sync.adoption import known_records
from b24sync.cli.desk import (
    FAILED,
    Desk,
    Refused,
    as_json,
    check_portal,
    confirmed,
    epilog,
)
from b24sync.cli.layout import NARROW, complaint, counted, record, span, table
from b24sync.core.errors import ChangeError
from b24sync.core.kinds import Kind
from b24sync.core.model import ResultOutcome
from b24sync.edge import deciding
from b24sync.edge.database import reading, transact
from b24sync.edge.deciding import Decision, HeldRow
from b24sync.edge.settling import STOPPED
from b24sync.world import World

USUAL_LIMIT = 50

DECISIONS = {
    "retry": "try it again, before all others of its lane",
    "settle": "it was done on the portal by hand",
    "skip": "give it up as a dead letter, which can be replayed",
    "drop": "end it for good",
}
"""What a person can decide about a held row, by the name of the command."""

EXITS = (
    "0  done; 1  there is no such held row; 2  refused, or not confirmed; "
    "3  the database cannot be used"
)

Work: TypeAlias = Callable[[Connection], Decision | None]
Choose: TypeAlias = Callable[[World, HeldRow], Work]


def ways_on(row: str) -> Table:
    """The commands that decide about a row, and what each means."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold", style="dim")
    for name, means in DECISIONS.items():
        shown.add_row(f"b24sync held {name} {row}", means)
    return shown


@click.group()
def held() -> None:
    """Rows that are held: for another entity's id, or for a person to decide.

    In the halt mode strict a failed change is held, and its lane stands still until somebody says
    how it goes on: retry, settle, skip or drop.
    """


@held.command(
    "list",
    short_help="List held rows, and what each is held for.",
    epilog=epilog(
        "b24sync held list",
        "b24sync held list --portal acme --json | jq 'select(.stops_lane)'",
        exits="0  shown; 2  wrong usage; 3  the database cannot be used",
    ),
)
@click.option("--portal", metavar="CODE", help="Only of this portal.")
@click.option("--limit", type=click.IntRange(1), default=USUAL_LIMIT, show_default=True)
@as_json
@click.pass_obj
def list_held(desk: Desk, *, portal: str | None, limit: int, as_json: bool) -> None:
    """List held rows, those that stop a lane first, then the oldest.

    A row that waits goes on by itself when the other entity has an id. One that was stopped was
    refused in the halt mode strict, and goes on when somebody decides.
    """
    with desk.opened() as world:
        check_portal(world, portal)
        with reading(world.engine) as connection:
            found = deciding.held_rows(connection, portal=portal, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        desk.emit_each(record(row) for row in shown)
    elif not shown:
        desk.show(Text("no rows are held", "green"))
    else:
        desk.show(_table(shown, is_narrow=desk.out.width < NARROW), Text(), ways_on("ROW"))
    if len(found) > limit and not as_json:
        desk.note(f"the first {counted(limit, 'row')}; --limit shows more")


def _table(found: tuple[HeldRow, ...], *, is_narrow: bool) -> Table:
    shown = table()
    shown.add_column("row", justify="right", no_wrap=True)
    shown.add_column("age", justify="right", no_wrap=True)
    if not is_narrow:
        shown.add_column("portal", overflow="fold")
    shown.add_column("entity", overflow="fold")
    shown.add_column("operation", no_wrap=True)
    shown.add_column("held for", overflow="fold")
    for row in found:
        cells = [Text(str(row.id), "bold"), Text(span(row.age_ms))]
        cells += [] if is_narrow else [Text(row.portal)]
        cells += [Text(f"{row.kind} {row.key}"), Text(row.operation), _held_for(row)]
        shown.add_row(*cells)
    return shown


def _held_for(row: HeldRow) -> Text:
    if not row.is_stopped:
        return Text(row.reason)
    when = f" {span(row.stopped_ms)} ago" if row.stopped_ms is not None else ""
    where = f"stops lane {row.lane}" if row.stops_lane else "stopped"
    said = row.said or row.reason.removeprefix(STOPPED)
    return Text(f"{where}{when}: ", "bold red").append(complaint(None, said))


@held.command(
    short_help="Say that a held row was done by hand.",
    epilog=epilog(
        "b24sync held settle 17",
        "b24sync held settle 17 --remote-id 4711 --yes",
        exits=EXITS,
    ),
)
@click.argument("row", type=int)
@click.option("--remote-id", metavar="ID", help="The id of the record that was made by hand.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def settle(desk: Desk, row: int, *, remote_id: str | None, yes: bool, as_json: bool) -> int:
    """End the held ROW as applied: somebody did it on the portal by hand.

    A record that was made by hand is linked, so that later changes of the entity find it: an add or
    upsert of an entity without a link needs its id, and the id must not belong to another key.
    """

    def chosen(world: World, about: HeldRow) -> Work:
        kinds = world.settings.kinds
        given = None if remote_id is None else _read_id(about, remote_id, kinds)
        confirmed(f"End {_named(about)} as done by hand?", is_agreed=yes)
        return partial(deciding.settle, row_id=row, kinds=kinds, remote_id=given)

    return _decide(desk, row, chosen, as_json=as_json)


def _read_id(about: HeldRow, text: str, kinds: Mapping[str, Kind]) -> str:
    """An id as it is stored.

    Raises: Refused for what is none, and for kinds whose records have none.
    """
    links = [(about.kind, about.key, text)]
    try:
        (known,) = known_records(links, portal=about.portal, kinds=kinds)
    except ChangeError as error:
        raise Refused(f"{about.kind}:{about.key}: {error.field}: {error.problem}") from None
    return known.remote_id


@held.command(
    short_help="Give a held row up as a dead letter.",
    epilog=epilog("b24sync held skip 17", exits=EXITS),
)
@click.argument("row", type=int)
@as_json
@click.pass_obj
def skip(desk: Desk, row: int, *, as_json: bool) -> int:
    """Give the held ROW up as a dead letter, so that its lane goes on.

    `b24sync dead` lists it, and `b24sync replay` writes it anew; later changes of the same entity
    go on without it.
    """
    return _decide(
        desk, row, lambda _world, _row: partial(deciding.skip, row_id=row), as_json=as_json
    )


@held.command(
    short_help="End a held row for good.",
    epilog=epilog("b24sync held drop 17 --yes", exits=EXITS),
)
@click.argument("row", type=int)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def drop(desk: Desk, row: int, *, yes: bool, as_json: bool) -> int:
    """End the held ROW for good, as cancelled: it is not sent and cannot be replayed."""

    def chosen(_world: World, about: HeldRow) -> Work:
        confirmed(f"Drop {_named(about)} for good?", is_agreed=yes)
        return partial(deciding.drop, row_id=row)

    return _decide(desk, row, chosen, as_json=as_json)


@held.command(
    short_help="Try a held row again, before all others.",
    epilog=epilog("b24sync held retry 17", exits=EXITS),
)
@click.argument("row", type=int)
@click.option("--yes", is_flag=True, help="Do not ask, of a row whose answer was lost.")
@as_json
@click.pass_obj
def retry(desk: Desk, row: int, *, yes: bool, as_json: bool) -> int:
    """Make the held ROW ready at once, before all others of its lane.

    Its tries go on counting. One that waits for another entity looks anew at what it waits for. One
    whose answer was lost may have been done: look on the portal first, it would be done again.
    """

    def chosen(_world: World, about: HeldRow) -> Work:
        if about.is_unsure:
            question = f"{_named(about)} may have been done, its answer was lost. Do it again?"
            confirmed(question[0].upper() + question[1:], is_agreed=yes)
        return partial(deciding.retry, row_id=row)

    return _decide(desk, row, chosen, as_json=as_json)


def _decide(desk: Desk, row: int, choose: Choose, *, as_json: bool) -> int:
    """Carry one decision out, in one transaction; the exit code."""
    with desk.opened() as world:
        with reading(world.engine) as connection:
            found = deciding.held_rows(connection, ids=[row])
        try:
            done = transact(world.engine, choose(world, found[0])) if found else None
        except IntegrityError:
            raise Refused(
                "a worker linked this id at the same moment; nothing was done, try again"
            ) from None
        if done is None:
            return _not_held(desk, world, row, as_json=as_json)
    _report(desk, done, as_json=as_json)
    return 0


def _named(row: HeldRow) -> str:
    return f"row {row.id}, {row.operation} of {row.kind} {row.key},"


def _not_held(desk: Desk, world: World, row: int, *, as_json: bool) -> int:
    """A row that went on meanwhile, or never was; nothing is done."""
    with reading(world.engine) as connection:
        state = deciding.state_of(connection, row)
    if as_json:
        desk.emit({"row": row, "decision": None, "state": state})
    elif state is None:
        desk.note(f"there is no unfinished row {row}", style="yellow")
    else:
        desk.note(f"row {row} is {state}, not held; nothing was done", style="yellow")
    return FAILED


def _report(desk: Desk, done: Decision, *, as_json: bool) -> None:
    row = done.row
    if as_json:
        desk.emit(
            {
                "row": row.id,
                "decision": _WORDS[done.outcome][0],
                "outcome": done.outcome,
                "portal": row.portal,
                "kind": row.kind,
                "key": row.key,
                "operation": row.operation,
                "remote_id": done.remote_id,
                "dead_letter": done.dead_letter,
                "lane_goes_on": done.lane_goes_on,
                "released_behind": done.behind,
                "released_waiting": done.waiting,
            }
        )
        return
    words = f"row {row.id}, {row.operation} of {row.kind} {row.key}, {_WORDS[done.outcome][1]}"
    if done.outcome is ResultOutcome.APPLIED and done.remote_id is not None:
        words += f"; its record is {done.remote_id}"
    if done.dead_letter is not None:
        words += f" {done.dead_letter}: `b24sync replay {done.dead_letter}` writes it anew"
    desk.show(Text(words, "bold"))
    for line in _going_on(done):
        desk.show(Text(f"  {line}"))
    desk.note("next: b24sync sync, or a running worker goes on by itself")


_WORDS = {
    None: ("retried", "is ready and goes first"),
    ResultOutcome.APPLIED: ("settled", "is applied, done by hand"),
    ResultOutcome.FAILED: ("skipped", "is given up as dead letter"),
    ResultOutcome.CANCELLED: ("dropped", "is dropped"),
}


def _going_on(done: Decision) -> Iterator[str]:
    """What stood still for the row."""
    entity = f"{done.row.kind} {done.row.key}"
    if done.lane_goes_on:
        yield f"lane {done.row.lane} of {done.row.portal} goes on"
    if done.behind:
        yield f"the next change of {entity} goes on"
    if done.waiting:
        verb = "looks" if done.waiting == 1 else "look"
        yield f"{counted(done.waiting, 'row')} that waited for {entity} {verb} for it anew"
