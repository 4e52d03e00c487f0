"""The tokens of an application on a portal: as they are handed out, and as they are kept.

An authorization server answers a renewal, and a portal announces an installation, with the same
names. A pair is kept as one JSON document, which is encrypted before it is stored.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from b24sync.core.errors import CredentialError
from b24sync.core.refs import is_mapping

LONGEST_LIFE_S = 10**8
"""More than three years: no promise, but a mistake."""

LATEST_END_S = 10**11
"""Beyond it stand milliseconds that were taken for seconds."""

LONGEST_ID = 64
"""As long as the column that it is kept in; longer, it names nobody."""

LONGEST_TOKEN = 4096
LARGEST_NUMBER = 2**63

_is_number = re.compile(r"[0-9]{1,12}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An access token, and the refresh token that is given for the next pair.

    Units: ``renewed_at_ms`` epoch milliseconds by the database's clock; ``None``, a person gave it.
    """

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    renewed_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A pair, and what is said along with it.

    Shape: ``client_endpoint`` is the address of the portal's methods, ``https://host/rest/``. What
    was not said is ``None``. ``domain`` and ``server_endpoint`` are the authorization server's own,
    and are not read.
    Units: ``life_s`` is seconds from when it was said, ``ends_at_s`` epoch seconds.
    """

    pair: Pair
    life_s: int | None = None
    ends_at_s: int | None = None
    member_id: str | None = None
    user_id: str | None = None
    client_endpoint: str | None = None


def grant_in(document: object) -> Grant:
    """Read an answer to a renewal, or the event of an installation, where they stand under ``auth``.

    Raises: ValueError naming what is missing; it repeats no token.
    Source: Bitrix24 REST manual, "OAuth 2.0" and "Parameters of authorization in events".
    """
    if not is_mapping(document):
        raise ValueError("a JSON object is needed")
    nested = document.get("auth")
    said = nested if is_mapping(nested) else document
    access, refresh = _text(said, "access_token"), _text(said, "refresh_token")
    missing = [
        name
        for name, token in (("access_token", access), ("refresh_token", refresh))
        if token is None
    ]
    if access is None or refresh is None:
        raise ValueError(f"{' and '.join(missing)} missing")
    return Grant(
        pair=Pair(access=access, refresh=refresh),
        life_s=_number(said, "expires_in", LONGEST_LIFE_S),
        ends_at_s=_number(said, "expires", LATEST_END_S),
        member_id=_text(said, "member_id", LONGEST_ID),
        user_id=_text(said, "user_id", LONGEST_ID),
        client_endpoint=_text(said, "client_endpoint"),
    )


def document_of(pair: Pair) -> str:
    """Write a pair as it is kept; a secret.

    Raises: nothing.
    """
    kept = {
        "access_token": pair.access,
        "refresh_token": pair.refresh,
        "renewed_at": pair.renewed_at_ms,
    }
    return json.dumps({name: value for name, value in kept.items() if value is not None})


def pair_in(document: str) -> Pair:
    """Read a pair as it is kept.

    Raises: CredentialError; it repeats nothing of the document.
    """
    try:
        said: object = json.loads(document)
        pair = grant_in(said).pair
    except (ValueError, RecursionError):
        said, pair = None, None
    if pair is None:
        raise CredentialError(
            "a stored credential holds no pair of tokens: store the portal's tokens again"
        )
    renewed_at = said.get("renewed_at") if is_mapping(said) else None
    return Pair(
        access=pair.access,
        refresh=pair.refresh,
        renewed_at_ms=renewed_at if isinstance(renewed_at, int) else None,
    )


def _text(said: Mapping[str, object], name: str, limit: int = LONGEST_TOKEN) -> str | None:
    """What was said under a name; what nobody could say so is not said."""
    value = said.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        # Bounded first: Python refuses to write numbers of thousands of digits.
        value = str(value) if 0 <= value < LARGEST_NUMBER else None
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= limit:
        return value
    return None


def _number(said: Mapping[str, object], name: str, limit: int) -> int | None:
    """A whole number, which PHP may have sent as text; what is none, or no span, is not said."""
    text = _text(said, name)
    if text is None or not _is_number(text):
        return None
    number = int(text)
    return number if 0 < number < limit else None
