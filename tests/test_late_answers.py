"""An add that was said again because its answer was lost, and the answer comes all the same.

Two records are on the portal then; one is kept, the other is told of, whichever came first.
"""

import logging
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, update

from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from tests.fakes import Answer, Asked, ScriptedPortal
from tests.house import (
    add_rows,
    batch_answer,
    change,
    endings,
    one,
    rows_of,
    time_passes,
    world_of,
)

PATIENCE_S = 5.0


def _made(number: int, meanwhile: Callable[[], object] = lambda: None) -> Callable[[Asked], Answer]:
    """A portal that makes this record, and answers when something else has happened."""

    def answer(asked: Asked) -> Answer:
        meanwhile()
        return batch_answer({label: {"item": {"id": number}} for label in asked.params["cmd"]})

    return answer


def _nobody(asked: Asked) -> Answer:
    """A look-up that finds nothing."""
    return batch_answer({label: {"items": []} for label in asked.params["cmd"]})


def _quiet(engine: Engine) -> None:
    """The worker that asked has lost its lane, and the portal has surely stopped."""
    with writing(engine) as connection:
        connection.execute(
            update(tables.batch).where(tables.batch.c.state == "doubt").values(quiet_until=0)
        )
        connection.execute(
            update(tables.outbox).where(tables.outbox.c.state == "doubt").values(due_at=0)
        )
    time_passes(engine)


def _duplicates(engine: Engine) -> list[tuple[str, str, str]]:
    found = rows_of(engine, tables.duplicate)
    return [(row["kept_id"], row["other_id"], row["found_by"]) for row in found]


def test_the_answer_comes_after_the_repeat(house: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The record of the repeat is kept; it is told once, at the level of errors."""
    (row_id,) = add_rows(house, "a", operation="add")

    def meanwhile() -> None:
        other = world_of(house, ScriptedPortal([_nobody, _made(2)]))
        _quiet(house)
        drain(other, Order())
        _quiet(house)
        drain(other, Order())

    drain(world_of(house, ScriptedPortal([_made(1, meanwhile)])), Order())

    assert endings(house) == {row_id: ["applied"]}
    assert _duplicates(house) == [("2", "1", "late-answer")]
    link = one(house, tables.link)
    assert (link["remote_id"], link["dup_ids"]) == ("2", ["1"])
    (told,) = [one for one in caplog.records if one.message.startswith("duplicate_found")]
    assert told.levelno == logging.ERROR
    assert "kept=2 others=1 found_by=late-answer" in told.message


def test_the_answer_comes_while_the_repeat_is_under_way(
    house: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing to compare it with yet; the repeat's own answer is compared with it."""
    (row_id,) = add_rows(house, "a", operation="add")
    is_asked, may_answer = threading.Event(), threading.Event()

    def slowly() -> None:
        is_asked.set()
        assert may_answer.wait(PATIENCE_S)

    first = world_of(house, ScriptedPortal([_made(1, slowly)]))
    waiting = threading.Thread(target=drain, args=(first, Order()), daemon=True)
    waiting.start()
    assert is_asked.wait(PATIENCE_S)
    links: list[object] = []

    def first_is_heard() -> None:
        may_answer.set()
        waiting.join(PATIENCE_S)
        links.append(rows_of(house, tables.link))

    other = world_of(house, ScriptedPortal([_nobody, _made(2, first_is_heard)]))
    _quiet(house)
    drain(other, Order())
    _quiet(house)
    drain(other, Order())

    assert links == [[]]
    assert endings(house) == {row_id: ["applied"]}
    assert _duplicates(house) == [("2", "1", "late-answer")]
    assert one(house, tables.link)["remote_id"] == "2"
    assert caplog.text.count("duplicate_found") == 1


def test_the_answer_comes_when_its_row_was_cancelled_meanwhile(
    house: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The record is there, so its entity has it, or the next upsert would make another."""
    (row_id,) = add_rows(house, "a", operation="add")

    def meanwhile() -> None:
        other = world_of(house, ScriptedPortal([_nobody]), slice_batches=1)
        _quiet(house)
        drain(other, Order(limit=1))
        change(house, tables.outbox, {"cancel_requested": True}, id=row_id)
        _quiet(house)
        drain(other, Order())

    drain(world_of(house, ScriptedPortal([_made(7, meanwhile)])), Order())

    assert endings(house) == {row_id: ["cancelled"]}
    link = one(house, tables.link)
    assert (link["remote_id"], link["state"], link["dup_ids"]) == ("7", "present", None)
    assert _duplicates(house) == []
    assert f"record_orphaned portal=default kind=contact row={row_id} record=7" in caplog.text
