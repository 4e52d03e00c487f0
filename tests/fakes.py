"""A portal that follows a script, for tests that want no socket."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the portal says to one request.

    Shape: ``body`` is sent as JSON, unless it is ``bytes``, which go out as they are.
    """

    body: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as the portal received it.

    Shape: ``method`` is the portal method, the last part of the address; ``params`` the decoded
    JSON object or the form's pairs.
    """

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes
    params: Mapping[str, Any]


Line = Answer | Exception | Callable[[Asked], "Answer | Exception"]
"""One entry of a script: an answer, an exception to raise, or a function that makes one."""


class ScriptedPortal(BaseAdapter):
    """A transport adapter from request to response; it never opens a socket.

    Give it to a client as ``PortalClient(adapter=lambda: portal)``. Each request takes the next
    line of the script; one more than there are lines fails the test. ``asked`` holds every
    request in order, those answered by an exception too::

        portal = ScriptedPortal([Answer(body={"result": ...}), requests.ReadTimeout()])

    The harmless question that goes to a portal after silence is answered besides the script, and
    counted in ``probes``; ``is_down`` leaves it unanswered too. With ``scripts_probes`` it takes a
    line of the script like any other.

    It tracks no connection, so an exception counts by its class alone: ``ConnectTimeout`` means
    that the request was never sent, ``ReadTimeout`` and a bare ``ConnectionError`` that the
    reply is lost.
    """

    def __init__(self, script: Iterable[Line]) -> None:
        """Take the script, one line for each request to come."""
        super().__init__()
        self._script = iter(script)
        self.asked: list[Asked] = []
        self.probes = 0
        self.is_down = False
        self.scripts_probes = False
        self.closed = 0

    def send(  # type: ignore[override] # the options are requests' own and mean nothing here
        self, request: requests.PreparedRequest, **_options: object
    ) -> requests.Response:
        """Note the request, and answer with the next line of the script."""
        asked = _asked(request)
        if not self.scripts_probes and _is_probe(asked):
            self.probes += 1
            if self.is_down:
                raise requests.ReadTimeout
            return _response(request, _well(asked))
        self.asked.append(asked)
        line = next(self._script, None)
        assert line is not None, f"request {len(self.asked)} ({asked.method}) is not in the script"
        said = line if isinstance(line, Answer | Exception) else line(asked)
        if isinstance(said, Exception):
            raise said
        return _response(request, said)

    def close(self) -> None:
        """Count that the client let go."""
        self.closed += 1


def _is_probe(asked: Asked) -> bool:
    return asked.method == "batch" and list(asked.params["cmd"].values()) == ["server.time"]


def _well(asked: Asked) -> Answer:
    sections = dict.fromkeys(asked.params["cmd"], "2026-11-01T12:00:00+03:00")
    return Answer(body={"result": {"result": sections}})


def _asked(request: requests.PreparedRequest) -> Asked:
    body = request.body or b""
    raw = body if isinstance(body, bytes) else str(body).encode()
    is_json = request.headers.get("Content-Type") == "application/json"
    url = request.url or ""
    return Asked(
        url=url,
        method=url.rsplit("/", maxsplit=1)[-1],
        headers=dict(request.headers),
        body=raw,
        params=json.loads(raw)
        if is_json
        else dict(parse_qsl(raw.decode(), keep_blank_values=True)),
    )


def _response(request: requests.PreparedRequest, answer: Answer) -> requests.Response:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    response = requests.Response()
    response.status_code = answer.status
    response.headers.update(answer.headers)
    response.url = request.url or ""
    response.request = request
    response.raw = HTTPResponse(
        body=BytesIO(body), status=answer.status, headers=answer.headers, preload_content=False
    )
    return response
