"""The table of kinds, looked up, declared, and consistent in itself."""

import re

import pytest

from b24sync.core import kind_table
from b24sync.core.declared import declared_kinds
from b24sync.core.errors import SettingsError
from b24sync.core.faults import is_gone
from b24sync.core.kind_table import KINDS, find_kind
from b24sync.core.kinds import Kind, Marker, Method, Names

ORIGIN = Marker(key_field="originId", origin_field="originatorId")
CLASSIC_ORIGIN = Marker(key_field="ORIGIN_ID", origin_field="ORIGINATOR_ID")
CLASSIC_XML_ID = Marker(key_field="XML_ID", origin_field="ORIGINATOR_ID")
XML_ID = Marker(key_field="xmlId")

EVERY_KIND = [*KINDS.values(), *filter(None, map(find_kind, ("item:1036", "import:31")))]


@pytest.mark.parametrize(
    ("name", "entity_type", "marker"),
    [
        ("lead", "1", ORIGIN),
        ("deal", "2", ORIGIN),
        ("contact", "3", ORIGIN),
        ("company", "4", ORIGIN),
        ("quote", "7", None),
        ("invoice", "31", XML_ID),
        ("item:1", "1", ORIGIN),
        ("item:4", "4", ORIGIN),
        ("item:7", "7", None),
        ("item:31", "31", XML_ID),
        ("item:128", "128", XML_ID),
        ("item:1036", "1036", XML_ID),
    ],
)
def test_universal_records_differ_by_type_and_marker(
    name: str, entity_type: str, marker: Marker | None
) -> None:
    """One family of methods serves every CRM record; the type is a fixed parameter."""
    fixed = {"entityTypeId": entity_type}

    kind = find_kind(name)

    assert kind == Kind(
        name=name,
        add=Method(name="crm.item.add", fixed=fixed, id_path=("item", "id")),
        update=Method(name="crm.item.update", id_param="id", fixed=fixed),
        delete=Method(name="crm.item.delete", id_param="id", fixed=fixed),
        list=Method(name="crm.item.list", fields_param="filter", fixed=fixed, id_path=("id",)),
        list_path=("items",),
        get=Method(name="crm.item.get", fields_param=None, id_param="id", fixed=fixed),
        record_path=("item",),
        marker=marker,
        multi_fields=frozenset({"fm"}),
        gone=(("NOT_FOUND", r"\b(item|element) not found\b"),),
    )


def test_an_import_is_an_add_by_another_method() -> None:
    """Imported records are updated and deleted like all others."""
    name = "import:1036"

    kind = find_kind(name)

    assert kind is not None
    assert kind.name == name
    assert kind.add == Method(
        name="crm.item.import", fixed={"entityTypeId": "1036"}, id_path=("item", "id")
    )
    assert kind.delete is not None
    assert kind.delete.name == "crm.item.delete"


@pytest.mark.parametrize(
    "name",
    [
        "item:5",
        "item:0",
        "item:8",
        "item:14",
        "item:127",
        "item:0128",
        "item:-128",
        "item:+128",
        "item: 128",
        "item:128 ",
        "item:١٢٨",
        "item:1e3",
        "item:9999999999",
        "item:",
        "item",
        "Item:128",
        "import:5",
        "import",
        "Contact",
        "crm.item",
        "stock",
        "",
    ],
)
def test_a_name_that_nobody_knows_is_no_kind(name: str) -> None:
    """Types that the portal refuses, and names in any other spelling, are not guessed."""
    kind = find_kind(name)

    assert kind is None


def test_a_declared_kind_wins() -> None:
    """An application may declare a kind of its own, or one of the table anew."""
    own = Kind(name="contact", update=Method(name="my.contact.update", id_param="id"))
    smart = Kind(name="item:1036", update=Method(name="my.item.update", id_param="id"))

    declared = {"contact": own, "item:1036": smart}

    assert find_kind("contact", declared) is own
    assert find_kind("item:1036", declared) is smart
    assert find_kind("deal", declared) is KINDS["deal"]


def test_the_table_cannot_be_changed() -> None:
    """What is not in the table is declared, never patched in."""
    table: object = KINDS

    written = getattr(table, "__setitem__", None)

    assert written is None


