"""Celery's workers killed at any moment: nothing is lost, nothing made twice, and no doubt is left."""

import random
from collections import Counter
from collections.abc import Iterator
from threading import Event

import pytest

from b24sync import Change, enqueue_many
from b24sync.edge.database import writing
from tests.whole.conftest import SetUp
from tests.whole.readings import held
from tests.whole.stage import Stack, Stage, end, wait_until

WORKERS = ("one", "two", "three")
IMPATIENT = {
    "B24SYNC_LEASE_S": "1",
    "B24SYNC_RECOVER_S": "0.5",
    "B24SYNC_REQUEST_TIMEOUT_S": "2",
    "B24SYNC_QUIET_MARGIN_S": "1",
}
SERVER_MAX_S = 2
QUIET_S = SERVER_MAX_S + 1


@pytest.mark.parametrize(
    ("rows", "kills"),
    [
        pytest.param(1_000, 4, id="short"),
        pytest.param(50_000, 100, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
def test_killed_workers_lose_nothing_and_make_nothing_twice(
    set_up: SetUp, stack: Stack, rows: int, kills: int
) -> None:
    """Everything ends by itself in one final result; what was in doubt is looked for."""
    stage = set_up(IMPATIENT, latency_s=0.02)
    stage.prepare()
    stage.limit_requests(SERVER_MAX_S)
    with writing(stage.engine) as connection:
        enqueue_many(connection, adds(rows))

    kill_at_random(stage, stack, kills)
    wait_until(lambda: is_over(stage), within_s=120, what=stage.report)

    finals = stage.rows("SELECT entity_key, outcome FROM b24sync_result WHERE final")
    ends = Counter(f"company:{row['entity_key']}" for row in finals)
    assert {row["outcome"] for row in finals} == {"applied"}
    assert (len(ends), max(ends.values())) == (rows, 1)
    assert set(held(stage)) == set(ends)
    assert stage.number("SELECT count(*) FROM b24sync_batch WHERE closed_at IS NULL") == 0


def adds(rows: int) -> Iterator[Change]:
    """Records that would be made twice if a request were repeated blindly."""
    for number in range(rows):
        yield Change("company", f"k-{number}", "add", fields={"title": f"Имя {number}"})


def kill_at_random(stage: Stage, stack: Stack, kills: int) -> None:
    """Kill one of three workers with its children, again and again, and start another."""
    dice = random.Random(kills)  # noqa: S311 - chance, not cryptography
    stage.work(*WORKERS, pool=stack.pool)
    for _ in range(kills):
        Event().wait(dice.uniform(0.3, 1.2))
        name = dice.choice(WORKERS)
        victim = next(one for one in stage.started if one.name == name)
        end(victim)
        stage.started.remove(victim)
        stage.start_worker(name, pool=stack.pool)


def is_over(stage: Stage) -> bool:
    """Whether nothing is left; a look that was interrupted is repeated now and not in a minute."""
    stage.hurry(QUIET_S)
    return stage.number("SELECT count(*) FROM b24sync_outbox") == 0
