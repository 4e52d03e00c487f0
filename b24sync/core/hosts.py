"""Where a portal may be called: addresses read strictly, and when a redirect is believed.

A redirect names the host that the credential of the portal would be sent to next. So it is believed
only where a person has said so beforehand, or where both ends are portals of the Bitrix24 cloud,
whose hosts are all the vendor's. Everything else waits for a person.

Hosts are compared label by label, in one form: small letters, no dot at the end, no default port. A
host that is written in any other alphabet than ASCII is no host here; in its other form, which
begins with ``xn--``, it is one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from b24sync.core.errors import SettingsError

LOOP_MS = 3_600_000
"""A portal that is sent back within this time to where it came from goes round in a circle."""

MAX_ADDRESS = 255
"""The longest address that is stored, and the longest trail."""

CLOUD_ZONES = frozenset(
    {
        "bitrix24.by",
        "bitrix24.cn",
        "bitrix24.com",
        "bitrix24.com.br",
        "bitrix24.com.tr",
        "bitrix24.de",
        "bitrix24.es",
        "bitrix24.eu",
        "bitrix24.fr",
        "bitrix24.id",
        "bitrix24.in",
        "bitrix24.it",
        "bitrix24.jp",
        "bitrix24.kz",
        "bitrix24.pl",
        "bitrix24.ru",
        "bitrix24.ua",
        "bitrix24.vn",
    }
)
"""The domains of the cloud; a portal's host is one label before one of them.

Source: Bitrix24 Helpdesk, article 10252860 on changing the domain zone (helpdesk.bitrix24.de), which
lists these eighteen; the class ``Bitrix\\Landing\\Help`` of the product has the same list.
"""

CLOUD_SERVICES = frozenset({"apidocs", "cdn", "helpdesk", "store", "www"})
"""Labels in those domains that are the vendor's own sites and never a portal.

Source: the vendor's sites themselves, as apidocs.bitrix24.com and cdn.bitrix24.com.br.
"""

_DEFAULT_PORTS = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_is_name = re.compile(rf"{_LABEL}(?:\.{_LABEL})*").fullmatch
_is_numeric = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch
_is_plain = re.compile(r"[!-~]+").fullmatch
_AMBIGUOUS = frozenset("\\%@?#")
_MAX_NAME = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The portal is called at ``to`` from now on."""

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrust:
    """The redirect is not believed.

    Shape: ``to`` is the address that a person may send the portal to, if it is one at all.
    """

    reason: str
    to: str | None = None


Redirect: TypeAlias = Move | Distrust


