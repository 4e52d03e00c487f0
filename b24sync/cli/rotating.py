"""``b24sync portal rotate-keys``: every stored secret is closed with the first key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import click
from rich.text import Text
from sqlalchemy import Connection, Table

from b24sync.cli.desk import FAILED, Desk, as_json, epilog
from b24sync.core.errors import CredentialError, SettingsError
from b24sync.edge import rekeying, tables
from b24sync.edge.database import reading, transact
from b24sync.world import World

CHUNK = 200
"""Secrets in one transaction, which other writers wait for."""

NAMES = {tables.portal.name: "portals", tables.app.name: "applications"}


@dataclass(slots=True)
class _Swept:
    """What became of the secrets of one table."""

    rotated: int = 0
    current: int = 0
    unreadable: list[str] = field(default_factory=list[str])


@click.command(
    "rotate-keys",
    epilog=epilog(
        "export B24SYNC_SECRET_KEY=$NEW,$OLD && b24sync portal rotate-keys",
        exits="0  done; 1  some secrets cannot be read with the keys at hand; 2  no key is set",
    ),
)
@as_json
@click.pass_obj
def rotate_keys(desk: Desk, *, as_json: bool) -> int:
    """Encrypt the stored secrets of all portals and applications with the first key.

    Give the new key to every worker first, before the old one; when this has been run, the old one
    may be left away. It can be run at any time and again: what is closed with the first key stays.
    """
    with desk.opened() as world:
        if not world.keyring.key_ids:
            raise SettingsError(
                "B24SYNC_SECRET_KEY", "is not set; put the new key before the old one"
            )
        key_id = world.keyring.key_ids[0]
        swept = {NAMES[holder.name]: _sweep(world, holder) for holder in rekeying.HOLDERS}
    unreadable = [f"{name}: {code}" for name, each in swept.items() for code in each.unreadable]
    if as_json:
        rotated = {name: each.rotated for name, each in swept.items()}
        current = {name: each.current for name, each in swept.items()}
        desk.emit({"key": key_id, "rotated": rotated, "current": current, "unreadable": unreadable})
        return FAILED if unreadable else 0
    for name, each in swept.items():
        desk.show(Text(f"{name}: {each.rotated} re-encrypted, {each.current} closed with {key_id}"))
    for one in unreadable:
        desk.note(f"no key at hand opens the secret of {one}; store it again", style="red")
    return FAILED if unreadable else 0


def _sweep(world: World, holder: Table) -> _Swept:
    """All secrets of a table, those of others who wrote meanwhile too."""
    key_id, swept, is_raced = world.keyring.key_ids[0], _Swept(), True
    while is_raced:
        is_raced, swept.unreadable, after = False, [], ""
        while found := _chunk(world, holder, after):
            after = found[-1].code
            anew = {one: secret for one in found if (secret := _closed_anew(world, one))}
            swept.unreadable += [one.code for one in found if one not in anew]
            closed = transact(world.engine, partial(_close, holder, anew, key_id))
            swept.rotated += closed
            is_raced = is_raced or closed < len(anew)
    with reading(world.engine) as connection:
        swept.current = rekeying.count_closed(connection, holder, key_id)
    return swept


def _close(
    holder: Table, anew: Mapping[rekeying.Closed, str], key_id: str, connection: Connection
) -> int:
    return sum(
        rekeying.close_anew(connection, holder, former, secret=secret, key_id=key_id)
        for former, secret in anew.items()
    )


def _closed_anew(world: World, former: rekeying.Closed) -> str | None:
    try:
        return world.keyring.encrypt(world.keyring.decrypt(former.secret))
    except CredentialError:
        return None


def _chunk(world: World, holder: Table, after: str) -> list[rekeying.Closed]:
    key_id = world.keyring.key_ids[0]
    with reading(world.engine) as connection:
        found = rekeying.closed_otherwise(connection, holder, key_id, after=after, limit=CHUNK)
    return list(found)
