"""Local entity to remote id, unique both ways."""

from collections.abc import Mapping

from sqlalchemy import Engine

from b24sync.core.model import Link, LinkState, Operation, ResultOutcome, Row
from b24sync.core.settlement import Settlement
from b24sync.edge import tables
from b24sync.edge.database import reading, writing
from b24sync.edge.links import read_links, remember
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
        remember(connection, settlements, 1)


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
