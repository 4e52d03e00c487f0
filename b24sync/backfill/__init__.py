"""Rows that were there before are synced too, ten million of them, a few thousand at a time.

A back-fill walks over a source in the order of its key and writes a change for each row, as long as
few enough of its changes wait: what is in the outbox is what the portal will take next, not all that
there is. Its changes are less urgent than all others. The rows of a step and the place that was
reached are committed together, so that nothing is lost or fed twice, wherever a feeder dies.

What is read is locked until it is written, so no stale row is numbered behind a newer change: see
``edge.sources``. Where the source is in another database, its transaction is open around ours.

``opening`` finds the source that a back-fill's row describes, ``asking`` is what people do with
back-fills, and ``feeding`` goes step after step.
"""

from b24sync.backfill.asking import MOST_WAITING, STEP, Asked, rehearse, start, steer
from b24sync.backfill.feeding import Feeding, Rest, feed
from b24sync.backfill.opening import captured, query, selected

__all__ = [
    "MOST_WAITING",
    "STEP",
    "Asked",
    "Feeding",
    "Rest",
    "captured",
    "feed",
    "query",
    "rehearse",
    "selected",
    "start",
    "steer",
]
