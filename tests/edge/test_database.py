"""The layer that knows which database it talks to: clock, again, insert-or-update, addresses."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import psycopg
import pymysql
import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from b24sync.core.errors import SettingsError
from b24sync.edge import tables
from b24sync.edge.database import (
    TRIES,
    insert_missing,
    make_engine,
    now_ms,
    only_asks_again,
    parse_url,
    reading,
    skip_locked,
    transact,
    unreachable,
    upsert,
    writing,
)

PATIENCE_S = 20


def test_the_database_clock_counts_milliseconds_of_the_epoch(engine: Engine) -> None:
    """Every stored instant comes from it, so its zero and its unit must be the same everywhere."""
    with reading(engine) as connection:
        now = connection.scalar(select(now_ms()))

    assert isinstance(now, int)
    assert abs(now - time.time() * 1000) < 2000


def test_the_clock_does_not_care_for_the_time_zone_of_the_session(server_engine: Engine) -> None:
    """A host may set any time zone on its connections; the outbox row it inserts is stamped alike."""
    setting = {"postgresql": "SET TIME ZONE 'Asia/Vladivostok'"}.get(
        server_engine.dialect.name, "SET time_zone = '+10:00'"
    )

    with writing(server_engine) as connection:
        connection.execute(text(setting))
        connection.execute(insert(tables.portal), {"code": "p", "base_url": "https://x.example"})
        now = connection.scalar(select(now_ms()))
        stamped = connection.scalar(select(tables.portal.c.created_at))

    assert abs((now or 0) - time.time() * 1000) < 2000
    assert abs((stamped or 0) - time.time() * 1000) < 2000


def test_an_upsert_inserts_what_is_new_and_updates_what_is_there(engine: Engine) -> None:
    """One statement for both, with the old and the new value at hand."""
    with writing(engine) as connection:
        connection.execute(insert(tables.chore), {"name": "old", "token": 5, "last_run_at": 7})

    with writing(engine) as connection:
        upsert(
            connection,
            tables.chore,
            [{"name": "old", "token": 10}, {"name": "new", "token": 20}],
            keys=["name"],
            update=lambda inserted: {"token": tables.chore.c.token + inserted("token")},
        )

    assert _chores(engine) == [("new", 20, 0), ("old", 15, 7)]


def test_an_upsert_can_set_several_columns(engine: Engine) -> None:
    """Each from its own inserted value."""
    with writing(engine) as connection:
        connection.execute(insert(tables.chore), {"name": "old", "token": 5, "last_run_at": 7})

    with writing(engine) as connection:
        upsert(
            connection,
            tables.chore,
            [{"name": "old", "token": 1, "last_run_at": 2}],
            keys=["name"],
            update=lambda inserted: {
                "token": inserted("token"),
                "last_run_at": inserted("last_run_at"),
            },
        )

    assert _chores(engine) == [("old", 1, 2)]


def test_a_row_that_is_there_already_is_left_alone(engine: Engine) -> None:
    """Whoever inserted first wins, and nobody is told of an error."""
    with writing(engine) as connection:
        connection.execute(insert(tables.chore), {"name": "old", "token": 5})

    with writing(engine) as connection:
        insert_missing(
            connection, tables.chore, [{"name": "old", "token": 1}, {"name": "new", "token": 2}]
        )

    assert _chores(engine) == [("new", 2, 0), ("old", 5, 0)]


def test_nothing_to_insert_is_no_statement(engine: Engine) -> None:
    """An empty list is an ordinary case after planning."""
    with writing(engine) as connection:
        insert_missing(connection, tables.chore, [])
        upsert(connection, tables.chore, [], keys=["name"], update=lambda _inserted: {})

    assert _chores(engine) == []


def test_an_exception_takes_everything_back(engine: Engine) -> None:
    """A transaction is whole or it is not."""

    def half() -> None:
        with writing(engine) as connection:
            _note(connection, "half")
            raise KeyError

    with pytest.raises(KeyError):
        half()

    assert _chores(engine) == []


def test_a_transaction_that_writes_excludes_other_writers_from_its_start(
    sqlite_engine: Engine,
) -> None:
    """A read that turns into a write after somebody else's commit fails at once on SQLite."""
    other = sqlite3.connect(str(sqlite_engine.url.database), timeout=0, isolation_level=None)

    with writing(sqlite_engine) as connection:
        connection.scalar(select(func.count()).select_from(tables.chore))
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("BEGIN IMMEDIATE")
        _note(connection, "written")

    other.close()
    assert _chores(sqlite_engine) == [("written", 0, 0)]


def test_a_transaction_that_only_reads_excludes_nobody(sqlite_engine: Engine) -> None:
    """Looking at the tables must not stop the workers."""
    other = sqlite3.connect(str(sqlite_engine.url.database), timeout=0, isolation_level=None)

    with reading(sqlite_engine) as connection:
        connection.scalar(select(func.count()).select_from(tables.chore))
        other.execute("INSERT INTO b24sync_chore (name) VALUES ('written')")

    other.close()
    assert _chores(sqlite_engine) == [("written", 0, 0)]


