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
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    SmallInteger,
    bindparam,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    union_all,
    update,
)

from b24sync.core.lifecycle import BatchEvent, RowEvent, row_sources
from b24sync.core.model import Batch, BatchState, Row, RowState
from b24sync.edge import lanes, suspects
from b24sync.edge.database import now_ms
from b24sync.edge.guards import (
    Raced,
    batch_guard,
    is_behind,
    is_followed,
    of_entities,
    row_guard,
    row_of,
)
from b24sync.edge.lanes import Lane
from b24sync.edge.links import forget_sent
from b24sync.edge.lists import Listed, Mapped, among, not_among, number_of
from b24sync.edge.results import count, insert_results, result_row, unknown
from b24sync.edge.tables import batch, outbox, written
from b24sync.edge.waiting import firsts, keep

MOST_FOLLOWERS = 5000
"""How many rows behind their heads one claim reads; bounds its time and memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What one look at a lane found.

    Shape: ``rows`` are the first unfinished ones of their entities, ``followed`` those of them with
    later rows behind them. ``more``: there may be more to read.
    """

    rows: tuple[Row, ...]
    followed: frozenset[int]
    more: bool


def read_heads(
    connection: Connection,
    mine: Lane,
    *,
    limit: int,
    without: Sequence[int] = (),
    kinds: Sequence[str] = (),
    only: Sequence[int] | None = None,
) -> Heads:
    """The next due rows of a lane of which each is the first unfinished of its entity.

    Shape: at most ``limit`` rows, by priority and id; or ``only`` these, all of them, in their order.
    Rows met on the way that stand behind an earlier row of their entity are parked, with all that
    stand there, so that they are met once. A less urgent row that they stand behind becomes as urgent
    as they are: what is urgent would wait for all that is as little urgent as it otherwise. Where the
    rows begin, the lane's owner remembers.
    Writes: outbox, ready to parked, and the priority of rows that others stand behind.
    """
    if kinds or without or only is not None:
        found = _read(
            connection,
            mine,
            _due_rows(kinds=bool(kinds), without=bool(without), only=only is not None),
            limit=limit if only is None else len(only),
            kinds=kinds,
            without=without,
            only=only,
        )
    else:
        found = _read_on(connection, mine, limit)
    heads = [row for row in found if not row["is_behind"]]
    _park(connection, mine, [row for row in found if row["is_behind"]], heads)
    if only is not None:
        places = {row_id: place for place, row_id in enumerate(only)}
        heads.sort(key=lambda row: places[row["id"]])
    return Heads(
        rows=tuple(row_of(row) for row in heads),
        followed=frozenset(row["id"] for row in heads if row["is_followed"]),
        more=len(found) == limit,
    )


def _read_on(connection: Connection, mine: Lane, limit: int) -> list[dict[str, Any]]:
    """The next due rows, from the floor of the lane if a whole batch stands there."""
    floor, now_s = mine.floor, monotonic()
    found: list[dict[str, Any]] = []
    holds = floor.holds(now_s)
    if holds:
        given = {"priority": floor.priority, "floor": floor.row_id}
        found = _read(connection, mine, _rows_from_floor(), limit=limit, **given)
    if len(found) < limit:
        holds = False
        found = _read(connection, mine, _due_rows(), limit=limit)
    if found:
        last = found[-1]["priority"]
        first = min(row["id"] for row in found if row["priority"] == last)
        floor.rise(last, first) if holds else floor.swept(now_s, last, first)
    return found


def _read(
    connection: Connection, mine: Lane, statement: Select[*tuple[Any, ...]], **given: object
) -> list[dict[str, Any]]:
    """Rows of a lane, as plain dicts: each is asked for two dozen names."""
    answer = connection.execute(statement, {"code": mine.tenant.code, "number": mine.lane, **given})
    names = tuple(answer.keys())
    return [dict(zip(names, row, strict=True)) for row in answer.all()]


@lru_cache
def _rows_from_floor() -> Select[*tuple[Any, ...]]:
    """The next due rows of a lane from its floor on; none, if more urgent ones wait.

    As one comparison of both columns: of two, a planner takes the one on the id to its own index,
    and reads the rows of all other portals there.
    """
    urgent = outbox.alias("urgent")
    is_urgent = (
        select(literal(1))
        .where(
            urgent.c.portal == bindparam("code"),
            urgent.c.lane == bindparam("number"),
            urgent.c.state == written(RowState.READY),
            urgent.c.priority < bindparam("priority"),
            urgent.c.due_at <= now_ms(),
        )
        .exists()
    )
    floor = tuple_(bindparam("priority"), bindparam("floor"), types=[SmallInteger(), BigInteger()])
    return _due_rows().where(tuple_(outbox.c.priority, outbox.c.id) >= floor, ~is_urgent)


