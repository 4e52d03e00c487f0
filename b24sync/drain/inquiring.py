"""Many questions to a portal without a lane, in one request: paid for, and its limits heeded.

They only read, so nothing is journalled, and several may be asked at once with what is sent. Nobody
waits here: where the portal may not be asked now, that is said, with the time to come again. What a
person must act on is left to the drain to tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from b24sync.core.errors import SendError
from b24sync.core.limits import late_share
from b24sync.core.model import Batch, Command, FaultKind, Operation, Outcome, Reply
from b24sync.core.pacing import BATCH
from b24sync.core.replies import answers, interpret, method_times, whole_fault
from b24sync.drain import renewing, timing
from b24sync.drain.renewing import Resting, Unusable
from b24sync.edge import budgets, rates
from b24sync.edge.database import transact
from b24sync.edge.portal import Credential
from b24sync.edge.tenants import Tenant
from b24sync.world import World

AGAIN_MS = 60_000
"""When to come again, where the portal does not say."""


class NotNow(Exception):  # noqa: N818 - a signal to whoever asks, not an error
    """The portal may not be asked now, or has not answered."""

    def __init__(self, why: str, wait_ms: int = AGAIN_MS, *, requests: int = 0) -> None:
        """Say why in one word, and in how many milliseconds to come again."""
        super().__init__(why)
        self.why = why
        self.wait_ms = wait_ms
        self.requests = requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a portal has answered, question by question.

    Units: ``operating_s`` is the most that any of the methods has used of its time.
    """

    outcomes: tuple[Outcome, ...]
    answers: tuple[object, ...]
    operating_s: float


def inquire(world: World, of: Tenant, lines: Sequence[tuple[str, str]], *, reserve: float) -> Told:
    """Ask these questions, each a method and its query, if so much of the portal's rate is free.

    Units: ``reserve`` requests are left to others.
    Raises: NotNow.
    Writes: bucket; method_budget; portal, a renewed token.
    """
    batch = _batch(lines)
    transact(world.engine, partial(_pay, world=world, of=of, batch=batch, reserve=reserve))
    reply = _reply(world, of, batch)
    transact(world.engine, partial(_heed, world=world, of=of, batch=batch, reply=reply))
    whole, times = whole_fault(batch, reply), method_times(batch, reply).values()
    if whole is not None:
        raise NotNow(f"refused_{whole.code}", requests=1)
    if any(time.is_blocked for time in times):
        raise NotNow("method_time", requests=1)
    return Told(
        outcomes=interpret(batch, reply),
        answers=answers(batch, reply),
        operating_s=max((time.operating_s for time in times), default=0.0),
    )


def _batch(lines: Sequence[tuple[str, str]]) -> Batch:
    commands = tuple(
        Command(
            row_ids=(number,),
            kind="call",
            key="",
            operation=Operation.CALL,
            method=method,
            query=query,
            repeatable=True,
        )
        for number, (method, query) in enumerate(lines)
    )
    return Batch(labels=tuple(command.label for command in commands), commands=commands)


def _pay(connection: Connection, world: World, of: Tenant, batch: Batch, reserve: float) -> None:
    """Take a request out of the portal's rate, if nobody stopped it and so much of it is free.

    Raises: NotNow.
    Writes: bucket.
    """
    pace = budgets.read_pace(connection, of, timing.rules_of(world.settings, of))
    if pace is None:
        raise NotNow("paused")
    until = max(pace.rests_until(method) for method in (BATCH, *(c.method for c in batch.commands)))
    if until:
        raise NotNow("method_time", max(1, until - pace.now_ms))
    reserve = max(reserve, late_share(rates.plan_of(of)))
    wait_ms = rates.spend(connection, of, reserve=reserve)
    if wait_ms > 0:
        raise NotNow("rate", wait_ms)


def _reply(world: World, of: Tenant, batch: Batch) -> Reply:
    """The portal's answer, with a token that was renewed if it must be.

    Raises: NotNow.
    """

    def ask(credential: Credential) -> Reply:
        return world.client.send(credential, batch, deadline_s=world.settings.request_timeout_s)

    try:
        told = renewing.asked(world, of, ask, partial(whole_fault, batch))
    except SendError as error:
        raise NotNow(f"no_answer_{error.cause}", requests=1) from None
    match told:
        case Resting(rest_ms=rest_ms, code=code):
            raise NotNow(code, rest_ms)
        case Unusable():
            raise NotNow("no_credential")
        case (reply, _):
            return reply


def _heed(connection: Connection, world: World, of: Tenant, batch: Batch, reply: Reply) -> None:
    """What the portal says of its limits, for every worker.

    Writes: bucket; method_budget.
    """
    whole = whole_fault(batch, reply)
    if whole is not None and whole.kind is FaultKind.RATE:
        rates.fill(connection, of)
    timing.heed_look(world, connection, of, None, batch, reply)
