"""Kinds that the settings declare, read from plain mappings, lists and values.

Everything is checked, and what is wrong is named by its place, as ``kinds.stock.add.id_path``.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from b24sync.core import reading
from b24sync.core.errors import SettingsError
from b24sync.core.kinds import Kind, Marker, Method, Names

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
    "get",
    "record_path",
    "record_names",
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
    given = reading.known(where, value, _KIND_KEYS)
    if not name:
        raise SettingsError("kinds", "a kind has an empty name; give it one")
    kind = Kind(
        name=name,
        add=_method(where, given, "add"),
        update=_method(where, given, "update"),
        delete=_method(where, given, "delete"),
        list=_method(where, given, "list"),
        list_path=reading.names(where, given, "list_path"),
        get=_method(where, given, "get", fields_param=None),
        record_path=reading.names(where, given, "record_path"),
        record_names=reading.choice(where, given, "record_names", Names.SAME),
        marker=_marker(where, given),
        linked=reading.flag(where, given, "linked", default=True),
        replaces=reading.flag(where, given, "replaces", default=False),
        whole=reading.flag(where, given, "whole", default=False),
        yes_no=_yes_no(where, given),
        multi_fields=frozenset(reading.names(where, given, "multi_fields")),
        gone=_gone(where, given),
    )
    _refuse_contradictions(where, kind)
    return kind


def _refuse_contradictions(where: str, kind: Kind) -> None:
    if kind.add is None and kind.update is None and kind.delete is None:
        raise SettingsError(where, "does nothing; give it add, update or delete")
    if kind.linked:
        _refuse_lost_ids(where, kind)
    if kind.get is not None and kind.get.id_param is None:
        raise SettingsError(
            f"{where}.get.id_param", "is missing; name the parameter that takes the id"
        )
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


def _method(
    where: str, given: Mapping[str, object], key: str, *, fields_param: str | None = "fields"
) -> Method | None:
    if given.get(key) is None:
        return None
    where = f"{where}.{key}"
    inner = reading.known(where, given[key], _METHOD_KEYS)
    id_path = None if inner.get("id_path") is None else reading.names(where, inner, "id_path")
    return Method(
        name=reading.text(where, inner, "name"),
        fields_param=reading.text_or_none(
            where, {"fields_param": fields_param, **inner}, "fields_param"
        ),
        id_param=reading.text_or_none(where, inner, "id_param"),
        fixed=reading.texts(where, inner, "fixed"),
        required=reading.names(where, inner, "required"),
        param_names=reading.texts(where, inner, "param_names"),
        required_fields=reading.names(where, inner, "required_fields"),
        id_path=id_path,
    )


def _marker(where: str, given: Mapping[str, object]) -> Marker | None:
    if given.get("marker") is None:
        return None
    where = f"{where}.marker"
    inner = reading.known(where, given["marker"], _MARKER_KEYS)
    return Marker(
        key_field=reading.text(where, inner, "key_field"),
        origin_field=reading.text_or_none(where, inner, "origin_field"),
        in_params=reading.flag(where, inner, "in_params", default=False),
    )


def _gone(where: str, given: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    where = f"{where}.gone"
    return tuple(
        _gone_pair(f"{where}[{position}]", pair)
        for position, pair in enumerate(reading.items(where, given.get("gone", ())))
    )


def _gone_pair(where: str, value: object) -> tuple[str, str]:
    match reading.items(where, value):
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
    match reading.items(f"{where}.yes_no", given.get("yes_no", ("Y", "N"))):
        case (str(yes), str(no)) if yes != no:
            return (yes, no)
        case _:
            raise SettingsError(
                f"{where}.yes_no", "must be two different texts, for true and for false"
            )
