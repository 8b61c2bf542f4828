"""Appends lines to files that other processes of the same run append to as well.

Invariants: a commit is one write under the file's kernel lock, which ends with the process that holds it, so lines of
two processes never interleave; what a process that was killed in the middle of its write left is cut before the next
write, so a line is never glued to a fragment; sizes that are told as synced end on a line.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import anyio.to_thread

from s2a_batch.linefiles import end_of_last_line, open_private
from s2a_batch.sink import Sink, check_linked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AsyncExitStack
    from pathlib import Path


class SharedFile:
    """One line file, opened for this process; nothing here may block a loop, so call it in a thread.

    Args:
        path: It is created if need be.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._fd = open_private(str(path), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)

    def append(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            OSError: They could not be written, or not all; of those that were, only whole ones stay.
        """
        with self._held():
            self._cut_tail()
            try:
                _write(self._fd, lines)
            except OSError:
                with suppress(OSError):
                    self._cut_tail()
                raise

    def sync(self) -> int:
        """Bring it to the disk, with what the others wrote; returns how many bytes were whole lines then."""
        with self._held():
            check_linked(self._fd, self._name)
            size = self._cut_tail()
        os.fsync(self._fd)
        return size

    @contextmanager
    def _held(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _cut_tail(self) -> int:
        """Cut what follows the last whole line; returns the size that is left."""
        size = os.fstat(self._fd).st_size
        if size == 0 or os.pread(self._fd, 1, size - 1) == b"\n":
            return size
        keep = end_of_last_line(self._fd, size)
        os.ftruncate(self._fd, keep)
        return keep


def _write(fd: int, data: bytes) -> None:
    """Write all of it: one call, but where a signal or a bound of the system cut it short."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class SharedSink(Sink):
    """As `Sink`, among other processes that append to the same files.

    Args:
        directory: As of `Sink`.
        names: As of `Sink`.
        fsync_s: As of `Sink`.
        told: Told after each fsync how many bytes of which file are whole lines, and on the disk.
    """

    def __init__(
        self, directory: Path, names: tuple[str, ...], *, fsync_s: float, told: Callable[[dict[str, int]], None]
    ) -> None:
        super().__init__(directory, names, fsync_s=fsync_s)
        self._told = told
        self._shared: dict[str, SharedFile] = {}

    async def _open(self, stack: AsyncExitStack) -> None:
        for name in self._names:
            self._shared[name] = await anyio.to_thread.run_sync(SharedFile, self._directory / name)
            stack.callback(self._shared[name].close)

    async def _write(self, lines: dict[str, bytes]) -> None:
        # One thread for all files: to change over to it costs more than to write.
        await anyio.to_thread.run_sync(self._append, lines)

    def _append(self, lines: dict[str, bytes]) -> None:
        for name, data in lines.items():
            self._shared[name].append(data)

    async def _bring_to_disk(self, names: list[str]) -> None:
        sizes = {name: await anyio.to_thread.run_sync(self._shared[name].sync) for name in names}
        self._told(sizes)
