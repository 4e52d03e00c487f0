"""Dead letters: a replay is a new row at the end of its entity's order, and happens once."""

from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import Engine, insert

from b24sync.core.editing import Edit
from b24sync.core.errors import ChangeError
from b24sync.edge import dead_letters, tables
from b24sync.edge.database import reading, transact, writing
from b24sync.edge.dead_letters import Choice, Heap, Replay, Trail
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
        Choice(reason="forbidden"),
        Choice(older_than_ms=DAY_MS),
    ],
    ids=["portal", "kind", "key", "code", "reason", "older_than"],
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
        reason="forbidden",
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


def _dead_ids(engine: Engine, **where: object) -> list[int]:
    return [row["id"] for row in rows_of(engine, tables.dead, **where)]


def add_result(engine: Engine, outbox_id: int, key: str = "c-1", **values: object) -> None:
    """What became of a row: applied, unless told otherwise."""
    row = {
        "outbox_id": outbox_id,
        "portal": "default",
        "kind": "contact",
        "entity_key": key,
        "operation": "update",
        "outcome": "applied",
        "final": True,
        "attempt": 1,
        "enqueued_at": 5,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.result).values(**(row | values)))


def test_an_edited_replay_says_what_was_edited_and_the_rest_as_it_was(engine: Engine) -> None:
    """The letter keeps the changed fields with both values, and who did it; digits stay."""
    letter = add_dead(engine, fields={"name": "Ann", "opportunity": 1250.5, "tags": ["a"]})
    edit = Edit(put={"name": "Eve", "tags.1": "b"})

    done = transact(engine, partial(dead_letters.replay, ids=[letter], edit=edit, who="me@here"))

    row, found = one(engine, tables.outbox), one(engine, tables.dead)
    assert row["fields"] == {"name": "Eve", "opportunity": "1250.5", "tags": ["a", "b"]}
    assert found["edits"] == {
        "name": {"before": "Ann", "after": "Eve"},
        "tags": {"before": ["a"], "after": ["a", "b"]},
    }
    assert (found["replayed_as"], found["closed_by"]) == (done.rows[letter], "me@here")


def test_one_letter_that_cannot_be_edited_so_stops_all_of_them(engine: Engine) -> None:
    """It is named, and nothing is written."""
    first, second = add_dead(engine, "c-1"), add_dead(engine, "c-2", fields={"name": "Ann"})
    edit = Edit(taken=("tags",))

    with pytest.raises(ChangeError, match=f"dead letter {second}, contact:c-2: tags: there is no"):
        transact(engine, partial(dead_letters.replay, ids=[first, second], edit=edit))

    assert rows_of(engine, tables.outbox) == []
    assert _dead_ids(engine, closed_at=None) == [first, second]


def test_a_drop_names_who_did_it(engine: Engine) -> None:
    """Cut to what the column holds."""
    letter = add_dead(engine)

    transact(engine, partial(dead_letters.drop, ids=[letter], who="x" * 300))

    assert one(engine, tables.dead)["closed_by"] == "x" * 255


def test_a_letter_whose_entity_went_on_is_not_replayed_unless_that_is_said(
    engine: Engine,
) -> None:
    """Applied or waiting: said again, the old change would undo the newer one."""
    applied, waiting = add_dead(engine, "c-1"), add_dead(engine, "c-2", outbox_id=0)
    add_result(engine, 2, "c-1")
    add_rows(engine, "c-2")

    left = replay(engine, applied, waiting)
    done = transact(
        engine, partial(dead_letters.replay, ids=[applied, waiting], even_if_newer=True)
    )

    assert (left.rows, left.overtaken) == ({}, (applied, waiting))
    assert list(done.rows) == [applied, waiting]


