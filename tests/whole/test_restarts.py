"""Databases and brokers that are killed and started again under load: work goes on by itself.

Two workers and beat as a user runs them, an application that goes on adding rows, and a server of
the test's own that is ended in both ways: at its own immediate speed, and by the system.

``pytest -m soak -n 0 -s tests/whole/test_restarts.py`` does it ten times over for each server.
"""

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic

import pytest
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from b24sync import Change, enqueue
from b24sync.edge.database import writing
from tests.whole.readings import held
from tests.whole.servers import SERVERS, Server
from tests.whole.stage import Clock, Stage, opened, wait_until

HASTY = {
    "B24SYNC_LEASE_S": "1",
    "B24SYNC_RECOVER_S": "0.5",
    "B24SYNC_REQUEST_TIMEOUT_S": "2",
    "B24SYNC_QUIET_MARGIN_S": "1",
}
SERVER_MAX_S = 2
QUIET_S = SERVER_MAX_S + 1
DOWN_S = 1.5
BACK_S = 30.0
"""Within which work goes on after a server is there again."""

WORKERS = ("one", "two")
GENTLE = {"postgresql": signal.SIGQUIT}
"""How a server is told to end at once, where it is not by SIGTERM."""

MOST_COMPLAINTS = 10
"""Tracebacks that a worker may write for each time that a server is away. Beat writes as many as it
rings then, which is Celery's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What is restarted, what it stands beside, and how the workers run."""

    restarted: str
    beside: str
    pool: str


HOUSES = (
    House(restarted="postgresql", beside="redis_url", pool="prefork"),
    House(restarted="mariadb", beside="rabbitmq_url", pool="threads"),
    House(restarted="redis", beside="postgresql", pool="prefork"),
    House(restarted="rabbitmq", beside="postgresql", pool="threads"),
)


