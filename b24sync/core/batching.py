"""Commands become one batch, and the rest waits its turn.

At most fifty commands travel in one request (Bitrix24 REST manual, "How to Execute a Batch
Request"). Labels are never numeric: PHP answers a list where labels are 0, 1, 2, and an object
where they are not, so a numeric label may lose the identity of its command. A command that must
not travel in a batch goes by itself.

Commands of which one takes the new id of another are a chain. A reference to the result of a
command means nothing in another request, and is replaced only as far as everything before it
succeeded: so a chain travels whole, and in a batch that stops at the first failure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from b24sync.core.chains import chains
from b24sync.core.model import Batch, Command
from b24sync.core.pacing import NO_LOAD, Load, Pace

MAX_COMMANDS = 50
MAX_BODY_BYTES = 16 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 16


def compose(
    commands: Sequence[Command],
    *,
    max_commands: int = MAX_COMMANDS,
    max_bytes: int = MAX_BODY_BYTES,
    pace: Pace | None = None,
    halt: bool = False,
    in_order: bool = False,
) -> tuple[Batch, tuple[Command, ...]]:
    """The next batch of these commands, and those that did not fit.

    Shape: both keep the order given; together they hold every command once. The first command is
    always in the batch, however large it is; never are there more than ``MAX_COMMANDS``. A chain is
    in the batch whole or not at all, unless it is longer than a batch: then as much of it as fits,
    from its beginning. A single command that stayed behind for want of room is not overtaken, a chain
    is, and a command that goes by itself too; with ``in_order`` nothing is, though a chain be parted.
    ``pace`` bounds the time that the request is expected to take; ``None``, nothing is known of it.
    Units: ``max_bytes`` bounds the commands as text.
    Raises: ValueError for no commands at all, for a chain without ``halt``, and for a command whose
    source does not stand before it.
    """
    if not commands:
        raise ValueError("nothing to compose")
    _check_chains(commands, halt=halt)
    first = commands[0]
    if first.alone:
        return _batch((first,), halt=False, single=True), tuple(commands[1:])
    room = _Room(
        count=max(1, min(max_commands, MAX_COMMANDS)),
        bytes=min(max_bytes, (pace and pace.max_bytes) or max_bytes),
        pace=pace,
    )
    choose = _front if in_order else _picked
    taken = choose(commands, room)
    sent = {command.row_ids[0] for command in taken}
    # In the order given, which puts the commands of a chain behind their sources.
    batch = tuple(command for command in commands if command.row_ids[0] in sent)
    rest = tuple(command for command in commands if command.row_ids[0] not in sent)
    return _batch(batch, halt=halt), rest


def size_of(commands: Iterable[Command]) -> int:
    """How large commands are in a request, as text.

    Units: bytes.
    Raises: nothing.
    """
    return sum(
        len(command.method) + len(command.query) + ENTRY_OVERHEAD_BYTES for command in commands
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """How much of a request some commands take."""

    count: int = 0
    bytes: int = 0
    load: Load = NO_LOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """How much one request holds."""

    count: int
    bytes: int
    pace: Pace | None

    def with_(self, size: _Size, commands: Sequence[Command]) -> _Size:
        """The size with these as well."""
        load = size.load
        if self.pace is not None:
            load = sum((self.pace.load(command.method) for command in commands), load)
        return _Size(
            count=size.count + len(commands), bytes=size.bytes + size_of(commands), load=load
        )

    def holds(self, size: _Size) -> bool:
        """Whether that fits."""
        is_small = size.count <= self.count and size.bytes <= self.bytes
        return is_small and (self.pace is None or self.pace.bears(size.load))


def _picked(commands: Sequence[Command], room: _Room) -> list[Command]:
    """Whole chains as far as there is room, and of the first one at least its beginning."""
    if not any(command.alone for command in commands) and room.holds(room.with_(_Size(), commands)):
        # As mostly: then nobody has to know which of them are chains.
        return list(commands)
    taken: list[Command] = []
    size = _Size()
    for chain in chains(commands):
        if chain[0].alone:
            continue
        if not taken:
            taken = _beginning(chain, room)
            size = room.with_(size, taken)
        elif room.holds(larger := room.with_(size, chain)):
            taken += chain
            size = larger
        elif len(chain) == 1:
            break
    return taken


def _front(commands: Sequence[Command], room: _Room) -> list[Command]:
    """The first commands as far as there is room, without a chain's beginning if that can be."""
    together = list(takewhile(lambda command: not command.alone, commands))
    fitting = _beginning(together, room)
    for end in range(len(fitting), 0, -1):
        sent = {command.row_ids[0] for command in fitting[:end]}
        if all(sent.isdisjoint(command.sources) for command in commands[end:]):
            return fitting[:end]
    return fitting


def _check_chains(commands: Sequence[Command], *, halt: bool) -> None:
    """Refuse a reference that the portal would send on as plain text."""
    before: set[int] = set()
    for command in commands:
        if command.sources and not halt:
            raise ValueError("a chain needs a batch that stops at the first failure")
        if not before.issuperset(command.sources):
            raise ValueError("the source of a command must stand before it")
        before.add(command.row_ids[0])


def _batch(commands: tuple[Command, ...], *, halt: bool, single: bool = False) -> Batch:
    labels = tuple(command.label for command in commands)
    return Batch(labels=labels, commands=commands, halt=halt, single=single)


def _beginning(chain: Sequence[Command], room: _Room) -> list[Command]:
    """As much of a chain as fits, and of anything its first command."""
    kept: list[Command] = [chain[0]]
    size = room.with_(_Size(), kept)
    for command in chain[1:]:
        size = room.with_(size, (command,))
        if not room.holds(size):
            break
        kept.append(command)
    return kept
