"""Lines to records: streams JSON Lines files with physical line numbers, and judges each line.

Invariants: a line that cannot be asked comes out as a `BadLine` in its place, one that may still be written as
`Waiting`, and one that is done is counted but not parsed, so counts add up.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2a_batch import inputs
from s2a_batch.errors import FailureKind, InputError, JobError
from s2a_batch.forms import Number, UnusableInputError, asked, id_of, what
from s2a_batch.inputs.textlines import LongLine, blocks_of_lines
from s2a_batch.records import BadLine, Known, Record, Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from pydantic import JsonValue

    from s2a_batch.forms import Fields
    from s2a_batch.inputs import Found, Given, Part
    from s2a_batch.inputs.textlines import Lines
    from s2a_batch.keys import KeyIndex

MAX_LINE_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 128
_TOGETHER: Final = 50  # lines that are read in one go: for a millisecond no request starts
_RAW_CHARS: Final = 4_000
CUT_MARK: Final = " [cut]"
_BLANK: Final = b" \t\r"
_NAME_CHARS: Final = 40
_BOM: Final = b"\xef\xbb\xbf"  # where a file begins, also one that was joined to others
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# Possessive: a text that never ends, full of escapes, would else be scanned once for each of its quotes.
_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]')
_ARRAY: Final = re.compile(rb"\[[ \t]*(\{(.*[,\]])?)?\Z")
_WIDE: Final = {
    "UTF-32": re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff|[^\0]\0\0\0|\0\0\0[^\0]"),
    "UTF-16": re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]"),
}
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BINARY: Final = (b"PK\x03\x04", b"PAR1", b"BZh91AY&SY", b"\xfd7zXZ\0")


class _BadLineError(Exception):
    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


async def records(  # noqa: PLR0913  what is told of the reading, each by itself
    given: Given | Found,
    fields: Fields,
    keys: KeyIndex,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    reached: Callable[[int], None] = lambda _: None,
    gone: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[Record | BadLine | Known | Waiting]:
    """Yield every non-blank line of the input once, in order; those whose record is done are counted, not parsed.

    Args:
        given: JSON Lines files, or what names them; `.gz` and `.zst` are unpacked on the way.
        fields: Under which names an input object holds its prompt and id.
        keys: Hands out each line's key, and knows what is done.
        max_line_bytes: A longer line fails; what it takes in memory beyond this is one block.
        reached: Told up to which byte of the input, packed or not, it has been read.
        gone: Told which file of a directory or a pattern was taken away before it was read.

    Raises:
        JobError: A file is missing, or the first is no JSON Lines at all (UTF-16, a JSON array, another format).
        InputError: Reading failed midway; all complete lines before it were yielded.
    """
    part, number, is_fresh = None, 0, True
    found = given if isinstance(given, inputs.Found) else await inputs.find(given)
    async with aclosing(blocks_of_lines(found, max_line_bytes)) as blocks:
        async for block in blocks:
            if block.part is not part:
                part, number, is_fresh = block.part, 0, True
            if block.gone:
                gone(block.part.name)
            known, read = Known(), -block.carried_bytes
            for start in range(0, len(block.lines), _TOGETHER):
                lines = block.lines[start : start + _TOGETHER]
                texts = [
                    line.head if isinstance(line, LongLine) else line.removeprefix(_BOM).strip(_BLANK) for line in lines
                ]
                is_fresh = is_fresh and not _is_begun(block, lines, texts, is_first=part is found.parts[0])
                judge = _Judge(part, fields, max_line_bytes, ended=block.ended)
                for line, record in judge.all_of(lines, texts, number, keys, known):
                    read += 1 + (line.size_bytes if isinstance(line, LongLine) else len(line))
                    if record is not None:
                        reached(block.position(read))
                        yield record
                number += len(lines)
            reached(block.end)
            if known.lines:
                yield known


def _is_begun(block: Lines, lines: list[bytes | LongLine], texts: list[bytes], *, is_first: bool) -> bool:
    """Whether a file's first line that is not blank is among these; raises when it shows that no line will do."""
    first = next((n for n, text in enumerate(texts) if text), None)
    if first is None:
        return False
    if not isinstance(lines[first], LongLine) and (why := _other_format(block.part, texts[first], ended=block.ended)):
        raise (JobError if is_first else InputError)(why)
    return True


