"""``b24sync dead``, ``replay`` and ``drop``: rows that were given up on."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import click
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import Desk, as_json, confirmed, epilog
from b24sync.cli.layout import NARROW, complaint, counted, read_span, record, span, table
from b24sync.core.faults import advice
from b24sync.core.model import FaultKind
from b24sync.edge import dead_letters
from b24sync.edge.database import reading, transact
from b24sync.edge.dead_letters import CHUNK, Choice, Letter, Replay
from b24sync.world import World

USUAL_LIMIT = 50
F = TypeVar("F", bound=Callable[..., object])

REASONS = {
    "refused": "It cannot be said to the portal as it stands: correct what writes it, then drop it.",
    "exhausted": "The portal failed again and again: look whether it is well again, then replay.",
}
"""What to do about reasons that are not kinds of faults."""


def _filters(command: F) -> F:
    """The options that choose letters, the same for all that do."""
    for option in (
        click.option(
            "--older-than", type=read_span, metavar="SPAN", help="Given up on 2h, 7d ago."
        ),
        click.option("--code", metavar="CODE", help="Only with this error code of the portal."),
        click.option("--key", metavar="KEY", help="Only this key."),
        click.option("--kind", metavar="K", help="Only this kind."),
        click.option("--portal", metavar="CODE", help="Only of this portal."),
    ):
        command = option(command)
    return command


@click.command(
    short_help="List changes that were given up on.",
    epilog=epilog(
        "b24sync dead --portal acme --kind contact",
        "b24sync dead --older-than 7d --json | jq .error_code | sort | uniq -c",
        exits="0  shown; 2  wrong usage; 3  the database cannot be used",
    ),
)
@_filters
@click.option("--closed", is_flag=True, help="Also those that were replayed or dropped.")
@click.option("--limit", type=click.IntRange(1), default=USUAL_LIMIT, show_default=True)
@as_json
@click.pass_obj
def dead(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    *,
    portal: str | None,
    kind: str | None,
    key: str | None,
    code: str | None,
    older_than: int | None,
    closed: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, newest first: changes that were given up on, with the portal's reason.

    They rest until `b24sync replay` writes them into the outbox again or `b24sync drop` closes them.
    """
    choice = Choice(
        portal=portal,
        kind=kind,
        key=key,
        code=code,
        older_than_ms=older_than,
        closed_too=closed,
    )
    with desk.opened() as world, reading(world.engine) as connection:
        found = dead_letters.letters(connection, choice, limit=limit)
        count = len(dead_letters.chosen(connection, choice))
    if as_json:
        desk.emit_each(record(letter) for letter in found)
        return
    if not found:
        desk.show(Text("no dead letters that fit", "green"))
        return
    desk.show(_table(found, is_narrow=desk.out.width < NARROW), Text())
    for reason, n in Counter(letter.reason for letter in found).most_common():
        desk.show(Text(f"{reason} ({n}): ", "bold").append(_advice(reason), "not bold"))
    if count > len(found):
        desk.note(f"{count} in all; --limit shows more")


def _table(found: Sequence[Letter], *, is_narrow: bool) -> Table:
    shown = table()
    shown.add_column("id", justify="right", no_wrap=True)
    shown.add_column("age", justify="right", no_wrap=True)
    if not is_narrow:
        shown.add_column("portal", overflow="fold")
    shown.add_column("entity", overflow="fold")
    shown.add_column("operation", no_wrap=True)
    if not is_narrow:
        shown.add_column("tries", justify="right")
    shown.add_column("said", overflow="fold")
    for letter in found:
        cells = [Text(str(letter.id), "bold"), Text(span(letter.age_ms))]
        if not is_narrow:
            cells.append(Text(letter.portal))
        cells += [Text(f"{letter.kind} {letter.key}"), Text(letter.operation)]
        if not is_narrow:
            cells.append(Text(str(letter.attempts)))
        shown.add_row(*cells, _said(letter))
    return shown


def _said(letter: Letter) -> Text:
    text = letter.last_error.removeprefix(letter.error_code).removeprefix(": ")
    shown = complaint(letter.error_code, text)
    if letter.replayed_as is not None:
        shown.append(f"  (replayed as row {letter.replayed_as})", "green")
    elif letter.closed_at_ms is not None:
        shown.append("  (dropped)", "dim")
    return shown


def _advice(reason: str) -> str:
    if reason in REASONS:
        return REASONS[reason]
    try:
        return advice(FaultKind(reason))
    except ValueError:
        return "Read what was said, correct the change, then replay or drop it."


