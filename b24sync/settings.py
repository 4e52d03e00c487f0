"""One frozen Settings, read once, refused if it makes no sense.

The settings are given to this module; the only reader of the environment is ``celeryconfig.py``.
In a Celery configuration they stand under ``b24sync_`` names, beside Celery's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import cast, get_args, get_type_hints

from b24sync.core.declared import declared_kinds
from b24sync.core.errors import SettingsError
from b24sync.core.hosts import check_trusted
from b24sync.core.kinds import Kind
from b24sync.core.lifecycle import RetryPolicy
from b24sync.core.limits import egress_group
from b24sync.core.policies import Policy, declared_policies
from b24sync.core.refs import is_list, is_mapping
from b24sync.core.retention import DAY_MS, Grain, Keep
from b24sync.edge.database import parse_url
from b24sync.edge.tokens import Keyring, parse_webhook

PREFIX = "b24sync_"
MAX_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, with defaults that are meant to be kept.

    Units: ``*_s`` are seconds, ``*_days`` are days.
    Raises: SettingsError at construction, naming the setting and what to do.
    """

    database_url: str = field(default="sqlite:///b24sync.db", repr=False)
    """Where the tables are."""
    schema: str | None = None
    """The schema of the tables, where it is not the connection's own."""
    webhook_url: str | None = field(default=None, repr=False)
    """An incoming webhook; makes the portal ``default``. A credential."""
    secret_key: tuple[str, ...] = field(default=(), repr=False)
    """Keys that encrypt stored credentials; the first encrypts, all decrypt."""
    queue: str = "b24sync"
    """The queue of this package's tasks."""
    batch_size: int = MAX_BATCH
    """Commands in one request, at most 50, which is the portal's own bound."""
    batch_share: float = 0.6
    """The part of a portal's longest request that a batch is expected to take."""
    batch_start: int = 10
    """Commands in one request of whose time nothing is known yet."""
    method_limit_s: float = 480.0
    """Seconds that a portal gives to one method in its window; 0, none counts them. A portal's
    policy may name its own."""
    method_window_s: float = 600.0
    """The window in which that time is counted."""
    slice_batches: int = 5
    """Batches that one task sends before it lets others go."""
    slice_s: float = 30.0
    """How long one task goes on starting batches."""
    connect_timeout_s: float = 5.0
    """How long a connection to a portal may take to stand."""
    request_timeout_s: float = 75.0
    """How long one request may take in all; a portal of the cloud cuts at 60."""
    quiet_margin_s: float = 30.0
    """Added to a portal's own bound before a request counts as surely over."""
    lease_s: float = 20.0
    """How long a worker owns a lane before anything is in flight."""
    max_attempts: int = 8
    """Judgements by the portal after which a row is given up on."""
    retry_base_s: float = 10.0
    """Upper bound of the first delay after a failed attempt; doubles with each."""
    retry_cap_s: float = 3600.0
    """Upper bound of all delays."""
    egress_group: str | None = None
    """The address from which these workers call portals, where it is not that of the others."""
    rate_reserve: float = 5.0
    """Requests of a portal's rate that are left to people for ten minutes after a call of theirs."""
    pump_s: float = 5.0
    """How often the pump looks for due rows; a lost message costs this much at the most."""
    pump_width: int = 8
    """How many lanes one pump wakes at the most."""
    recover_s: float = 15.0
    """How often the traces of vanished workers are looked for."""
    prune_s: float = 3600.0
    """How often old results are removed."""
    audit_s: float = 86400.0
    """How often a portal is asked whether markers occur more than once on it."""
    result_partition: str = Grain.MONTH
    """How long a partition of results is, which is what is removed at once: ``month``, ``day``, or
    ``none``, where partitions cannot be made and results are removed in chunks."""
    backfill_s: float = 10.0
    """How often back-fills are fed."""
    source_url: str | None = field(default=None, repr=False)
    """Another database that back-fills may read from. A credential."""
    result_days: float = 30.0
    """How long results are kept, at least; a partition goes when the last of its results may."""
    batch_days: float = 30.0
    """How long closed batches are kept."""
    rollup_minute_days: float = 7.0
    """How long counts are kept per minute; after that, per hour."""
    rollup_days: float = 400.0
    """How long the counts are kept."""
    closed_days: float = 400.0
    """How long dead letters and duplicates are kept that somebody has dealt with."""
    budget_days: float = 30.0
    """How long it is remembered how much time a method takes that is not used any more."""
    trusted_hosts: tuple[str, ...] = ()
    """Hosts that a portal may move to by itself, besides those of the cloud: ``crm.example.com``,
    ``.example.com``."""
    ca_bundle: str | None = None
    """A file of certificates to trust, instead of the usual ones."""
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    """Kinds of your own, added to the table."""
    policies: Mapping[str, Policy] = field(default_factory=dict[str, Policy])
    """What is done with the changes of a kind beyond sending them; ``*`` speaks of every kind."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _check_addresses(self.database_url, self.source_url)
        Keyring.from_keys(self.secret_key)
        if self.webhook_url is not None:
            parse_webhook(self.webhook_url)
        check_trusted(self.trusted_hosts)
        self._check_numbers()
        if self.egress_group is not None:
            egress_group(self.egress_group)
        if self.ca_bundle is not None and not Path(self.ca_bundle).exists():
            raise SettingsError("ca_bundle", f"there is no file {self.ca_bundle}")
        if self.result_partition not in set(Grain):
            known = ", ".join(Grain)
            raise SettingsError("result_partition", f"{self.result_partition!r} is none of {known}")
        if not self.queue:
            raise SettingsError("queue", "is empty; name the queue of the tasks")

    def _check_numbers(self) -> None:
        for name in ("batch_size", "batch_start"):
            if not 1 <= getattr(self, name) <= MAX_BATCH:
                raise SettingsError(name, f"{getattr(self, name)}; from 1 to {MAX_BATCH}")
        for name in ("method_limit_s", "rate_reserve"):
            if getattr(self, name) < 0:
                raise SettingsError(name, f"{getattr(self, name)}; 0 or more is needed")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value <= 0:
                raise SettingsError(name, f"{value}; more than 0 is needed")

    @property
    def grain(self) -> Grain:
        """How long a partition of results is."""
        return Grain(self.result_partition)

    @property
    def keep(self) -> Keep:
        """How long what is over is kept."""
        return Keep(
            results_ms=int(self.result_days * DAY_MS),
            batches_ms=int(self.batch_days * DAY_MS),
            minutes_ms=int(self.rollup_minute_days * DAY_MS),
            rollups_ms=int(self.rollup_days * DAY_MS),
            closed_ms=int(self.closed_days * DAY_MS),
            budgets_ms=int(self.budget_days * DAY_MS),
        )

    @property
    def retry_policy(self) -> RetryPolicy:
        """How patient the package is with one row."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            base_ms=int(self.retry_base_s * 1000),
            cap_ms=int(self.retry_cap_s * 1000),
        )