@lru_cache
def _due_rows(
    *, kinds: bool = False, without: bool = False, only: bool = False
) -> Select[*tuple[Any, ...]]:
    """The next due rows of a lane; narrowed, if at all, by lists that are one parameter each."""
    statement = (
        select(
            outbox,
            is_behind().label("is_behind"),
            is_followed().label("is_followed"),
        )
        .where(
            outbox.c.portal == bindparam("code"),
            outbox.c.lane == bindparam("number"),
            outbox.c.state == written(RowState.READY),
            outbox.c.due_at <= now_ms(),
        )
        .order_by(outbox.c.priority, outbox.c.id)
        .limit(bindparam("limit", type_=Integer))
    )
    if kinds:
        statement = statement.where(among(outbox.c.kind, bindparam("kinds", type_=Listed())))
    if without:
        statement = statement.where(not_among(outbox.c.id, bindparam("without", type_=Listed())))
    if only:
        statement = statement.where(among(outbox.c.id, bindparam("only", type_=Listed())))
    return statement


def _park(
    connection: Connection,
    mine: Lane,
    behind: Sequence[Mapping[str, Any]],
    heads: Sequence[Mapping[str, Any]],
) -> None:
    """Rows that stand behind an earlier one are not met again before it is gone.

    What stands before them may be in another lane and about to leave: then they stay as they are.
    """
    if not behind:
        return
    all_of_them = {(row["kind"], row["entity_key"]) for row in behind}
    met = {(row["kind"], row["entity_key"]) for row in heads}
    # The most urgent stand first in what was read; a head that stands there too comes before them.
    urgent = {(row["kind"], row["entity_key"]): row["priority"] for row in reversed(behind)}
    _hurry(connection, mine, {entity: urgent[entity] for entity in sorted(all_of_them - met)})
    there = firsts(connection, mine.tenant.code, all_of_them)
    kept = keep(connection, there.values())
    entities = {entity for entity, first in there.items() if first in kept}
    if not entities:
        return
    more = connection.execute(
        select(outbox.c.id)
        .where(
            outbox.c.portal == mine.tenant.code,
            outbox.c.state == written(RowState.READY),
            of_entities(outbox.c.kind, outbox.c.entity_key, entities),
            is_behind(),
        )
        .limit(MOST_FOLLOWERS)
    ).scalars()
    ids = {row["id"] for row in behind if (row["kind"], row["entity_key"]) in entities}
    ids = (ids | set(more)) - kept
    connection.execute(
        update(outbox)
        # Not those that another lane's batch has taken along meanwhile.
        .where(outbox.c.id.in_(sorted(ids)), outbox.c.state == written(RowState.READY))
        .values(state=str(RowState.PARKED))
    )


def _hurry(connection: Connection, mine: Lane, urgent: Mapping[tuple[str, str], int]) -> None:
    """Let the first row of each of these entities be at least so urgent, whatever its state."""
    if not urgent:
        return
    each = [
        select(
            select(outbox.c.id, outbox.c.priority, literal(priority).label("urgent"))
            .where(
                outbox.c.portal == mine.tenant.code,
                outbox.c.kind == kind,
                outbox.c.entity_key == key,
            )
            .order_by(outbox.c.id)
            .limit(1)
            .subquery()
        )
        for (kind, key), priority in urgent.items()
    ]
    late: dict[int, list[int]] = {}
    for row_id, priority, wanted in connection.execute(union_all(*each)):
        if priority > wanted:
            late.setdefault(wanted, []).append(row_id)
    for wanted, ids in late.items():
        connection.execute(update(outbox).where(outbox.c.id.in_(ids)).values(priority=wanted))
        # Among the rows of their new priority they are old, and may stand before the floor.
        mine.floor.forget()


def read_followers(connection: Connection, heads: Sequence[Row]) -> Mapping[int, tuple[Row, ...]]:
    """The rows behind each of these that might go with it.

    Shape: by the id of the head, in their order, up to the first that may not move now; of all
    together at most ``MOST_FOLLOWERS``.
    Writes: nothing.
    """
    if not heads:
        return {}
    each = MOST_FOLLOWERS // len(heads)
    parts = [
        select(
            select(
                outbox,
                (outbox.c.due_at <= now_ms()).label("is_due"),
                literal(head.id).label("head"),
            )
            .where(
                outbox.c.portal == head.portal,
                outbox.c.kind == head.kind,
                outbox.c.entity_key == head.key,
                outbox.c.id > head.id,
            )
            .order_by(outbox.c.id)
            .limit(each)
            .subquery()
        )
        for head in heads
    ]
    behind: dict[int, list[Row]] = {}
    cut: set[int] = set()
    for row in connection.execute(union_all(*parts)).mappings():
        may_move = row["is_due"] and row["state"] in row_sources(RowEvent.CLAIM)
        if not may_move:
            cut.add(row["head"])
        elif row["head"] not in cut:
            behind.setdefault(row["head"], []).append(row_of(row))
    return {head: tuple(rows) for head, rows in behind.items()}


