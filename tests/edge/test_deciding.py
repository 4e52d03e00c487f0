"""Held rows: a person decides once, and what stood still goes on."""

from collections.abc import Callable
from functools import partial
from itertools import repeat

import pytest
from sqlalchemy import Engine, insert

from b24sync.core.errors import ChangeError
from b24sync.core.model import HaltMode, Ref, ResultOutcome, RowState
from b24sync.core.refs import stored
from b24sync.drain import Order, Tally, drain
from b24sync.edge import dead_letters, deciding, tables
from b24sync.edge.database import reading, transact, writing
from b24sync.edge.deciding import Decision, HeldRow
from tests.fakes import ScriptedPortal
from tests.house import (
    Clerk,
    HaltingClerk,
    add_portal,
    add_rows,
    change,
    commands_of,
    endings,
    in_threads,
    maybe_taken,
    one,
    rows_of,
    states,
    world_of,
)

DENIED = ("ACCESS_DENIED", "Access denied")
STRICT = Order(halt=HaltMode.STRICT)
DECISIONS = ("settle", "skip", "drop", "retry")


def refusing() -> ScriptedPortal:
    """A portal that refuses whatever is called bad."""
    return ScriptedPortal(repeat(HaltingClerk({"=bad": repeat(DENIED)})))


def willing() -> ScriptedPortal:
    """A portal that does everything."""
    return ScriptedPortal(repeat(Clerk()))


def sync(engine: Engine, portal: ScriptedPortal) -> Tally:
    """Drain in the mode ``strict`` what is due."""
    return drain(world_of(engine, portal), STRICT)


def stopped(engine: Engine, *after: str, **values: object) -> int:
    """A row that was refused and stops its lane, with contacts that stand behind it; its id."""
    (row_id,) = add_rows(engine, "bad", **({"fields": {"name": "bad"}} | values))
    add_rows(engine, *after)
    sync(engine, refusing())
    assert one(engine, tables.outbox, id=row_id)["state"] == "held"
    return row_id


def settle(engine: Engine, row_id: int, remote_id: str | None = None) -> Decision | None:
    """Say that a row was done by hand."""
    work = partial(deciding.settle, row_id=row_id, kinds={}, remote_id=remote_id)
    return transact(engine, work)


def decide(engine: Engine, name: str, row_id: int) -> Decision | None:
    """Carry out a decision by its name; a record made by hand is number 4711."""
    if name == "settle":
        return settle(engine, row_id, "4711")
    work: Callable[..., Decision | None] = getattr(deciding, name)
    return transact(engine, partial(work, row_id=row_id))


def held_rows(engine: Engine, **choice: object) -> tuple[HeldRow, ...]:
    """The held rows, in a transaction of their own."""
    with reading(engine) as connection:
        return deciding.held_rows(connection, **choice)  # type: ignore[arg-type] # one each


def add_link(engine: Engine, key: str, remote_id: str | None, **values: object) -> None:
    """What is known of a contact."""
    link: dict[str, object] = {
        "portal": "default",
        "kind": "contact",
        "entity_key": key,
        "remote_id": remote_id,
        "state": "present" if remote_id else "deleted",
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.link).values(**(link | values)))


# Looking


def test_what_stops_a_lane_is_listed_first(house: Engine) -> None:
    """With the portal's words; then what waits for another entity, and for which."""
    company = stored(Ref("company", "acme"))
    (waiting,) = add_rows(house, "child", fields={"name": "c", "companyId": company})
    stopping = stopped(house, "next")

    first, second = held_rows(house)

    assert (first.id, first.is_stopped, first.stops_lane) == (stopping, True, True)
    assert first.said == "ACCESS_DENIED: Access denied"
    assert (first.key, first.operation, first.fields) == ("bad", "upsert", ("name",))
    assert first.stopped_ms is not None
    assert (second.id, second.is_stopped, second.stops_lane) == (waiting, False, False)
    assert (second.waits_for, second.reason) == (
        "company acme",
        "waits for the id of company acme",
    )
    assert second.stopped_ms is None


def test_held_rows_can_be_narrowed(house: Engine) -> None:
    """To a portal, to some rows, to so many."""
    add_portal(house, "acme")
    add_rows(house, "a", "b", state="held", waits_for="company x")
    (theirs,) = add_rows(house, "c", portal="acme", state="held", waits_for="company x")

    assert [row.id for row in held_rows(house, portal="acme")] == [theirs]
    assert [row.id for row in held_rows(house, ids=[theirs])] == [theirs]
    assert [row.key for row in held_rows(house, limit=2)] == ["a", "b"]


