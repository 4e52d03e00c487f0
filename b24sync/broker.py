"""The embedded broker: a kombu transport on a SQLite file of its own, for one host.

It answers one question: how do Celery processes of one machine pass messages with nothing installed. A message is a
row. Publishing inserts it, claiming writes the owner into it, acknowledging deletes it; a queue is no more than a name
in a column, so there is nothing to declare and nothing for two processes to create at the same moment.

Rules:
    The owner of a claim is a channel of a running process. Claims of processes that have ended, and of channels that
    were closed without giving them back, are returned every two seconds by whoever looks for messages. No claim
    expires under a living owner.
    A delivery tag is a row and its number of deliveries: a late acknowledgement of an earlier delivery does nothing.
    A row that is no message is set aside where it lies, with the reason in `refused`, and logged once. To offer it
    again, or to drop it: `UPDATE message SET refused = NULL WHERE id = ?`, `DELETE FROM message WHERE id = ?`.
    Every writing statement is a transaction of its own, so none can fail on a stale snapshot.
    An SQLite connection belongs to one process; after a fork the child leaves it alone and opens another.

Limits:
    One host and one container, a local disk. Owners are recognised by process number, start and boot: elsewhere a
    living owner would look dead. Outside Linux the start is known only if psutil can be imported; without it a
    claim waits until its process number is free, and on Windows until the row is freed by hand
    (`UPDATE message SET owner = NULL WHERE id = ?`).
    Committed messages survive the death of any process; a power cut may take the last of them.
    No fanout, so no remote control and no events; no priorities, oldest first.
"""

import base64
import functools
import importlib
import itertools
import logging
import math
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from time import monotonic
from types import MappingProxyType, ModuleType
from typing import Any, Final, cast
from urllib.parse import quote, unquote, urlsplit

from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.json import dumps, loads
from kombu.utils.scheduling import FairCycle

SCHEME: Final = "b24sqlite"

WORKER_SETTINGS: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "broker_connection_retry_on_startup": True,
        "task_send_sent_event": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
    }
)
"""Celery settings that say aloud what this broker cannot do. A worker starts without them, too: Celery leaves out
remote control where there is no fanout, and events, gossip and mingle by the driver type."""

_APPLICATION_ID: Final = 0x62323401
_SWEEP_EVERY_S: Final = 2.0
_BUSY_TIMEOUT_S: Final = 5.0

_SCHEMA: Final = (
    """
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        payload TEXT NOT NULL,
        deliveries INTEGER NOT NULL DEFAULT 0,
        owner TEXT,
        refused TEXT
    )
    """,
    "CREATE INDEX message_ready ON message (queue, id) WHERE owner IS NULL AND refused IS NULL",
    "CREATE INDEX message_claimed ON message (owner) WHERE owner IS NOT NULL",
    f"PRAGMA application_id = {_APPLICATION_ID}",
)
_PUT: Final = "INSERT INTO message (queue, payload) VALUES (?, ?)"
_PEEK: Final = "SELECT 1 FROM message WHERE queue = ? AND owner IS NULL AND refused IS NULL LIMIT 1"
_CLAIM: Final = """
    UPDATE message SET owner = ?, deliveries = deliveries + 1
    WHERE id = (SELECT id FROM message WHERE queue = ? AND owner IS NULL AND refused IS NULL ORDER BY id LIMIT 1)
    RETURNING id, deliveries, CAST(payload AS BLOB)
    """
_SETTLE: Final = "DELETE FROM message WHERE id = ? AND deliveries = ? AND owner = ?"
_RELEASE: Final = "UPDATE message SET owner = NULL WHERE id = ? AND deliveries = ? AND owner = ?"
_REFUSE: Final = "UPDATE message SET owner = NULL, refused = ? WHERE id = ?"
_OWNERS: Final = "SELECT DISTINCT owner FROM message WHERE owner IS NOT NULL"
_RETURN: Final = "UPDATE message SET owner = NULL WHERE owner = ?"
_SIZE: Final = "SELECT count(*) FROM message WHERE queue = ? AND owner IS NULL AND refused IS NULL"
_PURGE: Final = (
    "DELETE FROM message WHERE queue = ? AND owner IS NULL AND refused IS NULL RETURNING 1"
)
_DROP: Final = "DELETE FROM message WHERE queue = ?"

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_logger: Final = logging.getLogger(__name__)
_serials: Final = itertools.count(1)
_open_serials: Final[set[str]] = set()
_inherited: Final[list["_Opened"]] = []


