"""What it costs to be rid of old results: a dropped partition against deletes in chunks.

`python tests/benchmarks/retention.py [--rows 2000000] [--json]`, some minutes. Beside it a writer
settles batches of 50 and notes how long each takes. The databases are those of the tests, with the
same variables to name others; each run makes databases of its own and drops them.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import click
from rich.console import Console
from rich.table import Table as Grid
from sqlalchemy import Engine, MetaData, Table, insert, make_url, select, text

from b24sync.core.retention import DAY_MS, Grain, Partition, period
from b24sync.edge import partitions, retention, schema, tables
from b24sync.edge.database import insert_any_order, make_engine, now_ms, reading, transact

ADDRESSES = {
    "postgresql": os.environ.get(
        "B24SYNC_TEST_POSTGRESQL_URL", "postgresql+psycopg://root@127.0.0.1:5432/postgres"
    ),
    "mariadb": os.environ.get("B24SYNC_TEST_MARIADB_URL", "mysql+pymysql://root@127.0.0.1:3306/"),
}
NAME = f"b24sync_bench_{os.getpid()}"
BATCH = 50
WARM_S = 2.0
"""How long the writer is watched alone, before and after."""
SQLITE_SHARE = 10
"""SQLite is meant for so many times fewer results."""
INSERTS = 400


@dataclass(slots=True)
class Writer:
    """Settles batches until it is told to end, and notes how long each took."""

    engine: Engine
    ended: threading.Event = field(default_factory=threading.Event)
    took: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def run(self) -> None:
        """One batch after the other."""
        work = partial(insert_any_order, statement=insert(tables.result), rows=rows_of_a_batch())
        while not self.ended.is_set():
            began = perf_counter()
            transact(self.engine, work)
            self.took.append((began, (perf_counter() - began) * 1000))

    def between(self, begin: float, end: float) -> list[float]:
        """Milliseconds of the batches that were under way then."""
        return [ms for began, ms in self.took if began < end and began + ms / 1000 > begin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """How one way of removing went. Units: seconds, bytes, milliseconds."""

    database: str
    way: str
    rows: int
    took_s: float
    wal_bytes: int | None
    alone_p50: float
    alone_p99: float
    beside_p50: float
    beside_p99: float
    beside_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How long a batch of 50 results takes to insert and commit. Units: milliseconds."""

    database: str
    table: str
    p50: float
    p99: float


def rows_of_a_batch() -> list[dict[str, object]]:
    """What a settlement inserts."""
    return [
        {
            "outbox_id": number,
            "portal": "acme",
            "kind": "contact",
            "entity_key": f"c-{number}",
            "operation": "update",
            "method": "crm.item.update",
            "outcome": "applied",
            "final": True,
            "remote_id": str(number),
            "http_status": 200,
            "attempt": 1,
            "batch_id": 7,
            "cmd_no": number,
            "enqueued_at": 1_790_000_000_000,
            "sent_at": 1_790_000_001_000,
            "duration_ms": 120,
            "headers": None,
        }
        for number in range(BATCH)
    ]


