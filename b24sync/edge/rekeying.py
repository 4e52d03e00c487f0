"""Stored secrets, closed with the newest key.

A secret is replaced only where it is still the one that was read, so that whoever stores another
one meanwhile is not written over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Column, Connection, Table, func, select, update

from b24sync.edge.tables import app, portal

HOLDERS: tuple[Table, ...] = (portal, app)
"""The tables with secrets; each has ``code``, ``secret`` and ``secret_key_id``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """One stored secret, encrypted, and whose it is."""

    code: str
    secret: str = field(repr=False)


def closed_otherwise(
    connection: Connection, table: Table, key_id: str, *, after: str, limit: int
) -> Sequence[Closed]:
    """Secrets that are closed with other keys than this one, by code, from behind ``after``.

    Writes: nothing.
    """
    found = connection.execute(
        select(table.c.code, table.c.secret)
        .where(table.c.secret.is_not(None), table.c.secret_key_id != key_id, table.c.code > after)
        .order_by(table.c.code)
        .limit(limit)
    )
    return [Closed(code=code, secret=secret) for code, secret in found]


def count_closed(connection: Connection, table: Table, key_id: str) -> int:
    """How many secrets are closed with this key.

    Writes: nothing.
    """
    code: Column[str] = table.c.code
    counted = select(func.count(code)).where(table.c.secret_key_id == key_id)
    return int(connection.execute(counted).scalar_one())


def close_anew(
    connection: Connection, table: Table, former: Closed, *, secret: str, key_id: str
) -> bool:
    """Put a secret closed with another key in the place of this one; ``False``, it is gone.

    Writes: portal or app, where the secret is still the one that was read.
    """
    changed = connection.execute(
        update(table)
        .where(table.c.code == former.code, table.c.secret == former.secret)
        .values(secret=secret, secret_key_id=key_id)
    )
    return changed.rowcount == 1
