"""Planned misbehaviour: which requests or commands go wrong, how, and how many times.

A fault is armed once and fires on the requests that match it, oldest fault first, until its times
are used up. A fault that fires after `executed` work leaves that work committed.
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from b24sync.sandbox.values import Record, Refusal, mapping, text


class FaultAction(StrEnum):
    """What goes wrong."""

    ERROR = "error"
    """The whole request is answered with `status`, `code` and `text`."""
    COMMAND = "command"
    """One command fails with `code` and `text`; a single call gets `status` as well."""
    HTML = "html"
    """An HTML page with `status`."""
    CUT_JSON = "cut_json"
    """Half of the JSON answer, announced with its true length."""
    CUT_BODY = "cut_body"
    """Half of the bytes announced, then the connection closes."""
    EMPTY = "empty"
    """HTTP `status` without a body."""
    BODY = "body"
    """HTTP `status` with `text` as body, such as `[]`."""
    RESET = "reset"
    """The connection is reset without an answer."""
    SLOW = "slow"
    """The right answer, `delay_s` late; executed says whether before or after the wait."""
    REDIRECT = "redirect"
    """302 to `location`, the path of the request kept."""


_STATUS_OF_CODE = {
    "QUERY_LIMIT_EXCEEDED": 503,
    "OVERLOAD_LIMIT": 503,
    "OPERATION_TIME_LIMIT": 429,
    "EXPIRED_TOKEN": 401,
    "INVALID_TOKEN": 401,
    "NO_AUTH_FOUND": 401,
    "INVALID_CREDENTIALS": 401,
    "AUTHORIZATION_ERROR": 401,
    "PAYMENT_REQUIRED": 401,
    "APPLICATION_NOT_FOUND": 401,
    "NOT_INSTALLED": 401,
    "ERROR_OAUTH": 401,
    "METHOD_CONFIRM_WAITING": 401,
    "METHOD_CONFIRM_DENIED": 403,
    "ACCESS_DENIED": 403,
    "INSUFFICIENT_SCOPE": 403,
    "USER_ACCESS_ERROR": 403,
    "AUTHORIZE_ERROR": 403,
    "WRONG_AUTH_TYPE": 403,
    "PORTAL_DELETED": 500,
    "INTERNAL_SERVER_ERROR": 500,
    "ERROR_UNEXPECTED_ANSWER": 500,
    "ERROR_METHOD_NOT_FOUND": 404,
}
_USUAL_STATUS = {
    FaultAction.HTML: 502,
    FaultAction.EMPTY: 200,
    FaultAction.BODY: 200,
    FaultAction.REDIRECT: 302,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """What a fault can see of a request before anything of it runs."""

    number: int
    """Position among all received requests, from 1."""
    method: str
    """REST method, lower case: "batch", "crm.item.add", "oauth.token"."""
    commands: tuple[tuple[str, str], ...]
    """Label and method (lower case) of each command; one with an empty label for a single call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One planned fault; fields left alone match everything."""

    action: FaultAction
    times: int | None = 1
    """How often it fires; None: always."""
    skip: int = 0
    """Matching requests (or commands) let through before the first time."""
    executed: bool = False
    """Whether the work is done before things go wrong."""
    commands: int | None = None
    """With executed: only the first so many commands of a batch are done."""

    method: str | None = None
    """Pattern (* and ?) of the request's method, or of the method of one of its commands."""
    label: str | None = None
    """Pattern (* and ?) of a command's label."""
    field: str | None = None
    """COMMAND only: a field (or parameter) that the command must carry."""
    matches: str = ""
    """COMMAND only: regular expression found in the value of `field`."""
    after_s: float = 0.0
    """Start of its time window, seconds after it was armed."""
    until_s: float | None = None
    """End of its time window, seconds after it was armed; None: open."""
    when: Callable[[RequestView], bool] | None = None
    """Any further condition on a request; not for COMMAND."""

    status: int | None = None
    """HTTP status; None: the usual one of the action or code."""
    code: str | int = "INTERNAL_SERVER_ERROR"
    """Error code."""
    text: str = "Sandbox fault"
    """Error text, or the body for BODY."""
    delay_s: float = 0.0
    """SLOW: seconds of delay."""
    location: str = ""
    """REDIRECT: scheme and host of the new address."""

    @property
    def refusal(self) -> Refusal:
        """What a command is refused with."""
        return Refusal(self.code, self.text, self.http_status)

    @property
    def http_status(self) -> int:
        """The HTTP status it answers with."""
        if self.status is not None:
            return self.status
        if self.action in _USUAL_STATUS:
            return _USUAL_STATUS[self.action]
        return _STATUS_OF_CODE.get(str(self.code).upper(), 400)


@dataclass(slots=True)
class _Armed:
    fault: Fault
    armed_at: float
    left: int | None
    to_skip: int


class FaultPlan:
    """The armed faults; safe to use from several threads."""

    def __init__(self) -> None:
        """Start without any."""
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    @property
    def any_armed(self) -> bool:
        """Whether a request has to be looked at."""
        return bool(self._armed)

    def add(self, fault: Fault) -> None:
        """Arm a fault. Raises: nothing."""
        with self._lock:
            self._armed.append(_Armed(fault, time.monotonic(), fault.times, fault.skip))

    def clear(self) -> None:
        """Disarm all."""
        with self._lock:
            self._armed.clear()

    def pending(self) -> list[Fault]:
        """The armed faults that have not used up their times."""
        with self._lock:
            return [armed.fault for armed in self._armed]

    def for_request(self, view: RequestView) -> Fault | None:
        """The fault that befalls this request, if any; uses one of its times."""
        return self._take(lambda fault: _befalls_request(fault, view))

    def for_command(self, label: str, method: str, params: Record) -> Fault | None:
        """The fault that befalls this command, if any; uses one of its times."""
        return self._take(lambda fault: _befalls_command(fault, label, method, params))

    def _take(self, befalls: Callable[[Fault], bool]) -> Fault | None:
        now = time.monotonic()
        with self._lock:
            for armed in self._armed:
                if not _in_window(armed, now) or not befalls(armed.fault):
                    continue
                if armed.to_skip > 0:
                    armed.to_skip -= 1
                    continue
                if armed.left is not None:
                    armed.left -= 1
                    if armed.left <= 0:
                        self._armed.remove(armed)
                return armed.fault
        return None


def _in_window(armed: _Armed, now: float) -> bool:
    age = now - armed.armed_at
    fault = armed.fault
    return age >= fault.after_s and (fault.until_s is None or age < fault.until_s)


def _befalls_request(fault: Fault, view: RequestView) -> bool:
    if fault.action is FaultAction.COMMAND:
        return False
    methods = [view.method, *(method for _, method in view.commands)]
    if fault.method is not None and not any(_fits(fault.method, m) for m in methods):
        return False
    labels = [label for label, _ in view.commands]
    if fault.label is not None and not any(fnmatchcase(label, fault.label) for label in labels):
        return False
    return fault.when is None or fault.when(view)


def _befalls_command(fault: Fault, label: str, method: str, params: Record) -> bool:
    if fault.action is not FaultAction.COMMAND:
        return False
    if fault.method is not None and not _fits(fault.method, method):
        return False
    if fault.label is not None and not fnmatchcase(label, fault.label):
        return False
    if fault.field is None:
        return True
    fields = mapping(params.get("fields")) or params
    return fault.field in fields and bool(re.search(fault.matches, text(fields[fault.field])))


def _fits(pattern: str, method: str) -> bool:
    return fnmatchcase(method, pattern.lower())
