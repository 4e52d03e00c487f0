"""One renewal of a pair of tokens: one POST to the authorization server, and what came of it.

A client secret and a refresh token go to the server of their application and to nobody else:
whatever an answer names as its server is not believed, and a redirect is not followed.
"""

from dataclasses import dataclass, field

from b24sync.core.errors import ReplyLost, SendError, SettingsError
from b24sync.core.grants import Pair
from b24sync.core.renewal import Answer, Unheard, answer_in
from b24sync.edge.portal import PortalClient
from b24sync.edge.tokens import AuthKind, credential_for

DEFAULT_SERVER = "https://oauth.bitrix.info"
"""Source: Bitrix24 REST manual, "OAuth 2.0". Portals of other regions name another one."""

DEADLINE_S = 15.0
"""How long one renewal may take in all."""

_TOKEN_PATH = "/oauth/token/"  # noqa: S105 - a path, not a credential
_REST_PATH = "/rest/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An OAuth application, and the server that knows it."""

    client_id: str
    client_secret: str = field(repr=False)
    server_url: str


def origin(url: str, setting: str) -> str:
    """Scheme and host of an address that a secret may be sent to: https, or this very machine.

    Raises: SettingsError naming ``setting``.
    """
    try:
        base_url = credential_for(url, "", AuthKind.OAUTH).base_url
    except SettingsError as error:
        problem = error.problem.partition(";")[0]
    else:
        return base_url.removesuffix(_REST_PATH)
    raise SettingsError(setting, f"{problem}; expected https://HOST")


def renew(client: PortalClient, application: Application, pair: Pair) -> Answer:
    """Ask once for the next pair; nothing is repeated and nothing stored.

    Raises: SettingsError if the server's address is none that a secret may be sent to.
    Source: Bitrix24 REST manual, "OAuth 2.0", automatic renewal.
    """
    url = origin(application.server_url, "server_url") + _TOKEN_PATH
    form = {
        "grant_type": "refresh_token",
        "client_id": application.client_id,
        "client_secret": application.client_secret,
        "refresh_token": pair.refresh,
    }
    try:
        reply = client.post_form(url, form, deadline_s=DEADLINE_S)
    except SendError as error:
        return Unheard(cause=error.cause, is_lost=isinstance(error, ReplyLost))
    return answer_in(reply, hiding=(application.client_secret, pair.refresh, pair.access))
