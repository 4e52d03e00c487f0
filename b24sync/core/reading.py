"""Plain mappings, lists and values of a setting, each read as what it must be.

Every reader takes the place at which it reads, as ``kinds.stock.add``, and refuses with it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeGuard, TypeVar

from b24sync.core.errors import SettingsError

_Choice = TypeVar("_Choice", bound=StrEnum)


def known(where: str, value: object, keys: tuple[str, ...]) -> Mapping[str, object]:
    """A mapping that has none but these keys.

    Raises: SettingsError.
    """
    if not _is_mapping(value):
        raise SettingsError(where, f"must be a mapping of {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise SettingsError(f"{where}.{key}", f"is not known; choose from {', '.join(keys)}")
    return {str(key): inner for key, inner in value.items()}


def text(where: str, given: Mapping[str, object], key: str) -> str:
    """The text under a key.

    Raises: SettingsError if there is none, or an empty one.
    """
    match given.get(key):
        case str(found) if found:
            return found
        case _:
            raise SettingsError(f"{where}.{key}", "must be a text that is not empty")


def text_or_none(where: str, given: Mapping[str, object], key: str) -> str | None:
    """The text under a key, ``None`` if it is left out or null.

    Raises: SettingsError.
    """
    return None if given.get(key) is None else text(where, given, key)


def flag(where: str, given: Mapping[str, object], key: str, *, default: bool) -> bool:
    """The boolean under a key.

    Raises: SettingsError.
    """
    match given.get(key, default):
        case bool(found):
            return found
        case _:
            raise SettingsError(f"{where}.{key}", "must be true or false")


def choice(where: str, given: Mapping[str, object], key: str, default: _Choice) -> _Choice:
    """The word under a key, one of those of the default's enumeration.

    Raises: SettingsError.
    """
    words = type(default)
    found = given.get(key, default)
    for word in words:
        if found == word:
            return word
    raise SettingsError(f"{where}.{key}", f"must be one of {', '.join(words)}")


def names(where: str, given: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The list of texts under a key; left out, it is empty.

    Raises: SettingsError.
    """
    where = f"{where}.{key}"
    found = items(where, given.get(key, ()))
    return tuple(
        text(where, {f"{position}": name}, f"{position}") for position, name in enumerate(found)
    )


def texts(where: str, given: Mapping[str, object], key: str) -> Mapping[str, str]:
    """The mapping of names to texts under a key; left out, it is empty.

    Raises: SettingsError.
    """
    value = given.get(key, {})
    if not _is_mapping(value):
        raise SettingsError(f"{where}.{key}", "must be a mapping of names to texts")
    inner = {str(name): found for name, found in value.items()}
    return {name: text(f"{where}.{key}", inner, name) for name in inner}


def items(where: str, value: object) -> tuple[object, ...]:
    """A list.

    Raises: SettingsError.
    """
    if not _is_list(value):
        raise SettingsError(where, "must be a list")
    return tuple(value)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    return isinstance(value, list | tuple)
