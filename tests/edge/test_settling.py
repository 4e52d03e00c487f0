"""What became of the rows is written back, once, under the fence of their batch."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete

from b24sync.core.model import Closing, Operation, Plan, Refusal, ResultOutcome, Row
from b24sync.core.settlement import Settlement
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.edge.guards import Raced
from b24sync.edge.settling import settle
from b24sync.edge.unsent import set_aside, stop_refused
from tests.house import add_batch, add_row, add_rows, database_now, endings, one, rows_of, states


def _batch(
    engine: Engine, *keys: str, state: str = "sending", **values: object
) -> tuple[int, list[int]]:
    """A batch that is on its way, and its rows."""
    row_state = "doubt" if state == "doubt" else "batched"
    with writing(engine) as connection:
        number = add_batch(connection, state)
        ids = [
            add_row(connection, key, state=row_state, batch_id=number, cmd_no=place, **values)
            for place, key in enumerate(keys)
        ]
    return number, ids


def _row(row_id: int, key: str, **values: object) -> Row:
    row = Row(
        id=row_id,
        portal="default",
        lane=0,
        kind="contact",
        key=key,
        operation=Operation.ADD,
        fields={},
        params=None,
        enqueued_at_ms=1,
    )
    return replace(row, **values)  # type: ignore[arg-type] # the fields are given by name


def _applied(row: Row, remote_id: str, *, cmd_no: int = 0) -> Settlement:
    return Settlement(
        row=row,
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=cmd_no,
        final=True,
        charged=True,
        remote_id=remote_id,
        duration_ms=120,
        link_present=True,
    )


def _unknown(row: Row) -> Settlement:
    return Settlement(
        row=row,
        outcome=ResultOutcome.UNKNOWN,
        method="crm.item.add",
        cmd_no=0,
        in_doubt=True,
        error_text="unreported",
    )


def _buried(row: Row) -> Settlement:
    return Settlement(
        row=row,
        outcome=ResultOutcome.FAILED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        charged=True,
        error_code="INVALID_ARG",
        error_text="Name is \0 not a name",
        error_class="invalid",
        bury_reason="invalid",
    )


def _settle(engine: Engine, number: int, *settlements: Settlement, status: int = 200) -> bool:
    with writing(engine) as connection:
        return settle(connection, number, settlements, http_status=status).recorded


def test_a_row_that_ends_leaves_one_final_result_and_its_link(engine: Engine) -> None:
    """The result row tells what was done, by which method, in which batch and at which attempt."""
    number, (row_id,) = _batch(engine, "a", attempts=2)

    row = _row(row_id, "a", attempts=2, headers={"trace": "t-1"})
    did = _settle(engine, number, _applied(row, "46"))

    assert did
    assert rows_of(engine, tables.outbox) == []
    result = one(engine, tables.result)
    assert result["headers"] == {"trace": "t-1"}
    assert (result["outbox_id"], result["outcome"], result["final"]) == (row_id, "applied", True)
    assert (result["kind"], result["entity_key"], result["operation"]) == ("contact", "a", "add")
    assert (result["method"], result["remote_id"]) == ("crm.item.add", "46")
    assert (result["batch_id"], result["cmd_no"], result["attempt"]) == (number, 0, 3)
    assert (result["http_status"], result["duration_ms"], result["sent_at"]) == (200, 120, 1)
    link = one(engine, tables.link)
    assert (link["entity_key"], link["remote_id"], link["state"]) == ("a", "46", "present")
    batch = one(engine, tables.batch)
    assert (batch["state"], batch["http_status"]) == ("answered", 200)
    assert batch["closed_at"] is not None


def test_a_second_answer_changes_nothing_and_is_kept_for_comparison(engine: Engine) -> None:
    """One writer records a batch; what comes after the record is evidence, not an outcome."""
    number, (row_id,) = _batch(engine, "a")
    row = _row(row_id, "a")
    _settle(engine, number, _applied(row, "46"))
    kept = (tables.result, tables.outbox, tables.dead, tables.rollup)
    before = [rows_of(engine, table) for table in kept]

    second = _settle(engine, number, _applied(row, "47"))
    third = _settle(engine, number, _buried(row))

    assert (second, third) == (False, False)
    assert [rows_of(engine, table) for table in kept] == before
    link = one(engine, tables.link)
    assert (link["remote_id"], link["dup_ids"]) == ("46", ["47"])
    batch = one(engine, tables.batch)
    assert batch["late_answer"] == {str(row_id): {"outcome": "applied", "remote_id": "47"}}
    assert batch["late_at"] is not None


def test_a_batch_that_is_partly_unknown_leaves_just_those_rows_in_doubt(engine: Engine) -> None:
    """Silence about one command is no reason to forget what was said of the others."""
    number, (first, second, third) = _batch(engine, "a", "b", "c")

    _settle(
        engine,
        number,
        _applied(_row(first, "a"), "46"),
        _unknown(_row(second, "b")),
        _buried(_row(third, "c")),
    )

    assert states(engine) == {"b": "doubt"}
    doubted = one(engine, tables.outbox)
    assert (doubted["batch_id"], doubted["due_at"], doubted["last_error"]) == (
        number,
        3,
        "unreported",
    )
    assert endings(engine) == {first: ["applied"], third: ["failed"]}
    assert one(engine, tables.batch)["state"] == "doubt"
    assert one(engine, tables.batch)["closed_at"] is None


def test_a_later_answer_settles_just_the_rows_still_in_doubt(engine: Engine) -> None:
    """Rows that were settled by the first half of the truth keep what was written then."""
    number, (first, second) = _batch(engine, "a", "b")
    one_row, other = _row(first, "a"), _row(second, "b")
    _settle(engine, number, _applied(one_row, "46"), _unknown(other))

    did = _settle(engine, number, _applied(one_row, "99"), _applied(other, "47", cmd_no=1))

    assert did
    assert endings(engine) == {first: ["applied"], second: ["applied"]}
    assert {row["entity_key"]: row["remote_id"] for row in rows_of(engine, tables.link)} == {
        "a": "46",
        "b": "47",
    }
    assert rows_of(engine, tables.outbox) == []
    assert one(engine, tables.batch)["state"] == "answered"


def test_an_answer_that_still_says_nothing_leaves_the_doubt(engine: Engine) -> None:
    """Not knowing twice is not knowing."""
    number, (row_id,) = _batch(engine, "a", state="doubt")

    did = _settle(engine, number, _unknown(_row(row_id, "a")))

    assert did
    assert states(engine) == {"a": "doubt"}
    assert one(engine, tables.batch)["state"] == "doubt"


def test_a_row_that_a_person_deleted_costs_its_neighbours_nothing(engine: Engine) -> None:
    """The outbox is a public table; whoever deletes from it loses that row's result only."""
    number, (gone, stays) = _batch(engine, "a", "b")
    with writing(engine) as connection:
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id == gone))

    did = _settle(
        engine,
        number,
        _applied(_row(gone, "a"), "46"),
        _applied(_row(stays, "b"), "47", cmd_no=1),
    )

    assert did
    assert endings(engine) == {stays: ["applied"]}
    assert one(engine, tables.batch)["state"] == "answered"


