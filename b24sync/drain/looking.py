"""Reading on the portal: before rows are said, and after they were.

Reads change nothing, so they are not journalled and may be repeated; they are paid for like every
request. What they find is told to the next claim of the same owner, and forgotten with the lane.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from sqlalchemy import Connection

from b24sync.core import asking, comparing, multivalues
from b24sync.core.doubts import is_final
from b24sync.core.errors import NeverSent, SendError
from b24sync.core.faults import is_gone
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind
from b24sync.core.lifecycle import backoff_ms
from b24sync.core.model import (
    Applied,
    Asks,
    Batch,
    Command,
    Deferred,
    Fault,
    FaultKind,
    Operation,
    Outcome,
    Question,
    Rejected,
    Reply,
    Row,
    Unknown,
)
from b24sync.core.replies import answers, interpret, unanswered, whole_fault
from b24sync.core.surroundings import NO_FACTS, Facts
from b24sync.drain.orders import milliseconds
from b24sync.edge import adopting, lanes, waiting
from b24sync.edge.adopting import KnownRecord
from b24sync.edge.lanes import Lane
from b24sync.edge.portal import Credential
from b24sync.world import Moment, Step, World

log = logging.getLogger("b24sync")

_GONE = (("", r"\bnot found\b"), ("NOT_FOUND", ""))
"""What a read answers that finds nothing, where the kind's own words are those of a delete."""

LOOK_S = 15.0
"""How long one look may take: reads are quick, and a slow one must not outlast the lease."""

LOOK_AGAIN_MS = 1_000
"""The least time after which a question is put again; the rest is dice."""

_numbers = count(1)
"""No two looks of a process name their commands alike: no answer is taken for another's."""

PROBE = Question(kind="", key="", asks=Asks.RECORD, method="server.time", query="")
"""A question about nothing, whether the portal answers at all.

Source: Bitrix24 REST manual, "server.time": any credential may call it, and it reads nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look has found.

    Shape: ``reply`` is ``None`` where none came; ``whole`` is a complaint about the whole request.
    ``is_sent``: the portal was reached.
    """

    batch: Batch
    facts: Facts = NO_FACTS
    reply: Reply | None = None
    whole: Fault | None = None
    is_sent: bool = True


def look(world: World, mine: Lane, credential: Credential, questions: Sequence[Question]) -> Seen:
    """Ask the portal, and remember the records that were matched.

    Writes: lane; link.
    Raises: nothing of the portal's.
    """
    batch = _batch([(question.method, question.query) for question in questions])
    reply, outcomes = _asked(world, mine, credential, batch)
    if isinstance(reply, SendError):
        log.warning("look_lost portal=%s cause=%s", mine.tenant.code, reply.cause)
        return Seen(batch=batch, is_sent=not isinstance(reply, NeverSent))
    if all(isinstance(outcome, Unknown) for outcome in outcomes):
        # A page, or half an answer, or trouble of the server's own: nobody has looked.
        log.warning("look_lost portal=%s cause=status_%d", mine.tenant.code, reply.status)
        return Seen(batch=batch)
    whole = whole_fault(batch, reply)
    if whole is not None:
        return Seen(batch=batch, reply=reply, whole=whole)
    facts = _facts(world.settings.kinds, questions, outcomes, answers(batch, reply))
    if facts.matches:
        world.transact(Step.LEARN, partial(_adopt, code=mine.tenant.code, facts=facts))
    log.debug("looked portal=%s questions=%d", mine.tenant.code, len(questions))
    return Seen(facts=facts, batch=batch, reply=reply)


def patient(world: World, mine: Lane, seen: Seen, *, strict: bool) -> tuple[Seen, int | None]:
    """What was seen, without questions that may be answered later, as trouble of the server's own.

    Their rows are put off at no charge; in the mode ``strict`` the lane rests instead, for as many
    milliseconds as are told.
    Writes: outbox.
    """
    passing = {
        entity: f"{fault.code}: {fault.text}"
        for entity, fault in seen.facts.failures.items()
        if not is_final(fault)
    }
    if not passing:
        return seen, None
    policy = world.settings.retry_policy
    rest_ms = LOOK_AGAIN_MS + backoff_ms(0, policy=policy, jitter=world.chance())
    if not strict:
        put_off = partial(waiting.put_off, code=mine.tenant.code, rows=passing, rest_ms=rest_ms)
        world.transact(Step.LEARN, put_off)
    failures = {entity: f for entity, f in seen.facts.failures.items() if entity not in passing}
    facts = replace(seen.facts, failures=failures)
    return replace(seen, facts=facts), rest_ms if strict else None


def _adopt(connection: Connection, *, code: str, facts: Facts) -> None:
    """A record that alone matches an unknown key, and is nobody's, is the key's from now on."""
    wanted: dict[tuple[str, str], KnownRecord] = {}
    for (kind, key), ids in facts.matches.items():
        if len(ids) == 1:
            wanted.setdefault((kind, ids[0]), KnownRecord(kind, key, ids[0]))
    if not wanted:
        return
    known = adopting.read_known(connection, code, list(wanted.values()))
    free = [
        record
        for record in wanted.values()
        if known.ids.get(record.entity) is None and record.record not in known.holders
    ]
    new = [record for record in free if record.entity not in known.ids]
    again = [record for record in free if record.entity in known.ids]
    if new:
        adopting.add_links(connection, code, new)
    if again:
        adopting.fill_links(connection, code, again)


