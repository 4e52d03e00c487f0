"""A server that answers with bytes of our choosing, and bytes that are nearly an HTTP answer."""

import gzip
import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random

Request = bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What the server does after one request.

    Shape: ``pieces`` are sent one after the other, with ``gap_s`` between them; then the connection
    is kept, closed, reset, or held open in silence, as ``ending`` says. ``late`` comes when the next
    request was read on the same connection, and is the answer to this one.
    """

    name: str
    pieces: Sequence[bytes]
    ending: str = "close"
    gap_s: float = 0.0
    late: bytes = b""


Answering = Callable[[Request], Wire]


@dataclass(slots=True, kw_only=True)
class Server:
    """A server on loopback."""

    port: int
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def webhook_url(self) -> str:
        """A webhook of this server."""
        return f"http://127.0.0.1:{self.port}/rest/1/hush/"


@contextmanager
def serving(answering: Answering) -> Iterator[Server]:
    """Serve on loopback, each connection in a thread of its own."""
    threads: list[threading.Thread] = []
    lines: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = Server(port=listener.getsockname()[1])

        def attend(line: socket.socket) -> None:
            late = b""
            with closing(line), suppress(OSError):
                while body := _request(line):
                    if late:
                        line.sendall(late)
                        return
                    wire = answering(body)
                    late = wire.late
                    if not _answer(line, wire, server.over):
                        return

        def accept() -> None:
            while not server.over.is_set():
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                line.settimeout(5)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                lines.append(line)
                threads.append(threading.Thread(target=attend, args=(line,), daemon=True))
                threads[-1].start()

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[0].start()
        try:
            yield server
        finally:
            server.over.set()
            for line in (listener, *lines):
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)


def _request(line: socket.socket) -> bytes:
    """The body of one request; nothing at the end of the connection."""
    head = bytearray()
    while b"\r\n\r\n" not in head:
        piece = line.recv(65536)
        if not piece:
            return b""
        head += piece
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    start = head.index(b"\r\n\r\n") + 4
    while len(head) < start + length:
        piece = line.recv(65536)
        if not piece:
            return b""
        head += piece
    return bytes(head[start:])


def _answer(line: socket.socket, wire: Wire, over: threading.Event) -> bool:
    """Send an answer; whether the connection goes on."""
    for number, piece in enumerate(wire.pieces):
        if number and wire.gap_s and over.wait(wire.gap_s):
            return False
        line.sendall(piece)
    match wire.ending:
        case "keep":
            return True
        case "reset":
            # To close with this option set is to reset.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        case "silence":
            over.wait(5)
        case _:
            line.shutdown(socket.SHUT_WR)
    return False


def whole(body: bytes, *head: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A good answer, with further lines of head."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((status, length, *head, b"", body))


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunks."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_OPEN = b"HTTP/1.1 200 OK\r\n\r\n"

STATUS_LINES = (
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 ",
    b"HTTP/1.0 200 OK",
    b"HTTP/2 200 OK",
    b"HTTP/9.9 200 OK",
    b"HTTP/1.1 0200 OK",
    b"HTTP/1.1 2e2 OK",
    b"HTTP/1.1 -200 OK",
    b"HTTP/1.1 99 OK",
    b"HTTP/1.1 1000 OK",
    b"HTTP/1.1 \xff\xfe OK",
    b"HTTP/1.1 200 \xff\x00\x01",
    b"HTTP/1.1",
    b"HTTP/",
    b"ICY 200 OK",
    b"200 OK",
    b"",
    b" HTTP/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK",
    b"\0" * 20,
    b"HTTP/1.1 200 " + b"x" * 70_000,
    b"<html>",
    b"\x15\x03\x01\x00\x02\x02\x0a",
    b"SSH-2.0-OpenSSH_9.2",
)

HEADS = (
    b"no colon at all",
    b": no name",
    b" folded",
    b"X: " + b"y" * 70_000,
    b"X\0Y: z",
    b"X: \0\xff",
    b"Content-Type: text/html; charset=koi8-r",
    b"Content-Type: application/json; charset=no-such-charset",
    b"Content-Type: \xff; charset=\xff",
    b"Content-Encoding: gzip",
    b"Content-Encoding: deflate",
    b"Content-Encoding: br",
    b"Content-Encoding: zstd",
    b"Content-Encoding: gzip, gzip, gzip",
    b"Content-Encoding: no-such-coding",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 1e3",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: 5, 6",
    b"Content-Length:",
    b"Content-Length: \xb2",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: no-such-coding",
    b"Connection: close",
    b"Connection: keep-alive, close, upgrade",
    b"Upgrade: h2c",
    b"Set-Cookie: a=b; expires=nonsense; domain=.; path=\xff",
    b"Set-Cookie: =; max-age=9" + b"9" * 30,
    b'Set-Cookie: a=b; version=x; port="y"; max-age=z',
    b"Set-Cookie2: a=b; version=nonsense",
    b"Retry-After: nonsense",
    b"WWW-Authenticate: Negotiate",
    b"Trailer: X",
)

LOCATIONS = (
    b"http://[",
    b"http://a\0b/",
    b"http://\xff\xfe/",
    b"http://a b/",
    b"//" + b"x" * 60_000,
    b"http://x:99999999/",
    b"http://x:-1/",
    b"javascript:alert(1)",
    b"\r\n",
    b"http://" + b"a." * 500 + b"example/rest/1/hush/",
    b"http://\xe2\x84\xaa.example/",
    b"http://a\x1b[31m.example/",
    b"http://user:hush@new.example/rest/1/hush/batch",
)

INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 300,
)


def any_wire(random: Random, body: bytes) -> Wire:
    """A normal answer of this body, spoiled in one of very many ways."""
    sort = random.choice(tuple(_SORTS))
    wire = _SORTS[sort](random, body)
    return Wire(name=sort, pieces=wire.pieces, ending=wire.ending, gap_s=wire.gap_s)


def _wire(*pieces: bytes, ending: str = "close", gap_s: float = 0.0) -> Wire:
    return Wire(name="", pieces=pieces, ending=ending, gap_s=gap_s)


def _normal(random: Random, body: bytes) -> Wire:
    return _wire(whole(body), ending=random.choice(("keep", "close")))


def _cut(random: Random, body: bytes) -> Wire:
    answer = random.choice((whole(body), _CHUNKED + chunked(body, 7), _OPEN + body))
    ending = random.choice(("close", "close", "reset"))
    return _wire(answer[: random.randrange(len(answer))], ending=ending)


def _status_line(random: Random, body: bytes) -> Wire:
    return _wire(whole(body, status=random.choice(STATUS_LINES)))


def _status(random: Random, body: bytes) -> Wire:
    status = random.choice((204, 205, 206, 301, 304, 307, 400, 401, 403, 429, 500, 502, 503, 999))
    return _wire(whole(body, status=b"HTTP/1.1 %d X" % status))


def _head(random: Random, body: bytes) -> Wire:
    lines = random.sample(HEADS, random.randint(1, 3))
    if random.random() < 0.5:
        return _wire(b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", body)))
    return _wire(whole(body, *lines))


def _length(random: Random, body: bytes) -> Wire:
    length = random.choice((0, 1, len(body) - 1, len(body) + 1, len(body) * 2))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
    return _wire(head + body, ending=random.choice(("close", "keep", "reset")))


def _chunks(random: Random, body: bytes) -> Wire:
    good = chunked(body, random.choice((1, 7, 1000)))
    bad = random.choice(
        (
            good,
            good[:-2],
            good[:-5],
            good.replace(b"\r\n", b"\n", 1),
            b"zz\r\n" + good,
            b"-1\r\n" + good,
            b"0\r\n\r\n" + good,
            b"ffffffffffffffffffff\r\n" + body,
            b"%x\r\n" % (len(body) + 5) + body,
            b'%x;ext="\xff"\r\n%s\r\n0\r\nTrailer: x\r\n\r\n' % (len(body), body),
            b"f" * 70_000 + b"\r\n",
            body,
            b"",
        )
    )
    return _wire(_CHUNKED + bad, ending=random.choice(("close", "keep", "reset")))


def _zipped(random: Random, body: bytes) -> Wire:
    packed = gzip.compress(body)
    place = random.randrange(len(packed))
    lie = random.choice(
        (
            packed,
            packed[:place],
            packed[:place] + b"\xff" + packed[place + 1 :],
            packed + packed,
            packed + b"rest",
            body,
            zlib.compress(body),
            gzip.compress(packed),
            b"",
        )
    )
    coding = random.choice((b"gzip", b"deflate", b"gzip, gzip", b"x-gzip", b"br", b"zstd"))
    return _wire(whole(lie, b"Content-Encoding: " + coding))


def _marked(random: Random, body: bytes) -> Wire:
    text = body.decode()
    content = random.choice(
        (
            b"\xef\xbb\xbf" + body,
            b"\xef\xbb\xbf\xef\xbb\xbf" + body,
            text.encode("utf-16"),
            text.encode("utf-32"),
            b"\0" + body,
            body + b"\0",
            body + b"\xff",
            body + body,
            b"<!-- " + body + b" -->",
            b" \n" + body + b"\n ",
        )
    )
    return _wire(
        whole(content, random.choice((b"X: y", b"Content-Type: text/html; charset=cp1251")))
    )


def _endless(random: Random, body: bytes) -> Wire:
    count = random.choice((99, 101, 5000))
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(count))
    return _wire(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + body)


def _interim(random: Random, body: bytes) -> Wire:
    return _wire(random.choice(INTERIM) * random.choice((1, 2)) + whole(body))


def _old(_random: Random, body: bytes) -> Wire:
    return _wire(body)


def _moved(random: Random, body: bytes) -> Wire:
    location = b"Location: " + random.choice(LOCATIONS)
    status = b"HTTP/1.1 %d Moved" % random.choice((301, 302, 303, 307, 308, 300, 399))
    return _wire(whole(body, location, status=status))


def _noise(random: Random, body: bytes) -> Wire:
    answer = bytearray(whole(body))
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        answer[random.randrange(len(answer))] = random.randrange(256)
    return _wire(bytes(answer))


def _garbage(random: Random, _body: bytes) -> Wire:
    return _wire(random.randbytes(random.choice((1, 10, 1000))))


def _pieces(random: Random, body: bytes) -> Wire:
    answer = whole(body)
    step = max(1, len(answer) // random.choice((3, 20)))
    return _wire(*(answer[start : start + step] for start in range(0, len(answer), step)))


_SORTS: dict[str, Callable[[Random, bytes], Wire]] = {
    "normal": _normal,
    "cut": _cut,
    "status line": _status_line,
    "status": _status,
    "head": _head,
    "length": _length,
    "chunks": _chunks,
    "zipped": _zipped,
    "marked": _marked,
    "endless": _endless,
    "interim": _interim,
    "old": _old,
    "moved": _moved,
    "noise": _noise,
    "garbage": _garbage,
    "pieces": _pieces,
}


PHONES = [{"id": 1, "typeId": "PHONE", "value": "\udfff\0\n", "valueType": "\ud800"}]
"""Rows as no portal should hold them: what is said of them must still be storable."""


def answer_to(request: Request, first_id: int) -> bytes:
    """What a portal that does all that it is asked would answer, numbering records from here."""
    labels = json.loads(request)["cmd"] if request.startswith(b"{") else ("r0",)
    done = {
        label: {"item": {"id": first_id + number, "name": "\ud800\0", "fm": PHONES}}
        for number, label in enumerate(labels)
    }
    sections = {"result": done, "result_error": [], "result_time": []}
    return json.dumps({"result": sections, "time": {"start": 1.0}}).encode()
