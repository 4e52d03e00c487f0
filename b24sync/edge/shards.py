"""How many lanes portals have, as those who write rows know it.

The number is read once a minute for each engine, in the transaction of whoever writes first, and
not for each row. One that is out of date does no harm: any lane is right for any row.
"""

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Pool, select

from b24sync.core.model import HaltMode
from b24sync.core.shards import shard_of
from b24sync.edge.tables import portal
from b24sync.edge.tenants import halt_of

KEEP_S = 60.0
"""How long a number may be out of date."""

_lock = threading.Lock()
_known: WeakKeyDictionary[Pool, dict[str, tuple[float, Mapping[str, int]]]] = WeakKeyDictionary()


def shards(
    connection: Connection,
    *,
    options: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = monotonic,
) -> Mapping[str, int]:
    """The portals with more than one shard, by code.

    One whose halt mode is ``strict`` has one lane whatever it was given: it must be able to stop.
    Shape: ``options`` are the execution options of the statement that is to be run.
    Writes: nothing.
    """
    given = {**connection.get_execution_options(), **(options or {})}
    where = repr(given.get("schema_translate_map"))
    with _lock:
        mine = _known.setdefault(connection.engine.pool, {})
    known = mine.get(where)
    if known is not None and clock() < known[0]:
        return known[1]
    statement = select(portal.c.code, portal.c.shards, portal.c.policy).where(portal.c.shards > 1)
    found = {
        code: number
        for code, number, policy in connection.execute(statement, execution_options=options or {})
        if halt_of(policy) is not HaltMode.STRICT
    }
    mine[where] = (clock() + KEEP_S, found)
    return found


def lane_of(connection: Connection, code: str, kind: str, key: str) -> int:
    """The lane of a new row.

    Writes: nothing.
    """
    return shard_of(kind, key, shards(connection).get(code, 1))
