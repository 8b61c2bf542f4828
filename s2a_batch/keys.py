"""A record's identity, and an index of identities that does not grow in memory.

Knows SQLite (of the standard library). Invariant: what the index holds lies in private temporary files that are paged
in and out, so 100 million keys cost disk, not memory; the output files stay the only checkpoint.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import TYPE_CHECKING, Final, Self

from s2a_batch.done import DoneIndex, digest_of, room

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from s2a_batch.records import Status

_CACHE_KIB: Final = 4_096
_SCHEMA: Final = """
    CREATE TABLE seen (hash BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE rewrites (key BLOB PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
"""
_MEET: Final = "INSERT INTO seen VALUES (?, ?) ON CONFLICT (hash) DO UPDATE SET n = excluded.n"


def line_hash(line: bytes) -> bytes:
    """16 bytes of BLAKE2b over a line with trimmed ends."""
    return hashlib.blake2b(line, digest_size=16).digest()


def key_text(digest: bytes, occurrence: int) -> str:
    """The key of the line with this hash that had `occurrence` equal lines before it: `9f..c4`, `9f..c4-1`, .."""
    return digest.hex() if occurrence == 0 else f"{digest.hex()}-{occurrence}"


class KeyIndex:
    """Which records are done, which lines were met in this pass, and where finished rewrites lie.

    First what is done is added, then lines are met. Use as a context manager; the temporary files go with it. Not for
    use from several threads at a time. A line that is done costs 2 us; one that is not 3 us when many are met together,
    and 60 us when each is met between other work.

    Raises:
        OutputError: The temporary directory has no room.
    """

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        # An empty path is SQLite's private temporary database: on disk when it outgrows the cache, gone at close.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB}; {_SCHEMA} BEGIN;"
        )
        self._done = DoneIndex()
        self._has_rewrites = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the temporary files back."""
        self._db.close()
        self._done.close()

    def clear(self) -> None:
        """Forget all, to begin anew."""
        self.close()
        self._open()

    def add_done(self, keys: Iterable[bytes], status: Status) -> None:
        """Note keys (as text bytes) of records that need no more work; of several statuses of one the best counts."""
        self._done.add(keys, status)

    def done(self) -> dict[Status, int]:
        """How many records are done, by what became of them; none can be added from now on."""
        self._done.sealed()
        return dict(self._done.counts)

    def meet(self, line: bytes) -> tuple[str, Status | None]:
        """Count the next line of the input as met.

        Args:
            line: With trimmed ends.

        Returns:
            Its key, and what became of its record; None when that is still to be done.
        """
        return self.meet_all([line])[0]

    def meet_all(self, lines: Iterable[bytes]) -> list[tuple[str, Status | None]]:
        """As `meet`, of lines in their order: the database is asked once for all of them."""
        found: list[tuple[str, Status | None]] = []
        again: list[tuple[int, bytes, int]] = []
        for digest in map(line_hash, lines):
            entry = self._done.find(digest)
            if entry is None or self._done.is_met(entry[0]):
                again.append((len(found), digest, -1 if entry is None else 0))
                found.append(("", None))
            else:
                self._done.meet(entry[0])
                found.append((digest.hex(), entry[1]))
        met = self._met({digest for _, digest, _ in again})
        for place, digest, before in again:
            occurrence = met[digest] = met.get(digest, before) + 1
            key = key_text(digest, occurrence)
            found[place] = key, self.done_as(key) if occurrence else None
        with room():
            self._db.executemany(_MEET, met.items())
        return found

    def _met(self, digests: Collection[bytes]) -> dict[bytes, int]:
        """How often these were met, less one, of those that were."""
        places = ",".join("?" * len(digests))
        return dict(self._run(f"SELECT hash, n FROM seen WHERE hash IN ({places})", tuple(digests)))  # noqa: S608

    def meet_key(self, key: bytes) -> bool:
        """Note a key (as text bytes) that was added as done as met; whether it had been."""
        entry = self._done.find(digest_of(key))
        if entry is None or self._done.is_met(entry[0]):
            return entry is not None
        self._done.meet(entry[0])
        return False

    def begin_pass(self) -> None:
        """Forget what was met."""
        self._done.forget_met()
        self._run("DELETE FROM seen")

    def done_as(self, key: str) -> Status | None:
        """What became of the record with this key; None when it is still to be done."""
        entry = self._done.find(digest_of(key.encode()))
        return None if entry is None else entry[1]

    def is_met(self, key: bytes) -> bool:
        """Whether the line of this key (as text bytes) was met in this pass."""
        digest, _, occurrence = key.decode(errors="replace").partition("-")
        try:
            number, hashed = int(occurrence or 0), bytes.fromhex(digest)
        except ValueError:
            return False
        row = self._run("SELECT n FROM seen WHERE hash = ?", (hashed,)).fetchone()
        if row is not None:
            return number <= int(row[0])
        entry = self._done.find(hashed) if len(hashed) == len(line_hash(b"")) else None
        return number == 0 and entry is not None and self._done.is_met(entry[0])

    def add_rewrites(self, rewrites: Iterable[tuple[bytes, int]]) -> None:
        """Note finished rewrites (key as text bytes, byte offset of their line) of records that are not done."""
        with room():
            pending = ((key, at) for key, at in rewrites if self._done.find(digest_of(key)) is None)
            self._has_rewrites |= (
                self._db.executemany("INSERT OR REPLACE INTO rewrites VALUES (?, ?)", pending).rowcount > 0
            )

    def rewrite_offset(self, key: str) -> int | None:
        """Where in `rewrites.jsonl` the rewrite of this record begins, in bytes; None when there is none."""
        if not self._has_rewrites:
            return None
        row = self._run("SELECT offset FROM rewrites WHERE key = ?", (key.encode(),)).fetchone()
        return None if row is None else int(row[0])

    def rewrite_count(self) -> int:
        """How many finished rewrites wait for their answer."""
        return int(self._run("SELECT count(*) FROM rewrites").fetchone()[0])

    def _run(self, sql: str, values: tuple[bytes | int, ...] = ()) -> sqlite3.Cursor:
        with room():
            return self._db.execute(sql, values)
