"""How a database differs from what this code expects of it.

Alembic compares tables, columns and plain indexes. It is blind to CHECKs, to the predicates of
partial indexes, to collations, and no two databases spell a default alike; so those are read from
the catalogue and compared by their gist: the names, numbers and words that stand in them. Nothing
is changed here, and the version of the tables is somebody else's question.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    DefaultClause,
    Dialect,
    Executable,
    Index,
    Inspector,
    MetaData,
    Table,
    create_mock_engine,
    inspect,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable, SchemaConst

from b24sync.edge import tables
from b24sync.edge.database import MYSQL_NAMES

UNSAID = frozenset(
    (
        "and",
        "or",
        "not",
        "in",
        "any",
        "all",
        "array",
        "between",
        "as",
        "cast",
        "from",
        "null",
        "character",
        "varying",
        "text",
        "bigint",
        "smallint",
        "integer",
        "numeric",
        "double",
        "precision",
        "_utf8mb4",
    )
)
"""Words that one database adds, and another leaves out, without changing the meaning."""

SAME = {"true": "1", "false": "0", "octet_length": "length"}
"""Words that one database writes down for another."""

WORDS = re.compile(r"is not null|is null|'(?:[^']|'')*'|[a-z_][a-z0-9_]*|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing about the database that is not as it should be."""

    subject: str
    """A table, or the database itself."""
    text: str
    """What is wrong with it, in one line."""
    blocks: bool = True
    """Whether work should not go on; otherwise it is only worth knowing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the metadata makes on one kind of database."""

    statements: dict[str, str]
    """``CREATE TABLE`` by table."""
    indexes: dict[str, Index]
    """By name."""


def differences(connection: Connection, schema: str | None) -> Iterator[Problem]:
    """What is missing, other, or not ours in the tables.

    Raises: the driver's own errors.
    """
    made = _made(connection)
    yield from _by_alembic(connection, schema, made)
    inspector = inspect(connection)
    there = set(inspector.get_table_names(schema=schema))
    for table in tables.metadata.tables.values():
        if table.name in there:
            yield from _checks(inspector, schema, table, made)
            yield from _predicates(inspector, schema, table, made)
            yield from _columns(connection, schema, table)


def _by_alembic(connection: Connection, schema: str | None, made: Made) -> Iterator[Problem]:
    expected = MetaData(naming_convention=tables.NAMING)
    for table in tables.metadata.tables.values():
        table.to_metadata(expected, schema=schema or SchemaConst.RETAIN_SCHEMA)

    def ours(name: str | None, kind: str, _parents: object) -> bool:
        if kind == "schema":
            return name == schema
        return kind != "table" or name in tables.metadata.tables

    options = {
        "compare_type": True,
        "include_schemas": schema is not None,
        "include_name": ours,
    }
    context = MigrationContext.configure(connection, opts=options)
    # What is changed in one column comes as a list, everything else as it is.
    found: list[list[tuple[Any, ...]] | tuple[Any, ...]] = compare_metadata(context, expected)
    for one in found:
        for difference in one if isinstance(one, list) else [one]:
            yield from _in_words(difference, made)


def _in_words(found: tuple[Any, ...], made: Made) -> Iterator[Problem]:
    """One difference as Alembic gives it: what would have to be done, and to what."""
    match found:
        case ("add_table", table):
            yield Problem(subject=table.name, text="the table is missing")
        case ("add_column", _, table, column):
            yield Problem(subject=table, text=f"the column {column.name} is missing")
        case ("remove_column", _, table, column):
            harmless = column.nullable or column.server_default is not None
            yield Problem(
                subject=table, text=f"the column {column.name} is not ours", blocks=not harmless
            )
        case ("add_index", index) if index.name not in made.indexes:
            return
        case ("add_index" | "add_constraint", item):
            yield Problem(subject=item.table.name, text=f"{item.name} is missing")
        case ("remove_index", index):
            yield Problem(
                subject=index.table.name,
                text=f"the index {index.name} is not ours",
                blocks=bool(index.unique),
            )
        case ("remove_constraint", item):
            yield Problem(subject=item.table.name, text=f"{item.name} is not ours")
        case ("modify_type", *_, was, wanted) if _without_collation(was) == str(wanted):
            return
        case (str(change), _, table, column, _, was, wanted):
            what = change.removeprefix("modify_")
            yield Problem(
                subject=table, text=f"the column {column} has {what} {was}, expected {wanted}"
            )
        case _:
            yield Problem(subject="tables", text=f"an unforeseen difference: {found[0]}")


