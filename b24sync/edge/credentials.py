"""The stored pair of tokens of a portal: renewed by one worker at a time, replaced by version.

The columns say where a portal's tokens stand. ``token_version`` grows with each stored pair; every
statement here names the one it is about, so that what is late changes nothing. From
``token_expires_at`` on the access token is not used: its promised end, or the time at which the
portal refused it. Until ``refresh_lease_until`` nobody renews, because somebody does or has just
failed to. ``refresh_lost_at`` is since when an answer to a renewal of this version is missing; it
is set before the server is asked, so that a worker that dies has said so.
"""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from b24sync.core.model import Fault, PortalState
from b24sync.core.renewal import refuses_token
from b24sync.edge import tenants
from b24sync.edge.database import now_ms
from b24sync.edge.tables import portal
from b24sync.edge.tenants import Tenant
from b24sync.edge.tokens import AuthKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the tokens of a portal stand.

    Units: epoch milliseconds; ``left_ms`` until somebody may renew them, 0 if that is now.
    """

    version: int
    ended_at_ms: int | None
    lost_at_ms: int | None
    left_ms: int
    member_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to renew one version of a portal's tokens; ``was_lost``, an answer was missing.

    Units: epoch milliseconds by the database's clock.
    """

    code: str
    version: int
    until_ms: int
    taken_at_ms: int
    was_lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A pair as it is stored, encrypted, with what is known of it.

    Units: ``life_ms`` milliseconds from now; ``ends_at_ms`` epoch milliseconds; with neither, the
    access token is used until it is refused.
    """

    secret: str
    secret_key_id: str
    life_ms: int | None = None
    ends_at_ms: int | None = None
    member_id: str | None = None
    user: str | None = None


def is_for_renewal(of: Tenant, fault: Fault) -> bool:
    """Whether a complaint is about an access token that can be renewed."""
    return of.auth_kind == AuthKind.OAUTH and refuses_token(fault)


def standing(connection: Connection, code: str) -> Standing:
    """Where a portal's tokens stand now.

    Raises: sqlalchemy.exc.NoResultFound for an unknown code.
    Writes: nothing.
    """
    statement = select(portal, _now().label("now")).where(portal.c.code == code)
    row = connection.execute(statement).mappings().one()
    return Standing(
        version=row["token_version"],
        ended_at_ms=row["token_expires_at"],
        lost_at_ms=row["refresh_lost_at"],
        left_ms=max(0, (row["refresh_lease_until"] or 0) - row["now"]),
        member_id=row["member_id"],
    )


def refuse(connection: Connection, code: str, version: int) -> bool:
    """Note that a portal refused the access token of this version; ``False``, that is known, or old.

    Writes: portal, where the version is still this one and its token was still used.
    """
    refused = connection.execute(
        update(portal)
        .where(
            _is(code, version),
            or_(portal.c.token_expires_at.is_(None), portal.c.token_expires_at > _now()),
        )
        .values(token_expires_at=_now(), updated_at=_now())
    )
    return refused.rowcount == 1


def take(connection: Connection, code: str, version: int, *, lease_ms: int) -> Lease | None:
    """Be the one who renews; ``None``, somebody else is, or this version is not the stored one.

    Units: ``lease_ms`` milliseconds from now; longer than the request may take.
    Writes: portal, where the version is this one and nobody renews it.
    """
    found = connection.execute(
        select(_now().label("now"), portal.c.refresh_lost_at).where(portal.c.code == code)
    ).one()
    now, lost_at = int(found[0]), found[1]
    taken = connection.execute(
        update(portal)
        .where(
            _is(code, version),
            or_(
                portal.c.refresh_lease_until.is_(None),
                portal.c.refresh_lease_until <= _now(),
            ),
        )
        .values(
            refresh_lease_until=now + lease_ms,
            refresh_lost_at=func.coalesce(portal.c.refresh_lost_at, now),
        )
    )
    if taken.rowcount != 1:
        return None
    return Lease(
        code=code,
        version=version,
        until_ms=now + lease_ms,
        taken_at_ms=now,
        was_lost=lost_at is not None,
    )


def keep(connection: Connection, lease: Lease, sealed: Sealed) -> bool:
    """Store the next pair; ``False``, another one was stored meanwhile, and this is worth nothing.

    It is kept by version and not by lease: the server has given it to nobody else. Where somebody
    has lost patience meanwhile and the portal waits for a person, it is called again.
    Writes: portal, where the version is still the one that was renewed; lane, if it was stopped.
    """
    kept = connection.execute(
        update(portal)
        .where(_is(lease.code, lease.version))
        .values(token_version=lease.version + 1, **_values(sealed))
    )
    if kept.rowcount != 1:
        return False
    given_up = select(portal.c.code).where(
        portal.c.code == lease.code,
        portal.c.state == str(PortalState.AUTH_LOST),
        portal.c.state_at >= lease.taken_at_ms,
    )
    if connection.execute(given_up).first() is not None:
        tenants.resume(connection, lease.code)
    return True


def give_back(connection: Connection, lease: Lease, *, rest_ms: int, is_lost: bool) -> bool:
    """End a renewal without a pair, and let nobody try again before ``rest_ms`` have passed.

    ``False``, somebody else has taken over meanwhile, or has stored another pair.
    Units: milliseconds from now; 0, anybody may.
    Writes: portal, where the lease is still this one.
    """
    values: dict[str, object] = {"refresh_lease_until": _now() + rest_ms if rest_ms else None}
    if not is_lost and not lease.was_lost:
        values["refresh_lost_at"] = None
    given = connection.execute(
        update(portal)
        .where(
            _is(lease.code, lease.version),
            portal.c.refresh_lease_until == lease.until_ms,
        )
        .values(**values)
    )
    return given.rowcount == 1


def stands(connection: Connection, code: str, version: int) -> bool:
    """Whether this version is the stored one, and stays so until the transaction ends.

    Writes: nothing; locks the portal's row.
    """
    statement = select(portal.c.code).where(_is(code, version)).with_for_update()
    return connection.execute(statement).first() is not None


def install(connection: Connection, code: str, app_id: str, sealed: Sealed) -> None:
    """Make the application's first pair, or the one of a new installation, the portal's credential.

    A renewal that is under way finds another version, and stores nothing.
    Writes: portal.
    """
    connection.execute(
        update(portal)
        .where(portal.c.code == code)
        .values(
            auth_kind=str(AuthKind.OAUTH),
            app_id=app_id,
            token_version=portal.c.token_version + 1,
            **(_values(sealed) | {"member_id": sealed.member_id, "credential_user": sealed.user}),
        )
    )


def _now() -> ColumnElement[int]:
    return now_ms()


def _is(code: str, version: int) -> ColumnElement[bool]:
    """The guard of every statement about one version."""
    return and_(
        portal.c.code == code,
        portal.c.auth_kind == str(AuthKind.OAUTH),
        portal.c.token_version == version,
    )


def _values(sealed: Sealed) -> dict[str, object]:
    """A new pair, by which nothing is refused, renewed or missing."""
    ends_at: object = sealed.ends_at_ms
    if sealed.life_ms is not None:
        ends_at = _now() + sealed.life_ms
    values: dict[str, object] = {
        "secret": sealed.secret,
        "secret_key_id": sealed.secret_key_id,
        "token_expires_at": ends_at,
        "refresh_lease_until": None,
        "refresh_lost_at": None,
        "updated_at": _now(),
    }
    # What an answer does not say stays as it is known.
    if sealed.member_id is not None:
        values["member_id"] = sealed.member_id
    if sealed.user is not None:
        values["credential_user"] = sealed.user
    return values
