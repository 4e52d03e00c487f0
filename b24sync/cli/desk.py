"""What every command is handed: settings when it asks for them, two consoles, an open database."""

import json
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TypeVar

import click
from rich.console import Console, RenderableType
from rich.text import Text
from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from b24sync.edge import portals, schema
from b24sync.edge.database import reading, transact, unreachable
from b24sync.settings import Settings
from b24sync.world import World, build

FAILED = 1
WRONG = 2
UNREACHABLE = 3

PIPE_COLUMNS = 200
"""Width of a table that nobody looks at directly: wide enough for a line per row."""

F = TypeVar("F", bound=Callable[..., object])


class Refused(click.ClickException):
    """What was asked for makes no sense here; nothing was done."""

    exit_code = WRONG


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What commands work with: results go to ``out``, notices and progress to ``err``."""

    find_settings: Callable[[], Settings]
    out: Console
    err: Console

    @classmethod
    def at_terminal(cls, find_settings: Callable[[], Settings], err: Console) -> "Desk":
        """A desk on this process's own streams; colour only where a terminal is."""
        out = Console(highlight=False, soft_wrap=False)
        if not out.is_terminal:
            out = Console(highlight=False, width=PIPE_COLUMNS)
        return cls(find_settings=find_settings, out=out, err=err)

    def settings(self) -> Settings:
        """The settings.

        Raises: SettingsError.
        """
        return self.find_settings()

    @contextmanager
    def opened(self) -> Generator[World]:
        """The world, with tables of the right version and the portal of the settings in them.

        Raises: SettingsError; DatabaseError if the database cannot be used.
        """
        settings = self.settings()
        world = build(settings)
        try:
            schema.ensure_current(world.engine)
            ensure = partial(portals.ensure_default, webhook_url=settings.webhook_url)
            if settings.webhook_url is not None:
                transact(world.engine, ensure)
            yield world
        except (OperationalError, InterfaceError) as error:
            raise unreachable(world.engine, error) from error
        finally:
            world.client.close()
            world.engine.dispose()

    def note(self, message: str, *, style: str = "") -> None:
        """A notice for people, beside the results."""
        self.err.print(Text(message, style=style), soft_wrap=True)

    def show(self, *parts: RenderableType) -> None:
        """Results for people."""
        for part in parts:
            self.out.print(part)

    def emit(self, document: object) -> None:
        """Results for programs: one JSON document in one line."""
        text = json.dumps(document, ensure_ascii=False, default=_plain)
        click.echo(text, file=sys.stdout)

    def emit_each(self, documents: Iterable[object]) -> None:
        """Results for programs: one JSON document a line."""
        for document in documents:
            self.emit(document)


def _plain(value: object) -> object:
    """What JSON lacks, as it is read elsewhere in this package."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] # any mapping will do
    return str(value)


def epilog(*examples: str, exits: str) -> str:
    """What stands below the options of a command: how it is called, and its exit codes."""
    # Click leaves the line breaks of a paragraph alone that begins with this character.
    shown = "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples)])
    said = "\n".join(["\b", "Exit codes:", *(f"  {line.strip()}" for line in exits.split(";"))])
    return f"{shown}\n\n{said}" if examples else said


def as_json(command: F) -> F:
    """The option ``--json``, the same for every command."""
    return click.option("--json", "as_json", is_flag=True, help="Machine output on stdout.")(
        command
    )


def known_portal(connection: Connection, code: str) -> None:
    """Refuse a portal that does not exist, naming those that do.

    Raises: Refused.
    """
    codes = portals.codes(connection)
    if code not in codes:
        known = ", ".join(codes) or "none yet; `b24sync portal add CODE` makes one"
        raise Refused(f"there is no portal {code!r}; known are: {known}")


def check_portal(world: World, code: str | None) -> None:
    """Refuse a portal that does not exist, if one is named at all.

    Raises: Refused.
    """
    if code is not None:
        with reading(world.engine) as connection:
            known_portal(connection, code)


def confirmed(question: str, *, is_agreed: bool) -> None:
    """Ask, unless the answer was given on the command line.

    Raises: Refused if the answer is no, or nobody is there to give one.
    """
    if is_agreed:
        return
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:
        raise Refused("not confirmed, so nothing was changed; --yes says it beforehand") from None
    raise Refused("nothing was changed")


def is_terminal(console: Console) -> bool:
    """Whether somebody looks at this console, so that a moving bar makes sense."""
    return console.is_terminal and not console.is_dumb_terminal
