"""Every other kind of entity: what its methods answer, and what they say of a missing record."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from b24sync.core.comparing import differences
from b24sync.core.kind_table import KINDS
from b24sync.core.kinds import Kind
from b24sync.sandbox import Sandbox, SandboxConfig
from tests.sandbox.asking import Asker

OWNERS = {"crm.deal.add": {"TITLE": "d"}, "crm.contact.add": {"NAME": "c"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The methods of a kind called in turn, and what each answers."""

    kind: str
    add: tuple[str, Any]
    added: object
    update: tuple[str, Any]
    updated: object
    delete: tuple[str, Any]
    deleted: object
    missing: tuple[str | int, str]
    """What the update says once the record is deleted; {n} is the id."""
    kept: dict[str, object] = field(default_factory=dict[str, object])
    """Fields of the record after the update."""


def life_of_catalog(name: str, key: str, kind: str) -> Life:
    """The common life of catalog entities."""
    return Life(
        kind=kind,
        add=(f"catalog.{name}.add", {"fields": {"iblockId": 1, "name": "a"}}),
        added={key: {"id": 1, "iblockId": 1, "name": "a"}},
        update=(f"catalog.{name}.update", {"id": 1, "fields": {"name": "b"}}),
        updated={key: {"id": 1, "iblockId": 1, "name": "b"}},
        delete=(f"catalog.{name}.delete", {"id": 1}),
        deleted=True,
        missing=(0, "does not exist"),
        kept={"name": "b"},
    )


