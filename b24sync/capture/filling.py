"""All objects of a captured class, page by page, said as a flush that inserts them would say them.

The rows of a page are locked before its objects are read, in every table of the class, and never
waited for: whoever has changed one and not committed yet has not numbered his change for good.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, func, select, tuple_
from sqlalchemy.orm import Session

from b24sync.capture.readings import Watch
from b24sync.capture.saying import Watches, state_of, who, whole
from b24sync.capture.sessions import Captured
from b24sync.core.backfilling import Key, Line, Page
from b24sync.core.errors import BackfillError, ChangeError
from b24sync.core.model import Operation
from b24sync.edge.sources import beyond, locking

UPSERT = str(Operation.UPSERT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """One entity of a captured target, and all that is captured there: the nearest class counts."""

    watch: Watch
    among: Watches


def filling_of(captured: Captured, kind: str, mapped: str | None) -> Filling:
    """What is captured of a kind, of a class if several are.

    Raises: BackfillError, naming those that there are.
    """
    of_kind = [watch for watch in captured.watches.values() if watch.entity.kind == kind]
    found = [w for w in of_kind if mapped in (None, w.entity.mapped.__name__)]
    if len(found) == 1:
        return Filling(watch=found[0], among=Watches(captured.watches.values()))
    if found or of_kind:
        names = ", ".join(sorted(watch.entity.mapped.__name__ for watch in of_kind))
        raise BackfillError(f"name one of the classes that are captured as {kind}: {names}")
    kinds = ", ".join(sorted({watch.entity.kind for watch in captured.watches.values()}))
    raise BackfillError(f"nothing is captured as {kind}; captured are {kinds}")


def count(connection: Connection, of: Filling) -> int:
    """How many objects there are; every row is looked at for that."""
    statement = select(func.count()).select_from(of.watch.entity.mapped)
    return int(connection.execute(statement).scalar_one())


def read(
    connection: Connection, of: Filling, portal: str, after: Key | None, *, limit: int
) -> Page:
    """The next objects behind a primary key.

    Shape: objects that are not on this portal are lines without a change.
    Raises: Locked if somebody is changing one of them.
    """
    keys = of.watch.mapper.primary_key
    statement = select(*keys).select_from(of.watch.entity.mapped).order_by(*keys).limit(limit)
    if after is not None:
        statement = statement.where(beyond(keys, after))
    found: list[Key] = [tuple(row) for row in connection.execute(statement)]
    if not found:
        return Page(is_last=True)
    with locking():
        for table in sorted(of.watch.tables, key=lambda each: each.name):
            _lock(connection, table, found)
    with Session(connection, autoflush=False) as session:
        objects = select(of.watch.entity.mapped).where(_among(keys, found)).order_by(*keys)
        instances = session.scalars(objects).unique().all()
        lines = [_line(of, portal, instance) for instance in instances]
    # Those that were deleted between the two looks.
    lines += [Line()] * (len(found) - len(lines))
    return Page(lines=tuple(lines), last=found[-1], is_last=len(found) < limit)


def _lock(connection: Connection, table: Table, found: Sequence[Key]) -> None:
    keys = tuple(table.primary_key.columns)
    statement = select(*keys).where(_among(keys, found)).with_for_update(read=True, nowait=True)
    connection.execute(statement).all()


def _among(keys: Sequence[ColumnElement[Any]], found: Sequence[Key]) -> ColumnElement[bool]:
    if len(keys) == 1:
        return keys[0].in_([key for (key,) in found])
    return tuple_(*keys).in_(found)


def _line(of: Filling, portal: str, instance: object) -> Line:
    nearest = (watch for _, watch in of.among.of(state_of(instance).mapper))
    if of.watch not in nearest:
        return Line()
    try:
        said = next(whole(of.watch, instance), None)
    except ChangeError as error:
        return Line(problem=str(error))
    except Exception as error:  # noqa: BLE001 - an application's own function may raise anything
        return Line(problem=f"{who(instance)}: {type(error).__name__}: {error}")
    if said is None or said.change.portal != portal:
        return Line()
    return Line(change=replace(said.change, operation=UPSERT))
