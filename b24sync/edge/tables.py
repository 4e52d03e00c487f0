"""The tables: columns, checks and indexes, for every database in one schema.

``outbox`` is a public interface: a plain ``INSERT`` with ``kind``, ``entity_key``, ``operation``
and ``fields`` is a change, from any language. ``result`` is the monitoring interface. The rest is
this package's own.

All instants are whole milliseconds since 1970 UTC by the database's clock, because two of the
databases drop an offset without a word. Finished rows leave ``outbox``, so what is polled stays
small. There are no foreign keys between tables that are written all the time. CHECK constraints
forbid half-states. States are text, so that a new one is a cheap migration.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    false,
    literal_column,
    text,
    true,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.compiler import DDLCompiler
from sqlalchemy.types import TypeEngine

from b24sync.core.backfilling import OVER, BackfillState
from b24sync.core.model import (
    FINAL_OUTCOMES,
    BatchState,
    LinkState,
    Operation,
    PortalState,
    ResultOutcome,
    RowState,
)
from b24sync.core.shards import MOST_SHARDS
from b24sync.edge.database import now_ms

PREFIX = "b24sync_"
KEY_LENGTH = 190
KIND_LENGTH = 64
PORTAL_LENGTH = 64
MARKER_LENGTH = 255

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}

WHOLE = ("mysql", "mariadb")
MYSQL_OPTIONS: dict[str, Any] = {
    f"{name}_{option}": value
    for name in WHOLE
    for option, value in {
        "engine": "InnoDB",
        "default_charset": "utf8mb4",
        "collate": "utf8mb4_bin",
    }.items()
}

REST = "rest"
"""The catch-all among the partitions of results: what fits into no other one stands there."""
BY_TIME: dict[str, Any] = {
    "postgresql_partition_by": "RANGE (finished_at)",
    **{
        f"{name}_partition_by": (
            f"RANGE (finished_at) (PARTITION {REST} VALUES LESS THAN MAXVALUE)"
        )
        for name in WHOLE
    },
}
"""Dated partitions are made later, ahead of their time; SQLite has none."""

metadata = MetaData(naming_convention=NAMING)


def _has_whole_indexes(*_args: object, dialect: Dialect, **_kw: object) -> bool:
    """MariaDB and MySQL have no partial indexes: there the state stands inside the key."""
    return dialect.name in WHOLE


def _has_partial_indexes(*_args: object, dialect: Dialect, **_kw: object) -> bool:
    """PostgreSQL and SQLite index just the rows that a statement asks for."""
    return dialect.name not in WHOLE


def _exact(length: int) -> TypeEngine[str]:
    """Text compared byte by byte, so that two keys that differ in case are two keys."""
    return (
        String(length)
        .with_variant(String(length, collation="C"), "postgresql")
        .with_variant(String(length, collation="utf8mb4_bin"), *WHOLE)
    )


def _long() -> TypeEngine[str]:
    """Text of any length that a portal's complaint may have."""
    return Text()


def _id() -> TypeEngine[int]:
    """A number that grows; SQLite numbers rows by itself only under the name INTEGER."""
    return BigInteger().with_variant(Integer(), "sqlite")


def _json() -> TypeEngine[object]:
    """A JSON document, where Python's None is SQL's NULL."""
    return JSON(none_as_null=True)


