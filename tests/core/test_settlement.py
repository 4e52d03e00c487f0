"""Each outcome becomes exactly one settlement per row, and nothing but the settlement."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.lifecycle import RetryPolicy
from b24sync.core.model import (
    Applied,
    Batch,
    Command,
    Deferred,
    Fault,
    FaultKind,
    Finish,
    Operation,
    Outcome,
    Rejected,
    ResultOutcome,
    Row,
    Skipped,
    Unknown,
)
from b24sync.core.settlement import Judging, Settlement, settlement, settlements

NOW_MS = 1_700_000_000_000
POLICY = RetryPolicy(max_attempts=3, base_ms=1_000, cap_ms=60_000)


def row(number: int, *, attempts: int = 0, operation: Operation = Operation.UPSERT) -> Row:
    """Make a row as it was read."""
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind="contact",
        key=f"c-{number}",
        operation=operation,
        fields={},
        params=None,
        attempts=attempts,
    )


ADD = Command(
    row_ids=(1,),
    kind="contact",
    key="c-1",
    operation=Operation.ADD,
    method="crm.item.add",
    query="entityTypeId=3",
    id_path=("item", "id"),
    linked=True,
)
UPDATE = replace(ADD, operation=Operation.UPDATE, method="crm.item.update", remote_id="46")
DELETE = replace(ADD, operation=Operation.DELETE, method="crm.item.delete", remote_id="46")
CALL = replace(ADD, operation=Operation.CALL, method="crm.duplicate.find", linked=False)
ADDRESS = replace(ADD, operation=Operation.ADD, method="crm.address.add", linked=False)
CLEARING = replace(DELETE, method="crm.deal.contact.items.delete", linked=False, remote_id=None)

INVALID = Fault(code="ERROR_CORE", text="Name is empty", kind=FaultKind.INVALID)
SERVER = Fault(code="INTERNAL", text="Try later", kind=FaultKind.SERVER)
GONE = Fault(code="NOT_FOUND", text="Item not found", kind=FaultKind.GONE)
RATE = Fault(code="QUERY_LIMIT_EXCEEDED", text="Too many", kind=FaultKind.RATE)
WORDLESS = Fault(code="502", text="", kind=FaultKind.SERVER)


def batch_of(*commands: Command) -> Batch:
    """Send these commands in one batch."""
    return Batch(labels=tuple(command.label for command in commands), commands=commands)


def dice(*throws: float) -> Callable[[], float]:
    """Give these throws, one after the other."""
    left = iter(throws)
    return lambda: next(left)


def judging(*throws: float) -> Judging:
    """Judge with these throws and patience for three attempts."""
    return Judging(policy=POLICY, now_ms=NOW_MS, chance=dice(*throws))


def settled(command: Command, outcome: Outcome, *, attempts: int = 0) -> Settlement:
    """Settle the only row of the only command of a batch."""
    batch = batch_of(command)
    rows = {1: row(1, attempts=attempts)}
    (only,) = settlements(batch, rows, (outcome,), judging(0.5, 0.5))
    return only


def expected(command: Command, outcome: ResultOutcome | None, attempts: int = 0) -> Settlement:
    """Write the part of a settlement that never surprises."""
    return Settlement(
        row=row(1, attempts=attempts), outcome=outcome, method=command.method, cmd_no=0
    )


@pytest.mark.parametrize(
    ("command", "outcome", "link_present", "link_deleted", "remote_id"),
    [
        pytest.param(ADD, Applied(remote_id="46"), True, False, "46", id="add"),
        pytest.param(ADD, Applied(), True, False, None, id="add without an id"),
        pytest.param(UPDATE, Applied(), False, False, "46", id="update"),
        pytest.param(DELETE, Applied(), False, True, "46", id="delete"),
        pytest.param(DELETE, Applied(was_gone=True), False, True, "46", id="delete of the gone"),
        pytest.param(CALL, Applied(remote_id="7"), False, False, "7", id="call"),
        pytest.param(ADDRESS, Applied(), False, False, None, id="add of what has no id"),
        pytest.param(CLEARING, Applied(), False, False, None, id="delete of what has no id"),
    ],
)
def test_an_applied_command_ends_its_row(
    command: Command, outcome: Outcome, remote_id: str, *, link_present: bool, link_deleted: bool
) -> None:
    """The row leaves, an attempt is counted, and the link is made or forgotten where there is one."""
    made = settled(command, outcome)

    assert made == replace(
        expected(command, ResultOutcome.APPLIED),
        final=True,
        charged=True,
        remote_id=remote_id,
        link_present=link_present,
        link_deleted=link_deleted,
    )


def test_the_portals_own_duration_is_kept() -> None:
    """It is the portal's measure of the command, in milliseconds."""
    assert settled(UPDATE, Applied(duration_ms=250)).duration_ms == 250


