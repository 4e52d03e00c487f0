"""How fast a portal may be called: one bucket that all workers pour into, so that together they keep it."""

from sqlalchemy import Connection, case, or_, select, update

from b24sync.core.limits import Bucket
from b24sync.edge.database import insert_missing, now_ms
from b24sync.edge.tables import bucket
from b24sync.edge.tenants import Tenant


def spend(connection: Connection, of: Tenant, *, requests: int = 1, reserve: float = 0.0) -> int:
    """Take requests out of the portal's rate; 0, or the milliseconds until they fit.

    A bucket that cannot hold them all at once is filled by the one request that fits.

    Writes: bucket, by one guarded statement, so that all workers together keep the rate.
    """
    # As if the others were kept free; they are poured in with the first.
    more = min(requests - 1, max(0, int(of.rate_x - reserve) - 1))
    reserve += more
    if _poured(connection, of, reserve, 1 + more):
        return 0
    wait_ms = _until_one_fits(connection, of, reserve)
    if wait_ms is not None:
        return wait_ms
    # The first request of a portal: whoever brings the bucket, each pours into the same one.
    empty = {"portal": of.code, "egress_group": of.egress_group}
    insert_missing(connection, bucket, [empty])
    return 0 if _poured(connection, of, reserve, 1 + more) else 1


def _poured(connection: Connection, of: Tenant, reserve: float, requests: int) -> bool:
    now, then = now_ms(), bucket.c.updated_at
    # A clock that went back lets nothing leak, and must not make the bucket forget.
    elapsed_ms = case((now > then, now - then), else_=0)
    leaked = bucket.c.level - of.rate_y * elapsed_ms / 1000.0
    level = case((leaked > 0, leaked), else_=0.0)
    spent = connection.execute(
        update(bucket)
        .where(
            bucket.c.portal == of.code,
            bucket.c.egress_group == of.egress_group,
            or_(bucket.c.blocked_until.is_(None), bucket.c.blocked_until <= now_ms()),
            level + 1 <= of.rate_x - reserve,
        )
        # In this order: MySQL's later assignments see what the earlier ones have changed.
        .ordered_values(
            (bucket.c.level, level + requests),
            (bucket.c.updated_at, case((now > then, now), else_=then)),
        )
    )
    return spent.rowcount == 1


def _until_one_fits(connection: Connection, of: Tenant, reserve: float) -> int | None:
    """Milliseconds, at least one; ``None``, there is no bucket yet."""
    row = (
        connection.execute(
            select(bucket, now_ms().label("now")).where(
                bucket.c.portal == of.code, bucket.c.egress_group == of.egress_group
            )
        )
        .mappings()
        .first()
    )
    if row is None:
        return None
    value = Bucket(
        level=row["level"],
        capacity=of.rate_x - reserve,
        leak_per_s=of.rate_y,
        updated_at_ms=row["updated_at"],
    )
    blocked_ms = (row["blocked_until"] or 0) - row["now"]
    return max(1, value.wait_ms(int(row["now"])), int(blocked_ms))


def fill(connection: Connection, of: Tenant) -> None:
    """Believe the portal that its rate is used up, whatever was counted here.

    Writes: bucket.
    """
    connection.execute(
        update(bucket)
        .where(bucket.c.portal == of.code, bucket.c.egress_group == of.egress_group)
        .values(level=of.rate_x, updated_at=now_ms())
    )
