"""Local entity to remote id, unique both ways."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, select, update

from b24sync.core.model import Link
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
        select(link.c.kind, link.c.entity_key, link.c.remote_id, link.c.generation).where(
            link.c.portal == code, of_entities(link.c.kind, link.c.entity_key, wanted)
        )
    )
    return {
        (kind, key): Link(kind=kind, key=key, remote_id=remote_id, generation=generation)
        for kind, key, remote_id, generation in found
    }


def remember(connection: Connection, settlements: Sequence[Settlement], now: int) -> None:
    """Remember the new ids, and forget those of deleted records."""
    made = [s for s in settlements if s.link_present and s.remote_id is not None]
    gone = [s for s in settlements if s.link_deleted]
    if gone:
        _unlink(connection, gone)
    if not made:
        return
    taken = _taken_ids(connection, made)
    upsert(
        connection,
        link,
        [_link_row(settlement, taken, now) for settlement in made],
        keys=("portal", "kind", "entity_key"),
        update=lambda new: {
            column: new(column)
            for column in ("remote_id", "state", "dup_ids", "last_outbox_id", "updated_at")
        },
    )
    known = [s for s in made if (s.row.kind, s.remote_id) not in taken]
    release_waiting(connection, known)


def _link_row(
    settlement: Settlement, taken: Mapping[tuple[str, str | None], str], now: int
) -> dict[str, object]:
    """Two local entities must not claim one remote record; the later claim is a conflict."""
    row = settlement.row
    holder = taken.get((row.kind, settlement.remote_id))
    conflict = holder is not None and holder != row.key
    return {
        "portal": row.portal,
        "kind": row.kind,
        "entity_key": row.key,
        "remote_id": None if conflict else settlement.remote_id,
        "state": "conflict" if conflict else "present",
        "dup_ids": [settlement.remote_id] if conflict else None,
        "last_outbox_id": row.id,
        "updated_at": now,
    }


def _taken_ids(
    connection: Connection, made: Sequence[Settlement]
) -> Mapping[tuple[str, str | None], str]:
    """Which of the new remote ids another local entity holds already."""
    pairs = [(s.row.kind, s.remote_id or "") for s in made]
    keys = {(s.row.kind, s.remote_id): s.row.key for s in made}
    found = connection.execute(
        select(link.c.kind, link.c.remote_id, link.c.entity_key).where(
            link.c.portal == made[0].row.portal,
            of_entities(link.c.kind, link.c.remote_id, pairs),
        )
    )
    return {
        (kind, remote_id): key for kind, remote_id, key in found if keys[kind, remote_id] != key
    }


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
