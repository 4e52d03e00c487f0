"""Every reply, however odd, becomes one outcome per command, and nothing is believed twice."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core.errors import NeverSent, ReplyLost
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
    PortalState,
    Rejected,
    Reply,
    Skipped,
    Unknown,
)
from b24sync.core.replies import (
    answers,
    durations,
    finished_ms,
    interpret,
    method_marks,
    method_times,
    request_time,
    unanswered,
    whole_fault,
)

REPLIES = Path(__file__).parent.parent / "replies"

ADD = Command(
    row_ids=(1,),
    kind="contact",
    key="c-1",
    operation=Operation.ADD,
    method="crm.contact.add",
    query="fields[NAME]=Ann",
    id_path=(),
    linked=True,
)
UPDATE = Command(
    row_ids=(2,),
    kind="deal",
    key="d-1",
    operation=Operation.UPDATE,
    method="crm.deal.update",
    query="id=7&fields[TITLE]=A",
    remote_id="7",
    linked=True,
    repeatable=True,
)
DELETE = Command(
    row_ids=(3,),
    kind="item:1036",
    key="i-1",
    operation=Operation.DELETE,
    method="crm.item.delete",
    query="entityTypeId=1036&id=9",
    remote_id="9",
    gone=(("NOT_FOUND", r"\bitem not found\b"),),
    linked=True,
    repeatable=True,
)
ITEM_ADD = replace(ADD, kind="item:1036", method="crm.item.add", id_path=("item", "id"))


def reply(name: str) -> Reply:
    """Read a recorded reply."""
    recorded = json.loads((REPLIES / f"{name}.json").read_text(encoding="utf-8"))
    return Reply(
        status=recorded["status"], body=recorded["body"], readable=recorded["readable"], took_s=1.5
    )


def batch(*commands: Command, halt: bool = False) -> Batch:
    """Label commands c0, c1 and so on."""
    labels = tuple(f"c{position}" for position in range(len(commands)))
    return Batch(labels=labels, commands=commands, halt=halt)


def alone(command: Command) -> Batch:
    """Call a command by itself."""
    return Batch(labels=("c0",), commands=(command,), single=True)


def answer(result: object) -> Reply:
    """Answer the only command of a batch."""
    return Reply(status=200, body={"result": {"result": {"c0": result}}})


def complaint(entry: object) -> Reply:
    """Complain of the only command of a batch."""
    return Reply(status=200, body={"result": {"result": [], "result_error": {"c0": entry}}})


def kinds(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str]]:
    """Show outcomes in short: what, and of which fault or why."""
    shown: list[tuple[str, str]] = []
    for outcome in outcomes:
        match outcome:
            case Rejected(fault=fault) | Deferred(fault=fault):
                shown.append((type(outcome).__name__, fault.kind))
            case Unknown(reason=reason):
                shown.append(("Unknown", reason))
            case Applied() | Skipped():
                shown.append((type(outcome).__name__, ""))
    return shown


def test_every_recorded_reply_says_what_it_pins() -> None:
    """A record without a reason cannot be kept or dropped with reason."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in REPLIES.glob("*.json")]

    comments = [record["comment"] for record in records]

    assert all(comments)
    assert len(set(comments)) == len(comments) > 30


def test_commands_in_the_result_are_applied_with_id_and_duration() -> None:
    """The id stands where the command says, the duration is the portal's, in milliseconds."""
    sent = batch(ADD, UPDATE, ITEM_ADD)

    outcomes = interpret(sent, reply("all_applied"))

    assert outcomes == (
        Applied(remote_id="46", duration_ms=900),
        Applied(duration_ms=250),
        Applied(remote_id="351", duration_ms=100),
    )


def test_an_empty_section_may_be_a_list() -> None:
    """When every command fails, the result section is ``[]`` and not ``{}``."""
    sent = batch(ADD, UPDATE, UPDATE)

    outcomes = interpret(sent, reply("all_failed"))

    assert kinds(outcomes) == [
        ("Rejected", "forbidden"),
        ("Rejected", "invalid"),
        ("Rejected", "gone"),
    ]


def test_sections_may_be_null_or_missing() -> None:
    """Success is read without an error section and without times."""
    sent = batch(ADD)

    outcomes = interpret(sent, reply("sections_null_or_missing"))

    assert outcomes == (Applied(remote_id="46"),)


def test_sections_of_numeric_labels_are_read_as_lists() -> None:
    """A section whose labels are 0 to n-1 arrives as a list; the position is the label."""
    sent = Batch(labels=("0", "1"), commands=(ADD, UPDATE))

    outcomes = interpret(sent, reply("numeric_labels"))

    assert outcomes[0] == Applied(remote_id="46", duration_ms=900)
    assert kinds(outcomes)[1] == ("Rejected", "forbidden")


