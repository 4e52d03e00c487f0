"""One POST, one reply, no retry, no redirect followed.

Answers one question: what did the portal say, and if it said nothing, was it asked at all. A
reply is handed up as facts, whatever its status; an exchange without one is ``NeverSent`` where
that is certain and ``ReplyLost`` everywhere else. Knows nothing of tables, tasks or faults.

What bounds an exchange, all on the monotonic clock:

- the name look-up: only the system's resolver; but a request is never begun past the deadline;
- connecting (every address of the host, proxy tunnel, TLS handshake): ``connect_timeout_s``;
- sending: one timeout for each of head and body, set to what is left until the deadline, because
  the time-out of ``sendall`` covers the whole of it;
- receiving, headers as well as body: every single ``recv`` gets what is left until the deadline.
  A timeout per ``recv`` would let a server that dribbles hold a worker for ever.

What decides between the two errors is not the exception alone. One exception class covers a
handshake that failed and an encrypted connection that broke after the request was read, so each
connection notes when it stands open; before that moment nothing of a request can have left.
"""

import http.client
import json
import logging
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
)

from b24sync.core.errors import NeverSent, ReplyLost, SendError
from b24sync.core.model import Batch, Reply
from b24sync.edge.wire import EXCHANGE, Exchange, Stage, paced_adapter

_CHUNK_BYTES = 64 * 1024
_WAYS_LIMIT = 1000
_MOVED = range(300, 400)
_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_HOST_LIMIT = 253
_is_plain = re.compile(r"[!-~]+", re.ASCII).fullmatch
_SECRET_PATH = re.compile(r"(/rest/(?:api/)?\d+/)[^/?\s]+")

