"""Who may drain which portal now, at what pace, in which order among tenants."""

import time

import pytest
from sqlalchemy import Engine

from b24sync.core.limits import Bucket
from b24sync.core.model import Fault, FaultKind, HaltMode, PortalState
from b24sync.edge import lanes, rates, tables, taking, tenants
from b24sync.edge.database import transact, writing
from b24sync.edge.lanes import Lane
from b24sync.edge.tenants import Tenant
from tests.house import (
    FAR_MS,
    add_portal,
    add_rows,
    change,
    database_now,
    in_threads,
    maybe_taken,
    one,
    rows_of,
    taken,
)


def _wake(engine: Engine, code: str | None = None) -> int:
    with writing(engine) as connection:
        return taking.wake(connection, code)


def _release(engine: Engine, mine: Lane, *, served: int = 0, rest_ms: int | None = None) -> None:
    with writing(engine) as connection:
        lanes.release(connection, mine, served=served, rest_ms=rest_ms)


def _tenant(engine: Engine, code: str = "default") -> Tenant:
    with writing(engine) as connection:
        return tenants.tenant(connection, code)


def _spend(engine: Engine, of: Tenant, *, reserve: float = 0.0) -> int:
    return transact(engine, lambda connection: rates.spend(connection, of, reserve=reserve))


def _lane(engine: Engine, code: str = "default") -> dict[str, object]:
    return one(engine, tables.lane, portal=code)


def test_a_lane_is_owned_by_one_and_its_epoch_grows_with_every_owner(engine: Engine) -> None:
    """While a lease lasts nobody else gets the lane; when it has ended the next owner is newer."""
    add_portal(engine, next_due_at=0)

    first = taken(engine, owner="host:1")
    while_owned = maybe_taken(engine)
    change(engine, tables.lane, {"lease_until": 1})
    second = taken(engine, owner="host:2")

    assert while_owned is None
    assert (first.epoch, second.epoch) == (1, 2)
    assert _lane(engine)["lease_owner"] == "host:2"


def test_an_owner_gets_what_it_must_know_of_its_portal(engine: Engine) -> None:
    """One look at the tables is enough for a pass."""
    add_portal(
        engine,
        base_url="https://acme.example",
        rate_x=250,
        rate_y=5,
        server_max_s=120,
        next_due_at=0,
        fail_streak=3,
        open_batch_id=8,
        wake_seq=2,
    )

    mine = taken(engine)

    assert mine == Lane(
        tenant=Tenant(
            code="default",
            base_url="https://acme.example",
            auth_kind="webhook",
            secret=None,
            app_id="",
            egress_group="default",
            rate_x=250,
            rate_y=5,
            server_max_s=120,
        ),
        lane=0,
        epoch=1,
        wake_seq=2,
        open_batch_id=8,
        fail_streak=3,
    )


def test_the_lane_that_was_served_least_comes_first(engine: Engine) -> None:
    """A tenant with a million rows stands behind one with a single row."""
    add_portal(engine, "big", next_due_at=0)
    add_portal(engine, "small", next_due_at=0)
    add_rows(engine, *(f"k{n}" for n in range(20)), portal="big")
    add_rows(engine, *(f"k{n}" for n in range(3)), portal="small")
    order: list[str] = []

    for _ in range(6):
        mine = taken(engine)
        order.append(mine.tenant.code)
        _release(engine, mine, served=50)

    assert order == ["big", "small", "big", "small", "big", "small"]


def test_a_heavier_lane_is_served_more_often(engine: Engine) -> None:
    """Weight divides what a lane is charged with: two for one."""
    add_portal(engine, "heavy", next_due_at=0, weight=2)
    add_portal(engine, "light", next_due_at=0)
    for code in ("heavy", "light"):
        add_rows(engine, "k", portal=code)
    order: list[str] = []

    for _ in range(6):
        mine = taken(engine)
        order.append(mine.tenant.code)
        _release(engine, mine, served=50)

    assert (order.count("heavy"), order.count("light")) == (4, 2)


def test_priority_goes_before_fairness(engine: Engine) -> None:
    """A smaller number is served first, however much it was served."""
    add_portal(engine, "urgent", next_due_at=0, priority=-1, vtime=900)
    add_portal(engine, "other", next_due_at=0)

    assert taken(engine).tenant.code == "urgent"


