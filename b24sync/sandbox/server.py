"""The sockets: HTTP/1.1 with keep-alive, one thread a connection, TLS if asked for."""

import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from b24sync.sandbox.control import handle_control
from b24sync.sandbox.portal import Portal
from b24sync.sandbox.wire import Ending, HttpReply, HttpRequest

_BACKLOG = 256
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class SandboxServer(ThreadingHTTPServer):
    """A listening portal; stop() also ends the connections that clients keep alive."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = _BACKLOG

    def __init__(self, portal: Portal, tls: ssl.SSLContext | None) -> None:
        """Listen on the portal's address. Raises: OSError if it is taken."""
        self.portal = portal
        self._tls = tls
        self._guard = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        super().__init__((portal.config.host, portal.config.port), _Handler)

    def server_bind(self) -> None:
        """Bind without the name look-up that the standard server does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver types it
        """Serve one connection in its thread, TLS handshake included."""
        thread = threading.current_thread()
        connection: socket.socket = request
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                # Shaking hands comes later, so that stop() can end a client that never does.
                connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            with self._guard:
                self._connections[thread] = connection
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            _Handler(connection, client_address, self)
        except OSError:
            # The client went away or spoke no TLS: that is its business, not the portal's.
            return
        finally:
            with self._guard:
                self._connections.pop(thread, None)
            connection.close()

    def stop(self) -> None:
        """End serving and every open connection."""
        self.shutdown()
        with self._guard:
            open_now = dict(self._connections)
        for connection in open_now.values():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in open_now:
            thread.join(timeout=5.0)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Reads requests off one connection and writes the portal's answers."""

    protocol_version = "HTTP/1.1"
    server_version = "nginx"
    sys_version = ""
    rbufsize = 64 * 1024

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve()

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - http.server's signature
        """Stay silent: paths hold secrets, and the journal has everything else."""

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if len(body) < length:
            # The client went away before its request was complete; a portal never sees such.
            self.close_connection = True
            return
        request = HttpRequest(
            verb=self.command,
            path=path,
            query=query,
            content_type=self.headers.get("Content-Type") or "",
            body=body,
        )
        server = self.server
        assert isinstance(server, SandboxServer)  # noqa: S101 - only this server makes this handler
        if path.startswith("/sandbox/"):
            self._send(handle_control(server.portal, request))
        else:
            self._send(server.portal.handle(request))

    def _send(self, reply: HttpReply) -> None:
        if reply.ending is Ending.RESET:
            self._reset()
            return
        head = [
            f"HTTP/1.1 {reply.status} {self.responses.get(reply.status, ('Status', ''))[0]}",
            "Server: nginx",
            f"Content-Type: {reply.content_type}",
            f"Content-Length: {len(reply.body)}",
            *(f"{name}: {value}" for name, value in reply.headers),
        ]
        if self.close_connection:
            head.append("Connection: close")
        body = reply.body
        if reply.ending is Ending.CUT:
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        socket.close(self.connection.detach())
