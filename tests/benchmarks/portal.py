"""A portal that answers at once and keeps nothing, so that a benchmark measures its client.

It runs in a process of its own: `python -m tests.benchmarks.portal [PORT]` prints where it listens.
Every command of every batch succeeds, and each new record has an id that no other has. Batches are
understood as public clients send them: as JSON, as a form, and in the query of the address; a method
called by itself is answered too. ``/spent`` tells what it has done and what that took.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from time import process_time
from urllib.parse import unquote_to_bytes
from urllib.request import urlopen

Labelled = tuple[bytes, bytes]
"""A command's label and its method."""

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
IN_JSON = re.compile(rb'"(\w+)": ?"(\w+(?:\.\w+)+)')
IN_FORM = re.compile(rb"(?i)(?:^|&)cmd(?:\[|%5b)(\w+)(?:\]|%5d)=(\w+(?:\.\w+)+)")
TIME = (
    b'{"start":1793000000.1,"finish":1793000000.2,"duration":0.1,"processing":0.1,'
    b'"date_start":"2026-10-26T12:53:20+03:00","date_finish":"2026-10-26T12:53:20+03:00",'
    b'"operating_reset_at":1793000600,"operating":0}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"


@dataclass(slots=True)
class Work:
    """What the portal has done since it was started."""

    requests: int = 0
    commands: int = 0
    connections: int = 0


class Desk:
    """Numbers records and writes answers."""

    def __init__(self) -> None:
        """Begin to number at 1."""
        self.work = Work()
        self._ids = count(1)

    def answer(self, target: bytes, body: bytes) -> bytes:
        """The answer to one request, as JSON."""
        path, _, query = target.partition(b"?")
        method = path.rstrip(b"/").rsplit(b"/", 1)[-1].removesuffix(b".json")
        if method == b"spent":
            return json.dumps(
                {
                    "cpu_s": process_time(),
                    "requests": self.work.requests,
                    "commands": self.work.commands,
                    "connections": self.work.connections,
                }
            ).encode()
        self.work.requests += 1
        if method != b"batch":
            self.work.commands += 1
            return b'{"result":%s,"time":%s}' % (self._done(method), TIME)
        return self._batch(commands_in(query) or commands_in(body))

    def _batch(self, commands: Sequence[Labelled]) -> bytes:
        self.work.commands += len(commands)
        done = b",".join(b'"%s":%s' % (label, self._done(method)) for label, method in commands)
        times = b",".join(b'"%s":%s' % (label, TIME) for label, _ in commands)
        return (
            b'{"result":{"result":{%s},"result_error":[],"result_total":[],"result_next":[],'
            b'"result_time":{%s}},"time":%s}' % (done, times, TIME)
        )

    def _done(self, method: bytes) -> bytes:
        if method == b"crm.item.add":
            return b'{"item":{"id":%d}}' % next(self._ids)
        if method.endswith(b".add"):
            return b"%d" % next(self._ids)
        return b'"2026-10-26T12:53:20+03:00"' if method == b"server.time" else b"true"


def commands_in(text: bytes) -> list[Labelled]:
    """The commands of a batch in their order, from JSON or from the pairs of a form."""
    if text.startswith(b"{"):
        return IN_JSON.findall(text)
    return IN_FORM.findall(text) or IN_FORM.findall(unquote_to_bytes(text))


class Line(asyncio.Protocol):
    """One connection, kept open for as long as the client likes."""

    def __init__(self, desk: Desk) -> None:
        """Nothing has come yet."""
        self._desk = desk
        self._come = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._desk.work.connections += 1

    def data_received(self, data: bytes) -> None:
        """Answer every request that is here whole."""
        self._come += data
        while (end := self._come.find(b"\r\n\r\n")) >= 0:
            head = self._come[:end]
            length = LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._come) < size:
                return
            body, self._come = self._come[end + 4 : size], self._come[size:]
            answer = self._desk.answer(head.split(b" ", 2)[1], body)
            self._transport.write(HEAD % len(answer) + answer)


async def serve(port: int) -> None:
    """Listen until the process is ended; say where in one line."""
    desk = Desk()
    server = await asyncio.get_running_loop().create_server(lambda: Line(desk), "127.0.0.1", port)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the portal's process has done so far.

    Units: ``cpu_s`` seconds of its processor time.
    """

    cpu_s: float
    requests: int
    commands: int
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """A running portal."""

    url: str

    @property
    def webhook_url(self) -> str:
        """The address that clients are given."""
        return f"{self.url}/rest/1/benchmark/"

    def spent(self) -> Spent:
        """What it has done so far."""
        with urlopen(f"{self.url}/spent") as answer:  # noqa: S310 - the portal's own address
            return Spent(**json.load(answer))


@contextmanager
def running() -> Iterator[Portal]:
    """A portal in a process of its own, on a free port."""
    command = [sys.executable, "-m", "tests.benchmarks.portal"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
        assert process.stdout is not None
        try:
            yield Portal(url=process.stdout.readline().strip())
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
