"""How far a failed command reaches: the three halt modes, on a portal that obeys them."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import cast
from urllib.parse import unquote

import hypothesis
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, insert, update

from b24sync.core.model import HaltMode, Ref
from b24sync.core.refs import stored
from b24sync.drain import Order, Tally, drain
from b24sync.edge import deciding, tables, taking
from b24sync.edge.database import make_engine, reading, writing
from b24sync.edge.tokens import Keyring, new_key
from b24sync.sandbox import Sandbox
from b24sync.world import World
from tests.fakes import Answer, Asked, Line, ScriptedPortal
from tests.house import (
    Found,
    HaltingClerk,
    add_batch,
    add_portal,
    add_row,
    add_rows,
    change,
    endings,
    one,
    refusal,
    rows_of,
    states,
    time_passes,
    world_of,
)

ARGUMENT = ("INVALID_ARG_VALUE", "Name is not a name")
SORRY = ("INTERNAL_SERVER_ERROR", "Internal server error")
OUT_OF_TIME = ("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.")

INDEPENDENT = Order(halt=HaltMode.INDEPENDENT)
CHAIN = Order(halt=HaltMode.CHAIN)
STRICT = Order(halt=HaltMode.STRICT)

KEYS = tuple(f"k{number}" for number in range(6))

_name = re.compile(r"\[(?:name|title)\]=(\w+)").search


@pytest.fixture
def connected(house: Engine, sandbox: Sandbox) -> Iterator[World]:
    """A world whose portal is the sandbox, over real sockets."""
    world = replace(world_of(house, webhook_url=sandbox.webhook_url), chance=lambda: 0.5)
    yield world
    world.client.close()


@dataclass(slots=True)
class Stage:
    """A portal that obeys ``halt``, a world before it, and what the tables said after each batch.

    Shape: ``passes`` are states and counters (attempts, deliveries, not-runs) by key; ``firsts`` the
    rows that go before all others.
    """

    engine: Engine
    clerk: HaltingClerk
    portal: ScriptedPortal
    world: World
    passes: list[dict[str, tuple[str, int, int, int]]] = field(
        default_factory=list[dict[str, tuple[str, int, int, int]]]
    )
    firsts: list[list[int] | None] = field(default_factory=list[list[int] | None])

    @property
    def ran(self) -> list[list[str]]:
        """The names in the commands that ran, request by request."""
        return [[_named(line) for line in request] for request in self.clerk.ran]

    def drain(self, order: Order) -> Tally:
        """One run."""
        return drain(self.world, order, watching=self._watch)

    def _watch(self, tally: Tally) -> None:
        if tally.batches:
            self.passes.append(_counters(self.engine))
            self.firsts.append(_lane(self.engine)["first_rows"])


def _staged(
    engine: Engine, clerk: HaltingClerk | None = None, *lines: Line, **settings: object
) -> Stage:
    """The portal says these lines first; a row that tries again has to wait for seconds."""
    clerk = clerk or HaltingClerk()
    portal = ScriptedPortal(chain(lines, repeat(clerk)))
    world = replace(world_of(engine, portal, **settings), chance=lambda: 0.5)
    return Stage(engine=engine, clerk=clerk, portal=portal, world=world)


def _named(line: str) -> str:
    found = _name(line)
    return line if found is None else found[1]


def _counters(engine: Engine) -> dict[str, tuple[str, int, int, int]]:
    return {
        row["entity_key"]: (row["state"], row["attempts"], row["deliveries"], row["not_runs"])
        for row in rows_of(engine, tables.outbox)
    }


def _results(engine: Engine) -> dict[str, list[tuple[str, int]]]:
    """Outcome and attempt of each result, by key."""
    found: dict[str, list[tuple[str, int]]] = {}
    for row in rows_of(engine, tables.result):
        found.setdefault(row["entity_key"], []).append((row["outcome"], row["attempt"]))
    return found


def _link(engine: Engine, *keys: str, kind: str = "contact") -> None:
    with writing(engine) as connection:
        for number, key in enumerate(keys, start=900):
            connection.execute(
                insert(tables.link).values(
                    portal="default",
                    kind=kind,
                    entity_key=key,
                    remote_id=str(number),
                    state="present",
                )
            )


def _set_ready(engine: Engine, key: str) -> None:
    """A person says that it may be sent."""
    ready = {"state": "ready", "batch_id": None, "cmd_no": None, "state_reason": None}
    change(engine, tables.outbox, ready, entity_key=key)


def _lane(engine: Engine) -> Found:
    return one(engine, tables.lane, portal="default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One way for a command to fail, and what is known of its row then.

    Shape: ``state`` and counters are those in the outbox, ``None`` for a row that has left it;
    ``result`` has outcome and attempt.
    """

    complaint: tuple[str, str]
    is_known: bool
    state: tuple[str, int, int, int] | None
    result: tuple[str, int]
    later: tuple[tuple[str, int], ...] = ()


FOR_GOOD = Failure(complaint=ARGUMENT, is_known=False, state=None, result=("failed", 1))
FOR_NOW = Failure(
    complaint=SORRY,
    is_known=True,
    state=("ready", 1, 1, 0),
    result=("retried", 1),
    later=(("applied", 2),),
)
# An add that failed inside the portal may have been made all the same.
UNKNOWN = Failure(complaint=SORRY, is_known=False, state=("doubt", 0, 1, 0), result=("unknown", 0))
FAILURES = [
    pytest.param(FOR_GOOD, id="for good"),
    pytest.param(FOR_NOW, id="for now"),
    pytest.param(UNKNOWN, id="unknown"),
]


