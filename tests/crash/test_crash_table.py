"""What goes wrong, row by row, and the test that shows what becomes of it.

========================================== =======================================================
The broker rings twice, or never            ``test_tasks``: ``test_runs_at_the_same_time_send_each_
                                            row_once``, ``test_a_lost_message_is_replaced_by_the_
                                            next_pump``; ``whole/test_restarts``
dies after taking the lane                  ``test_points``: take after, decide, claim before
dies after the journal, before the go       ``test_points``: claim after, go before and within;
                                            ``test_tasks``: ``test_rows_of_a_worker_killed_before_
                                            sending_are_ready_at_no_charge``
dies between the go and the socket          ``test_points``: go after, send before
request lost on the way                     ``test_doubting``: ``test_an_add_that_did_not_come_
                                            about_is_said_again_once``
dies after the send, before the answer      here: ``test_a_worker_that_dies_while_the_portal_works``
answer lost                                 ``test_drain``: ``test_after_an_answer_that_cannot_be_
                                            used_rows_are_visibly_in_doubt``; ``test_doubting``:
                                            ``test_an_add_that_came_about_is_found_…``
dies after the answer, before the write     ``test_points``: send after, settle before and within
a transaction fails                         here: ``test_a_transaction_that_fails_…``
COMMIT without an acknowledgement           the same, ``cut after``; here:
                                            ``test_an_answer_in_hand_outlives_the_connection``
answer after the lease, still in doubt      ``test_drain``: ``test_an_answer_that_comes_after_the_
                                            lease_was_lost_still_counts``; ``test_frozen``
the same, after the look-up                 ``test_doubting``: ``test_an_answer_after_the_decision_
                                            is_kept_and_changes_nothing``
frozen between journal and go               ``test_frozen``: ``…before_the_go…``
frozen between go and socket                ``test_frozen``: ``…before_the_socket…``
an old update after a newer one             ``test_doubting``: ``test_nothing_is_decided_before_the_
                                            portal_has_surely_stopped``
fail-over to a replica without the go       ``edge/test_database``: ``test_a_sqlite_file_survives_a_
                                            power_cut``; here:
                                            ``test_the_go_is_durable_before_the_socket``
a person removes the record                 here: ``test_a_record_that_a_person_removed_…``
the user may not read what it creates       ``test_doubting``: ``test_what_the_portal_will_not_let_
                                            be_looked_for_waits_for_a_person``
a worker's clock is wrong                   here: ``test_no_clock_but_the_databases_is_asked``
a row kills its worker                      ``test_poison``: ``test_a_row_that_ends_whoever_reads_it_
                                            is_given_up_unread``; ``test_points``: suspect
an operator or a time limit kills the task  ``whole/test_time_limits``
warm shutdown                               ``test_tasks``: ``test_a_worker_that_is_asked_to_end_
                                            finishes_the_open_batch_only``
the answer to a token's renewal is lost     ``edge/test_tokens``
========================================== =======================================================
"""

import ast
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
import requests
from sqlalchemy import Connection, Engine, event, text, update
from sqlalchemy.exc import DBAPIError

import b24sync
from b24sync.drain import Order, Tally, drain
from b24sync.edge import tables
from b24sync.edge.database import make_engine, writing
from b24sync.sandbox import Sandbox
from b24sync.world import Moment, Step
from tests.crash.conftest import Open
from tests.crash.nursery import KILLED
from tests.crash.place import Place
from tests.crash.proxy import wired
from tests.house import add_portal, add_rows, endings, rows_of, time_passes, world_of
from tests.whole.stage import wait_until

on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
UNREACHABLE = "http://127.0.0.1:9/rest/1/hush/"


