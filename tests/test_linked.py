"""Thousands of records that refer to each other, written in any order, arrive linked as written.

The least possible number of requests: every record is one command, a request carries fifty, and an
order exists in which nothing waits (all companies, then all contacts, then all deals). So it is the
number of records divided by fifty, rounded up, whatever is known of who refers to whom.
"""

import math
from random import Random

import pytest
from sqlalchemy import Engine

from b24sync.core.model import HaltMode, Ref
from b24sync.core.refs import stored
from b24sync.drain import Order, Tally, drain
from b24sync.edge import tables
from b24sync.edge.database import writing
from tests.histories import EmulatedPortal, records_of
from tests.house import add_portal, add_row, endings, rows_of, world_of

SANDBOX = "https://portal.example/rest/1/sandbox-secret/"


def _write(engine: Engine, random: Random, companies: int) -> dict[tuple[str, str], list[Ref]]:
    """Companies, three times as many contacts and deals; to whom each refers, by entity."""
    refers: dict[tuple[str, str], list[Ref]] = {}
    for number in range(companies):
        refers["company", f"a{number}"] = []
    for number in range(3 * companies):
        refers["contact", f"c{number}"] = [Ref("company", f"a{random.randrange(companies)}")]
        refers["deal", f"d{number}"] = [
            Ref("company", f"a{random.randrange(companies)}"),
            Ref("contact", f"c{random.randrange(3 * companies)}"),
        ]
    entities = list(refers)
    random.shuffle(entities)
    with writing(engine) as connection:
        for kind, key in entities:
            fields: dict[str, object] = {"title": key}
            fields |= {f"{ref.kind}Id": stored(ref) for ref in refers[kind, key]}
            add_row(connection, key, kind=kind, fields=fields, operation="add")
    return refers


def _drained(engine: Engine, portal: EmulatedPortal, mode: HaltMode) -> Tally:
    world = world_of(engine, portal, webhook_url=SANDBOX, slice_batches=1000, slice_s=600)
    total = Tally()
    while rows_of(engine, tables.outbox):
        done = drain(world, Order(halt=mode))
        assert done.requests > 0, "rows are left and nothing is sent"
        total += done
    return total


@pytest.mark.parametrize("mode", [HaltMode.INDEPENDENT, HaltMode.CHAIN])
def test_seventy_entities_arrive_linked(engine: Engine, mode: HaltMode) -> None:
    """Ten companies and sixty records that refer to them and to each other."""
    _check(engine, mode, companies=10, more=1)


@pytest.mark.timeout(600)
def test_seven_thousand_entities_arrive_linked_in_few_requests(engine: Engine) -> None:
    """A thousand companies, three thousand contacts and as many deals."""
    _check(engine, HaltMode.INDEPENDENT, companies=1000, more=0)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_seven_thousand_entities_arrive_linked_in_chains(engine: Engine) -> None:
    """The same, where a new record's id may be taken within its batch."""
    _check(engine, HaltMode.CHAIN, companies=1000, more=0)


def _check(engine: Engine, mode: HaltMode, *, companies: int, more: int) -> None:
    """Every link right, nothing before its parent, and at most a tenth more requests than least."""
    random = Random(companies)  # noqa: S311 - a history that can be repeated, not a secret
    portal = EmulatedPortal(random, [], trouble=0.0)
    add_portal(engine, rate_x=1e9)
    refers = _write(engine, random, companies)

    total = _drained(engine, portal, mode)

    least = math.ceil(len(refers) / 50)
    requests = portal.portal.journal.requests
    assert len(requests) == total.requests
    assert len(requests) <= least * 1.1 + more, f"{len(requests)} requests, {least} were enough"
    assert len(endings(engine)) == len(refers)
    assert set(total.outcomes) == {"applied"}
    assert all(command.ok for command in portal.portal.journal.commands)
    _check_links(engine, portal, refers)


def _check_links(
    engine: Engine, portal: EmulatedPortal, refers: dict[tuple[str, str], list[Ref]]
) -> None:
    ids = {
        (link["kind"], link["entity_key"]): link["remote_id"]
        for link in rows_of(engine, tables.link)
    }
    held = {(kind, f"{number}"): record for kind, number, record in records_of(portal.portal)}
    assert len(held) == len(refers) == len(ids)
    for entity, targets in refers.items():
        record = held[entity[0], ids[entity]]
        assert record["title"] == entity[1]
        for ref in targets:
            # Nothing was sent before its parent, or the text of a reference would stand here.
            assert f"{record[f'{ref.kind}Id']}" == ids[ref.kind, ref.key]
