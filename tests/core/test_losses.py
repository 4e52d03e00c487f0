"""Rows whose requests were lost travel in ever smaller company, and apart from the others."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.losses import ALONE, MOST_LOSSES, SUSPECT, complaint, fitting, room
from b24sync.core.model import Operation, Row

COUNTS = st.lists(st.integers(0, 12), max_size=60)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [(0, 50), (1, 50), (2, 25), (3, 12), (4, 6), (5, 3), (6, 1), (7, 1), (100, 1)],
)
def test_from_the_second_loss_on_the_company_is_halved(losses: int, expected: int) -> None:
    """One loss may happen to anybody; five halvings of fifty name the row."""
    assert room(losses, 50) == expected


def test_a_small_batch_is_never_halved_to_nothing() -> None:
    """Whoever sends three at once still sends one."""
    assert [room(losses, 3) for losses in range(7)] == [3, 3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("losses", "there", "expected"),
    [
        pytest.param([0, 1, 0], [], (0, 1, 2), id="without suspicion all go"),
        pytest.param([0, 2, 1, 5], [], (0, 2), id="suspects stay behind"),
        pytest.param([3, 0, 3, 2], [], (0, 2, 3), id="suspects keep to themselves"),
        pytest.param([6, 6, 0], [], (0,), id="alone is alone"),
        pytest.param([2, 6, 2], [], (0, 2), id="one that must be alone does not join"),
        pytest.param([0], [2], (), id="nobody joins suspects"),
        pytest.param([2], [1], (), id="no suspect joins the others"),
        pytest.param([9, 0, 12, 6], [0], (0, 1, 2), id="those given up travel with nobody"),
        pytest.param([], [], (), id="none"),
    ],
)
def test_who_may_travel_together(
    losses: list[int], there: list[int], expected: tuple[int, ...]
) -> None:
    """Else one bad row would delay fifty good ones again and again."""
    assert fitting(losses, there, size=50) == expected


def test_in_order_the_first_that_may_not_go_ends_it() -> None:
    """In the mode ``strict`` nothing is passed over."""
    assert fitting([0, 0, 2, 0], [], size=50, in_order=True) == (0, 1)


@given(losses=COUNTS, there=COUNTS, size=st.integers(1, 50))
def test_of_suspects_never_more_go_than_the_most_suspect_allows(
    losses: list[int], there: list[int], size: int
) -> None:
    """Whatever was there before, and in whatever order they come."""
    taken = [losses[place] for place in fitting(losses, there, size=size)]
    travelling = [lost for lost in taken if lost < MOST_LOSSES]

    if travelling:
        assert len({lost >= SUSPECT for lost in travelling}) == 1
    if travelling and travelling[0] >= SUSPECT:
        assert len(there) + len(travelling) <= room(max(travelling), size)


@given(losses=COUNTS.filter(bool), size=st.integers(1, 50))
def test_somebody_always_goes(losses: list[int], size: int) -> None:
    """However often rows were lost, the first of them is sent or given up."""
    assert fitting(losses, [], size=size)[0] == 0


def test_a_row_stands_alone_before_it_is_given_up() -> None:
    """And is tried alone more than once: a worker may die by chance too."""
    assert MOST_LOSSES - ALONE == 3
    assert all(more >= less for more, less in pairwise(room(n, 50) for n in range(12)))


def test_a_row_that_is_given_up_says_why() -> None:
    """Whoever finds it must know that it may have been applied."""
    row = Row(
        id=7,
        portal="p",
        lane=0,
        kind="contact",
        key="c-1",
        operation=Operation.UPDATE,
        fields={},
        params=None,
        losses=9,
        last_error="no answer: ReadTimeout",
    )

    assert complaint(row) == (
        "9 times a request with it was lost, at the end with it alone; the last time: no "
        "answer: ReadTimeout. It is not known to have been applied: look at the record before you "
        "replay it"
    )
