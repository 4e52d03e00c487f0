"""The package plugged into the Celery app of a host: in whatever order, beside whatever it has."""

import json
import re
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import ModuleType

import kombu
import pytest
from celery import Celery
from kombu import Exchange, Queue
from sqlalchemy import Engine

from b24sync import Change, enqueue
from b24sync.core.errors import SettingsError
from b24sync.edge.database import writing
from b24sync.host import host_of
from b24sync.plugin import beat_entries, install
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings
from tests.apps.running import Started, Yard, wait_until
from tests.house import endings

FEED = "b24sync.feed_backfills"
OURS = {"b24sync.pump", "b24sync.recover", "b24sync.prune", "b24sync.audit", FEED}
CONFIG: Mapping[str, object] = {
    "broker_url": "memory://",
    "b24sync_database_url": "sqlite:///elsewhere.db",
    "beat_schedule": {"own": {"task": "shop.note", "schedule": 3.0}},
    "imports": ("shop.tasks",),
}


@pytest.fixture
def yard(tmp_path: Path) -> Generator[Yard]:
    """A place for processes, all of which end with the test."""
    place = Yard(home=tmp_path)
    yield place
    place.clear()


@pytest.fixture
def rabbit(yard: Yard, queue_name: str, rabbitmq_url: str) -> Generator[Mapping[str, object]]:
    """The configuration of an app on RabbitMQ, whose queues are deleted afterwards."""
    ours = f"{queue_name}-ours"
    yield {
        "broker_url": rabbitmq_url,
        "task_default_queue": queue_name,
        "worker_enable_remote_control": False,
        "b24sync_queue": ours,
    }
    # A worker that still runs would declare again what is deleted under it.
    yard.clear()
    with kombu.Connection(rabbitmq_url) as connection, connection.channel() as channel:
        kombu.Queue(ours).bind(channel).delete()
        kombu.Exchange(ours).bind(channel).delete()


def shop(**config: object) -> Celery:
    """An app that is installed into and then configured."""
    app = Celery("shop", set_as_current=False)
    install(app)
    app.config_from_object({"broker_url": "memory://"} | config)
    return app


def queues_of(app: Celery) -> dict[str, Queue]:
    """What a plain worker of this app consumes."""
    return dict(app.amqp.queues)


def destination(app: Celery, task: str) -> str:
    """The name of the queue to which a task of this name goes."""
    return str(app.amqp.router.route({}, task)["queue"].name)


def _install_then_configure(app: Celery) -> None:
    install(app)
    app.config_from_object(CONFIG)


def _configure_then_install(app: Celery) -> None:
    app.config_from_object(CONFIG)
    install(app)


def _configure_read_install(app: Celery) -> None:
    app.config_from_object(CONFIG)
    assert app.conf.enable_utc
    install(app)


def _install_read_configure(app: Celery) -> None:
    install(app)
    assert app.conf.enable_utc
    app.config_from_object(CONFIG)


def _install_then_update(app: Celery) -> None:
    install(app)
    app.conf.update(CONFIG)


def _install_twice(app: Celery) -> None:
    app.conf.update(CONFIG)
    install(app)
    assert app.conf.enable_utc
    install(app)


ORDERS = [
    _install_then_configure,
    _configure_then_install,
    _configure_read_install,
    _install_read_configure,
    _install_then_update,
    _install_twice,
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__.strip("_"))
def test_it_does_not_matter_when_the_host_installs(order: Callable[[Celery], None]) -> None:
    """Before, after or between the readings of the configuration, and twice: the same app."""
    app = Celery("shop", set_as_current=False)

    order(app)

    assert host_of(app).settings.database_url == "sqlite:///elsewhere.db"
    assert set(app.conf.beat_schedule) == OURS | {"own"}
    assert tuple(app.conf.imports) == ("shop.tasks", "b24sync.tasks")
    assert list(queues_of(app)) == ["celery", "b24sync"]
    assert destination(app, "b24sync.sync_entities") == "b24sync"
    assert destination(app, "shop.note") == "celery"


