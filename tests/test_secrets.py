"""No credential is shown, wherever people look when something has gone wrong."""

import json
import traceback
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import OperationalError

from b24sync import Change, enqueue
from b24sync.edge import portals, tables
from b24sync.edge.database import transact, writing
from b24sync.edge.portals import Address, Limits
from b24sync.edge.tokens import Keyring, new_key, parse_webhook
from b24sync.sandbox import Fault, FaultAction, Sandbox, SandboxConfig
from b24sync.settings import Settings
from b24sync.world import build
from tests.apps.running import Yard, wait_until
from tests.house import one, rows_of

HUSH = "hush7hush7hush7hush7"
"""The code of every webhook."""
PASSWORD = "pass8pass8pass8pass8"  # noqa: S105 - looked for, never used

FAULTS: Mapping[str, tuple[Fault, ...]] = {
    "rejects": (Fault(action=FaultAction.COMMAND, code="ACCESS_DENIED", text="No.", times=None),),
    "denies": (Fault(action=FaultAction.ERROR, code="INVALID_CREDENTIALS", times=None),),
    "html": (Fault(action=FaultAction.HTML, times=None),),
    "cuts": (Fault(action=FaultAction.CUT_BODY, times=None),),
    "resets": (Fault(action=FaultAction.RESET, times=None),),
    "moves": (Fault(action=FaultAction.REDIRECT, location="https://new.example", times=None),),
}
"""Portals, and how each of them fails."""


LOUD_RUN = """
import logging, sys, traceback
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
for name in ("sqlalchemy.engine", "sqlalchemy.pool", "urllib3", "requests", "celery", "kombu"):
    logging.getLogger(name).setLevel(logging.DEBUG)
from tests.apps.shop import app
import b24sync.tasks
from b24sync.host import host_of
for portal in (None, "nowhere"):
    result = app.tasks["b24sync.sync_entities"].apply(kwargs={"portal": portal})
    print(result.result, result.traceback)
print(host_of(app), host_of(app).settings, host_of(app).world())
app.tasks["b24sync.pump"].apply()
app.tasks["b24sync.recover"].apply()
app.tasks["b24sync.prune"].apply()
host_of(app).close()
"""
"""A process that runs the tasks and prints all that it has, with every log at its loudest."""


@pytest.fixture
def yard(tmp_path: Path) -> Generator[Yard]:
    """A place for processes, all of which end with the test."""
    place = Yard(home=tmp_path)
    yield place
    place.clear()


@pytest.fixture
def unkind() -> Generator[Mapping[str, str]]:
    """Webhooks by portal: one for each fault, one without a listener, one that nobody trusts."""
    with ExitStack() as stack:
        addresses: dict[str, str] = {}
        for code, faults in FAULTS.items():
            sandbox = stack.enter_context(Sandbox(SandboxConfig(code=HUSH)))
            for fault in faults:
                sandbox.add_fault(fault)
            addresses[code] = sandbox.webhook_url
        untrusted = stack.enter_context(Sandbox(SandboxConfig(code=HUSH, tls=True)))
        addresses["untrusted"] = untrusted.webhook_url
        addresses["refused"] = f"http://127.0.0.1:9/rest/1/{HUSH}/"
        addresses["nameless"] = f"https://nowhere.invalid/rest/1/{HUSH}/"
        yield addresses


def add_portal(engine: Engine, code: str, webhook_url: str, key: str) -> None:
    """A portal whose credential is stored encrypted, with one row."""
    webhook, keyring = parse_webhook(webhook_url), Keyring.from_keys([key])
    address = Address(
        base_url=webhook.base_url,
        secret=keyring.encrypt(webhook.path),
        secret_key_id=keyring.key_ids[0],
    )
    transact(engine, partial(portals.add, code=code, address=address, limits=Limits()))
    change = Change("contact", key="a", operation="add", fields={"name": "Ann"}, portal=code)
    with writing(engine) as connection:
        enqueue(connection, change)


def touched(engine: Engine) -> set[str]:
    """The portals of which something is known: a result, a pause, an open breaker."""
    found = {row["portal"] for row in rows_of(engine, tables.result)}
    found |= {row["code"] for row in rows_of(engine, tables.portal) if row["state"] != "active"}
    return found | {row["portal"] for row in rows_of(engine, tables.lane) if row["fail_streak"]}


def stored(engine: Engine) -> str:
    """All that the tables hold, except the encrypted credentials, as one text."""
    return "\n".join(
        repr(row) for table in tables.metadata.tables.values() for row in rows_of(engine, table)
    )


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_no_failure_shows_a_credential(
    yard: Yard, engine: Engine, database_url: str, unkind: Mapping[str, str], pool: str
) -> None:
    """Logs at their most talkative, results, dead letters, batches: none repeats a secret."""
    key = new_key()
    for code, webhook_url in unkind.items():
        add_portal(engine, code, webhook_url, key)
    default = one(engine, tables.portal, code="refused")["base_url"]
    url = make_url(database_url).set(password=PASSWORD)
    config = {
        "broker_url": "b24sqlite:///broker.db",
        "b24sync_database_url": url.render_as_string(hide_password=False),
        "b24sync_webhook_url": f"{default}/rest/1/{HUSH}/",
        "b24sync_secret_key": key,
        "b24sync_pump_s": 0.3,
        "b24sync_connect_timeout_s": 2,
    }
    worker = yard.worker(config, pool, "-B", "-l", "DEBUG", "--task-events")

    rung = yard.python("-c", LOUD_RUN, SHOP_CONFIG=json.dumps(config))
    wait_until(lambda: touched(engine) >= set(unkind), within_s=30)
    assert rung.ends() == 0, rung.output
    worker.stop()
    assert worker.ends() == 0

    seen = {"worker": worker.output, "run": rung.output, "tables": stored(engine)}
    for place, text in seen.items():
        for secret in (HUSH, PASSWORD, key):
            assert secret not in text, (place, _around(text, secret))
    assert "POST /rest/1/…/batch" in worker.output
    assert "sqlalchemy.engine" in rung.output
    assert "SettingsError" in rung.output


def _around(text: str, secret: str) -> str:
    """Where a secret was found."""
    at = text.index(secret)
    return text[max(0, at - 300) : at + 100]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_database_that_is_lost_shows_no_password(database_url: str) -> None:
    """The traceback of a task that cannot go on names the database, not the password."""
    url = make_url(database_url).set(password=PASSWORD, database="nowhere")
    settings = Settings(database_url=url.render_as_string(hide_password=False))
    world = build(settings)

    with pytest.raises(OperationalError, match="nowhere") as caught:
        world.engine.connect()

    shown = "".join(traceback.format_exception(caught.value)) + repr(world) + repr(world.engine)
    assert PASSWORD not in shown