METHODS = {
    "crm.lead": ("crm.lead.add", "crm.lead.update", "crm.lead.delete"),
    "crm.deal": ("crm.deal.add", "crm.deal.update", "crm.deal.delete"),
    "crm.contact": ("crm.contact.add", "crm.contact.update", "crm.contact.delete"),
    "crm.company": ("crm.company.add", "crm.company.update", "crm.company.delete"),
    "crm.quote": ("crm.quote.add", "crm.quote.update", "crm.quote.delete"),
    "crm.invoice": ("crm.invoice.add", "crm.invoice.update", "crm.invoice.delete"),
    "activity": ("crm.activity.add", "crm.activity.update", "crm.activity.delete"),
    "activity.todo": (
        "crm.activity.todo.add",
        "crm.activity.todo.update",
        "crm.activity.delete",
    ),
    "activity.configurable": (
        "crm.activity.configurable.add",
        "crm.activity.configurable.update",
        "crm.activity.delete",
    ),
    "comment": (
        "crm.timeline.comment.add",
        "crm.timeline.comment.update",
        "crm.timeline.comment.delete",
    ),
    "product_row": (
        "crm.item.productrow.add",
        "crm.item.productrow.update",
        "crm.item.productrow.delete",
    ),
    "product_rows": ("crm.item.productrow.set", "crm.item.productrow.set", None),
    "crm.lead.product_rows": ("crm.lead.productrows.set", "crm.lead.productrows.set", None),
    "crm.deal.product_rows": ("crm.deal.productrows.set", "crm.deal.productrows.set", None),
    "crm.quote.product_rows": ("crm.quote.productrows.set", "crm.quote.productrows.set", None),
    "lead.contacts": (
        "crm.lead.contact.items.set",
        "crm.lead.contact.items.set",
        "crm.lead.contact.items.delete",
    ),
    "deal.contacts": (
        "crm.deal.contact.items.set",
        "crm.deal.contact.items.set",
        "crm.deal.contact.items.delete",
    ),
    "company.contacts": (
        "crm.company.contact.items.set",
        "crm.company.contact.items.set",
        "crm.company.contact.items.delete",
    ),
    "quote.contacts": (
        "crm.quote.contact.items.set",
        "crm.quote.contact.items.set",
        "crm.quote.contact.items.delete",
    ),
    "contact.companies": (
        "crm.contact.company.items.set",
        "crm.contact.company.items.set",
        "crm.contact.company.items.delete",
    ),
    "requisite": ("crm.requisite.add", "crm.requisite.update", "crm.requisite.delete"),
    "bank_detail": (
        "crm.requisite.bankdetail.add",
        "crm.requisite.bankdetail.update",
        "crm.requisite.bankdetail.delete",
    ),
    "address": ("crm.address.add", "crm.address.update", "crm.address.delete"),
    "lead.user_field": (
        "crm.lead.userfield.add",
        "crm.lead.userfield.update",
        "crm.lead.userfield.delete",
    ),
    "deal.user_field": (
        "crm.deal.userfield.add",
        "crm.deal.userfield.update",
        "crm.deal.userfield.delete",
    ),
    "contact.user_field": (
        "crm.contact.userfield.add",
        "crm.contact.userfield.update",
        "crm.contact.userfield.delete",
    ),
    "company.user_field": (
        "crm.company.userfield.add",
        "crm.company.userfield.update",
        "crm.company.userfield.delete",
    ),
    "quote.user_field": (
        "crm.quote.userfield.add",
        "crm.quote.userfield.update",
        "crm.quote.userfield.delete",
    ),
    "requisite.user_field": (
        "crm.requisite.userfield.add",
        "crm.requisite.userfield.update",
        "crm.requisite.userfield.delete",
    ),
    "user.user_field": (
        "user.userfield.add",
        "user.userfield.update",
        "user.userfield.delete",
    ),
    "user_field": ("userfieldconfig.add", "userfieldconfig.update", "userfieldconfig.delete"),
    "status": ("crm.status.add", "crm.status.update", "crm.status.delete"),
    "type": ("crm.type.add", "crm.type.update", "crm.type.delete"),
    "product": ("catalog.product.add", "catalog.product.update", "catalog.product.delete"),
    "product.service": (
        "catalog.product.service.add",
        "catalog.product.service.update",
        "catalog.product.service.delete",
    ),
    "product.offer": (
        "catalog.product.offer.add",
        "catalog.product.offer.update",
        "catalog.product.offer.delete",
    ),
    "product.sku": (
        "catalog.product.sku.add",
        "catalog.product.sku.update",
        "catalog.product.sku.delete",
    ),
    "price": ("catalog.price.add", "catalog.price.update", "catalog.price.delete"),
    "section": ("catalog.section.add", "catalog.section.update", "catalog.section.delete"),
    "product.prices": ("catalog.price.modify", "catalog.price.modify", None),
    "task": ("tasks.task.add", "tasks.task.update", "tasks.task.delete"),
    "task.comment": (
        "task.commentitem.add",
        "task.commentitem.update",
        "task.commentitem.delete",
    ),
    "task.checklist": (
        "task.checklistitem.add",
        "task.checklistitem.update",
        "task.checklistitem.delete",
    ),
    "user": ("user.add", "user.update", "user.update"),
    "department": ("department.add", "department.update", "department.delete"),
    "group": ("sonet_group.create", "sonet_group.update", "sonet_group.delete"),
    "list_element": ("lists.element.add", "lists.element.update", "lists.element.delete"),
    "calendar_event": (
        "calendar.event.add",
        "calendar.event.update",
        "calendar.event.delete",
    ),
}


