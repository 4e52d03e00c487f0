"""Workers that stand still for longer than they may, and go on as if nothing had been.

A worker stops itself with SIGSTOP at a point; others find its lane free, deal with what it left,
and finish; then it is told to go on.
"""

import signal
from pathlib import Path
from threading import Event

import pytest

from b24sync.edge import tables
from tests.crash.place import Place
from tests.house import rows_of
from tests.whole.stage import wait_until

ROWS = 2
LEASE_S = 0.3 + 0.8


@pytest.fixture
def yard(place: Place) -> Place:
    """A place with one portal and two rows."""
    place.portal("p")
    place.add("p", ROWS)
    return place


def _freeze(place: Place, step: str, moment: str, portal: str = "p") -> int:
    """A worker that stands still at a point; its process id."""
    pid = place.nursery.start(
        portal=portal, step=step, moment=moment, by=int(signal.SIGSTOP), once=True
    )
    wait_until(lambda: _stands(pid), within_s=10, what=place.report)
    assert place.nursery.reached[-1] == f"{step} {moment} 1"
    return pid


def _stands(pid: int) -> bool:
    """Whether a process is stopped, as the system says."""
    said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return said.rpartition(")")[2].split()[0] == "T"


def _go_on(place: Place, pid: int) -> None:
    """Tell it to go on, and see that it ends as if nothing had been."""
    place.nursery.tell(pid, signal.SIGCONT)
    assert place.nursery.ended(pid) == 0, place.report()


def _asked(place: Place) -> int:
    """How many requests have written."""
    return sum(asked["method"] == "batch" for asked in place.requests())


def test_workers_frozen_before_the_go_send_nothing_when_they_go_on(place: Place) -> None:
    """Frozen between the journal and the go: its compare-and-set fails, others did its work."""
    points = {"a": ("take", "after"), "b": ("claim", "after"), "c": ("go", "before")}
    for code in points:
        place.portal(code)
        place.add(code, ROWS)
    frozen = [_freeze(place, *point, portal=code) for code, point in points.items()]
    place.finish(workers=1)

    for pid in frozen:
        _go_on(place, pid)

    place.account().assert_clean()
    assert _asked(place) == len(points)
    place.assert_lanes_free()


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
def test_a_worker_frozen_inside_its_claim_keeps_the_lane_until_it_goes_on(yard: Place) -> None:
    """Its transaction holds the lane, so nobody else has it, however long ago its lease ran out."""
    pid = _freeze(yard, "claim", "within")
    others = [yard.nursery.start() for _ in range(2)]
    Event().wait(LEASE_S)
    left = _states(yard)

    _go_on(yard, pid)
    yard.wait_empty(within_s=20)
    yard.stop(others)

    assert left == ["ready"] * ROWS
    yard.account().assert_clean()
    assert _asked(yard) == 1


def test_a_worker_frozen_with_the_answer_in_its_hand_is_believed_while_there_is_doubt(
    yard: Place,
) -> None:
    """Lease ran out while in flight, the answer then comes to the old owner: the doubt is over."""
    pid = _freeze(yard, "send", "after")
    Event().wait(LEASE_S)
    others = [yard.nursery.start() for _ in range(2)]
    wait_until(lambda: _states(yard) == ["doubt"] * ROWS, within_s=10, what=yard.report)

    _go_on(yard, pid)
    left = _states(yard)
    yard.stop(others)

    assert left == []
    yard.account().assert_clean()
    assert _asked(yard) == 1
    yard.assert_lanes_free()


def test_an_answer_that_comes_after_the_look_up_changes_nothing(yard: Place) -> None:
    """Same, after look-up closed it: what was found is what was made, so nothing is reported."""
    pid = _freeze(yard, "settle", "before")
    yard.finish(workers=2)

    _go_on(yard, pid)

    yard.account().assert_clean()
    (batch,) = rows_of(yard.engine, tables.batch)
    assert (batch["state"], batch["late_at"] is not None) == ("reconciled", True)
    assert rows_of(yard.engine, tables.duplicate) == []
    assert "duplicate_found" not in yard.nursery.said


def test_a_request_that_slept_longer_than_the_quiet_period_makes_a_copy_that_is_reported(
    yard: Place,
) -> None:
    """Frozen between the go and the socket: no client can prevent the copy; it is seen and told."""
    pid = _freeze(yard, "send", "before")
    yard.finish(workers=2)
    first = yard.account()
    _go_on(yard, pid)

    first.assert_clean()
    account = yard.account()
    assert (account.doubled, account.copies, account.lost) == (ROWS, ROWS, 0)
    assert (account.ended_twice, account.wrong_links) == (0, 0)
    made: dict[str, list[str]] = {}
    for record_id, record in yard.records().items():
        made.setdefault(str(record["originId"]).partition(":")[2], []).append(record_id)
    links = {link["entity_key"]: link for link in rows_of(yard.engine, tables.link)}
    copies = {key: set(ids) - {links[key]["remote_id"]} for key, ids in made.items()}
    reported = rows_of(yard.engine, tables.duplicate)
    assert {
        (r["portal"], r["kind"], r["entity_key"], r["kept_id"], r["other_id"], r["found_by"])
        for r in reported
    } == {
        ("p", "company", key, links[key]["remote_id"], other, "late-answer")
        for key, others in copies.items()
        for other in others
    }
    assert {key: set(link["dup_ids"]) for key, link in links.items()} == copies
    assert yard.nursery.said.count("duplicate_found") == ROWS


def _states(place: Place) -> list[str]:
    return [row["state"] for row in rows_of(place.engine, tables.outbox)]
