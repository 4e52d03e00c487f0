"""Phones, e-mails and other fields of several rows: what an add or update does to them.

Source: manual, contact update page (classic rows) and the tutorial on changing e-mail or phone
(universal `fm`).
"""

from collections.abc import Callable

from b24sync.sandbox.naming import MULTI_FIELDS
from b24sync.sandbox.values import Record, Value, mapping, members, number, text

Rows = list[Value]


def classic_change(rows: Rows, type_id: str, sent: Value, new_id: Callable[[], int]) -> Rows:
    """The rows after a classic add or update of one field.

    Shape: rows without ID are added, also doubles; with ID and VALUE changed; with ID and no or
    empty VALUE, or DELETE=Y, removed; rows not mentioned stay.
    Raises: nothing.
    """
    kept = {text(mapping(row).get("id")): mapping(row) for row in rows}
    for entry in map(mapping, members(sent)):
        row_id, value = text(entry.get("ID")), text(entry.get("VALUE"))
        if not row_id:
            if value:
                fresh = new_id()
                kept[str(fresh)] = _row(fresh, type_id, text(entry.get("VALUE_TYPE")), value)
        elif row_id in kept:
            if not value or text(entry.get("DELETE")) == "Y":
                del kept[row_id]
            else:
                former = text(kept[row_id].get("valueType"))
                kind = text(entry.get("VALUE_TYPE")) or former
                kept[row_id] = _row(number(row_id) or 0, type_id, kind, value)
    return list(kept.values())


def universal_change(rows: Rows, sent: Value, new_id: Callable[[], int]) -> Rows:
    """The rows after crm.item.add or crm.item.update with `fm`.

    Shape: entries without typeId do nothing; a list appends; a key that is an existing row id
    changes that row, or removes it if the value is empty; any other key adds.
    Raises: nothing.
    """
    if not isinstance(sent, dict | list):
        return rows
    kept = {text(mapping(row).get("id")): mapping(row) for row in rows}
    appended = isinstance(sent, list)
    for key, entry in ((key, mapping(entry)) for key, entry in mapping(sent).items()):
        type_id, value = text(entry.get("typeId")), text(entry.get("value"))
        if type_id not in MULTI_FIELDS:
            continue
        if not appended and key in kept:
            if value:
                former = text(kept[key].get("valueType"))
                kind = text(entry.get("valueType")) or former
                kept[key] = _row(number(key) or 0, type_id, kind, value)
            else:
                del kept[key]
        elif value:
            fresh = new_id()
            kept[str(fresh)] = _row(fresh, type_id, text(entry.get("valueType")), value)
    return list(kept.values())


def classic_view(rows: Rows) -> Record:
    """The rows as classic get shows them: by field, ids as text. Raises: nothing."""
    view: Record = {}
    for row in map(mapping, rows):
        type_id = text(row.get("typeId"))
        shown = members(view.get(type_id) or [])
        shown.append(
            {
                "ID": text(row.get("id")),
                "VALUE_TYPE": row.get("valueType"),
                "VALUE": row.get("value"),
                "TYPE_ID": type_id,
            }
        )
        view[type_id] = shown
    return view


def _row(row_id: int, type_id: str, value_type: str, value: str) -> Record:
    return {"id": row_id, "typeId": type_id, "valueType": value_type or "WORK", "value": value}
