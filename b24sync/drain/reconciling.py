"""Commands in doubt are decided, once the portal has surely stopped working on them.

What can be said again goes back to its lane; what carries a marker is looked for, up to fifty in
one request; the rest waits for a person. Nothing newer of their entities has gone meanwhile.

Whatever becomes of a look, it is not repeated at once: before the portal is asked, the batches are
put off. What it answers is decided at once all the same; the rest comes back by itself.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from b24sync.core.doubts import Decision, cannot_tell, decide, is_final
from b24sync.core.kind_table import find_kind
from b24sync.core.model import HaltMode, Question
from b24sync.core.policies import DoubtPolicy, policy_of
from b24sync.core.settlement import Settlement
from b24sync.core.surroundings import Entity, Facts
from b24sync.drain import timing
from b24sync.drain.orders import Tally, milliseconds
from b24sync.drain.paying import pay
from b24sync.edge import adopting, budgets, doubts, lanes, tenants
from b24sync.edge.adopting import KnownRecord
from b24sync.edge.doubts import InDoubt
from b24sync.edge.lanes import Lane
from b24sync.world import World

log = logging.getLogger("b24sync")

AT_ONCE = 50
"""Commands that one look decides: as many as one request can ask for."""

LOOK_AGAIN_MS = 60_000
"""When a command is looked for again of which a look has told nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What was decided, and what has to be asked first.

    ``wait_ms``: until the portal may be asked; or the lane stands still, and is left at once.
    """

    tally: Tally
    questions: tuple[Question, ...] = ()
    wait_ms: int = 0


def decide_doubts(
    world: World,
    mine: Lane,
    facts: Facts,
    connection: Connection,
    *,
    halt: HaltMode | None = None,
) -> Doubts | None:
    """Decide what can be decided; ``None``, nothing of this lane is in doubt.

    ``halt``: how far a failed command reaches in this run; ``None``, as the portal's policy says.
    Writes: lane, bucket, batch, result, outbox, link, rollup.
    """
    if not lanes.keep(connection, mine, lease_ms=milliseconds(world.settings.lease_s)):
        return None
    if tenants.now_if_active(connection, mine.tenant) is None:
        return None
    found = doubts.read_doubts(connection, mine, limit=AT_ONCE, told=_told(facts))
    if not found:
        return None
    facts = replace(facts, matches=_unclaimed(connection, mine, found, facts))
    # A lane that stood still for a row was drained strictly, whoever drains it now.
    is_strict = HaltMode.STRICT is (halt or mine.tenant.halt) or mine.stopped_by is not None
    asking: list[tuple[InDoubt, Question]] = []
    tally = Tally()
    for doubt in found:
        decision = _decision(world, doubt, facts)
        if isinstance(decision, Question):
            asking.append((doubt, decision))
            continue
        stops = is_strict and any(row.stopped for row in decision)
        if stops and asking:
            # What stands before it is decided first.
            break
        if not doubts.reconcile(connection, doubt.batch_id, decision):
            continue
        _report(mine, doubt, decision)
        tally += _tally(decision)
        if stops:
            lanes.stop(connection, mine, decision[0].row.id)
            return Doubts(tally=tally, wait_ms=1)
    return _asked(connection, world, mine, tally, asking)


def _told(facts: Facts) -> list[Entity]:
    """The entities of which a look has told what is needed to decide."""
    refused = [entity for entity, fault in facts.failures.items() if is_final(fault)]
    return [*facts.matches, *refused]


def _unclaimed(
    connection: Connection, mine: Lane, found: Sequence[InDoubt], facts: Facts
) -> Mapping[Entity, tuple[str, ...]]:
    """What was found, without records that are other entities' own.

    An application may give several entities one external key.
    """
    matches = {
        doubt.command.entity: facts.matches[doubt.command.entity]
        for doubt in found
        if doubt.command.entity in facts.matches
    }
    records = [
        KnownRecord(kind, key, number) for (kind, key), ids in matches.items() for number in ids
    ]
    if not records:
        return matches
    holders = adopting.read_known(connection, mine.tenant.code, records).holders
    return {
        (kind, key): tuple(number for number in ids if holders.get((kind, number), key) == key)
        for (kind, key), ids in matches.items()
    }


def _asked(
    connection: Connection,
    world: World,
    mine: Lane,
    tally: Tally,
    asking: Sequence[tuple[InDoubt, Question]],
) -> Doubts:
    """The questions that may be put now; all of them come back, if nothing is heard of them."""
    if not asking:
        return Doubts(tally=tally)
    rules = timing.rules_of(world.settings, mine.tenant)
    blocked = budgets.known_pace(connection, mine.tenant, rules).blocked
    questions = tuple(question for _, question in asking if question.method not in blocked)
    wait_ms = pay(connection, world, mine.tenant) if questions else 0
    if wait_ms > 0:
        return Doubts(tally=tally, wait_ms=wait_ms)
    batches = {doubt.batch_id for doubt, _ in asking}
    doubts.put_off(connection, batches, rest_ms=LOOK_AGAIN_MS)
    return Doubts(tally=tally, questions=questions)


def _decision(world: World, doubt: InDoubt, facts: Facts) -> Decision:
    entity = doubt.command.entity
    fault = facts.failures.get(entity)
    if fault is not None and is_final(fault):
        return cannot_tell(doubt.command, fault)
    kind = find_kind(entity[0], world.settings.kinds)
    policy = policy_of(entity[0], world.settings.policies).doubt
    own = next((choice for choice in DoubtPolicy if choice == doubt.policy), policy)
    return decide(doubt.command, kind, own, facts.matches.get(entity))


def _tally(decision: Sequence[Settlement]) -> Tally:
    outcomes: dict[str, int] = {}
    for row in decision:
        if row.outcome is not None:
            outcomes[row.outcome] = outcomes.get(row.outcome, 0) + 1
    return Tally(outcomes=outcomes)


def _report(mine: Lane, doubt: InDoubt, decision: Sequence[Settlement]) -> None:
    code, first = mine.tenant.code, decision[0]
    log.info(
        "doubt_decided portal=%s batch=%d row=%d became=%s",
        code,
        doubt.batch_id,
        first.row.id,
        first.outcome,
    )
    if first.stopped:
        log.warning("doubt_held portal=%s kind=%s row=%d", code, first.row.kind, first.row.id)
    duplicates = next((row.duplicates for row in decision if row.duplicates), ())
    if duplicates:
        log.error(
            "duplicate_found portal=%s kind=%s row=%d kept=%s others=%s",
            code,
            first.row.kind,
            first.row.id,
            first.remote_id,
            ",".join(duplicates),
        )
