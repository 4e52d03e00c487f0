"""Held rows: shown to people, and decided on by them.

A row is held because it waits for another entity's id, or because the portal refused it in the halt
mode ``strict`` and its lane stands still. A person may say that it was done by hand (``settle``),
give it up for now (``skip``) or for good (``drop``), or have it tried again (``retry``). Each is one
transaction, guarded by the row's state: a row that went on meanwhile is left alone. With the row's
end go on whatever stood behind it: its lane, later changes of its entity, rows that waited for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from b24sync.core import refs
from b24sync.core.errors import ChangeError
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind
from b24sync.core.lifecycle import RowEvent
from b24sync.core.model import Operation, ResultOutcome, Row, RowState
from b24sync.core.settlement import Settlement
from b24sync.edge import adopting, taking, tenants
from b24sync.edge.adopting import KnownRecord
from b24sync.edge.database import now_ms
from b24sync.edge.guards import Raced, row_guard, row_of
from b24sync.edge.links import forget_sent, remember
from b24sync.edge.results import bury, count, insert_results, result_row
from b24sync.edge.settling import STOPPED
from b24sync.edge.tables import dead, lane, outbox, result, written
from b24sync.edge.waiting import release_for, release_parked

PERSON = "person"
"""The class of a result that no portal judged and a person decided."""

SKIPPED = "skipped"
"""The reason of a dead letter that a person made of a held row."""

UNKNOWN = "unknown"
"""The class of a result of which nobody knows what the portal did."""

MAKES = frozenset({Operation.ADD, Operation.UPSERT})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRow:
    """One held row, as people see it.

    Shape: ``reason`` is what it is held for. ``waits_for`` is another entity, kind and key.
    ``is_stopped``: a person must decide; ``stops_lane``: and its lane stands still until then.
    ``is_unsure``: it was sent, its answer was lost, and it may have been done. ``said`` is the last
    complaint.
    Units: ``age_ms`` since it was written and ``stopped_ms`` since it was stopped, milliseconds.
    """

    id: int
    portal: str
    lane: int
    kind: str
    key: str
    operation: str
    fields: tuple[str, ...]
    reason: str
    waits_for: str | None
    is_stopped: bool
    stops_lane: bool
    is_unsure: bool
    said: str | None
    attempts: int
    age_ms: int
    stopped_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a held row, and what goes on now.

    Shape: ``outcome`` is the final one, ``None`` for a row that is ready again. ``behind`` are
    later rows of its entity and ``waiting`` rows that waited for it, as many as were released.
    ``lane_goes_on``: it stood still for this row.
    """

    row: Row
    outcome: ResultOutcome | None
    remote_id: str | None = None
    dead_letter: int | None = None
    behind: int = 0
    waiting: int = 0
    lane_goes_on: bool = False


def held_rows(
    connection: Connection,
    *,
    portal: str | None = None,
    ids: Sequence[int] | None = None,
    limit: int | None = None,
) -> tuple[HeldRow, ...]:
    """The held rows: first those that stop a lane, then the oldest.

    Writes: nothing.
    """
    stopped = (
        result.c.portal == outbox.c.portal,
        result.c.kind == outbox.c.kind,
        result.c.entity_key == outbox.c.entity_key,
        result.c.outbox_id == outbox.c.id,
        result.c.outcome == ResultOutcome.STOPPED,
    )
    stopped_at = select(func.max(result.c.finished_at)).where(*stopped).scalar_subquery()
    sort = select(result.c.error_class).where(*stopped).order_by(result.c.id.desc()).limit(1)
    stops_lane = exists(
        select(literal(1)).where(
            lane.c.portal == outbox.c.portal,
            lane.c.lane == outbox.c.lane,
            lane.c.stopped_by == outbox.c.id,
        )
    ).label("stops_lane")
    statement = (
        select(
            outbox,
            stops_lane,
            stopped_at.label("stopped_at"),
            sort.scalar_subquery().label("sort"),
            now_ms().label("now"),
        )
        .where(outbox.c.state == written(RowState.HELD))
        .order_by(stops_lane.desc(), outbox.c.id)
        .limit(limit)
    )
    if portal is not None:
        statement = statement.where(outbox.c.portal == portal)
    if ids is not None:
        statement = statement.where(outbox.c.id.in_(ids))
    return tuple(_held(found) for found in connection.execute(statement).mappings())


