"""Every state that a model can come to, the shortest way there, and which states lead to an end."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.model.protocol import Model, State, key, without_the_past

Law = Callable[[State], str | None]
"""What is wrong with a state, in words; ``None``, nothing."""


@dataclass(slots=True)
class Explored:
    """What was found.

    Shape: ``states`` in the order of their distance from the start; ``came_from`` is, for each, the
    place of the one before it and what happened; ``before`` are the places that lead to it.
    """

    states: list[State] = field(default_factory=list[State])
    came_from: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    before: list[list[int]] = field(default_factory=list[list[int]])
    words: set[str] = field(default_factory=set[str])
    wrong: str | None = None

    def way_to(self, place: int) -> str:
        """The shortest way to a state, step by step, in words."""
        steps: list[str] = []
        while place:
            place, words = self.came_from[place]
            steps.append(words)
        return "\n".join(f"{n:3}. {words}" for n, words in enumerate(reversed(steps), start=1))

    def stuck(self, is_end: Callable[[State], bool]) -> Sequence[int]:
        """The states from which no end can be reached."""
        reached = [is_end(state) for state in self.states]
        found = deque(place for place, is_there in enumerate(reached) if is_there)
        while found:
            for earlier in self.before[found.popleft()]:
                if not reached[earlier]:
                    reached[earlier] = True
                    found.append(earlier)
        return [place for place, is_there in enumerate(reached) if not is_there]


def explore(model: Model, law: Law) -> Explored:
    """Every state, nearest first; it ends at the first that breaks the law."""
    found = Explored()
    places: dict[object, int] = {}

    def meet(state: State, earlier: int, words: str) -> None:
        met = key(state)
        place = places.get(met)
        if place is None:
            place = places[met] = len(found.states)
            found.states.append(state)
            found.came_from.append((earlier, words))
            found.before.append([])
        found.before[place].append(earlier)
        found.words.add(words)

    meet(model.start(), 0, "")
    place = 0
    while place < len(found.states):
        state = found.states[place]
        complaint = law(state)
        if complaint is not None:
            found.wrong = f"{complaint}\n{found.way_to(place)}"
            return found
        try:
            following = list(model.steps(state))
        except AssertionError as error:
            found.wrong = f"{error}\n{found.way_to(place)}"
            return found
        for words, after in following:
            meet(without_the_past(after), place, words)
        place += 1
    return found