def test_a_lane_that_was_idle_enters_at_the_present(engine: Engine) -> None:
    """It goes first, and once: it is owed a slice, and not a year of service."""
    add_portal(engine, "busy", next_due_at=0, vtime=990, turn=1000)
    add_portal(engine, "idle", vtime=3)
    add_rows(engine, "k", portal="idle")
    woken = _wake(engine)

    first = taken(engine)
    _release(engine, first, served=31)
    second = taken(engine)

    assert woken == 1
    assert (first.tenant.code, second.tenant.code) == ("idle", "busy")
    assert _lane(engine, "idle")["vtime"] == 1000 - 30 + 31


def test_the_present_is_where_the_last_slice_began(engine: Engine) -> None:
    """Lanes that were not served do not hold it back, and another priority has a present of its own."""
    add_portal(engine, "busy", next_due_at=0, vtime=500)
    add_portal(engine, "paused", vtime=1, next_due_at=0, state="paused", state_reason="by hand")
    add_portal(engine, "urgent", vtime=9000, turn=9000, priority=-1)

    mine = taken(engine)
    change(engine, tables.lane, {"next_due_at": 0, "vtime": 2}, portal="urgent")
    urgent = taken(engine)

    assert (mine.tenant.code, urgent.tenant.code) == ("busy", "urgent")
    assert (_lane(engine, "busy")["turn"], _lane(engine, "busy")["vtime"]) == (500, 500)
    assert (_lane(engine, "urgent")["turn"], _lane(engine, "urgent")["vtime"]) == (9000, 8970)


def test_the_shards_of_a_portal_have_its_one_share(engine: Engine) -> None:
    """Two lanes with something to do are each charged double, one alone is not."""
    add_portal(engine, next_due_at=0)
    with writing(engine) as connection:
        for number, due_at in ((1, 0), (2, None)):
            connection.execute(
                tables.lane.insert().values(portal="default", lane=number, next_due_at=due_at)
            )

    both = taken(engine)
    _release(engine, both, served=10)
    change(engine, tables.lane, {"next_due_at": None}, lane=0)
    alone = taken(engine)
    _release(engine, alone, served=10)

    lanes_now = [(row["lane"], row["vtime"]) for row in rows_of(engine, tables.lane)]
    assert ((both.lanes, both.sharing), (alone.lanes, alone.sharing)) == ((3, 2), (3, 1))
    assert lanes_now == [(0, 20), (1, 10), (2, 0)]


def test_a_lane_that_rests_is_not_woken_before_its_time(engine: Engine) -> None:
    """Its rate is used up, whatever rows there are; afterwards new rows wake it again."""
    add_portal(engine, next_due_at=0)
    add_rows(engine, "k")
    mine = taken(engine)
    _release(engine, mine, rest_ms=60_000)

    early = _wake(engine)
    change(engine, tables.lane, {"rests_until": 1})
    later = _wake(engine)

    assert (early, later) == (0, 1)


def test_many_lanes_are_woken_at_once(engine: Engine) -> None:
    """However many statements that takes, each lane is woken once, and those without rows are not."""
    names = [f"p{number:04}" for number in range(1100)]
    with writing(engine) as connection:
        connection.execute(
            tables.portal.insert(), [{"code": name, "base_url": "https://x"} for name in names]
        )
        connection.execute(
            tables.outbox.insert(),
            [
                {"portal": name, "kind": "contact", "entity_key": "k", "operation": "delete"}
                for name in names[50:]
            ],
        )

    woken = _wake(engine)

    due = [row["portal"] for row in rows_of(engine, tables.lane) if row["next_due_at"]]
    assert woken == 1050
    assert due == names[50:]
    assert _wake(engine) == 0


