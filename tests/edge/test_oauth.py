"""One renewal on the wire: where it goes, what it says, what is made of silence."""

import traceback
from urllib.parse import parse_qsl

import pytest
import requests

from b24sync.core.errors import SettingsError
from b24sync.core.grants import Grant, Pair
from b24sync.core.renewal import Refused, Unheard
from b24sync.edge.oauth import Application, origin, renew
from b24sync.edge.portal import PortalClient
from b24sync.sandbox import Sandbox
from tests.fakes import Answer, ScriptedPortal

HUSH = ("hush-secret", "hush-access", "hush-refresh&=+ü")
PAIR = Pair(access=HUSH[1], refresh=HUSH[2])
TOKENS = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600}


def application(server_url: str = "https://oauth.example") -> Application:
    """An application of some server."""
    return Application(client_id="local.1", client_secret=HUSH[0], server_url=server_url)


def client_of(*script: Answer | Exception) -> tuple[PortalClient, ScriptedPortal]:
    """A client, and the server that it talks to."""
    server = ScriptedPortal(script)
    return PortalClient(adapter=lambda: server), server


def test_a_renewal_is_one_form_with_nothing_in_its_address() -> None:
    """Proxies log addresses, and no bodies."""
    client, server = client_of(Answer(body=TOKENS))

    answer = renew(client, application(), PAIR)

    (asked,) = server.asked
    assert answer == Grant(pair=Pair(access="a2", refresh="r2"), life_s=3600)
    assert asked.url == "https://oauth.example/oauth/token/"
    assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert dict(parse_qsl(asked.body.decode())) == {
        "grant_type": "refresh_token",
        "client_id": "local.1",
        "client_secret": HUSH[0],
        "refresh_token": HUSH[2],
    }


@pytest.mark.parametrize(
    ("trouble", "is_lost"),
    [
        (requests.ConnectTimeout(), False),
        (requests.ReadTimeout(), True),
        (requests.ConnectionError(), True),
    ],
)
def test_silence_is_a_value(trouble: Exception, *, is_lost: bool) -> None:
    """It says whether the server may have been reached, and nothing is repeated."""
    client, server = client_of(trouble)

    answer = renew(client, application(), PAIR)

    assert isinstance(answer, Unheard)
    assert answer.is_lost is is_lost
    assert len(server.asked) == 1


def test_another_server_is_not_believed() -> None:
    """Neither one that a redirect leads to, nor one that an answer names."""
    elsewhere = {"server_endpoint": "https://other.example/rest/", "domain": "other.example"}
    client, server = client_of(
        Answer(status=302, headers={"Location": "https://other.example/oauth/token/"}),
        Answer(body=TOKENS | elsewhere),
    )

    moved = renew(client, application(), PAIR)
    renewed = renew(client, application(), PAIR)

    assert isinstance(moved, Refused)
    assert [asked.url for asked in server.asked] == ["https://oauth.example/oauth/token/"] * 2
    assert "other" not in repr(renewed)


@pytest.mark.parametrize(
    "url",
    ["http://oauth.example", "ftp://oauth.example", "oauth.example", "", "https://u:p@host", "//h"],
)
def test_a_secret_goes_only_where_nobody_can_read_it(url: str) -> None:
    """The setting is named, and the secret is not; nothing is sent."""
    client, server = client_of()

    with pytest.raises(SettingsError, match="server_url") as caught:
        renew(client, application(url), PAIR)

    assert server.asked == []
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://OAuth.example/any/path/", "https://oauth.example"),
        ("https://oauth.example:8443", "https://oauth.example:8443"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
    ],
)
def test_of_an_address_only_the_host_counts(url: str, expected: str) -> None:
    """A path in it would lead astray."""
    assert origin(url, "server_url") == expected


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    """Should the server do so; and nothing here shows a secret by itself."""
    echo = {"error": "invalid_grant", "error_description": f"{HUSH[2]} of {HUSH[0]} is spent"}
    client, _ = client_of(Answer(body=echo, status=400))

    answer = renew(client, application(), PAIR)

    assert isinstance(answer, Refused)
    assert answer.fault.text == "… of … is spent"
    assert "hush" not in repr((application(), PAIR, answer))


def test_the_emulated_server_renews() -> None:
    """Over HTTP, with its own rules: the second time the token is spent."""
    with Sandbox() as sandbox:
        known = Application(
            client_id=sandbox.config.client_id,
            client_secret=sandbox.config.client_secret,
            server_url=sandbox.url,
        )
        pair = Pair(access=sandbox.access_token, refresh=sandbox.refresh_token)
        client = PortalClient()

        first, second = renew(client, known, pair), renew(client, known, pair)
        client.close()

        assert isinstance(first, Grant)
        assert first.pair == Pair(access=sandbox.access_token, refresh=sandbox.refresh_token)
        assert isinstance(second, Refused)
        assert second.fault.code == "invalid_grant"
