"""What is made of the answers of an authorization server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.grants import Grant, Pair
from b24sync.core.model import Fault, FaultKind, PortalState, Reply
from b24sync.core.renewal import (
    FRESH_MS,
    Again,
    Refused,
    Stop,
    Unheard,
    answer_in,
    is_refused_fresh,
    judged,
    life_ms,
    refuses_token,
    wait_ms,
)

TOKENS = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600, "member_id": "m1"}
GRANT = Grant(pair=Pair(access="a2", refresh="r2"), life_s=3600, member_id="m1")
LOST = Stop(
    state=PortalState.AUTH_LOST,
    reason=(
        "invalid_grant: the answer to a renewal was lost, and the refresh token that it replaced is "
        "not taken any more (Spent); install the application again and store its new tokens"
    ),
    code="invalid_grant",
)


def refusal(code: object, status: int, text: object = "Spent") -> Reply:
    """An answer of the authorization server that gives nothing."""
    return Reply(status=status, body={"error": code, "error_description": text})


def verdict(reply: Reply, *, was_lost: bool = False) -> Grant | Stop | Again:
    """What is done after an answer to the portal m1."""
    return judged(answer_in(reply), was_lost=was_lost, member_id="m1")


def test_a_new_pair_is_kept() -> None:
    """With all that was said along with it."""
    assert verdict(Reply(status=200, body=TOKENS)) == GRANT
    assert verdict(Reply(status=200, body=TOKENS), was_lost=True) == GRANT


@pytest.mark.parametrize("known", [None, "m1"])
def test_a_pair_that_names_no_portal_is_kept(known: str | None) -> None:
    """There is nothing to compare."""
    unnamed = Grant(pair=GRANT.pair)

    assert judged(unnamed, was_lost=False, member_id=known) is unnamed
    assert judged(GRANT, was_lost=False, member_id=None) is GRANT


def test_a_pair_of_another_portal_is_a_persons_business() -> None:
    """Both portals are named; the tokens are not."""
    stop = judged(GRANT, was_lost=False, member_id="m2")

    assert isinstance(stop, Stop)
    assert stop.state is PortalState.MISCONFIGURED
    assert stop.reason.startswith("other_member_id: the renewed tokens are those of the portal m1")
    assert "a2" not in stop.reason


@pytest.mark.parametrize(
    ("code", "status", "state", "reason"),
    [
        ("invalid_grant", 400, "auth_lost", "invalid_grant: Spent; install the application again"),
        ("bad_verification_code", 400, "auth_lost", "bad_verification_code: Spent; install"),
        ("invalid_client", 401, "auth_lost", "invalid_client: Spent; compare the client id"),
        ("wrong_client", 200, "auth_lost", "wrong_client: Spent; compare the client id"),
        ("PAYMENT_REQUIRED", 401, "plan_lost", "PAYMENT_REQUIRED: Spent; it was the answer"),
        ("NOT_INSTALLED", 401, "auth_lost", "NOT_INSTALLED: Spent; it was the answer"),
        ("insufficient_scope", 403, "auth_lost", "insufficient_scope: Spent"),
        ("invalid_scope", 403, "auth_lost", "invalid_scope: Spent"),
        ("invalid_request", 400, "misconfigured", "invalid_request: Spent"),
        ("NEVER_HEARD", 403, "misconfigured", "NEVER_HEARD: Spent"),
        ("expired_token", 401, "auth_lost", "expired_token: Spent"),
    ],
)
def test_a_refusal_stops_the_portal_with_the_servers_words(
    code: str, status: int, state: str, reason: str
) -> None:
    """The state says what sort of trouble it is; the reason begins with the code."""
    stop = verdict(refusal(code, status))

    assert isinstance(stop, Stop)
    assert (str(stop.state), stop.code) == (state, code)
    assert stop.reason.startswith(reason)


def test_a_spent_token_after_a_lost_answer_says_so() -> None:
    """Whatever else was lost, a refusal of something else has its own reason."""
    assert verdict(refusal("invalid_grant", 400), was_lost=True) == LOST
    other = verdict(refusal("PAYMENT_REQUIRED", 401), was_lost=True)

    assert isinstance(other, Stop)
    assert "lost" not in other.reason


@pytest.mark.parametrize(
    ("reply", "again"),
    [
        (refusal("INTERNAL_SERVER_ERROR", 500), Again(code="INTERNAL_SERVER_ERROR", is_lost=True)),
        (refusal("NEVER_HEARD", 502), Again(code="NEVER_HEARD", is_lost=True)),
        (refusal("NEVER_HEARD", 200), Again(code="NEVER_HEARD", is_lost=True)),
        (refusal([], 500), Again(code="", is_lost=True)),
        (Reply(status=502, readable=False), Again(code="HTTP_502", is_lost=True)),
        (Reply(status=200, readable=False), Again(code="HTTP_200", is_lost=True)),
        (Reply(status=200, body=[]), Again(code="HTTP_200", is_lost=True)),
        (Reply(status=200, body={}), Again(code="half_an_answer", is_lost=True)),
        (
            Reply(status=200, body={"access_token": "a2"}),
            Again(code="half_an_answer", is_lost=True),
        ),
        (refusal("QUERY_LIMIT_EXCEEDED", 503), Again(code="QUERY_LIMIT_EXCEEDED", is_lost=False)),
        (Reply(status=429, readable=False), Again(code="HTTP_429", is_lost=False)),
    ],
)
def test_what_may_pass_is_tried_again(reply: Reply, again: Again) -> None:
    """Lost is what may have happened; what was refused for rate has not."""
    assert verdict(reply) == again


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(status=302, body=TOKENS, location="https://other.example"), "HTTP_302"),
        (Reply(status=404, readable=False), "HTTP_404"),
    ],
)
def test_a_server_that_is_elsewhere_is_a_mistake_to_correct(reply: Reply, code: str) -> None:
    """What a redirect carries is nobody's word."""
    stop = verdict(reply)

    assert isinstance(stop, Stop)
    assert (stop.state, stop.code) == (PortalState.MISCONFIGURED, code)


