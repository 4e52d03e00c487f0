"""Changes are written in the application's own transaction, or not at all."""

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import repeat

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from b24sync import Change, ChangeError, Outbox, Ref, enqueue, enqueue_many
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import make_engine, writing
from tests.fakes import ScriptedPortal
from tests.house import (
    Clerk,
    add_portal,
    commands_of,
    endings,
    one,
    rows_of,
    world_of,
)

MANY = 4_000
MEGABYTE = 1024 * 1024


@pytest.fixture
def application(database_url: str) -> Iterator[Engine]:
    """An application's own engine on the database of ``engine``, with SQLAlchemy's defaults."""
    own = create_engine(database_url)
    yield own
    own.dispose()


def _ann(key: str = "c-17", **fields: object) -> Change:
    return Change("contact", key=key, operation="upsert", fields={"name": "Ann"} | fields)


def _keys(engine: Engine) -> list[str]:
    return [row["entity_key"] for row in rows_of(engine, tables.outbox)]


def _write_with(where: Connection | Session | scoped_session[Session]) -> None:
    enqueue(where, _ann("a"), _ann("b"))


def test_a_change_is_there_when_the_sessions_transaction_commits(
    engine: Engine, application: Engine
) -> None:
    """Not before, and in the order in which it was written."""
    with Session(application) as session, session.begin():
        _write_with(session)
        before = [] if engine.dialect.name == "sqlite" else _keys(engine)

    assert before == []
    assert _keys(engine) == ["a", "b"]


def test_a_change_is_there_when_the_connections_transaction_commits(
    engine: Engine, application: Engine
) -> None:
    """Core connections are as good as sessions."""
    with application.begin() as connection:
        _write_with(connection)

    assert _keys(engine) == ["a", "b"]


def test_a_scoped_session_will_do(engine: Engine, application: Engine) -> None:
    """As web frameworks hand it out."""
    session = scoped_session(sessionmaker(application))

    _write_with(session)
    session.commit()
    session.remove()

    assert _keys(engine) == ["a", "b"]


def test_a_rollback_leaves_nothing(engine: Engine, application: Engine) -> None:
    """The change exists if and only if the transaction does."""
    with Session(application) as session:
        _write_with(session)
        session.rollback()
    with application.connect() as connection:
        _write_with(connection)
        connection.rollback()

    assert _keys(engine) == []


def test_a_savepoint_takes_back_its_own_changes_only(engine: Engine) -> None:
    """What was written outside of it stays."""
    with Session(engine) as session, session.begin():
        enqueue(session, _ann("outside"))
        savepoint = session.begin_nested()
        enqueue(session, _ann("inside"))
        savepoint.rollback()
        enqueue(session, _ann("after"))

    assert _keys(engine) == ["outside", "after"]


def test_one_bad_change_keeps_all_of_its_call_out(engine: Engine, application: Engine) -> None:
    """Everything is checked before the first row is inserted, and the transaction stays usable."""
    with application.begin() as connection:
        with pytest.raises(ChangeError, match=r"contact:c-18: fields\.birthday: .*zone"):
            enqueue(connection, _ann(), _ann("c-18", birthday=datetime(2026, 1, 2)))  # noqa: DTZ001 - the mistake under test
        enqueue(connection, _ann("c-19"))

    assert _keys(engine) == ["c-19"]


def test_a_bad_change_among_many_is_named_by_its_position(
    engine: Engine, application: Engine
) -> None:
    """The caller's rollback undoes what was inserted before it."""
    changes = [*(_ann(f"k{number}") for number in range(7)), _ann("")]

    with pytest.raises(ChangeError, match=r"change 7"), application.begin() as connection:
        enqueue_many(connection, changes, chunk=3)

    assert _keys(engine) == []


def test_nothing_to_write_is_no_statement(engine: Engine) -> None:
    """An empty list of changes is an ordinary case."""
    with writing(engine) as connection:
        enqueue(connection)
        written = enqueue_many(connection, [])

    assert written == 0
    assert _keys(engine) == []


def test_many_changes_are_written_in_their_order(engine: Engine, application: Engine) -> None:
    """Chunks are an implementation's matter; ids follow the iterable."""
    keys = [f"k{number}" for number in range(2_500)]

    with application.begin() as connection:
        written = enqueue_many(connection, (_ann(key) for key in keys))

    assert written == 2_500
    assert _keys(engine) == keys


