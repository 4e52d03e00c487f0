"""The records of the portal, by kind, and the two shapes that methods take and give back.

One lock outside guards all of it: nothing here is safe to call from two threads at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.values import Record, Value, copied, text

_INDEXED = ("originId", "xmlId", "ORIGIN_ID", "XML_ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One command that is about to run."""

    method: str
    """Lower case."""
    params: Record
    user_id: int
    at: float
    """Unix time, seconds."""
    by_oauth: bool = False
    """Called with an application's token and not through a webhook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a method answers."""

    result: Value
    id: int | None = None
    """Record that was written, for the journal."""
    total: int | None = None
    """Rows that match, for list methods that counted."""
    next: int | None = None
    """Start of the next page, if there is one."""


@dataclass(slots=True)
class Table:
    """The records of one kind, by id, in order of creation."""

    next_id: int
    rows: dict[int, Record] = field(default_factory=dict[int, Record])
    seen_fields: set[str] = field(default_factory=set[str])
    """Every field that a record of this kind ever had."""
    marked: dict[tuple[str, str], list[int]] = field(
        default_factory=dict[tuple[str, str], list[int]]
    )
    """Ids by external key; entries may be stale, never missing."""

    def add(self, record: Record, id_field: str) -> int:
        """Store a new record under the next id. Raises: nothing."""
        record_id = self.next_id
        self.next_id += 1
        record[id_field] = record_id
        self.rows[record_id] = record
        self.note(record_id, record)
        return record_id

    def note(self, record_id: int, fields: Record) -> None:
        """Remember which fields exist and by which external keys the record is found."""
        self.seen_fields.update(fields)
        for name in _INDEXED:
            if name in fields:
                self.marked.setdefault((name, text(fields[name])), []).append(record_id)

    def candidates(self, name: str, value: str) -> Iterable[Record] | None:
        """The records that may have this external key; None if the field is no external key."""
        if name not in _INDEXED:
            return None
        ids = sorted(set(self.marked.get((name, value), ())))
        return [self.rows[record_id] for record_id in ids if record_id in self.rows]


class Store:
    """All tables of the portal."""

    def __init__(self, config: SandboxConfig) -> None:
        """Start with no record but the first user and the registered smart processes."""
        self.config = config
        self.tables: dict[str, Table] = {}
        self.smart_types: set[int] = set(config.smart_process_types)
        self._next_row_id = 1
        self._stamp: tuple[int, str] = (0, "")
        self.table("user").add(
            {"ACTIVE": True, "NAME": "Sandbox", "EMAIL": "sandbox@example.com"}, "ID"
        )

    def table(self, kind: str) -> Table:
        """The table of a kind, made at first use."""
        found = self.tables.get(kind)
        if found is None:
            found = self.tables[kind] = Table(next_id=self.config.first_id)
        return found

    def next_row_id(self) -> int:
        """A fresh id for a row inside a record: a phone, a link."""
        self._next_row_id += 1
        return self._next_row_id - 1

    def stamp(self, at: float) -> str:
        """A moment as the portal writes it, to the second."""
        second = int(at)
        if self._stamp[0] != second:
            self._stamp = (second, datetime.fromtimestamp(second, UTC).isoformat())
        return self._stamp[1]

    def snapshot(self, kind: str) -> dict[int, Record]:
        """A copy of the records of one kind that later writes do not touch."""
        table = self.tables.get(kind)
        if table is None:
            return {}
        return {
            record_id: {name: copied(value) for name, value in record.items()}
            for record_id, record in table.rows.items()
        }


Method: TypeAlias = Callable[[Store, Call], Done]
