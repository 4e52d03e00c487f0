"""Records of a portal beside the one that is an entity's own, however they were found.

A look-up by marker finds several; an answer that comes after its batch was closed tells of a record
although the entity has another one by then; an audit asks the portal. Which record is kept is what
the link says, and nothing is deleted: a person merges or deletes the other one on the portal and
then closes what is kept here. Each record is told once, whoever finds it again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, RowMapping, func, or_, select, union_all, update

from b24sync.core.model import LinkState, Operation
from b24sync.core.settlement import Settlement
from b24sync.edge.database import insert_missing, now_ms
from b24sync.edge.guards import of_entities
from b24sync.edge.tables import batch, duplicate, link, outbox, result

CHUNK = 500
"""Records in one statement."""


class FoundBy(StrEnum):
    """Who has found a record beside an entity's own."""

    LOOK_UP = "look-up"
    LATE_ANSWER = "late-answer"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A record beside an entity's own."""

    portal: str
    kind: str
    key: str
    kept_id: str
    other_id: str
    found_by: FoundBy

    @property
    def record(self) -> tuple[str, str]:
        """The record that is one too many."""
        return self.kind, self.other_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """One of them, as people see it.

    Units: ``*_at_ms`` epoch milliseconds; ``age_ms`` milliseconds by the database's clock.
    """

    id: int
    portal: str
    kind: str
    key: str
    kept_id: str
    other_id: str
    found_by: str
    found_at_ms: int
    age_ms: int
    closed_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which are meant; every condition narrows, and none means all that are open.

    Shape: ``between`` are the first key and the last.
    """

    portal: str | None = None
    kind: str | None = None
    key: str | None = None
    between: tuple[str, str] | None = None
    closed_too: bool = False


def record(connection: Connection, found: Iterable[Found]) -> tuple[Found, ...]:
    """Keep what was found; those that nobody had told of yet.

    What is some entity's own record by now is nobody's duplicate.
    Writes: duplicate; link, its further ids.
    """
    by_portal: dict[str, dict[tuple[str, str], Found]] = {}
    for one in found:
        by_portal.setdefault(one.portal, {}).setdefault(one.record, one)
    told: list[Found] = []
    for code, records in by_portal.items():
        each = list(records.values())
        for start in range(0, len(each), CHUNK):
            told += _recorded(connection, code, each[start : start + CHUNK])
    return tuple(told)


def _recorded(connection: Connection, code: str, found: Sequence[Found]) -> list[Found]:
    records = [one.record for one in found]
    owned = connection.execute(
        select(link.c.kind, link.c.remote_id).where(
            link.c.portal == code, of_entities(link.c.kind, link.c.remote_id, records)
        )
    )
    told = connection.execute(
        select(duplicate.c.kind, duplicate.c.other_id).where(
            duplicate.c.portal == code,
            of_entities(duplicate.c.kind, duplicate.c.other_id, records),
        )
    )
    known = {(kind, number) for kind, number in (*owned, *told)}
    new = [one for one in found if one.record not in known]
    insert_missing(
        connection,
        duplicate,
        [
            {
                "portal": code,
                "kind": one.kind,
                "entity_key": one.key,
                "kept_id": one.kept_id,
                "other_id": one.other_id,
                "found_by": str(one.found_by),
            }
            for one in new
        ],
    )
    _show_on_links(connection, code, {(one.kind, one.key) for one in new})
    return new


def _show_on_links(connection: Connection, code: str, entities: Iterable[tuple[str, str]]) -> None:
    """The links of these entities name the open ones, and no others."""
    wanted = sorted(entities)
    if not wanted:
        return
    others: dict[tuple[str, str], list[str]] = {}
    is_open = select(duplicate.c.kind, duplicate.c.entity_key, duplicate.c.other_id).where(
        duplicate.c.portal == code,
        of_entities(duplicate.c.kind, duplicate.c.entity_key, wanted),
        duplicate.c.closed_at.is_(None),
    )
    for kind, key, number in connection.execute(is_open.order_by(duplicate.c.id)):
        others.setdefault((kind, key), []).append(number)
    for kind, key in wanted:
        connection.execute(
            update(link)
            .where(
                link.c.portal == code,
                link.c.kind == kind,
                link.c.entity_key == key,
                # Of a link in conflict they are the ids that belong to somebody else.
                link.c.remote_id.is_not(None),
            )
            .values(dup_ids=others.get((kind, key)))
        )


def noticed(connection: Connection, settlements: Sequence[Settlement]) -> tuple[Found, ...]:
    """Keep what these settlements tell of further records; those that nobody had told of yet.

    Costs no statement where nothing was looked up and nothing is said again.
    Writes: duplicate; link.
    """
    found = [
        _found(settlement, str(settlement.remote_id), other, FoundBy.LOOK_UP)
        for settlement in settlements
        for other in settlement.duplicates
    ]
    return record(connection, [*found, *_told_before(connection, settlements)])


def _told_before(connection: Connection, settlements: Sequence[Settlement]) -> list[Found]:
    """Records that a late answer told of, to an earlier try of an add that was said again.

    The earlier batches are locked: an answer that is being kept at this moment is waited for, and
    one that comes later finds the link.
    """
    again = {
        settlement.row.id: settlement
        for settlement in settlements
        if _makes(settlement) and (settlement.row.attempts or settlement.row.first_error)
    }
    if not again:
        return []
    entities = [(settlement.row.kind, settlement.row.key) for settlement in again.values()]
    tries = (
        select(result.c.batch_id)
        .where(
            result.c.portal == next(iter(again.values())).row.portal,
            of_entities(result.c.kind, result.c.entity_key, entities),
            result.c.outbox_id.in_(again),
            result.c.batch_id.is_not(None),
        )
        .distinct()
    )
    earlier = sorted(connection.execute(tries).scalars())
    answered = connection.execute(
        select(batch.c.plan, batch.c.late_answer)
        .where(batch.c.id.in_(earlier))
        .order_by(batch.c.id)
        .with_for_update()
    ).all()
    return [
        _found(again[row_id], str(again[row_id].remote_id), number, FoundBy.LATE_ANSWER)
        for plan, late in answered
        for row_id, number in _made(plan, late)
        if row_id in again and number != again[row_id].remote_id
    ]


def _made(plan: object, late: object) -> list[tuple[int, str]]:
    """The records that a late answer has told of, each with the row whose add made it."""
    written = cast("Mapping[str, Mapping[str, Any]]", plan)
    told = cast("Mapping[str, Mapping[str, Any]]", late or {})
    adds = {
        str(row_id)
        for entry in written.values()
        if entry.get("operation") == Operation.ADD
        for row_id in entry.get("rows", ())
    }
    return [
        (int(row_id), answer["remote_id"])
        for row_id, answer in told.items()
        if row_id in adds and answer.get("remote_id") is not None
    ]


def told_late(connection: Connection, settlements: Sequence[Settlement]) -> tuple[Found, ...]:
    """Compare an answer that came too late with the links; what nobody had told of yet.

    An entity without an id is compared when its add, which is said again, is settled.
    Writes: duplicate; link.
    """
    made = {(s.row.kind, s.row.key): s for s in settlements if _makes(s)}
    if not made:
        return ()
    kept = connection.execute(
        select(link.c.kind, link.c.entity_key, link.c.remote_id).where(
            link.c.portal == next(iter(made.values())).row.portal,
            of_entities(link.c.kind, link.c.entity_key, made),
            link.c.remote_id.is_not(None),
        )
    ).all()
    return record(
        connection,
        [
            _found(made[kind, key], number, str(made[kind, key].remote_id), FoundBy.LATE_ANSWER)
            for kind, key, number in kept
            if number != made[kind, key].remote_id
        ],
    )


def orphaned(connection: Connection, settlements: Sequence[Settlement]) -> tuple[Settlement, ...]:
    """Adds that an answer told of when their row had ended otherwise, as cancelled ones.

    The record is there and nobody has it: no link names one for its entity, and no change of the
    entity is unfinished, whose own add would make another.
    Writes: nothing.
    """
    made = {(s.row.kind, s.row.key): s for s in settlements if _makes(s)}
    if not made:
        return ()
    code = next(iter(made.values())).row.portal
    linked = select(link.c.kind, link.c.entity_key).where(
        link.c.portal == code,
        of_entities(link.c.kind, link.c.entity_key, made),
        or_(link.c.remote_id.is_not(None), link.c.state != str(LinkState.ABSENT)),
    )
    unfinished = select(outbox.c.kind, outbox.c.entity_key).where(
        outbox.c.portal == code, of_entities(outbox.c.kind, outbox.c.entity_key, made)
    )
    taken = {(kind, key) for kind, key in connection.execute(union_all(linked, unfinished))}
    return tuple(settlement for entity, settlement in made.items() if entity not in taken)


def _makes(settlement: Settlement) -> bool:
    return settlement.link_present and settlement.remote_id is not None


def _found(settlement: Settlement, kept: str, other: str, found_by: FoundBy) -> Found:
    row = settlement.row
    return Found(
        portal=row.portal,
        kind=row.kind,
        key=row.key,
        kept_id=kept,
        other_id=other,
        found_by=found_by,
    )


def duplicates(
    connection: Connection, choice: Choice, *, limit: int | None = None
) -> tuple[Duplicate, ...]:
    """Those that are meant, the oldest first.

    Writes: nothing.
    """
    statement = (
        select(duplicate, now_ms().label("now"))
        .where(*_conditions(choice))
        .order_by(duplicate.c.id)
        .limit(limit)
    )
    return tuple(_duplicate(row) for row in connection.execute(statement).mappings())


def _conditions(choice: Choice) -> list[ColumnElement[bool]]:
    said: list[ColumnElement[bool]] = []
    if not choice.closed_too:
        said.append(duplicate.c.closed_at.is_(None))
    for column, wanted in (
        (duplicate.c.portal, choice.portal),
        (duplicate.c.kind, choice.kind),
        (duplicate.c.entity_key, choice.key),
    ):
        if wanted is not None:
            said.append(column == wanted)
    if choice.between is not None:
        said.append(duplicate.c.entity_key.between(*choice.between))
    return said


def _duplicate(row: RowMapping) -> Duplicate:
    return Duplicate(
        id=row["id"],
        portal=row["portal"],
        kind=row["kind"],
        key=row["entity_key"],
        kept_id=row["kept_id"],
        other_id=row["other_id"],
        found_by=row["found_by"],
        found_at_ms=row["found_at"],
        age_ms=max(0, row["now"] - row["found_at"]),
        closed_at_ms=row["closed_at"],
    )


def close(connection: Connection, ids: Sequence[int]) -> tuple[int, ...]:
    """Close duplicates that were dealt with; the ids of those that were open.

    One that is found again stays closed: a person has looked at it.
    Writes: duplicate; link, its further ids.
    """
    closed: list[int] = []
    entities: dict[str, set[tuple[str, str]]] = {}
    for start in range(0, len(ids), CHUNK):
        is_meant = (
            duplicate.c.id.in_(ids[start : start + CHUNK]),
            duplicate.c.closed_at.is_(None),
        )
        opened = connection.execute(
            select(duplicate).where(*is_meant).order_by(duplicate.c.id).with_for_update()
        ).mappings()
        for row in opened:
            closed.append(row["id"])
            entities.setdefault(row["portal"], set()).add((row["kind"], row["entity_key"]))
        connection.execute(update(duplicate).where(*is_meant).values(closed_at=now_ms()))
    for code, of_portal in entities.items():
        _show_on_links(connection, code, of_portal)
    return tuple(closed)


def open_by_portal(connection: Connection) -> Mapping[str, int]:
    """How many are open, by portal; portals without any are absent.

    Writes: nothing.
    """
    statement = (
        select(duplicate.c.portal, func.count())
        .where(duplicate.c.closed_at.is_(None))
        .group_by(duplicate.c.portal)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def counted(connection: Connection) -> Mapping[str, Mapping[str, int]]:
    """How many were ever found, by portal and by who found them; what was closed counts too.

    Writes: nothing.
    """
    statement = select(duplicate.c.portal, duplicate.c.found_by, func.count()).group_by(
        duplicate.c.portal, duplicate.c.found_by
    )
    found: dict[str, dict[str, int]] = {}
    for code, found_by, n in connection.execute(statement):
        found.setdefault(code, {})[found_by] = n
    return found
