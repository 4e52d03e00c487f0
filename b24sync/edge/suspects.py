"""Rows that a worker was busy with when it vanished, so that the one to blame is found.

A worker may die before anything is written down of the rows that it has read: one of them may be
too large for its memory. So where the last owner of a lane did not come back, the next one writes
down which rows it is going to read before it reads them. If it dies as well, those are charged.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, case, select, update

from b24sync.core import losses
from b24sync.core.model import RowState
from b24sync.edge.database import now_ms
from b24sync.edge.lanes import Lane
from b24sync.edge.tables import outbox, written


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row that is next in its lane, without what it says."""

    id: int
    losses: int


def next_rows(
    connection: Connection, mine: Lane, *, limit: int, kinds: Sequence[str] = ()
) -> tuple[Suspect, ...]:
    """The rows of a lane that are read next, without reading them.

    Shape: at most ``limit``; those that go before all others first, then by priority and id.
    Writes: nothing.
    """
    due = (
        select(outbox.c.id, outbox.c.losses)
        .where(
            outbox.c.portal == mine.tenant.code,
            outbox.c.lane == mine.lane,
            outbox.c.state == written(RowState.READY),
            outbox.c.due_at <= now_ms(),
        )
        .order_by(outbox.c.priority, outbox.c.id)
        .limit(limit)
    )
    if kinds:
        due = due.where(outbox.c.kind.in_(kinds))
    if mine.first_rows:
        first = _read(connection, due.where(outbox.c.id.in_(mine.first_rows)))
        if first:
            return tuple(sorted(first, key=lambda row: mine.first_rows.index(row.id)))
    return _read(connection, due)


def _read(connection: Connection, statement: Select[int, int]) -> tuple[Suspect, ...]:
    found = connection.execute(statement)
    return tuple(Suspect(id=row_id, losses=lost) for row_id, lost in found)


def charge(connection: Connection, where: ColumnElement[bool]) -> int:
    """Charge rows with a worker that vanished; how many.

    Writes: outbox.
    """
    lost, weight = outbox.c.losses, losses.CRASH_WEIGHT
    grown = case(
        # Once, a worker may die of anything: a deployment is no accusation.
        (lost == 0, 1),
        (lost + weight < losses.ALONE, lost + weight),
        (lost < losses.ALONE, losses.ALONE),
        else_=lost + 1,
    )
    return connection.execute(update(outbox).where(where).values(losses=grown)).rowcount


def charge_noted(connection: Connection, ids: Collection[int]) -> int:
    """Charge the rows that a vanished worker was going to read; how many were still there to be.

    Rows that it had put into a batch are charged with the batch.
    Writes: outbox.
    """
    return charge(
        connection, (outbox.c.id.in_(sorted(ids))) & (outbox.c.state == written(RowState.READY))
    )


def charge_unanswered(connection: Connection, ids: Collection[int]) -> None:
    """Charge rows about which a question was lost.

    Writes: outbox.
    """
    if ids:
        connection.execute(
            update(outbox)
            .where(outbox.c.id.in_(sorted(ids)), outbox.c.state == written(RowState.READY))
            .values(losses=outbox.c.losses + 1)
        )
