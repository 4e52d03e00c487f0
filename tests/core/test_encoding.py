"""What reaches the portal is what was said, read by PHP's rules; the rest is refused by name."""

import json
import math
import shutil
import subprocess
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core.encoding import (
    MAX_VARIABLES,
    encode,
    entry,
    mentions_result,
    variables,
    with_booleans,
)
from b24sync.core.errors import PlanError
from tests.php import Tree, read


class Stage(StrEnum):
    """An application's own enumeration of texts."""

    NEW = "C1:NEW"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
special = st.text(st.sampled_from("&=+%#?[]$<>/:@. \n\t\\\"'йЖ漢😀a0"), max_size=8)
outer_names = (texts | special).filter(lambda name: name and not set(name) & set(" .["))
inner_names = (texts | special).filter(
    lambda name: name and not set(name) & set("[]") and name not in tuple(" \t\n\v\f\r")
)
trees = st.recursive(
    texts | special,
    lambda nested: st.lists(nested, max_size=4) | st.dictionaries(inner_names, nested, max_size=4),
    max_leaves=20,
)


def as_php_sees(value: object) -> str | Tree:
    """Say what a tree of texts is to PHP, which knows no lists and no empty arrays."""
    match value:
        case str():
            return value
        case list() if value:
            return {str(index): as_php_sees(nested) for index, nested in enumerate(value)}
        case dict() if value:
            return {key: as_php_sees(nested) for key, nested in value.items()}
        case _:
            return {"0": ""}


@given(st.dictionaries(outer_names, trees, max_size=4))
@settings(deadline=None)
def test_php_reads_back_the_same_tree(params: dict[str, object]) -> None:
    """Whatever the nesting and the characters, nothing is lost, split or merged."""
    expected = {key: as_php_sees(value) for key, value in params.items()}

    query = encode(params)

    assert read(query) == expected


def said_or_refused(params: Mapping[str, object]) -> str:
    """Give the query, or the code of the refusal."""
    try:
        return encode(params)
    except PlanError as refused:
        return refused.code


@given(texts | special, texts | special)
@settings(deadline=None)
def test_a_name_is_read_back_or_refused(outer: str, inner: str) -> None:
    """There is no third way: no name is silently read as another one."""
    params = {outer: {inner: "x"}}

    query = said_or_refused(params)

    assert query == "bad_name" or read(query) == params


@given(st.dictionaries(outer_names, trees, max_size=4))
@settings(deadline=None)
def test_a_query_is_plain_ascii_that_no_reader_of_urls_can_misread(
    params: dict[str, object],
) -> None:
    """Only unreserved characters, escapes and the marks of structure appear."""
    query = encode(params)

    assert query.isascii()
    assert not set(query) - set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-%[]=&"
    )


@given(st.dictionaries(outer_names, trees, max_size=4))
@settings(deadline=None)
def test_as_many_variables_are_counted_as_are_written(params: dict[str, object]) -> None:
    """The count is that of the pairs, an empty list being one."""
    pairs = encode(params).split("&") if params else []

    count = variables(encode(params))

    assert count == len(pairs)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_a_decimal_is_written_exactly_and_without_exponent(value: Decimal) -> None:
    """The portal reads digits only; an exponent would be text to it."""
    written = encode({"v": value}).removeprefix("v=")

    assert Decimal(written) == value
    assert set(written) <= set("-.0123456789")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_written_exactly_and_without_exponent(value: float) -> None:
    """What Python shows shortest is what is sent, in positional digits."""
    written = encode({"v": value}).removeprefix("v=")

    assert float(written) == value
    assert set(written) <= set("-.0123456789")