LIVES = [
    Life(
        kind="activity",
        add=("crm.activity.add", {"fields": {"SUBJECT": "a", "OWNER_ID": 1}}),
        added=1,
        update=("crm.activity.update", {"id": 1, "fields": {"SUBJECT": "b"}}),
        updated=True,
        delete=("crm.activity.delete", {"id": 1}),
        deleted=True,
        missing=("", "Activity is not found"),
        kept={"SUBJECT": "b", "OWNER_ID": 1},
    ),
    Life(
        kind="activity.todo",
        add=("crm.activity.todo.add", {"ownerTypeId": 2, "ownerId": 1, "deadline": "d"}),
        added={"id": 1},
        update=("crm.activity.todo.update", {"id": 1, "deadline": "e"}),
        updated={"id": 1},
        delete=("crm.activity.delete", {"id": 1}),
        deleted=True,
        missing=("NOT_FOUND", "Activity is not found"),
        kept={"OWNER_TYPE_ID": 2, "DEADLINE": "e"},
    ),
    Life(
        kind="comment",
        add=(
            "crm.timeline.comment.add",
            {"fields": {"ENTITY_ID": 1, "ENTITY_TYPE": "deal", "COMMENT": "a"}},
        ),
        added=1,
        update=("crm.timeline.comment.update", {"id": 1, "fields": {"COMMENT": "b"}}),
        updated=1,
        delete=("crm.timeline.comment.delete", {"id": 1, "ownerTypeId": 2, "ownerId": 1}),
        deleted=None,
        missing=("NOT_FOUND", "Not found."),
        kept={"COMMENT": "b"},
    ),
    Life(
        kind="product_row",
        add=(
            "crm.item.productrow.add",
            {"fields": {"ownerId": 1, "ownerType": "D", "price": 5}},
        ),
        added={"productRow": {"id": 1, "ownerId": 1, "ownerType": "D", "price": 5}},
        update=("crm.item.productrow.update", {"id": 1, "fields": {"price": 6}}),
        updated={"productRow": {"id": 1, "ownerId": 1, "ownerType": "D", "price": 6}},
        delete=("crm.item.productrow.delete", {"id": 1}),
        deleted=None,
        missing=("NOT_FOUND", "not found"),
        kept={"price": 6},
    ),
    Life(
        kind="requisite",
        add=("crm.requisite.add", {"fields": {"ENTITY_TYPE_ID": 3, "ENTITY_ID": 1}}),
        added=1,
        update=("crm.requisite.update", {"id": 1, "fields": {"NAME": "b"}}),
        updated=True,
        delete=("crm.requisite.delete", {"id": 1}),
        deleted=True,
        missing=("", "The Requisite with ID '1' is not found"),
        kept={"NAME": "b"},
    ),
    Life(
        kind="bank_detail",
        add=("crm.requisite.bankdetail.add", {"fields": {"ENTITY_ID": 1}}),
        added=1,
        update=("crm.requisite.bankdetail.update", {"id": 1, "fields": {"NAME": "b"}}),
        updated=True,
        delete=("crm.requisite.bankdetail.delete", {"id": 1}),
        deleted=True,
        missing=("", "is not found"),
        kept={"NAME": "b"},
    ),
    Life(
        kind="deal.user_field",
        add=("crm.deal.userfield.add", {"fields": {"FIELD_NAME": "X"}}),
        added=1,
        update=("crm.deal.userfield.update", {"id": 1, "fields": {"SORT": 1}}),
        updated=True,
        delete=("crm.deal.userfield.delete", {"id": 1}),
        deleted=True,
        missing=("ERROR_NOT_FOUND", "not found"),
        kept={"SORT": 1},
    ),
    Life(
        kind="user_field",
        add=("userfieldconfig.add", {"moduleId": "crm", "field": {"fieldName": "X"}}),
        added={"field": {"id": "1", "fieldName": "X"}},
        update=("userfieldconfig.update", {"moduleId": "crm", "id": 1, "field": {"sort": 1}}),
        updated={"field": {"id": "1", "fieldName": "X", "sort": 1}},
        delete=("userfieldconfig.delete", {"moduleId": "crm", "id": 1}),
        deleted=None,
        missing=("NOT_FOUND", "not found"),
        kept={"sort": 1},
    ),
    Life(
        kind="status",
        add=("crm.status.add", {"fields": {"ENTITY_ID": "SOURCE", "STATUS_ID": "X"}}),
        added=1,
        update=("crm.status.update", {"id": 1, "fields": {"NAME": "b"}}),
        updated=True,
        delete=("crm.status.delete", {"id": 1}),
        deleted=True,
        missing=("", "Status is not found"),
        kept={"NAME": "b"},
    ),
    Life(
        kind="type",
        add=("crm.type.add", {"fields": {"title": "a", "entityTypeId": 180}}),
        added={"type": {"id": 1, "title": "a", "entityTypeId": 180}},
        update=("crm.type.update", {"id": 1, "fields": {"title": "b", "entityTypeId": 9}}),
        updated={"type": {"id": 1, "title": "b", "entityTypeId": 180}},
        delete=("crm.type.delete", {"id": 1}),
        deleted=[],
        missing=("NOT_FOUND", "Smart process not found"),
        kept={"title": "b"},
    ),
    Life(
        kind="address",
        add=(
            "crm.address.add",
            {"fields": {"TYPE_ID": 1, "ENTITY_TYPE_ID": 8, "ENTITY_ID": 1, "CITY": "a"}},
        ),
        added=True,
        update=(
            "crm.address.update",
            {"fields": {"TYPE_ID": "1", "ENTITY_TYPE_ID": "8", "ENTITY_ID": "1", "CITY": "b"}},
        ),
        updated=True,
        delete=(
            "crm.address.delete",
            {"fields": {"TYPE_ID": 1, "ENTITY_TYPE_ID": 8, "ENTITY_ID": 1}},
        ),
        deleted=True,
        missing=("", "TypeAddress not found"),
        kept={"CITY": "b"},
    ),
    life_of_catalog("product", "element", "product"),
    life_of_catalog("product.service", "service", "product.service"),
    life_of_catalog("product.offer", "offer", "product.offer"),
    life_of_catalog("product.sku", "sku", "product.sku"),
    life_of_catalog("price", "price", "price"),
    life_of_catalog("section", "section", "section"),
    Life(
        kind="task",
        add=("tasks.task.add", {"fields": {"TITLE": "a", "RESPONSIBLE_ID": 1}}),
        added={"task": {"id": "1", "title": "a", "responsibleId": 1}},
        update=("tasks.task.update", {"taskId": 1, "fields": {"TITLE": "b"}}),
        updated={"task": {"id": "1", "title": "b", "responsibleId": 1}},
        delete=("tasks.task.delete", {"taskId": 1}),
        deleted={"task": True},
        missing=("1048582", "No access"),
        kept={"TITLE": "b"},
    ),
    Life(
        kind="list_element",
        add=(
            "lists.element.add",
            {
                "IBLOCK_TYPE_ID": "lists",
                "IBLOCK_ID": 7,
                "ELEMENT_CODE": "x",
                "FIELDS": {"NAME": "a", "PROPERTY_1": "p"},
            },
        ),
        added=1,
        update=(
            "lists.element.update",
            {
                "IBLOCK_TYPE_ID": "lists",
                "IBLOCK_ID": "7",
                "ELEMENT_CODE": "x",
                "FIELDS": {"NAME": "b"},
            },
        ),
        updated=True,
        delete=(
            "lists.element.delete",
            {"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": 7, "ELEMENT_ID": 1},
        ),
        deleted=True,
        missing=("ERROR_ELEMENT_NOT_FOUND", "not found"),
        kept={"NAME": "b", "CODE": "x"},
    ),
    Life(
        kind="calendar_event",
        add=(
            "calendar.event.add",
            {"type": "user", "ownerId": 1, "from": "f", "to": "t", "section": 1, "name": "a"},
        ),
        added=1,
        update=("calendar.event.update", {"id": 1, "type": "user", "ownerId": 1, "name": "b"}),
        updated=1,
        delete=("calendar.event.delete", {"id": 1}),
        deleted=True,
        missing=("", "not found"),
        kept={"name": "b", "from": "f"},
    ),
    Life(
        kind="group",
        add=("sonet_group.create", {"NAME": "a"}),
        added=1,
        update=("sonet_group.update", {"GROUP_ID": 1, "NAME": "b"}),
        updated=1,
        delete=("sonet_group.delete", {"GROUP_ID": 1}),
        deleted=True,
        missing=("ERROR_CORE", "not found"),
        kept={"NAME": "b"},
    ),
    Life(
        kind="department",
        add=("department.add", {"NAME": "a", "PARENT": 1}),
        added=1,
        update=("department.update", {"ID": 1, "NAME": "b"}),
        updated=True,
        delete=("department.delete", {"ID": 1}),
        deleted=True,
        missing=("ERROR_CORE", "not found"),
        kept={"NAME": "b"},
    ),
    Life(
        kind="task.comment",
        add=("task.commentitem.add", {"0": 1, "1": {"POST_MESSAGE": "a"}}),
        added=1,
        update=("task.commentitem.update", {"0": 1, "1": 1, "2": {"POST_MESSAGE": "b"}}),
        updated=True,
        delete=("task.commentitem.delete", {"0": 1, "1": 1}),
        deleted=True,
        missing=("ERROR_CORE", "not found"),
        kept={"POST_MESSAGE": "b"},
    ),
    Life(
        kind="task.checklist",
        add=("task.checklistitem.add", {"0": 1, "1": {"TITLE": "a"}}),
        added=1,
        update=("task.checklistitem.update", {"0": 1, "1": 1, "2": {"TITLE": "b"}}),
        updated=None,
        delete=("task.checklistitem.delete", {"0": 1, "1": 1}),
        deleted=True,
        missing=("ERROR_CORE", "not found"),
        kept={"TITLE": "b"},
    ),
]