def test_a_stop_in_one_lane_stops_the_portal(engine: Engine) -> None:
    """In the mode ``strict`` nothing goes on beside a row that somebody must decide on."""
    add_portal(engine, next_due_at=0)
    add_portal(engine, "other", next_due_at=0)
    (row_id,) = add_rows(engine, "k", state="held")
    with writing(engine) as connection:
        connection.execute(tables.lane.insert().values(portal="default", lane=1, next_due_at=0))
    change(engine, tables.lane, {"stopped_by": row_id}, portal="default", lane=0)

    stopped = [taken(engine).tenant.code, maybe_taken(engine)]
    change(engine, tables.outbox, {"state": "ready"}, id=row_id)
    goes_on = {taken(engine).lane, taken(engine).lane}

    assert stopped == ["other", None]
    assert goes_on == {0, 1}


def test_rows_of_a_lane_that_nobody_noticed_are_found(engine: Engine) -> None:
    """An application inserts and touches no lane; looking is what makes its rows move."""
    add_portal(engine, "rows")
    add_portal(engine, "none")
    add_portal(engine, "later", next_due_at=10**15)
    add_rows(engine, "k", portal="rows")
    add_rows(engine, "k", portal="later")
    add_rows(engine, "k", portal="none", due_at=10**15)
    add_rows(engine, "k", portal="none", state="parked")

    woken = _wake(engine)

    assert woken == 2
    assert {taken(engine).tenant.code, taken(engine).tenant.code} == {"rows", "later"}
    assert maybe_taken(engine) is None


def test_a_lane_that_only_its_rows_name_is_made_and_woken(engine: Engine) -> None:
    """Rows may name any lane of their portal; one of another portal, or empty, is not made."""
    add_portal(engine)
    add_portal(engine, "other")
    add_rows(engine, "a", "b", lane=7)
    add_rows(engine, "c", lane=9)
    add_rows(engine, "d", lane=8, state="parked")
    add_rows(engine, "e", lane=3, portal="other")
    add_rows(engine, "f", portal="nobody's")

    woken = _wake(engine, "default")
    again = _wake(engine, "default")

    made = [(row["portal"], row["lane"]) for row in rows_of(engine, tables.lane)]
    assert made == [("default", 0), ("default", 7), ("default", 9), ("other", 0)]
    assert (woken, again) == (2, 0)
    assert _wake(engine) == 1
    assert {taken(engine).lane for _ in range(3)} == {3, 7, 9}


def test_a_stopped_portal_tells_no_time(engine: Engine) -> None:
    """Whoever owns its lane at that moment learns of it before the next request."""
    add_portal(engine)
    of, before = _tenant(engine), database_now(engine)

    with writing(engine) as connection:
        told = tenants.now_if_active(connection, of)
        tenants.pause(connection, "default", PortalState.PAUSED, reason="enough")
        stopped = tenants.now_if_active(connection, of)

    assert told is not None
    assert 0 <= told - before < 5_000
    assert stopped is None


def test_only_the_portal_that_was_asked_for_is_woken_and_taken(engine: Engine) -> None:
    """A run for one portal leaves the others to others."""
    add_portal(engine, "a")
    add_portal(engine, "b")
    for code in ("a", "b"):
        add_rows(engine, "k", portal=code)

    woken = _wake(engine, "b")

    assert woken == 1
    assert maybe_taken(engine, "a") is None
    assert taken(engine, "b").tenant.code == "b"


def test_lanes_can_be_passed_over(engine: Engine) -> None:
    """A run that found nothing for itself in a lane goes on with the next."""
    add_portal(engine, "a", next_due_at=0)
    add_portal(engine, "b", next_due_at=0)

    with writing(engine) as connection:
        mine = taking.take(connection, owner="x", lease_ms=FAR_MS, without=[("a", 0)])
        nobody = taking.take(connection, owner="x", lease_ms=FAR_MS, without=[("a", 0), ("b", 0)])

    assert mine is not None
    assert (mine.tenant.code, nobody) == ("b", None)


@pytest.mark.parametrize("state", [state for state in PortalState if state is not state.ACTIVE])
def test_a_portal_that_is_not_active_is_neither_woken_nor_taken(
    engine: Engine, state: PortalState
) -> None:
    """Whatever the trouble, nobody calls until a person says so."""
    add_portal(engine, "asleep")
    add_portal(engine, "due", next_due_at=0)
    for code in ("asleep", "due"):
        add_rows(engine, "k", portal=code)
        with writing(engine) as connection:
            assert tenants.pause(connection, code, state, reason="why not")

    woken = _wake(engine)

    assert woken == 0
    assert maybe_taken(engine) is None
    with writing(engine) as connection:
        assert (taking.due(connection), taking.next_due_ms(connection)) == (0, None)


