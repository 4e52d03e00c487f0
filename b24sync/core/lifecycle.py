"""The table of legal moves, and the verdict each outcome earns.

A row's life, and a batch's, are two tables: (state, event) to state. Nothing else in the package
says which move is legal: the guards of the SQL statements, the tests and the drawing in the README
all read these tables. ``None`` as the state that follows means gone: the final result is written in
the same transaction, and the row leaves the outbox.

Three counters are never mixed. *Deliveries* count how often a row was put into a batch, *attempts*
how often the portal judged it, *not-runs* how often a halt spared it. Only a judgement costs an
attempt, so that a busy, absent or unpaid portal cannot use up a row's patience.

An outcome says what became of a command; ``judge`` says what is done about it. It is total: every
outcome has a verdict, and the clock and the dice are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import assert_never

from b24sync.core.model import (
    Applied,
    BatchState,
    Bury,
    Deferred,
    Doubt,
    Fault,
    FaultKind,
    Finish,
    Outcome,
    PortalState,
    Rejected,
    ResultOutcome,
    Retry,
    RowState,
    Skipped,
    Spare,
    Unknown,
    Verdict,
)


class RowEvent(StrEnum):
    """What can happen to an unfinished row."""

    CLAIM = "claim"
    PARK = "park"
    RELEASE = "release"
    HOLD = "hold"
    FINISH = "finish"
    REQUEUE = "requeue"
    STOP = "stop"
    LOSE = "lose"
    CLOSE = "close"


class BatchEvent(StrEnum):
    """What can happen to a batch."""

    GO = "go"
    RETURN = "return"
    SETTLE = "settle"
    LOSE = "lose"
    RECONCILE = "reconcile"


ROW_MOVES: Mapping[tuple[RowState, RowEvent], RowState | None] = MappingProxyType(
    {
        (RowState.READY, RowEvent.CLAIM): RowState.BATCHED,
        (RowState.READY, RowEvent.PARK): RowState.PARKED,
        (RowState.READY, RowEvent.HOLD): RowState.HELD,
        (RowState.READY, RowEvent.REQUEUE): RowState.READY,
        (RowState.READY, RowEvent.CLOSE): None,
        (RowState.PARKED, RowEvent.CLAIM): RowState.BATCHED,
        (RowState.PARKED, RowEvent.RELEASE): RowState.READY,
        (RowState.PARKED, RowEvent.CLOSE): None,
        (RowState.HELD, RowEvent.RELEASE): RowState.READY,
        (RowState.HELD, RowEvent.CLOSE): None,
        (RowState.BATCHED, RowEvent.FINISH): None,
        (RowState.BATCHED, RowEvent.REQUEUE): RowState.READY,
        (RowState.BATCHED, RowEvent.PARK): RowState.PARKED,
        (RowState.BATCHED, RowEvent.STOP): RowState.HELD,
        (RowState.BATCHED, RowEvent.LOSE): RowState.DOUBT,
        (RowState.DOUBT, RowEvent.FINISH): None,
        (RowState.DOUBT, RowEvent.PARK): RowState.PARKED,
        (RowState.DOUBT, RowEvent.STOP): RowState.HELD,
        (RowState.DOUBT, RowEvent.REQUEUE): RowState.READY,
    }
)
"""The life of a row; what is not here does not happen."""

BATCH_MOVES: Mapping[tuple[BatchState, BatchEvent], BatchState] = MappingProxyType(
    {
        (BatchState.JOURNALLED, BatchEvent.GO): BatchState.SENDING,
        (BatchState.JOURNALLED, BatchEvent.RETURN): BatchState.RETURNED,
        (BatchState.SENDING, BatchEvent.SETTLE): BatchState.ANSWERED,
        (BatchState.SENDING, BatchEvent.RETURN): BatchState.RETURNED,
        (BatchState.SENDING, BatchEvent.LOSE): BatchState.DOUBT,
        (BatchState.DOUBT, BatchEvent.SETTLE): BatchState.ANSWERED,
        (BatchState.DOUBT, BatchEvent.RECONCILE): BatchState.RECONCILED,
    }
)
"""The life of a batch. ``sending`` returns only when it is certain that nothing was received."""


def row_sources(event: RowEvent) -> tuple[RowState, ...]:
    """The states from which an event may move a row; what a statement's guard must name.

    Shape: in the order of ``RowState``.
    Raises: nothing.
    """
    return tuple(state for state in RowState if (state, event) in ROW_MOVES)


def batch_sources(event: BatchEvent) -> tuple[BatchState, ...]:
    """The states from which an event may move a batch.

    Shape: in the order of ``BatchState``.
    Raises: nothing.
    """
    return tuple(state for state in BatchState if (state, event) in BATCH_MOVES)


def drawing() -> str:
    """The life of a row as a Mermaid state diagram, drawn from the table of moves.

    Raises: nothing.
    """
    lines = ["stateDiagram-v2", "    [*] --> ready: enqueue"]
    lines += [
        f"    {source} --> {target or '[*]'}: {event}"
        for (source, event), target in ROW_MOVES.items()
    ]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient the package is with one row.

    Units: milliseconds; ``max_attempts`` counts judgements by the portal, the first included.
    """

    max_attempts: int = 8
    base_ms: int = 10_000
    cap_ms: int = 3_600_000


