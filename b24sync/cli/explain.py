"""``b24sync explain``: the whole history of one entity, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from b24sync.cli.dead import edit_lines
from b24sync.cli.desk import Desk, as_json, epilog
from b24sync.cli.duplicates import in_words
from b24sync.cli.held import ways_on
from b24sync.cli.layout import complaint, counted, instant, outcome_text, record, span
from b24sync.cli.results import said
from b24sync.core.model import RowState
from b24sync.edge import dead_letters, duplicates, stories
from b24sync.edge.database import reading
from b24sync.edge.dead_letters import Choice, Letter
from b24sync.edge.duplicates import Duplicate
from b24sync.edge.settling import STOPPED
from b24sync.edge.stories import LinkView, RowView, Story

FIELDS_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """All that is known of an entity on one portal."""

    portal: str
    story: Story
    letters: tuple[Letter, ...]
    duplicates: tuple[Duplicate, ...]


@click.command(
    short_help="Tell the history of one entity.",
    epilog=epilog(
        "b24sync explain contact c-17",
        "b24sync explain item:1036 order-9 --portal acme --json",
        exits="0  shown, be it that nothing is known; 3  the database cannot be used",
    ),
)
@click.argument("kind")
@click.argument("key")
@click.option("--portal", metavar="CODE", help="Only this portal.  [default: all that know it]")
@as_json
@click.pass_obj
def explain(desk: Desk, kind: str, key: str, *, portal: str | None, as_json: bool) -> None:
    """Tell the history of the entity KEY of a KIND.

    Its record on the portal, what became of every change, what waits and for what, and its dead
    letters. Times are those of your zone.
    """
    with desk.opened() as world, reading(world.engine) as connection:
        codes = stories.portals_of(connection, kind, key)
        wanted = [code for code in codes if portal in (None, code)]
        chapters = [_chapter(connection, code, kind, key) for code in wanted]
    if as_json:
        desk.emit_each(_document(chapter, kind, key) for chapter in chapters)
        return
    if not chapters:
        elsewhere = f"; known on: {', '.join(codes)}" if codes else ""
        desk.note(f"nothing is known of {kind} {key}{elsewhere}")
    for chapter in chapters:
        _tell(desk, chapter, kind, key)


def _chapter(connection: Connection, code: str, kind: str, key: str) -> Chapter:
    choice = Choice(portal=code, kind=kind, key=key, closed_too=True)
    return Chapter(
        portal=code,
        story=stories.story(connection, code, kind, key),
        letters=dead_letters.letters(connection, choice)[::-1],
        duplicates=duplicates.duplicates(
            connection,
            duplicates.Choice(portal=code, kind=kind, key=key, closed_too=True),
        ),
    )


def _tell(desk: Desk, chapter: Chapter, kind: str, key: str) -> None:
    desk.show(Text(f"{kind} {key}", "bold").append(f" on {chapter.portal}", "not bold"))
    indented = partial(Padding, pad=(0, 0, 0, 2), expand=False)
    desk.show(indented(_of_link(chapter.story.link)), Text())
    past = _timeline(chapter)
    if past.row_count:
        desk.show(Text("What happened", "bold"), indented(past))
    if chapter.story.rows:
        desk.show(Text("What waits", "bold"))
        for row in chapter.story.rows:
            desk.show(indented(_of_row(row, first=chapter.story.rows[0].id)))
            if row.state == RowState.HELD:
                desk.show(Padding(_ways_on(row), (0, 0, 0, 4), expand=False))
    else:
        desk.show(Text("Nothing waits.", "dim"))
    for found in chapter.duplicates:
        if found.closed_at_ms is None:
            desk.show(Text("Duplicate: ", "red").append(in_words(found), "default"))
    for letter in chapter.letters:
        if letter.closed_at_ms is None:
            desk.show(
                Text(f"Dead letter {letter.id} rests: ", "red").append(
                    f"`b24sync replay {letter.id}` tries it again, `b24sync drop {letter.id}` "
                    "closes it.",
                    "default",
                )
            )


def _of_link(link: LinkView | None) -> Text:
    if link is None:
        return Text("The portal has no record for it that is known here.")
    match link.state:
        case "present":
            words = f"Its record on the portal is {link.remote_id}"
        case "deleted":
            words = "Its record on the portal was deleted"
        case "conflict":
            words = (
                f"The portal gave it record {', '.join(link.duplicates)}, which belongs to another "
                "key already: look which of the two is right"
            )
        case state:
            words = f"Its record on the portal is {state}"
    return Text(f"{words}, since {instant(link.updated_at_ms)}.")


def _timeline(chapter: Chapter) -> Table:
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True, style="dim")
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for _, cells in sorted(_events(chapter), key=lambda event: event[0]):
        shown.add_row(*cells)
    return shown


def _events(chapter: Chapter) -> Iterator[tuple[tuple[int, int], tuple[Text, Text, Text]]]:
    """What happened, each with the instant that orders it."""
    for result in chapter.story.results:
        how = f"{result.operation} (row {result.outbox_id}"
        how += f", try {result.attempt}" if result.attempt else ""
        how += f", after {span(result.latency_ms)})"
        words = Text(how)
        if (details := said(result)).plain:
            words.append(" — ").append(details)
        yield (
            (result.finished_at_ms, result.id),
            (Text(instant(result.finished_at_ms)), outcome_text(result.outcome), words),
        )
    for letter in chapter.letters:
        if letter.closed_at_ms is not None:
            became = f"replayed as row {letter.replayed_as}" if letter.replayed_as else "dropped"
            became += f" by {letter.closed_by}" if letter.closed_by else ""
            edits = "; ".join(edit_lines(letter.edits))
            became += f", edited: {edits}" if edits else ""
            yield (
                (letter.closed_at_ms, 0),
                (
                    Text(instant(letter.closed_at_ms)),
                    Text("replayed" if letter.replayed_as else "dropped"),
                    Text(f"dead letter {letter.id}, {became}"),
                ),
            )
    for found in chapter.duplicates:
        told = f"record {found.other_id} beside {found.kept_id}, by {found.found_by}"
        yield (
            (found.found_at_ms, 0),
            (Text(instant(found.found_at_ms)), Text("duplicate", "red"), Text(told)),
        )
        if found.closed_at_ms is not None:
            yield (
                (found.closed_at_ms, 0),
                (
                    Text(instant(found.closed_at_ms)),
                    Text("closed"),
                    Text(f"duplicate {found.id}, record {found.other_id}"),
                ),
            )


def _of_row(row: RowView, *, first: int) -> Text:
    shown = Text(f"row {row.id}  {row.operation}")
    if row.fields:
        more = len(row.fields) - FIELDS_SHOWN
        names = ", ".join(row.fields[:FIELDS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        shown.append(f" of {names}")
    shown.append(f", written {span(row.age_ms)} ago: ").append(_why(row, first=first), "bold")
    if (row.attempts or row.last_error) and not _is_stopped(row):
        tries = counted(row.attempts, "try", "tries")
        shown.append(f" ({tries} so far; last: ").append(complaint(None, row.last_error or "-"))
        shown.append(")")
    return shown


def _is_stopped(row: RowView) -> bool:
    return row.state == RowState.HELD and (row.reason or "").startswith(STOPPED)


def _why(row: RowView, *, first: int) -> str:
    """Why a row waits, and what stands still for it."""
    if not row.stops_lane:
        return _why_alone(row, first=first)
    until = "somebody decides" if row.state == RowState.HELD else "it is known what became of it"
    return f"{_why_alone(row, first=first)}; nothing of its lane is sent until {until}"


def _why_alone(row: RowView, *, first: int) -> str:
    match RowState(row.state):
        case RowState.READY if row.due_in_ms > 0:
            return f"tries again in {span(row.due_in_ms)}"
        case RowState.READY:
            return "ready to be sent" if row.id == first else f"ready, after row {first}"
        case RowState.BATCHED:
            return f"being sent in batch {row.batch_id}"
        case RowState.DOUBT:
            return f"sent, the answer is not known ({row.reason}); {_when_looked_into(row)}"
        case RowState.PARKED:
            return f"behind row {first} of the same entity"
        case RowState.HELD:
            return _why_held(row)


def _when_looked_into(row: RowView) -> str:
    if row.due_in_ms > 0:
        return f"what became of it is looked into in {span(row.due_in_ms)}"
    return "what became of it is looked into now"


def _why_held(row: RowView) -> str:
    if _is_stopped(row) and row.last_error:
        # The whole complaint; the reason may be cut.
        return f"{STOPPED}{' '.join(row.last_error.split()).rstrip('.')}"
    return row.reason or "held by a person"


def _ways_on(row: RowView) -> Table | Text:
    if row.waits_for is None:
        return ways_on(str(row.id))
    words = f"goes on by itself when {row.waits_for} has an id; `b24sync held skip {row.id}` gives it up"
    return Text(words, "dim")


def _document(chapter: Chapter, kind: str, key: str) -> dict[str, object]:
    story = chapter.story
    return {
        "portal": chapter.portal,
        "kind": kind,
        "key": key,
        "link": record(story.link) if story.link is not None else None,
        "results": [record(result) for result in story.results],
        "rows": [record(row) for row in story.rows],
        "dead_letters": [record(letter) for letter in chapter.letters],
        "duplicates": [record(found) for found in chapter.duplicates],
    }
