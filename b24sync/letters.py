"""Dead letters are found, edited, replayed or dropped by an application's own code.

::

    from b24sync.letters import Choice, Edit, find, replay

    with Session(engine) as session, session.begin():
        denied = find(session, Choice(code="ACCESS_DENIED"), limit=500)
        told = replay(session, [letter.id for letter in denied], edit=Edit(put={"assignedById": 5}),
                      who="night shift")
        print(told.rows, told.overtaken)

Like ``outbox``, nothing here begins, commits or rolls back: a replay is a new change if and only if
the transaction that wrote it is committed. Many letters go in parts, a transaction for each.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from b24sync.core.editing import Edit
from b24sync.core.kinds import Kind
from b24sync.edge import dead_letters
from b24sync.edge.dead_letters import NO_EDIT, NO_KINDS, Choice, Heap, Letter, Replay

__all__ = ["Choice", "Edit", "Heap", "Letter", "Replay", "count", "drop", "find", "replay"]

Where: TypeAlias = Connection | Session | scoped_session[Session]
"""What letters are read and written with: whatever the application's transaction runs in."""

ALL_OPEN = Choice()


def find(
    where: Where, choice: Choice = ALL_OPEN, *, limit: int | None = None, schema: str | None = None
) -> tuple[Letter, ...]:
    """The letters that are meant, newest first; ``schema`` is that of the tables.

    Writes: nothing.
    """
    with _connected(where, schema) as connection:
        return dead_letters.letters(connection, choice, limit=limit)


def count(
    where: Where, choice: Choice = ALL_OPEN, *, schema: str | None = None
) -> tuple[Heap, ...]:
    """How many letters are meant, by error code and reason, the most first.

    Writes: nothing.
    """
    with _connected(where, schema) as connection:
        return dead_letters.heaps(connection, choice)


def replay(  # noqa: PLR0913 - what is replayed, how, and where
    where: Where,
    ids: Sequence[int],
    *,
    edit: Edit = NO_EDIT,
    who: str | None = None,
    even_if_newer: bool = False,
    kinds: Mapping[str, Kind] = NO_KINDS,
    schema: str | None = None,
) -> Replay:
    """Write letters into the outbox again, each at the end of its entity's order, the oldest first.

    A letter whose entity had a newer change since, applied or waiting, would undo that: it is named
    and left, unless ``even_if_newer``.

    Shape: ``edit`` is made in each; ``who`` is named by the letter. ``kinds`` are those declared in
    the setting ``b24sync_kinds``.
    Raises: ChangeError for a letter that an edit makes no change of, naming it; nothing was written.
    Writes: outbox, dead; in the caller's transaction.
    """
    with _connected(where, schema) as connection:
        return dead_letters.replay(
            connection, ids, edit=edit, who=who, even_if_newer=even_if_newer, kinds=kinds
        )


def drop(
    where: Where, ids: Sequence[int], *, who: str | None = None, schema: str | None = None
) -> tuple[int, ...]:
    """Close letters for good; the ids of those that were open. ``who`` is named by each.

    Writes: dead, in the caller's transaction.
    """
    with _connected(where, schema) as connection:
        return dead_letters.drop(connection, ids, who=who)


@contextmanager
def _connected(where: Where, schema: str | None) -> Generator[Connection]:
    """The caller's own connection, for this long with the schema of the tables."""
    connection = where if isinstance(where, Connection) else where.connection()
    if schema is None:
        yield connection
        return
    before = connection.get_execution_options().get("schema_translate_map")
    connection.execution_options(schema_translate_map={None: schema})
    try:
        yield connection
    finally:
        connection.execution_options(schema_translate_map=before)
