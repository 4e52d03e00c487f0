"""How large a batch should be on a slow portal: `python -m tests.benchmarks.batch_time`.

A portal cuts requests at 60 s, and its adds take 0.2 to 6 s each. The drain chooses the size of its
batches by what it measures; for comparison it runs with fixed sizes, on portals whose commands take
the same times one after the other. Everything is faster by a factor. About two minutes.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import click
from rich.console import Console
from rich.table import Table

from b24sync import Change
from b24sync.sandbox import SandboxConfig
from tests.benchmarks.timed import staged

COST_S = (0.2, 6.0)
REQUEST_S = 60
OVERHEAD_S = 0.3
SIZES = (5, 8, 10, 12, 15, 20, 30, 50)
WARM_S = 120.0
"""For so long a cut counts as warming up."""
AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What one size came to; ``size`` is ``None`` where it was chosen by time.

    Units: ``per_min`` applied changes in a minute of the portal; ``cut_last_s`` seconds of the portal.
    """

    size: int | None
    applied: int
    per_min: float
    requests: int
    cuts: int
    cut_last_s: float | None


def measured(size: int | None, *, factor: float, lasts_s: float, seed: int) -> Run:
    """Run with one size, or by time."""
    config = SandboxConfig(
        latency_s=OVERHEAD_S,
        method_costs={"crm.item.add": COST_S},
        costs_are_waited=True,
        seed=seed,
        request_limit_s=REQUEST_S,
    ).faster(factor)
    settings = {
        "request_timeout_s": 75 / factor,
        "quiet_margin_s": 30 / factor,
        "method_limit_s": 0.0,
    }
    if size is not None:
        # More time than any batch takes: then its size is all that counts.
        settings |= {"batch_size": size, "batch_share": 1e6, "batch_start": 50}
    with staged(config, server_max_s=round(REQUEST_S / factor), **settings) as stage:
        many = round(lasts_s * factor / COST_S[0] / 4)
        stage.fill(Change("contact", f"k{n}", "add", {"name": f"n{n}"}) for n in range(many))
        stage.work(lasts_s)
        applied, requests = stage.applied(), stage.sandbox.requests()
    began = requests[0].at
    cuts = [(r.at - began) * factor for r in requests if r.status == 504]
    return Run(
        size=size,
        applied=applied,
        per_min=applied * 60 / (lasts_s * factor),
        requests=len(requests),
        cuts=len(cuts),
        cut_last_s=max(cuts, default=None),
    )


@click.command(help=__doc__)
@click.option("--factor", default=20.0, show_default=True, help="How much faster than real time.")
@click.option("--lasts", default=36.0, show_default=True, help="Seconds that each run lasts.")
@click.option("--seed", default=1, show_default=True, help="Where the dice begin.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def main(*, factor: float, lasts: float, seed: int, as_json: bool) -> None:
    """Run them and print what came of them; fails a tenth below the best, or cut when warm."""
    run = partial(measured, factor=factor, lasts_s=lasts, seed=seed)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = list(pool.map(run, (None, *SIZES)))
    ours, fixed = runs[0], runs[1:]
    best = max(fixed, key=lambda one: one.per_min)
    share = ours.per_min / best.per_min
    is_fine = share >= 0.9 and (ours.cut_last_s or 0.0) <= WARM_S
    if as_json:
        found = {"factor": factor, "lasts_s": lasts, "seed": seed, "share": share, "fine": is_fine}
        click.echo(json.dumps(found | {"runs": [asdict(one) for one in runs]}))
    else:
        least, most = COST_S
        table = Table(title=f"adds of {least:g} to {most:g} s, requests cut at {REQUEST_S} s")
        for name in ("size", "applied", "per minute", "requests", "cuts", "last cut s", "of best"):
            table.add_column(name, justify="right")
        for one in runs:
            table.add_row(
                "by time" if one.size is None else str(one.size),
                str(one.applied),
                f"{one.per_min:.1f}",
                str(one.requests),
                str(one.cuts),
                "-" if one.cut_last_s is None else f"{one.cut_last_s:.0f}",
                f"{one.per_min / best.per_min:.0%}",
                style="bold" if one.size is None else None,
            )
        note = f"{lasts:g} s each, {factor:g} times as fast as a portal; best fixed: {best.size}"
        Console().print(table, note)
    raise SystemExit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
