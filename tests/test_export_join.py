"""Results come beside the lines they belong to, in the input's order, whatever the order they were written in."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch import inputs, source
from s2a_batch.export.joined import Joined, Row
from s2a_batch.forms import Fields
from s2a_batch.keys import KeyIndex, key_text, line_hash
from s2a_batch.records import BadLine, Record
from tests.exported import directory, failed, result

if TYPE_CHECKING:
    from s2a_batch.records import Status

BLANK = [b"", b"  ", b"\t\r"]
TEXTS = [
    b'{"id":1,"prompt":"a"}',
    b' {"id":1,"prompt":"a"}\r',
    b'\xef\xbb\xbf{"id":1,"prompt":"a"}',
    b'{"id":"1","prompt":"\xc3\xa9","n":0.10}',
    b'{"prompt":7}',
    b"{broken",
    b"[1]",
    b'{"prompt":"\xff"}',
]
GONE = b'{"id":9,"prompt":"gone"}'


def trimmed(line: bytes) -> bytes:
    """A line as its key sees it."""
    return line.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r")


def keys_of(lines: list[bytes]) -> list[tuple[int, bytes, int]]:
    """Line number, trimmed text and occurrence of every line that counts, by the plainest way there is."""
    met: dict[bytes, int] = {}
    found = []
    for number, line in enumerate(lines, 1):
        text = trimmed(line)
        if text:
            found.append((number, text, met.get(text, 0)))
            met[text] = met.get(text, 0) + 1
    return found


def rows_of(out: Path, *, only_rewrite: bool = False, most: int = source.MAX_LINE_BYTES) -> tuple[list[Row], Joined]:
    """All rows, and the join that they came from."""

    async def collect() -> tuple[list[Row], Joined]:
        with Joined(out, only_rewrite=only_rewrite, id_field="id") as joined:
            async with aclosing(joined.rows(await inputs.find(out.parent / "in.jsonl"), max_line_bytes=most)) as rows:
                return [row async for row in rows], joined

    return asyncio.run(collect())


def damaged(line: bytes) -> bytes:
    """A result that looks whole at both ends and is not."""
    return line[:-2] + b",}\n"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_each_line_comes_once_in_order_with_its_own_first_whole_result(data: st.DataObject) -> None:
    """An answer beside another's line is worse than none: no tool behind can notice."""
    lines = data.draw(st.lists(st.sampled_from([*TEXTS, *BLANK]), max_size=14))
    places = keys_of(lines)
    written: list[tuple[Status, bytes]] = []
    for at, (number, text, occurrence) in enumerate(places):
        for turn, fate in enumerate(data.draw(st.lists(st.sampled_from(["answered", "failed", "spoilt"]), max_size=2))):
            # The line numbers of then are others: lines were moved since.
            seconds = at * 10 + turn
            make = failed if fate == "failed" else result
            line = make(text, number + 5, occurrence=occurrence, seconds=seconds)
            written.append(("failed", line) if fate == "failed" else ("answered", line))
            if fate == "spoilt":
                written[-1] = ("answered", damaged(line))
    written += [("answered", result(GONE)), ("failed", failed(GONE, occurrence=1))]
    written += [("answered", junk) for junk in data.draw(st.lists(st.sampled_from([b"\0\0\n", b"{}\n", b"half\n"])))]
    written = list(data.draw(st.permutations(written)))
    expected: list[tuple[int, str, object]] = []
    for number, text, occurrence in places:
        key = key_text(line_hash(text), occurrence)
        order: tuple[Status, Status] = ("answered", "failed")
        mine = [(s, line) for status in order for s, line in written if s == status and f'"{key}"'.encode() in line]
        whole = [(s, json.loads(line)) for s, line in mine if not line.endswith(b",}\n")]
        expected.append((number, whole[0][0], whole[0][1]["seconds"]) if whole else (number, "pending", None))
    with tempfile.TemporaryDirectory() as folder:
        out = directory(Path(folder), lines, written)
        with (out / "results.jsonl").open("ab") as file:
            file.write(result(GONE)[:50])
        rows, joined = rows_of(out)
    objects = [json.loads(row.line) for row in rows]
    assert [(row.number, row.status, found["seconds"]) for row, found in zip(rows, objects, strict=True)] == expected
    assert [found["line"] for found in objects] == [number for number, _, _ in places]
    assert [found["key"] for found in objects] == [key_text(line_hash(text), n) for _, text, n in places]
    assert joined.matched == sum(status != "pending" for _, status, _ in expected)
    assert joined.results - joined.matched - joined.damaged == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([*TEXTS, *BLANK]), st.binary(max_size=9))))
def test_lines_have_the_numbers_and_keys_that_a_run_gives_them(lines: list[bytes]) -> None:
    """A run and its export read the same file by two ways; where they disagree, results are lost or misplaced."""

    async def asked(path: Path) -> list[tuple[int, str]]:
        with KeyIndex() as keys:
            async with aclosing(source.records(path, Fields(), keys)) as records:
                return [(r.line, r.key) async for r in records if isinstance(r, Record | BadLine)]

    with tempfile.TemporaryDirectory() as folder:
        # The first line is sound, as a run refuses a file that begins as another format.
        out = directory(Path(folder), [TEXTS[0], *lines], [])
        rows, _ = rows_of(out)
        assert [(row.number, json.loads(row.line)["key"]) for row in rows] == asyncio.run(
            asked(out.parent / "in.jsonl")
        )


