"""crm.lead|deal|contact|company|quote.*: the classic methods, over the records of crm.item.*.

Source: manual pages of each method; their error texts differ by entity.
"""

from dataclasses import dataclass
from functools import partial

from b24sync.sandbox.entities import BY_KIND, Entity, kind_named, knows
from b24sync.sandbox.listing import conditions, page
from b24sync.sandbox.multifields import classic_change, classic_view
from b24sync.sandbox.naming import MULTI_FIELDS, from_classic, to_classic
from b24sync.sandbox.params import loose, loose_fields, loose_id
from b24sync.sandbox.store import Call, Done, Method, Store
from b24sync.sandbox.values import Record, Refusal, Value, members, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """How an entity's methods say that a record does not exist."""

    updating: tuple[str, str]
    deleting: tuple[str, str]


_COMPLAINTS = {
    "lead": Complaint(updating=("", "Not found"), deleting=("", "Not found")),
    "deal": Complaint(updating=("", "Not found"), deleting=("", "Not found")),
    "contact": Complaint(
        updating=("", "Contact is not found"), deleting=("ERROR_CORE", "Element not found")
    ),
    "company": Complaint(
        updating=("", "Company is not found"), deleting=("", "Company is not found")
    ),
    "quote": Complaint(
        updating=("ERROR_CORE", "Element not found"), deleting=("ERROR_CORE", "Element not found")
    ),
}


def add(entity: Entity, store: Store, call: Call) -> Done:
    """Store a new record; the answer is its id, a number."""
    stamp = store.stamp(call.at)
    record: Record = {
        "id": 0,
        "createdTime": stamp,
        "updatedTime": stamp,
        "createdBy": call.user_id,
        "updatedBy": call.user_id,
    }
    record.update(_accepted(store, entity, {}, loose_fields(call)))
    record_id = store.table(entity.kind).add(record, "id")
    return Done(result=record_id, id=record_id)


def update(entity: Entity, store: Store, call: Call) -> Done:
    """Change a record; the answer is true, whether something changed or not."""
    record_id = loose_id(call)
    record = _existing(store, entity, record_id, _COMPLAINTS[entity.kind].updating)
    accepted = _accepted(store, entity, record, loose_fields(call))
    if any(name not in record or record[name] != value for name, value in accepted.items()):
        record.update(accepted)
        record["updatedTime"] = store.stamp(call.at)
        record["updatedBy"] = call.user_id
        store.table(entity.kind).note(record_id, accepted)
    return Done(result=True, id=record_id)


def delete(entity: Entity, store: Store, call: Call) -> Done:
    """Remove a record; the answer is true."""
    record_id = loose_id(call)
    _existing(store, entity, record_id, _COMPLAINTS[entity.kind].deleting)
    del store.table(entity.kind).rows[record_id]
    return Done(result=True, id=record_id)


def get(entity: Entity, store: Store, call: Call) -> Done:
    """One whole record, its id and numbers as text."""
    record = _existing(store, entity, loose_id(call), ("", "Not found"))
    return Done(result=shown(entity, record))


def list_(entity: Entity, store: Store, call: Call) -> Done:
    """A page of records; an unknown filter field is ignored unless the sandbox refuses it."""
    table = store.table(entity.kind)

    def stored_name(name: str) -> str:
        return from_classic(name, entity.kind)

    wanted = conditions(loose(call, "filter"), stored_name)
    known = [c for c in wanted if knows(entity, c.field) or c.field in table.seen_fields]
    if len(known) < len(wanted) and store.config.unknown_filter_field_is_error:
        raise Refusal("INVALID_ARG_VALUE", "Unknown field in filter")
    found = page(
        table, known, order=loose(call, "order"), start=loose(call, "start"), name=stored_name
    )
    chosen = {text(name) for name in members(loose(call, "select") or [])}
    rows: list[Value] = []
    for record in found.rows:
        view = shown(entity, record)
        if chosen and not chosen & {"*", "UF_*"}:
            view = {name: value for name, value in view.items() if name in chosen | {"ID"}}
        rows.append(view)
    return Done(result=rows, total=found.total, next=found.next)


def fields(entity: Entity, store: Store, _call: Call) -> Done:
    """The documented fields of the entity, and those that its records have."""
    names = sorted(entity.fields | store.table(entity.kind).seen_fields)
    described: Record = {}
    for name in names:
        described[to_classic(name, entity.kind)] = {"type": "string", "title": name}
    return Done(result=described)


def shown(entity: Entity, record: Record) -> Record:
    """A stored record under classic names: numbers as text, phones and e-mails by field."""
    view: Record = {}
    for name, value in record.items():
        if name == "fm":
            view.update(classic_view(members(value)))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            view[to_classic(name, entity.kind)] = str(value)
        else:
            view[to_classic(name, entity.kind)] = value
    return view


def records_named(store: Store, name: str) -> dict[int, Record]:
    """Copies of the records of a kind, by id; a name that starts with crm. shows them classically.

    Raises: nothing; an unknown kind has no records.
    """
    kind = kind_named(name)
    found = store.snapshot(kind)
    if name.startswith("crm.") and kind in BY_KIND:
        return {record_id: shown(BY_KIND[kind], record) for record_id, record in found.items()}
    return found


def _accepted(store: Store, entity: Entity, record: Record, sent: Record) -> Record:
    accepted: Record = {}
    rows = members(record.get("fm") or [])
    for name, value in sent.items():
        if name in MULTI_FIELDS:
            if isinstance(value, list | dict):
                others = [row for row in rows if not _is_of(row, name)]
                own = [row for row in rows if _is_of(row, name)]
                rows = others + classic_change(own, name, value, store.next_row_id)
                accepted["fm"] = rows
            continue
        stored = from_classic(name, entity.kind)
        strict = store.config.strict_fields
        if stored != "id" and not (strict and not (name.isupper() and knows(entity, stored))):
            accepted[stored] = value
    return accepted


def _is_of(row: Value, type_id: str) -> bool:
    return isinstance(row, dict) and row.get("typeId") == type_id


def _existing(store: Store, entity: Entity, record_id: int, missing: tuple[str, str]) -> Record:
    record = store.table(entity.kind).rows.get(record_id)
    if record is None:
        raise Refusal(*missing)
    return record


METHODS: dict[str, Method] = {
    f"crm.{kind}.{verb}": partial(action, BY_KIND[kind])
    for kind in _COMPLAINTS
    for verb, action in {
        "add": add,
        "update": update,
        "delete": delete,
        "get": get,
        "list": list_,
        "fields": fields,
    }.items()
}
