"""The three stages on which a user may run the package, and the files that are sent through them."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from b24sync.edge.database import make_engine
from tests.whole.files import Loading, loadings
from tests.whole.stage import STACKS, Stack, Stage, sandbox

SetUp = Callable[..., Stage]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loading, ...]:
    """Companies and universities, and how they are loaded."""
    return loadings(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=list(STACKS.values()), ids=list(STACKS))
def stack(request: pytest.FixtureRequest) -> Stack:
    """The servers that this run of the test is about."""
    assert isinstance(request.param, Stack)
    return request.param


@pytest.fixture
def backend(stack: Stack) -> str:
    """The database of the stack."""
    return stack.backend


@pytest.fixture
def broker_url(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The address of the stack's broker."""
    if stack.broker == "embedded":
        return f"b24sqlite:///{tmp_path / 'broker.db'}"
    return str(request.getfixturevalue(f"{stack.broker}_url"))


@pytest.fixture
def set_up(
    tmp_path: Path, empty_url: str, broker_url: str, queue_name: str
) -> Generator[Callable[..., Stage]]:
    """Make the stage: a sandbox with these settings, and variables for the user's processes."""
    with ExitStack() as closing:

        def make(variables: dict[str, str] | None = None, **of_the_portal: object) -> Stage:
            webhook_url = closing.enter_context(sandbox(tmp_path, of_the_portal))
            engine = make_engine(empty_url)
            closing.callback(engine.dispose)
            stage = Stage(
                home=tmp_path,
                engine=engine,
                webhook_url=webhook_url,
                environment=dict(_plain_environment())
                | {
                    "B24SYNC_DATABASE_URL": empty_url,
                    "B24SYNC_BROKER_URL": broker_url,
                    "B24SYNC_QUEUE": queue_name,
                    "B24SYNC_SECRET_KEY": Fernet.generate_key().decode(),
                    "B24SYNC_PUMP_S": "0.25",
                    "PYTHONUNBUFFERED": "1",
                }
                | (variables or {}),
            )
            closing.callback(stage.end)
            return stage

        yield make


def _plain_environment() -> Iterator[tuple[str, str]]:
    """This process's variables without the package's own."""
    return (item for item in os.environ.items() if not item[0].startswith("B24SYNC_"))
