"""Local entity to remote id, unique both ways."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from b24sync.core.model import Link, LinkState, Operation, ResultOutcome, Row
from b24sync.core.settlement import Settlement
from b24sync.edge import tables
from b24sync.edge.database import reading, writing
from b24sync.edge.links import forget_sent, read_links, remember
from b24sync.edge.waiting import release_waiting
from tests.house import Found, add_rows, rows_of, states


def _done(key: str, remote_id: str | None, *, row_id: int = 1, deleted: bool = False) -> Settlement:
    row = Row(
        id=row_id,
        portal="default",
        lane=0,
        kind="contact",
        key=key,
        operation=Operation.DELETE if deleted else Operation.ADD,
        fields={},
        params=None,
    )
    return Settlement(
        row=row,
        outcome=ResultOutcome.APPLIED,
        method="crm.item.add",
        cmd_no=0,
        final=True,
        remote_id=remote_id,
        link_present=not deleted,
        link_deleted=deleted,
    )


def _remember(engine: Engine, *settlements: Settlement) -> None:
    with writing(engine) as connection:
        release_waiting(connection, remember(connection, settlements, 1))


def _known(engine: Engine, *entities: tuple[str, str]) -> Mapping[tuple[str, str], Link]:
    with reading(engine) as connection:
        return read_links(connection, "default", entities)


def _links(engine: Engine) -> dict[str, Found]:
    return {row["entity_key"]: row for row in rows_of(engine, tables.link)}


def test_a_new_id_is_remembered_and_read_again(engine: Engine) -> None:
    """By kind and key; what nobody knows is absent, and another portal's links are not seen."""
    _remember(engine, _done("a", "46", row_id=9))

    known = _known(engine, ("contact", "a"), ("contact", "b"), ("deal", "a"))

    assert known == {("contact", "a"): Link(kind="contact", key="a", remote_id="46")}
    assert _links(engine)["a"]["last_outbox_id"] == 9
    with reading(engine) as connection:
        assert read_links(connection, "other", [("contact", "a")]) == {}


def test_keys_that_differ_in_case_only_are_two_entities(engine: Engine) -> None:
    """Databases fold case as they like; an application's keys are bytes."""
    _remember(engine, _done("Abc", "1"), _done("abc", "2"))

    known = _known(engine, ("contact", "Abc"), ("contact", "abc"))

    assert known["contact", "Abc"].remote_id == "1"
    assert known["contact", "abc"].remote_id == "2"


def test_a_deleted_record_is_forgotten_and_its_next_life_has_another_number(
    engine: Engine,
) -> None:
    """The generation is part of the marker, so a record made anew is not found as the old one."""
    _remember(engine, _done("a", "46"))

    _remember(engine, _done("a", "46", deleted=True))
    gone = _known(engine, ("contact", "a"))
    _remember(engine, _done("a", "47"))

    assert gone["contact", "a"] == Link(
        kind="contact", key="a", remote_id=None, generation=1, state=LinkState.DELETED
    )
    assert _known(engine, ("contact", "a"))["contact", "a"] == Link(
        kind="contact", key="a", remote_id="47", generation=1
    )


def test_a_record_made_anew_under_the_same_key_takes_its_place(engine: Engine) -> None:
    """The newest id is the one that later changes go to."""
    _remember(engine, _done("a", "46", row_id=1))

    _remember(engine, _done("a", "47", row_id=2))

    link = _links(engine)["a"]
    assert (link["remote_id"], link["state"], link["last_outbox_id"]) == ("47", "present", 2)


def test_two_entities_cannot_hold_one_record(engine: Engine) -> None:
    """The later claim is a conflict that a person can see, with the id it wanted."""
    _remember(engine, _done("a", "46"))

    _remember(engine, _done("b", "46"), _done("c", "47"))

    links = _links(engine)
    assert [(links[k]["remote_id"], links[k]["state"]) for k in "abc"] == [
        ("46", "present"),
        (None, "conflict"),
        ("47", "present"),
    ]
    assert links["b"]["dup_ids"] == ["46"]


def test_two_entities_of_one_batch_cannot_hold_one_record_either(engine: Engine) -> None:
    """A portal that answers two adds with one id has merged them; the answers are kept all the same."""
    _remember(engine, _done("a", "46"), _done("b", "46"))

    links = _links(engine)
    assert [(links[k]["remote_id"], links[k]["state"]) for k in "ab"] == [
        ("46", "present"),
        (None, "conflict"),
    ]


def test_a_deleted_record_frees_its_id_for_another_entity(engine: Engine) -> None:
    """Uniqueness is among the living."""
    _remember(engine, _done("a", "46"))
    _remember(engine, _done("a", "46", deleted=True))

    _remember(engine, _done("b", "46"))

    assert _known(engine, ("contact", "b"))["contact", "b"].remote_id == "46"


