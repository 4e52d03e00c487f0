"""What a fault makes of an answer: error envelopes, HTML pages, halves, silence, redirects."""

from collections.abc import Callable
from dataclasses import replace

from b24sync.sandbox.faults import Fault, FaultAction
from b24sync.sandbox.wire import Ending, HttpReply, HttpRequest, html_reply, json_reply

_UNFINISHED = b'{"result":{"result":{'


def spoiled(fault: Fault, right: HttpReply, request: HttpRequest) -> HttpReply:
    """The answer that a client gets instead of the right one.

    Raises: nothing.
    """
    spoil = _SPOILERS.get(fault.action)
    return right if spoil is None else spoil(fault, right, request)


def _error(fault: Fault, _right: HttpReply, _request: HttpRequest) -> HttpReply:
    envelope = {"error": fault.code, "error_description": fault.text}
    return json_reply(fault.http_status, {**envelope})


def _html(fault: Fault, _right: HttpReply, _request: HttpRequest) -> HttpReply:
    return html_reply(fault.http_status)


def _cut_json(fault: Fault, right: HttpReply, _request: HttpRequest) -> HttpReply:
    half = right.body[: len(right.body) // 2] if fault.executed else _UNFINISHED
    return HttpReply(status=200, body=half)


def _cut_body(_fault: Fault, right: HttpReply, _request: HttpRequest) -> HttpReply:
    return replace(right, status=200, ending=Ending.CUT)


def _empty(fault: Fault, _right: HttpReply, _request: HttpRequest) -> HttpReply:
    return HttpReply(status=fault.http_status)


def _body(fault: Fault, _right: HttpReply, _request: HttpRequest) -> HttpReply:
    return HttpReply(status=fault.http_status, body=fault.text.encode())


def _reset(_fault: Fault, _right: HttpReply, _request: HttpRequest) -> HttpReply:
    return HttpReply(status=0, ending=Ending.RESET)


def _redirect(fault: Fault, _right: HttpReply, request: HttpRequest) -> HttpReply:
    query = f"?{request.query}" if request.query else ""
    target = fault.location.rstrip("/") + request.path + query
    return replace(html_reply(fault.http_status), headers=(("Location", target),))


_SPOILERS: dict[FaultAction, Callable[[Fault, HttpReply, HttpRequest], HttpReply]] = {
    FaultAction.ERROR: _error,
    FaultAction.HTML: _html,
    FaultAction.CUT_JSON: _cut_json,
    FaultAction.CUT_BODY: _cut_body,
    FaultAction.EMPTY: _empty,
    FaultAction.BODY: _body,
    FaultAction.RESET: _reset,
    FaultAction.REDIRECT: _redirect,
}
