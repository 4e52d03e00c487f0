"""The rate of a portal is kept by all workers together, used as far as it goes, and learned from refusals."""

import json
import sqlite3
import threading
from base64 import b64decode
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine

import b24sync.tasks  # noqa: F401 - whoever rings imports the tasks
from b24sync.core.model import PortalState
from b24sync.drain import Order, drain
from b24sync.drain.inquiring import NotNow, inquire
from b24sync.drain.probing import probe
from b24sync.edge import rates, tables, tenants
from b24sync.edge.database import make_engine, reading, writing
from b24sync.host import host_of
from b24sync.plugin import install
from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.settings import Settings
from b24sync.world import build
from tests.apps.running import Yard, wait_until
from tests.fakes import ScriptedPortal
from tests.house import (
    Clerk,
    add_portal,
    add_rows,
    change,
    database_now,
    in_threads,
    one,
    refusal,
    rows_of,
    states,
    time_passes,
    world_of,
)

SYNC = "b24sync.sync_entities"


def _keys(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def _limited(engine: Engine, x: float, y: float) -> None:
    change(engine, tables.portal, {"rate_x": x, "rate_y": y}, code="default")


def test_four_workers_use_all_of_a_rate_and_are_refused_nothing(
    house: Engine, database_url: str
) -> None:
    """24 batches, a bucket of 10 at 10 per second: what cannot go at once goes at that pace."""
    _limited(house, 10, 10)
    add_rows(house, *_keys(24))
    with Sandbox(SandboxConfig(bucket_x=10, bucket_y=10)) as portal:

        def work() -> None:
            engine = make_engine(database_url)
            world = world_of(engine, webhook_url=portal.webhook_url, batch_size=1, slice_batches=5)
            while states(engine):
                tally = drain(world, Order())
                until_s = [rest.until_s for rest in tally.resting.values()]
                threading.Event().wait(max(0.01, min(until_s, default=0.0) - world.clock()))
            world.client.close()
            engine.dispose()

        in_threads([work] * 4, within_s=60)
        asked = portal.requests()

    assert [request.status for request in asked] == [200] * 24
    assert sum(request.commands for request in asked) == 24
    times = sorted(request.at for request in asked)
    for number, first in enumerate(times):
        for more, at in enumerate(times[number:], start=1):
            assert more <= 10 + 10 * (at - first) + 1e-6
    # The last fourteen need 1.4 s, and nobody dawdles over it.
    assert 1.4 <= times[-1] - times[0] < 15


def test_further_refusals_slow_down_and_time_forgets_them(lite_house: Engine) -> None:
    """The first fills the bucket, the second takes a quarter; what was taught is in the table."""
    _limited(lite_house, 40, 4)
    add_rows(lite_house, "a")
    too_fast = refusal("QUERY_LIMIT_EXCEEDED", "Too many requests", 503)
    world = world_of(lite_house, ScriptedPortal([too_fast, too_fast, Clerk()]))

    drain(world, Order())
    first = one(lite_house, tables.bucket)
    time_passes(lite_house)
    change(lite_house, tables.bucket, {"taught_at": first["taught_at"] - 10_000})
    drain(world, Order())
    second = one(lite_house, tables.bucket)
    time_passes(lite_house)
    tally = drain(world, Order())

    assert (first["level"], first["taught_x"], first["refusals"]) == (40, 40, 1)
    assert (second["level"], second["taught_x"], second["taught_y"]) == (30, 30, 3)
    assert second["refusals"] == 2
    assert tally.outcomes == {"applied": 1}
    assert states(lite_house) == {}


def test_workers_leave_room_for_people_who_call_the_portal(lite_house: Engine) -> None:
    """A fifth of the bucket at the most; without people there is nothing to leave."""
    _limited(lite_house, 10.5, 0.01)
    add_rows(lite_house, *_keys(20))
    world = world_of(lite_house, ScriptedPortal([Clerk()] * 20), batch_size=1)

    alone = drain(world, Order()).batches
    time_passes(lite_house)
    change(lite_house, tables.bucket, {"people_at": database_now(lite_house)})
    beside = drain(world, Order()).batches
    with reading(lite_house) as connection:
        of = tenants.tenant(connection, "default")
    with writing(lite_house) as connection:
        person_ms = rates.spend(connection, of, by_person=True)

    assert (alone, beside, person_ms) == (10, 8, 0)


def test_a_process_behind_another_address_counts_everything_in_its_own_bucket(
    sqlite_engine: Engine,
) -> None:
    """Batches, looks, questions and probes: nothing of it is counted for the others."""
    url = sqlite_engine.url.render_as_string(hide_password=False)
    with Sandbox() as portal:
        settings = Settings(
            database_url=url, webhook_url=portal.webhook_url, egress_group="cloud-7"
        )
        add_portal(sqlite_engine, base_url=portal.url, egress_group="office")
        world = build(settings)
        add_rows(sqlite_engine, "a")
        drain(world, Order())
        with reading(world.engine) as connection:
            of = tenants.tenant(connection, "default")
        inquire(world, of, [("server.time", "")], reserve=0)
        stopped = {
            "state": str(PortalState.OVERLOADED),
            "state_reason": "OVERLOAD_LIMIT",
            "probe_at": 1,
        }
        change(sqlite_engine, tables.portal, stopped, code="default")
        change(sqlite_engine, tables.bucket, {"level": 0.0})
        well = probe(world)
        asked = len(portal.requests())
        portal.add_fault("error", code="QUERY_LIMIT_EXCEEDED", text="", status=503)
        with pytest.raises(NotNow):
            inquire(world, of, [("server.time", "")], reserve=0)
        world.client.close()
        world.engine.dispose()

    assert well == ("default",)
    assert asked >= 3
    row = one(sqlite_engine, tables.bucket)
    assert (row["egress_group"], row["refusals"]) == ("cloud-7", 1)


@pytest.fixture
def yard(tmp_path: Path) -> Generator[Yard]:
    """A place for processes, all of which end with the test."""
    place = Yard(home=tmp_path)
    yield place
    place.clear()


@pytest.fixture
def app(tmp_path: Path, lite_house: Engine) -> Generator[Celery]:
    """An app on the embedded broker whose portal answers at once, and takes four requests."""
    with Sandbox() as portal, Celery("shop", set_as_current=False) as shop:
        shop.config_from_object(_config(tmp_path, lite_house, portal))
        install(shop)
        yield shop
        host_of(shop).close()


def _config(home: Path, engine: Engine, portal: Sandbox) -> dict[str, object]:
    return {
        "broker_url": f"b24sqlite:///{home}/broker.db",
        "b24sync_database_url": engine.url.render_as_string(hide_password=False),
        "b24sync_webhook_url": portal.webhook_url,
        "b24sync_batch_size": 1,
        "b24sync_pump_s": 60,
    }


def _rings(home: Path) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The messages that wait: headers, and named arguments."""
    file = home / "broker.db"
    if not file.exists():
        return []
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        found = connection.execute("SELECT payload FROM message ORDER BY id").fetchall()
    payloads = [json.loads(payload) for (payload,) in found]
    return [(each["headers"], json.loads(b64decode(each["body"]))[1]) for each in payloads]


def test_who_finds_the_rate_used_up_rings_once_for_when_it_is_not(
    app: Celery, lite_house: Engine, tmp_path: Path
) -> None:
    """One message, however many runs find it so; for that portal, with the same order."""
    _limited(lite_house, 4.2, 0.05)
    add_rows(lite_house, *_keys(8))
    run = app.tasks[SYNC].apply

    for _ in range(3):
        run(kwargs={"kinds": ["contact"], "halt": "chain"}, throw=True)
    ((headers, named),) = _rings(tmp_path)
    change(lite_house, tables.bucket, {"ring_at": 0})
    change(lite_house, tables.lane, {"rests_until": None, "next_due_at": 0})
    run(throw=True)

    assert named == {"portal": "default", "kinds": ["contact"], "halt": "chain"}
    assert headers["eta"] < headers["expires"]
    assert len(_rings(tmp_path)) == 2


@pytest.mark.parametrize(
    ("rate_y", "limit"), [(0.01, None), (0.05, 8)], ids=["the pump is sooner", "rows are counted"]
)
def test_nobody_rings_for_what_the_pump_finds_sooner_or_for_a_counted_order(
    app: Celery, lite_house: Engine, tmp_path: Path, rate_y: float, limit: int | None
) -> None:
    """A wait of more than a minute is the pump's here; and a limit is that of one run."""
    _limited(lite_house, 4.2, rate_y)
    add_rows(lite_house, *_keys(8))

    app.tasks[SYNC].apply(kwargs={"limit": limit}, throw=True)

    assert len(rows_of(lite_house, tables.outbox)) == 4
    assert _rings(tmp_path) == []


def test_workers_go_on_by_themselves_when_a_rate_is_used_up(
    lite_house: Engine, yard: Yard, tmp_path: Path
) -> None:
    """One ring and no beat: twelve requests at a bucket of four, drained at six per second."""
    _limited(lite_house, 4, 6)
    add_rows(lite_house, *_keys(12))
    with Sandbox(SandboxConfig(bucket_x=4, bucket_y=6)) as portal:
        config = _config(tmp_path, lite_house, portal)
        for _ in range(2):
            yard.worker(config, "threads")
        with Celery("ringer", set_as_current=False) as ringer:
            ringer.config_from_object(config)
            install(ringer)
            ringer.tasks[SYNC].delay()

        wait_until(lambda: not states(lite_house), within_s=60)

        assert [request.status for request in portal.requests()] == [200] * 12
