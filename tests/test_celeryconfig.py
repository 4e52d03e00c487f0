"""The stand-alone app: what it reads of the environment, and how it refuses to start."""

import json
import re
import runpy
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from b24sync.core.errors import SettingsError
from b24sync.edge.tokens import new_key
from b24sync.settings import TEXT_SETTINGS, from_mapping
from tests.apps.running import ROOT, Yard

HUSH = "hush7hush7hush7hush7"
"""What stands wherever a secret stands, and must not be seen."""

QUIET = {"PYTHONWARNINGS": "ignore"}
"""Celery warns of workers that run as root, which containers do."""

ONE_LINE = re.compile(r"error: [^\n]+\n")

KEY = new_key()
SAID: Mapping[str, tuple[str, object]] = {
    "database_url": ("postgresql+psycopg://u:p@db/x", "postgresql+psycopg://u:p@db/x"),
    "schema": ("crm", "crm"),
    "webhook_url": ("https://p.example/rest/1/c/", "https://p.example/rest/1/c/"),
    "secret_key": (f"{KEY}, {KEY}", (KEY, KEY)),
    "queue": ("ours", "ours"),
    "batch_size": ("20", 20),
    "batch_share": ("0.25", 0.25),
    "batch_start": ("12", 12),
    "method_limit_s": ("420", 420.0),
    "method_window_s": ("300", 300.0),
    "slice_batches": ("7", 7),
    "slice_s": ("12.5", 12.5),
    "connect_timeout_s": ("3", 3.0),
    "request_timeout_s": ("70", 70.0),
    "quiet_margin_s": ("31", 31.0),
    "lease_s": ("21", 21.0),
    "max_attempts": ("9", 9),
    "retry_base_s": ("11", 11.0),
    "retry_cap_s": ("1800", 1800.0),
    "egress_group": ("office-2", "office-2"),
    "rate_reserve": ("2.5", 2.5),
    "pump_s": ("0.5", 0.5),
    "pump_width": ("3", 3),
    "recover_s": ("16", 16.0),
    "prune_s": ("60", 60.0),
    "audit_s": ("3600", 3600.0),
    "result_partition": ("day", "day"),
    "backfill_s": ("4", 4.0),
    "source_url": ("mysql+pymysql://u:p@db/shop", "mysql+pymysql://u:p@db/shop"),
    "result_days": ("1.5", 1.5),
    "batch_days": ("14", 14.0),
    "rollup_minute_days": ("2", 2.0),
    "rollup_days": ("30", 30.0),
    "closed_days": ("90", 90.0),
    "budget_days": ("7", 7.0),
    "trusted_hosts": ("crm.acme.example, .acme.example", ("crm.acme.example", ".acme.example")),
    "ca_bundle": (str(ROOT / "pyproject.toml"), str(ROOT / "pyproject.toml")),
}
"""Each setting as an environment says it, and as it is read."""


@pytest.fixture
def yard(tmp_path: Path) -> Generator[Yard]:
    """A place for processes, all of which end with the test."""
    place = Yard(home=tmp_path)
    yield place
    place.clear()


def configuration() -> dict[str, object]:
    """The names that the configuration module defines, read anew."""
    return runpy.run_path(str(ROOT / "celeryconfig.py"))


