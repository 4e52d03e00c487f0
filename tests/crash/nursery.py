"""Where workers are born that die at a named point, seen from a test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.dying import Works

ROOT = Path(__file__).parents[2]
KILLED = -9


@dataclass(slots=True)
class Nursery:
    """Starts workers as processes of their own and tells how they ended."""

    home: Path
    settings: Mapping[str, object] = field(repr=False)
    process: "subprocess.Popen[str]" = field(repr=False)

    def start(self, **works: Any) -> int:  # noqa: ANN401 - the fields of Works
        """Start a worker; its process id."""
        told = Works(
            settings=dict(self.settings),
            reached=str(self.home / "reached.txt"),
            log=str(self.home / "workers.log"),
            **works,
        )
        return int(self._ask({"do": "start", "works": asdict(told)})["pid"])

    def ended(self, pid: int, *, within_s: float = 20.0) -> int:
        """Wait for the end of a worker; its exit code."""
        code: int | None = self._ask({"do": "wait", "pid": pid, "within_s": within_s})["code"]
        assert code is not None, f"{pid} has not ended: {self.said[-4000:]}"
        return code

    def tell(self, pid: int, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a worker a signal; by default, to stop when it has finished its batch."""
        os.kill(pid, number)

    def died(self, pid: int) -> bool:
        """Whether a worker has ended; asked no more of one that has. Only a signal may end it."""
        code = self._ask({"do": "wait", "pid": pid, "within_s": 0.0})["code"]
        assert code in {None, KILLED}, self.said[-4000:]
        return code is not None

    @property
    def said(self) -> str:
        """What the workers complained of."""
        log = self.home / "workers.log"
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    @property
    def reached(self) -> list[str]:
        """The points at which workers ended, in their order."""
        file = self.home / "reached.txt"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def _ask(self, order: Mapping[str, object]) -> dict[str, Any]:
        talk = self.process
        assert talk.stdin is not None
        assert talk.stdout is not None
        talk.stdin.write(json.dumps(order) + "\n")
        talk.stdin.flush()
        answer: dict[str, Any] = json.loads(talk.stdout.readline())
        return answer


@contextmanager
def nursery(home: Path, settings: Mapping[str, object]) -> Iterator[Nursery]:
    """A process to fork workers from, with these settings of the package."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.dying"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield Nursery(home=home, settings=settings, process=process)
    finally:
        process.communicate(timeout=30)