def test_the_id_in_the_answer_is_believed_before_the_known_one() -> None:
    """What the portal says now is newer than what was known when the command was planned."""
    assert settled(UPDATE, Applied(remote_id="99")).remote_id == "99"


def test_a_rejected_command_is_buried_with_the_portals_words() -> None:
    """The dead letter and the result say code, text and sort of the fault."""
    made = settled(UPDATE, Rejected(fault=INVALID))

    assert made == replace(
        expected(UPDATE, ResultOutcome.FAILED),
        final=True,
        charged=True,
        error_code="ERROR_CORE",
        error_text="Name is empty",
        error_class="invalid",
        bury_reason="invalid",
    )


def test_a_server_fault_is_tried_again_and_charged() -> None:
    """Each judged attempt leaves a result row of its own."""
    made = settled(UPDATE, Rejected(fault=SERVER), attempts=1)

    assert made == replace(
        expected(UPDATE, ResultOutcome.RETRIED, attempts=1),
        charged=True,
        requeue_ms=1_000,
        error_code="INTERNAL",
        error_text="Try later",
        error_class="server",
    )


def test_a_row_out_of_patience_is_buried_as_exhausted() -> None:
    """The reason says that time ran out, the fault says of what."""
    made = settled(UPDATE, Rejected(fault=SERVER), attempts=2)

    assert (made.outcome, made.final, made.bury_reason) == (
        ResultOutcome.FAILED,
        True,
        "exhausted",
    )
    assert (made.error_class, made.requeue_ms) == ("server", None)


def test_a_row_that_was_too_large_too_often_is_buried_as_exhausted() -> None:
    """It was not judged, and never will be."""
    too_large = replace(RATE, kind=FaultKind.TOO_LARGE)

    made = settled(UPDATE, Deferred(fault=too_large), attempts=2)

    assert (made.outcome, made.bury_reason, made.error_class) == (
        ResultOutcome.FAILED,
        "exhausted",
        "too_large",
    )
    assert not made.link_deleted


def test_a_deferred_command_leaves_no_result_and_costs_nothing() -> None:
    """It was provably not run, so there is nothing to report but the complaint."""
    made = settled(UPDATE, Deferred(fault=RATE), attempts=2)

    assert made == replace(
        expected(UPDATE, None, attempts=2),
        requeue_ms=500,
        error_code="QUERY_LIMIT_EXCEEDED",
        error_text="Too many",
        error_class="rate",
    )


def test_a_skipped_command_is_spared_and_goes_first() -> None:
    """A halt costs its row nothing but a not-run."""
    made = settled(UPDATE, Skipped(), attempts=2)

    assert made == replace(
        expected(UPDATE, ResultOutcome.SKIPPED, attempts=2), spared=True, requeue_ms=0
    )


