"""A running sandbox and a client for it."""

from collections.abc import Iterator

import pytest

from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An empty portal without limits, delays or faults."""
    with Sandbox(SandboxConfig()) as running:
        yield running


@pytest.fixture
def ask() -> Iterator[Asker]:
    """A client whose connection is closed at the end."""
    asker = Asker()
    yield asker
    asker.session.close()
