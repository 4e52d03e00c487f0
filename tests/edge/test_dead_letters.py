"""Dead letters: a replay is a new row at the end of its entity's order, and happens once."""

from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import Engine, insert

from b24sync.edge import dead_letters, tables
from b24sync.edge.database import reading, transact, writing
from b24sync.edge.dead_letters import Choice, Replay
from tests.house import add_rows, change, database_now, one, rows_of

DAY_MS = 86_400_000


def add_dead(engine: Engine, key: str = "c-1", **values: object) -> int:
    """A dead letter of a contact, unless told otherwise; its id."""
    row = {
        "outbox_id": 1,
        "portal": "default",
        "lane": 0,
        "kind": "contact",
        "entity_key": key,
        "operation": "add",
        "fields": {"name": "Ann", "tags": ["a"]},
        "generation": 0,
        "marker": "m-1",
        "mergeable": False,
        "priority": 3,
        "deliveries": 9,
        "attempts": 8,
        "not_runs": 1,
        "headers": {"trace": "t"},
        "enqueued_at": 5,
        "reason": "invalid",
        "error_code": "BAD",
        "first_error": "BAD: first",
        "last_error": "BAD: last",
    }
    with writing(engine) as connection:
        made = connection.execute(insert(tables.dead).values(**(row | values))).inserted_primary_key
    assert made is not None
    return int(made[0])


def replay(engine: Engine, *ids: int) -> Replay:
    """Replay in a transaction of its own."""
    return transact(engine, partial(dead_letters.replay, ids=ids))


def chosen(engine: Engine, choice: Choice) -> tuple[int, ...]:
    """The letters that are meant."""
    with reading(engine) as connection:
        return dead_letters.chosen(connection, choice)


def test_a_replay_is_a_fresh_row_with_the_same_content(engine: Engine) -> None:
    """What was said is kept; tries, errors and times begin anew."""
    letter = add_dead(engine)

    done = replay(engine, letter)

    row = one(engine, tables.outbox)
    assert done.rows == {letter: row["id"]}
    assert (row["entity_key"], row["operation"], row["marker"]) == ("c-1", "add", "m-1")
    assert (row["fields"], row["headers"]) == ({"name": "Ann", "tags": ["a"]}, {"trace": "t"})
    assert (row["priority"], bool(row["mergeable"])) == (3, False)
    assert (row["state"], row["attempts"], row["deliveries"]) == ("ready", 0, 0)
    assert (row["first_error"], row["due_at"]) == (None, 0)


def test_a_replay_says_the_same_numbers(engine: Engine) -> None:
    """Fractions are as exact as they were written, and no obstacle."""
    replay(engine, add_dead(engine, fields={"opportunity": 1250.5, "parts": [0.1, 3]}))

    assert one(engine, tables.outbox)["fields"] == {
        "opportunity": Decimal("1250.5"),
        "parts": [Decimal("0.1"), 3],
    }


def test_a_replayed_letter_names_its_row_and_is_closed(engine: Engine) -> None:
    """The record of what happened stays, and says how it went on."""
    letter = add_dead(engine)

    done = replay(engine, letter)

    found = one(engine, tables.dead)
    assert found["replayed_as"] == done.rows[letter]
    assert found["closed_at"] is not None


def test_a_letter_is_replayed_once(engine: Engine) -> None:
    """The second replay is refused by name, and no second row comes of it."""
    letter = add_dead(engine)
    replay(engine, letter)

    again = replay(engine, letter)

    assert (again.rows, again.closed, again.unknown) == ({}, (letter,), ())
    assert len(rows_of(engine, tables.outbox)) == 1


def test_an_id_given_twice_is_one_replay(engine: Engine) -> None:
    """A slip of the hand makes no second row."""
    letter = add_dead(engine)

    replay(engine, letter, letter)

    assert len(rows_of(engine, tables.outbox)) == 1


def test_unknown_letters_are_named(engine: Engine) -> None:
    """A number that is no letter's changes nothing and is told."""
    done = replay(engine, 404)

    assert (done.rows, done.unknown) == ({}, (404,))


def test_a_replay_stands_behind_the_rows_of_its_entity(engine: Engine) -> None:
    """Order by id is order in time: the replay is the newest change."""
    letter = add_dead(engine, "c-1")
    (earlier,) = add_rows(engine, "c-1")

    done = replay(engine, letter)

    assert done.rows[letter] > earlier


def test_a_replay_that_is_undone_leaves_the_letter_open(engine: Engine) -> None:
    """Row and letter are one transaction."""
    letter = add_dead(engine)

    with engine.connect().execution_options(b24sync_writes=True) as connection:
        dead_letters.replay(connection, [letter])
        connection.rollback()

    assert rows_of(engine, tables.outbox) == []
    assert one(engine, tables.dead)["closed_at"] is None


def test_a_dropped_letter_is_closed_for_good(engine: Engine) -> None:
    """It is not replayed any more, and not dropped again."""
    letter = add_dead(engine)

    first = transact(engine, partial(dead_letters.drop, ids=[letter]))
    second = transact(engine, partial(dead_letters.drop, ids=[letter]))

    assert (first, second) == ((letter,), ())
    assert replay(engine, letter).closed == (letter,)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(portal="acme"),
        Choice(kind="deal"),
        Choice(key="d-1"),
        Choice(code="DENIED"),
        Choice(older_than_ms=DAY_MS),
    ],
    ids=["portal", "kind", "key", "code", "older_than"],
)
def test_every_condition_narrows(engine: Engine, choice: Choice) -> None:
    """Of two letters, each condition means the one that it fits."""
    add_dead(engine)
    meant = add_dead(
        engine,
        "d-1",
        portal="acme",
        kind="deal",
        error_code="DENIED",
        dead_at=database_now(engine) - 2 * DAY_MS,
    )

    found = chosen(engine, choice)

    assert found == (meant,)


def test_closed_letters_are_shown_only_if_asked_for(engine: Engine) -> None:
    """What needs nobody's attention is out of sight."""
    letter = add_dead(engine)
    change(engine, tables.dead, {"closed_at": 1}, id=letter)

    assert chosen(engine, Choice()) == ()
    assert chosen(engine, Choice(closed_too=True)) == (letter,)


def test_letters_are_listed_newest_first(engine: Engine) -> None:
    """A person looks for what went wrong just now; replays go oldest first."""
    first, second = add_dead(engine, "c-1"), add_dead(engine, "c-2")

    with reading(engine) as connection:
        listed = dead_letters.letters(connection, Choice(), limit=1)

    assert [letter.id for letter in listed] == [second]
    assert (listed[0].last_error, listed[0].attempts) == ("BAD: last", 8)
    assert chosen(engine, Choice()) == (first, second)
