"""A reply becomes exactly one outcome per command.

Whatever the portal, a proxy or a cut line returns, every command of the batch gets one outcome, in
the batch's order, and nothing is raised. Success is the presence of a label in the answer, never
the truth of its value; silence about a command is never taken for failure. Which complaint means
what is the table of faults; this module only knows where complaints, answers and times stand, and
it is the only place where the portal's JSON gets types.

Source: Bitrix24 REST manual, "How to Execute a Batch Request", "Limits", "System Errors".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeGuard

from b24sync.core import faults
from b24sync.core.errors import NeverSent, SendError
from b24sync.core.limits import MethodTime
from b24sync.core.model import (
    Applied,
    Batch,
    Command,
    Deferred,
    Fault,
    FaultKind,
    Operation,
    Outcome,
    Rejected,
    Reply,
    Skipped,
    Unknown,
)

_REDIRECTS = range(300, 400)
_MAX_TEXT = 2000
_MAX_CODE = 200
_MAX_ID = 2**63
_MAX_SPAN_S = 10**6
_MAX_INSTANT_S = 10**11

_is_id = re.compile(r"(?=\d*[1-9])\d{1,19}", re.ASCII).fullmatch
_is_code = re.compile(r"\w{3,100}", re.ASCII).fullmatch

_NOT_RUN_IN_BATCH = frozenset(
    {FaultKind.RATE, FaultKind.METHOD_TIME, FaultKind.TOKEN, FaultKind.TOO_LARGE}
)
"""Complaints about one command of a batch that say it did not run, through no fault of its own."""

_NOT_RUN_ALONE = frozenset(
    {
        FaultKind.RATE,
        FaultKind.METHOD_TIME,
        FaultKind.TOKEN,
        FaultKind.PORTAL,
        FaultKind.MOVED,
        FaultKind.UNREACHABLE,
    }
)
"""The same of a command called by itself, where the complaint may be about the portal as well."""

_ABOUT_WHOLE_CALL = _NOT_RUN_ALONE - {FaultKind.METHOD_TIME} | {FaultKind.SERVER}
"""Complaints that, heard by a command called by itself, say something of the portal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """The envelope holds a result."""

    result: object


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """The request was complained of as a whole, by an error or by its status."""

    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class _Silent:
    """There is nothing to judge, and a word why."""

    reason: str


_Reading: TypeAlias = _Answered | _Refused | _Silent


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sections:
    """The sections of a batch's answer by label, whatever shape they came in."""

    done: Mapping[str, object]
    failed: Mapping[str, object]
    times: Mapping[str, object]


def interpret(batch: Batch, reply: Reply) -> tuple[Outcome, ...]:
    """Say what became of each command of a batch.

    Shape: one outcome per command, in the batch's order; never fewer, never more.
    Raises: nothing. What cannot be read is Unknown.
    Source: Bitrix24 REST manual, "How to Execute a Batch Request", Response Handling.
    """
    match _read(batch, reply):
        case _Answered(result=result) if batch.single:
            return _each(batch, lambda command: _applied(command, result, _time(reply)))
        case _Answered(result=result) if _is_object(result):
            return _by_label(batch, _sections(result), _time(reply))
        case _Answered():
            return _each(batch, lambda _: Unknown(reason="no_sections"))
        case _Refused(fault=fault):
            retry_at_ms = _reset_at_ms(_time(reply))
            return _each(batch, lambda command: _refused(batch, command, fault, retry_at_ms))
        case silent:
            return _each(batch, lambda _: Unknown(reason=silent.reason))


def answers(batch: Batch, reply: Reply) -> tuple[object, ...]:
    """Give what each command of a batch was answered, as it came.

    Shape: one for each command, in the batch's order; ``None`` for one that was not answered, of
    which ``interpret`` says what became.
    Raises: nothing.
    """
    match _read(batch, reply):
        case _Answered(result=result) if batch.single:
            return tuple(result for _ in batch.commands)
        case _Answered(result=result) if _is_object(result):
            sections = _sections(result)
            return tuple(sections.done.get(label) for label in batch.labels)
        case _:
            return tuple(None for _ in batch.commands)


