"""A stage: a sandbox, a database, a broker and a user's own processes, all of them real.

Everything is started as a user would start it: commands in a directory of their own that know of
each other by environment variables only. What the portal did is read over its control paths, what
became of the rows from the tables, in plain SQL.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import requests
from cryptography.fernet import Fernet
from sqlalchemy import Engine, text

from b24sync.edge.database import make_engine

Found = dict[str, Any]

SANDBOX = (
    "import json, sys; from b24sync.sandbox import SandboxConfig, serve; "
    "serve(SandboxConfig(**json.loads(sys.argv[1])))"
)
RATE = "100000/100000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A set of servers, and the workers that a user of them may start."""

    backend: str
    broker: str
    workers: tuple[str, ...]
    pool: str


STACKS = {
    "sqlite-embedded": Stack(backend="sqlite", broker="embedded", workers=("one",), pool="prefork"),
    "postgresql-rabbitmq": Stack(
        backend="postgresql", broker="rabbitmq", workers=("one", "two"), pool="prefork"
    ),
    "mariadb-redis": Stack(
        backend="mariadb", broker="redis", workers=("one", "two"), pool="threads"
    ),
}


def wait_until(holds: Callable[[], bool], *, within_s: float, what: Callable[[], str]) -> None:
    """Return as soon as something holds; fail, saying what is the matter, if it does not."""
    deadline = monotonic() + within_s
    while not holds():
        assert monotonic() < deadline, f"not so after {within_s} s: {what()}"
        threading.Event().wait(0.1)


