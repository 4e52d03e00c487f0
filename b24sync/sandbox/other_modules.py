"""Methods of other modules that fit no table: list elements, task items, prices, the portal itself.

Source: manual pages of each method.
"""

from functools import partial

from b24sync.sandbox.listing import conditions, page
from b24sync.sandbox.params import exact_fields, loose
from b24sync.sandbox.store import Call, Done, Method, Store
from b24sync.sandbox.values import Record, Refusal, Value, mapping, members, number, text

_ELEMENT_SYSTEM = ("ID", "IBLOCK_TYPE_ID", "IBLOCK_ID", "IBLOCK_CODE", "CODE")
_MOST_COMMUNICATIONS = 20


def add_element(store: Store, call: Call) -> Done:
    """Store a list element; ELEMENT_CODE is unique within its list."""
    code = text(loose(call, "ELEMENT_CODE"))
    for name in ("IBLOCK_TYPE_ID", "ELEMENT_CODE"):
        if not text(loose(call, name)):
            raise Refusal("ERROR_REQUIRED_PARAMETERS_MISSING", f"Required parameter: {name}")
    if any(row["CODE"] == code for row in _elements(store, call)):
        raise Refusal("ERROR_ELEMENT_ALREADY_EXISTS", "Element with this code already exists")
    record: Record = {
        "ID": 0,
        "IBLOCK_TYPE_ID": loose(call, "IBLOCK_TYPE_ID"),
        "IBLOCK_ID": loose(call, "IBLOCK_ID"),
        "IBLOCK_CODE": loose(call, "IBLOCK_CODE"),
        "CODE": code,
        **mapping(loose(call, "FIELDS")),
    }
    record_id = store.table("list_element").add(record, "ID")
    return Done(result=record_id, id=record_id)


def update_element(store: Store, call: Call) -> Done:
    """Overwrite a list element: fields that are not sent are cleared."""
    record = _element(store, call)
    for name in [name for name in record if name not in _ELEMENT_SYSTEM]:
        del record[name]
    record.update(mapping(loose(call, "FIELDS")))
    return Done(result=True, id=number(record["ID"]))


def delete_element(store: Store, call: Call) -> Done:
    """Remove a list element."""
    record_id = number(_element(store, call)["ID"]) or 0
    del store.table("list_element").rows[record_id]
    return Done(result=True, id=record_id)


def get_elements(store: Store, call: Call) -> Done:
    """A page of list elements, also for a single one."""
    wanted = dict(mapping(loose(call, "FILTER")))
    for name, field in (
        ("IBLOCK_TYPE_ID", "IBLOCK_TYPE_ID"),
        ("IBLOCK_ID", "IBLOCK_ID"),
        ("ELEMENT_ID", "ID"),
        ("ELEMENT_CODE", "CODE"),
    ):
        if loose(call, name) is not None:
            wanted[f"={field}"] = loose(call, name)
    found = page(
        store.table("list_element"),
        conditions(wanted, str),
        order=loose(call, "ELEMENT_ORDER"),
        start=loose(call, "start"),
        name=str,
    )
    rows: list[Value] = [{**row, "ID": text(row["ID"])} for row in found.rows]
    return Done(result=rows, total=found.total, next=found.next)


def add_task_item(kind: str, store: Store, call: Call) -> Done:
    """Store a comment or checklist item; parameters go by position: task, fields."""
    task_id = _task_id(store, call)
    record: Record = {"ID": 0, "TASK_ID": task_id, **mapping(_position(call, 1))}
    record_id = store.table(kind).add(record, "ID")
    return Done(result=record_id, id=record_id)


def update_task_item(kind: str, says: Value, store: Store, call: Call) -> Done:
    """Change an item; parameters go by position: task, item, fields."""
    record = _task_item(kind, store, call)
    record.update(mapping(_position(call, 2)))
    return Done(result=says, id=number(record["ID"]))


def delete_task_item(kind: str, store: Store, call: Call) -> Done:
    """Remove an item; parameters go by position: task, item."""
    record_id = number(_task_item(kind, store, call)["ID"]) or 0
    del store.table(kind).rows[record_id]
    return Done(result=True, id=record_id)


def get_task_item(kind: str, store: Store, call: Call) -> Done:
    """One item; parameters go by position: task, item."""
    record = _task_item(kind, store, call)
    return Done(result={**record, "ID": text(record["ID"])})


def list_task_items(kind: str, store: Store, call: Call) -> Done:
    """All items of a task."""
    task_id = _task_id(store, call)
    items = [row for row in store.table(kind).rows.values() if row["TASK_ID"] == task_id]
    rows: list[Value] = [{**row, "ID": text(row["ID"])} for row in items]
    return Done(result=rows)


def modify_prices(store: Store, call: Call) -> Done:
    """Set all prices of a product."""
    product = mapping(exact_fields(call).get("product"))
    product_id = text(product.get("id"))
    table = store.table("price")
    for price_id in [i for i, row in table.rows.items() if text(row["productId"]) == product_id]:
        del table.rows[price_id]
    stored: list[Value] = []
    for price in members(product.get("prices") or []):
        record: Record = {**mapping(price), "id": 0, "productId": product_id}
        table.add(record, "id")
        stored.append(dict(record))
    return Done(result={"prices": stored}, id=number(product_id))


