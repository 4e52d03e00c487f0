"""crm.item.*: the universal methods for leads, deals, contacts, companies, quotes and processes.

Source: manual, "Universal methods for CRM objects".
"""

from b24sync.sandbox.entities import Entity, entity_of, knows
from b24sync.sandbox.listing import conditions, page
from b24sync.sandbox.multifields import universal_change
from b24sync.sandbox.naming import from_universal, to_universal
from b24sync.sandbox.params import exact, exact_fields, exact_number
from b24sync.sandbox.store import Call, Done, Method, Store
from b24sync.sandbox.values import Record, Refusal, Value, flag, mapping, members, text

_SYSTEM = ("id", "createdTime", "updatedTime", "createdBy", "updatedBy", "movedTime")
_ITERABLE = {"contactIds", "observers", "companyIds"}
_IMPORT_LIMIT = 20


def add(store: Store, call: Call) -> Done:
    """Store a new record; the answer is the whole record."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    record = create(store, call, entity, exact_fields(call))
    return Done(result={"item": _shown(entity, record, call)}, id=_id(record))


def update(store: Store, call: Call) -> Done:
    """Change a record; without a real change nothing is saved, not even updatedTime."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    record = _existing(store, entity, exact_number(call, "id"))
    change(store, call, entity, record, exact_fields(call))
    return Done(result={"item": _shown(entity, record, call)}, id=_id(record))


def delete(store: Store, call: Call) -> Done:
    """Remove a record; the answer is an empty list."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    record = _existing(store, entity, exact_number(call, "id"))
    del store.table(entity.kind).rows[_id(record)]
    return Done(result=[], id=_id(record))


def get(store: Store, call: Call) -> Done:
    """One whole record."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    record = _existing(store, entity, exact_number(call, "id"))
    return Done(result={"item": _shown(entity, record, call)})


def list_(store: Store, call: Call) -> Done:
    """A page of records; an unknown filter field is refused."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    table = store.table(entity.kind)
    wanted = conditions(call.params.get("filter"), from_universal)
    for condition in wanted:
        if not knows(entity, condition.field) and condition.field not in table.seen_fields:
            raise Refusal("INVALID_ARG_VALUE", f"Invalid filter: field '{condition.field}'")
    found = page(
        table,
        wanted,
        order=call.params.get("order"),
        start=call.params.get("start"),
        name=from_universal,
    )
    chosen = [from_universal(text(name)) for name in members(call.params.get("select") or [])]
    rows: list[Value] = [_row(entity, record, chosen, call) for record in found.rows]
    return Done(result={"items": rows}, total=found.total, next=found.next)


def fields(store: Store, call: Call) -> Done:
    """The documented fields of a type, and those that its records have."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    names = sorted(entity.fields | store.table(entity.kind).seen_fields)
    described: Record = {}
    for name in names:
        described[to_universal(name)] = {
            "type": "string",
            "isRequired": False,
            "isReadOnly": name in _SYSTEM,
            "isMultiple": name in _ITERABLE,
            "title": name,
            "upperName": name,
        }
    return Done(result={"fields": described})


def import_(store: Store, call: Call) -> Done:
    """Store a new record; the answer holds only its id."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    record = create(store, call, entity, exact_fields(call))
    return Done(result={"item": {"id": _id(record)}}, id=_id(record))


def batch_import(store: Store, call: Call) -> Done:
    """Store up to twenty records; one that fails does not stop the others."""
    entity = entity_of(store, exact_number(call, "entityTypeId"))
    rows = members(exact(call, "data"))
    if len(rows) > _IMPORT_LIMIT:
        raise Refusal("MAX_IMPORT_BATCH_SIZE_EXCEEDED", f"More than {_IMPORT_LIMIT} elements")
    items: list[Value] = []
    for row in rows:
        try:
            items.append({"item": {"id": _id(create(store, call, entity, mapping(row)))}})
        except Refusal as refusal:
            items.append({"error": refusal.code, "error_description": refusal.text})
    return Done(result={"items": items})


def create(store: Store, call: Call, entity: Entity, sent: Record) -> Record:
    """Store a new record of an entity from fields in universal names.

    Raises: Refusal for a single value where a list is due.
    """
    stamp = store.stamp(call.at)
    record: Record = {"id": 0, **_accepted(store, call, entity, sent)}
    if "fm" in record:
        record["fm"] = list(universal_change([], record["fm"], store.next_row_id))
    record.setdefault("createdTime", stamp)
    record.setdefault("updatedTime", stamp)
    record.setdefault("createdBy", call.user_id)
    record.setdefault("updatedBy", call.user_id)
    store.table(entity.kind).add(record, "id")
    return record


def change(store: Store, call: Call, entity: Entity, record: Record, sent: Record) -> None:
    """Change a stored record by fields in universal names.

    Raises: Refusal for a single value where a list is due.
    """
    accepted = _accepted(store, call, entity, sent)
    if "fm" in accepted:
        former = members(record.get("fm") or [])
        accepted["fm"] = list(universal_change(former, accepted["fm"], store.next_row_id))
    if all(name in record and record[name] == value for name, value in accepted.items()):
        return
    record.update(accepted)
    record["updatedTime"] = store.stamp(call.at)
    record["updatedBy"] = call.user_id
    store.table(entity.kind).note(_id(record), accepted)


def _accepted(store: Store, call: Call, entity: Entity, sent: Record) -> Record:
    accepted: Record = {}
    # Strictly, a user field counts only under the sort of name that the call announces.
    ignored = "uf" if flag(call.params.get("useOriginalUfNames")) else "UF_"
    strict = store.config.strict_fields
    for sent_name, value in sent.items():
        name = from_universal(sent_name) if sent_name.startswith("uf") else sent_name
        if strict and (sent_name.startswith(ignored) or not knows(entity, name)):
            continue
        if name == "id":
            continue
        if name in _ITERABLE and not isinstance(value, list | dict):
            raise Refusal("100", f"Expected iterable value for multiple field, but got {name}")
        accepted[name] = value
    return accepted


def _existing(store: Store, entity: Entity, record_id: int) -> Record:
    record = store.table(entity.kind).rows.get(record_id)
    if record is None:
        raise Refusal("NOT_FOUND", "Item not found")
    return record


def _shown(entity: Entity, record: Record, call: Call) -> Record:
    original = flag(call.params.get("useOriginalUfNames"))
    shown: Record = {"id": record["id"], "entityTypeId": entity.type_id}
    for name, value in record.items():
        shown[to_universal(name) if name[:3] == "UF_" and not original else name] = value
    return shown


def _row(entity: Entity, record: Record, chosen: list[str], call: Call) -> Record:
    everything = not chosen or "*" in chosen
    kept = {
        name: value
        for name, value in record.items()
        if name == "id" or name in chosen or (everything and (name != "fm" or bool(chosen)))
    }
    return _shown(entity, kept, call)


def _id(record: Record) -> int:
    record_id = record["id"]
    return record_id if isinstance(record_id, int) else 0


METHODS: dict[str, Method] = {
    "crm.item.add": add,
    "crm.item.update": update,
    "crm.item.delete": delete,
    "crm.item.get": get,
    "crm.item.list": list_,
    "crm.item.fields": fields,
    "crm.item.import": import_,
    "crm.item.batchimport": batch_import,
}
