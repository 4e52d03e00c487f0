"""Rows are sorted into commands, refusals, and rows that wait or end unsent.

The input is what one pass may look at: rows of one lane, each the first unfinished of its entity,
with the later rows of the entity that may go with it; the links that they need; what was read on
the portal for them. The output sorts every row into one place. Nothing is asked and nothing is
touched. What one row becomes is ``saying``'s; which rows go together is ``merging``'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from b24sync.core import losses, refs
from b24sync.core.errors import PlanError
from b24sync.core.kind_table import find_kind
from b24sync.core.merging import Fold, fold
from b24sync.core.model import (
    Closing,
    Command,
    LinkState,
    Operation,
    Plan,
    Postponed,
    Question,
    Ref,
    Refusal,
    ResultOutcome,
    Row,
    Waiting,
)
from b24sync.core.policies import Orphans, policy_of, within
from b24sync.core.saying import say
from b24sync.core.surroundings import Entity, Surroundings, Unchanged, Unlinked, Unread

LOST = "lost"
"""Code and reason of a row that was given up because its requests came to nothing known."""

_ALONE: Mapping[int, Sequence[Row]] = MappingProxyType({})


def needed_links(rows: Iterable[Row]) -> frozenset[Entity]:
    """The entities whose links a plan of these rows will ask for.

    Shape: (kind, key) pairs; malformed references are passed over, the plan refuses them.
    Raises: nothing.
    """
    needed: set[Entity] = set()
    for row in rows:
        needed.add((row.kind, row.key))
        for part in (row.fields, row.params):
            try:
                needed.update((ref.kind, ref.key) for ref in refs.find(part))
            except PlanError:
                continue
    return frozenset(needed)


@dataclass(slots=True)
class _Table:
    """What has been sorted so far, and who may still be sorted before its turn."""

    around: Surroundings
    followers: Mapping[int, Sequence[Row]]
    chained: bool
    heads: dict[Entity, Row]
    makers: dict[Entity, Command]
    started: set[int] = field(default_factory=set[int])
    commands: list[Command] = field(default_factory=list[Command])
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    waiting: list[Waiting] = field(default_factory=list[Waiting])
    postponed: list[Postponed] = field(default_factory=list[Postponed])
    closing: list[Closing] = field(default_factory=list[Closing])
    questions: list[Question] = field(default_factory=list[Question])
    is_cut: bool = False


def plan(
    rows: Sequence[Row],
    around: Surroundings,
    *,
    followers: Mapping[int, Sequence[Row]] = _ALONE,
    chained: bool = False,
    strict: bool = False,
) -> Plan:
    """Sort rows into commands, refusals, and rows that wait or end unsent.

    Shape: ``followers`` are, by the id of a row, later rows of its entity that may be merged into
    it. ``chained``: a command may take the new id of an earlier one of the same batch, which stands
    before it then. ``strict``: nothing behind a refused row is looked at. Otherwise every row is in
    exactly one part of the plan, and commands keep the order of the rows.
    Raises: nothing.
    """
    table = _Table(
        around=around,
        followers=followers,
        chained=chained,
        heads={(row.kind, row.key): row for row in rows},
        makers=dict(around.makers),
    )
    for row in rows:
        if strict and table.refusals:
            table.is_cut = True
            break
        if row.id not in table.started:
            _sort(table, row)
    if strict and table.refusals and table.commands:
        # What stands before it goes first; the refused row is met again when it is the first.
        table.refusals.clear()
        table.is_cut = True
    return Plan(
        commands=tuple(table.commands),
        refusals=tuple(table.refusals),
        waiting=tuple(table.waiting),
        postponed=tuple(table.postponed),
        closing=tuple(table.closing),
        questions=tuple(table.questions),
        is_cut=table.is_cut,
    )


def _sort(table: _Table, row: Row) -> None:
    """Put one row, and the rows that go with it, where they belong."""
    table.started.add(row.id)
    ending = _ending(row, table.around.now_ms)
    if ending is not None:
        table.closing.append(Closing(row_id=row.id, outcome=ending))
        return
    if row.losses >= losses.MOST_LOSSES:
        lost = PlanError(LOST, "losses", losses.complaint(row))
        _refuse(table, row, lost)
        return
    whole = _folded(table, row)
    if whole.is_void:
        *merged, last = whole.row_ids
        table.closing.append(
            Closing(row_id=last, outcome=ResultOutcome.UNCHANGED, merged=tuple(merged))
        )
        return
    try:
        _put(table, whole)
    except PlanError as error:
        if len(whole.row_ids) > 1:
            # Whatever is wrong with them together, the first is judged by itself.
            _sort_alone(table, row)
        else:
            _refuse(table, row, error)


def _sort_alone(table: _Table, row: Row) -> None:
    try:
        _put(table, Fold(row=row, row_ids=(row.id,)))
    except PlanError as error:
        _refuse(table, row, error)


def _refuse(table: _Table, row: Row, error: PlanError) -> None:
    table.refusals.append(
        Refusal(row_id=row.id, code=error.code, field=error.field, reason=error.reason)
    )


def _folded(table: _Table, row: Row) -> Fold:
    """The row and those that go with it, as one."""
    around = table.around
    behind = table.followers.get(row.id, ())
    if not behind or row.id in around.cut or not _merges(row, around):
        return Fold(row=row, row_ids=(row.id,))
    link = around.links.get((row.kind, row.key))
    if link is not None and link.state in (LinkState.DOUBT, LinkState.CONFLICT):
        # Alone, each row of an entity whose record is unclear is refused.
        return Fold(row=row, row_ids=(row.id,))

    def is_resolved(ref: Ref) -> bool:
        known = around.links.get((ref.kind, ref.key))
        return known is not None and known.remote_id is not None

    return fold(
        (row, *behind),
        kind=find_kind(row.kind, around.kinds),
        is_known=link is not None and link.remote_id is not None,
        is_resolved=is_resolved,
    )


def _merges(row: Row, around: Surroundings) -> bool:
    """Whether later rows may go with this one."""
    return policy_of(row.kind, around.policies).merge and not _is_sought(row, around)


def _is_sought(row: Row, around: Surroundings) -> bool:
    """Whether an unknown key may still be looked for, which is done by what its first row says."""
    kind = find_kind(row.kind, around.kinds)
    link = around.links.get((row.kind, row.key))
    is_known = link is not None and link.remote_id is not None
    if kind is None or not kind.linked or is_known or row.operation is Operation.ADD:
        return False
    by = within(policy_of(row.kind, around.policies), kind).match
    return by is not None and (row.kind, row.key) not in around.facts.matches


def _put(table: _Table, whole: Fold) -> None:
    """Say a row, and put it where what it says belongs.

    Raises: PlanError if it cannot be said.
    """
    row = whole.row
    try:
        command = _said(table, row)
    except Unlinked as error:
        _wait(table, row, error.target)
        return
    except Unread as error:
        _ask(table, row, error.question)
        return
    except Unchanged:
        table.closing.append(
            Closing(
                row_id=whole.row_ids[0],
                outcome=ResultOutcome.UNCHANGED,
                merged=tuple(whole.row_ids[1:]),
            )
        )
        return
    until_ms = table.around.blocked.get(command.method, 0)
    if until_ms > table.around.now_ms:
        table.postponed.append(Postponed(row_id=row.id, until_ms=until_ms))
        return
    if len(whole.row_ids) > 1:
        # A delete at the end is what became of the entity; the rows before it went with it.
        lead = whole.row_ids[-1] if command.operation is Operation.DELETE else None
        command = replace(command, row_ids=whole.row_ids, lead=lead)
    table.commands.append(command)
    is_maker = command.linked and command.operation is Operation.ADD and not command.alone
    if is_maker and command.id_path is not None:
        table.makers[row.kind, row.key] = command


def _ask(table: _Table, row: Row, question: Question) -> None:
    """A question waits like a command, if its method is blocked."""
    until_ms = table.around.blocked.get(question.method, 0)
    if until_ms > table.around.now_ms:
        table.postponed.append(Postponed(row_id=row.id, until_ms=until_ms))
    else:
        table.questions.append(question)


def _said(table: _Table, row: Row) -> Command:
    """The command of a row; in a chain, the commands that make what it refers to come before it."""
    if not table.chained:
        return say(row, table.around)
    while True:
        try:
            return say(row, replace(table.around, makers=table.makers))
        except Unlinked as error:
            maker = table.heads.get((error.target.kind, error.target.key))
            # One that was begun and is no maker stands behind us in a circle, or cannot be sent.
            if maker is None or maker.id in table.started:
                raise
            _sort(table, maker)


def _wait(table: _Table, row: Row, target: Ref) -> None:
    """A row waits for the entity that it refers to; if that is lost, as its policy says.

    Raises: PlanError for one that is to be given up with its parent.
    """
    reason = table.around.lost.get((target.kind, target.key), "")
    policy = policy_of(row.kind, table.around.policies)
    if reason and policy.orphans is Orphans.BURY:
        raise PlanError("parent_failed", "fields", f"refers to {reason}")
    table.waiting.append(Waiting(row_id=row.id, target=target, reason=reason))


def _ending(row: Row, now_ms: int) -> ResultOutcome | None:
    if row.cancel_requested:
        return ResultOutcome.CANCELLED
    if row.expires_at_ms is not None and row.expires_at_ms <= now_ms:
        return ResultOutcome.EXPIRED
    return None


def circle_of(start: Ref, waits: Mapping[Entity, Ref]) -> tuple[Ref, ...]:
    """The circle of waiting entities that leads through this one; empty, there is none.

    Shape: ``waits`` says for which entity each one waits; the circle begins with ``start``.
    Raises: nothing.
    """
    circle = [start]
    seen = {(start.kind, start.key)}
    current = waits.get((start.kind, start.key))
    while current is not None and (current.kind, current.key) not in seen:
        circle.append(current)
        seen.add((current.kind, current.key))
        current = waits.get((current.kind, current.key))
    return tuple(circle) if current == start else ()


def spelled(circle: Sequence[Ref]) -> str:
    """A circle as people read it.

    Raises: nothing.
    """
    return " -> ".join(f"{ref.kind} {ref.key}" for ref in (*circle, circle[0]))
