"""Whether something newer has happened to the entity of a dead letter since it was written.

Said again, an old change is the newest: what was written after it, and has been applied or is on its
way, would be undone by it. Replays of earlier letters of the same entity are no newer for that.
"""

from sqlalchemy import ColumnElement, and_, exists, literal, or_, select

from b24sync.core.model import ResultOutcome
from b24sync.edge.links import CALL
from b24sync.edge.tables import dead, outbox, result

DONE = (
    ResultOutcome.APPLIED,
    ResultOutcome.DIFFERENT,
    ResultOutcome.MERGED,
    ResultOutcome.UNCHANGED,
)
"""Outcomes of changes after which the portal is as they said."""

_EARLIER = dead.alias("earlier")


def is_overtaken() -> ColumnElement[bool]:
    """Whether a later change of a letter's entity was applied, or waits to be.

    Results that are pruned by now are not known any more.
    """
    waits = exists(
        select(literal(1)).where(
            outbox.c.portal == dead.c.portal,
            outbox.c.kind == dead.c.kind,
            outbox.c.entity_key == dead.c.entity_key,
            outbox.c.id > dead.c.outbox_id,
            ~_says_an_earlier_letter(outbox.c.id),
        )
    )
    is_done = exists(
        select(literal(1)).where(
            result.c.portal == dead.c.portal,
            result.c.kind == dead.c.kind,
            result.c.entity_key == dead.c.entity_key,
            result.c.outbox_id > dead.c.outbox_id,
            result.c.outcome.in_([str(outcome) for outcome in DONE]),
            ~_says_an_earlier_letter(result.c.outbox_id),
        )
    )
    # Calls that are about no entity have nothing in common but that.
    return and_(dead.c.kind != CALL, or_(waits, is_done))


def _says_an_earlier_letter(row_id: ColumnElement[int]) -> ColumnElement[bool]:
    # Two storeys below the letter that is meant: of itself it is taken for any other letter.
    return exists(
        select(literal(1))
        .where(
            _EARLIER.c.portal == dead.c.portal,
            _EARLIER.c.kind == dead.c.kind,
            _EARLIER.c.entity_key == dead.c.entity_key,
            _EARLIER.c.id < dead.c.id,
            _EARLIER.c.replayed_as == row_id,
        )
        .correlate(dead, outbox, result)
    )
