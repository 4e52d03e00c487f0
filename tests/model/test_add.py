"""One add through everything that can happen to it: every state, and what each rule is there for."""

import re
from collections import Counter
from importlib import import_module

import pytest

from b24sync.core.lifecycle import BATCH_MOVES, ROW_MOVES, RowEvent
from b24sync.core.model import RowState
from tests.model.exploring import Explored, explore
from tests.model.protocol import STANDS_FOR, Bounds, Fence, Model, Rules, State, is_at_rest

NOT_OF_AN_ADD = {
    (RowState.READY, RowEvent.PARK): "an earlier row of its entity",
    (RowState.PARKED, RowEvent.CLAIM): "the same",
    (RowState.PARKED, RowEvent.RELEASE): "the same",
    (RowState.PARKED, RowEvent.CLOSE): "the same",
    (RowState.BATCHED, RowEvent.PARK): "merged rows that are parted",
    (RowState.DOUBT, RowEvent.PARK): "the same",
    (RowState.READY, RowEvent.HOLD): "a parent without an id",
    (RowState.HELD, RowEvent.RELEASE): "the same, or a person",
    (RowState.HELD, RowEvent.CLOSE): "a person",
    (RowState.READY, RowEvent.REQUEUE): "what is only put off",
    (RowState.BATCHED, RowEvent.STOP): "the mode strict",
    (RowState.DOUBT, RowEvent.STOP): "no marker to look for",
}
"""Moves of which one add with a marker, alone and in a lane that goes on, knows nothing."""


def is_gone(state: State) -> bool:
    """Whether the row has its ending."""
    return state.row.state is None


def bookkeeping(state: State) -> str | None:
    """One final result exactly when the row is gone, and a link to a record that there is."""
    if state.results != is_gone(state):
        return f"{state.results} final results, and the row is {state.row.state or 'gone'}"
    if state.link > state.records:
        return f"linked to record {state.link} of {state.records}"
    if is_gone(state) and not state.link and not state.cancelled:
        return "finished without a record"
    return None


def at_most_one(state: State) -> str | None:
    """Never twice."""
    return f"{state.records} records" if state.records > 1 else None


def lawful(state: State) -> str | None:
    """Everything that is promised of an add."""
    if is_gone(state) and not state.link and state.records:
        return "cancelled, although it was made"
    if state.dropped:
        return "a true answer thrown away"
    return at_most_one(state) or bookkeeping(state)


def checked(bounds: Bounds, *, at_least: int, rules: Rules | None = None) -> Explored:
    """Explore the protocol to its end: every law holds, and from everywhere there is an ending."""
    found = explore(Model(rules or Rules(), bounds), lawful)
    assert found.wrong is None, found.wrong
    stuck = found.stuck(is_gone)
    assert not stuck, f"no way out\n{found.way_to(stuck[0])}"
    assert len(found.states) >= at_least
    return found


def test_an_add_takes_effect_once_whatever_happens() -> None:
    """Two workers, kills, leases that lapse early, lost requests and answers: one record, one result."""
    checked(Bounds(kills=2, lapses=2), at_least=15_000)
    checked(Bounds(kills=3, lapses=3), at_least=25_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_add_takes_effect_once_whatever_happens_often() -> None:
    """The same, for more of it."""
    checked(Bounds(kills=8, lapses=8), at_least=100_000)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(Rules(go_by_state=False), id="the epoch alone"),
        pytest.param(Rules(go_by_epoch=False), id="the state alone"),
    ],
)
def test_either_guard_of_the_last_step_would_do(rules: Rules) -> None:
    """Who takes a lane raises its epoch before he gives its batch back: each guard tells of both."""
    checked(Bounds(), at_least=15_000, rules=rules)


def test_the_model_uses_every_move_that_concerns_an_add() -> None:
    """And no other; what is left is left for a reason."""
    model = Model(Rules(), Bounds())

    explore(model, lawful)

    assert model.used == {*ROW_MOVES, *BATCH_MOVES} - NOT_OF_AN_ADD.keys()
    assert ROW_MOVES.keys() >= NOT_OF_AN_ADD.keys()


def test_every_step_of_a_worker_stands_for_a_function_of_the_package() -> None:
    """Each is made somewhere, and what it stands for is there."""
    words = explore(Model(Rules(), Bounds(kills=0, lapses=1, freezes=1)), bookkeeping).words

    made = {found[1] for step in words if (found := re.fullmatch(r"[AB] (.+)", step))}
    assert made - {"is killed"} == STANDS_FOR.keys() - {"audits the marker"}
    for place in STANDS_FOR.values():
        assert _is_there(place), place


def _is_there(place: str) -> bool:
    folder, module, *names = place.split(".")
    found: object = import_module(f"b24sync.{folder}.{module}")
    for name in names:
        found = getattr(found, name, None)
    return found is not None


def _comes_to(found: Explored, complaint: str, *steps: str) -> None:
    """The shortest way to what is wrong leads through these steps, in this order."""
    assert found.wrong is not None
    first, *way = found.wrong.splitlines()
    assert first == complaint, found.wrong
    rest = iter(way)
    for step in steps:
        assert any(step in line for line in rest), f"{step!r} is not on the way\n{found.wrong}"