def test_a_row_given_up_on_rests_in_full_among_the_dead(engine: Engine) -> None:
    """Everything needed to understand it and to write it anew, with the first and last complaint."""
    number, (row_id,) = _batch(
        engine,
        "a",
        operation="add",
        method=None,
        fields={"name": "Анна", "ufList": [1, 2]},
        params={"useOriginalUfNames": "Y"},
        generation=4,
        marker="contact:a",
        doubt_policy="hold",
        mergeable=False,
        priority=-7,
        deliveries=5,
        attempts=3,
        not_runs=2,
        headers={"trace": "00-1"},
        created_at=123,
        first_error="portal not reached",
    )

    _settle(engine, number, _buried(_row(row_id, "a", attempts=3)))

    letter = one(engine, tables.dead)
    assert letter.pop("dead_at") > 0
    assert letter.pop("id") > 0
    assert letter == {
        "outbox_id": row_id,
        "portal": "default",
        "lane": 0,
        "kind": "contact",
        "entity_key": "a",
        "operation": "add",
        "method": None,
        "fields": {"name": "Анна", "ufList": [1, 2]},
        "params": {"useOriginalUfNames": "Y"},
        "generation": 4,
        "marker": "contact:a",
        "doubt_policy": "hold",
        "mergeable": False,
        "priority": -7,
        "deliveries": 5,
        "attempts": 4,
        "not_runs": 2,
        "headers": {"trace": "00-1"},
        "enqueued_at": 123,
        "reason": "invalid",
        "error_code": "INVALID_ARG",
        "first_error": "portal not reached",
        "last_error": "INVALID_ARG: Name is  not a name",
        "replayed_as": None,
        "closed_at": None,
        "closed_by": None,
        "edits": None,
    }
    assert rows_of(engine, tables.outbox) == []
    result = one(engine, tables.result)
    assert (result["outcome"], result["error_class"], result["attempt"]) == ("failed", "invalid", 4)