@dataclass(frozen=True, slots=True)
class _Origin:
    """Scheme, host and port in one form; ``port`` is ``None`` where it is the scheme's own."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.shown}"

    @property
    def shown(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        address = _ip(self.host)
        return self.host == "localhost" if address is None else address.is_loopback


def origin_of(text: str) -> str | None:
    """The one form of an address without a path; ``None``, it is none that can be called.

    Shape: ``scheme://host``, with a port where it is not the scheme's own; without a scheme, https.
    Raises: nothing.
    """
    origin = _read(text if "://" in text else f"https://{text}")
    return None if origin is None else str(origin)


def is_callable(address: str) -> bool:
    """Whether a credential may be sent to an address at all: https, or http on this machine.

    Raises: nothing.
    """
    origin = _read(address)
    return origin is not None and (origin.scheme == "https" or origin.is_loopback)


def decide(
    present: str,
    told: str | None,
    *,
    trusted: Sequence[str] = (),
    trail: Sequence[str] = (),
    moved_ms_ago: int | None = None,
) -> Redirect:
    """Say whether a portal is called from now on where its redirect says.

    Shape: ``trusted`` as ``check_trusted`` takes them; ``trail`` are the addresses before the
    present one.
    Units: ``moved_ms_ago`` milliseconds since the last move; ``None``, it never moved.
    Raises: nothing.
    Source: Bitrix24 REST manual, "Changing the portal address".
    """
    here = _read(present)
    there = None if told is None else _read(told)
    to = str(there)
    if there is None or len(to) > MAX_ADDRESS:
        return Distrust(reason="to no address that can be called")
    if there == here or not _is_private(here, there):
        why = "where it is called already" if there == here else "which is not https"
        return Distrust(reason=f"to {to}, {why}")
    if here is None:
        # It is not repeated: what is no address may be a whole webhook.
        return Distrust(reason=f"to {to}, and its stored address cannot be read", to=to)
    if _is_circle(to, trail, moved_ms_ago):
        return Distrust(reason=f"back to {to}, where it came from a short while ago", to=to)
    if _is_believed(here, there, trusted):
        return Move(to=to)
    return Distrust(reason=f"to {to}, which is not among the trusted hosts", to=to)


def check_trusted(entries: Sequence[str]) -> None:
    """Refuse trusted hosts that are none, or that trust too much.

    Shape: ``host`` and ``host:port`` are that host; ``.suffix`` is every host below it, and not the
    suffix itself. A port that is not named is the scheme's own.
    Raises: SettingsError naming ``trusted_hosts`` and the entry.
    """
    for entry in entries:
        if _trusted(entry) is None:
            raise SettingsError(
                "trusted_hosts",
                f"{entry!r} is no host, or a suffix that is too wide; write e.g. crm.example.com, "
                "crm.example.com:8443 or .example.com",
            )


def trail_of(before: str | None, present: str, to: str) -> str:
    """The addresses that a portal had, now that it goes from ``present`` to another one.

    Shape: parted by a blank, the newest first; where it goes is not among them.
    What does not fit is left out of the middle: the oldest is the one that a person has stored.
    Raises: nothing.
    """
    entries = [present, *(entry for entry in steps(before) if entry not in {present, to})]
    while len(" ".join(entries)) > MAX_ADDRESS and len(entries) > 1:
        del entries[-2]
    return " ".join(entries)


def steps(trail: str | None) -> tuple[str, ...]:
    """The addresses of a trail, the newest first.

    Raises: nothing.
    """
    return tuple((trail or "").split())


def _is_circle(to: str, trail: Sequence[str], moved_ms_ago: int | None) -> bool:
    is_lately = moved_ms_ago is not None and moved_ms_ago < LOOP_MS
    return is_lately and to in {origin_of(address) for address in trail}


def _is_believed(here: _Origin, there: _Origin, trusted: Sequence[str]) -> bool:
    is_same_host = (there.host, there.port) == (here.host, None) and here.port is None
    is_of_cloud = _is_cloud_portal(here) and _is_cloud_portal(there)
    return is_same_host or is_of_cloud or any(_fits(entry, there) for entry in trusted)


def _trusted(entry: str) -> _Origin | None:
    """The host or suffix that an entry names, without the dot before it; ``None``, it is none."""
    if "/" in entry:
        return None
    origin = _read(f"https://{entry.removeprefix('.')}")
    if origin is None or not entry.startswith("."):
        return origin
    is_narrow = "." in origin.host and origin.port is None and _ip(origin.host) is None
    return origin if is_narrow else None


def _fits(entry: str, there: _Origin) -> bool:
    trusted = _trusted(entry)
    if trusted is None:
        return False
    if entry.startswith("."):
        return there.port is None and there.host.endswith(f".{trusted.host}")
    return (there.host, there.port) == (trusted.host, trusted.port)


def _is_private(here: _Origin | None, there: _Origin) -> bool:
    """Whether nobody on the way can read along, or there is no way: from this machine to itself."""
    stays_here = here is not None and _is_local(here) and _is_local(there)
    return there.scheme == "https" or stays_here


def _is_local(origin: _Origin) -> bool:
    return origin.scheme == "http" and origin.is_loopback


def _is_cloud_portal(origin: _Origin) -> bool:
    name, _, zone = origin.host.partition(".")
    return (
        origin.scheme == "https"
        and origin.port is None
        and zone in CLOUD_ZONES
        and name not in CLOUD_SERVICES
    )


def _read(text: str) -> _Origin | None:
    """An address in its one form; ``None`` for whatever two programs could read differently."""
    if not _is_plain(text) or _AMBIGUOUS & set(text):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = _host(parts)
    is_bare = parts.path in {"", "/"} and not parts.netloc.endswith(":")
    if parts.scheme not in _DEFAULT_PORTS or not is_bare or host is None or port == 0:
        return None
    return _Origin(parts.scheme, host, None if port == _DEFAULT_PORTS[parts.scheme] else port)


def _host(parts: SplitResult) -> str | None:
    name = (parts.hostname or "").removesuffix(".")
    address = _ip(name)
    if address is not None:
        return address.compressed
    # A last label that is a number makes some resolvers take the whole for an IPv4 address.
    is_fit = len(name) <= _MAX_NAME and not _is_numeric(name.rpartition(".")[2])
    return name if is_fit and _is_name(name) else None


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
