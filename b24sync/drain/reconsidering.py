"""Rows that wait for what will not come by itself are planned anew.

An entity that is lost gets no id, so what refers to it is held with a reason or given up, as its
policy says. Entities that wait for each other would wait for ever: one of them is made without what
it refers to, and gets that afterwards; where none can be, the circle is spelled out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from b24sync.core import refs
from b24sync.core.model import Command, Plan, Ref, Refusal, Row, Waiting
from b24sync.core.planning import circle_of, needed_links, plan, spelled
from b24sync.core.resolving import may_be_cut
from b24sync.core.surroundings import Entity, Surroundings
from b24sync.edge import parents, waiting
from b24sync.edge.links import read_links


def reconsidered(
    connection: Connection,
    code: str,
    part: Plan,
    around: Surroundings,
    found: Mapping[int, Row],
) -> tuple[Plan, int]:
    """The plan, with what is known of the entities that its rows wait for.

    Shape: ``found`` are the plan's rows by their ids; the number is that of the rows released.
    Writes: outbox, held to ready, where another row of a circle is the one to break it.
    """
    if not part.waiting:
        return part, 0
    waits = {_entity(found[wait.row_id]): wait.target for wait in part.waiting}
    circles = _Circles(connection=connection, code=code, around=around, found=found, waits=waits)
    circles.learn(waits.values())
    for wait in part.waiting:
        circles.break_at(found[wait.row_id])
    refused = {refusal.row_id for refusal in circles.refusals}
    still: list[Waiting] = []
    anew: list[Row] = []
    for wait in part.waiting:
        row = found[wait.row_id]
        target = circles.waits.get(_entity(row), wait.target)
        reason = circles.lost.get(_entity_of(target), "")
        if row.id in circles.cuts:
            anew.append(circles.cuts[row.id].row)
        elif reason and target == wait.target:
            anew.append(row)
        elif row.id not in refused:
            still.append(replace(wait, target=target, reason=reason))
    cut = {row_id: part.target for row_id, part in circles.cuts.items()}
    again = plan(anew, replace(around, lost=circles.lost, cut=cut))
    again = replace(again, commands=tuple(map(circles.completed, again.commands)))
    return _together(part, again, circles.refusals, still), circles.released


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """A row that can be made without some of the entities of its circles.

    Shape: ``row`` is without the fields ``left_out``, that refer to all of them but ``target``.
    """

    row: Row
    target: Ref
    left_out: Mapping[str, object]


@dataclass(slots=True, kw_only=True)
class _Circles:
    """What is known of the entities that wait for each other.

    Shape: ``waits`` says for which entity each one waits.
    """

    connection: Connection
    code: str
    around: Surroundings
    found: Mapping[int, Row]
    waits: dict[Entity, Ref]
    lost: dict[Entity, str] = field(default_factory=dict[Entity, str])
    cuts: dict[int, _Cut] = field(default_factory=dict[int, _Cut])
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    released: int = 0

    def learn(self, targets: Iterable[Ref]) -> None:
        """Find out what these entities wait for themselves, and whether they are lost."""
        entities = {_entity_of(target) for target in targets}
        self.lost |= parents.lost(self.connection, self.code, entities)
        self.waits = {**parents.waits(self.connection, self.code, entities), **self.waits}

    def break_at(self, row: Row) -> None:
        """Break the circle that this row closes, at the first row that needs nobody else.

        One that needs an entity besides, outside of any circle, waits for that one.
        """
        circle = circle_of(Ref(row.kind, row.key), self.waits)
        if not circle:
            return
        members = {member.id: member for member in self._members(circle)}
        ways = {member.id: self._way(member) for member in members.values()}
        for row_id, way in ways.items():
            if isinstance(way, _Cut):
                self._part(members[row_id], way)
                return
        mine = ways.get(row.id)
        others = [row_id for row_id, way in ways.items() if isinstance(way, Ref)]
        if isinstance(mine, Ref):
            self.waits[_entity(row)] = mine
        elif others:
            # Rows of the same plan have a turn of their own; a held one comes back for it.
            self._release([members[row_id] for row_id in others if row_id not in self.found])
        else:
            self._refuse(row, circle)

    def _members(self, circle: Sequence[Ref]) -> list[Row]:
        """The rows that wait in a circle."""
        entities = [_entity_of(ref) for ref in circle]
        held = parents.waiting_rows(self.connection, self.code, entities)
        links = read_links(self.connection, self.code, needed_links(held))
        self.around = replace(self.around, links={**self.around.links, **links})
        rows = {_entity(row): row for row in (*held, *tuple(self.found.values())[::-1])}
        return [rows[entity] for entity in entities if entity in rows]

    def _way(self, row: Row) -> _Cut | Ref | None:
        """How a row can be made without the entities of its circles.

        Shape: a ``Ref`` is an entity that it has to wait for all the same; ``None``, it cannot.
        """
        waits = dict(self.waits)
        left_out: dict[str, object] = {}
        while True:
            target = waits[_entity(row)]
            if not may_be_cut(row, target, self.around):
                return None
            cut = {row.id: target}
            without = plan([row], replace(self.around, lost=self.lost, cut=cut)).waiting
            if not without:
                return _Cut(row=row, target=target, left_out=left_out)
            other = without[0].target
            self.learn([other])
            waits = {**self.waits, _entity(row): other}
            if not circle_of(Ref(row.kind, row.key), waits):
                return other
            row, more = _stripped(row, target)
            left_out |= more

    def completed(self, command: Command) -> Command:
        """A command that breaks a circle, with all that is left for afterwards."""
        way = self.cuts.get(command.row_ids[0])
        if way is None or command.remainder is None:
            return command
        return replace(command, remainder={**command.remainder, **way.left_out})

    def _part(self, row: Row, way: _Cut) -> None:
        if row.id in self.found:
            self.cuts[row.id] = way
            del self.waits[_entity(row)]
        else:
            self._release([row])

    def _release(self, rows: Sequence[Row]) -> None:
        """They come back, wait again, and are the ones that close the circle then."""
        targets = {_entity_of(self.waits.pop(_entity(row))) for row in rows}
        if targets:
            released = waiting.release_for(self.connection, self.code, list(targets))
            self.released += released

    def _refuse(self, row: Row, circle: Sequence[Ref]) -> None:
        reason = f"refer in a circle that cannot be broken: {spelled(circle)}"
        self.refusals.append(Refusal(row_id=row.id, code="circle", field="fields", reason=reason))
        del self.waits[_entity(row)]


def _stripped(row: Row, target: Ref) -> tuple[Row, Mapping[str, object]]:
    """A row without the fields that refer to an entity, and those fields."""
    if not refs.is_mapping(row.fields):
        return row, {}
    left_out = {name: value for name, value in row.fields.items() if target in refs.find(value)}
    kept = {name: value for name, value in row.fields.items() if name not in left_out}
    return replace(row, fields=kept), left_out


def _entity(row: Row) -> Entity:
    return row.kind, row.key


def _entity_of(ref: Ref) -> Entity:
    return ref.kind, ref.key


def _together(
    part: Plan, again: Plan, refusals: Sequence[Refusal], still: Sequence[Waiting]
) -> Plan:
    return replace(
        part,
        commands=part.commands + again.commands,
        refusals=part.refusals + again.refusals + tuple(refusals),
        waiting=tuple(still) + again.waiting,
        postponed=part.postponed + again.postponed,
        closing=part.closing + again.closing,
        questions=part.questions + again.questions,
    )
