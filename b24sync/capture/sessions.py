"""Which sessions listen, and what they refuse because it would never become a change."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event
from sqlalchemy.orm import (
    Mapper,
    ORMExecuteState,
    Session,
    UOWTransaction,
    object_mapper,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.sql.dml import UpdateBase

from b24sync.capture.checking import CHUNK, Uncaptured, uncaptured
from b24sync.capture.declared import Entity
from b24sync.capture.flushing import note, prepare, write
from b24sync.capture.readings import Watch, watches
from b24sync.capture.saying import Watches, enqueue, whole
from b24sync.core.errors import CaptureError
from b24sync.outbox import DEFAULT, Outbox

Target: TypeAlias = sessionmaker[Any] | scoped_session[Any] | type[Session] | Session
"""What makes sessions, or is one."""

ALLOWED = "b24sync_uncaptured"
"""The execution option of a statement that may pass by."""

PREPARED, NOTED = "b24sync_prepared", "b24sync_noted"
"""Where a flush keeps what is captured in it, and what it did."""

_Key: TypeAlias = tuple[type[object], str, str]

_captured: WeakKeyDictionary[object, dict[_Key, Watch]] = WeakKeyDictionary()
"""What is captured, by the class of sessions or the session that ``capture`` was called for."""

_kept: WeakKeyDictionary[Mapper[Any], set[str]] = WeakKeyDictionary()
"""The attributes whose old values are always loaded; that outlasts the capture, and is harmless."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Captured:
    """Entities that are captured in the sessions of a target, until they are removed."""

    target: type[Session] | Session
    watches: Mapping[_Key, Watch]

    def remove(self) -> None:
        """Stop capturing; what another call captures there stays. May be called again."""
        there = _captured.get(self.target)
        if there is None:
            return
        for key, watch in self.watches.items():
            if there.get(key) is watch:
                del there[key]
        if not there:
            del _captured[self.target]
            for name, listener in LISTENERS.items():
                event.remove(self.target, name, listener)

    def enqueue(self, session: Session, instances: Iterable[object]) -> None:
        """Write objects in full, as if they were inserted, as after ``uncaptured``.

        Shape: objects that are not on the portal, or of classes not captured here, are left out.
        Raises: ChangeError, naming the object.
        Writes: outbox, in the session's transaction.
        """
        mine = Watches(self.watches.values())
        said = [
            one
            for instance in instances
            for _, watch in mine.of(_mapper_of(instance))
            for one in whole(watch, instance)
        ]
        enqueue(session, said)

    def uncaptured(self, connection: Connection, *, chunk: int = CHUNK) -> Iterator[Uncaptured]:
        """List rows that were never written to the outbox.

        Shape: entity by entity, in the order of primary keys, ``chunk`` rows in a query.
        Raises: nothing of its own.
        """
        for watch in self.watches.values():
            yield from uncaptured(connection, watch, chunk=chunk)


def capture(target: Target, entities: Sequence[Entity], *, outbox: Outbox = DEFAULT) -> Captured:
    """Let the sessions of a target write what they change of these entities.

    Shape: a class captured again there for the same kind and portal is captured as said last, and
    once; what a session, its class and the classes above it capture is captured together.
    Raises: CaptureError for a declaration that makes no sense; nothing is captured then.
    """
    sessions = _sessions(target)
    found = {_key(watch.entity): watch for watch in watches(entities, outbox)}
    for watch in found.values():
        _keep_old_values(watch)
    # SQLAlchemy knows targets by their address, which a forgotten sessionmaker leaves to others:
    # what it says of listeners that are there may be about another target.
    if sessions not in _captured:
        for name, listener in LISTENERS.items():
            event.listen(sessions, name, listener)
    _captured.setdefault(sessions, {}).update(found)
    return Captured(target=sessions, watches=found)


def _sessions(target: object) -> type[Session] | Session:
    match target:
        case sessionmaker():
            return target.class_
        case scoped_session():
            return _sessions(target.session_factory)
        case Session():
            return target
        case type() if issubclass(target, Session):
            return target
        case _:
            raise CaptureError(
                repr(target),
                "is no Session, Session class, sessionmaker or scoped_session; for asyncio, "
                "capture the class that is given as sync_session_class",
            )


def _key(entity: Entity) -> _Key:
    return entity.mapped, entity.kind, entity.portal if isinstance(entity.portal, str) else ""


def _mapper_of(instance: object) -> Mapper[Any]:
    mapper: Mapper[Any] = object_mapper(instance)
    return mapper


def _keep_old_values(watch: Watch) -> None:
    """Have old values of what decides who an object is loaded before they are overwritten."""
    kept = _kept.setdefault(watch.mapper, set())
    for name in (watch.standing & watch.columns) - kept:
        attribute = getattr(watch.entity.mapped, name)
        event.listen(attribute, "set", _overwritten, active_history=True, propagate=True)
        kept.add(name)


def _overwritten(_instance: object, _value: object, _old: object, _initiator: object) -> None:
    """Listen for old values, which SQLAlchemy then loads."""


def _watches_of(session: Session) -> Watches:
    """What is captured in a session; the nearest declaration of a class and kind counts."""
    found: dict[_Key, Watch] = {}
    for target in (*reversed(type(session).__mro__), session):
        found |= _captured.get(target, {})
    return Watches(found.values())


def _before_flush(session: Session, context: UOWTransaction, _instances: object) -> None:
    # A session and its class may both be listened to: the first of the two calls counts, here and
    # below.
    if PREPARED not in context.attributes:
        found = _watches_of(session)
        context.attributes[PREPARED] = (found, prepare(session, found))


def _after_flush(session: Session, context: UOWTransaction) -> None:
    if NOTED not in context.attributes and PREPARED in context.attributes:
        found, expressions = context.attributes[PREPARED]
        context.attributes[NOTED] = note(session, context, found, expressions)


def _after_flush_postexec(session: Session, context: UOWTransaction) -> None:
    noted = context.attributes.pop(NOTED, None)
    if noted:
        write(session, noted)


def _before_statement(state: ORMExecuteState) -> None:
    """Refuse what writes captured rows without a flush.

    Raises: CaptureError; the statement is not executed.
    """
    statement = state.statement
    if not isinstance(statement, UpdateBase) or state.execution_options.get(ALLOWED, False):
        return
    table = statement.entity_description["table"]
    for watch in _watches_of(state.session).all():
        if table in watch.tables:
            raise CaptureError(
                watch.entity.mapped.__name__,
                "is captured, and this statement would change its rows unseen; change the objects "
                f"instead, or execute it with execution_options({ALLOWED}=True) and enqueue what "
                "it changed",
            )


LISTENERS: Mapping[str, Callable[..., None]] = {
    "before_flush": _before_flush,
    "after_flush": _after_flush,
    "after_flush_postexec": _after_flush_postexec,
    "do_orm_execute": _before_statement,
}
