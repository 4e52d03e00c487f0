"""How long tenants wait: `python -m tests.benchmarks.fairness [--portals N] [--json] [URL]`.

Without an address, a SQLite file; a server's database must be empty, and its tables are dropped
afterwards. Portals flood, others write one row each, and how long that row waits for a worker is
measured against the bound. Lanes are woken, taken and released by the real statements; slices
follow a clock of their own, so that hours take seconds. What a take costs is real time.
"""

import json
import tempfile
from pathlib import Path
from random import Random

import click
from rich.console import Console
from rich.table import Table

from b24sync.edge import schema, tables
from b24sync.edge.database import make_engine
from tests.benchmarks.emptiness import must_be_empty
from tests.queueing import bound_s, percentile, play, scenes

SEED = 7
COLUMNS = {
    "scene": "scene",
    "flood": "floods",
    "write": "writers",
    "workers": "workers",
    "bound": "bound_s",
    "max": "max_s",
    "p99": "p99_s",
    "median": "median_s",
    "take ms": "take_ms",
}


@click.command()
@click.argument("url", required=False)
@click.option("--portals", default=2000, help="Up to 100000.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One document instead of a table.")
def main(url: str | None, portals: int, *, as_json: bool) -> None:
    """Play every scene, and compare the waits with their bound."""
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(url or f"sqlite:///{Path(folder) / 'fairness.db'}")
        must_be_empty(engine)
        found: list[dict[str, object]] = []
        for title, scene in scenes(portals):
            schema.upgrade(engine)
            done = play(engine, scene, Random(SEED))  # noqa: S311 - a scene, not a secret
            tables.metadata.drop_all(engine)
            with engine.begin() as connection:
                connection.exec_driver_sql(f"DROP TABLE {schema.VERSION_TABLE}")
            waits = done.waits_s
            found.append(
                {
                    "scene": title,
                    "portals": portals,
                    "floods": scene.floods,
                    "writers": scene.writers,
                    "workers": scene.workers,
                    "bound_s": round(bound_s(scene), 1),
                    "max_s": round(max(waits), 1),
                    "p99_s": round(percentile(waits, 0.99), 1),
                    "median_s": round(percentile(waits, 0.5), 1),
                    "take_ms": round(percentile(done.takes_s, 0.5) * 1000, 2),
                    "take_p99_ms": round(percentile(done.takes_s, 0.99) * 1000, 2),
                }
            )
        engine.dispose()
    if as_json:
        click.echo(json.dumps(found))
        return
    title = f"seconds until a worker takes a row; {engine.dialect.name}, {portals} portals"
    shown = Table(title=title)
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name == "scene" else "right", no_wrap=True)
    for line in found:
        shown.add_row(*(f"{line[key]}" for key in COLUMNS.values()))
    Console().print(shown)


if __name__ == "__main__":
    main()
