"""What one process of one Celery app keeps between tasks: its settings and its world.

A world holds sockets, and a socket must not be shared with a forked child: two processes would read
each other's answers. So a world belongs to a process id, is built when a task first needs it, and a
child lets go of its parent's without closing anything.
"""

import mmap
import os
import threading
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from celery import Celery

from b24sync.edge.schema import ensure_current
from b24sync.settings import PREFIX, Settings, from_mapping
from b24sync.world import World, build


class Flag:
    """A flag that is up for good, for this process and for the children that it forks."""

    def __init__(self) -> None:
        """Begin with the flag down, in memory that a fork shares."""
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Put the flag up; safe inside a signal handler, because it takes no lock."""
        self._byte[0] = 1

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._byte[0] == 1


class Host:
    """The settings and, per process, the world of one app."""

    def __init__(self, app: Celery, settings: Settings | None) -> None:
        """Keep what ``install`` was given; nothing is read or opened yet.

        ``slots`` will be how many tasks its worker runs at once; each wants a connection.
        """
        self._app = app
        self._settings = settings
        self._world: tuple[int, World] | None = None
        self._lock = threading.Lock()
        self.stopping = Flag()
        self.slots: int | None = None

    @property
    def settings(self) -> Settings:
        """The settings given to ``install``, or those in the app's configuration as it is now.

        Raises: SettingsError.
        """
        # Celery may read its configuration again and then has another one; nothing is kept of it.
        return self._settings or from_mapping(configured(self._app))

    def world(self) -> World:
        """The world of this process, built when first asked for.

        Raises: SettingsError; DatabaseError if the tables are missing or of another version.
        """
        with self._lock:
            if self._world is not None and self._world[0] == os.getpid():
                return self._world[1]
            self._let_go()
            world = build(self.settings, slots=self.slots or os.cpu_count() or 1)
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


def configured(app: Celery) -> Mapping[str, object]:
    """This package's keys of an app's configuration, with or without the app's namespace.

    Shape: ``b24sync_database_url``, also where it stands as ``CELERY_B24SYNC_DATABASE_URL``.
    """
    namespace: str | None = getattr(app, "namespace", None)
    prefix = namespace.lower().rstrip("_") + "_" if namespace else ""
    names = {
        key.lower().removeprefix(prefix)
        for key in app.conf
        if key.startswith(PREFIX) or (prefix and key.lower().startswith(prefix + PREFIX))
    }
    return {name: app.conf[name] for name in sorted(names)}


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
