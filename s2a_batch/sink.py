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
from typing import TYPE_CHECKING, Final

import aiofiles
import anyio
import anyio.to_thread

from s2a_batch.errors import OutputError
from s2a_batch.linefiles import open_private, sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiofiles.threadpool.binary import AsyncFileIO


_GATHER_S: Final = 0.002
"""From one commit to the next, at least: to change over to a thread costs as much as to write fifty lines."""


@dataclass(slots=True)
class _Batch:
    """Lines that are written together."""

    lines: dict[str, list[bytes]] = field(default_factory=dict)
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
        self._next = _Batch()
        self._wake = anyio.Event()
        self._closing = False
        self._fault: str | None = None
        self._files: dict[str, AsyncFileIO] = {}
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
        batch = self._next
        batch.lines.setdefault(name, []).append(line)
        self._wake.set()
        await batch.written.wait()
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
        batch, began = self._next, float("-inf")
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                await anyio.to_thread.run_sync(sync, self._directory)
                while self._next.lines or not self._closing:
                    await self._wait()
                    if not self._closing and (early_s := began + _GATHER_S - anyio.current_time()) > 0:
                        await anyio.sleep(early_s)
                    batch, self._next, began = self._next, _Batch(), anyio.current_time()
                    await self._commit(batch)
                await self._sync()
        except OSError as error:
            self._fault = (
                f"{self._directory}: cannot write: {error.strerror}; make room, then run the same command again"
            )
            batch.written.set()
            self._next.written.set()
            raise OutputError(self._fault) from None

    async def _open(self, stack: AsyncExitStack) -> None:
        for name in self._names:
            file = await aiofiles.open(self._directory / name, "ab", buffering=0, opener=open_private)
            stack.push_async_callback(_close, file)
            self._files[name] = file

    async def _wait(self) -> None:
        """Until there is something to write, to sync or to end."""
        due = self._sync_due - anyio.current_time() if self._unsynced else None
        with anyio.move_on_after(due):
            await self._wake.wait()
        self._wake = anyio.Event()

    async def _commit(self, batch: _Batch) -> None:
        if batch.lines and not self._unsynced:
            self._sync_due = anyio.current_time() + self._fsync_s
        if batch.lines:
            await self._write({name: b"".join(lines) for name, lines in batch.lines.items()})
            self._unsynced |= batch.lines.keys()
        if self._unsynced and anyio.current_time() >= self._sync_due:
            await self._sync()
        batch.written.set()

    async def _write(self, lines: dict[str, bytes]) -> None:
        """Hand whole lines to the operating system, by file."""
        for name, data in lines.items():
            rest = memoryview(data)
            while rest:  # once, but where a bound of the system cuts it short
                rest = rest[await self._files[name].write(rest) :]

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


async def _close(file: AsyncFileIO) -> None:
    # A file system on the network may only now say what it could not keep.
    with contextlib.suppress(OSError):
        await file.close()
