"""A change is refused where it is written, by field and reason, or stored as every portal reads it."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core.changes import MAX_CHANGE_BYTES, checked
from b24sync.core.errors import ChangeError
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import Change, Link, Operation, Ref, Row
from b24sync.core.planning import plan
from b24sync.core.surroundings import Facts, Surroundings

STOCK = Kind(
    name="stock",
    add=Method(name="stock.add", id_path=("id",)),
    update=Method(name="stock.update", id_param="id"),
)
KINDS = {"stock": STOCK}
ACME = {"$ref": {"kind": "company", "key": "acme"}}
ANN = Change("contact", "c-1", "add", fields={"name": "Ann"})


class Stage(str, Enum):  # noqa: UP042 - the older sort of text enumeration formats itself otherwise
    """A text enumeration as applications wrote it before StrEnum."""

    NEW = "C1:NEW"


class Level(IntEnum):
    """A number enumeration."""

    HIGH = 3


class Word(StrEnum):
    """The words of a change as an application's own enumeration."""

    CONTACT = "contact"
    ADD = "add"


class Nowhere(tzinfo):
    """A zone that does not know its offset."""

    def utcoffset(self, _: datetime | None) -> None:
        """Say nothing."""

    dst = tzname = utcoffset


def stored(value: object) -> object:
    """Give the stored form of one field's value."""
    fields = checked(replace(ANN, fields={"x": value}), KINDS)["fields"]
    assert isinstance(fields, dict)
    return fields["x"]


def refused(change: Change, *, position: int | None = None) -> ChangeError:
    """Give the refusal of a change."""
    with pytest.raises(ChangeError) as raised:
        checked(change, KINDS, position=position)
    return raised.value


def loose(**wrong: Any) -> Change:  # noqa: ANN401 - what no type checker saw is the point
    """Make a change of what a caller without a type checker may pass."""
    return replace(ANN, **wrong)


def nested(value: object, levels: int) -> object:
    """Wrap a value in as many lists."""
    for _ in range(levels):
        value = [value]
    return value


def test_a_change_becomes_the_row_that_plain_sql_would_write() -> None:
    """Every column, with the values that every driver takes."""
    change = Change(
        "deal",
        "d-1",
        "upsert",
        fields={"title": "A", "companyId": Ref("company", "acme")},
        params={"useOriginalUfNames": "Y"},
        portal="riga",
        priority=-5,
        due_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        expires_at=datetime(2026, 3, 1, 15, 0, 0, 1500, tzinfo=timezone(timedelta(hours=3))),
        mergeable=False,
        headers={"trace": "t-1"},
    )

    row = checked(change, KINDS)

    assert row == {
        "portal": "riga",
        "kind": "deal",
        "entity_key": "d-1",
        "operation": "upsert",
        "method": None,
        "fields": {"title": "A", "companyId": ACME},
        "params": {"useOriginalUfNames": "Y"},
        "priority": -5,
        "due_at": 1_772_366_400_000,
        "expires_at": 1_772_366_400_001,
        "mergeable": False,
        "headers": {"trace": "t-1"},
    }


def test_what_is_not_said_is_stored_as_little_as_possible() -> None:
    """Defaults are the table's own, and empty mappings are NULL."""
    assert checked(ANN, KINDS) == {
        "portal": "default",
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "add",
        "method": None,
        "fields": {"name": "Ann"},
        "params": None,
        "priority": 0,
        "due_at": 0,
        "expires_at": None,
        "mergeable": True,
        "headers": None,
    }


