"""A signal may come at any moment, in the middle of waiting for it above all."""

import signal
import threading
from time import monotonic

from b24sync.cli.interrupts import Interrupt, until_interrupted


def test_signals_that_rain_on_a_waiting_thread_do_not_hang_it() -> None:
    """Each comes at another place of the wait; with an event's lock this stands still for ever."""
    waits = 0
    current = [Interrupt()]
    before = signal.signal(signal.SIGALRM, lambda _number, _frame: current[0].set())
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.00005)
    try:
        until_s = monotonic() + 0.5
        while monotonic() < until_s:
            current[0] = Interrupt()
            current[0].wait(0.0001)
            waits += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert waits > 100


def test_a_wait_ends_when_somebody_wishes_it_and_stays_ended() -> None:
    """Whoever comes later does not wait at all."""
    stop = Interrupt()
    threading.Timer(0.05, stop.set).start()

    assert stop.wait(10.0)
    assert stop.wait(10.0)
    assert stop.is_set()


def test_a_wait_ends_when_its_time_is_over() -> None:
    """Nobody has wished anything."""
    assert not Interrupt().wait(0.01)


def test_the_first_signal_asks_and_the_handlers_of_before_are_back_for_the_second() -> None:
    """Who presses Ctrl-C twice means it."""
    before = signal.getsignal(signal.SIGTERM)

    with until_interrupted() as stopped:
        signal.raise_signal(signal.SIGTERM)
        assert stopped.is_set()
        assert signal.getsignal(signal.SIGTERM) is before