@pytest.fixture
def furnished(sandbox: Sandbox) -> Sandbox:
    """A portal with one deal, one contact and, for what hangs on tasks, one task."""
    for method, fields in OWNERS.items():
        sandbox.call(method, {"fields": {**fields}})
    return sandbox


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.kind)
def test_a_record_lives_from_add_to_delete(furnished: Sandbox, ask: Asker, life: Life) -> None:
    """Each method answers in its own shape; after the delete the update is refused."""
    if life.kind.startswith("task."):
        furnished.call("tasks.task.add", {"fields": {"TITLE": "t", "RESPONSIBLE_ID": 1}})

    added = ask.result(furnished, *life.add)
    updated = ask.result(furnished, *life.update)
    record = furnished.records(life.kind)[1]
    deleted = ask.result(furnished, *life.delete)
    code, text = ask.refusal(furnished, *life.update)

    assert (added, updated, deleted) == (life.added, life.updated, life.deleted)
    assert record.items() >= life.kept.items()
    assert furnished.records(life.kind) == {}
    assert code == life.missing[0]
    assert life.missing[1] in text


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.kind)
def test_the_journal_names_the_record_that_was_written(
    furnished: Sandbox, ask: Asker, life: Life
) -> None:
    """Whatever the shape of the answer, the entry has the id."""
    if life.kind.startswith("task."):
        furnished.call("tasks.task.add", {"fields": {"TITLE": "t", "RESPONSIBLE_ID": 1}})

    ask.result(furnished, *life.add)

    assert furnished.journal()[-1].id == 1


