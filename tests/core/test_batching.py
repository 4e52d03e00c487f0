"""Commands become one batch: in order, none lost, none twice, and never more than fifty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.batching import compose, label
from b24sync.core.model import Batch, Command, Operation


def command(number: int, *, query: str = "id=1", alone: bool = False) -> Command:
    """Make a command that is told apart by its row."""
    return Command(
        row_ids=(number,),
        kind="contact",
        key=f"c-{number}",
        operation=Operation.UPDATE,
        method="crm.item.update",
        query=query,
        alone=alone,
    )


def numbers(commands: tuple[Command, ...]) -> list[int]:
    """Name commands by their rows."""
    return [each.row_ids[0] for each in commands]


commands = st.lists(
    st.tuples(st.integers(min_value=0, max_value=200), st.booleans()), min_size=1, max_size=120
).map(
    lambda shapes: [
        command(number, query="q" * size, alone=alone)
        for number, (size, alone) in enumerate(shapes)
    ]
)


def test_few_commands_are_one_batch() -> None:
    """All travel, labelled by position, without halt, and nothing is left."""
    few = [command(1), command(2), command(3)]

    batch, rest = compose(few)

    assert batch == Batch(labels=("c0", "c1", "c2"), commands=tuple(few), halt=False, single=False)
    assert rest == ()


def test_the_fifty_first_waits_for_the_next_batch() -> None:
    """A portal takes fifty commands in a request."""
    many = [command(number) for number in range(51)]

    batch, rest = compose(many)

    assert numbers(batch.commands) == list(range(50))
    assert numbers(rest) == [50]


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        pytest.param(1, 1, id="one"),
        pytest.param(20, 20, id="fewer than the portal takes"),
        pytest.param(50, 50, id="as many as the portal takes"),
        pytest.param(1000, 50, id="more than the portal takes"),
        pytest.param(0, 1, id="none"),
        pytest.param(-1, 1, id="less than none"),
    ],
)
def test_the_bound_is_kept_within_what_a_portal_takes(wanted: int, taken: int) -> None:
    """No setting makes a batch empty or longer than fifty."""
    many = [command(number) for number in range(60)]

    batch, rest = compose(many, max_commands=wanted)

    assert numbers(batch.commands) == list(range(taken))
    assert numbers(rest) == list(range(taken, 60))


def test_a_command_that_must_not_travel_in_a_batch_goes_by_itself() -> None:
    """When its turn comes it is called outside the method batch."""
    first, second = command(1, alone=True), command(2)

    batch, rest = compose([first, second])

    assert batch == Batch(labels=("c0",), commands=(first,), halt=False, single=True)
    assert rest == (second,)


def test_a_lonely_command_further_back_stays_behind_alone() -> None:
    """The others do not wait for it: they are about other entities."""
    batch, rest = compose([command(1), command(2, alone=True), command(3)])

    assert (numbers(batch.commands), batch.single) == ([1, 3], False)
    assert numbers(rest) == [2]


def test_commands_are_taken_as_far_as_their_bytes_fit() -> None:
    """Each costs its method, its query and sixteen bytes: 15 + 69 + 16 is a hundred."""
    some = [command(number, query="q" * 69) for number in range(4)]

    exactly, after_exactly = compose(some, max_bytes=300)
    less, after_less = compose(some, max_bytes=299)

    assert (numbers(exactly.commands), numbers(after_exactly)) == ([0, 1, 2], [3])
    assert (numbers(less.commands), numbers(after_less)) == ([0, 1], [2, 3])


def test_nothing_overtakes_a_command_that_found_no_room() -> None:
    """A small command behind a large one that did not fit waits with it."""
    some = [command(1), command(2, query="q" * 500), command(3)]

    batch, rest = compose(some, max_bytes=200)

    assert numbers(batch.commands) == [1]
    assert numbers(rest) == [2, 3]


def test_the_first_command_travels_however_large_it_is() -> None:
    """A bound that would hold it back would hold it back for ever."""
    large = command(1, query="q" * 5000)

    batch, rest = compose([large, command(2)], max_bytes=100)

    assert numbers(batch.commands) == [1]
    assert numbers(rest) == [2]


def test_nothing_cannot_be_composed() -> None:
    """An empty request would cost a call and do nothing."""
    with pytest.raises(ValueError, match="nothing to compose"):
        compose([])


@given(commands, st.integers(-2, 70), st.integers(0, 3000))
def test_nothing_is_lost_and_nothing_goes_twice(
    given_commands: list[Command], max_commands: int, max_bytes: int
) -> None:
    """Batch and rest together are what was given, each part in its order."""
    batch, rest = compose(given_commands, max_commands=max_commands, max_bytes=max_bytes)

    sent, left = numbers(batch.commands), numbers(rest)
    assert sorted(sent + left) == list(range(len(given_commands)))
    assert sent == sorted(sent)
    assert left == sorted(left)
    assert 1 <= len(sent) <= 50
    assert batch.single == given_commands[0].alone
    assert batch.single or not any(each.alone for each in batch.commands)


@given(commands)
def test_as_many_batches_as_needed_carry_everything_once(given_commands: list[Command]) -> None:
    """Composing the rest again and again comes to an end, with every command sent once."""
    sent: list[int] = []

    left: tuple[Command, ...] = tuple(given_commands)
    while left:
        batch, left = compose(left, max_commands=7, max_bytes=500)
        sent += numbers(batch.commands)

    assert sorted(sent) == list(range(len(given_commands)))


@given(st.integers(min_value=0, max_value=10**6))
def test_a_label_is_never_a_number(number: int) -> None:
    """PHP would answer numeric labels as a list and lose which command failed."""
    assert label(number) == "c" + str(number)
    assert not label(number).isnumeric()


@given(commands)
def test_labels_are_unique_and_as_many_as_commands(given_commands: list[Command]) -> None:
    """Every outcome finds its command."""
    batch, _ = compose(given_commands)

    assert len(set(batch.labels)) == len(batch.labels) == len(batch.commands)