def test_a_row_that_stopped_is_told_from_one_that_stops(house: Engine) -> None:
    """Another mode lets the lane go on; the row still waits for a person."""
    row_id = stopped(house)
    change(house, tables.lane, {"stopped_by": None}, portal="default")

    (row,) = held_rows(house)

    assert (row.id, row.is_stopped, row.stops_lane) == (row_id, True, False)


# Settling


def test_a_record_made_by_hand_is_linked_and_everything_goes_on(house: Engine) -> None:
    """The lane, the entity's later change as an update of that record, and whoever refers to it."""
    ref = stored(Ref("contact", "bad"))
    order = {"kind": "deal", "operation": "add", "fields": {"title": "t", "contactId": ref}}
    add_rows(house, "order", state="held", waits_for="contact bad", **order)
    row_id = stopped(house, "next")
    add_rows(house, "bad", operation="update", fields={"name": "better"})
    portal = willing()

    done = settle(house, row_id, "4711")
    sync(house, portal)

    assert done is not None
    assert (done.outcome, done.remote_id) == (ResultOutcome.APPLIED, "4711")
    assert (done.waiting, done.lane_goes_on) == (1, True)
    assert one(house, tables.link, entity_key="bad")["remote_id"] == "4711"
    final = one(house, tables.result, outbox_id=row_id, final=True)
    assert (final["outcome"], final["remote_id"]) == ("applied", "4711")
    assert (final["error_class"], final["batch_id"]) == ("person", None)
    sent = [line for asked in portal.asked for line in commands_of(asked).values()]
    assert any("id=4711" in line and "better" in line for line in sent)
    assert any("fields[contactId]=4711" in line for line in sent)
    assert states(house) == {}


def test_a_later_change_of_the_entity_that_was_parked_goes_on(house: Engine) -> None:
    """It stood behind the row, and is the next of its entity now."""
    (row_id, _) = add_rows(house, "bad", "bad", fields={"name": "bad"}, mergeable=False)
    sync(house, refusing())
    before = states(house)

    done = settle(house, row_id, "4711")

    assert before == {"bad": "held parked"}
    assert done is not None
    assert done.behind == 1
    assert states(house) == {"bad": "ready"}


def test_a_record_that_nobody_names_would_be_made_twice(house: Engine) -> None:
    """So an add or upsert without a link is settled with its id only; nothing is written."""
    row_id = stopped(house)

    with pytest.raises(ChangeError, match="which record was made"):
        settle(house, row_id)

    assert states(house) == {"bad": "held"}
    assert endings(house) == {}


@pytest.mark.parametrize("state", ["deleted", "doubt", "conflict", "absent"])
def test_a_link_without_a_record_gets_the_one_made_by_hand(house: Engine, state: str) -> None:
    """A person has looked; the link is present again."""
    add_link(house, "bad", None, state=state, dup_ids=[5, 6])
    (row_id,) = add_rows(house, "bad", state="held", state_reason="stopped: x")

    settle(house, row_id, "4711")

    link = one(house, tables.link)
    assert (link["state"], link["remote_id"], link["dup_ids"]) == ("present", "4711", None)


def test_a_record_of_another_key_is_refused(house: Engine) -> None:
    """One record is one entity's; whose it is, is said, and nothing is written."""
    add_link(house, "ann", "4711")
    row_id = stopped(house)

    with pytest.raises(ChangeError, match="record 4711 is linked to contact ann already"):
        settle(house, row_id, "4711")

    assert states(house) == {"bad": "held"}
    assert [link["entity_key"] for link in rows_of(house, tables.link)] == ["ann"]


def test_an_entity_with_another_record_is_refused_a_second_one(house: Engine) -> None:
    """Its link stays as it is; without an id the row is settled as of that record."""
    add_link(house, "bad", "12")
    row_id = stopped(house)

    with pytest.raises(ChangeError, match="it is linked to record 12 already"):
        settle(house, row_id, "4711")
    done = settle(house, row_id)

    assert done is not None
    assert done.remote_id == "12"
    assert one(house, tables.link)["remote_id"] == "12"


