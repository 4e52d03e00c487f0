"""What is only ever added: results, dead letters, and counts per minute."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, case, func, insert, literal, select

from b24sync.core.model import ResultOutcome
from b24sync.core.settlement import Settlement
from b24sync.edge.database import insert_any_order, upsert
from b24sync.edge.guards import row_of
from b24sync.edge.tables import dead, outbox, result, rollup

TEXT_LENGTH = 4000
"""How much of a portal's complaint is kept."""


_INSERT_RESULTS = insert(result)


def insert_results(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Add result rows.

    Writes: result.
    """
    insert_any_order(connection, _INSERT_RESULTS, rows)


def result_row(
    settlement: Settlement, batch_id: int | None, http_status: int | None, sent_at: int | None
) -> dict[str, object]:
    """The result row of a settlement; ``sent_at`` by the database's clock."""
    row = settlement.row
    return {
        "outbox_id": row.id,
        "portal": row.portal,
        "kind": row.kind,
        "entity_key": row.key,
        "operation": str(row.operation),
        "method": settlement.method or None,
        "outcome": str(settlement.outcome),
        "final": settlement.final,
        "remote_id": settlement.remote_id,
        "error_code": _cut(settlement.error_code, 255),
        "error_text": _cut(settlement.error_text, TEXT_LENGTH),
        "error_class": settlement.error_class,
        "http_status": http_status,
        "attempt": row.attempts + int(settlement.charged),
        "batch_id": batch_id,
        "cmd_no": settlement.cmd_no if batch_id is not None else None,
        "merged_into": settlement.merged_into,
        "enqueued_at": row.enqueued_at_ms,
        "sent_at": sent_at,
        "duration_ms": settlement.duration_ms,
        "headers": row.headers,
    }


def unknown(found: RowMapping, reason: str) -> Settlement:
    """The settlement of an outbox row of which nobody knows what became."""
    return Settlement(
        row=row_of(found),
        outcome=ResultOutcome.UNKNOWN,
        method="",
        cmd_no=found["cmd_no"],
        error_class="unknown",
        error_text=reason,
    )


def _cut(text: str | None, length: int) -> str | None:
    return None if text is None else text.replace("\0", "")[:length]


def bury(connection: Connection, settlement: Settlement) -> None:
    """A row given up on rests in full among the dead; the caller removes it from the outbox."""
    copied = [
        column.name
        for column in dead.c
        if column.name in outbox.c and column.name not in {"id", "first_error", "last_error"}
    ]
    complaint = _cut(said(settlement), TEXT_LENGTH) or "?"
    fixed: dict[str, ColumnElement[object]] = {
        "outbox_id": outbox.c.id,
        "enqueued_at": outbox.c.created_at,
        "reason": literal((settlement.bury_reason or "")[:32]),
        "error_code": literal(_cut(settlement.error_code, 255) or ""),
        "first_error": func.coalesce(outbox.c.first_error, complaint),
        "last_error": literal(complaint),
        "attempts": outbox.c.attempts + int(settlement.charged),
    }
    columns = [name for name in copied if name not in fixed]
    connection.execute(
        insert(dead).from_select(
            [*columns, *fixed],
            select(*(outbox.c[name] for name in columns), *fixed.values()).where(
                outbox.c.id == settlement.row.id
            ),
        )
    )


def said(settlement: Settlement) -> str:
    """The complaint as one line, the portal's code first."""
    parts = (settlement.error_code, settlement.error_text)
    return ": ".join(part for part in parts if part) or (settlement.bury_reason or "")


def count(connection: Connection, settlements: Sequence[Settlement], now: int) -> None:
    """Add to the roll-ups, so that nobody has to count results."""
    counts: dict[str, list[int]] = {}
    for settlement in settlements:
        if settlement.outcome is not None:
            # A row may say anything of when it was written.
            latency = max(0, now - max(0, settlement.row.enqueued_at_ms))
            counts.setdefault(str(settlement.outcome), []).append(latency)
    if not counts:
        return
    code = settlements[0].row.portal
    upsert(
        connection,
        rollup,
        [
            {
                "portal": code,
                "minute": now - now % 60_000,
                "outcome": outcome,
                "n": len(latencies),
                "latency_sum_ms": sum(latencies),
                "latency_max_ms": max(latencies),
            }
            for outcome, latencies in sorted(counts.items())
        ],
        keys=("portal", "minute", "outcome"),
        update=_added,
    )


def _added(new: Callable[[str], Any]) -> Mapping[str, object]:
    most, own = rollup.c.latency_max_ms, new("latency_max_ms")
    return {
        "n": rollup.c.n + new("n"),
        "latency_sum_ms": rollup.c.latency_sum_ms + new("latency_sum_ms"),
        "latency_max_ms": case((most > own, most), else_=own),
    }
