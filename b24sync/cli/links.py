"""``b24sync links``: which record on the portal each local entity is; brought in, shown, forgotten."""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import click
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import IntegrityError

from b24sync.adoption import Adoption, Conflict, known_records, link_known, rehearse
from b24sync.cli.desk import FAILED, Desk, Refused, as_json, check_portal, confirmed, epilog
from b24sync.cli.layout import NARROW, bar, counted, instant, record, span, table
from b24sync.cli.load import ENDINGS, LISTED
from b24sync.cli.records import BadLine, GoodLine, RecordMapping, from_csv, from_json_records
from b24sync.core.errors import ChangeError
from b24sync.core.kinds import Kind
from b24sync.core.model import LinkState
from b24sync.edge import adopting
from b24sync.edge.adopting import KnownLink, KnownRecord
from b24sync.edge.database import reading, transact
from b24sync.world import DEFAULT_PORTAL, World

USUAL_LIMIT = 50
ID = "id"
REMOTE_ID = "remote_id"

LINES = RecordMapping(
    kind="", key="key", columns={name: name for name in ("kind", ID, REMOTE_ID, "portal")}
)
"""Lines that are links, read as records; `links show --json` writes ``remote_id``."""

UNLINKED = frozenset({LinkState.ABSENT, LinkState.DELETED})
STATE_STYLES: Mapping[str, str] = {
    LinkState.PRESENT: "green",
    LinkState.DOUBT: "magenta",
    LinkState.CONFLICT: "red",
}

Records: TypeAlias = Sequence[KnownRecord]


@click.group()
def links() -> None:
    """Which record on the portal each local entity is.

    The workers learn that by themselves for what they add. Records that were there before are
    brought in with `b24sync links load`, so that they are updated and not made a second time.
    """


