"""How far a kind's changes are merged, matched, spared, verified, and what becomes of orphans.

A policy belongs to a kind by its name, or by ``*`` to every kind that has none of its own. Policies
are read from plain mappings, and what is wrong is named by its place, as
``policies.contact.match``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from b24sync.core import reading
from b24sync.core.errors import SettingsError
from b24sync.core.kind_table import find_kind
from b24sync.core.kinds import Kind, Names

EVERY_KIND = "*"
"""The name under which a policy of all kinds stands."""

BY_MARKER = "marker"
"""The match by the external key that adds carry; any other match is by the field of that name."""


class Orphans(StrEnum):
    """What becomes of rows whose parent finally failed: they wait for a person, or fail too."""

    HOLD = "hold"
    BURY = "bury"


class DoubtPolicy(StrEnum):
    """What is done with a command whose answer was lost.

    Only where saying it again might do it twice, and it carries no marker to be found by.
    ``look-up`` is what happens where there is one.
    """

    LOOK_UP = "look-up"
    RESEND = "resend"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is done with the changes of a kind beyond sending them.

    ``merge``: changes of one entity that wait together become one command.
    ``match``: by what an unknown key is looked for among the portal's records before one is made:
    ``marker``, or a field by the name that changes give it; ``None``, it is not looked for.
    ``skip_unchanged``: an update that says what was said last ends without a call.
    ``verify``: a record is read after it was written, and compared with what was said.
    ``orphans``: what becomes of rows whose parent finally failed.
    ``doubt``: what becomes of a command whose answer was lost and that carries no marker.
    """

    merge: bool = True
    match: str | None = None
    skip_unchanged: bool = False
    verify: bool = False
    orphans: Orphans = Orphans.HOLD
    doubt: DoubtPolicy = DoubtPolicy.LOOK_UP


_KEYS = ("merge", "match", "skip_unchanged", "verify", "orphans", "doubt")
_DEFAULT = Policy()


def policy_of(kind_name: str, policies: Mapping[str, Policy]) -> Policy:
    """The policy of a kind: its own, else that of every kind, else the default.

    Shape: that of every kind may ask for what a kind cannot do; ``within`` leaves it out.
    Raises: nothing.
    """
    own = policies.get(kind_name)
    return own if own is not None else policies.get(EVERY_KIND, _DEFAULT)


def within(policy: Policy, kind: Kind) -> Policy:
    """The policy without what a kind cannot do.

    Raises: nothing.
    """
    match = None if _why_no_match(policy.match, kind) else policy.match
    verify = policy.verify and not _why_no_verify(kind)
    is_possible = match == policy.match and verify == policy.verify
    return policy if is_possible else replace(policy, match=match, verify=verify)


def declared_policies(
    setting: Mapping[str, object], kinds: Mapping[str, Kind]
) -> Mapping[str, Policy]:
    """Read the policies that the settings declare as plain mappings.

    What a kind's entry leaves out is as under ``*``, as far as the kind can do it.

    Shape: kind name, or ``*``, to policy, in the order of the setting; ``kinds`` are those that
    the settings declare.
    Raises: SettingsError, naming the place as ``policies.contact.match``.
    """
    shared = _policy("policies.*", setting.get(EVERY_KIND, {}), _DEFAULT)
    return MappingProxyType(
        {
            name: shared
            if name == EVERY_KIND
            else _policy_of_kind(f"policies.{name}", value, shared, find_kind(f"{name}", kinds))
            for name, value in setting.items()
        }
    )


def _policy_of_kind(where: str, value: object, shared: Policy, kind: Kind | None) -> Policy:
    if kind is None:
        raise SettingsError(
            where, "is no known kind; correct the name, or declare it in the setting kinds"
        )
    policy = _policy(where, value, within(shared, kind))
    if reason := _why_no_match(policy.match, kind):
        raise SettingsError(f"{where}.match", reason)
    if policy.verify and (reason := _why_no_verify(kind)):
        raise SettingsError(f"{where}.verify", reason)
    return policy


def _policy(where: str, value: object, shared: Policy) -> Policy:
    given = reading.known(where, value, _KEYS)
    return Policy(
        merge=reading.flag(where, given, "merge", default=shared.merge),
        match=reading.text_or_none(where, {"match": shared.match, **given}, "match"),
        skip_unchanged=reading.flag(where, given, "skip_unchanged", default=shared.skip_unchanged),
        verify=reading.flag(where, given, "verify", default=shared.verify),
        orphans=reading.choice(where, given, "orphans", shared.orphans),
        doubt=reading.choice(where, given, "doubt", shared.doubt),
    )


def _why_no_match(match: str | None, kind: Kind) -> str:
    """Say why records of a kind cannot be found by this; the empty text, if they can."""
    if match is None:
        return ""
    if match == BY_MARKER and kind.marker is None:
        return f"{kind.name} has no marker; name a field, or leave match out"
    if kind.list is None or kind.list.id_path is None:
        return f"{kind.name} has no list that tells ids, so nothing is found; leave match out"
    return ""


def _why_no_verify(kind: Kind) -> str:
    """Say why a record of a kind cannot be compared; the empty text, if it can."""
    if kind.get is None:
        return f"{kind.name} has no get, so nothing can be compared; leave verify out"
    if kind.record_names is Names.OTHER:
        return f"{kind.name} answers with other names than it takes; leave verify out"
    return ""
