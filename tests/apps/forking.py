"""A process that opens a world of its own and then forks, as a prefork worker does."""

import os
import sys

from celery import Celery
from sqlalchemy import text

from b24sync.host import Host
from b24sync.settings import Settings

SESSION = text("SELECT pg_backend_pid()")


def session_of(host: Host) -> int:
    """The database's own number of the session that this process uses."""
    with host.world().engine.connect() as connection:
        return int(connection.execute(SESSION).scalar_one())


def main(database_url: str) -> None:
    """Print the sessions of the parent, of two children, and of the parent once they have ended."""
    host = Host(Celery("forking"), Settings(database_url=database_url))
    sys.stdout.write(f"parent {session_of(host)}\n")
    sys.stdout.flush()
    for name in ("first", "second"):
        child = os.fork()
        if child == 0:
            sys.stdout.write(f"{name} {session_of(host)}\n")
            host.close()
            sys.exit(0)
        os.waitpid(child, 0)
    sys.stdout.write(f"parent {session_of(host)}\n")
    host.close()


if __name__ == "__main__":
    main(sys.argv[1])
