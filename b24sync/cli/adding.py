"""``b24sync portal add``: a portal becomes known, and its credential nobody else's."""

import math
from functools import partial
from ipaddress import ip_address
from pathlib import Path
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
from b24sync.core.model import PortalState
from b24sync.edge import portals, views
from b24sync.edge.database import reading, transact
from b24sync.edge.portals import Address, Limits
from b24sync.edge.tokens import masked, parse_webhook
from b24sync.world import World

USUAL = Limits()
ENTERPRISE = Limits(rate_x=250.0, rate_y=5.0)
CODE_LENGTH = 64
RATE_PARTS = 2


def read_rate(text: str) -> tuple[float, float]:
    """Requests at once and per second as the command line has them, ``50/2``.

    Raises: click.BadParameter.
    """
    parts = text.split("/")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != RATE_PARTS or not all(0 < n < math.inf for n in numbers):
        raise click.BadParameter(f"{text!r}; write e.g. 50/2: 50 at once, 2 per second")
    return numbers[0], numbers[1]


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
@click.option(
    "--rate", type=read_rate, metavar="X/Y", help="Requests at once / per second.  [default: 50/2]"
)
@click.option("--plan", type=click.Choice(["enterprise"]), help="enterprise: a rate of 250/5.")
@click.option(
    "--server-max",
    type=click.IntRange(1),
    metavar="SECONDS",
    help="When the portal cuts a request.  [default: 60]",
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
    rate: tuple[float, float] | None,
    plan: str | None,
    server_max: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Make the portal CODE known, or change it.

    CODE is your own name for it; changes name it in their column `portal`. The webhook is a
    credential, and so are tokens: they are stored encrypted, and not taken from the command line,
    where the shell's history and other users could read them.
    """
    limits = _limits(rate, plan, server_max)
    by_app = Given(app=app, tokens=tokens, tokens_file=tokens_file)
    if by_app.is_anything and (webhook is not None or webhook_file is not None):
        raise Refused("a webhook and --app exclude each other: a portal is called with one of them")
    with desk.opened() as world:
        _refuse_code(world, code, is_replaced=replace)
        refuse_keyless(world)
        if by_app.is_anything:
            shown = add_by_app(world, code, by_app, limits, is_replaced=replace)
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
        _added(desk, world, code, masked(url), as_json=as_json)


def _limits(
    rate: tuple[float, float] | None, plan: str | None, server_max: int | None
) -> Limits | None:
    """What the options say of the plan; ``None``, they say nothing."""
    if rate is None and plan is None and server_max is None:
        return None
    usual = ENTERPRISE if plan is not None else USUAL
    x, y = rate or (usual.rate_x, usual.rate_y)
    return Limits(rate_x=x, rate_y=y, server_max_s=server_max or usual.server_max_s)


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