@pytest.mark.parametrize(
    "values",
    [
        {"operation": "update"},
        {"operation": "delete", "fields": None},
        {"kind": "call", "operation": "call", "method": "user.add", "fields": None},
        {"kind": "product_rows"},
    ],
    ids=["update", "delete", "call", "a kind without records"],
)
def test_an_id_belongs_to_what_makes_a_record(house: Engine, values: dict[str, object]) -> None:
    """Where none was made, an id is a mistake; without it the row is settled."""
    held = {"state": "held", "state_reason": "stopped: x"}
    (row_id,) = add_rows(house, "bad", **(values | held))

    with pytest.raises(ChangeError, match="an id belongs to an add or upsert"):
        settle(house, row_id, "4711")
    settle(house, row_id)

    assert endings(house) == {row_id: ["applied"]}
    assert rows_of(house, tables.link) == []


def test_what_was_sent_last_is_forgotten_when_a_hand_was_at_work(house: Engine) -> None:
    """Nobody here knows what the record holds by now, so the next update is sent."""
    add_link(house, "bad", "12", sent_fields={"name": "0123456789abcdef"})
    (row_id,) = add_rows(house, "bad", operation="update", state="held", state_reason="stopped: x")

    settle(house, row_id)

    link = one(house, tables.link)
    assert (link["remote_id"], link["sent_fields"]) == ("12", None)


def test_a_record_that_was_deleted_by_hand_is_unlinked(house: Engine) -> None:
    """As if the portal had been told; a record made anew is another generation."""
    add_link(house, "bad", "12")
    values = {"operation": "delete", "fields": None}
    (row_id,) = add_rows(house, "bad", state="held", state_reason="stopped: x", **values)

    settle(house, row_id)

    link = one(house, tables.link)
    assert (link["state"], link["remote_id"], link["generation"]) == ("deleted", None, 1)


# Giving up


def test_a_skipped_row_is_a_dead_letter_with_the_portals_words(house: Engine) -> None:
    """It can be replayed, and the lane goes on without it."""
    row_id = stopped(house, "next")

    done = decide(house, "skip", row_id)
    tally = sync(house, willing())

    letter = one(house, tables.dead)
    assert done is not None
    assert (done.outcome, done.dead_letter) == (ResultOutcome.FAILED, letter["id"])
    assert (letter["reason"], letter["error_code"]) == ("skipped", "ACCESS_DENIED")
    assert letter["last_error"] == "ACCESS_DENIED: Access denied"
    assert tally.outcomes == {"applied": 1}
    assert endings(house)[row_id] == ["failed"]
    replayed = transact(house, partial(dead_letters.replay, ids=[letter["id"]]))
    assert list(replayed.rows) == [letter["id"]]


def test_a_row_that_was_never_sent_is_skipped_for_what_it_waited_for(house: Engine) -> None:
    """There are no words of the portal; the letter says what was missing."""
    company = stored(Ref("company", "acme"))
    (row_id,) = add_rows(house, "child", fields={"name": "c", "companyId": company})
    sync(house, refusing())

    decide(house, "skip", row_id)

    letter = one(house, tables.dead)
    assert (letter["error_code"], letter["last_error"]) == ("", "waits for the id of company acme")


def test_a_dropped_row_is_cancelled_and_leaves_no_letter(house: Engine) -> None:
    """Whoever waited for its entity is told that it will not come."""
    ref = stored(Ref("contact", "bad"))
    order = {"kind": "deal", "operation": "add", "fields": {"title": "t", "contactId": ref}}
    add_rows(house, "order", state="held", waits_for="contact bad", **order)
    row_id = stopped(house)

    done = decide(house, "drop", row_id)
    sync(house, willing())

    assert done is not None
    assert (done.outcome, done.waiting) == (ResultOutcome.CANCELLED, 1)
    assert rows_of(house, tables.dead) == []
    waiting = one(house, tables.outbox)
    assert waiting["state_reason"] == (
        f"waits for the id of contact bad, whose upsert was cancelled (row {row_id})"
    )


# Trying again


