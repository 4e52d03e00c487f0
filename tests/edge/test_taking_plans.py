"""What it costs to find the next lane, by the plans of the databases: no more with more tenants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine, event, text

from b24sync.edge import lanes, taking
from b24sync.edge.database import writing
from tests.house import FAR_MS
from tests.queueing import fill, named, numbers

BIG = ("b24sync_outbox", "b24sync_lane")
"""Tables that are not to be read from one end to the other."""


def _fill(engine: Engine, portals: int, rows: int) -> None:
    """All lanes asleep or at rest but two hundred; half of the rows are those of one portal."""
    fill(
        engine, portals, next_due_at="CASE WHEN n < 200 THEN 0 WHEN n < 400 THEN 4000000000000 END"
    )
    name = engine.dialect.name
    of_row = f"(CASE WHEN n % 2 = 0 THEN 0 ELSE n % {portals} END)"
    series, code, key = numbers(name, rows), named(name, of_row), named(name)
    with writing(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO b24sync_outbox (portal, kind, entity_key, operation) "  # noqa: S608 - made above
                f"SELECT {code}, 'contact', {key}, 'delete' FROM {series}"
            )
        )
    tell = "ANALYZE TABLE b24sync_lane, b24sync_outbox, b24sync_portal"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(tell if name == "mysql" else "ANALYZE").close()


@contextmanager
def _plans(connection: Connection) -> Iterator[list[tuple[str, str]]]:
    """The statements that are executed, each with its plan as lines of text."""
    executed: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        executed.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    plans: list[tuple[str, str]] = []
    yield plans
    event.remove(connection, "before_cursor_execute", note)
    word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    for statement, parameters in executed:
        found = connection.exec_driver_sql(f"{word} {statement}", parameters)  # type: ignore[arg-type]
        plans.append((statement, "\n".join(" ".join(map(str, row)) for row in found)))


def _whole_reads(plan: str) -> list[str]:
    """The lines in which a big table is read from one end to the other."""
    return [
        line
        for line in plan.splitlines()
        if any(
            f"Seq Scan on {table}" in line
            or (f"SCAN {table}" in line and "INDEX" not in line)
            or f" {table} ALL " in line
            for table in BIG
        )
    ]


def _check(engine: Engine, work: Callable[[Connection], object]) -> None:
    with writing(engine) as connection:
        with _plans(connection) as plans:
            work(connection)
        for statement, plan in plans:
            assert not _whole_reads(plan), f"{statement}\n{plan}"


def _take_and_release(connection: Connection) -> None:
    # One without a flood: that of half of all rows may be read with the table.
    mine = taking.take(connection, owner="test", lease_ms=FAR_MS, without=[("p000000", 0)])
    assert mine is not None
    lanes.release(connection, mine, served=1)


WORKS: dict[str, Callable[[Connection], object]] = {
    "take and release": _take_and_release,
    "due": lambda connection: taking.due(connection, limit=8),
    "due of one": lambda connection: taking.due(connection, "p000001", limit=1),
    "wake one": lambda connection: taking.wake(connection, "p000500"),
}


def test_no_table_is_read_from_end_to_end(engine: Engine) -> None:
    """Three thousand tenants and twenty thousand rows: enough for a planner to care."""
    _fill(engine, 3_000, 20_000)

    for work in WORKS.values():
        _check(engine, work)


@pytest.mark.soak
def test_no_table_is_read_from_end_to_end_with_many_rows(engine: Engine) -> None:
    """The same with a fifth of a million."""
    _fill(engine, 5_000, 200_000)

    for work in WORKS.values():
        _check(engine, work)


def test_rows_are_found_by_leaps_and_not_by_reading_them(engine: Engine) -> None:
    """Who waits in twenty thousand rows is found in the index, group by group."""
    _fill(engine, 3_000, 20_000)

    with writing(engine) as connection:
        with _plans(connection) as plans:
            woken = taking.wake(connection)
        plan = plans[0][1]

    # Every other portal has rows; a hundred of those are due already.
    assert woken == 1400
    if engine.dialect.name == "mysql":
        assert "Using index for group-by" in plan
    else:
        assert "ix_b24sync_outbox_ready" in plan
        assert not [line for line in _whole_reads(plan) if "outbox" in line]
