"""Pages that end where nothing can be lost, keys that come back as they were, rows as changes."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.backfilling import (
    Recipe,
    left_ms,
    next_size,
    page_end,
    read_key,
    said,
    stored_key,
)
from b24sync.core.errors import BackfillError, ChangeError
from b24sync.core.model import Change, Ref

WHOLE = (
    st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.uuids()
)


@given(st.lists(WHOLE, min_size=1).map(tuple))
def test_a_key_comes_back_as_it_was(key: tuple[object, ...]) -> None:
    """Whatever sort it is of: what is greater is asked of the database, of the very same value."""
    again = read_key(stored_key(key))

    assert again == key
    assert [type(part) for part in again or ()] == [type(part) for part in key]


def test_keys_are_stored_as_texts_with_their_sort() -> None:
    """So that a document of any database holds them exactly."""
    at = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
    mark = UUID(int=7)

    assert stored_key((2**70, "ä", Decimal("1.10"), at, date(2026, 3, 1), mark)) == [
        ["int", "1180591620717411303424"],
        ["str", "ä"],
        ["decimal", "1.10"],
        ["datetime", "2026-03-01T12:00:00.000005+00:00"],
        ["date", "2026-03-01"],
        ["uuid", "00000000-0000-0000-0000-000000000007"],
    ]
    assert read_key(None) is None


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        (None, "the key holds NULL"),
        (True, "the key holds a bool"),
        (1.5, "the key holds a float"),
        (b"k", "the key holds a bytes"),
        (Decimal("NaN"), "the key holds a Decimal"),
    ],
)
def test_what_cannot_be_gone_on_behind_is_no_key(part: object, complaint: str) -> None:
    """A rounded number would pass rows over, or bring them twice."""
    with pytest.raises(BackfillError, match=complaint):
        stored_key((1, part))


@pytest.mark.parametrize("stored", ["7", [], {}, [["int"]], [["float", "1.5"]], [7]])
def test_another_document_is_no_key(stored: object) -> None:
    """Nobody guesses where a back-fill stands."""
    with pytest.raises(BackfillError, match="is not a"):
        read_key(stored)


@pytest.mark.parametrize(
    ("keys", "limit", "expected"),
    [
        ([], 3, 0),
        ([1, 2], 3, 2),
        ([1, 2, 3], 3, 3),
        ([1, 2, 3, 4], 3, 3),
        (["a", "b", "B", "c"], 3, 3),
        (["a", "b", "c", "C"], 3, 2),
        (["a", "é", "e", "E"], 3, 1),
        (["a", "c", "c ", "C"], 3, 1),
        (["e", "é", "E", "e "], 3, 0),
        (["a", "A"], 3, 2),
        (["a-b", "a b", "ab", "AB"], 3, 0),
        ([1, 1, 1, 1], 3, 0),
    ],
)
def test_a_page_never_ends_between_keys_that_may_be_alike(
    keys: list[object], limit: int, expected: int
) -> None:
    """Behind one of them, a database passes all of them over."""
    assert page_end([(key,) for key in keys], limit) == expected


def test_keys_of_several_columns_are_alike_if_all_are() -> None:
    """A page may end inside the rows of one hall."""
    assert page_end([("a", 1), ("A", 1), ("A", 2)], 2) == 2
    assert page_end([("a", 1), ("A", 2), ("a", 2)], 2) == 1


def test_a_page_with_a_lock_is_tried_in_parts_and_grows_again() -> None:
    """Down to the one row that is being changed, and never beyond what was asked for."""
    assert [next_size(size, 500, locked=True) for size in (500, 62, 7, 1)] == [62, 7, 1, 1]
    assert [next_size(size, 500, locked=False) for size in (1, 62, 400, 500)] == [2, 124, 500, 500]


@pytest.mark.parametrize(
    ("done", "total", "spent_ms", "expected"),
    [
        (100, 1000, 500, 4500),
        (1000, 1000, 500, 0),
        (1200, 1000, 500, 0),
        (0, 1000, 500, None),
        (100, None, 500, None),
        (100, 1000, 0, None),
    ],
)
def test_what_is_left_goes_at_the_pace_so_far(
    done: int, total: int | None, spent_ms: float, expected: int | None
) -> None:
    """Where there is a pace, and an end."""
    assert left_ms(done, total, spent_ms) == expected


ROW = {"id": 7, "country": "de", "name": "Ann", "firm": "acme", "boss": None}


def test_every_column_but_the_key_is_a_field_under_its_own_name() -> None:
    """As `load` has it."""
    assert said(Recipe(key="id"), "contact", "p", ROW) == Change(
        "contact",
        "7",
        "upsert",
        {"country": "de", "name": "Ann", "firm": "acme", "boss": None},
        portal="p",
    )


def test_a_recipe_names_fields_references_and_constants() -> None:
    """And then nothing else is sent; who has no boss refers to nobody."""
    recipe = Recipe(
        key="{country}-{id}",
        operation="add",
        fields={"name": "name"},
        references={"companyId": ("company", "firm"), "assignedById": ("user", "boss")},
        constants={"sourceId": "SHOP"},
    )

    assert said(recipe, "contact", "p", ROW) == Change(
        "contact",
        "de-7",
        "add",
        {
            "sourceId": "SHOP",
            "name": "Ann",
            "companyId": Ref("company", "acme"),
            "assignedById": None,
        },
        portal="p",
    )
    assert recipe.columns == ("country", "id", "name", "firm", "boss")


def test_a_template_is_no_column_that_could_be_left_out() -> None:
    """Its columns may be fields as well."""
    change = said(Recipe(key="c-{id}"), "contact", "p", {"id": 7, "name": "Ann"})

    assert (change.key, change.fields) == ("c-7", {"id": 7, "name": "Ann"})


def test_a_row_without_a_key_is_no_change() -> None:
    """Two such rows would be one entity, None."""
    with pytest.raises(ChangeError, match="contact: key: is NULL in this row"):
        said(Recipe(key="{id}-{boss}"), "contact", "p", ROW)


@pytest.mark.parametrize("key", ["{", "{}", "{0}", "a{id.x}", "{id!r:>{n"])
def test_a_template_that_is_none_is_refused(key: str) -> None:
    """Before a row is read."""
    with pytest.raises(BackfillError, match="the key"):
        _ = Recipe(key=key).columns
