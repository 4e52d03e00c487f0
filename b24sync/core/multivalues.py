"""Phones, e-mails and the like, said as the values that the portal should end up with.

The portal keeps such a field as rows with ids and appends every row that is sent without one, so
that the same update said twice doubles every value. Said as *values*, a field can be repeated: what
has to be sent follows from the values and from the rows that the portal holds.

=================  ===========================================================================
Field              Values
=================  ===========================================================================
``PHONE`` etc.     ``["+1"]``, ``[{"VALUE": "+1", "VALUE_TYPE": "HOME"}]``, ``"+1"``; ``[]`` clears
``fm``, by type    ``{"PHONE": ["+1", {"value": "+2", "valueType": "HOME"}], "EMAIL": []}``
``fm``, as a list  ``[{"typeId": "PHONE", "value": "+1", "valueType": "HOME"}]``
=================  ===========================================================================

The type of a value may be left out. Of ``fm``, types that are not mentioned stay as they are. What
names rows by itself is the *raw form*, sent as it is written: rows with an ``ID``, an object whose
keys are ids or ``n0``, and a list of ``fm`` that names no types at all.

Source: Bitrix24 REST manual, contact update page (classic rows) and the tutorial on changing e-mail
or phone (universal ``fm``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, zip_longest
from typing import TypeAlias

from b24sync.core import refs
from b24sync.core.errors import PlanError

UNIVERSAL = "fm"
"""The one field of the universal methods that holds the values of every type."""

TYPES = ("PHONE", "EMAIL", "WEB", "IM", "LINK")

_TYPES_READ = "PHONE, EMAIL, WEB, IM or LINK"
_DEFAULT_TYPES = {"IM": "OTHER", "LINK": "OTHER"}
_DEFAULT_TYPE = "WORK"

_NUMBER_BITS = 63

_is_row_key = re.compile(r"n?[0-9]+").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """One row of a multi-value field, as the portal holds it.

    Shape: ``value`` without white space around it.
    """

    id: str
    type_id: str
    value_type: str
    value: str


@dataclass(frozen=True, slots=True)
class _Value:
    """A value that is wanted; without a type of its own, any type will do."""

    text: str
    value_type: str | None


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be done to one row: without an id it is added, without a text deleted."""

    row_id: str | None
    type_id: str
    value_type: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Names:
    """What the parts of a row are called."""

    id: str
    value: str
    value_type: str


_Wanted: TypeAlias = Mapping[str, tuple[_Value, ...]]

_CLASSIC_NAMES = _Names("ID", "VALUE", "VALUE_TYPE")
_UNIVERSAL_NAMES = _Names("id", "value", "valueType")
_TYPE_ID = "typeId"


def is_values(name: str, value: object) -> bool:
    """Whether a multi-value field is said as values; otherwise it is raw.

    Raises: PlanError for what is neither, naming the place and what to write.
    """
    return _read(name, value) is not None


def merged(name: str, earlier: object, later: object) -> object:
    """Values that mean the earlier ones and then the later ones.

    Shape: both in values form, and the answer too. Of ``fm``, the later win type by type. A text
    that the later give without a type keeps the type that the earlier gave it.
    Raises: PlanError for what is not in values form.
    """
    path = _path(name)
    if name != UNIVERSAL:
        return _over(_CLASSIC_NAMES, earlier, later, path)
    before, after = _by_type(earlier), _by_type(later)
    both = {
        type_id: _over(_UNIVERSAL_NAMES, before[type_id], after[type_id], path)
        for type_id in before.keys() & after.keys()
    }
    return {**before, **after, **both}


def for_add(name: str, value: object) -> object:
    """The rows that an add sends for these values; ``None``, the field is to be left out.

    Raises: PlanError for what is not in values form.
    """
    rows = [
        _row(name, _exchange(type_id, None, wanted))
        for type_id, values in _wanted(name, value).items()
        for wanted in values
    ]
    return rows or None


def present(name: str, record: Mapping[str, object]) -> tuple[Present, ...]:
    """The rows that a record which was read from the portal holds in this field.

    Shape: nothing where the field is missing or empty; rows without an id are passed over.
    Raises: nothing.
    """
    found = record.get(name)
    members: Iterable[tuple[str, object]] = ()
    if refs.is_mapping(found):
        members = found.items()
    elif refs.is_list(found):
        members = (("", member) for member in found)
    return tuple(_present(name, members))


