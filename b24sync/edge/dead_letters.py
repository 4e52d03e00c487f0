"""Dead letters: rows given up on, to be listed, replayed or dropped by a person.

A replay is a new row at the end of its entity's order, with a new id and fresh counters; the letter
stays as the record of what happened and names the row it became. A closed letter is not opened
again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, RowMapping, ScalarSelect, insert, select, update

from b24sync.edge.database import now_ms
from b24sync.edge.tables import dead, outbox

COPIED = (
    "portal",
    "lane",
    "kind",
    "entity_key",
    "operation",
    "method",
    "fields",
    "params",
    "generation",
    "marker",
    "doubt_policy",
    "mergeable",
    "priority",
    "headers",
)
"""What a replayed row takes over; counters, errors and due time begin anew."""

CHUNK = 500
"""Ids in one statement; SQLite takes 32766 of them, MariaDB any number within its packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which letters are meant; every condition narrows, and none means all that are open.

    Units: ``older_than_ms`` milliseconds since the row was given up on.
    """

    ids: tuple[int, ...] = ()
    portal: str | None = None
    kind: str | None = None
    key: str | None = None
    code: str | None = None
    older_than_ms: int | None = None
    closed_too: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter, as people see it.

    Units: ``*_ms`` are epoch milliseconds; ``age_ms`` is milliseconds by the database's clock.
    """

    id: int
    outbox_id: int
    portal: str
    kind: str
    key: str
    operation: str
    method: str | None
    fields: object
    params: object
    reason: str
    error_code: str
    first_error: str
    last_error: str
    attempts: int
    deliveries: int
    enqueued_at_ms: int
    dead_at_ms: int
    age_ms: int
    replayed_as: int | None
    closed_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of a wish to replay: new rows by letter, and the letters closed or unknown."""

    rows: dict[int, int] = field(default_factory=dict[int, int])
    closed: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


def letters(
    connection: Connection, choice: Choice, *, limit: int | None = None
) -> tuple[Letter, ...]:
    """The letters that are meant, newest first.

    Writes: nothing.
    """
    statement = (
        select(dead, now_ms().label("now"))
        .where(*_conditions(choice))
        .order_by(dead.c.id.desc())
        .limit(limit)
    )
    return tuple(_letter(found) for found in connection.execute(statement).mappings())


def chosen(connection: Connection, choice: Choice) -> tuple[int, ...]:
    """The ids of the letters that are meant, oldest first, so that replays keep their order.

    Writes: nothing.
    """
    statement = select(dead.c.id).where(*_conditions(choice)).order_by(dead.c.id)
    return tuple(connection.execute(statement).scalars())


def replay(connection: Connection, ids: Sequence[int]) -> Replay:
    """Write each letter into the outbox again, at the end of its entity's order.

    Shape: ``rows`` by letter's id; closed and unknown letters are named and change nothing.
    Writes: outbox, dead; in the caller's transaction.
    """
    found = _locked(connection, ids)
    rows: dict[int, int] = {}
    for number, letter in found.items():
        if letter["closed_at"] is not None:
            continue
        # Copied by the database: read and written anew, a document would not be what it was.
        said = {name: _of_letter(name, number) for name in COPIED}
        inserted = connection.execute(insert(outbox).values(said)).inserted_primary_key
        if inserted is None:  # pragma: no cover - a table with one numbered key always returns it
            continue
        rows[number] = inserted[0]
        connection.execute(
            update(dead)
            .where(dead.c.id == number)
            .values(replayed_as=inserted[0], closed_at=now_ms())
        )
    return Replay(
        rows=rows,
        closed=tuple(number for number in found if number not in rows),
        unknown=tuple(number for number in ids if number not in found),
    )


def _of_letter(column: str, number: int) -> ScalarSelect[object]:
    return select(dead.c[column]).where(dead.c.id == number).scalar_subquery()


def drop(connection: Connection, ids: Sequence[int]) -> tuple[int, ...]:
    """Close letters for good; the ids of those that were open.

    Writes: dead.
    """
    opened = [
        number for number, row in _locked(connection, ids).items() if row["closed_at"] is None
    ]
    for start in range(0, len(opened), CHUNK):
        connection.execute(
            update(dead)
            .where(dead.c.id.in_(opened[start : start + CHUNK]), dead.c.closed_at.is_(None))
            .values(closed_at=now_ms())
        )
    return tuple(opened)


def _conditions(choice: Choice) -> list[ColumnElement[bool]]:
    said: list[ColumnElement[bool]] = [] if choice.closed_too else [dead.c.closed_at.is_(None)]
    if choice.ids:
        said.append(dead.c.id.in_(choice.ids))
    for column, wanted in (
        (dead.c.portal, choice.portal),
        (dead.c.kind, choice.kind),
        (dead.c.entity_key, choice.key),
        (dead.c.error_code, choice.code),
    ):
        if wanted is not None:
            said.append(column == wanted)
    if choice.older_than_ms is not None:
        said.append(dead.c.dead_at < now_ms() - choice.older_than_ms)
    return said


def _locked(connection: Connection, ids: Sequence[int]) -> dict[int, RowMapping]:
    """The letters of these ids, in order, kept from other replays until the transaction ends."""
    wanted = sorted(set(ids))
    found: dict[int, RowMapping] = {}
    for start in range(0, len(wanted), CHUNK):
        rows = connection.execute(
            select(dead)
            .where(dead.c.id.in_(wanted[start : start + CHUNK]))
            .order_by(dead.c.id)
            .with_for_update()
        ).mappings()
        found |= {row["id"]: row for row in rows}
    return found


def _letter(found: RowMapping) -> Letter:
    return Letter(
        id=found["id"],
        outbox_id=found["outbox_id"],
        portal=found["portal"],
        kind=found["kind"],
        key=found["entity_key"],
        operation=found["operation"],
        method=found["method"],
        fields=found["fields"],
        params=found["params"],
        reason=found["reason"],
        error_code=found["error_code"],
        first_error=found["first_error"],
        last_error=found["last_error"],
        attempts=found["attempts"],
        deliveries=found["deliveries"],
        enqueued_at_ms=found["enqueued_at"],
        dead_at_ms=found["dead_at"],
        age_ms=max(0, found["now"] - found["dead_at"]),
        replayed_as=found["replayed_as"],
        closed_at_ms=found["closed_at"],
    )