@pytest.mark.parametrize(
    ("change", "method", "fields", "params"),
    [
        pytest.param(Change("contact", "c-1", "delete"), None, None, None, id="delete"),
        pytest.param(
            Change("call", "x", "call", method="im.notify", params={"to": 1}),
            "im.notify",
            None,
            {"to": 1},
            id="call",
        ),
        pytest.param(
            Change("contact", "c-1", "call", method="profile"),
            "profile",
            None,
            None,
            id="bare call",
        ),
        pytest.param(
            Change("contact", "c-1", "call", method="a.get", params={"id": Ref("contact", "c-1")}),
            "a.get",
            None,
            {"id": {"$ref": {"kind": "contact", "key": "c-1"}}},
            id="call about the entity itself",
        ),
        pytest.param(
            Change("task.comment", "k", "update", params={"taskId": 9}),
            None,
            {},
            {"taskId": 9},
            id="update of params",
        ),
        pytest.param(
            Change(
                "address",
                "a",
                "delete",
                fields={"TYPE_ID": 1, "ENTITY_TYPE_ID": 3, "ENTITY_ID": 5},
            ),
            None,
            {"TYPE_ID": 1, "ENTITY_TYPE_ID": 3, "ENTITY_ID": 5},
            None,
            id="delete by fields",
        ),
        pytest.param(
            Change("stock", "s", "upsert", fields={"n": 1}),
            None,
            {"n": 1},
            None,
            id="declared kind",
        ),
        pytest.param(
            Change("item:1036", "i", "add", fields={"title": "A"}),
            None,
            {"title": "A"},
            None,
            id="smart process",
        ),
    ],
)
def test_each_operation_stores_what_it_carries(
    change: Change, method: str | None, fields: object, params: object
) -> None:
    """Deletes and calls have no fields, where other operations have at least an empty object."""
    row = checked(change, KINDS)

    assert (row["method"], row["fields"], row["params"]) == (method, fields, params)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Ann", "Ann", id="text"),
        pytest.param("", "", id="empty text"),
        pytest.param(" A ", " A ", id="white space is the field's own"),
        pytest.param("€ й 漢 😀 \U0010fffd", "€ й 漢 😀 \U0010fffd", id="every plane"),
        pytest.param(None, None, id="nothing"),
        pytest.param(True, True, id="true"),
        pytest.param(False, False, id="false"),
        pytest.param(0, 0, id="nought"),
        pytest.param(-7, -7, id="negative"),
        pytest.param(2**63 - 1, 9223372036854775807, id="largest number of JSON everywhere"),
        pytest.param(2**63, "9223372036854775808", id="a longer number is text"),
        pytest.param(-(2**63), "-9223372036854775808", id="a longer negative number is text"),
        pytest.param(10**999, "1" + "0" * 999, id="a thousand digits"),
        pytest.param(1.5, 1.5, id="float"),
        pytest.param(1e300, 1e300, id="large float"),
        pytest.param(Decimal("1999.90"), "1999.90", id="decimal keeps its noughts"),
        pytest.param(Decimal("1E+3"), "1000", id="decimal without exponent"),
        pytest.param(Decimal("1E-3"), "0.001", id="small decimal"),
        pytest.param(Decimal(f"1.{'0' * 998}1"), f"1.{'0' * 998}1", id="long decimal"),
        pytest.param(date(2026, 3, 1), "2026-03-01", id="date"),
        pytest.param(
            datetime(2026, 3, 1, 10, 0, 0, 999, tzinfo=UTC),
            "2026-03-01T10:00:00+00:00",
            id="instant",
        ),
        pytest.param(
            datetime(2026, 3, 1, 10, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            "2026-03-01T10:00:00+05:30",
            id="instant elsewhere",
        ),
        pytest.param(
            UUID("12345678123456781234567812345678"),
            "12345678-1234-5678-1234-567812345678",
            id="UUID",
        ),
        pytest.param(Stage.NEW, "C1:NEW", id="text enumeration"),
        pytest.param(Word.ADD, "add", id="StrEnum"),
        pytest.param(Level.HIGH, 3, id="number enumeration"),
        pytest.param([], [], id="empty list"),
        pytest.param({}, {}, id="empty mapping"),
        pytest.param((1, (2,)), [1, [2]], id="tuples"),
        pytest.param(MappingProxyType({"a": 1}), {"a": 1}, id="any mapping"),
        pytest.param(
            [{"VALUE": "+1", "TYPE": "WORK"}], [{"VALUE": "+1", "TYPE": "WORK"}], id="multi-field"
        ),
        pytest.param(Ref("company", "acme"), ACME, id="reference"),
        pytest.param(ACME, ACME, id="reference as stored"),
        pytest.param([Ref("company", "acme")], [ACME], id="list of references"),
    ],
)
def test_a_value_is_stored_as_json_carries_it(value: object, expected: object) -> None:
    """Every type that is taken, and what becomes of it."""
    written = stored(value)

    assert written == expected
    assert type(written) is type(expected)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param("a\0b", "holds a NUL character, which no portal stores", id="NUL"),
        pytest.param(
            "\ud83d", "holds half of a surrogate pair; decode the text anew", id="half a character"
        ),
        pytest.param(float("nan"), "nan is not a number that JSON can carry", id="nan"),
        pytest.param(float("-inf"), "-inf is not a number that JSON can carry", id="infinity"),
        pytest.param(Decimal("NaN"), "NaN is not a number that JSON can carry", id="decimal NaN"),
        pytest.param(Decimal("sNaN"), "sNaN is not a number that JSON can carry", id="signalling"),
        pytest.param(
            Decimal("Infinity"),
            "Infinity is not a number that JSON can carry",
            id="decimal infinity",
        ),
        pytest.param(10**1000, "has more than 1000 digits", id="huge number"),
        pytest.param(Decimal("1E+1001"), "has more than 1000 digits", id="huge decimal"),
        pytest.param(Decimal("1E-999999"), "has more than 1000 digits", id="tiny decimal"),
        pytest.param(Decimal("0E-999999"), "has more than 1000 digits", id="nought of many digits"),
        pytest.param(Decimal("1" * 1001), "has more than 1000 digits", id="long decimal"),
        pytest.param(
            datetime(2026, 3, 1),  # noqa: DTZ001 - the very value that is refused
            "a date and time without a zone; say which, e.g. tzinfo=UTC",
            id="naive instant",
        ),
        pytest.param(
            datetime(2026, 3, 1, tzinfo=Nowhere()),
            "a date and time without a zone; say which, e.g. tzinfo=UTC",
            id="instant in no zone",
        ),
        pytest.param(time(10, 0), "JSON cannot carry a time", id="time of day"),
        pytest.param({1, 2}, "JSON cannot carry a set", id="set"),
        pytest.param(object(), "JSON cannot carry a object", id="object"),
        pytest.param(iter([1]), "JSON cannot carry a list_iterator", id="iterator"),
        *(
            pytest.param(
                data,
                "bytes; files travel as base64 text: base64.b64encode(…).decode()",
                id=type(data).__name__,
            )
            for data in (b"a", bytearray(b"a"), memoryview(b"a"))
        ),
        pytest.param(nested(1, 32), None, id="nested too deep"),
        pytest.param({"$ref": "acme"}, None, id="malformed reference"),
        pytest.param({**ACME, "more": 1}, None, id="reference and more"),
        pytest.param(Ref("kontact", "x"), None, id="reference to an unknown kind"),
        pytest.param({"a": [{"b": b"1"}]}, None, id="bytes within"),
        pytest.param({1: 2}, None, id="number as a name"),
        pytest.param({"a\0": 2}, None, id="NUL in a name"),
    ],
)
def test_a_value_that_no_portal_could_read_is_refused_by_path(
    value: object, problem: str | None
) -> None:
    """The message leads to the value and says what to do."""
    error = refused(replace(ANN, fields={"rows": [{"x": value}]}))

    assert error.field.startswith("fields.rows[0].x")
    assert problem is None or (error.field, error.problem) == ("fields.rows[0].x", problem)


