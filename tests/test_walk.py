"""One row through the whole house, and what every table says of it on the way."""

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from b24sync import Change, enqueue
from b24sync.core.policies import Policy
from b24sync.drain import Order, Tally, drain
from b24sync.edge import tables
from b24sync.sandbox import Sandbox
from tests.fakes import Answer, Asked, ScriptedPortal
from tests.house import (
    Clerk,
    Found,
    add_portal,
    commands_of,
    database_now,
    one,
    rows_of,
    world_of,
)

EVERY = tuple(table for table in tables.metadata.tables.values() if table is not tables.portal)


def _filled(engine: Engine) -> dict[str, int]:
    """How many rows each table holds, but for the empty ones."""
    counts = {
        table.name.removeprefix(tables.PREFIX): len(rows_of(engine, table)) for table in EVERY
    }
    return {name: count for name, count in counts.items() if count}


def _write(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        enqueue(session, Change("contact", "c-17", "upsert", {"name": "Ann"}, headers={"by": "me"}))


def test_a_row_enters_on_the_left_and_leaves_on_the_right(engine: Engine) -> None:
    """Written, batched and sent, answered, gone: each step is in the tables for everyone to see."""
    add_portal(engine)
    on_the_way: dict[str, Found] = {}
    filled: dict[str, int] = {}
    said: list[str] = []

    def portal(asked: Asked) -> Answer:
        said.extend(commands_of(asked).values())
        filled.update(_filled(engine))
        for table in (tables.outbox, tables.batch, tables.lane, tables.bucket):
            on_the_way[table.name.removeprefix(tables.PREFIX)] = one(engine, table)
        return Clerk()(asked)

    _write(engine)
    written = one(engine, tables.outbox)
    before = _filled(engine)
    lane_before = one(engine, tables.lane)
    tally = drain(world_of(engine, ScriptedPortal([portal])), Order())
    after = _filled(engine)

    assert before == {"outbox": 1, "lane": 1}
    assert (written["state"], written["batch_id"], written["deliveries"]) == ("ready", None, 0)
    assert (lane_before["next_due_at"], lane_before["lease_until"]) == (None, None)

    assert filled == {"outbox": 1, "lane": 1, "batch": 1, "bucket": 1}
    batch, row, lane = on_the_way["batch"], on_the_way["outbox"], on_the_way["lane"]
    assert (row["state"], row["batch_id"], row["cmd_no"]) == ("batched", batch["id"], 0)
    assert (row["deliveries"], row["attempts"]) == (1, 0)
    assert (batch["state"], batch["lane_epoch"], batch["n_commands"]) == ("sending", 1, 1)
    assert batch["sending_at"] < batch["deadline_at"] < batch["quiet_until"]
    assert batch["plan"][f"r{row['id']}"]["rows"] == [row["id"]]
    assert (lane["open_batch_id"], lane["lease_epoch"], lane["lease_owner"]) == (
        batch["id"],
        1,
        "test",
    )
    assert lane["lease_until"] > batch["deadline_at"]
    assert 0 < on_the_way["bucket"]["level"] <= 1
    (sentence,) = said
    assert sentence == (
        "crm.item.add?entityTypeId=3&fields[name]=Ann"
        "&fields[originId]=contact:c-17&fields[originatorId]=b24sync"
    )

    assert tally == Tally(batches=1, outcomes={"applied": 1})
    filled_then = ("lane", "batch", "bucket", "result", "link", "rollup", "method_budget")
    assert after == dict.fromkeys(filled_then, 1)
    result, link = one(engine, tables.result), one(engine, tables.link)
    assert (result["outbox_id"], result["outcome"], result["final"]) == (
        written["id"],
        "applied",
        True,
    )
    assert (result["remote_id"], result["attempt"], result["http_status"]) == ("1", 1, 200)
    assert result["enqueued_at"] == written["created_at"]
    assert written["created_at"] <= result["sent_at"] <= result["finished_at"]
    assert (link["kind"], link["entity_key"], link["remote_id"]) == ("contact", "c-17", "1")
    assert link["last_outbox_id"] == written["id"]
    closed = one(engine, tables.batch)
    assert (closed["state"], closed["http_status"]) == ("answered", 200)
    assert closed["sending_at"] <= closed["answered_at"] <= closed["closed_at"]
    released = one(engine, tables.lane)
    assert (released["lease_until"], released["open_batch_id"]) == (None, None)
    assert released["next_due_at"] is None
    # The seconds that it had a worker.
    assert 0 < released["vtime"] < 60
    counted = one(engine, tables.rollup)
    assert (counted["outcome"], counted["n"]) == ("applied", 1)
    assert counted["minute"] <= database_now(engine)


def _live_and_die(engine: Engine) -> None:
    """Added, changed, deleted and made anew."""
    _write(engine)
    with Session(engine) as session, session.begin():
        enqueue(session, Change("contact", "c-17", "update", {"name": "Anna"}))
        enqueue(session, Change("contact", "c-17", "delete"))
        enqueue(session, Change("contact", "c-17", "upsert", {"name": "Annette"}))


def test_an_entity_lives_and_dies_on_the_portal_as_it_does_here(
    engine: Engine, sandbox: Sandbox
) -> None:
    """One by one, over HTTP: the portal goes through every change, and holds what came last."""
    add_portal(engine)
    one_by_one = {"*": Policy(merge=False)}
    world = world_of(engine, webhook_url=sandbox.webhook_url, policies=one_by_one)

    _live_and_die(engine)
    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(batches=4, outcomes={"applied": 4})
    assert [command.method for command in sandbox.journal() if command.label] == [
        "crm.item.add",
        "crm.item.update",
        "crm.item.delete",
        "crm.item.add",
    ]
    (record,) = sandbox.records("contact").values()
    assert (record["name"], record["originId"]) == ("Annette", "contact:c-17#1")
    assert one(engine, tables.link)["remote_id"] == str(record["id"])


def test_what_was_over_before_it_was_sent_is_not_sent(engine: Engine, sandbox: Sandbox) -> None:
    """The same, merged: only what is left in the end reaches the portal, and every row has an end."""
    add_portal(engine)
    world = world_of(engine, webhook_url=sandbox.webhook_url)

    _live_and_die(engine)
    tally = drain(world, Order())
    world.client.close()

    assert tally == Tally(batches=1, outcomes={"unchanged": 1, "merged": 2, "applied": 1})
    (command,) = sandbox.journal()
    assert command.method == "crm.item.add"
    (record,) = sandbox.records("contact").values()
    assert (record["name"], record["originId"]) == ("Annette", "contact:c-17")
    ends = [(r["outbox_id"], r["operation"], r["outcome"]) for r in rows_of(engine, tables.result)]
    assert sorted(ends) == [
        (1, "upsert", "merged"),
        (2, "update", "merged"),
        (3, "delete", "unchanged"),
        (4, "upsert", "applied"),
    ]