def _check_addresses(database_url: str, source_url: str | None) -> None:
    parse_url(database_url)
    if source_url is not None:
        parse_url(source_url, setting="source_url")


_POSITIVE = (
    "batch_share",
    "method_window_s",
    "slice_batches",
    "slice_s",
    "connect_timeout_s",
    "request_timeout_s",
    "quiet_margin_s",
    "lease_s",
    "max_attempts",
    "retry_base_s",
    "retry_cap_s",
    "pump_s",
    "pump_width",
    "recover_s",
    "prune_s",
    "audit_s",
    "backfill_s",
    "result_days",
    "batch_days",
    "rollup_minute_days",
    "rollup_days",
    "closed_days",
    "budget_days",
)


_TABLES = ("kinds", "policies")
_LISTS = ("secret_key", "trusted_hosts")
TEXT_SETTINGS = tuple(entry.name for entry in fields(Settings) if entry.name not in _TABLES)
"""The settings that a text can say, so that an environment variable can."""


def from_mapping(values: Mapping[str, object]) -> Settings:
    """The settings among the ``b24sync_`` keys of a configuration; other keys are not looked at.

    Text that comes from an environment is read as the number it must be.
    Raises: SettingsError for an unknown name, a value of the wrong sort, or one without sense.
    """
    known = {entry.name for entry in fields(Settings)}
    given: dict[str, object] = {}
    for key, value in values.items():
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        if name not in known:
            raise SettingsError(key, f"is unknown; known are {', '.join(sorted(known))}")
        if value is not None:
            given[name] = value if name == "policies" else _read(name, value)
    if "policies" in given:
        kinds = cast("Mapping[str, Kind]", given.get("kinds", {}))
        given["policies"] = _policies(given["policies"], kinds)
    return Settings(**given)  # type: ignore[arg-type] # each value was read as its field's type


def _policies(value: object, kinds: Mapping[str, Kind]) -> Mapping[str, Policy]:
    """The policies, which speak of the kinds."""
    if not is_mapping(value):
        raise SettingsError("policies", "a mapping of kinds to policies is needed")
    return declared_policies(value, kinds)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A credential in a configuration that is read, and not shown."""

    text: str = field(repr=False)


def _read(name: str, value: object) -> object:
    """A value as its setting's type."""
    if isinstance(value, Hidden):
        value = value.text
    if name == "kinds":
        if not is_mapping(value):
            raise SettingsError("kinds", "a mapping of names to kinds is needed")
        return declared_kinds(value)
    if name in _LISTS:
        texts = value.split(",") if isinstance(value, str) else list(_each(name, value))
        return tuple(text.strip() for text in texts if text.strip())
    hint = get_type_hints(Settings)[name]
    wanted = next(t for t in (get_args(hint) or (hint,)) if t is not type(None))
    if wanted is str:
        if not isinstance(value, str):
            raise SettingsError(name, f"text is needed, not {type(value).__name__}")
        return value
    return _number(name, value, whole=wanted is int)


def _each(name: str, value: object) -> tuple[str, ...]:
    texts: list[str] = []
    for item in value if is_list(value) else (value,):
        if not isinstance(item, str):
            raise SettingsError(name, "text, or a list of texts, is needed")
        texts.append(item)
    return tuple(texts)


def _number(name: str, value: object, *, whole: bool) -> int | float:
    sort = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SettingsError(name, f"{sort} is needed, not {type(value).__name__}")
    try:
        number = int(value) if whole and isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        raise SettingsError(name, f"{sort} is needed, not {value!r}") from None
    if not isfinite(number) or (whole and number != int(number)):
        raise SettingsError(name, f"{sort} is needed, not {value!r}")
    return int(number) if whole else number


CONFIG_MODULES = ("b24sync.celeryconfig", "celeryconfig")
"""Where the stand-alone configuration is: inside an installed wheel, or at the top of a checkout."""


def standalone_config() -> str:
    """The name of the module that reads the environment for the stand-alone app and the command.

    Raises: SettingsError if the installation is broken.
    """
    for name in CONFIG_MODULES:
        if find_spec(name) is not None:
            return name
    raise SettingsError("celeryconfig", "is missing from this installation; install b24sync anew")


def standalone() -> Settings:
    """The settings of the stand-alone app, as ``celeryconfig.py`` reads them.

    Raises: SettingsError.
    """
    return from_mapping(vars(import_module(standalone_config())))