@pytest.mark.parametrize(
    ("value", "query"),
    [
        pytest.param("John&Martin", "v=John%26Martin", id="ampersand"),
        pytest.param("a+b c", "v=a%2Bb%20c", id="plus and space"),
        pytest.param("Ж", "v=%D0%96", id="cyrillic"),
        pytest.param("😀", "v=%F0%9F%98%80", id="beyond the basic plane"),
        pytest.param("[1]", "v=%5B1%5D", id="brackets of a value"),
        pytest.param("$result[c0][item][id]", "v=%24result%5Bc0%5D%5Bitem%5D%5Bid%5D", id="ref"),
        pytest.param("2026-01-31T10:00:00+03:00", "v=2026-01-31T10%3A00%3A00%2B03%3A00", id="date"),
        pytest.param("", "v=", id="empty text"),
        pytest.param(None, "v=", id="none clears"),
        pytest.param([], "v[]=", id="empty list"),
        pytest.param({}, "v[]=", id="empty mapping"),
        pytest.param(["a", "b"], "v[0]=a&v[1]=b", id="list"),
        pytest.param(("a", "b"), "v[0]=a&v[1]=b", id="tuple"),
        pytest.param(MappingProxyType({"k": "a"}), "v[k]=a", id="any mapping"),
        pytest.param({"0": "a", "x.y z": "b"}, "v[0]=a&v[x.y%20z]=b", id="inner names"),
        pytest.param({">=ID": 5}, "v[%3E%3DID]=5", id="filter"),
        pytest.param(True, "v=1", id="true"),
        pytest.param(False, "v=0", id="false"),
        pytest.param(-17, "v=-17", id="integer"),
        pytest.param(10**999, "v=1" + "0" * 999, id="long integer"),
        pytest.param(Decimal("1E+3"), "v=1000", id="decimal with exponent"),
        pytest.param(Decimal("1500.50"), "v=1500.50", id="decimal keeps its places"),
        pytest.param(1e-7, "v=0.0000001", id="small float"),
        pytest.param(1e16, "v=10000000000000000", id="large float"),
        pytest.param(Stage.NEW, "v=C1%3ANEW", id="enumeration of texts"),
    ],
)
def test_a_value_is_written_like_this(value: object, query: str) -> None:
    """One line for each sort of value."""
    params = {"v": value}

    written = encode(params)

    assert written == query


def test_structure_and_order_are_kept() -> None:
    """Parameters stand in their order, positions and names in raw brackets."""
    params = {
        "id": 7,
        "fields": {"NAME": "Ann", "PHONE": [{"VALUE": "+7", "VALUE_TYPE": "WORK"}]},
    }

    query = encode(params)

    assert query == (
        "id=7&fields[NAME]=Ann&fields[PHONE][0][VALUE]=%2B7&fields[PHONE][0][VALUE_TYPE]=WORK"
    )


