"""Make the tables of the outbox, the journal, the results and the limiter.

Run it before the code it serves. It only makes tables and indexes of its own, so it locks nothing
that anybody uses, and takes well under a second. On PostgreSQL and SQLite it happens whole or not
at all; MariaDB and MySQL commit each statement, so there a run that was cut short leaves empty
tables, which have to be dropped before the next.

The downgrade drops every table with all unsent changes and all results. It waits for, and then
blocks, whoever uses them: stop the workers and the writing applications first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.compiler import DDLCompiler
from sqlalchemy.types import TypeEngine

revision = "b24sync_0001"
down_revision = None
branch_labels = ("b24sync",)
depends_on = None

CLOCK = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)",
}
"""Whole milliseconds since 1970 UTC, in the words of each database."""

MYSQL_OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in {
        "engine": "InnoDB",
        "default_charset": "utf8mb4",
        "collate": "utf8mb4_bin",
    }.items()
}
NOTHING: Mapping[str, Any] = {}
BY_TIME: dict[str, Any] = {
    "postgresql_partition_by": "RANGE (finished_at)",
    **{
        f"{dialect}_partition_by": (
            "RANGE (finished_at) (PARTITION rest VALUES LESS THAN MAXVALUE)"
        )
        for dialect in ("mysql", "mariadb")
    },
}
"""Results are removed by partitions; the dated ones are made when the time is known."""

TABLES = (
    "backfill",
    "duplicate",
    "app",
    "chore",
    "rollup",
    "method_budget",
    "bucket",
    "link",
    "dead",
    "result",
    "batch",
    "outbox",
    "lane",
    "portal",
)


class RestPartition(ExecutableDDLElement):
    """PostgreSQL's partition for results that fit into no other one."""


@compiles(RestPartition)
def _rest_partition(_element: RestPartition, compiler: DDLCompiler, **_kw: object) -> str:
    metadata = sa.MetaData()
    rest, whole = (
        compiler.preparer.format_table(sa.Table(name, metadata))
        for name in ("b24sync_result_rest", "b24sync_result")
    )
    return f"CREATE TABLE {rest} PARTITION OF {whole} DEFAULT"


def upgrade() -> None:
    """Make fourteen tables and their indexes."""
    _portal()
    _lane()
    _outbox()
    _batch()
    _result()
    _dead()
    _link()
    _bucket()
    _method_budget()
    _rollup()
    _chore()
    _app()
    _duplicate()
    _backfill()


def downgrade() -> None:
    """Drop them; what was not sent is lost."""
    for table in TABLES:
        op.drop_table(f"b24sync_{table}")


