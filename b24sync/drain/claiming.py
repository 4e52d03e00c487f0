"""Claim and journal, in one transaction: rows to commands, commands to one batch.

What cannot be sent is written down on the way: refused, waiting for another entity, postponed. What
has to be read on the portal first is given back as questions, its rows untouched.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import takewhile
from time import monotonic
from typing import TypeAlias

from sqlalchemy import Connection

from b24sync.core import losses
from b24sync.core.admitting import admitted
from b24sync.core.batching import compose
from b24sync.core.model import (
    Batch,
    Command,
    HaltMode,
    Operation,
    Plan,
    Question,
    Refusal,
    ResultOutcome,
    Row,
)
from b24sync.core.pacing import BATCH, Pace
from b24sync.core.planning import needed_links, plan
from b24sync.core.policies import policy_of
from b24sync.core.surroundings import Facts, Surroundings
from b24sync.drain import timing
from b24sync.drain.looking import LOOK_S
from b24sync.drain.orders import Order, Tally, milliseconds
from b24sync.drain.paying import pay
from b24sync.drain.reconsidering import reconsidered
from b24sync.edge import budgets, lanes, ledger, suspects, unsent
from b24sync.edge.lanes import Lane
from b24sync.edge.links import read_links
from b24sync.world import World

log = logging.getLogger("b24sync")

READS = 20
"""How often one claim reads rows to fill a batch; bounds what one transaction sets aside."""


NOTHING = Tally()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Nothing to send now; the lane is due again in ``rest_ms``, or when its rows are.

    ``more``: not every row was looked at. ``stops``: the lane stands still.
    """

    rest_ms: int | None = None
    more: bool = False
    stops: bool = False
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A journalled batch, ready to be sent; ``first_rows`` go before all others after it.

    Units: ``read_s`` is the worker's own clock at ``now_ms``.
    """

    batch_id: int
    batch: Batch
    rows: Mapping[int, Row]
    now_ms: int
    tally: Tally
    pace: Pace
    read_s: float
    strict: bool = False
    first_rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What has to be read on the portal before ``rows`` can be said."""

    questions: tuple[Question, ...]
    rows: tuple[int, ...]
    tally: Tally
    pace: Pace | None = None
    read_s: float = 0.0

    @property
    def since_ms(self) -> int:
        """How long ago that was decided."""
        return milliseconds(monotonic() - self.read_s)


class LaneLost(Exception):  # noqa: N818 - a signal to the pass, not an error
    """The lane belongs to somebody else by now; what was done for it is undone."""


Claim: TypeAlias = Ready | Look | Rest


@dataclass(slots=True)
class _Gathered:
    """What one claim has found so far."""

    size: int
    first: tuple[int, ...]
    rows: dict[int, Row] = field(default_factory=dict[int, Row])
    commands: list[Command] = field(default_factory=list[Command])
    questions: list[Question] = field(default_factory=list[Question])
    asking: list[int] = field(default_factory=list[int])
    tally: Tally = field(default_factory=Tally)
    more: bool = True
    is_cut: bool = False
    is_long: bool = False
    stopped_by: int | None = None
    company: list[int] = field(default_factory=list[int])
    passed_over: list[int] = field(default_factory=list[int])
    until_ms: int = 0
    unread: set[int] = field(default_factory=set[int])

    def goes_on(self, reads: int) -> bool:
        """Whether more rows are to be read."""
        room = losses.room(max(self.company, default=0), self.size)
        is_full = len(self.commands) + len(self.questions) >= room or self.is_long
        return self.more and not self.is_cut and not is_full and reads < READS

    @property
    def met(self) -> list[int]:
        """Rows that stay ready until they are sent, and would be read again."""
        said = [number for command in self.commands for number in command.row_ids]
        return said + self.asking + self.passed_over


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """What one claim works with."""

    world: World
    order: Order
    mine: Lane
    mode: HaltMode
    around: Surroundings
    pace: Pace
    read_s: float
    connection: Connection