@dataclass(slots=True)
class Application:
    """Adds rows, one transaction each, whether the database is there or not."""

    engine: Engine
    sure: set[str] = field(default_factory=set[str])
    unsure: set[str] = field(default_factory=set[str])
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Go on until told to end; of a COMMIT without an answer nobody knows what became."""
        for number in count():
            if self.ended.wait(0.02):
                return
            key = f"k-{number}"
            try:
                with writing(self.engine) as connection:
                    enqueue(connection, Change("company", key, "add", fields={"title": key}))
            except DBAPIError:
                self.unsure.add(key)
            else:
                self.sure.add(key)


@contextmanager
def application(engine: Engine) -> Iterator[Application]:
    """An application under way."""
    mine = Application(engine)
    thread = threading.Thread(target=mine.run, daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        mine.ended.set()
        thread.join(timeout=30)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(1, id="short", marks=pytest.mark.timeout(150)),
        pytest.param(10, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
@pytest.mark.parametrize("house", HOUSES, ids=[house.restarted for house in HOUSES])
def test_work_goes_on_by_itself_when_a_server_is_there_again(
    house: House,
    times: int,
    tmp_path: Path,
    queue_name: str,
    request: pytest.FixtureRequest,
) -> None:
    """Killed twice under load: nothing is lost, nothing doubled, and every worker works again."""
    clock = Clock(f"restarts, {house.restarted}")
    with ExitStack() as closing:
        server = closing.enter_context(SERVERS[house.restarted]())
        stage = _stage(closing, house, server, tmp_path, queue_name, request)
        clock.lap("starting")
        with application(stage.engine) as customer:
            wait_until(lambda: _applied(stage) > 50, within_s=30, what=stage.report)
            gentle = GENTLE.get(house.restarted, signal.SIGTERM)
            backs = [
                _restarted(stage, server, number)
                for number in (gentle, signal.SIGKILL)
                for _ in range(times)
            ]
            marks = {one.name: len(one.said) for one in stage.started}
            wait_until(lambda: _all_worked(stage, marks), within_s=BACK_S, what=stage.report)
            clock.lap("working")
        wait_until(lambda: _is_over(stage), within_s=60, what=stage.report)
        clock.lap("ending")
        pongs = _pongs(stage.environment["B24SYNC_BROKER_URL"])
        stage.stop(quiet=False)
        clock.lap("stopping")

        sys.stdout.write(
            f"restarts, {house.restarted}: adds {len(customer.sure)}, back after "
            f"{', '.join(f'{back_s:.1f}' for back_s in backs)} s, tracebacks {_complaints(stage)}\n"
        )
        _assert_all_arrived_once(stage, customer)
        assert pongs == len(WORKERS)
        assert max(_complaints(stage)[name] for name in WORKERS) <= MOST_COMPLAINTS * len(backs)
        _assert_no_secret(stage)


def _stage(
    closing: ExitStack,
    house: House,
    server: Server,
    home: Path,
    queue: str,
    request: pytest.FixtureRequest,
) -> Stage:
    """The stage on the server that is restarted and on what stands beside it, at work."""
    if house.beside.endswith("_url"):
        database_url, broker_url = server.url, str(request.getfixturevalue(house.beside))
    else:
        beside = closing.enter_context(SERVERS[house.beside]())
        database_url, broker_url = beside.url, server.url
    places = {
        "B24SYNC_DATABASE_URL": database_url,
        "B24SYNC_BROKER_URL": broker_url,
        "B24SYNC_QUEUE": queue,
    }
    stage = opened(closing, home, HASTY | places, {"latency_s": 0.05})
    stage.prepare()
    stage.limit_requests(SERVER_MAX_S)
    stage.work(*WORKERS, pool=house.pool)
    return stage


def _restarted(stage: Stage, server: Server, number: signal.Signals) -> float:
    """End a server, start it again, and see that work goes on; how long that took, seconds."""
    server.end(number)
    threading.Event().wait(DOWN_S)
    server.start()
    there_s, before = monotonic(), _applied(stage)
    wait_until(lambda: _applied(stage) > before + 50, within_s=BACK_S, what=stage.report)
    for one in stage.started:
        assert one.process.poll() is None, f"{one.name} has ended: {one.said[-4000:]}"
    return monotonic() - there_s


def _applied(stage: Stage) -> int:
    return stage.number("SELECT count(*) FROM b24sync_result WHERE outcome = 'applied'")


def _all_worked(stage: Stage, marks: dict[str, int]) -> bool:
    """Whether each worker has ended a run since it had said so much."""
    return all(
        "succeeded in" in one.said[marks[one.name] :]
        for one in stage.started
        if one.name in WORKERS
    )


def _is_over(stage: Stage) -> bool:
    """Whether nothing is left; a look that was interrupted is repeated now and not in a minute."""
    stage.hurry(QUIET_S)
    return stage.number("SELECT count(*) FROM b24sync_outbox") == 0


def _pongs(broker_url: str) -> int:
    """How many workers answer."""
    with Celery("asking", broker=broker_url, set_as_current=False) as app:
        return len(app.control.ping(timeout=10.0, limit=len(WORKERS)) or ())


def _complaints(stage: Stage) -> dict[str, int]:
    return {one.name: one.said.count("Traceback") for one in stage.started}


def _assert_all_arrived_once(stage: Stage, customer: Application) -> None:
    finals = stage.rows("SELECT entity_key, outcome FROM b24sync_result WHERE final")
    ends = Counter(str(row["entity_key"]) for row in finals)
    made = {marker.partition(":")[2] for marker in held(stage)}

    assert {row["outcome"] for row in finals} == {"applied"}
    assert set(ends.values()) == {1}
    assert customer.sure <= set(ends) <= customer.sure | customer.unsure
    assert made == set(ends)
    assert stage.number("SELECT count(*) FROM b24sync_batch WHERE closed_at IS NULL") == 0


def _assert_no_secret(stage: Stage) -> None:
    for one in stage.started:
        assert "sandbox-secret" not in one.said, one.name
        assert stage.environment["B24SYNC_SECRET_KEY"] not in one.said, one.name
