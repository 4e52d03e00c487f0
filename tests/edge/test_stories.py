"""What became of changes: results and histories are told whole and in their order."""

from sqlalchemy import Engine, insert

from b24sync.core.model import FINAL_OUTCOMES, ResultOutcome
from b24sync.edge import stories, tables
from b24sync.edge.database import reading, writing
from b24sync.edge.stories import ResultChoice, ResultView
from tests.house import add_portal, add_rows, change, database_now

MINUTE_MS = 60_000


def add_result(
    engine: Engine, key: str = "c-1", outcome: str = "applied", **values: object
) -> None:
    """A result of a contact, unless told otherwise."""
    row = {
        "outbox_id": 1,
        "portal": "default",
        "kind": "contact",
        "entity_key": key,
        "operation": "upsert",
        "outcome": outcome,
        "final": ResultOutcome(outcome) in FINAL_OUTCOMES,
        "attempt": 1,
        "enqueued_at": 0,
    }
    with writing(engine) as connection:
        connection.execute(insert(tables.result).values(**(row | values)))


def results(engine: Engine, choice: ResultChoice, limit: int | None = None) -> list[ResultView]:
    """Results in a transaction of their own."""
    with reading(engine) as connection:
        return list(stories.results(connection, choice, limit=limit))


def test_results_are_told_newest_first(engine: Engine) -> None:
    """A person looks for what happened just now."""
    now = database_now(engine)
    add_result(engine, "old", finished_at=now - MINUTE_MS, enqueued_at=now - 3 * MINUTE_MS)
    add_result(engine, "new", finished_at=now)

    found = results(engine, ResultChoice())

    assert [view.key for view in found] == ["new", "old"]
    assert found[1].latency_ms == 2 * MINUTE_MS
    assert [view.key for view in results(engine, ResultChoice(), limit=1)] == ["new"]


def test_results_can_be_narrowed(engine: Engine) -> None:
    """By entity, by outcome, by time and by what was seen before."""
    now = database_now(engine)
    add_result(engine, "c-1", finished_at=now - 10 * MINUTE_MS)
    with reading(engine) as connection:
        seen = stories.last_result_id(connection)
    add_result(engine, "c-2", "failed", finished_at=now)
    add_result(engine, "c-2", kind="deal", portal="acme", finished_at=now)

    def keys(**choice: object) -> list[tuple[str, str]]:
        found = results(engine, ResultChoice(**choice))  # type: ignore[arg-type] # each a field
        return [(view.kind, view.key) for view in found]

    assert keys(outcomes=("failed",)) == [("contact", "c-2")]
    assert keys(since_ms=5 * MINUTE_MS) == [("deal", "c-2"), ("contact", "c-2")]
    assert keys(after_id=seen) == [("deal", "c-2"), ("contact", "c-2")]
    assert keys(portal="acme") == [("deal", "c-2")]
    assert keys(kind="contact", key="c-1") == [("contact", "c-1")]


def test_outcomes_are_counted_by_kind_and_operation(engine: Engine) -> None:
    """The summary of a run."""
    add_result(engine, "a")
    add_result(engine, "b")
    add_result(engine, "c", "failed")
    add_result(engine, "d", operation="delete")

    with reading(engine) as connection:
        counted = stories.outcomes(connection, ResultChoice())

    assert counted == {
        ("contact", "upsert"): {"applied": 2, "failed": 1},
        ("contact", "delete"): {"applied": 1},
    }


def test_the_story_of_an_entity_is_everything_in_its_order(engine: Engine) -> None:
    """Link, results oldest first, and the rows that wait, of this entity only."""
    now = database_now(engine)
    link = {"portal": "default", "kind": "contact", "entity_key": "c-1", "state": "present"}
    with writing(engine) as connection:
        connection.execute(insert(tables.link), link | {"remote_id": "17"})
    add_result(engine, "c-1", "retried", finished_at=now - 2)
    add_result(engine, "c-1", "applied", finished_at=now - 1)
    add_result(engine, "c-2")
    first, second = add_rows(engine, "c-1", "c-1", attempts=2, last_error="BAD")

    with reading(engine) as connection:
        story = stories.story(connection, "default", "contact", "c-1")
        codes = stories.portals_of(connection, "contact", "c-1")

    assert story.link is not None
    assert story.link.remote_id == "17"
    assert [view.outcome for view in story.results] == ["retried", "applied"]
    assert [row.id for row in story.rows] == [first, second]
    assert (story.rows[0].fields, story.rows[0].attempts) == (("name",), 2)
    assert codes == ("default",)


def test_a_row_is_told_to_stop_its_lane_for_as_long_as_it_does(engine: Engine) -> None:
    """Held, or in doubt and not looked into yet; not when it is ready again."""
    add_portal(engine)
    later = database_now(engine) + MINUTE_MS
    held, _ = add_rows(engine, "c-1", "c-1", state="held", due_at=later)
    change(engine, tables.lane, {"stopped_by": held}, portal="default")

    told: list[tuple[bool, ...]] = []
    doubt = {"state": "doubt", "batch_id": 1, "cmd_no": 0}
    for values in ({}, doubt, {"due_at": 0}):
        change(engine, tables.outbox, values or {"state": "held"}, id=held)
        with reading(engine) as connection:
            story = stories.story(connection, "default", "contact", "c-1")
        told.append(tuple(row.stops_lane for row in story.rows))

    assert told == [(True, False), (True, False), (False, False)]


def test_what_stopped_a_lane_is_among_the_troubles(engine: Engine) -> None:
    """Somebody has to look at it; a record that is different is a warning only."""
    for outcome in ("stopped", "different", "unchanged", "begun"):
        final = outcome in {"different", "unchanged"}
        add_result(engine, outcome, outcome, final=final)

    found = results(engine, ResultChoice(outcomes=tuple(map(str, stories.TROUBLE))))

    assert [view.key for view in found] == ["stopped"]


def test_the_row_at_which_a_lane_stands_still_is_told_apart(engine: Engine) -> None:
    """Held by the lane's own stop; another held row waits for something else."""
    add_portal(engine)
    stops, waits = add_rows(engine, "c-1", "c-1", state="held")
    change(engine, tables.lane, {"stopped_by": stops})
    add_result(engine, "c-1", "stopped", error_text="BAD")

    with reading(engine) as connection:
        story = stories.story(connection, "default", "contact", "c-1")

    assert [(row.id, row.stops_lane) for row in story.rows] == [(stops, True), (waits, False)]
    assert [(view.outcome, view.final) for view in story.results] == [("stopped", False)]
