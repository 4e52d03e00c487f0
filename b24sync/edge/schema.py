"""Which version the tables have, and how they get to another one.

Migrations run under a lock, so that any number of deployments may ask for them at once. The version
stands in a table of this package's own, beside its tables. A host application that prefers its own
Alembic history lists ``scripts() / "versions"`` among its ``version_locations`` instead, and then
upgrades ``b24sync@head``; the two ways exclude each other and say so. How the tables differ from
those that the code expects is asked in ``drift``, what the server lacks in ``server``.
"""

import io
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from b24sync.core.errors import DatabaseError
from b24sync.core.retention import Grain, missing
from b24sync.edge import database, partitions, tables
from b24sync.edge.drift import Problem, differences
from b24sync.edge.partitions import schema_of
from b24sync.edge.server import server_problems

VERSION_TABLE = "b24sync_alembic_version"

LOCK_NAME = "b24sync_migrations"
LOCK_NUMBER = 0x62323473796E63
"""The lock's name where locks are numbers (PostgreSQL): ``b24sync`` in ASCII."""
LOCK_WAIT_S = 60
"""How long one upgrade waits for another; the migrations themselves take seconds."""


def scripts() -> Path:
    """Where the migrations stand: inside an installed package, or at the top of a checkout.

    Raises: DatabaseError when they are in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise DatabaseError(f"the migrations are missing; the package at {package} is not whole")


def upgrade(engine: Engine, revision: str = "head", *, grain: Grain = Grain.MONTH) -> None:
    """Bring the tables to a version, by default to this code's, and make the first partitions.

    ``grain`` is how long the partitions of results are. What hinders them hinders no upgrade: the
    results have a catch-all, and the next run of ``prune`` makes them.
    Raises: DatabaseError when the database cannot be used, or another history made the tables.
    Writes: all tables, under a lock that lets one upgrade through at a time.
    """
    _let_the_file_shrink(engine)
    with alone(engine) as connection:
        _refuse_what_is_not_ours(connection)
        _run(connection, lambda config: command.upgrade(config, revision))
    with _in_plain_words(engine):
        found = partitions.current(engine)
        if found is not None:
            partitions.prepare(engine, missing(found.dated, grain, found.now_ms))


def _let_the_file_shrink(engine: Engine) -> None:
    """A new SQLite file will be able to give pages back; an older one would have to be rewritten."""
    if engine.dialect.name != "sqlite":
        return
    with _in_plain_words(engine), engine.connect() as connection:
        # Beside any transaction, which is where SQLite rewrites a file.
        cursor = connection.connection.cursor()
        try:
            cursor.execute("SELECT count(*) FROM sqlite_master")
            if cursor.fetchone() == (0,):
                cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
                cursor.execute("VACUUM")
        except sqlite3.OperationalError:
            # Somebody else makes the tables just now, and has made this choice.
            pass
        finally:
            cursor.close()


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to a version; ``base`` leaves nothing behind.

    Raises: DatabaseError when the database cannot be used.
    Writes: all tables, under the same lock as ``upgrade``.
    """
    with alone(engine) as connection:
        _refuse_what_is_not_ours(connection)
        _run(connection, lambda config: command.downgrade(config, revision))
        if not heads(connection):
            table = Table(VERSION_TABLE, MetaData(), schema=schema_of(connection))
            table.drop(connection, checkfirst=True)


def stamp(engine: Engine, revision: str = "head") -> None:
    """Believe that the tables have a version, and note it as this package's own.

    Raises: DatabaseError when the database cannot be used.
    Writes: the version table only, under the same lock as ``upgrade``.
    """
    with alone(engine) as connection:
        _run(connection, lambda config: command.stamp(config, revision))


def current(engine: Engine) -> str | None:
    """The version that the tables have by this package's own record; None if there is none.

    Raises: DatabaseError when the database cannot be used.
    """
    with opened(engine) as connection:
        return ", ".join(heads(connection)) or None


def sql(url: str, revision: str = "head") -> str:
    """The statements of an upgrade from nothing, for a person to run; needs no database.

    Raises: SettingsError for an address that cannot be used.
    """
    config = _config(scripts())
    config.output_buffer = io.StringIO()
    config.attributes["dialect"] = database.parse_url(url).get_backend_name()
    command.upgrade(config, revision, sql=True)
    return config.output_buffer.getvalue()


def check(engine: Engine, grain: Grain = Grain.MONTH) -> tuple[Problem, ...]:
    """Everything that is wrong with the database and its tables, as far as can be seen.

    ``grain`` is how long the partitions of results are to be.
    Shape: none if all is well. Tables of another version are not compared any further.
    Raises: DatabaseError when the database cannot be used.
    """
    with opened(engine) as connection:
        found = list(server_problems(connection))
        version = version_problem(connection)
        if version is not None:
            return (*found, Problem(subject="tables", text=version))
        found += differences(connection, schema_of(connection))
        return (*found, *partitions.problems(connection, grain))


def ensure_current(engine: Engine) -> None:
    """Refuse to work with tables of another version; cheap enough for every start of a worker.

    Raises: DatabaseError, in one line that says what to do.
    """
    with opened(engine) as connection:
        problem = version_problem(connection)
    if problem is not None:
        raise DatabaseError(problem)