def test_the_first_reason_of_a_pause_stays(engine: Engine) -> None:
    """What stopped the portal is what a person must look at; echoes do not write over it."""
    add_portal(engine)

    with writing(engine) as connection:
        first = tenants.pause(connection, "default", PortalState.PLAN_LOST, reason="no plan")
        second = tenants.pause(connection, "default", PortalState.OVERLOADED, reason="overload")

    portal = one(engine, tables.portal)
    assert (first, second) == (True, False)
    assert (portal["state"], portal["state_reason"]) == ("plan_lost", "no plan")


def test_a_resumed_portal_is_due_at_once_and_its_strikes_are_forgotten(engine: Engine) -> None:
    """A person who says "go on" has mended something."""
    add_portal(
        engine,
        state="paused",
        state_reason="by hand",
        breaker="open",
        breaker_until=10**15,
        fail_streak=7,
    )

    with writing(engine) as connection:
        known = tenants.resume(connection, "default")
        unknown = tenants.resume(connection, "nobody")

    assert (known, unknown) == (True, False)
    assert taken(engine).fail_streak == 0
    assert one(engine, tables.portal)["state_reason"] is None


def test_a_breaker_keeps_everybody_away_until_it_ends(engine: Engine) -> None:
    """An unreachable portal is left alone by all workers, and then tried again."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    with writing(engine) as connection:
        lanes.strike(connection, mine, rest_ms=60_000, silent=False)
    _release(engine, mine)
    change(engine, tables.lane, {"next_due_at": 0})

    held = maybe_taken(engine)
    change(engine, tables.lane, {"breaker_until": database_now(engine)})
    after = taken(engine)

    assert held is None
    assert after.fail_streak == 1


def test_strikes_end_when_the_portal_is_reached(engine: Engine) -> None:
    """One answer, whatever it says, closes the breaker."""
    add_portal(engine, next_due_at=0, fail_streak=4)
    mine = taken(engine)
    with writing(engine) as connection:
        lanes.open_batch(connection, mine, 5, lease_ms=60_000)
        lanes.strike(connection, mine, rest_ms=60_000, silent=False)

        lanes.close_batch(connection, mine, 5, reached=True)

    lane = _lane(engine)
    assert (lane["breaker"], lane["breaker_until"], lane["fail_streak"]) == ("closed", None, 0)
    assert lane["open_batch_id"] is None


@pytest.mark.parametrize(
    ("dues", "expected"),
    [
        ([7 * 10**15, 5 * 10**15], 5 * 10**15),
        ([7 * 10**15, 500_000], 500_000),
        ([], None),
    ],
    ids=["the earliest row", "a row that is due", "no rows"],
)
def test_a_released_lane_is_due_when_the_first_of_its_rows_is(
    engine: Engine, dues: list[int], expected: int | None
) -> None:
    """Nobody looks at a lane before, and an empty one is not due at all."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    for due_at in dues:
        add_rows(engine, f"k{due_at}", due_at=due_at)
    add_rows(engine, "parked", state="parked", due_at=1)
    add_rows(engine, "elsewhere", portal="other", due_at=1)

    _release(engine, mine)

    lane = _lane(engine)
    assert lane["next_due_at"] == expected
    assert (lane["lease_until"], lane["lease_owner"]) == (None, None)


