"""What becomes of rows that are not sent: they wait, or end here.

A plan refuses rows, closes them, or lets them wait; rows that were lost too often are given up
without being read. What ends here has its result and leaves in the same transaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, delete, select

from b24sync.core.lifecycle import RowEvent
from b24sync.core.losses import complaint
from b24sync.core.model import Closing, Plan, Refusal, ResultOutcome, Row
from b24sync.core.planning import LOST
from b24sync.core.settlement import Settlement
from b24sync.edge.database import now_ms
from b24sync.edge.guards import Raced, row_guard, row_of
from b24sync.edge.results import bury, count, insert_results, result_row
from b24sync.edge.settling import hold_for_person, tell_children
from b24sync.edge.tables import outbox
from b24sync.edge.waiting import hold, postpone, release_parked

PARENT_FAILED = "parent_failed"
"""Code and reason of a row that was given up with the entity that it refers to."""

_REASONS = frozenset({PARENT_FAILED, LOST})
"""Codes of refusals that are reasons of their own: it is not the row's words that are wrong."""


def set_aside(connection: Connection, plan: Plan, rows: Mapping[int, Row]) -> None:
    """Write what a plan says of rows that are not sent.

    Writes: outbox (held, postponed), and result, dead, outbox for rows that end here.
    """
    if plan.waiting:
        hold(connection, rows[plan.waiting[0].row_id].portal, plan.waiting)
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
    tell_children(connection, ended)
    now = int(connection.execute(select(now_ms())).scalar_one())
    count(connection, ended, now)
