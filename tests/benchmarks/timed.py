"""What the benchmarks of a portal's time have in common: a portal, its outbox, and one worker."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from b24sync import Change, enqueue_many
from b24sync.drain import Order, drain
from b24sync.edge import tables, taking
from b24sync.edge.database import make_engine, reading, writing
from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.settings import Settings
from b24sync.world import World, build

MANY = 10**6
IDLE_S = 0.02
"""How often an idle worker looks whether something is due, at the least."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A portal with an outbox, and a worker's world."""

    sandbox: Sandbox
    world: World

    def fill(self, changes: Iterable[Change]) -> None:
        """Write changes into the outbox."""
        with Session(self.world.engine) as session, session.begin():
            enqueue_many(session, changes)

    def work(self, lasts_s: float) -> None:
        """Drain what is due, again and again, as a worker does that is woken when it is."""
        ends = monotonic() + lasts_s
        while monotonic() < ends:
            if drain(self.world, Order(), stopping=lambda: monotonic() >= ends).requests == 0:
                with reading(self.world.engine) as connection:
                    next_ms = taking.next_due_ms(connection)
                idle_s = IDLE_S if next_ms is None else min(next_ms / 1000, IDLE_S)
                Event().wait(max(0.001, idle_s))

    def applied(self) -> int:
        """How many changes were applied."""
        done = select(tables.result.c.id).where(tables.result.c.outcome == "applied")
        with reading(self.world.engine) as connection:
            return len(connection.execute(done).all())


@contextmanager
def staged(config: SandboxConfig, *, server_max_s: int, **settings: float) -> Iterator[Stage]:
    """A portal like this, nothing on it and nothing in the outbox, in a SQLite file."""
    with tempfile.TemporaryDirectory() as home, Sandbox(config) as sandbox:
        url = f"sqlite:///{Path(home) / 'benchmark.db'}"
        engine = make_engine(url)
        tables.metadata.create_all(engine)
        with writing(engine) as connection:
            connection.execute(
                insert(tables.portal).values(
                    code="default",
                    base_url=sandbox.url,
                    rate_x=MANY,
                    rate_y=MANY,
                    server_max_s=server_max_s,
                )
            )
            connection.execute(insert(tables.lane).values(portal="default", lane=0))
        engine.dispose()
        given = Settings(database_url=url, webhook_url=sandbox.webhook_url, **settings)  # type: ignore[arg-type] # each is a number
        world = build(given)
        try:
            yield Stage(sandbox, world)
        finally:
            world.client.close()
            world.engine.dispose()
