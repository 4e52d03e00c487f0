"""Steering from outside, the journal, and running in the foreground."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker

ADD = "crm.deal.add?fields[TITLE]=x"


def control(sandbox: Sandbox, ask: Asker, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON of any shape
    """GET a control path, or POST to it if there is a body; the answer."""
    url = f"{sandbox.url}/sandbox/{path}"
    if body is None:
        return ask.session.get(url, timeout=20).json()
    return ask.session.post(url, json=body, timeout=20).json()


def test_the_journal_tells_commands_in_order(sandbox: Sandbox, ask: Asker) -> None:
    """Each command has label, method, resolved parameters, outcome and id."""
    ask.batch(
        sandbox,
        {"a": ADD, "b": "crm.deal.update?id=$result[a]&fields[TITLE]=y", "c": "crm.deal.get?id=9"},
    )

    entries = sandbox.journal()
    assert [(e.number, e.request, e.label, e.method) for e in entries] == [
        (1, 1, "a", "crm.deal.add"),
        (2, 1, "b", "crm.deal.update"),
        (3, 1, "c", "crm.deal.get"),
    ]
    assert entries[1].params == {"id": "1", "fields": {"TITLE": "y"}}
    assert [(e.ok, e.executed, e.id, e.text) for e in entries] == [
        (True, True, 1, ""),
        (True, True, 1, ""),
        (False, False, None, "Not found"),
    ]


def test_the_journal_tells_requests(sandbox: Sandbox, ask: Asker) -> None:
    """Each request has path, method, number of commands, status, code and fault."""
    ask.batch(sandbox, {"a": ADD, "b": ADD})
    sandbox.add_fault("error", code="PORTAL_DELETED")
    ask(sandbox, "profile")

    seen = [(r.number, r.path, r.method, r.commands) for r in sandbox.requests()]
    answered = [(r.status, r.code, r.fault, r.credential) for r in sandbox.requests()]
    assert seen == [
        (1, "/rest/1/***/batch", "batch", 2),
        (2, "/rest/1/***/profile", "profile", 1),
    ]
    assert answered == [
        (200, "", None, "webhook"),
        (500, "PORTAL_DELETED", "error", "webhook"),
    ]


def test_the_journal_is_kept_in_a_file_too(tmp_path: Path, ask: Asker) -> None:
    """One JSON object a line, commands before the request that brought them."""
    path = tmp_path / "journal.ndjson"
    with Sandbox(SandboxConfig(journal_path=path)) as sandbox:
        ask.batch(sandbox, {"a": ADD})

    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["entry"] for line in lines] == ["command", "request"]
    assert (lines[0]["method"], lines[1]["commands"]) == ("crm.deal.add", 1)


def test_another_process_can_look(sandbox: Sandbox, ask: Asker) -> None:
    """Journal by offset, requests, records and numbers over HTTP."""
    ask.batch(sandbox, {"a": ADD, "b": ADD, "c": "crm.deal.get?id=9"})

    journal = control(sandbox, ask, "journal?offset=1&limit=1")["commands"]
    records = control(sandbox, ask, "records/item:2")["records"]
    stats = control(sandbox, ask, "stats")

    assert [entry["label"] for entry in journal] == ["b"]
    assert records["2"]["title"] == "x"
    assert control(sandbox, ask, "records/crm.deal")["records"]["2"]["TITLE"] == "x"
    assert (stats["requests"], stats["commands"], stats["failed"]) == (1, 3, 1)
    assert stats["records"]["deal"] == 2
    assert len(control(sandbox, ask, "requests")["requests"]) == 1


def test_another_process_can_plan_faults(sandbox: Sandbox, ask: Asker) -> None:
    """One fault or several are armed, shown and cleared."""
    html = {"action": "html", "status": 504}

    control(sandbox, ask, "faults", html)
    control(sandbox, ask, "faults", [{**html, "times": 2}, {**html, "method": "batch"}])
    statuses = [ask(sandbox, "profile").status_code for _ in range(4)]
    armed = control(sandbox, ask, "faults")["faults"]
    control(sandbox, ask, "clear-faults", {})

    assert statuses == [504, 504, 504, 200]
    assert [fault["method"] for fault in armed] == ["batch"]
    assert control(sandbox, ask, "faults")["faults"] == []


@pytest.mark.parametrize("body", [{"action": "explode"}, {"action": "html", "x": 1}, ["html"]])
def test_a_fault_that_makes_no_sense_is_refused(sandbox: Sandbox, ask: Asker, body: object) -> None:
    """400 and nothing armed."""
    response = ask.session.post(sandbox.url + "/sandbox/faults", json=body, timeout=20)

    assert response.status_code == 400
    assert control(sandbox, ask, "faults")["faults"] == []


def test_another_process_can_steer(sandbox: Sandbox, ask: Asker) -> None:
    """Tokens expire, types are registered, everything is forgotten on demand."""
    control(sandbox, ask, "types", {"entityTypeId": 200})
    ask.result(sandbox, "crm.item.add", {"entityTypeId": 200, "fields": {"title": "x"}})
    token = control(sandbox, ask, "tokens")["access_token"]
    control(sandbox, ask, "expire-token", {})
    expired = ask.session.get(f"{sandbox.url}/rest/profile?auth={token}", timeout=20).status_code
    before = sandbox.records("item:200")

    control(sandbox, ask, "reset", {})

    assert (expired, len(before)) == (401, 1)
    assert sandbox.records("item:200") == {}
    assert (sandbox.journal(), sandbox.requests()) == ([], [])
    assert ask.session.get(f"{sandbox.url}/rest/profile?auth={token}", timeout=20).ok


def test_an_unknown_control_path_is_not_found(sandbox: Sandbox, ask: Asker) -> None:
    """404, for reading and for steering."""
    for verb in ("GET", "POST"):
        response = ask.session.request(verb, sandbox.url + "/sandbox/nothing", timeout=20)

        assert response.status_code == 404


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_in_the_foreground_until_told_to_end(ending: signal.Signals) -> None:
    """The first line is the webhook's address; a signal ends it cleanly."""
    command = [sys.executable, "-m", "b24sync.sandbox", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own interpreter and module
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            answer = requests.get(url + "profile", timeout=20).json()
        finally:
            process.send_signal(ending)
        status = process.wait(timeout=20)

    assert answer["result"]["ID"] == "1"
    assert status == 0


def test_records_stay_readable_after_the_end() -> None:
    """Only the address is gone."""
    with Sandbox() as sandbox:
        sandbox.call("crm.deal.add", {"fields": {"TITLE": "x"}})

    assert sandbox.records("deal")[1]["title"] == "x"
    with pytest.raises(RuntimeError, match="not running"):
        _ = sandbox.url
