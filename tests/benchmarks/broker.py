"""How fast the embedded broker passes messages: `python tests/benchmarks/broker.py`, under ten seconds."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty
from time import perf_counter

from kombu import Connection, Consumer, Queue
from kombu.message import Message

from b24sync.broker import register

MESSAGES = 5_000
BODY = "x" * 500


def enqueue(connection: Connection) -> None:
    """Publish all messages, each in a transaction of its own."""
    with connection.Producer() as producer:
        for _ in range(MESSAGES):
            producer.publish(BODY, routing_key="benchmark", retry=False)


def drain(connection: Connection) -> None:
    """Claim and acknowledge all messages, one at a time."""
    left = MESSAGES

    def settle(message: Message) -> None:
        nonlocal left
        message.ack()
        left -= 1

    with Consumer(connection, [Queue("benchmark")], on_message=settle, prefetch_count=4):
        while left:
            connection.drain_events(timeout=5)


def poll(connection: Connection) -> None:
    """Look into an empty queue as many times."""
    with connection.SimpleQueue("benchmark") as queue:
        for _ in range(MESSAGES):
            with suppress(Empty):
                queue.get_nowait()


def main() -> None:
    """Print a table of operations per second."""
    register()
    steps: tuple[Callable[[Connection], None], ...] = (enqueue, drain, poll)
    with (
        tempfile.TemporaryDirectory() as home,
        Connection(f"b24sqlite:///{Path(home)}/broker.db") as connection,
    ):
        connection.connect()
        for step in steps:
            began = perf_counter()
            step(connection)
            sys.stdout.write(f"{step.__name__:>8} {MESSAGES / (perf_counter() - began):>8.0f} /s\n")


if __name__ == "__main__":
    main()