@pytest.mark.parametrize(
    ("fault", "code", "text", "error_class"),
    [
        pytest.param(None, None, "timeout", None, id="silence"),
        pytest.param(SERVER, "INTERNAL", "timeout: INTERNAL Try later", "server", id="complaint"),
        pytest.param(WORDLESS, "502", "timeout: 502", "server", id="complaint without words"),
    ],
)
def test_an_unknown_outcome_leaves_the_row_in_doubt(
    fault: Fault | None, code: str | None, text: str, error_class: str | None
) -> None:
    """Neither charged nor sent again; why nobody knows is written down."""
    made = settled(ADD, Unknown(reason="timeout", fault=fault), attempts=2)

    assert made == replace(
        expected(ADD, ResultOutcome.UNKNOWN, attempts=2),
        in_doubt=True,
        error_code=code,
        error_text=text,
        error_class=error_class,
    )


def test_every_row_of_every_command_is_settled_in_order() -> None:
    """Rows of one command share its outcome and its place."""
    merged = replace(UPDATE, row_ids=(2, 5))
    batch = batch_of(ADD, merged, replace(DELETE, row_ids=(3,)))
    rows = {number: row(number) for number in (1, 2, 3, 5)}
    outcomes = (Applied(remote_id="9"), Applied(), Skipped())

    made = settlements(batch, rows, outcomes, judging(0.1, 0.2, 0.3, 0.4))

    assert [(each.row.id, each.cmd_no, each.outcome) for each in made] == [
        (1, 0, "applied"),
        (2, 1, "applied"),
        (5, 1, "merged"),
        (3, 2, "skipped"),
    ]


def test_rows_that_were_not_run_go_back_together() -> None:
    """One throw decides for all deferred rows; every other command has a throw of its own."""
    commands = tuple(replace(UPDATE, row_ids=(number,)) for number in (1, 2, 3))
    batch = batch_of(*commands)
    rows = {number: row(number) for number in (1, 2, 3)}
    outcomes = (Deferred(fault=RATE), Rejected(fault=SERVER), Deferred(fault=RATE))

    made = settlements(batch, rows, outcomes, judging(0.25, 0.75))

    assert [each.requeue_ms for each in made] == [250, 750, 250]


def test_rows_that_were_too_large_together_come_back_apart() -> None:
    """With one throw for all they would be the same batch again, until all are buried."""
    commands = tuple(replace(UPDATE, row_ids=(number,)) for number in (1, 2))
    batch = batch_of(*commands)
    too_large = Deferred(fault=replace(RATE, kind=FaultKind.TOO_LARGE))

    made = settlements(
        batch, {1: row(1), 2: row(2)}, (too_large, too_large), judging(0.0, 0.25, 0.75)
    )

    assert [(each.requeue_ms, each.charged) for each in made] == [(250, True), (750, True)]


def test_a_batch_without_all_its_outcomes_is_an_error() -> None:
    """Settling half a batch would leave rows behind in silence."""
    batch = batch_of(ADD)

    with pytest.raises(ValueError, match="shorter"):
        settlements(batch, {1: row(1)}, (), judging(0.5))


def test_a_finish_without_an_applied_outcome_has_no_duration() -> None:
    """What was found on the portal later was not measured."""
    found = Finish(outcome=ResultOutcome.APPLIED, remote_id="46")

    made = settlement(row(1), ADD, 0, Unknown(reason="timeout"), found)

    assert (made.remote_id, made.duration_ms, made.link_present) == ("46", None, True)


def test_a_record_that_is_not_as_it_was_said_ends_its_row_as_different() -> None:
    """It was applied all the same; the fields are named in the result."""
    made = settled(UPDATE, Applied(different="title: wanted 'A', found 'B'"))

    assert made == replace(
        expected(UPDATE, ResultOutcome.DIFFERENT),
        final=True,
        charged=True,
        remote_id="46",
        error_text="title: wanted 'A', found 'B'",
    )


@pytest.mark.parametrize("prints", [None, {}, {"title": "0123456789abcdef"}])
def test_what_the_link_remembers_is_written_with_the_success(
    prints: Mapping[str, str] | None,
) -> None:
    """Nothing, that nothing is remembered any more, or what was sent."""
    command = replace(UPDATE, fingerprints=prints)

    assert settled(command, Applied()).fingerprints == prints
    assert settled(command, Rejected(fault=INVALID)).fingerprints is None
    assert settled(command, Rejected(fault=SERVER)).fingerprints is None
    assert settled(command, Unknown(reason="timeout")).fingerprints is None


