"""What an input names: every file once, in a stable order, each line with its own place, and no file of the run's."""

from __future__ import annotations

import asyncio
import glob
import gzip
import itertools
import json
import os
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2a_batch import inputs, jobfile, source
from s2a_batch.errors import InputError, JobError
from s2a_batch.forms import Fields
from s2a_batch.inputs import inputnames
from s2a_batch.job import Job
from s2a_batch.keys import KeyIndex
from s2a_batch.records import BadLine, Known, Record, Waiting, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Found = list[Record | BadLine | Known | Waiting]


def ask(text: str) -> bytes:
    """One good line with its end."""
    return json.dumps({"prompt": text}).encode() + b"\n"


def tree(folder: Path, files: dict[str, bytes]) -> None:
    """Files in a folder, by their paths below it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(names: Sequence[str], found: Found | None = None, reached: list[int] | None = None) -> Found:
    """All that an input holds; with `found` what was read stays when reading fails."""
    found = [] if found is None else found

    async def all_of() -> None:
        note = (lambda _: None) if reached is None else reached.append
        with KeyIndex() as keys:
            async with aclosing(source.records(names, Fields(), keys, reached=note)) as records:
                async for record in records:
                    found.append(record)

    asyncio.run(all_of())
    return found


def places(found: Found) -> list[str]:
    """Where each record stands."""
    return [place_of(record.line, record.file) for record in found if not isinstance(record, Known)]


def files_of(*names: str) -> list[str | None]:
    """How results name an input's files."""
    return [part.file for part in asyncio.run(inputs.find(names)).parts]


