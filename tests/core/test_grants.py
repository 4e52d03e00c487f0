"""Tokens as they are handed out: by an answer, by an event, and from the table."""

import json
from typing import Any

import pytest

from b24sync.core.errors import CredentialError
from b24sync.core.grants import Grant, Pair, document_of, grant_in, pair_in

ANSWER = {
    "access_token": "hush-a",
    "refresh_token": "hush-r",
    "expires": 1_790_003_600,
    "expires_in": 3600,
    "client_endpoint": "https://acme.bitrix24.com/rest/",
    "server_endpoint": "https://oauth.bitrix.info/rest/",
    "domain": "oauth.bitrix.info",
    "member_id": "m1",
    "scope": "crm",
    "status": "L",
    "user_id": 7,
}
GRANT = Grant(
    pair=Pair(access="hush-a", refresh="hush-r"),
    life_s=3600,
    ends_at_s=1_790_003_600,
    member_id="m1",
    user_id="7",
    client_endpoint="https://acme.bitrix24.com/rest/",
)


def test_an_answer_and_an_event_say_the_same() -> None:
    """An event has all under ``auth``, and PHP sends numbers as text."""
    event = {"event": "ONAPPINSTALL", "auth": ANSWER | {"expires_in": "3600", "user_id": "7"}}

    assert grant_in(ANSWER) == grant_in(event) == GRANT


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "a JSON object is needed"),
        (None, "a JSON object is needed"),
        ({}, "access_token and refresh_token missing"),
        ({"access_token": "hush"}, "refresh_token missing"),
        ({"refresh_token": "hush", "access_token": ""}, "access_token missing"),
        ({"refresh_token": "hush", "access_token": "two\nlines"}, "access_token missing"),
        ({"refresh_token": "hush", "access_token": True}, "access_token missing"),
        ({"refresh_token": "hush", "access_token": "x" * 5000}, "access_token missing"),
        ({"refresh_token": "hush", "access_token": 10**5000}, "access_token missing"),
        ({"auth": {"refresh_token": "hush"}, "access_token": "a"}, "access_token missing"),
    ],
)
def test_what_is_missing_is_named(document: object, problem: str) -> None:
    """And no token is repeated."""
    with pytest.raises(ValueError, match=f"^{problem}$"):
        grant_in(document)


@pytest.mark.parametrize("value", ["soon", -1, 0, 10**9, 1.5, None, True, [], "1" * 13, "-5"])
def test_a_span_that_is_none_is_not_said(value: object) -> None:
    """Whatever it is; the tokens are good without it."""
    assert grant_in(ANSWER | {"expires_in": value}).life_s is None


@pytest.mark.parametrize("value", [None, "", "x" * 65, {}, -1])
def test_an_id_that_is_none_is_not_said(value: object) -> None:
    """One that no column holds names nobody."""
    grant = grant_in(ANSWER | {"member_id": value, "user_id": value})

    assert (grant.member_id, grant.user_id) == (None, None)


@pytest.mark.parametrize("renewed_at_ms", [None, 1_790_000_000_000])
def test_a_pair_is_read_as_it_was_written(renewed_at_ms: int | None) -> None:
    """The document is JSON, so that it can be read by whatever comes later."""
    pair = Pair(access="hush-a", refresh="hush-r", renewed_at_ms=renewed_at_ms)

    assert pair_in(document_of(pair)) == pair
    assert json.loads(document_of(pair)).keys() >= {"access_token", "refresh_token"}


@pytest.mark.parametrize(
    "document",
    ["", "rest/1/hush/", "[]", "null", '{"access_token": "hush"}', "[" * 100_000],
)
def test_what_holds_no_pair_is_refused_without_being_repeated(document: str) -> None:
    """As the path of a webhook is, that stands where tokens should."""
    with pytest.raises(CredentialError, match="store the portal's tokens again") as caught:
        pair_in(document)

    assert "hush" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_time_that_is_none_is_nobodys() -> None:
    """The pair counts as given by a person."""
    document: dict[str, Any] = {"access_token": "a", "refresh_token": "r", "renewed_at": "then"}

    assert pair_in(json.dumps(document)) == Pair(access="a", refresh="r")


def test_no_token_is_shown() -> None:
    """Neither of a pair nor of what came with it."""
    assert "hush" not in repr(GRANT)
