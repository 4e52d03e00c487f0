"""Entities that refer to each other, and entities whose parent came to nothing."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations, repeat
from pathlib import Path
from typing import cast

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from b24sync.core.kinds import Kind, Method
from b24sync.core.model import HaltMode, Ref
from b24sync.core.policies import Orphans, Policy
from b24sync.core.refs import stored
from b24sync.drain import Order, Tally, drain
from b24sync.edge import dead_letters, tables
from b24sync.edge.database import make_engine, writing
from b24sync.sandbox import Sandbox
from b24sync.world import World
from tests.fakes import ScriptedPortal
from tests.house import (
    Found,
    HaltingClerk,
    add_portal,
    add_rows,
    change,
    endings,
    one,
    rows_of,
    states,
    time_passes,
    world_of,
)

ARGUMENT = ("INVALID_ARG_VALUE", "Name is not a name")

INDEPENDENT = Order(halt=HaltMode.INDEPENDENT)
CHAIN = Order(halt=HaltMode.CHAIN)

MODES = [pytest.param(INDEPENDENT, id="independent"), pytest.param(CHAIN, id="chain")]

BURY = {"*": Policy(orphans=Orphans.BURY)}


def _to(kind: str, key: str) -> dict[str, object]:
    return stored(Ref(kind, key))


def _company(engine: Engine, key: str, **fields: object) -> int:
    (row_id,) = add_rows(engine, key, kind="company", fields={"title": key} | fields)
    return row_id


def _contact(engine: Engine, key: str, **fields: object) -> int:
    (row_id,) = add_rows(engine, key, fields={"name": key} | fields)
    return row_id


def _records(sandbox: Sandbox, kind: str) -> dict[str, Found]:
    """The records of a kind by their names."""
    found = sandbox.records(kind).values()
    return {str(record.get("title", record.get("name"))): dict(record) for record in found}


def _results(engine: Engine) -> dict[str, list[str]]:
    """The outcomes of each entity, in their order."""
    found: dict[str, list[str]] = {}
    for row in rows_of(engine, tables.result):
        found.setdefault(row["entity_key"], []).append(row["outcome"])
    return found


def _number(value: object) -> int:
    return int(str(value))


@pytest.mark.parametrize("order", MODES)
def test_two_that_refer_to_each_other_are_both_linked_in_the_end(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """One is begun without the other, the other is made with it, and the first gets what it lacks."""
    house = connected.engine
    acme = _company(house, "acme", contactId=_to("contact", "ann"))
    ann = _contact(house, "ann", companyId=_to("company", "acme"))

    tally = drain(connected, order)

    company, contact = _records(sandbox, "company")["acme"], _records(sandbox, "contact")["ann"]
    assert _number(company["contactId"]) == contact["id"]
    assert _number(contact["companyId"]) == company["id"]
    assert len(sandbox.records("company")) == len(sandbox.records("contact")) == 1
    assert states(house) == {}
    assert endings(house) == {acme: ["applied"], ann: ["applied"]}
    assert sorted(map(tuple, _results(house).values())) == [("applied",), ("begun", "applied")]
    assert tally.outcomes == {"begun": 1, "applied": 2}
    methods = [command.method for command in sandbox.journal()]
    assert methods == ["crm.item.add", "crm.item.add", "crm.item.update"]


def test_a_begun_row_is_an_update_with_what_is_left_and_costs_no_attempt(house: Engine) -> None:
    """What was sent is not sent again; the record's id is in the result of the beginning."""
    clerk = HaltingClerk()
    world = world_of(house, ScriptedPortal(repeat(clerk)), slice_batches=1)
    _company(house, "acme", contactId=_to("contact", "ann"), comments="c")
    _contact(house, "ann", companyId=_to("company", "acme"))

    tally = drain(world, Order())

    assert tally == Tally(batches=1, outcomes={"begun": 1}, more=True)
    begun = next(row for row in rows_of(house, tables.outbox) if row["deliveries"] == 1)
    result = one(house, tables.result)
    assert (result["outbox_id"], result["final"], result["remote_id"]) == (begun["id"], False, "1")
    assert (begun["operation"], begun["attempts"]) == ("update", 0)
    assert set(begun["fields"]) <= {"contactId", "companyId"}
    assert one(house, tables.link)["remote_id"] == "1"


