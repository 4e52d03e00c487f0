"""Hours of a portal's limits in a moment: nearly all that it allows is used, and nothing more."""

import pytest

from b24sync.core.pacing import Rules
from tests.core.simulated import Site, learner, omniscient

HOUR_S = 3600.0


@pytest.mark.parametrize("seed", range(3))
def test_methods_that_use_up_their_time_are_called_nearly_as_much_as_they_may_be(seed: int) -> None:
    """Six commands of a second for each of a tenth: nineteen twentieths of what is possible."""
    site = Site(
        costs={
            "crm.item.add": lambda dice: dice.uniform(0.5, 3.0),
            "crm.item.update": lambda dice: dice.uniform(0.1, 0.4),
            "tasks.task.add": lambda dice: dice.expovariate(1.0),
        },
        parallel=True,
        seed=seed,
    )

    best, ours = omniscient(site, HOUR_S), learner(site, HOUR_S)

    for method, done in best.done.items():
        assert ours.done[method] >= 0.95 * done, method
    assert not [at for at in ours.refused if at > 600]


def test_a_portal_with_a_lower_limit_than_was_set_is_learned() -> None:
    """It refuses at 420 seconds, of which we are told nothing; it does in three requests, then never."""
    costs = {"m": lambda dice: dice.uniform(0.5, 3.0), "n": lambda dice: dice.uniform(0.5, 1.0)}
    site = Site(costs=costs, rules=Rules(method_s=420.0), parallel=True)

    best, ours = omniscient(site, HOUR_S), learner(site, HOUR_S, rules=Rules(method_s=480.0))

    assert ours.commands >= 0.95 * best.commands
    assert len(set(ours.refused)) <= 3
    assert max(ours.refused) < 2 * 600


@pytest.mark.parametrize("seed", range(3))
def test_no_request_is_cut_once_costs_are_known(seed: int) -> None:
    """Adds of 0.2 to 6 seconds each: a cut at the beginning is the last."""
    site = Site(
        costs={"crm.item.add": lambda dice: dice.uniform(0.2, 6.0)},
        rules=Rules(method_s=None),
        seed=seed,
    )

    ours = learner(site, 2 * HOUR_S)

    assert not [at for at in ours.cuts if at > 120]
    assert ours.commands >= 0.9 * 2 * HOUR_S / 3.1


def test_a_fast_portal_is_sent_full_requests_from_the_second_on() -> None:
    """Ten, and then fifty; and hardly anything is written down."""
    site = Site(costs={"m": lambda dice: dice.uniform(0.005, 0.02)}, gap_s=0.5)

    ours = learner(site, 60)

    assert ours.commands >= 50 * (ours.requests - 1) + 10
    assert ours.writes <= 1 + 1 + ours.requests * 0.65 / 9.6


def test_a_portal_that_slows_down_is_sent_smaller_requests_after_one_cut() -> None:
    """Known as fast, it takes two seconds for each command from one day to the next."""
    site = Site(costs={"m": lambda dice: dice.uniform(1.5, 2.5)}, rules=Rules(method_s=None))

    ours = learner(site, HOUR_S, known_s={"m": 0.01})

    assert len(ours.cuts) == 1
    assert ours.commands >= 0.9 * HOUR_S / 2
