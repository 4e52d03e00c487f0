"""Phones and e-mails end up as they are said, however often it is said and whatever was there."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.errors import PlanError
from b24sync.core.multivalues import (
    TYPES,
    Present,
    for_add,
    for_update,
    holds,
    is_values,
    merged,
    present,
)

Stored = dict[str, dict[str, str]]
"""The rows of one record on the portal, by id."""

Wanted = dict[str, dict[str, str | None]]
"""By type, the texts that are wanted and the type of each, ``None`` for any."""


def row(number: int, value: str, value_type: str = "WORK", type_id: str = "PHONE") -> Present:
    """Make a row that the portal holds."""
    return Present(id=str(number), type_id=type_id, value_type=value_type, value=value)


def mail(number: int, value: str) -> Present:
    """Make a row that holds an e-mail."""
    return row(number, value, type_id="EMAIL")


def bad(name: str, value: object) -> PlanError:
    """Give the complaint about a value that is neither values nor raw."""
    with pytest.raises(PlanError) as raised:
        is_values(name, value)
    return raised.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("PHONE", ["+1", "+2"], id="texts"),
        pytest.param("PHONE", [{"VALUE": "+1", "VALUE_TYPE": "HOME"}], id="objects"),
        pytest.param("PHONE", [{"VALUE": 79001234567}, "+1", 5], id="numbers and no types"),
        pytest.param("PHONE", [], id="none"),
        pytest.param("PHONE", "+1", id="a single text"),
        pytest.param("PHONE", 79001234567, id="a single number"),
        pytest.param("DOOR_CODES", ("+1",), id="a field of another name"),
        pytest.param("fm", {"PHONE": ["+1", {"value": "+2"}], "EMAIL": []}, id="by type"),
        pytest.param("fm", {"IM": "ann", "LINK": 5}, id="a single text of a type"),
        pytest.param("fm", {}, id="no type"),
        pytest.param("fm", [], id="no row"),
        pytest.param(
            "fm",
            [
                {"typeId": "PHONE", "value": "+1"},
                {"typeId": "WEB", "value": "a.example", "valueType": "HOME"},
            ],
            id="rows with types",
        ),
    ],
)
def test_what_says_only_values_is_values(name: str, value: object) -> None:
    """It can be compared, merged and repeated."""
    assert is_values(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("PHONE", [{"ID": 17, "VALUE": "+1"}], id="a row with an id"),
        pytest.param("PHONE", ["+1", {"ID": "17", "DELETE": "Y"}, None], id="one row with an id"),
        pytest.param("PHONE", {"0": {"VALUE": "+1"}}, id="an object by number"),
        pytest.param("PHONE", {"n0": {"VALUE": "+1"}, "17": {}}, id="an object of new rows"),
        pytest.param("fm", {"17": {"typeId": "PHONE", "value": ""}}, id="an object by id"),
        pytest.param("fm", {"n0": {"typeId": "PHONE", "value": "+1"}}, id="new rows"),
        pytest.param("fm", [{"value": "+1"}], id="a list without types"),
        pytest.param(
            "fm", [{"value": "+1", "valueType": "WORK"}, {}], id="a list without types of values"
        ),
    ],
)
def test_what_names_rows_by_itself_is_raw(name: str, value: object) -> None:
    """It is sent as it was written, so nothing of it is judged."""
    assert not is_values(name, value)


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        pytest.param(None, "", "is null; write a list of values", id="null"),
        pytest.param(True, "", "is true or false; write a list", id="a flag"),
        pytest.param(1.5, "", "is a number; write a list", id="a fraction"),
        pytest.param(Decimal("1.0"), "", "is a number; write a list", id="a decimal"),
        pytest.param(2**63, "", "is a number; write a list", id="a number that is rounded"),
        pytest.param({}, "", "is an object; write a list", id="an empty object"),
        pytest.param(
            {"VALUE": "+1"}, "", "is an object; write a list", id="a row without its list"
        ),
        pytest.param({"n0": {}, "x": {}}, "", "is an object; write a list", id="an unknown key"),
        pytest.param("", "", "is empty; leave it out", id="an empty text"),
        pytest.param(["+1", None], "[1]", "is null; write a text", id="null in a list"),
        pytest.param([["+1"]], "[0]", "is a list; write a text", id="a list in a list"),
        pytest.param([False], "[0]", "is true or false; write a text", id="a flag in a list"),
        pytest.param([" "], "[0]", "is empty; leave it out", id="white space"),
        pytest.param([{"VALUE_TYPE": "HOME"}], "[0].VALUE", "is missing", id="only a type"),
        pytest.param([{"VALUE": None}], "[0].VALUE", "is null; write a text", id="null as value"),
        pytest.param(
            [{"VALUE": "+1", "VALUE_TYPE": None}], "[0].VALUE_TYPE", "is null", id="null as type"
        ),
        pytest.param(
            [{"VALUE": "+1", "VALUE_TYPE": ""}], "[0].VALUE_TYPE", "is empty", id="no type"
        ),
        pytest.param(
            [{"VALUE": "+1", "VALUE_TIPE": "HOME"}],
            "[0].VALUE_TIPE",
            "is no part of a value; write VALUE and VALUE_TYPE only",
            id="a typing error",
        ),
        pytest.param(
            [{"VALUE": "+1", "a\nb": 1}], "[0].'a\\nb'", "is no part", id="a name with a line break"
        ),
        pytest.param(
            [{"$ref": {"kind": "contact", "key": "c-1"}}],
            "[0].$ref",
            "is no part",
            id="a reference",
        ),
    ],
)
def test_a_classic_field_that_is_neither_is_refused_by_place(
    value: object, field: str, reason: str
) -> None:
    """No typing error reaches the portal, which would answer true to it."""
    error = bad("PHONE", value)

    assert (error.code, error.field) == ("bad_value", f"fields.PHONE{field}")
    assert error.reason.startswith(reason)


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        pytest.param("+1", "", 'is a text; write {"PHONE": ["…"]}', id="a text"),
        pytest.param(5, "", "is a number; write {", id="a number"),
        pytest.param(None, "", "is null; write {", id="null"),
        pytest.param(
            {"PHONES": ["+1"]},
            ".PHONES",
            "is no type of values; write PHONE, EMAIL, WEB, IM or LINK",
            id="an unknown type",
        ),
        pytest.param({"phone": []}, ".phone", "is no type of values", id="another case"),
        pytest.param({"PHONE": [], "17": {}}, ".17", "is no type of values", id="types and ids"),
        pytest.param(
            {"PHONE": [], "n0": {}}, ".n0", "is no type of values", id="types and new rows"
        ),
        pytest.param({"PHONE": None}, ".PHONE", "is null; write a list", id="null of a type"),
        pytest.param({"PHONE": {"value": "+1"}}, ".PHONE", "is an object; write", id="a lone row"),
        pytest.param({"EMAIL": ["a", {}]}, ".EMAIL[1].value", "is missing", id="an empty row"),
        pytest.param(
            {"PHONE": [{"VALUE": "+1"}]},
            ".PHONE[0].VALUE",
            "is no part of a value; write value and valueType only",
            id="classic names",
        ),
        pytest.param(
            ["+1"], "[0]", 'names no type; write {"typeId": "PHONE"', id="a list of texts"
        ),
        pytest.param(
            [{"typeId": "PHONE", "value": "+1"}, {"value": "+2"}],
            "[1]",
            "names no type",
            id="a mix",
        ),
        pytest.param(
            [{"typeID": "PHONE", "value": "+1"}], "[0]", "names no type", id="a typing error"
        ),
        pytest.param(
            [{"typeId": "PHONES", "value": "+1"}],
            "[0].typeId",
            "is no type of values; write PHONE",
            id="an unknown type of a row",
        ),
        pytest.param(
            [{"typeId": ["PHONE"], "value": "+1"}], "[0].typeId", "is no type", id="a list as type"
        ),
        pytest.param(
            [{"typeId": "PHONE", "value": "+1", "id": 17}],
            "[0].id",
            "is no part of a value",
            id="a row as it was read, which would be added again",
        ),
        pytest.param(
            [{"typeId": "PHONE", "value": ""}], "[0].value", "is empty; leave it out", id="no text"
        ),
    ],
)
def test_a_universal_field_that_is_neither_is_refused_by_place(
    value: object, field: str, reason: str
) -> None:
    """No typing error reaches the portal, which would do nothing or add rows."""
    error = bad("fm", value)

    assert (error.code, error.field) == ("bad_value", f"fields.fm{field}")
    assert error.reason.startswith(reason)


def test_rows_are_not_taken_for_values() -> None:
    """Who asks what values become has asked first whether they are values."""
    with pytest.raises(PlanError, match=r"fields\.PHONE: names rows; values are needed"):
        for_add("PHONE", [{"ID": 1, "VALUE": "+1"}])


def test_an_add_sends_a_row_for_each_value() -> None:
    """What has no type gets the portal's usual one; white space around a text is not part of it."""
    sent = for_add("PHONE", ["+1", {"VALUE": " +2 ", "VALUE_TYPE": "HOME"}, 3])

    assert sent == [
        {"VALUE": "+1", "VALUE_TYPE": "WORK"},
        {"VALUE": "+2", "VALUE_TYPE": "HOME"},
        {"VALUE": "3", "VALUE_TYPE": "WORK"},
    ]


