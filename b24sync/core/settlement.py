"""What is to be written about each row of a batch, from the outcomes of its commands.

The last decision on the way back: an outcome is judged, and the verdict becomes a settlement, which
names the result row, the move of the outbox row, and what becomes of the link. The edge writes it
and decides nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from b24sync.core.lifecycle import RetryPolicy, judge
from b24sync.core.model import (
    Applied,
    Batch,
    Bury,
    Command,
    Deferred,
    Doubt,
    Fault,
    FaultKind,
    Finish,
    Operation,
    Outcome,
    Rejected,
    ResultOutcome,
    Retry,
    Row,
    Spare,
    Unknown,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What is written about one row when its batch is settled.

    Shape: ``requeue_ms`` is the delay after which the row is ready again, ``None`` if it is not to
    be; ``final`` rows leave the outbox. ``outcome`` is ``None`` where no result row is due.
    ``merged_into``: the row that it went with. ``is_behind``: goes back behind the first row of its
    entity. ``is_barrier``: is not merged with its neighbours any more. ``stopped``: rests until a
    person decides, and its lane with it. ``remainder``: the fields that are left to be said.
    ``fingerprints``: what the link remembers of what was sent; ``None``, it is left as it is.
    ``duplicates``: ids of further records that carry the entity's marker.
    """

    row: Row
    outcome: ResultOutcome | None
    method: str
    cmd_no: int
    final: bool = False
    in_doubt: bool = False
    charged: bool = False
    spared: bool = False
    stopped: bool = False
    requeue_ms: int | None = None
    is_behind: bool = False
    is_barrier: bool = False
    merged_into: int | None = None
    remainder: Mapping[str, object] | None = None
    remote_id: str | None = None
    error_code: str | None = None
    error_text: str | None = None
    error_class: str | None = None
    bury_reason: str | None = None
    duration_ms: int | None = None
    link_present: bool = False
    link_deleted: bool = False
    fingerprints: Mapping[str, str] | None = None
    duplicates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What judging needs besides the outcomes.

    ``strict``: a row that would be given up on stops its lane instead.
    Units: ``now_ms`` is epoch milliseconds; ``chance`` gives numbers in [0, 1).
    """

    policy: RetryPolicy
    now_ms: int
    chance: Callable[[], float]
    strict: bool = False


def settlements(
    batch: Batch, rows: Mapping[int, Row], outcomes: Sequence[Outcome], judging: Judging
) -> tuple[Settlement, ...]:
    """What is to be written about every row of a batch.

    Shape: one settlement per row, in the order of the commands and of the rows in each.
    Raises: nothing, if there are as many outcomes as commands and every row is at hand.
    """
    return tuple(_each(batch, rows, outcomes, judging))


def _each(
    batch: Batch, rows: Mapping[int, Row], outcomes: Sequence[Outcome], judging: Judging
) -> Iterator[Settlement]:
    # One throw for rows that go back together, so that they are written together.
    together = judging.chance()
    for place, (command, outcome) in enumerate(zip(batch.commands, outcomes, strict=True)):
        jitter = together if _goes_together(outcome) else judging.chance()
        said = [rows[row_id] for row_id in command.row_ids]
        verdict = judge(
            outcome,
            attempts=said[0].attempts,
            policy=judging.policy,
            now_ms=judging.now_ms,
            jitter=jitter,
        )
        if len(said) > 1:
            yield from _of_merged(said, command, place, outcome, verdict)
        else:
            alone = settlement(said[0], command, place, outcome, verdict)
            yield _stopped(alone) if judging.strict and alone.bury_reason else alone


def _goes_together(outcome: Outcome) -> bool:
    """What was too large with its companions would, with the same throw, meet them all again."""
    return isinstance(outcome, Deferred) and outcome.fault.kind is not FaultKind.TOO_LARGE


def _of_merged(
    rows: Sequence[Row], command: Command, place: int, outcome: Outcome, verdict: Verdict
) -> Iterator[Settlement]:
    """The same fate for rows that went as one, and a result of its own for each."""
    if isinstance(verdict, Bury):
        yield from _parted(rows, command, place, verdict.fault, outcome)
        return
    for number, row in enumerate(rows):
        own = settlement(row, command, place, outcome, verdict)
        if not own.final and not own.in_doubt:
            yield replace(own, outcome=None if number else own.outcome, is_behind=number > 0)
        elif own.in_doubt or row.id == command.leads:
            yield own
        else:
            yield replace(
                own,
                outcome=ResultOutcome.MERGED,
                merged_into=command.leads,
                duration_ms=None,
                error_text=None,
                link_present=False,
                link_deleted=False,
                fingerprints=None,
            )


def _parted(
    rows: Sequence[Row], command: Command, place: int, fault: Fault, outcome: Outcome
) -> Iterator[Settlement]:
    """Rows that were refused as one are parted in the middle, and tried again at no charge.

    Which of them is to blame shows when it is alone; that takes as many tries as halvings.
    """
    is_gone = isinstance(outcome, Rejected) and outcome.is_gone
    base = Settlement(row=rows[0], outcome=None, method=command.method, cmd_no=place, requeue_ms=0)
    for number, row in enumerate(rows):
        parted = replace(
            base,
            row=row,
            is_behind=number > 0,
            is_barrier=number == len(rows) // 2,
            link_deleted=is_gone and command.linked and number == 0,
        )
        yield _with_fault(parted, fault)


def _stopped(buried: Settlement) -> Settlement:
    """In the mode ``strict`` nobody but a person gives a row up."""
    return replace(
        buried, outcome=ResultOutcome.STOPPED, final=False, stopped=True, bury_reason=None
    )


def settlement(
    row: Row, command: Command, place: int, outcome: Outcome, verdict: Verdict
) -> Settlement:
    """A verdict as what is to be written.

    Raises: nothing.
    """
    match verdict:
        case Finish(outcome=recorded, remote_id=remote_id):
            done = Settlement(
                row=row,
                outcome=recorded,
                method=command.method,
                cmd_no=place,
                final=True,
                charged=True,
                remote_id=remote_id or command.remote_id,
                duration_ms=outcome.duration_ms if isinstance(outcome, Applied) else None,
                error_text=outcome.different if isinstance(outcome, Applied) else None,
                link_present=command.linked and command.operation is Operation.ADD,
                link_deleted=command.linked and command.operation is Operation.DELETE,
                fingerprints=_remembered(command, recorded),
            )
            return done if command.remainder is None else _begun(done, command.remainder)
        case Retry(delay_ms=delay_ms, charged=charged, fault=fault):
            retried = Settlement(
                row=row,
                outcome=ResultOutcome.RETRIED if charged else None,
                method=command.method,
                cmd_no=place,
                charged=charged,
                requeue_ms=delay_ms,
            )
            return _with_fault(retried, fault)
        case Spare():
            return Settlement(
                row=row,
                outcome=ResultOutcome.SKIPPED,
                method=command.method,
                cmd_no=place,
                spared=True,
                requeue_ms=0,
            )
        case Doubt(reason=reason):
            unknown = Settlement(
                row=row,
                outcome=ResultOutcome.UNKNOWN,
                method=command.method,
                cmd_no=place,
                in_doubt=True,
            )
            fault = outcome.fault if isinstance(outcome, Unknown) else None
            return replace(_with_fault(unknown, fault), error_text=_why_unknown(reason, fault))
        case Bury(reason=reason, fault=fault):
            buried = Settlement(
                row=row,
                outcome=ResultOutcome.FAILED,
                method=command.method,
                cmd_no=place,
                final=True,
                charged=True,
                bury_reason=reason,
            )
            is_gone = isinstance(outcome, Rejected) and outcome.is_gone and command.linked
            return _made_anew(_with_fault(buried, fault)) if is_gone else _with_fault(buried, fault)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def _remembered(command: Command, recorded: ResultOutcome) -> Mapping[str, str] | None:
    """What is remembered of what was sent; of a record that is not as it was said, nothing."""
    if recorded is ResultOutcome.DIFFERENT and command.fingerprints is not None:
        return {}
    return command.fingerprints


def _begun(done: Settlement, remainder: Mapping[str, object]) -> Settlement:
    """The record is made, and what closes the circle of references follows as an update."""
    return replace(
        done,
        outcome=ResultOutcome.BEGUN,
        final=False,
        charged=False,
        requeue_ms=0,
        remainder=remainder,
    )


def _made_anew(buried: Settlement) -> Settlement:
    """The record is not there any more; an upsert makes it anew, anything else is given up."""
    if buried.row.operation is not Operation.UPSERT:
        return replace(buried, link_deleted=True)
    return replace(
        buried,
        outcome=ResultOutcome.RETRIED,
        final=False,
        bury_reason=None,
        requeue_ms=0,
        link_deleted=True,
    )


def _with_fault(settlement: Settlement, fault: Fault | None) -> Settlement:
    if fault is None:
        return settlement
    return replace(
        settlement, error_code=fault.code, error_text=fault.text, error_class=str(fault.kind)
    )


def _why_unknown(reason: str, fault: Fault | None) -> str:
    return reason if fault is None else f"{reason}: {fault.code} {fault.text}".strip()
