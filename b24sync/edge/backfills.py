"""How far each back-fill has come, who feeds it, and how much of it waits.

A back-fill is fed by one process at a time: whoever takes it gets a token, and every step is written
only under the token that is the row's. A person who stops a back-fill takes the token away, so a
step that is just being written then is undone. The last key and the rows that were read up to it
are committed together.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, insert, literal, or_, select, update

from b24sync.core.backfilling import OVER, BackfillState, Key, read_key, stored_key
from b24sync.core.model import RowState
from b24sync.edge.database import now_ms
from b24sync.edge.tables import backfill, lane, outbox, written


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """A back-fill as it stands.

    Shape: ``last`` is the key of the row that was read last. Every row that was read is counted once:
    ``enqueued``, ``skipped`` because it is not to be on the portal or is there already, or
    ``refused``, with what was said of the last one. ``waiting`` and ``is_fed`` are asked for people
    only.
    Units: ``*_ms`` are epoch milliseconds of the database's clock.
    """

    code: str
    portal: str
    kind: str
    source: Mapping[str, Any]
    last: Key | None
    state: BackfillState
    reason: str | None
    read_rows: int
    enqueued: int
    skipped: int
    refused: int
    last_refusal: str | None
    estimate: int | None
    most_waiting: int
    step: int
    priority: int
    only_missing: bool
    skip_bad: bool
    created_at_ms: int
    updated_at_ms: int
    finished_at_ms: int | None
    is_fed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """What one step has read, up to and with the row of ``last``."""

    last: Key | None = None
    enqueued: int = 0
    skipped: int = 0
    refused: int = 0
    last_refusal: str | None = None
    is_last: bool = False

    @property
    def read_rows(self) -> int:
        """How many rows were read."""
        return self.enqueued + self.skipped + self.refused

    def __add__(self, other: "Fed") -> "Fed":
        """This step, and a later one."""
        return Fed(
            last=self.last if other.last is None else other.last,
            enqueued=self.enqueued + other.enqueued,
            skipped=self.skipped + other.skipped,
            refused=self.refused + other.refused,
            last_refusal=other.last_refusal or self.last_refusal,
            is_last=self.is_last or other.is_last,
        )


def register(connection: Connection, values: Mapping[str, object]) -> None:
    """Write down a new back-fill, which is running from then on.

    Raises: sqlalchemy.exc.IntegrityError if there is one of that code.
    Writes: backfill.
    """
    connection.execute(insert(backfill).values(**values))


def find(connection: Connection, code: str) -> Backfill | None:
    """A back-fill by its code.

    Writes: nothing.
    """
    found = connection.execute(_looked_at().where(backfill.c.code == code)).mappings().first()
    return None if found is None else _read(found)


def listed(connection: Connection) -> tuple[Backfill, ...]:
    """All back-fills, those that are not over first, and of each the newest.

    Writes: nothing.
    """
    order = (backfill.c.finished_at.is_not(None), backfill.c.created_at.desc(), backfill.c.code)
    found = connection.execute(_looked_at().order_by(*order)).mappings()
    return tuple(_read(row) for row in found)


def to_feed(connection: Connection) -> tuple[str, ...]:
    """The back-fills that run and that nobody feeds, the longest neglected first.

    Writes: nothing.
    """
    found = connection.execute(
        select(backfill.c.code)
        .where(backfill.c.state == BackfillState.RUNNING, backfill.c.lease_until <= now_ms())
        .order_by(backfill.c.updated_at, backfill.c.code)
    ).scalars()
    return tuple(found)


def _looked_at() -> Select[tuple[object, ...]]:
    return select(backfill, (backfill.c.lease_until > now_ms()).label("is_fed"))


def _read(found: RowMapping) -> Backfill:
    return Backfill(
        code=found["code"],
        portal=found["portal"],
        kind=found["kind"],
        source=found["source"],
        last=read_key(found["last_key"]),
        state=BackfillState(found["state"]),
        reason=found["reason"],
        read_rows=found["read_rows"],
        enqueued=found["enqueued"],
        skipped=found["skipped"],
        refused=found["refused"],
        last_refusal=found["last_refusal"],
        estimate=found["estimate"],
        most_waiting=found["most_waiting"],
        step=found["step"],
        priority=found["priority"],
        only_missing=found["only_missing"],
        skip_bad=found["skip_bad"],
        created_at_ms=found["created_at"],
        updated_at_ms=found["updated_at"],
        finished_at_ms=found["finished_at"],
        is_fed=bool(found["is_fed"]),
    )


def take(connection: Connection, code: str, *, lease_ms: int) -> int | None:
    """Become the one who feeds a back-fill; its token, or ``None``, somebody else is.

    Units: ``lease_ms`` bounds a feeder whose process dies.
    Writes: backfill, by one guarded statement.
    """
    taken = connection.execute(
        update(backfill)
        .where(
            backfill.c.code == code,
            backfill.c.state == BackfillState.RUNNING,
            backfill.c.lease_until <= now_ms(),
        )
        .values(lease_until=now_ms() + lease_ms, token=backfill.c.token + 1, updated_at=now_ms())
    )
    if taken.rowcount != 1:
        return None
    found = select(backfill.c.token).where(backfill.c.code == code)
    return int(connection.execute(found).scalar_one())


def keep(connection: Connection, code: str, token: int, fed: Fed, *, lease_ms: int) -> bool:
    """Remember how far a step came; ``False``, the back-fill is not ours any more.

    Whoever is told so rolls back, and the rows of the step with it.
    Writes: backfill, guarded by its token.
    """
    values: dict[str, object] = {
        "read_rows": backfill.c.read_rows + fed.read_rows,
        "enqueued": backfill.c.enqueued + fed.enqueued,
        "skipped": backfill.c.skipped + fed.skipped,
        "refused": backfill.c.refused + fed.refused,
        "lease_until": now_ms() + lease_ms,
        "updated_at": now_ms(),
    }
    if fed.last is not None:
        values["last_key"] = stored_key(fed.last)
    if fed.last_refusal is not None:
        values["last_refusal"] = fed.last_refusal
    if fed.is_last:
        values |= {"state": str(BackfillState.DONE), "lease_until": 0, "finished_at": now_ms()}
    kept = connection.execute(update(backfill).where(*_mine(code, token)).values(**values))
    return kept.rowcount == 1


def leave(connection: Connection, code: str, token: int) -> None:
    """Let a back-fill go, to whoever feeds it next.

    Writes: backfill, if it is still ours.
    """
    connection.execute(update(backfill).where(*_mine(code, token)).values(lease_until=0))


def fail(connection: Connection, code: str, token: int, reason: str) -> None:
    """Stop a back-fill that cannot go on before a person has seen to it.

    Writes: backfill, if it is still ours.
    """
    values = {"state": str(BackfillState.FAILED), "reason": reason, "lease_until": 0}
    connection.execute(
        update(backfill).where(*_mine(code, token)).values(updated_at=now_ms(), **values)
    )


def _mine(code: str, token: int) -> tuple[Any, ...]:
    return (
        backfill.c.code == code,
        backfill.c.token == token,
        backfill.c.state == BackfillState.RUNNING,
    )


def steer(
    connection: Connection, code: str, to: BackfillState, values: Mapping[str, object] | None = None
) -> bool:
    """Let a back-fill run, pause or end, as a person says; ``False``, it is over already.

    A step that is just being written is undone, unless it was committed before.
    Writes: backfill; its token too.
    """
    over = {"finished_at": now_ms()} if to in OVER else {}
    # One that runs already goes on as it is, with the one who feeds it.
    is_new = backfill.c.state != str(to)
    moved = connection.execute(
        update(backfill)
        .where(
            backfill.c.code == code,
            backfill.c.state.not_in([str(state) for state in OVER]),
            or_(is_new, literal(bool(values))),
        )
        .values(
            state=str(to),
            reason=None,
            lease_until=0,
            token=backfill.c.token + 1,
            updated_at=now_ms(),
            **over,
            **(values or {}),
        )
    )
    if moved.rowcount == 1:
        return True
    found = select(backfill.c.state).where(backfill.c.code == code)
    return bool(connection.execute(found).scalar() == str(to))


def waiting(connection: Connection, of: Backfill) -> int:
    """How many rows wait that this back-fill would stand behind, counted up to its bound.

    Rows of its priority that are ready, of whatever kind; and those of its kind that are held for
    entities they refer to, which may be in another back-fill.
    Writes: nothing.
    """
    ready = (
        select(outbox.c.id)
        .where(
            outbox.c.portal == of.portal,
            outbox.c.lane.in_(select(lane.c.lane).where(lane.c.portal == of.portal)),
            outbox.c.state == written(RowState.READY),
            outbox.c.priority == of.priority,
        )
        .limit(of.most_waiting)
        .subquery()
    )
    count = int(connection.execute(select(func.count()).select_from(ready)).scalar_one())
    if count >= of.most_waiting:
        return count
    held = (
        select(outbox.c.id)
        .where(
            outbox.c.portal == of.portal,
            outbox.c.waits_for.is_not(None),
            outbox.c.kind == of.kind,
            outbox.c.priority == of.priority,
        )
        .limit(of.most_waiting - count)
        .subquery()
    )
    return count + int(connection.execute(select(func.count()).select_from(held)).scalar_one())


def urgencies(
    connection: Connection, code: str, kind: str, keys: Collection[str]
) -> Mapping[str, int]:
    """The most urgent priority among the unfinished rows of each of these entities that has any.

    What is written behind them is to be as urgent: still more may come to stand behind it.
    Writes: nothing.
    """
    if not keys:
        return {}
    found = connection.execute(
        select(outbox.c.entity_key, func.min(outbox.c.priority))
        .where(
            outbox.c.portal == code, outbox.c.kind == kind, outbox.c.entity_key.in_(sorted(keys))
        )
        .group_by(outbox.c.entity_key)
    )
    return {row[0]: row[1] for row in found}