def test_a_new_file_can_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """The workers of a host start together, and each of them switches the file to WAL."""

    def opened(file: int, together: threading.Barrier) -> bool:
        engine = make_engine(f"sqlite:///{tmp_path / f'{file}.db'}")
        together.wait(PATIENCE_S)
        try:
            with writing(engine) as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS room (guest INTEGER)"))
                connection.execute(text("INSERT INTO room VALUES (1)"))
                return True
        finally:
            engine.dispose()

    with ThreadPoolExecutor(3) as pool:
        answers = [
            each.result(PATIENCE_S)
            for file in range(100)
            for together in [threading.Barrier(3)]
            for each in [pool.submit(opened, file, together) for _ in range(3)]
        ]

    assert answers == [True] * 300


def test_a_deadlock_is_tried_again_and_both_transactions_happen(server_engine: Engine) -> None:
    """The database ends one of two that wait for each other; nobody above notices."""
    with writing(server_engine) as connection:
        connection.execute(insert(tables.chore), [{"name": "a"}, {"name": "b"}])
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []

    def cross(first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            tries.append(first)
            _count(connection, first)
            if tries.count(first) == 1:
                both_hold_one.wait(PATIENCE_S)
            _count(connection, second)

        transact(server_engine, work)

    with ThreadPoolExecutor(2) as pool:
        crossing = [pool.submit(cross, "a", "b"), pool.submit(cross, "b", "a")]
        for each in crossing:
            each.result(PATIENCE_S)

    assert len(tries) == 3
    assert _chores(server_engine) == [("a", 2, 0), ("b", 2, 0)]


def test_a_transaction_that_always_fails_is_given_up(sqlite_engine: Engine) -> None:
    """The database's own error comes out after the last of six tries."""
    tries: list[int] = []

    def work(_connection: Connection) -> None:
        tries.append(1)
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    with pytest.raises(OperationalError, match="database is locked"):
        transact(sqlite_engine, work)

    assert len(tries) == TRIES == 6


def test_a_mistake_is_not_tried_again(engine: Engine) -> None:
    """Only failures that mean "again" are."""
    tries: list[int] = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(insert(tables.chore), [{"name": "twice"}, {"name": "twice"}])

    with pytest.raises(IntegrityError):
        transact(engine, work)

    assert len(tries) == 1


def test_a_statement_that_cannot_be_run_is_not_tried_again(engine: Engine) -> None:
    """A missing table is an OperationalError on SQLite and no reason to wait."""
    tries: list[int] = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("SELECT 1 FROM not_a_table"))

    with pytest.raises(Exception, match="not_a_table"):
        transact(engine, work)

    assert len(tries) == 1


@pytest.mark.parametrize(
    ("original", "again"),
    [
        pytest.param(pymysql.err.OperationalError(1213, "Deadlock found"), True, id="deadlock"),
        pytest.param(pymysql.err.OperationalError(1205, "Lock wait timeout"), True, id="waited"),
        pytest.param(psycopg.errors.DeadlockDetected(), True, id="postgresql deadlock"),
        pytest.param(psycopg.errors.SerializationFailure(), True, id="serialisation"),
        pytest.param(sqlite3.OperationalError("database is locked"), True, id="locked"),
        pytest.param(pymysql.err.OperationalError(2003, "Can't connect"), False, id="no server"),
        pytest.param(pymysql.err.OperationalError(4025, "CONSTRAINT failed"), False, id="check"),
        pytest.param(psycopg.OperationalError("connection failed"), False, id="no postgresql"),
        pytest.param(sqlite3.OperationalError("no such table: x"), False, id="no table"),
    ],
)
def test_only_what_may_pass_is_tried_again(original: Exception, *, again: bool) -> None:
    """Everything else would fail six times and hide its cause for as long."""
    error = OperationalError("UPDATE", {}, original)

    assert only_asks_again(error) is again


def test_rows_that_somebody_else_has_locked_are_passed_over(server_engine: Engine) -> None:
    """Two claimers never wait for each other and never get the same row."""
    with writing(server_engine) as connection:
        connection.execute(insert(tables.chore), [{"name": "a"}, {"name": "b"}])
    one = skip_locked(select(tables.chore.c.name).order_by(tables.chore.c.name).limit(1))

    with writing(server_engine) as first, writing(server_engine) as second:
        names: list[object] = [first.scalar(one), second.scalar(one)]

    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///b24sync.db", "sqlite"),
        ("postgresql://ann@host/b24", "postgresql+psycopg"),
        ("postgresql+psycopg2://ann@host/b24", "postgresql+psycopg2"),
        ("mysql://ann@host/b24", "mysql+pymysql"),
        ("mariadb://ann@host/b24", "mariadb+pymysql"),
        ("mysql+mysqldb://ann@host/b24", "mysql+mysqldb"),
    ],
)
def test_an_address_without_a_driver_gets_ours(given: str, driver: str) -> None:
    """The drivers of the extras are filled in; one that was named is kept."""
    url = parse_url(given)

    assert url.drivername == driver


