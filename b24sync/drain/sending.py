"""Go, send, and record; the socket is touched only after the go is committed.

What came back, or what is known where nothing did, is judged row by row and written down in one
transaction with what the answer says of the portal as a whole.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from time import monotonic

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from b24sync.core.errors import NeverSent, SendError
from b24sync.core.lifecycle import breaker_ms
from b24sync.core.model import Fault, FaultKind, Outcome, Reply
from b24sync.core.pacing import MethodPace
from b24sync.core.replies import interpret, unanswered, whole_fault
from b24sync.core.settlement import Judging, Settlement, settlements
from b24sync.drain import heeding, timing
from b24sync.drain.claiming import Ready
from b24sync.drain.looking import verified
from b24sync.drain.orders import Pass, Tally, milliseconds
from b24sync.edge import lanes, ledger, settling
from b24sync.edge.duplicates import Found
from b24sync.edge.guards import Raced
from b24sync.edge.lanes import Lane
from b24sync.edge.portal import Credential
from b24sync.edge.settling import Settled
from b24sync.world import Moment, Step, World

log = logging.getLogger("b24sync")

AGAIN_S = 0.2
"""How long an answer in hand waits for a database that is away, before it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is known after a request: of every row, and of the portal as a whole.

    ``silent``: nothing is known of any row. ``rest_ms``: for how long to leave the portal alone.
    ``first``: rows that go before all others. ``stopped_by``: the row that stops the lane.
    ``lessons``: what is to be remembered of the time that methods take.
    """

    rows: tuple[Settlement, ...]
    reply: Reply | None
    whole: Fault | None
    silent: bool
    rest_ms: int | None
    first: tuple[int, ...] = ()
    stopped_by: int | None = None
    lessons: Mapping[str, MethodPace] = field(default_factory=dict[str, MethodPace])


def dispatch(world: World, mine: Lane, ready: Ready, credential: Credential) -> Pass:
    """Go, send, and record; the socket is touched only after the go is committed."""
    settings = world.settings
    if not world.transact(Step.GO, partial(_go, world, mine, ready.batch_id)):
        log.warning("batch_lost portal=%s batch=%d", mine.tenant.code, ready.batch_id)
        return Pass(tally=ready.tally, goes_on=False)
    world.telling(Step.SEND, Moment.BEFORE)
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
        outcomes = unanswered(ready.batch, error)
        return _recorded(world, mine, ready, outcomes, None, took_s=error.took_s)
    world.telling(Step.SEND, Moment.AFTER)
    outcomes = verified(world, mine, credential, ready.batch, interpret(ready.batch, reply))
    return _recorded(world, mine, ready, outcomes, reply, took_s=reply.took_s)


def _go(world: World, mine: Lane, batch_id: int, connection: Connection) -> bool:
    """The last act before the socket: still our lane, still our batch."""
    settings = world.settings
    deadline_ms = milliseconds(settings.request_timeout_s)
    longest_s = max(float(mine.tenant.server_max_s), settings.request_timeout_s)
    quiet_ms = milliseconds(longest_s + settings.quiet_margin_s)
    return ledger.go(connection, mine, batch_id, deadline_ms=deadline_ms, quiet_ms=quiet_ms)


def _never_sent(world: World, mine: Lane, ready: Ready, error: NeverSent) -> Pass:
    """The portal was not reached: rows go back untouched, and the portal is left alone a while."""
    rest_ms = breaker_ms(mine.fail_streak, jitter=world.chance())
    reason = f"portal not reached: {error.cause}"

    def give_back(connection: Connection) -> None:
        ledger.give_back(connection, ready.batch_id, reason=reason[:64])
        lanes.close_batch(connection, mine, ready.batch_id, reached=False)
        lanes.strike(connection, mine, rest_ms=rest_ms, silent=False)

    world.transact(Step.RETURN, give_back)
    log.warning(
        "portal_unreachable portal=%s cause=%s rest_ms=%d", mine.tenant.code, error.cause, rest_ms
    )
    return Pass(
        tally=ready.tally + Tally(batches=1, deferred=len(ready.rows)),
        goes_on=False,
        rest_ms=rest_ms,
        first_rows=mine.first_rows,
    )


def _recorded(
    world: World,
    mine: Lane,
    ready: Ready,
    outcomes: Sequence[Outcome],
    reply: Reply | None,
    *,
    took_s: float,
) -> Pass:
    """Judge every row and write it down, with what the reply says of the portal as a whole."""
    now_ms = ready.now_ms + milliseconds(monotonic() - ready.read_s)
    lessons = timing.lessons(ready.pace, ready.batch, reply, outcomes, took_s=took_s, now_ms=now_ms)
    outcomes = timing.held_back(ready.batch, outcomes, lessons)
    judging = Judging(
        policy=world.settings.retry_policy,
        now_ms=now_ms,
        chance=world.chance,
        strict=ready.strict,
    )
    rows = settlements(ready.batch, ready.rows, outcomes, judging)
    whole = whole_fault(ready.batch, reply) if reply is not None else None
    silent = all(row.in_doubt for row in rows)
    rest_ms = heeding.rest_ms(world, mine, whole, silent=silent)
    stopped_by = next((row.row.id for row in rows if row.stopped or row.in_doubt), None)
    pause_ms = _failed_rest_ms(rows) if ready.strict else 0
    answer = _Answer(
        rows=rows,
        reply=reply,
        whole=whole,
        silent=silent,
        rest_ms=rest_ms or pause_ms or None,
        first=_first(rows, strict=ready.strict) + ready.first_rows,
        stopped_by=stopped_by if ready.strict else None,
        lessons=lessons,
    )
    goes_on = whole is None and not silent and not pause_ms and answer.stopped_by is None
    rest_ms = answer.rest_ms
    settle = partial(_settle, world, mine, ready, answer)
    try:
        trusted = partial(settle, trusting=True)
        settled = _written(world, mine.tenant.code, ready.batch_id, trusted)
    except Raced:
        # Somebody took rows out of the batch; their neighbours' answers are written all the same.
        settled = _written(world, mine.tenant.code, ready.batch_id, settle)
    report_duplicates(settled.duplicates)
    for late in settled.orphaned:
        log.error(
            "record_orphaned portal=%s kind=%s row=%d record=%s",
            late.row.portal,
            late.row.kind,
            late.row.id,
            late.remote_id,
        )
    if not settled.recorded:
        log.warning("answer_late portal=%s batch=%d", mine.tenant.code, ready.batch_id)
        return Pass(tally=ready.tally + Tally(batches=1), goes_on=goes_on, rest_ms=rest_ms)
    _report(mine, ready, answer)
    return Pass(
        tally=ready.tally + _tally(rows),
        goes_on=goes_on,
        rest_ms=rest_ms,
        first_rows=answer.first,
    )


def _written(
    world: World, code: str, batch_id: int, settle: Callable[[Connection], Settled]
) -> Settled:
    """Write an answer down, again and again for as long as a lease lasts, if the database goes away.

    It is in this process's memory alone: lost, the rows would be in doubt, and some of them would
    wait for a person.
    Raises: what the database raised last.
    """
    until_s: float | None = None
    while True:
        try:
            return world.transact(Step.SETTLE, settle)
        except (OperationalError, InterfaceError):
            now_s = world.clock()
            until_s = now_s + world.settings.lease_s if until_s is None else until_s
            if now_s >= until_s:
                raise
            log.warning("settle_again portal=%s batch=%d", code, batch_id)
            Event().wait(AGAIN_S)


def _first(rows: Sequence[Settlement], *, strict: bool) -> tuple[int, ...]:
    """The rows that a halt has spared, in their order; in the mode ``strict`` behind the failed one.

    That one stands there too while it rests: whenever it is ready again, it is its turn.
    """
    heads: dict[int, Settlement] = {}
    for row in rows:
        heads.setdefault(row.cmd_no, row)
    return tuple(
        row.row.id
        for row in heads.values()
        if row.spared or (strict and not row.final and row.remainder is None)
    )


def _failed(rows: Sequence[Settlement]) -> list[Settlement]:
    """Rows that try again, and not because they were spared."""
    return [
        row
        for row in rows
        if row.requeue_ms is not None
        and not row.spared
        and not row.is_behind
        and row.remainder is None
    ]


def _failed_rest_ms(rows: Sequence[Settlement]) -> int:
    """In the mode ``strict`` the lane waits as long as the row that failed does."""
    return max((row.requeue_ms or 0 for row in _failed(rows)), default=0)


def _settle(
    world: World,
    mine: Lane,
    ready: Ready,
    answer: _Answer,
    connection: Connection,
    *,
    trusting: bool = False,
) -> Settled:
    """Outcomes, links, rows, and what the portal said of itself, in one transaction."""
    reply, whole = answer.reply, answer.whole
    status = reply.status if reply is not None else None
    settled = settling.settle(
        connection, ready.batch_id, answer.rows, http_status=status, trusting=trusting
    )
    if answer.silent or mine.fail_streak:
        # Otherwise the next batch takes the place of this one, or the lane is given back.
        lanes.close_batch(connection, mine, ready.batch_id, reached=not answer.silent)
    if answer.silent:
        lanes.strike(connection, mine, rest_ms=answer.rest_ms or 0, silent=True)
    if answer.first or mine.first_rows:
        lanes.put_first(connection, mine, answer.first, rest_ms=answer.rest_ms)
    if answer.stopped_by is not None:
        lanes.stop(connection, mine, answer.stopped_by)
    timing.heed_methods(connection, mine.tenant, ready.pace, answer.lessons)
    if whole is not None:
        heeding.heed_portal(connection, mine, whole, reply, trusted=world.settings.trusted_hosts)
    return settled


def _tally(rows: Sequence[Settlement]) -> Tally:
    outcomes: dict[str, int] = {}
    for row in rows:
        if row.outcome is not None:
            outcomes[row.outcome] = outcomes.get(row.outcome, 0) + 1
    deferred = sum(1 for row in rows if row.outcome is None)
    return Tally(batches=1, outcomes=outcomes, deferred=deferred)


def report_duplicates(found: Sequence[Found]) -> None:
    """Tell of records that nobody had told of before, a line each."""
    for one in found:
        log.error(
            "duplicate_found portal=%s kind=%s kept=%s others=%s found_by=%s",
            one.portal,
            one.kind,
            one.kept_id,
            one.other_id,
            one.found_by,
        )


def _report(mine: Lane, ready: Ready, answer: _Answer) -> None:
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
