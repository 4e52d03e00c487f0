"""``b24sync load``: changes from a file into the outbox, all in one transaction."""

import io
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from b24sync.cli.desk import FAILED, Desk, Refused, as_json, epilog, is_terminal
from b24sync.cli.layout import counted, table
from b24sync.cli.records import (
    BadLine,
    GoodLine,
    Line,
    RecordMapping,
    changes_of,
    from_csv,
    from_json_records,
)
from b24sync.core.changes import checked
from b24sync.core.errors import ChangeError
from b24sync.core.model import Change
from b24sync.edge import portals
from b24sync.edge.database import reading, writing
from b24sync.outbox import Outbox
from b24sync.settings import Settings
from b24sync.world import DEFAULT_PORTAL

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ENDINGS = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson"}
LISTED = 20
"""Bad lines that are shown one by one; the others are counted."""


@dataclass(slots=True)
class Loading:
    """What a run has seen so far.

    ``is_checking``: changes are checked here, because nobody does behind it, or because a bad one is
    to be passed over; otherwise the outbox checks them, once.
    """

    settings: Settings
    name: str
    is_skipping: bool
    is_checking: bool
    line: int = 0
    loaded: int = 0
    bad: int = 0
    listed: list[BadLine] = field(default_factory=list[BadLine])
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    portals: set[str] = field(default_factory=set[str])

    def good(self, lines: Iterator[Line]) -> Iterator[Change]:
        """The changes among the lines; the first bad one ends it, unless they are skipped.

        Raises: Refused, naming the line, the field and what is wrong.
        """
        for line in lines:
            self.line = line.line
            bad = self._bad(line)
            if bad is None and isinstance(line, GoodLine):
                self.loaded += 1
                self.by_kind[line.change.kind, line.change.operation] += 1
                self.portals.add(line.change.portal)
                yield line.change
            elif bad is not None:
                self._note(bad)

    def blame(self, error: ChangeError) -> BadLine:
        """The line that was read last, as the one at fault."""
        return BadLine(
            line=self.line, entity=error.entity, field=error.field, problem=error.problem
        )

    def refuse(self, bad: BadLine) -> NoReturn:
        """End the run.

        Raises: Refused.
        """
        raise Refused(f"{self.name}: {bad}; nothing was loaded, --skip-bad loads the rest")

    def _bad(self, line: Line) -> BadLine | None:
        if isinstance(line, BadLine):
            return line
        if not self.is_checking:
            return None
        try:
            checked(line.change, self.settings.kinds)
        except ChangeError as error:
            return self.blame(error)
        return None

    def _note(self, bad: BadLine) -> None:
        if not self.is_skipping:
            self.refuse(bad)
        self.bad += 1
        if len(self.listed) < LISTED:
            self.listed.append(bad)


