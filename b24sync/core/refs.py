"""References between entities, as they stand in a stored row.

In the outbox a reference is the JSON object ``{"$ref": {"kind": "company", "key": "acme"}}``, so
that plain SQL can write one too. This module finds references in a tree and puts remote ids in
their place.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard

from b24sync.core.errors import PlanError
from b24sync.core.model import Ref

MARK = "$ref"


def stored(ref: Ref) -> dict[str, object]:
    """The JSON object that stands for a reference."""
    return {MARK: {"kind": ref.kind, "key": ref.key}}


def is_mapping(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether a decoded JSON value is an object; its keys are text by the nature of JSON."""
    return isinstance(value, Mapping)


def is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Whether a decoded JSON value is a list."""
    return isinstance(value, list | tuple)


def read(value: Mapping[str, object], path: str) -> Ref:
    """The reference that an object with the mark spells.

    Raises: PlanError if it is not exactly a kind and a key.
    """
    inner = value[MARK]
    if len(value) == 1 and is_mapping(inner) and set(inner) == {"kind", "key"}:
        kind, key = inner["kind"], inner["key"]
        if isinstance(kind, str) and isinstance(key, str) and kind and key:
            return Ref(kind, key)
    raise PlanError(
        "bad_reference", path, 'a reference is {"$ref": {"kind": "…", "key": "…"}} and nothing else'
    )


def find(value: object, path: str = "") -> Iterator[Ref]:
    """Every reference inside a value, in reading order.

    Raises: PlanError for a malformed one.
    """
    if is_mapping(value):
        if MARK in value:
            yield read(value, path)
            return
        for key, nested in value.items():
            yield from find(nested, f"{path}.{key}" if path else str(key))
    elif is_list(value):
        for index, nested in enumerate(value):
            yield from find(nested, f"{path}[{index}]")


def resolve(value: object, remote_id: Callable[[Ref], str]) -> object:
    """The same value with every reference replaced by what ``remote_id`` says.

    Raises: whatever ``remote_id`` raises, and PlanError for a malformed reference.
    """
    if is_mapping(value):
        if MARK in value:
            return remote_id(read(value, MARK))
        return {key: resolve(nested, remote_id) for key, nested in value.items()}
    if is_list(value):
        return [resolve(nested, remote_id) for nested in value]
    return value
