"""``b24sync audit`` and ``duplicates``: a second record is found, shown with what to do, closed."""

import io

import pytest
from sqlalchemy import Engine

from b24sync.edge import tables
from b24sync.sandbox import Sandbox
from tests.cli.conftest import Cli
from tests.house import add_rows, change, one


@pytest.fixture
def twice(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> Sandbox:
    """A portal with contacts a and b, of which a has a second record: 3."""
    add_rows(sqlite_engine, "a", "b", portal="acme")
    assert cli("sync").code == 0
    marked = {"originId": "contact:a", "originatorId": "b24sync"}
    acme.call("crm.item.add", {"entityTypeId": 3, "fields": marked})
    return acme


def test_an_audit_tells_what_it_found_and_what_to_do(cli: Cli, twice: Sandbox) -> None:
    """Exit code 1 as long as one is open, be it no news."""
    assert len(twice.records("contact")) == 3

    told = cli("audit", "--portal", "acme")
    again = cli("audit", "--json")

    assert (told.code, again.code) == (1, 1)
    assert "acme: 2 links looked for in 1 request" in told.out
    assert "new: contact a, record 3 beside 1" in told.out
    assert "1 duplicate is open: b24sync duplicates list" in told.out
    assert again.document == {
        "portals": [
            {
                "portal": "acme",
                "links": 2,
                "requests": 1,
                "found": [],
                "known": 1,
                "gone": 0,
                "unseen": 0,
                "skipped": {},
                "over": True,
                "why": "",
            }
        ],
        "open": 1,
    }


def test_an_audit_without_duplicates_is_good_news(cli: Cli, twice: Sandbox) -> None:
    """Of kinds that have none, too; what could not be asked for is named."""
    twice.call("crm.item.delete", {"entityTypeId": 3, "id": 3})

    ran = cli("audit")
    other = cli("audit", "--kind", "deal")

    assert (ran.code, other.code) == (0, 0)
    assert "no duplicates are open" in ran.out
    assert "acme: 0 links looked for in 0 requests" in other.out


def test_an_audit_that_could_not_see_all_says_so(
    cli: Cli, twice: Sandbox, sqlite_engine: Engine
) -> None:
    """A portal that is stopped is not asked."""
    before = len(twice.requests())
    change(sqlite_engine, tables.portal, {"state": "paused", "state_reason": "by hand"})

    ran = cli("audit", "--portal", "acme")

    assert ran.code == 1
    assert "acme: not all was seen (paused)" in ran.err
    assert len(twice.requests()) == before


def test_a_portal_that_nobody_knows_is_refused(cli: Cli, acme: Sandbox) -> None:
    """With those that are known."""
    assert acme.requests() == []

    for words in (["audit"], ["duplicates", "list"]):
        ran = cli(*words, "--portal", "nobody")

        assert (ran.code, "known are: acme" in ran.err) == (2, True)


def test_duplicates_are_listed_and_closed(cli: Cli, twice: Sandbox, sqlite_engine: Engine) -> None:
    """Which is kept, which is too many, what to do; a closed one is out of sight."""
    assert cli("duplicates", "list").out == "no duplicates\n"
    cli("audit")

    listed = cli("duplicates", "list", "--kind", "contact")
    (found,) = cli("duplicates", "list", "--portal", "acme", "--json").documents
    none = cli("duplicates", "list", "--kind", "deal", "--json")
    closed = cli("duplicates", "close", "1", "7", "--yes")
    again = cli("duplicates", "close", "1", "--yes", "--json")

    assert len(twice.records("contact")) == 3
    assert "contact a" in listed.out
    assert "merge the other record into the one that is kept" in listed.out
    assert (found["kept_id"], found["other_id"], found["found_by"]) == ("1", "3", "audit")
    assert none.out == ""
    assert (closed.code, closed.out) == (1, "1 duplicate closed\n")
    assert "duplicate 7 is closed already, or there is none" in closed.err
    assert (again.code, again.document) == (1, {"closed": [], "closed_or_unknown": [1]})
    assert one(sqlite_engine, tables.link, entity_key="a")["dup_ids"] is None
    assert cli("duplicates", "list").out == "no duplicates\n"
    assert "(closed)" in cli("duplicates", "list", "--closed").out
    assert cli("audit").code == 0


def test_a_person_is_asked_before_a_duplicate_is_closed(
    cli: Cli, twice: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers, nothing is closed."""
    assert len(twice.records("contact")) == 3
    cli("audit")
    monkeypatch.setattr("sys.stdin", io.StringIO())

    ran = cli("duplicates", "close", "1")

    assert ran.code == 2
    assert len(cli("duplicates", "list", "--json").documents) == 1


def test_an_entity_with_two_records_is_explained(cli: Cli, twice: Sandbox) -> None:
    """When it was found and by whom, and what to do as long as it is open."""
    assert len(twice.records("contact")) == 3
    cli("audit")

    opened = cli("explain", "contact", "a")
    cli("duplicates", "close", "1", "--yes")
    closed = cli("explain", "contact", "a")
    document = cli("explain", "contact", "a", "--json").document

    assert "record 3 beside 1, by audit" in opened.out
    assert "`b24sync duplicates close 1`" in opened.out
    assert "`b24sync duplicates close 1`" not in closed.out
    assert "duplicate 1, record 3" in closed.out
    assert [found["other_id"] for found in document["duplicates"]] == ["3"]
