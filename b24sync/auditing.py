"""An audit asks a portal whether markers occur more than once, and tells of what it finds.

It walks over the links and looks for the markers of their names, forty in a command and fifty
commands in a request: 100,000 links cost 50 requests, and a page that is full some more. It only
reads on the portal, and sends as long as half of the portal's rate is free: the rest is for changes.
Where it may not go on, it ends and says when; whoever runs it keeps its place and comes again.

Not seen by it: records with an external key that the application gave, which nobody promises to be
unique; kinds without a marker, or whose list must be told where to look; and records whose marker
no link names, as those of an entity that was forgotten.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sqlalchemy import Connection

from b24sync.core.auditing import (
    MARKERS,
    Ask,
    Heard,
    Hit,
    Linked,
    asks_of,
    heard,
    is_auditable,
    others,
    said,
)
from b24sync.core.batching import MAX_COMMANDS
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind
from b24sync.core.model import Applied, FaultKind, Outcome, Rejected
from b24sync.drain.inquiring import AGAIN_MS, NotNow, inquire
from b24sync.drain.sending import report_duplicates
from b24sync.edge import auditing, duplicates, tenants
from b24sync.edge.auditing import Place
from b24sync.edge.database import reading, transact
from b24sync.edge.duplicates import Choice, Found, FoundBy
from b24sync.edge.tenants import Tenant
from b24sync.world import World

log = logging.getLogger("b24sync")

RESERVED = 0.5
"""The share of a portal's rate that is left for changes."""

MOST_OPERATING_S = 240.0
"""How much of a method's time budget is used at the most; the portal refuses it at 480."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What an audit has found, and where it is.

    Shape: ``links`` were looked for. ``found`` nobody had told of before, ``known`` somebody had;
    ``gone`` were open, and are closed because they are not there any more. ``unseen`` links have no
    record under the marker of their name, or another one than their own. ``skipped`` are kinds that
    could not be asked for, with the reason. ``place`` is ``None`` when all was seen; else ``why`` it
    ended before.
    Units: ``wait_ms`` milliseconds until it may go on.
    """

    links: int = 0
    requests: int = 0
    found: tuple[Found, ...] = ()
    known: int = 0
    gone: int = 0
    unseen: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])
    place: Place | None = None
    wait_ms: int = 0
    why: str = ""

    def __add__(self, later: "Audited") -> "Audited":
        """Both together; the place is where the later one is."""
        return replace(
            later,
            links=self.links + later.links,
            requests=self.requests + later.requests,
            found=self.found + later.found,
            known=self.known + later.known,
            gone=self.gone + later.gone,
            unseen=self.unseen + later.unseen,
            skipped={**self.skipped, **later.skipped},
        )


@dataclass(slots=True, kw_only=True)
class _Look:
    """Some links, and what was heard of their markers so far."""

    hits: dict[tuple[str, str], tuple[Hit, ...]] = field(
        default_factory=dict[tuple[str, str], tuple[Hit, ...]]
    )
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    requests: int = 0
    is_dear: bool = False
    """So much of a method's time is used that the rest is left to others."""

    def note(self, ask: Ask, told: Heard) -> tuple[Ask, ...]:
        """Keep what an answer says; what has to be asked besides."""
        if told.is_foreign:
            self.skipped[ask.kind] = "its list does not know the condition"
            return ()
        for marker, hits in told.hits.items():
            of = (ask.kind, marker)
            self.hits[of] = (*self.hits.get(of, ()), *hits)
        return told.asks


def audit(
    world: World,
    code: str,
    place: Place,
    *,
    lasting: Callable[[], bool],
    watching: Callable[[Audited], object] = lambda _: None,
) -> Audited:
    """Audit a portal from this place on, until all is seen, or it may not go on.

    Shape: ``watching`` is told after every request's worth of links; what is found until then is
    written, and its place may be gone on from.
    Writes: bucket; method_budget; duplicate; link, its further ids.
    """
    total = Audited(place=place)
    while lasting():
        done = _step(world, code, place, total.skipped)
        total += done
        watching(done)
        if done.why or done.place is None:
            return total
        place = done.place
    return total


def _step(world: World, code: str, place: Place, skipped: Mapping[str, str]) -> Audited:
    """Some links, from reading them to writing what was found; the place behind them."""
    look = _Look(skipped=dict(skipped))
    with reading(world.engine) as connection:
        of = tenants.tenant(connection, code)
        linked, behind = _linked(world, connection, code, place, look)
    try:
        _asked(world, of, look, linked)
    except NotNow as rests:
        log.info("audit_rests portal=%s why=%s", code, rests.why)
        return Audited(
            requests=look.requests + rests.requests,
            place=place,
            wait_ms=rests.wait_ms,
            why=rests.why,
        )
    linked = [one for one in linked if one.kind not in look.skipped]
    told = transact(world.engine, partial(_written, code=code, linked=linked, look=look))
    report_duplicates(told.found)
    told = replace(told, requests=look.requests, skipped=look.skipped, place=behind)
    if look.is_dear and behind is not None:
        return replace(told, wait_ms=AGAIN_MS, why="method_time")
    return told


