"""Bytes to records: each physical line comes out once, in its place, whatever it holds and however it is read."""

from __future__ import annotations

import gzip
import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch import source
from s2a_batch.errors import JobError
from s2a_batch.forms import Fields
from s2a_batch.records import BadLine, Known, Record, Waiting
from tests.reading import BLOCK, Found, ask, collect, everything, given_bytes, read


def one(folder: Path, line: bytes) -> Record | BadLine:
    """What becomes of a line between two good ones, which must come through."""
    before, found, after = read(given_bytes(folder, b"\n".join([ask("before"), line, ask("after"), b""])))
    assert isinstance(before, Record)
    assert isinstance(after, Record)
    assert (before.line, found.line, after.line) == (1, 2, 3)
    return found


def bad(folder: Path, line: bytes) -> BadLine:
    """The bad line that stands between two good ones."""
    found = one(folder, line)
    assert isinstance(found, BadLine)
    return found


ODD = b'\n|\x0b|\r\n|\n\n| |\t|\r|\0|\xef\xbb\xbf|{|}|[|"|\\|\\ud800|\xe2\x80\xa8|null|NaN|1e999|\xff'
PIECES = st.sampled_from([*ODD.split(b"|"), b"[" * 200, b'{"prompt":"why?"}', b'{"id":7}'])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.binary(max_size=6))).map(b"".join))
def test_any_bytes_give_one_record_for_each_line_that_is_not_blank(content: bytes) -> None:
    """Counts must add up whatever the file holds: no line is lost, doubled or taken for another; nothing crashes."""
    with tempfile.TemporaryDirectory() as folder:
        # A good line first: what follows it is never taken for a file of another format.
        found = everything(given_bytes(Path(folder), ask("first") + b"\n" + content))
    lines = enumerate(content.split(b"\n"), start=2)
    wanted = [1, *(n for n, line in lines if line.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r"))]
    there = [record for record in found if not isinstance(record, Known)]
    assert [record.line for record in there] == wanted
    asked = [record.key for record in there if not isinstance(record, Waiting)]
    assert len(set(asked)) == len(asked) >= len(there) - 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_first_line_gives_records_or_one_clear_refusal(content: bytes) -> None:
    """A file of a wrong format is refused by name; nothing else may end the reading."""
    with tempfile.TemporaryDirectory() as folder:
        path = given_bytes(Path(folder), content)
        refused, found = "", list[object]()
        try:
            found += everything(path)
        except JobError as error:
            refused = str(error)
    lines = [line.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r") for line in content.split(b"\n")]
    assert (str(path) in refused and "hint: " in refused) if refused else len(found) == sum(map(bool, lines))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_where_a_block_ends_makes_no_difference(tmp_path: Path, suffix: str) -> None:
    """A line, its end or a character that lies over the edge of two blocks must not be split or lost."""
    for end in (b"\n", b"\r\n"):
        for shift in (-3, -2, -1, 0, 1, 2):
            middle = ask("\u2028" + "x", id="mid").replace(b"\\u2028", "\u2028\U0001f36c".encode())
            head = ask("").replace(b'""', b'"' + b"h" * (BLOCK - 16 - len(middle) // 2 + shift) + b'"')
            content = end.join([head, middle, b"", ask("last"), b""])
            packed = gzip.compress(content, compresslevel=1) if suffix else content
            found = read(given_bytes(tmp_path, packed, "in.jsonl" + suffix))
            assert [(type(record), record.line, record.input_json) for record in found] == [
                (Record, 1, head), (Record, 2, middle), (Record, 4, ask("last")),
            ]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.integers(BLOCK - 40, BLOCK + 40), st.binary(max_size=40))
def test_the_same_lines_come_out_after_any_size_of_content(size: int, tail: bytes) -> None:
    """Whether the rest begins in the first or the second block is of no consequence to what it holds."""
    with tempfile.TemporaryDirectory() as folder:
        small = read(given_bytes(Path(folder), ask("first") + b"\n" + tail))
        pad = b'{"prompt":"first","pad":"' + b"p" * (size - 28) + b'"}\n'
        large = read(given_bytes(Path(folder), pad + tail))
    assert large[1:] == small[1:]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (b'{"prompt":"why?","n":NaN}', "bad_json", "NaN"),
        (b'{"prompt":"why?","n":[-Infinity]}', "bad_json", "-Infinity"),
        (b'{"prompt":"why?","n":{"deep":-1e400}}', "bad_json", "too large"),
        (b'{"prompt":"why?","n":' + b"9" * 5_000 + b"}", "bad_json", "too large"),
        (b'{"prompt":"why?","a":{"b":1,"c":2,"b":3}}', "bad_json", 'key "b" stands twice'),
        (b'{"prompt":"half \\udc00 of it"}', "bad_json", "\\udc00"),
        (b'{"prompt":"why?","\\ud83d":1}', "bad_json", "\\ud83d"),
        (b'{"prompt":"cr\xe8me br\xfbl\xe9e?"}', "not_utf8", "0xe8 at byte 14"),
        (b'{"prompt":"\xed\xa0\x80"}', "not_utf8", "byte 12"),
        (b'{"prompt":"a tab\there?"}', "bad_json", "column 17"),
        (b'{"prompt":"why?"}{"prompt":"who?"}', "bad_json", "Extra data at column 18"),
        (b"{'prompt':'why?'}", "bad_json", "column 2"),
        (b'{"prompt":"why?"', "bad_json", "column"),
        (b"\0" * 40, "bad_json", "column 1"),
        (b"   # a remark  ", "bad_json", "column 1"),
        (b'"why?"', "not_an_object", "found a text"),
        (b'["why?"]', "not_an_object", "found a list"),
        (b"-12", "not_an_object", "found a number"),
        (b"1.5e3", "not_an_object", "found a number"),
        (b"false", "not_an_object", "found true or false"),
        (b"null", "not_an_object", "found null"),
        (b'{"Prompt":"why?","b":1}', "bad_prompt", "'prompt' is missing; the object has Prompt, b"),
        (b"{}", "bad_prompt", "no fields"),
        (b'{"prompt":null}', "bad_prompt", "null, expected text"),
        (b'{"prompt":12}', "bad_prompt", "a number, expected text"),
        (b'{"prompt":true}', "bad_prompt", "true or false, expected text"),
        (b'{"prompt":["why?"]}', "bad_prompt", "a list, expected text"),
        (b'{"prompt":{"text":"why?"}}', "bad_prompt", "an object, expected text"),
        (b'{"prompt":""}', "bad_prompt", "is empty"),
        (b'{"prompt":"\\n\\u2003 "}', "bad_prompt", "is blank"),
    ],
)
def test_a_bad_line_fails_alone_and_says_why(tmp_path: Path, line: bytes, kind: str, words: str) -> None:
    """One faulty line in a night's work costs that line, and its reason leads to the repair."""
    found = bad(tmp_path, line)
    assert found.kind == kind
    assert words in found.message
    assert (found.input_json is None) == (found.kind != "bad_prompt")
    assert (found.raw is None) == (found.kind == "bad_prompt")


def test_a_reason_stays_short_however_long_the_names(tmp_path: Path) -> None:
    """Reasons go to the screen and into files by the thousand; a name of a megabyte must not."""
    name = b"n" * 1_000_000
    for line in (b'{"%s":1,"%s":2}' % (name, name), b'{"%s":1}' % name, b'{"prompt":"a?","n":%s}' % (b"9" * 1_000_000)):
        assert len(bad(tmp_path, line).message) < 200


@pytest.mark.parametrize("depth", [128, 129, 5_000, 1_000_000])
@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_deep_nesting_fails_by_our_limit_and_never_by_pythons(tmp_path: Path, depth: int, pair: bytes) -> None:
    """A parser that runs out of stack takes all other records with it."""
    opening = b'{"a":' if pair == b"{}" else b"["
    deep = opening * (depth - 1) + b"1" + pair[1:] * (depth - 1)
    found = one(tmp_path, b'{"prompt":"how deep?","d":' + deep + b"}")
    if depth <= source.MAX_DEPTH:
        assert isinstance(found, Record)
    else:
        assert isinstance(found, BadLine)
        assert "nested deeper than 128" in found.message


def test_brackets_within_texts_are_no_nesting(tmp_path: Path) -> None:
    """Prompts about code and mathematics are full of brackets, escaped quotes and backslashes before quotes."""
    for text in ("[" * 3_000, '"[' * 500 + "{" * 500, "\\[" * 400 + "\\", '\\"[' * 400):
        found = one(tmp_path, ask(text))
        assert isinstance(found, Record)
        assert found.prompt == text


@pytest.mark.parametrize(
    "line",
    [
        b'{"prompt":"' + b"[" * 200 + b'\\"' * 400_000,
        b"{" + b",".join(b'"k%d":0' % n for n in range(60_000)) + b',"k59999":1}',
        b'{"prompt":"a?","n":0.' + b"1" * 2_000_000 + b'e-5,"m":1e-' + b"9" * 1_000_000 + b"}",
        b'{"prompt":"a?","n":{' + b",".join(b'"k%d":0' % n for n in range(60_000)) + b'},"id":[1]}',
    ],
    ids=["cut text full of quotes", "many keys", "long numbers", "id at the end"],
)
def test_no_line_takes_more_time_than_its_length(tmp_path: Path, line: bytes) -> None:
    """A single line whose time grows with its square holds up every other record for minutes."""
    began = time.perf_counter()
    one(tmp_path, line)
    assert time.perf_counter() - began < 2


def test_a_line_over_the_limit_fails_with_its_size_in_bounded_memory(tmp_path: Path) -> None:
    """A forgotten newline makes a line of gigabytes; it must not take the machine's memory."""
    size = 24 * BLOCK
    path = given_bytes(tmp_path, ask("before") + b"\n" + b"x" * size + b"\n" + ask("after") + b"\n")
    tracemalloc.start()
    try:
        found = read(path, limit=2 * BLOCK)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [type(record) for record in found] == [Record, BadLine, Record]
    assert isinstance(found[1], BadLine)
    assert found[1].kind == "line_too_long"
    assert f"has {size} bytes" in found[1].message
    assert found[1].raw is not None
    assert len(found[1].raw) < 5_000
    assert peak < 8 * BLOCK


@pytest.mark.parametrize("limit", [40, 5_000, BLOCK, 2 * BLOCK])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_the_limit_is_exact(tmp_path: Path, limit: int, end: bytes) -> None:
    """Whoever reads the limit in the message can rely on it, at any size and at the end of the file."""
    fits = ask("").replace(b'""', b'"' + b"f" * (limit - len(ask(""))) + b'"')
    found = read(given_bytes(tmp_path, fits + b"\n" + fits.replace(b"f", b"ff", 1) + end), limit=limit)
    assert isinstance(found[0], Record)
    assert isinstance(found[1], BadLine)
    assert f"has {limit + 1} bytes, the limit is {limit}" in found[1].message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ask("why?").decode().encode("utf-16"), "UTF-16"),
        (ask("why?").decode().encode("utf-16-le") + b"\n\0", "UTF-16"),
        (ask("why?").decode().encode("utf-16-be") + b"\0\n", "UTF-16"),
        (ask("why?").decode().encode("utf-32"), "UTF-32"),
        (ask("why?").decode().encode("utf-32-be"), "UTF-32"),
        (gzip.compress(ask("why?"), mtime=0), "the ending .gz"),
        (b"\x28\xb5\x2f\xfd\x04\0", "unpack"),
        (b"PK\x03\x04\x14\0", "unpack"),
        (b"BZh91AY&SY\x01", "unpack"),
        (b"[\n" + ask("why?") + b",\n" + ask("who?") + b"\n]\n", "jq -c '.[]' in.jsonl"),
        (b"\n  \n[\n" + ask("why?") + b"\n]\n", "a JSON array"),
        (b"[{\n" + ask("why?")[1:] + b"]\n", "a JSON array"),
        (b"[ " + ask("why?") + b",\n" + ask("who?") + b"]", "a JSON array"),
        (b"[" + ask("why?") + b", " + ask("who?") + b"]", "a JSON array"),
        (json.dumps({"prompt": "why?"}, indent=1).encode() + b"\n", "over many lines"),
    ],
)
def test_a_file_of_another_format_is_refused_with_the_way_out(tmp_path: Path, content: bytes, words: str) -> None:
    """Thousands of dead letters that say "bad JSON" hide the one thing that is wrong, and cost a night."""
    path = given_bytes(tmp_path, content)
    found = Found()
    with pytest.raises(JobError, match="hint: ") as caught:
        collect(path, found)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert not found


