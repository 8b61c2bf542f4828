"""What is done is found, and nothing else is: a record taken for done by mistake would never be answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.done import DoneIndex, digest_of

if TYPE_CHECKING:
    from s2a_batch.records import Status

# Of two values, so that the end of one entry and the beginning of the next often look like a third.
DIGESTS = st.lists(st.sampled_from([0, 1]), min_size=16, max_size=16).map(bytes)
RANKS: tuple[Status, ...] = ("answered", "failed", "rewritten")


@given(st.lists(st.tuples(DIGESTS, st.sampled_from(RANKS)), max_size=40), st.lists(DIGESTS, max_size=40))
def test_every_digest_is_found_with_its_best_status_and_no_other_is(
    added: list[tuple[bytes, Status]], asked: list[bytes]
) -> None:
    """The search goes through bytes in place; where they only look like a digest nothing may be found."""
    index = DoneIndex()
    best: dict[bytes, Status] = {}
    for digest, status in added:
        index.add([digest.hex().encode()], status)
        best[digest] = min(status, best.get(digest, status), key=RANKS.index)
    for digest in [*asked, *best]:
        entry = index.find(digest)
        assert (None if entry is None else entry[1]) == best.get(digest)
    assert index.counts == {s: n for s in RANKS if (n := sum(found == s for found in best.values()))}
    index.close()


def test_each_entry_is_met_by_itself() -> None:
    """Bits of neighbours share a byte; one that is set by mistake makes a pending record a further equal line."""
    index = DoneIndex()
    digests = [bytes([n]) * 16 for n in range(40)]
    index.add((digest.hex().encode() for digest in digests), "answered")
    for met in range(0, 40, 3):
        entry = index.find(digests[met])
        assert entry is not None
        index.meet(entry[0])
    found = [index.is_met(entry[0]) for digest in digests if (entry := index.find(digest)) is not None]
    assert found == [n % 3 == 0 for n in range(40)]
    index.close()


def test_a_key_of_a_further_equal_line_has_a_digest_of_its_own() -> None:
    """The second of two equal lines must not be taken for the first."""
    key = b"0123456789abcdef0123456789abcdef"
    assert digest_of(key).hex().encode() == key
    digests = {digest_of(other) for other in (key, key + b"-1", key + b"-2", b"z" * 32, b"")}
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {16}


def test_nothing_can_be_added_once_looked_up() -> None:
    """It would be lost without a word."""
    index = DoneIndex()
    assert index.find(bytes(16)) is None
    with pytest.raises(ValueError, match="until it is sealed"):
        index.add([b"k"], "answered")
    index.close()
