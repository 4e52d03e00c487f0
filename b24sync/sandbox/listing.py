"""List methods: filter, order, page.

Source: manual, "Features of list methods" and crm.item.list; prefixes of filter keys.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from b24sync.sandbox.store import Table
from b24sync.sandbox.values import Record, Value, mapping, members, number, text

PAGE = 50
_PREFIXES = ("!=%", "!%", "!@", "!=", ">=", "<=", "=%", "%=", "=", "!", ">", "<", "@", "%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of records."""

    rows: list[Record]
    total: int
    next: int | None
    counted: bool
    """False for start=-1: total is 0 and next is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One entry of a filter."""

    field: str
    """Stored name."""
    prefix: str
    wanted: tuple[str, ...]


def conditions(sent: Value, stored_name: Callable[[str], str]) -> list[Condition]:
    """The entries of a filter, prefixes split off. Raises: nothing."""
    found: list[Condition] = []
    for key, value in mapping(sent).items():
        prefix = next((p for p in _PREFIXES if key.startswith(p)), "")
        name = stored_name(key[len(prefix) :])
        found.append(Condition(field=name, prefix=prefix, wanted=tuple(map(text, members(value)))))
    return found


def page(
    table: Table, wanted: list[Condition], *, order: Value, start: Value, name: Callable[[str], str]
) -> Page:
    """The page of a table that a list method asks for.

    Shape: at most 50 rows; ordered by id unless told otherwise.
    Raises: nothing.
    """
    begin = number(start) or 0
    found = [row for row in _candidates(table, wanted) if all(_holds(c, row) for c in wanted)]
    for key, direction in reversed(mapping(order).items()):
        field = name(key)
        found.sort(key=_by(field), reverse=_descending(direction))
    if begin < 0:
        return Page(rows=found[:PAGE], total=0, next=None, counted=False)
    following = begin + PAGE if begin + PAGE < len(found) else None
    rows = found[begin : begin + PAGE]
    return Page(rows=rows, total=len(found), next=following, counted=True)


def _by(field: str) -> Callable[[Record], tuple[int, float, str]]:
    def key(row: Record) -> tuple[int, float, str]:
        return _rank(row.get(field))

    return key


def _descending(direction: Value) -> bool:
    return text(direction).lower() == "desc"


def _candidates(table: Table, wanted: list[Condition]) -> Iterable[Record]:
    for condition in wanted:
        if condition.prefix in {"=", ""} and len(condition.wanted) == 1:
            found = table.candidates(condition.field, condition.wanted[0])
            if found is not None:
                return found
    return table.rows.values()


def _holds(condition: Condition, row: Record) -> bool:
    value = row.get(condition.field)
    have = [text(v) for v in members(value)] if isinstance(value, list | dict) else [text(value)]
    match condition.prefix:
        case "" | "=" | "@":
            return any(h in condition.wanted for h in have or [""])
        case "!" | "!=" | "!@":
            return not any(h in condition.wanted for h in have or [""])
        case "%" | "=%" | "%=":
            return any(_like(h, w) for h in have for w in condition.wanted)
        case "!%" | "!=%":
            return not any(_like(h, w) for h in have for w in condition.wanted)
        case _:
            return any(_compares(condition.prefix, h, w) for h in have for w in condition.wanted)


def _like(have: str, wanted: str) -> bool:
    return wanted.strip("%").lower() in have.lower()


def _compares(prefix: str, have: str, wanted: str) -> bool:
    left, right = _rank(have), _rank(wanted)
    match prefix:
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "<":
            return left < right
        case _:
            return left <= right


def _rank(value: Value) -> tuple[int, float, str]:
    shown = text(value)
    as_number = _float(shown)
    return (1, 0.0, shown.lower()) if as_number is None else (0, as_number, "")


def _float(shown: str) -> float | None:
    if not shown or not (shown[0].isdigit() or shown[0] in "+-."):
        return None
    try:
        return float(shown)
    except ValueError:
        return None
