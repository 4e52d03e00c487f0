"""What people ask the tables: read-only, and every age by the database's clock.

Nothing here is used to decide what is sent; it only shows. Each function is one question and a
handful of statements at the most.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    text,
)

from b24sync.core.hosts import steps
from b24sync.core.limits import Rate
from b24sync.core.model import ResultOutcome, RowState
from b24sync.core.refs import is_mapping
from b24sync.edge import duplicates
from b24sync.edge.database import now_ms
from b24sync.edge.rates import bucket_in
from b24sync.edge.tables import (
    bucket,
    dead,
    lane,
    method_budget,
    outbox,
    portal,
    result,
    rollup,
)

RECENT_MS = 600_000
"""How far back throughput is counted: ten minutes."""

STOPPER = outbox.alias("stopper")
"""The row at which a lane stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalView:
    """One portal as its row says; ``weight`` is its share of the workers, ``halt`` is the mode of its policy, ``None`` if that names none.

    ``probes`` counts how often it was asked since it was stopped; ``moved_from`` are its addresses
    before, the newest first.
    Units: ``state_at_ms`` and ``moved_at_ms`` epoch milliseconds, ``state_age_ms`` milliseconds since
    the former, ``next_probe_ms`` until it is asked by itself, ``None`` if it is not; rates as in the
    table.
    """

    code: str
    base_url: str
    auth_kind: str
    user: str | None
    has_secret: bool
    rate_x: float
    rate_y: float
    server_max_s: int
    egress_group: str
    state: str
    reason: str | None
    state_at_ms: int
    weight: float = 1.0
    shards: int = 1
    halt: str | None = None
    state_age_ms: int = 0
    next_probe_ms: int | None = None
    probes: int = 0
    moved_from: tuple[str, ...] = ()
    moved_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateView:
    """How much of a portal's rate is used, by those who call it from one address.

    Shape: ``refusals`` counts all that there ever were; ``is_lower``, that they have taught that less
    than the plan's can be believed.
    Units: ``level`` and ``capacity`` requests, ``leak_per_s`` requests per second; both latter as
    believed after what refusals have taught. ``refused_ms`` since the last refusal.
    """

    egress_group: str
    level: float
    capacity: float
    leak_per_s: float
    is_lower: bool
    refusals: int
    refused_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """When a portal is next called.

    Units: milliseconds from now; ``None``, nothing is waited for.
    """

    next_due_ms: int | None = None
    resting_ms: int | None = None
    fail_streak: int = 0
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopView:
    """A lane that stands still, and the row on which somebody has to decide.

    Shape: ``state`` is that of the row: held, or in doubt. ``said`` is what the portal complained of.
    Units: milliseconds; ``stopped_ms`` since it happened, if that is known, ``doubt_ms`` until it is
    looked for, of a row in doubt.
    """

    portal: str
    lane: int
    row_id: int
    kind: str
    key: str
    operation: str
    state: str
    said: str
    stopped_ms: int | None
    doubt_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodView:
    """What is known of one method's time on a portal.

    Units: ``cost_s`` and its deviation ``spread_s`` seconds for a command; ``used_s`` seconds of the
    limit, of which the oldest come back in ``resets_ms``; ``limit_s`` is one that was found lower
    than it is set; ``blocked_ms`` until it is called again after a refusal.
    """

    method: str
    cost_s: float | None = None
    spread_s: float | None = None
    used_s: float = 0.0
    resets_ms: int | None = None
    limit_s: float | None = None
    blocked_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The unfinished rows of a portal.

    Shape: ``ready`` are due now, ``later`` are ready and due at a later time.
    Units: ``oldest_ms`` is the age of the oldest row that is due now.
    """

    ready: int = 0
    later: int = 0
    batched: int = 0
    doubt: int = 0
    parked: int = 0
    held: int = 0
    oldest_ms: int | None = None

    @property
    def total(self) -> int:
        """Every unfinished row."""
        return self.ready + self.later + self.batched + self.doubt + self.parked + self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that ``status`` shows; by portal code, and codes without a portal have no ``portals``.

    Shape: ``duplicates`` are open; ``detected`` are all that there ever were, by who found them.
    """

    portals: Mapping[str, PortalView]
    lanes: Mapping[str, LaneView]
    backlogs: Mapping[str, Backlog]
    dead: Mapping[str, int]
    recent: Mapping[str, Mapping[str, int]]
    stops: Mapping[str, tuple[StopView, ...]] = field(
        default_factory=dict[str, tuple[StopView, ...]]
    )
    duplicates: Mapping[str, int] = field(default_factory=dict[str, int])
    detected: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    rates: Mapping[str, tuple[RateView, ...]] = field(
        default_factory=dict[str, tuple[RateView, ...]]
    )
    methods: Mapping[str, tuple[MethodView, ...]] = field(
        default_factory=dict[str, tuple[MethodView, ...]]
    )

    @property
    def unknown(self) -> tuple[str, ...]:
        """Codes that rows name and no portal has."""
        return tuple(sorted(set(self.backlogs) - set(self.portals)))


