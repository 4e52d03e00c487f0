"""Heaps of rows, made by the database itself: what tests and benchmarks at scale have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Engine,
    Integer,
    String,
    Table,
    case,
    cast,
    insert,
    literal,
    select,
    text,
    union_all,
)

from b24sync.edge import tables
from b24sync.edge.database import writing

TEN = 10
DIGITS = union_all(*(select(literal(digit).label("d")) for digit in range(TEN)))
ANALYZE = {"postgresql": "ANALYZE", "mysql": "ANALYZE TABLE", "mariadb": "ANALYZE TABLE"}

Number = ColumnElement[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is.

    Shape: of ``waiting`` rows the portal ``default`` has nine tenths, and ``portals`` others the rest;
    besides, ``hot`` rows of one entity of ``default`` stand behind each other. Of all portals together
    there are so many closed ``batches`` and ``results``, and so many ``links``, of every other of the waiting rows of ``default``.
    """

    waiting: int
    portals: int
    hot: int
    results: int
    links: int
    batches: int


def said(number: Number) -> ColumnElement[str]:
    """A number as text."""
    return cast(number, String(20))


def heap(
    engine: Engine,
    table: Table,
    count: int,
    values: Callable[[Number], Mapping[str, Any]],
    *,
    step: int = 1_000_000,
) -> None:
    """Insert so many rows; ``values`` are those of a row, by its number from zero.

    Units: ``step`` rows in one transaction.
    """
    for start in range(0, count, step):
        size = min(step, count - start)
        parts = [DIGITS.subquery(f"digit{place}") for place in range(len(str(size)))]
        number: Number = literal(0, Integer)
        for place, part in enumerate(parts):
            number = number + part.c.d * TEN**place
        columns = values(number + start)
        # True of all of them; without, SQLAlchemy warns of a product, which this is.
        every = (parts[0].c.d >= -part.c.d for part in parts[1:])
        rows = select(*columns.values()).where(number < size, *every).order_by(number)
        with writing(engine) as connection:
            connection.execute(insert(table).from_select(list(columns), rows))


def fill(engine: Engine, size: Size) -> None:
    """Put it there."""
    heap(engine, tables.portal, size.portals, lambda n: {"code": _code(n), **_PORTAL})
    heap(engine, tables.lane, size.portals, lambda n: {"portal": _code(n), "lane": literal(0)})
    heap(
        engine,
        tables.link,
        size.links,
        lambda n: {
            "portal": literal("default"),
            "kind": literal("contact"),
            "entity_key": "k" + said(n * 2),
            "remote_id": said(n + 1_000_000_000),
            "state": literal("present"),
        },
    )
    _results(engine, size)
    _rows(engine, size)


_PORTAL = {
    "base_url": literal("https://portal.example"),
    "rate_x": literal(1e9),
    "rate_y": literal(1e9),
}
_CALL = literal("crm.item.add")


def _code(number: Number) -> ColumnElement[str]:
    return case((number == 0, literal("default")), else_="p" + said(number))


def _results(engine: Engine, size: Size) -> None:
    heap(
        engine,
        tables.batch,
        size.batches,
        lambda n: {
            "portal": _code(n % size.portals),
            "lane": literal(0),
            "lane_epoch": literal(1),
            "state": literal("answered"),
            "n_commands": literal(50),
            "plan": literal({}, tables.batch.c.plan.type),
            "request_hash": literal(""),
            "sending_at": literal(1),
            "deadline_at": literal(2),
            "quiet_until": literal(3),
            "closed_at": n + 1,
        },
    )
    heap(
        engine,
        tables.result,
        size.results,
        lambda n: {
            "outbox_id": n + 1,
            "finished_at": n + 1,
            "portal": _code(n % size.portals),
            "kind": literal("contact"),
            "entity_key": "k" + said(n),
            "operation": literal("add"),
            "method": _CALL,
            "outcome": literal("applied"),
            "final": literal(True),  # noqa: FBT003 - a value
            "remote_id": said(n + 1),
            "attempt": literal(1),
            "batch_id": n / 50 + 1,
            "cmd_no": n % 50,
            "enqueued_at": n,
        },
    )


def _rows(engine: Engine, size: Size) -> None:
    fields = literal({"name": "Ann", "lastName": "Lee"}, tables.outbox.c.fields.type)
    busy = size.waiting * 9 // 10
    heap(
        engine,
        tables.outbox,
        size.hot,
        lambda n: {
            "kind": literal("contact"),
            "entity_key": literal("hot"),
            "operation": literal("upsert"),
            "fields": fields,
            # Merged, there would be one row of them.
            "mergeable": literal(False),  # noqa: FBT003 - a value
            "state": case((n == 0, literal("ready")), else_=literal("parked")),
        },
    )
    heap(
        engine,
        tables.outbox,
        size.waiting,
        lambda n: {
            "portal": case((n < busy, literal("default")), else_="p" + said(n % size.portals + 1)),
            "kind": literal("contact"),
            "entity_key": "k" + said(n),
            "operation": literal("upsert"),
            "fields": fields,
        },
    )


def analyze(engine: Engine) -> None:
    """Let a server look at its tables now, as it does by itself some time later."""
    verb = ANALYZE.get(engine.dialect.name)
    if verb is not None:
        with writing(engine) as connection:
            for table in tables.metadata.tables.values():
                connection.execute(text(f"{verb} {table.name}"))