def _linked(
    world: World, connection: Connection, code: str, place: Place, look: _Look
) -> tuple[list[Linked], Place | None]:
    """As many links as one request can look for, and the place behind them; ``None``, the end."""
    linked: list[Linked] = []
    commands = MAX_COMMANDS
    kind: str | None = place.kind
    key = place.key
    while kind is not None:
        if _is_meant(world.settings.kinds, place.kinds, kind, look.skipped):
            room = commands * MARKERS
            part = auditing.linked_after(connection, code, kind, key, limit=room)
            linked += part
            commands -= -(-len(part) // MARKERS)
            if commands == 0:
                return linked, replace(place, kind=kind, key=part[-1].key)
        kind = auditing.next_kind(connection, code, kind)
        key = ""
    return linked, None


def _is_meant(
    kinds: Mapping[str, Kind], wanted: Collection[str], name: str, skipped: dict[str, str]
) -> bool:
    """Whether links of this kind are looked for; what is meant and cannot be is noted."""
    if not name or name in skipped or (wanted and name not in wanted):
        return False
    if not is_auditable(find_kind(name, kinds)):
        skipped[name] = "it has no marker, or its list cannot be asked for many"
        return False
    return True


def _asked(world: World, of: Tenant, look: _Look, linked: Sequence[Linked]) -> None:
    """Ask for all these markers, and on, as far as pages are full.

    Raises: NotNow.
    """
    asks = list(asks_of(linked))
    while asks := [ask for ask in asks if ask.kind not in look.skipped]:
        now, asks = asks[:MAX_COMMANDS], asks[MAX_COMMANDS:]
        asks = [*_heard(world, of, look, now), *asks]


def _heard(world: World, of: Tenant, look: _Look, asks: Sequence[Ask]) -> Iterator[Ask]:
    """One request; the questions that follow from its answers.

    Raises: NotNow.
    """
    kinds = [find_kind(ask.kind, world.settings.kinds) for ask in asks]
    known = [(ask, kind) for ask, kind in zip(asks, kinds, strict=True) if kind is not None]
    # What a full page leaves open is asked at once: given up now, all would be asked again.
    share = 0.0 if look.requests else RESERVED
    lines = [said(ask, kind) for ask, kind in known]
    told = inquire(world, of, lines, reserve=of.rate_x * share)
    look.requests += 1
    look.is_dear = look.is_dear or told.operating_s > MOST_OPERATING_S
    follow = [
        _note(look, ask, kind, outcome, answer)
        for (ask, kind), outcome, answer in zip(known, told.outcomes, told.answers, strict=True)
    ]
    return (ask for asks in follow for ask in asks)


def _note(look: _Look, ask: Ask, kind: Kind, outcome: Outcome, answer: object) -> Sequence[Ask]:
    """What one answer says.

    Raises: NotNow for one that may be another the next time.
    """
    match outcome:
        case Applied():
            return look.note(ask, heard(ask, kind, answer))
        case Rejected(fault=fault) if fault.kind is not FaultKind.SERVER:
            look.skipped[ask.kind] = f"{fault.code}: {fault.text}".strip(": ")
            return ()
        case _:
            raise NotNow("unanswered")


def _written(connection: Connection, code: str, linked: Sequence[Linked], look: _Look) -> Audited:
    """Keep what was found, as far as the links are still as they were read.

    Writes: duplicate; link.
    """
    told = {one: look.hits.get((one.kind, one.marker), ()) for one in linked}
    several = {one: further for one, hits in told.items() if (further := others(one, hits))}
    found: list[Found] = []
    if several:
        still = auditing.still_linked(connection, code, list(several))
        found = [
            Found(
                portal=code,
                kind=one.kind,
                key=one.key,
                kept_id=one.remote_id,
                other_id=number,
                found_by=FoundBy.AUDIT,
            )
            for one, further in several.items()
            for number in further
            if (one.kind, one.key, one.remote_id) in still
        ]
    new = duplicates.record(connection, found)
    seen = {one for one, hits in told.items() if one.remote_id in {hit.remote_id for hit in hits}}
    gone = _gone(connection, code, {(one.kind, one.key): told[one] for one in seen})
    return Audited(
        links=len(linked),
        found=new,
        known=len(found) - len(new),
        gone=len(duplicates.close(connection, gone)) if gone else 0,
        unseen=len(linked) - len(seen),
    )


def _gone(
    connection: Connection, code: str, seen: Mapping[tuple[str, str], Sequence[Hit]]
) -> list[int]:
    """Open duplicates of entities whose own record was seen, and that other one was not."""
    keys: dict[str, list[str]] = {}
    for kind, key in seen:
        keys.setdefault(kind, []).append(key)
    open_ones = [
        one
        for kind, of_kind in keys.items()
        for one in duplicates.duplicates(
            connection, Choice(portal=code, kind=kind, between=(min(of_kind), max(of_kind)))
        )
    ]
    return [
        one.id
        for one in open_ones
        if (one.kind, one.key) in seen
        and one.other_id not in {hit.remote_id for hit in seen[one.kind, one.key]}
    ]
