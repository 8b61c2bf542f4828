"""The run's line files, each by itself: its lines, its keys, and the repair of what a crash left.

Invariants: a file is changed in place only by cutting its torn tail, everything else goes through a temporary file and
a rename; what was known to be sound and synced is not parsed again.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from pydantic_core import from_json

from s2a_batch.records import LINE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DAMAGED: Final = "damaged.bin"
NEW: Final = ".new"
# Blocks that stay in the processor's cache: 1.1 s for 1 M lines of 2 kB, 1.8 s in blocks of 1 MiB.
_BLOCK_BYTES: Final = 1 << 17
_START_BYTES: Final = 4 << 20
_KEY_AT: Final = len(LINE_PREFIX)
_MARK_BYTES: Final = 4_096
_BRACE: Final = ord("}")


class DamagedLineError(Exception):
    """A line that was thought sound is not."""


def lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Whole lines without their LF, from this byte on, each with the offset it begins at; no file has none."""
    for at, block in _whole_lines(path, start):
        offset = at
        for line in block[:-1].split(b"\n"):
            yield offset, line
            offset += len(line) + 1


def scan(path: Path, *, strict: bool = False, parse_from: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Key and byte offset of every sound line.

    Args:
        path: One of the line files.
        strict: Raise `DamagedLineError` at a line that is not sound, instead of passing over it.
        parse_from: From this byte on a line must be strict JSON too; None: no line is parsed.
    """
    for offset, block in _whole_lines(path):
        # A look at both ends of each line in place costs half of what cutting the lines out does.
        zeros, begin = b"\0" in block, 0
        while begin < len(block):
            end = block.index(b"\n", begin)
            quote = block.find(b'"', begin + _KEY_AT, end)
            if (
                quote >= 0
                and block.startswith(LINE_PREFIX, begin)
                and block[end - 1] == _BRACE
                and not (zeros and block.find(b"\0", begin, end) >= 0)
            ):
                if parse_from is not None and offset + begin >= parse_from and not whole(block[begin:end]):
                    raise DamagedLineError
                yield block[begin + _KEY_AT : quote], offset + begin
            elif strict:
                raise DamagedLineError
            begin = end + 1


def _whole_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Blocks that end with a line's LF, each with the byte offset it begins at."""
    offset, parts = start, list[bytes]()
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        while block := file.read(_BLOCK_BYTES):
            end = block.rfind(b"\n") + 1
            if not end:
                parts.append(block)
                continue
            content = b"".join([*parts, block[:end]])
            yield offset, content
            offset += len(content)
            parts = [block[end:]]


def is_sound(line: bytes) -> bool:
    """Whether a line looks whole: no JSON is parsed, 1 M lines take about a second."""
    return line.startswith(LINE_PREFIX) and line.endswith(b"}") and b"\0" not in line and line.find(b'"', _KEY_AT) >= 0


def whole(line: bytes) -> bool:
    """Whether a line is strict JSON: two lines in one and half a nested object end in } too; 8 s for 1 M of 2 kB."""
    try:
        from_json(line, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return False
    return is_sound(line)


def key_of(line: bytes) -> bytes:
    """The key of a sound line, as text bytes."""
    return line[_KEY_AT : line.index(b'"', _KEY_AT)]


def ours(path: Path) -> bool:
    """Whether a file begins as ours do, torn or zeroed by a power cut; or its first line alone is damaged."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    head = start[:_KEY_AT].rstrip(b"\0")
    return LINE_PREFIX.startswith(head) or b"\n" + LINE_PREFIX in start


def mark(path: Path, size: int) -> str:
    """Stands for the first `size` bytes of a file by the last 4 KiB of them; empty when a line does not end there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, size - _MARK_BYTES))
            tail = file.read(min(size, _MARK_BYTES))
    except FileNotFoundError:
        return ""
    sound = len(tail) == min(size, _MARK_BYTES) and tail.endswith(b"\n")
    return hashlib.blake2b(tail, digest_size=8).hexdigest() if sound else ""


def copy(source: Path, target: Path, wanted: Callable[[bytes], bool]) -> int:
    """Write the wanted lines to another file, and bring it to the disk; returns how many there are."""
    count = 0
    with open(target, "wb", opener=open_private) as file:
        for _, line in lines(source):
            if wanted(line):
                file.write(line + b"\n")
                count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def repair(path: Path) -> list[str]:
    """Cut a torn tail and take out damaged lines; says what it did. All of the file is parsed: 4 s for 1 M lines."""
    return [*cut_tail(path), *_drop_damaged(path)]


def sync(path: Path) -> None:
    """Bring a file to the disk, as a killed run left it, or a directory with the names in it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_private(path: str, flags: int) -> int:
    """An opener of files that their owner alone may read."""
    return os.open(path, flags, 0o600)


def cut_tail(path: Path) -> list[str]:
    """Cut what follows the last whole line: half a line of a kill, zeros of a power cut."""
    if not path.exists():
        return []
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        keep = end_of_last_line(file.fileno(), size)
        if keep == size:
            return []
        file.truncate(keep)
        os.fsync(file.fileno())
    return [f"{path.name}: cut {size - keep} bytes of an unfinished last line; its record is pending again"]


def end_of_last_line(fd: int, size: int) -> int:
    """Bytes up to and with the last LF of so many; blocks are read from the end."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _drop_damaged(path: Path) -> list[str]:
    """Write the file anew without lines that are not whole, when there are any; those go to `damaged.bin`."""
    damaged = sum(1 for _, line in lines(path) if not whole(line))
    if not damaged:
        return []
    temporary = path.with_name(path.name + NEW)
    aside = path.with_name(DAMAGED)
    with open(temporary, "wb", opener=open_private) as file, open(aside, "ab", opener=open_private) as bad:
        for _, line in lines(path):
            (file if whole(line) else bad).write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)
    return [f"{path.name}: moved {damaged} damaged lines to {DAMAGED}; their records are pending again"]
