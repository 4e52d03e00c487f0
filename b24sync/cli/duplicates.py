"""``b24sync duplicates``: records beside an entity's own, what to do about them, and that it is done."""

from functools import partial

import click
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import FAILED, Desk, as_json, check_portal, confirmed, epilog
from b24sync.cli.layout import NARROW, counted, record, span, table
from b24sync.edge import duplicates as edge
from b24sync.edge.database import reading, transact
from b24sync.edge.duplicates import Choice, Duplicate

USUAL_LIMIT = 50

WHAT_TO_DO = (
    "On the portal merge the other record into the one that is kept, or delete it; then "
    "`b24sync duplicates close ID`. What an audit does not find any more it closes itself."
)


def in_words(found: Duplicate) -> str:
    """One duplicate, and what to do about it."""
    return (
        f"record {found.other_id} is a second one beside {found.kept_id}: merge or delete it on the "
        f"portal, then `b24sync duplicates close {found.id}`."
    )


@click.group()
def duplicates() -> None:
    """Records on the portal that an entity has beside its own.

    A look-up for a lost answer finds several, an answer comes after the change was said again, or
    an audit finds a marker twice (`b24sync audit`). Nothing is deleted by itself.
    """


@duplicates.command(
    "list",
    short_help="List duplicates, and what to do.",
    epilog=epilog(
        "b24sync duplicates list --portal acme",
        "b24sync duplicates list --json | jq -r '[.kind, .kept_id, .other_id] | @tsv'",
        exits="0  shown, be it that there are none; 2  no such portal; 3  the database cannot be used",
    ),
)
@click.option("--portal", metavar="CODE", help="Only of this portal.")
@click.option("--kind", metavar="K", help="Only of this kind.")
@click.option("--closed", is_flag=True, help="Also those that were dealt with.")
@click.option("--limit", type=click.IntRange(1), default=USUAL_LIMIT, show_default=True)
@as_json
@click.pass_obj
def list_duplicates(
    desk: Desk,
    *,
    portal: str | None,
    kind: str | None,
    closed: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List records that an entity has beside its own, the oldest first.

    kept: the record that changes go to. other: the one that is too many. found by: a look-up for a
    lost answer, a late answer, or an audit.
    """
    choice = Choice(portal=portal, kind=kind, closed_too=closed)
    with desk.opened() as world:
        check_portal(world, portal)
        with reading(world.engine) as connection:
            found = edge.duplicates(connection, choice, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        desk.emit_each(record(one) for one in shown)
    elif not shown:
        desk.show(Text("no duplicates", "green"))
    else:
        desk.show(_table(shown, is_narrow=desk.out.width < NARROW), Text(), Text(WHAT_TO_DO))
    if len(found) > limit and not as_json:
        desk.note(f"the first {counted(limit, 'duplicate')}; --limit shows more")


def _table(found: tuple[Duplicate, ...], *, is_narrow: bool) -> Table:
    shown = table()
    shown.add_column("id", justify="right", no_wrap=True)
    shown.add_column("age", justify="right", no_wrap=True)
    if not is_narrow:
        shown.add_column("portal", overflow="fold")
    shown.add_column("entity", overflow="fold")
    shown.add_column("kept", justify="right", no_wrap=True)
    shown.add_column("other", justify="right", no_wrap=True)
    shown.add_column("found by", no_wrap=True)
    for one in found:
        by = Text(one.found_by)
        if one.closed_at_ms is not None:
            by.append("  (closed)", "dim")
        cells = [Text(str(one.id), "bold"), Text(span(one.age_ms))]
        cells += [] if is_narrow else [Text(one.portal)]
        cells += [Text(f"{one.kind} {one.key}"), Text(one.kept_id), Text(one.other_id, "red"), by]
        shown.add_row(*cells)
    return shown


@duplicates.command(
    short_help="Say that duplicates were dealt with.",
    epilog=epilog(
        "b24sync duplicates close 3 4",
        "b24sync duplicates close $(b24sync duplicates list --kind lead --json | jq .id) --yes",
        exits="0  done; 1  some of them are closed or unknown; 2  not confirmed; "
        "3  the database cannot be used",
    ),
)
@click.argument("ids", nargs=-1, type=int, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def close(desk: Desk, ids: tuple[int, ...], *, yes: bool, as_json: bool) -> int:
    """Close the duplicates IDS: the other records were merged or deleted, or may stay.

    One that is still there is not told of again: that it stays is your decision.
    """
    confirmed(f"Close {counted(len(ids), 'duplicate')} as dealt with on the portal?", is_agreed=yes)
    with desk.opened() as world:
        done = transact(world.engine, partial(edge.close, ids=ids))
    left = [number for number in ids if number not in done]
    if as_json:
        desk.emit({"closed": done, "closed_or_unknown": left})
        return FAILED if left else 0
    for number in left:
        desk.note(f"duplicate {number} is closed already, or there is none", style="yellow")
    desk.show(Text(f"{counted(len(done), 'duplicate')} closed", "bold"))
    return FAILED if left else 0