def test_commands_after_a_halt_are_skipped() -> None:
    """With halt, silence behind the failure proves that nothing ran."""
    sent = batch(ADD, ADD, UPDATE, halt=True)

    outcomes = interpret(sent, reply("halted"))

    assert kinds(outcomes) == [("Applied", ""), ("Rejected", "forbidden"), ("Skipped", "")]


def test_without_halt_silence_after_a_failure_is_doubt() -> None:
    """Nobody asked the portal to stop, so a missing label is unreported."""
    sent = batch(ADD, ADD, UPDATE)

    outcomes = interpret(sent, reply("halted"))

    assert outcomes[2] == Unknown(reason="unreported")


def test_a_label_in_neither_section_is_unreported() -> None:
    """Without any failure, halt or not, silence proves nothing."""
    sent = batch(ADD, ADD, ADD)

    outcomes = (
        interpret(sent, reply("unreported")),
        interpret(replace(sent, halt=True), reply("unreported")),
    )

    for each in outcomes:
        assert kinds(each) == [("Applied", ""), ("Unknown", "unreported"), ("Applied", "")]


def test_a_portal_that_goes_on_after_a_failure_proves_no_halt() -> None:
    """A success behind the failure makes the silence between them doubt."""
    sent = batch(ADD, ADD, ADD, halt=True)

    outcomes = interpret(sent, reply("halted_but_went_on"))

    assert kinds(outcomes) == [
        ("Rejected", "forbidden"),
        ("Unknown", "unreported"),
        ("Applied", ""),
    ]


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"result_error": {"c0": "", "c1": ""}}, id="two failures"),
        pytest.param(
            {"result_error": {"c0": ""}, "result_time": {"c2": {"duration": 1}}}, id="a time"
        ),
    ],
)
def test_any_trace_of_going_on_after_a_failure_is_doubt(sections: Mapping[str, object]) -> None:
    """Two failures, or the time of a later command, show that the halt was not kept."""
    sent = batch(ADD, ADD, ADD, ADD, halt=True)

    outcomes = interpret(sent, Reply(status=200, body={"result": sections}))

    assert outcomes[2:] == (Unknown(reason="unreported"), Unknown(reason="unreported"))


def test_silence_before_the_failure_is_doubt() -> None:
    """A command in front of the halt was reached, whatever the reply forgot."""
    sent = batch(ADD, ADD, ADD, halt=True)

    outcomes = interpret(sent, reply("halted_behind_silence"))

    assert kinds(outcomes) == [
        ("Unknown", "unreported"),
        ("Rejected", "forbidden"),
        ("Skipped", ""),
    ]


def test_a_result_may_be_of_every_type() -> None:
    """The presence of the label is success; null, false and an empty list as well."""
    sent = batch(ADD, ADD, ADD, ADD, ADD, ADD)

    outcomes = interpret(sent, reply("results_of_every_type"))

    assert outcomes == (
        Applied(),
        Applied(),
        Applied(),
        Applied(remote_id="7"),
        Applied(remote_id="8"),
        Applied(),
    )


@pytest.mark.parametrize(
    ("id_path", "result", "remote_id"),
    [
        pytest.param((), 46, "46", id="number itself"),
        pytest.param((), "46", "46", id="digits itself"),
        pytest.param(("item", "id"), {"item": {"id": 46}}, "46", id="nested"),
        pytest.param(("items", "0", "id"), {"items": [{"id": "46"}]}, "46", id="through a list"),
        pytest.param(None, 46, None, id="kind has no id"),
        pytest.param((), True, None, id="true is not an id"),
        pytest.param((), 0, None, id="zero is not an id"),
        pytest.param((), "000", None, id="zeros are not an id"),
        pytest.param((), -46, None, id="negative"),
        pytest.param((), 46.5, None, id="fraction"),
        pytest.param((), "46abc", None, id="text"),
        pytest.param((), "٤٦", None, id="digits of another script"),
        pytest.param((), 2**63, None, id="beyond any database"),
        pytest.param((), {"id": 46}, None, id="object where a scalar was due"),
        pytest.param(("item", "id"), {"item": 46}, None, id="scalar where an object was due"),
        pytest.param(("item", "id"), {"item": {}}, None, id="missing"),
    ],
)
def test_the_id_is_found_or_the_add_is_applied_without(
    id_path: tuple[str, ...] | None, result: object, remote_id: str | None
) -> None:
    """An unreadable id never makes a success a failure, and is never guessed."""
    sent = batch(replace(ADD, id_path=id_path))

    outcomes = interpret(sent, answer(result))

    assert outcomes == (Applied(remote_id=remote_id),)