def _failing(engine: Engine, failure: Failure, key: str, keys: Sequence[str] = KEYS) -> Stage:
    """A stage on which the command of this key fails once."""
    if failure.is_known:
        _link(engine, *keys)
    return _staged(engine, HaltingClerk({f"={key}": [failure.complaint]}))


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", range(6))
def test_independent_commands_run_whatever_happens_to_the_others(
    lite_house: Engine, failure: Failure, place: int
) -> None:
    """One request, all six executed; what became of one says nothing of the others."""
    bad = KEYS[place]
    stage = _failing(lite_house, failure, bad)
    add_rows(lite_house, *KEYS)

    stage.drain(INDEPENDENT)

    assert stage.ran == [list(KEYS)]
    assert [asked.params["halt"] for asked in stage.portal.asked] == [0]
    assert stage.passes[0] == ({} if failure.state is None else {bad: failure.state})
    assert _results(lite_house) == {
        key: [failure.result if key == bad else ("applied", 1)] for key in KEYS
    }

    time_passes(lite_house)
    stage.drain(INDEPENDENT)

    assert stage.ran[1:] == ([[bad]] if failure.later else [])
    assert _results(lite_house)[bad] == [failure.result, *failure.later]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", range(6))
def test_in_a_chain_what_a_failure_has_spared_goes_in_the_next_request(
    lite_house: Engine, failure: Failure, place: int
) -> None:
    """Executed up to the failure; the rest is not run, at no charge, and then it is."""
    bad, behind = KEYS[place], KEYS[place + 1 :]
    stage = _failing(lite_house, failure, bad)
    ids = add_rows(lite_house, *KEYS)

    stage.drain(CHAIN)

    assert stage.ran == [list(KEYS[: place + 1]), *([list(behind)] if behind else [])]
    assert {asked.params["halt"] for asked in stage.portal.asked} == {1}
    own = {} if failure.state is None else {bad: failure.state}
    assert stage.passes[0] == own | dict.fromkeys(behind, ("ready", 0, 1, 1))
    assert stage.firsts[0] == (ids[place + 1 :] or None)
    assert _counters(lite_house) == own
    assert _results(lite_house) == {
        **{key: [("applied", 1)] for key in KEYS[:place]},
        bad: [failure.result],
        **{key: [("skipped", 0), ("applied", 1)] for key in behind},
    }

    time_passes(lite_house)
    requests_before = len(stage.ran)
    stage.drain(CHAIN)

    assert stage.ran[requests_before:] == ([[bad]] if failure.later else [])
    assert _results(lite_house)[bad] == [failure.result, *failure.later]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", range(6))
def test_strictly_nothing_goes_behind_a_failure_until_it_is_over(
    lite_house: Engine, failure: Failure, place: int
) -> None:
    """The lane stands, or waits as long as the row that tries again; then all go on in order."""
    bad, behind = KEYS[place], KEYS[place + 1 :]
    stage = _failing(lite_house, failure, bad)
    ids = add_rows(lite_house, *KEYS)
    add_rows(lite_house, "new", priority=-1)
    change(lite_house, tables.outbox, {"due_at": 10**15}, entity_key="new")
    # One for good is not given up on: it rests until a person decides.
    state = failure.state or ("held", 1, 1, 0)
    result = failure.result if failure.state else ("stopped", 1)

    stage.drain(STRICT)
    again = stage.drain(STRICT)

    assert stage.ran == [list(KEYS[: place + 1])]
    assert {asked.params["halt"] for asked in stage.portal.asked} == {1}
    left = {bad: state} | dict.fromkeys(behind, ("ready", 0, 1, 1)) | {"new": ("ready", 0, 0, 0)}
    assert stage.passes == [left]
    assert again == Tally()
    assert _lane(lite_house)["stopped_by"] == (None if failure.later else ids[place])
    assert _results(lite_house) == {
        **{key: [("applied", 1)] for key in KEYS[:place]},
        bad: [result],
        **{key: [("skipped", 0)] for key in behind},
    }

    _set_ready(lite_house, bad)
    time_passes(lite_house)
    stage.drain(STRICT)

    assert stage.ran[1:] == [[bad, *behind, "new"]]
    assert rows_of(lite_house, tables.outbox) == []
    assert {key: found[-1][0] for key, found in _results(lite_house).items()} == dict.fromkeys(
        [*KEYS, "new"], "applied"
    )


EIGHT = tuple(f"k{number}" for number in range(8))


@pytest.mark.parametrize(
    ("order", "requests"),
    [
        (INDEPENDENT, ["k0 k1 k2", "k3 k4 k5", "k6 k7"]),
        (CHAIN, ["k0 k1 k2", "k3 k4", "k5 k6 k7"]),
        (STRICT, ["k0 k1 k2", "k3 k4"]),
    ],
    ids=["independent", "chain", "strict"],
)
def test_a_failure_in_the_second_of_three_batches(
    house: Engine, order: Order, requests: list[str]
) -> None:
    """Batches before it are none of its business, and those behind it as far as the mode says."""
    stage = _staged(house, HaltingClerk({"=k4": [ARGUMENT]}), batch_size=3)
    ids = dict(zip(EIGHT, add_rows(house, *EIGHT), strict=True))

    stage.drain(order)

    assert [" ".join(request) for request in stage.ran] == requests
    found = _results(house)
    assert [found[key] for key in EIGHT[:4]] == [[("applied", 1)]] * 4
    if order is STRICT:
        assert found["k4"] == [("stopped", 1)]
        assert found["k5"] == [("skipped", 0)]
        assert _counters(house) == {
            "k4": ("held", 1, 1, 0),
            "k5": ("ready", 0, 1, 1),
            "k6": ("ready", 0, 0, 0),
            "k7": ("ready", 0, 0, 0),
        }
        lane = _lane(house)
        assert (lane["stopped_by"], lane["first_rows"]) == (ids["k4"], [ids["k4"], ids["k5"]])
        assert one(house, tables.outbox, entity_key="k4")["state_reason"] == (
            "stopped: INVALID_ARG_VALUE: Name is not a name"
        )
        return
    spared = [("skipped", 0)] if order is CHAIN else []
    assert found["k4"] == [("failed", 1)]
    assert found["k5"] == [*spared, ("applied", 1)]
    assert (found["k6"], found["k7"]) == ([("applied", 1)], [("applied", 1)])
    assert one(house, tables.dead)["entity_key"] == "k4"
    assert _counters(house) == {}


