"""Commands whose answer was lost: what becomes of them when the portal has surely stopped.

The portal is the emulated one, without a socket or over HTTP; its journal shows what it was asked.
"""

import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, cast

import pytest
import requests
from sqlalchemy import Engine, delete, update

from b24sync.core.model import HaltMode, PortalState, Ref
from b24sync.core.policies import DoubtPolicy, Policy
from b24sync.core.refs import stored
from b24sync.core.surroundings import NO_FACTS
from b24sync.drain import Order, Tally, drain
from b24sync.drain.looking import look
from b24sync.drain.reconciling import Doubts, decide_doubts
from b24sync.edge import deciding, tables, taking, tenants
from b24sync.edge.database import reading, transact, writing
from b24sync.edge.lanes import Lane
from b24sync.sandbox import Sandbox
from b24sync.sandbox.crm_classic import records_named
from b24sync.sandbox.faults import Fault, FaultAction
from b24sync.world import World, credential_of
from tests.fakes import Answer, Asked, ScriptedPortal
from tests.histories import EmulatedPortal
from tests.house import (
    Found,
    add_rows,
    batch_answer,
    change,
    database_now,
    endings,
    one,
    rows_of,
    states,
    taken,
    time_passes,
    world_of,
)

WEBHOOK = "https://portal.example/rest/1/sandbox-secret/"

CHAIN = Order(halt=HaltMode.CHAIN)
STRICT = Order(halt=HaltMode.STRICT)

FOUND = "the answer was lost; found by its marker"
AGAIN = "the answer was lost; it is said again"


class Distant(EmulatedPortal):
    """The emulated portal, on the way to which a request may be held up, or lost with its answer.

    ``holds_up``: requests are under way until they ``land``.
    """

    def __init__(self) -> None:
        """Hold nothing up."""
        super().__init__(Random(0), (), trouble=0.0)  # noqa: S311 - it is never thrown
        self.holds_up = False
        self._under_way: list[requests.PreparedRequest] = []

    def send(  # type: ignore[override] # the options are requests' own and mean nothing here
        self, request: requests.PreparedRequest, **options: object
    ) -> requests.Response:
        """Answer, or be silent about what is under way."""
        if self.holds_up:
            self._under_way.append(request)
            raise requests.ReadTimeout
        return super().send(request, **options)

    def land(self, *, times: int = 1) -> None:
        """What was held up arrives, so many times over."""
        self.holds_up = False
        for request in self._under_way * times:
            super().send(request)
        self._under_way.clear()

    def loses(self, *, executed: bool, **matching: Any) -> None:  # noqa: ANN401 - the fields of Fault
        """The answer to the next request is lost, or the request itself."""
        self.portal.faults.add(Fault(action=FaultAction.RESET, executed=executed, **matching))

    @property
    def requests(self) -> list[list[str]]:
        """The methods that were asked for, request by request; of one that was lost, nothing.

        Without the harmless question that goes first after silence.
        """
        ran: dict[int, list[str]] = {}
        for command in self.portal.journal.commands:
            ran.setdefault(command.request, []).append(command.method)
        found = [ran.get(asked.number, []) for asked in self.portal.journal.requests]
        return [methods for methods in found if methods != ["server.time"]]

    def written(self, field: str) -> list[Any]:
        """The values of a field in the commands that were carried out, in their order."""
        fields = (
            command.params.get("fields") for command in self.portal.journal.commands if command.ok
        )
        return [part[field] for part in fields if isinstance(part, dict) and field in part]

    def records(self, kind: str) -> dict[int, Mapping[str, Any]]:
        """The records of a kind, by id."""
        return cast("dict[int, Mapping[str, Any]]", records_named(self.portal.executor.store, kind))


@pytest.fixture
def portal() -> Distant:
    """An emulated portal without a socket."""
    return Distant()


def _world(engine: Engine, portal: Distant, **settings: object) -> World:
    return world_of(engine, portal, **{"webhook_url": WEBHOOK} | settings)


def _quiet(engine: Engine) -> None:
    """So much time passes that the portal has surely stopped, and all else is due as well."""
    with writing(engine) as connection:
        connection.execute(
            update(tables.batch).where(tables.batch.c.state == "doubt").values(quiet_until=0)
        )
        connection.execute(
            update(tables.outbox).where(tables.outbox.c.state == "doubt").values(due_at=0)
        )
    time_passes(engine)


def _add(engine: Engine, key: str, **values: object) -> int:
    (row_id,) = add_rows(engine, key, **{"operation": "add"} | values)
    return row_id


def _results(engine: Engine) -> dict[str, list[str]]:
    """The outcomes of each entity, in their order."""
    found: dict[str, list[str]] = {}
    for row in rows_of(engine, tables.result):
        found.setdefault(row["entity_key"], []).append(row["outcome"])
    return found


def _links(engine: Engine) -> dict[str, str]:
    return {row["entity_key"]: row["remote_id"] for row in rows_of(engine, tables.link)}


def _lane(engine: Engine) -> Found:
    return one(engine, tables.lane, portal="default")


# When it is decided


def test_nothing_is_decided_before_the_portal_has_surely_stopped(
    house: Engine, portal: Distant
) -> None:
    """Nothing is asked, what stands behind waits, and other entities go on."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    add_rows(house, "a", "b")

    time_passes(house)
    tally = drain(world, Order())
    time_passes(house)
    nothing = drain(world, Order())

    assert tally == Tally(batches=1, outcomes={"applied": 1})
    assert nothing == Tally()
    assert portal.requests == [["crm.item.add"], ["crm.item.add"]]
    assert states(house) == {"a": "doubt parked"}
    assert _results(house) == {"a": ["unknown"], "b": ["applied"]}


def test_when_the_portal_has_surely_stopped_the_lane_is_due_by_itself(
    house: Engine, portal: Distant
) -> None:
    """No message and no sweep is needed: its owner left it due at that time."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    time_passes(house)
    drain(world, Order())
    (batch,) = rows_of(house, tables.batch)
    until = _lane(house)["next_due_at"]

    then = {"quiet_until": database_now(house) - 1}
    change(house, tables.batch, then)
    change(house, tables.outbox, {"due_at": then["quiet_until"]})
    change(house, tables.lane, {"next_due_at": then["quiet_until"]})
    with reading(house) as connection:
        due = taking.due(connection)
    drain(world, Order())

    assert until == batch["quiet_until"] > batch["sending_at"] + 60_000
    assert due == 1
    assert _results(house) == {"a": ["unknown", "applied"]}