@click.command(
    short_help="Write changes from a file into the outbox.",
    epilog=epilog(
        "b24sync load changes.ndjson",
        "b24sync load - < changes.ndjson",
        "b24sync load firms.csv --kind company --key id --field title=name",
        "b24sync load schools.csv --kind company --key '{country}:{name}'",
        "b24sync load gone.csv --kind contact --key id --operation delete",
        exits="0  all were loaded; 1  bad lines were skipped; 2  refused, and nothing was loaded; "
        "3  the database cannot be used",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--kind", metavar="K", help="Read records, and make changes of this kind of them.")
@click.option("--key", metavar="COLUMN", help="The key's column, or a template: '{country}:{id}'.")
@click.option(
    "--field",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="A field and its column; repeatable. Without any, every column under its own name.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A field with the same value in every change; repeatable.",
)
@click.option(
    "--operation",
    type=click.Choice(["upsert", "add", "update", "delete"]),
    help="What is done with records.  [default: upsert]",
)
@click.option(
    "--portal", default=DEFAULT_PORTAL, show_default=True, help="For changes that name none."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "ndjson"]),
    help="What the file holds.  [default: by its ending; ndjson for -]",
)
@click.option("--delimiter", default=",", show_default=True, help="What stands between CSV cells.")
@click.option("--empty-clears", is_flag=True, help="Send empty CSV cells, which clears the fields.")
@click.option("--skip-bad", is_flag=True, help="Load the good lines and list the bad ones.")
@click.option("--dry-run", is_flag=True, help="Check every line and write nothing.")
@as_json
@click.pass_obj
def load(desk: Desk, /, file: Path, *, as_json: bool, dry_run: bool, **given: object) -> int:
    """Write changes from FILE into the outbox, all or none; `-` reads stdin.

    A file of changes has one JSON object a line: kind, key, operation, and as needed fields, params,
    portal, method, priority, due_at, expires_at, mergeable, headers. With --kind and --key it has
    records instead: CSV with a header, or one JSON object a line.

    Every line is checked as `enqueue` checks; the first bad one stops the run, with its number and
    field. Empty CSV cells are left out. A plain key column is not sent as a field by itself.
    """
    settings = desk.settings()
    options = _Options(**given)  # type: ignore[arg-type] # click has read each option as its type
    run = Loading(
        settings=settings,
        name=file.name,
        is_skipping=options.skip_bad,
        is_checking=options.skip_bad or dry_run,
    )
    mapping, form = _mapping(options), _form(file, options)
    with _stream(desk, file) as stream:
        lines = _lines(stream, form, mapping, options)
        if dry_run:
            for _ in run.good(lines):
                pass
        else:
            _write(desk, run, lines)
    _report(desk, run, is_dry=dry_run, as_json=as_json)
    return FAILED if run.bad else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options that say what the file holds."""

    kind: str | None
    key: str | None
    columns: tuple[str, ...]
    constants: tuple[str, ...]
    operation: str | None
    portal: str
    form: str | None
    delimiter: str
    empty_clears: bool
    skip_bad: bool


def _mapping(options: _Options) -> RecordMapping | None:
    """How records become changes; ``None``, the lines are changes.

    Raises: click.UsageError for options that do not go together.
    """
    if options.kind is None and options.key is None:
        if options.columns or options.constants or options.operation or options.empty_clears:
            raise click.UsageError("--field, --set and the like go with --kind and --key")
        return None
    if options.kind is None or options.key is None:
        raise click.UsageError("--kind and --key go together")
    mapping = RecordMapping(
        kind=options.kind,
        key=options.key,
        operation=options.operation or "upsert",
        portal=options.portal,
        columns=_pairs("--field", options.columns),
        constants=_pairs("--set", options.constants),
        empty_clears=options.empty_clears,
    )
    try:
        mapping.key_columns  # noqa: B018 - read for its refusal
    except ValueError as error:
        raise click.UsageError(f"--key {options.key!r} is not a template: {error}") from None
    return mapping


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.UsageError(f"{option} {text!r}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def _form(file: Path, options: _Options) -> str:
    form = options.form or ("ndjson" if str(file) == "-" else ENDINGS.get(file.suffix.lower()))
    if form is None:
        raise click.UsageError(f"what does {file} hold? say --format csv or --format ndjson")
    if form == "csv" and options.kind is None:
        raise click.UsageError("CSV holds records: say --kind and --key")
    if len(options.delimiter) != 1:
        raise click.UsageError("--delimiter is one character")
    return form


def _lines(
    stream: io.TextIOWrapper, form: str, mapping: RecordMapping | None, options: _Options
) -> Iterator[Line]:
    if mapping is None:
        return changes_of(stream, options.portal)
    if form == "csv":
        return from_csv(stream, mapping, delimiter=options.delimiter)
    return from_json_records(stream, mapping)


@contextmanager
def _stream(desk: Desk, file: Path) -> Generator[io.TextIOWrapper]:
    """The file as text, with a bar that follows what was read of it."""
    if str(file) == "-":
        # Undecodable bytes are kept, so that the line that holds them can be named.
        yield io.TextIOWrapper(
            sys.stdin.buffer, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        return
    try:
        raw = file.open("rb", buffering=0)
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from None
    with raw, _byte_bar(desk) as progress:
        task = progress.add_task(f"reading {file.name}", total=file.stat().st_size or None)
        counting = _Counting(raw, lambda done: progress.update(task, completed=done))
        buffered = io.BufferedReader(counting, 256 * 1024)
        yield io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Counting(io.RawIOBase):
    """A file that tells how far it was read."""

    def __init__(self, raw: io.FileIO, tell: Callable[[int], object]) -> None:
        super().__init__()
        self._raw = raw
        self._tell = tell
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        count = self._raw.readinto(buffer)
        self._done += count or 0
        self._tell(self._done)
        return count


def _byte_bar(desk: Desk) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=desk.err,
        transient=True,
        disable=not is_terminal(desk.err),
        expand=True,
    )


def _write(desk: Desk, run: Loading, lines: Iterator[Line]) -> None:
    """All changes in one transaction, and a word about portals that nobody has added yet."""
    with desk.opened() as world:
        outbox = Outbox(kinds=run.settings.kinds, schema=run.settings.schema)
        with writing(world.engine) as connection:
            try:
                outbox.enqueue_many(connection, run.good(lines))
            except ChangeError as error:
                if run.line == 0:
                    raise
                run.refuse(run.blame(error))
        with reading(world.engine) as connection:
            unknown = run.portals - set(portals.codes(connection))
    for code in sorted(unknown):
        desk.note(
            f"there is no portal {code!r} yet, so its changes wait: `b24sync portal add {code}`",
            style="yellow",
        )


def _report(desk: Desk, run: Loading, *, is_dry: bool, as_json: bool) -> None:
    if as_json:
        counts = [
            {"kind": kind, "operation": operation, "n": n}
            for (kind, operation), n in sorted(run.by_kind.items())
        ]
        bad = [
            {"line": b.line, "entity": b.entity, "field": b.field, "problem": b.problem}
            for b in run.listed
        ]
        document = {"loaded": run.loaded, "dry_run": is_dry, "bad": run.bad, "changes": counts}
        desk.emit(document | {"bad_lines": bad})
        return
    for bad_line in run.listed:
        desk.note(f"{run.name}: {bad_line}", style="yellow")
    if run.bad > len(run.listed):
        desk.note(f"and {counted(run.bad - len(run.listed), 'bad line')} more", style="yellow")
    if run.by_kind:
        shown = table()
        shown.add_column("kind")
        shown.add_column("operation")
        shown.add_column("changes", justify="right")
        for (kind, operation), n in sorted(run.by_kind.items()):
            shown.add_row(kind, operation, f"{n:,}".replace(",", " "))
        desk.show(shown, Text())
    done = "would be loaded" if is_dry else "loaded"
    skipped = f", {counted(run.bad, 'bad line')} skipped" if run.bad else ""
    desk.show(Text(f"{counted(run.loaded, 'change')} {done}{skipped}", "bold"))
    if run.loaded and not is_dry:
        desk.note("next: b24sync sync, or a running worker takes them by itself")
