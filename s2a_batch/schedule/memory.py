"""What outlives the scheduler: up to which time each job's times were dealt with, in one small file.

Knows platformdirs. Invariants: the file is there as a whole or not at all; a damaged one is set aside, said, and costs
no more than the times missed meanwhile; one that cannot be written stops no job; one scheduler at a time holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import platformdirs

from s2a_batch.errors import JobError, LockedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SCHEMA: Final = 1
_FIRST_YEAR: Final = 1970


@dataclass(frozen=True)
class Memo:
    """What is known of one job.

    Attributes:
        rule: The schedule that its times followed.
        seen: All times up to this instant were begun or skipped.
        open: Whether the run of `seen` was begun and has not ended, or was cut short by the scheduler's own end.
    """

    rule: str
    seen: datetime
    open: bool = False


class Memory:
    """The memos by job file. A context manager: it holds the file's lock.

    Raises:
        LockedError: Another scheduler uses this file.
        JobError: Its directory cannot be made.
    """

    def __init__(self, path: Path | None, say: Callable[[str], None]) -> None:
        self.path = path or platformdirs.user_state_path("s2a-batch") / "schedule.json"
        self._say = say
        self._memos: dict[str, Memo] = {}
        self._fd = -1
        self._is_writable = True

    def __enter__(self) -> Self:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.__exit__()
            raise LockedError(f"{self.path}: another scheduler uses it; give this one its own --state FILE") from None
        except OSError as error:
            self.__exit__()
            raise JobError(f"{self.path}: cannot be used ({error.strerror}); give --state FILE") from None
        self._load()
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def get(self, job: Path) -> Memo | None:
        """What is known of a job."""
        return self._memos.get(str(job))

    def put(self, job: Path, memo: Memo) -> None:
        """Keep it, on disk when this returns."""
        self._memos[str(job)] = memo
        try:
            self._save()
        except OSError as error:
            if self._is_writable:
                self._say(f"{self.path}: cannot be written ({error.strerror}); a restart will not know of this time")
            self._is_writable = False
        else:
            self._is_writable = True

    def _load(self) -> None:
        try:
            self._memos = _parse(self.path.read_bytes())
        except FileNotFoundError:
            return
        except OSError as error:
            raise JobError(f"{self.path}: cannot be read ({error.strerror}); give --state FILE") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            aside = self.path.with_name(self.path.name + ".damaged")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            self._say(f"{self.path}: damaged, set aside as {aside.name}; times missed before now are not known")

    def _save(self) -> None:
        jobs = {
            path: {"rule": memo.rule, "seen": memo.seen.astimezone(UTC).isoformat(), "open": memo.open}
            for path, memo in self._memos.items()
        }
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            with fresh.open("w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump({"schema": _SCHEMA, "jobs": jobs}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise


def _parse(text: bytes) -> dict[str, Memo]:
    """Raises one of a handful of errors for what we did not write."""
    table = json.loads(text)
    if table["schema"] != _SCHEMA:
        raise ValueError(table["schema"])
    found = {}
    for path, memo in table["jobs"].items():
        seen = datetime.fromisoformat(memo["seen"]).astimezone(UTC)
        if seen.year < _FIRST_YEAR:
            raise ValueError(seen)
        found[path] = Memo(str(memo["rule"]), seen, memo["open"] is True)
    return found
