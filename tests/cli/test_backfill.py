"""``b24sync backfill``: begun, looked at, fed from here, steered; and what makes no sense."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, insert, update

from b24sync.edge import tables
from b24sync.edge.database import writing
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings
from tests.cli.conftest import Cli
from tests.house import one, rows_of
from tests.shop import Base, Company

FIRMS = "SELECT id, code, name FROM shop_company"
OF_FIRMS = ("--kind", "company", "--portal", "acme", "--query", FIRMS, "--key", "id")
MAPPED = ("--entity-key", "code", "--field", "title=name")


@pytest.fixture
def firms(sqlite_engine: Engine, acme: Sandbox) -> Iterator[Sandbox]:
    """Thirty firms, and a portal."""
    Base.metadata.create_all(sqlite_engine)
    with writing(sqlite_engine) as connection:
        rows = [{"id": n, "code": f"f{n}", "name": f"Firm {n}"} for n in range(1, 31)]
        connection.execute(insert(Company), rows)
    yield acme
    Base.metadata.drop_all(sqlite_engine)


def test_a_dry_run_shows_the_first_changes_and_writes_nothing(
    cli: Cli, firms: Sandbox, sqlite_engine: Engine
) -> None:
    """So that a mapping can be tried."""
    told = cli("backfill", "start", "b", *OF_FIRMS, *MAPPED, "--dry-run")
    read = cli("backfill", "start", "b", *OF_FIRMS, *MAPPED, "--dry-run", "--json")

    assert (told.code, read.code) == (0, 0)
    assert "upsert company f1  title: 'Firm 1'" in told.out
    assert "30 rows would be read; nothing was written" in told.out
    assert read.document["changes"][4] == {
        "kind": "company",
        "key": "f5",
        "operation": "upsert",
        "fields": {"title": "Firm 5"},
    }
    assert read.document["rows"] == 30
    assert rows_of(sqlite_engine, tables.backfill) == rows_of(sqlite_engine, tables.outbox) == []
    assert firms.records("company") == {}


def test_it_is_begun_fed_and_sent(cli: Cli, firms: Sandbox, sqlite_engine: Engine) -> None:
    """Registered first; resumed with --feed in this process; then drained as everything is."""
    begun = cli("backfill", "start", "b", *OF_FIRMS, *MAPPED, "--step", "7")
    assert begun.code == 0
    assert "b: 30 rows will be fed" in begun.out
    assert "backfill resume b --feed" in begun.err
    assert rows_of(sqlite_engine, tables.outbox) == []

    fed = cli("backfill", "resume", "b", "--feed")

    assert fed.code == 0
    assert "30 of about 30, 100 %" in fed.out
    assert cli("sync").code == 0
    assert {record["title"] for record in firms.records("company").values()} == {
        f"Firm {n}" for n in range(1, 31)
    }
    (listed,) = cli("backfill", "list", "--json").documents
    assert (listed["state"], listed["read_rows"], listed["enqueued"]) == ("done", 30, 30)
    assert "done" in cli("backfill", "list").out


def test_a_row_that_cannot_be_a_change_is_told_of(
    cli: Cli, firms: Sandbox, sqlite_engine: Engine
) -> None:
    """With what to do; exit code 1 as long as something was refused."""
    with writing(sqlite_engine) as connection:
        connection.execute(update(Company).where(Company.id == 4).values(code="f4 "))

    failed = cli("backfill", "start", "b", *OF_FIRMS, *MAPPED, "--feed")
    shown = cli("backfill", "show", "b")
    passed = cli("backfill", "resume", "b", "--skip-bad", "--feed")

    assert (failed.code, shown.code, passed.code) == (1, 1, 1)
    assert "failed: company:f4 : key: begins or ends with white space" in failed.out
    assert "correct that, then: b24sync backfill resume b" in shown.out
    assert "1 row refused, the last: company:f4 : key:" in passed.out
    assert one(sqlite_engine, tables.backfill)["enqueued"] == 29
    assert firms.records("company") == {}


def test_it_is_paused_resumed_and_cancelled(cli: Cli, firms: Sandbox) -> None:
    """What is over cannot be steered."""
    cli("backfill", "start", "b", *OF_FIRMS, *MAPPED)

    assert "b is paused" in cli("backfill", "pause", "b").out
    assert cli("backfill", "show", "b", "--json").document["state"] == "paused"
    assert cli("backfill", "resume", "b", "--json").document["state"] == "running"
    assert cli("backfill", "cancel", "b", "--yes").code == 0
    again = cli("backfill", "resume", "b")
    assert again.code == 2
    assert "the back-fill 'b' is cancelled; that is its end" in again.err
    assert firms.records("company") == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--kind", "company"), "say one of --captured, --query, --query-file and --select"),
        (("--kind", "company", "--query", FIRMS), "--key is missing"),
        (
            ("--kind", "company", "--query", FIRMS, "--key", "id", "--key", "code"),
            "say --entity-key",
        ),
        (
            ("--kind", "company", "--captured", "a:b", "--key", "id"),
            "--captured has a key and fields of its own",
        ),
        (("--kind", "company", "--query", FIRMS, "--key", "id", "--ref", "a=b"), "FIELD=KIND:COL"),
        (("--kind", "company", "--query", FIRMS, "--key", "id", "--field", "a"), "NAME=VALUE"),
        (("--kind", "company", "--query", FIRMS, "--key", "town"), "no column town"),
        (("--kind", "company", "--query", FIRMS, "--key", "id", "--elsewhere"), "SOURCE_URL"),
        (("--kind", "company", "--query", FIRMS, "--key", "id", "--portal", "x"), "no portal 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    cli: Cli, firms: Sandbox, arguments: tuple[str, ...], complaint: str
) -> None:
    """In one line, before anything is written."""
    portal = () if "--portal" in arguments else ("--portal", "acme")

    told = cli("backfill", "start", "b", *arguments, *portal)

    assert told.code == 2, told.err
    assert complaint in told.err
    assert cli("backfill", "list").out.strip() == "no back-fills"
    assert firms.records("company") == {}


def test_the_password_of_the_other_database_is_not_shown(
    cli: Cli, firms: Sandbox, settings: Settings
) -> None:
    """It comes from the environment, and a server that is away is told of without it."""
    away = Settings(
        database_url=settings.database_url,
        secret_key=settings.secret_key,
        source_url="postgresql://ann:hush-hush@127.0.0.1:1/shop",
    )

    told = cli("backfill", "start", "b", *OF_FIRMS, "--elsewhere", settings=away)

    assert told.code == 3
    assert "cannot use the database postgresql+psycopg://ann:***@127.0.0.1:1/shop" in told.err
    assert "hush" not in told.out + told.err + repr(away)
    assert firms.records("company") == {}
