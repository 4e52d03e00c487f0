"""What a run is asked to do, and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from b24sync.core.model import HaltMode
from b24sync.core.surroundings import NO_FACTS, Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one run is asked to drain: which portal and kinds, and how many rows at the most.

    ``halt``: how far a failed command reaches; ``None``, as each portal's policy says.
    """

    portal: str | None = None
    kinds: tuple[str, ...] = ()
    halt: HaltMode | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a run did.

    Shape: ``outcomes`` counts result rows by outcome; ``deferred`` counts rows that went back at no
    charge; ``looks`` counts requests that only read. ``more``: lanes were still due when the run
    ended.
    """

    batches: int = 0
    looks: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    deferred: int = 0
    more: bool = False

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        outcomes = dict(self.outcomes)
        for outcome, count in other.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return Tally(
            batches=self.batches + other.batches,
            looks=self.looks + other.looks,
            outcomes=outcomes,
            deferred=self.deferred + other.deferred,
            more=self.more or other.more,
        )

    @property
    def rows(self) -> int:
        """How many rows were moved in any way."""
        return sum(self.outcomes.values()) + self.deferred

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return self.batches + self.looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """How a pass ended; ``rest_ms`` says that the lane is to be left until then.

    ``first_rows`` go before all others in the next pass; ``facts`` were read for it.
    """

    tally: Tally
    goes_on: bool
    rest_ms: int | None = None
    first_rows: tuple[int, ...] = ()
    facts: Facts = NO_FACTS


def milliseconds(seconds: float) -> int:
    """Seconds of a setting as whole milliseconds of the tables."""
    return int(seconds * 1000)
