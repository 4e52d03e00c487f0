"""Pages of a query, in the order of its key, with their rows locked against changes.

The query stands in the FROM of each statement, so that databases read as much of it as a page needs
where there is an index on the key. The order, and what is greater, are the database's own, with
whatever collation the key has.

Rows are locked for as long as they are read and written to the outbox, and never waited for. A
change that was written before is seen; one that is being written shows as a lock; one that comes
after gets a greater number. So what is read is never said after something newer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    TextClause,
    and_,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from b24sync.core.backfilling import Key
from b24sync.core.errors import BackfillError
from b24sync.edge.database import is_locked, lock_within

NAME = "source"

UNLOCKABLE: Mapping[str, re.Pattern[str]] = {
    "postgresql": re.compile(r"^\s*WITH\b", re.IGNORECASE),
    "mysql": re.compile(r"^\s*WITH\b|\b(?:UNION|INTERSECT|EXCEPT)\b", re.IGNORECASE),
}
"""Queries of which a database locks nothing, or not all, and does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is read: SQL or a select, the columns of its key, and whether its rows are locked."""

    what: str | Select[Any]
    keys: tuple[str, ...]
    locks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """A query as a part of statements."""

    origin: FromClause | TextClause
    everything: Sequence[ColumnElement[Any]]
    keys: Sequence[ColumnElement[Any]]


def column_names(connection: Connection, query: Query) -> tuple[str, ...]:
    """The columns of a query, which is not read for that.

    Raises: BackfillError for one that the database refuses, or of which it cannot lock the rows.
    """
    if query.locks:
        _refuse_unlockable(connection, query)
    parts = _parts(connection, query)
    statement = _locking(select(*parts.everything).select_from(parts.origin).limit(0), query)
    try:
        return tuple(connection.execute(statement).keys())
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise BackfillError(f"the query is refused: {first_line(error)}") from None


def first_line(error: DBAPIError) -> str:
    """What a database complains of, without the statement."""
    lines = str(error.orig or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_unlockable(connection: Connection, query: Query) -> None:
    name = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
    found = UNLOCKABLE.get(name)
    if isinstance(query.what, str) and found is not None and found.search(query.what):
        raise BackfillError(
            "the rows of this query cannot be locked while they are read; write it without WITH "
            "and UNION, or say that nobody changes them meanwhile"
        )


def has_null_keys(connection: Connection, query: Query) -> bool:
    """Whether rows have no key; they would be passed over, as nothing is greater than NULL."""
    parts = _parts(connection, query)
    is_null = or_(*(key.is_(None) for key in parts.keys))
    found = select(literal(1)).select_from(parts.origin).where(is_null).limit(1)
    return connection.execute(found).scalar() is not None


def count(connection: Connection, query: Query) -> int:
    """How many rows there are; every one is looked at for that.

    Writes: nothing.
    """
    parts = _parts(connection, query)
    counted = select(func.count()).select_from(parts.origin)
    return int(connection.execute(counted).scalar_one())


def read(
    connection: Connection, query: Query, after: Key | None, *, limit: int
) -> Sequence[tuple[Key, Mapping[str, Any]]]:
    """The next rows behind a key, each with its own, in their order.

    Raises: Locked if somebody is changing one of them.
    """
    parts = _parts(connection, query)
    labels = [key.label(f"b24sync_key_{place}") for place, key in enumerate(parts.keys)]
    statement = select(*labels, *parts.everything).select_from(parts.origin)
    if after is not None:
        statement = statement.where(beyond(parts.keys, after))
    statement = _locking(statement.order_by(*parts.keys).limit(limit), query)
    with locking():
        found = connection.execute(statement)
        names = tuple(found.keys())[len(labels) :]
        return [
            (tuple(row[: len(labels)]), dict(zip(names, row[len(labels) :], strict=True)))
            for row in found
        ]


class Locked(Exception):  # noqa: N818 - a signal to the feeder, not an error
    """Somebody is changing a row of the page; nothing was read."""


class locking:  # noqa: N801 - reads as the statement it is
    """What is executed in it does not wait for locks.

    Raises: Locked.
    """

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Tell a lock from other complaints."""
        if isinstance(error, DBAPIError) and is_locked(error):
            raise Locked from None


def beyond(keys: Sequence[ColumnElement[Any]], last: Key) -> ColumnElement[bool]:
    """What is greater than a key, said so that an index over its columns serves."""
    (key, *other_keys), (value, *others) = keys, last
    given = _given(value)
    if not other_keys:
        return key > given
    further = and_(key == given, beyond(other_keys, tuple(others)))
    return and_(key >= given, or_(key > given, further))


def _given(value: object) -> ColumnElement[Any]:
    is_number = isinstance(value, int)
    return bindparam(None, value, type_=BigInteger() if is_number else None, unique=True)


def _parts(connection: Connection, query: Query) -> _Parts:
    lock = lock_within(connection) if query.locks else ""
    if isinstance(query.what, str):
        # A colon begins a parameter for SQLAlchemy, and nothing for whoever wrote this.
        written = query.what.strip().rstrip(";").replace(":", "\\:")
        quote = connection.dialect.identifier_preparer.quote
        return _Parts(
            origin=text(f"(\n{written}\n{lock}) AS {NAME}"),
            everything=(literal_column(f"{NAME}.*"),),
            keys=[literal_column(f"{NAME}.{quote(name)}") for name in query.keys],
        )
    inner = query.what.with_for_update(read=True, nowait=True) if lock else query.what
    origin = inner.subquery(NAME)
    missing = [name for name in query.keys if name not in origin.c]
    if missing:
        raise BackfillError(
            f"the query has no column {missing[0]}; it has {', '.join(origin.c.keys())}"
        )
    return _Parts(
        origin=origin,
        everything=tuple(origin.c),
        keys=[origin.c[name] for name in query.keys],
    )


def _locking(statement: Select[Any], query: Query) -> Select[Any]:
    return statement.with_for_update(read=True, nowait=True) if query.locks else statement