def _one_of(column: str, values: Iterable[StrEnum]) -> str:
    """The CHECK that a column holds one of these members of an enumeration."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def _valid_json(column: str) -> CheckConstraint:
    """SQLite alone takes any text for JSON; the others check by themselves."""
    return CheckConstraint(
        f"{column} IS NULL OR json_valid({column})", name=f"{column}_is_json"
    ).ddl_if(dialect="sqlite")


def _sqlite_types() -> CheckConstraint:
    """SQLite alone takes any value of any length in any column; one such row would stop its lane."""
    counters = ("deliveries", "attempts", "not_runs", "losses")
    numbers = ("lane", "generation", "priority", "due_at", *counters, "created_at")
    lengths = {"portal": PORTAL_LENGTH, "kind": KIND_LENGTH, "entity_key": KEY_LENGTH}
    conditions = [f"typeof({column}) = 'integer'" for column in numbers]
    conditions.append("typeof(expires_at) IN ('integer', 'null')")
    conditions += [
        f"typeof({column}) = 'text' AND length({column}) <= {length}"
        for column, length in lengths.items()
    ]
    conditions.append("(method IS NULL OR typeof(method) = 'text' AND length(method) <= 128)")
    return CheckConstraint(" AND ".join(conditions), name="types").ddl_if(dialect="sqlite")


class TimedKey(PrimaryKeyConstraint):
    """The primary key of a table in partitions, which must hold what they are cut by.

    For the code the id alone is the key, and it is unique by its sequence on every database.
    """


@compiles(TimedKey, "postgresql")
@compiles(TimedKey, *WHOLE)
def _timed_key(key: TimedKey, compiler: DDLCompiler, **_kw: object) -> str:
    return f"CONSTRAINT {compiler.preparer.format_constraint(key)} PRIMARY KEY (id, finished_at)"


class RestPartition(ExecutableDDLElement):
    """Makes PostgreSQL's catch-all partition, a table of its own there."""


@compiles(RestPartition)
def _rest_partition(_element: RestPartition, compiler: DDLCompiler, **_kw: object) -> str:
    write = compiler.preparer.format_table
    # Tables and not just names, so that they come to stand in the schema of the others.
    rest = write(Table(f"{result.name}_{REST}", MetaData()))
    return f"CREATE TABLE {rest} PARTITION OF {write(Table(result.name, MetaData()))} DEFAULT"


def written(state: StrEnum) -> ColumnElement[str]:
    """A state as text of a statement and not as a parameter.

    A plan that PostgreSQL makes for any parameter cannot use an index of the rows in one state.
    """
    return literal_column(f"'{state}'")


