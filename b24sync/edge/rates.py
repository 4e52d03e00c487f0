"""How fast a portal may be called: one bucket that all workers pour into, so that together they keep it.

The portal counts by the address that calls it. Workers behind the same address are one egress group
and have one bucket for each portal; the group is read with the portal (``tenants``).
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    RowMapping,
    Update,
    and_,
    bindparam,
    case,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)

from b24sync.core.limits import (
    LEAST,
    RECOVERY_MS,
    Bucket,
    Lesson,
    Rate,
    believed,
    room,
    taught,
)
from b24sync.edge.database import greatest, insert_missing, least, now_ms
from b24sync.edge.tables import bucket
from b24sync.edge.tenants import Tenant

PEOPLE_MS = 600_000
"""How long after a person's last call some of the rate is kept free for the next one."""


def _double(name: str) -> ColumnElement[float]:
    return bindparam(name, type_=Double)


def _larger(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(greatest(one, other), Double())


def _smaller(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(least(one, other), Double())


X, Y, NOW, THEN = _double("x"), _double("y"), now_ms(), bucket.c.updated_at
# A clock that went back lets nothing leak, and must not make the bucket forget.
ELAPSED_MS = _larger(NOW - THEN, literal_column("0"))
RECOVERED = _larger(NOW - bucket.c.taught_at, literal_column("0")) / float(RECOVERY_MS)
# The same as `believed` and `room` of the core; null, where nothing was taught.
BELIEVED_X = case(
    (bucket.c.taught_x.is_(None), X),
    else_=_smaller(X, _larger(bucket.c.taught_x, _double("one")) + X * RECOVERED),
)
BELIEVED_Y = case(
    (bucket.c.taught_y.is_(None), Y),
    else_=_smaller(Y, _larger(bucket.c.taught_y, _double("least_y")) + Y * RECOVERED),
)
LEVEL = _larger(bucket.c.level - BELIEVED_Y * ELAPSED_MS / 1000.0, _double("zero"))
FREE = _double("reserve") + case(
    (bucket.c.people_at > NOW - PEOPLE_MS, _double("kept")), else_=_double("zero")
)
ROOM = _larger(BELIEVED_X - FREE, _double("one"))
MINE = and_(
    bucket.c.portal == bindparam("of_portal"), bucket.c.egress_group == bindparam("of_group")
)

_POUR: Update = (
    update(bucket)
    .where(
        MINE,
        or_(bucket.c.blocked_until.is_(None), bucket.c.blocked_until <= NOW),
        LEVEL + 1 <= ROOM,
    )
    # In this order: MySQL's later assignments see what the earlier ones have changed.
    .ordered_values(
        (bucket.c.level, LEVEL + _double("requests")),
        (bucket.c.updated_at, greatest(NOW, THEN)),
    )
)
_READ = select(bucket, NOW.label("now")).where(MINE)
_PERSON = update(bucket).where(MINE).values(people_at=NOW)
_RING = (
    update(bucket)
    .where(MINE, or_(bucket.c.ring_at.is_(None), bucket.c.ring_at <= NOW))
    .values(ring_at=NOW + bindparam("in_ms"))
)


def spend(
    connection: Connection,
    of: Tenant,
    *,
    requests: int = 1,
    reserve: float = 0.0,
    kept: float = 0.0,
    by_person: bool = False,
) -> int:
    """Take requests out of the portal's rate; 0, or the milliseconds until they fit.

    A bucket that cannot hold them all at once is filled by the one request that fits.

    Units: ``reserve`` requests are left to others; ``kept`` ones besides, if a person has called the
    portal in the last ten minutes. ``by_person``: somebody waits for this one.
    Writes: bucket, by one guarded statement, so that all workers together keep the rate.
    """
    if by_person:
        # Also if it has to wait now: whoever comes next is let through then.
        _bring(connection, of)
        connection.execute(_PERSON, _key(of))
    # As if the others were kept free; they are poured in with the first.
    more = min(requests - 1, max(0, int(of.rate_x - reserve) - 1))
    asked = {"reserve": reserve + more, "kept": kept, "requests": 1 + more}
    if _is_poured(connection, of, asked):
        return 0
    wait_ms = _until_one_fits(connection, of, asked)
    if wait_ms is not None:
        return wait_ms
    # The first request of a portal: whoever brings the bucket, each pours into the same one.
    _bring(connection, of)
    return 0 if _is_poured(connection, of, asked) else 1


def _key(of: Tenant) -> dict[str, str]:
    return {"of_portal": of.code, "of_group": of.egress_group}


def _bring(connection: Connection, of: Tenant) -> None:
    insert_missing(connection, bucket, [{"portal": of.code, "egress_group": of.egress_group}])


def _is_poured(connection: Connection, of: Tenant, asked: Mapping[str, float]) -> bool:
    plan = plan_of(of)
    fixed = {"zero": 0.0, "one": 1.0, "least_y": plan.y * LEAST}
    given = {**_key(of), **fixed, **asked, "x": plan.x, "y": plan.y}
    return connection.execute(_POUR, given).rowcount == 1


def _until_one_fits(connection: Connection, of: Tenant, asked: Mapping[str, float]) -> int | None:
    """Milliseconds, at least one; ``None``, there is no bucket yet."""
    row = connection.execute(_READ, _key(of)).mappings().first()
    if row is None:
        return None
    now = int(row["now"])
    is_with_people = row["people_at"] is not None and row["people_at"] > now - PEOPLE_MS
    free = asked["reserve"] + (asked["kept"] if is_with_people else 0.0)
    value = bucket_in(row, plan_of(of), free)
    blocked_ms = (row["blocked_until"] or 0) - now
    return max(1, value.wait_ms(now), int(blocked_ms))


def plan_of(of: Tenant) -> Rate:
    """The rate that the portal's plan gives; of one that cannot be, the nearest that can."""
    return Rate(x=max(1.0, of.rate_x), y=of.rate_y)


def bucket_in(row: RowMapping, plan: Rate, free: float = 0.0) -> Bucket:
    """A row as a value: what is believed of the rate at the time of reading it.

    Shape: ``row`` is one of the table, with the time as ``now``.
    Units: ``free`` requests are left to others.
    """
    now = believed(plan, lesson_in(row), int(row["now"]))
    return Bucket(
        level=row["level"],
        capacity=room(now.x, free),
        leak_per_s=now.y,
        updated_at_ms=row["updated_at"],
    )


def lesson_in(row: RowMapping) -> Lesson | None:
    """What the refusals of a row's portal have taught; ``None``, there were none."""
    if row["taught_x"] is None:
        return None
    return Lesson(
        x=row["taught_x"], y=row["taught_y"], at_ms=row["taught_at"], refusals=row["refusals"]
    )


def fill(connection: Connection, of: Tenant) -> None:
    """Believe the portal that its rate is used up, whatever was counted here, and learn from it.

    Writes: bucket.
    """
    found = connection.execute(_READ.with_for_update(), _key(of)).mappings().first()
    if found is None:
        return
    now, plan = int(found["now"]), plan_of(of)
    lesson = taught(plan, lesson_in(found), now)
    before = bucket_in(found, plan)
    # Full by what is believed from now on; what was poured in above that leaks first.
    above = max(0.0, before.level_at(now) - before.capacity)
    connection.execute(
        update(bucket)
        .where(MINE)
        .values(
            level=believed(plan, lesson, now).x + above,
            updated_at=max(now, found["updated_at"]),
            taught_x=lesson.x,
            taught_y=lesson.y,
            taught_at=lesson.at_ms,
            refusals=lesson.refusals,
            refused_at=now,
        ),
        _key(of),
    )


def may_ring(connection: Connection, code: str, egress_group: str, *, in_ms: int) -> bool:
    """Undertake to ring for a portal when its rate has room again; ``False``, somebody else will.

    One who does not come is forgotten when that time is over.
    Writes: bucket.
    """
    given = {"of_portal": code, "of_group": egress_group, "in_ms": in_ms}
    return connection.execute(_RING, given).rowcount == 1
