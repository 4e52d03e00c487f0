"""``b24sync load``: all or nothing, and the first thing that is wrong is named by line and field."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from b24sync.edge import tables
from tests.cli.conftest import Cli
from tests.house import add_portal, rows_of

ANN = {"kind": "contact", "key": "c-1", "operation": "upsert", "fields": {"name": "Ann"}}


def ndjson(folder: Path, *lines: object) -> str:
    """A file with these objects, or texts as they are, one a line; its path."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file = folder / "changes.ndjson"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(file)


def csv(folder: Path, *lines: str, encoding: str = "utf-8") -> str:
    """A CSV file of these lines; its path."""
    file = folder / "records.csv"
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return str(file)


def loaded(engine: Engine) -> list[tuple[str, str, Any]]:
    """Key, operation and fields of what stands in the outbox."""
    return [
        (row["entity_key"], row["operation"], row["fields"])
        for row in rows_of(engine, tables.outbox)
    ]


def test_lines_of_changes_are_loaded(cli: Cli, tmp_path: Path, sqlite_engine: Engine) -> None:
    """Everything that a change may carry arrives in its column."""
    add_portal(sqlite_engine, "acme")
    later = {
        "kind": "call",
        "key": "k",
        "operation": "call",
        "method": "profile",
        "portal": "acme",
        "priority": 5,
        "due_at": "2030-01-01T00:00:00+00:00",
        "params": {"a": 1.5},
        "headers": {"trace": "t"},
        "mergeable": False,
    }

    ran = cli("load", ndjson(tmp_path, ANN, "", later), "--json")

    first, second = rows_of(sqlite_engine, tables.outbox)
    assert ran.code == 0
    assert (ran.document["loaded"], ran.document["bad"]) == (2, 0)
    assert (first["portal"], first["fields"]) == ("default", {"name": "Ann"})
    assert (second["portal"], second["method"], second["priority"]) == ("acme", "profile", 5)
    assert (second["due_at"], second["params"]) == (1_893_456_000_000, {"a": "1.5"})


def test_records_become_changes_by_their_columns(
    cli: Cli, tmp_path: Path, sqlite_engine: Engine
) -> None:
    """A plain key column is no field; empty cells are left out; constants are added."""
    file = csv(tmp_path, "id,title,web", "1,Mill & Sons,", '2,"Two, lines",http://x')

    ran = cli("load", file, "--kind", "company", "--key", "id", "--set", "typeId=CLIENT")

    assert ran.code == 0
    assert loaded(sqlite_engine) == [
        ("1", "upsert", {"title": "Mill & Sons", "typeId": "CLIENT"}),
        ("2", "upsert", {"title": "Two, lines", "web": "http://x", "typeId": "CLIENT"}),
    ]


def test_a_mapping_names_the_fields(cli: Cli, tmp_path: Path, sqlite_engine: Engine) -> None:
    """With ``--field`` only what is named is sent, under its own name."""
    file = csv(tmp_path, "id,name,junk", "1,Mill,x")

    cli("load", file, "--kind", "company", "--key", "id", "--field", "title=name")

    assert loaded(sqlite_engine) == [("1", "upsert", {"title": "Mill"})]


def test_a_key_can_be_made_of_columns(cli: Cli, tmp_path: Path, sqlite_engine: Engine) -> None:
    """A template names columns in braces; they stay fields, too."""
    file = ndjson(tmp_path, {"code": "DE", "name": "Uni"})

    cli("load", file, "--kind", "company", "--key", "{code}:{name}", "--field", "title=name")

    assert loaded(sqlite_engine) == [("DE:Uni", "upsert", {"title": "Uni"})]


def test_empty_cells_can_clear(cli: Cli, tmp_path: Path, sqlite_engine: Engine) -> None:
    """``--empty-clears`` sends them as they are."""
    file = csv(tmp_path, "id,title,web", "1,Mill,")

    cli("load", file, "--kind", "company", "--key", "id", "--empty-clears")

    assert loaded(sqlite_engine) == [("1", "upsert", {"title": "Mill", "web": ""})]


def test_deletes_need_only_keys(cli: Cli, tmp_path: Path, sqlite_engine: Engine) -> None:
    """Other columns are no fields of a delete."""
    file = csv(tmp_path, "id;title", "1;Mill")
    words = ["--kind", "company", "--key", "id", "--operation", "delete", "--delimiter", ";"]

    ran = cli("load", file, *words)

    assert ran.code == 0
    assert loaded(sqlite_engine) == [("1", "delete", None)]


