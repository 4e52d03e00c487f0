"""What the authorization server said to a renewal, and what is done about it.

A renewal replaces both tokens, so an answer that is lost may have taken the stored refresh token
with it. Nobody can ask whether it did: the same token is sent again, later and with growing rests,
until there is a new pair or the server says that the token is worth nothing any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from b24sync.core import faults
from b24sync.core.grants import Grant, grant_in
from b24sync.core.lifecycle import portal_state_after
from b24sync.core.model import Fault, FaultKind, PortalState, Reply
from b24sync.core.refs import is_mapping

FRESH_MS = 60_000
"""A token that is refused so soon after its renewal is not refused for its age, and another
renewal would not mend it. No token is believed to live shorter than that."""

WAIT_MS = 500
"""How long a lane at the least leaves a portal alone whose token somebody else is renewing."""

LONGEST_WORDS = 300

_REDIRECTS = range(300, 400)
_TOKEN_CODES = frozenset({"invalid_token", "no_auth_found"})
_SPENT = frozenset({"invalid_grant", "bad_verification_code"})
_APPLICATION = frozenset({"invalid_client", "wrong_client"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The server answered, and gave nothing; the refresh token is what it was."""

    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Unheard:
    """There is no answer that can be used.

    ``is_lost``: the renewal may have happened; else the server provably was not asked.
    """

    cause: str
    is_lost: bool


Answer: TypeAlias = Grant | Refused | Unheard


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The portal waits for a person."""

    state: PortalState
    reason: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The same refresh token is sent again later; ``is_lost``, it may be spent by now."""

    code: str
    is_lost: bool


def answer_in(reply: Reply, *, hiding: Sequence[str] = ()) -> Answer:
    """Read the answer of an authorization server.

    Shape: ``hiding`` are texts that are taken out of its complaint, should it repeat them.
    Raises: nothing. What may be half a new pair is lost.
    Source: Bitrix24 REST manual, "OAuth 2.0", automatic renewal and error codes; ``wrong_client``
    comes with the status of success.
    """
    body = reply.body
    if not reply.readable or reply.status in _REDIRECTS or not is_mapping(body):
        return _refused(faults.classify_bodyless(reply.status), reply.status)
    if body.get("error") is not None:
        code = _words(body.get("error"), hiding)
        text = _words(body.get("error_description"), hiding)
        return _refused(faults.classify_envelope(code, text, reply.status), reply.status)
    try:
        return grant_in(body)
    except ValueError:
        return Unheard(cause="half_an_answer", is_lost=True)


def judged(answer: Answer, *, was_lost: bool, member_id: str | None) -> Grant | Stop | Again:
    """Say what is done after an answer: keep the new pair, give up, or try again later.

    Shape: ``was_lost``, an earlier answer to the same refresh token is missing; ``member_id`` names
    the portal that the pair is for, ``None`` if that is not known.
    Raises: nothing.
    """
    match answer:
        case Grant() if member_id is not None and answer.member_id not in (None, member_id):
            return Stop(
                state=PortalState.MISCONFIGURED,
                reason=(
                    f"other_member_id: the renewed tokens are those of the portal {answer.member_id}, and this one is "
                    f"{member_id}; store the tokens of this portal"
                ),
                code="other_member_id",
            )
        case Grant():
            return answer
        case Unheard(cause=cause, is_lost=is_lost):
            return Again(code=cause, is_lost=is_lost)
        case Refused(fault=fault):
            state = portal_state_after(fault)
            if state is None:
                return Again(code=fault.code, is_lost=False)
            return Stop(state=state, reason=_reason(fault, was_lost=was_lost), code=fault.code)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def refuses_token(fault: Fault) -> bool:
    """Say whether a complaint of the portal's may be about the age of an access token.

    Raises: nothing.
    """
    return fault.kind is FaultKind.TOKEN or fault.code.casefold() in _TOKEN_CODES


def is_refused_fresh(*, renewed_at_ms: int | None, ended_at_ms: int | None) -> bool:
    """Say whether a token was refused so soon after its renewal that another one would not help.

    Units: epoch milliseconds; ``ended_at_ms`` is when the portal stopped taking it.
    Raises: nothing.
    """
    if renewed_at_ms is None or ended_at_ms is None:
        return False
    return ended_at_ms - renewed_at_ms < FRESH_MS


def life_ms(grant: Grant) -> int | None:
    """Tell how long a new access token is used; ``None``, until it is refused.

    Units: milliseconds.
    Raises: nothing.
    """
    return None if grant.life_s is None else max(FRESH_MS, grant.life_s * 1000)


def wait_ms(left_ms: int, *, jitter: float) -> int:
    """Tell how long to leave a portal alone whose token somebody else is renewing.

    Units: milliseconds; ``left_ms`` until nobody is, ``jitter`` in [0, 1).
    Raises: nothing.
    """
    return max(1, min(left_ms, WAIT_MS + int(jitter * WAIT_MS)))


def _refused(fault: Fault | None, status: int) -> Refused | Unheard:
    """A fault of the server's own says nothing of what it has done."""
    if fault is None:
        return Unheard(cause=f"HTTP_{status}", is_lost=True)
    if fault.kind is FaultKind.SERVER:
        return Unheard(cause=fault.code, is_lost=True)
    return Refused(fault=fault)


def _words(said: object, hiding: Sequence[str]) -> str:
    """The readable part of a complaint, fit to be shown and stored."""
    text = said if isinstance(said, str) else ""
    for secret in filter(None, hiding):
        text = text.replace(secret, "…")
    readable = "".join(letter if letter.isprintable() else " " for letter in text)
    return readable[:LONGEST_WORDS]


def _reason(fault: Fault, *, was_lost: bool) -> str:
    code = fault.code.casefold()
    words = f"{fault.code}: {fault.text}" if fault.text else fault.code
    if code in _SPENT and was_lost:
        return (
            f"{fault.code}: the answer to a renewal was lost, and the refresh token that it replaced "
            f"is not taken any more ({fault.text}); install the application again and store its new "
            "tokens"
        )
    if code in _SPENT:
        return f"{words}; install the application again and store its new tokens"
    if code in _APPLICATION:
        return f"{words}; compare the client id and secret of the application"
    return f"{words}; it was the answer to a renewal of the access token"
