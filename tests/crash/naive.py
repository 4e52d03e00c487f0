"""What most outboxes do, for comparison: a lease on rows, and a request without an answer is sent again.

The same tables, the same portal, the same client; no journal, no doubt, no looking.
"""

from functools import partial
from urllib.parse import quote

from sqlalchemy import Connection, delete, select, update

from b24sync.cli.interrupts import Interrupt
from b24sync.core.errors import CredentialError, SendError
from b24sync.core.model import Batch, Command, Operation, Reply
from b24sync.edge.database import insert_many, now_ms, skip_locked, transact
from b24sync.edge.tables import outbox, portal, result
from b24sync.edge.tenants import tenant
from b24sync.world import World, credential_of

NAIVE_ROWS = 10
REST_S = 0.02


def work_naively(world: World, stop: Interrupt) -> None:
    """Claim, send, delete, until told to stop; what is not deleted is sent again."""
    lease_ms = int((world.settings.lease_s + world.settings.request_timeout_s) * 1000)
    while not stop.is_set():
        found = transact(world.engine, partial(_claimed, lease_ms=lease_ms))
        if found is None:
            stop.wait(REST_S)
            continue
        code, rows = found
        with world.engine.connect() as connection:
            there = tenant(connection, code)
        commands = tuple(_command(number, key) for number, key in rows.items())
        batch = Batch(labels=tuple(c.label for c in commands), commands=commands)
        try:
            reply = world.client.send(
                credential_of(world, there), batch, deadline_s=world.settings.request_timeout_s
            )
        except (SendError, CredentialError):
            transact(world.engine, partial(_given_back, rows=list(rows)))
            continue
        done = [command.row_ids[0] for command in commands if _is_done(reply, command.label)]
        transact(world.engine, partial(_finished, code=code, done=done))


def _claimed(connection: Connection, lease_ms: int) -> tuple[str, dict[int, str]] | None:
    """Rows of one portal, hidden from others until the lease ends."""
    is_free = (outbox.c.state == "ready", outbox.c.due_at <= now_ms())
    first = select(outbox.c.portal).join(portal, portal.c.code == outbox.c.portal)
    code = connection.execute(first.where(*is_free).order_by(outbox.c.id).limit(1)).scalar()
    if code is None:
        return None
    mine = select(outbox.c.id, outbox.c.entity_key).where(outbox.c.portal == code, *is_free)
    found = connection.execute(skip_locked(mine.order_by(outbox.c.id).limit(NAIVE_ROWS))).all()
    if not found:
        return None
    connection.execute(
        update(outbox)
        .where(outbox.c.id.in_([row.id for row in found]))
        .values(due_at=now_ms() + lease_ms, deliveries=outbox.c.deliveries + 1)
    )
    return code, {row.id: row.entity_key for row in found}


def _given_back(connection: Connection, rows: list[int]) -> None:
    connection.execute(update(outbox).where(outbox.c.id.in_(rows)).values(due_at=now_ms()))


def _finished(connection: Connection, code: str, done: list[int]) -> None:
    these = outbox.c.id.in_(done)
    left = select(outbox.c.id, outbox.c.entity_key, outbox.c.created_at).where(these)
    rows = connection.execute(left).all()
    insert_many(
        connection,
        result,
        [
            {
                "outbox_id": row.id,
                "portal": code,
                "kind": "company",
                "entity_key": row.entity_key,
                "operation": "add",
                "outcome": "applied",
                "final": True,
                "attempt": 1,
                "enqueued_at": row.created_at,
            }
            for row in rows
        ],
    )
    connection.execute(delete(outbox).where(these))


def _command(number: int, key: str) -> Command:
    marker = quote(f"company:{key}", safe="")
    fields = f"fields%5BoriginatorId%5D=b24sync&fields%5BoriginId%5D={marker}"
    return Command(
        row_ids=(number,),
        kind="company",
        key=key,
        operation=Operation.ADD,
        method="crm.item.add",
        query=f"entityTypeId=4&fields%5Btitle%5D=naive&{fields}",
    )


def _is_done(reply: Reply, label: str) -> bool:
    """Whether the answer says that a command was carried out."""
    body = reply.body if isinstance(reply.body, dict) else {}
    sections = body.get("result") if isinstance(body.get("result"), dict) else {}
    done = sections.get("result") if isinstance(sections, dict) else {}
    return isinstance(done, dict) and label in done
