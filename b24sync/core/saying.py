"""One row becomes the command that says it to the portal, or a reason why it cannot be said.

Every decision about one row stands here: what its operation is in effect, which remote ids take the
place of its references, how the values of its multi-value fields become rows with ids, how an add
is marked so that it can be found again. Which rows are said, and in which order, is planning's.

Words of one method (``fields``, ``id``, ``entityTypeId``) come from the table of kinds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias, cast
from urllib.parse import unquote

from b24sync.core import multivalues, refs
from b24sync.core.asking import about_matches, about_record
from b24sync.core.comparing import fingerprints
from b24sync.core.encoding import (
    MAX_VARIABLES,
    encode,
    mentions_result,
    variables,
    with_booleans,
)
from b24sync.core.errors import PlanError
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import (
    Command,
    Fault,
    Link,
    LinkState,
    Operation,
    Question,
    Ref,
    Row,
    Said,
    Unreadable,
)
from b24sync.core.policies import BY_MARKER, Policy, policy_of, within

MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""The longest command that is sent; half of what a whole batch may hold."""

MARKER_LENGTH = 255
"""The longest external key that the portal keeps whole."""

MARKER_BITS = 63

ORIGINATOR = "b24sync"
"""What an add says of where it comes from, in kinds that ask."""

Entity: TypeAlias = tuple[str, str]
"""Kind and key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read on the portal for this plan.

    Shape: by (kind, key): ``records`` as they are there, empty where there is none; ``matches``, the
    ids of records that may be the entity; ``failures``, complaints about a question.
    """

    records: Mapping[Entity, Mapping[str, object]] = field(
        default_factory=dict[Entity, Mapping[str, object]]
    )
    matches: Mapping[Entity, tuple[str, ...]] = field(default_factory=dict[Entity, tuple[str, ...]])
    failures: Mapping[Entity, Fault] = field(default_factory=dict[Entity, Fault])

    def __or__(self, other: "Facts") -> "Facts":
        """Both together; of the same entity the other's count."""
        return Facts(
            records={**self.records, **other.records},
            matches={**self.matches, **other.matches},
            failures={**self.failures, **other.failures},
        )


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a plan needs to know besides the rows.

    Shape: ``links`` by (kind, key); ``blocked`` by method, with the end of the block; ``makers``,
    the commands of the same batch that make an entity, empty where a batch goes on after a failure;
    ``lost``, why an entity will not get an id; ``cut``, by row, the entity that its add is sent
    without, because a circle of references is broken there.
    Units: ``now_ms`` and the ends are epoch milliseconds of the database's clock.
    """

    links: Mapping[Entity, Link] = field(default_factory=dict[Entity, Link])
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    policies: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    blocked: Mapping[str, int] = field(default_factory=dict[str, int])
    facts: Facts = NO_FACTS
    makers: Mapping[Entity, Command] = field(default_factory=dict[Entity, Command])
    lost: Mapping[Entity, str] = field(default_factory=dict[Entity, str])
    cut: Mapping[int, Ref] = field(default_factory=dict[int, Ref])
    now_ms: int = 0


_Part: TypeAlias = Mapping[str, object]

_NOBODY: Mapping[Entity, Command] = MappingProxyType({})

_UNCLEAR: Mapping[LinkState, str] = {
    LinkState.DOUBT: "it was made on the portal, which did not tell its id; look there first",
    LinkState.CONFLICT: "the portal gave it an id that belongs to another key; look there first",
}


class Unlinked(Exception):  # noqa: N818 - a signal to planning, not an error
    """A reference whose entity has no remote id yet."""

    def __init__(self, target: Ref) -> None:
        """Name the entity."""
        super().__init__(target.kind, target.key)
        self.target = target


class Unread(Exception):  # noqa: N818 - a signal to planning, not an error
    """Something has to be read on the portal first."""

    def __init__(self, question: Question) -> None:
        """Carry the question."""
        super().__init__(question.kind, question.key)
        self.question = question


class Unchanged(Exception):  # noqa: N818 - a signal to planning, not an error
    """The portal is so already; there is nothing to send."""


def say(row: Row, around: Surroundings) -> Command:
    """The command that says one row to the portal.

    Raises: PlanError for a row that cannot be said; Unlinked, Unread, Unchanged for one that must
    not be, or not yet.
    """
    try:
        return _say(row, around)
    except Unread as error:
        # A question travels before the batch, where the id of a maker is nothing but text.
        if not around.makers or not mentions_result(unquote(error.question.query)):
            raise
        return _say(row, replace(around, makers=_NOBODY))


def _say(row: Row, around: Surroundings) -> Command:
    row, remainder = _without_circle(row, around)
    taken: set[int] = set()
    fields = _resolved(row, "fields", row.fields, around, taken)
    params = _resolved(row, "params", row.params, around, taken)
    kind = find_kind(row.kind, around.kinds)
    if row.operation is Operation.CALL:
        return _call(row, fields, params, taken)
    if kind is None:
        raise PlanError("unknown_kind", "kind", f"{row.kind!r} is in no table of kinds")
    if row.operation is not Operation.DELETE and not fields and not params:
        raise PlanError("missing", "fields", f"are missing; say what to {row.operation}")
    link = _link(row, kind, fields, params, around)
    operation = _settled_operation(row, kind, link)
    method = method_of(kind, operation)
    if method is None:
        raise PlanError("no_method", "operation", f"{row.kind} has no method to {operation} one")
    remote_id = _remote_id(row, kind, operation, link)
    _require(method, fields, params)
    policy = within(policy_of(row.kind, around.policies), kind)
    prints = _fingerprints(kind, policy, operation, (fields, params), taken)
    if prints is not None and link is not None and operation is Operation.UPDATE:
        _refuse_repetition(prints, link)
    written = _with_values(row, kind, operation, (fields, params), remote_id, around)
    written, params, marker = _marked(kind, operation, (written, params), _name_of(row, link))
    body = _parameters(method, kind, written, params, remote_id)
    return Command(
        row_ids=(row.id,),
        kind=row.kind,
        key=row.key,
        operation=operation,
        method=method.name,
        query=_query(body),
        remote_id=remote_id,
        marker=marker,
        id_path=method.id_path if operation is Operation.ADD else None,
        gone=kind.gone,
        linked=kind.linked,
        repeatable=_is_repeatable(kind, operation, fields),
        alone=not taken and mentions_result(body),
        sources=tuple(sorted(taken)),
        remainder=remainder,
        fingerprints=_kept_prints(prints, operation, link),
        said=_to_verify(kind, policy, operation, (fields, params)) if not taken else None,
    )


def _without_circle(row: Row, around: Surroundings) -> tuple[Row, Mapping[str, object] | None]:
    """The row without the fields by which a circle of references is broken, and those fields."""
    target = around.cut.get(row.id)
    if target is None or not refs.is_mapping(row.fields):
        return row, None
    left_out = {
        name: value
        for name, value in row.fields.items()
        if target in refs.find({name: value}, "fields")
    }
    kept = {name: value for name, value in row.fields.items() if name not in left_out}
    return replace(row, fields=kept), left_out


def may_be_cut(row: Row, target: Ref, around: Surroundings) -> bool:
    """Whether an add can be sent without the fields that refer to this entity.

    Raises: nothing.
    """
    try:
        kind = find_kind(row.kind, around.kinds)
        link = around.links.get((row.kind, row.key))
        if kind is None or kind.add is None or not kind.linked or kind.whole:
            return False
        is_add = row.operation is Operation.ADD or row.operation is Operation.UPSERT
        if not is_add or (link is not None and link.remote_id is not None):
            return False
        if not refs.is_mapping(row.fields) or target in refs.find(row.params):
            return False
        names = {name for name, value in row.fields.items() if target in refs.find(value)}
    except PlanError:
        return False
    return bool(names) and names < row.fields.keys() and names.isdisjoint(kind.add.required_fields)


def _resolved(
    row: Row, name: str, part: object, around: Surroundings, taken: set[int]
) -> Mapping[str, object]:
    """A row's fields or params with remote ids in the place of references.

    Shape: the first rows of the commands whose ids are taken within the batch are put into ``taken``.
    """
    if part is None:
        return {}
    if isinstance(part, Unreadable):
        raise PlanError(
            "unreadable", name, "a number is too long or lists are nested too deep to be read"
        )
    if not refs.is_mapping(part) or refs.MARK in part:
        raise PlanError("not_an_object", name, f"an object of names is needed, not {_sort(part)}")
    # The portal would read an application's own text as a reference too: such a row goes alone.
    makers = around.makers
    if mentions_result((row.fields, row.params, row.key)):
        makers = _NOBODY

    def remote_id(ref: Ref, path: str) -> str:
        known = _known_id(row, ref, path, around)
        return known if known is not None else _taken_id(ref, makers, taken)

    # An object that is no reference itself comes back as an object.
    return cast("dict[str, object]", refs.resolve(part, remote_id, name))


def _known_id(row: Row, ref: Ref, path: str, around: Surroundings) -> str | None:
    """The id of what a row refers to; ``None``, it has none yet."""
    kind = find_kind(ref.kind, around.kinds)
    if kind is None:
        raise PlanError("unknown_kind", path, f"refers to {ref.kind!r}, in no table of kinds")
    if not kind.linked:
        raise PlanError("no_id", path, f"refers to {ref.kind!r}, of which none has an id")
    link = around.links.get((ref.kind, ref.key))
    if link is not None and link.remote_id is not None:
        return link.remote_id
    # An add can be sent without and be completed afterwards; nothing else gives it an id.
    is_own = (ref.kind, ref.key) == (row.kind, row.key)
    if is_own and row.operation not in (Operation.ADD, Operation.UPSERT):
        raise PlanError("no_link", path, "refers to the entity itself, which has no id yet")
    return None


def _taken_id(ref: Ref, makers: Mapping[Entity, Command], taken: set[int]) -> str:
    """The id that an earlier command of the same batch will have made."""
    maker = makers.get((ref.kind, ref.key))
    if maker is None or maker.id_path is None:
        raise Unlinked(ref)
    taken.add(maker.row_ids[0])
    return f"$result[{maker.label}]" + "".join(f"[{step}]" for step in maker.id_path)


def _link(row: Row, kind: Kind, fields: _Part, params: _Part, around: Surroundings) -> Link | None:
    """What is known of the entity's record; an unknown one is looked for, if its policy says so."""
    entity = (row.kind, row.key)
    link = around.links.get(entity)
    is_known = link is not None and (link.remote_id is not None or link.state in _UNCLEAR)
    by = within(policy_of(row.kind, around.policies), kind).match
    if is_known or by is None or not kind.linked or row.operation is Operation.ADD:
        return link
    question = _match_question(row, kind, by, (fields, params), link)
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
    row: Row, kind: Kind, by: str, parts: tuple[_Part, _Part], link: Link | None
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
    kind: Kind, policy: Policy, operation: Operation, parts: tuple[_Part, _Part], taken: set[int]
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
    kind: Kind, policy: Policy, operation: Operation, parts: tuple[_Part, _Part]
) -> Said | None:
    fields, params = parts
    is_write = operation in (Operation.ADD, Operation.UPDATE)
    can_compare = policy.verify and kind.get is not None and is_write
    return Said(fields=fields, params=params) if can_compare and fields else None


