"""Real files go through ``load`` and through workers into a portal, on each set of servers."""

from collections import Counter

import pytest

from tests.whole.conftest import SetUp
from tests.whole.files import Loading, entries, last_of_each, repeated
from tests.whole.readings import held
from tests.whole.stage import Clock, Stack, Stage

pytestmark = pytest.mark.timeout(300)


def test_every_line_of_real_files_arrives_once_and_in_full_batches(
    set_up: SetUp, files: tuple[Loading, ...], stack: Stack
) -> None:
    """Each row has one final result, the portal holds what the files say, and batches are full.

    Lines of the same key wait together, so they go as one.
    """
    clock = Clock(f"files, {stack.backend}")
    stage = set_up()
    stage.prepare()
    clock.lap("preparing")
    every = [entry for loading in files for entry in entries(loading)]

    for loading in files:
        stage.command("load", *loading.options)
    clock.lap("loading", len(every))
    stage.work(*stack.workers, pool=stack.pool)
    stage.wait_empty(within_s=90)
    clock.lap("working", len(every))
    stage.stop()
    clock.lap("stopping")

    entities = len(last_of_each(every))
    assert final_results(stage) == {"applied": entities, "merged": len(every) - entities}
    assert stage.number("SELECT count(*) FROM b24sync_dead") == 0
    assert held(stage) == last_of_each(every)
    assert_batches_are_full(stage, entities)
    methods = Counter(command["method"] for command in stage.portal("journal"))
    assert methods.keys() == {"crm.item.add", "crm.item.import"}
    assert len(repeated(every)) > 0
    clock.lap("comparing")


def final_results(stage: Stage) -> dict[str, int]:
    """The final results by outcome, after making sure that no row has two or another sort."""
    results = stage.rows("SELECT outbox_id, outcome, final FROM b24sync_result")
    assert all(result["final"] for result in results)
    assert max(Counter(result["outbox_id"] for result in results).values()) == 1
    return dict(Counter(result["outcome"] for result in results))


def assert_batches_are_full(stage: Stage, commands: int) -> None:
    """One lane, so one batch after another, however many workers; only the last may not be full."""
    sizes = [50] * (commands // 50) + ([commands % 50] if commands % 50 else [])
    received = stage.portal("requests")
    assert {(r["method"], r["status"], r["code"]) for r in received} == {("batch", 200, "")}
    assert [request["commands"] for request in received] == sizes
    journalled = stage.rows("SELECT n_commands FROM b24sync_batch ORDER BY id")
    assert [batch["n_commands"] for batch in journalled] == sizes
