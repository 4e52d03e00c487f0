"""What one process of one Celery app keeps between tasks: its settings and its world.

A world holds sockets, and a socket must not be shared with a forked child: two processes would read
each other's answers. So a world belongs to a process id, is built when a task first needs it, and a
child lets go of its parent's without closing anything.
"""

import os
import threading
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from celery import Celery

from b24sync.edge.schema import ensure_current
from b24sync.settings import PREFIX, Settings, from_mapping
from b24sync.world import World, build


class Host:
    """The settings and, per process, the world of one app."""

    def __init__(self, app: Celery, settings: Settings | None) -> None:
        """Keep what ``install`` was given; nothing is read or opened yet."""
        self._conf = app.conf
        self._settings = settings
        self._world: tuple[int, World] | None = None
        self._lock = threading.Lock()
        self.stopping = threading.Event()

    @property
    def settings(self) -> Settings:
        """The settings given to ``install``, or those in the app's configuration.

        Raises: SettingsError.
        """
        if self._settings is None:
            self._settings = from_mapping(configured(self._conf))
        return self._settings

    def world(self) -> World:
        """The world of this process, built when first asked for.

        Raises: SettingsError; DatabaseError if the tables are missing or of another version.
        """
        with self._lock:
            if self._world is not None and self._world[0] == os.getpid():
                return self._world[1]
            self._let_go()
            world = build(self.settings, slots=_slots(self._conf))
            ensure_current(world.engine)
            self._world = (os.getpid(), world)
            return world

    def _let_go(self) -> None:
        """Forget a parent's connections; they are the parent's to close."""
        if self._world is not None:
            self._world[1].engine.dispose(close=False)
            self._world = None

    def close(self) -> None:
        """Close this process's own connections; the next task opens them anew."""
        with self._lock:
            if self._world is not None and self._world[0] == os.getpid():
                self._world[1].engine.dispose()
                self._world = None


def configured(conf: Mapping[str, object]) -> Mapping[str, object]:
    """This package's keys of a Celery configuration."""
    return {key: conf[key] for key in conf if key.startswith(PREFIX)}


def _slots(conf: Mapping[str, object]) -> int:
    """How many tasks may run at once in one process; a prefork child runs one."""
    given = conf.get("worker_concurrency")
    return given if isinstance(given, int) and given > 0 else os.cpu_count() or 1


HOSTS: WeakKeyDictionary[Celery, Host] = WeakKeyDictionary()
"""The apps into which this package was installed; nothing is here by import alone."""


def host_of(app: Celery) -> Host:
    """The host of an app.

    Raises: RuntimeError if the package was not installed into the app.
    """
    try:
        return HOSTS[app]
    except KeyError:
        raise RuntimeError(
            f"b24sync is not installed into the Celery app {app.main!r}; "
            "call b24sync.plugin.install(app)"
        ) from None
