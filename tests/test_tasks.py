"""The tasks: messages are hints, and workers may end at any moment."""

import json
import logging
import sqlite3
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import kombu.exceptions
import pytest
from celery import Celery
from sqlalchemy import Engine, text

import b24sync.tasks  # noqa: F401 - whoever rings imports the tasks
from b24sync import Change, enqueue
from b24sync.core.errors import SettingsError
from b24sync.edge import tables
from b24sync.edge.database import make_engine, writing
from b24sync.edge.schema import upgrade
from b24sync.host import host_of
from b24sync.plugin import install
from b24sync.sandbox import Sandbox, SandboxConfig
from tests.apps.running import Started, Yard, wait_until
from tests.house import (
    add_portal,
    add_rows,
    change,
    endings,
    in_threads,
    one,
    rows_of,
    states,
    time_passes,
)

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

PUMP = "b24sync.pump"
RECOVER = "b24sync.recover"
PRUNE = "b24sync.prune"
SYNC = "b24sync.sync_entities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A host application on the embedded broker, seen from its database, its broker and the portal."""

    home: Path
    engine: Engine
    config: Mapping[str, object]
    app: Celery

    def run(self, task: str, **arguments: object) -> Any:  # noqa: ANN401 - what the task returns
        """Run a task here and now, as a worker would."""
        return self.app.tasks[task].apply(kwargs=arguments, throw=True).get()

    def ring(self, times: int = 1) -> None:
        """Send the drain's message."""
        for _ in range(times):
            self.app.tasks[SYNC].delay()

    def payloads(self) -> list[Mapping[str, Any]]:
        """The messages that wait, as the broker keeps them."""
        with closing(sqlite3.connect(self.home / "broker.db", timeout=5)) as connection:
            found = connection.execute("SELECT payload FROM message ORDER BY id").fetchall()
        return [json.loads(payload) for (payload,) in found]

    def messages(self) -> list[tuple[str, Mapping[str, object]]]:
        """The messages that wait: task and named arguments."""
        return [(payload["headers"]["task"], arguments_of(payload)) for payload in self.payloads()]

    def purge(self) -> None:
        """Lose every message."""
        with closing(sqlite3.connect(self.home / "broker.db", timeout=5)) as connection, connection:
            connection.execute("DELETE FROM message")


def arguments_of(payload: Mapping[str, Any]) -> Mapping[str, object]:
    """The named arguments of a message."""
    encoded = payload["properties"].get("body_encoding") == "base64"
    _, named, _ = json.loads(b64decode(payload["body"]) if encoded else payload["body"])
    return dict(named)


@pytest.fixture
def yard(tmp_path: Path) -> Generator[Yard]:
    """A place for processes, all of which end with the test."""
    place = Yard(home=tmp_path)
    yield place
    place.clear()


@pytest.fixture
def sandbox() -> Generator[Sandbox]:
    """A portal that answers at once."""
    with Sandbox() as portal:
        yield portal


Opening = Callable[..., Shop]


@pytest.fixture
def opened(tmp_path: Path, engine: Engine, database_url: str) -> Generator[Opening]:
    """A function that opens a shop on this test's database, with these settings of ours."""
    apps: list[Celery] = []

    def open_with(portal: Sandbox | None = None, **settings: object) -> Shop:
        config: dict[str, object] = {
            "broker_url": f"b24sqlite:///{tmp_path}/broker.db",
            "b24sync_database_url": database_url,
            "b24sync_webhook_url": portal.webhook_url if portal else None,
            "b24sync_lease_s": 1,
        }
        config |= {f"b24sync_{name}": value for name, value in settings.items()}
        app = Celery("shop", set_as_current=False)
        app.config_from_object(config)
        install(app)
        apps.append(app)
        return Shop(home=tmp_path, engine=engine, config=config, app=app)

    yield open_with
    for app in apps:
        host_of(app).close()
        app.close()