def test_a_lane_that_nobody_has_left_due_is_woken_for_what_is_in_doubt(
    house: Engine, portal: Distant
) -> None:
    """And not a moment before its time."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    change(house, tables.lane, {"next_due_at": None, "breaker_until": 0})

    with writing(house) as connection:
        early = taking.wake(connection)
    change(house, tables.batch, {"quiet_until": 1})
    with writing(house) as connection:
        woken = taking.wake(connection)
    drain(world, Order())

    assert (early, woken) == (0, 1)
    assert _results(house) == {"a": ["unknown", "applied"]}


def test_a_batch_whose_worker_went_away_is_decided_as_one_without_an_answer(
    house: Engine, portal: Distant
) -> None:
    """Killed in the middle of its request, and found by the next owner after a long while."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    number = one(house, tables.batch)["id"]
    change(house, tables.outbox, {"state": "batched"})
    change(house, tables.batch, {"state": "sending", "quiet_until": 1}, id=number)
    change(house, tables.lane, {"open_batch_id": number})
    time_passes(house)

    drain(world, Order())

    assert _results(house) == {"a": ["unknown", "unknown", "applied"]}
    assert len(portal.records("contact")) == 1
    assert one(house, tables.batch)["state"] == "reconciled"


def test_a_paused_portal_is_not_asked(house: Engine, portal: Distant) -> None:
    """Neither by who takes the lane, nor by who has it already."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(house)
    mine = taken(house)

    with writing(house) as connection:
        tenants.pause(connection, "default", PortalState.PAUSED, reason="repairs")
    owner = _decide(world, mine)
    _quiet(house)
    tally = drain(world, Order())

    assert (owner, tally) == (None, Tally())
    assert len(portal.requests) == 1
    assert states(house) == {"a": "doubt"}


def test_a_look_is_paid_for_like_every_request(house: Engine, portal: Distant) -> None:
    """Where none fits the portal's rate, the lane rests until one does, and nothing is lost."""
    change(house, tables.portal, {"rate_x": 1, "rate_y": 0.01}, code="default")
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(house)
    change(house, tables.bucket, {"level": 1.0, "updated_at": database_now(house)})

    early = drain(world, Order())
    resting = _lane(house)["next_due_at"] - database_now(house)
    _quiet(house)
    later = drain(world, Order())

    assert early == Tally()
    assert 50_000 < resting <= 100_000
    assert later == Tally(looks=1, outcomes={"applied": 1})


# What can be said again


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize(
    ("values", "later", "written"),
    [
        pytest.param(
            {"operation": "update", "fields": {"comments": "first"}},
            {"operation": "update", "fields": {"comments": "second"}},
            "crm.item.update",
            id="update",
        ),
        pytest.param(
            {"operation": "delete", "fields": None},
            {"operation": "upsert", "fields": {"comments": "anew"}},
            "crm.item.delete",
            id="delete",
        ),
        pytest.param(
            {
                "kind": "deal.contacts",
                "operation": "update",
                "params": {"id": 1},
                "fields": {"items": [{"CONTACT_ID": 1}]},
            },
            {
                "kind": "deal.contacts",
                "operation": "update",
                "params": {"id": 1},
                "fields": {"items": [{"CONTACT_ID": 2}]},
            },
            "crm.deal.contact.items.set",
            id="replacing",
        ),
    ],
)
def test_what_leaves_the_portal_the_same_is_said_again_before_all_that_is_newer(
    house: Engine,
    portal: Distant,
    values: dict[str, object],
    later: dict[str, object],
    written: str,
    *,
    executed: bool,
) -> None:
    """Once, whether it was carried out or not; a newer change of its entity comes after it."""
    world = _world(house, portal, policies={"*": Policy(merge=False)})
    for number in (1, 2):
        _add(house, f"c{number}", fields={"name": f"c{number}"})
    _add(house, "d", kind="deal", fields={"title": "d"})
    drain(world, Order())
    known = len(portal.requests)
    (first,) = add_rows(house, "c1", **values)
    portal.loses(executed=executed)
    drain(world, Order())
    (second,) = add_rows(house, "c1", **later)
    _quiet(house)

    tally = drain(world, Order())

    assert tally.looks == 0
    lost, again, newer = portal.requests[known:]
    assert lost == ([written] if executed else [])
    assert again == [written]
    assert len(newer) == 1
    ends = endings(house)
    assert (ends[first], ends[second]) == (["applied"], ["applied"])
    told = [
        (row["outcome"], row["attempt"], row["final"])
        for row in rows_of(house, tables.result, outbox_id=first)
    ]
    assert told == [("unknown", 0, False), ("retried", 1, False), ("applied", 2, True)]
    assert rows_of(house, tables.result, outcome="retried")[0]["error_text"] == AGAIN
    assert states(house) == {}


def test_an_update_that_is_said_again_may_take_along_what_came_meanwhile(
    house: Engine, portal: Distant
) -> None:
    """As changes that wait together always go, where the policy does not say otherwise."""
    world = _world(house, portal)
    _add(house, "a")
    drain(world, Order())
    add_rows(house, "a", operation="update", fields={"comments": "old", "post": "chief"})
    portal.loses(executed=False)
    drain(world, Order())
    add_rows(house, "a", operation="update", fields={"comments": "new"})
    _quiet(house)

    drain(world, Order())

    assert portal.requests == [["crm.item.add"], [], ["crm.item.update"]]
    (record,) = portal.records("contact").values()
    assert (record["comments"], record["post"]) == ("new", "chief")
    assert states(house) == {}


# What carries a marker


def test_an_add_that_came_about_is_found_and_not_made_again(house: Engine, portal: Distant) -> None:
    """It ends as applied, with the text; what waited for its id goes on."""
    world = _world(house, portal)
    acme = _add(house, "acme", kind="company", fields={"title": "Acme"})
    portal.loses(executed=True)
    drain(world, Order())
    _add(house, "ann", fields={"name": "Ann", "companyId": stored(Ref("company", "acme"))})
    time_passes(house)
    drain(world, Order())
    waiting = states(house)
    _quiet(house)

    tally = drain(world, Order())

    assert waiting == {"acme": "doubt", "ann": "held"}
    assert tally == Tally(batches=1, looks=1, outcomes={"applied": 2})
    assert portal.requests == [["crm.item.add"], ["crm.item.list"], ["crm.item.add"]]
    ((number, _),) = portal.records("company").items()
    assert _links(house)["acme"] == str(number)
    (ann,) = portal.records("contact").values()
    assert ann["companyId"] == str(number)
    (result,) = rows_of(house, tables.result, outbox_id=acme, final=True)
    assert (result["outcome"], result["remote_id"]) == ("applied", str(number))
    assert (result["error_text"], result["attempt"]) == (FOUND, 1)
    assert result["batch_id"] == one(house, tables.batch, state="reconciled")["id"]
    assert states(house) == {}


