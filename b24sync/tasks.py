"""Celery tasks, each a few lines around one call.

A message carries no work: it says "look". Lost, doubled, late or reordered, the result is the same,
because what is to be done stands in the tables. Hence no Celery retries, no row ids in arguments,
and early acknowledgement: a message whose worker died is replaced by the next pump. The one that
comes later on purpose, when a portal's rate has room again, only spares waiting for the pump.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import TypedDict

from celery import Celery, current_task, shared_task
from celery.app import app_or_default
from celery.signals import task_failure
from kombu.exceptions import OperationalError as BrokerGone
from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from b24sync import auditing, backfill, pruning
from b24sync.auditing import Audited
from b24sync.core.errors import DatabaseError, SettingsError
from b24sync.core.model import HaltMode
from b24sync.drain import Order, Resting, Tally, drain
from b24sync.drain.probing import probe
from b24sync.edge import auditing as rounds
from b24sync.edge import backfills, chores, ledger, portals, rates, taking, waiting
from b24sync.edge.database import transact
from b24sync.host import Host, host_of
from b24sync.world import World

log = logging.getLogger("b24sync")

OURS = "b24sync."
"""What the names of this package's tasks begin with."""

SYNC = "b24sync.sync_entities"
AUDIT = "b24sync.audit"
CHORE_LEASE_MS = 300_000
RING_LATER_S = 0.02
"""By how much a ring comes after the moment it is for: clocks of hosts differ a little."""


GONE = (OperationalError, InterfaceError, DatabaseError, BrokerGone)
"""What a database or a broker raises that is away; the next message finds it there again."""


@task_failure.connect
def _broke_off(sender: object = None, exception: object = None, **_told: object) -> None:
    """A run that breaks off because something is away is told of in one line, not in a traceback."""
    name = str(getattr(sender, "name", ""))
    if name.startswith(OURS) and isinstance(exception, GONE):
        cause = (str(exception).splitlines() or [type(exception).__name__])[0]
        log.error("run_broke_off task=%s cause=%s", name, cause)


class Counts(TypedDict):
    """What a run of ``sync_entities`` did.

    ``outcomes`` counts results by outcome; ``deferred`` rows went back at no charge.
    """

    batches: int
    outcomes: dict[str, int]
    deferred: int


class AuditCounts(TypedDict):
    """What a run of ``audit`` did.

    ``links`` were looked for, by so many ``requests``. ``found`` are records beside an entity's own
    that nobody had told of before, ``known`` somebody had, and ``gone`` are not there any more.
    """

    links: int
    requests: int
    found: int
    known: int
    gone: int


def _app() -> Celery:
    """The app whose task runs here; with several in a process, not always the current one."""
    app: Celery | None = getattr(current_task, "app", None)
    return app or app_or_default()


def _host() -> Host:
    return host_of(_app())


@shared_task(throws=GONE, name=SYNC, ignore_result=True, acks_late=False, max_retries=0)
def sync_entities(
    portal: str | None = None,
    kinds: Sequence[str] | None = None,
    halt: str | None = None,
    limit: int | None = None,
) -> Counts:
    """Drain what is due, for one portal or for all; any number may run at once.

    Shape: ``kinds`` narrows to those kinds; ``limit`` bounds the rows. ``halt`` says how far a
    failed command reaches: ``independent``, ``chain`` or ``strict``; ``None``, as each portal's
    policy says.
    Raises: SettingsError for an unknown portal or halt mode, and for ``strict`` on a portal with
    several shards.
    """
    host = _host()
    world = host.world()
    transact(world.engine, partial(portals.ensure_default, webhook_url=world.settings.webhook_url))
    order = Order(
        portal=_known(world, portal), kinds=tuple(kinds or ()), halt=_mode(halt), limit=limit
    )
    if order.halt is HaltMode.STRICT:
        with world.engine.connect() as connection:
            portals.refuse_strict(connection, order.portal)
    tally = drain(world, order, stopping=host.stopping.is_set)
    if tally.more and tally.requests and limit is None and not host.stopping.is_set():
        # The slice is over and the work is not: to the end of the queue, behind everyone else.
        _app().tasks[SYNC].delay(portal=portal, kinds=kinds, halt=halt)
    if limit is None and not host.stopping.is_set():
        for code, rest in tally.resting.items():
            _ring_later(world, code, rest, kinds=kinds, halt=halt)
    return _counts(tally)


