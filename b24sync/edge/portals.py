"""Rows of portals: how one comes into the tables, and what it is changed to.

A portal is usable when three rows exist: its own, that of its lane, and that of its rate. They are
always written together. Secrets arrive here encrypted; nothing here can read one.
"""

import json
from dataclasses import dataclass, field
from math import inf

from sqlalchemy import Connection, Text, cast, insert, select, update

from b24sync.core.errors import SettingsError
from b24sync.core.hosts import steps
from b24sync.core.limits import USUAL, Rate, egress_group
from b24sync.core.model import HaltMode
from b24sync.core.refs import is_mapping
from b24sync.core.shards import MOST_SHARDS
from b24sync.edge.database import insert_missing, now_ms
from b24sync.edge.tables import bucket, lane, portal
from b24sync.edge.tenants import halt_of
from b24sync.edge.tokens import AuthKind, parse_webhook

DEFAULT = "default"
"""The portal of changes that name none, and of the setting ``webhook_url``."""

EGRESS_GROUP = "default"
FIRST_LANE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a portal's plan allows, and from which address it is called.

    Units: ``rate_x`` requests at once, ``rate_y`` requests per second, ``server_max_s`` seconds
    after which the portal cuts a request.
    Raises: SettingsError for a rate or a group that cannot be.
    """

    rate_x: float = USUAL.x
    rate_y: float = USUAL.y
    server_max_s: int = 60
    egress_group: str = EGRESS_GROUP

    def __post_init__(self) -> None:
        """Refuse what no worker could keep."""
        Rate(x=self.rate_x, y=self.rate_y)
        egress_group(self.egress_group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a portal is called and as whom; ``secret`` is encrypted, or absent with its key's id."""

    base_url: str
    secret: str | None = field(default=None, repr=False)
    secret_key_id: str | None = None
    user: str | None = None


def codes(connection: Connection) -> tuple[str, ...]:
    """The codes of all portals, in order.

    Writes: nothing.
    """
    return tuple(connection.execute(select(portal.c.code).order_by(portal.c.code)).scalars())


def add(connection: Connection, code: str, address: Address, limits: Limits) -> bool:
    """Make a portal usable; ``False``, there is one of this code already.

    Writes: portal, lane, bucket.
    """
    known = connection.execute(select(portal.c.code).where(portal.c.code == code)).first()
    if known is not None:
        return False
    connection.execute(
        insert(portal).values(
            code=code,
            auth_kind=str(AuthKind.WEBHOOK),
            **_address_values(address),
            **_limit_values(limits),
        )
    )
    _complete(connection, code, limits.egress_group)
    return True


def replace(
    connection: Connection, code: str, address: Address, limits: Limits | None = None
) -> bool:
    """Give a portal another address and credential; ``False``, there is none of this code.

    Its rows, links and results stay; so does its state, which a person resumes.
    Writes: portal, and lane and bucket if they were missing.
    """
    changed = connection.execute(
        update(portal)
        .where(portal.c.code == code)
        .values(
            auth_kind=str(AuthKind.WEBHOOK),
            moved_from=None,
            moved_at=None,
            updated_at=now_ms(),
            **_address_values(address),
        )
    )
    if changed.rowcount != 1:
        return False
    if limits is not None:
        return set_limits(connection, code, limits)
    _complete(connection, code)
    return True


def set_halt(connection: Connection, code: str, halt: HaltMode | None) -> bool:
    """Choose how far a failed command reaches on a portal; ``False``, there is none of this code.

    What else the portal's policy says stays. ``None`` takes the choice back.
    Raises: SettingsError if the policy is no JSON object; it is left as it is. And for ``strict`` on
    a portal with several shards.
    Writes: portal.
    """
    if halt is HaltMode.STRICT:
        refuse_strict(connection, code)
    # As text: numbers come back as they were written, and not as the rows of the outbox have them.
    stored = select(cast(portal.c.policy, Text)).where(portal.c.code == code).with_for_update()
    found = connection.execute(stored).first()
    if found is None:
        return False
    policy = {name: value for name, value in _policy(code, found[0]).items() if name != "halt"}
    if halt is not None:
        policy["halt"] = str(halt)
    connection.execute(
        update(portal)
        .where(portal.c.code == code)
        .values(policy=policy or None, updated_at=now_ms())
    )
    return True


def set_share(
    connection: Connection, code: str, *, shards: int | None = None, weight: float | None = None
) -> bool:
    """Choose how many requests may be in flight to a portal at once, and its share of the workers.

    Shape: ``None`` leaves a number as it is; ``False``, there is none of this code. Rows that are
    written already stay in their lanes and go out from there.
    Raises: SettingsError for several shards where the halt mode is ``strict``, and for numbers that
    make no sense.
    Writes: portal.
    """
    if shards is not None and not 1 <= shards <= MOST_SHARDS:
        raise SettingsError("shards", f"{shards}; from 1 to {MOST_SHARDS}")
    if weight is not None and not 0 < weight < inf:
        raise SettingsError("weight", f"{weight}; more than 0 is needed")
    found = connection.execute(
        select(portal.c.policy).where(portal.c.code == code).with_for_update()
    ).first()
    if found is None:
        return False
    if shards is not None and shards > 1 and halt_of(found[0]) is HaltMode.STRICT:
        raise SettingsError(
            "shards",
            f"the portal {code} stops at the first failure (halt mode strict), and can do that with "
            f"one request in flight only; `b24sync portal set {code} --halt chain` first",
        )
    given = {"shards": shards, "weight": weight}
    values = {name: value for name, value in given.items() if value is not None}
    connection.execute(
        update(portal).where(portal.c.code == code).values(**values, updated_at=now_ms())
    )
    return True


