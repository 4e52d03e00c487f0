"""What benchmarks stand on: databases of their own, clocks, counters, and the name of the machine."""

import gc
import os
import platform
import socket
import sqlite3
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter, process_time, thread_time

from rich.console import Console
from sqlalchemy import Engine, event, make_url, text

from b24sync.edge import schema
from b24sync.edge.database import make_engine
from b24sync.world import Moment, Step
from tests.conftest import MARIADB, POSTGRESQL

SERVERS = {"postgresql": POSTGRESQL, "mariadb": MARIADB}
NAMES = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
PACKAGES = ("sqlalchemy", "psycopg", "PyMySQL", "requests", "fast-bitrix24", "b24pysdk")


@contextmanager
def database(backend: str, *, name: str | None = None, keep: bool = False) -> Iterator[str]:
    """The address of a database with our tables; with ``keep`` it stays, and may be there already.

    Servers are found as the tests find them: by the variables that ``tests.conftest`` names.
    """
    name = name or f"b24sync_benchmark_{os.getpid()}"
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as home:
            yield _migrated(f"sqlite:///{Path(home) / 'benchmark.db'}")
        return
    variable, default = SERVERS[backend]
    address = make_url(os.environ.get(variable, default))
    maintenance = make_engine(address.render_as_string(hide_password=False)).execution_options(
        isolation_level="AUTOCOMMIT"
    )
    url = address.set(database=name).render_as_string(hide_password=False)
    with maintenance.connect() as connection:
        if not (keep and _is_there(url)):
            connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield _migrated(url)
    finally:
        if not keep:
            force = " WITH (FORCE)" if backend == "postgresql" else ""
            with maintenance.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name}{force}"))
        maintenance.dispose()


def _is_there(url: str) -> bool:
    engine = make_engine(url)
    try:
        engine.connect().close()
    except Exception:  # noqa: BLE001 - each driver has its own; what is wrong shows when it is made
        return False
    finally:
        engine.dispose()
    return True


def _migrated(url: str) -> str:
    engine = make_engine(url)
    schema.upgrade(engine)
    engine.dispose()
    return url


def tidy(engine: Engine) -> None:
    """What a database does by itself now and then is done now, and not while a clock runs."""
    gc.collect()
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def machine(urls: Mapping[str, str]) -> dict[str, str]:
    """On what is measured, and with which versions."""
    told = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }
    for backend, url in urls.items():
        if backend != "sqlite":
            engine = make_engine(url)
            with engine.connect() as connection:
                said = str(connection.execute(text("SELECT version()")).scalar_one())
            told[NAMES[backend]] = said.removeprefix("PostgreSQL ").split(" ")[0]
            engine.dispose()
    for package in PACKAGES:
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            told[package] = "not installed"
    return told


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a piece of work took, in seconds."""

    wall: float
    cpu: float


def measured(work: Callable[[], object]) -> Reading:
    """Do it once; processor time is that of the whole process, with all its threads."""
    gc.collect()
    wall, cpu = perf_counter(), process_time()
    work()
    return Reading(wall=perf_counter() - wall, cpu=process_time() - cpu)


def shown() -> Console:
    """Where tables are printed; a file is as wide as they are."""
    console = Console()
    return console if console.is_terminal else Console(width=126)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


@dataclass(slots=True)
class Stage:
    """What one stage of a batch took in all, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0
    driver_cpu: float = 0.0
    statements: int = 0
    transactions: int = 0


@dataclass(slots=True)
class Stages:
    """Listens to a worker and to its engine, and tells its stages apart.

    ``telling`` is for the ``World``. What is done between two steps counts for the stage ``between``,
    named after the step that comes next; ``each`` keeps the seconds of every single step.
    """

    names: Mapping[Step, str]
    between: Mapping[Step, str]
    rest: str
    stages: dict[str, Stage] = field(default_factory=dict[str, Stage])
    each: dict[Step, list[float]] = field(default_factory=dict[Step, list[float]])
    _mark: tuple[float, float] | None = None
    _driver: float = 0.0
    _statements: int = 0
    _transactions: int = 0

    def begin(self) -> None:
        """The clock runs from here."""
        self._mark = (perf_counter(), thread_time())

    def telling(self, step: Step, moment: Moment) -> None:
        """A step begins or ends."""
        if moment is Moment.BEFORE:
            self._close(self.between.get(step, self.rest))
            return
        began = self._mark
        self._close(self.names.get(step, self.rest))
        if began is not None and self._mark is not None:
            self.each.setdefault(step, []).append(self._mark[0] - began[0])

    def end(self) -> None:
        """What came after the last step is counted too."""
        self._close(self.rest)

    def _close(self, name: str) -> None:
        now = (perf_counter(), thread_time())
        mark, self._mark = self._mark or now, now
        stage = self.stages.setdefault(name, Stage())
        stage.wall += now[0] - mark[0]
        stage.cpu += now[1] - mark[1]
        stage.driver_cpu += self._driver
        stage.statements += self._statements
        stage.transactions += self._transactions
        self._driver, self._statements, self._transactions = 0.0, 0, 0

    @contextmanager
    def listening(self, engine: Engine) -> Iterator[None]:
        """Count the statements of an engine."""
        began = 0.0

        def before(*_args: object) -> None:
            nonlocal began
            self._statements += 1
            began = thread_time()

        def after(*_args: object) -> None:
            self._driver += thread_time() - began

        def commit(_connection: object) -> None:
            self._transactions += 1

        listeners = (
            ("before_cursor_execute", before),
            ("after_cursor_execute", after),
            ("commit", commit),
        )
        for name, listener in listeners:
            event.listen(engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners:
                event.remove(engine, name, listener)


class Relay:
    """A wire to a database's server that counts how often somebody waits for an answer."""

    def __init__(self, url: str) -> None:
        """Nothing is carried yet."""
        self.trips = 0
        self._there = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        """The address of the same database, over this wire."""
        port = self._listener.getsockname()[1]
        there = self._there.set(host="127.0.0.1", port=port)
        return there.render_as_string(hide_password=False)

    @contextmanager
    def running(self) -> Iterator["Relay"]:
        """Carry until the block ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        with closing(self._listener):
            yield self

    def _listen(self) -> None:
        port = self._there.port or (5432 if "postgresql" in self._there.drivername else 3306)
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._there.host or "127.0.0.1", port))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Both ways; a question that follows an answer is a new trip."""
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_asked = threading.Event()

        def back() -> None:
            while data := _received(server):
                is_asked.clear()
                client.sendall(data)
            client.close()

        threading.Thread(target=back, daemon=True).start()
        while data := _received(client):
            if not is_asked.is_set():
                is_asked.set()
                self.trips += 1
            server.sendall(data)
        server.close()


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(256 * 1024)
    except OSError:
        return b""