def test_a_universal_add_sends_a_list_of_rows_with_types() -> None:
    """Messengers and links are usually neither at work nor at home."""
    sent = for_add("fm", {type_id: f"my {type_id}" for type_id in TYPES})

    assert sent == [
        {"typeId": "PHONE", "valueType": "WORK", "value": "my PHONE"},
        {"typeId": "EMAIL", "valueType": "WORK", "value": "my EMAIL"},
        {"typeId": "WEB", "valueType": "WORK", "value": "my WEB"},
        {"typeId": "IM", "valueType": "OTHER", "value": "my IM"},
        {"typeId": "LINK", "valueType": "OTHER", "value": "my LINK"},
    ]


def test_a_classic_add_knows_the_usual_types_by_the_fields_name() -> None:
    """A field of a declared kind is like a phone."""
    assert for_add("IM", "ann") == [{"VALUE": "ann", "VALUE_TYPE": "OTHER"}]
    assert for_add("DOOR_CODES", "7") == [{"VALUE": "7", "VALUE_TYPE": "WORK"}]


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        pytest.param(["+1", "+1 "], "WORK", id="without a type"),
        pytest.param(["+1", {"VALUE": "+1", "VALUE_TYPE": "HOME"}], "HOME", id="a type later"),
        pytest.param([{"VALUE": "+1", "VALUE_TYPE": "HOME"}, "+1"], "HOME", id="a type before"),
        pytest.param(
            [{"VALUE": "+1", "VALUE_TYPE": "HOME"}, {"VALUE": "+1", "VALUE_TYPE": "FAX"}],
            "HOME",
            id="two types",
        ),
    ],
)
def test_a_value_given_twice_goes_once(value: object, value_type: str) -> None:
    """Of its types the first that is named counts."""
    assert for_add("PHONE", value) == [{"VALUE": "+1", "VALUE_TYPE": value_type}]


