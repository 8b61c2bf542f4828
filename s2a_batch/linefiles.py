"""One file of result lines: its whole lines, their keys, and its repair after a kill or a power cut.

Invariants: a line counts when it is whole; a file is changed in place only by cutting its torn tail, everything else
goes through a temporary file and a rename.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, BinaryIO, Final

from s2a_batch.records import LINE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAMAGED: Final = "damaged.bin"
_BLOCK_BYTES: Final = 4 << 20
_KEY_AT: Final = len(LINE_PREFIX)
_NEW: Final = ".new"


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines without their LF, each with the byte offset it begins at; a file that is not there has none."""
    offset, rest = 0, b""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while block := file.read(_BLOCK_BYTES):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield offset, line
                offset += len(line) + 1


def scan(path: Path) -> Iterator[tuple[bytes, int]]:
    """Key and byte offset of every sound line."""
    for offset, line in lines(path):
        if is_sound(line):
            yield key_of(line), offset


def key_of(line: bytes) -> bytes:
    """The key of a sound line, as text bytes."""
    return line[_KEY_AT : line.index(b'"', _KEY_AT)]


def is_sound(line: bytes) -> bool:
    """Whether a line looks whole: no JSON is parsed, 1 M lines take about a second."""
    return line.startswith(LINE_PREFIX) and line.endswith(b"}") and b"\0" not in line


def whole(line: bytes) -> bool:
    """Whether a line is strict JSON: two lines in one and half a nested object end in } too; 20 s for 1 M lines."""
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return is_sound(line)


def open_private(path: str, flags: int) -> int:
    """Opens a file for its owner alone, as an `opener` of `open`."""
    return os.open(path, flags, 0o600)


def cut_tail(path: Path) -> list[str]:
    """Cut what follows the last whole line: half a line of a kill, zeros of a power cut."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        keep = _end_of_last_line(file, size)
        if keep == size:
            return []
        file.truncate(keep)
        os.fsync(file.fileno())
    return [f"{path.name}: cut {size - keep} bytes of an unfinished last line; its record is pending again"]


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    """Bytes up to and with the last LF; blocks are read from the end."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def drop_damaged(path: Path) -> list[str]:
    """Write the file anew without lines that are not whole, when there are any; those go to `damaged.bin`."""
    damaged = sum(1 for _, line in lines(path) if not whole(line))
    if not damaged:
        return []
    temporary = path.with_name(path.name + _NEW)
    aside = path.with_name(DAMAGED)
    with open(temporary, "wb", opener=open_private) as file, open(aside, "ab", opener=open_private) as bad:
        for _, line in lines(path):
            (file if whole(line) else bad).write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return [f"{path.name}: moved {damaged} damaged lines to {DAMAGED}; their records are pending again"]


def ours(path: Path) -> bool:
    """Whether a file begins as ours do, torn or zeroed by a power cut; or its first line alone is damaged."""
    with path.open("rb") as file:
        start = file.read(_BLOCK_BYTES)
    head = start[:_KEY_AT].rstrip(b"\0")
    return LINE_PREFIX.startswith(head) or b"\n" + LINE_PREFIX in start
