"""What an input names, as files in their order: one, several, a pattern, a directory, a pipe, objects in a store.

Knows aiofiles. Invariants: the order is that of the names, and no file comes twice; nothing is opened before it is
read; a pipe that is silent and a store that hangs end no later than the run drains.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import aiofiles
import anyio
import anyio.to_thread

from s2a_batch.errors import JobError
from s2a_batch.inputs import inputnames, stores
from s2a_batch.inputs.waiting import readable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence


# aiofiles hands out 0.9 M lines/s in large blocks, 12 k/s by its own line iteration (925-byte lines, 2 cores).
_BLOCK_BYTES: Final = 1 << 18
_TERMINAL: Final = "the input is '-', which is a terminal here; hint: pipe it in: zcat x.jsonl.gz | s2a-batch run - .."

Given: TypeAlias = "Path | Sequence[str]"
"""A file, or the names of an input."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an input.

    Attributes:
        name: As messages say it.
        file: As results say it; None when the input is this one file.
        ending: Of its name: how it is packed.
        size_bytes: As it lies there, packed or not; None: unknown.
        may_grow: Half a line at its end may still be written to.
        read: Begins to read its bytes.
        place: Where it is, if in a store: what its name shows of a URL may be that of another too.
        inode: Device and number, if it is a file here: it may have many names.
        listed: Nobody named it: it is one of those that a pattern, a directory or a prefix stands for.
    """

    name: str
    file: str | None
    ending: str
    size_bytes: int | None
    may_grow: bool
    read: Callable[[], AsyncGenerator[bytes]] = field(repr=False)
    place: str | None = field(default=None, repr=False)
    inode: tuple[int, int] | None = field(default=None, repr=False)
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """All files of an input, in their order."""

    parts: tuple[Part, ...]

    @property
    def size_bytes(self) -> int | None:
        """Of all together; None when it is not known, or nothing is there."""
        sizes = [part.size_bytes for part in self.parts]
        return None if None in sizes else sum(size or 0 for size in sizes) or None


def check(names: Sequence[str]) -> list[Part]:
    """The files here, in no store; `JobError` where it shows without a look at contents that one cannot be read."""
    parts: list[Part] = []
    for name in names:
        if stores.is_url(name):
            stores.check(name)
        else:
            parts += _local(name, None)
    return parts


async def find(given: Given, drain: anyio.Event | None = None) -> Found:
    """The files that an input names now.

    Args:
        given: A file, or the input's names.
        drain: Ends waits, also those of the reading (`Drained`).

    Raises:
        JobError: One is missing or cannot be used, or a pattern matches nothing.
        InputError: A store cannot be reached.
    """
    names = (str(given),) if isinstance(given, Path) else tuple(given)
    literal = isinstance(given, Path)
    parts: list[Part] = []
    for name in names:
        if stores.is_url(name) and not literal:
            parts += [_stored(found, drain) for found in await stores.find(name, inputnames.is_wanted, drain)]
        else:
            parts += await anyio.to_thread.run_sync(partial(_local, name, drain, literal=literal))
    one = len(names) == 1 and not any(part.listed for part in parts)
    return Found(await anyio.to_thread.run_sync(_labelled, parts, one))


def _stored(found: stores.Stored, drain: anyio.Event | None) -> Part:
    ending = Path(found.name.partition("?")[0]).suffix
    read = partial(stores.read, found, drain)
    return Part(
        found.name,
        found.label,
        ending,
        found.size_bytes,
        may_grow=False,
        read=read,
        place=found.place,
        listed=found.listed,
    )


def _labelled(parts: list[Part], one: bool) -> tuple[Part, ...]:  # noqa: FBT001  anyio calls by place
    """Each file once, and with the name that results give it, if any."""
    unique: dict[str, Part] = {}
    for part in parts:
        unique.setdefault(part.place or os.path.realpath(part.name), part)
    if one:
        return tuple(replace(part, file=None) for part in unique.values())
    # Two of one name are told apart by their whole names.
    alike = len({part.file for part in unique.values()}) < len(unique)
    return tuple(replace(part, file=_readable(part.name if alike else part.file or "")) for part in unique.values())


def _readable(name: str) -> str:
    """A file's name as text; bytes of it that are no UTF-8 are shown as such."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _local(name: str, drain: anyio.Event | None, *, literal: bool = False) -> list[Part]:
    """The parts of a name that is no URL."""
    if name == inputnames.STDIN and not literal:
        return [_stdin(drain)]
    path = Path(name)
    try:
        is_pattern = not literal and inputnames.is_pattern(name)
        if not is_pattern and (literal or not path.is_dir()):
            return [_file(path, path.name, drain)]
        entries = inputnames.entries(name)
        if is_pattern and not entries:
            raise JobError(f"{name}: no file matches; hint: a directory may be empty, a pattern may not")
        return _those_there(entries, drain)
    except (OSError, ValueError) as error:
        place = (error.filename or name) if isinstance(error, OSError) else name
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise JobError(f"{place}: cannot read the input: {why}") from None


def _those_there(entries: list[tuple[Path, str]], drain: anyio.Event | None) -> list[Part]:
    """The files among them; what another program took away meanwhile is none, but a link that leads nowhere a fault."""
    found = []
    for path, label in entries:
        try:
            if not path.is_dir():
                found.append(replace(_file(path, label, drain), listed=True))
        except FileNotFoundError:
            if path.is_symlink():
                raise
    return found


def _file(path: Path, label: str, drain: anyio.Event | None) -> Part:
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if stat.S_ISFIFO(found.st_mode):
        return Part(str(path), label, path.suffix, None, may_grow=False, read=partial(_read_fifo, path, drain))
    is_regular, packed = stat.S_ISREG(found.st_mode), path.suffix in (".gz", ".zst")
    return Part(
        str(path),
        label,
        path.suffix,
        found.st_size if is_regular else None,
        may_grow=is_regular and not packed,
        read=partial(_read_file, path),
        inode=(found.st_dev, found.st_ino),
    )


def _stdin(drain: anyio.Event | None) -> Part:
    found = os.fstat(0)
    if os.isatty(0):
        raise JobError(_TERMINAL)
    read: Callable[[], AsyncGenerator[bytes]] = partial(_read_file, 0)
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        read = partial(_read_stdin, drain)
    size = found.st_size if stat.S_ISREG(found.st_mode) else None
    inode = (found.st_dev, found.st_ino)
    return Part("standard input", inputnames.STDIN, "", size, may_grow=False, read=read, inode=inode)


async def _read_file(path: Path | int) -> AsyncGenerator[bytes]:
    async with aiofiles.open(path, "rb", closefd=path != 0) as file:
        while block := await file.read(_BLOCK_BYTES):
            yield block


async def _read_fifo(path: Path, drain: anyio.Event | None) -> AsyncGenerator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for who writes; the reading does
    try:
        while block := await _next(fd, drain):
            yield block
    finally:
        os.close(fd)


async def _read_stdin(drain: anyio.Event | None) -> AsyncGenerator[bytes]:
    while block := await _next(0, drain):
        yield block


async def _next(fd: int, drain: anyio.Event | None) -> bytes:
    """What a pipe holds next; nothing at its end."""
    while True:
        await readable(fd, drain)
        with suppress(BlockingIOError):  # another reader of it was faster
            return os.read(fd, _BLOCK_BYTES)
