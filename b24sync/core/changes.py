"""A change is checked at the call that writes it, and becomes the values of one outbox row.

Whatever can be known without asking anybody is refused here, with the field and what to do, so
that the application's own transaction fails where the mistake was made and not hours later in a
dead letter. Values that JSON lacks but portals understand (dates with a zone, decimals) become
the text that the portal reads.
"""

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import TypeAlias
from uuid import UUID

from b24sync.core import refs
from b24sync.core.encoding import MAX_VARIABLES, encode, variables
from b24sync.core.errors import ChangeError, PlanError
from b24sync.core.kind_table import KINDS, find_kind
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import Change, Operation, Ref

KEY_LENGTH = 190
KIND_LENGTH = 64
PORTAL_LENGTH = 64
METHOD_LENGTH = 128
MAX_DEPTH = 32
MAX_CHANGE_BYTES = 7 * 1024 * 1024
"""Leaves room in the largest command for what the kind adds."""

SMALLEST_PRIORITY, LARGEST_PRIORITY = -32768, 32767
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CALL_KIND = "call"

RowValues: TypeAlias = dict[str, object]
"""Column names of the outbox to values that every database's driver takes."""


def checked(change: Change, kinds: Mapping[str, Kind], *, position: int | None = None) -> RowValues:
    """The outbox row of a change.

    Shape: the same columns for every change, so that many rows are one statement.
    Raises: ChangeError, naming the entity, the field and what to do; nothing else.
    """
    entity = f"{change.kind}:{change.key}"
    try:
        return _values(change, kinds)
    except _Refused as error:
        raise ChangeError(error.field, error.problem, entity=entity, position=position) from None
    except PlanError as error:
        raise ChangeError(error.field, error.reason, entity=entity, position=position) from None


class _Refused(Exception):  # noqa: N818 - a signal inside this module, not an error
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


def _values(change: Change, kinds: Mapping[str, Kind]) -> RowValues:
    _identifier("portal", change.portal, PORTAL_LENGTH)
    _identifier("kind", change.kind, KIND_LENGTH)
    _identifier("key", change.key, KEY_LENGTH)
    operation = _operation(change.operation)
    kind = _kind(change.kind, operation, kinds)
    _method(change.method, operation)
    fields = _tree(change.fields, "fields", kinds)
    params = _tree(change.params, "params", kinds)
    _content(operation, kind, fields, params)
    _size(fields, params)
    return {
        "portal": change.portal,
        "kind": change.kind,
        "entity_key": change.key,
        "operation": str(operation),
        "method": change.method,
        "fields": None
        if not fields and operation in (Operation.DELETE, Operation.CALL)
        else fields,
        "params": params or None,
        "priority": _priority(change.priority),
        "due_at": _instant("due_at", change.due_at) or 0,
        "expires_at": _instant("expires_at", change.expires_at),
        "mergeable": change.mergeable,
        "headers": _headers(change.headers),
    }


def _identifier(name: str, value: object, length: int) -> None:
    """Text that every database compares alike: MariaDB takes a trailing space for none."""
    if not isinstance(value, str):
        raise _Refused(name, f"text is needed, not {type(value).__name__}; write str(…) around it")
    if not value:
        raise _Refused(name, "is missing")
    if value != value.strip():
        raise _Refused(name, "begins or ends with white space, which databases compare differently")
    if len(value) > length:
        raise _Refused(name, f"{len(value)} characters; {length} may be")
    _text(name, value)


def _text(path: str, value: str) -> str:
    if "\0" in value:
        raise _Refused(path, "holds a NUL character, which no portal stores")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused(path, "holds half of a surrogate pair; decode the text anew") from None
    return value


def _operation(name: str) -> Operation:
    try:
        return Operation(name)
    except ValueError:
        known = ", ".join(Operation)
        raise _Refused("operation", f"{name!r} is none of {known}") from None


def _kind(name: str, operation: Operation, kinds: Mapping[str, Kind]) -> Kind | None:
    kind = find_kind(name, kinds)
    if operation is Operation.CALL and (kind is not None or name == CALL_KIND):
        return kind
    if kind is None:
        raise _Refused("kind", f"{name!r} is unknown; {_suggestion(name, kinds)}")
    for needed, method in _needed_methods(kind, operation):
        if method is None:
            raise _Refused("operation", f"{name} has no method to {needed} one")
    return kind


def _needed_methods(
    kind: Kind, operation: Operation
) -> tuple[tuple[Operation, Method | None], ...]:
    methods = {
        Operation.ADD: kind.add,
        Operation.UPDATE: kind.update,
        Operation.DELETE: kind.delete,
    }
    if operation is Operation.UPSERT:
        return (Operation.ADD, kind.add), (Operation.UPDATE, kind.update)
    if operation is Operation.CALL:
        return ()
    return ((operation, methods[operation]),)


def _suggestion(name: str, kinds: Mapping[str, Kind]) -> str:
    close = get_close_matches(name, [*KINDS, *kinds], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"{hint}kinds are those of the table (contact, deal, item:1036, …) and those declared in "
        "the setting b24sync_kinds"
    )


