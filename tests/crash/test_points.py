"""Workers that die at every named point: before, inside and after each transaction, round the socket.

Each point has a portal of its own, so that all leases and quiet periods pass at the same time; all
portals are one sandbox. Whoever comes afterwards finds what the dead have left.
"""

from dataclasses import dataclass
from itertools import product
from threading import Event

from b24sync.world import Step
from tests.crash.conftest import Open
from tests.crash.dying import WITHIN
from tests.crash.place import QUIET_MARGIN_S, SERVER_MAX_S, Place

ROWS = 5
MOMENTS = ("before", WITHIN, "after")
LEASE_S = 0.3 + 0.8
QUIET_S = SERVER_MAX_S + QUIET_MARGIN_S
REFUSING = "http://127.0.0.1:9/rest/1/sandbox-secret/"
ELSEWHERE = {Step.RENEW, Step.RING}
"""Only portals with the tokens of an application know the one, ``test_renewing`` dies there; only
those with several lanes the other: ``test_shards``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a worker dies, and what was left to it.

    ``after``: where another worker of the same portal died before, and how much time has passed.
    ``spoiled``: what is wrong with the portal meanwhile.
    """

    step: Step
    moment: str
    nth: int = 1
    after: tuple[str, str] | None = None
    quiet: bool = False
    spoiled: str = ""

    @property
    def line(self) -> str:
        """How a worker writes it down."""
        return f"{self.step} {self.moment} {self.nth}"


def _at(steps: dict[Step, int], **more: object) -> list[Point]:
    """Every moment of these steps, up to the nth time that each is taken."""
    found: list[Point] = []
    for step, times in steps.items():
        exchanges = step in {Step.SEND, Step.LOOK}
        moments = [m for m in MOMENTS if m != WITHIN or not exchanges]
        for nth, moment in product(range(1, times + 1), moments):
            found.append(Point(step=step, moment=moment, nth=nth, **more))  # type: ignore[arg-type] # the fields of Point
    return found


FRESH = _at(
    {
        Step.WAKE: 1,
        Step.TAKE: 1,
        Step.DECIDE: 1,
        Step.CLAIM: 2,
        Step.GO: 2,
        Step.SEND: 2,
        Step.SETTLE: 2,
        Step.RELEASE: 1,
    }
)
UNREACHED = _at({Step.RETURN: 1}, spoiled="address")
UNUSABLE = _at({Step.PAUSE: 1}, spoiled="secret")
ABANDONED = [
    point
    for after in (("claim", "after"), ("send", "after"))
    for point in _at({Step.RECOVER: 1, Step.SUSPECT: 1}, after=after)
]
CAME_ABOUT, DID_NOT = ("send", "after"), ("send", "before")
DOUBTED = [
    *_at({Step.LOOK: 1, Step.LEARN: 2, Step.DECIDE: 2}, after=CAME_ABOUT, quiet=True),
    Point(step=Step.DECIDE, moment=WITHIN, nth=2, after=DID_NOT, quiet=True),
    Point(step=Step.DECIDE, moment="after", nth=2, after=DID_NOT, quiet=True),
]
POINTS = [*FRESH, *UNREACHED, *UNUSABLE, *ABANDONED, *DOUBTED]


def test_wherever_a_worker_dies_the_others_finish_and_nothing_is_lost_or_doubled(
    opens: Open,
) -> None:
    """Every row ends in one final result, and is on the portal once; and each point was reached."""
    place = opens({"batch_size": 2})
    codes = {f"p{number}": point for number, point in enumerate(POINTS)}
    for code, point in codes.items():
        place.portal(code, webhook_url=REFUSING if point.spoiled == "address" else None)
        place.add(code, ROWS)
        if point.spoiled == "secret":
            place.forget_secret(code)

    place.die({code: (*p.after, 1) for code, p in codes.items() if p.after is not None})
    _die(place, {code: point for code, point in codes.items() if point.after is None})
    for code, point in codes.items():
        if point.spoiled:
            place.correct(code)
    Event().wait(LEASE_S)
    _die(place, {code: p for code, p in codes.items() if p.after is not None and not p.quiet})
    Event().wait(QUIET_S)
    _die(place, {code: point for code, point in codes.items() if point.quiet})
    place.finish()

    account = place.account()
    account.say("named points", points=len(POINTS))
    account.assert_clean()
    place.assert_lanes_free()
    reached = place.nursery.reached
    assert sorted({point.line for point in POINTS} - set(reached)) == []
    assert {point.step for point in POINTS} | ELSEWHERE == set(Step)


def _die(place: Place, codes: dict[str, Point]) -> None:
    place.die({code: (point.step, point.moment, point.nth) for code, point in codes.items()})
