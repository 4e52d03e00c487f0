"""What a second request in flight brings: `python -m tests.benchmarks.shards [URL]`, about a minute.

Without an address, a SQLite file; a server's database must have no tables of this package, and they
are dropped afterwards. A sandbox answers slowly, as portals do; its rate allows more requests than
one lane can make, whose next request waits for the answer to the last.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, perf_counter

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from b24sync import Change
from b24sync.drain import Order, drain
from b24sync.edge import schema, tables, taking
from b24sync.edge.database import make_engine, reading, writing
from b24sync.outbox import Outbox
from b24sync.sandbox import Sandbox, SandboxConfig
from tests.benchmarks.emptiness import must_be_empty
from tests.house import add_portal, in_threads, rows_of, world_of

WITHIN_S = 120.0


def measured(
    engine: Engine, *, shards: int, workers: int, requests: int, latency_s: float, rate: float
) -> tuple[float, list[tuple[str, int]]]:
    """Send so many requests of one command each, to a portal that takes its time.

    Shape: requests per second; and what the portal did, in its order: entity and number of change.
    Units: ``rate`` requests per second.
    """
    entities = max(4, requests // 4)
    with Sandbox(SandboxConfig(latency_s=latency_s)) as portal:
        add_portal(engine, rate_x=1, rate_y=rate, shards=shards)
        world = world_of(engine, webhook_url=portal.webhook_url, batch_size=1, slice_batches=1000)
        with writing(engine) as connection:
            # Its time flies: the number of shards is read anew.
            Outbox(clock=lambda: 1000 * monotonic()).enqueue(
                connection,
                *(
                    Change(
                        "company",
                        f"c-{number % entities}",
                        "upsert",
                        {"title": f"c-{number % entities}", "comments": f"{number}"},
                        mergeable=False,
                    )
                    for number in range(requests)
                ),
            )
        begun_s = perf_counter()
        work = _worker(engine, lambda: drain(world, Order()).requests)
        in_threads([work] * workers, within_s=WITHIN_S)
        took_s = perf_counter() - begun_s
        world.client.close()
        keys = {
            str(link["remote_id"]): str(link["entity_key"]) for link in rows_of(engine, tables.link)
        }
        done = [
            (keys[f"{command.id}"], int(f"{fields['comments']}"))
            for command in portal.journal()
            if command.ok and isinstance(fields := command.params.get("fields"), dict)
        ]
    return requests / took_s, done


def _worker(engine: Engine, work: Callable[[], int]) -> Callable[[], None]:
    """Drain until the outbox is empty, and rest in between for as long as the tables say."""

    def run() -> None:
        while rows_of(engine, tables.outbox):
            if work():
                continue
            with reading(engine) as connection:
                wait_ms = taking.next_due_ms(connection)
            threading.Event().wait(min(50 if wait_ms is None else wait_ms, 50) / 1000)

    return run


def is_in_order(done: list[tuple[str, int]]) -> bool:
    """Whether the changes of each entity arrived in the order in which they were written."""
    last: dict[str, int] = {}
    for entity, number in done:
        if number <= last.get(entity, -1):
            return False
        last[entity] = number
    return True


def main() -> None:
    """One, two and four shards, with as many workers."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{Path(folder) / 'shards.db'}"
        engine = make_engine(url, pool_size=8)
        must_be_empty(engine)
        shown = Table(
            title=f"{engine.dialect.name}: answers after 1 s, 2 requests a second allowed"
        )
        for name in ("shards", "workers", "requests a second", "in order"):
            shown.add_column(name, justify="right")
        for shards, workers in ((1, 1), (1, 2), (2, 2), (4, 4)):
            schema.upgrade(engine)
            speed, done = measured(
                engine, shards=shards, workers=workers, requests=24, latency_s=1.0, rate=2.0
            )
            shown.add_row(f"{shards}", f"{workers}", f"{speed:.2f}", f"{is_in_order(done)}")
            tables.metadata.drop_all(engine)
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DROP TABLE {schema.VERSION_TABLE}")
        engine.dispose()
    console.print(shown)


if __name__ == "__main__":
    main()
