"""What capturing costs: `python -m tests.benchmarks.capture [URL]`, about ten seconds.

Without an address, a SQLite file. The database must have no tables of this package or of the
shop's; they are made and dropped. Objects are inserted and updated by sessions of which one kind is
captured; for comparison, others write the same changes with ``enqueue_many``. Each figure is the
best of some rounds.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, sessionmaker

from b24sync import Change, enqueue_many
from b24sync.capture import Computed, Entity, capture
from b24sync.edge import tables
from tests.shop import Base, Customer

OBJECTS = 2_000
ROUNDS = 7

ENTITY = Entity(
    Customer,
    kind="contact",
    key="c-{id}",
    fields={
        "name": "first_name",
        "lastName": "last_name",
        "comments": Computed(lambda c: f"{c.first_name}: {c.remark}", ["first_name", "remark"]),
    },
)


def insert(session: Session) -> None:
    """Make objects, in one flush."""
    session.add_all(
        [Customer(first_name="Ann", last_name=f"Lee {number}") for number in range(OBJECTS)]
    )


def update(session: Session) -> None:
    """Change one attribute of each object, in one flush."""
    for customer in session.query(Customer).all():
        customer.last_name = f"{customer.last_name}!"


def unmapped(session: Session) -> None:
    """Change an attribute that no field is made of."""
    for customer in session.query(Customer).all():
        customer.visits += 1


WORKS: dict[Callable[[Session], None], tuple[str, ...]] = {
    insert: ("name", "lastName", "comments"),
    update: ("lastName",),
    unmapped: (),
}
"""What is measured, and the fields that it changes."""


def by_hand(work: Callable[[Session], None], session: Session) -> None:
    """The same work, with the changes that it makes."""
    work(session)
    fields = dict.fromkeys(WORKS[work], "Lee 1000")
    keys = range(OBJECTS) if fields else ()
    enqueue_many(session, (Change("contact", f"c-{key}", "upsert", fields) for key in keys))


def seconds(engine: Engine, makes: sessionmaker[Session], work: Callable[[Session], None]) -> float:
    """How long a transaction takes, on an empty outbox."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM b24sync_outbox"))
    began = perf_counter()
    with makes.begin() as session:
        work(session)
    return perf_counter() - began


def compare(engine: Engine, work: Callable[[Session], None]) -> None:
    """Print what an object costs plain, with a change written by hand, and captured, in turns."""
    plain, captured = sessionmaker(engine), sessionmaker(engine)
    capture(captured, [ENTITY])
    ways = ((plain, work), (plain, partial(by_hand, work)), (captured, work))
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):
        rounds.append([])
        for makes, way in ways:
            if work is insert:
                with engine.begin() as connection:
                    connection.execute(text("DELETE FROM shop_customer"))
            rounds[-1].append(seconds(engine, makes, way))
    alone, manual, caught = (min(column) * 1e6 / OBJECTS for column in zip(*rounds, strict=True))
    sys.stdout.write(
        f"{work.__name__:>9} {alone:>6.0f} µs plain {manual:>6.0f} µs by hand {caught:>6.0f} µs captured"
        f" {caught / alone:>6.2f} x plain {caught / manual:>6.2f} x by hand\n"
    )


def main(url: str) -> None:
    """Print a table of microseconds for each object."""
    engine = create_engine(url)
    for metadata in (Base.metadata, tables.metadata):
        metadata.create_all(engine)
    try:
        for work in WORKS:
            compare(engine, work)
    finally:
        for metadata in (Base.metadata, tables.metadata):
            metadata.drop_all(engine)
        engine.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        main(sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{Path(home) / 'benchmark.db'}")
