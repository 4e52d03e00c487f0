"""``b24sync dead``: rows that were given up on, listed, or one of them in full."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import TypeVar

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from b24sync.cli.desk import FAILED, Desk, as_json, epilog
from b24sync.cli.layout import (
    NARROW,
    complaint,
    counted,
    instant,
    outcome_text,
    read_span,
    record,
    span,
    table,
)
from b24sync.cli.results import said as said_of
from b24sync.core.faults import advice
from b24sync.core.model import FaultKind
from b24sync.core.refs import is_mapping
from b24sync.edge import dead_letters, stories
from b24sync.edge.database import reading
from b24sync.edge.dead_letters import Choice, Letter, Trail
from b24sync.edge.stories import ResultView

USUAL_LIMIT = 50
F = TypeVar("F", bound=Callable[..., object])

REASONS = {
    "refused": "It cannot be said to the portal as it stands: correct what writes it, then drop it.",
    "lost": "Its requests were lost again and again, at the end alone: look at the record on the "
    "portal, then correct the change and replay it, or drop it.",
    "exhausted": "The portal failed again and again: look whether it is well again, then replay.",
}
"""What to do about reasons that are not kinds of faults."""


def filters(command: F) -> F:
    """The options that choose letters, the same for all that do."""
    for option in (
        click.option(
            "--reason", metavar="R", help="Only given up on for this: refused, invalid, …"
        ),
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
        "b24sync dead 17",
        "b24sync dead --older-than 7d --json | jq .error_code | sort | uniq -c",
        exits="0  shown; 1  there is no such letter; 2  wrong usage; 3  the database cannot be used",
    ),
)
@click.argument("number", metavar="[ID]", type=int, required=False)
@filters
@click.option("--closed", is_flag=True, help="Also those that were replayed or dropped.")
@click.option("--limit", type=click.IntRange(1), default=USUAL_LIMIT, show_default=True)
@as_json
@click.pass_obj
def dead(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    number: int | None,
    *,
    portal: str | None,
    kind: str | None,
    key: str | None,
    code: str | None,
    reason: str | None,
    older_than: int | None,
    closed: bool,
    limit: int,
    as_json: bool,
) -> int:
    """List dead letters, newest first: changes that were given up on, with the portal's reason.

    They rest until `b24sync replay` writes them into the outbox again or `b24sync drop` closes them.
    With an ID one letter is shown in full: what it says, its errors, and what became of it. NEWER: a
    later change of the same entity was applied or waits; a replay would undo it.
    """
    choice = Choice(
        portal=portal,
        kind=kind,
        key=key,
        code=code,
        reason=reason,
        older_than_ms=older_than,
        closed_too=closed,
    )
    if number is not None:
        if choice != Choice():
            raise click.UsageError("say either an ID or options that choose")
        return _show_one(desk, number, as_json=as_json)
    with desk.opened() as world, reading(world.engine) as connection:
        found = dead_letters.letters(connection, choice, limit=limit)
        count = sum(heap.n for heap in dead_letters.heaps(connection, choice))
    if as_json:
        desk.emit_each(record(letter) for letter in found)
        return 0
    if not found:
        desk.show(Text("no dead letters that fit", "green"))
        return 0
    desk.show(letter_table(found, is_narrow=desk.out.width < NARROW), Text())
    for why, n in Counter(letter.reason for letter in found).most_common():
        desk.show(Text(f"{why} ({n}): ", "bold").append(_advice(why), "not bold"))
    if count > len(found):
        desk.note(f"{count} in all; --limit shows more")
    return 0


def letter_table(found: Sequence[Letter], *, is_narrow: bool) -> Table:
    """Letters, a line each."""
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
    elif letter.is_overtaken:
        shown.append("  NEWER", "yellow")
    return shown


def _advice(reason: str) -> str:
    if reason in REASONS:
        return REASONS[reason]
    try:
        return advice(FaultKind(reason))
    except ValueError:
        return "Read what was said, correct the change, then replay or drop it."


def _show_one(desk: Desk, number: int, *, as_json: bool) -> int:
    """One letter in full; the exit code."""
    with desk.opened() as world, reading(world.engine) as connection:
        choice = Choice(ids=(number,), closed_too=True)
        letter = next(iter(dead_letters.letters(connection, choice)), None)
        if letter is None:
            desk.note(f"there is no dead letter {number}", style="yellow")
            return FAILED
        trail = dead_letters.trail(connection, letter)
        before = _results(connection, letter, letter.outbox_id)
        after = _results(connection, letter, letter.replayed_as)
    if as_json:
        desk.emit(
            record(letter)
            | {
                "trail": record(trail),
                "results": [record(result) for result in before],
                "replayed_results": [record(result) for result in after],
            }
        )
        return 0
    name = f"{letter.operation} of {letter.kind} {letter.key}"
    desk.show(
        Text(f"Dead letter {letter.id}: ", "bold").append(name).append(f" on {letter.portal}")
    )
    desk.show(Padding(_facts(letter), (0, 0, 0, 2), expand=False), Text())
    for title, rows in (("What happened", before), ("What became of the replay", after)):
        if rows:
            desk.show(Text(title, "bold"), Padding(_history(rows), (0, 0, 0, 2), expand=False))
    for line in _ways(letter, trail):
        desk.show(line)
    return 0


def _results(connection: Connection, letter: Letter, row_id: int | None) -> tuple[ResultView, ...]:
    """What was recorded of a row, in the order in which it came about."""
    if row_id is None:
        return ()
    choice = stories.ResultChoice(
        portal=letter.portal, kind=letter.kind, key=letter.key, rows=(row_id,)
    )
    return stories.results(connection, choice)[::-1]


def _facts(letter: Letter) -> Table:
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True, style="dim")
    shown.add_column(overflow="fold")
    tries = f"{counted(letter.attempts, 'try', 'tries')}, sent {counted(letter.deliveries, 'time')}"
    for name, value in (
        ("was", f"row {letter.outbox_id}, written {instant(letter.enqueued_at_ms)}, {tries}"),
        ("given up", f"{instant(letter.dead_at_ms)}, {letter.reason}"),
        ("first error", letter.first_error),
        ("last error", letter.last_error if letter.last_error != letter.first_error else ""),
        ("method", letter.method or ""),
        ("fields", _pretty(letter.fields)),
        ("params", _pretty(letter.params)),
        ("headers", _pretty(letter.headers)),
        ("closed", _closing(letter)),
        ("edited", "\n".join(edit_lines(letter.edits))),
    ):
        if value:
            shown.add_row(Text(name), Text(value))
    return shown


def _pretty(value: object) -> str:
    """A document as people read it; one that cannot be read, as it is stored."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, indent=2, default=_plain)