@pytest.mark.parametrize(("name", "methods"), METHODS.items(), ids=METHODS)
def test_a_kind_names_the_methods_of_the_manual(
    name: str, methods: tuple[str, str, str | None]
) -> None:
    """Add, update and delete are called as their pages say."""
    kind = KINDS[name]

    named = tuple(
        None if method is None else method.name for method in (kind.add, kind.update, kind.delete)
    )

    assert named == methods


def test_every_kind_of_the_table_is_expected() -> None:
    """No kind appears or disappears unnoticed."""
    universal = {"lead", "deal", "contact", "company", "quote", "invoice"}

    names = set(KINDS)

    assert names == universal | set(METHODS)


@pytest.mark.parametrize("name", KINDS)
def test_the_docstring_lists_every_kind(name: str) -> None:
    """A reader finds each name in the table at the top of the module."""
    text = kind_table.__doc__ or ""

    listed = re.search(rf"(?m)^([^ ].* )?{re.escape(name)}(,| |$)", text)

    assert listed is not None


@pytest.mark.parametrize(
    ("name", "id_path"),
    [
        ("crm.contact", ()),
        ("activity", ()),
        ("activity.todo", ("id",)),
        ("activity.configurable", ("activity", "id")),
        ("comment", ()),
        ("product_row", ("productRow", "id")),
        ("requisite", ()),
        ("bank_detail", ()),
        ("deal.user_field", ()),
        ("user_field", ("field", "id")),
        ("status", ()),
        ("type", ("type", "id")),
        ("product", ("element", "id")),
        ("product.service", ("service", "id")),
        ("product.offer", ("offer", "id")),
        ("product.sku", ("sku", "id")),
        ("price", ("price", "id")),
        ("section", ("section", "id")),
        ("task", ("task", "id")),
        ("task.comment", ()),
        ("task.checklist", ()),
        ("user", ()),
        ("department", ()),
        ("group", ()),
        ("list_element", ()),
        ("calendar_event", ()),
        ("address", None),
        ("product_rows", None),
        ("deal.contacts", None),
    ],
)
def test_the_new_id_stands_where_the_manual_shows_it(
    name: str, id_path: tuple[str, ...] | None
) -> None:
    """An empty path means that the answer itself is the id."""
    method = KINDS[name].add

    assert method is not None
    assert method.id_path == id_path


