"""One row that loses every request it is in, or ends every worker that reads it, is found and named.

The portal is the emulated one; whoever sends it the word ``poison`` never hears from it again.
"""

from collections.abc import Callable, Iterator, Mapping

import pytest
import requests
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError

from b24sync.core.kinds import Kind
from b24sync.core.model import HaltMode
from b24sync.drain import Order, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.world import World
from tests.house import (
    add_rows,
    change,
    endings,
    one,
    rows_of,
    states,
    time_passes,
    world_of,
)
from tests.test_doubting import Distant

WEBHOOK = "https://portal.example/rest/1/sandbox-secret/"
MANY = 120


class Poisoned(Distant):
    """A portal that one text kills; ``executed``: after the work was done."""

    def __init__(self, *, executed: bool = False) -> None:
        """Be well until the text comes."""
        super().__init__()
        self.executed = executed
        self.is_down = False
        self.lost: list[int] = []

    def send(  # type: ignore[override] # the options are requests' own and mean nothing here
        self, request: requests.PreparedRequest, **options: object
    ) -> requests.Response:
        """Answer, unless the text is in it."""
        body = request.body if isinstance(request.body, bytes) else b""
        if self.is_down:
            self.lost.append(body.count(b"crm.item.add"))
            raise requests.ReadTimeout
        if b"poison" not in body or b"crm.item.list" in body:
            return super().send(request, **options)
        self.lost.append(body.count(b"crm.item."))
        if self.executed:
            super().send(request, **options)
        raise requests.ReadTimeout


class Killed(BaseException):
    """Stands for the end of a process: nobody catches it, and nothing is tidied up after it."""


def _gone() -> OperationalError:
    """What a database that is away raises."""
    return OperationalError("SELECT 1", {}, OSError("server closed the connection"))


class Deadly(Mapping[str, Kind]):
    """A table of kinds that ends whoever asks it for the kind ``bomb``."""

    def __init__(self, end: BaseException | None = None) -> None:
        """Choose the end; the process's own, if none is given."""
        self.deaths = 0
        self._end = end or Killed()

    def __getitem__(self, name: str) -> Kind:
        """Hold nothing."""
        if name == "bomb":
            self.deaths += 1
            raise self._end
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """Hold nothing."""
        return iter(())

    def __len__(self) -> int:
        """Hold nothing."""
        return 0


def _world(engine: Engine, portal: Distant, **settings: object) -> World:
    return world_of(engine, portal, webhook_url=WEBHOOK, **settings)


def _rounds(
    engine: Engine,
    world: World,
    order: Order | None = None,
    *,
    most: int,
    until: Callable[[], bool],
) -> int:
    """Drain and let time pass, again and again; how often it took."""
    for number in range(1, most + 1):
        drain(world, order or Order())
        _everything_passes(engine)
        if until():
            return number
    raise AssertionError(f"not done after {most} rounds: {states(engine)}")


def _everything_passes(engine: Engine) -> None:
    """Every wait is over, and the portal has surely stopped working on what was lost."""
    time_passes(engine)
    with writing(engine) as connection:
        connection.execute(
            update(tables.batch)
            .where(tables.batch.c.quiet_until.is_not(None), tables.batch.c.closed_at.is_(None))
            .values(quiet_until=0)
        )
        connection.execute(
            update(tables.outbox).where(tables.outbox.c.state == "doubt").values(due_at=0)
        )
        connection.execute(update(tables.lane).values(next_due_at=0))