NOT_EMULATED = {"activity.configurable"}
"""Kinds whose get the sandbox does not have."""

READABLE = [
    kind for kind in KINDS.values() if kind.get is not None and kind.name not in NOT_EMULATED
]

SPOKEN = {life.kind: life.add[1] for life in LIVES}
BESIDE: dict[str, dict[str, object]] = {
    "user_field": {"moduleId": "crm"},
    "task.comment": {"0": 1},
    "task.checklist": {"0": 1},
}
"""What a get takes beside the id."""


def said_of(kind: Kind) -> dict[str, Any]:
    """The parameters of an add: those above, or a record with one text of its own."""
    if kind.name in SPOKEN:
        return dict(SPOKEN[kind.name])
    assert kind.add is not None
    name = "title" if kind.add.name == "crm.item.add" else "TITLE"
    return {**kind.add.fixed, "fields": {name: "a"}}


def found_at(path: tuple[str, ...], answer: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """The part of an answer to which a path of names leads."""
    for step in path:
        answer = answer[step]
    return answer


def read_back(sandbox: Sandbox, ask: Asker, kind: Kind) -> tuple[str, Any]:
    """A new record's id, and the record as the kind's own get finds it."""
    assert kind.add is not None
    assert kind.get is not None
    assert kind.get.id_param is not None
    if kind.name.startswith("task."):
        sandbox.call("tasks.task.add", {"fields": {"TITLE": "t", "RESPONSIBLE_ID": 1}})
    added = ask.result(sandbox, kind.add.name, said_of(kind))
    new_id = found_at(kind.add.id_path or (), added)
    beside = {**kind.get.fixed, **BESIDE.get(kind.name, {})}
    answer = ask.result(sandbox, kind.get.name, {**beside, kind.get.id_param: new_id})
    return str(new_id), found_at(kind.record_path, answer)


def test_every_get_is_emulated_but_those_named_here(sandbox: Sandbox, ask: Asker) -> None:
    """No kind is passed over by the tests below unnoticed."""
    emulated = {name.lower() for name in ask.result(sandbox, "methods")}

    missing = {
        kind.name
        for kind in KINDS.values()
        if kind.get is not None and kind.get.name.lower() not in emulated
    }

    assert missing == NOT_EMULATED


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_a_record_that_was_added_is_read_by_its_id(
    furnished: Sandbox, ask: Asker, kind: Kind
) -> None:
    """The record stands where the table of kinds says, and has the id that it was given."""
    new_id, record = read_back(furnished, ask, kind)

    assert str(record.get("id", record.get("ID"))) == new_id


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_a_record_that_was_added_is_what_was_said(
    furnished: Sandbox, ask: Asker, kind: Kind
) -> None:
    """Whatever the letters and the types in which a family answers."""
    assert kind.add is not None
    said = said_of(kind)
    fields = said if kind.add.fields_param is None else said[kind.add.fields_param]

    _, record = read_back(furnished, ask, kind)

    assert differences(fields, record, names=kind.record_names) == ()


def test_a_missing_task_is_an_empty_success(sandbox: Sandbox, ask: Asker) -> None:
    """tasks.task.get of a missing task answers an empty list."""
    assert ask.result(sandbox, "tasks.task.get", {"taskId": 9}) == []


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tasks.task.add", {"fields": {"TITLE": "a"}}, "ERROR_CORE"),
        ("user.add", {"NAME": "x"}, "ERROR_ARGUMENT"),
        ("calendar.event.add", {"type": "user"}, ""),
        ("crm.timeline.comment.add", {"FIELDS": {}}, "100"),
        ("crm.activity.todo.add", {"ownerId": 1}, "100"),
        (
            "crm.item.productrow.add",
            {"fields": {"ownerType": "D", "ownerId": 9}},
            "OWNER_NOT_FOUND",
        ),
        (
            "crm.item.productrow.set",
            {"ownerType": "C", "ownerId": 9, "productRows": []},
            "OWNER_NOT_FOUND",
        ),
        (
            "crm.item.productrow.set",
            {"ownerType": "ZZ", "ownerId": 1, "productRows": []},
            "ENTITY_TYPE_NOT_SUPPORTED",
        ),
        ("lists.element.add", {"IBLOCK_ID": 1}, "ERROR_REQUIRED_PARAMETERS_MISSING"),
        ("crm.activity.configurable.add", {"ownerTypeId": 2}, "ACCESS_DENIED"),
    ],
)
def test_an_incomplete_add_is_refused(
    sandbox: Sandbox, ask: Asker, method: str, params: dict[str, object], code: str
) -> None:
    """Required fields and owners are checked as the manual says."""
    assert ask.refusal(sandbox, method, params)[0] == code


