"""Servers of a test's own, on free ports and in temporary directories, that may be killed.

They run as the user that the system has for them, if the tests run as root; else as the tests do.
A server whose programs are not there skips its test and says which were looked for.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import amqp
import kombu
import kombu.exceptions
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from b24sync.edge.database import make_engine
from tests.whole.stage import wait_until

PORTS = range(21_000, 32_000)
"""Ports that no connection is given by itself, as Erlang will not share one with it."""


LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


@dataclass(slots=True, kw_only=True)
class Server:
    """One server: how it is started, how it is reached, and its process while it runs."""

    home: Path
    url: str
    command: Sequence[str]
    user: str | None
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    is_ready: Callable[[str], bool] = field(repr=False)
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it answers; again, if what was killed before is still ending."""
        self._run()

        def answers() -> bool:
            if self.process is not None and self.process.poll() is not None:
                self._run()
            return self.is_ready(self.url)

        wait_until(answers, within_s=60, what=self._said)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal, and wait until it is gone."""
        assert self.process is not None
        if number is signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.process.wait(timeout=30)
        self.process = None

    def _run(self) -> None:
        with (self.home / "server.log").open("ab") as log:
            self.process = _popen(
                self.command, self.home, self.user, self.environment, log.fileno()
            )

    def _said(self) -> str:
        return (self.home / "server.log").read_text(encoding="utf-8", errors="replace")[-3000:]


@contextmanager
def postgresql() -> Iterator[Server]:
    """A PostgreSQL with an empty database."""
    folders = _folders("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
    initdb, server = (_program(name, *folders) for name in ("initdb", "postgres"))
    with _home("postgres") as (home, user):
        made = ["-U", "tests", "--auth=trust", "-E", "UTF8", "--no-sync"]
        _finish([initdb, "-D", str(home / "data"), *made], home, user)
        port = _free_port()
        place = ["-D", str(home / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", str(home)]
        yield from _running(
            Server(
                home=home,
                url=f"postgresql+psycopg://tests@127.0.0.1:{port}/postgres",
                command=[server, *place],
                user=user,
                is_ready=_speaks_sql,
            )
        )


@contextmanager
def mariadb() -> Iterator[Server]:
    """A MariaDB with an empty database."""
    install, server = (_program(name) for name in ("mariadb-install-db", "mariadbd"))
    with _home("mysql") as (home, user):
        data = f"--datadir={home / 'data'}"
        root = "--auth-root-authentication-method=normal"
        _finish([install, "--no-defaults", data, root, "--skip-test-db"], home, user)
        port = _free_port()
        start = home / "start.sql"
        start.write_text("CREATE DATABASE IF NOT EXISTS b24sync;\n", encoding="utf-8")
        start.chmod(0o644)
        options = [
            data,
            f"--socket={home / 'socket'}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={home / 'pid'}",
            f"--init-file={start}",
            "--skip-name-resolve",
        ]
        yield from _running(
            Server(
                home=home,
                url=f"mysql+pymysql://root@127.0.0.1:{port}/b24sync",
                command=[server, "--no-defaults", *options],
                user=user,
                is_ready=_speaks_sql,
            )
        )


@contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis that keeps nothing: whatever it held when it was killed is lost."""
    server = _program("redis-server")
    with _home("redis") as (home, user):
        port = _free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
        yield from _running(
            Server(
                home=home,
                url=f"redis://127.0.0.1:{port}/0",
                command=[server, *options],
                user=user,
                is_ready=_speaks_redis,
            )
        )


@contextmanager
def rabbitmq() -> Iterator[Server]:
    """A RabbitMQ node beside any other one."""
    # Of the packages the wrapper in the path knows one node only.
    server = _program("rabbitmq-server", *_folders("/usr/lib/rabbitmq/lib/*/sbin"), "/usr/sbin")
    with _home("rabbitmq") as (home, user):
        port, other = _free_port(), _free_port()
        plugins, config = home / "plugins", home / "rabbitmq.conf"
        for file, content in ((plugins, "[].\n"), (config, "")):
            file.write_text(content, encoding="utf-8")
            file.chmod(0o644)
        yield from _running(
            Server(
                home=home,
                url=f"amqp://guest:guest@127.0.0.1:{port}//",
                command=[server],
                user=user,
                environment={
                    "HOME": str(home),
                    "RABBITMQ_NODENAME": f"b24sync_{port}@localhost",
                    "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                    "RABBITMQ_NODE_PORT": str(port),
                    "RABBITMQ_DIST_PORT": str(other),
                    "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
                    "RABBITMQ_LOG_BASE": str(home / "log"),
                    "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
                    "RABBITMQ_CONFIG_FILE": str(config),
                    "RABBITMQ_CONF_ENV_FILE": str(config),
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LOOPBACK,
                    "RABBITMQ_PID_FILE": str(home / "pid"),
                },
                is_ready=_speaks_amqp,
            )
        )


SERVERS = {
    "postgresql": postgresql,
    "mariadb": mariadb,
    "redis": redis_server,
    "rabbitmq": rabbitmq,
}


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.end(signal.SIGKILL)


def _program(name: str, *folders: str) -> str:
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"there is no {name} in {path}")
    return found


@contextmanager
def _home(name: str) -> Iterator[tuple[Path, str | None]]:
    """A directory that belongs to the user whom such a server runs as."""
    user = name if os.geteuid() == 0 and _is_user(name) else None
    with tempfile.TemporaryDirectory(prefix=f"b24sync-{name}-", ignore_cleanup_errors=True) as path:
        home = Path(path)
        home.chmod(0o755)
        if user is not None:
            shutil.chown(home, user, user)
        yield home, user


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _popen(
    command: Sequence[str],
    home: Path,
    user: str | None,
    environment: Mapping[str, str],
    output: int,
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - the arguments are written in this module
        command,
        cwd=home,
        env={**os.environ, **environment},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _finish(command: Sequence[str], home: Path, user: str | None) -> None:
    log = home / "install.log"
    with log.open("wb") as output:
        code = _popen(command, home, user, {}, output.fileno()).wait(timeout=60)
    assert code == 0, log.read_text(encoding="utf-8", errors="replace")[-3000:]


def _folders(*patterns: str) -> list[str]:
    return [str(path) for pattern in patterns for path in Path("/").glob(pattern[1:])]


def _free_port() -> int:
    while True:
        port = secrets.choice(PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def _speaks_sql(url: str) -> bool:
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except DBAPIError:
        return False
    finally:
        engine.dispose()
    return True


def _speaks_redis(url: str) -> bool:
    with redis.Redis.from_url(url, socket_connect_timeout=1) as client:
        try:
            client.ping()
        except redis.RedisError:
            return False
        return True


def _speaks_amqp(url: str) -> bool:
    try:
        with kombu.Connection(url, connect_timeout=1) as connection:
            connection.connect()
    except (OSError, amqp.AMQPError, kombu.exceptions.OperationalError):
        return False
    return True
