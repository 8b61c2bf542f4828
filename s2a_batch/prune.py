"""Deletes runs that are old or too many, and in one run what was set aside: whole ones, and nothing else.

Invariants: a run that goes on is never touched, one with something pending only when forced; what is deleted is known
by its name as ours, a stranger's file stays and its directory with it; a run's lock is held while it goes, and
`run.json` goes last, so what a kill leaves half done the next call finishes, and `run` asks anew what is gone; no
symbolic link is followed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles, rundir
from s2a_batch.errors import JobError, LockedError
from s2a_batch.lock import is_locked
from s2a_batch.pruned import Found, Pruned
from s2a_batch.rundir import LINE_FILES, MANIFEST, RunDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import JsonValue

_AGE: Final = re.compile(r"(\d{1,6})([hdw])")
_HOURS: Final = {"h": 1, "d": 24, "w": 168}
_DEAD: Final = re.compile(r"dead_letters\.[0-9]+\.jsonl")
_OLD: Final = re.compile(r"old-[0-9]+(\.part)?")
_OURS: Final = frozenset(
    {*LINE_FILES, MANIFEST, linefiles.DAMAGED, *(name + linefiles.NEW for name in (MANIFEST, *LINE_FILES))}
    | {".lock", ".synced", ".control", "report.html"}
)
_VIEW: Final = ".view.sqlite"  # and what SQLite keeps beside it
_LOCK: Final = ".lock"
_LAST: Final = (MANIFEST, _LOCK)
_SIGNED: Final = b"process "
_MOST_NAMES: Final = 5


@dataclass(frozen=True, slots=True)
class Rules:
    """What may go: only what all rules let go.

    Attributes:
        older_than: Written longer ago than this; None: however young.
        keep: The newest so many stay; None: none for that.
        force: Also what has something pending.
        dry_run: Look only.
    """

    older_than: timedelta | None = None
    keep: int | None = None
    force: bool = False
    dry_run: bool = False


def age(text: str) -> timedelta:
    """The time that `12h`, `30d` or `8w` means; `JobError` when it means none."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise JobError(f"--older-than {text}: expected hours, days or weeks, as in 12h, 30d or 8w")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


def prune(directory: Path, rules: Rules, now: datetime | None = None) -> Pruned:
    """Delete what the rules let go: of a run's own directory what it set aside, else the runs in it.

    Raises:
        JobError: No rule is given, or there is no such directory.
    """
    if rules.older_than is None and rules.keep is None:
        raise JobError("say what may go: --older-than 30d, --keep 10, or both")
    if not directory.is_dir():
        raise JobError(f"{directory}: no such directory")
    now = now or datetime.now(UTC)
    if rundir.read_manifest(directory) is None:
        if (directory / ".lock").exists():
            raise JobError(f"{directory}: no directory of runs; a comparison's, or of a run that has just begun")
        runs = [path for path in _directories(directory) if _has_manifest(path)]
        found = _pruned(directory, runs, rules, now)
        found.runs.extend(_rests(directory, rules))
        return found
    old = [path for path in _directories(directory) if _OLD.fullmatch(path.name) and path.suffix != rundir.HALF]
    aside = [*old, *_files(directory, _DEAD)]
    if rules.dry_run:
        return _pruned(directory, aside, rules, now)
    with RunDirectory(directory):  # else a run might set aside what is deleted
        return _pruned(directory, aside, rules, now)


def _pruned(directory: Path, paths: list[Path], rules: Rules, now: datetime) -> Pruned:
    dated = sorted(((_written_at(path), path) for path in paths), key=lambda found: (found[0] or now, found[1].name))
    runs = []
    for place, (written, path) in enumerate(dated):
        moment = None if written is None else written.isoformat(timespec="seconds")
        found = Found(str(path), moment, _bytes_of(path))
        found.why = _why_it_stays(path, written, len(dated) - place, rules, now)
        if found.why is None:
            (_foretell if rules.dry_run else _delete)(path, written, found)
        runs.append(found)
    return Pruned(str(directory), rules.dry_run, runs)


def _rests(directory: Path, rules: Rules) -> Iterator[Found]:
    """What no rule can judge: a run whose `run.json` is damaged, and the last rest of a deletion."""
    for path in sorted(_directories(directory)):
        if _is_damaged(path):
            yield Found(
                str(path), None, _bytes_of(path), why=f"its {MANIFEST} cannot be read, so nothing is known of it"
            )
        elif _is_a_lock_alone(path) and not is_locked(path):
            found = Found(str(path), None, 0)
            (_foretell if rules.dry_run else _delete)(path, None, found)
            found.why = found.why or "the rest of an earlier deletion"
            yield found


def _why_it_stays(path: Path, written: datetime | None, place: int, rules: Rules, now: datetime) -> str | None:
    """Why the rules keep it; None: they do not. `place` is 1 for the newest."""
    if rules.keep is not None and place <= rules.keep:
        return f"one of the newest {rules.keep}"
    if written is None:
        return f"no time is known of it, as its {MANIFEST} tells none"
    if rules.older_than is not None and now - written <= rules.older_than:
        return "not old enough"
    if not path.is_dir():
        return None
    if is_locked(path):
        return "a run goes on here"
    pending = None if rules.force else _pending(path)
    return pending and f"{pending}; --force deletes it all the same"


