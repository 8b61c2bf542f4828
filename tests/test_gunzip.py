"""Packed files are read to their end or said to be broken, whatever their members, and end for good."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
import zstandard

from s2a_batch.errors import InputError, JobError
from s2a_batch.records import BadLine, Record
from tests.reading import BLOCK, Found, ask, collect, given_bytes, read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_half_a_line_at_the_end_of_a_packed_file_is_lost(tmp_path: Path, suffix: str) -> None:
    """What was packed as a whole grows no more: to wait for the rest would leave it pending for ever, in silence."""
    content = ask("why?") + b'\n{"prompt":"wh'
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    last = read(given_bytes(tmp_path, packed, "in.jsonl" + suffix))[-1]
    assert isinstance(last, BadLine)
    assert (last.kind, last.line) == ("cut_line", 2)
    assert "without a newline" in last.message


def test_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    """`cat a.gz b.gz` is a legal file, also padded with zeros as tapes and disks do; half of it must not vanish."""
    members = [gzip.compress(ask(str(n)) + b"\n") for n in range(3)]
    for between in (b"", b"\0", b"\0" * 700, b"\0" * (3 * BLOCK)):
        found = read(given_bytes(tmp_path, between.join(members) + between, "in.jsonl.gz"))
        assert [record.prompt for record in found if isinstance(record, Record)] == ["0", "1", "2"]


def test_gzip_that_unpacks_to_much_more_than_itself_is_read_in_pieces(tmp_path: Path) -> None:
    """One packed block may hold a thousand blocks of text; memory must not follow it, and no byte may be lost."""
    for size in (BLOCK - 1, BLOCK, BLOCK + 1, 40 * BLOCK):
        content = b" " * (size - len(ask("last"))) + ask("last")
        found = read(given_bytes(tmp_path, gzip.compress(content), "in.jsonl.gz"))
        assert [record.input_json for record in found] == [ask("last")]


def test_gzip_that_is_cut_anywhere_gives_whole_lines_and_then_says_so(tmp_path: Path) -> None:
    """A cut download looks like the end of the file; a run that calls itself complete would be wrong, silently."""
    lines = [ask(f"{n * 7919 % 1000}?") for n in range(40)]
    packed = gzip.compress(b"\n".join(lines[:20]) + b"\n") + gzip.compress(b"\n".join(lines[20:]))
    whole = len(gzip.compress(b"\n".join(lines[:20]) + b"\n"))
    for size in {*range(1, len(packed), 5), len(packed) - 1, whole - 1, whole + 1} - {whole}:
        found = Found()
        with pytest.raises(InputError, match="cut short"):
            collect(given_bytes(tmp_path, packed[:size], "in.jsonl.gz"), found)
        assert [record.input_json for record in found] == lines[: len(found)]


def test_damaged_gzip_is_never_taken_for_a_whole_file(tmp_path: Path) -> None:
    """A flipped bit ends the reading with a word about it: never a traceback, never a quiet end."""
    lines = [ask(f"{n}?", pad=f"{n * n}") for n in range(3_000)]
    packed = bytearray(gzip.compress(b"\n".join(lines), compresslevel=1))
    for place in (30, len(packed) // 2, len(packed) - 6):
        damaged = bytearray(packed)
        damaged[place] ^= 0xFF
        with pytest.raises(InputError, match="damaged gzip data"):
            read(given_bytes(tmp_path, bytes(damaged), "in.jsonl.gz"))


@pytest.mark.parametrize("over", [-1, 0, 1, 10])
def test_padding_may_end_anywhere_in_a_block(tmp_path: Path, over: int) -> None:
    """A padded file is whole: called damaged for where a block ends, it would stop the same run every night."""
    packed = gzip.compress(ask("why?"))
    (record,) = read(given_bytes(tmp_path, packed.ljust(BLOCK + over, b"\0"), "in.jsonl.gz"))
    assert record.input_json == ask("why?")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_lines_before_rubbish_are_read_and_then_the_rubbish_is_named(tmp_path: Path, suffix: str) -> None:
    """What is whole is answered tonight; only what nobody can read stays for who mends the file."""
    content = b"".join(ask(f"{n}?") + b"\n" for n in range(50))
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    found = Found()
    with pytest.raises(InputError, match=r"damaged .*; lines just before it may be pending too"):
        collect(given_bytes(tmp_path, packed + b"rubbish", "in.jsonl" + suffix), found)
    assert [record.input_json for record in found] == [ask(f"{n}?") for n in range(50)]


def test_plain_text_under_the_name_of_gzip_is_refused(tmp_path: Path) -> None:
    """A wrong ending is a fault of the command with a simple way out, not damage."""
    with pytest.raises(JobError, match=r"drop the ending \.gz"):
        read(given_bytes(tmp_path, ask("why?"), "in.jsonl.gz"))
