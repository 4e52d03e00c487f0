"""Several requests in flight: slow answers do not waste a portal's rate, and order holds."""

from sqlalchemy import Engine, delete

from b24sync.edge import tables
from b24sync.edge.database import writing
from tests.benchmarks.shards import is_in_order, measured


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
