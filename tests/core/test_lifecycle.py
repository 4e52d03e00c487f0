"""The table of moves leaves no state without an end, and every outcome has its verdict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.lifecycle import (
    BATCH_MOVES,
    ROW_MOVES,
    BatchEvent,
    RetryPolicy,
    RowEvent,
    backoff_ms,
    batch_sources,
    breaker_ms,
    deferral_ms,
    drawing,
    judge,
    portal_state_after,
    row_sources,
)
from b24sync.core.model import (
    Applied,
    BatchState,
    Bury,
    Deferred,
    Doubt,
    Fault,
    FaultKind,
    Finish,
    Outcome,
    PortalState,
    Rejected,
    ResultOutcome,
    Retry,
    RowState,
    Skipped,
    Spare,
    Unknown,
    Verdict,
)

ALMOST_ONE = 0.9999999999999999
NOW_MS = 1_700_000_000_000
PATIENT = RetryPolicy(max_attempts=3, base_ms=1_000, cap_ms=60_000)


def fault(kind: FaultKind, state: PortalState | None = None) -> Fault:
    """Make a complaint of a kind."""
    return Fault(code="CODE", text="words", kind=kind, portal_state=state)


faults = st.builds(
    fault, st.sampled_from(FaultKind), st.none() | st.sampled_from(list(PortalState))
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(
        Applied,
        remote_id=st.none() | st.text(),
        was_gone=st.booleans(),
        duration_ms=st.none() | st.integers(),
        different=st.none() | st.text(),
    ),
    st.builds(Rejected, fault=faults, is_gone=st.booleans()),
    st.builds(Deferred, fault=faults, retry_at_ms=st.none() | st.integers()),
    st.just(Skipped()),
    st.builds(Unknown, reason=st.text(), fault=st.none() | faults),
)
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(0, 100),
    base_ms=st.integers(0, 10**6),
    cap_ms=st.integers(0, 10**8),
)


def verdict_on(outcome: Outcome, *, attempts: int = 0, jitter: float = 0.5) -> Verdict:
    """Judge with patience for three attempts."""
    return judge(outcome, attempts=attempts, policy=PATIENT, now_ms=NOW_MS, jitter=jitter)


def test_the_life_of_a_row_is_as_it_is_drawn() -> None:
    """The drawing has one line per move, in the table's order, with [*] for begin and end."""
    expected = """\
stateDiagram-v2
    [*] --> ready: enqueue
    ready --> batched: claim
    ready --> parked: park
    ready --> held: hold
    ready --> ready: requeue
    ready --> [*]: close
    parked --> batched: claim
    parked --> ready: release
    parked --> [*]: close
    held --> ready: release
    held --> [*]: close
    batched --> [*]: finish
    batched --> ready: requeue
    batched --> parked: park
    batched --> held: stop
    batched --> doubt: lose
    doubt --> [*]: finish
    doubt --> parked: park
    doubt --> held: stop
    doubt --> ready: requeue"""

    drawn = drawing()

    assert drawn == expected


def test_the_life_of_a_batch_has_seven_moves() -> None:
    """What is not in the table does not happen."""
    moves = {f"{state} {event} {target}" for (state, event), target in BATCH_MOVES.items()}

    assert moves == {
        "journalled go sending",
        "journalled return returned",
        "sending settle answered",
        "sending return returned",
        "sending lose doubt",
        "doubt settle answered",
        "doubt reconcile reconciled",
    }


@pytest.mark.parametrize("state", list(RowState))
def test_every_state_of_a_row_leads_to_an_end(state: RowState) -> None:
    """From wherever a row stands, moves lead out of the outbox."""
    reached: set[RowState | None] = {state}

    for _ in RowState:
        reached |= {target for (source, _), target in ROW_MOVES.items() if source in reached}

    assert None in reached


