"""Addresses, bodies, credentials and the envelope."""

import http.client
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode, urlsplit

import pytest
import requests

from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker


@pytest.mark.parametrize(
    "path",
    [
        "/rest/1/sandbox-secret/crm.deal.add",
        "/rest/1/sandbox-secret/crm.deal.add.json",
        "/rest/1/sandbox-secret/crm.deal.add/",
        "/rest/1/sandbox-secret//crm.deal.add/?bx24_request_id=1",
        "/rest//crm.deal.add?auth=sandbox-access-0",
        "/rest/crm.deal.add.json?auth=sandbox-access-0&bx24_sdk_ver=2",
    ],
)
def test_every_form_of_address_leads_to_the_method(sandbox: Sandbox, ask: Asker, path: str) -> None:
    """Suffix, slashes, unknown query parameters and both kinds of credential are taken."""
    response = ask.session.post(sandbox.url + path, json={"fields": {"TITLE": "x"}}, timeout=20)

    assert response.json()["result"] == 1
    assert "auth" not in sandbox.journal()[0].params


@pytest.mark.parametrize("carrier", ["json", "form", "multipart", "get"])
def test_a_batch_comes_in_any_body(sandbox: Sandbox, ask: Asker, carrier: str) -> None:
    """JSON, form, multipart and plain GET carry the same commands."""
    url = sandbox.webhook_url + "batch"
    flat = {"cmd[a]": "crm.deal.add?fields[TITLE]=A%26B", "halt": "1"}
    match carrier:
        case "json":
            body = {"cmd": {"a": "crm.deal.add?fields[TITLE]=A%26B"}, "halt": 1}
            response = ask.session.post(url, json=body, timeout=20)
        case "form":
            response = ask.session.post(url, data=flat, timeout=20)
        case "multipart":
            files = {name: (None, value) for name, value in flat.items()}
            response = ask.session.post(url, files=files, timeout=20)
        case _:
            response = ask.session.get(f"{url}?{urlencode(flat)}", timeout=20)

    assert response.json()["result"]["result"] == {"a": 1}
    assert sandbox.records("deal")[1]["title"] == "A&B"


def test_a_body_wins_over_the_query(sandbox: Sandbox, ask: Asker) -> None:
    """Query and body are merged; where both speak, the body is heard."""
    url = sandbox.webhook_url + "crm.deal.add?fields[TITLE]=query&params[X]=1"

    ask.session.post(url, json={"fields": {"TITLE": "body"}}, timeout=20)

    assert sandbox.journal()[0].params == {"fields": {"TITLE": "body"}, "params": {"X": "1"}}


def test_a_malformed_body_is_no_parameters(sandbox: Sandbox, ask: Asker) -> None:
    """Broken JSON surfaces as a missing parameter."""
    headers = {"Content-Type": "application/json"}

    response = ask.session.post(
        sandbox.webhook_url + "batch", data=b'{"cmd":{', headers=headers, timeout=20
    )

    assert (response.status_code, response.json()["error"]) == (400, "100")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/rest/1/wrong/profile", 401, "INVALID_CREDENTIALS", id="wrong code"),
        pytest.param("/rest/2/sandbox-secret/profile", 401, "INVALID_CREDENTIALS", id="user"),
        pytest.param("/rest/profile", 401, "NO_AUTH_FOUND", id="no token"),
        pytest.param("/rest/profile?auth=x", 401, "invalid_token", id="unknown token"),
        pytest.param("/rest/1/sandbox-secret/x.y", 404, "ERROR_METHOD_NOT_FOUND", id="method"),
        pytest.param("/rest/1/sandbox-secret/app.info", 403, "ACCESS_DENIED", id="context"),
    ],
)
def test_a_refused_call_has_code_and_status(
    sandbox: Sandbox, ask: Asker, path: str, status: int, code: str
) -> None:
    """The envelope holds error and description and no result."""
    response = ask.session.post(sandbox.url + path, json={}, timeout=20)

    assert response.status_code == status
    assert response.json()["error"] == code
    assert "result" not in response.json()


def test_other_paths_are_html_pages(sandbox: Sandbox, ask: Asker) -> None:
    """What is no REST address is answered like any web server does."""
    response = ask.session.get(sandbox.url + "/crm/deal/", timeout=20)

    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")