class Clock:
    """The durations of a test's phases, printed as they end."""

    def __init__(self, title: str) -> None:
        """Start."""
        self._title = title
        self._begun_s = monotonic()

    def lap(self, phase: str, rows: int = 0) -> None:
        """End a phase; with rows, also as rows per second."""
        took_s, self._begun_s = monotonic() - self._begun_s, monotonic()
        speed = f", {rows / took_s:.0f} rows/s" if rows else ""
        sys.stdout.write(f"{self._title}: {phase} {took_s:.1f} s{speed}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process under its name, and the file with its output."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def said(self) -> str:
        """The output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run's directory, settings and processes."""

    home: Path
    engine: Engine
    environment: Mapping[str, str] = field(repr=False)
    webhook_url: str = field(repr=False)
    started: list[Started] = field(default_factory=list[Started])

    def command(self, *arguments: str) -> str:
        """Run ``b24sync`` to its end; what it printed."""
        done = subprocess.run(  # noqa: S603 - the arguments are written in these tests
            [*console_script(), *arguments],
            cwd=self.home,
            env=dict(self.environment),
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{arguments[0]}: {done.stdout}{done.stderr}"
        return done.stdout

    def prepare(self) -> None:
        """Migrate the tables and make the portal known, with a rate that is not used up."""
        self.command("db", "upgrade")
        self.command("portal", "add", "default", "--webhook", self.webhook_url, "--rate", RATE)

    def limit_requests(self, longest_s: int) -> None:
        """Say of the portal that it works on a request no longer than so many seconds."""
        self.write(f"UPDATE b24sync_portal SET server_max_s = {longest_s}")  # noqa: S608 - a number

    def hurry(self, quiet_s: int) -> None:
        """What was put off because a look told nothing is looked for again now.

        Units: ``quiet_s`` is the quiet period of these settings, which is never shortened.
        """
        over = f"sending_at + {quiet_s * 1000}"
        self.write(
            f"UPDATE b24sync_batch SET quiet_until = {over} "  # noqa: S608 - numbers
            f"WHERE state = 'doubt' AND quiet_until > {over}"
        )

    def work(self, *names: str, pool: str = "prefork") -> None:
        """Start workers of two slots each, and beat: inside the only worker, or by itself."""
        schedule = ("-s", str(self.home / "schedule"))
        embedded = ("-B", *schedule) if len(names) == 1 else ()
        for name in names:
            self.start_worker(name, *embedded, pool=pool)
        if not embedded:
            self.start_beat()

    def start_beat(self) -> None:
        """Start a beat of its own."""
        self._celery("beat", "beat", "-s", str(self.home / "schedule"))

    def start_worker(self, name: str, *options: str, pool: str) -> None:
        """Start one worker of two slots."""
        queue = self.environment["B24SYNC_QUEUE"]
        named = ("-n", f"{name}-{queue}@%h", "-Q", queue, "-c", "2", "--pool", pool)
        self._celery(name, "worker", "--loglevel", "INFO", *named, *options)

    def wait_empty(self, *, within_s: float) -> None:
        """Wait until the outbox is empty."""
        wait_until(self._is_over, within_s=within_s, what=self.report)

    def stop(self, *, quiet: bool = True) -> None:
        """End the processes as a user would, and see that they had nothing to complain of.

        ``quiet``: not even before they were asked to end.
        """
        for one in reversed(self.started):
            one.process.send_signal(signal.SIGTERM)
        for one in self.started:
            assert ended(one) == 0, f"{one.name}: {one.said[-4000:]}"
            assert not (quiet and "Traceback" in one.said), f"{one.name}: {one.said[-4000:]}"

    def end(self) -> None:
        """End whatever is left of what was started here."""
        for one in self.started:
            end(one)

    def report(self) -> str:
        """What a failing test shows: the rows by state, and the ends of the logs."""
        states = self.rows("SELECT state, count(*) AS n FROM b24sync_outbox GROUP BY state")
        logs = "\n".join(f"--- {one.name}\n{one.said[-1500:]}" for one in self.started)
        return f"{states}\n{logs}"

    def rows(self, statement: str) -> list[Found]:
        """The rows that a statement finds."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement)).mappings()]

    def write(self, statement: str) -> None:
        """Change the tables, as an application would."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def number(self, statement: str) -> int:
        """The only value that a statement finds."""
        with self.engine.connect() as connection:
            return int(connection.execute(text(statement)).scalar_one())

    def portal(self, part: str) -> Any:  # noqa: ANN401 - JSON of any shape
        """What the sandbox says of itself: ``journal``, ``requests`` or ``records/KIND``."""
        answer = requests.get(self._control(part), timeout=30)
        answer.raise_for_status()
        return answer.json()[part.partition("/")[0].replace("journal", "commands")]

    def trouble(self, faults: Sequence[Mapping[str, object]]) -> None:
        """Tell the sandbox what is to go wrong."""
        requests.post(self._control("faults"), json=list(faults), timeout=30).raise_for_status()

    def _control(self, part: str) -> str:
        return f"{self.webhook_url.partition('/rest/')[0]}/sandbox/{part}"

    def _celery(self, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "b24sync", *arguments]
        self.started.append(start(name, command, self.home, self.environment))

    def _is_over(self) -> bool:
        for one in self.started:
            code = one.process.poll()
            assert code is None, f"{one.name} ended with {code}: {one.said[-4000:]}"
            assert "Traceback" not in one.said, f"{one.name}: {one.said[-4000:]}"
        return self.number("SELECT count(*) FROM b24sync_outbox") == 0


def console_script() -> list[str]:
    """The ``b24sync`` command of this environment."""
    installed = Path(sys.executable).with_name("b24sync")
    if installed.is_file():
        return [str(installed)]
    return [sys.executable, "-c", "from b24sync.cli import main; main()"]


def start(name: str, command: Sequence[str], home: Path, environment: Mapping[str, str]) -> Started:
    """Start a command in a process group of its own."""
    path = home / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the arguments are written in these tests
            command,
            cwd=home,
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(name=name, process=process, log=path)


def ended(one: Started) -> int | None:
    """The exit code of a process that was asked to end; of one that hangs, where it does is logged."""
    try:
        return one.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        # Celery's workers write the stacks of their threads then.
        one.process.send_signal(signal.SIGUSR1)
        threading.Event().wait(1.0)
        return None


def end(one: Started) -> None:
    """End whatever is left of a process and of those that it started."""
    try:
        os.killpg(one.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        one.process.wait()


@contextmanager
def sandbox(home: Path, settings: Mapping[str, object]) -> Iterator[str]:
    """A portal in a process of its own; the address of its webhook."""
    command = [sys.executable, "-c", SANDBOX, json.dumps(settings)]
    one = start("sandbox", command, home, os.environ)
    try:
        wait_until(lambda: "\n" in one.said, within_s=20, what=lambda: one.said)
        webhook_url = one.said.splitlines()[0]
        assert webhook_url.startswith("http"), one.said
        yield webhook_url
    finally:
        end(one)


def opened(
    closing: ExitStack,
    home: Path,
    variables: Mapping[str, str],
    of_the_portal: Mapping[str, object],
) -> Stage:
    """A stage with a sandbox of these settings, and variables for the user's processes.

    Shape: ``variables`` name the database, the broker and the queue at least.
    """
    webhook_url = closing.enter_context(sandbox(home, of_the_portal))
    engine = make_engine(variables["B24SYNC_DATABASE_URL"])
    closing.callback(engine.dispose)
    plain = {name: text for name, text in os.environ.items() if not name.startswith("B24SYNC_")}
    stage = Stage(
        home=home,
        engine=engine,
        webhook_url=webhook_url,
        environment=plain
        | {
            "B24SYNC_SECRET_KEY": Fernet.generate_key().decode(),
            "B24SYNC_PUMP_S": "0.25",
            # Full batches from the first on: whoever counts them need not know how size is learned.
            "B24SYNC_BATCH_START": "50",
            "PYTHONUNBUFFERED": "1",
        }
        | dict(variables),
    )
    closing.callback(stage.end)
    return stage