def test_an_add_that_did_not_come_about_is_said_again_once(house: Engine, portal: Distant) -> None:
    """Looked for first, then made, and answered this time."""
    world = _world(house, portal)
    row_id = _add(house, "a")
    portal.loses(executed=False)
    drain(world, Order())
    _quiet(house)

    tally = drain(world, Order())
    _quiet(house)
    nothing = drain(world, Order())

    assert tally == Tally(batches=1, looks=1, outcomes={"retried": 1, "applied": 1})
    assert nothing == Tally()
    assert portal.requests == [[], ["crm.item.list"], ["crm.item.add"]]
    assert _links(house) == {"a": "1"}
    assert list(portal.records("contact")) == [1]
    told = [(r["outcome"], r["attempt"]) for r in rows_of(house, tables.result, outbox_id=row_id)]
    assert told == [("unknown", 0), ("retried", 1), ("applied", 2)]


def test_an_add_that_is_lost_again_and_again_is_made_once(house: Engine, portal: Distant) -> None:
    """Twice on the way there, once on the way back; each time the portal is asked before."""
    world = _world(house, portal)
    row_id = _add(house, "a")
    for executed in (False, False, True):
        portal.loses(executed=executed, method="crm.item.add")
        _quiet(house)
        drain(world, Order())
    _quiet(house)

    drain(world, Order())

    look, make = ["crm.item.list"], ["crm.item.add"]
    assert portal.requests == [[], look, [], look, make, look]
    assert len(portal.records("contact")) == 1
    attempts = [r["attempt"] for r in rows_of(house, tables.result, outbox_id=row_id, final=True)]
    assert attempts == [3]


def test_a_request_that_lands_after_all_is_found(house: Engine, portal: Distant) -> None:
    """It was under way for long, and arrived before the portal was asked."""
    world = _world(house, portal)
    portal.holds_up = True
    _add(house, "a")
    drain(world, Order())
    portal.land()
    _quiet(house)

    drain(world, Order())

    assert portal.requests == [["crm.item.add"], ["crm.item.list"]]
    assert list(portal.records("contact")) == [1]
    assert _results(house) == {"a": ["unknown", "applied"]}


def test_of_several_records_the_first_is_kept_and_the_others_are_told(
    house: Engine, portal: Distant, caplog: pytest.LogCaptureFixture
) -> None:
    """In the result, with the link, and in the log: never silently."""
    caplog.set_level(logging.INFO, "b24sync")
    world = _world(house, portal)
    portal.holds_up = True
    row_id = _add(house, "a")
    drain(world, Order())
    portal.land(times=12)
    _quiet(house)

    drain(world, Order())

    link = one(house, tables.link)
    others = [str(number) for number in range(2, 13)]
    assert (link["remote_id"], link["state"], link["dup_ids"]) == ("1", "present", others)
    (result,) = rows_of(house, tables.result, final=True)
    assert (result["outcome"], result["remote_id"]) == ("applied", "1")
    assert result["error_text"] == (
        f"{FOUND}, and 11 more: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11; 1 is kept"
    )
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.getMessage() == (
        f"duplicate_found portal=default kind=contact row={row_id} kept=1 others={','.join(others)}"
    )
    assert f"batch={one(house, tables.batch)['id']} row={row_id} became=applied" in caplog.text


def test_fifty_commands_are_looked_for_in_one_request(house: Engine, portal: Distant) -> None:
    """A portal that was silent for three batches is asked three times, not a hundred and twenty."""
    world = _world(house, portal)
    for key in range(120):
        _add(house, f"k{key:03}")
    for _ in range(3):
        portal.loses(executed=True, method="crm.item.add")
        drain(world, Order())
        time_passes(house)
    _quiet(house)

    tally = drain(world, Order())

    assert tally == Tally(looks=3, outcomes={"applied": 120})
    asked = portal.requests
    assert [len(methods) for methods in asked] == [50, 50, 20, 50, 50, 20]
    assert {method for methods in asked[3:] for method in methods} == {"crm.item.list"}
    assert len(portal.records("contact")) == 120
    assert len(_links(house)) == 120


def test_half_of_a_batch_may_have_come_about(house: Engine, portal: Distant) -> None:
    """The portal was cut in the middle; each command is decided by itself."""
    world = _world(house, portal)
    keys = [f"k{number}" for number in range(6)]
    for key in keys:
        _add(house, key)
    portal.loses(executed=True, commands=3)
    drain(world, Order())
    _quiet(house)

    tally = drain(world, Order())

    assert tally == Tally(batches=1, looks=1, outcomes={"applied": 6, "retried": 3})
    assert [len(methods) for methods in portal.requests] == [3, 6, 3]
    names = [record["name"] for record in portal.records("contact").values()]
    assert sorted(names) == keys


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize(
    "fields",
    [
        {"originId": "A-1"},
        {"originId": "A-1", "originatorId": "shop"},
        {"originId": 17},
        {"originId": "A-1", "originatorId": ""},
        {"originatorId": "shop"},
    ],
    ids=str,
)
def test_a_marker_of_the_applications_own_is_looked_for_as_it_was_said(
    lite_house: Engine, portal: Distant, fields: dict[str, object], *, executed: bool
) -> None:
    """Asked for an origin that it never had, the portal would not find it, and make another."""
    world = _world(lite_house, portal)
    _add(lite_house, "a", fields={"name": "Ann"} | fields)
    portal.loses(executed=executed)
    drain(world, Order())
    _quiet(lite_house)

    drain(world, Order())

    assert len(portal.records("contact")) == 1
    ends = ["unknown", "applied"] if executed else ["unknown", "retried", "applied"]
    assert _results(lite_house) == {"a": ends}


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_a_record_of_another_entity_is_nobodys_find(
    house: Engine, portal: Distant, *, executed: bool
) -> None:
    """An application may give two entities one external key; each keeps a record of its own."""
    world = _world(house, portal)
    _add(house, "a", fields={"name": "Ann", "originId": "A-1"})
    drain(world, Order())
    _add(house, "b", fields={"name": "Bob", "originId": "A-1"})
    portal.loses(executed=executed)
    drain(world, Order())
    _quiet(house)

    drain(world, Order())

    names = {number: record["name"] for number, record in portal.records("contact").items()}
    assert names == {1: "Ann", 2: "Bob"}
    assert _links(house) == {"a": "1", "b": "2"}
    assert {row["state"] for row in rows_of(house, tables.link)} == {"present"}


def test_a_record_made_anew_is_not_taken_for_the_one_that_was_deleted(
    house: Engine, portal: Distant
) -> None:
    """Its marker is another one, so a record of its past does not count."""
    world = _world(house, portal)
    add_rows(house, "a")
    drain(world, Order())
    # As if a person had unlinked it: the record is still there.
    change(house, tables.link, {"state": "absent", "remote_id": None, "generation": 1})
    _add(house, "a")
    portal.loses(executed=False)
    drain(world, Order())
    _quiet(house)

    drain(world, Order())

    markers = [record["originId"] for record in portal.records("contact").values()]
    assert markers == ["contact:a", "contact:a#1"]
    assert _links(house) == {"a": "2"}


