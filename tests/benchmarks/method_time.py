"""How much of its methods' time a portal is made to give: `python -m tests.benchmarks.method_time`.

A portal gives 480 s in 600 s to each of three methods, whose commands cost more than that together.
The drain sends them over HTTP, with everything faster by a factor; the bound is what somebody could
have sent who knows each cost beforehand and needs no time to think. Commands take their method's
time and not the request's, as where many workers share a portal, so that nothing but the limit
binds. About a minute.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from random import Random

import click
from rich.console import Console
from rich.table import Table

from b24sync import Change
from b24sync.core.pacing import Rules
from b24sync.sandbox import SandboxConfig
from tests.benchmarks.timed import staged
from tests.core.simulated import Site, omniscient

COSTS = {
    "crm.deal.add": (2.0, 10.0),
    "crm.lead.add": (0.5, 2.5),
    "tasks.task.add": (1.0, 5.0),
}
LIMIT_S, WINDOW_S = 480.0, 600.0
OVERHEAD_S = 0.3
LEARNING_S = WINDOW_S
"""For so long a refusal counts as learning."""


@dataclass(frozen=True, slots=True)
class Method:
    """What became of one method, in commands and in seconds of the portal."""

    method: str
    done: int
    possible: int
    share: float
    refused: int
    refused_last_s: float | None


def changes(counts: dict[str, int]) -> Iterator[Change]:
    """More than can be done of each method, evenly mixed."""
    places = [(n / count, method) for method, count in counts.items() for n in range(count)]
    for number, (_, method) in enumerate(sorted(places)):
        fields: dict[str, object] = {"TITLE": f"t{number}", "RESPONSIBLE_ID": 1}
        yield Change(
            "call", f"c{number}", "call", params={"fields": fields}, method=method, mergeable=False
        )


def drawn(bounds: tuple[float, float], factor: float, dice: Random) -> float:
    """What one command takes."""
    return dice.uniform(*bounds) / factor


def measured(factor: float, windows: float, seed: int) -> tuple[list[Method], int]:
    """Run it; each method, and the requests that it took."""
    lasts_s = windows * WINDOW_S / factor
    config = SandboxConfig(
        latency_s=OVERHEAD_S,
        method_costs=COSTS,
        seed=seed,
        operating_limit_s=LIMIT_S,
        operating_window_s=WINDOW_S,
    ).faster(factor)
    site = Site(
        costs={method: partial(drawn, cost, factor) for method, cost in COSTS.items()},
        rules=Rules(method_s=LIMIT_S / factor, window_s=WINDOW_S / factor),
        overhead_s=OVERHEAD_S / factor,
        gap_s=0.0,
        parallel=True,
        seed=seed,
    )
    best = omniscient(site, lasts_s)
    with staged(
        config,
        server_max_s=60,
        method_limit_s=LIMIT_S / factor,
        method_window_s=WINDOW_S / factor,
    ) as stage:
        stage.fill(changes({method: round(n * 1.2) for method, n in best.done.items()}))
        stage.work(lasts_s)
        journal, requests = stage.sandbox.journal(), stage.sandbox.requests()
    began = requests[0].at
    done = Counter(c.method for c in journal if c.ok and c.at - began <= lasts_s)
    refused: dict[str, list[float]] = {}
    for command in journal:
        if command.code == "OPERATION_TIME_LIMIT":
            refused.setdefault(command.method, []).append((command.at - began) * factor)
    methods = [
        Method(
            method=method,
            done=done[method],
            possible=possible,
            share=done[method] / possible,
            refused=len(refused.get(method, [])),
            refused_last_s=max(refused.get(method, []), default=None),
        )
        for method, possible in best.done.items()
    ]
    return methods, len(requests)


@click.command(help=__doc__)
@click.option("--factor", default=60.0, show_default=True, help="How much faster than real time.")
@click.option("--windows", default=5.9, show_default=True, help="How many windows it lasts.")
@click.option("--seed", default=1, show_default=True, help="Where the dice begin.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(*, factor: float, windows: float, seed: int, as_json: bool) -> None:
    """Run it and print what came of it; fails below nineteen twentieths, or refused when learned."""
    methods, requests = measured(factor, windows, seed)
    done, possible = sum(m.done for m in methods), sum(m.possible for m in methods)
    is_fine = all(m.share >= 0.95 and (m.refused_last_s or 0.0) <= LEARNING_S for m in methods)
    if as_json:
        found = {
            "factor": factor,
            "windows": windows,
            "seed": seed,
            "requests": requests,
            "share": done / possible,
            "fine": is_fine,
            "methods": [asdict(method) for method in methods],
        }
        click.echo(json.dumps(found))
    else:
        table = Table(title=f"{LIMIT_S:g} s of {WINDOW_S:g} s for each method, {windows:g} windows")
        for name in ("method", "cost s", "done", "possible", "share", "refused", "last refused s"):
            table.add_column(name, justify="left" if name == "method" else "right")
        for m in methods:
            least, most = COSTS[m.method]
            last = "-" if m.refused_last_s is None else f"{m.refused_last_s:.0f}"
            cost = f"{least:g} to {most:g}"
            share = f"{m.share:.1%}"
            table.add_row(m.method, cost, str(m.done), str(m.possible), share, str(m.refused), last)
        table.add_section()
        table.add_row("all", "", str(done), str(possible), f"{done / possible:.1%}", "", "")
        Console().print(table, f"{requests} requests, {factor:g} times as fast as a portal")
    raise SystemExit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
