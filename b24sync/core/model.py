"""The nouns that every other module speaks of.

Frozen, slotted values and closed enumerations, without behaviour beyond their own invariants.
What a row, a command, a batch, a reply, an outcome and a verdict *are* is said here once; what is
decided about them is said in the modules above.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value that JSON can carry; decimals of stored rows arrive as ``decimal.Decimal`` leaves."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stored document that its database takes for JSON, and that cannot be read.

    A number in it has thousands of digits, or lists are nested without end. ``text`` is the document as it is stored.
    """

    text: str = field(repr=False)


class Operation(StrEnum):
    """What the application asks for."""

    ADD = "add"
    UPDATE = "update"
    DELETE = "delete"
    UPSERT = "upsert"
    CALL = "call"


class RowState(StrEnum):
    """Where an unfinished outbox row stands."""

    READY = "ready"
    BATCHED = "batched"
    DOUBT = "doubt"
    PARKED = "parked"
    HELD = "held"


class BatchState(StrEnum):
    """Where a batch stands between the journal and its outcome."""

    JOURNALLED = "journalled"
    SENDING = "sending"
    ANSWERED = "answered"
    DOUBT = "doubt"
    RECONCILED = "reconciled"
    RETURNED = "returned"


class PortalState(StrEnum):
    """Whether a portal may be called, and if not, what kind of trouble a person must look at."""

    ACTIVE = "active"
    PAUSED = "paused"
    AUTH_LOST = "auth_lost"
    PLAN_LOST = "plan_lost"
    OVERLOADED = "overloaded"
    GONE = "gone"
    MISCONFIGURED = "misconfigured"


class HaltMode(StrEnum):
    """How far a failed command reaches."""

    INDEPENDENT = "independent"
    CHAIN = "chain"
    STRICT = "strict"


class ResultOutcome(StrEnum):
    """What a result row records.

    ``unchanged``: the portal is so already, and nothing was sent. ``different``: applied, and the
    record was read afterwards and is not what was said. ``begun``: a circle of references was
    broken; the record is made, and the rest of the row follows. ``stopped``: refused in the halt
    mode ``strict``; the lane stands still until a person decides.
    """

    APPLIED = "applied"
    MERGED = "merged"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"
    UNCHANGED = "unchanged"
    DIFFERENT = "different"
    BEGUN = "begun"
    STOPPED = "stopped"


FINAL_OUTCOMES = frozenset(
    {
        ResultOutcome.APPLIED,
        ResultOutcome.MERGED,
        ResultOutcome.FAILED,
        ResultOutcome.EXPIRED,
        ResultOutcome.CANCELLED,
        ResultOutcome.UNCHANGED,
        ResultOutcome.DIFFERENT,
    }
)
"""A row ends in exactly one of these."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A field value that stands for the remote id of another entity."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Change:
    """What an application says about one entity of one portal.

    Shape: ``fields`` and ``params`` may nest mappings, lists, dates, decimals and ``Ref``;
    ``method`` is for the operation ``call`` only, which sends ``params`` as they are.
    Units: ``due_at`` and ``expires_at`` are aware instants; a smaller ``priority`` goes first.
    """

    kind: str
    key: str
    operation: str
    fields: Mapping[str, object] = field(default_factory=dict[str, object])
    params: Mapping[str, object] = field(default_factory=dict[str, object])
    portal: str = "default"
    method: str | None = None
    priority: int = 0
    due_at: datetime | None = None
    expires_at: datetime | None = None
    mergeable: bool = True
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One unfinished outbox row, as it was read.

    Units: ``*_ms`` are epoch milliseconds of the database's clock.
    """

    id: int
    portal: str
    lane: int
    kind: str
    key: str
    operation: Operation
    fields: object
    params: object
    method: str | None = None
    generation: int = 0
    marker: str | None = None
    priority: int = 0
    attempts: int = 0
    deliveries: int = 0
    not_runs: int = 0
    losses: int = 0
    enqueued_at_ms: int = 0
    expires_at_ms: int | None = None
    cancel_requested: bool = False
    first_error: str | None = None
    last_error: str | None = None
    headers: object = None
    mergeable: bool = True


