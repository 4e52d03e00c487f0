"""Which lane is drained next: who is woken, who is due, and whose turn it is.

Lanes are taken in the order of their virtual time, which grows with what they were served: a tenant
with a million rows cannot stand before one with a single row for ever.

Whether rows are due is found out here, by looking, and never by touching a lane inside the
transaction of an application.
"""

from collections.abc import Collection

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)

from b24sync.core.model import BatchState, PortalState, RowState
from b24sync.edge.database import insert_missing, now_ms, skip_locked
from b24sync.edge.lanes import SILENT, Lane, has_due, is_stopped
from b24sync.edge.tables import batch, lane, outbox, portal
from b24sync.edge.tenants import tenant

CANDIDATES = 16
"""How many lanes a taker tries of which others may be taking the first at the same moment."""


def _is_active() -> ColumnElement[bool]:
    active = select(portal.c.code).where(portal.c.state == PortalState.ACTIVE)
    return lane.c.portal.in_(active)


def _is_free() -> ColumnElement[bool]:
    return and_(
        or_(lane.c.lease_until.is_(None), lane.c.lease_until < now_ms()),
        or_(lane.c.breaker_until.is_(None), lane.c.breaker_until <= now_ms()),
        ~is_stopped(),
    )


def _doubtful() -> ColumnElement[bool]:
    """Batches of a lane in doubt, found by the index of open ones."""
    return and_(
        batch.c.portal == lane.c.portal,
        batch.c.lane == lane.c.lane,
        batch.c.closed_at.is_(None),
        batch.c.state == str(BatchState.DOUBT),
    )


def wake(connection: Connection, code: str | None = None) -> int:
    """Mark lanes as due in which rows wait that nobody has noticed yet.

    Shape: the number of lanes marked, of one portal or of all.
    Writes: lane, where it is not due and its portal is active; and a lane that rows name and that
    its portal does not have yet.
    """
    _complete(connection, code)
    in_doubt = exists(select(literal(1)).where(_doubtful(), batch.c.quiet_until <= now_ms()))
    asleep = select(lane.c.portal, lane.c.lane).where(
        or_(lane.c.next_due_at.is_(None), lane.c.next_due_at > now_ms()),
        _is_active(),
        or_(has_due(), in_doubt),
    )
    if code is not None:
        asleep = asleep.where(lane.c.portal == code)
    found = connection.execute(asleep).all()
    if not found:
        return 0
    # An idle lane enters at the present, or it would be owed for the time it had nothing to do.
    present = connection.execute(
        select(func.min(lane.c.vtime)).where(lane.c.next_due_at.is_not(None))
    ).scalar()
    floor = float(present or 0.0)
    for name, number in found:
        connection.execute(
            update(lane)
            .where(lane.c.portal == name, lane.c.lane == number)
            .values(
                next_due_at=now_ms(),
                wake_seq=lane.c.wake_seq + 1,
                vtime=case((lane.c.vtime < floor, floor), else_=lane.c.vtime),
            )
        )
    return len(found)


def _complete(connection: Connection, code: str | None) -> None:
    """Make the lanes that ready rows of known portals name, or nobody would ever drain them.

    From each lane one look at the index finds the next one that has rows, however many there are.
    """
    before = union_all(
        select(lane.c.portal, lane.c.lane), select(portal.c.code, literal(-1))
    ).subquery("before")
    following = (
        select(func.min(outbox.c.lane))
        .where(
            outbox.c.portal == before.c.portal,
            outbox.c.lane > before.c.lane,
            outbox.c.state == RowState.READY,
        )
        .scalar_subquery()
    )
    named = select(before.c.portal, following.label("lane")).subquery("named")
    is_there = exists(
        select(literal(1)).where(lane.c.portal == named.c.portal, lane.c.lane == named.c.lane)
    )
    missing = select(named).distinct().where(named.c.lane.is_not(None), ~is_there)
    if code is not None:
        missing = missing.where(named.c.portal == code)
    while found := connection.execute(missing).all():
        insert_missing(connection, lane, [{"portal": p, "lane": number} for p, number in found])


