"""Back-fills are fed by workers, a slice at a time, without anybody at a terminal."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import Engine, insert

import b24sync.tasks  # noqa: F401 - whoever rings imports the tasks
from b24sync.backfill import Asked, query, start
from b24sync.core.backfilling import Recipe
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.host import host_of
from b24sync.plugin import install
from tests.house import add_portal, change, one, rows_of, world_of
from tests.shop import Base, Company

FIRMS = "SELECT id, code, name FROM shop_company"


@pytest.fixture
def app(tmp_path: Path, sqlite_engine: Engine) -> Iterator[Celery]:
    """A host application with thirty firms and two back-fills of them."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        broker_url=f"b24sqlite:///{tmp_path}/broker.db",
        b24sync_database_url=sqlite_engine.url.render_as_string(hide_password=False),
        b24sync_source_url="postgresql://ann:hush-hush@127.0.0.1:1/shop",
    )
    install(app)
    add_portal(sqlite_engine)
    Base.metadata.create_all(sqlite_engine)
    with writing(sqlite_engine) as connection:
        rows = [{"id": n, "code": f"f{n}", "name": f"Firm {n}"} for n in range(1, 31)]
        connection.execute(insert(Company), rows)
    world = world_of(sqlite_engine)
    for code, kind in (("a", "company"), ("b", "lead")):
        source = query(FIRMS, ["id"], Recipe(key="code", fields={"title": "name"}))
        asked = Asked(
            code=code, portal="default", kind=kind, source=source, step=5, most_waiting=20
        )
        start(world, asked)
    yield app
    host_of(app).close()
    app.close()


def _run(app: Celery) -> object:
    return app.tasks["b24sync.feed_backfills"].apply(throw=True).get()


def test_a_run_feeds_as_long_as_there_is_room(app: Celery, sqlite_engine: Engine) -> None:
    """Those of one portal share it; the next run goes on with the one that was left out."""
    assert _run(app) == 20
    assert _run(app) == 0
    with writing(sqlite_engine) as connection:
        connection.execute(tables.outbox.delete())
    assert _run(app) == 20
    with writing(sqlite_engine) as connection:
        connection.execute(tables.outbox.delete())
    assert _run(app) == 20

    fed = {row["code"]: row["enqueued"] for row in rows_of(sqlite_engine, tables.backfill)}
    assert sum(fed.values()) == 60
    assert {row["state"] for row in rows_of(sqlite_engine, tables.backfill)} == {"done"}


def test_one_that_fails_stands_in_nobodys_way(app: Celery, sqlite_engine: Engine) -> None:
    """Its reason is in its row."""
    broken = one(sqlite_engine, tables.backfill, code="a")["source"] | {"query": "SELECT 1 FROM x"}
    change(sqlite_engine, tables.backfill, {"source": broken}, code="a")

    assert _run(app) == 20

    found = one(sqlite_engine, tables.backfill, code="a")
    assert (found["state"], found["lease_until"]) == ("failed", 0)
    assert "no such table: x" in found["reason"]
    assert one(sqlite_engine, tables.backfill, code="b")["enqueued"] == 20


def test_a_worker_that_is_stopping_feeds_nothing(app: Celery, sqlite_engine: Engine) -> None:
    """And leaves no lease behind."""
    host_of(app).stopping.set()

    assert _run(app) == 0

    assert {row["lease_until"] for row in rows_of(sqlite_engine, tables.backfill)} == {0}


def test_the_address_of_the_other_database_is_not_reported(app: Celery) -> None:
    """Celery's report shows every setting whose name does not look like that of a secret."""
    assert _run(app) == 20

    assert "hush" not in repr(app.conf["b24sync_source_url"])
    assert "hush" not in app.bugreport()
