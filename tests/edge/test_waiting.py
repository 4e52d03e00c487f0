"""Rows that wait: behind an earlier row, for the id of another entity, or for a time."""

import pytest
from sqlalchemy import Engine, insert

from b24sync.core.model import Operation, Postponed, Ref, ResultOutcome, Row, Waiting
from b24sync.core.settlement import Settlement
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.edge.ledger import read_heads
from b24sync.edge.waiting import (
    hold,
    postpone,
    release_for,
    release_parked,
    release_waiting,
    sweep,
)
from tests.house import (
    add_portal,
    add_row,
    add_rows,
    change,
    one,
    rows_of,
    states,
    taken,
)


def _heads(engine: Engine, *, limit: int = 50) -> list[int]:
    mine = taken(engine)
    with writing(engine) as connection:
        heads = read_heads(connection, mine, limit=limit)
    change(engine, tables.lane, {"lease_until": None, "lease_owner": None})
    return [row.id for row in heads.rows]


def _leaves(engine: Engine, row_id: int) -> None:
    """A row ends, and its entity's next is let go."""
    with writing(engine) as connection:
        connection.execute(tables.outbox.delete().where(tables.outbox.c.id == row_id))
        release_parked(connection, "default", [("contact", "a")])


def _made(kind: str, key: str) -> Settlement:
    row = Row(
        id=99,
        portal="default",
        lane=0,
        kind=kind,
        key=key,
        operation=Operation.ADD,
        fields={},
        params=None,
    )
    return Settlement(row=row, outcome=ResultOutcome.APPLIED, method="crm.item.add", cmd_no=0)


@pytest.fixture
def portal(engine: Engine) -> Engine:
    """An engine with one portal whose lane is due."""
    add_portal(engine, next_due_at=0)
    return engine


def test_followers_of_an_unfinished_row_are_parked_when_they_are_met(portal: Engine) -> None:
    """Changes of one entity go one by one, and a follower is looked at once only."""
    first, second, third = add_rows(portal, "a", "a", "a")
    (other,) = add_rows(portal, "b")

    heads = _heads(portal)

    assert heads == [first, other]
    assert states(portal) == {"a": "ready parked parked", "b": "ready"}
    assert second < third


def test_followers_are_released_one_by_one_in_their_order(portal: Engine) -> None:
    """Whoever stands first among the parked rows goes when the row before it is done."""
    first, second, third = add_rows(portal, "a", "a", "a")
    _heads(portal)

    _leaves(portal, first)
    after_first = (states(portal), _heads(portal))
    _leaves(portal, second)
    after_second = (states(portal), _heads(portal))

    assert after_first == ({"a": "ready parked"}, [second])
    assert after_second == ({"a": "ready"}, [third])


def test_a_row_stands_behind_an_earlier_one_in_whatever_state(portal: Engine) -> None:
    """An entity in doubt, held or in a batch is not overtaken by its own later change."""
    with writing(portal) as connection:
        number = connection.execute(
            insert(tables.batch).values(
                portal="default",
                lane=0,
                lane_epoch=1,
                state="doubt",
                n_commands=1,
                plan={},
                request_hash="",
                sending_at=1,
                deadline_at=2,
                quiet_until=3,
            )
        ).inserted_primary_key
        assert number is not None
        add_row(connection, "doubted", state="doubt", batch_id=number[0], cmd_no=0)
        add_row(connection, "held", state="held")
        add_row(connection, "later", due_at=10**15)
    add_rows(portal, "doubted", "held", "later")

    heads = _heads(portal)

    assert heads == []
    assert states(portal) == {
        "doubted": "doubt parked",
        "held": "held parked",
        "later": "ready parked",
    }


def test_parked_rows_are_not_read_again(portal: Engine) -> None:
    """One hot entity with many changes must not stand in the way of its neighbours."""
    add_rows(portal, *["hot"] * 30)
    add_rows(portal, *(f"n{number}" for number in range(10)))
    _heads(portal, limit=40)

    heads = _heads(portal, limit=11)

    assert len(heads) == 11
    assert states(portal)["hot"] == " ".join(["ready"] + ["parked"] * 29)


def test_the_sweep_releases_a_parked_row_whose_leader_has_gone(portal: Engine) -> None:
    """The net under the releases: a row parked while its leader finished would wait for ever."""
    add_rows(portal, "orphan", state="parked")
    add_rows(portal, "pair", "pair", state="parked")

    with writing(portal) as connection:
        released = sweep(connection)

    assert released == 2
    assert states(portal) == {"orphan": "ready", "pair": "ready parked"}


def test_the_sweep_leaves_alone_what_still_waits(portal: Engine) -> None:
    """A row held by a person, or for an id that nobody knows yet, stays."""
    add_rows(portal, "by a person", state="held")
    add_rows(portal, "child", state="held", waits_for="company acme")

    with writing(portal) as connection:
        released = sweep(connection)

    assert released == 0
    assert states(portal) == {"by a person": "held", "child": "held"}


