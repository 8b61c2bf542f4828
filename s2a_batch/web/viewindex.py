"""The index of a run's directory: one narrow row a record in SQLite, filled from the line files as they grow.

Knows sqlite3. Invariants: the files are the truth and the index may be deleted at any time; each step is one
transaction that first looks whether the files are still those that were read, so two viewers of one directory, a kill
or a run that starts anew leave no wrong row; it is readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles, rundir
from s2a_batch.web import viewrecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from s2a_batch.web.viewrecord import Names, Table

_VERSION: Final = 2
NAME: Final = ".view.sqlite"
_FIRST_LINES: Final = 500
_MOST_LINES: Final = 5_000
_MOST_BYTES: Final = 16 << 20
_PAUSE_S: Final = 0.5
_SEARCHED_CHARS: Final = 50_000
_SNIPPET_CHARS: Final = 160
MOST_BITS: Final = 62
_STATUSES: Final = ("answered", "failed", "rewritten")

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value);
CREATE TABLE files (name TEXT PRIMARY KEY, size INT, mark TEXT);
CREATE TABLE names (n INTEGER PRIMARY KEY, facet TEXT, name TEXT, level TEXT, count INT, UNIQUE (facet, name, level));
CREATE TABLE facts (id INTEGER PRIMARY KEY, line INT, status INT, kind INT, policy INT, version INT, checks INT,
  seconds REAL, tokens INT, removed REAL, before INT, after INT, attempts INT, file INT, at INT, size INT,
  key INT, occurrence INT, ident INT);
CREATE TABLE texts (id INTEGER PRIMARY KEY, ident TEXT, prompt TEXT, answer TEXT);
CREATE VIRTUAL TABLE words USING fts5 (text, content='', detail=none, columnsize=0);
CREATE INDEX by_line ON facts (line, id);
CREATE INDEX by_key ON facts (key, occurrence);
"""
_INDEXED_LAST: Final = ("seconds", "tokens", "removed", "ident")
_NEW_FACT: Final = f"INSERT INTO facts VALUES ({','.join('?' * 19)})"  # noqa: S608  no value in it


def open_index(path: Path) -> sqlite3.Connection:
    """Open an index, made anew when there is none or it is damaged or of another version."""
    for attempt in (1, 2):
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.ExitStack() as failed:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
            db = failed.enter_context(contextlib.closing(connect(path, 32_768)))
            db.execute("PRAGMA journal_mode = WAL")
            with _transaction(db):
                if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    _make_anew(db)
            failed.pop_all()
            return db
        if attempt == 1:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    raise OSError(f"{path}: no index can be kept there")


