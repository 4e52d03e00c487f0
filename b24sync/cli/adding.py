"""``b24sync portal add``: a portal becomes known, and its credential nobody else's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import click
from rich.text import Text

from b24sync.cli.adding_oauth import Given, add_by_app
from b24sync.cli.desk import (
    Desk,
    Refused,
    as_json,
    epilog,
    known_portal,
)
from b24sync.cli.layout import record
from b24sync.cli.secrets import Secret, read_secret, refuse_keyless
from b24sync.core.errors import SettingsError
from b24sync.core.limits import PLANS, Rate, egress_group
from b24sync.core.model import PortalState
from b24sync.core.shards import MOST_SHARDS
from b24sync.edge import portals, views
from b24sync.edge.database import reading, transact
from b24sync.edge.portals import Address, Limits
from b24sync.edge.tokens import masked, parse_webhook
from b24sync.world import World

USUAL = Limits()
CODE_LENGTH = 64


def read_rate(text: str) -> Rate:
    """Requests at once and per second as the command line has them, ``50/2``.

    Raises: click.BadParameter.
    """
    try:
        at_once, per_second = (float(part) for part in text.split("/"))
    except ValueError:
        raise click.BadParameter(f"{text!r}; write e.g. 50/2: 50 at once, 2 per second") from None
    try:
        return Rate(x=at_once, y=per_second)
    except SettingsError as error:
        raise click.BadParameter(f"{text!r}: {error.problem}") from None


def read_egress_group(text: str) -> str:
    """The name of an address from which a portal is called.

    Raises: click.BadParameter.
    """
    try:
        return egress_group(text)
    except SettingsError as error:
        raise click.BadParameter(error.problem) from None


Command = TypeVar("Command", bound=Callable[..., object])


def limit_options(command: Command) -> Command:
    """The options that say what a portal's plan allows: ``plan``, ``rate`` and two more."""
    options = (
        click.option(
            "--plan",
            type=click.Choice(list(PLANS)),
            help="The portal's plan: enterprise is called at 250/5, any other at 50/2.",
        ),
        click.option(
            "--rate",
            type=read_rate,
            metavar="X/Y",
            help="Requests at once / per second, instead of the plan's.  [a new one: 50/2]",
        ),
        click.option(
            "--egress-group",
            type=read_egress_group,
            metavar="NAME",
            help="The address it is called from: the portal counts by it, and so do the workers "
            "that share it.  [a new one: default]",
        ),
        click.option(
            "--server-max",
            type=click.IntRange(1),
            metavar="SECONDS",
            help="When the portal cuts a request.  [a new one: 60]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the command line says of a portal's limits; ``None``, nothing.

    Raises: Refused, if it says it twice.
    """

    plan: str | None
    rate: Rate | None
    egress_group: str | None
    server_max: int | None

    def __post_init__(self) -> None:
        """Refuse a plan that is none."""
        if self.plan is not None and self.rate is not None:
            raise Refused("--plan and --rate exclude each other: a plan is a rate")

    @property
    def is_anything(self) -> bool:
        """Whether limits were spoken of at all."""
        said = (self.plan, self.rate, self.egress_group, self.server_max)
        return any(each is not None for each in said)

    def over(self, before: Limits) -> Limits:
        """These limits, where something was said of them; what was not stays."""
        rate = self.rate if self.plan is None else PLANS[self.plan]
        return Limits(
            rate_x=before.rate_x if rate is None else rate.x,
            rate_y=before.rate_y if rate is None else rate.y,
            server_max_s=self.server_max or before.server_max_s,
            egress_group=self.egress_group or before.egress_group,
        )


def _is_local(url: str) -> bool:
    """Whether a URL leads to this machine, as the sandbox's does: its secret is none."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


WEBHOOK = Secret(
    option="--webhook",
    name="webhook",
    hint="The webhook as the portal shows it: https://HOST/rest/USER_ID/CODE/",
    anew="make a new one",
    is_harmless=_is_local,
)


@click.command(
    epilog=epilog(
        "b24sync portal add acme                       asks for the webhook, without echo",
        "b24sync portal add acme --webhook-file hook.txt",
        "vault read … | b24sync portal add acme --webhook -",
        "b24sync portal add acme --app crm --tokens-file install.json",
        "b24sync portal add acme --plan enterprise",
        "b24sync portal add acme --replace             another address or credential",
        exits="0  done; 2  refused, with the reason; 3  the database cannot be used",
    )
)
@click.argument("code")
@click.option(
    "--webhook",
    metavar="-",
    help="`-` reads the webhook from stdin. A URL is accepted for this machine's own addresses only.",
)
@click.option(
    "--webhook-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the webhook from a file.",
)
@click.option("--app", metavar="APP", help="Call it with the tokens of this OAuth application.")
@click.option("--tokens", metavar="-", help="`-` reads the application's tokens from stdin.")
@click.option(
    "--tokens-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read them from a file: the JSON of an installation event or of a token answer.",
)
@limit_options
@click.option(
    "--shards",
    type=click.IntRange(1, MOST_SHARDS),
    help="Requests in flight at once.  [default: 1]",
)
@click.option(
    "--weight", type=float, help="Share of the workers, beside 1 of others.  [default: 1]"
)
@click.option("--replace", is_flag=True, help="Change the address and credential of a known one.")
@as_json
@click.pass_obj
def add(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    code: str,
    *,
    webhook: str | None,
    webhook_file: Path | None,
    app: str | None,
    tokens: str | None,
    tokens_file: Path | None,
    plan: str | None,
    rate: Rate | None,
    egress_group: str | None,
    server_max: int | None,
    shards: int | None,
    weight: float | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Make the portal CODE known, or change it.

    CODE is your own name for it; changes name it in their column `portal`. The webhook is a
    credential, and so are tokens: they are stored encrypted, and not taken from the command line,
    where the shell's history and other users could read them.
    """
    said = Said(plan=plan, rate=rate, egress_group=egress_group, server_max=server_max)
    by_app = Given(app=app, tokens=tokens, tokens_file=tokens_file)
    if by_app.is_anything and (webhook is not None or webhook_file is not None):
        raise Refused("a webhook and --app exclude each other: a portal is called with one of them")
    with desk.opened() as world:
        _refuse_code(world, code, is_replaced=replace)
        refuse_keyless(world)
        limits = _limits(world, code, said, is_replaced=replace)
        share = partial(portals.set_share, code=code, shards=shards, weight=weight)
        if by_app.is_anything:
            shown = add_by_app(world, code, by_app, limits, is_replaced=replace)
            transact(world.engine, share)
            _added(desk, world, code, shown, as_json=as_json)
            return
        url = read_secret(desk, WEBHOOK, webhook, webhook_file)
        address = _address(world, url)
        if replace:
            transact(
                world.engine,
                partial(portals.replace, code=code, address=address, limits=limits),
            )
        else:
            transact(
                world.engine,
                partial(portals.add, code=code, address=address, limits=limits or USUAL),
            )
        transact(world.engine, share)
        _added(desk, world, code, masked(url), as_json=as_json)


def _limits(world: World, code: str, said: Said, *, is_replaced: bool) -> Limits | None:
    """What the options say of the plan, beside what is known; ``None``, they say nothing."""
    if not said.is_anything:
        return None
    if not is_replaced:
        return said.over(USUAL)
    with reading(world.engine) as connection:
        return said.over(portals.limits_of(connection, code))


def _refuse_code(world: World, code: str, *, is_replaced: bool) -> None:
    if not code or code != code.strip() or len(code) > CODE_LENGTH:
        raise Refused(f"a code has 1 to {CODE_LENGTH} characters and no white space around it")
    with reading(world.engine) as connection:
        if is_replaced:
            known_portal(connection, code)
        elif code in portals.codes(connection):
            raise Refused(f"the portal {code} exists; --replace changes its address and credential")


def _address(world: World, url: str) -> Address:
    webhook = parse_webhook(url)
    return Address(
        base_url=webhook.base_url,
        secret=world.keyring.encrypt(webhook.path),
        secret_key_id=world.keyring.key_ids[0],
        user=webhook.path.split("/")[1],
    )


def _added(desk: Desk, world: World, code: str, shown: str, *, as_json: bool) -> None:
    with reading(world.engine) as connection:
        view = next(view for view in views.portals(connection) if view.code == code)
    if as_json:
        desk.emit(record(view))
        return
    desk.show(Text(f"the portal {code} is known as {shown}"))
    if view.state != PortalState.ACTIVE:
        desk.note(f"it is still {view.state}: `b24sync portal resume {code}`", style="yellow")
    desk.note(f"next: b24sync portal check {code}")