def note(
    world: World, order: Order, mine: Lane, connection: Connection
) -> tuple[int, ...] | Rest | None:
    """Write down which rows are going to be read, before they are; ``None``, the lane is lost.

    For a lane whose last owners did not come back: a row that ends whoever reads it shows by this.
    Rows that were lost too often are given up unread; in the mode ``strict`` the lane stops there.
    Writes: lane, outbox; result, dead and rollup for rows given up.
    """
    if not _keep(world, mine, connection):
        return None
    size, is_strict = world.settings.batch_size, _mode(order, mine) is HaltMode.STRICT
    next_rows = suspects.next_rows(connection, mine, limit=size, kinds=order.kinds)
    spent = [row.id for row in next_rows if row.losses >= losses.MOST_LOSSES]
    if is_strict and spent and spent[0] == next_rows[0].id:
        unsent.give_up_unread(connection, spent[:1], stopping=True)
        lanes.stop(connection, mine, spent[0])
        return Rest(stops=True, tally=Tally(outcomes={ResultOutcome.STOPPED: 1}))
    if not is_strict:
        unsent.give_up_unread(connection, spent)
    left = [row for row in next_rows if row.id not in spent]
    places = losses.fitting([row.losses for row in left], (), size=size, in_order=is_strict)
    noted = tuple(left[place].id for place in places)
    return noted if lanes.suspect(connection, mine, noted) else None


def claim(  # noqa: PLR0913 - what a pass knows, all of it
    world: World,
    order: Order,
    mine: Lane,
    facts: Facts,
    served: int,
    connection: Connection,
    *,
    noted: Sequence[int] = (),
) -> Claim:
    """The next batch of a lane, or the questions to ask first, or nothing.

    That the lane is still ours is the last thing to be seen, and locked until the commit.

    Shape: ``served`` rows count against the order's limit already. Of ``noted`` rows no others are
    read.
    Raises: Raced if rows moved meanwhile; the transaction is to be undone and tried again. LaneLost;
    it is to be undone.
    Writes: lane, batch, bucket, outbox; result, dead and rollup for rows that end unsent.
    """
    claimed = _claimed(world, order, mine, facts, served, connection, noted)
    if isinstance(claimed, Ready) or _keep(world, mine, connection):
        return claimed
    raise LaneLost


def _claimed(  # noqa: PLR0911, PLR0913, PLR0917 - as above, and each way it may go
    world: World,
    order: Order,
    mine: Lane,
    facts: Facts,
    served: int,
    connection: Connection,
    noted: Sequence[int],
) -> Claim:
    rules = timing.rules_of(world.settings, mine.tenant)
    pace = budgets.read_pace(connection, mine.tenant, rules)
    if pace is None or lanes.stands_still(connection, mine):
        return Rest(stops=True)
    until_ms = pace.rests_until(BATCH)
    if until_ms:
        return _rest(connection, mine, pace, until_ms)
    desk = _Desk(
        world=world,
        order=order,
        mine=mine,
        mode=_mode(order, mine),
        around=Surroundings(
            kinds=world.settings.kinds,
            policies=world.settings.policies,
            facts=facts,
            now_ms=pace.now_ms,
        ),
        pace=pace,
        read_s=monotonic(),
        connection=connection,
    )
    gathered = _gathered(desk, served, noted)
    if gathered.stopped_by is not None:
        lanes.stop(connection, mine, gathered.stopped_by)
        return Rest(tally=gathered.tally, stops=True)
    if gathered.questions:
        wait_ms = pay(connection, world, mine.tenant)
        asked = tuple(gathered.questions[: _most_questions(desk, gathered)])
        return (
            Rest(tally=gathered.tally, rest_ms=wait_ms)
            if wait_ms > 0
            else Look(
                questions=asked,
                rows=tuple(gathered.asking),
                tally=gathered.tally,
                pace=pace,
                read_s=desk.read_s,
            )
        )
    if gathered.until_ms and not gathered.commands:
        return _rest(connection, mine, pace, gathered.until_ms, gathered.tally)
    if not gathered.commands:
        return Rest(tally=gathered.tally, more=gathered.more)
    return _journalled(desk, gathered)


def _keep(world: World, mine: Lane, connection: Connection) -> bool:
    return lanes.keep(connection, mine, lease_ms=milliseconds(world.settings.lease_s))


def _rest(
    connection: Connection, mine: Lane, pace: Pace, until_ms: int, tally: Tally = NOTHING
) -> Rest:
    """The whole lane waits for time: nothing of it may be sent, or nothing overtaken."""
    rest_ms = until_ms - pace.now_ms
    lanes.put_first(connection, mine, mine.first_rows, rest_ms=rest_ms)
    return Rest(tally=tally, rest_ms=rest_ms)


def _mode(order: Order, mine: Lane) -> HaltMode:
    return order.halt or mine.tenant.halt