def test_a_directory_is_all_its_json_lines_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Other programs drop files into it: half-copied ones hide or end in a name of their own, and are not ours yet."""
    names = ["b.jsonl", "a.jsonl.zst", "c.jsonl.gz", ".d.jsonl", "e.jsonl.tmp", "f.json", "g.jsonl~", "h.jsonl.part"]
    tree(tmp_path, dict.fromkeys(names, b""))
    (tmp_path / "sub.jsonl").mkdir()
    assert files_of(str(tmp_path)) == ["a.jsonl.zst", "b.jsonl", "c.jsonl.gz"]


def test_an_empty_directory_is_an_input_with_nothing_in_it_yet(tmp_path: Path) -> None:
    """A nightly job must not fail on the first night because nothing has come yet."""
    assert read([str(tmp_path)]) == []


def test_a_pattern_matches_in_the_order_of_the_names_and_through_folders(tmp_path: Path) -> None:
    """The order decides which of equal lines is the first: it must be the same every night and on every file system."""
    tree(tmp_path, {name: ask(name) for name in ("2/b.jsonl", "10/a.jsonl", "2/deep/c.jsonl", "2/.h/x.jsonl", "d.txt")})
    assert files_of(f"{tmp_path}/**/*.jsonl") == ["10/a.jsonl", "2/b.jsonl", "2/deep/c.jsonl"]
    assert files_of(f"{tmp_path}/[0-9]/*.jsonl") == ["2/b.jsonl"]


def test_a_name_that_is_missing_is_told_by_that_name(tmp_path: Path) -> None:
    """Of ten names in a list, the one that is mistyped; and a pattern is never taken for "nothing to do"."""
    tree(tmp_path, {"a.jsonl": ask("why?")})
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    for name, says in (
        ("none.jsonl", "none.jsonl: cannot read the input: No such file"),
        ("*.json", "no file matches"),
        ("", "gone.jsonl: cannot read the input: No such file"),
    ):
        with pytest.raises(JobError, match=says):
            read([str(tmp_path / "a.jsonl"), str(tmp_path / name)])


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    """`answers[1].jsonl` is what a browser calls the second download."""
    tree(tmp_path, {"in[1].jsonl": ask("the second"), "in1.jsonl": ask("another")})
    (record,) = read([str(tmp_path / "in[1].jsonl")])
    assert isinstance(record, Record)
    assert (record.prompt, record.file) == ("the second", None)


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    """Patterns overlap, and `latest.jsonl` is a link: each record must be paid for once."""
    tree(tmp_path, {"a.jsonl": ask("why?"), "b.jsonl": ask("who?")})
    (tmp_path / "latest.jsonl").symlink_to("b.jsonl")
    assert files_of(f"{tmp_path}/b.jsonl", f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl") == ["b.jsonl", "a.jsonl"]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """`in.jsonl:12` of two folders would lead to the wrong line half of the time."""
    tree(tmp_path, {"x/in.jsonl": ask("why?"), "y/in.jsonl": ask("who?")})
    names = [str(tmp_path / "x" / "in.jsonl"), str(tmp_path / "y" / "in.jsonl")]
    assert files_of(*names) == names
    assert places(read(names)) == [f"{name}:1" for name in names]


def test_each_line_has_the_number_that_it_has_in_its_own_file(tmp_path: Path) -> None:
    """The number leads a person to the line in an editor, whatever was read before."""
    tree(tmp_path, {"a.jsonl": ask("1") + b"\n" + ask("3"), "b.jsonl": b"\n" + ask("2"), "c.jsonl": b"no JSON\n"})
    assert places(read([str(tmp_path)])) == ["a.jsonl:1", "a.jsonl:3", "b.jsonl:2", "c.jsonl:1"]
    assert places(read([str(tmp_path / "a.jsonl")])) == ["1", "3"]


LINES = st.lists(st.sampled_from([ask("why?"), ask("who?"), ask("how?"), b"not JSON\n", b"\n"]), max_size=12)


@settings(max_examples=60)
@given(LINES, st.lists(st.integers(0, 12), max_size=4).map(sorted))
def test_how_lines_are_spread_over_files_changes_no_key(lines: list[bytes], cuts: list[int]) -> None:
    """A key is content and how many equal lines came before, over all files: a file that is split asks nothing anew."""
    ends = [0, *cuts, len(lines)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = folder / "one" / "a.jsonl"
        tree(folder, {"one/a.jsonl": b"".join(lines)})
        for n, (begin, end) in enumerate(itertools.pairwise(ends)):
            content = b"".join(lines[begin:end])
            packed = {0: content, 1: gzip.compress(content), 2: zstandard.compress(content)}[n % 3]
            tree(folder, {f"many/{n}.jsonl{('', '.gz', '.zst')[n % 3]}": packed})
        alone, spread = read([str(one)]), read([str(folder / "many")])
    assert _keys(spread) == _keys(alone)
    assert len(set(_keys(alone))) == len(_keys(alone))


def _keys(found: Found) -> list[str]:
    return [record.key for record in found if isinstance(record, Record | BadLine)]


def test_each_file_ends_its_last_line(tmp_path: Path) -> None:
    """Files that end without a newline must not run into the next one, and each half line waits by itself."""
    tree(tmp_path, {"a.jsonl": ask("1") + b'{"pro', "b.jsonl": ask("2").rstrip(), "c.jsonl": ask("3") + b'{"prompt":"'})
    found = read([str(tmp_path)])
    assert places(found) == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "c.jsonl:1", "c.jsonl:2"]
    assert [type(record) for record in found] == [Record, Waiting, Record, Record, Waiting]
    assert str(found[1]).startswith(f"{tmp_path}/a.jsonl line 2: no newline and no whole JSON")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("b.jsonl", ask("2").decode().encode("utf-16"), "UTF-16"),
        ("b.jsonl", b"[\n" + ask("2") + b"]\n", "a JSON array"),
        ("b.jsonl.gz", ask("2"), "no gzip data"),
        ("b.jsonl.gz", gzip.compress(ask("2") * 99, mtime=0)[:-9], "cut short"),
        ("b.jsonl.gz", b"", "cut short"),
        ("b.jsonl.zst", b"", "cut short"),
        ("b.jsonl.zst", zstandard.compress(ask("2")) + b"rubbish", "damaged zstd"),
    ],
)
def test_a_later_file_that_cannot_be_read_stops_there_and_is_named(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    """What came before was sent by then: the rest stays pending (exit 3), and the file to mend is named."""
    tree(tmp_path, {"a.jsonl": ask("1"), name: content, "c.jsonl": ask("3")})
    found: Found = []
    with pytest.raises(InputError, match=f"{tmp_path}/{name}: .*{says}"):
        read([str(tmp_path)], found)
    assert places(found)[0] == "a.jsonl:1"
    assert "c.jsonl:1" not in places(found)


def test_progress_goes_from_nothing_to_the_size_of_all_files(tmp_path: Path) -> None:
    """What is left is told by the bytes that are left: it must end at none, packed or not, and never go back."""
    tree(tmp_path, {"a.jsonl": ask("1") * 9, "b.jsonl.gz": gzip.compress(ask("2") * 9), "c.jsonl": ask("3").rstrip()})
    tree(tmp_path, {"d.jsonl.zst": zstandard.compress(ask("4") * 9)})
    reached: list[int] = []
    read([str(tmp_path)], reached=reached)
    size = asyncio.run(inputs.find([str(tmp_path)])).size_bytes
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert reached == sorted(reached)
    assert reached[-1] == size


def test_progress_counts_a_file_that_is_taken_away_as_read(tmp_path: Path) -> None:
    """What is left is told by the bytes that are left: nobody waits for those of a file that is gone."""
    tree(tmp_path, {name: ask(name) for name in ("a.jsonl", "b.jsonl", "c.jsonl")})

    async def all_of() -> None:
        found = await inputs.find([str(tmp_path)])
        (tmp_path / "a.jsonl").unlink()
        (tmp_path / "c.jsonl").unlink()
        with KeyIndex() as keys:
            reading = source.records(found, Fields(), keys, reached=reached.append, gone=gone.append)
            async with aclosing(reading) as records:
                assert [record.prompt async for record in records if isinstance(record, Record)] == ["b.jsonl"]
        assert (reached[-1], reached) == (found.size_bytes, sorted(reached))

    reached, gone = list[int](), list[str]()
    asyncio.run(all_of())
    assert gone == [f"{tmp_path}/a.jsonl", f"{tmp_path}/c.jsonl"]


PARTS = st.lists(st.sampled_from(["a", "b", "ab", "*", "?", "**", "[ab]", "[!a]", "a*", "*b"]), min_size=1, max_size=4)
PATHS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3)


@settings(max_examples=300)
@example(["**", "a*"], ["a", "b", "ab"])
@given(PARTS, PATHS)
def test_what_a_pattern_would_match_is_known_before_it_is_there(parts: list[str], path: list[str]) -> None:
    """A run is refused on its first night, and not on the second, when its input would take in its own results."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve().joinpath(*path)
        pattern = "/".join([name, *parts])
        told = inputnames.reading([pattern], [place]) == pattern
        tree(Path(name), {"/".join(path): b""})
        matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  what is promised is what this does
        assert told == (str(place) in {os.path.realpath(match) for match in matches if match[-1:] != "/"})


