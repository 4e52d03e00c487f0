"""``b24sync portal``: which portals there are, and whether they can be called."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import click
from rich.text import Text
from sqlalchemy import Connection

from b24sync.cli.adding import Said, add, limit_options
from b24sync.cli.checking import Finding, check_up
from b24sync.cli.desk import (
    FAILED,
    Desk,
    Refused,
    as_json,
    epilog,
    known_portal,
)
from b24sync.cli.layout import NARROW, counted, instant, record, table
from b24sync.cli.moving import move
from b24sync.cli.stopped import outdated_setting, told
from b24sync.core.faults import advice
from b24sync.core.limits import Rate
from b24sync.core.model import HaltMode, PortalState
from b24sync.core.shards import MOST_SHARDS
from b24sync.edge import portals, tenants, views
from b24sync.edge.database import reading, transact
from b24sync.edge.tokens import new_key
from b24sync.world import DEFAULT_PORTAL

WIDE_COLUMNS = ("portal", "address", "credential", "rate", "halt", "state", "since")
NARROW_COLUMNS = ("portal", "address", "credential", "state")
USUAL = "default"
"""What takes a choice back."""


@click.group()
def portal() -> None:
    """Add portals, look at them, stop and resume calling them."""


portal.add_command(add)
portal.add_command(move)


@portal.command("list", epilog=epilog("b24sync portal list --json | jq .code", exits="0  done"))
@as_json
@click.pass_obj
def list_portals(desk: Desk, *, as_json: bool) -> None:
    """List the portals, with their state, their limits and their halt mode.

    Below it, of each that is stopped: since when, why, what to do, and when it is asked by itself.
    """
    webhook_url = desk.settings().webhook_url
    with desk.opened() as world, reading(world.engine) as connection:
        found, rates = views.portals(connection), views.rates(connection)
    if as_json:
        desk.emit_each(
            {**record(view), "rates": [record(rate) for rate in rates.get(view.code, ())]}
            for view in found
        )
        return
    if not found:
        desk.note("no portals yet; `b24sync portal add CODE` makes one known")
        return
    is_narrow = desk.out.width < NARROW
    shown = table()
    for name in NARROW_COLUMNS if is_narrow else WIDE_COLUMNS:
        shown.add_column(name, overflow="fold", no_wrap=name not in {"portal", "address"})
    for view in found:
        cells = {
            "portal": Text(view.code, "bold"),
            "address": Text(view.base_url),
            "credential": Text(_credential(view, has_webhook=webhook_url is not None)),
            "rate": rate_text(view, rates.get(view.code, ())),
            "halt": Text(view.halt or HaltMode.INDEPENDENT, "" if view.halt else "dim"),
            "state": state_text(view.state),
            "since": Text(instant(view.state_at_ms)),
        }
        shown.add_row(*(cells[name] for name in (NARROW_COLUMNS if is_narrow else WIDE_COLUMNS)))
    desk.show(shown)
    # A reason is a sentence, and a sentence has no room in a column.
    notes = [
        Text(f"{view.code}: ", "bold red").append(told(view), "default not bold")
        for view in found
        if view.state != PortalState.ACTIVE
    ]
    notes += [
        Text(f"{view.code}: ", "yellow").append(words, "default")
        for view in found
        if (words := outdated_setting(view, webhook_url))
    ]
    notes += [
        Text(f"{view.code}: {_share(view)}")
        for view in found
        if view.shards > 1 or view.weight != 1
    ]
    notes += [
        Text(f"{view.code}: halt mode {view.halt}") for view in found if view.halt and is_narrow
    ]
    if notes:
        desk.show(Text(), *notes)


def _share(view: views.PortalView) -> str:
    return f"{counted(view.shards, 'shard')} and a weight of {view.weight:g}"


def _credential(view: views.PortalView, *, has_webhook: bool) -> str:
    if view.has_secret:
        user = f" of user {view.user}" if view.user else ""
        return f"{view.auth_kind}{user}, stored"
    is_set = has_webhook and view.code == DEFAULT_PORTAL
    return "webhook, from the settings" if is_set else "none"


def rate_text(view: views.PortalView, rates: Sequence[views.RateView]) -> Text:
    """A portal's rate, and what its refusals have left of it, by the address that calls it."""
    plan = f"{view.rate_x:g}/{view.rate_y:g}"
    lower = [rate for rate in rates if rate.is_lower]
    if not lower:
        return Text(plan)
    said = ", ".join(f"{rate.capacity:g}/{rate.leak_per_s:g}" for rate in lower)
    return Text(f"{said} of {plan}", "yellow")


