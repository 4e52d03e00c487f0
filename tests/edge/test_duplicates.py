"""Records beside an entity's own: told once, shown on the link, closed by a person."""

import threading
from collections.abc import Sequence
from functools import partial

import pytest
from sqlalchemy import Connection, Engine

from b24sync.core.model import Operation, ResultOutcome, Row
from b24sync.core.settlement import Settlement
from b24sync.edge import duplicates, tables, views
from b24sync.edge.database import reading, transact, writing
from b24sync.edge.duplicates import Choice, Found, FoundBy
from b24sync.edge.settling import Settled, settle
from tests.house import add_batch, add_row, change, in_threads, one, rows_of


def _found(other_id: str, key: str = "a", **values: object) -> Found:
    given: dict[str, object] = {
        "portal": "default",
        "kind": "contact",
        "key": key,
        "kept_id": "1",
        "other_id": other_id,
        "found_by": FoundBy.AUDIT,
    }
    return Found(**(given | values))  # type: ignore[arg-type] # the fields are given by name


def _link(engine: Engine, key: str, remote_id: str | None, **values: object) -> None:
    state = "absent" if remote_id is None else "present"
    with writing(engine) as connection:
        connection.execute(
            tables.link.insert().values(
                **{
                    "portal": "default",
                    "kind": "contact",
                    "entity_key": key,
                    "remote_id": remote_id,
                    "state": state,
                }
                | values
            )
        )


def _record(engine: Engine, *found: Found) -> tuple[Found, ...]:
    return transact(engine, partial(duplicates.record, found=found))


def _close(engine: Engine, *ids: int) -> tuple[int, ...]:
    return transact(engine, partial(duplicates.close, ids=ids))


def _listed(engine: Engine, choice: Choice = Choice()) -> list[str]:  # noqa: B008 - it is frozen
    with reading(engine) as connection:
        return [found.other_id for found in duplicates.duplicates(connection, choice)]


def _others(engine: Engine, key: str = "a") -> object:
    return one(engine, tables.link, entity_key=key)["dup_ids"]


def test_a_record_is_told_once_whoever_finds_it_again(engine: Engine) -> None:
    """The second finder hears that it is no news; the first finder stays."""
    _link(engine, "a", "1")

    first = _record(engine, _found("2"), _found("2"), _found("3"))
    second = _record(engine, _found("2", found_by=FoundBy.LOOK_UP), _found("4"))

    assert [found.other_id for found in first] == ["2", "3"]
    assert [found.other_id for found in second] == ["4"]
    assert _others(engine) == ["2", "3", "4"]
    assert {row["found_by"] for row in rows_of(engine, tables.duplicate)} == {"audit"}


def test_a_record_that_is_an_entitys_own_is_nobodys_duplicate(engine: Engine) -> None:
    """Several entities may share a key of the application's own."""
    _link(engine, "a", "1")
    _link(engine, "b", "2")

    told = _record(engine, _found("2"), _found("1", "b", kept_id="2"))

    assert told == ()
    assert rows_of(engine, tables.duplicate) == []
    assert _others(engine) is None


def test_what_was_closed_is_not_told_again(engine: Engine) -> None:
    """A person has looked at it; the link names those that are left, and the count goes on."""
    _link(engine, "a", "1")
    _record(engine, _found("2"), _found("3"))
    first, second = (row["id"] for row in rows_of(engine, tables.duplicate))

    closed = _close(engine, first, 404)
    again = _close(engine, first)
    told = _record(engine, _found("2"))

    assert (closed, again, told) == ((first,), (), ())
    assert _others(engine) == ["3"]
    assert _listed(engine) == ["3"]
    assert _listed(engine, Choice(closed_too=True)) == ["2", "3"]
    assert _close(engine, second) == (second,)
    assert _others(engine) is None
    with reading(engine) as connection:
        assert duplicates.open_by_portal(connection) == {}
        assert duplicates.counted(connection) == {"default": {"audit": 2}}


