"""What rows wait for, and why the wait may never end by itself.

A row that refers to an entity without a remote id waits for that entity's own change. Two things
end such a wait in another way: the change came to nothing, or the entities wait for each other.
"""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import Connection, select

from b24sync.core.model import Operation, Ref, ResultOutcome, Row, RowState
from b24sync.edge.guards import of_entities, row_of
from b24sync.edge.tables import outbox, result, written

LONGEST_CIRCLE = 50
"""How far a chain of waiting entities is followed."""


def lost(
    connection: Connection, code: str, entities: Collection[tuple[str, str]]
) -> Mapping[tuple[str, str], str]:
    """Why these entities will not get an id, as far as that is known.

    Shape: by (kind, key), only those whose last change came to nothing, or deleted them, and of
    which no other change is on its way.
    Writes: nothing.
    """
    if not entities:
        return {}
    there = connection.execute(
        select(outbox.c.kind, outbox.c.entity_key)
        .where(
            outbox.c.portal == code,
            of_entities(outbox.c.kind, outbox.c.entity_key, entities),
        )
        .distinct()
    )
    unfinished = {(kind, key) for kind, key in there}
    without = [entity for entity in entities if entity not in unfinished]
    if not without:
        return {}
    ended = connection.execute(
        select(
            result.c.kind,
            result.c.entity_key,
            result.c.operation,
            result.c.outcome,
            result.c.error_code,
            result.c.outbox_id,
        )
        .where(
            result.c.portal == code,
            result.c.final.is_(True),
            # A merged row ended as the one did that it went with.
            result.c.outcome != ResultOutcome.MERGED,
            of_entities(result.c.kind, result.c.entity_key, without),
        )
        .order_by(result.c.id)
    )
    reasons: dict[tuple[str, str], str] = {}
    for kind, key, operation, outcome, error_code, number in ended:
        reason = _reason(operation, outcome, error_code, number)
        if reason is None:
            reasons.pop((kind, key), None)
        else:
            reasons[kind, key] = f"{kind} {key}, {reason}"
    return reasons


def _reason(operation: str, outcome: str, error_code: str | None, number: int) -> str | None:
    match ResultOutcome(outcome):
        case ResultOutcome.FAILED:
            return f"whose {operation} failed ({error_code or 'no code'}, row {number})"
        case ResultOutcome.EXPIRED | ResultOutcome.CANCELLED as ended:
            return f"whose {operation} was {ended} (row {number})"
        case _ if operation == Operation.DELETE:
            return f"which was deleted (row {number})"
        case _:
            return None


def waits(
    connection: Connection, code: str, entities: Iterable[tuple[str, str]]
) -> Mapping[tuple[str, str], Ref]:
    """For which entity each of these waits, and for which that one waits, and so on.

    Writes: nothing.
    """
    found: dict[tuple[str, str], Ref] = {}
    following, asked = set(entities), set[tuple[str, str]]()
    for _ in range(LONGEST_CIRCLE):
        if not following:
            break
        held = connection.execute(
            select(outbox.c.kind, outbox.c.entity_key, outbox.c.waits_for).where(
                outbox.c.portal == code,
                outbox.c.state == written(RowState.HELD),
                outbox.c.waits_for.is_not(None),
                of_entities(outbox.c.kind, outbox.c.entity_key, following),
            )
        ).all()
        for kind, key, target in held:
            of_kind, _, of_key = target.partition(" ")
            found[kind, key] = Ref(of_kind, of_key)
        asked |= following
        following = {(ref.kind, ref.key) for ref in found.values()} - asked
    return found


def waiting_rows(
    connection: Connection, code: str, entities: Collection[tuple[str, str]]
) -> tuple[Row, ...]:
    """The rows of these entities that wait for another entity.

    Writes: nothing.
    """
    if not entities:
        return ()
    held = connection.execute(
        select(outbox).where(
            outbox.c.portal == code,
            outbox.c.state == written(RowState.HELD),
            outbox.c.waits_for.is_not(None),
            of_entities(outbox.c.kind, outbox.c.entity_key, entities),
        )
    ).mappings()
    return tuple(row_of(row) for row in held)
