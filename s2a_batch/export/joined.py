"""A run's results beside the lines of its input, in the input's order.

Invariants: each non-blank line comes once, by its key, with its result or as pending; what lies where is kept in
temporary files and in a few blocks, so memory does not grow with the files; beside a run that goes on it sees the
whole lines that were there when it began.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from pydantic_core import from_json

from s2a_batch import linefiles, rundir
from s2a_batch.done import digest_of, room
from s2a_batch.errors import OutputError
from s2a_batch.export.spans import Paths
from s2a_batch.inputs.textlines import LongLine, blocks_of_lines
from s2a_batch.keys import KeyIndex
from s2a_batch.records import LINE_PREFIX, SCHEMA_VERSION, Status
from s2a_batch.source import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from s2a_batch.inputs import Found

RowStatus: TypeAlias = Status | Literal["pending"]
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r"
_LINE: Final = b'","line":'
# Only a result's own fields are so joined: within a text the quotes are escaped, in an answer a fingerprint is rare.
_FILE: Final = re.compile(rb',"file":(null|"(?:[^"\\]|\\.)*"),"fingerprint":"[0-9a-f]+","started_at":"')
_RAW_CHARS: Final = 4_000
_PLACE_BYTES: Final = 8
_BLOCK_BYTES: Final = 1 << 16
_BLOCKS: Final = 64
# Results lie as far from the input's order as requests were open: 4 MiB of a file hold the way between.


@dataclass(frozen=True, slots=True)
class Row:
    """One input line and what became of it.

    Attributes:
        number: Its line number in the input as it is now.
        status: `pending` without a result.
        line: The result line, without LF and with this number and file; of a pending one a line of the same fields.
    """

    number: int
    status: RowStatus
    line: bytes


class _File:
    """One of the run's files, held open, so that a run which sets it aside changes nothing here."""

    def __init__(self, path: Path, status: Status) -> None:
        self.path = path
        self.status = status
        self._fd = os.open(path, os.O_RDONLY)
        self._blocks: dict[int, bytes] = {}

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def scan(self) -> Iterator[tuple[bytes, int]]:
        """Key and byte offset of every sound line."""
        return linefiles.scan(Path(f"/dev/fd/{self._fd}"))

    def line(self, offset: int) -> bytes:
        """The whole line that begins at this byte, without its LF."""
        number, at = divmod(offset, _BLOCK_BYTES)
        parts = []
        while block := self._block(number):
            end = block.find(b"\n", at)
            if end >= 0:
                parts.append(block[at:end])
                break
            parts.append(block[at:])
            number, at = number + 1, 0
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            block = os.pread(self._fd, _BLOCK_BYTES, number * _BLOCK_BYTES)
            if len(self._blocks) == _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = block
        return block


