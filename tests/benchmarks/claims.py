"""Claim and journal among millions of rows: `python -m tests.benchmarks.claims`, long.

Needs the extra ``benchmark``. A million rows wait, nine tenths of them for one portal and the rest
for five thousand; one entity has a hundred thousand rows of which all but the first are parked; ten
million results are there. A worker drains the big portal and some small ones into a portal that
answers at once, and each claim is timed, from the begin of its transaction to the end of its commit:

- before: as it is found;
- during: while somebody else has a transaction open whose snapshot was taken before (a report, a
  backup, a client that was forgotten), for which the database has to keep what was deleted since;
- after: when that one is gone.

Loading takes minutes; with ``--keep`` the database is left there, and found there the next time.

    python -m tests.benchmarks.claims --keep --json claims.json
    python -m tests.benchmarks.claims --only postgresql --waiting 200000 --results 1000000 --hold 20
    python -m tests.benchmarks.claims --only sqlite --memory 1000000

``--memory ROWS`` drains so many rows besides, in one process, and tells what memory that has after
each tenth. Servers are found as the tests find them.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, perf_counter

import click
from cryptography.fernet import Fernet
from rich import box
from rich.console import Console
from rich.table import Table as Shown
from sqlalchemy import Engine, func, inspect, select, update

from b24sync.drain import Order, Tally, drain
from b24sync.edge import ledger, tables, tenants
from b24sync.edge.database import make_engine, reading, writing
from b24sync.edge.lanes import Floor, Lane
from b24sync.edge.tokens import Keyring
from b24sync.world import Moment, Step, World
from tests.benchmarks.ground import NAMES, database, machine, middle, percentile, shown, tidy
from tests.benchmarks.portal import Portal, running
from tests.heaps import Size, analyze, fill
from tests.house import world_of

TARGET_MS = 5.0
LOOKS = 30
"""How often heads are read to find out how long it takes at the least."""
NAME = "b24sync_claims"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims of one phase, in milliseconds; ``seconds`` is how long the phase took in all.

    ``heads_ms`` is the least that it took to read the next fifty rows at its end, again and again:
    what is asked is always the same, so this is about where they lie and not about who else is busy.
    ``sweep_ms`` is the same of an owner that begins from the beginning.
    """

    backend: str
    phase: str
    portals: str
    each: Sequence[float]
    seconds: float
    heads_ms: float
    sweep_ms: float


@contextmanager
def loaded(backend: str, size: Size, *, keep: bool, console: Console) -> Iterator[Engine]:
    """A database with so much in it; one that was kept is taken as it is."""
    with database(backend, name=NAME, keep=keep) as url:
        engine = make_engine(url)
        try:
            with reading(engine) as connection:
                there = connection.execute(select(func.count()).select_from(tables.outbox)).scalar()
            if not there:
                began = monotonic()
                with without_indexes(engine):
                    fill(engine, size)
                analyze(engine)
                tidy(engine)
                console.print(f"{NAMES[backend]}: loaded in {monotonic() - began:.0f} s")
            yield engine
        finally:
            engine.dispose()


@contextmanager
def without_indexes(engine: Engine) -> Iterator[None]:
    """The indexes of results are made once all are there, which is much faster."""
    names = {index["name"] for index in inspect(engine).get_indexes(tables.result.name)}
    indexes = [index for index in tables.result.indexes if index.name in names]
    for index in indexes:
        index.drop(engine)
    yield
    for index in indexes:
        index.create(engine)


def introduce(engine: Engine, portal: Portal) -> Keyring:
    """Every tenant is called at this portal, with a secret that the key ring reads."""
    keyring = Keyring.from_keys((Fernet.generate_key().decode(),))
    secret, key_id = keyring.encrypt("rest/1/benchmark/"), keyring.key_ids[0]
    with writing(engine) as connection:
        connection.execute(
            update(tables.portal).values(
                base_url=portal.url, secret=secret, secret_key_id=key_id, rate_x=1e9, rate_y=1e9
            )
        )
    return keyring


