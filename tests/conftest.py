"""The databases and brokers that tests run against; nothing here is a fake.

SQLite is always there. A server that cannot be reached skips its tests and says which address was
tried; with ``B24SYNC_TEST_REQUIRE_SERVICES=1`` it fails them. Every test session makes databases of
its own, named after its process, so that several sessions can share a server.

===================== ============================================================================
``engine``            one test per database; the tables are there and empty
``database_url``      the address of that database, for subprocesses
``empty_engine``      one test per database; nothing is there
``empty_url``         the address of that one
``sqlite_engine``     as ``engine``, SQLite only
``server_engine``     as ``engine``, PostgreSQL and MariaDB only
``house``             as ``engine``, with the portal ``default``, whose rate no test uses up
``lite_house``        as ``house``, SQLite only, for what no database reads differently
``sandbox``           an emulated portal over HTTP
``connected``         a world on ``house`` whose portal is ``sandbox``
``queue_name``        a name that nobody else uses, on ``rabbitmq_url`` or ``redis_url``
===================== ============================================================================
"""

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import amqp
import kombu
import kombu.exceptions
import pytest
import redis
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from b24sync.edge import database, schema, tables
from b24sync.sandbox import Sandbox
from b24sync.world import World
from tests.house import add_portal, world_of

POSTGRESQL = (
    "B24SYNC_TEST_POSTGRESQL_URL",
    "postgresql+psycopg://root@127.0.0.1:5432/postgres",
)
MARIADB = ("B24SYNC_TEST_MARIADB_URL", "mysql+pymysql://root@127.0.0.1:3306/")
RABBITMQ = ("B24SYNC_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
REDIS = ("B24SYNC_TEST_REDIS_URL", "redis://127.0.0.1:6379/9")

BACKENDS = ("sqlite", "postgresql", "mariadb")
OURS = f"b24sync_test_{os.getpid()}"
LONG = ("whole", "crash")
"""Folders of tests that wait for whole processes."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The database that this run of the test is about."""
    return str(request.param)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest) -> str:
    """The address of a database with migrated, empty tables."""
    return _fresh(request, backend)


@pytest.fixture
def engine(database_url: str) -> Generator[Engine]:
    """An engine on a database with migrated, empty tables."""
    yield from _engine(database_url)


@pytest.fixture
def sqlite_engine(request: pytest.FixtureRequest) -> Generator[Engine]:
    """An engine on a SQLite file with migrated, empty tables."""
    yield from _engine(_fresh(request, "sqlite"))


@pytest.fixture(params=["postgresql", "mariadb"])
def server_engine(request: pytest.FixtureRequest) -> Generator[Engine]:
    """An engine on a server's database with migrated, empty tables."""
    yield from _engine(_fresh(request, str(request.param)))


@pytest.fixture
def house(engine: Engine) -> Engine:
    """A database with the portal ``default``, whose rate no test uses up."""
    add_portal(engine)
    return engine


@pytest.fixture
def lite_house(sqlite_engine: Engine) -> Engine:
    """The same on SQLite only, for tables of cases that no database reads differently."""
    add_portal(sqlite_engine)
    return sqlite_engine


@pytest.fixture
def sandbox() -> Generator[Sandbox]:
    """An emulated portal over HTTP."""
    with Sandbox() as running:
        yield running


@pytest.fixture
def connected(house: Engine, sandbox: Sandbox) -> Generator[World]:
    """A world whose portal is the sandbox, over real sockets."""
    world = world_of(house, webhook_url=sandbox.webhook_url)
    yield world
    world.client.close()


@pytest.fixture
def empty_url(backend: str, tmp_path: Path) -> Generator[str]:
    """The address of a database of this test's own, with nothing in it."""
    match backend:
        case "postgresql":
            yield from _database_on(POSTGRESQL, f"{OURS}_{uuid4().hex[:8]}")
        case "mariadb":
            yield from _database_on(MARIADB, f"{OURS}_{uuid4().hex[:8]}")
        case _:
            yield f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture
def empty_engine(empty_url: str) -> Generator[Engine]:
    """An engine on a database of this test's own, with nothing in it."""
    yield from _engine(empty_url)


