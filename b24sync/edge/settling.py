"""What became of the rows is written back, under the fence of their batch.

``settle`` is one transaction for all rows of a batch: results, links, dead letters, and the moves
of the rows themselves. ``set_aside`` does the same for rows that a plan did not send.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, case, delete, func, select, update

from b24sync.core.lifecycle import BatchEvent, RowEvent, batch_sources
from b24sync.core.model import (
    BatchState,
    Closing,
    Plan,
    Refusal,
    ResultOutcome,
    Row,
    RowState,
)
from b24sync.core.settlement import Settlement
from b24sync.edge.database import now_ms
from b24sync.edge.guards import Raced, batch_guard, row_guard
from b24sync.edge.links import remember
from b24sync.edge.results import bury, count, insert_results, result_row, said
from b24sync.edge.tables import batch, outbox
from b24sync.edge.waiting import hold, postpone, release_parked


def settle(
    connection: Connection,
    batch_id: int,
    settlements: Sequence[Settlement],
    *,
    http_status: int | None,
) -> bool:
    """Write what became of every row of a batch; ``False``, it was recorded before.

    Writes, under the guard of the batch's state: batch; result; outbox; dead; link; rollup.
    """
    fence = connection.execute(
        select(batch.c.state, batch.c.sending_at, now_ms())
        .where(batch.c.id == batch_id)
        .with_for_update()
    ).one()
    state, sent_at, now = fence[0], fence[1], int(fence[2])
    if BatchState(state) not in batch_sources(BatchEvent.SETTLE):
        _keep_late(connection, batch_id, settlements)
        return False
    settlements = _still_in(connection, batch_id, settlements)
    in_doubt = any(settlement.in_doubt for settlement in settlements)
    _answer(connection, batch_id, in_doubt=in_doubt, http_status=http_status)
    insert_results(
        connection,
        [
            result_row(settlement, batch_id, http_status, sent_at)
            for settlement in settlements
            if settlement.outcome is not None
        ],
    )
    for settlement in settlements:
        if settlement.bury_reason is not None:
            bury(connection, settlement)
    remember(connection, settlements, now)
    _requeue(connection, settlements, now)
    _leave_in_doubt(connection, batch_id, settlements)
    _finish(connection, settlements)
    count(connection, settlements, now)
    return True


def _keep_late(connection: Connection, batch_id: int, settlements: Sequence[Settlement]) -> None:
    """An answer that came after its batch was closed is kept for comparison, and changes nothing."""
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


def _still_in(
    connection: Connection, batch_id: int, settlements: Sequence[Settlement]
) -> tuple[Settlement, ...]:
    """The rows that are still in the batch.

    Of a batch in doubt some may be settled already; and a row that a person took out of the table
    must not cost its neighbours their answers. Locked, so that none is taken out from here on.
    """
    still_in = select(outbox.c.id).where(outbox.c.batch_id == batch_id).order_by(outbox.c.id)
    there = set(connection.execute(still_in.with_for_update()).scalars())
    return tuple(settlement for settlement in settlements if settlement.row.id in there)


def _answer(
    connection: Connection, batch_id: int, *, in_doubt: bool, http_status: int | None
) -> None:
    values: dict[str, object] = {"answered_at": now_ms(), "http_status": http_status}
    if in_doubt:
        values["state"] = str(BatchState.DOUBT)
    else:
        values |= {"state": str(BatchState.ANSWERED), "closed_at": now_ms()}
    moved = connection.execute(
        update(batch).where(batch.c.id == batch_id, batch_guard(BatchEvent.SETTLE)).values(**values)
    )
    if moved.rowcount != 1:
        raise Raced


def _requeue(connection: Connection, settlements: Sequence[Settlement], now: int) -> None:
    """Rows that try again; those with the same fate are one statement."""
    groups: dict[tuple[int, bool, bool, str], list[int]] = {}
    for settlement in settlements:
        if settlement.requeue_ms is not None:
            fate = (
                settlement.requeue_ms,
                settlement.charged,
                settlement.spared,
                said(settlement),
            )
            groups.setdefault(fate, []).append(settlement.row.id)
    for (delay_ms, charged, spared, complaint), ids in groups.items():
        connection.execute(
            update(outbox)
            .where(outbox.c.id.in_(ids), row_guard(RowEvent.REQUEUE))
            .values(
                state=str(RowState.READY),
                batch_id=None,
                cmd_no=None,
                state_reason=None,
                due_at=now + delay_ms,
                attempts=outbox.c.attempts + int(charged),
                not_runs=outbox.c.not_runs + int(spared),
                last_error=complaint or outbox.c.last_error,
                first_error=func.coalesce(outbox.c.first_error, complaint or None),
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
            due_at=quiet_until,
            state_reason=case(reasons, value=outbox.c.id),
            last_error=case(reasons, value=outbox.c.id),
            first_error=func.coalesce(outbox.c.first_error, case(reasons, value=outbox.c.id)),
        )
    )


def _finish(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Finished rows leave, and the next change of their entity may go."""
    finished = [settlement.row for settlement in settlements if settlement.final]
    if not finished:
        return
    left = connection.execute(
        delete(outbox).where(
            outbox.c.id.in_([row.id for row in finished]), row_guard(RowEvent.FINISH)
        )
    )
    if left.rowcount != len(finished):
        raise Raced
    release_parked(connection, finished[0].portal, [(row.kind, row.key) for row in finished])


def set_aside(connection: Connection, plan: Plan, rows: Mapping[int, Row]) -> None:
    """Write what a plan says of rows that are not sent.

    Writes: outbox (held, postponed), and result, dead, outbox for rows that end here.
    """
    hold(connection, plan.waiting)
    postpone(connection, plan.postponed)
    ended = [_refused(refusal, rows) for refusal in plan.refusals]
    ended += [_closed(closing, rows) for closing in plan.closing]
    _end_unsent(connection, ended)


def _refused(refusal: Refusal, rows: Mapping[int, Row]) -> Settlement:
    return Settlement(
        row=rows[refusal.row_id],
        outcome=ResultOutcome.FAILED,
        method="",
        cmd_no=0,
        final=True,
        error_code=refusal.code,
        error_text=f"{refusal.field}: {refusal.reason}",
        error_class="refused",
        bury_reason="refused",
    )


def _closed(closing: Closing, rows: Mapping[int, Row]) -> Settlement:
    return Settlement(
        row=rows[closing.row_id], outcome=closing.outcome, method="", cmd_no=0, final=True
    )


def _end_unsent(connection: Connection, ended: Sequence[Settlement]) -> None:
    """Rows that end without having been in a batch."""
    if not ended:
        return
    insert_results(connection, [result_row(s, None, None, None) for s in ended])
    for settlement in ended:
        if settlement.bury_reason is not None:
            bury(connection, settlement)
    rows = [settlement.row for settlement in ended]
    left = connection.execute(
        delete(outbox).where(outbox.c.id.in_([row.id for row in rows]), row_guard(RowEvent.CLOSE))
    )
    if left.rowcount != len(rows):
        raise Raced
    release_parked(connection, rows[0].portal, [(row.kind, row.key) for row in rows])
    now = int(connection.execute(select(now_ms())).scalar_one())
    count(connection, ended, now)