@pytest.mark.parametrize(
    ("order", "requests"),
    [
        (INDEPENDENT, ["k0 k1 k2 k3 k4 k5"]),
        (CHAIN, ["k0 k1 k2", "k3 k4 k5"]),
        (STRICT, ["k0 k1 k2"]),
    ],
    ids=["independent", "chain", "strict"],
)
@pytest.mark.parametrize("complaint", [ARGUMENT, SORRY], ids=["for good", "for now"])
def test_a_real_portal_obeys_the_mode(
    sandbox: Sandbox,
    connected: World,
    complaint: tuple[str, str],
    order: Order,
    requests: list[str],
) -> None:
    """The same over HTTP, with records that are there: each is changed once, or not yet."""
    house = connected.engine
    add_rows(house, *KEYS, fields={"name": "old"})
    drain(connected, Order())
    sandbox.add_fault("command", field="name", matches="^k2$", code=complaint[0], text=complaint[1])
    with writing(house) as connection:
        for key in KEYS:
            add_row(connection, key, operation="update", fields={"name": key})

    drain(connected, order)

    ran: dict[int, list[str]] = {}
    for command in sandbox.journal()[len(KEYS) :]:
        assert command.ok == (_sent_name(command.params) != "k2")
        ran.setdefault(command.request, []).append(_sent_name(command.params))
    assert [" ".join(names) for names in ran.values()] == requests
    wanted = {"k2": "old"} if order is not STRICT else dict.fromkeys(KEYS[2:], "old")
    names = [str(record["name"]) for record in sandbox.records("contact").values()]
    assert names == [wanted.get(key, key) for key in KEYS]
    is_over = complaint is ARGUMENT and order is not STRICT
    assert ("k2" in states(house)) is not is_over

    # What is wrong is put right, and everything that was left goes in its order.
    if complaint is ARGUMENT and order is STRICT:
        _set_ready(house, "k2")
    time_passes(house)
    done = len(sandbox.journal())
    drain(connected, order)

    left = [] if is_over else ["k2"] if order is not STRICT else list(KEYS[2:])
    assert [_sent_name(command.params) for command in sandbox.journal()[done:]] == left
    assert states(house) == {}
    last = {"k2": "old"} if is_over else {}
    names = [str(record["name"]) for record in sandbox.records("contact").values()]
    assert names == [last.get(key, key) for key in KEYS]


def _sent_name(params: object) -> str:
    fields = cast("Found", params)["fields"]
    return str(fields.get("name", fields.get("title")))


@pytest.mark.parametrize("order", [INDEPENDENT, CHAIN, STRICT], ids=lambda o: str(o.halt))
def test_a_command_that_is_not_answered_is_in_doubt_in_every_mode(
    house: Engine, order: Order
) -> None:
    """Those behind it did run, so its silence is no failure; strictly, nothing more goes."""
    stage = _staged(house, HaltingClerk(silent=["=k2"]))
    ids = dict(zip(KEYS, add_rows(house, *KEYS), strict=True))

    stage.drain(order)
    add_rows(house, "next")
    stage.drain(order)

    assert stage.ran == [list(KEYS)] + ([] if order is STRICT else [["next"]])
    assert _counters(house)["k2"] == ("doubt", 0, 1, 0)
    assert _results(house)["k5"] == [("applied", 1)]
    assert _lane(house)["stopped_by"] == (ids["k2"] if order is STRICT else None)


def test_what_was_spared_goes_first_in_the_next_run_too(house: Engine) -> None:
    """Before new rows of a smaller priority number, and before new rows of a smaller id."""
    stage = _staged(house, HaltingClerk({"=k1": [ARGUMENT]}), slice_batches=1)
    with writing(house) as connection:
        ids = [add_row(connection, key, id=number) for number, key in enumerate(KEYS, start=100)]
    tally = stage.drain(CHAIN)
    lane = _lane(house)
    with writing(house) as connection:
        add_row(connection, "urgent", id=200, priority=-5)
        add_row(connection, "older", id=1)

    stage.drain(CHAIN)

    assert tally == Tally(batches=1, outcomes={"applied": 1, "failed": 1, "skipped": 4}, more=True)
    assert lane["first_rows"] == ids[2:]
    assert stage.ran == [["k0", "k1"], ["k2", "k3", "k4", "k5", "urgent", "older"]]
    assert _lane(house)["first_rows"] is None


def test_what_was_spared_twice_keeps_its_place(house: Engine) -> None:
    """A failure among the spared spares the rest of them once more, at no charge."""
    stage = _staged(house, HaltingClerk({"=k1": [ARGUMENT], "=k3": [ARGUMENT]}), slice_batches=1)
    ids = add_rows(house, *KEYS)

    stage.drain(CHAIN)
    add_rows(house, "urgent", priority=-5)
    stage.drain(CHAIN)
    counters = (_counters(house), _lane(house)["first_rows"])
    stage.drain(replace(CHAIN, limit=1))
    stage.drain(CHAIN)

    assert stage.ran == [["k0", "k1"], ["k2", "k3"], ["k4"], ["k5", "urgent"]]
    assert counters == (
        {"k4": ("ready", 0, 2, 2), "k5": ("ready", 0, 2, 2), "urgent": ("ready", 0, 1, 1)},
        [*ids[4:], ids[-1] + 1],
    )
    assert states(house) == {}