def deep(levels: int) -> object:
    """Nest a text in so many lists."""
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        pytest.param({"f": {"A": {1, 2}}}, "unsupported_type", "f.A", id="set"),
        pytest.param({"f": [b"x"]}, "unsupported_type", "f[0]", id="bytes"),
        pytest.param({"f": object()}, "unsupported_type", "f", id="object"),
        pytest.param({"f": math.nan}, "not_a_number", "f", id="nan"),
        pytest.param({"f": -math.inf}, "not_a_number", "f", id="infinity"),
        pytest.param({"f": Decimal("sNaN")}, "not_a_number", "f", id="decimal nan"),
        pytest.param({"f": Decimal("1E+999999")}, "out_of_range", "f", id="huge decimal"),
        pytest.param({"f": Decimal("1E-999999")}, "out_of_range", "f", id="tiny decimal"),
        pytest.param({"f": Decimal("1" * 1001)}, "out_of_range", "f", id="long decimal"),
        pytest.param({"f": 10**5000}, "out_of_range", "f", id="huge integer"),
        pytest.param(
            {"fields": {"PHONE": [{"VALUE": "\ud800"}]}},
            "bad_text",
            "fields.PHONE[0].VALUE",
            id="half a character",
        ),
        pytest.param({"f": {"Имя": "a\0b"}}, "bad_text", "f.Имя", id="nul"),
        pytest.param({"": "x"}, "bad_name", "''", id="empty name"),
        pytest.param({"a.b": "x"}, "bad_name", "a.b", id="dot"),
        pytest.param({"a b": "x"}, "bad_name", "a b", id="space"),
        pytest.param({"a[b": "x"}, "bad_name", "a[b", id="bracket"),
        pytest.param({"a\0": "x"}, "bad_name", "'a\\x00'", id="nul in a name"),
        pytest.param({"\udfff": "x"}, "bad_name", "'\\udfff'", id="half a character in a name"),
        pytest.param({"f": {"": "x"}}, "bad_name", "f.''", id="empty inner name"),
        pytest.param({"f": {" ": "x"}}, "bad_name", "f. ", id="blank inner name"),
        pytest.param({"f": {"a]": "x"}}, "bad_name", "f.a]", id="closing bracket inside"),
        pytest.param({"f": {"g": {7: "x"}}}, "bad_name", "f.g.int", id="inner name is a number"),
        pytest.param({"f": deep(65)}, "too_deep", "f" + "[0]" * 64, id="too deep"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_path(
    params: Mapping[str, object], code: str, field: str
) -> None:
    """The refusal carries a code for filters and the path of the field for people."""
    with pytest.raises(PlanError) as refused:
        encode(params)

    assert (refused.value.code, refused.value.field) == (code, field)


def test_a_refusal_does_not_repeat_the_value() -> None:
    """What a customer wrote is nobody's business in a log."""
    params = {"f": "secret\0"}

    with pytest.raises(PlanError) as refused:
        encode(params)

    assert "secret" not in str(refused.value)


def test_the_deepest_nesting_php_keeps_is_sent() -> None:
    """Sixty-four brackets are read, as PHP counts them."""
    params = {"f": deep(64)}

    query = encode(params)

    assert query == "f" + "[0]" * 64 + "=x"
    assert read(query) == {"f": as_php_sees(params["f"])}
    assert variables(query) == 1


def test_php_drops_what_exceeds_its_variables() -> None:
    """The limit is named because the loss would be silent."""
    params = {"rows": [str(n) for n in range(MAX_VARIABLES + 1)]}

    query = encode(params)
    rows = read(query)["rows"]

    assert variables(query) == 1001
    assert len(rows) == 1000


def test_no_parameters_are_no_variables_and_no_query() -> None:
    """A method alone is an entry."""
    params: dict[str, object] = {}

    written = entry("profile", encode(params))

    assert written == "profile"
    assert variables("") == 0


def test_an_entry_joins_method_and_query() -> None:
    """The first question mark divides them."""
    query = encode({"id": 7})

    written = entry("crm.contact.delete", query)

    assert written == "crm.contact.delete?id=7"


@pytest.mark.parametrize(
    ("value", "mentions"),
    [
        pytest.param({"a": [{"b": "see $result[c0] there"}]}, True, id="inside a text"),
        pytest.param(("$result[",), True, id="beginning"),
        pytest.param("$result[x]", True, id="a text itself"),
        pytest.param({"a": "$RESULT[c0]"}, False, id="other case"),
        pytest.param({"a": "result[c0]", "b": "$result"}, False, id="parts of it"),
        pytest.param({"$result[c0]": "x"}, False, id="a name"),
        pytest.param({"a": 7, "b": None, "c": []}, False, id="no text"),
    ],
)
def test_text_that_looks_like_a_reference_is_found(value: object, *, mentions: bool) -> None:
    """The portal would replace it in a batch, whoever wrote it."""
    found = mentions_result(value)

    assert found is mentions


def test_booleans_are_written_as_their_kind_writes_them() -> None:
    """Y and N in fields, 1 and 0 in user fields and beneath them, other values untouched."""
    fields = {
        "OPENED": True,
        "HAS": [False, (True,)],
        "UF_CRM_1": True,
        "ufCrm3Flag": [False],
        "uf_crm": {"deep": True},
        "ufo": True,
        "ID": 1,
        "NAME": None,
    }

    copied = with_booleans(fields, ("Y", "N"))

    assert copied == {
        "OPENED": "Y",
        "HAS": ["N", ["Y"]],
        "UF_CRM_1": "1",
        "ufCrm3Flag": ["0"],
        "uf_crm": {"deep": "1"},
        "ufo": "Y",
        "ID": 1,
        "NAME": None,
    }


def test_copying_booleans_leaves_the_original_alone() -> None:
    """A stored row is read again after a crash; it must be what was written."""
    fields = {"OPENED": True, "LIST": [True]}

    with_booleans(fields, ("Y", "N"))

    assert fields == {"OPENED": True, "LIST": [True]}


def test_no_nesting_exhausts_the_stack() -> None:
    """Data that would be refused as too deep is survived by everything that runs before."""
    params = {"f": deep(100_000)}

    copied = with_booleans(params, ("Y", "N"))

    assert isinstance(copied, dict)
    assert not mentions_result(params)
    with pytest.raises(PlanError):
        encode(copied)


@pytest.mark.skipif(shutil.which("php") is None, reason="needs a php interpreter to ask")
@given(st.dictionaries(outer_names, trees, max_size=4))
@settings(deadline=None, max_examples=20)
def test_a_real_php_reads_what_our_reader_reads(params: dict[str, object]) -> None:
    """The reader these tests rely on is itself compared with the original."""
    query = encode(params)
    script = "parse_str(stream_get_contents(STDIN), $t); echo json_encode($t, JSON_FORCE_OBJECT);"

    answer = subprocess.run(  # noqa: S603 - the script is constant, the query goes by stdin
        [shutil.which("php") or "", "-r", script],
        input=query.encode(),
        capture_output=True,
        check=True,
    )

    assert json.loads(answer.stdout) == read(query)
