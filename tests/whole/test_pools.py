"""Threads and greenlets: HTTP is waited for together, with one connection to the database for each."""

from importlib.util import find_spec

import pytest

from b24sync import Change, enqueue_many
from b24sync.edge.database import writing
from tests.whole.conftest import SetUp
from tests.whole.stage import STACKS

ROWS = 160
SLOTS = 4
LATENCY_S = 0.3

is_there = pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")


@pytest.mark.parametrize(
    "stack",
    [STACKS["postgresql-rabbitmq"], STACKS["mariadb-redis"]],
    ids=["postgresql", "mariadb"],
    indirect=True,
)
@pytest.mark.parametrize("pool", ["threads", pytest.param("gevent", marks=is_there)])
def test_one_process_has_several_requests_in_flight(set_up: SetUp, pool: str) -> None:
    """All rows end applied, each once and in the order of its entity, and nothing is complained of."""
    stage = set_up(latency_s=LATENCY_S)
    stage.prepare()
    stage.command("portal", "set", "default", "--shards", f"{SLOTS}")
    with writing(stage.engine) as connection:
        enqueue_many(
            connection,
            (
                Change(
                    "company",
                    f"c-{number % 40}",
                    "upsert",
                    {"title": f"c-{number % 40}", "comments": f"{number}"},
                    mergeable=False,
                )
                for number in range(ROWS)
            ),
        )

    stage.start_worker("one", "-c", f"{SLOTS}", pool=pool)
    stage.start_beat()
    stage.wait_empty(within_s=60)
    stage.stop()

    last: dict[str, int] = {}
    for command in stage.portal("journal"):
        fields = command["params"]["fields"]
        title, number = fields["title"], int(fields["comments"])
        assert number > last.get(title, -1)
        last[title] = number
    assert len(stage.portal("journal")) == ROWS
    assert stage.number("SELECT count(*) FROM b24sync_result WHERE outcome = 'applied'") == ROWS
    overlapping = (
        "SELECT count(*) FROM b24sync_batch AS one JOIN b24sync_batch AS other ON one.id < other.id "
        "AND other.sending_at < one.answered_at AND one.sending_at < other.answered_at"
    )
    assert stage.number(overlapping) > 0
