"""Which of its portal's lanes a change goes to.

A portal with several lanes has several batches in flight. The changes of one entity go to one lane
as long as nobody changes the number, so that they travel together; their order does not depend on
it, since whatever stands behind an earlier row of its entity waits, in whichever lane.
"""

from zlib import crc32

MOST_SHARDS = 16
"""More requests in flight than any plan's rate lets through."""


def shard_of(kind: str, key: str, shards: int) -> int:
    """The lane of an entity: the CRC-32 of kind, a space and key, modulo the number of shards.

    Shape: from 0 to ``shards`` - 1. The same on every machine and in every release; other programs
    may compute it, and need not.
    Raises: nothing.
    """
    if shards <= 1:
        return 0
    return crc32(f"{kind} {key}".encode(errors="replace")) % shards