def test_a_released_lane_knows_of_a_due_row_behind_very_many_that_are_not(engine: Engine) -> None:
    """It looks at some of those that are not due, and at the first one that is."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    ids = add_rows(engine, *(f"k{number}" for number in range(lanes.LOOKS + 2)), due_at=10**15)
    change(engine, tables.outbox, {"due_at": 10**14}, id=ids[-2])

    _release(engine, mine)
    of_the_first = _lane(engine)["next_due_at"]
    change(engine, tables.outbox, {"due_at": 7}, id=ids[-1])
    _release(engine, mine)

    assert (of_the_first, _lane(engine)["next_due_at"]) == (10**15, 7)


def test_a_lane_that_must_rest_is_due_after_its_rest(engine: Engine) -> None:
    """An empty bucket or a struck portal is waited for, whatever its rows say."""
    add_portal(engine, next_due_at=0)
    add_rows(engine, "k")
    mine = taken(engine)

    _release(engine, mine, rest_ms=60_000)

    due_at = _lane(engine)["next_due_at"]
    assert isinstance(due_at, int)
    assert abs(due_at - database_now(engine) - 60_000) < 5_000


def test_a_row_that_came_while_the_lane_was_served_is_not_lost(engine: Engine) -> None:
    """Its transaction committed too late for the owner's last look; the release looks again."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    add_rows(engine, "late")

    _release(engine, mine, served=3)

    assert taken(engine).epoch == 2


def test_a_ring_while_the_lane_was_served_is_not_lost(engine: Engine) -> None:
    """Somebody saw rows that this owner did not; the lane is due again at once."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    change(engine, tables.lane, {"wake_seq": 1})

    _release(engine, mine)

    assert taken(engine).epoch == 2


def test_what_is_due_is_counted_and_what_comes_next_is_known(engine: Engine) -> None:
    """A pump asks how many lanes could be taken, and when to look again."""
    add_portal(engine, "now", next_due_at=0)
    add_portal(engine, "soon", next_due_at=database_now(engine) + 60_000)
    add_portal(engine, "struck", next_due_at=0, breaker="open", breaker_until=10**15)
    add_portal(engine, "never")

    with writing(engine) as connection:
        due = taking.due(connection)
        soon = taking.next_due_ms(connection, "soon")
        at_once = taking.next_due_ms(connection)
        never = taking.next_due_ms(connection, "never")
        struck = taking.next_due_ms(connection, "struck")

    assert (due, at_once, never) == (1, 0, None)
    assert soon is not None
    assert 50_000 < soon <= 60_000
    assert struck is not None
    assert struck > FAR_MS


def test_the_first_requests_fit_and_then_there_is_a_wait(engine: Engine) -> None:
    """Three fit a bucket of three; the fourth is told when it does."""
    add_portal(engine, rate_x=3, rate_y=0.5)
    of = _tenant(engine)

    waits = [_spend(engine, of) for _ in range(4)]

    assert waits[:3] == [0, 0, 0]
    assert 1_000 < waits[3] <= 2_000
    assert 2.5 < one(engine, tables.bucket)["level"] <= 3


@pytest.mark.parametrize(
    ("level", "ago_ms", "fits"),
    [
        (2.0, 0, True),
        (2.1, 0, False),
        (3.0, 500, False),
        (3.0, 1_000_000, True),
        (900.0, 2_000, False),
        (2.9, -60_000, False),
        (1.5, -60_000, True),
    ],
)
def test_the_tables_bucket_and_the_value_agree(
    engine: Engine, level: float, ago_ms: int, *, fits: bool
) -> None:
    """The guarded UPDATE and the core's arithmetic are one bucket, also after a clock went back."""
    add_portal(engine, rate_x=3, rate_y=0.01)
    of = _tenant(engine)
    now = database_now(engine)
    with writing(engine) as connection:
        connection.execute(
            tables.bucket.insert().values(
                portal="default", egress_group="default", level=level, updated_at=now - ago_ms
            )
        )
    value = Bucket(level=level, capacity=3, leak_per_s=0.01, updated_at_ms=now - ago_ms)

    wait_ms = _spend(engine, of)

    after = one(engine, tables.bucket)
    assert (wait_ms == 0) is fits
    assert (value.wait_ms(now) == 0) is fits
    if fits:
        assert after["level"] == pytest.approx(value.charged(now).level, abs=0.1)
        assert after["updated_at"] >= value.charged(now).updated_at_ms
    else:
        assert wait_ms == pytest.approx(value.wait_ms(now), abs=10_000)
        assert (after["level"], after["updated_at"]) == (level, now - ago_ms)


def test_a_reserve_is_left_for_others(engine: Engine) -> None:
    """People's own calls of the same application find room."""
    add_portal(engine, rate_x=5, rate_y=0.01)
    of = _tenant(engine)

    kept_back = [_spend(engine, of, reserve=3) for _ in range(3)]
    own = [_spend(engine, of) for _ in range(3)]

    assert [wait == 0 for wait in kept_back] == [True, True, False]
    assert own == [0, 0, 0]


