"""One command's parameters as the query string the portal reads back unchanged.

A batch carries every command as the text ``method?query``, and the portal reads the query by PHP's
rules. What those rules would read back differently (a dot in a parameter's name, a bracket in a
field's name, a name that is empty) is refused here instead of being sent. This module does not
know kinds: which booleans are ``Y`` and which are ``1`` is told to it.

Source: Bitrix24 REST manual, "Data Encoding" and "How to Execute a Batch Request"; PHP manual,
``parse_str``, ``max_input_vars`` and ``max_input_nesting_level``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import TypeGuard
from urllib.parse import unquote

from b24sync.core.errors import PlanError

MAX_VARIABLES = 1000
"""PHP drops, without a word, the variables of one query string beyond this many."""

MAX_DEPTH = 64
"""PHP drops, without a word, a variable whose name has more brackets than this."""

_MAX_DIGITS = 1000
_MAX_BITS = (10**_MAX_DIGITS - 1).bit_length()

# Beyond the unreserved characters everything is escaped, ``:`` and ``/`` too: a reader that splits
# the command with a URL parser takes them for a port or a host in the wrong place.
_is_plain = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch
_escape_runs = re.compile(r"[^A-Za-z0-9_.~-]+").sub

_SHORT = 128
"""Characters up to which byte after byte is faster than run after run."""

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-")
_escape_of = [chr(c) if c in _UNRESERVED else f"%{c:02X}" for c in range(256)].__getitem__

_REFERENCE = "%24result%5B"
"""``$result[``, escaped."""

# PHP turns dots and spaces of an outermost name into underscores and takes a bracket for nesting;
# of an inner name only brackets are special, and one white space alone counts as no name at all.
_is_outer_name = re.compile(r"[^ .\[\0]+").fullmatch
_is_inner_name = re.compile(r"(?![ \t\n\v\f\r]\Z)[^\[\]\0]+").fullmatch

_NO_BOOLEANS = frozenset({str, int, float, type(None), Decimal})
"""What holds no boolean, however deep one looks."""

_names_user_field = re.compile(r"UF_|uf[A-Z_]").match


def encode(params: Mapping[str, object]) -> str:
    """Write parameters so that PHP reads the same tree of strings back.

    Shape: ``a=1&fields[PHONE][0][VALUE]=2``, in the mapping's order; ``None`` is the empty text,
    an empty list or mapping is ``name[]=``, booleans are ``1`` and ``0``.
    Raises: PlanError with the path of the field (``fields.PHONE[0].VALUE``), for what the portal
    would read differently or a query string cannot say.
    """
    pairs: list[str] = []
    for key, value in params.items():
        name = _outer(key)
        if name is None:
            raise _refused_name("", key)
        _write(name, value, pairs)
    return "&".join(pairs)


def variables(query: str) -> int:
    """Count the variables PHP will see in what ``encode`` wrote, to be compared with ``MAX_VARIABLES``.

    Raises: nothing.
    """
    return query.count("&") + 1 if query else 0


def mentions_result(value: object) -> bool:
    """Say whether a text inside looks like a reference to another command of a batch.

    The portal replaces such text even where a user typed it, so the command must travel alone.
    Raises: nothing.
    """
    return any(isinstance(leaf, str) and "$result[" in leaf for leaf in _leaves((value,)))


def with_booleans(value: object, yes_no: tuple[str, str]) -> object:
    """Copy a tree with every boolean written as its kind writes it; in user fields, as 1 or 0.

    Shape: mappings become dicts, lists and tuples become lists, other values stay themselves.
    Raises: nothing.
    Source: Bitrix24 REST manual, "Data Types": ``Y``/``N``, and ``1``/``0`` for user fields.
    """
    return _with_booleans(value, yes_no, MAX_DEPTH)


def entry(method: str, query: str) -> str:
    """Join a method and its query to one entry of a batch; without parameters, the method alone.

    Raises: nothing.
    """
    return f"{method}?{query}" if query else method


def is_reference_in(query: str) -> bool:
    """Say of what ``encode`` wrote whether a text in it looks like such a reference.

    Raises: nothing.
    """
    return _REFERENCE in query


def _write(name: str, value: object, pairs: list[str]) -> None:
    if isinstance(value, str):
        pairs.append(f"{name}={_text(name, value)}")
    elif value is None:
        pairs.append(f"{name}=")
    elif isinstance(value, (int, float, Decimal)):
        pairs.append(f"{name}={_number(name, value)}")
    elif _is_list(value):
        if _may_nest(name, value, pairs):
            for index, nested in enumerate(value):
                _write(f"{name}[{index}]", nested, pairs)
    elif _is_mapping(value):
        if _may_nest(name, value, pairs):
            _write_mapping(name, value, pairs)
    else:
        raise _refused("unsupported_type", name, f"a {type(value).__name__} cannot be sent")


def _write_mapping(name: str, value: Mapping[object, object], pairs: list[str]) -> None:
    for key, nested in value.items():
        bracket = _inner(key)
        if bracket is None:
            raise _refused_name(name, key)
        inner = name + bracket
        if type(nested) is not str or len(nested) > _SHORT:
            _write(inner, nested, pairs)
        elif _is_plain(nested):
            pairs.append(f"{inner}={nested}")
        elif nested.isascii() and "\0" not in nested:
            # Most texts, without a call for each.
            pairs.append(f"{inner}={''.join(map(_escape_of, nested.encode()))}")
        else:
            _write(inner, nested, pairs)


def _may_nest(
    name: str, value: Mapping[object, object] | Sequence[object], pairs: list[str]
) -> bool:
    """Say whether there is anything to descend to; write the empty bracket if not."""
    if name.count("[") >= MAX_DEPTH:
        raise _refused("too_deep", name, f"nested deeper than {MAX_DEPTH} levels")
    if not value:
        pairs.append(f"{name}[]=")
    return bool(value)


def _text(name: str, value: str) -> str:
    if _is_plain(value):
        # A subclass of str (an enumeration) formats itself as it likes; its text is what counts.
        return str.__str__(value)
    if "\0" in value:
        raise _refused("bad_text", name, "the text holds a NUL character")
    try:
        return _escaped(value)
    except UnicodeEncodeError:
        raise _refused("bad_text", name, "the text holds half a character") from None


def _number(name: str, value: float | Decimal) -> str:
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise _out_of_range(name)
        return int.__repr__(value)  # also of a boolean, which is 1 or 0
    exact = value if isinstance(value, Decimal) else Decimal(float.__repr__(value))
    if not exact.is_finite():
        raise _refused("not_a_number", name, "neither infinity nor NaN can be sent")
    # The exponent of a decimal is unbounded: twelve characters could become a gigabyte of zeros.
    if len(exact.as_tuple().digits) > _MAX_DIGITS or abs(exact.adjusted()) > _MAX_DIGITS:
        raise _out_of_range(name)
    return f"{exact:f}"


def _escaped(text: str) -> str:
    if len(text) <= _SHORT:
        return "".join(map(_escape_of, text.encode()))
    return _escape_runs(_escaped_run, text)


def _escaped_run(run: re.Match[str]) -> str:
    return "%" + run[0].encode().hex("%").upper()


@lru_cache(maxsize=4096)
def _outer(key: object) -> str | None:
    """Write the name of a parameter; None, if PHP would read another name."""
    return _name(key) if isinstance(key, str) and _is_outer_name(key) else None


@lru_cache(maxsize=4096)
def _inner(key: object) -> str | None:
    """Write the name of a field in its bracket; None, if PHP would read another name."""
    name = _name(key) if isinstance(key, str) and _is_inner_name(key) else None
    return name and f"[{name}]"


def _name(key: str) -> str | None:
    try:
        return _escaped(str.__str__(key))
    except UnicodeEncodeError:
        return None


def _leaves(values: Iterable[object]) -> Iterator[object]:
    """Give what has no parts, an empty list or mapping included, as deep as can be sent.

    Level by level, so that no data, however nested, can exhaust the stack.
    """
    level = list(values)
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        nested: list[object] = []
        for value in level:
            if value and _is_list(value):
                nested.extend(value)
            elif value and _is_mapping(value):
                nested.extend(value.values())
            else:
                yield value
        level = nested


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, (dict, Mapping))


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _with_booleans(value: object, yes_no: tuple[str, str], depth: int) -> object:
    """Copy down to the depth that can be sent; what lies deeper is refused by ``encode``."""
    if isinstance(value, bool):
        return yes_no[0] if value else yes_no[1]
    if depth == 0:
        return value
    if _is_list(value):
        return [_with_booleans(nested, yes_no, depth - 1) for nested in value]
    if _is_mapping(value):
        if _NO_BOOLEANS.issuperset(map(type, value.values())):
            return dict(value)
        return {
            key: _with_booleans(nested, _yes_no_of(key, yes_no), depth - 1)
            for key, nested in value.items()
        }
    return value


def _yes_no_of(key: object, yes_no: tuple[str, str]) -> tuple[str, str]:
    return ("1", "0") if isinstance(key, str) and _names_user_field(key) else yes_no


def _refused_name(parent: str, key: object) -> PlanError:
    shown = key if isinstance(key, str) else type(key).__name__
    if not shown or not shown.isprintable():
        shown = ascii(shown)
    path = f"{_path(parent)}.{shown}" if parent else shown
    return PlanError("bad_name", path, "the portal would read this name as another one")


def _out_of_range(name: str) -> PlanError:
    return _refused("out_of_range", name, f"the number has more than {_MAX_DIGITS} digits")


def _refused(code: str, name: str, reason: str) -> PlanError:
    return PlanError(code, _path(name), reason)


def _path(name: str) -> str:
    """Turn a written name (``fields[PHONE][0]``) into what people read (``fields.PHONE[0]``)."""
    parameter, *rest = name.replace("]", "").split("[")
    steps = (f"[{step}]" if step.isdigit() else f".{unquote(step)}" for step in rest)
    return unquote(parameter) + "".join(steps)
