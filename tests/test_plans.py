"""However many rows there are, what one batch asks for is found by an index.

The statements are not written down here: they are those that a worker executes while it drains a
batch, and each database is asked how it finds what they name.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from tests.fakes import ScriptedPortal
from tests.heaps import Size, analyze, fill
from tests.house import Clerk, rows_of, world_of

BIG = {table.name for table in (tables.outbox, tables.result, tables.link, tables.batch)}
"""Tables that grow with the work; the others are as small as the number of tenants."""

NAMED = BIG | {"other"}
"""These, and what statements call them."""

PLAIN = re.compile(r"(?i)\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")

SOME = Size(waiting=100_000, portals=10, hot=20_000, results=100_000, links=10_000, batches=2_000)
MANY = Size(
    waiting=1_000_000,
    portals=5_000,
    hot=100_000,
    results=10_000_000,
    links=1_000_000,
    batches=200_000,
)

Statements = dict[str, Any]
"""By their text; each with parameters that it was executed with."""


@contextmanager
def heard(engine: Engine) -> Iterator[Statements]:
    """The statements that are executed meanwhile."""
    found: Statements = {}

    def hear(
        _connection: Connection,
        _cursor: object,
        statement: str,
        parameters: Any,  # noqa: ANN401 - as the driver takes them
        _context: object,
        executemany: bool,  # noqa: FBT001 - as the event has it
    ) -> None:
        if PLAIN.match(statement):
            found.setdefault(statement, parameters[0] if executemany else parameters)

    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", hear)


def scanned(connection: Connection, statement: str, parameters: Any) -> list[str]:  # noqa: ANN401
    """What a database would read from end to end to execute this, of the big tables."""
    explain = EXPLAINED[connection.dialect.name]
    return list(explain(connection, statement, parameters))


def _by_postgresql(connection: Connection, statement: str, parameters: Any) -> Iterator[str]:  # noqa: ANN401
    asked = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
    found = asked.scalar_one()
    (answer,) = json.loads(found) if isinstance(found, str) else found
    for node in _nodes(answer["Plan"]):
        # Or of a partition, whose name begins with that of its table.
        name = node.get("Relation Name", "")
        is_indexed = "Index Cond" in node or node["Node Type"] in {
            "Bitmap Heap Scan",
            "ModifyTable",
        }
        if name.startswith(tuple(BIG)) and not is_indexed:
            yield f"{node['Node Type']} of {name} {node.get('Filter', '')}"


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _by_mariadb(connection: Connection, statement: str, parameters: Any) -> Iterator[str]:  # noqa: ANN401
    rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings()
    for row in rows:
        is_read_whole = row["type"] in {"ALL", "index"} and row["select_type"] != "INSERT"
        if is_read_whole and row["table"] in NAMED:
            yield f"{row['type']} of {row['table']}, {row['rows']} rows, {row['key']}"


def _by_sqlite(connection: Connection, statement: str, parameters: Any) -> Iterator[str]:  # noqa: ANN401
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).mappings()
    for row in rows:
        scan = re.match(r"SCAN (\w+)", row["detail"])
        if scan and scan[1] in NAMED:
            yield row["detail"]


EXPLAINED: Mapping[str, Callable[[Connection, str, Any], Iterator[str]]] = {
    "postgresql": _by_postgresql,
    "mysql": _by_mariadb,
    "mariadb": _by_mariadb,
    "sqlite": _by_sqlite,
}


def check(engine: Engine, size: Size) -> None:
    """Drain one batch among so many rows; none of its statements reads a big table whole."""
    fill(engine, size)
    analyze(engine)
    clerk = Clerk()
    world = world_of(engine, ScriptedPortal([clerk, clerk]), slice_batches=2)
    with heard(engine) as statements:
        tally = drain(world, Order())

    assert tally.outcomes == {"applied": 100}
    assert len(rows_of(engine, tables.outbox, entity_key="hot", state="ready")) == 1
    named = " ".join(statements)
    assert all(name in named for name in BIG)
    with writing(engine) as connection:
        found = {
            statement: scans
            for statement, parameters in statements.items()
            if (scans := scanned(connection, statement, parameters))
        }
    assert not found, "\n\n".join(f"{scans}\n{statement}" for statement, scans in found.items())


def test_a_batch_reads_no_big_table_from_end_to_end(engine: Engine) -> None:
    """A hundred thousand rows wait, one entity has twenty thousand that are parked."""
    check(engine, SOME)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nor_among_millions(server_engine: Engine) -> None:
    """A million rows wait, ten million results are there, five thousand portals."""
    check(server_engine, MANY)


@pytest.mark.parametrize("name", sorted(BIG))
def test_a_scan_would_be_seen(engine: Engine, name: str) -> None:
    """Each database says so of a statement that no index serves."""
    fill(engine, Size(waiting=100, portals=2, hot=10, results=100, links=10, batches=10))
    analyze(engine)
    with writing(engine) as connection:
        assert scanned(connection, f"SELECT count(*) FROM {name} WHERE portal LIKE '%%x'", ())  # noqa: S608 - a test
