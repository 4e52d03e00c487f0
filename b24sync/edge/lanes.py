"""What the owner of a lane does with it.

A lane is (portal, shard). One worker owns it at a time, by a lease whose epoch grows with every
owner; each statement of an owner names its epoch, so that an owner who was away too long writes
nothing. Who becomes the next owner is found in ``taking``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
    update,
)

from b24sync.core import fairness
from b24sync.core.model import BatchState, RowState
from b24sync.edge.database import now_ms
from b24sync.edge.tables import batch, lane, outbox, written
from b24sync.edge.tenants import Tenant

SILENT = "half_open"
"""The breaker of a lane whose portal told nothing: one harmless question goes first."""


LOOKS = 1000
"""Of how many ready rows that are not due a lane that is given back knows when they will be."""


SWEEP_S = 5.0
"""How long an owner trusts its floor; what became ready before it is found then."""


@dataclass(slots=True)
class Floor:
    """Where the waiting rows of a lane begin, as its owner has seen; in its memory alone.

    While somebody holds an old snapshot, a database keeps what was deleted since, and whoever reads
    from the beginning walks over all of it. An owner that has just read knows where to go on: at
    ``row_id`` among the rows of ``priority``. Where more urgent rows wait, all are read from the
    beginning. What becomes ready before the floor (a smaller number committed late, a retry that is
    due) waits for the next sweep: by the next owner, and after ``SWEEP_S``. Nothing else depends on
    it.

    Units: ``swept_s`` monotonic seconds.
    """

    swept_s: float = -inf
    priority: int = 0
    row_id: int = 0

    def holds(self, now_s: float) -> bool:
        """Whether it was swept of late."""
        return now_s - self.swept_s < SWEEP_S

    def swept(self, now_s: float, priority: int, row_id: int) -> None:
        """It was read from the beginning, and of this priority nothing stands before this row."""
        self.swept_s, self.priority, self.row_id = now_s, priority, row_id

    def forget(self) -> None:
        """Rows before it are to be read next."""
        self.swept_s = -inf

    def rise(self, priority: int, row_id: int) -> None:
        """Those before were sent, or are not due."""
        self.priority, self.row_id = priority, row_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A lane as its owner took it.

    ``first_rows`` go before all others; ``stopped_by`` is the row that it stood still for.
    ``crashes``: how many owners in a row did not come back; ``suspects`` are the rows that the last
    of them was going to read. ``is_silent``: the portal's last answer was none.
    Its portal has so many ``lanes``, of which those ``sharing`` its share have something to do.
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
    floor: Floor = field(default_factory=Floor, compare=False, repr=False)
    lanes: int = 1
    sharing: int = 1


def _now() -> ColumnElement[int]:
    return now_ms()


OWNED = and_(
    lane.c.portal == bindparam("of_portal"),
    lane.c.lane == bindparam("of_lane"),
    lane.c.lease_epoch == bindparam("of_epoch"),
)
"""The guard of every statement of an owner; its parameters are given by ``owned``."""


def owned(mine: Lane) -> dict[str, object]:
    """The parameters of ``OWNED``."""
    return {"of_portal": mine.tenant.code, "of_lane": mine.lane, "of_epoch": mine.epoch}


def _mine(mine: Lane) -> ColumnElement[bool]:
    """The guard of every statement of an owner."""
    return and_(
        lane.c.portal == mine.tenant.code,
        lane.c.lane == mine.lane,
        lane.c.lease_epoch == mine.epoch,
    )


def is_stopped(of: FromClause = lane) -> ColumnElement[bool]:
    """Whether a row of the lane rests on which a person, or a late answer, has to decide.

    Read from the row itself: however it goes on or leaves, the lane goes on with it.
    """
    return exists(
        select(literal(1)).where(
            outbox.c.id == of.c.stopped_by,
            or_(
                outbox.c.state == written(RowState.HELD),
                # Afterwards it is for the owner of the lane to find out what became of it.
                and_(outbox.c.state == written(RowState.DOUBT), outbox.c.due_at > _now()),
            ),
        )
    )


def has_due() -> ColumnElement[bool]:
    """Whether a ready row of the lane is due.

    Asked for the first one in the order of the index: for just any, a planner reads the table.
    """
    first = (
        select(outbox.c.id)
        .where(
            outbox.c.portal == lane.c.portal,
            outbox.c.lane == lane.c.lane,
            outbox.c.state == written(RowState.READY),
            outbox.c.due_at <= _now(),
        )
        .order_by(outbox.c.priority, outbox.c.id)
        .limit(1)
    )
    return first.correlate(lane).scalar_subquery().is_not(None)


def keep(connection: Connection, mine: Lane, *, lease_ms: int) -> bool:
    """Prolong the lease; ``False``, the lane belongs to somebody else by now.

    Writes: lane, guarded by the epoch.
    """
    return connection.execute(_KEEP, {"lease_ms": lease_ms, **owned(mine)}).rowcount == 1


_LEASED = {"lease_until": now_ms() + bindparam("lease_ms", type_=BigInteger)}
_KEEP = update(lane).where(OWNED).values(**_LEASED)


def open_batch(connection: Connection, mine: Lane, batch_id: int, *, lease_ms: int) -> bool:
    """Remember which batch of this lane is not closed; ``False``, the lane is somebody else's.

    The batch names the rows from here on.
    Units: ``lease_ms`` milliseconds from now; until the batch is sent and its answer written down.
    Writes: lane, guarded by the epoch.
    """
    opened = connection.execute(_OPEN, {"batch_id": batch_id, "lease_ms": lease_ms, **owned(mine)})
    return opened.rowcount == 1


_OPEN = (
    update(lane)
    .where(OWNED)
    .values(open_batch_id=bindparam("batch_id"), suspects=null(), **_LEASED)
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
        update(lane).where(_mine(mine), ~is_stopped()).values(stopped_by=None)
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


def release(
    connection: Connection, mine: Lane, *, served: float, rest_ms: int | None = None
) -> None:
    """Give the lane back, due again when its rows are, or when one in doubt can be looked for.

    ``served`` seconds of a worker make it stand further back among tenants; with ``rest_ms`` the
    lane is due that many milliseconds from now, and not woken before, else when the first of its
    rows is. Of very many that are not
    due yet only the first are looked at; what is due before these, ``taking.wake`` finds.
    Writes: lane, guarded by the epoch.
    """
    its_rows = (
        select(outbox.c.due_at)
        .where(
            outbox.c.portal == mine.tenant.code,
            outbox.c.lane == mine.lane,
            outbox.c.state == written(RowState.READY),
        )
        .order_by(outbox.c.priority, outbox.c.id)
    )
    some = its_rows.limit(LOOKS).subquery("some")
    due = its_rows.where(outbox.c.due_at <= _now()).limit(1).subquery("due")
    times = union_all(
        select(func.min(some.c.due_at).label("at")),
        select(due.c.due_at),
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
            open_batch_id=None,
            next_due_at=at,
            rests_until=None if rest_ms is None else at,
            vtime=lane.c.vtime
            + fairness.advance(served, weight=mine.tenant.weight, lanes=mine.sharing),
        )
    )