@contextmanager
def database(kind: str, grain: Grain) -> Generator[Engine]:
    """A migrated database of this run's own."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as home:
            engine = make_engine(f"sqlite:///{Path(home) / 'results.db'}")
            schema.upgrade(engine)
            yield engine
            engine.dispose()
        return
    address = make_url(ADDRESSES[kind])
    owner = make_engine(address.render_as_string(hide_password=False))
    outside = owner.execution_options(isolation_level="AUTOCOMMIT")
    with outside.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {NAME}"))
    engine = make_engine(address.set(database=NAME).render_as_string(hide_password=False))
    try:
        schema.upgrade(engine, grain=grain)
        yield engine
    finally:
        engine.dispose()
        with outside.connect() as connection:
            connection.execute(text(f"DROP DATABASE {NAME}"))
        owner.dispose()


def fill(engine: Engine, rows: int, begin: int) -> None:
    """Results of one day, by one statement."""
    source = (
        "WITH RECURSIVE s (n) AS "  # noqa: S608 - a number
        f"(SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s"
    )
    if engine.dialect.name == "postgresql":
        source = f"SELECT n FROM generate_series(1, {rows}) AS s (n)"  # noqa: S608 - a number
    key = "'c-' || (n % 200000)" if engine.dialect.name != "mysql" else "concat('c-', n % 200000)"
    statement = (
        "INSERT INTO b24sync_result "  # noqa: S608 - numbers only
        "(finished_at, outbox_id, portal, kind, entity_key, operation, "
        "method, outcome, final, attempt, batch_id, cmd_no, enqueued_at, sent_at, duration_ms) "
        f"SELECT {begin} + n % {DAY_MS}, n, 'acme', 'contact', {key}, 'update', 'crm.item.update', "
        f"'applied', true, 1, n, n % 50, {begin}, {begin}, 120 FROM ({source}) AS numbers"
    )
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.execute(text(f"SET SESSION max_recursive_iterations = {rows + 1}"))
        connection.execute(text(statement))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE b24sync_result"))
            connection.execute(text("CHECKPOINT"))


def written(engine: Engine) -> int | None:
    """Bytes of the write-ahead log until now, where the database tells."""
    if engine.dialect.name != "postgresql":
        return None
    with reading(engine) as connection:
        position = text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
        return int(connection.execute(position).scalar_one())


def watched(kind: str, way: str, rows: int, engine: Engine, work: Callable[[], None]) -> Removal:
    """Remove, while a writer writes; what it cost is beyond what the writer costs alone."""
    writer, pause = Writer(engine), threading.Event()
    thread = threading.Thread(target=writer.run, daemon=True)
    thread.start()
    pause.wait(WARM_S)
    wal_alone = written(engine)
    count_alone = len(writer.took)
    pause.wait(WARM_S)
    wal_begin, count_begin, begin = written(engine), len(writer.took), perf_counter()
    work()
    end, wal_end, count_end = perf_counter(), written(engine), len(writer.took)
    pause.wait(WARM_S / 2)
    writer.ended.set()
    thread.join()
    wal = None
    if wal_end is not None and wal_begin is not None and wal_alone is not None:
        each = (wal_begin - wal_alone) / max(1, count_begin - count_alone)
        wal = max(0, int(wal_end - wal_begin - each * (count_end - count_begin)))
    alone, beside = writer.between(begin - WARM_S, begin), writer.between(begin, end)
    return Removal(
        database=kind,
        way=way,
        rows=rows,
        took_s=end - begin,
        wal_bytes=wal,
        alone_p50=median(alone),
        alone_p99=_p99(alone),
        beside_p50=median(beside),
        beside_p99=_p99(beside),
        beside_max=max(beside),
    )


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]


def dropped(kind: str, rows: int) -> Removal:
    """A partition of one day, dropped."""
    with database(kind, Grain.NONE) as engine:
        begin, end = old_day(engine)
        partitions.make(engine, Partition(name="old", from_ms=begin, to_ms=end))
        make_ahead(engine, Grain.MONTH)
        fill(engine, rows, begin)
        found = partitions.current(engine)
        assert found is not None
        return watched(kind, "drop", rows, engine, partial(partitions.drop, engine, found.dated[0]))


def deleted(kind: str, rows: int) -> Removal:
    """The same rows in the catch-all, or in SQLite's one table, in chunks."""
    with database(kind, Grain.NONE) as engine:
        begin, end = old_day(engine)
        fill(engine, rows, begin)

        def work() -> None:
            with reading(engine) as connection:
                aged = retention.results_in(connection, rest_only=False)
            after_id, is_last = 0, False
            while not is_last:
                with reading(engine) as connection:
                    page = retention.page(connection, aged, after_id, end)
                if page is None:
                    return
                remove = partial(
                    retention.remove,
                    aged=aged,
                    after_id=after_id,
                    last_id=page.last_id,
                    before_ms=end,
                )
                transact(engine, remove)
                after_id, is_last = page.last_id, page.is_last

        return watched(kind, f"chunks of {retention.CHUNK}", rows, engine, work)


def old_day(engine: Engine) -> tuple[int, int]:
    """A day that is long over."""
    with reading(engine) as connection:
        now = int(connection.execute(select(now_ms())).scalar_one())
    return period(Grain.DAY, now - 40 * DAY_MS)


def make_ahead(engine: Engine, grain: Grain) -> None:
    """The partitions of now and of what comes."""
    schema.upgrade(engine, grain=grain)


