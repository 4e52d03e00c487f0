"""Files become changes, one line or record at a time, in constant memory.

Two shapes are read: lines that are changes themselves (NDJSON), and records (CSV by its header, or
NDJSON objects) that a ``Mapping`` turns into changes. What cannot be one is a ``BadLine`` with the
number of its line, the field and what is wrong; reading goes on behind it.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from string import Formatter
from typing import IO, TypeAlias

from b24sync.core.changes import MAX_CHANGE_BYTES
from b24sync.core.errors import ChangeError
from b24sync.core.model import Change
from b24sync.core.refs import is_list, is_mapping

TEXTS = frozenset({"kind", "key", "operation", "portal", "method"})
MAPPINGS = frozenset({"fields", "params", "headers"})
INSTANTS = frozenset({"due_at", "expires_at"})
MEMBERS = TEXTS | MAPPINGS | INSTANTS | {"priority", "mergeable"}
NEEDED = ("kind", "key", "operation")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is no change, and why."""

    line: int
    field: str
    problem: str
    entity: str = ""

    def __str__(self) -> str:
        """What is wrong, without the name of the file."""
        about = f"{self.entity}: " if self.entity else ""
        return f"line {self.line}: {about}{self.field}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodLine:
    """A line that is a change, as far as can be seen without checking it."""

    line: int
    change: Change


Line: TypeAlias = GoodLine | BadLine


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMapping:
    """How a record becomes a change.

    Shape: ``key`` is the name of a column or a template such as ``{code}:{name}``; ``columns`` are
    field to column, and none means every column under its own name, except the one that is the
    key; ``constants`` are field to text. ``empty_clears``: an empty cell is sent, to clear.
    """

    kind: str
    key: str
    operation: str = "upsert"
    portal: str = "default"
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    constants: Mapping[str, str] = field(default_factory=dict[str, str])
    empty_clears: bool = False

    @property
    def is_template(self) -> bool:
        """Whether the key is made of several columns or of text beside one."""
        return "{" in self.key

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns that the key is made of.

        Raises: ValueError for a template that is none.
        """
        if not self.is_template:
            return (self.key,)
        names = [name for _, name, _, _ in Formatter().parse(self.key) if name is not None]
        if not all(names):
            raise ValueError("every pair of braces in it names a column")
        return tuple(names)


class _Unfit(Exception):  # noqa: N818 - a signal inside this module, not an error
    def __init__(self, name: str, problem: str, entity: str = "") -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem
        self.entity = entity


def changes_of(stream: IO[str], portal: str) -> Iterator[Line]:
    """The changes of an NDJSON stream; ``portal`` is that of lines that name none.

    Raises: nothing; blank lines are passed over.
    """
    for number, text in enumerate(stream, start=1):
        if text.strip():
            try:
                yield GoodLine(line=number, change=_change(_object(text), portal))
            except _Unfit as bad:
                yield _bad(number, bad)


def from_json_records(stream: IO[str], mapping: RecordMapping) -> Iterator[Line]:
    """The changes that the objects of an NDJSON stream become.

    Raises: nothing; blank lines are passed over.
    """
    for number, text in enumerate(stream, start=1):
        if text.strip():
            try:
                yield GoodLine(line=number, change=_mapped(_object(text), mapping))
            except _Unfit as bad:
                yield _bad(number, bad)


def from_csv(stream: IO[str], mapping: RecordMapping, *, delimiter: str = ",") -> Iterator[Line]:
    """The changes that the records of a CSV stream become; its first line names the columns.

    Shape: a record over several lines counts by its last one.
    Raises: ChangeError for a header that lacks a column of the mapping or has one twice.
    """
    csv.field_size_limit(MAX_CHANGE_BYTES)
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    header = _header(reader, mapping)
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if cells:
                yield GoodLine(line=reader.line_num, change=_from_cells(cells, header, mapping))
        except csv.Error as error:
            problem = f"is not CSV: {error}"
            yield BadLine(line=reader.line_num, field="record", problem=problem)
        except _Unfit as bad:
            yield _bad(reader.line_num, bad)


def _bad(line: int, bad: _Unfit) -> BadLine:
    return BadLine(line=line, field=bad.name, problem=bad.problem, entity=bad.entity)


def _object(text: str) -> Mapping[str, object]:
    if not _is_utf8(text):
        raise _Unfit("line", "is not UTF-8; save the file as UTF-8")
    try:
        value: object = json.loads(text, parse_float=Decimal)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Unfit("line", f"is not JSON: {error}") from None
    if not is_mapping(value):
        raise _Unfit("line", "is not a JSON object")
    return value


def _is_utf8(text: str) -> bool:
    """Bytes that could not be decoded stand in the text as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _change(value: Mapping[str, object], portal: str) -> Change:
    unknown = sorted(set(value) - MEMBERS)
    if unknown:
        raise _Unfit(unknown[0], f"is unknown; known are {', '.join(sorted(MEMBERS))}")
    for name in NEEDED:
        if name not in value:
            raise _Unfit(name, "is missing; records of other names need --kind and --key")
    given = {name: _member(name, item) for name, item in value.items() if item is not None}
    return Change(**({"portal": portal} | given))  # type: ignore[arg-type] # each was read as its field's type