portal = Table(
    PREFIX + "portal",
    metadata,
    Column("code", _exact(PORTAL_LENGTH), primary_key=True),
    Column("base_url", String(255), nullable=False),
    Column("auth_kind", String(16), nullable=False, server_default="webhook"),
    Column("secret", Text),
    Column("secret_key_id", String(32)),
    Column("app_id", String(64), nullable=False, server_default=""),
    Column("credential_user", String(64)),
    Column("token_expires_at", BigInteger),
    Column("token_version", Integer, nullable=False, server_default="0"),
    Column("refresh_lease_until", BigInteger),
    Column("refresh_lost_at", BigInteger),
    Column("member_id", String(64)),
    Column("moved_from", String(255)),
    Column("moved_at", BigInteger),
    Column("egress_group", _exact(64), nullable=False, server_default="default"),
    Column("rate_x", Double, nullable=False, server_default="50"),
    Column("rate_y", Double, nullable=False, server_default="2"),
    Column("server_max_s", Integer, nullable=False, server_default="60"),
    Column("weight", Double, nullable=False, server_default="1"),
    Column("shards", SmallInteger, nullable=False, server_default="1"),
    Column("state", String(16), nullable=False, server_default=PortalState.ACTIVE),
    Column("state_reason", Text),
    Column("state_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("probe_at", BigInteger),
    Column("probes", Integer, nullable=False, server_default="0"),
    Column("policy", _json()),
    Column("created_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("updated_at", BigInteger, nullable=False, server_default=now_ms()),
    CheckConstraint("code <> ''", name="code"),
    CheckConstraint("auth_kind IN ('webhook', 'oauth')", name="auth_kind"),
    CheckConstraint(_one_of("state", PortalState), name="state"),
    CheckConstraint("rate_x > 0 AND rate_y > 0", name="rate"),
    CheckConstraint("server_max_s > 0", name="server_max_s"),
    CheckConstraint("weight > 0", name="weight"),
    CheckConstraint(f"shards BETWEEN 1 AND {MOST_SHARDS}", name="shards"),
    CheckConstraint("state = 'active' OR state_reason IS NOT NULL", name="a_pause_has_a_reason"),
    CheckConstraint("(secret IS NULL) = (secret_key_id IS NULL)", name="secret_with_key_id"),
    _valid_json("policy"),
    **MYSQL_OPTIONS,
)
"""One row per tenant; cold."""

app = Table(
    PREFIX + "app",
    metadata,
    Column("code", _exact(PORTAL_LENGTH), primary_key=True),
    Column("client_id", String(255), nullable=False),
    Column("secret", Text, nullable=False),
    Column("secret_key_id", String(32), nullable=False),
    Column("server_url", String(255), nullable=False),
    Column("created_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("updated_at", BigInteger, nullable=False, server_default=now_ms()),
    CheckConstraint("code <> ''", name="code"),
    **MYSQL_OPTIONS,
)
"""OAuth applications; one serves any number of portals, which name it in ``app_id``."""

lane = Table(
    PREFIX + "lane",
    metadata,
    Column("portal", _exact(PORTAL_LENGTH), primary_key=True),
    Column("lane", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_due_at", BigInteger),
    Column("rests_until", BigInteger),
    Column("wake_seq", BigInteger, nullable=False, server_default="0"),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("vtime", Double, nullable=False, server_default="0"),
    Column("turn", Double, nullable=False, server_default="0"),
    Column("lease_epoch", BigInteger, nullable=False, server_default="0"),
    Column("lease_until", BigInteger),
    Column("lease_owner", String(255)),
    Column("open_batch_id", BigInteger),
    Column("breaker", String(16), nullable=False, server_default="closed"),
    Column("breaker_until", BigInteger),
    Column("fail_streak", Integer, nullable=False, server_default="0"),
    Column("stopped_by", BigInteger),
    Column("first_rows", _json()),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("suspects", _json()),
    CheckConstraint("breaker IN ('closed', 'open', 'half_open')", name="breaker"),
    CheckConstraint("(lease_until IS NULL) = (lease_owner IS NULL)", name="no_half_lease"),
    CheckConstraint("breaker = 'closed' OR breaker_until IS NOT NULL", name="breaker_until"),
    CheckConstraint("lane >= 0", name="lane"),
    _valid_json("first_rows"),
    _valid_json("suspects"),
    postgresql_with={"fillfactor": "50"},
    **MYSQL_OPTIONS,
)
"""Scheduling state: the unit that one worker drains at a time; tiny and hot."""

Index(
    "ix_b24sync_lane_due",
    lane.c.priority,
    lane.c.vtime,
    postgresql_where=text("next_due_at IS NOT NULL"),
    sqlite_where=text("next_due_at IS NOT NULL"),
).ddl_if(callable_=_has_partial_indexes)
Index(
    "ix_b24sync_lane_order", lane.c.priority, lane.c.vtime, lane.c.portal, lane.c.next_due_at
).ddl_if(callable_=_has_whole_indexes)
Index("ix_b24sync_lane_next", lane.c.next_due_at)
Index("ix_b24sync_lane_turn", lane.c.priority, lane.c.turn)

outbox = Table(
    PREFIX + "outbox",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("portal", _exact(PORTAL_LENGTH), nullable=False, server_default="default"),
    Column("lane", SmallInteger, nullable=False, server_default="0"),
    Column("kind", _exact(KIND_LENGTH), nullable=False),
    Column("entity_key", _exact(KEY_LENGTH), nullable=False),
    Column("operation", String(8), nullable=False),
    Column("method", String(128)),
    Column("fields", _json()),
    Column("params", _json()),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("marker", String(MARKER_LENGTH)),
    Column("doubt_policy", String(16)),
    Column("mergeable", Boolean, nullable=False, server_default=true()),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("state", String(8), nullable=False, server_default=RowState.READY),
    Column("state_reason", String(255)),
    Column("due_at", BigInteger, nullable=False, server_default="0"),
    Column("expires_at", BigInteger),
    Column("deliveries", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("not_runs", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("batch_id", BigInteger),
    Column("cmd_no", SmallInteger),
    Column("waits_for", _exact(KIND_LENGTH + KEY_LENGTH + 1)),
    Column("first_error", _long()),
    Column("last_error", _long()),
    Column("headers", _json()),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("created_at", BigInteger, nullable=False, server_default=now_ms()),
    CheckConstraint(_one_of("operation", Operation), name="operation"),
    CheckConstraint(_one_of("state", RowState), name="state"),
    CheckConstraint("kind <> '' AND entity_key <> '' AND portal <> ''", name="not_empty"),
    # MariaDB takes "a" and "a " for one key, the others do not.
    CheckConstraint(
        "length(entity_key) = length(ltrim(rtrim(entity_key))) AND length(kind) = length(ltrim(rtrim(kind))) "
        "AND length(portal) = length(ltrim(rtrim(portal)))",
        name="no_outer_space",
    ),
    CheckConstraint("operation <> 'call' OR method IS NOT NULL", name="a_call_has_a_method"),
    CheckConstraint(
        "operation IN ('delete', 'call') OR fields IS NOT NULL OR params IS NOT NULL",
        name="a_write_has_fields",
    ),
    CheckConstraint(
        "(batch_id IS NOT NULL) = (state IN ('batched', 'doubt'))", name="in_a_batch_or_not"
    ),
    CheckConstraint("(batch_id IS NULL) = (cmd_no IS NULL)", name="no_half_batch"),
    CheckConstraint("waits_for IS NULL OR state = 'held'", name="only_the_held_wait"),
    # Not to the end of their type: one more must fit.
    CheckConstraint(
        "deliveries BETWEEN 0 AND 2000000000 AND attempts BETWEEN 0 AND 2000000000 "
        "AND not_runs BETWEEN 0 AND 2000000000 AND losses BETWEEN 0 AND 2000000000",
        name="counters",
    ),
    CheckConstraint(
        "doubt_policy IS NULL OR doubt_policy IN ('look-up', 'resend', 'hold')",
        name="doubt_policy",
    ),
    CheckConstraint("lane >= 0", name="lane"),
    _sqlite_types(),
    _valid_json("fields"),
    _valid_json("params"),
    _valid_json("headers"),
    sqlite_autoincrement=True,
    postgresql_with={
        "fillfactor": "80",
        "autovacuum_vacuum_scale_factor": "0.0",
        "autovacuum_vacuum_threshold": "5000",
    },
    **MYSQL_OPTIONS,
)
"""Unfinished changes only; ids are never used twice, so they order the changes of an entity."""

Index(
    "ix_b24sync_outbox_ready",
    outbox.c.portal,
    outbox.c.lane,
    outbox.c.priority,
    outbox.c.id,
    postgresql_where=text("state = 'ready'"),
    sqlite_where=text("state = 'ready'"),
).ddl_if(callable_=_has_partial_indexes)
Index(
    "ix_b24sync_outbox_state",
    outbox.c.portal,
    outbox.c.lane,
    outbox.c.state,
    outbox.c.priority,
    outbox.c.id,
).ddl_if(callable_=_has_whole_indexes)
Index(
    "ix_b24sync_outbox_entity",
    outbox.c.portal,
    outbox.c.kind,
    outbox.c.entity_key,
    outbox.c.id,
)
Index(
    "ix_b24sync_outbox_batch",
    outbox.c.batch_id,
    postgresql_where=text("batch_id IS NOT NULL"),
    sqlite_where=text("batch_id IS NOT NULL"),
)
Index(
    "ix_b24sync_outbox_waits",
    outbox.c.portal,
    outbox.c.waits_for,
    postgresql_where=text("waits_for IS NOT NULL"),
    sqlite_where=text("waits_for IS NOT NULL"),
)

batch = Table(
    PREFIX + "batch",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("portal", _exact(PORTAL_LENGTH), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("lane_epoch", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, server_default=BatchState.JOURNALLED),
    Column("halt", Boolean, nullable=False, server_default=false()),
    Column("single", Boolean, nullable=False, server_default=false()),
    Column("n_commands", SmallInteger, nullable=False),
    Column("plan", _json(), nullable=False),
    Column("request_hash", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("sending_at", BigInteger),
    Column("deadline_at", BigInteger),
    Column("quiet_until", BigInteger),
    Column("answered_at", BigInteger),
    Column("closed_at", BigInteger),
    Column("http_status", SmallInteger),
    Column("error_class", String(64)),
    Column("late_answer", _json()),
    Column("late_at", BigInteger),
    Column("operating", _json()),
    CheckConstraint(_one_of("state", BatchState), name="state"),
    CheckConstraint("n_commands BETWEEN 1 AND 50", name="n_commands"),
    CheckConstraint(
        "(closed_at IS NULL) = (state IN ('journalled', 'sending', 'doubt'))", name="closed"
    ),
    CheckConstraint(
        "state NOT IN ('sending', 'doubt', 'answered', 'reconciled') "
        "OR (sending_at IS NOT NULL AND deadline_at IS NOT NULL AND quiet_until IS NOT NULL)",
        name="sent_with_deadlines",
    ),
    _valid_json("plan"),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)
"""The dispatch journal, and the fence: an outcome counts if and only if this row lets it."""

Index(
    "ix_b24sync_batch_open",
    batch.c.portal,
    batch.c.lane,
    postgresql_where=text("closed_at IS NULL"),
    sqlite_where=text("closed_at IS NULL"),
).ddl_if(callable_=_has_partial_indexes)
Index("ix_b24sync_batch_closed", batch.c.closed_at, batch.c.portal, batch.c.lane).ddl_if(
    callable_=_has_whole_indexes
)

result = Table(
    PREFIX + "result",
    metadata,
    Column("id", _id()),
    Column("finished_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("outbox_id", BigInteger, nullable=False),
    Column("portal", _exact(PORTAL_LENGTH), nullable=False),
    Column("kind", _exact(KIND_LENGTH), nullable=False),
    Column("entity_key", _exact(KEY_LENGTH), nullable=False),
    Column("operation", String(8), nullable=False),
    Column("method", String(128)),
    Column("outcome", String(16), nullable=False),
    Column("final", Boolean, nullable=False),
    Column("remote_id", String(64)),
    Column("error_code", String(255)),
    Column("error_text", _long()),
    Column("error_class", String(32)),
    Column("http_status", SmallInteger),
    Column("attempt", Integer, nullable=False),
    Column("batch_id", BigInteger),
    Column("cmd_no", SmallInteger),
    Column("merged_into", BigInteger),
    Column("enqueued_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Column("duration_ms", Integer),
    Column("headers", _json()),
    TimedKey("id"),
    CheckConstraint(_one_of("outcome", ResultOutcome), name="outcome"),
    CheckConstraint(
        "(outcome = 'merged') = (merged_into IS NOT NULL)", name="merged_names_its_row"
    ),
    CheckConstraint(
        f"final = ({_one_of('outcome', [o for o in ResultOutcome if o in FINAL_OUTCOMES])})",
        name="final",
    ),
    sqlite_autoincrement=True,
    **BY_TIME,
    **MYSQL_OPTIONS,
)
"""One row per outbox row per judged attempt, append only; the final one says how it ended."""

Index(
    "ix_b24sync_result_entity",
    result.c.portal,
    result.c.kind,
    result.c.entity_key,
    result.c.finished_at,
)
Index(
    "ix_b24sync_result_trouble",
    result.c.portal,
    result.c.finished_at,
    postgresql_where=text("outcome <> 'applied'"),
    sqlite_where=text("outcome <> 'applied'"),
).ddl_if(callable_=_has_partial_indexes)
Index("ix_b24sync_result_outcome", result.c.portal, result.c.outcome, result.c.finished_at).ddl_if(
    callable_=_has_whole_indexes
)
Index("ix_b24sync_result_finished", result.c.finished_at).ddl_if(callable_=_has_partial_indexes)
# In partitions MariaDB does not see that its index goes on with the id, and would sort all there is.
Index("ix_b24sync_result_newest", result.c.finished_at, result.c.id).ddl_if(
    callable_=_has_whole_indexes
)
event.listen(result, "after_create", RestPartition().execute_if(dialect="postgresql"))

dead = Table(
    PREFIX + "dead",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("outbox_id", BigInteger, nullable=False),
    Column("portal", _exact(PORTAL_LENGTH), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("kind", _exact(KIND_LENGTH), nullable=False),
    Column("entity_key", _exact(KEY_LENGTH), nullable=False),
    Column("operation", String(8), nullable=False),
    Column("method", String(128)),
    Column("fields", _json()),
    Column("params", _json()),
    Column("generation", Integer, nullable=False),
    Column("marker", String(MARKER_LENGTH)),
    Column("doubt_policy", String(16)),
    Column("mergeable", Boolean, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("not_runs", Integer, nullable=False),
    Column("headers", _json()),
    Column("enqueued_at", BigInteger, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("error_code", String(255), nullable=False),
    Column("first_error", _long(), nullable=False),
    Column("last_error", _long(), nullable=False),
    Column("dead_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("replayed_as", BigInteger),
    Column("closed_at", BigInteger),
    Column("closed_by", String(255)),
    Column("edits", _json()),
    CheckConstraint("replayed_as IS NULL OR closed_at IS NOT NULL", name="a_replay_closes"),
    _valid_json("edits"),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)
"""Rows given up on; they rest until they are replayed or dropped."""

Index("ix_b24sync_dead_portal", dead.c.portal, dead.c.dead_at)
Index("ix_b24sync_dead_entity", dead.c.portal, dead.c.kind, dead.c.entity_key)

link = Table(
    PREFIX + "link",
    metadata,
    Column("portal", _exact(PORTAL_LENGTH), primary_key=True),
    Column("kind", _exact(KIND_LENGTH), primary_key=True),
    Column("entity_key", _exact(KEY_LENGTH), primary_key=True),
    Column("remote_id", _exact(64)),
    Column("state", String(16), nullable=False),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("sent_fields", _json()),
    Column("multifield_ids", _json()),
    Column("dup_ids", _json()),
    Column("last_outbox_id", BigInteger, nullable=False, server_default="0"),
    Column("updated_at", BigInteger, nullable=False, server_default=now_ms()),
    CheckConstraint(_one_of("state", LinkState), name="state"),
    CheckConstraint("(state = 'present') = (remote_id IS NOT NULL)", name="present_has_an_id"),
    # The id first: the key's own index is then the only one that begins with portal and kind.
    UniqueConstraint("remote_id", "kind", "portal", name="uq_b24sync_link_remote"),
    **MYSQL_OPTIONS,
)
"""Local entity to remote id, unique both ways."""

duplicate = Table(
    PREFIX + "duplicate",
    metadata,
    Column("id", _id(), primary_key=True),
    Column("portal", _exact(PORTAL_LENGTH), nullable=False),
    Column("kind", _exact(KIND_LENGTH), nullable=False),
    Column("entity_key", _exact(KEY_LENGTH), nullable=False),
    Column("kept_id", String(64), nullable=False),
    Column("other_id", _exact(64), nullable=False),
    Column("found_by", String(16), nullable=False),
    Column("found_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("closed_at", BigInteger),
    UniqueConstraint("portal", "kind", "other_id", name="uq_b24sync_duplicate_record"),
    CheckConstraint("found_by IN ('look-up', 'late-answer', 'audit')", name="found_by"),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)
"""Records found on a portal that carry the marker of an entity that has one already."""

bucket = Table(
    PREFIX + "bucket",
    metadata,
    Column("portal", _exact(PORTAL_LENGTH), primary_key=True),
    Column("egress_group", _exact(64), primary_key=True),
    Column("level", Double, nullable=False, server_default="0"),
    Column("updated_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("blocked_until", BigInteger),
    Column("taught_x", Double),
    Column("taught_y", Double),
    Column("taught_at", BigInteger),
    Column("refusals", BigInteger, nullable=False, server_default="0"),
    Column("refused_at", BigInteger),
    Column("people_at", BigInteger),
    Column("ring_at", BigInteger),
    CheckConstraint("level >= 0", name="level"),
    CheckConstraint(
        "(taught_x IS NULL) = (taught_at IS NULL) AND (taught_y IS NULL) = (taught_at IS NULL)",
        name="taught",
    ),
    postgresql_with={"fillfactor": "50"},
    **MYSQL_OPTIONS,
)
"""The request rate of a portal as all workers behind one address have used it together.

``taught_*`` is what the portal's refusals say of it; ``people_at``, when a person last called;
``ring_at``, when somebody rings for the portal.
"""

method_budget = Table(
    PREFIX + "method_budget",
    metadata,
    Column("portal", _exact(PORTAL_LENGTH), primary_key=True),
    Column("app_id", _exact(64), primary_key=True, server_default=""),
    Column("method", _exact(128), primary_key=True),
    Column("operating_s", Double, nullable=False, server_default="0"),
    Column("reset_at", BigInteger),
    Column("blocked_until", BigInteger),
    Column("cost_s", Double),
    Column("spread_s", Double),
    Column("limit_s", Double),
    Column("baskets", _json()),
    Column("max_bytes", BigInteger),
    Column("found_at", BigInteger),
    Column("updated_at", BigInteger, nullable=False, server_default=now_ms()),
    CheckConstraint("operating_s >= 0", name="operating_s"),
    **MYSQL_OPTIONS,
)
"""What is known of a method's time on a portal."""

rollup = Table(
    PREFIX + "rollup",
    metadata,
    Column("portal", _exact(PORTAL_LENGTH), primary_key=True),
    Column("minute", BigInteger, primary_key=True, autoincrement=False),
    Column("outcome", String(16), primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("latency_sum_ms", BigInteger, nullable=False),
    Column("latency_max_ms", BigInteger, nullable=False),
    CheckConstraint(_one_of("outcome", ResultOutcome), name="outcome"),
    **MYSQL_OPTIONS,
)
"""Counts per portal, minute and outcome, so that nobody counts the hot tables."""

chore = Table(
    PREFIX + "chore",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("lease_until", BigInteger, nullable=False, server_default="0"),
    Column("token", BigInteger, nullable=False, server_default="0"),
    Column("last_run_at", BigInteger, nullable=False, server_default="0"),
    Column("resume_from", Text),
    **MYSQL_OPTIONS,
)
"""One row per periodic chore, so that any number of beats run it once."""

backfill = Table(
    PREFIX + "backfill",
    metadata,
    Column("code", _exact(PORTAL_LENGTH), primary_key=True),
    Column("portal", _exact(PORTAL_LENGTH), nullable=False),
    Column("kind", _exact(KIND_LENGTH), nullable=False),
    Column("source", _json(), nullable=False),
    Column("last_key", _json()),
    Column("state", String(16), nullable=False, server_default=BackfillState.RUNNING),
    Column("reason", Text),
    Column("lease_until", BigInteger, nullable=False, server_default="0"),
    Column("token", BigInteger, nullable=False, server_default="0"),
    Column("read_rows", BigInteger, nullable=False, server_default="0"),
    Column("enqueued", BigInteger, nullable=False, server_default="0"),
    Column("skipped", BigInteger, nullable=False, server_default="0"),
    Column("refused", BigInteger, nullable=False, server_default="0"),
    Column("last_refusal", Text),
    Column("estimate", BigInteger),
    Column("most_waiting", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("only_missing", Boolean, nullable=False, server_default=false()),
    Column("skip_bad", Boolean, nullable=False, server_default=false()),
    Column("created_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("updated_at", BigInteger, nullable=False, server_default=now_ms()),
    Column("finished_at", BigInteger),
    CheckConstraint("code <> '' AND portal <> '' AND kind <> ''", name="not_empty"),
    CheckConstraint(_one_of("state", BackfillState), name="state"),
    CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="a_failure_has_a_reason"),
    CheckConstraint(
        f"({_one_of('state', sorted(OVER))}) = (finished_at IS NOT NULL)", name="finished"
    ),
    CheckConstraint("lease_until = 0 OR state = 'running'", name="only_the_running_are_leased"),
    CheckConstraint(
        "enqueued >= 0 AND skipped >= 0 AND refused >= 0 "
        "AND read_rows = enqueued + skipped + refused",
        name="every_row_is_counted_once",
    ),
    CheckConstraint("(read_rows = 0) = (last_key IS NULL)", name="read_up_to_a_key"),
    CheckConstraint("(refused = 0) = (last_refusal IS NULL)", name="a_refusal_is_told"),
    CheckConstraint("most_waiting > 0 AND step BETWEEN 1 AND 10000", name="bounds"),
    _valid_json("source"),
    _valid_json("last_key"),
    **MYSQL_OPTIONS,
)
"""One row per back-fill: what is read, up to where, and what became of it."""
