"""A run's directory as the checkpoint: its lock, its repair, what in it is done, its manifest.

Knows the kernel's file locks. Invariants: only the holder of the lock changes anything; a file is changed in place only
by cutting its torn tail, everything else goes through a temporary file and a rename; a reader needs no lock and sees
whole lines, but for a last one that is being written.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Final, Self

from s2a_batch import linefiles
from s2a_batch.errors import JobError, LockedError, OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.keys import KeyIndex

RESULTS: Final = "results.jsonl"
DEAD_LETTERS: Final = "dead_letters.jsonl"
REWRITES: Final = "rewrites.jsonl"
MANIFEST: Final = "run.json"
LINE_FILES: Final = (RESULTS, DEAD_LETTERS, REWRITES)
_HALF: Final = ".part"
_NEW: Final = ".new"
_LOCK: Final = ".lock"


class RunDirectory:
    """One run's directory, created on entry if need be and locked while the context lasts.

    Raises on entry:
        LockedError: Another run holds it.
        JobError: It holds files that are not ours, or it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None

    def __enter__(self) -> Self:
        self.refuse_foreign_files()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise JobError(f"{self.path}: cannot be the run's directory: {error.strerror}") from None
        if not _locked(self._lock_fd):
            holder = os.pread(self._lock_fd, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock_fd)
            raise LockedError(f"{self.path}: another run holds it ({holder}); wait for it, or stop it")
        # For people only: the kernel's lock decides, so what a killed run left in here never stands in the way.
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock_fd is not None:
            os.ftruncate(self._lock_fd, 0)
            os.close(self._lock_fd)

    def repair(self) -> list[str]:
        """Cut torn tails and take out damaged lines, as a kill or a power cut leaves them; says what it did."""
        notes = []
        for name in LINE_FILES:
            path = self.path / name
            if path.exists():
                notes += linefiles.cut_tail(path)
                notes += linefiles.drop_damaged(path)
        return notes

    def read_done(self, keys: KeyIndex, *, only_rewrite: bool) -> int:
        """Fill the index from the files; returns how many records are done.

        Args:
            keys: Filled with what became of each record, and where rewrites without an answer lie.
            only_rewrite: A finished rewrite is all that is wanted of a record.
        """
        done = keys.add_done((key for key, _ in linefiles.scan(self.path / RESULTS)), "answered")
        done += keys.add_done((key for key, _ in linefiles.scan(self.path / DEAD_LETTERS)), "failed")
        if only_rewrite:
            return done + keys.add_done((key for key, _ in linefiles.scan(self.path / REWRITES)), "rewritten")
        keys.add_rewrites(linefiles.scan(self.path / REWRITES))
        return done

    def set_dead_letters_aside(self) -> str | None:
        """Make failed records pending again: their file gets a free name and stays for the audit."""
        path = self.path / DEAD_LETTERS
        if not path.exists() or path.stat().st_size == 0:
            return None
        aside = self._free("dead_letters.{}.jsonl")
        path.rename(aside)
        return aside.name

    def set_all_aside(self) -> str | None:
        """Start anew in the same place: all files of the run move into a subdirectory `old-N`; returns its name."""
        if not self._files():
            return None
        aside = self._free("old-{}")
        aside.with_name(aside.name + _HALF).mkdir(mode=0o700)
        return self.finish_setting_aside()

    def _free(self, pattern: str) -> Path:
        return next(path for n in itertools.count(1) if not (path := self.path / pattern.format(n)).exists())

    def finish_setting_aside(self) -> str | None:
        """Move what `set_all_aside` was killed before it could move; None when it was not."""
        for half in self.path.glob(f"old-[0-9]*{_HALF}"):
            for path in self._files():
                path.rename(half / path.name)
            return half.rename(half.with_suffix("")).name
        return None

    def _files(self) -> list[Path]:
        """All files of the run, `run.json` first; not the lock, nor what was set aside before."""
        names = (MANIFEST, *LINE_FILES, linefiles.DAMAGED, *(name + _NEW for name in (MANIFEST, *LINE_FILES)))
        found = [self.path / name for name in names]
        return [*(path for path in found if path.exists()), *sorted(self.path.glob("dead_letters.[0-9]*.jsonl"))]

    def fingerprints(self) -> set[JsonValue]:
        """Of which settings the lines are, by the first whole one of each file."""
        firsts = (
            next((line for _, line in linefiles.lines(self.path / name) if linefiles.whole(line)), None)
            for name in LINE_FILES
        )
        return {json.loads(line).get("fingerprint") for line in firsts if line is not None}

    def rewrite_line(self, offset: int) -> bytes:
        """The line of `rewrites.jsonl` that begins at this byte."""
        with (self.path / REWRITES).open("rb") as file:
            file.seek(offset)
            return file.readline()

    def write_manifest(self, manifest: dict[str, JsonValue]) -> None:
        """Replace `run.json` atomically; `OutputError` when it cannot be written."""
        temporary = self.path / (MANIFEST + _NEW)
        try:
            # A path whose name is no UTF-8 comes as halves of surrogate pairs; JSON takes them escaped.
            with open(
                temporary, "w", encoding="utf-8", errors="backslashreplace", opener=linefiles.open_private
            ) as file:
                json.dump(manifest, file, indent=2, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / MANIFEST)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write {MANIFEST}: {error.strerror}") from None

    def refuse_foreign_files(self) -> None:
        """Raise `JobError` where a file of one of our names is not ours; looks only."""
        for path in (self.path / name for name in LINE_FILES):
            try:
                ours = not path.exists() or (path.is_file() and linefiles.ours(path))
            except OSError as error:
                raise JobError(f"{path}: cannot be read: {error.strerror}") from None
            if not ours:
                raise JobError(f"{path}: not written by s2a-batch; choose another output directory")


def _locked(fd: int) -> bool:
    """Take the lock; tries for 50 ms, as a `status` that looks at it holds it for some microseconds."""
    for pause_s in (0.01,) * 5 + (0.0,):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_s)
        else:
            return True
    return False


def read_manifest(directory: Path) -> dict[str, JsonValue] | None:
    """What `run.json` says; None when there is none. `JobError` when it is damaged."""
    try:
        found = json.loads((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        hint = "--fresh starts anew; to go on, move it away"
        raise JobError(f"{directory / MANIFEST}: cannot be read: {error}; hint: {hint}") from None
    if not isinstance(found, dict) or "s2a_batch" not in found:
        raise JobError(f"{directory / MANIFEST}: not written by s2a-batch; choose another output directory")
    return found


def is_locked(directory: Path) -> bool:
    """Whether a run holds the directory now."""
    try:
        fd = os.open(directory / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