def test_a_blocked_bucket_gives_nothing_until_its_block_ends(engine: Engine) -> None:
    """The wait that is told is at least the rest of the block."""
    add_portal(engine)
    of = _tenant(engine)
    _spend(engine, of)
    change(engine, tables.bucket, {"blocked_until": database_now(engine) + 60_000})

    blocked = _spend(engine, of)
    change(engine, tables.bucket, {"blocked_until": database_now(engine)})
    after = _spend(engine, of)

    assert 50_000 < blocked <= 60_000
    assert after == 0


def test_the_portal_is_believed_when_it_says_that_the_rate_is_used_up(engine: Engine) -> None:
    """Other applications share the portal's rate, so its word outweighs what was counted here."""
    add_portal(engine, rate_x=10, rate_y=0.5)
    of = _tenant(engine)
    _spend(engine, of)

    with writing(engine) as connection:
        rates.fill(connection, of)

    assert one(engine, tables.bucket)["level"] == 10
    assert 1_000 < _spend(engine, of) <= 2_000


def test_all_workers_together_keep_the_rate(engine: Engine) -> None:
    """Eight at once from the very first request: never more than x and y for every second."""
    add_portal(engine, rate_x=5, rate_y=20)
    of = _tenant(engine)
    granted: list[float] = []
    began = time.monotonic()

    def work() -> None:
        while time.monotonic() < began + 0.5:
            if _spend(engine, of) == 0:
                granted.append(time.monotonic() - began)

    in_threads([work] * 8)

    assert len(granted) >= 5
    for number, at in enumerate(sorted(granted), start=1):
        # A statement is stamped before its thread looks at the clock, never after.
        assert number <= 5 + 20 * (at + 0.05), f"{number} requests after {at:.3f} s"


def test_the_reason_of_a_pause_is_the_portals_code_and_words() -> None:
    """Capped, because a portal may say anything."""
    fault = Fault(code="ACCESS_DENIED", text="x" * 900, kind=FaultKind.PORTAL)

    assert tenants.reason_of(fault) == "ACCESS_DENIED: " + "x" * 485
    assert tenants.reason_of(Fault(code="HTTP_404", text="", kind=FaultKind.PORTAL)) == "HTTP_404"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("ACCESS_DENIED: no: really", "ACCESS_DENIED"),
        ("HTTP_404", "HTTP_404"),
        (": without a code", ""),
        ("the portal acme has no credential; run `b24sync portal add acme`", ""),
        ("two\nlines: no", ""),
        (None, ""),
    ],
)
def test_a_reason_gives_back_the_portals_code(reason: str | None, code: str) -> None:
    """If it begins with one; a sentence is none."""
    assert tenants.code_of(reason) == code


def test_the_database_counts_the_time_of_a_lease(engine: Engine) -> None:
    """A worker whose clock is wrong owns a lane for as long as any other."""
    add_portal(engine, next_due_at=0)

    mine = taken(engine)
    with writing(engine) as connection:
        kept = lanes.keep(connection, mine, lease_ms=5_000)

    until = _lane(engine)["lease_until"]
    assert kept
    assert isinstance(until, int)
    assert 0 < until - database_now(engine) <= 5_000


def _stopped(engine: Engine, state: str = "held", **values: object) -> tuple[Lane, int]:
    """A lane that stands still for a row, as its last owner left it."""
    add_portal(engine, next_due_at=0)
    (row_id,) = add_rows(engine, "bad", state=state, **values)
    add_rows(engine, "good")
    mine = taken(engine)
    with writing(engine) as connection:
        lanes.stop(connection, mine, row_id)
    _release(engine, mine)
    return mine, row_id


@pytest.mark.parametrize(
    ("state", "values"),
    [
        pytest.param("held", {}, id="held"),
        pytest.param("doubt", {"batch_id": 1, "cmd_no": 0, "due_at": 10**15}, id="in doubt"),
    ],
)
def test_a_lane_that_stands_still_is_neither_due_nor_taken(
    engine: Engine, state: str, values: dict[str, object]
) -> None:
    """However many rows wait, and however often somebody rings."""
    _, row_id = _stopped(engine, state, **values)

    _wake(engine)

    assert maybe_taken(engine) is None
    with writing(engine) as connection:
        assert (taking.due(connection), taking.next_due_ms(connection)) == (0, None)
    assert _lane(engine)["stopped_by"] == row_id


