"""The README, as far as it can be held to the code: events of the log, and commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from b24sync.cli.app import b24sync
from b24sync.core.lifecycle import drawing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LEVELS = {"debug", "info", "warning", "error"}
LOGGERS = {"log", "_logger"}


def logged(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The events of a module, each a name at the beginning of its message, with its level."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=logger), attr=level),
                args=[ast.Constant(value=str(message)), *_],
            ) if logger in LOGGERS and level in LEVELS:
                yield re.split(r"[ :]", message)[0], level
            case _:
                pass


def test_every_log_event_is_listed_with_its_level() -> None:
    """Whoever sets an alarm on a name needs the whole list, and no name that never comes."""
    package = [path for path in (ROOT / "b24sync").rglob("*.py") if "sandbox" not in path.parts]
    expected = {event for path in package for event in logged(ast.parse(path.read_text("utf-8")))}

    table = README.partition("| Event | Level |")[2].partition("\n\n")[0]
    listed: set[tuple[str, str]] = set()
    for line in table.splitlines()[2:]:
        events, levels = line.split("|")[1:3]
        names, said = re.findall(r"`(\w+)`", events), levels.strip().split(", ")
        listed |= set(zip(names, said if len(said) > 1 else said * len(names), strict=True))

    assert ("batch_settled", "info") in expected
    assert listed == expected


def test_every_command_in_the_readme_exists() -> None:
    """What a new user types is a command of this version, with options of this version."""
    said = re.findall(r"(?:`|^|/|&& |\| )b24sync ([a-z][^`\n#&|]*)", README, re.MULTILINE)

    for words in said:
        command: click.Command = b24sync
        rest = words.split()
        while isinstance(command, click.Group):
            name = rest.pop(0)
            assert name in command.commands, words
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words

    assert len(said) > 15


def test_the_drawing_of_a_rows_life_is_the_table_of_moves() -> None:
    """A picture of moves that the code does not make would mislead whoever looks for a row."""
    drawn = README.partition("```mermaid\n")[2].partition("\n```")[0]

    assert drawn == drawing()
