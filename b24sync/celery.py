"""The stand-alone app, so that ``celery -A b24sync worker`` works; nobody else imports it."""

import sys

from celery import Celery

from b24sync.core.errors import SettingsError
from b24sync.plugin import EXIT_SETTINGS, install
from b24sync.settings import standalone, standalone_config

try:
    SETTINGS = standalone()
except SettingsError as error:
    # The command that loads an app would print a traceback; one line is enough.
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(EXIT_SETTINGS) from None

app = Celery("b24sync", config_source=standalone_config())
install(app, SETTINGS)
