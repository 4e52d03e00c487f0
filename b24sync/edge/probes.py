"""Portals that are stopped and asked now and then: whose turn it is, and what they said.

Whoever takes a portal for a probe puts off the next one in the same statement. So there is one
prober at a time, and one that dies on the way costs that probe and no other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select, update

from b24sync.core.limits import late_share
from b24sync.core.model import PortalState
from b24sync.core.probes import SCHEDULES, Age
from b24sync.edge import rates, tenants
from b24sync.edge.database import now_ms
from b24sync.edge.tables import portal
from b24sync.edge.tenants import Tenant

PROBED = tuple(str(state) for state, schedule in SCHEDULES.items() if schedule is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A portal that is not called, as its prober took it.

    ``code`` is that of the complaint for which it was stopped; ``age`` counts this probe too.
    """

    tenant: Tenant
    state: PortalState
    code: str
    age: Age


def _now() -> ColumnElement[int]:
    return now_ms()


def due(connection: Connection, *, limit: int, code: str | None = None) -> tuple[str, ...]:
    """The codes of portals whose probe is due, the longest overdue first.

    Writes: nothing.
    """
    statement = select(portal.c.code).where(portal.c.probe_at <= _now(), portal.c.state.in_(PROBED))
    if code is not None:
        statement = statement.where(portal.c.code == code)
    found = connection.execute(statement.order_by(portal.c.probe_at, portal.c.code).limit(limit))
    return tuple(found.scalars())


def take(
    connection: Connection, code: str, following: Callable[[Stopped], int | None]
) -> Stopped | None:
    """Be the one who asks a portal now, paid for like any call; ``None``, it is not to be asked.

    Shape: ``following`` says in how many milliseconds the next probe comes, if any.
    Writes: portal, guarded by the time of this probe; bucket.
    """
    due_now = select(portal, _now().label("now")).where(
        portal.c.code == code, portal.c.probe_at <= _now(), portal.c.state.in_(PROBED)
    )
    row = connection.execute(due_now).mappings().first()
    if row is None:
        return None
    stopped = Stopped(
        tenant=tenants.tenant(connection, code),
        state=PortalState(row["state"]),
        code=tenants.code_of(row["state_reason"]),
        age=Age(ms=max(0, row["now"] - row["state_at"]), probes=row["probes"] + 1),
    )
    next_ms = following(stopped)
    taken = connection.execute(
        update(portal)
        .where(
            portal.c.code == code,
            portal.c.state == row["state"],
            portal.c.probe_at == row["probe_at"],
        )
        .values(probe_at=None if next_ms is None else _now() + next_ms, probes=portal.c.probes + 1)
    )
    if taken.rowcount != 1:
        return None
    of = stopped.tenant
    wait_ms = rates.spend(connection, of, reserve=late_share(rates.plan_of(of)))
    if wait_ms > 0:
        later = {"probe_at": _now() + wait_ms, "probes": row["probes"]}
        connection.execute(update(portal).where(portal.c.code == code).values(**later))
        return None
    return stopped


def hear(
    connection: Connection,
    stopped: Stopped,
    state: PortalState,
    *,
    reason: str,
    probe_ms: int | None,
) -> bool:
    """Write down that a portal complains of something else by now; ``False``, it is resumed already.

    Units: ``probe_ms`` milliseconds until the first probe of the new state.
    Writes: portal, where its state is still the one that is known.
    """
    values: dict[str, object] = {"state_reason": reason, "updated_at": _now()}
    if state is not stopped.state:
        at = None if probe_ms is None else _now() + probe_ms
        values |= {"state": str(state), "state_at": _now(), "probe_at": at, "probes": 0}
    heard = connection.execute(
        update(portal)
        .where(portal.c.code == stopped.tenant.code, portal.c.state == str(stopped.state))
        .values(**values)
    )
    return heard.rowcount == 1


def ask_again(connection: Connection, stopped: Stopped) -> None:
    """Let the next probe come at once: the portal is called elsewhere now.

    Writes: portal, where its state is still the one that is known.
    """
    connection.execute(
        update(portal)
        .where(portal.c.code == stopped.tenant.code, portal.c.state == str(stopped.state))
        .values(probe_at=_now())
    )
