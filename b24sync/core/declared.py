"""Kinds that the settings declare, read from plain mappings, lists and values.

Everything is checked, and what is wrong is named by its place, as ``kinds.stock.add.id_path``.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeGuard

from b24sync.core.errors import SettingsError
from b24sync.core.kinds import Kind, Marker, Method

_METHOD_KEYS = (
    "name",
    "fields_param",
    "id_param",
    "fixed",
    "required",
    "param_names",
    "required_fields",
    "id_path",
)
_MARKER_KEYS = ("key_field", "origin_field", "in_params")
_KIND_KEYS = (
    "add",
    "update",
    "delete",
    "list",
    "list_path",
    "marker",
    "linked",
    "replaces",
    "whole",
    "yes_no",
    "multi_fields",
    "gone",
)


def declared_kinds(setting: Mapping[str, object]) -> Mapping[str, Kind]:
    """Read the kinds that the settings declare as plain mappings, lists and values.

    Shape: kind name to kind, in the order of the setting.
    Raises: SettingsError, naming the place as ``kinds.stock.add.id_path``.
    """
    return MappingProxyType(
        {name: _kind(name, f"kinds.{name}", value) for name, value in setting.items()}
    )


def _kind(name: str, where: str, value: object) -> Kind:
    given = _known(where, value, _KIND_KEYS)
    if not name:
        raise SettingsError("kinds", "a kind has an empty name; give it one")
    kind = Kind(
        name=name,
        add=_method(where, given, "add"),
        update=_method(where, given, "update"),
        delete=_method(where, given, "delete"),
        list=_method(where, given, "list"),
        list_path=_names(where, given, "list_path"),
        marker=_marker(where, given),
        linked=_flag(where, given, "linked", default=True),
        replaces=_flag(where, given, "replaces", default=False),
        whole=_flag(where, given, "whole", default=False),
        yes_no=_yes_no(where, given),
        multi_fields=frozenset(_names(where, given, "multi_fields")),
        gone=_gone(where, given),
    )
    _refuse_contradictions(where, kind)
    return kind


def _refuse_contradictions(where: str, kind: Kind) -> None:
    if kind.add is None and kind.update is None and kind.delete is None:
        raise SettingsError(where, "does nothing; give it add, update or delete")
    if kind.linked:
        _refuse_lost_ids(where, kind)
    if kind.marker is not None and kind.list is None:
        raise SettingsError(
            f"{where}.list", "is missing; a marker is of use only where records can be listed"
        )
    if kind.marker is not None and kind.list is not None and kind.list.id_path is None:
        raise SettingsError(
            f"{where}.list.id_path", "is missing; say where the id stands in a listed record"
        )


def _refuse_lost_ids(where: str, kind: Kind) -> None:
    if kind.replaces:
        raise SettingsError(
            f"{where}.replaces", "needs linked to be false: what is replaced has no id of its own"
        )
    if kind.add is not None and kind.add.id_path is None:
        raise SettingsError(
            f"{where}.add.id_path",
            "is missing; name the keys that lead to the new id in the answer, [] if the answer"
            " itself is the id, or set linked to false",
        )
    for verb, method in (("update", kind.update), ("delete", kind.delete)):
        if method is not None and method.id_param is None:
            raise SettingsError(
                f"{where}.{verb}.id_param",
                "is missing; name the parameter that takes the id, or set linked to false",
            )


def _method(where: str, given: Mapping[str, object], key: str) -> Method | None:
    if given.get(key) is None:
        return None
    where = f"{where}.{key}"
    inner = _known(where, given[key], _METHOD_KEYS)
    id_path = None if inner.get("id_path") is None else _names(where, inner, "id_path")
    return Method(
        name=_text(where, inner, "name"),
        fields_param=_text_or_none(where, {"fields_param": "fields", **inner}, "fields_param"),
        id_param=_text_or_none(where, inner, "id_param"),
        fixed=_texts(where, inner, "fixed"),
        required=_names(where, inner, "required"),
        param_names=_texts(where, inner, "param_names"),
        required_fields=_names(where, inner, "required_fields"),
        id_path=id_path,
    )


def _marker(where: str, given: Mapping[str, object]) -> Marker | None:
    if given.get("marker") is None:
        return None
    where = f"{where}.marker"
    inner = _known(where, given["marker"], _MARKER_KEYS)
    return Marker(
        key_field=_text(where, inner, "key_field"),
        origin_field=_text_or_none(where, inner, "origin_field"),
        in_params=_flag(where, inner, "in_params", default=False),
    )


def _gone(where: str, given: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    where = f"{where}.gone"
    return tuple(
        _gone_pair(f"{where}[{position}]", pair)
        for position, pair in enumerate(_items(where, given.get("gone", ())))
    )


def _gone_pair(where: str, value: object) -> tuple[str, str]:
    match _items(where, value):
        case (str(code), str(pattern)) if code or pattern:
            _refuse_bad_pattern(where, pattern)
            return (code, pattern)
        case _:
            raise SettingsError(
                where,
                "must be an error code and a pattern of its text, of which one may be empty",
            )


def _refuse_bad_pattern(where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SettingsError(
            where, f"the pattern is no regular expression ({error}); correct it"
        ) from error


def _yes_no(where: str, given: Mapping[str, object]) -> tuple[str, str]:
    match _items(f"{where}.yes_no", given.get("yes_no", ("Y", "N"))):
        case (str(yes), str(no)) if yes != no:
            return (yes, no)
        case _:
            raise SettingsError(
                f"{where}.yes_no", "must be two different texts, for true and for false"
            )


def _known(where: str, value: object, keys: tuple[str, ...]) -> Mapping[str, object]:
    if not _is_mapping(value):
        raise SettingsError(where, f"must be a mapping of {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise SettingsError(f"{where}.{key}", f"is not known; choose from {', '.join(keys)}")
    return {str(key): inner for key, inner in value.items()}


def _text(where: str, given: Mapping[str, object], key: str) -> str:
    match given.get(key):
        case str(text) if text:
            return text
        case _:
            raise SettingsError(f"{where}.{key}", "must be a text that is not empty")


def _text_or_none(where: str, given: Mapping[str, object], key: str) -> str | None:
    return None if given.get(key) is None else _text(where, given, key)


def _flag(where: str, given: Mapping[str, object], key: str, *, default: bool) -> bool:
    match given.get(key, default):
        case bool(flag):
            return flag
        case _:
            raise SettingsError(f"{where}.{key}", "must be true or false")


def _names(where: str, given: Mapping[str, object], key: str) -> tuple[str, ...]:
    where = f"{where}.{key}"
    names = _items(where, given.get(key, ()))
    return tuple(
        _text(where, {f"{position}": name}, f"{position}") for position, name in enumerate(names)
    )


def _texts(where: str, given: Mapping[str, object], key: str) -> Mapping[str, str]:
    value = given.get(key, {})
    if not _is_mapping(value):
        raise SettingsError(f"{where}.{key}", "must be a mapping of names to texts")
    inner = {str(name): text for name, text in value.items()}
    return {name: _text(f"{where}.{key}", inner, name) for name in inner}


def _items(where: str, value: object) -> tuple[object, ...]:
    if not _is_list(value):
        raise SettingsError(where, "must be a list")
    return tuple(value)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    return isinstance(value, list | tuple)
