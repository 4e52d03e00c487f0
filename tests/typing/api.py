"""The public annotations, read by the type checkers and never run."""

from collections.abc import Iterator

from celery import Celery
from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from b24sync import B24SyncError, Change, ChangeError, Outbox, Ref, adopt, enqueue, enqueue_many
from b24sync.drain import Order, Tally, drain
from b24sync.plugin import beat_entries, install
from b24sync.settings import Settings, from_mapping
from b24sync.tasks import Counts, sync_entities
from b24sync.world import World, build


def writes(session: Session, connection: Connection, scoped: scoped_session[Session]) -> int:
    """A change is written in whatever the application's transaction runs in."""
    change = Change(
        "contact", key="c-17", operation="upsert", fields={"companyId": Ref("company", "acme")}
    )
    enqueue(session, change)
    enqueue(connection, change, change)
    Outbox(schema="sync").enqueue(scoped, change)
    adopt(session, [("contact", "c-17", 4711), ("contact", "c-18", "4712")], portal="default")

    def changes() -> Iterator[Change]:
        yield change

    return enqueue_many(session, changes(), chunk=100)


def fails(error: ChangeError) -> tuple[str, str, int | None, B24SyncError, ValueError]:
    """An application catches it as ours or as a wrong value."""
    return error.field, error.problem, error.position, error, error


def plugs_in(app: Celery) -> dict[str, dict[str, object]]:
    """Settings are given, or read from the app's configuration."""
    install(app)
    settings: Settings = from_mapping({"b24sync_database_url": "sqlite:///b24sync.db"})
    install(app, settings)
    return beat_entries(settings)


def drains(settings: Settings) -> tuple[Tally, Counts]:
    """Without a broker, or as a task called in place."""
    world: World = build(settings, slots=2)
    tally = drain(world, Order(portal="main", kinds=("deal",), limit=10))
    counts: Counts = sync_entities(portal="main", kinds=["deal"], limit=10)
    return tally, counts
