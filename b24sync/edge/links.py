"""Local entity to remote id, unique both ways."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update

from b24sync.core.model import Link, LinkState, Operation, Row
from b24sync.core.settlement import Settlement
from b24sync.edge.database import now_ms, upsert
from b24sync.edge.guards import lists_of, of_entities, of_kinds
from b24sync.edge.tables import link

CALL = "call"
"""The kind of calls that are about no entity."""


def read_links(
    connection: Connection, code: str, entities: Iterable[tuple[str, str]]
) -> Mapping[tuple[str, str], Link]:
    """What is known of these entities on the portal.

    Shape: by (kind, key); unknown entities are absent.
    Writes: nothing.
    """
    wanted = tuple(entities)
    if not wanted:
        return {}
    lists = lists_of(wanted)
    found = connection.execute(_links_of(len(lists) // 2), {"code": code, **lists})
    return {
        (kind, key): Link(
            kind=kind,
            key=key,
            remote_id=remote_id,
            generation=generation,
            state=LinkState(state),
            sent=sent,
        )
        for kind, key, remote_id, generation, state, sent in found.all()
    }


@lru_cache(maxsize=64)
def _links_of(kinds: int) -> Select[str, str, str | None, int, str, Any]:
    """The links of entities of so many kinds."""
    return select(
        link.c.kind,
        link.c.entity_key,
        link.c.remote_id,
        link.c.generation,
        link.c.state,
        link.c.sent_fields,
    ).where(link.c.portal == bindparam("code"), of_kinds(link.c.kind, link.c.entity_key, kinds))


def remember(
    connection: Connection, settlements: Sequence[Settlement], now: int
) -> list[Settlement]:
    """Remember the new ids, and forget those of deleted records.

    Shape: those of which the id is known now; what waits for them may go on.
    """
    made = [s for s in settlements if s.link_present]
    gone = [s for s in settlements if s.link_deleted]
    if gone:
        _unlink(connection, gone)
    _keep_fingerprints(connection, settlements, now)
    _forget_fingerprints(connection, settlements)
    if not made:
        return []
    holders = _holders(connection, made)
    upsert(
        connection,
        link,
        [_link_row(settlement, holders, now) for settlement in made],
        keys=("portal", "kind", "entity_key"),
        update=_relinked,
    )
    return [s for s in made if _holds(s, holders)]


def _relinked(new: Callable[[str], Any]) -> Mapping[str, object]:
    columns = ("remote_id", "state", "sent_fields", "dup_ids", "last_outbox_id", "updated_at")
    return {column: new(column) for column in columns}


def _keep_fingerprints(connection: Connection, settlements: Sequence[Settlement], now: int) -> None:
    """Remember what updates said, so that the same is not sent again."""
    kept = [
        {
            "of_portal": settlement.row.portal,
            "of_kind": settlement.row.kind,
            "of_key": settlement.row.key,
            "sent": dict(settlement.fingerprints) or None,
            "last": settlement.row.id,
        }
        for settlement in settlements
        if settlement.fingerprints is not None and not settlement.link_present
    ]
    if not kept:
        return
    statement = (
        update(link)
        .where(
            link.c.portal == bindparam("of_portal"),
            link.c.kind == bindparam("of_kind"),
            link.c.entity_key == bindparam("of_key"),
        )
        .values(sent_fields=bindparam("sent"), last_outbox_id=bindparam("last"), updated_at=now)
    )
    connection.execute(statement, kept)


def _forget_fingerprints(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """What may have been written, and what a call may have written, is not known any more."""
    unsure = [
        s
        for s in settlements
        if s.in_doubt or (s.final and s.row.operation is Operation.CALL and s.row.kind != CALL)
    ]
    forget_sent(connection, [s.row for s in unsure])


def forget_sent(connection: Connection, rows: Sequence[Row]) -> None:
    """Forget what was last sent of these rows' entities: the next update is sent, whatever it says.

    Writes: link.
    """
    if not rows:
        return
    connection.execute(
        update(link)
        .where(
            link.c.portal == rows[0].portal,
            of_entities(link.c.kind, link.c.entity_key, {(row.kind, row.key) for row in rows}),
            link.c.sent_fields.is_not(None),
        )
        .values(sent_fields=None)
    )


def _link_row(
    settlement: Settlement, holders: Mapping[tuple[str, str | None], str], now: int
) -> dict[str, object]:
    """Two local entities must not claim one remote record; the later claim is a conflict.

    A record that was made without telling its id is in doubt: nobody may make it again.
    """
    row = settlement.row
    conflict = not _holds(settlement, holders)
    state = LinkState.CONFLICT if conflict else LinkState.PRESENT
    if settlement.remote_id is None:
        state = LinkState.DOUBT
    return {
        "portal": row.portal,
        "kind": row.kind,
        "entity_key": row.key,
        "remote_id": None if conflict else settlement.remote_id,
        "state": str(state),
        "sent_fields": dict(settlement.fingerprints) if settlement.fingerprints else None,
        "dup_ids": _others(settlement, state),
        "last_outbox_id": row.id,
        "updated_at": now,
    }


def _others(settlement: Settlement, state: LinkState) -> list[str | None] | None:
    """Ids that a person should look at: of further records, or the one that somebody else holds."""
    if state is LinkState.CONFLICT:
        return [settlement.remote_id]
    return [*settlement.duplicates] or None


def _holds(settlement: Settlement, holders: Mapping[tuple[str, str | None], str]) -> bool:
    return holders.get((settlement.row.kind, settlement.remote_id)) == settlement.row.key


def _holders(
    connection: Connection, made: Sequence[Settlement]
) -> Mapping[tuple[str, str | None], str]:
    """Which local entity each new remote id belongs to: its holder, else the first to claim it."""
    first: dict[tuple[str, str | None], str] = {}
    for settlement in made:
        if settlement.remote_id is None:
            continue
        first.setdefault((settlement.row.kind, settlement.remote_id), settlement.row.key)
    if not first:
        return first
    pairs = [(kind, remote_id or "") for kind, remote_id in first]
    lists = lists_of(pairs)
    held = _held_by(len(lists) // 2)
    found = connection.execute(held, {"code": made[0].row.portal, **lists})
    return first | {(kind, remote_id): key for kind, remote_id, key in found.all()}


@lru_cache(maxsize=64)
def _held_by(kinds: int) -> Select[str, str, str]:
    """Who holds records of so many kinds."""
    return select(link.c.kind, link.c.remote_id, link.c.entity_key).where(
        link.c.portal == bindparam("code"), of_kinds(link.c.kind, link.c.remote_id, kinds)
    )


def _unlink(connection: Connection, gone: Sequence[Settlement]) -> None:
    connection.execute(
        update(link)
        .where(
            link.c.portal == gone[0].row.portal,
            of_entities(link.c.kind, link.c.entity_key, [(s.row.kind, s.row.key) for s in gone]),
        )
        .values(
            remote_id=None,
            state="deleted",
            generation=link.c.generation + 1,
            sent_fields=None,
            updated_at=now_ms(),
        )
    )