def test_every_setting_that_text_can_say_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable has the setting's name in capitals, and its text becomes the setting's type."""
    for name, (text, _) in SAID.items():
        monkeypatch.setenv(f"B24SYNC_{name.upper()}", text)

    settings = from_mapping(configuration())

    assert set(SAID) == set(TEXT_SETTINGS)
    assert {name: getattr(settings, name) for name in SAID} == {
        name: value for name, (_, value) in SAID.items()
    }


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass variables on that nobody has set."""
    monkeypatch.setenv("B24SYNC_PUMP_S", "")
    monkeypatch.setenv("B24SYNC_BROKER_URL", "")

    found = configuration()

    assert from_mapping(found).pump_s == 5.0
    assert found["broker_url"] == "b24sqlite:///b24sync-broker.db"


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt one would leave a default in force without a word."""
    monkeypatch.setenv("B24SYNC_PUMP", HUSH)

    with pytest.raises(SettingsError, match=r"^B24SYNC_PUMP: is unknown") as caught:
        configuration()

    assert HUSH not in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "expected"),
    [
        pytest.param(
            "b24sqlite:///b.db", {"worker_enable_remote_control": False}, id="embedded broker"
        ),
        pytest.param("redis://h/1", {"worker_disable_prefetch": True}, id="redis"),
        pytest.param("rediss://h/1", {"worker_disable_prefetch": True}, id="redis over tls"),
        pytest.param(
            "amqp://h//", {"broker_transport_options": {"confirm_publish": True}}, id="rabbitmq"
        ),
    ],
)
def test_each_broker_has_settings_of_its_own(
    monkeypatch: pytest.MonkeyPatch, broker: str, expected: Mapping[str, object]
) -> None:
    """What loses messages on one broker is not even known to another."""
    monkeypatch.setenv("B24SYNC_BROKER_URL", broker)

    found = configuration()

    assert found["broker_url"] == broker
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("variables", "code", "complaint"),
    [
        pytest.param(
            {"B24SYNC_DATABASE_URL": f"nonsense {HUSH}"},
            2,
            "database_url: not a database address; write e.g.",
            id="no address",
        ),
        pytest.param(
            {"B24SYNC_DATABASE_URL": f"oracle://u:{HUSH}@127.0.0.1/x"},
            2,
            "database_url: 'oracle' is not supported",
            id="another database",
        ),
        pytest.param(
            {"B24SYNC_DATABASE_URL": f"postgresql://u:{HUSH}@127.0.0.1:9/x"},
            3,
            "cannot use the database postgresql+psycopg://u:***@127.0.0.1:9/x: connection failed",
            id="a database that is not there",
        ),
        pytest.param(
            {"B24SYNC_DATABASE_URL": f"mysql://u:{HUSH}@nowhere.invalid/x"},
            3,
            "cannot use the database mysql+pymysql://u:***@nowhere.invalid/x",
            id="a host that is not there",
        ),
        pytest.param({}, 3, "the tables are missing: run `b24sync db upgrade`", id="no tables"),
        pytest.param(
            {"B24SYNC_WEBHOOK_URL": f"http://portal.example/rest/1/{HUSH}/"},
            2,
            "webhook_url: must begin with https://",
            id="a webhook without TLS",
        ),
        pytest.param(
            {"B24SYNC_SECRET_KEY": HUSH}, 2, "secret_key: key 1 is not a key", id="no key"
        ),
        pytest.param(
            {"B24SYNC_DATABASE": HUSH}, 2, "B24SYNC_DATABASE: is unknown", id="unknown variable"
        ),
        pytest.param(
            {"B24SYNC_BROKER_URL": HUSH},
            2,
            "B24SYNC_BROKER_URL: is no address; write e.g. amqp://",
            id="no broker address",
        ),
        pytest.param(
            {"B24SYNC_BROKER_URL": f"rabbit://u:{HUSH}@h//"},
            2,
            "B24SYNC_BROKER_URL: 'rabbit' is no transport of kombu's",
            id="another broker",
        ),
        pytest.param(
            {"B24SYNC_BROKER_URL": f"sqs://u:{HUSH}@h"},
            2,
            "B24SYNC_BROKER_URL: sqs needs botocore; pip install 'kombu[sqs]'",
            id="a broker without its library",
        ),
        pytest.param(
            {"B24SYNC_PUMP_S": "often"},
            2,
            "pump_s: a number is needed, not 'often'",
            id="no number",
        ),
    ],
)
def test_a_worker_that_cannot_work_says_so_in_one_line(
    yard: Yard, variables: Mapping[str, str], code: int, complaint: str
) -> None:
    """Exit code 2 for settings, 3 for the database; no traceback and no secret, whatever the pool."""
    workers = [
        yard.celery("b24sync", "worker", "-P", pool, "-l", "DEBUG", **QUIET, **variables)
        for pool in ("prefork", "threads")
    ]

    codes = [worker.ends() for worker in workers]

    assert codes == [code, code], workers[0].output
    for worker in workers:
        assert ONE_LINE.fullmatch(worker.output), worker.output
        assert complaint in worker.output
        assert HUSH not in worker.output


def test_a_beat_and_the_command_itself_refuse_wrong_settings_in_one_line(yard: Yard) -> None:
    """Whatever loads the stand-alone app, the line and the code are the same."""
    wrong = {"B24SYNC_SECRET_KEY": HUSH}

    started = [
        yard.celery("b24sync", "beat", **wrong),
        yard.celery("b24sync", "worker", "-B", **wrong),
        yard.celery("b24sync", "inspect", "ping", **wrong),
    ]

    for each in started:
        assert each.ends() == 2
        assert ONE_LINE.fullmatch(each.output), each.output
        assert HUSH not in each.output


def test_a_host_refuses_wrong_settings_in_one_line(yard: Yard) -> None:
    """A worker and a beat of a host application end like those of the stand-alone app."""
    wrong = {"broker_url": "memory://", "b24sync_secret_key": HUSH}
    absent = {"broker_url": "memory://", "b24sync_database_url": f"postgresql://u:{HUSH}@[::1]:9/x"}

    started = {
        2: [
            yard.shop(wrong, "worker", "-P", "threads"),
            yard.shop(wrong, "worker", "-P", "prefork", "-B"),
            yard.shop(wrong, "beat"),
        ],
        3: [yard.shop(absent, "worker", "-P", "prefork")],
    }

    for code, processes in started.items():
        for each in processes:
            assert each.ends() == code, each.output
            assert len(re.findall(r"^error: .*$", each.output, re.MULTILINE)) == 1, each.output
            assert "Traceback" not in each.output
            assert HUSH not in each.output


def test_a_report_for_strangers_shows_no_credential(yard: Yard) -> None:
    """``celery report`` is what people paste into an issue."""
    variables = {
        "B24SYNC_DATABASE_URL": f"postgresql://u:{HUSH}@db/x",
        "B24SYNC_WEBHOOK_URL": f"https://portal.example/rest/1/{HUSH}/",
        "B24SYNC_SECRET_KEY": KEY,
    }
    config = {name.lower(): value for name, value in variables.items()} | {"timezone": "UTC"}

    reports = [
        yard.celery("b24sync", "report", **variables),
        yard.python(
            "-c",
            "from tests.apps.shop import app\nprint(app.bugreport())\n",
            SHOP_CONFIG=json.dumps(config),
        ),
    ]

    for report in reports:
        assert report.ends() == 0, report.output
        assert "b24sync_webhook_url" in report.output
        assert HUSH not in report.output
        assert KEY not in report.output
