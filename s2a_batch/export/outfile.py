"""Where an export goes: a file that is there as a whole or not at all, or stdout.

Invariants: an existing file is replaced only when told to, and by a rename; a run's own files never are; what a fault
or a signal leaves half written is removed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from s2a_batch import rundir
from s2a_batch.errors import JobError, OutputError
from s2a_batch.inputs import inputnames
from s2a_batch.linefiles import DAMAGED, NEW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

STDOUT: Final = Path("-")
_RUN_FILES: Final = {rundir.MANIFEST, DAMAGED, *rundir.LINE_FILES}
_HELD_BYTES: Final = 1 << 18
_LEVEL: Final = 4  # 1 GB of results: 12 s; at 6 it takes twice that and saves a twentieth


class OutFile:
    """A file or stdout to write to, as a context manager; the file appears when the context ends well.

    Args:
        path: `-`: stdout; a name that ends in `.gz` is packed.
        force: Replace a file that is there.

    Raises:
        JobError: On entry: it exists.
        OutputError: It cannot be written; its reader or the disk is gone.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self._path = path
        self._force = force
        self._name = "stdout" if path == STDOUT else str(path)
        self._temporary: str | None = None
        self._fd = -1
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._packer = zlib.compressobj(_LEVEL, wbits=31) if path.suffix == ".gz" else None

    def __enter__(self) -> Self:
        try:
            self._fd = self._open()
        except OSError as error:
            raise OutputError(f"{self._name}: cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if self._packer is not None:
                    self._hold(self._packer.flush())
                self._flush()
                self._appear()
        except OSError as error:
            raise self._lost(error) from None
        finally:
            if self._fd not in (-1, 1):
                os.close(self._fd)
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary)  # noqa: PTH108  a text

    def write(self, data: bytes) -> int:
        """Write all of it, soon."""
        self._hold(data if self._packer is None else self._packer.compress(data))
        if self._held_bytes >= _HELD_BYTES:
            try:
                self._flush()
            except OSError as error:
                raise self._lost(error) from None
        return len(data)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _flush(self) -> None:
        view = memoryview(b"".join(self._held))
        self._held, self._held_bytes = [], 0
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # a pipe that someone else made so
                select.select([], [self._fd], [])

    def _open(self) -> int:
        if self._path == STDOUT:
            if sys.stdout is None:
                raise OutputError("stdout is closed; give a file: -o FILE")
            return 1
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return os.open(self._path, os.O_WRONLY)  # a pipe, a device: nothing to replace
        if mode is not None and stat.S_ISDIR(mode):
            raise JobError(f"{self._name}: is a directory; give a file: -o {self._path / 'export.jsonl'}")
        if mode is not None and not self._force:
            raise self._exists()
        self._path = self._path.resolve()  # a link stays one
        fd, self._temporary = tempfile.mkstemp(".part", f".{self._path.name[:100]}.", self._path.parent)
        return fd

    def _appear(self) -> None:
        """Give the file its name."""
        if self._temporary is None:
            return
        os.fsync(self._fd)
        if not self._force:
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                raise self._exists() from None
            except OSError:  # a file system without links
                if self._path.exists():
                    raise self._exists() from None
            else:
                return
        os.replace(self._temporary, self._path)  # noqa: PTH105  a text
        self._temporary = None

    def _exists(self) -> JobError:
        return JobError(f"{self._name}: exists; choose another name, or --force to replace it")

    def _lost(self, error: OSError) -> OutputError:
        if isinstance(error, BrokenPipeError):
            return OutputError(f"{self._name}: its reader is gone; it got less than all")
        left = "" if self._path == STDOUT else "; nothing is left of it"
        return OutputError(f"{self._name}: cannot be written: {error.strerror}{left}")


def refuse_run_files(path: Path, names: Sequence[str]) -> None:
    """Raise `JobError` where an export would replace what a run wrote or reads."""
    if path == STDOUT:
        return
    place = path.resolve()
    ours = place.name in _RUN_FILES or place.name.endswith(NEW) or place.match("dead_letters.*.jsonl")
    if place.name.startswith(".") or ours:
        beside = (place.parent / name for name in (rundir.MANIFEST, *rundir.LINE_FILES))
        if any(other.exists() for other in beside):
            raise JobError(f"{path}: belongs to a run; choose another name")
    others = [*(place.parent / name for name in _RUN_FILES), *map(Path, names)]
    if place.exists() and any(other.exists() and place.samefile(other) for other in others):
        raise JobError(f"{path}: is the input or a run's own file; choose another name")
    if inputnames.reading(names, [place]) is not None:
        raise JobError(f"{path}: would be read as input by the next run; choose another place")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Makes SIGINT, SIGTERM and SIGHUP leave through every `finally`, with the exit status of the README's table."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
