"""What the portal client says of an exchange: a reply, never sent, or lost; and nothing secret."""

import json
import logging
import os
import socket
import ssl
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from b24sync.core.errors import NeverSent, ReplyLost, SendError
from b24sync.core.model import Batch, Command, Operation, Reply
from b24sync.edge.portal import Credential, PortalClient
from tests.fakes import Answer, ScriptedPortal

SECRET = "s3cr3tc0de"  # noqa: S105 - made up, and looked for in everything that may be shown
WEBHOOK = Credential(base_url=f"https://portal.example/rest/1/{SECRET}/")
OAUTH = Credential(base_url="https://portal.example/rest/", token=SECRET)
DEADLINE_S = 0.4
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"result":true}'


def command(method: str = "crm.contact.add", query: str = "fields%5BNAME%5D=Ann") -> Command:
    """Give a command of which only the wire matters."""
    return Command(
        row_ids=(1,), kind="contact", key="c-1", operation=Operation.ADD, method=method, query=query
    )


BATCH = Batch(labels=("c0",), commands=(command(),))


@dataclass(kw_only=True)
class Served:
    """A server on loopback, and what it has seen."""

    port: int
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def webhook(self, scheme: str = "http", host: str = "127.0.0.1") -> Credential:
        """Give a webhook of this server."""
        return Credential(base_url=f"{scheme}://{host}:{self.port}/rest/1/{SECRET}/")


Behaviour = Callable[[socket.socket, Served], None]
Welcome = Callable[[socket.socket], socket.socket]


@contextmanager
def serving(behave: Behaviour, welcome: Welcome = lambda line: line) -> Iterator[Served]:
    """Serve on loopback: read whole requests, and behave after each."""
    threads: list[threading.Thread] = []
    lines: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Served(port=listener.getsockname()[1])

        def attend(raw: socket.socket) -> None:
            with closing(raw):
                try:
                    with closing(welcome(raw)) as line:
                        lines.append(line)
                        while request := read_request(line):
                            served.asked.append(request)
                            behave(line, served)
                except OSError:
                    return

        def accept() -> None:
            while not served.over.is_set():
                try:
                    raw, _ = listener.accept()
                except OSError:
                    return
                raw.settimeout(5)
                served.connections += 1
                threads.append(threading.Thread(target=attend, args=(raw,)))
                threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[0].start()
        try:
            yield served
        finally:
            served.over.set()
            for line in (listener, *lines):
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def read_request(line: socket.socket) -> bytes:
    """Read one request to the end of its body; nothing at the end of the connection."""
    head = bytearray()
    while b"\r\n\r\n" not in head:
        piece = line.recv(65536)
        if not piece:
            return b""
        head += piece
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    wanted = head.index(b"\r\n\r\n") + 4 + length
    while len(head) < wanted:
        head += line.recv(65536)
    return bytes(head)


def answering(answer: bytes) -> Behaviour:
    """Answer every request alike, and keep the connection."""
    return lambda line, _: line.sendall(answer)


def cutting(answer: bytes) -> Behaviour:
    """Answer so, then close the connection."""

    def behave(line: socket.socket, _: Served) -> None:
        line.sendall(answer)
        line.shutdown(socket.SHUT_RDWR)

    return behave


def dribbling(start: bytes, drop: bytes) -> Behaviour:
    """Answer with a start, then a drop every twentieth of a second for ever."""

    def behave(line: socket.socket, served: Served) -> None:
        line.sendall(start)
        while not served.over.wait(0.05):
            line.sendall(drop)

    return behave


def stalling(_: socket.socket, served: Served) -> None:
    """Read the request and say nothing."""
    served.over.wait(5)


@pytest.fixture(name="client")
def opened_client() -> Iterator[PortalClient]:
    """Give a client that takes nothing from the environment, and close it."""
    client = PortalClient(connect_timeout_s=0.3, deadline_s=DEADLINE_S, proxies={})
    yield client
    client.close()