def test_users_are_dismissed_and_have_unique_e_mails(sandbox: Sandbox, ask: Asker) -> None:
    """user.add answers a number, a second one with the e-mail is refused, update dismisses."""
    user = {"EMAIL": "a@example.com", "XML_ID": "7"}

    added = ask.result(sandbox, "user.add", user)
    again = ask.refusal(sandbox, "user.add", {"EMAIL": "A@example.com"})
    dismissed = ask.result(sandbox, "user.update", {"ID": added, "ACTIVE": "N"})
    found = ask.result(sandbox, "user.get", {"FILTER": {"XML_ID": "7"}})

    assert (added, again[0], dismissed) == (2, "ERROR_ARGUMENT", True)
    assert found == [{"ID": "2", **user, "ACTIVE": "N"}]
    assert ask.refusal(sandbox, "user.update", {"ID": 99})[1] == "access_denied"


def test_a_second_definition_of_a_user_field_is_refused(sandbox: Sandbox, ask: Asker) -> None:
    """Names are unique per entity."""
    field_ = {"fields": {"FIELD_NAME": "X"}}

    ask.result(sandbox, "crm.deal.userfield.add", field_)

    assert ask.refusal(sandbox, "crm.deal.userfield.add", field_)[0] == "ERROR_CORE"
    assert ask.result(sandbox, "crm.lead.userfield.add", field_) == 1


def test_a_second_list_element_with_a_code_is_refused(sandbox: Sandbox, ask: Asker) -> None:
    """Codes are unique per list; the element is found by its code."""
    element = {"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": 7, "ELEMENT_CODE": "x"}
    ask.result(sandbox, "lists.element.add", {**element, "FIELDS": {"NAME": "a"}})

    refused = ask.refusal(sandbox, "lists.element.add", element)
    elsewhere = ask.result(sandbox, "lists.element.add", {**element, "IBLOCK_ID": 8})
    found = ask.result(sandbox, "lists.element.get", element)

    assert (refused[0], elsewhere) == ("ERROR_ELEMENT_ALREADY_EXISTS", 2)
    assert [row["ID"] for row in found] == ["1"]