def for_update(name: str, value: object, rows: Sequence[Present]) -> object | None:
    """What an update sends so that these rows become the values; ``None``, they are already.

    Shape: rows with ids; of ``fm`` an object by id. Rows that are right are not mentioned, surplus
    ones become missing values of the same type or are deleted.
    Raises: PlanError for what is not in values form.
    """
    changes = [
        change
        for type_id, values in _wanted(name, value).items()
        for change in _changes(type_id, values, [row for row in rows if row.type_id == type_id])
    ]
    if not changes:
        return None
    if name != UNIVERSAL:
        return [_row(name, change) for change in changes]
    fresh = count()
    return {change.row_id or f"n{next(fresh)}": _row(name, change) for change in changes}


def holds(name: str, value: object, rows: Sequence[Present]) -> bool:
    """Whether the rows are exactly what is wanted.

    Raises: PlanError for what is not in values form.
    """
    return for_update(name, value, rows) is None


def _wanted(name: str, value: object) -> _Wanted:
    wanted = _read(name, value)
    if wanted is None:
        raise _bad(_path(name), "names rows; values are needed, without ids and with types")
    return wanted


def _read(name: str, value: object) -> _Wanted | None:
    """The values by type; ``None`` for the raw form."""
    path = _path(name)
    if refs.is_mapping(value) and value and all(map(_is_row_key, value)):
        return None
    if name != UNIVERSAL:
        return None if _has_ids(value) else {name: _values(_CLASSIC_NAMES, value, path)}
    if refs.is_mapping(value):
        return {
            _type_id(key, path): _values(_UNIVERSAL_NAMES, member, _inside(path, key))
            for key, member in value.items()
        }
    if refs.is_list(value):
        return None if _names_no_type(value) else _of_types(value, path)
    raise _bad(path, f'is {_sort(value)}; write {{"PHONE": ["…"]}}, and [] for a type to clear it')


def _has_ids(value: object) -> bool:
    """Whether a list of a classic field tells the portal itself which rows are meant."""
    names = _CLASSIC_NAMES
    return refs.is_list(value) and any(refs.is_mapping(row) and names.id in row for row in value)


def _names_no_type(rows: Sequence[object]) -> bool:
    """Whether a list of ``fm`` consists of rows without a type, to which the portal does nothing."""
    names = {_UNIVERSAL_NAMES.value, _UNIVERSAL_NAMES.value_type}
    return bool(rows) and all(refs.is_mapping(row) and row.keys() <= names for row in rows)


def _type_id(key: str, path: str) -> str:
    if key in TYPES:
        return key
    raise _bad(
        _inside(path, key),
        f"is no type of values; write {_TYPES_READ}, and rows by their ids in an update of their own",
    )


def _of_types(rows: Sequence[object], path: str) -> _Wanted:
    """The values of a list in which each row names its type."""
    found: dict[str, list[_Value]] = {}
    for index, row in enumerate(rows):
        place = f"{path}[{index}]"
        if not refs.is_mapping(row) or _TYPE_ID not in row:
            raise _bad(place, 'names no type; write {"typeId": "PHONE", "value": "…"}')
        type_id = row[_TYPE_ID]
        if type_id not in TYPES:
            raise _bad(f"{place}.{_TYPE_ID}", f"is no type of values; write {_TYPES_READ}")
        rest = {name: part for name, part in row.items() if name != _TYPE_ID}
        found.setdefault(str(type_id), []).append(_value(_UNIVERSAL_NAMES, rest, place))
    return {type_id: _once(values) for type_id, values in found.items()}


def _values(names: _Names, value: object, path: str) -> tuple[_Value, ...]:
    """The values of one type: a list of them, or a text that is the only one."""
    if refs.is_list(value):
        return _once(
            _value(names, member, f"{path}[{index}]") for index, member in enumerate(value)
        )
    if _plain(value) is None:
        raise _bad(path, f'is {_sort(value)}; write a list of values as ["…"], [] to clear')
    return (_value(names, value, path),)


def _value(names: _Names, member: object, path: str) -> _Value:
    if not refs.is_mapping(member):
        return _Value(_text(member, path), None)
    known = (names.value, names.value_type)
    for name in member:
        if name not in known:
            reason = f"is no part of a value; write {' and '.join(known)} only"
            raise _bad(_inside(path, name), reason)
    if names.value not in member:
        raise _bad(f"{path}.{names.value}", "is missing; write the value itself")
    text = _text(member[names.value], f"{path}.{names.value}")
    if names.value_type not in member:
        return _Value(text, None)
    return _Value(text, _text(member[names.value_type], f"{path}.{names.value_type}"))


def _text(value: object, path: str) -> str:
    text = _plain(value)
    if text is None:
        raise _bad(path, f"is {_sort(value)}; write a text")
    if not text:
        raise _bad(path, "is empty; leave it out, and write [] for the whole list to clear it")
    return text


