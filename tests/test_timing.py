"""A lane on a portal that counts time and cuts requests: what goes, what waits, what is learned."""

from collections.abc import Mapping
from itertools import chain, count, repeat
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, event

from b24sync.core.model import HaltMode
from b24sync.drain import Order, Tally, drain
from b24sync.drain.timing import rules_of
from b24sync.edge import tables
from b24sync.edge.database import reading, writing
from b24sync.edge.tenants import tenant
from tests.fakes import Answer, Asked, Line, ScriptedPortal
from tests.house import (
    Clerk,
    add_row,
    add_rows,
    change,
    commands_of,
    database_now,
    one,
    rows_of,
    states,
    time_passes,
    world_of,
)


class TimingClerk:
    """A portal that does everything, and tells what it took and what was used.

    Shape: ``costs_s`` are seconds of a command by method, others take a hundredth of one.
    ``charges_batch``: the request pays, and every command tells its number.
    """

    def __init__(
        self, costs_s: Mapping[str, float], *, now_s: float = 0.0, charges_batch: bool = False
    ) -> None:
        """Begin with nothing used."""
        self.costs_s = dict(costs_s)
        self.now_s = now_s
        self.charges_batch = charges_batch
        self.used: dict[str, float] = {}
        self.ids = count(1)
        self.sizes: list[int] = []

    def __call__(self, asked: Asked) -> Answer:
        """Answer one request."""
        done: dict[str, object] = {}
        times: dict[str, dict[str, float]] = {}
        took_s = 0.0
        commands = commands_of(asked)
        self.sizes.append(len(commands))
        for label, line in commands.items():
            method = line.partition("?")[0]
            cost_s = self.costs_s.get(method, 0.01)
            payer = "batch" if self.charges_batch else method
            self.used[payer] = self.used.get(payer, 0.0) + cost_s
            took_s += cost_s
            done[label] = {"item": {"id": next(self.ids)}}
            times[label] = {"duration": cost_s, **self._told(payer)}
        sections = {"result": done, "result_error": [], "result_time": times}
        outer = {"duration": took_s, **self._told("batch")}
        return Answer(body={"result": sections, "time": outer})

    def _told(self, payer: str) -> dict[str, float]:
        return {
            "finish": self.now_s,
            "operating": self.used.get(payer, 0.0),
            "operating_reset_at": self.now_s + 540.5,
        }


def _call(house: Engine, *keys: str, method: str = "user.add") -> None:
    with writing(house) as connection:
        for key in keys:
            add_row(
                connection,
                key,
                kind="call",
                operation="call",
                method=method,
                fields={},
                params={"NAME": key},
            )


def _keys(number: int) -> list[str]:
    return [f"k{n:03}" for n in range(number)]


def _portal(*script: Line) -> ScriptedPortal:
    return ScriptedPortal(chain(script, repeat(Clerk())))


def test_unknown_commands_begin_with_ten_and_cheap_ones_go_on_with_fifty(house: Engine) -> None:
    """After the first answer every request is full."""
    add_rows(house, *_keys(115))
    clerk = TimingClerk({})

    tally = drain(world_of(house, ScriptedPortal(repeat(clerk)), batch_start=10), Order())

    assert tally.outcomes == {"applied": 115}
    assert clerk.sizes == [10, 50, 50, 5]


def test_dear_commands_stay_in_small_requests_also_for_the_next_worker(house: Engine) -> None:
    """Six seconds each: six fill six tenths of a minute, and the tables remember it."""
    add_rows(house, *_keys(30))
    clerk = TimingClerk({"crm.item.add": 6.0})
    portal = ScriptedPortal(repeat(clerk))

    drain(world_of(house, portal, batch_start=10, slice_batches=2), Order())
    drain(world_of(house, portal, batch_start=10, slice_batches=2), Order())

    assert clerk.sizes == [10, 6, 6, 6]
    assert one(house, tables.method_budget)["cost_s"] == pytest.approx(6.0)


def test_a_request_that_was_cut_is_followed_by_a_smaller_one(house: Engine) -> None:
    """A gateway that gave up says that the batch was too long for it."""
    add_rows(house, *_keys(40))
    clerk = TimingClerk({"crm.item.add": 0.5})
    gone = Answer(body=b"<html>504 Gateway Time-out</html>", status=504)
    world = world_of(house, _portal(clerk, gone, clerk), batch_start=20, batch_size=20)

    drain(world, Order())
    cut = one(house, tables.method_budget)
    time_passes(house)
    drain(world, Order())

    assert cut["cost_s"] == pytest.approx(3.6)
    assert clerk.sizes[0] == 20


def test_a_lost_answer_teaches_only_if_it_was_late(house: Engine) -> None:
    """A connection that broke at once says nothing of time."""
    add_rows(house, *_keys(3))

    drain(world_of(house, _portal(requests.ReadTimeout())), Order())

    assert rows_of(house, tables.method_budget) == []


