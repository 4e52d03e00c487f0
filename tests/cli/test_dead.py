"""``b24sync dead ID``, ``replay`` and ``drop``: one letter in full, edited, many at once, a trail."""

import io
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from b24sync.edge import tables
from b24sync.sandbox import Fault, FaultAction, Sandbox
from tests.cli.conftest import Cli
from tests.house import add_rows, one, rows_of

REFUSED = Fault(
    action=FaultAction.COMMAND,
    times=None,
    field="name",
    matches="^bad",
    code="ACCESS_DENIED",
    text="Access denied",
)


@pytest.fixture
def dead(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> Sandbox:
    """A portal that refuses names that begin with bad; contacts bad-1 and bad-2 are dead letters."""
    acme.add_fault(REFUSED)
    for key in ("bad-1", "bad-2"):
        fields = {"name": key, "comments": "x"}
        add_rows(sqlite_engine, key, portal="acme", fields=fields, headers={"trace": "t-1"})
    assert cli("sync").code == 1
    return acme


def test_one_letter_is_shown_in_full(cli: Cli, dead: Sandbox) -> None:
    """What it says, what the portal said, which row it was, and what can be done."""
    assert dead.records("contact") == {}

    told = cli("dead", "1")
    shown = cli("dead", "1", "--json").document
    unknown = cli("dead", "404")
    confused = cli("dead", "1", "--kind", "contact")

    assert told.code == 0
    assert "Dead letter 1: upsert of contact bad-1 on acme" in told.out
    assert "row 1, written " in told.out
    assert '"comments": "x"' in told.out
    assert '"trace": "t-1"' in told.out
    assert "ACCESS_DENIED: Access denied" in told.out
    assert "`b24sync replay 1` tries it again" in told.out
    assert (shown["headers"], shown["trail"]["later"]) == ({"trace": "t-1"}, None)
    assert [result["outcome"] for result in shown["results"]] == ["failed"]
    assert (unknown.code, confused.code) == (1, 2)
    assert "there is no dead letter 404" in unknown.err


def test_the_trail_leads_from_a_letter_to_the_next(cli: Cli, dead: Sandbox) -> None:
    """A replay that died again names the letter that it became; who did it is kept."""
    assert dead.records("contact") == {}
    cli("replay", "1")
    waiting = cli("dead", "1")
    cli("sync")

    told = cli("dead", "1")
    later = cli("dead", "3")
    shown = cli("dead", "1", "--json").document

    assert "Row 3 is ready." in waiting.out
    assert "It was given up on again, as dead letter 3" in told.out
    assert "It is what became of dead letter 1" in later.out
    assert "replayed as row 3 by " in told.out
    assert "@" in shown["closed_by"]
    assert [result["outcome"] for result in shown["replayed_results"]] == ["failed"]
    assert shown["trail"] == {"earlier": None, "row_state": None, "later": 3}


def test_a_letter_is_edited_on_its_way(cli: Cli, dead: Sandbox, sqlite_engine: Engine) -> None:
    """JSON or text, nested or taken out; what was edited is kept, and told with its history."""
    ran = cli(
        "replay",
        "1",
        "--set",
        "name=good=1",
        "--set",
        "fm.PHONE.0.value=+15550100",
        "--set",
        "opened=true",
        "--unset",
        "comments",
    )
    synced = cli("sync")

    assert (ran.code, synced.code) == (0, 0)
    letter = one(sqlite_engine, tables.dead, id=1)
    phones = {"PHONE": [{"value": "+15550100"}]}
    assert letter["edits"] == {
        "name": {"before": "bad-1", "after": "good=1"},
        "fm": {"after": phones},
        "opened": {"after": True},
        "comments": {"before": "x"},
    }
    (record,) = dead.records("contact").values()
    assert (record["name"], "comments" in record) == ("good=1", False)
    told = cli("explain", "contact", "bad-1")
    assert 'name: "bad-1" → "good=1"' in " ".join(told.out.split())
    assert 'comments: "x" → nothing' in cli("dead", "1").out


def test_all_fields_can_be_said_anew(
    cli: Cli, dead: Sandbox, sqlite_engine: Engine, tmp_path: Path
) -> None:
    """From a file, an object of fields; what is none is refused, and nothing is done."""
    assert dead.records("contact") == {}
    file = tmp_path / "fields.json"
    for text in ("[1]", "{"):
        file.write_text(text)
        assert cli("replay", "1", "--fields-file", str(file)).code == 2
    assert cli("replay", "1", "--fields-file", str(tmp_path / "none")).code == 2
    file.write_text(json.dumps({"name": "Ann"}))

    ran = cli("replay", "1", "--fields-file", str(file))

    assert ran.code == 0
    assert one(sqlite_engine, tables.outbox)["fields"] == {"name": "Ann"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--set", "name"), "'name' is not PATH=VALUE"),
        (("--unset", "nme"), "dead letter 1, contact:bad-1: nme: there is no 'nme'"),
        (("--set", "name.first=Ann"), "there is no 'first' inside of a single value"),
        (("--set", 'companyId={"$ref": 1}'), "a reference is"),
        (("--unset", "name", "--unset", "comments"), "fields: are missing"),
    ],
    ids=["no value", "misspelt", "no object", "no reference", "nothing left"],
)
def test_an_edit_that_makes_no_change_is_refused(
    cli: Cli, dead: Sandbox, sqlite_engine: Engine, words: tuple[str, ...], complaint: str
) -> None:
    """As writing it would be: with the field and what to do; the letter rests as it was."""
    assert dead.records("contact") == {}

    ran = cli("replay", "1", *words)

    assert ran.code == 2
    assert complaint in ran.err
    assert rows_of(sqlite_engine, tables.outbox) == []
    assert one(sqlite_engine, tables.dead, id=1)["closed_at"] is None