def _member(name: str, value: object) -> object:
    if name in TEXTS and not isinstance(value, str):
        raise _Unfit(name, f"text is needed, not {_sort(value)}")
    if name in MAPPINGS and not is_mapping(value):
        raise _Unfit(name, f"an object is needed, not {_sort(value)}")
    if name == "priority" and (isinstance(value, bool) or not isinstance(value, int)):
        raise _Unfit(name, f"a whole number is needed, not {_sort(value)}")
    if name == "mergeable" and not isinstance(value, bool):
        raise _Unfit(name, f"true or false is needed, not {_sort(value)}")
    return _instant(name, value) if name in INSTANTS else value


def _instant(name: str, value: object) -> datetime:
    try:
        at = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise _Unfit(name, "is no instant; write e.g. 2030-01-31T12:00:00+00:00") from None
    if at.tzinfo is None:
        raise _Unfit(name, "has no zone; write e.g. 2030-01-31T12:00:00+00:00")
    return at


def _sort(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if is_mapping(value):
        return "an object"
    if is_list(value):
        return "a list"
    return "text" if isinstance(value, str) else "a number"


def _header(reader: "Iterator[list[str]]", mapping: RecordMapping) -> tuple[str, ...]:
    try:
        header = tuple(next(reader, ()))
    except csv.Error as error:
        raise ChangeError("header", f"is not CSV: {error}") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ChangeError("header", f"the column {twice[0]!r} is there twice")
    for name in (*mapping.key_columns, *mapping.columns.values()):
        if name not in header:
            there = ", ".join(header) or "empty"
            raise ChangeError("header", f"there is no column {name!r}; there are: {there}")
    return header


def _from_cells(cells: list[str], header: tuple[str, ...], mapping: RecordMapping) -> Change:
    if len(cells) != len(header):
        raise _Unfit("record", f"{len(cells)} cells; the header has {len(header)}")
    for name, cell in zip(header, cells, strict=True):
        if not _is_utf8(cell):
            raise _Unfit(name, "is not UTF-8; save the file as UTF-8")
    record = {
        name: cell
        for name, cell in zip(header, cells, strict=True)
        if cell or mapping.empty_clears or name in mapping.key_columns
    }
    return _mapped(record, mapping)


def _mapped(record: Mapping[str, object], mapping: RecordMapping) -> Change:
    key = _key(record, mapping)
    return Change(
        kind=mapping.kind,
        key=key,
        operation=mapping.operation,
        fields=_fields(record, mapping),
        portal=mapping.portal,
    )


def _key(record: Mapping[str, object], mapping: RecordMapping) -> str:
    parts = {name: _key_part(record, name) for name in mapping.key_columns}
    if not mapping.is_template:
        return parts[mapping.key]
    # Joined by hand: str.format would let a template reach into attributes.
    return "".join(
        literal + (parts[name] if name is not None else "")
        for literal, name, _, _ in Formatter().parse(mapping.key)
    )


def _key_part(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    if value is None or value == "":
        raise _Unfit(name, "is empty, and the key is made of it")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Unfit(name, "a key is text or a whole number")
    return str(value)


def _fields(record: Mapping[str, object], mapping: RecordMapping) -> Mapping[str, object]:
    if mapping.columns:
        found = {
            name: record[column] for name, column in mapping.columns.items() if column in record
        }
    elif mapping.operation == "delete":
        found = {}
    else:
        left_out = None if mapping.is_template else mapping.key
        found = {name: value for name, value in record.items() if name != left_out}
    return found | dict(mapping.constants)