def _held(found: RowMapping) -> HeldRow:
    fields, stopped_at = found["fields"], found["stopped_at"]
    reason: str = found["state_reason"] or "held by a person"
    return HeldRow(
        id=found["id"],
        portal=found["portal"],
        lane=found["lane"],
        kind=found["kind"],
        key=found["entity_key"],
        operation=found["operation"],
        fields=tuple(fields) if refs.is_mapping(fields) else (),
        reason=reason,
        waits_for=found["waits_for"],
        is_stopped=reason.startswith(STOPPED),
        stops_lane=bool(found["stops_lane"]),
        is_unsure=reason.startswith(STOPPED) and found["sort"] == UNKNOWN,
        said=found["last_error"],
        attempts=found["attempts"],
        age_ms=max(0, found["now"] - found["created_at"]),
        stopped_ms=None if stopped_at is None else max(0, found["now"] - stopped_at),
    )


def state_of(connection: Connection, row_id: int) -> RowState | None:
    """Where a row stands; ``None``, there is no unfinished one of this number.

    Writes: nothing.
    """
    state = connection.execute(select(outbox.c.state).where(outbox.c.id == row_id)).scalar()
    return None if state is None else RowState(state)


def settle(
    connection: Connection, row_id: int, *, kinds: Mapping[str, Kind], remote_id: str | None = None
) -> Decision | None:
    """End a row that a person has done on the portal by hand; ``None``, it is not held.

    A record that was made by hand is linked, so that later changes find it and nobody makes it a
    second time.

    Shape: ``remote_id`` is the record's id, needed for an add or upsert of an entity without a link;
    ``kinds`` are those declared in the settings.
    Raises: ChangeError, and nothing is written: the id is missing, makes no sense for this row, or
    belongs to another key, or the key to another id. sqlalchemy.exc.IntegrityError if a worker
    gives the id to another key at the same moment.
    Writes: link; result; outbox; lane; rollup.
    """
    found = _locked(connection, row_id)
    if found is None:
        return None
    row = row_of(found)
    kind = find_kind(row.kind, kinds)
    is_linked = kind is not None and kind.linked
    done = Settlement(
        row=row,
        outcome=ResultOutcome.APPLIED,
        method="",
        cmd_no=0,
        final=True,
        remote_id=_linked(connection, row, remote_id, makes=is_linked and row.operation in MAKES),
        error_class=PERSON,
        link_deleted=is_linked and row.operation is Operation.DELETE,
    )
    remember(connection, [done], tenants.clock(connection))
    # What the record holds by now was not said by this package.
    forget_sent(connection, [row])
    return _ended(connection, done)


def skip(connection: Connection, row_id: int) -> Decision | None:
    """Give a row up as a dead letter, which can be replayed; ``None``, it is not held.

    Writes: dead; result; outbox; lane; rollup.
    """
    found = _locked(connection, row_id)
    if found is None:
        return None
    code, text = _complaint(connection, found)
    given_up = Settlement(
        row=row_of(found),
        outcome=ResultOutcome.FAILED,
        method="",
        cmd_no=0,
        final=True,
        error_code=code,
        error_text=text,
        error_class=PERSON,
        bury_reason=SKIPPED,
    )
    return _ended(connection, given_up)


def drop(connection: Connection, row_id: int) -> Decision | None:
    """End a row for good, as if nobody had wanted it; ``None``, it is not held.

    Writes: result; outbox; lane; rollup.
    """
    found = _locked(connection, row_id)
    if found is None:
        return None
    cancelled = Settlement(
        row=row_of(found),
        outcome=ResultOutcome.CANCELLED,
        method="",
        cmd_no=0,
        final=True,
        error_class=PERSON,
    )
    return _ended(connection, cancelled)


def retry(connection: Connection, row_id: int) -> Decision | None:
    """Make a row ready at once, before all others of its lane; ``None``, it is not held.

    One that waits for another entity looks anew at what it waits for. Its tries go on counting.
    Writes: outbox, held to ready; lane.
    """
    found = _locked(connection, row_id)
    if found is None:
        return None
    row = row_of(found)
    connection.execute(
        update(outbox)
        .where(outbox.c.id == row_id, row_guard(RowEvent.RELEASE))
        .values(state=str(RowState.READY), waits_for=None, state_reason=None, due_at=now_ms())
    )
    first = connection.execute(
        select(lane.c.first_rows).where(*_lane_of(row)).with_for_update()
    ).scalar()
    before = [number for number in first or () if number != row_id]
    connection.execute(update(lane).where(*_lane_of(row)).values(first_rows=[row_id, *before]))
    return Decision(row=row, outcome=None, lane_goes_on=_let_lane_go(connection, row))


