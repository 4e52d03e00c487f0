"""Changes are written into the outbox, in the application's own transaction.

Nothing here begins, commits or rolls back: the change exists if and only if the transaction that
wrote it does. Nothing here wakes a worker either; the pump finds what is due, and an application
that cannot wait rings ``sync_entities.delay()`` after its commit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import TypeAlias

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from b24sync.core.changes import RowValues, checked
from b24sync.core.kinds import Kind
from b24sync.core.model import Change
from b24sync.core.shards import shard_of
from b24sync.edge.database import insert_many
from b24sync.edge.shards import shards
from b24sync.edge.tables import outbox

Where: TypeAlias = Connection | Session | scoped_session[Session]
"""What a change is written with: whatever the application's transaction runs in."""

CHUNK = 1000
"""Rows in one INSERT of the bulk form; more does not make it faster, fewer does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """Where changes are written, for applications with kinds or a schema of their own.

    ``kinds`` are those declared in the setting ``b24sync_kinds``; ``schema`` is that of the tables.
    ``clock`` is monotonic seconds: how many lanes a portal has is read anew once a minute.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    schema: str | None = None
    clock: Callable[[], float] = field(default=monotonic, repr=False, compare=False)

    def enqueue(self, where: Where, *changes: Change) -> None:
        """Write changes, in this order, in the transaction of ``where``.

        Shape: all or none; every change is checked before the first is inserted.
        Raises: ChangeError, naming the entity, the field and what to do.
        Writes: outbox, in the caller's transaction.
        """
        if changes:
            self._insert(where, [checked(change, self.kinds) for change in changes])

    def enqueue_many(self, where: Where, changes: Iterable[Change], *, chunk: int = CHUNK) -> int:
        """Write any number of changes in constant memory, in the transaction of ``where``.

        Shape: the number written; ``chunk`` rows in a statement.
        Raises: ChangeError, naming the position of the change too. What was inserted before is
        undone by the caller's rollback, and only by that.
        Writes: outbox, in the caller's transaction.
        """
        written = 0
        for rows in _chunks(self._checked(changes), chunk):
            self._insert(where, rows)
            written += len(rows)
        return written

    def _checked(self, changes: Iterable[Change]) -> Iterator[RowValues]:
        for position, change in enumerate(changes):
            yield checked(change, self.kinds, position=position)

    def _insert(self, where: Where, rows: Sequence[RowValues]) -> None:
        options = {"schema_translate_map": {None: self.schema}} if self.schema else {}
        connection = _connection(where)
        numbers = shards(connection, options=options, clock=self.clock)
        if numbers:
            rows = [{**row, "lane": _lane(row, numbers)} for row in rows]
        insert_many(connection, outbox, rows, options=options)


def _lane(row: RowValues, numbers: Mapping[str, int]) -> int:
    number = numbers.get(str(row["portal"]), 1)
    return shard_of(str(row["kind"]), str(row["entity_key"]), number)


def _connection(where: Where) -> Connection:
    """The connection of the caller's transaction.

    A session writes its own pending rows first, as it does before any statement: an entity's row
    lock is then held when its change gets a number, so numbers of one entity rise in commit order.
    """
    if isinstance(where, Connection):
        return where
    session = where() if isinstance(where, scoped_session) else where
    if session.autoflush:
        session.flush()
    return session.connection()


def _chunks(rows: Iterator[RowValues], size: int) -> Iterator[Sequence[RowValues]]:
    while part := list(islice(rows, size)):
        yield part


DEFAULT = Outbox()


def enqueue(where: Where, *changes: Change) -> None:
    """Write changes, in this order, in the transaction of ``where``.

    Shape: all or none; every change is checked before the first is inserted.
    Raises: ChangeError, naming the entity, the field and what to do.
    Writes: outbox, in the caller's transaction.
    """
    DEFAULT.enqueue(where, *changes)


def enqueue_many(where: Where, changes: Iterable[Change], *, chunk: int = CHUNK) -> int:
    """Write any number of changes in constant memory, in the transaction of ``where``.

    Shape: the number written; ``chunk`` rows in a statement.
    Raises: ChangeError, naming the position of the change too.
    Writes: outbox, in the caller's transaction.
    """
    return DEFAULT.enqueue_many(where, changes, chunk=chunk)
