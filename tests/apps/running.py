"""Processes that a test starts: their surroundings, their output, and their end."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
QUICK = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""What a worker alone in the world need not wait for."""


def wait_until(holds: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Return as soon as something holds; fail if it does not within the deadline."""
    deadline = monotonic() + within_s
    while not holds():
        assert monotonic() < deadline, f"still not so after {within_s} s"
        threading.Event().wait(0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process with its output, which is standard output and error as one."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ends(self, *, within_s: float = 30.0) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(timeout=within_s)

    def says(self, text: str, *, within_s: float = 30.0) -> None:
        """Wait until it has written this; fail with its output if it ends without."""
        wait_until(
            lambda: text in self.output or self.process.poll() is not None, within_s=within_s
        )
        assert text in self.output, self.output

    def stop(self) -> None:
        """Ask the process itself, and none of its children, to end."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all that it started, at once and without a word."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """A directory in which processes are started, with nothing of ours in their environment."""

    home: Path
    started: list[Started] = field(default_factory=list[Started])

    def python(self, *arguments: str, **variables: str) -> Started:
        """Start Python; its output goes to a file of this directory."""
        log = self.home / f"process-{len(self.started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the arguments are written in the tests
                [sys.executable, *arguments],
                cwd=self.home,
                env=_clean() | {"PYTHONPATH": str(ROOT)} | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(Started(process=process, log=log))
        return self.started[-1]

    def celery(self, app: str, *arguments: str, **variables: str) -> Started:
        """Start a celery command of an app."""
        return self.python("-m", "celery", "-A", app, *arguments, **variables)

    def shop(self, config: Mapping[str, object], *arguments: str) -> Started:
        """Start a celery command of the shop, an app with this configuration."""
        return self.celery("tests.apps.shop", *arguments, SHOP_CONFIG=json.dumps(config))

    def worker(self, config: Mapping[str, object], pool: str, *arguments: str) -> Started:
        """Start a worker of the shop and wait until it consumes."""
        name = f"w{len(self.started)}@here"
        options = ("-P", pool, "-c", "2", "-l", "INFO", "-n", name, *QUICK)
        worker = self.shop(config, "worker", *options, *arguments)
        worker.says(f"{name} ready.")
        return worker

    def clear(self) -> None:
        """Kill what is left."""
        for each in self.started:
            each.kill()


def _clean() -> dict[str, str]:
    ours = ("B24SYNC_", "CELERY", "SHOP_", "BROKER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
