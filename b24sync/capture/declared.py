"""The words of a declaration: what of a mapped class the portal is to hold.

Attributes are named by text or as attributes of the class (``Customer.name``). A text with braces,
``"c-{id}"``, is a template of attributes. Every value names the attributes it reads, because their
changes are what is looked for; a function reads those it names and no others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy.orm import QueryableAttribute

Attribute: TypeAlias = str | QueryableAttribute[Any]
"""A column, a relationship or a composite of the mapped class."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A value that a function makes of an object.

    Shape: ``reads`` are the attributes that the function reads, at least one; a change of one of
    them is a change of the value. A relationship among them counts when its members change, not
    when something about a member does.
    """

    function: Callable[[Any], object]
    reads: Sequence[Attribute]


@dataclass(frozen=True, slots=True)
class RefTo:
    """A field that refers to another entity, by its kind and key.

    Shape: ``of`` is that key (an attribute, a template, a function), or a relationship to the
    other object. Then ``key`` says what is that object's key; left out, it is the key of the
    entity of that class and kind captured in the same call. Where nothing is referred to, the
    field is empty.
    """

    kind: str
    of: Attribute | Computed
    key: Attribute | Computed | None = None


Source: TypeAlias = Attribute | Computed | RefTo
"""Where a field's value comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A mapped class, its subclasses included, and what the portal is to hold of it.

    Shape: ``key`` and ``portal`` never change while the object is on the portal. ``portal`` is a
    portal's code as text, or an attribute of the class or a function that gives it. Objects for
    which ``when`` is not true are not on the portal: turning true is an insert, turning false a
    delete. ``inserts`` is ``upsert`` or ``add``; ``updates`` is ``update`` or ``upsert``;
    ``deletes`` and ``deletes_hidden`` say whether a deleted row and one whose ``when`` turns false
    are deleted on the portal, or left there as they are.
    """

    mapped: type[object] = field(kw_only=False)
    kind: str
    key: Attribute | Computed
    fields: Mapping[str, Source]
    when: Attribute | Computed | None = None
    portal: Attribute | Computed = "default"
    inserts: str = "upsert"
    updates: str = "update"
    deletes: bool = True
    deletes_hidden: bool = True
    priority: int = 0