def state_text(state: str) -> Text:
    """A portal's state in its colour."""
    return Text(state, style="green" if state == PortalState.ACTIVE else "bold red")


@portal.command(
    epilog=epilog(
        'b24sync portal pause acme --reason "moving to another plan"',
        exits="0  it is not called any more; 2  there is no such portal",
    )
)
@click.argument("code")
@click.option("--reason", required=True, help="Why; shown wherever the portal is shown.")
@as_json
@click.pass_obj
def pause(desk: Desk, code: str, *, reason: str, as_json: bool) -> None:
    """Stop calling the portal CODE; its rows wait. A request under way is not cut."""
    with desk.opened() as world:
        with reading(world.engine) as connection:
            known_portal(connection, code)
        stop = partial(tenants.pause, code=code, state=PortalState.PAUSED, reason=reason)
        is_stopped = transact(world.engine, stop)
    if as_json:
        desk.emit({"portal": code, "paused": is_stopped})
    elif is_stopped:
        desk.show(Text(f"the portal {code} is paused; `b24sync portal resume {code}` ends that"))
    else:
        desk.show(Text(f"the portal {code} was stopped already; its state and reason stay"))


@portal.command(
    "set",
    epilog=epilog(
        "b24sync portal set acme --halt strict",
        "b24sync portal set acme --halt default",
        "b24sync portal set acme --plan enterprise",
        "b24sync portal set acme --rate 40/1.5           less than the plan's, for others' sake",
        "b24sync portal set acme --shards 2              two requests in flight, for slow answers",
        "b24sync portal set acme --weight 3              three times the usual share of the workers",
        exits="0  done; 2  there is no such portal, mode, plan or rate, strict meets several shards, "
        "or nothing was said",
    ),
)
@click.argument("code")
@click.option(
    "--halt",
    type=click.Choice([*map(str, HaltMode), USUAL]),
    help="How far a failed change reaches on this portal; default: independent.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, MOST_SHARDS),
    help="Requests in flight at once; may be changed at any time.",
)
@click.option("--weight", type=float, help="Share of the workers, beside 1 of others.")
@limit_options
@as_json
@click.pass_obj
def set_policy(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    code: str,
    *,
    halt: str | None,
    plan: str | None,
    rate: Rate | None,
    egress_group: str | None,
    server_max: int | None,
    shards: int | None,
    weight: float | None,
    as_json: bool,
) -> None:
    """Choose how fast the portal CODE is called, its share of the workers, and what failures do.

    A rate that is said here is believed at once, whatever refusals have taught; so say it again
    when the portal has another plan, or another program leaves its address.

    A request takes its time, and while it lasts another shard may send. Two are enough where an
    answer takes longer than the rate leaves between two requests; more than that time times the
    rate bring nothing. The changes of one entity keep their order all the same. Programs that
    write changes know a new number within a minute.

    independent: the others go on. chain: what comes after it in its batch waits for the next one.
    strict: its lane stands still until somebody decides, see `b24sync held`. A run that was told a
    mode of its own, as `b24sync sync --halt`, keeps that; a worker heeds a new one when it takes the
    lane anew. strict needs one shard: with two, another request would be in flight.
    """
    said = Said(plan=plan, rate=rate, egress_group=egress_group, server_max=server_max)
    shares = shards is not None or weight is not None
    if halt is None and not (shares or said.is_anything):
        options = "--halt, --shards, --weight, --plan, --rate, --egress-group or --server-max"
        raise Refused(f"nothing was said: {options}")
    mode = None if halt in (USUAL, None) else HaltMode(halt)
    with desk.opened() as world:
        with reading(world.engine) as connection:
            known_portal(connection, code)

        def write(connection: Connection) -> None:
            if shares:
                portals.set_share(connection, code, shards=shards, weight=weight)
            if halt is not None:
                portals.set_halt(connection, code, mode)
            if said.is_anything:
                limits = said.over(portals.limits_of(connection, code))
                portals.set_limits(connection, code, limits)

        transact(world.engine, write)
        with reading(world.engine) as connection:
            limits = portals.limits_of(connection, code)
            view = next(view for view in views.portals(connection) if view.code == code)
    told: dict[str, Mapping[str, object]] = {}
    if halt is not None:
        words = f"the halt mode of the portal {code} is {mode}"
        if mode is None:
            words = f"the portal {code} has no halt mode of its own: {HaltMode.INDEPENDENT}"
        told[words] = {"halt": mode}
    if shares:
        words = f"the portal {code} has {_share(view)}"
        told[words] = {"shards": view.shards, "weight": view.weight}
    if said.is_anything:
        told[_pace(code, limits)] = asdict(limits)
    _tell(desk, code, told, as_json=as_json)


