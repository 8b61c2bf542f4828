"""Who may write in a directory: one process at a time, by the kernel's lock on a file in it.

Knows the kernel's file locks. Invariants: a killed process leaves no lock behind; what the file says of its holder is
for people and decides nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from s2a_batch import interrupts
from s2a_batch.errors import JobError, LockedError, WaitEnded

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

_LOCK: Final = ".lock"
_LOOK_S: Final = 0.05  # a `status` that looks at the lock holds it for some microseconds
_LAST_S: Final = 5.0  # a write to a slow disk is the last that a process does when it is killed
_POLL_S: Final = 0.25


class Lock:
    """The lock of a directory, which is created if need be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd: int | None = None

    def take(self, waiting: Callable[[str], None] | None) -> None:
        """Become the holder.

        Args:
            waiting: Told who holds it, whose end is then waited for, however long; None: that is an error.

        Raises:
            LockedError: Another one holds it.
            WaitEnded: A signal came before its end.
            JobError: The directory cannot be created, or its file system has no locks.
        """
        while self._fd is None:
            fd = self._opened()
            try:
                self._wait(fd, waiting)
                if _is_at(fd, self._directory / _LOCK):  # else the directory went while its lock was waited for
                    self._fd, fd = fd, -1
            finally:
                if fd >= 0:
                    os.close(fd)
        self._sign(f"process {os.getpid()} on {socket.gethostname()}\n")

    def give_back(self) -> None:
        """Let the next one have it."""
        if self._fd is not None:
            self._sign("")
            os.close(self._fd)
            self._fd = None

    def _opened(self) -> int:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise JobError(f"{self._directory}: cannot be the run's directory: {error.strerror}") from None

    def _wait(self, fd: int, waiting: Callable[[str], None] | None) -> None:
        holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "unknown"
        if _locked(fd, _LOOK_S) or (_is_gone(holder) and _locked(fd, _LAST_S)):
            return
        if waiting is None:
            raise LockedError(f"{self._directory}: another run holds it ({holder}); wait for it, or stop it")
        waiting(f"{self._directory}: another run holds it ({holder}); waiting for its end")
        with interrupts.raising(self._ended_by):
            _locked(fd, math.inf)

    def _ended_by(self, number: signal.Signals) -> WaitEnded:
        return WaitEnded(f"{self._directory}: {number.name} ended the wait for another run's end", number)

    def _sign(self, text: str) -> None:
        """Say in the lock who holds it: a full disk is no matter."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, text.encode(), 0)


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
    except OSError:  # where there are no locks there is no run
        return False
    finally:
        os.close(fd)
    return False


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _locked(fd: int, within_s: float) -> bool:
    """Take the lock, and try for so long."""
    end = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(min(0.01 + within_s / 100, _POLL_S))
        except OSError as error:  # some network file systems
            raise JobError(
                f"the output directory's file system has no locks ({error.strerror}); put the output on a local disk"
            ) from None
        else:
            return True


def _is_gone(holder: str) -> bool:
    """Whether the one that signed the lock is dead, so that only processes that it forked, and which end, hold it."""
    process, on, host = holder.removeprefix("process ").partition(" on ")
    if not on or host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's, or this system has no /proc
        return False
