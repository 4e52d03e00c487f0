"""What a back-fill costs: `python -m tests.benchmarks.backfill [ROWS]`, a million rows in some minutes.

A database of its own is made on PostgreSQL, and dropped. First everything is fed to a portal that
takes whatever waits at once: rows a second, the memory of the process, and how full the outbox was
at the most. Then, beside a second back-fill that is drained to a canned portal, a change is written
now and then: how long until it is settled, in seconds and in batches.
"""

import json
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import click
from rich.console import Console
from sqlalchemy import Engine, func, make_url, select, text

from b24sync import Change, enqueue
from b24sync.backfill import MOST_WAITING, STEP, Asked, Rest, feed, query, start, steer
from b24sync.cli.layout import number, table
from b24sync.core.backfilling import BackfillState, Recipe
from b24sync.drain import Order, Tally, drain
from b24sync.edge import schema, tables
from b24sync.edge.backfills import Fed
from b24sync.edge.database import make_engine, reading, writing
from b24sync.world import World
from tests.conftest import POSTGRESQL
from tests.fakes import ScriptedPortal
from tests.house import Clerk, add_portal, world_of

SOURCE = "SELECT id, name, city, phone FROM customers"
CHANGES = 25
PAUSE_S = 0.4


@contextmanager
def database(url: str) -> Generator[Engine]:
    """A database of this run's own, with our tables and a portal that limits nothing."""
    address = make_url(url)
    server = make_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    name = f"b24sync_fill_{uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = make_engine(address.set(database=name).render_as_string(hide_password=False))
    try:
        schema.upgrade(engine)
        add_portal(engine, rate_x=1e9, rate_y=1e9)
        yield engine
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def fill_source(engine: Engine, rows: int) -> None:
    """Customers, as an application has them."""
    with writing(engine) as connection:
        connection.execute(
            text("CREATE TABLE customers (id bigint, name text, city text, phone text)")
        )
        connection.execute(
            text(
                "INSERT INTO customers SELECT n, 'Customer ' || n, 'City ' || n % 1000, "
                "'+49 30 ' || n FROM generate_series(1, :rows) AS n"
            ),
            {"rows": rows},
        )
        connection.execute(text("ALTER TABLE customers ADD PRIMARY KEY (id)"))


def resident_kib() -> int:
    """The memory of this process that is in use."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0])


def _asked(code: str) -> Asked:
    recipe = Recipe(key="id", fields={"name": "name", "comments": "city"})
    return Asked(code=code, portal="default", kind="contact", source=query(SOURCE, ["id"], recipe))


def _waiting(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(tables.outbox)).scalar_one()


def feed_all(world: World, rows: int) -> dict[str, object]:
    """Feed everything, to a portal that takes at once whatever waits."""
    begun = perf_counter()
    start(world, _asked("all"))
    counted_s = perf_counter() - begun
    done, most, taking_s = 0, 0, 0.0
    memory: dict[str, int] = {}

    def watch(fed: Fed) -> None:
        nonlocal done
        done += fed.read_rows
        for share in (10, 50, 100):
            if done * 100 >= share * rows:
                memory.setdefault(f"{share} %", resident_kib())

    begun = perf_counter()
    while feed(world, "all", lasting=lambda: True, watching=watch).why is Rest.FULL:
        paused = perf_counter()
        most = max(most, _waiting(world.engine))
        with writing(world.engine) as connection:
            connection.execute(text("TRUNCATE b24sync_outbox"))
        taking_s += perf_counter() - paused
    spent_s = perf_counter() - begun - taking_s
    return {
        "rows": done,
        "rows_per_s": round(done / spent_s),
        "count_s": round(counted_s, 2),
        "most_in_outbox": most,
        "bound": MOST_WAITING + STEP,
        "rss_kib": memory,
    }


def live_beside(world: World) -> dict[str, object]:
    """Write changes while a back-fill is fed and drained."""
    engine = world.engine
    with writing(engine) as connection:
        connection.execute(text("TRUNCATE b24sync_outbox"))
    portal = ScriptedPortal(repeat(Clerk()))
    busy = world_of(engine, portal, slice_batches=5)
    start(world, _asked("beside"))
    feed(world, "beside", lasting=lambda: True)
    is_over = threading.Event()
    batches: list[float] = []

    def saw(tally: Tally) -> None:
        batches.extend([perf_counter()] * tally.batches)
        portal.asked.clear()

    def draining() -> None:
        while not is_over.is_set():
            drain(busy, Order(), watching=saw, stopping=is_over.is_set)

    def feeding() -> None:
        while not is_over.wait(0.2):
            feed(world, "beside", lasting=lambda: not is_over.is_set())

    threads = [threading.Thread(target=work, daemon=True) for work in (draining, feeding)]
    for thread in threads:
        thread.start()
    is_over.wait(1.0)
    begun, spans, passed, fewest = perf_counter(), list[float](), list[int](), sys.maxsize
    done_before = len(batches)
    for place in range(CHANGES):
        key = f"live-{place}" if place % 2 else _last_waiting(engine)
        at = perf_counter()
        with writing(engine) as connection:
            enqueue(connection, Change("contact", key, "upsert", {"lastName": f"live {place}"}))
        while not _is_settled(engine, key):
            is_over.wait(0.01)
        spans.append(perf_counter() - at)
        passed.append(sum(at < moment for moment in list(batches)))
        fewest = min(fewest, _waiting(engine))
        is_over.wait(PAUSE_S)
    rate = (len(batches) - done_before) / (perf_counter() - begun)
    is_over.set()
    for thread in threads:
        thread.join(30)
    steer(world, "beside", BackfillState.CANCELLED)
    spans.sort()
    return {
        "changes": CHANGES,
        "waiting_at_least": fewest,
        "batches_per_s": round(rate, 1),
        "median_s": round(spans[len(spans) // 2], 3),
        "longest_s": round(spans[-1], 3),
        "most_batches": max(passed),
    }


def _last_waiting(engine: Engine) -> str:
    """The entity whose turn would be the last."""
    last = select(tables.outbox.c.entity_key).order_by(tables.outbox.c.id.desc()).limit(1)
    with reading(engine) as connection:
        return str(connection.execute(last).scalar_one())


def _is_settled(engine: Engine, key: str) -> bool:
    """Whether nothing of an entity waits any more."""
    row = select(tables.outbox.c.id).where(
        tables.outbox.c.portal == "default",
        tables.outbox.c.kind == "contact",
        tables.outbox.c.entity_key == key,
    )
    with reading(engine) as connection:
        return connection.execute(row.limit(1)).scalar() is None


@click.command()
@click.argument("rows", type=int, default=1_000_000)
@click.option("--url", default=POSTGRESQL[1], help="A PostgreSQL server.")
@click.option("--json", "as_json", is_flag=True)
def main(rows: int, url: str, *, as_json: bool) -> None:
    """Measure, and print a table."""
    with database(url) as engine:
        fill_source(engine, rows)
        world = world_of(engine)
        fed = feed_all(world, rows)
        live = live_beside(world)
    if as_json:
        sys.stdout.write(json.dumps({"fed": fed, "live": live}) + "\n")
        return
    for title, figures in (("feeding alone", fed), ("a change beside it", live)):
        shown = table(title=title)
        shown.add_column("figure")
        shown.add_column("value", justify="right")
        for name, value in figures.items():
            shown.add_row(name, number(value) if isinstance(value, int) else str(value))
        Console().print(shown, "")


if __name__ == "__main__":
    main()