@pytest.mark.parametrize("is_lost", [True, False])
def test_an_answer_that_never_came_is_tried_again(*, is_lost: bool) -> None:
    """Whether the server was asked is known where the request was sent."""
    unheard = Unheard(cause="ReadTimeout", is_lost=is_lost)

    verdict = judged(unheard, was_lost=False, member_id=None)

    assert verdict == Again(code="ReadTimeout", is_lost=is_lost)


def test_a_complaint_is_fit_to_be_shown() -> None:
    """No secret that it repeats, no line break, no end; a complaint without words has none."""
    reply = refusal("invalid_grant", 400, f"hush is\nspent {'!' * 1000}")

    answer = answer_in(reply, hiding=("hush", ""))

    assert isinstance(answer, Refused)
    assert answer.fault.text.startswith("… is spent !!!")
    assert len(answer.fault.text) == 300
    wordless = verdict(refusal("PAYMENT_REQUIRED", 401, None))
    assert isinstance(wordless, Stop)
    assert wordless.reason.startswith("PAYMENT_REQUIRED; it was the answer")


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("expired_token", FaultKind.TOKEN, True),
        ("Invalid_Token", FaultKind.PORTAL, True),
        ("NO_AUTH_FOUND", FaultKind.PORTAL, True),
        ("PAYMENT_REQUIRED", FaultKind.PORTAL, False),
        ("QUERY_LIMIT_EXCEEDED", FaultKind.RATE, False),
    ],
)
def test_which_complaints_a_renewal_may_mend(code: str, kind: FaultKind, *, expected: bool) -> None:
    """Those about the token itself, which portals name in several ways."""
    assert refuses_token(Fault(code=code, text="", kind=kind)) is expected


@pytest.mark.parametrize(
    ("renewed_at_ms", "ended_at_ms", "expected"),
    [
        (1_000_000, 1_000_500, True),
        (1_000_000, 1_000_000 + FRESH_MS - 1, True),
        (1_000_000, 1_000_000 + FRESH_MS, False),
        (None, 1_000_500, False),
        (1_000_000, None, False),
    ],
)
def test_a_token_refused_at_once_is_not_refused_for_its_age(
    renewed_at_ms: int | None, ended_at_ms: int | None, *, expected: bool
) -> None:
    """What a person gave is never fresh: nobody knows how old it is."""
    found = is_refused_fresh(renewed_at_ms=renewed_at_ms, ended_at_ms=ended_at_ms)

    assert found is expected


@pytest.mark.parametrize(
    ("life_s", "expected"), [(3600, 3_600_000), (1, FRESH_MS), (60, 60_000), (None, None)]
)
def test_a_token_is_used_for_as_long_as_promised(life_s: int | None, expected: int | None) -> None:
    """And a minute at the least, or a server's mistake would have it renewed with every call."""
    assert life_ms(Grant(pair=GRANT.pair, life_s=life_s)) == expected


@given(left_ms=st.integers(0, 10**9), jitter=st.floats(0, 1, exclude_max=True))
def test_a_lane_waits_for_another_ones_renewal_but_a_moment(left_ms: int, jitter: float) -> None:
    """Never not at all, never longer than a second, never longer than there is to wait for."""
    rest_ms = wait_ms(left_ms, jitter=jitter)

    assert 1 <= rest_ms <= 1000
    assert rest_ms <= max(1, left_ms)
