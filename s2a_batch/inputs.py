"""What an input names, as files in their order: one, several, a pattern, a directory, a pipe, objects in a store.

Knows aiofiles. Invariants: the order is that of the names, and no file comes twice; nothing is opened before it is
read; a pipe that is silent and a store that hangs end no later than the run drains.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import aiofiles
import anyio
import anyio.to_thread

from s2a_batch import stores
from s2a_batch.errors import JobError
from s2a_batch.waiting import readable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from pydantic import JsonValue

STDIN: Final = "-"
_ENDINGS: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst")
# aiofiles hands out 0.9 M lines/s in large blocks, 12 k/s by its own line iteration (925-byte lines, 2 cores).
_BLOCK_BYTES: Final = 1 << 18
_MAGIC: Final = re.compile(r"[*?\[]")
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
    """

    name: str
    file: str | None
    ending: str
    size_bytes: int | None
    may_grow: bool
    read: Callable[[], AsyncGenerator[bytes]]


@dataclass(frozen=True, slots=True)
class Found:
    """All files of an input, in their order."""

    parts: tuple[Part, ...]

    @property
    def size_bytes(self) -> int | None:
        """Of all together; None when it is not known, or nothing is there."""
        sizes = [part.size_bytes for part in self.parts]
        return None if None in sizes else sum(size or 0 for size in sizes) or None


def told(names: Sequence[str]) -> str:
    """An input in a message."""
    first = "standard input" if names[0] == STDIN else stores.told(names[0]) if stores.is_url(names[0]) else names[0]
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def anchored(name: str, folder: Path) -> str:
    """A name in a job file: a path is relative to the file's directory."""
    if name in ("", STDIN) or stores.is_url(name):
        return name
    return os.path.normpath(folder / Path(name).expanduser())


def recorded(job: Mapping[str, JsonValue], directory: Path, how: str) -> tuple[str, ...]:
    """The input's names in a `run.json`'s job; raises `JobError` where it is not to be had again.

    Args:
        job: The `job` of a directory's `run.json`.
        directory: The run's.
        how: The command that names the input.
    """
    given = job.get("input")
    names = tuple(str(name) for name in (given if isinstance(given, list) else [given]) if isinstance(name, str))
    if not names:
        raise JobError(f"{directory}: run.json names no input; give it: {how}")
    for name in names:
        if name == STDIN:
            raise JobError(f"{directory}: the run read standard input; give it: {how}")
        if not stores.is_url(name) and not _is_pattern(name) and not Path(name).exists():
            raise JobError(f"{name}: the input that run.json names is not there; give it: {how}")
    return names


def is_lasting(name: str) -> bool:
    """Whether it can be read more than once: no pipe, and nothing else that flows."""
    path = Path(name)
    return name != STDIN and (stores.is_url(name) or _is_pattern(name) or path.is_file() or path.is_dir())


def check(names: Sequence[str]) -> None:
    """Raise `JobError` where it shows without a look at contents or stores that an input cannot be read."""
    for name in names:
        if stores.is_url(name):
            stores.check(name)
        else:
            _local(name, None)


def reading(names: Sequence[str], paths: Sequence[Path]) -> str | None:
    """The first name under which one of these (resolved) paths is read, or will be once it is there."""
    return next((name for name in names if any(_reads(name, path) for path in paths)), None)


def _reads(name: str, path: Path) -> bool:
    if name == STDIN or stores.is_url(name):
        return False
    if _is_pattern(name):
        below = Path(_fixed(name)).resolve()
        rest = path.relative_to(below) if below in path.parents else None
        return rest is not None and _as_regex(name[len(_fixed(name)) :]).fullmatch(str(rest)) is not None
    place = Path(name).resolve()
    return place == path or (place.is_dir() and place == path.parent and _is_wanted(path.name))


def _as_regex(pattern: str) -> re.Pattern[str]:
    """What a pattern matches, as `glob` has it; of `pathlib`'s own none knows `**` before Python 3.13."""
    *folders, last = (("(?:[^/]+/)*" if part == "**" else _segment(part) + "/") for part in pattern.split("/"))
    return re.compile("".join(folders) + (".*" if pattern.endswith("**") else last.removesuffix("/")), re.DOTALL)


