"""Local entity to remote id, unique both ways."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select, update

from b24sync.core.model import Link, LinkState
from b24sync.core.settlement import Settlement
from b24sync.edge.database import now_ms, upsert
from b24sync.edge.guards import of_entities
from b24sync.edge.tables import link
from b24sync.edge.waiting import release_waiting


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
    found = connection.execute(
        select(
            link.c.kind, link.c.entity_key, link.c.remote_id, link.c.generation, link.c.state
        ).where(link.c.portal == code, of_entities(link.c.kind, link.c.entity_key, wanted))
    )
    return {
        (kind, key): Link(
            kind=kind,
            key=key,
            remote_id=remote_id,
            generation=generation,
            state=LinkState(state),
        )
        for kind, key, remote_id, generation, state in found
    }


def remember(connection: Connection, settlements: Sequence[Settlement], now: int) -> None:
    """Remember the new ids, and forget those of deleted records."""
    made = [s for s in settlements if s.link_present]
    gone = [s for s in settlements if s.link_deleted]
    if gone:
        _unlink(connection, gone)
    if not made:
        return
    holders = _holders(connection, made)
    upsert(
        connection,
        link,
        [_link_row(settlement, holders, now) for settlement in made],
        keys=("portal", "kind", "entity_key"),
        update=lambda new: {
            column: new(column)
            for column in ("remote_id", "state", "dup_ids", "last_outbox_id", "updated_at")
        },
    )
    release_waiting(connection, [s for s in made if _holds(s, holders)])


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
        "dup_ids": [settlement.remote_id] if state is LinkState.CONFLICT else None,
        "last_outbox_id": row.id,
        "updated_at": now,
    }


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
    found = connection.execute(
        select(link.c.kind, link.c.remote_id, link.c.entity_key).where(
            link.c.portal == made[0].row.portal,
            of_entities(link.c.kind, link.c.remote_id, pairs),
        )
    )
    return first | {(kind, remote_id): key for kind, remote_id, key in found}


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
            sent_hash=None,
            updated_at=now_ms(),
        )
    )
