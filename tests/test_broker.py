"""The embedded broker, tried with real processes: workers, producers, beats, and the ways in which they die."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any, cast

import pytest
from kombu import Connection, Consumer, Queue
from kombu.transport import TRANSPORT_ALIASES

from b24sync.broker import WORKER_SETTINGS, BrokerFileError, Channel, register

register()

PLAIN = '{"body": "", "headers": {}, "properties": {"delivery_info": {}}}'


def wait_until(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Return as soon as something holds; fail if it does not within the deadline."""
    deadline = monotonic() + within_s
    while not holds():
        assert monotonic() < deadline, f"still not so after {within_s} s"
        threading.Event().wait(0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory in which one Celery application lives, with its broker file and its record of what ran."""

    home: Path

    @property
    def url(self) -> str:
        """The URL of the broker file."""
        return f"b24sqlite:///{self.home}/broker.db"

    def ran(self) -> list[str]:
        """Return the lines that tasks have recorded so far."""
        record = self.home / "ran.log"
        return record.read_text(encoding="utf-8").splitlines() if record.exists() else []

    def rows(
        self, query: str = "SELECT id, queue, owner, refused FROM message"
    ) -> list[tuple[object, ...]]:
        """Return rows of the broker file, read past the broker."""
        with closing(sqlite3.connect(self.home / "broker.db", timeout=5)) as connection:
            return connection.execute(query).fetchall()

    def write(self, statement: str, *values: object) -> None:
        """Change the broker file by hand."""
        with closing(sqlite3.connect(self.home / "broker.db", timeout=5)) as connection, connection:
            connection.execute(statement, values)

    def start(self, name: str, *arguments: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start Python with these arguments, its output going to a log of that name."""
        environment = os.environ | {
            "BROKER_APP_DIR": str(self.home),
            "BROKER_APP_NAME": name,
            "PYTHONPATH": str(Path(__file__).parent),
            **variables,
        }
        with (self.home / f"{name}.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - the arguments are written in this file
                [sys.executable, *arguments],
                cwd=self.home,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextmanager
    def running(
        self, name: str, *arguments: str, **variables: str
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a celery command; whatever is left of its processes at the end is killed."""
        celery = ("-m", "celery", "-A", "broker_app", *arguments)
        process = self.start(name, *celery, **variables)
        try:
            yield process
        finally:
            kill_group(process)

    def log(self, name: str) -> str:
        """Return the output so far of what was started under a name."""
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, *names: str) -> None:
        """Wait until these workers consume."""
        wait_until(lambda: all(f"{name}@here ready." in self.log(name) for name in names))


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all it started, and take leave of it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def worker(name: str, pool: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of a worker."""
    return ("worker", "-P", pool, "-c", "2", "-l", "INFO", "-n", f"{name}@here", *arguments)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty place."""
    return Place(home=tmp_path)


def channel_of(connection: Connection) -> Channel:
    """Open a channel, under its own type."""
    return cast("Channel", connection.channel())


def send(place: Place, task: str, *lines: str, **options: Any) -> None:  # noqa: ANN401 - the options of Celery
    """Send tasks to the application of a place, by name."""
    from celery import Celery  # noqa: PLC0415 - most tests of this file need kombu only

    with Celery("sender", broker=place.url, set_as_current=False) as app:
        for line in lines:
            app.send_task(f"broker_app.{task}", (line,), **options)


# Between processes


def test_several_workers_run_what_two_producers_send_exactly_once(place: Place) -> None:
    """Two prefork workers and one of threads share the work; nothing is lost, doubled or left."""
    expected = Counter(f"{prefix}{number}" for prefix in "ab" for number in range(300))

    with (
        place.running("one", *worker("one", "prefork")),
        place.running("two", *worker("two", "prefork")),
        place.running("three", *worker("three", "threads")),
    ):
        place.wait_ready("one", "two", "three")
        producers = [place.start(f"by-{p}", "-m", "broker_app", p, "300") for p in "ab"]
        codes = [producer.wait(timeout=20) for producer in producers]
        wait_until(lambda: len(place.ran()) >= 600)
        wait_until(lambda: place.rows() == [])

    assert codes == [0, 0]
    assert Counter(place.ran()) == expected
    assert all("succeeded" in place.log(name) for name in ("one", "two", "three"))


def test_processes_may_make_the_file_at_the_same_moment(place: Place) -> None:
    """Eight processes that find no file agree on one, readable by its owner only, and lose no message."""
    script = (
        "import sys, pathlib, threading, kombu, b24sync.broker as broker\n"
        "broker.register()\n"
        "connection = kombu.Connection(sys.argv[1])\n"
        "print('waiting', flush=True)\n"
        "while not pathlib.Path('go').exists(): threading.Event().wait(0.001)\n"
        "queue = connection.SimpleQueue('same')\n"
        "[queue.put(n) for n in range(5)]\n"
        "queue.close(); connection.close()\n"
    )
    processes = [place.start(f"maker{n}", "-c", script, place.url) for n in range(8)]
    wait_until(lambda: all("waiting" in place.log(f"maker{n}") for n in range(8)))

    (place.home / "go").touch()
    codes = [process.wait(timeout=20) for process in processes]

    assert codes == [0] * 8, [place.log(f"maker{n}") for n in range(8)]
    assert place.rows("SELECT queue, count(*) FROM message") == [("same", 40)]
    assert (place.home / "broker.db").stat().st_mode & 0o777 == 0o600


def test_no_file_made_in_step_by_several_processes_is_refused_to_one(place: Place) -> None:
    """SQLite turns away one of two that enter WAL at once, about one time in a hundred; the broker does not."""
    script = (
        "import multiprocessing, sys, kombu, b24sync.broker as broker\n"
        "broker.register()\n"
        "def make(step):\n"
        "    for n in range(300):\n"
        "        with kombu.Connection(f'b24sqlite:///{n}.db') as connection:\n"
        "            step.wait()\n"
        "            connection.transport.establish_connection()\n"
        "step = multiprocessing.get_context('fork').Barrier(4, timeout=10)\n"
        "makers = [multiprocessing.get_context('fork').Process(target=make, args=(step,)) for _ in range(4)]\n"
        "[maker.start() for maker in makers]\n"
        "[maker.join() for maker in makers]\n"
        "sys.exit(any(maker.exitcode for maker in makers))\n"
    )

    process = place.start("makers", "-c", script)

    assert process.wait(timeout=30) == 0, place.log("makers")
    assert len(list(place.home.glob("*.db"))) == 300


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_plain_worker_with_an_embedded_beat_needs_no_flags(place: Place, pool: str) -> None:
    """`celery -A app worker -B` ticks, with either pool, beside a beat that is a process of its own."""
    with (
        place.running("both", *worker("both", pool, "-B"), BROKER_APP_TICK="worker"),
        place.running("beat", "beat", "-s", "other-schedule", BROKER_APP_TICK="beat"),
    ):
        wait_until(lambda: Counter(place.ran())["tick of worker"] >= 3)
        wait_until(lambda: Counter(place.ran())["tick of beat"] >= 3)

    assert "Traceback" not in place.log("both") + place.log("beat")
    assert "ERROR" not in place.log("both") + place.log("beat")


def test_messages_of_a_killed_worker_go_to_another_within_seconds(place: Place) -> None:
    """What a worker held unacknowledged when it was killed outright is run by another worker soon after."""
    began = [f"began {line} in" for line in ("x", "y")]
    with place.running("first", *worker("first", "prefork")) as first:
        send(place, "hold", "x", "y")
        wait_until(lambda: sorted(place.ran()) == [f"{line} first" for line in began])
        with place.running("second", *worker("second", "threads")):
            place.wait_ready("second")

            kill_group(first)
            wait_until(
                lambda: sorted(place.ran()[2:]) == [f"{line} second" for line in began], within_s=8
            )
            (place.home / "let-go").touch()

            wait_until(lambda: place.rows() == [])
    assert sorted(place.ran()[4:]) == ["ended x", "ended y"]


def test_a_producer_killed_while_publishing_leaves_a_usable_file(place: Place) -> None:
    """Every message that a killed producer had finished sending is there, and others go on with the file."""
    producer = place.start("producer", "-m", "broker_app", "p", "1000000")
    wait_until(lambda: place.log("producer").count("\n") > 200)

    kill_group(producer)
    sent = place.log("producer").count("\n")

    assert place.rows("PRAGMA integrity_check") == [("ok",)]
    with Connection(place.url) as connection:
        queue = connection.SimpleQueue("celery")
        assert queue.qsize() in {sent, sent + 1}
        assert queue.get(timeout=1).headers["task"] == "broker_app.note"
        queue.close()


def test_a_prefetched_message_survives_a_termination(place: Place) -> None:
    """A message that a worker has received and not yet acknowledged is ready again once SIGTERM has ended it."""
    with place.running("one", *worker("one", "threads")) as process:
        place.wait_ready("one")
        send(place, "hold", "later", countdown=3600)
        wait_until(lambda: "received" in place.log("one"))
        held = place.rows("SELECT count(*) FROM message WHERE owner IS NOT NULL")

        process.terminate()
        process.wait(timeout=20)

    assert held == [(1,)]
    assert place.rows() == [(1, "celery", None, None)]


def test_a_full_prefetch_window_costs_no_polling_interval(place: Place) -> None:
    """A worker with a window of two and a poll every two seconds drains far more than one message a second."""
    place.start("producer", "-m", "broker_app", "p", "100").wait(timeout=20)
    arguments = worker("one", "threads", "--prefetch-multiplier", "1")

    with place.running("one", *arguments, BROKER_APP_POLL="2"):
        place.wait_ready("one")
        wait_until(lambda: len(place.ran()) == 100, within_s=15)


def test_rows_that_are_no_messages_are_set_aside_and_the_rest_flows(place: Place) -> None:
    """Each unreadable row stays in the table with its reason, is logged once, and stops neither worker nor queue."""
    send(place, "note", "before")
    bad: tuple[object, ...] = (
        b"\xff\xfe",
        "not json",
        "null",
        "[" * 100_000,
        '{"__type__": "decimal", "__value__": "x"}',
        '{"body": "", "headers": {}, "properties": {}}',
        '{"body": "A", "headers": {}, "properties": {"delivery_info": {}, "body_encoding": "base64"}}',
        '{"body": "", "headers": {}, "properties": {"delivery_info": {}, "body_encoding": "rot13"}}',
        '{"body": "", "headers": {"task": []}, "properties": {"delivery_info": {}}}',
        '{"body": "", "headers": {"task": "broker_app.note"}, "properties": {"delivery_info": {}}}',
    )
    for payload in bad:
        place.write("INSERT INTO message (queue, payload) VALUES ('celery', ?)", payload)
    place.write("INSERT INTO message (queue, payload) VALUES ('celery', ?)", PLAIN)
    send(place, "note", "after")
    send(place, "note", "stale", expires=-1)
    send(place, "note", "last")

    with place.running("one", *worker("one", "threads")) as process:
        wait_until(lambda: "last" in place.ran())
        wait_until(lambda: len(place.rows()) == len(bad))
        assert process.poll() is None

    assert sorted(place.ran()) == ["after", "before", "last"]
    refused = place.rows("SELECT id FROM message WHERE refused <> '' AND owner IS NULL ORDER BY id")
    assert refused == [(row,) for row in range(2, 12)]
    assert [place.log("one").count(f"message_refused: {row} in") for row in range(2, 12)] == [
        1
    ] * 10


def test_a_file_deleted_under_a_worker_is_an_error_and_not_silence(place: Place) -> None:
    """The worker names the file it lost, connects again, and works with the new one."""
    with place.running("one", *worker("one", "threads")):
        place.wait_ready("one")

        for part in place.home.glob("broker.db*"):
            part.unlink()
        wait_until(lambda: "was deleted or replaced while in use" in place.log("one"))
        send(place, "note", "afterwards")

        wait_until(lambda: place.ran() == ["afterwards"])
        wait_until(lambda: place.rows() == [])
    assert f"broker file {place.home}/broker.db" in place.log("one")


def test_a_forked_child_leaves_the_parents_connection_and_claims_alone(place: Place) -> None:
    """A child that uses, then closes, the connection it inherited neither spoils it nor returns its claims."""
    script = (
        "import os, sys, kombu, b24sync.broker as broker\n"
        "broker.register()\n"
        "connection = kombu.Connection(sys.argv[1])\n"
        "queue = connection.SimpleQueue('q')\n"
        "queue.put('parents')\n"
        "held = queue.get(timeout=1)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    queue.put('childs')\n"
        "    queue.close(); connection.close()\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "assert queue.get(timeout=1).payload == 'childs'\n"
        "assert queue.qsize() == 0\n"
        "held.ack()\n"
        "queue.close(); connection.close()\n"
    )

    process = place.start("forker", "-c", script, place.url)

    assert process.wait(timeout=20) == 0, place.log("forker")
    assert place.rows("SELECT json_extract(payload, '$.headers') FROM message") == [("{}",)]


# Inside one process


def test_claims_of_owners_that_ended_are_returned_and_of_living_ones_kept(place: Place) -> None:
    """An owner is a channel of a process with its start and boot: a reused process number does not keep a claim."""
    with Connection(place.url) as other, Connection(place.url) as connection:
        other.SimpleQueue("q").put(1)
        other.SimpleQueue("q").get(timeout=1)
        living = str(place.rows()[0][2])
        boot, pid, started, channel = living.split("/")
        gone = (
            f"{boot}/{pid}/{int(started) - 1}/{channel}",
            f"another-boot/{pid}/{started}/{channel}",
            f"{boot}/{2**22 + 1}/{started}/{channel}",
            f"{boot}/{pid}/{started}/{2**30}",
            "nonsense",
        )
        for owner in gone:
            place.write(
                "INSERT INTO message (queue, payload, owner) VALUES ('q', ?, ?)", PLAIN, owner
            )

        assert channel_of(connection).basic_get("elsewhere") is None

        assert place.rows("SELECT owner FROM message WHERE owner IS NOT NULL") == [(living,)]


def test_queues_are_apart_oldest_first_and_can_be_counted_purged_and_deleted(place: Place) -> None:
    """Size counts what is ready, purge removes what is ready, delete removes everything of that queue only."""
    with Connection(place.url) as connection:
        one, two = connection.SimpleQueue("one"), connection.SimpleQueue("two")
        for number in range(4):
            one.put(number)
        two.put("other")

        first, second = one.get(timeout=1), one.get(timeout=1)
        first.requeue()

        assert (first.payload, second.payload, one.qsize()) == (0, 1, 3)
        again = one.get(timeout=1)
        assert (again.payload, again.delivery_info["redelivered"]) == (0, True)
        again.reject()
        assert one.clear() == 2
        assert len(place.rows()) == 2
        channel_of(connection).queue_delete("one")
        assert [queue for _, queue, _, _ in place.rows()] == ["two"]


def test_a_closed_connection_gives_back_what_it_held_and_acknowledges_no_more(place: Place) -> None:
    """After closing, the message is ready again at its old place, and a late acknowledgement does not remove it."""
    with Connection(place.url) as connection:
        queue = connection.SimpleQueue("q")
        queue.put(1)
        held = queue.get(timeout=1)
    held.ack()

    assert place.rows() == [(1, "q", None, None)]


def test_without_acknowledgements_a_delivered_message_is_gone(place: Place) -> None:
    """Consumers and readers that do not acknowledge leave nothing behind."""
    got: list[object] = []
    with Connection(place.url) as connection:
        connection.SimpleQueue("q").put(1)
        connection.SimpleQueue("q").put(2)
        channel = connection.channel()

        with Consumer(
            channel,
            [Queue("q")],
            no_ack=True,
            prefetch_count=1,
            on_message=lambda m: got.append(m.payload),
        ):
            connection.drain_events(timeout=1)
        message = channel_of(connection).basic_get("q", no_ack=True)

    assert message is not None
    assert (got, message.payload, place.rows()) == ([1], 2, [])


def test_threads_share_a_connection(place: Place) -> None:
    """Messages put by several threads through one channel all arrive."""
    with Connection(place.url) as connection:
        channel = channel_of(connection)
        producer = connection.Producer(channel)

        def put() -> None:
            for number in range(50):
                producer.publish(number, routing_key="q", retry=False)

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert channel.queue_declare("q", passive=True).message_count == 200


def test_an_empty_queue_is_empty_at_once(place: Place) -> None:
    """Reading without waiting says so instead of blocking."""
    with Connection(place.url) as connection, pytest.raises(Empty):
        connection.SimpleQueue("q").get_nowait()


def test_a_producer_is_told_when_its_file_is_gone(place: Place) -> None:
    """Publishing into a deleted file fails and names it, although SQLite would let it pass."""
    with Connection(place.url) as connection:
        queue = connection.SimpleQueue("q")
        (place.home / "broker.db").unlink()

        with pytest.raises(
            BrokerFileError, match=f"{place.home}/broker.db: was deleted or replaced"
        ):
            queue.put(1)


def make_nothing(_file: Path) -> None:
    """Leave the directory of the file missing."""


def make_garbage(file: Path) -> None:
    """Write something that is no database."""
    file.parent.mkdir()
    file.write_bytes(b"garbage " * 1000)


def make_directory(file: Path) -> None:
    """Put a directory where the file should be."""
    file.mkdir(parents=True)


def make_database(file: Path) -> None:
    """Put the database of another program there."""
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE message (id)")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(make_nothing, "its directory does not exist; create it", id="no directory"),
        pytest.param(make_garbage, "is damaged or no SQLite file; stop all workers", id="garbage"),
        pytest.param(make_directory, "cannot be opened for writing; check", id="a directory"),
        pytest.param(make_database, "is the database of another program", id="other program"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path, make: Callable[[Path], None], complaint: str
) -> None:
    """The error is a connection error of kombu, so that Celery tries again, and says file, reason and advice."""
    file = tmp_path / "sub" / "broker.db"
    make(file)

    with (
        Connection(f"b24sqlite:///{file}") as connection,
        pytest.raises(connection.connection_errors) as caught,
    ):
        connection.transport.establish_connection()

    assert str(caught.value).startswith(f"broker file {file}: {complaint}")


def test_a_locked_file_is_waited_for_and_then_complained_about(place: Place) -> None:
    """An acknowledgement refused by a lock is an error, and is written as soon as the lock is gone."""
    with Connection(place.url, transport_options={"busy_timeout": 0.05}) as connection:
        queue = connection.SimpleQueue("q")
        queue.put(1)
        message = queue.get(timeout=1)
        with closing(sqlite3.connect(place.home / "broker.db", isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            with pytest.raises(BrokerFileError, match="is kept locked by another program"):
                message.ack()

        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0)

    assert place.rows() == []


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("b24sqlite:////var/lib/x/broker.db", "b24sqlite:////var/lib/x/broker.db"),
        ("b24sqlite:///sub/broker.db", "b24sqlite:///{here}/sub/broker.db"),
        ("b24sqlite:///a%20b.db", "b24sqlite:///{here}/a%20b.db"),
    ],
)
def test_a_url_names_a_file_relative_or_absolute(
    url: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes begin a relative path, four an absolute one; the URL shown is absolute."""
    monkeypatch.chdir(tmp_path)

    assert Connection(url).as_uri() == uri.format(here=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "b24sqlite://",
        "b24sqlite:///",
        "b24sqlite://broker.db",
        "b24sqlite://u:secret@h/x.db",
        "b24sqlite:///x.db?a=1",
    ],
)
def test_a_url_that_is_more_or_less_than_a_file_is_refused(url: str) -> None:
    """The complaint shows the right form and repeats nothing of the wrong one."""
    with pytest.raises(ValueError, match=r"b24sqlite:///relative/path\.db") as caught:
        Connection(url).connect()

    assert "secret" not in str(caught.value)


def test_registering_twice_changes_nothing() -> None:
    """Registration is by name and may be repeated."""
    register()
    register()

    assert TRANSPORT_ALIASES["b24sqlite"] == "b24sync.broker:Transport"


def test_worker_settings_are_settings_of_celery() -> None:
    """Every name is one that Celery knows, so that a typing error cannot go unnoticed."""
    from celery.app.defaults import DEFAULTS  # noqa: PLC0415 - as above

    assert set(WORKER_SETTINGS) <= set(DEFAULTS)
