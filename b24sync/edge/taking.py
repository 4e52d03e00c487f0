"""Which lane is drained next: who is woken, who is due, and whose turn it is.

Lanes are taken in the order of their virtual time, which grows with what they were served
(``core.fairness``): a tenant with a million rows cannot stand before one with a single row for ever.

Whether rows are due is found out here, by looking, and never by touching a lane inside the
transaction of an application. A look costs as much as there are lanes with rows, and a take as much
as there are lanes with something to do; the number of tenants costs nothing.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from b24sync.core import fairness
from b24sync.core.model import BatchState, PortalState, RowState
from b24sync.edge.database import distinct_pairs, insert_missing, now_ms, skip_locked
from b24sync.edge.lanes import SILENT, Lane, has_due, is_stopped
from b24sync.edge.tables import batch, lane, outbox, portal, written
from b24sync.edge.tenants import tenant

CANDIDATES = 16
"""How many lanes a taker tries of which others may be taking the first at the same moment."""

CHUNK = 500
"""Lanes woken by one statement."""

SIBLING = lane.alias("sibling")
"""Another lane of the same portal."""

SERVED = lane.alias("served")
"""Any lane, as it tells the present."""

_now = select(now_ms()).scalar_subquery()
"""The clock, read once for a statement: a planner looks for what does not change in an index."""

_is_ready = outbox.c.state == written(RowState.READY)


def _is_active() -> ColumnElement[bool]:
    return exists(
        select(literal(1)).where(
            portal.c.code == lane.c.portal, portal.c.state == str(PortalState.ACTIVE)
        )
    )


def _is_free() -> ColumnElement[bool]:
    return and_(
        or_(lane.c.lease_until.is_(None), lane.c.lease_until < _now),
        or_(lane.c.breaker_until.is_(None), lane.c.breaker_until <= _now),
        ~_stands_still(),
    )


def _stands_still() -> ColumnElement[bool]:
    """Whether any lane of the portal rests on a row: in the mode ``strict`` all of it does."""
    return exists(
        select(literal(1)).where(
            SIBLING.c.portal == lane.c.portal,
            SIBLING.c.stopped_by.is_not(None),
            is_stopped(SIBLING),
        )
    )


def _is_asleep() -> ColumnElement[bool]:
    """Whether a lane may be woken before its time; one that rests has a reason to."""
    return or_(
        lane.c.next_due_at.is_(None),
        and_(
            lane.c.next_due_at > _now,
            or_(lane.c.rests_until.is_(None), lane.c.rests_until <= _now),
        ),
    )


def wake(connection: Connection, code: str | None = None) -> int:
    """Mark lanes as due in which rows wait that nobody has noticed yet.

    Shape: the number of lanes marked, of one portal or of all.
    Writes: lane, where it is not due and its portal is active; and a lane that rows name and that
    their portal does not have yet.
    """
    # No code is empty: it is where the search of an index begins.
    its = outbox.c.portal > "" if code is None else outbox.c.portal == code
    condition = and_(_is_ready, its)
    named = distinct_pairs(connection, outbox.c.portal, outbox.c.lane, condition)
    is_its = and_(lane.c.portal == named.c.first, lane.c.lane == named.c.second)
    if code is not None:
        is_its = and_(is_its, lane.c.portal == code)
    # Where no lane is, the condition speaks of none: such a lane has rows that may be due.
    with_rows = (
        select(named.c.first, named.c.second, lane.c.portal.is_(None).label("is_missing"))
        .join(portal, portal.c.code == named.c.first)
        .outerjoin(lane, is_its)
        .where(
            or_(
                lane.c.portal.is_(None),
                and_(_is_asleep(), portal.c.state == str(PortalState.ACTIVE), has_due()),
            )
        )
    )
    found = connection.execute(with_rows).all()
    missing = [{"portal": name, "lane": number} for name, number, is_missing in found if is_missing]
    insert_missing(connection, lane, missing)
    asleep = [(name, number) for name, number, _ in found]
    return _mark(connection, [*asleep, *_in_doubt(connection, code)])


def _in_doubt(connection: Connection, code: str | None) -> Sequence[tuple[str, int]]:
    """Lanes asleep with a batch in doubt that can be looked for, found by the index of open ones."""
    statement = (
        select(lane.c.portal, lane.c.lane)
        .join(batch, and_(batch.c.portal == lane.c.portal, batch.c.lane == lane.c.lane))
        .where(
            batch.c.closed_at.is_(None),
            batch.c.state == str(BatchState.DOUBT),
            batch.c.quiet_until <= _now,
            _is_asleep(),
            _is_active(),
        )
    )
    statement = statement.where(batch.c.portal > "" if code is None else batch.c.portal == code)
    return [(name, number) for name, number in connection.execute(statement)]


def _mark(connection: Connection, found: Collection[tuple[str, int]]) -> int:
    """Make lanes due now; how many."""
    by_number: dict[int, list[str]] = {}
    for name, number in sorted(set(found)):
        by_number.setdefault(number, []).append(name)
    woken = 0
    for number, names in by_number.items():
        for start in range(0, len(names), CHUNK):
            woken += connection.execute(
                update(lane)
                .where(
                    lane.c.portal.in_(names[start : start + CHUNK]),
                    lane.c.lane == number,
                    _is_active(),
                )
                .values(next_due_at=_now, wake_seq=lane.c.wake_seq + 1)
            ).rowcount
    return woken


def ring(connection: Connection, mine: Lane, *, owned_too: bool) -> int:
    """Wake the other lanes of a portal, whose rows may wait no longer for those of this one.

    ``owned_too``: also those at work, which may have looked before; their owners look again.
    Shape: the number of lanes.
    Writes: lane.
    """
    is_meant = _is_asleep()
    if owned_too:
        is_meant = or_(is_meant, lane.c.lease_until >= _now)
    return connection.execute(
        update(lane)
        .where(lane.c.portal == mine.tenant.code, lane.c.lane != mine.lane, is_meant, has_due())
        .values(
            next_due_at=case((lane.c.next_due_at <= _now, lane.c.next_due_at), else_=_now),
            wake_seq=lane.c.wake_seq + 1,
        )
    ).rowcount


def due(connection: Connection, code: str | None = None, *, limit: int = 1000) -> int:
    """How many lanes could be taken now, counted up to a limit.

    Writes: nothing.
    """
    some = select(literal(1)).where(lane.c.next_due_at <= _now, _is_free(), _is_active())
    if code is not None:
        some = some.where(lane.c.portal == code)
    counted = some.select_from(lane).limit(limit).subquery()
    return int(connection.execute(select(func.count()).select_from(counted)).scalar_one())


def next_due_ms(connection: Connection, code: str | None = None) -> int | None:
    """Milliseconds until a lane of an active portal can be taken; ``None``, none is known to.

    Writes: nothing.
    """
    may_be = [_is_active(), ~_stands_still()]
    if code is not None:
        may_be.append(lane.c.portal == code)
    at, until = lane.c.next_due_at, lane.c.breaker_until
    # The first by the index; those that a breaker keeps away longer are few.
    usual = select(at).where(at.is_not(None), or_(until.is_(None), until <= at), *may_be)
    struck = select(until).where(until > at, *may_be)
    first, kept, now = connection.execute(
        select(
            usual.order_by(at).limit(1).scalar_subquery(),
            struck.order_by(until).limit(1).scalar_subquery(),
            _now,
        )
    ).one()
    times = [int(time) - int(now) for time in (first, kept) if time is not None]
    return max(0, min(times)) if times else None


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
    begun, present = fairness.begin(found["vtime"], found["present"]), found["present"]
    taken = connection.execute(
        _owned,
        {
            "its_portal": found["portal"],
            "its_lane": found["lane"],
            "its_epoch": found["lease_epoch"],
            "for_ms": lease_ms,
            "new_owner": owner[:255],
            "in_a_row": crashes,
            "begun": begun,
            # Only what tells of a later present is written anew: an index stands on it.
            "its_turn": begun if begun > present else found["turn"],
        },
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
        lanes=found["lanes"],
        sharing=found["sharing"],
    )


_present = (
    select(func.max(SERVED.c.turn))
    .where(SERVED.c.priority == lane.c.priority)
    .correlate(lane)
    .scalar_subquery()
    .label("present")
)
"""The largest virtual time at which a slice of this priority began; an index ends with it."""


def _of_portal(what: ColumnElement[int]) -> ColumnElement[int]:
    counted = select(what).where(SIBLING.c.portal == lane.c.portal).correlate(lane)
    return counted.scalar_subquery()


_whole_lane = select(
    lane,
    _present,
    _of_portal(func.count()).label("lanes"),
    _of_portal(func.count(SIBLING.c.next_due_at)).label("sharing"),
)


_owned = (
    update(lane)
    .where(
        lane.c.portal == bindparam("its_portal"),
        lane.c.lane == bindparam("its_lane"),
        lane.c.lease_epoch == bindparam("its_epoch"),
    )
    .values(
        lease_epoch=lane.c.lease_epoch + 1,
        lease_until=_now + bindparam("for_ms"),
        lease_owner=bindparam("new_owner"),
        crashes=bindparam("in_a_row"),
        vtime=bindparam("begun"),
        turn=bindparam("its_turn"),
    )
)
_is_takeable = and_(lane.c.next_due_at <= _now, _is_free(), _is_active())
_fairest = (
    select(lane.c.portal, lane.c.lane)
    .where(_is_takeable)
    .order_by(lane.c.priority, lane.c.vtime, lane.c.portal)
    .limit(literal_column(str(CANDIDATES)))
)
_this_one = skip_locked(
    _whole_lane.where(
        lane.c.portal == bindparam("its_portal"), lane.c.lane == bindparam("its_lane"), _is_takeable
    )
)


def _locked(
    connection: Connection, code: str | None, without: Collection[tuple[str, int]]
) -> RowMapping | None:
    """The fairest lane that nobody else is taking at this moment, locked by its key.

    Ordered and locked in one statement, MariaDB and MySQL lock every lane that they sort.
    """
    fairest = _fairest
    if code is not None:
        fairest = fairest.where(lane.c.portal == code)
    for name, number in without:
        fairest = fairest.where(or_(lane.c.portal != name, lane.c.lane != number))
    for name, number in connection.execute(fairest).all():
        key = {"its_portal": name, "its_lane": number}
        found = connection.execute(_this_one, key).mappings().first()
        if found is not None:
            return found
    return None