@pytest.mark.parametrize(
    ("executed", "batches"),
    [
        pytest.param(False, [50, 50, 25, 12, 6, 3, 1, 1, 1], id="not executed"),
        # What is found by its marker leaves the company by itself.
        pytest.param(True, [50, 22, 1, 1, 1, 1, 1, 1, 1], id="executed"),
    ],
)
def test_the_row_to_blame_is_named_and_its_neighbours_are_applied_once(
    house: Engine, *, executed: bool, batches: list[int]
) -> None:
    """A batch that is lost again is halved, until the row stands alone."""
    portal = Poisoned(executed=executed)
    keys = [f"k{number:03}" for number in range(MANY)]
    for key in keys[:60]:
        add_rows(house, key, fields={"name": key, "uf": "x"})
    (bad,) = add_rows(house, "bad", operation="update", fields={"comments": "poison"})
    add_rows(house, *keys[60:])
    _linked(house, "bad", 999)

    _rounds(house, _world(house, portal), most=30, until=lambda: states(house) == {})

    ended = endings(house)
    assert ended.pop(bad) == ["failed"]
    assert list(ended.values()) == [["applied"]] * MANY
    assert portal.lost == batches
    dead = one(house, tables.dead)
    assert (dead["outbox_id"], dead["reason"], dead["error_code"]) == (bad, "lost", "lost")
    assert dead["last_error"].startswith("lost: losses: 9 times a request with it was lost")
    assert len(portal.records("contact")) == MANY


def test_an_add_that_is_poison_is_looked_for_before_it_is_given_up(house: Engine) -> None:
    """Where the work was done before the answer was lost, it is found, and is no poison."""
    portal = Poisoned(executed=True)
    (bad,) = add_rows(house, "bad", operation="add", fields={"name": "poison"})

    _rounds(house, _world(house, portal), most=3, until=lambda: states(house) == {})

    assert endings(house) == {bad: ["applied"]}
    assert len(portal.lost) == 1


def test_a_portal_that_is_down_charges_nobody(house: Engine) -> None:
    """However long it lasts: after one lost request only the harmless question goes out."""
    portal = Poisoned()
    portal.is_down = True
    keys = [f"k{number:03}" for number in range(MANY)]
    ids = add_rows(house, *keys)
    world = _world(house, portal)

    for _ in range(30):
        drain(world, Order())
        _everything_passes(house)

    assert portal.lost.count(50) == 1
    assert {row["losses"] for row in rows_of(house, tables.outbox)} == {0, 1}
    portal.is_down = False
    _rounds(house, world, most=5, until=lambda: states(house) == {})
    assert endings(house) == {number: ["applied"] for number in ids}
    lane = one(house, tables.lane)
    assert (lane["breaker"], lane["fail_streak"]) == ("closed", 0)


class Mute(Distant):
    """A portal that never answers a question about the record 999."""

    def send(  # type: ignore[override] # the options are requests' own and mean nothing here
        self, request: requests.PreparedRequest, **options: object
    ) -> requests.Response:
        """Answer, unless that is asked."""
        body = request.body if isinstance(request.body, bytes) else b""
        if b"crm.item.get" in body and b"999" in body:
            raise requests.ReadTimeout
        return super().send(request, **options)


def test_a_question_that_is_never_answered_does_not_hold_up_the_others(house: Engine) -> None:
    """What has to be read first may be the poison as well as what is written."""
    add_rows(house, *(f"k{number}" for number in range(10)))
    phones = {"fm": {"PHONE": ["1"]}}
    (bad,) = add_rows(house, "bad", operation="update", fields=phones)
    _linked(house, "bad", 999)
    add_rows(house, *(f"l{number}" for number in range(10)))

    _rounds(house, _world(house, Mute()), most=30, until=lambda: states(house) == {})

    ended = endings(house)
    assert ended.pop(bad) == ["failed"]
    assert list(ended.values()) == [["applied"]] * 20
    assert one(house, tables.dead)["reason"] == "lost"


@pytest.mark.parametrize("halt", [HaltMode.INDEPENDENT, HaltMode.CHAIN])
def test_a_row_that_ends_whoever_reads_it_is_given_up_unread(house: Engine, halt: HaltMode) -> None:
    """The rows are written down before they are read; who dies leaves the list behind."""
    kinds = Deadly()
    keys = [f"k{number:03}" for number in range(MANY)]
    add_rows(house, *keys[:70])
    (bad,) = add_rows(house, "bad", kind="bomb", operation="add", fields={"a": 1})
    add_rows(house, *keys[70:])
    world = _world(house, Distant(), kinds=kinds)

    for _ in range(25):
        try:
            drain(world, Order(halt=halt))
        except Killed:
            _everything_passes(house)

    assert states(house) == {}
    assert kinds.deaths == 7
    ended = endings(house)
    assert ended.pop(bad) == ["failed"]
    assert list(ended.values()) == [["applied"]] * MANY
    dead = one(house, tables.dead)
    assert (dead["reason"], dead["fields"], dead["kind"]) == ("lost", {"a": 1}, "bomb")
    lane = one(house, tables.lane)
    assert (lane["crashes"], lane["suspects"]) == (0, None)