def _pace(code: str, limits: portals.Limits) -> str:
    return (
        f"the portal {code} is called at {limits.rate_x:g}/{limits.rate_y:g} by the egress group "
        f"{limits.egress_group}, and cuts a request at {limits.server_max_s} s"
    )


def _tell(
    desk: Desk, code: str, told: Mapping[str, Mapping[str, object]], *, as_json: bool
) -> None:
    """What was set: sentences for people, all their values in one document for programs."""
    if as_json:
        document: dict[str, object] = {"portal": code}
        for values in told.values():
            document |= values
        desk.emit(document)
        return
    for words in told:
        desk.show(Text(words))


@portal.command(
    epilog=epilog(
        "b24sync portal resume acme",
        exits="0  it is called again; 2  there is no such portal",
    )
)
@click.argument("code")
@as_json
@click.pass_obj
def resume(desk: Desk, code: str, *, as_json: bool) -> None:
    """Call the portal CODE again, at once, whatever it was stopped for."""
    with desk.opened() as world:
        with reading(world.engine) as connection:
            known_portal(connection, code)
        transact(world.engine, partial(tenants.resume, code=code))
    if as_json:
        desk.emit({"portal": code, "resumed": True})
    else:
        desk.show(Text(f"the portal {code} is called again"))


@portal.command(
    epilog=epilog(
        "b24sync portal check acme",
        exits="0  it can be called; 1  it cannot; 2  there is no such portal",
    )
)
@click.argument("code", default=DEFAULT_PORTAL)
@as_json
@click.pass_obj
def check(desk: Desk, code: str, *, as_json: bool) -> int:
    """Call the portal CODE and say whether all is as it must be.

    Asks who the credential's user is, what the portal's clock says and what the credential may
    do; changes nothing.
    """
    with desk.opened() as world:
        with reading(world.engine) as connection:
            known_portal(connection, code)
            tenant = tenants.tenant(connection, code)
            view = next(view for view in views.portals(connection) if view.code == code)
        findings = check_up(world, tenant)
    is_fine = all(finding.is_fine for finding in findings)
    if as_json:
        desk.emit({"portal": code, "fine": is_fine, "findings": [record(f) for f in findings]})
    else:
        _show(desk, view, findings, is_fine=is_fine)
    return 0 if is_fine else FAILED


def _show(
    desk: Desk, view: views.PortalView, findings: Sequence[Finding], *, is_fine: bool
) -> None:
    desk.show(Text(f"{view.code} at {view.base_url}", "bold"))
    for finding in findings:
        mark = Text("✓ ", "green") if finding.is_fine else Text("✗ ", "red")
        desk.show(mark.append(f"{finding.subject}: ", "bold").append(finding.text, "default"))
        if finding.advice:
            desk.show(Text(f"  {finding.advice}"))
    if view.state != PortalState.ACTIVE:
        desk.show(Text(f"! {view.state}: {view.reason}", "yellow"))
        words = advice(PortalState(view.state), tenants.code_of(view.reason), portal=view.code)
        desk.show(Text(f"  `b24sync portal resume {view.code}`" if is_fine else f"  {words}"))


@portal.command(
    "new-key",
    epilog=epilog(
        "export B24SYNC_SECRET_KEY=$(b24sync portal new-key)",
        exits="0  done",
    ),
)
@as_json
@click.pass_obj
def make_key(desk: Desk, *, as_json: bool) -> None:
    """Print a fresh key that encrypts stored credentials; it is kept nowhere.

    Give it to every worker and keep it safe: without it, stored credentials cannot be read. To
    change it, put the new one before the old one, with a comma between them.
    """
    key = new_key()
    if as_json:
        desk.emit({"secret_key": key})
        return
    click.echo(key)
    desk.note("keep it where your other secrets are, and set it for the command and all workers:")
    desk.note("  export B24SYNC_SECRET_KEY=…")
