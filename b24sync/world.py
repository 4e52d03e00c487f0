"""What a pass works with, built once per worker process and passed as an argument."""

import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from sqlalchemy import Connection, Engine

from b24sync.core.errors import CredentialError
from b24sync.core.grants import pair_in
from b24sync.core.hosts import steps
from b24sync.edge.database import make_engine, transact
from b24sync.edge.portal import Credential, PortalClient
from b24sync.edge.tenants import Tenant
from b24sync.edge.tokens import AuthKind, Keyring, credential_for, parse_webhook
from b24sync.settings import Settings
from b24sync.version import VERSION

DEFAULT_PORTAL = "default"
"""The portal that the setting ``webhook_url`` describes."""


T = TypeVar("T")


class Step(StrEnum):
    """What a worker does in one piece: a transaction, or one exchange with a portal."""

    WAKE = "wake"
    TAKE = "take"
    RECOVER = "recover"
    DECIDE = "decide"
    SUSPECT = "suspect"
    CLAIM = "claim"
    GO = "go"
    SEND = "send"
    SETTLE = "settle"
    RETURN = "return"
    LOOK = "look"
    LEARN = "learn"
    RENEW = "renew"
    PAUSE = "pause"
    RELEASE = "release"
    RING = "ring"


class Moment(StrEnum):
    """When a step is told of. A transaction is committed ``AFTER`` it."""

    BEFORE = "before"
    AFTER = "after"


def _untold(_step: Step, _moment: Moment) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The collaborators of a pass.

    ``chance`` gives numbers in [0, 1); ``clock`` monotonic seconds; ``owner`` is for people only.
    ``telling`` is told before and after every step, in the worker's own thread: for tracing, and
    for tests that end a process there.
    """

    engine: Engine
    client: PortalClient
    keyring: Keyring
    settings: Settings
    chance: Callable[[], float]
    clock: Callable[[], float]
    owner: str
    telling: Callable[[Step, Moment], None] = _untold

    def transact(self, step: Step, work: Callable[[Connection], T]) -> T:
        """Run one step that is one writing transaction; as ``edge.database.transact``."""
        self.telling(step, Moment.BEFORE)
        done = transact(self.engine, work)
        self.telling(step, Moment.AFTER)
        return done


def build(settings: Settings, *, slots: int = 1) -> World:
    """A world on real parts; nothing is connected yet.

    Units: ``slots`` is how many passes may run at once in this process.
    Raises: SettingsError for a database without a driver.
    """
    return World(
        engine=make_engine(
            settings.database_url,
            pool_size=slots,
            schema=settings.schema,
            egress_group=settings.egress_group,
        ),
        client=PortalClient(
            connect_timeout_s=settings.connect_timeout_s,
            deadline_s=settings.request_timeout_s,
            user_agent=f"b24sync/{VERSION}",
            ca_bundle=settings.ca_bundle,
        ),
        keyring=Keyring.from_keys(settings.secret_key),
        settings=settings,
        chance=random.random,
        clock=time.monotonic,
        owner=f"{socket.gethostname()}:{os.getpid()}",
    )


def credential_of(world: World, tenant: Tenant) -> Credential:
    """The address and secret of a portal.

    The setting ``webhook_url`` says where its portal is, until that has moved away from there.
    Raises: CredentialError if no secret is at hand or no key fits; SettingsError for an address
    that a secret must not be sent to.
    """
    webhook_url = world.settings.webhook_url
    if tenant.secret is not None:
        secret, kind = world.keyring.decrypt(tenant.secret), AuthKind(tenant.auth_kind)
        if kind is AuthKind.OAUTH:
            secret = pair_in(secret).access
        return credential_for(tenant.base_url, secret, kind)
    if tenant.code == DEFAULT_PORTAL and webhook_url is not None:
        webhook = parse_webhook(webhook_url)
        has_moved = webhook.base_url in steps(tenant.moved_from)
        base_url = tenant.base_url if has_moved else webhook.base_url
        return credential_for(base_url, webhook.path, AuthKind.WEBHOOK)
    raise CredentialError(
        f"the portal {tenant.code} has no credential; run `b24sync portal add {tenant.code}`"
    )
