"""``b24sync status``: how every portal stands, and what a person must do."""

from collections.abc import Iterator, Mapping

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import Desk, Refused, as_json, epilog
from b24sync.cli.held import DECISIONS, ways_on
from b24sync.cli.layout import NARROW, counted, number, record, span, table, utc
from b24sync.cli.portals import state_text
from b24sync.cli.stopped import outdated_setting, told
from b24sync.core.model import FINAL_OUTCOMES, PortalState, ResultOutcome, RowState
from b24sync.core.pacing import MARGIN
from b24sync.edge import partitions, views
from b24sync.edge.database import reading
from b24sync.edge.views import Backlog, LaneView, Overview, PortalView, RateView, StopView

RECENT_MIN = views.RECENT_MS // 60_000
STALE_MS = 300_000
"""Age of a due row from which it looks as if nobody took any."""

NOTHING = Backlog()

WIDE_COLUMNS = (
    "ready",
    "later",
    "sending",
    "doubt",
    "parked",
    "held",
    "dead",
    "oldest",
    "next",
    "done",
    "failed",
)
NARROW_COLUMNS = ("ready", "waits", "sending", "doubt", "dead", "done", "failed")


@click.command(
    short_help="Show how every portal stands, and what to do.",
    epilog=epilog(
        "b24sync status",
        "watch -n 5 b24sync status",
        "b24sync status --json | jq '.portals[] | select(.dead > 0) | .code'",
        exits="0  shown; 2  no such portal; 3  the database cannot be used",
    ),
)
@click.option("--portal", metavar="CODE", help="Only this portal.")
@as_json
@click.pass_obj
def status(desk: Desk, *, portal: str | None, as_json: bool) -> None:
    """Show how every portal stands: what waits, what rests, what went wrong, what to do.

    ready: due now. later: due at a later time. sending: in a request. doubt: sent, answer unknown.
    parked: behind an earlier row of its entity. held: waits for another entity's id, or a person.
    waits: later, parked and held together, where the terminal is narrow. dead: given up on, see
    `b24sync dead`. done, failed: finished in the last ten minutes. oldest: age of the oldest row
    that is due. STOPPED: a lane stands still until somebody decides about the row that is named.
    """
    with desk.opened() as world, reading(world.engine) as connection:
        over, webhook_url = views.overview(connection), world.settings.webhook_url
        notes = [found.text for found in partitions.problems(connection, world.settings.grain)]
        limit_s = world.settings.method_limit_s
    codes = [code for code in (*over.portals, *over.unknown) if portal in (None, code)]
    if portal is not None and not codes:
        known = ", ".join(over.portals) or "none yet"
        raise Refused(f"there is no portal {portal!r}; known are: {known}")
    if as_json:
        documents = [_document(over, code, webhook_url) for code in codes]
        desk.emit({"portals": documents, "to_do": notes})
        return
    if not codes:
        desk.note("no portals and no changes yet; `b24sync portal add CODE` makes a portal known")
        return
    desk.show(_rows(over, codes, is_narrow=desk.out.width < NARROW), Text())
    resting = [line for code in codes for line in _resting(over, code, limit_s)]
    if resting:
        desk.show(*resting, Text())
    parts: list[Text | Table] = [_task("results", note + ".", "yellow") for note in notes]
    for code in codes:
        for stop in over.stops.get(code, ()):
            parts += _stopped(stop)
        parts += _tasks(over, code, webhook_url)
    if parts:
        desk.show(Text("What to do", "bold"))
        for part in parts:
            desk.show(Padding(part, (0, 0, 0, 2 if isinstance(part, Text) else 4), expand=False))
    else:
        desk.show(Text("Nothing to do.", "green"))


def _rows(over: Overview, codes: list[str], *, is_narrow: bool) -> Table:
    shown = table()
    shown.add_column("portal", overflow="fold", style="bold")
    shown.add_column("state", no_wrap=True)
    for name in NARROW_COLUMNS if is_narrow else WIDE_COLUMNS:
        shown.add_column(name, justify="right", no_wrap=True)
    for code in codes:
        view, lane = over.portals.get(code), over.lanes.get(code)
        cells = _cells(over, code)
        if is_narrow:
            backlog = over.backlogs.get(code, NOTHING)
            cells["waits"] = number(backlog.later + backlog.parked + backlog.held)
        names = NARROW_COLUMNS if is_narrow else WIDE_COLUMNS
        state = _state(view, lane, is_stopped=code in over.stops)
        shown.add_row(Text(code), state, *(cells[name] for name in names))
    return shown


