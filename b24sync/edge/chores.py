"""Periodic chores, each run by one process at a time, however many beats there are."""

from sqlalchemy import Connection, func, or_, select, update

from b24sync.edge.database import insert_missing, now_ms
from b24sync.edge.tables import chore, lane, outbox, portal


def begin(connection: Connection, name: str, *, every_ms: int, lease_ms: int) -> int | None:
    """Become the one who runs a chore now; its token, or ``None`` if it is not its time.

    Units: ``every_ms`` is the interval; ``lease_ms`` bounds a run whose process dies.
    Writes: chore, by one guarded statement.
    """
    insert_missing(connection, chore, [{"name": name}])
    begun = connection.execute(
        update(chore)
        .where(
            chore.c.name == name,
            chore.c.lease_until <= now_ms(),
            # A tick may come a little early; half an interval is not early, it is another beat.
            chore.c.last_run_at <= now_ms() - every_ms // 2,
        )
        .values(lease_until=now_ms() + lease_ms, last_run_at=now_ms(), token=chore.c.token + 1)
    )
    if begun.rowcount != 1:
        return None
    return int(connection.execute(select(chore.c.token).where(chore.c.name == name)).scalar_one())


def hold(connection: Connection, name: str, token: int, *, lease_ms: int) -> bool:
    """Own a chore for longer; whether it is still ours.

    Units: ``lease_ms`` from now.
    Writes: chore.
    """
    held = connection.execute(
        update(chore)
        .where(chore.c.name == name, chore.c.token == token, chore.c.lease_until > 0)
        .values(lease_until=now_ms() + lease_ms)
    )
    return held.rowcount == 1


def end(connection: Connection, name: str, token: int) -> None:
    """Let the chore go, if it is still ours.

    Writes: chore.
    """
    connection.execute(
        update(chore).where(chore.c.name == name, chore.c.token == token).values(lease_until=0)
    )


def abandoned_batches(connection: Connection, *, limit: int = 100) -> tuple[int, ...]:
    """Open batches of lanes whose owner went away.

    Writes: nothing.
    """
    found = connection.execute(
        select(lane.c.open_batch_id)
        .where(
            lane.c.open_batch_id.is_not(None),
            or_(lane.c.lease_until.is_(None), lane.c.lease_until < now_ms()),
        )
        .limit(limit)
    ).scalars()
    return tuple(int(number) for number in found if number is not None)


def unknown_portals(connection: Connection, *, limit: int = 100) -> tuple[str, ...]:
    """Codes that rows name and no portal has: nobody drains them until a person acts.

    Shape: in order, at most ``limit``. From each code one look at the index finds the next one.
    Writes: nothing.
    """
    first = select(func.min(outbox.c.portal))
    following = first.where(outbox.c.portal > portal.c.code).scalar_subquery()
    known = set(connection.execute(select(portal.c.code)).scalars())
    to_see = [
        connection.execute(first).scalar(),
        *connection.execute(select(following).select_from(portal).distinct()).scalars(),
    ]
    unknown: set[str] = set()
    while to_see and len(unknown) < limit:
        code = to_see.pop()
        if code is not None and code not in known and code not in unknown:
            unknown.add(code)
            to_see.append(connection.execute(first.where(outbox.c.portal > code)).scalar())
    return tuple(sorted(unknown))


def forget_batch(connection: Connection, batch_id: int) -> None:
    """Let a lane forget a batch that was closed, unless somebody owns the lane again.

    Writes: lane.
    """
    connection.execute(
        update(lane)
        .where(
            lane.c.open_batch_id == batch_id,
            or_(lane.c.lease_until.is_(None), lane.c.lease_until < now_ms()),
        )
        .values(open_batch_id=None)
    )
