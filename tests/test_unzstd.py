"""Packed inputs are read whole or said to be broken: frames, skippable frames, cuts, rubbish, windows and bombs."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.errors import InputError, JobError
from s2a_batch.inputs.unzstd import Unzstd

MIB = 1 << 20
TEXT = b"".join(b'{"id":%d,"prompt":"Is %d a prime?"}\n' % (n, n * n) for n in range(2_000))


def unpacked(blocks: list[bytes]) -> bytes:
    """What a stream holds that comes in these blocks."""
    unzstd, found = Unzstd("in.zst"), []
    for block in blocks:
        unused = [len(block)]
        for piece, left in unzstd.feed(block):
            unused.append(left)
            found.append(piece)
        assert unused == sorted(unused, reverse=True)
    unzstd.end()
    return b"".join(found)


def skippable(content: bytes, number: int = 0) -> bytes:
    """A frame that readers pass over, as pzstd writes it."""
    return bytes([0x50 + number, 0x2A, 0x4D, 0x18]) + len(content).to_bytes(4, "little") + content


FRAMES = st.one_of(
    st.binary(max_size=3_000).map(zstandard.compress),
    st.integers(0, 300_000).map(lambda size: zstandard.compress(b"a" * size)),
    st.tuples(st.binary(max_size=40), st.integers(0, 15)).map(lambda skipped: skippable(*skipped)),
)


@settings(max_examples=100)
@given(st.lists(FRAMES, min_size=1, max_size=5), st.integers(1, 3_000))
def test_frames_are_joined_wherever_blocks_and_frames_end(frames: list[bytes], block_bytes: int) -> None:
    """`cat a.zst b.zst` is a legal file, and so is what pzstd writes; none of it may vanish at the edge of a block."""
    packed = b"".join(frames)
    blocks = [packed[n : n + block_bytes] for n in range(0, len(packed), block_bytes)]
    plain = [zstandard.decompress(frame) for frame in frames if frame[:1] == b"\x28"]
    assert unpacked(blocks) == b"".join(plain)


@settings(max_examples=60)
@given(st.data())
def test_a_file_that_is_cut_anywhere_is_never_taken_for_a_whole_one(data: st.DataObject) -> None:
    """A cut download must be named: a run that calls itself complete would be wrong, silently."""
    frames = [zstandard.compress(TEXT[:20_000]), skippable(b"index"), zstandard.compress(TEXT[20_000:])]
    packed, ends = b"".join(frames), {len(frames[0]), len(frames[0]) + len(frames[1])}
    size = data.draw(st.integers(0, len(packed) - 1).filter(lambda size: size not in ends))
    with pytest.raises(InputError, match=r"in\.zst: the zstd file is cut short"):
        unpacked([packed[:size]] if size else [])


@pytest.mark.parametrize("rubbish", [b"\0", b"\0" * 512, b"\n", TEXT[:30], b"\x1f\x8b", b"\x28\xb5\x2f\xfe"])
def test_rubbish_behind_the_last_frame_is_named(rubbish: bytes) -> None:
    """Bytes that no frame holds are lines that would be lost without a word."""
    with pytest.raises(InputError, match=r"in\.zst: (damaged zstd data|the zstd file is cut short)"):
        unpacked([zstandard.compress(TEXT) + rubbish])


def test_damage_is_found_by_the_checksum() -> None:
    """A flipped bit must not become a prompt that was never written."""
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(TEXT))
    for place in (len(packed) // 3, len(packed) - 2):
        damaged = bytearray(packed)
        damaged[place] ^= 0x10
        with pytest.raises(InputError, match="damaged zstd data"):
            unpacked([bytes(damaged)])


def test_plain_text_under_the_name_of_zstd_is_refused_with_the_way_out() -> None:
    """A wrong ending is a fault of the command with a simple way out, not damage."""
    with pytest.raises(JobError, match=r"in\.zst: no zstd data; hint: drop the ending \.zst"):
        unpacked([TEXT])


@pytest.mark.parametrize(("window_log", "fits"), [(27, True), (28, False), (31, False)])
def test_a_window_that_takes_too_much_memory_is_refused_by_its_size(window_log: int, fits: bool) -> None:
    """`zstd --long=31` makes files that take 2 GiB to read; the night's machine may not have them."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, enable_ldm=True, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = writer.compress(TEXT) + writer.flush()
    if fits:
        assert unpacked([packed]) == TEXT
    else:
        with pytest.raises(InputError, match="a window of more than 128 MiB; hint: pack it anew without --long"):
            unpacked([packed])


def test_what_unpacks_to_much_more_than_itself_comes_in_pieces() -> None:
    """A packed block of 256 KiB may stand for gigabytes; memory must not follow it."""
    packed, size, most = zstandard.compress(b"a" * (400 * MIB)), 0, 0
    unzstd = Unzstd("in.zst")
    tracemalloc.start()
    try:
        for piece, _ in unzstd.feed(packed):
            size += len(piece)
            most = max(most, len(piece))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    unzstd.end()
    assert size == 400 * MIB
    assert most <= 40 * MIB
    assert peak < 120 * MIB
