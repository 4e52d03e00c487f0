"""What the sandbox saw and did: received requests and executed commands, in order.

Secrets of paths and queries never enter it.
"""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from b24sync.sandbox.values import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request as it was received and answered."""

    number: int
    """Position among all received requests, from 1."""
    at: float
    """Unix time of receipt, seconds."""
    path: str
    """Path without query; the webhook's secret is masked."""
    method: str
    """REST method, lower case; "oauth.token" for the authorization server."""
    commands: int
    """Commands asked for: entries of cmd, 1 for a single call."""
    status: int
    """HTTP status answered; 0 if the connection was closed instead."""
    code: str
    """Error code of the envelope; "" if there was none."""
    fault: str | None
    """Action of the fault that was applied to the whole request."""
    credential: str
    """"webhook", "oauth" or "none"."""
    took_s: float
    """Seconds until the answer was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedCommand:
    """One command that reached its method; refused-before-run commands have executed=False."""

    number: int
    """Position among all commands, from 1."""
    request: int
    """Number of the request that carried it."""
    at: float
    """Unix time of its end, seconds."""
    label: str
    """Key in cmd; "" for a single call."""
    method: str
    """REST method, lower case."""
    params: Record
    """Parameters after references were resolved."""
    ok: bool
    """Whether it succeeded and the answer says so."""
    code: str
    """Error code; "" on success (and for classic CRM errors, whose code is empty)."""
    text: str
    """Error text; "" on success."""
    id: int | None
    """Record that it wrote, if one."""
    executed: bool
    """Whether the method itself ran."""


class Journal:
    """The two lists, in memory, and the file if one is asked for."""

    def __init__(self, path: Path | str | None) -> None:
        """Start empty. Raises: OSError if the file cannot be opened."""
        self._file: TextIO | None = None
        if path is not None:
            self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._lock = threading.Lock()
        self.requests: list[ReceivedRequest] = []
        self.commands: list[ExecutedCommand] = []

    def add_request(self, entry: ReceivedRequest) -> None:
        """Append a request. Raises: OSError of the file."""
        self.requests.append(entry)
        self._write("request", entry)

    def add_command(self, entry: ExecutedCommand) -> None:
        """Append a command. Raises: OSError of the file."""
        self.commands.append(entry)
        self._write("command", entry)

    def clear(self) -> None:
        """Forget both lists; the file keeps what it has."""
        self.requests = []
        self.commands = []

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, entry_type: str, entry: ReceivedRequest | ExecutedCommand) -> None:
        if self._file is None:
            return
        line = json.dumps({"entry": entry_type, **asdict(entry)}, ensure_ascii=False)
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
