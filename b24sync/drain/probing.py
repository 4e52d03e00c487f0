"""Asking portals that are stopped whether they are well again: one harmless call each, now and then.

The call is a batch with ``server.time`` in it. A batch, because that is how the work goes: whatever
a batch would be refused for, this one is. ``server.time``, because it needs no scope and no right,
and any credential may call it, a webhook as well as an application (``app.info`` refuses webhooks),
and because it reads nothing.

Source: Bitrix24 REST manual, "server.time": for everybody, without parameters.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from b24sync.core.errors import SendError
from b24sync.core.hosts import Move
from b24sync.core.lifecycle import portal_state_after
from b24sync.core.model import (
    Applied,
    Batch,
    Command,
    Fault,
    FaultKind,
    Operation,
    PortalState,
    Reply,
)
from b24sync.core.probes import Age, next_probe_ms
from b24sync.core.replies import interpret, whole_fault
from b24sync.drain import heeding, renewing
from b24sync.drain.renewing import Resting, Unusable
from b24sync.edge import probes, rates, tenants
from b24sync.edge.portal import Credential
from b24sync.edge.probes import Stopped
from b24sync.world import Moment, Step, World

log = logging.getLogger("b24sync")

PROBES_PER_RUN = 20
"""How many portals one run asks at the most."""

PROBE_S = 15.0
"""How long one probe may take."""

_QUESTION = Command(
    row_ids=(0,),
    kind="call",
    key="",
    operation=Operation.CALL,
    method="server.time",
    query="",
    repeatable=True,
)
_BATCH = Batch(labels=(_QUESTION.label,), commands=(_QUESTION,))


def _never() -> bool:
    return False


def probe(
    world: World, *, code: str | None = None, stopping: Callable[[], bool] = _never
) -> tuple[str, ...]:
    """Ask the portals whose probe is due, of one or of all; the codes of those that are well.

    Shape: not more than ``PROBES_PER_RUN``, and begun within the slice.
    Raises: what the database raises when it is gone.
    """
    begun_s = world.clock()
    with world.engine.connect() as connection:
        due = probes.due(connection, limit=PROBES_PER_RUN, code=code)
    well: list[str] = []
    for name in due:
        if stopping() or world.clock() - begun_s >= world.settings.slice_s:
            break
        take = partial(probes.take, code=name, following=partial(_following, world))
        stopped = world.transact(Step.TAKE, take)
        if stopped is not None and _ask(world, stopped):
            well.append(name)
    return tuple(well)


def _following(world: World, stopped: Stopped) -> int | None:
    return next_probe_ms(
        stopped.state,
        stopped.code,
        age=stopped.age,
        renews=heeding.renews(stopped.tenant),
        jitter=world.chance(),
    )


def _ask(world: World, stopped: Stopped) -> bool:
    """One probe; whether the portal is well."""
    deadline_s = min(PROBE_S, world.settings.request_timeout_s)

    def ask(credential: Credential) -> Reply:
        world.telling(Step.LOOK, Moment.BEFORE)
        reply = world.client.send(credential, _BATCH, deadline_s=deadline_s)
        world.telling(Step.LOOK, Moment.AFTER)
        return reply

    try:
        answer = renewing.asked(world, stopped.tenant, ask, partial(whole_fault, _BATCH))
    except SendError as error:
        return _unwell(stopped, error.cause)
    match answer:
        case Resting(code=code):
            return _unwell(stopped, code)
        case Unusable(state=state, reason=reason, version=version):
            # Without a version it is this process that lacks the key or the setting.
            if version is not None:
                world.transact(Step.LEARN, partial(_hear, world, stopped, state, reason))
            return _unwell(stopped, tenants.code_of(reason))
        case (reply, tenant):
            return _heard(world, replace(stopped, tenant=tenant), reply)


def _heard(world: World, stopped: Stopped, reply: Reply) -> bool:
    """The portal answered; whether it is well, and what it complains of if not."""
    whole = whole_fault(_BATCH, reply)
    if whole is not None:
        world.transact(Step.LEARN, partial(_heed, world, stopped, whole, reply))
        return _unwell(stopped, whole.code)
    if not isinstance(interpret(_BATCH, reply)[0], Applied):
        return _unwell(stopped, f"status_{reply.status}")
    resume = partial(tenants.resume, code=stopped.tenant.code, stopped_as=stopped.state)
    if not world.transact(Step.LEARN, resume):
        return False
    log.info("portal_well portal=%s state=%s", stopped.tenant.code, stopped.state)
    return True


def _heed(
    world: World, stopped: Stopped, whole: Fault, reply: Reply, connection: Connection
) -> None:
    """The portal complains still, or of something else, or from another address."""
    of = stopped.tenant
    if whole.kind is FaultKind.RATE:
        rates.fill(connection, of)
    reason = tenants.reason_of(whole)
    if whole.kind is FaultKind.MOVED:
        decision = heeding.heed_redirect(
            connection, of, whole, reply, trusted=world.settings.trusted_hosts
        )
        if isinstance(decision, Move):
            probes.ask_again(connection, stopped)
            return
        reason = heeding.distrusted(of, whole, decision)
    state = portal_state_after(whole)
    if state is not None:
        _hear(world, stopped, state, reason, connection)


def _hear(
    world: World, stopped: Stopped, state: PortalState, reason: str, connection: Connection
) -> None:
    """Write down what the portal complains of by now; a new complaint is told like a first one."""
    of, code = stopped.tenant, tenants.code_of(reason)
    probe_ms = next_probe_ms(
        state, code, age=Age(), renews=heeding.renews(of), jitter=world.chance()
    )
    heard = probes.hear(connection, stopped, state, reason=reason, probe_ms=probe_ms)
    if heard and state is not stopped.state:
        heeding.tell_stop(of, state, code)


def _unwell(stopped: Stopped, said: str) -> bool:
    """``False``, and a line that says why."""
    log.info(
        "portal_probed portal=%s state=%s probes=%d said=%s",
        stopped.tenant.code,
        stopped.state,
        stopped.age.probes,
        said,
    )
    return False