def test_a_letter_that_is_overtaken_is_left(cli: Cli, dead: Sandbox, sqlite_engine: Engine) -> None:
    """Its entity is newer than what it says; that is told before, and can be overruled."""
    add_rows(sqlite_engine, "bad-1", portal="acme", fields={"name": "Ann"})
    cli("sync")

    listed = cli("dead")
    shown = cli("dead", "1")
    planned = cli("replay", "--all", "--dry-run")
    counts = cli("replay", "--all", "--dry-run", "--json").document
    left = cli("replay", "--code", "ACCESS_DENIED", "--yes", "--json")
    single = cli("replay", "1")
    done = cli("replay", "1", "--even-if-newer")

    assert len(dead.records("contact")) == 1
    assert "NEWER" in listed.out
    assert "A newer change of this entity was applied or waits" in shown.out
    assert "1 dead letter is left: its entity has newer changes" in planned.err
    assert "1 dead letter would be replayed" in planned.out
    assert counts == {
        "would_replay": [2],
        "newer": 1,
        "by_code": [{"code": "ACCESS_DENIED", "reason": "forbidden", "letters": 2, "newer": 1}],
    }
    assert (left.code, left.document["newer"]) == (1, [1])
    assert list(left.document["replayed"]) == ["2"]
    assert (single.code, done.code) == (1, 0)
    assert "--even-if-newer" in single.err


def test_many_are_shown_by_code_before_somebody_agrees(
    cli: Cli, dead: Sandbox, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many of which sort; where nobody answers nothing is done."""
    assert dead.records("contact") == {}

    for verb in ("replay", "drop"):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        ran = cli(verb, "--reason", "forbidden")

        assert ran.code == 2
        assert "ACCESS_DENIED" in ran.err
        assert "2 dead letters?" in ran.err

    assert {row["closed_at"] for row in rows_of(sqlite_engine, tables.dead)} == {None}


def test_letters_are_dropped_by_what_they_have_in_common(
    cli: Cli, dead: Sandbox, sqlite_engine: Engine
) -> None:
    """As replays are chosen; who did it is kept."""
    assert dead.records("contact") == {}

    planned = cli("drop", "--code", "ACCESS_DENIED", "--key", "bad-2", "--dry-run", "--json")
    dropped = cli("drop", "--code", "ACCESS_DENIED", "--key", "bad-2", "--yes", "--json")
    nothing = cli("drop", "--older-than", "1d", "--yes")
    unsaid = cli("drop", "--yes")

    assert planned.document["would_drop"] == [2]
    assert dropped.document == {"dropped": [2], "closed_or_unknown": []}
    assert (nothing.code, nothing.out) == (0, "0 dead letters dropped\n")
    assert unsaid.code == 2
    first, second = rows_of(sqlite_engine, tables.dead)
    assert first["closed_at"] is None
    assert "@" in second["closed_by"]


def test_more_letters_than_a_part_are_replayed_in_the_order_of_their_entities(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Part by part; those of one entity are not taken for newer than each other."""
    row = {
        "portal": "acme",
        "lane": 0,
        "kind": "contact",
        "operation": "upsert",
        "generation": 0,
        "mergeable": True,
        "priority": 0,
        "deliveries": 1,
        "attempts": 1,
        "not_runs": 0,
        "enqueued_at": 1,
        "reason": "exhausted",
        "error_code": "INTERNAL_SERVER_ERROR",
        "first_error": "?",
        "last_error": "?",
    }
    with sqlite_engine.begin() as connection:
        connection.execute(
            tables.dead.insert(),
            [
                row
                | {
                    "outbox_id": number,
                    "entity_key": f"c-{number % 100}",
                    "fields": {"name": f"{number}"},
                }
                for number in range(1, 1201)
            ],
        )

    ran = cli("replay", "--reason", "exhausted", "--yes", "--json")
    cli("sync", "--until-empty")

    assert ran.code == 0
    assert len(ran.document["replayed"]) == 1200
    names = {record["name"] for record in acme.records("contact").values()}
    assert names == {f"{number}" for number in range(1101, 1201)}
