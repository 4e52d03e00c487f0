"""The five actions of a family: add, update, delete, get, list, each driven by its row."""

from collections.abc import Callable
from functools import partial

from b24sync.sandbox.documented import known_fields
from b24sync.sandbox.families import FAMILIES, Case, Complaint, Family, Says
from b24sync.sandbox.listing import conditions, page
from b24sync.sandbox.naming import camel_of, upper_of
from b24sync.sandbox.params import exact_fields, exact_number, loose, loose_fields
from b24sync.sandbox.store import Call, Done, Method, Store
from b24sync.sandbox.values import Record, Refusal, Value, mapping, members, number, text

_NOT_FIELDS = {"FILTER", "ORDER", "START", "SELECT", "PARAMS", "AUTH_CONNECTOR"}


def add(family: Family, store: Store, call: Call) -> Done:
    """Store a new record and answer as the family does."""
    record: Record = {family.id_field: 0, **_sent(family, store, call)}
    for name in family.required:
        if text(record.get(name)) == "" and not isinstance(record.get(name), list | dict):
            raise _complaint(family.lacking, name=name)
    _check_unique(family, store, record)
    record_id = store.table(family.kind).add(record, family.id_field)
    return Done(result=_answer(family, family.added, family.key, record), id=record_id)


def update(family: Family, store: Store, call: Call) -> Done:
    """Change a record field by field and answer as the family does."""
    record_id, record = _existing(family, store, call)
    sent = _sent(family, store, call)
    if any(name not in record or record[name] != value for name, value in sent.items()):
        record.update(sent)
        store.table(family.kind).note(record_id, sent)
    return Done(result=_answer(family, family.updated, family.key, record), id=record_id)


def delete(family: Family, store: Store, call: Call) -> Done:
    """Remove a record and answer as the family does."""
    record_id, record = _existing(family, store, call)
    del store.table(family.kind).rows[record_id]
    return Done(result=_answer(family, family.deleted, family.delete_key, record), id=record_id)


def get(family: Family, store: Store, call: Call) -> Done:
    """One whole record."""
    key = family.key if family.get_key is None else family.get_key
    if family.case is Case.CAMEL and _id(family, call) not in store.table(family.kind).rows:
        # A missing task is a success with an empty list, says the page of tasks.task.get.
        return Done(result=[])
    _, record = _existing(family, store, call)
    return Done(result=_answer(family, Says.RECORD, key, record))


def list_(family: Family, store: Store, call: Call) -> Done:
    """A page of records; filters by fields that no record has match nothing."""
    table = store.table(family.kind)
    wanted = conditions(_filter(family, call), str)
    chosen = {text(name) for name in members(loose(call, "select") or [])}
    _check_list(family, {condition.field for condition in wanted}, chosen)
    found = page(
        table,
        wanted,
        order=loose(call, "order"),
        start=loose(call, "start"),
        name=str,
    )
    rows: list[Value] = [_shown(family, _chosen(family, row, chosen)) for row in found.rows]
    total = found.total if found.counted or not family.prefix.startswith("catalog.") else None
    result: Value = {family.list_key: rows} if family.list_key else rows
    return Done(result=result, total=total, next=found.next)


def _filter(family: Family, call: Call) -> Record:
    by_params = {name: loose(call, name) for name in family.filter_params}
    sent = {f"={name}": value for name, value in by_params.items() if value is not None}
    return {**mapping(loose(call, "filter")), **sent}


def _check_list(family: Family, filtered: set[str], chosen: set[str]) -> None:
    for name in family.list_filter:
        if name not in filtered:
            raise Refusal("INVALID_ARG_VALUE", f"Required field in filter: {name}")
    for name in family.list_select:
        if not chosen & {name, "*"}:
            raise Refusal("INVALID_ARG_VALUE", f"Required field in select: {name}")


def _chosen(family: Family, record: Record, chosen: set[str]) -> Record:
    if not chosen or "*" in chosen:
        return record
    return {n: value for n, value in record.items() if n in chosen or n == family.id_field}


def _sent(family: Family, store: Store, call: Call) -> Record:
    if family.fields_param is None:
        outside = _NOT_FIELDS | {family.id_param.upper()}
        sent = {name: v for name, v in call.params.items() if name.upper() not in outside}
    elif family.exact:
        sent = exact_fields(call, family.fields_param)
    else:
        sent = loose_fields(call)
    if family.case is Case.SENT_CAMEL:
        sent = {upper_of(name): value for name, value in sent.items()}
    known = known_fields(family.kind) if store.config.strict_fields else None
    return {
        name: value
        for name, value in sent.items()
        if name != family.id_field
        and (known is None or name in known or name.startswith(("UF_", "property")))
    }


def _id(family: Family, call: Call) -> int:
    if family.exact:
        return exact_number(call, family.id_param)
    return number(loose(call, family.id_param)) or 0


def _existing(family: Family, store: Store, call: Call) -> tuple[int, Record]:
    record_id = _id(family, call)
    record = store.table(family.kind).rows.get(record_id)
    if record is None:
        raise _complaint(family.missing, record_id=record_id)
    return record_id, record


def _complaint(complaint: Complaint, *, record_id: int = 0, name: str = "") -> Refusal:
    return Refusal(complaint[0], complaint[1].format(id=record_id, name=name))


def _check_unique(family: Family, store: Store, record: Record) -> None:
    unique = family.unique
    if family.kind == "product" and store.config.unique_product_codes and record.get("code"):
        unique = ("iblockId", "code")
    if not unique:
        return
    own = [text(record.get(name)).lower() for name in unique]
    for row in store.table(family.kind).rows.values():
        if [text(row.get(name)).lower() for name in unique] == own:
            raise _complaint(family.taken)


def _answer(family: Family, says: Says, key: str, record: Record) -> Value:
    answer: Value
    match says:
        case Says.TRUE:
            answer = True
        case Says.NULL:
            answer = None
        case Says.ID:
            answer = record[family.id_field]
        case Says.RECORD:
            answer = _shown(family, record)
    return {key: answer} if key else answer


def _shown(family: Family, record: Record) -> Record:
    view = {
        camel_of(name) if family.case is Case.CAMEL else name: value
        for name, value in record.items()
    }
    id_field = camel_of(family.id_field) if family.case is Case.CAMEL else family.id_field
    if family.text_ids:
        view[id_field] = str(view[id_field])
    return view


_ACTIONS: dict[str, Callable[[Family, Store, Call], Done]] = {
    "add": add,
    "update": update,
    "delete": delete,
    "get": get,
    "list": list_,
}


def _methods(family: Family) -> dict[str, Method]:
    names = dict(family.names)
    return {
        f"{family.prefix}.{names.get(verb, verb)}": partial(
            list_ if verb == "get" and family.get_gives_list else _ACTIONS[verb], family
        )
        for verb in family.verbs
    }


METHODS: dict[str, Method] = {
    name: method for family in FAMILIES for name, method in _methods(family).items()
}