def test_every_event_happens_to_some_row() -> None:
    """A word for a move that no row makes would be a guard that lets nothing through."""
    assert {event for _, event in ROW_MOVES} == set(RowEvent)
    assert {event for _, event in BATCH_MOVES} == set(BatchEvent)


@pytest.mark.parametrize("event", [RowEvent.FINISH, RowEvent.REQUEUE, RowEvent.PARK, RowEvent.STOP])
def test_what_a_batch_decides_it_decides_late_as_well(event: RowEvent) -> None:
    """A late answer means for a row in doubt what it would have meant in time."""
    assert ROW_MOVES[RowState.BATCHED, event] == ROW_MOVES[RowState.DOUBT, event]


@pytest.mark.parametrize("state", list(RowState))
def test_every_state_of_a_row_can_be_reached(state: RowState) -> None:
    """A state without a way in would be a word without a meaning."""
    reached: set[RowState | None] = {RowState.READY}

    for _ in RowState:
        reached |= {target for (source, _), target in ROW_MOVES.items() if source in reached}

    assert state in reached


def test_only_closed_batches_have_no_way_out() -> None:
    """Answered, reconciled and returned are ends; every other state is left again."""
    left = {source for source, _ in BATCH_MOVES}

    ends = set(BatchState) - left

    assert ends == {BatchState.ANSWERED, BatchState.RECONCILED, BatchState.RETURNED}


@pytest.mark.parametrize("state", [BatchState.JOURNALLED, BatchState.SENDING, BatchState.DOUBT])
def test_every_open_batch_comes_to_an_end(state: BatchState) -> None:
    """From wherever a batch stands, moves lead to one of its three ends."""
    reached = {state}

    for _ in BatchState:
        reached |= {target for (source, _), target in BATCH_MOVES.items() if source in reached}

    assert reached & {BatchState.ANSWERED, BatchState.RECONCILED, BatchState.RETURNED}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (RowState.BATCHED, RowEvent.CLAIM),
        (RowState.DOUBT, RowEvent.CLAIM),
        (RowState.HELD, RowEvent.CLAIM),
        (RowState.HELD, RowEvent.PARK),
        (RowState.PARKED, RowEvent.REQUEUE),
        (RowState.READY, RowEvent.STOP),
        (RowState.PARKED, RowEvent.STOP),
        (RowState.READY, RowEvent.FINISH),
        (RowState.READY, RowEvent.LOSE),
        (RowState.BATCHED, RowEvent.CLOSE),
        (RowState.BATCHED, RowEvent.RELEASE),
        (RowState.DOUBT, RowEvent.CLOSE),
        (RowState.DOUBT, RowEvent.LOSE),
        (RowState.DOUBT, RowEvent.RELEASE),
    ],
)
def test_a_row_does_not_make_an_illegal_move(state: RowState, event: RowEvent) -> None:
    """A row is not sent twice at once, and none ends while its fate is open."""
    assert (state, event) not in ROW_MOVES
    assert state not in row_sources(event)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (BatchState.SENDING, BatchEvent.GO),
        (BatchState.DOUBT, BatchEvent.GO),
        (BatchState.RETURNED, BatchEvent.GO),
        (BatchState.JOURNALLED, BatchEvent.SETTLE),
        (BatchState.JOURNALLED, BatchEvent.LOSE),
        (BatchState.DOUBT, BatchEvent.RETURN),
        (BatchState.ANSWERED, BatchEvent.SETTLE),
        (BatchState.RECONCILED, BatchEvent.SETTLE),
        (BatchState.SENDING, BatchEvent.RECONCILE),
    ],
)
def test_a_batch_does_not_make_an_illegal_move(state: BatchState, event: BatchEvent) -> None:
    """A batch is sent once, answered once, and not returned when it may have arrived."""
    assert (state, event) not in BATCH_MOVES
    assert state not in batch_sources(event)


