"""Answers that are broken on the wire: what is not surely this request's answer is an answer lost."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from time import monotonic

import pytest
from sqlalchemy import Engine, delete, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from b24sync.core.errors import ReplyLost, SendError
from b24sync.core.model import Applied, Batch, Command, Operation, Outcome, Reply, Unknown
from b24sync.core.policies import Policy
from b24sync.core.replies import interpret, unanswered
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.edge.portal import Credential, PortalClient
from tests.fuzz.wires import Request, Wire, answer_to, any_wire, chunked, serving, whole
from tests.house import (
    Found,
    add_portal,
    add_rows,
    change,
    in_threads,
    one,
    rows_of,
    time_passes,
    world_of,
)

DEADLINE_S = 0.25
GRACE_S = 3.0
"""What a crowded machine may add to a deadline."""

MAY_LIE = {"noise"}
"""Spoilers that may change a number in an answer without breaking it."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each of thousands of failures is of no use to anybody."""
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def house(sqlite_engine: Engine) -> Engine:
    """A database with the portal ``default``, whose rate no test uses up; nobody cuts its power."""
    event.listen(sqlite_engine, "connect", _hurry)
    add_portal(sqlite_engine)
    return sqlite_engine


def _hurry(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


def _batch(*numbers: int) -> Batch:
    commands = tuple(
        Command(
            row_ids=(number,),
            kind="contact",
            key=f"k{number}",
            operation=Operation.ADD,
            method="crm.item.add",
            query="entityTypeId=3",
            id_path=("item", "id"),
            linked=True,
        )
        for number in numbers
    )
    return Batch(labels=tuple(command.label for command in commands), commands=commands)


def _client() -> PortalClient:
    return PortalClient(connect_timeout_s=2.0, deadline_s=DEADLINE_S, proxies={})


def _sent(client: PortalClient, credential: Credential, batch: Batch) -> Reply | SendError:
    """One exchange, within its time, whatever the server does."""
    started_at = monotonic()
    try:
        return client.send(credential, batch)
    except SendError as error:
        return error
    finally:
        assert monotonic() - started_at < DEADLINE_S + GRACE_S


def _outcomes(batch: Batch, got: Reply | SendError) -> tuple[Outcome, ...]:
    return unanswered(batch, got) if isinstance(got, SendError) else interpret(batch, got)


def _one_of_each(client: PortalClient, seed: int, times: int) -> Counter[str]:
    """Any wires, one after the other, over connections that are kept where they may be."""
    random = Random(seed)  # noqa: S311 - the same answers in each run
    sent: dict[int, Wire] = {}

    def answering(request: Request) -> Wire:
        number = min(_numbers(request))
        # A request that met a connection which was being closed is lost, and never sent again.
        assert number not in sent
        sent[number] = any_wire(random, answer_to(request, 10 * number))
        return sent[number]

    seen: Counter[str] = Counter()
    with serving(answering) as server:
        credential = Credential(base_url=server.webhook_url)
        for number in range(1, 2 * times, 2):
            batch = _batch(number, number + 1)
            outcomes = _outcomes(batch, _sent(client, credential, batch))
            name = sent[number].name if number in sent else "unseen"
            told = {outcome.remote_id for outcome in outcomes if isinstance(outcome, Applied)}
            assert name in MAY_LIE or told <= {f"{10 * number}", f"{10 * number + 1}"}, (
                f"{name}: {told}"
            )
            seen[f"{name} {type(outcomes[0]).__name__}"] += 1
        client.close()
    return seen


def _numbers(request: Request) -> list[int]:
    return [int(label[1:]) for label in json.loads(request)["cmd"]]


def _all_at_once(seeds: range, times: int) -> Counter[str]:
    seen: list[Counter[str]] = []

    def work(seed: int) -> None:
        seen.append(_one_of_each(_client(), seed, times))

    in_threads([partial(work, seed) for seed in seeds], within_s=600.0)
    return sum(seen, Counter())


def test_any_broken_answer_is_an_answer_to_its_own_request_or_lost() -> None:
    """Nothing but SendError is raised, in time, and no answer is taken for that of another request."""
    seen = _all_at_once(range(8), 150)

    assert seen["normal Applied"] > 10
    assert seen["cut Unknown"] > 10
    assert len(seen) > 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_very_many_broken_answers_are_answers_to_their_own_requests_or_lost() -> None:
    """The same, for longer."""
    for start in range(1000, 1080, 8):
        _all_at_once(range(start, start + 8), 2000)


def _in_chunks(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 9)


def _to_the_end(body: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\n\r\n" + body


@pytest.mark.parametrize("dressed", [whole, _in_chunks, _to_the_end])
def test_an_answer_cut_at_any_byte_applies_nothing(dressed: Callable[[bytes], bytes]) -> None:
    """At every single position; only the whole answer is one."""
    batch, client = _batch(1), _client()
    answer = dressed(answer_to(b'{"cmd":{"r1":""}}', 7))
    body_ends = len(answer) - len(b"0\r\n\r\n") if dressed is _in_chunks else len(answer)
    cuts = iter(range(len(answer) + 1))

    applied: list[int] = []
    with serving(lambda _: Wire(name="cut", pieces=[answer[: next(cuts)]])) as server:
        credential = Credential(base_url=server.webhook_url)
        for position in range(len(answer) + 1):
            (outcome,) = _outcomes(batch, _sent(client, credential, batch))
            if isinstance(outcome, Applied):
                applied.append(position)
            else:
                assert isinstance(outcome, Unknown)
        client.close()

    assert applied
    assert min(applied) >= body_ends
    assert max(applied) == len(answer)


FIRST_AGAIN = answer_to(b'{"cmd":{"r1":""}}', 666)
NEXT = answer_to(b'{"cmd":{"r2":""}}', 666)


def _two_in_one(first: bytes) -> list[bytes]:
    return [first + whole(NEXT)]


def _one_after_the_other(first: bytes) -> list[bytes]:
    """That one may meet the next request on its way: then its labels tell whose it is."""
    return [first, whole(FIRST_AGAIN)]


@pytest.mark.parametrize("pieces", [_two_in_one, _one_after_the_other])
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(whole(b'{"result":[]}'), id="an answer"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", id="an interim answer"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="no content"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", id="nothing"),
        pytest.param(whole(b"<html>", status=b"HTTP/1.1 502 X"), id="a page"),
    ],
)
def test_a_second_answer_is_not_taken_for_that_of_the_next_request(
    first: bytes, pieces: Callable[[bytes], list[bytes]]
) -> None:
    """What is left on a connection is never believed as an answer to what is asked later."""
    own = answer_to(b'{"cmd":{"r2":""}}', 7)
    script = iter([Wire(name="two", pieces=pieces(first), ending="keep")])
    client = _client()

    with serving(lambda _: next(script, Wire(name="own", pieces=[whole(own)]))) as server:
        credential = Credential(base_url=server.webhook_url)
        _sent(client, credential, _batch(1))
        (outcome,) = _outcomes(_batch(2), _sent(client, credential, _batch(2)))
        client.close()

    assert outcome == Applied(remote_id="7") or isinstance(outcome, Unknown)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", id="an interim answer"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="no content"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", id="nothing"),
        pytest.param(whole(b"<html>", status=b"HTTP/1.1 502 X"), id="a page"),
    ],
)
def test_after_what_is_no_answer_the_connection_is_not_used_again(first: bytes) -> None:
    """The answer itself may still be on its way there, and would be read as the next one."""
    stale, own = answer_to(b'{"cmd":{"r1":""}}', 666), answer_to(b'{"cmd":{"r1":""}}', 7)
    # On the same connection the first answer would come now, and the second one never.
    early = Wire(name="early", pieces=[first], ending="keep", late=whole(stale))
    script = iter([early])

    batch, client = _batch(1), _client()
    with serving(lambda _: next(script, Wire(name="own", pieces=[whole(own)]))) as server:
        credential = Credential(base_url=server.webhook_url)
        _sent(client, credential, batch)
        (outcome,) = _outcomes(batch, _sent(client, credential, batch))
        client.close()

    assert outcome == Applied(remote_id="7")


