"""Commands become one batch: in order, none lost, none twice, and never more than fifty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.batching import compose
from b24sync.core.model import Batch, Command, Operation
from b24sync.core.pacing import BATCH, MethodPace, Pace


def command(number: int, *sources: int, query: str = "id=1", alone: bool = False) -> Command:
    """Make a command that is told apart by its row, and may take the ids of others."""
    return Command(
        row_ids=(number,),
        kind="contact",
        key=f"c-{number}",
        operation=Operation.UPDATE,
        method="crm.item.update",
        query=query,
        alone=alone,
        sources=sources,
    )


def chained(*shapes: tuple[int, ...]) -> list[Command]:
    """Make commands, each of its number and its sources."""
    return [command(number, *sources) for number, *sources in shapes]


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
    """All travel, labelled by their rows, without halt, and nothing is left."""
    few = [command(1), command(2), command(3)]

    batch, rest = compose(few)

    assert batch == Batch(labels=("r1", "r2", "r3"), commands=tuple(few), halt=False, single=False)
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

    assert batch == Batch(labels=("r1",), commands=(first,), halt=False, single=True)
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


def test_a_request_holds_sixteen_megabytes() -> None:
    """Exactly; one byte more is another request."""
    half = "q" * (8 * 1024 * 1024 - 31)

    whole, _ = compose([command(1, query=half), command(2, query=half)])
    apart, _ = compose([command(1, query=half), command(2, query=half + "q")])

    assert (numbers(whole.commands), numbers(apart.commands)) == ([1, 2], [1])


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


def test_a_label_is_that_of_the_commands_first_row() -> None:
    """So that a reference to its result can be written before the batch is composed."""
    merged = Command(
        row_ids=(7, 9, 11),
        kind="contact",
        key="c-7",
        operation=Operation.DELETE,
        method="crm.item.delete",
        query="id=1",
        lead=11,
    )

    batch, _ = compose([merged, command(8)])

    assert batch.labels == ("r7", "r8")
    assert not any(label.isnumeric() for label in batch.labels)


@given(commands)
def test_labels_are_unique_and_as_many_as_commands(given_commands: list[Command]) -> None:
    """Every outcome finds its command."""
    batch, _ = compose(given_commands)

    assert len(set(batch.labels)) == len(batch.labels) == len(batch.commands)


def test_a_batch_halts_if_it_is_to() -> None:
    """A command that goes by itself has nothing behind it to stop."""
    together, _ = compose([command(1), command(2)], halt=True)
    single, _ = compose([command(1, alone=True), command(2)], halt=True)

    assert (together.halt, together.single) == (True, False)
    assert (single.halt, single.single) == (False, True)


def test_a_chain_without_halt_is_an_error() -> None:
    """After a failed source the portal would send the reference as plain text."""
    with pytest.raises(ValueError, match="stops at the first failure"):
        compose(chained((1,), (2, 1)))


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(chained((2, 1), (1,)), id="behind it"),
        pytest.param(chained((2, 1)), id="nowhere"),
        pytest.param(chained((1, 1)), id="itself"),
        pytest.param(chained((1,), (2, 1, 3), (3,)), id="one of two"),
    ],
)
@pytest.mark.parametrize("in_order", [False, True])
def test_a_source_that_does_not_stand_before_is_an_error(
    commands: list[Command], *, in_order: bool
) -> None:
    """The portal would know no result of it."""
    with pytest.raises(ValueError, match="must stand before it"):
        compose(commands, halt=True, in_order=in_order)


@pytest.mark.parametrize(
    ("commands", "room", "sent", "left"),
    [
        pytest.param(
            chained((1,), (2,), (3, 2), (4,)), 4, [1, 2, 3, 4], [], id="room for everything"
        ),
        pytest.param(
            chained((1,), (2,), (3, 2)), 2, [1], [2, 3], id="a chain that does not fit stays whole"
        ),
        pytest.param(
            chained((1,), (2,), (3, 2), (4,)), 2, [1, 4], [2, 3], id="a chain is overtaken"
        ),
        pytest.param(
            chained((1,), (2,), (3, 2), (4,), (5, 4)),
            3,
            [1, 2, 3],
            [4, 5],
            id="by another that has no room either",
        ),
        pytest.param(
            chained((1,), (2,), (3,), (4, 1)), 3, [1, 2, 4], [3], id="a chain goes by its first"
        ),
        pytest.param(
            chained((1,), (2,), (3,), (4, 3), (5, 3)), 2, [1, 2], [3, 4, 5], id="two of one source"
        ),
        pytest.param(
            chained((1,), (2,), (3, 1, 2), (4,)), 3, [1, 2, 3], [4], id="one of two sources"
        ),
        pytest.param(
            chained((1,), (2,), (3, 1, 2), (4,)), 2, [1, 2], [3, 4], id="longer than the batch"
        ),
        pytest.param(
            chained((1,), (2, 1), (3, 2), (4, 3)), 2, [1, 2], [3, 4], id="a long chain's beginning"
        ),
        pytest.param(
            chained((1,), (2,), (3, 2), (4, 3)),
            2,
            [1],
            [2, 3, 4],
            id="a long chain further back is not begun",
        ),
    ],
)
def test_a_chain_travels_whole(
    commands: list[Command], room: int, sent: list[int], left: list[int]
) -> None:
    """A reference to the result of a command means nothing in another request."""
    batch, rest = compose(commands, max_commands=room, halt=True)

    assert (numbers(batch.commands), numbers(rest)) == (sent, left)


def test_a_chain_fits_by_its_bytes_too() -> None:
    """Each costs its method, its query and sixteen bytes: 15 + 4 + 16 is 35."""
    some = chained((1,), (2,), (3, 2), (4,))

    whole, _ = compose(some, max_bytes=105, halt=True)
    apart, after_apart = compose(some, max_bytes=104, halt=True)

    assert numbers(whole.commands) == [1, 2, 3]
    assert (numbers(apart.commands), numbers(after_apart)) == ([1, 4], [2, 3])


def test_of_a_chain_that_is_too_large_as_much_travels_as_fits() -> None:
    """At least its first command, or it would be held back for ever."""
    some = [command(1), command(2, 1), command(3, 2, query="q" * 500), command(4)]

    batch, rest = compose(some, max_bytes=105, halt=True)
    least, after_least = compose(some, max_bytes=0, halt=True)

    assert (numbers(batch.commands), numbers(rest)) == ([1, 2, 4], [3])
    assert (numbers(least.commands), numbers(after_least)) == ([1], [2, 3, 4])


def test_a_command_that_goes_by_itself_is_overtaken_by_a_chain() -> None:
    """They are about other entities."""
    some = [command(1), command(2, alone=True), command(3), command(4, 3)]

    batch, rest = compose(some, halt=True)

    assert (numbers(batch.commands), numbers(rest)) == ([1, 3, 4], [2])


@pytest.mark.parametrize(
    ("commands", "room", "sent"),
    [
        pytest.param(chained((1,), (2,), (3,)), 5, [1, 2, 3], id="room for everything"),
        pytest.param(chained((1,), (2,), (3,)), 2, [1, 2], id="as many as fit"),
        pytest.param(
            chained((1,), (2,), (3, 2), (4,)), 2, [1], id="up to a chain that does not fit"
        ),
        pytest.param(
            chained((1,), (2, 1), (3,)), 2, [1, 2], id="up to the end of a chain that fits"
        ),
        pytest.param(
            chained((1,), (2,), (3, 1), (4,)), 2, [1, 2], id="the beginning of the first chain"
        ),
        pytest.param(
            chained((1,), (2,), (3,), (4, 2)), 3, [1], id="nothing between the parts of a chain"
        ),
        pytest.param(
            [command(1), command(2, alone=True), command(3)],
            5,
            [1],
            id="up to a command that goes by itself",
        ),
    ],
)
def test_in_order_nothing_is_overtaken(commands: list[Command], room: int, sent: list[int]) -> None:
    """Where the first refusal stops everything behind it, nothing may go before its turn."""
    batch, rest = compose(commands, max_commands=room, halt=True, in_order=True)

    assert numbers(batch.commands) == sent
    assert numbers(batch.commands) + numbers(rest) == numbers(tuple(commands))


def test_in_order_a_large_command_holds_back_what_is_behind_it() -> None:
    """Even where the large one is part of a chain that has begun."""
    some = [command(1), command(2, 1, query="q" * 500), command(3)]

    batch, rest = compose(some, max_bytes=105, halt=True, in_order=True)

    assert (numbers(batch.commands), numbers(rest)) == ([1], [2, 3])


@st.composite
def chains(draw: st.DrawFn) -> list[Command]:
    """Commands of which some take the ids of earlier ones, and some go by themselves."""
    made: list[Command] = []
    for number in range(draw(st.integers(1, 40))):
        makers = [each.row_ids[0] for each in made if not each.alone]
        sources = draw(st.sets(st.sampled_from(makers), max_size=2)) if makers else set[int]()
        alone = not sources and draw(st.integers(0, 9)) == 0
        query = "q" * draw(st.integers(0, 200))
        made.append(command(number, *sorted(sources), query=query, alone=alone))
    return made


def chains_of(commands: list[Command]) -> list[set[int]]:
    """Which commands belong together, as sets of their numbers."""
    together: list[set[int]] = []
    for each in commands:
        mine = {each.row_ids[0], *each.sources}
        apart = [chain for chain in together if chain.isdisjoint(mine)]
        joined = [chain for chain in together if not chain.isdisjoint(mine)]
        together = [*apart, mine.union(*joined)]
    return together


def cost(commands: list[Command]) -> int:
    """What commands cost in bytes."""
    return sum(15 + len(each.query) + 16 for each in commands)


@given(
    given_commands=chains(),
    room=st.integers(1, 60),
    max_bytes=st.integers(0, 4000),
    in_order=st.booleans(),
)
def test_no_reference_travels_without_its_source_before_it(
    given_commands: list[Command], room: int, max_bytes: int, *, in_order: bool
) -> None:
    """And nothing is lost, and nothing goes twice."""
    batch, rest = compose(
        given_commands, max_commands=room, max_bytes=max_bytes, halt=True, in_order=in_order
    )

    sent, left = numbers(batch.commands), numbers(rest)
    assert sorted(sent + left) == list(range(len(given_commands)))
    assert (sent == sorted(sent), left == sorted(left)) == (True, True)
    assert 1 <= len(sent) <= min(room, 50)
    for place, each in enumerate(batch.commands):
        assert set(each.sources) <= set(sent[:place])
    assert len(sent) == 1 or cost(list(batch.commands)) <= max_bytes


@given(chains(), st.integers(1, 60), st.integers(0, 4000))
def test_no_chain_is_parted_unless_it_is_longer_than_a_batch(
    given_commands: list[Command], room: int, max_bytes: int
) -> None:
    """Only the first chain, and only from its beginning; a single command is not overtaken."""
    batch, _ = compose(given_commands, max_commands=room, max_bytes=max_bytes, halt=True)

    sent = set(numbers(batch.commands))
    by_number = {each.row_ids[0]: each for each in given_commands}
    for chain in chains_of(given_commands):
        members = sorted(chain)
        if sent.isdisjoint(chain) or chain <= sent:
            continue
        assert members[0] == 0
        assert len(members) > room or cost([by_number[each] for each in members]) > max_bytes
        assert sent & chain == set(members[: len(sent & chain)])
    singles = [
        chain.pop()
        for chain in chains_of(given_commands)
        if len(chain) == 1 and not by_number[min(chain)].alone
    ]
    behind = [number for number in singles if number not in sent]
    assert all(number < min(behind, default=100) for number in singles if number in sent)


@given(chains(), st.integers(1, 60), st.integers(0, 4000))
def test_in_order_the_batch_is_the_front_of_what_was_given(
    given_commands: list[Command], room: int, max_bytes: int
) -> None:
    """And a chain is parted only where every shorter front would part one too."""
    batch, rest = compose(
        given_commands, max_commands=room, max_bytes=max_bytes, halt=True, in_order=True
    )

    assert [*batch.commands, *rest] == given_commands
    chains_given = chains_of(given_commands)
    parts = [
        any(not chain.isdisjoint(range(end)) and max(chain) >= end for chain in chains_given)
        for end in range(1, len(batch.commands) + 1)
    ]
    assert all(parts) or not parts[-1]


def pace(cost_s: float, *, max_bytes: int | None = None) -> Pace:
    """A portal on which each command takes so long."""
    known = {"crm.item.update": MethodPace(cost_s=cost_s)}
    found = MethodPace(max_bytes=max_bytes, found_ms=1)
    return Pace(now_ms=1, methods=known | {BATCH: found})


def test_commands_are_taken_as_far_as_their_time_fits() -> None:
    """Six tenths of a minute hold nine of four seconds; one that takes longer goes alone."""
    many = [command(number) for number in range(20)]

    some, _ = compose(many, pace=pace(4.0))
    one, _ = compose(many, pace=pace(50.0))
    full, _ = compose([command(number) for number in range(60)], pace=pace(0.02))

    assert [len(batch.commands) for batch in (some, one, full)] == [9, 1, 50]


def test_a_chain_that_takes_too_long_with_the_others_waits_whole() -> None:
    """What is behind it and fits goes."""
    commands = chained((1,), (2,), (3, 2), (4, 2), (5,))

    batch, rest = compose(commands, pace=pace(10.0), halt=True)

    assert numbers(batch.commands) == [1, 5]
    assert numbers(rest) == [2, 3, 4]


def test_a_chain_that_takes_too_long_by_itself_goes_from_its_beginning() -> None:
    """As one that has more commands than a request holds."""
    batch, rest = compose(chained((1,), (2, 1), (3, 2), (4, 3)), pace=pace(10.0), halt=True)

    assert (numbers(batch.commands), numbers(rest)) == ([1, 2, 3], [4])


def test_what_a_portal_refused_for_its_size_is_not_sent_again() -> None:
    """Each command is 15 + 69 + 16, a hundred bytes; the smaller of two bounds counts."""
    some = [command(number, query="q" * 69) for number in range(5)]

    learned, _ = compose(some, pace=pace(0.1, max_bytes=250))
    given, _ = compose(some, pace=pace(0.1, max_bytes=250), max_bytes=100)

    assert (len(learned.commands), len(given.commands)) == (2, 1)