class Joined(KeyIndex):
    """An input's lines with their results; a context manager, for one pass over the input.

    Args:
        directory: The run's.
        only_rewrite: A finished rewrite is the result, as in a run that stops after stage 1.
        id_field: Under which name an input object holds its id.

    Raises:
        OutputError: The directory cannot be read, or the temporary directory has no room.

    Attributes:
        results: Records that have a result.
        matched: Of these: records of lines that were met.
        doubled: Further results of a record; the first whole one counts.
        damaged: Results met that are no whole JSON; their records count as pending.
    """

    def __init__(self, directory: Path, *, only_rewrite: bool, id_field: str) -> None:
        super().__init__()
        self._directory = directory
        self._id = Paths((id_field.replace(".", "\\."),))
        self._statuses: tuple[Status, ...] = ("answered", "failed", *(("rewritten",) if only_rewrite else ()))
        self._stack = ExitStack()
        self._files: list[_File] = []
        self._places: memoryview
        self._input_file = b"null"
        self.results = self.matched = self.doubled = self.damaged = 0

    def __enter__(self) -> Self:
        try:
            for status in self._statuses:
                path = self._directory / rundir.FILES[status]
                if path.exists():
                    self._files.append(_File(path, status))
                    self._stack.callback(self._files[-1].close)
            self._index()
        except OSError as error:
            self.close()
            raise OutputError(f"{error.filename or self._directory}: cannot be read: {error.strerror}") from None
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Give the files back."""
        super().close()
        self._stack.close()

    async def rows(self, source: Found, *, max_line_bytes: int = MAX_LINE_BYTES) -> AsyncGenerator[Row]:
        """Every non-blank line of the input, in order; of one over the limit no more than its head is looked at.

        Raises:
            JobError: A file of the input is missing.
            InputError: It cannot be read to its end.
            OutputError: A result cannot be read.
        """
        part, number = None, 0
        async for block in blocks_of_lines(source, max_line_bytes):
            if block.part is not part:
                part, number = block.part, 0
                self._input_file = b"null" if part.file is None else json.dumps(part.file, ensure_ascii=False).encode()
            for line in block.lines:
                number += 1
                text = line.head if isinstance(line, LongLine) else line.removeprefix(_BOM).strip(_BLANK)
                if text:
                    yield self._row(number, text, cut=isinstance(line, LongLine))

    def _index(self) -> None:
        """Note which records have results, then where each of those lies."""
        for file in self._files:
            self.add_done((key for key, _ in file.scan()), file.status)
        self.results = sum(self.done().values())
        with room():
            self._places = self._map(self.results * _PLACE_BYTES)
        for file_number, file in enumerate(self._files):
            for key, offset in file.scan():
                entry = self._done.find(digest_of(key))
                if entry is not None:  # else it was written since
                    self._note(entry[0], offset * len(self._statuses) + file_number + 1)

    def _map(self, size: int) -> memoryview:
        """A place for each entry, which the kernel pages in and out."""
        with tempfile.TemporaryFile() as file:
            for begin in range(0, size or 1, _BLOCK_BYTES):  # a hole that finds no room later would end the process
                file.write(bytes(min(_BLOCK_BYTES, max(size, _PLACE_BYTES) - begin)))
            file.flush()
            mapped = self._stack.enter_context(mmap.mmap(file.fileno(), 0))
        return self._stack.enter_context(memoryview(mapped).cast("Q"))

    def _note(self, entry: int, place: int) -> None:
        if self._places[entry]:
            self.doubled += 1
            if linefiles.whole(self._line(self._places[entry])[1]):
                return
        self._places[entry] = place

    def _line(self, place: int) -> tuple[Status, bytes]:
        offset, file_number = divmod(place - 1, len(self._statuses))
        file = self._files[file_number]
        return file.status, file.line(offset)

    def _row(self, number: int, text: bytes, *, cut: bool) -> Row:
        key, status = self.meet(text)
        found = None if status is None else self._done.find(digest_of(key.encode()))
        if found is not None and self._places[found[0]]:
            try:
                of_file, line = self._line(self._places[found[0]])
            except OSError as error:
                raise OutputError(f"{self._directory}: cannot be read: {error.strerror}") from None
            if linefiles.whole(line) and linefiles.key_of(line) == key.encode():
                self.matched += 1
                return Row(number, of_file, _filed(_numbered(line, key, number), self._input_file))
            self.damaged += 1
        return Row(number, "pending", self._pending(key, number, text, cut=cut))

    def _pending(self, key: str, number: int, text: bytes, *, cut: bool) -> bytes:
        """A line with the fields of a result for a record that has none."""
        identity, tail = "null", '"input":null,"raw":' + json.dumps(_shown(text))
        if not cut and text.startswith(b"{") and _is_json(text):
            given = text.decode()
            identity, tail = self._id.values(given)[0] or "null", f'"input":{given}'
        return (
            f'{{"schema":{SCHEMA_VERSION},"key":"{key}","line":{number},"id":{identity},"status":"pending",'
            '"answer":null,"baseline":null,"rewrite":null,"error":null,"checks":[],"policy":null,'
            f'"stages":{{"rewrite":null,"answer":null,"baseline":null}},"file":{self._input_file.decode()},"fingerprint":null,"started_at":null,"seconds":null,{tail}}}'
        ).encode()


def _numbered(line: bytes, key: str, number: int) -> bytes:
    """The line with the line number that the input has now: lines may have moved since it was written."""
    start = len(LINE_PREFIX) + len(key)
    begin = start + len(_LINE)
    end = line.find(b",", begin)
    if line[start:begin] != _LINE or line[begin:end] == b"%d" % number:
        return line
    return b"%s%d%s" % (line[:begin], number, line[end:])


def _filed(line: bytes, file: bytes) -> bytes:
    """The line with the name of the file where its input line stands now."""
    found = _FILE.search(line)
    if found is None or found[1] == file:
        return line
    return b"%s%s%s" % (line[: found.start(1)], file, line[found.end(1) :])


def _is_json(text: bytes) -> bool:
    try:
        from_json(text, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        return False
    return True


def _shown(text: bytes) -> str:
    return text[: 4 * _RAW_CHARS].decode(errors="backslashreplace")[:_RAW_CHARS]
