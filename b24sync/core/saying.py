"""One row becomes the command that says it to the portal, or a reason why it cannot be said.

Every decision about one row stands here: what its operation is in effect, which remote ids take the
place of its references, how the values of its multi-value fields become rows with ids, how an add
is marked so that it can be found again. Which rows are said, and in which order, is planning's.

Words of one method (``fields``, ``id``, ``entityTypeId``) come from the table of kinds.
"""

from collections.abc import Mapping
from dataclasses import replace

from b24sync.core import multivalues
from b24sync.core.asking import about_matches, about_record
from b24sync.core.comparing import fingerprints
from b24sync.core.encoding import is_reference_in
from b24sync.core.errors import PlanError
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind
from b24sync.core.model import (
    Command,
    Link,
    LinkState,
    Operation,
    Question,
    Row,
    Said,
)
from b24sync.core.parameters import (
    ORIGINATOR,
    is_method_name,
    marked,
    method_of,
    parameters,
    query_of,
    require,
)
from b24sync.core.policies import BY_MARKER, Policy, policy_of, within
from b24sync.core.resolving import resolved, without_circle
from b24sync.core.surroundings import Part, Surroundings, Unchanged, Unread

_UNCLEAR: Mapping[LinkState, str] = {
    LinkState.DOUBT: "it was made on the portal, which did not tell its id; look there first",
    LinkState.CONFLICT: "the portal gave it an id that belongs to another key; look there first",
}


def say(row: Row, around: Surroundings) -> Command:
    """The command that says one row to the portal.

    Raises: PlanError for a row that cannot be said; Unlinked, Unread, Unchanged for one that must
    not be, or not yet.
    """
    try:
        return _say(row, around)
    except Unread as error:
        # A question travels before the batch, where the id of a maker is nothing but text.
        if not around.makers or not is_reference_in(error.question.query):
            raise
        return _say(row, replace(around, makers={}))


def _say(row: Row, around: Surroundings) -> Command:
    row, remainder = without_circle(row, around)
    taken: set[int] = set()
    fields = resolved(row, "fields", row.fields, around, taken)
    params = resolved(row, "params", row.params, around, taken)
    kind = find_kind(row.kind, around.kinds)
    if row.operation is Operation.CALL:
        return _call(row, fields, params, taken)
    if kind is None:
        raise PlanError("unknown_kind", "kind", f"{row.kind!r} is in no table of kinds")
    if row.operation is not Operation.DELETE and not fields and not params:
        raise PlanError("missing", "fields", f"are missing; say what to {row.operation}")
    policy = within(policy_of(row.kind, around.policies), kind)
    link = _link(row, kind, policy.match, (fields, params), around)
    operation = _settled_operation(row, kind, link)
    method = method_of(kind, operation)
    if method is None:
        raise PlanError("no_method", "operation", f"{row.kind} has no method to {operation} one")
    remote_id = _remote_id(row, kind, operation, link)
    require(method, fields, params)
    prints = _fingerprints(kind, policy, operation, (fields, params), taken)
    if prints is not None and link is not None and operation is Operation.UPDATE:
        _refuse_repetition(prints, link)
    written = _with_values(row, kind, operation, (fields, params), remote_id, around)
    written, params, marker = marked(kind, operation, (written, params), _name_of(row, link))
    query = query_of(parameters(method, kind, written, params, remote_id))
    return Command(
        row_ids=(row.id,),
        kind=row.kind,
        key=row.key,
        operation=operation,
        method=method.name,
        query=query,
        remote_id=remote_id,
        marker=marker,
        id_path=method.id_path if operation is Operation.ADD else None,
        gone=kind.gone,
        linked=kind.linked,
        repeatable=_is_repeatable(kind, operation, fields),
        alone=not taken and is_reference_in(query),
        sources=tuple(sorted(taken)),
        remainder=remainder,
        fingerprints=_kept_prints(prints, operation, link),
        said=_to_verify(kind, policy, operation, (fields, params)) if not taken else None,
    )


