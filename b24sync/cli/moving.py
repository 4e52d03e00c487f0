"""``b24sync portal move``: a portal is called at another address, with the credential that it has."""

from functools import partial

import click
from rich.text import Text
from sqlalchemy import Connection

from b24sync.cli.desk import Desk, Refused, as_json, confirmed, epilog, known_portal
from b24sync.core import hosts
from b24sync.core.model import PortalState
from b24sync.edge import tenants
from b24sync.edge.database import reading, transact
from b24sync.edge.tenants import Tenant


@click.command(
    epilog=epilog(
        "b24sync portal move acme --to acme-group.bitrix24.com",
        "b24sync portal move acme --to crm.acme.example --yes",
        exits="0  it is called there; 2  no such portal, no such host, or not confirmed",
    )
)
@click.argument("code")
@click.option("--to", "told", required=True, metavar="HOST", help="Where the portal is now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def move(desk: Desk, code: str, *, told: str, yes: bool, as_json: bool) -> None:
    """Call the portal CODE at HOST from now on, with the credential that it has, and resume it.

    Make sure that the host is the portal's own: whoever answers there gets the credential. A portal
    that an operator has paused stays paused.
    """
    to = _address(told)
    with desk.opened() as world:
        with reading(world.engine) as connection:
            known_portal(connection, code)
            tenant = tenants.tenant(connection, code)
        if hosts.origin_of(tenant.base_url) == to:
            raise Refused(
                f"the portal {code} is called at {to} already; `b24sync portal resume {code}` ends a "
                "pause"
            )
        desk.note(f"the portal {code} is called at  {tenant.base_url}")
        desk.note(f"and would be called at  {to}, with its credential")
        confirmed("Is that host the portal's own?", is_agreed=yes)
        state = transact(world.engine, partial(_moved, tenant, to))
    if as_json:
        moved = {"portal": code, "from": tenant.base_url, "to": to}
        desk.emit(moved | {"state": state})
        return
    ends = f"; it is still paused, `b24sync portal resume {code}` ends that"
    said = ends if state == PortalState.PAUSED else ""
    desk.show(Text(f"the portal {code} is called at {to}{said}"))
    desk.note(f"next: b24sync portal check {code}")


def _address(told: str) -> str:
    """The host as an address.

    Raises: Refused for one that no credential is sent to.
    """
    to = hosts.origin_of(told)
    if to is None:
        raise Refused(
            f"{told!r} is no host; write e.g. acme.bitrix24.com or crm.acme.example:8443, letters "
            "beyond ASCII as xn--…"
        )
    if not hosts.is_callable(to):
        raise Refused(f"{to} is not https, and a credential would go out unencrypted")
    return to


def _moved(tenant: Tenant, to: str, connection: Connection) -> PortalState:
    """The state after the move.

    Raises: Refused if somebody else has moved the portal meanwhile.
    """
    if not tenants.move(connection, tenant, to):
        raise Refused(f"the portal {tenant.code} was changed meanwhile; look at it and try again")
    if tenants.is_paused(connection, tenant.code):
        return PortalState.PAUSED
    tenants.resume(connection, tenant.code)
    return PortalState.ACTIVE
