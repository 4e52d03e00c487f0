"""Which commands go now, and which wait for their method's time."""

from collections.abc import Sequence

import pytest

from b24sync.core.admitting import Admitted, admitted
from b24sync.core.model import (
    Asks,
    Command,
    Operation,
    Plan,
    Postponed,
    Question,
    Refusal,
    Row,
)
from b24sync.core.pacing import BATCH, MethodPace, Pace

NOW = 1_790_000_000_000
LATER = NOW + 9_000
FULL = MethodPace(cost_s=1.0, baskets=((NOW - 600_000 + 9_000, 480_000),))
"""Nothing of it goes before ``LATER``."""
NEAR = MethodPace(cost_s=1.0, baskets=((NOW, 473_000),))
"""Room for three: behind two seconds there is a little left of 475.2, behind three there is not."""


def row(number: int) -> Row:
    """A row of an entity of its own."""
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind="contact",
        key=f"c-{number}",
        operation=Operation.UPSERT,
        fields={},
        params={},
    )


def command(number: int, method: str = "m", *sources: int, alone: bool = False) -> Command:
    """A command of a method."""
    return Command(
        row_ids=(number,),
        kind="contact",
        key=f"c-{number}",
        operation=Operation.ADD,
        method=method,
        query="",
        sources=sources,
        alone=alone,
    )


def question(number: int, method: str) -> Question:
    """A question for the row of this number."""
    return Question(kind="contact", key=f"c-{number}", asks=Asks.RECORD, method=method, query="")


def pace(**methods: MethodPace) -> Pace:
    """What is known of these methods."""
    return Pace(now_ms=NOW, methods=methods)


def let_in(
    known: Pace,
    *commands: Command,
    questions: Sequence[Question] = (),
    before: Sequence[Command | Question] = (),
    strict: bool = False,
    refusals: Sequence[Refusal] = (),
) -> Admitted:
    """What goes of a plan of rows 1 to 9."""
    part = Plan(commands=commands, questions=tuple(questions), refusals=tuple(refusals))
    rows = [row(number) for number in range(1, 10)]
    return admitted(part, known, rows, before=before, strict=strict)


def sent(found: Admitted) -> list[int]:
    """The commands that go, by their rows."""
    return [each.row_ids[0] for each in found.plan.commands]


def waiting(found: Admitted) -> dict[int, int]:
    """The rows that wait, with their times."""
    return {each.row_id: each.until_ms for each in found.plan.postponed}


def test_where_nothing_is_used_everything_goes() -> None:
    """Costs alone hold nothing back."""
    part = Plan(commands=(command(1), command(2)))

    found = admitted(part, pace(m=MethodPace(cost_s=1.0)), [row(1), row(2)])

    assert found == Admitted(plan=part)


def test_what_is_used_and_enough_is_left_of_holds_nothing_back() -> None:
    """The plan is given back as it came."""
    known = pace(m=MethodPace(cost_s=1.0, baskets=((NOW, 1_000),)))

    assert sent(let_in(known, command(1), command(2))) == [1, 2]


def test_a_method_without_time_waits_and_the_others_go() -> None:
    """Its rows are due when its time comes back."""
    found = let_in(pace(full=FULL), command(1), command(2, "full"), command(3))

    assert (sent(found), waiting(found), found.passed) == ([1, 3], {2: LATER}, ())


def test_what_does_not_fit_any_more_waits_for_the_answer_and_not_for_a_time() -> None:
    """Only the answer tells what is left, which may be more than was feared."""
    found = let_in(pace(m=NEAR), *(command(number) for number in range(1, 6)))

    assert (sent(found), waiting(found), found.passed) == ([1, 2, 3], {}, (4, 5))


def test_what_goes_already_is_counted() -> None:
    """A claim reads rows more than once."""
    found = let_in(pace(m=NEAR), command(3), command(4), before=(command(1), command(2)))

    assert (sent(found), found.passed) == ([3], (4,))


def test_a_chain_waits_whole() -> None:
    """Its parts are sent together, so the part that could go waits too."""
    found = let_in(
        pace(full=FULL), command(1), command(2, "full", 1), command(3), command(4, "full")
    )

    assert (sent(found), waiting(found)) == ([3], {1: LATER, 2: LATER, 4: LATER})


