"""How things are written for people: spans, instants, outcomes, tables; and for programs: records."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from b24sync.cli.desk import is_terminal
from b24sync.core.model import ResultOutcome

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
UNITS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}

NARROW = 100
"""Below this many columns, tables leave out what matters least."""

OUTCOME_STYLES: Mapping[str, str] = {
    ResultOutcome.APPLIED: "green",
    ResultOutcome.MERGED: "green",
    ResultOutcome.FAILED: "red",
    ResultOutcome.EXPIRED: "yellow",
    ResultOutcome.CANCELLED: "yellow",
    ResultOutcome.RETRIED: "yellow",
    ResultOutcome.SKIPPED: "dim",
    ResultOutcome.UNKNOWN: "magenta",
    ResultOutcome.UNCHANGED: "green",
    ResultOutcome.DIFFERENT: "yellow",
    ResultOutcome.BEGUN: "green",
    ResultOutcome.STOPPED: "bold red",
}

OUTCOME_WORDS: Mapping[str, str] = {
    ResultOutcome.APPLIED: "the portal did it",
    ResultOutcome.MERGED: "went in one command with another change of the same entity",
    ResultOutcome.FAILED: "given up on; rests as a dead letter",
    ResultOutcome.EXPIRED: "its time was over before it was sent",
    ResultOutcome.CANCELLED: "ended by a person",
    ResultOutcome.RETRIED: "refused this time, tries again",
    ResultOutcome.SKIPPED: "spared by a halt, goes again",
    ResultOutcome.UNKNOWN: "sent, and the answer is not known; in doubt",
    ResultOutcome.UNCHANGED: "nothing had to be sent; the portal is so already",
    ResultOutcome.DIFFERENT: "the portal did it, and the record is not as it was said",
    ResultOutcome.BEGUN: "made without what refers back to it; that follows",
    ResultOutcome.STOPPED: "held until a person decides, see `b24sync held`",
}


def read_span(text: str) -> int:
    """A span of time as the command line has it, ``90s``, ``30m``, ``2h``, ``7d``; milliseconds.

    Raises: click.BadParameter.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no span; write e.g. 90s, 30m, 2h or 7d")
    return int(float(found[1]) * UNITS[found[2]])


def span(milliseconds: float | None) -> str:
    """A span in words of one or two units; a dash if there is none."""
    if milliseconds is None:
        return "-"
    ms = max(0, int(milliseconds))
    if ms < SECOND_MS:
        return f"{ms} ms"
    if ms < MINUTE_MS:
        return f"{ms / SECOND_MS:.0f} s"
    if ms < HOUR_MS:
        return f"{ms // MINUTE_MS} min"
    if ms < DAY_MS:
        return f"{ms // HOUR_MS} h {ms % HOUR_MS // MINUTE_MS} min"
    return f"{ms // DAY_MS} d {ms % DAY_MS // HOUR_MS} h"


def instant(epoch_ms: int) -> str:
    """An instant in the zone of whoever reads it."""
    local = datetime.fromtimestamp(epoch_ms / SECOND_MS, UTC).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}"


def number(value: int) -> Text:
    """A count; nothing at all is dim."""
    return Text(f"{value:,}".replace(",", " "), style="" if value else "dim")


def counted(value: int, one: str, many: str | None = None) -> str:
    """A count with its noun: ``1 row``, ``2 rows``."""
    return f"{value:,}".replace(",", " ") + f" {one if value == 1 else many or one + 's'}"


def outcome_text(outcome: str) -> Text:
    """An outcome in its colour."""
    return Text(outcome, style=OUTCOME_STYLES.get(outcome, ""))


def complaint(code: str | None, text: str | None) -> Text:
    """The portal's code and words, the code standing out; empty if there was none."""
    shown = Text(code or "", style="bold")
    if text and text != code:
        shown.append(f": {_one_line(text)}" if code else _one_line(text), style="not bold")
    return shown


def _one_line(text: str) -> str:
    return " ".join(text.split())


def table(*, title: str | None = None) -> Table:
    """An empty table in the manner of all others."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        header_style="bold",
        pad_edge=False,
    )


def bar(err: Console, *, unit: str) -> Progress:
    """A progress bar on the side of notices; silent where nobody looks."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not is_terminal(err),
        expand=True,
    )


def record(view: Any) -> dict[str, object]:  # noqa: ANN401 - any of the views, all dataclasses
    """A view as JSON: instants as text in UTC, spans as they are."""
    return {
        name.removesuffix("_ms") if name.endswith("_at_ms") else name: (
            utc(value) if name.endswith("_at_ms") and isinstance(value, int) else value
        )
        for name, value in asdict(view).items()
    }


def utc(epoch_ms: int) -> str:
    """An instant for programs."""
    at = datetime.fromtimestamp(epoch_ms / SECOND_MS, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{epoch_ms % SECOND_MS:03d}Z"