def test_a_label_in_both_sections_is_doubt() -> None:
    """A contradiction proves neither success nor failure."""
    sent = batch(ADD, ADD)

    outcomes = interpret(sent, reply("contradiction"))

    assert outcomes == (Applied(remote_id="46"), Unknown(reason="contradiction"))


def test_one_command_may_be_refused_for_time_while_its_neighbours_succeed() -> None:
    """Only that method waits, until the time the request names."""
    sent = batch(ADD, DELETE, UPDATE)

    outcomes = interpret(sent, reply("one_refused_for_time"))

    assert kinds(outcomes) == [("Applied", ""), ("Deferred", "method_time"), ("Applied", "")]
    assert isinstance(outcomes[1], Deferred)
    assert outcomes[1].retry_at_ms == 1_790_000_600_000


def test_the_time_of_the_methods_own_last_answer_is_preferred() -> None:
    """What the method's last success said of its release is more exact than the request's."""
    sent = batch(ADD, ADD)

    outcomes = interpret(sent, reply("refused_for_time_midway"))

    assert isinstance(outcomes[1], Deferred)
    assert outcomes[1].retry_at_ms == 1_790_000_123_000


def test_an_error_entry_may_have_any_of_the_known_shapes() -> None:
    """Empty code, number as code, bare code, bare sentence; HTML stays text."""
    sent = batch(ADD, ADD, ADD, ADD, ADD)

    outcomes = interpret(sent, reply("error_shapes"))

    assert outcomes == (
        Rejected(
            fault=Fault(code="", text="Parameter 'fields' must be array.", kind=FaultKind.INVALID)
        ),
        Rejected(fault=Fault(code="200040300010", text="Access denied", kind=FaultKind.FORBIDDEN)),
        Deferred(
            fault=Fault(
                code="OPERATION_TIME_LIMIT",
                text="OPERATION_TIME_LIMIT",
                kind=FaultKind.METHOD_TIME,
            ),
            retry_at_ms=1_790_000_600_000,
        ),
        Rejected(fault=Fault(code="", text="Something went wrong", kind=FaultKind.INVALID)),
        Rejected(
            fault=Fault(code="ERROR_CORE", text="No title<br>No owner", kind=FaultKind.INVALID)
        ),
    )


def test_an_error_entry_that_is_garbage_is_a_rejection_with_readable_text() -> None:
    """The label stands among the errors, and a person gets whatever words there are."""
    sent = batch(ADD, ADD, ADD, ADD, ADD, ADD)

    outcomes = interpret(sent, reply("error_garbage"))

    complaints = [
        (outcome.fault.code, outcome.fault.text)
        for outcome in outcomes
        if isinstance(outcome, Rejected)
    ]
    assert complaints == [
        ("", "a complaint without words"),
        ("", "first second"),
        ("", "a complaint without words"),
        ("", ""),
        ("", "too bad"),
        ("100", "100"),
    ]


def test_a_complaint_is_cut_and_can_be_stored_as_text() -> None:
    """No text is longer than 2000 characters or holds what a database refuses."""
    sent = batch(ADD)

    (outcome,) = interpret(
        sent,
        complaint({"error": "E" * 300, "error_description": "\0\ud800" + "x" * 3000}),
    )

    assert isinstance(outcome, Rejected)
    assert outcome.fault.code == "E" * 200
    assert outcome.fault.text == "\N{REPLACEMENT CHARACTER}?" + "x" * 1998


def test_complaints_that_say_a_command_did_not_run_defer_it() -> None:
    """Rate, token and length defer; a server fault is doubt unless repeating is harmless."""
    sent = batch(ADD, ADD, ADD, ADD, UPDATE, ADD)

    outcomes = interpret(sent, reply("error_codes_per_command"))

    assert kinds(outcomes) == [
        ("Deferred", "rate"),
        ("Deferred", "token"),
        ("Deferred", "too_large"),
        ("Unknown", "server_fault"),
        ("Rejected", "server"),
        ("Rejected", "unlisted"),
    ]


def test_a_delete_of_a_missing_record_is_done() -> None:
    """Missing by the kind's own patterns, or by a telling code where the kind has none."""
    sent = batch(DELETE, DELETE, replace(DELETE, gone=()), UPDATE)

    outcomes = interpret(sent, reply("not_found"))

    assert outcomes[0] == Applied(was_gone=True)
    assert kinds(outcomes)[1] == ("Rejected", "gone")
    assert outcomes[2] == Applied(was_gone=True)
    assert kinds(outcomes)[3] == ("Rejected", "gone")


