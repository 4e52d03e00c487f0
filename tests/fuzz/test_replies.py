"""Thousands of spoiled answers: one outcome for each command, one fate for each row, and no guess."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from random import Random

import pytest

from b24sync.core.errors import ReplyLost
from b24sync.core.lifecycle import RetryPolicy
from b24sync.core.model import (
    Applied,
    Batch,
    Deferred,
    Outcome,
    Rejected,
    Reply,
    Row,
    Skipped,
    Unknown,
)
from b24sync.core.replies import answers, interpret, method_times, whole_fault
from b24sync.core.settlement import Judging, Settlement, settlements
from b24sync.edge.portal import Credential, PortalClient
from tests.fakes import Answer, ScriptedPortal
from tests.fuzz.replies import STATUSES, any_batch, spoiled, well_formed, written

NOW_MS = 1_700_000_000_000
A_YEAR_MS = 366 * 86_400_000
WEBHOOK = Credential(base_url="https://portal.example/rest/1/hush/")

_is_storable = re.compile(r"[^\0\ud800-\udfff]*", re.DOTALL).fullmatch


def check(random: Random, batch: Batch, rows: Mapping[int, Row], reply: Reply) -> set[str]:
    """Hold one answer against every law; the sorts of outcomes that it came to."""
    outcomes = interpret(batch, reply)
    assert len(outcomes) == len(batch.commands)
    assert len(answers(batch, reply)) == len(batch.commands)
    _is_as_the_reply_names_it(batch, reply, outcomes)
    fault = whole_fault(batch, reply)
    if fault is not None:
        assert not any(
            isinstance(outcome, Applied) and not outcome.was_gone for outcome in outcomes
        )
        assert _is_storable(f"{fault.code}{fault.text}")
    for method, time in method_times(batch, reply).items():
        assert method in {command.method for command in batch.commands}
        assert math.isfinite(time.operating_s)
        assert time.operating_s >= 0
    judging = Judging(
        policy=RetryPolicy(), now_ms=NOW_MS, chance=random.random, strict=random.random() < 0.3
    )
    settled = settlements(batch, rows, outcomes, judging)
    assert [s.row.id for s in settled] == [n for c in batch.commands for n in c.row_ids]
    for settlement in settled:
        _has_one_fate(settlement)
    return {type(outcome).__name__ for outcome in outcomes}


def _named(section: object) -> set[str]:
    """The labels that a section has, whatever shape it came in."""
    match section:
        case dict():
            return set(section)
        case list():
            return {str(place) for place in range(len(section))}
        case _:
            return set()


def _is_as_the_reply_names_it(batch: Batch, reply: Reply, outcomes: Sequence[Outcome]) -> None:
    """What is applied is named as done; what is named as done, and as nothing else, is applied."""
    body = reply.body if reply.readable and not 300 <= reply.status < 400 else None
    whole: Mapping[str, object] = body if isinstance(body, dict) else {}
    is_answer = "result" in whole and whole.get("error") is None
    if not is_answer and whole.get("error") is None and 200 <= reply.status < 300:
        # There is nothing to go by.
        assert {type(outcome) for outcome in outcomes} == {Unknown}
    if whole.get("result") is not None and whole.get("error") is not None:
        # It says both, and nobody knows which of them is true.
        assert {type(outcome) for outcome in outcomes} == {Unknown}
    if batch.single:
        ran = isinstance(outcomes[0], Applied) and not outcomes[0].was_gone
        assert ran == is_answer
        return
    sections = whole.get("result") if is_answer else None
    if is_answer and not isinstance(sections, dict):
        assert {type(outcome) for outcome in outcomes} == {Unknown}
    there: Mapping[str, object] = sections if isinstance(sections, dict) else {}
    done, failed = _named(there.get("result")), _named(there.get("result_error"))
    halted_once = batch.halt and len(failed.intersection(batch.labels)) == 1
    for label, outcome in zip(batch.labels, outcomes, strict=True):
        match outcome:
            case Applied(was_gone=False):
                assert label in done - failed
            case Skipped():
                assert halted_once
                assert label not in done | failed
            case Unknown():
                assert label not in done - failed
            case Applied() | Rejected() | Deferred():
                assert label in failed - done or not is_answer


def _has_one_fate(settlement: Settlement) -> None:
    """Gone, back, in doubt or held for a person; with words that any database can store."""
    s = settlement
    assert s.final + s.in_doubt + s.stopped + (s.requeue_ms is not None) == 1
    assert (s.bury_reason is not None) <= s.final
    assert 0 <= (s.requeue_ms or 0) < A_YEAR_MS
    assert s.remote_id is None or (s.remote_id.isascii() and s.remote_id.isdigit())
    assert len(s.remote_id or "") <= 19
    assert 0 <= (s.duration_ms or 0) < 2**63
    assert _is_storable(f"{s.error_code}{s.error_text}")
    assert len(s.error_code or "") <= 255


def _many(seed: int, count: int) -> set[str]:
    random = Random(seed)  # noqa: S311 - the same answers in each run
    seen: set[str] = set()
    for number in range(count):
        batch, rows = any_batch(random)
        body = spoiled(random, well_formed(random, batch), batch.labels)
        reply = Reply(
            status=random.choice(STATUSES),
            body=body,
            readable=random.random() < 0.95,
            took_s=random.random(),
        )
        try:
            seen |= check(random, batch, rows, reply)
        except Exception as error:
            error.add_note(f"answer {number} of seed {seed}: {reply}\nto {batch}")
            raise
    return seen


def _many_read(seed: int, count: int) -> set[str]:
    """The same, as bytes that a client has to read first."""
    random = Random(seed)  # noqa: S311 - the same answers in each run
    seen: set[str] = set()
    for number in range(count):
        batch, rows = any_batch(random)
        content = written(random, spoiled(random, well_formed(random, batch), batch.labels))
        try:
            reply = _read(batch, Answer(body=content, status=random.choice(STATUSES)))
            if reply is not None:
                seen |= check(random, batch, rows, reply)
        except Exception as error:
            error.add_note(f"answer {number} of seed {seed}: {content[:2000]!r}\nto {batch}")
            raise
    return seen


def _read(batch: Batch, answer: Answer) -> Reply | None:
    """What a client makes of an answer; ``None``, it is lost, as one of a status without a body."""
    try:
        return PortalClient(adapter=lambda: ScriptedPortal([answer])).send(WEBHOOK, batch)
    except ReplyLost:
        return None


EVERY_SORT = {"Applied", "Rejected", "Deferred", "Skipped", "Unknown"}


@pytest.mark.parametrize("seed", range(8))
def test_any_spoiled_answer_is_one_outcome_for_each_command(seed: int) -> None:
    """Nothing is raised, nothing is applied that is not named, and each row has one fate."""
    assert _many(seed, 1000) == EVERY_SORT


@pytest.mark.parametrize("seed", range(100, 104))
def test_any_spoiled_bytes_are_one_outcome_for_each_command(seed: int) -> None:
    """The same of what is cut, doubled, wrongly encoded, or no JSON at all."""
    assert _many_read(seed, 500) == EVERY_SORT


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1010))
def test_very_many_spoiled_answers_are_one_outcome_for_each_command(seed: int) -> None:
    """The same, for longer."""
    assert _many(seed, 50_000) == EVERY_SORT
    assert _many_read(seed, 10_000) == EVERY_SORT


def test_the_spoilers_reach_every_shape() -> None:
    """Else thousands of answers would prove nothing: most are spoiled, and many can still be read."""
    random = Random(7)  # noqa: S311 - the same answers in each run
    shapes: dict[str, int] = {}
    for _ in range(2000):
        batch, _ = any_batch(random)
        whole = well_formed(random, batch)
        content = spoiled(random, whole, batch.labels)
        shape = type(content.get("result") if isinstance(content, dict) else content).__name__
        shapes[shape] = shapes.get(shape, 0) + 1
        shapes["spoiled"] = shapes.get("spoiled", 0) + (json.dumps(content) != json.dumps(whole))

    assert shapes["spoiled"] > 1200
    assert min(shapes[shape] for shape in ("dict", "list", "NoneType", "str", "int", "bool")) > 5
