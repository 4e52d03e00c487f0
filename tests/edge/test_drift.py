"""What is said of tables that are not, or no longer, what the code expects."""

from collections.abc import Mapping

import pytest
from sqlalchemy import Engine, text

from b24sync.edge import schema
from b24sync.edge.database import writing
from b24sync.edge.drift import gist

DAMAGE: Mapping[str, tuple[str, str, str]] = {
    "a lost table": (
        "sqlite postgresql mariadb",
        "DROP TABLE b24sync_chore",
        "b24sync_chore: the table is missing",
    ),
    "a lost index": (
        "sqlite postgresql",
        "DROP INDEX ix_b24sync_result_finished",
        "b24sync_result: ix_b24sync_result_finished is missing",
    ),
    "a lost index on mariadb": (
        "mariadb",
        "DROP INDEX ix_b24sync_result_newest ON b24sync_result",
        "b24sync_result: ix_b24sync_result_newest is missing",
    ),
    "an index of other rows": (
        "sqlite postgresql",
        (
            "DROP INDEX ix_b24sync_outbox_ready; CREATE INDEX ix_b24sync_outbox_ready "
            "ON b24sync_outbox (portal, lane, priority, id) WHERE state = 'doubt'"
        ),
        "b24sync_outbox: the index ix_b24sync_outbox_ready is another: WHERE",
    ),
    "an index of all rows": (
        "sqlite postgresql",
        (
            "DROP INDEX ix_b24sync_outbox_waits; CREATE INDEX ix_b24sync_outbox_waits "
            "ON b24sync_outbox (portal, waits_for)"
        ),
        "b24sync_outbox: the index ix_b24sync_outbox_waits is another: WHERE",
    ),
    "a lost column": (
        "sqlite postgresql mariadb",
        "ALTER TABLE b24sync_chore DROP COLUMN last_run_at",
        "b24sync_chore: the column last_run_at is missing",
    ),
    "a column that must be filled": (
        "postgresql mariadb",
        "ALTER TABLE b24sync_chore ADD COLUMN owner INTEGER NOT NULL",
        "b24sync_chore: the column owner is not ours",
    ),
    "another type": (
        "postgresql",
        "ALTER TABLE b24sync_chore ALTER COLUMN token TYPE INTEGER",
        "b24sync_chore: the column token has type INTEGER, expected BIGINT",
    ),
    "another type on mariadb": (
        "mariadb",
        "ALTER TABLE b24sync_chore MODIFY token INTEGER NOT NULL DEFAULT 0",
        "b24sync_chore: the column token has type INTEGER, expected BIGINT",
    ),
    "another default": (
        "postgresql mariadb",
        "ALTER TABLE b24sync_outbox ALTER COLUMN state SET DEFAULT 'held'",
        "b24sync_outbox: the column state has default 'held'",
    ),
    "a lost default": (
        "postgresql mariadb",
        "ALTER TABLE b24sync_outbox ALTER COLUMN created_at DROP DEFAULT",
        "b24sync_outbox: the column created_at has default none, expected",
    ),
    "a lost check": (
        "postgresql mariadb",
        "ALTER TABLE b24sync_lane DROP CONSTRAINT ck_b24sync_lane_no_half_lease",
        "b24sync_lane: the CHECK ck_b24sync_lane_no_half_lease is missing",
    ),
    "a check with fewer states": (
        "postgresql mariadb",
        (
            "ALTER TABLE b24sync_lane DROP CONSTRAINT ck_b24sync_lane_breaker; "
            "ALTER TABLE b24sync_lane ADD CONSTRAINT ck_b24sync_lane_breaker "
            "CHECK (breaker IN ('closed', 'open'))"
        ),
        "b24sync_lane: the CHECK ck_b24sync_lane_breaker is another:",
    ),
    "keys that ignore case": (
        "mariadb",
        (
            "ALTER TABLE b24sync_link MODIFY entity_key VARCHAR(190) "
            "COLLATE utf8mb4_general_ci NOT NULL"
        ),
        "b24sync_link: the column entity_key compares by utf8mb4_general_ci, expected utf8mb4_bin",
    ),
    "keys in the order of a language": (
        "postgresql",
        'ALTER TABLE b24sync_link ALTER COLUMN entity_key TYPE VARCHAR(190) COLLATE "default"',
        'b24sync_link: the column entity_key compares by default, expected "C"',
    ),
    "a storage engine without transactions": (
        "mariadb",
        "ALTER TABLE b24sync_chore ENGINE=MyISAM",
        (
            "b24sync_chore: the storage engine is MyISAM, which has no transactions; "
            "run `ALTER TABLE b24sync_chore ENGINE=InnoDB`"
        ),
    ),
    "a small character set": (
        "mariadb",
        "ALTER TABLE b24sync_chore CONVERT TO CHARACTER SET latin1",
        (
            "b24sync_chore: the collation is latin1_swedish_ci, which cannot hold every character; "
            "run `ALTER TABLE b24sync_chore CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin`"
        ),
    ),
}


@pytest.mark.parametrize(
    ("backend", "done", "said"),
    [
        pytest.param(backend, done, said, id=f"{name}-{backend}")
        for name, (backends, done, said) in DAMAGE.items()
        for backend in backends.split()
    ],
)
def test_damage_is_found_and_named(empty_engine: Engine, done: str, said: str) -> None:
    """A table that somebody has changed by hand is seen before it loses a row."""
    schema.upgrade(empty_engine)
    with writing(empty_engine) as connection:
        for statement in done.split("; "):
            connection.execute(text(statement))

    problems = [problem for problem in schema.check(empty_engine) if problem.blocks]

    assert [f"{problem.subject}: {problem.text}"[: len(said)] for problem in problems] == [said]


@pytest.mark.parametrize(
    "done",
    [
        "CREATE INDEX ix_mine ON b24sync_result (error_code)",
        "ALTER TABLE b24sync_outbox ADD COLUMN note VARCHAR(20)",
    ],
)
def test_additions_that_harm_nobody_do_not_block(empty_engine: Engine, done: str) -> None:
    """A database administrator may add an index; it is only told of."""
    schema.upgrade(empty_engine)
    with writing(empty_engine) as connection:
        connection.execute(text(done))

    problems = schema.check(empty_engine)

    assert [problem.subject for problem in problems if problem.blocks] == []
    assert any(problem.text.endswith("is not ours") for problem in problems)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        pytest.param(
            "state IN ('a', 'b')",
            "((state)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))",
            True,
            id="postgresql",
        ),
        pytest.param("`state` in (_utf8mb4'a','b')", "state IN ('a', 'b')", True, id="mysql"),
        pytest.param("a IS NULL", "a IS NOT NULL", False, id="null or not"),
        pytest.param("state IN ('a', 'b')", "state IN ('a')", False, id="fewer"),
        pytest.param("n > 0", "n > 1", False, id="number"),
        pytest.param("'0'", "0", True, id="quoted"),
        pytest.param("true", "1", True, id="boolean"),
        pytest.param("", "''", False, id="none or empty"),
    ],
)
def test_expressions_are_compared_by_their_gist(one: str, other: str, *, alike: bool) -> None:
    """Each database writes an expression down in its own way."""
    same = gist(one) == gist(other)

    assert same == alike