def _without_collation(type_: object) -> str:
    """A type as Alembic shows it; collations are compared with the other things it is blind to."""
    return str(type_).partition(" COLLATE ")[0]


def _checks(
    inspector: Inspector, schema: str | None, table: Table, made: Made
) -> Iterator[Problem]:
    found = {
        str(check["name"]): check["sqltext"]
        for check in inspector.get_check_constraints(table.name, schema=schema)
    }
    for check in table.constraints:
        name = str(check.name)
        if not isinstance(check, CheckConstraint):
            continue
        if f"CONSTRAINT {name} CHECK" not in made.statements[table.name]:
            continue
        if name not in found:
            yield Problem(subject=table.name, text=f"the CHECK {name} is missing")
        elif gist(found[name]) != gist(str(check.sqltext)):
            yield Problem(subject=table.name, text=f"the CHECK {name} is another: {found[name]}")


def _predicates(
    inspector: Inspector, schema: str | None, table: Table, made: Made
) -> Iterator[Problem]:
    dialect = inspector.dialect.name
    for found in inspector.get_indexes(table.name, schema=schema):
        expected = made.indexes.get(str(found["name"]))
        if expected is None or dialect in MYSQL_NAMES:
            continue
        is_ = found.get("dialect_options", {}).get(f"{dialect}_where")
        wanted = expected.dialect_options[dialect]["where"]
        if gist(_written(is_)) != gist(_written(wanted)):
            yield Problem(
                subject=table.name, text=f"the index {expected.name} is another: WHERE {is_}"
            )


def _written(predicate: object) -> str:
    return "" if predicate is None else str(predicate)


def _columns(connection: Connection, schema: str | None, table: Table) -> Iterator[Problem]:
    dialect = connection.dialect
    for name, is_, compares in _stored(connection, schema, table):
        column = table.columns.get(name)
        if column is None:
            continue
        wanted = _default(column, dialect)
        # The databases each have their own way to number rows, and show it as a default or not.
        if name != "id" and gist(is_) != gist(wanted):
            complaint = (
                f"the column {name} has default {is_ or 'none'}, expected {wanted or 'none'}"
            )
            yield Problem(subject=table.name, text=complaint)
        _, collates, collation = column.type.compile(dialect).partition(" COLLATE ")
        if collates and compares != collation.strip('"'):
            complaint = (
                f"the column {name} compares by {compares or 'default'}, expected {collation}"
            )
            yield Problem(subject=table.name, text=complaint)


def _stored(
    connection: Connection, schema: str | None, table: Table
) -> Iterator[tuple[str, str, str]]:
    """Name, default and collation of each column; SQLite has one collation and no such catalogue.

    SQLAlchemy's own reflection cuts MariaDB's defaults and leaves out its default collation.
    """
    if connection.dialect.name == "sqlite":
        for found in inspect(connection).get_columns(table.name):
            yield found["name"], found["default"] or "", ""
        return
    statement = text(
        "SELECT column_name, column_default, collation_name FROM information_schema.columns "
        "WHERE table_name = :table AND table_schema = :schema"
    )
    where = schema or connection.dialect.default_schema_name
    for name, default, collation in connection.execute(
        statement, {"table": table.name, "schema": where}
    ):
        yield str(name), str(default or ""), str(collation or "")


def _default(column: Column[Any], dialect: Dialect) -> str:
    if not isinstance(column.server_default, DefaultClause):
        return ""
    value = column.server_default.arg
    return repr(str(value)) if isinstance(value, str) else str(value.compile(dialect=dialect))


def gist(sql: str) -> frozenset[str]:
    """The words that carry an expression's meaning, however a database writes it down again.

    Shape: literals without quotes, numbers, names of columns and functions; operators are lost.
    Raises: nothing.
    """
    words = (found[0].strip("'") for found in WORDS.finditer(sql.lower().replace("\\'", "'")))
    return frozenset(SAME.get(word, word) for word in words if word not in UNSAID)


def _made(connection: Connection) -> Made:
    """Let SQLAlchemy make the tables nowhere, and note what it would have made here."""
    made = Made(statements={}, indexes={})
    dialect = connection.dialect

    def note(statement: Executable, *_: object, **__: object) -> None:
        if isinstance(statement, CreateTable):
            made.statements[statement.element.name] = str(statement.compile(dialect=dialect))
        if isinstance(statement, CreateIndex):
            made.indexes[str(statement.element.name)] = statement.element

    engine = create_mock_engine(connection.engine.url, note)
    tables.metadata.create_all(engine, checkfirst=False)
    return made
