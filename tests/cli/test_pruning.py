"""``b24sync prune``: shows what would go, does it, and says honestly how far it came."""

from functools import partial

import pytest
from sqlalchemy import Engine, insert

from b24sync.core.retention import DAY_MS, HOUR_MS, Grain
from b24sync.edge import chores, schema, tables
from b24sync.edge.database import transact, writing
from b24sync.settings import Settings
from tests.cli.conftest import Cli
from tests.house import add_batch, add_portal, database_now, rows_of


@pytest.fixture
def old(sqlite_engine: Engine) -> Engine:
    """One old result and a closed batch, beside a young result."""
    now = database_now(sqlite_engine)
    add_portal(sqlite_engine)
    with writing(sqlite_engine) as connection:
        add_batch(connection, "answered")
        for age_ms in (40 * DAY_MS, 0):
            connection.execute(
                insert(tables.result).values(
                    finished_at=now - age_ms,
                    outbox_id=1,
                    portal="default",
                    kind="contact",
                    entity_key="a",
                    operation="add",
                    outcome="applied",
                    final=True,
                    attempt=1,
                    enqueued_at=1,
                )
            )
    return sqlite_engine


def test_a_dry_run_shows_and_removes_nothing(cli: Cli, old: Engine) -> None:
    """Sorts, spans and ages, as a table and for programs."""
    shown = cli("prune", "--dry-run")
    document = cli("prune", "--dry-run", "--json").document

    assert shown.code == 0
    assert "results" in shown.out
    assert "in steps of 1000" in shown.out
    assert [(due["what"], due["rows"], due["keep_days"]) for due in document["due"]] == [
        ("results", 1, 30.0),
        ("batches", 1, 30.0),
    ]
    assert (document["partitions_to_make"], document["grain"]) == ([], "month")
    assert len(rows_of(old, tables.result)) == 2


def test_what_is_old_goes(cli: Cli, old: Engine) -> None:
    """And a second run finds nothing."""
    ran = cli("prune")
    again = cli("prune", "--json")

    assert (ran.code, again.code) == (0, 0)
    assert "removed 1 results" in ran.out
    assert len(rows_of(old, tables.result)) == 1
    assert rows_of(old, tables.batch) == []
    assert again.document["over"] is True
    assert not any(again.document["removed"].values())
    assert "nothing was old enough" in cli("prune").out
    assert "nothing is old enough" in cli("prune", "--dry-run").out


def test_somebody_else_is_at_it(cli: Cli, old: Engine) -> None:
    """Two at once would only wait for one another; the exit code says that nothing was done."""
    begin = partial(chores.begin, name="prune", every_ms=HOUR_MS, lease_ms=HOUR_MS)
    transact(old, begin)

    ran, machine = cli("prune"), cli("prune", "--json")

    assert (ran.code, machine.code) == (1, 1)
    assert "another process is at it" in ran.err
    assert machine.document["busy"] is True
    assert len(rows_of(old, tables.result)) == 2


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
def test_partitions_that_are_missing_are_named_and_made(
    cli: Cli, empty_engine: Engine, empty_url: str
) -> None:
    """Wherever somebody looks: `db check`, `status`, a dry run; and then no more."""
    settings = Settings(database_url=empty_url, result_partition="day")
    schema.upgrade(empty_engine, grain=Grain.NONE)

    checked = cli("db", "check", settings=settings)
    status = cli("status", "--json", settings=settings).document
    ahead = cli("prune", "--dry-run", settings=settings)
    made = cli("prune", "--json", settings=settings)

    assert checked.code == 0
    assert "the next partition is missing" in " ".join(checked.out.split())
    assert [line.split(",")[0] for line in status["to_do"]] == ["the next partition is missing"]
    assert "15 partitions would be made" in ahead.out
    assert (made.code, len(made.document["made"]), made.document["notes"]) == (0, 15, [])
    assert cli("status", "--json", settings=settings).document["to_do"] == []
    assert cli("db", "check", settings=settings).code == 0