@pytest.mark.parametrize(
    ("value", "field", "problem"),
    [
        pytest.param(
            nested(1, 32),
            "fields.x" + "[0]" * 32,
            "nested deeper than 32 levels",
            id="nested too deep",
        ),
        pytest.param(
            {"a": [{"b": b"1"}]},
            "fields.x.a[0].b",
            "bytes; files travel as base64 text: base64.b64encode(…).decode()",
            id="bytes within",
        ),
        pytest.param({1: 2}, "fields.x", "field names are text, 1 is not", id="number as a name"),
        pytest.param(
            {"a\0": 2},
            "fields.x",
            "holds a NUL character, which no portal stores",
            id="NUL in a name",
        ),
        pytest.param(
            {"a[b": 2},
            "fields.x.a[b",
            "the portal would read this name as another one",
            id="bracket",
        ),
        pytest.param(
            {"": 2}, "fields.x.''", "the portal would read this name as another one", id="no name"
        ),
        pytest.param(
            {"$ref": {"kind": "company"}},
            "fields.x",
            'a reference is {"$ref": {"kind": "…", "key": "…"}} and nothing else',
            id="malformed reference",
        ),
        pytest.param(
            Ref("company", "acme "),
            "fields.x (the reference's key)",
            "begins or ends with white space, which databases compare differently",
            id="reference with a space",
        ),
        pytest.param(
            Ref("company", ""), "fields.x (the reference's key)", "is missing", id="no key"
        ),
        pytest.param(
            Ref("kontact", "x"),
            "fields.x",
            "refers to the kind 'kontact'; did you mean 'contact'? kinds are those of the table "
            "(contact, deal, item:1036, …) and those declared in the setting b24sync_kinds",
            id="reference to an unknown kind",
        ),
        pytest.param(
            Ref("address", "x"),
            "fields.x",
            "refers to 'address', of which none has an id",
            id="reference to what has no id",
        ),
        pytest.param(
            Ref("contact", "c-1"),
            "fields",
            "refer to the entity itself, which has no id yet",
            id="reference to itself and nothing else",
        ),
    ],
)
def test_a_refusal_says_where_and_why(value: object, field: str, problem: str) -> None:
    """Word for word, since people read it."""
    error = refused(replace(ANN, fields={"x": value}))

    assert (error.field, error.problem) == (field, problem)


