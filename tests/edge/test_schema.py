"""Migrations: what they make, how they are run, and what is said when the tables are not right."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.runtime import plugins
from sqlalchemy import Engine, inspect, text

from b24sync import alembic_plugin
from b24sync.core.errors import DatabaseError
from b24sync.core.retention import Grain, missing
from b24sync.edge import partitions, schema, tables
from b24sync.edge.database import make_engine, reading, writing

PATIENCE_S = 60
HEAD = "b24sync_0001"
PLUGIN = "alembic.autogenerate.b24sync"

HOST_ENV = """
from alembic import context
from sqlalchemy import MetaData
from b24sync.edge.database import make_engine, writing
{imports}

engine = make_engine(context.config.get_main_option("sqlalchemy.url"))
try:
    with writing(engine) as connection:
        context.configure(connection=connection, target_metadata=MetaData(){options})
        with context.begin_transaction():
            context.run_migrations()
finally:
    engine.dispose()
"""

HOST_STEP = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

def upgrade():
    op.create_table("customer", sa.Column("id", sa.Integer(), primary_key=True))

def downgrade():
    op.drop_table("customer")
"""

NEXT_STEP = '''
"""A later version."""

from alembic import op
import sqlalchemy as sa

revision = "b24sync_0002"
down_revision = "b24sync_0001"

def upgrade():
    op.add_column("b24sync_chore", sa.Column("later", sa.Integer()))

def downgrade():
    op.drop_column("b24sync_chore", "later")
'''

POSTGRESQL_CATALOGUE = """
SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' '
       || a.attnotnull || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '-') || ' '
       || coalesce(l.collname, '-')
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attnum > 0
UNION ALL
SELECT t.conname || ' ' || pg_get_constraintdef(t.oid)
  FROM pg_constraint t JOIN pg_namespace n ON n.oid = t.connamespace
 WHERE n.nspname = current_schema()
UNION ALL
SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()
UNION ALL
SELECT c.relname || ' ' || coalesce(pg_get_partkeydef(c.oid), '-') || ' '
       || coalesce(pg_get_expr(c.relpartbound, c.oid), '-')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema()
UNION ALL
SELECT c.relname || ' WITH ' || coalesce(array_to_string(c.reloptions, ','), '-')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema()
"""


def _catalogue(engine: Engine) -> set[str]:
    """Everything that the database itself can tell of the tables, line by line."""
    with reading(engine) as connection:
        match connection.dialect.name:
            case "postgresql":
                lines = list(connection.scalars(text(POSTGRESQL_CATALOGUE)))
            case "sqlite":
                made = connection.scalars(text("SELECT sql FROM sqlite_master WHERE sql <> ''"))
                lines = [line for statement in made for line in _lines(statement)]
            case _:
                names = inspect(connection).get_table_names()
                shown = [connection.execute(text(f"SHOW CREATE TABLE {name}")) for name in names]
                lines = [line for each in shown for line in _lines(each.one()[1])]
    return {line for line in lines if schema.VERSION_TABLE not in line}


def _lines(statement: str) -> list[str]:
    """Its lines, each with the table's name, so that equal columns of two tables stay two."""
    first, *rest = [line.strip().rstrip(",") for line in statement.splitlines()]
    return [first] if schema.VERSION_TABLE in first else [first, *(f"{first} {x}" for x in rest)]


def test_an_upgrade_from_nothing_makes_what_the_code_expects(empty_engine: Engine) -> None:
    """The migrations and the metadata are written apart, and must come to the same tables."""
    schema.upgrade(empty_engine)
    migrated = _catalogue(empty_engine)
    schema.downgrade(empty_engine, "base")

    tables.metadata.create_all(empty_engine)
    found = partitions.current(empty_engine)
    if found is not None:
        partitions.prepare(empty_engine, missing(found.dated, Grain.MONTH, found.now_ms))
    expected = _catalogue(empty_engine)

    assert migrated == expected
    assert len(expected) > 150


def test_an_upgraded_database_has_no_problems(engine: Engine) -> None:
    """What `db check` calls blocking must not be there right after `db upgrade`."""
    problems = [problem for problem in schema.check(engine) if problem.blocks]

    assert problems == []
    assert schema.current(engine) == HEAD


