"""What is known of the time that a portal gives to each method, written down for every worker."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from b24sync.edge.database import now_ms, upsert
from b24sync.edge.tables import method_budget
from b24sync.edge.tenants import Tenant


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
