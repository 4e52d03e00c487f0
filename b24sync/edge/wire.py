"""Sockets that keep the clock of one exchange and say when they stand open.

A time-out of each ``recv`` would let a server that dribbles hold a worker for ever, so every read
and every write is bounded by what is left of the whole. And whether a request can have been
received is known only here: a connection that never stood open carried nothing.
"""

import http.client
import io
import socket
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING, Any

from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Stage(Enum):
    """How far an exchange has come, as its connection tells it."""

    UNTRACKED = auto()
    UNOPENED = auto()
    CONNECTING = auto()
    OPEN = auto()


@dataclass(slots=True, kw_only=True)
class Exchange:
    """The clock and the whereabouts of one request; the one thing here that changes."""

    connect_until: float
    until: float
    opened_at: float
    idle_limit_s: float
    answer_limit_bytes: int
    stage: Stage = Stage.UNOPENED

    def left_s(self) -> float:
        """What is left of the exchange, in seconds.

        Raises: TimeoutError if nothing is.
        """
        until = self.connect_until if self.stage is Stage.CONNECTING else self.until
        left_s = until - monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def opened(self) -> None:
        """Note that the connection stands, so that what follows may have been received."""
        self.stage = Stage.OPEN
        self.opened_at = monotonic()


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")


def paced_adapter() -> BaseAdapter:
    """One thread's transport: a connection per portal, nothing repeated by itself."""
    return _PacedAdapter(pool_connections=32, pool_maxsize=1, max_retries=0)


class _PacedReader(io.RawIOBase):
    """Bytes from a socket, each ``recv`` bounded by what is left of the exchange."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._exchange = EXCHANGE.get()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._sock.settimeout(self._exchange.left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(http.client.HTTPResponse):
    """A response, from its status line on, read at the pace of the exchange."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), sock))


class _PacedConnection(HTTPConnection):
    """A connection that keeps the exchange's clock and says when it stands open."""

    response_class = _PacedResponse
    _used_at = 0.0

    @property
    def is_connected(self) -> bool:
        idle_s = monotonic() - self._used_at
        return super().is_connected and idle_s < EXCHANGE.get().idle_limit_s

    def connect(self) -> None:
        exchange = EXCHANGE.get()
        exchange.stage = Stage.CONNECTING
        super().connect()
        exchange.left_s()
        exchange.opened()

    def send(self, data: Any) -> None:  # noqa: ANN401 - the signature is http.client's own
        if self.sock is None:
            self.connect()
        exchange = EXCHANGE.get()
        if exchange.stage is Stage.UNOPENED:
            exchange.opened()
        if self.sock is not None:
            self.sock.settimeout(exchange.left_s())
        self._used_at = monotonic()
        super().send(data)

    def _new_conn(self) -> socket.socket:
        try:
            return self._first_that_answers()
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no address answered in time") from error
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, "no connection") from error

    def _first_that_answers(self) -> socket.socket:
        exchange = EXCHANGE.get()
        found = socket.getaddrinfo(
            self._dns_host.strip("[]"),
            self.port,
            family=allowed_gai_family(),
            type=socket.SOCK_STREAM,
        )
        failure: OSError = OSError("no address")
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(exchange.left_s() / (len(found) - tried))
                sock.connect(address)
                sock.settimeout(exchange.left_s())
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure


class _PacedTLSConnection(_PacedConnection, HTTPSConnection):
    """The same over TLS; it stands open once the handshake is done."""


class _PacedPool(HTTPConnectionPool):
    ConnectionCls = _PacedConnection  # pyright: ignore[reportAssignmentType] - as urllib3's own


class _PacedTLSPool(HTTPSConnectionPool):
    ConnectionCls = _PacedTLSConnection  # pyright: ignore[reportAssignmentType] - as urllib3's own


class _PacedAdapter(HTTPAdapter):
    """The transport; a SOCKS proxy brings connections of its own, which stay untracked."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - requests' own
        super().init_poolmanager(*args, **kwargs)
        _pace(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> ProxyManager:  # noqa: ANN401 - same
        manager: ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            _pace(manager)
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - same
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        if isinstance(pool, _PacedPool | _PacedTLSPool):
            EXCHANGE.get().stage = Stage.UNOPENED
        return pool


def _pace(manager: PoolManager) -> None:
    classes: dict[str, type[HTTPConnectionPool | HTTPSConnectionPool]] = {
        "http": _PacedPool,
        "https": _PacedTLSPool,
    }
    manager.pool_classes_by_scheme = classes
