"""From an HTTP request to an HTTP answer, without a socket: routes, credentials, faults, journal."""

import itertools
import time
from dataclasses import dataclass

from b24sync.sandbox.batch import commands_of, error_of, method_of, run_batch
from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.executor import Executor, OutOfTime, Session, ids_as_text
from b24sync.sandbox.faults import Fault, FaultAction, FaultPlan, RequestView
from b24sync.sandbox.journal import Journal, ReceivedRequest
from b24sync.sandbox.limits import Bucket
from b24sync.sandbox.oauth import Tokens
from b24sync.sandbox.spoiling import spoiled
from b24sync.sandbox.values import Record, Refusal, Value, text
from b24sync.sandbox.wire import (
    Ending,
    HttpReply,
    HttpRequest,
    html_reply,
    json_reply,
    parameters,
)

_WEBHOOK_PARTS = 4
_OAUTH_PARTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Incoming:
    """A request to a REST method or to the authorization server, read but not yet judged."""

    number: int
    received_at: float
    masked_path: str
    method: str
    credential: str
    webhook: tuple[str, str] | None
    """User and code of the path; None if the path has none."""
    params: Record
    commands: tuple[tuple[str, str], ...]
    http: HttpRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """An answer and the error code that it carries for the request as a whole."""

    reply: HttpReply
    code: str = ""


