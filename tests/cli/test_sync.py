"""``b24sync sync``: what is due is sent from this process, and what is left is explained."""

import os
import signal
import threading
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from b24sync.core.policies import Policy
from b24sync.edge import tables
from b24sync.edge.tokens import new_key
from b24sync.sandbox import Fault, FaultAction, Sandbox, SandboxConfig
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
    # In the background of a shell it is ignored from the beginning.
    before = signal.getsignal(signal.SIGINT)

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
    assert signal.getsignal(signal.SIGINT) is before


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


def test_a_run_can_stop_at_the_first_failure(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Exit code 1, what is left and why, and the commands with which it goes on."""
    acme.add_fault(REFUSED)
    add_rows(sqlite_engine, "good", "bad", "next", portal="acme")

    ran = cli("sync", "--halt", "strict")

    assert ran.code == 1
    assert "contact bad upsert  CRM_FIELD_ERROR_VALUE_NOT_VALID: No such name" in ran.out
    assert "acme: 1 row ready behind row 2, which stops its lane" in ran.err
    assert "b24sync held skip 2" in ran.out
    assert len(acme.records("contact")) == 1
    assert states(sqlite_engine) == {"bad": "held", "next": "ready"}


@pytest.mark.parametrize(
    ("policy", "words", "outcomes"),
    [
        ("strict", (), {"stopped": 1, "skipped": 1}),
        ("strict", ("--halt", "independent"), {"failed": 1, "applied": 1}),
        ("default", (), {"failed": 1, "applied": 1}),
        ("default", ("--halt", "chain"), {"failed": 1, "skipped": 1, "applied": 1}),
    ],
)
def test_a_failure_reaches_as_far_as_was_asked_for_or_else_as_the_portals_policy_says(
    cli: Cli,
    acme: Sandbox,
    sqlite_engine: Engine,
    policy: str,
    words: tuple[str, ...],
    outcomes: dict[str, int],
) -> None:
    """The option outweighs the policy; without both, others go on."""
    cli("portal", "set", "acme", "--halt", policy)
    acme.add_fault(REFUSED)
    add_rows(sqlite_engine, "bad", "next", portal="acme")

    ran = cli("sync", "--json", *words)

    assert ran.code == 1
    assert ran.document["outcomes"] == outcomes


def test_until_empty_does_not_wait_for_a_person(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Rows behind one that stops its lane go no further by themselves."""
    acme.add_fault(REFUSED)
    add_rows(sqlite_engine, "bad", "next", portal="acme")
    assert cli("sync", "--halt", "strict").code == 1

    again = cli("sync", "--until-empty", "--timeout", "30s", "--json")

    assert again.code == 0
    assert again.document["outcomes"] == {}
    assert [stop["row_id"] for stop in again.document["stops"]] == [1]


def test_a_record_that_is_not_as_it_was_said_is_a_warning(
    cli: Cli, settings: Settings, sqlite_engine: Engine
) -> None:
    """Told with the fields, and counted; but the portal did it, so nothing has failed."""
    verifying = replace(settings, policies={"contact": Policy(verify=True)})
    fields = {"name": "Ann", "nickname": "A."}
    add_rows(sqlite_engine, "c-1", portal="acme", fields=fields)

    with Sandbox(SandboxConfig(strict_fields=True)) as forgetful:
        cli("portal", "add", "acme", "--webhook", forgetful.webhook_url)
        told = cli("sync", settings=verifying)
    results = cli("results", "--outcome", "different")
    explained = cli("explain", "contact", "c-1")
    status = cli("status", "--json")

    assert told.code == 0
    assert "contact c-1 upsert  nickname: not a field of the record" in told.out
    assert "1 row finished in 1 batch" in told.out
    assert "not as it was said: nickname: not a field of the record; id 1" in results.out
    assert "different  upsert (row 1, try 1" in explained.out
    assert "not as it was said: nickname" in explained.out
    (task,) = status.document["portals"][0]["to_do"]
    assert "1 change was applied, and the record is not as it was said" in task


def test_what_did_not_have_to_be_sent_is_told(
    cli: Cli, acme: Sandbox, settings: Settings, sqlite_engine: Engine
) -> None:
    """An update that says the same again, and changes that went as one command."""
    sparing = replace(settings, policies={"contact": Policy(skip_unchanged=True)})
    add_rows(sqlite_engine, "c-1", "c-1", portal="acme")
    together = cli("sync", "--json", settings=sparing)
    add_rows(sqlite_engine, "c-1", portal="acme")
    same = cli("sync", settings=sparing)

    explained = cli("explain", "contact", "c-1")

    assert together.document["outcomes"] == {"applied": 1, "merged": 1}
    assert same.code == 0
    assert "nothing had to be sent; the portal is so already" in same.out
    assert len(acme.records("contact")) == 1
    assert "went with row" in explained.out
    assert "unchanged  upsert (row 3" in explained.out
    assert "nothing had to be sent" in explained.out


def test_requests_that_only_read_are_counted(
    cli: Cli, acme: Sandbox, settings: Settings, sqlite_engine: Engine
) -> None:
    """A key that is looked for before it is made costs a look."""
    matching = replace(settings, policies={"contact": Policy(match="name")})
    add_rows(sqlite_engine, "c-1", portal="acme")

    ran = cli("sync", settings=matching)
    again = cli("sync", "--json", settings=matching)

    assert ran.code == 0
    assert "looks" in ran.out
    assert "requests that only read the portal" in ran.out
    assert again.document["looks"] == 0
    assert len(acme.records("contact")) == 1


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
