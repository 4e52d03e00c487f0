"""Dead letters: rows given up on, to be listed, edited, replayed or dropped by a person.

A replay is a new row at the end of its entity's order, with a new id and fresh counters; the letter
stays as the record of what happened and names the row it became, who closed it, and what was edited
on the way. A closed letter is not opened again. A letter that a newer change has overtaken would
undo it, and is replayed only if that is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    case,
    func,
    insert,
    select,
    update,
)

from b24sync.core.editing import Edit, Edited, edited
from b24sync.core.kinds import Kind
from b24sync.core.model import Change
from b24sync.edge.database import now_ms
from b24sync.edge.overtaking import is_overtaken
from b24sync.edge.shards import lane_of
from b24sync.edge.tables import dead, outbox

COPIED = (
    "portal",
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

WHO_LENGTH = 255
NO_EDIT = Edit()
NO_KINDS: Mapping[str, Kind] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which letters are meant; every condition narrows, and none means all that are open.

    Shape: ``fresh_only`` leaves out those that a newer change has overtaken.
    Units: ``older_than_ms`` milliseconds since the row was given up on.
    """

    ids: tuple[int, ...] = ()
    portal: str | None = None
    kind: str | None = None
    key: str | None = None
    code: str | None = None
    reason: str | None = None
    older_than_ms: int | None = None
    closed_too: bool = False
    fresh_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter, as people see it.

    Shape: ``is_overtaken``: a newer change of its entity was applied or waits. ``edits`` are the
    names that were changed when it was replayed, each with ``before`` and ``after``.
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
    headers: object
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
    closed_by: str | None
    edits: object
    is_overtaken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heap:
    """Letters of one error code and reason: how many, and how many of them are overtaken."""

    code: str
    reason: str
    n: int
    overtaken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """What came before a letter, and after it.

    Shape: ``earlier`` is the letter whose replay it was. ``row_state`` is that of the row it became,
    while that is unfinished; ``later`` is the letter that this row ended as.
    """

    earlier: int | None = None
    row_state: str | None = None
    later: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of a wish to replay: new rows by letter, and the letters that were not replayed."""

    rows: dict[int, int] = field(default_factory=dict[int, int])
    closed: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    overtaken: tuple[int, ...] = ()

    def __add__(self, other: "Replay") -> "Replay":
        """Both together."""
        return Replay(
            rows={**self.rows, **other.rows},
            closed=self.closed + other.closed,
            unknown=self.unknown + other.unknown,
            overtaken=self.overtaken + other.overtaken,
        )


def letters(
    connection: Connection, choice: Choice, *, limit: int | None = None
) -> tuple[Letter, ...]:
    """The letters that are meant, newest first.

    Writes: nothing.
    """
    statement = (
        select(dead, is_overtaken().label("is_overtaken"), now_ms().label("now"))
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


def heaps(connection: Connection, choice: Choice) -> tuple[Heap, ...]:
    """How many letters are meant, by error code and reason, the most first.

    Writes: nothing.
    """
    statement = (
        select(
            dead.c.error_code,
            dead.c.reason,
            func.count().label("n"),
            func.sum(case((is_overtaken(), 1), else_=0)).label("overtaken"),
        )
        .where(*_conditions(choice))
        .group_by(dead.c.error_code, dead.c.reason)
    )
    found = [
        Heap(
            code=row["error_code"],
            reason=row["reason"],
            n=row["n"],
            overtaken=int(row["overtaken"]),
        )
        for row in connection.execute(statement).mappings()
    ]
    return tuple(sorted(found, key=lambda heap: (-heap.n, heap.code, heap.reason)))


def trail(connection: Connection, letter: Letter) -> Trail:
    """What came before a letter, and after it.

    Writes: nothing.
    """
    same = select(dead.c.id).where(
        dead.c.portal == letter.portal,
        dead.c.kind == letter.kind,
        dead.c.entity_key == letter.key,
    )
    earlier = connection.execute(same.where(dead.c.replayed_as == letter.outbox_id)).scalar()
    if letter.replayed_as is None:
        return Trail(earlier=earlier)
    state = select(outbox.c.state).where(outbox.c.id == letter.replayed_as)
    return Trail(
        earlier=earlier,
        row_state=connection.execute(state).scalar(),
        later=connection.execute(same.where(dead.c.outbox_id == letter.replayed_as)).scalar(),
    )


def replay(
    connection: Connection,
    ids: Sequence[int],
    *,
    edit: Edit = NO_EDIT,
    who: str | None = None,
    even_if_newer: bool = False,
    kinds: Mapping[str, Kind] = NO_KINDS,
) -> Replay:
    """Write each letter into the outbox again, at the end of its entity's order, the oldest first.

    Shape: ``rows`` by letter's id; closed, unknown and overtaken letters are named and change
    nothing. ``edit`` is made in each; ``who`` is named by the letter.
    Raises: ChangeError for a letter that an edit makes no change of, naming it; nothing was written.
    Writes: outbox, dead; in the caller's transaction.
    """
    found = _locked(connection, ids)
    open_ones = [number for number, letter in found.items() if letter["closed_at"] is None]
    overtaken = _overtaken(connection, [] if even_if_newer else open_ones)
    wanted = [number for number in open_ones if number not in overtaken]
    # All before the first is written: a slip undoes nothing.
    said = {number: _edited(found[number], edit, kinds) for number in wanted} if edit else {}
    rows = {number: _replayed(connection, number, said.get(number), who) for number in wanted}
    return Replay(
        rows=rows,
        closed=tuple(number for number in found if number not in open_ones),
        unknown=tuple(number for number in ids if number not in found),
        overtaken=tuple(number for number in open_ones if number in overtaken),
    )


def check_edit(
    connection: Connection, ids: Sequence[int], edit: Edit, kinds: Mapping[str, Kind]
) -> None:
    """Refuse an edit that one of these letters cannot be replayed with.

    Raises: ChangeError, naming the letter, the field and what to do.
    Writes: nothing.
    """
    for start in range(0, len(ids), CHUNK):
        is_meant = dead.c.id.in_(ids[start : start + CHUNK])
        for letter in connection.execute(select(dead).where(is_meant)).mappings():
            _edited(letter, edit, kinds)


def _overtaken(connection: Connection, ids: Sequence[int]) -> frozenset[int]:
    found: set[int] = set()
    for start in range(0, len(ids), CHUNK):
        is_meant = dead.c.id.in_(ids[start : start + CHUNK])
        statement = select(dead.c.id).where(is_meant, is_overtaken())
        found.update(connection.execute(statement).scalars())
    return frozenset(found)


def _edited(letter: RowMapping, edit: Edit, kinds: Mapping[str, Kind]) -> Edited:
    empty: Mapping[str, object] = {}
    change = Change(
        letter["kind"],
        letter["entity_key"],
        letter["operation"],
        fields=empty if letter["fields"] is None else letter["fields"],
        params=empty if letter["params"] is None else letter["params"],
        portal=letter["portal"],
        method=letter["method"],
    )
    name = f"dead letter {letter['id']}, {letter['kind']}:{letter['entity_key']}"
    return edited(change, edit, kinds, name=name)


def _replayed(connection: Connection, number: int, edit: Edited | None, who: str | None) -> int:
    """One letter as a new row; the row's id."""
    # Copied by the database: read and written anew, a document would not be what it was.
    said: dict[str, object] = {
        name: select(dead.c[name]).where(dead.c.id == number).scalar_subquery() for name in COPIED
    }
    whose = select(dead.c.portal, dead.c.kind, dead.c.entity_key).where(dead.c.id == number)
    said["lane"] = lane_of(connection, *connection.execute(whose).one())
    if edit is not None:
        said[edit.part] = edit.value
    inserted = connection.execute(insert(outbox).values(said)).inserted_primary_key
    row_id = cast("tuple[int]", inserted)[0]
    connection.execute(
        update(dead)
        .where(dead.c.id == number)
        .values(
            replayed_as=row_id,
            closed_at=now_ms(),
            closed_by=_cut(who),
            edits=None if edit is None else edit.changes or None,
        )
    )
    return row_id


