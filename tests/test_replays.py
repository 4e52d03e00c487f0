"""An application replays and drops dead letters in its own transactions."""

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from b24sync.core.errors import ChangeError
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.letters import Choice, Edit, count, drop, find, replay
from tests.fakes import ScriptedPortal
from tests.house import Clerk, add_portal, add_rows, endings, one, rows_of, world_of


@pytest.fixture
def buried(engine: Engine) -> Engine:
    """Contacts a and b are dead letters 1 and 2, refused for who is responsible for them."""
    add_portal(engine)
    for key in ("a", "b"):
        add_rows(engine, key, fields={"name": key, "assignedById": 7})
    clerk = Clerk(refused={"[assignedById]=7": ("ACCESS_DENIED", "dismissed")})
    drain(world_of(engine, ScriptedPortal([clerk])), Order())
    return engine


def test_letters_are_mended_and_go_through(buried: Engine) -> None:
    """By the application's own engine, found by what the portal said, edited and replayed."""
    own = create_engine(buried.url)
    with Session(own) as session, session.begin():
        denied = find(session, Choice(code="ACCESS_DENIED"), limit=10)
        (heap,) = count(session)
        ids = [letter.id for letter in denied]
        told = replay(session, ids, edit=Edit(put={"assignedById": 5}), who="night shift")
    own.dispose()

    drain(world_of(buried, ScriptedPortal([Clerk()])), Order())

    assert ([letter.key for letter in denied], heap.n) == (["b", "a"], 2)
    # Those written first are sent first.
    assert list(told.rows) == [1, 2]
    assert endings(buried) == {1: ["failed"], 2: ["failed"], 3: ["applied"], 4: ["applied"]}
    letters = rows_of(buried, tables.dead)
    assert {row["closed_by"] for row in letters} == {"night shift"}
    assert letters[0]["edits"] == {"assignedById": {"before": 7, "after": 5}}


def test_what_is_rolled_back_was_not_replayed(buried: Engine) -> None:
    """Nothing is committed here."""
    with Session(buried) as session:
        replay(session, [1])
        drop(session, [2])
        session.rollback()

    assert rows_of(buried, tables.outbox) == []
    assert {row["closed_at"] for row in rows_of(buried, tables.dead)} == {None}


def test_an_edit_is_checked_as_a_new_change_is(buried: Engine) -> None:
    """With kinds of the application's own, too; the letter is named."""
    with Session(buried) as session, pytest.raises(ChangeError, match="dead letter 1, contact:a"):
        replay(session, [1], edit=Edit(put={"fm": 3}))


def test_letters_are_dropped(buried: Engine) -> None:
    """Over a plain connection as well."""
    with buried.begin() as connection:
        dropped = drop(connection, [1, 404], who="me")

    assert dropped == (1,)
    assert one(buried, tables.dead, id=1)["closed_by"] == "me"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_the_tables_may_stand_in_a_schema_of_their_own(buried: Engine, database_url: str) -> None:
    """The caller's connection knows nothing of it afterwards."""
    with buried.begin() as connection:
        connection.execute(text("CREATE SCHEMA aside"))
        for name in ("dead", "outbox", "result"):
            table = f"b24sync_{name}"
            connection.execute(text(f"CREATE TABLE aside.{table} (LIKE {table})"))
    own = create_engine(database_url)
    try:
        with Session(own) as session, session.begin():
            aside = find(session, schema="aside")
            here = find(session)
    finally:
        own.dispose()
        with buried.begin() as connection:
            connection.execute(text("DROP SCHEMA aside CASCADE"))

    assert aside == ()
    assert len(here) == 2