def add_contacts(engine: Engine, count: int, *, start: int = 0) -> None:
    """That many adds of contacts, numbered."""
    with writing(engine) as connection:
        for number in range(start, start + count):
            fields = {"name": f"n{number}"}
            enqueue(connection, Change("contact", key=f"c{number}", operation="add", fields=fields))


def each_arrived_once(shop: Shop, sandbox: Sandbox, count: int) -> None:
    """Every row has one final result, and the portal holds every record once."""
    assert endings(shop.engine) == {number: ["applied"] for number in range(1, count + 1)}
    names = Counter(record["name"] for record in sandbox.records("contact").values())
    assert names == Counter(f"n{number}" for number in range(count))
    assert states(shop.engine) == {}


# What a task does


def test_results_are_counted_when_they_are_asked_for(opened: Opening, sandbox: Sandbox) -> None:
    """A caller that asks for the result learns what the run did."""
    shop = opened(sandbox, batch_size=2)
    add_contacts(shop.engine, 3)
    sandbox.add_fault("command", field="name", matches="n1", code="ACCESS_DENIED", text="No.")

    counts = shop.run(SYNC)

    assert counts["batches"] == 2
    assert sum(counts["outcomes"].values()) == 3
    assert counts["outcomes"]["applied"] == 2
    assert counts["deferred"] == 0


