"""What became of changes, and what is known of one entity: asked by people, read-only.

Ages are by the database's clock. Nothing here is used to decide what is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
)

from b24sync.core import refs
from b24sync.core.model import ResultOutcome, RowState
from b24sync.edge.database import now_ms
from b24sync.edge.tables import dead, lane, link, outbox, portal, result, written

TROUBLE = (
    ResultOutcome.FAILED,
    ResultOutcome.STOPPED,
    ResultOutcome.RETRIED,
    ResultOutcome.UNKNOWN,
    ResultOutcome.EXPIRED,
)
"""Outcomes that somebody may want to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """One result row.

    Units: ``*_at_ms`` epoch milliseconds; ``age_ms``, ``duration_ms`` and ``latency_ms``, from
    being written to the result, are milliseconds.
    """

    id: int
    finished_at_ms: int
    age_ms: int
    outbox_id: int
    portal: str
    kind: str
    key: str
    operation: str
    method: str | None
    outcome: str
    final: bool
    remote_id: str | None
    error_code: str | None
    error_text: str | None
    error_class: str | None
    http_status: int | None
    attempt: int
    batch_id: int | None
    merged_into: int | None
    latency_ms: int
    duration_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultChoice:
    """Which results are meant; every condition narrows. ``rows`` are those of the outbox.

    Units: ``since_ms`` milliseconds before now.
    """

    portal: str | None = None
    kind: str | None = None
    key: str | None = None
    outcomes: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    since_ms: int | None = None
    after_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowView:
    """One unfinished row of an entity; ``stops_lane``, nothing of its lane is sent before it.

    Units: ``due_in_ms`` milliseconds from now, negative in the past; ``age_ms`` since written.
    """

    id: int
    operation: str
    method: str | None
    fields: tuple[str, ...]
    state: str
    reason: str | None
    waits_for: str | None
    due_in_ms: int
    enqueued_at_ms: int
    age_ms: int
    attempts: int
    deliveries: int
    batch_id: int | None
    last_error: str | None
    stops_lane: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """What is known of an entity's record on the portal."""

    remote_id: str | None
    state: str
    generation: int
    duplicates: tuple[str, ...]
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the tables know of one entity; results and rows in the order they came about."""

    link: LinkView | None = None
    results: tuple[ResultView, ...] = ()
    rows: tuple[RowView, ...] = ()


def results(
    connection: Connection, choice: ResultChoice, *, limit: int | None = None
) -> tuple[ResultView, ...]:
    """The results that are meant, newest first.

    Writes: nothing.
    """
    statement = (
        select(result, now_ms().label("now"))
        .where(*_conditions(choice))
        .order_by(result.c.finished_at.desc(), result.c.id.desc())
        .limit(limit)
    )
    return tuple(_result(row) for row in connection.execute(statement).mappings())


def last_result_id(connection: Connection) -> int:
    """The newest result's id, to ask later for what came after it; 0 if there is none.

    Writes: nothing.
    """
    return connection.execute(select(func.max(result.c.id))).scalar() or 0


def outcomes(
    connection: Connection, choice: ResultChoice
) -> Mapping[tuple[str, str], Mapping[str, int]]:
    """How many results there are, by kind and operation, then by outcome.

    Writes: nothing.
    """
    statement = (
        select(result.c.kind, result.c.operation, result.c.outcome, func.count())
        .where(*_conditions(choice))
        .group_by(result.c.kind, result.c.operation, result.c.outcome)
    )
    counted: dict[tuple[str, str], dict[str, int]] = {}
    for kind, operation, outcome, n in connection.execute(statement):
        counted.setdefault((kind, operation), {})[outcome] = n
    return counted


def portals_of(connection: Connection, kind: str, key: str) -> tuple[str, ...]:
    """The portals whose tables know an entity, by code.

    Writes: nothing.
    """
    waits = select(outbox.c.portal).where(outbox.c.kind == kind, outbox.c.entity_key == key)
    found = set(connection.execute(waits.group_by(outbox.c.portal)).scalars())
    for table in (link, result, dead):
        # By portal, because all indexes begin with it; and as a single value, because of a plain
        # EXISTS PostgreSQL makes a join, and reads the whole history for it.
        known = select(literal(1)).where(
            table.c.portal == portal.c.code, table.c.kind == kind, table.c.entity_key == key
        )
        knows = known.limit(1).correlate(portal).scalar_subquery().is_not(None)
        found.update(connection.execute(select(portal.c.code).where(knows)).scalars())
    return tuple(sorted(found))


def story(connection: Connection, code: str, kind: str, key: str) -> Story:
    """All that is known of one entity of a portal, but for its dead letters.

    Writes: nothing.
    """
    known = (
        connection.execute(
            select(link).where(link.c.portal == code, link.c.kind == kind, link.c.entity_key == key)
        )
        .mappings()
        .first()
    )
    stops_lane = exists(
        select(literal(1)).where(
            lane.c.portal == outbox.c.portal,
            lane.c.lane == outbox.c.lane,
            lane.c.stopped_by == outbox.c.id,
            or_(
                outbox.c.state == written(RowState.HELD),
                and_(outbox.c.state == written(RowState.DOUBT), outbox.c.due_at > now_ms()),
            ),
        )
    )
    rows = connection.execute(
        select(outbox, stops_lane.label("stops_lane"), now_ms().label("now"))
        .where(outbox.c.portal == code, outbox.c.kind == kind, outbox.c.entity_key == key)
        .order_by(outbox.c.id)
    ).mappings()
    newest_first = results(connection, ResultChoice(portal=code, kind=kind, key=key))
    return Story(
        link=None if known is None else _link(known),
        results=newest_first[::-1],
        rows=tuple(_row(row) for row in rows),
    )


def _conditions(choice: ResultChoice) -> list[ColumnElement[bool]]:
    said: list[ColumnElement[bool]] = []
    for column, wanted in (
        (result.c.portal, choice.portal),
        (result.c.kind, choice.kind),
        (result.c.entity_key, choice.key),
    ):
        if wanted is not None:
            said.append(column == wanted)
    if choice.outcomes:
        said.append(result.c.outcome.in_(choice.outcomes))
    if choice.rows:
        said.append(result.c.outbox_id.in_(choice.rows))
    if choice.since_ms is not None:
        # The clock is asked once, beside the rows: PostgreSQL uses no index for what may change
        # from row to row, and looks into every partition.
        since = select(now_ms() - choice.since_ms).scalar_subquery()
        said.append(result.c.finished_at >= since)
    if choice.after_id is not None:
        said.append(result.c.id > choice.after_id)
    return said


def _result(row: RowMapping) -> ResultView:
    return ResultView(
        id=row["id"],
        finished_at_ms=row["finished_at"],
        age_ms=max(0, row["now"] - row["finished_at"]),
        outbox_id=row["outbox_id"],
        portal=row["portal"],
        kind=row["kind"],
        key=row["entity_key"],
        operation=row["operation"],
        method=row["method"],
        outcome=row["outcome"],
        final=row["final"],
        remote_id=row["remote_id"],
        error_code=row["error_code"],
        error_text=row["error_text"],
        error_class=row["error_class"],
        http_status=row["http_status"],
        attempt=row["attempt"],
        batch_id=row["batch_id"],
        merged_into=row["merged_into"],
        latency_ms=max(0, row["finished_at"] - row["enqueued_at"]),
        duration_ms=row["duration_ms"],
    )


def _row(row: RowMapping) -> RowView:
    fields = row["fields"]
    return RowView(
        id=row["id"],
        operation=row["operation"],
        method=row["method"],
        fields=tuple(fields) if refs.is_mapping(fields) else (),
        state=row["state"],
        reason=row["state_reason"],
        waits_for=row["waits_for"],
        due_in_ms=row["due_at"] - row["now"],
        enqueued_at_ms=row["created_at"],
        age_ms=max(0, row["now"] - row["created_at"]),
        attempts=row["attempts"],
        deliveries=row["deliveries"],
        batch_id=row["batch_id"],
        last_error=row["last_error"],
        stops_lane=bool(row["stops_lane"]),
    )


def _link(row: RowMapping) -> LinkView:
    return LinkView(
        remote_id=row["remote_id"],
        state=row["state"],
        generation=row["generation"],
        duplicates=tuple(str(number) for number in row["dup_ids"] or ()),
        updated_at_ms=row["updated_at"],
    )
