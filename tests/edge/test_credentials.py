"""Rows of tokens and applications: replaced by version, leased to one, re-encrypted by nobody's loss."""

from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from b24sync.core.model import Fault, FaultKind
from b24sync.edge import applications, credentials, rekeying, tables, tenants
from b24sync.edge.applications import ApplicationView, StoredApplication
from b24sync.edge.credentials import Lease, Sealed
from b24sync.edge.database import reading, writing
from b24sync.edge.rekeying import Closed
from tests.house import Found, add_portal, change, database_now, in_threads, one

OLD_KEY, NEW_KEY = "k1", "k2"
ONE, TWO, NEW, ANEW, HUSH = "k1:one", "k1:two", "k1:new", "k2:one", "k1:hush"

SEALED = Sealed(secret=ONE, secret_key_id=OLD_KEY, life_ms=3_600_000, member_id="m", user="7")
NEXT = Sealed(secret=TWO, secret_key_id=OLD_KEY, life_ms=60_000)
APP = StoredApplication(
    code="crm",
    client_id="local.1",
    secret=HUSH,
    secret_key_id=OLD_KEY,
    server_url="https://oauth.example",
)
LEASE_MS = 30_000

T = TypeVar("T")


@pytest.fixture
def house(engine: Engine) -> Engine:
    """A portal of the application ``crm``, with its first pair."""
    add_portal(engine)
    with writing(engine) as connection:
        applications.add(connection, APP)
        credentials.install(connection, "default", "crm", SEALED)
    return engine


def _row(engine: Engine) -> Found:
    return one(engine, tables.portal)


def _take(engine: Engine, version: int = 1) -> Lease | None:
    with writing(engine) as connection:
        return credentials.take(connection, "default", version, lease_ms=LEASE_MS)


def _leased(engine: Engine, version: int = 1) -> Lease:
    lease = _take(engine, version)
    assert lease is not None
    return lease


def _is_over(engine: Engine) -> bool:
    with reading(engine) as connection:
        return tenants.tenant(connection, "default").token_is_over


def test_a_first_pair_makes_the_portal_one_of_its_application(house: Engine) -> None:
    """Whatever it was before; a version of its own, and an end by the database's clock."""
    row = _row(house)

    assert (row["auth_kind"], row["app_id"], row["token_version"]) == ("oauth", "crm", 1)
    assert (row["secret"], row["member_id"], row["credential_user"]) == (ONE, "m", "7")
    assert 0 <= database_now(house) + 3_600_000 - row["token_expires_at"] < 5_000
    assert not _is_over(house)


def test_a_refusal_counts_for_its_own_version_only(house: Engine) -> None:
    """And once: what is known to be over does not end later."""
    with writing(house) as connection:
        late = credentials.refuse(connection, "default", 0)
        was_over = tenants.tenant(connection, "default").token_is_over
        first = credentials.refuse(connection, "default", 1)
        again = credentials.refuse(connection, "default", 1)

    assert (late, was_over, first, again) == (False, False, True, False)
    assert _is_over(house)
    change(house, tables.portal, {"auth_kind": "webhook", "token_expires_at": None})
    with writing(house) as connection:
        assert not credentials.refuse(connection, "default", 1)


def test_one_of_many_gets_the_lease(house: Engine) -> None:
    """All at once, on connections of their own; and nobody after it until it lapses."""
    leases: list[Lease] = []

    def tries() -> None:
        lease = _take(house)
        if lease is not None:
            leases.append(lease)

    in_threads([tries] * 6)
    late = _take(house)
    change(house, tables.portal, {"refresh_lease_until": 1})
    lapsed = _leased(house)

    assert len(leases) == 1
    assert late is None
    assert (leases[0].was_lost, lapsed.was_lost) == (False, True)


def test_an_old_version_is_leased_to_nobody(house: Engine) -> None:
    """Whoever has not read the newer pair must read it."""
    assert _take(house, version=0) is None
    assert _take(house, version=2) is None
    assert _row(house)["refresh_lost_at"] is None


def test_a_new_pair_is_kept_where_the_old_one_still_stands(house: Engine) -> None:
    """It ends the lease and the loss; what the answer did not say stays."""
    lease = _leased(house)
    with writing(house) as connection:
        kept = credentials.keep(connection, lease, NEXT)
        twice = credentials.keep(connection, lease, SEALED)

    row = _row(house)
    assert (kept, twice) == (True, False)
    assert (row["secret"], row["token_version"]) == (TWO, 2)
    assert (row["refresh_lease_until"], row["refresh_lost_at"]) == (None, None)
    assert (row["member_id"], row["credential_user"]) == ("m", "7")


def test_a_pair_is_not_kept_over_one_that_a_person_stored(house: Engine) -> None:
    """Nor over a webhook."""
    lease = _leased(house)
    with writing(house) as connection:
        credentials.install(connection, "default", "crm", replace(SEALED, secret=NEW))
        over_tokens = credentials.keep(connection, lease, NEXT)
    lease = _leased(house, version=2)
    change(house, tables.portal, {"auth_kind": "webhook"})
    with writing(house) as connection:
        over_webhook = credentials.keep(connection, lease, NEXT)

    assert (over_tokens, over_webhook) == (False, False)
    assert _row(house)["secret"] == NEW