RECORDS = [
    pytest.param("crm.contact", {"NAME": "Ann", "PHONE": ["+7 1"]}, None, id="classic"),
    pytest.param("crm.deal", {"TITLE": "D"}, None, id="classic deal"),
    pytest.param("deal", {"title": "D"}, None, id="deal"),
    pytest.param("item:1036", {"title": "T"}, None, id="smart process"),
    pytest.param("invoice", {"title": "I"}, None, id="invoice"),
    pytest.param(
        "list_element", {"NAME": "E"}, {"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": "7"}, id="element"
    ),
    pytest.param(
        "list_element",
        {"NAME": "E"},
        {"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": "7", "ELEMENT_CODE": "bolt"},
        id="element of its own code",
    ),
    pytest.param("product", {"iblockId": 14, "name": "P"}, None, id="product"),
    pytest.param("user", {"EMAIL": "ann@example.com", "NAME": "Ann"}, None, id="user"),
    pytest.param(
        "activity", {"SUBJECT": "Call", "OWNER_TYPE_ID": 3, "OWNER_ID": 1}, None, id="activity"
    ),
]


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize(("kind", "fields", "params"), RECORDS)
def test_records_of_every_sort_are_found_over_http(
    lite_house: Engine,
    sandbox: Sandbox,
    kind: str,
    fields: dict[str, object],
    params: dict[str, object] | None,
    *,
    executed: bool,
) -> None:
    """Universal, classic, of smart processes, lists and catalogues: each by its own marker."""
    before = len(sandbox.records(kind))
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    _add(lite_house, "a", kind=kind, fields=fields, params=params)
    sandbox.add_fault("reset", executed=executed)
    drain(world, Order())
    _quiet(lite_house)

    drain(world, Order())
    world.client.close()

    assert len(sandbox.records(kind)) == before + 1
    ends = ["unknown", "applied"] if executed else ["unknown", "retried", "applied"]
    assert _results(lite_house) == {"a": ends}
    (number,) = set(sandbox.records(kind)) - set(range(1, before + 1))
    assert _links(lite_house) == {"a": str(number)}


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "reset", "executed": True},
        {"action": "reset"},
        {"action": "cut_json", "executed": True},
        {"action": "cut_json"},
        {"action": "cut_body", "executed": True},
        {"action": "html", "executed": True},
        {"action": "html"},
        {"action": "html", "executed": True, "commands": 2},
        {"action": "empty", "executed": True},
        {"action": "body", "text": "[]", "executed": True},
        {"action": "error", "code": "INTERNAL_SERVER_ERROR", "executed": True, "commands": 1},
    ],
    ids=lambda fault: " ".join(str(value) for value in fault.values()),
)
def test_whatever_became_of_an_answer_each_record_is_there_once(
    house: Engine, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    """Over real sockets, on every database: nothing is lost, and nothing is there twice."""
    world = world_of(house, webhook_url=sandbox.webhook_url)
    keys = ["a", "b", "c"]
    for key in keys:
        _add(house, key)
    sandbox.add_fault(**fault)
    drain(world, Order())
    _quiet(house)

    drain(world, Order())
    world.client.close()

    names = [record["name"] for record in sandbox.records("contact").values()]
    assert sorted(map(str, names)) == keys
    assert states(house) == {}
    assert {row["outcome"] for row in rows_of(house, tables.result, final=True)} == {"applied"}
    numbers = {str(record["name"]): str(i) for i, record in sandbox.records("contact").items()}
    assert _links(house) == numbers


# What carries none


UNMARKED: list[Any] = [
    pytest.param(
        {"kind": "quote", "operation": "add", "fields": {"title": "Q"}},
        "crm.item.add",
        id="quote",
    ),
    pytest.param(
        {
            "kind": "comment",
            "operation": "add",
            "fields": {"ENTITY_ID": 1, "ENTITY_TYPE": "deal", "COMMENT": "C"},
        },
        "crm.timeline.comment.add",
        id="comment",
    ),
    pytest.param(
        {
            "kind": "call",
            "operation": "call",
            "method": "crm.lead.add",
            "fields": None,
            "params": {"fields": {"TITLE": "L"}},
        },
        "crm.lead.add",
        id="call",
    ),
    pytest.param(
        {
            "kind": "contact",
            "operation": "update",
            "fields": {"fm": {"n0": {"typeId": "PHONE", "valueType": "WORK", "value": "+7 1"}}},
        },
        "crm.item.update",
        id="rows that are appended",
    ),
]


@pytest.mark.parametrize(("values", "method"), UNMARKED)
def test_what_cannot_be_found_waits_for_a_person(
    house: Engine,
    portal: Distant,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, object],
    method: str,
) -> None:
    """With the reason; what stands behind it waits too, and other entities go on."""
    world = _world(house, portal)
    _prepare(world)
    known = len(portal.requests)
    (row_id,) = add_rows(house, "a", **values)
    portal.loses(executed=True)
    drain(world, Order())
    add_rows(house, "a", **values)
    add_rows(house, "other")
    _quiet(house)

    tally = drain(world, Order())
    _quiet(house)
    nothing = drain(world, Order())

    assert tally == Tally(batches=1, outcomes={"stopped": 1, "applied": 1})
    assert nothing == Tally()
    assert portal.requests[known:] == [[method], ["crm.item.add"]]
    row = one(house, tables.outbox, id=row_id)
    assert (row["state"], row["attempts"]) == ("held", 0)
    assert row["state_reason"] == (
        "stopped: the answer was lost; it carries nothing by which it could be found on the portal"
    )
    assert states(house) == {"a": "held parked"}
    assert f"doubt_held portal=default kind={values['kind']} row={row_id}" in caplog.text
    assert _lane(house)["stopped_by"] is None


def _prepare(world: World) -> None:
    """A deal to comment on, and a contact with the key ``a``."""
    _add(world.engine, "d", kind="deal", fields={"title": "D"})
    _add(world.engine, "a")
    drain(world, Order())


@pytest.mark.parametrize(("values", "method"), UNMARKED)
def test_a_policy_may_take_it_upon_itself_to_say_it_again(
    lite_house: Engine, portal: Distant, values: dict[str, object], method: str
) -> None:
    """Then it is carried out twice, where it was carried out before; once in either case answered."""
    kind = str(values["kind"])
    world = _world(lite_house, portal, policies={kind: Policy(doubt=DoubtPolicy.RESEND)})
    _prepare(world)
    known = len(portal.requests)
    (row_id,) = add_rows(lite_house, "a", **values)
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(lite_house)

    drain(world, Order())

    assert portal.requests[known:] == [[method], [method]]
    assert endings(lite_house)[row_id] == ["applied"]


