"""Results to bytes: appends lines to the run's files with group commit.

Knows aiofiles. Invariants: one committer writes every file, so lines never interleave; `append` returns only when its
line has been handed to the operating system, so a killed process never loses what a caller believes is written; what
was appended is fsynced at most `fsync_s` later, so a power cut loses no more than that.
"""

from __future__ import annotations

import contextlib
import errno
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiofiles
import anyio
import anyio.to_thread

from s2a_batch.errors import OutputError
from s2a_batch.linefiles import open_private, sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiofiles.threadpool.binary import AsyncBufferedIOBase


@dataclass(slots=True)
class _Entry:
    name: str
    line: bytes
    written: anyio.Event = field(default_factory=anyio.Event)


class Sink:
    """Appends lines to files of one directory.

    `run` must be running in a task of its own, outside any scope that a second signal cancels; `close` ends it.

    Args:
        directory: The run's directory; it exists and is locked by the caller.
        names: The files that may be appended to; they are created.
        fsync_s: Longest time between an append and its fsync, in seconds; 0: each commit is synced before
            `append` returns.
        synced: Called in a thread after each fsync, before anything more is written.
    """

    def __init__(
        self, directory: Path, names: tuple[str, ...], *, fsync_s: float, synced: Callable[[], None] = lambda: None
    ) -> None:
        self._directory = directory
        self._names = names
        self._fsync_s = fsync_s
        self._synced = synced
        self._queue: list[_Entry] = []
        self._wake = anyio.Event()
        self._closing = False
        self._fault: str | None = None
        self._files: dict[str, AsyncBufferedIOBase] = {}
        self._unsynced: set[str] = set()
        self._sync_due = 0.0

    async def append(self, name: str, line: bytes) -> None:
        """Append one line, LF included; returns when the operating system has it.

        A cancelled caller's line is written all the same: whole, once.

        Raises:
            OutputError: The line could not be written; nothing more will be.
        """
        if self._fault is not None:
            raise OutputError(self._fault)
        entry = _Entry(name, line)
        self._queue.append(entry)
        self._wake.set()
        await entry.written.wait()
        if self._fault is not None:
            raise OutputError(self._fault)

    def close(self) -> None:
        """Let `run` write what is queued, sync and return."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Write what `append` queues until `close`.

        Raises:
            OutputError: The disk is full, read-only or gone; every waiting `append` raises the same.
        """
        batch: list[_Entry] = []
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                await anyio.to_thread.run_sync(sync, self._directory)
                while self._queue or not self._closing:
                    await self._wait()
                    batch, self._queue = self._queue, []
                    await self._commit(batch)
                await self._sync()
        except OSError as error:
            self._fault = (
                f"{self._directory}: cannot write: {error.strerror}; make room, then run the same command again"
            )
            for entry in [*batch, *self._queue]:
                entry.written.set()
            raise OutputError(self._fault) from None

    async def _open(self, stack: AsyncExitStack) -> None:
        for name in self._names:
            file = await aiofiles.open(self._directory / name, "ab", opener=open_private)
            stack.push_async_callback(_close, file)
            self._files[name] = file

    async def _wait(self) -> None:
        """Until there is something to write, to sync or to end."""
        due = self._sync_due - anyio.current_time() if self._unsynced else None
        with anyio.move_on_after(due):
            await self._wake.wait()
        self._wake = anyio.Event()

    async def _commit(self, batch: list[_Entry]) -> None:
        if batch and not self._unsynced:
            self._sync_due = anyio.current_time() + self._fsync_s
        lines = {name: b"".join(found) for name in self._names if (found := [e.line for e in batch if e.name == name])}
        if lines:
            await self._write(lines)
            self._unsynced |= lines.keys()
        if self._unsynced and anyio.current_time() >= self._sync_due:
            await self._sync()
        for entry in batch:
            entry.written.set()

    async def _write(self, lines: dict[str, bytes]) -> None:
        """Hand whole lines to the operating system, by file."""
        for name, data in lines.items():
            await self._files[name].write(data)
            await self._files[name].flush()

    async def _sync(self) -> None:
        if self._unsynced:
            await self._bring_to_disk(sorted(self._unsynced))
        self._unsynced.clear()

    async def _bring_to_disk(self, names: list[str]) -> None:
        for name in names:
            check_linked(self._files[name].fileno(), name)
            await anyio.to_thread.run_sync(os.fsync, self._files[name].fileno())
        await anyio.to_thread.run_sync(self._synced)


def check_linked(fd: int, name: str) -> None:
    """Raise FileNotFoundError when the file was removed: what is written to it is lost."""
    if os.fstat(fd).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, f"{name} was removed")


async def _close(file: AsyncBufferedIOBase) -> None:
    # After a full disk, closing tries to flush the rest once more and fails once more.
    with contextlib.suppress(OSError):
        await file.close()
