"""A record is what was said of it, or the fields in which it is not are named."""

from decimal import Decimal
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core.comparing import (
    MAX_SHOWN,
    Difference,
    differences,
    fingerprints,
    summary,
)
from b24sync.core.kinds import Names
from b24sync.core.sameness import holds_file, same


class Stage(StrEnum):
    """An application's own enumeration of texts."""

    NEW = "C1:NEW"


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text(st.characters())
    | st.sampled_from(
        ["Y", "N", "0", "1.00", "300|EUR", "2026-01-31", "2026-01-31T00:00:00+03:00", "a.txt"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["value", "fileData", "1"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)
records = st.dictionaries(st.text(max_size=4), values, max_size=5)


def nested(value: object, levels: int) -> object:
    """A value inside that many lists and objects by turns."""
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_a_record_that_is_what_was_said_differs_in_nothing() -> None:
    """Whatever else it holds, and however its values are written."""
    sent = {
        "title": " Acme ",
        "opportunity": 300,
        "opened": True,
        "closedate": "2026-01-31",
        "comments": None,
        "contactIds": ["7", "5"],
        "ufCrmPrice": "10|EUR",
    }
    record = {
        "id": 3,
        "title": "Acme",
        "opportunity": "300.00",
        "opened": "Y",
        "closedate": "2026-01-31T02:00:00+02:00",
        "comments": "",
        "contactIds": [5, 7],
        "ufCrmPrice": "10.00|EUR",
    }

    found = differences(sent, record)

    assert found == ()


def test_the_fields_that_differ_are_named_in_the_order_in_which_they_were_said() -> None:
    """With both values, or without one where the record has no such field."""
    sent = {"phon": "1", "title": "A", "name": "n", "Title": "A"}
    record = {"id": 3, "name": "n", "title": "B"}

    found = differences(sent, record)

    assert found == (
        Difference("phon", "1", None),
        Difference("title", "A", "B"),
        Difference("Title", "A", None),
    )


def test_a_field_that_is_cleared_must_be_one_of_the_record_too() -> None:
    """A misspelt field is not cleared either."""
    found = differences({"phon": "", "title": ""}, {"title": None})

    assert found == (Difference("phon", "", None),)


def test_records_of_some_kinds_call_fields_by_other_letters() -> None:
    """Tasks take capitals and answer in camelCase; the exact name is not asked for then."""
    sent = {"TITLE": "a", "RESPONSIBLE_ID": 5, "UF_CRM_TASK": ["D_1"], "GROUP": 1}
    record = {"title": "a", "responsibleId": "6", "ufCrmTask": ["D_1"]}

    found = differences(sent, record, names=Names.RESPELT)

    assert found == (
        Difference("RESPONSIBLE_ID", "5", "6"),
        Difference("GROUP", "1", None),
    )


def test_records_with_names_of_their_own_are_not_compared() -> None:
    """Every field would be missing."""
    found = differences({"from": "2026-01-31"}, {"DATE_FROM": "x"}, names=Names.OTHER)

    assert found == ()


def test_files_are_passed_over() -> None:
    """The portal answers with words of its own for a file."""
    sent = {
        "photo": {"fileData": ["a.png", "iVBORw0KGgo="]},
        "papers": [["a.txt", "SGk="], {"id": 5}],
        "title": "A",
    }

    found = differences(sent, {"photo": 7, "title": "B"})

    assert found == (Difference("title", "A", "B"),)


def test_booleans_are_compared_as_the_kind_writes_them() -> None:
    """The texts of a kind of the application's own."""
    found = differences(
        {"open": True, "paid": True}, {"open": "on", "paid": "off"}, yes_no=("on", "off")
    )

    assert found == (Difference("paid", "true", "off"),)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (1.5, "1.5"),
        (Decimal("1.50"), "1.50"),
        (10**1000, "a number of 3322 bits"),
        (Stage.NEW, "C1:NEW"),
        ("Zoë漢😀", "Zoë漢😀"),
        ("a\nb\0\ud800", "a\\nb\\x00\\ud800"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 99 + "…"),
        ("\n" * 60, "\\n" * 49 + "\\…"),
        ([1, "a", None], "[1, a, ]"),
        ({"a": [True], "b": {}}, "{a: [true], b: {}}"),
        ([[[["a"]]]], "[[[…]]]"),
        ([0] * 11, "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"),
        ([object()], "[object]"),
    ],
)
def test_values_are_shown_in_one_short_line(value: object, shown: str) -> None:
    """Fit to be read, and to be stored as text by any database."""
    (found,) = differences({"a": value}, {})

    assert found.wanted == shown


