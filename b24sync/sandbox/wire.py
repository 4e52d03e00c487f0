"""HTTP messages as values: what came in, what goes out, and how parameters are read from it."""

import json
from dataclasses import dataclass
from email import message_from_bytes
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler

from b24sync.sandbox.php import name_path, parse_query, php_array, plant
from b24sync.sandbox.values import Record, Value

_JSON = "application/json; charset=utf-8"
_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_HTML = "text/html; charset=utf-8"


class Ending(Enum):
    """What becomes of the connection after an answer."""

    KEEP = auto()
    """It stays open as HTTP has it."""
    CUT = auto()
    """Half of the body is sent, then it closes."""
    RESET = auto()
    """Nothing is sent; it is reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, its body read whole."""

    verb: str
    path: str
    """Without query, as sent."""
    query: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """One answer."""

    status: int
    body: bytes = b""
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()
    ending: Ending = Ending.KEEP


def json_reply(status: int, payload: Value) -> HttpReply:
    """An answer with a JSON body. Raises: nothing."""
    return HttpReply(status=status, body=_ENCODE(payload).encode())


def html_reply(status: int) -> HttpReply:
    """An answer with the sort of page a web server shows. Raises: nothing."""
    title = f"{status} {BaseHTTPRequestHandler.responses.get(status, ('Status', ''))[0]}"
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body></html>"
    return HttpReply(status=status, body=page.encode(), content_type=_HTML)


def parameters(request: HttpRequest) -> Record:
    """The parameters of query and body together; the body wins.

    Shape: a body that cannot be read gives none, as on the portal.
    Raises: nothing.
    """
    found = parse_query(request.query) if request.query else {}
    if request.body:
        found.update(_body_parameters(request.content_type.lower(), request))
    return found


def _body_parameters(content_type: str, request: HttpRequest) -> Record:
    body = request.body
    if content_type.startswith("multipart/form-data"):
        return _multipart(request.content_type, body)
    if "json" in content_type or (body[:1] == b"{" and "form" not in content_type):
        return _json_object(body)
    return parse_query(body.decode("utf-8", "replace"))


def _json_object(body: bytes) -> Record:
    try:
        decoded: Value = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(decoded, dict):
        return {}
    return {name: value if name == "cmd" else php_array(value) for name, value in decoded.items()}


def _multipart(content_type: str, body: bytes) -> Record:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = message_from_bytes(head + body)
    tree: Record = {}
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        path = name_path(name) if isinstance(name, str) else ()
        if path and isinstance(content, bytes):
            plant(tree, path, content.decode("utf-8", "replace"))
    return {name: php_array(value) for name, value in tree.items()}
