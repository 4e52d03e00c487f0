"""How near workers come to a portal's rate: `python -m tests.benchmarks.rate`, about twenty seconds.

Celery workers, each a process of its own with the plugin, drain one portal: the sandbox in another
process, over HTTP, with the bucket that the manual names. No beat runs: what goes on in time goes on
by the workers' own messages. PostgreSQL and a broker must be there; a database and a queue are made
and dropped. Ended with exit code 1 if a request was refused or a change did not arrive.
"""

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import click
from celery import Celery
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine, func, make_url, select, text

import b24sync.tasks  # noqa: F401 - whoever rings imports the tasks
from b24sync import Change, enqueue_many
from b24sync.edge import portals, tables
from b24sync.edge.database import make_engine, reading, writing
from b24sync.edge.portals import Address, Limits
from b24sync.edge.schema import upgrade
from b24sync.edge.tokens import Keyring, new_key, parse_webhook
from b24sync.plugin import install
from tests.apps.running import Yard, wait_until

POSTGRESQL = "postgresql+psycopg://root@127.0.0.1:5432/postgres"
BROKERS = {
    "redis": os.environ.get("B24SYNC_TEST_REDIS_URL", "redis://127.0.0.1:6379/9"),
    "rabbitmq": os.environ.get("B24SYNC_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
}
LONGEST_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is measured: how many batches, and what the portal and the workers are like."""

    batches: int
    commands: int
    bucket: float
    leak: float
    latency: float
    command_latency: float
    workers: int
    pool: str
    broker: str

    @property
    def ideal_s(self) -> float:
        """The shortest time in which a bucket that is empty at first takes so many requests."""
        return max(0.0, (self.batches - self.bucket) / self.leak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of it.

    Shape: ``by_second`` are the requests that the portal took in each second since the first.
    Units: seconds; ``median_s`` is how long an answer took; ``whole_s`` from the first message to the last change settled, ``portal_s`` from
    the first request to the last answer.
    """

    whole_s: float
    portal_s: float
    requests: int
    refused: int
    applied: int
    by_second: Sequence[int]
    median_s: float


@contextmanager
def database() -> Generator[str]:
    """A database of this run's own; its address."""
    address = make_url(os.environ.get("B24SYNC_TEST_POSTGRESQL_URL", POSTGRESQL))
    name = f"b24sync_rate_{os.getpid()}"
    server = make_engine(address.render_as_string(hide_password=False))
    maintenance = server.execution_options(isolation_level="AUTOCOMMIT")
    with maintenance.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield address.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def prepare(engine: Engine, course: Course, webhook_url: str, key: str) -> None:
    """Migrate, make the portal known, and say every change."""
    upgrade(engine)
    webhook = parse_webhook(webhook_url)
    keyring = Keyring.from_keys((key,))
    address = Address(
        base_url=webhook.base_url,
        secret=keyring.encrypt(webhook.path),
        secret_key_id=keyring.key_ids[0],
        user="1",
    )
    with writing(engine) as connection:
        portals.add(connection, "acme", address, Limits(rate_x=course.bucket, rate_y=course.leak))
        enqueue_many(
            connection,
            (
                Change("contact", f"c-{n}", "add", {"name": f"Ann {n}"}, portal="acme")
                for n in range(course.batches * course.commands)
            ),
        )


def measured(course: Course, home: Path) -> Figures:
    """One run from its beginning to its end."""
    yard = Yard(home=home)
    queue, journal, key = f"b24sync_rate_{os.getpid()}", home / "journal", new_key()
    try:
        with database() as url:
            figures = {
                "--bucket": course.bucket,
                "--leak": course.leak,
                "--latency": course.latency,
                "--command-latency": course.command_latency,
                "--journal": journal,
            }
            options = [str(part) for option in figures.items() for part in option]
            portal = yard.python("-m", "b24sync.sandbox", "--port", "0", *options)
            portal.says("/rest/")
            engine = make_engine(url)
            prepare(engine, course, portal.output.split()[0], key)
            config: dict[str, object] = {
                "broker_url": BROKERS[course.broker],
                "worker_prefetch_multiplier": 1,
                "b24sync_database_url": url,
                "b24sync_secret_key": key,
                "b24sync_queue": queue,
                "b24sync_batch_size": course.commands,
                # So many batches, and not one more to learn how long a command takes.
                "b24sync_batch_start": course.commands,
            }
            for _ in range(course.workers):
                yard.worker(config, course.pool, "-c", "1", "-Q", queue)
            whole_s = drained(engine, config)
            with reading(engine) as connection:
                is_applied = tables.result.c.outcome == "applied"
                applied = connection.execute(
                    select(func.count()).select_from(tables.result).where(is_applied)
                ).scalar_one()
            engine.dispose()
            for started in yard.started:
                started.stop()
            for started in yard.started:
                started.ends()
        return told(journal, whole_s, applied)
    finally:
        yard.clear()


def drained(engine: Engine, config: dict[str, object]) -> float:
    """Ring once, and wait until nothing is left; the seconds that it took."""
    app = Celery("ringer", set_as_current=False)
    app.config_from_object(config)
    install(app)
    left = select(func.count()).select_from(tables.outbox)

    def is_empty() -> bool:
        with reading(engine) as connection:
            return connection.execute(left).scalar_one() == 0

    with app:
        app.tasks["b24sync.sync_entities"].delay()
        began = monotonic()
        wait_until(is_empty, within_s=LONGEST_S)
        return monotonic() - began


def told(journal: Path, whole_s: float, applied: int) -> Figures:
    """What the portal's journal says."""
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    asked = [entry for entry in entries if entry["entry"] == "request"]
    taken = [entry for entry in asked if entry["status"] == 200]
    first = min(entry["at"] for entry in taken)
    seconds = Counter(math.floor(entry["at"] - first) for entry in taken)
    tooks = sorted(entry["took_s"] for entry in taken)
    return Figures(
        whole_s=whole_s,
        portal_s=max(entry["at"] + entry["took_s"] for entry in taken) - first,
        requests=len(asked),
        refused=sum(entry["code"] == "QUERY_LIMIT_EXCEEDED" for entry in asked),
        applied=applied,
        by_second=[seconds[second] for second in range(max(seconds) + 1)],
        median_s=tooks[len(tooks) // 2],
    )


def show(console: Console, course: Course, figures: Figures) -> None:
    """A table of the seconds, and the figures below it."""
    shown = Table("second", "requests", "", box=None, pad_edge=False, header_style="bold")
    shown.columns[0].justify = shown.columns[1].justify = "right"
    for second, requests in enumerate(figures.by_second):
        shown.add_row(str(second), str(requests), Text("█" * requests, "green"))
    console.print(shown)
    console.print(
        f"\n{figures.applied} changes in {figures.requests} requests by {course.workers} workers "
        f"({course.pool}, {course.broker}); an answer took {figures.median_s * 1000:.0f} ms, median"
    )
    style = "bold red" if figures.refused else "bold green"
    console.print(Text(f"{figures.refused} refused", style))
    console.print(
        f"{figures.whole_s:.2f} s from the ring to the last change settled, {figures.portal_s:.2f} s "
        f"from the first request to the last answer; ideal {course.ideal_s:.1f} s"
    )


@click.command(help=__doc__)
@click.option("--batches", default=70, show_default=True)
@click.option("--commands", default=50, show_default=True, help="Adds in each batch.")
@click.option("--bucket", default=50.0, show_default=True, help="Requests at once.")
@click.option("--leak", default=2.0, show_default=True, help="Requests per second.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds per request.")
@click.option("--command-latency", default=0.0, show_default=True, help="Seconds per command.")
@click.option("--workers", default=4, show_default=True)
@click.option("--pool", default="prefork", show_default=True, help="Of the workers.")
@click.option("--broker", type=click.Choice(list(BROKERS)), default="redis", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Machine output on stdout.")
def main(*, as_json: bool, **given: object) -> None:
    """Measure once and say what came of it."""
    course = Course(**given)  # type: ignore[arg-type] # each option has its field's type
    with tempfile.TemporaryDirectory() as home:
        figures = measured(course, Path(home))
    if as_json:
        click.echo(json.dumps({**asdict(course), "ideal_s": course.ideal_s, **asdict(figures)}))
    else:
        show(Console(), course, figures)
    if figures.refused or figures.applied != course.batches * course.commands:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
