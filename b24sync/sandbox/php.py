"""Query strings and arrays the way PHP reads and writes them.

Answers what tree a query string means, and whether an array leaves as a JSON list or object.
Written for speed: names repeat from command to command, so their paths are remembered.
"""

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from b24sync.sandbox.values import Record, Value

_INDEX = re.compile(r"0|-?[1-9][0-9]*")
_FORBIDDEN_IN_NAMES = str.maketrans(" .[", "___")


def parse_query(query: str, *, limit: int | None = None) -> Record:
    """The tree of text that PHP's parse_str makes of a query string.

    Shape: keys in order of first appearance; nested arrays whose keys are 0..n-1 are lists.
    Raises: nothing.
    Source: PHP manual, parse_str, and "Variables From External Sources".
    """
    tree: Record = {}
    nested = False
    for pair in query.split("&")[:limit]:
        name, _, raw = pair.partition("=")
        path = _path(name)
        if not path:
            continue
        value = decoded(raw)
        if len(path) == 1:
            tree[path[0]] = value
        else:
            nested = True
            plant(tree, path, value)
    if nested:
        for key, member in tree.items():
            tree[key] = php_array(member)
    return tree


def plant(tree: Record, path: tuple[str, ...], value: Value) -> None:
    """Put a value at a path; scalars in its way give place, an empty step appends.

    Raises: nothing.
    """
    level = tree
    for step in path[:-1]:
        level = _below(level, step or _next_index(level))
    level[path[-1] or _next_index(level)] = value


def _below(level: Record, key: str) -> Record:
    below = level.get(key)
    if isinstance(below, dict):
        return below
    fresh: Record = {}
    level[key] = fresh
    return fresh


def php_array(value: Value) -> Value:
    """The value with every array in the form in which PHP writes it to JSON.

    Shape: keys exactly 0, 1, ..., n-1 in this order make a list, anything else an object;
    an empty array is a list.
    Raises: nothing.
    Source: PHP manual, json_encode, "Non-associative array output".
    """
    if isinstance(value, dict):
        for key, member in value.items():
            if isinstance(member, dict | list):
                value[key] = php_array(member)
        return section(value)
    if isinstance(value, list):
        return [php_array(member) for member in value]
    return value


def section(value: Record) -> Value:
    """One array by the rule of php_array, its members left as they are.

    Raises: nothing.
    """
    if not value:
        return []
    if "0" in value and all(key == str(index) for index, key in enumerate(value)):
        return list(value.values())
    return value


def decoded(raw: str) -> str:
    """One percent-encoded piece as text; a plus is a space, bytes that are no UTF-8 are marked.

    Raises: nothing.
    """
    if "+" in raw:
        raw = raw.replace("+", " ")
    return unquote_to_bytes(raw).decode("utf-8", "replace") if "%" in raw else raw


@lru_cache(maxsize=16384)
def _path(name: str) -> tuple[str, ...]:
    """The steps of a variable name, `a[b][]` being a, b, append; empty if PHP drops it."""
    return name_path(decoded(name))


def name_path(name: str) -> tuple[str, ...]:
    """The steps of a decoded variable name, read bracket by bracket as PHP does.

    Shape: an empty step after the first appends; an empty tuple means PHP drops the variable.
    Raises: nothing.
    Source: PHP source, main/php_variables.c, php_register_variable_ex.
    """
    name = name.lstrip(" ")
    head, bracket, rest = name.partition("[")
    if not head:
        return ()
    if not bracket or "]" not in rest:
        return (name.translate(_FORBIDDEN_IN_NAMES),)
    steps = [head.translate(_FORBIDDEN_IN_NAMES)]
    while bracket == "[" and "]" in rest:
        step, _, rest = rest.partition("]")
        steps.append("" if step.isspace() else step)
        bracket, rest = rest[:1], rest[1:]
    return tuple(steps)


def _next_index(level: Record) -> str:
    return str(max((int(key) for key in level if _INDEX.fullmatch(key)), default=-1) + 1)