def test_a_retried_row_goes_before_all_others(house: Engine) -> None:
    """Also before those that it had kept from going, and before what is more urgent."""
    row_id = stopped(house, "a", "b")
    (urgent,) = add_rows(house, "urgent", priority=-5)
    portal = willing()

    done = decide(house, "retry", row_id)
    tally = sync(house, portal)

    assert done is not None
    assert (done.outcome, done.lane_goes_on) == (None, True)
    assert next(iter(commands_of(portal.asked[0]))) == f"r{row_id}"
    assert tally.outcomes == {"applied": 4}
    assert endings(house)[urgent] == ["applied"]


def test_a_retried_row_that_fails_again_stops_its_lane_again(house: Engine) -> None:
    """Its tries go on counting."""
    row_id = stopped(house, "next")

    decide(house, "retry", row_id)
    tally = sync(house, refusing())

    assert tally.outcomes["stopped"] == 1
    row = one(house, tables.outbox, id=row_id)
    assert (row["state"], row["attempts"]) == ("held", 2)
    assert one(house, tables.lane)["stopped_by"] == row_id


def test_a_retried_row_that_waits_then_does_not_stop_its_lane(house: Engine) -> None:
    """What it refers to may stand behind it in the same lane."""
    row_id = stopped(house)
    company = stored(Ref("company", "acme"))
    change(house, tables.outbox, {"fields": {"name": "c", "companyId": company}}, id=row_id)

    decide(house, "retry", row_id)
    sync(house, willing())
    waits = states(house)
    add_rows(house, "acme", kind="company", fields={"title": "Acme"})
    sync(house, willing())

    assert waits == {"bad": "held"}
    assert states(house) == {}


def test_a_waiting_row_that_is_retried_looks_anew(house: Engine) -> None:
    """The other entity is not there yet, so it waits again."""
    company = stored(Ref("company", "acme"))
    (row_id,) = add_rows(house, "child", fields={"name": "c", "companyId": company})
    sync(house, willing())

    decide(house, "retry", row_id)
    row = one(house, tables.outbox)
    sync(house, willing())

    assert (row["state"], row["waits_for"], row["state_reason"]) == ("ready", None, None)
    assert one(house, tables.outbox)["waits_for"] == "company acme"


# Each decision


@pytest.mark.parametrize("name", DECISIONS)
def test_after_a_decision_the_lane_is_due_at_once(house: Engine, name: str) -> None:
    """A worker that looks now finds it, though it was asleep."""
    row_id = stopped(house, "next")
    change(house, tables.lane, {"next_due_at": None}, portal="default")
    before = maybe_taken(house)

    decide(house, name, row_id)

    assert before is None
    assert maybe_taken(house) is not None
    assert one(house, tables.lane)["stopped_by"] is None


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("state", ["ready", "parked", "batched", "doubt"])
def test_a_row_that_is_not_held_is_left_alone(house: Engine, name: str, state: str) -> None:
    """It went on meanwhile, and nobody's decision may take it out of a batch."""
    in_batch = {"batch_id": 1, "cmd_no": 0} if state in {"batched", "doubt"} else {}
    (row_id,) = add_rows(house, "c-1", state=state, **in_batch)

    done = decide(house, name, row_id)

    assert done is None
    assert states(house) == {"c-1": state}
    assert rows_of(house, tables.result) == []
    assert decide(house, name, 404) is None


def test_where_a_row_stands_is_told(house: Engine) -> None:
    """So that a refusal can say why."""
    (row_id,) = add_rows(house, "c-1")

    with reading(house) as connection:
        found = deciding.state_of(connection, row_id), deciding.state_of(connection, 404)

    assert found == (RowState.READY, None)


def test_two_people_decide_once(house: Engine) -> None:
    """Whoever comes second finds the row gone; there is one final result."""
    row_id = stopped(house, "next")
    told: list[Decision | None] = []

    def deciding_to(name: str) -> Callable[[], None]:
        return lambda: told.append(decide(house, name, row_id))

    in_threads([deciding_to("skip"), deciding_to("drop"), deciding_to("settle")])

    assert sum(done is not None for done in told) == 1
    assert len(endings(house)[row_id]) == 1


@pytest.mark.parametrize(
    ("name", "outcome"), [("settle", "applied"), ("skip", "failed"), ("drop", "cancelled")]
)
def test_a_decision_counts_as_an_outcome(house: Engine, name: str, outcome: str) -> None:
    """Whoever watches the counts per minute sees it."""
    row_id = stopped(house)

    decide(house, name, row_id)

    assert [count["n"] for count in rows_of(house, tables.rollup, outcome=outcome)] == [1]
