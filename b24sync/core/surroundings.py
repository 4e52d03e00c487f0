"""What a plan knows besides its rows, and the ways in which a row cannot be said yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from b24sync.core.kinds import Kind
from b24sync.core.model import Command, Fault, Link, Question, Ref
from b24sync.core.policies import Policy

Entity: TypeAlias = tuple[str, str]
"""Kind and key."""

Part: TypeAlias = Mapping[str, object]
"""The fields or the params of a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read on the portal for this plan.

    Shape: by (kind, key): ``records`` as they are there, empty where there is none; ``matches``, the
    ids of records that may be the entity; ``failures``, complaints about a question.
    """

    records: Mapping[Entity, Mapping[str, object]] = field(
        default_factory=dict[Entity, Mapping[str, object]]
    )
    matches: Mapping[Entity, tuple[str, ...]] = field(default_factory=dict[Entity, tuple[str, ...]])
    failures: Mapping[Entity, Fault] = field(default_factory=dict[Entity, Fault])

    def __or__(self, other: "Facts") -> "Facts":
        """Both together; of the same entity the other's count."""
        return Facts(
            records={**self.records, **other.records},
            matches={**self.matches, **other.matches},
            failures={**self.failures, **other.failures},
        )


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a plan needs to know besides the rows.

    Shape: ``links`` by (kind, key); ``blocked`` by method, with the end of the block; ``makers``,
    the commands of the same batch that make an entity, empty where a batch goes on after a failure;
    ``lost``, why an entity will not get an id; ``cut``, by row, the entity that its add is sent
    without, because a circle of references is broken there.
    Units: ``now_ms`` and the ends are epoch milliseconds of the database's clock.
    """

    links: Mapping[Entity, Link] = field(default_factory=dict[Entity, Link])
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    policies: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    blocked: Mapping[str, int] = field(default_factory=dict[str, int])
    facts: Facts = NO_FACTS
    makers: Mapping[Entity, Command] = field(default_factory=dict[Entity, Command])
    lost: Mapping[Entity, str] = field(default_factory=dict[Entity, str])
    cut: Mapping[int, Ref] = field(default_factory=dict[int, Ref])
    now_ms: int = 0


class Unlinked(Exception):  # noqa: N818 - a signal to planning, not an error
    """A reference whose entity has no remote id yet."""

    def __init__(self, target: Ref) -> None:
        """Name the entity."""
        super().__init__(target.kind, target.key)
        self.target = target


class Unread(Exception):  # noqa: N818 - a signal to planning, not an error
    """Something has to be read on the portal first."""

    def __init__(self, question: Question) -> None:
        """Carry the question."""
        super().__init__(question.kind, question.key)
        self.question = question


class Unchanged(Exception):  # noqa: N818 - a signal to planning, not an error
    """The portal is so already; there is nothing to send."""