def test_each_condition_narrows(engine: Engine) -> None:
    """Portal, kind and key; and portals are counted apart."""
    _record(
        engine,
        _found("2"),
        _found("3", "b"),
        _found("2", kind="deal"),
        _found("2", portal="acme", found_by=FoundBy.LOOK_UP),
    )

    assert _listed(engine, Choice(key="b")) == ["3"]
    assert _listed(engine, Choice(kind="deal")) == ["2"]
    assert _listed(engine, Choice(portal="default")) == ["2", "3", "2"]
    with reading(engine) as connection:
        assert duplicates.open_by_portal(connection) == {"acme": 1, "default": 3}
        counted = duplicates.counted(connection)
        (view,) = duplicates.duplicates(connection, Choice(portal="acme"))
        over = views.overview(connection)
    assert counted == {"default": {"audit": 3}, "acme": {"look-up": 1}}
    assert (view.kept_id, view.found_by, view.closed_at_ms) == ("1", "look-up", None)
    assert over.duplicates == {"acme": 1, "default": 3}
    assert over.detected == counted
    assert 0 <= view.age_ms < 60_000


# Answers that come late


def _sent(
    engine: Engine, state: str, *, row_id: int | None = None, operation: str = "add"
) -> tuple[int, int]:
    """A batch with the one row, an add of contact a; batch and row."""
    with writing(engine) as connection:
        number = add_batch(connection, state)
        if row_id is None:
            row_id = add_row(
                connection, "a", operation="add", state="batched", batch_id=number, cmd_no=0
            )
    entry = {"operation": operation, "rows": [row_id]}
    change(engine, tables.batch, {"plan": {f"r{row_id}": entry}}, id=number)
    return number, row_id


def _move(engine: Engine, row_id: int, number: int) -> None:
    change(
        engine,
        tables.outbox,
        {"state": "batched", "batch_id": number, "cmd_no": 0},
        id=row_id,
    )


def _made(row_id: int, remote_id: str | None, **values: object) -> Settlement:
    row = Row(
        id=row_id,
        portal="default",
        lane=0,
        kind="contact",
        key="a",
        operation=Operation.ADD,
        fields={},
        params=None,
        enqueued_at_ms=1,
        **values,  # type: ignore[arg-type] # the fields are given by name
    )
    return Settlement(
        row=row,
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        charged=True,
        remote_id=remote_id,
        link_present=True,
    )


def _unknown(row_id: int) -> Settlement:
    return Settlement(
        row=_made(row_id, None).row,
        outcome=ResultOutcome.UNKNOWN,
        method="crm.item.add",
        cmd_no=0,
        in_doubt=True,
    )


def _settle(engine: Engine, number: int, *settlements: Settlement) -> Settled:
    def work(connection: Connection) -> Settled:
        return settle(connection, number, settlements, http_status=200)

    return transact(engine, work)


def _decided_absent(engine: Engine) -> tuple[int, int, int]:
    """An add whose answer was lost, and that is said again: the two batches, and the row."""
    first, row_id = _sent(engine, "sending")
    _settle(engine, first, _unknown(row_id))
    change(engine, tables.batch, {"state": "reconciled", "closed_at": 9}, id=first)
    second, _ = _sent(engine, "sending", row_id=row_id)
    _move(engine, row_id, second)
    return first, second, row_id


def _ids(found: Sequence[Found]) -> list[tuple[str, str, str]]:
    return [(one.kept_id, one.other_id, one.found_by) for one in found]


def test_a_late_answer_with_another_id_is_a_second_record(engine: Engine) -> None:
    """What the link says is kept; it is told with the answer, and once."""
    first, second, row_id = _decided_absent(engine)
    repeated = _settle(engine, second, _made(row_id, "46", attempts=1))

    late = _settle(engine, first, _made(row_id, "47"))
    later = _settle(engine, first, _made(row_id, "47"))

    assert (repeated.recorded, repeated.duplicates) == (True, ())
    assert (late.recorded, _ids(late.duplicates)) == (False, [("46", "47", "late-answer")])
    assert later.duplicates == ()
    link = one(engine, tables.link)
    assert (link["remote_id"], link["dup_ids"]) == ("46", ["47"])


def test_a_late_answer_before_the_repeat_is_compared_when_that_is_settled(
    engine: Engine,
) -> None:
    """The link has no id when the answer comes; the record that the repeat made is kept."""
    first, second, row_id = _decided_absent(engine)

    late = _settle(engine, first, _made(row_id, "46"))
    repeated = _settle(engine, second, _made(row_id, "47", attempts=1))

    assert (late.recorded, late.duplicates) == (False, ())
    assert _ids(repeated.duplicates) == [("47", "46", "late-answer")]
    link = one(engine, tables.link)
    assert (link["remote_id"], link["dup_ids"]) == ("47", ["46"])


