"""Values are cut out of a line as they stand: nothing is rounded, nothing is taken for another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2a_batch.export.spans import Paths, members, plain

if TYPE_CHECKING:
    from pydantic import JsonValue

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NAME = st.one_of(st.sampled_from(["input", "answer", "a", "a.b", "0", ""]), TEXT)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
JSON: st.SearchStrategy[JsonValue] = st.recursive(
    LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAME, inner, max_size=4)),
    max_leaves=10,
)
SPACING = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" ,\t", "\r: ")}])


def every_path(value: JsonValue) -> dict[tuple[str, ...], JsonValue]:
    """All that lies in a value, by names."""
    found: dict[tuple[str, ...], JsonValue] = {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in pairs:
        found[(str(name),)] = below
        found |= {(str(name), *more): deeper for more, deeper in every_path(below).items()}
    return found


def dotted(names: tuple[str, ...]) -> str:
    """A path as a user writes it."""
    return ".".join(name.replace(".", "\\.") for name in names)


@given(st.dictionaries(NAME.filter(lambda name: "\\" not in name), JSON, max_size=6), SPACING, st.booleans())
@example({"answer": {"input": {"x": 1}}, "b": 2, "input": {"input": {"x": 3}, "c": {"input": None}}}, {}, True)
@example({"b": [{"input": {"x": 1}}], "input": {"x": 2}}, {"separators": (",", ":")}, True)
@example({"answer": {"input": {}}, "seconds": 1}, {"separators": (",", ":")}, True)
def test_every_value_of_any_object_is_found_by_its_path(
    whole: dict[str, JsonValue], spacing: dict[str, object], ascii_only: bool
) -> None:
    """Objects, lists, names that occur twice at different depths, any spacing: the value is the one of the path."""
    text = json.dumps(whole, ensure_ascii=ascii_only, **spacing)  # type: ignore[arg-type]
    wanted = {dotted(names): value for names, value in every_path(whole).items() if not any("\\" in n for n in names)}
    for paths in (tuple(wanted), *((path,) for path in wanted)):
        found = Paths(paths).values(text)
        assert [json.loads(value or "") for value in found] == [wanted[path] for path in paths]


@pytest.mark.parametrize(
    "number", ["9007199254740993", "0.10", "-0", "1e-7", "1E400", "9" * 5_000, "0.1000000000000000055"]
)
def test_numbers_come_out_digit_for_digit(number: str) -> None:
    """An identifier of 17 digits that loses its last one is another customer."""
    text = f'{{"a":{number},"input":{{"b":[1,{number} ]}}}}'
    assert Paths(("a", "input.b.1", "input")).values(text) == [number, number, f'{{"b":[1,{number} ]}}']


def test_what_is_not_there_is_none() -> None:
    """Null and missing are the same to a table; a path that leads through a text must not end in its letters."""
    text = '{"a":"xyz","n":null,"l":[1],"input":null,"raw":"r"}'
    paths = ("a.0", "a.x", "n.x", "n", "l.1", "b", "input.x", "input", "raw")
    assert Paths(paths).values(text) == [None, None, None, "null", None, None, None, "null", '"r"']


def test_one_value_may_be_asked_for_with_what_lies_in_it() -> None:
    """A table may hold the whole beside its parts."""
    assert Paths(("a", "a.b", "a.b.c")).values('{"a":{"b":{"c":1}}}') == ['{"b":{"c":1}}', '{"c":1}', "1"]


@given(TEXT)
def test_a_text_is_what_it_stands_for(text: str) -> None:
    """Escapes are JSON's business, not the reader's of a cell."""
    assert plain(json.dumps(text)) == text
    assert plain(json.dumps(text, ensure_ascii=False)) == text
    assert plain("0.10") == "0.10"
    assert plain('{"a": 1}') == '{"a": 1}'


def test_members_of_a_list_are_numbered() -> None:
    """`attempts.0` is how a path names the first."""
    text = ' [ 1 , "a" ,{} ] '
    assert [(name, text[start:end]) for name, start, end in members(text, 1)] == [("0", "1"), ("1", '"a"'), ("2", "{}")]