def test_the_same_text_under_two_types_is_two_values() -> None:
    """A phone is not an e-mail."""
    assert for_add("fm", [{"typeId": "WEB", "value": "x"}, {"typeId": "IM", "value": "x"}]) == [
        {"typeId": "WEB", "valueType": "WORK", "value": "x"},
        {"typeId": "IM", "valueType": "OTHER", "value": "x"},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("PHONE", []), ("fm", []), ("fm", {}), ("fm", {"PHONE": [], "EMAIL": []})],
)
def test_an_add_without_values_leaves_the_field_out(name: str, value: object) -> None:
    """An empty list would be sent as an empty text."""
    assert for_add(name, value) is None


@pytest.mark.parametrize(
    ("name", "record", "rows"),
    [
        pytest.param("PHONE", {}, (), id="missing"),
        pytest.param("PHONE", {"PHONE": None}, (), id="null"),
        pytest.param("PHONE", {"PHONE": []}, (), id="empty"),
        pytest.param("PHONE", {"PHONE": "+1"}, (), id="no rows"),
        pytest.param(
            "PHONE",
            {
                "PHONE": [
                    {"ID": "17", "VALUE_TYPE": "HOME", "VALUE": " +1 ", "TYPE_ID": "PHONE"},
                    {"ID": 18, "VALUE_TYPE": None, "VALUE": 5},
                ],
                "EMAIL": [{"ID": "19", "VALUE_TYPE": "WORK", "VALUE": "a@b"}],
            },
            (row(17, "+1", "HOME"), row(18, "5", "")),
            id="a classic list",
        ),
        pytest.param(
            "PHONE",
            {"PHONE": {"0": {"ID": "17", "VALUE_TYPE": "WORK", "VALUE": "+1"}}},
            (row(17, "+1"),),
            id="a classic object",
        ),
        pytest.param(
            "fm",
            {
                "fm": [
                    {"id": 17, "typeId": "PHONE", "valueType": "WORK", "value": "+1"},
                    {"id": 18, "typeId": "EMAIL", "valueType": "WORK", "value": "a@b"},
                    {"id": 19, "valueType": "WORK", "value": "x"},
                ]
            },
            (row(17, "+1"), mail(18, "a@b"), row(19, "x", type_id="")),
            id="a universal list",
        ),
        pytest.param(
            "fm",
            {"fm": {"17": {"typeId": "PHONE", "valueType": "WORK", "value": "+1"}}},
            (row(17, "+1"),),
            id="a universal object by id",
        ),
        pytest.param(
            "PHONE", {"PHONE": [{"VALUE": "+1"}, "+2", {"ID": "", "VALUE": "+3"}]}, (), id="no ids"
        ),
    ],
)
def test_the_rows_of_a_record_are_read_whatever_their_shape(
    name: str, record: Mapping[str, object], rows: tuple[Present, ...]
) -> None:
    """PHP makes lists into objects and numbers into texts as it likes."""
    assert present(name, record) == rows