def test_a_first_failure_is_both_the_first_and_the_last_error(engine: Engine) -> None:
    """A dead letter without a history still says why."""
    number, (row_id,) = _batch(engine, "a")

    _settle(engine, number, _buried(_row(row_id, "a")))

    letter = one(engine, tables.dead)
    assert letter["first_error"] == letter["last_error"] == "INVALID_ARG: Name is  not a name"


def test_a_row_that_tries_again_is_charged_delayed_and_remembers_why(engine: Engine) -> None:
    """The first error stays the first; the due time is the database's now and the delay."""
    number, (charged, spared, free) = _batch(engine, "a", "b", "c", first_error=None)
    retry = Settlement(
        row=_row(charged, "a"),
        outcome=ResultOutcome.RETRIED,
        method="crm.item.add",
        cmd_no=0,
        charged=True,
        requeue_ms=60_000,
        error_code="INTERNAL_SERVER_ERROR",
        error_text="sorry",
    )
    skipped = replace(
        retry,
        row=_row(spared, "b"),
        outcome=ResultOutcome.SKIPPED,
        charged=False,
        spared=True,
        requeue_ms=0,
        error_code=None,
        error_text=None,
    )
    deferred = replace(retry, row=_row(free, "c"), outcome=None, charged=False, requeue_ms=0)
    before = database_now(engine)

    _settle(engine, number, retry, skipped, deferred)

    rows = {row["entity_key"]: row for row in rows_of(engine, tables.outbox)}
    counters = {k: (r["attempts"], r["not_runs"], r["state"]) for k, r in rows.items()}
    assert counters == {"a": (1, 0, "ready"), "b": (0, 1, "ready"), "c": (0, 0, "ready")}
    assert 0 <= rows["a"]["due_at"] - before - 60_000 < 10_000
    assert 0 <= rows["b"]["due_at"] - before < 10_000
    assert rows["a"]["first_error"] == rows["a"]["last_error"] == "INTERNAL_SERVER_ERROR: sorry"
    assert (rows["b"]["first_error"], rows["b"]["last_error"]) == (None, None)
    assert [
        (r["entity_key"], r["outcome"], r["final"]) for r in rows_of(engine, tables.result)
    ] == [
        ("a", "retried", False),
        ("b", "skipped", False),
    ]


def test_outcomes_are_counted_by_the_minute(engine: Engine) -> None:
    """Roll-ups add up over batches, so that nobody has to count results."""
    first, (a, b) = _batch(engine, "a", "b")
    second, (c,) = _batch(engine, "c")
    now = database_now(engine)
    early, late = now - 5_000, now - 1_000

    _settle(
        engine,
        first,
        _applied(_row(a, "a", enqueued_at_ms=early), "1"),
        _applied(_row(b, "b", enqueued_at_ms=late), "2"),
    )
    _settle(engine, second, _applied(_row(c, "c", enqueued_at_ms=late), "3"))

    counted = rows_of(engine, tables.rollup)
    assert {row["outcome"] for row in counted} == {"applied"}
    assert {row["minute"] % 60_000 for row in counted} == {0}
    assert sum(row["n"] for row in counted) == 3
    assert 7_000 <= sum(row["latency_sum_ms"] for row in counted) < 20_000
    assert 5_000 <= max(row["latency_max_ms"] for row in counted) < 15_000


