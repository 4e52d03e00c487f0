"""Later rows of an entity are folded into the first, so that one command says them all.

A fold says what its rows would have said one after the other, and it says it only where that is
certain: a row that planning would refuse, or whose ending may be another than that of the row
before it, is a barrier. Rows are folded when they are claimed, and stay as they were written.

==================  ==================================================================
First, then         Folded
==================  ==================================================================
add, update         an add with the fields of both
update, update      an update in which the later wins field by field
any, delete         the delete
add, delete         nothing at all, if the add was never delivered
delete, any         not: what comes after is a new record
==================  ==================================================================

An upsert is an update of what is known, and an add of what is not. Of a kind that replaces the
whole, the later row alone counts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from b24sync.core import multivalues, refs
from b24sync.core.errors import PlanError
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import Operation, Ref, Row

MOST_ROWS = 5000
"""More rows are not folded into one; the rest has its turn next."""

_PLAIN = (str, int, float, type(None))
_MISSING = object()

_Part: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Rows of one entity that are said as one.

    Shape: ``row`` is the first row with the operation, fields and params of them all; ``row_ids``
    has the first row first. ``is_void``: there is nothing to send.
    """

    row: Row
    row_ids: tuple[int, ...]
    is_void: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """A row that planning would not refuse, with the method that would say it."""

    row: Row
    operation: Operation
    method: Method
    fields: _Part
    params: _Part


def _unresolved(_ref: Ref) -> bool:
    return False


def fold(
    rows: Sequence[Row],
    *,
    kind: Kind | None,
    is_known: bool,
    is_resolved: Callable[[Ref], bool] = _unresolved,
) -> Fold:
    """Fold as many of the following rows into the first as can be said with it.

    Shape: ``rows`` are of one entity, at least one and in their order. ``is_known``: the entity has
    a remote id. ``is_resolved`` says whether another one has.
    Raises: nothing.
    """
    head = rows[0]
    alone = Fold(row=head, row_ids=(head.id,))
    # What has no id of its own is named by its fields: no two rows are surely about the same.
    if kind is None or kind.linked == kind.replaces:
        return alone
    first = _said(head, kind, is_known=is_known)
    if first is None or first.operation is Operation.DELETE or _targets(first, kind) is None:
        return alone
    followers = tuple(_followers(first, rows[1:MOST_ROWS], kind, is_resolved))
    if not followers:
        return alone
    is_deleted = followers[-1].operation is Operation.DELETE
    return Fold(
        row=_together(first, followers, kind),
        row_ids=(head.id, *(later.row.id for later in followers)),
        is_void=is_deleted and _makes(first, kind),
    )


def _said(row: Row, kind: Kind, *, is_known: bool) -> _Said | None:
    """What a row says by itself; ``None`` if it would be refused, or wants to be by itself."""
    operation = _operation(row.operation, kind, is_known=is_known)
    method = _method(kind, operation)
    fields, params = _part(row.fields), _part(row.params)
    if operation is None or method is None or fields is None or params is None:
        return None
    said = _Said(row=row, operation=operation, method=method, fields=fields, params=params)
    may_merge = row.mergeable and not row.cancel_requested
    return said if may_merge and _is_complete(said) and _has_no_rows(said, kind) else None


def _operation(operation: Operation, kind: Kind, *, is_known: bool) -> Operation | None:
    """What planning would make of an operation; ``None`` where it would refuse it."""
    is_known = is_known and kind.linked
    if operation is Operation.UPSERT:
        return Operation.UPDATE if is_known else Operation.ADD
    is_refused = kind.linked and is_known == (operation is Operation.ADD)
    return None if is_refused else operation


def _method(kind: Kind, operation: Operation | None) -> Method | None:
    match operation:
        case Operation.ADD:
            return kind.add
        case Operation.UPDATE:
            return kind.update
        case Operation.DELETE:
            return kind.delete
        case _:
            return None


def _part(value: object) -> _Part | None:
    """A row's fields or params, if they are an object of names."""
    if value is None:
        return {}
    return value if refs.is_mapping(value) and refs.MARK not in value else None


