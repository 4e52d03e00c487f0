"""The rate of a portal: what refusals teach, what is left to people, and who rings when there is room."""

import pytest
from sqlalchemy import Engine

from b24sync.core.limits import Bucket, Lesson, Rate, believed, room
from b24sync.edge import rates, tables, tenants
from b24sync.edge.database import EGRESS_GROUP, transact, writing
from b24sync.edge.tenants import Tenant
from tests.house import add_portal, change, database_now, one, rows_of, taken


def _tenant(engine: Engine) -> Tenant:
    with writing(engine) as connection:
        return tenants.tenant(connection, "default")


def _spend(engine: Engine, of: Tenant) -> int:
    return transact(engine, lambda connection: rates.spend(connection, of))


def test_a_single_refusal_fills_and_further_ones_teach(engine: Engine) -> None:
    """The second takes a quarter of the figures; how full the bucket is follows what is believed."""
    add_portal(engine, rate_x=40, rate_y=0.02)
    of = _tenant(engine)
    _spend(engine, of)

    with writing(engine) as connection:
        rates.fill(connection, of)
    first = one(engine, tables.bucket)
    a_while = first["taught_at"] - 60_000
    change(engine, tables.bucket, {"taught_at": a_while, "updated_at": a_while, "level": 3.0})
    with writing(engine) as connection:
        rates.fill(connection, of)
        rates.fill(connection, of)
    after = one(engine, tables.bucket)

    assert (first["level"], first["taught_x"], first["refusals"]) == (40, 40, 1)
    assert (after["level"], after["taught_x"], after["taught_y"]) == (
        pytest.approx(30, abs=0.1),
        30,
        pytest.approx(0.015),
    )
    assert after["refusals"] == 3
    assert after["refused_at"] >= after["taught_at"] > a_while
    assert 0 < _spend(engine, of) <= 66_667


def test_a_refusal_of_a_portal_without_a_bucket_is_nothing_to_write(engine: Engine) -> None:
    """The row comes with the first request that is counted."""
    add_portal(engine)
    of = _tenant(engine)

    with writing(engine) as connection:
        rates.fill(connection, of)

    assert rows_of(engine, tables.bucket) == []


@pytest.mark.parametrize(
    ("level", "ago_ms", "lesson", "reserve", "with_people", "fits"),
    [
        # 30 of 40 are believed, and three minutes bring twelve back: all of the plan.
        (28.0, 0, (30.0, 0.015, 0), 0.0, False, True),
        (32.0, 0, (30.0, 0.015, 0), 0.0, False, False),
        (38.0, 0, (30.0, 0.015, 180_000), 0.0, False, True),
        (39.5, 0, (30.0, 0.015, 180_000), 0.0, False, False),
        # One minute: four.
        (32.5, 0, (30.0, 0.015, 60_000), 0.0, False, True),
        (36.0, 0, (30.0, 0.015, 60_000), 0.0, False, False),
        # A clock that went back brings nothing back, and nothing leaks.
        (29.5, -60_000, (30.0, 0.015, -60_000), 0.0, False, False),
        # It leaks as is believed: 1.5 in 100 s, and not 2.
        (40.4, 100_000, (40.0, 0.015, 3_000), 0.0, False, True),
        (41.0, 100_000, (40.0, 0.015, 3_000), 0.0, False, False),
        # Taught under another plan, it is at least a tenth of this one's, and one request.
        (0.0, 0, (0.5, 0.0001, 0), 0.0, False, True),
        (1.0, 600_000, (0.5, 0.0001, 0), 0.0, False, True),
        (3.0, 300_000, (0.5, 0.0001, 0), 0.0, False, False),
        # Reserves count from what is believed, and one request fits an empty bucket.
        (24.0, 0, (30.0, 0.015, 0), 5.0, False, True),
        (27.0, 0, (30.0, 0.015, 0), 5.0, False, False),
        (21.0, 0, (30.0, 0.015, 0), 5.0, True, True),
        (24.0, 0, (30.0, 0.015, 0), 5.0, True, False),
        (0.0, 0, (4.0, 0.015, 0), 5.0, True, True),
        (35.5, 0, None, 0.0, True, True),
        (36.5, 0, None, 0.0, True, False),
    ],
)
def test_what_was_taught_and_what_is_left_free_are_one_in_table_and_value(  # noqa: PLR0913 - a case
    engine: Engine,
    level: float,
    ago_ms: int,
    lesson: tuple[float, float, int] | None,
    reserve: float,
    *,
    with_people: bool,
    fits: bool,
) -> None:
    """The guarded UPDATE decides as the core does, and tells the core's wait."""
    add_portal(engine, rate_x=40, rate_y=0.02)
    of, kept = _tenant(engine), 3.0
    now = database_now(engine)
    taught: dict[str, object] = {}
    learned = None
    if lesson is not None:
        x, y, taught_ago_ms = lesson
        taught = {"taught_x": x, "taught_y": y, "taught_at": now - taught_ago_ms}
        learned = Lesson(x=x, y=y, at_ms=now - taught_ago_ms, refusals=2)
    with writing(engine) as connection:
        connection.execute(
            tables.bucket.insert().values(
                portal="default",
                egress_group="default",
                level=level,
                updated_at=now - ago_ms,
                people_at=now - 1_000 if with_people else now - rates.PEOPLE_MS - 1,
                refusals=2,
                **taught,
            )
        )

    def wait_at(now_ms: int) -> int:
        plan = believed(Rate(x=40, y=0.02), learned, now_ms)
        free = reserve + (kept if with_people else 0)
        value = Bucket(
            level=level,
            capacity=room(plan.x, free),
            leak_per_s=plan.y,
            updated_at_ms=now - ago_ms,
        )
        return value.wait_ms(now_ms)

    with writing(engine) as connection:
        wait_ms = rates.spend(connection, of, reserve=reserve, kept=kept)

    assert (wait_at(now) == 0) is fits
    assert (wait_ms == 0) is fits
    if not fits:
        assert wait_at(database_now(engine)) <= wait_ms <= wait_at(now)


