"""Commands in doubt: read when the portal has surely stopped, written when it is known what became.

A batch in doubt is closed as reconciled when none of its rows is left in it. Until then a late
answer still counts: both are fenced by the state of the batch.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, or_, select, update

from b24sync.core.doubts import Doubted
from b24sync.core.lifecycle import BatchEvent, batch_sources
from b24sync.core.model import BatchState, Operation, RowState
from b24sync.core.settlement import Settlement
from b24sync.edge.database import now_ms
from b24sync.edge.guards import batch_guard, of_entities, row_of
from b24sync.edge.lanes import Lane
from b24sync.edge.settling import Sent, still_in, write_out
from b24sync.edge.tables import batch, outbox, written

MOST_BATCHES = 10
"""How many batches in doubt one look takes up; a lane has rarely more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """A command in doubt, the batch that it is in, and what the row says of such a case."""

    batch_id: int
    command: Doubted
    policy: str | None


def read_doubts(
    connection: Connection,
    mine: Lane,
    *,
    limit: int,
    told: Collection[tuple[str, str]] = (),
) -> tuple[InDoubt, ...]:
    """Commands of this lane that are in doubt and that the portal has surely stopped working on.

    Shape: at most ``limit``, the oldest batch first. Entities that the portal has ``told`` something
    about are among them, although their batch was put off when it was asked.
    Writes: nothing, but a batch in doubt without rows, which is closed.
    """
    is_due = batch.c.quiet_until <= now_ms()
    if told:
        answered = select(outbox.c.batch_id).where(
            outbox.c.portal == mine.tenant.code,
            of_entities(outbox.c.kind, outbox.c.entity_key, told),
            outbox.c.state == written(RowState.DOUBT),
        )
        is_due = or_(is_due, batch.c.id.in_(answered))
    found = connection.execute(
        select(batch.c.id, batch.c.plan)
        .where(
            batch.c.portal == mine.tenant.code,
            batch.c.lane == mine.lane,
            batch.c.closed_at.is_(None),
            batch.c.state == str(BatchState.DOUBT),
            is_due,
        )
        .order_by(batch.c.id)
        .limit(MOST_BATCHES)
    ).all()
    doubts: list[InDoubt] = []
    for number, plan in found:
        rows = _rows(connection, number)
        if not rows:
            close(connection, number)
        doubts += _commands(number, plan, rows)
    return tuple(doubts[:limit])


def _rows(connection: Connection, number: int) -> Sequence[RowMapping]:
    there = select(outbox).where(
        outbox.c.batch_id == number, outbox.c.state == written(RowState.DOUBT)
    )
    return connection.execute(there.order_by(outbox.c.id)).mappings().all()


def _commands(number: int, plan: object, rows: Sequence[RowMapping]) -> list[InDoubt]:
    """The commands of a batch of which rows are in doubt, as the journal has them."""
    by_place: dict[int, list[RowMapping]] = {}
    for row in rows:
        by_place.setdefault(row["cmd_no"], []).append(row)
    # By their rows and not by their place: some databases put the keys of an object in another order.
    written = cast("Mapping[str, Mapping[str, Any]]", plan)
    entries = {row_id: entry for entry in written.values() for row_id in entry["rows"]}
    return [
        InDoubt(
            batch_id=number,
            command=_doubted(entries.get(there[0]["id"], {}), place, there),
            policy=there[0]["doubt_policy"],
        )
        for place, there in sorted(by_place.items())
    ]


def _doubted(entry: Mapping[str, Any], place: int, rows: Sequence[RowMapping]) -> Doubted:
    """One command; what its journal does not say, as an older version's, is taken with care."""
    said = tuple(row_of(row) for row in rows)
    ids = [row.id for row in said]
    lead: int | None = entry.get("lead")
    return Doubted(
        rows=said,
        operation=Operation(entry.get("operation", said[0].operation)),
        method=entry.get("method", said[0].method or ""),
        cmd_no=place,
        # Of rows that a person took away meanwhile, the first that is left leads.
        lead=lead if lead in ids else ids[0],
        marker=entry.get("marker"),
        repeatable=bool(entry.get("repeatable")),
        # What carries a marker has an id.
        is_linked=bool(entry.get("linked", True)),
        left_out=frozenset(entry.get("left_out") or ()),
    )


def reconcile(connection: Connection, batch_id: int, settlements: Sequence[Settlement]) -> bool:
    """Write what is known by now of the rows of a command in doubt.

    ``False``, nothing was written: a late answer was first, or somebody took one of the rows away,
    and the others are to be decided without it.
    Writes, under the guard of the batch's state: batch; result; outbox; dead; link; rollup.
    """
    fence = connection.execute(
        select(batch.c.state, batch.c.sending_at, now_ms())
        .where(batch.c.id == batch_id)
        .with_for_update()
    ).one()
    if BatchState(fence[0]) not in batch_sources(BatchEvent.RECONCILE):
        return False
    there = still_in(connection, batch_id, settlements)
    if len(there) < len(settlements):
        return False
    write_out(connection, Sent(batch_id=batch_id, sent_at=fence[1]), there, int(fence[2]))
    if not _rows(connection, batch_id):
        close(connection, batch_id)
    return True


def put_off(connection: Connection, batch_ids: Collection[int], *, rest_ms: int) -> None:
    """Leave batches alone for a while that are still in doubt.

    Units: milliseconds from now.
    Writes: batch and outbox, when they are due.
    """
    later = now_ms() + rest_ms
    connection.execute(
        update(batch)
        .where(batch.c.id.in_(batch_ids), batch_guard(BatchEvent.RECONCILE))
        .values(quiet_until=later)
    )
    connection.execute(
        update(outbox)
        .where(outbox.c.batch_id.in_(batch_ids), outbox.c.state == written(RowState.DOUBT))
        .values(due_at=later)
    )


def close(connection: Connection, batch_id: int) -> None:
    """Close a batch of which nothing is in doubt any more.

    Writes: batch, doubt to reconciled.
    """
    connection.execute(
        update(batch)
        .where(batch.c.id == batch_id, batch_guard(BatchEvent.RECONCILE))
        .values(state=str(BatchState.RECONCILED), closed_at=now_ms())
    )
