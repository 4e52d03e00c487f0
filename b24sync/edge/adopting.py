"""Links as people handle them: brought in for records that were there before, shown, forgotten.

What a worker learns by itself is written by ``links``. Here nothing is decided; the statements are
such that a link which a worker writes meanwhile is never written over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, null, select, text, update

from b24sync.core.model import LinkState
from b24sync.edge.database import insert_missing, now_ms, upsert
from b24sync.edge.guards import of_entities
from b24sync.edge.tables import link

_FORGOTTEN = {name: null() for name in ("dup_ids", "sent_fields", "multifield_ids")}
"""What was known of another record, or of another life of this one."""


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A local entity and the id of its record, as somebody outside knows them."""

    kind: str
    key: str
    remote_id: str

    @property
    def entity(self) -> tuple[str, str]:
        """What is linked."""
        return self.kind, self.key

    @property
    def record(self) -> tuple[str, str]:
        """What it is linked to."""
        return self.kind, self.remote_id


@dataclass(frozen=True, slots=True)
class Known:
    """What is linked.

    Shape: ``ids`` by entity, ``None`` for a link without an id; ``holders`` are keys by record.
    """

    ids: Mapping[tuple[str, str], str | None] = field(
        default_factory=dict[tuple[str, str], str | None]
    )
    holders: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLink:
    """One link, as people see it.

    Units: ``updated_at_ms`` epoch milliseconds; ``age_ms`` milliseconds by the database's clock.
    """

    portal: str
    kind: str
    key: str
    remote_id: str | None
    state: str
    generation: int
    duplicates: tuple[str, ...]
    updated_at_ms: int
    age_ms: int


def plan_anew(connection: Connection) -> None:
    """Let PostgreSQL plan each of these statements for the table as it is then.

    After five executions it would keep a plan, and one that was made for an empty table reads all
    of it each time while it fills. Ends with the transaction.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))


def read_known(connection: Connection, code: str, records: Sequence[KnownRecord]) -> Known:
    """What the table says of these entities, and of these records.

    Writes: nothing.
    """
    entities = [known.entity for known in records]
    linked = connection.execute(
        select(link.c.kind, link.c.entity_key, link.c.remote_id).where(
            link.c.portal == code, of_entities(link.c.kind, link.c.entity_key, entities)
        )
    )
    ids = [known.record for known in records]
    held = connection.execute(
        select(link.c.kind, link.c.remote_id, link.c.entity_key).where(
            link.c.portal == code, of_entities(link.c.kind, link.c.remote_id, ids)
        )
    )
    return Known(
        ids={(kind, key): remote_id for kind, key, remote_id in linked},
        holders={(kind, remote_id): key for kind, remote_id, key in held},
    )


def give_up(connection: Connection, code: str, former: Sequence[KnownRecord]) -> None:
    """Take these ids from these keys; what they get instead comes in the same transaction.

    Writes: link, present to absent.
    """
    connection.execute(
        update(link)
        .where(
            link.c.portal == code,
            of_entities(link.c.kind, link.c.entity_key, [known.entity for known in former]),
            of_entities(link.c.kind, link.c.remote_id, [known.record for known in former]),
        )
        .values(remote_id=None, state=str(LinkState.ABSENT))
    )


def add_links(connection: Connection, code: str, records: Sequence[KnownRecord]) -> None:
    """Link entities that have no link; one whose key or id is linked by now is left alone.

    Writes: link.
    """
    insert_missing(connection, link, [_row(code, known) for known in records])


def fill_links(connection: Connection, code: str, records: Sequence[KnownRecord]) -> None:
    """Give ids to links that have none; an id that came meanwhile stays.

    Raises: sqlalchemy.exc.IntegrityError if another key has got one of these ids meanwhile.
    Writes: link, any state to present.
    """
    upsert(
        connection,
        link,
        [_row(code, known) for known in records],
        keys=("portal", "kind", "entity_key"),
        update=_filled,
    )


def _filled(new: Callable[[str], Any]) -> Mapping[str, object]:
    return {
        "remote_id": func.coalesce(link.c.remote_id, new("remote_id")),
        "state": new("state"),
        "updated_at": now_ms(),
        **_FORGOTTEN,
    }


def _row(code: str, known: KnownRecord) -> dict[str, object]:
    return {
        "portal": code,
        "kind": known.kind,
        "entity_key": known.key,
        "remote_id": known.remote_id,
        "state": str(LinkState.PRESENT),
    }


def forget(connection: Connection, code: str, kind: str, key: str) -> bool:
    """Unlink an entity, whatever its link says; ``False``, there was nothing to forget.

    Its row stays, with the next generation: a record made anew must not be taken for the old one,
    which is still on the portal.
    Writes: link to absent.
    """
    forgotten = connection.execute(
        update(link)
        .where(
            link.c.portal == code,
            link.c.kind == kind,
            link.c.entity_key == key,
            link.c.state.not_in([str(LinkState.ABSENT), str(LinkState.DELETED)]),
        )
        .values(
            remote_id=None,
            state=str(LinkState.ABSENT),
            generation=link.c.generation + 1,
            updated_at=now_ms(),
            **_FORGOTTEN,
        )
    )
    return forgotten.rowcount == 1


def known_links(
    connection: Connection,
    *,
    portal: str | None = None,
    kind: str | None = None,
    key: str | None = None,
    state: str | None = None,
    limit: int | None = None,
) -> tuple[KnownLink, ...]:
    """The links that are meant, by portal, kind and key; every condition narrows.

    Writes: nothing.
    """
    wanted = {
        link.c.portal: portal,
        link.c.kind: kind,
        link.c.entity_key: key,
        link.c.state: state,
    }
    found = connection.execute(
        select(link, now_ms().label("now"))
        .where(*(column == value for column, value in wanted.items() if value is not None))
        .order_by(link.c.portal, link.c.kind, link.c.entity_key)
        .limit(limit)
    )
    return tuple(
        KnownLink(
            portal=row["portal"],
            kind=row["kind"],
            key=row["entity_key"],
            remote_id=row["remote_id"],
            state=row["state"],
            generation=row["generation"],
            duplicates=tuple(str(number) for number in row["dup_ids"] or ()),
            updated_at_ms=row["updated_at"],
            age_ms=max(0, row["now"] - row["updated_at"]),
        )
        for row in found.mappings()
    )
