"""Every statement that inserts, reads or moves outbox, batch, result, dead and link rows.

Theory. A row enters the outbox in the transaction of the application and leaves it in the
transaction that writes its final result; in between it is in exactly one state of the table of
moves in ``core.lifecycle``, whose guards the statements here repeat. The batch row is journal and
fence in one. Before anything is sent, one transaction writes what will be sent and puts the rows
into the batch (``journal``). As the last act before the socket, a compare-and-set moves the batch
from journalled to sending (``go``): whoever lost the lane in the meantime fails here and sends
nothing. When the answer is read, a compare-and-set from sending or doubt lets exactly one writer
record it (``settle``). The lease is deliberately not part of that last guard: an answer to *this*
batch is true, whoever owns the lane by then, and however late it came.

A statement that touches fewer rows than it should says so, and its transaction is undone.

Functions take the connection of a transaction that the caller began, so that what belongs together
is committed together; each says which table it writes.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, case, func, insert, select, update

from b24sync.core.lifecycle import BatchEvent, RowEvent
from b24sync.core.model import Batch, BatchState, Row, RowState
from b24sync.edge.database import now_ms
from b24sync.edge.guards import Raced, batch_guard, is_behind, row_guard, row_of
from b24sync.edge.lanes import Lane
from b24sync.edge.results import count, insert_results, result_row, unknown
from b24sync.edge.tables import batch, outbox


def read_heads(
    connection: Connection,
    mine: Lane,
    *,
    limit: int,
    without: Sequence[int] = (),
    kinds: Sequence[str] = (),
) -> tuple[tuple[Row, ...], bool]:
    """The next due rows of a lane of which each is the first unfinished of its entity.

    Shape: at most ``limit`` rows, by priority and id; and whether there may be more to read.
    Rows met on the way that stand behind an earlier row of their entity are parked, so that they
    are met once.
    Writes: outbox, ready to parked.
    """
    statement = (
        select(outbox, is_behind().label("is_behind"))
        .where(
            outbox.c.portal == mine.tenant.code,
            outbox.c.lane == mine.lane,
            outbox.c.state == RowState.READY,
            outbox.c.due_at <= now_ms(),
        )
        .order_by(outbox.c.priority, outbox.c.id)
        .limit(limit)
    )
    if kinds:
        statement = statement.where(outbox.c.kind.in_(kinds))
    if without:
        statement = statement.where(outbox.c.id.not_in(without))
    found = connection.execute(statement).mappings().all()
    behind = [row["id"] for row in found if row["is_behind"]]
    if behind:
        connection.execute(
            update(outbox)
            .where(outbox.c.id.in_(behind), row_guard(RowEvent.PARK))
            .values(state=str(RowState.PARKED))
        )
    heads = tuple(row_of(row) for row in found if not row["is_behind"])
    return heads, len(found) == limit


def journal(
    connection: Connection, mine: Lane, sent: Batch, rows: Mapping[int, Row], *, digest: str
) -> int:
    """Write down what is about to be sent, before it is; the id of the batch.

    Raises: Raced if a row is not ready any more.
    Writes: batch in journalled; outbox rows ready to batched, one delivery more.
    """
    plan = {
        label: {
            "method": command.method,
            "rows": list(command.row_ids),
            "kind": command.kind,
            "key": command.key,
            "operation": str(command.operation),
            "marker": command.marker,
        }
        for label, command in zip(sent.labels, sent.commands, strict=True)
    }
    inserted = connection.execute(
        insert(batch).values(
            portal=mine.tenant.code,
            lane=mine.lane,
            lane_epoch=mine.epoch,
            state=str(BatchState.JOURNALLED),
            halt=sent.halt,
            single=sent.single,
            n_commands=len(sent.commands),
            plan=plan,
            request_hash=digest,
        )
    )
    key = inserted.inserted_primary_key
    if key is None:  # pragma: no cover - a table with one numbered key always returns it
        raise Raced
    number: int = key[0]
    places = {
        row_id: place for place, command in enumerate(sent.commands) for row_id in command.row_ids
    }
    moved = connection.execute(
        update(outbox)
        .where(outbox.c.id.in_(list(places)), row_guard(RowEvent.CLAIM))
        .values(
            state=str(RowState.BATCHED),
            batch_id=number,
            cmd_no=case(places, value=outbox.c.id),
            deliveries=outbox.c.deliveries + 1,
        )
    )
    if moved.rowcount != len(places) or not places.keys() <= rows.keys():
        raise Raced
    return number


def go(connection: Connection, batch_id: int, *, deadline_ms: int, quiet_ms: int) -> bool:
    """Move a batch from journalled to sending; ``False``, it is not ours to send any more.

    Units: milliseconds from now until the request is given up, and until the portal has surely
    stopped working on it.
    Writes: batch, guarded by its state; the commit of this must be durable before the socket.
    """
    moved = connection.execute(
        update(batch)
        .where(batch.c.id == batch_id, batch_guard(BatchEvent.GO))
        .values(
            state=str(BatchState.SENDING),
            sending_at=now_ms(),
            deadline_at=now_ms() + deadline_ms,
            quiet_until=now_ms() + quiet_ms,
        )
    )
    return moved.rowcount == 1


def give_back(connection: Connection, batch_id: int, *, reason: str) -> bool:
    """Close a batch of which surely nothing was received, its rows ready again at no charge.

    Writes: batch to returned; outbox rows to ready.
    """
    moved = connection.execute(
        update(batch)
        .where(batch.c.id == batch_id, batch_guard(BatchEvent.RETURN))
        .values(state=str(BatchState.RETURNED), closed_at=now_ms(), error_class=reason)
    )
    if moved.rowcount != 1:
        return False
    connection.execute(
        update(outbox)
        .where(outbox.c.batch_id == batch_id, row_guard(RowEvent.REQUEUE))
        .values(
            state=str(RowState.READY),
            batch_id=None,
            cmd_no=None,
            last_error=reason,
            first_error=func.coalesce(outbox.c.first_error, reason),
        )
    )
    return True


def doubt(connection: Connection, batch_id: int, *, reason: str) -> bool:
    """Record that a batch was sent and that nobody knows what became of it.

    Writes: batch to doubt; outbox rows to doubt, due when the portal has surely stopped; result;
    rollup.
    """
    moved = connection.execute(
        update(batch)
        .where(batch.c.id == batch_id, batch_guard(BatchEvent.LOSE))
        .values(state=str(BatchState.DOUBT), error_class=reason[:64])
    )
    if moved.rowcount != 1:
        return False
    in_batch = outbox.c.batch_id == batch_id
    quiet_until = select(batch.c.quiet_until).where(batch.c.id == batch_id).scalar_subquery()
    connection.execute(
        update(outbox)
        .where(in_batch, row_guard(RowEvent.LOSE))
        .values(
            state=str(RowState.DOUBT),
            due_at=quiet_until,
            state_reason=reason[:255],
            last_error=reason,
            first_error=func.coalesce(outbox.c.first_error, reason),
        )
    )
    there = connection.execute(select(outbox, now_ms().label("now")).where(in_batch)).mappings()
    found = there.all()
    lost = [unknown(row, reason) for row in found]
    insert_results(connection, [result_row(each, batch_id, None, None) for each in lost])
    count(connection, lost, int(found[0]["now"]) if found else 0)
    return True


def recover(connection: Connection, batch_id: int) -> BatchState | None:
    """Deal with the open batch of an owner who went away.

    Shape: what became of it: returned if it was never sent, doubt if it may have been; ``None`` if
    it is closed already.
    Writes: as ``give_back`` or ``doubt``.
    """
    if give_back_unsent(connection, batch_id):
        return BatchState.RETURNED
    if doubt(connection, batch_id, reason="the worker went away before the answer"):
        return BatchState.DOUBT
    return None


def give_back_unsent(connection: Connection, batch_id: int) -> bool:
    """Close a batch that was journalled and never sent.

    Writes: as ``give_back``, from journalled only.
    """
    state = connection.execute(
        select(batch.c.state).where(batch.c.id == batch_id).with_for_update()
    ).scalar()
    if state != BatchState.JOURNALLED:
        return False
    return give_back(connection, batch_id, reason="the worker went away before sending")
