"""What an answer says of the portal's time, and what its absence does, written down for every worker."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from b24sync.core import learning
from b24sync.core.batching import size_of
from b24sync.core.learning import Timings
from b24sync.core.limits import MethodTime
from b24sync.core.model import Batch, Deferred, FaultKind, Outcome, Reply
from b24sync.core.pacing import BATCH, MethodPace, Pace, Rules
from b24sync.core.replies import (
    durations,
    finished_ms,
    interpret,
    method_marks,
    method_times,
    request_time,
    whole_fault,
)
from b24sync.edge import budgets
from b24sync.edge.tenants import Tenant
from b24sync.settings import Settings
from b24sync.world import World

log = logging.getLogger("b24sync")

CUT = 0.9
"""A request without an answer was cut, if it had this part of the time that the portal gives it."""

_GATEWAY_TIMEOUT = 504


def rules_of(settings: Settings, of: Tenant) -> Rules:
    """The limits of a portal as they are set, for it or for all."""
    limit_s = settings.method_limit_s if of.method_limit_s is None else of.method_limit_s
    return Rules(
        method_s=limit_s or None,
        window_s=settings.method_window_s,
        request_s=float(of.server_max_s),
        share=settings.batch_share,
        start=settings.batch_start,
    )


def lessons(
    pace: Pace,
    batch: Batch,
    reply: Reply | None,
    outcomes: Sequence[Outcome],
    *,
    took_s: float,
    now_ms: int,
) -> Mapping[str, MethodPace]:
    """What is to be remembered after a request; ``reply`` is ``None`` where none came.

    ``outcomes`` are those of its commands.

    Units: ``took_s`` seconds; ``now_ms`` is when it ended, by the database's clock.
    """
    whole = None if reply is None else whole_fault(batch, reply)
    if whole is not None and whole.kind is FaultKind.TOO_LARGE:
        return learning.too_large(pace, size_of(batch.commands), now_ms=now_ms)
    if _is_cut(pace, reply, took_s):
        methods = [command.method for command in batch.commands]
        return learning.cut(pace, methods, now_ms=now_ms)
    if reply is None:
        return {}
    told = Timings(
        costs_s=durations(batch, reply, outcomes),
        budgets=_budgets(batch, reply, outcomes),
        marks=method_marks(batch, reply),
        finished_ms=finished_ms(reply),
    )
    return learning.learned(pace, told, now_ms=now_ms)


def _is_cut(pace: Pace, reply: Reply | None, took_s: float) -> bool:
    is_late = took_s >= CUT * pace.rules.request_s
    if reply is None:
        return is_late
    no_answer = not reply.readable and reply.status >= 500  # noqa: PLR2004 - a server's own trouble
    return no_answer and (is_late or reply.status == _GATEWAY_TIMEOUT)


def _budgets(batch: Batch, reply: Reply, outcomes: Sequence[Outcome]) -> Mapping[str, MethodTime]:
    """What is used of which method's time, by who pays."""
    whole = request_time(batch, reply)
    each = method_times(batch, reply, outcomes)
    if whole is None:
        return each
    # The numbers of the commands are those of the request then.
    is_blocked = whole.is_blocked or any(time.is_blocked for time in each.values())
    return {BATCH: replace(whole, is_blocked=is_blocked)}


def heed_methods(
    connection: Connection, of: Tenant, pace: Pace, found: Mapping[str, MethodPace]
) -> None:
    """Write down what was learned, and tell of methods that rest from now on.

    Writes: method_budget, in one statement; nothing, where nothing was learned.
    """
    budgets.remember(connection, of, found, pace.rules)
    blocked = [
        method
        for method, known in found.items()
        if known.blocked_until_ms > max(pace.now_ms, pace.of(method).blocked_until_ms)
    ]
    if blocked:
        log.info("methods_blocked portal=%s methods=%s", of.code, ",".join(blocked))


def heed_look(
    world: World, connection: Connection, of: Tenant, pace: Pace | None, batch: Batch, reply: Reply
) -> Mapping[str, MethodPace]:
    """The same after questions; what is known of the portal is read, if it is not given.

    Writes: method_budget, in one statement; nothing, where nothing was learned.
    """
    pace = pace or budgets.known_pace(connection, of, rules_of(world.settings, of))
    outcomes = interpret(batch, reply)
    found = lessons(pace, batch, reply, outcomes, took_s=reply.took_s, now_ms=pace.now_ms)
    heed_methods(connection, of, pace, found)
    return found


def held_back(
    batch: Batch, outcomes: Sequence[Outcome], found: Mapping[str, MethodPace]
) -> tuple[Outcome, ...]:
    """The outcomes; commands that were refused for time come back when their method does."""
    told: list[Outcome] = []
    for command, outcome in zip(batch.commands, outcomes, strict=True):
        known = found.get(command.method) or found.get(BATCH)
        match outcome:
            case Deferred(fault=fault) if fault.kind is FaultKind.METHOD_TIME and known is not None:
                told.append(replace(outcome, retry_at_ms=known.blocked_until_ms))
            case _:
                told.append(outcome)
    return tuple(told)
