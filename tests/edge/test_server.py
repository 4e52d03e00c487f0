"""What is said of a database that lacks something, whatever its tables are."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from b24sync.edge import schema
from b24sync.edge.server import too_old


def test_a_file_that_is_not_in_wal_mode_is_told_of(tmp_path: Path) -> None:
    """In any other mode readers and the writer wait for each other."""
    engine = create_engine(f"sqlite:///{tmp_path / 'b24sync.db'}")

    problems = schema.check(engine)

    engine.dispose()
    assert any("the journal mode is delete" in problem.text for problem in problems)


@pytest.mark.parametrize(
    ("product", "version", "is_too_old"),
    [
        ("PostgreSQL", "12.19 (Debian 12.19-1)", True),
        ("PostgreSQL", "13.0", False),
        ("PostgreSQL", "15.20 (Debian 15.20-0+deb12u1)", False),
        ("MariaDB", "10.5.27-MariaDB", True),
        ("MariaDB", "10.6.1-MariaDB", False),
        ("MariaDB", "10.11.19-MariaDB-0+deb12u1", False),
        ("MariaDB", "11.4.2-MariaDB", False),
        ("MySQL", "5.7.44-log", True),
        ("MySQL", "8.0.36", False),
        ("MySQL", "8.4.0", False),
        ("SQLite", "3.34.1", True),
        ("SQLite", "3.35.0", False),
    ],
)
def test_a_database_that_is_too_old_is_refused(
    product: str, version: str, *, is_too_old: bool
) -> None:
    """It would fail later, in the middle of a statement that it does not know."""
    problems = list(too_old(product, version))

    assert bool(problems) == is_too_old
