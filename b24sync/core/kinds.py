"""The table of entity kinds.

For each kind: which method adds, updates, deletes, lists and reads one, how its parameters are
called, where the new id stands in the answer, what "not found" looks like, and which fields carry
the external key of an add. A kind is data; adding one is adding a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How one portal method is called.

    ``fields_param``: the parameter that takes the fields; ``None``, the fields stand flat.
    ``id_param``: the parameter (or, dotted as ``fields.id``, the nested one) that takes the id.
    ``fixed``: parameters always sent. ``required``: names that ``Change.params`` must hold.
    ``param_names``: names of ``Change.params`` that are called differently on the wire.
    ``required_fields``: names that ``Change.fields`` must hold.
    ``id_path``: where the new id stands in the answer, ``()`` for the answer itself, ``None`` for
    nowhere.

    Of a ``list``, ``fields_param`` is the parameter that takes the filter (``None``, conditions
    stand flat and without a comparison sign), ``required_fields`` are fields of the change that
    the filter must repeat, ``param_names`` are fields that the filter calls differently, and
    ``id_path`` is where the id stands within one row.

    Of a ``get``, ``fields_param`` is the parameter that takes the list of the fields to answer
    with (``None``, all come unasked).
    """

    name: str
    fields_param: str | None = "fields"
    id_param: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])
    required: tuple[str, ...] = ()
    param_names: Mapping[str, str] = field(default_factory=dict[str, str])
    required_fields: tuple[str, ...] = ()
    id_path: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Which fields of an add carry the external key, so that it can be found again.

    ``origin_field`` is ``None`` where the kind has a key field only. ``in_params``: the key is a
    parameter of the method, beside the fields and not among them.
    """

    key_field: str
    origin_field: str | None = None
    in_params: bool = False


class Names(StrEnum):
    """How a record that was read calls the fields that a change calls by their names.

    ``same``: alike. ``respelt``: by other letters only, as ``title`` for ``TITLE`` or
    ``responsibleId`` for ``RESPONSIBLE_ID``. ``other``: by words of its own, so that nobody can
    compare the two.
    """

    SAME = "same"
    RESPELT = "respelt"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One sort of entity.

    ``linked``: records have an id of their own that links remember; otherwise the change's own
    fields or params name what it is about (an address's triple, the owner of product rows).
    ``replaces``: one method sets the whole, so add, update and upsert are the same and repeatable.
    ``yes_no``: how ``True`` and ``False`` are written inside fields.
    ``multi_fields``: fields whose rows without an id are appended, so repeating is not harmless.
    ``whole``: an update clears what it does not send.
    ``gone``: pairs of an error code and a pattern of its text (regular expression, any case) that
    mean "there is no such record".
    ``list_path``: where the rows stand in the answer of ``list``.
    ``get``: how one record is read by its id. ``record_path``: where the object that has the
    record's fields stands in the answer. ``record_names``: how it calls them.
    """

    name: str
    add: Method | None = None
    update: Method | None = None
    delete: Method | None = None
    list: Method | None = None
    list_path: tuple[str, ...] = ()
    get: Method | None = None
    record_path: tuple[str, ...] = ()
    record_names: Names = Names.SAME
    marker: Marker | None = None
    linked: bool = True
    replaces: bool = False
    whole: bool = False
    yes_no: tuple[str, str] = ("Y", "N")
    multi_fields: frozenset[str] = frozenset()
    gone: tuple[tuple[str, str], ...] = ()
