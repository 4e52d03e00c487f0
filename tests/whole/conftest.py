"""The three stages on which a user may run the package, and the files that are sent through them."""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.whole.files import Loading, loadings
from tests.whole.stage import STACKS, Stack, Stage, opened

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
            places = {
                "B24SYNC_DATABASE_URL": empty_url,
                "B24SYNC_BROKER_URL": broker_url,
                "B24SYNC_QUEUE": queue_name,
            }
            return opened(closing, tmp_path, places | (variables or {}), of_the_portal)

        yield make
