"""What rows wait for, and why the wait may never end by itself."""

from collections.abc import Mapping

import pytest
from sqlalchemy import Engine, insert

from b24sync.core.model import Operation, Ref
from b24sync.edge import parents, tables
from b24sync.edge.database import reading, writing
from b24sync.edge.parents import LONGEST_CIRCLE
from tests.house import Found, add_batch, add_row, add_rows

ACME = ("company", "acme")


def _add_results(engine: Engine, *results: Mapping[str, object]) -> None:
    """Final results of the company ``acme``, unless told otherwise, as rows 1, 2 and so on."""
    usual: Found = {
        "portal": "default",
        "kind": "company",
        "entity_key": "acme",
        "operation": "upsert",
        "outcome": "applied",
        "final": True,
        "attempt": 1,
        "enqueued_at": 0,
    }
    with writing(engine) as connection:
        for number, own in enumerate(results, start=1):
            connection.execute(insert(tables.result).values(usual | {"outbox_id": number, **own}))


def _lost(engine: Engine, *entities: tuple[str, str]) -> Mapping[tuple[str, str], str]:
    with reading(engine) as connection:
        return parents.lost(connection, "default", entities)


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        pytest.param([], None, id="nothing is known"),
        pytest.param([{}], None, id="applied"),
        pytest.param([{"outcome": "different"}], None, id="applied, and not as it was said"),
        pytest.param(
            [{"outcome": "failed", "error_code": "BAD"}],
            "company acme, whose upsert failed (BAD, row 1)",
            id="failed",
        ),
        pytest.param(
            [{"outcome": "failed", "operation": "add"}],
            "company acme, whose add failed (no code, row 1)",
            id="failed without a code",
        ),
        pytest.param(
            [{"outcome": "expired"}], "company acme, whose upsert was expired (row 1)", id="expired"
        ),
        pytest.param(
            [{"outcome": "cancelled"}],
            "company acme, whose upsert was cancelled (row 1)",
            id="cancelled",
        ),
        pytest.param(
            [{}, {"operation": "delete"}], "company acme, which was deleted (row 2)", id="deleted"
        ),
        pytest.param(
            [
                {"operation": "delete", "outcome": "unchanged"},
                {"outcome": "merged", "merged_into": 1},
            ],
            "company acme, which was deleted (row 1)",
            id="made and deleted, and never sent",
        ),
        pytest.param(
            [{"outcome": "failed"}, {"outcome": "failed", "operation": "update"}],
            "company acme, whose update failed (no code, row 2)",
            id="the last failure counts",
        ),
        pytest.param([{"outcome": "failed"}, {}], None, id="failed and made anew"),
        pytest.param([{"operation": "delete"}, {}], None, id="deleted and made anew"),
        pytest.param(
            [{"outcome": "retried", "final": False}], None, id="a result that is not the end"
        ),
        pytest.param([{"outcome": "failed", "portal": "other"}], None, id="another portal's"),
        pytest.param([{"outcome": "failed", "kind": "deal"}], None, id="another kind's"),
    ],
)
def test_an_entity_is_lost_if_its_last_change_came_to_nothing(
    engine: Engine, results: list[Mapping[str, object]], reason: str | None
) -> None:
    """And the reason names the entity, what was tried, and the row."""
    _add_results(engine, *results)

    lost = _lost(engine, ACME, ("company", "brown"))

    assert lost == ({} if reason is None else {ACME: reason})


@pytest.mark.parametrize("state", ["ready", "parked", "held", "batched", "doubt"])
def test_an_entity_with_a_change_on_its_way_is_not_lost(engine: Engine, state: str) -> None:
    """Wherever that change stands, it may still come to something."""
    _add_results(engine, {"outcome": "failed"})
    with writing(engine) as connection:
        number = add_batch(connection, "doubt" if state == "doubt" else "sending")
        place = {"batch_id": number, "cmd_no": 0} if state in {"batched", "doubt"} else {}
        add_row(connection, "acme", kind="company", state=state, **place)

    assert _lost(engine, ACME) == {}


def test_the_change_of_another_portal_or_kind_saves_nobody(engine: Engine) -> None:
    """Keys are those of one portal and one kind."""
    _add_results(engine, {"outcome": "failed"})
    add_rows(engine, "acme", kind="company", portal="other")
    add_rows(engine, "acme", kind="deal")

    assert list(_lost(engine, ACME)) == [ACME]
    assert _lost(engine) == {}


def test_waits_are_followed_from_one_entity_to_the_next(engine: Engine) -> None:
    """Through held rows that wait for an entity, and no further."""
    add_rows(engine, "a", state="held", waits_for="company b c")
    add_rows(engine, "b c", kind="company", state="held", waits_for="contact d")
    add_rows(engine, "d", state="held")
    add_rows(engine, "e", state="held", waits_for="contact a")
    add_rows(engine, "a", state="held", waits_for="contact z", portal="other")

    with reading(engine) as connection:
        waits = parents.waits(connection, "default", [("contact", "a")])
        nobody = parents.waits(connection, "default", [])

    assert waits == {
        ("contact", "a"): Ref("company", "b c"),
        ("company", "b c"): Ref("contact", "d"),
    }
    assert nobody == {}


def test_a_circle_of_waits_is_followed_once_around(engine: Engine) -> None:
    """It has no end, and the search has."""
    for key, target in (("a", "b"), ("b", "c"), ("c", "a")):
        add_rows(engine, key, state="held", waits_for=f"contact {target}")

    with reading(engine) as connection:
        waits = parents.waits(connection, "default", [("contact", "b")])

    assert waits == {
        ("contact", "a"): Ref("contact", "b"),
        ("contact", "b"): Ref("contact", "c"),
        ("contact", "c"): Ref("contact", "a"),
    }


def test_a_chain_of_waits_is_followed_so_far_and_no_further(sqlite_engine: Engine) -> None:
    """A chain of a thousand must not cost a thousand statements at every claim."""
    with writing(sqlite_engine) as connection:
        for number in range(LONGEST_CIRCLE + 10):
            add_row(connection, f"k{number}", state="held", waits_for=f"contact k{number + 1}")

    with reading(sqlite_engine) as connection:
        waits = parents.waits(connection, "default", [("contact", "k0")])

    assert len(waits) == LONGEST_CIRCLE


def test_the_rows_that_wait_are_those_held_for_another_entity(engine: Engine) -> None:
    """A row that a person holds, and one that stands behind it, wait for something else."""
    (waiting,) = add_rows(engine, "a", state="held", waits_for="company acme", operation="add")
    add_rows(engine, "a", state="parked")
    add_rows(engine, "b", state="held")
    add_rows(engine, "c", state="held", waits_for="company acme")
    add_rows(engine, "a", state="held", waits_for="company acme", portal="other")

    with reading(engine) as connection:
        rows = parents.waiting_rows(connection, "default", [("contact", "a"), ("contact", "b")])
        none = parents.waiting_rows(connection, "default", [])

    assert [(row.id, row.key, row.operation) for row in rows] == [(waiting, "a", Operation.ADD)]
    assert none == ()