def test_an_add_without_its_circle_has_begun() -> None:
    """The record is made and linked; the row comes back at once with what is left to be said."""
    remainder = {"companyId": {"$ref": {"kind": "company", "key": "acme"}}}
    command = replace(ADD, remainder=remainder, fingerprints={"name": "0123456789abcdef"})

    made = settled(command, Applied(remote_id="46", duration_ms=250))

    assert made == replace(
        expected(command, ResultOutcome.BEGUN),
        requeue_ms=0,
        remainder=remainder,
        remote_id="46",
        duration_ms=250,
        link_present=True,
        fingerprints={"name": "0123456789abcdef"},
    )


def test_an_add_without_its_circle_that_is_refused_has_not_begun() -> None:
    """It is given up with everything that it had to say."""
    made = settled(replace(ADD, remainder={"a": 1}), Rejected(fault=INVALID))

    assert (made.outcome, made.final, made.remainder) == (ResultOutcome.FAILED, True, None)


MERGED = replace(UPDATE, row_ids=(1, 2, 3), fingerprints={"title": "0123456789abcdef"})


def merged(
    outcome: Outcome,
    *,
    command: Command = MERGED,
    attempts: tuple[int, ...] = (0, 0, 0),
    strict: bool = False,
) -> tuple[Settlement, ...]:
    """Settle three rows that went as one command."""
    rows = {
        number: row(number, attempts=spent)
        for number, spent in zip((1, 2, 3), attempts, strict=True)
    }
    judged = replace(judging(0.5, 0.5), strict=strict)
    return settlements(batch_of(command), rows, (outcome,), judged)


def gone_with(number: int, lead: int) -> Settlement:
    """Write what is written of a row that went with another one."""
    return Settlement(
        row=row(number),
        outcome=ResultOutcome.MERGED,
        method="crm.item.update",
        cmd_no=0,
        final=True,
        charged=True,
        merged_into=lead,
        remote_id="46",
    )


@pytest.mark.parametrize(
    ("outcome", "recorded"),
    [
        pytest.param(Applied(duration_ms=250), ResultOutcome.APPLIED, id="applied"),
        pytest.param(
            Applied(duration_ms=250, different="title: …"), ResultOutcome.DIFFERENT, id="different"
        ),
    ],
)
def test_rows_that_went_with_another_end_as_merged(
    outcome: Applied, recorded: ResultOutcome
) -> None:
    """The first has the result of the command, the others name it; the link is written once."""
    made = merged(outcome)

    assert made == (
        replace(
            expected(MERGED, recorded),
            final=True,
            charged=True,
            remote_id="46",
            duration_ms=250,
            error_text=outcome.different,
            fingerprints={} if outcome.different else {"title": "0123456789abcdef"},
        ),
        gone_with(2, 1),
        gone_with(3, 1),
    )


def test_rows_that_went_with_an_add_make_no_link_of_their_own() -> None:
    """All of them know the new id."""
    made = merged(Applied(remote_id="9"), command=replace(MERGED, operation=Operation.ADD))

    assert [each.link_present for each in made] == [True, False, False]
    assert [each.remote_id for each in made] == ["9", "9", "9"]


def test_a_delete_leads_the_rows_before_it() -> None:
    """The last row has the result of the command, and its place is the last."""
    command = replace(MERGED, operation=Operation.DELETE, lead=3, fingerprints=None)

    made = merged(Applied(), command=command)

    assert made[:2] == (gone_with(1, 3), gone_with(2, 3))
    assert (made[2].row.id, made[2].outcome) == (3, ResultOutcome.APPLIED)
    assert (made[2].link_deleted, made[2].merged_into) == (True, None)


