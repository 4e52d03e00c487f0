"""Methods that differ only in names and answers: one table, one set of actions.

Each row of the table says how a family names its parameters, what its methods answer on success
and what they say of a record that does not exist.
Source: manual pages of the methods (file name: the method with dashes).
"""

from dataclasses import dataclass
from enum import Enum, auto


class Says(Enum):
    """What a method answers on success."""

    TRUE = auto()
    NULL = auto()
    ID = auto()
    """The record's id, a number."""
    RECORD = auto()
    """The whole record."""


class Case(Enum):
    """How a family writes field names in its answers."""

    AS_STORED = auto()
    CAMEL = auto()
    """Stored under UPPER_SNAKE, answered in camelCase: tasks."""
    SENT_CAMEL = auto()
    """Sent in camelCase, stored under UPPER_SNAKE: to-do activities."""


Complaint = tuple[str | int, str]
"""Code and text; {id} in the text stands for the id asked for."""

_DENIED: Complaint = ("ERROR_CORE", "access_denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row: the methods `prefix.verb` over one kind of records."""

    prefix: str
    kind: str
    """Table of the records."""
    missing: Complaint
    """What update, get and delete answer for an unknown id."""
    verbs: tuple[str, ...] = ("add", "update", "delete", "get", "list")
    names: tuple[tuple[str, str], ...] = ()
    """Verbs that the portal calls otherwise: (verb, its name)."""
    id_param: str = "id"
    id_field: str = "ID"
    """Field in which the record shows its id."""
    fields_param: str | None = "fields"
    """Parameter that holds the fields; None: they are parameters themselves."""
    exact: bool = False
    """Whether parameter names must be in exactly the documented letter case."""
    key: str = ""
    """Wrapper of the answers of add and update; empty: none."""
    get_key: str | None = None
    """Wrapper of the answer of get; None: the same as key."""
    list_key: str = ""
    delete_key: str = ""
    added: Says = Says.ID
    updated: Says = Says.TRUE
    deleted: Says = Says.TRUE
    get_gives_list: bool = False
    """Whether get filters and answers a list."""
    text_ids: bool = True
    """Whether records in answers show their id as text."""
    case: Case = Case.AS_STORED
    required: tuple[str, ...] = ()
    """Fields without which add refuses."""
    lacking: Complaint = ("", "Required fields: {name}")
    """What it says then; {name} is the field."""
    unique: tuple[str, ...] = ()
    """Fields whose values together no two records may share; empty: none."""
    taken: Complaint = ("", "Already exists")
    filter_params: tuple[str, ...] = ()
    """Parameters of list that filter by the field of their name."""
    list_filter: tuple[str, ...] = ()
    """Fields that a list's filter must name."""
    list_select: tuple[str, ...] = ()
    """Fields that a list's select must name."""


def _catalog(name: str, kind: str, key: str, get_key: str, list_key: str) -> Family:
    of_iblock = ("iblockId",) if name.startswith("product") else ()
    return Family(
        prefix=f"catalog.{name}",
        list_filter=of_iblock,
        list_select=("id", *of_iblock) if of_iblock else (),
        kind=kind,
        id_field="id",
        exact=True,
        key=key,
        get_key=get_key,
        list_key=list_key,
        added=Says.RECORD,
        updated=Says.RECORD,
        text_ids=False,
        missing=(0, f"{get_key} does not exist."),
        taken=(0, "Element with symbolic code already exists"),
    )


def _user_field(entity: str) -> Family:
    return Family(
        prefix=f"crm.{entity}.userfield",
        kind=f"{entity}.user_field",
        missing=("ERROR_NOT_FOUND", "The entity with ID '{id}' is not found"),
        unique=("FIELD_NAME",),
        taken=("ERROR_CORE", "Field with this name already exists"),
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        prefix="crm.activity",
        kind="activity",
        missing=("", "Activity is not found"),
    ),
    Family(
        prefix="crm.activity.todo",
        kind="activity",
        verbs=("add", "update"),
        fields_param=None,
        exact=True,
        case=Case.SENT_CAMEL,
        key="id",
        updated=Says.ID,
        missing=("NOT_FOUND", "Activity is not found"),
        required=("OWNER_TYPE_ID", "OWNER_ID", "DEADLINE"),
        lacking=("100", "Could not find value for parameter {name}"),
    ),
    Family(
        prefix="crm.timeline.comment",
        kind="comment",
        exact=True,
        updated=Says.ID,
        deleted=Says.NULL,
        missing=("NOT_FOUND", "Not found."),
        required=("ENTITY_ID", "ENTITY_TYPE", "COMMENT"),
        list_filter=("ENTITY_ID", "ENTITY_TYPE"),
        lacking=("INVALID_ARG_VALUE", "Empty {name}"),
    ),
    Family(
        prefix="crm.item.productrow",
        kind="product_row",
        id_field="id",
        exact=True,
        key="productRow",
        list_key="productRows",
        added=Says.RECORD,
        updated=Says.RECORD,
        deleted=Says.NULL,
        text_ids=False,
        missing=("NOT_FOUND", "Product row not found"),
        list_filter=("ownerType", "ownerId"),
    ),
    Family(
        prefix="crm.requisite",
        kind="requisite",
        missing=("", "The Requisite with ID '{id}' is not found"),
        required=("ENTITY_TYPE_ID", "ENTITY_ID"),
        lacking=("", "{name} is not defined or invalid."),
    ),
    Family(
        prefix="crm.requisite.bankdetail",
        kind="bank_detail",
        missing=("", "The RequisiteBankDetail with ID '{id}' is not found"),
        required=("ENTITY_ID",),
        lacking=("", "{name} is not defined or invalid."),
    ),
    Family(
        prefix="crm.status",
        kind="status",
        missing=("", "Status is not found"),
        unique=("ENTITY_ID", "STATUS_ID"),
        taken=("", "Status with this STATUS_ID already exists"),
    ),
    Family(
        prefix="crm.invoice",
        kind="old_invoice",
        updated=Says.ID,
        missing=("", "Not found"),
    ),
    *(_user_field(e) for e in ("lead", "deal", "contact", "company", "quote", "requisite")),
    Family(
        prefix="userfieldconfig",
        kind="user_field",
        id_field="id",
        fields_param="field",
        exact=True,
        key="field",
        list_key="fields",
        added=Says.RECORD,
        updated=Says.RECORD,
        deleted=Says.NULL,
        missing=("NOT_FOUND", "Field is not found"),
        unique=("entityId", "fieldName"),
        taken=("ERROR_CORE", "Field with this name already exists"),
    ),
    _catalog("product", "product", "element", "product", "products"),
    _catalog("product.service", "product.service", "service", "service", "services"),
    _catalog("product.offer", "product.offer", "offer", "offer", "offers"),
    _catalog("product.sku", "product.sku", "sku", "sku", "units"),
    _catalog("price", "price", "price", "price", "prices"),
    _catalog("section", "section", "section", "section", "sections"),
    Family(
        prefix="tasks.task",
        kind="task",
        exact=True,
        id_param="taskId",
        key="task",
        list_key="tasks",
        delete_key="task",
        added=Says.RECORD,
        updated=Says.RECORD,
        case=Case.CAMEL,
        missing=("1048582", "No access to the task, or it does not exist"),
        required=("TITLE", "RESPONSIBLE_ID"),
        lacking=("ERROR_CORE", "Field {name} is required<br>"),
    ),
    Family(
        prefix="user",
        kind="user",
        verbs=("add", "update", "get"),
        id_param="ID",
        fields_param=None,
        get_gives_list=True,
        filter_params=("ID",),
        missing=_DENIED,
        required=("EMAIL",),
        lacking=("ERROR_ARGUMENT", "wrong_email"),
        unique=("EMAIL",),
        taken=("ERROR_ARGUMENT", "User with this e-mail already exists"),
    ),
    Family(
        prefix="user.userfield",
        kind="user.user_field",
        verbs=("add", "update", "delete", "list"),
        missing=("ERROR_NOT_FOUND", "The entity with ID '{id}' is not found"),
        unique=("FIELD_NAME",),
        taken=("ERROR_CORE", "Field with this name already exists"),
    ),
    Family(
        prefix="calendar.event",
        kind="calendar_event",
        fields_param=None,
        updated=Says.ID,
        names=(("get", "getbyid"), ("list", "get")),
        filter_params=("type", "ownerId"),
        missing=("", "Event not found"),
        required=("type", "ownerId", "from", "to", "section", "name"),
        lacking=(
            "",
            'The required parameter "{name}" for the method "calendar.event.add" is not set',
        ),
    ),
    Family(
        prefix="sonet_group",
        kind="group",
        verbs=("add", "update", "delete", "get"),
        names=(("add", "create"),),
        id_param="GROUP_ID",
        fields_param=None,
        updated=Says.ID,
        get_gives_list=True,
        missing=("ERROR_CORE", "Group not found"),
        required=("NAME",),
        lacking=("ERROR_CORE", "{name} is empty"),
    ),
    Family(
        prefix="department",
        kind="department",
        verbs=("add", "update", "delete", "get"),
        id_param="ID",
        fields_param=None,
        get_gives_list=True,
        filter_params=("ID", "NAME", "PARENT", "UF_HEAD"),
        missing=("ERROR_CORE", "Department not found"),
        required=("NAME", "PARENT"),
        lacking=("ERROR_CORE", "{name} is empty"),
    ),
)
