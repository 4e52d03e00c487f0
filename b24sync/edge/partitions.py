"""The partitions of the results as they stand in the database: looked at, made and dropped.

A writer never waits long for any of this, and never fails for it: whatever needs a lock gives up
after half a second and is tried again by the next run, because behind a statement that waits for a
lock everybody else waits too. A result that no dated partition covers goes to the catch-all.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from b24sync.core.retention import BEGINNING_MS, END_MS, Grain, Partition, is_short
from b24sync.edge.database import MYSQL_NAMES, now_ms, reading, writing
from b24sync.edge.drift import Problem
from b24sync.edge.tables import REST, result

LOCK_WAIT_MS = 500
"""How long anybody may have to wait behind a statement of this module that waits for a lock."""
LONGEST_MS = 5000
"""How long such a statement may take once it has its lock."""
MOVED_AT_MOST = 10_000
"""Results that are moved out of the catch-all in one go, while writers wait."""

_BOUNDS = re.compile(
    r"FOR VALUES FROM \('?(\d+|MINVALUE)'?\) TO \('?(\d+|MAXVALUE)'?\)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored(Partition):
    """A partition with its size, as far as the database keeps count.

    Shape: ``rows`` is an estimate.
    """

    rows: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitions:
    """All partitions of the results, the earliest first.

    Shape: ``rest_rows`` are in the catch-all, counted up to one more than are moved in one go.
    Units: ``now_ms`` is the database's clock.
    """

    dated: tuple[Stored, ...]
    rest_rows: int
    now_ms: int


class HinderedError(Exception):
    """Something about partitions could not be done now; in one line, why."""


class CrowdedError(HinderedError):
    """The catch-all holds too much for it to be moved without anybody having said so."""


def schema_of(connection: Connection) -> str | None:
    """The schema that ``make_engine`` was told to use; None for the database's usual one."""
    translated: Mapping[str | None, str | None]
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get(None)


def look(connection: Connection) -> Partitions | None:
    """The partitions; ``None`` where results stand in one table.

    Writes: nothing.
    """
    match connection.dialect.name:
        case "sqlite":
            return None
        case "postgresql":
            dated = _look_postgresql(connection)
        case _:
            dated = _look_mysql(connection)
    if dated is None:
        return None
    return Partitions(
        dated=tuple(sorted(dated, key=lambda part: part.to_ms)),
        rest_rows=_rest_rows(connection, BEGINNING_MS, END_MS),
        now_ms=int(connection.execute(select(now_ms())).scalar_one()),
    )


def make(engine: Engine, part: Partition, *, at_most: int | None = MOVED_AT_MOST) -> None:
    """Make one partition, and move what the catch-all holds for it.

    ``at_most`` bounds the results to move; ``None``, all of them, while writers wait.
    Raises: HinderedError.
    Writes: the table's shape.
    """
    with _brief(engine, longest_ms=LONGEST_MS if at_most is not None else 0) as connection:
        is_cut = connection.dialect.name in MYSQL_NAMES
        # To cut the catch-all in two, MariaDB and MySQL write all of it anew.
        stretch = (BEGINNING_MS, END_MS) if is_cut else (part.from_ms, part.to_ms)
        to_move = _rest_rows(connection, *stretch, at_most)
        if at_most is not None and to_move > at_most:
            raise CrowdedError(f"the catch-all holds more than {at_most} results to move")
        if connection.dialect.name == "postgresql":
            _make_postgresql(connection, part, is_empty=to_move == 0)
        else:
            _make_mysql(connection, part)


def drop(engine: Engine, part: Partition) -> None:
    """Drop one partition with all that it holds.

    Raises: HinderedError.
    Writes: the table's shape.
    """
    with _brief(engine, longest_ms=0) as connection:
        if connection.dialect.name == "postgresql":
            _run(connection, f"DROP TABLE {_written(connection, part.name)}")
        else:
            name = connection.dialect.identifier_preparer.quote(part.name)
            _run(connection, f"ALTER TABLE {_written(connection)} DROP PARTITION {name}")


def problems(connection: Connection, grain: Grain) -> tuple[Problem, ...]:
    """What somebody should know of the partitions; nothing of it stops a writer.

    Writes: nothing.
    """
    found = look(connection)
    if found is None or grain is Grain.NONE:
        return ()
    said: list[str] = []
    if is_short(found.dated, grain, found.now_ms):
        said.append(
            "the next partition is missing, so results go to the catch-all: is beat running? "
            "`b24sync prune` makes partitions too"
        )
    if found.rest_rows:
        many = f"more than {MOVED_AT_MOST}" if found.rest_rows > MOVED_AT_MOST else found.rest_rows
        said.append(
            f"the catch-all partition holds {many} results, which are removed one by one: "
            "`b24sync prune --move` moves them, while writers wait"
        )
    return tuple(Problem(subject=result.name, text=line, blocks=False) for line in said)


def in_rest(connection: Connection) -> str:
    """The catch-all as a statement names it: a table of its own, or a part of the one table."""
    if connection.dialect.name == "postgresql":
        return _written(connection, f"{result.name}_{REST}")
    return f"{_written(connection)} PARTITION ({REST})"


