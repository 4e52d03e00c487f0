"""An object said as a change, and changes written where their objects are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import InstanceState, Mapper, Session

from b24sync.capture.readings import Watch
from b24sync.core.errors import ChangeError
from b24sync.core.model import Change, Operation
from b24sync.outbox import Outbox


class Watches:
    """What is captured in a session, by mapper: the nearest class that was declared counts."""

    def __init__(self, declared: Iterable[Watch]) -> None:
        """Keep the order of declarations."""
        self._by_class: dict[type[object], list[tuple[int, Watch]]] = {}
        self._by_mapper: dict[Mapper[Any], list[tuple[int, Watch]]] = {}
        for position, watch in enumerate(declared):
            self._by_class.setdefault(watch.entity.mapped, []).append((position, watch))

    def all(self) -> Iterator[Watch]:
        """Every declaration."""
        return (watch for part in self._by_class.values() for _, watch in part)

    def of(self, mapper: Mapper[Any]) -> list[tuple[int, Watch]]:
        """The declarations for objects of a mapper, each with its position."""
        found = self._by_mapper.get(mapper)
        if found is None:
            classes = (heir.class_ for heir in mapper.iterate_to_root())
            declared = (self._by_class[of] for of in classes if of in self._by_class)
            found = next(declared, list[tuple[int, Watch]]())
            self._by_mapper[mapper] = found
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Which entity of which portal an object is, and whether it is there at all."""

    portal: str = ""
    key: str = ""
    is_there: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A change and the object that it is about; ``place`` orders the changes of one flush."""

    change: Change
    watch: Watch
    instance: object
    place: tuple[int, int, int] = field(default=(1, 0, 0))


def standing(watch: Watch, instance: object, seen: object) -> Standing:
    """Where an object stands as it is seen, which may be as it was before.

    Raises: ChangeError, naming the object, if its key or portal is no text.
    """
    if not watch.when.read(seen):
        return Standing()
    portal, key = watch.portal.read(seen), watch.key.read(seen)
    for name, value in (("portal", portal), ("key", key)):
        if not isinstance(value, str):
            problem = f"text or a whole number is needed, not {type(value).__name__}"
            raise ChangeError(name, problem, entity=who(instance))
    return Standing(portal=str(portal), key=str(key), is_there=True)


def whole(
    watch: Watch, instance: object, place: tuple[int, int, int] = (1, 0, 0)
) -> Iterator[Said]:
    """The change that makes all of an object known; none for one that is not on the portal."""
    at = standing(watch, instance, instance)
    if at.is_there:
        fields = {name: part.read(instance) for name, part in watch.fields.items()}
        yield say(watch, instance, at, watch.entity.inserts, place, fields)


def partial(
    watch: Watch,
    instance: object,
    at: Standing,
    changed: frozenset[str],
    place: tuple[int, int, int],
) -> Iterator[Said]:
    """The change that says what changed; none if no field did."""
    fields = {
        name: part.read(instance)
        for name, part in watch.fields.items()
        if not changed.isdisjoint(part.names)
    }
    if fields:
        yield say(watch, instance, at, watch.entity.updates, place, fields)


def say(
    watch: Watch,
    instance: object,
    at: Standing,
    operation: str,
    place: tuple[int, int, int],
    fields: dict[str, object] | None = None,
) -> Said:
    """One change of an object."""
    change = Change(
        watch.entity.kind,
        at.key,
        operation,
        fields or {},
        portal=at.portal,
        priority=watch.entity.priority,
    )
    return Said(change=change, watch=watch, instance=instance, place=place)


def is_delete(said: Said) -> bool:
    """Whether the entity is gone with this change."""
    return said.change.operation == Operation.DELETE


def enqueue(session: Session, said: Sequence[Said]) -> None:
    """Write changes, in this order, through the connections of their objects.

    Raises: ChangeError, naming the object too.
    Writes: outbox, in the session's transaction.
    """
    groups: dict[tuple[int, int], tuple[Outbox, Connection, list[Said]]] = {}
    for one in said:
        connection = session.connection(bind_arguments={"mapper": one.watch.mapper})
        group = (id(one.watch.outbox), id(connection))
        groups.setdefault(group, (one.watch.outbox, connection, []))[2].append(one)
    for outbox, connection, part in groups.values():
        try:
            outbox.enqueue_many(connection, [one.change for one in part])
        except ChangeError as error:
            raise _named(error, part[error.position or 0]) from None


def _named(error: ChangeError, said: Said) -> ChangeError:
    entity = f"{who(said.instance)}, {said.change.kind}:{said.change.key}"
    return ChangeError(error.field, error.problem, entity=entity)


def who(instance: object) -> str:
    """The class and primary key of an object."""
    identity = state_of(instance).mapper.primary_key_from_instance(instance)
    return f"{type(instance).__name__} {', '.join(map(repr, identity))}"


def state_of(instance: object) -> InstanceState[Any]:
    """What SQLAlchemy knows of an object."""
    state: InstanceState[Any] = inspect(instance, raiseerr=True)
    return state
