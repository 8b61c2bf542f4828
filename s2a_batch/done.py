"""Which records are done: a sorted file of 17 bytes a key, which the kernel pages in and out.

Knows memory maps. Invariants: a few MiB are held at a time, so a hundred million keys cost disk, not memory; the file
is private, temporary and made anew each time, so it never disagrees with the results.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import sqlite3
import tempfile
from array import array
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from s2a_batch.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO

    from s2a_batch.records import Status

_STATUSES: Final[tuple[Status, ...]] = ("answered", "failed", "rewritten")
"""By rank: of several for one key the first one counts."""
_DIGEST_BYTES: Final = 16
_ENTRY_BYTES: Final = _DIGEST_BYTES + 1
_PARTS: Final = 256
_HELD_BYTES: Final = 2 << 20
_PER_SLOT: Final = 16
_TOP_BITS: Final = 32


@contextmanager
def room() -> Iterator[None]:
    """Turns an error of a temporary file into `OutputError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        where = tempfile.gettempdir()
        raise OutputError(
            f"the index of records in {where} cannot be kept: {error}; make room there, or set TMPDIR"
        ) from None


def digest_of(key: bytes) -> bytes:
    """16 bytes that stand for a key (as text bytes): its line's hash; a hash of itself when it has an occurrence."""
    if len(key) == 2 * _DIGEST_BYTES:
        try:
            return bytes.fromhex(key.decode())
        except ValueError:
            pass
    return hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()


class DoneIndex:
    """Keys with what became of their records: first all are added, then they are looked up.

    An entry is a digest and a status. Entries are spread over parts by their first byte, each part is sorted by itself,
    and `_starts` tells where the entries with the same first bits begin: a look-up searches about 300 bytes.

    Raises:
        OutputError: The temporary directory has no room.

    Attributes:
        added: How many keys were added, those with the same digest too; known once sealed, as by a look-up.
        counts: How many digests have each status; known once sealed, as by a look-up.
    """

    def __init__(self) -> None:
        self.added = 0
        self.counts: Counter[Status] = Counter()
        self._held = [bytearray() for _ in range(_PARTS)]
        self._held_bytes = 0
        self._spilled: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]
        self._spill: FileIO | None = None
        self._entries: mmap.mmap | None = None
        self._starts = array("Q")
        self._shift = 0
        self._met = bytearray()
        self._files = ExitStack()

    def close(self) -> None:
        """Give the files back."""
        self._files.close()

    def add(self, keys: Iterable[bytes], status: Status) -> None:
        """Note keys (as text bytes) of records that need no more work."""
        if self._entries is not None:
            raise ValueError("keys can be added until it is sealed")
        rank, held = bytes([_STATUSES.index(status)]), self._held
        for key in keys:
            entry = digest_of(key) + rank
            held[entry[0]] += entry
            self._held_bytes += _ENTRY_BYTES
            if self._held_bytes >= _HELD_BYTES:
                with room():
                    self._spill_held()

    def find(self, digest: bytes) -> tuple[int, Status] | None:
        """The number of this digest's entry, and what became of its record; None when there is none."""
        entries = self.sealed()
        slot = int.from_bytes(digest[:4], "big") >> self._shift
        start, end = self._starts[slot] * _ENTRY_BYTES, self._starts[slot + 1] * _ENTRY_BYTES
        at = entries.find(digest, start, end)
        while at >= 0 and at % _ENTRY_BYTES:  # the end of one entry and the beginning of the next
            at = entries.find(digest, at + 1, end)
        return None if at < 0 else (at // _ENTRY_BYTES, _STATUSES[entries[at + _DIGEST_BYTES]])

    def meet(self, entry: int) -> None:
        """Note that the input holds the line of this entry."""
        self._met[entry >> 3] |= 1 << (entry & 7)

    def is_met(self, entry: int) -> bool:
        """Whether `meet` was called for this entry."""
        return bool(self._met[entry >> 3] & 1 << (entry & 7))

    def forget_met(self) -> None:
        """Begin another pass over the input."""
        self._met = bytearray(len(self._met))

    def sealed(self) -> mmap.mmap:
        """The entries in order; nothing can be added after."""
        if self._entries is None:
            with room():
                self._entries = self._sort()
        return self._entries

    def _spill_held(self) -> None:
        if self._spill is None:
            self._spill = self._files.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115  closed by it
        for held, spilled in zip(self._held, self._spilled, strict=True):
            spilled.append((self._spill.tell(), len(held)))
            _write(self._spill, held)
            held.clear()
        self._held_bytes = 0

    def _sort(self) -> mmap.mmap:
        """Write all entries into one sorted file, and map it."""
        self.added = (self._held_bytes + sum(size for part in self._spilled for _, size in part)) // _ENTRY_BYTES
        bits = min(_TOP_BITS, max(8, (self.added // _PER_SLOT).bit_length()))
        self._shift = _TOP_BITS - bits
        sizes = array("Q", bytes(8 * (1 + (1 << bits))))
        file = self._files.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115  closed by it
        for part in range(_PARTS):
            entries = self._sorted(part)
            _write(file, b"".join(entries))
            for rank, number in Counter(entry[_DIGEST_BYTES] for entry in entries).items():
                self.counts[_STATUSES[rank]] += number
            for entry in entries:
                sizes[1 + (int.from_bytes(entry[:4], "big") >> self._shift)] += 1
        _write(file, b"\0")  # an empty file cannot be mapped
        self._starts = array("Q", itertools.accumulate(sizes))
        self._met = bytearray(self._starts[-1] // 8 + 1)
        # Read in place, a look-up costs a quarter of what a call for it does.
        return self._files.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _sorted(self, part: int) -> list[bytes]:
        """The entries of a part in order, of each digest the one with the first status; the part is empty after."""
        data = bytearray()
        if self._spill is not None:
            for at, size in self._spilled[part]:
                self._spill.seek(at)
                data += self._spill.read(size)
        data += self._held[part]
        self._held[part] = bytearray()
        entries = sorted(bytes(data[at : at + _ENTRY_BYTES]) for at in range(0, len(data), _ENTRY_BYTES))
        firsts = {entry[:_DIGEST_BYTES]: entry for entry in reversed(entries)}
        return entries if len(firsts) == len(entries) else sorted(firsts.values())


def _write(file: FileIO, data: bytes | bytearray) -> None:
    """Write all: without a buffer a call may take less, and no close has anything left that can fail."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