def test_the_way_down_leaves_nothing_and_the_way_up_is_open_again(empty_engine: Engine) -> None:
    """Also the version table goes, so that a host's own history may take over."""
    schema.upgrade(empty_engine)

    schema.downgrade(empty_engine, "base")

    left = inspect(empty_engine).get_table_names()
    version = schema.current(empty_engine)
    schema.upgrade(empty_engine)
    assert left == []
    assert version is None
    assert schema.current(empty_engine) == HEAD


def test_another_upgrade_changes_nothing(engine: Engine) -> None:
    """Deployments ask every time."""
    before = _catalogue(engine)

    schema.upgrade(engine)

    assert _catalogue(engine) == before


def test_three_upgrades_at_once_all_succeed(empty_url: str) -> None:
    """One of them works, the others wait for it and find nothing left to do."""
    start = threading.Barrier(3)

    def upgrade() -> str | None:
        engine = make_engine(empty_url)
        try:
            start.wait(PATIENCE_S)
            schema.upgrade(engine)
            return schema.current(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(upgrade) for _ in range(3)]
        versions = [each.result(PATIENCE_S) for each in running]

    assert versions == [HEAD, HEAD, HEAD]


def test_the_statements_for_a_person_make_the_same_tables(
    empty_engine: Engine, empty_url: str
) -> None:
    """Where only an administrator may change tables, the SQL is printed and run by hand."""
    statements = schema.sql(empty_url).split(";\n")

    with writing(empty_engine) as connection:
        for statement in statements:
            if statement.strip() not in {"", "BEGIN", "COMMIT"}:
                connection.exec_driver_sql(statement)

    assert schema.current(empty_engine) == HEAD
    assert [problem for problem in schema.check(empty_engine) if problem.blocks] == []