def test_a_name_that_is_no_utf_8_shows_as_text(tmp_path: Path) -> None:
    """One such name in a directory must not end the run when its first result is written."""
    (tmp_path / os.fsdecode(b"na\xefve.jsonl")).write_bytes(ask("why?"))
    assert files_of(str(tmp_path)) == ["na\\xefve.jsonl"]


@pytest.mark.parametrize("given", ['"x/*.jsonl"', '["a.jsonl", "x", "s3://bucket/day/", "/abs/b.jsonl"]', '"-"'])
def test_the_names_of_a_job_file_are_relative_to_it(tmp_path: Path, given: str) -> None:
    """Cron runs a job from anywhere; what is no path stays as it is."""
    (tmp_path / "job.toml").write_text(f'input = {given}\noutput = "out"\nmodel = "m"\n')
    own = {"x/*.jsonl": f"{tmp_path}/x/*.jsonl", "a.jsonl": f"{tmp_path}/a.jsonl", "x": f"{tmp_path}/x"}
    found = json.loads(given) if given.startswith("[") else [json.loads(given)]
    job = jobfile.load(tmp_path / "job.toml")
    assert job.input == tuple(own.get(name, name) for name in found)
    effective = job.effective()["input"]
    assert effective == (list(job.input) if len(job.input) > 1 else job.input[0])
    assert Job.model_validate({"input": effective, "output": "o", "model": "m"}).input == job.input


@pytest.mark.parametrize("given", ["[]", '""', '["a.jsonl", 3]', "7", '["a.jsonl", "-"]', "{}"])
def test_an_input_that_names_nothing_usable_is_refused_by_key(tmp_path: Path, given: str) -> None:
    """A wrong input must be told at once and by its key, not as a traceback at night."""
    (tmp_path / "job.toml").write_text(f'input = {given}\noutput = "out"\nmodel = "m"\n')
    with pytest.raises(JobError, match=r"job\.toml:1: input: (expected a path, or a list of paths|standard input)"):
        jobfile.load(tmp_path / "job.toml")


def test_what_is_secret_in_a_url_is_in_no_file_of_the_run() -> None:
    """A signed address is a key: whoever reads run.json must not be able to use it."""
    url = "https://user:hush@example.com/x.jsonl.gz?X-Amz-Signature=hush#hush"
    job = Job.model_validate({"input": [url, "s3://bucket/what?.jsonl"], "output": "o", "model": "m"})
    assert job.input[0] == url
    assert job.effective()["input"] == ["https://example.com/x.jsonl.gz", "s3://bucket/what?.jsonl"]
    assert "hush" not in inputnames.told(job.input)
