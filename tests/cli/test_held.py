"""``b24sync held``: a person decides what becomes of a row, and hears what goes on."""

import io

import pytest
from sqlalchemy import Engine, insert

from b24sync.core.model import Ref
from b24sync.core.refs import stored
from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.sandbox import Fault, FaultAction, Sandbox
from tests.cli.conftest import Cli
from tests.house import add_rows, endings, one, rows_of, states

REFUSED = Fault(
    action=FaultAction.COMMAND,
    times=None,
    field="name",
    matches="^bad$",
    code="ACCESS_DENIED",
    text="Access denied",
)


@pytest.fixture
def stopped(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> Sandbox:
    """A portal in the mode strict whose lane stands still at row 2; row 1 waits, row 3 is next."""
    assert cli("portal", "set", "acme", "--halt", "strict").code == 0
    acme.add_fault(REFUSED)
    fields = {"name": "c", "companyId": stored(Ref("company", "acme"))}
    add_rows(sqlite_engine, "child", portal="acme", fields=fields)
    add_rows(sqlite_engine, "bad", "next", portal="acme")
    assert cli("sync").code == 1
    return acme


def test_held_rows_are_listed_with_what_they_are_held_for(cli: Cli, stopped: Sandbox) -> None:
    """What stops a lane first, then what waits; and below them what can be done."""
    assert stopped.records("contact") == {}

    told = cli("held", "list")
    listed = cli("held", "list", "--portal", "acme", "--json")

    first, second = listed.documents
    lines = [line.split() for line in told.out.splitlines()]
    assert (told.code, listed.code) == (0, 0)
    assert "ACCESS_DENIED: Access denied" in told.out
    assert "stops lane 0" in told.out
    assert "waits for the id of company acme" in told.out
    assert [line[0] for line in lines[2:4]] == ["2", "1"]
    assert "b24sync held settle ROW" in told.out
    assert (first["id"], first["stops_lane"], first["said"]) == (
        2,
        True,
        "ACCESS_DENIED: Access denied",
    )
    assert (second["id"], second["waits_for"]) == (1, "company acme")


def test_a_list_can_be_short(cli: Cli, stopped: Sandbox) -> None:
    """And says that there is more."""
    assert stopped.records("contact") == {}

    ran = cli("held", "list", "--limit", "1")

    assert "child" not in ran.out
    assert "the first 1 row; --limit shows more" in ran.err


def test_a_list_fits_a_narrow_terminal(
    cli: Cli, stopped: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is wider than the terminal."""
    assert stopped.records("contact") == {}
    monkeypatch.setattr("b24sync.cli.desk.PIPE_COLUMNS", 70)

    ran = cli("held", "list")

    assert max(len(line) for line in ran.out.splitlines()) <= 70
    assert "contact bad" in ran.out


def test_nothing_held_is_said(cli: Cli, acme: Sandbox) -> None:
    """An empty list is good news."""
    assert acme.requests() == []

    ran = cli("held", "list")

    assert (ran.code, ran.out) == (0, "no rows are held\n")


def test_a_row_done_by_hand_is_applied_and_linked(
    cli: Cli, stopped: Sandbox, sqlite_engine: Engine
) -> None:
    """What was done is said, and what goes on; the next run sends the rest."""
    settled = cli("held", "settle", "2", "--remote-id", "4711", "--yes")
    sent = cli("sync", "--json")

    assert settled.code == 0
    assert settled.out.splitlines() == [
        "row 2, upsert of contact bad, is applied, done by hand; its record is 4711",
        "  lane 0 of acme goes on",
    ]
    assert one(sqlite_engine, tables.link, entity_key="bad")["remote_id"] == "4711"
    assert sent.document["outcomes"] == {"applied": 1}
    assert len(stopped.records("contact")) == 1
    assert states(sqlite_engine) == {"child": "held"}


def test_a_person_is_asked_before_a_change_is_taken_out(
    cli: Cli, stopped: Sandbox, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers nothing is done; the question names the row."""
    assert stopped.records("contact") == {}

    for words in (["settle", "2", "--remote-id", "4711"], ["drop", "2"]):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        ran = cli("held", *words)

        assert ran.code == 2
        assert "row 2, upsert of contact bad," in ran.err
        assert "--yes" in ran.err

    assert states(sqlite_engine)["bad"] == "held"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "which record was made?"),
        (("--remote-id", "CO_12"), "is not the id of a record"),
        (("--remote-id", "12"), "record 12 is linked to contact ann already"),
    ],
    ids=["none", "no id", "somebody else's"],
)
def test_an_id_that_cannot_be_the_rows_own_is_refused(
    cli: Cli, stopped: Sandbox, sqlite_engine: Engine, words: tuple[str, ...], complaint: str
) -> None:
    """Exit code 2, one line that says why, and nothing is written."""
    assert stopped.records("contact") == {}
    link = {"portal": "acme", "kind": "contact", "entity_key": "ann", "state": "present"}
    with writing(sqlite_engine) as connection:
        connection.execute(insert(tables.link), link | {"remote_id": "12"})

    ran = cli("held", "settle", "2", "--yes", *words)

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert complaint in ran.err
    assert states(sqlite_engine)["bad"] == "held"


