"""Bytes to lines: reads files, plain or packed, block by block, and splits them at LF alone.

Invariants: at most one block and one line are in memory; lines end at LF alone (never at CR, U+2028 or U+0085) and with
their file; a line over the limit keeps its first bytes and its length.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import GoneError, InputError, JobError
from s2a_batch.inputs.gunzip import Gunzip
from s2a_batch.inputs.unzstd import Unzstd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from s2a_batch.inputs import Found, Part

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
        part: The file.
        carried_bytes: So many of the first line's came with earlier blocks.
        size_bytes: Of the block.
        start: The byte of the input, packed or not, where the block begins; counted over all its files.
        end: And where it ends.
        ended: Whether an LF ended the last of them; without one the file ends there.
        gone: Another program took the file away before it was read; there are no lines.
    """

    part: Part
    lines: list[bytes | LongLine]
    carried_bytes: int
    size_bytes: int
    start: int
    end: int
    ended: bool = True
    gone: bool = False

    def position(self, read_bytes: int) -> int:
        """The byte of the input up to which so many bytes of the block bring the reader."""
        return self.start + (self.end - self.start) * read_bytes // (self.size_bytes or 1)


async def blocks_of_lines(found: Found, max_bytes: int) -> AsyncGenerator[Lines]:
    """Yield all physical lines without their LF, file after file.

    Args:
        found: Where they stand.
        max_bytes: A longer line comes as a `LongLine`.

    Raises:
        JobError: The first file is missing though it was named, or not packed as its name says.
        InputError: Reading failed midway; all complete lines before it were yielded.
    """
    before = 0
    for part in found.parts:
        begin = before
        try:
            async with aclosing(_lines(part, before, max_bytes)) as blocks:
                async for block in blocks:
                    yield block
                    before = block.end
        except JobError as error:
            if isinstance(error, GoneError) and part.listed and before == begin:
                before += part.size_bytes or 0
                yield Lines(part, [], 0, 0, begin, before, gone=True)
                continue
            if part is found.parts[0]:
                raise
            raise InputError(str(error)) from None


async def _lines(part: Part, start: int, max_bytes: int) -> AsyncGenerator[Lines]:
    begun, begun_bytes = list[bytes](), 0  # a line's pieces, joined once: it may go over many blocks
    async with aclosing(_blocks(part, start)) as blocks:
        async for block, end in blocks:
            first, *others = block.split(b"\n")
            carried, begun_bytes = begun_bytes, begun_bytes + len(first)
            begun.append(first)
            if others:
                *more, last = others
                whole = [_line(begun, begun_bytes, max_bytes)]
                whole += more if len(block) <= max_bytes else [_line([line], len(line), max_bytes) for line in more]
                yield Lines(part, whole, carried, len(block), start, end)
                begun, begun_bytes = [last], len(last)
            start = end
            if begun_bytes > max_bytes:
                begun = [b"".join(begun)[:_HEAD_BYTES]]
    if begun_bytes:
        yield Lines(part, [_line(begun, begun_bytes, max_bytes)], 0, 0, start, start, ended=False)


def _line(pieces: list[bytes], size_bytes: int, max_bytes: int) -> bytes | LongLine:
    line = b"".join(pieces)
    return line if size_bytes <= max_bytes else LongLine(line[:_HEAD_BYTES], size_bytes)


async def _blocks(part: Part, end: int) -> AsyncGenerator[tuple[bytes, int]]:
    """Pieces of text, each with the byte of the input that it was read up to."""
    unpack = Gunzip(part.name) if part.ending == ".gz" else Unzstd(part.name) if part.ending == ".zst" else None
    try:
        async with aclosing(part.read()) as blocks:
            async for block in blocks:
                end += len(block)
                for piece, unused in [(block, 0)] if unpack is None else unpack.feed(block):
                    yield piece, end - unused
    except FileNotFoundError as error:
        raise GoneError(f"{part.name}: cannot read the input: {error.strerror}") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise JobError(f"{part.name}: cannot read the input: {error.strerror}") from None
    except OSError as error:
        raise InputError(f"{part.name}: reading failed: {error.strerror}; run the same command again") from None
    if unpack is not None:
        unpack.end()