def test_to_try_again_after_a_timeout_makes_two_records() -> None:
    """What most do: no answer is taken for a failure, and the first request was executed."""
    found = explore(Model(Rules(doubts=False), Bounds()), at_most_one)

    _comes_to(
        found,
        "2 records",
        "gives the answer up",
        "claims the row",
        "the portal executes batch",
        "the portal executes batch",
    )


def test_to_look_at_once_makes_two_records() -> None:
    """The request was still under way when nothing was found."""
    found = explore(Model(Rules(quiet=False), Bounds()), at_most_one)

    _comes_to(
        found,
        "2 records",
        "gives the answer up",
        "looks",
        "reconciles",
        "claims the row",
        "the portal executes batch 1",
        "the portal executes batch 2",
    )


def test_to_send_without_asking_whether_it_is_still_ours_makes_two_records() -> None:
    """A sleeper sends a batch that was given back, and whose row is on its way in another one."""
    found = explore(Model(Rules(go_by_epoch=False, go_by_state=False), Bounds()), at_most_one)

    _comes_to(
        found,
        "2 records",
        "the lease lapses early",
        "takes the lane",
        "deals with the open batch",
        "goes",
        "writes to the socket",
    )


def test_a_lane_as_the_fence_of_answers_throws_true_ones_away() -> None:
    """No second record: but a row in doubt although it is known, or in a batch that nobody closes."""
    by_lane = Rules(fence=Fence.LANE)

    found = explore(Model(by_lane, Bounds()), lawful)
    whole = explore(Model(by_lane, Bounds(kills=1, lapses=1)), at_most_one)

    _comes_to(
        found,
        "a true answer thrown away",
        "reads the answer",
        "the lease lapses early",
        "takes the lane",
        "throws the answer away",
    )
    assert whole.wrong is None, whole.wrong
    # Who throws it away says that its batch is done with, and the next owner dies before he looks.
    way = whole.way_to(whole.stuck(is_gone)[0])
    assert "throws the answer away" in way, way
    assert "is killed" in way, way


def test_without_a_fence_a_batch_is_closed_by_two() -> None:
    """The table of moves itself knows no such move."""
    found = explore(Model(Rules(fence=Fence.NONE), Bounds()), lawful)

    _comes_to(
        found,
        "no move of a batch: reconciled settle",
        "reads the answer",
        "the lease lapses early",
        "deals with the open batch",
        "reconciles",
    )


def test_a_batch_that_nobody_deals_with_has_no_way_out() -> None:
    """What a worker leaves behind must be found: else its row waits for ever."""
    found = explore(Model(Rules(recovers=False), Bounds()), lawful)

    assert found.wrong is None, found.wrong
    assert found.stuck(is_gone)


def _reports(found: Explored) -> Counter[str]:
    """Who tells of second records first, over all states in which nothing more happens."""
    seen: Counter[str] = Counter()
    for state in found.states:
        others = set(range(1, state.records + 1)) - {state.link}
        if not is_at_rest(state) or not state.link or not others:
            continue
        told = {record for record, _ in state.reported}
        # An audit is made later and finds every one.
        seen.update(["nobody yet"] if told < others else {who for _, who in state.reported})
    return seen


@pytest.mark.parametrize("freezes", [1, 2])
def test_a_process_that_sleeps_before_the_socket_may_make_one_more_and_it_is_told(
    freezes: int,
) -> None:
    """What no client can prevent: but as many as slept, and somebody always hears of it."""
    found = explore(
        Model(Rules(), Bounds(kills=2 - freezes, lapses=1, freezes=freezes)), bookkeeping
    )

    assert found.wrong is None, found.wrong
    assert not found.stuck(is_gone)
    assert max(state.records for state in found.states) == 1 + freezes
    reports = _reports(found)
    assert reports.keys() == {"late answer", "look-up", "audit", "nobody yet"}
    untold = [place for place, state in enumerate(found.states) if _is_untold(state)]
    leads_on = found.stuck(lambda state: not _is_untold(state))
    assert untold
    assert not leads_on, f"nobody is told\n{found.way_to(leads_on[0])}"
    # One case nobody can tell of: the row was cancelled, its sender woke, sent, and died unheard.
    assert any(is_at_rest(state) and state.records and not state.link for state in found.states)


def _is_untold(state: State) -> bool:
    """Whether there is a second record that nobody was told of."""
    others = set(range(1, state.records + 1)) - {state.link}
    return bool(state.link) and not others <= {record for record, _ in state.reported}


def test_a_lane_as_the_fence_leaves_second_records_to_the_audit() -> None:
    """An answer that comes late tells of them, if it is listened to."""
    bounds = Bounds(kills=0, lapses=1, freezes=1)

    by_batch = _reports(explore(Model(Rules(), bounds), bookkeeping))
    by_lane = _reports(explore(Model(Rules(fence=Fence.LANE), bounds), bookkeeping))

    assert by_batch["late answer"] > by_lane["late answer"]
