"""Planned faults."""

import json
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from b24sync.sandbox import Fault, FaultAction, Sandbox
from tests.sandbox.asking import Asker, until

ADDS = {"a": "crm.deal.add?fields[TITLE]=good", "b": "crm.deal.add?fields[TITLE]=bad+one"}


def test_the_next_requests_are_refused_and_then_all_is_well(sandbox: Sandbox, ask: Asker) -> None:
    """An envelope error with its usual status, as often as planned, before anything runs."""
    sandbox.add_fault("error", code="QUERY_LIMIT_EXCEEDED", text="Too many requests", times=2)

    answers = [ask(sandbox, "batch", {"cmd": ADDS}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json() == {
        "error": "QUERY_LIMIT_EXCEEDED",
        "error_description": "Too many requests",
    }
    assert len(sandbox.records("deal")) == 2
    assert [request.fault for request in sandbox.requests()] == ["error", "error", None]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("OVERLOAD_LIMIT", 503),
        ("expired_token", 401),
        ("ACCESS_DENIED", 403),
        ("PORTAL_DELETED", 500),
        ("PAYMENT_REQUIRED", 401),
        ("OTHER", 400),
    ],
)
def test_an_envelope_error_has_the_usual_status_of_its_code(
    sandbox: Sandbox, ask: Asker, code: str, status: int
) -> None:
    """Only the code has to be named."""
    sandbox.add_fault("error", code=code)

    assert ask(sandbox, "profile").status_code == status


def test_one_method_is_refused_a_number_of_times(sandbox: Sandbox, ask: Asker) -> None:
    """In a batch only its commands fail; alone the call gets the status."""
    sandbox.add_fault("command", method="crm.deal.*", code="OPERATION_TIME_LIMIT", times=3)

    sections = ask.batch(sandbox, {**ADDS, "c": "profile"})
    alone = ask(sandbox, "crm.deal.add", {"fields": {}})

    assert list(sections["result_error"]) == ["a", "b"]
    assert list(sections["result"]) == ["c"]
    assert alone.status_code == 429
    assert ask(sandbox, "crm.deal.add", {"fields": {}}).status_code == 200


def test_rows_are_rejected_by_the_value_of_a_field(sandbox: Sandbox, ask: Asker) -> None:
    """Only commands whose field matches fail, always if so planned."""
    sandbox.add_fault(
        "command", field="TITLE", matches="^bad", code="", text="No good.", times=None
    )

    for _ in range(2):
        sections = ask.batch(sandbox, ADDS)

        assert sections["result_error"] == {"b": {"error": "", "error_description": "No good."}}


def test_a_command_can_be_done_and_still_reported_failed(sandbox: Sandbox, ask: Asker) -> None:
    """With executed the record exists although the answer says error."""
    sandbox.add_fault("command", label="a", code="INTERNAL_SERVER_ERROR", executed=True)

    sections = ask.batch(sandbox, ADDS)

    assert list(sections["result_error"]) == ["a"]
    assert len(sandbox.records("deal")) == 2
    first = sandbox.journal()[0]
    assert (first.ok, first.executed, first.id) == (False, True, 1)


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateway_page_hides_whether_the_work_was_done(
    sandbox: Sandbox, ask: Asker, *, status: int, executed: bool
) -> None:
    """HTML instead of JSON, with the work done or not."""
    sandbox.add_fault("html", status=status, executed=executed)

    response = ask(sandbox, "batch", {"cmd": ADDS})

    assert response.status_code == status
    assert response.text.startswith("<html>")
    assert len(sandbox.records("deal")) == (2 if executed else 0)


def test_cut_json_cannot_be_read(sandbox: Sandbox, ask: Asker) -> None:
    """The body arrives whole by its length and is half a JSON."""
    sandbox.add_fault("cut_json", executed=True)

    response = ask(sandbox, "batch", {"cmd": ADDS})

    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(response.text)


def test_a_cut_body_is_shorter_than_announced(sandbox: Sandbox, ask: Asker) -> None:
    """The connection closes before the announced length is reached."""
    sandbox.add_fault("cut_body", executed=True)

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(sandbox, "batch", {"cmd": ADDS})


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        pytest.param(Fault(action=FaultAction.EMPTY), "", id="empty"),
        pytest.param(Fault(action=FaultAction.BODY, text="[]"), "[]", id="empty list"),
    ],
)
def test_a_success_may_say_nothing(sandbox: Sandbox, ask: Asker, fault: Fault, body: str) -> None:
    """HTTP 200 with nothing usable in it."""
    sandbox.add_fault(fault)

    response = ask(sandbox, "batch", {"cmd": ADDS})

    assert (response.status_code, response.text) == (200, body)


