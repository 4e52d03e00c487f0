"""A declaration read against its mapper: which attributes count, and how a value is read.

Everything that can be wrong with a declaration is refused here, before any session is listened to.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Table, inspect, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import (
    ColumnProperty,
    CompositeProperty,
    Mapper,
    QueryableAttribute,
    RelationshipDirection,
    RelationshipProperty,
    Session,
    SynonymProperty,
    class_mapper,
    object_session,
)
from sqlalchemy.orm.exc import UnmappedClassError

from b24sync.capture.declared import Attribute, Computed, Entity, RefTo, Source
from b24sync.core.errors import CaptureError
from b24sync.core.kind_table import find_kind
from b24sync.core.model import Operation, Ref
from b24sync.outbox import Outbox

INSERTS = (Operation.UPSERT, Operation.ADD)
UPDATES = (Operation.UPDATE, Operation.UPSERT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A value of an object, and the attributes whose change is a change of it."""

    read: Callable[[Any], object]
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watch:
    """An entity, ready to be read.

    ``names`` are all attributes that count; ``touched`` those of them that the database or the
    mapper sets whenever the row is updated; ``standing`` those that decide who the object is and
    whether it is on the portal; ``columns`` those that stand in the object's own rows,
    and ``tables`` the tables of these.
    """

    entity: Entity
    outbox: Outbox
    mapper: Mapper[Any]
    key: Reading
    portal: Reading
    when: Reading
    fields: Mapping[str, Reading]
    names: frozenset[str]
    standing: frozenset[str]
    touched: frozenset[str]
    columns: frozenset[str]
    tables: frozenset[Table]


def watches(entities: Sequence[Entity], outbox: Outbox) -> list[Watch]:
    """Read declarations, in their order.

    Raises: CaptureError, naming the class and what is wrong with its declaration.
    """
    return [_watch(entity, entities, outbox) for entity in entities]


def _watch(entity: Entity, entities: Sequence[Entity], outbox: Outbox) -> Watch:
    mapper = _mapper(entity)
    _sensible(entity, outbox)
    key = _text(mapper, entity.key)
    portal = _portal(mapper, entity.portal)
    when = Reading(read=_always) if entity.when is None else _value(mapper, entity.when)
    fields = {name: _field(mapper, of, entities) for name, of in entity.fields.items()}
    standing = key.names | portal.names | when.names
    columns = frozenset(mapper.column_attrs.keys())
    if not standing <= columns:
        raise CaptureError(
            _name(entity.mapped),
            f"{', '.join(sorted(standing - columns))}: key, portal and when read columns of the "
            "class itself, whose old values are known",
        )
    names = standing.union(*(part.names for part in fields.values()))
    return Watch(
        entity=entity,
        outbox=outbox,
        mapper=mapper,
        key=key,
        portal=portal,
        when=when,
        fields=fields,
        names=names,
        standing=standing,
        columns=names & columns,
        touched=frozenset(name for name in names if _is_touched(mapper, name)),
        tables=frozenset(_tables(mapper)),
    )


def _mapper(entity: Entity) -> Mapper[Any]:
    try:
        return class_mapper(entity.mapped)
    except (UnmappedClassError, ArgumentError):
        raise CaptureError(_name(entity.mapped), "is not a mapped class") from None


def _name(mapped: object) -> str:
    return getattr(mapped, "__name__", None) or repr(mapped)


def _sensible(entity: Entity, outbox: Outbox) -> None:
    who = _name(entity.mapped)
    if find_kind(entity.kind, outbox.kinds) is None:
        raise CaptureError(who, f"the kind {entity.kind!r} is unknown")
    if not entity.fields:
        raise CaptureError(who, "fields are missing; say what the portal is to hold")
    if entity.inserts not in INSERTS:
        raise CaptureError(who, f"inserts is {entity.inserts!r}; upsert or add may be")
    if entity.updates not in UPDATES:
        raise CaptureError(who, f"updates is {entity.updates!r}; update or upsert may be")


def _always(_instance: object) -> object:
    return True


def _portal(mapper: Mapper[Any], of: Attribute | Computed) -> Reading:
    if isinstance(of, str):
        return Reading(read=lambda _instance: of)
    return _value(mapper, of)


def _field(mapper: Mapper[Any], of: Source, entities: Sequence[Entity]) -> Reading:
    if not isinstance(of, RefTo):
        return _value(mapper, of)
    prop = None if isinstance(of.of, Computed) else mapper.attrs.get(_key(of.of))
    if isinstance(prop, RelationshipProperty):
        return _related(mapper, prop, of, _key_of_related(prop, of, entities))
    if of.key is not None:
        raise CaptureError(_name(mapper.class_), f"{of.of} is no relationship: it is the key")
    return _ref(of.kind, _text(mapper, of.of))


def _ref(kind: str, key: Reading) -> Reading:
    def read(instance: object) -> object:
        value = key.read(instance)
        return Ref(kind, value) if isinstance(value, str) else value

    return Reading(read=read, names=key.names)


def _value(mapper: Mapper[Any], of: Attribute | Computed) -> Reading:
    if isinstance(of, Computed):
        return Reading(read=of.function, names=_read_by(mapper, of))
    if callable(of):
        raise CaptureError(
            _name(mapper.class_),
            f"{of!r} does not say which attributes it reads; write Computed(function, [names])",
        )
    name = _key(of)
    names = _tracked(mapper, name)
    return Reading(read=lambda instance: getattr(instance, name), names=names)


