"""Commands in doubt are read from journal and rows, and written back under the fence of their batch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, delete

from b24sync.core.doubts import decide
from b24sync.core.model import Operation, Question, ResultOutcome
from b24sync.core.policies import DoubtPolicy
from b24sync.core.settlement import Settlement
from b24sync.edge import doubts, tables
from b24sync.edge.database import writing
from b24sync.edge.doubts import InDoubt
from b24sync.edge.lanes import Lane
from b24sync.edge.settling import settle
from tests.house import (
    FAR_MS,
    add_batch,
    add_portal,
    add_row,
    change,
    database_now,
    endings,
    one,
    rows_of,
    states,
    taken,
)

Entry = Mapping[str, Any]


@pytest.fixture
def mine(engine: Engine) -> Lane:
    """The lane of the portal ``default``, taken."""
    add_portal(engine, next_due_at=0)
    return taken(engine)


def _entry(*rows: int, **values: object) -> dict[str, Any]:
    """What the journal has of a command: an add of a contact, unless told otherwise."""
    return {
        "method": "crm.item.add",
        "rows": list(rows),
        "kind": "contact",
        "key": "a",
        "operation": "add",
        "marker": "contact:a",
        "lead": rows[0],
        "linked": True,
        "repeatable": False,
    } | values


def _doubt(
    engine: Engine,
    *keys: str,
    entry: Callable[..., Entry] = _entry,
    code: str = "default",
    **values: object,
) -> tuple[int, list[int]]:
    """A batch in doubt, long quiet, with a command for each key; its rows."""
    with writing(engine) as connection:
        number = add_batch(connection, "doubt", code=code)
        ids = [
            add_row(
                connection,
                key,
                portal=code,
                **{"operation": "add", "state": "doubt", "cmd_no": place} | values,
                batch_id=number,
            )
            for place, key in enumerate(keys)
        ]
    change(engine, tables.batch, {"plan": {f"r{i}": entry(i) for i in ids}}, id=number)
    return number, ids


def _read(engine: Engine, mine: Lane, **values: Any) -> tuple[InDoubt, ...]:  # noqa: ANN401 - options of read_doubts
    with writing(engine) as connection:
        return doubts.read_doubts(connection, mine, **{"limit": 50} | values)


def _keys(found: tuple[InDoubt, ...]) -> list[str]:
    return [doubt.command.entity[1] for doubt in found]


def _reconcile(engine: Engine, doubt: InDoubt, *found: str) -> bool:
    decision = decide(doubt.command, None, DoubtPolicy.LOOK_UP, found)
    assert not isinstance(decision, Question)
    with writing(engine) as connection:
        return doubts.reconcile(connection, doubt.batch_id, decision)


def test_a_command_is_read_as_its_journal_has_it(engine: Engine, mine: Lane) -> None:
    """What was sent counts, and not what the row would say now."""

    def entry(row_id: int) -> Entry:
        return _entry(row_id, marker="A-1", left_out=["companyId"])

    number, (row_id,) = _doubt(
        engine, "a", entry=entry, operation="upsert", doubt_policy="resend", attempts=2
    )

    (found,) = _read(engine, mine)

    assert (found.batch_id, found.policy) == (number, "resend")
    command = found.command
    assert [(row.id, row.operation, row.attempts) for row in command.rows] == [
        (row_id, Operation.UPSERT, 2)
    ]
    assert (command.operation, command.method) == (Operation.ADD, "crm.item.add")
    assert (command.cmd_no, command.lead, command.marker) == (0, row_id, "A-1")
    assert (command.repeatable, command.is_linked) == (False, True)
    assert command.left_out == {"companyId"}


def test_nothing_is_read_before_the_portal_has_surely_stopped(engine: Engine, mine: Lane) -> None:
    """By the database's clock."""
    now = database_now(engine)
    early, _ = _doubt(engine, "early")
    change(engine, tables.batch, {"quiet_until": now + FAR_MS}, id=early)
    late, _ = _doubt(engine, "late")
    change(engine, tables.batch, {"quiet_until": now - 1}, id=late)

    found = _read(engine, mine)

    assert _keys(found) == ["late"]


