"""What is sent is paid for: how a worker takes its requests out of a portal's rate."""

from sqlalchemy import Connection

from b24sync.core.limits import late_share, people_share
from b24sync.edge import rates
from b24sync.edge.tenants import Tenant
from b24sync.world import World


def pay(connection: Connection, world: World, of: Tenant, *, requests: int = 1) -> int:
    """Take requests out of the portal's rate; 0, or the milliseconds until they fit.

    Room is left for those that reach the portal late, and for people, if they call it.
    Writes: bucket.
    """
    plan = rates.plan_of(of)
    return rates.spend(
        connection,
        of,
        requests=requests,
        reserve=late_share(plan),
        kept=people_share(plan, world.settings.rate_reserve),
    )