@dataclass(slots=True)
class Watch:
    """Times claims; ``telling`` is for a world."""

    each: list[float]
    began: float = 0.0

    def telling(self, step: Step, moment: Moment) -> None:
        """A claim begins, or is committed."""
        if step is Step.CLAIM:
            if moment is Moment.BEFORE:
                self.began = perf_counter()
            else:
                self.each.append((perf_counter() - self.began) * 1e3)


def drained(world: World, codes: Sequence[str], batches: int, until: float | None = None) -> Watch:
    """Drain so many batches of each of these tenants, or until the time is over."""
    watch = Watch([])
    settings = replace(world.settings, slice_batches=batches, slice_s=1e9)
    mine = replace(world, telling=watch.telling, settings=settings)
    for code in codes:
        drain(mine, Order(portal=code), stopping=lambda: until is not None and monotonic() >= until)
    return watch


def heads_ms(engine: Engine, code: str, *, sweeping: bool) -> float:
    """How long it takes to find the next fifty rows of a tenant; nothing is kept of it."""
    least = float("inf")
    with engine.connect() as connection:
        mine = Lane(
            tenant=tenants.tenant(connection, code),
            lane=0,
            epoch=0,
            wake_seq=0,
            open_batch_id=None,
            fail_streak=0,
        )
        for _ in range(LOOKS):
            began = perf_counter()
            ledger.read_heads(connection, mine, limit=50)
            if sweeping:
                mine = replace(mine, floor=Floor())
            least = min(least, (perf_counter() - began) * 1e3)
        connection.rollback()
    return least


