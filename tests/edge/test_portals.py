"""Rows of portals: three belong together, and a credential of one's own is never overwritten."""

from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Engine

from b24sync.core.errors import SettingsError
from b24sync.core.model import HaltMode, PortalState
from b24sync.edge import portals, tables, taking, tenants
from b24sync.edge.database import reading, transact
from b24sync.edge.portals import Address, Limits
from tests.house import add_rows, change, maybe_taken, one, rows_of

SEALED = {"secret": "sealed", "secret_key_id": "k1"}
ACME = Address(base_url="https://acme.example", user="7", **SEALED)
LIMITS = Limits(rate_x=250, rate_y=5, server_max_s=90)
WEBHOOK = "https://portal.example/rest/1/hush/"


def add(engine: Engine, code: str = "acme") -> bool:
    """Add a portal in a transaction of its own."""
    return transact(engine, partial(portals.add, code=code, address=ACME, limits=LIMITS))


def ensure(engine: Engine, webhook_url: str | None = WEBHOOK) -> bool:
    """Make the portal of the settings in a transaction of its own."""
    return transact(engine, partial(portals.ensure_default, webhook_url=webhook_url))


def test_an_added_portal_can_be_drained_at_once(engine: Engine) -> None:
    """A portal is its own row, a lane to be taken and a bucket to be spent from."""
    is_new = add(engine)
    add_rows(engine, "c-1", portal="acme")
    transact(engine, taking.wake)
    mine = maybe_taken(engine)

    assert is_new
    assert mine is not None
    assert (mine.tenant.code, mine.tenant.rate_x, mine.tenant.server_max_s) == ("acme", 250, 90)
    assert one(engine, tables.bucket)["portal"] == "acme"


def test_a_portal_is_added_once(engine: Engine) -> None:
    """A code that exists is refused and its row stays as it is."""
    add(engine)
    change(engine, tables.portal, {"base_url": "https://mine.example"}, code="acme")

    is_new = add(engine)

    assert not is_new
    assert one(engine, tables.portal)["base_url"] == "https://mine.example"


def test_a_replacement_keeps_what_a_person_decided(engine: Engine) -> None:
    """Address and credential change; the state waits for a person, limits for new ones."""
    add(engine)
    stop = partial(tenants.pause, code="acme", state=PortalState.PAUSED, reason="holidays")
    transact(engine, stop)
    moved = replace(ACME, base_url="https://new.example")

    is_known = transact(engine, partial(portals.replace, code="acme", address=moved))

    row = one(engine, tables.portal)
    assert is_known
    assert (row["base_url"], row["secret_key_id"]) == ("https://new.example", "k1")
    assert (row["state"], row["state_reason"], row["rate_x"]) == ("paused", "holidays", 250)


def test_nothing_is_replaced_that_is_not_there(engine: Engine) -> None:
    """An unknown code makes no portal by the way."""
    is_known = transact(engine, partial(portals.replace, code="acme", address=ACME))

    assert not is_known
    assert rows_of(engine, tables.portal) == []


def test_codes_are_told_in_order(engine: Engine) -> None:
    """Messages that list the known portals read the same every time."""
    add(engine, "zeta")
    add(engine, "acme")

    with reading(engine) as connection:
        codes = portals.codes(connection)

    assert codes == ("acme", "zeta")


def test_the_portal_of_the_settings_is_made_without_its_secret(engine: Engine) -> None:
    """The setting stays the only place of its secret."""
    is_made = ensure(engine)

    row = one(engine, tables.portal)
    assert is_made
    assert (row["code"], row["base_url"]) == ("default", "https://portal.example")
    assert row["secret"] is None
    assert one(engine, tables.lane)["portal"] == "default"


def test_the_portal_of_the_settings_is_made_once(engine: Engine) -> None:
    """Asking at every start changes nothing."""
    ensure(engine)

    is_changed = ensure(engine)

    assert not is_changed


def test_without_the_setting_no_portal_is_made(engine: Engine) -> None:
    """No webhook, no portal."""
    is_made = ensure(engine, None)

    assert not is_made
    assert rows_of(engine, tables.portal) == []


def test_the_portal_of_the_settings_follows_its_address(engine: Engine) -> None:
    """What is shown is where it is called, also after the setting has changed."""
    ensure(engine)

    is_changed = ensure(engine, "https://moved.example/rest/1/hush/")

    assert is_changed
    assert one(engine, tables.portal)["base_url"] == "https://moved.example"


def test_a_stored_credential_outweighs_the_setting(engine: Engine) -> None:
    """A portal ``default`` that a person added is not turned to another address."""
    add(engine, "default")

    is_changed = ensure(engine)

    assert not is_changed
    assert one(engine, tables.portal)["base_url"] == "https://acme.example"


def set_halt(engine: Engine, halt: HaltMode | None) -> bool:
    """Choose the halt mode of ``acme`` in a transaction of its own."""
    return transact(engine, partial(portals.set_halt, code="acme", halt=halt))


def test_a_chosen_halt_mode_is_what_the_lanes_owner_reads(engine: Engine) -> None:
    """From the next time that the lane is taken on."""
    add(engine)

    is_known = set_halt(engine, HaltMode.STRICT)

    with reading(engine) as connection:
        tenant = tenants.tenant(connection, "acme")
    assert is_known
    assert tenant.halt is HaltMode.STRICT


def test_a_choice_that_is_taken_back_leaves_nothing_behind(engine: Engine) -> None:
    """The policy is then as if nobody had chosen."""
    add(engine)
    set_halt(engine, HaltMode.CHAIN)

    set_halt(engine, None)

    assert one(engine, tables.portal)["policy"] is None


def test_what_else_a_policy_says_is_kept(engine: Engine) -> None:
    """Numbers with a fraction, too, which the outbox reads as decimals."""
    add(engine)
    others = {"note": "ask Ann", "share": 0.5, "list": [1, {"a": None}]}
    change(engine, tables.portal, {"policy": others}, code="acme")

    set_halt(engine, HaltMode.STRICT)
    chosen = one(engine, tables.portal)["policy"]
    set_halt(engine, None)

    assert chosen == others | {"halt": "strict"}
    assert one(engine, tables.portal)["policy"] == others


@pytest.mark.parametrize("policy", [["strict"], "strict"], ids=repr)
def test_a_policy_that_is_no_object_is_left_as_it_is(engine: Engine, policy: object) -> None:
    """Whoever wrote it meant something; it is not written over."""
    add(engine)
    change(engine, tables.portal, {"policy": policy}, code="acme")

    with pytest.raises(SettingsError, match="that of the portal acme is no JSON object"):
        set_halt(engine, HaltMode.STRICT)

    assert one(engine, tables.portal)["policy"] == policy


def test_a_halt_mode_for_no_portal_is_told(engine: Engine) -> None:
    """An unknown code makes no portal by the way."""
    assert not set_halt(engine, HaltMode.STRICT)
