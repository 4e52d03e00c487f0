"""``b24sync portal``: a webhook is a credential and never shown, stored or taken in the clear."""

import io
from pathlib import Path

import click
import pytest
from sqlalchemy import Engine

from b24sync.edge import tables
from b24sync.edge.tokens import Keyring
from b24sync.sandbox import Fault, FaultAction, Sandbox
from b24sync.settings import Settings
from tests.cli.conftest import Cli
from tests.house import add_portal, change, database_now, one, rows_of

HOOK = "https://acme.example/rest/7/hushhush/"


def test_the_webhook_is_asked_for_without_echo(
    cli: Cli, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither screen nor history sees it."""
    asked: list[bool] = []

    def answered(_question: str, *, hide_input: bool, err: bool) -> str:
        asked.append(hide_input and err)
        return HOOK

    monkeypatch.setattr(click, "prompt", answered)

    ran = cli("portal", "add", "acme")

    assert ran.code == 0
    assert asked == [True]
    assert "hushhush" not in ran.out + ran.err
    assert one(sqlite_engine, tables.portal)["base_url"] == "https://acme.example"


def test_a_webhook_that_nobody_types_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no terminal is, the other ways are named."""

    def nobody(*_args: object, **_kwargs: object) -> str:
        raise click.Abort

    monkeypatch.setattr(click, "prompt", nobody)

    ran = cli("portal", "add", "acme")

    assert ran.code == 2
    assert "--webhook -" in ran.err


def test_a_webhook_on_the_command_line_is_refused(cli: Cli, sqlite_engine: Engine) -> None:
    """One line that says why and how, without repeating it."""
    ran = cli("portal", "add", "acme", "--webhook", HOOK)

    assert ran.code == 2
    assert "--webhook-file" in ran.err
    assert "hushhush" not in ran.err
    assert rows_of(sqlite_engine, tables.portal) == []


def test_a_webhook_is_read_from_stdin(
    cli: Cli, settings: Settings, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a vault can hand it over; stored encrypted, with the user apart."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{HOOK}\n"))

    ran = cli("portal", "add", "acme", "--webhook", "-", "--plan", "enterprise")

    row = one(sqlite_engine, tables.portal)
    assert ran.code == 0
    assert "hushhush" not in row["secret"]
    assert Keyring.from_keys(settings.secret_key).decrypt(row["secret"]) == "rest/7/hushhush/"
    assert (row["credential_user"], row["rate_x"], row["rate_y"]) == ("7", 250, 5)


def test_a_webhook_is_read_from_a_file(cli: Cli, tmp_path: Path) -> None:
    """A mounted secret is a file."""
    file = tmp_path / "hook"
    file.write_text(f"{HOOK}\n")

    ran = cli("portal", "add", "acme", "--webhook-file", str(file), "--rate", "10/1", "--json")

    assert ran.code == 0
    assert ran.document["code"] == "acme"
    assert (ran.document["rate_x"], ran.document["rate_y"]) == (10, 1)


def test_without_a_key_nothing_is_stored(
    cli: Cli, settings: Settings, sandbox: Sandbox, sqlite_engine: Engine
) -> None:
    """The refusal names the variable and the command that makes a key."""
    keyless = Settings(database_url=settings.database_url)

    ran = cli("portal", "add", "acme", "--webhook", sandbox.webhook_url, settings=keyless)

    assert ran.code == 2
    assert "B24SYNC_SECRET_KEY" in ran.err
    assert "b24sync portal new-key" in ran.err
    assert rows_of(sqlite_engine, tables.portal) == []


def test_a_known_portal_is_changed_only_if_that_is_meant(cli: Cli, acme: Sandbox) -> None:
    """``--replace`` says so; for an unknown one it makes none."""
    again = cli("portal", "add", "acme", "--webhook", acme.webhook_url)
    replaced = cli("portal", "add", "acme", "--webhook", acme.webhook_url, "--replace")
    unknown = cli("portal", "add", "other", "--webhook", acme.webhook_url, "--replace")

    assert (again.code, replaced.code, unknown.code) == (2, 0, 2)
    assert "--replace" in again.err
    assert "acme" in unknown.err


def test_a_portal_that_can_be_called_passes_the_check(cli: Cli, acme: Sandbox) -> None:
    """Who calls, what may be done, how long it takes."""
    ran = cli("portal", "check", "acme", "--json")

    subjects = [finding["subject"] for finding in ran.document["findings"]]
    assert ran.code == 0
    assert subjects == ["user", "portal's clock", "scope", "round trip"]
    assert len(acme.requests()) == 3


def test_a_refusing_portal_fails_the_check_with_advice(cli: Cli, acme: Sandbox) -> None:
    """The portal's own words, and what a person must do; exit code 1."""
    acme.add_fault(
        Fault(action=FaultAction.ERROR, code="INVALID_CREDENTIALS", text="Wrong credentials")
    )

    ran = cli("portal", "check", "acme")

    assert ran.code == 1
    assert "INVALID_CREDENTIALS: Wrong credentials" in ran.out
    assert "Store a new webhook" in ran.out


