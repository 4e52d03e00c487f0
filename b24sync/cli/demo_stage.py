"""The stage of the demonstration: a portal, a database, a broker and a worker, and nothing left behind."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import Engine

from b24sync.broker import WORKER_SETTINGS
from b24sync.cli import demo_changes
from b24sync.cli.desk import Refused
from b24sync.core.errors import DatabaseError
from b24sync.edge import portals, schema
from b24sync.edge.database import make_engine, transact
from b24sync.plugin import install
from b24sync.sandbox import Sandbox
from b24sync.settings import Settings

FAREWELL_S = 10.0
"""How long the worker may take to end by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What stands on the stage."""

    folder: Path
    sandbox: Sandbox
    settings: Settings
    engine: Engine
    broker_url: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What the worker is told; the same variables as outside the demonstration."""
        return {
            "B24SYNC_DATABASE_URL": self.settings.database_url,
            "B24SYNC_BROKER_URL": self.broker_url,
            "B24SYNC_WEBHOOK_URL": self.sandbox.webhook_url,
            "B24SYNC_PUMP_S": f"{self.settings.pump_s:g}",
        }


@contextmanager
def set_stage(keep: Path | None) -> Generator[Stage]:
    """The stage: a folder, a portal, migrated tables."""
    with ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="b24sync-demo-")))
        else:
            folder = _kept(keep)
        sandbox = stack.enter_context(Sandbox(demo_changes.portal()))
        for fault in demo_changes.faults():
            sandbox.add_fault(fault)
        settings = Settings(
            database_url=f"sqlite:///{folder / 'b24sync.db'}",
            webhook_url=sandbox.webhook_url,
            pump_s=1.0,
        )
        engine = make_engine(settings.database_url)
        stack.callback(engine.dispose)
        schema.upgrade(engine)
        transact(engine, partial(portals.ensure_default, webhook_url=settings.webhook_url))
        yield Stage(
            folder=folder,
            sandbox=sandbox,
            settings=settings,
            engine=engine,
            broker_url=f"b24sqlite:///{folder / 'broker.db'}",
        )


def _kept(keep: Path) -> Path:
    if keep.exists() and any(keep.iterdir()):
        raise Refused(f"{keep} is not empty; name a new directory")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


@contextmanager
def running_worker(stage: Stage) -> Generator["subprocess.Popen[bytes]"]:
    """A worker with beat, in a session of its own, so that nothing of it is left behind."""
    command = [sys.executable, "-m", "celery", "-A", "b24sync", "worker", "-B"]
    command += ["--pool", "solo", "--loglevel", "WARNING"]
    command += ["--without-gossip", "--without-mingle", "--schedule", "beat-schedule"]
    # The child's environment is this one's, but for settings that are not the demonstration's.
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("B24SYNC_")
    }
    with (stage.folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the command is made of constants
            command,
            cwd=stage.folder,
            env=inherited | dict(stage.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the worker to end, and insist after a while."""
    process.terminate()
    try:
        process.wait(FAREWELL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def ring(stage: Stage) -> None:
    """Tell the worker that there is something, as an application may after its commit.

    Raises: DatabaseError if the broker cannot be used.
    """
    app = Celery("b24sync-demo", broker=stage.broker_url, set_as_current=False)
    app.conf.update(WORKER_SETTINGS)
    install(app, stage.settings)
    try:
        app.send_task("b24sync.sync_entities")
    except OperationalError as error:
        raise DatabaseError(f"the broker cannot be used: {error}") from error
    finally:
        app.close()
