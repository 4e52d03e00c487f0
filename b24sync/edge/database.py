"""The smallest layer that knows which database it talks to.

Everything that differs between SQLite, PostgreSQL and MariaDB/MySQL stands here and nowhere else:
how to connect, what the clock is called, how to insert-or-update, which failures only mean "again".
Above this module there is one code path.

Two rules are kept for every database. The database's clock stamps what is stored, as whole
milliseconds since 1970 UTC. And a transaction that writes says so when it begins, because a SQLite
read transaction that turns into a write fails at once, whatever the busy timeout.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Insert,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    insert,
    select,
    tuple_,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from b24sync.core.errors import DatabaseError, SettingsError
from b24sync.core.model import Unreadable
from b24sync.core.refs import is_list, is_mapping

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

MYSQL_NAMES = ("mysql", "mariadb")
WRITES = "b24sync_writes"
EGRESS_GROUP = "b24sync_egress_group"
"""What connections carry of a process that calls portals from an address of its own."""

TRIES = 6

EXTRAS = {
    "postgresql": "pip install 'b24sync[postgresql]'",
    "mysql": "pip install 'b24sync[mysql]'",
    "mariadb": "pip install 'b24sync[mysql]'",
}

AGAIN_POSTGRESQL = {"40001", "40P01"}
"""SQLSTATE of a serialisation failure and of a deadlock, PostgreSQL manual, appendix A."""

AGAIN_MYSQL = {1205, 1213}
"""Lock wait timeout and deadlock, MySQL server error reference."""

FRESH_S = 1.0
"""Seconds for which a connection that was just used is taken to be alive without asking."""

_RESTED_AT = "b24sync_rested_at"

LOCKED_POSTGRESQL = "55P03"
"""SQLSTATE of a lock that is not to be had without waiting."""

LOCKED_MYSQL = {1205, 3572}
"""The same in MariaDB, and in MySQL."""

DEEPEST = 200
"""Levels of a stored document that are read; far more than a portal takes, and far fewer than
Python's stack, on which it is written again from a deeper place than it was read at."""

_is_beyond_text = re.compile(r"\\u(?:0000|[dD][89a-fA-F])").search
"""Finds what JSON can spell and text cannot hold: NUL and half characters."""