@pytest.mark.parametrize(
    "values",
    [
        {"outbox_id": 1},
        {"outbox_id": 2, "outcome": "failed"},
        {"outbox_id": 2, "outcome": "retried", "final": False},
        {"outbox_id": 2, "key": "c-2"},
        {"outbox_id": 2, "kind": "deal"},
        {"outbox_id": 2, "portal": "acme"},
    ],
    ids=["own", "failed", "under way", "another key", "another kind", "another portal"],
)
def test_a_letter_is_not_overtaken_by(engine: Engine, values: dict[str, object]) -> None:
    """What was not applied, or is about another entity."""
    letter = add_dead(engine)
    add_result(engine, **values)  # type: ignore[arg-type] # the values are given by name

    assert list(replay(engine, letter).rows) == [letter]


def test_letters_of_one_entity_do_not_overtake_each_other(engine: Engine) -> None:
    """Replayed one after the other, the oldest first; the other way round the older one is left."""
    first, second = add_dead(engine, outbox_id=-2), add_dead(engine, outbox_id=-1)

    one_by_one = [replay(engine, first), replay(engine, second)]
    change(engine, tables.dead, {"closed_at": None, "replayed_as": None}, id=first)
    again = replay(engine, first)

    assert [list(done.rows) for done in one_by_one] == [[first], [second]]
    assert again.overtaken == (first,)


def test_the_replay_of_a_later_letter_overtakes_the_earlier_ones(engine: Engine) -> None:
    """Whatever other letters there are of the entity."""
    first, second, third = (add_dead(engine, outbox_id=number) for number in (-3, -2, -1))
    add_dead(engine, "other", outbox_id=-1)

    replay(engine, second)
    done = replay(engine, first, third)

    assert (done.overtaken, list(done.rows)) == ((first,), [third])


def test_calls_about_no_entity_do_not_overtake_each_other(engine: Engine) -> None:
    """They have a key in common, and nothing else."""
    letter = add_dead(engine, "k", kind="call", operation="call", method="user.get", fields=None)
    add_result(engine, 2, "k", kind="call")

    assert list(replay(engine, letter).rows) == [letter]


def test_letters_are_counted_by_what_the_portal_said(engine: Engine) -> None:
    """The most first, and how many of them are overtaken."""
    add_dead(engine, "c-1")
    add_dead(engine, "c-2")
    add_dead(engine, "c-3", error_code="DENIED", reason="forbidden")
    add_result(engine, 2, "c-2")

    with reading(engine) as connection:
        found = dead_letters.heaps(connection, Choice())
        fresh = dead_letters.chosen(connection, Choice(reason="invalid", fresh_only=True))
        nothing = dead_letters.heaps(connection, Choice(key="none"))

    assert found == (
        Heap(code="BAD", reason="invalid", n=2, overtaken=1),
        Heap(code="DENIED", reason="forbidden", n=1, overtaken=0),
    )
    assert (len(fresh), nothing) == (1, ())


def test_a_trail_leads_both_ways(engine: Engine) -> None:
    """From a letter to the row that it became, and to the letter that this ended as."""
    first = add_dead(engine, outbox_id=-1)
    row_id = replay(engine, first).rows[first]

    def trail(number: int) -> Trail:
        with reading(engine) as connection:
            (letter,) = dead_letters.letters(connection, Choice(ids=(number,), closed_too=True))
            return dead_letters.trail(connection, letter)

    waiting = trail(first)
    with writing(engine) as connection:
        connection.execute(tables.outbox.delete())
    second = add_dead(engine, outbox_id=row_id)

    assert waiting == Trail(row_state="ready")
    assert trail(first) == Trail(later=second)
    assert trail(second) == Trail(earlier=first)


def test_an_edit_can_be_tried(engine: Engine) -> None:
    """Nothing is written by it."""
    letter = add_dead(engine)

    with reading(engine) as connection:
        dead_letters.check_edit(connection, [letter], Edit(put={"name": "Eve"}), {})
        with pytest.raises(ChangeError, match="nme"):
            dead_letters.check_edit(connection, [letter], Edit(taken=("nme",)), {})

    assert one(engine, tables.dead)["closed_at"] is None
