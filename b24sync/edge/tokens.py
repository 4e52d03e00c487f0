"""Credentials: encrypted at rest, joined with the portal's address when they are used.

Answers how a portal's secret gets into a row and out of it again. The address and the secret are
kept apart, because portals move while their secret stays. No message here repeats a secret.
"""

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from b24sync.core.errors import KeyMissing, SettingsError
from b24sync.edge.portal import Credential

_WEBHOOK_PATH = re.compile(
    r"/rest/(?P<user>\d+)/(?P<code>[A-Za-z0-9_-]+)(?:/(?P<method>[A-Za-z][A-Za-z0-9._]*)?)?"
)
_MASKED_PATH = re.compile(r"/rest/(?:api/)?\d+/")
_EXPECTED = "expected https://HOST/rest/USER_ID/CODE/, as the portal shows it"
_KEY_ID_LENGTH = 8


class AuthKind(StrEnum):
    """How a portal is told who calls."""

    WEBHOOK = "webhook"
    OAUTH = "oauth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An incoming webhook, its address and its secret apart.

    Shape: ``base_url`` is ``https://host`` with a port if there is one; ``path`` is
    ``rest/1/secret/`` and is the secret.
    """

    base_url: str
    path: str = field(repr=False)


def parse_webhook(url: str, *, allow_insecure_loopback: bool = True) -> Webhook:
    """Read a webhook URL as people copy it from the portal.

    Shape: a method name at the end is dropped.
    Raises: SettingsError naming ``webhook_url``, the problem and the remedy, not the secret.
    Source: Bitrix24 REST manual, "General Principles": https://host/rest/user/code/method.
    """
    url = url.strip()
    parts = _parts_of(url, "webhook_url")
    if "?" in url or "#" in url:
        raise SettingsError("webhook_url", f"has a query or a fragment; {_EXPECTED}")
    found = _WEBHOOK_PATH.fullmatch(parts.path)
    if found is None:
        raise SettingsError("webhook_url", f"the path is not that of a webhook; {_EXPECTED}")
    return Webhook(
        base_url=_base_of(parts, "webhook_url", allow_insecure_loopback=allow_insecure_loopback),
        path=f"rest/{found['user']}/{found['code']}/",
    )


def credential_for(
    base_url: str, secret: str, kind: AuthKind, *, allow_insecure_loopback: bool = True
) -> Credential:
    """Join a portal's address, as it is today, and its decrypted secret.

    Shape: ``secret`` is the path of a webhook or an access token; only the host of ``base_url``
    counts.
    Raises: SettingsError naming ``base_url`` if a secret must not be sent there.
    """
    base = _base_of(
        _parts_of(base_url, "base_url"),
        "base_url",
        allow_insecure_loopback=allow_insecure_loopback,
    )
    match kind:
        case AuthKind.WEBHOOK:
            return Credential(base_url=f"{base}/{secret}")
        case AuthKind.OAUTH:
            return Credential(base_url=f"{base}/rest/", token=secret)


def masked(url: str) -> str:
    """Give a webhook URL as it may be shown: ``https://host/rest/1/…/``.

    Raises: nothing. What cannot be read is shown as ``…``.
    """
    try:
        parts = urlsplit(url.strip())
        host = _host_of(parts)
    except ValueError:
        return "…"
    if not host:
        return "…"
    user = _MASKED_PATH.match(parts.path)
    return f"{parts.scheme}://{host}{user[0] if user else '/'}…/"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that open stored secrets; the first one closes them.

    Shape: ``key_ids`` are the fingerprints of the keys, in their order; empty if there are none.
    """

    key_ids: tuple[str, ...]
    _fernet: MultiFernet | None = field(repr=False)

    @classmethod
    def from_keys(cls, keys: Sequence[str]) -> "Keyring":
        """Take the keys, the newest first; with none, nothing can be stored or read.

        Raises: SettingsError naming ``secret_key`` and the position of a key that is none.
        """
        fernets = tuple(_fernet_of(key, number) for number, key in enumerate(keys, start=1))
        return cls(
            key_ids=tuple(key_id(key) for key in keys),
            _fernet=MultiFernet(fernets) if fernets else None,
        )

    def encrypt(self, text: str) -> str:
        """Close a secret with the first key; its fingerprint goes in front.

        Raises: KeyMissing if there is no key.
        """
        sealed = self._opened().encrypt(text.encode()).decode()
        return f"{self.key_ids[0]}:{sealed}"

    def decrypt(self, stored: str) -> str:
        """Open a stored secret with whichever key fits.

        Raises: KeyMissing if no key fits, or there is none.
        """
        closed_with, _, sealed = stored.rpartition(":")
        try:
            return self._opened().decrypt(sealed.encode()).decode()
        except InvalidToken:
            known = ", ".join(self.key_ids)
        raise KeyMissing(
            f"a stored credential was encrypted with key {closed_with or 'unknown'}, and the keys at "
            f"hand are {known}: add the old key after the new one in secret_key, or store the "
            "portal's credential again"
        )

    def is_current(self, stored: str) -> bool:
        """Say whether a stored secret is closed with the first key; if not, rotate it."""
        return stored.rpartition(":")[0] in self.key_ids[:1]

    def _opened(self) -> MultiFernet:
        if self._fernet is None:
            raise KeyMissing(
                "secret_key is not set, and credentials are stored encrypted: set it to a key made "
                "by `b24sync portal new-key`"
            )
        return self._fernet


def new_key() -> str:
    """Make a key fit for ``Keyring.from_keys``."""
    return Fernet.generate_key().decode()


def key_id(key: str) -> str:
    """Give the fingerprint of a key: short, stable, and of no use to anyone without it."""
    return sha256(key.strip().encode()).hexdigest()[:_KEY_ID_LENGTH]


def _fernet_of(key: str, number: int) -> Fernet:
    try:
        return Fernet(key.strip())
    except (ValueError, binascii.Error):
        problem = f"key {number} is not a key: it takes 32 bytes in URL-safe base64, as `b24sync portal new-key` makes"
    raise SettingsError("secret_key", problem)


def _parts_of(url: str, setting: str) -> SplitResult:
    if not url.isprintable() or " " in url:
        raise SettingsError(setting, f"holds white space or control characters; {_EXPECTED}")
    try:
        return urlsplit(url)
    except ValueError:
        problem = f"is not a URL; {_EXPECTED}"
    raise SettingsError(setting, problem)


def _base_of(parts: SplitResult, setting: str, *, allow_insecure_loopback: bool) -> str:
    if "@" in parts.netloc:
        raise SettingsError(setting, f"holds a user name or password; {_EXPECTED}")
    try:
        host = _host_of(parts)
    except ValueError:
        host = ""
    if not host:
        raise SettingsError(setting, f"has no host or an impossible port; {_EXPECTED}")
    insecure_is_fine = allow_insecure_loopback and _is_loopback(parts.hostname or "")
    if parts.scheme != "https" and not (parts.scheme == "http" and insecure_is_fine):
        raise SettingsError(setting, f"must begin with https://; {_EXPECTED}")
    return f"{parts.scheme}://{host}"


def _host_of(parts: SplitResult) -> str:
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    return host if parts.port is None else f"{host}:{parts.port}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
