"""A reference is exactly a kind and a key, wherever in a tree it stands."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.errors import PlanError
from b24sync.core.model import Ref
from b24sync.core.refs import find, read, resolve, stored

ACME = {"$ref": {"kind": "company", "key": "acme"}}


def number_of(ref: Ref, _path: str) -> str:
    """Give every entity an id that shows who was asked for."""
    return f"<{ref.kind} {ref.key}>"


def deep(leaf: object, levels: int) -> object:
    """Wrap a value in as many lists."""
    for _ in range(levels):
        leaf = [leaf]
    return leaf


def test_a_reference_is_stored_as_one_marked_object() -> None:
    """Plain SQL can write what the package writes."""
    ref = Ref("company", "acme")

    written = stored(ref)

    assert written == {"$ref": {"kind": "company", "key": "acme"}}


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    .filter(lambda text: len(text) <= 64 and text == text.strip(" "))
    .map(lambda text: Ref(text, text))
)
def test_a_stored_reference_is_read_back(ref: Ref) -> None:
    """Whatever the kind and the key are made of, they survive."""
    read_back = read(stored(ref), "fields.companyId")

    assert read_back == ref


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"$ref": "acme"}, id="a text"),
        pytest.param({"$ref": ["company", "acme"]}, id="a list"),
        pytest.param({"$ref": None}, id="null"),
        pytest.param({"$ref": {}}, id="empty"),
        pytest.param({"$ref": {"kind": "company"}}, id="no key"),
        pytest.param({"$ref": {"key": "acme"}}, id="no kind"),
        pytest.param({"$ref": {"kind": "", "key": "acme"}}, id="empty kind"),
        pytest.param({"$ref": {"kind": "company", "key": ""}}, id="empty key"),
        pytest.param({"$ref": {"kind": "company", "key": 7}}, id="number as key"),
        pytest.param({"$ref": {"kind": 7, "key": "acme"}}, id="number as kind"),
        pytest.param({"$ref": {"kind": "company", "key": "k" * 191}}, id="long key"),
        pytest.param({"$ref": {"kind": "k" * 65, "key": "acme"}}, id="long kind"),
        pytest.param({"$ref": {"kind": "company", "key": "a\0"}}, id="NUL"),
        pytest.param({"$ref": {"kind": "company", "key": "\ud83d"}}, id="half a character"),
        pytest.param({"$ref": {"kind": "company", "key": " acme"}}, id="space before"),
        pytest.param({"$ref": {"kind": "company", "key": "acme "}}, id="space behind"),
        pytest.param({"$ref": {"kind": "company", "key": " "}}, id="nothing but a space"),
        pytest.param({"$ref": {"kind": "company", "key": "a", "id": 1}}, id="more inside"),
        pytest.param({**ACME, "note": "x"}, id="more beside"),
    ],
)
def test_what_is_not_exactly_a_kind_and_a_key_is_refused(value: Mapping[str, object]) -> None:
    """No malformed reference is guessed at, and none that a database could not be asked for."""
    with pytest.raises(PlanError) as refused:
        read(value, "fields.companyId")

    assert (refused.value.code, refused.value.field) == ("bad_reference", "fields.companyId")
    assert '{"$ref": {"kind": "…", "key": "…"}}' in refused.value.reason


def test_references_are_found_at_any_depth_in_reading_order() -> None:
    """Lists, tuples and objects are looked through; texts and numbers are not."""
    value = {
        "b": [{"x": stored(Ref("contact", "1"))}, stored(Ref("contact", "2"))],
        "a": (stored(Ref("deal", "3")), "$ref", 7, None),
    }

    found = list(find(value))

    assert found == [Ref("contact", "1"), Ref("contact", "2"), Ref("deal", "3")]


def test_references_are_replaced_and_all_else_stays() -> None:
    """Only the marked objects change; tuples become the lists that JSON knows."""
    value = {"companyId": ACME, "rows": ({"owner": ACME, "n": 1},), "none": None, "text": "$ref"}

    resolved = resolve(value, number_of)

    assert resolved == {
        "companyId": "<company acme>",
        "rows": [{"owner": "<company acme>", "n": 1}],
        "none": None,
        "text": "$ref",
    }


def test_a_malformed_reference_is_refused_where_it_stands() -> None:
    """The refusal leads to the place, in both directions of the work."""
    value = {"rows": [1, {"owner": {"$ref": 7}}]}

    with pytest.raises(PlanError) as of_resolve:
        resolve(value, number_of, "fields")
    with pytest.raises(PlanError) as of_find:
        list(find(value))

    assert of_resolve.value.field == "fields.rows[1].owner"
    assert of_find.value.field == "rows[1].owner"


def test_a_name_that_cannot_be_shown_is_shown_escaped() -> None:
    """A refusal is stored as text, so it holds no character that a database refuses."""
    value = {"\ud83d\0": {"$ref": 7}}

    with pytest.raises(PlanError) as refused:
        resolve(value, number_of, "fields")

    assert refused.value.field == r"fields.'\ud83d\x00'"


@pytest.mark.parametrize("levels", [127, 5000])
def test_no_depth_exhausts_the_stack(levels: int) -> None:
    """Rows of plain SQL may be nested at will; what no portal reads is not looked into."""
    value = deep(ACME, levels)
    is_seen = levels == 127

    found, resolved = list(find(value)), resolve(value, number_of)

    assert found == ([Ref("company", "acme")] if is_seen else [])
    for _ in range(levels):
        assert isinstance(resolved, list)
        resolved = resolved[0]
    assert resolved == ("<company acme>" if is_seen else ACME)