def test_a_person_who_must_wait_has_room_the_next_time(engine: Engine) -> None:
    """Workers leave it from then on, for ten minutes; nobody has to have come through for that."""
    add_portal(engine, rate_x=5, rate_y=0.001)
    of = _tenant(engine)

    def work() -> int:
        with writing(engine) as connection:
            return rates.spend(connection, of, kept=2)

    def call() -> int:
        with writing(engine) as connection:
            return rates.spend(connection, of, by_person=True)

    alone = [work() == 0 for _ in range(6)]
    refused = call()
    change(engine, tables.bucket, {"level": 0.0})
    beside = [work() == 0 for _ in range(4)]
    people = [call() == 0 for _ in range(3)]
    change(engine, tables.bucket, {"level": 0.0, "people_at": 0})
    afterwards = [work() == 0 for _ in range(6)]

    assert alone == [True] * 5 + [False]
    assert refused > 0
    assert beside == [True, True, True, False]
    assert people == [True, True, False]
    assert afterwards == [True] * 5 + [False]


def test_a_person_may_be_the_first_to_call(engine: Engine) -> None:
    """The row is brought, and says that people call."""
    add_portal(engine)
    of = _tenant(engine)

    with writing(engine) as connection:
        wait_ms = rates.spend(connection, of, by_person=True)

    assert wait_ms == 0
    assert one(engine, tables.bucket)["people_at"] > 0


def test_workers_behind_another_address_have_a_bucket_of_their_own(engine: Engine) -> None:
    """What the process says of itself wins over what the portal's row says."""
    add_portal(engine, rate_x=2, rate_y=0.001, egress_group="office")
    elsewhere = engine.execution_options(**{EGRESS_GROUP: "cloud-7"})

    here = [_spend(engine, _tenant(engine)) == 0 for _ in range(3)]
    there = [_spend(elsewhere, _tenant(elsewhere)) == 0 for _ in range(3)]

    assert here == there == [True, True, False]
    groups = [row["egress_group"] for row in rows_of(engine, tables.bucket)]
    assert groups == ["cloud-7", "office"]
    change(engine, tables.lane, {"next_due_at": 0})
    assert taken(elsewhere).tenant.egress_group == "cloud-7"


def test_one_of_many_rings_for_a_portal(engine: Engine) -> None:
    """Until the time that it undertook it for; and each address has its own."""
    add_portal(engine)
    of = _tenant(engine)
    _spend(engine, of)

    def may_ring(group: str = "default") -> bool:
        with writing(engine) as connection:
            return rates.may_ring(connection, "default", group, in_ms=60_000)

    first = [may_ring() for _ in range(3)]
    ring_at = one(engine, tables.bucket)["ring_at"]
    change(engine, tables.bucket, {"ring_at": database_now(engine)})
    again = [may_ring() for _ in range(2)]

    assert first == [True, False, False]
    assert 50_000 < ring_at - database_now(engine) <= 60_000
    assert again == [True, False]
    assert may_ring("elsewhere") is False
