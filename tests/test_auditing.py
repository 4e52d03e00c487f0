"""An audit finds markers that occur more than once, however they came about, and tells of each once.

The portal is the emulated one over HTTP; duplicates are planted there by the portal's own methods.
"""

import logging
from typing import Any, cast

import pytest
import requests
from sqlalchemy import Engine, insert

from b24sync.auditing import Audited, audit
from b24sync.core.auditing import Linked
from b24sync.drain import Order, drain
from b24sync.edge import duplicates, tables
from b24sync.edge.auditing import Place
from b24sync.edge.database import transact, writing
from b24sync.sandbox import Sandbox
from b24sync.world import World
from tests.fakes import Answer, Asked, Line, ScriptedPortal
from tests.house import add_rows, change, one, refusal, rows_of, world_of


@pytest.fixture
def world(house: Engine, sandbox: Sandbox) -> World:
    """A world whose portal is the sandbox."""
    return world_of(house, webhook_url=sandbox.webhook_url)


def _audit(world: World, place: Place = Place()) -> Audited:  # noqa: B008 - it is frozen
    return audit(world, "default", place, lasting=lambda: True)


def _plant(sandbox: Sandbox, method: str, **params: object) -> str:
    """A record beside those of ours; its id."""
    answer = cast("Any", sandbox.call(method, params))
    return str(answer["item"]["id"] if method == "crm.item.add" else answer)


def _copy(sandbox: Sandbox, key: str, *, kind: str = "contact", type_id: int = 3) -> str:
    fields = {"originId": f"{kind}:{key}", "originatorId": "b24sync"}
    return _plant(sandbox, "crm.item.add", entityTypeId=type_id, fields=fields)


def _link_many(engine: Engine, *keys: str, kind: str = "contact", first_id: int = 100_000) -> None:
    """Links whose records the portal does not have."""
    rows = [
        {
            "portal": "default",
            "kind": kind,
            "entity_key": key,
            "remote_id": str(first_id + number),
            "state": "present",
        }
        for number, key in enumerate(keys)
    ]
    with writing(engine) as connection:
        connection.execute(insert(tables.link), rows)


def _told(audited: Audited) -> list[tuple[str, str, str, str]]:
    return [(found.kind, found.key, found.kept_id, found.other_id) for found in audited.found]