def test_a_chain_needs_room_for_all_of_it() -> None:
    """Three seconds are left: four commands wait until the basket drops out, and a pair goes."""
    chain = [command(1), command(2, "m", 1), command(3, "m", 2), command(4, "m", 3)]

    found = let_in(pace(m=NEAR), *chain, command(5), command(6, "m", 5))

    assert (sent(found), waiting(found)) == ([5, 6], dict.fromkeys((1, 2, 3, 4), NOW + 600_000))


def test_a_chain_that_is_longer_than_the_limit_goes_as_far_as_it_comes() -> None:
    """It would wait for ever."""
    dear = MethodPace(cost_s=300.0, baskets=((NOW - 600_000, 1),))

    found = let_in(pace(m=dear), command(1), command(2, "m", 1), command(3, "m", 2))

    assert sent(found) == [1, 2, 3]


def test_a_source_that_went_before_ties_nothing() -> None:
    """What it made will be known."""
    found = let_in(pace(full=FULL), command(2, "full", 1), before=(command(1),))

    assert waiting(found) == {2: LATER}


def test_questions_wait_like_commands() -> None:
    """The row of a question is due when it may be put."""
    known = pace(full=FULL, m=NEAR)
    asked = [question(1, "full"), *(question(number, "m") for number in (2, 3, 4, 5))]

    found = let_in(known, questions=asked)

    assert [each.key for each in found.plan.questions] == ["c-2", "c-3", "c-4"]
    assert (waiting(found), found.passed) == ({1: LATER}, (5,))


def test_of_two_questions_for_a_row_one_that_waits_keeps_the_other() -> None:
    """The row needs both answers."""
    found = let_in(pace(full=FULL), questions=[question(1, "m"), question(1, "full")])

    assert (found.plan.questions, waiting(found)) == ((), {1: LATER})


def test_a_portal_that_charges_the_request_holds_every_command_of_a_batch() -> None:
    """One that is called by itself pays by itself."""
    found = let_in(pace(**{BATCH: FULL}), command(1), command(2, alone=True))

    assert (sent(found), waiting(found)) == ([2], {1: LATER})


def test_the_rest_of_a_plan_is_kept() -> None:
    """What was postponed already is so still."""
    part = Plan(commands=(command(1, "full"),), postponed=(Postponed(row_id=2, until_ms=5),))

    found = admitted(part, pace(full=FULL), [row(1), row(2)])

    assert waiting(found) == {1: LATER, 2: 5}


def test_strictly_nothing_overtakes_what_waits() -> None:
    """What stands before it goes; no row is postponed, because the lane waits as a whole."""
    found = let_in(
        pace(full=FULL),
        command(1),
        command(2, "full"),
        command(3),
        questions=[question(4, "m")],
        refusals=[Refusal(row_id=5, code="c", field="f", reason="r")],
        strict=True,
    )

    assert (sent(found), found.until_ms, found.plan.is_cut) == ([1], LATER, True)
    assert (found.plan.postponed, found.plan.questions, found.plan.refusals) == ((), (), ())


def test_strictly_a_question_that_waits_holds_what_stands_behind_it() -> None:
    """Its row is said after it."""
    found = let_in(
        pace(full=FULL), command(1), command(3), questions=[question(2, "full")], strict=True
    )

    assert (sent(found), found.plan.questions, found.until_ms) == ([1], (), LATER)


def test_strictly_what_waits_for_the_answer_names_no_time() -> None:
    """The next claim knows more."""
    found = let_in(pace(m=NEAR), *(command(number) for number in range(1, 6)), strict=True)

    assert (sent(found), found.until_ms, found.plan.is_cut) == ([1, 2, 3], 0, True)


def test_strictly_a_source_keeps_its_place_before_what_needs_it() -> None:
    """Its own row stands further back."""
    source, child = command(5), command(2, "m", 5)

    found = let_in(
        pace(full=FULL), command(1), source, child, questions=[question(6, "full")], strict=True
    )

    assert sent(found) == [1, 5, 2]


def test_strictly_everything_goes_where_there_is_time() -> None:
    """The plan is given back as it came."""
    found = let_in(pace(full=FULL), command(1), questions=[question(2, "m")], strict=True)

    assert (sent(found), len(found.plan.questions), found.until_ms) == ([1], 1, 0)


@pytest.mark.parametrize("strict", [False, True])
def test_a_refused_method_waits_though_nothing_is_known_of_its_baskets(*, strict: bool) -> None:
    """The end of its block is all that counts."""
    found = let_in(pace(m=MethodPace(blocked_until_ms=LATER)), command(1), strict=strict)

    assert sent(found) == []
    assert (waiting(found) or {1: found.until_ms}) == {1: LATER}