def overview(connection: Connection) -> Overview:
    """How every portal stands.

    Writes: nothing.
    """
    return Overview(
        portals={view.code: view for view in portals(connection)},
        lanes=_lanes(connection),
        backlogs=backlogs(connection),
        dead=_dead(connection),
        recent=_recent(connection),
        stops=stops(connection),
        duplicates=duplicates.open_by_portal(connection),
        detected=duplicates.counted(connection),
        rates=rates(connection),
        methods=_methods(connection),
    )


def _methods(connection: Connection) -> Mapping[str, tuple[MethodView, ...]]:
    """The methods of each portal whose time is known, by name."""
    found = connection.execute(
        select(method_budget, now_ms().label("now")).order_by(
            method_budget.c.portal, method_budget.c.method
        )
    ).mappings()
    views: dict[str, tuple[MethodView, ...]] = {}
    for row in found:
        resets_ms = (row["reset_at"] or 0) - row["now"]
        blocked_ms = (row["blocked_until"] or 0) - row["now"]
        view = MethodView(
            method=row["method"],
            cost_s=row["cost_s"],
            spread_s=row["spread_s"],
            used_s=row["operating_s"] if resets_ms > 0 else 0.0,
            resets_ms=resets_ms if resets_ms > 0 else None,
            limit_s=row["limit_s"],
            blocked_ms=blocked_ms if blocked_ms > 0 else None,
        )
        views[row["portal"]] = (*views.get(row["portal"], ()), view)
    return views


def portals(connection: Connection) -> tuple[PortalView, ...]:
    """All portals, by code.

    Writes: nothing.
    """
    statement = select(portal, now_ms().label("now")).order_by(portal.c.code)
    found = connection.execute(statement).mappings()
    return tuple(
        PortalView(
            code=row["code"],
            base_url=row["base_url"],
            auth_kind=row["auth_kind"],
            user=row["credential_user"],
            has_secret=row["secret"] is not None,
            rate_x=row["rate_x"],
            rate_y=row["rate_y"],
            server_max_s=row["server_max_s"],
            egress_group=row["egress_group"],
            state=row["state"],
            reason=row["state_reason"],
            state_at_ms=row["state_at"],
            weight=row["weight"],
            shards=row["shards"],
            halt=_halt(row["policy"]),
            state_age_ms=max(0, row["now"] - row["state_at"]),
            next_probe_ms=(
                None if row["probe_at"] is None else max(0, row["probe_at"] - row["now"])
            ),
            probes=row["probes"],
            moved_from=steps(row["moved_from"]),
            moved_at_ms=row["moved_at"],
        )
        for row in found
    )


def _halt(policy: object) -> str | None:
    named = policy.get("halt") if is_mapping(policy) else None
    return None if named is None else str(named)


def rates(connection: Connection) -> Mapping[str, tuple[RateView, ...]]:
    """How much of its rate each portal has left, a view for each address that calls it.

    Writes: nothing.
    """
    found = connection.execute(
        select(bucket, portal.c.rate_x, portal.c.rate_y, now_ms().label("now"))
        .join(portal, portal.c.code == bucket.c.portal)
        .order_by(bucket.c.portal, bucket.c.egress_group)
    ).mappings()
    views: dict[str, tuple[RateView, ...]] = {}
    for row in found:
        views[row["portal"]] = (*views.get(row["portal"], ()), _rate(row))
    return views


def _rate(row: RowMapping) -> RateView:
    now, refused_at = int(row["now"]), row["refused_at"]
    plan = Rate(x=max(1.0, row["rate_x"]), y=row["rate_y"])
    value = bucket_in(row, plan)
    return RateView(
        egress_group=row["egress_group"],
        level=round(value.level_at(now), 1),
        capacity=round(value.capacity, 1),
        leak_per_s=round(value.leak_per_s, 2),
        is_lower=value.capacity < plan.x or value.leak_per_s < plan.y,
        refusals=row["refusals"],
        refused_ms=None if refused_at is None else max(0, now - refused_at),
    )


def stops(connection: Connection) -> Mapping[str, tuple[StopView, ...]]:
    """The lanes that stand still, by portal; portals without any are absent.

    Writes: nothing.
    """
    stopped_at = (
        select(func.max(result.c.finished_at))
        .where(
            result.c.portal == STOPPER.c.portal,
            result.c.kind == STOPPER.c.kind,
            result.c.entity_key == STOPPER.c.entity_key,
            result.c.outbox_id == STOPPER.c.id,
            result.c.outcome.in_([str(ResultOutcome.STOPPED), str(ResultOutcome.UNKNOWN)]),
        )
        .scalar_subquery()
    )
    found = connection.execute(
        select(
            STOPPER,
            lane.c.portal.label("of_portal"),
            lane.c.lane.label("of_lane"),
            stopped_at.label("stopped_at"),
            now_ms().label("now"),
        )
        .join_from(lane, STOPPER, _stands_still())
        .order_by(lane.c.portal, lane.c.lane)
    ).mappings()
    views: dict[str, tuple[StopView, ...]] = {}
    for row in found:
        views[row["of_portal"]] = (*views.get(row["of_portal"], ()), _stop(row))
    return views


