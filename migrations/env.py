"""Where Alembic meets this package's tables.

``b24sync.edge.schema`` hands over an open connection, or the name of a dialect when it wants the
SQL as text. From Alembic's own command line the address is the ini file's ``sqlalchemy.url``.
"""

from typing import Any

from alembic import context

from b24sync.edge import database, schema, tables


def _run(how: dict[str, Any]) -> None:
    context.configure(
        target_metadata=tables.metadata,
        version_table=schema.VERSION_TABLE,
        version_table_schema=context.config.attributes.get("schema"),
        **how,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_on_an_engine_of_our_own(address: str) -> None:
    engine = database.make_engine(address)
    try:
        with schema.alone(engine) as connection:
            _run({"connection": connection})
    finally:
        engine.dispose()


ready = context.config.attributes.get("connection")
words = context.config.attributes.get("dialect")
url = context.config.get_main_option("sqlalchemy.url")

if ready is not None:
    _run({"connection": ready})
elif words is not None:
    _run({"dialect_name": words, "literal_binds": True})
elif context.is_offline_mode():
    _run({"url": url, "literal_binds": True})
else:
    _run_on_an_engine_of_our_own(url or "")
