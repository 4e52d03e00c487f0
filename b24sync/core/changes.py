"""A change is checked at the call that writes it, and becomes the values of one outbox row.

Whatever can be known without asking anybody is refused here, with the field and what to do, so
that the application's own transaction fails where the mistake was made and not hours later in a
dead letter. So that the two cannot differ, a change is also said as planning will say its row.
Values that JSON lacks but portals understand (dates with a zone, decimals) become the text that
the portal reads.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from typing import TypeAlias
from uuid import UUID

from b24sync.core import refs
from b24sync.core.errors import ChangeError, PlanError
from b24sync.core.kind_table import KINDS, find_kind
from b24sync.core.kinds import Kind
from b24sync.core.model import Change, Link, Operation, Ref, Row
from b24sync.core.parameters import is_method_name
from b24sync.core.resolving import may_be_cut
from b24sync.core.saying import say
from b24sync.core.surroundings import Facts, Surroundings, Unchanged, Unlinked

KEY_LENGTH = refs.KEY_LENGTH
KIND_LENGTH = refs.KIND_LENGTH
PORTAL_LENGTH = 64
METHOD_LENGTH = 128
MAX_DEPTH = 32
MAX_DIGITS = 1000
JSON_BITS = 63
"""A longer whole number is rounded by databases that keep the numbers of JSON as floats."""

MAX_CHANGE_BYTES = 7 * 1024 * 1024
"""Leaves room in the largest command for the ids that references become."""

SMALLEST, LARGEST = -32768, 32767
"""Priorities; databases keep them in two bytes."""

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
    operation = _operation(change.operation)
    row = Row(
        id=0,
        portal=_identifier("portal", change.portal, PORTAL_LENGTH),
        lane=0,
        kind=_identifier("kind", change.kind, KIND_LENGTH),
        key=_identifier("key", change.key, KEY_LENGTH),
        operation=operation,
        fields=_tree(change.fields, "fields", kinds),
        params=_tree(change.params, "params", kinds),
        method=_method(change.method, operation),
    )
    _content(row, _kind(row.kind, operation, kinds))
    _sayable(row, kinds)
    is_bare = operation in (Operation.DELETE, Operation.CALL)
    return {
        "portal": row.portal,
        "kind": row.kind,
        "entity_key": row.key,
        "operation": str(operation),
        "method": row.method,
        "fields": None if is_bare and not row.fields else row.fields,
        "params": row.params or None,
        "priority": _priority(change.priority),
        "due_at": _instant("due_at", change.due_at) or 0,
        "expires_at": _instant("expires_at", change.expires_at),
        "mergeable": _flag("mergeable", change.mergeable),
        "headers": _headers(change.headers),
    }


def _identifier(name: str, value: object, length: int) -> str:
    """Text that every database compares alike: MariaDB takes a trailing space for none."""
    if not isinstance(value, str):
        raise _Refused(name, f"text is needed, not {type(value).__name__}; write str(…) around it")
    if not value:
        raise _Refused(name, "is missing")
    if value != value.strip():
        raise _Refused(name, "begins or ends with white space, which databases compare differently")
    if len(value) > length:
        raise _Refused(name, f"{len(value)} characters; {length} may be")
    return _text(name, value)


def _text(path: str, value: str) -> str:
    if "\0" in value:
        raise _Refused(path, "holds a NUL character, which no portal stores")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused(path, "holds half of a surrogate pair; decode the text anew") from None
    # A member of an enumeration is a text too, and formats itself as it likes.
    return str.__str__(value)


def _operation(name: str) -> Operation:
    try:
        return Operation(name)
    except ValueError:
        known = ", ".join(Operation)
        raise _Refused("operation", f"{name!r} is none of {known}") from None


def _kind(name: str, operation: Operation, kinds: Mapping[str, Kind]) -> Kind | None:
    kind = find_kind(name, kinds)
    if kind is None and not (operation is Operation.CALL and name == CALL_KIND):
        raise _Refused("kind", f"{name!r} is unknown; {_suggestion(name, kinds)}")
    return kind


def _suggestion(name: str, kinds: Mapping[str, Kind]) -> str:
    close = get_close_matches(name, [*KINDS, *kinds], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"{hint}kinds are those of the table (contact, deal, item:1036, …) and those declared in "
        "the setting b24sync_kinds"
    )


def _method(method: object, operation: Operation) -> str | None:
    if operation is not Operation.CALL:
        if method is not None:
            raise _Refused("method", "goes with the operation call only")
        return None
    if not method:
        raise _Refused("method", "is missing; a call says which method")
    name = _identifier("method", method, METHOD_LENGTH)
    if name.casefold() == "batch":
        raise _Refused("method", "a batch cannot travel in a batch; write its calls one by one")
    if not is_method_name(name):
        raise _Refused("method", f"{name!r} is not the name of a method")
    return name


def _tree(value: object, name: str, kinds: Mapping[str, Kind]) -> dict[str, object]:
    if not refs.is_mapping(value):
        raise _Refused(name, f"a mapping is needed, not {type(value).__name__}")
    if refs.MARK in value:
        raise _Refused(name, "a reference stands for the value of one field, not for all of them")
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
        return _text(path, value)
    if isinstance(value, int | float | Decimal):
        return _number(value, path)
    if isinstance(value, date | UUID):
        return _spelled(value, path)
    if isinstance(value, bytes | bytearray | memoryview):
        raise _Refused(path, "bytes; files travel as base64 text: base64.b64encode(…).decode()")
    raise _Refused(path, f"JSON cannot carry a {type(value).__name__}")


def _number(value: float | Decimal, path: str) -> object:
    """What JSON could round becomes text, so that no digit is lost on the way."""
    if isinstance(value, int):
        if abs(value) >= 10**MAX_DIGITS:
            raise _Refused(path, f"has more than {MAX_DIGITS} digits")
        return int(value) if value.bit_length() <= JSON_BITS else format(int(value), "d")
    is_finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
    if not is_finite:
        raise _Refused(path, f"{value} is not a number that JSON can carry")
    return _decimal(value, path) if isinstance(value, Decimal) else float(value)


def _decimal(value: Decimal, path: str) -> str:
    # The exponent is unbounded: twelve characters could become a gigabyte of zeros.
    if len(value.as_tuple().digits) > MAX_DIGITS or abs(value.adjusted()) > MAX_DIGITS:
        raise _Refused(path, f"has more than {MAX_DIGITS} digits")
    return format(value, "f")


def _spelled(value: date | UUID, path: str) -> str:
    """Dates as the portal reads them (Bitrix24 REST manual, "Data Types")."""
    if isinstance(value, datetime):
        return _zoned(path, value).isoformat(timespec="seconds")
    return value.isoformat() if isinstance(value, date) else str(value)


def _name(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise _Refused(path, f"field names are text, {key!r} is not")
    return _text(path, key)


def _reference(ref: Ref, path: str, kinds: Mapping[str, Kind]) -> dict[str, object]:
    kind = _identifier(f"{path} (the reference's kind)", ref.kind, KIND_LENGTH)
    if find_kind(kind, kinds) is None:
        raise _Refused(path, f"refers to the kind {kind!r}; {_suggestion(kind, kinds)}")
    key = _identifier(f"{path} (the reference's key)", ref.key, KEY_LENGTH)
    return refs.stored(Ref(kind, key))


def _content(row: Row, kind: Kind | None) -> None:
    """What an operation must not carry."""
    if row.operation is Operation.DELETE and row.fields and kind is not None and kind.linked:
        raise _Refused("fields", "a delete carries none; the key says what is deleted")


def _sayable(row: Row, kinds: Mapping[str, Kind]) -> None:
    """Say the row once for each thing that may be known of its entity when its turn comes."""
    own = (row.kind, row.key)
    others = {
        (ref.kind, ref.key) for part in (row.fields, row.params) for ref in refs.find(part)
    } - {own}
    if row.operation is not Operation.ADD:
        _said(row, others | {own}, kinds)
    if row.operation in (Operation.ADD, Operation.UPSERT):
        _said(row, others, kinds)


def _said(row: Row, known: Iterable[tuple[str, str]], kinds: Mapping[str, Kind]) -> None:
    """A change that fits no request would fail for ever; better now."""
    links = {(kind, key): Link(kind=kind, key=key, remote_id="0") for kind, key in known}
    # As if there were nothing on the portal yet: then every value has to be sent.
    facts = Facts(records={(row.kind, row.key): {}})
    around = Surroundings(links=links, kinds=kinds, facts=facts)
    try:
        size = len(say(row, around).query)
    except Unchanged:
        return
    except Unlinked as error:
        # Only the entity itself is not known here: its add goes without, and an update follows.
        if not may_be_cut(row, error.target, around):
            raise _Refused("fields", "refer to the entity itself, which has no id yet") from None
        size = len(say(row, replace(around, cut={row.id: error.target})).query)
    if size > MAX_CHANGE_BYTES:
        raise _Refused("fields", f"{size} bytes as a command; {MAX_CHANGE_BYTES} may be")


def _priority(value: object) -> int:
    match value:
        case int() if not isinstance(value, bool) and SMALLEST <= value <= LARGEST:
            return int(value)
        case _:
            raise _Refused("priority", f"a whole number from {SMALLEST} to {LARGEST} is needed")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _Refused(name, f"True or False is needed, not {type(value).__name__}")
    return value


def _instant(name: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise _Refused(name, f"a date and time is needed, not {type(value).__name__}")
    return (_zoned(name, value) - EPOCH) // timedelta(milliseconds=1)


def _zoned(path: str, value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise _Refused(path, "a date and time without a zone; say which, e.g. tzinfo=UTC")
    return value


def _headers(headers: object) -> dict[str, str] | None:
    if not refs.is_mapping(headers):
        raise _Refused("headers", f"a mapping is needed, not {type(headers).__name__}")
    written: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(value, str):
            raise _Refused(f"headers.{name}", f"text is needed, not {type(value).__name__}")
        written[_name(name, "headers")] = _text(f"headers.{name}", value)
    return written or None
