"""``b24sync app`` and portals with tokens: stored encrypted, taken from files, renewed by people too."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import Engine

from b24sync.core.grants import Pair, pair_in
from b24sync.edge import tables
from b24sync.edge.tokens import Keyring, new_key
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings
from tests.cli.conftest import Cli, Ran
from tests.house import add_rows, change, one, rows_of

MEMBER = "5a0dbox5a0dbox5a0dbox5a0dbox5a0d"
HUSH = "hush-hush"
GRANT = {
    "access_token": "hush-access",
    "refresh_token": "hush-refresh",
    "expires": 4_000_000_000,
    "expires_in": 3600,
    "client_endpoint": "https://acme.example/rest/",
    "server_endpoint": "https://oauth.example/rest/",
    "domain": "oauth.example",
    "member_id": "m1",
    "user_id": 7,
}


def _add_app(cli: Cli, tmp_path: Path, *args: str, secret: str = HUSH) -> Ran:
    file = tmp_path / "secret"
    file.write_text(f"{secret}\n")
    return cli("app", "add", "crm", "--client-id", "local.1", "--secret-file", str(file), *args)


def _add_portal(cli: Cli, tmp_path: Path, document: object, *args: str, **options: Any) -> Ran:  # noqa: ANN401 - as the command's own
    file = tmp_path / "tokens.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    words = ("portal", "add", "acme", "--app", "crm", "--tokens-file", str(file), *args)
    return cli(*words, **options)


def _sandbox_grant(sandbox: Sandbox) -> dict[str, object]:
    tokens = {"access_token": sandbox.access_token, "refresh_token": sandbox.refresh_token}
    return GRANT | tokens | {"client_endpoint": f"{sandbox.url}/rest/", "member_id": MEMBER}


@pytest.fixture
def crm(cli: Cli, tmp_path: Path) -> str:
    """An application that is known."""
    assert _add_app(cli, tmp_path).code == 0
    return "crm"


@pytest.fixture
def acme(cli: Cli, sandbox: Sandbox, tmp_path: Path) -> Sandbox:
    """The sandbox as the portal ``acme``, called with the tokens of an application."""
    config = sandbox.config
    file = tmp_path / "secret"
    file.write_text(config.client_secret)
    words = ("app", "add", "crm", "--client-id", config.client_id, "--secret-file", str(file))
    assert cli(*words, "--server", sandbox.url).code == 0
    assert _add_portal(cli, tmp_path, {"auth": _sandbox_grant(sandbox)}).code == 0
    return sandbox


# Applications


def test_a_client_secret_is_asked_for_without_echo_and_stored_encrypted(
    cli: Cli, settings: Settings, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither screen nor history nor table sees it."""
    asked: list[bool] = []

    def answered(_question: str, *, hide_input: bool, err: bool) -> str:
        asked.append(hide_input and err)
        return f" {HUSH} "

    monkeypatch.setattr(click, "prompt", answered)

    ran = cli("app", "add", "crm", "--client-id", "local.1")

    row = one(sqlite_engine, tables.app)
    assert (ran.code, asked) == (0, [True])
    assert HUSH not in ran.out + ran.err + repr(row)
    assert Keyring.from_keys(settings.secret_key).decrypt(row["secret"]) == HUSH
    assert (row["client_id"], row["server_url"]) == ("local.1", "https://oauth.bitrix.info")


def test_a_client_secret_is_read_from_stdin(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a vault can hand it over."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{HUSH}\n"))
    server = "https://OAuth.Bitrix24.tech/"

    words = ("app", "add", "crm", "--client-id", "local.1", "--secret", "-", "--server", server)
    ran = cli(*words, "--json")

    assert ran.document == {
        "code": "crm",
        "client_id": "local.1",
        "server_url": "https://oauth.bitrix24.tech",
        "portals": 0,
    }