def failure_of(
    client: PortalClient, credential: Credential, batch: Batch = BATCH, **options: float
) -> SendError:
    """Send in vain; the failure has come in time and shows no secret anywhere."""
    started_at = monotonic()
    with pytest.raises(SendError) as caught:
        client.send(credential, batch, **options)
    assert monotonic() - started_at < DEADLINE_S + 1.5
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown
    assert caught.value.__context__ is None
    return caught.value


def free_port() -> int:
    """Give a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_several_commands_are_one_json_call_in_order() -> None:
    """A batch is one object of labels and commands, as ordered, with halt as a number."""
    portal = ScriptedPortal([Answer(body={"result": {}})])
    commands = (command(), command("user.current", ""))
    batch = Batch(labels=("b", "a"), commands=commands, halt=True)

    PortalClient(adapter=lambda: portal, user_agent="b24sync/1").send(WEBHOOK, batch)

    asked = portal.asked[0]
    assert asked.url == f"https://portal.example/rest/1/{SECRET}/batch"
    assert asked.body == (
        b'{"halt":1,"cmd":{"b":"crm.contact.add?fields%5BNAME%5D=Ann","a":"user.current"}}'
    )
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Content-Length"] == "80"
    assert asked.headers["User-Agent"] == "b24sync/1"


def test_a_token_travels_in_the_body() -> None:
    """OAuth puts the token beside the commands, and never into the address."""
    portal = ScriptedPortal([Answer(body={}), Answer(body={})])
    client = PortalClient(adapter=lambda: portal)

    client.send(OAUTH, BATCH)
    client.call(OAUTH, "app.info")

    assert [asked.url for asked in portal.asked] == [
        "https://portal.example/rest/batch",
        "https://portal.example/rest/app.info",
    ]
    assert [asked.params["auth"] for asked in portal.asked] == [SECRET, SECRET]


def test_a_single_command_is_called_by_itself() -> None:
    """A command that must not travel in a batch goes to its own method as a form."""
    portal = ScriptedPortal([Answer(body={}), Answer(body={})])
    client = PortalClient(adapter=lambda: portal)
    single = Batch(labels=("c0",), commands=(command(),), single=True)

    client.send(WEBHOOK, single)
    client.send(OAUTH, single)

    bodies = [asked.body for asked in portal.asked]
    assert bodies == [b"fields%5BNAME%5D=Ann", f"fields%5BNAME%5D=Ann&auth={SECRET}".encode()]
    assert [asked.method for asked in portal.asked] == ["crm.contact.add", "crm.contact.add"]
    assert portal.asked[0].headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_a_reply_is_facts_whatever_its_status() -> None:
    """A refusal with a body is a reply like any other."""
    refusal = {"error": "QUERY_LIMIT_EXCEEDED"}
    portal = ScriptedPortal([Answer(status=503, body=refusal)])

    reply = PortalClient(adapter=lambda: portal).send(WEBHOOK, BATCH)

    assert (reply.status, reply.body, reply.readable) == (503, refusal, True)
    assert reply.location is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>502</html>", id="a page"),
        pytest.param(b'{"result":{"resu', id="half a JSON"),
        pytest.param(b'{"result":"\xff"}', id="not UTF-8"),
        pytest.param(b"[" * 200_000, id="nested without end"),
        pytest.param(b'{"result":NaN}', id="not a number"),
        pytest.param(b"1" * 5000, id="a number beyond reading"),
    ],
)
def test_a_body_that_is_no_json_is_not_readable(body: bytes) -> None:
    """A complete answer that cannot be read is a reply without a body."""
    portal = ScriptedPortal([Answer(body=body)])

    reply = PortalClient(adapter=lambda: portal).send(WEBHOOK, BATCH)

    assert (reply.status, reply.readable, reply.body) == (200, False, None)


def test_a_byte_order_mark_does_not_hide_the_answer() -> None:
    """Self-hosted portals may put a byte order mark first; the JSON behind it counts."""
    portal = ScriptedPortal([Answer(body=b'\xef\xbb\xbf{"result":true}')])

    reply = PortalClient(adapter=lambda: portal).send(WEBHOOK, BATCH)

    assert reply.body == {"result": True}


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        (f"https://new.example:8443/rest/1/{SECRET}/batch?x=1", "https://new.example:8443"),
        (f"https://user:{SECRET}@new.example/", "https://new.example"),
        ("/closed.php", "https://portal.example"),
        ("http://[", None),
        ("https://new.example:port/", None),
        ("https://new\0.example/", None),
        ("https://new\x1b[31m.example/", None),
        ("https://\xff\xfe/", None),
        (f"https://{'new.' * 70}example/", None),
    ],
)
def test_of_a_redirect_only_the_new_host_is_kept(location: str, kept: str | None) -> None:
    """A redirect is not followed, and its path, which holds the secret, goes no further."""
    portal = ScriptedPortal([Answer(status=302, body=b"moved", headers={"Location": location})])

    reply = PortalClient(adapter=lambda: portal).send(WEBHOOK, BATCH)

    assert (reply.status, reply.location) == (302, kept)
    assert len(portal.asked) == 1


def test_an_answer_above_the_limit_counts_as_lost() -> None:
    """Reading stops at the limit of bytes."""
    portal = ScriptedPortal([Answer(body=b"x" * 11), Answer(body=b"1" * 10)])
    client = PortalClient(adapter=lambda: portal, answer_limit_bytes=10)

    lost = failure_of(client, WEBHOOK)
    reply = client.send(WEBHOOK, BATCH)

    assert (type(lost), lost.cause) == (ReplyLost, "BodyTooLarge")
    assert reply.body == 1111111111


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (requests.ConnectTimeout(), NeverSent),
        (requests.exceptions.ProxyError(), NeverSent),
        (requests.exceptions.SSLError(ssl.SSLCertVerificationError()), NeverSent),
        (requests.exceptions.SSLError(), ReplyLost),
        (requests.ConnectionError(SECRET), ReplyLost),
        (requests.ReadTimeout(), ReplyLost),
        (requests.exceptions.ChunkedEncodingError(), ReplyLost),
        (requests.exceptions.ContentDecodingError(), ReplyLost),
        (OSError(SECRET), ReplyLost),
    ],
    ids=repr,
)
def test_without_a_tracked_connection_only_the_short_list_is_certain(
    raised: Exception, expected: type[SendError]
) -> None:
    """What is not on the list of certainties is doubt."""
    portal = ScriptedPortal([raised])

    failure = failure_of(PortalClient(adapter=lambda: portal), WEBHOOK)

    assert type(failure) is expected


@pytest.mark.parametrize("base_url", ["https://", "https://a b/rest/", "nonsense", "https://:1/"])
def test_an_impossible_address_was_never_called(client: PortalClient, base_url: str) -> None:
    """An address that is none cannot have received anything."""
    credential = Credential(base_url=f"{base_url}{SECRET}/")

    failure = failure_of(client, credential)

    assert type(failure) is NeverSent


def test_a_deadline_in_the_past_sends_nothing(client: PortalClient) -> None:
    """No request begins after its deadline."""
    with serving(answering(OK)) as server:
        failure = failure_of(client, server.webhook(), deadline_s=0.0)

        assert type(failure) is NeverSent
        assert server.asked == []


def test_a_refused_connection_is_never_sent(client: PortalClient) -> None:
    """Nobody listened, so nobody received."""
    credential = Credential(base_url=f"http://127.0.0.1:{free_port()}/rest/1/{SECRET}/")

    failure = failure_of(client, credential)

    assert type(failure) is NeverSent
    assert failure.cause == "NewConnectionError > ConnectionRefusedError"


def test_an_unknown_name_is_never_sent(client: PortalClient) -> None:
    """A name that cannot be encoded, let alone found, leads nowhere."""
    credential = Credential(base_url=f"http://{'x' * 64}.invalid/rest/1/{SECRET}/")

    failure = failure_of(client, credential)

    assert type(failure) is NeverSent


def test_a_connect_timeout_is_never_sent(client: PortalClient) -> None:
    """A host that does not take the connection has received nothing."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        try:
            for line in waiting:
                line.settimeout(0)
                line.connect_ex(("127.0.0.1", port))
            with closing(socket.socket()) as probe:
                probe.settimeout(0.1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    pytest.skip("this system takes connections beyond the backlog")

            failure = failure_of(
                client, Credential(base_url=f"http://127.0.0.1:{port}/rest/1/{SECRET}/")
            )
        finally:
            for line in waiting:
                line.close()

    assert type(failure) is NeverSent
    assert failure.cause == "ConnectTimeoutError > TimeoutError"


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(cutting(b""), id="dropped after reading"),
        pytest.param(cutting(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"r'), id="cut"),
        pytest.param(
            cutting(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"), id="cut chunk"
        ),
        pytest.param(cutting(b"nonsense\r\n\r\n"), id="not HTTP"),
        pytest.param(stalling, id="silent"),
        pytest.param(dribbling(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), id="dribbling headers"),
        pytest.param(dribbling(b"HTTP/1.1 200 OK\r\n\r\n", b" "), id="dribbling without length"),
        pytest.param(
            dribbling(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "), id="dribbling"
        ),
        pytest.param(dribbling(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="for ever continue"),
    ],
)
def test_a_request_that_was_read_and_not_answered_is_lost(
    client: PortalClient, behave: Behaviour
) -> None:
    """After the connection stood open, silence in any form is doubt, and ends at the deadline."""
    with serving(behave) as server:
        failure = failure_of(client, server.webhook())

        assert type(failure) is ReplyLost
        assert len(server.asked) == 1


def test_an_upload_that_nobody_reads_ends_at_the_deadline(client: PortalClient) -> None:
    """Sending is bounded as well, and a part may have arrived."""
    large = Batch(labels=("c0",), commands=(command(query="x" * 30_000_000),))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/rest/1/{SECRET}/"

        failure = failure_of(client, Credential(base_url=url), large)

    assert type(failure) is ReplyLost


def test_an_upload_may_take_longer_than_connecting() -> None:
    """The time to connect does not bound sending."""
    large = Batch(labels=("c0",), commands=(command(query="x" * 30_000_000),))
    over = threading.Event()

    def late(line: socket.socket) -> socket.socket:
        over.wait(0.2)
        return line

    patient = PortalClient(connect_timeout_s=0.05, deadline_s=5, proxies={})
    with serving(answering(OK), late) as server, closing(patient):
        reply = patient.send(server.webhook(), large)

        assert reply.body == {"result": True}


def test_an_answer_may_take_longer_than_connecting() -> None:
    """The time to connect does not bound the answer."""

    def late(line: socket.socket, served: Served) -> None:
        served.over.wait(0.15)
        line.sendall(OK)

    patient = PortalClient(connect_timeout_s=0.05, deadline_s=5, proxies={})
    with serving(late) as server, closing(patient):
        reply = patient.send(server.webhook(), BATCH)

        assert reply.body == {"result": True}
        assert 0.15 <= reply.took_s < 5


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"resu', id="in the body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="in the headers"),
    ],
)
def test_an_answer_cut_before_any_length_is_not_readable(
    client: PortalClient, answer: bytes
) -> None:
    """Where the server gives no length, only the JSON shows that the answer was cut."""
    with serving(cutting(answer)) as server:
        reply = client.send(server.webhook(), BATCH)

        assert (reply.status, reply.readable) == (200, False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(client: PortalClient, status: int) -> None:
    """A redirect is a reply; the POST is not repeated as anything, anywhere."""
    answer = f"HTTP/1.1 {status} Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(answer.encode())) as server:
        reply = client.send(server.webhook(), BATCH)

        assert reply.status == status
        assert reply.location == f"http://127.0.0.1:{server.port}"
        assert len(server.asked) == 1


def test_a_connection_is_used_again(client: PortalClient) -> None:
    """Requests of one thread share a connection."""
    with serving(answering(OK)) as server:
        replies = [client.send(server.webhook(), BATCH) for _ in range(3)]

        assert [reply.body for reply in replies] == [{"result": True}] * 3
        assert (server.connections, len(server.asked)) == (1, 3)


def test_a_connection_lost_on_its_second_request_is_doubt(client: PortalClient) -> None:
    """A connection used again stands open, so what breaks on it may have been received."""

    def once(line: socket.socket, served: Served) -> None:
        (answering(OK) if len(served.asked) == 1 else cutting(b""))(line, served)

    with serving(once) as server:
        client.send(server.webhook(), BATCH)
        failure = failure_of(client, server.webhook())

        assert type(failure) is ReplyLost
        assert (server.connections, len(server.asked)) == (1, 2)


def test_a_connection_at_rest_for_too_long_is_not_used_again() -> None:
    """Past the idle limit a fresh connection is opened."""
    client = PortalClient(deadline_s=DEADLINE_S, proxies={}, idle_limit_s=0.0)
    with serving(answering(OK)) as server, closing(client):
        client.send(server.webhook(), BATCH)
        client.send(server.webhook(), BATCH)

        assert (server.connections, len(server.asked)) == (2, 2)


def test_threads_do_not_share_a_connection(client: PortalClient) -> None:
    """Each thread opens its own."""
    with serving(answering(OK)) as server:
        client.send(server.webhook(), BATCH)
        replies: list[Reply] = []

        def other() -> None:
            replies.append(client.send(server.webhook(), BATCH))
            client.close()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

        assert replies[0].body == {"result": True}
        assert server.connections == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_opens_a_connection_of_its_own(client: PortalClient) -> None:
    """A child never writes to its parent's socket, and leaves it usable."""
    with serving(answering(OK)) as server:
        client.send(server.webhook(), BATCH)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = client.send(server.webhook(), BATCH).status
            os._exit(0 if status == 200 else 1)
        _, exit_status = os.waitpid(child, 0)
        client.send(server.webhook(), BATCH)

        assert exit_status == 0
        assert (server.connections, len(server.asked)) == (2, 3)


def test_a_refusing_proxy_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies come from the environment, and one that cannot be reached passes nothing on."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    with closing(PortalClient(deadline_s=DEADLINE_S)) as client:
        failure = failure_of(client, Credential(base_url=f"http://portal.example/rest/1/{SECRET}/"))

    assert type(failure) is NeverSent
    assert failure.cause == "NewConnectionError > ConnectionRefusedError"


def test_a_tunnel_that_is_refused_is_never_sent() -> None:
    """A proxy that says no to CONNECT has not seen the request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def refuse() -> None:
            line, _ = listener.accept()
            with closing(line):
                heard.append(line.recv(65536))
                line.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        proxies = {"https": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        with closing(PortalClient(deadline_s=DEADLINE_S, proxies=proxies)) as client:
            failure = failure_of(client, WEBHOOK)
        thread.join()

    assert type(failure) is NeverSent
    assert heard[0].startswith(b"CONNECT portal.example:443 ")
    assert SECRET.encode() not in heard[0]


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A certificate for loopback that signs itself: the file, and the server's side of it."""

    bundle: str
    context: ssl.SSLContext

    def greet(self, line: socket.socket) -> socket.socket:
        """Do the handshake."""
        return self.context.wrap_socket(line, server_side=True)


@pytest.fixture(name="certified", scope="module")
def made_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    """Make a certificate that outlives these tests."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "loopback.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return Certified(bundle=str(path), context=context)


@pytest.fixture(name="trusting")
def opened_trusting_client(certified: Certified) -> Iterator[PortalClient]:
    """Give a client that trusts the certificate of this module, whatever the environment says."""
    client = PortalClient(
        connect_timeout_s=0.3, deadline_s=DEADLINE_S, proxies={}, ca_bundle=certified.bundle
    )
    yield client
    client.close()


def test_a_trusted_certificate_is_spoken_to(trusting: PortalClient, certified: Certified) -> None:
    """TLS works, and its connection is used again."""
    with serving(answering(OK), certified.greet) as server:
        replies = [trusting.send(server.webhook("https"), BATCH) for _ in range(2)]

        assert [reply.body for reply in replies] == [{"result": True}] * 2
        assert (server.connections, len(server.asked)) == (1, 2)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upload_that_is_read_in_drops_ends_at_the_deadline(
    trusting: PortalClient, certified: Certified, scheme: str
) -> None:
    """Progress does not prolong the time to send, in clear or over TLS."""
    large = Batch(labels=("c0",), commands=(command(query="x" * 30_000_000),))
    over = threading.Event()

    def sip(raw: socket.socket) -> socket.socket:
        line = certified.greet(raw) if scheme == "https" else raw
        while not over.wait(0.05):
            line.recv(65536)
        return line

    with serving(answering(OK), sip) as server:
        failure = failure_of(trusting, server.webhook(scheme), large)
        over.set()

        assert type(failure) is ReplyLost


def test_a_certificate_nobody_vouches_for_is_never_sent(
    client: PortalClient, certified: Certified
) -> None:
    """A failed check of the certificate comes before the request."""
    with serving(answering(OK), certified.greet) as server:
        failure = failure_of(client, server.webhook("https"))

        assert type(failure) is NeverSent
        assert failure.cause == "SSLError > SSLCertVerificationError"
        assert server.asked == []


def test_a_handshake_that_is_dropped_is_never_sent(trusting: PortalClient) -> None:
    """Whatever breaks before the handshake is done has received no request."""

    def drop(line: socket.socket) -> socket.socket:
        line.recv(65536)
        raise OSError

    with serving(answering(OK), drop) as server:
        failure = failure_of(trusting, server.webhook("https"))

        assert type(failure) is NeverSent


def test_a_handshake_that_stalls_is_never_sent(trusting: PortalClient) -> None:
    """The time to connect bounds the handshake too."""
    over = threading.Event()

    def stall(line: socket.socket) -> socket.socket:
        over.wait(5)
        return line

    with serving(answering(OK), stall) as server:
        failure = failure_of(trusting, server.webhook("https"))
        over.set()

        assert type(failure) is NeverSent


def test_a_server_without_tls_is_never_sent(trusting: PortalClient) -> None:
    """An answer in clear to a handshake is no handshake."""

    def clear(line: socket.socket) -> socket.socket:
        line.recv(65536)
        line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        raise OSError

    with serving(answering(OK), clear) as server:
        failure = failure_of(trusting, server.webhook("https"))

        assert type(failure) is NeverSent


def test_tls_that_breaks_after_the_request_is_doubt(
    trusting: PortalClient, certified: Certified
) -> None:
    """The same class of exception as a failed handshake, but the request has been read."""

    def spoil(line: socket.socket, _: Served) -> None:
        socket.socket.sendall(line, b"not a record of TLS at all")

    with serving(spoil, certified.greet) as server:
        failure = failure_of(trusting, server.webhook("https"))

        assert type(failure) is ReplyLost
        assert failure.cause == "SSLError > SSLError"
        assert len(server.asked) == 1


def test_a_log_of_everything_holds_no_secret(
    client: PortalClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries below log the address of every request; the secret is taken out of it."""
    caplog.set_level(logging.DEBUG)
    spoiled = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nspoiled\r\n\r\n{}"
    with serving(answering(spoiled)) as server:
        client.send(server.webhook(), BATCH)

    assert "/rest/1/…/batch" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("credential", "shown"),
    [
        (WEBHOOK, "Credential(https://portal.example, webhook)"),
        (OAUTH, "Credential(https://portal.example, token)"),
        (Credential(base_url=f"http://[{SECRET}"), "Credential(None, webhook)"),
    ],
)
def test_a_credential_does_not_show_its_secret(credential: Credential, shown: str) -> None:
    """Printing a credential gives the host and the sort."""
    printed = (repr(credential), str(credential))

    assert printed == (shown, shown)


def test_a_client_does_not_show_the_password_of_its_proxy() -> None:
    """Printing a client gives its times, not its ways."""
    client = PortalClient(proxies={"https": f"http://user:{SECRET}@proxy.example"})

    printed = repr(client)

    assert SECRET not in printed


def test_a_label_for_every_command_reaches_the_portal(client: PortalClient) -> None:
    """Fifty commands go out in one request, whole."""
    labels = tuple(f"c{number}" for number in range(50))
    batch = Batch(labels=labels, commands=(command(query="a=%D0%96&" * 500),) * 50)
    with serving(answering(OK)) as server:
        client.send(server.webhook(), batch, deadline_s=5.0)

    sent = json.loads(server.asked[0].partition(b"\r\n\r\n")[2])
    assert tuple(sent["cmd"]) == labels
    assert sent["halt"] == 0