@pytest.mark.parametrize(
    ("executed", "commands", "done"), [(False, None, 0), (True, None, 2), (True, 1, 1)]
)
def test_a_reset_leaves_nothing_a_prefix_or_everything_done(
    sandbox: Sandbox, ask: Asker, *, executed: bool, commands: int | None, done: int
) -> None:
    """The client sees a lost connection in each case."""
    sandbox.add_fault("reset", executed=executed, commands=commands)

    with pytest.raises(requests.ConnectionError):
        ask(sandbox, "batch", {"cmd": ADDS})

    assert len(sandbox.records("deal")) == done
    assert sandbox.requests()[0].status == 0


def test_a_reset_is_no_orderly_end(sandbox: Sandbox) -> None:
    """The connection is aborted, as a crashed proxy would, and not merely closed."""
    sandbox.add_fault("reset")
    target = urlsplit(sandbox.webhook_url)
    assert target.hostname is not None

    with socket.create_connection((target.hostname, target.port or 0), timeout=20) as client:
        client.sendall(f"GET {target.path}profile HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_slow_answer_is_the_right_one(sandbox: Sandbox, ask: Asker) -> None:
    """The answer comes late and complete."""
    sandbox.add_fault("slow", delay_s=0.2, executed=True)
    started = time.monotonic()

    sections = ask.batch(sandbox, ADDS)

    assert time.monotonic() - started >= 0.2
    assert sections["result"] == {"a": 1, "b": 2}


def test_a_client_that_does_not_wait_misses_what_was_done(sandbox: Sandbox, ask: Asker) -> None:
    """A slow answer after the work: the client gives up, the records exist."""
    sandbox.add_fault("slow", delay_s=0.5, executed=True)

    with pytest.raises(requests.ReadTimeout):
        ask.session.post(sandbox.webhook_url + "batch", json={"cmd": ADDS}, timeout=0.1)

    until(lambda: len(sandbox.records("deal")) == 2)


def test_a_moved_portal_redirects_and_does_nothing(sandbox: Sandbox, ask: Asker) -> None:
    """302 with the same path on the new host and a page that is not JSON."""
    sandbox.add_fault("redirect", location="http://new.example")

    response = ask.session.post(
        sandbox.webhook_url + "batch?x=1", json={"cmd": ADDS}, allow_redirects=False, timeout=20
    )

    assert response.status_code == 302
    assert response.headers["Location"] == "http://new.example/rest/1/sandbox-secret/batch?x=1"
    assert sandbox.records("deal") == {}


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        pytest.param(Fault(action=FaultAction.HTML, skip=1), [200, 502, 200], id="skip"),
        pytest.param(
            Fault(action=FaultAction.HTML, method="crm.deal.add", times=None),
            [200, 200, 502],
            id="method of a command",
        ),
        pytest.param(Fault(action=FaultAction.HTML, method="batch"), [200, 200, 502], id="method"),
        pytest.param(
            Fault(action=FaultAction.HTML, label="b", times=None), [200, 200, 502], id="label"
        ),
        pytest.param(
            Fault(action=FaultAction.HTML, when=lambda view: view.number == 2),
            [200, 502, 200],
            id="condition",
        ),
        pytest.param(Fault(action=FaultAction.HTML, after_s=60), [200, 200, 200], id="not yet"),
        pytest.param(Fault(action=FaultAction.HTML, until_s=0), [200, 200, 200], id="over"),
    ],
)
def test_a_fault_fires_only_where_it_is_planned(
    sandbox: Sandbox, ask: Asker, fault: Fault, statuses: list[int]
) -> None:
    """Two calls of profile and a batch of adds; the fault picks what it is for."""
    sandbox.add_fault(fault)

    answers = [
        ask(sandbox, "profile"),
        ask(sandbox, "profile"),
        ask(sandbox, "batch", {"cmd": ADDS}),
    ]

    assert [answer.status_code for answer in answers] == statuses


def test_faults_can_be_cleared(sandbox: Sandbox, ask: Asker) -> None:
    """A cleared plan leaves a well-behaved portal."""
    sandbox.add_fault("html", times=None)

    sandbox.clear_faults()

    assert ask(sandbox, "profile").status_code == 200


def test_an_unknown_fault_is_refused(sandbox: Sandbox) -> None:
    """A plan that makes no sense is not armed."""
    with pytest.raises(ValueError, match="explode"):
        sandbox.add_fault("explode")