KEPT = "which databases compare differently"


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        pytest.param(loose(key=""), "key", "is missing", id="no key"),
        pytest.param(
            loose(key=7),
            "key",
            "text is needed, not int; write str(…) around it",
            id="number as key",
        ),
        pytest.param(
            loose(key="c-1 "), "key", f"begins or ends with white space, {KEPT}", id="space behind"
        ),
        pytest.param(
            loose(key="\u00a0c-1"), "key", f"begins or ends with white space, {KEPT}", id="no-break"
        ),
        pytest.param(loose(key="k" * 191), "key", "191 characters; 190 may be", id="long key"),
        pytest.param(
            loose(key="a\0b"), "key", "holds a NUL character, which no portal stores", id="NUL"
        ),
        pytest.param(
            loose(key="\udc00"),
            "key",
            "holds half of a surrogate pair; decode the text anew",
            id="surrogate",
        ),
        pytest.param(loose(portal=""), "portal", "is missing", id="no portal"),
        pytest.param(
            loose(portal="p" * 65), "portal", "65 characters; 64 may be", id="long portal"
        ),
        pytest.param(
            loose(portal=None),
            "portal",
            "text is needed, not NoneType; write str(…) around it",
            id="portal None",
        ),
        pytest.param(loose(kind=""), "kind", "is missing", id="no kind"),
        pytest.param(
            loose(kind="kontact"),
            "kind",
            "'kontact' is unknown; did you mean 'contact'? kinds are those of the table "
            "(contact, deal, item:1036, …) and those declared in the setting b24sync_kinds",
            id="kind misspelt",
        ),
        pytest.param(
            loose(kind="stok"),
            "kind",
            "'stok' is unknown; did you mean 'stock'? kinds are those of the table "
            "(contact, deal, item:1036, …) and those declared in the setting b24sync_kinds",
            id="declared kind misspelt",
        ),
        pytest.param(
            loose(kind="item:5"),
            "kind",
            "'item:5' is unknown; kinds are those of the table "
            "(contact, deal, item:1036, …) and those declared in the setting b24sync_kinds",
            id="kind that portals refuse",
        ),
        pytest.param(
            loose(operation="create"),
            "operation",
            "'create' is none of add, update, delete, upsert, call",
            id="unknown operation",
        ),
        pytest.param(
            loose(operation=None),
            "operation",
            "None is none of add, update, delete, upsert, call",
            id="operation None",
        ),
        pytest.param(
            Change("stock", "s", "delete"),
            "operation",
            "stock has no method to delete one",
            id="method",
        ),
        pytest.param(
            loose(method="crm.item.add"),
            "method",
            "goes with the operation call only",
            id="method without call",
        ),
        pytest.param(
            loose(operation="call"),
            "method",
            "is missing; a call says which method",
            id="no method",
        ),
        pytest.param(
            loose(operation="call", method=7),
            "method",
            "text is needed, not int; write str(…) around it",
            id="number as method",
        ),
        pytest.param(
            loose(operation="call", method="crm/item", fields={}),
            "method",
            "'crm/item' is not the name of a method",
            id="path as method",
        ),
        pytest.param(
            loose(operation="call", method="m" * 129),
            "method",
            "129 characters; 128 may be",
            id="long method",
        ),
        pytest.param(
            loose(operation="call", method="Batch"),
            "method",
            "a batch cannot travel in a batch; write its calls one by one",
            id="batch",
        ),
        pytest.param(
            loose(operation="call", method="profile"),
            "fields",
            "a call carries params, not fields",
            id="call with fields",
        ),
        pytest.param(
            loose(kind="kall", operation="call", method="profile", fields={}),
            "kind",
            "'kall' is unknown; kinds are those of the table "
            "(contact, deal, item:1036, …) and those declared in the setting b24sync_kinds",
            id="call of an unknown kind",
        ),
        pytest.param(
            loose(operation="delete"),
            "fields",
            "a delete carries none; the key says what is deleted",
            id="delete with fields",
        ),
        *(
            pytest.param(
                loose(operation=operation, fields={}),
                "fields",
                f"are missing; say what to {operation}",
                id=f"{operation} of nothing",
            )
            for operation in ("add", "update", "upsert")
        ),
        pytest.param(
            loose(fields=[1]), "fields", "a mapping is needed, not list", id="list of fields"
        ),
        pytest.param(
            loose(fields=None), "fields", "a mapping is needed, not NoneType", id="fields None"
        ),
        pytest.param(
            loose(fields=ACME),
            "fields",
            "a reference stands for the value of one field, not for all of them",
            id="reference for all fields",
        ),
        pytest.param(loose(params="a"), "params", "a mapping is needed, not str", id="params text"),
        pytest.param(
            loose(fields={7: 1}), "fields", "field names are text, 7 is not", id="number as a name"
        ),
        pytest.param(
            loose(params={"a b": 1}),
            "a b",
            "the portal would read this name as another one",
            id="space in the name of a param",
        ),
        pytest.param(
            loose(kind="user", fields={"a.b": 1}),
            "a.b",
            "the portal would read this name as another one",
            id="dot in a flat name",
        ),
        pytest.param(
            Change("product", "p", "add", fields={"name": "A"}),
            "fields.iblockId",
            "is missing; catalog.product.add needs it",
            id="field needed",
        ),
        pytest.param(
            Change("comment", "c", "upsert", fields={"ENTITY_ID": 1, "ENTITY_TYPE": "deal"}),
            "params.ownerTypeId",
            "is missing; crm.timeline.comment.update needs it",
            id="param needed if it becomes an update",
        ),
        pytest.param(
            Change("comment", "c", "upsert", {"C": 1}, {"ownerTypeId": 2, "ownerId": 1}),
            "fields.ENTITY_ID",
            "is missing; crm.timeline.comment.add needs it",
            id="field needed if it becomes an add",
        ),
        pytest.param(
            loose(fields={"originId": ["a"]}),
            "originId",
            "an external key is a text of at most 255 characters or a whole number",
            id="list as external key",
        ),
        pytest.param(
            loose(fields={f"f{n}": n for n in range(998)}),
            "fields",
            "1001 values in one command; a portal reads 1000 and drops the rest",
            id="too many values",
        ),
        *(
            pytest.param(
                loose(priority=priority),
                "priority",
                "a whole number from -32768 to 32767 is needed",
                id=f"priority {priority!r}",
            )
            for priority in (True, 1.5, "1", None, 32768, -32769)
        ),
        pytest.param(
            loose(due_at=datetime(2026, 3, 1)),  # noqa: DTZ001 - the very value that is refused
            "due_at",
            "a date and time without a zone; say which, e.g. tzinfo=UTC",
            id="naive due_at",
        ),
        pytest.param(
            loose(expires_at=date(2026, 3, 1)),
            "expires_at",
            "a date and time is needed, not date",
            id="date as an instant",
        ),
        pytest.param(
            loose(mergeable="no"), "mergeable", "True or False is needed, not str", id="mergeable"
        ),
        pytest.param(
            loose(headers=None), "headers", "a mapping is needed, not NoneType", id="headers None"
        ),
        pytest.param(
            loose(headers={"a": 1}), "headers.a", "text is needed, not int", id="number as header"
        ),
        pytest.param(
            loose(headers={1: "a"}),
            "headers",
            "field names are text, 1 is not",
            id="number as a header's name",
        ),
        pytest.param(
            loose(headers={"a": "\0"}),
            "headers.a",
            "holds a NUL character, which no portal stores",
            id="NUL in a header",
        ),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_name(
    change: Change, field: str, problem: str
) -> None:
    """Each refusal names the field and says what to do, word for word."""
    error = refused(change)

    assert (error.field, error.problem) == (field, problem)
    assert (error.entity, error.position) == (f"{change.kind}:{change.key}", None)


