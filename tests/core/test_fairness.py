"""Whose turn it is among tenants: the laws of the order, on lanes without a database."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core.fairness import CREDIT_S, LEAST_S, advance, begin, longest_wait_s

SLICE_S = 30.0


def test_a_slice_begins_where_its_lane_stands() -> None:
    """Before the present by its own credit at the most, however long it was away."""
    assert begin(90.0, 100.0) == 90.0
    assert begin(120.0, 100.0) == 120.0
    assert begin(3.0, 100.0) == 100.0 - CREDIT_S


def test_a_slice_costs_its_time_by_weight() -> None:
    """Twice the weight, half the cost; two lanes of one portal pay double."""
    assert advance(10.0, weight=1) == 10.0
    assert advance(10.0, weight=2) == 5.0
    assert advance(10.0, weight=2, lanes=2) == 10.0
    assert advance(10.0, weight=1, lanes=0) == 10.0


def test_a_slice_with_nothing_to_do_costs_a_little() -> None:
    """Or its lane would stand first again at once."""
    assert advance(0.0, weight=4) == LEAST_S / 4


def test_the_longest_wait() -> None:
    """Pump, the slice under way, and one slice of each lane ahead, by all workers together."""
    assert longest_wait_s(200.0, workers=4, slice_s=30, pump_s=5) == 5 + 30 + 50


@dataclass(slots=True)
class _Lane:
    """A lane of a queue without a database."""

    weight: float
    slice_s: float
    vtime: float = 0.0
    is_due: bool = True
    is_taken: bool = False
    served_s: float = 0.0
    turns: int = 0


class _Queue:
    """The order of ``edge.taking``, on values."""

    def __init__(self, lanes: Sequence[_Lane]) -> None:
        self.lanes = lanes
        self.present = 0.0

    def take(self) -> _Lane | None:
        """The first that is due and free."""
        free = [lane for lane in self.lanes if lane.is_due and not lane.is_taken]
        if not free:
            return None
        first = min(free, key=lambda lane: lane.vtime)
        first.vtime = begin(first.vtime, self.present)
        self.present = max(self.present, first.vtime)
        first.is_taken, first.turns = True, first.turns + 1
        return first

    def release(self, lane: _Lane) -> None:
        """After its slice."""
        lane.vtime += advance(lane.slice_s, weight=lane.weight)
        lane.served_s += lane.slice_s
        lane.is_taken = False


_lanes = st.lists(
    st.builds(
        _Lane,
        weight=st.floats(0.1, 10),
        slice_s=st.floats(0.05, SLICE_S),
    ),
    min_size=2,
    max_size=8,
)


@given(_lanes)
@settings(max_examples=60)
def test_lanes_that_are_always_busy_share_by_weight(lanes: list[_Lane]) -> None:
    """Between any two, served time by weight differs by a slice of each at the most, at any time."""
    queue = _Queue(lanes)
    for _ in range(200):
        mine = queue.take()
        assert mine is not None
        queue.release(mine)
        for one in lanes:
            for other in lanes:
                apart = one.served_s / one.weight - other.served_s / other.weight
                most = one.slice_s / one.weight + other.slice_s / other.weight
                assert apart <= most + 1e-6


@given(_lanes, st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_one_that_was_idle_waits_for_one_slice_of_each_other(
    lanes: list[_Lane], workers: int, random: Random
) -> None:
    """However many flood and whatever their weights, and however many come back meanwhile."""
    queue = _Queue(lanes)
    idle = lanes[0]
    idle.is_due = False
    at_work = _work(queue, [], workers, random, 400)
    idle.vtime = min(idle.vtime, queue.present - CREDIT_S)
    idle.is_due, begun = True, {id(lane): lane.turns for lane in lanes}
    under_way = {id(lane) for lane in at_work}
    while not idle.is_taken:
        at_work = _work(queue, at_work, workers, random, 1)
        for lane in lanes[1:]:
            # A slice that began before may have left its lane behind the credit of the others.
            assert lane.turns - begun[id(lane)] <= 1 + (id(lane) in under_way)


@given(_lanes, st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_nobody_starves(lanes: list[_Lane], workers: int, random: Random) -> None:
    """While a busy lane waits, another gets its weight times credit and slice, and one slice."""
    queue = _Queue(lanes)
    at_work: list[_Lane] = []
    waits: dict[int, dict[int, float]] = {}
    for _ in range(400):
        at_work = _work(queue, at_work, workers, random, 1)
        for lane in lanes:
            if lane.is_taken or not lane.is_due:
                waits.pop(id(lane), None)
                continue
            since = waits.setdefault(id(lane), {id(other): other.served_s for other in lanes})
            for other in lanes:
                served_s = other.served_s - since[id(other)]
                most = other.weight * (CREDIT_S + lane.slice_s / lane.weight) + 2 * other.slice_s
                assert served_s <= most + 1e-6


def _work(
    queue: _Queue, at_work: list[_Lane], workers: int, random: Random, steps: int
) -> list[_Lane]:
    """Some worker ends its slice, and those that are free take lanes."""
    for _ in range(steps):
        if at_work:
            queue.release(at_work.pop(random.randrange(len(at_work))))
        while len(at_work) < workers and (mine := queue.take()) is not None:
            at_work.append(mine)
    return at_work