@pytest.mark.parametrize(
    ("value", "rows", "sent"),
    [
        pytest.param(["+1"], [row(17, "+1")], None, id="already so"),
        pytest.param([], [], None, id="nothing and nothing"),
        pytest.param(["+1"], [row(17, "+1", "HOME")], None, id="a text keeps the type it has"),
        pytest.param("+1", [row(17, "+1"), mail(3, "a@b")], None, id="another field's rows"),
        pytest.param(
            ["+1", "+2"],
            [row(17, "+1")],
            [{"VALUE": "+2", "VALUE_TYPE": "WORK"}],
            id="one more",
        ),
        pytest.param(
            [{"VALUE": "+1", "VALUE_TYPE": "HOME"}],
            [row(17, "+1")],
            [{"ID": "17", "VALUE": "+1", "VALUE_TYPE": "HOME"}],
            id="another type",
        ),
        pytest.param([], [row(17, "+1")], [{"ID": "17", "DELETE": "Y"}], id="cleared"),
        pytest.param(
            ["+1"], [row(17, "+1"), row(18, "+1")], [{"ID": "18", "DELETE": "Y"}], id="a duplicate"
        ),
        pytest.param(
            [{"VALUE": "+1", "VALUE_TYPE": "HOME"}],
            [row(17, "+1"), row(18, "+1", "HOME")],
            [{"ID": "17", "DELETE": "Y"}],
            id="of duplicates the one with the right type stays",
        ),
        pytest.param(
            ["+3"],
            [row(17, "+1", "MOBILE"), row(18, "+2")],
            [
                {"ID": "17", "VALUE": "+3", "VALUE_TYPE": "MOBILE"},
                {"ID": "18", "DELETE": "Y"},
            ],
            id="changed in place, with its type",
        ),
        pytest.param(
            [{"VALUE": "+3", "VALUE_TYPE": "HOME"}, "+4"],
            [row(17, "", "")],
            [
                {"ID": "17", "VALUE": "+3", "VALUE_TYPE": "HOME"},
                {"VALUE": "+4", "VALUE_TYPE": "WORK"},
            ],
            id="an empty row is used",
        ),
        pytest.param(
            ["+3"],
            [row(17, "+1", "")],
            [{"ID": "17", "VALUE": "+3", "VALUE_TYPE": "WORK"}],
            id="a row without a type gets the usual one",
        ),
    ],
)
def test_a_classic_update_sends_what_is_not_so_yet(
    value: object, rows: list[Present], sent: object
) -> None:
    """Rows that are right are not mentioned, so that they stay."""
    assert for_update("PHONE", value, rows) == sent
    assert holds("PHONE", value, rows) is (sent is None)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        pytest.param({"PHONE": ["+1"]}, None, id="already so"),
        pytest.param({}, None, id="no type is mentioned"),
        pytest.param(
            {"PHONE": []}, {"17": {"typeId": "PHONE", "value": ""}}, id="one type is cleared"
        ),
        pytest.param(
            {"PHONE": ["+1", "+2"], "IM": "ann"},
            {
                "n0": {"typeId": "PHONE", "valueType": "WORK", "value": "+2"},
                "n1": {"typeId": "IM", "valueType": "OTHER", "value": "ann"},
            },
            id="two more",
        ),
        pytest.param(
            [{"typeId": "EMAIL", "value": "c@d"}, {"typeId": "EMAIL", "value": "e@f"}],
            {
                "18": {"typeId": "EMAIL", "valueType": "WORK", "value": "c@d"},
                "n0": {"typeId": "EMAIL", "valueType": "WORK", "value": "e@f"},
            },
            id="changed in place and one more",
        ),
    ],
)
def test_a_universal_update_is_an_object_by_id(value: object, sent: object) -> None:
    """A list would append all of it; types that are not mentioned stay."""
    rows = [row(17, "+1"), mail(18, "a@b")]

    assert for_update("fm", value, rows) == sent
    assert holds("fm", value, rows) is (sent is None)


