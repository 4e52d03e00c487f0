"""Operators and time limits that end a task in the middle of a request: as a crash."""

import pytest
from celery import Celery

from b24sync import Change, enqueue
from b24sync.edge.database import writing
from tests.whole.conftest import SetUp
from tests.whole.readings import held
from tests.whole.stage import STACKS, Stage, wait_until

ROWS = 3
LATE_S = 2.0
IMPATIENT = {
    "B24SYNC_LEASE_S": "0.5",
    "B24SYNC_RECOVER_S": "0.5",
    "B24SYNC_REQUEST_TIMEOUT_S": "3",
    "B24SYNC_QUIET_MARGIN_S": "0.5",
}
SERVER_MAX_S = 3
SYNC = "b24sync.sync_entities"

on_prefork = pytest.mark.parametrize("stack", [STACKS["postgresql-rabbitmq"]], indirect=True)


@on_prefork
def test_a_hard_time_limit_is_a_crash_like_any_other(set_up: SetUp) -> None:
    """Operator or time limit kills the task: the portal finishes alone, and its records are found."""
    stage = _at_work(set_up, "--time-limit", "1")
    _wait_for(stage, "Hard time limit")

    _assert_found(stage)


@on_prefork
def test_a_task_that_an_operator_revokes_is_a_crash_like_any_other(
    set_up: SetUp, broker_url: str
) -> None:
    """Operator or time limit kills the task: revoked with SIGKILL while the portal works."""
    stage = _at_work(set_up)
    with Celery("operator", broker=broker_url, set_as_current=False) as app:
        name = f"one-{stage.environment['B24SYNC_QUEUE']}"
        running = [
            task["id"]
            for worker, tasks in (app.control.inspect(timeout=5.0, limit=1).active() or {}).items()
            for task in tasks
            if task["name"] == SYNC and worker.startswith(name)
        ]
        app.control.revoke(running, terminate=True, signal="SIGKILL")
    _wait_for(stage, "Terminating")

    assert running
    _assert_found(stage)


def _at_work(set_up: SetUp, *options: str) -> Stage:
    """A worker whose request was carried out, and that waits for the answer."""
    stage = set_up(IMPATIENT)
    stage.prepare()
    stage.limit_requests(SERVER_MAX_S)
    stage.trouble([{"action": "slow", "executed": True, "delay_s": LATE_S}])
    with writing(stage.engine) as connection:
        for number in range(ROWS):
            enqueue(connection, Change("company", f"k-{number}", "add", fields={"title": "x"}))
    stage.start_worker("one", "-B", "-s", str(stage.home / "schedule"), *options, pool="prefork")
    sending = "SELECT count(*) FROM b24sync_batch WHERE state = 'sending'"
    wait_until(lambda: stage.number(sending) == 1, within_s=20, what=stage.report)
    return stage


def _wait_for(stage: Stage, text: str) -> None:
    (worker,) = stage.started
    wait_until(lambda: text in worker.said, within_s=20, what=stage.report)


def _assert_found(stage: Stage) -> None:
    """Another child finishes; nothing is lost or doubled, and the answer was looked for."""
    done = "SELECT count(*) FROM b24sync_outbox"
    wait_until(lambda: stage.number(done) == 0, within_s=30, what=stage.report)
    stage.stop(quiet=False)
    results = stage.rows("SELECT outcome FROM b24sync_result ORDER BY id")
    assert [row["outcome"] for row in results] == ["unknown"] * ROWS + ["applied"] * ROWS
    assert set(held(stage)) == {f"company:k-{number}" for number in range(ROWS)}
