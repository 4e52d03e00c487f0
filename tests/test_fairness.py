"""A tenant that floods cannot delay the others beyond the stated bound."""

from random import Random

import pytest
from sqlalchemy import Engine

from tests.queueing import Scene, bound_s, play


@pytest.mark.parametrize(
    "scene",
    [
        Scene(portals=60, writers=20),
        Scene(portals=40, writers=15, floods=20, workers=2),
        Scene(portals=40, writers=15, floods=20, workers=2, warm=False),
        Scene(portals=40, writers=30, within_s=0.1, workers=1),
    ],
    ids=["one floods", "half of them flood", "and began just now", "all write at once, one worker"],
)
def test_a_single_row_waits_no_longer_than_the_bound(engine: Engine, scene: Scene) -> None:
    """By the real order of the real statements; and those that flood go on all the same."""
    done = play(engine, scene, Random(1))  # noqa: S311 - a scene, not a secret

    assert len(done.waits_s) == scene.writers
    assert max(done.waits_s) <= bound_s(scene)
    assert done.floods_s > 0


def test_without_turns_a_single_row_would_wait_for_the_flood(engine: Engine) -> None:
    """Half of the portals flood with two workers: in the order of arrival it would be 300 seconds."""
    scene = Scene(portals=40, writers=5, floods=20, workers=2)

    done = play(engine, scene, Random(2))  # noqa: S311 - a scene, not a secret

    assert max(done.waits_s) <= scene.pump_s + scene.slice_s + 3 * scene.row_s
