"""Random histories of changes, and what each must lead to when it is applied alone, in order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Any

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from b24sync.core.model import Ref
from b24sync.core.refs import stored
from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.crm_classic import records_named
from b24sync.sandbox.faults import Fault, FaultAction
from b24sync.sandbox.portal import Portal
from b24sync.sandbox.wire import Ending, HttpRequest

Fields = dict[str, Any]
Entity = tuple[str, str]

SEQUENCE = "sourceDescription"
"""The field in which each change leaves its number, so that the journal shows the order."""

BAD = "ufCrmRefused"
"""A field of this name, with a number behind it, is refused by the portal."""

TYPE_IDS = {"deal": 2, "contact": 3, "company": 4}
PLAIN = ("title", "comments", "opened")
PHONES = ("+7 900 1", "+7 900 2", "+7 900 3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of a history."""

    number: int
    entity: Entity
    operation: str
    fields: Fields = field(default_factory=dict[str, Any])
    mergeable: bool = True

    @property
    def bad_fields(self) -> list[str]:
        """The fields that the portal refuses."""
        return [name for name in self.fields if name.startswith(BAD)]

    @property
    def row(self) -> Fields:
        """The columns of its outbox row."""
        kind, key = self.entity
        return {
            "kind": kind,
            "entity_key": key,
            "operation": self.operation,
            "fields": self.fields or None,
            "mergeable": self.mergeable,
        }


def steps(random: Random) -> list[Step]:
    """A history of changes on a few entities; companies are made once and refer to nobody."""
    parents = [("company", f"a{number}") for number in range(random.randint(1, 3))]
    others = [
        (kind, f"{kind[0]}{number}")
        for kind in ("contact", "deal")
        for number in range(random.randint(1, 3))
    ]
    length = random.randint(5, 40)
    written: list[tuple[Entity, str]] = [(entity, "add") for entity in parents]
    written += [
        (random.choice([*parents, *others]), random.choice(OPERATIONS)) for _ in range(length)
    ]
    # A company's add may come late, so that others wait for it; it is never a second one.
    random.shuffle(written)
    made: set[Entity] = set()
    history: list[Step] = []
    for number, (entity, operation) in enumerate(written, start=1):
        sort = operation
        if entity in parents:
            sort = "add" if operation == "add" and entity not in made else "upsert"
            made.add(entity)
        history.append(_step(random, number, entity, sort, parents))
    return history


OPERATIONS = ("add", "update", "update", "update", "upsert", "upsert", "delete")


def _step(
    random: Random, number: int, entity: Entity, operation: str, parents: list[Entity]
) -> Step:
    if operation == "delete":
        return Step(number=number, entity=entity, operation=operation)
    fields: Fields = {
        name: f"{name} {random.randint(1, 3)}"
        for name in random.sample(PLAIN, random.randint(1, 3))
    }
    # Without its number a change may say just what the one before it said.
    if operation == "add" or random.random() < 0.7:
        fields[SEQUENCE] = f"{number}"
    if entity[0] == "contact" and random.random() < 0.4:
        fields["fm"] = {"PHONE": random.sample(PHONES, random.randint(0, 3))}
    if entity not in parents and random.random() < 0.3:
        kind, key = random.choice(parents)
        fields["companyId"] = stored(Ref(kind, key))
    if entity not in parents and random.random() < 0.08:
        fields[f"{BAD}{number}"] = "refused"
    return Step(
        number=number,
        entity=entity,
        operation=operation,
        fields=fields,
        mergeable=random.random() > 0.1,
    )


@dataclass(slots=True)
class Oracle:
    """What a portal holds when each change is applied alone, in the order of its entity."""

    records: dict[Entity, Fields] = field(default_factory=dict[Entity, Fields])
    failed: set[int] = field(default_factory=set[int])

    def apply(self, step: Step) -> None:
        """One change alone."""
        record = self.records.get(step.entity)
        operation = step.operation
        if operation == "upsert":
            operation = "add" if record is None else "update"
        is_refused = (operation == "add") != (record is None)
        if is_refused or step.bad_fields:
            self.failed.add(step.number)
        elif operation == "delete":
            del self.records[step.entity]
        else:
            fields = {name: value for name, value in step.fields.items() if name != "fm"}
            phones = step.fields.get("fm")
            former = dict(record or {})
            if phones is not None:
                former["phones"] = sorted(phones["PHONE"])
            self.records[step.entity] = former | fields


SORTS_OF_TROUBLE = (
    "refused",
    "busy",
    "slow method",
    "passing",
    "lost before",
    "lost after",
    "lost after",
)


class EmulatedPortal(BaseAdapter):
    """The sandbox as a transport, without a socket; and what may happen on the way to it."""

    def __init__(self, random: Random, history: Sequence[Step], *, trouble: float) -> None:
        """``trouble`` is the share of requests that go wrong, half of them so that nobody knows how."""
        super().__init__()
        self.portal = Portal(SandboxConfig())
        for step in history:
            for name in step.bad_fields:
                self.portal.faults.add(
                    Fault(
                        action=FaultAction.COMMAND,
                        times=None,
                        field=name,
                        code="INVALID_ARG_VALUE",
                    )
                )
        self._random = random
        self._trouble = trouble

    def send(  # type: ignore[override] # the options are requests' own and mean nothing here
        self, request: requests.PreparedRequest, **_options: object
    ) -> requests.Response:
        """Answer, or be in trouble."""
        is_lost = False
        if self._random.random() < self._trouble:
            is_lost = self._get_into_trouble()
        body = request.body or b""
        reply = self.portal.handle(
            HttpRequest(
                verb="POST",
                path="/" + (request.url or "").split("/", maxsplit=3)[-1],
                query="",
                content_type=str(request.headers.get("Content-Type", "")),
                body=body if isinstance(body, bytes) else body.encode(),
            )
        )
        if is_lost or reply.ending is not Ending.KEEP:
            raise requests.ConnectionError
        return _response(request, reply.status, reply.body)

    def close(self) -> None:
        """Nothing is open."""

    def _get_into_trouble(self) -> bool:
        """Whether the answer is lost although the portal has done its work."""
        sort = self._random.choice(SORTS_OF_TROUBLE)
        faults = self.portal.faults
        if sort == "refused":
            raise requests.ConnectTimeout
        if sort == "lost before":
            raise requests.ReadTimeout
        if sort == "lost after":
            return True
        if sort == "busy":
            faults.add(Fault(action=FaultAction.ERROR, code="QUERY_LIMIT_EXCEEDED"))
        elif sort == "slow method":
            method = self._random.choice(("crm.item.add", "crm.item.update", "crm.item.delete"))
            faults.add(
                Fault(action=FaultAction.COMMAND, method=method, code="OPERATION_TIME_LIMIT")
            )
        else:
            method = self._random.choice(("crm.item.update", "crm.item.delete"))
            faults.add(
                Fault(action=FaultAction.COMMAND, method=method, code="INTERNAL_SERVER_ERROR")
            )
        return False


def _response(request: requests.PreparedRequest, status: int, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.url = request.url or ""
    response.request = request
    response.raw = HTTPResponse(body=BytesIO(body), status=status, preload_content=False)
    return response


def records_of(portal: Portal) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Kind, id and record of everything that the portal holds."""
    for kind, type_id in TYPE_IDS.items():
        for number, record in records_named(portal.executor.store, f"item:{type_id}").items():
            yield kind, number, record