def phases(
    engine: Engine, world: World, size: Size, batches: int, hold_s: float
) -> Iterator[Claims]:
    """Before, during and after a snapshot that somebody holds."""
    backend = {"mysql": "mariadb"}.get(engine.dialect.name, engine.dialect.name)
    small = iter(f"p{number}" for number in range(1, size.portals))

    def measured(phase: str, *, of_small: bool, hold: float | None = None) -> Claims:
        codes = [next(small, "p1") for _ in range(batches // 2)] if of_small else ["default"]
        began = monotonic()
        until = None if hold is None else began + hold
        watch = drained(world, codes, batches if hold is None else 10**9, until)
        return Claims(
            backend=backend,
            phase=phase,
            portals="small" if of_small else "big",
            each=watch.each,
            seconds=monotonic() - began,
            heads_ms=heads_ms(engine, codes[-1], sweeping=False),
            sweep_ms=heads_ms(engine, codes[-1], sweeping=True),
        )

    drained(world, ["default"], 10)
    yield measured("before", of_small=False)
    yield measured("before", of_small=True)
    # Of the tables too: a snapshot that has read nothing of them holds nothing back on MariaDB.
    holder = engine.connect().execution_options(isolation_level="REPEATABLE READ")
    with holder if engine.dialect.name != "sqlite" else engine.connect() as snapshot:
        snapshot.execute(select(tables.outbox.c.id).limit(1)).all()
        parts = max(1, round(hold_s / 15))
        for part in range(parts):
            name = f"held for {hold_s * (part + 1) / parts:.0f} s"
            yield measured(name, of_small=False, hold=hold_s / parts)
        yield measured("held", of_small=True)
        snapshot.rollback()
    yield measured("after", of_small=False)
    yield measured("after", of_small=True)


def memory_mb() -> float:
    """What this process has in memory now; zero where the system does not tell."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def memories(world: World, rows: int) -> list[tuple[int, float]]:
    """Rows drained and memory then, ten times."""
    told = [(0, memory_mb())]
    done, step = 0, max(1, rows // 10)

    def watching(tally: Tally) -> None:
        nonlocal done
        done += tally.rows
        if done >= told[-1][0] + step:
            told.append((done, memory_mb()))

    settings = replace(world.settings, slice_batches=10**9, slice_s=1e9)
    order = Order(portal="default")
    drain(
        replace(world, settings=settings), order, watching=watching, stopping=lambda: done >= rows
    )
    return told


def show(console: Console, found: Sequence[Claims]) -> None:
    """One line for each phase."""
    table = Shown(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"claim and journal, ms (target: median below {TARGET_MS:.0f})"
    for name in ("database", "snapshot", "portals"):
        table.add_column(name, no_wrap=True)
    for name in ("claims", "median", "p95", "p99", "most", "batches/s", "heads", "sweep"):
        table.add_column(name, justify="right", no_wrap=True)
    for before, each in zip((None, *found), found, strict=False):
        if before is not None and before.backend != each.backend:
            table.add_section()
        if not each.each:
            continue
        median = middle(each.each)
        colour = "green" if median < TARGET_MS else "red"
        table.add_row(
            NAMES[each.backend],
            each.phase,
            each.portals,
            f"{len(each.each)}",
            f"[{colour}]{median:.2f}[/{colour}]",
            f"{percentile(each.each, 0.95):.2f}",
            f"{percentile(each.each, 0.99):.2f}",
            f"{max(each.each):.1f}",
            f"{len(each.each) / each.seconds:.0f}",
            f"{each.heads_ms:.2f}",
            f"{each.sweep_ms:.2f}",
        )
    console.print(table)
    console.print(
        "heads: to find the next fifty rows, the least of many times; sweep: from the beginning",
        style="dim",
    )


@click.command(help=(__doc__ or "").split("\n\n", 1)[0])
@click.option("--only", multiple=True, type=click.Choice(list(NAMES)), help="This database only.")
@click.option("--waiting", default=1_000_000, show_default=True, help="Rows that wait.")
@click.option("--results", default=10_000_000, show_default=True, help="Results that are there.")
@click.option("--portals", default=5_000, show_default=True)
@click.option("--hot", default=100_000, show_default=True, help="Rows of one entity.")
@click.option("--batches", default=400, show_default=True, help="Batches before and after.")
@click.option("--hold", "hold_s", default=60.0, show_default=True, help="Seconds of the snapshot.")
@click.option("--keep", is_flag=True, help=f"Leave the database {NAME} there, and use it again.")
@click.option("--memory", default=0, help="Drain so many rows and tell the memory.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False), help="Write all figures here."
)
def main(  # noqa: PLR0913 - one argument for each option
    *,
    only: Sequence[str],
    waiting: int,
    results: int,
    portals: int,
    hot: int,
    batches: int,
    hold_s: float,
    keep: bool,
    memory: int,
    json_path: str | None,
) -> None:
    """Load, measure, show."""
    console = shown()
    size = Size(
        waiting=waiting,
        portals=portals,
        hot=hot,
        results=results,
        links=waiting // 4,
        batches=results // 50,
    )
    found: list[Claims] = []
    grown: dict[str, list[tuple[int, float]]] = {}
    told: dict[str, str] = {}
    for backend in only or ("postgresql", "mariadb"):
        with ExitStack() as stack:
            engine = stack.enter_context(loaded(backend, size, keep=keep, console=console))
            portal = stack.enter_context(running())
            told |= machine({backend: engine.url.render_as_string(hide_password=False)})
            world = replace(
                world_of(engine, webhook_url=portal.webhook_url),
                keyring=introduce(engine, portal),
            )
            tidy(engine)
            for claims in phases(engine, world, size, batches, hold_s):
                found.append(claims)
                console.print(
                    f"{NAMES[backend]}, {claims.phase}, {claims.portals}: {len(claims.each)} claims"
                )
            if memory:
                grown[backend] = memories(world, memory)
    show(console, found)
    for backend, each in grown.items():
        steps = ", ".join(f"{rows:,}: {mb:.1f}" for rows, mb in each)
        console.print(f"{NAMES[backend]}, memory in MB by rows drained: {steps}")
    console.print(f"Measured with {size} on: " + ", ".join(f"{k} {v}" for k, v in told.items()))
    if json_path:
        document = {
            "machine": told,
            "claims": [
                {
                    "of": [c.backend, c.phase, c.portals],
                    "ms": list(c.each),
                    "seconds": c.seconds,
                    "heads_ms": c.heads_ms,
                }
                for c in found
            ],
            "memory_mb": grown,
        }
        Path(json_path).write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