def test_alembics_own_command_line_serves_developers(
    empty_engine: Engine, empty_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ini file with nothing but the folder and the address is enough."""
    config = Config()
    config.set_main_option("script_location", str(schema.scripts()))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", empty_url.replace("%", "%%"))

    command.upgrade(config, "head", sql=True)
    command.upgrade(config, "head")

    assert "CREATE TABLE b24sync_outbox" in capsys.readouterr().out
    assert schema.current(empty_engine) == HEAD


def test_a_version_that_does_not_exist_is_said_in_one_line(engine: Engine) -> None:
    """A typing error on the command line is no traceback."""
    with pytest.raises(DatabaseError, match=r"cannot be run: .*b24sync_9999"):
        schema.upgrade(engine, "b24sync_9999")


def test_tables_can_stand_in_a_schema_of_their_own(
    postgresql_original: str, queue_name: str
) -> None:
    """Tables and version go where the engine says, and nowhere else."""
    plain = make_engine(postgresql_original)
    engine = make_engine(postgresql_original, schema=queue_name)
    with pytest.raises(DatabaseError, match=f"CREATE SCHEMA {queue_name}"):
        schema.upgrade(engine)
    with writing(plain) as connection:
        connection.execute(text(f"CREATE SCHEMA {queue_name}"))

    schema.upgrade(engine)

    there = set(inspect(plain).get_table_names(schema=queue_name))
    parts = {name for name in there if name.startswith("b24sync_result_")}
    assert there - parts == {*tables.metadata.tables, schema.VERSION_TABLE}
    assert len(parts) == 5
    assert [problem for problem in schema.check(engine) if problem.blocks] == []
    schema.downgrade(engine, "base")
    assert inspect(plain).get_table_names(schema=queue_name) == []
    assert schema.current(plain) == HEAD
    engine.dispose()
    plain.dispose()


def test_missing_tables_are_answered_with_the_command_that_makes_them(
    empty_engine: Engine,
) -> None:
    """A worker started too early says so in one line."""
    with pytest.raises(DatabaseError) as refused:
        schema.ensure_current(empty_engine)

    assert str(refused.value) == "the tables are missing: run `b24sync db upgrade`"
    assert [problem.text for problem in schema.check(empty_engine) if problem.blocks] == [
        "the tables are missing: run `b24sync db upgrade`"
    ]


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A call that makes the code one version newer until the test ends."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.scripts(), folder)
    (folder / "versions" / "0002_later.py").write_text(NEXT_STEP)
    return lambda: monkeypatch.setattr(schema, "scripts", lambda: folder)


def test_older_tables_are_upgraded(empty_engine: Engine, next_version: Callable[[], None]) -> None:
    """The rows stay, the version moves, and until then workers refuse."""
    schema.upgrade(empty_engine)
    with writing(empty_engine) as connection:
        connection.execute(tables.chore.insert(), {"name": "prune"})
    next_version()

    with pytest.raises(DatabaseError) as refused:
        schema.ensure_current(empty_engine)
    schema.upgrade(empty_engine)

    assert str(refused.value) == (
        "the tables are older (b24sync_0001) than this code (b24sync_0002): run `b24sync db upgrade`"
    )
    with reading(empty_engine) as connection:
        assert connection.execute(text("SELECT name, later FROM b24sync_chore")).all() == [
            ("prune", None)
        ]


@pytest.mark.parametrize("step", [schema.ensure_current, schema.upgrade])
def test_newer_tables_are_left_alone(
    empty_engine: Engine,
    next_version: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[Engine], None],
) -> None:
    """An old worker in a rolling deployment must not write into tables that it does not know."""
    with monkeypatch.context():
        next_version()
        schema.upgrade(empty_engine)
    monkeypatch.undo()

    with pytest.raises(DatabaseError) as refused:
        step(empty_engine)

    assert str(refused.value) == (
        "the tables are newer (b24sync_0002) than this code (b24sync_0001): upgrade the package"
    )


@pytest.mark.parametrize("step", [schema.upgrade, schema.ensure_current, schema.check])
def test_a_folder_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, step: Callable[[Engine], object]
) -> None:
    """SQLite itself would only say that it is unable to open a file."""
    engine = make_engine(f"sqlite:///{tmp_path / 'nowhere' / 'b24sync.db'}")

    with pytest.raises(DatabaseError) as refused:
        step(engine)

    assert str(refused.value) == (
        f"the folder {tmp_path / 'nowhere'} for the database file does not exist"
    )


@pytest.mark.parametrize("step", [schema.upgrade, schema.ensure_current, schema.check])
@pytest.mark.parametrize("driver", ["postgresql", "mysql"])
def test_a_server_that_does_not_answer_is_said_in_one_line(
    driver: str, step: Callable[[Engine], object]
) -> None:
    """The address is shown, the password is not."""
    engine = make_engine(f"{driver}://ann:hush-hush@127.0.0.1:1/b24")

    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:1/b24") as refused:
        step(engine)

    assert "hush-hush" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_upgrade_that_was_cut_short_says_what_to_drop(empty_engine: Engine) -> None:
    """MariaDB and MySQL commit every statement, so half of a migration can stay behind."""
    schema.upgrade(empty_engine)
    with writing(empty_engine) as connection:
        connection.execute(text("DELETE FROM b24sync_alembic_version"))
        connection.execute(text("DROP TABLE b24sync_chore"))

    with pytest.raises(DatabaseError, match="cut short and left b24sync_app, b24sync_backfill, "):
        schema.upgrade(empty_engine)


@pytest.fixture
def host(tmp_path: Path, empty_url: str) -> Config:
    """A host application's own Alembic, with our versions among its locations."""
    folder = tmp_path / "host"
    (folder / "versions").mkdir(parents=True)
    (folder / "versions" / "0001_customer.py").write_text(HOST_STEP)
    (folder / "env.py").write_text(HOST_ENV.format(imports="", options=""))
    shutil.copy(schema.scripts() / "script.py.mako", folder)
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", f"{folder / 'versions'}\n{schema.scripts() / 'versions'}"
    )
    config.set_main_option("sqlalchemy.url", empty_url.replace("%", "%%"))
    return config


