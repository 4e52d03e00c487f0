"""``b24sync app``: the OAuth applications whose tokens portals are called with."""

from functools import partial
from pathlib import Path

import click
from rich.text import Text

from b24sync.cli.desk import Desk, Refused, as_json, epilog
from b24sync.cli.layout import record, table
from b24sync.cli.secrets import Secret, read_secret, refuse_keyless
from b24sync.edge import applications
from b24sync.edge.applications import StoredApplication
from b24sync.edge.database import reading, transact
from b24sync.edge.oauth import DEFAULT_SERVER, origin
from b24sync.world import World

CODE_LENGTH = 64
CLIENT_ID_LENGTH = 255
CLIENT_SECRET = Secret(
    option="--secret",
    name="client secret",
    hint="The client_secret as the application's page shows it.",
    anew="have the portal make a new one",
)


@click.group()
def app() -> None:
    """OAuth applications: one serves any number of portals, which name it by its code."""


@app.command(
    epilog=epilog(
        "b24sync app add crm --client-id local.5f…       asks for the secret, without echo",
        "b24sync app add crm --client-id local.5f… --secret-file secret.txt",
        "vault read … | b24sync app add crm --client-id local.5f… --secret -",
        "b24sync app add crm --client-id local.5f… --server https://oauth.bitrix24.tech",
        "b24sync app add crm --client-id local.5f… --replace    another id, secret or server",
        exits="0  done; 2  refused, with the reason; 3  the database cannot be used",
    )
)
@click.argument("code")
@click.option("--client-id", required=True, help="The application's client_id.")
@click.option("--secret", metavar="-", help="`-` reads the client_secret from stdin.")
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the client_secret from a file.",
)
@click.option(
    "--server",
    default=DEFAULT_SERVER,
    show_default=True,
    metavar="URL",
    help="The authorization server; the only one that the secret is ever sent to.",
)
@click.option("--replace", is_flag=True, help="Change a known application.")
@as_json
@click.pass_obj
def add(  # noqa: PLR0913 - one parameter for each option
    desk: Desk,
    code: str,
    *,
    client_id: str,
    secret: str | None,
    secret_file: Path | None,
    server: str,
    replace: bool,
    as_json: bool,
) -> None:
    """Make the OAuth application CODE known, or change it.

    CODE is your own name for it; `b24sync portal add --app CODE` names it. The secret is stored
    encrypted, and it is not taken from the command line, where the shell's history and other users
    could read it.
    """
    server_url = origin(server, "--server")
    if not client_id.strip() or len(client_id) > CLIENT_ID_LENGTH:
        raise Refused(f"--client-id has 1 to {CLIENT_ID_LENGTH} characters")
    with desk.opened() as world:
        _refuse_code(world, code, is_replaced=replace)
        refuse_keyless(world)
        given = read_secret(desk, CLIENT_SECRET, secret, secret_file)
        stored = StoredApplication(
            code=code,
            client_id=client_id.strip(),
            secret=world.keyring.encrypt(given),
            secret_key_id=world.keyring.key_ids[0],
            server_url=server_url,
        )
        write = applications.replace if replace else applications.add
        transact(world.engine, partial(write, application=stored))
        with reading(world.engine) as connection:
            view = next(view for view in applications.views(connection) if view.code == code)
    if as_json:
        desk.emit(record(view))
        return
    desk.show(Text(f"the application {code} is known at {view.server_url}"))
    if not view.portals:
        desk.note(f"next: b24sync portal add PORTAL --app {code} --tokens-file FILE")


@app.command("list", epilog=epilog("b24sync app list --json | jq .code", exits="0  done"))
@as_json
@click.pass_obj
def list_apps(desk: Desk, *, as_json: bool) -> None:
    """List the OAuth applications, their servers, and how many portals each serves."""
    with desk.opened() as world, reading(world.engine) as connection:
        found = applications.views(connection)
    if as_json:
        desk.emit_each(record(view) for view in found)
        return
    if not found:
        desk.note("no applications yet; `b24sync app add CODE` makes one known")
        return
    shown = table()
    for name in ("application", "client id", "server", "portals"):
        shown.add_column(name, overflow="fold")
    for view in found:
        shown.add_row(
            Text(view.code, "bold"),
            Text(view.client_id),
            Text(view.server_url),
            Text(str(view.portals)),
        )
    desk.show(shown)


@app.command(
    epilog=epilog(
        "b24sync app remove crm",
        exits="0  done; 2  there is no such application, or it serves a portal",
    )
)
@click.argument("code")
@as_json
@click.pass_obj
def remove(desk: Desk, code: str, *, as_json: bool) -> None:
    """Forget the OAuth application CODE and its secret; refused while a portal is called with it."""
    with desk.opened() as world:
        is_removed = transact(world.engine, partial(applications.remove, code=code))
        with reading(world.engine) as connection:
            left = {view.code: view for view in applications.views(connection)}
    if not is_removed and code in left:
        raise Refused(
            f"the application {code} serves {left[code].portals} portals; give them another "
            "credential first, with `b24sync portal add PORTAL --replace`"
        )
    if not is_removed:
        raise Refused(_unknown(code, tuple(left)))
    if as_json:
        desk.emit({"application": code, "removed": True})
    else:
        desk.show(Text(f"the application {code} is forgotten"))


def known_application(world: World, code: str) -> None:
    """Refuse an application that does not exist, naming those that do.

    Raises: Refused.
    """
    with reading(world.engine) as connection:
        codes = tuple(view.code for view in applications.views(connection))
    if code not in codes:
        raise Refused(_unknown(code, codes))


def _unknown(code: str, codes: tuple[str, ...]) -> str:
    known = ", ".join(codes) or "none yet; `b24sync app add CODE` makes one"
    return f"there is no application {code!r}; known are: {known}"


def _refuse_code(world: World, code: str, *, is_replaced: bool) -> None:
    if not code or code != code.strip() or len(code) > CODE_LENGTH:
        raise Refused(f"a code has 1 to {CODE_LENGTH} characters and no white space around it")
    if is_replaced:
        known_application(world, code)
        return
    with reading(world.engine) as connection:
        if applications.find(connection, code) is not None:
            raise Refused(f"the application {code} exists; --replace changes it")