def test_any_number_of_changes_take_a_constant_amount_of_memory(sqlite_engine: Engine) -> None:
    """They are read, checked and inserted a chunk at a time; forty chunks take what one takes."""
    tracemalloc.start()
    with writing(sqlite_engine) as connection:
        enqueue_many(connection, (_ann(f"k{number}") for number in range(200)), chunk=100)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()

        written = enqueue_many(
            connection, (_ann(f"k{number}") for number in range(MANY)), chunk=100
        )

        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert written == MANY
    assert peak - before < MEGABYTE


def test_a_row_holds_what_the_change_said(engine: Engine, application: Engine) -> None:
    """Every column, in the form in which the portal reads it."""
    change = Change(
        "deal",
        key="d-1",
        operation="add",
        fields={
            "title": "Жёлтый",
            "opportunity": Decimal("12.50"),
            "companyId": Ref("company", "x"),
        },
        params={"useOriginalUfNames": "Y"},
        portal="acme",
        priority=-4,
        due_at=datetime(2026, 1, 2, tzinfo=UTC),
        expires_at=datetime(2026, 1, 3, tzinfo=UTC),
        mergeable=False,
        headers={"traceparent": "00-1"},
    )

    with application.begin() as connection:
        enqueue(connection, change)

    row = one(engine, tables.outbox)
    assert row["fields"] == {
        "title": "Жёлтый",
        "opportunity": "12.50",
        "companyId": {"$ref": {"kind": "company", "key": "x"}},
    }
    assert (row["portal"], row["kind"], row["entity_key"]) == ("acme", "deal", "d-1")
    assert (row["operation"], row["params"]) == ("add", {"useOriginalUfNames": "Y"})
    assert (row["due_at"], row["expires_at"]) == (1_767_312_000_000, 1_767_398_400_000)
    assert (row["priority"], row["mergeable"], row["headers"]) == (
        -4,
        False,
        {"traceparent": "00-1"},
    )
    assert (row["state"], row["attempts"], row["deliveries"]) == ("ready", 0, 0)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_tables_in_a_schema_of_their_own_are_written_by_an_outbox_that_knows_it(
    database_url: str,
) -> None:
    """PostgreSQL only: the other databases have no schemas beside the database itself."""
    application = create_engine(database_url)
    aside = make_engine(database_url, schema="aside")
    with application.begin() as connection:
        connection.execute(text("CREATE SCHEMA aside"))
    try:
        with aside.begin() as connection:
            tables.metadata.create_all(connection)

        with Session(application) as session, session.begin():
            Outbox(schema="aside").enqueue(session, _ann("aside"))
            enqueue(session, _ann("usual"))

        assert _keys(aside) == ["aside"]
        assert _keys(application) == ["usual"]
    finally:
        aside.dispose()
        with application.begin() as connection:
            connection.execute(text("DROP SCHEMA aside CASCADE"))
        application.dispose()


def test_a_plain_insert_is_a_change(engine: Engine, application: Engine) -> None:
    """Four columns from any language or trigger, and a worker finds it by itself."""
    add_portal(engine)
    with application.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields) "
                """VALUES ('contact', 'c-17', 'upsert', '{"name": "Ann"}')"""
            )
        )
    portal = ScriptedPortal([Clerk()])

    tally = drain(world_of(engine, portal), Order())

    assert tally.outcomes == {"applied": 1}
    (command,) = commands_of(portal.asked[0]).values()
    assert command.startswith("crm.item.add?entityTypeId=3&fields[name]=Ann&")


def test_what_an_application_wrote_is_drained_in_its_order_of_priority(
    engine: Engine, application: Engine
) -> None:
    """A change for later is left for later."""
    add_portal(engine)
    with application.begin() as connection:
        enqueue(
            connection,
            _ann("usual"),
            Change("contact", "urgent", "upsert", {"name": "Urgent"}, priority=-1),
            Change(
                "contact", "later", "upsert", {"name": "L"}, due_at=datetime(2999, 1, 1, tzinfo=UTC)
            ),
        )
    portal = ScriptedPortal(repeat(Clerk()))

    drain(world_of(engine, portal, batch_size=1), Order())

    names = [next(iter(commands_of(asked).values())) for asked in portal.asked]
    assert ["Urgent" in names[0], "Ann" in names[1], len(names)] == [True, True, 2]
    assert _keys(engine) == ["later"]
    assert len(endings(engine)) == 2
