"""What is known of the time that a portal gives to each method, written down for every worker."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, select

from b24sync.core.model import PortalState
from b24sync.core.pacing import Pace
from b24sync.edge.database import now_ms, upsert
from b24sync.edge.tables import method_budget, portal
from b24sync.edge.tenants import Tenant


def read_pace(connection: Connection, of: Tenant) -> Pace | None:
    """What is known of the portal's limits now; ``None``, the portal was stopped.

    Writes: nothing.
    """
    budget = and_(
        method_budget.c.portal == portal.c.code,
        method_budget.c.app_id == of.app_id,
        method_budget.c.blocked_until > now_ms(),
    )
    found = connection.execute(
        select(now_ms(), method_budget.c.method, method_budget.c.blocked_until)
        .select_from(portal.outerjoin(method_budget, budget))
        .where(portal.c.code == of.code, portal.c.state == PortalState.ACTIVE)
    ).all()
    if not found:
        return None
    blocked = {method: int(until) for _, method, until in found if method is not None}
    return Pace(now_ms=int(found[0][0]), blocked=blocked)


def blocked_methods(connection: Connection, of: Tenant) -> Mapping[str, int]:
    """The methods that the portal refuses for time, with the end of each.

    Units: epoch milliseconds.
    Writes: nothing.
    """
    found = connection.execute(
        select(method_budget.c.method, method_budget.c.blocked_until).where(
            method_budget.c.portal == of.code,
            method_budget.c.app_id == of.app_id,
            method_budget.c.blocked_until > now_ms(),
        )
    )
    return {method: int(until) for method, until in found}


def block_methods(
    connection: Connection, of: Tenant, methods: Sequence[str], *, until_ms: int
) -> None:
    """Leave these methods alone until then.

    Writes: method_budget.
    """
    upsert(
        connection,
        method_budget,
        [
            {
                "portal": of.code,
                "app_id": of.app_id,
                "method": method,
                "operating_s": 0.0,
                "blocked_until": until_ms,
            }
            for method in methods
        ],
        keys=("portal", "app_id", "method"),
        update=lambda new: {"blocked_until": new("blocked_until")},
    )