def test_a_line_over_the_limit_is_found_by_its_head(tmp_path: Path) -> None:
    """Its key is that of its first bytes; a dead letter of it must not seem to be missing."""
    long = b'{"prompt":"' + b"x" * 9_000 + b'"}'
    out = directory(tmp_path, [TEXTS[0], long], [("failed", failed(long[:4000], 2))])
    rows, _ = rows_of(out, most=8_000)
    assert [(row.number, row.status) for row in rows] == [(1, "pending"), (2, "failed")]


def test_pending_lines_have_the_fields_of_results(tmp_path: Path) -> None:
    """Whoever reads the rows by name must find every name in each of them, and the input as it stands."""
    out = directory(tmp_path, TEXTS[3:7], [("answered", result(b"{broken"))])
    rows, _ = rows_of(out)
    objects = [json.loads(row.line) for row in rows]
    assert [row.status for row in rows] == ["pending", "pending", "answered", "pending"]
    assert {*objects[0]} == {*objects[2]} - {"raw"}
    assert (objects[0]["id"], objects[0]["input"]) == ("1", json.loads(TEXTS[3]))
    assert b'"n":0.10}}' in rows[0].line
    assert (objects[3]["id"], objects[3]["input"], objects[3]["raw"]) == (None, None, "[1]")


def test_a_rewrite_is_the_result_of_a_run_that_stops_there_and_of_no_other(tmp_path: Path) -> None:
    """In other runs it is half of the work: a record with a rewrite alone still waits for its answer."""
    out = directory(tmp_path, [TEXTS[0]], [("rewritten", result(TEXTS[0], status="rewritten", answer=None))])
    assert [row.status for row in rows_of(out)[0]] == ["pending"]
    assert [row.status for row in rows_of(out, only_rewrite=True)[0]] == ["rewritten"]


@pytest.mark.parametrize("size", [10, 1 << 16, 300_000])
def test_results_of_any_length_are_read_whole(tmp_path: Path, size: int) -> None:
    """Blocks are of one size and lines of all: one that ends on, before or after a block's edge is still one line."""
    texts = [b'{"prompt":"%d"}' % n for n in range(9)]
    found = [result(text, answer={"answer": "x" * (size - n)}) for n, text in enumerate(texts)]
    out = directory(tmp_path, texts, [("answered", line) for line in reversed(found)])
    rows, _ = rows_of(out)
    assert [len(json.loads(row.line)["answer"]["answer"]) for row in rows] == [size - n for n in range(9)]


class _Overtaken(Joined):
    """Between its first and its second look at the results, a run begins anew in the same directory."""

    def done(self) -> dict[Status, int]:
        results = self._directory / "results.jsonl"
        results.rename(results.with_name("aside"))
        results.write_bytes(result(GONE))
        return super().done()


def test_a_directory_that_is_set_aside_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    """A run may begin anew beside the export; half of the old results would look like a whole export."""
    texts = [b'{"prompt":"%d"}' % n for n in range(5)]
    out = directory(tmp_path, texts, [("answered", result(text)) for text in texts])

    async def collect() -> list[str]:
        with _Overtaken(out, only_rewrite=False, id_field="id") as joined:
            async with aclosing(joined.rows(await inputs.find(tmp_path / "in.jsonl"))) as rows:
                return [row.status async for row in rows]

    assert asyncio.run(collect()) == ["answered"] * 5


def test_memory_does_not_follow_the_number_of_rows(tmp_path: Path) -> None:
    """An export of a hundred million rows must run where one of a thousand does."""
    program = """
import sys
from s2a_batch.cli import main
try:
    main()
finally:
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(f"peak {peak}", file=sys.stderr)
"""
    pattern = result(b'{"prompt":"1"}', seconds=7.0).replace(line_hash(b'{"prompt":"1"}').hex().encode(), b"%b")
    pattern = pattern.replace(b'"line":1,', b'"line":%d,').replace(b'"1"', b'"%d"')
    peaks = []
    for number in (20_000, 200_000):
        folder = tmp_path / str(number)
        folder.mkdir()
        out = directory(folder, (b'{"prompt":"%d"}' % n for n in range(number)), [])
        with (out / "results.jsonl").open("wb") as file:
            for n in sorted(range(number), key=lambda n: n ^ 63):  # completion order: near the input's
                file.write(pattern % (line_hash(b'{"prompt":"%d"}' % n).hex().encode(), n + 1, n))
        done = subprocess.run(
            [sys.executable, "-c", program, "export", out, "-o", folder / "all.jsonl"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{number} rows of {number} input lines" in done.stderr
        with (folder / "all.jsonl").open() as file:
            assert all(line.endswith(f'{{"prompt":"{n}"}}}}\n') for n, line in enumerate(file))
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 16 * 1024
