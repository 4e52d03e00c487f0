"""The configuration of the stand-alone app, and the only reader of the environment.

``celery -A b24sync worker`` and the ``b24sync`` command read this module. An application that has
a Celery app of its own does not: it sets ``b24sync_…`` in its own configuration and calls
``b24sync.plugin.install(app)``.

Every variable has the name of its setting in capitals, ``B24SYNC_DATABASE_URL`` for
``b24sync_database_url``; the README lists them.
"""

import os

from b24sync.broker import WORKER_SETTINGS, register
from b24sync.core.errors import SettingsError
from b24sync.settings import PREFIX, TEXT_SETTINGS

register()

KNOWN = {f"{PREFIX}{name}".upper(): f"{PREFIX}{name}" for name in TEXT_SETTINGS}
BESIDE = {"B24SYNC_BROKER_URL"}

for _name, _value in os.environ.items():
    if not _name.startswith(PREFIX.upper()) or _name.startswith("B24SYNC_TEST_"):
        continue
    if _name not in KNOWN and _name not in BESIDE:
        raise SettingsError(_name, "is unknown; the README lists the variables")
    if _name in KNOWN and _value:
        globals()[KNOWN[_name]] = _value

broker_url = os.environ.get("B24SYNC_BROKER_URL") or "b24sqlite:///b24sync-broker.db"
broker_connection_retry_on_startup = True
worker_prefetch_multiplier = 1
worker_send_task_events = False
task_serializer = "json"
accept_content = ["json"]
result_backend = None
worker_cancel_long_running_tasks_on_connection_loss = False
# Celery raises it again after a lost connection, in whatever thread acknowledges a message: with a
# pool of threads two then read one AMQP connection, and the worker hangs.
worker_enable_prefetch_count_reduction = False

_scheme = broker_url.split("://", 1)[0].split("+", 1)[0]
if _scheme == "b24sqlite":
    globals().update(WORKER_SETTINGS)
elif _scheme in {"redis", "rediss"}:
    # Reserved messages are unacknowledged ones, and those do not survive a restart of Redis.
    worker_disable_prefetch = True
    broker_transport_options = {
        "visibility_timeout": 3600,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
else:
    broker_heartbeat = 30
    broker_transport_options = {"confirm_publish": True}