@pytest.mark.parametrize(
    ("name", "earlier", "later", "both"),
    [
        pytest.param("PHONE", ["+1"], "+2", ["+2"], id="a classic field"),
        pytest.param(
            "PHONE",
            [{"VALUE": "+1", "VALUE_TYPE": "HOME"}, {"VALUE": "+2", "VALUE_TYPE": "HOME"}],
            ["+1", {"VALUE": "+2", "VALUE_TYPE": "FAX"}, "+3"],
            [
                {"VALUE": "+1", "VALUE_TYPE": "HOME"},
                {"VALUE": "+2", "VALUE_TYPE": "FAX"},
                "+3",
            ],
            id="a text keeps the type it was given",
        ),
        pytest.param(
            "fm",
            {"PHONE": ["+1"], "WEB": "x", "EMAIL": [{"value": "a@b", "valueType": "HOME"}]},
            {"PHONE": [], "IM": ["ann"], "EMAIL": "a@b"},
            {
                "PHONE": [],
                "WEB": "x",
                "IM": ["ann"],
                "EMAIL": [{"value": "a@b", "valueType": "HOME"}],
            },
            id="objects by type",
        ),
        pytest.param(
            "fm",
            [
                {"typeId": "PHONE", "value": "+1", "valueType": "HOME"},
                {"typeId": "EMAIL", "value": "a@b"},
                {"typeId": "PHONE", "value": "+2"},
            ],
            [{"typeId": "EMAIL", "value": "c@d"}],
            {"PHONE": [{"value": "+1", "valueType": "HOME"}, "+2"], "EMAIL": ["c@d"]},
            id="lists",
        ),
        pytest.param("fm", [], {"PHONE": "+1"}, {"PHONE": "+1"}, id="nothing and something"),
    ],
)
def test_later_values_win_type_by_type(
    name: str, earlier: object, later: object, both: object
) -> None:
    """What the later ones do not mention stays as the earlier ones said it."""
    assert merged(name, earlier, later) == both


texts = st.sampled_from(["+1", "+2", " +2", "+3", "a@b"])
value_types = st.sampled_from(["WORK", "HOME", "OTHER"])
types = st.sampled_from(TYPES[:3])


def members(value: str, value_type: str) -> st.SearchStrategy[object]:
    """Values as people write them: a text, a number, an object with a type or without."""
    return st.one_of(
        texts,
        st.integers(1, 3),
        st.fixed_dictionaries({value: texts}, optional={value_type: value_types}),
    )


def said(value: str, value_type: str) -> st.SearchStrategy[object]:
    """All values of one type, as people write them."""
    return st.one_of(texts, st.lists(members(value, value_type), max_size=4))


classic = said("VALUE", "VALUE_TYPE")
universal = st.one_of(
    st.dictionaries(types, said("value", "valueType"), max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {"typeId": types, "value": texts}, optional={"valueType": value_types}
        ),
        max_size=4,
    ),
)
rows_of_any_type = st.lists(st.tuples(types, value_types, texts), max_size=5)
fields = st.one_of(
    st.tuples(st.just("PHONE"), classic, rows_of_any_type),
    st.tuples(st.just("fm"), universal, rows_of_any_type),
)


