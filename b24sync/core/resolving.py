"""References of a row become remote ids, as far as those are known.

A reference is resolved by the entity's link; or, in a batch that stops at the first failure, by the
answer to an earlier command of the same batch; or not yet. A circle of references is broken by
leaving fields out of an add, which follow when the record is there.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import cast

from b24sync.core import refs
from b24sync.core.encoding import mentions_result
from b24sync.core.errors import PlanError
from b24sync.core.kind_table import find_kind
from b24sync.core.model import Command, Operation, Ref, Row, Unreadable
from b24sync.core.surroundings import Entity, Surroundings, Unlinked

_NOBODY: Mapping[Entity, Command] = MappingProxyType({})


def without_circle(row: Row, around: Surroundings) -> tuple[Row, Mapping[str, object] | None]:
    """The row without the fields by which a circle of references is broken, and those fields."""
    target = around.cut.get(row.id)
    if target is None or not refs.is_mapping(row.fields):
        return row, None
    left_out = {
        name: value
        for name, value in row.fields.items()
        if target in refs.find({name: value}, "fields")
    }
    kept = {name: value for name, value in row.fields.items() if name not in left_out}
    return replace(row, fields=kept), left_out


def may_be_cut(row: Row, target: Ref, around: Surroundings) -> bool:
    """Whether an add can be sent without the fields that refer to this entity.

    Raises: nothing.
    """
    try:
        kind = find_kind(row.kind, around.kinds)
        link = around.links.get((row.kind, row.key))
        if kind is None or kind.add is None or not kind.linked or kind.whole:
            return False
        is_add = row.operation is Operation.ADD or row.operation is Operation.UPSERT
        if not is_add or (link is not None and link.remote_id is not None):
            return False
        if not refs.is_mapping(row.fields) or target in refs.find(row.params):
            return False
        names = {name for name, value in row.fields.items() if target in refs.find(value)}
    except PlanError:
        return False
    return bool(names) and names < row.fields.keys() and names.isdisjoint(kind.add.required_fields)


def resolved(
    row: Row, name: str, part: object, around: Surroundings, taken: set[int]
) -> Mapping[str, object]:
    """A row's fields or params with remote ids in the place of references.

    Shape: the first rows of the commands whose ids are taken within the batch are put into ``taken``.
    """
    if part is None:
        return {}
    if isinstance(part, Unreadable):
        raise PlanError(
            "unreadable", name, "a number is too long or lists are nested too deep to be read"
        )
    if refs.is_flat(part):
        return part
    if not refs.is_mapping(part) or refs.MARK in part:
        raise PlanError("not_an_object", name, f"an object of names is needed, not {_sort(part)}")
    # The portal would read an application's own text as a reference too: such a row goes alone.
    makers = around.makers
    if makers and mentions_result((row.fields, row.params, row.key)):
        makers = _NOBODY

    def remote_id(ref: Ref, path: str) -> str:
        known = _known_id(row, ref, path, around)
        return known if known is not None else _taken_id(ref, makers, taken)

    # An object that is no reference itself comes back as an object.
    return cast("dict[str, object]", refs.resolve(part, remote_id, name))


def _known_id(row: Row, ref: Ref, path: str, around: Surroundings) -> str | None:
    """The id of what a row refers to; ``None``, it has none yet."""
    kind = find_kind(ref.kind, around.kinds)
    if kind is None:
        raise PlanError("unknown_kind", path, f"refers to {ref.kind!r}, in no table of kinds")
    if not kind.linked:
        raise PlanError("no_id", path, f"refers to {ref.kind!r}, of which none has an id")
    link = around.links.get((ref.kind, ref.key))
    if link is not None and link.remote_id is not None:
        return link.remote_id
    # An add can be sent without and be completed afterwards; nothing else gives it an id.
    is_own = (ref.kind, ref.key) == (row.kind, row.key)
    if is_own and row.operation not in (Operation.ADD, Operation.UPSERT):
        raise PlanError("no_link", path, "refers to the entity itself, which has no id yet")
    return None


def _taken_id(ref: Ref, makers: Mapping[Entity, Command], taken: set[int]) -> str:
    """The id that an earlier command of the same batch will have made."""
    maker = makers.get((ref.kind, ref.key))
    if maker is None or maker.id_path is None:
        raise Unlinked(ref)
    taken.add(maker.row_ids[0])
    return f"$result[{maker.label}]" + "".join(f"[{step}]" for step in maker.id_path)


def _sort(value: object) -> str:
    """What people call a JSON value."""
    match value:
        case list():
            return "a list"
        case dict():
            return "a reference"
        case str():
            return "a text"
        case bool():
            return "true or false"
        case _:
            return "a number"
