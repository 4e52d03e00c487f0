"""What a portal answers is the same as what was said, or it is not."""

from decimal import Decimal
from math import inf, nan

import pytest

from b24sync.core.sameness import holds_file, same

ALIKE = [
    ("100", 100),
    (100, 100.0),
    (100, "100.00"),
    (Decimal("100.0"), "100"),
    ("100.0", "100.00"),
    (0.1, "0.10"),
    (-5, "-5.0"),
    (1e22, "10000000000000000000000"),
    (True, True),
    (True, "Y"),
    (True, "1"),
    (True, 1),
    (False, "N"),
    (False, "0"),
    (False, 0),
    ("Y", True),
    ("N", False),
    ("1", "Y"),
    (0, "N"),
    (None, ""),
    ("", None),
    (None, False),
    (False, []),
    ([], {}),
    ({}, None),
    ([None, ""], False),
    ("  ", None),
    ("Ann", "Ann"),
    (" Ann\n", "Ann"),
    ("a\r\nb", "a\nb"),
    ("2026-01-31", "2026-01-31"),
    ("2026-01-31", "2026-01-31T00:00:00+03:00"),
    ("2026-01-31", "2026-01-31T00:00:00"),
    ("2026-01-31", "2026-01-31T02:00:00+02:00"),
    ("2026-01-31", "2026-01-30T21:00:00+00:00"),
    ("2026-01-31", "2026-01-30T20:00:00-04:00"),
    ("2026-01-31", "2026-01-31T12:00:00+00:00"),
    ("2026-01-31T00:00:00+03:00", "2026-01-31"),
    ("2026-01-31T10:00:00+03:00", "2026-01-31T07:00:00+00:00"),
    ("2026-01-31T10:00:00Z", "2026-01-31T13:00:00+0300"),
    ("2026-01-31T10:00:00.750+03:00", "2026-01-31T10:00:00+03:00"),
    ("2026-01-31 10:00", "2026-01-31T10:00:00"),
    ("2026-01-31T10:00:00", "2026-01-31T10:00:00+03:00"),
    (["1", "2"], [2, 1]),
    ((1, 2), [1, 2]),
    (["a", ""], ["a"]),
    ("5", ["5"]),
    (["5"], 5),
    (True, ["Y"]),
    (False, ["N"]),
    ([], ["", None]),
    (["a", "b"], {"7": "b", "9": "a"}),
    ("a", {"7": "a"}),
    ([["a", "b"], ["c"]], [["c"], ["b", "a"]]),
    ({"a": 1}, {"a": "1", "b": 2}),
    ({"a": None}, {"b": 2}),
    ({"a": None}, {}),
    ({"a": None, "b": ""}, []),
    ({"a": {"b": True}}, {"a": {"b": "Y", "c": 1}}),
    ({"7": "a"}, {"7": "a", "8": "b"}),
    ([{"VALUE": "1"}], [{"ID": "5", "VALUE": "2"}, {"ID": "6", "VALUE": "1"}]),
    ({"VALUE": "1"}, [{"ID": "6", "VALUE": "1"}]),
    ({"VALUE": "1"}, {"6": {"ID": "6", "VALUE": "1"}}),
    (1275, {"value": "1275", "valueId": "9867"}),
    ({"value": "test"}, {"value": "test", "valueId": "9868"}),
    (["a", "b"], [{"value": "b", "valueId": "1"}, {"value": "a", "valueId": "2"}]),
    (["a"], {"value": "a", "valueId": "2"}),
    ({"name": "x", "file": {"fileData": ["a.txt", "SGk="]}}, {"name": "x", "file": 5}),
    ({"file": {"fileData": ["a.txt", "SGk="]}}, {}),
    ("300|EUR", "300|EUR"),
    ("300|EUR", "300.00|EUR"),
    ("D_1", "D_1"),
]

