"""What is known of methods' time comes back as it was written, portal by portal."""

import pytest
from sqlalchemy import Engine

from b24sync.core.pacing import MethodPace, Rules
from b24sync.edge import budgets, tables
from b24sync.edge.database import reading, writing
from b24sync.edge.tenants import tenant
from tests.house import add_portal, change, database_now, one, rows_of

KNOWN = MethodPace(
    cost_s=0.25,
    spread_s=0.125,
    baskets=((1_790_000_000_000, 1_500), (1_790_000_060_000, 250)),
    limit_s=420.5,
    blocked_until_ms=1_790_000_600_000,
    max_bytes=5_000,
    found_ms=1_790_000_000_001,
)


def test_what_was_learned_is_read_as_it_was_written(engine: Engine) -> None:
    """A later word replaces an earlier one; another portal, or credential, knows nothing of it."""
    add_portal(engine)
    add_portal(engine, "other")
    with writing(engine) as connection:
        of, other = tenant(connection, "default"), tenant(connection, "other")
        budgets.remember(connection, of, {"b": MethodPace(cost_s=1.0), "a": KNOWN})
        budgets.remember(connection, of, {"b": KNOWN})
        budgets.remember(connection, other, {})
    change(engine, tables.method_budget, {"updated_at": 5})

    with reading(engine) as connection:
        pace = budgets.read_pace(connection, of, Rules(method_s=None))
        others = budgets.read_pace(connection, other)

    assert pace is not None
    assert others is not None
    assert pace.methods == {
        name: MethodPace(**{f: getattr(KNOWN, f) for f in KNOWN.__slots__} | {"updated_ms": 5})
        for name in ("a", "b")
    }
    assert pace.rules == Rules(method_s=None)
    assert (others.methods, others.now_ms > 0) == ({}, True)


def test_people_find_what_is_used_and_when_it_comes_back(engine: Engine) -> None:
    """The columns say in words of their own what the baskets hold."""
    add_portal(engine)
    with writing(engine) as connection:
        budgets.remember(connection, tenant(connection, "default"), {"m": KNOWN})

    row = one(engine, tables.method_budget)

    assert (row["operating_s"], row["reset_at"]) == (1.75, 1_790_000_600_000)
    assert abs(row["updated_at"] - database_now(engine)) < 60_000


def test_a_portal_that_was_stopped_has_no_pace(engine: Engine) -> None:
    """What is known of it can be looked at all the same; of one that is gone, nothing."""
    add_portal(engine)
    with writing(engine) as connection:
        of = tenant(connection, "default")
        budgets.remember(connection, of, {"m": KNOWN})
    change(engine, tables.portal, {"state": "paused", "state_reason": "a test"})

    with reading(engine) as connection:
        assert budgets.read_pace(connection, of) is None
        assert list(budgets.known_pace(connection, of).methods) == ["m"]
    with writing(engine) as connection:
        connection.execute(tables.portal.delete())
        assert budgets.read_pace(connection, of) is None
        assert budgets.known_pace(connection, of).methods == {}


@pytest.mark.parametrize("spoiled", [None, 7, {"a": 1}, [[1, 2], 3, ["x", "y"]]])
def test_baskets_that_make_no_sense_are_none(engine: Engine, spoiled: object) -> None:
    """Somebody else may write into the table; the lane goes on."""
    add_portal(engine)
    with writing(engine) as connection:
        of = tenant(connection, "default")
        budgets.remember(connection, of, {"m": KNOWN})
    change(engine, tables.method_budget, {"baskets": spoiled})

    with reading(engine) as connection:
        pace = budgets.known_pace(connection, of)

    assert pace.of("m").baskets in {(), ((1, 2),)}
    assert len(rows_of(engine, tables.method_budget)) == 1