@pytest.mark.parametrize("order", MODES)
@pytest.mark.parametrize("written", list(permutations(("a", "b", "c"))), ids="".join)
def test_three_in_a_circle_are_all_linked_however_they_were_written(
    lite_house: Engine, sandbox: Sandbox, order: Order, written: Sequence[str]
) -> None:
    """The circle is broken at one place only."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    following = {"a": "b", "b": "c", "c": "a"}
    for key in written:
        _company(lite_house, key, parentId=_to("company", following[key]))

    tally = drain(world, order)
    world.client.close()

    records = _records(sandbox, "company")
    assert {key: _number(records[key]["parentId"]) for key in following} == {
        key: records[other]["id"] for key, other in following.items()
    }
    assert len(sandbox.records("company")) == 3
    assert tally.outcomes == {"begun": 1, "applied": 3}
    assert states(lite_house) == {}


@pytest.mark.parametrize("order", MODES)
def test_one_that_refers_to_itself_is_made_first_and_linked_then(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """A circle of one."""
    house = connected.engine
    _company(house, "acme", parentId=_to("company", "acme"), ids=[_to("company", "acme")])

    tally = drain(connected, order)

    (record,) = sandbox.records("company").values()
    assert _number(record["parentId"]) == record["id"]
    assert [_number(value) for value in cast("list[object]", record["ids"])] == [record["id"]]
    assert tally == Tally(batches=2, outcomes={"begun": 1, "applied": 1})
    assert states(house) == {}


@pytest.mark.parametrize("order", MODES)
def test_two_circles_through_one_entity_are_both_closed(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """The head of two departments, each of which names it."""
    house = connected.engine
    _contact(house, "ann", companyId=_to("company", "x"), myCompany=_to("company", "y"))
    _company(house, "x", contactId=_to("contact", "ann"))
    _company(house, "y", contactId=_to("contact", "ann"))

    drain(connected, order)

    companies, ann = _records(sandbox, "company"), _records(sandbox, "contact")["ann"]
    assert _number(ann["companyId"]) == companies["x"]["id"]
    assert _number(ann["myCompany"]) == companies["y"]["id"]
    assert {_number(company["contactId"]) for company in companies.values()} == {ann["id"]}
    assert states(house) == {}


@pytest.mark.parametrize("order", MODES)
@pytest.mark.parametrize("last", ["a", "b", "c"])
def test_a_circle_whose_members_come_one_by_one_is_closed_by_the_last(
    lite_house: Engine, sandbox: Sandbox, order: Order, last: str
) -> None:
    """Each run holds what came; the last one finds the circle among the held ones."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    following = {"a": "b", "b": "c", "c": "a"}
    tallies: list[Tally] = []
    for key in [*(key for key in following if key != last), last]:
        _company(lite_house, key, parentId=_to("company", following[key]))
        tallies.append(drain(world, order))
    world.client.close()

    records = _records(sandbox, "company")
    assert {key: _number(records[key]["parentId"]) for key in following} == {
        key: records[other]["id"] for key, other in following.items()
    }
    assert tallies[:2] == [Tally(), Tally()]
    assert tallies[2].outcomes == {"begun": 1, "applied": 3}
    assert states(lite_house) == {}


