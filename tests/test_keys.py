"""Identity of records: what a resume takes for the same line, and indexes that memory does not bound."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.keys import KeyIndex, key_text, line_hash

if TYPE_CHECKING:
    from pathlib import Path

LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b"a ", b"\xff"]), max_size=12)


def keys_of(lines: list[bytes]) -> list[str]:
    """The keys of lines in this order."""
    with KeyIndex() as index:
        return [index.meet(line)[0] for line in lines]


def test_equal_lines_are_counted_apart() -> None:
    """The same question asked three times is three records, each with an answer of its own."""
    first, second, other, third = keys_of([b"same", b"same", b"other", b"same"])
    assert (second, third) == (f"{first}-1", f"{first}-2")
    assert other.partition("-")[0] != first
    assert first == line_hash(b"same").hex() == key_text(line_hash(b"same"), 0)


def test_met_are_the_keys_that_were_handed_out() -> None:
    """A result is told as superseded by this; of equal lines only those that are gone may be."""
    with KeyIndex() as index:
        handed = [index.meet(line)[0] for line in (b"same", b"same", b"other")]
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


@given(LINES, st.lists(st.integers(1, 5), max_size=6), st.sets(st.sampled_from([b"a", b"b"])))
def test_lines_met_together_get_the_keys_that_they_get_alone(
    lines: list[bytes], cuts: list[int], done: set[bytes]
) -> None:
    """How many are read in one go is a matter of speed; a key that depended on it would ask for all again."""
    met, rest = [], lines
    with KeyIndex() as alone, KeyIndex() as together:
        for index in (alone, together):
            index.add_done([line_hash(line).hex().encode() for line in sorted(done)], "answered")
            index.done()
        for cut in (*cuts, len(lines)):
            met += together.meet_all(rest[:cut])
            rest = rest[cut:]
        assert met == [alone.meet(line) for line in lines]


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


def test_the_best_that_became_of_a_record_counts() -> None:
    """An answered record must not be taken for a failed one because a dead letter of it is there too."""
    with KeyIndex() as index:
        index.add_done([b"k2", b"k3"], "failed")
        index.add_done([b"k1", b"k2", b"k1"], "answered")
        assert [index.done_as(key) for key in ("k1", "k2", "k3", "k4")] == ["answered", "answered", "failed", None]
        assert index.done() == {"answered": 2, "failed": 1}


def test_equal_lines_are_done_one_by_one() -> None:
    """Of two equal lines one may be answered and the other pending; neither may be lost or asked twice."""
    digest = line_hash(b"same")
    for done in ({0}, {1}, {0, 2}, {0, 1}, set[int]()):
        with KeyIndex() as index:
            index.add_done([key_text(digest, n).encode() for n in done], "answered")
            met = [index.meet(b"same") for _ in range(3)]
            assert met == [(key_text(digest, n), "answered" if n in done else None) for n in range(3)]
            assert index.meet(b"other") == (line_hash(b"other").hex(), None)


@given(LINES, st.data())
def test_a_line_has_the_key_that_it_had_before_anything_was_done(lines: list[bytes], data: st.DataObject) -> None:
    """What is known of the results must not change which line is which."""
    keys = keys_of(lines)
    done = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
    with KeyIndex() as index:
        index.add_done([key.encode() for key in done], "failed")
        assert [index.meet(line) for line in lines] == [(key, "failed" if key in done else None) for key in keys]
        assert all(index.is_met(key.encode()) for key in keys)


def test_a_result_of_a_record_that_has_one_is_noticed() -> None:
    """Two results of one record are a defect that a proof has to find, before it looks at the input."""
    with KeyIndex() as index:
        first, second = key_text(line_hash(b"a"), 0).encode(), key_text(line_hash(b"a"), 1).encode()
        index.add_done([first, second, first], "answered")
        assert [index.meet_key(key) for key in (first, second, first, b"strange")] == [False, False, True, False]
        index.begin_pass()
        assert index.meet(b"a") == (first.decode(), "answered")


def test_the_last_rewrite_of_a_pending_record_is_found() -> None:
    """A rewrite that is paid for is used, the newest one, and none is looked up for what is answered."""
    with KeyIndex() as index:
        index.add_done([b"done"], "answered")
        index.add_rewrites([(b"done", 10), (b"open", 20), (b"open", 1 << 40)])
        assert index.rewrite_offset("done") is None
        assert index.rewrite_offset("open") == 1 << 40
        assert index.rewrite_offset("unknown") is None
        assert index.rewrite_count() == 1


def test_an_index_that_is_begun_anew_knows_nothing() -> None:
    """After a repair the files hold less than was read of them."""
    with KeyIndex() as index:
        index.add_done([line_hash(b"a").hex().encode()], "answered")
        assert index.meet(b"a")[1] == "answered"
        index.clear()
        assert index.meet(b"a")[1] is None
        assert index.done() == {}


def test_a_full_temporary_directory_is_told(tmp_path: Path) -> None:
    """The index is the one thing that does not lie beside the results: who reads the error must learn where it is."""
    program = """
import resource, sys
from s2a_batch.errors import OutputError
from s2a_batch.keys import KeyIndex
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for at_once in (True, False):
    with KeyIndex() as index:
        try:
            index.add_done((b"%032x" % n for n in range(100_000 if at_once else 1_000_000)), "answered")
            index.done()
        except OutputError as error:
            print(error)
"""
    environ = {"TMPDIR": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all(str(tmp_path) in line and "File too large" in line and "set TMPDIR" in line for line in told)


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
import hashlib
from s2a_batch.keys import KeyIndex, line_hash

def peak():  # in KiB, without pages of files, which the kernel takes back; ru_maxrss begins at that of the parent
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def used(done):
    before = peak()
    with KeyIndex() as index:
        index.add_done((line_hash(b"%d" % n).hex().encode() for n in range(done)), "answered")
        index.add_rewrites([(b"%032x" % n, n) for n in range(9)])
        assert index.done() == {"answered": done}
        assert all(index.meet(b"%d" % n)[1] == "answered" for n in range(0, done, 97))
        assert index.meet(b"%d" % done)[1] is None
        return peak() - before

used(1_000)
few, many = used(300_000), used(1_200_000)
print(many - few)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # 900,000 keys more: as a set they take 120 MB, as a table in memory 40 MB.
    assert int(done.stdout) < 8 * 1024