def test_only_doubts_of_this_lane_are_read(engine: Engine, mine: Lane) -> None:
    """Others have owners of their own; what is answered is not in doubt."""
    add_portal(engine, "other")
    _doubt(engine, "theirs", code="other")
    number, _ = _doubt(engine, "elsewhere")
    change(engine, tables.batch, {"lane": 1}, id=number)
    with writing(engine) as connection:
        for state in ("journalled", "sending", "answered", "reconciled"):
            add_batch(connection, state)
    _doubt(engine, "ours")

    found = _read(engine, mine)

    assert _keys(found) == ["ours"]


def test_so_many_are_read_and_no_more_the_oldest_first(engine: Engine, mine: Lane) -> None:
    """In the order in which they were sent."""
    _doubt(engine, "a", "b", "c")
    _doubt(engine, "d", "e")

    assert _keys(_read(engine, mine)) == ["a", "b", "c", "d", "e"]
    assert _keys(_read(engine, mine, limit=4)) == ["a", "b", "c", "d"]


def test_a_command_is_told_from_others_by_its_rows(engine: Engine, mine: Lane) -> None:
    """Some databases put the keys of an object in an order of their own."""
    number, ids = _doubt(engine, "a", "b", "c")
    plan = {f"r{i}": _entry(i, marker=f"marker {place}") for place, i in enumerate(ids)}
    change(engine, tables.batch, {"plan": dict(sorted(plan.items(), reverse=True))}, id=number)

    found = _read(engine, mine)

    markers = [(doubt.command.cmd_no, doubt.command.marker) for doubt in found]
    assert markers == [(0, "marker 0"), (1, "marker 1"), (2, "marker 2")]


