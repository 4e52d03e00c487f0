"""Which of its portal's lanes a change goes to."""

from collections import Counter
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from b24sync.core.shards import MOST_SHARDS, shard_of


def test_a_lane_can_be_computed_by_any_program() -> None:
    """By the CRC-32 that databases and languages have; a release that changed it would mix lanes."""
    assert crc32(b"contact c-17") == 366937374
    assert shard_of("contact", "c-17", 2) == 0
    assert shard_of("contact", "c-17", 16) == 366937374 % 16
    assert shard_of("contact", "c-17", 1) == 0
    assert shard_of("contact", "c-17", 0) == 0


@given(st.text(), st.text(), st.integers(-3, MOST_SHARDS))
def test_every_entity_has_one_lane_of_those_there_are(kind: str, key: str, shards: int) -> None:
    """Whatever text it is made of, and the same one each time."""
    assert 0 <= shard_of(kind, key, shards) < max(shards, 1)
    assert shard_of(kind, key, shards) == shard_of(kind, key, shards)


def test_keys_in_a_row_are_spread_evenly() -> None:
    """Applications count; a lane that gets all even numbers would be as good as none."""
    for shards in (2, 3, 4, 16):
        for form in ("{}", "c-{}", "order/{:08}"):
            keys = [form.format(number) for number in range(4000)]
            found = Counter(shard_of("deal", key, shards) for key in keys)
            even = 4000 / shards
            assert len(found) == shards
            assert all(0.8 * even < count < 1.2 * even for count in found.values()), form
