"""Tenants in a queue: the real statements that wake, take and release lanes, and slices without time.

Workers, slices and waiting follow a clock of their own; whose turn it is, the database says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from random import Random
from time import perf_counter

from sqlalchemy import Engine, delete, insert, text

from b24sync.core.fairness import longest_wait_s
from b24sync.edge import lanes, tables, taking
from b24sync.edge.database import writing
from b24sync.edge.lanes import Lane

FAR_MS = 3_600_000
FLOOD_ROWS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Who is there, and who writes what when.

    Shape: of ``portals`` the first ``floods`` have more rows than are ever sent; ``writers`` others
    write one row each at some time in ``within_s``, and those that are left have nothing to do.
    Units: seconds by the clock of the scene. ``slice_s`` is how long a flooding portal keeps a
    worker, ``row_s`` how long one row does.
    """

    portals: int
    floods: int = 1
    writers: int = 100
    within_s: float = 60.0
    workers: int = 8
    slice_s: float = 30.0
    row_s: float = 1.0
    pump_s: float = 5.0
    warm: bool = True


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How long each row waited for a worker.

    Shape: ``floods_s`` is how long the flooding portals had a worker meanwhile; ``takes_s`` is what
    each take took in real time.
    """

    waits_s: list[float] = field(default_factory=list[float])
    floods_s: float = 0.0
    takes_s: list[float] = field(default_factory=list[float])


def name_of(number: int) -> str:
    """The code of a portal; those that flood come first in every tie."""
    return f"p{number:06}"


def numbers(dialect: str, size: int) -> str:
    """A table ``s`` with the numbers ``n`` below a size, in the words of a database."""
    match dialect:
        case "postgresql":
            return f"(SELECT n FROM generate_series(0, {size - 1}) AS g(n)) AS s"  # noqa: S608 - a number
        case "sqlite":
            series = f"SELECT 0 AS n UNION ALL SELECT n + 1 FROM g WHERE n < {size - 1}"  # noqa: S608 - a number
            return f"(WITH RECURSIVE g AS ({series}) SELECT n FROM g) AS s"  # noqa: S608 - a number
        case _:
            return f"(SELECT seq AS n FROM seq_0_to_{size - 1}) AS s"  # noqa: S608 - a number


def named(dialect: str, number: str = "n") -> str:
    """The SQL of ``name_of``."""
    if dialect == "sqlite":
        return f"printf('p%06d', {number})"
    digits = f"CAST({number} AS {'VARCHAR' if dialect == 'postgresql' else 'CHAR'})"
    return f"concat('p', lpad({digits}, 6, '0'))"


def fill(engine: Engine, portals: int, *, next_due_at: str = "NULL") -> None:
    """Make portals and their lanes."""
    name = engine.dialect.name
    series, code = numbers(name, portals), named(name)
    with writing(engine) as connection:
        connection.execute(
            text(
                f"INSERT INTO b24sync_portal (code, base_url) SELECT {code}, 'https://x' FROM {series}"  # noqa: S608 - made above
            )
        )
        connection.execute(
            text(
                "INSERT INTO b24sync_lane (portal, lane, next_due_at) "  # noqa: S608 - made above
                f"SELECT {code}, 0, {next_due_at} FROM {series}"
            )
        )


def _write(engine: Engine, rows: Sequence[tuple[int, str]]) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(tables.outbox),
            [
                {
                    "portal": name_of(number),
                    "kind": "contact",
                    "entity_key": key,
                    "operation": "delete",
                }
                for number, key in rows
            ],
        )


def play(engine: Engine, scene: Scene, random: Random) -> Outcome:
    """A scene from the first row to the last that a writer wrote."""
    fill(engine, scene.portals)
    _write(engine, [(n, f"{key}") for n in range(scene.floods) for key in range(FLOOD_ROWS)])
    stage = _Stage(engine, scene, random)
    while stage.left:
        stage.step()
    return stage.outcome


class _Stage:
    """What happens when, in a heap."""

    def __init__(self, engine: Engine, scene: Scene, random: Random) -> None:
        self.engine, self.scene, self.outcome = engine, scene, Outcome()
        self._order = count()
        self._events: list[tuple[float, int, str, object]] = []
        self._idle = list(range(scene.workers))
        writers = random.sample(range(scene.floods, scene.portals), scene.writers)
        self._written: dict[str, float] = {}
        self.left = len(writers)
        rounds = 2 * (scene.floods / scene.workers + 1) if scene.warm else 1
        for number in writers:
            at = rounds * scene.slice_s + random.uniform(0, scene.within_s)
            self._plan(at, "write", number)
        self._plan(0.0, "pump", None)

    def _plan(self, at: float, what: str, about: object) -> None:
        heappush(self._events, (at, next(self._order), what, about))

    def step(self) -> None:
        """The next thing that happens."""
        now, _, what, about = heappop(self._events)
        if what == "write" and isinstance(about, int):
            _write(self.engine, [(about, "k")])
            self._written[name_of(about)] = now
        elif what == "pump":
            with writing(self.engine) as connection:
                taking.wake(connection)
            self._plan(now + self.scene.pump_s, "pump", None)
            self._employ(now)
        elif isinstance(about, Lane):
            self._end(about)
            self._employ(now)

    def _employ(self, now: float) -> None:
        """Every worker that has nothing to do takes a lane."""
        while self._idle:
            begun_s = perf_counter()
            with writing(self.engine) as connection:
                mine = taking.take(connection, owner="test", lease_ms=FAR_MS)
            self.outcome.takes_s.append(perf_counter() - begun_s)
            if mine is None:
                return
            self._idle.pop()
            code = mine.tenant.code
            if code in self._written:
                self.left -= 1
                self.outcome.waits_s.append(now - self._written[code])
                self._plan(now + self.scene.row_s, "end", mine)
            else:
                self.outcome.floods_s += self.scene.slice_s
                self._plan(now + self.scene.slice_s, "end", mine)

    def _end(self, mine: Lane) -> None:
        """The end of a slice."""
        is_writer = mine.tenant.code in self._written
        with writing(self.engine) as connection:
            if is_writer:
                rows = tables.outbox
                connection.execute(delete(rows).where(rows.c.portal == mine.tenant.code))
            taken_s = self.scene.row_s if is_writer else self.scene.slice_s
            lanes.release(connection, mine, served=taken_s)
        self._idle.append(0)


def bound_s(scene: Scene) -> float:
    """How long any of the writers waits at the most: all others may be ahead, each once."""
    ahead_s = scene.floods * scene.slice_s + (scene.writers - 1) * scene.row_s
    return longest_wait_s(
        ahead_s, workers=scene.workers, slice_s=scene.slice_s, pump_s=scene.pump_s
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def scenes(portals: int) -> Iterator[tuple[str, Scene]]:
    """The scenes of the benchmark."""
    writers = min(portals // 2, 1000)
    yield "one floods", Scene(portals=portals, writers=writers)
    yield "all write at once", Scene(portals=portals, writers=writers, within_s=0.1)
    many = Scene(portals=portals, writers=writers, floods=min(portals // 2, 1000))
    yield "half of them flood", many
    yield "and began just now", replace(many, warm=False)
    yield "two workers", Scene(portals=portals, writers=writers // 5, floods=20, workers=2)
