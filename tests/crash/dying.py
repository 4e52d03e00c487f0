"""Workers that end their own process at a named point, and the process that they are forked from.

``main`` reads orders from its standard input, one JSON object a line, and answers each with one::

    {"do": "start", "works": {...}}               ->  {"pid": 4711}
    {"do": "wait", "pid": 4711, "within_s": 2.0}  ->  {"code": -9}; null, it lives

A worker is a process of its own: it is forked before anything is connected, and opens its database
and its sockets itself. What it does is what ``sync_entities`` and ``recover`` do, again and again.
"""

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Connection, event

from b24sync.cli.interrupts import Interrupt
from b24sync.drain import Order, Tally, drain
from b24sync.edge import chores, ledger
from b24sync.edge.database import transact
from b24sync.settings import Settings
from b24sync.world import Moment, Step, World, build
from tests.crash.naive import work_naively

WITHIN = "within"
"""The moment inside a transaction: its statements have run, its COMMIT has not."""

REST_S = 0.02
POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Works:
    """What one worker is told.

    Shape: it ends when it passes the point ``step``, ``moment`` for the ``nth`` time, or at any
    point with the probability ``chance``; ``by`` is the signal. ``once``: one run and no more.
    ``portal``: that one alone. ``reached`` is the file to which the point is written before.
    """

    settings: dict[str, Any] = field(repr=False)
    reached: str
    log: str
    portal: str | None = None
    step: str = ""
    moment: str = ""
    nth: int = 1
    chance: float = 0.0
    seed: int = 0
    by: int = signal.SIGKILL
    once: bool = False
    naive: bool = False


class Fate:
    """Counts the points that a worker passes, and ends it at its own."""

    def __init__(self, works: Works) -> None:
        """Nothing was passed yet."""
        self._works = works
        self._left = works.nth
        self._step: Step | None = None
        self._dice = random.Random(works.seed)  # noqa: S311 - chance, not cryptography

    def told(self, step: Step, moment: Moment) -> None:
        """The world tells of a step."""
        self._step = step if moment is Moment.BEFORE else None
        self._passes(step, moment)

    def commits(self, _connection: Connection) -> None:
        """The engine is about to commit; of transactions outside the steps nothing is asked."""
        if self._step is not None:
            self._passes(self._step, WITHIN)

    def _passes(self, step: Step, moment: str) -> None:
        works = self._works
        if works.chance > 0.0 and self._dice.random() < works.chance:
            self._ends(step, moment)
        if (step, moment) == (works.step, works.moment):
            self._left -= 1
            if self._left == 0:
                self._ends(step, moment)

    def _ends(self, step: Step, moment: str) -> None:
        with Path(self._works.reached).open("a", encoding="utf-8") as file:
            file.write(f"{step} {moment} {self._works.nth}\n")
        os.kill(os.getpid(), self._works.by)


def work(works: Works) -> None:
    """Drain and recover until told to stop, or to the bitter end."""
    stop = Interrupt()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    fate = Fate(works)
    world = build(Settings(**works.settings))
    if works.naive:
        work_naively(world, stop)
        return
    event.listen(world.engine, "commit", fate.commits)
    world = replace(world, telling=fate.told)
    order = Order(portal=works.portal)
    while not stop.is_set():
        done = drain(world, order, stopping=stop.is_set)
        if works.once:
            return
        _recover(world)
        if done == Tally():
            stop.wait(REST_S)


def _recover(world: World) -> None:
    """As the chore of that name does."""

    def recover(connection: Connection, number: int) -> None:
        ledger.recover(connection, number)
        chores.forget_batch(connection, number)

    with world.engine.connect() as connection:
        abandoned = chores.abandoned_batches(connection)
    for number in abandoned:
        transact(world.engine, partial(recover, number=number))


def _born(works: Works) -> NoReturn:
    log = os.open(works.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stands_for in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, stands_for)
    try:
        work(works)
    except BaseException:  # noqa: BLE001 - its end is the exit code, and its words are in the log
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Fork workers and tell of their ends, until the input ends; then end those that are left."""
    alive: set[int] = set()
    for line in sys.stdin:
        told = json.loads(line)
        if told["do"] == "start":
            pid = os.fork()
            if pid == 0:
                _born(Works(**told["works"]))
            alive.add(pid)
            answer: dict[str, int | None] = {"pid": pid}
        else:
            answer = {"code": _code(told["pid"], alive, within_s=told["within_s"])}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _code(pid: int, alive: set[int], *, within_s: float) -> int | None:
    """The exit code of a worker; -9, it was killed."""
    until = time.monotonic() + within_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            alive.discard(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        threading.Event().wait(POLL_S)


if __name__ == "__main__":
    main()
