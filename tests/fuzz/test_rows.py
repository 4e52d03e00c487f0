"""Rows of plain SQL that no application would write: each ends by itself, and stops nobody else."""

import logging
import re
from collections.abc import Mapping
from random import Random

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from b24sync.core.model import FINAL_OUTCOMES
from b24sync.drain import Order, drain
from b24sync.edge import tables, waiting
from b24sync.edge.database import writing
from b24sync.sandbox import Sandbox
from b24sync.world import World
from tests.fuzz.rows import LOWEST, NAMED, WORST, any_row
from tests.house import endings, rows_of, time_passes, world_of

_PLAIN: Mapping[str, object] = {"kind": "contact", "operation": "add", "fields": NAMED}

_names_a_field = re.compile(r"\w+: .+: .+", re.DOTALL).fullmatch


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each of thousands of refusals is of no use to anybody."""
    caplog.set_level(logging.CRITICAL, logger="b24sync")


def _insert(connection: Connection, columns: Mapping[str, object]) -> None:
    names = ", ".join(columns)
    # Bytes are a text that is none: only SQLite takes it.
    values = ", ".join(
        f"CAST(:{name} AS TEXT)" if isinstance(value, bytes) else f":{name}"
        for name, value in columns.items()
    )
    statement = text(f"INSERT INTO b24sync_outbox ({names}) VALUES ({values})")  # noqa: S608 - names of columns
    connection.execute(statement, dict(columns))


def _written(engine: Engine, columns: Mapping[str, object]) -> int | None:
    """Write one row by plain SQL; its id, or ``None`` where the database refuses it."""
    row = {**_PLAIN, **columns}
    try:
        with writing(engine) as connection:
            _insert(connection, row)
            return int(connection.execute(text("SELECT max(id) FROM b24sync_outbox")).scalar_one())
    except DBAPIError:
        return None


def _good(engine: Engine, number: int) -> int:
    row_id = _written(engine, {"entity_key": f"good {number}"})
    assert row_id is not None
    return row_id


def _drained(engine: Engine, world: World) -> None:
    """Pass after pass, until nothing moves any more."""
    for _ in range(20):
        before = rows_of(engine, tables.outbox)
        drain(world, Order())
        with writing(engine) as connection:
            waiting.sweep(connection)
        time_passes(engine)
        if rows_of(engine, tables.outbox) == before:
            return
    pytest.fail("rows move and move, and never end")


def _ending(engine: Engine, row_id: int) -> str:
    """What became of a row: an outcome, the reason of its dead letter, or where it stands."""
    letters = rows_of(engine, tables.dead, outbox_id=row_id)
    if letters:
        return str(letters[0]["last_error"])
    unfinished = rows_of(engine, tables.outbox, id=row_id)
    if unfinished:
        return str(unfinished[0]["state"])
    return " ".join(endings(engine)[row_id])


def test_each_of_the_worst_rows_ends_by_itself_and_stops_nobody(
    house: Engine, sandbox: Sandbox
) -> None:
    """Refused rows are dead letters whose reason names the field; what stands between is applied."""
    written: dict[str, int] = {}
    good: list[int] = []
    for number, worst in enumerate(WORST):
        row_id = _written(house, {"entity_key": f"worst {number}", **worst.columns})
        if row_id is not None:
            written[worst.name] = row_id
        good.append(_good(house, number))
    world = world_of(house, webhook_url=sandbox.webhook_url)

    _drained(house, world)
    world.client.close()

    found = {
        worst.name: _ending(house, written[worst.name]) for worst in WORST if worst.name in written
    }
    wrong = {
        worst.name: found[worst.name][:200]
        for worst in WORST
        if worst.name in written and not found[worst.name].startswith(worst.ends)
    }
    assert wrong == {}
    assert {_ending(house, row_id) for row_id in good} == {"applied"}
    # A database may refuse some by itself; most of them come through.
    assert len(written) > len(WORST) * 3 // 4


def _any_rows_end(engine: Engine, sandbox: Sandbox, seed: int, count: int) -> None:
    random = Random(seed)  # noqa: S311 - the same rows in each run
    written: list[int] = []
    good: list[int] = []
    for number in range(count):
        row_id = _written(engine, any_row(random, f"any {number}"))
        if row_id is not None:
            written.append(row_id)
        good.append(_good(engine, number))
    world = world_of(engine, webhook_url=sandbox.webhook_url)

    _drained(engine, world)
    world.client.close()

    assert {_ending(engine, row_id) for row_id in good} == {"applied"}
    unfinished = {row["id"]: row for row in rows_of(engine, tables.outbox)}
    final = endings(engine)
    assert final.keys().isdisjoint(unfinished)
    assert final.keys() | unfinished.keys() >= set(written)
    assert {len(outcomes) for outcomes in final.values()} == {1}
    assert {outcome for outcomes in final.values() for outcome in outcomes} <= FINAL_OUTCOMES
    standing = {row["state"] for row in unfinished.values() if row["due_at"] < 2**62}
    assert standing <= {"held", "parked"}
    assert all(row["state_reason"] for row in unfinished.values() if row["state"] == "held")
    refused = rows_of(engine, tables.dead, reason="refused")
    assert [row["last_error"] for row in refused if not _names_a_field(row["last_error"])] == []
    assert len(written) > count // 4
    assert len(refused) > count // 20


@pytest.mark.parametrize("seed", range(2))
def test_any_rows_of_plain_sql_end_or_wait_and_stop_nobody(
    house: Engine, sandbox: Sandbox, seed: int
) -> None:
    """Each has one ending or a reason to wait, each refusal names a field, and good rows arrive."""
    _any_rows_end(house, sandbox, seed, 100)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_very_many_rows_of_plain_sql_end_or_wait_and_stop_nobody(
    house: Engine, sandbox: Sandbox, seed: int
) -> None:
    """The same, for longer."""
    _any_rows_end(house, sandbox, seed, 1000)


@pytest.mark.parametrize(
    ("columns", "ends"),
    [
        pytest.param({"fields": b'{"name":"\xff"}'}, "unreadable: fields", id="fields"),
        pytest.param({"params": b'{"name":"\xc3\x28"}'}, "unreadable: params", id="params"),
        pytest.param({"kind": b"contact\xff"}, "unknown_kind: kind", id="kind"),
        pytest.param({"entity_key": b"k\xff"}, "applied", id="key"),
        pytest.param({"headers": b'{"a":"\xed\xa0\x80"}'}, "applied", id="headers"),
        pytest.param(
            {"operation": "call", "method": b"a\xff", "fields": None},
            "bad_method: method",
            id="method",
        ),
    ],
)
def test_a_text_that_is_no_utf_8_stops_nobody_else(
    lite_house: Engine, sandbox: Sandbox, columns: Mapping[str, object], ends: str
) -> None:
    """SQLite takes any bytes for a text, whoever wrote them; its row ends like any other."""
    bad = _written(lite_house, {"entity_key": "bad", **columns})
    good = _good(lite_house, 1)
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)

    drain(world, Order())
    world.client.close()

    assert bad is not None
    assert _ending(lite_house, bad).startswith(ends)
    assert _ending(lite_house, good) == "applied"


def test_keys_that_are_no_utf_8_stay_different_keys(lite_house: Engine, sandbox: Sandbox) -> None:
    """Two records for two keys, and the second change of a key is one of the same record."""
    for key in (b"k\xff", b"k\xfe", b"k\xff"):
        assert _written(lite_house, {"entity_key": key, "operation": "upsert"}) is not None
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)

    _drained(lite_house, world)
    world.client.close()

    assert rows_of(lite_house, tables.outbox) == []
    assert len(sandbox.records("contact")) == 2
    assert len(rows_of(lite_house, tables.link)) == 2


@pytest.mark.parametrize(
    ("columns", "ends"),
    [
        pytest.param({"fields": '{"name": '}, "unreadable: fields", id="half a document"),
        pytest.param({"fields": '{"name": NaN}'}, "not_a_number: fields.name", id="NaN"),
        pytest.param({"fields": "{name: 'x',}"}, "unreadable: fields", id="another JSON"),
        pytest.param({"fields": "[" * 9000}, "unreadable: fields", id="brackets"),
        pytest.param({"fields": ""}, "unreadable: fields", id="an empty text"),
        pytest.param({"params": "nonsense"}, "unreadable: params", id="params"),
        pytest.param({"headers": "{"}, "applied", id="headers"),
        pytest.param({"operation": "call", "fields": None}, "bad_method: method", id="no method"),
    ],
)
def test_what_a_table_without_checks_holds_stops_nobody_else(
    lite_house: Engine, sandbox: Sandbox, columns: Mapping[str, object], ends: str
) -> None:
    """Whoever switched the checks off, or restored a table without them."""
    row = {**_PLAIN, "entity_key": "bad", **columns}
    with lite_house.connect() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
        _insert(connection, row)
        connection.commit()
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=OFF")
    good = _good(lite_house, 1)
    world = world_of(lite_house, webhook_url=sandbox.webhook_url)

    drain(world, Order())
    world.client.close()

    assert _ending(lite_house, good - 1).startswith(ends)
    assert _ending(lite_house, good) == "applied"


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"operation": "destroy"}, id="an unknown operation"),
        pytest.param({"entity_key": ""}, id="no key"),
        pytest.param({"entity_key": " k"}, id="a space before the key"),
        pytest.param({"entity_key": "k" * 191}, id="a long key"),
        pytest.param({"kind": "k" * 65}, id="a long kind"),
        pytest.param({"operation": "call", "fields": None}, id="a call of nothing"),
        pytest.param({"fields": None}, id="a write of nothing"),
        pytest.param({"fields": '{"a":'}, id="half a document"),
        pytest.param({"state": "nosuch"}, id="an unknown state"),
        pytest.param({"state": "batched"}, id="in no batch"),
        pytest.param({"lane": -1}, id="no lane"),
        pytest.param({"attempts": -1}, id="less than no attempt"),
        pytest.param({"due_at": LOWEST - 1}, id="a time that is no number of theirs"),
    ],
)
def test_what_can_be_refused_at_once_is_refused_by_the_database(
    house: Engine, columns: Mapping[str, object]
) -> None:
    """Whoever writes it hears of it, and not days later."""
    row = {"entity_key": "k", **columns}

    with pytest.raises((DBAPIError, OverflowError)):
        _refused(house, row)

    assert rows_of(house, tables.outbox) == []


def _refused(engine: Engine, columns: Mapping[str, object]) -> None:
    with writing(engine) as connection:
        _insert(connection, {**_PLAIN, **columns})