def refuse_strict(connection: Connection, code: str | None = None) -> None:
    """Refuse to stop at the first failure where several requests may be in flight.

    Shape: of one portal, or of all that are called.
    Raises: SettingsError, naming the first such portal.
    Writes: nothing.
    """
    several = select(portal.c.code, portal.c.shards).where(portal.c.shards > 1)
    if code is not None:
        several = several.where(portal.c.code == code)
    found = connection.execute(several.order_by(portal.c.code).limit(1)).first()
    if found is not None:
        raise SettingsError(
            "halt",
            f"strict needs a portal with one request in flight, and {found[0]} has {found[1]} "
            f"shards; `b24sync portal set {found[0]} --shards 1` first, or name another portal",
        )


def _policy(code: str, stored: str | None) -> dict[str, object]:
    try:
        policy: object = json.loads(stored or "{}")
    except ValueError:
        policy = None
    if not is_mapping(policy):
        raise SettingsError(
            "policy", f"that of the portal {code} is no JSON object; correct it first"
        )
    return dict(policy)


def ensure_default(connection: Connection, webhook_url: str | None) -> bool:
    """Make the portal that the setting ``webhook_url`` describes, if it is set; whether it changed.

    Only the address is stored; the secret stays in the setting. A ``default`` with a credential of
    its own is left alone, and so is one that has moved away from the address of the setting.
    Raises: SettingsError if the setting is no webhook.
    Writes: portal, lane, bucket, the first time and after the address has changed.
    """
    if webhook_url is None:
        return False
    base_url = parse_webhook(webhook_url).base_url
    found = connection.execute(
        select(portal.c.base_url, portal.c.secret, portal.c.moved_from).where(
            portal.c.code == DEFAULT
        )
    ).first()
    if found is None:
        # Several workers start at once; the one that comes second finds the rows there.
        insert_missing(connection, portal, [{"code": DEFAULT, "base_url": base_url}])
        _complete(connection, DEFAULT)
        return True
    if found.secret is not None or found.base_url == base_url:
        return False
    if base_url in steps(found.moved_from):
        return False
    connection.execute(
        update(portal)
        .where(
            portal.c.code == DEFAULT,
            portal.c.secret.is_(None),
            portal.c.base_url == found.base_url,
        )
        .values(base_url=base_url, moved_from=None, moved_at=None, updated_at=now_ms())
    )
    return True


def limits_of(connection: Connection, code: str) -> Limits:
    """What is known of a portal's limits.

    Raises: sqlalchemy.exc.NoResultFound for an unknown code; callers ask for known ones.
    Writes: nothing.
    """
    columns = (portal.c.rate_x, portal.c.rate_y, portal.c.server_max_s, portal.c.egress_group)
    row = connection.execute(select(*columns).where(portal.c.code == code)).one()
    return Limits(
        rate_x=max(1.0, row.rate_x),
        rate_y=row.rate_y,
        server_max_s=row.server_max_s,
        egress_group=row.egress_group,
    )


def set_limits(connection: Connection, code: str, limits: Limits) -> bool:
    """Change what a portal's plan allows; ``False``, there is none of this code.

    What refusals have taught of its rate is forgotten: whoever says it knows better.
    Writes: portal, bucket.
    """
    changed = connection.execute(
        update(portal)
        .where(portal.c.code == code)
        .values(updated_at=now_ms(), **_limit_values(limits))
    )
    if changed.rowcount != 1:
        return False
    _complete(connection, code, limits.egress_group)
    connection.execute(
        update(bucket)
        .where(bucket.c.portal == code)
        .values(taught_x=None, taught_y=None, taught_at=None)
    )
    return True


def _complete(connection: Connection, code: str, egress_group: str = EGRESS_GROUP) -> None:
    """The rows without which a portal would be known and never called."""
    insert_missing(connection, lane, [{"portal": code, "lane": FIRST_LANE}])
    insert_missing(connection, bucket, [{"portal": code, "egress_group": egress_group}])


def _address_values(address: Address) -> dict[str, object]:
    return {
        "base_url": address.base_url,
        "secret": address.secret,
        "secret_key_id": address.secret_key_id,
        "credential_user": address.user,
    }


def _limit_values(limits: Limits) -> dict[str, object]:
    return {
        "rate_x": limits.rate_x,
        "rate_y": limits.rate_y,
        "server_max_s": limits.server_max_s,
        "egress_group": limits.egress_group,
    }