def _locked(connection: Connection, row_id: int) -> RowMapping | None:
    """A held row, kept from everybody else until the transaction ends."""
    held = select(outbox).where(outbox.c.id == row_id, outbox.c.state == written(RowState.HELD))
    return connection.execute(held.with_for_update()).mappings().first()


def _linked(connection: Connection, row: Row, remote_id: str | None, *, makes: bool) -> str | None:
    """The id of the record that a person made, linked; without one, that of the link.

    A link that somebody writes meanwhile is never written over.
    """
    about = KnownRecord(row.kind, row.key, remote_id or "")
    known = adopting.read_known(connection, row.portal, [about])
    has = known.ids.get(about.entity)
    if not makes:
        if remote_id is not None:
            raise _refused(row, "an id belongs to an add or upsert of a kind that has records")
        return has
    if remote_id is None:
        if has is None:
            raise _refused(
                row, "which record was made? give its id, or the next change makes another"
            )
        return has
    holder = known.holders.get(about.record, row.key)
    if holder != row.key:
        raise _refused(row, f"record {remote_id} is linked to {row.kind} {holder} already")
    if has not in (None, remote_id):
        raise _refused(row, f"it is linked to record {has} already; is it that one, give no id")
    if has is None:
        write = adopting.fill_links if about.entity in known.ids else adopting.add_links
        write(connection, row.portal, [about])
        written = adopting.read_known(connection, row.portal, [about])
        if written.ids.get(about.entity) != remote_id:
            raise _refused(row, "somebody else linked it at the same moment; look, and try again")
    return remote_id


def _refused(row: Row, problem: str) -> ChangeError:
    return ChangeError("remote_id", problem, entity=f"{row.kind}:{row.key}")


def _complaint(connection: Connection, found: RowMapping) -> tuple[str | None, str | None]:
    """Code and text of the last complaint about a row; of one that was never sent, why it waits."""
    if found["waits_for"] is not None:
        return None, found["state_reason"]
    told = connection.execute(
        select(result.c.error_code, result.c.error_text)
        .where(
            result.c.portal == found["portal"],
            result.c.kind == found["kind"],
            result.c.entity_key == found["entity_key"],
            result.c.outbox_id == found["id"],
            result.c.outcome == ResultOutcome.STOPPED,
        )
        .order_by(result.c.id.desc())
        .limit(1)
    ).first()
    if told is not None:
        return told.error_code, told.error_text
    return None, found["last_error"] or found["state_reason"]


def _ended(connection: Connection, ended: Settlement) -> Decision:
    """Write the final result; the row leaves, and what stood behind it goes on."""
    row = ended.row
    insert_results(connection, [result_row(ended, None, None, None)])
    letter = None
    if ended.bury_reason is not None:
        bury(connection, ended)
        letter = _letter_of(connection, row)
    left = connection.execute(
        delete(outbox).where(outbox.c.id == row.id, row_guard(RowEvent.CLOSE))
    )
    if left.rowcount != 1:
        raise Raced
    waiting = release_for(connection, row.portal, [(row.kind, row.key)])
    behind = release_parked(connection, row.portal, [(row.kind, row.key)])
    count(connection, [ended], tenants.clock(connection))
    return Decision(
        row=row,
        outcome=ended.outcome,
        remote_id=ended.remote_id,
        dead_letter=letter,
        behind=behind,
        waiting=waiting,
        lane_goes_on=_let_lane_go(connection, row),
    )


def _letter_of(connection: Connection, row: Row) -> int | None:
    number: int | None = connection.execute(
        select(func.max(dead.c.id)).where(
            dead.c.portal == row.portal,
            dead.c.kind == row.kind,
            dead.c.entity_key == row.key,
            dead.c.outbox_id == row.id,
        )
    ).scalar()
    return number


def _lane_of(row: Row) -> tuple[ColumnElement[bool], ...]:
    return lane.c.portal == row.portal, lane.c.lane == row.lane


def _let_lane_go(connection: Connection, row: Row) -> bool:
    """Whether the lane stood still for this row; it is due if any of its rows are."""
    freed = connection.execute(
        update(lane).where(*_lane_of(row), lane.c.stopped_by == row.id).values(stopped_by=None)
    )
    taking.wake(connection, row.portal)
    return freed.rowcount == 1
