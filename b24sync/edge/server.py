"""What a database lacks, whatever tables it holds: a version, a storage engine, a setting."""

import re
from collections.abc import Iterator

from sqlalchemy import Connection, text

from b24sync.edge import tables
from b24sync.edge.drift import Problem

OLDEST = {
    "PostgreSQL": (13,),
    "MariaDB": (10, 6),
    "MySQL": (8, 0),
    "SQLite": (3, 35),
}
"""SKIP LOCKED, RETURNING, CHECKs that are enforced, and defaults that are expressions."""


def server_problems(connection: Connection) -> Iterator[Problem]:
    """What the database itself lacks: a version, a storage engine, a setting.

    Raises: the driver's own errors.
    """
    match connection.dialect.name:
        case "postgresql":
            yield from too_old("PostgreSQL", str(connection.scalar(text("SHOW server_version"))))
            yield from _postgresql(connection)
        case "sqlite":
            yield from too_old("SQLite", str(connection.scalar(text("SELECT sqlite_version()"))))
            yield from _sqlite(connection)
        case _:
            version = str(connection.scalar(text("SELECT version()")))
            yield from too_old("MariaDB" if "mariadb" in version.lower() else "MySQL", version)
            yield from _mysql(connection)


def too_old(product: str, version: str) -> Iterator[Problem]:
    """Whether a version, as the server tells it, is one that lacks something needed.

    Raises: KeyError for a product that is not supported.
    """
    oldest = OLDEST[product]
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < oldest:
        needed = ".".join(map(str, oldest))
        yield Problem(subject=product, text=f"version {version} is too old; {needed} is needed")


def _postgresql(connection: Connection) -> Iterator[Problem]:
    if connection.scalar(text("SHOW autovacuum")) != "on":
        yield Problem(
            subject="PostgreSQL",
            text="autovacuum is off, so the outbox grows and slows down; switch it on",
            blocks=False,
        )


def _sqlite(connection: Connection) -> Iterator[Problem]:
    mode = connection.scalar(text("PRAGMA journal_mode"))
    if mode != "wal":
        yield Problem(
            subject="SQLite",
            text=f"the journal mode is {mode}, so readers and writers wait for one another; "
            "put the file on a local disk, where it can be wal",
            blocks=False,
        )


def _mysql(connection: Connection) -> Iterator[Problem]:
    found = connection.execute(
        text(
            "SELECT table_name, engine, table_collation FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name LIKE 'b24sync\\_%'"
        )
    )
    for table, storage, collation in found:
        if table not in tables.metadata.tables:
            continue
        if storage != "InnoDB":
            yield Problem(
                subject=table,
                text=f"the storage engine is {storage}, which has no transactions; "
                f"run `ALTER TABLE {table} ENGINE=InnoDB`",
            )
        if not str(collation).startswith("utf8mb4_"):
            yield Problem(
                subject=table,
                text=f"the collation is {collation}, which cannot hold every character; "
                f"run `ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`",
            )
