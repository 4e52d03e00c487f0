"""One pass over one lane: the only place in which the stages meet.

Read it as the way of a row: claim, plan, compose, journal (``claiming``), perhaps a look at the
portal (``looking``), go, send, interpret, judge, settle (``sending``). Each transaction is one
function; none is open while the portal is waited for. Every ``if`` here is about the pass; what is
decided about a row is decided in the core.

A worker never sleeps for a portal. Whatever has to wait is written into the tables as a time, and
the worker moves on to another lane or ends.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from b24sync.core.model import HaltMode, Question
from b24sync.core.pacing import Pace
from b24sync.core.surroundings import NO_FACTS, Facts
from b24sync.drain import heeding, timing
from b24sync.drain.claiming import Claim, LaneLost, Look, Ready, Rest, claim, note
from b24sync.drain.looking import PROBE, Seen, look, patient
from b24sync.drain.orders import Order, Pass, Resting, Tally, milliseconds
from b24sync.drain.paying import pay
from b24sync.drain.reconciling import decide_doubts
from b24sync.drain.renewing import usable_credential
from b24sync.drain.sending import dispatch
from b24sync.edge import lanes, ledger, suspects, taking
from b24sync.edge.guards import Raced
from b24sync.edge.lanes import Lane
from b24sync.world import Step, World

__all__ = ["Order", "Resting", "Tally", "drain"]

log = logging.getLogger("b24sync")


_UNASKED = Look(questions=(), rows=(), tally=Tally())
"""What stands for a look that no rows wait for."""


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
            # A look is for the batch that comes after it, and forgotten without it.
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
    # What is due goes first; the pump looks at everything now and then, and whoever has nothing to do.
    is_awake = order.portal is not None
    if is_awake:
        _woken(run)
    total = Tally()
    # Lanes with nothing for this run: of other kinds they may be due for ever.
    idle: set[tuple[str, int]] = set()
    while run.lasts(total):
        mine = _taken(world, order, idle)
        if mine is None and not is_awake:
            is_awake = True
            mine = _taken(world, order, idle) if _woken(run) else None
        if mine is None:
            return total
        served = _serve(run, mine, total)
        if served.requests == 0:
            idle.add((mine.tenant.code, mine.lane))
        total += served
    return replace(total, more=_is_due(world, order))


def _woken(run: _Run) -> int:
    return run.world.transact(Step.WAKE, partial(taking.wake, code=run.order.portal))


def _taken(world: World, order: Order, idle: Collection[tuple[str, int]]) -> Lane | None:
    lease_ms = milliseconds(world.settings.lease_s)
    return world.transact(
        Step.TAKE,
        partial(taking.take, owner=world.owner, lease_ms=lease_ms, code=order.portal, without=idle),
    )


def _is_due(world: World, order: Order) -> bool:
    with world.engine.connect() as connection:
        return taking.due(connection, order.portal, limit=1) > 0


def _serve(run: _Run, mine: Lane, before: Tally) -> Tally:
    """Pass after pass over one lane that is ours, then give it back."""
    world, served, begun_s = run.world, Tally(), run.world.clock()
    mine = _recovered(world, mine)
    end = _decided(run, mine, before)
    if mine.is_silent and end.goes_on and not end.tally.looks:
        probed = _probed(world, mine)
        # It is about no row, and counts as no request of theirs.
        end = replace(probed, tally=end.tally, facts=end.facts)
    mine = replace(mine, is_silent=False)
    served += end.tally
    if end.tally != Tally():
        run.watching(end.tally)
    while end.goes_on and run.lasts(before + served):
        mine = replace(mine, first_rows=end.first_rows)
        end = _one_pass(run, mine, end.facts, before + served)
        served += end.tally
        run.watching(end.tally)
        if mine.lanes > 1 and end.goes_on:
            world.transact(Step.RING, partial(taking.ring, mine=mine, owned_too=False))
    taken_s = world.clock() - begun_s
    world.transact(
        Step.RELEASE,
        partial(lanes.release, mine=mine, served=taken_s, rest_ms=end.rest_ms),
    )
    if mine.lanes > 1:
        # By itself: with the lane still locked, owners that ring for each other would wait in a ring.
        world.transact(Step.RING, partial(taking.ring, mine=mine, owned_too=True))
    log.debug("lane_released portal=%s lane=%s rows=%d", mine.tenant.code, mine.lane, served.rows)
    if end.rest_ms is None:
        return served
    code, egress_group = mine.tenant.code, mine.tenant.egress_group
    until_s = world.clock() + end.rest_ms / 1000
    return served + Tally(resting={code: Resting(egress_group=egress_group, until_s=until_s)})


def _recovered(world: World, mine: Lane) -> Lane:
    """The lane, what its last owner left behind dealt with first."""
    if mine.open_batch_id is None and not mine.suspects:
        return mine
    number = mine.open_batch_id

    def recover(connection: Connection) -> None:
        if mine.suspects and lanes.suspect(connection, mine, ()):
            suspects.charge_noted(connection, mine.suspects)
            log.warning(
                "worker_lost portal=%s lane=%s crashes=%d rows=%d",
                mine.tenant.code,
                mine.lane,
                mine.crashes,
                len(mine.suspects),
            )
        if number is None:
            return
        became = ledger.recover(connection, number)
        lanes.close_batch(connection, mine, number, reached=False)
        if became is not None:
            log.warning(
                "batch_recovered portal=%s batch=%d became=%s", mine.tenant.code, number, became
            )

    world.transact(Step.RECOVER, recover)
    return replace(mine, open_batch_id=None, suspects=())


def _probed(world: World, mine: Lane) -> Pass:
    """One harmless question to a portal that told nothing the last time.

    Only one that answers is sent anything, so that a lost request speaks of itself, and a portal
    that is down for an hour puts one batch in doubt and not hundreds.
    """
    wait_ms = world.transact(Step.LEARN, partial(pay, world=world, of=mine.tenant))
    if wait_ms > 0:
        return Pass(tally=Tally(), goes_on=False, rest_ms=wait_ms)
    return _asked(world, mine, NO_FACTS, (PROBE,))


def _decided(run: _Run, mine: Lane, before: Tally) -> Pass:
    """Commands of this lane in doubt are decided before anything new is sent."""
    world, done = run.world, Tally()
    facts = NO_FACTS
    while run.lasts(before + done):
        decide = partial(decide_doubts, world, mine, facts, halt=run.order.halt)
        found = world.transact(Step.DECIDE, decide)
        if found is None:
            break
        done += found.tally
        if found.wait_ms > 0:
            return Pass(tally=done, goes_on=False, rest_ms=found.wait_ms)
        if found.questions:
            asked = _asked(world, mine, facts, found.questions)
            done += asked.tally
            facts = asked.facts
            if not asked.goes_on:
                return replace(asked, tally=done)
    return Pass(tally=done, goes_on=True, first_rows=mine.first_rows)


def _asked(world: World, mine: Lane, facts: Facts, questions: Sequence[Question]) -> Pass:
    """One look at the portal, for a claim or for what is in doubt."""
    usable = usable_credential(world, mine)
    if isinstance(usable, Pass):
        return usable
    credential, mine = usable
    seen = look(world, mine, credential, questions)
    return _looked(world, mine, facts, seen)


def _one_pass(run: _Run, mine: Lane, facts: Facts, before: Tally) -> Pass:
    """One batch down and its outcomes back, or one look at the portal."""
    world = run.world
    usable = usable_credential(world, mine)
    if isinstance(usable, Pass):
        return usable
    credential, mine = usable
    try:
        claimed = _claimed(run, mine, facts, before)
    except Raced:
        log.info("claim_raced portal=%s lane=%s", mine.tenant.code, mine.lane)
        return Pass(tally=Tally(), goes_on=True, first_rows=mine.first_rows, facts=facts)
    match claimed:
        case None:
            log.warning("lease_lost portal=%s lane=%s", mine.tenant.code, mine.lane)
            return Pass(tally=Tally(), goes_on=False)
        case Rest(rest_ms=rest_ms, tally=tally, more=more, stops=stops):
            # Rows may have been set aside, and what stood behind them is ready now.
            goes_on = not stops and rest_ms is None and (more or tally.rows > 0)
            return Pass(tally=tally, goes_on=goes_on, rest_ms=rest_ms, first_rows=mine.first_rows)
        case Look(questions=questions):
            strict = (run.order.halt or mine.tenant.halt) is HaltMode.STRICT
            seen = look(world, mine, credential, questions)
            seen, rest_ms = patient(world, mine, seen, strict=strict)
            looked = _looked(world, mine, facts, seen, claimed)
            return looked if rest_ms is None else replace(looked, goes_on=False, rest_ms=rest_ms)
        case Ready():
            return dispatch(world, mine, claimed, credential)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def _claimed(run: _Run, mine: Lane, facts: Facts, before: Tally) -> Claim | None:
    """The next batch of a lane; one whose owners did not come back is read with care.

    Raises: Raced.
    """
    world = run.world
    noted: tuple[int, ...] = ()
    if mine.crashes:
        found = world.transact(Step.SUSPECT, partial(note, world, run.order, mine))
        if found is None or isinstance(found, Rest):
            return found
        noted = found
    try:
        return world.transact(
            Step.CLAIM, partial(claim, world, run.order, mine, facts, before.rows, noted=noted)
        )
    except LaneLost:
        return None
    except (OperationalError, InterfaceError):
        # The database is in trouble, and no row is to blame for that.
        if noted:
            with suppress(OperationalError, InterfaceError):
                world.transact(Step.SUSPECT, partial(lanes.suspect, mine=mine, rows=()))
        raise


def _present(asked: Look) -> Pace | None:
    """What was known when the look was decided on, brought to the present moment."""
    if asked.pace is None:
        return None
    return replace(asked.pace, now_ms=asked.pace.now_ms + asked.since_ms)


def _looked(world: World, mine: Lane, facts: Facts, seen: Seen, asked: Look = _UNASKED) -> Pass:
    """What was read is told to the next pass; a portal that said nothing is left alone a while.

    ``asked`` is what it was asked for; one of its rows may be why it said nothing.
    """
    silent = seen.reply is None
    rest_ms = heeding.rest_ms(world, mine, seen.whole, silent=silent)

    def heed(connection: Connection) -> None:
        if seen.reply is None:
            lanes.strike(connection, mine, rest_ms=rest_ms or 0, silent=seen.is_sent)
            if seen.is_sent:
                suspects.charge_unanswered(connection, asked.rows)
            return
        if mine.fail_streak:
            lanes.answered(connection, mine)
        timing.heed_look(world, connection, mine.tenant, _present(asked), seen.batch, seen.reply)
        if seen.whole is not None:
            heeding.heed_portal(
                connection, mine, seen.whole, seen.reply, trusted=world.settings.trusted_hosts
            )

    world.transact(Step.LEARN, heed)
    return Pass(
        tally=asked.tally + Tally(looks=1),
        goes_on=not silent and seen.whole is None,
        rest_ms=rest_ms,
        first_rows=mine.first_rows,
        facts=facts | seen.facts,
    )
