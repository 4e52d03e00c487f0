"""Questions name exactly one record or one sort of them, and answers are believed with care."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.asking import about_matches, about_record, ids_of, record_of
from b24sync.core.kind_table import KINDS, find_kind
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import Asks, Operation, Question, Row

WITHOUT_GET = Kind(name="stamp", add=Method(name="stamp.add", id_path=()))
GET_OF_NOTHING = replace(WITHOUT_GET, get=Method(name="stamp.get"))
WITHOUT_IDS = replace(WITHOUT_GET, list=Method(name="stamp.list", fields_param="filter"))
RENAMED = replace(
    WITHOUT_GET,
    list=Method(
        name="stamp.list",
        fields_param="where",
        fixed={"mode": "strict"},
        required=("album",),
        param_names={"code": "CODE", "album": "ALBUM", "country": "COUNTRY"},
        required_fields=("country", "year"),
        id_path=("stamp", "ID"),
    ),
)


def kind_of(name: str) -> Kind:
    """Find a kind of the table."""
    kind = find_kind(name)
    assert kind is not None
    return kind


def row(kind: str) -> Row:
    """Make the row that gives rise to a question."""
    return Row(
        id=1,
        portal="default",
        lane=0,
        kind=kind,
        key="k-1",
        operation=Operation.UPSERT,
        fields={},
        params=None,
    )


@pytest.mark.parametrize(
    ("kind", "params", "method", "query"),
    [
        pytest.param("contact", {}, "crm.item.get", "entityTypeId=3&id=46", id="universal"),
        pytest.param("crm.contact", {}, "crm.contact.get", "id=46", id="classic"),
        pytest.param(
            "contact",
            {"useOriginalUfNames": "Y", "notify": 1},
            "crm.item.get",
            "entityTypeId=3&useOriginalUfNames=Y&id=46",
            id="names of user fields",
        ),
        pytest.param(
            "user_field",
            {"moduleId": "crm", "notify": 1},
            "userfieldconfig.get",
            "moduleId=crm&id=46",
            id="a param that the method needs",
        ),
        pytest.param(
            "task.comment", {"taskId": 9}, "task.commentitem.get", "0=9&1=46", id="by position"
        ),
        pytest.param(
            "contact",
            {"id": 99, "entityTypeId": 31},
            "crm.item.get",
            "entityTypeId=3&id=46",
            id="its",
        ),
        pytest.param(
            "task",
            {},
            "tasks.task.get",
            "taskId=46&select[0]=*&select[1]=UF_A&select[2]=TITLE",
            id="fields by name",
        ),
    ],
)
def test_a_record_is_asked_for_by_its_id(
    kind: str, params: Mapping[str, object], method: str, query: str
) -> None:
    """With those params of the change without which the answer would be another."""
    asked = about_record(row(kind), kind_of(kind), "46", ("UF_A", "TITLE"), params)

    assert replace(asked, query=unquote(asked.query)) == Question(
        kind=kind, key="k-1", asks=Asks.RECORD, method=method, query=query
    )


@pytest.mark.parametrize("kind", [WITHOUT_GET, GET_OF_NOTHING], ids=["no get", "no id"])
def test_a_kind_whose_records_cannot_be_read_is_not_asked(kind: Kind) -> None:
    """The mistake is the caller's."""
    with pytest.raises(ValueError, match="stamp has no method to get one"):
        about_record(row("stamp"), kind, "46", (), {})


@pytest.mark.parametrize(
    ("kind", "params", "method", "query", "wanted"),
    [
        pytest.param(
            kind_of("deal"),
            {"useOriginalUfNames": "Y", "notify": 1},
            "crm.item.list",
            "entityTypeId=2&useOriginalUfNames=Y&filter[=code]=A"
            "&select[0]=id&select[1]=code&start=-1",
            {"code": "A"},
            id="a filter of equals",
        ),
        pytest.param(
            kind_of("list_element"),
            {"IBLOCK_TYPE_ID": "lists"},
            "lists.element.get",
            "IBLOCK_TYPE_ID=lists&code=A&start=-1",
            {"code": "A"},
            id="flat",
        ),
        pytest.param(
            RENAMED,
            {"album": 5},
            "stamp.list",
            "mode=strict&ALBUM=5&where[=COUNTRY]=LV&where[=CODE]=A"
            "&select[0]=ID&select[1]=COUNTRY&select[2]=CODE&start=-1",
            {"COUNTRY": "LV", "CODE": "A"},
            id="under the list's own names",
        ),
    ],
)
def test_records_are_asked_for_by_what_they_must_hold(
    kind: Kind,
    params: Mapping[str, object],
    method: str,
    query: str,
    wanted: Mapping[str, object],
) -> None:
    """Uncounted, and with the values themselves, so that the answer can be looked through."""
    fields = {"country": "LV", "title": "x"}

    asked = about_matches(row(kind.name), kind, {"code": "A"}, fields, params)

    assert asked is not None
    assert replace(asked, query=unquote(asked.query)) == Question(
        kind=kind.name, key="k-1", asks=Asks.MATCH, method=method, query=query, wanted=wanted
    )


