"""Each form holds what the lines hold: read back by other tools, digit for digit, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.export import Exported, Options, export, parquet
from s2a_batch.export.tables import Csv, final, original
from tests.exported import directory, failed, result
from tests.processes import read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.processes import JsonObject

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.one_of(TEXT, st.text(st.sampled_from("\",\r\n\0\t ;=+-@'5"), max_size=6))
LINES = [
    b'{"id":9007199254740993,"prompt":"a","n":0.10,"t":"=1+1"}',
    b'{"id":"x","prompt":"b","n":2,"t":null}',
    b'{"prompt":"c","n":true}',
]


def made(folder: Path, *results: bytes, job: JsonObject | None = None, lines: Sequence[bytes] = LINES) -> Path:
    """A directory with these results."""
    return directory(folder, lines, [("failed" if b'"failed"' in r else "answered", r) for r in results], job)


def exported(out: Path, name: str, **how: object) -> Exported:
    """Export to a file beside the directory."""
    return export(out, None, out.parent / name, Options(**how))  # type: ignore[arg-type]


def table(path: Path) -> list[list[str]]:
    """A CSV file as the csv module reads it."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


class _Kept(io.BytesIO):
    """A file that can be read when it is closed."""


def cells(*values: str | None, formulas: bool = False) -> list[str]:
    """The cells of one row of JSON texts, as the csv module reads them back."""
    out = _Kept()
    Csv(out, tuple(str(n) for n in range(len(values))), formulas=formulas).add(b"", values)
    header, row, *rest = list(csv.reader(io.StringIO(out.getvalue().decode(), newline=""), strict=True))
    assert (header, rest) == ([str(n) for n in range(len(values))], [])
    return row


@given(st.lists(AWKWARD, min_size=1, max_size=5))
def test_any_text_comes_back_from_a_csv_file(texts: list[str]) -> None:
    """Commas, quotes and every kind of line end stand in prompts; a cell that breaks shifts all behind it."""
    assert cells(*map(json.dumps, texts), formulas=True) == texts


@given(st.lists(AWKWARD, min_size=1, max_size=5))
def test_no_cell_of_text_begins_a_formula(texts: list[str]) -> None:
    """A spreadsheet runs what a model wrote; but for the mark before it the text must stay as it is."""
    for text, cell in zip(texts, cells(*map(json.dumps, texts)), strict=True):
        assert cell in (text, "'" + text)
        if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
            float(cell)  # only a number may


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "-", "+a"]
)
def test_known_attacks_are_defused(text: str) -> None:
    """These are the ways that are told of; the flag is for who needs the text as it is and opens no spreadsheet."""
    assert cells(json.dumps(text)) == ["'" + text]
    assert cells(json.dumps(text), formulas=True) == [text]


def test_what_is_no_text_stands_as_its_json() -> None:
    """A negative number is no formula, and its digits are not ours to change."""
    values = ("-5", "0.10", "9007199254740993", "true", "null", None, '{"a":[1,0.10]}', '"-5"', '"null"')
    shown = ["-5", "0.10", "9007199254740993", "true", "", "", '{"a":[1,0.10]}', "-5", "null"]
    assert cells(*values) == shown


def test_a_csv_file_has_the_usual_columns_of_every_line(tmp_path: Path) -> None:
    """The default is what most people open first."""
    out = made(tmp_path, result(LINES[1], answer={"answer": "=1"}, id_json=b'"x"'), failed(LINES[0], id_json=b"12"))
    told = exported(out, "x.csv", pending=True)
    assert table(tmp_path / "x.csv") == [
        ["id", "line", "status", "answer.answer", "error.kind"],
        ["12", "1", "failed", "", "refusal"],
        ["x", "2", "answered", "'=1", ""],
        ["", "3", "pending", "", ""],
    ]
    assert (tmp_path / "x.csv").read_bytes().count(b"\r\n") == 4
    assert (told.rows, told.lines, told.left_out) == (3, 3, {})


