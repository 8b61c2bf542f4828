"""Values in the text of a JSON line, found by dotted paths and cut out as they stand.

Knows the scanner of `json`. Invariants: a value's text is that of the line, so 9007199254740993, 0.10 and every escape
stay as they are; the line is known to be strict JSON, which is not looked at again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from json.scanner import make_scanner
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLANK: Final = " \t\r\n"
_DOT: Final = re.compile(r"(?<!\\)\.")
# Numbers stay text: to build an int of more than 4,300 digits is an error in Python, and it costs time.
_DECODER: Final = json.JSONDecoder(parse_float=str, parse_int=str, strict=False)
_scan: Final = make_scanner(_DECODER)  # type: ignore[arg-type]
_INPUT: Final = re.compile(r',"input":')


@dataclass(slots=True)
class _Node:
    """What is wanted of a value: itself in these slots, and what lies in it."""

    slots: list[int] = field(default_factory=list)
    below: dict[str, _Node] = field(default_factory=dict)


class Paths:
    r"""Dotted paths into a line: `answer.answer`, `stages.answer.attempts.0.status`; `a\.b` is one name with a dot.

    Args:
        paths: The values' texts come in this order.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._number = len(paths)
        self._root = _Node()
        for slot, path in enumerate(paths):
            node = self._root
            for name in _DOT.split(path):
                node = node.below.setdefault(name.replace("\\.", "."), _Node())
            node.slots.append(slot)
        self._whole = _Node(below=dict(self._root.below))
        self._last = self._root.below.pop("input", None)

    def values(self, text: str) -> list[str | None]:
        """The JSON text of each value in an object; None for one that it lacks."""
        found: list[str | None] = [None] * self._number
        start = _skip(text, 0)
        if self._last is None:
            _walk(text, start, self._root, found)
        elif (at := _input_of(text)) is None:
            _walk(text, start, self._whole, found)
        else:
            _take(text, at, len(text) - 1, self._last, found)
            _walk(text, start, self._root, found)
        return found


def members(text: str, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each value of the object or list that begins here; a list's names are 0, 1, .."""
    named = text[start] == "{"
    at, number = _skip(text, start + 1), 0
    while text[at] not in "]}":
        if named:
            name, at = _scan(text, at)
            at = _skip(text, at + 1 if text[at] == ":" else _skip(text, at) + 1)
        else:
            name, number = str(number), number + 1
        _, end = _scan(text, at)
        yield name, at, end
        at = _skip(text, end) if text[end] in _BLANK else end
        if text[at] == ",":
            at = at + 1 if text[at + 1] == '"' else _skip(text, at + 1)


def plain(value: str) -> str:
    """The text that a JSON text stands for; of all but texts the JSON itself."""
    return str(_scan(value, 0)[0]) if value.startswith('"') else value


def _walk(text: str, start: int, node: _Node, found: list[str | None]) -> None:
    left = len(node.below)
    if not left or text[start] not in "{[":
        return
    for name, at, end in members(text, start):
        below = node.below.get(name)
        if below is None:
            continue
        _take(text, at, end, below, found)
        left -= 1
        if not left:
            return


def _take(text: str, start: int, end: int, node: _Node, found: list[str | None]) -> None:
    for slot in node.slots:
        found[slot] = text[start:end]
    if node.below:
        _walk(text, start, node, found)


def _input_of(text: str) -> int | None:
    """Where the value of `input` begins that ends a result line; None where the line has another end.

    An answer or an input may hold the same name, but not with one brace left behind its value; and a text holds it with
    its quotes escaped. So the long middle of a line need not be gone through.
    """
    last = len(text) - 1
    for place in _INPUT.finditer(text):
        if text[place.end()] in "{n" and _scan(text, place.end())[1] == last:
            return place.end()
    return None


def _skip(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at
