"""``b24sync db``: tables are made, compared and taken back, and nothing without being asked."""

import io
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from b24sync.edge.database import writing
from b24sync.settings import Settings
from tests.cli.conftest import Cli


@pytest.fixture
def empty(tmp_path: Path) -> Settings:
    """Settings of a database in which nothing is."""
    return Settings(database_url=f"sqlite:///{tmp_path / 'fresh.db'}")


def test_an_upgrade_makes_tables_that_pass_the_check(cli: Cli, empty: Settings) -> None:
    """The usual way to begin."""
    upgraded = cli("db", "upgrade", settings=empty)
    checked = cli("db", "check", "--json", settings=empty)

    assert (upgraded.code, checked.code) == (0, 0)
    assert "before: none" in upgraded.out
    assert checked.document == {"problems": []}


def test_a_second_upgrade_changes_nothing(cli: Cli, empty: Settings) -> None:
    """It may stand in every deployment."""
    cli("db", "upgrade", settings=empty)

    ran = cli("db", "upgrade", "--json", settings=empty)

    assert ran.code == 0
    assert ran.document["before"] == ran.document["after"]


def test_a_difference_is_found(cli: Cli, sqlite_engine: Engine) -> None:
    """Exit code 1 and the table at fault."""
    with writing(sqlite_engine) as connection:
        connection.execute(text("DROP TABLE b24sync_rollup"))

    ran = cli("db", "check")

    assert ran.code == 1
    assert "b24sync_rollup" in ran.out


def test_statements_can_be_printed_instead(cli: Cli) -> None:
    """No database is needed for it."""
    ran = cli("db", "upgrade", "--sql", "postgresql")

    assert ran.code == 0
    assert "CREATE TABLE b24sync_outbox" in ran.out


def test_a_downgrade_asks_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can answer, nothing is done."""
    monkeypatch.setattr("sys.stdin", io.StringIO())

    refused = cli("db", "downgrade", "base")
    done = cli("db", "downgrade", "base", "--yes")

    assert (refused.code, done.code) == (2, 0)
    assert "--yes" in refused.err
    assert "none" in done.out


def test_an_unknown_revision_is_one_line(cli: Cli) -> None:
    """A slip of the hand is no traceback."""
    ran = cli("db", "downgrade", "nonsense", "--yes")

    assert ran.code == 3
    assert "nonsense" in ran.err
    assert ran.err.count("\n") == 1