def test_a_second_record_with_the_marker_is_found_and_told_once(
    world: World, house: Engine, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The record that the link names is kept; the second audit has no news."""
    caplog.set_level(logging.INFO)
    add_rows(house, "a", "b")
    drain(world, Order())
    kept = one(house, tables.link, entity_key="a")["remote_id"]
    other = _copy(sandbox, "a")

    first = _audit(world)
    second = _audit(world)

    assert _told(first) == [("contact", "a", kept, other)]
    assert (first.links, first.requests, first.unseen, first.place) == (2, 1, 0, None)
    assert (_told(second), second.known) == ([], 1)
    assert one(house, tables.duplicate)["found_by"] == "audit"
    assert one(house, tables.link, entity_key="a")["dup_ids"] == [other]
    assert caplog.text.count("duplicate_found") == 1
    assert len(sandbox.records("contact")) == 3


def test_one_that_is_not_there_any_more_is_closed(
    world: World, house: Engine, sandbox: Sandbox
) -> None:
    """Somebody has merged or deleted it; one that is still there stays open."""
    add_rows(house, "a", "b")
    drain(world, Order())
    gone, stays = _copy(sandbox, "a"), _copy(sandbox, "b")
    _audit(world)
    sandbox.call("crm.item.delete", {"entityTypeId": 3, "id": int(gone)})

    again = _audit(world)

    assert (again.gone, again.known) == (1, 1)
    open_ones = [row["other_id"] for row in rows_of(house, tables.duplicate, closed_at=None)]
    assert open_ones == [stays]
    assert one(house, tables.link, entity_key="a")["dup_ids"] is None


def test_one_that_a_person_has_closed_is_not_told_again(
    world: World, house: Engine, sandbox: Sandbox
) -> None:
    """That both stay is a person's decision."""
    add_rows(house, "a")
    drain(world, Order())
    _copy(sandbox, "a")
    _audit(world)
    number = one(house, tables.duplicate)["id"]
    transact(house, lambda connection: duplicates.close(connection, [number]))

    again = _audit(world)

    assert (_told(again), again.known) == ([], 1)
    assert one(house, tables.duplicate)["closed_at"] is not None


def test_a_key_of_the_applications_own_makes_no_duplicates(
    world: World, house: Engine, sandbox: Sandbox
) -> None:
    """Several entities may share one; and a text that comes from another system is by chance."""
    own = {"name": "Ann", "originId": "CRM-1", "originatorId": "shop"}
    add_rows(house, "a", "b", fields=own)
    add_rows(house, "c", fields={"name": "Carl"})
    add_rows(house, "d", fields={"name": "Dora", "originId": "contact:c"})
    drain(world, Order())
    _plant(
        sandbox,
        "crm.item.add",
        entityTypeId=3,
        fields={"originId": "contact:c", "originatorId": "shop"},
    )

    told = _audit(world)

    assert _told(told) == []
    assert (told.links, told.unseen) == (4, 3)
    assert rows_of(house, tables.duplicate) == []


KINDS = {
    "lead": {"title": "L"},
    "invoice": {"title": "I"},
    "crm.deal": {"TITLE": "D"},
    "requisite": {"ENTITY_TYPE_ID": 4, "ENTITY_ID": 1, "PRESET_ID": 1, "NAME": "R"},
    "item:1036": {"title": "S"},
}
PLANTED: dict[str, tuple[str, dict[str, object]]] = {
    "lead": (
        "crm.item.add",
        {"entityTypeId": 1, "fields": {"originId": "lead:a", "originatorId": "b24sync"}},
    ),
    "invoice": ("crm.item.add", {"entityTypeId": 31, "fields": {"xmlId": "invoice:a"}}),
    "crm.deal": (
        "crm.deal.add",
        {"fields": {"ORIGIN_ID": "crm.deal:a", "ORIGINATOR_ID": "b24sync"}},
    ),
    "requisite": (
        "crm.requisite.add",
        {
            "fields": {
                "XML_ID": "requisite:a",
                "ORIGINATOR_ID": "b24sync",
                "ENTITY_TYPE_ID": 4,
                "ENTITY_ID": 1,
                "PRESET_ID": 1,
                "NAME": "R",
            }
        },
    ),
    "item:1036": ("crm.item.add", {"entityTypeId": 1036, "fields": {"xmlId": "item:1036:a"}}),
}


def test_every_kind_whose_list_can_be_asked_is_audited_by_one_request(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """By the names that its own methods have for the marker; the others are named."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    for kind, fields in KINDS.items():
        add_rows(lite_house, "a", kind=kind, fields=fields)
    add_rows(lite_house, "a", kind="quote", fields={"title": "Q"})
    sandbox.call("crm.type.add", {"fields": {"entityTypeId": 1036, "title": "S"}})
    drain(world, Order())
    planted = {
        kind: _plant(sandbox, method, **params) for kind, (method, params) in PLANTED.items()
    }

    told = _audit(world)

    assert {found.kind: found.other_id for found in told.found} == planted
    assert (told.links, told.requests) == (5, 1)
    assert list(told.skipped) == ["quote"]


def test_the_marker_is_that_of_the_generation(
    world: World, house: Engine, sandbox: Sandbox
) -> None:
    """A record that was made anew has another name than its past."""
    for operation in ("add", "delete", "upsert"):
        values = {"fields": None} if operation == "delete" else {}
        add_rows(house, "a", operation=operation, mergeable=False, **values)
        drain(world, Order())
    link = one(house, tables.link)
    (record,) = sandbox.records("contact").values()
    linked = Linked(
        kind="contact", key="a", remote_id=link["remote_id"], generation=link["generation"]
    )
    other = _copy(sandbox, "a#1")
    _copy(sandbox, "a")

    told = _audit(world)

    assert linked.marker == record["originId"] == "contact:a#1"
    assert [found.other_id for found in told.found] == [other]


def test_a_full_page_cannot_hide_a_second_record(lite_house: Engine, sandbox: Sandbox) -> None:
    """It is asked again in halves, and what one marker has too many of, page by page."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    keys = [f"k{number:03}" for number in range(45)]
    add_rows(lite_house, *keys)
    drain(world, Order())
    many = [_copy(sandbox, "k007") for _ in range(120)]
    last = _copy(sandbox, "k039")

    told = _audit(world)

    others = {found.other_id for found in told.found}
    assert others == {*many, last}
    assert told.unseen == 0
    assert told.links == 45


def test_a_hundred_thousand_links_are_fifty_requests(lite_house: Engine, sandbox: Sandbox) -> None:
    """A tenth of them here: two thousand to a request, and a duplicate among the last is found."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    add_rows(lite_house, "zz")
    drain(world, Order())
    _link_many(lite_house, *(f"k{number:05}" for number in range(9_999)))
    other = _copy(sandbox, "zz")

    told = _audit(world)

    assert (told.links, told.requests) == (10_000, 5)
    assert [found.other_id for found in told.found] == [other]


def test_it_goes_on_where_it_was(lite_house: Engine, sandbox: Sandbox) -> None:
    """Cut after its first request, and gone on with from the place that it told."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    _link_many(lite_house, *(f"k{number:04}" for number in range(2_500)))
    add_rows(lite_house, "a", kind="lead", fields={"title": "L"})
    drain(world, Order())
    other = _copy(sandbox, "a", kind="lead", type_id=1)
    goes_on = iter([True, False])

    first = audit(world, "default", Place(), lasting=lambda: next(goes_on))
    assert first.place is not None
    rest = _audit(world, first.place)

    assert (first.links, first.place.kind, first.place.key) == (2_000, "contact", "k1999")
    assert (rest.links, rest.place) == (501, None)
    assert [found.other_id for found in rest.found] == [other]


def test_half_of_the_rate_is_left_to_changes(lite_house: Engine, sandbox: Sandbox) -> None:
    """It ends, and says when it may go on; nothing of its place is lost."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    change(lite_house, tables.portal, {"rate_x": 4, "rate_y": 0.01})
    _link_many(lite_house, *(f"k{number:04}" for number in range(6_000)))

    told = _audit(world)

    assert told.place is not None
    assert (told.requests, told.links, told.place.key) == (2, 4_000, "k3999")
    assert told.why == "rate"
    assert told.wait_ms > 60_000
    assert one(lite_house, tables.bucket)["level"] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refusal("QUERY_LIMIT_EXCEEDED", "Too many requests", 503), "refused_QUERY_LIMIT_EXCEEDED"),
        (refusal("expired_token", "The access token has expired", 401), "refused_expired_token"),
        (Answer(body=b"<html>", status=502), "unanswered"),
        (requests.ReadTimeout(), "no_answer_ReadTimeout"),
    ],
    ids=["rate", "token", "page", "silence"],
)
def test_a_portal_that_does_not_answer_is_left_alone(
    lite_house: Engine, answer: Line, why: str
) -> None:
    """It comes back by the next run, from the same place."""
    _link_many(lite_house, "a")

    told = _audit(world_of(lite_house, ScriptedPortal([answer])))

    assert (told.why, told.place, told.links) == (why, Place(), 0)
    if "QUERY" in why:
        assert one(lite_house, tables.bucket)["level"] == 1000


def test_a_portal_without_a_credential_is_not_asked(lite_house: Engine) -> None:
    """Nor is anything made of it: the drain tells whoever must act."""
    _link_many(lite_house, "a")
    portal = ScriptedPortal([])

    told = _audit(world_of(lite_house, portal, webhook_url=None))

    assert (told.why, portal.asked) == ("no_credential", [])
    assert one(lite_house, tables.portal)["state"] == "active"


def test_a_portal_that_is_stopped_is_not_asked(lite_house: Engine) -> None:
    """Nothing goes out."""
    _link_many(lite_house, "a")
    change(lite_house, tables.portal, {"state": "paused", "state_reason": "by hand"})
    portal = ScriptedPortal([])

    told = _audit(world_of(lite_house, portal))

    assert (told.why, portal.asked) == ("paused", [])


def test_a_method_that_is_refused_for_time_rests_for_everybody(lite_house: Engine) -> None:
    """It is asked again when its time has come, and not before."""

    def answer(asked: Asked) -> Answer:
        refused = {"error": "OPERATION_TIME_LIMIT", "error_description": "blocked"}
        failed = dict.fromkeys(asked.params["cmd"], refused)
        return Answer(body={"result": {"result": [], "result_error": failed, "result_time": []}})

    _link_many(lite_house, "a")
    portal = ScriptedPortal([answer])
    world = world_of(lite_house, portal)

    first, second = _audit(world), _audit(world)

    assert (first.why, second.why, len(portal.asked)) == ("method_time", "method_time", 1)
    assert 0 < second.wait_ms < 62_000
    assert one(lite_house, tables.method_budget)["method"] == "crm.item.list"


def test_half_of_a_methods_time_is_left_to_others(lite_house: Engine) -> None:
    """What was answered counts; then it rests, from the place behind it."""

    def answer(asked: Asked) -> Answer:
        times = {label: {"operating": 241.5} for label in asked.params["cmd"]}
        done = {label: {"items": ()} for label in asked.params["cmd"]}
        return Answer(body={"result": {"result": done, "result_error": [], "result_time": times}})

    _link_many(lite_house, *(f"k{number:04}" for number in range(2_100)))

    told = _audit(world_of(lite_house, ScriptedPortal([answer])))

    assert told.place is not None
    assert (told.why, told.links, told.place.key) == ("method_time", 2_000, "k1999")


def test_a_list_that_does_not_know_the_condition_is_left_out(lite_house: Engine) -> None:
    """It answers with any records, page after page; the kind is named, and nothing is found."""

    def answer(asked: Asked) -> Answer:
        rows = [{"id": number, "originId": "else"} for number in range(1, 51)]
        done = {label: {"items": rows} for label in asked.params["cmd"]}
        sections = {"result": done, "result_error": [], "result_time": []}
        return Answer(body={"result": sections})

    _link_many(lite_house, "a", "b")

    told = _audit(world_of(lite_house, ScriptedPortal([answer] * 2)))

    assert told.skipped == {"contact": "its list does not know the condition"}
    assert (told.found, told.links, told.place) == ((), 0, None)


def test_a_kind_that_the_portal_refuses_does_not_stop_the_others(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """It is named with the portal's words."""
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)
    add_rows(lite_house, "a", kind="lead", fields={"title": "L"})
    drain(world, Order())
    _link_many(lite_house, "a", kind="item:1099")
    other = _copy(sandbox, "a", kind="lead", type_id=1)

    told = _audit(world)

    assert [found.other_id for found in told.found] == [other]
    assert list(told.skipped) == ["item:1099"]


def test_a_link_that_changed_meanwhile_is_not_told_of(lite_house: Engine) -> None:
    """What was read before the portal was asked may be wrong when it has answered."""

    def answer(asked: Asked) -> Answer:
        change(lite_house, tables.link, {"remote_id": "8"}, entity_key="a")
        rows = [{"id": number, "originId": "contact:a"} for number in (100_000, 7)]
        done = {label: {"items": rows} for label in asked.params["cmd"]}
        return Answer(body={"result": {"result": done, "result_error": [], "result_time": []}})

    _link_many(lite_house, "a")

    told = _audit(world_of(lite_house, ScriptedPortal([answer])))

    assert told.found == ()
    assert rows_of(lite_house, tables.duplicate) == []
