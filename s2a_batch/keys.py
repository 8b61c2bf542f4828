"""A record's identity, and an index of identities that does not grow in memory.

Knows SQLite (of the standard library) alone. Invariant: the index lives in a private temporary file that SQLite pages
in and out of a fixed cache, so 100 million keys cost disk, not memory; the output files stay the only checkpoint.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

from s2a_batch.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from s2a_batch.records import Status

# 12 us a record at 1 M records, as with a larger cache.
_CACHE_KIB: Final = 4_096
_SCHEMA: Final = """
    CREATE TABLE seen (hash BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE done (key BLOB PRIMARY KEY, status TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE rewrites (key BLOB PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
"""


def line_hash(line: bytes) -> bytes:
    """16 bytes of BLAKE2b over a line with trimmed ends."""
    return hashlib.blake2b(line, digest_size=16).digest()


def key_text(digest: bytes, occurrence: int) -> str:
    """The key of the line with this hash that had `occurrence` equal lines before it: `9f..c4`, `9f..c4-1`, .."""
    return digest.hex() if occurrence == 0 else f"{digest.hex()}-{occurrence}"


class KeyIndex:
    """Which lines were met in this pass, which records are done, and where finished rewrites lie.

    Use as a context manager; the temporary file goes with it. Not for use from several threads.
    """

    def __init__(self) -> None:
        # An empty path is SQLite's private temporary database: on disk when it outgrows the cache, gone at close.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB}; {_SCHEMA} BEGIN;"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def key(self, line: bytes) -> str:
        """The key of the next line of the input, whose ends are trimmed; counts it as met."""
        digest = line_hash(line)
        row = self._run(
            "INSERT INTO seen VALUES (?, 0) ON CONFLICT (hash) DO UPDATE SET n = n + 1 RETURNING n", (digest,)
        ).fetchone()
        return key_text(digest, row[0])

    def add_done(self, keys: Iterable[bytes], status: Status) -> int:
        """Note keys (as text bytes) of records that need no more work; returns how many were new."""
        before = self._db.total_changes
        self._run_many("INSERT OR IGNORE INTO done VALUES (?, ?)", ((key, status) for key in keys))
        return self._db.total_changes - before

    def done_as(self, key: str) -> Status | None:
        """What became of the record with this key; None when it is still to be done."""
        row = self._run("SELECT status FROM done WHERE key = ?", (key.encode(),)).fetchone()
        return None if row is None else row[0]

    def is_met(self, key: bytes) -> bool:
        """Whether the line of this key (as text bytes) was met in this pass."""
        digest, _, occurrence = key.decode(errors="replace").partition("-")
        try:
            row = self._run("SELECT n FROM seen WHERE hash = ?", (bytes.fromhex(digest),)).fetchone()
            return row is not None and int(occurrence or 0) <= row[0]
        except ValueError:
            return False

    def add_rewrites(self, rewrites: Iterable[tuple[bytes, int]]) -> None:
        """Note finished rewrites (key as text bytes, byte offset of their line) of records that are not done."""
        self._run_many(
            "INSERT OR REPLACE INTO rewrites SELECT k, o FROM (SELECT ? AS k, ? AS o) "
            "WHERE NOT EXISTS (SELECT 1 FROM done WHERE key = k)",
            rewrites,
        )

    def rewrite_offset(self, key: str) -> int | None:
        """Where in `rewrites.jsonl` the rewrite of this record begins, in bytes; None when there is none."""
        row = self._run("SELECT offset FROM rewrites WHERE key = ?", (key.encode(),)).fetchone()
        return None if row is None else int(row[0])

    def rewrite_count(self) -> int:
        """How many finished rewrites wait for their answer."""
        return int(self._run("SELECT count(*) FROM rewrites").fetchone()[0])

    def _run(self, sql: str, values: tuple[bytes, ...] = ()) -> sqlite3.Cursor:
        with _disk():
            return self._db.execute(sql, values)

    def _run_many(self, sql: str, values: Iterable[tuple[bytes, str | int]]) -> None:
        with _disk():
            self._db.executemany(sql, values)


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        where = tempfile.gettempdir()
        raise OutputError(
            f"the index of records in {where} cannot be kept: {error}; make room there, or set TMPDIR"
        ) from None