def test_the_spared_that_do_not_fit_the_next_request_go_in_the_one_after(house: Engine) -> None:
    """A bound of rows parts them; all others still stand behind."""
    stage = _staged(house, HaltingClerk({"=k0": [ARGUMENT]}), slice_batches=1)
    add_rows(house, "k0", "k1", "k2", "k3")

    stage.drain(CHAIN)
    add_rows(house, "urgent", priority=-5)
    stage.drain(replace(CHAIN, limit=2))
    stage.drain(CHAIN)

    assert stage.ran == [["k0"], ["k1", "k2"], ["k3", "urgent"]]


def test_a_command_that_goes_by_itself_is_passed_by_a_batch_and_not_in_the_strict_mode(
    lite_house: Engine,
) -> None:
    """Text that looks like a reference must not meet a batch; strictly it still keeps its turn."""
    fields = {"name": "costs $result[a] & more"}
    stage = _staged(lite_house)
    for key in ("a1", "b1"):
        add_rows(lite_house, key)
        add_rows(lite_house, f"{key} alone", fields=fields)
        add_rows(lite_house, key.replace("1", "2"))

        stage.drain(CHAIN if key == "a1" else STRICT)

    alone = ["crm.item.add"]
    assert stage.ran == [["a1", "a2"], alone, ["b1"], alone, ["b2"]]


def test_the_spared_keep_their_place_while_the_portal_is_not_reached(house: Engine) -> None:
    """A request that was never sent, and one whose worker went away before it, change nothing."""
    clerk = HaltingClerk({"=k0": [ARGUMENT]})
    stage = _staged(house, clerk, clerk, requests.ConnectTimeout(), slice_batches=1)
    ids = add_rows(house, "k0", "k1", "k2")
    stage.drain(CHAIN)
    add_rows(house, "urgent", priority=-5)

    stage.drain(CHAIN)
    kept = _lane(house)["first_rows"]
    time_passes(house)
    _worker_goes_away(house, ids[1:], "journalled")
    stage.drain(CHAIN)

    assert kept == ids[1:]
    assert stage.ran == [["k0"], ["k1", "k2", "urgent"]]


def _worker_goes_away(engine: Engine, ids: Sequence[int], state: str) -> None:
    """A worker that had put these rows into a batch is not there any more."""
    with writing(engine) as connection:
        number = add_batch(connection, state)
        for place, row_id in enumerate(ids):
            values = {"state": "batched", "batch_id": number, "cmd_no": place}
            connection.execute(
                update(tables.outbox).where(tables.outbox.c.id == row_id).values(values)
            )
        connection.execute(update(tables.lane).values(open_batch_id=number, next_due_at=0))


def _refers(kind: str, key: str) -> dict[str, object]:
    return stored(Ref(kind, key))


def _company(engine: Engine, key: str, **values: object) -> int:
    fields = {"title": key} | cast("Found", values.pop("fields", {}))
    (row_id,) = add_rows(engine, key, kind="company", fields=fields, **values)
    return row_id


def _contact(engine: Engine, key: str, parent: str, **values: object) -> int:
    fields = {"name": key, "companyId": _refers("company", parent)}
    (row_id,) = add_rows(engine, key, fields=fields, **values)
    return row_id


def _sent(stage: Stage) -> list[list[str]]:
    """The commands as they were written, request by request."""
    return [
        [unquote(line) for line in asked.params["cmd"].values()] for asked in stage.portal.asked
    ]


def _never_refers_without_halt(portal: ScriptedPortal) -> bool:
    """Whether no body has a reference to a result, but those that stop at the first failure."""
    return all(
        asked.params["halt"] == 1
        for asked in portal.asked
        if asked.method == "batch" and "$result" in unquote(asked.body.decode())
    )


def test_in_a_chain_a_new_id_is_taken_within_the_request(house: Engine) -> None:
    """By the label of the command that makes it, at the place where its kind answers with the id."""
    stage = _staged(house)
    parent = _company(house, "acme")
    _contact(house, "ann", "acme")

    tally = stage.drain(CHAIN)

    add, ours = "crm.item.add?entityTypeId=", "&fields[originatorId]=b24sync"
    company, contact = _sent(stage)[0]
    assert company == f"{add}4&fields[title]=acme&fields[originId]=company:acme{ours}"
    new_id = f"$result[r{parent}][item][id]"
    marker = f"&fields[originId]=contact:ann{ours}"
    assert contact == f"{add}3&fields[name]=ann&fields[companyId]={new_id}{marker}"
    assert "fields[companyId]=1&" in stage.clerk.ran[0][1]
    assert tally == Tally(batches=1, outcomes={"applied": 2})
    assert stage.portal.asked[0].params["halt"] == 1


def test_independent_commands_never_take_an_id_within_the_request(house: Engine) -> None:
    """A reference to a failed command would be sent on as text; the child goes in the next request."""
    stage = _staged(house)
    _company(house, "acme")
    _contact(house, "ann", "acme")

    tally = stage.drain(INDEPENDENT)

    assert stage.ran == [["acme"], ["ann"]]
    assert not any("$result" in line for request in _sent(stage) for line in request)
    assert tally == Tally(batches=2, outcomes={"applied": 2})


