"""What an answer says of the portal as a whole, written down for every worker.

A rate that is used up, a method that is refused for time, a token that is over, a portal that has
moved, a portal that a person must look at.
"""

import logging
from collections.abc import Sequence
from zlib import crc32

from sqlalchemy import Connection

from b24sync.core.faults import remedy
from b24sync.core.hosts import Distrust, Move, Redirect, decide, steps
from b24sync.core.lifecycle import breaker_ms, deferral_ms, portal_state_after
from b24sync.core.model import Fault, FaultKind, PortalState, Reply
from b24sync.core.probes import Age, next_probe_ms
from b24sync.edge import credentials, rates, tenants
from b24sync.edge.lanes import Lane
from b24sync.edge.tenants import Tenant
from b24sync.edge.tokens import AuthKind
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


def heed_portal(
    connection: Connection,
    mine: Lane,
    whole: Fault,
    reply: Reply | None,
    *,
    trusted: Sequence[str] = (),
) -> None:
    """What the portal said of itself: its rate or a token is used up, it has moved, it refuses work.

    ``trusted``: hosts that it may move to, besides those of the cloud.
    Writes: bucket; portal.
    """
    if whole.kind is FaultKind.RATE:
        rates.fill(connection, mine.tenant)
        return
    if credentials.is_for_renewal(mine.tenant, whole):
        credentials.refuse(connection, mine.tenant.code, mine.tenant.token_version)
        return
    if whole.kind is FaultKind.MOVED:
        heed_redirect(connection, mine.tenant, whole, reply, trusted=trusted)
        return
    state = portal_state_after(whole)
    if state is not None:
        stop(connection, mine.tenant, state, tenants.reason_of(whole))


def heed_redirect(
    connection: Connection,
    of: Tenant,
    whole: Fault,
    reply: Reply | None,
    *,
    trusted: Sequence[str] = (),
) -> Redirect:
    """Call the portal where it is now; where nobody vouches for that host, stop calling it.

    Nothing ran at the old address, and nothing is sent to one that is not believed.
    Writes: portal.
    """
    told = reply.location if reply is not None else None
    ago_ms = None if of.moved_at_ms is None else tenants.clock(connection) - of.moved_at_ms
    decision = decide(
        of.base_url, told, trusted=trusted, trail=steps(of.moved_from), moved_ms_ago=ago_ms
    )
    match decision:
        case Move(to=to):
            # Another lane of the portal may have been told first.
            if tenants.move(connection, of, to):
                log.warning("portal_moved portal=%s from=%s to=%s", of.code, of.base_url, to)
        case Distrust():
            state = portal_state_after(whole) or PortalState.MISCONFIGURED
            stop(connection, of, state, distrusted(of, whole, decision))
    return decision


def distrusted(of: Tenant, whole: Fault, decision: Distrust) -> str:
    """Why a redirect is not followed, and the command with which a person says that it may be."""
    reason = f"{whole.code}: the portal redirects {decision.reason}"
    if decision.to is None:
        return reason
    host = decision.to.removeprefix("https://")
    return f"{reason}; if that is its own: `b24sync portal move {of.code} --to {host}`"


def stop(connection: Connection, of: Tenant, state: PortalState, reason: str) -> bool:
    """Stop calling a portal, tell so, and when it is asked by itself; ``False``, it was stopped.

    ``reason`` begins with the code of the complaint, if there is one.
    Writes: portal.
    """
    code = tenants.code_of(reason)
    probe_ms = first_probe_ms(of, state, code)
    if not tenants.pause(connection, of.code, state, reason=reason, probe_ms=probe_ms):
        return False
    tell_stop(of, state, code)
    return True


def first_probe_ms(of: Tenant, state: PortalState, code: str) -> int | None:
    """In how many milliseconds a portal that is stopped now is asked by itself, if at all."""
    # Spread by their codes: those that are stopped in the same second are asked at many times.
    jitter = crc32(of.code.encode()) / 2**32
    return next_probe_ms(state, code, age=Age(), renews=renews(of), jitter=jitter)


def renews(of: Tenant) -> bool:
    """Whether asking a portal may cost a renewal of its tokens."""
    return of.auth_kind == AuthKind.OAUTH


def tell_stop(of: Tenant, state: PortalState, code: str) -> None:
    """One line for whoever is called out at night."""
    log.error(
        "portal_paused portal=%s state=%s code=%s remedy=%r",
        of.code,
        state,
        code or "-",
        remedy(state, code, portal=of.code),
    )