def _nobody(*_args: object, **_kwargs: object) -> str:
    raise click.Abort


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("crm", "--client-id", "i", "--secret", HUSH), "the command line is readable by others"),
        (("crm", "--client-id", "i"), "--secret - or --secret-file"),
        (("crm", "--client-id", " "), "--client-id has 1 to 255"),
        (("crm", "--client-id", "i", "--server", "http://a.example"), "--server: must begin with"),
        ((" crm", "--client-id", "i"), "a code has 1 to 64"),
        (("crm", "--client-id", "i", "--replace"), "there is no application 'crm'"),
        (("crm",), "Missing option '--client-id'"),
    ],
)
def test_what_makes_no_application_is_one_line(
    cli: Cli,
    sqlite_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    """Exit code 2, what to do, no secret, and nothing stored."""
    monkeypatch.setattr(click, "prompt", _nobody)

    ran = cli("app", "add", *words)

    assert (ran.code, ran.err.rstrip().splitlines()[-1][:7]) == (2, "error: ")
    assert said in ran.err
    assert HUSH not in ran.out + ran.err
    assert rows_of(sqlite_engine, tables.app) == []


def test_an_application_needs_a_key_and_a_secret(
    cli: Cli, settings: Settings, tmp_path: Path
) -> None:
    """Nothing is stored in the clear, and nothing empty; two sources are one too many."""
    file = tmp_path / "secret"
    file.write_text("")
    words = ("app", "add", "crm", "--client-id", "i", "--secret-file", str(file))

    keyless = cli(*words, settings=Settings(database_url=settings.database_url))
    empty = cli(*words)
    both = cli(*words, "--secret", "-")

    assert (keyless.code, empty.code, both.code) == (2, 2, 2)
    assert "b24sync portal new-key" in keyless.err
    assert "the client secret is empty" in empty.err
    assert "exclude each other" in both.err


def test_a_known_application_is_changed_only_if_that_is_meant(
    cli: Cli, crm: str, tmp_path: Path, sqlite_engine: Engine, settings: Settings
) -> None:
    """``--replace`` says so; its portals stay its own."""
    again = _add_app(cli, tmp_path)
    replaced = _add_app(cli, tmp_path, "--replace", secret="other")  # noqa: S106 - looked for

    stored = str(one(sqlite_engine, tables.app, code=crm)["secret"])
    assert (again.code, replaced.code) == (2, 0)
    assert "--replace" in again.err
    assert Keyring.from_keys(settings.secret_key).decrypt(stored) == "other"


def test_applications_are_listed_and_forgotten(cli: Cli, crm: str, tmp_path: Path) -> None:
    """One that serves a portal is not, and says how many; an unknown one names the known."""
    assert _add_portal(cli, tmp_path, GRANT).code == 0

    listed = cli("app", "list")
    refused = cli("app", "remove", crm)
    unknown = cli("app", "remove", "other")
    hook = ("portal", "add", "acme", "--webhook", "http://127.0.0.1/rest/1/x/", "--replace")
    assert cli(*hook).code == 0
    removed = cli("app", "remove", crm, "--json")
    none = cli("app", "list", "--json")

    assert listed.out.split()[-4:] == ["crm", "local.1", "https://oauth.bitrix.info", "1"]
    assert (refused.code, unknown.code) == (2, 2)
    assert "serves 1 portals" in refused.err
    assert "known are: crm" in unknown.err
    assert removed.document == {"application": "crm", "removed": True}
    assert (none.code, none.out) == (0, "")


# Portals with tokens


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize("nested", [True, False])
def test_tokens_of_an_event_or_an_answer_make_a_portal(
    cli: Cli, settings: Settings, sqlite_engine: Engine, tmp_path: Path, *, nested: bool
) -> None:
    """At the address of its own, not at that of the authorization server; all of it encrypted."""
    document = {"event": "ONAPPINSTALL", "auth": GRANT} if nested else GRANT

    ran = _add_portal(cli, tmp_path, document, "--plan", "enterprise")
    listed = cli("portal", "list")
    status = cli("status")

    row = one(sqlite_engine, tables.portal)
    pair = pair_in(Keyring.from_keys(settings.secret_key).decrypt(row["secret"]))
    assert ran.code == 0
    assert pair == Pair(access="hush-access", refresh="hush-refresh")
    assert (row["base_url"], row["app_id"], row["auth_kind"]) == (
        "https://acme.example",
        "crm",
        "oauth",
    )
    assert (row["member_id"], row["credential_user"], row["rate_x"]) == ("m1", "7", 250)
    assert row["token_expires_at"] == 4_000_000_000_000
    assert (
        len(rows_of(sqlite_engine, tables.lane)) == len(rows_of(sqlite_engine, tables.bucket)) == 1
    )
    assert "oauth of user 7, stored" in listed.out
    shown = (ran.out, ran.err, listed.out, status.out, repr(row))
    assert not [text for text in shown if "hush" in text]


@pytest.mark.usefixtures("crm")
def test_tokens_are_read_from_stdin(
    cli: Cli, sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an end of their own they are used until they are refused."""
    bare = {name: value for name, value in GRANT.items() if not name.startswith("expires")}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(bare, indent=2)))

    ran = cli("portal", "add", "acme", "--app", "crm", "--tokens", "-", "--json")

    assert (ran.document["auth_kind"], ran.document["base_url"]) == (
        "oauth",
        "https://acme.example",
    )
    assert one(sqlite_engine, tables.portal)["token_expires_at"] is None


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "are no JSON"),
        ("{hush", "are no JSON"),
        ("[" * 100_000, "cannot be read"),
        ([], "a JSON object is needed"),
        ({"auth": {}}, "access_token and refresh_token missing"),
        (GRANT | {"refresh_token": None}, "refresh_token missing"),
        (GRANT | {"client_endpoint": ""}, "client_endpoint is missing"),
        (GRANT | {"member_id": None}, "member_id is missing"),
        (GRANT | {"client_endpoint": "http://acme.example/rest/"}, "client_endpoint: must begin"),
        (GRANT | {"client_endpoint": "acme.example"}, "client_endpoint: "),
    ],
)
def test_tokens_that_cannot_be_used_are_one_line(
    cli: Cli, sqlite_engine: Engine, tmp_path: Path, document: object, said: str
) -> None:
    """The missing key is named, and no token repeated."""
    ran = _add_portal(cli, tmp_path, document)

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert said in ran.err
    assert "hush" not in ran.err
    assert rows_of(sqlite_engine, tables.portal) == []


@pytest.mark.usefixtures("crm")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--app", "crm", "--webhook", "-"), "a webhook and --app exclude each other"),
        (("--tokens", "-"), "name it with --app"),
        (("--app", "crm"), "--tokens-file or --tokens - is needed"),
        (("--app", "crm", "--tokens", HUSH), "the command line is readable by others"),
        (("--app", "other", "--tokens", "-"), "there is no application 'other'; known are: crm"),
        (("--app", "crm", "--tokens", "-", "--tokens-file", "/dev/null"), "exclude each other"),
    ],
)
def test_what_contradicts_itself_is_refused(
    cli: Cli, sqlite_engine: Engine, words: tuple[str, ...], said: str
) -> None:
    """Exit code 2, what to do, and nothing stored or repeated."""
    ran = cli("portal", "add", "acme", *words)

    assert ran.code == 2
    assert said in ran.err
    assert HUSH not in ran.err
    assert rows_of(sqlite_engine, tables.portal) == []


@pytest.mark.usefixtures("crm")
def test_new_tokens_of_the_same_portal_replace_the_old_ones(
    cli: Cli, sqlite_engine: Engine, tmp_path: Path
) -> None:
    """A loss is forgotten; those of another portal are refused, since links would lead astray."""
    assert _add_portal(cli, tmp_path, GRANT).code == 0
    change(sqlite_engine, tables.portal, {"refresh_lost_at": 5, "refresh_lease_until": 2**45})

    again = _add_portal(cli, tmp_path, GRANT)
    other = _add_portal(cli, tmp_path, GRANT | {"member_id": "m2"}, "--replace")
    before = one(sqlite_engine, tables.portal)
    replaced = _add_portal(cli, tmp_path, GRANT, "--replace")
    after = one(sqlite_engine, tables.portal)

    assert (again.code, other.code, replaced.code) == (2, 2, 0)
    assert "add it under a code of its own" in other.err
    assert (before["token_version"], after["token_version"]) == (1, 2)
    assert (after["refresh_lost_at"], after["refresh_lease_until"]) == (None, None)


# People renew as workers do


def test_the_check_renews_an_expired_token_once(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine
) -> None:
    """The new pair is stored, so that the next worker finds it."""
    acme.expire_token()

    ran = cli("portal", "check", "acme", "--json")
    again = cli("portal", "check", "acme", "--json")

    asked = [request.method for request in acme.requests()]
    assert (ran.code, again.code) == (0, 0)
    assert ran.document["findings"][0]["subject"] == "user"
    assert asked == ["profile", "oauth.token", *["profile", "server.time", "scope"] * 2]
    assert one(sqlite_engine, tables.portal)["token_version"] == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"action": "html", "status": 502}, "could not be renewed now: HTTP_502"),
        ({"action": "error", "code": "invalid_grant", "text": "Spent"}, "invalid_grant: Spent"),
    ],
)
def test_a_check_that_gets_no_token_says_why(
    cli: Cli, acme: Sandbox, sqlite_engine: Engine, fault: dict[str, Any], said: str
) -> None:
    """One finding, and the portal is not paused by it."""
    acme.expire_token()
    acme.add_fault(fault.pop("action"), method="oauth.token", **fault)

    ran = cli("portal", "check", "acme", "--json")

    (finding,) = ran.document["findings"]
    assert (ran.code, finding["subject"]) == (1, "credential")
    assert said in finding["text"]
    assert finding["advice"]
    assert one(sqlite_engine, tables.portal)["state"] == "active"


def test_a_sync_by_hand_renews_too(cli: Cli, acme: Sandbox, sqlite_engine: Engine) -> None:
    """It is the same drain."""
    add_rows(sqlite_engine, "a", portal="acme")
    acme.expire_token()

    ran = cli("sync", "--json")

    assert ran.code == 0
    assert len(acme.records("contact")) == 1


# Keys


def test_keys_are_rotated_and_the_old_one_may_go(
    cli: Cli, acme: Sandbox, settings: Settings, sqlite_engine: Engine
) -> None:
    """Webhooks, tokens and client secrets; a second time there is nothing to do."""
    hook = ("portal", "add", "hooked", "--webhook", acme.webhook_url)
    assert cli(*hook).code == 0
    key = new_key()
    both = replace(settings, secret_key=(key, *settings.secret_key))
    new = replace(settings, secret_key=(key,))

    early = cli("portal", "rotate-keys", "--json", settings=new)
    ran = cli("portal", "rotate-keys", "--json", settings=both)
    again = cli("portal", "rotate-keys", settings=both)
    checks = [cli("portal", "check", code, settings=new).code for code in ("acme", "hooked")]

    key_id = Keyring.from_keys([key]).key_ids[0]
    assert (early.code, ran.code, again.code) == (1, 0, 0)
    assert early.document["unreadable"] == [
        "portals: acme",
        "portals: hooked",
        "applications: crm",
    ]
    assert ran.document == {
        "key": key_id,
        "rotated": {"portals": 2, "applications": 1},
        "current": {"portals": 2, "applications": 1},
        "unreadable": [],
    }
    assert f"portals: 0 re-encrypted, 2 closed with {key_id}" in again.out
    assert checks == [0, 0]
    assert {row["secret_key_id"] for row in rows_of(sqlite_engine, tables.portal)} == {key_id}


def test_without_a_key_nothing_is_rotated(cli: Cli, settings: Settings) -> None:
    """The refusal names the variable."""
    ran = cli("portal", "rotate-keys", settings=Settings(database_url=settings.database_url))

    assert ran.code == 2
    assert "B24SYNC_SECRET_KEY" in ran.err