def test_the_sweep_releases_a_held_row_whose_id_is_known_by_now(portal: Engine) -> None:
    """A link that came while its child was being held releases it a little later."""
    add_rows(portal, "child", state="held", waits_for="company acme inc")
    with writing(portal) as connection:
        connection.execute(
            insert(tables.link).values(
                portal="default",
                kind="company",
                entity_key="acme inc",
                remote_id="7",
                state="present",
            )
        )

    with writing(portal) as connection:
        released = sweep(connection)

    row = one(portal, tables.outbox)
    assert (released, row["state"], row["waits_for"]) == (1, "ready", None)


def test_the_sweep_lets_a_held_row_end_that_was_cancelled_or_is_over(portal: Engine) -> None:
    """What it waits for may never come; its own end must not wait for that."""
    add_rows(portal, "cancelled", state="held", waits_for="company x", cancel_requested=True)
    add_rows(portal, "over", state="held", waits_for="company x", expires_at=1)
    add_rows(portal, "in time", state="held", waits_for="company x", expires_at=10**15)

    with writing(portal) as connection:
        released = sweep(connection)

    assert released == 2
    assert states(portal) == {"cancelled": "ready", "over": "ready", "in time": "held"}
    assert {row["waits_for"] for row in rows_of(portal, tables.outbox, state="ready")} == {None}


def test_a_sweep_looks_at_so_many_rows_and_no_more(portal: Engine) -> None:
    """A net must not become a transaction over the whole table."""
    add_rows(portal, "a", "b", "c", state="parked")

    with writing(portal) as connection:
        released = sweep(connection, limit=2)

    assert released == 2
    assert sorted(states(portal).values()) == ["parked", "ready", "ready"]


def test_a_row_is_held_with_the_entity_it_waits_for(portal: Engine) -> None:
    """What a person sees of a held row says which id is missing."""
    (child,) = add_rows(portal, "child")

    with writing(portal) as connection:
        hold(connection, "default", [Waiting(row_id=child, target=Ref("company", "acme"))])

    row = one(portal, tables.outbox)
    assert row["state"] == "held"
    assert row["waits_for"] == "company acme"
    assert row["state_reason"] == "waits for the id of company acme"


def test_a_long_wait_says_why_it_may_be_long(portal: Engine) -> None:
    """The reason is the one that was found, cut to what fits."""
    short, long = add_rows(portal, "a", "b")
    why = "company acme, whose upsert failed (BAD, row 9)"

    with writing(portal) as connection:
        hold(
            connection,
            "default",
            [
                Waiting(row_id=short, target=Ref("company", "acme"), reason=why),
                Waiting(row_id=long, target=Ref("company", "acme"), reason="x" * 500),
            ],
        )

    reasons = [row["state_reason"] for row in rows_of(portal, tables.outbox)]
    assert reasons[0] == f"waits for the id of {why}"
    assert reasons[1] == ("waits for the id of " + "x" * 500)[:255]


def test_only_ready_rows_are_held(portal: Engine) -> None:
    """What went on meanwhile is left alone."""
    rows = add_rows(portal, "a", state="parked")

    with writing(portal) as connection:
        hold(connection, "default", [Waiting(row_id=rows[0], target=Ref("company", "acme"))])
        hold(connection, "default", [])

    assert states(portal) == {"a": "parked"}


def test_rows_of_some_entities_are_released_and_counted(portal: Engine) -> None:
    """So that a claim knows whether there is more to read."""
    add_rows(portal, "a", "b", state="held", waits_for="company acme")
    add_rows(portal, "c", state="held", waits_for="deal d")
    add_rows(portal, "d", state="held", waits_for="deal e")

    with writing(portal) as connection:
        released = release_for(connection, "default", [("company", "acme"), ("deal", "d")])
        again = release_for(connection, "default", [("company", "acme")])

    assert (released, again) == (3, 0)
    assert states(portal) == {"a": "ready", "b": "ready", "c": "ready", "d": "held"}
    ready = rows_of(portal, tables.outbox, state="ready")
    assert {(row["waits_for"], row["state_reason"]) for row in ready} == {(None, None)}


def test_a_new_id_releases_those_who_waited_for_it_and_nobody_else(portal: Engine) -> None:
    """Release is by the entity named, on the same portal."""
    add_portal(portal, "other")
    add_rows(portal, "child", "sibling", state="held", waits_for="company acme")
    add_rows(portal, "stranger", state="held", waits_for="company brown")
    add_rows(portal, "abroad", state="held", waits_for="company acme", portal="other")

    with writing(portal) as connection:
        release_waiting(connection, [_made("company", "acme")])

    assert states(portal) == {
        "child": "ready",
        "sibling": "ready",
        "stranger": "held",
        "abroad": "held",
    }
    assert [row["waits_for"] for row in rows_of(portal, tables.outbox)][:2] == [None, None]


def test_rows_of_a_blocked_method_are_due_when_the_block_ends(portal: Engine) -> None:
    """They stay ready, and their lane is not read for them before."""
    now, later, latest = add_rows(portal, "now", "later", "latest")

    with writing(portal) as connection:
        postpone(
            connection,
            [Postponed(row_id=later, until_ms=5_000), Postponed(row_id=latest, until_ms=6_000)],
        )

    due = {row["id"]: row["due_at"] for row in rows_of(portal, tables.outbox)}
    assert due == {now: 0, later: 5_000, latest: 6_000}
    assert set(states(portal).values()) == {"ready"}