def test_a_list_element_loses_what_an_update_does_not_send(sandbox: Sandbox, ask: Asker) -> None:
    """lists.element.update overwrites the whole element."""
    element = {"IBLOCK_TYPE_ID": "lists", "IBLOCK_ID": 7, "ELEMENT_CODE": "x"}
    fields = {"NAME": "a", "PROPERTY_1": "p"}
    ask.result(sandbox, "lists.element.add", {**element, "FIELDS": fields})

    ask.result(sandbox, "lists.element.update", {**element, "FIELDS": {"NAME": "b"}})

    assert "PROPERTY_1" not in sandbox.records("list_element")[1]


def test_a_second_address_of_a_type_is_refused(sandbox: Sandbox, ask: Asker) -> None:
    """The triple is the key; lists show no id."""
    fields = {"fields": {"TYPE_ID": 1, "ENTITY_TYPE_ID": 8, "ENTITY_ID": 1}}
    ask.result(sandbox, "crm.address.add", fields)

    assert ask.refusal(sandbox, "crm.address.add", fields) == ("", "TypeAddress exists")
    assert ask.result(sandbox, "crm.address.list") == [fields["fields"]]


def test_setting_product_rows_replaces_them(furnished: Sandbox, ask: Asker) -> None:
    """Both set methods delete what is not sent; both kinds of get show the same rows."""
    owner = {"ownerType": "D", "ownerId": 1}
    ask.result(furnished, "crm.item.productrow.add", {"fields": {**owner, "price": 1}})

    rows = [{"productId": 5, "price": 2}, {"productId": 6, "price": 3}]
    ask.result(furnished, "crm.item.productrow.set", {**owner, "productRows": rows})
    shown = ask.result(furnished, "crm.deal.productrows.get", {"id": 1})
    classic = {"id": 1, "rows": [{"PRODUCT_ID": 7, "PRICE": 4}]}
    answered = ask.result(furnished, "crm.deal.productrows.set", classic)
    listed = ask.result(
        furnished, "crm.item.productrow.list", {"filter": {"=ownerType": "D", "=ownerId": 1}}
    )

    assert [(row["PRODUCT_ID"], row["PRICE"]) for row in shown] == [(5, 2), (6, 3)]
    assert answered is True
    assert [(row["productId"], row["price"]) for row in listed["productRows"]] == [(7, 4)]


def test_an_empty_list_of_rows_clears_them(furnished: Sandbox, ask: Asker) -> None:
    """productRows[]= means no rows; a switch makes it an error."""
    ask.result(furnished, "crm.deal.productrows.set", {"id": 1, "rows": [{"PRICE": 4}]})
    command = "crm.item.productrow.set?ownerType=D&ownerId=1&productRows[]="

    cleared = ask.batch(furnished, {"a": command})

    assert cleared["result"] == {"a": {"productRows": []}}
    assert furnished.records("product_row") == {}
    with Sandbox(SandboxConfig(blank_row_is_error=True)) as strict:
        assert ask.batch(strict, {"a": command})["result_error"]["a"]["error"] == "100"


@pytest.mark.parametrize(
    ("base", "kind", "link"),
    [
        ("crm.deal.contact.items", "deal.contacts", {"CONTACT_ID": 1, "SORT": 10}),
        ("crm.contact.company.items", "contact.companies", {"COMPANY_ID": 5, "SORT": 10}),
    ],
)
def test_setting_links_replaces_them(
    furnished: Sandbox, ask: Asker, base: str, kind: str, link: dict[str, object]
) -> None:
    """Set replaces, get shows, delete empties."""
    ask.result(furnished, f"{base}.set", {"id": 1, "items": [{"SORT": 1}, {"SORT": 2}]})

    answered = ask.result(furnished, f"{base}.set", {"id": 1, "items": [link]})
    shown = ask.result(furnished, f"{base}.get", {"id": 1})
    deleted = ask.result(furnished, f"{base}.delete", {"id": 1})

    assert (answered, shown, deleted) == (True, [link], True)
    assert furnished.records(kind) == {}
    assert ask.refusal(furnished, f"{base}.set", {"id": 9, "items": []}) == ("", "Not found")


