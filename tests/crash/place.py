"""A place to crash in: a portal in a process of its own, a database, and what both hold afterwards.

The account is made from the two sides alone, never from what a worker says of itself: the rows and
results in the tables, and the records and commands on the portal.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import requests
from sqlalchemy import Connection, Engine, func, select, update

from b24sync.edge import portals
from b24sync.edge.database import insert_many, reading, transact, writing
from b24sync.edge.portals import Address, Limits
from b24sync.edge.tables import batch, lane, link, outbox, portal, result
from b24sync.edge.tokens import Keyring, key_id, new_key, parse_webhook
from tests.crash.nursery import KILLED, Nursery
from tests.whole.stage import wait_until

KEY = new_key()
SERVER_MAX_S = 1
QUIET_MARGIN_S = 1.0
HASTY: Mapping[str, object] = {
    "secret_key": [KEY],
    "lease_s": 0.3,
    "connect_timeout_s": 1.0,
    "request_timeout_s": 0.8,
    "quiet_margin_s": QUIET_MARGIN_S,
    "retry_base_s": 0.1,
    "retry_cap_s": 1.0,
}
"""Settings with which a lease, a request and a quiet period are over within two seconds."""

RATE = 100_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of the rows of a run.

    ``unended`` have no final result, ``ended_twice`` more than one, ``otherwise`` one that is not
    ``applied``. ``lost`` are applied and not on the portal; ``doubled`` are there more than once,
    ``copies`` more times than once. ``looked_up``: rows that were in doubt.
    """

    rows: int
    unended: int
    ended_twice: int
    otherwise: Mapping[str, int]
    lost: int
    doubled: int
    copies: int
    looked_up: int
    left: Mapping[str, int]
    wrong_links: int

    def say(self, title: str, **figures: object) -> None:
        """Print the figures, as the README has them."""
        told = {"adds": self.rows, **figures, "duplicates": self.doubled, "lost": self.lost}
        told |= {"settled by look-up": self.looked_up}
        sys.stdout.write(f"{title}: {', '.join(f'{n} {v}' for n, v in told.items())}\n")

    def assert_clean(self) -> None:
        """Each row ended once, was applied, and is on the portal once under the id of its link."""
        clean = Account(
            rows=self.rows,
            unended=0,
            ended_twice=0,
            otherwise={},
            lost=0,
            doubled=0,
            copies=0,
            looked_up=self.looked_up,
            left={},
            wrong_links=0,
        )
        assert self == clean, str(self)