def test_a_late_answer_and_the_repeat_at_once_are_compared_by_one_of_them(
    engine: Engine,
) -> None:
    """Whoever is second sees the first."""
    for _ in range(6):
        first, second, row_id = _decided_absent(engine)
        told: list[Found] = []

        def late(first: int = first, row_id: int = row_id, told: list[Found] = told) -> None:
            told.extend(_settle(engine, first, _made(row_id, "46")).duplicates)

        def again(second: int = second, row_id: int = row_id, told: list[Found] = told) -> None:
            told.extend(_settle(engine, second, _made(row_id, "47", attempts=1)).duplicates)

        in_threads([late, again])

        assert _ids(told) == [("47", "46", "late-answer")]
        with writing(engine) as connection:
            for table in (tables.duplicate, tables.link):
                connection.execute(table.delete())


def test_the_repeat_waits_for_a_late_answer_that_is_being_kept(server_engine: Engine) -> None:
    """Where several write at once, it sees what the other transaction has not committed yet."""
    first, second, row_id = _decided_absent(server_engine)
    told: list[Found] = []

    def again() -> None:
        told.extend(_settle(server_engine, second, _made(row_id, "47", attempts=1)).duplicates)

    with writing(server_engine) as connection:
        late = settle(connection, first, [_made(row_id, "46")], http_status=200)
        repeating = threading.Thread(target=again, daemon=True)
        repeating.start()
        repeating.join(0.3)
        waited = repeating.is_alive()
    repeating.join(20.0)

    assert waited
    assert late.duplicates == ()
    assert _ids(told) == [("47", "46", "late-answer")]


@pytest.mark.parametrize("is_late_first", [True, False])
def test_a_late_answer_with_the_same_id_is_no_second_record(
    engine: Engine, *, is_late_first: bool
) -> None:
    """The look-up found what the answer tells of."""
    first, second, row_id = _decided_absent(engine)
    answers = [(first, _made(row_id, "46")), (second, _made(row_id, "46", attempts=1))]

    for number, settlement in answers if is_late_first else answers[::-1]:
        assert _settle(engine, number, settlement).duplicates == ()

    assert rows_of(engine, tables.duplicate) == []


def test_a_late_answer_to_an_update_tells_of_no_record(engine: Engine) -> None:
    """It names the record that was updated, be that gone by now."""
    first, second, row_id = _decided_absent(engine)
    plan = {f"r{row_id}": {"operation": "update", "rows": [row_id]}}
    change(engine, tables.batch, {"plan": plan}, id=first)

    _settle(engine, first, _made(row_id, "46"))
    repeated = _settle(engine, second, _made(row_id, "47", attempts=1))

    assert repeated.duplicates == ()


def test_an_answer_to_a_row_that_was_decided_without_its_batch_is_compared(
    engine: Engine,
) -> None:
    """Of a batch in doubt one row is said again already; the answer counts for the others."""
    first, second, row_id = _decided_absent(engine)
    with writing(engine) as connection:
        other = add_row(connection, "b", state="doubt", batch_id=first, cmd_no=1)
    change(engine, tables.batch, {"state": "doubt", "closed_at": None}, id=first)
    _settle(engine, second, _made(row_id, "46", attempts=1))

    late = _settle(engine, first, _made(row_id, "47"), _unknown(other))

    assert late.recorded
    assert _ids(late.duplicates) == [("46", "47", "late-answer")]


def test_several_records_found_by_marker_are_told_by_whoever_settles(engine: Engine) -> None:
    """The first is kept, the others are to be looked at."""
    number, row_id = _sent(engine, "sending")
    several = Settlement(
        row=_made(row_id, "1").row,
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        remote_id="1",
        link_present=True,
        duplicates=("2", "3"),
    )

    done = _settle(engine, number, several)

    assert _ids(done.duplicates) == [("1", "2", "look-up"), ("1", "3", "look-up")]
    assert _others(engine) == ["2", "3"]