@pytest.mark.parametrize("left", ["ready", "gone"])
def test_a_lane_goes_on_with_the_row_that_it_stood_still_for(engine: Engine, left: str) -> None:
    """However that came about: nobody has to touch the lane."""
    _, row_id = _stopped(engine)
    if left == "ready":
        change(engine, tables.outbox, {"state": "ready"}, id=row_id)
    else:
        with writing(engine) as connection:
            connection.execute(tables.outbox.delete().where(tables.outbox.c.id == row_id))

    with writing(engine) as connection:
        assert taking.due(connection) == 1
    mine = taken(engine)
    with writing(engine) as connection:
        still = lanes.stands_still(connection, mine)

    assert (mine.stopped_by, still) == (row_id, False)
    assert _lane(engine)["stopped_by"] is None


def test_an_owner_finds_out_that_its_lane_stands_still_again(engine: Engine) -> None:
    """The row was held again after the lane was taken; the stop stays."""
    _, row_id = _stopped(engine)
    change(engine, tables.outbox, {"state": "ready"}, id=row_id)
    mine = taken(engine)
    change(engine, tables.outbox, {"state": "held"}, id=row_id)

    with writing(engine) as connection:
        still = lanes.stands_still(connection, mine)

    assert still
    assert _lane(engine)["stopped_by"] == row_id


def test_a_lane_that_never_stood_still_is_not_asked_about(engine: Engine) -> None:
    """Another owner's stop is not this one's to forget."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    change(engine, tables.lane, {"stopped_by": 99})

    with writing(engine) as connection:
        assert not lanes.stands_still(connection, mine)

    assert _lane(engine)["stopped_by"] == 99


def test_rows_go_first_until_others_do(engine: Engine) -> None:
    """The next owner gets them in their order; each word replaces the one before."""
    add_portal(engine, next_due_at=0)
    mine = taken(engine)
    found: list[tuple[int, ...]] = []
    for rows in ([7, 3, 5], [], [9]):
        with writing(engine) as connection:
            lanes.put_first(connection, mine, rows)
        _release(engine, mine)
        change(engine, tables.lane, {"next_due_at": 0})
        mine = taken(engine)
        found.append(mine.first_rows)

    assert found == [(7, 3, 5), (), (9,)]


def test_rows_that_go_first_after_a_rest_let_nobody_go_before(engine: Engine) -> None:
    """The whole lane waits for them, without a strike against the portal."""
    add_portal(engine, next_due_at=0)
    add_rows(engine, "k")
    mine = taken(engine)
    with writing(engine) as connection:
        lanes.put_first(connection, mine, [1], rest_ms=60_000)
    _release(engine, mine)

    _wake(engine)

    assert maybe_taken(engine) is None
    lane = _lane(engine)
    assert (lane["breaker"], lane["fail_streak"]) == ("closed", 0)
    until = lane["breaker_until"]
    assert isinstance(until, int)
    assert 50_000 < until - database_now(engine) <= 60_000


@pytest.mark.parametrize(
    ("policy", "halt"),
    [
        (None, HaltMode.INDEPENDENT),
        ({}, HaltMode.INDEPENDENT),
        ({"halt": "chain"}, HaltMode.CHAIN),
        ({"halt": "strict"}, HaltMode.STRICT),
        ({"halt": "independent"}, HaltMode.INDEPENDENT),
        ({"halt": "STRICT"}, HaltMode.INDEPENDENT),
        ({"halt": 1}, HaltMode.INDEPENDENT),
        (["strict"], HaltMode.INDEPENDENT),
    ],
)
def test_a_portal_says_its_halt_mode_by_its_policy(
    engine: Engine, policy: object, halt: HaltMode
) -> None:
    """What nobody understands is as if nothing were said."""
    add_portal(engine, policy=policy)

    assert _tenant(engine).halt is halt