def test_a_byte_order_mark_is_no_part_of_the_header(
    cli: Cli, tmp_path: Path, sqlite_engine: Engine
) -> None:
    """Spreadsheets put one there."""
    file = csv(tmp_path, "id,title", "1,Mill", encoding="utf-8-sig")

    ran = cli("load", file, "--kind", "company", "--key", "id")

    assert ran.code == 0
    assert loaded(sqlite_engine) == [("1", "upsert", {"title": "Mill"})]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{nonsense", "line 2: line: is not JSON"),
        ("[1]", "line 2: line: is not a JSON object"),
        (ANN | {"feilds": {}}, "line 2: feilds: is unknown"),
        ({"kind": "contact", "key": "x"}, "line 2: operation: is missing"),
        (ANN | {"key": 17}, "line 2: key: text is needed, not a number"),
        (ANN | {"due_at": "2030-01-01T00:00:00"}, "line 2: due_at: has no zone"),
        (ANN | {"kind": "contcat"}, "line 2: contcat:c-1: kind: 'contcat' is unknown"),
        (ANN | {"fields": {}}, "line 2: contact:c-1: fields: are missing"),
    ],
    ids=["json", "object", "member", "missing", "sort", "zone", "kind", "fields"],
)
def test_the_first_bad_line_stops_the_run(
    cli: Cli, tmp_path: Path, sqlite_engine: Engine, line: object, said: str
) -> None:
    """File, line, field and problem in one line; nothing is written, not even what was good."""
    ran = cli("load", ndjson(tmp_path, ANN, line, ANN))

    assert ran.code == 2
    assert f"changes.ndjson: {said}" in ran.err
    assert ran.err.count("\n") == 1
    assert loaded(sqlite_engine) == []


def test_bad_lines_can_be_skipped(cli: Cli, tmp_path: Path, sqlite_engine: Engine) -> None:
    """The rest is loaded, the bad ones are listed, and the exit code is 1."""
    file = csv(tmp_path, "id,title", "1,Mill", ",No key", "3,Too,many", "4,Forge")

    ran = cli("load", file, "--kind", "company", "--key", "id", "--skip-bad", "--json")

    assert ran.code == 1
    assert (ran.document["loaded"], ran.document["bad"]) == (2, 2)
    assert [bad["line"] for bad in ran.document["bad_lines"]] == [3, 4]
    assert [key for key, _, _ in loaded(sqlite_engine)] == ["1", "4"]


def test_text_of_another_encoding_is_named(cli: Cli, tmp_path: Path) -> None:
    """The column that is not UTF-8, not a traceback."""
    file = csv(tmp_path, "id,title", "1,Müller", encoding="latin-1")

    ran = cli("load", file, "--kind", "company", "--key", "id")

    assert ran.code == 2
    assert "records.csv: line 2: title: is not UTF-8" in ran.err


def test_a_missing_column_is_named_with_those_that_are_there(cli: Cli, tmp_path: Path) -> None:
    """Before any line is read."""
    ran = cli("load", csv(tmp_path, "id,title", "1,x"), "--kind", "company", "--key", "number")

    assert ran.code == 2
    assert "'number'" in ran.err
    assert "id, title" in ran.err


def test_a_dry_run_checks_and_writes_nothing(
    cli: Cli, tmp_path: Path, sqlite_engine: Engine
) -> None:
    """Good and bad are counted as they would be."""
    ran = cli("load", ndjson(tmp_path, ANN, "{", ANN), "--dry-run", "--skip-bad", "--json")

    assert ran.code == 1
    assert (ran.document["loaded"], ran.document["dry_run"]) == (2, True)
    assert loaded(sqlite_engine) == []


def test_changes_are_read_from_stdin(
    cli: Cli, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash is the other end of a pipe."""
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps(ANN).encode()))
    monkeypatch.setattr("sys.stdin", stdin)

    ran = cli("load", "-", "--portal", "acme")

    assert ran.code == 0
    assert rows_of(sqlite_engine, tables.outbox)[0]["portal"] == "acme"


def test_an_unknown_portal_is_mentioned(cli: Cli, tmp_path: Path) -> None:
    """Its changes are loaded and wait; whoever misspelt it should know."""
    ran = cli("load", ndjson(tmp_path, ANN | {"portal": "acne"}))

    assert ran.code == 0
    assert "there is no portal 'acne' yet" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["x.csv"],
        ["x.ndjson", "--kind", "company"],
        ["x.ndjson", "--field", "a=b"],
        ["x.csv", "--kind", "company", "--key", "id", "--field", "title"],
        ["x.csv", "--kind", "company", "--key", "{}"],
        ["x.dat", "--kind", "company", "--key", "id"],
        ["missing.ndjson"],
    ],
    ids=["csv", "kind alone", "field alone", "no pair", "empty braces", "ending", "no file"],
)
def test_options_that_make_no_sense_are_refused(cli: Cli, words: list[str]) -> None:
    """Exit code 2 and one line."""
    ran = cli("load", *words)

    assert ran.code == 2
    assert ran.err.count("\n") == 1