def version_problem(connection: Connection) -> str | None:
    """What is wrong with the version of the tables, in one line; None if nothing is.

    A host application's history need not name our version even when it made the tables: then
    having them all is taken for the right version.
    """
    ours = heads(connection)
    found, head = ours or _heads_in_a_hosts_history(connection), _head()
    if found == (head,):
        return None
    if not set(ours) <= _known():
        return f"the tables are newer ({ours[0]}) than this code ({head}): upgrade the package"
    if found:
        return (
            f"the tables are older ({found[0]}) than this code ({head}): run `b24sync db upgrade`"
        )
    if set(tables.metadata.tables) <= set(table_names(connection)):
        return None
    return "the tables are missing: run `b24sync db upgrade`"


@contextmanager
def opened(engine: Engine) -> Generator[Connection]:
    """One reading transaction, whose failures name the address and never the password.

    Raises: DatabaseError when the database cannot be used.
    """
    with _in_plain_words(engine), database.reading(engine) as connection:
        yield connection


@contextmanager
def alone(engine: Engine) -> Generator[Connection]:
    """One writing transaction that excludes every other upgrade of these tables.

    Raises: DatabaseError when the database cannot be used, or another upgrade does not end.
    """
    lock = _lock_of_the_session if engine.dialect.name in database.MYSQL_NAMES else _lock_inside
    with _in_plain_words(engine), lock(engine) as connection:
        _refuse_a_missing_schema(connection)
        yield connection


@contextmanager
def _lock_inside(engine: Engine) -> Generator[Connection]:
    """A lock that ends with the transaction; SQLite's is the transaction itself."""
    with database.writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
            connection.execute(select(func.pg_advisory_xact_lock(LOCK_NUMBER)))
        yield connection


@contextmanager
def _lock_of_the_session(engine: Engine) -> Generator[Connection]:
    """A lock that outlives the commits which MariaDB and MySQL make after every statement."""
    with engine.connect() as connection:
        if connection.scalar(select(func.get_lock(LOCK_NAME, LOCK_WAIT_S))) != 1:
            raise DatabaseError(f"another upgrade has not ended within {LOCK_WAIT_S} s")
        connection.commit()
        try:
            with connection.begin():
                yield connection
        finally:
            connection.execute(select(func.release_lock(LOCK_NAME)))


@contextmanager
def _in_plain_words(engine: Engine) -> Generator[None]:
    """Turn what the driver complains of into one line."""
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and not file.startswith((":memory:", "file:")) and not Path(file).parent.is_dir():
        raise DatabaseError(f"the folder {Path(file).parent} for the database file does not exist")
    try:
        yield
    except DBAPIError as error:
        raise database.unreachable(engine, error) from error


def heads(connection: Connection) -> tuple[str, ...]:
    """What this package's own version table says; nothing if there is none.

    Asked without Alembic, which says at each look which database it believes to see: workers look.
    """
    schema = schema_of(connection)
    if not inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return ()
    versions = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)), schema=schema)
    return tuple(connection.execute(select(versions.c.version_num)).scalars())


def table_names(connection: Connection) -> tuple[str, ...]:
    """This package's tables that exist, without the version table."""
    found = inspect(connection).get_table_names(schema=schema_of(connection))
    return tuple(sorted(set(found) & set(tables.metadata.tables)))


def _heads_in_a_hosts_history(connection: Connection) -> tuple[str, ...]:
    """Our versions among those in Alembic's usual table."""
    if schema_of(connection) is not None:
        return ()
    return tuple(set(MigrationContext.configure(connection).get_current_heads()) & _known())


def _refuse_what_is_not_ours(connection: Connection) -> None:
    """Leave alone what another Alembic history, a newer package or a cut run has left."""
    found = heads(connection)
    if not set(found) <= _known():
        raise DatabaseError(version_problem(connection) or "")
    there = table_names(connection)
    if found or not there:
        return
    if inspect(connection).has_table(VERSION_TABLE, schema=schema_of(connection)):
        raise DatabaseError(
            f"an upgrade was cut short and left {', '.join(there)}: drop these tables, which are "
            "empty, and run `b24sync db upgrade` again"
        )
    raise DatabaseError(
        f"the tables exist, but {VERSION_TABLE} does not, so another Alembic history made them: "
        "either keep to that one (`alembic upgrade b24sync@head` where it lives), or take b24sync "
        f"out of it and hand the tables over once with `b24sync db stamp {_head()}`"
    )


def _refuse_a_missing_schema(connection: Connection) -> None:
    wanted = schema_of(connection)
    if wanted is not None and wanted not in inspect(connection).get_schema_names():
        raise DatabaseError(f"the schema {wanted} does not exist: run `CREATE SCHEMA {wanted}`")


def _run(connection: Connection, step: Callable[[Config], None]) -> None:
    config = _config(scripts())
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema_of(connection)
    try:
        step(config)
    except CommandError as error:
        raise DatabaseError(f"the migrations cannot be run: {error}") from error


def _config(folder: Path) -> Config:
    config = Config()
    # An ini file's values are interpolated, even when there is no file.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _head() -> str:
    head, _ = _history(scripts())
    return head


def _known() -> frozenset[str]:
    _, known = _history(scripts())
    return known


@cache
def _history(folder: Path) -> tuple[str, frozenset[str]]:
    """The newest version in a folder of migrations, and all of them."""
    steps = ScriptDirectory.from_config(_config(folder))
    head = steps.get_current_head()
    if head is None:
        raise DatabaseError(f"there are no migrations in {folder}")
    return head, frozenset(step.revision for step in steps.walk_revisions())