def test_prices_of_a_product_are_set_together(sandbox: Sandbox, ask: Asker) -> None:
    """catalog.price.modify replaces the prices of one product."""
    for product, price in ((1, 10), (1, 20), (2, 30)):
        fields = {"productId": product, "price": price}
        ask.result(sandbox, "catalog.price.add", {"fields": fields})

    replaced = {"id": 1, "prices": [{"price": 5}]}
    ask.result(sandbox, "catalog.price.modify", {"fields": {"product": replaced}})

    assert [row["price"] for row in sandbox.records("price").values()] == [30, 5]


def test_product_codes_can_be_unique(ask: Asker) -> None:
    """If the information block checks codes, a second one is refused with a number as code."""
    with Sandbox(SandboxConfig(unique_product_codes=True)) as sandbox:
        params = {"fields": {"iblockId": 1, "code": "x"}}
        ask.result(sandbox, "catalog.product.add", params)

        assert ask.refusal(sandbox, "catalog.product.add", params)[0] == 0


def test_a_new_smart_process_takes_items(sandbox: Sandbox, ask: Asker) -> None:
    """crm.type.add chooses a free entityTypeId; after crm.type.delete it is unknown again."""
    type_id = ask.result(sandbox, "crm.type.add", {"fields": {"title": "a"}})["type"][
        "entityTypeId"
    ]
    item = {"entityTypeId": type_id, "fields": {"title": "x"}}

    added = ask.result(sandbox, "crm.item.add", item)
    ask.result(sandbox, "crm.type.delete", {"id": 1})

    assert type_id == 1038
    assert added["item"]["entityTypeId"] == type_id
    assert ask.refusal(sandbox, "crm.item.add", item)[1] == "Smart process not found"


def test_smart_processes_are_found(sandbox: Sandbox, ask: Asker) -> None:
    """By id, by entityTypeId and in a list; another entityTypeId is not found."""
    ask.result(sandbox, "crm.type.add", {"fields": {"title": "a", "entityTypeId": 180}})
    known = {"id": 1, "title": "a", "entityTypeId": 180}

    assert ask.result(sandbox, "crm.type.get", {"id": 1}) == {"type": known}
    assert ask.result(sandbox, "crm.type.list") == {"types": [known]}
    by_entity = ask.result(sandbox, "crm.type.getByEntityTypeId", {"entityTypeId": 180})
    assert by_entity == {"type": known}
    refused = ask.refusal(sandbox, "crm.type.getByEntityTypeId", {"entityTypeId": 9})
    assert refused[0] == "NOT_FOUND"


def test_smart_process_items_own_product_rows(sandbox: Sandbox, ask: Asker) -> None:
    """Their short code is T and the type in hexadecimal: T80 is 128."""
    ask.result(sandbox, "crm.item.add", {"entityTypeId": 128, "fields": {"title": "x"}})

    row = {"fields": {"ownerType": "T80", "ownerId": 1}}
    added = ask.result(sandbox, "crm.item.productrow.add", row)

    assert added["productRow"]["id"] == 1


@pytest.mark.parametrize(
    ("method", "params", "row"),
    [
        ("crm.requisite.get", {"id": 1}, {"ID": "1", "ENTITY_TYPE_ID": 3, "ENTITY_ID": 1}),
        ("catalog.section.get", {"id": 1}, {"section": {"id": 1, "name": "s"}}),
        ("catalog.section.list", {}, {"sections": [{"id": 1, "name": "s"}]}),
        (
            "tasks.task.list",
            {"filter": {"ID": 1}, "select": ["ID", "TITLE"]},
            {"tasks": [{"id": "1", "title": "t"}]},
        ),
        ("tasks.task.get", {"taskId": 1}, {"task": {"id": "1", "title": "t", "responsibleId": 1}}),
    ],
)
def test_records_are_shown_as_their_family_does(
    sandbox: Sandbox, ask: Asker, method: str, params: dict[str, object], row: object
) -> None:
    """Wrappers, names and the type of ids differ by family."""
    ask.result(sandbox, "crm.requisite.add", {"fields": {"ENTITY_TYPE_ID": 3, "ENTITY_ID": 1}})
    ask.result(sandbox, "catalog.section.add", {"fields": {"name": "s", "id": 77}})
    ask.result(sandbox, "tasks.task.add", {"fields": {"TITLE": "t", "RESPONSIBLE_ID": 1}})

    assert ask.result(sandbox, method, params) == row