def test_rows_that_went_as_one_are_tried_again_as_one() -> None:
    """One result tells of the attempt; the later ones go back behind the first, all are charged."""
    made = merged(Rejected(fault=SERVER), attempts=(1, 0, 2))

    assert [(each.row.id, each.outcome, each.is_behind) for each in made] == [
        (1, ResultOutcome.RETRIED, False),
        (2, None, True),
        (3, None, True),
    ]
    assert [(each.requeue_ms, each.charged, each.final) for each in made] == [
        (1_000, True, False)
    ] * 3
    assert [each.error_code for each in made] == ["INTERNAL"] * 3


@pytest.mark.parametrize(
    ("outcome", "recorded", "requeue_ms", "spared"),
    [
        pytest.param(Deferred(fault=RATE), None, 500, False, id="not run"),
        pytest.param(Skipped(), ResultOutcome.SKIPPED, 0, True, id="spared by a halt"),
    ],
)
def test_rows_that_went_as_one_and_were_not_run_go_back_as_one(
    outcome: Outcome, recorded: ResultOutcome | None, requeue_ms: int, *, spared: bool
) -> None:
    """At no charge, and with one result at the most."""
    made = merged(outcome)

    assert [each.outcome for each in made] == [recorded, None, None]
    assert [each.is_behind for each in made] == [False, True, True]
    assert [(each.requeue_ms, each.spared, each.charged) for each in made] == [
        (requeue_ms, spared, False)
    ] * 3


def test_rows_that_went_as_one_are_in_doubt_together() -> None:
    """Each has a result of its own that says so, since each must be decided."""
    made = merged(Unknown(reason="timeout"))

    assert made == tuple(
        Settlement(
            row=row(number),
            outcome=ResultOutcome.UNKNOWN,
            method="crm.item.update",
            cmd_no=0,
            in_doubt=True,
            error_text="timeout",
        )
        for number in (1, 2, 3)
    )


@pytest.mark.parametrize("strict", [False, True])
def test_rows_that_are_refused_as_one_are_parted_in_the_middle(*, strict: bool) -> None:
    """At no charge and without a result: nobody knows yet which of them is to blame."""
    made = merged(Rejected(fault=INVALID), strict=strict)

    parted = replace(
        expected(MERGED, None),
        requeue_ms=0,
        error_code="ERROR_CORE",
        error_text="Name is empty",
        error_class="invalid",
    )
    assert made == (
        parted,
        replace(parted, row=row(2), is_behind=True, is_barrier=True),
        replace(parted, row=row(3), is_behind=True),
    )


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(Rejected(fault=SERVER), id="server fault"),
        pytest.param(Deferred(fault=replace(RATE, kind=FaultKind.TOO_LARGE)), id="too large"),
    ],
)
def test_rows_that_are_out_of_patience_as_one_are_parted_too(outcome: Outcome) -> None:
    """The patience is that of the first; alone it has one more try."""
    made = merged(outcome, attempts=(2, 0, 0))

    assert [(each.outcome, each.charged, each.requeue_ms) for each in made] == [
        (None, False, 0)
    ] * 3
    assert [each.is_barrier for each in made] == [False, True, False]


@given(st.integers(2, 40))
def test_parting_in_the_middle_finds_the_one_to_blame(count: int) -> None:
    """After at most as many tries as halvings every row is alone."""
    parts, tries = [tuple(range(1, count + 1))], 0
    while any(len(part) > 1 for part in parts):
        tries += 1
        parts = [smaller for part in parts for smaller in parts_of(part)]

    assert sorted(parts) == [(number,) for number in range(1, count + 1)]
    assert tries <= math.ceil(math.log2(count))


