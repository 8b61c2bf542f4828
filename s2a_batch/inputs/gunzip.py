"""Gzip to plain bytes, in pieces, with how far it got in the packed ones.

Knows zlib. Invariant: however much a packed block holds, one piece of bounded size is in memory.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import InputError, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES: Final = 1 << 20


class Gunzip:
    """Unpacks a gzip stream of any number of members, in pieces of bounded size."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._member = zlib.decompressobj(wbits=31)
        self._fed = False

    def feed(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield the text in one block of packed bytes, in pieces of bounded size, and how many are unused."""
        if not self._fed and not block.startswith(b"\x1f"):
            raise JobError(f"{self._name}: no gzip data; hint: drop the ending .gz if it is plain JSON Lines")
        self._fed = True
        try:
            while block:
                if self._member.eof:
                    block = block.lstrip(b"\0")  # padding between members is legal, over many blocks too
                    if block:
                        self._member = zlib.decompressobj(wbits=31)
                    continue
                text = self._member.decompress(block, _MOST_BYTES)
                block = self._member.unconsumed_tail or self._member.unused_data
                yield text, len(block)
        except zlib.error as error:
            raise InputError(
                f"{self._name}: damaged gzip data ({error}); lines just before it may be pending too"
            ) from None

    def end(self) -> None:
        """Raise if the stream is cut."""
        if not self._member.eof:
            raise InputError(f"{self._name}: the gzip file is cut short; complete lines before the cut were read")
