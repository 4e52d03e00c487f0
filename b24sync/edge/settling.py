"""What became of the rows is written back, under the fence of their batch.

``settle`` is one transaction for all rows of a batch: results, links, dead letters, and the moves
of the rows themselves. ``set_aside`` does the same for rows that a plan did not send.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, case, delete, func, select, update

from b24sync.core.lifecycle import BatchEvent, RowEvent, batch_sources
from b24sync.core.losses import complaint
from b24sync.core.model import (
    BatchState,
    Closing,
    Operation,
    Plan,
    Refusal,
    ResultOutcome,
    Row,
    RowState,
)
from b24sync.core.planning import LOST
from b24sync.core.settlement import Settlement
from b24sync.edge import duplicates
from b24sync.edge.database import now_ms
from b24sync.edge.duplicates import Found
from b24sync.edge.guards import Raced, batch_guard, row_guard, row_of
from b24sync.edge.links import remember
from b24sync.edge.results import bury, count, insert_results, result_row, said
from b24sync.edge.tables import batch, outbox
from b24sync.edge.waiting import hold, postpone, release_parked, release_waiting

STOPPED = "stopped: "
"""What the reason of a row begins with that a person must decide on."""

PARENT_FAILED = "parent_failed"
"""Code and reason of a row that was given up with the entity that it refers to."""

_REASONS = frozenset({PARENT_FAILED, LOST})
"""Codes of refusals that are reasons of their own: it is not the row's words that are wrong."""

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
) -> Settled:
    """Write what became of every row of a batch, unless it was recorded before.

    What comes too late, for the batch or for rows that were decided without it, is compared.
    Writes, under the guard of the batch's state: batch; result; outbox; dead; link; rollup;
    duplicate.
    """
    fence = connection.execute(
        select(batch.c.state, batch.c.sending_at, now_ms())
        .where(batch.c.id == batch_id)
        .with_for_update()
    ).one()
    state, sent_at, now = fence[0], fence[1], int(fence[2])
    if BatchState(state) not in batch_sources(BatchEvent.SETTLE):
        return _keep_late(connection, batch_id, settlements, now)
    answered, settlements = settlements, still_in(connection, batch_id, settlements)
    in_doubt = any(settlement.in_doubt for settlement in settlements)
    _answer(connection, batch_id, in_doubt=in_doubt, http_status=http_status)
    sent = Sent(batch_id=batch_id, sent_at=sent_at, http_status=http_status)
    found = write_out(connection, sent, settlements, now)
    if len(settlements) == len(answered):
        return Settled(recorded=True, duplicates=found)
    late = [settlement for settlement in answered if settlement not in settlements]
    compared = _keep_late(connection, batch_id, late, now)
    return replace(compared, recorded=True, duplicates=found + compared.duplicates)


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
    remember(connection, settlements, now)
    _requeue(connection, settlements, now)
    _stop(connection, settlements)
    _leave_in_doubt(connection, batch_id, settlements)
    _finish(connection, settlements)
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
    remember(connection, orphaned, now)
    return Settled(recorded=False, duplicates=found, orphaned=orphaned)


def still_in(
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
    _tell_children(connection, settlements)


def _tell_children(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Rows that wait for an entity that gets no id by this look anew at what they wait for."""
    lost = [
        s
        for s in settlements
        if s.final and (s.outcome in CAME_TO_NOTHING or s.row.operation is Operation.DELETE)
    ]
    release_waiting(connection, lost)


def set_aside(connection: Connection, plan: Plan, rows: Mapping[int, Row]) -> None:
    """Write what a plan says of rows that are not sent.

    Writes: outbox (held, postponed), and result, dead, outbox for rows that end here.
    """
    hold(connection, plan.waiting)
    postpone(connection, plan.postponed)
    ended = [refused(refusal, rows) for refusal in plan.refusals]
    for closing in plan.closing:
        ended += _closed(closing, rows)
    _end_unsent(connection, ended)


def give_up_unread(connection: Connection, ids: Sequence[int], *, stopping: bool = False) -> None:
    """Give up rows that end whoever reads them, without reading what they say.

    ``stopping``: they rest until a person decides instead.
    Writes: outbox, dead, result, rollup.
    """
    small = [column for column in outbox.c if column.name not in {"fields", "params", "headers"}]
    for row_id in ids:
        found = connection.execute(select(*small).where(outbox.c.id == row_id)).mappings().first()
        if found is not None:
            row = row_of({**found, "fields": None, "params": None, "headers": None})
            lost = Refusal(row_id=row_id, code=LOST, field="losses", reason=complaint(row))
            if stopping:
                stop_refused(connection, lost, {row_id: row})
            else:
                _end_unsent(connection, [refused(lost, {row_id: row})])


def stop_refused(connection: Connection, refusal: Refusal, rows: Mapping[int, Row]) -> None:
    """In the mode ``strict`` a row that cannot be said rests until a person decides.

    Writes: outbox, ready to held; result; rollup.
    """
    stopped = replace(
        refused(refusal, rows),
        outcome=ResultOutcome.STOPPED,
        final=False,
        bury_reason=None,
        stopped=True,
    )
    insert_results(connection, [result_row(stopped, None, None, None)])
    hold_for_person(connection, stopped, attempts=0, event=RowEvent.HOLD)
    now = int(connection.execute(select(now_ms())).scalar_one())
    count(connection, [stopped], now)


def refused(refusal: Refusal, rows: Mapping[int, Row]) -> Settlement:
    """A refusal as what is to be written."""
    return Settlement(
        row=rows[refusal.row_id],
        outcome=ResultOutcome.FAILED,
        method="",
        cmd_no=0,
        final=True,
        error_code=refusal.code,
        error_text=f"{refusal.field}: {refusal.reason}",
        error_class="refused",
        bury_reason=refusal.code if refusal.code in _REASONS else "refused",
    )


def _closed(closing: Closing, rows: Mapping[int, Row]) -> Iterator[Settlement]:
    yield Settlement(
        row=rows[closing.row_id], outcome=closing.outcome, method="", cmd_no=0, final=True
    )
    for row_id in closing.merged:
        yield Settlement(
            row=rows[row_id],
            outcome=ResultOutcome.MERGED,
            method="",
            cmd_no=0,
            final=True,
            merged_into=closing.row_id,
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
    _tell_children(connection, ended)
    now = int(connection.execute(select(now_ms())).scalar_one())
    count(connection, ended, now)
