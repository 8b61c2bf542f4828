"""The index of a run: it says what the files say, whenever they change, and lets nothing be doubled or lost."""

from __future__ import annotations

import json
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch import viewindex
from s2a_batch.viewquery import SORTS, Filters, Place, count, facets, line_at, page
from tests.rundata import append, bad_line, encoded, failed, result, run_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import JsonValue

ALL = Filters()


class Index:
    """A run's directory and its index, brought up to the files by hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.db = viewindex.open_index(directory / viewindex.NAME)
        self.indexer = viewindex.Indexer(self.db, directory, "prompt")

    def update(self, step: int = 3) -> Index:
        """Read all there is, a few lines a step."""
        while self.indexer.step(step):
            pass
        return self

    def lines(self, filters: Filters = ALL, place: Place | None = None) -> list[int]:
        """Line numbers of the records that pass."""
        return [int(str(row["line"])) for row in page(self.db, filters, place or Place(), 1000)]

    def counts(self, facet: str) -> dict[str, int]:
        """How many records have each value."""
        return {row["name"]: row["count"] for row in facets(self.db).get(facet, []) if isinstance(row, dict)}  # type: ignore[misc]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(run_directory(tmp_path / "out"))
    yield found
    found.db.close()


def test_lines_of_every_status_are_found(index: Index) -> None:
    """A dead letter without an input, an arm without a rewrite, an unknown usage: the odd ones are looked for most."""
    baseline = result(4, rewrite=None, stages={"rewrite": None, "answer": None}, checks=[])
    waiting = result(5, status="rewritten", answer=None)
    append(index.directory, result(1), failed(2), bad_line(3), baseline, waiting)
    assert sorted(index.update().lines()) == [1, 2, 3, 4, 5]
    assert index.counts("status") == {"answered": 2, "failed": 2, "rewritten": 1}
    assert index.counts("kind") == {"timeout": 1, "bad_json": 1}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(status="failed"), [2, 3]),
        (Filters(kind="refusal"), [3]),
        (Filters(check="question_lost"), [4]),
        (Filters(level="error"), [4]),
        (Filters(check="numbers_dropped", level="error"), []),
        (Filters(policy="original"), [4]),
        (Filters(version="job"), [5]),
        (Filters(status="answered", check="numbers_dropped"), [1, 5]),
        (Filters(status="failed", kind="unheard of"), []),
        (Filters(query="line:2"), [2]),
        (Filters(query="row-4"), [4]),
        (Filters(query="17"), [5]),
        (Filters(query="tortoises SLOW"), [1]),
        (Filters(query="tort"), [1]),
        (Filters(query="refused"), [3]),
        (Filters(query='"17"'), [5]),
        (Filters(query="!!"), []),
        (Filters(query="亀"), [1]),
        (Filters(query='" OR 1=1 --'), []),
        (Filters(query="nowhere"), []),
        (Filters(query="cats", status="failed"), [2, 3]),
    ],
)
def test_a_filter_leaves_what_it_says(index: Index, filters: Filters, expected: list[int]) -> None:
    """An auditor who filters for failed checks must see all of them and nothing else."""
    lost = {"name": "question_lost", "level": "error", "message": "", "words": []}
    job = {"rewrite": result(1)["stages"]["rewrite"] | {"prompt_version": "job"}, "answer": None}
    refusal = {"kind": "refusal", "message": "the model refused", "stage": "rewrite", "line": 3}
    append(
        index.directory,
        result(1, prompt="Are tortoises slow? 遅い亀"),
        failed(2),
        failed(3, error=refusal),
        result(4, checks=[lost], policy="original"),
        result(5, id=17, stages=job),
    )
    assert index.update().lines(filters) == expected
    assert count(index.db, filters) == len(expected)


def test_a_record_is_found_by_its_key_or_the_beginning_of_it(index: Index) -> None:
    """Logs and mails name records by key."""
    first, twin = result(1), result(2)
    twin["key"] = first["key"] + "-1"
    append(index.directory, first, twin, result(3))
    index.update()
    assert index.lines(Filters(query=first["key"])) == [1, 2]
    assert index.lines(Filters(query=twin["key"])) == [2]
    assert index.lines(Filters(query=first["key"][:9])) == [1, 2]


@settings(max_examples=25, deadline=None)
@given(
    seconds=st.lists(st.integers(0, 3), min_size=1, max_size=25),
    sort=st.sampled_from(SORTS),
    down=st.booleans(),
    most=st.integers(1, 7),
)
def test_pages_forth_and_back_hold_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], sort: str, down: bool, most: int
) -> None:
    """Equal values are many; a record that falls between two pages is never looked at."""
    directory = run_directory(tmp_path_factory.mktemp("run") / "out")
    append(directory, *(result(n, seconds=float(s)) for n, s in enumerate(seconds, 1)))
    index = Index(directory).update()
    for backward in (False, True):
        rows: list[dict[str, JsonValue]] = []
        at = Place(sort, down, backward=backward)  # type: ignore[arg-type]
        while found := page(index.db, ALL, at, most):
            rows = found + rows if backward else rows + found
            edge = found[0] if backward else found[-1]
            at = Place(sort, down, float(str(edge[sort])), int(str(edge["id"])), backward)  # type: ignore[arg-type]
        assert sorted(int(str(row["line"])) for row in rows) == list(range(1, len(seconds) + 1))
        values = [float(str(row[sort])) for row in rows]
        assert values == sorted(values, reverse=down)
    index.db.close()


def test_it_follows_a_run_and_reads_no_line_twice(index: Index) -> None:
    """The page is open while the run goes on; half a line is not there yet."""
    append(index.directory, result(1))
    assert index.update().lines() == [1]
    half = encoded(result(2))
    append(index.directory, half[:50])
    assert index.update().lines() == [1]
    append(index.directory, half[50:], result(3))
    assert index.update().lines() == [1, 2, 3]
    assert index.counts("status") == {"answered": 3}


def test_a_waiting_rewrite_goes_when_its_record_is_answered(index: Index) -> None:
    """Counted twice, a run of a thousand would show two thousand."""
    append(index.directory, *(result(n, status="rewritten", answer=None) for n in (1, 2, 3)), result(2))
    assert sorted(index.update().lines()) == [1, 2, 3]
    assert index.counts("status") == {"answered": 1, "rewritten": 2}
    append(index.directory, result(3), failed(1))
    assert sorted(index.update().lines()) == [1, 2, 3]
    assert index.counts("status") == {"answered": 2, "failed": 1}
    assert index.counts("check") == {"numbers_dropped": 3}
    assert len(index.lines(Filters(status="rewritten"))) == 0


@pytest.mark.parametrize("how", ["retried", "anew", "shorter"])
def test_files_that_were_replaced_are_read_anew(index: Index, how: str) -> None:
    """`--retry-failed` and `--fresh` take files away; rows of lines that are gone would point at others."""
    append(index.directory, result(1), result(2), failed(3))
    index.update()
    dead, results = index.directory / "dead_letters.jsonl", index.directory / "results.jsonl"
    if how == "retried":
        dead.rename(index.directory / "dead_letters.1.jsonl")
        append(index.directory, result(3))
    elif how == "anew":
        results.unlink()
        dead.unlink()
        append(index.directory, *(result(n) for n in (7, 8, 9, 10)))
    else:
        results.write_bytes(encoded(result(2)))
    expected = {"retried": [1, 2, 3], "anew": [7, 8, 9, 10], "shorter": [2, 3]}[how]
    assert sorted(index.update().lines()) == expected
    assert sum(index.counts("status").values()) == len(expected)


def test_a_row_leads_to_its_line(index: Index) -> None:
    """The record that is shown must be the one that was chosen."""
    append(index.directory, *(result(n) for n in range(1, 8)), failed(8))
    for row in page(index.update().db, ALL, Place(), 100):
        place = line_at(index.db, int(str(row["id"])))
        assert place is not None
        file, at, size = place
        content = (index.directory / ("results.jsonl", "dead_letters.jsonl")[file]).read_bytes()
        assert json.loads(content[at : at + size])["line"] == row["line"]
    assert line_at(index.db, 99) is None


def test_damaged_lines_are_counted_and_pass_by(index: Index) -> None:
    """Zeros of a power cut must not hide the records behind them."""
    not_json = encoded(result(3)).replace(b"3.0", b"NaN")
    append(index.directory, result(1), b"\0" * 30 + b"\n", b'{"schema":1,"key":"x"}\n', b"[]\n", not_json, result(2))
    assert index.update().lines() == [1, 2]
    assert index.counts("damaged") == {"line": 4}


def test_two_viewers_share_one_index(index: Index) -> None:
    """Two terminals, one directory: each line is in it once."""
    other = Index(index.directory)
    append(index.directory, *(result(n) for n in range(1, 30)))
    while index.indexer.step(2) + other.indexer.step(3):
        pass
    assert index.lines() == other.lines() == list(range(1, 30))
    other.db.close()


def test_two_viewers_at_once_do_not_get_in_each_others_way(index: Index) -> None:
    """Both write; the one that comes second waits, and goes on behind what the first has read."""
    append(index.directory, *(result(n) for n in range(1, 400)))
    others = [Index(index.directory) for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda other: other.update(step=5), others))
    assert index.lines() == list(range(1, 400))
    for other in others:
        other.db.close()


@pytest.mark.parametrize("damage", ["zeros", "other version", "empty"])
def test_an_index_that_cannot_be_used_is_made_anew(index: Index, damage: str) -> None:
    """It holds nothing that the files do not."""
    append(index.directory, result(1))
    index.update().db.close()
    path = index.directory / viewindex.NAME
    if damage == "other version":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        path.write_bytes(b"\0" * 5000 if damage == "zeros" else b"")
    again = Index(index.directory)
    assert again.update().lines() == [1]
    again.db.close()


def test_the_index_is_its_owners_alone(index: Index) -> None:
    """It holds the beginnings of prompts and answers."""
    append(index.directory, result(1))
    index.update()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in index.directory.glob(f"{viewindex.NAME}*")]
    assert modes
    assert set(modes) == {0o600}


def test_ids_come_back_digit_for_digit(index: Index) -> None:
    """A browser's numbers end at 2**53; an id that is shown wrong is not found again."""
    ids = [9007199254740993, None, "1", 1, {"a": [1, ',"status":']}, "é\u202e"]
    append(index.directory, *(result(n, id=given) for n, given in enumerate(ids, 1)))
    append(index.directory, encoded(result(7)).replace(b'"row-7"', b"1e400", 1))
    shown = [row["ident"] for row in page(index.update().db, ALL, Place(), 100)]
    assert shown[:2] == ["9007199254740993", "null"]
    assert [json.loads(str(text)) for text in shown[:6]] == ids
    assert shown[6] == "1e400"
    assert index.lines(Filters(query="9007199254740993")) == [1]