def test_an_add_whose_answer_names_no_id_leaves_a_link_in_doubt(engine: Engine) -> None:
    """The record exists; forgetting that would let the next change make a second one."""
    _remember(engine, _done("a", None))

    known = _known(engine, ("contact", "a"))
    assert (known["contact", "a"].remote_id, known["contact", "a"].state) == (None, "doubt")


def test_rows_that_waited_for_the_id_go_on_and_those_of_a_conflict_do_not(engine: Engine) -> None:
    """A child must refer to its own parent's record, and a conflict has none."""
    add_rows(engine, "child", state="held", waits_for="contact a")
    add_rows(engine, "orphan", state="held", waits_for="contact b")

    _remember(engine, _done("a", "46"), _done("b", "46"))

    assert states(engine) == {"child": "ready", "orphan": "held"}


def _fingerprinted(engine: Engine, key: str, sent: Mapping[str, str] | None) -> None:
    made = _done(key, "46")
    _remember(engine, replace(made, fingerprints=sent))


def test_what_an_add_said_is_remembered_with_its_id(engine: Engine) -> None:
    """So that the same is not said again; nothing of it is kept where nobody asked for it."""
    _fingerprinted(engine, "a", {"name": "f0"})
    with writing(engine) as connection:
        remember(connection, [_done("b", "47")], 1)

    known = _known(engine, ("contact", "a"), ("contact", "b"))
    assert known["contact", "a"].sent == {"name": "f0"}
    assert known["contact", "b"].sent is None


def _updated(key: str, sent: Mapping[str, str] | None, **values: object) -> Settlement:
    updated = replace(_done(key, None, row_id=7), link_present=False, fingerprints=sent)
    row = replace(updated.row, operation=Operation.UPDATE)
    return replace(updated, row=row, **values)  # type: ignore[arg-type] # fields by name


def test_what_an_update_said_takes_the_place_of_what_was_known(engine: Engine) -> None:
    """The id stays; of an update that is not remembered, what was known stays too."""
    _fingerprinted(engine, "a", {"name": "f0"})

    _remember(engine, _updated("a", {"name": "f1", "post": "f2"}))
    after = _known(engine, ("contact", "a"))["contact", "a"]
    _remember(engine, _updated("a", None))
    untouched = _known(engine, ("contact", "a"))["contact", "a"]
    _remember(engine, _updated("a", {}))
    forgotten = _known(engine, ("contact", "a"))["contact", "a"]

    assert (after.remote_id, after.sent) == ("46", {"name": "f1", "post": "f2"})
    assert untouched.sent == after.sent
    assert (forgotten.remote_id, forgotten.sent) == ("46", None)
    assert _links(engine)["a"]["last_outbox_id"] == 7


@pytest.mark.parametrize(
    ("unsure", "forgets"),
    [
        pytest.param({"in_doubt": True, "final": False}, True, id="in doubt"),
        pytest.param({"operation": Operation.CALL}, True, id="a call about it"),
        pytest.param(
            {"operation": Operation.CALL, "final": False}, False, id="a call that did not happen"
        ),
        pytest.param({"operation": Operation.CALL, "kind": "call"}, False, id="a call of nobody's"),
        pytest.param({"outcome": ResultOutcome.FAILED}, False, id="refused"),
    ],
)
def test_what_may_have_been_written_otherwise_is_forgotten(
    engine: Engine, unsure: dict[str, object], *, forgets: bool
) -> None:
    """The next update is sent, whatever it says."""
    _fingerprinted(engine, "a", {"name": "f0"})
    of_row = {"operation", "kind"}
    own = {name: value for name, value in unsure.items() if name in of_row}
    rest = {name: value for name, value in unsure.items() if name not in of_row}
    settlement = _updated("a", None, **rest)
    row = replace(settlement.row, **own)  # type: ignore[arg-type] # fields by name

    _remember(engine, replace(settlement, row=row))

    assert _known(engine, ("contact", "a"))["contact", "a"].sent == (
        None if forgets else {"name": "f0"}
    )


def test_a_deleted_record_is_remembered_by_nothing_it_said(engine: Engine) -> None:
    """Its next life begins with everything."""
    _fingerprinted(engine, "a", {"name": "f0"})

    _remember(engine, _done("a", "46", deleted=True))

    assert _known(engine, ("contact", "a"))["contact", "a"].sent is None


def test_forgetting_is_of_these_entities_only(engine: Engine) -> None:
    """A neighbour in the batch keeps what it said."""
    _remember(
        engine,
        replace(_done("a", "46"), fingerprints={"name": "f0"}),
        replace(_done("b", "47"), fingerprints={"name": "f1"}),
    )

    with writing(engine) as connection:
        forget_sent(connection, [_done("a", None).row])
        forget_sent(connection, [])

    known = _known(engine, ("contact", "a"), ("contact", "b"))
    assert (known["contact", "a"].sent, known["contact", "b"].sent) == (None, {"name": "f1"})
