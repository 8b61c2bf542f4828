"""Bytes to lines: reads a file, plain or gzip, block by block, and splits it at LF alone.

Knows aiofiles. Invariants: at most one block and one line are in memory; lines end at LF alone (never at CR, U+2028 or
U+0085); a line over the limit keeps its first bytes and its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiofiles

from s2a_batch.errors import InputError, JobError
from s2a_batch.gunzip import Gunzip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_BLOCK_BYTES: Final = 1 << 18
# aiofiles hands out 0.9 M lines/s in large blocks, 12 k/s by its own line iteration (925-byte lines, 2 cores).
_HEAD_BYTES: Final = 4_000


@dataclass(frozen=True, slots=True)
class LongLine:
    """Stands for a line over the size limit: its first bytes, and its length."""

    head: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines that ended in one block.

    Attributes:
        carried_bytes: So many of the first line's came with earlier blocks.
        size_bytes: Of the block.
        start: The byte of the file, packed or not, where the block begins.
        end: And where it ends.
        ended: Whether an LF ended the last of them; without one the file ends there.
    """

    lines: list[bytes | LongLine]
    carried_bytes: int
    size_bytes: int
    start: int
    end: int
    ended: bool = True

    def position(self, read_bytes: int) -> int:
        """The byte of the file up to which so many bytes of the block bring the reader."""
        return self.start + (self.end - self.start) * read_bytes // (self.size_bytes or 1)


async def blocks_of_lines(path: Path, max_bytes: int) -> AsyncIterator[Lines]:
    """Yield all physical lines without their LF.

    Args:
        path: Where they stand; `.gz` (any number of members) is unpacked on the way.
        max_bytes: A longer line comes as a `LongLine`.

    Raises:
        JobError: The file is missing or no gzip.
        InputError: Reading failed midway; all complete lines before it were yielded.
    """
    begun, begun_bytes, start = list[bytes](), 0, 0  # a line's pieces, joined once: it may go over many blocks
    async for block, end in _blocks(path):
        first, *others = block.split(b"\n")
        carried, begun_bytes = begun_bytes, begun_bytes + len(first)
        begun.append(first)
        if others:
            *more, last = others
            whole = [_line(begun, begun_bytes, max_bytes)]
            whole += more if len(block) <= max_bytes else [_line([line], len(line), max_bytes) for line in more]
            yield Lines(whole, carried, len(block), start, end)
            begun, begun_bytes = [last], len(last)
        start = end
        if begun_bytes > max_bytes:
            begun = [b"".join(begun)[:_HEAD_BYTES]]
    if begun_bytes:
        yield Lines([_line(begun, begun_bytes, max_bytes)], 0, 0, start, start, ended=False)


def _line(pieces: list[bytes], size_bytes: int, max_bytes: int) -> bytes | LongLine:
    line = b"".join(pieces)
    return line if size_bytes <= max_bytes else LongLine(line[:_HEAD_BYTES], size_bytes)


async def _blocks(path: Path) -> AsyncIterator[tuple[bytes, int]]:
    """Pieces of text, each with the byte of the file that it was read up to."""
    end, unpack = 0, Gunzip(path) if path.suffix == ".gz" else None
    try:
        async with aiofiles.open(path, "rb") as file:
            while block := await file.read(_BLOCK_BYTES):
                end += len(block)
                for part, unused in [(block, 0)] if unpack is None else unpack.feed(block):
                    yield part, end - unused
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise JobError(f"{path}: cannot read the input: {error.strerror}") from None
    except OSError as error:
        raise InputError(f"{path}: reading failed: {error.strerror}; run the same command again") from None
    if unpack is not None:
        unpack.end()
