"""Benchmarks that drop their tables afterwards take no database in which somebody has some."""

import click
from sqlalchemy import Engine, inspect

from b24sync.edge.tables import PREFIX


def must_be_empty(engine: Engine) -> None:
    """Refuse a database that holds tables of this package.

    Raises: click.ClickException.
    """
    there = sorted(name for name in inspect(engine).get_table_names() if name.startswith(PREFIX))
    if there:
        raise click.ClickException(
            f"this database holds {there[0]} and would lose it; give one without such tables"
        )