@pytest.mark.parametrize(
    ("event", "states"),
    [
        (RowEvent.CLAIM, ("ready", "parked")),
        (RowEvent.PARK, ("ready", "batched", "doubt")),
        (RowEvent.RELEASE, ("parked", "held")),
        (RowEvent.HOLD, ("ready",)),
        (RowEvent.FINISH, ("batched", "doubt")),
        (RowEvent.REQUEUE, ("ready", "batched", "doubt")),
        (RowEvent.STOP, ("batched", "doubt")),
        (RowEvent.LOSE, ("batched",)),
        (RowEvent.CLOSE, ("ready", "parked", "held")),
    ],
)
def test_the_guard_of_a_row_names_the_states_it_may_leave(
    event: RowEvent, states: tuple[str, ...]
) -> None:
    """Statements read their guard here, in the order of the states."""
    assert row_sources(event) == states


@pytest.mark.parametrize(
    ("event", "states"),
    [
        (BatchEvent.GO, ("journalled",)),
        (BatchEvent.RETURN, ("journalled", "sending")),
        (BatchEvent.SETTLE, ("sending", "doubt")),
        (BatchEvent.LOSE, ("sending",)),
        (BatchEvent.RECONCILE, ("doubt",)),
    ],
)
def test_the_guard_of_a_batch_names_the_states_it_may_leave(
    event: BatchEvent, states: tuple[str, ...]
) -> None:
    """Statements read their guard here, in the order of the states."""
    assert batch_sources(event) == states


SERVER = fault(FaultKind.SERVER)
TOO_LARGE = fault(FaultKind.TOO_LARGE)
RATE = fault(FaultKind.RATE)
METHOD_TIME = fault(FaultKind.METHOD_TIME)


@pytest.mark.parametrize(
    ("outcome", "attempts", "expected"),
    [
        pytest.param(
            Applied(remote_id="46"),
            0,
            Finish(outcome=ResultOutcome.APPLIED, remote_id="46"),
            id="applied",
        ),
        pytest.param(
            Applied(was_gone=True), 9, Finish(outcome=ResultOutcome.APPLIED), id="gone before"
        ),
        pytest.param(
            Applied(remote_id="46", different="title: wanted 'A', found 'B'"),
            0,
            Finish(outcome=ResultOutcome.DIFFERENT, remote_id="46"),
            id="applied, and not as it was said",
        ),
        pytest.param(
            Applied(different=""), 0, Finish(outcome=ResultOutcome.APPLIED), id="no difference"
        ),
        pytest.param(
            Rejected(fault=SERVER),
            0,
            Retry(delay_ms=500, charged=True, fault=SERVER),
            id="server fault, first",
        ),
        pytest.param(
            Rejected(fault=SERVER),
            1,
            Retry(delay_ms=1_000, charged=True, fault=SERVER),
            id="server fault, last but one",
        ),
        pytest.param(
            Rejected(fault=SERVER),
            2,
            Bury(reason="exhausted", fault=SERVER),
            id="server fault, last",
        ),
        pytest.param(
            Deferred(fault=RATE),
            99,
            Retry(delay_ms=500, charged=False, fault=RATE),
            id="rate, for ever",
        ),
        pytest.param(
            Deferred(fault=METHOD_TIME, retry_at_ms=NOW_MS + 9_000),
            0,
            Retry(delay_ms=10_500, charged=False, fault=METHOD_TIME),
            id="method time, end named",
        ),
        pytest.param(
            Deferred(fault=METHOD_TIME),
            0,
            Retry(delay_ms=61_500, charged=False, fault=METHOD_TIME),
            id="method time, end unnamed",
        ),
        pytest.param(
            Deferred(fault=TOO_LARGE),
            0,
            Retry(delay_ms=500, charged=True, fault=TOO_LARGE),
            id="too large with others",
        ),
        pytest.param(
            Deferred(fault=TOO_LARGE),
            2,
            Bury(reason="exhausted", fault=TOO_LARGE),
            id="too large for the last time",
        ),
        pytest.param(Skipped(), 99, Spare(), id="skipped"),
        pytest.param(
            Unknown(reason="timeout", fault=SERVER), 99, Doubt(reason="timeout"), id="unknown"
        ),
    ],
)
def test_an_outcome_earns_its_verdict(outcome: Outcome, attempts: int, expected: Verdict) -> None:
    """With base 1 s, three attempts and even dice."""
    assert verdict_on(outcome, attempts=attempts) == expected


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.SERVER])
def test_a_command_at_fault_is_buried_at_once(kind: FaultKind) -> None:
    """Whatever the portal judged and will judge again the same way is not repeated."""
    complaint = fault(kind)

    verdict = verdict_on(Rejected(fault=complaint))

    assert verdict == Bury(reason=kind.value, fault=complaint)


