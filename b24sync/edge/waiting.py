"""Rows that wait: behind an earlier row, for the id of another entity, or for a time."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Select,
    Text,
    bindparam,
    column,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
    update,
)

from b24sync.core.lifecycle import RowEvent
from b24sync.core.model import Postponed, RowState, Waiting
from b24sync.core.settlement import Settlement
from b24sync.edge.database import now_ms, skip_locked
from b24sync.edge.guards import is_behind, lists_of, of_entities, row_guard
from b24sync.edge.lists import Listed, Spread, among, each_of
from b24sync.edge.tables import link, outbox, written

SOON_MS = 100
"""When a row is looked at again whose way is being cleared at this very moment."""


def firsts(
    connection: Connection, code: str, entities: Collection[tuple[str, str]]
) -> Mapping[tuple[str, str], int]:
    """The first unfinished row of each of these entities that has any.

    Writes: nothing.
    """
    if not entities:
        return {}
    found = connection.execute(
        select(outbox.c.kind, outbox.c.entity_key, func.min(outbox.c.id))
        .where(outbox.c.portal == code, of_entities(outbox.c.kind, outbox.c.entity_key, entities))
        .group_by(outbox.c.kind, outbox.c.entity_key)
    )
    return {(kind, key): number for kind, key, number in found}


def keep(connection: Connection, ids: Collection[int]) -> frozenset[int]:
    """Those of these rows that stay until the end of the transaction.

    Whoever settles a row locks it first and releases afterwards what waited for it: as long as it is
    kept here, nobody has looked for what is about to wait. One that somebody else has locked is
    not waited for; it may be leaving.
    Writes: nothing.
    """
    if not ids:
        return frozenset()
    there = select(outbox.c.id).where(outbox.c.id.in_(sorted(ids))).order_by(outbox.c.id)
    kept = connection.execute(skip_locked(there)).all()
    return frozenset(int(str(row[0])) for row in kept)


def hold(connection: Connection, code: str, waiting: Sequence[Waiting]) -> None:
    """Hold rows until the entity that they refer to has an id.

    A row whose entity is getting one at this moment, in another lane, looks again soon.
    Writes: outbox, ready to held; the due time of ready rows.
    """
    if not waiting:
        return
    arriving = _arriving(connection, code, {(row.target.kind, row.target.key) for row in waiting})
    again = [row for row in waiting if (row.target.kind, row.target.key) in arriving]
    if again:
        connection.execute(
            update(outbox)
            .where(
                outbox.c.id.in_([row.row_id for row in again]),
                outbox.c.state == written(RowState.READY),
            )
            .values(due_at=now_ms() + SOON_MS)
        )
    held = [row for row in waiting if (row.target.kind, row.target.key) not in arriving]
    if not held:
        return
    statement = (
        update(outbox)
        .where(outbox.c.id == bindparam("row"), row_guard(RowEvent.HOLD))
        .values(
            state=str(RowState.HELD),
            waits_for=bindparam("target"),
            state_reason=bindparam("reason"),
        )
    )
    connection.execute(
        statement,
        [
            {
                "row": row.row_id,
                "target": waits_for(row.target.kind, row.target.key),
                "reason": _why(row),
            }
            for row in held
        ],
    )


def _arriving(
    connection: Connection, code: str, targets: Collection[tuple[str, str]]
) -> Collection[tuple[str, str]]:
    """The entities whose row is being settled now, or whose link was written a moment ago."""
    there = firsts(connection, code, targets)
    kept = keep(connection, there.values())
    unsure = {target for target in targets if there.get(target) not in kept}
    if not unsure:
        return unsure
    linked = connection.execute(
        select(link.c.kind, link.c.entity_key).where(
            link.c.portal == code,
            link.c.remote_id.is_not(None),
            of_entities(link.c.kind, link.c.entity_key, unsure),
        )
    )
    known = {(kind, key) for kind, key in linked}
    return {target for target in unsure if target in there or target in known}


def _why(row: Waiting) -> str:
    target = f"{row.target.kind} {row.target.key}"
    return f"waits for the id of {row.reason or target}"[:255]


def postpone(connection: Connection, postponed: Sequence[Postponed]) -> None:
    """Leave rows until their method may be called again.

    Writes: outbox, the due time of ready rows.
    """
    groups: dict[int, list[int]] = {}
    for row in postponed:
        groups.setdefault(row.until_ms, []).append(row.row_id)
    for until_ms, ids in groups.items():
        connection.execute(
            update(outbox)
            .where(outbox.c.id.in_(ids), outbox.c.state == written(RowState.READY))
            .values(due_at=until_ms)
        )


def put_off(
    connection: Connection, code: str, rows: Mapping[tuple[str, str], str], *, rest_ms: int
) -> None:
    """Leave the ready rows of these entities for a while, with what was complained of.

    Shape: ``rows`` are complaints by kind and key.
    Units: milliseconds from now.
    Writes: outbox, the due time of ready rows.
    """
    for (kind, key), complaint in rows.items():
        connection.execute(
            update(outbox)
            .where(
                outbox.c.portal == code,
                outbox.c.kind == kind,
                outbox.c.entity_key == key,
                outbox.c.state == written(RowState.READY),
            )
            .values(
                due_at=now_ms() + rest_ms,
                last_error=complaint,
                first_error=func.coalesce(outbox.c.first_error, complaint),
            )
        )


def waits_for(kind: str, key: str) -> str:
    """An entity as one text, for the column that names what a row waits for."""
    return f"{kind} {key}"


def release_waiting(connection: Connection, made: Sequence[Settlement]) -> None:
    """Rows that waited for these ids go on."""
    if made:
        entities = [(s.row.kind, s.row.key) for s in made]
        release_for(connection, made[0].row.portal, entities)


def release_for(connection: Connection, code: str, entities: Sequence[tuple[str, str]]) -> int:
    """Rows that wait for these entities look anew at what they wait for.

    Shape: how many were released.
    Writes: outbox, held to ready.
    """
    return release(connection, code, known=entities)


def release_parked(connection: Connection, code: str, entities: Sequence[tuple[str, str]]) -> int:
    """Let the first parked row of each of these entities go on.

    Shape: how many were released.
    Writes: outbox, parked to ready.
    """
    return release(connection, code, gone=entities)


def release(
    connection: Connection,
    code: str,
    *,
    gone: Sequence[tuple[str, str]] = (),
    known: Sequence[tuple[str, str]] = (),
) -> int:
    """Let the first parked rows of entities go on, and all rows that wait for the ids of others.

    Shape: ``gone`` are entities whose first row has left, ``known`` those that are waited for no
    more. How many were released.
    Writes: outbox, parked or held to ready; nothing, if there are none.
    """
    if not gone and not known:
        return 0
    lists = lists_of(dict.fromkeys(gone))
    kinds = len(lists) // 2
    targets = [waits_for(kind, key) for kind, key in dict.fromkeys(known)]
    found = connection.execute(
        _releasable(kinds, waits=bool(targets)), {"code": code, "targets": targets, **lists}
    )
    ids = [row_id for row_id in found.scalars().all() if row_id is not None]
    if not ids:
        return 0
    return connection.execute(_RELEASE, {"ids": ids}).rowcount


@lru_cache(maxsize=64)
def _releasable(kinds: int, *, waits: bool) -> CompoundSelect[Any]:
    """The rows that may go on, and a nothing for each entity without one.

    The first row of an entity is looked up in the index, however many stand behind it.
    """
    parts: list[Select[Any]] = []
    for number in range(kinds):
        key = each_of(bindparam(f"keys_{number}", type_=Spread())).table_valued(
            column("value", Text), name=f"keys_{number}"
        )
        first = (
            select(func.min(outbox.c.id))
            .where(
                outbox.c.portal == bindparam("code"),
                outbox.c.kind == bindparam(f"kind_{number}"),
                outbox.c.entity_key == key.c.value,
                outbox.c.state == written(RowState.PARKED),
            )
            .scalar_subquery()
        )
        parts.append(select(first).select_from(key))
    if waits:
        parts.append(
            select(outbox.c.id).where(
                outbox.c.portal == bindparam("code"),
                among(outbox.c.waits_for, bindparam("targets", type_=Listed())),
                row_guard(RowEvent.RELEASE),
            )
        )
    return union_all(*parts)


_RELEASE = (
    update(outbox)
    .where(among(outbox.c.id, bindparam("ids", type_=Listed())), row_guard(RowEvent.RELEASE))
    .values(state=str(RowState.READY), waits_for=null(), state_reason=null())
)


def sweep(connection: Connection, *, limit: int = 1000) -> int:
    """Release rows that wait for nothing any more; a net under the releases above.

    A held row that was cancelled, or whose time is over, is released to end in its next pass.

    Shape: how many were released, of at most ``limit`` looked at of each sort.
    Writes: outbox, parked or held to ready.
    """
    free = (
        select(outbox.c.id)
        .where(outbox.c.state == written(RowState.PARKED), ~is_behind())
        .limit(limit)
    )
    is_known = exists(
        select(literal(1)).where(
            link.c.portal == outbox.c.portal,
            link.c.remote_id.is_not(None),
            outbox.c.waits_for == link.c.kind + " " + link.c.entity_key,
        )
    )
    answered = (
        select(outbox.c.id)
        .where(outbox.c.state == written(RowState.HELD), outbox.c.waits_for.is_not(None), is_known)
        .limit(limit)
    )
    over = (
        select(outbox.c.id)
        .where(
            outbox.c.state == written(RowState.HELD),
            or_(outbox.c.cancel_requested, outbox.c.expires_at <= now_ms()),
        )
        .limit(limit)
    )
    ids = [
        number for found in (free, answered, over) for number in connection.execute(found).scalars()
    ]
    return connection.execute(_RELEASE, {"ids": ids}).rowcount if ids else 0
