"""Whatever is merged, retried, spared or held: the portal ends as if each change went alone."""

import os
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, delete, update

from b24sync.core.model import HaltMode
from b24sync.core.policies import Policy
from b24sync.core.shards import shard_of
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.world import World
from tests.histories import (
    PLAIN,
    SEQUENCE,
    EmulatedPortal,
    Entity,
    Oracle,
    Step,
    records_of,
    steps,
)
from tests.house import (
    add_portal,
    add_row,
    endings,
    in_threads,
    rows_of,
    time_passes,
    world_of,
)

SEED = "B24SYNC_TEST_SEED"
"""The number of one history, to see that one again."""

MOST_DRAINS = 400
TOLD = (*PLAIN, SEQUENCE, "companyId")


def seeds(count: int) -> range:
    """So many histories, or the one that is asked for."""
    one = os.environ.get(SEED)
    return range(count) if one is None else range(int(one), int(one) + 1)


def test_histories_end_as_if_each_change_went_alone(engine: Engine) -> None:
    """A hundred of them on each database, merged or not, in every halt mode but strict."""
    for seed in seeds(100):
        live(engine, seed)


@pytest.mark.parametrize("seed", [22113, 40752])
def test_what_was_lost_as_one_is_said_again_as_one(engine: Engine, seed: int) -> None:
    """Two histories in which an older value came back for a moment: the later row had a delay of its own."""
    live(engine, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_histories_end_as_if_each_change_went_alone(engine: Engine) -> None:
    """The same, for a long time."""
    for seed in seeds(3400):
        live(engine, seed)


@pytest.mark.parametrize("workers", [2, 3])
def test_histories_over_several_lanes_end_as_if_each_change_went_alone(
    engine: Engine, workers: int
) -> None:
    """Rows of one entity in whichever lanes, drained by several workers at the same time."""
    for seed in seeds(10):
        live(engine, seed, workers=workers)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_histories_over_several_lanes(engine: Engine) -> None:
    """The same, for a long time."""
    for seed in seeds(1000):
        live(engine, seed, workers=2 + seed % 3)


def live(engine: Engine, seed: int, *, workers: int = 1) -> None:
    """One history, from its seed to the comparison; with several workers, in several lanes."""
    random = Random(seed)  # noqa: S311 - a history that can be repeated, not a secret
    history = steps(random)
    portal = EmulatedPortal(random, history, trouble=random.choice((0.0, 0.1, 0.3)))
    mode = random.choice((HaltMode.INDEPENDENT, HaltMode.CHAIN))
    merge, skip = random.random() < 0.6, random.random() < 0.3
    world = world_of(
        engine,
        portal,
        webhook_url="https://portal.example/rest/1/sandbox-secret/",
        batch_size=random.choice((1, 2, 3, 5, 50)),
        policies={"*": Policy(merge=merge, skip_unchanged=skip)},
        max_attempts=1000,
    )
    about = f"seed {seed} ({mode}, {merge=}, {skip=}); set {SEED}={seed} to see it again"
    add_portal(engine)
    numbers = _write_and_drain(world, history, random, mode, about, workers)
    _compare(engine, portal, history, numbers, about)
    _forget_all(engine)


def _write_and_drain(
    world: World,
    history: Sequence[Step],
    random: Random,
    mode: HaltMode,
    about: str,
    workers: int,
) -> dict[int, int]:
    """Write the steps some at a time, and drain in between; the steps by the ids of their rows."""
    pick = _Lanes(random, workers)
    numbers: dict[int, int] = {}
    order, done = Order(halt=mode), 0
    while done < len(history):
        some = history[done : done + random.randint(1, 12)]
        done += len(some)
        with writing(world.engine) as connection:
            for step in some:
                row = step.row
                row |= pick.lane_of(*step.entity)
                numbers[add_row(connection, row.pop("entity_key"), **row)] = step.number
        if random.random() < 0.7:
            _much_time_passes(world.engine)
            _drain(world, order, workers)
    for _ in range(MOST_DRAINS):
        _much_time_passes(world.engine)
        _drain(world, order, workers)
        if not rows_of(world.engine, tables.outbox):
            return numbers
    left = [(row["entity_key"], row["state"]) for row in rows_of(world.engine, tables.outbox)]
    pytest.fail(f"{about}: still there: {left}")


class _Lanes:
    """Where rows are written: by a number of lanes that changes on the way, or anywhere."""

    def __init__(self, random: Random, workers: int) -> None:
        self._random = random
        self._several = workers > 1

    def lane_of(self, kind: str, key: str) -> Mapping[str, int]:
        """The lane of the next row, as columns."""
        if not self._several:
            return {}
        number = self._random.randint(1, 4)
        by_hash = shard_of(kind, key, number)
        return {"lane": by_hash if self._random.random() < 0.5 else self._random.randrange(number)}


def _drain(world: World, order: Order, workers: int) -> None:
    """As long as somebody finds something to do."""
    if workers == 1:
        drain(world, order)
        return

    def work() -> None:
        while drain(world, order).requests:
            pass

    in_threads([work] * workers, within_s=60)


def _much_time_passes(engine: Engine) -> None:
    """Whoever was asked and never answered has surely stopped working on it, too."""
    with writing(engine) as connection:
        connection.execute(
            update(tables.batch).where(tables.batch.c.state == "doubt").values(quiet_until=0)
        )
        connection.execute(
            update(tables.outbox).where(tables.outbox.c.state == "doubt").values(due_at=0)
        )
    time_passes(engine)


def _compare(
    engine: Engine,
    portal: EmulatedPortal,
    history: Sequence[Step],
    numbers: Mapping[int, int],
    about: str,
) -> None:
    oracle = Oracle()
    for step in history:
        oracle.apply(step)
    ended = {numbers[row_id]: outcomes for row_id, outcomes in endings(engine).items()}
    assert ended.keys() == set(numbers.values()), about
    assert all(len(outcomes) == 1 for outcomes in ended.values()), about
    failed = {number for number, outcomes in ended.items() if outcomes == ["failed"]}
    # What a delete has overtaken is not judged any more; all else fails exactly where it would alone.
    overtaken = {step.number for step in history if _is_overtaken(step, history, ended)}
    assert failed - overtaken == oracle.failed - overtaken, about
    assert _held_by(engine, portal) == _wanted(engine, oracle), about
    _check_order(portal, about)


def _is_overtaken(step: Step, history: Sequence[Step], ended: Mapping[int, Sequence[str]]) -> bool:
    """Whether a change went away with a delete of its entity, or is that delete."""
    if ended[step.number] not in (["merged"], ["unchanged"]):
        return False
    return any(
        later.entity == step.entity and later.operation == "delete"
        for later in history
        if later.number >= step.number
    )


def _held_by(engine: Engine, portal: EmulatedPortal) -> dict[Entity, dict[str, Any]]:
    """What the portal holds, by the entity that each record is linked to."""
    entities = {
        (link["kind"], link["remote_id"]): (link["kind"], link["entity_key"])
        for link in rows_of(engine, tables.link, state="present")
    }
    held: dict[Entity, dict[str, Any]] = {}
    for kind, number, record in records_of(portal.portal):
        entity = entities.pop((kind, f"{number}"), (kind, f"record {number} of nobody"))
        held[entity] = {name: record.get(name) for name in TOLD if record.get(name)}
        phones = sorted(row["value"] for row in record.get("fm") or ())
        if phones:
            held[entity]["phones"] = phones
    for kind, remote_id in entities:
        held[kind, f"no record {remote_id}"] = {}
    return held


def _wanted(engine: Engine, oracle: Oracle) -> dict[Entity, dict[str, Any]]:
    ids = {
        (link["kind"], link["entity_key"]): link["remote_id"]
        for link in rows_of(engine, tables.link, state="present")
    }
    wanted: dict[Entity, dict[str, Any]] = {}
    for entity, fields in oracle.records.items():
        told = {name: value for name, value in fields.items() if value}
        if "companyId" in told:
            parent = told["companyId"]["$ref"]
            told["companyId"] = str(ids[parent["kind"], parent["key"]])
        wanted[entity] = told
    return wanted


def _check_order(portal: EmulatedPortal, about: str) -> None:
    """Whatever was executed for a record carries growing numbers, and nothing follows a delete."""
    last: dict[tuple[str, int], float] = {}
    for command in portal.portal.journal.commands:
        if not command.ok or command.id is None or command.method == "crm.item.get":
            continue
        record = (str(command.params["entityTypeId"]), command.id)
        fields = command.params.get("fields")
        before, number = last.get(record, 0.0), float("inf")
        if isinstance(fields, dict):
            number = float(str(fields.get(SEQUENCE, before)))
        assert before < float("inf"), f"{about}: {command}"
        assert number >= before, f"{about}: {command}"
        last[record] = number


def _forget_all(engine: Engine) -> None:
    with writing(engine) as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))
