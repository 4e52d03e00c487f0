"""A dead letter is edited before it is replayed: some values put, some taken out, or all replaced.

A path names a field, and through dots what is inside of it: ``fm.PHONE.0.value``. What is edited is
checked as a change is when it is written, so that a slip is told at once and not by the portal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from b24sync.core.changes import checked
from b24sync.core.errors import ChangeError
from b24sync.core.kinds import Kind
from b24sync.core.model import Change, Operation, Unreadable
from b24sync.core.refs import is_list, is_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What is to be changed; of a call its params, of anything else its fields.

    Shape: ``whole`` replaces all, then ``taken`` paths go, then ``put`` values come, by path.
    """

    put: Mapping[str, object] = field(default_factory=dict[str, object])
    taken: tuple[str, ...] = ()
    whole: Mapping[str, object] | None = None

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.put or self.taken) or self.whole is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """A part of a row after an edit.

    Shape: ``part`` is ``fields`` or ``params``; ``changes`` are the values of the outermost names
    that differ, each with ``before`` and ``after``, of which one may be missing.
    """

    part: str
    value: Mapping[str, object]
    changes: Mapping[str, Mapping[str, object]]


def parsed(text: str) -> tuple[str, object]:
    """A path and a value, as ``path=value``: JSON, or what is no JSON as text.

    Raises: ValueError without a path or a value.
    """
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise ValueError(f"{text!r} is not PATH=VALUE")
    try:
        return path.strip(), json.loads(value, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return path.strip(), value


def _not_json(name: str) -> object:
    raise ValueError(name)


def edited(change: Change, edit: Edit, kinds: Mapping[str, Kind], *, name: str) -> Edited:
    """The part of a stored change that is edited, checked as a new change is.

    Shape: ``name`` is how errors call the change. Its fields and params are as they were stored.
    Raises: ChangeError, naming the change, the field and what to do.
    """
    part = "params" if change.operation == Operation.CALL else "fields"
    former: object = getattr(change, part)
    if isinstance(former, Unreadable) and edit.whole is None:
        raise ChangeError(part, "cannot be read; say all of them anew", entity=name)
    before: Mapping[str, object] = former if is_mapping(former) else {}
    value: object = dict(before if edit.whole is None else edit.whole)
    try:
        for path in edit.taken:
            value = _without(value, path.split("."), path)
        for path, new in edit.put.items():
            value = _with(value, path.split("."), new, path)
        after = cast("Mapping[str, object]", value)
        parts = {"fields": change.fields, "params": change.params} | {part: after}
        row = checked(
            Change(
                change.kind,
                change.key,
                change.operation,
                fields=parts["fields"],
                params=parts["params"],
                portal=change.portal,
                method=change.method,
            ),
            kinds,
        )
    except ChangeError as error:
        raise ChangeError(error.field, error.problem, entity=name) from None
    written = cast("Mapping[str, object]", row[part] or {})
    # Only what differs is taken over as it is checked: the rest stays as it was, digit by digit.
    names = [name for name in {**before, **after} if _get(before, name) != _get(after, name)]
    kept = {name: written[name] if name in names else before[name] for name in after}
    return Edited(part=part, value=kept, changes={n: _change(before, kept, n) for n in names})


_ABSENT = object()
_NOTHING: Mapping[str, object] = MappingProxyType({})


def _get(value: Mapping[str, object], name: str) -> object:
    return value.get(name, _ABSENT)


def _change(
    before: Mapping[str, object], after: Mapping[str, object], name: str
) -> Mapping[str, object]:
    sides = (("before", before), ("after", after))
    return {side: part[name] for side, part in sides if name in part}


def _with(value: object, steps: list[str], new: object, path: str) -> object:
    """The value with something put at the end of the steps; what lacks on the way is made."""
    if not steps:
        return new
    step, *rest = steps
    if not step:
        raise ChangeError(path, "a name between the dots is missing")
    if value is _NOTHING and step == "0":
        return [_with(_NOTHING, rest, new, path)]
    if is_list(value):
        place = _place(value, step, path, most=len(value))
        inner = value[place] if place < len(value) else _NOTHING
        return [*value[:place], _with(inner, rest, new, path), *value[place + 1 :]]
    if not is_mapping(value):
        raise ChangeError(path, f"there is no {step!r} inside of a single value")
    return {**value, step: _with(value.get(step, _NOTHING), rest, new, path)}


def _without(value: object, steps: list[str], path: str) -> object:
    """The value without what is at the end of the steps."""
    step, *rest = steps
    if is_list(value):
        place = _place(value, step, path, most=len(value) - 1)
        inner = [_without(value[place], rest, path)] if rest else []
        return [*value[:place], *inner, *value[place + 1 :]]
    if not is_mapping(value) or step not in value:
        raise ChangeError(path, f"there is no {step!r} that could be taken out")
    if rest:
        return {**value, step: _without(value[step], rest, path)}
    return {name: member for name, member in value.items() if name != step}


def _place(members: list[object] | tuple[object, ...], step: str, path: str, *, most: int) -> int:
    if step.isascii() and step.isdigit() and int(step[:9]) <= most:
        return int(step[:9])
    raise ChangeError(path, f"{step!r} is no place in a list of {len(members)}")
