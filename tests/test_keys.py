"""Identity of records: what a resume takes for the same line, and an index that memory does not bound."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.keys import KeyIndex, key_text, line_hash

LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b"a ", b"\xff"]), max_size=12)


def keys_of(lines: list[bytes]) -> list[str]:
    """The keys of lines in this order."""
    with KeyIndex() as index:
        return [index.key(line) for line in lines]


def test_equal_lines_are_counted_apart() -> None:
    """The same question asked three times is three records, each with an answer of its own."""
    first, second, other, third = keys_of([b"same", b"same", b"other", b"same"])
    assert (second, third) == (f"{first}-1", f"{first}-2")
    assert other.partition("-")[0] != first
    assert first == line_hash(b"same").hex() == key_text(line_hash(b"same"), 0)


def test_met_are_the_keys_that_were_handed_out() -> None:
    """A result is told as superseded by this; of equal lines only those that are gone may be."""
    with KeyIndex() as index:
        handed = [index.key(b"same"), index.key(b"same"), index.key(b"other")]
        assert all(index.is_met(key.encode()) for key in handed)
        digest = line_hash(b"same")
        for strange in (key_text(digest, 2), key_text(line_hash(b"new"), 0), "", "zz", handed[0] + "-x", "\u00e9"):
            assert not index.is_met(strange.encode())


@given(LINES, LINES, LINES)
def test_lines_inserted_anywhere_change_no_key(before: list[bytes], inserted: list[bytes], after: list[bytes]) -> None:
    """What was answered stays answered when a file grows at its top or in its middle."""
    old = Counter(keys_of(before + after))
    new = Counter(keys_of(before + inserted + after))
    assert old <= new
    assert sum((new - old).values()) == len(inserted)


@given(LINES.flatmap(lambda lines: st.tuples(st.just(lines), st.permutations(lines))))
def test_moved_lines_keep_their_keys(orders: tuple[list[bytes], list[bytes]]) -> None:
    """A file that was sorted or shuffled between two runs holds the same records."""
    assert set(keys_of(orders[0])) == set(keys_of(orders[1]))


@given(LINES)
def test_keys_are_unique_and_the_same_in_every_pass(lines: list[bytes]) -> None:
    """A key stands for one line, today and in the run that goes on tomorrow."""
    keys = keys_of(lines)
    assert keys == keys_of(lines)
    assert len(set(keys)) == len(lines)


def test_what_became_of_a_record_first_is_kept() -> None:
    """Results are read before dead letters: an answered record must not be taken for a failed one."""
    with KeyIndex() as index:
        assert index.add_done([b"k1", b"k2", b"k1"], "answered") == 2
        assert index.add_done([b"k2", b"k3"], "failed") == 1
        assert [index.done_as(key) for key in ("k1", "k2", "k3", "k4")] == ["answered", "answered", "failed", None]


def test_equal_lines_are_done_one_by_one() -> None:
    """Of two equal lines one may be answered and the other pending; neither may be lost or asked twice."""
    with KeyIndex() as index:
        first, second = index.key(b"same"), index.key(b"same")
        index.add_done([second.encode()], "answered")
        assert index.done_as(first) is None
        assert index.done_as(second) == "answered"


def test_the_last_rewrite_of_a_pending_record_is_found() -> None:
    """A rewrite that is paid for is used, the newest one, and none is looked up for what is answered."""
    with KeyIndex() as index:
        index.add_done([b"done"], "answered")
        index.add_rewrites([(b"done", 10), (b"open", 20), (b"open", 1 << 40)])
        assert index.rewrite_offset("done") is None
        assert index.rewrite_offset("open") == 1 << 40
        assert index.rewrite_offset("unknown") is None
        assert index.rewrite_count() == 1


@settings(max_examples=50)
@given(st.binary())
def test_any_bytes_have_a_key_of_plain_text(line: bytes) -> None:
    """Keys stand in JSON and are found there without parsing, so nothing in them may need an escape."""
    (key,) = keys_of([line])
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")


def test_memory_does_not_follow_the_number_of_keys() -> None:
    """An input of a hundred million lines must run where one of a thousand does."""
    program = """
from s2a_batch.keys import KeyIndex

def peak():  # not ru_maxrss, which begins at that of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

with KeyIndex() as index:
    index.add_done((b"%032x" % (n * 0x9E3779B97F4A7C15) for n in range(1_000)), "answered")
    before = peak()
    index.add_done((b"%032x" % n for n in range(1_200_000)), "answered")
    assert index.done_as("%032x" % 7) == "answered"
    print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # As a set the keys take 160 MB, as a table in memory 60 MB; the cache is bounded by 16 MiB.
    assert int(done.stdout) < 30 * 1024