@pytest.mark.parametrize(
    "lapsed",
    [
        pytest.param({}, id="usual"),
        pytest.param({"lease_until": 1, "lease_owner": "gone"}, id="a worker vanished"),
    ],
)
def test_spared_rows_under_suspicion_keep_their_place(
    lite_house: Engine, lapsed: Mapping[str, object]
) -> None:
    """They go in smaller company, and still before all that came later, however urgent."""
    keys = [f"k{number}" for number in range(6)]
    ids = add_rows(lite_house, *keys, losses=2)
    change(lite_house, tables.lane, {"first_rows": ids, **lapsed}, portal="default")
    add_rows(lite_house, "urgent", priority=-5)
    portal = Distant()

    drain(_world(lite_house, portal, batch_size=4), Order(halt=HaltMode.CHAIN))

    assert [len(methods) for methods in portal.requests] == [2, 2, 2, 1]
    assert portal.written("name") == [*keys, "urgent"]


def test_trouble_of_the_database_accuses_no_row(lite_house: Engine) -> None:
    """A claim that breaks off because the database is locked or gone takes its accusation back."""
    add_rows(lite_house, "a", "b")
    (bomb,) = add_rows(lite_house, "z", kind="bomb", operation="add", fields={"a": 1})
    with pytest.raises(Killed):
        drain(_world(lite_house, Distant(), kinds=Deadly()), Order())
    _everything_passes(lite_house)

    for _ in range(3):
        with pytest.raises(OperationalError):
            drain(_world(lite_house, Distant(), kinds=Deadly(_gone())), Order())
        assert one(lite_house, tables.lane)["suspects"] is None
        _everything_passes(lite_house)

    assert {row["losses"] for row in rows_of(lite_house, tables.outbox)} == {0}
    assert one(lite_house, tables.outbox, id=bomb)["state"] == "ready"


def test_strictly_the_lane_stops_at_a_row_that_ends_whoever_reads_it(lite_house: Engine) -> None:
    """Nobody but a person gives a row up there, and nothing behind it goes."""
    kinds = Deadly()
    add_rows(lite_house, "a", "b")
    (bad,) = add_rows(lite_house, "bad", kind="bomb", operation="add", fields={"a": 1})
    add_rows(lite_house, "c")
    world = _world(lite_house, Distant(), kinds=kinds)

    for _ in range(12):
        try:
            drain(world, Order(halt=HaltMode.STRICT))
        except Killed:
            _everything_passes(lite_house)

    assert states(lite_house) == {"bad": "held", "c": "ready"}
    assert one(lite_house, tables.lane)["stopped_by"] == bad
    assert "9 times a request" in one(lite_house, tables.outbox, id=bad)["state_reason"]
    assert kinds.deaths < 9


def test_a_worker_that_died_by_chance_costs_its_rows_nothing(lite_house: Engine) -> None:
    """One death in the middle: the rows are noted, read by the next worker, and applied."""
    kinds = Deadly()
    ids = add_rows(lite_house, "a", "b", "c")
    (last,) = add_rows(lite_house, "z", kind="bomb", operation="call", method="m")
    with pytest.raises(Killed):
        drain(_world(lite_house, Distant(), kinds=kinds), Order())
    _everything_passes(lite_house)

    drain(_world(lite_house, Distant()), Order())

    assert {number: ended for number, ended in endings(lite_house).items() if number != last} == {
        number: ["applied"] for number in ids
    }
    assert one(lite_house, tables.lane)["crashes"] == 0


def _linked(engine: Engine, key: str, remote_id: int) -> None:
    with writing(engine) as connection:
        connection.execute(
            tables.link.insert().values(
                portal="default",
                kind="contact",
                entity_key=key,
                remote_id=str(remote_id),
                state="present",
            )
        )