@pytest.fixture
def house(server_engine: Engine) -> Engine:
    """A server's database with the portal ``default``, whose rate no test uses up."""
    add_portal(server_engine)
    return server_engine


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An emulated portal over HTTP."""
    with Sandbox() as running:
        yield running


def _goes_by(engine: Engine) -> None:
    """So much time passes that the portal has surely stopped, and all else is due as well."""
    doubted = tables.batch.c.state == "doubt"
    with writing(engine) as connection:
        connection.execute(update(tables.batch).where(doubted).values(quiet_until=0))
    time_passes(engine)


# A transaction fails


BEGINS: dict[str, tuple[Step, ...]] = {
    "fresh": (Step.WAKE, Step.TAKE, Step.DECIDE, Step.CLAIM, Step.GO, Step.SETTLE, Step.RELEASE),
    "in doubt": (Step.LEARN, Step.DECIDE),
    "abandoned": (Step.RECOVER,),
    "unreachable": (Step.RETURN,),
    "without a credential": (Step.PAUSE,),
}
"""How a house is found, and the transactions of the pass that finds it so."""


@pytest.mark.parametrize("how", ["deadlock", "killed", "cut before", "cut after"])
def test_a_transaction_that_fails_costs_nothing_but_time(
    house: Engine, sandbox: Sandbox, how: str
) -> None:
    """Record transaction fails; COMMIT acknowledged never: each step in turn, and each row once."""
    for begin, steps in BEGINS.items():
        for step in steps:
            key = f"{begin}-{step}"
            (row_id,) = add_rows(house, key, operation="add")
            _prepare(house, sandbox, begin)
            failed = _fail(house, sandbox, begin, step, how)
            _finish(house, sandbox)

            # An answer in hand is written down again; anything else is for the next run.
            assert step is Step.SETTLE or failed is (how != "deadlock"), f"{key}: {how}"
            assert endings(house)[row_id] == ["applied"], key
    names = [str(record["name"]) for record in sandbox.records("contact").values()]
    assert sorted(names) == sorted(f"{b}-{step}" for b, steps in BEGINS.items() for step in steps)
    links = {row["entity_key"]: row["remote_id"] for row in rows_of(house, tables.link)}
    assert len(links) == len(set(links.values())) == len(names)


@pytest.mark.parametrize("how", ["killed", "cut before", "cut after"])
def test_an_answer_in_hand_outlives_the_connection(
    house: Engine, sandbox: Sandbox, how: str
) -> None:
    """Record transaction fails: it is tried again from memory, and nobody has to look or decide."""
    (row_id,) = add_rows(house, "a", operation="add")

    failed = _fail(house, sandbox, "fresh", Step.SETTLE, how)

    assert not failed
    assert [row["outcome"] for row in rows_of(house, tables.result)] == ["applied"]
    assert endings(house) == {row_id: ["applied"]}
    assert len(sandbox.requests()) == len(sandbox.records("contact")) == 1
    assert rows_of(house, tables.duplicate) == []


def _prepare(house: Engine, sandbox: Sandbox, begin: str) -> None:
    """Let the pass find what it is to find."""
    world = world_of(house, webhook_url=sandbox.webhook_url)
    if begin == "in doubt":
        sandbox.add_fault("reset", executed=True)
        drain(world, Order())
        _goes_by(house)
    if begin == "abandoned":
        with pytest.raises(_Gone):
            drain(replace(world, telling=_gone), Order())
        time_passes(house)
    world.client.close()


class _Gone(Exception):  # noqa: N818 - a worker that is there no more
    """A worker went away."""


def _gone(step: Step, _moment: Moment) -> None:
    if step is Step.SEND:
        raise _Gone


def _fail(house: Engine, sandbox: Sandbox, begin: str, step: Step, how: str) -> bool:
    """One run of which one transaction fails; whether it told of it."""
    webhook_url: str | None = sandbox.webhook_url
    if begin == "unreachable":
        webhook_url = UNREACHABLE
    if begin == "without a credential":
        webhook_url = None
    through = _through_a_wire if how.startswith("cut") else _at_its_commit
    with through(house, step, how) as (engine, telling, hits):
        world = replace(world_of(engine, webhook_url=webhook_url), telling=telling)
        try:
            drain(world, Order())
        except DBAPIError:
            failed = True
        else:
            failed = False
        world.client.close()
    assert hits, f"{begin}: there was no {step}"
    return failed


Telling = Callable[[Step, Moment], None]


@contextmanager
def _through_a_wire(
    house: Engine, step: Step, how: str
) -> Iterator[tuple[Engine, Telling, list[str]]]:
    """The wire to the database is cut round the COMMIT of a step."""
    url = house.url.render_as_string(hide_password=False)
    with wired(url) as (wire, through):
        left = [how.removeprefix("cut ")]

        def telling(told: Step, moment: Moment) -> None:
            if left and (told, moment) == (step, Moment.BEFORE):
                wire.arm(left.pop())

        engine = make_engine(through)
        yield engine, telling, wire.cuts
        engine.dispose()


@contextmanager
def _at_its_commit(
    house: Engine, step: Step, how: str
) -> Iterator[tuple[Engine, Telling, list[str]]]:
    """When a step is about to commit, its connection is killed, or its transaction undone."""
    engine = make_engine(house.url.render_as_string(hide_password=False))
    now: list[Step] = []
    hits: list[str] = []

    def telling(told: Step, moment: Moment) -> None:
        now[:] = [told] if moment is Moment.BEFORE else []

    def commits(connection: Connection) -> None:
        if now == [step] and not hits:
            hits.append(how)
            (_kill if how == "killed" else _deadlock)(house, connection)

    event.listen(engine, "commit", commits)
    yield engine, telling, hits
    engine.dispose()


def _kill(house: Engine, connection: Connection) -> None:
    is_postgresql = connection.dialect.name == "postgresql"
    asked = "SELECT pg_backend_pid()" if is_postgresql else "SELECT connection_id()"
    number = int(connection.execute(text(asked)).scalar_one())
    ended = f"SELECT pg_terminate_backend({number})" if is_postgresql else f"KILL {number}"
    with house.connect() as other:
        other.execute(text(ended))


def _deadlock(_house: Engine, connection: Connection) -> None:
    """The server gives the transaction up, as it does with one of two that wait for each other."""
    statement = (
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$"
        if connection.dialect.name == "postgresql"
        else "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
    )
    connection.execute(text(statement))


def _finish(house: Engine, sandbox: Sandbox) -> None:
    """Others come, as often as it takes; a person has resumed what was paused."""
    world = world_of(house, webhook_url=sandbox.webhook_url)
    for _ in range(4):
        active = {"state": "active", "state_reason": None}
        with writing(house) as connection:
            connection.execute(update(tables.portal).values(**active))
        _goes_by(house)
        drain(world, Order())
    world.client.close()
    assert rows_of(house, tables.outbox) == []


# Death while the portal works


@on_postgresql
def test_a_worker_that_dies_while_the_portal_works(opens: Open) -> None:
    """Dies after the send, before the answer: the portal finishes alone, and its records are found."""
    place = opens(latency_s=0.4)
    place.portal("p")
    place.add("p", 5)
    pid = place.nursery.start(portal="p")
    _wait_for(place, "sending")

    place.nursery.tell(pid, signal.SIGKILL)
    assert place.nursery.ended(pid) == KILLED
    place.finish(workers=1)

    account = place.account()
    account.assert_clean()
    assert account.looked_up == 5
    written = [asked for asked in place.requests() if asked["commands"] == 5]
    assert len(written) == 2, "the batch and the look"


def _wait_for(place: Place, state: str) -> None:
    def is_there() -> bool:
        return any(batch["state"] == state for batch in rows_of(place.engine, tables.batch))

    wait_until(is_there, within_s=10, what=place.report)


# What people and machines do


@on_postgresql
def test_a_record_that_a_person_removed_before_the_look_is_made_again(place: Place) -> None:
    """The look finds nothing, so the change is said again: a second copy by a person's hand alone."""
    place.portal("p")
    place.add("p", 2)
    place.die({"p": ("send", "after", 1)})
    gone = min(place.records())
    answer = requests.post(
        f"{place.webhook_url}crm.item.delete", json={"entityTypeId": 4, "id": gone}, timeout=10
    )
    answer.raise_for_status()

    place.finish(workers=1)

    place.account().assert_clean()
    assert gone not in place.records()
    assert len(place.records()) == 2


