"""``b24sync portal add --app``: a portal that is called with the tokens of an OAuth application."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from b24sync.cli.apps import known_application
from b24sync.cli.desk import Refused
from b24sync.core.errors import SettingsError
from b24sync.core.grants import Grant, document_of, grant_in
from b24sync.edge import credentials, portals
from b24sync.edge.credentials import Sealed
from b24sync.edge.database import reading, transact
from b24sync.edge.oauth import origin
from b24sync.edge.portals import Address, Limits
from b24sync.world import World

WHERE = "the JSON of an installation event or of a token answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the command line says of an application: its code, and where its tokens are read."""

    app: str | None
    tokens: str | None
    tokens_file: Path | None

    @property
    def is_anything(self) -> bool:
        """Whether OAuth was spoken of at all."""
        return (self.app, self.tokens, self.tokens_file) != (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Granted:
    """Tokens, and the portal that they are for."""

    grant: Grant
    base_url: str
    member_id: str


def add_by_app(
    world: World, code: str, given: Given, limits: Limits | None, *, is_replaced: bool
) -> str:
    """Make a portal known, or change it, with the tokens of an application; its address.

    Raises: Refused; SettingsError.
    Writes: portal, lane, bucket.
    """
    if given.app is None:
        raise Refused("tokens are those of an application: name it with --app")
    known_application(world, given.app)
    granted = _granted(_read(given))
    grant = granted.grant
    if is_replaced:
        _refuse_other(world, code, granted.member_id)
    sealed = Sealed(
        secret=world.keyring.encrypt(document_of(grant.pair)),
        secret_key_id=world.keyring.key_ids[0],
        # A file may be old: what it says of the clock is better than what it says of a span.
        ends_at_ms=None if grant.ends_at_s is None else grant.ends_at_s * 1000,
        life_ms=None if grant.life_s is None or grant.ends_at_s else grant.life_s * 1000,
        member_id=granted.member_id,
        user=grant.user_id,
    )
    address = Address(
        base_url=granted.base_url,
        secret=sealed.secret,
        secret_key_id=sealed.secret_key_id,
        user=sealed.user,
    )
    app = given.app

    def write(connection: Connection) -> None:
        if is_replaced:
            portals.replace(connection, code, address, limits)
        else:
            portals.add(connection, code, address, limits or Limits())
        credentials.install(connection, code, app, sealed)

    transact(world.engine, write)
    return f"{granted.base_url}/rest/, with the tokens of the application {app}"


def _read(given: Given) -> str:
    """The document, from wherever it may come.

    Raises: Refused for tokens that stand on the command line.
    """
    if given.tokens is not None and given.tokens_file is not None:
        raise Refused("--tokens and --tokens-file exclude each other")
    if given.tokens_file is not None:
        return given.tokens_file.read_text(encoding="utf-8-sig")
    if given.tokens is None:
        raise Refused(f"--tokens-file or --tokens - is needed: {WHERE}")
    if given.tokens != "-":
        raise Refused(
            "tokens are credentials and the command line is readable by others and kept in the "
            "shell's history: use --tokens - or --tokens-file; and if these are real, install the "
            "application again, they may be known now"
        )
    return sys.stdin.read()


def _granted(text: str) -> _Granted:
    """Tokens as they are handed out.

    Raises: Refused, naming the key.
    """
    try:
        grant = grant_in(json.loads(text))
    except RecursionError:
        problem = "cannot be read"
    except json.JSONDecodeError:
        problem = "are no JSON"
    except ValueError as error:
        problem = f"cannot be used: {error}"
    else:
        for key, value in (
            ("client_endpoint", grant.client_endpoint),
            ("member_id", grant.member_id),
        ):
            if value is None:
                raise Refused(f"the tokens cannot be used: {key} is missing; give {WHERE}")
        return _Granted(
            grant=grant,
            base_url=_base_url(grant.client_endpoint or ""),
            member_id=grant.member_id or "",
        )
    raise Refused(f"the tokens {problem}; give {WHERE}")


def _base_url(client_endpoint: str) -> str:
    try:
        return origin(client_endpoint, "client_endpoint")
    except SettingsError as error:
        problem = str(error)
    raise Refused(f"the tokens cannot be used: {problem}/rest/")


def _refuse_other(world: World, code: str, member_id: str) -> None:
    """Links and results are those of one portal; another one needs a code of its own."""
    with reading(world.engine) as connection:
        known = credentials.standing(connection, code).member_id
    if known is not None and known != member_id:
        raise Refused(
            f"these tokens are for the portal with the member_id {member_id}, and {code} is "
            f"{known}; add it under a code of its own"
        )