def _link(
    row: Row, kind: Kind, by: str | None, parts: tuple[Part, Part], around: Surroundings
) -> Link | None:
    """What is known of the entity's record; an unknown one is looked for, if its policy says so."""
    entity = (row.kind, row.key)
    link = around.links.get(entity)
    is_known = link is not None and (link.remote_id is not None or link.state in _UNCLEAR)
    if is_known or by is None or not kind.linked or row.operation is Operation.ADD:
        return link
    question = _match_question(row, kind, by, parts, link)
    if question is None:
        return link
    _refuse_failure(row, around, "key")
    found = around.facts.matches.get(entity)
    if found is None:
        raise Unread(question)
    if len(found) > 1:
        raise PlanError(
            "several_matches",
            "key",
            f"{len(found)} records of the portal match by {by}: {', '.join(found[:10])}; "
            "make one the entity's own with `b24sync links load`",
        )
    if found:
        raise PlanError(
            "link_conflict",
            "key",
            f"the portal's record {found[0]} matches by {by}, and belongs to another key",
        )
    return link


def _match_question(
    row: Row, kind: Kind, by: str, parts: tuple[Part, Part], link: Link | None
) -> Question | None:
    fields, params = parts
    marker = kind.marker if by == BY_MARKER else None
    wanted = {by: fields.get(by)}
    if marker is not None:
        # By what an add would carry.
        place = params if marker.in_params else fields
        own = place.get(marker.key_field)
        is_own = own not in (None, "")
        wanted = {marker.key_field: own if is_own else _name_of(row, link)}
        if marker.origin_field is not None and (not is_own or marker.origin_field in place):
            wanted[marker.origin_field] = place.get(marker.origin_field, ORIGINATOR)
    # An empty value is no sign of anything: half of all records would match it. Nor is a yes.
    if not all(_is_sign(value) for value in wanted.values()):
        return None
    return about_matches(row, kind, wanted, fields, params)


