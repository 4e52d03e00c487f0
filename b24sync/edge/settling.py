"""What became of the rows is written back, under the fence of their batch.

``settle`` is one transaction for all rows of a batch: results, links, dead letters, and the moves
of the rows themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, bindparam, case, delete, func, select, update

from b24sync.core.lifecycle import BatchEvent, RowEvent, batch_sources
from b24sync.core.model import (
    BatchState,
    Operation,
    ResultOutcome,
    RowState,
)
from b24sync.core.settlement import Settlement
from b24sync.edge import duplicates
from b24sync.edge.database import now_ms
from b24sync.edge.duplicates import Found
from b24sync.edge.guards import Raced, batch_guard, row_guard
from b24sync.edge.links import remember
from b24sync.edge.lists import Listed, among
from b24sync.edge.results import bury, count, insert_results, result_row, said
from b24sync.edge.tables import batch, outbox
from b24sync.edge.waiting import release, release_waiting

STOPPED = "stopped: "
"""What the reason of a row begins with that a person must decide on."""

CAME_TO_NOTHING = frozenset({ResultOutcome.FAILED, ResultOutcome.EXPIRED, ResultOutcome.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of an answer.

    ``recorded``: it was the first word on its batch. ``duplicates`` nobody had told of before.
    ``orphaned`` records were made by rows that had ended otherwise; their entities have them now.
    """

    recorded: bool
    duplicates: tuple[Found, ...] = ()
    orphaned: tuple[Settlement, ...] = ()


def settle(
    connection: Connection,
    batch_id: int,
    settlements: Sequence[Settlement],
    *,
    http_status: int | None,
    trusting: bool = False,
) -> Settled:
    """Write what became of every row of a batch, unless it was recorded before.

    What comes too late, for the batch or for rows that were decided without it, is compared.
    ``trusting``: that all rows are in the batch still is seen when they leave, and not before.
    Raises: Raced if some were not; to be undone, and done again without trust.
    Writes, under the guard of the batch's state: batch; result; outbox; dead; link; rollup;
    duplicate.
    """
    all_leave = all(settlement.final for settlement in settlements)
    if trusting and all_leave and connection.dialect.update_returning:
        closed = {"number": batch_id, "status": http_status}
        fence = connection.execute(_CLOSE, closed).first()
        if fence is not None:
            sent = Sent(batch_id=batch_id, sent_at=fence[0], http_status=http_status)
            found = write_out(connection, sent, settlements, int(fence[1]))
            return Settled(recorded=True, duplicates=found)
    fence = connection.execute(_FENCE, {"number": batch_id}).one()
    state, sent_at, now = fence[0], fence[1], int(fence[2])
    if BatchState(state) not in batch_sources(BatchEvent.SETTLE):
        return _keep_late(connection, batch_id, settlements, now)
    answered = settlements
    if not (trusting and all_leave) or state != BatchState.SENDING:
        settlements = still_in(connection, batch_id, settlements)
    in_doubt = any(settlement.in_doubt for settlement in settlements)
    _answer(connection, batch_id, in_doubt=in_doubt, http_status=http_status)
    sent = Sent(batch_id=batch_id, sent_at=sent_at, http_status=http_status)
    found = write_out(connection, sent, settlements, now)
    if len(settlements) == len(answered):
        return Settled(recorded=True, duplicates=found)
    late = [settlement for settlement in answered if settlement not in settlements]
    compared = _keep_late(connection, batch_id, late, now)
    return replace(compared, recorded=True, duplicates=found + compared.duplicates)


