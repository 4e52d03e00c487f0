"""The stand-alone app, so that ``celery -A b24sync worker`` works; nobody else imports it."""

import sys
from importlib import import_module

from celery import Celery
from kombu import Connection

from b24sync.core.errors import SettingsError
from b24sync.plugin import EXIT_SETTINGS, install
from b24sync.settings import standalone, standalone_config

_FOR_INSTANCE = "write e.g. amqp://user:password@host//, redis://host/0 or b24sqlite:///broker.db"


def check_broker(url: str) -> None:
    """Refuse a broker that no library at hand can speak to; nothing is connected.

    Raises: SettingsError, without the address: it may hold a password.
    """
    if "://" not in url:
        raise SettingsError("B24SYNC_BROKER_URL", f"is no address; {_FOR_INSTANCE}")
    scheme = url.split("://", 1)[0].split("+", 1)[0]
    try:
        _ = Connection(f"{scheme}://").transport_cls
    except KeyError:
        problem = f"{scheme!r} is no transport of kombu's; {_FOR_INSTANCE}"
        raise SettingsError("B24SYNC_BROKER_URL", problem) from None
    except ImportError as error:
        extra = "b24sync[redis]" if scheme in {"redis", "rediss"} else f"kombu[{scheme}]"
        problem = f"{scheme} needs {error.name}; pip install '{extra}'"
        raise SettingsError("B24SYNC_BROKER_URL", problem) from None


try:
    SETTINGS = standalone()
    check_broker(import_module(standalone_config()).broker_url)
except SettingsError as error:
    # The command that loads an app would print a traceback; one line is enough.
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(EXIT_SETTINGS) from None

app = Celery("b24sync", config_source=standalone_config())
install(app, SETTINGS)