@dataclass(slots=True, kw_only=True)
class Place:
    """One portal, one database, and workers."""

    engine: Engine
    webhook_url: str = field(repr=False)
    nursery: Nursery
    server_max_s: int = SERVER_MAX_S
    quiet_margin_s: float = QUIET_MARGIN_S
    rows: int = 0

    def portal(self, code: str, *, webhook_url: str | None = None) -> None:
        """Make a portal known; ``webhook_url`` is another address than that of the sandbox."""
        limits = Limits(rate_x=RATE, rate_y=RATE, server_max_s=self.server_max_s)
        with writing(self.engine) as connection:
            portals.add(connection, code, _address(webhook_url or self.webhook_url), limits)

    def correct(self, code: str) -> None:
        """A person gives a portal its right address and resumes it."""
        with writing(self.engine) as connection:
            portals.replace(connection, code, _address(self.webhook_url))
            active = {"state": "active", "state_reason": None}
            connection.execute(update(portal).where(portal.c.code == code).values(**active))

    def forget_secret(self, code: str) -> None:
        """The credential of a portal is gone."""
        with writing(self.engine) as connection:
            nothing = {"secret": None, "secret_key_id": None}
            connection.execute(update(portal).where(portal.c.code == code).values(**nothing))

    def add(self, code: str, count: int) -> None:
        """Enqueue records that would be made twice if a request were repeated blindly."""
        rows = [
            {
                "portal": code,
                "kind": "company",
                "entity_key": f"{code}-{number}",
                "operation": "add",
                "fields": {"title": f"Имя {number}"},
            }
            for number in range(count)
        ]
        with writing(self.engine) as connection:
            for start in range(0, count, 1000):
                insert_many(connection, outbox, rows[start : start + 1000])
        self.rows += count

    def die(self, points: Mapping[str, tuple[str, str, int]], *, at_once: int = 6) -> None:
        """For each of these portals a worker works that dies at a point: step, moment, which time."""
        left = list(points.items())
        while left:
            some, left = left[:at_once], left[at_once:]
            born = {
                code: self.nursery.start(portal=code, step=step, moment=moment, nth=nth, once=True)
                for code, (step, moment, nth) in some
            }
            for code, pid in born.items():
                ended = self.nursery.ended(pid)
                assert ended == KILLED, f"{code} {points[code]}: {ended}\n{self.report()}"

    def trouble(self, faults: Iterable[Mapping[str, object]]) -> None:
        """Tell the sandbox what is to go wrong."""
        answer = requests.post(self._control("faults"), json=list(faults), timeout=30)
        answer.raise_for_status()

    def number(self) -> int:
        """How many rows are unfinished."""
        with reading(self.engine) as connection:
            return connection.execute(select(func.count()).select_from(outbox)).scalar_one()

    def hurry(self) -> None:
        """What was put off because a look told nothing is looked for again now.

        The quiet period itself is never shortened.
        """
        quiet_ms = self.server_max_s * 1000 + int(self.quiet_margin_s * 1000)
        over = batch.c.sending_at + quiet_ms
        is_put_off = (batch.c.state == "doubt", batch.c.quiet_until > over)
        with reading(self.engine) as connection:
            late = connection.execute(select(batch.c.id).where(*is_put_off)).scalars().all()

        def pull(connection: Connection, number: int) -> None:
            connection.execute(
                update(batch).where(batch.c.id == number, *is_put_off).values(quiet_until=over)
            )

        for number in late:
            transact(self.engine, partial(pull, number=number))

    def finish(self, *, workers: int = 2, within_s: float = 30.0) -> None:
        """Others work until nothing is left, and go as they are told to."""
        born = [self.nursery.start() for _ in range(workers)]
        self.wait_empty(within_s=within_s)
        self.stop(born)

    def stop(self, born: Iterable[int]) -> None:
        """Tell workers to stop, and see that they do so in good order."""
        for pid in born:
            self.nursery.tell(pid)
        for pid in born:
            code = self.nursery.ended(pid)
            assert code == 0, f"{pid} ended with {code}\n{self.report()}"

    def wait_empty(self, *, within_s: float) -> None:
        """Wait until the outbox is empty."""

        def is_over() -> bool:
            self.hurry()
            return self.number() == 0

        wait_until(is_over, within_s=within_s, what=self.report)

    def account(self) -> Account:
        """Compare both sides."""
        records = self.records()
        made = Counter(str(record["originId"]) for record in records.values())
        with reading(self.engine) as connection:
            ends = connection.execute(
                select(result.c.entity_key, result.c.outcome, func.count())
                .where(result.c.final)
                .group_by(result.c.entity_key, result.c.outcome)
            ).all()
            doubted = connection.execute(
                select(func.count(func.distinct(result.c.outbox_id))).where(
                    result.c.outcome == "unknown"
                )
            ).scalar_one()
            states = connection.execute(
                select(outbox.c.state, func.count()).group_by(outbox.c.state)
            ).all()
            links = connection.execute(select(link.c.entity_key, link.c.remote_id)).all()
        ended: Counter[str] = Counter()
        for key, _, count in ends:
            ended[key] += count
        applied = {key for key, outcome, _ in ends if outcome == "applied"}
        right = {(str(r["originId"]).partition(":")[2], str(r["id"])) for r in records.values()}
        return Account(
            rows=self.rows,
            unended=self.rows - len(ended),
            ended_twice=sum(count > 1 for count in ended.values()),
            otherwise=Counter(outcome for _, outcome, _ in ends if outcome != "applied"),
            lost=sum(f"company:{key}" not in made for key in applied),
            doubled=sum(count > 1 for count in made.values()),
            copies=sum(count - 1 for count in made.values()),
            looked_up=doubted,
            left={row[0]: row[1] for row in states},
            wrong_links=sum((key, remote_id) not in right for key, remote_id in links),
        )

    def records(self) -> dict[str, dict[str, Any]]:
        """The companies on the portal, by id."""
        answer = requests.get(self._control("records/company"), timeout=60)
        answer.raise_for_status()
        found: dict[str, dict[str, Any]] = answer.json()["records"]
        return found

    def requests(self) -> list[dict[str, Any]]:
        """The requests that the portal received."""
        answer = requests.get(self._control("requests"), timeout=60)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["requests"]
        return found

    def assert_lanes_free(self) -> None:
        """Nobody holds a lane, and no batch is open."""
        with reading(self.engine) as connection:
            held = select(lane.c.portal).where(
                lane.c.open_batch_id.is_not(None) | lane.c.lease_until.is_not(None)
            )
            assert connection.execute(held).all() == []
            still = select(batch.c.id, batch.c.state).where(batch.c.closed_at.is_(None))
            assert connection.execute(still).all() == []

    def report(self) -> str:
        """What a failing test shows."""
        with reading(self.engine) as connection:
            left = select(outbox.c.portal, outbox.c.state, outbox.c.state_reason, func.count())
            rows = connection.execute(
                left.group_by(outbox.c.portal, outbox.c.state, outbox.c.state_reason)
            ).all()
            lanes = connection.execute(select(lane)).mappings().all()
        shown = json.dumps([dict(row) for row in lanes], default=str)
        return f"{rows}\n{shown[:3000]}\n{self.nursery.said[-4000:]}"

    def _control(self, part: str) -> str:
        return f"{self.webhook_url.partition('/rest/')[0]}/sandbox/{part}"


def _address(webhook_url: str) -> Address:
    webhook = parse_webhook(webhook_url)
    return Address(
        base_url=webhook.base_url,
        secret=Keyring.from_keys((KEY,)).encrypt(webhook.path),
        secret_key_id=key_id(KEY),
    )
