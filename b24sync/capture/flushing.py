"""What a flush changed, in three steps.

``prepare``, before its statements: what the flush itself will make us forget. ``note``, after
them, while histories are still there: which attributes changed, what was, and what is gone.
``write``, when the flush has put everything in its place and its transaction is still open: values
are read, and the changes inserted. Primary keys are known by then and rows are locked; what is
loaded for a value finds new objects where they are, not a second time.

Order: deletes first, those of the entities declared last before the others; then what was inserted
and updated, in the order of the declarations. An object that takes the place of a deleted one of
the same key is one upsert.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlalchemy import ClauseElement, select
from sqlalchemy.orm import InstanceState, PassiveFlag, Session, UOWTransaction
from sqlalchemy.orm.attributes import get_history

from b24sync.capture.readings import Watch
from b24sync.capture.saying import (
    Said,
    Standing,
    Watches,
    enqueue,
    is_delete,
    partial,
    say,
    standing,
    state_of,
    who,
    whole,
)
from b24sync.core.errors import CaptureError
from b24sync.core.model import Operation

KNOWN = PassiveFlag.PASSIVE_NO_INITIALIZE | PassiveFlag.INCLUDE_PENDING_MUTATIONS
"""How histories are asked for: what is known, without loading anything."""

Expressions = Mapping[InstanceState[Any], frozenset[str]]
"""Attributes that were set to SQL expressions; a flush forgets that they changed."""


class _Before:
    """An object as it was before the changes of this flush, for all that reads attributes."""

    def __init__(self, state: InstanceState[Any]) -> None:
        self._b24sync_state = state

    def __getattr__(self, name: str) -> object:
        state = self._b24sync_state
        if name in state.committed_state:
            old = get_history(state.object, name, KNOWN).deleted
            if old:
                return old[0]
        return getattr(state.object, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inserted:
    """A new row."""

    watch: Watch
    instance: object
    place: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """A row of which something changed that counts.

    ``before`` is where its object stood, if that may be elsewhere than now.
    """

    watch: Watch
    instance: object
    place: tuple[int, int, int]
    changed: frozenset[str]
    before: Standing | None


Noted = Inserted | Updated | Said
"""What a flush did with one object; deletes are said at once, before the object is let go."""


def prepare(session: Session, watches: Watches) -> Expressions:
    """Take note of what is not known any more once the flush's statements have run.

    Raises: CaptureError if who an object is, or whether it is on the portal, is left to SQL.
    """
    found: dict[InstanceState[Any], frozenset[str]] = {}
    for instance in session.dirty:
        state = state_of(instance)
        for _, watch in watches.of(state.mapper):
            found[state] = names = _expressions(state)
            if not names.isdisjoint(watch.standing):
                raise CaptureError(
                    who(instance),
                    f"{', '.join(sorted(names & watch.standing))} must be set to plain values, "
                    "for they decide which entity of the portal this is",
                )
    for instance in session.deleted:
        for _, watch in watches.of(state_of(instance).mapper):
            # An attribute that is not loaded now cannot be when the row is gone.
            _stood(watch, state_of(instance))
    return found


def _expressions(state: InstanceState[Any]) -> frozenset[str]:
    values = ((name, state.dict.get(name)) for name in state.committed_state)
    return frozenset(
        name
        for name, value in values
        if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
    )


def note(
    session: Session, context: UOWTransaction, watches: Watches, expressions: Expressions
) -> list[Noted]:
    """Tell what the flush did with the objects that are captured.

    Raises: ChangeError, naming the object.
    """
    # Not session.new, dirty and deleted: orphans and cascades are known to the flush alone.
    states = cast("Mapping[InstanceState[Any], tuple[bool, bool]]", vars(context)["states"])
    return [
        noted
        for state, (is_deleted, is_listed_only) in states.items()
        if is_deleted or not is_listed_only
        for position, watch in watches.of(state.mapper)
        for noted in (
            _deleted(watch, state, position)
            if is_deleted
            else _saved(session, watch, state, position, expressions.get(state, frozenset()))
        )
    ]


def _deleted(watch: Watch, state: InstanceState[Any], position: int) -> Iterator[Noted]:
    before = _stood(watch, state)
    if before.is_there and watch.entity.deletes:
        yield say(watch, state.object, before, Operation.DELETE, (0, -position, 0))


def _saved(
    session: Session,
    watch: Watch,
    state: InstanceState[Any],
    position: int,
    expressions: frozenset[str],
) -> Iterator[Noted]:
    if state.key is None:
        place = (1, position, state.insert_order or 0)
        yield Inserted(watch=watch, instance=state.object, place=place)
    elif changed := _changed(session, watch, state.object, expressions):
        yield Updated(
            watch=watch,
            instance=state.object,
            place=(1, position, 0),
            changed=changed,
            before=None if changed.isdisjoint(watch.standing) else _stood(watch, state),
        )


def _stood(watch: Watch, state: InstanceState[Any]) -> Standing:
    return standing(watch, state.object, _Before(state))


def _changed(
    session: Session, watch: Watch, instance: object, expressions: frozenset[str]
) -> frozenset[str]:
    """The attributes that count and have changed."""
    changed = frozenset(
        name
        for name in watch.names
        if name in expressions or get_history(instance, name, KNOWN).has_changes()
    )
    if watch.touched and (expressions or session.is_modified(instance, include_collections=False)):
        return changed | watch.touched
    return changed


def write(session: Session, noted: Sequence[Noted]) -> None:
    """Write the changes of a flush.

    Raises: ChangeError, naming the object too; CaptureError if an object's key changed. Either ends
    the flush, which rolls its transaction back.
    Writes: outbox, in the transaction and through the connections of the flush.
    """
    said = [one for what in noted for one in _said(session, what)]
    if said:
        enqueue(session, _replaced(sorted(said, key=lambda one: one.place)))


def _said(session: Session, noted: Noted) -> Iterator[Said]:
    match noted:
        case Said():
            yield noted
        case Inserted():
            yield from whole(noted.watch, noted.instance, noted.place)
        case Updated():
            yield from _update(session, noted)


def _update(session: Session, of: Updated) -> Iterator[Said]:
    _lock(session, of)
    now = standing(of.watch, of.instance, of.instance)
    before = of.before or now
    if now.is_there and not before.is_there:
        yield from whole(of.watch, of.instance, of.place)
    elif now.is_there:
        if now != before:
            raise _moved(of.instance, before, now)
        yield from partial(of.watch, of.instance, now, of.changed, of.place)
    elif before.is_there and of.watch.entity.deletes_hidden:
        _, position, _ = of.place
        yield say(of.watch, of.instance, before, Operation.DELETE, (0, -position, 0))


def _lock(session: Session, of: Updated) -> None:
    """Hold the object's row when only others were written, as for a member of a collection."""
    state = state_of(of.instance)
    if not of.changed.isdisjoint(of.watch.columns) or state.identity is None:
        return
    keys = state.mapper.primary_key
    row = select(*keys).where(*(key == of for key, of in zip(keys, state.identity, strict=True)))
    connection = session.connection(bind_arguments={"mapper": state.mapper})
    # Not against foreign keys: two transactions that have each added a member would lock each
    # other out for ever.
    connection.execute(row.with_for_update(key_share=True))


def _moved(instance: object, before: Standing, now: Standing) -> CaptureError:
    key, portal = (before.key, now.key), (before.portal, now.portal)
    name, (was, became) = ("key", key) if before.key != now.key else ("portal", portal)
    return CaptureError(
        who(instance),
        f"its {name} changed from {was!r} to {became!r}, and the portal's record belongs to the "
        f"old one; delete the object and make another, or capture a {name} that never changes",
    )


def _replaced(said: Sequence[Said]) -> list[Said]:
    """Without the deletes of entities that the same flush writes anew."""
    gone = {_entity(one) for one in said if is_delete(one)}
    again = gone & {_entity(one) for one in said if not is_delete(one)}
    if not again:
        return list(said)
    return [
        replace(one, change=replace(one.change, operation=Operation.UPSERT))
        if _entity(one) in again
        else one
        for one in said
        if not (is_delete(one) and _entity(one) in again)
    ]


def _entity(said: Said) -> tuple[str, str, str]:
    return said.change.portal, said.change.kind, said.change.key