@pytest.mark.parametrize(
    ("of_kind", "of_row", "state"),
    [
        (DoubtPolicy.LOOK_UP, None, "held"),
        (DoubtPolicy.HOLD, None, "held"),
        (DoubtPolicy.RESEND, None, None),
        (DoubtPolicy.RESEND, "hold", "held"),
        (DoubtPolicy.RESEND, "look-up", "held"),
        (DoubtPolicy.HOLD, "resend", None),
        (DoubtPolicy.LOOK_UP, "resend", None),
    ],
)
def test_a_row_may_have_a_policy_of_its_own(
    house: Engine,
    portal: Distant,
    of_kind: DoubtPolicy,
    of_row: str | None,
    state: str | None,
) -> None:
    """What it says counts, and else what its kind says."""
    world = _world(house, portal, policies={"*": Policy(doubt=of_kind)})
    _add(house, "q", kind="quote", fields={"title": "Q"}, doubt_policy=of_row)
    portal.loses(executed=False)
    drain(world, Order())
    _quiet(house)

    drain(world, Order())

    assert states(house).get("q") == state
    assert len(portal.records("quote")) == (state is None)


@pytest.mark.parametrize("policy", DoubtPolicy)
def test_what_carries_a_marker_is_looked_for_whatever_its_policy(
    lite_house: Engine, portal: Distant, policy: DoubtPolicy
) -> None:
    """A policy speaks of what cannot be found."""
    world = _world(lite_house, portal)
    _add(lite_house, "a", doubt_policy=str(policy))
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(lite_house)

    drain(world, Order())

    assert _results(lite_house) == {"a": ["unknown", "applied"]}
    assert len(portal.records("contact")) == 1


def test_what_a_person_says_of_a_held_row_lets_its_entity_go_on(
    house: Engine, portal: Distant
) -> None:
    """It was done: with the id that the person has found, later changes are updates."""
    world = _world(house, portal)
    row_id = _add(house, "q", kind="quote", fields={"title": "Q"})
    portal.loses(executed=True)
    drain(world, Order())
    add_rows(house, "q", kind="quote", operation="upsert", fields={"title": "Q2"})
    _quiet(house)
    drain(world, Order())

    with writing(house) as connection:
        (held,) = deciding.held_rows(connection)
        deciding.settle(connection, row_id, kinds={}, remote_id="1")
    _quiet(house)
    drain(world, Order())

    assert (held.id, held.is_stopped, held.is_unsure, held.stops_lane) == (
        row_id,
        True,
        True,
        False,
    )
    assert portal.requests == [["crm.item.add"], ["crm.item.update"]]
    assert [record["title"] for record in portal.records("quote").values()] == ["Q2"]


# Answers that come late


def _slow(house: Engine, meanwhile: Callable[[], object]) -> Callable[[Asked], Answer]:
    """A portal that answers when the lane has long been taken from the worker that asked."""

    def answer(asked: Asked) -> Answer:
        change(house, tables.lane, {"lease_until": 0})
        meanwhile()
        return batch_answer({label: {"item": {"id": 900}} for label in asked.params["cmd"]})

    return answer


def test_a_late_answer_counts_as_long_as_nothing_was_decided(
    house: Engine, portal: Distant
) -> None:
    """It closes the batch, and nobody asks any more."""
    other = _world(house, portal)
    in_between: list[str] = []

    def meanwhile() -> None:
        drain(other, Order())
        in_between.append(states(house)["a"])

    _add(house, "a")
    drain(world_of(house, ScriptedPortal([_slow(house, meanwhile)])), Order())
    _quiet(house)
    tally = drain(other, Order())

    assert in_between == ["doubt"]
    assert tally == Tally()
    assert portal.requests == []
    assert _results(house) == {"a": ["unknown", "applied"]}
    assert _links(house) == {"a": "900"}
    batch = one(house, tables.batch)
    assert (batch["state"], batch["late_answer"]) == ("answered", None)


def test_an_answer_after_the_decision_is_kept_and_changes_nothing(
    house: Engine, portal: Distant, caplog: pytest.LogCaptureFixture
) -> None:
    """The decision stands; whoever looks for a second record finds the other id."""
    other = _world(house, portal)

    def meanwhile() -> None:
        drain(other, Order())
        _quiet(house)
        drain(other, Order())

    row_id = _add(house, "a")
    drain(world_of(house, ScriptedPortal([_slow(house, meanwhile)])), Order())

    assert _results(house) == {"a": ["unknown", "retried", "applied"]}
    assert _links(house) == {"a": "1"}
    first, second = rows_of(house, tables.batch)
    assert (first["state"], second["state"]) == ("reconciled", "answered")
    assert first["late_answer"] == {str(row_id): {"outcome": "applied", "remote_id": "900"}}
    assert first["late_at"] is not None
    assert "answer_late" in caplog.text


def test_a_late_answer_closes_what_of_its_batch_is_still_in_doubt(
    house: Engine, portal: Distant
) -> None:
    """Of two rows one was decided already: what was written of it stays."""
    other = _world(house, portal)

    def meanwhile() -> None:
        drain(other, Order())
        _quiet(house)
        drain(other, Order())

    quote = _add(house, "q", kind="quote", fields={"title": "Q"})
    contact = _add(house, "a")
    portal.portal.faults.add(Fault(action=FaultAction.HTML, method="crm.item.list"))
    drain(world_of(house, ScriptedPortal([_slow(house, meanwhile)])), Order())

    assert endings(house) == {contact: ["applied"]}
    assert _links(house) == {"a": "900"}
    assert one(house, tables.outbox)["id"] == quote
    assert states(house) == {"q": "held"}
    assert one(house, tables.batch)["state"] == "answered"


# Rows that went as one, chains, and commands by themselves


def test_rows_that_went_as_one_add_are_found_as_one(house: Engine, portal: Distant) -> None:
    """The first is applied, the others went with it; the record has what the last of them said."""
    world = _world(house, portal)
    first = _add(house, "a", fields={"name": "Ann"})
    second, third = (
        add_rows(house, "a", operation="update", fields={"comments": text})[0]
        for text in ("old", "new")
    )
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(house)

    tally = drain(world, Order())

    assert tally == Tally(looks=1, outcomes={"applied": 1, "merged": 2})
    assert endings(house) == {first: ["applied"], second: ["merged"], third: ["merged"]}
    merged = rows_of(house, tables.result, outcome="merged")
    assert {(row["merged_into"], row["remote_id"]) for row in merged} == {(first, "1")}
    assert [record["comments"] for record in portal.records("contact").values()] == ["new"]


