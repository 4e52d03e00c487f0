"""Ending in good order when somebody presses Ctrl-C, or a service manager says so."""

import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType


class Interrupt:
    """A wish to stop, which a signal handler may make at any moment.

    Not a ``threading.Event``: a handler runs in the middle of whatever the main thread does, and if
    that is waiting for the event, its lock may be held by just who is interrupted, for ever. A
    ``SimpleQueue`` may be written to from there (Python's manual, ``queue``).
    """

    def __init__(self) -> None:
        """Nobody wishes anything yet."""
        self._is_set = False
        self._told: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wish it; from a signal handler too."""
        self._is_set = True
        self._told.put(None)

    def is_set(self) -> bool:
        """Whether anybody has."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until somebody does, or the time is over; one thread may wait.

        Units: seconds.
        """
        if not self._is_set:
            with suppress(Empty):
                self._told.get(timeout=timeout)
        return self._is_set


@contextmanager
def until_interrupted() -> Generator[Interrupt]:
    """Set by the first SIGINT or SIGTERM; the second ends the process as usual."""
    ended = Interrupt()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()
        restore()

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    for number in kept:
        signal.signal(number, end)
    try:
        yield ended
    finally:
        restore()
