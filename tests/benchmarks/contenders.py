"""What the pipeline is compared with: public clients, plain loops, and the least that can be done.

Each contender sends so many commands to a portal when it is told to, in batches of fifty.
"""

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from sqlalchemy import JSON, BigInteger, String, delete, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from b24sync.core.batching import compose
from b24sync.core.model import Batch, Command, Operation, Row
from b24sync.core.parameters import query_of
from b24sync.core.planning import plan
from b24sync.core.replies import interpret
from b24sync.core.surroundings import Surroundings
from b24sync.edge.database import make_engine
from b24sync.edge.portal import Credential, PortalClient
from tests.benchmarks.portal import Portal

SIZE = 50
METHOD = "crm.item.add"
PLAIN: Mapping[str, str] = {
    "name": "Имя {0}",
    "lastName": "Фамилия {0}",
    "secondName": "Петрович",
    "post": "инженер & ко",
    "comments": "a long remark with spaces, + and % signs, number {0}",
    "sourceId": "WEB",
    "ufCrm_1700000000": "{0}",
}


def fields_of(number: int, count: int) -> dict[str, object]:
    """Plain fields of a contact, as many as asked for."""
    told: dict[str, object] = {
        name: value.format(number) for name, value in list(PLAIN.items())[:count]
    }
    for more in range(len(told), count):
        told[f"ufCrm_18{more:08}"] = f"value {number}"
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to send commands.

    ``inside`` says what is measured. ``prepare`` is told how many commands come next, and is not
    measured; ``work`` sends them. ``share`` of the commands of a round are enough for slow ones.
    """

    name: str
    group: str
    inside: str
    prepare: Callable[[int], None]
    work: Callable[[], None]
    share: float = 1.0


@dataclass(slots=True)
class _Items:
    """The commands of the next round, in batches."""

    fields: int
    batches: list[list[dict[str, object]]]

    def fill(self, commands: int) -> None:
        items: list[dict[str, object]] = [
            {"entityTypeId": 3, "fields": fields_of(number, self.fields)}
            for number in range(commands)
        ]
        self.batches = [items[start : start + SIZE] for start in range(0, commands, SIZE)]


def clients(portal: Portal, fields: int) -> Iterator[Contender]:
    """Our client without a database, public clients, and a loop around requests."""
    yield from _ours(portal, fields)
    yield from _fast(portal, fields)
    yield from _pysdk(portal, fields)
    yield _requests(portal, fields)
    yield _ready(portal, fields)


def _ours(portal: Portal, fields: int) -> Iterator[Contender]:
    items, client = _Items(fields, []), PortalClient()
    credential = Credential(base_url=portal.webhook_url)

    def bare() -> None:
        for batch in items.batches:
            commands = tuple(
                Command(
                    row_ids=(number,),
                    kind="contact",
                    key=str(number),
                    operation=Operation.ADD,
                    method=METHOD,
                    query=query_of(params),
                    id_path=("item", "id"),
                )
                for number, params in enumerate(batch)
            )
            _send(client, credential, compose(commands)[0])

    yield Contender(
        name="b24sync, client alone",
        group="client",
        inside="encode (query_of), compose, PortalClient.send, interpret: one outcome per command",
        prepare=items.fill,
        work=bare,
    )
    rows: list[tuple[Row, ...]] = []

    def fill(commands: int) -> None:
        rows[:] = [
            tuple(_row(number, fields) for number in range(start, min(commands, start + SIZE)))
            for start in range(0, commands, SIZE)
        ]

    def planned() -> None:
        around = Surroundings()
        for batch in rows:
            _send(client, credential, compose(plan(batch, around).commands)[0])

    yield Contender(
        name="b24sync, planning and client",
        group="client",
        inside="the same from outbox rows in memory: plan (references, links, kinds, fingerprints) too",
        prepare=fill,
        work=planned,
    )


def _send(client: PortalClient, credential: Credential, batch: Batch) -> None:
    outcomes = interpret(batch, client.send(credential, batch))
    assert len(outcomes) == len(batch.commands)


def _row(number: int, fields: int) -> Row:
    return Row(
        id=number + 1,
        portal="default",
        lane=0,
        kind="contact",
        key=str(number),
        operation=Operation.ADD,
        fields=fields_of(number, fields),
        params=None,
    )


def _fast(portal: Portal, fields: int) -> Iterator[Contender]:
    try:
        from fast_bitrix24 import BitrixAsync  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return
    items = _Items(fields, [])

    def work() -> None:
        client = BitrixAsync(
            portal.webhook_url,
            verbose=False,
            request_pool_size=10**9,
            requests_per_second=1e9,
            operating_time_limit=10**9,
        )
        everything = [item for batch in items.batches for item in batch]
        found = asyncio.run(client.call(METHOD, everything))
        assert len(found) == len(everything)

    yield Contender(
        name="fast-bitrix24",
        group="client",
        inside="BitrixAsync.call of all commands at once, its limiter set out of reach; up to 50 "
        "connections at a time",
        prepare=items.fill,
        work=work,
    )


def _pysdk(portal: Portal, fields: int) -> Iterator[Contender]:
    try:
        from b24pysdk.api.callers import call  # noqa: PLC0415 - an extra
        from b24pysdk.utils.encoding import encode_params  # noqa: PLC0415
    except ModuleNotFoundError:
        return
    items, url = _Items(fields, []), f"{portal.webhook_url}batch"

    def work() -> None:
        for batch in items.batches:
            cmd = {
                f"c{number}": f"{METHOD}?{encode_params(params)}"
                for number, params in enumerate(batch)
            }
            said: Any = call(url=url, params={"cmd": cmd, "halt": False})
            assert len(said["result"]["result"]) == len(batch)

    yield Contender(
        name="b24pysdk",
        group="client",
        inside="its encoder and its lowest caller, over http (its own classes insist on TLS, which "
        "costs more); a connection for each batch, as it always does",
        prepare=items.fill,
        work=work,
    )


def _requests(portal: Portal, fields: int) -> Contender:
    items, url, session = _Items(fields, []), f"{portal.webhook_url}batch", requests.Session()

    def work() -> None:
        for batch in items.batches:
            answer = session.post(url, data=_form(batch), timeout=60).json()
            assert len(answer["result"]["result"]) == len(batch)

    return Contender(
        name="requests, by hand",
        group="client",
        inside="urlencode of each command, urlencode of the batch, one session; nothing is kept",
        prepare=items.fill,
        work=work,
    )


def _form(batch: Sequence[Mapping[str, object]]) -> bytes:
    told = {"halt": "0"}
    for number, params in enumerate(batch):
        told[f"cmd[c{number}]"] = f"{METHOD}?{urlencode(_flat(params))}"
    return urlencode(told).encode()


def _flat(params: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}[{inner}]": deep for inner, deep in value.items()}
        else:
            flat[name] = value
    return flat


def _ready(portal: Portal, fields: int) -> Contender:
    bodies: list[bytes] = []
    place = urlsplit(portal.url)
    path = f"{urlsplit(portal.webhook_url).path}batch"

    def fill(commands: int) -> None:
        items = _Items(fields, [])
        items.fill(commands)
        bodies[:] = [
            json.dumps(
                {
                    "halt": 0,
                    "cmd": {f"c{n}": f"{METHOD}?{query_of(params)}" for n, params in enumerate(b)},
                }
            ).encode()
            for b in items.batches
        ]

    def work() -> None:
        with closing(http.client.HTTPConnection(place.netloc)) as line:
            for body in bodies:
                line.request("POST", path, body, {"Content-Type": "application/json"})
                assert line.getresponse().read().startswith(b'{"result"')

    return Contender(
        name="floor, ready bodies",
        group="client",
        inside="http.client sends bodies made before, over one connection, and reads bytes",
        prepare=fill,
        work=work,
    )


class Base(DeclarativeBase):
    """Tables of the naive version."""


class Job(Base):
    """One command of the naive version."""

    __tablename__ = "naive_job"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(BigInteger(), "postgresql"), primary_key=True, autoincrement=False
    )
    fields: Mapped[Any] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), default="new", index=True)
    remote_id: Mapped[str | None] = mapped_column(String(64))


def naive(portal: Portal, url: str, name: str, fields: int) -> Iterator[Contender]:
    """A loop as it is often written: objects of the ORM, a commit for each."""
    engine = make_engine(url)
    Base.metadata.create_all(engine)

    def fill(commands: int) -> None:
        with Session(engine) as session, session.begin():
            session.execute(delete(Job))
            session.execute(
                insert(Job),
                [
                    {"id": n, "fields": fields_of(n, fields), "state": "new"}
                    for n in range(commands)
                ],
            )

    def work() -> None:
        with Session(engine) as session:
            new = select(Job).where(Job.state == "new").order_by(Job.id).limit(SIZE)
            while jobs := session.scalars(new).all():
                batch = [{"entityTypeId": 3, "fields": job.fields} for job in jobs]
                url = f"{portal.webhook_url}batch"
                answer = requests.post(url, data=_form(batch), timeout=60).json()
                for number, job in enumerate(jobs):
                    job.remote_id = str(answer["result"]["result"][f"c{number}"]["item"]["id"])
                    job.state = "done"
                    session.commit()

    yield Contender(
        name=f"naive ORM loop on {name}",
        group=name,
        inside="select 50 objects, requests.post with urlencode twice, set and commit each; survives "
        "no crash without duplicates",
        prepare=fill,
        work=work,
        share=0.1,
    )
