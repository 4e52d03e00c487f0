"""The tables as they stand in each database: what they refuse, what they fill in, what they keep."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from decimal import Decimal

import pytest
from sqlalchemy import URL, CheckConstraint, Engine, func, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError

from b24sync.edge import tables
from b24sync.edge.database import reading, writing

WHOLE_ROWS: Mapping[str, Mapping[str, object]] = {
    "portal": {"code": "p", "base_url": "https://portal.example"},
    "lane": {"portal": "p", "lane": 0},
    "outbox": {"kind": "contact", "entity_key": "c-1", "operation": "delete"},
    "batch": {
        "portal": "p",
        "lane": 0,
        "lane_epoch": 1,
        "n_commands": 1,
        "plan": {},
        "request_hash": "h",
    },
    "result": {
        "outbox_id": 1,
        "portal": "p",
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "add",
        "outcome": "applied",
        "final": True,
        "attempt": 1,
        "enqueued_at": 1,
    },
    "dead": {
        "outbox_id": 1,
        "portal": "p",
        "lane": 0,
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "add",
        "generation": 0,
        "mergeable": True,
        "priority": 0,
        "deliveries": 1,
        "attempts": 1,
        "not_runs": 0,
        "enqueued_at": 1,
        "reason": "refused",
        "error_code": "E",
        "first_error": "no",
        "last_error": "no",
    },
    "link": {"portal": "p", "kind": "contact", "entity_key": "c-1", "state": "absent"},
    "bucket": {"portal": "p", "egress_group": "default"},
    "method_budget": {"portal": "p", "method": "crm.contact.add"},
    "rollup": {
        "portal": "p",
        "minute": 1,
        "outcome": "applied",
        "n": 1,
        "latency_sum_ms": 1,
        "latency_max_ms": 1,
    },
    "chore": {"name": "prune"},
    "app": {
        "code": "crm",
        "client_id": "local.1",
        "secret": "x",
        "secret_key_id": "y",
        "server_url": "https://oauth.example",
    },
    "duplicate": {
        "portal": "p",
        "kind": "contact",
        "entity_key": "c-1",
        "kept_id": "1",
        "other_id": "2",
        "found_by": "audit",
    },
    "backfill": {
        "code": "b",
        "portal": "p",
        "kind": "contact",
        "source": {"sort": "query"},
        "most_waiting": 5,
        "step": 1,
        "priority": 32767,
    },
}
"""A row of each table with nothing in it but what must be said."""

SENT = {"sending_at": 1, "deadline_at": 2, "quiet_until": 3}

HALF_STATES: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("portal", "code", {"code": ""}),
    ("portal", "auth_kind", {"auth_kind": "magic"}),
    ("portal", "state", {"state": "asleep", "state_reason": "tired"}),
    ("portal", "rate", {"rate_x": 0}),
    ("portal", "rate", {"rate_y": 0}),
    ("portal", "server_max_s", {"server_max_s": 0}),
    ("portal", "weight", {"weight": 0}),
    ("portal", "a_pause_has_a_reason", {"state": "paused"}),
    ("portal", "secret_with_key_id", {"secret": "sealed"}),
    ("portal", "secret_with_key_id", {"secret_key_id": "k1"}),
    ("lane", "breaker", {"breaker": "ajar", "breaker_until": 1}),
    ("lane", "no_half_lease", {"lease_until": 1}),
    ("lane", "no_half_lease", {"lease_owner": "w1"}),
    ("lane", "breaker_until", {"breaker": "open"}),
    ("portal", "shards", {"shards": 17}),
    ("lane", "lane", {"lane": -1}),
    ("outbox", "operation", {"operation": "poke", "fields": {}}),
    ("outbox", "state", {"state": "gone"}),
    ("outbox", "not_empty", {"kind": ""}),
    ("outbox", "not_empty", {"entity_key": ""}),
    ("outbox", "not_empty", {"portal": ""}),
    ("outbox", "no_outer_space", {"kind": "contact ", "fields": {}}),
    ("outbox", "no_outer_space", {"entity_key": " c-1", "fields": {}}),
    ("outbox", "no_outer_space", {"entity_key": "c-1 ", "fields": {}}),
    ("outbox", "no_outer_space", {"portal": "main ", "fields": {}}),
    ("outbox", "a_call_has_a_method", {"operation": "call"}),
    ("outbox", "a_write_has_fields", {"operation": "add"}),
    ("outbox", "a_write_has_fields", {"operation": "update"}),
    ("outbox", "a_write_has_fields", {"operation": "upsert"}),
    ("outbox", "in_a_batch_or_not", {"batch_id": 1, "cmd_no": 1}),
    ("outbox", "in_a_batch_or_not", {"state": "batched"}),
    ("outbox", "in_a_batch_or_not", {"state": "doubt"}),
    ("outbox", "no_half_batch", {"state": "batched", "batch_id": 1}),
    ("outbox", "no_half_batch", {"cmd_no": 1}),
    ("outbox", "only_the_held_wait", {"waits_for": "company:acme"}),
    ("outbox", "counters", {"deliveries": -1}),
    ("outbox", "counters", {"attempts": -1}),
    ("outbox", "counters", {"not_runs": -1}),
    ("outbox", "counters", {"losses": -1}),
    ("outbox", "doubt_policy", {"doubt_policy": "shrug"}),
    ("outbox", "lane", {"lane": -1}),
    ("batch", "state", {"state": "gone", "closed_at": 1}),
    ("batch", "n_commands", {"n_commands": 0}),
    ("batch", "n_commands", {"n_commands": 51}),
    ("batch", "closed", {"closed_at": 1}),
    ("batch", "closed", {"state": "answered", **SENT}),
    ("batch", "closed", {"state": "returned"}),
    ("batch", "sent_with_deadlines", {"state": "sending"}),
    ("batch", "sent_with_deadlines", {"state": "doubt", **SENT, "quiet_until": None}),
    ("batch", "sent_with_deadlines", {"state": "sending", **SENT, "deadline_at": None}),
    (
        "batch",
        "sent_with_deadlines",
        {"state": "answered", "closed_at": 4, **SENT, "sending_at": None},
    ),
    ("result", "outcome", {"outcome": "vanished", "final": False}),
    ("result", "merged_names_its_row", {"outcome": "merged"}),
    ("result", "merged_names_its_row", {"merged_into": 2}),
    ("result", "final", {"final": False}),
    ("result", "final", {"outcome": "retried"}),
    ("dead", "a_replay_closes", {"replayed_as": 5}),
    ("link", "state", {"state": "lost"}),
    ("link", "present_has_an_id", {"state": "present"}),
    ("link", "present_has_an_id", {"remote_id": "7"}),
    ("bucket", "level", {"level": -1}),
    ("bucket", "taught", {"taught_x": 30.0}),
    ("bucket", "taught", {"taught_x": 30.0, "taught_at": 1}),
    ("bucket", "taught", {"taught_y": 1.5}),
    ("method_budget", "operating_s", {"operating_s": -1}),
    ("rollup", "outcome", {"outcome": "vanished"}),
    ("app", "code", {"code": ""}),
    ("duplicate", "found_by", {"found_by": "chance"}),
    ("backfill", "not_empty", {"code": ""}),
    ("backfill", "not_empty", {"kind": ""}),
    ("backfill", "state", {"state": "idle"}),
    ("backfill", "a_failure_has_a_reason", {"state": "failed"}),
    ("backfill", "a_failure_has_a_reason", {"reason": "no such column"}),
    ("backfill", "finished", {"state": "done"}),
    ("backfill", "finished", {"finished_at": 1}),
    ("backfill", "only_the_running_are_leased", {"state": "paused", "lease_until": 1}),
    ("backfill", "every_row_is_counted_once", {"read_rows": 1, "last_key": [["int", "1"]]}),
    ("backfill", "every_row_is_counted_once", {"enqueued": -1, "skipped": 1}),
    ("backfill", "read_up_to_a_key", {"read_rows": 1, "enqueued": 1}),
    ("backfill", "read_up_to_a_key", {"last_key": [["int", "1"]]}),
    ("backfill", "a_refusal_is_told", {"last_refusal": "no key"}),
    ("backfill", "bounds", {"most_waiting": 0}),
    ("backfill", "bounds", {"step": 0}),
)

EVERY_PLANE = "".join(chr(plane * 0x10000 + 0x1F6) for plane in range(17)) + "ёß日😀"


def _insert(engine: Engine, table: str, **columns: object) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(tables.metadata.tables[f"b24sync_{table}"]), {**WHOLE_ROWS[table], **columns}
        )


@pytest.mark.parametrize("table", WHOLE_ROWS)
def test_a_row_of_what_must_be_said_is_taken(engine: Engine, table: str) -> None:
    """Everything else has a default or may be empty."""
    _insert(engine, table)

    with reading(engine) as connection:
        counted = connection.scalar(
            select(func.count()).select_from(tables.metadata.tables[f"b24sync_{table}"])
        )

    assert counted == 1


@pytest.mark.parametrize(
    ("table", "check", "columns"),
    HALF_STATES,
    ids=[f"{t}-{c}-{'-'.join(map(str, v))}" for t, c, v in HALF_STATES],
)
def test_a_half_state_is_refused(
    engine: Engine, table: str, check: str, columns: Mapping[str, object]
) -> None:
    """Each CHECK stops the state that it names, by its name, on every database."""
    with pytest.raises(DBAPIError) as refused:
        _insert(engine, table, **columns)

    assert f"ck_b24sync_{table}_{check}" in str(refused.value.orig)


def test_every_check_has_a_half_state_that_it_refuses() -> None:
    """A CHECK that no test has seen at work may say anything."""
    tried = {f"ck_b24sync_{table}_{check}" for table, check, _ in HALF_STATES}

    made = {
        str(check.name)
        for table in tables.metadata.tables.values()
        for check in table.constraints
        if isinstance(check, CheckConstraint)
    }

    of_sqlite = {name for name in made if name.endswith(("_is_json", "_outbox_types"))}
    assert tried == made - of_sqlite


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"expires_at": "'2031-01-01'"}, id="a date as text"),
        pytest.param({"due_at": "'2031-01-01'"}, id="a due time as text"),
        pytest.param({"created_at": "'now'"}, id="a time of writing as text"),
        pytest.param({"lane": "'first'"}, id="a lane as text"),
        pytest.param({"priority": "1.5"}, id="half a priority"),
        pytest.param({"attempts": "1.5"}, id="half an attempt"),
        pytest.param({"entity_key": "x'6b31'"}, id="bytes as key"),
        pytest.param({"entity_key": f"'{'k' * 191}'"}, id="a long key"),
        pytest.param({"kind": f"'{'k' * 65}'"}, id="a long kind"),
        pytest.param({"portal": f"'{'p' * 65}'"}, id="a long portal"),
        pytest.param({"method": f"'{'m' * 129}'"}, id="a long method"),
    ],
)
def test_sqlite_takes_only_the_types_and_lengths_that_others_take(
    sqlite_engine: Engine, columns: dict[str, str]
) -> None:
    """It would store anything anywhere, and one such row would stop its lane."""
    row = {"kind": "'contact'", "entity_key": "'k1'", "operation": "'delete'"} | columns
    statement = f"INSERT INTO b24sync_outbox ({', '.join(row)}) VALUES ({', '.join(row.values())})"  # noqa: S608 - every part stands in this file

    with pytest.raises(DBAPIError) as refused, writing(sqlite_engine) as connection:
        connection.execute(text(statement))

    assert "ck_b24sync_outbox_types" in str(refused.value.orig)


def test_what_is_not_json_is_refused(engine: Engine) -> None:
    """A broken document would otherwise be found by the worker, much later."""
    statement = text(
        "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields) "
        "VALUES ('contact', 'c-1', 'add', '{\"name\": ')"
    )

    with pytest.raises(DBAPIError), writing(engine) as connection:
        connection.execute(statement)


def test_ids_are_never_used_twice(engine: Engine) -> None:
    """Ids order the changes of an entity, so a deleted row's id must not come back."""
    _insert(engine, "outbox")
    with writing(engine) as connection:
        connection.execute(tables.outbox.delete())

    _insert(engine, "outbox")

    with reading(engine) as connection:
        assert connection.scalar(select(tables.outbox.c.id)) == 2


