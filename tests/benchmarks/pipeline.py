"""What a batch costs, and where the time goes: `python -m tests.benchmarks.pipeline`, some minutes.

Needs the extra ``benchmark``. In one run, round after round and in turns, the same commands
(``crm.item.add`` of contacts with plain fields, fifty to a batch) go to one portal that answers at
once and has a process of its own:

- through the whole pipeline, on each database: claim, plan, encode, journal, send, interpret, settle;
- through our client without a database, and through clients that others wrote;
- through the loops that one would write by hand;
- and as little as can be done: ready bodies over one connection, and raw statements on each database.

Times are medians of rounds with the least and the most. One more round, which is not among them, is
listened to, and tells the stages of a batch apart.

    python -m tests.benchmarks.pipeline --commands 10000 --rounds 7 --json figures.json --plot figures.svg
    python -m tests.benchmarks.pipeline --only sqlite --rounds 3 --fields 16

Servers are found as the tests find them: ``B24SYNC_TEST_POSTGRESQL_URL``, ``B24SYNC_TEST_MARIADB_URL``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from b24sync import Change, enqueue_many
from b24sync.drain import Order, drain
from b24sync.edge.database import make_engine, writing
from b24sync.world import Step, World
from tests.benchmarks.contenders import SIZE, Contender, clients, fields_of, naive
from tests.benchmarks.floors import floor
from tests.benchmarks.ground import (
    NAMES,
    Reading,
    Relay,
    Stage,
    Stages,
    database,
    machine,
    measured,
    middle,
    shown,
    tidy,
)
from tests.benchmarks.portal import Portal, running
from tests.house import add_portal, world_of

CLAIM, GO, SEND, READ, SETTLE, REST = (
    "claim, plan, encode, journal",
    "go",
    "send, read the answer",
    "interpret, judge",
    "settle",
    "lane, rest",
)
STAGES = (CLAIM, GO, SEND, READ, SETTLE, REST)
STEPS = {Step.CLAIM: CLAIM, Step.GO: GO, Step.SEND: SEND, Step.SETTLE: SETTLE}


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured of one contender; per batch, in milliseconds.

    ``portal_cpu`` is what the portal's process took meanwhile.
    """

    contender: Contender
    batches: int
    wall: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    portal_cpu: list[float] = field(default_factory=list[float])

    def add(self, reading: Reading, portal_cpu: float) -> None:
        """One more round."""
        self.wall.append(reading.wall * 1e3 / self.batches)
        self.cpu.append(reading.cpu * 1e3 / self.batches)
        self.portal_cpu.append(portal_cpu * 1e3 / self.batches)

    @property
    def rate(self) -> float:
        """Commands per second, at the median."""
        return SIZE * 1e3 / middle(self.wall)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One round of the pipeline on one database that was listened to.

    Shape: ``stages`` of all batches together. ``trips`` are round trips to the server for each batch,
    counted on the wire; ``None`` where there is no wire.
    """

    name: str
    batches: int
    stages: Mapping[str, Stage]
    trips: float | None

    def total(self, name: str) -> float:
        """The sum over all stages, for each batch; times in milliseconds."""
        scale = 1e3 if name in {"wall", "cpu", "driver_cpu"} else 1
        total = sum(float(getattr(stage, name)) for stage in self.stages.values())
        return total * scale / self.batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Our pipeline on one database."""

    name: str
    url: str
    portal: Portal
    fields: int
    keys: Iterator[int]
    engine: Engine

    def world(self, url: str | None = None) -> World:
        """One worker, which goes on for as long as there are rows."""
        engine = self.engine if url is None else make_engine(url)
        webhook_url = self.portal.webhook_url
        return world_of(engine, webhook_url=webhook_url, slice_batches=10**9, slice_s=1e9)

    def fill(self, commands: int) -> None:
        """So many changes of new entities are due."""
        with writing(self.engine) as connection:
            keys = (next(self.keys) for _ in range(commands))
            enqueue_many(
                connection,
                (Change("contact", str(key), "add", fields_of(key, self.fields)) for key in keys),
            )
        tidy(self.engine)

    def contender(self) -> Contender:
        """The whole way of a row."""
        world = self.world()

        def work() -> None:
            drain(world, Order())

        return Contender(
            name=f"b24sync on {self.name}",
            group=self.name,
            inside="drain: claim, plan, encode, journal, send, interpret, judge, settle; outcomes, links "
            "and counts are written; one worker process",
            prepare=self.fill,
            work=work,
        )

    def anatomy(self, commands: int) -> Anatomy:
        """One round that is listened to, and one over a wire that counts."""
        self.fill(commands)
        stages = Stages(STEPS, {Step.SETTLE: READ}, REST)
        world = replace(self.world(), telling=stages.telling)
        with stages.listening(world.engine):
            stages.begin()
            tally = drain(world, Order())
            stages.end()
        world.client.close()
        trips = None
        if self.engine.dialect.name != "sqlite":
            self.fill(commands)
            with Relay(self.url).running() as relay:
                over = self.world(relay.url)
                drain(over, Order())
                over.engine.dispose()
                over.client.close()
            trips = relay.trips / tally.batches
        return Anatomy(
            name=self.name,
            batches=tally.batches,
            stages={name: stages.stages.get(name, Stage()) for name in STAGES},
            trips=trips,
        )