class Portal:
    """One emulated portal."""

    def __init__(self, config: SandboxConfig) -> None:
        """Start with an empty portal. Raises: OSError if the journal's file cannot be opened."""
        self.config = config
        self.base_url = ""
        self.faults = FaultPlan()
        self.journal = Journal(config.journal_path)
        self.tokens = Tokens(config)
        self.bucket = Bucket(config)
        self.executor = Executor(config, self.faults, self.journal)
        self._numbers = itertools.count(1)

    def reset(self) -> None:
        """Forget records, journal, faults, used limits and renewed tokens."""
        self.faults.clear()
        self.executor.reset()
        self.journal.clear()
        self.bucket.empty()
        self.tokens.reset()
        self._numbers = itertools.count(1)

    def handle(self, request: HttpRequest) -> HttpReply:
        """Answer one request.

        Writes: the journal; records as the methods do.
        Raises: OSError of the journal's file.
        """
        if _exceeds(len(request.path) + len(request.query), self.config.url_limit_bytes):
            return html_reply(414)
        if _exceeds(len(request.body), self.config.body_limit_bytes):
            return html_reply(413)
        incoming = self._read(request)
        if incoming is None:
            return html_reply(404)
        self.executor.pause(self.config.latency_s)
        armed = self.faults.any_armed
        fault = self.faults.for_request(_view(incoming)) if armed else None
        if fault is None:
            answered = self._answer(incoming, None)
        else:
            answered = self._answer_badly(incoming, fault)
        self._note(incoming, answered, fault)
        return answered.reply

    def _read(self, request: HttpRequest) -> _Incoming | None:
        parts = [part for part in request.path.split("/") if part]
        webhook: tuple[str, str] | None = None
        shown = list(parts)
        if parts[:2] == ["oauth", "token"]:
            method, credential = "oauth.token", "none"
        elif parts[:1] == ["rest"] and len(parts) == _WEBHOOK_PARTS:
            webhook, credential = (parts[1], parts[2]), "webhook"
            shown[2] = "***"
            method = _method_name(parts[3])
        elif parts[:1] == ["rest"] and len(parts) == _OAUTH_PARTS:
            method, credential = _method_name(parts[1]), "oauth"
        else:
            return None
        params = parameters(request)
        commands: tuple[tuple[str, str], ...] = (("", method),)
        if method == "batch":
            commands = tuple((label, method_of(cmd)) for label, cmd in commands_of(params))
        return _Incoming(
            number=next(self._numbers),
            received_at=time.time(),
            masked_path="/" + "/".join(shown),
            method=method,
            credential=credential,
            webhook=webhook,
            params=params,
            commands=commands,
            http=request,
        )

    def _answer(self, incoming: _Incoming, commands_left: int | None) -> _Answered:
        try:
            if incoming.method == "oauth.token":
                renewed = self.tokens.renew(incoming.params, self.base_url)
                return _Answered(reply=json_reply(200, renewed))
            return _Answered(reply=json_reply(200, self._result(incoming, commands_left)))
        except Refusal as refusal:
            reply = json_reply(refusal.status, error_of(refusal))
            return _Answered(reply=reply, code=str(refusal.code))
        except OutOfTime:
            if self.config.request_limit_resets:
                return _Answered(reply=HttpReply(status=0, ending=Ending.RESET))
            return _Answered(reply=html_reply(504))

    def _result(self, incoming: _Incoming, commands_left: int | None) -> Value:
        if not self.bucket.admits(time.time()):
            raise Refusal("QUERY_LIMIT_EXCEEDED", "Too many requests", 503)
        session = self._session(incoming, commands_left)
        if incoming.method == "batch":
            sections = run_batch(self.executor, session, incoming.params)
            finished_at = time.time()
            taken_s = finished_at - session.started_at + session.simulated_s
            with self.executor.lock:
                # Its end is now, as that of its commands: what was simulated lies before it.
                began_at = finished_at - taken_s
                outer = self.executor.time_of(session, "batch", began_at, taken_s)
            return {"result": sections, "time": outer}
        ran = self.executor.run(session, "", incoming.method, incoming.params)
        if ran.done is None:
            raise ran.refusal or Refusal("INTERNAL_SERVER_ERROR", "", 500)
        result = ran.done.result
        answer: Record = {"result": ids_as_text(result) if self.config.ids_as_text else result}
        if ran.done.next is not None:
            answer["next"] = ran.done.next
        if ran.done.total is not None:
            answer["total"] = ran.done.total
        return {**answer, "time": ran.time}

    def _session(self, incoming: _Incoming, commands_left: int | None) -> Session:
        """The caller's session. Raises: Refusal 401 for wrong or missing credentials."""
        token = incoming.params.pop("auth", None)
        config = self.config
        if incoming.webhook is None:
            if not token:
                raise Refusal("NO_AUTH_FOUND", "Wrong authorization data", 401)
            self.tokens.check(text(token))
        elif incoming.webhook != (str(config.uid), config.code):
            refused = "Invalid request credentials"
            raise Refusal("INVALID_CREDENTIALS", refused, config.wrong_code_status)
        return Session(
            number=incoming.number,
            user_id=config.uid,
            credential=incoming.credential,
            started_at=incoming.received_at,
            commands_left=commands_left,
        )

    def _answer_badly(self, incoming: _Incoming, fault: Fault) -> _Answered:
        if fault.action is FaultAction.SLOW and not fault.executed:
            self.executor.pause(fault.delay_s)
        right = _Answered(reply=html_reply(200))
        if fault.executed or fault.action is FaultAction.SLOW:
            right = self._answer(incoming, fault.commands)
        if fault.action is FaultAction.SLOW and fault.executed:
            self.executor.pause(fault.delay_s)
        code = str(fault.code) if fault.action is FaultAction.ERROR else right.code
        return _Answered(reply=spoiled(fault, right.reply, incoming.http), code=code)

    def _note(self, incoming: _Incoming, answered: _Answered, fault: Fault | None) -> None:
        self.journal.add_request(
            ReceivedRequest(
                number=incoming.number,
                at=incoming.received_at,
                path=incoming.masked_path,
                method=incoming.method,
                commands=len(incoming.commands),
                status=answered.reply.status,
                code=answered.code,
                fault=None if fault is None else fault.action.value,
                credential=incoming.credential,
                took_s=time.time() - incoming.received_at,
            )
        )


def _exceeds(size: int, limit: int | None) -> bool:
    return limit is not None and size > limit


def _method_name(part: str) -> str:
    return part.removesuffix(".json").lower()


def _view(incoming: _Incoming) -> RequestView:
    return RequestView(number=incoming.number, method=incoming.method, commands=incoming.commands)