def test_what_is_referred_to_goes_before_what_refers_to_it(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """However they were written: grandchild, child, parent become one request, over HTTP."""
    fields = {"title": "big", "contactId": _refers("contact", "ann")}
    add_rows(house, "big", kind="deal", fields=fields | {"companyId": _refers("company", "acme")})
    add_rows(house, "other")
    _contact(house, "ann", "acme")
    _company(house, "acme")

    tally = drain(connected, CHAIN)

    assert tally == Tally(batches=1, outcomes={"applied": 4})
    assert [_sent_name(command.params) for command in sandbox.journal()] == [
        "acme",
        "ann",
        "big",
        "other",
    ]
    (company,) = sandbox.records("company")
    contact = next(r for r in sandbox.records("contact").values() if r["name"] == "ann")
    (deal,) = sandbox.records("deal").values()
    assert int(str(contact["companyId"])) == company
    assert (int(str(deal["companyId"])), int(str(deal["contactId"]))) == (company, contact["id"])


@pytest.mark.parametrize("complaint", [ARGUMENT, SORRY], ids=["for good", "unknown"])
def test_children_of_a_failed_parent_are_never_sent_with_the_text_of_a_reference(
    house: Engine, complaint: tuple[str, str]
) -> None:
    """Spared first, and then they wait for their parent; the others of the batch go on."""
    stage = _staged(house, HaltingClerk({"=acme": [complaint]}))
    _company(house, "acme")
    _contact(house, "ann", "acme")
    add_rows(house, "bob")

    stage.drain(CHAIN)

    assert stage.ran == [["acme"], ["bob"]]
    row = one(house, tables.outbox, entity_key="ann")
    assert (row["state"], row["waits_for"]) == ("held", "company acme")
    assert (row["attempts"], row["deliveries"], row["not_runs"]) == (0, 1, 1)
    assert _results(house)["ann"] == [("skipped", 0)]
    assert _never_refers_without_halt(stage.portal)


def test_a_child_goes_on_with_its_parent_that_was_tried_again(house: Engine) -> None:
    """The parent's time is out for a while; the child is spared, and goes in the same request then."""
    stage = _staged(house, HaltingClerk({"=acme": [OUT_OF_TIME]}))
    _company(house, "acme")
    _contact(house, "ann", "acme")

    first = stage.drain(CHAIN)
    waiting = _counters(house)
    time_passes(house)
    stage.drain(CHAIN)

    assert first.outcomes == {"skipped": 1}
    assert first.deferred == 1
    assert waiting == {"acme": ("ready", 0, 1, 0), "ann": ("held", 0, 1, 1)}
    assert stage.ran[0] == ["acme"]
    assert sorted(name for request in stage.ran[1:] for name in request) == ["acme", "ann"]
    assert states(house) == {}


def test_a_chain_is_not_cut_where_a_batch_is_full(house: Engine) -> None:
    """It goes whole in the next one, and single commands take the seats that are left."""
    stage = _staged(house, batch_size=4)
    _contact(house, "orphan", "nobody")
    add_rows(house, "a", "b", "c")
    _company(house, "acme")
    _contact(house, "ann", "acme")
    _contact(house, "bob", "acme")
    add_rows(house, "d")

    stage.drain(CHAIN)

    assert stage.ran == [["a", "b", "c", "d"], ["acme", "ann", "bob"]]
    assert all("fields[companyId]=5&" in line for line in stage.clerk.ran[1][1:])
    assert states(house) == {"orphan": "held"}


@pytest.mark.parametrize("shape", ["one behind the other", "all of one"])
def test_a_chain_longer_than_a_batch_goes_on_with_the_ids_of_its_beginning(
    house: Engine, sandbox: Sandbox, connected: World, shape: str
) -> None:
    """Fifty at once, in order; the rest refers to records that are there by then."""
    _contact(house, "orphan", "nobody")
    keys = [f"c{number:02}" for number in range(60)]
    with writing(house) as connection:
        for number, key in enumerate(keys):
            parent = keys[number - 1 if shape == "one behind the other" else 0]
            fields: Found = {"title": key}
            if number:
                fields["parentId1036"] = _refers("item:1036", parent)
            add_row(connection, key, kind="item:1036", fields=fields)

    tally = drain(connected, CHAIN)

    assert [request.commands for request in sandbox.requests()] == [50, 10]
    assert tally.outcomes == {"applied": 60}
    records = {str(r["title"]): r for r in sandbox.records("item:1036").values()}
    for number, key in enumerate(keys[1:]):
        above = records[keys[number if shape == "one behind the other" else 0]]
        assert int(str(records[key]["parentId1036"])) == above["id"]


@pytest.mark.parametrize(
    ("policy", "order", "requests"),
    [
        pytest.param(None, Order(), ["k0 k1 k2"], id="nothing said"),
        pytest.param({"halt": "chain"}, Order(), ["k0 k1", "k2"], id="the portal's"),
        pytest.param({"halt": "strict"}, Order(), ["k0 k1"], id="the portal's, strict"),
        pytest.param({"halt": "strict"}, CHAIN, ["k0 k1", "k2"], id="the call's, less strict"),
        pytest.param({"halt": "chain"}, INDEPENDENT, ["k0 k1 k2"], id="the call's, none"),
        pytest.param({"halt": "independent"}, STRICT, ["k0 k1"], id="the call's, strict"),
        pytest.param({"halt": "hard"}, Order(), ["k0 k1 k2"], id="a mode that is none"),
        pytest.param(["chain"], Order(), ["k0 k1 k2"], id="no policy at all"),
    ],
)
def test_a_call_says_the_mode_and_else_the_portal_does(
    lite_house: Engine, policy: object, order: Order, requests: list[str]
) -> None:
    """What a call does not say is as the portal's policy has it, and else independent."""
    change(lite_house, tables.portal, {"policy": policy}, code="default")
    stage = _staged(lite_house, HaltingClerk({"=k1": [ARGUMENT]}))
    add_rows(lite_house, "k0", "k1", "k2")

    stage.drain(order)

    assert [" ".join(request) for request in stage.ran] == requests


def test_each_portal_has_its_own_mode(house: Engine) -> None:
    """One run over two portals: the one stands still, the other goes on."""
    change(house, tables.portal, {"policy": {"halt": "strict"}}, code="default")
    key = new_key()
    ring = Keyring.from_keys([key])
    secret = {"secret": ring.encrypt("rest/1/hush/"), "secret_key_id": ring.key_ids[0]}
    add_portal(house, "other", base_url="https://other.example", **secret)
    stage = _staged(house, HaltingClerk({"=k0": repeat(ARGUMENT)}), secret_key=(key,))
    stage.world = replace(stage.world, keyring=ring)
    add_rows(house, "k0", "k1")
    add_rows(house, "k0", "k1", portal="other")

    stage.drain(Order())

    sent = sorted((asked.url.split("/")[2], asked.params["halt"]) for asked in stage.portal.asked)
    assert sent == [("other.example", 0), ("portal.example", 1)]
    assert sorted(stage.ran) == [["k0"], ["k0", "k1"]]


@pytest.mark.parametrize("left", ["deleted", "set ready", "given up"])
def test_a_lane_that_stands_still_goes_on_when_its_row_is_over(house: Engine, left: str) -> None:
    """Nothing is sent before, however often somebody tries; afterwards it goes on in its order."""
    stage = _staged(house, HaltingClerk({"=k2": [ARGUMENT]}), batch_size=4)
    ids = add_rows(house, *KEYS)

    stage.drain(STRICT)
    add_rows(house, "new", priority=-5)
    tries = [stage.drain(STRICT), stage.drain(Order()), stage.drain(CHAIN)]
    stands = (_lane(house)["stopped_by"], _counters(house))
    due = _due(house)
    if left == "deleted":
        with writing(house) as connection:
            connection.execute(delete(tables.outbox).where(tables.outbox.c.id == ids[2]))
    elif left == "set ready":
        _set_ready(house, "k2")
    else:
        with writing(house) as connection:
            deciding.skip(connection, ids[2])
    stage.drain(STRICT)

    assert tries == [Tally(), Tally(), Tally()]
    assert due == (0, None)
    assert stands == (
        ids[2],
        {
            "k2": ("held", 1, 1, 0),
            "k3": ("ready", 0, 1, 1),
            "k4": ("ready", 0, 0, 0),
            "k5": ("ready", 0, 0, 0),
            "new": ("ready", 0, 0, 0),
        },
    )
    rest = ["k2", "k3", "new", "k4"] if left == "set ready" else ["k3", "new", "k4", "k5"]
    assert stage.ran == [["k0", "k1", "k2"], rest, *([["k5"]] if left == "set ready" else [])]
    assert (states(house), _lane(house)["stopped_by"]) == ({}, None)


def _due(engine: Engine) -> tuple[int, int | None]:
    """How many lanes could be taken now, and in how many milliseconds one can."""
    with reading(engine) as connection:
        return taking.due(connection), taking.next_due_ms(connection)


def test_a_row_that_fails_again_stops_its_lane_again(house: Engine) -> None:
    """Each stop has a result of its own, and costs an attempt."""
    stage = _staged(house, HaltingClerk({"=k1": [ARGUMENT, ARGUMENT]}))
    add_rows(house, "k0", "k1", "k2")

    for _ in range(3):
        stage.drain(STRICT)
        _set_ready(house, "k1")
    stage.drain(STRICT)

    assert stage.ran == [["k0", "k1"], ["k1"], ["k1", "k2"]]
    assert _results(house)["k1"] == [("stopped", 1), ("stopped", 2), ("applied", 3)]
    assert _results(house)["k2"] == [("skipped", 0), ("skipped", 0), ("applied", 1)]


def test_strictly_patience_has_an_end_and_then_the_lane_stops(house: Engine) -> None:
    """A row that has been tried for the last time is not given up on."""
    _link(house, "k0", "k1")
    stage = _staged(house, HaltingClerk({"=k0": repeat(SORRY)}), max_attempts=2)
    add_rows(house, "k0", "k1", operation="update")

    stage.drain(STRICT)
    waits = (_lane(house)["stopped_by"], _due(house))
    time_passes(house)
    stage.drain(STRICT)

    assert waits[0] is None
    assert waits[1][0] == 0
    assert waits[1][1] is not None
    assert 3_000 < waits[1][1] <= 5_000
    assert _results(house)["k0"] == [("retried", 1), ("stopped", 2)]
    assert _counters(house) == {"k0": ("held", 2, 2, 0), "k1": ("ready", 0, 2, 2)}
    assert rows_of(house, tables.dead) == []


def test_strictly_nothing_overtakes_a_row_that_tries_again(house: Engine) -> None:
    """Neither new rows, nor smaller priorities, nor other runs: the lane waits with it."""
    _link(house, *KEYS)
    stage = _staged(house, HaltingClerk({"=k1": [SORRY]}))
    add_rows(house, "k0", "k1", "k2", operation="update")

    stage.drain(STRICT)
    add_rows(house, "new", priority=-5)
    tries = [stage.drain(STRICT), stage.drain(Order())]
    time_passes(house)
    stage.drain(STRICT)

    assert tries == [Tally(), Tally()]
    assert stage.ran == [["k0", "k1"], ["k1", "k2", "new"]]


@pytest.mark.parametrize(
    ("line", "counters"),
    [
        pytest.param(
            refusal("QUERY_LIMIT_EXCEEDED", "Too many requests", 503), (0, 1, 0), id="too many"
        ),
        pytest.param(requests.ConnectTimeout(), (0, 1, 0), id="not reached"),
    ],
)
def test_strictly_a_request_that_did_nothing_keeps_the_order(
    house: Engine, line: Line, counters: tuple[int, int, int]
) -> None:
    """All of it goes back at no charge, the lane rests, and new rows do not go before it."""
    change(house, tables.portal, {"rate_y": 0.5}, code="default")
    stage = _staged(house, None, line)
    add_rows(house, "k0", "k1")

    stage.drain(STRICT)
    after = _counters(house)
    at_once = stage.drain(STRICT)
    time_passes(house)
    stage.drain(STRICT)

    assert after == dict.fromkeys(("k0", "k1"), ("ready", *counters))
    assert at_once == Tally()
    assert stage.ran == [["k0", "k1"]]


def test_strictly_a_method_out_of_time_stops_all_others_for_as_long(house: Engine) -> None:
    """Its row was not executed, and what stands behind it must not be."""
    stage = _staged(house, HaltingClerk({"=k1": [OUT_OF_TIME]}))
    add_rows(house, "k0", "k1")
    add_rows(house, "k2", kind="deal", fields={"title": "k2"})

    stage.drain(STRICT)
    at_once = stage.drain(STRICT)
    time_passes(house)
    stage.drain(STRICT)

    assert at_once == Tally()
    assert stage.passes[0] == {"k1": ("ready", 0, 1, 0), "k2": ("ready", 0, 1, 1)}
    assert stage.ran == [["k0", "k1"], ["k1", "k2"]]


def test_strictly_a_lost_answer_stops_the_lane_until_all_of_it_is_known(house: Engine) -> None:
    """Who decided on the first of the doubted rows has not decided on the second."""
    stage = _staged(house, None, requests.ReadTimeout())
    ids = add_rows(house, "k0", "k1")
    add_rows(house, "k2", due_at=10**15)

    tally = stage.drain(STRICT)
    time_passes(house)
    tries = [stage.drain(STRICT)]
    stopped_by = [_lane(house)["stopped_by"]]
    with writing(house) as connection:
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id == ids[0]))
    tries.append(stage.drain(STRICT))
    stopped_by.append(_lane(house)["stopped_by"])
    _set_ready(house, "k1")
    time_passes(house)
    stage.drain(STRICT)

    assert tally == Tally(batches=1, outcomes={"unknown": 2})
    assert tries == [Tally(), Tally()]
    assert stopped_by == ids
    assert stage.ran == [["k1", "k2"]]