@pytest.mark.parametrize(
    ("given", "charset"),
    [
        ("mysql://ann@host/b24", "utf8mb4"),
        ("mariadb+pymysql://ann@host/b24", "utf8mb4"),
        ("mysql://ann@host/b24?charset=utf8", "utf8"),
    ],
)
def test_mysql_is_spoken_to_in_all_of_unicode(given: str, charset: str) -> None:
    """The server's default character set may be a smaller one."""
    url = parse_url(given)

    assert url.query["charset"] == charset


@pytest.mark.parametrize(
    "given",
    [
        "hush-hush",
        "",
        "oracle://ann:hush-hush@host/b24",
        "postgresql//ann:hush-hush@host/b24",
        "postgresql://ann:hush-hush@host:port/b24",
        "postgresql://ann:x@y:hush-hush@host/b24",
        "postgresql://ann:x@hush-hush@host/b24",
        "mysql+unheardof://ann:hush-hush@host/b24",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(given: str) -> None:
    """Settings errors end up in logs and terminals."""
    with pytest.raises(SettingsError) as refused:
        make_engine(given)

    shown = f"{refused.value} {refused.value!r} {refused.value.__cause__}"
    assert refused.value.setting == "database_url"
    assert "hush-hush" not in shown


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:hush-hush@127.0.0.1:1/b24",
        "mysql://ann:hush-hush@127.0.0.1:1/b24",
    ],
)
def test_a_server_that_does_not_answer_is_named_without_its_password(address: str) -> None:
    """A person must see which address was tried, and nobody the secret."""
    engine = make_engine(address)
    with pytest.raises(OperationalError) as failed:
        engine.connect()

    error = unreachable(engine, failed.value)

    assert "127.0.0.1:1/b24" in str(error)
    assert "hush-hush" not in str(error)
    assert "\n" not in str(error)


def test_a_failed_statement_does_not_show_what_was_in_it(engine: Engine) -> None:
    """Field values are the application's private data."""
    with pytest.raises(IntegrityError) as failed, writing(engine) as connection:
        connection.execute(insert(tables.chore), [{"name": "x", "token": 4815162342}] * 2)

    assert "4815162342" not in str(failed.value)


def test_a_sqlite_file_survives_a_power_cut(sqlite_engine: Engine) -> None:
    """The commit before a request is sent must be on the disk, and readers must not stop writers."""
    with reading(sqlite_engine) as connection:
        journal = connection.scalar(text("PRAGMA journal_mode"))
        synchronous = connection.scalar(text("PRAGMA synchronous"))

    assert (journal, synchronous) == ("wal", 2)


def test_servers_are_asked_for_read_committed(server_engine: Engine) -> None:
    """Repeatable reads would hide what other workers have done since the transaction began."""
    with reading(server_engine) as connection:
        level = connection.get_isolation_level()

    assert level == "READ COMMITTED"


def _note(connection: Connection, name: str) -> None:
    connection.execute(insert(tables.chore), {"name": name})


def _count(connection: Connection, name: str) -> None:
    connection.execute(
        update(tables.chore)
        .where(tables.chore.c.name == name)
        .values(token=tables.chore.c.token + 1)
    )


def _chores(engine: Engine) -> list[tuple[object, ...]]:
    chore = tables.chore.c
    with reading(engine) as connection:
        rows = connection.execute(
            select(chore.name, chore.token, chore.last_run_at).order_by(chore.name)
        )
        return [tuple(row) for row in rows]


def test_fractions_are_read_and_written_digit_by_digit(engine: Engine) -> None:
    """What plain SQL wrote can be copied to a result, though JSON of Python has no such number."""
    with writing(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields, headers) "
                """VALUES ('contact', 'k', 'upsert', '{"sum": 0.10}', '{"weight": 1.5}')"""
            )
        )
        read = connection.execute(select(tables.outbox.c.fields, tables.outbox.c.headers)).one()
        connection.execute(update(tables.outbox).values(headers=read.headers))
        again = connection.scalar(select(tables.outbox.c.headers))

    assert read.headers == {"weight": Decimal("1.5")}
    assert again == {"weight": "1.5"}


def test_a_document_that_is_a_lone_number_is_read_as_one(engine: Engine) -> None:
    """SQLite stores it as a number; it is no object of fields, which the plan says."""
    with writing(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields) "
                "VALUES ('contact', 'k', 'upsert', '5')"
            )
        )
        assert connection.scalar(select(tables.outbox.c.fields)) == 5