def unanswered(batch: Batch, error: SendError) -> tuple[Outcome, ...]:
    """Say what became of each command when no reply is in hand.

    Shape: one outcome per command; Deferred if the portal provably saw nothing, else Unknown.
    Raises: nothing.
    """
    if isinstance(error, NeverSent):
        fault = Fault(code="never_sent", text=error.cause, kind=FaultKind.UNREACHABLE)
        return _each(batch, lambda _: Deferred(fault=fault))
    return _each(batch, lambda _: Unknown(reason="reply_lost"))


def whole_fault(batch: Batch, reply: Reply) -> Fault | None:
    """Give the complaint that concerns the portal or the whole request, not one command.

    Shape: ``None`` also where a command that was called by itself is the one complained of.
    Raises: nothing.
    """
    match _read(batch, reply):
        case _Refused(fault=fault) if not batch.single or fault.kind in _ABOUT_WHOLE_CALL:
            return fault
        case _:
            return None


def method_times(
    batch: Batch, reply: Reply, outcomes: Sequence[Outcome] | None = None
) -> Mapping[str, MethodTime]:
    """Collect what the portal says of the time budgets of the batch's methods.

    Shape: by method; ``outcomes`` are those of ``interpret``, where they are at hand. Of several commands the last one counts; silent and unreadable ones are
    absent. A method refused for time is present and blocked.
    Raises: nothing.
    Source: Bitrix24 REST manual, "Limits": the time to retry is that of the method's own last
    answer; a refusal is not timed, so the time of the whole request stands in.
    """
    measured: dict[str, MethodTime] = {}
    for command, time in zip(batch.commands, _command_times(batch, reply), strict=True):
        method_time = _method_time(time)
        if method_time is not None:
            measured[command.method] = method_time
    told = interpret(batch, reply) if outcomes is None else outcomes
    for command, outcome in zip(batch.commands, told, strict=True):
        match outcome:
            case Deferred(fault=Fault(kind=FaultKind.METHOD_TIME), retry_at_ms=retry_at_ms):
                heard = measured.get(command.method, MethodTime(operating_s=0.0))
                measured[command.method] = replace(heard, reset_at_ms=retry_at_ms, is_blocked=True)
            case _:
                pass
    return measured


def durations(
    batch: Batch, reply: Reply, outcomes: Sequence[Outcome] | None = None
) -> Mapping[str, tuple[float, ...]]:
    """Collect how long the commands of each method took the portal.

    Shape: by method, one for each command that ran, also where it failed; ``outcomes`` are those of
    ``interpret``, where they are at hand. What the portal does not
    time shares what is left of the time of the whole request.
    Units: seconds.
    Raises: nothing.
    """
    ran: list[tuple[str, float | None]] = []
    told = interpret(batch, reply) if outcomes is None else outcomes
    timed = zip(batch.commands, told, _command_times(batch, reply), strict=True)
    for command, outcome, time in timed:
        if isinstance(outcome, Applied | Rejected):
            ran.append((command.method, _number(time, "duration", _MAX_SPAN_S)))
    whole_s = _number(_time(reply), "duration", _MAX_SPAN_S)
    left_s = (reply.took_s if whole_s is None else whole_s) - sum(s for _, s in ran if s)
    untimed = sum(1 for _, s in ran if s is None)
    collected: dict[str, list[float]] = {}
    for method, took_s in ran:
        share_s = max(0.0, left_s) / untimed if took_s is None else took_s
        collected.setdefault(method, []).append(share_s)
    return {method: tuple(taken) for method, taken in collected.items()}


def method_marks(batch: Batch, reply: Reply) -> Mapping[str, tuple[tuple[int, float], ...]]:
    """Collect what each method had used of its time after each of its commands.

    Shape: by method, the end of each command with the sum at that time, in their order; commands
    that are told without either are absent.
    Units: epoch milliseconds by the portal's clock, and seconds.
    Raises: nothing.
    """
    marks: dict[str, list[tuple[int, float]]] = {}
    for command, time in zip(batch.commands, _command_times(batch, reply), strict=True):
        used_s = _number(time, "operating", _MAX_SPAN_S)
        at_s = _number(time, "finish", _MAX_INSTANT_S)
        if used_s is not None and at_s:
            marks.setdefault(command.method, []).append((int(at_s * 1000), used_s))
    return {method: tuple(told) for method, told in marks.items()}