@on_sqlite
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"portal": "nowhere"}, "portal: there is no portal 'nowhere'; known are: default"),
        ({"halt": "sideways"}, "halt: 'sideways' is none of independent, chain, strict"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(
    opened: Opening, sandbox: Sandbox, arguments: Mapping[str, object], complaint: str
) -> None:
    """The error names the argument and what is known; nothing is sent."""
    shop = opened(sandbox)
    add_contacts(shop.engine, 1)

    with pytest.raises(SettingsError) as caught:
        shop.run(SYNC, **arguments)

    assert str(caught.value) == complaint
    assert sandbox.requests() == []


@on_sqlite
@pytest.mark.parametrize(
    ("policy", "halt", "outcomes"),
    [
        (None, "strict", {"stopped": 1, "skipped": 1}),
        ({"halt": "strict"}, None, {"stopped": 1, "skipped": 1}),
        ({"halt": "strict"}, "independent", {"failed": 1, "applied": 1}),
        (None, None, {"failed": 1, "applied": 1}),
    ],
    ids=["asked for", "the portal's", "asked for otherwise", "nobody's"],
)
def test_a_run_halts_as_it_is_told_or_else_as_the_portals_policy_says(
    opened: Opening,
    sandbox: Sandbox,
    policy: object,
    halt: str | None,
    outcomes: Mapping[str, int],
) -> None:
    """In the mode ``strict`` the first refusal stops the lane, and the rest is not sent."""
    shop = opened(sandbox)
    add_contacts(shop.engine, 2)
    sandbox.add_fault("command", field="name", matches="n0", code="ACCESS_DENIED", text="No.")
    shop.run(SYNC, limit=1, kinds=["deal"])
    change(shop.engine, tables.portal, {"policy": policy}, code="default")

    counts = shop.run(SYNC, halt=halt)

    assert counts["outcomes"] == outcomes


@on_sqlite
def test_only_the_kinds_asked_for_are_drained(opened: Opening, sandbox: Sandbox) -> None:
    """The others wait for a run without a filter."""
    shop = opened(sandbox)
    add_contacts(shop.engine, 1)
    with writing(shop.engine) as connection:
        enqueue(connection, Change("deal", key="d", operation="add", fields={"title": "D"}))

    first = shop.run(SYNC, kinds=["deal"])
    then = states(shop.engine)
    second = shop.run(SYNC)

    assert (first["outcomes"], second["outcomes"]) == ({"applied": 1}, {"applied": 1})
    assert then == {"c0": "ready"}
    assert states(shop.engine) == {}


@on_sqlite
def test_a_limit_bounds_the_rows_and_rings_for_no_more(opened: Opening, sandbox: Sandbox) -> None:
    """Whoever asks for three rows gets three, and no message goes after the rest."""
    shop = opened(sandbox, batch_size=2)
    add_contacts(shop.engine, 5)

    counts = shop.run(SYNC, limit=3)

    assert counts["outcomes"] == {"applied": 3}
    assert len(sandbox.records("contact")) == 3
    assert not (shop.home / "broker.db").exists()


@on_sqlite
def test_a_portal_that_is_named_is_drained_alone(opened: Opening, sandbox: Sandbox) -> None:
    """The rows of another portal stay."""
    shop = opened(sandbox)
    add_contacts(shop.engine, 1)
    add_portal(shop.engine, "other", next_due_at=0)
    add_rows(shop.engine, "x", portal="other")

    counts = shop.run(SYNC, portal="default")

    assert counts["outcomes"] == {"applied": 1}
    assert states(shop.engine) == {"x": "ready"}


@on_sqlite
def test_the_rest_of_a_slice_is_one_message_with_the_same_order(
    opened: Opening, sandbox: Sandbox
) -> None:
    """A run that ends with its slice rings once, and the last run not at all."""
    shop = opened(sandbox, batch_size=1, slice_batches=2)
    add_contacts(shop.engine, 5)
    order = {"portal": "default", "kinds": ["contact"], "halt": None}

    left: list[object] = []
    for _ in range(3):
        shop.run(SYNC, **order)
        left.append(shop.messages())
        shop.purge()

    assert left == [[(SYNC, order)], [(SYNC, order)], []]
    each_arrived_once(shop, sandbox, 5)


@on_sqlite
def test_the_pump_rings_for_each_lane_that_is_due_up_to_its_width(opened: Opening) -> None:
    """As many drains as can find work, no more, and none later than the next pump."""
    shop = opened(pump_width=2)
    idle = shop.run(PUMP)
    for code in ("a", "b", "c"):
        add_portal(shop.engine, code)
        add_rows(shop.engine, "x", portal=code)

    woken = shop.run(PUMP)

    assert (idle, woken) == (0, 2)
    assert [task for task, _ in shop.messages()] == [SYNC, SYNC]
    assert all(payload["headers"]["expires"] for payload in shop.payloads())


def test_rows_of_a_portal_that_nobody_made_known_are_told_of(
    opened: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody drains them, so every recovery says so until somebody does something about it."""
    shop = opened()
    add_rows(shop.engine, "x", portal="tyop")

    with caplog.at_level(logging.ERROR, logger="b24sync"):
        shop.run(RECOVER)

    assert [record.getMessage() for record in caplog.records] == ["portal_unknown portal='tyop'"]


@on_sqlite
def test_a_lost_message_is_replaced_by_the_next_pump(opened: Opening, sandbox: Sandbox) -> None:
    """What waits is found in the tables, whoever rang and whoever heard it."""
    shop = opened(sandbox)
    add_contacts(shop.engine, 1)
    shop.ring()
    shop.purge()
    assert shop.messages() == []

    woken = shop.run(PUMP)

    assert woken == 1
    assert [task for task, _ in shop.messages()] == [SYNC]
    shop.run(SYNC)
    each_arrived_once(shop, sandbox, 1)


def test_runs_at_the_same_time_send_each_row_once(opened: Opening) -> None:
    """A second run finds the lane taken, or takes the rows that the first has left."""
    with Sandbox(SandboxConfig(latency_s=0.05)) as sandbox:
        shop = opened(sandbox, batch_size=5, slice_batches=50)
        add_contacts(shop.engine, 20)

        in_threads([lambda: shop.run(SYNC)] * 4)
        time_passes(shop.engine)
        shop.run(SYNC)

        each_arrived_once(shop, sandbox, 20)


@on_sqlite
def test_each_app_of_a_process_drains_its_own_tables(
    opened: Opening, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A task belongs to the app that runs it, whichever app is the current one."""
    shop = opened(sandbox)
    add_contacts(shop.engine, 1)
    other = opened(sandbox, database_url=f"sqlite:///{tmp_path}/other.db", queue="other")
    engine = make_engine(f"sqlite:///{tmp_path}/other.db")
    upgrade(engine)
    engine.dispose()
    other.app.set_current()

    nothing = other.run(SYNC)
    counts = shop.run(SYNC)

    assert nothing["outcomes"] == {}
    assert counts["outcomes"] == {"applied": 1}


@on_sqlite
def test_prune_runs_once_however_many_beats_ring(
    opened: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """The second beat's message finds the chore done."""
    shop = opened()

    with caplog.at_level(logging.INFO, "b24sync"):
        shop.run(PRUNE)
        shop.run(PRUNE)

    assert [record.getMessage() for record in caplog.records] == ["pruned rows=0 partitions=0"]
    assert one(shop.engine, tables.chore)["lease_until"] == 0


def test_a_ring_without_a_broker_fails_soon_and_readably() -> None:
    """An application that rings after its commit learns within seconds; its rows are stored."""
    app = Celery("shop", broker="amqp://127.0.0.1:9", set_as_current=False)
    install(app)
    begun = monotonic()

    with pytest.raises(kombu.exceptions.OperationalError, match="Connection refused"):
        app.tasks[SYNC].delay()

    assert monotonic() - begun < 5
    app.close()


# Workers


@on_postgresql
def test_a_child_shares_no_session_with_its_parent(yard: Yard, database_url: str) -> None:
    """A world belongs to one process, and the parent's outlives its children."""
    process = yard.python("-m", "tests.apps.forking", database_url)

    assert process.ends() == 0, process.output
    sessions = [line.split() for line in process.output.splitlines()]
    assert [name for name, _ in sessions] == ["parent", "first", "second", "parent"]
    assert sessions[0] == sessions[3]
    assert len({number for _, number in sessions}) == 3


@on_sqlite
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_is_asked_to_end_finishes_the_open_batch_only(
    yard: Yard, opened: Opening, pool: str
) -> None:
    """The answer is written down, the lane is free, and the rest of the rows wait untouched."""
    with Sandbox(SandboxConfig(latency_s=0.4)) as sandbox:
        shop = opened(sandbox, batch_size=2, slice_batches=50, lease_s=60)
        add_contacts(shop.engine, 40)
        worker = yard.worker(shop.config, pool)
        shop.ring()
        wait_until(lambda: _open_batches(shop.engine, after=1))

        worker.stop()

        assert worker.ends() == 0
        batches = rows_of(shop.engine, tables.batch)
        assert {batch["state"] for batch in batches} == {"answered"}
        assert 2 <= len(batches) <= 3
        lane = one(shop.engine, tables.lane)
        assert (lane["lease_until"], lane["open_batch_id"]) == (None, None)
        assert len(endings(shop.engine)) == 2 * len(batches) == len(sandbox.records("contact"))
        assert set(states(shop.engine).values()) == {"ready"}


def _open_batches(engine: Engine, *, after: int) -> bool:
    """Whether a request is under way after so many others."""
    found = [batch["state"] for batch in rows_of(engine, tables.batch)]
    return len(found) > after and found[-1] == "sending"


@on_sqlite
def test_two_workers_two_beats_and_doubled_messages_end_as_one_would(
    yard: Yard, opened: Opening, sandbox: Sandbox
) -> None:
    """Every row has one final result and every record exists once; then no message is left."""
    shop = opened(sandbox, batch_size=3, slice_batches=2, pump_s=0.3, recover_s=0.5, prune_s=600)
    beats = [("-B", "-s", f"schedule{number}") for number in (1, 2)]
    workers = [
        yard.worker(shop.config, pool, *beat)
        for pool, beat in zip(["prefork", "threads"], beats, strict=True)
    ]

    add_contacts(shop.engine, 60)
    shop.ring(times=5)
    shop.purge()
    add_contacts(shop.engine, 30, start=60)
    shop.ring(times=5)

    wait_until(lambda: len(endings(shop.engine)) == 90)
    each_arrived_once(shop, sandbox, 90)
    wait_until(lambda: SYNC not in [task for task, _ in shop.messages()])
    assert all("Traceback" not in worker.output for worker in workers)


# Workers that die


def _killed(worker: Started, shop: Shop) -> None:
    """Kill a worker, and let its lease lapse; before that, recover leaves its batch alone."""
    worker.kill()
    assert shop.run(RECOVER) == 0
    change(shop.engine, tables.lane, {"lease_until": 0})


@on_sqlite
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_rows_of_a_worker_killed_while_sending_are_visibly_in_doubt(
    yard: Yard, opened: Opening, pool: str
) -> None:
    """Nobody knows what the portal did, so nothing is repeated and nothing is lost."""
    with Sandbox(SandboxConfig(latency_s=30)) as sandbox:
        shop = opened(sandbox, batch_size=3, lease_s=60)
        add_contacts(shop.engine, 5)
        worker = yard.worker(shop.config, pool)
        shop.ring()
        wait_until(lambda: _open_batches(shop.engine, after=0))

        _killed(worker, shop)
        moved = shop.run(RECOVER)

    assert moved == 1
    assert one(shop.engine, tables.batch)["state"] == "doubt"
    assert states(shop.engine) == {
        "c0": "doubt",
        "c1": "doubt",
        "c2": "doubt",
        "c3": "ready",
        "c4": "ready",
    }
    doubted = rows_of(shop.engine, tables.outbox, state="doubt")
    assert {row["state_reason"] for row in doubted} == {"the worker went away before the answer"}
    assert shop.run(RECOVER) == 0


BRAKE = """
CREATE FUNCTION brake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
CREATE TRIGGER brake BEFORE UPDATE ON b24sync_batch
FOR EACH ROW WHEN (NEW.state = 'sending') EXECUTE FUNCTION brake()
"""
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 7"
WAITING = f"{HELD} AND NOT granted"


@pytest.fixture
def brake(engine: Engine) -> Generator[Engine]:
    """A database in which whoever is about to send waits for as long as lock 7 is held."""
    with writing(engine) as connection:
        connection.execute(text(BRAKE))
    yield engine
    with writing(engine) as connection:
        connection.execute(text("DROP FUNCTION brake CASCADE"))


@on_postgresql
def test_rows_of_a_worker_killed_before_sending_are_ready_at_no_charge(
    yard: Yard, opened: Opening, sandbox: Sandbox, brake: Engine
) -> None:
    """Between the journal and the go nothing was sent, so all is sent once by the next run."""
    shop = opened(sandbox, lease_s=60)
    add_contacts(shop.engine, 3)
    with brake.connect() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(7)"))
        worker = yard.worker(shop.config, "threads")
        shop.ring()
        wait_until(lambda: holder.execute(text(WAITING)).scalar_one() == 1)
        assert [batch["state"] for batch in rows_of(shop.engine, tables.batch)] == ["journalled"]
        worker.kill()
    wait_until(lambda: _gone(brake))

    _killed(worker, shop)
    moved = shop.run(RECOVER)

    assert moved == 1
    assert one(shop.engine, tables.batch)["state"] == "returned"
    assert set(states(shop.engine).values()) == {"ready"}
    assert {row["attempts"] for row in rows_of(shop.engine, tables.outbox)} == {0}
    shop.run(SYNC)
    each_arrived_once(shop, sandbox, 3)


def _gone(engine: Engine) -> bool:
    """Whether the server has noticed that nobody waits for the lock any more."""
    with engine.connect() as connection:
        return int(connection.execute(text(HELD)).scalar_one()) == 0
