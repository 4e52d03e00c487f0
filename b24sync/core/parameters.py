"""What one method is called with: parameters under the portal's names, and the marker of an add.

Words of one method (``fields``, ``id``, ``entityTypeId``) come from the table of kinds.
"""

from collections.abc import Mapping
from typing import cast

from b24sync.core.encoding import MAX_VARIABLES, encode, variables, with_booleans
from b24sync.core.errors import PlanError
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import Operation
from b24sync.core.surroundings import Part

MAX_COMMAND_BYTES = 8 * 1024 * 1024
"""The longest command that is sent; half of what a whole batch may hold."""

MARKER_LENGTH = 255
"""The longest external key that the portal keeps whole."""

MARKER_BITS = 63

ORIGINATOR = "b24sync"
"""What an add says of where it comes from, in kinds that ask."""


def is_method_name(name: str) -> bool:
    """Whether this can be called by one command: dotted words, and not ``batch`` itself.

    Raises: nothing.
    """
    words = name.split(".")
    plain = all(word.replace("_", "").isalnum() and word.isascii() for word in words)
    return plain and name.casefold() != "batch"


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


def require(method: Method, fields: Part, params: Part) -> None:
    """Refuse what the method would do to another record than the one that is meant."""
    for name in method.required:
        if name not in params:
            raise PlanError("missing", f"params.{name}", f"is missing; {method.name} needs it")
    for name in method.required_fields:
        if name not in fields:
            raise PlanError("missing", f"fields.{name}", f"is missing; {method.name} needs it")


def marked(
    kind: Kind, operation: Operation, parts: tuple[Part, Part], name: str
) -> tuple[Part, Part, str | None]:
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


def parameters(
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


def query_of(body: Mapping[str, object]) -> str:
    """One command's parameters as the portal reads them.

    Raises: PlanError for more than it reads, or than fits a command.
    """
    query = encode(body)
    count = variables(query)
    if count > MAX_VARIABLES:
        raise PlanError(
            "too_many_values",
            "fields",
            f"{count} values in one command; a portal reads {MAX_VARIABLES} and drops the rest",
        )
    if len(query) > MAX_COMMAND_BYTES:
        raise PlanError(
            "too_large", "fields", f"{len(query)} bytes as a command; {MAX_COMMAND_BYTES} may be"
        )
    return query
