"""$result references: values of later commands that name the results of earlier ones.

Source: manual, "How to execute a batch request", using results in later commands.
"""

import re
from collections.abc import Mapping

from b24sync.sandbox.values import Record, Value, mapping, text

_REFERENCE = re.compile(r"\$result((?:\[[^\[\]]*\])+)")


def may_refer(query: str) -> bool:
    """Whether an encoded query can contain a reference at all. Raises: nothing."""
    return "$result" in query or "%24" in query


def resolved(params: Record, results: Mapping[str, Value], *, blank: bool) -> Record:
    """The parameters with every reference to a result replaced by what it names.

    Shape: a value that is one reference takes the structure it names; a reference within longer
    text takes scalars only; one that leads nowhere stays as text, or is emptied if `blank`.
    Raises: nothing.
    """
    return {name: _resolved(value, results, blank=blank) for name, value in params.items()}


def _resolved(value: Value, results: Mapping[str, Value], *, blank: bool) -> Value:
    if isinstance(value, dict):
        return resolved(value, results, blank=blank)
    if isinstance(value, list):
        return [_resolved(member, results, blank=blank) for member in value]
    if not isinstance(value, str) or "$result" not in value:
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole is not None:
        found, target = _target(whole[1], results)
        if found and isinstance(target, list | dict):
            return target

    def replaced(match: re.Match[str]) -> str:
        found, target = _target(match[1], results)
        if found and target is not None and not isinstance(target, list | dict):
            return text(target)
        return "" if blank else match[0]

    return _REFERENCE.sub(replaced, value)


def _target(path: str, results: Mapping[str, Value]) -> tuple[bool, Value]:
    first, *rest = path[1:-1].split("][")
    if first not in results:
        return False, None
    target = results[first]
    for step in rest:
        level = mapping(target)
        if step not in level:
            return False, None
        target = level[step]
    return True, target
