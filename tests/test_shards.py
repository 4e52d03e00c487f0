"""Several requests in flight: slow answers do not waste a portal's rate, and order holds."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete, insert

from b24sync.core.shards import shard_of
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.world import Moment, Step
from tests.benchmarks.shards import is_in_order, measured
from tests.fakes import ScriptedPortal
from tests.house import Clerk, add_row, change, endings, time_passes, world_of


def test_two_shards_use_a_rate_that_one_cannot(server_engine: Engine) -> None:
    """Answers take twice as long as the rate leaves between two requests."""
    speeds: list[float] = []
    for shards in (1, 2):
        speed, done = measured(
            server_engine, shards=shards, workers=2, requests=24, latency_s=0.5, rate=4.0
        )
        assert len(done) == 24
        assert is_in_order(done)
        speeds.append(speed)
        with writing(server_engine) as connection:
            for table in reversed(tables.metadata.sorted_tables):
                connection.execute(delete(table))

    assert speeds[0] <= 2.0
    assert speeds[1] > 1.4 * speeds[0]


class _Gone(Exception):  # noqa: N818 - a worker that is there no more
    """A worker went away."""


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
def test_a_worker_that_dies_as_it_rings_for_other_lanes_costs_nothing_but_time(
    house: Engine, moment: Moment
) -> None:
    """Whoever comes next takes both lanes, and each row ends once."""
    change(house, tables.portal, {"shards": 2}, code="default")
    keys = [f"k{number}" for number in range(12)]
    with writing(house) as connection:
        connection.execute(insert(tables.lane), {"portal": "default", "lane": 1})
        ids = [
            add_row(connection, key, lane=shard_of("contact", key, 2), operation="add")
            for key in keys
        ]
    world = world_of(house, ScriptedPortal([Clerk()] * 20), batch_size=2)

    def gone(step: Step, told: Moment) -> None:
        if (step, told) == (Step.RING, moment):
            raise _Gone

    with pytest.raises(_Gone):
        drain(replace(world, telling=gone), Order())
    time_passes(house)
    drain(replace(world, settings=replace(world.settings, slice_batches=50)), Order())

    assert endings(house) == {row_id: ["applied"] for row_id in ids}