def test_lines_that_only_resemble_another_format_stop_nothing(tmp_path: Path) -> None:
    """A single odd line at the top is one bad line; only a file that cannot be read at all ends the run."""
    for first in (b"\0" * 30, b"\0", b"[1, 2]", b'["why?"]', b"[]", b"{}", b"{ }", b"B", b"\xff", b"\x0b", b"\x0c\r"):
        found = read(given_bytes(tmp_path, first + b"\n" + ask("why?")))
        assert [type(record) for record in found] == [BadLine, Record]


def test_a_path_that_cannot_be_opened_is_a_fault_of_the_command(tmp_path: Path) -> None:
    """Nothing was sent, and running the same command again would not help: that is exit 2, not 3."""
    for path in (tmp_path / "none.jsonl", tmp_path, given_bytes(tmp_path, b"") / "in.jsonl"):
        with pytest.raises(JobError, match="cannot read the input"):
            read(path)


def test_a_bom_is_no_part_of_a_line(tmp_path: Path) -> None:
    """Editors write a BOM, and joined files have it in the middle; it must reach no id, no key and no output."""
    plain = read(given_bytes(tmp_path, ask("why?", id="a") + b"\n" + ask("who?") + b"\n"))
    bom = b"\xef\xbb\xbf"
    content = bom + ask("why?", id="a") + b"\n" + bom + b" " + ask("who?") + b"\n" + bom
    assert read(given_bytes(tmp_path, content)) == plain
    members = gzip.compress(b"") + gzip.compress(content[:1]) + gzip.compress(content[1:])
    assert read(given_bytes(tmp_path, members, "in.gz")) == plain