def due(connection: Connection, code: str | None = None) -> int:
    """How many lanes could be taken now.

    Writes: nothing.
    """
    statement = (
        select(func.count())
        .select_from(lane)
        .where(lane.c.next_due_at <= now_ms(), _is_free(), _is_active())
    )
    if code is not None:
        statement = statement.where(lane.c.portal == code)
    return int(connection.execute(statement).scalar_one())


def next_due_ms(connection: Connection, code: str | None = None) -> int | None:
    """Milliseconds until a lane of an active portal can be taken; ``None``, none is known to.

    Writes: nothing.
    """
    at = case(
        (
            and_(lane.c.breaker_until.is_not(None), lane.c.breaker_until > lane.c.next_due_at),
            lane.c.breaker_until,
        ),
        else_=lane.c.next_due_at,
    )
    statement = select(func.min(at), now_ms()).where(
        lane.c.next_due_at.is_not(None), _is_active(), ~is_stopped()
    )
    if code is not None:
        statement = statement.where(lane.c.portal == code)
    first, now = connection.execute(statement).one()
    return None if first is None else max(0, int(first) - int(now))


def take(
    connection: Connection,
    *,
    owner: str,
    lease_ms: int,
    code: str | None = None,
    without: Collection[tuple[str, int]] = (),
) -> Lane | None:
    """Own the fairest lane that is due and free, or none.

    Shape: ``without`` are portal and number of lanes that are passed over.
    Units: ``lease_ms`` milliseconds from now; short, since nothing is in flight yet.
    Writes: lane, guarded by its epoch; in the caller's transaction.
    """
    found = _locked(connection, code, without)
    if found is None:
        return None
    crashes = 0 if found["lease_until"] is None else found["crashes"] + 1
    taken = connection.execute(
        update(lane)
        .where(
            lane.c.portal == found["portal"],
            lane.c.lane == found["lane"],
            lane.c.lease_epoch == found["lease_epoch"],
        )
        .values(
            lease_epoch=lane.c.lease_epoch + 1,
            lease_until=now_ms() + lease_ms,
            lease_owner=owner[:255],
            crashes=crashes,
        )
    )
    if taken.rowcount != 1:
        return None
    return Lane(
        tenant=tenant(connection, found["portal"]),
        lane=found["lane"],
        epoch=found["lease_epoch"] + 1,
        wake_seq=found["wake_seq"],
        open_batch_id=found["open_batch_id"],
        fail_streak=found["fail_streak"],
        first_rows=tuple(found["first_rows"] or ()),
        stopped_by=found["stopped_by"],
        crashes=crashes,
        suspects=tuple(found["suspects"] or ()),
        is_silent=found["breaker"] == SILENT,
    )


def _locked(
    connection: Connection, code: str | None, without: Collection[tuple[str, int]]
) -> RowMapping | None:
    """The fairest lane that nobody else is taking at this moment, locked by its key.

    Ordered and locked in one statement, MariaDB and MySQL lock every lane that they sort.
    """
    is_takeable = and_(lane.c.next_due_at <= now_ms(), _is_free(), _is_active())
    fairest = select(lane.c.portal, lane.c.lane).where(is_takeable)
    if code is not None:
        fairest = fairest.where(lane.c.portal == code)
    for name, number in without:
        fairest = fairest.where(or_(lane.c.portal != name, lane.c.lane != number))
    fairest = fairest.order_by(lane.c.priority, lane.c.vtime, lane.c.portal).limit(CANDIDATES)
    for name, number in connection.execute(fairest).all():
        this = select(lane).where(lane.c.portal == name, lane.c.lane == number, is_takeable)
        found = connection.execute(skip_locked(this)).mappings().first()
        if found is not None:
            return found
    return None
