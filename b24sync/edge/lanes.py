"""Who may drain which portal now, and in which order among tenants.

A lane is (portal, shard). One worker owns it at a time, by a lease whose epoch grows with every
owner; each statement of an owner names its epoch, so that an owner who was away too long writes
nothing. Lanes are taken in the order of their virtual time, which grows with what they were
served: a tenant with a million rows cannot stand before one with a single row for ever.

Whether rows are due is found out here, by looking, and never by touching a lane inside the
transaction of an application.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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
from b24sync.edge.tables import batch, lane, outbox, portal
from b24sync.edge.tenants import Tenant, tenant

SILENT = "half_open"
"""The breaker of a lane whose portal told nothing: one harmless question goes first."""

CANDIDATES = 16
"""How many lanes a taker tries of which others may be taking the first at the same moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane as its owner took it.

    ``first_rows`` go before all others; ``stopped_by`` is the row that it stood still for.
    ``crashes``: how many owners in a row did not come back; ``suspects`` are the rows that the last
    of them was going to read. ``is_silent``: the portal's last answer was none.
    """

    tenant: Tenant
    lane: int
    epoch: int
    wake_seq: int
    open_batch_id: int | None
    fail_streak: int
    first_rows: tuple[int, ...] = ()
    stopped_by: int | None = None
    crashes: int = 0
    suspects: tuple[int, ...] = ()
    is_silent: bool = False


def _now() -> ColumnElement[int]:
    return now_ms()


def _mine(mine: Lane) -> ColumnElement[bool]:
    """The guard of every statement of an owner."""
    return and_(
        lane.c.portal == mine.tenant.code,
        lane.c.lane == mine.lane,
        lane.c.lease_epoch == mine.epoch,
    )


def _is_active() -> ColumnElement[bool]:
    active = select(portal.c.code).where(portal.c.state == PortalState.ACTIVE)
    return lane.c.portal.in_(active)


def _is_free() -> ColumnElement[bool]:
    return and_(
        or_(lane.c.lease_until.is_(None), lane.c.lease_until < _now()),
        or_(lane.c.breaker_until.is_(None), lane.c.breaker_until <= _now()),
        ~_is_stopped(),
    )


def _is_stopped() -> ColumnElement[bool]:
    """Whether a row of the lane rests on which a person, or a late answer, has to decide.

    Read from the row itself: however it goes on or leaves, the lane goes on with it.
    """
    return exists(
        select(literal(1)).where(
            outbox.c.id == lane.c.stopped_by,
            or_(
                outbox.c.state == str(RowState.HELD),
                # Afterwards it is for the owner of the lane to find out what became of it.
                and_(outbox.c.state == str(RowState.DOUBT), outbox.c.due_at > _now()),
            ),
        )
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
    waits = exists(
        select(literal(1)).where(
            outbox.c.portal == lane.c.portal,
            outbox.c.lane == lane.c.lane,
            outbox.c.state == RowState.READY,
            outbox.c.due_at <= _now(),
        )
    )
    in_doubt = exists(select(literal(1)).where(_doubtful(), batch.c.quiet_until <= _now()))
    asleep = select(lane.c.portal, lane.c.lane).where(
        or_(lane.c.next_due_at.is_(None), lane.c.next_due_at > _now()),
        _is_active(),
        or_(waits, in_doubt),
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
                next_due_at=_now(),
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
        .where(lane.c.next_due_at <= _now(), _is_free(), _is_active())
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
    statement = select(func.min(at), _now()).where(
        lane.c.next_due_at.is_not(None), _is_active(), ~_is_stopped()
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
            lease_until=_now() + lease_ms,
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
    is_takeable = and_(lane.c.next_due_at <= _now(), _is_free(), _is_active())
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


def keep(connection: Connection, mine: Lane, *, lease_ms: int) -> bool:
    """Prolong the lease; ``False``, the lane belongs to somebody else by now.

    Writes: lane, guarded by the epoch.
    """
    kept = connection.execute(update(lane).where(_mine(mine)).values(lease_until=_now() + lease_ms))
    return kept.rowcount == 1


def open_batch(connection: Connection, mine: Lane, batch_id: int) -> None:
    """Remember which batch of this lane is not closed; it names the rows from here on.

    Writes: lane, guarded by the epoch.
    """
    connection.execute(
        update(lane).where(_mine(mine)).values(open_batch_id=batch_id, suspects=None)
    )


def suspect(connection: Connection, mine: Lane, rows: Sequence[int]) -> bool:
    """Note the rows that are going to be read; ``False``, the lane belongs to somebody else.

    Writes: lane, guarded by the epoch.
    """
    noted = connection.execute(update(lane).where(_mine(mine)).values(suspects=list(rows) or None))
    return noted.rowcount == 1


def put_first(
    connection: Connection, mine: Lane, rows: Sequence[int], *, rest_ms: int | None = None
) -> None:
    """These rows and no others go first; with ``rest_ms``, nothing goes before that time.

    Writes: lane, guarded by the epoch.
    """
    values: dict[str, object] = {"first_rows": list(rows) or None}
    if rest_ms is not None:
        values["breaker_until"] = _now() + rest_ms
    connection.execute(update(lane).where(_mine(mine)).values(**values))


def stop(connection: Connection, mine: Lane, row_id: int) -> None:
    """Leave the lane alone until this row was decided on.

    Writes: lane, guarded by the epoch.
    """
    connection.execute(update(lane).where(_mine(mine)).values(stopped_by=row_id))


def stands_still(connection: Connection, mine: Lane) -> bool:
    """Whether the row that stopped the lane still does; if not, that is forgotten.

    Writes: lane, guarded by the epoch.
    """
    if mine.stopped_by is None:
        return False
    goes_on = connection.execute(
        update(lane).where(_mine(mine), ~_is_stopped()).values(stopped_by=None)
    )
    return goes_on.rowcount == 0


def close_batch(connection: Connection, mine: Lane, batch_id: int, *, reached: bool) -> None:
    """Forget a batch that was closed; whoever owns the lane now, its batch is not touched.

    ``reached``: the portal was reached, so the strikes against it end.
    Writes: lane, where it still names this batch.
    """
    values: dict[str, object] = {"open_batch_id": None}
    if reached:
        values |= {"breaker": "closed", "breaker_until": None, "fail_streak": 0}
    connection.execute(
        update(lane)
        .where(
            lane.c.portal == mine.tenant.code,
            lane.c.lane == mine.lane,
            lane.c.open_batch_id == batch_id,
        )
        .values(**values)
    )


def answered(connection: Connection, mine: Lane) -> None:
    """The portal answers: the strikes against it end.

    Writes: lane, guarded by the epoch.
    """
    connection.execute(
        update(lane).where(_mine(mine)).values(breaker="closed", breaker_until=None, fail_streak=0)
    )


def strike(connection: Connection, mine: Lane, *, rest_ms: int, silent: bool) -> None:
    """Leave a portal alone for a while that could not be reached, or, ``silent``, told nothing.

    A portal that told nothing is asked something harmless before it is sent anything.
    Writes: lane, guarded by the epoch.
    """
    connection.execute(
        update(lane)
        .where(_mine(mine))
        .values(
            breaker=SILENT if silent or mine.is_silent else "open",
            breaker_until=_now() + rest_ms,
            fail_streak=lane.c.fail_streak + 1,
        )
    )


def release(connection: Connection, mine: Lane, *, served: int, rest_ms: int | None = None) -> None:
    """Give the lane back, due again when its rows are, or when one in doubt can be looked for.

    ``served`` commands make it stand further back among tenants; with ``rest_ms`` the lane is due
    that many milliseconds from now, else when the first of its rows is.
    Writes: lane, guarded by the epoch.
    """
    times = union_all(
        select(func.min(outbox.c.due_at).label("at")).where(
            outbox.c.portal == mine.tenant.code,
            outbox.c.lane == mine.lane,
            outbox.c.state == RowState.READY,
        ),
        select(func.min(batch.c.quiet_until)).where(
            batch.c.portal == mine.tenant.code,
            batch.c.lane == mine.lane,
            batch.c.closed_at.is_(None),
            batch.c.state == str(BatchState.DOUBT),
        ),
    ).subquery("times")
    first_due = select(func.min(times.c.at)).scalar_subquery()
    at: ColumnElement[int] = _now() + rest_ms if rest_ms is not None else first_due
    # Somebody who rang since the lane was taken may have seen what this owner did not.
    at = case((lane.c.wake_seq != mine.wake_seq, _now()), else_=at) if rest_ms is None else at
    connection.execute(
        update(lane)
        .where(_mine(mine))
        .values(
            lease_until=None,
            lease_owner=None,
            crashes=0,
            suspects=None,
            next_due_at=at,
            vtime=lane.c.vtime + served / lane.c.weight,
        )
    )
