"""``b24sync links``: ids from a file, what is linked, and what is to be forgotten."""

import io
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.settings import Settings
from tests.cli.conftest import Cli
from tests.house import add_portal, add_rows, one, rows_of, states

CONTACTS = ("--kind", "contact", "--key", "Code", "--id", "ID")


@pytest.fixture
def house(sqlite_engine: Engine) -> Engine:
    """A database with the portal ``default``."""
    add_portal(sqlite_engine)
    return sqlite_engine


def file(folder: Path, name: str, *lines: object) -> str:
    """A file with these texts, or objects as JSON, one a line; its path."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path = folder / name
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def add_link(engine: Engine, key: str, **values: object) -> None:
    """A link of a contact."""
    row = {"portal": "default", "kind": "contact", "entity_key": key, "state": "present"}
    with writing(engine) as connection:
        connection.execute(insert(tables.link), row | values)


def linked(engine: Engine) -> list[tuple[str, str, str, str | None]]:
    """What stands in the table, without states."""
    return [
        (row["portal"], row["kind"], row["entity_key"], row["remote_id"])
        for row in rows_of(engine, tables.link)
    ]


def test_a_csv_export_is_loaded_by_its_columns(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """Other columns are passed over; a portal's own export has semicolons and a byte order mark."""
    export = file(tmp_path, "export.csv", "\ufeffID;Name;Code", "4711;Ann;c-17", "4712;Bob;c-18")

    ran = cli("links", "load", export, *CONTACTS, "--delimiter", ";")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "2 links adopted, 0 replaced, 0 unchanged, 0 conflicts\n"
    assert linked(house) == [
        ("default", "contact", "c-17", "4711"),
        ("default", "contact", "c-18", "4712"),
    ]