METHOD_PAUSE_MS = 60_000
"""The longest that a method rests which the portal refused for time: one of the ten one-minute
baskets of the portal's window (Bitrix24 REST manual, "Limits"). The end that a refusal names is that
of the whole window, but time is given back basket by basket, and a refused try costs nothing."""

METHOD_GRACE_MS = 1_000
"""Added to that end, which the portal cuts to whole seconds."""

RATE_PAUSE_MS = 1_000
"""Upper bound of the dice after a refusal for rate; the bucket itself says when a call fits."""


def judge(
    outcome: Outcome, *, attempts: int, policy: RetryPolicy, now_ms: int, jitter: float
) -> Verdict:
    """Say what is done about one row after its command's outcome.

    Units: ``attempts`` are those spent before this outcome; ``now_ms`` is epoch milliseconds;
    ``jitter`` is in [0, 1).
    Raises: nothing.
    """
    match outcome:
        case Applied(remote_id=remote_id, different=different):
            recorded = ResultOutcome.DIFFERENT if different else ResultOutcome.APPLIED
            return Finish(outcome=recorded, remote_id=remote_id)
        case Rejected(fault=fault):
            return _after_rejection(fault, attempts=attempts, policy=policy, jitter=jitter)
        case Deferred(fault=fault, retry_at_ms=retry_at_ms):
            if fault.kind is FaultKind.TOO_LARGE:
                return _again_or_bury(fault, attempts=attempts, policy=policy, jitter=jitter)
            delay_ms = deferral_ms(fault, retry_at_ms=retry_at_ms, now_ms=now_ms, jitter=jitter)
            return Retry(delay_ms=delay_ms, charged=False, fault=fault)
        case Skipped():
            return Spare()
        case Unknown(reason=reason):
            return Doubt(reason=reason)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def _after_rejection(fault: Fault, *, attempts: int, policy: RetryPolicy, jitter: float) -> Verdict:
    """A fault of the server may pass; a fault of the command will not pass by itself."""
    if fault.kind is FaultKind.SERVER:
        return _again_or_bury(fault, attempts=attempts, policy=policy, jitter=jitter)
    return Bury(reason=str(fault.kind), fault=fault)


def _again_or_bury(fault: Fault, *, attempts: int, policy: RetryPolicy, jitter: float) -> Verdict:
    """Try again while patience lasts."""
    if attempts + 1 >= policy.max_attempts:
        return Bury(reason="exhausted", fault=fault)
    return Retry(
        delay_ms=backoff_ms(attempts, policy=policy, jitter=jitter), charged=True, fault=fault
    )


def backoff_ms(attempts: int, *, policy: RetryPolicy, jitter: float) -> int:
    """Full jitter: anything between now and an end that doubles with every attempt, up to a cap.

    Units: milliseconds; ``jitter`` in [0, 1).
    Raises: nothing.
    """
    # Clamped before the shift: nobody waits for a number of a thousand digits.
    doublings = min(max(attempts, 0), 32)
    ceiling: int = min(policy.cap_ms, policy.base_ms << doublings)
    return int(jitter * ceiling)


def deferral_ms(fault: Fault, *, retry_at_ms: int | None, now_ms: int, jitter: float) -> int:
    """How long a row rests that was provably not executed, at no charge.

    Units: milliseconds; never negative.
    Raises: nothing.
    """
    if fault.kind is FaultKind.METHOD_TIME:
        rest_ms = retry_at_ms - now_ms if retry_at_ms is not None else METHOD_PAUSE_MS
        # A second of dice: the basket's end is the same for every row that waits for it.
        dice_ms = METHOD_GRACE_MS + int(jitter * 1_000)
        return min(max(0, rest_ms), METHOD_PAUSE_MS) + dice_ms
    if fault.kind is FaultKind.RATE:
        return int(jitter * RATE_PAUSE_MS)
    return 0


def portal_state_after(fault: Fault) -> PortalState | None:
    """What a fault of the whole request makes of the portal; ``None``, it stays active.

    Raises: nothing.
    """
    if fault.portal_state is not None:
        return fault.portal_state
    if fault.kind is FaultKind.TOKEN:
        return PortalState.AUTH_LOST
    if fault.kind is FaultKind.MOVED:
        return PortalState.MISCONFIGURED
    return None


STRIKE_BASE_MS = 1_000
STRIKE_CAP_MS = 120_000


def breaker_ms(strikes: int, *, jitter: float) -> int:
    """How long a lane leaves a portal alone that could not be reached.

    Units: milliseconds; half is fixed and half is dice, so that a retry is never immediate.
    Raises: nothing.
    """
    ceiling = min(STRIKE_CAP_MS, STRIKE_BASE_MS << min(max(strikes, 0), 16))
    return ceiling // 2 + int(jitter * (ceiling // 2))