ITSELF = {"$ref": {"kind": "contact", "key": "c-1"}}


@pytest.mark.parametrize("operation", ["add", "upsert"])
def test_an_entity_may_refer_to_itself_beside_other_fields(operation: str) -> None:
    """Its add goes without the reference, and an update follows."""
    fields = {"name": "Ann", "x": [{"y": Ref("contact", "c-1")}]}

    row = checked(replace(ANN, operation=operation, fields=fields), KINDS)

    assert row["fields"] == {"name": "Ann", "x": [{"y": ITSELF}]}


def test_an_entity_that_exists_may_say_nothing_but_a_reference_to_itself() -> None:
    """It has an id by then."""
    row = checked(replace(ANN, operation="update", fields={"x": Ref("contact", "c-1")}), KINDS)

    assert row["fields"] == {"x": ITSELF}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            replace(ANN, params={"x": Ref("contact", "c-1")}), id="param, which cannot follow"
        ),
        pytest.param(
            Change(
                "comment",
                "c-1",
                "add",
                fields={"ENTITY_ID": Ref("comment", "c-1"), "ENTITY_TYPE": "deal", "COMMENT": "A"},
            ),
            id="field that its add needs",
        ),
        pytest.param(
            Change(
                "list_element",
                "c-1",
                "upsert",
                fields={"NAME": "A", "PROPERTY_1": Ref("list_element", "c-1")},
                params={"IBLOCK_TYPE_ID": "lists"},
            ),
            id="kind whose updates clear the rest",
        ),
    ],
)
def test_a_reference_to_itself_that_cannot_follow_is_refused(change: Change) -> None:
    """It would wait for its own id for ever."""
    error = refused(change)

    assert (error.field, error.problem) == (
        "fields",
        "refer to the entity itself, which has no id yet",
    )