@pytest.mark.parametrize("order", MODES)
def test_a_circle_whose_last_member_cannot_be_parted_is_broken_at_a_held_one(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """The held row comes back, is begun, and the last one follows it."""
    house = connected.engine
    _company(house, "acme", contactId=_to("contact", "ann"))
    before = drain(connected, order)
    # It says nothing else, so without its reference there would be nothing to send.
    add_rows(house, "ann", fields={"companyId": _to("company", "acme")})

    after = drain(connected, order)

    company = _records(sandbox, "company")["acme"]
    (contact,) = sandbox.records("contact").values()
    assert _number(company["contactId"]) == contact["id"]
    assert _number(contact["companyId"]) == company["id"]
    assert (before, after.outcomes) == (Tally(), {"begun": 1, "applied": 2})
    assert states(house) == {}


STRINGENT = {
    "stringent": Kind(
        name="stringent",
        add=Method(
            name="crm.item.add",
            fixed={"entityTypeId": "1036"},
            id_path=("item", "id"),
            required_fields=("parentId",),
        ),
        update=Method(name="crm.item.update", id_param="id", fixed={"entityTypeId": "1036"}),
    )
}


@pytest.mark.parametrize("order", MODES)
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(
            {
                "a": {"kind": "item:1036", "fields": {"title": "a"}, "params": {"p": "b"}},
                "b": {"kind": "item:1036", "fields": {"title": "b"}, "params": {"p": "a"}},
            },
            id="through params",
        ),
        pytest.param(
            {
                "a": {"kind": "stringent", "fields": {"title": "a", "parentId": "b"}},
                "b": {"kind": "stringent", "fields": {"title": "b", "parentId": "a"}},
            },
            id="through required fields",
        ),
        pytest.param(
            {
                "a": {"kind": "item:1036", "fields": {"parentId": "b"}},
                "b": {"kind": "item:1036", "fields": {"parentId": "a"}},
            },
            id="with nothing else to say",
        ),
        pytest.param(
            {
                "a": {"kind": "call", "fields": None, "params": {"id": "b"}},
                "b": {"kind": "item:1036", "fields": {"parentId": "b"}},
            },
            id="a circle behind a call",
        ),
    ],
)
def test_a_circle_that_cannot_be_broken_is_refused_and_spelled_out(
    lite_house: Engine, order: Order, rows: Mapping[str, Mapping[str, object]]
) -> None:
    """One row of it is given up on, with the whole circle; the others wait for that one."""
    kinds = {key: str(row["kind"]) for key, row in rows.items()}

    def referring(part: object) -> object:
        if not isinstance(part, Mapping):
            return part
        return {
            name: _to(kinds[value], value) if name != "title" and value in kinds else value
            for name, value in part.items()
        }

    for key, row in rows.items():
        own = {name: referring(value) for name, value in row.items() if name != "kind"}
        if row["kind"] == "call":
            own |= {"operation": "call", "method": "crm.item.get"}
        add_rows(lite_house, key, kind=row["kind"], **own)
    world = world_of(lite_house, ScriptedPortal([]), kinds=STRINGENT)

    tally = drain(world, order)

    letter = one(lite_house, tables.dead)
    assert tally.outcomes == {"failed": 1}
    assert (letter["error_code"], letter["reason"]) == ("circle", "refused")
    circle = [letter["entity_key"]]
    if kinds[circle[0]] == kinds["a"]:
        circle.append("b" if circle[0] == "a" else "a")
    spelled = " -> ".join(f"{kinds[key]} {key}" for key in [*circle, circle[0]])
    assert letter["last_error"] == (
        f"circle: fields: refer in a circle that cannot be broken: {spelled}"
    )
    (other,) = rows_of(lite_house, tables.outbox)
    lost = f"{kinds[circle[0]]} {circle[0]}"
    assert (other["state"], other["waits_for"]) == ("held", lost)
    assert other["state_reason"] == (
        f"waits for the id of {lost}, whose upsert failed (circle, row {letter['outbox_id']})"
    )


def test_strictly_a_circle_that_cannot_be_broken_stops_the_lane(house: Engine) -> None:
    """It is refused when its turn has come; what was written before it is sent, and nothing else."""
    clerk = HaltingClerk()
    add_rows(house, "first")
    for key, other in (("a", "b"), ("b", "a")):
        params = {"p": _to("item:1036", other)}
        add_rows(house, key, kind="item:1036", fields={"title": key}, params=params)
    add_rows(house, "last")

    world = world_of(house, ScriptedPortal(repeat(clerk)))
    tally = drain(world, Order(halt=HaltMode.STRICT))

    assert ["first" in line or "last" in line for run in clerk.ran for line in run] == [True]
    assert "first" in clerk.ran[0][0]
    assert tally == Tally(batches=1, outcomes={"applied": 1, "stopped": 1})
    stopped = one(house, tables.outbox, id=one(house, tables.lane)["stopped_by"])
    assert stopped["state_reason"].startswith("stopped: circle: fields: refer in a circle")
    assert states(house)["last"] == "ready"


