"""What hangs on CRM records: product rows, addresses, contact links, smart-process types.

Source: manual pages of each method.
"""

from functools import partial

from b24sync.sandbox.entities import BY_KIND, kind_named, type_of_short_code
from b24sync.sandbox.family_actions import METHODS as FAMILY_METHODS
from b24sync.sandbox.listing import conditions, page
from b24sync.sandbox.naming import camel_of, upper_of
from b24sync.sandbox.params import exact, exact_fields, exact_number, loose, loose_fields, loose_id
from b24sync.sandbox.store import Call, Done, Method, Store
from b24sync.sandbox.values import Record, Refusal, Value, mapping, members, number, text, without

_FIRST_SMART_TYPE = 128
_ADDRESS_KEY = ("TYPE_ID", "ENTITY_TYPE_ID", "ENTITY_ID")
_ROW_OWNERS = {"lead": "L", "deal": "D", "quote": "Q"}


def add_row(store: Store, call: Call) -> Done:
    """Store a product row of an owner that exists."""
    fields = exact_fields(call)
    _check_owner(store, text(fields.get("ownerType")), number(fields.get("ownerId")))
    return FAMILY_METHODS["crm.item.productrow.add"](store, call)


def set_rows(store: Store, call: Call) -> Done:
    """Replace all product rows of an owner."""
    owner_type, owner_id = text(exact(call, "ownerType")), exact_number(call, "ownerId")
    rows = members(exact(call, "productRows"))
    if rows == [""]:
        if store.config.blank_row_is_error:
            raise Refusal("100", "Expected iterable value for multiple field, but got string")
        rows = []
    _check_owner(store, owner_type, owner_id)
    return Done(result={"productRows": _replace(store, owner_type, owner_id, rows)}, id=owner_id)


def set_rows_classic(owner_type: str, store: Store, call: Call) -> Done:
    """Replace all product rows of a lead, deal or quote."""
    owner_id = loose_id(call)
    rows = [] if loose(call, "rows") == [""] else members(loose(call, "rows") or [])
    _check_owner(store, owner_type, owner_id)
    camel: list[Value] = [_camel(mapping(row)) for row in rows]
    _replace(store, owner_type, owner_id, camel)
    return Done(result=True, id=owner_id)


def get_rows_classic(owner_type: str, store: Store, call: Call) -> Done:
    """All product rows of a lead, deal or quote, under classic names."""
    rows: list[Value] = []
    for row in _rows_of(store, owner_type, loose_id(call)):
        shown: Record = {upper_of(name): value for name, value in row.items()}
        rows.append({**shown, "ID": text(row["id"])})
    return Done(result=rows)


def add_address(store: Store, call: Call) -> Done:
    """Store an address; its key is the triple of type, entity type and entity."""
    fields = loose_fields(call)
    if _address(store, fields) is not None:
        raise Refusal("", "TypeAddress exists")
    record: Record = {"ID": 0, **fields}
    return Done(result=True, id=store.table("address").add(record, "ID"))


def update_address(store: Store, call: Call) -> Done:
    """Change the address with this key."""
    fields = loose_fields(call)
    address_id = _existing_address(store, fields)
    store.table("address").rows[address_id].update(fields)
    return Done(result=True, id=address_id)


def delete_address(store: Store, call: Call) -> Done:
    """Remove the address with this key."""
    address_id = _existing_address(store, loose_fields(call))
    del store.table("address").rows[address_id]
    return Done(result=True, id=address_id)


def list_addresses(store: Store, call: Call) -> Done:
    """A page of addresses, which have no id."""
    found = page(
        store.table("address"),
        conditions(loose(call, "filter"), str),
        order=loose(call, "order"),
        start=loose(call, "start"),
        name=str,
    )
    rows: list[Value] = [without(row, "ID") for row in found.rows]
    return Done(result=rows, total=found.total, next=found.next)


