"""Access tokens and their renewal."""

import pytest
import requests

from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker

RENEWAL = {
    "grant_type": "refresh_token",
    "client_id": "sandbox-client",
    "client_secret": "sandbox-client-secret",
    "refresh_token": "sandbox-refresh-0",
}


def profile(sandbox: Sandbox, ask: Asker, token: str) -> requests.Response:
    """Call a method with an access token."""
    return ask.session.post(sandbox.url + "/rest/profile", json={"auth": token}, timeout=20)


def renew(sandbox: Sandbox, ask: Asker, **changed: str) -> requests.Response:
    """Ask for a new pair, by POST."""
    data = {**RENEWAL, **changed}
    return ask.session.post(sandbox.url + "/oauth/token/", data=data, timeout=20)


def test_an_expired_token_is_refused_before_anything_runs(sandbox: Sandbox, ask: Asker) -> None:
    """401 expired_token for the whole request."""
    sandbox.expire_token()

    body = {"auth": "sandbox-access-0", "cmd": {"a": "crm.deal.add?fields[TITLE]=x"}}
    response = ask.session.post(sandbox.url + "/rest/batch", json=body, timeout=20)

    assert (response.status_code, response.json()["error"]) == (401, "expired_token")
    assert sandbox.records("deal") == {}


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_a_refresh_gives_a_new_pair(sandbox: Sandbox, ask: Asker, verb: str) -> None:
    """The new access token works; the answer has the documented fields."""
    url = sandbox.url + "/oauth/token/"
    query, form = (RENEWAL, None) if verb == "GET" else (None, RENEWAL)

    granted = ask.session.request(verb, url, params=query, data=form, timeout=20).json()

    pair = (granted["access_token"], granted["refresh_token"])
    assert pair == ("sandbox-access-0-1", "sandbox-refresh-0-1")
    assert granted["expires_in"] == 3600
    assert granted["client_endpoint"] == sandbox.url + "/rest/"
    assert profile(sandbox, ask, granted["access_token"]).status_code == 200


def test_an_old_refresh_token_is_refused(sandbox: Sandbox, ask: Asker) -> None:
    """Of two refreshes with one token the first wins; the second gets invalid_grant."""
    first, second = renew(sandbox, ask), renew(sandbox, ask)

    assert first.status_code == 200
    assert (second.status_code, second.json()["error"]) == (400, "invalid_grant")
    assert (sandbox.access_token, sandbox.refresh_token) == (
        "sandbox-access-0-1",
        "sandbox-refresh-0-1",
    )


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"client_id": "x"}, 200, "wrong_client"),
        ({"client_secret": "x"}, 400, "invalid_client"),
        ({"grant_type": "x"}, 400, "invalid_request"),
        ({"refresh_token": ""}, 400, "invalid_request"),
    ],
)
def test_a_wrong_renewal_is_refused(
    sandbox: Sandbox, ask: Asker, changed: dict[str, str], status: int, code: str
) -> None:
    """The authorization server's own codes, one of them with HTTP 200."""
    response = renew(sandbox, ask, **changed)

    assert (response.status_code, response.json()["error"]) == (status, code)


@pytest.mark.parametrize(("strict", "status"), [(False, 200), (True, 401)])
def test_a_rotation_may_end_the_old_access_token(ask: Asker, *, strict: bool, status: int) -> None:
    """Sources disagree, so it is a switch."""
    with Sandbox(SandboxConfig(rotation_kills_access_token=strict)) as sandbox:
        renew(sandbox, ask)

        assert profile(sandbox, ask, "sandbox-access-0").status_code == status


def test_a_lost_renewal_has_still_rotated(sandbox: Sandbox, ask: Asker) -> None:
    """A reset after the work leaves the client with a dead refresh token."""
    sandbox.add_fault("reset", method="oauth.token", executed=True)

    with pytest.raises(requests.ConnectionError):
        renew(sandbox, ask)

    assert renew(sandbox, ask).json()["error"] == "invalid_grant"


def test_an_application_may_ask_about_itself(sandbox: Sandbox, ask: Asker) -> None:
    """app.info answers to a token."""
    response = ask.session.get(f"{sandbox.url}/rest/app.info?auth=sandbox-access-0", timeout=20)

    assert response.json()["result"]["INSTALLED"] is True
