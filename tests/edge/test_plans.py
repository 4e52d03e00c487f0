"""What people ask of the results is answered from indexes, and from the partitions that are meant."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from b24sync.core.retention import DAY_MS, HOUR_MS, Grain, Partition, name_of, period
from b24sync.edge import partitions, schema, stories, tables, views
from b24sync.edge.database import reading, writing
from b24sync.edge.stories import ResultChoice
from tests.house import add_portal, add_rows, change, database_now

DAYS = 6
A_DAY = 4000
FEW = 1000
"""A partition with fewer rows is rightly read as a whole: tomorrow's, and today's after midnight."""
ENTITIES = 500

Node = Mapping[str, Any]


@pytest.fixture
def history(empty_engine: Engine) -> Engine:
    """Six days of results of two portals, in partitions by day, with statistics."""
    schema.upgrade(empty_engine, grain=Grain.NONE)
    begin, _ = period(Grain.DAY, database_now(empty_engine))
    for number in range(DAYS - 1, -2, -1):
        at = begin - number * DAY_MS
        part = Partition(name=name_of(at), from_ms=at, to_ms=at + DAY_MS)
        partitions.make(empty_engine, part)
    for code in ("acme", "other"):
        add_portal(empty_engine, code)
    now = database_now(empty_engine)
    with writing(empty_engine) as connection:
        for number in range(DAYS):
            _fill(connection, now - number * DAY_MS)
    analyze = "ANALYZE" if empty_engine.dialect.name == "postgresql" else "ANALYZE TABLE"
    autonomous = empty_engine.execution_options(isolation_level="AUTOCOMMIT")
    with autonomous.connect() as connection:
        connection.execute(text(f"{analyze} b24sync_result"))
    return empty_engine


def _fill(connection: Connection, end: int) -> None:
    """A day of results until then, of so many entities of each portal."""
    is_postgresql = connection.dialect.name == "postgresql"
    numbers = f"SELECT seq AS n FROM seq_1_to_{A_DAY}"  # noqa: S608 - a number
    if is_postgresql:
        numbers = f"SELECT n FROM generate_series(1, {A_DAY}) AS s (n)"  # noqa: S608 - a number
    key = f"'c-' || (n % {ENTITIES})" if is_postgresql else f"concat('c-', n % {ENTITIES})"
    code = "CASE WHEN n % 2 = 0 THEN 'acme' ELSE 'other' END"
    connection.execute(
        text(
            "INSERT INTO b24sync_result (finished_at, outbox_id, portal, kind, entity_key, "  # noqa: S608
            "operation, outcome, final, attempt, enqueued_at) "
            f"SELECT {end} - n * 20000, n, {code}, 'contact', {key}, 'update', 'applied', true, "
            f"1, 1 FROM ({numbers}) AS numbers"
        )
    )


class Asked:
    """The statements about results that a question came to, and how the database answers them."""

    def __init__(self, engine: Engine, question: Callable[[Connection], object]) -> None:
        """Ask, and listen."""
        self.engine = engine
        self.said: list[tuple[str, Any]] = []
        event.listen(engine, "before_cursor_execute", self._listen)
        try:
            with reading(engine) as connection:
                question(connection)
        finally:
            event.remove(engine, "before_cursor_execute", self._listen)

    def _listen(self, *heard: Any) -> None:  # noqa: ANN401 - SQLAlchemy calls it by position
        if "b24sync_result" in heard[2]:
            self.said.append((heard[2], heard[3]))

    def looks(self) -> list[tuple[str, str]]:
        """The partitions that were looked into, each with how: an index's name, or ``all rows``."""
        assert self.said
        found: list[tuple[str, str]] = []
        for statement, parameters in self.said:
            with reading(self.engine) as connection:
                if self.engine.dialect.name == "postgresql":
                    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
                    plan = connection.exec_driver_sql(explain, parameters).scalar_one()
                    found += [look for node in _nodes(plan[0]["Plan"]) for look in _look(node)]
                else:
                    explain = f"EXPLAIN PARTITIONS {statement}"
                    rows = connection.exec_driver_sql(explain, parameters).mappings().all()
                    found += [look for row in rows for look in _look_mysql(dict(row))]
        return found

    @property
    def days(self) -> set[str]:
        """The partitions that were looked into, by the day on which they begin."""
        return {name.rpartition("_")[2] for name, _ in self.looks()}


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _look(node: Node) -> Iterator[tuple[str, str]]:
    """What a node read, unless it was never run."""
    name = node.get("Relation Name", "")
    # A bitmap's index is named by the node below; its own condition repeats it.
    if name.startswith("b24sync_result") and node["Actual Loops"]:
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        how = "all rows" if node["Node Type"] == "Seq Scan" and read >= FEW else node["Node Type"]
        yield name, how


def _look_mysql(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if row["partitions"]:
        how = "all rows" if row["type"] == "ALL" and int(row["rows"]) >= FEW else str(row["key"])
        for name in row["partitions"].split(","):
            yield name, how


def _full(asked: Asked) -> set[str]:
    """The dated partitions that were read row by row; the catch-all is empty."""
    return {name for name, how in asked.looks() if how == "all rows" and not _is_rest(name)}


def _is_rest(name: str) -> bool:
    return name.endswith("rest")


ON_SERVERS = pytest.mark.parametrize("backend", ["postgresql", "mariadb"])

QUESTIONS: Mapping[str, Callable[[Connection], object]] = {
    "the history of an entity": lambda c: stories.story(c, "acme", "contact", "c-2"),
    "who knows an entity": lambda c: stories.portals_of(c, "contact", "c-2"),
    "the newest results": lambda c: stories.results(c, ResultChoice(), limit=20),
    "the newest of a portal": lambda c: stories.results(c, ResultChoice(portal="acme"), limit=20),
    "the newest id": stories.last_result_id,
    "what came since then": lambda c: stories.results(c, ResultChoice(after_id=10**6)),
    "the last hour": lambda c: stories.outcomes(c, ResultChoice(since_ms=HOUR_MS)),
}


@ON_SERVERS
@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_the_whole_history(history: Engine, question: str) -> None:
    """However long it is, only what an index points at is read."""
    asked = Asked(history, QUESTIONS[question])

    assert _full(asked) == set()


@ON_SERVERS
def test_a_span_of_time_is_looked_for_in_its_partitions_only(history: Engine) -> None:
    """Yesterday's partition and what lies behind it, not last week's."""
    asked = Asked(history, lambda c: stories.outcomes(c, ResultChoice(since_ms=DAY_MS)))

    begin, end = period(Grain.DAY, database_now(history))
    meant = {name_of(begin - DAY_MS), name_of(begin), name_of(end), "rest"}
    assert asked.days <= meant
    assert name_of(begin) in asked.days


@ON_SERVERS
def test_where_a_lane_stopped_is_found_by_its_entity(history: Engine) -> None:
    """`status` is asked every few seconds, and reads no history for it."""
    (row_id,) = add_rows(history, "c-2", portal="acme", state="held", state_reason="E")
    change(history, tables.lane, {"stopped_by": row_id}, portal="acme")

    asked = Asked(history, views.stops)

    assert _full(asked) == set()
    assert re.search("b24sync_result", asked.said[0][0])
