"""The rows of portals: made, changed and listed for people."""

from sqlalchemy import Connection, select

from b24sync.edge.database import insert_missing
from b24sync.edge.tables import bucket, lane, portal
from b24sync.edge.tokens import parse_webhook

DEFAULT = "default"
"""The portal that the setting ``webhook_url`` describes."""


def codes(connection: Connection) -> tuple[str, ...]:
    """The codes of all portals, in order.

    Writes: nothing.
    """
    return tuple(connection.execute(select(portal.c.code).order_by(portal.c.code)).scalars())


def ensure_default(connection: Connection, webhook_url: str | None) -> None:
    """Make the portal ``default`` of the setting, where there is none; its secret is not stored.

    Raises: SettingsError for an address that is not a webhook's.
    Writes: portal, lane, bucket.
    """
    if webhook_url is None:
        return
    known = connection.execute(select(portal.c.code).where(portal.c.code == DEFAULT)).first()
    if known is None:
        base_url = parse_webhook(webhook_url).base_url
        insert_missing(connection, portal, [{"code": DEFAULT, "base_url": base_url}])
        insert_missing(connection, lane, [{"portal": DEFAULT, "lane": 0}])
        insert_missing(connection, bucket, [{"portal": DEFAULT, "egress_group": "default"}])