def _psql(url: URL) -> list[str]:
    where = ["-h", str(url.host), "-p", str(url.port or 5432), "-U", str(url.username)]
    return ["psql", "-q", "-v", "ON_ERROR_STOP=1", *where, "-d", str(url.database), "-c"]


def _mariadb(url: URL) -> list[str]:
    where = ["-h", str(url.host), "-P", str(url.port or 3306), "-u", str(url.username)]
    return ["mariadb", *where, str(url.database), "-e"]


def _sqlite3(url: URL) -> list[str]:
    return ["sqlite3", str(url.database)]


CLIENTS: Mapping[str, Callable[[URL], list[str]]] = {
    "postgresql": _psql,
    "mariadb": _mariadb,
    "sqlite": _sqlite3,
}


def test_a_plain_insert_from_a_command_line_client_is_a_change(
    engine: Engine, backend: str, database_url: str
) -> None:
    """Four columns are enough from any language; the database itself fills in the rest."""
    url = make_url(database_url)
    client = CLIENTS[backend](url)
    if shutil.which(client[0]) is None:
        pytest.skip(f"the client {client[0]} is not installed")
    passwords = {"PGPASSWORD": url.password or "", "MYSQL_PWD": url.password or ""}
    statement = (
        "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields) "
        "VALUES ('contact', 'c-1', 'add', '{\"name\": \"Ann\"}')"
    )

    subprocess.run(  # noqa: S603 - a client and a statement that this test has written
        [*client, statement], check=True, timeout=30, env={**os.environ, **passwords}
    )

    with reading(engine) as connection:
        row = dict(connection.execute(select(tables.outbox)).one()._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    created_at = row.pop("created_at")
    assert abs(created_at - time.time() * 1000) < 5000
    assert row == {
        "id": 1,
        "portal": "default",
        "lane": 0,
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "add",
        "method": None,
        "fields": {"name": "Ann"},
        "params": None,
        "generation": 0,
        "marker": None,
        "doubt_policy": None,
        "mergeable": True,
        "priority": 0,
        "state": "ready",
        "state_reason": None,
        "due_at": 0,
        "expires_at": None,
        "deliveries": 0,
        "attempts": 0,
        "not_runs": 0,
        "losses": 0,
        "batch_id": None,
        "cmd_no": None,
        "waits_for": None,
        "first_error": None,
        "last_error": None,
        "headers": None,
        "cancel_requested": False,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("c-1", "C-1", id="case"),
        pytest.param("é", "e", id="accent"),
        pytest.param("é", "e\N{COMBINING ACUTE ACCENT}", id="normal form"),
        pytest.param(" c-1", "c-1", id="leading space"),
        pytest.param("straße", "strasse", id="sharp s"),
        pytest.param("c%", "c-", id="wildcard"),
    ],
)
def test_keys_that_differ_at_all_are_different_keys(engine: Engine, one: str, other: str) -> None:
    """A key is the application's own and is compared byte by byte."""
    _insert(engine, "link", entity_key=one)
    _insert(engine, "link", entity_key=other)

    with reading(engine) as connection:
        found = connection.scalars(
            select(tables.link.c.entity_key).where(tables.link.c.entity_key == one)
        ).all()

    assert found == [one]


