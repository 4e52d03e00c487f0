"""What a portal's limits leave for the next batch, as a value.

A claim reads it once, by the database's clock, and decides by it alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What is known of a portal's limits at one moment.

    Shape: ``blocked`` are the methods that may not be called, with the end of each.
    Units: ``now_ms`` and the ends are epoch milliseconds by the database's clock.
    """

    now_ms: int
    blocked: Mapping[str, int] = field(default_factory=dict[str, int])
