"""Three workers, killed at any moment and at any point, and a portal of which answers are lost.

The portal goes on working when its client is dead. Of its answers one in twelve comes too late, or
breaks off, or never comes; behind some of them the work was done, behind others it is done after
the client has given up, behind others never.

``pytest -m soak -n 0 -s tests/crash/test_random_kills.py`` repeats the long run, over 100,000 adds on
three databases, and prints what it counted; without ``-m soak`` a short one. Both show what the
same portal holds when a request without an answer is simply sent again.
"""

import random
import signal
from collections.abc import Iterator
from threading import Event
from time import monotonic

import pytest

from tests.crash.conftest import Open
from tests.crash.nursery import KILLED
from tests.crash.place import Place

WORKERS = 3
PORTALS = 8
BATCH_SIZE = 10
LATENCY_S = 0.03
TROUBLE = 0.08
SERVER_MAX_S = 2
LATE_S = 1.9
"""Later than a client waits and than its lease lasts, and within the portal's own bound."""

LATE: dict[str, object] = {"action": "slow", "executed": False, "delay_s": LATE_S}
"""The work is done after its client has given up."""

LOST: tuple[dict[str, object], ...] = (
    *[LATE] * 4,
    {"action": "slow", "executed": True, "delay_s": LATE_S},
    {"action": "reset", "executed": True},
    {"action": "reset", "executed": False},
    {"action": "html", "status": 502, "executed": True},
    {"action": "html", "status": 504, "executed": False},
    {"action": "cut_body", "executed": True},
    {"action": "reset", "executed": True, "commands": BATCH_SIZE // 2},
)
"""How an answer is lost."""

QUIET_MARGIN_S = 2.0
"""Longer than elsewhere: a processor that everybody wants may keep a worker waiting, too."""

SHORT = (1_600, 24)
LONG = (35_000, 300)


@pytest.mark.parametrize(
    ("rows", "kills"),
    [
        pytest.param(*SHORT, id="short"),
        pytest.param(*LONG, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
def test_killed_workers_lose_nothing_and_make_nothing_twice(
    opens: Open, rows: int, kills: int
) -> None:
    """Every row ends by itself, in one final result, and is on the portal once."""
    place = _opened(opens, rows)

    ended = _kill(place, kills, chance=0.002, within_s=40.0 + rows / 50)

    account = place.account()
    account.say(f"killed, {place.engine.dialect.name}", kills=ended, requests=len(place.requests()))
    account.assert_clean()
    place.assert_lanes_free()
    assert ended >= kills
    assert account.looked_up > 0


@pytest.mark.parametrize(
    ("rows", "kills"),
    [
        pytest.param(400, 6, id="short"),
        pytest.param(4_000, 60, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
def test_workers_that_send_again_what_was_not_answered_make_records_twice(
    opens: Open, rows: int, kills: int
) -> None:
    """The same house with a lease and a retry only: the harness sees the duplicates that it makes."""
    place = _opened(opens, rows)

    ended = _kill(place, kills, naive=True, within_s=40.0 + rows / 50)

    account = place.account()
    account.say(f"naive, {place.engine.dialect.name}", kills=ended, copies=account.copies)
    assert account.doubled > 0
    assert (account.unended, account.lost) == (0, 0)


def _opened(opens: Open, rows: int) -> Place:
    """A portal that is known by several names, each with its part of the rows."""
    place = opens({"batch_size": BATCH_SIZE, "quiet_margin_s": QUIET_MARGIN_S}, latency_s=LATENCY_S)
    place.server_max_s, place.quiet_margin_s = SERVER_MAX_S, QUIET_MARGIN_S
    for number in range(PORTALS):
        place.portal(f"p{number}")
        place.add(f"p{number}", rows // PORTALS)
    place.trouble(_troubles(random.Random(rows), rows))  # noqa: S311 - chance, not cryptography
    return place


def _troubles(dice: random.Random, rows: int) -> Iterator[dict[str, object]]:
    """One request in twelve, at any place, meets one of the losses."""
    place = 0
    while (place := place + 1 + int(dice.expovariate(TROUBLE))) < 2 * rows // BATCH_SIZE:
        yield {**dice.choice(LOST), "skip": place}


def _kill(
    place: Place,
    kills: int,
    *,
    within_s: float,
    naive: bool = False,
    chance: float = 0.0,
) -> int:
    """Kill workers at random until there were so many kills, let the last of them finish.

    ``chance``: with which a worker kills itself at each point that it passes. The number of kills.
    """
    dice = random.Random(kills)  # noqa: S311 - chance, not cryptography
    ended = 0

    def born() -> int:
        odds = chance if ended < kills else 0.0
        return place.nursery.start(seed=dice.randrange(2**32), chance=odds, naive=naive)

    workers = [born() for _ in range(WORKERS)]
    deadline = monotonic() + within_s
    while ended < kills or place.number() > 0:
        assert monotonic() < deadline, place.report()
        Event().wait(dice.uniform(0.05, 0.35))
        place.hurry()
        if ended < kills:
            victim = dice.choice(workers)
            place.nursery.tell(victim, signal.SIGKILL)
            # Waited for: else it may be found dead when the last ones are asked to go.
            assert place.nursery.ended(victim) == KILLED
            workers.remove(victim)
            ended += 1
            workers.append(born())
        for worker in [worker for worker in workers if place.nursery.died(worker)]:
            workers.remove(worker)
            ended += 1
            workers.append(born())
    place.stop(workers)
    return ended