def set_links(owner: str, linked: str, store: Store, call: Call) -> Done:
    """Replace the links of a record."""
    owner_id = _existing_owner(store, owner, call)
    items = [mapping(item) for item in members(loose(call, "items") or []) if item != ""]
    table = store.table(_link_kind(owner, linked))
    for link_id in _links(store, owner, linked, owner_id):
        del table.rows[link_id]
    for item in items:
        table.add({"ID": 0, "OWNER_ID": owner_id, **item}, "ID")
    return Done(result=True, id=owner_id)


def get_links(owner: str, linked: str, store: Store, call: Call) -> Done:
    """The links of a record, in the order in which they were set."""
    owner_id = _existing_owner(store, owner, call)
    found = _links(store, owner, linked, owner_id)
    rows: list[Value] = [without(link, "ID", "OWNER_ID") for link in found.values()]
    return Done(result=rows)


def delete_links(owner: str, linked: str, store: Store, call: Call) -> Done:
    """Remove the links of a record."""
    owner_id = _existing_owner(store, owner, call)
    for link_id in _links(store, owner, linked, owner_id):
        del store.table(_link_kind(owner, linked)).rows[link_id]
    return Done(result=True, id=owner_id)


def add_type(store: Store, call: Call) -> Done:
    """Register a smart process; its entityTypeId is chosen if not given."""
    fields = exact_fields(call)
    wanted = number(fields.get("entityTypeId"))
    type_id = wanted or max([_FIRST_SMART_TYPE - 2, *store.smart_types]) // 2 * 2 + 2
    store.smart_types.add(type_id)
    record: Record = {"id": 0, **fields, "entityTypeId": type_id}
    record_id = store.table("type").add(record, "id")
    return Done(result={"type": dict(record)}, id=record_id)


def update_type(store: Store, call: Call) -> Done:
    """Change a smart process, its entityTypeId excepted."""
    record = _existing_type(store, call)
    fields = exact_fields(call)
    record.update(without(fields, "id", "entityTypeId"))
    return Done(result={"type": dict(record)}, id=number(record["id"]))


def delete_type(store: Store, call: Call) -> Done:
    """Remove a smart process."""
    record = _existing_type(store, call)
    record_id = number(record["id"]) or 0
    del store.table("type").rows[record_id]
    store.smart_types.discard(number(record["entityTypeId"]) or 0)
    return Done(result=[], id=record_id)


def get_type(store: Store, call: Call) -> Done:
    """One smart process by id."""
    return Done(result={"type": dict(_existing_type(store, call))})


def get_type_by_entity(store: Store, call: Call) -> Done:
    """One smart process by entityTypeId."""
    wanted = exact_number(call, "entityTypeId")
    for row in store.table("type").rows.values():
        if row["entityTypeId"] == wanted:
            return Done(result={"type": dict(row)})
    raise Refusal("NOT_FOUND", "Smart process not found")


def list_types(store: Store, call: Call) -> Done:
    """A page of smart processes."""
    found = page(
        store.table("type"),
        conditions(call.params.get("filter"), str),
        order=call.params.get("order"),
        start=call.params.get("start"),
        name=str,
    )
    rows: list[Value] = [dict(row) for row in found.rows]
    return Done(result={"types": rows}, total=found.total, next=found.next)


def add_configurable(store: Store, call: Call) -> Done:
    """Store a configurable activity; only applications may."""
    _check_application(call)
    fields = {upper_of(name): value for name, value in exact_fields(call).items()}
    record: Record = {
        "ID": 0,
        "OWNER_TYPE_ID": exact_number(call, "ownerTypeId"),
        "OWNER_ID": exact_number(call, "ownerId"),
        "LAYOUT": exact(call, "layout"),
        **fields,
    }
    record_id = store.table("activity").add(record, "ID")
    return Done(result={"activity": {"id": record_id}}, id=record_id)


def update_configurable(store: Store, call: Call) -> Done:
    """Change a configurable activity; only applications may."""
    _check_application(call)
    activity_id = exact_number(call, "id")
    record = store.table("activity").rows.get(activity_id)
    if record is None:
        raise Refusal("NOT_FOUND", "Activity is not found")
    sent = {upper_of(name): value for name, value in mapping(call.params.get("fields")).items()}
    record.update(sent)
    store.table("activity").note(activity_id, sent)
    return Done(result={"activity": {"id": activity_id}}, id=activity_id)