def test_without_what_refers_to_itself_a_change_is_checked_all_the_same() -> None:
    """By what its add will carry."""
    fields = {"x": Ref("contact", "c-1"), **{f"f{n}": n for n in range(998)}}

    assert refused(replace(ANN, fields=fields)).problem == (
        "1001 values in one command; a portal reads 1000 and drops the rest"
    )
    around = (
        "entityTypeId=3&fields[photo]=&fields[originId]=contact%3Ac-1&fields[originatorId]=b24sync"
    )
    large = "x" * (MAX_CHANGE_BYTES - len(around))
    fits, exceeds = (
        replace(ANN, fields={"x": Ref("contact", "c-1"), "photo": text})
        for text in (large, large + "x")
    )
    assert checked(fits, KINDS)
    assert refused(exceeds).problem == "7340033 bytes as a command; 7340032 may be"


@pytest.mark.parametrize("operation", ["add", "update", "upsert"])
@pytest.mark.parametrize(
    "fm",
    [
        pytest.param({"PHONE": ["+1", {"value": "+2", "valueType": "HOME"}]}, id="values"),
        pytest.param({"PHONE": []}, id="none"),
        pytest.param([{"typeId": "PHONE", "value": "+1"}], id="list"),
        pytest.param({"7": {"typeId": "PHONE", "value": "+1"}}, id="rows by their ids"),
    ],
)
def test_values_are_stored_as_they_were_said(operation: str, fm: object) -> None:
    """What has to be sent for them shows when the record is read."""
    row = checked(replace(ANN, operation=operation, fields={"fm": fm}), KINDS)

    assert row["fields"] == {"fm": fm}