def _method(method: str | None, operation: Operation) -> None:
    if operation is not Operation.CALL:
        if method is not None:
            raise _Refused("method", "goes with the operation call only")
        return
    if not method:
        raise _Refused("method", "is missing; a call says which method")
    words = method.split(".")
    if not all(word.isascii() and word.replace("_", "").isalnum() for word in words):
        raise _Refused("method", f"{method!r} is not the name of a method")
    if method.casefold() == "batch":
        raise _Refused("method", "a batch cannot travel in a batch; write its calls one by one")
    if len(method) > METHOD_LENGTH:
        raise _Refused("method", f"{len(method)} characters; {METHOD_LENGTH} may be")


def _tree(value: object, name: str, kinds: Mapping[str, Kind]) -> dict[str, object]:
    if not refs.is_mapping(value):
        raise _Refused(name, f"a mapping is needed, not {type(value).__name__}")
    return {
        _name(key, name): _json(nested, f"{name}.{key}", kinds, MAX_DEPTH)
        for key, nested in value.items()
    }


def _json(value: object, path: str, kinds: Mapping[str, Kind], depth: int) -> object:
    """The value as JSON can carry it."""
    if depth == 0:
        raise _Refused(path, f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Ref):
        return _reference(value, path, kinds)
    if refs.is_mapping(value):
        if refs.MARK in value:
            return _reference(refs.read(value, path), path, kinds)
        return {
            _name(key, path): _json(nested, f"{path}.{key}", kinds, depth - 1)
            for key, nested in value.items()
        }
    if refs.is_list(value):
        return [_json(nested, f"{path}[{i}]", kinds, depth - 1) for i, nested in enumerate(value)]
    return _leaf(value, path)


def _leaf(value: object, path: str) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(path, str(value))
    if isinstance(value, int | float | Decimal):
        return _number(value, path)
    if isinstance(value, date | UUID):
        return _spelled(value, path)
    if isinstance(value, bytes | bytearray | memoryview):
        raise _Refused(path, "bytes; files travel as base64 text: base64.b64encode(…).decode()")
    raise _Refused(path, f"JSON cannot carry a {type(value).__name__}")


def _number(value: float | Decimal, path: str) -> object:
    """A decimal becomes text, so that no digit is lost on the way."""
    if not math.isfinite(value):
        raise _Refused(path, f"{value} is not a number that JSON can carry")
    if isinstance(value, Decimal):
        return format(value, "f")
    return int(value) if isinstance(value, int) else value


def _spelled(value: date | UUID, path: str) -> str:
    """Dates as the portal reads them (Bitrix24 REST manual, "Data Types")."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _Refused(path, "a date and time without a zone; say which, e.g. tzinfo=UTC")
        return value.isoformat(timespec="seconds")
    return value.isoformat() if isinstance(value, date) else str(value)


def _name(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise _Refused(path, f"field names are text, {key!r} is not")
    return _text(path, key)


def _reference(ref: Ref, path: str, kinds: Mapping[str, Kind]) -> dict[str, object]:
    if find_kind(ref.kind, kinds) is None:
        raise _Refused(path, f"refers to the kind {ref.kind!r}; {_suggestion(ref.kind, kinds)}")
    _identifier(f"{path} (the reference's key)", ref.key, KEY_LENGTH)
    return refs.stored(ref)


def _content(
    operation: Operation,
    kind: Kind | None,
    fields: Mapping[str, object],
    params: Mapping[str, object],
) -> None:
    """What an operation must carry, and what it must not."""
    if operation is Operation.CALL:
        if fields:
            raise _Refused("fields", "a call carries params, not fields")
        return
    if kind is None:  # pragma: no cover - an unknown kind was refused before
        return
    if operation is Operation.DELETE:
        if fields and kind.linked:
            raise _Refused("fields", "a delete carries none; the key says what is deleted")
    elif not fields and not params:
        raise _Refused("fields", f"are missing; say what to {operation}")
    for _, method in _needed_methods(kind, operation):
        if method is not None:
            _required(method, fields, params)


def _required(method: Method, fields: Mapping[str, object], params: Mapping[str, object]) -> None:
    for name in method.required:
        if name not in params:
            raise _Refused(f"params.{name}", f"is missing; {method.name} needs it")
    for name in method.required_fields:
        if name not in fields:
            raise _Refused(f"fields.{name}", f"is missing; {method.name} needs it")


def _size(fields: Mapping[str, object], params: Mapping[str, object]) -> None:
    """A change that fits no request would fail for ever; better now."""
    both = {"fields": fields, "params": params}
    count = variables(both)
    if count > MAX_VARIABLES:
        raise _Refused(
            "fields", f"{count} values; a portal reads {MAX_VARIABLES} of one command, split it"
        )
    size = len(encode(both))
    if size > MAX_CHANGE_BYTES:
        raise _Refused("fields", f"{size} bytes as a command; {MAX_CHANGE_BYTES} may be")


def _priority(value: int) -> int:
    if isinstance(value, bool) or not SMALLEST_PRIORITY <= value <= LARGEST_PRIORITY:
        raise _Refused("priority", f"a whole number from {SMALLEST_PRIORITY} to {LARGEST_PRIORITY}")
    return value


def _instant(name: str, value: datetime | None) -> int | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise _Refused(name, "a date and time without a zone; say which, e.g. tzinfo=UTC")
    return (value - EPOCH) // timedelta(milliseconds=1)


def _headers(headers: Mapping[str, object]) -> dict[str, str] | None:
    written: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(value, str):
            raise _Refused(f"headers.{name}", f"text is needed, not {type(value).__name__}")
        written[_name(name, "headers")] = _text(f"headers.{name}", value)
    return written or None