@click.command(
    short_help="Write dead letters into the outbox again.",
    epilog=epilog(
        "b24sync replay 17 18",
        "b24sync replay --code ACCESS_DENIED --yes",
        "b24sync replay --all --dry-run",
        exits="0  done; 1  some of them are closed or unknown; 2  wrong usage, or not confirmed; "
        "3  the database cannot be used",
    ),
)
@click.argument("ids", nargs=-1, type=int)
@_filters
@click.option("--all", "take_all", is_flag=True, help="All that are open.")
@click.option("--dry-run", is_flag=True, help="Say what would be replayed and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def replay(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    ids: tuple[int, ...],
    *,
    portal: str | None,
    kind: str | None,
    key: str | None,
    code: str | None,
    older_than: int | None,
    take_all: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Write dead letters into the outbox again, chosen by IDS or by options.

    Each becomes a new change at the end of its entity's order, with a new id and no tries spent;
    the letter is closed and names it. One that was replayed already is refused.
    """
    choice = Choice(portal=portal, kind=kind, key=key, code=code, older_than_ms=older_than)
    _refuse_confusion(ids, choice, take_all=take_all)
    with desk.opened() as world:
        wanted = ids or _chosen(world, choice)
        if dry_run:
            _rehearse(desk, world, wanted, as_json=as_json)
            return 0
        if not ids and wanted:
            confirmed(f"Replay {counted(len(wanted), 'dead letter')}?", is_agreed=yes)
        done = _replayed(world, wanted)
    _report(desk, done, as_json=as_json)
    return int(bool(done.closed or done.unknown))


def _refuse_confusion(ids: tuple[int, ...], choice: Choice, *, take_all: bool) -> None:
    is_filtered = choice != Choice()
    if sum((bool(ids), is_filtered, take_all)) != 1:
        raise click.UsageError("say which: either IDS, or options that choose, or --all")


def _chosen(world: World, choice: Choice) -> tuple[int, ...]:
    with reading(world.engine) as connection:
        return dead_letters.chosen(connection, choice)


def _replayed(world: World, ids: Sequence[int]) -> Replay:
    """Part by part, each in its own transaction, so that a long replay holds nobody up."""
    rows: dict[int, int] = {}
    closed: list[int] = []
    unknown: list[int] = []
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        done = transact(world.engine, partial(dead_letters.replay, ids=part))
        rows |= done.rows
        closed += done.closed
        unknown += done.unknown
    return Replay(rows=rows, closed=tuple(closed), unknown=tuple(unknown))


def _rehearse(desk: Desk, world: World, ids: Sequence[int], *, as_json: bool) -> None:
    with reading(world.engine) as connection:
        found = [
            letter
            for start in range(0, len(ids), CHUNK)
            for letter in dead_letters.letters(
                connection, Choice(ids=tuple(ids[start : start + CHUNK]))
            )
        ]
    if as_json:
        desk.emit({"would_replay": sorted(letter.id for letter in found)})
        return
    if found:
        desk.show(_table(found[:USUAL_LIMIT], is_narrow=desk.out.width < NARROW))
    desk.show(Text(f"{counted(len(found), 'dead letter')} would be replayed", "bold"))


def _report(desk: Desk, done: Replay, *, as_json: bool) -> None:
    if as_json:
        rows = {str(letter): row for letter, row in done.rows.items()}
        desk.emit({"replayed": rows, "closed": done.closed, "unknown": done.unknown})
        return
    for letter in done.closed:
        desk.note(f"dead letter {letter} was replayed or dropped already", style="yellow")
    for letter in done.unknown:
        desk.note(f"there is no dead letter {letter}", style="yellow")
    desk.show(Text(f"{counted(len(done.rows), 'dead letter')} replayed", "bold"))
    if done.rows:
        desk.note("next: b24sync sync, or a running worker takes them by itself")


@click.command(
    short_help="Close dead letters for good.",
    epilog=epilog(
        "b24sync drop 17 18",
        "b24sync drop $(b24sync dead --code NOT_FOUND --json | jq .id) --yes",
        exits="0  done; 1  some of them are closed or unknown; 2  not confirmed; "
        "3  the database cannot be used",
    ),
)
@click.argument("ids", nargs=-1, type=int, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def drop(desk: Desk, ids: tuple[int, ...], *, yes: bool, as_json: bool) -> int:
    """Close the dead letters IDS for good: they are not replayed, and not shown any more."""
    confirmed(f"Drop {counted(len(ids), 'dead letter')} for good?", is_agreed=yes)
    with desk.opened() as world:
        done = transact(world.engine, partial(dead_letters.drop, ids=ids))
    left = [number for number in ids if number not in done]
    if as_json:
        desk.emit({"dropped": done, "closed_or_unknown": left})
        return int(bool(left))
    for number in left:
        desk.note(f"dead letter {number} is closed already, or there is none", style="yellow")
    desk.show(Text(f"{counted(len(done), 'dead letter')} dropped", "bold"))
    return int(bool(left))