def test_the_go_is_durable_before_the_socket(house: Engine) -> None:
    """A server that loses power after the COMMIT of a go must still know of it."""
    statement = {
        "postgresql": "SHOW synchronous_commit",
        "mysql": "SELECT @@innodb_flush_log_at_trx_commit",
    }
    with house.connect() as connection:
        chosen = connection.execute(text(statement[house.dialect.name])).scalar_one()
    assert str(chosen) in {"on", "1"}


HOURS_S = 3600.0


def test_workers_whose_clocks_differ_by_hours_share_the_work(
    house: Engine, sandbox: Sandbox
) -> None:
    """Clock of a worker is wrong: it bounds its own slice by it and nothing that is stored."""
    add_rows(house, *(f"k{number}" for number in range(6)), operation="add")
    worlds = [
        replace(
            world_of(house, webhook_url=sandbox.webhook_url, batch_size=1, slice_batches=1),
            clock=partial(_shifted, by_s),
        )
        for by_s in (-HOURS_S, HOURS_S)
    ]

    tallies = [drain(world, Order()) for _ in range(3) for world in worlds]

    assert tallies == [
        Tally(batches=1, outcomes={"applied": 1}, more=tally.more) for tally in tallies
    ]
    assert len(sandbox.records("contact")) == 6
    assert rows_of(house, tables.outbox) == []
    for world in worlds:
        world.client.close()


def _shifted(by_s: float) -> float:
    return monotonic() + by_s


CLOCKS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}
PARTS = ("core", "edge", "drain", "capture")


def test_no_clock_but_the_databases_is_asked() -> None:
    """Clock of a worker is wrong: no module that reads or writes tables asks what time it is."""
    home = Path(b24sync.__file__).parent
    files = [file for part in PARTS for file in (home / part).rglob("*.py")]
    files += [home / "world.py", home / "tasks.py", home / "outbox.py"]
    asked = {
        f"{file.name}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLOCKS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"time", "datetime", "date"}
    }

    assert len(files) > 30
    assert asked == set()
