"""Finished rewrites that need not be asked for: this run's own, and those of another run that the job names.

Invariant: the other run's directory is read only, also while that run goes on.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio.to_thread

from s2a_batch import linefiles, rundir
from s2a_batch.draft import FinishedRewrite
from s2a_batch.keys import KeyIndex
from s2a_batch.resume import lent_rewrites

if TYPE_CHECKING:
    from pathlib import Path

    from s2a_batch.job import Job


@dataclass(frozen=True, slots=True)
class Place:
    """Where rewrites of one record lie: byte offsets in this run's file, and in that of another run; None: nowhere."""

    own: int | None
    other: int | None


class FinishedRewrites:
    """Looks rewrites up by their record's key. A context manager.

    Args:
        job: Names the run's directory, and another one whose rewrites are used, whatever settings made them.
        keys: Knows where in the run's own the rewrites of pending records lie.
        sound_only: Leave out what would only fail once more, under a policy that gives up what failed a check.

    Raises:
        JobError: There are none in the other directory, at once.
    """

    def __init__(self, job: Job, keys: KeyIndex, *, sound_only: bool) -> None:
        self._own = job.output / rundir.REWRITES
        self._keys = keys
        self._other = lent_rewrites(job)
        self._sound_only = sound_only and job.answer.on_failed_check == "fail"
        self._other_keys: KeyIndex | None = None
        self._files = ExitStack()

    def __enter__(self) -> Self:
        if self._other is not None:
            self._other_keys = self._files.enter_context(KeyIndex())
            self._other_keys.add_rewrites(linefiles.scan(self._other))
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def place(self, key: str) -> Place | None:
        """Where the rewrites of the record with this key lie; None when there are none."""
        own = self._keys.rewrite_offset(key)
        other = None if self._other_keys is None else self._other_keys.rewrite_offset(key)
        return None if own is None and other is None else Place(own, other)

    async def find(self, key: str, fingerprint: str) -> FinishedRewrite | None:
        """The rewrite of the record with this key.

        Args:
            key: The record's.
            fingerprint: Of the settings that a rewrite of this run must have.
        """
        return await self.read(key, fingerprint, self.place(key))

    async def read(self, key: str, fingerprint: str, place: Place | None) -> FinishedRewrite | None:
        """As `find`, where its place is known; needs no index, so another process may do it."""
        found = None if place is None else await self._read(key, fingerprint, place)
        return None if found is not None and self._sound_only and found.failed() else found

    async def _read(self, key: str, fingerprint: str, place: Place) -> FinishedRewrite | None:
        if place.own is not None:
            line = await anyio.to_thread.run_sync(_line, self._own, place.own)
            if (found := FinishedRewrite.from_line(line, key, fingerprint)) is not None:
                return found
        if self._other is None or place.other is None:
            return None
        return FinishedRewrite.from_line(await anyio.to_thread.run_sync(_line, self._other, place.other), key, None)


def _line(path: Path, offset: int) -> bytes:
    """The line that begins at this byte; none when the file is gone, so that its rewrite is asked for."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.readline()
    except OSError:
        return b""