@pytest.mark.parametrize(
    ("name", "id_param"),
    [
        ("crm.contact", "id"),
        ("comment", "id"),
        ("task", "taskId"),
        ("task.comment", "1"),
        ("user", "ID"),
        ("department", "ID"),
        ("group", "GROUP_ID"),
        ("list_element", "ELEMENT_ID"),
        ("calendar_event", "id"),
        ("address", None),
    ],
)
def test_update_and_delete_take_the_id_under_the_portals_name(
    name: str, id_param: str | None
) -> None:
    """Families call the id differently."""
    kind = KINDS[name]

    assert kind.update is not None
    assert kind.delete is not None
    assert (kind.update.id_param, kind.delete.id_param) == (id_param, id_param)


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("crm.lead", CLASSIC_ORIGIN),
        ("crm.deal", CLASSIC_ORIGIN),
        ("crm.contact", CLASSIC_ORIGIN),
        ("crm.company", CLASSIC_ORIGIN),
        ("crm.quote", None),
        ("crm.invoice", None),
        ("activity", CLASSIC_ORIGIN),
        ("activity.todo", None),
        ("activity.configurable", ORIGIN),
        ("comment", None),
        ("product_row", None),
        ("requisite", CLASSIC_XML_ID),
        ("bank_detail", CLASSIC_XML_ID),
        ("product", XML_ID),
        ("section", XML_ID),
        ("price", None),
        ("task", None),
        ("user", Marker(key_field="XML_ID")),
        ("department", None),
        ("group", None),
        ("list_element", Marker(key_field="ELEMENT_CODE", in_params=True)),
        ("calendar_event", None),
        ("deal.user_field", None),
    ],
)
def test_an_add_carries_its_external_key_where_the_portal_keeps_one(
    name: str, marker: Marker | None
) -> None:
    """Kinds without such a field carry none."""
    kind = KINDS[name]

    assert kind.marker == marker


@pytest.mark.parametrize(
    ("name", "code", "text", "expected"),
    [
        ("contact", "NOT_FOUND", "Item not found", True),
        ("contact", "NOT_FOUND", "Element not found", True),
        ("contact", "NOT_FOUND", "Smart process not found", False),
        ("contact", "ACCESS_DENIED", "", False),
        ("crm.lead", "", "Not found", True),
        ("crm.deal", "", "Not found.", True),
        ("crm.deal", "", "Stage is not found", False),
        ("crm.contact", "ERROR_CORE", "Element not found", True),
        ("crm.contact", "", "Contact is not found", True),
        ("crm.company", "", "Company is not found", True),
        ("crm.quote", "ERROR_CORE", "Element not found", True),
        ("product_row", "NOT_FOUND", "", True),
        ("product_row", "OWNER_NOT_FOUND", "", False),
        ("activity", "", "Activity is not found", True),
        ("activity.todo", "", "Activity is not found", True),
        ("activity.configurable", "", "Activity is not found", True),
        ("comment", "NOT_FOUND", "Not found.", True),
        ("requisite", "", "The Requisite with ID '12' is not found", True),
        ("requisite", "", "Entity not found.", False),
        ("bank_detail", "", "The RequisiteBankDetail with ID '357' is not found", True),
        ("address", "", "TypeAddress not found", True),
        ("address", "", "TypeAddress exists", False),
        ("deal.user_field", "ERROR_NOT_FOUND", "The entity with ID '5' is not found", True),
        ("user.user_field", "", "Access denied.", False),
        ("status", "", "Status is not found.", True),
        ("type", "0", "Smart process not found", True),
        ("product", "0", "product does not exist", True),
        ("product", "200040300040", "Access Denied", False),
        ("price", "0", "Price does not exist", True),
        ("price", "", "Price does not exist", True),
        ("section", "200700300030", "", True),
        ("section", "0", "Section does not exist", True),
        ("task", "1048582", "No access", False),
        ("user", "ERROR_CORE", "access_denied", False),
        ("department", "ERROR_CORE", "Department not found", True),
        ("list_element", "ERROR_ELEMENT_NOT_FOUND", "", True),
        ("calendar_event", "", "An error occurred while deleting the event", False),
    ],
)
def test_a_missing_record_is_told_from_other_refusals(
    name: str, code: str, text: str, *, expected: bool
) -> None:
    """A delete of what is not there succeeds; a missing type, owner or right does not count."""
    patterns = KINDS[name].gone

    gone = is_gone(patterns, code, text)

    assert gone is expected


def test_parts_of_tasks_are_read_by_position() -> None:
    """The task comes first, then the part, then the fields, under the numbers 0, 1, 2."""
    kind = KINDS["task.checklist"]

    assert kind.add == Method(
        name="task.checklistitem.add",
        fields_param="1",
        param_names={"taskId": "0"},
        required=("taskId",),
        id_path=(),
    )
    assert kind.update == Method(
        name="task.checklistitem.update",
        fields_param="2",
        id_param="1",
        param_names={"taskId": "0"},
        required=("taskId",),
    )


