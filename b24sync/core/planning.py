"""Rows become commands, or are refused with a reason.

The input is what one pass may look at: rows of one lane, each the first unfinished of its entity;
the links that they need; the methods that the portal has blocked. The output sorts every row into
exactly one place. Nothing is asked and nothing is touched.

Words of one method (``fields``, ``id``, ``entityTypeId``) come from the table of kinds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from b24sync.core import refs
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
    Closing,
    Command,
    Link,
    LinkState,
    Operation,
    Plan,
    Postponed,
    Ref,
    Refusal,
    ResultOutcome,
    Row,
    Unreadable,
    Waiting,
)

MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""The longest command that is sent; half of what a whole batch may hold."""

MARKER_LENGTH = 255
"""The longest external key that the portal keeps whole."""

MARKER_BITS = 63

ORIGINATOR = "b24sync"
"""What an add says of where it comes from, in kinds that ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a plan needs to know besides the rows.

    Shape: ``links`` by (kind, key); ``blocked`` by method, with the end of the block.
    Units: ``now_ms`` and the ends are epoch milliseconds of the database's clock.
    """

    links: Mapping[tuple[str, str], Link] = field(default_factory=dict[tuple[str, str], Link])
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    blocked: Mapping[str, int] = field(default_factory=dict[str, int])
    now_ms: int = 0


_Part: TypeAlias = Mapping[str, object]

_UNCLEAR: Mapping[LinkState, str] = {
    LinkState.DOUBT: "it was made on the portal, which did not tell its id; look there first",
    LinkState.CONFLICT: "the portal gave it an id that belongs to another key; look there first",
}


class _Unlinked(Exception):  # noqa: N818 - a signal inside this module, not an error
    """A reference whose entity has no remote id yet."""

    def __init__(self, target: Ref) -> None:
        super().__init__(target.kind, target.key)
        self.target = target


def needed_links(rows: Iterable[Row]) -> frozenset[tuple[str, str]]:
    """The entities whose links a plan of these rows will ask for.

    Shape: (kind, key) pairs; malformed references are passed over, the plan refuses them.
    Raises: nothing.
    """
    needed: set[tuple[str, str]] = set()
    for row in rows:
        needed.add((row.kind, row.key))
        for part in (row.fields, row.params):
            try:
                needed.update((ref.kind, ref.key) for ref in refs.find(part))
            except PlanError:
                continue
    return frozenset(needed)


def plan(rows: Sequence[Row], around: Surroundings) -> Plan:
    """Sort rows into commands, refusals, and rows that wait or end unsent.

    Shape: every row is in exactly one part of the plan; commands keep the order of the rows.
    Raises: nothing.
    """
    commands: list[Command] = []
    refusals: list[Refusal] = []
    waiting: list[Waiting] = []
    postponed: list[Postponed] = []
    closing: list[Closing] = []
    for row in rows:
        ending = _ending(row, around.now_ms)
        if ending is not None:
            closing.append(Closing(row_id=row.id, outcome=ending))
            continue
        try:
            command = say(row, around)
        except PlanError as error:
            refusals.append(
                Refusal(row_id=row.id, code=error.code, field=error.field, reason=error.reason)
            )
        except _Unlinked as error:
            waiting.append(Waiting(row_id=row.id, target=error.target))
        else:
            until_ms = around.blocked.get(command.method, 0)
            if until_ms > around.now_ms:
                postponed.append(Postponed(row_id=row.id, until_ms=until_ms))
            else:
                commands.append(command)
    return Plan(
        commands=tuple(commands),
        refusals=tuple(refusals),
        waiting=tuple(waiting),
        postponed=tuple(postponed),
        closing=tuple(closing),
    )


def _ending(row: Row, now_ms: int) -> ResultOutcome | None:
    if row.cancel_requested:
        return ResultOutcome.CANCELLED
    if row.expires_at_ms is not None and row.expires_at_ms <= now_ms:
        return ResultOutcome.EXPIRED
    return None


def say(row: Row, around: Surroundings) -> Command:
    """The command that says one row to the portal.

    Raises: PlanError, and this module's own signal for a reference that has no remote id yet.
    """
    fields = _resolved(row, "fields", row.fields, around)
    params = _resolved(row, "params", row.params, around)
    kind = find_kind(row.kind, around.kinds)
    if row.operation is Operation.CALL:
        return _call(row, fields, params)
    if kind is None:
        raise PlanError("unknown_kind", "kind", f"{row.kind!r} is in no table of kinds")
    if row.operation is not Operation.DELETE and not fields and not params:
        raise PlanError("missing", "fields", f"are missing; say what to {row.operation}")
    link = around.links.get((row.kind, row.key))
    operation = _settled_operation(row, kind, link)
    method = method_of(kind, operation)
    if method is None:
        raise PlanError("no_method", "operation", f"{row.kind} has no method to {operation} one")
    remote_id = _remote_id(row, kind, operation, link)
    _require(method, fields, params)
    generation = link.generation if link is not None else row.generation
    fields, params, marker = _marked(kind, operation, (fields, params), _name_of(row, generation))
    body = _parameters(method, kind, fields, params, remote_id)
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
        alone=mentions_result(body),
    )


def _resolved(row: Row, name: str, part: object, around: Surroundings) -> Mapping[str, object]:
    """A row's fields or params with remote ids in the place of references."""
    if part is None:
        return {}
    if isinstance(part, Unreadable):
        raise PlanError(
            "unreadable", name, "a number is too long or lists are nested too deep to be read"
        )
    if not refs.is_mapping(part) or refs.MARK in part:
        raise PlanError("not_an_object", name, f"an object of names is needed, not {_sort(part)}")

    def remote_id(ref: Ref, path: str) -> str:
        kind = find_kind(ref.kind, around.kinds)
        if kind is None:
            raise PlanError("unknown_kind", path, f"refers to {ref.kind!r}, in no table of kinds")
        if not kind.linked:
            raise PlanError("no_id", path, f"refers to {ref.kind!r}, of which none has an id")
        link = around.links.get((ref.kind, ref.key))
        if link is not None and link.remote_id is not None:
            return link.remote_id
        # Later changes of an entity stand behind this one: nobody would ever give it its id.
        if (ref.kind, ref.key) == (row.kind, row.key):
            raise PlanError("no_link", path, "refers to the entity itself, which has no id yet")
        raise _Unlinked(ref)

    # An object that is no reference itself comes back as an object.
    return cast("dict[str, object]", refs.resolve(part, remote_id, name))


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


def _call(row: Row, fields: Mapping[str, object], params: Mapping[str, object]) -> Command:
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
        alone=mentions_result(params),
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


def _name_of(row: Row, generation: int) -> str:
    """What an add is called on the portal; a record made anew has another name than its past."""
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
    """Whether doing it twice leaves the same state as doing it once."""
    if kind.replaces or operation is Operation.DELETE:
        return True
    return operation is Operation.UPDATE and not kind.multi_fields.intersection(fields)
