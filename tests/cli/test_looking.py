"""``status``, ``results``, ``explain``, ``dead``, ``replay``, ``drop``: looking and steering."""

import io

import pytest
from sqlalchemy import Engine

from b24sync.core.model import Ref
from b24sync.core.pacing import MethodPace
from b24sync.core.refs import stored
from b24sync.edge import budgets, tables
from b24sync.edge.database import writing
from b24sync.edge.tenants import tenant
from b24sync.sandbox import Fault, FaultAction, Sandbox
from tests.cli.conftest import Cli
from tests.house import add_portal, add_rows, database_now, one, rows_of, states

REFUSED = Fault(
    action=FaultAction.COMMAND,
    times=None,
    field="name",
    matches="^bad",
    code="ACCESS_DENIED",
    text="Access denied",
)


@pytest.fixture
def synced(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> Sandbox:
    """A portal to which one contact went, and which refused two."""
    acme.add_fault(REFUSED)
    add_rows(sqlite_engine, "good", "bad-1", "bad-2", portal="acme")
    assert cli("sync").code == 1
    return acme


def test_status_counts_and_says_what_to_do(
    cli: Cli, synced: Sandbox, sqlite_engine: Engine
) -> None:
    """Numbers for programs, words for people."""
    assert synced.records("contact")
    add_rows(sqlite_engine, "next", portal="acme")

    told = cli("status")
    ran = cli("status", "--json")

    (portal,) = ran.document["portals"]
    assert (told.code, ran.code) == (0, 0)
    assert (portal["ready"], portal["dead"], portal["state"]) == (1, 2, "active")
    assert portal["recent"] == {"applied": 1, "failed": 2}
    assert "2 dead letters rest: `b24sync dead --portal acme` shows why." in told.out


def test_status_is_loud_about_portals_that_do_not_exist(cli: Cli, sqlite_engine: Engine) -> None:
    """Rows for a misspelt code are a row of the table and a thing to do."""
    add_portal(sqlite_engine, "acme")
    add_rows(sqlite_engine, "c-1", portal="acne")

    ran = cli("status")

    assert "UNKNOWN" in ran.out
    assert "acne: 1 row names a portal that does not exist" in ran.out


def test_status_gives_the_reason_of_a_stop_and_advice(cli: Cli, sqlite_engine: Engine) -> None:
    """What happened, and what a person must do."""
    add_portal(sqlite_engine, "acme", state="plan_lost", state_reason="PAYMENT_REQUIRED")

    ran = cli("status", "--portal", "acme", "--json")

    (task,) = ran.document["portals"][0]["to_do"]
    assert "PAYMENT_REQUIRED" in task
    assert "paid for" in task
    assert "`b24sync portal resume acme`" in task


@pytest.fixture
def stopped(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> Sandbox:
    """A portal whose lane stands still at row 1; row 2 is of the same entity, row 3 stands behind."""
    acme.add_fault(REFUSED)
    add_rows(sqlite_engine, "bad", "bad", portal="acme", mergeable=False)
    add_rows(sqlite_engine, "next", portal="acme")
    assert cli("sync", "--halt", "strict").code == 1
    return acme


def test_status_is_loud_about_a_lane_that_stands_still(cli: Cli, stopped: Sandbox) -> None:
    """Which row, what the portal said, since when, and the commands with which it goes on."""
    assert stopped.records("contact") == {}

    told = cli("status")
    (portal,) = cli("status", "--json").document["portals"]

    (stop,) = portal["stops"]
    assert "STOPPED" in told.out
    assert "acme: lane 0 was stopped" in told.out
    assert "ago by row 1, upsert of contact bad: ACCESS_DENIED: Access denied." in told.out
    for decision in ("retry", "settle", "skip", "drop"):
        assert f"b24sync held {decision} 1" in told.out
        assert f"`b24sync held {decision} 1`" in portal["to_do"][0]
    assert (stop["row_id"], stop["said"]) == (1, "ACCESS_DENIED: Access denied")
    assert stop["stopped_ms"] >= 0
    assert len(portal["to_do"]) == 1


def test_status_says_nothing_more_once_somebody_decided(cli: Cli, stopped: Sandbox) -> None:
    """The lane goes on, and there is nothing to do but for the dead letter."""
    assert stopped.records("contact") == {}
    cli("held", "skip", "1")

    (portal,) = cli("status", "--json").document["portals"]

    assert portal["stops"] == []
    (task,) = portal["to_do"]
    assert "1 dead letter rests" in task


def test_a_row_that_stops_its_lane_is_explained(cli: Cli, stopped: Sandbox) -> None:
    """What the portal said, what stands still for it, and what somebody can decide."""
    assert stopped.records("contact") == {}

    ran = cli("explain", "contact", "bad")

    assert "stopped  upsert (row 1, try 1" in ran.out
    assert (
        "stopped: ACCESS_DENIED: Access denied; nothing of its lane is sent until somebody decides"
    ) in ran.out
    assert "b24sync held settle 1" in ran.out
    assert "behind row 1 of the same entity" in ran.out


def test_what_a_person_decided_is_told_as_that(cli: Cli, stopped: Sandbox) -> None:
    """No portal judged it."""
    assert stopped.records("contact") == {}
    cli("held", "settle", "1", "--remote-id", "4711", "--yes")
    cli("held", "skip", "2")

    ran = cli("results")

    assert "done by hand; id 4711" in ran.out


def test_a_row_that_waits_in_vain_is_explained(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """For which entity, and what became of that."""
    acme.add_fault(REFUSED)
    contact = stored(Ref("contact", "bad-1"))
    add_rows(sqlite_engine, "bad-1", portal="acme", operation="add")
    cli("sync")
    order = {"kind": "deal", "operation": "add", "fields": {"title": "t", "contactId": contact}}
    (row_id,) = add_rows(sqlite_engine, "order", portal="acme", **order)
    cli("sync")

    ran = cli("explain", "deal", "order")

    assert ("waits for the id of contact bad-1, whose add failed (ACCESS_DENIED, row 1)") in ran.out
    assert f"`b24sync held skip {row_id}` gives it up" in ran.out


def test_entities_that_refer_to_each_other_are_explained(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """One was made without the other, and got the rest afterwards."""
    assert acme.requests() == []
    for kind, key, name, other in (
        ("company", "acme", "contactId", Ref("contact", "ann")),
        ("contact", "ann", "companyId", Ref("company", "acme")),
    ):
        fields = {"title": key, "name": key, name: stored(other)}
        add_rows(sqlite_engine, key, portal="acme", kind=kind, operation="add", fields=fields)

    cli("sync", "--until-empty", "--timeout", "30s")
    told = [
        cli("explain", kind, key).out for kind, key in (("company", "acme"), ("contact", "ann"))
    ]

    assert sum("begun" in out for out in told) == 1
    assert any("made without what refers back to it; that follows" in out for out in told)


def test_results_are_told_newest_first(cli: Cli, synced: Sandbox) -> None:
    """One JSON document a line, with what the portal said."""
    assert synced.records("contact")

    every = cli("results", "--json")
    failed = cli("results", "--failed", "--since", "2h", "--limit", "1", "--json")

    assert [entry["key"] for entry in every.documents] == ["bad-2", "bad-1", "good"]
    assert failed.document["key"] == "bad-2"
    assert failed.document["error_code"] == "ACCESS_DENIED"
    assert failed.document["finished_at"].endswith("Z")


def test_results_fit_a_narrow_terminal(
    cli: Cli, synced: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is wider than the terminal, and nothing that matters is cut off."""
    assert synced.records("contact")
    monkeypatch.setattr("b24sync.cli.desk.PIPE_COLUMNS", 60)

    ran = cli("results")

    assert max(len(line) for line in ran.out.splitlines()) <= 60
    assert "ACCESS_DENIED" in ran.out
    assert "contact bad-1" in ran.out


def test_output_for_a_pipe_has_no_colours(cli: Cli, synced: Sandbox) -> None:
    """Escape sequences are for terminals."""
    assert synced.records("contact")

    ran = cli("status")

    assert "\x1b" not in ran.out + ran.err


def test_an_entity_is_explained_from_its_first_change_on(
    cli: Cli, synced: Sandbox, sqlite_engine: Engine
) -> None:
    """Its record, what became of each change, and what waits, for what."""
    assert synced.records("contact")
    first, _ = add_rows(sqlite_engine, "good", "good", portal="acme")

    ran = cli("explain", "contact", "good")

    assert ran.code == 0
    assert "Its record on the portal is 1" in ran.out
    assert "applied  upsert (row 1, try 1" in ran.out
    assert f"row {first}  upsert of name" in ran.out
    assert "ready to be sent" in ran.out


def test_a_dead_letter_is_explained_with_its_remedy(cli: Cli, synced: Sandbox) -> None:
    """What the portal said, and the command that tries again."""
    assert synced.records("contact")

    ran = cli("explain", "contact", "bad-1")

    assert "ACCESS_DENIED: Access denied" in ran.out
    assert "`b24sync replay 1` tries it again" in ran.out


def test_nothing_known_is_said(cli: Cli) -> None:
    """No history is no error."""
    ran = cli("explain", "contact", "nobody")

    assert ran.code == 0
    assert "nothing is known of contact nobody" in ran.err


def test_dead_letters_are_listed_with_advice(cli: Cli, synced: Sandbox) -> None:
    """The portal's words, and what a person must do about their kind."""
    assert synced.records("contact")

    told = cli("dead")
    listed = cli("dead", "--key", "bad-1", "--json")

    assert "ACCESS_DENIED: Access denied" in told.out
    assert "forbidden (2):" in told.out
    assert listed.document["key"] == "bad-1"


def test_a_replay_goes_through_once_the_cause_is_gone(
    cli: Cli, synced: Sandbox, sqlite_engine: Engine
) -> None:
    """Mend, replay, sync: the change arrives, and the letter cannot be replayed again."""
    synced.clear_faults()

    replayed = cli("replay", "1", "--json")
    again = cli("replay", "1")
    sent = cli("sync", "--json")

    assert (replayed.code, again.code) == (0, 1)
    assert list(replayed.document["replayed"]) == ["1"]
    assert "already" in again.err
    assert sent.document["outcomes"] == {"applied": 1}
    assert rows_of(sqlite_engine, tables.outbox) == []


def test_a_replay_of_many_asks_first(
    cli: Cli, synced: Sandbox, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers nothing is done; ``--dry-run`` only shows; ``--yes`` does it."""
    assert synced.records("contact")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    shown = cli("replay", "--all", "--dry-run", "--json")
    unasked = cli("replay", "--all")
    before = states(sqlite_engine)
    done = cli("replay", "--code", "ACCESS_DENIED", "--yes")

    assert shown.document["would_replay"] == [1, 2]
    assert (unasked.code, done.code) == (2, 0)
    assert before == {}
    assert states(sqlite_engine) == {"bad-1": "ready", "bad-2": "ready"}


def test_a_replay_says_which_letters_it_means(cli: Cli) -> None:
    """Neither nothing nor ids and options together."""
    nothing = cli("replay")
    both = cli("replay", "1", "--all")

    assert (nothing.code, both.code) == (2, 2)


def test_a_dropped_letter_is_out_of_sight(cli: Cli, synced: Sandbox, sqlite_engine: Engine) -> None:
    """Closed for good, still shown with ``--closed``."""
    assert synced.records("contact")

    dropped = cli("drop", "1", "404", "--yes", "--json")
    listed = cli("dead", "--json")
    closed = cli("dead", "--closed", "--json")

    assert dropped.code == 1
    assert dropped.document == {"dropped": [1], "closed_or_unknown": [404]}
    assert [letter["id"] for letter in listed.documents] == [2]
    assert [letter["id"] for letter in closed.documents] == [2, 1]
    assert one(sqlite_engine, tables.dead, id=1)["replayed_as"] is None


def test_status_tells_which_methods_rest_and_what_commands_cost(
    cli: Cli, sqlite_engine: Engine
) -> None:
    """Refused, used up, or neither; a program reads all three."""
    add_portal(sqlite_engine, "acme")
    now = database_now(sqlite_engine)
    known = {
        "crm.item.add": MethodPace(blocked_until_ms=now + 90_000, cost_s=1.5),
        "crm.item.get": MethodPace(cost_s=0.25, spread_s=0.125),
        "crm.item.update": MethodPace(baskets=((now - 480_000, 478_000),)),
    }
    with writing(sqlite_engine) as connection:
        budgets.remember(connection, tenant(connection, "acme"), known)

    shown, told = cli("status"), cli("status", "--json")

    words = " ".join(shown.out.split())
    assert "acme: crm.item.add rests for 1 min: the portal refused it for time" in words
    assert "acme: crm.item.update rests for" in words
    assert "its time is used up, 478 s" in words
    assert "crm.item.get" not in words
    add, get, update = told.documents[0]["portals"][0]["methods"]
    assert (add["method"], add["cost_s"], add["blocked_ms"] > 0) == ("crm.item.add", 1.5, True)
    assert (get["cost_s"], get["spread_s"], get["used_s"]) == (0.25, 0.125, 0.0)
    assert (update["used_s"], update["blocked_ms"]) == (478.0, None)