def register() -> None:
    """Make `b24sqlite://` URLs known to kombu; calling it again changes nothing.

    Raises: nothing.
    """
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:Transport"


class BrokerFileError(OperationalError):
    """The broker's file cannot be used: which file, why, and what to do about it.

    No message was passed. kombu and Celery treat it as a lost connection and try again.
    """

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        """Keep the three facts; all are arguments, so that the error can be pickled."""
        super().__init__(path, reason, advice)
        self.path = path
        self.reason = reason
        self.advice = advice

    def __str__(self) -> str:
        """Say file, reason and advice in one line."""
        return f"broker file {self.path}: {self.reason}; {self.advice}"


class Channel(virtual.Channel):
    """Messages of the file as kombu sees them: claimed by this channel until settled or released."""

    # What is unsettled at the end is given back by `close` in one statement, or by the sweep of another process;
    # kombu's own way would insert copies at the end of the queue.
    do_restore = False

    def __init__(self, connection: "Transport", **kwargs: Any) -> None:  # noqa: ANN401 - kombu's signature
        """Open the channel as an owner of claims."""
        super().__init__(connection, **kwargs)
        self._file = connection.file
        self._settled = connection.settled
        self._unwritten: deque[tuple[str, str]] = deque()
        self._serial = str(next(_serials))
        _open_serials.add(self._serial)

    def drain_events(
        self, timeout: float | None = None, callback: Callable[..., Any] | None = None
    ) -> None:
        """Deliver one message.

        Raises: Empty if there is none or the prefetch window is full; BrokerFileError.
        """
        while self._unwritten:
            self._finish(*self._unwritten.popleft())
        super().drain_events(timeout=timeout, callback=callback)

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,  # noqa: FBT001 - kombu's signature
        callback: Callable[..., Any] | None,
        consumer_tag: str | None,
        **kwargs: Any,  # noqa: ANN401 - kombu's signature
    ) -> str:
        """Consume from a queue; without acknowledgements a message is gone once it is delivered."""

        def settle_first(message: virtual.Message) -> object:
            self._change(_SETTLE, str(message.delivery_tag))
            return callback(message) if callback else None

        consume = settle_first if no_ack else callback
        return super().basic_consume(queue, no_ack, consume, consumer_tag, **kwargs)

    def basic_get(
        self,
        queue: str,
        no_ack: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        **kwargs: Any,  # noqa: ANN401 - kombu's signature
    ) -> virtual.Message | None:
        """Return the oldest ready message of a queue, or None.

        Raises: BrokerFileError.
        """
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack:
            self._change(_SETTLE, str(message.delivery_tag))
        return message

    def basic_ack(
        self,
        delivery_tag: str,
        multiple: bool = False,  # noqa: ARG002, FBT001, FBT002 - kombu's signature
    ) -> None:
        """Delete the delivered message; if the file refuses, try again before the next delivery.

        Raises: BrokerFileError.
        """
        self._finish(_SETTLE, delivery_tag)

    def basic_reject(
        self,
        delivery_tag: str,
        requeue: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
    ) -> None:
        """Drop the delivered message, or put it back to its old place; again if the file refuses.

        Raises: BrokerFileError.
        """
        self._finish(_RELEASE if requeue else _SETTLE, delivery_tag)

    def queue_delete(
        self,
        queue: str,
        if_unused: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        if_empty: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        **kwargs: Any,  # noqa: ANN401 - kombu's signature
    ) -> None:
        """Forget a queue with all its rows, also if another process declared it.

        Raises: BrokerFileError.
        """
        super().queue_delete(queue, if_unused=if_unused, if_empty=if_empty, **kwargs)
        if not (if_empty and self._size(queue)):
            self._delete(queue)

    def close(self) -> None:
        """Give back what this channel holds; what the file refuses to take back, a later sweep returns.

        Raises: nothing of the file's.
        """
        if self.closed:
            return
        super().close()
        _open_serials.discard(self._serial)
        try:
            if self._file.is_open:
                self._file.run(_RETURN, self._owner)
        except BrokerFileError as error:
            _logger.warning("claims_left_to_sweep: %s", error)

    def _put(self, queue: str, message: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - kombu's signature
        self._file.run(_PUT, queue, dumps(message))

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:  # noqa: ARG002 - kombu's signature
        self._file.sweep()
        while self._file.run(_PEEK, queue):
            for row, deliveries, raw in self._file.run(_CLAIM, self._owner, queue):
                try:
                    payload = _read(raw)
                except ValueError as refusal:
                    self._refuse(row, str(refusal))
                    continue
                properties = payload["properties"]
                properties["delivery_tag"] = f"{row}.{deliveries}"
                properties["delivery_info"]["redelivered"] = deliveries > 1
                return payload
        raise Empty

    def _refuse(self, row: int, reason: str) -> None:
        self._file.run(_REFUSE, reason, row)
        _logger.error("message_refused: %s in %s: %s", row, self._file.path, reason)

    def _restore(self, message: Any) -> None:  # noqa: ANN401 - kombu's signature
        self._change(_RELEASE, str(message.delivery_tag))

    def _size(self, queue: str) -> int:
        return int(self._file.run(_SIZE, queue)[0][0])

    def _purge(self, queue: str) -> int:
        return len(self._file.run(_PURGE, queue))

    def _delete(self, queue: str, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - kombu's signature
        self._file.run(_DROP, queue)

    @property
    def _owner(self) -> str:
        return f"{self._file.open().process}/{self._serial}"

    def _finish(self, statement: str, tag: str) -> None:
        try:
            self._change(statement, tag)
        except BrokerFileError:
            self._unwritten.append((statement, tag))
            raise
        self.qos.ack(tag)
        self._settled.set()

    def _change(self, statement: str, tag: str) -> None:
        # A closed channel has given everything back; another may be at work on it already.
        if not self.closed:
            self._file.run(statement, *tag.split("."), self._owner)


class Transport(virtual.Transport):
    """The connection of kombu to one broker file."""

    Channel = Channel
    can_parse_url = True
    polling_interval = 0.1
    driver_type = "sql"
    driver_name = "sqlite3"
    connection_errors = (BrokerFileError, *virtual.Transport.connection_errors)

    def __init__(self, client: Connection, **kwargs: Any) -> None:  # noqa: ANN401 - kombu's signature
        """Read the URL; nothing is opened yet.

        Raises: ValueError if the URL names no file, or more than a file.
        """
        super().__init__(client, **kwargs)
        self.file = _File(
            _path_in(client),
            busy_timeout_s=(client.transport_options or {}).get("busy_timeout", _BUSY_TIMEOUT_S),
        )
        self.settled = threading.Event()

    def establish_connection(self) -> "Transport":
        """Open the file, making it if there is none.

        Raises: BrokerFileError.
        """
        self.file.open()
        super().establish_connection()
        return self

    def close_connection(self, connection: Any) -> None:  # noqa: ANN401 - kombu's signature
        """Close all channels, then the file.

        Raises: nothing of the file's.
        """
        super().close_connection(connection)
        self.file.close()

    def verify_connection(self, connection: Any) -> bool:  # noqa: ANN401, ARG002 - kombu's signature
        """Say whether this process has the file open; whether it is still in its place shows at the next use."""
        return self.file.is_open

    def drain_events(
        self,
        connection: Any,  # noqa: ANN401, ARG002 - kombu's signature
        timeout: float | None = None,
        **_kwargs: Any,  # noqa: ANN401 - kombu's signature
    ) -> None:
        """Wait for one message and deliver it.

        An acknowledgement ends the wait at once: a full prefetch window costs no polling interval.
        Units: timeout in seconds, None waits for ever.
        Raises: TimeoutError, BrokerFileError.
        """
        turns = cast("FairCycle", self.cycle)
        until = math.inf if timeout is None else monotonic() + timeout
        while True:
            self.settled.clear()
            try:
                turns.get(self._deliver, timeout=timeout)
            except Empty:
                left_s = until - monotonic()
                if left_s <= 0:
                    raise TimeoutError from None
                self.settled.wait(min(self.polling_interval or 0.0, left_s))
            else:
                return

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: ARG002, FBT001, FBT002 - kombu's signature
        """Return the URL of the file, absolute; there is no password in it."""
        return f"{SCHEME}:///{quote(self.file.path.as_posix())}"

    def driver_version(self) -> str:
        """Return the version of the SQLite library."""
        return sqlite3.sqlite_version


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A connection, the process it belongs to, and the file it was opened on."""

    connection: sqlite3.Connection
    pid: int
    process: str
    file_id: tuple[int, int]
    # A signal handler of Celery may settle messages in the very thread that is inside a statement.
    lock: threading.RLock


class _File:
    """The file of messages, opened once in each process that uses it and shared by its threads."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._opened: _Opened | None = None
        self._swept_at = -math.inf

    @property
    def is_open(self) -> bool:
        return self._opened is not None and self._opened.pid == os.getpid()

    def open(self) -> _Opened:
        if self._opened is not None and self._opened.pid == os.getpid():
            return self._opened
        if self._opened is not None:
            # Closing it here, as collecting it would, touches locks and a log that are the parent's.
            _inherited.append(self._opened)
        self._opened = _connect(self.path, busy_timeout_s=self._busy_timeout_s)
        return self._opened

    def close(self) -> None:
        if self._opened is not None and self._opened.pid == os.getpid():
            self._opened.connection.close()
            self._opened = None

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        opened = self.open()
        try:
            with opened.lock:
                rows = opened.connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _explained(error, self.path) from error
        # A statement succeeds on a deleted file, too, as long as somebody has it open: look after, not before.
        if _file_id(self.path) != opened.file_id:
            raise BrokerFileError(
                self.path,
                "was deleted or replaced while in use",
                "connect again to work with what lies there now; messages of the old file are lost",
            )
        return rows

    def sweep(self) -> None:
        if monotonic() - self._swept_at < _SWEEP_EVERY_S:
            return
        self._swept_at = monotonic()
        for (owner,) in self.run(_OWNERS):
            if not _is_living(owner, here=self.open().process):
                self.run(_RETURN, owner)
                _logger.info("claims_returned: owner %s of %s has ended", owner, self.path)


def _connect(path: Path, *, busy_timeout_s: float) -> _Opened:
    _create(path)
    try:
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise _explained(error, path) from error
    # Bytes that are no text, put there by hand, are for `_read` to refuse and not for the driver.
    connection.text_factory = _lenient_text
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _explained(error, path) from error
    except BrokerFileError:
        connection.close()
        raise
    return _Opened(
        connection=connection,
        pid=os.getpid(),
        process=f"{_boot()}/{os.getpid()}/{_started(os.getpid())}",
        file_id=_file_id(path),
        lock=threading.RLock(),
    )


def _create(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        return
    except FileNotFoundError as error:
        raise BrokerFileError(
            path, "its directory does not exist", "create it or correct the broker URL"
        ) from error
    except OSError as error:
        raise BrokerFileError(
            path, f"cannot be created ({error.strerror})", "check the rights on its directory"
        ) from error
    # On POSIX closing any descriptor of a file drops all locks the process has on it, those of another thread's
    # connection included. So the one process that made the file keeps this descriptor open.
    if os.name == "nt":
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    # In this order: tables and mark appear in one transaction, so whoever sees tables without the mark sees strangers.
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark != _APPLICATION_ID and (tables or mark):
        raise BrokerFileError(
            path,
            "is the database of another program or version",
            "give the broker a file of its own in the broker URL",
        )
    if _enter_wal(connection) != "wal":
        raise BrokerFileError(path, "cannot keep a write-ahead log", "put the file on a local disk")
    connection.execute("PRAGMA synchronous = NORMAL")
    if mark != _APPLICATION_ID:
        _create_tables(connection)


def _enter_wal(connection: sqlite3.Connection) -> str:
    for _attempt in range(9):
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            # Of two that switch at once SQLite refuses one without waiting; an empty transaction waits for the other.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
    return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])


def _create_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            for statement in _SCHEMA:
                connection.execute(statement)


def _explained(error: sqlite3.Error, path: Path) -> BrokerFileError:
    restart = "stop all workers, move it away with its -wal and -shm files and start again; what is queued in it is lost"
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            reason, advice = "is kept locked by another program", "let that program finish"
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            reason, advice = "is damaged or no SQLite file", restart
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            reason, advice = (
                "cannot be opened for writing",
                "check that it is a file and who may write to it and to its directory",
            )
        case sqlite3.SQLITE_FULL:
            reason, advice = "does not fit on its disk", "make room there"
        case sqlite3.SQLITE_IOERR:
            reason, advice = (
                "could not be read or written",
                "check the disk; it has to be a local one",
            )
        case _:
            reason, advice = f"gave an SQLite error ({error})", restart
    return BrokerFileError(path, reason, advice)


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", errors="replace")


def _file_id(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _path_in(client: Connection) -> Path:
    # After a failover kombu has taken the URL apart itself and holds the path as virtual host.
    url = client.hostname or ""
    parts = urlsplit(url if "://" in url else f"{SCHEME}:///{client.virtual_host}")
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or parts.query or parts.fragment or not path.strip("/"):
        raise ValueError(
            f"a broker URL is {SCHEME}:///relative/path.db or {SCHEME}:////absolute/path.db: "
            "three slashes and a file, no host, no options"
        )
    return Path(path).absolute()


def _read(raw: bytes | None) -> dict[str, Any]:
    try:
        payload = loads(raw or b"")
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ValueError(f"not readable as JSON ({type(error).__name__})") from error
    match payload:
        case {
            "body": str() | bytes() as body,
            "headers": dict(),
            "properties": {"delivery_info": dict()} as properties,
        }:
            _check_body(body, properties.get("body_encoding"))
            _check_headers(payload["headers"])
            return cast("dict[str, Any]", payload)
        case _:
            raise ValueError("no message: body, headers or properties.delivery_info missing")


def _check_body(body: str | bytes, encoding: object) -> None:
    match encoding:
        case None | "utf-8":
            return
        case "base64":
            base64.b64decode(body)
        case _:
            raise ValueError("its body has an unknown encoding")


def _check_headers(headers: dict[str, object]) -> None:
    # A worker ends over a task message without a name or id, and would take the next worker with it.
    if "task" in headers and not (
        isinstance(headers["task"], str) and isinstance(headers.get("id"), str)
    ):
        raise ValueError("no task message: headers.task or headers.id is no text")


def _is_living(owner: str, *, here: str) -> bool:
    process, _, serial = owner.rpartition("/")
    if process == here:
        return serial in _open_serials
    match process.split("/"):
        case [boot, pid, started] if boot == _boot() and pid.isdecimal():
            return _started(int(pid)) == started
        case _:
            return False


@functools.cache
def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else "-"


def _started(pid: int) -> str | None:
    """Return when a process was started, empty if that is not to be known here, None if it does not run.

    Source: proc(5), /proc/pid/stat, fields 3 (state) and 22 (starttime), counted behind the name in brackets.
    """
    if _BOOT_ID.exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat.rpartition(b")")[2].decode("ascii").split()
        return None if state in "ZX" else fields[18]
    psutil = _psutil()
    if psutil is not None:
        try:
            return str(psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None
    return _started_without_a_clock(pid)


def _started_without_a_clock(pid: int) -> str | None:
    # Signal 0 asks on POSIX; on Windows os.kill would end the process instead of asking.
    if os.name == "nt":
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


@functools.cache
def _psutil() -> ModuleType | None:
    try:
        return importlib.import_module("psutil")
    except ImportError:
        return None
