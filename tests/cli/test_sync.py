"""``b24sync sync``: what is due is sent from this process, and what is left is explained."""

import os
import signal
import threading

import pytest
from sqlalchemy import Engine

from b24sync.edge import tables
from b24sync.edge.tokens import new_key
from b24sync.sandbox import Fault, FaultAction, Sandbox
from b24sync.settings import Settings
from tests.cli.conftest import Cli
from tests.house import FAR_MS, add_portal, add_rows, database_now, rows_of, states

REFUSED = Fault(
    action=FaultAction.COMMAND,
    times=None,
    field="name",
    matches="^bad$",
    code="CRM_FIELD_ERROR_VALUE_NOT_VALID",
    text="No such name",
)


def test_what_is_due_is_sent(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> None:
    """Rows leave the outbox and are told by outcome."""
    add_rows(sqlite_engine, "c-1", "c-2", portal="acme")

    ran = cli("sync", "--json")

    assert ran.code == 0
    assert ran.document["outcomes"] == {"applied": 2}
    assert len(acme.records("contact")) == 2
    assert rows_of(sqlite_engine, tables.outbox) == []


def test_failures_are_an_exit_code_with_the_portals_words(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Exit code 1; the others went through."""
    acme.add_fault(REFUSED)
    add_rows(sqlite_engine, "good", "bad", portal="acme")

    ran = cli("sync")

    assert ran.code == 1
    assert "contact bad upsert" in ran.out
    assert "CRM_FIELD_ERROR_VALUE_NOT_VALID: No such name" in ran.out
    assert "2 rows finished in 1 batch" in ran.out


def test_only_what_was_asked_for_is_sent(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> None:
    """A portal, a kind, a number of rows."""
    add_rows(sqlite_engine, "a", "b", "c", portal="acme")
    add_rows(sqlite_engine, "d", portal="acme", kind="company", fields={"title": "d"})

    limited = cli("sync", "--portal", "acme", "--kind", "contact", "--limit", "2", "--json")
    left = states(sqlite_engine)
    rest = cli("sync", "--kind", "contact", "--json")

    assert limited.document["outcomes"] == {"applied": 2}
    assert left == {"c": "ready", "d": "ready"}
    assert rest.document["outcomes"] == {"applied": 1}
    assert acme.records("company") == {}


def test_a_kind_is_found_on_whichever_portal_has_it(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """A portal with other kinds only does not end the run before the others had their turn."""
    other = cli("portal", "add", "aaa", "--webhook", acme.webhook_url)
    add_rows(sqlite_engine, "f", portal="aaa", kind="company", fields={"title": "f"})
    add_rows(sqlite_engine, "c", portal="acme")

    ran = cli("sync", "--kind", "contact", "--json")

    assert (other.code, ran.code) == (0, 0)
    assert states(sqlite_engine) == {"f": "ready"}


def test_until_empty_waits_for_retries(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> None:
    """A portal that refuses for its rate is asked again, in the same run."""
    acme.add_fault(
        Fault(action=FaultAction.ERROR, code="QUERY_LIMIT_EXCEEDED", text="Too many requests")
    )
    add_rows(sqlite_engine, "c-1", portal="acme")

    ran = cli("sync", "--until-empty", "--timeout", "30s", "--json")

    assert ran.code == 0
    assert ran.document["outcomes"] == {"applied": 1}
    assert ran.document["deferred"] == 1


def test_until_empty_does_not_wait_for_what_time_cannot_mend(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Held rows and rows for portals unknown or paused are left, with the reason."""
    assert acme.requests() == []
    add_portal(sqlite_engine, "shut", state="paused", state_reason="holidays")
    add_rows(sqlite_engine, "waits", portal="acme", state="held", waits_for="company x")
    add_rows(sqlite_engine, "shut out", portal="shut")
    add_rows(sqlite_engine, "lost", portal="ghost")

    ran = cli("sync", "--until-empty")

    assert ran.code == 0
    assert "acme: 1 row held" in ran.err
    assert "shut: 1 row ready; paused: holidays" in ran.err
    assert "ghost: 1 row for a portal that does not exist" in ran.err


def test_until_empty_ends_when_its_time_is_over(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Exit code 1 tells a script that rows are left."""
    assert acme.requests() == []
    add_rows(sqlite_engine, "c-1", portal="acme", due_at=database_now(sqlite_engine) + FAR_MS)

    ran = cli("sync", "--until-empty", "--timeout", "1s")

    assert ran.code == 1
    assert "the time was over" in ran.err


def test_an_interrupt_ends_the_run_in_good_order(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """The first signal lets the request under way end; nothing is left half done."""
    add_rows(sqlite_engine, "now", portal="acme")
    add_rows(sqlite_engine, "later", portal="acme", due_at=database_now(sqlite_engine) + FAR_MS)
    sent = threading.Event()

    def interrupt() -> None:
        while not acme.records("contact"):
            sent.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ran = cli("sync", "--until-empty")
    thread.join()

    assert ran.code == 0
    assert "stopped as asked" in ran.err
    assert states(sqlite_engine) == {"later": "ready"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_shell_without_the_key_does_not_stop_the_portal(
    cli: Cli, acme: Sandbox, settings: Settings, sqlite_engine: Engine
) -> None:
    """What only this process lacks must not pause a portal that the workers can call."""
    assert acme.requests() == []
    add_rows(sqlite_engine, "c-1", portal="acme")
    others = Settings(database_url=settings.database_url, secret_key=(new_key(),))

    ran = cli("sync", settings=others)

    assert ran.code == 2
    assert rows_of(sqlite_engine, tables.portal)[0]["state"] == "active"


def test_the_portal_of_the_settings_needs_no_adding(
    cli: Cli, sandbox: Sandbox, settings: Settings, sqlite_engine: Engine
) -> None:
    """A webhook in the settings makes the portal ``default`` on first use."""
    add_rows(sqlite_engine, "c-1")
    given = Settings(database_url=settings.database_url, webhook_url=sandbox.webhook_url)

    ran = cli("sync", "--json", settings=given)

    assert ran.code == 0
    assert ran.document["outcomes"] == {"applied": 1}


@pytest.mark.parametrize(
    "words", [["--portal", "acne"], ["--halt", "sideways"], ["--limit", "0"]], ids=" ".join
)
def test_what_cannot_be_done_is_refused(cli: Cli, acme: Sandbox, words: list[str]) -> None:
    """Exit code 2 and one line; an unknown portal is answered with the known ones."""
    ran = cli("sync", *words)

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert words[0] != "--portal" or "known are: acme" in ran.err
    assert acme.requests() == []
