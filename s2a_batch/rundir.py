"""A run's directory as the checkpoint: its repair, what in it is done, its manifest.

Invariants: only the holder of the lock changes anything; a reader needs no lock and sees
whole lines, but for a last one that is being written; what `.synced` names was whole and on the disk when it was
written, and without it, or with other files than it names, everything is looked at anew.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from typing import TYPE_CHECKING, Final, Self

from s2a_batch import linefiles
from s2a_batch.errors import JobError, OutputError
from s2a_batch.linefiles import DAMAGED, NEW
from s2a_batch.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.errors import FailureKind
    from s2a_batch.keys import KeyIndex
    from s2a_batch.records import Status

RESULTS: Final = "results.jsonl"
DEAD_LETTERS: Final = "dead_letters.jsonl"
REWRITES: Final = "rewrites.jsonl"
MANIFEST: Final = "run.json"
LINE_FILES: Final = (RESULTS, DEAD_LETTERS, REWRITES)
FILES: Final[dict[Status, str]] = {"answered": RESULTS, "failed": DEAD_LETTERS, "rewritten": REWRITES}
"""Where the line of a record with this status stands."""
HALF: Final = ".part"
_SYNCED: Final = ".synced"
_SYNCED_BYTES: Final = 512  # one sector: it is written whole or not at all


class RunDirectory:
    """One run's directory, created on entry if need be and locked while the context lasts.

    Args:
        path: The directory.
        waiting: Told who holds the lock, whose end is then waited for; None: it is an error.

    Raises on entry:
        LockedError: Another run holds it.
        JobError: It holds files that are not ours, or it cannot be created.
    """

    def __init__(self, path: Path, waiting: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._waiting = waiting
        self._lock = Lock(path)
        self._vouched: tuple[str, ...] = LINE_FILES
        self._noted: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.refuse_foreign_files()
        self._lock.take(self._waiting)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.give_back()

    def cut_tails(self) -> list[str]:
        """Cut what a kill left unfinished, and bring to the disk what it wrote; says what it did."""
        notes = [note for name in LINE_FILES for note in linefiles.cut_tail(self.path / name)]
        synced = self._synced_bytes()
        for path in (self.path / name for name in LINE_FILES):
            if path.exists() and path.stat().st_size > synced.get(path.name, 0):
                linefiles.sync(path)
        return notes

    def repair(self) -> list[str]:
        """Parse all lines, cut torn tails and take out what a power cut damaged; says what it did."""
        notes = [note for name in LINE_FILES for note in linefiles.repair(self.path / name)]
        self._vouched = LINE_FILES
        self.note_synced()
        return notes

    def note_synced(self, synced: Mapping[str, int] | None = None) -> None:
        """Remember that files are whole and on the disk: so far the next resume parses nothing.

        Args:
            synced: How many bytes of which, beside what was noted before; None: of all, as they are.
        """
        if synced is None:
            sizes = {p.name: p.stat().st_size for p in (self.path / name for name in self._vouched) if p.exists()}
        else:
            vouched = {name: size for name, size in synced.items() if name in self._vouched}
            sizes = self._noted | {name: max(size, self._noted.get(name, 0)) for name, size in vouched.items()}
        self._noted = sizes
        marks = {name: [size, linefiles.mark(self.path / name, size)] for name, size in sizes.items()}
        content = json.dumps(marks).ljust(_SYNCED_BYTES - 1) + "\n"
        # What cannot be remembered is looked at anew: no reason to stop.
        with contextlib.suppress(OSError), open(self.path / _SYNCED, "wb", opener=_in_place) as file:
            file.write(content.encode())

    def _synced_bytes(self) -> dict[str, int]:
        """How much of each file is known to be whole and on the disk; a file that is another one is left out."""
        try:
            found = json.loads((self.path / _SYNCED).read_bytes())
            return {
                name: size
                for name, (size, mark) in found.items()
                if mark and mark == linefiles.mark(self.path / name, size)
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def read_done(self, keys: KeyIndex, *, only_rewrite: bool) -> int:
        """Fill the index from the files, whose tails are cut; returns how many records are done.

        Args:
            keys: Filled with what became of each record, and where rewrites without an answer lie.
            only_rewrite: A finished rewrite is all that is wanted of a record.

        Raises:
            DamagedLineError: A line is not whole: `repair`, and begin anew with an empty index.
        """
        synced = self._synced_bytes()

        def scan(name: str) -> Iterator[tuple[bytes, int]]:
            return linefiles.scan(self.path / name, strict=True, parse_from=synced.get(name, 0))

        keys.add_done((key for key, _ in scan(RESULTS)), "answered")
        keys.add_done((key for key, _ in scan(DEAD_LETTERS)), "failed")
        if only_rewrite:
            keys.add_done((key for key, _ in scan(REWRITES)), "rewritten")
        else:  # one that cannot be read when it is needed is asked for anew; what was not parsed is not vouched for
            rewrites = self.path / REWRITES
            if rewrites.exists() and rewrites.stat().st_size > synced.get(REWRITES, 0):
                self._vouched = (RESULTS, DEAD_LETTERS)
            keys.add_rewrites(linefiles.scan(rewrites, strict=True))
        self.note_synced()
        return sum(keys.done().values())

    def set_dead_letters_aside(self, kinds: Collection[FailureKind] | None) -> str | None:
        """Make records pending that failed of these kinds, or all (None): their lines go to a file that stays."""
        path = self.path / DEAD_LETTERS
        if kinds == frozenset() or not path.exists() or path.stat().st_size == 0:
            return None
        linefiles.repair(path)
        aside, staying = self._free("dead_letters.{}.jsonl"), path.with_name(path.name + NEW)
        moved = linefiles.copy(path, aside, lambda line: _is_one_of(line, kinds))
        if not moved:
            aside.unlink()
            return None
        # A kill before the exchange leaves lines in both files, and the next execution sets them aside once more.
        linefiles.copy(path, staying, lambda line: not _is_one_of(line, kinds))
        staying.replace(path)
        linefiles.sync(self.path)
        return aside.name

    def set_all_aside(self) -> str | None:
        """Start anew in the same place: all files of the run move into a subdirectory `old-N`; returns its name."""
        if not files_of(self.path):
            return None
        aside = self._free("old-{}")
        aside.with_name(aside.name + HALF).mkdir(mode=0o700)
        return self.finish_setting_aside()

    def _free(self, pattern: str) -> Path:
        return next(path for n in itertools.count(1) if not (path := self.path / pattern.format(n)).exists())

    def finish_setting_aside(self) -> str | None:
        """Move what `set_all_aside` was killed before it could move; None when it was not."""
        for half in self.path.glob(f"old-[0-9]*{HALF}"):
            (self.path / _SYNCED).unlink(missing_ok=True)
            for path in files_of(self.path):
                path.rename(half / path.name)
            aside = half.rename(half.with_suffix(""))
            linefiles.sync(aside)
            linefiles.sync(self.path)
            return aside.name
        return None

    def fingerprints(self) -> set[JsonValue]:
        """Of which settings the lines are, by the first whole one of each file."""
        firsts = (
            next((line for _, line in linefiles.lines(self.path / name) if linefiles.whole(line)), None)
            for name in LINE_FILES
        )
        return {json.loads(line).get("fingerprint") for line in firsts if line is not None}

    def write_manifest(self, manifest: dict[str, JsonValue]) -> None:
        """Replace `run.json` atomically; `OutputError` when it cannot be written."""
        temporary = self.path / (MANIFEST + NEW)
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
            linefiles.sync(self.path)
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


def files_of(directory: Path) -> list[Path]:
    """All files of a run, `run.json` first; not the lock, nor the folders with what was set aside before."""
    names = (MANIFEST, *LINE_FILES, DAMAGED, *(name + NEW for name in (MANIFEST, *LINE_FILES)))
    found = [directory / name for name in names]
    return [*(path for path in found if path.exists()), *sorted(directory.glob("dead_letters.[0-9]*.jsonl"))]


def staying(directory: Path, kinds: Collection[FailureKind] | None) -> Iterator[bytes]:
    """Keys (as text bytes) of the dead letters that `set_dead_letters_aside` would leave."""
    path = directory / DEAD_LETTERS
    if kinds == frozenset():
        return (key for key, _ in linefiles.scan(path))
    lines = (line for _, line in linefiles.lines(path) if linefiles.is_sound(line))
    return (linefiles.key_of(line) for line in lines if not _is_one_of(line, kinds))


def _is_one_of(line: bytes, kinds: Collection[FailureKind] | None) -> bool:
    """Whether a dead letter is of these kinds; None: of any."""
    if kinds is None:
        return True
    try:
        return json.loads(line)["error"]["kind"] in kinds
    except (ValueError, KeyError, TypeError, RecursionError):
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


def _in_place(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o600)
