"""Rows of OAuth applications; one serves any number of portals, which name it in ``app_id``.

Secrets arrive here encrypted; nothing here can read one.
"""

from dataclasses import dataclass, field

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from b24sync.edge.database import now_ms
from b24sync.edge.tables import app, portal
from b24sync.edge.tokens import AuthKind


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredApplication:
    """An application as its row has it; ``secret`` is encrypted."""

    code: str
    client_id: str
    secret: str = field(repr=False)
    secret_key_id: str
    server_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationView:
    """An application as it may be shown, and how many portals it serves."""

    code: str
    client_id: str
    server_url: str
    portals: int


def find(connection: Connection, code: str) -> StoredApplication | None:
    """The application of this code.

    Writes: nothing.
    """
    row = connection.execute(select(app).where(app.c.code == code)).mappings().first()
    if row is None:
        return None
    return StoredApplication(
        code=row["code"],
        client_id=row["client_id"],
        secret=row["secret"],
        secret_key_id=row["secret_key_id"],
        server_url=row["server_url"],
    )


def views(connection: Connection) -> tuple[ApplicationView, ...]:
    """All applications, by code.

    Writes: nothing.
    """
    served = func.count(portal.c.code).label("portals")
    found = connection.execute(
        select(app.c.code, app.c.client_id, app.c.server_url, served)
        .outerjoin(portal, and_(portal.c.app_id == app.c.code, _by_application()))
        .group_by(app.c.code, app.c.client_id, app.c.server_url)
        .order_by(app.c.code)
    ).mappings()
    return tuple(ApplicationView(**row) for row in found)


def add(connection: Connection, application: StoredApplication) -> None:
    """Make an application known.

    Raises: sqlalchemy.exc.IntegrityError if there is one of this code.
    Writes: app.
    """
    connection.execute(insert(app).values(code=application.code, **_values(application)))


def replace(connection: Connection, application: StoredApplication) -> bool:
    """Give an application another id, secret and server; ``False``, there is none of this code.

    Writes: app.
    """
    changed = connection.execute(
        update(app)
        .where(app.c.code == application.code)
        .values(updated_at=now_ms(), **_values(application))
    )
    return changed.rowcount == 1


def remove(connection: Connection, code: str) -> bool:
    """Forget an application; ``False``, there is none of this code, or it serves a portal.

    Writes: app, where no portal names it.
    """
    is_used = exists(select(literal(1)).where(portal.c.app_id == code, _by_application()))
    removed = connection.execute(delete(app).where(app.c.code == code, ~is_used))
    return removed.rowcount == 1


def _by_application() -> ColumnElement[bool]:
    return portal.c.auth_kind == str(AuthKind.OAUTH)


def _values(application: StoredApplication) -> dict[str, object]:
    return {
        "client_id": application.client_id,
        "secret": application.secret,
        "secret_key_id": application.secret_key_id,
        "server_url": application.server_url,
    }