def test_a_dribble_is_given_up_in_time() -> None:
    """However many bytes come, and however long the next one would be waited for."""
    pieces = [b"%c" % byte for byte in whole(b'{"result":[]}' + b" " * 200)]
    batch, client = _batch(1), _client()

    with serving(lambda _: Wire(name="slow", pieces=pieces, gap_s=0.05)) as server:
        got = _sent(client, Credential(base_url=server.webhook_url), batch)
        client.close()

    assert isinstance(got, ReplyLost)


UNSEEN = Wire(name="unseen", pieces=())
VERIFIED = {"*": Policy(verify=True)}
FIELDS = {"name": "x", "fm": {"PHONE": ["+1"]}}


def _drained(engine: Engine, random: Random, times: int) -> Counter[str]:
    """Run after run against a portal whose answers are broken, each from a clean start."""
    sent: dict[int, Wire] = {}

    def answering(request: Request) -> Wire:
        number = min(_numbers(request))
        sent[number] = any_wire(random, answer_to(request, 10 * number))
        return sent[number]

    seen: Counter[str] = Counter()
    with serving(answering) as server:
        plain = world_of(engine, webhook_url=server.webhook_url, request_timeout_s=DEADLINE_S)
        careful = replace(plain, settings=replace(plain.settings, policies=VERIFIED))
        for number in range(times):
            ids = add_rows(engine, *(f"{number} {place}" for place in range(3)), fields=FIELDS)
            drain(random.choice((plain, careful)), Order())
            seen += _fates(engine, ids, wire=sent.get(ids[0], UNSEEN))
            _start_anew(engine)
        plain.client.close()
    return seen


