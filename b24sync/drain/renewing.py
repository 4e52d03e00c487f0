"""A credential that the portal takes; the token of an application renewed by whoever comes first.

A token is renewed when the portal has refused it, or when its time is over just before a call; never
on a timer. What was read with the lane is believed until then: the stored pair is read anew before
anything is renewed, and one worker of all renews it. The others leave their lanes for a moment.

A renewal replaces both tokens, so the new pair is committed before it is used. A server that gives
no answer is asked again later with the same refresh token, at no charge to any row.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, assert_never

from sqlalchemy import Connection

from b24sync.core.errors import CredentialError, KeyMissing, SettingsError
from b24sync.core.grants import Grant, Pair, document_of, pair_in
from b24sync.core.lifecycle import breaker_ms
from b24sync.core.model import Fault, PortalState, Reply
from b24sync.core.renewal import (
    Again,
    Stop,
    is_refused_fresh,
    judged,
    life_ms,
    wait_ms,
)
from b24sync.drain import heeding
from b24sync.drain.orders import Pass, Tally, milliseconds
from b24sync.edge import applications, credentials, lanes, oauth, tenants
from b24sync.edge.applications import StoredApplication
from b24sync.edge.credentials import Lease, Sealed, Standing
from b24sync.edge.database import reading
from b24sync.edge.lanes import Lane
from b24sync.edge.oauth import Application
from b24sync.edge.portal import Credential
from b24sync.edge.tenants import Tenant
from b24sync.edge.tokens import AuthKind
from b24sync.world import Moment, Step, World, credential_of

log = logging.getLogger("b24sync")

GRACE_S = 20.0
"""Time to store a pair, after the longest wait for it."""

TRIES = 3
"""How often the stored pair is read anew when somebody else has just changed it."""

REFUSED_FRESH = (
    "token_refused: the portal refuses an access token that was renewed for it a moment ago; look whether the "
    "application is installed there and its user may use it, and install it again if need be"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """A credential, and the portal as it stood when it was read."""

    credential: Credential
    tenant: Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Resting:
    """There is no usable token for a moment; ``code`` says why, where somebody was asked in vain.

    Units: milliseconds.
    """

    rest_ms: int
    code: str = "is_being_renewed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """The portal waits for a person; ``version``, for the sake of this pair of tokens.

    ``is_ours``: it is this process that lacks something; another one may be able to call it.
    """

    state: PortalState
    reason: str
    version: int | None = None
    is_ours: bool = False


Found: TypeAlias = Usable | Resting | Unusable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renewable:
    """All that a renewal takes, read in one transaction and opened."""

    tenant: Tenant
    standing: Standing
    pair: Pair
    application: Application


def usable_credential(world: World, mine: Lane) -> tuple[Credential, Lane] | Pass:
    """The credential of a lane's portal, and the lane with what was read anew; or why there is none.

    Where the portal must wait for a person it is paused, with the reason; where it is only this
    process that lacks the key, its lane is left to others.
    Writes: portal; lane.
    Raises: nothing of the portal's, and nothing of the authorization server's.
    """
    match credential_now(world, mine.tenant, mine):
        case Usable(credential=credential, tenant=tenant):
            return credential, mine if tenant is mine.tenant else replace(mine, tenant=tenant)
        case Resting(rest_ms=rest_ms):
            rests = Pass(tally=Tally(), goes_on=False, first_rows=mine.first_rows)
            return replace(rests, rest_ms=rest_ms)
        case Unusable(is_ours=True):
            # The lane is left to a worker that has the key: pausing would stop it for all of them.
            log.error("key_missing portal=%s lane=%s", mine.tenant.code, mine.lane)
            return Pass(tally=Tally(), goes_on=False, first_rows=mine.first_rows)
        case Unusable() as unusable:
            world.transact(Step.PAUSE, partial(_pause, mine.tenant, unusable))
            return Pass(tally=Tally(), goes_on=False)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def credential_now(world: World, tenant: Tenant, mine: Lane | None = None) -> Found:
    """A credential that may be used now, renewed if it must be; pauses nothing.

    ``mine`` is the lane that waits for it, kept for as long as a renewal may take.
    Writes: portal; lane.
    """
    try:
        if not tenant.token_is_over or tenant.auth_kind != AuthKind.OAUTH:
            return Usable(credential=credential_of(world, tenant), tenant=tenant)
        return _anew(world, tenant.code, mine)
    except (CredentialError, SettingsError) as error:
        return Unusable(
            state=PortalState.MISCONFIGURED,
            reason=str(error),
            is_ours=isinstance(error, KeyMissing),
        )


def asked(
    world: World,
    tenant: Tenant,
    ask: Callable[[Credential], Reply],
    whole: Callable[[Reply], Fault | None],
) -> tuple[Reply, Tenant] | Resting | Unusable:
    """The portal's answer to a call that a person makes; once more, if its token was renewed for it.

    Shape: ``whole`` tells the complaint about the portal in an answer. With the answer comes the
    portal as it was asked.
    Raises: NeverSent, ReplyLost; as ``ask``.
    Writes: portal.
    """
    found = credential_now(world, tenant)
    if not isinstance(found, Usable):
        return found
    reply = ask(found.credential)
    fault = whole(reply)
    if fault is None or not credentials.is_for_renewal(found.tenant, fault):
        return reply, found.tenant
    refuse = partial(credentials.refuse, code=found.tenant.code, version=found.tenant.token_version)
    world.transact(Step.RENEW, refuse)
    again = credential_now(world, replace(found.tenant, token_is_over=True))
    if not isinstance(again, Usable):
        return again
    return ask(again.credential), again.tenant


def _anew(world: World, code: str, mine: Lane | None) -> Found:
    """The stored credential as it is now, renewed if that one is over too."""
    for _ in range(TRIES):
        read = _read(world, code)
        if isinstance(read, Usable):
            return read
        standing = read.standing
        is_hopeless = is_refused_fresh(
            renewed_at_ms=read.pair.renewed_at_ms, ended_at_ms=standing.ended_at_ms
        )
        if is_hopeless:
            return Unusable(
                state=PortalState.AUTH_LOST, reason=REFUSED_FRESH, version=standing.version
            )
        if standing.left_ms > 0:
            return Resting(rest_ms=wait_ms(standing.left_ms, jitter=world.chance()))
        lease = world.transact(Step.RENEW, partial(_take, code, standing.version, mine))
        renewed = None if lease is None else _renewed(world, read, lease, mine)
        if renewed is not None:
            return renewed
    return Resting(rest_ms=wait_ms(milliseconds(GRACE_S), jitter=world.chance()))


def _read(world: World, code: str) -> Usable | _Renewable:
    """The stored pair: somebody else's new one, or what is needed to renew it.

    Raises: CredentialError; SettingsError.
    """
    with reading(world.engine) as connection:
        # In this order: a pair that is stored in between is not taken for the one that is over.
        standing = credentials.standing(connection, code)
        tenant = tenants.tenant(connection, code)
        stored = applications.find(connection, tenant.app_id)
    if tenant.auth_kind != AuthKind.OAUTH or not tenant.token_is_over or tenant.secret is None:
        return Usable(credential=credential_of(world, tenant), tenant=tenant)
    return _Renewable(
        tenant=tenant,
        standing=standing,
        pair=pair_in(world.keyring.decrypt(tenant.secret)),
        application=_application(world, tenant, stored),
    )


def _application(world: World, tenant: Tenant, stored: StoredApplication | None) -> Application:
    if stored is None:
        named = tenant.app_id or "none"
        raise CredentialError(
            f"the portal {tenant.code} has the tokens of the application {named}, which is not "
            f"known; run `b24sync app add {tenant.app_id or 'CODE'}`"
        )
    return Application(
        client_id=stored.client_id,
        client_secret=world.keyring.decrypt(stored.secret),
        server_url=oauth.origin(stored.server_url, "server_url"),
    )


def _take(code: str, version: int, mine: Lane | None, connection: Connection) -> Lease | None:
    """Be the one who renews, with the lane kept for as long as that may take."""
    lease_ms = milliseconds(oauth.DEADLINE_S + GRACE_S)
    if mine is not None and not lanes.keep(connection, mine, lease_ms=lease_ms):
        return None
    return credentials.take(connection, code, version, lease_ms=lease_ms)


def _renewed(world: World, read: _Renewable, lease: Lease, mine: Lane | None) -> Found | None:
    """Ask the authorization server, and write down what came of it; ``None``, read anew."""
    world.telling(Step.RENEW, Moment.BEFORE)
    answer = oauth.renew(world.client, read.application, read.pair)
    world.telling(Step.RENEW, Moment.AFTER)
    verdict = judged(answer, was_lost=lease.was_lost, member_id=read.standing.member_id)
    match verdict:
        case Grant() as grant:
            return _kept(world, read.tenant, lease, grant)
        case Stop(state=state, reason=reason, code=code):
            log.warning("token_renewal_failed portal=%s code=%r", lease.code, code)
            # It is the last look, too: a pair that was stored meanwhile is used.
            release = partial(credentials.give_back, lease=lease, rest_ms=0, is_lost=False)
            if not world.transact(Step.RENEW, release):
                return None
            return Unusable(state=state, reason=reason, version=lease.version)
        case Again() as again:
            return _rested(world, lease, again, mine)
        case _ as unreachable:  # pragma: no cover - the match above is complete
            assert_never(unreachable)


def _kept(world: World, tenant: Tenant, lease: Lease, grant: Grant) -> Usable | None:
    """The new pair, stored before it is used."""
    pair = replace(grant.pair, renewed_at_ms=lease.taken_at_ms)
    sealed = Sealed(
        secret=world.keyring.encrypt(document_of(pair)),
        secret_key_id=world.keyring.key_ids[0],
        life_ms=life_ms(grant),
        member_id=grant.member_id,
        user=grant.user_id,
    )
    if not world.transact(Step.RENEW, partial(credentials.keep, lease=lease, sealed=sealed)):
        return None
    log.info("token_renewed portal=%s version=%d", lease.code, lease.version + 1)
    now = replace(
        tenant, secret=sealed.secret, token_version=lease.version + 1, token_is_over=False
    )
    return Usable(credential=credential_of(world, now), tenant=now)


def _rested(world: World, lease: Lease, again: Again, mine: Lane | None) -> Resting:
    """Nobody asks this server for this portal before a while has passed; it grows with each failure."""
    rest_ms = breaker_ms(mine.fail_streak if mine is not None else 0, jitter=world.chance())

    def rest(connection: Connection) -> None:
        credentials.give_back(connection, lease, rest_ms=rest_ms, is_lost=again.is_lost)
        if mine is not None:
            lanes.strike(connection, mine, rest_ms=rest_ms, silent=False)

    world.transact(Step.RENEW, rest)
    log.warning("token_renewal_failed portal=%s code=%r", lease.code, again.code)
    return Resting(rest_ms=rest_ms, code=again.code)


def _pause(tenant: Tenant, unusable: Unusable, connection: Connection) -> None:
    """Stop calling the portal, unless a new pair of tokens has come meanwhile."""
    version = unusable.version
    if version is None or credentials.stands(connection, tenant.code, version):
        heeding.stop(connection, tenant, unusable.state, unusable.reason)