def _gathered(desk: _Desk, served: int, noted: Sequence[int]) -> _Gathered:
    """Read and plan rows until a batch is full or no row is left."""
    size = desk.world.settings.batch_size
    if desk.order.limit is not None:
        size = min(size, desk.order.limit - served)
    gathered = _Gathered(size=size, first=tuple(noted) or desk.mine.first_rows)
    if noted:
        gathered.unread = set(desk.mine.first_rows).difference(noted)
    if desk.mode is HaltMode.STRICT:
        # Perhaps of a worker that went away; what became of it comes before all that follows.
        gathered.stopped_by = ledger.first_in_doubt(desk.connection, desk.mine)
        gathered.is_cut = gathered.stopped_by is not None
    chained = desk.mode is not HaltMode.INDEPENDENT
    reads = 0
    while gathered.goes_on(reads):
        reads += 1
        heads = _heads(desk, gathered)
        gathered.is_cut = gathered.is_cut or bool(noted)
        followers = _followers(desk, heads)
        behind = [row for rows in followers.values() for row in rows]
        found = {row.id: row for row in (*heads.rows, *behind)}
        gathered.rows |= found
        links = read_links(desk.connection, desk.mine.tenant.code, needed_links(found.values()))
        makers = {
            (command.kind, command.key): command
            for command in gathered.commands
            if chained and _makes(command)
        }
        around = replace(desk.around, links=links, makers=makers)
        part = plan(
            heads.rows,
            around,
            followers=followers,
            chained=chained,
            strict=desk.mode is HaltMode.STRICT,
        )
        code = desk.mine.tenant.code
        part, released = reconsidered(desk.connection, code, part, around, found)
        part = _admitted(desk, gathered, part, found)
        gathered.more = gathered.more or released > 0
        _set_aside(desk, gathered, part, found)
    return gathered


def _admitted(desk: _Desk, gathered: _Gathered, part: Plan, found: Mapping[int, Row]) -> Plan:
    """What may go now; what waits for its method's time is met again when it is."""
    let_in = admitted(
        part,
        desk.pace,
        tuple(found.values()),
        before=(*gathered.commands, *gathered.questions),
        strict=desk.mode is HaltMode.STRICT,
    )
    gathered.passed_over += let_in.passed
    gathered.until_ms = let_in.until_ms
    methods = [one.method for one in (*gathered.commands, *let_in.plan.commands)]
    gathered.is_long = desk.pace.fitting(methods) < len(methods)
    return let_in.plan


def _most_questions(desk: _Desk, gathered: _Gathered) -> int:
    """How many questions one look may put, by number and by time."""
    methods = [question.method for question in gathered.questions]
    fitting = desk.pace.fitting(methods, min(desk.pace.rules.room_s, LOOK_S / 2))
    return min(desk.world.settings.batch_size, fitting)


def _makes(command: Command) -> bool:
    is_add = command.linked and command.operation is Operation.ADD
    return is_add and not command.alone and command.id_path is not None


def _heads(desk: _Desk, gathered: _Gathered) -> ledger.Heads:
    """The next rows; before all others those that a halt has spared."""
    first, gathered.first = gathered.first, ()
    heads = ledger.read_heads(
        desk.connection,
        desk.mine,
        limit=gathered.size,
        without=gathered.met,
        kinds=desk.order.kinds,
        only=first or None,
    )
    gathered.more = heads.more or bool(first)
    return replace(heads, rows=_company(desk, gathered, heads.rows))