def _stands_still() -> ColumnElement[bool]:
    """Which row a lane stands still at, if it does."""
    rests = or_(
        STOPPER.c.state == str(RowState.HELD),
        and_(STOPPER.c.state == str(RowState.DOUBT), STOPPER.c.due_at > now_ms()),
    )
    return and_(STOPPER.c.id == lane.c.stopped_by, rests)


def _stop(row: RowMapping) -> StopView:
    stopped_at = row["stopped_at"]
    return StopView(
        portal=row["of_portal"],
        lane=row["of_lane"],
        row_id=row["id"],
        kind=row["kind"],
        key=row["entity_key"],
        operation=row["operation"],
        state=row["state"],
        said=row["last_error"] or row["state_reason"] or "",
        stopped_ms=None if stopped_at is None else max(0, row["now"] - stopped_at),
        doubt_ms=row["due_at"] - row["now"] if row["state"] == RowState.DOUBT else None,
    )


def backlogs(
    connection: Connection,
    *,
    code: str | None = None,
    kinds: tuple[str, ...] = (),
    going_only: bool = False,
) -> Mapping[str, Backlog]:
    """How many unfinished rows there are, by portal; portals without any are absent.

    ``going_only``: without those of lanes that stand still until a person decides.
    Writes: nothing.
    """
    statement = select(
        outbox.c.portal,
        outbox.c.state,
        case((outbox.c.due_at > now_ms(), 1), else_=0).label("is_later"),
        func.count().label("n"),
        func.min(outbox.c.created_at).label("first"),
        now_ms().label("now"),
    ).group_by(outbox.c.portal, outbox.c.state, text("is_later"))
    if code is not None:
        statement = statement.where(outbox.c.portal == code)
    if kinds:
        statement = statement.where(outbox.c.kind.in_(kinds))
    if going_only:
        stands_still = exists(
            select(literal(1))
            .select_from(lane)
            .join(STOPPER, STOPPER.c.id == lane.c.stopped_by)
            .where(
                STOPPER.c.state == RowState.HELD,
                lane.c.portal == outbox.c.portal,
                lane.c.lane == outbox.c.lane,
            )
        )
        statement = statement.where(~stands_still)
    counts: dict[str, dict[str, int]] = {}
    oldest: dict[str, int] = {}
    for row in connection.execute(statement).mappings():
        state = row["state"]
        is_due = state == RowState.READY and not row["is_later"]
        name = "later" if state == RowState.READY and not is_due else state
        of_portal = counts.setdefault(row["portal"], {})
        of_portal[name] = of_portal.get(name, 0) + row["n"]
        if is_due:
            oldest[row["portal"]] = max(0, row["now"] - row["first"])
    return {name: Backlog(**found, oldest_ms=oldest.get(name)) for name, found in counts.items()}


def _lanes(connection: Connection) -> Mapping[str, LaneView]:
    """The first lane of each portal that will be due."""
    found = connection.execute(
        select(lane, now_ms().label("now")).order_by(lane.c.portal, lane.c.lane)
    ).mappings()
    views: dict[str, LaneView] = {}
    for row in found:
        view = _lane(row)
        known = views.get(row["portal"])
        if known is None or _sooner(view, known):
            views[row["portal"]] = view
    return views


def _lane(row: RowMapping) -> LaneView:
    due_at, until, now = row["next_due_at"], row["breaker_until"], row["now"]
    # A lane may rest for other reasons than a portal that is not reached.
    is_resting = until is not None and until > now and row["fail_streak"] > 0
    is_owned = row["lease_until"] is not None and row["lease_until"] >= now
    return LaneView(
        next_due_ms=None if due_at is None else max(0, max(due_at, until or 0) - now),
        resting_ms=until - now if is_resting else None,
        fail_streak=row["fail_streak"],
        owner=row["lease_owner"] if is_owned else None,
    )


def _sooner(one: LaneView, other: LaneView) -> bool:
    if one.next_due_ms is None:
        return False
    return other.next_due_ms is None or one.next_due_ms < other.next_due_ms


def _dead(connection: Connection) -> Mapping[str, int]:
    statement = (
        select(dead.c.portal, func.count())
        .where(dead.c.closed_at.is_(None))
        .group_by(dead.c.portal)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def _recent(connection: Connection) -> Mapping[str, Mapping[str, int]]:
    statement = (
        select(rollup.c.portal, rollup.c.outcome, func.sum(rollup.c.n))
        .where(rollup.c.minute > now_ms() - RECENT_MS)
        .group_by(rollup.c.portal, rollup.c.outcome)
    )
    counted: dict[str, dict[str, int]] = {}
    for code, outcome, n in connection.execute(statement):
        counted.setdefault(code, {})[outcome] = int(n)
    return counted
