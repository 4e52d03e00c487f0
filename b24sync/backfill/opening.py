"""Where a back-fill reads, opened from what its row says of it."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from sqlalchemy import Connection, Engine, Select
from sqlalchemy.exc import InterfaceError, OperationalError

from b24sync.capture import filling
from b24sync.capture.sessions import Captured
from b24sync.core.backfilling import Key, Line, Page, Recipe, page_end, said
from b24sync.core.errors import BackfillError, ChangeError
from b24sync.edge import sources
from b24sync.edge.database import make_engine, unreachable
from b24sync.edge.sources import Query
from b24sync.world import World


def captured(name: str, mapped: str | None = None) -> dict[str, object]:
    """The source of what ``capture`` returned, by the name ``module:attribute``."""
    return {"sort": "captured", "name": name, "class": mapped}


def query(
    sql: str, keys: Sequence[str], recipe: Recipe, *, locks: bool = True, elsewhere: bool = False
) -> dict[str, object]:
    """The source of a query; ``elsewhere``, in the database of the setting ``source_url``."""
    where = {"locks": locks, "elsewhere": elsewhere}
    return {"sort": "query", "query": sql, "keys": list(keys), **_written(recipe), **where}


def selected(
    name: str, keys: Sequence[str], recipe: Recipe, *, locks: bool = True, elsewhere: bool = False
) -> dict[str, object]:
    """The source of a function ``module:function`` that makes a SQLAlchemy select."""
    where = {"locks": locks, "elsewhere": elsewhere}
    return {"sort": "select", "name": name, "keys": list(keys), **_written(recipe), **where}


def _written(recipe: Recipe) -> dict[str, object]:
    return {
        "key": recipe.key,
        "operation": recipe.operation,
        "fields": dict(recipe.fields),
        "references": {name: list(to) for name, to in recipe.references.items()},
        "constants": dict(recipe.constants),
    }


def _recipe(document: Mapping[str, Any]) -> Recipe:
    return Recipe(
        key=document["key"],
        operation=document["operation"],
        fields=document["fields"],
        references={
            name: (kind, column) for name, (kind, column) in document["references"].items()
        },
        constants=document["constants"],
    )


class Source(Protocol):
    """Where rows are read."""

    def page(self, connection: Connection, after: Key | None, limit: int) -> Page:
        """The next rows.

        Raises: Locked; BackfillError.
        """
        ...

    def check(self, connection: Connection) -> None:
        """Look whether rows can be read at all.

        Raises: BackfillError.
        """
        ...

    def count(self, connection: Connection) -> int:
        """How many rows there are."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfCaptured:
    filling: filling.Filling
    portal: str

    def page(self, connection: Connection, after: Key | None, limit: int) -> Page:
        return filling.read(connection, self.filling, self.portal, after, limit=limit)

    def check(self, connection: Connection) -> None:
        filling.read(connection, self.filling, self.portal, None, limit=1)

    def count(self, connection: Connection) -> int:
        return filling.count(connection, self.filling)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfQuery:
    query: Query
    recipe: Recipe
    kind: str
    portal: str

    def page(self, connection: Connection, after: Key | None, limit: int) -> Page:
        found = sources.read(connection, self.query, after, limit=limit + 1)
        end = page_end([key for key, _ in found], limit)
        if end == 0:
            return Page(is_last=not found)
        lines = tuple(self._line(row) for _, row in found[:end])
        return Page(lines=lines, last=found[end - 1][0], is_last=len(found) == end)

    def _line(self, row: Mapping[str, object]) -> Line:
        try:
            return Line(change=said(self.recipe, self.kind, self.portal, row))
        except ChangeError as error:
            return Line(problem=str(error))

    def check(self, connection: Connection) -> None:
        names = sources.column_names(connection, self.query)
        for name in (*self.query.keys, *self.recipe.columns):
            if name not in names:
                there = ", ".join(names)
                raise BackfillError(f"the query has no column {name}; it has {there}")
        if sources.has_null_keys(connection, self.query):
            raise BackfillError(
                f"{', '.join(self.query.keys)} is NULL in some rows; leave them out of the query, "
                "or choose another key"
            )

    def count(self, connection: Connection) -> int:
        return sources.count(connection, self.query)


def source_of(document: Mapping[str, Any], *, kind: str, portal: str) -> Source:
    """The source that a document describes.

    Raises: BackfillError.
    """
    if document["sort"] == "captured":
        found = _named(document["name"])
        if not isinstance(found, Captured):
            raise BackfillError(f"{document['name']} is not what capture(…) returned")
        of_class = filling.filling_of(found, kind, document["class"])
        return _OfCaptured(filling=of_class, portal=portal)
    what = document["query"] if document["sort"] == "query" else _made(document["name"])
    asked = Query(what=what, keys=tuple(document["keys"]), locks=document["locks"])
    return _OfQuery(query=asked, recipe=_recipe(document), kind=kind, portal=portal)


def _made(name: str) -> Select[Any]:
    function = _named(name)
    if not callable(function):
        raise BackfillError(f"{name} is not a function that makes a select")
    try:
        made: object = function()
    except Exception as error:
        raise BackfillError(f"{name} fails with {type(error).__name__}: {error}") from error
    if not isinstance(made, Select):
        raise BackfillError(f"{name} does not make a select")
    return cast("Select[Any]", made)


def _named(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise BackfillError(f"{name} cannot be imported: {error}") from None
    return found


@contextmanager
def elsewhere(world: World, document: Mapping[str, Any]) -> Generator[Engine | None]:
    """An engine on the other database, if the source is there.

    Raises: BackfillError if nobody says where that is; DatabaseError if it cannot be reached.
    """
    if not document.get("elsewhere", False):
        yield None
        return
    if world.settings.source_url is None:
        raise BackfillError("the source is in another database, and B24SYNC_SOURCE_URL is not set")
    engine = make_engine(world.settings.source_url, pool_size=1, is_guest=True)
    try:
        with engine.connect():
            pass
    except (OperationalError, InterfaceError) as error:
        raise unreachable(engine, error) from None
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def plainly(connection: Connection) -> Generator[Connection]:
    """Our own connection, for this long without the schema of our tables: the source's are others."""
    before = connection.get_execution_options().get("schema_translate_map")
    if not before:
        yield connection
        return
    connection.execution_options(schema_translate_map={})
    try:
        yield connection
    finally:
        connection.execution_options(schema_translate_map=before)