def _round(figures: Sequence[Figures], portal: Portal, commands: int) -> None:
    """Everybody's turn, once."""
    for each in figures:
        mine = _commands_of(each.contender, commands)
        each.contender.prepare(mine)
        before = portal.spent()
        reading = measured(each.contender.work)
        after = portal.spent()
        each.add(reading, after.cpu_s - before.cpu_s)
        if not each.contender.name.startswith("floor, statements"):
            assert after.commands - before.commands == mine, each.contender.name


def _commands_of(contender: Contender, commands: int) -> int:
    return max(1, round(commands * contender.share / SIZE)) * SIZE


def _compared(console: Console, figures: Sequence[Figures], anatomies: Sequence[Anatomy]) -> None:
    """The table of everybody."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = "ms for each batch of 50 commands: median (least to most)"
    table.add_column("", no_wrap=True)
    for name in ("commands/s", "wall", "CPU", "statements", "round trips"):
        table.add_column(name, justify="right", no_wrap=True)
    counted = {anatomy.name: anatomy for anatomy in anatomies}
    group = figures[0].contender.group
    for each in figures:
        if each.contender.group != group:
            table.add_section()
            group = each.contender.group
        is_ours = each.contender.name.startswith("b24sync")
        anatomy = counted.get(group) if each.contender.name == f"b24sync on {group}" else None
        trips = f"{anatomy.trips:.1f}" if anatomy is not None and anatomy.trips is not None else ""
        table.add_row(
            each.contender.name,
            f"{each.rate:,.0f}",
            _spread(each.wall),
            _spread(each.cpu),
            f"{anatomy.total('statements'):.1f}" if anatomy is not None else "",
            trips,
            style="bold" if is_ours else "",
        )
    console.print(table)


def _spread(values: Sequence[float]) -> str:
    return f"{middle(values):.2f} [dim]({min(values):.2f} to {max(values):.2f})[/dim]"


def _dissected(console: Console, anatomy: Anatomy) -> None:
    """The table of one database's stages."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", show_footer=True)
    table.title = f"Where a batch's time goes, {anatomy.name} (ms, listened to)"
    table.add_column("", "together", no_wrap=True)
    columns = {
        "wall": "wall",
        "cpu": "CPU",
        "driver_cpu": "of it in statements",
        "waiting": "waiting",
        "statements": "statements",
        "transactions": "commits",
    }
    totals = {name: anatomy.total(name) for name in columns if name != "waiting"}
    totals["waiting"] = totals["wall"] - totals["cpu"]
    for name, title in columns.items():
        digits = 1 if name in {"statements", "transactions"} else 2
        table.add_column(title, f"{totals[name]:.{digits}f}", justify="right", no_wrap=True)
    for name, stage in anatomy.stages.items():
        scale = 1e3 / anatomy.batches
        table.add_row(
            name,
            f"{stage.wall * scale:.2f}",
            f"{stage.cpu * scale:.2f}",
            f"{stage.driver_cpu * scale:.2f}",
            f"{(stage.wall - stage.cpu) * scale:.2f}",
            f"{stage.statements / anatomy.batches:.1f}",
            f"{stage.transactions / anatomy.batches:.1f}",
        )
    console.print(table)