_TROUBLE = (requests.RequestException, HTTPError, http.client.HTTPException, OSError)
_CERTAINTIES = (
    NewConnectionError,
    ConnectTimeoutError,
    ProxyError,
    LocationValueError,
    ssl.SSLCertVerificationError,
    requests.ConnectTimeout,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.ProxyError,
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credential:
    """Where a portal is called, and as whom.

    Shape: for a webhook, ``base_url`` is ``https://host/rest/1/secret/`` and ``token`` is absent;
    for OAuth, ``base_url`` is ``https://host/rest/`` and ``token`` the access token.
    """

    base_url: str
    token: str | None = None

    def __repr__(self) -> str:
        """Show the host and the sort of credential, never the secret."""
        sort = "webhook" if self.token is None else "token"
        return f"Credential({_origin(self.base_url)}, {sort})"

    def address_of(self, method: str) -> str:
        """Give the URL of a method; it holds the secret of a webhook."""
        return f"{self.base_url.rstrip('/')}/{quote(method, safe='')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalClient:
    """Calls portals; safe to share between threads and to carry over a fork.

    Shape: each thread of each process opens connections of its own. ``ca_bundle`` and ``proxies``
    (scheme to URL) are taken from the environment if they are ``None``. ``adapter`` makes the
    transport, one for each thread.
    ``idle_limit_s``: a connection last written to longer ago is not used again, because servers
    close connections at rest, and one that closes while a request is on its way looks exactly
    like one that executed it and died. ``answer_limit_bytes``: a longer answer counts as lost.
    """

    connect_timeout_s: float = 5.0
    deadline_s: float = 70.0
    idle_limit_s: float = 25.0
    answer_limit_bytes: int = 64 * 1024 * 1024
    user_agent: str = "b24sync"
    ca_bundle: str | None = None
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    adapter: Callable[[], BaseAdapter] = field(default=paced_adapter, repr=False)
    _local: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def send(
        self, credential: Credential, batch: Batch, *, deadline_s: float | None = None
    ) -> Reply:
        """Send a batch and wait for the reply until the deadline.

        Shape: a batch of several is one call of the portal's ``batch``; a ``single`` one is its
        command's own method, called by itself.
        Units: ``deadline_s`` seconds from now for everything; the client's own if ``None``.
        Raises: NeverSent, ReplyLost; neither names the URL.
        Source: Bitrix24 REST manual, "How to Execute a Batch Request" and "Data Encoding".
        """
        if batch.single:
            command = batch.commands[0]
            return self.call(credential, command.method, command.query, deadline_s=deadline_s)
        body = json.dumps(_envelope(credential, batch), separators=(",", ":")).encode()
        return self._post(credential.address_of("batch"), _JSON, body, deadline_s)

    def call(
        self,
        credential: Credential,
        method: str,
        query: str = "",
        *,
        deadline_s: float | None = None,
    ) -> Reply:
        """Call one method with parameters already written as a query string.

        Units: ``deadline_s`` as for ``send``.
        Raises: NeverSent, ReplyLost; neither names the URL.
        """
        auth = () if credential.token is None else (f"auth={quote(credential.token, safe='')}",)
        body = "&".join(part for part in (query, *auth) if part).encode()
        return self._post(credential.address_of(method), _FORM, body, deadline_s)

    def post_form(
        self, url: str, fields: Mapping[str, str], *, deadline_s: float | None = None
    ) -> Reply:
        """Post a form to any address; what is secret stands in the body, where no proxy logs it.

        Units: ``deadline_s`` as for ``send``.
        Raises: NeverSent, ReplyLost; neither names the URL.
        """
        return self._post(url, _FORM, urlencode(fields).encode(), deadline_s)

    def close(self) -> None:
        """Close the calling thread's connections; those of other threads end with their thread."""
        line = getattr(self._local, "line", None)
        if isinstance(line, _Line):
            line.adapter.close()
            del self._local.line

    def _post(self, url: str, content_type: str, body: bytes, deadline_s: float | None) -> Reply:
        started_at = monotonic()
        until = started_at + (self.deadline_s if deadline_s is None else deadline_s)
        exchange = Exchange(
            connect_until=min(started_at + self.connect_timeout_s, until),
            until=until,
            opened_at=started_at,
            idle_limit_s=self.idle_limit_s,
            answer_limit_bytes=self.answer_limit_bytes,
        )
        headers = {
            "User-Agent": self.user_agent,
            "Accept": _JSON,
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
        }
        answer = _attempt(self._line(), exchange, url, headers, body)
        if isinstance(answer, SendError):
            raise answer
        return answer

    def _line(self) -> "_Line":
        line = getattr(self._local, "line", None)
        if isinstance(line, _Line) and line.pid == os.getpid():
            return line
        # After a fork this closes the child's copies only: the parent's sockets stay open.
        self.close()
        for name in ("urllib3.connection", "urllib3.connectionpool"):
            logging.getLogger(name).addFilter(_mask_secrets)
        opened = _Line(
            pid=os.getpid(),
            adapter=self.adapter(),
            ca_bundle=self.ca_bundle,
            proxies=self.proxies,
        )
        self._local.line = opened
        return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """What is the same each time one address is called, found once because finding it is dear."""

    request: requests.PreparedRequest
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One thread's transport, and the ways it knows."""

    pid: int
    adapter: BaseAdapter
    ca_bundle: str | None
    proxies: Mapping[str, str] | None = field(repr=False)
    ways: dict[str, _Way] = field(default_factory=dict[str, _Way], repr=False)

    def way(self, url: str) -> _Way:
        way = self.ways.get(url)
        if way is None:
            if len(self.ways) >= _WAYS_LIMIT:
                self.ways.clear()
            way = self.ways[url] = self._found(url)
        return way

    def _found(self, url: str) -> _Way:
        request = requests.Request("POST", url).prepare()
        with requests.Session() as session:
            found = session.merge_environment_settings(_origin(url) or "", {}, None, None, None)
        options = {
            "verify": self.ca_bundle or found["verify"],
            "proxies": found["proxies"] if self.proxies is None else dict(self.proxies),
        }
        return _Way(request=request, options=options)


def _attempt(
    line: _Line, exchange: Exchange, url: str, headers: Mapping[str, str], body: bytes
) -> Reply | SendError:
    # The error is a value until no other exception is being handled: what requests and urllib3
    # raise prints the URL, and would hang on ours as its context.
    token = EXCHANGE.set(exchange)
    try:
        way = line.way(url)
        request = way.request.copy()
        request.headers.update(headers)
        request.body = body
        left_s = exchange.left_s()
        exchange.stage = Stage.UNTRACKED
        response = line.adapter.send(request, stream=True, timeout=left_s, **way.options)
        with closing(response):
            answer = _reply(response, exchange, url)
    except _TROUBLE as trouble:
        return _judged(trouble, exchange)
    finally:
        EXCHANGE.reset(token)
    if isinstance(answer, Reply) and not answer.readable:
        # The portal's own answer may still come, and would be read as that to the next request.
        line.adapter.close()
    return answer


def _judged(trouble: Exception, exchange: Exchange) -> SendError:
    causes = tuple(_causes(trouble))
    names = " > ".join(type(cause).__name__ for cause in causes[-2:])
    took_s = monotonic() - exchange.opened_at
    match exchange.stage:
        case Stage.UNOPENED | Stage.CONNECTING:
            return NeverSent(names, took_s)
        case Stage.UNTRACKED if any(isinstance(cause, _CERTAINTIES) for cause in causes):
            return NeverSent(names, took_s)
        case Stage.UNTRACKED | Stage.OPEN:
            return ReplyLost(names, took_s)


def _causes(trouble: BaseException) -> Iterator[BaseException]:
    inner: object = trouble
    while isinstance(inner, BaseException):
        yield inner
        wrapped = (inner.reason,) if isinstance(inner, MaxRetryError) else inner.args
        inner = next((part for part in wrapped if isinstance(part, BaseException)), inner.__cause__)


def _reply(response: requests.Response, exchange: Exchange, url: str) -> Reply | SendError:
    content = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        content += chunk
        if len(content) > exchange.answer_limit_bytes:
            return ReplyLost("BodyTooLarge", monotonic() - exchange.opened_at)
        exchange.left_s()
    took_s = monotonic() - exchange.opened_at
    readable, body = _decoded(bytes(content))
    location = response.headers.get("location") if response.status_code in _MOVED else None
    return Reply(
        status=response.status_code,
        body=body,
        readable=readable,
        took_s=took_s,
        location=location and _origin(location, seen_from=url),
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _decoded(content: bytes) -> tuple[bool, object]:
    try:
        # Self-hosted portals put a byte order mark first once a settings file was saved with one.
        return True, _DECODER.decode(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False, None


def _envelope(credential: Credential, batch: Batch) -> Mapping[str, object]:
    lines = (
        f"{command.method}?{command.query}" if command.query else command.method
        for command in batch.commands
    )
    envelope: dict[str, object] = {
        "halt": int(batch.halt),
        "cmd": dict(zip(batch.labels, lines, strict=True)),
    }
    return envelope if credential.token is None else {**envelope, "auth": credential.token}


def _origin(url: str, *, seen_from: str = "") -> str | None:
    try:
        parts = urlsplit(urljoin(seen_from, url))
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    # It is written down: what no host can be called is not.
    is_host = host is not None and len(host) <= _HOST_LIMIT and _is_plain(host)
    return f"{parts.scheme}://{host}{port}" if is_host else None


def _mask_secrets(record: logging.LogRecord) -> bool:
    """Take the secret of a webhook out of what urllib3 logs of a request."""
    if isinstance(record.args, tuple):
        record.args = tuple(_masked(value) for value in record.args)
    # The traceback of headers that cannot be read quotes them, and with them a redirect's address.
    record.exc_info = None
    return True


def _masked(value: object) -> object:
    return _SECRET_PATH.sub(r"\1…", str(value)) if isinstance(value, str | Exception) else value
