"""Each outcome becomes exactly one settlement per row, and nothing but the settlement."""

from collections.abc import Callable
from dataclasses import replace

import pytest

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


def row(number: int, *, attempts: int = 0) -> Row:
    """Make a row as it was read."""
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind="contact",
        key=f"c-{number}",
        operation=Operation.UPSERT,
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
RATE = Fault(code="QUERY_LIMIT_EXCEEDED", text="Too many", kind=FaultKind.RATE)
WORDLESS = Fault(code="502", text="", kind=FaultKind.SERVER)


def dice(*throws: float) -> Callable[[], float]:
    """Give these throws, one after the other."""
    left = iter(throws)
    return lambda: next(left)


def judging(*throws: float) -> Judging:
    """Judge with these throws and patience for three attempts."""
    return Judging(policy=POLICY, now_ms=NOW_MS, chance=dice(*throws))


def settled(command: Command, outcome: Outcome, *, attempts: int = 0) -> Settlement:
    """Settle the only row of the only command of a batch."""
    batch = Batch(labels=("c0",), commands=(command,))
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
    """Rows of one command share its outcome, each by its own attempts."""
    merged = replace(UPDATE, row_ids=(2, 5))
    batch = Batch(labels=("c0", "c1", "c2"), commands=(ADD, merged, replace(DELETE, row_ids=(3,))))
    rows = {1: row(1), 2: row(2), 3: row(3), 5: row(5, attempts=2)}
    outcomes = (Applied(remote_id="9"), Rejected(fault=SERVER), Skipped())

    made = settlements(batch, rows, outcomes, judging(0.1, 0.2, 0.3, 0.4))

    assert [(each.row.id, each.cmd_no, each.outcome) for each in made] == [
        (1, 0, "applied"),
        (2, 1, "retried"),
        (5, 1, "failed"),
        (3, 2, "skipped"),
    ]


def test_rows_that_were_not_run_go_back_together() -> None:
    """One throw decides for all deferred rows; every other command has a throw of its own."""
    commands = tuple(replace(UPDATE, row_ids=(number,)) for number in (1, 2, 3))
    batch = Batch(labels=("c0", "c1", "c2"), commands=commands)
    rows = {number: row(number) for number in (1, 2, 3)}
    outcomes = (Deferred(fault=RATE), Rejected(fault=SERVER), Deferred(fault=RATE))

    made = settlements(batch, rows, outcomes, judging(0.25, 0.75))

    assert [each.requeue_ms for each in made] == [250, 750, 250]


def test_rows_that_were_too_large_together_come_back_apart() -> None:
    """With one throw for all they would be the same batch again, until all are buried."""
    commands = tuple(replace(UPDATE, row_ids=(number,)) for number in (1, 2))
    batch = Batch(labels=("c0", "c1"), commands=commands)
    too_large = Deferred(fault=replace(RATE, kind=FaultKind.TOO_LARGE))

    made = settlements(
        batch, {1: row(1), 2: row(2)}, (too_large, too_large), judging(0.0, 0.25, 0.75)
    )

    assert [(each.requeue_ms, each.charged) for each in made] == [(250, True), (750, True)]


def test_a_batch_without_all_its_outcomes_is_an_error() -> None:
    """Settling half a batch would leave rows behind in silence."""
    batch = Batch(labels=("c0",), commands=(ADD,))

    with pytest.raises(ValueError, match="shorter"):
        settlements(batch, {1: row(1)}, (), judging(0.5))


def test_a_finish_without_an_applied_outcome_has_no_duration() -> None:
    """What was found on the portal later was not measured."""
    found = Finish(outcome=ResultOutcome.APPLIED, remote_id="46")

    made = settlement(row(1), ADD, 0, Unknown(reason="timeout"), found)

    assert (made.remote_id, made.duration_ms, made.link_present) == ("46", None, True)
