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
    """

    row: Row
    outcome: ResultOutcome | None
    method: str
    cmd_no: int
    final: bool = False
    in_doubt: bool = False
    charged: bool = False
    spared: bool = False
    requeue_ms: int | None = None
    remote_id: str | None = None
    error_code: str | None = None
    error_text: str | None = None
    error_class: str | None = None
    bury_reason: str | None = None
    duration_ms: int | None = None
    link_present: bool = False
    link_deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What judging needs besides the outcomes.

    Units: ``now_ms`` is epoch milliseconds; ``chance`` gives numbers in [0, 1).
    """

    policy: RetryPolicy
    now_ms: int
    chance: Callable[[], float]


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
        for row_id in command.row_ids:
            verdict = judge(
                outcome,
                attempts=rows[row_id].attempts,
                policy=judging.policy,
                now_ms=judging.now_ms,
                jitter=jitter,
            )
            yield settlement(rows[row_id], command, place, outcome, verdict)


def _goes_together(outcome: Outcome) -> bool:
    """What was too large with its companions would, with the same throw, meet them all again."""
    return isinstance(outcome, Deferred) and outcome.fault.kind is not FaultKind.TOO_LARGE


def settlement(
    row: Row, command: Command, place: int, outcome: Outcome, verdict: Verdict
) -> Settlement:
    """A verdict as what is to be written.

    Raises: nothing.
    """
    base = Settlement(row=row, outcome=None, method=command.method, cmd_no=place)
    match verdict:
        case Finish(outcome=recorded, remote_id=remote_id):
            return replace(
                base,
                outcome=recorded,
                final=True,
                charged=True,
                remote_id=remote_id or command.remote_id,
                duration_ms=outcome.duration_ms if isinstance(outcome, Applied) else None,
                link_present=command.linked and command.operation is Operation.ADD,
                link_deleted=command.linked and command.operation is Operation.DELETE,
            )
        case Retry(delay_ms=delay_ms, charged=charged, fault=fault):
            retried = replace(
                base,
                outcome=ResultOutcome.RETRIED if charged else None,
                charged=charged,
                requeue_ms=delay_ms,
            )
            return _with_fault(retried, fault)
        case Spare():
            return replace(base, outcome=ResultOutcome.SKIPPED, spared=True, requeue_ms=0)
        case Doubt(reason=reason):
            unknown = replace(base, outcome=ResultOutcome.UNKNOWN, in_doubt=True)
            fault = outcome.fault if isinstance(outcome, Unknown) else None
            return replace(_with_fault(unknown, fault), error_text=_why_unknown(reason, fault))
        case Bury(reason=reason, fault=fault):
            buried = replace(
                base,
                outcome=ResultOutcome.FAILED,
                final=True,
                charged=True,
                bury_reason=reason,
            )
            return _with_fault(buried, fault)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def _with_fault(settlement: Settlement, fault: Fault | None) -> Settlement:
    if fault is None:
        return settlement
    return replace(
        settlement, error_code=fault.code, error_text=fault.text, error_class=str(fault.kind)
    )


def _why_unknown(reason: str, fault: Fault | None) -> str:
    return reason if fault is None else f"{reason}: {fault.code} {fault.text}".strip()
