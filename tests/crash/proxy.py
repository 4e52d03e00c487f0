"""A wire between a worker and its database that is cut on order, round a COMMIT.

PostgreSQL and MariaDB both carry the word in plain text in the client's message. A cut ``before``
it means that the transaction is undone; one ``after`` it, that it happened and nobody was told.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import make_url

COMMIT = b"COMMIT"
CHUNK = 64 * 1024


@dataclass(slots=True)
class Wire:
    """Carries bytes between clients and one server until it is told to cut."""

    host: str
    port: int
    listener: socket.socket = field(repr=False)
    cuts: list[str] = field(default_factory=list[str])
    carriers: list[threading.Thread] = field(default_factory=list[threading.Thread], repr=False)
    armed: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def arm(self, when: str) -> None:
        """Cut the wire at the next COMMIT: ``before`` it is carried, or ``after`` it was answered."""
        with self._lock:
            self.armed = when

    def _taken(self) -> str | None:
        with self._lock:
            when, self.armed = self.armed, None
            return when

    def listen(self) -> None:
        """Carry whatever comes, until the listener is closed."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            line = _Line(self, client, socket.create_connection((self.host, self.port)))
            carrier = threading.Thread(target=line.carry, daemon=True)
            self.carriers.append(carrier)
            carrier.start()


@dataclass(slots=True)
class _Line:
    """One connection."""

    wire: Wire
    client: socket.socket
    server: socket.socket
    is_deaf: bool = False

    def carry(self) -> None:
        back = threading.Thread(target=self.to_client, daemon=True)
        back.start()
        self.to_server()
        back.join()
        self.client.close()
        self.server.close()

    def to_server(self) -> None:
        try:
            while data := self.client.recv(CHUNK):
                when = self.wire._taken() if COMMIT in data else None  # noqa: SLF001 - one module
                if when == "before":
                    self.wire.cuts.append(when)
                    break
                self.is_deaf = when == "after"
                self.server.sendall(data)
        except OSError:
            pass
        self.cut()

    def to_client(self) -> None:
        try:
            while data := self.server.recv(CHUNK):
                if self.is_deaf:
                    self.wire.cuts.append("after")
                    break
                self.client.sendall(data)
        except OSError:
            pass
        self.cut()

    def cut(self) -> None:
        for end in (self.client, self.server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@contextmanager
def wired(database_url: str) -> Iterator[tuple[Wire, str]]:
    """A wire to a database, and the address that leads through it."""
    url = make_url(database_url)
    assert url.host is not None
    assert url.port is not None
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(host=url.host, port=url.port, listener=listener)
    carrier = threading.Thread(target=wire.listen, daemon=True)
    carrier.start()
    through = url.set(host="127.0.0.1", port=listener.getsockname()[1])
    try:
        yield wire, through.render_as_string(hide_password=False)
    finally:
        # A thread that waits for a connection is not woken by the close alone.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (carrier, *wire.carriers):
            thread.join(timeout=5)
