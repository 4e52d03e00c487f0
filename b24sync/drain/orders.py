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
class Resting:
    """A portal that may not be called for a moment, by those who call it from one address.

    Units: ``until_s`` seconds, by the clock of the world.
    """

    egress_group: str
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a run did.

    Shape: ``outcomes`` counts result rows by outcome; ``deferred`` counts rows that went back at no
    charge; ``looks`` counts requests that only read. ``more``: lanes were still due when the run
    ended. ``resting`` are portals of which a lane was left until a time; that is nothing done, and
    not compared.
    """

    batches: int = 0
    looks: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    deferred: int = 0
    more: bool = False
    resting: Mapping[str, Resting] = field(default_factory=dict[str, Resting], compare=False)

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        outcomes = dict(self.outcomes)
        for outcome, count in other.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        resting = dict(self.resting)
        for code, rest in other.resting.items():
            known = resting.get(code, rest)
            resting[code] = rest if rest.until_s < known.until_s else known
        return Tally(
            batches=self.batches + other.batches,
            looks=self.looks + other.looks,
            outcomes=outcomes,
            deferred=self.deferred + other.deferred,
            more=self.more or other.more,
            resting=resting,
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
