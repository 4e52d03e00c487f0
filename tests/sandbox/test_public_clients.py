"""Public clients drive the sandbox as they would a portal: fast_bitrix24 and b24pysdk.

They were written against real portals by other people, so what they understand is evidence that
the sandbox speaks the portal's language.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from b24pysdk import BitrixWebhook
from b24pysdk.api.callers import call
from b24pysdk.errors import (
    BitrixAPIInvalidCredentials,
    BitrixAPIOperationTimeLimit,
    BitrixRequestError,
    BitrixResponseJSONDecodeError,
)
from fast_bitrix24 import BitrixAsync
from fast_bitrix24.server_response import ErrorInServerResponseException

from b24sync.sandbox import Sandbox, SandboxConfig

TITLE = "Сделка «№1» a&b=c 50% + #?/[x]"


@pytest.fixture
def tls_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox over TLS whose certificate requests trusts."""
    with Sandbox(SandboxConfig(tls=True)) as running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(running.ca_path))
        yield running


@pytest.fixture
def sdk(tls_sandbox: Sandbox) -> Any:  # noqa: ANN401 - the SDK ships no types
    """b24pysdk's webhook, pointed at the sandbox."""
    host = urlsplit(tls_sandbox.url).netloc
    return BitrixWebhook(domain=host, webhook_token="1/sandbox-secret")  # noqa: S106 - the sandbox's own


def fast(sandbox: Sandbox) -> Any:  # noqa: ANN401 - the client ships no types
    """fast_bitrix24 without a progress bar and, in effect, without its limiter."""
    return BitrixAsync(
        sandbox.webhook_url,
        verbose=False,
        request_pool_size=10**9,
        requests_per_second=1e9,
        operating_time_limit=10**9,
    )


def run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the coroutine gives
    """Run a coroutine to its end."""
    return asyncio.run(work)


def test_fast_bitrix24_adds_in_chunks(sandbox: Sandbox) -> None:
    """120 deals go in three batches of at most fifty."""
    rows = [{"fields": {"TITLE": f"{TITLE} {n}"}} for n in range(120)]

    results = run(fast(sandbox).call("crm.deal.add", rows))

    assert len(results) == 120
    titles = {record["title"] for record in sandbox.records("deal").values()}
    assert titles == {f"{TITLE} {n}" for n in range(120)}
    assert sorted(request.commands for request in sandbox.requests()) == [20, 50, 50]


def test_fast_bitrix24_sends_a_chain(sandbox: Sandbox) -> None:
    """Its call_batch passes raw references on."""
    cmd = {
        "add": "crm.deal.add?fields[TITLE]=x",
        "upd": "crm.deal.update?ID=$result[add]&fields[TITLE]=имя",
    }

    results = run(fast(sandbox).call_batch({"halt": 1, "cmd": cmd}))

    assert results == {"add": 1, "upd": True}
    assert sandbox.records("deal")[1]["title"] == "имя"


def test_fast_bitrix24_reads_all_pages(sandbox: Sandbox) -> None:
    """Its get_all counts the first page's total and asks for the rest."""
    for n in range(130):
        sandbox.call("crm.lead.add", {"fields": {"TITLE": f"t{n}"}})

    leads = run(fast(sandbox).get_all("crm.lead.list", {"select": ["ID", "TITLE"]}))

    assert sorted(int(lead["ID"]) for lead in leads) == list(range(1, 131))


def test_fast_bitrix24_sees_a_failed_command(sandbox: Sandbox) -> None:
    """One refused command is an exception of its own kind."""
    sandbox.add_fault("command", field="TITLE", matches="2", code="", text="No.")
    rows = [{"fields": {"TITLE": str(n)}} for n in range(4)]

    with pytest.raises(ErrorInServerResponseException, match="No"):
        run(fast(sandbox).call("crm.deal.add", rows))

    assert len(sandbox.records("deal")) == 3


def test_fast_bitrix24_duplicates_after_a_lost_answer(sandbox: Sandbox) -> None:
    """Its repeat after a reset makes every deal twice: the sandbox shows what a portal would."""
    sandbox.add_fault("reset", executed=True)
    rows = [{"fields": {"TITLE": str(n)}} for n in range(50)]

    run(fast(sandbox).call("crm.deal.add", rows))

    assert len(sandbox.records("deal")) == 100


