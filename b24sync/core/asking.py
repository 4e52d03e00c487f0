"""What has to be read on the portal before a row can be said, and what the answers hold.

Two questions: what does this record hold now, since values of multi-value fields have ids of their
own; and which records may be the one that an unknown key means. Both only read, so they may be
asked again at any time.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from b24sync.core import refs
from b24sync.core.encoding import encode
from b24sync.core.kinds import Kind, Method
from b24sync.core.model import Asks, Question, Row
from b24sync.core.sameness import same

_ANYTHING: Mapping[str, object] = MappingProxyType({})

NAMING_PARAM = "useOriginalUfNames"
"""Says by which names user fields are called, so a question has to say it as the change does."""

_MAX_ID = 2**63
_is_id = re.compile(r"(?=\d*[1-9])\d{1,19}", re.ASCII).fullmatch


def about_record(
    row: Row, kind: Kind, remote_id: str, fields: Iterable[str], params: Mapping[str, object]
) -> Question:
    """Ask what the entity's record holds.

    Shape: the kind must have a ``get``; ``fields`` are asked for by name where it wants to be told.
    Raises: ValueError for a kind that has none.
    """
    if kind.get is None or kind.get.id_param is None:
        raise ValueError(f"{kind.name} has no method to get one")
    body = {**kind.get.fixed, **_shared(kind.get, params), kind.get.id_param: remote_id}
    if kind.get.fields_param is not None:
        body[kind.get.fields_param] = ["*", *fields]
    return _question(row, Asks.RECORD, kind.get.name, body)


def about_matches(
    row: Row,
    kind: Kind,
    conditions: Mapping[str, object],
    fields: Mapping[str, object],
    params: Mapping[str, object],
) -> Question | None:
    """Ask which records meet these conditions; ``None``, the kind's list cannot be asked that.

    Shape: ``conditions`` by field name; ``fields`` and ``params`` are those of the change, of which
    some lists want a part.
    Raises: nothing.
    Source: Bitrix24 REST manual, "Features of List Methods": ``=`` asks for equality, ``start=-1``
    leaves the counting out.
    """
    method = kind.list
    if method is None or method.id_path is None:
        return None
    wanted = {name: fields[name] for name in method.required_fields if name in fields}
    named = {
        method.param_names.get(name, name): value
        for name, value in {**wanted, **conditions}.items()
    }
    body: dict[str, object] = {**method.fixed, **_shared(method, params)}
    if method.fields_param is None:
        # Such a list is told where to look by the same params as the change.
        body |= {**params, **named}
    else:
        body[method.fields_param] = {f"={name}": value for name, value in named.items()}
        body["select"] = [*method.id_path[-1:], *named]
    body["start"] = -1
    return replace(_question(row, Asks.MATCH, method.name, body), wanted=named)


def _shared(method: Method, params: Mapping[str, object]) -> dict[str, object]:
    """The params of the change that a question about its record must repeat."""
    return {
        method.param_names.get(name, name): value
        for name, value in params.items()
        if name in method.required or name == NAMING_PARAM
    }


def _question(row: Row, asks: Asks, method: str, body: Mapping[str, object]) -> Question:
    return Question(kind=row.kind, key=row.key, asks=asks, method=method, query=encode(body))


def record_of(kind: Kind, answer: object) -> Mapping[str, object]:
    """The record in the answer to ``get``; empty, where there is none.

    Shape: some answer with a list of the one record.
    Raises: nothing.
    """
    for step in kind.record_path:
        answer = answer.get(step) if refs.is_mapping(answer) else None
    if refs.is_list(answer) and len(answer) == 1:
        answer = answer[0]
    return answer if refs.is_mapping(answer) else {}


def ids_of(kind: Kind, answer: object, wanted: Mapping[str, object] = _ANYTHING) -> tuple[str, ...]:
    """The ids of the records in the answer to ``list``, each once, in their order.

    Shape: what is no id is passed over, and so is a record that has one of the ``wanted`` fields
    with another value: some lists answer with every record where they do not know a condition.
    Raises: nothing.
    """
    for step in kind.list_path:
        answer = answer.get(step) if refs.is_mapping(answer) else None
    rows: list[object] = []
    if refs.is_list(answer):
        rows = list(answer)
    elif refs.is_mapping(answer):
        rows = list(answer.values())
    path = kind.list.id_path if kind.list is not None else None
    found = (_id_of(row, path or ()) for row in rows if _meets(row, wanted, kind.yes_no))
    return tuple(dict.fromkeys(number for number in found if number is not None))


def _meets(row: object, wanted: Mapping[str, object], yes_no: tuple[str, str]) -> bool:
    fields = row if refs.is_mapping(row) else _ANYTHING
    return all(
        name not in fields or same(value, fields[name], yes_no) for name, value in wanted.items()
    )


def _id_of(row: object, path: tuple[str, ...]) -> str | None:
    for step in path:
        row = row.get(step) if refs.is_mapping(row) else None
    match row:
        case bool():
            return None
        case int() if 0 < row < _MAX_ID:
            return str(row)
        case str() if _is_id(row):
            return row
        case _:
            return None
