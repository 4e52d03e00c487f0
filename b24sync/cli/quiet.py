"""Commands that report what they do let the package's log go nowhere meanwhile."""

import logging
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def unlogged() -> Generator[None]:
    """The package's log goes nowhere: what was found or done is reported, and stands in the tables."""
    log, silent = logging.getLogger("b24sync"), logging.NullHandler()
    propagates, log.propagate = log.propagate, False
    log.addHandler(silent)
    try:
        yield
    finally:
        log.removeHandler(silent)
        log.propagate = propagates
