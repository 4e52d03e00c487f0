"""What a lane's owner must know of its portal.

A portal with a trouble that a person must look at is paused, with the reason, and called by nobody
until it is resumed; what may pass by itself is asked now and then (``drain.probing``). One that has
moved is called where it is now. How fast it may be called is in ``rates`` and ``budgets``.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, Connection, select, update

from b24sync.core.hosts import trail_of
from b24sync.core.model import Fault, HaltMode, PortalState
from b24sync.core.refs import is_mapping
from b24sync.edge.database import EGRESS_GROUP, now_ms
from b24sync.edge.tables import lane, portal


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What a lane's owner must know of its portal.

    ``token_version`` says which pair of tokens ``secret`` is; ``token_is_over``, that its access
    token was refused or has ended.
    ``weight`` is its share of the workers, beside the others' one.
    ``moved_from`` is the trail of its addresses before, the newest first, as ``core.hosts`` has it.
    ``method_limit_s``: the time of one method, where the portal's policy says so; 0, nobody counts.
    Units: ``rate_x`` requests, ``rate_y`` requests per second, ``server_max_s`` seconds,
    ``moved_at_ms`` epoch milliseconds, ``method_limit_s`` seconds in a window.
    """

    code: str
    base_url: str
    auth_kind: str
    secret: str | None
    app_id: str
    egress_group: str
    rate_x: float
    rate_y: float
    server_max_s: int
    weight: float = 1.0
    halt: HaltMode = HaltMode.INDEPENDENT
    token_version: int = 0
    token_is_over: bool = False
    moved_from: str | None = None
    moved_at_ms: int | None = None
    method_limit_s: float | None = None


MOST_S = 10.0**6
"""More seconds than any limit has."""

_is_code = re.compile(r"[\w.-]{1,200}").fullmatch


def _now() -> ColumnElement[int]:
    return now_ms()


def tenant(connection: Connection, code: str) -> Tenant:
    """The portal of this code, as a lane's owner needs it.

    Its egress group is that of this process, if it has one of its own: so every request of a process
    is counted in one bucket.
    Raises: sqlalchemy.exc.NoResultFound for an unknown code; callers ask for known ones.
    Writes: nothing.
    """
    is_over = (portal.c.token_expires_at <= _now()).label("token_is_over")
    row = connection.execute(select(portal, is_over).where(portal.c.code == code)).mappings().one()
    return Tenant(
        code=row["code"],
        base_url=row["base_url"],
        auth_kind=row["auth_kind"],
        secret=row["secret"],
        app_id=row["app_id"],
        egress_group=connection.get_execution_options().get(EGRESS_GROUP) or row["egress_group"],
        rate_x=row["rate_x"],
        rate_y=row["rate_y"],
        server_max_s=row["server_max_s"],
        weight=row["weight"],
        halt=halt_of(row["policy"]),
        token_version=row["token_version"],
        token_is_over=bool(row["token_is_over"]),
        moved_from=row["moved_from"],
        moved_at_ms=row["moved_at"],
        method_limit_s=_method_limit_s(row["policy"]),
    )


def _method_limit_s(policy: object) -> float | None:
    """The time of one method that a portal's policy names; what nobody understands is none."""
    named = policy.get("method_limit_s") if is_mapping(policy) else None
    if isinstance(named, bool) or not isinstance(named, int | float | Decimal):
        return None
    return float(named) if 0 <= named < MOST_S else None


def halt_of(policy: object) -> HaltMode:
    """The halt mode that a portal's policy names; what nobody understands is the usual one."""
    named = policy.get("halt") if is_mapping(policy) else None
    return next((mode for mode in HaltMode if mode == named), HaltMode.INDEPENDENT)


def clock(connection: Connection) -> int:
    """The time now.

    Units: epoch milliseconds.
    Writes: nothing.
    """
    return int(connection.execute(select(_now())).scalar_one())


def now_if_active(connection: Connection, of: Tenant) -> int | None:
    """The time now; ``None``, the portal was stopped since its lane was taken.

    Units: epoch milliseconds.
    Writes: nothing.
    """
    now = select(_now()).where(portal.c.code == of.code, portal.c.state == PortalState.ACTIVE)
    return connection.execute(now.select_from(portal)).scalar()


def pause(
    connection: Connection,
    code: str,
    state: PortalState,
    *,
    reason: str,
    probe_ms: int | None = None,
) -> bool:
    """Stop calling a portal until it is resumed; ``False``, it was stopped already.

    Units: ``probe_ms`` milliseconds until it is asked by itself; ``None``, only a person resumes it.
    Writes: portal, where it is active.
    """
    stopped = connection.execute(
        update(portal)
        .where(portal.c.code == code, portal.c.state == PortalState.ACTIVE)
        .values(
            state=str(state),
            state_reason=reason,
            state_at=_now(),
            probe_at=None if probe_ms is None else _now() + probe_ms,
            probes=0,
            updated_at=_now(),
        )
    )
    return stopped.rowcount == 1


def is_paused(connection: Connection, code: str) -> bool:
    """Whether an operator has stopped a portal.

    Writes: nothing.
    """
    paused = select(portal.c.code).where(
        portal.c.code == code, portal.c.state == PortalState.PAUSED
    )
    return connection.execute(paused).first() is not None


def resume(connection: Connection, code: str, *, stopped_as: PortalState | None = None) -> bool:
    """Let a portal be called again, at once; ``False``, there is no such portal.

    ``stopped_as``: only if that is still what it is stopped for.
    Writes: portal, lane.
    """
    statement = update(portal).where(portal.c.code == code)
    if stopped_as is not None:
        statement = statement.where(portal.c.state == str(stopped_as))
    resumed = connection.execute(
        statement.values(
            state=str(PortalState.ACTIVE),
            state_reason=None,
            state_at=_now(),
            probe_at=None,
            probes=0,
            updated_at=_now(),
        )
    )
    if resumed.rowcount != 1:
        return False
    connection.execute(
        update(lane)
        .where(lane.c.portal == code)
        .values(
            next_due_at=_now(),
            wake_seq=lane.c.wake_seq + 1,
            breaker="closed",
            breaker_until=None,
            fail_streak=0,
        )
    )
    return True


def move(connection: Connection, of: Tenant, to: str) -> bool:
    """Call a portal at another address from now on; ``False``, it is not where it was any more.

    The credential goes with it: whoever calls this has made sure that it may.
    Writes: portal, where its address is still the one that is known.
    """
    moved = connection.execute(
        update(portal)
        .where(portal.c.code == of.code, portal.c.base_url == of.base_url)
        .values(
            base_url=to,
            moved_from=trail_of(of.moved_from, of.base_url, to),
            moved_at=_now(),
            updated_at=_now(),
        )
    )
    return moved.rowcount == 1


def reason_of(fault: Fault) -> str:
    """A fault as the reason of a pause: the portal's code and words, capped."""
    text = f"{fault.code}: {fault.text}" if fault.text else fault.code
    return text[:500]


def code_of(reason: str | None) -> str:
    """The portal's code in the reason of a pause; empty, it begins with none, but with a sentence.

    Shape: the other way round than ``reason_of``.
    """
    beginning = (reason or "").partition(":")[0]
    return beginning if _is_code(beginning) else ""