def meaning(name: str, value: Any) -> Wanted:  # noqa: ANN401 - any form that people may write
    """What a values form asks for, read as plainly as possible."""
    if name != "fm":
        return {name: wanted(value)}
    if isinstance(value, dict):
        return {type_id: wanted(of_type) for type_id, of_type in value.items()}
    mentioned = {member["typeId"] for member in value}
    return {
        type_id: wanted([member for member in value if member["typeId"] == type_id])
        for type_id in mentioned
    }


def wanted(of_type: Any) -> dict[str, str | None]:  # noqa: ANN401 - as above
    """The texts of one type; of two types that one text is given, the first."""
    found: dict[str, str | None] = {}
    for member in of_type if isinstance(of_type, list) else [of_type]:
        parts = member if isinstance(member, dict) else {"VALUE": member}
        text = str(parts.get("VALUE", parts.get("value"))).strip()
        found[text] = found.get(text) or parts.get("VALUE_TYPE", parts.get("valueType"))
    return found


def followed(earlier: Wanted, later: Wanted) -> Wanted:
    """What is wanted when the one is said after the other."""
    after_all = {
        type_id: {
            text: value_type or earlier.get(type_id, {}).get(text)
            for text, value_type in of_type.items()
        }
        for type_id, of_type in later.items()
    }
    return earlier | after_all


def stored(rows: list[tuple[str, str, str]]) -> Stored:
    """The rows of a record, numbered by the portal."""
    return {
        str(number): {"typeId": type_id, "valueType": value_type, "value": value}
        for number, (type_id, value_type, value) in enumerate(rows, start=17)
    }


def shown(name: str, rows: Stored) -> dict[str, object]:
    """The record as the portal shows it."""
    if name == "fm":
        return {"fm": [{"id": int(row_id), **parts} for row_id, parts in rows.items()]}
    return {
        name: [
            {"ID": row_id, "VALUE": parts["value"], "VALUE_TYPE": parts["valueType"]}
            for row_id, parts in rows.items()
            if parts["typeId"] == name
        ]
    }


def after(name: str, rows: Stored, sent: object) -> Stored:
    """The rows after an add or an update by the portal's documented rules."""
    fresh = (str(number) for number in count(100))
    kept = dict(rows)
    entries = universal_entries(sent) if name == "fm" else classic_entries(name, sent)
    for row_id, parts in entries:
        if row_id not in kept:
            if parts["value"]:
                kept[next(fresh)] = parts
        elif parts["value"]:
            kept[row_id] = parts
        else:
            del kept[row_id]
    return kept