def test_configurable_activities_belong_to_applications(sandbox: Sandbox, ask: Asker) -> None:
    """With a token they are added and updated, and listed by the classic method."""
    url = sandbox.url + "/rest/crm.activity.configurable"
    auth = {"auth": sandbox.access_token}
    body = {**auth, "ownerTypeId": 2, "ownerId": 1, "layout": {}, "fields": {"originId": "7"}}

    added = ask.session.post(f"{url}.add", json=body, timeout=20).json()["result"]
    changed = {**auth, "id": 1, "fields": {"completed": True}}
    updated = ask.session.post(f"{url}.update", json=changed, timeout=20).json()["result"]
    found = ask.result(sandbox, "crm.activity.list", {"filter": {"=ORIGIN_ID": "7"}})

    assert added == updated == {"activity": {"id": 1}}
    assert [row["COMPLETED"] for row in found] == [True]


def test_task_items_are_listed_by_task(sandbox: Sandbox, ask: Asker) -> None:
    """Getlist and get read the task by position."""
    ask.result(sandbox, "tasks.task.add", {"fields": {"TITLE": "t", "RESPONSIBLE_ID": 1}})
    ask.batch(sandbox, {"a": "task.commentitem.add?0=1&1[POST_MESSAGE]=hi"})

    listed = ask.result(sandbox, "task.commentitem.getlist", {"TASKID": 1})
    got = ask.result(sandbox, "task.commentitem.get", {"TASKID": 1, "ITEMID": 1})

    assert listed == [got] == [{"ID": "1", "TASK_ID": 1, "POST_MESSAGE": "hi"}]


def test_the_portal_tells_about_itself(sandbox: Sandbox, ask: Asker) -> None:
    """server.time, profile, scope, methods and the CRM mode answer."""
    assert ask.result(sandbox, "server.time").endswith("+00:00")
    assert ask.result(sandbox, "profile")["ID"] == "1"
    assert "crm" in ask.result(sandbox, "scope")
    assert "crm.item.add" in ask.result(sandbox, "methods")
    assert ask.result(sandbox, "crm.settings.mode.get") == 1


@pytest.mark.parametrize(
    ("method", "listed", "records"),
    [
        (
            "calendar.event.get?type=user&ownerId=2",
            "calendar_event",
            [{"type": "user", "ownerId": owner} for owner in (1, 2)],
        ),
        (
            "department.get?PARENT=2",
            "department",
            [{"NAME": "a", "PARENT": parent} for parent in (1, 2)],
        ),
    ],
)
def test_some_lists_filter_by_plain_parameters(
    sandbox: Sandbox, ask: Asker, method: str, listed: str, records: list[dict[str, object]]
) -> None:
    """Type and ownerId of events, fields of departments."""
    rest = {"from": "f", "to": "t", "section": 1, "name": "n"}
    for record in records:
        more = rest if listed == "calendar_event" else {}
        sandbox.call(f"{listed.replace('_', '.')}.add", {**record, **more})

    found = ask.batch(sandbox, {"a": method})["result"]["a"]

    assert [row["ID"] for row in found] == ["2"]


def test_strict_fields_reach_other_kinds_too(ask: Asker) -> None:
    """A task keeps documented and user fields; a kind without a list keeps everything."""
    with Sandbox(SandboxConfig(strict_fields=True)) as sandbox:
        fields = {"TITLE": "t", "RESPONSIBLE_ID": 1, "UF_X": "u", "NOPE": "x"}
        ask.result(sandbox, "tasks.task.add", {"fields": fields})
        ask.result(sandbox, "sonet_group.create", {"NAME": "g", "NOPE": "x"})

        assert sandbox.records("task")[1].keys() == {"ID", "TITLE", "RESPONSIBLE_ID", "UF_X"}
        assert "NOPE" in sandbox.records("group")[1]
