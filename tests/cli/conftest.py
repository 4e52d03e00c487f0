"""The command as a person runs it: arguments in; exit code, stdout and stderr out."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine

from b24sync.cli import run
from b24sync.edge.tokens import new_key
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one run came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # noqa: ANN401 - a JSON document has any shape
        """Stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def documents(self) -> list[Any]:
        """Stdout as one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Ran]


@pytest.fixture
def settings(sqlite_engine: Engine) -> Settings:
    """Settings of a migrated, empty database, with a key for credentials."""
    url = sqlite_engine.url.render_as_string(hide_password=False)
    return Settings(database_url=url, secret_key=(new_key(),), retry_base_s=0.05)


@pytest.fixture
def cli(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``b24sync`` with these arguments, and other settings if they are given."""

    def ran(*args: str, settings: Settings = settings) -> Ran:
        capsys.readouterr()
        code = run(args, lambda: settings)
        captured = capsys.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)

    return ran


@pytest.fixture
def sandbox() -> Generator[Sandbox]:
    """A portal on this machine."""
    with Sandbox() as running:
        yield running


@pytest.fixture
def acme(cli: Cli, sandbox: Sandbox) -> Sandbox:
    """The sandbox, known as the portal ``acme``."""
    assert cli("portal", "add", "acme", "--webhook", sandbox.webhook_url).code == 0
    return sandbox