def first_in_doubt(connection: Connection, mine: Lane) -> int | None:
    """The first row of a lane of which nobody knows what became; ``None``, there is none.

    Writes: nothing.
    """
    doubted: int | None = connection.execute(
        select(func.min(outbox.c.id)).where(
            outbox.c.batch_id.in_(
                select(batch.c.id).where(
                    batch.c.portal == mine.tenant.code,
                    batch.c.lane == mine.lane,
                    batch.c.closed_at.is_(None),
                )
            ),
            outbox.c.state == written(RowState.DOUBT),
        )
    ).scalar()
    return doubted


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
            "lead": command.leads,
            "linked": command.linked,
            "repeatable": command.repeatable,
            "left_out": sorted(command.remainder or ()),
        }
        for label, command in zip(sent.labels, sent.commands, strict=True)
    }
    inserted = connection.execute(
        _JOURNAL,
        {
            "portal": mine.tenant.code,
            "lane": mine.lane,
            "lane_epoch": mine.epoch,
            "state": str(BatchState.JOURNALLED),
            "halt": sent.halt,
            "single": sent.single,
            "n_commands": len(sent.commands),
            "plan": plan,
            "request_hash": digest,
        },
    )
    key = inserted.inserted_primary_key
    if key is None:  # pragma: no cover - a table with one numbered key always returns it
        raise Raced
    number: int = key[0]
    places = {
        row_id: place for place, command in enumerate(sent.commands) for row_id in command.row_ids
    }
    moved = connection.execute(
        _BATCH_ROWS, {"ids": list(places), "places": places, "number": number}
    )
    if moved.rowcount != len(places) or not rows.keys() >= places.keys():
        raise Raced
    return number


_JOURNAL = insert(batch)

_BATCH_ROWS = (
    update(outbox)
    .where(among(outbox.c.id, bindparam("ids", type_=Listed())), row_guard(RowEvent.CLAIM))
    .values(
        state=str(RowState.BATCHED),
        state_reason=None,
        batch_id=bindparam("number"),
        cmd_no=number_of(outbox.c.id, bindparam("places", type_=Mapped())),
        deliveries=outbox.c.deliveries + 1,
    )
)


def go(
    connection: Connection, mine: Lane, batch_id: int, *, deadline_ms: int, quiet_ms: int
) -> bool:
    """Move a batch from journalled to sending; ``False``, it is not ours to send any more.

    Units: milliseconds from now until the request is given up, and until the portal has surely
    stopped working on it.
    Writes: batch, guarded by its state and the lane's epoch; the commit of this must be durable
    before the socket.
    """
    # The lane is looked at and not locked: whoever takes it from here on finds the batch, waits for
    # this to be committed, and puts it in doubt.
    moved = connection.execute(
        _GO,
        {
            "batch_id": batch_id,
            "deadline_ms": deadline_ms,
            "quiet_ms": quiet_ms,
            **lanes.owned(mine),
        },
    )
    return moved.rowcount == 1


_GO = (
    update(batch)
    .where(
        batch.c.id == bindparam("batch_id"),
        batch_guard(BatchEvent.GO),
        exists(select(literal(1)).where(lanes.OWNED)),
    )
    .values(
        state=str(BatchState.SENDING),
        sending_at=now_ms(),
        deadline_at=now_ms() + bindparam("deadline_ms", type_=BigInteger),
        quiet_until=now_ms() + bindparam("quiet_ms", type_=BigInteger),
    )
)


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
    forget_sent(connection, [each.row for each in lost])
    count(connection, lost, int(found[0]["now"]) if found else 0)
    return True


def recover(connection: Connection, batch_id: int) -> BatchState | None:
    """Deal with the open batch of an owner who went away.

    Shape: what became of it: returned if it was never sent, doubt if it may have been; ``None`` if
    it is closed already. Its rows are charged with the loss: one of them may have ended the owner.
    Writes: as ``give_back`` or ``doubt``.
    """
    rows = list(
        connection.execute(select(outbox.c.id).where(outbox.c.batch_id == batch_id)).scalars()
    )
    if give_back_unsent(connection, batch_id):
        suspects.charge(connection, outbox.c.id.in_(rows))
        return BatchState.RETURNED
    if doubt(connection, batch_id, reason="the worker went away before the answer"):
        suspects.charge(connection, outbox.c.batch_id == batch_id)
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
