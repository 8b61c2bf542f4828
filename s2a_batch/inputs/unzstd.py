"""Zstandard to plain bytes, in pieces, with how far it got in the packed ones.

Knows zstandard. Invariant: however much a packed block holds, memory is bounded by the window and by one slice's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import zstandard

from s2a_batch.errors import InputError, JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW_BYTES: Final = 1 << 27  # as the zstd command takes without --long
# Four bytes may stand for a block of 128 KiB: so a slice unpacks to 32 MiB at most, and to some KiB as a rule.
_SLICE_BYTES: Final = 1 << 10
_PIECE_BYTES: Final = 1 << 18
_FIRST_BYTES: Final = frozenset({0x28, *range(0x50, 0x60)})  # of a frame; of a skippable one


class Unzstd:
    """Unpacks a stream of any number of frames, skippable ones among them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        self._fed = False

    def feed(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield the text in one block of packed bytes, in pieces of bounded size, and how many are unused."""
        if not self._fed and block[0] not in _FIRST_BYTES:
            raise JobError(f"{self._name}: no zstd data; hint: drop the ending .zst if it is plain JSON Lines")
        self._fed = True
        pieces, size = list[bytes](), 0
        fault: InputError | None = None
        for begin in range(0, len(block), _SLICE_BYTES):
            unused = max(0, len(block) - begin - _SLICE_BYTES)
            try:
                for text in self._unpacked(block[begin : begin + _SLICE_BYTES]):
                    pieces.append(text)
                    size += len(text)
            except InputError as error:
                fault = error
            if size >= _PIECE_BYTES or (size and (fault or not unused)):
                yield b"".join(pieces), unused
                pieces, size = [], 0
            if fault is not None:
                raise fault

    def _unpacked(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
            try:
                text = self._frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise self._fault(str(error)) from None
            packed = self._frame.unused_data if self._frame.eof else b""
            if text:
                yield text

    def _fault(self, said: str) -> InputError:
        if "too much memory" in said:
            how = f"a window of more than {_WINDOW_BYTES >> 20} MiB; hint: pack it anew without --long and --ultra"
            return InputError(f"{self._name}: unpacking needs {how}")
        return InputError(f"{self._name}: damaged zstd data ({said}); lines just before it may be pending too")

    def end(self) -> None:
        """Raise if the stream is cut."""
        if not self._frame.eof:
            raise InputError(f"{self._name}: the zstd file is cut short; complete lines before the cut were read")
