"""The CRM entities that classic and universal methods share: their numbers, names and fields."""

from dataclasses import dataclass

from b24sync.sandbox.store import Store
from b24sync.sandbox.values import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One CRM entity type."""

    type_id: int
    kind: str
    """Name of its table."""
    fields: frozenset[str]
    """Stored names that the type documents; user fields and parent ids come on top."""


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_COMMON = _names(
    "id title stageId assignedById categoryId opened comments opportunity currencyId"
    " isManualOpportunity taxValue companyId contactId contactIds observers sourceId"
    " sourceDescription begindate closedate webformId mycompanyId createdTime updatedTime"
    " movedTime createdBy updatedBy movedBy lastActivityTime lastActivityBy"
    " utmSource utmMedium utmCampaign utmContent utmTerm"
)
_ORIGIN = _names("originatorId originId")
_PERSON = _names(
    "honorific name secondName lastName birthdate post address address_2 addressCity"
    " addressPostalCode addressRegion addressProvince addressCountry fm typeId photo export"
)
_SMART = _COMMON | {"xmlId", "previousStageId"}

_ENTITIES = (
    Entity(
        type_id=1,
        kind="lead",
        fields=_COMMON
        | _ORIGIN
        | _PERSON
        | {"companyTitle", "stageSemanticId", "isReturnCustomer", "statusDescription"},
    ),
    Entity(
        type_id=2,
        kind="deal",
        fields=_COMMON
        | _ORIGIN
        | {"typeId", "probability", "additionalInfo", "closed", "quoteId", "leadId"}
        | {"isNew", "isRecurring", "isReturnCustomer", "isRepeatedApproach", "locationId"},
    ),
    Entity(
        type_id=3,
        kind="contact",
        fields=(_COMMON - {"title"})
        | _ORIGIN
        | _PERSON
        | {"originVersion", "leadId", "companyIds", "faceId"},
    ),
    Entity(
        type_id=4,
        kind="company",
        fields=_COMMON
        | _ORIGIN
        | {"originVersion", "typeId", "industry", "employees", "revenue", "bankingDetails"}
        | {"logo", "fm", "leadId", "isMyCompany", "address", "addressLegal"},
    ),
    Entity(
        type_id=7,
        kind="quote",
        fields=_COMMON
        | {"quoteNumber", "content", "terms", "leadId", "dealId", "closed", "actualDate"}
        | {"personTypeId", "locationId", "storageTypeId", "storageElementIds"},
    ),
    Entity(type_id=31, kind="item:31", fields=_SMART | {"accountNumber", "locationId"}),
)
BY_TYPE = {entity.type_id: entity for entity in _ENTITIES}
BY_KIND = {entity.kind: entity for entity in _ENTITIES}
_OLD_INVOICE = 5
_OTHER_NAMES = {
    "invoice": "item:31",
    "crm.invoice": "old_invoice",
    "activity.todo": "activity",
    "activity.configurable": "activity",
    "product_rows": "product_row",
}
_SHORT_CODES = {"L": 1, "D": 2, "C": 3, "CO": 4, "Q": 7, "SI": 31}


def entity_of(store: Store, type_id: int) -> Entity:
    """The entity type with a number.

    Raises: Refusal for old invoices and for smart processes that were not registered.
    """
    known = BY_TYPE.get(type_id)
    if known is not None:
        return known
    if type_id == _OLD_INVOICE:
        raise Refusal("ENTITY_TYPE_NOT_SUPPORTED", "Entity type is not supported")
    if type_id not in store.smart_types:
        raise Refusal("NOT_FOUND", "Smart process not found")
    return Entity(type_id=type_id, kind=f"item:{type_id}", fields=_SMART)


def type_of_short_code(code: str) -> int | None:
    """The number behind a short code of bindings: D is 2, T80 is 128.

    Raises: nothing.
    Source: manual, "CRM data types", object types.
    """
    if code in _SHORT_CODES:
        return _SHORT_CODES[code]
    try:
        return int(code[1:], 16) if code.startswith("T") else None
    except ValueError:
        return None


def knows(entity: Entity, name: str) -> bool:
    """Whether a stored name is a documented field of the entity, or a user or parent field."""
    return name in entity.fields or name.startswith(("UF_", "parentId"))


def kind_named(name: str) -> str:
    """The table that a kind's other names mean: item:3 and crm.contact are contact.

    Raises: nothing.
    """
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    plain = name.removeprefix("crm.")
    head, _, type_id = plain.partition(":")
    if head in {"item", "import"} and type_id.isdecimal():
        known = BY_TYPE.get(int(type_id))
        return f"item:{type_id}" if known is None else known.kind
    return plain