def _explained(
    console: Console, figures: Sequence[Figures], told: Mapping[str, str], options: str
) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    seen: set[str] = set()
    for each in figures:
        name = each.contender.name.partition(" on ")[0]
        if name not in seen:
            share = (
                f"; {each.contender.share:.0%} of the commands" if each.contender.share < 1 else ""
            )
            table.add_row(name, f"{each.contender.inside}{share}", style="dim")
            seen.add(name)
    table.add_row(
        "waiting", "wall less CPU: for the database, in `send` for the portal", style="dim"
    )
    console.print(table)
    console.print()
    portal = [each for each in figures if any(each.portal_cpu)]
    if portal:
        most = max(middle(each.portal_cpu) for each in portal)
        least = min(middle(each.portal_cpu) for each in portal if middle(each.portal_cpu) > 0)
        console.print(f"The portal itself took {least:.2f} to {most:.2f} ms CPU for each batch.")
    console.print(f"Measured with {options} on: " + ", ".join(f"{k} {v}" for k, v in told.items()))


def _written(
    path: str,
    figures: Sequence[Figures],
    anatomies: Sequence[Anatomy],
    told: Mapping[str, str],
    options: Mapping[str, object],
) -> None:
    document = {
        "machine": told,
        "options": options,
        "contenders": [
            {
                "name": each.contender.name,
                "group": each.contender.group,
                "inside": each.contender.inside,
                "commands_per_s": each.rate,
                "wall_ms": each.wall,
                "cpu_ms": each.cpu,
                "portal_cpu_ms": each.portal_cpu,
            }
            for each in figures
        ],
        "stages": [
            {
                "database": anatomy.name,
                "batches": anatomy.batches,
                "round_trips": anatomy.trips,
                "seconds": {name: asdict(stage) for name, stage in anatomy.stages.items()},
            }
            for anatomy in anatomies
        ],
    }
    Path(path).write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


@click.command(help=(__doc__ or "").split("\n\n", 1)[0])
@click.option("--commands", default=10_000, show_default=True, help="Commands in each round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--fields", default=7, show_default=True, help="Plain fields of each contact.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["clients", *NAMES]),
    help="Only this part; may be given several times.",
)
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False), help="Write all figures here."
)
@click.option(
    "--plot",
    "plot_paths",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Draw them: .svg, .png.",
)
def main(
    commands: int,
    rounds: int,
    fields: int,
    only: Sequence[str],
    json_path: str | None,
    plot_paths: Sequence[str],
) -> None:
    """Measure, show, and write down."""
    console = shown()
    options = {"commands": commands, "rounds": rounds, "fields": fields}
    with ExitStack() as stack:
        portal = stack.enter_context(running())
        backends = [name for name in NAMES if not only or name in only]
        urls = {name: stack.enter_context(database(name)) for name in backends}
        told = machine(urls)
        contenders: list[Contender] = []
        pipelines: list[Pipeline] = []
        keys = count(1)
        for backend, url in urls.items():
            engine = make_engine(url)
            stack.callback(engine.dispose)
            add_portal(engine, rate_x=1e9, rate_y=1e9)
            pipeline = Pipeline(
                name=NAMES[backend],
                url=url,
                portal=portal,
                fields=fields,
                keys=keys,
                engine=engine,
            )
            pipelines.append(pipeline)
            contenders.append(pipeline.contender())
            contenders += floor(engine, pipeline.name, pipeline.fill)
            contenders += naive(portal, url, pipeline.name, fields)
        if not only or "clients" in only:
            contenders += clients(portal, fields)
        figures = [
            Figures(contender=each, batches=_commands_of(each, commands) // SIZE)
            for each in contenders
        ]
        with console.status("warming up") as status:
            _round([Figures(contender=each, batches=1) for each in contenders], portal, 10 * SIZE)
            for number in range(rounds):
                status.update(f"round {number + 1} of {rounds}")
                _round(figures, portal, commands)
            status.update("listening")
            anatomies = [pipeline.anatomy(commands) for pipeline in pipelines]
        _compared(console, figures, anatomies)
        for anatomy in anatomies:
            _dissected(console, anatomy)
        asked = ", ".join(f"{value} {name}" for name, value in options.items())
        _explained(console, figures, told, asked)
        if json_path:
            _written(json_path, figures, anatomies, told, options)
        for path in plot_paths:
            from tests.benchmarks.drawing import draw  # noqa: PLC0415 - only who draws needs it

            draw(path, figures, anatomies, told)


if __name__ == "__main__":
    main()