def _plain(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else str(value)


def edit_lines(edits: object) -> Iterator[str]:
    """What was edited in a letter, a line for each name."""
    if not is_mapping(edits):
        return
    for name, told in edits.items():
        if not is_mapping(told):
            continue
        before, after = (
            json.dumps(told[side], ensure_ascii=False, default=_plain)
            if side in told
            else "nothing"
            for side in ("before", "after")
        )
        yield f"{name}: {before} → {after}"


def _closing(letter: Letter) -> str:
    if letter.closed_at_ms is None:
        return ""
    became = f"replayed as row {letter.replayed_as}" if letter.replayed_as else "dropped"
    by = f" by {letter.closed_by}" if letter.closed_by else ""
    return f"{instant(letter.closed_at_ms)}, {became}{by}"


def _history(rows: Sequence[ResultView]) -> Table:
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True, style="dim")
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for row in rows:
        when = Text(instant(row.finished_at_ms))
        shown.add_row(when, outcome_text(row.outcome), said_of(row))
    return shown


def _ways(letter: Letter, trail: Trail) -> Iterator[Text]:
    """How it hangs together with other letters, and what can be done."""
    if trail.earlier is not None:
        yield Text(
            f"It is what became of dead letter {trail.earlier}: b24sync dead {trail.earlier}"
        )
    if trail.row_state is not None:
        yield Text(f"Row {letter.replayed_as} is {trail.row_state}.")
    if trail.later is not None:
        yield Text(f"It was given up on again, as dead letter {trail.later}: ", "red").append(
            f"b24sync dead {trail.later}", "default"
        )
    if letter.closed_at_ms is not None:
        return
    if letter.is_overtaken:
        yield Text("A newer change of this entity was applied or waits: ", "yellow").append(
            "a replay would undo it, and needs --even-if-newer.", "default"
        )
    yield Text(
        f"`b24sync replay {letter.id}` tries it again, with `--set FIELD=VALUE` edited; "
        f"`b24sync drop {letter.id}` closes it."
    )