def request_time(batch: Batch, reply: Reply) -> MethodTime | None:
    """Give what the portal says of the time budget that the request as a whole takes from.

    Shape: ``None`` where the commands pay by themselves, or nobody counts.
    Raises: nothing.
    Source: b24jssdk, pull request 539: self-hosted portals charge ``batch``, and repeat its number
    with every command.
    """
    time = None if batch.single else _method_time(_time(reply))
    whole = whole_fault(batch, reply)
    is_blocked = whole is not None and whole.kind is FaultKind.METHOD_TIME
    if is_blocked:
        return MethodTime(operating_s=0.0, is_blocked=True)
    return time if time is not None and time.operating_s > 0 else None


def finished_ms(reply: Reply) -> int | None:
    """Give the time of the answer by the portal's own clock, with which its other times agree.

    Units: epoch milliseconds.
    Raises: nothing.
    """
    at_s = _number(_time(reply), "finish", _MAX_INSTANT_S)
    return int(at_s * 1000) if at_s else None


def _read(batch: Batch, reply: Reply) -> _Reading:
    """Sort a reply by its envelope: the body decides, the status only where the body is mute."""
    body = reply.body
    # A redirect is answered before anything runs; what its page says is not the portal's word.
    if not reply.readable or reply.status in _REDIRECTS:
        return _mute(reply, "unreadable")
    if not _is_object(body):
        return _mute(reply, "not_an_object")
    has_error = body.get("error") is not None
    has_result = body.get("result") is not None
    if has_error and has_result:
        return _Silent(reason="contradiction")
    if has_error:
        classify = faults.classify_single if batch.single else faults.classify_envelope
        return _Refused(fault=classify(*_complaint(body), reply.status))
    if has_result or "result" in body:
        return _Answered(result=body["result"])
    return _mute(reply, "no_result")


def _mute(reply: Reply, reason: str) -> _Reading:
    fault = faults.classify_bodyless(reply.status)
    return _Silent(reason=reason) if fault is None else _Refused(fault=fault)


def _each(batch: Batch, outcome: Callable[[Command], Outcome]) -> tuple[Outcome, ...]:
    return tuple(outcome(command) for command in batch.commands)


def _refused(batch: Batch, command: Command, fault: Fault, retry_at_ms: int | None) -> Outcome:
    """Say what the refusal of the whole request means for a command of it."""
    if batch.single:
        return _judged(command, fault, _NOT_RUN_ALONE, retry_at_ms)
    if fault.kind is FaultKind.SERVER:
        return Unknown(reason="server_fault", fault=fault)
    if fault.kind is FaultKind.TOO_LARGE and len(batch.commands) == 1:
        # There is nothing left to split: it would be too large the next time as well.
        return Rejected(fault=fault)
    return _deferred(fault, retry_at_ms)


def _by_label(batch: Batch, sections: _Sections, outer_time: object) -> tuple[Outcome, ...]:
    resets = {
        command.method: reset_at_ms
        for label, command in zip(batch.labels, batch.commands, strict=True)
        if (reset_at_ms := _reset_at_ms(sections.times.get(label))) is not None
    }
    spared = _spared(batch, sections)
    outer_reset_at_ms = _reset_at_ms(outer_time)
    outcomes: list[Outcome] = []
    for label, command in zip(batch.labels, batch.commands, strict=True):
        match label in sections.done, label in sections.failed:
            case True, True:
                outcomes.append(Unknown(reason="contradiction"))
            case True, False:
                time = sections.times.get(label)
                outcomes.append(_applied(command, sections.done[label], time))
            case False, True:
                fault = faults.classify_command(*_complaint(sections.failed[label]))
                retry_at_ms = resets.get(command.method, outer_reset_at_ms)
                outcomes.append(_judged(command, fault, _NOT_RUN_IN_BATCH, retry_at_ms))
            case _:
                outcomes.append(Skipped() if label in spared else Unknown(reason="unreported"))
    return tuple(outcomes)


def _spared(batch: Batch, sections: _Sections) -> frozenset[str]:
    """Name the commands that a halt provably kept from running.

    They are the ones behind the only failure, as long as nothing behind it left a trace: a trace
    would mean that the portal went on, and then silence proves nothing.
    """
    failed = [position for position, label in enumerate(batch.labels) if label in sections.failed]
    if not batch.halt or len(failed) != 1:
        return frozenset()
    behind = frozenset(batch.labels[failed[0] + 1 :])
    traces = sections.done.keys() | sections.times.keys()
    return behind if behind.isdisjoint(traces) else frozenset()


