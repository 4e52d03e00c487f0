"""The pieces of which statements about rows and batches are made.

Guards are read from the tables of moves, so that no statement moves a row that may not move. A
statement that touched fewer rows than it should raises ``Raced``, and its transaction is undone.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, exists, literal, or_, select

from b24sync.core.lifecycle import BatchEvent, RowEvent, batch_sources, row_sources
from b24sync.core.model import Operation, Row
from b24sync.edge.lists import Listed, among, is_in
from b24sync.edge.tables import batch, outbox, written

OTHER = outbox.alias("other")


class Raced(Exception):  # noqa: N818 - a signal to the pass, not an error
    """Rows changed between being read and being moved; the transaction is undone, try again."""


def is_behind() -> ColumnElement[bool]:
    """Whether an outbox row stands behind an earlier unfinished row of its entity."""
    return exists(
        select(literal(1)).where(
            OTHER.c.portal == outbox.c.portal,
            OTHER.c.kind == outbox.c.kind,
            OTHER.c.entity_key == outbox.c.entity_key,
            OTHER.c.id < outbox.c.id,
        )
    )


def is_followed() -> ColumnElement[bool]:
    """Whether later rows of its entity stand behind an outbox row."""
    return exists(
        select(literal(1)).where(
            OTHER.c.portal == outbox.c.portal,
            OTHER.c.kind == outbox.c.kind,
            OTHER.c.entity_key == outbox.c.entity_key,
            OTHER.c.id > outbox.c.id,
        )
    )


def row_guard(event: RowEvent) -> ColumnElement[bool]:
    """The guard of a move of rows, read from the table of moves."""
    return or_(*(outbox.c.state == written(state) for state in row_sources(event)))


def batch_guard(event: BatchEvent) -> ColumnElement[bool]:
    """The guard of a move of a batch, read from the table of moves."""
    return or_(*(batch.c.state == str(state) for state in batch_sources(event)))


def of_entities(
    kind_column: ColumnElement[str],
    key_column: ColumnElement[str],
    entities: Iterable[tuple[str, str]],
) -> ColumnElement[bool]:
    """Rows of these entities; by kind and a list of keys, which every planner can use an index for.

    Shape: one condition for each kind, each list one parameter.
    """
    keys_of: dict[str, list[str]] = {}
    for kind, key in entities:
        keys_of.setdefault(kind, []).append(key)
    return or_(
        *(and_(kind_column == kind, is_in(key_column, keys)) for kind, keys in keys_of.items())
    )


def of_kinds(
    kind_column: ColumnElement[str], key_column: ColumnElement[str], kinds: int
) -> ColumnElement[bool]:
    """The same for statements that are built once: rows of entities of so many kinds.

    Shape: the parameters are those of ``lists_of``.
    """
    return or_(
        *(
            and_(
                kind_column == bindparam(f"kind_{number}"),
                among(key_column, bindparam(f"keys_{number}", type_=Listed())),
            )
            for number in range(kinds)
        )
    )


def lists_of(entities: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Entities as the parameters of ``of_kinds``: for each kind two, itself and its keys."""
    keys_of: dict[str, list[str]] = {}
    for kind, key in entities:
        keys_of.setdefault(kind, []).append(key)
    lists: dict[str, object] = {}
    for number, (kind, keys) in enumerate(keys_of.items()):
        lists[f"kind_{number}"] = kind
        lists[f"keys_{number}"] = keys
    return lists


def row_of(found: Mapping[Any, Any]) -> Row:
    """An outbox row as the core knows it."""
    return Row(
        id=found["id"],
        portal=found["portal"],
        lane=found["lane"],
        kind=found["kind"],
        key=found["entity_key"],
        operation=Operation(found["operation"]),
        fields=found["fields"],
        params=found["params"],
        method=found["method"],
        generation=found["generation"],
        marker=found["marker"],
        priority=found["priority"],
        attempts=found["attempts"],
        deliveries=found["deliveries"],
        not_runs=found["not_runs"],
        losses=found["losses"],
        enqueued_at_ms=found["created_at"],
        expires_at_ms=found["expires_at"],
        cancel_requested=found["cancel_requested"],
        first_error=found["first_error"],
        last_error=found["last_error"],
        headers=found["headers"],
        mergeable=found["mergeable"],
    )