def connect(path: Path, cache_kib: int = 8_192) -> sqlite3.Connection:
    """One more connection to an index, with bounded memory."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = OFF")
        db.execute(f"PRAGMA cache_size = -{cache_kib}")
    except sqlite3.Error:
        db.close()
        raise
    return db


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _make_anew(db: sqlite3.Connection) -> None:
    found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT NULL").fetchall()
    used = _last_id(db) if ("texts",) in found else 0
    for name in sorted((name for (name,) in found if not name.startswith(("words_", "sqlite_"))), reverse=True):
        db.execute(f'DROP TABLE IF EXISTS "{name}"')
    for statement in filter(str.strip, _TABLES.split(";")):
        db.execute(statement)
    # A page that is still open must not be shown another record under a number that it knows.
    db.execute("INSERT INTO meta VALUES ('used', ?)", (used,))
    db.execute(f"PRAGMA user_version = {_VERSION}")


def _last_id(db: sqlite3.Connection) -> int:
    """The highest number that a record of this index ever had."""
    last = "SELECT max(id) FROM texts UNION ALL SELECT value FROM meta WHERE name = 'used'"
    return max((int(found or 0) for (found,) in db.execute(last)), default=0)


class Indexer:
    """Fills an index from a directory's files, step by step.

    Args:
        db: From `open_index`.
        directory: The run's.
        names: Under which names its input objects hold their parts.
    """

    def __init__(self, db: sqlite3.Connection, directory: Path, names: Names) -> None:
        self._db, self._directory, self._fields = db, directory, names
        self._names: dict[tuple[str, str, str], int] = {}
        self._bits: dict[tuple[str, str], int] = {}
        self._counts = Counter[int]()

    def step(self, most_lines: int) -> int:
        """Read on where the last step ended, of this process or another; returns how many lines were new."""
        with _transaction(self._db):
            state = {name: (size, mark) for name, size, mark in self._db.execute("SELECT * FROM files")}
            if any(
                size and mark != linefiles.mark(self._directory / name, size) for name, (size, mark) in state.items()
            ):
                _make_anew(self._db)
                state = {}
            self._load_names()
            self._counts.clear()
            total = 0
            for number, name in enumerate(rundir.LINE_FILES):
                start = state.get(name, (0, ""))[0]
                end, lines = self._read(number, start, most_lines - total)
                total += lines
                if end != start:
                    mark = linefiles.mark(self._directory / name, end)
                    self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (name, end, mark))
                if total >= most_lines:
                    break
            self._save_counts()
            if total == 0:
                self._finish()
        return total

    def _finish(self) -> None:
        for column in _INDEXED_LAST:
            self._db.execute(f"CREATE INDEX IF NOT EXISTS by_{column} ON facts ({column}, id)")
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('ready', 1)")

    def _read(self, number: int, start: int, most: int) -> tuple[int, int]:
        """Index some lines of one file; returns where they end and how many they were."""
        path, end, taken = self._directory / rundir.LINE_FILES[number], start, 0
        rewrites = rundir.LINE_FILES[number] == rundir.REWRITES
        facts, texts, words, keys = [], [], [], list[tuple[int, int]]()
        ids = itertools.count(_last_id(self._db) + 1)
        for at, line in linefiles.lines(path, start):
            end, taken = at + len(line) + 1, taken + 1
            made = None if rewrites and self._is_done(line) else self._row(next(ids), number, at, line)
            if made is not None:
                facts.append(made[0])
                keys.append(made[3])
                texts.append(made[1])
                words.append((made[0][0], made[2]))
            if taken >= most or end - start > _MOST_BYTES:
                break
        if not rewrites:
            self._drop_rewrites(keys)
        self._db.executemany(_NEW_FACT, facts)
        self._db.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", texts)
        self._db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", words)
        return end, taken

    def _is_done(self, line: bytes) -> bool:
        if not linefiles.is_sound(line):
            return False
        key = viewrecord.key_parts(linefiles.key_of(line).decode(errors="replace"))
        return self._db.execute("SELECT 1 FROM facts WHERE key = ? AND occurrence = ?", key).fetchone() is not None

    def _drop_rewrites(self, keys: Iterable[tuple[int, int]]) -> None:
        """Take out the waiting rewrites of records that are done now."""
        waiting = _STATUSES.index("rewritten")
        if not self._db.execute("SELECT 1 FROM files WHERE name = ?", (rundir.REWRITES,)).fetchone():
            return
        for key in keys:
            found = self._db.execute(
                "SELECT id, version, checks FROM facts WHERE key = ? AND occurrence = ? AND status = ?", (*key, waiting)
            ).fetchone()
            if found is not None:
                self._db.execute("DELETE FROM facts WHERE id = ?", found[:1])
                bits = [n for bit, n in self._facet_bits() if found[2] >> bit & 1]
                self._counts.subtract([self._name("status", "rewritten"), found[1], *bits])

    def _row(
        self, row: int, file: int, at: int, line: bytes
    ) -> tuple[tuple[object, ...], tuple[object, ...], str, tuple[int, int]] | None:
        """The rows of one line: facts, texts, searched words, key; None, and counted, when the line is damaged."""
        found = viewrecord.parsed(line)
        if found is None or found.get("status") not in _STATUSES:
            self._note("damaged", "line")
            return None
        prompt, rewrite = viewrecord.original(found, self._fields), viewrecord.rewrite_of(found)
        error, answer = viewrecord.table(found.get("error")), viewrecord.answer_text(found.get("answer"))
        before = len(prompt.split())
        after = -1 if rewrite is None else len(rewrite.relevant_context.split()) + len(rewrite.user_query.split())
        tokens = viewrecord.tokens(found)
        ident, key = viewrecord.id_text(line, found), viewrecord.key_parts(viewrecord.text(found.get("key")))
        stages = [viewrecord.table(stage) for stage in viewrecord.table(found.get("stages")).values()]
        version = next((viewrecord.text(s.get("prompt_version")) for s in stages if s.get("prompt_version")), "none")
        given = viewrecord.text(found.get("id")) or None
        facts = (
            row, int(viewrecord.number(found.get("line"))), _STATUSES.index(viewrecord.text(found["status"])),
            self._note("kind", error.get("kind")), self._note("policy", found.get("policy")),
            self._note("version", version), self._note_checks(found), viewrecord.number(found.get("seconds")),
            -1 if tokens is None else tokens, max(-8.0, 1 - after / max(before, 1)) if after >= 0 else -9.0,
            before, after, sum(len(viewrecord.rows(s.get("attempts"))) for s in stages), file, at, len(line),
            *key, viewrecord.hash_of(ident if given is None else viewrecord.quoted(given)),
        )  # fmt: skip
        self._note("status", found["status"])
        result = answer or viewrecord.text(error.get("message"))
        searched = f"{ident} {prompt[:_SEARCHED_CHARS]} {result[:_SEARCHED_CHARS]}"
        cut = slice(_SNIPPET_CHARS)
        return (
            facts,
            (row, ident[cut], " ".join(prompt[:_SEARCHED_CHARS].split())[cut], result[cut]),
            viewrecord.spread(searched),
            key,
        )

    def _load_names(self) -> None:
        found = self._db.execute("SELECT n, facet, name, level FROM names").fetchall()
        self._names = {(facet, name, level): n for n, facet, name, level in found}
        self._bits = {}
        for (facet, name, level), _ in sorted(self._names.items(), key=lambda item: item[1]):
            if facet == "check":
                self._bits[name, level] = min(len(self._bits), MOST_BITS)

    def _facet_bits(self) -> list[tuple[int, int]]:
        return [(bit, self._names["check", *check]) for check, bit in self._bits.items()]

    def _name(self, facet: str, name: str, level: str = "") -> int:
        if (facet, name, level) not in self._names:
            values = (facet, name, level)
            found = self._db.execute("INSERT INTO names (facet, name, level, count) VALUES (?, ?, ?, 0)", values)
            self._names[facet, name, level] = found.lastrowid or 0
        return self._names[facet, name, level]

    def _note(self, facet: str, value: object) -> int:
        """Count a value; returns the number that stands for it, 0 for none."""
        if not isinstance(value, str) or not value:
            return 0
        n = self._name(facet, value[:_SNIPPET_CHARS])
        self._counts[n] += 1
        return n

    def _note_checks(self, found: Table) -> int:
        mask = 0
        for check in viewrecord.rows(found.get("checks")):
            key = viewrecord.text(check.get("name"))[:_SNIPPET_CHARS], viewrecord.text(check.get("level"))
            n = self._name("check", *key)
            bit = self._bits.setdefault(key, min(len(self._bits), MOST_BITS))
            self._counts[n] += not mask >> bit & 1
            mask |= 1 << bit
        return mask

    def _save_counts(self) -> None:
        rows = [(count, n) for n, count in self._counts.items()]
        self._db.executemany("UPDATE names SET count = count + ? WHERE n = ?", rows)
        self._counts.clear()


def follow(directory: Path, index: Path, names: Names, parent: int) -> None:
    """Keep an index up with its directory while the parent process lives."""
    most = _FIRST_LINES
    try:
        with contextlib.closing(open_index(index)) as db:  # which folds its log into it
            indexer = Indexer(db, directory, names)
            while os.getppid() == parent:
                if indexer.step(most) == 0:
                    time.sleep(_PAUSE_S)
                most = min(most * 2, _MOST_LINES)
    except (sqlite3.Error, OSError) as error:
        sys.exit(f"error: the index {index} cannot be kept: {error}; what it holds is shown")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    follow(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
