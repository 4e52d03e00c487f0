"""Records that are on the portal already are linked to the entities that they are.

::

    from b24sync import adopt

    with Session(engine) as session, session.begin():
        told = adopt(session, [("contact", "c-17", "4711"), ("contact", "c-18", 4712)])
        for conflict in told.conflicts:
            print(conflict)

From then on an upsert of ``c-17`` is an update of record 4711 and makes no second one. Links are
unique both ways; what would break that is a conflict, which is told and not written. A person has
looked at what is adopted: a link that was deleted, in doubt or in conflict is present again.

Like ``outbox``, nothing here begins, commits or rolls back.
"""

import dataclasses
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from reprlib import repr as shortened
from types import MappingProxyType
from typing import TypeAlias, TypeGuard, cast

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from b24sync.core.changes import checked
from b24sync.core.errors import ChangeError
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind
from b24sync.core.model import Change
from b24sync.edge import adopting
from b24sync.edge.adopting import Known, KnownRecord
from b24sync.edge.waiting import release_for

Where: TypeAlias = Connection | Session | scoped_session[Session]
"""What links are written with: whatever the application's transaction runs in."""

Follow: TypeAlias = Callable[[str, int, int], object]
"""Is told how far it went: what is being done, to how many links, of how many."""

CHUNK = 500
"""Links in one statement; more does not make it faster."""

MAX_ID = 2**63
"""Portals number records in eight bytes."""

ANY_METHOD = "profile"
LINK_PARTS = 3
NO_KINDS: Mapping[str, Kind] = MappingProxyType({})

