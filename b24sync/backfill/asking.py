"""A back-fill is asked for, looked at beforehand, and steered by people."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from b24sync.backfill.opening import Source, elsewhere, plainly, source_of
from b24sync.core.backfilling import BELOW_ALL, BackfillState
from b24sync.core.changes import checked
from b24sync.core.errors import BackfillError, ChangeError
from b24sync.core.model import Change
from b24sync.edge import backfills, sources
from b24sync.edge.backfills import Backfill
from b24sync.edge.database import transact, writing
from b24sync.edge.sources import Locked
from b24sync.world import World

MOST_WAITING = 5_000
"""Rows that wait at the most, and one step more: what a usual portal takes in a minute."""

STEP = 500
"""Rows in one transaction; while it lasts, nobody else changes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A back-fill that is asked for.

    Shape: ``source`` is a document that ``captured``, ``query`` or ``selected`` has made.
    """

    code: str
    portal: str
    kind: str
    source: Mapping[str, object]
    most_waiting: int = MOST_WAITING
    step: int = STEP
    priority: int = BELOW_ALL
    only_missing: bool = False
    skip_bad: bool = False
    estimate: int | None = None


def start(world: World, asked: Asked, *, counts: bool = True) -> Backfill:
    """Write down a back-fill that makes sense; from then on it is fed by whoever feeds.

    ``counts``: the rows of the source are counted, so that it can be told how long it takes.
    Raises: BackfillError; DatabaseError if the source's database cannot be reached.
    Writes: backfill.
    """
    if counts:
        asked = replace(asked, estimate=_checked(world, asked, counts=True))
    else:
        _checked(world, asked, counts=False)

    def write(connection: Connection) -> Backfill:
        if backfills.find(connection, asked.code) is not None:
            raise BackfillError(f"there is a back-fill {asked.code!r} already; choose another code")
        backfills.register(connection, {name: getattr(asked, name) for name in _COLUMNS})
        found = backfills.find(connection, asked.code)
        if found is None:  # pragma: no cover - it was written a statement ago
            raise BackfillError(f"the back-fill {asked.code!r} is gone")
        return found

    try:
        return transact(world.engine, write)
    except IntegrityError as error:
        raise BackfillError(f"it cannot be written down: {sources.first_line(error)}") from None


_COLUMNS = tuple(Asked.__slots__)


def _checked(world: World, asked: Asked, *, counts: bool) -> int | None:
    source = _source(asked)
    with _source_reading(world, asked) as connection:
        with suppress(Locked):
            # One that is being changed just now can be read at another time.
            source.check(connection)
        return source.count(connection) if counts else None


def _source(asked: Asked) -> Source:
    return source_of(asked.source, kind=asked.kind, portal=asked.portal)


@contextmanager
def _source_reading(world: World, asked: Asked) -> Generator[Connection]:
    with (
        elsewhere(world, asked.source) as engine,
        writing(engine or world.engine) as connection,
        plainly(connection) as plain,
    ):
        yield plain


def rehearse(world: World, asked: Asked, *, limit: int) -> tuple[Sequence[Change | str], int]:
    """The first changes that would be written, or why one cannot be, and the count of all rows.

    Raises: as ``start``.
    Writes: nothing.
    """
    count = _checked(world, asked, counts=True) or 0
    source, shown, after = _source(asked), list[Change | str](), None
    with _source_reading(world, asked) as connection:
        while len(shown) < limit:
            try:
                page = source.page(connection, after, limit)
            except Locked:
                raise BackfillError("somebody is changing the first rows now; try again") from None
            for line in page.lines:
                if line.problem is not None:
                    shown.append(line.problem)
                elif line.change is not None:
                    shown.append(_judged(world, line.change))
            if page.is_last or not page.lines:
                break
            after = page.last
    return tuple(islice(shown, limit)), count


def _judged(world: World, change: Change) -> Change | str:
    try:
        checked(change, world.settings.kinds)
    except ChangeError as error:
        return str(error)
    return change


def steer(
    world: World, code: str, to: BackfillState, values: Mapping[str, object] | None = None
) -> None:
    """Pause, resume or cancel a back-fill; a step that is just being written is undone.

    Raises: BackfillError if there is none, or it is over.
    Writes: backfill.
    """

    def move(connection: Connection) -> None:
        found = backfills.find(connection, code)
        if found is None:
            known = ", ".join(each.code for each in backfills.listed(connection)) or "none"
            raise BackfillError(f"there is no back-fill {code!r}; known are: {known}")
        if not backfills.steer(connection, code, to, values):
            raise BackfillError(f"the back-fill {code!r} is {found.state}; that is its end")

    transact(world.engine, move)
