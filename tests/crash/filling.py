"""A feeder that ends its own process at a commit: ``python -m tests.crash.filling URL MOMENT NTH``.

``MOMENT`` is ``within``, the statements of the nth transaction have run and its COMMIT has not, or
``after``.
"""

import os
import signal
import sys

from sqlalchemy import event

from b24sync.backfill import feed
from b24sync.settings import Settings
from b24sync.world import build


def main(url: str, moment: str, nth: int) -> None:
    """Feed until the end of the process, or of the back-fill."""
    world = build(Settings(database_url=url))
    left = nth

    def pass_by(*_told: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    # A connection goes back to its pool when its transaction is over.
    event.listen(world.engine, "commit" if moment == "within" else "checkin", pass_by)
    feed(world, "b", lasting=lambda: True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