DIFFERENT = [
    (100, "101"),
    (100, "100 EUR"),
    ("007", 7),
    ("+7", 7),
    ("1e3", 1000),
    (nan, nan),
    (inf, inf),
    (Decimal("sNaN"), 1),
    (True, False),
    (True, 2),
    (True, None),
    ("Y", "N"),
    ("N", None),
    (0, None),
    (None, 0),
    ("", "0.00"),
    ([], [0]),
    ({}, {"a": 1}),
    ({}, {"7": 1}),
    ("Ann", "ann"),
    ("Ann", "An n"),
    ("Ann", None),
    ("a\nb", "a b"),
    ("2026-01-31", "2026-01-30"),
    ("2026-01-31", "2026-01-30T00:00:00-10:00"),
    ("2026-01-31", "2026-02-01T00:00:00+03:00"),
    ("2026-01-31", "2026-01-31T18:00:00+00:00"),
    ("2026-01-31", "2026-01-30T09:00:00+00:00"),
    ("2026-01-31", "2026-01-30T23:00:00"),
    ("2026-01-31T10:00:00+03:00", "2026-01-31T10:00:00+02:00"),
    ("2026-01-31T10:00:00+03:00", "2026-01-31T10:00:01+03:00"),
    ("2026-01-31T10:00:00", "2026-01-31T11:00:00+03:00"),
    ("2026-01-31", "31.01.2026"),
    ("2026-13-31", "2026-13-31T00:00:00"),
    ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"),
    (["1", "2"], [1]),
    (["1"], [1, 2]),
    (["1", "1"], ["1", "2"]),
    (["1", "2"], 1),
    ("a", ["a", "b"]),
    (["a", "c"], {"7": "a", "b": "c"}),
    ([["a", "b"]], [["a", "c"]]),
    ({"a": 1}, {"A": 1}),
    ({"a": 1}, {"a": 2, "b": 1}),
    ({"a": 1}, "a"),
    ("a", {"a": 1}),
    ({"7": "a"}, {"8": "a"}),
    ([{"VALUE": "1"}, {"VALUE": "1"}], [{"ID": "6", "VALUE": "1"}]),
    ([{"VALUE": "1"}], [{"ID": "5", "VALUE": "2"}, {"ID": "6", "VALUE": "3"}]),
    (1275, {"value": "1276", "valueId": "9867"}),
    ("300|EUR", "300|USD"),
    ("300|EUR", "301|EUR"),
    ("300|EUR", "300"),
    ("a|EUR", "b|EUR"),
    (object(), "a"),
]


@pytest.mark.parametrize(("wanted", "found"), ALIKE)
def test_a_value_may_come_back_in_another_writing(wanted: object, found: object) -> None:
    """Types, offsets, order and wrapping differ between what is sent and what is answered."""
    assert same(wanted, found)


@pytest.mark.parametrize(("wanted", "found"), DIFFERENT)
def test_another_value_is_another_value(wanted: object, found: object) -> None:
    """What could be a loss is reported."""
    assert not same(wanted, found)


@pytest.mark.parametrize(
    ("wanted", "found", "yes_no", "expected"),
    [
        (True, "yes", ("yes", "no"), True),
        (False, "no", ("yes", "no"), True),
        (True, "no", ("yes", "no"), False),
        (True, "Y", ("yes", "no"), True),
        (True, "N", ("N", "Y"), True),
        (True, "Y", ("N", "Y"), False),
        (True, "1", ("0", "1"), False),
        (True, "yes", ("Y", "N"), False),
    ],
)
def test_a_boolean_is_read_as_its_kind_writes_it(
    *, wanted: bool, found: str, yes_no: tuple[str, str], expected: bool
) -> None:
    """A kind may have words of its own, even such as mean the opposite elsewhere."""
    alike = same(wanted, found, yes_no)

    assert alike is expected


def test_numbers_of_any_length_are_compared_exactly() -> None:
    """Python writes no number of so many digits, and need not."""
    number = 10**5000

    assert same(number, number)
    assert not same(number, number + 1)


def test_a_long_list_may_come_back_in_any_order() -> None:
    """A command holds a thousand values at the most."""
    wanted = list(range(1000))

    assert same(wanted, [str(number) for number in reversed(wanted)])
    assert not same(wanted, [str(number) for number in range(1, 1001)])


def nested(value: object, levels: int) -> object:
    """A value inside that many lists."""
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_nested_deeper_than_can_be_sent_is_different() -> None:
    """Nobody needs to look down there, and no depth exhausts the stack."""
    assert same(nested("a", 60), nested("a", 60))
    assert not same(nested("a", 100_000), nested("a", 100_000))
    assert not same({"a": nested("a", 100_000)}, {"a": nested("a", 100_000)})


@pytest.mark.parametrize(
    "value",
    [
        {"fileData": ["photo.png", "iVBORw0KGgo="]},
        [{"fileData": ["photo.png", "iVBORw0KGgo="]}],
        ["photo.png", "iVBORw0KGgo="],
        [["a.txt", "SGk="], {"id": 5}],
        [{"value": {"fileData": ["photo.png", "iVBORw0KGgo="]}}],
        {"valueId": 7, "remove": "Y"},
        ["a.txt", "SGVs" * 100_000 + "SGk="],
        ["n123", "n67"],
    ],
)
def test_files_are_told_from_other_values(value: object) -> None:
    """In each of the forms in which the manual writes them."""
    assert holds_file(value)


@pytest.mark.parametrize(
    "value",
    [
        "photo.png",
        [],
        ["photo.png"],
        ["a.txt", "not base64!"],
        ["a.txt", 5],
        [5, "SGk="],
        ["red", "blue"],
        ["a", "b", "c"],
        "n123",
        ["N123"],
        {"value": "x"},
        {"value": ["fileData"]},
        None,
        5,
    ],
)
def test_other_values_are_no_files(value: object) -> None:
    """They are compared."""
    assert not holds_file(value)