def _with_values(
    row: Row,
    kind: Kind,
    operation: Operation,
    parts: tuple[_Part, _Part],
    remote_id: str | None,
    around: Surroundings,
) -> _Part:
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


def _sort(value: object) -> str:
    """What people call a JSON value."""
    match value:
        case list():
            return "a list"
        case dict():
            return "a reference"
        case str():
            return "a text"
        case bool():
            return "true or false"
        case _:
            return "a number"


def _require(method: Method, fields: _Part, params: _Part) -> None:
    """Refuse what the method would do to another record than the one that is meant."""
    for name in method.required:
        if name not in params:
            raise PlanError("missing", f"params.{name}", f"is missing; {method.name} needs it")
    for name in method.required_fields:
        if name not in fields:
            raise PlanError("missing", f"fields.{name}", f"is missing; {method.name} needs it")


def _call(row: Row, fields: _Part, params: _Part, taken: set[int]) -> Command:
    """A call says exactly what its params say."""
    if fields:
        raise PlanError("call_with_fields", "fields", "a call carries params, not fields")
    method = row.method or ""
    if not is_method_name(method):
        raise PlanError("bad_method", "method", f"{method!r} is not the name of a single method")
    return Command(
        row_ids=(row.id,),
        kind=row.kind,
        key=row.key,
        operation=Operation.CALL,
        method=method,
        query=_query(params),
        alone=not taken and mentions_result(params),
        sources=tuple(sorted(taken)),
    )


