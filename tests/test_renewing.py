"""Portals that are called with the tokens of an application: renewed once, by one, and never lost.

The portal and its authorization server are the emulated ones, over HTTP.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Engine

from b24sync.core.grants import Pair, document_of, pair_in
from b24sync.drain import Order, Tally, drain
from b24sync.drain.renewing import Resting, Usable, credential_now
from b24sync.edge import applications, credentials, portals, tables, tenants
from b24sync.edge.applications import StoredApplication
from b24sync.edge.credentials import Sealed
from b24sync.edge.database import make_engine, reading, writing
from b24sync.edge.portals import Address, Limits
from b24sync.edge.tokens import Keyring, new_key
from b24sync.sandbox import Sandbox, SandboxConfig
from b24sync.world import Moment, Step, World
from tests.house import (
    add_rows,
    change,
    endings,
    in_threads,
    one,
    rows_of,
    states,
    time_passes,
    world_of,
)

KEY = new_key()
KEYRING = Keyring.from_keys([KEY])
MEMBER = "5a0dbox5a0dbox5a0dbox5a0dbox5a0d"
FAR = 2**45
SECRETS = ("hush-client-secret", "hush-access", "hush-refresh")
SECOND = "hush-access-1"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A portal and its authorization server."""
    config = SandboxConfig(
        client_secret=SECRETS[0], access_token=SECRETS[1], refresh_token=SECRETS[2]
    )
    with Sandbox(config) as running:
        yield running


@pytest.fixture
def house(engine: Engine, sandbox: Sandbox) -> Engine:
    """A database with the sandbox as the portal ``default``, called with its first tokens."""
    return _settled(engine, sandbox)


@pytest.fixture
def lite_house(sqlite_engine: Engine, sandbox: Sandbox) -> Engine:
    """The same on SQLite only."""
    return _settled(sqlite_engine, sandbox)


def _settled(engine: Engine, sandbox: Sandbox) -> Engine:
    application = StoredApplication(
        code="crm",
        client_id=sandbox.config.client_id,
        secret=KEYRING.encrypt(sandbox.config.client_secret),
        secret_key_id=KEYRING.key_ids[0],
        server_url=sandbox.url,
    )
    limits = Limits(rate_x=1000, rate_y=1000)
    with writing(engine) as connection:
        applications.add(connection, application)
        portals.add(connection, "default", Address(base_url=sandbox.url), limits)
    _install(engine, sandbox)
    return engine


def _install(
    engine: Engine, sandbox: Sandbox, *, refresh: str | None = None, member_id: str = MEMBER
) -> None:
    pair = Pair(access=sandbox.access_token, refresh=refresh or sandbox.refresh_token)
    sealed = Sealed(
        secret=KEYRING.encrypt(document_of(pair)),
        secret_key_id=KEYRING.key_ids[0],
        life_ms=3_600_000,
        member_id=member_id,
    )
    with writing(engine) as connection:
        credentials.install(connection, "default", "crm", sealed)


def _world(
    engine: Engine,
    telling: Callable[[Step, Moment], None] | None = None,
    **settings: object,
) -> World:
    world = replace(world_of(engine, None, **settings), keyring=KEYRING)
    return world if telling is None else replace(world, telling=telling)


@contextmanager
def _other(engine: Engine) -> Iterator[World]:
    """A worker of its own: another client and other connections."""
    url = engine.url.render_as_string(hide_password=False)
    world = _world(make_engine(url, pool_size=1))
    try:
        yield world
    finally:
        world.client.close()
        world.engine.dispose()


def _asked(sandbox: Sandbox) -> list[str]:
    return [request.method for request in sandbox.requests()]


def _portal(engine: Engine) -> dict[str, object]:
    return one(engine, tables.portal)


def _pair(engine: Engine) -> Pair:
    return pair_in(KEYRING.decrypt(str(_portal(engine)["secret"])))


def _lapse(engine: Engine) -> None:
    """Every rest and every lease is over."""
    time_passes(engine)
    change(engine, tables.portal, {"refresh_lease_until": 1})


def _at(step: Step, moment: Moment, number: int, act: Callable[[], None]) -> Callable[..., None]:
    """Do something at the so-manyth telling of this sort, counted from 1."""
    seen: Counter[tuple[Step, Moment]] = Counter()

    def telling(told: Step, when: Moment) -> None:
        seen[told, when] += 1
        if (told, when) == (step, moment) and seen[told, when] == number:
            act()

    return telling