def test_a_set_of_rows_replaces_the_whole_of_its_owner() -> None:
    """The owner is named by params, the rows by a field that stands flat."""
    kind = KINDS["product_rows"]
    method = Method(
        name="crm.item.productrow.set",
        fields_param=None,
        required=("ownerId", "ownerType"),
        required_fields=("productRows",),
    )

    assert kind == Kind(name="product_rows", add=method, update=method, linked=False, replaces=True)


def test_a_user_is_dismissed_not_deleted() -> None:
    """The portal has no method that deletes a user."""
    kind = KINDS["user"]

    assert kind.delete == Method(
        name="user.update", fields_param=None, id_param="ID", fixed={"ACTIVE": "N"}
    )


def test_params_are_asked_for_where_a_method_cannot_do_without() -> None:
    """A change without them is refused before it is written."""
    comment = KINDS["comment"].update
    element = KINDS["list_element"].add
    configurable = KINDS["activity.configurable"].add
    field = KINDS["user_field"].delete

    asked = [
        method.required for method in (comment, element, configurable, field) if method is not None
    ]

    assert asked == [
        ("ownerTypeId", "ownerId"),
        ("IBLOCK_TYPE_ID",),
        ("ownerTypeId", "ownerId", "layout"),
        ("moduleId",),
    ]


@pytest.mark.parametrize(
    ("name", "method", "list_path"),
    [
        (
            "crm.deal",
            Method(name="crm.deal.list", fields_param="filter", id_path=("ID",)),
            (),
        ),
        (
            "activity.configurable",
            Method(
                name="crm.activity.list",
                fields_param="filter",
                param_names={"originId": "ORIGIN_ID", "originatorId": "ORIGINATOR_ID"},
                id_path=("ID",),
            ),
            (),
        ),
        (
            "product.sku",
            Method(
                name="catalog.product.sku.list",
                fields_param="filter",
                required_fields=("iblockId",),
                id_path=("id",),
            ),
            ("units",),
        ),
        (
            "section",
            Method(
                name="catalog.section.list",
                fields_param="filter",
                required_fields=("iblockId",),
                id_path=("id",),
            ),
            ("sections",),
        ),
        ("user", Method(name="user.get", fields_param="FILTER", id_path=("ID",)), ()),
        (
            "list_element",
            Method(
                name="lists.element.get",
                fields_param=None,
                required=("IBLOCK_TYPE_ID",),
                id_path=("ID",),
            ),
            (),
        ),
    ],
)
def test_a_record_is_looked_up_as_its_list_page_says(
    name: str, method: Method, list_path: tuple[str, ...]
) -> None:
    """Filter, rows and ids are called differently by each family."""
    kind = KINDS[name]

    assert kind.list == method
    assert kind.list_path == list_path


GETS = {
    "crm.lead": ("crm.lead.get", ()),
    "crm.deal": ("crm.deal.get", ()),
    "crm.contact": ("crm.contact.get", ()),
    "crm.company": ("crm.company.get", ()),
    "crm.quote": ("crm.quote.get", ()),
    "crm.invoice": ("crm.invoice.get", ()),
    "activity": ("crm.activity.get", ()),
    "activity.todo": ("crm.activity.get", ()),
    "activity.configurable": ("crm.activity.configurable.get", ("activity", "fields")),
    "comment": ("crm.timeline.comment.get", ()),
    "product_row": ("crm.item.productrow.get", ("productRow",)),
    "requisite": ("crm.requisite.get", ()),
    "bank_detail": ("crm.requisite.bankdetail.get", ()),
    "lead.user_field": ("crm.lead.userfield.get", ()),
    "deal.user_field": ("crm.deal.userfield.get", ()),
    "contact.user_field": ("crm.contact.userfield.get", ()),
    "company.user_field": ("crm.company.userfield.get", ()),
    "quote.user_field": ("crm.quote.userfield.get", ()),
    "requisite.user_field": ("crm.requisite.userfield.get", ()),
    "user_field": ("userfieldconfig.get", ("field",)),
    "status": ("crm.status.get", ()),
    "type": ("crm.type.get", ("type",)),
    "product": ("catalog.product.get", ("product",)),
    "product.service": ("catalog.product.service.get", ("service",)),
    "product.offer": ("catalog.product.offer.get", ("offer",)),
    "product.sku": ("catalog.product.sku.get", ("sku",)),
    "price": ("catalog.price.get", ("price",)),
    "section": ("catalog.section.get", ("section",)),
    "task": ("tasks.task.get", ("task",)),
    "task.comment": ("task.commentitem.get", ()),
    "task.checklist": ("task.checklistitem.get", ()),
    "calendar_event": ("calendar.event.getbyid", ()),
}


