"""Which commands of a plan go now, and which wait for their method's time.

A command waits without being sent: a refusal would cost a place in a request, and its answer says
less than is known. Commands of other methods go on; a chain waits whole, because its parts are sent
together; and where nothing may be overtaken, all that stands behind waits too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from b24sync.core.chains import chains
from b24sync.core.model import Command, Plan, Postponed, Question, Row
from b24sync.core.pacing import BATCH, NO_LOAD, Load, Pace
from b24sync.core.surroundings import Entity


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A plan without what has to wait.

    Shape: what waits for a time is postponed in it. ``passed`` are rows that wait for the answer to
    what goes now, which tells how much time is left. With ``strict`` neither is: what waits is cut
    off, and ``until_ms`` says when it is its turn; 0, it is not a matter of time.
    Units: epoch milliseconds.
    """

    plan: Plan
    passed: tuple[int, ...] = ()
    until_ms: int = 0


_PASSED = -1
"""Instead of a time: wait for the answer to what goes now."""


@dataclass(slots=True)
class _Gate:
    """What goes already, by the method whose time it takes."""

    pace: Pace
    ahead: dict[str, Load]

    def until(self, methods: Sequence[tuple[str, bool]]) -> int:
        """When these may go together; 0, now, and then they are counted.

        Shape: methods, each with whether it is called by itself.
        """
        own: dict[str, Load] = {}
        until = 0
        for method, alone in methods:
            load = self.pace.load(method)
            for payer in (method,) if alone else (method, BATCH):
                until = max(until, self._payable(payer, own.get(payer, NO_LOAD)), key=abs)
                own[payer] = own.get(payer, NO_LOAD) + load
        if not until:
            self.count(own)
        return until

    def count(self, loads: Mapping[str, Load]) -> None:
        """These go."""
        for payer, load in loads.items():
            self.ahead[payer] = self.ahead.get(payer, NO_LOAD) + load

    def _payable(self, payer: str, own: Load) -> int:
        if self.pace.is_beyond(payer, own):
            # More than the limit by itself: it goes as far as it comes.
            return 0
        ahead = self.ahead.get(payer)
        if ahead is None:
            return self.pace.rests_until(payer, own)
        has_room = self.pace.has_room(payer, ahead + own)
        return self.pace.rests_until(payer) or (0 if has_room else _PASSED)


def admitted(
    part: Plan,
    pace: Pace,
    rows: Sequence[Row],
    *,
    before: Sequence[Command | Question] = (),
    strict: bool = False,
) -> Admitted:
    """Hold back what the portal would refuse for its method's time.

    Shape: ``rows`` are those of the plan in their order; ``before`` goes already, and is counted.
    ``strict``: nothing behind the first that waits goes.
    Raises: nothing.
    """
    if not any(known.baskets or known.blocked_until_ms for known in pace.methods.values()):
        return Admitted(plan=part)
    gate = _Gate(pace, {})
    for one in before:
        load = pace.load(one.method)
        gate.count(dict.fromkeys((one.method, BATCH), load))
    return _in_order(part, gate, rows) if strict else _apart(part, gate, rows)


def _apart(part: Plan, gate: _Gate, rows: Sequence[Row]) -> Admitted:
    """Each chain and each question by itself."""
    waits: dict[int, int] = {}
    for chain in chains(part.commands):
        until = gate.until([(command.method, command.alone) for command in chain])
        if until:
            waits |= {command.row_ids[0]: until for command in chain}
    heads = _heads(rows)
    asked: list[Question] = []
    for question in part.questions:
        until = gate.until([(question.method, False)])
        if until:
            head = heads[question.kind, question.key]
            waits[head] = max(until, waits.get(head, 0), key=abs)
        else:
            asked.append(question)
    if not waits:
        return Admitted(plan=part)
    postponed = tuple(
        Postponed(row_id=row_id, until_ms=until) for row_id, until in waits.items() if until > 0
    )
    plan = replace(
        part,
        commands=tuple(c for c in part.commands if c.row_ids[0] not in waits),
        questions=tuple(q for q in asked if heads[q.kind, q.key] not in waits),
        postponed=part.postponed + postponed,
    )
    return Admitted(plan=plan, passed=tuple(row for row, until in waits.items() if until < 0))


def _in_order(part: Plan, gate: _Gate, rows: Sequence[Row]) -> Admitted:
    """All before the first that waits; where questions are put, they are put first."""
    heads = _heads(rows)
    places = {row.id: place for place, row in enumerate(rows)}
    turns: list[tuple[int, Command | Question]] = [
        *((places[command.row_ids[0]], command) for command in part.commands),
        *((places[heads[question.kind, question.key]], question) for question in part.questions),
    ]
    # A source stands before what needs it, wherever its own row is, and keeps its place there.
    ends = list(accumulate((place for place, _ in turns[: len(part.commands)]), max))
    turns[: len(ends)] = zip(ends, part.commands, strict=True)
    turns.sort(key=lambda turn: turn[0])
    for number, (_, one) in enumerate(turns):
        until = gate.until([(one.method, isinstance(one, Command) and one.alone)])
        if until:
            kept = [one for _, one in turns[:number]]
            plan = replace(
                part,
                commands=tuple(one for one in kept if isinstance(one, Command)),
                questions=tuple(one for one in kept if isinstance(one, Question)),
                refusals=(),
                is_cut=True,
            )
            return Admitted(plan=plan, until_ms=max(until, 0))
    return Admitted(plan=part)


def _heads(rows: Sequence[Row]) -> dict[Entity, int]:
    """The first row of each entity."""
    return {(row.kind, row.key): row.id for row in reversed(rows)}