def test_settings_changed_after_a_first_read_count() -> None:
    """Nothing is kept of a configuration that has changed since."""
    app = shop(b24sync_database_url="sqlite:///before.db")
    assert host_of(app).settings.database_url == "sqlite:///before.db"

    app.conf.update(b24sync_database_url="sqlite:///after.db")

    assert host_of(app).settings.database_url == "sqlite:///after.db"


@pytest.fixture
def spaced(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of settings as those of Django, and with a namespace for Celery's."""
    module = ModuleType("spaced_settings")
    vars(module).update(
        CELERY_BROKER_URL="memory://",
        CELERY_B24SYNC_DATABASE_URL="sqlite:///spaced.db",
        CELERY_B24SYNC_WEBHOOK_URL="https://portal.example/rest/1/hush/",
        CELERY_BEAT_SCHEDULE={"own": {"task": "shop.note", "schedule": 3.0}},
        B24SYNC_ENABLED=True,
    )
    monkeypatch.setitem(sys.modules, "spaced_settings", module)
    return module


@pytest.mark.parametrize("namespace", ["CELERY", "CELERY_"])
def test_settings_stand_in_the_namespace_of_the_host(spaced: ModuleType, namespace: str) -> None:
    """With ``namespace="CELERY"`` they are called ``CELERY_B24SYNC_…``; others are not ours."""
    app = Celery("shop", set_as_current=False)
    install(app)

    app.config_from_object(spaced.__name__, namespace=namespace)

    assert host_of(app).settings.database_url == "sqlite:///spaced.db"
    assert host_of(app).settings.webhook_url == "https://portal.example/rest/1/hush/"
    assert "hush" not in app.conf.humanize(with_defaults=False)
    assert set(app.conf.beat_schedule) == OURS | {"own"}


def test_a_wrong_setting_in_a_namespace_is_noticed(spaced: ModuleType) -> None:
    """A misspelt name would otherwise leave a default in force without a word."""
    vars(spaced)["CELERY_B24SYNC_DATABSE_URL"] = "sqlite:///x.db"
    app = Celery("shop", set_as_current=False)
    install(app)
    app.config_from_object(spaced.__name__, namespace="CELERY")

    with pytest.raises(SettingsError, match="b24sync_databse_url: is unknown"):
        _ = host_of(app).settings


def test_settings_given_to_install_win_over_the_configuration() -> None:
    """Who gives settings has read them elsewhere."""
    app = Celery("shop", set_as_current=False)

    install(app, Settings(queue="given"))
    app.config_from_object({"broker_url": "memory://", "b24sync_queue": "configured"})

    assert "given" in queues_of(app)
    assert destination(app, "b24sync.pump") == "given"


@pytest.mark.parametrize(
    ("given", "consumed"),
    [
        pytest.param(None, {"celery": "celery", "b24sync": "b24sync"}, id="none"),
        pytest.param([], {"celery": "celery", "b24sync": "b24sync"}, id="empty"),
        pytest.param([Queue("a", Exchange("x"))], {"a": "x", "b24sync": "b24sync"}, id="list"),
        pytest.param(
            (Queue("a", Exchange("x")), Queue("b")),
            {"a": "x", "b": "celery", "b24sync": "b24sync"},
            id="tuple",
        ),
        pytest.param({"a": {"exchange": "x"}}, {"a": "x", "b24sync": "celery"}, id="dict"),
        pytest.param([Queue("b24sync", Exchange("x"))], {"b24sync": "x"}, id="ours in a list"),
        pytest.param({"b24sync": {"exchange": "x"}}, {"b24sync": "x"}, id="ours in a dict"),
    ],
)
def test_the_hosts_queues_stay_and_ours_is_added(given: object, consumed: dict[str, str]) -> None:
    """Whatever form the host chose, its queues are as it declared them, with their exchanges."""
    app = shop(task_queues=given)

    queues = queues_of(app)

    assert {name: queue.exchange.name for name, queue in queues.items()} == consumed


def test_the_default_queue_is_the_one_that_celery_would_have_made() -> None:
    """Another name, another exchange and the sort of the queue are kept; ours is of that sort."""
    settings: dict[str, object] = {
        "task_default_queue": "orders",
        "task_default_exchange": "shop",
        "task_default_exchange_type": "topic",
        "task_default_routing_key": "shop.default",
        "task_default_queue_type": "quorum",
    }
    plain = Celery("plain", set_as_current=False)
    plain.config_from_object(settings)

    queues = queues_of(shop(**settings))

    assert list(queues) == ["orders", "b24sync"]
    assert queues["orders"] == plain.amqp.queues["orders"]
    assert queues["orders"].queue_arguments == {"x-queue-type": "quorum"}
    assert queues["b24sync"].queue_arguments == {"x-queue-type": "quorum"}


@pytest.mark.parametrize(
    ("routes", "task", "queue"),
    [
        pytest.param(None, "b24sync.pump", "b24sync", id="none"),
        pytest.param({"shop.*": {"queue": "s"}}, "b24sync.pump", "b24sync", id="others"),
        pytest.param({"shop.*": {"queue": "s"}}, "shop.note", "s", id="the host's own"),
        pytest.param({"b24sync.*": {"queue": "s"}}, "b24sync.pump", "s", id="the same pattern"),
        pytest.param({"b24sync.p*": {"queue": "s"}}, "b24sync.pump", "s", id="a closer pattern"),
        pytest.param({"b24sync.pump": {"queue": "s"}}, "b24sync.pump", "s", id="the very name"),
        pytest.param([{"b24sync.p*": {"queue": "s"}}], "b24sync.pump", "s", id="a list"),
        pytest.param([{"shop.*": {"queue": "s"}}], "b24sync.pump", "b24sync", id="list of others"),
        pytest.param("tests.apps.routing.route", "b24sync.pump", "b24sync", id="a function"),
        pytest.param("tests.apps.routing.route", "shop.note", "s", id="a function's own"),
    ],
)
def test_the_hosts_routes_win(routes: object, task: str, queue: str) -> None:
    """Ours is asked when none of the host's fits."""
    app = shop(task_routes=routes)

    assert destination(app, task) == queue


def test_the_hosts_schedule_wins_and_stays() -> None:
    """An entry of our name that the host has written is the host's."""
    mine = {"task": "b24sync.pump", "schedule": 60.0}

    app = shop(beat_schedule={"b24sync.pump": mine, "own": {"task": "shop.note", "schedule": 3.0}})

    assert app.conf.beat_schedule["b24sync.pump"] == mine
    assert set(app.conf.beat_schedule) == OURS | {"own"}


def test_our_entries_expire_when_the_next_is_due() -> None:
    """Rings that pile up while no worker runs are thrown away unheard."""
    entries = beat_entries(Settings(queue="q", pump_s=2.0, recover_s=7.0, prune_s=900.0))

    assert entries == {
        "b24sync.pump": {
            "task": "b24sync.pump",
            "schedule": 2.0,
            "options": {"queue": "q", "expires": 2.0},
        },
        "b24sync.recover": {
            "task": "b24sync.recover",
            "schedule": 7.0,
            "options": {"queue": "q", "expires": 7.0},
        },
        "b24sync.prune": {
            "task": "b24sync.prune",
            "schedule": 900.0,
            "options": {"queue": "q", "expires": 900.0},
        },
        "b24sync.audit": {
            "task": "b24sync.audit",
            "schedule": 60.0,
            "options": {"queue": "q", "expires": 60.0},
        },
        "b24sync.feed_backfills": {
            "task": "b24sync.feed_backfills",
            "schedule": 10.0,
            "options": {"queue": "q", "expires": 10.0},
        },
    }


def test_imports_may_be_one_name() -> None:
    """Celery takes a text for a list of one, and so do we."""
    app = shop(imports="shop.tasks")

    assert tuple(app.conf.imports) == ("shop.tasks", "b24sync.tasks")


def test_two_apps_in_one_process_have_nothing_in_common() -> None:
    """Each has its own settings, queue and schedule."""
    one = shop(b24sync_queue="one", b24sync_database_url="sqlite:///one.db", b24sync_pump_s=1)
    two = shop(b24sync_queue="two", b24sync_database_url="sqlite:///two.db", b24sync_pump_s=2)

    assert list(queues_of(one)) == ["celery", "one"]
    assert list(queues_of(two)) == ["celery", "two"]
    assert host_of(one).settings.database_url == "sqlite:///one.db"
    assert host_of(two).settings.database_url == "sqlite:///two.db"
    assert one.conf.beat_schedule["b24sync.pump"]["schedule"] == 1.0
    assert two.conf.beat_schedule["b24sync.pump"]["schedule"] == 2.0


def test_an_app_without_the_package_says_what_to_call() -> None:
    """A task that runs in an app that nobody installed into names the missing call."""
    app = Celery("bare", set_as_current=False)

    with pytest.raises(RuntimeError, match=re.escape("call b24sync.plugin.install(app)")):
        host_of(app)


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("b24sync", ["celery", "kombu", "requests", "b24sync.plugin"]),
        ("b24sync.plugin", ["b24sync.celery", "b24sync.tasks", "celeryconfig"]),
    ],
)
def test_an_import_brings_no_more_than_is_asked_for(
    yard: Yard, imported: str, absent: list[str]
) -> None:
    """A writing application never loads Celery, and no import makes an app behind one's back."""
    script = (
        f"import sys, {imported}\n"
        f"print([name for name in {absent!r} if name in sys.modules])\n"
        "state = sys.modules.get('celery._state')\n"
        "print(len(state._apps) if state else 0)\n"
    )

    python = yard.python("-c", script)

    assert python.ends() == 0, python.output
    assert python.output == "[]\n0\n"