@pytest.mark.parametrize(
    ("name", "kind", "portal_state"),
    [
        pytest.param("query_limit", FaultKind.RATE, None, id="rate"),
        pytest.param("expired_token", FaultKind.TOKEN, None, id="token"),
        pytest.param("plan_lost", FaultKind.PORTAL, PortalState.PLAN_LOST, id="plan"),
        pytest.param("request_refused_for_time", FaultKind.METHOD_TIME, None, id="time"),
        pytest.param(
            "unlisted_refusal", FaultKind.UNLISTED, PortalState.MISCONFIGURED, id="unlisted"
        ),
        pytest.param("too_long", FaultKind.TOO_LARGE, None, id="too long"),
        pytest.param("moved", FaultKind.MOVED, None, id="moved"),
    ],
)
def test_a_refused_request_defers_every_command(
    name: str, kind: FaultKind, portal_state: PortalState | None
) -> None:
    """Nothing was executed, and the caller learns what was complained of."""
    sent = batch(ADD, UPDATE, DELETE)

    outcomes = interpret(sent, reply(name))
    fault = whole_fault(sent, reply(name))

    assert kinds(outcomes) == [("Deferred", kind)] * 3
    assert fault is not None
    assert (fault.kind, fault.portal_state) == (kind, portal_state)


def test_only_a_refusal_for_time_names_a_time() -> None:
    """The time of the request is a time to retry for a method's budget and for nothing else."""
    sent = batch(ADD)
    time = {"operating_reset_at": 1_790_000_600}
    limited = Reply(status=503, body={"error": "QUERY_LIMIT_EXCEEDED", "time": time})

    refused_for_time = interpret(sent, reply("request_refused_for_time"))
    refused_for_rate = interpret(sent, limited)

    assert isinstance(refused_for_time[0], Deferred)
    assert refused_for_time[0].retry_at_ms == 1_790_000_600_000
    assert isinstance(refused_for_rate[0], Deferred)
    assert refused_for_rate[0].retry_at_ms is None


def test_a_request_of_one_command_that_is_too_large_is_rejected() -> None:
    """There is nothing to split, so waiting would not help."""
    sent = batch(ADD)

    outcomes = interpret(sent, Reply(status=413, readable=False))

    assert kinds(outcomes) == [("Rejected", "too_large")]


def test_a_server_fault_leaves_every_command_in_doubt() -> None:
    """Any part may have run, and the fault is kept for the person who looks."""
    sent = batch(ADD, UPDATE)

    outcomes = interpret(sent, reply("internal_server_error"))
    fault = whole_fault(sent, reply("internal_server_error"))

    assert kinds(outcomes) == [("Unknown", "server_fault")] * 2
    assert fault is not None
    assert fault.kind is FaultKind.SERVER
    assert outcomes[0] == Unknown(reason="server_fault", fault=fault)


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        pytest.param(reply("html"), "unreadable", id="gateway page"),
        pytest.param(Reply(status=200, readable=False), "unreadable", id="half a JSON"),
        pytest.param(Reply(status=200, body=[]), "not_an_object", id="list"),
        pytest.param(Reply(status=200, body=7), "not_an_object", id="number"),
        pytest.param(Reply(status=200, body=None), "not_an_object", id="null"),
        pytest.param(reply("neither"), "no_result", id="neither result nor error"),
        pytest.param(Reply(status=500, body={}), "no_result", id="empty object"),
        pytest.param(reply("both"), "contradiction", id="result and error"),
        pytest.param(reply("no_sections"), "no_sections", id="result without sections"),
        pytest.param(Reply(status=200, body={"result": None}), "no_sections", id="result is null"),
        pytest.param(Reply(status=200, body={"result": []}), "no_sections", id="result is []"),
    ],
)
def test_a_reply_that_cannot_be_read_leaves_every_command_in_doubt(
    recorded: Reply, reason: str
) -> None:
    """No repetition is safe, and no fault of the portal is claimed."""
    sent = batch(ADD, UPDATE)

    outcomes = interpret(sent, recorded)

    assert outcomes == (Unknown(reason=reason), Unknown(reason=reason))
    assert whole_fault(sent, recorded) is None
    assert method_times(sent, recorded) == {}


def test_a_redirect_is_not_believed_whatever_its_page_says() -> None:
    """Nothing runs before a redirect, even if its page looks like an answer."""
    sent = batch(ADD)
    page = Reply(status=302, body={"result": {"result": {"c0": 46}}}, location="https://b.example/")

    outcomes = interpret(sent, page)

    assert kinds(outcomes) == [("Deferred", "moved")]


def test_a_command_called_by_itself_is_applied_with_id_and_duration() -> None:
    """The result is the command's own, without labels and sections."""
    sent = alone(ADD)

    outcomes = interpret(sent, reply("single_added"))

    assert outcomes == (Applied(remote_id="351", duration_ms=900),)


def test_a_null_result_of_a_single_call_is_success() -> None:
    """The presence of the key counts here too."""
    sent = alone(UPDATE)

    outcomes = interpret(sent, Reply(status=200, body={"result": None, "error": None}))

    assert outcomes == (Applied(),)