def is_method_name(name: str) -> bool:
    """Whether this can be called by one command: dotted words, and not ``batch`` itself.

    Raises: nothing.
    """
    words = name.split(".")
    plain = all(word.replace("_", "").isalnum() and word.isascii() for word in words)
    return plain and name.casefold() != "batch"


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


def method_of(kind: Kind, operation: Operation) -> Method | None:
    """The method that carries an operation out; ``None`` where the kind has none.

    Raises: nothing.
    """
    match operation:
        case Operation.ADD:
            return kind.add
        case Operation.UPDATE:
            return kind.update
        case Operation.DELETE:
            return kind.delete
        case _:
            return None


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


def _marked(
    kind: Kind, operation: Operation, parts: tuple[_Part, _Part], name: str
) -> tuple[_Part, _Part, str | None]:
    """The fields and params of an add with the external key by which it can be found again.

    A key that the application sets itself is left as it is, and is the marker.
    """
    fields, params = parts
    marker = kind.marker
    if marker is None or operation is not Operation.ADD:
        return fields, params, None
    place = params if marker.in_params else fields
    own = place.get(marker.key_field)
    if own not in (None, ""):
        return fields, params, _own_marker(marker.key_field, own)
    if len(name) > MARKER_LENGTH:
        raise PlanError(
            "bad_marker",
            marker.key_field,
            f"{name!r} is longer than the {MARKER_LENGTH} characters of an external key; give one",
        )
    marked = {**place, marker.key_field: name}
    if marker.origin_field is not None:
        marked.setdefault(marker.origin_field, ORIGINATOR)
    return (fields, marked, name) if marker.in_params else (marked, params, name)