@pytest.mark.parametrize("kind", [WITHOUT_GET, WITHOUT_IDS], ids=["no list", "no ids in it"])
def test_a_kind_whose_list_tells_no_ids_is_asked_for_none(kind: Kind) -> None:
    """There is no question, and that is no mistake."""
    assert about_matches(row("stamp"), kind, {"code": "A"}, {}, {}) is None


@pytest.mark.parametrize(
    ("kind", "answer", "record"),
    [
        pytest.param("contact", {"item": {"id": 46}}, {"id": 46}, id="inside"),
        pytest.param("crm.contact", {"ID": "46"}, {"ID": "46"}, id="the answer itself"),
        pytest.param("crm.contact", [{"ID": "46"}], {"ID": "46"}, id="a list of one"),
        pytest.param("crm.contact", [{"ID": "4"}, {"ID": "6"}], {}, id="a list of two"),
        pytest.param("crm.contact", [], {}, id="an empty list"),
        pytest.param("contact", {"item": None}, {}, id="null"),
        pytest.param("contact", {"item": []}, {}, id="an empty object of PHP"),
        pytest.param("contact", {"items": {}}, {}, id="another name"),
        pytest.param("contact", [{"item": {"id": 46}}], {}, id="a list on the way"),
        pytest.param("activity.configurable", {"activity": 7}, {}, id="a number on the way"),
        pytest.param("contact", False, {}, id="false"),
    ],
)
def test_the_record_is_found_where_its_kind_says(
    kind: str, answer: object, record: Mapping[str, object]
) -> None:
    """Anything else is no record."""
    assert record_of(kind_of(kind), answer) == record


@pytest.mark.parametrize(
    ("kind", "answer", "ids"),
    [
        pytest.param("deal", {"items": [{"id": 4}, {"id": 6}]}, ("4", "6"), id="inside"),
        pytest.param("crm.deal", [{"ID": "4"}, {"ID": "6"}], ("4", "6"), id="the answer itself"),
        pytest.param("crm.deal", {"0": {"ID": "4"}, "2": {"ID": 6}}, ("4", "6"), id="PHP's object"),
        pytest.param(
            "deal", {"items": [{"id": 6}, {"id": "6"}, {"id": 4}]}, ("6", "4"), id="twice"
        ),
        pytest.param("deal", {"items": []}, (), id="none"),
        pytest.param("deal", {"items": 7}, (), id="no list"),
        pytest.param("deal", [], (), id="an empty list instead"),
        pytest.param("crm.deal", [7, None, "4", {"id": 4}], (), id="no records"),
        pytest.param("crm.deal", [{"ID": True}, {"ID": 0}, {"ID": -4}], (), id="no ids"),
        pytest.param("crm.deal", [{"ID": ""}, {"ID": "0"}, {"ID": "4a"}], (), id="no ids as text"),
        pytest.param("crm.deal", [{"ID": "٤"}, {"ID": "4" * 5000}], (), id="odd digits"),
        pytest.param("crm.deal", [{"ID": 4.0}, {"ID": 2**63}, {"ID": [4]}], (), id="odd numbers"),
        pytest.param("crm.deal", [{"ID": 2**63 - 1}], ("9223372036854775807",), id="the largest"),
    ],
)
def test_ids_are_found_each_once_and_in_their_order(
    kind: str, answer: object, ids: tuple[str, ...]
) -> None:
    """What is no id is passed over."""
    assert ids_of(kind_of(kind), answer) == ids


def test_an_id_may_stand_deep_in_a_row() -> None:
    """As the kind says."""
    answer = [{"stamp": {"ID": 4}}, {"stamp": 6}, {"ID": 8}]

    assert ids_of(RENAMED, answer) == ("4",)


def test_a_kind_that_is_never_listed_has_no_ids() -> None:
    """Whatever is answered."""
    assert ids_of(WITHOUT_GET, [{"id": 4}]) == ()


def test_a_record_with_another_value_is_no_match() -> None:
    """Some lists answer with every record, where they do not know a condition."""
    answer = {
        "items": [
            {"id": 1, "code": "A", "year": "7"},
            {"id": 2, "code": "B", "year": 7},
            {"id": 3, "code": "A"},
            {"id": 4},
            {"id": 5, "code": None, "year": 7},
            {"id": 6, "code": "A", "year": 8},
        ]
    }

    assert ids_of(kind_of("deal"), answer, {"code": "A", "year": 7}) == ("1", "3", "4")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("0129x", max_size=4),
    lambda nested: (
        st.lists(nested, max_size=3)
        | st.dictionaries(
            st.sampled_from(["item", "items", "id", "ID", "fields", "activity", "code"]),
            nested,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([*KINDS.values(), RENAMED, WITHOUT_GET]), json_values, json_values)
def test_no_answer_is_too_odd(kind: Kind, answer: object, value: object) -> None:
    """A record is always an object, and every id a positive number as text, once."""
    found = ids_of(kind, answer, {"code": value})

    assert isinstance(record_of(kind, answer), Mapping)
    assert all(int(number) > 0 for number in found)
    assert len(set(found)) == len(found)