@dataclass(frozen=True, slots=True)
class _Judge:
    """What lines of one file are judged by; `ended`: whether an LF ended the last of them."""

    part: Part
    fields: Fields
    max_line_bytes: int
    ended: bool

    def all_of(
        self, lines: list[bytes | LongLine], texts: list[bytes], number: int, keys: KeyIndex, known: Known
    ) -> list[tuple[bytes | LongLine, Record | BadLine | Waiting | None]]:
        """What each line asks, None of a blank or done one; `number` lines were before them."""
        met = iter(keys.meet_all(text for text in texts if text))
        found: list[tuple[bytes | LongLine, Record | BadLine | Waiting | None]] = []
        file = self.part.file
        for place, (line, text) in enumerate(zip(lines, texts, strict=True), number + 1):
            key, status = next(met) if text else ("", None)
            record: Record | BadLine | Waiting | None = None
            if status is not None:
                known.note(status)
            elif isinstance(line, LongLine):
                message = f"the line has {line.size_bytes} bytes, the limit is {self.max_line_bytes}"
                record = BadLine(key, place, b"null", None, _text(text), "line_too_long", message, file)
            elif text:
                record = self._record(text, place, key)
            found.append((line, record))
        return found

    def _record(self, line: bytes, number: int, key: str) -> Record | BadLine | Waiting:
        file = self.part.file
        try:
            found = _parse(line)
        except _BadLineError as error:
            kind, message = error.kind, str(error)
            if not self.ended and kind in ("bad_json", "not_utf8"):
                if self.part.may_grow:
                    return Waiting(number, file, self.part.name)
                kind = "cut_line"
                message += "; the input ends here without a newline, as if it had been cut off"
            return BadLine(key, number, b"null", None, _text(line), kind, message, file)
        name = id_of(found, self.fields)
        id_json = _id_json(line, name, found.get(name))
        try:
            return Record(key, number, id_json, line, asked(found, self.fields), file)
        except UnusableInputError as error:
            return BadLine(key, number, id_json, line, None, "bad_prompt", str(error), file)


def _parse(line: bytes) -> dict[str, JsonValue]:
    """The object of one line; raises `_BadLineError` on anything that strict JSON readers dispute."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        hint = "hint: convert the file to UTF-8"
        message = f"not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line; {hint}"
        raise _BadLineError("not_utf8", message) from None
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise _BadLineError("bad_json", f"nested deeper than {MAX_DEPTH} levels")
    try:
        found = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _BadLineError("bad_json", f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(found, dict):
        raise _BadLineError("not_an_object", f"expected a JSON object, found {what(found)}")
    if _SURROGATE.search(line):
        _refuse_lone_surrogates(found)
    return found


def _depth(text: str) -> int:
    deepest = depth = 0
    for match in _BRACKET.finditer(text):
        bracket = match[0]
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = json.dumps(Counter(name for name, _ in pairs).most_common(1)[0][0][:_NAME_CHARS])
        raise _BadLineError("bad_json", f"the key {twice} stands twice in one object; keep one of them")
    return found


def _constant(word: str) -> JsonValue:
    raise _BadLineError("bad_json", f"{word} is not JSON; write null or a text")


def _number(text: str) -> Number:
    """Beyond the range of doubles readers differ: infinity, an error, or (4,301 digits in Python) an error for ints."""
    if math.isinf(float(text)):
        raise _BadLineError("bad_json", f"the number {text[:40]} is too large for JSON readers; write it as text")
    return Number(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_float=_number, parse_int=_number
)


def _refuse_lone_surrogates(found: dict[str, JsonValue]) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        message = f"half of a surrogate pair (\\u{code:04x}) is no character; hint: it was cut out of an emoji"
        raise _BadLineError("bad_json", message) from None


def _id_json(line: bytes, name: str, value: JsonValue) -> bytes:
    """The id as JSON: a text in ASCII, so that it can be looked up whatever its escapes; all else as it stands."""
    if isinstance(value, Number):
        return value.encode()
    if isinstance(value, dict | list):
        return _raw_value(line.decode(), name).encode()
    return json.dumps(value).encode()


def _raw_value(text: str, name: str) -> str:
    """The text of one member's value in a sound object that has this member."""
    key, end = None, 0
    while key != name:
        key, colon = _DECODER.raw_decode(text, text.index('"', end))
        start = text.index(":", colon) + 1
        while text[start] in " \t\r":
            start += 1
        _, end = _DECODER.raw_decode(text, start)
    return text[start:end]


def _text(raw: bytes) -> str:
    text = raw[: 4 * _RAW_CHARS].decode(errors="backslashreplace")
    return text if len(text) <= _RAW_CHARS and len(raw) <= 4 * _RAW_CHARS else text[:_RAW_CHARS] + CUT_MARK


def _other_format(part: Part, line: bytes, *, ended: bool) -> str | None:
    """Why no line of a file that begins with this one will do."""
    name, base = part.name, part.name.rpartition("/")[2]
    for encoding, start in _WIDE.items():
        if start.match(line):
            return f"{name}: {encoding}, expected UTF-8; hint: iconv -f {encoding} -t UTF-8 {base} > utf8.jsonl"
    if line.startswith(b"\x1f\x8b"):
        return f"{name}: gzip data; hint: give the file the ending .gz (of a pipe: zcat)"
    if line.startswith(_ZSTD):
        return f"{name}: zstd data; hint: give the file the ending .zst, or unpack it (of a pipe: zstdcat)"
    if line.startswith(_BINARY):
        return f"{name}: compressed or binary data, expected JSON Lines; hint: unpack it first"
    array = _ARRAY.match(line)
    if array or (line == b"{" and ended):
        what, how = ("a JSON array", "'.[]'") if array else ("JSON over many lines", ".")
        return f"{name}: {what}, expected one object a line; hint: jq -c {how} {base} > lines.jsonl"
    return None
