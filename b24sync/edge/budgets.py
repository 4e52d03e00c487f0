"""What is known of the time that a portal gives to each method, written down for every worker."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, RowMapping, and_, bindparam, select

from b24sync.core.model import PortalState
from b24sync.core.pacing import USUAL, MethodPace, Pace, Rules
from b24sync.core.refs import is_list
from b24sync.edge.database import now_ms, upsert
from b24sync.edge.tables import method_budget, portal
from b24sync.edge.tenants import Tenant

_PAIR = 2
_KEYS = ("portal", "app_id", "method")
_KNOWN = (
    method_budget.c.method,
    method_budget.c.cost_s,
    method_budget.c.spread_s,
    method_budget.c.baskets,
    method_budget.c.limit_s,
    method_budget.c.blocked_until,
    method_budget.c.max_bytes,
    method_budget.c.found_at,
    method_budget.c.updated_at,
)
_READ = (
    select(now_ms().label("now"), portal.c.state, *_KNOWN)
    .select_from(
        portal.outerjoin(
            method_budget,
            and_(
                method_budget.c.portal == portal.c.code,
                method_budget.c.app_id == bindparam("of_app"),
            ),
        )
    )
    .where(portal.c.code == bindparam("of_portal"))
)


def read_pace(connection: Connection, of: Tenant, rules: Rules = USUAL) -> Pace | None:
    """What is known of the portal's limits now; ``None``, the portal was stopped.

    Writes: nothing.
    """
    found = connection.execute(_READ, {"of_portal": of.code, "of_app": of.app_id}).mappings().all()
    is_active = bool(found) and found[0]["state"] == PortalState.ACTIVE
    return _pace(found, rules) if is_active else None


def known_pace(connection: Connection, of: Tenant, rules: Rules = USUAL) -> Pace:
    """The same, whether the portal was stopped or not; of one that is gone nothing is known.

    Writes: nothing.
    """
    found = connection.execute(_READ, {"of_portal": of.code, "of_app": of.app_id}).mappings().all()
    return _pace(found, rules) if found else Pace(now_ms=0, rules=rules)


def _pace(found: Sequence[RowMapping], rules: Rules) -> Pace:
    methods = {
        row["method"]: MethodPace(
            cost_s=row["cost_s"],
            spread_s=row["spread_s"] or 0.0,
            baskets=_baskets(row["baskets"]),
            limit_s=row["limit_s"],
            blocked_until_ms=row["blocked_until"] or 0,
            max_bytes=row["max_bytes"],
            found_ms=row["found_at"] or 0,
            updated_ms=row["updated_at"],
        )
        for row in found
        if row["method"] is not None
    }
    return Pace(now_ms=int(found[0]["now"]), methods=methods, rules=rules)


def _baskets(stored: object) -> tuple[tuple[int, int], ...]:
    """The baskets as they were written; anything else is none."""
    if not is_list(stored):
        return ()
    pairs = (pair for pair in stored if is_list(pair) and len(pair) == _PAIR)
    return tuple((at, used) for at, used in pairs if isinstance(at, int) and isinstance(used, int))


def remember(
    connection: Connection, of: Tenant, lessons: Mapping[str, MethodPace], rules: Rules = USUAL
) -> None:
    """Write down what was learned of these methods, for every worker.

    Writes: method_budget, in one statement.
    """
    rows = [
        {
            "portal": of.code,
            "app_id": of.app_id,
            "method": method,
            "operating_s": sum(used for _, used in known.baskets) / 1000,
            "reset_at": known.baskets[0][0] + rules.window_ms if known.baskets else None,
            "blocked_until": known.blocked_until_ms or None,
            "cost_s": known.cost_s,
            "spread_s": known.spread_s,
            "limit_s": known.limit_s,
            "baskets": [list(basket) for basket in known.baskets],
            "max_bytes": known.max_bytes,
            "found_at": known.found_ms or None,
        }
        for method, known in sorted(lessons.items())
    ]
    if not rows:
        return
    kept = [name for name in rows[0] if name not in _KEYS]
    upsert(
        connection,
        method_budget,
        rows,
        keys=_KEYS,
        update=lambda new: {name: new(name) for name in kept} | {"updated_at": now_ms()},
    )