def _fates(engine: Engine, ids: list[int], *, wire: Wire) -> Counter[str]:
    """What became of the rows of one batch: each stands in one place, and was told of once."""
    there = {row["id"]: row for row in rows_of(engine, tables.outbox)}
    results: dict[int, list[tuple[str, bool]]] = {row_id: [] for row_id in ids}
    for row in rows_of(engine, tables.result):
        results[row["outbox_id"]].append((row["outcome"], row["final"]))
    fates: Counter[str] = Counter()
    for row_id in ids:
        fate = _fate(there.get(row_id), results[row_id])
        assert fate, f"{there.get(row_id)} is told of as {results[row_id]} after {wire}"
        fates[f"{fate} after {wire.name}"] += 1
    batch = one(engine, tables.batch)
    states = {str(row["state"]) for row in there.values()}
    assert (batch["state"] == "doubt") == ("doubt" in states)
    assert batch["state"] in {"answered", "doubt"}
    assert one(engine, tables.lane)["open_batch_id"] is None
    remote_ids = {row["remote_id"] for row in rows_of(engine, tables.link)} - {None}
    assert wire.name in MAY_LIE or remote_ids <= {f"{10 * ids[0] + place}" for place in range(3)}
    return fates


def _fate(row: Found | None, results: list[tuple[str, bool]]) -> str:
    """What became of one row; empty, if it is not in one place, or not told of as it should be."""
    match row["state"] if row is not None else "gone", results:
        case "gone", [(outcome, True)]:
            return outcome
        case "doubt", [("unknown", False)]:
            return "doubt"
        case "ready", [] | [("retried", False)]:
            return "ready"
        case _:
            return ""


def _start_anew(engine: Engine) -> None:
    """The same house, with nothing in it."""
    with writing(engine) as connection:
        for table in (tables.outbox, tables.result, tables.batch, tables.link, tables.dead):
            connection.execute(delete(table))
    change(engine, tables.portal, {"state": "active"}, code="default")
    closed = {"breaker": "closed", "breaker_until": None, "fail_streak": 0}
    change(engine, tables.lane, closed, portal="default")
    time_passes(engine)


def test_whatever_is_answered_each_row_stands_in_one_place(house: Engine) -> None:
    """Applied, refused, in doubt or ready again; told of once; and nothing is raised."""
    random = Random(1)  # noqa: S311 - the same answers in each run

    seen = _drained(house, random, 250)

    assert seen["applied after normal"] > 10
    assert seen["doubt after cut"] > 10
    assert seen["ready after moved"] > 3


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_whatever_is_answered_for_long_each_row_stands_in_one_place(house: Engine) -> None:
    """The same, for longer."""
    _drained(house, Random(1000), 10_000)  # noqa: S311 - the same answers in each run
