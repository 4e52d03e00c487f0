"""Commands become one batch, and the rest waits its turn.

At most fifty commands travel in one request (Bitrix24 REST manual, "How to Execute a Batch
Request"). Labels are never numeric: PHP answers a list where labels are 0, 1, 2, and an object
where they are not, so a numeric label may lose the identity of its command. A command that must
not travel in a batch goes by itself.

Commands of which one takes the new id of another are a chain. A reference to the result of a
command means nothing in another request, and is replaced only as far as everything before it
succeeded: so a chain travels whole, and in a batch that stops at the first failure.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

from b24sync.core.model import Batch, Command

MAX_COMMANDS = 50
MAX_BODY_BYTES = 16 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 16


def compose(
    commands: Sequence[Command],
    *,
    max_commands: int = MAX_COMMANDS,
    max_bytes: int = MAX_BODY_BYTES,
    halt: bool = False,
    in_order: bool = False,
) -> tuple[Batch, tuple[Command, ...]]:
    """The next batch of these commands, and those that did not fit.

    Shape: both keep the order given; together they hold every command once. The first command is
    always in the batch, however large it is; never are there more than ``MAX_COMMANDS``. A chain is
    in the batch whole or not at all, unless it is longer than a batch: then as much of it as fits,
    from its beginning. A single command that stayed behind for want of room is not overtaken, a chain
    is, and a command that goes by itself too; with ``in_order`` nothing is, though a chain be parted.
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
    room = max(1, min(max_commands, MAX_COMMANDS))
    choose = _front if in_order else _picked
    taken = choose(commands, room, max_bytes)
    sent = {command.row_ids[0] for command in taken}
    # In the order given, which puts the commands of a chain behind their sources.
    batch = tuple(command for command in commands if command.row_ids[0] in sent)
    rest = tuple(command for command in commands if command.row_ids[0] not in sent)
    return _batch(batch, halt=halt), rest


def _picked(commands: Sequence[Command], room: int, max_bytes: int) -> list[Command]:
    """Whole chains as far as there is room, and of the first one at least its beginning."""
    taken: list[Command] = []
    size = 0
    for chain in _chains(commands):
        if chain[0].alone:
            continue
        if not taken:
            taken = _beginning(chain, room, max_bytes)
            size = _bytes(taken)
        elif len(taken) + len(chain) <= room and size + _bytes(chain) <= max_bytes:
            taken += chain
            size += _bytes(chain)
        elif len(chain) == 1:
            break
    return taken


def _front(commands: Sequence[Command], room: int, max_bytes: int) -> list[Command]:
    """The first commands as far as there is room, without a chain's beginning if that can be."""
    together = list(takewhile(lambda command: not command.alone, commands))
    fitting = _beginning(together, room, max_bytes)
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


def _bytes(commands: Sequence[Command]) -> int:
    return sum(
        len(command.method) + len(command.query) + ENTRY_OVERHEAD_BYTES for command in commands
    )


def _beginning(chain: Sequence[Command], room: int, max_bytes: int) -> list[Command]:
    """As much of a chain as fits, and of anything its first command."""
    kept: list[Command] = [chain[0]]
    size = _bytes(kept)
    for command in chain[1:room]:
        size += _bytes((command,))
        if size > max_bytes:
            break
        kept.append(command)
    return kept


def _chains(commands: Sequence[Command]) -> list[list[Command]]:
    """The commands sorted into chains, each chain and each command in the order given."""
    root: dict[int, int] = {}
    places = {command.row_ids[0]: place for place, command in enumerate(commands)}
    for place, command in enumerate(commands):
        root[place] = place
        for source in command.sources:
            earlier, later = sorted((_root(root, places[source]), _root(root, place)))
            root[later] = earlier
    chains: dict[int, list[Command]] = {}
    for place, command in enumerate(commands):
        chains.setdefault(_root(root, place), []).append(command)
    return list(chains.values())


def _root(root: Mapping[int, int], place: int) -> int:
    while root[place] != place:
        place = root[place]
    return place
