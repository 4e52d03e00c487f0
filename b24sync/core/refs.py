"""References between entities, as they stand in a stored row.

In the outbox a reference is the JSON object ``{"$ref": {"kind": "company", "key": "acme"}}``, so
that plain SQL can write one too. This module finds references in a tree and puts remote ids in
their place.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import TypeGuard

from b24sync.core.errors import PlanError
from b24sync.core.model import Ref

MARK = "$ref"

_LEAVES = frozenset({str, int, float, bool, type(None), Decimal})

KIND_LENGTH = 64
KEY_LENGTH = 190

_DEEPEST = 128
"""Deeper than any portal reads. What lies below is left as it is, and refused when encoded."""

_is_storable = re.compile(r"(?! )[^\0\ud800-\udfff]+(?<! )").fullmatch


def stored(ref: Ref) -> dict[str, object]:
    """The JSON object that stands for a reference."""
    return {MARK: {"kind": ref.kind, "key": ref.key}}


def is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether a decoded JSON value is an object; its keys are text by the nature of JSON."""
    # The sort that JSON is decoded to is told apart first: the other question is a slow one.
    return isinstance(value, dict | Mapping)


def is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Whether a decoded JSON value is a list."""
    return isinstance(value, list | tuple)


def is_flat(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether a decoded JSON value is an object of plain values, as most changes are.

    A short cut for those who would look into each part: there is no reference in it.
    """
    return is_mapping(value) and _LEAVES.issuperset(map(type, value.values())) and MARK not in value


def read(value: Mapping[str, object], path: str) -> Ref:
    """The reference that an object with the mark spells.

    Raises: PlanError if it is not exactly a kind and a key, or one that no entity can have.
    """
    inner = value[MARK]
    if len(value) == 1 and is_mapping(inner) and set(inner) == {"kind", "key"}:
        kind, key = inner["kind"], inner["key"]
        if _is_name(kind, KIND_LENGTH) and _is_name(key, KEY_LENGTH):
            return Ref(kind, key)
    raise PlanError(
        "bad_reference", path, 'a reference is {"$ref": {"kind": "…", "key": "…"}} and nothing else'
    )


def _is_name(value: object, length: int) -> TypeGuard[str]:
    """Whether a row can have it: no NUL, no half characters, no space around it."""
    return isinstance(value, str) and len(value) <= length and _is_storable(value) is not None


def find(value: object, path: str = "") -> Iterator[Ref]:
    """Every reference inside a value, in reading order.

    Raises: PlanError for a malformed one.
    """
    return iter(()) if is_flat(value) else _find(value, path, _DEEPEST)


def _find(value: object, path: str, depth: int) -> Iterator[Ref]:
    if depth == 0:
        return
    if is_mapping(value):
        if MARK in value:
            yield read(value, path)
            return
        for key, nested in value.items():
            yield from _find(nested, _inside(path, key), depth - 1)
    elif is_list(value):
        for index, nested in enumerate(value):
            yield from _find(nested, f"{path}[{index}]", depth - 1)


def resolve(value: object, remote_id: Callable[[Ref, str], str], path: str = "") -> object:
    """The same value with every reference replaced by what ``remote_id`` says of it and its place.

    Raises: whatever ``remote_id`` raises, and PlanError for a malformed reference.
    """
    return value if is_flat(value) else _resolve(value, remote_id, path, _DEEPEST)


def _resolve(value: object, remote_id: Callable[[Ref, str], str], path: str, depth: int) -> object:
    if depth == 0:
        return value
    if is_mapping(value):
        if MARK in value:
            return remote_id(read(value, path), path)
        return {
            key: _resolve(nested, remote_id, _inside(path, key), depth - 1)
            for key, nested in value.items()
        }
    if is_list(value):
        return [
            _resolve(nested, remote_id, f"{path}[{index}]", depth - 1)
            for index, nested in enumerate(value)
        ]
    return value


def _inside(path: str, key: str) -> str:
    shown = key if key.isprintable() else ascii(key)
    return f"{path}.{shown}" if path else shown
