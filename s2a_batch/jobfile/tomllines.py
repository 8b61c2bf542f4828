"""On which line of a TOML text each of its keys stands.

Knows tomllib, which names no lines: it is asked for one statement after the other, and where one ends is where it first
accepts the text. Invariant: a line is right or not told; keys inside of a value that goes over several lines are not.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

Place = tuple[int | str, ...]
"""Where a value stands: keys, and numbers from 0 for members of lists."""

_ENDS: Final = ("'''", '"""', "]", "}")  # a statement of several lines ends with one of these
_MOST_CHARS: Final = 4_000_000  # that are read for it: a long text of many brackets costs no minutes


def key_lines(text: str) -> dict[Place, int]:
    """Line of each key of a TOML document, from 1; of a table, where it is first named. Nothing for what is no TOML."""
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for line, statement, value in _statements(text):
        if statement.lstrip(" \t").startswith("["):
            table = ()
            *outer, last = _own(value)
            for name in outer:
                table = _enter(found, counts, (*table, name), line)
            if statement.lstrip(" \t").startswith("[["):
                counts[*table, last] = counts.get((*table, last), -1) + 1
            table = _enter(found, counts, (*table, last), line)
        elif "\n" in statement.rstrip("\n"):
            _note(found, table, _nested(_name(statement)), line)
        else:
            _note(found, table, value, line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, JsonValue]]]:
    """Each statement with its first line's number, as it stands and as it reads."""
    statement, begun, read = "", 1, 0
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        is_first = not statement
        begun = number if is_first else begun
        statement += line + "\n"
        if not is_first and not any(end in line for end in _ENDS):
            continue
        read += len(statement)
        if read > _MOST_CHARS:
            return
        try:
            value = tomllib.loads(statement)
        except (ValueError, RecursionError):
            continue
        if value:
            yield begun, statement, value
        statement = ""


def _enter(found: dict[Place, int], counts: dict[Place, int], place: Place, line: int) -> Place:
    """Note a table of a heading; of a list of tables it is the last one."""
    found.setdefault(place, line)
    if place not in counts:
        return place
    found.setdefault((*place, counts[place]), line)
    return (*place, counts[place])


def _note(found: dict[Place, int], place: Place, value: JsonValue, line: int) -> None:
    """Note all places inside of a value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        found.setdefault((*place, name), line)
        _note(found, (*place, name), member, line)


def _own(value: JsonValue) -> list[str]:
    """The names of a heading, read as a document of its own."""
    names: list[str] = []
    while isinstance(value, dict) and value:
        ((name, value),) = value.items()
        names.append(name)
    return names


def _name(statement: str) -> list[str]:
    """The names before the equals sign: no earlier one, in quotes, ends a key."""
    end = -1
    while (end := statement.find("=", end + 1)) >= 0:
        try:
            return _own(tomllib.loads(f"{statement[:end]}= 0\n"))
        except tomllib.TOMLDecodeError:
            continue
    return []


def _nested(names: list[str]) -> JsonValue:
    value: JsonValue = 0
    for name in reversed(names):
        value = {name: value}
    return value
