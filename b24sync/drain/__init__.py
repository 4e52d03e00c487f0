"""One pass over one lane: the only module in which the stages meet.

Read it from top to bottom as the way of a row: claim, plan, compose, journal, go, send, interpret,
judge, settle. Each transaction is one function; none is open while the portal is waited for. Every
``if`` here is about the pass; what is decided about a row is decided in the core.

A worker never sleeps for a portal. Whatever has to wait is written into the tables as a time, and
the worker moves on to another lane or ends.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import TypeAlias, assert_never

from sqlalchemy import Connection

from b24sync.core.batching import compose
from b24sync.core.errors import CredentialError, NeverSent, SendError, SettingsError
from b24sync.core.lifecycle import breaker_ms, deferral_ms, portal_state_after
from b24sync.core.model import (
    Batch,
    Command,
    Fault,
    FaultKind,
    HaltMode,
    Outcome,
    Plan,
    PortalState,
    Reply,
    ResultOutcome,
    Row,
)
from b24sync.core.planning import Surroundings, needed_links, plan
from b24sync.core.replies import interpret, method_times, unanswered, whole_fault
from b24sync.core.settlement import Judging, Settlement, settlements
from b24sync.edge import lanes, ledger, settling, tenants
from b24sync.edge.database import transact
from b24sync.edge.guards import Raced
from b24sync.edge.lanes import Lane
from b24sync.edge.links import read_links
from b24sync.edge.portal import Credential
from b24sync.world import World, credential_of

log = logging.getLogger("b24sync")

READS = 20
"""How often one claim reads rows to fill a batch; bounds what one transaction sets aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one run is asked to drain: which portal and kinds, and how many rows at the most."""

    portal: str | None = None
    kinds: tuple[str, ...] = ()
    halt: HaltMode = HaltMode.INDEPENDENT
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse what this version cannot do."""
        if self.halt is not HaltMode.INDEPENDENT:
            raise SettingsError(
                "halt", f"the mode {self.halt} is not available yet; use {HaltMode.INDEPENDENT}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a run did.

    Shape: ``outcomes`` counts result rows by outcome; ``deferred`` counts rows that went back at no
    charge. ``more``: lanes were still due when the run ended.
    """

    batches: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    deferred: int = 0
    more: bool = False

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        outcomes = dict(self.outcomes)
        for outcome, count in other.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return Tally(
            batches=self.batches + other.batches,
            outcomes=outcomes,
            deferred=self.deferred + other.deferred,
            more=self.more or other.more,
        )

    @property
    def rows(self) -> int:
        """How many rows were moved in any way."""
        return sum(self.outcomes.values()) + self.deferred


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """Nothing to send now; the lane is due again in ``rest_ms``, or when its rows are.

    ``more``: not every row was looked at.
    """

    rest_ms: int | None = None
    more: bool = False
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A journalled batch, ready to be sent."""

    batch_id: int
    batch: Batch
    rows: Mapping[int, Row]
    now_ms: int
    tally: Tally


_Claim: TypeAlias = _Ready | _Rest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is known after a request: of every row, and of the portal as a whole.

    ``silent``: nothing is known of any row. ``rest_ms``: for how long to leave the portal alone.
    """

    rows: tuple[Settlement, ...]
    reply: Reply | None
    whole: Fault | None
    silent: bool
    rest_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """How a pass ended; ``rest_ms`` says that the lane is to be left until then."""

    tally: Tally
    goes_on: bool
    rest_ms: int | None = None


def _never() -> bool:
    return False


def _unwatched(_tally: Tally) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One call of ``drain``: its order, and when to stop."""

    world: World
    order: Order
    begun_s: float
    stopping: Callable[[], bool]
    watching: Callable[[Tally], None]

    def lasts(self, done: Tally) -> bool:
        """Whether another batch may be started."""
        settings, limit = self.world.settings, self.order.limit
        return (
            not self.stopping()
            and done.batches < settings.slice_batches
            and self.world.clock() - self.begun_s < settings.slice_s
            and (limit is None or done.rows < limit)
        )


def drain(
    world: World,
    order: Order,
    *,
    stopping: Callable[[], bool] = _never,
    watching: Callable[[Tally], None] = _unwatched,
) -> Tally:
    """Drain what is due, until nothing is, the slice is used up, or somebody says stop.

    ``watching`` is told what each pass did.
    Raises: what the database raises when it is gone; nothing is lost by it.
    """
    run = _Run(
        world=world, order=order, begun_s=world.clock(), stopping=stopping, watching=watching
    )
    transact(world.engine, partial(lanes.wake, code=order.portal))
    total = Tally()
    # Lanes with nothing for this run: of other kinds they may be due for ever.
    idle: set[tuple[str, int]] = set()
    while run.lasts(total):
        mine = _taken(world, order, idle)
        if mine is None:
            return total
        served = _serve(run, mine, total)
        if served.batches == 0:
            idle.add((mine.tenant.code, mine.lane))
        total += served
    return replace(total, more=_is_due(world, order))


def _taken(world: World, order: Order, idle: Collection[tuple[str, int]]) -> Lane | None:
    lease_ms = _ms(world.settings.lease_s)
    return transact(
        world.engine,
        partial(lanes.take, owner=world.owner, lease_ms=lease_ms, code=order.portal, without=idle),
    )


def _is_due(world: World, order: Order) -> bool:
    with world.engine.connect() as connection:
        return lanes.due(connection, order.portal) > 0


def _serve(run: _Run, mine: Lane, before: Tally) -> Tally:
    """Pass after pass over one lane that is ours, then give it back."""
    world, served = run.world, Tally()
    mine = _recovered(world, mine)
    end = _Pass(tally=served, goes_on=True)
    while end.goes_on and run.lasts(before + served):
        end = _one_pass(world, run.order, mine, before + served)
        served += end.tally
        run.watching(end.tally)
    transact(
        world.engine,
        partial(lanes.release, mine=mine, served=served.rows, rest_ms=end.rest_ms),
    )
    log.debug("lane_released portal=%s lane=%s rows=%d", mine.tenant.code, mine.lane, served.rows)
    return served


def _recovered(world: World, mine: Lane) -> Lane:
    """The lane, its last owner's open batch dealt with first."""
    if mine.open_batch_id is None:
        return mine
    number = mine.open_batch_id

    def recover(connection: Connection) -> None:
        became = ledger.recover(connection, number)
        lanes.close_batch(connection, mine, number, reached=False)
        if became is not None:
            log.warning(
                "batch_recovered portal=%s batch=%d became=%s", mine.tenant.code, number, became
            )

    transact(world.engine, recover)
    return replace(mine, open_batch_id=None)


def _one_pass(world: World, order: Order, mine: Lane, before: Tally) -> _Pass:
    """One batch down and its outcomes back."""
    try:
        credential = credential_of(world, mine.tenant)
    except (CredentialError, SettingsError) as error:
        return _unusable(world, mine, str(error))
    try:
        claimed = transact(world.engine, partial(_claim, world, order, mine, before))
    except Raced:
        log.info("claim_raced portal=%s lane=%s", mine.tenant.code, mine.lane)
        return _Pass(tally=Tally(), goes_on=True)
    match claimed:
        case None:
            log.warning("lease_lost portal=%s lane=%s", mine.tenant.code, mine.lane)
            return _Pass(tally=Tally(), goes_on=False)
        case _Rest(rest_ms=rest_ms, tally=tally, more=more):
            # Rows may have been set aside, and what stood behind them is ready now.
            goes_on = rest_ms is None and (more or tally.rows > 0)
            return _Pass(tally=tally, goes_on=goes_on, rest_ms=rest_ms)
        case _Ready():
            return _dispatch(world, mine, claimed, credential)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def _unusable(world: World, mine: Lane, reason: str) -> _Pass:
    """A portal that cannot be called as it is configured waits for a person."""
    transact(
        world.engine,
        partial(
            tenants.pause, code=mine.tenant.code, state=PortalState.MISCONFIGURED, reason=reason
        ),
    )
    log.error("portal_paused portal=%s state=misconfigured", mine.tenant.code)
    return _Pass(tally=Tally(), goes_on=False)


def _claim(
    world: World, order: Order, mine: Lane, before: Tally, connection: Connection
) -> _Claim | None:
    """Claim and journal, in one transaction: rows to commands, commands to one batch."""
    if not lanes.keep(connection, mine, lease_ms=_ms(world.settings.lease_s)):
        return None
    now_ms = tenants.now_if_active(connection, mine.tenant)
    if now_ms is None:
        return _Rest()
    size = world.settings.batch_size
    if order.limit is not None:
        size = min(size, order.limit - before.rows)
    blocked = tenants.blocked_methods(connection, mine.tenant)
    rows: dict[int, Row] = {}
    aside = Plan()
    commands: tuple[Command, ...] = ()
    more, reads = True, 0
    while more and len(commands) < size and reads < READS:
        reads += 1
        # What is set aside is not due any more; only what will be sent would be read again.
        planned = [row_id for command in commands for row_id in command.row_ids]
        heads, more = ledger.read_heads(
            connection, mine, limit=size, without=planned, kinds=order.kinds
        )
        found = {row.id: row for row in heads}
        rows |= found
        links = read_links(connection, mine.tenant.code, needed_links(heads))
        around = Surroundings(
            links=links, kinds=world.settings.kinds, blocked=blocked, now_ms=now_ms
        )
        part = plan(heads, around)
        commands += part.commands
        settling.set_aside(connection, part, found)
        aside = _together(aside, part)
    tally = _aside_tally(aside)
    if not commands:
        return _Rest(tally=tally, more=more)
    wait_ms = tenants.spend(connection, mine.tenant)
    if wait_ms > 0:
        return _Rest(tally=tally, rest_ms=wait_ms)
    batch, _ = compose(commands, max_commands=size)
    sent = {row_id: rows[row_id] for command in batch.commands for row_id in command.row_ids}
    number = ledger.journal(connection, mine, batch, sent, digest=_digest(batch))
    lanes.open_batch(connection, mine, number)
    return _Ready(batch_id=number, batch=batch, rows=sent, now_ms=now_ms, tally=tally)


def _together(first: Plan, second: Plan) -> Plan:
    return Plan(
        refusals=first.refusals + second.refusals,
        waiting=first.waiting + second.waiting,
        postponed=first.postponed + second.postponed,
        closing=first.closing + second.closing,
    )


def _aside_tally(aside: Plan) -> Tally:
    outcomes: dict[str, int] = {}
    if aside.refusals:
        outcomes[ResultOutcome.FAILED] = len(aside.refusals)
    for closing in aside.closing:
        outcomes[closing.outcome] = outcomes.get(closing.outcome, 0) + 1
    for refusal in aside.refusals:
        log.warning("row_refused row=%d code=%s", refusal.row_id, refusal.code)
    return Tally(outcomes=outcomes)


def _digest(batch: Batch) -> str:
    """A fingerprint of what was sent, as proof and without the content."""
    digest = blake2b(digest_size=32)
    for label, command in zip(batch.labels, batch.commands, strict=True):
        digest.update(f"{label}={command.method}?{command.query}\n".encode())
    return digest.hexdigest()


def _dispatch(world: World, mine: Lane, ready: _Ready, credential: Credential) -> _Pass:
    """Go, send, and record; the socket is touched only after the go is committed."""
    settings = world.settings
    if not transact(world.engine, partial(_go, world, mine, ready.batch_id)):
        log.warning("batch_lost portal=%s batch=%d", mine.tenant.code, ready.batch_id)
        return _Pass(tally=ready.tally, goes_on=False)
    try:
        reply = world.client.send(credential, ready.batch, deadline_s=settings.request_timeout_s)
    except NeverSent as error:
        return _never_sent(world, mine, ready, error)
    except SendError as error:
        log.warning(
            "reply_lost portal=%s batch=%d cause=%s took_s=%.1f",
            mine.tenant.code,
            ready.batch_id,
            error.cause,
            error.took_s,
        )
        return _recorded(world, mine, ready, unanswered(ready.batch, error), None)
    return _recorded(world, mine, ready, interpret(ready.batch, reply), reply)


def _go(world: World, mine: Lane, batch_id: int, connection: Connection) -> bool:
    """The last act before the socket: still our lane, still our batch."""
    settings = world.settings
    deadline_ms = _ms(settings.request_timeout_s)
    # Time to write the answer down, after the longest wait for it.
    if not lanes.keep(connection, mine, lease_ms=deadline_ms + _ms(settings.lease_s)):
        return False
    longest_s = max(float(mine.tenant.server_max_s), settings.request_timeout_s)
    quiet_ms = _ms(longest_s + settings.quiet_margin_s)
    return ledger.go(connection, batch_id, deadline_ms=deadline_ms, quiet_ms=quiet_ms)


def _never_sent(world: World, mine: Lane, ready: _Ready, error: NeverSent) -> _Pass:
    """The portal was not reached: rows go back untouched, and the portal is left alone a while."""
    rest_ms = breaker_ms(mine.fail_streak, jitter=world.chance())
    reason = f"portal not reached: {error.cause}"

    def give_back(connection: Connection) -> None:
        ledger.give_back(connection, ready.batch_id, reason=reason[:64])
        lanes.close_batch(connection, mine, ready.batch_id, reached=False)
        lanes.strike(connection, mine, rest_ms=rest_ms)

    transact(world.engine, give_back)
    log.warning(
        "portal_unreachable portal=%s cause=%s rest_ms=%d", mine.tenant.code, error.cause, rest_ms
    )
    return _Pass(
        tally=ready.tally + Tally(batches=1, deferred=len(ready.rows)),
        goes_on=False,
        rest_ms=rest_ms,
    )


def _recorded(
    world: World,
    mine: Lane,
    ready: _Ready,
    outcomes: Sequence[Outcome],
    reply: Reply | None,
) -> _Pass:
    """Judge every row and write it down, with what the reply says of the portal as a whole."""
    took_ms = int(reply.took_s * 1000) if reply is not None else 0
    judging = Judging(
        policy=world.settings.retry_policy, now_ms=ready.now_ms + took_ms, chance=world.chance
    )
    rows = settlements(ready.batch, ready.rows, outcomes, judging)
    whole = whole_fault(ready.batch, reply) if reply is not None else None
    silent = all(row.in_doubt for row in rows)
    rest_ms = _rest_ms(world, mine, whole, silent=silent)
    answer = _Answer(rows=rows, reply=reply, whole=whole, silent=silent, rest_ms=rest_ms)
    goes_on = whole is None and not silent
    if not transact(world.engine, partial(_settle, world, mine, ready, answer)):
        log.warning("answer_late portal=%s batch=%d", mine.tenant.code, ready.batch_id)
        return _Pass(tally=ready.tally + Tally(batches=1), goes_on=goes_on, rest_ms=rest_ms)
    _report(mine, ready, answer)
    return _Pass(tally=ready.tally + _tally(rows), goes_on=goes_on, rest_ms=rest_ms)


def _rest_ms(world: World, mine: Lane, whole: Fault | None, *, silent: bool) -> int | None:
    """For how long the lane is left after this answer; ``None``, it goes by its rows."""
    if silent:
        # A portal that answers nothing usable would put batch after batch in doubt.
        return breaker_ms(mine.fail_streak, jitter=world.chance())
    if whole is not None and whole.kind is FaultKind.RATE:
        dice_ms = deferral_ms(whole, retry_at_ms=None, now_ms=0, jitter=world.chance())
        return max(1, int(1000 / mine.tenant.rate_y)) + dice_ms
    return None


def _settle(
    world: World, mine: Lane, ready: _Ready, answer: _Answer, connection: Connection
) -> bool:
    """Outcomes, links, rows, and what the portal said of itself, in one transaction."""
    reply, whole = answer.reply, answer.whole
    status = reply.status if reply is not None else None
    settled = settling.settle(connection, ready.batch_id, answer.rows, http_status=status)
    lanes.close_batch(connection, mine, ready.batch_id, reached=not answer.silent)
    if answer.silent:
        lanes.strike(connection, mine, rest_ms=answer.rest_ms or 0)
    if reply is not None:
        _heed_methods(world, connection, mine, ready, reply)
    if whole is None:
        return settled
    if whole.kind is FaultKind.RATE:
        tenants.fill(connection, mine.tenant)
    state = portal_state_after(whole)
    if state is not None:
        reason = tenants.reason_of(whole)
        if reply is not None and reply.location is not None:
            reason = f"the portal has moved to {reply.location}; add it anew under that address"
        tenants.pause(connection, mine.tenant.code, state, reason=reason)
        log.error("portal_paused portal=%s state=%s code=%s", mine.tenant.code, state, whole.code)
    return settled


def _heed_methods(
    world: World, connection: Connection, mine: Lane, ready: _Ready, reply: Reply
) -> None:
    """Methods that the portal refuses for time are left alone until it says."""
    times = method_times(ready.batch, reply)
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


def _tally(rows: Sequence[Settlement]) -> Tally:
    outcomes: dict[str, int] = {}
    for row in rows:
        if row.outcome is not None:
            outcomes[row.outcome] = outcomes.get(row.outcome, 0) + 1
    deferred = sum(1 for row in rows if row.outcome is None)
    return Tally(batches=1, outcomes=outcomes, deferred=deferred)


def _report(mine: Lane, ready: _Ready, answer: _Answer) -> None:
    """One line per thing an operator would act on; never a payload, never an address."""
    code = mine.tenant.code
    for row in answer.rows:
        if row.error_class == FaultKind.UNLISTED:
            log.error("fault_unlisted portal=%s row=%d code=%r", code, row.row.id, row.error_code)
        if row.bury_reason is not None:
            log.warning(
                "row_buried portal=%s row=%d kind=%s reason=%s code=%r",
                code,
                row.row.id,
                row.row.kind,
                row.bury_reason,
                row.error_code,
            )
    doubted = [row for row in answer.rows if row.in_doubt]
    if doubted:
        log.warning(
            "batch_in_doubt portal=%s batch=%d rows=%d reason=%s",
            code,
            ready.batch_id,
            len(doubted),
            (doubted[0].error_text or "").partition(":")[0],
        )
    log.info(
        "batch_settled portal=%s batch=%d commands=%d whole_fault=%s",
        code,
        ready.batch_id,
        len(ready.batch.commands),
        answer.whole.code if answer.whole is not None else None,
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