def test_answers_of_a_schema_have_a_column_for_each_name(tmp_path: Path) -> None:
    """A name that only the last answer has would be lost without a word if the first ones decided."""
    answers = [{"a": 1}, {"a": 2, "b.c": [0.5]}, {"=d": "x"}]
    out = made(
        tmp_path,
        *(result(line, answer=a) for line, a in zip(LINES, answers, strict=True)),
        job={"answer": {"schema_file": "s.json"}},
    )
    exported(out, "x.csv")
    head, *rows = table(tmp_path / "x.csv")
    assert head == ["id", "line", "status", "answer.a", "answer.b\\.c", "answer.=d", "error.kind"]
    assert [row[3:6] for row in rows] == [["1", "", ""], ["2", "[0.5]", ""], ["", "", "x"]]


def test_chosen_fields_are_flat_and_exact(tmp_path: Path) -> None:
    """What was read from the input comes back digit for digit; a name that leads nowhere is told, not hidden."""
    out = made(tmp_path, *(result(line) for line in LINES))
    told = exported(out, "x.jsonl", fields=("line", "input.id", "input.n", "answer", "input.gone"))
    assert (tmp_path / "x.jsonl").read_text().splitlines() == [
        '{"line":1,"input.id":9007199254740993,"input.n":0.10,"answer":{"answer":"yes"},"input.gone":null}',
        '{"line":2,"input.id":"x","input.n":2,"answer":{"answer":"yes"},"input.gone":null}',
        '{"line":3,"input.id":null,"input.n":true,"answer":{"answer":"yes"},"input.gone":null}',
    ]
    assert told.notes == ["no row has a value at: input.gone"]


def test_whole_lines_are_those_of_the_run(tmp_path: Path) -> None:
    """Nothing of the audit gets lost on the way."""
    lines = [result(line, number) for number, line in enumerate(LINES, 1)]
    out = made(tmp_path, *reversed(lines))
    exported(out, "x.jsonl")
    assert (tmp_path / "x.jsonl").read_bytes() == b"".join(lines)


COLUMNS: list[tuple[list[str | None], str, list[object]]] = [
    (["1", None, "-9223372036854775808", "9223372036854775807"], "int64", [1, None, -(2**63), 2**63 - 1]),
    (["1", "9223372036854775808"], "string", ["1", "9223372036854775808"]),
    (["1", "0.5", "null"], "double", [1.0, 0.5, None]),
    (["0.5", "9007199254740993"], "string", ["0.5", "9007199254740993"]),
    (["0.10", "1e2"], "double", [0.1, 100.0]),
    (["0.1000000000000000055"], "string", ["0.1000000000000000055"]),
    (["1e400"], "string", ["1e400"]),
    (["-0"], "double", [-0.0]),
    (["true", "false"], "bool", [True, False]),
    (["true", "1"], "string", ["true", "1"]),
    (['"a"', "1", "[0.10]", "false", None], "string", ["a", "1", "[0.10]", "false", None]),
    ([None, "null"], "string", [None, None]),
    (['"1"'], "string", ["1"]),
]


@pytest.mark.parametrize(("values", "kind", "read"), COLUMNS, ids=lambda found: str(found)[:30])
def test_a_parquet_column_has_the_narrowest_type_that_loses_nothing(
    tmp_path: Path, values: list[str | None], kind: str, read: list[object]
) -> None:
    """A type guessed from the first rows fails on the millionth, or rounds it."""
    with (tmp_path / "x").open("wb") as file, parquet.Parquet(file, ("c",)) as writer:
        for value in values:
            writer.add(b"", [value])
        writer.end()
    found = pq.read_table(tmp_path / "x")
    assert str(found.schema.field("c").type) == kind
    assert str(found["c"].to_pylist()) == str(read)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT))))
def test_parquet_gives_back_every_value(rows: list[tuple[object]]) -> None:
    """As it is in a column of its type, as its JSON's digits in a column of text."""
    with tempfile.NamedTemporaryFile() as file, parquet.Parquet(file, ("c",)) as writer:
        for (value,) in rows:
            writer.add(b"", [json.dumps(value)])
        writer.end()
        file.flush()
        found = pq.read_table(file.name)["c"].to_pylist()
    for (value,), read in zip(rows, found, strict=True):
        assert read == value or (isinstance(read, str) and not isinstance(value, str) and read == json.dumps(value))