def _look_postgresql(connection: Connection) -> list[Stored] | None:
    whole = {"whole": _written(connection)}
    kind = connection.scalar(
        text("SELECT relkind FROM pg_class WHERE oid = to_regclass(:whole)"), whole
    )
    if kind not in {"p", b"p"}:
        return None
    found = connection.execute(
        text(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), "
            "greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0), "
            "pg_total_relation_size(c.oid) "
            "FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = to_regclass(:whole)"
        ),
        whole,
    )
    dated: list[Stored] = []
    for name, bounds, rows, size in found:
        said = _BOUNDS.fullmatch(bounds)
        if said is not None:
            begin = BEGINNING_MS if said[1].upper() == "MINVALUE" else int(said[1])
            end = END_MS if said[2].upper() == "MAXVALUE" else int(said[2])
            dated.append(
                Stored(name=name, from_ms=begin, to_ms=end, rows=int(rows), size=int(size))
            )
    return dated


def _look_mysql(connection: Connection) -> list[Stored] | None:
    found = connection.execute(
        text(
            "SELECT partition_name, partition_description, table_rows, "
            "data_length + index_length FROM information_schema.partitions "
            "WHERE table_schema = coalesce(:schema, database()) AND table_name = :name "
            "AND partition_name IS NOT NULL ORDER BY partition_ordinal_position"
        ),
        {"schema": schema_of(connection), "name": result.name},
    ).all()
    if not found:
        return None
    dated: list[Stored] = []
    begin = BEGINNING_MS
    for name, end, rows, size in found:
        if str(end).isdecimal():
            dated.append(
                Stored(
                    name=name, from_ms=begin, to_ms=int(end), rows=int(rows or 0), size=int(size)
                )
            )
            begin = int(end)
    return dated


def _rest_rows(
    connection: Connection, from_ms: int, to_ms: int, at_most: int | None = MOVED_AT_MOST
) -> int:
    """Results in the catch-all, of a stretch of time; not counted much further than needed."""
    rows = (
        f"SELECT 1 FROM {in_rest(connection)} "  # noqa: S608 - a name, and quoted
        "WHERE finished_at >= :from_ms AND finished_at < :to_ms LIMIT :limit"
    )
    bounds = {"from_ms": from_ms, "to_ms": to_ms, "limit": (at_most or MOVED_AT_MOST) + 1}
    counted = text(f"SELECT count(*) FROM ({rows}) AS found")  # noqa: S608 - names, and quoted
    return int(connection.execute(counted, bounds).scalar_one())


def _make_postgresql(connection: Connection, part: Partition, *, is_empty: bool) -> None:
    """Beside the table, and then attached: that locks the catch-all for a moment, and not the table."""
    whole, rest = _written(connection), in_rest(connection)
    mine = _written(connection, f"{result.name}_{part.name}")
    like = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE"
    _run(connection, f"CREATE TABLE {mine} (LIKE {whole} {like})")
    if not is_empty:
        _run(connection, f"LOCK TABLE {rest} IN ACCESS EXCLUSIVE MODE")
        moved = (
            f"DELETE FROM {rest} WHERE finished_at >= {part.from_ms} "  # noqa: S608 - numbers
            f"AND finished_at < {part.to_ms} RETURNING *"
        )
        _run(connection, f"WITH moved AS ({moved}) INSERT INTO {mine} SELECT * FROM moved")  # noqa: S608
    bounds = f"FROM ({part.from_ms}) TO ({part.to_ms})"
    _run(connection, f"ALTER TABLE {whole} ATTACH PARTITION {mine} FOR VALUES {bounds}")


def _make_mysql(connection: Connection, part: Partition) -> None:
    """Behind a partition without an end none can be added; that one is cut in two."""
    cut = (
        f"PARTITION {part.name} VALUES LESS THAN ({part.to_ms}), "
        f"PARTITION {REST} VALUES LESS THAN MAXVALUE"
    )
    _run(connection, f"ALTER TABLE {_written(connection)} REORGANIZE PARTITION {REST} INTO ({cut})")


@contextmanager
def _brief(engine: Engine, *, longest_ms: int) -> Generator[Connection]:
    """A transaction that would rather not happen than let others wait.

    Not tried again at once, as others are: each try lets them wait once more.
    """
    try:
        with writing(engine) as connection:
            if connection.dialect.name in MYSQL_NAMES:
                _run(connection, "SET SESSION lock_wait_timeout = 1")
            else:
                _run(connection, f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
                _run(connection, f"SET LOCAL statement_timeout = {longest_ms}")
            try:
                yield connection
            finally:
                if connection.dialect.name in MYSQL_NAMES and not connection.invalidated:
                    _run(connection, "SET SESSION lock_wait_timeout = DEFAULT")
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise HinderedError(_one_line(error)) from error


def _one_line(error: DBAPIError) -> str:
    arguments = error.orig.args if error.orig is not None else ()
    said = str(arguments[-1] if arguments else error)
    return (said.splitlines() or [type(error).__name__])[0]


def _run(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)


def _written(connection: Connection, name: str = result.name) -> str:
    """The name of a table with its schema, as a statement has it."""
    quote = connection.dialect.identifier_preparer.quote
    schema = schema_of(connection)
    return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"


def prepare(engine: Engine, parts: tuple[Partition, ...]) -> None:
    """Make partitions, as far as nothing hinders it; what is missing then is told of by ``problems``.

    Writes: the table's shape.
    """
    for part in parts:
        try:
            make(engine, part)
        except HinderedError:
            return


def current(engine: Engine) -> Partitions | None:
    """The same as ``look``, in a transaction of its own."""
    with reading(engine) as connection:
        return look(connection)
