"""How far an audit has come, and the links that it walks over.

Each portal has a row of its own among the chores: a round is begun by one process at a time, goes
on where the last slice left it, and is begun anew when it is time.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2s

from sqlalchemy import Connection, case, func, or_, select, update

from b24sync.core.auditing import Linked
from b24sync.core.model import LinkState, PortalState
from b24sync.edge.database import insert_missing, now_ms
from b24sync.edge.guards import of_entities
from b24sync.edge.tables import chore, link, portal

NAME_LENGTH = 32
PREFIX = "audit:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an audit is: behind this link, among those of these kinds; none, among all.

    Shape: both empty before the first link.
    """

    kind: str = ""
    key: str = ""
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round that this process may go on with."""

    token: int
    place: Place


def chore_of(code: str) -> str:
    """The name of a portal's row among the chores; of a long code, a digest."""
    name = PREFIX + code
    if len(name) <= NAME_LENGTH:
        return name
    return PREFIX + blake2s(code.encode(), digest_size=13).hexdigest()


def due(connection: Connection, *, every_ms: int) -> tuple[str, ...]:
    """The active portals whose round is to be begun or gone on with, the longest neglected first.

    Units: ``every_ms`` from the beginning of one round to that of the next.
    Writes: nothing.
    """
    resting = select(chore.c.name).where(
        chore.c.name.startswith(PREFIX),
        or_(
            chore.c.lease_until > now_ms(),
            (chore.c.resume_from.is_(None)) & (chore.c.last_run_at > now_ms() - every_ms),
        ),
    )
    not_now = set(connection.execute(resting).scalars())
    begun = select(chore.c.name, chore.c.last_run_at).where(chore.c.name.startswith(PREFIX))
    since = {row[0]: row[1] for row in connection.execute(begun)}
    active = select(portal.c.code).where(portal.c.state == PortalState.ACTIVE)
    codes = connection.execute(active.order_by(portal.c.code)).scalars()
    wanted = [code for code in codes if chore_of(code) not in not_now]
    return tuple(sorted(wanted, key=lambda code: since.get(chore_of(code), 0)))


def renew(connection: Connection, code: str, kinds: Collection[str]) -> None:
    """Let a portal's next round begin now, over these kinds, or over all if none is named.

    A round that somebody is at just now goes on as it is.
    Writes: chore.
    """
    insert_missing(connection, chore, [{"name": chore_of(code)}])
    connection.execute(
        update(chore)
        .where(chore.c.name == chore_of(code), chore.c.lease_until <= now_ms())
        .values(resume_from=_written(Place(kinds=tuple(kinds))), last_run_at=now_ms())
    )


def begin(connection: Connection, code: str, *, every_ms: int, lease_ms: int) -> Round | None:
    """Become the one who audits a portal now; ``None``, somebody else does, or it is not its time.

    Units: ``lease_ms`` bounds a slice whose process dies.
    Writes: chore, by one guarded statement.
    """
    name = chore_of(code)
    insert_missing(connection, chore, [{"name": name}])
    is_new = chore.c.resume_from.is_(None)
    begun = connection.execute(
        update(chore)
        .where(
            chore.c.name == name,
            chore.c.lease_until <= now_ms(),
            or_(~is_new, chore.c.last_run_at <= now_ms() - every_ms),
        )
        # In this order: MySQL's later assignments see what the earlier ones have changed.
        .ordered_values(
            (chore.c.last_run_at, case((is_new, now_ms()), else_=chore.c.last_run_at)),
            (chore.c.resume_from, func.coalesce(chore.c.resume_from, _written(Place()))),
            (chore.c.lease_until, now_ms() + lease_ms),
            (chore.c.token, chore.c.token + 1),
        )
    )
    if begun.rowcount != 1:
        return None
    found = select(chore.c.token, chore.c.resume_from).where(chore.c.name == name)
    token, written = connection.execute(found).one()
    return Round(token=token, place=_read(written))


def keep(connection: Connection, code: str, token: int, place: Place, *, lease_ms: int) -> bool:
    """Remember how far the round has come; ``False``, it is somebody else's by now.

    Writes: chore.
    """
    kept = connection.execute(
        update(chore)
        .where(chore.c.name == chore_of(code), chore.c.token == token)
        .values(resume_from=_written(place), lease_until=now_ms() + lease_ms)
    )
    return kept.rowcount == 1


def leave(connection: Connection, code: str, token: int, *, is_over: bool) -> None:
    """Let the round go: to whoever goes on with it, or because all was seen.

    Writes: chore.
    """
    values: dict[str, object] = {"lease_until": 0}
    if is_over:
        values["resume_from"] = None
    connection.execute(
        update(chore).where(chore.c.name == chore_of(code), chore.c.token == token).values(**values)
    )


def _written(place: Place) -> str:
    return json.dumps([place.kind, place.key, *place.kinds], ensure_ascii=False)


def _read(text: str) -> Place:
    kind, key, *kinds = json.loads(text)
    return Place(kind=kind, key=key, kinds=tuple(kinds))


def next_kind(connection: Connection, code: str, after: str) -> str | None:
    """The first kind behind this one that a portal has links of; by one look at the index.

    Writes: nothing.
    """
    statement = select(func.min(link.c.kind)).where(link.c.portal == code, link.c.kind > after)
    return connection.execute(statement).scalar()


def linked_after(
    connection: Connection, code: str, kind: str, key: str, *, limit: int
) -> tuple[Linked, ...]:
    """The next entities of a kind with a record of their own, in the order of their keys.

    Writes: nothing.
    """
    found = connection.execute(
        select(link.c.entity_key, link.c.remote_id, link.c.generation)
        .where(
            link.c.portal == code,
            link.c.kind == kind,
            link.c.entity_key > key,
            link.c.state == str(LinkState.PRESENT),
        )
        .order_by(link.c.entity_key)
        .limit(limit)
    )
    return tuple(
        Linked(kind=kind, key=row[0], remote_id=row[1], generation=row[2]) for row in found
    )


def count_links(connection: Connection, code: str, kinds: Sequence[str] = ()) -> int:
    """How many links an audit of these kinds has to look at; for people, who wait for it.

    Writes: nothing.
    """
    statement = select(func.count()).where(
        link.c.portal == code, link.c.state == str(LinkState.PRESENT)
    )
    if kinds:
        statement = statement.where(link.c.kind.in_(kinds))
    return int(connection.execute(statement).scalar_one())


def still_linked(
    connection: Connection, code: str, linked: Sequence[Linked]
) -> frozenset[tuple[str, str, str]]:
    """Kind, key and id of those of these links that are still as they were read.

    Writes: nothing.
    """
    found = connection.execute(
        select(link.c.kind, link.c.entity_key, link.c.remote_id).where(
            link.c.portal == code,
            of_entities(link.c.kind, link.c.entity_key, [(one.kind, one.key) for one in linked]),
        )
    )
    return frozenset((kind, key, number) for kind, key, number in found if number is not None)
