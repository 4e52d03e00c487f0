"""A secret from wherever it may come: a file, standard input, or a person who types it unseen.

Not from the command line, which other users of the machine can read and the shell keeps.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from b24sync.cli.desk import Desk, Refused
from b24sync.core.errors import SettingsError
from b24sync.world import World


def _never(_given: str) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What is asked for.

    Shape: ``option`` is the name of the option, ``name`` what people call it; ``hint`` says where it
    is found, ``anew`` what to do about one that others may have seen. ``is_harmless``: whether one
    may be given on the command line all the same.
    """

    option: str
    name: str
    hint: str
    anew: str
    is_harmless: Callable[[str], bool] = _never


def read_secret(desk: Desk, secret: Secret, given: str | None, file: Path | None) -> str:
    """The secret; ``given`` is what stands on the command line, where ``-`` means standard input.

    Raises: Refused for one that stands there itself, and for none.
    """
    option = secret.option
    if given is not None and file is not None:
        raise Refused(f"{option} and {option}-file exclude each other")
    if given is not None and given != "-" and not secret.is_harmless(given):
        raise Refused(
            f"a {secret.name} is a credential and the command line is readable by others and kept in "
            f"the shell's history: leave {option} away to be asked for it, or use {option} - or "
            f"{option}-file; and if this one is real, {secret.anew}, it may be known now"
        )
    found = _read(desk, secret, given, file)
    if not found:
        raise Refused(f"the {secret.name} is empty")
    return found


def _read(desk: Desk, secret: Secret, given: str | None, file: Path | None) -> str:
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    if given is not None:
        return sys.stdin.readline().strip() if given == "-" else given
    desk.note(secret.hint)
    words = f"{secret.name.capitalize()} (not shown)"
    try:
        return str(click.prompt(words, hide_input=True, err=True)).strip()
    except click.Abort:
        raise Refused(
            f"no {secret.name} was given; where nobody can type, use {secret.option} - or "
            f"{secret.option}-file"
        ) from None


def refuse_keyless(world: World) -> None:
    """Nothing can be stored without a key.

    Raises: SettingsError.
    """
    if not world.keyring.key_ids:
        raise SettingsError(
            "B24SYNC_SECRET_KEY",
            "is not set, and credentials are stored encrypted: `b24sync portal new-key` makes one",
        )
