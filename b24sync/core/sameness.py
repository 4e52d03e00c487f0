"""Whether two values are the same to a portal, however each is written.

A portal takes the number 100 and answers with the text ``100.00``; it takes a day and answers with
the moment of its midnight; it takes ``null`` and answers with ``false``. What no rule finds the
same is different, and so is all that is nested deeper than can be sent.

Source: Bitrix24 REST manual, "Data Types", the pages on files, and the get page of each method.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TypeAlias

from b24sync.core.encoding import MAX_DEPTH
from b24sync.core.refs import is_list, is_mapping

YesNo: TypeAlias = tuple[str, str]
"""How booleans are written: the text for true, and that for false."""

# Texts of other digits (a postal code with its zero, a phone with its plus) are not numbers.
_is_number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
_is_money = re.compile(r"([^|]*)\|([A-Z]{3})").fullmatch
_is_time = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
).fullmatch
_DATE_LENGTH = len("2026-01-31")

_is_file_name = re.compile(r"[^/\\]+\.[A-Za-z0-9]{1,10}").fullmatch
_is_base64 = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}").fullmatch
_is_disk_file = re.compile(r"n[1-9][0-9]*").fullmatch
_FILE_KEYS = frozenset({"fileData", "remove"})
_BASE64_READ = 64
_FILE_PARTS = 2

_MIDNIGHT = time()
_SECOND = timedelta(seconds=1)
_FIRST_MIDNIGHT = timedelta(hours=-14)
_LAST_MIDNIGHT = timedelta(hours=12)


def same(wanted: object, found: object, yes_no: YesNo = ("Y", "N")) -> bool:
    """Whether a value that was found is the one that was said.

    Shape: an object has at least the members that were said, a list of objects at least the
    objects; any other list has the same members in any order, and a single value is a list of one.
    Raises: nothing.
    """
    return _same(wanted, found, yes_no, MAX_DEPTH)


def holds_file(value: object) -> bool:
    """Whether it is a file or several, of which a portal answers with words of its own.

    Raises: nothing.
    """
    if _is_file(value):
        return True
    return is_list(value) and any(_is_file(one) or _is_disk_id(one) for one in value)


def _same(wanted: object, found: object, yes_no: YesNo, depth: int) -> bool:
    if depth == 0:
        return False
    if _is_empty(wanted) and _is_empty(found):
        return True
    several, found_several = _is_several(wanted), _is_several(found)
    if is_mapping(wanted) and is_mapping(found) and several == found_several:
        return bool(wanted) and all(
            holds_file(value) or _same(value, found.get(name), yes_no, depth - 1)
            for name, value in wanted.items()
        )
    # The value of a property of the catalog comes back beside an id of its own.
    if is_mapping(found) and "value" in found:
        return _same(wanted, found["value"], yes_no, depth - 1)
    if several or found_several:
        return _same_members(_members(wanted), _members(found), yes_no, depth - 1)
    return (
        _same_text(wanted, found)
        or _same_number(wanted, found)
        or _same_truth(wanted, found, yes_no)
        or _same_time(wanted, found)
        or _same_money(wanted, found)
    )


def _same_members(wanted: list[object], found: list[object], yes_no: YesNo, depth: int) -> bool:
    """Say whether each wanted member has a found one for itself.

    Found objects may be left over: those that a change does not mention stay.
    """
    if len(wanted) != len(found) and not any(is_mapping(member) for member in wanted):
        return False
    left = sorted(found, key=_place)
    for member in sorted(wanted, key=_place):
        places = (at for at, one in enumerate(left) if _same(member, one, yes_no, depth))
        place = next(places, None)
        if place is None:
            return False
        del left[place]
    return True


def _place(value: object) -> tuple[Decimal, str]:
    """Give an order in which equal members of two long lists stand at about the same place."""
    number = _number(value)
    if number is not None:
        return number, ""
    return Decimal(0), value.strip() if isinstance(value, str) else ""


def _is_several(value: object) -> bool:
    """Say whether it is a list, or what PHP makes of one: an object with numbers for names."""
    if is_mapping(value):
        return bool(value) and all(name.isdecimal() for name in value)
    return is_list(value)


def _members(value: object) -> list[object]:
    """Give the members of a list without those that say nothing; a single value is its own."""
    members: Iterable[object] = (value,)
    if is_list(value):
        members = value
    elif is_mapping(value) and _is_several(value):
        members = value.values()
    return [member for member in members if not _is_blank(member)]


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or ((is_list(value) or is_mapping(value)) and not value)


def _is_empty(value: object) -> bool:
    """Say whether it is one of the ways to write nothing; zero is a value."""
    if is_list(value):
        return all(_is_blank(member) for member in value)
    if is_mapping(value):
        return all(_is_blank(member) for member in value.values())
    return value is False or _is_blank(value)


def _is_file(value: object) -> bool:
    if is_mapping(value):
        inner = value.get("value")
        return not _FILE_KEYS.isdisjoint(value) or (is_mapping(inner) and "fileData" in inner)
    if not is_list(value) or len(value) != _FILE_PARTS:
        return False
    name, content = value
    return (
        isinstance(name, str)
        and isinstance(content, str)
        and _is_file_name(name) is not None
        and _is_base64(content[:_BASE64_READ]) is not None
    )


def _is_disk_id(value: object) -> bool:
    return isinstance(value, str) and _is_disk_file(value) is not None


def _same_text(wanted: object, found: object) -> bool:
    if not isinstance(wanted, str) or not isinstance(found, str):
        return False
    return wanted.strip().replace("\r\n", "\n") == found.strip().replace("\r\n", "\n")


def _same_number(wanted: object, found: object) -> bool:
    number = _number(wanted)
    return number is not None and number == _number(found)


def _number(value: object) -> Decimal | None:
    match value:
        case bool():
            return None
        case int():
            return Decimal(value)
        case float() | Decimal():
            number = Decimal(float.__repr__(value)) if isinstance(value, float) else value
            return number if number.is_finite() else None
        case str():
            text = value.strip()
            return Decimal(text) if _is_number(text) else None
        case _:
            return None


def _same_truth(wanted: object, found: object, yes_no: YesNo) -> bool:
    truth = _truth(wanted, yes_no)
    return truth is not None and truth == _truth(found, yes_no)


def _truth(value: object, yes_no: YesNo) -> bool | None:
    """Read a boolean as its kind writes it, else as ``Y`` and ``N`` or 1 and 0."""
    if isinstance(value, bool):
        return value
    for yes, no in (yes_no, ("Y", "N")):
        if value in (yes, no):
            return value == yes
    number = _number(value)
    return number == 1 if number in (Decimal(0), Decimal(1)) else None


def _same_time(wanted: object, found: object) -> bool:
    match _moment(wanted), _moment(found):
        case (datetime() as said, datetime() as kept):
            return _same_instant(said, kept)
        case (datetime() as moment, date() as day) | (date() as day, datetime() as moment):
            return _is_day(moment, day)
        case (date() as said, date() as kept):
            return said == kept
        case _:
            return False


def _moment(value: object) -> date | datetime | None:
    text = value.strip() if isinstance(value, str) else ""
    if not _is_time(text):
        return None
    try:
        if len(text) == _DATE_LENGTH:
            return date.fromisoformat(text)
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _same_instant(wanted: datetime, found: datetime) -> bool:
    """Compare instants; without an offset, what the clocks show. Fractions of seconds are lost."""
    if wanted.tzinfo is None or found.tzinfo is None:
        wanted, found = wanted.replace(tzinfo=None), found.replace(tzinfo=None)
    return abs(wanted - found) < _SECOND


def _is_day(moment: datetime, day: date) -> bool:
    """Say whether a moment is what a portal makes of a day: midnight, here or elsewhere."""
    shown = moment.replace(tzinfo=None)
    offset = moment.utcoffset()
    if offset is None or shown.time() == _MIDNIGHT:
        return shown.date() == day
    return _FIRST_MIDNIGHT <= shown - datetime.combine(day, _MIDNIGHT) - offset <= _LAST_MIDNIGHT


def _same_money(wanted: object, found: object) -> bool:
    if not isinstance(wanted, str) or not isinstance(found, str):
        return False
    said, kept = _is_money(wanted.strip()), _is_money(found.strip())
    if said is None or kept is None:
        return False
    return said[2] == kept[2] and _same_number(said[1], kept[1])
