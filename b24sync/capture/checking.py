"""Rows of captured tables that were written where no session could see it.

Raw SQL, other programs and what was there before leave no change. A row counts as written if its
entity is linked, waits in the outbox, or has a result or a dead letter: a row *changed* unseen
after that is not found here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, select, tuple_
from sqlalchemy.orm import Session

from b24sync.capture.readings import Watch
from b24sync.edge import tables

CHUNK = 500
"""Rows in one query."""

WRITTEN: tuple[Table, ...] = (tables.link, tables.outbox, tables.dead, tables.result)
"""Where an entity that was ever written has left a trace; the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncaptured:
    """A row that should be on the portal, and was never written to the outbox.

    Shape: ``identity`` is its primary key, as ``session.get(mapped, identity)`` takes it.
    """

    mapped: type[object]
    identity: tuple[Any, ...]
    portal: str
    kind: str
    key: str


def uncaptured(connection: Connection, watch: Watch, *, chunk: int = CHUNK) -> Iterator[Uncaptured]:
    """List the rows of an entity that left no trace.

    Shape: in the order of primary keys; the memory of ``chunk`` objects.
    Raises: nothing of its own.
    """
    with Session(connection, autoflush=False) as session:
        last: tuple[Any, ...] | None = None
        while instances := _next(session, watch, last, chunk):
            last = tuple(watch.mapper.primary_key_from_instance(instances[-1]))
            rows = [row for instance in instances for row in _expected(watch, instance)]
            for (portal, _), part in groupby(rows, key=lambda row: (row.portal, row.kind)):
                yield from _missing(connection, watch, portal, list(part))
            session.expunge_all()


def _next(
    session: Session, watch: Watch, last: tuple[Any, ...] | None, chunk: int
) -> Sequence[object]:
    keys = watch.mapper.primary_key
    statement = select(watch.entity.mapped).order_by(*keys).limit(chunk)
    if last is not None:
        statement = statement.where(_beyond(keys, last))
    return session.scalars(statement).unique().all()


def _beyond(keys: Sequence[ColumnElement[Any]], last: tuple[Any, ...]) -> ColumnElement[bool]:
    only = len(keys) == 1
    beyond: ColumnElement[bool] = keys[0] > last[0] if only else tuple_(*keys) > last
    return beyond


def _expected(watch: Watch, instance: object) -> Iterator[Uncaptured]:
    if watch.when.read(instance):
        yield Uncaptured(
            mapped=type(instance),
            identity=tuple(watch.mapper.primary_key_from_instance(instance)),
            portal=str(watch.portal.read(instance)),
            kind=watch.entity.kind,
            key=str(watch.key.read(instance)),
        )


def _missing(
    connection: Connection, watch: Watch, portal: str, rows: Sequence[Uncaptured]
) -> Iterator[Uncaptured]:
    keys = {row.key for row in rows}
    for table in WRITTEN:
        if keys:
            keys -= _written(connection, watch, table, portal, keys)
    return (row for row in rows if row.key in keys)


def _written(
    connection: Connection, watch: Watch, table: Table, portal: str, keys: Iterable[str]
) -> set[str]:
    schema = watch.outbox.schema
    statement = select(table.c.entity_key).where(
        table.c.portal == portal,
        table.c.kind == watch.entity.kind,
        table.c.entity_key.in_(sorted(keys)),
    )
    options = {"schema_translate_map": {None: schema}} if schema else {}
    return set(connection.execute(statement, execution_options=options).scalars())