@pytest.mark.parametrize("operation", ["add", "update", "upsert"])
def test_values_that_make_no_sense_are_refused_where_they_are_written(operation: str) -> None:
    """By their place, and with what to write."""
    error = refused(replace(ANN, operation=operation, fields={"fm": {"PHONE": [{"value": ""}]}}))

    assert error.field == "fields.fm.PHONE[0].value"
    assert error.problem == "is empty; leave it out, and write [] for the whole list to clear it"


def test_more_values_than_a_portal_reads_are_refused_as_if_none_were_there() -> None:
    """Each of them could have to be sent, with its type and its sort."""
    phones = [f"+{n}" for n in range(333)]

    assert refused(replace(ANN, operation="update", fields={"fm": {"PHONE": phones}})).problem == (
        "1001 values in one command; a portal reads 1000 and drops the rest"
    )
    assert checked(replace(ANN, operation="update", fields={"fm": {"PHONE": phones[1:]}}), KINDS)


def test_a_refusal_of_many_names_the_position() -> None:
    """In bulk the change is found by its number and its entity."""
    error = refused(loose(priority=None), position=41)

    assert str(error) == (
        "contact:c-1: priority: a whole number from -32768 to 32767 is needed (change 41)"
    )
    assert error.position == 41


@pytest.mark.parametrize("key", ["k" * 190, "й" * 190, "😀", "a b", "A", "0", "c-1\tx"])
def test_any_other_key_is_the_applications_own(key: str) -> None:
    """Up to 190 characters, not bytes, and nothing is changed in them."""
    assert checked(replace(ANN, key=key), KINDS)["entity_key"] == key


def test_members_of_enumerations_are_stored_as_plain_text() -> None:
    """No driver has to know the application's types."""
    change = replace(ANN, kind=Word.CONTACT, operation=Word.ADD, key=Stage.NEW, priority=Level.HIGH)

    row = checked(change, KINDS)

    plain = (row["kind"], row["operation"], row["entity_key"], row["priority"])
    assert plain == ("contact", "add", "C1:NEW", 3)
    assert [type(value) for value in plain] == [str, str, str, int]


@pytest.mark.parametrize(
    ("instant", "ms"),
    [
        pytest.param(datetime(1970, 1, 1, tzinfo=UTC), 0, id="epoch"),
        pytest.param(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), -1_000, id="before"),
        pytest.param(datetime(1970, 1, 1, 3, tzinfo=timezone(timedelta(hours=3))), 0, id="zone"),
        pytest.param(datetime.max.replace(tzinfo=UTC), 253_402_300_799_999, id="last of all"),
    ],
)
def test_an_instant_is_epoch_milliseconds(instant: datetime, ms: int) -> None:
    """Rounded down, wherever in the world it was written."""
    row = checked(replace(ANN, due_at=instant, expires_at=instant), KINDS)

    assert (row["due_at"], row["expires_at"]) == (ms, ms)


@pytest.mark.parametrize("priority", [-32768, 0, 32767])
def test_a_priority_fits_two_bytes(priority: int) -> None:
    """Both ends may be said."""
    assert checked(replace(ANN, priority=priority), KINDS)["priority"] == priority


def test_what_is_stored_is_no_longer_the_callers() -> None:
    """A mapping changed after the call does not change the row."""
    inner = [1]
    fields = {"x": inner}

    row = checked(replace(ANN, fields=fields), KINDS)
    inner.append(2)
    fields["y"] = [3]

    assert row["fields"] == {"x": [1]}


def test_thirty_two_levels_may_be_nested() -> None:
    """The field itself is the first of them."""
    assert stored(nested(1, 31)) == nested(1, 31)


def test_a_structure_that_holds_itself_is_refused() -> None:
    """It has no end and so no JSON."""
    loop: list[object] = []
    loop.append(loop)

    assert refused(replace(ANN, fields={"x": loop})).problem == "nested deeper than 32 levels"


def test_as_many_values_as_a_portal_reads_may_be_said() -> None:
    """With the type and the two fields of the marker that makes a thousand."""
    fields = {f"f{n}": Ref("company", "acme") for n in range(997)}

    row = checked(replace(ANN, fields=fields), KINDS)

    assert row["fields"] == {f"f{n}": ACME for n in range(997)}