def _is_complete(said: _Said) -> bool:
    """Whether it says something, and everything that its method asks for."""
    says = said.operation is Operation.DELETE or said.fields or said.params
    has_params = all(name in said.params for name in said.method.required)
    return bool(says) and has_params and all(n in said.fields for n in said.method.required_fields)


def _has_no_rows(said: _Said, kind: Kind) -> bool:
    """Whether multi-value fields are said as values: rows are neither merged nor repeated."""
    try:
        return all(
            multivalues.is_values(name, said.fields[name])
            for name in kind.multi_fields.intersection(said.fields)
        )
    except PlanError:
        return False


def _targets(said: _Said, kind: Kind) -> tuple[Ref, ...] | None:
    """What a row refers to; ``None`` if a reference is malformed."""
    # To look into values that can hold none would be most of the work of a fold.
    nested = (
        value
        for part in (said.fields, said.params)
        for name, value in part.items()
        if not isinstance(value, _PLAIN) and name not in kind.multi_fields
    )
    try:
        return tuple(ref for value in nested for ref in refs.find(value))
    except PlanError:
        return None


def _makes(first: _Said, kind: Kind) -> bool:
    """Whether there is no record before this row."""
    return kind.linked and first.operation is Operation.ADD


def _followers(
    first: _Said, rows: Iterable[Row], kind: Kind, is_resolved: Callable[[Ref], bool]
) -> Iterator[_Said]:
    """The rows that go with the first, up to a barrier or a delete."""
    for row in rows:
        later = _said(row, kind, is_known=True)
        if later is None or not _is_free(later, kind, is_resolved):
            return
        if not _joins(first, later, kind):
            return
        yield later
        if later.operation is Operation.DELETE:
            return


def _is_free(later: _Said, kind: Kind, is_resolved: Callable[[Ref], bool]) -> bool:
    """Whether it ends as the first does, which must not wait for what a later row refers to."""
    targets = _targets(later, kind)
    is_ready = targets is not None and all(map(is_resolved, targets))
    return is_ready and later.row.expires_at_ms is None


def _joins(first: _Said, later: _Said, kind: Kind) -> bool:
    """Whether both together end in the same record as one after the other."""
    if kind.linked and later.operation is Operation.DELETE:
        # An add that was delivered may be on the portal after all.
        return not _makes(first, kind) or first.row.deliveries == 0
    return (
        not kind.whole
        and first.params == later.params
        and all(_is_same(first, later, name) for name in _naming(later, kind))
        and (not _makes(first, kind) or _keeps_marker(first, later, kind))
    )


def _naming(later: _Said, kind: Kind) -> Iterator[str]:
    """The fields by which a method knows which record is meant."""
    methods = (kind.add, kind.update, kind.delete) if kind.replaces else (later.method,)
    return (name for method in methods if method for name in method.required_fields)


def _is_same(first: _Said, later: _Said, name: str) -> bool:
    """Whether a field names the same record in both; a list is content, and names none."""
    former, value = first.fields.get(name, _MISSING), later.fields.get(name, _MISSING)
    return refs.is_list(former) or former == value


def _keeps_marker(first: _Said, later: _Said, kind: Kind) -> bool:
    """Whether an add is found again by the same key; an update may change it afterwards."""
    marker = kind.marker
    if marker is None:
        return True
    own = later.fields.keys() & {marker.key_field, marker.origin_field}
    # What is empty would be filled in an add, and is cleared by an update.
    return all(
        later.fields[name] not in (None, "") and later.fields[name] == first.fields.get(name)
        for name in own
    )


def _together(first: _Said, followers: Sequence[_Said], kind: Kind) -> Row:
    """The first row with what all of them say."""
    last = followers[-1]
    if kind.replaces or last.operation is Operation.DELETE:
        end = last.row
        return replace(first.row, operation=end.operation, fields=end.fields, params=end.params)
    fields = dict(first.fields)
    for later in followers:
        for name, value in later.fields.items():
            is_multiple = name in kind.multi_fields and name in fields
            fields[name] = multivalues.merged(name, fields[name], value) if is_multiple else value
    return replace(first.row, fields=fields)