@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.TOKEN,
        FaultKind.PORTAL,
        FaultKind.MOVED,
        FaultKind.UNREACHABLE,
        FaultKind.FORBIDDEN,
        FaultKind.UNLISTED,
    ],
)
def test_what_was_not_run_goes_back_at_once_and_free(kind: FaultKind) -> None:
    """The portal's pause or the lane's breaker makes it wait, not the row."""
    complaint = fault(kind)

    verdict = verdict_on(Deferred(fault=complaint, retry_at_ms=NOW_MS + 5_000), attempts=99)

    assert verdict == Retry(delay_ms=0, charged=False, fault=complaint)


@given(outcomes, st.integers(-5, 10**9), policies, st.integers(), jitters)
def test_every_outcome_has_a_verdict_and_only_judgement_is_charged(
    outcome: Outcome, attempts: int, policy: RetryPolicy, now_ms: int, jitter: float
) -> None:
    """Judging is total; what was provably not run costs nothing, unless it was too large."""
    verdict = judge(outcome, attempts=attempts, policy=policy, now_ms=now_ms, jitter=jitter)

    match outcome, verdict:
        case (Applied(), Finish()) | (Skipped(), Spare()) | (Unknown(), Doubt()):
            pass
        case Rejected(), Bury():
            pass
        case Rejected(fault=complaint), Retry(charged=charged, delay_ms=delay_ms):
            assert (complaint.kind, charged) == (FaultKind.SERVER, True)
            assert delay_ms >= 0
        case Deferred(fault=Fault(kind=FaultKind.TOO_LARGE)), Retry(charged=charged):
            assert charged
        case Deferred(fault=complaint), Bury():
            assert complaint.kind is FaultKind.TOO_LARGE
        case Deferred(), Retry(charged=charged, delay_ms=delay_ms):
            assert not charged
            assert delay_ms >= 0
        case _:
            pytest.fail(f"{outcome} earned {verdict}")


@pytest.mark.parametrize(
    ("attempts", "jitter", "expected"),
    [
        pytest.param(0, 0.0, 0, id="luckiest first"),
        pytest.param(0, 0.5, 500, id="even first"),
        pytest.param(0, ALMOST_ONE, 999, id="unluckiest first"),
        pytest.param(1, 0.5, 1_000, id="second doubles"),
        pytest.param(5, 0.5, 16_000, id="sixth"),
        pytest.param(6, 0.5, 30_000, id="capped"),
        pytest.param(6, ALMOST_ONE, 59_999, id="below the cap"),
        pytest.param(10**100, 0.5, 30_000, id="huge"),
        pytest.param(-1, 0.5, 500, id="below none"),
    ],
)
def test_patience_doubles_up_to_its_cap(attempts: int, jitter: float, expected: int) -> None:
    """The dice choose between now and base x 2^attempts, but never beyond the cap."""
    assert backoff_ms(attempts, policy=PATIENT, jitter=jitter) == expected


@given(st.integers(0, 10**6), policies, jitters)
def test_a_row_never_waits_longer_than_the_cap(
    attempts: int, policy: RetryPolicy, jitter: float
) -> None:
    """Whatever the attempts and the dice."""
    assert 0 <= backoff_ms(attempts, policy=policy, jitter=jitter) <= policy.cap_ms