@links.command(
    short_help="Link entities to records that are on the portal already.",
    epilog=epilog(
        "b24sync links load contacts.csv --kind contact --key Code --id ID",
        "b24sync links load export.csv --kind company --key '{country}:{name}' --id ID "
        "--delimiter ';'",
        "b24sync links load links.ndjson --portal acme --dry-run",
        exits="0  done; 1  some lines are conflicts, the others were linked; 2  refused, and nothing "
        "was linked; 3  the database cannot be used",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--kind", metavar="K", help="Read records, all of this kind.")
@click.option("--key", metavar="COLUMN", help="The key's column, or a template: '{country}:{id}'.")
@click.option("--id", "column", metavar="COLUMN", help="The column of the id on the portal.")
@click.option(
    "--portal", metavar="CODE", default=DEFAULT_PORTAL, show_default=True, help="Where they are."
)
@click.option("--replace", is_flag=True, help="Also keys that are linked to another id by now.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "ndjson"]),
    help="What the file holds.  [default: by its ending; ndjson for -]",
)
@click.option("--delimiter", default=",", show_default=True, help="What stands between CSV cells.")
@as_json
@click.pass_obj
def load(
    desk: Desk,
    /,
    file: Path,
    *,
    portal: str,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **given: object,
) -> int:
    """Link entities to the records that they are on the portal already, from FILE; `-` reads stdin.

    A file of links has one JSON object a line: kind, key, id. With --kind, --key and --id it has
    records instead: CSV with a header, or one JSON object a line. Every line is checked before the
    first is linked, all in one transaction.

    A key that is linked to another id, and an id that another key holds, are conflicts: listed, and
    not written. With --replace the key gets the id of the file. A link that was deleted, in doubt or
    in conflict is present again; changes that waited for one of these ids go on.
    """
    source = _Source(**given)  # type: ignore[arg-type] # click has read each option as its type
    found = _read(file, source, portal)
    records = _checked(file, found, portal, desk.settings().kinds)
    with desk.opened() as world:
        check_portal(world, portal)
        work = _rehearsed if dry_run else _linked
        told = work(desk, world, portal, records, replace=replace)
    run = _Run(name=file.name, lines=found.lines, is_dry=dry_run, replace=replace)
    _report(desk, told, run, as_json=as_json)
    return FAILED if told.conflicts else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The options that say what the file holds."""

    kind: str | None
    key: str | None
    column: str | None
    form: str | None
    delimiter: str

    def mapping(self, portal: str) -> RecordMapping | None:
        """How records become links; ``None``, the lines are links.

        Raises: click.UsageError for options that do not go together.
        """
        if self.kind is None and self.key is None and self.column is None:
            return None
        if self.kind is None or self.key is None or self.column is None:
            raise click.UsageError("--kind, --key and --id go together")
        mapping = RecordMapping(
            kind=self.kind, key=self.key, portal=portal, columns={ID: self.column}
        )
        try:
            mapping.key_columns  # noqa: B018 - read for its refusal
        except ValueError as error:
            raise click.UsageError(f"--key {self.key!r} is not a template: {error}") from None
        return mapping

    def form_of(self, file: Path) -> str:
        """What the file holds.

        Raises: click.UsageError if that cannot be told, or needs more options.
        """
        form = self.form or ("ndjson" if str(file) == "-" else ENDINGS.get(file.suffix.lower()))
        if form is None:
            raise click.UsageError(f"what does {file} hold? say --format csv or --format ndjson")
        if form == "csv" and self.kind is None:
            raise click.UsageError("CSV holds records: say --kind, --key and --id")
        if len(self.delimiter) != 1:
            raise click.UsageError("--delimiter is one character")
        return form


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Links as a file has them, and the line of each."""

    links: list[tuple[str, str, object]] = field(default_factory=list[tuple[str, str, object]])
    lines: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What a report needs to know of a run."""

    name: str
    lines: Sequence[int]
    is_dry: bool
    replace: bool


def _read(file: Path, source: _Source, portal: str) -> _Found:
    """Everything that the file says, as far as can be seen without checking it.

    Raises: Refused, naming the line, the field and what is wrong.
    """
    mapping = source.mapping(portal)
    chosen = mapping or LINES
    form = source.form_of(file)
    stream = io.StringIO(_text(file), newline="")
    lines = (
        from_csv(stream, chosen, delimiter=source.delimiter)
        if form == "csv"
        else from_json_records(stream, chosen)
    )
    found = _Found()
    try:
        for line in lines:
            if isinstance(line, BadLine):
                raise _refused(file, line)
            found.links.append(_link_of(line, mapping) if mapping else _said(file, line, portal))
            found.lines.append(line.line)
    except ChangeError as error:
        raise _refused(file, error) from None
    return found


def _text(file: Path) -> str:
    """All of a file; bytes that are not UTF-8 are kept, so that their line can be named.

    Raises: Refused.
    """
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from None
    return raw.decode("utf-8-sig", errors="surrogateescape")


def _said(file: Path, line: GoodLine, portal: str) -> tuple[str, str, object]:
    """The link that a line says itself.

    Raises: Refused for a line of another portal, or without a kind.
    """
    fields = line.change.fields
    if "kind" not in fields:
        problem = "is missing; records of other names need --kind, --key and --id"
        raise _refused(file, BadLine(line=line.line, field="kind", problem=problem))
    if fields.get("portal", portal) != portal:
        problem = f"is {fields['portal']}; load the links of one portal at a time, with --portal"
        raise _refused(file, BadLine(line=line.line, field="portal", problem=problem))
    return str(fields["kind"]), line.change.key, fields.get(ID, fields.get(REMOTE_ID))


def _link_of(line: GoodLine, mapping: RecordMapping) -> tuple[str, str, object]:
    return mapping.kind, line.change.key, line.change.fields.get(ID)


def _checked(file: Path, found: _Found, portal: str, kinds: Mapping[str, Kind]) -> Records:
    """The links of a file.

    Raises: Refused, naming the line, the field and what is wrong.
    """
    try:
        return known_records(found.links, portal=portal, kinds=kinds)
    except ChangeError as error:
        bad = BadLine(
            line=found.lines[error.position or 0],
            entity=error.entity,
            field=error.field,
            problem=error.problem,
        )
        raise _refused(file, bad) from None


def _refused(file: Path, bad: object) -> Refused:
    return Refused(f"{file.name}: {bad}; nothing was linked")


def _linked(desk: Desk, world: World, portal: str, records: Records, *, replace: bool) -> Adoption:
    """All links in one transaction.

    Raises: Refused if a worker gave one of these ids to another key at the same moment.
    """
    with bar(desk.err, unit="links") as progress:
        work = partial(
            link_known, code=portal, records=records, replace=replace, follow=_Followed(progress)
        )
        try:
            return transact(world.engine, work)
        except IntegrityError:
            raise Refused(
                "a worker linked one of these ids at the same moment; nothing was linked, try again"
            ) from None


def _rehearsed(
    desk: Desk, world: World, portal: str, records: Records, *, replace: bool
) -> Adoption:
    with bar(desk.err, unit="links") as progress, reading(world.engine) as connection:
        follow = _Followed(progress)
        return rehearse(connection, portal, records, replace=replace, follow=follow)


class _Followed:
    """A bar for each thing that is being done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, doing: str, done: int, count: int) -> None:
        if doing not in self._tasks:
            self._tasks[doing] = self._progress.add_task(doing)
        self._progress.update(self._tasks[doing], completed=done, total=count)


def _report(desk: Desk, told: Adoption, run: _Run, *, as_json: bool) -> None:
    if as_json:
        desk.emit(
            {
                "adopted": told.adopted,
                "replaced": told.replaced,
                "unchanged": told.unchanged,
                "released": told.released,
                "dry_run": run.is_dry,
                "conflicts": [_document(conflict, run.lines) for conflict in told.conflicts],
            }
        )
        return
    for conflict in told.conflicts[:LISTED]:
        desk.note(f"{run.name}: {_words(conflict, run.lines)}", style="yellow")
    if len(told.conflicts) > LISTED:
        more = counted(len(told.conflicts) - LISTED, "conflict")
        desk.note(f"and {more} more; --json lists all", style="yellow")
    if not run.replace and any(_is_replaceable(conflict) for conflict in told.conflicts):
        desk.note("--replace gives keys that are linked to another id the one of the file")
    would = " would be" if run.is_dry else ""
    shown = f"{counted(told.adopted, 'link')}{would} adopted, {told.replaced} replaced, "
    shown += f"{told.unchanged} unchanged, {counted(len(told.conflicts), 'conflict')}"
    desk.show(Text(shown, "bold"))
    if told.released:
        go = "goes" if told.released == 1 else "go"
        desk.note(f"{counted(told.released, 'change')} that waited for these ids {go} on")


def _is_replaceable(conflict: Conflict) -> bool:
    return conflict.known_id is not None and (conflict.held_by, conflict.earlier) == (None, None)


def _words(conflict: Conflict, lines: Sequence[int]) -> str:
    earlier = "" if conflict.earlier is None else f" (line {lines[conflict.earlier]})"
    return f"line {lines[conflict.position]}: {conflict}{earlier}"


def _document(conflict: Conflict, lines: Sequence[int]) -> dict[str, object]:
    return {
        "line": lines[conflict.position],
        "kind": conflict.kind,
        "key": conflict.key,
        "id": conflict.remote_id,
        "known_id": conflict.known_id,
        "held_by": conflict.held_by,
        "earlier_line": None if conflict.earlier is None else lines[conflict.earlier],
    }


@links.command(
    short_help="List links, or show one.",
    epilog=epilog(
        "b24sync links show contact c-17",
        "b24sync links show --state conflict",
        "b24sync links show --state present --limit 1000000 --json > links.ndjson",
        exits="0  shown, be it that there is none; 2  wrong usage; 3  the database cannot be used",
    ),
)
@click.argument("kind", required=False)
@click.argument("key", required=False)
@click.option("--portal", metavar="CODE", help="Only of this portal.")
@click.option(
    "--state",
    type=click.Choice([str(state) for state in LinkState]),
    help="Only in this state.",
)
@click.option("--limit", type=click.IntRange(1), default=USUAL_LIMIT, show_default=True)
@as_json
@click.pass_obj
def show(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    kind: str | None,
    key: str | None,
    *,
    portal: str | None,
    state: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List which record on the portal each entity is, by kind and key; of one KIND, or one KEY of it.

    present: the record is known. absent: it was forgotten, or is not there; the next upsert adds
    one. deleted: the same, after a delete. doubt: it was added, and its id is not known. conflict:
    the portal gave it ids that belong to another key; they are listed. Entities in doubt or in
    conflict are sent no more until their record is said with `b24sync links load`.
    """
    with desk.opened() as world, reading(world.engine) as connection:
        found = adopting.known_links(
            connection, portal=portal, kind=kind, key=key, state=state, limit=limit + 1
        )
    shown = found[:limit]
    if as_json:
        desk.emit_each(record(view) for view in shown)
    elif not shown:
        desk.note("no links that fit")
    else:
        desk.show(_table(shown, is_narrow=desk.out.width < NARROW))
    if len(found) > limit:
        desk.note(f"the first {counted(limit, 'link')}; --limit shows more")


def _table(found: Sequence[KnownLink], *, is_narrow: bool) -> Table:
    has_portals = len({view.portal for view in found}) > 1
    shown = table()
    if has_portals:
        shown.add_column("portal", overflow="fold")
    shown.add_column("entity", overflow="fold")
    shown.add_column("id", justify="right", no_wrap=True)
    shown.add_column("state", no_wrap=True)
    shown.add_column("age" if is_narrow else "since", no_wrap=True)
    shown.add_column("said", overflow="fold")
    for view in found:
        shown.add_row(
            *([Text(view.portal)] if has_portals else []),
            Text(f"{view.kind} {view.key}"),
            Text(view.remote_id or "-"),
            Text(view.state, STATE_STYLES.get(view.state, "")),
            Text(span(view.age_ms) if is_narrow else instant(view.updated_at_ms)),
            Text(_further(view)),
        )
    return shown


def _further(view: KnownLink) -> str:
    """What the further ids of an entity are."""
    if not view.duplicates:
        return ""
    ids = ", ".join(view.duplicates)
    if view.state == LinkState.CONFLICT:
        return f"the portal gave it {ids}"
    return f"also record {ids}, see b24sync duplicates list"


@links.command(
    short_help="Forget which record an entity is.",
    epilog=epilog(
        "b24sync links forget contact c-17",
        "b24sync links forget contact c-17 --portal acme --yes",
        exits="0  forgotten; 1  there was nothing to forget; 2  not confirmed; "
        "3  the database cannot be used",
    ),
)
@click.argument("kind")
@click.argument("key")
@click.option(
    "--portal", metavar="CODE", default=DEFAULT_PORTAL, show_default=True, help="Where it is."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def forget(desk: Desk, kind: str, key: str, *, portal: str, yes: bool, as_json: bool) -> int:
    """Forget which record the entity KEY of a KIND is; the record stays on the portal as it is.

    The next upsert then adds a new record, unless the policy `match` finds one; an update or a
    delete is refused. To link the entity to another record, use `b24sync links load --replace`.
    """
    with desk.opened() as world:
        with reading(world.engine) as connection:
            found = adopting.known_links(connection, portal=portal, kind=kind, key=key)
        linked = next((view for view in found if view.state not in UNLINKED), None)
        done = False
        if linked is not None:
            confirmed(_question(linked), is_agreed=yes)
            work = partial(adopting.forget, code=portal, kind=kind, key=key)
            done = transact(world.engine, work)
    if as_json:
        remote_id = None if linked is None else linked.remote_id
        desk.emit({"portal": portal, "kind": kind, "key": key, "forgotten": done, "id": remote_id})
    elif done:
        desk.show(Text(f"{kind} {key} is linked to no record of {portal} any more", "bold"))
    else:
        desk.note(f"{kind} {key} is linked to no record of {portal}", style="yellow")
    return 0 if done else FAILED


def _question(linked: KnownLink) -> str:
    entity = f"{linked.kind} {linked.key}"
    if linked.remote_id is None:
        return f"Forget that the record of {entity} is unclear ({linked.state})? The next upsert adds one."
    return (
        f"Forget that {entity} is record {linked.remote_id} of {linked.portal}? That record stays, "
        "and the next upsert adds a second one."
    )