# Of the tellings of a renewal the first is of the lease, the second of the request, the third of
# the pair that is stored.
BEFORE_REQUEST = partial(_at, Step.RENEW, Moment.BEFORE, 2)
AFTER_REQUEST = partial(_at, Step.RENEW, Moment.AFTER, 2)


class Gone(BaseException):
    """The end of a worker."""


def _dies() -> None:
    raise Gone


def test_an_expired_token_is_renewed_and_its_batch_goes_again_at_no_charge(
    house: Engine, sandbox: Sandbox
) -> None:
    """One refusal, one renewal, and every row is judged once."""
    ids = add_rows(house, "a", "b")
    sandbox.expire_token()

    drain(_world(house), Order())

    portal = _portal(house)
    assert _asked(sandbox) == ["batch", "oauth.token", "batch"]
    assert endings(house) == {key: ["applied"] for key in ids}
    assert [row["attempt"] for row in rows_of(house, tables.result)] == [1, 1]
    assert (portal["state"], portal["token_version"]) == ("active", 2)
    assert (portal["refresh_lease_until"], portal["refresh_lost_at"]) == (None, None)
    assert _pair(house).access == sandbox.access_token == SECOND
    assert _pair(house).refresh == sandbox.refresh_token


def test_nothing_is_renewed_as_long_as_the_portal_takes_the_token(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """Over many batches, and over looks with nothing to do."""
    world = _world(lite_house, batch_size=2)
    for number in range(5):
        add_rows(lite_house, *(f"k{number}-{n}" for n in range(10)))
        drain(world, Order())
        drain(world, Order())

    assert Counter(_asked(sandbox)) == {"batch": 25}
    assert _portal(lite_house)["token_version"] == 1


def test_a_token_whose_time_is_over_is_renewed_before_the_call(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """Nobody has to be refused first; and without a call nothing is renewed."""
    change(lite_house, tables.portal, {"token_expires_at": 1})
    world = _world(lite_house)
    drain(world, Order())
    idle = _asked(sandbox)
    add_rows(lite_house, "a")

    drain(world, Order())

    assert idle == []
    assert _asked(sandbox) == ["oauth.token", "batch"]


def test_of_twenty_workers_that_meet_an_expired_token_one_renews_it(
    house: Engine, sandbox: Sandbox
) -> None:
    """Each has a lane and connections of its own; the others leave theirs for a moment."""
    ids = [add_rows(house, f"k{n}", lane=n)[0] for n in range(20)]
    sandbox.expire_token()
    sandbox.add_fault("slow", method="oauth.token", delay_s=0.3, executed=True)
    together = threading.Barrier(20)

    def works() -> None:
        met = threading.Event()

        def meet() -> None:
            met.set()
            together.wait(timeout=30)

        with _other(house) as world:
            # Whoever comes while others take all the lanes that it looks at ends without one.
            while not met.is_set():
                drain(replace(world, telling=_at(Step.SEND, Moment.BEFORE, 1, meet)), Order())

    in_threads([works] * 20, within_s=60)
    met = _asked(sandbox).count("batch")
    time_passes(house)
    drain(_world(house), Order())

    assert met >= 20
    assert _asked(sandbox).count("oauth.token") == 1
    assert sandbox.access_token == SECOND
    assert endings(house) == {key: ["applied"] for key in ids}
    assert {row["attempt"] for row in rows_of(house, tables.result)} == {1}
    assert _portal(house)["token_version"] == 2


def test_a_worker_that_meets_a_renewal_under_way_neither_waits_nor_asks(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """Its lane rests a moment, its rows are as they were, and the lease is not its own to end."""
    add_rows(lite_house, "a")
    change(lite_house, tables.portal, {"token_expires_at": 1, "refresh_lease_until": FAR})

    tally = drain(_world(lite_house), Order())
    again = drain(_world(lite_house), Order())

    assert (tally, again) == (Tally(), Tally())
    assert sandbox.requests() == []
    assert states(lite_house) == {"a": "ready"}
    assert _portal(lite_house)["refresh_lease_until"] == FAR
    found = credential_now(_world(lite_house), _tenant(lite_house))
    assert isinstance(found, Resting)
    assert 0 < found.rest_ms <= 1000


def _tenant(engine: Engine) -> tenants.Tenant:
    with reading(engine) as connection:
        return tenants.tenant(connection, "default")


# Answers that are lost


@pytest.mark.parametrize("trouble", ["reset", "html", "cut_json", "refused"])
def test_a_server_that_gave_nothing_is_asked_again_with_the_same_token(
    lite_house: Engine, sandbox: Sandbox, trouble: str
) -> None:
    """The lane rests, the rows are not charged, and the loss is remembered until it is mended."""
    (row,) = add_rows(lite_house, "a")
    sandbox.expire_token()
    if trouble == "refused":
        change(lite_house, tables.app, {"server_url": "http://127.0.0.1:9"})
    else:
        sandbox.add_fault(trouble, method="oauth.token", status=502)

    first = drain(_world(lite_house), Order())
    nothing = drain(_world(lite_house), Order())
    met, left = _portal(lite_house), one(lite_house, tables.outbox)
    lane = one(lite_house, tables.lane)
    asked = _asked(sandbox)
    change(lite_house, tables.app, {"server_url": sandbox.url})
    _lapse(lite_house)
    drain(_world(lite_house), Order())

    assert (first, nothing) == (Tally(batches=1, deferred=1), Tally())
    assert asked == ["batch"] if trouble == "refused" else ["batch", "oauth.token"]
    assert (met["state"], met["token_version"]) == ("active", 1)
    assert (met["refresh_lost_at"] is None) == (trouble == "refused")
    assert (left["state"], left["attempts"]) == ("ready", 0)
    # The next failure rests longer, until something succeeds.
    assert (lane["fail_streak"], one(lite_house, tables.lane)["fail_streak"]) == (1, 0)
    assert endings(lite_house) == {row: ["applied"]}
    assert _portal(lite_house)["refresh_lost_at"] is None


def test_a_rotation_whose_answer_is_lost_ends_in_a_pause_that_says_so(
    house: Engine, sandbox: Sandbox
) -> None:
    """The rows wait; new tokens and a word of a person, and they go."""
    (row,) = add_rows(house, "a")
    sandbox.expire_token()
    sandbox.add_fault("reset", method="oauth.token", executed=True)
    drain(_world(house), Order())
    _lapse(house)

    drain(_world(house), Order())
    paused, left = _portal(house), states(house)
    _install(house, sandbox)
    with writing(house) as connection:
        tenants.resume(connection, "default")
    drain(_world(house), Order())

    assert paused["state"] == "auth_lost"
    assert str(paused["state_reason"]).startswith(
        "invalid_grant: the answer to a renewal was lost, and the refresh token that it replaced"
    )
    assert left == {"a": "ready"}
    assert endings(house) == {row: ["applied"]}
    assert _asked(sandbox) == ["batch", "oauth.token", "oauth.token", "batch"]


@pytest.mark.parametrize("has_rotated", [False, True])
def test_a_worker_that_dies_in_its_renewal_leaves_it_to_the_next(
    house: Engine, sandbox: Sandbox, *, has_rotated: bool
) -> None:
    """Not before its lease is over; if the pair died with it, the reason says so."""
    (row,) = add_rows(house, "a")
    sandbox.expire_token()
    dying = AFTER_REQUEST(_dies) if has_rotated else BEFORE_REQUEST(_dies)
    with pytest.raises(Gone):
        drain(_world(house, dying), Order())
    time_passes(house)

    early = drain(_world(house), Order())
    asked = _asked(sandbox)
    _lapse(house)
    drain(_world(house), Order())

    assert early == Tally()
    assert asked == ["batch", "oauth.token"][: 1 + has_rotated]
    if has_rotated:
        assert _portal(house)["state"] == "auth_lost"
        assert "the answer to a renewal was lost" in str(_portal(house)["state_reason"])
        assert states(house) == {"a": "ready"}
    else:
        assert endings(house) == {row: ["applied"]}
        assert sandbox.access_token == SECOND


def test_a_pair_that_comes_after_everybody_lost_patience_is_kept_and_used(
    house: Engine, sandbox: Sandbox
) -> None:
    """A worker slept over its lease with the only good pair in hand; another found the token spent."""
    (row,) = add_rows(house, "a")
    sandbox.expire_token()
    paused: list[object] = []

    def meanwhile() -> None:
        _lapse(house)
        with _other(house) as other:
            drain(other, Order())
        paused.append(_portal(house)["state"])

    drain(_world(house, AFTER_REQUEST(meanwhile)), Order())
    _lapse(house)
    drain(_world(house), Order())

    assert paused == ["auth_lost"]
    assert (_portal(house)["state"], _pair(house).access) == ("active", SECOND)
    assert endings(house) == {row: ["applied"]}


def test_a_token_that_is_spent_because_somebody_else_renewed_it_is_no_trouble(
    house: Engine, sandbox: Sandbox
) -> None:
    """The one who was slow is told invalid_grant, reads again, and uses the other's pair."""
    (row,) = add_rows(house, "a")
    sandbox.expire_token()

    def meanwhile() -> None:
        change(house, tables.portal, {"refresh_lease_until": 1})
        with _other(house) as other:
            assert isinstance(credential_now(other, _tenant(house)), Usable)

    drain(_world(house, BEFORE_REQUEST(meanwhile)), Order())

    assert _asked(sandbox) == ["batch", "oauth.token", "oauth.token", "batch"]
    assert (_portal(house)["state"], sandbox.access_token) == ("active", SECOND)
    assert endings(house) == {row: ["applied"]}


def test_a_refusal_that_comes_late_does_not_spoil_the_newer_token(
    house: Engine, sandbox: Sandbox
) -> None:
    """Somebody renewed while the refusal of the former token was on its way."""
    (row,) = add_rows(house, "a")
    sandbox.expire_token()

    def meanwhile() -> None:
        with writing(house) as connection:
            assert credentials.refuse(connection, "default", 1)
        assert isinstance(credential_now(_world(house), _tenant(house)), Usable)

    drain(_world(house, _at(Step.SEND, Moment.AFTER, 1, meanwhile)), Order())

    assert _asked(sandbox) == ["batch", "oauth.token", "batch"]
    assert endings(house) == {row: ["applied"]}
    assert _portal(house)["token_version"] == 2


# Answers that are refusals


def test_a_spent_refresh_token_pauses_the_portal_with_the_servers_words(
    house: Engine, sandbox: Sandbox
) -> None:
    """Nothing was lost here, and nothing of that is said; the server is asked once."""
    add_rows(house, "a")
    _install(house, sandbox, refresh="an-old-one")
    sandbox.expire_token()

    drain(_world(house), Order())
    _lapse(house)
    drain(_world(house), Order())

    portal = _portal(house)
    assert portal["state"] == "auth_lost"
    assert portal["state_reason"] == (
        "invalid_grant: Invalid refresh token; install the application again and store its new tokens"
    )
    assert (portal["refresh_lease_until"], portal["refresh_lost_at"]) == (1, None)
    assert _asked(sandbox) == ["batch", "oauth.token"]
    assert one(house, tables.outbox)["attempts"] == 0


@pytest.mark.parametrize(
    ("code", "status", "state"),
    [
        ("PAYMENT_REQUIRED", 401, "plan_lost"),
        ("NOT_INSTALLED", 401, "auth_lost"),
        ("invalid_client", 401, "auth_lost"),
        ("wrong_client", 200, "auth_lost"),
        ("invalid_request", 400, "misconfigured"),
        ("insufficient_scope", 403, "auth_lost"),
        ("NEVER_HEARD", 400, "misconfigured"),
    ],
)
def test_what_a_person_must_mend_pauses_the_portal(
    lite_house: Engine, sandbox: Sandbox, code: str, status: int, state: str
) -> None:
    """Each refusal with its state, and the server's own words."""
    add_rows(lite_house, "a")
    sandbox.expire_token()
    sandbox.add_fault("error", method="oauth.token", code=code, status=status, text="Why.")

    drain(_world(lite_house), Order())

    portal = _portal(lite_house)
    assert portal["state"] == state
    assert str(portal["state_reason"]).startswith(f"{code}: Why.")
    assert (portal["refresh_lease_until"], portal["refresh_lost_at"]) == (None, None)


@pytest.mark.parametrize("code", ["expired_token", "invalid_token", "NO_AUTH_FOUND"])
def test_a_token_that_is_refused_as_soon_as_it_was_renewed_is_not_renewed_again(
    lite_house: Engine, sandbox: Sandbox, code: str
) -> None:
    """One renewal for each refusal of an old token, and no circle of them."""
    add_rows(lite_house, "a")
    sandbox.add_fault("error", method="batch", code=code, status=401, times=None)

    drain(_world(lite_house), Order())

    portal = _portal(lite_house)
    assert _asked(sandbox) == ["batch", "oauth.token", "batch"]
    assert portal["state"] == "auth_lost"
    assert str(portal["state_reason"]).startswith("token_refused: the portal refuses")
    assert states(lite_house) == {"a": "ready"}


def test_tokens_of_another_portal_are_not_kept(lite_house: Engine, sandbox: Sandbox) -> None:
    """They would be sent to a portal that they are none of the business of."""
    add_rows(lite_house, "a")
    _install(lite_house, sandbox, member_id="somebody-else")
    sandbox.expire_token()

    drain(_world(lite_house), Order())

    portal = _portal(lite_house)
    assert (portal["state"], portal["token_version"]) == ("misconfigured", 2)
    assert "other_member_id" in str(portal["state_reason"])
    assert MEMBER in str(portal["state_reason"])
    assert _pair(lite_house).access == "hush-access"


def test_an_application_that_nobody_knows_is_a_mistake_to_correct(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """The reason names it, and the command that makes it known."""
    add_rows(lite_house, "a")
    change(lite_house, tables.portal, {"app_id": "nobody"})
    sandbox.expire_token()

    drain(_world(lite_house), Order())

    portal = _portal(lite_house)
    assert portal["state"] == "misconfigured"
    assert "b24sync app add nobody" in str(portal["state_reason"])


def test_a_secret_never_leaves_for_a_server_that_is_not_safe(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """Plain http is for this machine only; nobody is asked."""
    add_rows(lite_house, "a")
    change(lite_house, tables.app, {"server_url": "http://oauth.example"})
    sandbox.expire_token()

    found = credential_now(_world(lite_house), replace(_tenant(lite_house), token_is_over=True))
    drain(_world(lite_house), Order())

    assert isinstance(found, Usable)
    assert _portal(lite_house)["state"] == "misconfigured"
    assert "server_url: must begin with https://" in str(_portal(lite_house)["state_reason"])
    assert _asked(sandbox) == ["batch"]


def test_a_look_for_what_is_in_doubt_is_renewed_for_as_well(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """The lost answer is looked for with the new token, and nothing is made twice."""
    (row,) = add_rows(lite_house, "a", marker="m-1", operation="add")
    sandbox.add_fault("reset", method="batch", executed=True)
    drain(_world(lite_house), Order())
    sandbox.expire_token()
    for _ in range(2):
        time_passes(lite_house)
        change(lite_house, tables.batch, {"quiet_until": 1}, state="doubt")
        change(lite_house, tables.lane, {"next_due_at": 0})
        drain(_world(lite_house), Order())

    assert _asked(sandbox).count("oauth.token") == 1
    assert endings(lite_house) == {row: ["applied"]}
    assert len(sandbox.records("contact")) == 1


def test_a_pause_for_an_old_pair_does_not_stop_a_portal_with_a_new_one(
    lite_house: Engine, sandbox: Sandbox
) -> None:
    """A person stored new tokens just before the pause was written."""
    (row,) = add_rows(lite_house, "a")
    _install(lite_house, sandbox, refresh="an-old-one")
    sandbox.expire_token()

    def meanwhile() -> None:
        sandbox.reset()
        _install(lite_house, sandbox)

    drain(_world(lite_house, _at(Step.PAUSE, Moment.BEFORE, 1, meanwhile)), Order())
    time_passes(lite_house)
    drain(_world(lite_house), Order())

    assert _portal(lite_house)["state"] == "active"
    assert endings(lite_house) == {row: ["applied"]}


# Secrets


def test_no_renewal_shows_a_secret(
    lite_house: Engine, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the loudest logs, not in the tables, not in any repr, and not when the server does."""
    caplog.set_level(logging.DEBUG)
    add_rows(lite_house, "a")
    world = _world(lite_house)
    sandbox.expire_token()
    drain(world, Order())
    usable = credential_now(world, _tenant(lite_house))
    _age(lite_house)
    sandbox.expire_token()
    echo = f"no {sandbox.refresh_token} for {SECRETS[0]}"
    sandbox.add_fault("error", method="oauth.token", code="invalid_grant", text=echo)
    add_rows(lite_house, "b")
    drain(world, Order())

    rows = rows_of(lite_house, tables.portal) + rows_of(lite_house, tables.app)
    shown = [caplog.text, repr(world), repr(usable), repr(_tenant(lite_house)), repr(rows)]
    assert "token_renewed portal=default version=2" in caplog.text
    assert "token_renewal_failed portal=default code='invalid_grant'" in caplog.text
    assert "POST /oauth/token/" in caplog.text
    assert "invalid_grant: no … for …" in str(_portal(lite_house)["state_reason"])
    for secret in (*SECRETS, KEY):
        assert not [text for text in shown if secret in text]


def _age(engine: Engine) -> None:
    """The stored pair was renewed long ago."""
    aged = replace(_pair(engine), renewed_at_ms=1)
    change(engine, tables.portal, {"secret": KEYRING.encrypt(document_of(aged))})