def test_every_plane_of_unicode_comes_back_from_keys_and_fields(engine: Engine) -> None:
    """Nothing is cut, replaced or escaped on the way, and JSON stays readable in the table."""
    _insert(
        engine,
        "outbox",
        operation="add",
        entity_key=EVERY_PLANE,
        fields={EVERY_PLANE: [EVERY_PLANE]},
    )

    with reading(engine) as connection:
        key, fields = connection.execute(
            select(tables.outbox.c.entity_key, tables.outbox.c.fields)
        ).one()

    assert key == EVERY_PLANE
    assert fields == {EVERY_PLANE: [EVERY_PLANE]}


def test_the_longest_keys_fit_everywhere(engine: Engine) -> None:
    """Lengths count characters, four bytes each, and every index can hold them."""
    longest = {"portal": "😀" * 64, "kind": "😀" * 64, "entity_key": "😀" * 190}

    _insert(engine, "outbox", **longest)
    _insert(engine, "link", **longest)

    with reading(engine) as connection:
        assert connection.scalar(select(tables.outbox.c.entity_key)) == "😀" * 190


def test_decimals_in_json_keep_every_digit(engine: Engine) -> None:
    """Money written by another program as a JSON number is not rounded to a float."""
    with writing(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO b24sync_outbox (kind, entity_key, operation, fields) "
                "VALUES ('deal', 'd-1', 'add', :fields)"
            ),
            {"fields": '{"opportunity": 12345678901234567.89, "n": 3}'},
        )

    with reading(engine) as connection:
        fields = connection.scalar(select(tables.outbox.c.fields))

    assert fields == {"opportunity": Decimal("12345678901234567.89"), "n": 3}


def test_none_as_a_document_is_an_empty_column(engine: Engine) -> None:
    """A JSON null would pass for a document in every IS NULL."""
    _insert(engine, "outbox", fields=None, params=None)

    with reading(engine) as connection:
        empty = connection.scalar(select(tables.outbox.c.fields.is_(None)))

    assert empty


def test_json_is_stored_as_text_that_people_can_read(engine: Engine) -> None:
    """An operator looks into the table with a plain client."""
    _insert(engine, "outbox", operation="add", fields={"name": "Ёлка"})

    with reading(engine) as connection:
        stored = connection.scalar(text("SELECT CAST(fields AS CHAR(40)) FROM b24sync_outbox"))

    assert json.loads(str(stored)) == {"name": "Ёлка"}
    assert "Ёлка" in str(stored)