class LinkState(StrEnum):
    """What is known of the record that belongs to a local entity.

    ``doubt``: it was made, and its id is not known. ``conflict``: its id belongs to another entity.
    """

    PRESENT = "present"
    ABSENT = "absent"
    DELETED = "deleted"
    DOUBT = "doubt"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A local entity and the portal's record for it.

    Shape: ``sent`` are fingerprints of what was last sent, by field; ``None``, they are not kept.
    """

    kind: str
    key: str
    remote_id: str | None
    generation: int = 0
    state: LinkState = LinkState.PRESENT
    sent: Mapping[str, str] | None = None


class FaultKind(StrEnum):
    """What sort of complaint the portal makes, by what is to be done about it."""

    RATE = "rate"
    METHOD_TIME = "method_time"
    TOKEN = "token"  # noqa: S105 - the name of a kind of fault, not a credential
    PORTAL = "portal"
    MOVED = "moved"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    GONE = "gone"
    SERVER = "server"
    TOO_LARGE = "too_large"
    UNREACHABLE = "unreachable"
    UNLISTED = "unlisted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What the portal complained of, in its own words and in ours.

    ``portal_state`` says, for a portal-wide fault, what the portal becomes until a person acts.
    """

    code: str
    text: str
    kind: FaultKind
    status: int | None = None
    portal_state: PortalState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a record must hold after a command, under the names of the change."""

    fields: Mapping[str, object]
    params: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One entry of a batch: what one or more rows become on the wire.

    Shape: ``row_ids`` are the rows that it says, first of all the first of them; ``lead`` is the one
    whose result is the command's own, by default that first one. ``query`` is what follows the ``?``.
    ``sources`` are the first rows of those commands of the same batch whose new ids this one takes.
    ``id_path`` says where the new id stands in the answer: empty, the answer itself is the id;
    ``None``, there is none. ``gone`` are the patterns of "not found" that make a delete a success.
    ``repeatable``: sending it twice leaves the portal in the same state as sending it once.
    ``alone``: must not travel inside a batch.
    ``remainder``: fields that are left out to break a circle of references, and sent afterwards.
    ``fingerprints``: what the link remembers of what was sent, by field; ``None``, it is left as it
    is. ``said``: what the record must hold afterwards, if that is to be verified.
    """

    row_ids: tuple[int, ...]
    kind: str
    key: str
    operation: Operation
    method: str
    query: str
    remote_id: str | None = None
    marker: str | None = None
    id_path: tuple[str, ...] | None = None
    gone: tuple[tuple[str, str], ...] = ()
    linked: bool = False
    repeatable: bool = False
    alone: bool = False
    lead: int | None = None
    sources: tuple[int, ...] = ()
    remainder: Mapping[str, object] | None = None
    fingerprints: Mapping[str, str] | None = None
    said: Said | None = None

    @property
    def label(self) -> str:
        """Its name in a batch: a letter first, so never a number to PHP."""
        return f"r{self.row_ids[0]}"

    @property
    def leads(self) -> int:
        """The row whose result is the command's own."""
        return self.row_ids[0] if self.lead is None else self.lead


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that cannot be said to the portal, and why."""

    row_id: int
    code: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A row that waits for the remote id of another entity.

    ``reason``: why the wait may be long; empty, the entity's own rows are on their way.
    """

    row_id: int
    target: Ref
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """A row whose method the portal has blocked for a while.

    Units: ``until_ms`` is epoch milliseconds.
    """

    row_id: int
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A row that ends without being sent: cancelled, past its time, or saying nothing new.

    Shape: ``merged`` are the rows that end with it.
    """

    row_id: int
    outcome: ResultOutcome
    merged: tuple[int, ...] = ()


class Asks(StrEnum):
    """What a question wants to know."""

    RECORD = "record"
    MATCH = "match"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What has to be read on the portal before an entity's row can be said.

    ``record``: the entity's record as it is; ``match``: the ids of the records that may be it, whose
    fields have the ``wanted`` values.
    """

    kind: str
    key: str
    asks: Asks
    method: str
    query: str
    wanted: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rows sorted into what can be sent now and what cannot.

    Shape: each row is in one place at the most. Rows with ``questions`` stand aside until those are
    answered. ``is_cut``: what stands behind a refused row was not looked at.
    """

    commands: tuple[Command, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    postponed: tuple[Postponed, ...] = ()
    closing: tuple[Closing, ...] = ()
    questions: tuple[Question, ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """At most fifty commands that travel in one request.

    Shape: ``labels`` and ``commands`` are of one length and order. ``single``: one command that
    is called by itself, outside the method ``batch``.
    """

    labels: tuple[str, ...]
    commands: tuple[Command, ...]
    halt: bool = False
    single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: facts without opinion.

    ``body`` is the decoded JSON; ``readable`` says whether there was any.
    Units: ``took_s`` is seconds from the first byte sent to the last byte read.
    """

    status: int
    body: object = None
    readable: bool = True
    took_s: float = 0.0
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The portal did it.

    ``different`` names the fields that are not as they were said, where that was read afterwards.
    Units: ``duration_ms`` is the portal's own measure of the command, if it gave one.
    """

    remote_id: str | None = None
    was_gone: bool = False
    duration_ms: int | None = None
    different: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The portal judged the command and refused it.

    ``is_gone``: because there is no such record any more.
    """

    fault: Fault
    is_gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Provably not executed, through no fault of the command.

    Units: ``retry_at_ms`` is epoch milliseconds by the portal's clock, where it named a time.
    """

    fault: Fault
    retry_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Spared by a halt: provably not executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Sent, and nobody can say whether it was executed."""

    reason: str
    fault: Fault | None = None


Outcome: TypeAlias = Applied | Rejected | Deferred | Skipped | Unknown
"""What became of one command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The row is done: write its final result and remove it."""

    outcome: ResultOutcome
    remote_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The row goes back and tries again later.

    Units: ``delay_ms`` milliseconds from now. ``charged``: an attempt is spent.
    """

    delay_ms: int
    charged: bool
    fault: Fault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """The row was not run and goes back at no charge, first in line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """The row rests until it is known what became of it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury:
    """The row is given up on: final result ``failed`` and a dead letter."""

    reason: str
    fault: Fault


Verdict: TypeAlias = Finish | Retry | Spare | Doubt | Bury
"""What is done about one row after its command's outcome."""