@pytest.mark.parametrize(
    ("command", "recorded", "outcome", "is_whole"),
    [
        pytest.param(ADD, reply("single_denied"), ("Rejected", "forbidden"), False, id="denied"),
        pytest.param(DELETE, reply("single_gone"), ("Applied", ""), False, id="gone"),
        pytest.param(UPDATE, reply("single_gone"), ("Rejected", "gone"), False, id="missing"),
        pytest.param(ADD, reply("query_limit"), ("Deferred", "rate"), True, id="rate"),
        pytest.param(ADD, reply("expired_token"), ("Deferred", "token"), True, id="token"),
        pytest.param(ADD, reply("plan_lost"), ("Deferred", "portal"), True, id="plan"),
        pytest.param(ADD, reply("moved"), ("Deferred", "moved"), True, id="moved"),
        pytest.param(
            ADD,
            reply("request_refused_for_time"),
            ("Deferred", "method_time"),
            False,
            id="time",
        ),
        pytest.param(
            ADD,
            reply("internal_server_error"),
            ("Unknown", "server_fault"),
            True,
            id="server, an add",
        ),
        pytest.param(
            UPDATE,
            reply("internal_server_error"),
            ("Rejected", "server"),
            True,
            id="server, repeatable",
        ),
        pytest.param(
            ADD,
            Reply(status=413, readable=False),
            ("Rejected", "too_large"),
            False,
            id="too large",
        ),
        pytest.param(ADD, reply("html"), ("Unknown", "unreadable"), False, id="gateway page"),
    ],
)
def test_a_refused_single_call_is_judged_as_its_command_or_as_the_portal(
    command: Command, recorded: Reply, outcome: tuple[str, str], *, is_whole: bool
) -> None:
    """What concerns the portal is told apart from what concerns the command."""
    sent = alone(command)

    outcomes = interpret(sent, recorded)

    assert kinds(outcomes) == [outcome]
    assert (whole_fault(sent, recorded) is not None) is is_whole


def test_an_error_may_nest_code_and_message() -> None:
    """The newer interface's shape is read as well."""
    sent = alone(ADD)

    (outcome,) = interpret(sent, reply("single_rest3_error"))

    assert isinstance(outcome, Rejected)
    assert outcome.fault.code == "BITRIX_REST_V3_EXCEPTION_ACCESSDENIEDEXCEPTION"
    assert outcome.fault.text == "Access denied"


def test_an_answered_batch_has_no_whole_fault() -> None:
    """Complaints about commands are not complaints about the request."""
    sent = batch(ADD, UPDATE, UPDATE)

    fault = whole_fault(sent, reply("all_failed"))

    assert fault is None


def test_what_was_never_sent_is_deferred() -> None:
    """The portal provably saw nothing, so nothing is in doubt."""
    sent = batch(ADD, UPDATE)

    outcomes = unanswered(sent, NeverSent("NewConnectionError", 0.1))

    fault = Fault(code="never_sent", text="NewConnectionError", kind=FaultKind.UNREACHABLE)
    assert outcomes == (Deferred(fault=fault), Deferred(fault=fault))


def test_a_lost_reply_leaves_every_command_in_doubt() -> None:
    """Part of the request may have arrived."""
    sent = batch(ADD, UPDATE)

    outcomes = unanswered(sent, ReplyLost("ReadTimeoutError", 65.0))

    assert outcomes == (Unknown(reason="reply_lost"), Unknown(reason="reply_lost"))


