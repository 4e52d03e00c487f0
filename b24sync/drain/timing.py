"""What an answer says of the time of methods, written down for every worker."""

import logging

from sqlalchemy import Connection

from b24sync.core.lifecycle import deferral_ms
from b24sync.core.model import Batch, Fault, FaultKind, Reply
from b24sync.core.replies import method_times
from b24sync.edge import budgets, tenants
from b24sync.edge.lanes import Lane
from b24sync.world import World

log = logging.getLogger("b24sync")


def heed_methods(
    world: World, connection: Connection, mine: Lane, batch: Batch, reply: Reply
) -> None:
    """Methods that the portal refuses for time are left alone until it says.

    Writes: method_budget.
    """
    times = method_times(batch, reply)
    blocked = [name for name, time in times.items() if time.is_blocked]
    if not blocked:
        return
    now_ms = tenants.clock(connection)
    for name in blocked:
        fault = Fault(code="", text="", kind=FaultKind.METHOD_TIME)
        rest_ms = deferral_ms(
            fault, retry_at_ms=times[name].reset_at_ms, now_ms=now_ms, jitter=world.chance()
        )
        budgets.block_methods(connection, mine.tenant, [name], until_ms=now_ms + rest_ms)
    log.info("methods_blocked portal=%s methods=%s", mine.tenant.code, ",".join(blocked))
