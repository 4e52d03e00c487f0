"""A database, a portal in a process of its own, and a place where workers are born and die."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.crash.nursery import nursery
from tests.crash.place import HASTY, Place
from tests.whole.stage import sandbox

Open = Callable[..., Place]


@pytest.fixture
def opens(engine: Engine, database_url: str, tmp_path: Path) -> Generator[Open]:
    """Make the place, with these settings of the package and of the portal."""
    with ExitStack() as closing:

        def make(settings: dict[str, object] | None = None, **of_the_portal: object) -> Place:
            webhook_url = closing.enter_context(sandbox(tmp_path, of_the_portal))
            given = {**HASTY, "database_url": database_url, **(settings or {})}
            born = closing.enter_context(nursery(tmp_path, given))
            return Place(engine=engine, webhook_url=webhook_url, nursery=born)

        yield make


@pytest.fixture
def place(opens: Open) -> Place:
    """The place, with a portal that answers at once."""
    return opens()