def test_a_late_answer_lets_a_strict_lane_go_on(house: Engine) -> None:
    """The worker heard it after the lane was taken from it; nobody has to decide any more."""
    clerk = HaltingClerk()
    other: list[Tally] = []

    def slow(asked: Asked) -> Answer:
        change(house, tables.lane, {"lease_until": 0})
        add_rows(house, "k2")
        other.append(drain(world_of(house, ScriptedPortal([])), STRICT))
        return clerk(asked)

    stage = _staged(house, clerk, slow)
    add_rows(house, "k0", "k1")
    stage.drain(STRICT)

    assert other == [Tally()]
    assert stage.ran == [["k0", "k1"], ["k2"]]
    assert (states(house), _lane(house)["stopped_by"]) == ({}, None)


@pytest.mark.parametrize("mode", [STRICT, CHAIN], ids=["strict", "chain"])
def test_a_batch_whose_worker_went_away_stops_a_strict_lane_only(
    house: Engine, mode: Order
) -> None:
    """It may have been sent; strictly, nothing may follow what nobody knows of."""
    stage = _staged(house)
    ids = add_rows(house, "k0", "k1", "k2")
    _worker_goes_away(house, ids[:2], "sending")
    change(house, tables.batch, {"quiet_until": 10**15})

    tally = stage.drain(mode)

    assert stage.ran == ([] if mode is STRICT else [["k2"]])
    assert tally.batches == len(stage.ran)
    assert _lane(house)["stopped_by"] == (ids[0] if mode is STRICT else None)
    assert states(house)["k0"] == states(house)["k1"] == "doubt"


