"""``b24sync sandbox`` and ``b24sync demo``: processes of their own, which leave nothing behind."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

COMMAND = (sys.executable, "-m", "b24sync.cli")
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def started(
    *args: str, folder: Path, environment: Mapping[str, str] = ENVIRONMENT
) -> "subprocess.Popen[str]":
    """The command as a process, in a folder and with an environment of its own."""
    return subprocess.Popen(  # noqa: S603 - constants
        [*COMMAND, *args],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_sandbox_answers_until_it_is_interrupted(tmp_path: Path) -> None:
    """Its address is the first thing on stdout; SIGINT ends it with exit code 0."""
    process = started("sandbox", "--port", "0", "--json", folder=tmp_path)
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["webhook_url"]

    answer = requests.post(f"{address}profile", timeout=10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)

    assert answer.json()["result"]["ID"] == "1"
    assert (process.returncode, err) == (0, "")


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    """Exit code 2 and what to do."""
    first = started("sandbox", "--port", "0", "--json", folder=tmp_path)
    assert first.stdout is not None
    port = json.loads(first.stdout.readline())["webhook_url"].split(":")[2].split("/")[0]

    second = started("sandbox", "--port", port, folder=tmp_path)
    _, err = second.communicate(timeout=20)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)

    assert second.returncode == 2
    assert err.startswith("error: ")
    assert "--port 0" in err


@pytest.mark.timeout(120)
def test_the_demonstration_settles_every_change(tmp_path: Path) -> None:
    """A worker of its own takes all, the planned failures among them, and ends with it."""
    kept = tmp_path / "kept"

    process = started("demo", "--rows", "60", "--keep", str(kept), "--json", folder=tmp_path)
    out, err = process.communicate(timeout=110)

    assert process.returncode == 0, err
    shown = json.loads(out)
    counts = {(entry["kind"], entry["operation"]): entry for entry in shown["outcomes"]}
    assert (shown["written"], shown["left"]) == (60, 0)
    assert counts["contact", "upsert"]["applied"] == 12
    assert counts["deal", "update"]["failed"] == 1
    assert (kept / "b24sync.db").exists()
    assert "Warm shutdown" in (kept / "worker.log").read_text()


def test_an_interrupted_demonstration_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Exit code 1, for changes were left; the worker and the temporary folder are gone."""
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    process = started("demo", folder=tmp_path, environment=environment)
    assert process.stderr is not None
    while "worker" not in process.stderr.readline():
        pass

    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "Interrupted" in out
    assert list(tmp_path.iterdir()) == []


def test_the_demonstration_overwrites_nothing(tmp_path: Path) -> None:
    """A directory with something in it is refused."""
    (tmp_path / "mine.txt").write_text("mine")

    process = started("demo", "--keep", str(tmp_path), folder=tmp_path)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "is not empty" in err
