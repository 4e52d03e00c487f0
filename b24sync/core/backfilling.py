"""What a back-fill decides: where a page ends, how long the next one is, what a row says.

A back-fill walks over a source in the order of a key, page after page, and remembers the last key.
Which texts are alike is the database's affair, and differs from one collation to the next; so that
no row is lost whatever the collation, a page never ends between two keys that might be alike.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from string import Formatter
from typing import TypeAlias
from uuid import UUID

from b24sync.core.errors import BackfillError, ChangeError
from b24sync.core.model import Change, Ref
from b24sync.core.refs import is_list

BELOW_ALL = 32_767
"""The priority of back-fills: no change is less urgent."""

SHRINKS_BY = 8
"""A page of which somebody has locked a row is tried again as so small a part."""

Key: TypeAlias = tuple[object, ...]
"""The values of a source's key columns in one row."""


class BackfillState(StrEnum):
    """Where a back-fill is: fed, stopped by a person, over, or stopped by what is wrong with it."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a source: a change; or why it cannot be one; or neither, it is not on the portal."""

    change: Change | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of a source in the order of their keys, the last of which is ``last``.

    Shape: ``is_last``: none comes behind them. No lines and not the last: too few were asked for to
    tell where a page may end.
    """

    lines: tuple[Line, ...] = ()
    last: Key | None = None
    is_last: bool = False


OVER = frozenset({BackfillState.DONE, BackfillState.CANCELLED})
"""States that nothing leads out of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a row of a query becomes a change.

    Shape: ``key`` is a column, or a template such as ``{country}:{id}``; ``fields`` are field to
    column, ``references`` field to the kind and the column with the other entity's key. Without
    either, every column under its own name, except a column that is the key.
    """

    key: str
    operation: str = "upsert"
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    constants: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns that the key is made of.

        Raises: BackfillError for a template that is none.
        """
        if "{" not in self.key:
            return (self.key,)
        try:
            names = [name for _, name, _, _ in Formatter().parse(self.key) if name is not None]
        except ValueError as error:
            raise BackfillError(f"the key {self.key!r} is not a template: {error}") from None
        if not all(name.isidentifier() for name in names):
            raise BackfillError(f"the key {self.key!r}: every pair of braces names a column")
        return tuple(names)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is named.

        Raises: as ``key_columns``.
        """
        targets = (column for _, column in self.references.values())
        return tuple(dict.fromkeys((*self.key_columns, *self.fields.values(), *targets)))


def said(recipe: Recipe, kind: str, portal: str, row: Mapping[str, object]) -> Change:
    """The change that a row of a query becomes.

    Raises: ChangeError for a row without a key.
    """
    values = {name: row[name] for name in recipe.key_columns}
    if None in values.values():
        raise ChangeError("key", "is NULL in this row", entity=kind)
    is_template = "{" in recipe.key
    key = recipe.key.format_map(values) if is_template else str(row[recipe.key])
    fields: dict[str, object] = dict(recipe.constants)
    if recipe.fields or recipe.references:
        fields |= {name: row[column] for name, column in recipe.fields.items()}
        fields |= {
            name: _reference(to, row[column]) for name, (to, column) in recipe.references.items()
        }
    else:
        own = () if is_template else (recipe.key,)
        fields |= {name: value for name, value in row.items() if name not in own}
    return Change(kind, key, recipe.operation, fields, portal=portal)


def _reference(kind: str, key: object) -> Ref | None:
    return None if key is None else Ref(kind, str(key))


def page_end(keys: Sequence[Key], limit: int) -> int:
    """How many of the rows read belong to the page.

    Shape: ``keys`` in the database's order, with the first one behind the page, if there is one. 0
    if all that fit the page might be alike with the one behind it.
    Raises: nothing.
    """
    if len(keys) <= limit:
        return len(keys)
    end = limit
    while end and _folded(keys[end - 1]) == _folded(keys[limit]):
        end -= 1
    return end


def _folded(key: Key) -> Key:
    """A key without all that any collation passes over."""
    return tuple(_bare(part) if isinstance(part, str) else part for part in key)


def _bare(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in parts if unicodedata.category(c)[0] in "LN")


def next_size(size: int, most: int, *, locked: bool) -> int:
    """How many rows the next page is to have, after one of this size went well or met a lock.

    Raises: nothing.
    """
    return max(1, size // SHRINKS_BY) if locked else min(most, size * 2)


def left_ms(done: int, total: int | None, spent_ms: float) -> int | None:
    """How long the rest takes, at the pace so far; ``None``, nobody can tell.

    Units: milliseconds.
    Raises: nothing.
    """
    if total is None or done <= 0 or spent_ms <= 0:
        return None
    return int(max(0, total - done) * spent_ms / done)


def stored_key(key: Key) -> list[list[str]]:
    """A key as a JSON document from which it is read again exactly.

    Raises: BackfillError for a value that no back-fill can go on behind.
    """
    return [_stored(part) for part in key]


def _stored(part: object) -> list[str]:
    match part:
        case bool() | None:
            pass
        case int():
            return ["int", str(int(part))]
        case str():
            return ["str", str.__str__(part)]
        case Decimal() if part.is_finite():
            return ["decimal", str(part)]
        case datetime():
            return ["datetime", part.isoformat()]
        case date():
            return ["date", part.isoformat()]
        case UUID():
            return ["uuid", str(part)]
        case _:
            pass
    what = "NULL" if part is None else f"a {type(part).__name__}"
    raise BackfillError(f"the key holds {what}; keys are numbers, texts, dates and UUIDs")


def read_key(stored: object) -> Key | None:
    """The key of a document; ``None``, there is none yet.

    Raises: BackfillError for another document.
    """
    if stored is None:
        return None
    if not is_list(stored) or not stored:
        raise BackfillError(f"{stored!r} is not a stored key")
    return tuple(_read(part) for part in stored)


def _read(part: object) -> object:
    match part:
        case ["int", str(text)]:
            return int(text)
        case ["str", str(text)]:
            return text
        case ["decimal", str(text)]:
            return Decimal(text)
        case ["datetime", str(text)]:
            return datetime.fromisoformat(text)
        case ["date", str(text)]:
            return date.fromisoformat(text)
        case ["uuid", str(text)]:
            return UUID(text)
        case _:
            raise BackfillError(f"{part!r} is not a part of a stored key")
