"""``b24sync results``: what became of changes, newest first."""

from collections.abc import Mapping

import click
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import Desk, as_json, epilog
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
from b24sync.core.model import ResultOutcome
from b24sync.edge import stories
from b24sync.edge.database import reading
from b24sync.edge.deciding import PERSON
from b24sync.edge.stories import TROUBLE, ResultChoice, ResultView

USUAL_LIMIT = 50

SAID_OF: Mapping[str, str] = {
    ResultOutcome.UNCHANGED: "nothing had to be sent",
    ResultOutcome.BEGUN: "made without what refers back to it; that follows",
}
"""What an outcome means that comes without words of the portal."""


@click.command(
    short_help="Show what became of changes.",
    epilog=epilog(
        "b24sync results --failed --since 2h",
        "b24sync results --kind contact --key c-17",
        "b24sync results --outcome unknown --json | jq -r .key",
        exits="0  shown; 2  wrong usage; 3  the database cannot be used",
    ),
)
@click.option("--portal", metavar="CODE", help="Only this portal.")
@click.option("--kind", metavar="K", help="Only this kind.")
@click.option("--key", metavar="KEY", help="Only this key.")
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    type=click.Choice([str(outcome) for outcome in ResultOutcome]),
    help="Only this outcome; repeatable.",
)
@click.option("--failed", is_flag=True, help="Only failed, stopped, expired, retried and unknown.")
@click.option("--since", type=read_span, metavar="SPAN", help="Only of the last 90s, 30m, 2h, 7d.")
@click.option("--limit", type=click.IntRange(1), default=USUAL_LIMIT, show_default=True)
@as_json
@click.pass_obj
def results(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    *,
    portal: str | None,
    kind: str | None,
    key: str | None,
    outcomes: tuple[str, ...],
    failed: bool,
    since: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what became of changes, newest first: one line for each judgement of the portal.

    A change that was tried three times has three lines; its last one is final. Times are those of
    your zone. `different` is a warning and no failure: the portal did it, and the record that was
    read afterwards is not as it was said; --outcome different lists these.
    """
    choice = ResultChoice(
        portal=portal,
        kind=kind,
        key=key,
        outcomes=tuple(str(outcome) for outcome in TROUBLE) if failed else outcomes,
        since_ms=since,
    )
    with desk.opened() as world, reading(world.engine) as connection:
        found = stories.results(connection, choice, limit=limit + 1)
    shown = found[:limit]
    if as_json:
        desk.emit_each(record(view) for view in shown)
    elif not shown:
        desk.note("no results that fit; `b24sync status` shows what waits")
    else:
        desk.show(_table(shown, width=desk.out.width))
    if len(found) > limit and not as_json:
        desk.note(f"the newest {counted(limit, 'result')}; --limit shows more")


def _table(found: tuple[ResultView, ...], *, width: int) -> Table:
    is_narrow = width < NARROW
    has_portals = len({view.portal for view in found}) > 1
    shown = table()
    shown.add_column("age" if is_narrow else "at", no_wrap=True)
    if not is_narrow:
        shown.add_column("age", justify="right", no_wrap=True)
    if has_portals:
        shown.add_column("portal", overflow="fold")
    shown.add_column("entity", overflow="fold")
    shown.add_column("operation", no_wrap=True)
    shown.add_column("outcome", no_wrap=True)
    if not is_narrow:
        shown.add_column("try", justify="right")
        shown.add_column("after", justify="right", no_wrap=True)
    shown.add_column("said", overflow="fold")
    for view in found:
        when = [Text(span(view.age_ms))]
        if not is_narrow:
            when.insert(0, Text(instant(view.finished_at_ms)))
        cells = [*when, *([Text(view.portal)] if has_portals else [])]
        cells += [
            Text(f"{view.kind} {view.key}"),
            Text(view.operation),
            outcome_text(view.outcome),
        ]
        if not is_narrow:
            cells += [Text(str(view.attempt)), Text(span(view.latency_ms))]
        shown.add_row(*cells, said(view))
    return shown


def said(view: ResultView) -> Text:
    """What a result has to tell besides its outcome: the complaint, the id, the row it went with."""
    shown = complaint(view.error_code, view.error_text)
    if view.error_class == PERSON:
        shown = _by_a_person(view, shown)
    elif view.outcome == ResultOutcome.DIFFERENT:
        shown = Text("not as it was said: ").append(shown)
    elif not shown.plain:
        shown = Text(SAID_OF.get(view.outcome, ""), "dim")
    note = ""
    if view.merged_into is not None:
        note = f"went with row {view.merged_into}"
    elif view.remote_id is not None:
        note = f"id {view.remote_id}"
    if note:
        shown.append(f"; {note}" if shown.plain else note, "dim not bold")
    return shown


def _by_a_person(view: ResultView, complained: Text) -> Text:
    shown = Text("done by hand" if view.outcome == ResultOutcome.APPLIED else "by a person")
    return shown.append(": ").append(complained) if complained.plain else shown