def test_records_of_json_are_loaded_by_their_names(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """Numbers are as good as texts, and the key may be made of several."""
    records = file(tmp_path, "r.ndjson", {"ID": 7, "land": "DE", "no": 1, "more": [1]})
    words = ("--kind", "company", "--key", "{land}:{no}", "--id", "ID")

    ran = cli("links", "load", records, *words, "--json")

    assert ran.code == 0
    assert ran.document == {
        "adopted": 1,
        "replaced": 0,
        "unchanged": 0,
        "released": 0,
        "dry_run": False,
        "conflicts": [],
    }
    assert linked(house) == [("default", "company", "DE:1", "7")]


def test_lines_of_links_are_loaded(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """Each says its own kind."""
    lines = file(
        tmp_path,
        "links.ndjson",
        {"kind": "contact", "key": "a", "id": 1},
        "",
        {"kind": "deal", "key": 17, "id": "2"},
    )

    ran = cli("links", "load", lines)

    assert ran.code == 0
    assert linked(house) == [("default", "contact", "a", "1"), ("default", "deal", "17", "2")]


def test_what_is_shown_for_programs_can_be_loaded_again(
    cli: Cli, house: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So links are carried from database to database."""
    add_link(house, "a", remote_id="1")
    add_link(house, "gone", state="deleted")
    shown = cli("links", "show", "--state", "present", "--json").out
    with writing(house) as connection:
        connection.execute(tables.link.delete())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(shown.encode())))

    ran = cli("links", "load", "-")

    assert ran.code == 0
    assert linked(house) == [("default", "contact", "a", "1")]


def test_conflicts_are_listed_by_line_and_the_rest_is_linked(
    cli: Cli, tmp_path: Path, house: Engine
) -> None:
    """Exit code 1, both sides of each, and what can be done."""
    add_link(house, "a", remote_id="46")
    lines = ("ID,Code", "47,a", "46,b", "1,c", "2,c", "3,d")
    export = file(tmp_path, "export.csv", *lines)

    ran = cli("links", "load", export, *CONTACTS)
    again = cli("links", "load", export, *CONTACTS, "--json")

    assert ran.code == 1
    assert ran.out == "2 links adopted, 0 replaced, 0 unchanged, 3 conflicts\n"
    assert ran.err.splitlines() == [
        "export.csv: line 2: contact a is not linked to 47: it is linked to 46 already",
        "export.csv: line 3: contact b is not linked to 46: 46 is linked to contact a already",
        "export.csv: line 5: contact c is not linked to 2: it is linked to 1 by an earlier line (line 4)",
        "--replace gives keys that are linked to another id the one of the file",
    ]
    assert again.code == 1
    assert (again.document["adopted"], again.document["unchanged"]) == (0, 2)
    assert again.document["conflicts"][0] == {
        "line": 2,
        "kind": "contact",
        "key": "a",
        "id": "47",
        "known_id": "46",
        "held_by": None,
        "earlier_line": None,
    }
    assert again.document["conflicts"][2]["earlier_line"] == 4
    assert linked(house) == [
        ("default", "contact", "a", "46"),
        ("default", "contact", "c", "1"),
        ("default", "contact", "d", "3"),
    ]


def test_of_many_conflicts_the_first_are_listed(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """A screenful for people, all of them for programs."""
    add_link(house, "a", remote_id="1")
    export = file(tmp_path, "export.csv", "ID,Code", *(f"1,c-{number}" for number in range(25)))

    ran = cli("links", "load", export, *CONTACTS)
    told = cli("links", "load", export, *CONTACTS, "--json")

    assert len(ran.err.splitlines()) == 21
    assert "and 5 conflicts more" in ran.err
    assert "--replace" not in ran.err
    assert len(told.document["conflicts"]) == 25


def test_replace_gives_a_key_the_id_of_the_file(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """Where somebody has seen that the old one was wrong."""
    add_link(house, "a", remote_id="46")
    export = file(tmp_path, "export.csv", "ID,Code", "47,a")

    ran = cli("links", "load", export, *CONTACTS, "--replace")

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "0 links adopted, 1 replaced, 0 unchanged, 0 conflicts\n"
    assert linked(house) == [("default", "contact", "a", "47")]


def test_a_dry_run_says_the_same_and_writes_nothing(
    cli: Cli, tmp_path: Path, house: Engine
) -> None:
    """Exit code too."""
    add_link(house, "a", remote_id="46")
    export = file(tmp_path, "export.csv", "ID,Code", "47,a", "1,b")

    ran = cli("links", "load", export, *CONTACTS, "--dry-run")
    told = cli("links", "load", export, *CONTACTS, "--dry-run", "--json")

    assert (ran.code, told.code) == (1, 1)
    assert ran.out == "1 link would be adopted, 0 replaced, 0 unchanged, 1 conflict\n"
    assert (told.document["adopted"], told.document["dry_run"]) == (1, True)
    assert linked(house) == [("default", "contact", "a", "46")]


def test_changes_that_waited_for_a_loaded_id_go_on(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """And the person is told."""
    add_rows(house, "deal", state="held", waits_for="contact a")
    export = file(tmp_path, "export.csv", "ID,Code", "1,a")

    ran = cli("links", "load", export, *CONTACTS)

    assert ran.err == "1 change that waited for these ids goes on\n"
    assert states(house) == {"deal": "ready"}


def test_links_go_to_the_portal_that_is_named(cli: Cli, tmp_path: Path, house: Engine) -> None:
    """And only to one that there is: a misspelt one would make every record twice."""
    add_portal(house, "acme")
    export = file(tmp_path, "export.csv", "ID,Code", "1,a")

    ran = cli("links", "load", export, *CONTACTS, "--portal", "acme")
    misspelt = cli("links", "load", export, *CONTACTS, "--portal", "acne")

    assert (ran.code, misspelt.code) == (0, 2)
    assert "known are: acme, default" in misspelt.err
    assert linked(house) == [("acme", "contact", "a", "1")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("ID,Code", "1,a", "C_2,b"), "line 3: contact:b: id: 'C_2' is not the id of a record"),
        (("ID,Code", "1,a", ",b"), "line 3: contact:b: id: is missing"),
        (("ID,Code", "1,a", "2,"), "line 3: Code: is empty, and the key is made of it"),
        (("ID,Code", "1,a", "2, b"), "line 3: contact: b: key: begins or ends with white space"),
        (("ID,Code", "1,a", "2,b,c"), "line 3: record: 3 cells; the header has 2"),
        (("ID,Name", "1,a"), "header: there is no column 'Code'; there are: ID, Name"),
        (("Id,Code", "1,a"), "header: there is no column 'ID'; there are: Id, Code"),
    ],
)
def test_the_first_bad_record_stops_everything(
    cli: Cli, tmp_path: Path, house: Engine, lines: tuple[str, ...], said: str
) -> None:
    """Exit code 2, the line and the field, and nothing is linked, not even what is good."""
    ran = cli("links", "load", file(tmp_path, "export.csv", *lines), *CONTACTS)

    assert ran.code == 2
    assert ran.err.startswith(f"error: export.csv: {said}")
    assert ran.err.endswith("; nothing was linked\n")
    assert linked(house) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: line: is not JSON"),
        ({"key": "b", "id": 2}, "line 2: kind: is missing"),
        ({"kind": "contact", "id": 2}, "line 2: key: is empty"),
        ({"kind": "contact", "key": "b"}, "line 2: contact:b: id: is missing"),
        ({"kind": "contact", "key": "b", "id": 2.5}, "line 2: contact:b: id: a whole number"),
        ({"kind": "contakt", "key": "b", "id": 2}, "line 2: contakt:b: kind: 'contakt' is unknown"),
        ({"kind": "contact", "key": "b", "id": 2, "portal": "acme"}, "line 2: portal: is acme"),
    ],
)
def test_the_first_bad_line_stops_everything(
    cli: Cli, tmp_path: Path, house: Engine, line: object, said: str
) -> None:
    """The same for links of JSON."""
    lines = file(tmp_path, "links.ndjson", {"kind": "contact", "key": "a", "id": 1}, line)

    ran = cli("links", "load", lines)

    assert ran.code == 2
    assert ran.err.startswith(f"error: links.ndjson: {said}")
    assert linked(house) == []


def test_bytes_that_are_not_utf8_are_named_by_their_line(
    cli: Cli, tmp_path: Path, house: Engine
) -> None:
    """And not by their place in the file."""
    path = tmp_path / "export.csv"
    path.write_bytes(b"ID,Code\n1,a\n2,M\xfcller\n")

    ran = cli("links", "load", str(path), *CONTACTS)

    assert (ran.code, linked(house)) == (2, [])
    assert "line 3: Code: is not UTF-8" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x.csv",), "say --kind, --key and --id"),
        (("x.csv", "--kind", "contact", "--key", "Code"), "--kind, --key and --id go together"),
        (("x.ndjson", "--id", "ID"), "--kind, --key and --id go together"),
        (("x.txt", *CONTACTS), "what does x.txt hold?"),
        (("x.csv", *CONTACTS, "--delimiter", "--"), "--delimiter is one character"),
        (("x.csv", "--kind", "contact", "--key", "{", "--id", "ID"), "is not a template"),
        (("x.csv", *CONTACTS), "cannot read x.csv"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    """One line and exit code 2, before the database is opened."""
    monkeypatch.chdir(tmp_path)
    ran = cli(
        "links", "load", *words, settings=Settings(database_url="postgresql://nobody@127.0.0.1:1/x")
    )

    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_an_unreachable_database_is_its_own_exit_code(cli: Cli, tmp_path: Path) -> None:
    """As everywhere: 3."""
    nowhere = Settings(database_url="postgresql://nobody@127.0.0.1:1/x")
    export = file(tmp_path, "export.csv", "ID,Code", "1,a")

    ran = cli("links", "load", export, *CONTACTS, settings=nowhere)

    assert ran.code == 3


def test_links_are_shown_with_what_is_unclear(cli: Cli, house: Engine) -> None:
    """By kind and key; a conflict with the ids that it is about."""
    add_link(house, "b", remote_id="2")
    add_link(house, "a", state="conflict", dup_ids=["8", "9"])
    add_link(house, "a", kind="deal", remote_id="3")

    every = cli("links", "show")
    unclear = cli("links", "show", "contact", "a", "--json")
    present = cli("links", "show", "--state", "present", "--json")

    assert [line.split()[:4] for line in every.out.splitlines()[2:]] == [
        ["contact", "a", "-", "conflict"],
        ["contact", "b", "2", "present"],
        ["deal", "a", "3", "present"],
    ]
    assert "the portal gave it 8, 9" in every.out
    assert unclear.document["duplicates"] == ["8", "9"]
    assert unclear.document["updated_at"].endswith("Z")
    assert [(shown["kind"], shown["remote_id"]) for shown in present.documents] == [
        ("contact", "2"),
        ("deal", "3"),
    ]


def test_links_of_several_portals_say_which(cli: Cli, house: Engine) -> None:
    """Of one it goes without saying."""
    add_link(house, "a", remote_id="1")
    add_link(house, "a", remote_id="1", portal="acme")

    both = cli("links", "show")
    one_of_them = cli("links", "show", "--portal", "acme", "--json")

    assert both.out.split()[0] == "portal"
    assert [shown["portal"] for shown in one_of_them.documents] == ["acme"]


def test_a_long_list_of_links_is_cut_and_says_so(cli: Cli, house: Engine) -> None:
    """On the side of notices, so that stdout is links alone."""
    for number in range(3):
        add_link(house, f"c-{number}", remote_id=str(number))

    ran = cli("links", "show", "--limit", "2", "--json")
    whole = cli("links", "show", "--limit", "3", "--json")

    assert [shown["key"] for shown in ran.documents] == ["c-0", "c-1"]
    assert ran.err == "the first 2 links; --limit shows more\n"
    assert (len(whole.documents), whole.err) == (3, "")


def test_nothing_to_show_is_said(cli: Cli, house: Engine) -> None:
    """And is no failure."""
    assert rows_of(house, tables.link) == []

    ran = cli("links", "show", "contact")

    assert (ran.code, ran.out, ran.err) == (0, "", "no links that fit\n")


def test_links_fit_a_narrow_terminal(
    cli: Cli, house: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is wider than the terminal."""
    add_link(house, "a" * 60, remote_id="1", updated_at=0)
    add_link(house, "b", state="conflict", dup_ids=["8", "9"])
    monkeypatch.setattr("b24sync.cli.desk.PIPE_COLUMNS", 60)

    ran = cli("links", "show")

    assert max(len(line) for line in ran.out.splitlines()) <= 60
    assert "conflict" in ran.out


def test_a_link_is_forgotten(cli: Cli, house: Engine) -> None:
    """On the portal named; the row stays, with the number of its next life."""
    add_link(house, "a", remote_id="46")
    add_link(house, "a", remote_id="46", portal="acme")

    ran = cli("links", "forget", "contact", "a", "--yes")
    told = cli("links", "forget", "contact", "a", "--portal", "acme", "--yes", "--json")

    link = one(house, tables.link, portal="default")
    assert (ran.code, told.code) == (0, 0)
    assert ran.out == "contact a is linked to no record of default any more\n"
    assert told.document == {
        "portal": "acme",
        "kind": "contact",
        "key": "a",
        "forgotten": True,
        "id": "46",
    }
    assert (link["state"], link["remote_id"], link["generation"]) == ("absent", None, 1)


def test_forgetting_is_asked_for_and_says_what_it_means(
    cli: Cli, house: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and nothing changed, if nobody answers."""
    add_link(house, "a", remote_id="46")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    ran = cli("links", "forget", "contact", "a")

    assert ran.code == 2
    assert "Forget that contact a is record 46 of default?" in ran.err
    assert "the next upsert adds a second one" in ran.err
    assert linked(house) == [("default", "contact", "a", "46")]


def test_what_is_not_linked_cannot_be_forgotten(cli: Cli, house: Engine) -> None:
    """Exit code 1, and nobody is asked."""
    add_link(house, "gone", state="deleted")

    stranger = cli("links", "forget", "contact", "stranger")
    gone = cli("links", "forget", "contact", "gone", "--json")

    assert (stranger.code, gone.code) == (1, 1)
    assert stranger.err == "contact stranger is linked to no record of default\n"
    assert (gone.document["forgotten"], gone.document["id"]) == (False, None)


def test_links_alone_lists_its_commands(cli: Cli) -> None:
    """As other groups do."""
    ran = cli("links")

    assert ran.code == 2
    assert [name in ran.err for name in ("load", "show", "forget")] == [True, True, True]