@pytest.fixture
def queue_name() -> str:
    """A name for queues, exchanges and keys that are cleared away after the test."""
    return f"{OURS}_{uuid4().hex[:8]}"


@pytest.fixture
def rabbitmq_url(queue_name: str) -> Generator[str]:
    """The address of a RabbitMQ, where ``queue_name`` is deleted afterwards."""
    address = _address(RABBITMQ)
    try:
        with kombu.Connection(address, connect_timeout=3) as connection:
            connection.connect()
    except (OSError, amqp.AMQPError, kombu.exceptions.OperationalError) as error:
        _unreachable(RABBITMQ, error)

    yield address

    with kombu.Connection(address) as connection, connection.channel() as channel:
        kombu.Queue(queue_name).bind(channel).delete()
        kombu.Exchange(queue_name).bind(channel).delete()


@pytest.fixture
def redis_url(queue_name: str) -> Generator[str]:
    """The address of a Redis, where keys that contain ``queue_name`` are deleted afterwards."""
    address = _address(REDIS)
    with redis.Redis.from_url(address, socket_connect_timeout=3) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            _unreachable(REDIS, error)

        yield address

        for key in client.scan_iter(match=f"*{queue_name}*"):
            client.delete(key)


@pytest.fixture(scope="session")
def sqlite_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with migrated tables, to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "original.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def postgresql_original() -> Generator[str]:
    """The address of this session's PostgreSQL database, with migrated tables."""
    for url in _database_on(POSTGRESQL, OURS):
        _migrate(url)
        yield url


@pytest.fixture(scope="session")
def mariadb_original() -> Generator[str]:
    """The address of this session's MariaDB database, with migrated tables."""
    for url in _database_on(MARIADB, OURS):
        _migrate(url)
        yield url


def _fresh(request: pytest.FixtureRequest, backend: str) -> str:
    original = request.getfixturevalue(f"{backend}_original")
    if isinstance(original, Path):
        copy = request.getfixturevalue("tmp_path") / "b24sync.db"
        shutil.copy(original, copy)
        return f"sqlite:///{copy}"
    url = str(original)
    for engine in _engine(url):
        with database.writing(engine) as connection:
            _empty(connection)
    return url


def _empty(connection: Connection) -> None:
    names = list(tables.metadata.tables)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(text(f"TRUNCATE {', '.join(names)} RESTART IDENTITY"))
        return
    connection.execute(text("SET lock_wait_timeout = 10"))
    for name in names:
        connection.execute(text(f"TRUNCATE {name}"))


def _engine(url: str) -> Generator[Engine]:
    engine = database.make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _migrate(url: str) -> None:
    for engine in _engine(url):
        schema.upgrade(engine)


def _database_on(server: tuple[str, str], name: str) -> Generator[str]:
    address = make_url(_address(server))
    statements = database.make_engine(address.render_as_string(hide_password=False))
    maintenance = statements.execution_options(isolation_level="AUTOCOMMIT")
    force = " WITH (FORCE)" if maintenance.dialect.name == "postgresql" else ""
    try:
        with maintenance.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except DBAPIError as error:
        statements.dispose()
        _unreachable(server, error.orig or error)

    try:
        yield address.set(database=name).render_as_string(hide_password=False)
    finally:
        with maintenance.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}{force}"))
        statements.dispose()


def _address(server: tuple[str, str]) -> str:
    variable, default = server
    return os.environ.get(variable, default)


def _unreachable(server: tuple[str, str], error: BaseException) -> NoReturn:
    variable, _ = server
    where = make_url(_address(server)).render_as_string(hide_password=True)
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    message = f"cannot use {where} ({cause}); set {variable} to another address"
    pytest.skip(message)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: they mostly wait, and nobody should be left alone with them at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything must be there to test with, a test that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("B24SYNC_TEST_REQUIRE_SERVICES") == "1":
        report.outcome = "failed"
        reason = call.excinfo.value if call.excinfo is not None else "skipped"
        report.longrepr = f"{item.nodeid} may not be skipped here: {reason}"
    return report