def _check_application(call: Call) -> None:
    if not call.by_oauth:
        raise Refusal("ACCESS_DENIED", "Application context required", 403)


def _check_owner(store: Store, owner_type: str, owner_id: int | None) -> None:
    type_id = type_of_short_code(owner_type)
    if type_id is None:
        raise Refusal("ENTITY_TYPE_NOT_SUPPORTED", "Entity type is not supported")
    if owner_id not in store.table(kind_named(f"item:{type_id}")).rows:
        raise Refusal("OWNER_NOT_FOUND", "Owner was not found")


def _rows_of(store: Store, owner_type: str, owner_id: int) -> list[Record]:
    return [
        row
        for row in store.table("product_row").rows.values()
        if row.get("ownerType") == owner_type and text(row.get("ownerId")) == str(owner_id)
    ]


def _replace(store: Store, owner_type: str, owner_id: int, rows: list[Value]) -> list[Value]:
    table = store.table("product_row")
    for former in _rows_of(store, owner_type, owner_id):
        del table.rows[number(former["id"]) or 0]
    stored: list[Value] = []
    for row in rows:
        sent = without(mapping(row), "id")
        record: Record = {"id": 0, **sent, "ownerId": owner_id, "ownerType": owner_type}
        table.add(record, "id")
        stored.append(dict(record))
    return stored


def _camel(row: Record) -> Record:
    return {camel_of(name): value for name, value in row.items()}


def _address(store: Store, fields: Record) -> int | None:
    wanted = [text(fields.get(name)) for name in _ADDRESS_KEY]
    for address_id, row in store.table("address").rows.items():
        if [text(row.get(name)) for name in _ADDRESS_KEY] == wanted:
            return address_id
    return None


def _existing_address(store: Store, fields: Record) -> int:
    found = _address(store, fields)
    if found is None:
        raise Refusal("", "TypeAddress not found")
    return found


def _existing_owner(store: Store, owner: str, call: Call) -> int:
    owner_id = loose_id(call)
    if owner_id not in store.table(BY_KIND[owner].kind).rows:
        raise Refusal("", "Not found")
    return owner_id


def _link_kind(owner: str, linked: str) -> str:
    return f"{owner}.contacts" if linked == "contact" else f"{owner}.companies"


def _links(store: Store, owner: str, linked: str, owner_id: int) -> dict[int, Record]:
    rows = store.table(_link_kind(owner, linked)).rows
    return {link_id: row for link_id, row in rows.items() if row["OWNER_ID"] == owner_id}


def _existing_type(store: Store, call: Call) -> Record:
    record = store.table("type").rows.get(exact_number(call, "id"))
    if record is None:
        raise Refusal("NOT_FOUND", "Smart process not found")
    return record


_LINKS = (
    ("lead", "contact"),
    ("deal", "contact"),
    ("company", "contact"),
    ("quote", "contact"),
    ("contact", "company"),
)
METHODS: dict[str, Method] = {
    "crm.item.productrow.add": add_row,
    "crm.item.productrow.set": set_rows,
    "crm.activity.configurable.add": add_configurable,
    "crm.activity.configurable.update": update_configurable,
    "crm.address.add": add_address,
    "crm.address.update": update_address,
    "crm.address.delete": delete_address,
    "crm.address.list": list_addresses,
    "crm.type.add": add_type,
    "crm.type.update": update_type,
    "crm.type.delete": delete_type,
    "crm.type.get": get_type,
    "crm.type.getbyentitytypeid": get_type_by_entity,
    "crm.type.list": list_types,
    **{
        f"crm.{kind}.productrows.set": partial(set_rows_classic, code)
        for kind, code in _ROW_OWNERS.items()
    },
    **{
        f"crm.{kind}.productrows.get": partial(get_rows_classic, code)
        for kind, code in _ROW_OWNERS.items()
    },
    **{
        f"crm.{owner}.{linked}.items.{verb}": partial(action, owner, linked)
        for owner, linked in _LINKS
        for verb, action in {"set": set_links, "get": get_links, "delete": delete_links}.items()
    },
}