def _segment(part: str) -> str:
    return translate(part).removesuffix(r"\Z").removesuffix(r"\z").replace(".*", "[^/]*")


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
            parts += [_stored(found, drain) for found in await stores.find(name, _is_wanted, drain)]
        else:
            parts += await anyio.to_thread.run_sync(partial(_local, name, drain, literal=literal))
    many = len(names) > 1
    return Found(await anyio.to_thread.run_sync(_labelled, parts, many or (not literal and _is_many(names[0]))))


def _stored(found: stores.Stored, drain: anyio.Event | None) -> Part:
    ending = Path(found.name.partition("?")[0]).suffix
    return Part(
        found.name, found.label, ending, found.size_bytes, may_grow=False, read=partial(stores.read, found, drain)
    )


def _labelled(parts: list[Part], several: bool) -> tuple[Part, ...]:  # noqa: FBT001  anyio calls by place
    """Each file once, and with the name that results give it, if any."""
    unique: dict[str, Part] = {}
    for part in parts:
        unique.setdefault(part.name if stores.is_url(part.name) else os.path.realpath(part.name), part)
    if not several:
        return tuple(replace(part, file=None) for part in unique.values())
    # Two of one name are told apart by their whole names.
    alike = len({part.file for part in unique.values()}) < len(unique)
    return tuple(replace(part, file=_readable(part.name if alike else part.file or "")) for part in unique.values())


def _readable(name: str) -> str:
    """A file's name as text; bytes of it that are no UTF-8 are shown as such."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_many(name: str) -> bool:
    return stores.is_many(name) if stores.is_url(name) else Path(name).is_dir() or _is_pattern(name)


def _is_pattern(name: str) -> bool:
    return _MAGIC.search(name) is not None and not os.path.lexists(name)


def _is_wanted(name: str) -> bool:
    """Whether a file of a directory counts: hidden and temporary ones are another program's business."""
    return name.endswith(_ENDINGS) and not name.startswith(".")


def _local(name: str, drain: anyio.Event | None, *, literal: bool = False) -> list[Part]:
    """The parts of a name that is no URL."""
    if name == STDIN and not literal:
        return [_stdin(drain)]
    path = Path(name)
    try:
        if not literal and _is_pattern(name):
            matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207  the pattern may be absolute
            matches = [match for match in matches if not match.endswith("/")]  # a file as a folder: `a.jsonl/**`
            if not matches:
                raise JobError(f"{name}: no file matches; hint: a directory may be empty, a pattern may not")
            return _those_there([(Path(match), match[len(_fixed(name)) :]) for match in matches], drain)
        if not literal and path.is_dir():
            names = sorted(entry.name for entry in os.scandir(path) if _is_wanted(entry.name))
            return _those_there([(path / name, name) for name in names], drain)
        return [_file(path, path.name, drain)]
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
                found.append(_file(path, label, drain))
        except FileNotFoundError:
            if path.is_symlink():
                raise
    return found


def _fixed(pattern: str) -> str:
    """The part of a pattern before its first wildcard, up to a slash."""
    magic = _MAGIC.search(pattern)
    return pattern[: pattern.rfind("/", 0, magic.start()) + 1] if magic else pattern


def _file(path: Path, label: str, drain: anyio.Event | None) -> Part:
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if stat.S_ISFIFO(found.st_mode):
        return Part(str(path), label, path.suffix, None, may_grow=False, read=partial(_read_fifo, path, drain))
    is_regular, packed = stat.S_ISREG(found.st_mode), path.suffix in (".gz", ".zst")
    size = found.st_size if is_regular else None
    return Part(str(path), label, path.suffix, size, may_grow=is_regular and not packed, read=partial(_read_file, path))


def _stdin(drain: anyio.Event | None) -> Part:
    found = os.fstat(0)
    if os.isatty(0):
        raise JobError(_TERMINAL)
    read: Callable[[], AsyncGenerator[bytes]] = partial(_read_file, 0)
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        read = partial(_read_stdin, drain)
    size = found.st_size if stat.S_ISREG(found.st_mode) else None
    return Part("standard input", STDIN, "", size, may_grow=False, read=read)


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
