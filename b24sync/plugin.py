"""``install(app)``: queue, routes, schedule, tasks and worker life, plugged into a Celery app.

::

    from celery import Celery
    from b24sync.plugin import install

    app = Celery("shop", broker="amqp://…")
    app.conf.b24sync_database_url = "postgresql+psycopg://…"
    install(app)

Nothing is read when ``install`` is called: the app's configuration is read when Celery reads it, so
``install`` may stand before or after it.
"""

import sys
from functools import partial

from celery import Celery, signals
from kombu import Queue

from b24sync.broker import register
from b24sync.core.errors import B24SyncError, DatabaseError
from b24sync.core.refs import is_list, is_mapping
from b24sync.host import HOSTS, Host
from b24sync.settings import Hidden, Settings

TASKS = "b24sync.tasks"
ROUTE = "b24sync.*"
CREDENTIALS = ("b24sync_webhook_url", "b24sync_source_url")
EXIT_SETTINGS = 2
EXIT_DATABASE = 3
AUDIT_AGAIN_S = 60.0
"""How often it is looked whether an audit has to be begun or gone on with."""

register()


def install(app: Celery, settings: Settings | None = None) -> None:
    """Plug this package into an app; calling it again changes nothing.

    ``settings`` are otherwise read from the ``b24sync_…`` keys of the app's configuration.
    Raises: nothing; a worker refuses to start with wrong settings, with one line and exit code 2,
    or 3 if the database cannot be used.
    """
    if app in HOSTS:
        return
    HOSTS[app] = host = Host(app, settings)
    configure = partial(_configure, app, host)
    app.on_after_configure.connect(configure, sender=app, weak=False)
    if getattr(app, "configured", False):
        configure()
    signals.worker_init.connect(partial(_check, app, host), weak=False)
    signals.beat_init.connect(partial(_check_settings, app, host), weak=False)
    signals.worker_shutting_down.connect(partial(_stop, host), weak=False)


def beat_entries(settings: Settings) -> dict[str, dict[str, object]]:
    """The schedule of this package, for an app that builds its schedule by hand.

    Shape: entry name to entry, as ``beat_schedule`` takes them.
    Units: each entry expires when its next one is due, so stale ones vanish.
    """
    every = {
        "b24sync.pump": settings.pump_s,
        "b24sync.recover": settings.recover_s,
        "b24sync.prune": settings.prune_s,
        # A round that the portal's rate has ended before all was seen goes on with the next of these.
        "b24sync.audit": min(settings.audit_s, AUDIT_AGAIN_S),
        "b24sync.feed_backfills": settings.backfill_s,
    }
    return {
        name: {
            "task": name,
            "schedule": interval_s,
            "options": {"queue": settings.queue, "expires": interval_s},
        }
        for name, interval_s in every.items()
    }


def _configure(app: Celery, host: Host, **_kwargs: object) -> None:
    """Add what is ours to a configuration that was just read; what the app says wins."""
    try:
        settings = host.settings
    except B24SyncError:
        # Told to a person by the check at the worker's start, and to callers by their call.
        settings = Settings()
    conf = app.conf
    imports = (conf.imports,) if isinstance(conf.imports, str) else tuple(conf.imports)
    if TASKS not in imports:
        conf.imports = (*imports, TASKS)
    conf.beat_schedule = {**beat_entries(settings), **conf.beat_schedule}
    conf.task_queues = _with_queue(app, settings.queue)
    conf.task_routes = _with_route(conf.task_routes, settings.queue)
    # Celery's report shows every setting whose name does not look like that of a secret.
    for key in [key for key in conf if key.lower().endswith(CREDENTIALS)]:
        if isinstance(conf[key], str):
            conf[key] = Hidden(conf[key])


def _with_queue(app: Celery, ours: str) -> object:
    """The app's queues and ours, so that a plain worker serves both."""
    queues: object = app.conf.task_queues
    if is_mapping(queues):
        return queues if ours in queues else {**queues, ours: {}}
    # Celery makes the default queue up only while no other is named; here it makes it all the same.
    present = tuple(queues) if is_list(queues) and queues else tuple(app.amqp.Queues([]).values())
    named = (queue.name for queue in present if isinstance(queue, Queue))
    return present if ours in named else (*present, _queue(ours, app.conf.task_default_queue_type))


def _queue(name: str, sort: str) -> Queue:
    """Our queue, of the sort that the app's default queue has: its broker may take no other."""
    arguments = {"x-queue-type": sort} if sort == "quorum" else None
    return Queue(name, exchange=name, routing_key=name, queue_arguments=arguments)


def _with_route(routes: object, ours: str) -> object:
    """The app's routes, and ours behind them: the first that fits is taken."""
    mine = {ROUTE: {"queue": ours}}
    if not routes:
        return mine
    if is_mapping(routes):
        return {**routes, **{name: to for name, to in mine.items() if name not in routes}}
    if is_list(routes):
        return routes if mine in routes else (*routes, mine)
    return (routes, mine)


def _check(app: Celery, host: Host, sender: object = None, **_kwargs: object) -> None:
    """Refuse to start a worker that could not work, in one line."""
    if getattr(sender, "app", app) is not app:
        return
    slots = getattr(sender, "concurrency", None)
    host.slots = slots if isinstance(slots, int) else None
    try:
        host.world()
    except DatabaseError as error:
        _refuse(error, EXIT_DATABASE)
    except B24SyncError as error:
        _refuse(error, EXIT_SETTINGS)
    # The children of a prefork pool open their own.
    host.close()


def _check_settings(app: Celery, host: Host, sender: object = None, **_kwargs: object) -> None:
    """Refuse to start a beat that would ring at the wrong times; it needs no database."""
    if getattr(sender, "app", app) is not app:
        return
    try:
        _ = host.settings
    except B24SyncError as error:
        _refuse(error, EXIT_SETTINGS)


def _refuse(error: B24SyncError, code: int) -> None:
    # A beat has turned standard error into its log by now, at a level that may be switched off.
    stderr = sys.__stderr__ or sys.stderr
    stderr.write(f"error: {error}\n")
    stderr.flush()
    raise SystemExit(code)


def _stop(host: Host, **_kwargs: object) -> None:
    """Between two batches, a run looks whether its worker is going down."""
    host.stopping.set()