def _cells(over: Overview, code: str) -> dict[str, Text]:
    """What is counted of one portal, by the name of its column."""
    view, lane = over.portals.get(code), over.lanes.get(code)
    backlog, recent = over.backlogs.get(code, NOTHING), over.recent.get(code, {})
    return {
        "ready": number(backlog.ready),
        "later": number(backlog.later),
        "sending": number(backlog.batched),
        "doubt": _loud(backlog.doubt, "magenta"),
        "parked": number(backlog.parked),
        "held": number(backlog.held),
        "dead": _loud(over.dead.get(code, 0), "red"),
        "oldest": Text(span(backlog.oldest_ms)),
        "next": Text("-" if code in over.stops else _next(view, lane, backlog)),
        "done": number(_done(recent)),
        "failed": _loud(recent.get(ResultOutcome.FAILED, 0), "red"),
    }


def _state(view: PortalView | None, lane: LaneView | None, *, is_stopped: bool) -> Text:
    if view is None:
        return Text("UNKNOWN", "bold red reverse")
    if view.state == PortalState.ACTIVE and is_stopped:
        return Text("STOPPED", "bold red reverse")
    if view.state == PortalState.ACTIVE and lane is not None and lane.resting_ms:
        return Text("unreachable", "bold yellow")
    return state_text(view.state)


def _resting(over: Overview, code: str, limit_s: float) -> Iterator[Text]:
    """The methods of a portal that are not called for a while, and why; nobody need do anything."""
    for view in over.methods.get(code, ()):
        bound_s = min(limit_s, view.limit_s or limit_s)
        is_used_up = bound_s > 0 and view.used_s >= (1 - MARGIN) * bound_s
        if view.blocked_ms is not None:
            why, rest_ms = "the portal refused it for time", view.blocked_ms
        elif is_used_up and view.resets_ms is not None:
            why, rest_ms = "its time is used up", view.resets_ms
        else:
            continue
        words = f"{view.method} rests for {span(rest_ms)}: {why}, {view.used_s:.0f} s"
        cost = "" if view.cost_s is None else f", a command takes {view.cost_s:.2g} s"
        yield _task(code, f"{words}{cost}; changes that need other methods go on.", "yellow")


def _loud(value: int, style: str) -> Text:
    return number(value) if value == 0 else Text(number(value).plain, f"bold {style}")


def _next(view: PortalView | None, lane: LaneView | None, backlog: Backlog) -> str:
    """When the portal is called again, as far as that is known; if it is stopped, when it is asked."""
    if view is None or lane is None:
        return "-"
    if view.state != PortalState.ACTIVE:
        return span(view.next_probe_ms)
    if lane.owner is not None or lane.next_due_ms == 0:
        return "now"
    if lane.next_due_ms is None and backlog.ready:
        return "when rung"
    return span(lane.next_due_ms)


def _done(recent: Mapping[str, int]) -> int:
    """Rows finished well in the last minutes."""
    failed = recent.get(ResultOutcome.FAILED, 0)
    return sum(n for outcome, n in recent.items() if outcome in FINAL_OUTCOMES) - failed


def _stopped(stop: StopView) -> Iterator[Text | Table]:
    """A lane that stands still, and the commands with which it goes on."""
    yield _task(stop.portal, _why_stopped(stop), "bold red")
    if stop.state == RowState.HELD:
        yield ways_on(str(stop.row_id))


def _why_stopped(stop: StopView) -> str:
    when = f" {span(stop.stopped_ms)} ago" if stop.stopped_ms is not None else ""
    row = f"row {stop.row_id}, {stop.operation} of {stop.kind} {stop.key}"
    said = " ".join(stop.said.split()).rstrip(".")
    if stop.state == RowState.HELD:
        return (
            f"lane {stop.lane} was stopped{when} by {row}: {said}. Nothing behind it is sent until "
            "somebody decides:"
        )
    return (
        f"lane {stop.lane} was stopped{when} by {row}: it was sent, and no answer came ({said}). "
        f"Nothing behind it is sent until it is known what became of it; that is looked into in "
        f"{span(stop.doubt_ms)}."
    )


def _stop_in_one_line(stop: StopView) -> str:
    ways = [f"`b24sync held {name} {stop.row_id}`" for name in DECISIONS]
    commands = f" {', '.join(ways)}" if stop.state == RowState.HELD else ""
    return f"{stop.portal}: {_why_stopped(stop)}{commands}"


