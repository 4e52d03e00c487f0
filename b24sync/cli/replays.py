"""``b24sync replay`` and ``b24sync drop``: dead letters are written anew, edited or not, or closed."""

import getpass
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
from rich.table import Table
from rich.text import Text

from b24sync.cli.dead import USUAL_LIMIT, filters, letter_table
from b24sync.cli.desk import FAILED, Desk, Refused, as_json, confirmed, epilog
from b24sync.cli.interrupts import until_interrupted
from b24sync.cli.layout import NARROW, bar, counted, number, table
from b24sync.core.editing import Edit, parsed
from b24sync.core.errors import ChangeError
from b24sync.core.refs import is_mapping
from b24sync.edge import dead_letters
from b24sync.edge.database import reading, transact
from b24sync.edge.dead_letters import CHUNK, Choice, Heap, Replay
from b24sync.world import World

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

NO_CHOICE = Choice()


def _choosing(command: F) -> F:
    """The argument and options of everything that is done with many letters."""
    for option in (
        as_json,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Say what would be done and change nothing."),
        click.option("--all", "take_all", is_flag=True, help="All that are open."),
        filters,
        click.argument("ids", nargs=-1, type=int),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What a person has said of the letters that are meant, and of how to go about it."""

    ids: tuple[int, ...]
    take_all: bool
    dry_run: bool
    yes: bool
    as_json: bool
    portal: str | None
    kind: str | None
    key: str | None
    code: str | None
    reason: str | None
    older_than: int | None

    @property
    def choice(self) -> Choice:
        """The options that choose.

        Raises: click.UsageError where nothing is said, or more than one thing.
        """
        choice = Choice(
            portal=self.portal,
            kind=self.kind,
            key=self.key,
            code=self.code,
            reason=self.reason,
            older_than_ms=self.older_than,
        )
        if sum((bool(self.ids), choice != NO_CHOICE, self.take_all)) != 1:
            raise click.UsageError("say which: either IDS, or options that choose, or --all")
        return choice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The letters that are meant, and how many there are of each sort."""

    ids: tuple[int, ...]
    heaps: tuple[Heap, ...]

    @property
    def overtaken(self) -> int:
        """How many of them something newer has overtaken."""
        return sum(heap.overtaken for heap in self.heaps)


@click.command(
    short_help="Write dead letters into the outbox again.",
    epilog=epilog(
        "b24sync replay 17 18",
        "b24sync replay 17 --set assignedById=5 --unset comments",
        "b24sync replay 17 --set 'name=\"007\"' --set fm.PHONE.0.value=+15550100",
        "b24sync replay --code ACCESS_DENIED --dry-run",
        "b24sync replay --reason exhausted --older-than 2h --yes",
        exits="0  done; 1  some of them were not replayed, or it was interrupted; 2  wrong usage, "
        "refused or not confirmed; 3  the database cannot be used",
    ),
)
@_choosing
@click.option(
    "--set", "put", multiple=True, metavar="FIELD=VALUE", help="JSON, or else text; repeatable."
)
@click.option("--unset", multiple=True, metavar="FIELD", help="Take a field out; repeatable.")
@click.option(
    "--fields-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A JSON object that replaces all fields; `-` reads stdin.",
)
@click.option("--even-if-newer", is_flag=True, help="Also over newer changes of the same entity.")
@click.pass_obj
def replay(
    desk: Desk,
    /,
    *,
    put: tuple[str, ...],
    unset: tuple[str, ...],
    fields_file: Path | None,
    even_if_newer: bool,
    **given: object,
) -> int:
    """Write dead letters into the outbox again, chosen by IDS or by options.

    Each becomes a new change at the end of its entity's order, with a new id and no tries spent,
    those of one entity the oldest first; the letter is closed and names it. One that was replayed
    already is refused. One whose entity had a newer change since, applied or waiting, is left where
    it is, because it would undo that; --even-if-newer replays it all the same.

    With --set and --unset the fields are edited on the way (of a call, its params), and checked as
    new changes are; dots lead inside: fm.PHONE.0.value. The letter keeps what was edited.
    """
    wanted = _Wanted(**given)  # type: ignore[arg-type] # click has read each option as its type
    choice, edit = wanted.choice, _edit(put, unset, fields_file)
    with desk.opened() as world:
        chosen = _chosen(world, wanted.ids, choice)
        if edit:
            _check(world, chosen.ids, edit)
        left = 0 if even_if_newer else chosen.overtaken
        if wanted.dry_run:
            fresh = replace(choice, ids=wanted.ids, fresh_only=not even_if_newer)
            _rehearse(desk, world, chosen, "replay", fresh, as_json=wanted.as_json)
            return 0
        if not wanted.ids and chosen.ids:
            _ask(desk, chosen, "Replay", left=left, wanted=wanted)
        work = partial(
            dead_letters.replay,
            edit=edit,
            who=who(),
            even_if_newer=even_if_newer,
            kinds=world.settings.kinds,
        )
        parts, is_cut = _in_parts(desk, world, chosen.ids, "replaying", work)
    done = sum(parts, Replay())
    _report(desk, done, as_json=wanted.as_json)
    if is_cut:
        desk.note("interrupted; the letters that are left rest as they were", style="yellow")
    return FAILED if done.closed or done.unknown or done.overtaken or is_cut else 0


@click.command(
    short_help="Close dead letters for good.",
    epilog=epilog(
        "b24sync drop 17 18",
        "b24sync drop --code NOT_FOUND --dry-run",
        "b24sync drop --portal acme --older-than 30d --yes",
        exits="0  done; 1  some of them are closed or unknown, or it was interrupted; 2  wrong "
        "usage, or not confirmed; 3  the database cannot be used",
    ),
)
@_choosing
@click.pass_obj
def drop(desk: Desk, /, **given: object) -> int:
    """Close dead letters for good, chosen by IDS or by options.

    They are not replayed, and not shown any more but with `b24sync dead --closed`.
    """
    wanted = _Wanted(**given)  # type: ignore[arg-type] # click has read each option as its type
    choice = wanted.choice
    with desk.opened() as world:
        chosen = _chosen(world, wanted.ids, choice)
        if wanted.dry_run:
            meant = replace(choice, ids=wanted.ids)
            _rehearse(desk, world, chosen, "drop", meant, as_json=wanted.as_json)
            return 0
        if chosen.ids:
            _ask(desk, chosen, "Drop", left=0, wanted=wanted)
        work = partial(dead_letters.drop, who=who())
        parts, is_cut = _in_parts(desk, world, chosen.ids, "dropping", work)
    done = {letter for part in parts for letter in part}
    left = [] if is_cut else [letter for letter in wanted.ids if letter not in done]
    if wanted.as_json:
        desk.emit({"dropped": sorted(done), "closed_or_unknown": left})
    else:
        for letter in left:
            desk.note(f"dead letter {letter} is closed already, or there is none", style="yellow")
        desk.show(Text(f"{counted(len(done), 'dead letter')} dropped", "bold"))
    if is_cut:
        desk.note("interrupted; the letters that are left rest as they were", style="yellow")
    return FAILED if left or is_cut else 0


def who() -> str:
    """The person at this terminal, as the trail of a letter names them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        name = "?"
    return f"{name}@{socket.gethostname()}"


def _edit(put: Sequence[str], unset: Sequence[str], file: Path | None) -> Edit:
    """The edit that the options say.

    Raises: click.BadParameter, Refused.
    """
    try:
        values = dict(parsed(text) for text in put)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from None
    return Edit(put=values, taken=tuple(unset), whole=None if file is None else _read(file))


def _read(file: Path) -> Mapping[str, object]:
    """A file that holds a JSON object.

    Raises: Refused.
    """
    try:
        with click.open_file(str(file), encoding="utf-8") as stream:
            found: object = json.load(stream)
    except OSError as error:
        raise Refused(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{file.name} is not JSON in UTF-8; nothing was replayed") from None
    if not is_mapping(found):
        raise Refused(f"{file.name} holds no JSON object of fields; nothing was replayed")
    return found


def _chosen(world: World, ids: tuple[int, ...], choice: Choice) -> _Chosen:
    with reading(world.engine) as connection:
        if not ids:
            meant = dead_letters.chosen(connection, choice)
            return _Chosen(ids=meant, heaps=dead_letters.heaps(connection, choice))
        numbers = tuple(sorted(set(ids)))
        return _Chosen(ids=numbers, heaps=dead_letters.heaps(connection, Choice(ids=numbers)))


def _check(world: World, ids: Sequence[int], edit: Edit) -> None:
    """Refuse an edit that one of the letters cannot be replayed with.

    Raises: Refused.
    """
    try:
        with reading(world.engine) as connection:
            dead_letters.check_edit(connection, ids, edit, world.settings.kinds)
    except ChangeError as error:
        raise Refused(f"{error}; nothing was replayed") from None


def _in_parts(
    desk: Desk,
    world: World,
    ids: Sequence[int],
    doing: str,
    work: Callable[..., T],
) -> tuple[list[T], bool]:
    """Part by part, the oldest first, each in its own transaction, so that nobody is held up.

    Shape: what became of each part; and whether somebody has interrupted it.
    """
    done: list[T] = []
    with until_interrupted() as ended, bar(desk.err, unit="letters") as progress:
        task = progress.add_task(doing, total=len(ids))
        for start in range(0, len(ids), CHUNK):
            if ended.is_set():
                return done, True
            part = ids[start : start + CHUNK]
            done.append(transact(world.engine, partial(work, ids=part)))
            progress.advance(task, len(part))
    return done, False


def _ask(desk: Desk, chosen: _Chosen, verb: str, *, left: int, wanted: _Wanted) -> None:
    """Show what is meant, and ask.

    Raises: Refused.
    """
    if not wanted.yes:
        desk.err.print(_heap_table(chosen.heaps))
    _warn(desk, left)
    going = len(chosen.ids) - left
    confirmed(f"{verb} {counted(going, 'dead letter')}?", is_agreed=wanted.yes)


def _warn(desk: Desk, left: int) -> None:
    if left:
        verb = "is left: its entity has" if left == 1 else "are left: their entities have"
        desk.note(
            f"{counted(left, 'dead letter')} {verb} newer changes, which a replay would undo; "
            "--even-if-newer replays them all the same",
            style="yellow",
        )


def _heap_table(heaps: Sequence[Heap]) -> Table:
    shown = table()
    shown.add_column("code")
    shown.add_column("reason")
    shown.add_column("letters", justify="right")
    shown.add_column("newer", justify="right")
    for heap in heaps:
        shown.add_row(
            Text(heap.code or "-"), Text(heap.reason), number(heap.n), number(heap.overtaken)
        )
    return shown


def _rehearse(
    desk: Desk, world: World, chosen: _Chosen, verb: str, meant: Choice, *, as_json: bool
) -> None:
    """Say what would be done, and to which letters."""
    with reading(world.engine) as connection:
        going = dead_letters.chosen(connection, meant)
        found = dead_letters.letters(connection, Choice(ids=going[:USUAL_LIMIT] or (0,)))
    if as_json:
        heaps = [
            {"code": heap.code, "reason": heap.reason, "letters": heap.n, "newer": heap.overtaken}
            for heap in chosen.heaps
        ]
        desk.emit({f"would_{verb}": going, "newer": chosen.overtaken, "by_code": heaps})
        return
    if found:
        desk.show(letter_table(found[::-1], is_narrow=desk.out.width < NARROW), Text())
    if chosen.heaps:
        desk.show(_heap_table(chosen.heaps), Text())
    _warn(desk, sum(heap.n for heap in chosen.heaps) - len(going))
    done = {"replay": "replayed", "drop": "dropped"}[verb]
    desk.show(Text(f"{counted(len(going), 'dead letter')} would be {done}", "bold"))


def _report(desk: Desk, done: Replay, *, as_json: bool) -> None:
    if as_json:
        rows = {str(letter): row for letter, row in done.rows.items()}
        desk.emit(
            {
                "replayed": rows,
                "closed": done.closed,
                "unknown": done.unknown,
                "newer": done.overtaken,
            }
        )
        return
    for letter in done.closed:
        desk.note(f"dead letter {letter} was replayed or dropped already", style="yellow")
    for letter in done.unknown:
        desk.note(f"there is no dead letter {letter}", style="yellow")
    _warn(desk, len(done.overtaken))
    desk.show(Text(f"{counted(len(done.rows), 'dead letter')} replayed", "bold"))
    if done.rows:
        desk.note("next: b24sync sync, or a running worker takes them by itself")