def _company(desk: _Desk, gathered: _Gathered, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Those that may travel together; the others stay ready for a batch of their own."""
    in_order = desk.mode is HaltMode.STRICT
    places = losses.fitting(
        [row.losses for row in rows], gathered.company, size=gathered.size, in_order=in_order
    )
    for row in rows:
        # One that only found no room is read again, if those before it should not go after all.
        if not losses.fitting([row.losses], gathered.company, size=gathered.size):
            gathered.passed_over.append(row.id)
            gathered.is_cut = gathered.is_cut or in_order
    kept = tuple(rows[place] for place in places)
    gathered.unread.update(row.id for row in rows)
    gathered.unread.difference_update(row.id for row in kept)
    return kept


def _followers(desk: _Desk, heads: ledger.Heads) -> Mapping[int, Sequence[Row]]:
    """Later rows of the same entities that may go with them; none, where rows are counted."""
    if desk.order.limit is not None:
        return {}
    followed = [
        row
        for row in heads.rows
        if row.id in heads.followed
        and row.mergeable
        and row.losses < losses.ALONE
        and row.operation is not Operation.CALL
        and policy_of(row.kind, desk.around.policies).merge
    ]
    behind = ledger.read_followers(desk.connection, followed)
    return {
        head: tuple(takewhile(lambda row: row.losses < losses.ALONE, rows))
        for head, rows in behind.items()
    }


def _set_aside(desk: _Desk, gathered: _Gathered, part: Plan, found: Mapping[int, Row]) -> None:
    """Keep what can be sent, and write down what cannot."""
    if desk.mode is HaltMode.STRICT and part.refusals:
        gathered.is_cut = True
        places = {row_id: place for place, row_id in enumerate(found)}
        refused = min(part.refusals, key=lambda refusal: places[refusal.row_id])
        part = replace(part, refusals=(), commands=_before(part.commands, refused, places))
        if not (gathered.commands or gathered.questions or part.commands or part.questions):
            # Nothing stands before it any more: here the lane stops.
            gathered.stopped_by = refused.row_id
            unsent.stop_refused(desk.connection, refused, found)
            gathered.tally += Tally(outcomes={ResultOutcome.STOPPED: 1})
    gathered.commands += part.commands
    gathered.questions += part.questions
    entities = {(question.kind, question.key) for question in part.questions}
    gathered.asking += [row.id for row in found.values() if (row.kind, row.key) in entities]
    gathered.company += [found[command.row_ids[0]].losses for command in part.commands]
    heads = {(row.kind, row.key): row for row in reversed(list(found.values()))}
    gathered.company += [heads[entity].losses for entity in entities]
    gathered.is_cut = gathered.is_cut or part.is_cut
    unsent.set_aside(desk.connection, part, found)
    gathered.tally += _tally(part)


def _before(
    commands: Sequence[Command], refused: Refusal, places: Mapping[int, int]
) -> tuple[Command, ...]:
    """The commands that stand before a refused row, with those whose new ids they take."""
    end = 0
    for number, command in enumerate(commands, start=1):
        if places[command.row_ids[0]] < places[refused.row_id]:
            end = number
    return tuple(commands[:end])


def _tally(aside: Plan) -> Tally:
    outcomes: dict[str, int] = {}
    if aside.refusals:
        outcomes[ResultOutcome.FAILED] = len(aside.refusals)
    for closing in aside.closing:
        outcomes[closing.outcome] = outcomes.get(closing.outcome, 0) + 1
        if closing.merged:
            merged = outcomes.get(ResultOutcome.MERGED, 0)
            outcomes[ResultOutcome.MERGED] = merged + len(closing.merged)
    for refusal in aside.refusals:
        log.warning("row_refused row=%d code=%s", refusal.row_id, refusal.code)
    return Tally(outcomes=outcomes)


def _journalled(desk: _Desk, gathered: _Gathered) -> Claim:
    """One batch of these commands, paid for and written down."""
    verifies = any(command.said is not None for command in gathered.commands)
    requests = 2 if verifies else 1
    wait_ms = pay(desk.connection, desk.world, desk.mine.tenant, requests=requests)
    if wait_ms > 0:
        return Rest(tally=gathered.tally, rest_ms=wait_ms)
    strict = desk.mode is HaltMode.STRICT
    batch, _ = compose(
        gathered.commands,
        max_commands=gathered.size,
        pace=desk.pace,
        halt=desk.mode is not HaltMode.INDEPENDENT,
        in_order=strict,
    )
    sent = {
        row_id: gathered.rows[row_id] for command in batch.commands for row_id in command.row_ids
    }
    number = ledger.journal(desk.connection, desk.mine, batch, sent, digest=_digest(batch))
    settings = desk.world.settings
    # Time to wait for the answer as long as may be, and to write it down.
    lease_ms = milliseconds(settings.request_timeout_s + settings.lease_s)
    if not lanes.open_batch(desk.connection, desk.mine, number, lease_ms=lease_ms):
        raise LaneLost
    met = gathered.unread.union(gathered.met).difference(sent)
    return Ready(
        batch_id=number,
        batch=batch,
        rows=sent,
        now_ms=desk.around.now_ms,
        tally=gathered.tally,
        pace=desk.pace,
        read_s=desk.read_s,
        strict=strict,
        first_rows=tuple(row_id for row_id in desk.mine.first_rows if row_id in met),
    )


def _digest(batch: Batch) -> str:
    """A fingerprint of what was sent, as proof and without the content."""
    digest = blake2b(digest_size=32)
    for label, command in zip(batch.labels, batch.commands, strict=True):
        digest.update(f"{label}={command.method}?{command.query}\n".encode())
    return digest.hexdigest()