@pytest.mark.parametrize("order", MODES)
def test_later_changes_of_a_begun_entity_wait_for_its_end(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """The order of an entity's changes is kept through the parting, and the last value stands."""
    house = connected.engine
    _company(house, "acme", contactId=_to("contact", "ann"))
    _contact(house, "ann", companyId=_to("company", "acme"))
    _company(house, "acme", title="Acme Ltd")
    _contact(house, "ann", name="Anna")

    drain(connected, order)

    (company,), (contact,) = (
        sandbox.records("company").values(),
        sandbox.records("contact").values(),
    )
    assert (company["title"], contact["name"]) == ("Acme Ltd", "Anna")
    assert _number(company["contactId"]) == contact["id"]
    assert _number(contact["companyId"]) == company["id"]
    assert states(house) == {}
    assert all(len(outcomes) == 1 for outcomes in endings(house).values())


@pytest.mark.parametrize("order", MODES)
def test_the_children_of_a_lost_parent_are_held_with_its_name_until_it_is_replayed(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """They are not sent, not given up, and go on by themselves when the parent is there."""
    house = connected.engine
    sandbox.add_fault("command", field="title", matches="^acme$", code=ARGUMENT[0])
    parent = _company(house, "acme")
    _contact(house, "ann", companyId=_to("company", "acme"))
    add_rows(
        house,
        "deal",
        kind="deal",
        fields={"title": "deal", "contactId": _to("contact", "ann")},
    )

    drain(connected, order)
    held = {row["entity_key"]: row for row in rows_of(house, tables.outbox)}
    sent = len(sandbox.requests())
    time_passes(house)
    idle = drain(connected, order)
    with writing(house) as connection:
        dead_letters.replay(connection, [one(house, tables.dead)["id"]])
    drain(connected, order)

    assert (held["ann"]["state"], held["deal"]["state"]) == ("held", "held")
    assert held["ann"]["state_reason"] == (
        f"waits for the id of company acme, whose upsert failed (INVALID_ARG_VALUE, row {parent})"
    )
    assert held["deal"]["state_reason"] == "waits for the id of contact ann"
    assert (idle, sent) == (Tally(), 1)
    company, contact = _records(sandbox, "company")["acme"], _records(sandbox, "contact")["ann"]
    assert _number(contact["companyId"]) == company["id"]
    assert _number(_records(sandbox, "deal")["deal"]["contactId"]) == contact["id"]
    assert states(house) == {}


def test_a_child_that_was_held_before_its_parent_failed_learns_of_it(house: Engine) -> None:
    """Written first, it waits for rows on their way; then it says why the wait may be long."""
    clerk = HaltingClerk({"=acme": repeat(ARGUMENT)})
    world = world_of(house, ScriptedPortal(repeat(clerk)))
    _contact(house, "ann", companyId=_to("company", "acme"))
    drain(world, Order())
    reasons = [one(house, tables.outbox)["state_reason"]]
    _company(house, "acme")

    drain(world, Order())

    reasons.append(one(house, tables.outbox)["state_reason"])
    assert reasons == [
        "waits for the id of company acme",
        "waits for the id of company acme, whose upsert failed (INVALID_ARG_VALUE, row 2)",
    ]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param({"expires_at": 1}, "whose upsert was expired (row 1)", id="expired"),
        pytest.param(
            {"cancel_requested": True}, "whose upsert was cancelled (row 1)", id="cancelled"
        ),
        pytest.param({"operation": "update"}, "whose update failed (no_link, row 1)", id="refused"),
    ],
)
def test_a_parent_is_lost_however_it_came_to_nothing(
    house: Engine, spoil: Mapping[str, object], reason: str
) -> None:
    """The reason says which row it was, and what became of it."""
    world = world_of(house, ScriptedPortal([]))
    _company(house, "acme")
    change(house, tables.outbox, spoil)
    _contact(house, "ann", companyId=_to("company", "acme"))

    drain(world, Order())

    row = one(house, tables.outbox)
    assert (row["entity_key"], row["state"]) == ("ann", "held")
    assert row["state_reason"] == f"waits for the id of company acme, {reason}"


