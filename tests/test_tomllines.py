"""On which line a key of a TOML text stands: right or not told."""

from __future__ import annotations

import json
import time
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2a_batch.jobfile.tomllines import Place, key_lines

if TYPE_CHECKING:
    from pydantic import JsonValue

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4) | st.sampled_from(
    ["a", "b", "c-1", "a=b", "a.b", "[x]", "#", "'", '"""', "'''", "1", "ключ"]
)
SPACES = st.sampled_from(["", " ", "\t", "  "])
COMMENTS = st.sampled_from(["", " # a = 1", "# [x]", " # '''", "#]"])
GAPS = st.lists(st.sampled_from(["", "  ", "# a = 1", "# [a]", "\t# '''"]), max_size=2)
SCALARS = st.sampled_from(["1", "true", '"x = 1"', "'[a]'", "1979-05-27", '"#"', "0.5", '"\\n[a]\\n"', "'\\'"])
MULTILINE = st.sampled_from(
    [
        '"""\na = 1\n[a]\n"""',
        "'''x\n\n[[b]] # \"\"\"\n'''",
        "[\n 1, # ]\n\n 2\n]",
        '[\n"]", [\n1]\n]',
        '"""\\\n  \\"\\"\\" a = 1\n""""',
        "{ b = [\n1,\n], c = 2 }",
        "[ { a = 1 },\n{ a = 2 } ]",
        '"""\n"""',
    ]
)