def test_a_row_that_ends_lets_the_next_of_its_entity_go(engine: Engine) -> None:
    """In the same transaction, so that no release is ever lost with a worker."""
    number, (row_id,) = _batch(engine, "a")
    add_rows(engine, "a", "a", "other", state="parked")

    _settle(engine, number, _applied(_row(row_id, "a"), "1"))

    assert states(engine) == {"a": "ready parked", "other": "parked"}


def test_rows_that_end_unsent_have_their_results_too(engine: Engine) -> None:
    """Refused, cancelled and expired rows: one final result each, and a letter for the refused."""
    refused, cancelled, expired = add_rows(engine, "a", "b", "c")
    plan = Plan(
        refusals=(
            Refusal(row_id=refused, code="no_link", field="key", reason="is not on the portal"),
        ),
        closing=(
            Closing(row_id=cancelled, outcome=ResultOutcome.CANCELLED),
            Closing(row_id=expired, outcome=ResultOutcome.EXPIRED),
        ),
    )
    rows = {i: _row(i, k) for i, k in zip((refused, cancelled, expired), "abc", strict=True)}

    with writing(engine) as connection:
        set_aside(connection, plan, rows)

    assert endings(engine) == {refused: ["failed"], cancelled: ["cancelled"], expired: ["expired"]}
    assert rows_of(engine, tables.outbox) == []
    letter = one(engine, tables.dead)
    assert (letter["outbox_id"], letter["reason"], letter["attempts"]) == (refused, "refused", 0)
    assert letter["last_error"] == "no_link: key: is not on the portal"
    assert {(r["batch_id"], r["cmd_no"]) for r in rows_of(engine, tables.result)} == {(None, None)}


def test_a_row_that_went_into_a_batch_meanwhile_is_not_ended(engine: Engine) -> None:
    """Somebody else's claim wins, and the whole plan is made anew."""
    (free,) = add_rows(engine, "b")
    _, (row_id,) = _batch(engine, "a")
    plan = Plan(
        closing=(
            Closing(row_id=free, outcome=ResultOutcome.CANCELLED),
            Closing(row_id=row_id, outcome=ResultOutcome.CANCELLED),
        )
    )

    with pytest.raises(Raced), writing(engine) as connection:
        set_aside(connection, plan, {free: _row(free, "b"), row_id: _row(row_id, "a")})

    assert states(engine) == {"b": "ready", "a": "batched"}
    assert rows_of(engine, tables.result) == []


def test_rows_that_went_as_one_end_each_with_a_result_of_its_own(engine: Engine) -> None:
    """One command, one link, three results; the merged name the row that they went with."""
    number, ids = _batch(engine, "a", "a", "a")
    rows = [_row(row_id, "a") for row_id in ids]
    merged = [
        replace(
            _applied(row, "46"),
            outcome=ResultOutcome.MERGED,
            merged_into=ids[0],
            link_present=False,
            duration_ms=None,
        )
        for row in rows[1:]
    ]

    _settle(engine, number, _applied(rows[0], "46"), *merged)

    found = rows_of(engine, tables.result)
    assert [(r["outbox_id"], r["outcome"], r["merged_into"]) for r in found] == [
        (ids[0], "applied", None),
        (ids[1], "merged", ids[0]),
        (ids[2], "merged", ids[0]),
    ]
    assert {(r["final"], r["remote_id"], r["attempt"], r["cmd_no"]) for r in found} == {
        (True, "46", 1, 0)
    }
    assert rows_of(engine, tables.outbox) == []
    assert one(engine, tables.link)["remote_id"] == "46"
    assert {r["outcome"]: r["n"] for r in rows_of(engine, tables.rollup)} == {
        "applied": 1,
        "merged": 2,
    }


def test_rows_that_go_back_as_one_stand_behind_the_first_of_them(engine: Engine) -> None:
    """The first is ready after its delay, the others wait for it, and each remembers why."""
    number, ids = _batch(engine, "a", "a", "a")
    back = [
        Settlement(
            row=_row(row_id, "a"),
            outcome=None if place else ResultOutcome.RETRIED,
            method="crm.item.update",
            cmd_no=0,
            charged=True,
            requeue_ms=60_000,
            is_behind=place > 0,
            error_code="SORRY",
        )
        for place, row_id in enumerate(ids)
    ]

    _settle(engine, number, *back)

    assert states(engine) == {"a": "ready parked parked"}
    rows = rows_of(engine, tables.outbox)
    assert {(row["attempts"], row["last_error"], row["batch_id"]) for row in rows} == {
        (1, "SORRY", None)
    }
    # The delay is the head's alone: when it goes again, nothing keeps the others from going with it.
    now = database_now(engine)
    assert [row["due_at"] - now > 50_000 for row in rows] == [True, False, False]
    assert [r["outbox_id"] for r in rows_of(engine, tables.result)] == ids[:1]