def verified(
    world: World,
    mine: Lane,
    credential: Credential,
    batch: Batch,
    outcomes: Sequence[Outcome],
) -> tuple[Outcome, ...]:
    """The outcomes, with what was applied compared with what was said, where that is asked for.

    What cannot be read is left as it was answered.
    Writes: lane.
    Raises: nothing of the portal's.
    """
    reading: dict[int, tuple[Command, Question]] = {}
    for place, (command, outcome) in enumerate(zip(batch.commands, outcomes, strict=True)):
        question = _afterwards(world.settings.kinds, command, outcome)
        if question is not None:
            reading[place] = (command, question)
    if not reading:
        return tuple(outcomes)
    asked = _batch([(question.method, question.query) for _, question in reading.values()])
    reply, _ = _asked(world, mine, credential, asked)
    if isinstance(reply, SendError):
        log.warning("verify_lost portal=%s cause=%s", mine.tenant.code, reply.cause)
        return tuple(outcomes)
    told = list(outcomes)
    for (place, (command, _)), answer in zip(reading.items(), answers(asked, reply), strict=True):
        outcome = told[place]
        different = None if answer is None else _different(world.settings.kinds, command, answer)
        if different and isinstance(outcome, Applied):
            told[place] = replace(outcome, different=different)
    return tuple(told)


def _batch(lines: Sequence[tuple[str, str]]) -> Batch:
    commands = tuple(
        Command(
            row_ids=(next(_numbers),),
            kind="call",
            key="",
            operation=Operation.CALL,
            method=method,
            query=query,
            repeatable=True,
        )
        for method, query in lines
    )
    return Batch(labels=tuple(command.label for command in commands), commands=commands)


def _asked(
    world: World, mine: Lane, credential: Credential, batch: Batch
) -> tuple[Reply | SendError, tuple[Outcome, ...]]:
    """One request, with the lane kept for as long as it may take."""
    deadline_s = min(LOOK_S, world.settings.request_timeout_s)
    lease_ms = milliseconds(deadline_s + world.settings.lease_s)

    def keep(connection: Connection) -> bool:
        return lanes.keep(connection, mine, lease_ms=lease_ms)

    world.transact(Step.LEARN, keep)
    world.telling(Step.LOOK, Moment.BEFORE)
    try:
        reply = world.client.send(credential, batch, deadline_s=deadline_s)
    except SendError as error:
        return error, unanswered(batch, error)
    world.telling(Step.LOOK, Moment.AFTER)
    return reply, interpret(batch, reply)


def _facts(
    kinds: Mapping[str, Kind],
    questions: Sequence[Question],
    outcomes: Sequence[Outcome],
    told: Sequence[object],
) -> Facts:
    """Each answer as a fact about its entity; a question without an answer fails, and is not lost."""
    facts = NO_FACTS
    for question, outcome, answer in zip(questions, outcomes, told, strict=True):
        entity = (question.kind, question.key)
        kind = find_kind(question.kind, kinds)
        if kind is None or not isinstance(outcome, Applied):
            facts |= _untold(entity, question, kind, outcome)
        elif question.asks is Asks.RECORD:
            facts |= Facts(records={entity: asking.record_of(kind, answer)})
        else:
            facts |= Facts(matches={entity: asking.ids_of(kind, answer, question.wanted)})
    return facts


def _untold(
    entity: tuple[str, str], question: Question, kind: Kind | None, outcome: Outcome
) -> Facts:
    match outcome:
        case Rejected(fault=fault) if question.asks is Asks.RECORD and _is_gone(kind, fault):
            return Facts(records={entity: {}})
        case Rejected(fault=fault):
            return Facts(failures={entity: fault})
        case Deferred():
            # Not asked at all: the question is put again when the row is met again.
            return NO_FACTS
        case _:
            silent = Fault(code="no_answer", text="", kind=FaultKind.SERVER)
            return Facts(failures={entity: silent})


def _is_gone(kind: Kind | None, fault: Fault) -> bool:
    """Whether there is no such record; to be sure or not: the write that follows will be told."""
    return kind is not None and is_gone((*kind.gone, *_GONE), fault.code, fault.text)


def _afterwards(kinds: Mapping[str, Kind], command: Command, outcome: Outcome) -> Question | None:
    """What to read after a command, to see whether it did what it said."""
    if command.said is None or not isinstance(outcome, Applied):
        return None
    kind = find_kind(command.kind, kinds)
    remote_id = outcome.remote_id or command.remote_id
    if kind is None or kind.get is None or remote_id is None:
        return None
    row = Row(
        id=command.row_ids[0],
        portal="",
        lane=0,
        kind=command.kind,
        key=command.key,
        operation=command.operation,
        fields=None,
        params=None,
    )
    return asking.about_record(row, kind, remote_id, command.said.fields, command.said.params)


def _different(kinds: Mapping[str, Kind], command: Command, answer: object) -> str | None:
    """The fields that are not as they were said; ``None``, all are."""
    kind = find_kind(command.kind, kinds)
    if kind is None or command.said is None:
        return None
    record = asking.record_of(kind, answer)
    if not record:
        return "the record was not there when it was read afterwards"
    fields = command.said.fields
    plain = {name: value for name, value in fields.items() if name not in kind.multi_fields}
    found = list(comparing.differences(plain, record, yes_no=kind.yes_no, names=kind.record_names))
    for name in sorted(kind.multi_fields.intersection(fields)):
        value = fields[name]
        rows = multivalues.present(name, record)
        if multivalues.is_values(name, value) and not multivalues.holds(name, value, rows):
            held = ", ".join(row.value for row in rows)
            found.append(
                comparing.Difference(field=name, wanted=comparing.shown(value), found=held)
            )
    return comparing.summary(tuple(found)) if found else None