@pytest.mark.parametrize(("name", "read"), GETS.items(), ids=GETS)
def test_one_record_is_read_as_its_get_page_says(
    name: str, read: tuple[str, tuple[str, ...]]
) -> None:
    """Families differ in whether, and in what, the record is wrapped."""
    kind = KINDS[name]

    assert kind.get is not None
    assert (kind.get.name, kind.record_path) == read


def test_kinds_whose_records_are_only_listed_have_no_get() -> None:
    """Where a page called get gives a list, or there is none, nothing can be read by its id."""
    listed = {
        "address",
        "department",
        "group",
        "list_element",
        "user",
        "user.user_field",
    }

    unread = {kind.name for kind in KINDS.values() if kind.get is None and not kind.replaces}

    assert unread == listed


def test_what_replaces_a_whole_is_not_read() -> None:
    """Its answer would be rows of an owner, not a record with an id."""
    read = [kind.name for kind in EVERY_KIND if kind.replaces and kind.get is not None]

    assert read == []


def test_a_task_is_read_with_the_fields_that_are_asked_for() -> None:
    """Without a selection the portal leaves out the fields that users defined."""
    kind = KINDS["task"]

    assert kind.get == Method(name="tasks.task.get", fields_param="select", id_param="taskId")


def test_a_part_of_a_task_is_read_by_position() -> None:
    """The task comes first, then the part."""
    kind = KINDS["task.comment"]

    assert kind.get == Method(
        name="task.commentitem.get",
        fields_param=None,
        id_param="1",
        param_names={"taskId": "0"},
        required=("taskId",),
    )


def test_most_records_call_fields_as_changes_do() -> None:
    """Tasks answer in other letters, to-dos and events in other words."""
    others = {
        kind.name: kind.record_names for kind in EVERY_KIND if kind.record_names is not Names.SAME
    }

    assert others == {
        "activity.todo": Names.OTHER,
        "calendar_event": Names.OTHER,
        "task": Names.RESPELT,
    }


def test_rows_of_phones_and_the_like_are_appended_by_records_of_people_and_companies() -> None:
    """Only these classic kinds have such fields; the universal ones have them all in one."""
    communication = frozenset({"PHONE", "EMAIL", "WEB", "IM", "LINK"})

    appending = {
        kind.name: kind.multi_fields
        for kind in KINDS.values()
        if kind.multi_fields not in (frozenset(), frozenset({"fm"}))
    }

    assert appending == {
        "crm.lead": communication,
        "crm.contact": communication,
        "crm.company": communication,
    }


def test_only_a_list_element_is_cleared_by_what_an_update_leaves_out() -> None:
    """An update of the other kinds touches only what it names."""
    cleared = [kind.name for kind in EVERY_KIND if kind.whole]

    assert cleared == ["list_element"]


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.name)
def test_every_kind_is_consistent(kind: Kind) -> None:
    """What is linked gives and takes an id; what has a marker can be listed by it."""
    changing = [method for method in (kind.update, kind.delete) if method is not None]
    reading = [method for method in (kind.list, kind.get) if method is not None]
    methods = [*filter(None, (kind.add,)), *changing, *reading]

    assert kind.add is not None
    assert kind.update is not None
    assert all(re.fullmatch(r"[a-z_]+(\.[a-zA-Z]+)+", method.name) for method in methods)
    assert all((method.id_param is not None) == kind.linked for method in changing)
    assert (kind.add.id_path is not None) == kind.linked
    assert kind.add.id_param is None
    assert all(method.id_path is None for method in changing)
    assert all(set(method.param_names) <= set(method.required) for method in (kind.add, *changing))
    assert kind.get is None or (kind.linked and kind.get.id_param is not None)
    assert kind.get is not None or (kind.record_path, kind.record_names) == ((), Names.SAME)
    assert kind.marker is None or (kind.list is not None and kind.list.id_path is not None)
    assert not kind.replaces or (kind.add == kind.update and not kind.linked)
    assert all(code or pattern for code, pattern in kind.gone)
    assert all(re.compile(pattern) for _, pattern in kind.gone if pattern)
    assert kind.yes_no == ("Y", "N")