@st.composite
def keys(draw: st.DrawFn, name: str) -> str:
    """One of the ways to write a name as a key."""
    ways = [json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")]
    if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        ways.append(name)
    if "'" not in name:
        ways.append(f"'{name}'")
    return draw(st.sampled_from(ways))


def nested(depth: int) -> st.SearchStrategy[dict[str, object]]:
    """Tables of values (None stands for one), tables and lists of tables."""
    if not depth:
        return st.dictionaries(NAMES, st.none(), max_size=3)
    inner = nested(depth - 1)
    return st.dictionaries(NAMES, st.none() | inner | st.lists(inner, min_size=1, max_size=2), max_size=3)


class Writer:
    """Writes a document, and notes on which line each key is first named."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.rows: list[str] = []
        self.noted: dict[Place, int] = {}

    def write(self, text: str, *places: Place) -> None:
        """Add a statement after some lines that say nothing."""
        self.rows += self.draw(GAPS)
        for place in places:
            self.noted.setdefault(place, len(self.rows) + 1)
        self.rows += (self.draw(SPACES) + text + self.draw(SPACES) + self.draw(COMMENTS)).split("\n")

    def value(self, key: str, place: Place) -> None:
        """A value on one line or on several, or an inline table; `key` is as it stands, `place` the key's own."""
        pad = self.draw(SPACES)
        if self.draw(st.booleans()):
            name = self.draw(NAMES)
            inline = f"{{{pad}{self.draw(keys(name))}{pad}= {self.draw(SCALARS)} }}"
            self.write(f"{key}{pad}={pad}{inline}", place, (*place, name))
        else:
            self.write(f"{key}{pad}={pad}{self.draw(SCALARS | MULTILINE)}", place)

    def table(self, heads: list[str], place: Place, table: dict[str, object]) -> None:
        """The values of a table, then the tables in it."""
        for name, value in table.items():
            if value is None:
                self.value(self.draw(keys(name)), (*place, name))
        for name, value in table.items():
            below, within = [*heads, self.draw(keys(name))], (*place, name)
            joined = self.draw(st.sampled_from([".", " . "])).join(below)
            named = [within[:end] for end in range(1, len(within) + 1) if isinstance(within[end - 1], str)]
            if isinstance(value, list):
                for number, member in enumerate(value):
                    self.write(f"[[{joined}]]", *named, (*within, number))
                    self.table(below, (*within, number), member)
            elif isinstance(value, dict):
                if self.draw(st.booleans()) or not any(isinstance(v, dict | list) for v in value.values()):
                    self.write(f"[{joined}]", *named)
                    self.table(below, within, value)
                else:  # named by its tables alone
                    for key, member in value.items():
                        if isinstance(member, dict | list):
                            self._implied(below, within, key, member)

    def _implied(self, heads: list[str], place: Place, name: str, member: object) -> None:
        """A table in a table that has no heading of its own."""
        begun = len(self.rows)
        self.table(heads, place, {name: member})
        line = self.noted[*place, name]
        assert line > begun
        self.noted.setdefault(place, line)


def read(value: JsonValue, place: Place) -> bool:
    """Whether a document holds this place."""
    for name in place:
        if isinstance(value, dict) and name in value:
            value = value[str(name)]
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return False
    return True


@given(nested(3), st.data(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]), st.booleans())
def test_each_key_stands_on_the_line_that_is_told(
    table: dict[str, object], data: st.DataObject, newline: str, bom: str, ended: bool
) -> None:
    """A wrong line sends a person to look at what is right, in a file that they did not write."""
    writer = Writer(data)
    writer.table([], (), table)
    text = newline.join([*writer.rows, *[""] * ended])
    parsed = tomllib.loads(text)
    found = key_lines(bom + text)
    assert writer.noted.items() <= found.items(), "every key outside of longer values is told, and rightly"
    assert all(read(parsed, place) for place in found), "nothing is told that is not there"


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("a.b.c = 1\na.b.d = 2\n", ("a", "b", "d"), 2),
        ("a.b.c = 1\na.b.d = 2\n", ("a",), 1),
        ("[a.b]\n\n[a]\nc = 1", ("a",), 1),
        ("[a.b]\n\n[a]\nc = 1", ("a", "c"), 4),
        ("x = { a = { b = 1 }, c = 2 }", ("x", "a", "b"), 1),
        ("\n\n x = [ { a = 1 } ]", ("x", 0, "a"), 3),
        ("[[x]]\n[[x]]\n[x.y]\nz = 1", ("x", 1, "y", "z"), 4),
        ("[[x]]\n[[x.y]]\n[[x]]\n[[x.y]]\n[[x.y]]\nz = 1", ("x", 1, "y", 1, "z"), 6),
        ('"a=b"."c" = """\n"""\nd = 1', ("a=b", "c"), 1),
        ('"a=b"."c" = """\n"""\nd = 1', ("d",), 3),
        ("a = '\u2028'\nb = 1\x0b", ("a",), 1),
        ("a = [\n1,\n# ]\n2]\nb = 1", ("b",), 5),
    ],
)
def test_ways_to_write_a_key(text: str, place: Place, line: int) -> None:
    """Dotted keys, quotes, lists of tables, signs that other programs take for the end of a line."""
    assert key_lines(text)[place] == line


def test_what_is_inside_of_a_longer_value_is_not_told() -> None:
    """Where the parser cannot tell, silence: the key around it has a line."""
    found = key_lines('a = { b = [\n"x",\n], c = 1 }\nd = 2')
    assert found == {("a",): 1, ("d",): 4}


@pytest.mark.parametrize("text", ["", "\n", "# only\n", "a = ", "=", "[", "a = [\n" * 50, "\x00", "a = '''\n"])
def test_what_is_no_toml_has_no_lines(text: str) -> None:
    """Whoever asks first and parses later must not meet an exception."""
    assert key_lines(text) == {}


@pytest.mark.parametrize("row", ["]", "plain words of a long instruction", '"x",'])
def test_a_long_value_costs_no_minutes(row: str) -> None:
    """Instructions of a hundred thousand lines and a typo behind them: the error still comes at once."""
    text = "before = 1\na = '''\n" + f"{row}\n" * 100_000 + "'''\nlast = 1\n"
    began = time.process_time()
    found = key_lines(text)
    assert time.process_time() - began < 10
    assert found["before",] == 1
    assert found.get(("last",), 100_004) == 100_004
