"""Whether a record is what was said of it, and whether a change says what was said before.

A portal answers true to updates that change nothing, because it does not know a field or lets
nobody write it. Here a record that was read back is compared with the fields that were sent, by
what values mean and not by how they are written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from itertools import islice
from typing import cast

from b24sync.core.encoding import encode, with_booleans
from b24sync.core.errors import PlanError
from b24sync.core.kinds import Names
from b24sync.core.refs import is_list, is_mapping
from b24sync.core.sameness import YesNo, holds_file, same

MAX_SHOWN = 100
"""Characters of a value that people are shown."""

_MEMBERS_SHOWN = 10
_DEPTH_SHOWN = 3
_BITS_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """A field whose value is not the one that was said.

    Shape: ``wanted`` and ``found`` are short texts for people; ``found`` is ``None`` where the
    record has no field of this name, which is misspelt then, or may not be read.
    """

    field: str
    wanted: str
    found: str | None


def differences(
    sent: Mapping[str, object],
    record: Mapping[str, object],
    *,
    yes_no: YesNo = ("Y", "N"),
    names: Names = Names.SAME,
) -> tuple[Difference, ...]:
    """The fields in which a record is not what was said, in the order of what was said.

    Shape: ``yes_no`` and ``names`` are those of the kind: how it writes booleans, and how its
    records call fields. Files are passed over. Fields to which rows are appended are not to be
    judged here.
    Raises: nothing.
    """
    if names is Names.OTHER:
        return ()
    respelt = names is Names.RESPELT
    found = {_spelt(name, respelt=respelt): value for name, value in record.items()}
    different: list[Difference] = []
    for name, wanted in sent.items():
        spelt = _spelt(name, respelt=respelt)
        if holds_file(wanted):
            continue
        if spelt not in found:
            different.append(Difference(name, shown(wanted), None))
        elif not same(wanted, found[spelt], yes_no):
            different.append(Difference(name, shown(wanted), shown(found[spelt])))
    return tuple(different)


def summary(found: Iterable[Difference]) -> str:
    """The differences in one line for people.

    Raises: nothing.
    """
    return "; ".join(f"{shown(one.field)}: {_said(one)}" for one in found)


def fingerprints(fields: Mapping[str, object], *, yes_no: YesNo = ("Y", "N")) -> Mapping[str, str]:
    """A short hash of each field's value as it is written to the portal.

    Shape: field name to 16 hexadecimal digits. What is written alike is alike: ``1`` and ``"1"``,
    ``None`` and ``""``, the members of an object in any order. A value that cannot be written has
    none, and its field is left out.
    Raises: nothing.
    """
    # An object comes back as an object.
    written = cast("dict[str, object]", with_booleans(fields, yes_no))
    found = {name: _fingerprint(value) for name, value in written.items()}
    return {name: mark for name, mark in found.items() if mark is not None}


def _fingerprint(value: object) -> str | None:
    try:
        written = encode({"v": value})
    except PlanError:
        return None
    # Each pair names its whole place, so that their order says nothing.
    return blake2b("&".join(sorted(written.split("&"))).encode(), digest_size=8).hexdigest()


def _spelt(name: str, *, respelt: bool) -> str:
    return name.replace("_", "").casefold() if respelt else name


def _said(one: Difference) -> str:
    if one.found is None:
        return "not a field of the record"
    # Once more, for whoever made it of what a portal said.
    return f"wanted '{shown(one.wanted)}', found '{shown(one.found)}'"


def shown(value: object) -> str:
    """Write a value for people: one line, not too long.

    Raises: nothing.
    """
    text = _words(value, _DEPTH_SHOWN)
    printable = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode()
        for sign in text[: MAX_SHOWN + 1]
    )
    return printable if len(printable) <= MAX_SHOWN else f"{printable[: MAX_SHOWN - 1]}…"


def _words(value: object, depth: int) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value[: MAX_SHOWN + 1]
        case int():
            bits = value.bit_length()
            return f"{value:d}" if bits <= _BITS_SHOWN else f"a number of {bits} bits"
        case float() | Decimal():
            return str(value)
        case _:
            return _words_inside(value, depth)


def _words_inside(value: object, depth: int) -> str:
    if depth == 0:
        return "…"
    if is_mapping(value):
        few = islice(value.items(), _MEMBERS_SHOWN)
        return "{" + ", ".join(f"{name}: {_words(one, depth - 1)}" for name, one in few) + "}"
    if is_list(value):
        return "[" + ", ".join(_words(one, depth - 1) for one in value[:_MEMBERS_SHOWN]) + "]"
    return type(value).__name__
