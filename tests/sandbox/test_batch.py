"""The batch method: shapes of its sections, halt, references, what is refused."""

import pytest

from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker

ADD = "crm.deal.add?fields[TITLE]=x"
BAD = "crm.deal.get?id=999"
NOT_FOUND = {"error": "", "error_description": "Not found"}


@pytest.mark.parametrize(
    ("cmd", "result", "errors"),
    [
        pytest.param({"a": ADD, "b": ADD}, {"a": 1, "b": 2}, [], id="names, all succeed"),
        pytest.param({"a": BAD}, [], {"a": NOT_FOUND}, id="names, all fail"),
        pytest.param([ADD, ADD], [1, 2], [], id="list, all succeed"),
        pytest.param({"0": ADD}, [1], [], id="digit name 0"),
        pytest.param([ADD, BAD, ADD], {"0": 1, "2": 2}, {"1": NOT_FOUND}, id="list with a hole"),
        pytest.param([BAD], [], [NOT_FOUND], id="lone failure at 0"),
        pytest.param(
            {"0": BAD, "1": BAD, "35943": ADD},
            {"35943": 1},
            [NOT_FOUND, NOT_FOUND],
            id="each section by itself",
        ),
        pytest.param({"50": ADD, "51": ADD}, {"50": 1, "51": 2}, [], id="digits from 50"),
        pytest.param({}, [], [], id="no commands"),
    ],
)
def test_each_section_is_list_or_object_by_its_own_keys(
    sandbox: Sandbox, ask: Asker, cmd: object, result: object, errors: object
) -> None:
    """Keys 0..n-1 give a list, no keys an empty list, anything else an object."""
    sections = ask.batch(sandbox, cmd)

    assert sections["result"] == result
    assert sections["result_error"] == errors
    assert sections["result_total"] == []
    assert sections["result_next"] == []


def test_a_failed_command_has_no_time_and_a_list_command_has_a_total(
    sandbox: Sandbox, ask: Asker
) -> None:
    """result_time names successes only, result_total only lists that counted."""
    sections = ask.batch(sandbox, {"a": ADD, "b": BAD, "c": "crm.deal.list"})

    assert list(sections["result_time"]) == ["a", "c"]
    assert sections["result_total"] == {"c": 1}
    assert sections["result_time"]["a"].keys() == {
        "start",
        "finish",
        "duration",
        "processing",
        "date_start",
        "date_finish",
        "operating_reset_at",
        "operating",
    }


def test_a_null_result_keeps_its_key(sandbox: Sandbox, ask: Asker) -> None:
    """A method that answers null has succeeded."""
    comment = (
        "crm.timeline.comment.add?fields[ENTITY_ID]=1&fields[ENTITY_TYPE]=deal&fields[COMMENT]=x"
    )

    sections = ask.batch(sandbox, {"a": comment, "b": "crm.timeline.comment.delete?id=1"})

    assert sections["result"] == {"a": 1, "b": None}


@pytest.mark.parametrize("halt", [1, True, "1", "true"])
def test_with_halt_nothing_runs_after_a_failure(sandbox: Sandbox, ask: Asker, halt: object) -> None:
    """Commands after the failure are in no section and leave no trace."""
    sections = ask.batch(sandbox, {"a": ADD, "b": BAD, "c": ADD}, halt=halt)

    assert sections["result"] == {"a": 1}
    assert sections["result_error"] == {"b": NOT_FOUND}
    assert list(sandbox.records("deal")) == [1]


@pytest.mark.parametrize("halt", [0, False, "0", "", "false"])
def test_without_halt_the_rest_still_runs(sandbox: Sandbox, ask: Asker, halt: object) -> None:
    """A failure touches only its own command."""
    sections = ask.batch(sandbox, {"a": ADD, "b": BAD, "c": ADD}, halt=halt)

    assert sections["result"] == {"a": 1, "c": 2}


@pytest.mark.parametrize(
    "reference", ["$result[c][item][id]", "%24result%5Bc%5D%5Bitem%5D%5Bid%5D"]
)
def test_a_reference_names_an_earlier_result(sandbox: Sandbox, ask: Asker, reference: str) -> None:
    """Bare and escaped references are replaced by the text of what they name."""
    cmd = {
        "c": "crm.item.add?entityTypeId=3&fields[name]=Ann",
        "d": f"crm.item.add?entityTypeId=2&fields[contactId]={reference}&fields[title]=of+{reference}",
    }

    ask.batch(sandbox, cmd, halt=1)

    deal = sandbox.records("deal")[1]
    assert (deal["contactId"], deal["title"]) == ("1", "of 1")


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param("$result[bad]", id="failed source"),
        pytest.param("$result[later]", id="later command"),
        pytest.param("$result[own]", id="itself"),
        pytest.param("$result[gone][id]", id="unknown command"),
        pytest.param("$result[list][0][ID]", id="missing row"),
        pytest.param("$result[result][list]", id="path of the answer"),
    ],
)
def test_a_reference_that_leads_nowhere_stays_as_text(
    sandbox: Sandbox, ask: Asker, reference: str
) -> None:
    """The command runs, with the reference itself as the value."""
    cmd = {
        "bad": BAD,
        "list": "crm.contact.list",
        "own": f"crm.deal.add?fields[TITLE]={reference}",
        "later": ADD,
    }

    ask.batch(sandbox, cmd)

    assert sandbox.records("deal")[1]["title"] == reference