def test_ends_of_lines_and_blanks_around_them_change_nothing(tmp_path: Path) -> None:
    """A file that went through Windows holds the same records, so that a resume asks none of them again."""
    plain = read(given_bytes(tmp_path, b"\n".join([ask("why?"), b"", ask("who?")])))
    other = read(given_bytes(tmp_path, b"\r\n".join([b" \t" + ask("why?") + b"  ", b" ", ask("who?"), b"\t", b""])))
    assert other == plain
    assert [record.line for record in plain] == [1, 3]


@pytest.mark.parametrize("line", [b'{"prompt":"why', b'{"prompt":"why?', b'{"prompt":"gr\xc3', b"{"])
def test_a_last_line_without_its_end_may_still_be_written(tmp_path: Path, line: bytes) -> None:
    """Half a record is never sent nor given up; when its rest has come, nothing stands in its way."""
    path = given_bytes(tmp_path, ask("why?") + b"\n" + line)
    asked, last = everything(path)
    assert isinstance(asked, Record)
    assert last == Waiting(2, None, str(path))
    assert str(last).startswith(f"{path} line 2: no newline and no whole JSON")


@pytest.mark.parametrize(
    "id_json",
    ["7", "-0", "1.0", "0.10", "1e-7", "9007199254740993", "18446744073709551617", "true", "null", '"7"',
     '"\\u00e9\\n"', '[1, 2.50 ,{"a" : -0.0}]', '{"n":9007199254740993,"id":0.10}', '{"a":[],"b":"\\""}', "[]"],
)  # fmt: skip
@pytest.mark.parametrize(
    "shape", ['{"id":%s,"prompt":"why?"}', '{"x":{"id":0},"a\\"id":"id", "prompt":"why?" ,\r "id" :\r\t %s }']
)
def test_an_id_comes_back_as_it_was(tmp_path: Path, shape: str, id_json: str) -> None:
    """Users join results to their data by id: a rounded, retyped or reprinted one joins to nothing."""
    record = one(tmp_path, (shape % id_json).encode())
    assert isinstance(record, Record)
    assert record.id_json.decode() == id_json
    assert record.input_json == (shape % id_json).encode()


def test_a_job_names_the_fields(tmp_path: Path) -> None:
    """Files that exist already call their parts as they like."""
    path = given_bytes(tmp_path, b'{"q":"why?","n":0.10,"prompt":"not this","id":"nor this"}')
    (record,) = read(path, Fields(prompt="q", id="n"))
    assert isinstance(record, Record)
    assert (record.prompt, record.id_json) == ("why?", b"0.10")