@pytest.mark.parametrize("is_known", [True, False], ids=["update", "add"])
def test_rows_that_went_as_one_go_again_as_one(
    house: Engine, portal: Distant, *, is_known: bool
) -> None:
    """Whatever was written meanwhile stands behind them."""
    world = _world(house, portal)
    if is_known:
        _add(house, "a")
        drain(world, Order())
    ids = [
        add_rows(house, "a", operation="upsert", fields=fields)[0]
        for fields in ({"name": "Ann"}, {"comments": "old"}, {"comments": "new"})
    ]
    portal.loses(executed=False)
    drain(world, Order())
    (later,) = add_rows(house, "a", operation="update", fields={"post": "chief"}, mergeable=False)
    _quiet(house)

    drain(world, Order())

    ends = endings(house)
    assert [ends[row_id] for row_id in ids] == [["applied"], ["merged"], ["merged"]]
    assert ends[later] == ["applied"]
    (record,) = portal.records("contact").values()
    assert (record["name"], record["comments"], record["post"]) == ("Ann", "new", "chief")
    assert portal.written("comments") == ["new"]
    attempts = [row["attempt"] for row in rows_of(house, tables.result, outbox_id=ids[0])]
    assert attempts == [0, 1, 2]


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize("gone", [0, 1])
def test_rows_that_a_person_took_away_meanwhile_cost_the_others_nothing(
    house: Engine, portal: Distant, gone: int, *, executed: bool
) -> None:
    """The outbox is a public table; what is left of a command is decided without them."""
    world = _world(house, portal)
    ids = [
        add_rows(house, "a", operation="upsert", fields=fields)[0]
        for fields in ({"name": "Ann"}, {"comments": "new"})
    ]
    other = _add(house, "b")
    portal.loses(executed=executed)
    drain(world, Order())
    with writing(house) as connection:
        connection.execute(delete(tables.outbox).where(tables.outbox.c.id == ids[gone]))
    _quiet(house)

    drain(world, Order())

    assert states(house) == {}
    assert endings(house) == {ids[1 - gone]: ["applied"], other: ["applied"]}
    assert len(portal.records("contact")) == 2
    assert sorted(_links(house)) == ["a", "b"]
    assert {row["state"] for row in rows_of(house, tables.batch)} <= {"reconciled", "answered"}


def test_a_batch_of_which_every_row_was_taken_away_is_closed(
    house: Engine, portal: Distant
) -> None:
    """Its lane is not due for it for ever."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    with writing(house) as connection:
        connection.execute(delete(tables.outbox))
    _quiet(house)

    tally = drain(world, Order())

    assert tally == Tally()
    assert one(house, tables.batch)["state"] == "reconciled"
    assert _lane(house)["next_due_at"] is None


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_chain_goes_on_where_it_was_cut(house: Engine, portal: Distant, done: int) -> None:
    """Of company, contact and deal so many were made; the others take the ids that were found."""
    world = _world(house, portal)
    company, contact = stored(Ref("company", "acme")), stored(Ref("contact", "ann"))
    _add(house, "acme", kind="company", fields={"title": "Acme"})
    _add(house, "ann", fields={"name": "Ann", "companyId": company})
    _add(house, "d", kind="deal", fields={"title": "D", "companyId": company, "contactId": contact})
    portal.loses(executed=done > 0, commands=done or None)
    drain(world, CHAIN)
    lost = states(house)
    _quiet(house)

    drain(world, CHAIN)

    assert lost == {"acme": "doubt", "ann": "doubt", "d": "doubt"}
    assert states(house) == {}
    assert [len(methods) for methods in portal.requests] == [
        done,
        3,
        *([3 - done] if done < 3 else []),
    ]
    assert {kind: len(portal.records(kind)) for kind in ("company", "contact", "deal")} == {
        "company": 1,
        "contact": 1,
        "deal": 1,
    }
    (deal,) = portal.records("deal").values()
    (ann,) = portal.records("contact").values()
    assert [str(value) for value in (deal["companyId"], deal["contactId"])] == ["1", "1"]
    assert str(ann["companyId"]) == "1"


def test_a_child_in_doubt_waits_for_its_parent(house: Engine, portal: Distant) -> None:
    """Which a person has to decide on first: it cannot be found."""
    world = _world(house, portal)
    quote = _add(house, "q", kind="quote", fields={"title": "Q"})
    deal = _add(
        house, "d", kind="deal", fields={"title": "D", "quoteId": stored(Ref("quote", "q"))}
    )
    portal.loses(executed=True, commands=1)
    drain(world, CHAIN)
    _quiet(house)
    drain(world, CHAIN)
    between = states(house)

    with writing(house) as connection:
        deciding.settle(connection, quote, kinds={}, remote_id="1")
    _quiet(house)
    drain(world, CHAIN)

    assert between == {"q": "held", "d": "held"}
    assert endings(house) == {quote: ["applied"], deal: ["applied"]}
    assert [str(record["quoteId"]) for record in portal.records("deal").values()] == ["1"]


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_a_command_that_goes_by_itself_is_found_like_one_in_a_batch(
    house: Engine, portal: Distant, *, executed: bool
) -> None:
    """Its text would mean something inside a batch, so it is called alone."""
    world = _world(house, portal)
    row_id = _add(house, "a", fields={"name": "$result[x]"})
    portal.loses(executed=executed)
    drain(world, Order())
    _quiet(house)

    drain(world, Order())

    assert one(house, tables.batch, state="reconciled")["single"]
    assert endings(house) == {row_id: ["applied"]}
    names = [record["name"] for record in portal.records("contact").values()]
    assert names == ["$result[x]"]


# When the look goes wrong


TROUBLE: list[Any] = [
    pytest.param({"action": "error", "code": "QUERY_LIMIT_EXCEEDED"}, id="rate"),
    pytest.param({"action": "error", "code": "INTERNAL_SERVER_ERROR"}, id="500"),
    pytest.param({"action": "reset"}, id="lost"),
    pytest.param({"action": "html"}, id="html"),
    pytest.param({"action": "html", "status": 200}, id="html, 200"),
    pytest.param({"action": "html", "status": 503}, id="html, 503"),
    pytest.param({"action": "cut_json"}, id="cut JSON"),
    pytest.param({"action": "empty"}, id="nothing"),
    pytest.param({"action": "body", "text": "[]"}, id="a list"),
    pytest.param({"action": "command", "code": "INTERNAL_SERVER_ERROR"}, id="command"),
    pytest.param({"action": "command", "code": "OPERATION_TIME_LIMIT"}, id="time"),
    pytest.param({"action": "command", "code": "QUERY_LIMIT_EXCEEDED"}, id="rate of one"),
]


def _arm(portal: Distant, fault: dict[str, Any]) -> None:
    details = {"method": "crm.item.list"} | fault
    portal.portal.faults.add(Fault(**details | {"action": FaultAction(details["action"])}))


@pytest.mark.parametrize("fault", TROUBLE)
def test_a_look_that_tells_nothing_is_repeated_later_and_decides_nothing(
    lite_house: Engine, portal: Distant, fault: dict[str, Any]
) -> None:
    """One request and no more, until some time has passed; nothing is lost, nothing made twice."""
    world = _world(lite_house, portal)
    _add(lite_house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(lite_house)
    _arm(portal, fault)

    tally = drain(world, Order())
    began = database_now(lite_house)
    time_passes(lite_house)
    nothing = drain(world, Order())
    until = one(lite_house, tables.batch)["quiet_until"]
    left = states(lite_house)
    _quiet(lite_house)
    later = drain(world, Order())

    assert (tally, nothing) == (Tally(looks=1), Tally())
    assert left == {"a": "doubt"}
    assert 50_000 < until - began <= 60_000
    assert later == Tally(looks=1, outcomes={"applied": 1})
    assert len(portal.records("contact")) == 1
    assert _results(lite_house) == {"a": ["unknown", "applied"]}


def test_others_go_on_beside_one_that_cannot_be_looked_for_now(
    house: Engine, portal: Distant
) -> None:
    """A method without time stops those who need it, and nobody else."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    add_rows(house, "b")
    _quiet(house)
    _arm(portal, {"action": "command", "code": "OPERATION_TIME_LIMIT"})

    tally = drain(world, Order())
    _add(house, "c")
    asked = len(portal.requests)
    change(house, tables.batch, {"quiet_until": 1}, state="doubt")
    change(house, tables.lane, {"next_due_at": 0})
    blocked = drain(world, Order())

    assert tally == Tally(batches=1, looks=1, outcomes={"applied": 1})
    assert blocked == Tally(batches=1, outcomes={"applied": 1})
    assert portal.requests[asked:] == [["crm.item.add"]]
    assert states(house) == {"a": "doubt"}


