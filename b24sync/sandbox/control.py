"""Steering the sandbox over HTTP, for other processes: paths under /sandbox/, JSON, no credential.

Shape:
    GET  /sandbox/stats                       numbers of requests, commands, records, rotations
    GET  /sandbox/journal?offset=N&limit=M    executed commands
    GET  /sandbox/requests?offset=N&limit=M   received requests
    GET  /sandbox/records/KIND                records by id
    GET  /sandbox/faults                      armed faults
    GET  /sandbox/tokens                      the current OAuth pair
    GET  /sandbox/operating                   seconds used in the window, by credential and method
    GET  /sandbox/costs                       seconds that commands take, by method
    POST /sandbox/faults                      arm one fault (object) or several (list)
    POST /sandbox/clear-faults                disarm all
    POST /sandbox/reset                       an empty portal
    POST /sandbox/expire-token                end every access token
    POST /sandbox/costs                       {"crm.deal.add": 0.9, "crm.lead.add": [0.2, 6]}: from now on
    POST /sandbox/types                       {"entityTypeId": N}: register a smart process
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from b24sync.sandbox.config import Cost
from b24sync.sandbox.crm_classic import records_named
from b24sync.sandbox.faults import Fault, FaultAction
from b24sync.sandbox.journal import ExecutedCommand, ReceivedRequest
from b24sync.sandbox.php import parse_query
from b24sync.sandbox.portal import Portal
from b24sync.sandbox.values import Record, Value, mapping, number
from b24sync.sandbox.wire import HttpReply, HttpRequest, json_reply

_FAULT_FIELDS = {field.name for field in fields(Fault)} - {"when"}
_KIND_PARTS = 2


def handle_control(portal: Portal, request: HttpRequest) -> HttpReply:
    """Answer a control request; 404 for an unknown path, 400 for what cannot be read.

    Raises: nothing.
    """
    parts = [part for part in request.path.split("/") if part][1:]
    try:
        if request.verb == "GET":
            answer = _read(portal, parts, parse_query(request.query))
        else:
            answer = _act(portal, parts, json.loads(request.body or b"null"))
    except (ValueError, TypeError) as error:
        return json_reply(400, {"error": "BAD_CONTROL_REQUEST", "error_description": str(error)})
    if answer is None:
        return json_reply(404, {"error": "UNKNOWN_CONTROL_PATH"})
    return json_reply(200, answer)


def fault_from(entry: Value) -> Fault:
    """The fault that a JSON object describes.

    Raises: ValueError for an unknown field or action, TypeError for no object.
    """
    if not isinstance(entry, dict):
        raise TypeError("a fault is an object")
    unknown = set(entry) - _FAULT_FIELDS
    if unknown:
        raise ValueError(f"unknown fields of a fault: {', '.join(sorted(unknown))}")
    details: dict[str, Any] = {**entry, "action": FaultAction(str(entry.get("action")))}
    return Fault(**details)


def _read(portal: Portal, parts: list[str], query: Record) -> Value:
    if len(parts) == _KIND_PARTS and parts[0] == "records":
        with portal.executor.lock:
            found = records_named(portal.executor.store, parts[1])
        return {"records": {str(record_id): record for record_id, record in found.items()}}
    reader = _READERS.get("/".join(parts))
    return None if reader is None else reader(portal, query)


def _act(portal: Portal, parts: list[str], body: Value) -> Value:
    match parts:
        case ["faults"]:
            for fault in [fault_from(entry) for entry in _entries_of(body)]:
                portal.faults.add(fault)
        case ["clear-faults"]:
            portal.faults.clear()
        case ["reset"]:
            portal.reset()
        case ["expire-token"]:
            portal.tokens.expire()
        case ["costs"]:
            costs = {name.lower(): _cost(cost) for name, cost in mapping(body).items()}
            with portal.executor.lock:
                portal.executor.costs |= costs
        case ["types"]:
            with portal.executor.lock:
                portal.executor.store.smart_types.add(_type_id(body))
        case _:
            return None
    return {"ok": True}


def _entries_of(body: Value) -> list[Value]:
    return body if isinstance(body, list) else [body]


def _type_id(body: Value) -> int:
    type_id = number(mapping(body).get("entityTypeId"))
    if type_id is None:
        raise ValueError("entityTypeId is missing")
    return type_id


def _cost(cost: Value) -> Cost:
    """Seconds, or two bounds. Raises: ValueError for anything else."""
    match cost:
        case int() | float() if cost >= 0:
            return float(cost)
        case [int() | float() as least, int() | float() as most] if 0 <= least <= most:
            return float(least), float(most)
        case _:
            raise ValueError("a cost is a number of seconds, or the least and the most of them")


def _operating(portal: Portal, _query: Record) -> Value:
    with portal.executor.lock:
        used = portal.executor.operating.all_used(time.time())
    shown: Record = {credential: {**methods} for credential, methods in used.items()}
    return {"operating": shown}


def _costs(portal: Portal, _query: Record) -> Value:
    with portal.executor.lock:
        costs = dict(portal.executor.costs)
    shown: Record = {
        method: list(cost) if isinstance(cost, tuple) else cost for method, cost in costs.items()
    }
    return {"costs": shown}


def _stats(portal: Portal, _query: Record) -> Value:
    with portal.executor.lock:
        tables = portal.executor.store.tables
        records: Record = {kind: len(table.rows) for kind, table in tables.items()}
    return {
        "requests": len(portal.journal.requests),
        "commands": len(portal.journal.commands),
        "failed": sum(1 for command in portal.journal.commands if not command.ok),
        "token_rotations": portal.tokens.rotations,
        "faults_armed": len(portal.faults.pending()),
        "records": records,
    }


def _journal(portal: Portal, query: Record) -> Value:
    return {"commands": _slice(portal.journal.commands, query)}


def _requests(portal: Portal, query: Record) -> Value:
    return {"requests": _slice(portal.journal.requests, query)}


def _faults(portal: Portal, _query: Record) -> Value:
    shown: list[Value] = [
        {name: getattr(fault, name) for name in sorted(_FAULT_FIELDS)}
        for fault in portal.faults.pending()
    ]
    return {"faults": shown}


def _tokens(portal: Portal, _query: Record) -> Value:
    tokens = portal.tokens
    return {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token}


def _slice(
    entries: Sequence[ReceivedRequest] | Sequence[ExecutedCommand], query: Record
) -> list[Value]:
    offset = number(query.get("offset")) or 0
    limit = number(query.get("limit"))
    return [asdict(entry) for entry in entries[offset : None if limit is None else offset + limit]]


_READERS: dict[str, Callable[[Portal, Record], Value]] = {
    "stats": _stats,
    "journal": _journal,
    "requests": _requests,
    "faults": _faults,
    "tokens": _tokens,
    "operating": _operating,
    "costs": _costs,
}