def test_a_skipped_row_can_be_replayed(cli: Cli, stopped: Sandbox, sqlite_engine: Engine) -> None:
    """Its dead letter is named, with the command for it, and that command works."""
    skipped = cli("held", "skip", "2")
    stopped.clear_faults()
    replayed = cli("replay", "1")
    sent = cli("sync", "--json")

    assert skipped.code == 0
    assert "is given up as dead letter 1: `b24sync replay 1` writes it anew" in skipped.out
    assert replayed.code == 0
    assert sent.document["outcomes"] == {"applied": 2}
    assert endings(sqlite_engine)[2] == ["failed"]


def test_a_dropped_row_is_cancelled(cli: Cli, stopped: Sandbox, sqlite_engine: Engine) -> None:
    """For programs: what was decided, and what goes on."""
    assert stopped.records("contact") == {}

    ran = cli("held", "drop", "2", "--yes", "--json")

    assert ran.code == 0
    assert ran.document == {
        "row": 2,
        "decision": "dropped",
        "outcome": "cancelled",
        "portal": "acme",
        "kind": "contact",
        "key": "bad",
        "operation": "upsert",
        "remote_id": None,
        "dead_letter": None,
        "lane_goes_on": True,
        "released_behind": 0,
        "released_waiting": 0,
    }
    assert endings(sqlite_engine) == {2: ["cancelled"]}
    assert rows_of(sqlite_engine, tables.dead) == []


def test_a_retried_row_goes_first(cli: Cli, stopped: Sandbox) -> None:
    """Mend, retry, sync: it arrives before what it had kept from going."""
    stopped.clear_faults()

    retried = cli("held", "retry", "2")
    sent = cli("sync", "--json")

    assert retried.out.splitlines() == [
        "row 2, upsert of contact bad, is ready and goes first",
        "  lane 0 of acme goes on",
    ]
    assert sent.document["outcomes"] == {"applied": 2}
    names = [record["name"] for _, record in sorted(stopped.records("contact").items())]
    assert names == ["bad", "next"]


def test_what_may_have_been_done_is_not_done_again_unasked(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row whose answer was lost is retried by whoever has looked on the portal."""
    assert acme.requests() == []
    monkeypatch.setattr("sys.stdin", io.StringIO())
    lost = {"state": "held", "state_reason": "stopped: the answer was lost"}
    (row_id,) = add_rows(sqlite_engine, "c-1", portal="acme", **lost)
    result = {
        "outbox_id": row_id,
        "portal": "acme",
        "kind": "contact",
        "entity_key": "c-1",
        "operation": "upsert",
        "outcome": "stopped",
        "final": False,
        "error_class": "unknown",
        "attempt": 1,
        "enqueued_at": 0,
    }
    with writing(sqlite_engine) as connection:
        connection.execute(insert(tables.result), result)

    unasked = cli("held", "retry", str(row_id))
    before = states(sqlite_engine)
    said = cli("held", "retry", str(row_id), "--yes")

    assert (unasked.code, said.code) == (2, 0)
    assert "may have been done" in unasked.err
    assert before == {"c-1": "held"}
    assert states(sqlite_engine) == {"c-1": "ready"}


def test_whoever_waited_for_the_row_is_told_of(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Later changes of its entity, and rows that refer to it."""
    assert acme.requests() == []
    held = {"portal": "acme", "state": "held"}
    (row_id,) = add_rows(sqlite_engine, "c-1", state_reason="stopped: x", **held)
    add_rows(sqlite_engine, "c-1", portal="acme", state="parked")
    add_rows(sqlite_engine, "d-1", "d-2", kind="deal", waits_for="contact c-1", **held)

    ran = cli("held", "skip", str(row_id))

    assert ran.out.splitlines()[1:] == [
        "  the next change of contact c-1 goes on",
        "  2 rows that waited for contact c-1 look for it anew",
    ]
    assert states(sqlite_engine) == {"c-1": "ready", "d-1": "ready", "d-2": "ready"}


@pytest.mark.parametrize("decision", ["settle", "skip", "drop", "retry"])
def test_a_row_that_is_not_held_is_left_alone(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine, decision: str
) -> None:
    """Exit code 1, and where it stands instead."""
    assert acme.requests() == []
    (row_id,) = add_rows(sqlite_engine, "c-1", portal="acme")

    ready = cli("held", decision, str(row_id))
    unknown = cli("held", decision, "404")
    machine = cli("held", decision, "404", "--json")

    assert (ready.code, unknown.code, machine.code) == (1, 1, 1)
    assert f"row {row_id} is ready, not held" in ready.err
    assert "there is no unfinished row 404" in unknown.err
    assert machine.document == {"row": 404, "decision": None, "state": None}
    assert states(sqlite_engine) == {"c-1": "ready"}


def test_an_unknown_portal_is_answered_with_the_known_ones(cli: Cli, acme: Sandbox) -> None:
    """A misspelt code is no empty list."""
    assert acme.requests() == []

    ran = cli("held", "list", "--portal", "acne")

    assert ran.code == 2
    assert "known are: acme" in ran.err
