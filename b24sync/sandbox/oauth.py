"""Access tokens and the authorization server that renews them.

Source: manual, "OAuth 2.0", automatic renewal and error codes.
"""

import threading
import time

from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.values import Record, Refusal, text

MEMBER_ID = "5a0dbox5a0dbox5a0dbox5a0dbox5a0d"


class Tokens:
    """The tokens of one application on this portal; safe to use from several threads."""

    def __init__(self, config: SandboxConfig) -> None:
        """Start with the configured pair."""
        self._config = config
        self._lock = threading.Lock()
        self._rotations = 0
        self.reset()

    def reset(self) -> None:
        """Go back to the configured pair."""
        with self._lock:
            self._refresh = self._config.refresh_token
            self._current = self._config.access_token
            self._expiry = {self._current: time.time() + self._config.token_ttl_s}

    @property
    def access_token(self) -> str:
        """The newest access token."""
        return self._current

    @property
    def refresh_token(self) -> str:
        """The only refresh token that works."""
        return self._refresh

    @property
    def rotations(self) -> int:
        """How often the pair was renewed."""
        return self._rotations

    def expire(self) -> None:
        """End the life of every access token now."""
        with self._lock:
            self._expiry = dict.fromkeys(self._expiry, 0.0)

    def check(self, token: str) -> None:
        """Accept an access token.

        Raises: Refusal 401, expired_token or invalid_token.
        """
        with self._lock:
            expires_at = self._expiry.get(token)
        if expires_at is None:
            raise Refusal("invalid_token", "Unable to get application by token", 401)
        if expires_at <= time.time():
            raise Refusal("expired_token", "The access token provided has expired.", 401)

    def renew(self, params: Record, base_url: str) -> Record:
        """Exchange the refresh token for a new pair; the former refresh token dies.

        Raises: Refusal in the authorization server's codes.
        """
        if text(params.get("grant_type")) != "refresh_token" or not params.get("refresh_token"):
            raise Refusal("invalid_request", "Malformed request")
        if text(params.get("client_id")) != self._config.client_id:
            raise Refusal("wrong_client", "Application is not known", 200)
        if text(params.get("client_secret")) != self._config.client_secret:
            raise Refusal("invalid_client", "Invalid client credentials")
        with self._lock:
            if text(params.get("refresh_token")) != self._refresh:
                raise Refusal("invalid_grant", "Invalid refresh token")
            self._rotations += 1
            if self._config.rotation_kills_access_token:
                self._expiry = dict.fromkeys(self._expiry, 0.0)
            self._current = f"{self._config.access_token}-{self._rotations}"
            self._refresh = f"{self._config.refresh_token}-{self._rotations}"
            expires_at = time.time() + self._config.token_ttl_s
            self._expiry[self._current] = expires_at
            return self._grant(base_url, expires_at)

    def _grant(self, base_url: str, expires_at: float) -> Record:
        return {
            "access_token": self._current,
            "refresh_token": self._refresh,
            "expires": int(expires_at),
            "expires_in": int(self._config.token_ttl_s),
            "scope": "crm,task,user,catalog,lists",
            "domain": base_url.split("://", 1)[1],
            "server_endpoint": f"{base_url}/rest/",
            "client_endpoint": f"{base_url}/rest/",
            "member_id": MEMBER_ID,
            "status": "L",
            "user_id": self._config.uid,
        }