def test_what_one_look_tells_is_decided_though_it_does_not_tell_all(
    house: Engine, portal: Distant
) -> None:
    """Of three, one is not answered at first; it is asked for again, and once more later."""
    world = _world(house, portal)
    for key in ("a", "b", "c"):
        _add(house, key)
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(house)
    trouble = {"action": "command", "code": "INTERNAL_SERVER_ERROR"}
    for passed in (1, 2):
        # Of a, b, c the second; and then the one that is asked for again.
        _arm(portal, trouble | {"skip": passed})

    tally = drain(world, Order())

    assert tally == Tally(looks=2, outcomes={"applied": 2})
    assert states(house) == {"b": "doubt"}
    assert [len(methods) for methods in portal.requests] == [3, 3, 1]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("INVALID_ARG_VALUE", "Invalid filter: field 'originId'"),
        ("ERROR_METHOD_NOT_FOUND", "Method not found!"),
        ("insufficient_scope", "No"),
        ("SOMETHING_NEW", "Never heard"),
    ],
)
def test_what_the_portal_will_not_let_be_looked_for_waits_for_a_person(
    lite_house: Engine, portal: Distant, code: str, text: str
) -> None:
    """It would say the same the next time; the reason is the portal's."""
    world = _world(lite_house, portal)
    _add(lite_house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(lite_house)
    _arm(portal, {"action": "command", "code": code, "text": text})

    drain(world, Order())

    row = one(lite_house, tables.outbox)
    assert row["state"] == "held"
    assert row["state_reason"] == (
        f"stopped: the answer was lost; the portal would not let it be looked for: {code} {text}"
    )
    assert len(portal.records("contact")) == 1


def test_a_portal_that_may_not_be_called_any_more_is_paused_by_the_look(
    house: Engine, portal: Distant
) -> None:
    """The rows stay in doubt until it is resumed."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=True)
    drain(world, Order())
    _quiet(house)
    _arm(portal, {"action": "error", "code": "PORTAL_DELETED"})

    drain(world, Order())
    paused = one(house, tables.portal)["state"]
    with writing(house) as connection:
        tenants.resume(connection, "default")
    _quiet(house)
    drain(world, Order())

    assert paused == "gone"
    assert _results(house) == {"a": ["unknown", "applied"]}


# When the worker goes away


def _decide(world: World, mine: Lane, facts: Any = NO_FACTS) -> Doubts | None:  # noqa: ANN401 - what a look has told
    return transact(world.engine, lambda connection: decide_doubts(world, mine, facts, connection))


def _asking(world: World, mine: Lane) -> Doubts:
    asking = _decide(world, mine)
    assert asking is not None
    assert len(asking.questions) == 1
    return asking


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
@pytest.mark.parametrize("has_asked", [True, False], ids=["after the look", "before the look"])
def test_a_worker_that_goes_away_around_its_look_costs_nothing_but_time(
    house: Engine, portal: Distant, *, executed: bool, has_asked: bool
) -> None:
    """What it has read is forgotten; the next owner asks again."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=executed)
    drain(world, Order())
    _quiet(house)
    gone = taken(house, owner="gone")
    asking = _asking(world, gone)
    if has_asked:
        look(world, gone, credential_of(world, gone.tenant), asking.questions)
    left = states(house)
    _quiet(house)

    drain(world, Order())

    ends = ["unknown", "applied"] if executed else ["unknown", "retried", "applied"]
    assert left == {"a": "doubt"}
    assert _results(house) == {"a": ends}
    assert len(portal.records("contact")) == 1
    assert _links(house) == {"a": "1"}


def test_a_worker_that_slept_over_its_look_writes_nothing(house: Engine, portal: Distant) -> None:
    """It found nothing; meanwhile another owner found nothing too, and made the record."""
    world = _world(house, portal)
    _add(house, "a")
    portal.loses(executed=False)
    drain(world, Order())
    _quiet(house)
    asleep = taken(house, owner="asleep")
    asking = _asking(world, asleep)
    seen = look(world, asleep, credential_of(world, asleep.tenant), asking.questions)
    _quiet(house)
    drain(world, Order())

    late = _decide(world, asleep, seen.facts)

    assert seen.facts.matches == {("contact", "a"): ()}
    assert late is None
    assert _results(house) == {"a": ["unknown", "retried", "applied"]}
    assert len(portal.records("contact")) == 1


def test_only_the_owner_of_the_lane_decides(house: Engine, portal: Distant) -> None:
    """What somebody found who was away too long is old, and says nothing any more."""
    world = _world(house, portal)
    _add(house, "a")
    portal.holds_up = True
    drain(world, Order())
    portal.holds_up = False
    _quiet(house)
    asleep = taken(house, owner="asleep")
    asking = _asking(world, asleep)
    seen = look(world, asleep, credential_of(world, asleep.tenant), asking.questions)
    _quiet(house)
    owner = taken(house, owner="awake")
    portal.land()

    late = _decide(world, asleep, seen.facts)
    left = states(house)
    asking = _asking(world, owner)
    anew = look(world, owner, credential_of(world, owner.tenant), asking.questions)
    decided = _decide(world, owner, anew.facts)

    assert seen.facts.matches == {("contact", "a"): ()}
    assert late is None
    assert left == {"a": "doubt"}
    assert decided == Doubts(tally=Tally(outcomes={"applied": 1}))
    assert list(portal.records("contact")) == [1]


def test_an_answer_that_comes_between_look_and_decision_is_believed(
    house: Engine, portal: Distant
) -> None:
    """The batch is closed by it, and there is nothing left to decide."""
    world = _world(house, portal)
    mine: list[Lane] = []
    told: list[Any] = []

    def meanwhile() -> None:
        drain(world, Order())
        _quiet(house)
        mine.append(taken(house))
        asking = _asking(world, mine[0])
        told.append(look(world, mine[0], credential_of(world, mine[0].tenant), asking.questions))

    _add(house, "a")
    drain(world_of(house, ScriptedPortal([_slow(house, meanwhile)])), Order())

    decided = _decide(world, mine[0], told[0].facts)

    assert told[0].facts.matches == {("contact", "a"): ()}
    assert decided is None
    assert _results(house) == {"a": ["unknown", "applied"]}
    assert _links(house) == {"a": "900"}


# Lanes that stand still


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "not executed"])
def test_a_strict_lane_stands_still_while_the_portal_may_be_working_and_goes_on_then(
    house: Engine, portal: Distant, *, executed: bool
) -> None:
    """By itself, in its order, and nothing of it twice."""
    world = _world(house, portal)
    _add(house, "k0")
    _add(house, "k1")
    portal.loses(executed=executed)
    drain(world, STRICT)
    _add(house, "k2")
    time_passes(house)
    still = drain(world, STRICT)
    stopped_by = _lane(house)["stopped_by"]
    _quiet(house)

    drain(world, STRICT)

    assert still == Tally()
    assert stopped_by == rows_of(house, tables.result)[0]["outbox_id"]
    assert [record["name"] for record in portal.records("contact").values()] == ["k0", "k1", "k2"]
    assert (states(house), _lane(house)["stopped_by"]) == ({}, None)
    lists = [methods for methods in portal.requests if "crm.item.list" in methods]
    assert lists == [["crm.item.list", "crm.item.list"]]