def _pending(path: Path) -> str | None:
    """What a run has still to do; None: nothing. What cannot be told may be something."""
    manifest = rundir.read_manifest(path) or {}
    summary, job = manifest.get("summary"), manifest.get("job")
    if not isinstance(summary, dict):
        return "it was killed, and has something pending"
    if summary.get("stopped") or summary.get("pending") != 0 or summary.get("read_all") is not True:
        return "it has something pending"
    return "its rewrites wait for answers" if isinstance(job, dict) and job.get("only") else None


# --- what is there


def _directories(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        return [directory / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _files(directory: Path, pattern: re.Pattern[str]) -> list[Path]:
    with os.scandir(directory) as entries:
        return [
            directory / entry.name
            for entry in entries
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]


def _has_manifest(path: Path) -> bool:
    """Whether it is one of our runs; one whose manifest is damaged or a stranger's is none that we know."""
    try:
        return not (path / MANIFEST).is_symlink() and rundir.read_manifest(path) is not None
    except JobError:
        return False


def _is_damaged(path: Path) -> bool:
    """Whether it has a `run.json` that nobody can read; a stranger's can be read."""
    manifest = path / MANIFEST
    try:
        return (
            manifest.is_file() and not manifest.is_symlink() and not isinstance(json.loads(manifest.read_bytes()), dict)
        )
    except (OSError, ValueError):
        return True


def _is_a_lock_alone(path: Path) -> bool:
    """Whether nothing is in it but our lock, signed by a process that did not live to give it back."""
    lock = path / _LOCK
    try:
        return _names(path) == [_LOCK] and not lock.is_symlink() and lock.read_bytes()[: len(_SIGNED)] == _SIGNED
    except OSError:
        return False


def _written_at(path: Path) -> datetime | None:
    if not path.is_dir():
        return datetime.fromtimestamp(os.lstat(path).st_mtime, UTC)
    try:
        manifest: dict[str, JsonValue] = rundir.read_manifest(path) or {}
        found = datetime.fromisoformat(str(manifest.get("written_at")))
    except (JobError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def _ours(path: Path) -> Iterator[Path]:
    """All files of a run, and of what it set aside, in the order in which they may go."""
    if not path.is_dir():
        yield path
        return
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: (entry.name in _LAST and _LAST.index(entry.name) + 1, entry.name))
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if _OLD.fullmatch(entry.name):
                yield from _ours(path / entry.name)
        elif entry.name in _OURS or _DEAD.fullmatch(entry.name) or entry.name.startswith(_VIEW):
            yield path / entry.name


def _strangers(path: Path) -> list[str]:
    """What in a run's directory is not the run's, or holds such."""
    if not path.is_dir():
        return []
    ours = {file.name for file in _ours(path) if file.parent == path}
    old = {found.name for found in _directories(path) if _OLD.fullmatch(found.name) and not _strangers(found)}
    return [name for name in _names(path) if name not in ours | old]


def _bytes_of(path: Path) -> int:
    return sum(os.lstat(file).st_size for file in _ours(path) if file.name != _LOCK)


# --- how it goes


def _foretell(path: Path, _: datetime | None, found: Found) -> None:
    """Say what a deletion would."""
    found.freed = found.bytes
    _tell(found, _strangers(path))


def _tell(found: Found, strangers: list[str]) -> None:
    found.state = "emptied" if strangers else "deleted"
    if strangers:
        more = " .." if len(strangers) > _MOST_NAMES else ""
        found.why = f"what is not the run's is left: {', '.join(strangers[:_MOST_NAMES])}{more}"


def _delete(path: Path, written: datetime | None, found: Found) -> None:
    """Delete it, and say what of it stays and why."""
    try:
        if not path.is_dir():
            path.unlink()
            found.freed = found.bytes
            _tell(found, [])
            return
        with RunDirectory(path):
            # Before the lock was ours another may have run it, or deleted it.
            if _written_at(path) == written or not _has_manifest(path):
                _empty(path, found)
                _tell(found, _strangers(path))
            else:
                found.why = "it was run again just now"
    except LockedError:
        found.why = "a run goes on here"
    except JobError as error:
        found.why, found.failed = str(error), True
    except OSError as error:
        found.why, found.failed = f"cannot be deleted: {error.filename}: {error.strerror}", True


def _empty(path: Path, found: Found) -> None:
    """Delete our files, and the directories that are empty then; the lock only with its directory."""
    lock = path / _LOCK
    for file in _ours(path) if _has_manifest(path) else ():
        if file != lock:
            size = 0 if file.name == _LOCK else os.lstat(file).st_size
            file.unlink()
            found.freed += size
    for old in _directories(path):
        if _OLD.fullmatch(old.name):
            _remove(old)
    if _names(path) == [lock.name]:
        lock.unlink()
        _remove(path)


def _remove(path: Path) -> None:
    if not _names(path):
        path.rmdir()


def _names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())
