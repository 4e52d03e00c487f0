"""Many values as one parameter.

A list of fifty numbers written out makes fifty parameters, which are bound one by one, and a text
that differs with the length of the list, which is compiled and parsed anew each time. Here a list is
one JSON document, taken apart by the database; MariaDB and MySQL would read whole tables for that in
an UPDATE, and their driver writes the list into the text by itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import BigInteger, Boolean, ColumnElement, SmallInteger, Text, bindparam
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator

from b24sync.edge.database import MYSQL_NAMES

if TYPE_CHECKING:
    from sqlalchemy.sql.elements import BindParameter


class Listed(TypeDecorator[Sequence[Any]]):
    """A list of numbers or texts as one parameter."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:  # noqa: ANN401 - the driver's own
        """Write the list as its driver takes it."""
        if value is None or dialect.name not in MYSQL_NAMES:
            return json.dumps(value and list(value), separators=(",", ":"))
        # Nothing is written as a list of nothing, which no column equals.
        return tuple(value) or (None,)


class Mapped(TypeDecorator[Mapping[int, int]]):
    """Numbers by number as one parameter."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[int, int] | None, dialect: Dialect) -> str:
        """Write the numbers as a JSON object, which every driver takes."""
        del dialect
        return json.dumps(value or {}, separators=(",", ":"))


class among(FunctionElement[bool]):  # noqa: N801 - reads as the SQL operator it is
    """Whether a column's value is in a list that is one parameter."""

    type = Boolean()
    inherit_cache = True
    name = "among"

    def __init__(self, column: ColumnElement[Any], listed: "BindParameter[Any]") -> None:
        """Take the column and the parameter, whose type is ``Listed``."""
        super().__init__(column, listed)

    def self_group(self, against: OperatorType | None = None) -> Self:
        """Stand as a condition as it is: compared with true, no index would be used for it."""
        del against
        return self


class not_among(among):  # noqa: N801 - as above
    """Whether a column's value is not in a list that is one parameter."""

    inherit_cache = True
    name = "not_among"


def is_in(column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a column's value is one of these; as ``among``, with the values at hand."""
    return among(column, bindparam(None, list(values), type_=Listed(), unique=True))


class Spread(TypeDecorator[Sequence[str]]):
    """A list of texts as one parameter, for ``each_of``."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:
        """Write the list as a JSON array, which every driver takes."""
        del dialect
        return json.dumps(list(value or ()), separators=(",", ":"))


class each_of(FunctionElement[str]):  # noqa: N801 - as above
    """The texts of a list that is one parameter, whose type is ``Spread``, as rows."""

    type = Text()
    inherit_cache = True
    name = "each_of"


class number_of(FunctionElement[int]):  # noqa: N801 - as above
    """The number that belongs to a column's number, in a parameter whose type is ``Mapped``."""

    type = SmallInteger()
    inherit_cache = True
    name = "number_of"


@compiles(among)
def _among_sqlite(element: among, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own
    column, listed = (compiler.process(part, **kw) for part in element.clauses)
    return f"{column} {_sign(element)} (SELECT value FROM json_each({listed}))"  # noqa: S608 - of compiled parts


def _sign(element: among) -> str:
    return "NOT IN" if isinstance(element, not_among) else "IN"


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    # As an array, which is made once and looked up in an index.
    first, *_ = element.clauses
    column, listed = (compiler.process(part, **kw) for part in element.clauses)
    member = f"json_array_elements_text(CAST({listed} AS JSON))"
    is_number = isinstance(first.type, BigInteger)
    member = f"CAST({member} AS BIGINT)" if is_number else member
    sign = "<> ALL" if isinstance(element, not_among) else "= ANY"
    return f"{column} {sign} (ARRAY(SELECT {member}))"


@compiles(among, "mysql", "mariadb")
def _among_mysql(element: among, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    column, listed = (compiler.process(part, **kw) for part in element.clauses)
    return f"{column} {_sign(element)} {listed}"


@compiles(each_of)
def _each_sqlite(element: each_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(each_of, "postgresql")
def _each_postgresql(element: each_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **kw)} AS JSON))"


@compiles(each_of, "mysql", "mariadb")
def _each_mysql(element: each_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    column = "value VARCHAR(190) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$'"
    return f"JSON_TABLE({compiler.process(element.clauses, **kw)}, '$[*]' COLUMNS ({column}))"


@compiles(number_of)
def _number_sqlite(element: number_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    column, mapped = (compiler.process(part, **kw) for part in element.clauses)
    return f"""json_extract({mapped}, '$."' || {column} || '"')"""


@compiles(number_of, "postgresql")
def _number_postgresql(element: number_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    # Read once, as a query of its own, and not once for each row.
    column, mapped = (compiler.process(part, **kw) for part in element.clauses)
    return f"CAST((SELECT CAST({mapped} AS JSONB)) ->> CAST({column} AS TEXT) AS SMALLINT)"


@compiles(number_of, "mysql", "mariadb")
def _number_mysql(element: number_of, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401 - as above
    column, mapped = (compiler.process(part, **kw) for part in element.clauses)
    return f"""JSON_EXTRACT({mapped}, CONCAT('$."', {column}, '"'))"""