def test_a_strict_lane_goes_on_standing_for_what_could_not_be_looked_for(
    house: Engine, portal: Distant
) -> None:
    """Until it is known what became of it, nothing follows."""
    world = _world(house, portal)
    _add(house, "k0")
    portal.loses(executed=True)
    drain(world, STRICT)
    _add(house, "k1")
    _quiet(house)
    _arm(portal, {"action": "html"})

    tally = drain(world, STRICT)
    time_passes(house)
    nothing = drain(world, STRICT)
    left = states(house)
    _quiet(house)
    drain(world, STRICT)

    assert (tally, nothing) == (Tally(looks=1), Tally())
    assert left == {"k0": "doubt", "k1": "ready"}
    assert states(house) == {}
    assert len(portal.records("contact")) == 2


STRICTLY = pytest.mark.parametrize(
    ("policy", "order"),
    [
        pytest.param(None, STRICT, id="by the run"),
        pytest.param({"halt": "strict"}, Order(), id="by the portal"),
    ],
)


@STRICTLY
def test_a_strict_lane_stops_for_each_row_that_a_person_must_decide_on(
    house: Engine, portal: Distant, policy: dict[str, str] | None, order: Order
) -> None:
    """In their order; who decided on the first has not decided on the second."""
    change(house, tables.portal, {"policy": policy}, code="default")
    world = _world(house, portal)
    _add(house, "k0")
    ids = [_add(house, f"q{n}", kind="quote", fields={"title": f"q{n}"}) for n in range(2)]
    portal.loses(executed=True)
    drain(world, order)
    _add(house, "k1")
    stops: list[tuple[int, dict[str, str]]] = []

    for number, row_id in enumerate(ids, start=1):
        _quiet(house)
        drain(world, order)
        _quiet(house)
        assert drain(world, order) == Tally()
        stops.append((_lane(house)["stopped_by"], states(house)))
        with writing(house) as connection:
            deciding.settle(connection, row_id, kinds={}, remote_id=str(number))
    _quiet(house)
    drain(world, order)

    assert stops == [
        (ids[0], {"q0": "held", "q1": "doubt", "k1": "ready"}),
        (ids[1], {"q1": "held", "k1": "ready"}),
    ]
    assert (states(house), _lane(house)["stopped_by"]) == ({}, None)
    assert _results(house)["k0"] == ["unknown", "applied"]


@STRICTLY
def test_a_strict_lane_stops_for_a_person_though_its_worker_went_away_long_ago(
    house: Engine, portal: Distant, policy: dict[str, str] | None, order: Order
) -> None:
    """Nobody was there to stop the lane while the portal may have been working."""
    change(house, tables.portal, {"policy": policy}, code="default")
    world = _world(house, portal)
    quote = _add(house, "q", kind="quote", fields={"title": "Q"})
    portal.loses(executed=True)
    drain(world, order)
    number = one(house, tables.batch)["id"]
    change(house, tables.outbox, {"state": "batched"})
    change(house, tables.batch, {"state": "sending", "quiet_until": 1}, id=number)
    change(house, tables.lane, {"open_batch_id": number, "stopped_by": None, "first_rows": None})
    _add(house, "a")
    time_passes(house)

    tally = drain(world, order)

    assert tally == Tally(outcomes={"stopped": 1})
    assert _lane(house)["stopped_by"] == quote
    assert states(house) == {"q": "held", "a": "ready"}


def test_what_a_circle_was_broken_with_follows_though_the_answer_was_lost(
    house: Engine, portal: Distant
) -> None:
    """The record is found, and gets the reference that it was made without."""
    world = _world(house, portal)
    acme = {"title": "Acme", "contactId": stored(Ref("contact", "ann"))}
    ann = {"name": "Ann", "companyId": stored(Ref("company", "acme"))}
    add_rows(house, "acme", kind="company", fields=acme)
    add_rows(house, "ann", fields=ann)
    portal.loses(executed=True)
    drain(world, Order())
    for _ in range(2):
        _quiet(house)
        drain(world, Order())

    assert states(house) == {}
    assert [str(r["contactId"]) for r in portal.records("company").values()] == ["1"]
    assert _results(house)["acme"] == ["unknown", "begun", "applied"]