def _own_marker(name: str, value: object) -> str:
    """The application's own external key, if the portal will read the same text as is kept here."""
    match value:
        case str() if len(value) <= MARKER_LENGTH:
            return value
        case int() if not isinstance(value, bool) and value.bit_length() <= MARKER_BITS:
            return str(value)
        case _:
            raise PlanError(
                "bad_marker",
                name,
                f"an external key is a text of at most {MARKER_LENGTH} characters or a whole number",
            )


def _parameters(
    method: Method,
    kind: Kind,
    fields: Mapping[str, object],
    params: Mapping[str, object],
    remote_id: str | None,
) -> dict[str, object]:
    """Everything one method is called with, under the portal's names.

    Shape: in the order of fixed parameters, params, id and fields, which some methods read by
    position. What says which record is meant wins over a param or a field of the same name.
    """
    written = cast("dict[str, object]", with_booleans(fields, kind.yes_no))
    named = {method.param_names.get(name, name): value for name, value in params.items()}
    own: dict[str, object] = dict(method.fixed)
    outer, _, inner = (method.id_param or "").partition(".")
    if inner and remote_id is not None:
        written[inner] = remote_id
    elif outer and remote_id is not None:
        own[outer] = remote_id
    body: dict[str, object] = {**method.fixed, **named, **own}
    if method.fields_param is None:
        body.update(written)
    elif written or method.id_param is None:
        body[method.fields_param] = written
    return body | own


def _query(body: Mapping[str, object]) -> str:
    count = variables(body)
    if count > MAX_VARIABLES:
        raise PlanError(
            "too_many_values",
            "fields",
            f"{count} values in one command; a portal reads {MAX_VARIABLES} and drops the rest",
        )
    query = encode(body)
    if len(query) > MAX_COMMAND_BYTES:
        raise PlanError(
            "too_large", "fields", f"{len(query)} bytes as a command; {MAX_COMMAND_BYTES} may be"
        )
    return query


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