def test_rows_that_are_parted_are_told_apart_where_they_were_parted(engine: Engine) -> None:
    """At no charge: the one in the middle is not merged with those before it any more."""
    number, ids = _batch(engine, "a", "a", "a", "a")
    parted = [
        Settlement(
            row=_row(row_id, "a"),
            outcome=None,
            method="crm.item.update",
            cmd_no=0,
            requeue_ms=0,
            is_behind=place > 0,
            is_barrier=place == 2,
            error_code="BAD",
        )
        for place, row_id in enumerate(ids)
    ]

    _settle(engine, number, *parted)

    rows = rows_of(engine, tables.outbox)
    assert states(engine) == {"a": "ready parked parked parked"}
    assert [row["mergeable"] for row in rows] == [True, True, False, True]
    assert {row["attempts"] for row in rows} == {0}
    assert rows_of(engine, tables.result) == []


def test_a_row_that_was_begun_goes_back_as_an_update_with_what_is_left(engine: Engine) -> None:
    """The record is linked by then, and whoever waited for it goes on."""
    number, (row_id,) = _batch(engine, "a", fields={"name": "Ann", "companyId": 1})
    add_rows(engine, "child", state="held", waits_for="contact a")
    remainder = {"companyId": {"$ref": {"kind": "company", "key": "acme"}}}
    begun = replace(
        _applied(_row(row_id, "a"), "46"),
        outcome=ResultOutcome.BEGUN,
        final=False,
        charged=False,
        requeue_ms=0,
        remainder=remainder,
    )

    _settle(engine, number, begun)

    row = one(engine, tables.outbox, entity_key="a")
    assert (row["id"], row["state"], row["operation"]) == (row_id, "ready", "update")
    assert (row["fields"], row["attempts"]) == (remainder, 0)
    assert one(engine, tables.link)["remote_id"] == "46"
    result = one(engine, tables.result)
    assert (result["outcome"], result["final"], result["remote_id"]) == ("begun", False, "46")
    assert states(engine)["child"] == "ready"


def test_a_row_that_stops_its_lane_rests_with_what_the_portal_said(engine: Engine) -> None:
    """Not dead, not ready: a person must decide, and sees why."""
    number, (row_id,) = _batch(engine, "a", attempts=1)
    add_rows(engine, "a", state="parked")
    row = _row(row_id, "a", attempts=1)
    stopped = replace(
        _buried(row),
        outcome=ResultOutcome.STOPPED,
        final=False,
        stopped=True,
        bury_reason=None,
        error_text="Name is not a name",
    )

    _settle(engine, number, stopped)

    found = one(engine, tables.outbox, id=row_id)
    assert (found["state"], found["batch_id"], found["waits_for"]) == ("held", None, None)
    assert found["state_reason"] == "stopped: INVALID_ARG: Name is not a name"
    assert found["last_error"] == found["first_error"] == "INVALID_ARG: Name is not a name"
    assert found["attempts"] == 2
    result = one(engine, tables.result)
    assert (result["outcome"], result["final"], result["attempt"]) == ("stopped", False, 2)
    assert rows_of(engine, tables.dead) == []
    assert states(engine) == {"a": "held parked"}


