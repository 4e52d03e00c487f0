"""Portals, rows and a world to drain them in: what the tests of the tables have in common."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import unquote

from requests.adapters import BaseAdapter
from sqlalchemy import Connection, Engine, Table, insert, select, update

from b24sync.edge import tables
from b24sync.edge.database import now_ms, reading, writing
from b24sync.edge.lanes import Lane
from b24sync.edge.portal import PortalClient
from b24sync.edge.taking import take
from b24sync.edge.tokens import Keyring
from b24sync.settings import Settings
from b24sync.world import World
from tests.fakes import Answer, Asked

WEBHOOK = "https://portal.example/rest/1/hush/"
FAR_MS = 3_600_000

Found = dict[str, Any]


def add_portal(engine: Engine, code: str = "default", **values: object) -> None:
    """A portal with one lane and a rate that no test uses up."""
    portal = {"code": code, "base_url": "https://portal.example", "rate_x": 1000, "rate_y": 1000}
    lane = {name: values.pop(name) for name in list(values) if name in tables.lane.c}
    with writing(engine) as connection:
        connection.execute(insert(tables.portal), portal | values)
        connection.execute(insert(tables.lane), {"portal": code, "lane": 0} | lane)


def add_rows(engine: Engine, *keys: str, **values: object) -> list[int]:
    """Plain rows of an outbox, one for each key; their ids."""
    with writing(engine) as connection:
        return [add_row(connection, key, **values) for key in keys]


def add_row(connection: Connection, key: str, **values: object) -> int:
    """One row in the caller's transaction: an upsert of a contact, unless told otherwise."""
    row = {
        "kind": "contact",
        "entity_key": key,
        "operation": "upsert",
        "fields": {"name": key},
    }
    key_of = connection.execute(insert(tables.outbox).values(**(row | values))).inserted_primary_key
    assert key_of is not None
    return int(key_of[0])


