"""Which jobs there are: the job files of the given places that carry a schedule, read anew when they change.

Invariants: a file that cannot be used takes none of the others along, and is told once for each of its states; a file
that is no scheduled job is none of our business. Nothing is read but regular files, and the bases that these extend.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from s2a_batch import jobfile
from s2a_batch.errors import JobError
from s2a_batch.inputs.inputnames import STDIN
from s2a_batch.schedule.times import Times

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from s2a_batch.job import Job
    from s2a_batch.operations import Schedule

_STDIN: Final = frozenset({STDIN, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})


@dataclass(frozen=True)
class Entry:
    """One scheduled job."""

    path: Path
    name: str
    schedule: Schedule
    drain_s: float
    times: Times

    @property
    def rule(self) -> str:
        """What its times follow; other text, other times."""
        return f"{self.schedule.cron} {self.schedule.timezone}"

    def shown(self, first: datetime, last: datetime) -> str:
        """A time, or all from one to another, as the job's owner would say it."""
        told = [f"{moment.astimezone(self.times.zone):%a %Y-%m-%d %H:%M}" for moment in (first, last)]
        span = f"time {told[0]}" if first == last else f"times from {told[0]} to {told[1]}"
        return f"the {span} {self.schedule.timezone}"


@dataclass(frozen=True)
class News:
    """What one look at the files found changed."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    bad: tuple[tuple[Path, str], ...] = ()

    @property
    def text(self) -> str:
        """Which jobs came, changed and went; empty for none."""
        parts = (("new", self.added), ("changed", self.changed), ("gone", self.removed))
        return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)


class Roster:
    """The jobs of some files and directories.

    Attributes:
        entries: The scheduled jobs by path, as of the last look.
        faults: Files that cannot be used, and why.
    """

    def __init__(self, places: Iterable[Path]) -> None:
        self._places = [Path(os.path.abspath(place)) for place in places]  # noqa: PTH100  a link keeps its name
        self._looks: dict[Path, tuple[int, ...]] = {}
        self._bases: set[Path] = set()
        self.entries: dict[Path, Entry] = {}
        self.faults: dict[Path, str] = {}

    def check_places(self) -> None:
        """Raise `JobError` for a place that is not there."""
        for place in self._places:
            if not place.exists():
                raise JobError(f"{place}: no such file or directory; expected job files (.toml), or where they are")

    def look(self, *, anew: bool = False) -> News:
        """Read all files again if one of them changed (jobs may share settings), cannot be used, or with `anew`."""
        try:
            files = self._files()
        except OSError:  # a network disk that is away for a while
            return News()
        looks = files | {path: look for path in self._bases if (look := _look(path)) is not None}
        if not (anew or self.faults or looks != self._looks):
            return News()
        before, told = self.entries, {} if anew else self.faults
        self.entries, self.faults, self._looks, self._bases = {}, {}, looks, set()
        for path in files:
            self._read(path)
        now = self.entries
        return News(
            added=tuple(now[path].name for path in now if path not in before),
            changed=tuple(
                now[path].name for path in now if path in before and now[path].schedule != before[path].schedule
            ),
            removed=tuple(before[path].name for path in before if path not in now and path not in self.faults),
            bad=tuple((path, why) for path, why in self.faults.items() if told.get(path) != why),
        )

    def _files(self) -> dict[Path, tuple[int, ...]]:
        """Each job file with what tells whether it changed."""
        found: dict[Path, tuple[int, ...]] = {}
        for place in self._places:
            inside = sorted(place.glob("[!.]*.toml")) if place.is_dir() else [place]
            for path in inside:
                if (look := _look(path)) is not None:
                    found[path] = look
        return found

    def _read(self, path: Path) -> None:
        try:
            job = jobfile.load(path)
            check_input(path, job)
        except (JobError, OSError, ValueError, RecursionError) as error:
            if _speaks_of_times(path):
                self.faults[path] = "; ".join(str(error).splitlines()) or type(error).__name__
            return
        self._bases.update(
            Path(str(file["path"])).absolute() for file in job.files if isinstance(file, dict)
        )  # one that is new here is looked at, and the job read again, the next time
        if job.schedule.cron is not None:
            times = Times(job.schedule.cron, ZoneInfo(job.schedule.timezone))
            self.entries[path] = Entry(path, _short(path), job.schedule, job.retry.drain_s, times)


def check_input(path: Path, job: Job) -> None:
    """Raise `JobError` for a scheduled job that would read what nobody writes to, and do nothing every night."""
    if job.schedule.cron is not None and not _STDIN.isdisjoint(job.input):
        raise JobError(f"{path}: input: standard input is empty at a scheduled run; expected files")


def _look(path: Path) -> tuple[int, ...] | None:
    """What tells whether a file changed; None for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    is_file = stat.S_ISREG(status.st_mode)
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino) if is_file else None


def _speaks_of_times(path: Path) -> bool:
    """Whether a file that cannot be used might be meant as a scheduled job."""
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return True
    return "schedule" in table or "extends" in table


def _short(path: Path) -> str:
    """The path as seen from the working directory, where it lies below."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