def test_a_parquet_file_of_a_run_has_its_rows_in_order_and_in_groups(tmp_path: Path) -> None:
    """Groups are how its readers read a part; one of all rows would need all memory."""
    lines = [b'{"id":%d,"prompt":"p"}' % n for n in range(20_500)]
    out = made(tmp_path, *(result(line, answer={"answer": "x"}) for line in reversed(lines)), lines=lines)
    exported(out, "x.parquet", fields=("line", "input.id", "answer.answer"))
    found = pq.ParquetFile(tmp_path / "x.parquet")
    assert found.metadata.num_row_groups == 2
    assert found.read()["input.id"].to_pylist() == list(range(20_500))


def test_a_chat_holds_what_was_asked_and_what_was_answered(tmp_path: Path) -> None:
    """The set teaches a model to answer the original: what went wrong on the way must not be in it."""
    check = {"message": "m", "words": []}
    lines = [b'{"prompt":"p%d \\u00e9"}' % n for n in range(6)]
    out = made(
        tmp_path,
        result(lines[0], checks=[{"name": "numbers_dropped", "level": "info", **check}]),
        result(lines[1], checks=[{"name": "numbers_invented", "level": "error", **check}]),
        result(lines[2], policy="keep_original"),
        failed(lines[3]),
        result(lines[4], answer={"answer": 25}),
        lines=lines,
    )
    told = exported(out, "x.jsonl", form="chat")
    assert read_lines(tmp_path / "x.jsonl") == [
        {"messages": [{"role": "user", "content": f"p{n} é"}, {"role": "assistant", "content": said}]}
        for n, said in ((0, "yes"), (4, "25"))
    ]
    assert told.left_out == {
        "with a check of level error": 1,
        'by policy "keep_original"': 1,
        "failed": 1,
        "pending": 1,
    }
    assert exported(out, "y.jsonl", form="chat", max_level="error", any_policy=True).rows == 4
    told = exported(out, "z.jsonl", form="chat", without_checks=frozenset({"numbers_dropped", "unknown"}))
    assert (told.rows, told.notes) == (1, ["no record has a check named unknown"])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"answer":"a\\nb"}', "a\nb"),
        ('{"answer":0.10}', "0.10"),
        ('{"answer":true}', "true"),
        ('{"a":1,"answer":2}', '{"a":1,"answer":2}'),
        ('{"x":"y"}', '{"x":"y"}'),
    ],
)
def test_the_assistant_says_the_value_of_a_simple_answer(answer: str, said: str) -> None:
    """A model that learns from `{"answer": 25}` learns braces."""
    assert final(answer) == said


@pytest.mark.parametrize(
    ("given_object", "messages"),
    [
        ({"prompt": "p", "context": "c", "system": "s"}, [("user", "p")]),
        (
            {"context": "c", "question": "q", "system": "s", "instructions": "i"},
            [("system", "s"), ("user", "c\n\nq\n\ni")],
        ),
        ({"question": "q"}, [("user", "q")]),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
            [("system", "s"), ("user", "u")],
        ),
        ({"custom_id": "1", "body": {"messages": [{"role": "user", "content": "u"}]}}, [("user", "u")]),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, []),
        ({"x": 1}, []),
        (None, []),
    ],
)
def test_every_form_of_input_has_its_original_messages(given_object: object, messages: list[tuple[str, str]]) -> None:
    """A set without what went past the rewrite would teach answers to questions that were not asked."""
    found = original(given_object, {"prompt": "prompt"})  # type: ignore[arg-type]
    assert [(message["role"], message["content"]) for message in found] == messages


def test_fields_of_other_names_are_found() -> None:
    """The job says what the input's fields are called."""
    fields = {"prompt": "text", "system": "persona"}
    found = original({"text": "t", "persona": "p", "prompt": "no"}, fields)
    assert [message["content"] for message in found] == ["p", "t"]
