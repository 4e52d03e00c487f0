"""Commands of which one takes the new id of another, sorted into chains."""

from collections.abc import Mapping, Sequence

from b24sync.core.model import Command


def chains(commands: Sequence[Command]) -> list[list[Command]]:
    """The commands sorted into chains, each chain and each command in the order given.

    Shape: a command without ties is a chain by itself; sources that are not among the commands tie
    nothing.
    Raises: nothing, if sources stand before those that need them.
    """
    root: dict[int, int] = {}
    places = {command.row_ids[0]: place for place, command in enumerate(commands)}
    for place, command in enumerate(commands):
        root[place] = place
        for source in command.sources:
            if source in places:
                earlier, later = sorted((_root(root, places[source]), _root(root, place)))
                root[later] = earlier
    found: dict[int, list[Command]] = {}
    for place, command in enumerate(commands):
        found.setdefault(_root(root, place), []).append(command)
    return list(found.values())


def _root(root: Mapping[int, int], place: int) -> int:
    while root[place] != place:
        place = root[place]
    return place