@pytest.mark.parametrize("target", ["heads", "b24sync@head"])
def test_a_hosts_own_history_can_carry_ours(
    host: Config, empty_engine: Engine, target: str
) -> None:
    """Listed among its version locations, our branch is upgraded by the host's command."""
    command.upgrade(host, target)

    schema.ensure_current(empty_engine)

    assert [problem for problem in schema.check(empty_engine) if problem.blocks] == []
    assert set(tables.metadata.tables) <= set(inspect(empty_engine).get_table_names())
    assert schema.VERSION_TABLE not in inspect(empty_engine).get_table_names()


def test_the_own_command_refuses_tables_of_a_hosts_history(
    host: Config, empty_engine: Engine
) -> None:
    """Both ways out are named, and one of them is tried here."""
    command.upgrade(host, "heads")

    with pytest.raises(DatabaseError) as refused:
        schema.upgrade(empty_engine)
    schema.stamp(empty_engine)
    schema.upgrade(empty_engine)

    assert "alembic upgrade b24sync@head" in str(refused.value)
    assert f"b24sync db stamp {HEAD}" in str(refused.value)
    assert schema.current(empty_engine) == HEAD


@pytest.fixture
def plugin() -> Generator[None]:
    """Our plugin, as Alembic finds it by its entry point."""
    registered = getattr(plugins, "_all_plugins")  # noqa: B009 - private, and there is no other way to ask
    if PLUGIN in registered:
        yield
        return
    plugins.Plugin.setup_plugin_from_module(alembic_plugin, PLUGIN)
    yield
    registered[PLUGIN].remove()


def _autogenerate(host: Config, *, imports: str = "", options: str = "") -> str:
    folder = Path(str(host.get_main_option("script_location")))
    (folder / "env.py").write_text(HOST_ENV.format(imports=imports, options=options))
    script = command.revision(
        host, "next", autogenerate=True, head="0001", version_path=str(folder / "versions")
    )
    assert script is not None
    assert not isinstance(script, list)
    file = Path(script.path)
    written = file.read_text()
    file.unlink()
    return written


@pytest.mark.usefixtures("plugin")
def test_a_hosts_autogenerate_leaves_our_tables_alone(host: Config) -> None:
    """With the plugin there is nothing to do; the host's own stray table is still dropped."""
    command.upgrade(host, "heads")

    written = _autogenerate(host)

    assert "drop_table('customer')" in written
    assert "b24sync_outbox" not in written


def test_an_older_alembic_is_told_by_the_include_object_helper(host: Config) -> None:
    """Without the plugin the drops come; with the helper they do not."""
    command.upgrade(host, "heads")
    off = ", autogenerate_plugins=['alembic.autogenerate.*', '~alembic.autogenerate.b24sync']"

    without = _autogenerate(host, options=off)
    with_helper = _autogenerate(
        host,
        imports="from b24sync.alembic_plugin import include_object",
        options=f"{off}, include_object=include_object",
    )

    assert "drop_table('b24sync_outbox')" in without
    assert "b24sync_outbox" not in with_helper
    assert "drop_table('customer')" in with_helper


def test_an_installed_package_carries_its_migrations(tmp_path: Path) -> None:
    """In a wheel they stand inside the package, and nothing of the checkout is at hand."""
    package = Path(schema.__file__).parent.parent
    shutil.copytree(package, tmp_path / "b24sync", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(schema.scripts(), tmp_path / "b24sync" / "migrations")
    program = (
        "from b24sync.edge import database, schema\n"
        f"engine = database.make_engine('sqlite:///{tmp_path / 'b24sync.db'}')\n"
        "schema.upgrade(engine)\n"
        "print(schema.scripts(), schema.current(engine))\n"
        "engine.dispose()\n"
    )

    ran = subprocess.run(  # noqa: S603 - this interpreter and a program of this test
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )

    assert ran.stdout.strip() == f"{tmp_path / 'b24sync' / 'migrations'} {HEAD}"


def test_migrations_know_nothing_of_the_code_they_serve() -> None:
    """A migration must make the same tables for ever, whatever becomes of the models."""
    written = [file.read_text() for file in (schema.scripts() / "versions").glob("*.py")]

    assert written
    assert not any("b24sync." in text_ for text_ in written)