def classic_entries(name: str, sent: object) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows with and without ID; one with DELETE, or with nothing but its id, goes."""
    assert isinstance(sent, list)
    for entry in sent:
        value = "" if entry.get("DELETE") == "Y" else entry.get("VALUE", "")
        parts = {"typeId": name, "valueType": entry.get("VALUE_TYPE", ""), "value": value}
        yield entry.get("ID", ""), parts


def universal_entries(sent: object) -> Iterator[tuple[str, dict[str, str]]]:
    """A list appends; of an object, keys that are no ids add; without a type nothing happens."""
    assert isinstance(sent, list | dict)
    pairs = sent.items() if isinstance(sent, dict) else (("", entry) for entry in sent)
    for key, entry in pairs:
        if "typeId" in entry:
            yield key, {"valueType": "", **entry}


def values_of(rows: Stored, type_id: str) -> list[tuple[str, str]]:
    """The values of one type on the portal with their types, in a comparable order."""
    return sorted(
        (parts["value"].strip(), parts["valueType"])
        for parts in rows.values()
        if parts["typeId"] == type_id
    )


def are_wanted(rows: Stored, by_type: Wanted) -> bool:
    """Whether a record holds every wanted value once, with its type, and no other of those types."""
    for type_id, wanted_of_type in by_type.items():
        found = values_of(rows, type_id)
        if [text for text, _ in found] != sorted(wanted_of_type):
            return False
        if any(wanted_of_type[text] not in (None, value_type) for text, value_type in found):
            return False
    return True


def updated(name: str, rows: Stored, value: object) -> Stored:
    """The rows after an update that says these values."""
    sent = for_update(name, value, present(name, shown(name, rows)))
    return rows if sent is None else after(name, rows, sent)


@given(fields)
def test_an_update_makes_any_rows_into_the_values(
    field: tuple[str, object, list[tuple[str, str, str]]],
) -> None:
    """Once is enough: said again, nothing is sent."""
    name, value, rows = field
    before = stored(rows)

    done = updated(name, before, value)

    assert are_wanted(done, meaning(name, value))
    again = present(name, shown(name, done))
    assert for_update(name, value, again) is None
    assert holds(name, value, again)


@given(fields)
def test_an_update_touches_nothing_that_is_right_or_not_meant(
    field: tuple[str, object, list[tuple[str, str, str]]],
) -> None:
    """Other types keep their rows; a held value without a wanted type keeps the type it has."""
    name, value, rows = field
    before = stored(rows)
    asked = meaning(name, value)

    done = updated(name, before, value)

    for row_id, parts in before.items():
        if parts["typeId"] not in asked:
            assert done[row_id] == parts
    for type_id, wanted_of_type in asked.items():
        held = {text for text, _ in values_of(before, type_id)}
        for text, value_type in values_of(done, type_id):
            if text in held and wanted_of_type[text] is None:
                assert (text, value_type) in values_of(before, type_id)


@given(fields)
def test_an_update_is_the_shortest_and_never_a_row_with_only_its_id(
    field: tuple[str, object, list[tuple[str, str, str]]],
) -> None:
    """The portal deletes a row that is sent with nothing but its id, and appends a list of fm."""
    name, value, rows = field
    before = stored(rows)

    sent = for_update(name, value, present(name, shown(name, before)))

    assert holds(name, value, present(name, shown(name, before))) is (sent is None)
    if name == "fm":
        assert sent is None or (isinstance(sent, dict) and sent)
    changes = sent.values() if isinstance(sent, dict) else sent if isinstance(sent, list) else ()
    for change in changes:
        assert set(change) - {"ID", "typeId"}
    gone = before.keys() - updated(name, before, value).keys()
    added = updated(name, before, value).keys() - before.keys()
    types_of_gone = {before[row_id]["typeId"] for row_id in gone}
    types_of_added = {updated(name, before, value)[row_id]["typeId"] for row_id in added}
    assert not types_of_gone & types_of_added


@given(fields)
def test_an_add_makes_a_record_with_the_values(
    field: tuple[str, object, list[tuple[str, str, str]]],
) -> None:
    """The record needs no update afterwards."""
    name, value, _ = field

    sent = for_add(name, value)

    done = {} if sent is None else after(name, {}, sent)
    assert are_wanted(done, meaning(name, value))
    assert holds(name, value, present(name, shown(name, done)))


@given(
    st.one_of(
        st.tuples(st.just("PHONE"), classic, classic, rows_of_any_type),
        st.tuples(st.just("fm"), universal, universal, rows_of_any_type),
    )
)
def test_merged_values_mean_one_after_the_other(
    field: tuple[str, object, object, list[tuple[str, str, str]]],
) -> None:
    """They ask for what the later ones ask for, and for what the earlier ones do beside it."""
    name, earlier, later, rows = field

    both = merged(name, earlier, later)

    assert is_values(name, both)
    assert meaning(name, both) == followed(meaning(name, earlier), meaning(name, later))
    assert are_wanted(updated(name, stored(rows), both), meaning(name, both))


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.decimals(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*TYPES, "n0", "17", "ID", "VALUE", "value", "typeId", "x", ""]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


def judged(name: str, value: object) -> bool | PlanError:
    """What is said of a value, as a value."""
    try:
        return is_values(name, value)
    except PlanError as error:
        return error


@given(st.sampled_from(["PHONE", "fm"]), trees)
def test_whatever_is_written_is_values_or_raw_or_refused(name: str, value: object) -> None:
    """Values can be sent; nothing else than a refusal by place can come of the rest."""
    match judged(name, value):
        case PlanError() as error:
            assert error.code == "bad_value"
            assert error.field.startswith(f"fields.{name}")
        case True:
            assert holds(name, value, ()) is (for_add(name, value) is None)
        case False:
            assert not isinstance(value, str)