@pytest.mark.parametrize(
    ("spare", "problem"), [(0, None), (-1, "7340033 bytes as a command; 7340032 may be")]
)
def test_a_change_larger_than_a_command_is_refused(spare: int, problem: str | None) -> None:
    """It would fail for ever; a file of five megabytes still fits."""
    around = len("entityTypeId=3&id=0&fields[photo]=")
    text = "x" * (MAX_CHANGE_BYTES - around - spare)
    change = replace(ANN, operation="update", fields={"photo": text})

    if problem is None:
        assert checked(change, KINDS)["fields"] == {"photo": text}
    else:
        assert refused(change).problem == problem
    assert len(base64.b64encode(bytes(5 * 1024 * 1024))) < MAX_CHANGE_BYTES


texts = (
    st.text(st.characters(), max_size=8)
    | st.sampled_from(
        [
            "$ref",
            "a.b",
            "a b",
            "a[b",
            "$result[c0]",
            "originId",
            "XML_ID",
            "id",
            "ID",
            "ufCrm_1",
            "",
        ]
    )
    | st.sampled_from(["fm", "PHONE", "name"])
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | texts
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.uuids()
    | st.builds(
        Ref, st.sampled_from(["company", "contact", "stock"]), st.sampled_from(["a", "c-1"])
    )
    | st.sampled_from([["+1"], {"PHONE": ["+1", {"value": "+2"}]}, [{"value": "+1"}]])
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
needed = {"IBLOCK_TYPE_ID": "lists", "taskId": 1, "moduleId": "crm"}
changes = st.builds(
    Change,
    st.sampled_from(["contact", "crm.deal", "item:1036", "user", "list_element", "task.comment"])
    | st.sampled_from(["address", "user_field", "stock", "call", "crm.contact"]),
    st.just("c-1") | texts,
    st.sampled_from([str(operation) for operation in Operation]),
    fields=st.dictionaries(texts, trees, max_size=3),
    params=st.dictionaries(texts, trees, max_size=1).map(lambda params: params | needed),
    method=st.none() | st.just("crm.item.get"),
)


def rows_of(change: Change) -> Iterator[Row]:
    """Give the outbox row of a change, if it is accepted."""
    try:
        values = checked(change, KINDS)
    except ChangeError:
        return
    method = values["method"]
    yield Row(
        id=1,
        portal="default",
        lane=0,
        kind=change.kind,
        key=change.key,
        operation=Operation(change.operation),
        fields=values["fields"],
        params=values["params"],
        method=None if method is None else str(method),
    )


def links_to(*entities: tuple[str, str]) -> Mapping[tuple[str, str], Link]:
    """Know these entities."""
    return {(kind, key): Link(kind=kind, key=key, remote_id="12345") for kind, key in entities}


@given(changes)
@settings(max_examples=500)
def test_what_is_accepted_can_be_said(change: Change) -> None:
    """Only what is not known at the call, whether the entity is linked, can refuse it later.

    What refers to itself is an add without that, and an update that follows.
    """
    others = [(kind, key) for kind in ("company", "contact", "stock") for key in ("a", "c-1")]
    own = (change.kind, change.key)

    for row in rows_of(change):
        for linked in (others, [*others, own], [each for each in others if each != own]):
            around = Surroundings(
                links=links_to(*linked), kinds=KINDS, facts=Facts(records={own: {}})
            )
            planned = plan([row], around)
            if planned.waiting:
                assert planned.waiting[0].target == Ref(*own)
                planned = plan([row], replace(around, cut={row.id: Ref(*own)}))
            codes = {each.code for each in planned.refusals}
            assert codes <= {"no_link", "already_linked"}
            assert planned.commands or planned.closing or codes


@given(changes)
def test_a_change_is_accepted_or_refused_and_nothing_else(change: Change) -> None:
    """Whatever the values, the only exception is the one that names the field."""
    written = list(rows_of(change))

    assert len(written) <= 1


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_every_character_of_every_plane_is_kept(text: str) -> None:
    """Names in any script, emoji and private use included."""
    assert stored(text) == text