class now_ms(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock: whole milliseconds since 1970 UTC, at the start of the statement."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms)
def _now_default(_element: now_ms, _compiler: SQLCompiler, **_kw: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(now_ms, "postgresql")
def _now_postgresql(_element: now_ms, _compiler: SQLCompiler, **_kw: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(now_ms, "mysql", "mariadb")
def _now_mysql(_element: now_ms, _compiler: SQLCompiler, **_kw: object) -> str:
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)"


class greatest(FunctionElement[Any]):  # noqa: N801 - as above
    """The largest of some numbers that are not null."""

    inherit_cache = True
    name = "greatest"


class least(FunctionElement[Any]):  # noqa: N801 - as above
    """The smallest of some numbers that are not null."""

    inherit_cache = True
    name = "least"


@compiles(greatest)
@compiles(least)
def _extreme(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own
    return f"{element.name}({compiler.process(element.clauses, **kw)})"


@compiles(greatest, "sqlite")
@compiles(least, "sqlite")
def _extreme_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    name = "max" if isinstance(element, greatest) else "min"
    return f"{name}({compiler.process(element.clauses, **kw)})"


def parse_url(text: str, *, setting: str = "database_url") -> URL:
    """A database address that this package can use.

    Raises: SettingsError, naming the setting and never showing the password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(
            setting,
            "not a database address; write e.g. sqlite:///b24sync.db, "
            "postgresql+psycopg://user:password@host/name or mysql+pymysql://user:password@host/name",
        ) from None
    if "@" in (url.host or ""):
        raise SettingsError(setting, "an @ in the user's name or password is written %40")
    backend = url.get_backend_name()
    if backend not in {"sqlite", "postgresql", *MYSQL_NAMES}:
        raise SettingsError(
            setting, f"{backend!r} is not supported; use sqlite, postgresql, mysql, mariadb"
        )
    if backend in MYSQL_NAMES and "+" not in url.drivername:
        url = url.set(drivername=f"{backend}+pymysql")
    if backend == "postgresql" and "+" not in url.drivername:
        url = url.set(drivername="postgresql+psycopg")
    if backend in MYSQL_NAMES and "charset" not in url.query:
        url = url.update_query_dict({"charset": "utf8mb4"})
    return url


def make_engine(
    text: str,
    *,
    pool_size: int = 5,
    schema: str | None = None,
    egress_group: str | None = None,
    is_guest: bool = False,
) -> Engine:
    """An engine for this package's own statements; connects when first used.

    ``egress_group``: the address from which this process calls portals, whatever their rows say.
    ``is_guest``: the database is somebody else's, and no mode of it is changed.
    Raises: SettingsError for an address or a driver that cannot be used.
    """
    url = parse_url(text)
    options: dict[str, object] = {
        "json_serializer": _written_json,
        "json_deserializer": _read_json,
        "hide_parameters": True,
    }
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 10.0}
    else:
        # max_overflow lets command line look-ups through while every slot is busy.
        options |= {"pool_size": pool_size, "max_overflow": 2, "pool_recycle": 1800}
        options |= {"pool_timeout": 10, "isolation_level": "READ COMMITTED"}
        options["connect_args"] = {"connect_timeout": 10}
    try:
        engine = create_engine(url, **options)
    except (NoSuchModuleError, ModuleNotFoundError):
        hint = EXTRAS.get(url.get_backend_name(), "install its driver")
        raise SettingsError("database_url", f"no driver for {url.drivername}; {hint}") from None
    event.listen(engine, "checkin", _checked_in)
    event.listen(engine, "checkout", _checked_out)
    if url.get_backend_name() == "sqlite":
        _listen_sqlite(engine, _sqlite_visited if is_guest else _sqlite_connected)
    if schema is not None:
        engine = engine.execution_options(schema_translate_map={None: schema})
    if egress_group is not None:
        engine = engine.execution_options(**{EGRESS_GROUP: egress_group})
    return engine


def _written_json(value: object) -> str:
    if isinstance(value, Unreadable):
        return value.text
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_digits)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half a character, which was read from an escape, is written as one.
        return json.dumps(value, separators=(",", ":"), default=_digits)
    return text


def _digits(value: object) -> str:
    """A number with a fraction as it was read, digit by digit; portals read the text alike."""
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


_decode = json.JSONDecoder(parse_float=Decimal).decode


def _read_json(stored: str | bytes | float) -> object:
    """The document; one that cannot be read must not stop the rows that are read along with it."""
    if isinstance(stored, int | float):
        # SQLite keeps a document that is a lone number as one.
        return stored
    text = stored if isinstance(stored, str) else stored.decode(errors="replace")
    try:
        document: object = _decode(text)
    except (ValueError, ArithmeticError, RecursionError):
        return Unreadable(text)
    may_be_deep = text.count("[") + text.count("{") > DEEPEST
    return Unreadable(text) if may_be_deep and _is_too_deep(document) else document


def _is_too_deep(document: object) -> bool:
    level = [document]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _parts(value)]
        if not level:
            return False
    return True


def _parts(value: object) -> Iterable[object]:
    if is_list(value):
        return value
    return value.values() if is_mapping(value) else ()


def _checked_in(_connection: "DBAPIConnection | None", record: "ConnectionPoolEntry") -> None:
    record.info[_RESTED_AT] = monotonic()


def _checked_out(
    connection: "DBAPIConnection", record: "ConnectionPoolEntry", _proxy: object
) -> None:
    """Ask a connection that was at rest whether it is still there; one that was not, is.

    Raises: DisconnectionError, upon which the pool opens another.
    """
    rested_at = record.info.get(_RESTED_AT)
    if rested_at is None or monotonic() - rested_at < FRESH_S:
        return
    try:
        connection.cursor().execute("SELECT 1")
        connection.rollback()
    except Exception:  # noqa: BLE001 - each driver has errors of its own
        raise DisconnectionError from None


def _listen_sqlite(engine: Engine, connected: Callable[..., None]) -> None:
    """Take the driver's own transactions away and begin them as they are meant."""
    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", _sqlite_begin)


def _sqlite_visited(connection: "DBAPIConnection", _record: "ConnectionPoolEntry") -> None:
    connection.isolation_level = None
    connection.text_factory = _read_text
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()


def _sqlite_connected(connection: "DBAPIConnection", _record: "ConnectionPoolEntry") -> None:
    connection.isolation_level = None
    connection.text_factory = _read_text
    cursor = connection.cursor()
    # FULL: the commit before a request is sent must survive a power cut, WAL with NORMAL may not.
    for pragma in ("busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        # SQLite does not wait here. Whoever holds a new file is making the same switch, and the
        # mode stays in the file.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
    cursor.close()


def _read_text(stored: bytes) -> str:
    """Text as SQLite has it, which takes any bytes for text; one such value must not stop its lane.

    A byte that is no UTF-8 is read as an escape, with which a document is refused as unreadable, and
    two keys stay two keys.
    """
    return stored.decode(errors="backslashreplace")


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """One transaction that may write; committed at the end, rolled back by an exception."""
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """One transaction that only reads."""
    with engine.connect() as connection, connection.begin():
        yield connection


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run one writing transaction, again from its start when the database only asked for that.

    Units: at most six tries, one after another.
    Raises: whatever ``work`` raises, and the database's own error after the last try.
    """
    for _ in range(TRIES - 1):
        try:
            with writing(engine) as connection:
                return work(connection)
        except OperationalError as error:
            if not only_asks_again(error):
                raise
    with writing(engine) as connection:
        return work(connection)


def only_asks_again(error: OperationalError) -> bool:
    """Whether a failure means that the same transaction may simply be run again."""
    original = error.orig
    state = getattr(original, "sqlstate", None)
    if state in AGAIN_POSTGRESQL:
        return True
    arguments = original.args if original is not None else ()
    if arguments and arguments[0] in AGAIN_MYSQL:
        return True
    return bool(arguments) and "database is locked" in str(arguments[0])


def is_locked(error: DBAPIError) -> bool:
    """Whether a statement that does not wait met a row that somebody else has locked."""
    original = error.orig
    if getattr(original, "sqlstate", None) == LOCKED_POSTGRESQL:
        return True
    arguments = original.args if original is not None else ()
    return bool(arguments) and arguments[0] in LOCKED_MYSQL


def lock_within(connection: Connection) -> str:
    """What makes a query lock its rows as a part of another one, and not wait for them.

    MariaDB and MySQL lock what the parts of a query say; PostgreSQL locks the rows of parts when the
    whole says so, and only those that are asked for. SQLite has no locks on rows.
    """
    if connection.dialect.name not in MYSQL_NAMES:
        return ""
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    return "LOCK IN SHARE MODE NOWAIT" if is_mariadb else "FOR SHARE NOWAIT"


def unreachable(engine: Engine, error: Exception) -> DatabaseError:
    """The error to show when the database does not answer; names the address, not the password."""
    where = engine.url.render_as_string(hide_password=True)
    cause = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
    password = engine.url.password
    if password:
        cause = cause.replace(str(password), "***")
    return DatabaseError(f"cannot use the database {where}: {cause}")


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, object]],
    *,
    keys: Sequence[str],
    update: "Update",
) -> None:
    """Insert rows, or update those whose key is there already.

    ``update`` is given a function from a column's name to the value that was to be inserted, and
    says what the existing row's columns become. It is asked once, and the statement kept: let it be
    a function of a module. Set expressions must not depend on one another: MySQL evaluates them left
    to right.
    """
    if rows:
        statement = _upsert(connection.dialect.name, table, tuple(keys), update)
        insert_any_order(connection, statement, rows)


Update: TypeAlias = Callable[[Callable[[str], Any]], Mapping[str, object]]


@lru_cache(maxsize=64)
def _upsert(name: str, table: Table, keys: tuple[str, ...], update: Update) -> Insert:
    if name in MYSQL_NAMES:
        mine = mysql.insert(table)
        # VALUES() is understood by MariaDB and by MySQL 8; MySQL's newer row alias is not.
        return mine.on_duplicate_key_update(dict(update(lambda c: mine.inserted[c])))
    if name == "postgresql":
        theirs = postgresql.insert(table)
        return theirs.on_conflict_do_update(
            index_elements=list(keys), set_=dict(update(lambda c: theirs.excluded[c]))
        )
    lite = sqlite.insert(table)
    return lite.on_conflict_do_update(
        index_elements=list(keys), set_=dict(update(lambda c: lite.excluded[c]))
    )


def insert_missing(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]
) -> None:
    """Insert rows, leaving alone those whose key is there already."""
    if rows:
        insert_any_order(connection, _insert_missing(connection.dialect.name, table), rows)


@lru_cache(maxsize=64)
def _insert_missing(name: str, table: Table) -> Insert:
    if name in MYSQL_NAMES:
        return mysql.insert(table).prefix_with("IGNORE")
    if name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def insert_many(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, object]],
    *,
    options: Mapping[str, object] | None = None,
) -> None:
    """Insert many rows, numbered in their order, in as few statements as the database takes.

    PostgreSQL's driver sends one statement for each row, unless the statement returns something;
    the other drivers join or prepare it by themselves.
    """
    if not rows:
        return
    chosen = insert(table)
    if connection.dialect.name == "postgresql":
        chosen = chosen.returning(next(iter(table.primary_key.columns)))
    connection.execute(chosen, list(rows), execution_options=options or {})


def insert_any_order(
    connection: Connection,
    statement: Insert,
    rows: Sequence[Mapping[str, object]],
) -> None:
    """Insert many rows whose numbers need not follow their order, by a statement that is kept.

    To PostgreSQL they go as one JSON parameter: a statement of a thousand parameters is parsed by
    its driver anew each time.
    """
    if not rows:
        return
    joined = _joined(rows) if connection.dialect.name == "postgresql" else None
    if joined is None:
        connection.execute(statement, list(rows))
        return
    connection.execute(_from_json(statement, tuple(rows[0])), {JSON_ROWS: joined})


JSON_ROWS = "b24sync_rows"


def _joined(rows: Sequence[Mapping[str, object]]) -> str | None:
    """Rows as one document; ``None`` for what PostgreSQL stores in one, and cannot take out of one."""
    try:
        text = json.dumps(list(rows), ensure_ascii=False, separators=(",", ":"), default=_digits)
        text.encode()
    except (TypeError, UnicodeEncodeError):
        return None
    return None if _is_beyond_text(text) else text


@lru_cache(maxsize=256)
def _from_json(statement: Insert, names: tuple[str, ...]) -> Insert:
    """The same insert, of the rows that one JSON parameter holds."""
    chosen = _rows_of_json(statement.table, names)
    return statement.from_select(names, chosen, include_defaults=False)


@lru_cache(maxsize=64)
def _rows_of_json(table: FromClause, names: tuple[str, ...]) -> Select[tuple[object, ...]]:
    """The rows of a table that one JSON parameter holds."""
    columns = [column(name, table.c[name].type) for name in names]
    given = func.json_to_recordset(cast(bindparam(JSON_ROWS, type_=Text), JSON))
    return select(*given.table_valued(*columns).render_derived(with_types=True).c)


def distinct_pairs(
    connection: Connection,
    first: Column[Any],
    second: Column[Any],
    where: ColumnElement[bool],
) -> FromClause:
    """The different values of the first two columns of an index, each found by one look at it.

    Shape: columns ``first`` and ``second``. ``where`` is what the index is partial by, or an
    equality with its third column.
    MySQL and MariaDB leap from one group of an index to the next by themselves; the others are led.
    """
    if connection.dialect.name in MYSQL_NAMES:
        plain = select(first.label("first"), second.label("second")).where(where)
        return plain.group_by(first, second).subquery("pairs")
    pairs = select(*_least(first, second, where)).cte("pairs", recursive=True)
    beyond = tuple_(first, second) > tuple_(pairs.c.first, pairs.c.second)
    following = select(*_least(first, second, and_(where, beyond), pairs))
    pairs = pairs.union_all(following.where(pairs.c.first.is_not(None)))
    # What ends the recursion is no pair.
    return select(pairs).where(pairs.c.first.is_not(None)).subquery("found")


def _least(
    first: Column[Any], second: Column[Any], where: ColumnElement[bool], *outer: FromClause
) -> Iterator[ColumnElement[Any]]:
    for each, name in ((first, "first"), (second, "second")):
        least = select(each).where(where).order_by(first, second).limit(1)
        yield least.correlate(*outer).scalar_subquery().label(name)


def skip_locked(statement: Select[tuple[object, ...]]) -> Select[tuple[object, ...]]:
    """Lock the selected rows and pass over those that somebody else has locked.

    SQLAlchemy leaves the clause out for SQLite, where the writing transaction excludes everyone.
    """
    return statement.with_for_update(skip_locked=True)
