"""Whose turn it is among tenants: start-time fair queueing, as arithmetic.

Each lane has a virtual time, the seconds of a worker that it was served, divided by its portal's
weight. The lane with the smallest is served next. The *present* is the largest virtual time at
which a slice ever began. A lane that asked for little while others were served is not owed all of
that time: its slice begins at most ``CREDIT_S`` before the present.

From this follows how long a lane waits (``longest_wait_s``). A lane that comes back after
having had nothing to do for a while stands before all that were being served: each other lane is
served at most once before it, whoever floods. A lane that is always busy has its share by weight: while
it waits, another is served at most its own weight times ``CREDIT_S`` and the virtual length of the
waiting lane's last slice, and two slices: the one that it is at, and the one that passes the mark.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing" (SIGCOMM 1996); the credit is ours, because
a lane is served by one worker at a time and cannot always take what it is owed.
"""

CREDIT_S = 30.0
"""How much unused time a lane may have saved up: as long as a slice."""

LEAST_S = 0.01
"""What a slice costs at the least, so that one with nothing to do moves its lane back, too."""


def begin(vtime: float, present: float) -> float:
    """The virtual time at which a slice begins.

    Units: seconds of a worker by weight 1.
    Raises: nothing.
    """
    return max(vtime, present - CREDIT_S)


def advance(seconds: float, *, weight: float, lanes: int = 1) -> float:
    """How far a slice moves its lane back.

    Shape: ``lanes`` of the portal have something to do; together they have its one share.
    Units: ``seconds`` of a worker.
    Raises: nothing.
    """
    return max(seconds, LEAST_S) * max(lanes, 1) / weight


def longest_wait_s(ahead_s: float, *, workers: int, slice_s: float, pump_s: float) -> float:
    """How long a lane that comes back waits at the most until a worker takes it.

    The pump finds it, a worker ends the slice that it is at, and those ahead are served, each once.
    Shape: ``ahead_s`` is the sum of one slice of each lane that is due, or becomes so meanwhile; at
    the most their number times ``slice_s``.
    Units: seconds; ``slice_s`` is the longest slice, with its last request.
    Raises: nothing.
    """
    return pump_s + slice_s + ahead_s / workers
