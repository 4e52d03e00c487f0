"""The kinds that are known without any settings, and how to find or declare another.

=========================  ==========================  ========================================
Name                       Methods                     Remarks
=========================  ==========================  ========================================
lead, deal, contact,       crm.item.*                  the universal methods
company, quote, invoice
item:N                     crm.item.*                  any entityTypeId, smart processes from 128
import:N                   crm.item.import, .update    added without checks and automation
crm.lead, crm.deal,        crm.lead.* ...              the classic methods
crm.contact, crm.company,
crm.quote, crm.invoice
activity, activity.todo,   crm.activity.*
activity.configurable
comment                    crm.timeline.comment.*      params of update, delete: the owner
product_row                crm.item.productrow.*
product_rows               crm.item.productrow.set     params: the owner; replaces all rows
crm.lead.product_rows,     crm.lead.productrows.set    params: id; replaces all rows
crm.deal.product_rows,     ...
crm.quote.product_rows
lead.contacts,             crm.lead.contact.items.set  params: id; replaces all links
deal.contacts,             ...
company.contacts,
quote.contacts,
contact.companies
requisite, bank_detail     crm.requisite.*
address                    crm.address.*               no id: called by the triple in its fields
lead.user_field,           crm.lead.userfield.* ...
deal.user_field,
contact.user_field,
company.user_field,
quote.user_field,
requisite.user_field
user.user_field            user.userfield.*
user_field                 userfieldconfig.*           params: moduleId
status, type               crm.status.*, crm.type.*
product, product.service,  catalog.product.*           fields: iblockId
product.offer,
product.sku
price, section             catalog.price.*, ...
product.prices             catalog.price.modify        replaces all prices of a product
task                       tasks.task.*
task.comment,              task.commentitem.*, ...     params: taskId
task.checklist
user                       user.*                      a delete dismisses
department, group          department.*, sonet_group.*
list_element               lists.element.*             params: the list; an update clears the rest
calendar_event             calendar.event.*            fields: type and ownerId
=========================  ==========================  ========================================

A link belongs to a kind by its name: ``lead``, ``item:1`` and ``crm.lead`` are the same records
under three names, so an application keeps to one of them. ``useOriginalUfNames`` is a param.

Of the fields of an add only those are asked for here without which the entity could not be
found again; what else an add needs the portal says itself.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from b24sync.core.kinds import Kind, Marker, Method, Names

_ITEM_NAME = re.compile(r"(item|import):([1-9][0-9]{0,8})")
_OLD_ENTITY_TYPES = frozenset({1, 2, 3, 4, 7, 31})
_FIRST_SMART_PROCESS = 128
_ORIGIN = Marker(key_field="originId", origin_field="originatorId")
_CLASSIC_ORIGIN = Marker(key_field="ORIGIN_ID", origin_field="ORIGINATOR_ID")
_CLASSIC_XML_ID = Marker(key_field="XML_ID", origin_field="ORIGINATOR_ID")
_XML_ID = Marker(key_field="xmlId")
_ITEM_MARKERS = {1: _ORIGIN, 2: _ORIGIN, 3: _ORIGIN, 4: _ORIGIN, 7: None}
_COMMUNICATION = frozenset({"PHONE", "EMAIL", "WEB", "IM", "LINK"})

_Gone: TypeAlias = tuple[tuple[str, str], ...]
_NO_KINDS: Mapping[str, Kind] = MappingProxyType({})


def find_kind(name: str, declared: Mapping[str, Kind] = _NO_KINDS) -> Kind | None:
    """Find the kind of this name: a declared one first, then the table, then any CRM type.

    Shape: ``None`` for a name that nobody knows and for entity types that the portal refuses.
    Raises: nothing.
    Source: universal CRM methods, overview page (type 5 is refused there).
    """
    known = declared.get(name) or KINDS.get(name)
    if known is not None:
        return known
    parsed = _ITEM_NAME.fullmatch(name)
    if parsed is None:
        return None
    entity_type = int(parsed[2])
    if entity_type < _FIRST_SMART_PROCESS and entity_type not in _OLD_ENTITY_TYPES:
        return None
    return _item(
        name, entity_type, add="crm.item.add" if parsed[1] == "item" else "crm.item.import"
    )


@lru_cache(maxsize=1024)
def _item(name: str, entity_type: int, *, add: str = "crm.item.add") -> Kind:
    # crm.item.add, update, delete, list, get and import pages; markers: object fields page. The
    # text tells a missing item from a missing smart process, which has the same code.
    fixed = {"entityTypeId": str(entity_type)}
    return Kind(
        name=name,
        add=Method(name=add, fixed=fixed, id_path=("item", "id")),
        update=Method(name="crm.item.update", id_param="id", fixed=fixed),
        delete=Method(name="crm.item.delete", id_param="id", fixed=fixed),
        list=Method(name="crm.item.list", fields_param="filter", fixed=fixed, id_path=("id",)),
        list_path=("items",),
        get=Method(name="crm.item.get", fields_param=None, id_param="id", fixed=fixed),
        record_path=("item",),
        marker=_ITEM_MARKERS.get(entity_type, _XML_ID),
        multi_fields=frozenset({"fm"}),
        gone=(("NOT_FOUND", r"\b(item|element) not found\b"),),
    )


def _universal_records() -> tuple[Kind, ...]:
    return (
        _item("lead", 1),
        _item("deal", 2),
        _item("contact", 3),
        _item("company", 4),
        _item("quote", 7),
        _item("invoice", 31),
    )


def _classic(
    name: str,
    base: str = "",
    *,
    marker: Marker | None = None,
    gone: _Gone = (),
    multi_fields: frozenset[str] = frozenset(),
) -> Kind:
    base = base or name
    return Kind(
        name=name,
        add=Method(name=f"{base}.add", id_path=()),
        update=Method(name=f"{base}.update", id_param="id"),
        delete=Method(name=f"{base}.delete", id_param="id"),
        list=Method(name=f"{base}.list", fields_param="filter", id_path=("ID",)),
        get=_get(f"{base}.get"),
        marker=marker,
        gone=gone,
        multi_fields=multi_fields,
    )


def _get(name: str, *, id_param: str = "id", fields_param: str | None = None) -> Method:
    return Method(name=name, fields_param=fields_param, id_param=id_param)


def _classic_records() -> tuple[Kind, ...]:
    # The add, update, delete, list and get page of each; the old invoice's delete page shows no
    # error.
    gone = (("", r"^\W*not found\b"),)
    gone_contact = (("ERROR_CORE", r"element not found"), ("", r"contact is not found"))
    gone_company = (("", r"company is not found"),)
    return (
        _classic("crm.lead", marker=_CLASSIC_ORIGIN, gone=gone, multi_fields=_COMMUNICATION),
        _classic("crm.deal", marker=_CLASSIC_ORIGIN, gone=gone),
        _classic(
            "crm.contact", marker=_CLASSIC_ORIGIN, gone=gone_contact, multi_fields=_COMMUNICATION
        ),
        _classic(
            "crm.company", marker=_CLASSIC_ORIGIN, gone=gone_company, multi_fields=_COMMUNICATION
        ),
        _classic("crm.quote", gone=(("ERROR_CORE", r"element not found"),)),
        _classic("crm.invoice"),
    )


def _activities() -> tuple[Kind, ...]:
    # crm.activity.*, crm.activity.todo.* and crm.activity.configurable.* pages. All are listed
    # and deleted by the classic methods, whose filter has the classic names. A to-do is read by
    # them too, and its title is their SUBJECT.
    classic = _classic(
        "activity",
        "crm.activity",
        marker=_CLASSIC_ORIGIN,
        gone=(("", r"activity is not found"),),
    )
    owner = ("ownerTypeId", "ownerId")
    todo = Kind(
        name="activity.todo",
        add=_flat("crm.activity.todo.add", required_fields=owner, id_path=("id",)),
        update=_flat("crm.activity.todo.update", id_param="id", required_fields=owner),
        delete=classic.delete,
        list=classic.list,
        get=classic.get,
        record_names=Names.OTHER,
        gone=classic.gone,
    )
    configurable = Kind(
        name="activity.configurable",
        add=Method(
            name="crm.activity.configurable.add",
            required=(*owner, "layout"),
            id_path=("activity", "id"),
        ),
        update=Method(name="crm.activity.configurable.update", id_param="id"),
        delete=classic.delete,
        list=Method(
            name="crm.activity.list",
            fields_param="filter",
            param_names={"originId": "ORIGIN_ID", "originatorId": "ORIGINATOR_ID"},
            id_path=("ID",),
        ),
        get=_get("crm.activity.configurable.get"),
        record_path=("activity", "fields"),
        marker=_ORIGIN,
        gone=classic.gone,
    )
    return (classic, todo, configurable)


def _flat(
    name: str,
    *,
    id_param: str | None = None,
    id_path: tuple[str, ...] | None = None,
    fixed: Mapping[str, str] = MappingProxyType({}),
    required_fields: tuple[str, ...] = (),
) -> Method:
    return Method(
        name=name,
        fields_param=None,
        id_param=id_param,
        fixed=fixed,
        required_fields=required_fields,
        id_path=id_path,
    )


def _comments() -> tuple[Kind, ...]:
    # crm.timeline.comment.add, update, delete, list, get pages; update and delete need the owner
    # too.
    owner = ("ownerTypeId", "ownerId")
    base = "crm.timeline.comment"
    entity = ("ENTITY_ID", "ENTITY_TYPE")
    return (
        Kind(
            name="comment",
            add=Method(name=f"{base}.add", required_fields=entity, id_path=()),
            update=Method(name=f"{base}.update", id_param="id", required=owner),
            delete=Method(name=f"{base}.delete", id_param="id", required=owner),
            list=Method(
                name=f"{base}.list",
                fields_param="filter",
                required_fields=entity,
                id_path=("ID",),
            ),
            get=_get(f"{base}.get"),
            gone=(("NOT_FOUND", ""),),
        ),
    )


def _replacing(name: str, method: Method, delete: Method | None = None) -> Kind:
    return Kind(name=name, add=method, update=method, delete=delete, linked=False, replaces=True)


def _product_rows() -> tuple[Kind, ...]:
    # crm.item.productrow.add, update, delete, set, list, get and crm.deal.productrows.set pages.
    owner = ("ownerId", "ownerType")
    base = "crm.item.productrow"
    row = Kind(
        name="product_row",
        add=Method(name=f"{base}.add", required_fields=owner, id_path=("productRow", "id")),
        update=Method(name=f"{base}.update", id_param="id"),
        delete=Method(name=f"{base}.delete", id_param="id"),
        list=Method(
            name=f"{base}.list", fields_param="filter", required_fields=owner, id_path=("id",)
        ),
        list_path=("productRows",),
        get=_get(f"{base}.get"),
        record_path=("productRow",),
        gone=(("NOT_FOUND", ""),),
    )
    all_rows = Method(
        name=f"{base}.set", fields_param=None, required=owner, required_fields=("productRows",)
    )
    classic = (
        _replacing(
            f"crm.{record}.product_rows",
            Method(
                name=f"crm.{record}.productrows.set",
                fields_param=None,
                required=("id",),
                required_fields=("rows",),
            ),
        )
        for record in ("lead", "deal", "quote")
    )
    return (row, _replacing("product_rows", all_rows), *classic)


def _memberships() -> tuple[Kind, ...]:
    # crm.deal.contact.items.set and delete pages, and the same of the other records.
    names = (
        ("deal.contacts", "crm.deal.contact.items"),
        ("lead.contacts", "crm.lead.contact.items"),
        ("company.contacts", "crm.company.contact.items"),
        ("quote.contacts", "crm.quote.contact.items"),
        ("contact.companies", "crm.contact.company.items"),
    )
    return tuple(
        _replacing(
            name,
            Method(
                name=f"{base}.set",
                fields_param=None,
                required=("id",),
                required_fields=("items",),
            ),
            Method(name=f"{base}.delete", fields_param=None, required=("id",)),
        )
        for name, base in names
    )


def _requisites() -> tuple[Kind, ...]:
    # crm.requisite.*, crm.requisite.bankdetail.* and crm.address.* pages. An address has no id:
    # its owner and its type are what it is called by.
    gone = (("", r"requisite(bankdetail)? with id \S+ is not found"),)
    triple = ("TYPE_ID", "ENTITY_TYPE_ID", "ENTITY_ID")
    address = Kind(
        name="address",
        add=Method(name="crm.address.add", required_fields=triple),
        update=Method(name="crm.address.update", required_fields=triple),
        delete=Method(name="crm.address.delete", required_fields=triple),
        list=Method(name="crm.address.list", fields_param="filter", required_fields=triple),
        linked=False,
        gone=(("", r"typeaddress not found"),),
    )
    return (
        _classic("requisite", "crm.requisite", marker=_CLASSIC_XML_ID, gone=gone),
        _classic("bank_detail", "crm.requisite.bankdetail", marker=_CLASSIC_XML_ID, gone=gone),
        address,
    )


def _user_fields() -> tuple[Kind, ...]:
    # crm.deal.userfield.*, user.userfield.*, userfieldconfig.* pages. No marker: the portal
    # refuses a second field of the same name, and its filters know no exact comparison. Fields of
    # users are listed only.
    gone = (("ERROR_NOT_FOUND", ""), ("", r"entity with id \S+ is not found"))
    bases = {
        "lead": "crm.lead",
        "deal": "crm.deal",
        "contact": "crm.contact",
        "company": "crm.company",
        "quote": "crm.quote",
        "requisite": "crm.requisite",
    }
    classic = (
        _classic(f"{owner}.user_field", f"{base}.userfield", gone=gone)
        for owner, base in bases.items()
    )
    module = ("moduleId",)
    universal = Kind(
        name="user_field",
        add=Method(
            name="userfieldconfig.add",
            fields_param="field",
            required=module,
            id_path=("field", "id"),
        ),
        update=Method(
            name="userfieldconfig.update", fields_param="field", id_param="id", required=module
        ),
        delete=Method(
            name="userfieldconfig.delete", fields_param="field", id_param="id", required=module
        ),
        list=Method(
            name="userfieldconfig.list", fields_param="filter", required=module, id_path=("id",)
        ),
        list_path=("fields",),
        get=Method(name="userfieldconfig.get", fields_param=None, id_param="id", required=module),
        record_path=("field",),
    )
    of_users = replace(_classic("user.user_field", "user.userfield"), get=None)
    return (*classic, of_users, universal)


def _dictionaries() -> tuple[Kind, ...]:
    # crm.status.* and crm.type.* pages.
    return (
        _classic("status", "crm.status", gone=(("", r"^\W*status is not found\b"),)),
        Kind(
            name="type",
            add=Method(name="crm.type.add", id_path=("type", "id")),
            update=Method(name="crm.type.update", id_param="id"),
            delete=Method(name="crm.type.delete", id_param="id"),
            list=Method(name="crm.type.list", fields_param="filter", id_path=("id",)),
            list_path=("types",),
            get=_get("crm.type.get"),
            record_path=("type",),
            gone=(("0", r"smart process not found"),),
        ),
    )


def _catalog(
    name: str,
    *,
    record: str,
    rows: str,
    iblock: tuple[str, ...] = ("iblockId",),
    marker: Marker | None = _XML_ID,
    gone: _Gone = (("0", r"does not exist"),),
) -> Kind:
    base = f"catalog.{name}"
    return Kind(
        name=name,
        add=Method(name=f"{base}.add", required_fields=iblock, id_path=(record, "id")),
        update=Method(name=f"{base}.update", id_param="id"),
        delete=Method(name=f"{base}.delete", id_param="id"),
        list=Method(
            name=f"{base}.list", fields_param="filter", required_fields=iblock, id_path=("id",)
        ),
        list_path=(rows,),
        get=_get(f"{base}.get"),
        record_path=(record,),
        marker=marker,
        gone=gone,
    )


def _catalogue() -> tuple[Kind, ...]:
    # catalog.product.*, catalog.price.*, catalog.section.* pages; lists refuse a filter without
    # the information block. A product is an element where it is written, and a product where read.
    return (
        replace(_catalog("product", record="element", rows="products"), record_path=("product",)),
        _catalog("product.service", record="service", rows="services"),
        _catalog("product.offer", record="offer", rows="offers"),
        _catalog("product.sku", record="sku", rows="units"),
        _catalog(
            "price",
            record="price",
            rows="prices",
            iblock=(),
            marker=None,
            gone=(("0", r"price does not exist"), ("", r"price does not exist")),
        ),
        _catalog(
            "section",
            record="section",
            rows="sections",
            gone=(("200700300030", ""), ("0", r"does not exist")),
        ),
        _replacing(
            "product.prices", Method(name="catalog.price.modify", required_fields=("product",))
        ),
    )


def _task_part(name: str, base: str) -> Kind:
    # Read by position: "0" is the task, then the item where there is one, then the fields.
    task: dict[str, str] = {"taskId": "0"}
    required = ("taskId",)
    return Kind(
        name=name,
        add=Method(
            name=f"{base}.add",
            fields_param="1",
            param_names=task,
            required=required,
            id_path=(),
        ),
        update=Method(
            name=f"{base}.update",
            fields_param="2",
            id_param="1",
            param_names=task,
            required=required,
        ),
        delete=Method(
            name=f"{base}.delete",
            fields_param="2",
            id_param="1",
            param_names=task,
            required=required,
        ),
        get=Method(
            name=f"{base}.get",
            fields_param=None,
            id_param="1",
            param_names=task,
            required=required,
        ),
    )


def _tasks() -> tuple[Kind, ...]:
    # tasks.task.*, task.commentitem.*, task.checklistitem.* pages. A missing task is answered
    # like a forbidden one, so nothing counts as gone. User fields of a task come only if asked
    # for, and every field comes in camelCase.
    return (
        Kind(
            name="task",
            add=Method(name="tasks.task.add", id_path=("task", "id")),
            update=Method(name="tasks.task.update", id_param="taskId"),
            delete=Method(name="tasks.task.delete", id_param="taskId"),
            list=Method(name="tasks.task.list", fields_param="filter", id_path=("id",)),
            list_path=("tasks",),
            get=_get("tasks.task.get", id_param="taskId", fields_param="select"),
            record_path=("task",),
            record_names=Names.RESPELT,
        ),
        _task_part("task.comment", "task.commentitem"),
        _task_part("task.checklist", "task.checklistitem"),
    )


def _people() -> tuple[Kind, ...]:
    # user.*, department.* and sonet_group.* pages. A user is never deleted but dismissed. Their
    # get methods are lists.
    return (
        Kind(
            name="user",
            add=_flat("user.add", id_path=()),
            update=_flat("user.update", id_param="ID"),
            delete=_flat("user.update", id_param="ID", fixed={"ACTIVE": "N"}),
            list=Method(name="user.get", fields_param="FILTER", id_path=("ID",)),
            marker=Marker(key_field="XML_ID"),
        ),
        Kind(
            name="department",
            add=_flat("department.add", id_path=()),
            update=_flat("department.update", id_param="ID"),
            delete=_flat("department.delete", id_param="ID"),
            list=_flat("department.get", id_path=("ID",)),
            gone=(("ERROR_CORE", r"department not found"),),
        ),
        Kind(
            name="group",
            add=_flat("sonet_group.create", id_path=()),
            update=_flat("sonet_group.update", id_param="GROUP_ID"),
            delete=_flat("sonet_group.delete", id_param="GROUP_ID"),
            list=Method(name="sonet_group.get", fields_param="FILTER", id_path=("ID",)),
        ),
    )


def _others() -> tuple[Kind, ...]:
    # lists.element.* and calendar.event.* pages. The code of a list element is unique and stands
    # beside its fields; lists.element.get is a list. An event has DATE_FROM for from.
    element = ("IBLOCK_TYPE_ID",)
    base = "lists.element"
    calendar = ("type", "ownerId")
    return (
        Kind(
            name="list_element",
            add=Method(name=f"{base}.add", fields_param="FIELDS", required=element, id_path=()),
            update=Method(
                name=f"{base}.update",
                fields_param="FIELDS",
                id_param="ELEMENT_ID",
                required=element,
            ),
            delete=Method(
                name=f"{base}.delete",
                fields_param="FIELDS",
                id_param="ELEMENT_ID",
                required=element,
            ),
            list=Method(name=f"{base}.get", fields_param=None, required=element, id_path=("ID",)),
            marker=Marker(key_field="ELEMENT_CODE", in_params=True),
            whole=True,
            gone=(("ERROR_ELEMENT_NOT_FOUND", ""),),
        ),
        Kind(
            name="calendar_event",
            add=_flat("calendar.event.add", required_fields=calendar, id_path=()),
            update=_flat("calendar.event.update", id_param="id", required_fields=calendar),
            delete=_flat("calendar.event.delete", id_param="id"),
            list=_flat("calendar.event.get", required_fields=calendar, id_path=("ID",)),
            get=_get("calendar.event.getbyid"),
            record_names=Names.OTHER,
        ),
    )


_FAMILIES: tuple[tuple[Kind, ...], ...] = (
    _universal_records(),
    _classic_records(),
    _activities(),
    _comments(),
    _product_rows(),
    _memberships(),
    _requisites(),
    _user_fields(),
    _dictionaries(),
    _catalogue(),
    _tasks(),
    _people(),
    _others(),
)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for family in _FAMILIES for kind in family}
)
"""Every kind that needs no settings, by name."""