def test_a_reference_that_leads_nowhere_can_be_emptied(ask: Asker) -> None:
    """The open question of the manual is a switch."""
    with Sandbox(SandboxConfig(unresolved_reference_is_empty=True)) as sandbox:
        ask.batch(sandbox, {"own": "crm.deal.add?fields[TITLE]=a$result[bad]b"})

        assert sandbox.records("deal")[1]["title"] == "ab"


def test_a_lone_reference_takes_a_whole_structure(sandbox: Sandbox, ask: Asker) -> None:
    """A list or object is substituted whole, and not into longer text."""
    cmd = {
        "c": "crm.item.add?entityTypeId=3&fields[name]=Ann",
        "l": "crm.contact.list?select[]=NAME",
        "whole": "crm.deal.add?fields[UF_ROWS]=$result[l]",
        "part": "crm.deal.add?fields[TITLE]=x$result[l]",
    }

    ask.batch(sandbox, cmd)

    assert sandbox.records("deal")[1]["UF_ROWS"] == [{"ID": "1", "NAME": "Ann"}]
    assert sandbox.records("deal")[2]["title"] == "x$result[l]"


def test_commands_beyond_fifty_are_refused_one_by_one(sandbox: Sandbox, ask: Asker) -> None:
    """The first fifty run; each surplus command has its own error."""
    sections = ask.batch(sandbox, {f"c{n}": ADD for n in range(52)})

    assert len(sections["result"]) == 50
    assert {key: e["error"] for key, e in sections["result_error"].items()} == {
        "c50": "ERROR_BATCH_LENGTH_EXCEEDED",
        "c51": "ERROR_BATCH_LENGTH_EXCEEDED",
    }


def test_with_halt_only_the_first_surplus_command_is_named(sandbox: Sandbox, ask: Asker) -> None:
    """The first surplus error stops the batch like any other."""
    sections = ask.batch(sandbox, {f"c{n}": ADD for n in range(52)}, halt=1)

    assert list(sections["result_error"]) == ["c50"]


def test_commands_beyond_fifty_can_refuse_the_request(ask: Asker) -> None:
    """The other reading of the manual is a switch: nothing runs, HTTP 400."""
    with Sandbox(SandboxConfig(surplus_refuses_batch=True)) as sandbox:
        response = ask(sandbox, "batch", {"cmd": {f"c{n}": ADD for n in range(51)}})

        assert response.status_code == 400
        assert response.json()["error"] == "ERROR_BATCH_LENGTH_EXCEEDED"
        assert sandbox.records("deal") == {}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param("batch?cmd[a]=profile", "ERROR_BATCH_METHOD_NOT_ALLOWED", id="nested batch"),
        pytest.param("crm.nothing.add", "ERROR_METHOD_NOT_FOUND", id="unknown method"),
        pytest.param("profile.json", "ERROR_METHOD_NOT_FOUND", id="suffix"),
        pytest.param("", "ERROR_METHOD_NOT_FOUND", id="empty"),
        pytest.param(7, "ERROR_METHOD_NOT_FOUND", id="no text"),
        pytest.param({"a": "b"}, "ERROR_METHOD_NOT_FOUND", id="structure"),
    ],
)
def test_what_a_batch_does_not_take_fails_by_itself(
    sandbox: Sandbox, ask: Asker, command: object, code: str
) -> None:
    """Such a command is refused; its neighbours run."""
    sections = ask.batch(sandbox, {"a": command, "b": ADD})

    assert sections["result_error"]["a"]["error"] == code
    assert sections["result"] == {"b": 1}


def test_a_batch_without_cmd_is_refused(sandbox: Sandbox, ask: Asker) -> None:
    """A missing cmd is error 100; a switch makes it an empty answer."""
    assert ask.refusal(sandbox, "batch", {"halt": 1})[0] == "100"

    with Sandbox(SandboxConfig(missing_cmd_is_error=False)) as lenient:
        assert ask.result(lenient, "batch", {"halt": 1})["result"] == []


def test_method_names_are_compared_in_any_case(sandbox: Sandbox, ask: Asker) -> None:
    """crm.Deal.ADD is crm.deal.add."""
    assert ask.batch(sandbox, {"a": "crm.Deal.ADD?fields[TITLE]=x"})["result"] == {"a": 1}


def test_a_command_can_have_too_many_variables(ask: Asker) -> None:
    """With PHP's limit the rest is dropped without a word."""
    with Sandbox(SandboxConfig(query_variable_limit=2, first_id=1000)) as sandbox:
        added = ask.batch(sandbox, {"a": "crm.deal.add?fields[A]=1&fields[B]=2&fields[C]=3"})

        assert added["result"] == {"a": 1000}
        assert sandbox.journal()[0].params == {"fields": {"A": "1", "B": "2"}}
