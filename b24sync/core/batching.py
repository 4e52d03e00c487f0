"""Commands become one batch, and the rest waits its turn.

At most fifty commands travel in one request (Bitrix24 REST manual, "How to Execute a Batch
Request"). Labels are never numeric: PHP answers a list where labels are 0, 1, 2, and an object
where they are not, so a numeric label may lose the identity of its command. A command that must
not travel in a batch goes by itself.
"""

from collections.abc import Sequence

from b24sync.core.model import Batch, Command

MAX_COMMANDS = 50
MAX_BODY_BYTES = 16 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 16


def compose(
    commands: Sequence[Command],
    *,
    max_commands: int = MAX_COMMANDS,
    max_bytes: int = MAX_BODY_BYTES,
) -> tuple[Batch, tuple[Command, ...]]:
    """The next batch of these commands, and those that did not fit.

    Shape: both keep the order given; together they hold every command once. The first command is
    always in the batch, however large it is; never are there more than ``MAX_COMMANDS``.
    Units: ``max_bytes`` bounds the commands as text.
    Raises: ValueError for no commands at all.
    """
    if not commands:
        raise ValueError("nothing to compose")
    first = commands[0]
    if first.alone:
        return Batch(labels=(label(0),), commands=(first,), single=True), tuple(commands[1:])
    room = max(1, min(max_commands, MAX_COMMANDS))
    taken: list[Command] = []
    rest: list[Command] = []
    size = 0
    full = False
    for command in commands:
        grown = size + len(command.method) + len(command.query) + ENTRY_OVERHEAD_BYTES
        # Once one stayed behind for want of room none overtakes it, so that order is kept.
        full = full or len(taken) == room or (grown > max_bytes and bool(taken))
        if command.alone or full:
            rest.append(command)
        else:
            taken.append(command)
            size = grown
    labels = tuple(label(number) for number in range(len(taken)))
    return Batch(labels=labels, commands=tuple(taken)), tuple(rest)


def label(number: int) -> str:
    """The label of the command at this position: a letter first, so never a number to PHP."""
    return f"c{number}"
