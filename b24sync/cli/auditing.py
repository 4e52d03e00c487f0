"""``b24sync audit``: ask portals, from this process, whether markers occur more than once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import click
from rich.text import Text

from b24sync.auditing import Audited
from b24sync.auditing import audit as run_audit
from b24sync.cli.desk import FAILED, Desk, as_json, check_portal, epilog
from b24sync.cli.duplicates import WHAT_TO_DO
from b24sync.cli.interrupts import Interrupt, until_interrupted
from b24sync.cli.layout import bar, counted, record
from b24sync.cli.quiet import unlogged
from b24sync.core.model import PortalState
from b24sync.edge import auditing, duplicates, views
from b24sync.edge.auditing import Place
from b24sync.edge.database import reading
from b24sync.world import World

LONGEST_WAIT_S = 1.0
"""How long to rest at the most before looking whether somebody has interrupted it."""


@dataclass(slots=True, kw_only=True)
class _Told:
    """What the audits of this run have found, by portal."""

    of: dict[str, Audited] = field(default_factory=dict[str, Audited])

    @property
    def is_over(self) -> bool:
        """Whether all was seen."""
        return all(audited.place is None for audited in self.of.values())


@click.command(
    short_help="Ask portals whether records were made twice.",
    epilog=epilog(
        "b24sync audit --portal acme",
        "b24sync audit --kind contact --kind lead --json",
        exits="0  no duplicates are open; 1  some are, or not all was seen; 2  no such portal; "
        "3  the database cannot be used",
    ),
)
@click.option("--portal", metavar="CODE", help="Only this portal.  [default: all that are active]")
@click.option("--kind", "kinds", multiple=True, metavar="K", help="Only this kind; repeatable.")
@as_json
@click.pass_obj
def audit(desk: Desk, *, portal: str | None, kinds: tuple[str, ...], as_json: bool) -> int:
    """Ask portals whether markers occur more than once; a worker does it daily.

    Two thousand links cost one request, and half of the portal's rate is left to changes, so a large
    audit takes its time. It changes nothing on the portal. Records that carry an external key of
    your own are not looked at, nor are kinds without a marker.
    """
    with desk.opened() as world:
        check_portal(world, portal)
        codes = _codes(world, portal)
        with (
            until_interrupted() as stopped,
            bar(desk.err, unit="links") as progress,
            unlogged(),
        ):
            task = progress.add_task("auditing", total=_count(world, codes, kinds))
            told = _Told()
            for code in codes:
                watching = partial(_advance, advance=partial(progress.advance, task))
                told.of[code] = _audited(world, code, kinds, stopped, watching)
        with reading(world.engine) as connection:
            open_ones = duplicates.open_by_portal(connection)
    left = sum(open_ones.get(code, 0) for code in codes)
    _report(desk, told, left, as_json=as_json)
    if stopped.is_set():
        desk.note("interrupted; what was found until then is kept", style="yellow")
    return FAILED if left or not told.is_over else 0


def _codes(world: World, portal: str | None) -> Sequence[str]:
    with reading(world.engine) as connection:
        found = views.portals(connection)
    if portal is not None:
        return [portal]
    return [view.code for view in found if view.state == PortalState.ACTIVE]


def _count(world: World, codes: Sequence[str], kinds: Sequence[str]) -> int:
    with reading(world.engine) as connection:
        return sum(auditing.count_links(connection, code, kinds) for code in codes)


def _advance(done: Audited, *, advance: partial[None]) -> None:
    advance(done.links)


def _audited(
    world: World,
    code: str,
    kinds: tuple[str, ...],
    stopped: Interrupt,
    watching: partial[None],
) -> Audited:
    """One portal, from its first link to its last; where its rate is used up, it is waited for."""
    total = Audited(place=Place(kinds=kinds))
    while total.place is not None and not stopped.is_set():
        lasting = partial(_goes_on, stopped)
        done = run_audit(world, code, total.place, lasting=lasting, watching=watching)
        total += done
        if done.why and done.why != "rate":
            break
        if done.place is not None:
            stopped.wait(min(LONGEST_WAIT_S, done.wait_ms / 1000))
    return total


def _goes_on(stopped: Interrupt) -> bool:
    return not stopped.is_set()


def _report(desk: Desk, told: _Told, left: int, *, as_json: bool) -> None:
    if as_json:
        audits = [_document(code, audited) for code, audited in told.of.items()]
        desk.emit({"portals": audits, "open": left})
        return
    for code, audited in told.of.items():
        words = (
            f"{counted(audited.links, 'link')} looked for in {counted(audited.requests, 'request')}"
        )
        desk.show(Text(f"{code}: ", "bold").append(words, "not bold"))
        for line in _lines(audited):
            desk.show(Text(f"  {line}"))
        if audited.place is not None:
            desk.note(f"{code}: not all was seen ({audited.why or 'interrupted'})", style="yellow")
    if left:
        open_ones = counted(left, "duplicate is open", "duplicates are open")
        desk.show(Text(f"{open_ones}: ", "bold red").append("b24sync duplicates list", "default"))
        desk.show(Text(WHAT_TO_DO))
    else:
        desk.show(Text("no duplicates are open", "green"))


def _lines(audited: Audited) -> Sequence[str]:
    lines = [
        f"new: {one.kind} {one.key}, record {one.other_id} beside {one.kept_id}"
        for one in audited.found[:10]
    ]
    if len(audited.found) > len(lines):
        lines.append(f"and {len(audited.found) - len(lines)} more")
    if audited.gone:
        lines.append(f"{counted(audited.gone, 'duplicate')} closed: not there any more")
    if audited.unseen:
        whose = counted(audited.unseen, "link has", "links have")
        lines.append(f"{whose} no record under the marker of its name; an own key, or edited there")
    lines += [f"{kind} was not looked for: {why}" for kind, why in sorted(audited.skipped.items())]
    return lines


def _document(code: str, audited: Audited) -> dict[str, object]:
    return {
        "portal": code,
        "links": audited.links,
        "requests": audited.requests,
        "found": [record(one) for one in audited.found],
        "known": audited.known,
        "gone": audited.gone,
        "unseen": audited.unseen,
        "skipped": dict(audited.skipped),
        "over": audited.place is None,
        "why": audited.why,
    }
