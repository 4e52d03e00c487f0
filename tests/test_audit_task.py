"""The audit as a task: slices of a round, each from where the last one was left."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine, insert

import b24sync.tasks  # noqa: F401 - whoever rings imports the tasks
from b24sync.core.errors import SettingsError
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.host import host_of
from b24sync.plugin import install
from b24sync.sandbox import Sandbox
from tests.house import add_portal, add_rows, change, one, rows_of, world_of


@pytest.fixture
def app(tmp_path: Path, sqlite_engine: Engine, sandbox: Sandbox) -> Iterator[Celery]:
    """A host application whose default portal is the sandbox, with a second record of contact a."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        broker_url=f"b24sqlite:///{tmp_path}/broker.db",
        b24sync_database_url=sqlite_engine.url.render_as_string(hide_password=False),
        b24sync_webhook_url=sandbox.webhook_url,
    )
    install(app)
    add_portal(sqlite_engine, base_url=sandbox.url)
    add_rows(sqlite_engine, "a")
    drain(world_of(sqlite_engine, webhook_url=sandbox.webhook_url), Order())
    marked = {"originId": "contact:a", "originatorId": "b24sync"}
    sandbox.call("crm.item.add", {"entityTypeId": 3, "fields": marked})
    yield app
    host_of(app).close()
    app.close()


def _run(app: Celery, **arguments: object) -> Any:  # noqa: ANN401 - what the task returns
    return app.tasks["b24sync.audit"].apply(kwargs=arguments, throw=True).get()


def _link_many(engine: Engine, count: int) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(tables.link),
            [
                {
                    "portal": "default",
                    "kind": "lead",
                    "entity_key": f"k{number:05}",
                    "remote_id": f"{number + 1000}",
                    "state": "present",
                }
                for number in range(count)
            ],
        )


def test_an_audit_is_run_once_in_its_interval(app: Celery, sqlite_engine: Engine) -> None:
    """However often it is rung; a portal that is named is audited at once."""
    first, second = _run(app), _run(app)
    named = _run(app, portal="default", kinds=["lead"])
    again = _run(app, portal="default")

    assert first == {"links": 1, "requests": 1, "found": 1, "known": 0, "gone": 0}
    assert second == {"links": 0, "requests": 0, "found": 0, "known": 0, "gone": 0}
    assert named["links"] == 0
    assert (again["links"], again["known"]) == (1, 1)
    assert len(rows_of(sqlite_engine, tables.duplicate)) == 1


def test_a_round_that_the_rate_has_ended_goes_on_with_the_next_ring(
    app: Celery, sqlite_engine: Engine
) -> None:
    """No worker waits for a portal; the place is kept, and the round ends once all was seen."""
    _link_many(sqlite_engine, 5_000)
    change(sqlite_engine, tables.portal, {"rate_x": 2, "rate_y": 0.001})
    change(sqlite_engine, tables.bucket, {"level": 0.0})

    slices: list[int] = []
    for _ in range(4):
        slices.append(_run(app)["links"])
        change(sqlite_engine, tables.bucket, {"level": 0.0})

    assert slices == [1_961, 2_000, 1_040, 0]
    (chore,) = rows_of(sqlite_engine, tables.chore)
    assert (chore["name"], chore["resume_from"], chore["lease_until"]) == ("audit:default", None, 0)


def test_a_worker_that_goes_down_leaves_the_round_to_the_next(
    app: Celery, sqlite_engine: Engine
) -> None:
    """Nothing is begun."""
    host_of(app).stopping.set()

    told = _run(app)

    assert told["links"] == 0
    assert rows_of(sqlite_engine, tables.chore) == []


def test_a_portal_that_is_stopped_has_no_turn(app: Celery, sqlite_engine: Engine) -> None:
    """And one that nobody knows is refused."""
    change(sqlite_engine, tables.portal, {"state": "paused", "state_reason": "by hand"})

    told = _run(app, portal="default")

    assert told["requests"] == 0
    with pytest.raises(SettingsError, match="there is no portal 'nobody'"):
        _run(app, portal="nobody")
    assert one(sqlite_engine, tables.portal)["state"] == "paused"