def test_a_stop_that_is_over_has_no_say_later(house: Engine) -> None:
    """The row that stopped the lane once is in doubt now, in a run that does not mind."""
    clerk = HaltingClerk({"=k0": [ARGUMENT, SORRY]})
    stage = _staged(house, clerk)
    add_rows(house, "k0", "k1")
    stage.drain(STRICT)
    _set_ready(house, "k0")

    stage.drain(INDEPENDENT)
    add_rows(house, "k2")
    stage.drain(INDEPENDENT)

    assert stage.ran == [["k0"], ["k0", "k1"], ["k2"]]
    assert states(house) == {"k0": "doubt"}


def test_strictly_a_row_that_cannot_be_said_stops_the_lane_when_its_turn_has_come(
    house: Engine,
) -> None:
    """What stands before it is sent first; it is not given up on, and nothing goes behind it."""
    stage = _staged(house)
    add_rows(house, "k0", "k1")
    (bad,) = add_rows(house, "k2", operation="update")
    add_rows(house, "k3")

    tally = stage.drain(STRICT)
    again = stage.drain(STRICT)

    assert stage.ran == [["k0", "k1"]]
    assert tally == Tally(batches=1, outcomes={"applied": 2, "stopped": 1})
    assert again == Tally()
    row = one(house, tables.outbox, id=bad)
    assert (row["state"], row["attempts"], row["deliveries"]) == ("held", 0, 0)
    assert row["state_reason"].startswith("stopped: no_link: key: contact 'k2' is not known")
    result = one(house, tables.result, outbox_id=bad)
    assert (result["outcome"], result["final"], result["error_code"]) == (
        "stopped",
        False,
        "no_link",
    )
    assert _lane(house)["stopped_by"] == bad
    assert rows_of(house, tables.dead) == []

    change(house, tables.outbox, {"operation": "upsert"}, id=bad)
    _set_ready(house, "k2")
    stage.drain(STRICT)

    assert stage.ran[1:] == [["k2", "k3"]]


def test_strictly_the_first_row_may_be_the_one_that_cannot_be_said(house: Engine) -> None:
    """Nothing at all is sent, in this run and in the next."""
    stage = _staged(house)
    (bad,) = add_rows(house, "bad", operation="update")
    add_rows(house, "k1", "k2")

    tallies = [stage.drain(STRICT), stage.drain(STRICT)]

    assert tallies == [Tally(outcomes={"stopped": 1}), Tally()]
    assert stage.ran == []
    assert _counters(house)["k1"] == ("ready", 0, 0, 0)
    assert _lane(house)["stopped_by"] == bad


