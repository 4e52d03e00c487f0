"""A small Celery application on the embedded broker, run by the workers and producers of `test_broker.py`."""

import os
import sys
import threading
from pathlib import Path

from celery import Celery

from b24sync.broker import register

HERE = Path(os.environ["BROKER_APP_DIR"])

register()
app = Celery("broker_app", broker=f"b24sqlite:///{HERE}/broker.db")
app.conf.update(
    broker_transport_options={"polling_interval": float(os.environ.get("BROKER_APP_POLL", "0.1"))},
    task_ignore_result=True,
)
if "BROKER_APP_TICK" in os.environ:
    app.conf.beat_schedule = {
        "tick": {
            "task": "broker_app.note",
            "schedule": 0.3,
            "args": (f"tick of {os.environ['BROKER_APP_TICK']}",),
        }
    }


@app.task(name="broker_app.note")
def note(line: str) -> None:
    """Append one line to the record of what ran."""
    with (HERE / "ran.log").open("a", encoding="utf-8") as record:
        record.write(f"{line}\n")


@app.task(name="broker_app.hold", acks_late=True)
def hold(line: str) -> None:
    """Record that it began and in which worker, then wait to be let go, then record the end."""
    note(f"began {line} in {os.environ['BROKER_APP_NAME']}")
    while not (HERE / "let-go").exists():
        threading.Event().wait(0.02)
    note(f"ended {line}")


def publish(prefix: str, count: int) -> None:
    """Send numbered notes, telling on standard output how many are certainly sent."""
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for number in range(count):
            note.apply_async((f"{prefix}{number}",), producer=producer)
            sys.stdout.write(f"{number + 1}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    publish(sys.argv[1], int(sys.argv[2]))
