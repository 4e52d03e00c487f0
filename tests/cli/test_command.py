"""The command as a whole: help, exit codes, one line for every foreseen error, no secrets."""

import subprocess
import sys

import click
import pytest
from sqlalchemy import Engine, text

from b24sync.cli import run
from b24sync.cli.app import b24sync
from b24sync.core.errors import SettingsError
from b24sync.edge.database import writing
from b24sync.edge.tokens import new_key
from b24sync.settings import Settings
from tests.cli.conftest import Cli


def paths(group: click.Group, *above: str) -> list[tuple[str, ...]]:
    """Every command below a group, by the words that call it."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        here = (*above, name)
        found += paths(command, *here) if isinstance(command, click.Group) else [here]
    return found


def no_settings() -> Settings:
    """What a broken environment gives."""
    raise SettingsError("B24SYNC_POMP_S", "is unknown; the README lists the variables")


@pytest.mark.parametrize("path", paths(b24sync), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], cli: Cli) -> None:
    """Help has a description, an example and the exit codes, and needs no settings."""
    ran = cli(*path, "--help")

    assert ran.code == 0
    assert "Examples:" in ran.out
    assert "Exit codes:" in ran.out
    assert len(ran.out.splitlines()[2].strip()) > 20


@pytest.mark.parametrize("path", paths(b24sync), ids=" ".join)
def test_every_command_speaks_to_programs(path: tuple[str, ...], cli: Cli) -> None:
    """Each has ``--json``."""
    ran = cli(*path, "--help")

    assert "--json" in ran.out


@pytest.mark.parametrize(
    "words",
    [(), ("db",), ("portal",), ("links",), ("held",)],
    ids=["all", "db", "portal", "links", "held"],
)
def test_no_command_at_all_is_answered_with_the_commands(words: tuple[str, ...], cli: Cli) -> None:
    """Laid out as help is, and not as an error; exit code 2, since nothing was done."""
    helped = cli(*words, "--help")

    ran = cli(*words)

    assert (ran.code, ran.out, ran.err) == (2, "", helped.out)


def test_a_wrong_command_line_is_one_line(cli: Cli) -> None:
    """Exit code 2, what is wrong, and where to read how it is right."""
    ran = cli("results", "--since", "yesterday")

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("error: ")
    assert "90s, 30m, 2h or 7d" in ran.err
    assert "b24sync results --help" in ran.err


def test_wrong_settings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the variable's name, not a traceback."""
    code = run(["status"], no_settings)

    captured = capsys.readouterr()
    assert code == 2
    assert captured.err == ("error: B24SYNC_POMP_S: is unknown; the README lists the variables\n")


def test_keys_need_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that helps to mend the settings works without them; stdout is the key alone."""
    code = run(["portal", "new-key"], no_settings)

    captured = capsys.readouterr()
    assert code == 0
    assert Settings(secret_key=(captured.out.strip(),)).secret_key


def test_missing_tables_are_their_own_exit_code(cli: Cli, tmp_path: object) -> None:
    """Exit code 3 and the command that mends it."""
    ran = cli("status", settings=Settings(database_url=f"sqlite:///{tmp_path}/nothing.db"))

    assert ran.code == 3
    assert "b24sync db upgrade" in ran.err


def test_an_unreachable_database_is_named_without_its_password(cli: Cli) -> None:
    """Exit code 3, the address, and never the password."""
    url = "postgresql+psycopg://someone:hush-hush@127.0.0.1:1/nothing"

    ran = cli("status", settings=Settings(database_url=url))

    assert ran.code == 3
    assert "127.0.0.1:1" in ran.err
    assert "hush-hush" not in ran.err + ran.out
    assert ran.err.count("\n") == 1


def test_a_database_that_fails_later_is_one_line_too(cli: Cli, sqlite_engine: Engine) -> None:
    """Exit code 3 also after the tables' version was found right."""
    with writing(sqlite_engine) as connection:
        connection.execute(text("DROP TABLE b24sync_dead"))

    ran = cli("dead")

    assert ran.code == 3
    assert "no such table" in ran.err
    assert ran.err.count("\n") == 1


def test_the_command_reads_the_environment_through_its_configuration(tmp_path: object) -> None:
    """As a process of its own it takes the variables that workers take."""
    environment = {"B24SYNC_DATABASE_URL": f"sqlite:///{tmp_path}/own.db", "PATH": "/usr/bin"}
    command = [sys.executable, "-m", "b24sync.cli"]

    upgraded = subprocess.run(  # noqa: S603 - constants
        [*command, "db", "upgrade"], env=environment, capture_output=True, check=False, timeout=60
    )
    checked = subprocess.run(  # noqa: S603 - constants
        [*command, "db", "check"],
        env=environment | {"B24SYNC_SECRET_KEY": new_key()},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (upgraded.returncode, checked.returncode) == (0, 0), upgraded.stderr + checked.stderr
    assert b"as they should be" in checked.stdout