STOCK_ADD = {"name": "my.stock.add", "id_path": ["item", "id"]}
STOCK_UPDATE = {"name": "my.stock.update", "id_param": "id"}


def test_a_kind_is_declared_by_plain_values() -> None:
    """Every part of a kind can be said in settings, as JSON or TOML would hold it."""
    setting = {
        "stock": {
            "add": {
                "name": "my.stock.add",
                "fields_param": "data",
                "fixed": {"module": "stock"},
                "required": ["store"],
                "param_names": {"store": "storeId"},
                "required_fields": ["sku"],
                "id_path": ["item", "id"],
            },
            "update": {"name": "my.stock.update", "fields_param": None, "id_param": "id"},
            "delete": {"name": "my.stock.delete", "id_param": "id"},
            "list": {"name": "my.stock.list", "fields_param": "filter", "id_path": ["id"]},
            "list_path": ["items"],
            "get": {"name": "my.stock.get", "id_param": "id", "required": ["store"]},
            "record_path": ["item"],
            "record_names": "respelt",
            "marker": {"key_field": "xmlId", "origin_field": "source", "in_params": True},
            "linked": True,
            "whole": True,
            "yes_no": ["1", "0"],
            "multi_fields": ["places"],
            "gone": [["NOT_FOUND", ""], ("", "no such stock")],
        },
    }

    kinds = declared_kinds(setting)

    assert dict(kinds) == {
        "stock": Kind(
            name="stock",
            add=Method(
                name="my.stock.add",
                fields_param="data",
                fixed={"module": "stock"},
                required=("store",),
                param_names={"store": "storeId"},
                required_fields=("sku",),
                id_path=("item", "id"),
            ),
            update=Method(name="my.stock.update", fields_param=None, id_param="id"),
            delete=Method(name="my.stock.delete", id_param="id"),
            list=Method(name="my.stock.list", fields_param="filter", id_path=("id",)),
            list_path=("items",),
            get=Method(name="my.stock.get", fields_param=None, id_param="id", required=("store",)),
            record_path=("item",),
            record_names=Names.RESPELT,
            marker=Marker(key_field="xmlId", origin_field="source", in_params=True),
            whole=True,
            yes_no=("1", "0"),
            multi_fields=frozenset({"places"}),
            gone=(("NOT_FOUND", ""), ("", "no such stock")),
        )
    }


def test_what_a_declaration_leaves_out_has_the_usual_value() -> None:
    """Two methods are enough, and an empty path says that the answer itself is the id."""
    setting = {"stock": {"add": {"name": "my.stock.add", "id_path": []}, "update": STOCK_UPDATE}}

    kinds = declared_kinds(setting)

    assert kinds["stock"] == Kind(
        name="stock",
        add=Method(name="my.stock.add", id_path=()),
        update=Method(name="my.stock.update", id_param="id"),
    )


def test_a_kind_without_ids_is_declared_by_saying_so() -> None:
    """A kind that is not linked needs neither an id in the answer nor a parameter for it."""
    method = {"name": "my.limits.set"}

    kinds = declared_kinds(
        {"limits": {"add": method, "update": method, "linked": False, "replaces": True}}
    )

    assert kinds["limits"].linked is False
    assert kinds["limits"].replaces is True


def test_no_declaration_is_no_kind() -> None:
    """An empty setting is legal."""
    kinds = declared_kinds({})

    assert dict(kinds) == {}


