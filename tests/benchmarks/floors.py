"""What one batch must at least write, as raw statements of each driver, on the same tables.

Three transactions: the rows are read and journalled, the batch is sending, the outcomes are written.
What guards, parks, merges, waits, counts and paces is left out.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import count
from time import time
from typing import Any, cast

from sqlalchemy import Engine

from tests.benchmarks.contenders import SIZE, Contender

MARK = {"postgresql": "%s", "mysql": "%s", "sqlite": "?"}
ARRAYS = {bool: "boolean[]", int: "bigint[]", str: "text[]"}

SELECT = """
SELECT id, kind, entity_key, operation, fields, created_at FROM b24sync_outbox
WHERE portal = 'default' AND lane = 0 AND state = 'ready' ORDER BY priority, id LIMIT 50
"""
JOURNAL = """
INSERT INTO b24sync_batch (portal, lane, lane_epoch, state, n_commands, plan, request_hash, created_at)
VALUES ('default', 0, 1, 'journalled', {m}, {m}, 'x', {m}) RETURNING id
"""
TAKE = "UPDATE b24sync_outbox SET state = 'batched', batch_id = {m}, cmd_no = 0 WHERE id IN ({ids})"
GO = """
UPDATE b24sync_batch SET state = 'sending', sending_at = {m}, deadline_at = {m}, quiet_until = {m}
WHERE id = {m}
"""
ANSWER = (
    "UPDATE b24sync_batch SET state = 'answered', answered_at = {m}, closed_at = {m} WHERE id = {m}"
)
FINISH = "DELETE FROM b24sync_outbox WHERE id IN ({ids})"
RESULT = (
    "finished_at, outbox_id, portal, kind, entity_key, operation, method, outcome, final, "
    "remote_id, http_status, attempt, batch_id, cmd_no, enqueued_at, sent_at"
)
LINK = "portal, kind, entity_key, remote_id, state, last_outbox_id, updated_at"
KEPT = {
    "mysql": "ON DUPLICATE KEY UPDATE remote_id = VALUES(remote_id), updated_at = VALUES(updated_at)",
    "postgresql": "ON CONFLICT (portal, kind, entity_key) DO UPDATE SET "
    "remote_id = excluded.remote_id, updated_at = excluded.updated_at",
}
KEPT["sqlite"] = KEPT["postgresql"]


class Raw:
    """A connection of the driver, with the statements of this module in its style."""

    def __init__(self, engine: Engine) -> None:
        """Connect as our own engine does."""
        self.name = engine.dialect.name
        self.pooled = engine.raw_connection()
        self.cursor: Any = self.pooled.cursor()

    def begin(self) -> None:
        """SQLite alone has to be told."""
        if self.name == "sqlite":
            self.cursor.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """The other end of it."""
        if self.name == "sqlite":
            self.cursor.execute("COMMIT")
        else:
            self.pooled.commit()

    def run(self, statement: str, values: Sequence[object] = (), ids: Sequence[int] = ()) -> None:
        """One statement; ids are written into it as they are."""
        told = statement.format(m=MARK[self.name], ids=",".join(map(str, ids)))
        self.cursor.execute(told, tuple(values))

    def insert(self, table: str, columns: str, rows: Sequence[tuple[Any, ...]], tail: str) -> None:
        """Many rows, the fastest way of each driver."""
        if self.name == "postgresql":
            arrays = ", ".join(f"%s::{ARRAYS[type(value)]}" for value in rows[0])
            told = f"INSERT INTO {table} ({columns}) SELECT * FROM unnest({arrays}) {tail}"  # noqa: S608 - constants
            self.cursor.execute(told, [list(column) for column in zip(*rows, strict=True)])
            return
        marks = ", ".join([MARK[self.name]] * len(rows[0]))
        self.cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks}) {tail}", rows)  # noqa: S608 - constants


def floor(engine: Engine, name: str, fill: Callable[[int], None]) -> Iterator[Contender]:
    """The database's share and nothing else: no portal, no decision."""
    remote_ids = count(10**12)

    def work() -> None:
        raw = Raw(engine)
        with closing(raw.pooled):
            while _one_batch(raw, remote_ids):
                pass

    yield Contender(
        name=f"floor, statements on {name}",
        group=name,
        inside="no portal: select 50 rows, insert a batch, update 50 rows | update the batch | insert 50 "
        "results, upsert 50 links, delete 50 rows, update the batch; three commits",
        prepare=fill,
        work=work,
    )


def _one_batch(raw: Raw, remote_ids: Iterator[int]) -> bool:
    now = int(time() * 1000)
    raw.begin()
    raw.run(SELECT)
    rows = cast("list[tuple[Any, ...]]", raw.cursor.fetchall())
    if not rows:
        raw.commit()
        return False
    ids = [row[0] for row in rows]
    plan = json.dumps({f"c{place}": [number] for place, number in enumerate(ids)})
    raw.run(JOURNAL, (len(rows), plan, now))
    batch = int(raw.cursor.fetchone()[0])
    raw.run(TAKE, (batch,), ids)
    raw.commit()
    raw.begin()
    raw.run(GO, (now, now, now, batch))
    raw.commit()
    made = [str(next(remote_ids)) for _ in rows]
    raw.begin()
    results = [
        (
            *(now, row[0], "default", row[1], row[2], row[3], "crm.item.add", "applied", True),
            *(made_id, 200, 1, batch, place, row[5], now),
        )
        for place, (row, made_id) in enumerate(zip(rows, made, strict=True))
    ]
    raw.insert("b24sync_result", RESULT, results, "")
    links = [
        ("default", row[1], row[2], made_id, "present", row[0], now)
        for row, made_id in zip(rows, made, strict=True)
    ]
    raw.insert("b24sync_link", LINK, links, KEPT[raw.name])
    raw.run(FINISH, (), ids)
    raw.run(ANSWER, (now, now, batch))
    raw.commit()
    return len(rows) == SIZE