def test_strictly_what_has_to_be_read_first_stands_before_a_row_that_cannot_be_said(
    house: Engine, sandbox: Sandbox, connected: World
) -> None:
    """A look at the portal is on the way of the row before it, which goes first."""
    add_rows(house, "k0", fields={"name": "k0"})
    drain(connected, Order())
    add_rows(house, "k0", operation="update", fields={"fm": {"PHONE": ["+1"]}})
    (bad,) = add_rows(house, "bad", operation="update")

    tally = drain(connected, STRICT)

    assert tally == Tally(batches=1, looks=1, outcomes={"applied": 1, "stopped": 1})
    assert states(house) == {"bad": "held"}
    assert _lane(house)["stopped_by"] == bad
    (record,) = sandbox.records("contact").values()
    assert [row["value"] for row in cast("list[Found]", record["fm"])] == ["+1"]


@pytest.mark.parametrize("order", [INDEPENDENT, CHAIN, STRICT], ids=lambda o: str(o.halt))
def test_of_rows_that_went_as_one_the_one_to_blame_is_found_in_every_mode(
    house: Engine, order: Order
) -> None:
    """Parted until it is alone; what was right of it is done once, before it and behind it."""
    _link(house, "k0", "k1")
    stage = _staged(house, HaltingClerk({"[bad]=": repeat(ARGUMENT)}))
    with writing(house) as connection:
        ids = [
            add_row(connection, "k0", operation="update", fields={"name": "k0", name: 1})
            for name in ("one", "two", "bad", "four")
        ]
    add_rows(house, "k1", operation="update")

    stage.drain(order)

    kinds = ("one", "two", "bad", "four")
    said = [
        "+".join([_named(line), *(name for name in kinds if f"[{name}]=" in line)])
        for request in stage.clerk.ran
        for line in request
    ]
    together = "k0+one+two+bad+four"
    if order is STRICT:
        assert said == [together, "k0+one+two", "k1", "k0+bad"]
        assert _lane(house)["stopped_by"] == ids[2]
        assert states(house) == {"k0": "held parked"}
        assert endings(house) == {ids[0]: ["applied"], ids[1]: ["merged"], ids[3] + 1: ["applied"]}
        return
    assert [line for line in said if line != "k1"] == [together, "k0+one+two", "k0+bad", "k0+four"]
    assert endings(house) == {
        ids[0]: ["applied"],
        ids[1]: ["merged"],
        ids[2]: ["failed"],
        ids[3]: ["applied"],
        ids[3] + 1: ["applied"],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Entities of which each but the first may refer to one of those before it.

    Shape: ``parents`` by the place of the child; ``written`` are the places in the order of writing;
    ``complaints`` by place.
    """

    parents: Mapping[int, int]
    written: tuple[int, ...]
    complaints: Mapping[int, tuple[str, str]]


@st.composite
def _families(draw: st.DrawFn) -> Family:
    size = draw(st.integers(2, 10))
    parents = {
        child: draw(st.integers(0, child - 1)) for child in range(1, size) if draw(st.booleans())
    }
    written = draw(st.permutations(range(size)))
    complaint = st.sampled_from([ARGUMENT, SORRY, OUT_OF_TIME])
    complaints = draw(st.dictionaries(st.integers(0, size - 1), complaint, max_size=2))
    return Family(parents=parents, written=tuple(written), complaints=complaints)


@hypothesis.settings(max_examples=60, deadline=None)
@given(
    family=_families(),
    size=st.integers(1, 5),
    modes=st.lists(st.sampled_from([INDEPENDENT, CHAIN, STRICT]), min_size=4, max_size=4),
)
def test_no_reference_is_ever_sent_that_the_portal_would_not_replace(
    sqlite_original: Path,
    tmp_path_factory: pytest.TempPathFactory,
    family: Family,
    size: int,
    modes: list[Order],
) -> None:
    """Whatever fails, in any modes: only in a batch that halts, and every child has its parent's id."""
    file = tmp_path_factory.mktemp("halting") / "b24sync.db"
    shutil.copy(sqlite_original, file)
    engine = make_engine(f"sqlite:///{file}")
    add_portal(engine)
    complaints = {f"=e{place}&": [complaint] for place, complaint in family.complaints.items()}
    stage = _staged(engine, HaltingClerk(complaints), batch_size=size)
    with writing(engine) as connection:
        for place in family.written:
            parent = family.parents.get(place)
            fields: Found = {"title": f"e{place}", "z": 1}
            if parent is not None:
                fields["parentId"] = _refers("item:1036", f"e{parent}")
            add_row(connection, f"e{place}", kind="item:1036", fields=fields)

    for order in modes * 2:
        stage.drain(order)
        time_passes(engine)

    assert _never_refers_without_halt(stage.portal)
    ran = [line for request in stage.clerk.ran for line in request]
    assert not any("$result" in line for line in ran)
    ids = {row["entity_key"]: row["remote_id"] for row in rows_of(engine, tables.link)}
    for line in ran:
        above = family.parents.get(int(_named(line)[1:]))
        if above is not None:
            assert f"[parentId]={ids[f'e{above}']}&" in line
    finals = endings(engine)
    unfinished = {row["id"] for row in rows_of(engine, tables.outbox)}
    assert sorted([*finals, *unfinished]) == list(range(1, len(family.written) + 1))
    assert all(len(outcomes) == 1 for outcomes in finals.values())
    assert len(set(ids.values())) == len(ids)
    engine.dispose()


def test_a_doubt_that_a_person_must_decide_on_stops_the_lane_of_a_strict_call(
    house: Engine,
) -> None:
    """Its worker went away, and nothing tells what became of it; what stands behind it waits."""
    stage = _staged(house)
    ids = add_rows(house, "k0", "k1", "k2")
    _worker_goes_away(house, ids[:2], "sending")

    stage.drain(STRICT)
    again = stage.drain(STRICT)

    assert stage.ran == []
    assert again == Tally()
    assert _lane(house)["stopped_by"] == ids[0]
    assert states(house)["k2"] == "ready"