def test_one_connection_serves_many_requests(sandbox: Sandbox) -> None:
    """HTTP/1.1 connections stay open, also after a refusal."""
    connection = http.client.HTTPConnection(urlsplit(sandbox.url).netloc, timeout=20)

    statuses: list[int] = []
    for path in ("/rest/profile", "/rest/1/sandbox-secret/profile"):
        connection.request("GET", path)
        response = connection.getresponse()
        statuses.append(response.status)
        response.read()
        assert connection.sock is not None
    connection.close()

    assert statuses == [401, 200]


def test_an_upgrade_offer_is_ignored(sandbox: Sandbox, ask: Asker) -> None:
    """A client that offers HTTP/2 without TLS is answered in HTTP/1.1."""
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AA"}

    response = ask.session.get(sandbox.webhook_url + "profile", headers=headers, timeout=20)

    assert response.json()["result"]["ID"] == "1"


def test_the_journal_hides_the_webhook_secret(sandbox: Sandbox, ask: Asker) -> None:
    """Paths in the journal and the settings' repr do not give the secret away."""
    ask(sandbox, "profile")
    ask.session.get(sandbox.url + "/rest/profile?auth=sandbox-access-0", timeout=20)

    seen = repr(sandbox.requests()) + repr(sandbox.journal()) + repr(sandbox.config)
    assert sandbox.requests()[0].path == "/rest/1/***/profile"
    assert "sandbox-secret" not in seen
    assert "sandbox-access" not in seen


def test_times_can_be_those_of_a_self_hosted_portal(ask: Asker) -> None:
    """Whole numbers and no operating fields are switches."""
    with Sandbox(SandboxConfig(integer_times=True, operating_reported=False)) as sandbox:
        stated = ask(sandbox, "profile").json()["time"]

        assert isinstance(stated["start"], int)
        assert "operating" not in stated


def test_ids_can_all_be_text(ask: Asker) -> None:
    """Whether ids are numbers is a switch."""
    with Sandbox(SandboxConfig(ids_as_text=True)) as sandbox:
        add = "crm.item.add?entityTypeId=2&fields[title]=x"
        sections = ask.batch(sandbox, {"a": add, "b": "crm.deal.add?fields[TITLE]=x"})

        assert sections["result"]["a"]["item"]["id"] == "1"
        assert sections["result"]["b"] == "2"


@pytest.mark.parametrize(
    ("config", "path", "status"),
    [
        (SandboxConfig(url_limit_bytes=100), "profile?x=" + "y" * 100, 414),
        (SandboxConfig(body_limit_bytes=10), "profile", 413),
        (SandboxConfig(wrong_code_status=403, code="other"), "profile", 403),
    ],
)
def test_refusals_of_the_web_server_are_switches(
    ask: Asker, config: SandboxConfig, path: str, status: int
) -> None:
    """Sizes and the status of a wrong code can be chosen."""
    with Sandbox(config) as sandbox:
        url = f"{sandbox.url}/rest/1/sandbox-secret/{path}"

        assert ask.session.post(url, json={"x": "y" * 20}, timeout=20).status_code == status


def test_parallel_clients_share_one_portal(sandbox: Sandbox) -> None:
    """Eight clients at once: every record has its own id, every command its own number."""
    cmd = {f"c{n}": "crm.deal.add?fields[TITLE]=x" for n in range(50)}

    def add(_client: int) -> list[int]:
        asker = Asker()
        with asker.session:
            return [*asker.batch(sandbox, cmd)["result"].values()]

    with ThreadPoolExecutor(8) as pool:
        ids = [record_id for added in pool.map(add, range(8)) for record_id in added]

    assert sorted(ids) == list(range(1, 401))
    assert [entry.number for entry in sandbox.journal()] == list(range(1, 401))
    assert sorted(request.number for request in sandbox.requests()) == list(range(1, 9))


def test_a_stopped_sandbox_lets_no_connection_live(ask: Asker) -> None:
    """Stopping ends also the connections that clients keep alive."""
    sandbox = Sandbox(SandboxConfig()).start()
    url = sandbox.webhook_url + "profile"
    ask.session.get(url, timeout=20)

    sandbox.stop()

    with pytest.raises(requests.ConnectionError):
        ask.session.get(url, timeout=20)