def find_by_communication(store: Store, call: Call) -> Done:
    """Ids of leads, contacts and companies that have one of the phones or e-mails."""
    type_id = text(loose(call, "type")).upper()
    if type_id not in {"PHONE", "EMAIL"}:
        raise Refusal("Communication type is not defined", "Communication type is not defined")
    wanted = {_plain(text(value)) for value in members(loose(call, "values") or [])}
    wanted_kind = text(loose(call, "entity_type")).lower()
    found: Record = {}
    for kind in ("lead", "contact", "company"):
        if wanted_kind in {"", kind}:
            ids = [i for i, row in store.table(kind).rows.items() if _reached(row, type_id, wanted)]
            if ids:
                found[kind.upper()] = list[Value](ids[:_MOST_COMMUNICATIONS])
            if len(ids) >= _MOST_COMMUNICATIONS:
                break
    return Done(result=found or [])


def app_info(store: Store, call: Call) -> Done:
    """The application; a webhook has none."""
    if not call.by_oauth:
        raise Refusal("ACCESS_DENIED", "Application context required", 403)
    return Done(
        result={
            "ID": 1,
            "CODE": store.config.client_id,
            "VERSION": 1,
            "STATUS": "L",
            "INSTALLED": True,
            "PAYMENT_EXPIRED": "N",
            "DAYS": None,
            "LANGUAGE_ID": "en",
            "LICENSE": "en_sandbox",
            "LICENSE_TYPE": "sandbox",
            "LICENSE_FAMILY": "sandbox",
        }
    )


def server_time(store: Store, call: Call) -> Done:
    """The portal's time."""
    return Done(result=store.stamp(call.at))


def profile(store: Store, call: Call) -> Done:
    """The user on whose behalf the call is made."""
    user = store.table("user").rows.get(call.user_id, {})
    return Done(
        result={
            "ID": str(call.user_id),
            "ADMIN": True,
            "NAME": user.get("NAME", ""),
            "LAST_NAME": user.get("LAST_NAME", ""),
            "TIME_ZONE": "",
        }
    )


def scope(_store: Store, _call: Call) -> Done:
    """The scopes that the credential has."""
    return Done(result=["crm", "task", "user", "catalog", "lists", "calendar", "sonet_group"])


def crm_mode(_store: Store, _call: Call) -> Done:
    """1: leads stay leads."""
    return Done(result=1)


def _elements(store: Store, call: Call) -> list[Record]:
    iblock = (text(loose(call, "IBLOCK_ID")), text(loose(call, "IBLOCK_CODE")))
    return [
        row
        for row in store.table("list_element").rows.values()
        if (text(row["IBLOCK_ID"]), text(row["IBLOCK_CODE"])) == iblock
    ]


def _element(store: Store, call: Call) -> Record:
    wanted_id, code = text(loose(call, "ELEMENT_ID")), text(loose(call, "ELEMENT_CODE"))
    for row in _elements(store, call):
        if text(row["ID"]) == wanted_id or (not wanted_id and code and row["CODE"] == code):
            return row
    raise Refusal("ERROR_ELEMENT_NOT_FOUND", "Element not found")


def _position(call: Call, index: int) -> Value:
    values = list(call.params.values())
    return values[index] if index < len(values) else None


def _task_id(store: Store, call: Call) -> int:
    task_id = number(_position(call, 0))
    if task_id is None or task_id not in store.table("task").rows:
        raise Refusal("ERROR_CORE", "TASKS_ERROR_EXCEPTION_#8; Action failed; 8/TE/ACTION_FAILED")
    return task_id


def _task_item(kind: str, store: Store, call: Call) -> Record:
    task_id, item_id = _task_id(store, call), number(_position(call, 1))
    record = store.table(kind).rows.get(item_id or 0)
    if record is None or record["TASK_ID"] != task_id:
        raise Refusal("ERROR_CORE", "TASKS_ERROR_EXCEPTION_#8; Item not found; 8/TE/NOT_FOUND")
    return record


def _reached(row: Record, type_id: str, wanted: set[str]) -> bool:
    rows = [mapping(entry) for entry in members(row.get("fm") or [])]
    return any(r.get("typeId") == type_id and _plain(text(r.get("value"))) in wanted for r in rows)


def _plain(communication: str) -> str:
    if "@" in communication:
        return communication.strip().lower()
    return "".join(char for char in communication if char.isdigit())


def _task_item_methods(prefix: str, kind: str, updated: Value) -> dict[str, Method]:
    return {
        f"{prefix}.add": partial(add_task_item, kind),
        f"{prefix}.update": partial(update_task_item, kind, updated),
        f"{prefix}.delete": partial(delete_task_item, kind),
        f"{prefix}.get": partial(get_task_item, kind),
        f"{prefix}.getlist": partial(list_task_items, kind),
    }


METHODS: dict[str, Method] = {
    "lists.element.add": add_element,
    "lists.element.update": update_element,
    "lists.element.delete": delete_element,
    "lists.element.get": get_elements,
    **_task_item_methods("task.commentitem", "task.comment", updated=True),
    **_task_item_methods("task.checklistitem", "task.checklist", updated=None),
    "catalog.price.modify": modify_prices,
    "crm.duplicate.findbycomm": find_by_communication,
    "app.info": app_info,
    "server.time": server_time,
    "profile": profile,
    "user.current": profile,
    "scope": scope,
    "crm.settings.mode.get": crm_mode,
}
