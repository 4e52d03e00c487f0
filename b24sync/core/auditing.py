"""What an audit asks a portal, and what the answers say: which markers occur more than once.

The marker of an entity's own name is looked for; a key that the application gave is the
application's own, and several entities may share it. Many markers go into one question, few enough
that a page cannot hide a second record; a page that is full all the same is asked again in halves,
and that of one marker by further pages.

Source: Bitrix24 REST manual, "Features of List Methods" (pages of fifty, ``start=-1``) and the list
pages of the CRM (``@`` asks for one of several values).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from b24sync.core.encoding import encode
from b24sync.core.kinds import Kind
from b24sync.core.parameters import ORIGINATOR
from b24sync.core.refs import is_list, is_mapping

PAGE = 50
"""Records on a page; the portal's own bound."""

MARKERS = 40
"""Markers in one question: ten further records fit on its page."""

_MAX_ID = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """An entity and the record that is its own."""

    kind: str
    key: str
    remote_id: str
    generation: int = 0

    @property
    def marker(self) -> str:
        """What the record was called when it was added, unless the application said otherwise."""
        name = f"{self.kind}:{self.key}"
        return f"{name}#{self.generation}" if self.generation else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question about records that carry one of these markers.

    Shape: ``after_id`` is the last record of the page before, ``None`` for the first page.
    """

    kind: str
    markers: tuple[str, ...]
    after_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A record that carries a marker; ``origin`` is what it says of the system it comes from."""

    remote_id: str
    origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one answer says.

    Shape: ``hits`` by marker. ``asks`` must be asked too before anything is known of their markers.
    ``is_foreign``: the list does not know the condition, and answers with any records.
    """

    hits: Mapping[str, tuple[Hit, ...]] = field(default_factory=dict[str, tuple[Hit, ...]])
    asks: tuple[Ask, ...] = ()
    is_foreign: bool = False


def is_auditable(kind: Kind | None) -> bool:
    """Whether a kind's list can be asked for many markers, knowing nothing but its links.

    Some lists must be told where to look, by what only the change has said.
    Raises: nothing.
    """
    if kind is None or kind.marker is None or kind.list is None:
        return False
    is_told = bool(kind.list.required or kind.list.required_fields)
    has_filter = kind.list.fields_param == "filter" and bool(kind.list.id_path)
    return kind.linked and has_filter and not is_told and not kind.marker.in_params


def asks_of(linked: Sequence[Linked]) -> Iterator[Ask]:
    """The questions about the markers of these entities.

    Raises: nothing.
    """
    by_kind: dict[str, list[str]] = {}
    for one in linked:
        by_kind.setdefault(one.kind, []).append(one.marker)
    for kind, markers in by_kind.items():
        for start in range(0, len(markers), MARKERS):
            yield Ask(kind=kind, markers=tuple(markers[start : start + MARKERS]))


def said(ask: Ask, kind: Kind) -> tuple[str, str]:
    """A question as method and query.

    Shape: of an auditable kind.
    Raises: ValueError for a kind that is none.
    """
    if kind.marker is None or kind.list is None or not kind.list.id_path:
        raise ValueError(f"{kind.name} cannot be asked for markers")
    number = kind.list.id_path[-1]
    key, origin = _names(kind)
    conditions: dict[str, object] = {f"@{key}": list(ask.markers)}
    if ask.after_id is not None:
        conditions[f">{number}"] = ask.after_id
    body: dict[str, object] = {
        **kind.list.fixed,
        "filter": conditions,
        "select": [number, key, *([origin] if origin else [])],
        "order": {number: "ASC"},
        "start": -1,
    }
    return kind.list.name, encode(body)


def heard(ask: Ask, kind: Kind, answer: object) -> Heard:
    """What an answer says of the markers that were asked for.

    Databases of portals compare text loosely, so records with other markers may be among them.
    Raises: nothing.
    """
    rows = _rows(kind, answer)
    key, origin = _names(kind)
    wanted = frozenset(ask.markers)
    hits: dict[str, tuple[Hit, ...]] = {}
    last: str | None = None
    fitting = 0
    for row in rows:
        number = _id(row, kind)
        marker = row.get(key)
        if number is None:
            continue
        last = number
        if isinstance(marker, str) and marker in wanted:
            fitting += 1
            hit = Hit(remote_id=number, origin=_text(row.get(origin)) if origin else None)
            hits[marker] = (*hits.get(marker, ()), hit)
    if len(rows) < PAGE:
        return Heard(hits=hits)
    if len(ask.markers) > 1:
        half = len(ask.markers) // 2
        parts = (ask.markers[:half], ask.markers[half:])
        return Heard(asks=tuple(Ask(kind=ask.kind, markers=part) for part in parts))
    if fitting < len(rows) or last is None:
        return Heard(hits=hits, is_foreign=True)
    return Heard(hits=hits, asks=(Ask(kind=ask.kind, markers=ask.markers, after_id=last),))


def others(linked: Linked, hits: Sequence[Hit]) -> tuple[str, ...]:
    """The records beside an entity's own that carry its marker; none, if there is but one.

    A record that says it comes from elsewhere than the entity's own carries the same text by chance.
    Raises: nothing.
    """
    own = next((hit for hit in hits if hit.remote_id == linked.remote_id), None)
    origin = own.origin if own is not None else ORIGINATOR
    alike = {hit.remote_id: hit for hit in hits if hit.origin in (None, origin)}
    further = tuple(number for number in alike if number != linked.remote_id)
    return further if own is not None or len(further) > 1 else ()


def _names(kind: Kind) -> tuple[str, str | None]:
    """The fields of a marker, as the kind's list calls them."""
    if kind.marker is None or kind.list is None:
        return "", None
    names = kind.list.param_names
    key, origin = kind.marker.key_field, kind.marker.origin_field
    return names.get(key, key), names.get(origin, origin) if origin else None


def _rows(kind: Kind, answer: object) -> list[Mapping[str, object]]:
    for step in kind.list_path:
        answer = answer.get(step) if is_mapping(answer) else None
    rows: list[object] = []
    if is_list(answer):
        rows = list(answer)
    elif is_mapping(answer):
        rows = list(answer.values())
    return [row for row in rows if is_mapping(row)]


def _id(row: Mapping[str, object], kind: Kind) -> str | None:
    path = kind.list.id_path if kind.list is not None else None
    number: object = row
    for step in path or ():
        number = number.get(step) if is_mapping(number) else None
    match number:
        case bool():
            return None
        case int() if 0 < number < _MAX_ID:
            return str(number)
        case str() if number.isascii() and number.isdigit() and number.strip("0"):
            return number
        case _:
            return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