def _ring_later(
    world: World, code: str, rest: Resting, *, kinds: Sequence[str] | None, halt: str | None
) -> None:
    """Ring for a portal when it may be called again, if that is sooner than the next pump.

    One message for each portal at a time, however many runs have found that it rests.
    """
    in_ms = max(1, ceil((rest.until_s - world.clock()) * 1000))
    if in_ms > world.settings.pump_s * 1000:
        return
    undertake = partial(rates.may_ring, code=code, egress_group=rest.egress_group, in_ms=in_ms)
    if transact(world.engine, undertake):
        countdown_s = in_ms / 1000 + RING_LATER_S
        _app().tasks[SYNC].apply_async(
            kwargs={"portal": code, "kinds": kinds, "halt": halt},
            countdown=countdown_s,
            expires=countdown_s + world.settings.pump_s,
        )


def _known(world: World, code: str | None) -> str | None:
    if code is None:
        return None
    with world.engine.connect() as connection:
        codes = portals.codes(connection)
    if code not in codes:
        known = ", ".join(codes) or "none"
        raise SettingsError("portal", f"there is no portal {code!r}; known are: {known}")
    return code


def _mode(halt: str | None) -> HaltMode | None:
    try:
        return None if halt is None else HaltMode(halt)
    except ValueError:
        raise SettingsError("halt", f"{halt!r} is none of {', '.join(HaltMode)}") from None


def _counts(tally: Tally) -> Counts:
    outcomes = {str(outcome): count for outcome, count in tally.outcomes.items()}
    return Counts(batches=tally.batches, outcomes=outcomes, deferred=tally.deferred)


@shared_task(throws=GONE, name="b24sync.pump", ignore_result=True, acks_late=False, max_retries=0)
def pump() -> int:
    """Wake as many drains as lanes are due, up to a bound; the number woken."""
    world = _host().world()
    transact(world.engine, partial(portals.ensure_default, webhook_url=world.settings.webhook_url))
    transact(world.engine, taking.wake)
    with world.engine.connect() as connection:
        woken = taking.due(connection, limit=world.settings.pump_width)
    for _ in range(woken):
        # A ring that nobody heard within an interval is followed by the next one.
        _app().tasks[SYNC].apply_async(expires=world.settings.pump_s)
    return woken


@shared_task(
    throws=GONE, name="b24sync.recover", ignore_result=True, acks_late=False, max_retries=0
)
def recover() -> int:
    """Deal with what vanished workers left behind; the number of batches and rows moved.

    Rows of a portal that nobody made known are told of in the log, each time, until one does. At the
    end portals that are stopped are asked whether they are well, those whose time has come.
    """
    host = _host()
    world = host.world()
    with world.engine.connect() as connection:
        abandoned = chores.abandoned_batches(connection)
        unknown = chores.unknown_portals(connection)
    for code in unknown:
        log.error("portal_unknown portal=%r", code)
    for number in abandoned:
        transact(world.engine, partial(_recover, number=number))
    moved = len(abandoned) + transact(world.engine, waiting.sweep)
    probe(world, stopping=host.stopping.is_set)
    return moved


def _recover(connection: Connection, number: int) -> None:
    became = ledger.recover(connection, number)
    chores.forget_batch(connection, number)
    if became is not None:
        log.warning("batch_recovered batch=%d became=%s", number, became)