@pytest.mark.parametrize(
    ("sent", "name", "times"),
    [
        pytest.param(
            batch(ADD, UPDATE, ITEM_ADD),
            "all_applied",
            {
                "crm.contact.add": MethodTime(operating_s=0.8, reset_at_ms=1_790_000_601_000),
                "crm.deal.update": MethodTime(operating_s=12.5, reset_at_ms=1_790_000_601_000),
                "crm.item.add": MethodTime(operating_s=3, reset_at_ms=1_790_000_601_000),
            },
            id="each method",
        ),
        pytest.param(
            batch(ADD, ADD, ADD),
            "all_applied",
            {"crm.contact.add": MethodTime(operating_s=3, reset_at_ms=1_790_000_601_000)},
            id="the last of a method counts",
        ),
        pytest.param(
            batch(ADD, DELETE, UPDATE),
            "one_refused_for_time",
            {
                "crm.contact.add": MethodTime(operating_s=12.5, reset_at_ms=1_790_000_601_000),
                "crm.deal.update": MethodTime(operating_s=1.5, reset_at_ms=1_790_000_601_000),
                "crm.item.delete": MethodTime(
                    operating_s=0.0, reset_at_ms=1_790_000_600_000, is_blocked=True
                ),
            },
            id="refused at once",
        ),
        pytest.param(
            batch(ADD, ADD),
            "refused_for_time_midway",
            {
                "crm.contact.add": MethodTime(
                    operating_s=481.5, reset_at_ms=1_790_000_123_000, is_blocked=True
                ),
            },
            id="refused after a success",
        ),
        pytest.param(
            alone(ADD),
            "single_added",
            {"crm.contact.add": MethodTime(operating_s=7.25, reset_at_ms=1_790_000_601_000)},
            id="called by itself",
        ),
        pytest.param(
            alone(ADD),
            "request_refused_for_time",
            {
                "crm.contact.add": MethodTime(
                    operating_s=0.0, reset_at_ms=1_790_000_600_000, is_blocked=True
                ),
            },
            id="refused by itself",
        ),
        pytest.param(
            batch(*(replace(ADD, method=f"m{n}") for n in range(6))),
            "time_garbage",
            {"m5": MethodTime(operating_s=2.5)},
            id="garbage is left out",
        ),
    ],
)
def test_the_time_budgets_are_collected_by_method(
    sent: Batch, name: str, times: Mapping[str, MethodTime]
) -> None:
    """What the portal says of a method's time feeds the limiter."""
    recorded = reply(name)

    collected = method_times(sent, recorded)

    assert collected == times


def test_times_of_the_wrong_shape_spoil_no_outcome() -> None:
    """A duration that cannot be read is absent; the success stays."""
    sent = batch(ADD, ADD, ADD, ADD, ADD, ADD)

    outcomes = interpret(sent, reply("time_garbage"))

    assert outcomes == (
        Applied(remote_id="1"),
        Applied(remote_id="2"),
        Applied(remote_id="3"),
        Applied(remote_id="4"),
        Applied(remote_id="5"),
        Applied(remote_id="6", duration_ms=1500),
    )


UPDATE_ITEM = replace(UPDATE, kind="item:1036", method="crm.item.update", gone=DELETE.gone)
NOT_FOUND = {"error": "NOT_FOUND", "error_description": "Item not found"}


@pytest.mark.parametrize(
    ("command", "entry", "is_gone"),
    [
        pytest.param(UPDATE_ITEM, NOT_FOUND, True, id="the record"),
        pytest.param(
            UPDATE_ITEM,
            {"error": "NOT_FOUND", "error_description": "Smart process not found"},
            False,
            id="its type",
        ),
        pytest.param(
            UPDATE_ITEM,
            {"error": "ACCESS_DENIED", "error_description": "Item not found"},
            False,
            id="another complaint",
        ),
        pytest.param(UPDATE, NOT_FOUND, False, id="a kind that cannot tell"),
        pytest.param(replace(ITEM_ADD, gone=DELETE.gone), NOT_FOUND, False, id="an add"),
        pytest.param(replace(UPDATE_ITEM, operation=Operation.CALL), NOT_FOUND, False, id="a call"),
    ],
)
def test_an_update_of_a_missing_record_is_told_apart_from_other_refusals(
    command: Command, entry: object, *, is_gone: bool
) -> None:
    """By the kind's own patterns alone: what follows may be a new record."""
    (in_batch,) = interpret(batch(command), complaint(entry))
    (by_itself,) = interpret(alone(command), Reply(status=400, body=entry))

    for outcome in (in_batch, by_itself):
        assert isinstance(outcome, Rejected)
        assert outcome.is_gone is is_gone


def test_a_missing_record_that_is_deleted_is_no_refusal() -> None:
    """The delete is done."""
    assert interpret(batch(DELETE), complaint(NOT_FOUND)) == (Applied(was_gone=True),)


def test_answers_are_given_as_they_came_in_the_order_of_the_batch() -> None:
    """Whatever they are; what was refused or passed over has none."""
    sent = batch(ADD, UPDATE, DELETE, ITEM_ADD)
    sections = {
        "result": {"c3": {"item": {"id": 4}}, "c0": [{"ID": "1"}], "x": 7},
        "result_error": {"c1": NOT_FOUND},
    }

    told = answers(sent, Reply(status=200, body={"result": sections}))

    assert told == ([{"ID": "1"}], None, None, {"item": {"id": 4}})


@pytest.mark.parametrize("answer_itself", [None, False, 0, [], {}, "text", {"item": {"id": 4}}])
def test_an_answer_may_be_of_every_type(answer_itself: object) -> None:
    """In a batch and by itself."""
    told = answers(batch(ADD), answer(answer_itself))
    told_alone = answers(alone(ADD), Reply(status=200, body={"result": answer_itself}))

    assert told == told_alone == (answer_itself,)