@pytest.mark.parametrize(
    ("declaration", "place", "problem"),
    [
        pytest.param([], "kinds.stock", "must be a mapping of add, update", id="no mapping"),
        pytest.param({}, "kinds.stock", "give it add, update or delete", id="no method"),
        pytest.param({"ad": {}}, "kinds.stock.ad", "choose from add, update", id="unknown key"),
        pytest.param({1: {}}, "kinds.stock.1", "choose from add, update", id="key no text"),
        pytest.param({"add": "x"}, "kinds.stock.add", "must be a mapping of name", id="method"),
        pytest.param(
            {"add": {"nam": "x"}}, "kinds.stock.add.nam", "choose from name", id="method key"
        ),
        pytest.param({"add": {}}, "kinds.stock.add.name", "must be a text", id="no name"),
        pytest.param(
            {"add": {"name": ""}}, "kinds.stock.add.name", "must be a text", id="empty name"
        ),
        pytest.param(
            {"add": {**STOCK_ADD, "fields_param": 1}},
            "kinds.stock.add.fields_param",
            "must be a text",
            id="fields param",
        ),
        pytest.param(
            {"add": {"name": "x"}}, "kinds.stock.add.id_path", "set linked to false", id="no path"
        ),
        pytest.param(
            {"add": {"name": "x", "id_path": "item"}},
            "kinds.stock.add.id_path",
            "must be a list",
            id="path no list",
        ),
        pytest.param(
            {"add": {"name": "x", "id_path": ["item", 1]}},
            "kinds.stock.add.id_path.1",
            "must be a text",
            id="path step",
        ),
        pytest.param(
            {"add": {**STOCK_ADD, "fixed": []}},
            "kinds.stock.add.fixed",
            "must be a mapping of names",
            id="fixed",
        ),
        pytest.param(
            {"add": {**STOCK_ADD, "fixed": {"type": 3}}},
            "kinds.stock.add.fixed.type",
            "must be a text",
            id="fixed value",
        ),
        pytest.param(
            {"update": {"name": "x"}},
            "kinds.stock.update.id_param",
            "set linked to false",
            id="update without id",
        ),
        pytest.param(
            {"delete": {"name": "x"}},
            "kinds.stock.delete.id_param",
            "set linked to false",
            id="delete without id",
        ),
        pytest.param(
            {"add": STOCK_ADD, "linked": "no"},
            "kinds.stock.linked",
            "must be true or false",
            id="flag",
        ),
        pytest.param(
            {"add": STOCK_ADD, "replaces": True},
            "kinds.stock.replaces",
            "needs linked to be false",
            id="replaces",
        ),
        pytest.param(
            {"add": STOCK_ADD, "marker": {"origin_field": "x"}},
            "kinds.stock.marker.key_field",
            "must be a text",
            id="marker",
        ),
        pytest.param(
            {"add": STOCK_ADD, "marker": {"key_field": "x"}},
            "kinds.stock.list",
            "is missing",
            id="marker without list",
        ),
        pytest.param(
            {"add": STOCK_ADD, "marker": {"key_field": "x"}, "list": {"name": "x"}},
            "kinds.stock.list.id_path",
            "is missing",
            id="list without id",
        ),
        pytest.param(
            {"add": STOCK_ADD, "get": {"name": "x"}},
            "kinds.stock.get.id_param",
            "is missing",
            id="get without id",
        ),
        pytest.param(
            {"add": STOCK_ADD, "linked": False, "get": {"name": "x"}},
            "kinds.stock.get.id_param",
            "is missing",
            id="get without id, not linked",
        ),
        pytest.param(
            {"add": STOCK_ADD, "record_path": "item"},
            "kinds.stock.record_path",
            "must be a list",
            id="record path",
        ),
        pytest.param(
            {"add": STOCK_ADD, "record_names": "Same"},
            "kinds.stock.record_names",
            "must be one of same, respelt, other",
            id="record names",
        ),
        pytest.param(
            {"add": STOCK_ADD, "yes_no": ["Y", "Y"]},
            "kinds.stock.yes_no",
            "two different texts",
            id="yes and no",
        ),
        pytest.param(
            {"add": STOCK_ADD, "gone": ["NOT_FOUND"]},
            "kinds.stock.gone[0]",
            "must be a list",
            id="gone no pair",
        ),
        pytest.param(
            {"add": STOCK_ADD, "gone": [["X", ""], ["", ""]]},
            "kinds.stock.gone[1]",
            "one may be empty",
            id="gone empty",
        ),
        pytest.param(
            {"add": STOCK_ADD, "gone": [["0", "(not found"]]},
            "kinds.stock.gone[0]",
            "no regular expression",
            id="gone pattern",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused_at_its_place(
    declaration: object, place: str, problem: str
) -> None:
    """The error names the place, and says what would be right."""
    setting = {"stock": declaration}

    with pytest.raises(SettingsError) as refusal:
        declared_kinds(setting)

    assert refusal.value.setting == place
    assert problem in refusal.value.problem


def test_a_declared_kind_needs_a_name() -> None:
    """An empty name could never be written in a change."""
    setting = {"": {"add": STOCK_ADD}}

    with pytest.raises(SettingsError, match=r"kinds: a kind has an empty name"):
        declared_kinds(setting)
