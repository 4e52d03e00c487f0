"""A portal that is not called, in the words of whoever has to mend it."""

from collections.abc import Iterator

from b24sync.cli.layout import counted, instant, span
from b24sync.core.errors import SettingsError
from b24sync.core.faults import advice
from b24sync.core.model import PortalState
from b24sync.edge import tenants
from b24sync.edge.tokens import parse_webhook
from b24sync.edge.views import PortalView
from b24sync.world import DEFAULT_PORTAL


def told(view: PortalView, *, waiting: int | None = None) -> str:
    """Since when it is stopped, why, what to do, and when it is asked by itself.

    ``waiting``: so many rows wait for it, if that is known.
    """
    return " ".join(_sentences(view, waiting))


def _sentences(view: PortalView, waiting: int | None) -> Iterator[str]:
    since = f"for {span(view.state_age_ms)} (since {instant(view.state_at_ms)})"
    reason = " ".join((view.reason or "").split()).rstrip(".")
    yield f"{view.state} {since}: {reason}."
    yield advice(PortalState(view.state), tenants.code_of(view.reason), portal=view.code)
    if waiting is not None:
        yield f"{counted(waiting, 'row waits', 'rows wait')}."
    if view.next_probe_ms is not None:
        yield f"It is asked by itself in {span(view.next_probe_ms)}{_so_far(view)}."
    elif view.state != PortalState.PAUSED:
        yield f"It is not asked by itself{' any more' if view.probes else ''}{_so_far(view)}."


def _so_far(view: PortalView) -> str:
    return f", {counted(view.probes, 'time')} so far" if view.probes else ""


def outdated_setting(view: PortalView, webhook_url: str | None) -> str | None:
    """What to do about a setting that names an address that its portal has moved away from."""
    if view.code != DEFAULT_PORTAL or view.has_secret or webhook_url is None:
        return None
    try:
        named = parse_webhook(webhook_url).base_url
    except SettingsError:
        return None
    if named == view.base_url or named not in view.moved_from:
        return None
    return (
        f"it has moved to {view.base_url}, and the setting webhook_url (B24SYNC_WEBHOOK_URL) still "
        f"names {named}: change the host there; until then it is called where it is now."
    )
