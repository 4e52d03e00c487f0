"""The outbox as a public interface: a row of plain SQL arrives, and one rolled back never was."""

import os
import shutil
import subprocess
from collections.abc import Mapping

import pytest
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from b24sync import Change, enqueue
from b24sync.edge.tables import outbox
from tests.whole.conftest import SetUp
from tests.whole.readings import held
from tests.whole.stage import Clock, Stack, Stage

ROW = """
INSERT INTO b24sync_outbox (kind, entity_key, operation, fields)
VALUES ('company', '{key}', 'upsert', '{{"title": "{title}", "ufCrmRooms": [1, 2]}}');
"""
KEPT = ROW.format(key="плоская-1", title="Plain Ünï · 中文 · 🏛️")
UNDONE = "BEGIN;" + ROW.format(key="undone-1", title="Never was") + "ROLLBACK;"


def test_what_a_database_client_commits_arrives_and_what_it_undoes_does_not(
    set_up: SetUp, stack: Stack
) -> None:
    """A plain INSERT is a change; a transaction rolled back, by a client or here, sends nothing."""
    clock = Clock(f"plain sql, {stack.backend}")
    stage = set_up()
    stage.prepare()
    stage.work("one", pool=stack.pool)

    in_the_client(stage, UNDONE)
    undone_here(stage)
    in_the_client(stage, KEPT)
    stage.wait_empty(within_s=30)
    stage.stop()

    assert held(stage) == {
        "company:плоская-1": {
            "originatorId": "b24sync",
            "originId": "company:плоская-1",
            "title": "Plain Ünï · 中文 · 🏛️",
            "UF_CRM_ROOMS": ["1", "2"],
        }
    }
    assert [c["ok"] for c in stage.portal("journal")] == [True]
    results = stage.rows("SELECT entity_key, outcome, attempt FROM b24sync_result")
    assert results == [{"entity_key": "плоская-1", "outcome": "applied", "attempt": 1}]
    clock.lap("all")


def undone_here(stage: Stage) -> None:
    """Write a change in a transaction of an application, and undo it."""
    change = Change("company", "undone-2", "upsert", fields={"title": "Never was"})
    with Session(stage.engine) as session:
        enqueue(session, change)
        assert session.execute(select(outbox.c.id)).first() is not None
        session.rollback()


def in_the_client(stage: Stage, script: str) -> None:
    """Run a script in the database's own command-line client."""
    url = stage.engine.url
    command, secret = client_of(url)
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} on this host")
    done = subprocess.run(  # noqa: S603 - the arguments are written in this file
        command,
        input=script,
        env=os.environ | secret,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def client_of(url: URL) -> tuple[list[str], Mapping[str, str]]:
    """The command line of a client, and the variables that its password goes in."""
    place = [str(url.host), str(url.port), str(url.username), str(url.database)]
    host, port, user, name = place
    password = str(url.password or "")
    match url.get_backend_name():
        case "postgresql":
            command = ["psql", "--quiet", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port]
            return [*command, "-U", user, "-d", name], {"PGPASSWORD": password}
        case "mysql" | "mariadb":
            command = ["mariadb", "--default-character-set=utf8mb4", "-h", host, "-P", port]
            return [*command, "-u", user, name], {"MYSQL_PWD": password}
        case _:
            return ["sqlite3", "-bail", "-cmd", ".timeout 10000", name], {}
