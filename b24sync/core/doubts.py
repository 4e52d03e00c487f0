"""What becomes of a command that was sent and never answered, once the portal has surely stopped.

While the portal may still be working on it, nobody can know. Afterwards there are four ways out: it
is said again, if that leaves the portal the same; it is looked for by its marker; it is said again
although that may make a second record, because a policy says so; or a person decides.

Source: ``lifecycle``'s states, and Bitrix24 REST manual: a v2 method knows no idempotency key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from b24sync.core import refs
from b24sync.core.asking import about_matches
from b24sync.core.kinds import Kind, Marker, Method
from b24sync.core.model import Fault, FaultKind, Operation, Question, ResultOutcome, Row
from b24sync.core.parameters import ORIGINATOR
from b24sync.core.policies import DoubtPolicy
from b24sync.core.settlement import Settlement

LOST = "the answer was lost"

_EMPTY = (None, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted:
    """A command in doubt, as its journal has it.

    Shape: ``rows`` as in the command, first of all the first; ``lead`` is the row whose result is
    the command's own. ``left_out`` are the fields without which it was sent, to break a circle of
    references.
    """

    rows: tuple[Row, ...]
    operation: Operation
    method: str
    cmd_no: int
    lead: int
    marker: str | None = None
    repeatable: bool = False
    is_linked: bool = False
    left_out: frozenset[str] = frozenset()

    @property
    def entity(self) -> tuple[str, str]:
        """What it is about."""
        return self.rows[0].kind, self.rows[0].key


Decision: TypeAlias = tuple[Settlement, ...] | Question
"""What is written about each row, or what has to be asked first."""


def decide(
    doubted: Doubted,
    kind: Kind | None,
    policy: DoubtPolicy,
    found: Sequence[str] | None = None,
) -> Decision:
    """What becomes of a command in doubt, after the portal has surely stopped working on it.

    Shape: ``found`` are the ids of records that carry its marker, ``None`` before that was asked.
    ``policy``: what its row or kind says of a case without a marker.
    Raises: nothing.
    """
    if doubted.repeatable:
        return _again(doubted)
    if found is not None:
        return _found(doubted, sorted(found, key=_number)) if found else _again(doubted)
    question = _question(doubted, kind)
    if question is not None:
        return question
    if policy is DoubtPolicy.RESEND:
        return _again(doubted)
    return _for_person(doubted, "it carries nothing by which it could be found on the portal")


def is_final(fault: Fault) -> bool:
    """Whether a refused look would be refused again; trouble of the server's own passes.

    Raises: nothing.
    """
    return fault.kind is not FaultKind.SERVER


def cannot_tell(doubted: Doubted, fault: Fault) -> tuple[Settlement, ...]:
    """A command that the portal would not let be looked for.

    Raises: nothing.
    """
    complaint = f"{fault.code} {fault.text}".strip()
    return _for_person(doubted, f"the portal would not let it be looked for: {complaint}")


def _number(text: str) -> tuple[int, str]:
    return len(text), text


def _question(doubted: Doubted, kind: Kind | None) -> Question | None:
    """How to look for what an add may have made; ``None``, there is nothing to look for it by."""
    is_add = doubted.operation is Operation.ADD
    if not is_add or doubted.marker is None or kind is None:
        return None
    if kind.marker is None or kind.list is None:
        return None
    row = doubted.rows[0]
    fields, params = _part(row.fields), _part(row.params)
    if _repeats_reference(kind.list, fields, params):
        return None
    place = params if kind.marker.in_params else fields
    conditions = _conditions(kind.marker, doubted.marker, row, place)
    return about_matches(row, kind, conditions, fields, params)


def _conditions(
    marker: Marker, value: str, row: Row, place: Mapping[str, object]
) -> Mapping[str, object]:
    """What the record carries, as far as that is certain.

    Of a key of the application's own, no more is known of its origin than the application said.
    """
    name = f"{row.kind}:{row.key}"
    is_ours = value == name or value.startswith(f"{name}#")
    is_own = not is_ours or place.get(marker.key_field) not in _EMPTY
    conditions: dict[str, object] = {marker.key_field: value}
    if marker.origin_field is not None:
        origin = place.get(marker.origin_field, None if is_own else ORIGINATOR)
        if isinstance(origin, str | int) and origin != "":
            conditions[marker.origin_field] = origin
    return conditions


def _repeats_reference(
    method: Method, fields: Mapping[str, object], params: Mapping[str, object]
) -> bool:
    """Whether the question must repeat a reference, of which the row does not say the id."""
    repeated = [fields.get(name) for name in method.required_fields]
    repeated += [params.get(name) for name in method.required]
    return any(refs.is_mapping(value) for value in repeated)


def _part(value: object) -> Mapping[str, object]:
    return value if refs.is_mapping(value) else {}


def _base(doubted: Doubted, row: Row) -> Settlement:
    return Settlement(row=row, outcome=None, method=doubted.method, cmd_no=doubted.cmd_no)


def _again(doubted: Doubted) -> tuple[Settlement, ...]:
    """It is said again; that costs an attempt, so that nobody takes it for the first."""
    return tuple(
        replace(
            _base(doubted, row),
            outcome=None if number else ResultOutcome.RETRIED,
            requeue_ms=0,
            is_behind=number > 0,
            charged=True,
            error_class="unknown",
            error_text=f"{LOST}; it is said again",
        )
        for number, row in enumerate(doubted.rows)
    )


def _found(doubted: Doubted, ids: Sequence[str]) -> tuple[Settlement, ...]:
    """It was done: the first of the records with its marker is its own."""
    others = tuple(ids[1:])
    note = f"{LOST}; found by its marker"
    if others:
        note = f"{note}, and {len(others)} more: {', '.join(others[:10])}; {ids[0]} is kept"
    settled: list[Settlement] = []
    for row in doubted.rows:
        own = replace(_base(doubted, row), final=True, charged=True, remote_id=ids[0])
        if row.id == doubted.lead:
            own = replace(
                own,
                outcome=ResultOutcome.APPLIED,
                error_text=note,
                link_present=doubted.is_linked,
                duplicates=others,
            )
            own = _begun(own, doubted.left_out) if doubted.left_out else own
        else:
            own = replace(own, outcome=ResultOutcome.MERGED, merged_into=doubted.lead)
        settled.append(own)
    return tuple(settled)


def _begun(done: Settlement, left_out: frozenset[str]) -> Settlement:
    """The record is there, and what it was made without follows as an update."""
    fields = _part(done.row.fields)
    return replace(
        done,
        outcome=ResultOutcome.BEGUN,
        final=False,
        charged=False,
        requeue_ms=0,
        remainder={name: value for name, value in fields.items() if name in left_out},
    )


def _for_person(doubted: Doubted, reason: str) -> tuple[Settlement, ...]:
    """Only a look at the portal by a person can tell; the rows behind the first wait for it."""
    first, *others = doubted.rows
    held = replace(
        _base(doubted, first),
        outcome=ResultOutcome.STOPPED,
        stopped=True,
        error_class="unknown",
        error_text=f"{LOST}; {reason}",
    )
    behind = (replace(_base(doubted, row), requeue_ms=0, is_behind=True) for row in others)
    return (held, *behind)