def rung(yard: Yard, config: Mapping[str, object]) -> None:
    """Send the host's own task and ours from a process that is not the worker."""
    script = (
        "from tests.apps.shop import note\n"
        "from b24sync.tasks import sync_entities\n"
        "note.delay('hello')\n"
        "sync_entities.delay()\n"
    )
    sender = yard.python("-c", script, SHOP_CONFIG=json.dumps(config))
    assert sender.ends() == 0, sender.output


def both_ran(yard: Yard, engine: Engine, sandbox: Sandbox, worker: Started) -> None:
    """Wait until the host's task and the drain have done their work."""
    record = yard.home / "ran.log"
    wait_until(lambda: record.exists() and record.read_text() == "hello\n")
    wait_until(lambda: endings(engine) == {1: ["applied"]})
    assert [record["name"] for record in sandbox.records("contact").values()] == ["Ann"]
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("sort", "pool"), [("classic", "threads"), ("quorum", "prefork")])
def test_a_plain_worker_on_rabbitmq_runs_the_hosts_tasks_and_ours(
    yard: Yard,
    engine: Engine,
    database_url: str,
    rabbit: Mapping[str, object],
    sort: str,
    pool: str,
) -> None:
    """``celery -A host worker`` serves both queues, be they classic or quorum queues."""
    with writing(engine) as connection:
        enqueue(connection, Change("contact", key="a", operation="add", fields={"name": "Ann"}))
    with Sandbox() as sandbox:
        config = {
            **rabbit,
            "task_default_queue_type": sort,
            "b24sync_database_url": database_url,
            "b24sync_webhook_url": sandbox.webhook_url,
        }
        worker = yard.worker(config, pool)

        rung(yard, config)

        both_ran(yard, engine, sandbox, worker)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_plain_worker_on_the_embedded_broker_runs_the_hosts_tasks_and_ours(
    yard: Yard, engine: Engine, database_url: str
) -> None:
    """The embedded broker is known to an app by the install alone."""
    with writing(engine) as connection:
        enqueue(connection, Change("contact", key="a", operation="add", fields={"name": "Ann"}))
    with Sandbox() as sandbox:
        config = {
            "broker_url": "b24sqlite:///broker.db",
            "b24sync_database_url": database_url,
            "b24sync_webhook_url": sandbox.webhook_url,
        }
        worker = yard.worker(config, "threads")

        rung(yard, config)

        both_ran(yard, engine, sandbox, worker)
