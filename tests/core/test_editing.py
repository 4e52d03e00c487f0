"""A dead letter's words are edited by paths, and checked as a new change is."""

from collections.abc import Mapping
from decimal import Decimal

import pytest

from b24sync.core.editing import Edit, edited, parsed
from b24sync.core.errors import ChangeError
from b24sync.core.model import Change, Unreadable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name=Ann", ("name", "Ann")),
        ("name=", ("name", "")),
        ("name=a=b", ("name", "a=b")),
        (" name =Ann", ("name", "Ann")),
        ("opportunity=12.5", ("opportunity", 12.5)),
        ("opened=true", ("opened", True)),
        ("comments=null", ("comments", None)),
        ('code="007"', ("code", "007")),
        ("phone=007", ("phone", "007")),
        ("name=NaN", ("name", "NaN")),
        ("name=" + "[" * 100_000, ("name", "[" * 100_000)),
        ('fm={"PHONE": []}', ("fm", {"PHONE": []})),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_is_json_or_text(text: str, expected: tuple[str, object]) -> None:
    """What a person types, as far as JSON can be made of it."""
    assert parsed(text) == expected


@pytest.mark.parametrize("text", ["name", "=Ann", " =Ann", ""])
def test_a_value_needs_a_path(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is not PATH=VALUE"):
        parsed(text)


def _edited(fields: object, edit: Edit, **values: object) -> Mapping[str, object]:
    given: dict[str, object] = {"kind": "contact", "key": "a", "operation": "update"}
    change = Change(**(given | {"fields": fields} | values))  # type: ignore[arg-type] # given by name
    return edited(change, edit, {}, name="dead letter 1").value


PHONES: dict[str, object] = {"PHONE": [{"value": "1"}, {"value": "2"}]}


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ({"name": "A"}, Edit(put={"name": "B"}), {"name": "B"}),
        ({"name": "A"}, Edit(put={"post": "B"}), {"name": "A", "post": "B"}),
        ({"name": "A", "post": "B"}, Edit(taken=("post",)), {"name": "A"}),
        ({"name": "A"}, Edit(whole={"post": "B"}), {"post": "B"}),
        ({"name": "A"}, Edit(whole={"post": "B"}, put={"post": "C"}), {"post": "C"}),
        ({}, Edit(put={"a.b.c": 1}), {"a": {"b": {"c": 1}}}),
        ({"a": {"b": 1, "c": 2}}, Edit(put={"a.b": 3}), {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1, "c": 2}}, Edit(taken=("a.b",)), {"a": {"c": 2}}),
        ({"a": [1, 2]}, Edit(put={"a.1": 3}), {"a": [1, 3]}),
        ({"a": [1, 2]}, Edit(put={"a.2": 3}), {"a": [1, 2, 3]}),
        ({"a": [{"b": 1}]}, Edit(put={"a.1.b": 2}), {"a": [{"b": 1}, {"b": 2}]}),
        ({"a": [1, 2, 3]}, Edit(taken=("a.1",)), {"a": [1, 3]}),
        ({"a": [{"b": 1, "c": 2}]}, Edit(taken=("a.0.b",)), {"a": [{"c": 2}]}),
        ({}, Edit(put={"fm.PHONE.0.value": "1"}), {"fm": {"PHONE": [{"value": "1"}]}}),
        ({"fm": PHONES}, Edit(taken=("fm.PHONE.0",)), {"fm": {"PHONE": [{"value": "2"}]}}),
    ],
    ids=str,
)
def test_paths_lead_inside(before: dict[str, object], edit: Edit, after: dict[str, object]) -> None:
    """Through objects by name and through lists by place; the rest stays as it is."""
    kept = {"stays": [Decimal("1.50")]}

    found = _edited(before | kept, edit)

    assert found == (after if edit.whole is not None else after | kept)
    assert kept == {"stays": [Decimal("1.50")]}


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (Edit(taken=("nme",)), "nme: there is no 'nme' that could be taken out"),
        (Edit(taken=("name.first",)), "name.first: there is no 'first' that could be taken out"),
        (Edit(taken=("list.2",)), "list.2: '2' is no place in a list of 2"),
        (Edit(taken=("list.x",)), "list.x: 'x' is no place in a list of 2"),
        (Edit(put={"list.3": 1}), "list.3: '3' is no place in a list of 2"),
        (Edit(put={"name.first": 1}), "name.first: there is no 'first' inside of a single value"),
        (Edit(put={"a..b": 1}), "a..b: a name between the dots is missing"),
        (Edit(put={"name": b"x"}), "fields.name: bytes; files travel as base64"),
        (Edit(whole={}), "fields: are missing; say what to update"),
    ],
    ids=str,
)
def test_an_edit_that_makes_no_change_is_refused(edit: Edit, complaint: str) -> None:
    """The letter, the field, and what is wrong."""
    with pytest.raises(ChangeError) as refused:
        _edited({"name": "A", "list": [1, 2]}, edit)

    assert str(refused.value).startswith(f"dead letter 1: {complaint}")


def test_what_cannot_be_read_can_only_be_replaced() -> None:
    """There is nothing in it that could be named."""
    broken = Unreadable("[" * 9)
    with pytest.raises(ChangeError, match="fields: cannot be read; say all of them anew"):
        _edited(broken, Edit(put={"name": "A"}))

    assert _edited(broken, Edit(whole={"name": "A"})) == {"name": "A"}


def test_of_a_call_its_params_are_edited() -> None:
    """It carries nothing else."""
    change = Change("call", "a", "call", params={"id": 1, "x": 2}, method="crm.lead.get")

    found = edited(change, Edit(put={"id": 3}), {}, name="")

    assert (found.part, found.value) == ("params", {"id": 3, "x": 2})
    assert found.changes == {"id": {"before": 1, "after": 3}}


def test_changes_name_what_differs_and_nothing_else() -> None:
    """What was put as it was is no change."""
    change = Change("contact", "a", "update", fields={"name": "A", "post": "P", "old": 1})

    found = edited(
        change, Edit(put={"name": "A", "post": "Q", "new": 2}, taken=("old",)), {}, name=""
    )

    assert found.changes == {
        "post": {"before": "P", "after": "Q"},
        "new": {"after": 2},
        "old": {"before": 1},
    }


def test_an_edit_of_nothing_is_none() -> None:
    """So that letters are copied as they are."""
    assert not Edit()
    assert Edit(whole={})
    assert Edit(taken=("a",))