@pytest.mark.parametrize("has_entry", [True, False], ids=["an older entry", "no entry"])
def test_what_the_journal_does_not_say_stops_nobody(
    engine: Engine,
    mine: Lane,
    has_entry: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A batch of an older version is read with care, not refused for ever."""
    number, (row_id,) = _doubt(engine, "a")
    kept = ("method", "rows", "kind", "key", "operation", "marker")
    old = {name: _entry(row_id)[name] for name in kept}
    change(engine, tables.batch, {"plan": {"r1": old} if has_entry else {}}, id=number)

    (found,) = _read(engine, mine)

    command = found.command
    assert (command.operation, command.lead, command.is_linked) == (Operation.ADD, row_id, True)
    assert (command.repeatable, command.left_out) == (False, frozenset())
    assert command.method == ("crm.item.add" if has_entry else "")
    assert command.marker == ("contact:a" if has_entry else None)


def _merged(engine: Engine, *, lead: int = 0) -> tuple[int, list[int]]:
    """A command of three rows, in doubt; ``lead`` is the place of the row that leads it."""
    number, ids = _doubt(engine, "a", "a", "a", cmd_no=0)
    entry = _entry(*ids, lead=ids[lead])
    change(engine, tables.batch, {"plan": {f"r{ids[0]}": entry}}, id=number)
    return number, ids


def test_rows_that_went_as_one_are_one_command(engine: Engine, mine: Lane) -> None:
    """In their order, with the one that leads them."""
    _, ids = _merged(engine, lead=1)

    (found,) = _read(engine, mine)

    assert [row.id for row in found.command.rows] == ids
    assert found.command.lead == ids[1]


@pytest.mark.parametrize("gone", [0, 1])
def test_of_rows_some_of_which_were_taken_away_the_first_that_is_left_may_lead(
    engine: Engine, mine: Lane, gone: int
) -> None:
    """The lead itself, if it is still there."""
    _, ids = _merged(engine, lead=1)
    with writing(engine) as connection:
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id == ids[gone]))

    (found,) = _read(engine, mine)

    assert [row.id for row in found.command.rows] == [i for i in ids if i != ids[gone]]
    assert found.command.lead == (ids[1] if gone == 0 else ids[0])


def test_a_batch_whose_rows_were_all_taken_away_is_closed(engine: Engine, mine: Lane) -> None:
    """Nobody would ever decide on it, and its lane would be due for ever."""
    number, _ = _doubt(engine, "a", "b")
    with writing(engine) as connection:
        connection.execute(delete(tables.outbox))

    assert _read(engine, mine) == ()
    batch = one(engine, tables.batch, id=number)
    assert batch["state"] == "reconciled"
    assert batch["closed_at"] is not None


def test_what_was_found_ends_and_the_last_of_a_batch_closes_it(engine: Engine, mine: Lane) -> None:
    """Batch and request are named in the result, as if its answer had come."""
    number, ids = _doubt(engine, "a", "b", attempts=1)
    first, second = _read(engine, mine)

    assert _reconcile(engine, first, "46")
    between = one(engine, tables.batch, id=number)
    assert _reconcile(engine, second, "47")
    after = one(engine, tables.batch, id=number)

    assert (between["state"], between["closed_at"]) == ("doubt", None)
    assert after["state"] == "reconciled"
    assert after["closed_at"] is not None
    assert states(engine) == {}
    assert endings(engine) == {ids[0]: ["applied"], ids[1]: ["applied"]}
    result = one(engine, tables.result, outbox_id=ids[0])
    assert (result["remote_id"], result["attempt"]) == ("46", 2)
    assert (result["batch_id"], result["cmd_no"], result["sent_at"]) == (number, 0, 1)
    assert result["error_text"] == "the answer was lost; found by its marker"
    links = {row["entity_key"]: row["remote_id"] for row in rows_of(engine, tables.link)}
    assert links == {"a": "46", "b": "47"}
    rollups = rows_of(engine, tables.rollup, outcome="applied")
    assert sum(rollup["n"] for rollup in rollups) == 2


def test_what_was_not_found_is_ready_with_an_attempt_more(engine: Engine, mine: Lane) -> None:
    """It leaves its batch, which is then closed."""
    number, (row_id,) = _doubt(engine, "a", attempts=1, due_at=10**15)
    (found,) = _read(engine, mine)

    assert _reconcile(engine, found)

    row = one(engine, tables.outbox)
    assert (row["id"], row["state"], row["attempts"]) == (row_id, "ready", 2)
    assert (row["batch_id"], row["cmd_no"]) == (None, None)
    assert row["due_at"] <= database_now(engine)
    assert row["last_error"] == "the answer was lost; it is said again"
    assert one(engine, tables.batch, id=number)["state"] == "reconciled"
    result = one(engine, tables.result)
    assert (result["outcome"], result["final"], result["attempt"]) == ("retried", False, 2)


def test_of_rows_that_go_again_the_others_are_parked_behind_the_first(
    engine: Engine, mine: Lane
) -> None:
    """Their order is that of the entity."""
    _merged(engine)
    (found,) = _read(engine, mine)

    _reconcile(engine, found)

    assert states(engine) == {"a": "ready parked parked"}


def test_what_is_for_a_person_is_held_with_the_reason(engine: Engine, mine: Lane) -> None:
    """At no charge: nobody has judged it."""
    _, ids = _merged(engine)
    (found,) = _read(engine, mine)
    unfindable = replace(found, command=replace(found.command, marker=None))
    decision = decide(unfindable.command, None, DoubtPolicy.LOOK_UP)
    assert not isinstance(decision, Question)

    with writing(engine) as connection:
        doubts.reconcile(connection, found.batch_id, decision)

    assert states(engine) == {"a": "held parked parked"}
    row = one(engine, tables.outbox, id=ids[0])
    assert row["state_reason"] == (
        "stopped: the answer was lost; it carries nothing by which it could be found on the portal"
    )
    assert row["attempts"] == 0
    (result,) = rows_of(engine, tables.result)
    assert (result["outcome"], result["outbox_id"], result["final"]) == ("stopped", ids[0], False)


def test_further_records_are_kept_with_the_link(engine: Engine, mine: Lane) -> None:
    """So that somebody can look at them."""
    _doubt(engine, "a")
    (found,) = _read(engine, mine)

    _reconcile(engine, found, "48", "46", "47")

    link = one(engine, tables.link)
    assert (link["remote_id"], link["state"], link["dup_ids"]) == ("46", "present", ["47", "48"])


def test_a_late_answer_that_was_first_counts_and_the_decision_does_not(
    engine: Engine, mine: Lane
) -> None:
    """One of the two is written, and the fence says which."""
    number, (row_id,) = _doubt(engine, "a")
    (found,) = _read(engine, mine)
    answer = Settlement(
        row=found.command.rows[0],
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        remote_id="46",
        link_present=True,
    )
    with writing(engine) as connection:
        settle(connection, number, [answer], http_status=200)

    did = _reconcile(engine, found)

    assert not did
    assert endings(engine) == {row_id: ["applied"]}
    assert len(rows_of(engine, tables.result)) == 1
    assert one(engine, tables.batch)["state"] == "answered"


@pytest.mark.parametrize("state", ["answered", "reconciled"])
def test_nothing_is_decided_in_a_batch_that_is_closed(
    engine: Engine, mine: Lane, state: str
) -> None:
    """The state of the batch is the fence, whatever its rows look like."""
    number, _ = _doubt(engine, "a")
    (found,) = _read(engine, mine)
    change(engine, tables.batch, {"state": state, "closed_at": 4}, id=number)

    did = _reconcile(engine, found, "46")

    assert not did
    assert states(engine) == {"a": "doubt"}
    assert rows_of(engine, tables.result) == []


def test_a_decision_about_rows_of_which_one_is_gone_is_not_written(
    engine: Engine, mine: Lane
) -> None:
    """Others would be merged into a row that has no result, and nobody would link the record."""
    number, ids = _merged(engine)
    (found,) = _read(engine, mine)
    with writing(engine) as connection:
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id == ids[0]))

    stale = _reconcile(engine, found, "46")
    (anew,) = _read(engine, mine)
    fresh = _reconcile(engine, anew, "46")

    assert (stale, fresh) == (False, True)
    assert endings(engine) == {ids[1]: ["applied"], ids[2]: ["merged"]}
    assert one(engine, tables.link)["remote_id"] == "46"
    assert one(engine, tables.batch, id=number)["state"] == "reconciled"


def test_what_is_put_off_is_left_alone_until_its_new_time(engine: Engine, mine: Lane) -> None:
    """Batch and rows alike, so that a lane that stands still for them stands as long."""
    number, _ = _doubt(engine, "a")
    other, _ = _doubt(engine, "b")
    began = database_now(engine)

    with writing(engine) as connection:
        doubts.put_off(connection, [number], rest_ms=60_000)
    found = _read(engine, mine)

    assert _keys(found) == ["b"]
    batch = one(engine, tables.batch, id=number)
    assert began + 60_000 <= batch["quiet_until"] <= database_now(engine) + 60_000
    due_at = one(engine, tables.outbox, entity_key="a")["due_at"]
    assert began + 60_000 <= due_at <= database_now(engine) + 60_000
    assert one(engine, tables.batch, id=other)["quiet_until"] == 3
    assert one(engine, tables.outbox, entity_key="b")["due_at"] == 0


def test_a_batch_that_is_closed_is_not_put_off(engine: Engine, mine: Lane) -> None:
    """What was answered meanwhile has its own times."""
    assert mine.epoch == 1
    with writing(engine) as connection:
        number = add_batch(connection, "answered")
        doubts.put_off(connection, [number], rest_ms=60_000)

    assert one(engine, tables.batch)["quiet_until"] == 3


def test_what_the_portal_has_told_of_is_read_though_its_batch_was_put_off(
    engine: Engine, mine: Lane
) -> None:
    """The whole batch is; a batch that nothing was told of is not."""
    number, _ = _doubt(engine, "a", "b")
    other, _ = _doubt(engine, "c")
    with writing(engine) as connection:
        doubts.put_off(connection, [number, other], rest_ms=60_000)

    assert _keys(_read(engine, mine)) == []
    assert _keys(_read(engine, mine, told=[("contact", "a")])) == ["a", "b"]
    assert _keys(_read(engine, mine, told=[("deal", "a"), ("contact", "x")])) == []