def test_a_parent_that_was_made_and_deleted_unsent_is_lost_too(house: Engine) -> None:
    """Nothing of it was ever sent, and it will get no id."""
    world = world_of(house, ScriptedPortal([]))
    _company(house, "acme")
    add_rows(house, "acme", kind="company", operation="delete", fields=None)
    _contact(house, "ann", companyId=_to("company", "acme"))

    tally = drain(world, Order())

    assert tally.outcomes == {"unchanged": 1, "merged": 1}
    row = one(house, tables.outbox)
    assert row["state_reason"] == ("waits for the id of company acme, which was deleted (row 2)")


def test_a_parent_that_is_written_anew_is_not_lost(house: Engine) -> None:
    """What failed before has no say while another change is on its way."""
    clerk = HaltingClerk({"=bad": [ARGUMENT]})
    world = world_of(house, ScriptedPortal(repeat(clerk)))
    _company(house, "acme", title="bad")
    drain(world, Order())
    _company(house, "acme", title="good")
    change(house, tables.outbox, {"due_at": 10**15})
    _contact(house, "ann", companyId=_to("company", "acme"))

    drain(world, Order())

    row = one(house, tables.outbox, entity_key="ann")
    assert row["state_reason"] == "waits for the id of company acme"


@pytest.mark.parametrize("order", MODES)
@pytest.mark.parametrize("child_first", [False, True], ids=["parent first", "children first"])
def test_by_policy_the_children_and_grandchildren_go_with_their_parent(
    house: Engine, order: Order, *, child_first: bool
) -> None:
    """Each is a dead letter that names whom it was given up with, and can be replayed."""
    clerk = HaltingClerk({"=acme": [ARGUMENT]})
    world = world_of(house, ScriptedPortal(repeat(clerk)), policies=BURY)
    writes: list[Callable[[], object]] = [
        lambda: _company(house, "acme"),
        lambda: _contact(house, "ann", companyId=_to("company", "acme")),
        lambda: add_rows(
            house, "big", kind="deal", fields={"title": "big", "contactId": _to("contact", "ann")}
        ),
        lambda: _contact(house, "free"),
    ]
    for write in writes[::-1] if child_first else writes:
        write()

    drain(world, order)

    ids = {row["entity_key"]: row["outbox_id"] for row in rows_of(house, tables.result)}
    letters = {row["entity_key"]: row for row in rows_of(house, tables.dead)}
    assert states(house) == {}
    assert [(key, letters[key]["reason"]) for key in ("acme", "ann", "big")] == [
        ("acme", "invalid"),
        ("ann", "parent_failed"),
        ("big", "parent_failed"),
    ]
    failed = f"whose upsert failed (INVALID_ARG_VALUE, row {ids['acme']})"
    assert letters["ann"]["last_error"] == (
        f"parent_failed: fields: refers to company acme, {failed}"
    )
    orphaned = f"whose upsert failed (parent_failed, row {ids['ann']})"
    assert letters["big"]["last_error"] == (
        f"parent_failed: fields: refers to contact ann, {orphaned}"
    )
    assert _results(house)["free"][-1] == "applied"

    with writing(house) as connection:
        dead_letters.replay(connection, sorted(row["id"] for row in letters.values()))
    drain(world, order)

    assert states(house) == {}
    assert {key: found[-1] for key, found in _results(house).items()} == dict.fromkeys(
        ("acme", "ann", "big", "free"), "applied"
    )


def test_the_policy_of_the_child_decides(house: Engine) -> None:
    """Contacts wait for a person, deals go with their company."""
    clerk = HaltingClerk({"=acme": repeat(ARGUMENT)})
    policies = {"deal": Policy(orphans=Orphans.BURY)}
    world = world_of(house, ScriptedPortal(repeat(clerk)), policies=policies)
    _company(house, "acme")
    _contact(house, "ann", companyId=_to("company", "acme"))
    add_rows(
        house, "big", kind="deal", fields={"title": "big", "companyId": _to("company", "acme")}
    )

    drain(world, Order())

    assert states(house) == {"ann": "held"}
    assert {row["entity_key"] for row in rows_of(house, tables.dead)} == {"acme", "big"}


