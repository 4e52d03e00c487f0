"""A batch costs what it must: so many statements, so many transactions, and no memory that stays."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import requests
from sqlalchemy import Connection, Engine, event

from b24sync import Change, enqueue_many
from b24sync.drain import Order, Tally, drain
from b24sync.edge.database import writing
from b24sync.world import Moment, Step, World
from tests.fakes import ScriptedPortal
from tests.house import Clerk, world_of

ADDS = {"sqlite": 15, "postgresql": 15, "mariadb": 16}
"""Statements of a usual batch of adds, from its claim to its settled outcomes."""

UPDATES = {"sqlite": 13, "postgresql": 13, "mariadb": 14}
"""The same of updates of records that are there."""

TRANSACTIONS = 3
"""Of either: what will be sent is written, that it is being sent, and what became of it."""

Cost = tuple[int, int]
"""Statements and transactions."""


@dataclass(slots=True)
class Counter:
    """Counts what is executed in each batch, from claim to settle; ``telling`` is for a world."""

    batches: list[Cost] = field(default_factory=list[Cost])
    _statements: int = 0
    _transactions: int = 0

    def telling(self, step: Step, moment: Moment) -> None:
        """A batch begins with its claim, and is over when it is settled."""
        if (step, moment) == (Step.CLAIM, Moment.BEFORE):
            self._statements = self._transactions = 0
        elif (step, moment) == (Step.SETTLE, Moment.AFTER):
            self.batches.append((self._statements, self._transactions))

    @contextmanager
    def listening(self, engine: Engine) -> Iterator[None]:
        """Count while the block runs; what only begins a transaction is no statement."""

        def statement(_connection: Connection, _cursor: object, text: str, *_: object) -> None:
            self._statements += not text.startswith("BEGIN")

        def commit(_connection: Connection) -> None:
            self._transactions += 1

        event.listen(engine, "before_cursor_execute", statement)
        event.listen(engine, "commit", commit)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", statement)
            event.remove(engine, "commit", commit)


class Forgetful(ScriptedPortal):
    """A portal without end that keeps nothing of what it was asked."""

    def __init__(self) -> None:
        """Do whatever is asked."""
        clerk = Clerk()
        super().__init__(iter(lambda: clerk, None))

    def send(self, request: requests.PreparedRequest, **options: object) -> requests.Response:  # type: ignore[override]
        """Answer, and forget."""
        answer = super().send(request, **options)
        self.asked.clear()
        return answer


def change(operation: str, number: int) -> Change:
    """A change of a contact with seven plain fields."""
    names = ("name", "lastName", "secondName", "post", "comments", "sourceId", "ufCrm_1")
    fields = {name: f"{name} {number} {operation}" for name in names}
    return Change("contact", f"k{number}", operation, fields)


def put(engine: Engine, operation: str, count: int) -> None:
    """So many changes wait, each of an entity of its own."""
    with writing(engine) as connection:
        enqueue_many(connection, (change(operation, number) for number in range(count)))


def costs(world: World) -> list[Cost]:
    """What each batch of all that is due costs."""
    counter = Counter()
    with counter.listening(world.engine):
        drain(replace(world, telling=counter.telling), Order())
    return counter.batches


@pytest.fixture
def tidy(house: Engine) -> World:
    """A world whose first batch is done: what is made once is there."""
    world = world_of(house, Forgetful(), slice_batches=10**6, slice_s=1e9)
    with writing(house) as connection:
        enqueue_many(connection, [Change("contact", "first", "add", {"name": "Ann"})])
    drain(world, Order())
    return world


def test_a_batch_of_adds_costs_so_many_statements(tidy: World, backend: str) -> None:
    """Each of four batches alike; whoever finds less to do writes the lower number down."""
    put(tidy.engine, "add", 200)

    assert costs(tidy) == [(ADDS[backend], TRANSACTIONS)] * 4


def test_a_batch_of_updates_costs_so_many_statements(tidy: World, backend: str) -> None:
    """Of records that the portal has; the first of a method writes down what it takes."""
    put(tidy.engine, "add", 200)
    drain(tidy, Order())
    put(tidy.engine, "update", 200)

    usual = UPDATES[backend]
    assert costs(tidy) == [(n, TRANSACTIONS) for n in (usual + 1, usual, usual, usual)]


def test_the_cost_does_not_depend_on_the_rows_of_a_batch(tidy: World, backend: str) -> None:
    """Nothing is done row by row."""
    put(tidy.engine, "add", 10)

    assert costs(tidy) == [(ADDS[backend], TRANSACTIONS)]


def test_memory_does_not_grow_with_the_batches(lite_house: Engine) -> None:
    """After two hundred batches a worker holds what it held after forty."""
    world = world_of(lite_house, Forgetful(), batch_size=5, slice_batches=10**6, slice_s=1e9)
    put(lite_house, "add", 200 * 5)
    held: list[int] = []
    batches = 0

    def watching(tally: Tally) -> None:
        nonlocal batches
        batches += tally.batches
        if tally.batches and batches in {40, 200}:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        drain(world, Order(), watching=watching)
    finally:
        tracemalloc.stop()

    assert batches == 200
    after_forty, after_all = held
    # One row of a batch holds more, if it is kept.
    assert after_all - after_forty < 100 * 160