def test_an_absent_portal_fails_the_check(cli: Cli, acme: Sandbox) -> None:
    """Nobody listens there."""
    acme.stop()

    ran = cli("portal", "check", "acme")

    assert ran.code == 1
    assert "not reached" in ran.out


def test_a_pause_holds_until_it_is_ended(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> None:
    """With the reason that people see; a second pause does not take the first one's reason."""
    assert acme.requests() == []

    paused = cli("portal", "pause", "acme", "--reason", "holidays")
    again = cli("portal", "pause", "acme", "--reason", "other", "--json")
    listed = cli("portal", "list", "--json")
    resumed = cli("portal", "resume", "acme")

    assert (paused.code, again.code, resumed.code) == (0, 0, 0)
    assert again.document == {"portal": "acme", "paused": False}
    assert (listed.document["state"], listed.document["reason"]) == ("paused", "holidays")
    assert one(sqlite_engine, tables.portal)["state"] == "active"


def test_a_halt_mode_is_set_shown_and_taken_back(cli: Cli, acme: Sandbox) -> None:
    """For people in a column, for programs under its name."""
    assert acme.requests() == []

    chosen = cli("portal", "set", "acme", "--halt", "strict")
    told = cli("portal", "list")
    listed = cli("portal", "list", "--json")
    undone = cli("portal", "set", "acme", "--halt", "default", "--json")
    after = cli("portal", "list", "--json")

    assert (chosen.code, undone.code) == (0, 0)
    assert chosen.out == "the halt mode of the portal acme is strict\n"
    header, _, row = (line.split("  ") for line in told.out.splitlines())
    assert "halt" in [cell.strip() for cell in header]
    assert "strict" in [cell.strip() for cell in row]
    assert listed.document["halt"] == "strict"
    assert undone.document == {"portal": "acme", "halt": None}
    assert after.document["halt"] is None


def test_shards_and_weight_are_set_and_shown(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Each alone or both; what is not named stays."""
    assert acme.requests() == []

    shards = cli("portal", "set", "acme", "--shards", "2")
    weight = cli("portal", "set", "acme", "--weight", "2.5", "--json")
    listed = cli("portal", "list")

    assert (shards.code, shards.out) == (0, "the portal acme has 2 shards and a weight of 1\n")
    assert weight.document == {"portal": "acme", "shards": 2, "weight": 2.5}
    assert "acme: 2 shards and a weight of 2.5" in listed.out
    row = one(sqlite_engine, tables.portal)
    assert (row["shards"], row["weight"]) == (2, 2.5)


def test_strict_and_several_shards_exclude_each_other(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """A portal that stops at the first failure has one request in flight; each says what to do."""
    assert acme.requests() == []
    cli("portal", "set", "acme", "--shards", "2")

    strict = cli("portal", "set", "acme", "--halt", "strict")
    run = cli("sync", "--halt", "strict")
    cli("portal", "set", "acme", "--shards", "1")
    cli("portal", "set", "acme", "--halt", "strict")
    shards = cli("portal", "set", "acme", "--shards", "2")

    assert (strict.code, run.code, shards.code) == (2, 2, 2)
    assert "b24sync portal set acme --shards 1" in strict.err
    assert "b24sync portal set acme --shards 1" in run.err
    assert "--halt chain" in shards.err
    assert one(sqlite_engine, tables.portal)["shards"] == 1


@pytest.mark.parametrize(
    "options", [["--shards", "0"], ["--shards", "17"], ["--weight", "0"], ["--weight", "nan"], []]
)
def test_a_share_that_makes_no_sense_is_refused(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine, options: list[str]
) -> None:
    """Exit code 2, and nothing changes."""
    assert acme.requests() == []

    ran = cli("portal", "set", "acme", *options)

    row = one(sqlite_engine, tables.portal)
    assert ran.code == 2
    assert (row["shards"], row["weight"]) == (1, 1)


def test_an_unknown_halt_mode_is_answered_with_the_known_ones(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Exit code 2, and the policy stays."""
    assert acme.requests() == []

    ran = cli("portal", "set", "acme", "--halt", "sideways")

    assert ran.code == 2
    for mode in ("independent", "chain", "strict", "default"):
        assert mode in ran.err
    assert one(sqlite_engine, tables.portal)["policy"] is None


def test_an_unknown_portal_is_answered_with_the_known_ones(cli: Cli, sqlite_engine: Engine) -> None:
    """A misspelt code is found at a glance."""
    add_portal(sqlite_engine, "acme")

    for words in (
        ["pause", "acne", "--reason", "x"],
        ["resume", "acne"],
        ["check", "acne"],
        ["set", "acne", "--halt", "strict"],
    ):
        ran = cli("portal", *words)

        assert ran.code == 2
        assert "known are: acme" in ran.err


def test_a_list_is_read_in_a_narrow_terminal(
    cli: Cli, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A portal is one line of the table, and the reason of its stop a sentence below it."""
    add_portal(
        sqlite_engine, "acme", state="plan_lost", state_reason="PAYMENT_REQUIRED: " + "x " * 40
    )
    monkeypatch.setattr("b24sync.cli.desk.PIPE_COLUMNS", 80)

    ran = cli("portal", "list")

    lines = ran.out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[0].split() == ["portal", "address", "credential", "state"]
    assert lines[2].split()[-1] == "plan_lost"
    assert lines[3].strip() == ""
    assert lines[4].startswith("acme: plan_lost for ")
    assert "PAYMENT_REQUIRED: x x" in ran.out


def test_the_list_shows_no_secret(cli: Cli, acme: Sandbox) -> None:
    """Only that there is one."""
    ran = cli("portal", "list")

    assert "webhook of user 1, stored" in ran.out
    assert acme.config.code not in ran.out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rate", "50"], "write e.g. 50/2"),
        (["--rate", "fast/2"], "write e.g. 50/2"),
        (["--rate", "1/2/3"], "write e.g. 50/2"),
        (["--rate", "0.5/2"], "holds no request"),
        (["--rate", "50/0"], "never goes on"),
        (["--rate", "nan/2"], "holds no request"),
        (["--plan", "gold"], "enterprise"),
        (["--plan", "enterprise", "--rate", "250/5"], "exclude each other"),
        (["--egress-group", "two words"], "is no name"),
        ([], "nothing was said"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    cli: Cli, sqlite_engine: Engine, options: list[str], complaint: str
) -> None:
    """With what is wrong, before anything is changed."""
    add_portal(sqlite_engine, "acme", rate_x=50, rate_y=2)

    ran = cli("portal", "set", "acme", *options)

    assert ran.code == 2
    assert complaint in " ".join(ran.err.split())
    assert one(sqlite_engine, tables.portal)["rate_x"] == 50


def test_what_is_set_of_a_portals_limits_changes_and_the_rest_stays(
    cli: Cli, sqlite_engine: Engine
) -> None:
    """The plan gives both figures of the rate; the halt mode need not be said again."""
    add_portal(sqlite_engine, "acme", rate_x=40, rate_y=1, server_max_s=90)

    plan = cli("portal", "set", "acme", "--plan", "enterprise", "--json").document
    group = cli("portal", "set", "acme", "--egress-group", "office-2", "--json").document
    both = cli("portal", "set", "acme", "--halt", "strict", "--rate", "30/1.5")

    same = {"portal": "acme", "server_max_s": 90}
    assert plan == same | {"rate_x": 250, "rate_y": 5, "egress_group": "default"}
    assert group == same | {"rate_x": 250, "rate_y": 5, "egress_group": "office-2"}
    assert "strict" in both.out
    assert "30/1.5 by the egress group office-2" in " ".join(both.out.split())
    row = one(sqlite_engine, tables.portal)
    assert (row["rate_x"], row["rate_y"], row["policy"]) == (30, 1.5, {"halt": "strict"})


def test_a_rate_that_is_said_is_believed_whatever_refusals_have_taught(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """The list and the status tell what was taught; to say the plan ends it."""
    assert acme.requests() == []
    now = database_now(sqlite_engine)
    taught = {"taught_x": 30.0, "taught_y": 1.2, "taught_at": now, "refused_at": now, "refusals": 4}
    change(sqlite_engine, tables.bucket, {"level": 30.0, **taught})

    listed = cli("portal", "list", "--json").document
    shown = " ".join(cli("status").out.split())
    told = cli("status", "--json").document["portals"][0]
    cli("portal", "set", "acme", "--plan", "professional")
    after = cli("status", "--json").document["portals"][0]

    (rate,) = listed["rates"]
    assert (rate["egress_group"], rate["refusals"], rate["is_lower"]) == ("default", 4, True)
    assert 30 <= rate["capacity"] < 40
    assert 20 < rate["level"] <= 30
    assert 0 <= rate["refused_ms"] < 60_000
    assert "it has refused 4 requests for their rate" in shown
    assert "instead of 50/2" in shown
    assert told["rates"][0]["is_lower"]
    assert any("for their rate" in task for task in told["to_do"])
    assert (after["rates"][0]["capacity"], after["rates"][0]["is_lower"]) == (50, False)
    assert after["to_do"] == []


def test_a_portal_that_is_replaced_keeps_what_is_not_said(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """Another bound of its requests is no other plan."""
    webhook = ("--webhook", acme.webhook_url, "--replace")
    cli("portal", "add", "acme", *webhook, "--plan", "enterprise", "--egress-group", "office")

    ran = cli("portal", "add", "acme", *webhook, "--server-max", "30")

    row = one(sqlite_engine, tables.portal)
    assert ran.code == 0
    assert (row["rate_x"], row["rate_y"], row["server_max_s"]) == (250, 5, 30)
    assert row["egress_group"] == "office"
