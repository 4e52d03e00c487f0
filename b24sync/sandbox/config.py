"""What one sandbox is like: addresses, credentials, limits, delays and switchable behaviours."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeAlias

Cost: TypeAlias = float | tuple[float, float]
"""Seconds of a command; or the least and the most of them, anything between being as likely."""

_NO_COSTS: Mapping[str, Cost] = MappingProxyType({})

_USUAL_LEAK = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The settings of a sandbox; every default gives a fast, unlimited, well-behaved portal."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    tls: bool = False
    """Serve https with a self-signed certificate."""
    uid: int = 1
    """User of the webhook."""
    code: str = field(default="sandbox-secret", repr=False)
    """Secret of the webhook."""

    client_id: str = "sandbox-client"
    """OAuth application id."""
    client_secret: str = field(default="sandbox-client-secret", repr=False)
    """OAuth application secret."""
    access_token: str = field(default="sandbox-access-0", repr=False)
    """First access token."""
    refresh_token: str = field(default="sandbox-refresh-0", repr=False)
    """First refresh token."""
    token_ttl_s: float = 3600.0
    """Life of an access token, seconds."""
    rotation_kills_access_token: bool = False
    """Whether a refresh also ends the former access token (training course 169 says so; the
    OAuth pages of the manual do not)."""

    latency_s: float = 0.0
    """Delay of every request, seconds."""
    command_latency_s: float = 0.0
    """Delay of every command, seconds, really waited; counts into operating and the time limit."""
    method_costs: Mapping[str, Cost] = field(default_factory=lambda: _NO_COSTS)
    """Seconds that a command of a method takes, by lower-case method name; they count into
    operating, result_time and the time limit."""
    costs_are_waited: bool = False
    """Whether those seconds really pass; else they are simulated, and nobody waits."""
    seed: int = 0
    """Where the dice begin with which costs are drawn between their bounds."""

    bucket_x: float | None = None
    """Threshold of the request rate; None: no limit. Manual, "Limits": 50, Enterprise 250."""
    bucket_y: float | None = None
    """Requests that leak away per second; None: 2, as the manual's "Limits" has it."""
    refusals_fill_bucket: bool = False
    """Whether refused requests count too (not documented)."""
    operating_limit_s: float | None = None
    """Time budget of one method in the window; None: no limit. Manual, "Limits": 480."""
    operating_window_s: float = 600.0
    """Window of the time budget, seconds, in ten baskets; shorten it to scale time."""
    operating_charged_to_batch: bool = False
    """Whether a batch is charged as a whole (seen on self-hosted portals) instead of each of its
    methods (manual, "Limits")."""
    operating_reported: bool = True
    """Whether `time` carries operating and operating_reset_at (self-hosted portals omit them)."""
    request_limit_s: float | None = None
    """Longest request, seconds; the rest of its commands is cut off. Manual, "Limits": 60."""
    request_limit_resets: bool = False
    """Whether an overlong request ends in a closed connection instead of a 504 page."""

    strict_fields: bool = False
    """Whether fields unknown for a kind are dropped silently, as the portal does; off, so that
    tests see everything that was sent."""
    smart_process_types: tuple[int, ...] = (128, 1036)
    """entityTypeIds of smart processes that exist from the start."""
    first_id: int = 1
    """Id of the first record of each kind."""
    unique_product_codes: bool = False
    """Whether catalog refuses a second product with the same code (depends on the iblock)."""

    surplus_refuses_batch: bool = False
    """More than 50 commands: refuse the whole request with 400 (system error table) instead of
    the surplus commands one by one (batch page)."""
    missing_cmd_is_error: bool = True
    """A batch without cmd: error 100 (open in the manual) instead of empty sections."""
    unresolved_reference_is_empty: bool = False
    """A $result that leads nowhere: an empty string (open in the manual) instead of its text."""
    query_variable_limit: int | None = None
    """Variables read of one command's query; PHP's max_input_vars is 1000; None: all."""
    url_limit_bytes: int | None = None
    """Longest path and query; a longer one gets HTTP 414 (web servers allow about 8 KB)."""
    body_limit_bytes: int | None = None
    """Largest body; a larger one gets HTTP 413."""
    wrong_code_status: int = 401
    """HTTP status of a wrong webhook code; the system error table has 403."""
    unknown_filter_field_is_error: bool = False
    """Classic lists: refuse filters by fields that no record has (crm.item.list always does)."""
    ids_as_text: bool = False
    """All ids in answers are text, also where most portals send numbers."""
    integer_times: bool = False
    """`time.start` and `time.processing` are whole numbers, as in the newest manual samples."""
    blank_row_is_error: bool = False
    """productRows sent as a list of one empty text: error 100 instead of an empty list."""

    journal_path: Path | str | None = None
    """File to which journal entries are appended, one JSON object a line; None: none."""

    def faster(self, factor: float) -> Self:
        """The same portal in a hurry: all that takes, or lasts, takes that much less.

        Shape: with a factor of 100, 600 seconds of its window are 6, and so are they told.
        Raises: nothing.
        """

        def less(seconds: float | None) -> float | None:
            return None if seconds is None else seconds / factor

        return replace(
            self,
            token_ttl_s=self.token_ttl_s / factor,
            latency_s=self.latency_s / factor,
            command_latency_s=self.command_latency_s / factor,
            method_costs={
                method: (cost[0] / factor, cost[1] / factor)
                if isinstance(cost, tuple)
                else cost / factor
                for method, cost in self.method_costs.items()
            },
            bucket_y=(_USUAL_LEAK if self.bucket_y is None else self.bucket_y) * factor,
            operating_limit_s=less(self.operating_limit_s),
            operating_window_s=self.operating_window_s / factor,
            request_limit_s=less(self.request_limit_s),
        )