def _portal() -> None:
    """One row per tenant."""
    _create(
        "portal",
        sa.Column("code", _exact(64), nullable=False),
        sa.Column("base_url", sa.String(255), nullable=False),
        sa.Column("auth_kind", sa.String(16), nullable=False, server_default="webhook"),
        sa.Column("secret", sa.Text()),
        sa.Column("secret_key_id", sa.String(32)),
        sa.Column("app_id", sa.String(64), nullable=False, server_default=""),
        sa.Column("credential_user", sa.String(64)),
        sa.Column("token_expires_at", sa.BigInteger()),
        sa.Column("token_version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("refresh_lease_until", sa.BigInteger()),
        sa.Column("refresh_lost_at", sa.BigInteger()),
        sa.Column("member_id", sa.String(64)),
        sa.Column("moved_from", sa.String(255)),
        sa.Column("moved_at", sa.BigInteger()),
        sa.Column("egress_group", _exact(64), nullable=False, server_default="default"),
        sa.Column("rate_x", sa.Double(), nullable=False, server_default="50"),
        sa.Column("rate_y", sa.Double(), nullable=False, server_default="2"),
        sa.Column("server_max_s", sa.Integer(), nullable=False, server_default="60"),
        sa.Column("weight", sa.Double(), nullable=False, server_default="1"),
        sa.Column("shards", sa.SmallInteger(), nullable=False, server_default="1"),
        sa.Column("state", sa.String(16), nullable=False, server_default="active"),
        sa.Column("state_reason", sa.Text()),
        sa.Column("state_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("probe_at", sa.BigInteger()),
        sa.Column("probes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("policy", _json()),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=_now()),
        key=["code"],
        checks={
            "code": "code <> ''",
            "auth_kind": "auth_kind IN ('webhook', 'oauth')",
            "state": "state IN ('active', 'paused', 'auth_lost', 'plan_lost', 'overloaded', 'gone', 'misconfigured')",
            "rate": "rate_x > 0 AND rate_y > 0",
            "server_max_s": "server_max_s > 0",
            "weight": "weight > 0",
            "shards": "shards BETWEEN 1 AND 16",
            "a_pause_has_a_reason": "state = 'active' OR state_reason IS NOT NULL",
            "secret_with_key_id": "(secret IS NULL) = (secret_key_id IS NULL)",
        },
        valid_json=["policy"],
    )


def _lane() -> None:
    """Scheduling state; fillfactor 50 leaves room for its updates."""
    _create(
        "lane",
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("next_due_at", sa.BigInteger()),
        sa.Column("rests_until", sa.BigInteger()),
        sa.Column("wake_seq", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("vtime", sa.Double(), nullable=False, server_default="0"),
        sa.Column("turn", sa.Double(), nullable=False, server_default="0"),
        sa.Column("lease_epoch", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("lease_until", sa.BigInteger()),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("open_batch_id", sa.BigInteger()),
        sa.Column("breaker", sa.String(16), nullable=False, server_default="closed"),
        sa.Column("breaker_until", sa.BigInteger()),
        sa.Column("fail_streak", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("stopped_by", sa.BigInteger()),
        sa.Column("first_rows", _json()),
        sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("suspects", _json()),
        key=["portal", "lane"],
        checks={
            "breaker": "breaker IN ('closed', 'open', 'half_open')",
            "no_half_lease": "(lease_until IS NULL) = (lease_owner IS NULL)",
            "breaker_until": "breaker = 'closed' OR breaker_until IS NOT NULL",
            "lane": "lane >= 0",
        },
        valid_json=["first_rows", "suspects"],
        storage={"fillfactor": "50"},
    )
    if _partial():
        _index("lane", "due", ["priority", "vtime"], where="next_due_at IS NOT NULL")
    else:
        _index("lane", "order", ["priority", "vtime", "portal", "next_due_at"])
    _index("lane", "next", ["next_due_at"])
    _index("lane", "turn", ["priority", "turn"])


def _sqlite_types() -> dict[str, str]:
    """SQLite alone takes any value of any length in any column."""
    if _dialect() != "sqlite":
        return {}
    return {
        "types": "typeof(lane) = 'integer' AND typeof(generation) = 'integer'"
        " AND typeof(priority) = 'integer' AND typeof(due_at) = 'integer'"
        " AND typeof(deliveries) = 'integer' AND typeof(attempts) = 'integer'"
        " AND typeof(not_runs) = 'integer' AND typeof(losses) = 'integer'"
        " AND typeof(created_at) = 'integer'"
        " AND typeof(expires_at) IN ('integer', 'null')"
        " AND typeof(portal) = 'text' AND length(portal) <= 64"
        " AND typeof(kind) = 'text' AND length(kind) <= 64"
        " AND typeof(entity_key) = 'text' AND length(entity_key) <= 190"
        " AND (method IS NULL OR typeof(method) = 'text' AND length(method) <= 128)"
    }


def _outbox() -> None:
    """Unfinished changes, a public interface for plain INSERTs."""
    _create(
        "outbox",
        sa.Column("id", _id(), nullable=False),
        sa.Column("portal", _exact(64), nullable=False, server_default="default"),
        sa.Column("lane", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("kind", _exact(64), nullable=False),
        sa.Column("entity_key", _exact(190), nullable=False),
        sa.Column("operation", sa.String(8), nullable=False),
        sa.Column("method", sa.String(128)),
        sa.Column("fields", _json()),
        sa.Column("params", _json()),
        sa.Column("generation", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("marker", sa.String(255)),
        sa.Column("doubt_policy", sa.String(16)),
        sa.Column("mergeable", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.Column("state", sa.String(8), nullable=False, server_default="ready"),
        sa.Column("state_reason", sa.String(255)),
        sa.Column("due_at", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("deliveries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("not_runs", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("losses", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("batch_id", sa.BigInteger()),
        sa.Column("cmd_no", sa.SmallInteger()),
        sa.Column("waits_for", _exact(255)),
        sa.Column("first_error", sa.Text()),
        sa.Column("last_error", sa.Text()),
        sa.Column("headers", _json()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default=_now()),
        key=["id"],
        checks={
            "operation": "operation IN ('add', 'update', 'delete', 'upsert', 'call')",
            "state": "state IN ('ready', 'batched', 'doubt', 'parked', 'held')",
            "not_empty": "kind <> '' AND entity_key <> '' AND portal <> ''",
            "no_outer_space": "length(entity_key) = length(ltrim(rtrim(entity_key)))"
            " AND length(kind) = length(ltrim(rtrim(kind))) AND length(portal) = length(ltrim(rtrim(portal)))",
            "a_call_has_a_method": "operation <> 'call' OR method IS NOT NULL",
            "a_write_has_fields": "operation IN ('delete', 'call') OR fields IS NOT NULL OR params IS NOT NULL",
            "in_a_batch_or_not": "(batch_id IS NOT NULL) = (state IN ('batched', 'doubt'))",
            "no_half_batch": "(batch_id IS NULL) = (cmd_no IS NULL)",
            "only_the_held_wait": "waits_for IS NULL OR state = 'held'",
            "counters": "deliveries BETWEEN 0 AND 2000000000 AND attempts BETWEEN 0 AND 2000000000 "
            "AND not_runs BETWEEN 0 AND 2000000000 AND losses BETWEEN 0 AND 2000000000",
            "doubt_policy": "doubt_policy IS NULL OR doubt_policy IN ('look-up', 'resend', 'hold')",
            "lane": "lane >= 0",
        }
        | _sqlite_types(),
        valid_json=["fields", "params", "headers"],
        storage={
            "fillfactor": "80",
            "autovacuum_vacuum_scale_factor": "0.0",
            "autovacuum_vacuum_threshold": "5000",
        },
    )
    _index("outbox", "batch", ["batch_id"], where="batch_id IS NOT NULL")
    _index("outbox", "entity", ["portal", "kind", "entity_key", "id"])
    if _partial():
        _index("outbox", "ready", ["portal", "lane", "priority", "id"], where="state = 'ready'")
    else:
        _index("outbox", "state", ["portal", "lane", "state", "priority", "id"])
    _index("outbox", "waits", ["portal", "waits_for"], where="waits_for IS NOT NULL")


def _batch() -> None:
    """The dispatch journal."""
    _create(
        "batch",
        sa.Column("id", _id(), nullable=False),
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("lane_epoch", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, server_default="journalled"),
        sa.Column("halt", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("single", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("n_commands", sa.SmallInteger(), nullable=False),
        sa.Column("plan", _json(), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("sending_at", sa.BigInteger()),
        sa.Column("deadline_at", sa.BigInteger()),
        sa.Column("quiet_until", sa.BigInteger()),
        sa.Column("answered_at", sa.BigInteger()),
        sa.Column("closed_at", sa.BigInteger()),
        sa.Column("http_status", sa.SmallInteger()),
        sa.Column("error_class", sa.String(64)),
        sa.Column("late_answer", _json()),
        sa.Column("late_at", sa.BigInteger()),
        sa.Column("operating", _json()),
        key=["id"],
        checks={
            "state": "state IN ('journalled', 'sending', 'answered', 'doubt', 'reconciled', 'returned')",
            "n_commands": "n_commands BETWEEN 1 AND 50",
            "closed": "(closed_at IS NULL) = (state IN ('journalled', 'sending', 'doubt'))",
            "sent_with_deadlines": "state NOT IN ('sending', 'doubt', 'answered', 'reconciled') OR (sending_at IS NOT NULL AND deadline_at IS NOT NULL AND quiet_until IS NOT NULL)",
        },
        valid_json=["plan"],
    )
    if _partial():
        _index("batch", "open", ["portal", "lane"], where="closed_at IS NULL")
    else:
        _index("batch", "closed", ["closed_at", "portal", "lane"])


def _result() -> None:
    """One row per judged attempt, append only."""
    _create(
        "result",
        sa.Column("id", _id(), nullable=False, autoincrement=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("outbox_id", sa.BigInteger(), nullable=False),
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("kind", _exact(64), nullable=False),
        sa.Column("entity_key", _exact(190), nullable=False),
        sa.Column("operation", sa.String(8), nullable=False),
        sa.Column("method", sa.String(128)),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("remote_id", sa.String(64)),
        sa.Column("error_code", sa.String(255)),
        sa.Column("error_text", sa.Text()),
        sa.Column("error_class", sa.String(32)),
        sa.Column("http_status", sa.SmallInteger()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.BigInteger()),
        sa.Column("cmd_no", sa.SmallInteger()),
        sa.Column("merged_into", sa.BigInteger()),
        sa.Column("enqueued_at", sa.BigInteger(), nullable=False),
        sa.Column("sent_at", sa.BigInteger()),
        sa.Column("duration_ms", sa.Integer()),
        sa.Column("headers", _json()),
        # A table in partitions has what they are cut by in its key.
        key=["id"] if _dialect() == "sqlite" else ["id", "finished_at"],
        checks={
            "outcome": "outcome IN ('applied', 'merged', 'failed', 'expired', 'cancelled', 'retried', 'skipped', 'unknown', 'unchanged', 'different', 'begun', 'stopped')",
            "merged_names_its_row": "(outcome = 'merged') = (merged_into IS NOT NULL)",
            "final": "final = (outcome IN ('applied', 'merged', 'failed', 'expired', 'cancelled', 'unchanged', 'different'))",
        },
    )
    if _dialect() == "postgresql":
        op.execute(RestPartition())
    _index("result", "entity", ["portal", "kind", "entity_key", "finished_at"])
    if _partial():
        _index("result", "finished", ["finished_at"])
        _index("result", "trouble", ["portal", "finished_at"], where="outcome <> 'applied'")
    else:
        _index("result", "newest", ["finished_at", "id"])
        _index("result", "outcome", ["portal", "outcome", "finished_at"])


def _dead() -> None:
    """Rows given up on."""
    _create(
        "dead",
        sa.Column("id", _id(), nullable=False),
        sa.Column("outbox_id", sa.BigInteger(), nullable=False),
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("kind", _exact(64), nullable=False),
        sa.Column("entity_key", _exact(190), nullable=False),
        sa.Column("operation", sa.String(8), nullable=False),
        sa.Column("method", sa.String(128)),
        sa.Column("fields", _json()),
        sa.Column("params", _json()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("marker", sa.String(255)),
        sa.Column("doubt_policy", sa.String(16)),
        sa.Column("mergeable", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_runs", sa.Integer(), nullable=False),
        sa.Column("headers", _json()),
        sa.Column("enqueued_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("error_code", sa.String(255), nullable=False),
        sa.Column("first_error", sa.Text(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("dead_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("replayed_as", sa.BigInteger()),
        sa.Column("closed_at", sa.BigInteger()),
        sa.Column("closed_by", sa.String(255)),
        sa.Column("edits", _json()),
        key=["id"],
        checks={
            "a_replay_closes": "replayed_as IS NULL OR closed_at IS NOT NULL",
        },
        valid_json=["edits"],
    )
    _index("dead", "entity", ["portal", "kind", "entity_key"])
    _index("dead", "portal", ["portal", "dead_at"])


def _link() -> None:
    """Local entity to remote id, unique both ways."""
    _create(
        "link",
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("kind", _exact(64), nullable=False),
        sa.Column("entity_key", _exact(190), nullable=False),
        sa.Column("remote_id", _exact(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("sent_fields", _json()),
        sa.Column("multifield_ids", _json()),
        sa.Column("dup_ids", _json()),
        sa.Column("last_outbox_id", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=_now()),
        key=["portal", "kind", "entity_key"],
        checks={
            "state": "state IN ('present', 'absent', 'deleted', 'doubt', 'conflict')",
            "present_has_an_id": "(state = 'present') = (remote_id IS NOT NULL)",
        },
        unique={"remote": ["remote_id", "kind", "portal"]},
    )


def _bucket() -> None:
    """The request rate as all workers behind one address have used it together."""
    _create(
        "bucket",
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("egress_group", _exact(64), nullable=False),
        sa.Column("level", sa.Double(), nullable=False, server_default="0"),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("blocked_until", sa.BigInteger()),
        sa.Column("taught_x", sa.Double()),
        sa.Column("taught_y", sa.Double()),
        sa.Column("taught_at", sa.BigInteger()),
        sa.Column("refusals", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("refused_at", sa.BigInteger()),
        sa.Column("people_at", sa.BigInteger()),
        sa.Column("ring_at", sa.BigInteger()),
        key=["portal", "egress_group"],
        checks={
            "level": "level >= 0",
            "taught": (
                "(taught_x IS NULL) = (taught_at IS NULL) "
                "AND (taught_y IS NULL) = (taught_at IS NULL)"
            ),
        },
        storage={"fillfactor": "50"},
    )


def _method_budget() -> None:
    """What is known of a method's time on a portal."""
    _create(
        "method_budget",
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("app_id", _exact(64), nullable=False, server_default=""),
        sa.Column("method", _exact(128), nullable=False),
        sa.Column("operating_s", sa.Double(), nullable=False, server_default="0"),
        sa.Column("reset_at", sa.BigInteger()),
        sa.Column("blocked_until", sa.BigInteger()),
        sa.Column("cost_s", sa.Double()),
        sa.Column("spread_s", sa.Double()),
        sa.Column("limit_s", sa.Double()),
        sa.Column("baskets", _json()),
        sa.Column("max_bytes", sa.BigInteger()),
        sa.Column("found_at", sa.BigInteger()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=_now()),
        key=["portal", "app_id", "method"],
        checks={
            "operating_s": "operating_s >= 0",
        },
    )


def _rollup() -> None:
    """Counts per portal, minute and outcome."""
    _create(
        "rollup",
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("latency_sum_ms", sa.BigInteger(), nullable=False),
        sa.Column("latency_max_ms", sa.BigInteger(), nullable=False),
        key=["portal", "minute", "outcome"],
        checks={
            "outcome": "outcome IN ('applied', 'merged', 'failed', 'expired', 'cancelled', 'retried', 'skipped', 'unknown', 'unchanged', 'different', 'begun', 'stopped')",
        },
    )


def _chore() -> None:
    """One row per periodic chore."""
    _create(
        "chore",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("token", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("last_run_at", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("resume_from", sa.Text()),
        key=["name"],
        checks={},
    )


def _app() -> None:
    """OAuth applications."""
    _create(
        "app",
        sa.Column("code", _exact(64), nullable=False),
        sa.Column("client_id", sa.String(255), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("secret_key_id", sa.String(32), nullable=False),
        sa.Column("server_url", sa.String(255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=_now()),
        key=["code"],
        checks={"code": "code <> ''"},
    )


def _duplicate() -> None:
    """Records that were made twice, as they were found."""
    _create(
        "duplicate",
        sa.Column("id", _id(), nullable=False),
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("kind", _exact(64), nullable=False),
        sa.Column("entity_key", _exact(190), nullable=False),
        sa.Column("kept_id", sa.String(64), nullable=False),
        sa.Column("other_id", _exact(64), nullable=False),
        sa.Column("found_by", sa.String(16), nullable=False),
        sa.Column("found_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("closed_at", sa.BigInteger()),
        key=["id"],
        checks={"found_by": "found_by IN ('look-up', 'late-answer', 'audit')"},
        unique={"record": ["portal", "kind", "other_id"]},
    )


def _backfill() -> None:
    """One row per back-fill."""
    _create(
        "backfill",
        sa.Column("code", _exact(64), nullable=False),
        sa.Column("portal", _exact(64), nullable=False),
        sa.Column("kind", _exact(64), nullable=False),
        sa.Column("source", _json(), nullable=False),
        sa.Column("last_key", _json()),
        sa.Column("state", sa.String(16), nullable=False, server_default="running"),
        sa.Column("reason", sa.Text()),
        sa.Column("lease_until", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("token", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("read_rows", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("enqueued", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("skipped", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("refused", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("last_refusal", sa.Text()),
        sa.Column("estimate", sa.BigInteger()),
        sa.Column("most_waiting", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("only_missing", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("skip_bad", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default=_now()),
        sa.Column("finished_at", sa.BigInteger()),
        key=["code"],
        checks={
            "not_empty": "code <> '' AND portal <> '' AND kind <> ''",
            "state": "state IN ('running', 'paused', 'done', 'failed', 'cancelled')",
            "a_failure_has_a_reason": "(state = 'failed') = (reason IS NOT NULL)",
            "finished": "(state IN ('cancelled', 'done')) = (finished_at IS NOT NULL)",
            "only_the_running_are_leased": "lease_until = 0 OR state = 'running'",
            "every_row_is_counted_once": "enqueued >= 0 AND skipped >= 0 AND refused >= 0 "
            "AND read_rows = enqueued + skipped + refused",
            "read_up_to_a_key": "(read_rows = 0) = (last_key IS NULL)",
            "a_refusal_is_told": "(refused = 0) = (last_refusal IS NULL)",
            "bounds": "most_waiting > 0 AND step BETWEEN 1 AND 10000",
        },
        valid_json=["source", "last_key"],
    )


def _create(
    name: str,
    *columns: sa.Column[Any],
    key: Sequence[str],
    checks: Mapping[str, str],
    valid_json: Sequence[str] = (),
    unique: Mapping[str, Sequence[str]] = NOTHING,
    storage: Mapping[str, str] = NOTHING,
) -> None:
    """Make a table; its constraints are called ``ck_<table>_<name>`` and so on."""
    table = f"b24sync_{name}"
    conditions = dict(checks)
    if _dialect() == "sqlite":
        # SQLite alone takes any text for JSON; the others check by themselves.
        conditions |= {f"{c}_is_json": f"{c} IS NULL OR json_valid({c})" for c in valid_json}
    op.create_table(
        table,
        *columns,
        sa.PrimaryKeyConstraint(*key, name=op.f(f"pk_{table}")),
        *(sa.UniqueConstraint(*cs, name=op.f(f"uq_{table}_{n}")) for n, cs in unique.items()),
        *(sa.CheckConstraint(sql, name=op.f(f"ck_{table}_{n}")) for n, sql in conditions.items()),
        postgresql_with=storage,
        # An id that was used is never used again, which SQLite does only when told.
        sqlite_autoincrement=list(key) == ["id"],
        **(BY_TIME if name == "result" else NOTHING),
        **MYSQL_OPTIONS,
    )


def _index(table: str, name: str, columns: Sequence[str], *, where: str | None = None) -> None:
    """Make an index, of all rows where the database knows no partial ones."""
    op.create_index(
        op.f(f"ix_b24sync_{table}_{name}"),
        f"b24sync_{table}",
        list(columns),
        postgresql_where=None if where is None else sa.text(where),
        sqlite_where=None if where is None else sa.text(where),
    )


def _dialect() -> str:
    """The kind of database at hand; MariaDB counts as MySQL."""
    name = op.get_context().dialect.name
    return "mysql" if name == "mariadb" else name


def _partial() -> bool:
    """Whether an index may hold just some rows."""
    return _dialect() != "mysql"


def _now() -> sa.TextClause:
    """The database's clock as a default."""
    return sa.text(CLOCK[_dialect()])


def _id() -> TypeEngine[int]:
    """A number that grows; SQLite numbers rows by itself only under the name INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _exact(length: int) -> TypeEngine[str]:
    """Text compared byte by byte."""
    return (
        sa.String(length)
        .with_variant(sa.String(length, collation="C"), "postgresql")
        .with_variant(sa.String(length, collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def _json() -> TypeEngine[object]:
    """A JSON document."""
    return sa.JSON(none_as_null=True)