def parts_of(part: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Refuse rows that went as one, and give what goes together afterwards."""
    if len(part) == 1:
        return [part]
    made = settlements(
        batch_of(replace(UPDATE, row_ids=part)),
        {number: row(number) for number in part},
        (Rejected(fault=INVALID),),
        judging(0.5, 0.5),
    )
    (barrier,) = (place for place, each in enumerate(made) if each.is_barrier)
    cut = (part[:barrier], part[barrier : barrier + 1], part[barrier + 1 :])
    return [smaller for smaller in cut if smaller]


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [pytest.param(INVALID, 0, id="refused"), pytest.param(SERVER, 2, id="out of patience")],
)
def test_in_strict_nobody_but_a_person_gives_a_row_up(fault: Fault, attempts: int) -> None:
    """The row rests and its lane stops, with the portal's words; the judgement is charged."""
    rows = {1: row(1, attempts=attempts)}
    judged = replace(judging(0.5, 0.5), strict=True)

    (made,) = settlements(batch_of(UPDATE), rows, (Rejected(fault=fault),), judged)

    assert made == replace(
        expected(UPDATE, ResultOutcome.STOPPED, attempts),
        stopped=True,
        charged=True,
        error_code=fault.code,
        error_text=fault.text,
        error_class=str(fault.kind),
    )


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(Applied(), id="applied"),
        pytest.param(Rejected(fault=SERVER), id="tried again"),
        pytest.param(Deferred(fault=RATE), id="not run"),
        pytest.param(Skipped(), id="spared"),
        pytest.param(Unknown(reason="timeout"), id="in doubt"),
        pytest.param(Rejected(fault=GONE, is_gone=True), id="made anew"),
    ],
)
def test_strict_changes_nothing_where_no_row_is_given_up(outcome: Outcome) -> None:
    """What passes by itself needs no person."""
    judged = replace(judging(0.5, 0.5), strict=True)

    (made,) = settlements(batch_of(UPDATE), {1: row(1)}, (outcome,), judged)

    assert made == settled(UPDATE, outcome)
    assert not made.stopped


def test_an_upsert_of_a_record_that_is_gone_makes_it_anew() -> None:
    """The link is forgotten, and the row comes back at once and is an add then."""
    made = settled(UPDATE, Rejected(fault=GONE, is_gone=True))

    assert made == replace(
        expected(UPDATE, ResultOutcome.RETRIED),
        charged=True,
        requeue_ms=0,
        link_deleted=True,
        error_code="NOT_FOUND",
        error_text="Item not found",
        error_class="gone",
    )


@pytest.mark.parametrize("strict", [False, True])
def test_an_update_of_a_record_that_is_gone_is_given_up(*, strict: bool) -> None:
    """Nobody asked for a new one; the link is forgotten all the same."""
    rows = {1: row(1, operation=Operation.UPDATE)}
    judged = replace(judging(0.5, 0.5), strict=strict)

    (made,) = settlements(batch_of(UPDATE), rows, (Rejected(fault=GONE, is_gone=True),), judged)

    assert (made.final, made.stopped, made.link_deleted) == (not strict, strict, True)
    assert (made.outcome, made.bury_reason) == (
        (ResultOutcome.STOPPED, None) if strict else (ResultOutcome.FAILED, "gone")
    )


def test_what_has_no_link_is_not_made_anew() -> None:
    """The record of another entity is gone, as an address's owner."""
    command = replace(ADDRESS, operation=Operation.UPDATE)

    made = settled(command, Rejected(fault=GONE, is_gone=True))

    assert (made.outcome, made.final, made.link_deleted) == (ResultOutcome.FAILED, True, False)


@pytest.mark.parametrize("linked", [True, False])
def test_rows_that_went_as_one_to_a_record_that_is_gone_are_parted(*, linked: bool) -> None:
    """The link is forgotten with the first of them; what each becomes shows afterwards."""
    made = merged(Rejected(fault=GONE, is_gone=True), command=replace(MERGED, linked=linked))

    assert [each.link_deleted for each in made] == [linked, False, False]
    assert [(each.outcome, each.requeue_ms) for each in made] == [(None, 0)] * 3


def test_of_a_record_that_is_not_as_it_was_said_nothing_is_remembered() -> None:
    """Else the same update would be skipped, and the difference would stay."""
    update = replace(UPDATE, fingerprints={"title": "0123"})

    as_said = settled(update, Applied())
    different = settled(update, Applied(different="title: not a field of the record"))

    assert as_said.fingerprints == {"title": "0123"}
    assert different.fingerprints == {}
    assert settled(UPDATE, Applied(different="title: other")).fingerprints is None