def _tasks(over: Overview, code: str, webhook_url: str | None) -> Iterator[Text]:
    """What a person must do about one portal, in words; the gravest first."""
    view, lane = over.portals.get(code), over.lanes.get(code)
    backlog = over.backlogs.get(code, NOTHING)
    if view is None:
        rows = counted(backlog.total, "row names", "rows name")
        yield _task(
            code,
            f"{rows} a portal that does not exist: `b24sync portal add {code}`, or mend what "
            "writes them.",
            "bold red",
        )
        return
    if view.state != PortalState.ACTIVE:
        yield _task(code, told(view, waiting=backlog.total), "red")
    elif lane is None:
        yield _task(code, f"it has no lane: `b24sync portal add {code} --replace`.", "red")
    elif lane.resting_ms:
        tries = counted(lane.fail_streak, "time")
        yield _task(
            code,
            f"could not be reached {tries} in a row, next try in {span(lane.resting_ms)}: "
            f"`b24sync portal check {code}`.",
            "yellow",
        )
    elif code not in over.stops and _is_stale(backlog, lane):
        yield _task(
            code,
            f"a row has been due for {span(backlog.oldest_ms)} and nobody takes it: is a worker "
            "running? `b24sync sync` sends from here.",
            "yellow",
        )
    for rate in over.rates.get(code, ()):
        if rate.is_lower:
            yield _task(code, _lower(view, rate), "yellow")
    outdated = outdated_setting(view, webhook_url)
    if outdated is not None:
        yield _task(code, outdated, "yellow")
    yield from _left_over(over, code, backlog)


def _lower(view: PortalView, rate: RateView) -> str:
    """Why a portal is called slower than its plan allows."""
    refused = counted(rate.refusals, "request", "requests")
    return (
        f"it has refused {refused} for their rate, the last {span(rate.refused_ms)} ago, and is called "
        f"at {rate.capacity:g}/{rate.leak_per_s:g} instead of {view.rate_x:g}/{view.rate_y:g} by the "
        f"egress group {rate.egress_group} until it refuses none for ten minutes. Other programs behind "
        f"its address use the same rate; if the plan is another one: `b24sync portal set "
        f"{view.code} --plan …`."
    )


def _left_over(over: Overview, code: str, backlog: Backlog) -> Iterator[Text]:
    """What a person must do about rows of a portal, called or not."""
    found = over.duplicates.get(code, 0)
    if found:
        rows = counted(found, "duplicate is", "duplicates are")
        yield _task(
            code,
            f"{rows} open, records that an entity has beside its own: `b24sync duplicates list "
            f"--portal {code}` says what to do.",
            "red",
        )
    dead = over.dead.get(code, 0)
    if dead:
        rows = counted(dead, "dead letter rests", "dead letters rest")
        yield _task(code, f"{rows}: `b24sync dead --portal {code}` shows why.", "red")
    held = backlog.held - sum(stop.state == RowState.HELD for stop in over.stops.get(code, ()))
    if held:
        rows = counted(held, "row waits", "rows wait")
        yield _task(
            code,
            f"{rows} for another entity's id, or for a person: `b24sync held list --portal {code}` "
            "says for which; an entity that nobody adds is waited for without end.",
            "yellow",
        )
    different = over.recent.get(code, {}).get(ResultOutcome.DIFFERENT, 0)
    if different:
        rows = counted(different, "change was applied", "changes were applied")
        yield _task(
            code,
            f"in the last {RECENT_MIN} minutes {rows}, and the record is not as it was said: "
            f"`b24sync results --outcome different --portal {code}` names the fields.",
            "yellow",
        )
    if backlog.doubt:
        rows = counted(backlog.doubt, "row was sent", "rows were sent")
        yield _task(
            code,
            f"{rows} and no answer came; changes of the same entity wait until it is known what "
            "became of them, which is looked into when the portal has surely stopped.",
            "magenta",
        )


def _is_stale(backlog: Backlog, lane: LaneView) -> bool:
    return lane.owner is None and (backlog.oldest_ms or 0) > STALE_MS


def _task(code: str, words: str, style: str) -> Text:
    return Text(f"{code}: ", style).append(words, "default not bold")


def _document(over: Overview, code: str, webhook_url: str | None) -> dict[str, object]:
    view, lane = over.portals.get(code), over.lanes.get(code, LaneView())
    backlog, recent = over.backlogs.get(code, NOTHING), over.recent.get(code, {})
    stops = over.stops.get(code, ())
    return {
        "code": code,
        "known": view is not None,
        "state": view.state if view is not None else None,
        "reason": view.reason if view is not None else None,
        "state_at": utc(view.state_at_ms) if view is not None else None,
        "next_probe_ms": view.next_probe_ms if view is not None else None,
        "probes": view.probes if view is not None else 0,
        "base_url": view.base_url if view is not None else None,
        **record(backlog),
        **record(lane),
        "dead": over.dead.get(code, 0),
        "duplicates": over.duplicates.get(code, 0),
        "duplicates_detected": dict(over.detected.get(code, {})),
        "recent": dict(recent),
        "recent_minutes": RECENT_MIN,
        "rates": [record(rate) for rate in over.rates.get(code, ())],
        "stops": [record(stop) for stop in stops],
        "methods": [record(view) for view in over.methods.get(code, ())],
        "to_do": [
            *map(_stop_in_one_line, stops),
            *(task.plain for task in _tasks(over, code, webhook_url)),
        ],
    }