def test_b24pysdk_sends_a_named_batch(tls_sandbox: Sandbox, sdk: Any) -> None:  # noqa: ANN401 - as the fixture
    """Names, values of every sort and a reference arrive as it encodes them."""
    fields = {"TITLE": TITLE, "OPENED": True, "COMMENTS": None, "UF_EMPTY": [], "UF_LIST": [3, 1]}
    phone = [{"VALUE": "+7 999", "VALUE_TYPE": "WORK"}]
    methods = {
        "add": ("crm.contact.add", {"fields": {**fields, "PHONE": phone}}),
        "get": ("crm.contact.get", {"ID": "$result[add]"}),
    }

    answer = sdk.call_batch(methods, halt=True)

    assert answer["result"]["result"]["add"] == 1
    assert answer["result"]["result"]["get"]["PHONE"][0]["VALUE"] == "+7 999"
    record = tls_sandbox.records("crm.contact")[1]
    assert {name: record[name] for name in fields} == {
        "TITLE": TITLE,
        "OPENED": "True",
        "COMMENTS": "",
        "UF_EMPTY": [""],
        "UF_LIST": ["3", "1"],
    }


def test_b24pysdk_takes_lists_and_holes(tls_sandbox: Sandbox, sdk: Any) -> None:  # noqa: ANN401 - as the fixture
    """A sequence comes back as a list, or by digits where a command failed."""
    add = ("crm.deal.add", {"fields": {"TITLE": "x"}})
    bad = ("crm.deal.get", {"id": 999})

    whole = sdk.call_batch([add, add])["result"]
    broken = sdk.call_batch([add, bad, add])["result"]

    assert whole["result"] == [1, 2]
    assert broken["result"] == {"0": 3, "2": 4}
    assert broken["result_error"]["1"]["error_description"] == "Not found"
    assert len(tls_sandbox.journal()) == 5


def test_b24pysdk_stops_chunks_after_a_halt(tls_sandbox: Sandbox, sdk: Any) -> None:  # noqa: ANN401 - as the fixture
    """Of 120 commands the eleventh fails: eleven run and one request is sent."""
    tls_sandbox.add_fault("command", field="TITLE", matches="^10$", code="", text="No.")
    methods = [("crm.deal.add", {"fields": {"TITLE": str(n)}}) for n in range(120)]

    answer = sdk.call_batches(methods, halt=True)["result"]

    assert len(answer["result"]) == 10
    assert len(answer["result_error"]) == 1
    assert len(tls_sandbox.requests()) == 1


def test_b24pysdk_reads_lists(tls_sandbox: Sandbox, sdk: Any) -> None:  # noqa: ANN401 - as the fixture
    """Its two ways of reading lists, by pages and by chains of references, find every record."""
    for n in range(130):
        tls_sandbox.call("crm.deal.add", {"fields": {"TITLE": f"t{n}"}})

    by_page = sdk.call_list("crm.deal.list", {"select": ["ID"]})["result"]
    by_chain = list(sdk.call_list_fast("crm.deal.list", {"select": ["ID"]})["result"])

    assert [int(row["ID"]) for row in by_page] == list(range(1, 131))
    assert [int(row["ID"]) for row in by_chain] == list(range(1, 131))


def test_b24pysdk_tells_errors_apart(tls_sandbox: Sandbox, sdk: Any) -> None:  # noqa: ANN401 - as the fixture
    """Code and status of an envelope error choose its exception."""
    tls_sandbox.add_fault("error", code="OPERATION_TIME_LIMIT")
    with pytest.raises(BitrixAPIOperationTimeLimit):
        sdk.call_method("profile")

    tls_sandbox.add_fault("html", status=500)
    with pytest.raises(BitrixResponseJSONDecodeError):
        sdk.call_method("profile")

    tls_sandbox.add_fault("reset")
    with pytest.raises(BitrixRequestError):
        sdk.call_method("profile")

    assert sdk.call_method("profile")["result"]["ID"] == "1"


def test_b24pysdk_waits_out_a_full_bucket(tls_sandbox: Sandbox, sdk: Any) -> None:  # noqa: ANN401 - as the fixture
    """It repeats a 503 by itself and then succeeds."""
    tls_sandbox.add_fault("error", code="QUERY_LIMIT_EXCEEDED")

    answer = sdk.call_method("crm.deal.add", {"fields": {"TITLE": "x"}})

    assert answer["result"] == 1
    assert [request.status for request in tls_sandbox.requests()] == [503, 200]


def test_b24pysdk_lowest_caller_speaks_http(sandbox: Sandbox) -> None:
    """Without TLS, by address; a wrong code is its invalid-credentials error."""
    answer = call(sandbox.webhook_url + "crm.item.list.json", params={"entityTypeId": 2})

    assert answer["result"] == {"items": []}
    with pytest.raises(BitrixAPIInvalidCredentials):
        call(sandbox.url + "/rest/1/wrong/profile.json")
