"""Feeders of a back-fill that die at any commit: no row is lost, and none is fed twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from b24sync.backfill import Asked, query, start
from b24sync.core.backfilling import Recipe
from b24sync.edge import tables
from b24sync.edge.database import writing
from tests.crash.nursery import KILLED, ROOT
from tests.house import add_portal, change, one, rows_of, world_of
from tests.shop import Base, Company

FIRMS = "SELECT id, code, name FROM shop_company"
ROWS, STEP = 12, 4


@pytest.fixture
def shop(engine: Engine) -> Iterator[Engine]:
    """Twelve firms and a back-fill of them, four in a step."""
    add_portal(engine)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with writing(engine) as connection:
        rows = [{"id": n, "code": f"f{n}", "name": f"Firm {n}"} for n in range(1, ROWS + 1)]
        connection.execute(insert(Company), rows)
    source = query(FIRMS, ["id"], Recipe(key="code", fields={"title": "name"}))
    start(
        world_of(engine),
        Asked(code="b", portal="default", kind="company", source=source, step=STEP),
    )
    yield engine
    Base.metadata.drop_all(engine)


def _fed(url: str, moment: str, nth: int) -> int:
    """Run a feeder to its end; its exit code."""
    here = Path(ROOT)
    told = [sys.executable, "-m", "tests.crash.filling", url, moment, str(nth)]
    return subprocess.run(told, cwd=here, check=False, timeout=60).returncode  # noqa: S603 - our own module


@pytest.mark.parametrize("moment", ["within", "after"])
def test_a_feeder_may_die_at_any_commit(shop: Engine, database_url: str, moment: str) -> None:
    """One feeder after the other dies at another commit, and the next goes on where it stopped."""
    deaths = 0
    for nth in (2, 4, 3, 5, 100):
        code = _fed(database_url, moment, nth)
        fed = one(shop, tables.backfill)
        keys = [row["entity_key"] for row in rows_of(shop, tables.outbox)]
        assert keys == [f"f{n}" for n in range(1, len(keys) + 1)]
        assert fed["enqueued"] == fed["read_rows"] == len(keys)
        if code == 0:
            break
        assert code == KILLED
        deaths += 1
        if fed["state"] == "running":
            # The lease of the dead is over.
            change(shop, tables.backfill, {"lease_until": 0})
    assert deaths >= 3
    assert one(shop, tables.backfill)["state"] == "done"
    assert len(rows_of(shop, tables.outbox)) == ROWS