@pytest.mark.parametrize("order", MODES)
def test_a_circle_member_that_needs_somebody_else_too_waits_for_that_one(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """Nothing is refused and nothing begun before it can be; then all of them are linked."""
    house = connected.engine
    _contact(house, "ann", companyId=_to("company", "acme"), dealId=_to("deal", "big"))
    add_rows(house, "acme", kind="company", fields={"contactId": _to("contact", "ann")})

    before = drain(connected, order)
    waits = {row["entity_key"]: row["waits_for"] for row in rows_of(house, tables.outbox)}
    add_rows(house, "big", kind="deal", fields={"title": "big"})
    after = drain(connected, order)

    assert (before, waits) == (Tally(), {"ann": "deal big", "acme": "contact ann"})
    assert after.outcomes == {"applied": 3, "begun": 1}
    (company,) = sandbox.records("company").values()
    ann, deal = _records(sandbox, "contact")["ann"], _records(sandbox, "deal")["big"]
    assert _number(company["contactId"]) == ann["id"]
    assert (_number(ann["companyId"]), _number(ann["dealId"])) == (company["id"], deal["id"])


@pytest.mark.parametrize("order", MODES)
def test_one_that_refers_to_itself_and_to_another_that_refers_to_it(
    sandbox: Sandbox, connected: World, order: Order
) -> None:
    """A circle of one within a circle of two."""
    house = connected.engine
    _company(house, "a", parentId=_to("company", "a"), sisterId=_to("company", "b"))
    _company(house, "b", sisterId=_to("company", "a"))

    drain(connected, order)

    records = _records(sandbox, "company")
    a, b = records["a"], records["b"]
    assert (_number(a["parentId"]), _number(a["sisterId"])) == (a["id"], b["id"])
    assert _number(b["sisterId"]) == a["id"]
    assert states(house) == {}


@hypothesis.settings(max_examples=40, deadline=None)
@given(
    names=st.permutations("abcdef"),
    refers=st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.sampled_from("abcdef"), max_size=3, unique=True),
    ),
    runs=st.lists(st.sampled_from([INDEPENDENT, CHAIN]), min_size=1, max_size=3),
    size=st.integers(1, 4),
)
def test_whatever_refers_to_whatever_everything_is_linked_in_the_end(
    sqlite_original: Path,
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    refers: dict[str, list[str]],
    runs: list[Order],
    size: int,
) -> None:
    """Any references among six entities, written over some runs: nothing waits, nothing is refused."""
    file = tmp_path_factory.mktemp("circles") / "b24sync.db"
    shutil.copy(sqlite_original, file)
    engine = make_engine(f"sqlite:///{file}")
    add_portal(engine)
    clerk = HaltingClerk()
    world = world_of(engine, ScriptedPortal(repeat(clerk)), batch_size=size)

    for number, order in enumerate(runs):
        for name in names[number :: len(runs)]:
            fields = {f"to{other}": _to("company", other) for other in refers.get(name, [])}
            _company(engine, name, **fields)
        drain(world, order)

    assert states(engine) == {}
    assert rows_of(engine, tables.dead) == []
    ids = {row["entity_key"]: row["remote_id"] for row in rows_of(engine, tables.link)}
    assert sorted(ids) == sorted(names)
    said: dict[str, dict[str, str]] = {remote_id: {} for remote_id in ids.values()}
    for result in rows_of(engine, tables.result):
        batch = one(engine, tables.batch, id=result["batch_id"])
        line = clerk.ran[batch["id"] - 1][result["cmd_no"]]
        for other, value in re.findall(r"\[to(\w)\]=(\d+)", line):
            said[result["remote_id"]][other] = value
    assert {name: said[ids[name]] for name in names} == {
        name: {other: ids[other] for other in refers.get(name, [])} for name in names
    }
    engine.dispose()