def test_a_refused_row_may_stop_its_lane_unsent(engine: Engine) -> None:
    """It was never delivered, so nothing is charged."""
    (row_id,) = add_rows(engine, "a")
    refusal = Refusal(row_id=row_id, code="no_link", field="key", reason="is not known")

    with writing(engine) as connection:
        stop_refused(connection, refusal, {row_id: _row(row_id, "a")})

    found = one(engine, tables.outbox)
    assert (found["state"], found["attempts"], found["deliveries"]) == ("held", 0, 0)
    assert found["state_reason"] == "stopped: no_link: key: is not known"
    result = one(engine, tables.result)
    assert (result["outcome"], result["final"], result["batch_id"]) == ("stopped", False, None)
    assert one(engine, tables.rollup)["outcome"] == "stopped"


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        pytest.param({"outcome": ResultOutcome.FAILED, "bury_reason": "x"}, True, id="failed"),
        pytest.param({"outcome": ResultOutcome.EXPIRED}, True, id="expired"),
        pytest.param({"outcome": ResultOutcome.CANCELLED}, True, id="cancelled"),
        pytest.param({"outcome": ResultOutcome.APPLIED}, False, id="applied, and no id"),
        pytest.param(
            {"outcome": ResultOutcome.RETRIED, "final": False, "requeue_ms": 9}, False, id="retried"
        ),
    ],
)
def test_children_look_anew_when_the_change_of_their_parent_came_to_nothing(
    engine: Engine, ending: dict[str, object], *, told: bool
) -> None:
    """What becomes of them is decided when they are planned, not here."""
    number, (row_id,) = _batch(engine, "parent")
    add_rows(engine, "child", state="held", waits_for="contact parent")
    add_rows(engine, "other", state="held", waits_for="contact else")
    plain = Settlement(row=_row(row_id, "parent"), outcome=None, method="m", cmd_no=0, final=True)

    _settle(engine, number, replace(plain, **ending))  # type: ignore[arg-type] # fields by name

    assert states(engine)["child"] == ("ready" if told else "held")
    assert states(engine)["other"] == "held"


@pytest.mark.parametrize("outcome", [ResultOutcome.APPLIED, ResultOutcome.UNCHANGED])
def test_children_look_anew_when_their_parent_was_deleted(
    engine: Engine, outcome: ResultOutcome
) -> None:
    """On the portal, or before it was ever there: it gets no id by this."""
    add_rows(engine, "child", state="held", waits_for="contact parent")
    if outcome is ResultOutcome.APPLIED:
        number, (row_id,) = _batch(engine, "parent", operation="delete")
        row = _row(row_id, "parent", operation=Operation.DELETE)
        _settle(engine, number, replace(_applied(row, "46"), link_present=False, link_deleted=True))
    else:
        made, row_id = add_rows(engine, "parent", "parent")
        rows = {
            made: _row(made, "parent"),
            row_id: _row(row_id, "parent", operation=Operation.DELETE),
        }
        closing = Closing(row_id=row_id, outcome=outcome, merged=(made,))
        with writing(engine) as connection:
            set_aside(connection, Plan(closing=(closing,)), rows)

    assert states(engine) == {"child": "ready"}
    assert endings(engine)[row_id] == [outcome]


def test_rows_that_end_together_unsent_name_the_one_they_went_with(engine: Engine) -> None:
    """An add that was deleted before it was sent: nothing is sent, and everybody knows."""
    first, second = add_rows(engine, "a", "a")
    add_rows(engine, "a", state="parked")
    plan = Plan(closing=(Closing(row_id=second, outcome=ResultOutcome.UNCHANGED, merged=(first,)),))
    rows = {first: _row(first, "a"), second: _row(second, "a", operation=Operation.DELETE)}

    with writing(engine) as connection:
        set_aside(connection, plan, rows)

    found = {
        r["outbox_id"]: (r["outcome"], r["merged_into"]) for r in rows_of(engine, tables.result)
    }
    assert found == {second: ("unchanged", None), first: ("merged", second)}
    assert states(engine) == {"a": "ready"}


def test_a_row_given_up_with_its_parent_says_so(engine: Engine) -> None:
    """Its letter has a reason of its own, so that letters of one cause are found together."""
    (row_id,) = add_rows(engine, "child")
    refusal = Refusal(
        row_id=row_id, code="parent_failed", field="fields", reason="refers to company acme, lost"
    )

    with writing(engine) as connection:
        set_aside(connection, Plan(refusals=(refusal,)), {row_id: _row(row_id, "child")})

    letter = one(engine, tables.dead)
    assert (letter["reason"], letter["error_code"]) == ("parent_failed", "parent_failed")
    assert letter["last_error"] == "parent_failed: fields: refers to company acme, lost"
