"""A reader of query strings by the rules of PHP's ``parse_str``, for tests.

Written from PHP's rules and not from the package's writer, so that the two can disagree. Every
value is text; lists are mappings of their positions, as PHP's arrays are.
"""

from typing import TypeAlias
from urllib.parse import unquote_plus

Tree: TypeAlias = dict[str, "str | Tree"]
"""What a query string holds."""

MAX_INPUT_VARS = 1000
MAX_INPUT_NESTING_LEVEL = 64


def read(query: str) -> Tree:
    """Read a query string; what PHP drops without a word is dropped without a word.

    Raises: UnicodeDecodeError, for escaped bytes that are not UTF-8.
    """
    tree: Tree = {}
    pairs = [pair for pair in query.split("&") if pair]
    for pair in pairs[:MAX_INPUT_VARS]:
        name, _, value = pair.partition("=")
        _register(tree, unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict"))
    return tree


def _register(tree: Tree, name: str, value: str) -> None:
    name = name.lstrip(" ").partition("\0")[0]
    head, bracket, rest = name.partition("[")
    if not head:
        return
    indices = _indices(rest) if bracket else []
    if bracket and not indices:
        head, indices = f"{head}_{rest}".replace("[", "_"), []
    if len(indices) > MAX_INPUT_NESTING_LEVEL:
        return
    at, index = tree, head.replace(" ", "_").replace(".", "_")
    for inner in indices:
        nested = at.get(index)
        if not isinstance(nested, dict):
            nested = at[index] = {}
        at, index = nested, _next_index(nested) if inner is None else inner
    at[index] = value


def _indices(rest: str) -> list[str | None]:
    """Split what follows the first bracket; None is an index left open."""
    indices: list[str | None] = []
    bracket = "["
    while bracket == "[":
        if rest[:1] == "]" or (rest[:1] in tuple(" \t\n\v\f\r") and rest[1:2] == "]"):
            indices.append(None)
            rest = rest[rest.index("]") + 1 :]
        else:
            index, closed, rest = rest.partition("]")
            if not closed:
                break
            indices.append(index)
        bracket, rest = rest[:1], rest[1:]
    return indices


def _next_index(tree: Tree) -> str:
    taken = [int(index) for index in tree if index.isascii() and index.isdigit()]
    return str(max(taken, default=-1) + 1)
