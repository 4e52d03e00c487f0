"""One sandbox in this process: start it, talk to it over HTTP, look at what it holds."""

import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.crm_classic import records_named
from b24sync.sandbox.faults import Fault, FaultAction
from b24sync.sandbox.journal import ExecutedCommand, ReceivedRequest
from b24sync.sandbox.methods import METHODS
from b24sync.sandbox.portal import Portal
from b24sync.sandbox.server import SandboxServer
from b24sync.sandbox.store import Call
from b24sync.sandbox.tls import make_certificate, server_context
from b24sync.sandbox.values import Record, Value

_POLL_S = 0.02


class Sandbox:
    """A portal emulator listening on a local port; a context manager."""

    def __init__(self, config: SandboxConfig | None = None) -> None:
        """Prepare, without listening yet. Raises: OSError if the journal's file cannot be opened."""
        self.config = config or SandboxConfig()
        self._portal = Portal(self.config)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ca_path: Path | None = None
        self._server: SandboxServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen and serve in a thread. Raises: OSError if the address is taken."""
        self._portal.executor.stopping.clear()
        context = None
        if self.config.tls:
            self._folder = tempfile.TemporaryDirectory(prefix="b24sync-sandbox-")
            certificate, private = make_certificate(Path(self._folder.name), self.config.host)
            self._ca_path = certificate
            context = server_context(certificate, private)
        self._server = SandboxServer(self._portal, context)
        self._portal.base_url = self.url
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="b24sync-sandbox", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and close every connection; records and journal stay readable."""
        self._portal.executor.stopping.set()
        if self._server is not None:
            self._server.stop()
            self._server = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._portal.journal.close()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def url(self) -> str:
        """Scheme, host and port. Raises: RuntimeError before start and after stop."""
        if self._server is None:
            raise RuntimeError("the sandbox is not running")
        scheme = "https" if self.config.tls else "http"
        return f"{scheme}://{self.config.host}:{self._server.server_address[1]}"

    @property
    def webhook_url(self) -> str:
        """Address of the webhook, with its secret and a slash at the end."""
        return f"{self.url}/rest/{self.config.uid}/{self.config.code}/"

    @property
    def ca_path(self) -> Path | None:
        """The certificate that clients must trust, PEM; None without TLS."""
        return self._ca_path

    @property
    def access_token(self) -> str:
        """The newest OAuth access token."""
        return self._portal.tokens.access_token

    @property
    def refresh_token(self) -> str:
        """The OAuth refresh token that works."""
        return self._portal.tokens.refresh_token

    def expire_token(self) -> None:
        """End the life of every access token now."""
        self._portal.tokens.expire()

    def records(self, kind: str) -> dict[int, Record]:
        """Copies of the records of a kind, by id.

        Shape: "contact", "item:3" and "item:1036" give universal names (camelCase, UF_ names for
        user fields); "crm.contact" gives the same records under classic names, numbers as text.
        Raises: nothing; an unknown kind has no records.
        """
        with self._portal.executor.lock:
            return records_named(self._portal.executor.store, kind)

    def journal(self) -> list[ExecutedCommand]:
        """Every command that was executed or refused by itself, in order."""
        return list(self._portal.journal.commands)

    def requests(self) -> list[ReceivedRequest]:
        """Every request to a REST method or for tokens, in order of their answers."""
        return list(self._portal.journal.requests)

    def add_fault(self, action: FaultAction | str | Fault, **details: Any) -> None:  # noqa: ANN401 - the fields of Fault
        """Arm a fault: a Fault, or an action and further fields of Fault.

        Raises: ValueError for an unknown action, TypeError for an unknown field.
        """
        fault = action if isinstance(action, Fault) else None
        self._portal.faults.add(fault or Fault(action=FaultAction(str(action)), **details))

    def clear_faults(self) -> None:
        """Disarm all faults."""
        self._portal.faults.clear()

    def reset(self) -> None:
        """Forget records, journal, faults, used limits and renewed tokens."""
        self._portal.reset()

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Value:
        """Run a method at once, past HTTP, limits, faults and journal: for preparing a test.

        Raises: Refusal as the method does; KeyError for an unknown method.
        """
        call = Call(
            method=method.lower(),
            params=dict(params or {}),
            user_id=self.config.uid,
            at=time.time(),
            by_oauth=True,
        )
        with self._portal.executor.lock:
            return METHODS[method.lower()](self._portal.executor.store, call).result


def serve(config: SandboxConfig) -> None:
    """Serve in the foreground until SIGINT or SIGTERM, after printing the webhook address.

    Raises: OSError if the address is taken.
    """
    # Not an event: its lock may be held by just who is interrupted.
    ended: SimpleQueue[None] = SimpleQueue()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda _number, _frame: ended.put(None))
    with Sandbox(config) as sandbox:
        print(sandbox.webhook_url, flush=True)  # noqa: T201 - the address is this command's output
        if sandbox.ca_path is not None:
            print(sandbox.ca_path, flush=True)  # noqa: T201 - clients need this path to trust it
        ended.get()