@pytest.mark.parametrize(
    "recorded",
    [
        pytest.param(reply("all_failed"), id="all refused"),
        pytest.param(reply("query_limit"), id="the request refused"),
        pytest.param(reply("both"), id="contradiction"),
        pytest.param(reply("html"), id="gateway page"),
        pytest.param(reply("no_sections"), id="no sections"),
        pytest.param(Reply(status=200, body={"result": []}), id="a list"),
        pytest.param(
            Reply(status=302, body={"result": {"result": {"c0": 46}}}), id="a redirect's page"
        ),
    ],
)
def test_where_nothing_was_answered_there_are_no_answers(recorded: Reply) -> None:
    """Still one place for each command."""
    assert answers(batch(ADD, UPDATE, UPDATE), recorded) == (None, None, None)


def test_a_command_refused_by_itself_has_no_answer() -> None:
    """The complaint is told elsewhere."""
    assert answers(alone(ADD), reply("single_denied")) == (None,)


words = st.sampled_from(
    [
        "result",
        "result_error",
        "result_time",
        "error",
        "error_description",
        "time",
        "operating",
        "operating_reset_at",
        "duration",
        "item",
        "id",
        "code",
        "message",
        "c0",
        "c1",
        "c2",
        "0",
    ]
)
codes = st.sampled_from(
    ["QUERY_LIMIT_EXCEEDED", "OPERATION_TIME_LIMIT", "INTERNAL_SERVER_ERROR", "NOT_FOUND", ""]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | codes
json_values = st.recursive(
    scalars,
    lambda nested: (
        st.lists(nested, max_size=3)
        | st.dictionaries(words | st.text(max_size=3), nested, max_size=5)
    ),
    max_leaves=25,
)
sections = st.dictionaries(st.sampled_from(["c0", "c1", "c2", "x"]), json_values) | json_values
batch_bodies = st.fixed_dictionaries(
    {
        "result": st.fixed_dictionaries(
            {}, optional={"result": sections, "result_error": sections, "result_time": sections}
        )
    },
    optional={"time": json_values},
)
statuses = st.sampled_from([200, 302, 400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504, 0])
replies = st.builds(
    Reply,
    status=statuses,
    body=json_values | batch_bodies,
    readable=st.sampled_from([True] * 9 + [False]),
)
batches = st.builds(
    lambda commands, halt: replace(batch(*commands), halt=halt),
    st.lists(st.sampled_from([ADD, UPDATE, DELETE, ITEM_ADD]), min_size=1, max_size=4),
    st.booleans(),
) | st.sampled_from([ADD, UPDATE, DELETE, ITEM_ADD]).map(alone)


@given(batches, replies)
@settings(deadline=None, max_examples=500)
def test_whatever_comes_back_there_is_one_outcome_per_command(
    sent: Batch, came_back: Reply
) -> None:
    """Nothing is raised, nothing is left out, and every text can be stored."""
    outcomes = interpret(sent, came_back)
    whole = whole_fault(sent, came_back)
    times = method_times(sent, came_back)
    told = answers(sent, came_back)

    assert len(outcomes) == len(told) == len(sent.commands)
    assert all(
        answered is None
        or isinstance(outcome, Applied)
        or outcome == Unknown(reason="contradiction")
        for answered, outcome in zip(told, outcomes, strict=True)
    )
    for fault in (whole, *(getattr(outcome, "fault", None) for outcome in outcomes)):
        assert fault is None or len(fault.text.encode()) <= 4 * 2000
    assert set(times) <= {command.method for command in sent.commands}


@given(batches, replies)
@settings(deadline=None, max_examples=500)
def test_no_command_is_called_skipped_without_a_halt_and_a_failure_before_it(
    sent: Batch, came_back: Reply
) -> None:
    """Skipped means provably not run, so the proof must be there."""
    outcomes = interpret(sent, came_back)

    for position, outcome in enumerate(outcomes):
        if isinstance(outcome, Skipped):
            assert sent.halt
            assert any(not isinstance(before, Skipped) for before in outcomes[:position])


def timed(**times: object) -> Reply:
    """A batch of ``r1`` and on, of which these commands were done in their times."""
    done: dict[str, object] = {label: 7 for label in times if label != "outer"}
    inner = {label: time for label, time in times.items() if label != "outer" and time}
    sections = {"result": done, "result_error": [], "result_time": inner}
    return Reply(status=200, body={"result": sections, "time": times.get("outer", {})}, took_s=10.0)


def numbered(*commands: Command) -> Batch:
    """A batch whose commands are labelled by their places."""
    return Batch(
        labels=tuple(f"r{place}" for place, _ in enumerate(commands, start=1)), commands=commands
    )


@pytest.mark.parametrize(
    ("sent", "came_back", "costs_s"),
    [
        pytest.param(
            numbered(ADD, UPDATE, ADD),
            timed(r1={"duration": 1.0}, r2={"duration": 2}, r3={"duration": 0.5}),
            {ADD.method: (1.0, 0.5), UPDATE.method: (2,)},
            id="as they are told",
        ),
        pytest.param(
            numbered(ADD, UPDATE),
            timed(r1=None, r2=None),
            {ADD.method: (5.0,), UPDATE.method: (5.0,)},
            id="not told: a share of what the request took",
        ),
        pytest.param(
            numbered(ADD, UPDATE),
            timed(r1={"duration": 1.0}, r2=None, outer={"duration": 4.0}),
            {ADD.method: (1.0,), UPDATE.method: (3.0,)},
            id="one not told: what is left of the portal's own time of the request",
        ),
        pytest.param(
            numbered(ADD, UPDATE),
            timed(r1={"duration": 30.0}, r2=None),
            {ADD.method: (30.0,), UPDATE.method: (0.0,)},
            id="more told than the request took",
        ),
        pytest.param(
            numbered(ADD, UPDATE),
            timed(r1={"duration": 1.0}),
            {ADD.method: (1.0,)},
            id="unreported",
        ),
        pytest.param(
            alone(ADD),
            Reply(status=200, body={"result": 7, "time": {"duration": 2.5}}),
            {ADD.method: (2.5,)},
            id="called by itself",
        ),
        pytest.param(numbered(ADD), Reply(status=504, readable=False), {}, id="no answer"),
    ],
)
def test_the_time_of_every_command_that_ran_is_collected(
    sent: Batch, came_back: Reply, costs_s: Mapping[str, tuple[float, ...]]
) -> None:
    """What a portal does not time shares what is left of the whole."""
    assert durations(sent, came_back) == costs_s


def test_a_command_that_failed_took_its_time_too() -> None:
    """It is not timed; one that was refused before it ran took none."""
    sections = {
        "result": {"r1": 7},
        "result_error": {
            "r2": {"error": "INVALID_ARG_VALUE", "error_description": "no"},
            "r3": {"error": "OPERATION_TIME_LIMIT", "error_description": "blocked"},
        },
        "result_time": {"r1": {"duration": 1.0}},
    }
    body = {"result": sections, "time": {"duration": 3.0}}

    costs_s = durations(numbered(ADD, UPDATE, ITEM_ADD), Reply(status=200, body=body))

    assert costs_s == {ADD.method: (1.0,), UPDATE.method: (2.0,)}


@pytest.mark.parametrize(
    ("sent", "came_back", "time"),
    [
        pytest.param(
            numbered(ADD), timed(r1=None, outer={"operating": 0}), None, id="the commands pay"
        ),
        pytest.param(numbered(ADD), timed(r1=None), None, id="nobody counts"),
        pytest.param(
            numbered(ADD),
            timed(r1=None, outer={"operating": 7.5, "operating_reset_at": 1_790_000_601}),
            MethodTime(operating_s=7.5, reset_at_ms=1_790_000_601_000),
            id="the request pays",
        ),
        pytest.param(
            numbered(ADD),
            Reply(status=429, body={"error": "OPERATION_TIME_LIMIT", "error_description": ""}),
            MethodTime(operating_s=0.0, is_blocked=True),
            id="the request is refused",
        ),
        pytest.param(
            alone(ADD),
            Reply(status=200, body={"result": 7, "time": {"operating": 7.5}}),
            None,
            id="called by itself",
        ),
    ],
)
def test_who_pays_for_a_request_is_told_by_its_own_time(
    sent: Batch, came_back: Reply, time: MethodTime | None
) -> None:
    """Portals of the cloud charge the methods in a batch, others the batch."""
    assert request_time(sent, came_back) == time


def test_the_time_of_an_answer_is_read_by_the_portals_clock() -> None:
    """In milliseconds; what makes no sense is none."""
    assert finished_ms(timed(outer={"finish": 1_790_000_000.25})) == 1_790_000_000_250
    assert finished_ms(timed(outer={"finish": "soon"})) is None


def test_what_was_used_after_each_command_is_told_with_its_end() -> None:
    """In their order, by method; a command that lacks either number tells nothing."""
    came_back = timed(
        r1={"finish": 1_790_000_000.25, "operating": 1.5},
        r2={"finish": 1_790_000_001, "operating": 0.5},
        r3={"finish": 1_790_000_002.5, "operating": 2},
        r4={"finish": 1_790_000_003},
        r5={"operating": 9.0},
        r6={"finish": 0, "operating": 9.0},
    )

    marks = method_marks(numbered(ADD, UPDATE, ADD, ADD, ADD, ADD), came_back)

    assert marks == {
        ADD.method: ((1_790_000_000_250, 1.5), (1_790_000_002_500, 2)),
        UPDATE.method: ((1_790_000_001_000, 0.5),),
    }