@pytest.mark.parametrize(
    ("kind", "retry_at_ms", "jitter", "expected"),
    [
        pytest.param(FaultKind.RATE, None, 0.0, 0, id="rate, luckiest"),
        pytest.param(FaultKind.RATE, None, ALMOST_ONE, 999, id="rate, unluckiest"),
        pytest.param(FaultKind.RATE, NOW_MS + 9_000, 0.5, 500, id="rate ignores an end"),
        pytest.param(FaultKind.METHOD_TIME, NOW_MS + 9_000, 0.0, 10_000, id="method, end named"),
        pytest.param(FaultKind.METHOD_TIME, NOW_MS + 9_000, ALMOST_ONE, 10_999, id="method, dice"),
        pytest.param(FaultKind.METHOD_TIME, NOW_MS - 9_000, 0.0, 1_000, id="method, end passed"),
        pytest.param(FaultKind.METHOD_TIME, None, 0.0, 61_000, id="method, end unnamed"),
        pytest.param(
            FaultKind.METHOD_TIME, NOW_MS + 600_000, 0.0, 61_000, id="method, end of the window"
        ),
        pytest.param(FaultKind.TOKEN, None, 0.5, 0, id="token"),
        pytest.param(FaultKind.PORTAL, NOW_MS + 9_000, 0.5, 0, id="portal"),
    ],
)
def test_what_was_not_run_rests_as_long_as_its_fault_lasts(
    kind: FaultKind, retry_at_ms: int | None, jitter: float, expected: int
) -> None:
    """A blocked method rests to its named end, a refusal for rate at most a second."""
    rest_ms = deferral_ms(fault(kind), retry_at_ms=retry_at_ms, now_ms=NOW_MS, jitter=jitter)

    assert rest_ms == expected


@pytest.mark.parametrize(
    ("kind", "named", "expected"),
    [
        pytest.param(FaultKind.PORTAL, PortalState.PLAN_LOST, PortalState.PLAN_LOST, id="named"),
        pytest.param(FaultKind.TOKEN, PortalState.GONE, PortalState.GONE, id="the name wins"),
        pytest.param(FaultKind.TOKEN, None, PortalState.AUTH_LOST, id="token"),
        pytest.param(FaultKind.MOVED, None, PortalState.MISCONFIGURED, id="moved"),
        pytest.param(FaultKind.PORTAL, None, None, id="portal without a name"),
        pytest.param(FaultKind.RATE, None, None, id="rate"),
        pytest.param(FaultKind.SERVER, None, None, id="server"),
        pytest.param(FaultKind.UNREACHABLE, None, None, id="unreachable"),
    ],
)
def test_a_fault_pauses_the_portal_only_if_a_person_must_act(
    kind: FaultKind, named: PortalState | None, expected: PortalState | None
) -> None:
    """Lost rights and moved portals need a person; busy and broken ones need time."""
    assert portal_state_after(fault(kind, named)) is expected


@pytest.mark.parametrize(
    ("strikes", "jitter", "expected"),
    [
        pytest.param(0, 0.0, 500, id="first, luckiest"),
        pytest.param(0, ALMOST_ONE, 999, id="first, unluckiest"),
        pytest.param(3, 0.5, 6_000, id="fourth"),
        pytest.param(7, 0.0, 60_000, id="capped, luckiest"),
        pytest.param(7, ALMOST_ONE, 119_999, id="capped, unluckiest"),
        pytest.param(10**100, 0.0, 60_000, id="huge"),
        pytest.param(-1, 0.0, 500, id="below none"),
    ],
)
def test_an_unreachable_portal_is_left_alone_longer_and_longer(
    strikes: int, jitter: float, expected: int
) -> None:
    """Half is fixed and half is dice, from a second doubling to two minutes."""
    assert breaker_ms(strikes, jitter=jitter) == expected