def rates(kind: str) -> list[Rate]:
    """Batches into one table, and into partitions by month and by day, by turns."""
    with database(kind, Grain.MONTH) as engine:
        make_plain(engine, "plain")
        targets = {"one table": "plain", "4 months": tables.result.name}
        found = _rates(kind, engine, targets)
    with database(kind, Grain.NONE) as engine:
        begin, _ = old_day(engine)
        for number in range(40):
            at = begin + number * DAY_MS
            part = Partition(name=f"d{number}", from_ms=at, to_ms=at + DAY_MS)
            partitions.make(engine, part)
        make_ahead(engine, Grain.DAY)
        make_plain(engine, "plain")
        targets = {"one table, again": "plain", "55 days": tables.result.name}
        return found + _rates(kind, engine, targets)


def make_plain(engine: Engine, name: str) -> None:
    """The same table without partitions."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"CREATE TABLE {name} (LIKE b24sync_result INCLUDING ALL)"))
        else:
            connection.execute(text(f"CREATE TABLE {name} LIKE b24sync_result"))
            connection.execute(text(f"ALTER TABLE {name} REMOVE PARTITIONING"))


def _rates(kind: str, engine: Engine, targets: dict[str, str]) -> list[Rate]:
    took: dict[str, list[float]] = {label: [] for label in targets}
    rows = rows_of_a_batch()
    into: dict[str, Table] = {
        label: tables.result.to_metadata(MetaData(), name=name) for label, name in targets.items()
    }
    for number in range(INSERTS):
        for label, table in into.items():
            work = partial(insert_any_order, statement=insert(table), rows=rows)
            began = perf_counter()
            transact(engine, work)
            if number >= INSERTS // 10:
                took[label].append((perf_counter() - began) * 1000)
    return [
        Rate(database=kind, table=label, p50=median(each), p99=_p99(each))
        for label, each in took.items()
    ]


@click.command()
@click.option("--rows", default=2_000_000, show_default=True)
@click.option("--on", "kinds", multiple=True, default=("postgresql", "mariadb", "sqlite"))
@click.option("--json", "as_json", is_flag=True, help="Machine output on stdout.")
def main(*, rows: int, kinds: tuple[str, ...], as_json: bool) -> None:
    """Measure, and print two tables."""
    err = Console(stderr=True)
    removals: list[Removal] = []
    inserts: list[Rate] = []
    for kind in kinds:
        err.print(f"{kind}: inserting, filling, removing")
        if kind == "sqlite":
            removals.append(deleted(kind, rows // SQLITE_SHARE))
            continue
        inserts += rates(kind)
        removals += [dropped(kind, rows), deleted(kind, rows)]
    if as_json:
        document = {"removals": map(asdict, removals), "inserts": map(asdict, inserts)}
        click.echo(json.dumps(document, default=list))
        return
    out = Console()
    out.print(_removals(removals))
    if inserts:
        out.print(_inserts(inserts))


def _removals(found: Sequence[Removal]) -> Grid:
    grid = Grid(title="Removing results, and a batch of 50 written beside it (ms)")
    grid.add_column("database", no_wrap=True)
    grid.add_column("way", no_wrap=True)
    for name in ("rows", "took", "WAL", "p50 alone", "p99 alone", "p50", "p99", "max"):
        grid.add_column(name, justify="right", no_wrap=True)
    for one in found:
        wal = "-" if one.wal_bytes is None else f"{one.wal_bytes / 1e6:.2f} MB"
        latencies = (one.alone_p50, one.alone_p99, one.beside_p50, one.beside_p99, one.beside_max)
        grid.add_row(
            one.database,
            one.way,
            f"{one.rows:,}".replace(",", " "),
            f"{one.took_s:.2f} s",
            wal,
            *(f"{ms:.1f}" for ms in latencies),
        )
    return grid


def _inserts(found: Sequence[Rate]) -> Grid:
    grid = Grid(title="One batch of 50 results into, by turns (ms)")
    grid.add_column("database", no_wrap=True)
    grid.add_column("table")
    grid.add_column("p50", justify="right")
    grid.add_column("p99", justify="right")
    for one in found:
        grid.add_row(one.database, one.table, f"{one.p50:.2f}", f"{one.p99:.2f}")
    return grid


if __name__ == "__main__":
    main()