@shared_task(throws=GONE, name="b24sync.prune", ignore_result=True, acks_late=False, max_retries=0)
def prune() -> int:
    """Make partitions ahead, and remove what is over and old; the rows removed one by one.

    What does not end within a slice is gone on with by the next run.
    """
    host = _host()
    world = host.world()
    begun_s = world.clock()

    def lasting() -> bool:
        return not host.stopping.is_set() and world.clock() - begun_s < world.settings.slice_s

    every_ms = int(world.settings.prune_s * 1000)
    done = pruning.prune(world, every_ms=every_ms, lasting=lasting)
    if done is None:
        return 0
    log.info("pruned rows=%d partitions=%d", done.rows, len(done.dropped))
    return done.rows


@shared_task(throws=GONE, name=AUDIT, ignore_result=True, acks_late=False, max_retries=0)
def audit(portal: str | None = None, kinds: Sequence[str] | None = None) -> AuditCounts:
    """Ask portals whether markers occur more than once, as far as a slice and their rates go.

    What is left is gone on with by the next run. Each portal's turn comes every ``audit_s``; named
    by ``portal``, or for ``kinds``, a round begins now.
    Raises: SettingsError for an unknown portal.
    """
    host = _host()
    world = host.world()
    code = _known(world, portal)
    every_ms = int(world.settings.audit_s * 1000)
    if portal is not None or kinds is not None:
        with world.engine.connect() as connection:
            codes = portals.codes(connection) if code is None else (code,)
        for each in codes:
            transact(world.engine, partial(rounds.renew, code=each, kinds=tuple(kinds or ())))
    with world.engine.connect() as connection:
        due = rounds.due(connection, every_ms=every_ms)
    begun_s, total = world.clock(), Audited()

    def lasting() -> bool:
        return not host.stopping.is_set() and world.clock() - begun_s < world.settings.slice_s

    for each in due:
        if code in (None, each) and lasting():
            total += _audited(world, each, every_ms, lasting)
    return AuditCounts(
        links=total.links,
        requests=total.requests,
        found=len(total.found),
        known=total.known,
        gone=total.gone,
    )


def _audited(world: World, code: str, every_ms: int, lasting: Callable[[], bool]) -> Audited:
    """One portal's round, gone on with as far as it goes, its place kept after every step."""
    begin = partial(rounds.begin, code=code, every_ms=every_ms, lease_ms=CHORE_LEASE_MS)
    mine = transact(world.engine, begin)
    if mine is None:
        return Audited()
    is_mine = True

    def watching(done: Audited) -> None:
        nonlocal is_mine
        if done.place is not None:
            keep = partial(rounds.keep, code=code, token=mine.token, lease_ms=CHORE_LEASE_MS)
            is_mine = transact(world.engine, partial(keep, place=done.place))

    told = auditing.audit(
        world, code, mine.place, lasting=lambda: is_mine and lasting(), watching=watching
    )
    leave = partial(rounds.leave, code=code, token=mine.token, is_over=told.place is None)
    transact(world.engine, leave)
    for kind, reason in told.skipped.items():
        log.info("audit_skipped portal=%s kind=%s reason=%r", code, kind, reason)
    log.info(
        "audited portal=%s links=%d requests=%d found=%d over=%s",
        code,
        told.links,
        told.requests,
        len(told.found),
        told.place is None,
    )
    return told


@shared_task(
    throws=GONE, name="b24sync.feed_backfills", ignore_result=True, acks_late=False, max_retries=0
)
def feed_backfills() -> int:
    """Feed the back-fills that run, as far as a slice goes and there is room; rows enqueued."""
    host = _host()
    world = host.world()
    begun_s, enqueued = world.clock(), 0

    def lasting() -> bool:
        return not host.stopping.is_set() and world.clock() - begun_s < world.settings.slice_s

    with world.engine.connect() as connection:
        codes = backfills.to_feed(connection)
    gone: Exception | None = None
    for code in codes:
        if lasting():
            try:
                enqueued += backfill.feed(world, code, lasting=lasting).fed.enqueued
            except GONE as error:
                # It may be the database of this one alone.
                gone = gone or error
    if gone is not None:
        raise gone
    return enqueued