def drop(connection: Connection, ids: Sequence[int], *, who: str | None = None) -> tuple[int, ...]:
    """Close letters for good; the ids of those that were open. ``who`` is named by each.

    Writes: dead.
    """
    opened = [
        number for number, row in _locked(connection, ids).items() if row["closed_at"] is None
    ]
    for start in range(0, len(opened), CHUNK):
        connection.execute(
            update(dead)
            .where(dead.c.id.in_(opened[start : start + CHUNK]), dead.c.closed_at.is_(None))
            .values(closed_at=now_ms(), closed_by=_cut(who))
        )
    return tuple(opened)


def _cut(who: str | None) -> str | None:
    return None if who is None else who[:WHO_LENGTH]


def _conditions(choice: Choice) -> list[ColumnElement[bool]]:
    said: list[ColumnElement[bool]] = [] if choice.closed_too else [dead.c.closed_at.is_(None)]
    if choice.ids:
        said.append(dead.c.id.in_(choice.ids))
    for column, wanted in (
        (dead.c.portal, choice.portal),
        (dead.c.kind, choice.kind),
        (dead.c.entity_key, choice.key),
        (dead.c.error_code, choice.code),
        (dead.c.reason, choice.reason),
    ):
        if wanted is not None:
            said.append(column == wanted)
    if choice.fresh_only:
        said.append(~is_overtaken())
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
        headers=found["headers"],
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
        closed_by=found["closed_by"],
        edits=found["edits"],
        is_overtaken=bool(found["is_overtaken"]),
    )