def test_a_summary_names_the_fields_in_one_line() -> None:
    """What is misspelt is told from what is different."""
    found = (
        Difference("phon", "1", None),
        Difference("title", "A", "B"),
        Difference("a\nb", "", "x"),
    )

    line = summary(found)

    assert line == (
        "phon: not a field of the record; title: wanted 'A', found 'B'; a\\nb: wanted '', found 'x'"
    )
    assert summary(()) == ""


def test_what_a_portal_said_can_be_stored_and_read_in_one_line() -> None:
    """Whoever made the difference: half a character, a NUL and a page of text do no harm."""
    line = summary([Difference("phone", "\ud800", "a\0b\n" + "x" * 500)])

    assert line == f"phone: wanted '\\ud800', found 'a\\x00b\\n{'x' * 91}…'"


@given(records, records, st.sampled_from(Names))
@settings(deadline=None)
def test_any_two_records_can_be_compared(
    sent: dict[str, object], record: dict[str, object], names: Names
) -> None:
    """No JSON is refused; each field is named once at the most, in texts that people can read."""
    found = differences(sent, record, names=names)

    assert [one.field for one in found] == [
        name for name in sent if name in {one.field for one in found}
    ]
    assert all(len(text) <= MAX_SHOWN for one in found for text in (one.wanted, one.found or ""))
    assert summary(found).isprintable()


@given(records)
@settings(deadline=None)
def test_every_field_is_compared_unless_it_holds_a_file(sent: dict[str, object]) -> None:
    """A record without fields differs in all that was said."""
    named = {one.field for one in differences(sent, {})}

    assert named == {name for name, value in sent.items() if not holds_file(value)}


@given(values, values)
@settings(deadline=None)
def test_any_two_values_are_the_same_or_not(wanted: object, found: object) -> None:
    """The question has an answer, whatever is asked."""
    assert same(wanted, found) in {True, False}


def test_no_depth_is_too_deep_to_be_compared_and_hashed() -> None:
    """What nobody can send is different, and has no fingerprint."""
    deep = {"a": nested("x", 100_000), "b": "x"}

    assert differences(deep, deep) == (
        Difference("a", "[{a: [" + "…" + "]}]", "[{a: [" + "…" + "]}]"),
    )
    assert list(fingerprints(deep)) == ["b"]


def test_a_fingerprint_is_sixteen_digits_that_do_not_change() -> None:
    """They are stored, and compared by later versions."""
    found = fingerprints({"title": "A"})

    assert found == {"title": "9a84430847fd059e"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (Decimal("1.5"), 1.5),
        (None, ""),
        ([], {}),
        (True, "Y"),
        ({"a": 1, "b": [{"c": 2, "d": 3}]}, {"b": [{"d": 3, "c": 2}], "a": 1}),
        (Stage.NEW, "C1:NEW"),
    ],
)
def test_values_that_are_written_alike_have_one_fingerprint(one: object, other: object) -> None:
    """The portal reads the same."""
    assert fingerprints({"a": one}) == fingerprints({"a": other})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("A", "a"),
        ("A", "A "),
        (["a", "b"], ["b", "a"]),
        (["a"], "a"),
        ([], [""]),
        ([None], [[]]),
        ({"a": "b&c=d"}, {"a": "b", "c": "d"}),
    ],
)
def test_values_that_are_written_otherwise_have_another(one: object, other: object) -> None:
    """The portal might read something else."""
    assert fingerprints({"a": one}) != fingerprints({"a": other})


def test_a_boolean_is_hashed_as_its_kind_and_field_write_it() -> None:
    """In user fields it is 1 or 0 whatever the kind."""
    assert fingerprints({"a": True}, yes_no=("1", "0")) == fingerprints({"a": 1})
    assert fingerprints({"UF_A": True}) == fingerprints({"UF_A": "1"})
    assert fingerprints({"a": {"UF_A": False}}) == fingerprints({"a": {"UF_A": 0}})


def test_what_cannot_be_written_was_never_said() -> None:
    """Half a character, or no number."""
    fields = {"a": "\ud800", "b": float("nan")}

    assert fingerprints(fields) == {}


def test_the_name_of_a_field_is_no_part_of_its_fingerprint() -> None:
    """Any name may stand beside one, also such as the portal does not know."""
    found = fingerprints({"": {"a": 1}, "a[b": {"a": "1"}})

    assert found[""] == found["a[b"]
