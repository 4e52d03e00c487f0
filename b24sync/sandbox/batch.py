"""The batch method: up to 50 commands in one request, one section per kind of outcome.

Source: manual, "How to execute a batch request".
"""

import time
from dataclasses import dataclass, field

from b24sync.sandbox.executor import Executor, Ran, Session, ids_as_text
from b24sync.sandbox.php import parse_query, section
from b24sync.sandbox.references import may_refer, resolved
from b24sync.sandbox.values import Record, Refusal, Value, flag, mapping

LIMIT = 50
_TOO_MANY = Refusal("ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded")
_NESTED = Refusal("ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage", 405)


@dataclass(frozen=True, slots=True)
class _Sections:
    """The five sections of the answer, keys in order of execution."""

    result: Record = field(default_factory=Record)
    result_error: Record = field(default_factory=Record)
    result_total: Record = field(default_factory=Record)
    result_next: Record = field(default_factory=Record)
    result_time: Record = field(default_factory=Record)

    def as_php(self) -> Record:
        """Each section by itself as list, object or empty list."""
        return {
            "result": section(self.result),
            "result_error": section(self.result_error),
            "result_total": section(self.result_total),
            "result_next": section(self.result_next),
            "result_time": section(self.result_time),
        }


def run_batch(executor: Executor, session: Session, params: Record) -> Record:
    """Run the commands in order; the answer's sections.

    Raises: Refusal if the request as a whole is refused, OutOfTime if it is cut.
    """
    commands = commands_of(params)
    config = executor.config
    if "cmd" not in params and config.missing_cmd_is_error:
        raise Refusal("100", "Could not find value for parameter {cmd}")
    if len(commands) > LIMIT and config.surplus_refuses_batch:
        raise _TOO_MANY
    halt = flag(params.get("halt"))
    sections = _Sections()
    for position, (label, command) in enumerate(commands):
        if position < LIMIT:
            _run_one(executor, session, sections, label, command)
        else:
            executor.refuse(session, label, method_of(command), _TOO_MANY)
            sections.result_error[label] = error_of(_TOO_MANY)
        if halt and label in sections.result_error:
            break
    if config.operating_charged_to_batch and config.operating_reported:
        # Seen so: every command carries the number of the whole.
        with executor.lock:
            used, reset_at = executor.operating.used(session.credential, "batch", time.time())
        for stated in map(mapping, sections.result_time.values()):
            stated |= {"operating": used, "operating_reset_at": reset_at}
    return sections.as_php()


def commands_of(params: Record) -> list[tuple[str, Value]]:
    """Label and command of each entry of cmd, in order. Raises: nothing."""
    return list(mapping(params.get("cmd")).items())


def method_of(command: Value) -> str:
    """The method that a command names, lower case; empty if it is no text. Raises: nothing."""
    return command.partition("?")[0].strip().lower() if isinstance(command, str) else ""


def error_of(refusal: Refusal) -> Record:
    """A refusal as it stands in an answer. Raises: nothing."""
    return {"error": refusal.code, "error_description": refusal.text}


def _run_one(
    executor: Executor, session: Session, sections: _Sections, label: str, command: Value
) -> None:
    method = method_of(command)
    if method == "batch":
        executor.refuse(session, label, method, _NESTED)
        sections.result_error[label] = error_of(_NESTED)
        return
    query = command.partition("?")[2] if isinstance(command, str) else ""
    params = parse_query(query, limit=executor.config.query_variable_limit) if query else {}
    if may_refer(query):
        blank = executor.config.unresolved_reference_is_empty
        params = resolved(params, sections.result, blank=blank)
    ran = executor.run(session, label, method, params)
    _file(sections, label, ran, text_ids=executor.config.ids_as_text)


def _file(sections: _Sections, label: str, ran: Ran, *, text_ids: bool) -> None:
    if ran.refusal is not None:
        sections.result_error[label] = error_of(ran.refusal)
    if ran.done is None:
        return
    result = ran.done.result
    sections.result[label] = ids_as_text(result) if text_ids else result
    sections.result_time[label] = ran.time
    if ran.done.total is not None:
        sections.result_total[label] = ran.done.total
    if ran.done.next is not None:
        sections.result_next[label] = ran.done.next