def test_what_was_too_large_is_halved_for_every_worker(house: Engine) -> None:
    """The bound is that of the request."""
    add_rows(house, *_keys(50), fields={"name": "n" * 100})
    too_large = Answer(body=b"<html>413</html>", status=413)
    portal = ScriptedPortal(chain([too_large], repeat(Clerk())))
    world = world_of(house, portal)

    drain(world, Order())
    time_passes(house)
    drain(world, Order())

    sizes = [len(asked.params["cmd"]) for asked in portal.asked]
    assert (sizes[0], max(sizes[1:]) <= 25) == (50, True)
    assert one(house, tables.method_budget, method="batch")["max_bytes"] > 1024


def test_a_method_near_its_limit_waits_without_being_sent(house: Engine) -> None:
    """Ten of fifty seconds are 500: nine cross nothing, the tenth crosses, and no more is sent."""
    _call(house, *(f"c{n}" for n in range(15)))
    add_rows(house, "a", "b")
    clerk = TimingClerk({"user.add": 50.0}, now_s=database_now(house) / 1000)
    settings: dict[str, Any] = {"batch_start": 1, "batch_share": 1e6}
    world = world_of(house, ScriptedPortal(repeat(clerk)), **settings)

    tally = drain(world, Order())

    waiting = rows_of(house, tables.outbox)
    assert clerk.used["user.add"] == 500.0
    assert tally.outcomes == {"applied": 12}
    assert len(waiting) == 5
    due_in = {round((row["due_at"] - database_now(house)) / 60_000) for row in waiting}
    assert due_in == {9}
    assert {row["attempts"] for row in waiting} == {0}


def test_a_portal_that_charges_the_request_makes_the_lane_wait(house: Engine) -> None:
    """All methods share the time of the batch, and come back with it."""
    add_rows(house, "a")
    clerk = TimingClerk(
        {"crm.item.add": 480.0}, now_s=database_now(house) / 1000, charges_batch=True
    )
    world = world_of(house, ScriptedPortal(repeat(clerk)))

    first = drain(world, Order())
    _call(house, "b")
    second = drain(world, Order())
    lane = one(house, tables.lane)

    assert (first.batches, second) == (1, Tally())
    assert one(house, tables.method_budget, method="batch")["operating_s"] == 480.0
    assert lane["breaker_until"] > database_now(house) + 500_000
    assert states(house) == {"b": "ready"}


def test_strictly_a_lane_waits_for_the_method_of_its_first_row(house: Engine) -> None:
    """What could go stands behind it; what stood before it has gone."""
    add_rows(house, "a")
    _call(house, "slow")
    add_rows(house, "b")
    now = database_now(house)
    with writing(house) as connection:
        connection.execute(
            tables.method_budget.insert().values(
                portal="default", method="user.add", blocked_until=now + 60_000
            )
        )
    world = world_of(house, _portal())

    tally = drain(world, Order(halt=HaltMode.STRICT))
    again = drain(world, Order(halt=HaltMode.STRICT))
    due = {row["entity_key"]: row["due_at"] <= now for row in rows_of(house, tables.outbox)}
    change(house, tables.method_budget, {"blocked_until": None})
    time_passes(house)
    later = drain(world, Order(halt=HaltMode.STRICT))

    assert (tally.outcomes, again) == ({"applied": 1}, Tally())
    assert due == {"slow": True, "b": True}
    assert later.outcomes == {"applied": 2}


def test_the_time_of_cheap_commands_costs_no_statement(house: Engine) -> None:
    """It is written with the first answer, and then when it has changed."""
    add_rows(house, *_keys(200))
    clerk = TimingClerk({}, now_s=database_now(house) / 1000)
    written: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "method_budget" in statement and "INSERT" in statement:
            written.append(statement)

    event.listen(house, "before_cursor_execute", note)

    drain(world_of(house, ScriptedPortal(repeat(clerk))), Order())

    assert clerk.sizes == [50] * 4
    assert len(written) == 1


@pytest.mark.parametrize(
    ("policy", "setting_s", "limit_s"),
    [
        pytest.param(None, 480.0, 480.0, id="as it is set for all"),
        pytest.param({"method_limit_s": 420}, 480.0, 420.0, id="the portal's own"),
        pytest.param({"method_limit_s": 419.5}, 0.0, 419.5, id="with a fraction"),
        pytest.param({"method_limit_s": 0}, 480.0, None, id="nobody counts there"),
        pytest.param(None, 0.0, None, id="nobody counts"),
        pytest.param({"method_limit_s": -1}, 480.0, 480.0, id="without sense"),
        pytest.param({"method_limit_s": True}, 480.0, 480.0, id="no number"),
    ],
)
def test_the_limit_is_set_for_all_portals_or_for_one(
    lite_house: Engine, policy: object, setting_s: float, limit_s: float | None
) -> None:
    """A self-hosted portal has a limit of its own, or none."""
    change(lite_house, tables.portal, {"policy": policy})
    world = world_of(lite_house, method_limit_s=setting_s)

    with reading(lite_house) as connection:
        rules = rules_of(world.settings, tenant(connection, "default"))

    assert rules.method_s == limit_s
