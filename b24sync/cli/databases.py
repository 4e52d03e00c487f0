"""``b24sync db``: make the tables, compare them, take them back."""

from collections.abc import Generator
from contextlib import contextmanager

import click
from rich.text import Text
from sqlalchemy import Engine

from b24sync.cli.desk import FAILED, Desk, as_json, confirmed, epilog
from b24sync.cli.layout import counted
from b24sync.edge import schema
from b24sync.edge.database import make_engine


@click.group()
def db() -> None:
    """Make, compare and remove the tables."""


@db.command(
    epilog=epilog(
        "b24sync db upgrade",
        "b24sync db upgrade --sql postgresql > upgrade.sql",
        exits="0  the tables are up to date; 2  wrong settings; 3  the database cannot be used",
    )
)
@click.option(
    "--sql",
    "dialect",
    metavar="DIALECT",
    help="Print the statements for sqlite, postgresql, mysql or mariadb instead of running them.",
)
@as_json
@click.pass_obj
def upgrade(desk: Desk, dialect: str | None, *, as_json: bool) -> None:
    """Bring the tables to this version's shape; safe to run at every deployment.

    Any number of processes may run it at once: one migrates, the others wait for it.
    """
    if dialect is not None:
        url = dialect if "://" in dialect else f"{dialect}://"
        click.echo(schema.sql(url))
        return
    with _engine(desk) as engine:
        before = schema.current(engine)
        schema.upgrade(engine, grain=desk.settings().grain)
        after = schema.current(engine)
    if as_json:
        desk.emit({"before": before, "after": after})
    elif before == after:
        desk.show(Text(f"the tables are up to date ({after})"))
    else:
        desk.show(Text(f"the tables are now at {after} (before: {before or 'none'})"))


@db.command(
    epilog=epilog(
        "b24sync db check",
        exits="0  all is well; 1  something is not as it should be; 3  the database cannot be used",
    )
)
@as_json
@click.pass_obj
def check(desk: Desk, *, as_json: bool) -> int:
    """Compare the database with what this version expects of it.

    Columns, checks, indexes and collations are compared, and the server's own settings looked at.
    """
    with _engine(desk) as engine:
        problems = schema.check(engine, desk.settings().grain)
    if as_json:
        found = [{"subject": p.subject, "text": p.text, "blocks": p.blocks} for p in problems]
        desk.emit({"problems": found})
    for problem in () if as_json else problems:
        mark = Text("✗ ", "red") if problem.blocks else Text("! ", "yellow")
        desk.show(mark.append(problem.subject, "bold").append(f": {problem.text}", "default"))
    if not problems and not as_json:
        desk.show(Text("✓ the tables are as they should be", "green"))
    elif not as_json:
        desk.note(counted(len(problems), "problem"))
    return FAILED if any(problem.blocks for problem in problems) else 0


@db.command(
    epilog=epilog(
        "b24sync db downgrade base --yes",
        exits="0  done; 2  not confirmed; 3  the database cannot be used, or no such revision",
    )
)
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def downgrade(desk: Desk, revision: str, *, yes: bool, as_json: bool) -> None:
    """Take the tables back to REVISION; `base` removes them with all they hold."""
    confirmed(f"Take the tables back to {revision}? What they hold may be lost.", is_agreed=yes)
    with _engine(desk) as engine:
        before = schema.current(engine)
        schema.downgrade(engine, revision)
        after = schema.current(engine)
    if as_json:
        desk.emit({"before": before, "after": after})
    else:
        desk.show(Text(f"the tables are now at {after or 'none'} (before: {before or 'none'})"))


@db.command(
    epilog=epilog(
        "b24sync db stamp head",
        exits="0  done; 3  the database cannot be used, or no such revision",
    )
)
@click.argument("revision", default="head")
@as_json
@click.pass_obj
def stamp(desk: Desk, revision: str, *, as_json: bool) -> None:
    """Believe that the tables are at REVISION, and note it; nothing else is changed.

    For tables that another Alembic history made and that are handed over once.
    """
    with _engine(desk) as engine:
        before = schema.current(engine)
        schema.stamp(engine, revision)
        after = schema.current(engine)
    if as_json:
        desk.emit({"before": before, "after": after})
    else:
        desk.show(Text(f"the tables count as {after}"))


@contextmanager
def _engine(desk: Desk) -> Generator[Engine]:
    """An engine on tables of any version, or on none."""
    settings = desk.settings()
    engine = make_engine(settings.database_url, schema=settings.schema)
    try:
        yield engine
    finally:
        engine.dispose()