_is_id = re.compile(r"[1-9][0-9]{0,18}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A link that was not written.

    Shape: ``position`` counts from 0. ``known_id`` is the id that the key has instead, ``held_by``
    the key that has the id; ``earlier`` is the position of the link of the same input that says
    so, ``None`` if the table does. Where neither is set, the link changed while it was written.
    """

    position: int
    kind: str
    key: str
    remote_id: str
    known_id: str | None = None
    held_by: str | None = None
    earlier: int | None = None

    def __str__(self) -> str:
        """What was to be linked, and what stands against it."""
        by = "already" if self.earlier is None else "by an earlier line"
        against: list[str] = []
        if self.known_id is not None:
            against.append(f"it is linked to {self.known_id} {by}")
        if self.held_by is not None:
            against.append(f"{self.remote_id} is linked to {self.kind} {self.held_by} {by}")
        why = " and ".join(against) or "its link was written by somebody else meanwhile, try again"
        return f"{self.kind} {self.key} is not linked to {self.remote_id}: {why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What became of links that were to be adopted; each is counted once.

    Shape: ``adopted`` had no id before, ``replaced`` had another one, ``unchanged`` had this one
    or were given twice. ``released`` are rows that waited for one of these ids.
    """

    adopted: int
    replaced: int
    unchanged: int
    conflicts: tuple[Conflict, ...] = ()
    released: int = 0


def adopt(
    where: Where,
    links: Iterable[tuple[str, str, str | int]],
    *,
    portal: str = "default",
    replace: bool = False,
    kinds: Mapping[str, Kind] = NO_KINDS,
    schema: str | None = None,
) -> Adoption:
    """Link entities to records that are on the portal already, in the transaction of ``where``.

    A key that is linked to another id keeps it, unless ``replace`` is said; an id that another key
    holds is never taken, unless that key gets another one in the same call. Rows that waited for
    one of these ids go on.

    Shape: each link is kind, key and remote id. ``kinds`` are those declared in the setting
    ``b24sync_kinds``, ``schema`` is that of the tables.
    Raises: ChangeError, naming the position, the entity, the field and what to do; nothing was
    written. As ``link_known``.
    Writes: link, outbox, in the caller's transaction.
    """
    records = known_records(links, portal=portal, kinds=kinds)
    with _in_schema(_connection(where), schema) as connection:
        return link_known(connection, portal, records, replace=replace)


def known_records(
    links: Iterable[tuple[str, str, object]],
    *,
    portal: str = "default",
    kinds: Mapping[str, Kind] = NO_KINDS,
) -> tuple[KnownRecord, ...]:
    """Check links of kind, key and remote id.

    Raises: ChangeError for the first that cannot be one.
    """
    return tuple(_record(at, given, portal, kinds) for at, given in enumerate(links))


def _record(at: int, given: object, portal: str, kinds: Mapping[str, Kind]) -> KnownRecord:
    if not _is_sequence(given) or len(given) != LINK_PARTS:
        raise ChangeError("link", "a kind, a key and an id are needed, in this order", position=at)
    kind, key = cast("tuple[str, str]", given[:2])
    # A call says nothing of its entity: of this one only kind, key and portal are checked.
    row = checked(Change(kind, key, "call", method=ANY_METHOD, portal=portal), kinds, position=at)
    entity = f"{kind}:{key}"
    found = find_kind(kind, kinds)
    if found is None or not found.linked:
        problem = f"{kind!r} has no records with an id of their own, so there is nothing to link"
        raise ChangeError("kind", problem, entity=entity, position=at)
    try:
        remote_id = _id(given[2])
    except ValueError as error:
        raise ChangeError("id", str(error), entity=entity, position=at) from None
    return KnownRecord(str(row["kind"]), str(row["entity_key"]), remote_id)


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    """Rows of a query are sequences, and no tuples."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _id(value: object) -> str:
    """An id as it is stored; those of all kinds are numbers.

    Raises: ValueError.
    """
    match value:
        case "" | None:
            raise ValueError("is missing")
        case str() if _is_id(value) and int(value) < MAX_ID:
            return str.__str__(value)
        case str():
            raise ValueError(
                f"{shortened(value)} is not the id of a record; write the number alone, without "
                "a prefix, blanks or zeros before it"
            )
        case int() if not isinstance(value, bool) and 0 < value < MAX_ID:
            return format(int(value), "d")
        case _:
            raise ValueError("a whole number above 0 is needed, or its digits as text")


def link_known(
    connection: Connection,
    code: str,
    records: Sequence[KnownRecord],
    *,
    replace: bool = False,
    follow: Follow | None = None,
) -> Adoption:
    """Link what was checked, all decided before anything is written.

    A link that a worker writes meanwhile is not written over: it is a conflict.
    Raises: sqlalchemy.exc.IntegrityError if a worker gives one of these ids to another key while a
    link that is there already takes it. Roll back and adopt again; that finds the conflict.
    Writes: link; outbox, held to ready.
    """
    decided = _decide(connection, code, records, replace=replace, follow=follow)
    # All are given up before the first is taken: an id may go from one of these keys to another.
    for part in _parts(decided.replaced):
        former = ((*records[at].entity, decided.replaced[at]) for at in part)
        adopting.give_up(connection, code, [KnownRecord(*known) for known in former])
    todo = sorted(decided.fresh | decided.regained | decided.replaced.keys())
    raced: list[Conflict] = []
    released = done = 0
    for part in _parts(todo):
        fresh = [records[at] for at in part if at in decided.fresh]
        adopting.add_links(connection, code, fresh)
        adopting.fill_links(
            connection, code, [records[at] for at in part if at not in decided.fresh]
        )
        beaten = _beaten(connection, code, records, part)
        raced += beaten.values()
        linked = [records[at].entity for at in part if at not in beaten]
        released += release_for(connection, code, linked)
        done += len(part)
        if follow is not None:
            follow("linking", done, len(todo))
    return decided.told(len(records), raced=raced, released=released)


def rehearse(
    connection: Connection,
    code: str,
    records: Sequence[KnownRecord],
    *,
    replace: bool = False,
    follow: Follow | None = None,
) -> Adoption:
    """Say what ``link_known`` would do, but for the rows that it would release.

    Writes: nothing.
    """
    decided = _decide(connection, code, records, replace=replace, follow=follow)
    return decided.told(len(records))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """What is to be done about links, by position.

    Shape: ``fresh`` have no row yet, ``regained`` one without an id; ``replaced`` are given with
    the id that the key gives up, ``repeats`` with the first link that says the same.
    """

    fresh: frozenset[int]
    regained: frozenset[int]
    replaced: Mapping[int, str]
    repeats: Mapping[int, int]
    conflicts: Sequence[Conflict]

    def told(self, count: int, *, raced: Sequence[Conflict] = (), released: int = 0) -> Adoption:
        against = {conflict.position: conflict for conflict in (*self.conflicts, *raced)}
        again = (
            dataclasses.replace(against[first], position=at)
            for at, first in self.repeats.items()
            if first in against
        )
        conflicts = sorted((*against.values(), *again), key=lambda each: each.position)
        adopted = len((self.fresh | self.regained) - against.keys())
        replaced = len(self.replaced.keys() - against.keys())
        return Adoption(
            adopted=adopted,
            replaced=replaced,
            unchanged=count - adopted - replaced - len(conflicts),
            conflicts=tuple(conflicts),
            released=released,
        )


def _decide(
    connection: Connection,
    code: str,
    records: Sequence[KnownRecord],
    *,
    replace: bool,
    follow: Follow | None,
) -> _Decided:
    adopting.plan_anew(connection)
    distinct, repeats, contradictions = _compared_among_themselves(records)
    ids: dict[tuple[str, str], str | None] = {}
    holders: dict[tuple[str, str], str] = {}
    done = 0
    for part in _parts(distinct):
        found = adopting.read_known(connection, code, [records[at] for at in part])
        ids.update(found.ids)
        holders.update(found.holders)
        done += len(part)
        if follow is not None:
            follow("comparing", done, len(distinct))
    known = Known(ids, holders)
    others = {at: has for at in distinct if (has := _other_id(records[at], known)) is not None}
    stuck = _stuck(records, distinct, known, others if replace else {})
    free = [at for at in distinct if at not in stuck and at not in others]
    return _Decided(
        fresh=frozenset(at for at in free if records[at].entity not in ids),
        regained=frozenset(at for at in free if ids.get(records[at].entity, "") is None),
        replaced={at: has for at, has in others.items() if at not in stuck},
        repeats=repeats,
        conflicts=[*contradictions, *(_conflict(at, records[at], known) for at in stuck)],
    )


def _compared_among_themselves(
    records: Sequence[KnownRecord],
) -> tuple[Sequence[int], Mapping[int, int], Sequence[Conflict]]:
    """The links that no earlier one says or contradicts, those that one says, the contradictions."""
    keys: dict[tuple[str, str], int] = {}
    ids: dict[tuple[str, str], int] = {}
    distinct: list[int] = []
    repeats: dict[int, int] = {}
    contradictions: list[Conflict] = []
    for at, given in enumerate(records):
        same_key = keys.setdefault(given.entity, at)
        same_id = ids.setdefault(given.record, at)
        if same_key == same_id == at:
            distinct.append(at)
        elif same_key == same_id:
            repeats[at] = same_key
        else:
            said = Known(
                {given.entity: records[same_key].remote_id}, {given.record: records[same_id].key}
            )
            contradictions.append(_conflict(at, given, said, earlier=min(same_key, same_id)))
    return distinct, repeats, contradictions


def _other_id(given: KnownRecord, known: Known) -> str | None:
    has = known.ids.get(given.entity)
    return None if has == given.remote_id else has


def _other_holder(given: KnownRecord, known: Known) -> str | None:
    holder = known.holders.get(given.record)
    return None if holder == given.key else holder


def _conflict(at: int, given: KnownRecord, said: Known, *, earlier: int | None = None) -> Conflict:
    return Conflict(
        position=at,
        kind=given.kind,
        key=given.key,
        remote_id=given.remote_id,
        known_id=_other_id(given, said),
        held_by=_other_holder(given, said),
        earlier=earlier,
    )


def _stuck(
    records: Sequence[KnownRecord],
    distinct: Sequence[int],
    known: Known,
    moving: Mapping[int, str],
) -> frozenset[int]:
    """The links that cannot be written: the key has another id, or another key has the id.

    ``moving`` are those whose key gives its id up. One that is stuck gives up nothing, so that
    whoever was to have that id is stuck too.
    """
    given_up = {(records[at].kind, has) for at, has in moving.items()}
    takers = {records[at].record: at for at in distinct}
    stuck: set[int] = set()
    queue: list[int] = []
    for at in distinct:
        given = records[at]
        keeps = at not in moving and _other_id(given, known) is not None
        is_taken = given.record not in given_up and _other_holder(given, known) is not None
        if keeps or is_taken:
            queue.append(at)
    while queue:
        at = queue.pop()
        stuck.add(at)
        taker = takers.get((records[at].kind, moving.get(at, "")))
        if taker is not None and taker not in stuck:
            queue.append(taker)
    return frozenset(stuck)


def _beaten(
    connection: Connection, code: str, records: Sequence[KnownRecord], part: Sequence[int]
) -> Mapping[int, Conflict]:
    """The links that somebody else wrote otherwise after they were compared."""
    known = adopting.read_known(connection, code, [records[at] for at in part])
    return {
        at: _conflict(at, records[at], known)
        for at in part
        if known.ids.get(records[at].entity) != records[at].remote_id
    }


def _parts(positions: Iterable[int]) -> Iterator[Sequence[int]]:
    rest = iter(positions)
    while part := list(islice(rest, CHUNK)):
        yield part


@contextmanager
def _in_schema(connection: Connection, schema: str | None) -> Generator[Connection]:
    """The caller's own connection, for this long with the schema of the tables."""
    if schema is None:
        yield connection
        return
    before = connection.get_execution_options().get("schema_translate_map")
    connection.execution_options(schema_translate_map={None: schema})
    try:
        yield connection
    finally:
        connection.execution_options(schema_translate_map=before)


def _connection(where: Where) -> Connection:
    """The connection of the caller's transaction; a session writes its own pending rows first."""
    if isinstance(where, Connection):
        return where
    session = where() if isinstance(where, scoped_session) else where
    if session.autoflush:
        session.flush()
    return session.connection()