def add_batch(connection: Connection, state: str, *, code: str = "default") -> int:
    """A batch in any state, with the times that its state asks for."""
    values: dict[str, object] = {
        "portal": code,
        "lane": 0,
        "lane_epoch": 1,
        "state": state,
        "n_commands": 1,
        "plan": {},
        "request_hash": "",
    }
    if state not in {"journalled", "returned"}:
        values |= {"sending_at": 1, "deadline_at": 2, "quiet_until": 3}
    if state in {"answered", "reconciled", "returned"}:
        values["closed_at"] = 4
    key = connection.execute(insert(tables.batch).values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def rows_of(engine: Engine, table: Table, **where: object) -> list[Found]:
    """The rows of a table, in the order of its first column."""
    with reading(engine) as connection:
        return rows_in(connection, table, **where)


def rows_in(connection: Connection, table: Table, **where: object) -> list[Found]:
    """The same inside a transaction."""
    statement = select(table).where(*(table.c[name] == value for name, value in where.items()))
    found = connection.execute(statement.order_by(*table.primary_key.columns)).mappings()
    return [dict(row) for row in found]


def one(engine: Engine, table: Table, **where: object) -> Found:
    """The only such row."""
    (found,) = rows_of(engine, table, **where)
    return found


def states(engine: Engine) -> dict[str, str]:
    """The state of each unfinished row, by key; of an entity's rows, joined in their order."""
    by_key: dict[str, list[str]] = {}
    for row in rows_of(engine, tables.outbox):
        by_key.setdefault(row["entity_key"], []).append(row["state"])
    return {key: " ".join(found) for key, found in by_key.items()}


def endings(engine: Engine) -> dict[int, list[str]]:
    """The final outcomes of each row by its id; one each, or something is wrong."""
    found: dict[int, list[str]] = {}
    for row in rows_of(engine, tables.result, final=True):
        found.setdefault(row["outbox_id"], []).append(row["outcome"])
    return found


def change(engine: Engine, table: Table, values: Mapping[str, object], **where: object) -> None:
    """Put values into rows, as time or a person would."""
    with writing(engine) as connection:
        connection.execute(
            update(table)
            .where(*(table.c[name] == value for name, value in where.items()))
            .values(**values)
        )


def time_passes(engine: Engine) -> None:
    """Every wait in the tables is over: rows are due, blocks and breakers and leases have ended."""
    outbox, lane = tables.outbox, tables.lane
    with writing(engine) as connection:
        connection.execute(update(outbox).where(outbox.c.state == "ready").values(due_at=0))
        connection.execute(
            update(lane).where(lane.c.next_due_at.is_not(None)).values(next_due_at=0)
        )
        connection.execute(
            update(lane).where(lane.c.breaker_until.is_not(None)).values(breaker_until=0)
        )
        connection.execute(
            update(lane).where(lane.c.lease_until.is_not(None)).values(lease_until=0)
        )
        connection.execute(update(tables.method_budget).values(blocked_until=0))
        connection.execute(update(tables.bucket).values(level=0.0, blocked_until=None))


def database_now(engine: Engine) -> int:
    """The database's clock, epoch milliseconds."""
    with reading(engine) as connection:
        return int(connection.execute(select(now_ms())).scalar_one())


def taken(engine: Engine, code: str | None = None, *, owner: str = "test") -> Lane:
    """A lane that is due and free."""
    mine = maybe_taken(engine, code, owner=owner)
    assert mine is not None
    return mine


def maybe_taken(engine: Engine, code: str | None = None, *, owner: str = "test") -> Lane | None:
    """The same, or none."""
    with writing(engine) as connection:
        return take(connection, owner=owner, lease_ms=FAR_MS, code=code)


def world_of(engine: Engine, portal: BaseAdapter | None = None, **settings: object) -> World:
    """A world whose portal is this one; without one, whatever the webhook's address leads to."""
    # What commands take is learned from the first ten of them; these portals are known already.
    usual = {"webhook_url": WEBHOOK, "slice_batches": 50, "batch_start": 50}
    given: dict[str, Any] = usual | settings
    client = PortalClient() if portal is None else PortalClient(adapter=lambda: portal)
    return World(
        engine=engine,
        client=client,
        keyring=Keyring.from_keys(()),
        settings=Settings(**given),
        chance=lambda: 0.0,
        clock=time.monotonic,
        owner="test",
    )


def commands_of(asked: Asked) -> dict[str, str]:
    """The commands of a batch as people read them, by label."""
    return {label: unquote(line) for label, line in asked.params["cmd"].items()}


class Clerk:
    """A portal's good will: every command is done, except those that somebody has words for.

    Shape: ``refused`` are texts to look for in a command, each with code and complaint; ``silent``
    are texts whose command is not answered at all.
    """

    def __init__(
        self, *, refused: Mapping[str, tuple[str, str]] | None = None, silent: Iterable[str] = ()
    ) -> None:
        """Begin to number records at 1."""
        self.refused = dict(refused or {})
        self.silent = tuple(silent)
        self.ids = count(1)

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.method != "batch":
            return Answer(body={"result": {"item": {"id": next(self.ids)}}, "time": {}})
        done: dict[str, object] = {}
        failed: dict[str, object] = {}
        for label, line in commands_of(asked).items():
            complaint = next((c for text, c in self.refused.items() if text in line), None)
            if complaint is not None:
                failed[label] = {"error": complaint[0], "error_description": complaint[1]}
            elif not any(text in line for text in self.silent):
                done[label] = {"item": {"id": next(self.ids)}}
        return batch_answer(done, failed)


class HaltingClerk:
    """A portal that runs the commands of a batch one by one, and obeys ``halt``.

    A reference to the answer of an earlier command is replaced by what it names; a command with one
    that leads nowhere is refused.

    Shape: ``refused`` are texts to look for in a command, with the complaints that it meets one
    after the other; when there are none left it is done. ``silent`` are texts whose command is done
    and not answered. ``ran`` are the commands that ran, failed ones too, request by request, as
    people read them.
    """

    def __init__(
        self,
        refused: Mapping[str, Iterable[tuple[str, str]]] | None = None,
        *,
        silent: Iterable[str] = (),
    ) -> None:
        """Begin to number records at 1."""
        self.complaints = {text: iter(complaints) for text, complaints in (refused or {}).items()}
        self.silent = tuple(silent)
        self.ids = count(1)
        self.ran: list[list[str]] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        if asked.method != "batch":
            self.ran.append([asked.method])
            return Answer(body={"result": {"item": {"id": next(self.ids)}}, "time": {}})
        halts = asked.params["halt"] == 1
        done: dict[str, object] = {}
        failed: dict[str, object] = {}
        self.ran.append([])
        for label, sent in commands_of(asked).items():
            line = _REFERENCE.sub(partial(_named, done), sent)
            self.ran[-1].append(line)
            complaint = self._complaint(line)
            if complaint is not None:
                failed[label] = {"error": complaint[0], "error_description": complaint[1]}
            elif not any(text in line for text in self.silent):
                done[label] = {"item": {"id": next(self.ids)}}
            if halts and failed:
                break
        return batch_answer(done, failed)

    def _complaint(self, line: str) -> tuple[str, str] | None:
        if "$result[" in line:
            return "UNRESOLVED", f"a reference leads nowhere: {line}"
        found = (next(left, None) for text, left in self.complaints.items() if text in line)
        return next((complaint for complaint in found if complaint is not None), None)


_REFERENCE = re.compile(r"\$result((?:\[[^\[\]]*\])+)")


def _named(done: Mapping[str, object], reference: re.Match[str]) -> str:
    """What a reference leads to; its own text, where that is nowhere."""
    target: object = done
    for step in reference[1][1:-1].split("]["):
        target = target.get(step) if isinstance(target, Mapping) else None
    return reference[0] if target is None else str(target)


def batch_answer(done: object, failed: object = ()) -> Answer:
    """The envelope of a batch; empty sections are lists, as PHP has it."""
    sections = {
        "result": done or [],
        "result_error": failed or [],
        "result_total": [],
        "result_next": [],
        "result_time": [],
    }
    return Answer(body={"result": sections, "time": {"start": 1.0, "finish": 2.0}})


def refusal(code: str, text: str, status: int) -> Answer:
    """The refusal of a whole request."""
    return Answer(body={"error": code, "error_description": text}, status=status)


def in_threads(works: Sequence[Callable[[], object]], *, within_s: float = 30.0) -> None:
    """Run all at once, and raise what the first of them raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - carried over to the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a thread is still running"