def _judged(
    command: Command, fault: Fault, not_run: frozenset[FaultKind], retry_at_ms: int | None
) -> Outcome:
    """Say what a complaint about one command means for it."""
    if command.operation is Operation.DELETE and _is_gone(command, fault):
        return Applied(was_gone=True)
    if fault.kind in not_run:
        return _deferred(fault, retry_at_ms)
    if fault.kind is FaultKind.SERVER and not command.repeatable:
        return Unknown(reason="server_fault", fault=fault)
    is_gone = command.operation is Operation.UPDATE and faults.is_gone(
        command.gone, fault.code, fault.text
    )
    return Rejected(fault=fault, is_gone=is_gone)


def _is_gone(command: Command, fault: Fault) -> bool:
    """Say whether the record is missing, not its type or its owner, where the kind can tell."""
    if command.gone:
        return faults.is_gone(command.gone, fault.code, fault.text)
    return fault.kind is FaultKind.GONE


def _deferred(fault: Fault, retry_at_ms: int | None) -> Deferred:
    is_timed = fault.kind is FaultKind.METHOD_TIME
    return Deferred(fault=fault, retry_at_ms=retry_at_ms if is_timed else None)


def _applied(command: Command, answer: object, time: object) -> Applied:
    duration_s = _number(time, "duration", _MAX_SPAN_S)
    return Applied(
        remote_id=_remote_id(command, answer),
        duration_ms=None if duration_s is None else round(duration_s * 1000),
    )


def _remote_id(command: Command, answer: object) -> str | None:
    """Find the id of the record in the answer to its command, as text."""
    if command.id_path is None:
        return None
    for step in command.id_path:
        answer = _items(answer).get(step)
    match answer:
        case bool():
            return None
        case int() if 0 < answer < _MAX_ID:
            return str(answer)
        case str() if _is_id(answer):
            return answer
        case _:
            return None


def _complaint(entry: object) -> tuple[str, str]:
    """Find code and text in an error entry of any shape; what is missing is empty."""
    if _is_object(entry):
        error = entry.get("error")
        if _is_object(error):
            code, text = error.get("code"), error.get("message")
        else:
            code, text = error, entry.get("error_description")
        return _words(code, _MAX_CODE), _words(text)
    text = _words(entry)
    return text if _is_code(text) else "", text or "a complaint without words"


def _words(value: object, limit: int = _MAX_TEXT) -> str:
    """Give the readable part of a value, fit to be stored in any database as text."""
    parts = _items(value).values() if _is_object(value) or _is_list(value) else (value,)
    text = " ".join(word for part in parts if (word := _word(part)))[:limit]
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _word(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return ""
        case int() if abs(value) < _MAX_ID:
            return str(value)
        case _:
            return ""


def _command_times(batch: Batch, reply: Reply) -> tuple[object, ...]:
    """Give the portal's time of each command, as it came."""
    match _read(batch, reply):
        case _Answered() if batch.single:
            return tuple(_time(reply) for _ in batch.commands)
        case _Answered(result=result) if _is_object(result):
            times = _sections(result).times
            return tuple(times.get(label) for label in batch.labels)
        case _:
            return tuple(None for _ in batch.commands)


def _method_time(time: object) -> MethodTime | None:
    operating_s = _number(time, "operating", _MAX_SPAN_S)
    if operating_s is None:
        return None
    return MethodTime(operating_s=operating_s, reset_at_ms=_reset_at_ms(time))


def _reset_at_ms(time: object) -> int | None:
    reset_at_s = _number(time, "operating_reset_at", _MAX_INSTANT_S)
    return int(reset_at_s * 1000) if reset_at_s else None


def _number(time: object, name: str, limit: int) -> float | None:
    """Read a number of a ``time`` entry; absent, negative, absurd and unreadable are all None."""
    value = _items(time).get(name)
    # By its very type, which for true and false is another one.
    if type(value) is float or type(value) is int:
        return value if 0 <= value < limit else None
    return None


def _time(reply: Reply) -> object:
    return _items(reply.body).get("time")


def _sections(result: Mapping[str, object]) -> _Sections:
    return _Sections(
        done=_items(result.get("result")),
        failed=_items(result.get("result_error")),
        times=_items(result.get("result_time")),
    )


def _items(value: object) -> Mapping[str, object]:
    """Read an object, a list (what PHP makes of the keys 0, 1, ...) or neither by its keys."""
    if _is_object(value):
        return value
    if _is_list(value):
        return {str(position): item for position, item in enumerate(value)}
    return {}


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