def _plain(value: object) -> str | None:
    """A text, or a whole number as text; ``None`` for anything else."""
    match value:
        case str():
            return value.strip()
        case int() if not isinstance(value, bool) and value.bit_length() <= _NUMBER_BITS:
            return str(value)
        case _:
            return None


def _once(values: Iterable[_Value]) -> tuple[_Value, ...]:
    """Each value once; where it is given with a type and without, with the type."""
    kept: dict[str, _Value] = {}
    for value in values:
        known = kept.get(value.text)
        if known is None or known.value_type is None:
            kept[value.text] = value
    return tuple(kept.values())


def _by_type(value: object) -> Mapping[str, object]:
    """Values of ``fm`` as the object by type."""
    if refs.is_mapping(value):
        return value
    return {
        type_id: [_spelled(_UNIVERSAL_NAMES, value) for value in values]
        for type_id, values in _wanted(UNIVERSAL, value).items()
    }


def _over(names: _Names, earlier: object, later: object, path: str) -> list[object]:
    """The later values of one type, after the earlier ones."""
    former = {value.text: value.value_type for value in _values(names, earlier, path)}
    return [
        _spelled(names, _Value(value.text, value.value_type or former.get(value.text)))
        for value in _values(names, later, path)
    ]


def _spelled(names: _Names, value: _Value) -> object:
    if value.value_type is None:
        return value.text
    return {names.value: value.text, names.value_type: value.value_type}


def _present(name: str, members: Iterable[tuple[str, object]]) -> Iterator[Present]:
    names = _UNIVERSAL_NAMES if name == UNIVERSAL else _CLASSIC_NAMES
    for key, member in members:
        if not refs.is_mapping(member):
            continue
        row_id = _plain(member.get(names.id)) or key
        if row_id:
            yield Present(
                id=row_id,
                type_id=(_plain(member.get(_TYPE_ID)) or "") if name == UNIVERSAL else name,
                value_type=_plain(member.get(names.value_type)) or "",
                value=_plain(member.get(names.value)) or "",
            )


def _changes(type_id: str, values: Iterable[_Value], rows: Sequence[Present]) -> Iterator[_Change]:
    """What turns the rows of one type into its values."""
    holders: dict[str, list[Present]] = {}
    for row in rows:
        holders.setdefault(row.value, []).append(row)
    kept: set[str] = set()
    missing: list[_Value] = []
    for value in values:
        holder = _holder(value, holders.get(value.text, ()))
        if holder is None:
            missing.append(value)
            continue
        kept.add(holder.id)
        if value.value_type not in (None, holder.value_type):
            yield _Change(holder.id, type_id, value.value_type or "", value.text)
    surplus = [row for row in rows if row.id not in kept]
    yield from (_exchange(type_id, *pair) for pair in zip_longest(surplus, missing))


def _holder(value: _Value, rows: Sequence[Present]) -> Present | None:
    """The row that holds a value already; of several, one that has its type too."""
    same_type = (row for row in rows if row.value_type == value.value_type)
    return next(same_type, rows[0] if rows else None)


def _exchange(type_id: str, row: Present | None, value: _Value | None) -> _Change:
    """One row less, one value more, or the one in the place of the other."""
    row_id = row.id if row is not None else None
    if value is None:
        return _Change(row_id, type_id)
    former = row.value_type if row is not None else ""
    return _Change(
        row_id, type_id, value.value_type or former or _default_type(type_id), value.text
    )


def _row(name: str, change: _Change) -> dict[str, object]:
    """A change as the portal reads it; never an id alone, which would delete the row."""
    if name == UNIVERSAL:
        if not change.text:
            return {"typeId": change.type_id, "value": ""}
        return {"typeId": change.type_id, "valueType": change.value_type, "value": change.text}
    own: dict[str, object] = {} if change.row_id is None else {"ID": change.row_id}
    if not change.text:
        return {**own, "DELETE": "Y"}
    return {**own, "VALUE": change.text, "VALUE_TYPE": change.value_type}


def _default_type(type_id: str) -> str:
    return _DEFAULT_TYPES.get(type_id, _DEFAULT_TYPE)


def _sort(value: object) -> str:
    """What people call a JSON value."""
    match value:
        case None:
            return "null"
        case str():
            return "a text"
        case bool():
            return "true or false"
        case list() | tuple():
            return "a list"
        case _ if refs.is_mapping(value):
            return "an object"
        case _:
            return "a number"


def _path(name: str) -> str:
    return _inside("fields", name)


def _inside(path: str, name: str) -> str:
    return f"{path}.{name if name.isprintable() else ascii(name)}"


def _bad(path: str, reason: str) -> PlanError:
    return PlanError("bad_value", path, reason)