_FENCE = (
    select(batch.c.state, batch.c.sending_at, now_ms())
    .where(batch.c.id == bindparam("number"))
    .with_for_update()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The request that rows went with.

    Units: ``sent_at`` epoch milliseconds.
    """

    batch_id: int
    sent_at: int | None
    http_status: int | None = None


def write_out(
    connection: Connection, sent: Sent, settlements: Sequence[Settlement], now: int
) -> tuple[Found, ...]:
    """Write what became of rows of a batch, under a fence that the caller holds.

    Shape: the duplicates that nobody had told of before.
    Units: ``now`` is epoch milliseconds by the database's clock.
    Writes: result; outbox; dead; link; rollup; duplicate.
    """
    batch_id = sent.batch_id
    insert_results(
        connection,
        [
            result_row(settlement, batch_id, sent.http_status, sent.sent_at)
            for settlement in settlements
            if settlement.outcome is not None
        ],
    )
    for settlement in settlements:
        if settlement.bury_reason is not None:
            bury(connection, settlement)
    known = remember(connection, settlements, now)
    _requeue(connection, settlements, now)
    _stop(connection, settlements)
    _leave_in_doubt(connection, batch_id, settlements)
    _finish(connection, batch_id, settlements, known)
    count(connection, settlements, now)
    return duplicates.noticed(connection, settlements)


def _keep_late(
    connection: Connection, batch_id: int, settlements: Sequence[Settlement], now: int
) -> Settled:
    """An answer that came too late is kept and compared, and changes no row."""
    connection.execute(
        update(batch)
        .where(batch.c.id == batch_id, batch.c.late_at.is_(None))
        .values(
            late_at=now_ms(),
            late_answer={
                str(settlement.row.id): {
                    "outcome": settlement.outcome,
                    "remote_id": settlement.remote_id,
                }
                for settlement in settlements
            },
        )
    )
    found = duplicates.told_late(connection, settlements)
    orphaned = duplicates.orphaned(connection, settlements)
    release_waiting(connection, remember(connection, orphaned, now))
    return Settled(recorded=False, duplicates=found, orphaned=orphaned)


def still_in(
    connection: Connection, batch_id: int, settlements: Sequence[Settlement]
) -> tuple[Settlement, ...]:
    """The rows that are still in the batch.

    Of a batch in doubt some may be settled already; and a row that a person took out of the table
    must not cost its neighbours their answers. Locked, so that none is taken out from here on.
    """
    there = set(connection.execute(_STILL_IN, {"number": batch_id}).scalars())
    return tuple(settlement for settlement in settlements if settlement.row.id in there)


_STILL_IN = (
    select(outbox.c.id)
    .where(outbox.c.batch_id == bindparam("number"))
    .order_by(outbox.c.id)
    .with_for_update()
)

_DOUBT = (
    update(batch)
    .where(batch.c.id == bindparam("number"), batch_guard(BatchEvent.SETTLE))
    .values(state=str(BatchState.DOUBT), answered_at=now_ms(), http_status=bindparam("status"))
)
_ANSWER = _DOUBT.values(state=str(BatchState.ANSWERED), closed_at=now_ms())

_CLOSE = _ANSWER.where(batch.c.state == str(BatchState.SENDING)).returning(
    batch.c.sending_at, now_ms()
)
"""Fence and answer in one, where the database gives back what it has updated."""


def _answer(
    connection: Connection, batch_id: int, *, in_doubt: bool, http_status: int | None
) -> None:
    moved = connection.execute(
        _DOUBT if in_doubt else _ANSWER, {"number": batch_id, "status": http_status}
    )
    if moved.rowcount != 1:
        raise Raced


def _requeue(connection: Connection, settlements: Sequence[Settlement], now: int) -> None:
    """Rows that try again; those with the same fate are one statement."""
    groups: dict[_Fate, list[int]] = {}
    for settlement in settlements:
        if settlement.requeue_ms is not None:
            groups.setdefault(_fate(settlement, now), []).append(settlement.row.id)
        if settlement.remainder is not None:
            _say_the_rest(connection, settlement)
    for fate, ids in groups.items():
        event = RowEvent.PARK if fate.is_behind else RowEvent.REQUEUE
        values: dict[str, object] = {
            "state": str(RowState.PARKED if fate.is_behind else RowState.READY),
            "batch_id": None,
            "cmd_no": None,
            "state_reason": None,
            "due_at": fate.due_at,
            "attempts": outbox.c.attempts + int(fate.charged),
            "not_runs": outbox.c.not_runs + int(fate.spared),
            "last_error": fate.complaint or outbox.c.last_error,
            "first_error": func.coalesce(outbox.c.first_error, fate.complaint or None),
        }
        if fate.is_barrier:
            values["mergeable"] = False
        connection.execute(
            update(outbox).where(outbox.c.id.in_(ids), row_guard(event)).values(**values)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fate:
    """What becomes of rows that go back; rows of one fate are written by one statement."""

    due_at: int
    charged: bool
    spared: bool
    is_behind: bool
    is_barrier: bool
    complaint: str


def _fate(settlement: Settlement, now: int) -> _Fate:
    return _Fate(
        # What stands behind waits for its head and not for a time, so that they go together again.
        due_at=now if settlement.is_behind else now + (settlement.requeue_ms or 0),
        charged=settlement.charged,
        spared=settlement.spared,
        is_behind=settlement.is_behind,
        is_barrier=settlement.is_barrier,
        complaint=said(settlement),
    )


def _say_the_rest(connection: Connection, settlement: Settlement) -> None:
    """Of a row that broke a circle, what was left out is an update of the record that is there now."""
    connection.execute(
        update(outbox)
        .where(outbox.c.id == settlement.row.id, row_guard(RowEvent.REQUEUE))
        .values(operation=str(Operation.UPDATE), fields=settlement.remainder)
    )


def _stop(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Rows that a person must decide on rest, with what the portal said."""
    for settlement in settlements:
        if settlement.stopped:
            hold_for_person(
                connection, settlement, attempts=int(settlement.charged), event=RowEvent.STOP
            )


def hold_for_person(
    connection: Connection, settlement: Settlement, *, attempts: int, event: RowEvent
) -> None:
    """Hold one row until a person decides what becomes of it.

    Writes: outbox, to held.
    """
    complaint = said(settlement)
    connection.execute(
        update(outbox)
        .where(outbox.c.id == settlement.row.id, row_guard(event))
        .values(
            state=str(RowState.HELD),
            batch_id=None,
            cmd_no=None,
            state_reason=f"{STOPPED}{complaint}"[:255],
            attempts=outbox.c.attempts + attempts,
            last_error=complaint,
            first_error=func.coalesce(outbox.c.first_error, complaint),
        )
    )


def _leave_in_doubt(
    connection: Connection, batch_id: int, settlements: Sequence[Settlement]
) -> None:
    ids = [settlement.row.id for settlement in settlements if settlement.in_doubt]
    if not ids:
        return
    reasons = {s.row.id: (s.error_text or "no answer")[:255] for s in settlements if s.in_doubt}
    quiet_until = select(batch.c.quiet_until).where(batch.c.id == batch_id).scalar_subquery()
    connection.execute(
        update(outbox)
        .where(outbox.c.id.in_(ids), row_guard(RowEvent.LOSE))
        .values(
            state=str(RowState.DOUBT),
            losses=outbox.c.losses + 1,
            due_at=quiet_until,
            state_reason=case(reasons, value=outbox.c.id),
            last_error=case(reasons, value=outbox.c.id),
            first_error=func.coalesce(outbox.c.first_error, case(reasons, value=outbox.c.id)),
        )
    )


_FINISH = delete(outbox).where(
    among(outbox.c.id, bindparam("ids", type_=Listed())),
    outbox.c.batch_id == bindparam("number"),
    row_guard(RowEvent.FINISH),
)


def _finish(
    connection: Connection,
    batch_id: int,
    settlements: Sequence[Settlement],
    known: Sequence[Settlement],
) -> None:
    """Finished rows leave; the next change of their entity may go, and what waits for it."""
    finished = [settlement.row for settlement in settlements if settlement.final]
    if finished:
        ids = [row.id for row in finished]
        left = connection.execute(_FINISH, {"ids": ids, "number": batch_id})
        if left.rowcount != len(finished):
            raise Raced
    told = [(s.row.kind, s.row.key) for s in (*known, *_lost(settlements))]
    gone = [(row.kind, row.key) for row in finished]
    if told or gone:
        release(connection, settlements[0].row.portal, gone=gone, known=told)


def tell_children(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Rows that wait for an entity that gets no id by this look anew at what they wait for.

    Writes: outbox, held to ready.
    """
    release_waiting(connection, _lost(settlements))


def _lost(settlements: Sequence[Settlement]) -> list[Settlement]:
    return [
        s
        for s in settlements
        if s.final and (s.outcome in CAME_TO_NOTHING or s.row.operation is Operation.DELETE)
    ]
