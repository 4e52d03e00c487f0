"""What an answer says of the portal as a whole, written down for every worker.

A rate that is used up, a method that is refused for time, a portal that a person must look at.
"""

import logging

from sqlalchemy import Connection

from b24sync.core.lifecycle import breaker_ms, deferral_ms, portal_state_after
from b24sync.core.model import Batch, Fault, FaultKind, Reply
from b24sync.core.replies import method_times
from b24sync.edge import tenants
from b24sync.edge.lanes import Lane
from b24sync.world import World

log = logging.getLogger("b24sync")


def rest_ms(world: World, mine: Lane, whole: Fault | None, *, silent: bool) -> int | None:
    """For how long the lane is left after an answer; ``None``, it goes by its rows.

    Units: milliseconds. ``silent``: the portal said nothing that can be used.
    """
    if silent:
        # A portal that answers nothing usable would put batch after batch in doubt.
        return breaker_ms(mine.fail_streak, jitter=world.chance())
    if whole is not None and whole.kind is FaultKind.RATE:
        dice_ms = deferral_ms(whole, retry_at_ms=None, now_ms=0, jitter=world.chance())
        return max(1, int(1000 / mine.tenant.rate_y)) + dice_ms
    return None


def heed_portal(connection: Connection, mine: Lane, whole: Fault, reply: Reply | None) -> None:
    """What the portal said of itself: its rate is used up, or it must not be called any more.

    Writes: bucket; portal.
    """
    if whole.kind is FaultKind.RATE:
        tenants.fill(connection, mine.tenant)
    state = portal_state_after(whole)
    if state is not None:
        reason = tenants.reason_of(whole)
        if reply is not None and reply.location is not None:
            reason = f"the portal has moved to {reply.location}; add it anew under that address"
        tenants.pause(connection, mine.tenant.code, state, reason=reason)
        log.error("portal_paused portal=%s state=%s code=%s", mine.tenant.code, state, whole.code)


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
        tenants.block_methods(connection, mine.tenant, [name], until_ms=now_ms + rest_ms)
    log.info("methods_blocked portal=%s methods=%s", mine.tenant.code, ",".join(blocked))