def _is_sign(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _refuse_failure(row: Row, around: Surroundings, name: str) -> None:
    fault = around.facts.failures.get((row.kind, row.key))
    if fault is not None:
        raise PlanError(
            "cannot_read",
            name,
            f"the portal would not let its record be read: {fault.code} {fault.text}".strip(),
        )


def _fingerprints(
    kind: Kind, policy: Policy, operation: Operation, parts: tuple[Part, Part], taken: set[int]
) -> Mapping[str, str] | None:
    """What is remembered of this change, so that the same one is not sent again.

    An update of a whole element clears what it does not say, so it never says the same again.
    """
    writes = operation in (Operation.ADD, Operation.UPDATE)
    if not policy.skip_unchanged or not kind.linked or kind.whole or not writes:
        return None
    fields, params = parts
    said = {**fields, "": params} if params else fields
    # An empty one is like none: for ids that are not known yet, and for what cannot be written.
    known: Mapping[str, str] = {} if taken else fingerprints(said, yes_no=kind.yes_no)
    return {**dict.fromkeys(said, ""), **known}


def _refuse_repetition(prints: Mapping[str, str], link: Link) -> None:
    former = link.sent or {}
    if all(former.get(name) == mark != "" for name, mark in prints.items()):
        raise Unchanged


def _kept_prints(
    prints: Mapping[str, str] | None, operation: Operation, link: Link | None
) -> Mapping[str, str] | None:
    """What the link remembers; where nothing is to be kept any more, nothing old may stay."""
    former = link.sent if link is not None else None
    if prints is None:
        return {} if former else None
    return {**(former or {}), **prints} if operation is Operation.UPDATE else prints


def _to_verify(
    kind: Kind, policy: Policy, operation: Operation, parts: tuple[Part, Part]
) -> Said | None:
    fields, params = parts
    is_write = operation in (Operation.ADD, Operation.UPDATE)
    can_compare = policy.verify and kind.get is not None and is_write
    return Said(fields=fields, params=params) if can_compare and fields else None


def _with_values(
    row: Row,
    kind: Kind,
    operation: Operation,
    parts: tuple[Part, Part],
    remote_id: str | None,
    around: Surroundings,
) -> Part:
    """The fields with the values of multi-value fields as the rows that the portal wants.

    An update needs the ids of the values that are there, or the portal would add to them.
    """
    fields, params = parts
    names = [
        name
        for name in sorted(kind.multi_fields.intersection(fields))
        if multivalues.is_values(name, fields[name])
    ]
    if not names:
        return fields
    written = dict(fields)
    record: Mapping[str, object] = {}
    is_read = operation is Operation.UPDATE and kind.get is not None and remote_id is not None
    if is_read and remote_id is not None:
        _refuse_failure(row, around, f"fields.{names[0]}")
        entity = (row.kind, row.key)
        if entity not in around.facts.records:
            raise Unread(about_record(row, kind, remote_id, names, params))
        record = around.facts.records[entity]
    for name in names:
        wire = (
            multivalues.for_update(name, fields[name], multivalues.present(name, record))
            if is_read
            else multivalues.for_add(name, fields[name])
        )
        if wire is None:
            del written[name]
        else:
            written[name] = wire
    if is_read and not written:
        raise Unchanged
    return written


def _call(row: Row, fields: Part, params: Part, taken: set[int]) -> Command:
    """A call says exactly what its params say."""
    if fields:
        raise PlanError("call_with_fields", "fields", "a call carries params, not fields")
    method = row.method or ""
    if not is_method_name(method):
        raise PlanError("bad_method", "method", f"{method!r} is not the name of a single method")
    query = query_of(params)
    return Command(
        row_ids=(row.id,),
        kind=row.kind,
        key=row.key,
        operation=Operation.CALL,
        method=method,
        query=query,
        alone=not taken and is_reference_in(query),
        sources=tuple(sorted(taken)),
    )


def _settled_operation(row: Row, kind: Kind, link: Link | None) -> Operation:
    """An upsert is an update where a link is known, and an add where none is."""
    if kind.linked and link is not None and link.state in _UNCLEAR:
        raise PlanError("link_unclear", "key", _UNCLEAR[link.state])
    known = link is not None and link.remote_id is not None
    if row.operation is Operation.UPSERT:
        return Operation.UPDATE if known and kind.linked else Operation.ADD
    if row.operation is Operation.ADD and known and kind.linked and link is not None:
        raise PlanError(
            "already_linked",
            "operation",
            f"already on the portal as {link.remote_id}; use upsert or update",
        )
    return row.operation


def _remote_id(row: Row, kind: Kind, operation: Operation, link: Link | None) -> str | None:
    if not kind.linked or operation is Operation.ADD:
        return None
    if link is None or link.remote_id is None:
        raise PlanError(
            "no_link",
            "key",
            f"{row.kind} {row.key!r} is not known on the portal; write an add or an upsert first",
        )
    return link.remote_id


def _name_of(row: Row, link: Link | None) -> str:
    """What an add is called on the portal; a record made anew has another name than its past."""
    generation = link.generation if link is not None else row.generation
    return f"{row.kind}:{row.key}#{generation}" if generation else f"{row.kind}:{row.key}"


def _is_repeatable(kind: Kind, operation: Operation, fields: Mapping[str, object]) -> bool:
    """Whether saying the row twice leaves the same state as saying it once.

    Values of multi-value fields are read again before they are said again.
    """
    if kind.replaces or operation is Operation.DELETE:
        return True
    if operation is not Operation.UPDATE:
        return False
    touched = kind.multi_fields.intersection(fields)
    return all(
        kind.get is not None and multivalues.is_values(name, fields[name]) for name in touched
    )
