"""Whether a portal can be called: three harmless calls, and what their answers mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from b24sync.core.errors import ReplyLost, SendError
from b24sync.core.faults import advice
from b24sync.core.model import (
    Applied,
    Batch,
    Command,
    Deferred,
    FaultKind,
    Operation,
    Outcome,
    Rejected,
    Reply,
    Unknown,
)
from b24sync.core.refs import is_list, is_mapping
from b24sync.core.replies import interpret, whole_fault
from b24sync.drain import renewing
from b24sync.drain.renewing import Resting, Unusable
from b24sync.edge import rates
from b24sync.edge.database import transact
from b24sync.edge.tenants import Tenant
from b24sync.world import World

NEEDED_SCOPE = "crm"
DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do if it is not fine."""

    subject: str
    is_fine: bool
    text: str
    advice: str = ""


def check_up(world: World, tenant: Tenant) -> tuple[Finding, ...]:
    """Call the portal and say what was found, worst first to last asked.

    Shape: ends after the first finding that makes the rest pointless.
    Raises: nothing; what is wrong is a finding.
    """
    tooks: list[float] = []
    found: list[Finding] = []
    for method in ("profile", "server.time", "scope"):
        asked = _ask(world, tenant, method)
        if isinstance(asked, Finding):
            return (*found, asked)
        reply, tenant = asked
        tooks.append(reply.took_s)
        found.append(_READERS[method](_result_of(reply)))
    milliseconds = median(tooks) * 1000
    trip = Finding(
        subject="round trip", is_fine=True, text=f"{milliseconds:.0f} ms, median of three calls"
    )
    return (*found, trip)


def _ask(world: World, tenant: Tenant, method: str) -> tuple[Reply, Tenant] | Finding:
    command = Command(
        row_ids=(), kind="call", key="", operation=Operation.CALL, method=method, query=""
    )
    batch = Batch(labels=("c0",), commands=(command,), single=True)
    call = partial(world.client.call, method=method, deadline_s=DEADLINE_S)
    # Counted, so that the workers are not refused for it; a person does not wait for them.
    transact(world.engine, partial(rates.spend, of=tenant, by_person=True))
    try:
        asked = renewing.asked(world, tenant, call, partial(whole_fault, batch))
    except SendError as error:
        said = "no answer came" if isinstance(error, ReplyLost) else "not reached"
        return Finding(
            subject=method,
            is_fine=False,
            text=f"{said} after {error.took_s:.1f} s: {error.cause}",
            advice=advice(FaultKind.UNREACHABLE),
        )
    if isinstance(asked, Resting | Unusable):
        return _no_credential(world, asked)
    (outcome,) = interpret(batch, asked[0])
    return asked if isinstance(outcome, Applied) else _trouble(method, outcome, asked[0])


def _no_credential(world: World, found: Resting | Unusable) -> Finding:
    """Why the portal cannot even be asked."""
    if isinstance(found, Resting):
        return Finding(
            subject="credential",
            is_fine=False,
            text=f"the access token could not be renewed now: {found.code}",
            advice="Try again in a minute; workers do so by themselves.",
        )
    remedy = "" if found.version is None else advice(found.state)
    if not world.keyring.key_ids:
        remedy = "Set B24SYNC_SECRET_KEY; `b24sync portal new-key` makes one."
    return Finding(subject="credential", is_fine=False, text=found.reason, advice=remedy)


def _trouble(method: str, outcome: Outcome, reply: Reply) -> Finding:
    """What a refusal means, and who can mend it."""
    if not isinstance(outcome, Rejected | Deferred | Unknown) or outcome.fault is None:
        return Finding(
            subject=method,
            is_fine=False,
            text=f"HTTP {reply.status} and an answer that is none of a portal's",
            advice=advice(FaultKind.UNREACHABLE),
        )
    fault = outcome.fault
    moved = f" to {reply.location}" if reply.location is not None else ""
    return Finding(
        subject=method,
        is_fine=False,
        text=f"{fault.code}: {fault.text}{moved} (HTTP {reply.status})",
        advice=advice(fault.portal_state or fault.kind, fault.code),
    )


def _result_of(reply: Reply) -> object:
    return reply.body.get("result") if is_mapping(reply.body) else None


def _profile(result: object) -> Finding:
    user: Mapping[str, object] = result if is_mapping(result) else {}
    name = " ".join(str(user[part]) for part in ("NAME", "LAST_NAME") if user.get(part))
    role = "an administrator" if user.get("ADMIN") in (True, "Y") else "not an administrator"
    return Finding(
        subject="user",
        is_fine=True,
        text=f"{name or 'without a name'} (id {user.get('ID', '?')}), {role}",
    )


def _clock(result: object) -> Finding:
    return Finding(subject="portal's clock", is_fine=True, text=str(result))


def _scope(result: object) -> Finding:
    scopes: Sequence[str] = [str(scope) for scope in result] if is_list(result) else []
    has_crm = NEEDED_SCOPE in scopes
    return Finding(
        subject="scope",
        is_fine=has_crm,
        text=", ".join(sorted(scopes)) or "none",
        advice="" if has_crm else f"Give the webhook the scope {NEEDED_SCOPE}.",
    )


_READERS = {"profile": _profile, "server.time": _clock, "scope": _scope}