def _read_by(mapper: Mapper[Any], of: Computed) -> frozenset[str]:
    reads = [of.reads] if isinstance(of.reads, str | QueryableAttribute) else of.reads
    if not reads:
        raise CaptureError(_name(mapper.class_), "a Computed must name the attributes it reads")
    return frozenset[str]().union(*(_tracked(mapper, _key(name)) for name in reads))


def _text(mapper: Mapper[Any], of: Attribute | Computed) -> Reading:
    """A key: numbers become text, and a template without one of its values is nothing."""
    if not (isinstance(of, str) and "{" in of):
        value = _value(mapper, of)
        return Reading(read=lambda instance: _spelled(value.read(instance)), names=value.names)
    parts = [name for _, name, _, _ in Formatter().parse(of) if name is not None]
    names = frozenset[str]().union(*(_tracked(mapper, name) for name in parts))

    def read(instance: object) -> object:
        values = {name: getattr(instance, name) for name in parts}
        return None if None in values.values() else of.format_map(values)

    return Reading(read=read, names=names)


def _spelled(value: object) -> object:
    return str(value) if isinstance(value, int | UUID) else value


def _key(attribute: Attribute) -> str:
    return attribute if isinstance(attribute, str) else attribute.key


def _tracked(mapper: Mapper[Any], name: str) -> frozenset[str]:
    """The attributes that SQLAlchemy keeps a history of, for one that a declaration names."""
    match mapper.attrs.get(name):
        case RelationshipProperty() as prop:
            columns = (mapper.get_property_by_column(column).key for column in prop.local_columns)
            return frozenset({name, *columns})
        case CompositeProperty() as prop:
            return frozenset(part.key for part in prop.props)
        case SynonymProperty() as prop:
            return _tracked(mapper, prop.name)
        case ColumnProperty() as prop if isinstance(prop.columns[0], Column):
            return frozenset({name})
        case _:
            raise CaptureError(
                f"{_name(mapper.class_)}.{name}",
                "is neither a column nor a relationship; what is computed of them is "
                "Computed(function, [the attributes it reads])",
            )


def _is_touched(mapper: Mapper[Any], name: str) -> bool:
    prop = mapper.attrs.get(name)
    if not isinstance(prop, ColumnProperty):
        return False
    return any(
        column.onupdate is not None
        or column.server_onupdate is not None
        or column is mapper.version_id_col
        for column in prop.columns
        if isinstance(column, Column)
    )


def _tables(mapper: Mapper[Any]) -> Iterable[Table]:
    for heir in mapper.self_and_descendants:
        for table in heir.tables:
            if isinstance(table, Table):
                yield table


def _key_of_related(
    prop: RelationshipProperty[Any], of: RefTo, entities: Sequence[Entity]
) -> Reading:
    """The key of the object at the other end."""
    if prop.direction is not RelationshipDirection.MANYTOONE:
        raise CaptureError(
            str(prop), "leads to many objects or away from the key; write Computed(function, […])"
        )
    if of.key is not None:
        return _text(prop.mapper, of.key)
    for entity in entities:
        if entity.kind == of.kind and prop.mapper.isa(_mapper(entity)):
            return _text(prop.mapper, entity.key)
    raise CaptureError(
        str(prop),
        f"no entity of the kind {of.kind!r} is captured with it; "
        "say RefTo(kind, relationship, key=…)",
    )


def _related(
    mapper: Mapper[Any], prop: RelationshipProperty[Any], of: RefTo, key: Reading
) -> Reading:
    """A reference that follows the foreign key, which a flush has set in any case.

    The object at the other end may be another one by now, not loaded, or new itself. It is asked
    only where the foreign key does not tell its key, and queried only where it is not at hand.
    """
    pairs = [
        (
            mapper.get_property_by_column(local).key,
            prop.mapper.get_property_by_column(remote).key,
        )
        for local, remote in prop.local_remote_pairs or ()
    ]

    def read(instance: object) -> object:
        known = {remote: getattr(instance, local) for local, remote in pairs}
        if None in known.values():
            return None
        other = _other(instance, prop, known, key)
        value = None if other is None else key.read(other)
        return Ref(of.kind, value) if isinstance(value, str) else value

    return Reading(read=read, names=_tracked(mapper, prop.key))


def _other(
    instance: object, prop: RelationshipProperty[Any], known: Mapping[str, object], key: Reading
) -> object:
    if key.names <= known.keys():
        return SimpleNamespace(**known)
    loaded = inspect(instance, raiseerr=True).dict.get(prop.key)
    if loaded is not None and all(getattr(loaded, name) == known[name] for name in known):
        return loaded
    return _queried(object_session(instance), prop.mapper, known, key.names)


def _queried(
    session: Session | None, mapper: Mapper[Any], known: Mapping[str, object], names: Iterable[str]
) -> object:
    """Columns, not the object: one that is new in this very flush must not be loaded twice."""
    if session is None:
        return None
    columns = [getattr(mapper.class_, name).label(name) for name in names]
    where = [getattr(mapper.class_, name) == value for name, value in known.items()]
    with session.no_autoflush:
        return session.execute(select(*columns).where(*where)).one_or_none()