@pytest.mark.parametrize(("is_lost", "was_lost"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_loss_is_remembered_until_there_is_a_pair(
    house: Engine, *, is_lost: int, was_lost: int
) -> None:
    """A failure that lost nothing forgets only what it noted itself."""
    change(house, tables.portal, {"refresh_lost_at": 5 if was_lost else None})
    lease = _leased(house)
    with writing(house) as connection:
        given = credentials.give_back(connection, lease, rest_ms=9_000, is_lost=bool(is_lost))
        standing = credentials.standing(connection, "default")

    assert given
    assert (standing.lost_at_ms is not None) == bool(is_lost or was_lost)
    assert 0 < standing.left_ms <= 9_000
    assert _take(house) is None


def test_a_lease_that_lapsed_is_not_given_back_for_the_next_owner(house: Engine) -> None:
    """Or a third would come in beside it."""
    late = _leased(house)
    change(house, tables.portal, {"refresh_lease_until": 1})
    owner = replace(_leased(house), until_ms=_row(house)["refresh_lease_until"])
    change(house, tables.portal, {"refresh_lease_until": owner.until_ms + 1})
    with writing(house) as connection:
        given = credentials.give_back(connection, late, rest_ms=0, is_lost=False)

    assert not given
    assert _row(house)["refresh_lease_until"] == owner.until_ms + 1


def test_only_a_pause_that_came_during_the_renewal_ends_with_it(house: Engine) -> None:
    """What was stopped before, or for something else, waits for whom it waited for."""
    paused = {"state_reason": "why", "state_at": 1}
    ends: dict[str, str] = {}
    for number, (state, at) in enumerate(
        [("auth_lost", 1), ("auth_lost", 2**45), ("paused", 2**45)]
    ):
        lease = _leased(house, version=number + 1)
        change(house, tables.portal, paused | {"state": state, "state_at": at})
        with writing(house) as connection:
            assert credentials.keep(connection, lease, NEXT)
        ends[f"{state} {at}"] = _row(house)["state"]

    assert list(ends.values()) == ["auth_lost", "active", "paused"]


def test_a_version_stands_until_there_is_another(house: Engine) -> None:
    """What is done for its sake is done only then."""
    with writing(house) as connection:
        stood = credentials.stands(connection, "default", 1)
        credentials.install(connection, "default", "crm", NEXT)
        stands = credentials.stands(connection, "default", 1)

    assert (stood, stands) == (True, False)


@pytest.mark.parametrize("kind", ["oauth", "webhook"])
def test_only_tokens_are_renewed(house: Engine, kind: str) -> None:
    """A webhook that is refused is lost."""
    with reading(house) as connection:
        tenant = replace(tenants.tenant(connection, "default"), auth_kind=kind)
    fault = Fault(code="NO_AUTH_FOUND", text="", kind=FaultKind.PORTAL)

    assert credentials.is_for_renewal(tenant, fault) is (kind == "oauth")


# Applications


def test_an_application_is_found_changed_and_counted(house: Engine) -> None:
    """A portal that was given a webhook since is none of its portals."""
    other = replace(APP, client_id="local.2")
    with writing(house) as connection:
        known = applications.find(connection, "crm")
        unknown = applications.find(connection, "other")
        changed = applications.replace(connection, other)
        missed = applications.replace(connection, replace(APP, code="other"))
        before = applications.views(connection)
    change(house, tables.portal, {"auth_kind": "webhook"})
    with reading(house) as connection:
        after = applications.views(connection)

    assert (known, unknown, changed, missed) == (APP, None, True, False)
    view = ApplicationView(
        code="crm", client_id="local.2", server_url="https://oauth.example", portals=1
    )
    assert before == (view,)
    assert after == (replace(view, portals=0),)
    assert "hush" not in repr(known)


def test_an_application_that_serves_a_portal_stays(house: Engine) -> None:
    """Its portals could never be renewed again."""
    with writing(house) as connection:
        used = applications.remove(connection, "crm")
    change(house, tables.portal, {"auth_kind": "webhook"})
    with writing(house) as connection:
        removed = [applications.remove(connection, "crm") for _ in range(2)]

    assert (used, removed) == (False, [True, False])


def test_two_applications_of_one_code_are_one_too_many(house: Engine) -> None:
    """The second is refused by the table."""
    with pytest.raises(IntegrityError), writing(house) as connection:
        applications.add(connection, APP)


# Keys


def _rekey(connection: Connection, former: Closed) -> bool:
    return rekeying.close_anew(connection, tables.portal, former, secret=ANEW, key_id=NEW_KEY)


def test_a_secret_is_closed_anew_where_it_is_still_the_one_that_was_read(house: Engine) -> None:
    """A renewal that comes between keeps its pair; and whoever renews does not mind the new key."""
    find = partial(
        rekeying.closed_otherwise, table=tables.portal, key_id=NEW_KEY, after="", limit=9
    )
    lease = _leased(house)
    with writing(house) as connection:
        (former,) = find(connection)
        assert credentials.keep(connection, lease, NEXT)
        raced = _rekey(connection, former)
        (anew,) = find(connection)
        closed = _rekey(connection, anew)
        left = find(connection)
        count = rekeying.count_closed(connection, tables.portal, NEW_KEY)

    row = _row(house)
    assert (raced, anew.secret, closed, left, count) == (False, TWO, True, [], 1)
    assert (row["secret_key_id"], row["token_version"]) == (NEW_KEY, 2)


def test_chunks_follow_one_another_by_code(house: Engine) -> None:
    """None is left out, none comes twice; portals without a secret have nothing to close."""
    for code in ("a", "b", "c"):
        add_portal(house, code, secret=ONE, secret_key_id=OLD_KEY)
    add_portal(house, "empty")
    seen: list[str] = []
    with reading(house) as connection:
        while found := rekeying.closed_otherwise(
            connection, tables.portal, NEW_KEY, after=seen[-1] if seen else "", limit=2
        ):
            seen += [one.code for one in found]

    assert seen == ["a", "b", "c", "default"]
