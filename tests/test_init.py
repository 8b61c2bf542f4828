"""The job file to start from: it runs as it is, and none of its comments is a lie."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from s2a_batch import jobfile
from s2a_batch.errors import JobError, OutputError
from s2a_batch.jobfile.template import template, write
from tests.processes import run

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue


TEXT = template("job.toml", {"model": "m"})
COMMENTED = [(number, row) for number, row in enumerate(TEXT.splitlines()) if re.match(r"# [a-z_]+ = ", row)]


def loaded(folder: Path, rows: list[str]) -> dict[str, JsonValue]:
    """All settings of the job of these lines."""
    path = folder / "job.toml"
    path.write_text("\n".join(rows))
    return jobfile.load(path).model_dump(mode="json")


def test_the_file_is_short_enough_to_be_read() -> None:
    """What nobody reads explains nothing."""
    assert 60 <= len(TEXT.splitlines()) <= 90
    assert max(map(len, TEXT.splitlines())) <= 120


def test_the_file_changes_nothing_before_it_is_edited(tmp_path: Path) -> None:
    """It says the defaults and sets none of them: a later version's defaults count."""
    assert loaded(tmp_path, TEXT.splitlines()) == loaded(
        tmp_path, ['input = "input.jsonl"', 'output = "out"', 'model = "m"']
    )


@pytest.mark.parametrize(("number", "row"), COMMENTED, ids=lambda part: str(part)[:30])
def test_each_key_can_be_taken_up_by_removing_one_sign(tmp_path: Path, number: int, row: str) -> None:
    """A default is said as it is, and an example is one that loads."""
    (tmp_path / "base.toml").write_text("")
    rows = TEXT.splitlines()
    before = loaded(tmp_path, rows)
    rows[number] = row.removeprefix("# ")
    after = loaded(tmp_path, rows)
    is_example = "# e.g. " in row
    assert (after != before) is (is_example and "extends" not in row)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_is_there_is_replaced_by_force_alone(tmp_path: Path, force: bool) -> None:
    """Half a day of settings must not go for a command that was given twice."""
    path = tmp_path / "job.toml"
    path.write_text("mine")
    if force:
        write(path, {}, force=True)
    else:
        with pytest.raises(JobError, match=r"job\.toml: exists already; --force replaces it"):
            write(path, {}, force=False)
    assert (path.read_text() == "mine") is not force


@pytest.mark.parametrize(
    "given",
    [
        {"model": 'a "b" \\ \x7f é\u2028', "base_url": "http://127.0.0.1:1/v1"},
        {"input": "a b.jsonl", "output": "o'\"#", "schedule.cron": "*/5 * * * *"},
    ],
)
def test_what_is_given_stands_in_the_file(tmp_path: Path, given: dict[str, JsonValue]) -> None:
    """A name of a model or a path may hold any sign."""
    path = tmp_path / "job.toml"
    write(path, given, force=False)
    made = jobfile.load(path).model_dump(mode="json")
    for key, value in given.items():
        table, _, name = key.rpartition(".")
        found = (made[table] if table else made)[name]
        if key in ("input", "output"):
            assert (tmp_path / str(value)).name == found.rpartition("/")[2]
        else:
            assert found == value


def test_paths_are_as_seen_from_where_the_command_runs(tmp_path: Path) -> None:
    """The file lies in jobs/, the person stands beside it."""
    work = tmp_path / "work"
    (work / "jobs").mkdir(parents=True)
    (work / "rows.jsonl").write_text('{"prompt": "Is it so?"}\n')
    command = ["init", "jobs/night.toml", "--input", "rows.jsonl", "-o", "out", "--model", "m.gguf"]
    assert run(work, *command).status == 0
    made = jobfile.load(work / "jobs" / "night.toml")
    assert (made.input, made.output, made.model) == ((str(work / "rows.jsonl"),), work / "out", str(work / "m.gguf"))


def test_the_written_file_passes_its_check(tmp_path: Path) -> None:
    """The next command that the file itself names."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "rows.jsonl").write_text('{"id": 1, "prompt": "Is it so?"}\n')
    made = run(work, "init", "--input", "rows.jsonl", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    assert (made.status, made.out, made.err) == (0, "", "")
    checked = run(work, "check", "job.toml", "--json")
    assert checked.status == 0, checked.out + checked.err
    assert [row["about"] for row in json.loads(checked.out)["findings"] if row["level"] == "error"] == []


def test_a_name_that_no_file_can_hold_leaves_no_file(tmp_path: Path) -> None:
    """Half a file would be in the way of the next try."""
    path = tmp_path / "job.toml"
    with pytest.raises(JobError, match="no UTF-8"):
        write(path, {"model": "\udcff"}, force=False)
    assert not path.exists()
    with pytest.raises(OutputError, match=r"job\.toml: cannot be written: No such file"):
        write(tmp_path / "no" / "job.toml", {}, force=False)


@pytest.mark.parametrize("source", ["-", "s3://b/x.jsonl", "https://h/x.jsonl?k=v", "/abs/drop/"])
def test_an_input_that_is_no_place_beside_the_file_stays_as_it_is(tmp_path: Path, source: str) -> None:
    """Standard input and an object in a store are the same from every folder."""
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "j.toml", {"input": source}, force=False)
    assert tomllib.loads((tmp_path / "sub" / "j.toml").read_text())["input"] == source


def test_a_directory_keeps_the_slash_that_says_so(tmp_path: Path) -> None:
    """It may not be there yet; whoever reads the file sees that it is none of a single file."""
    (tmp_path / "sub").mkdir()
    assert run(tmp_path, "init", "sub/j.toml", "--input", "drop/").status == 0
    assert tomllib.loads((tmp_path / "sub" / "j.toml").read_text())["input"] == "../drop/"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--schedule", "garbage", "--schedule: schedule.cron: "),
        ("--base-url", "ftp://h", "--base-url: base_url: "),
        ("--input", "", "--input: input: expected a path"),
        ("-o", "", "-o: output: expected a path, found an empty text"),
        ("-o", "out-{day}-{date-1}", "-o: {date-1} stands for nothing"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_what_makes_no_job_is_refused_and_nothing_is_written(
    tmp_path: Path, option: str, value: str, told: str, force: bool
) -> None:
    """A typo of an option is corrected at once, not when the schedule leaves the job out."""
    path = tmp_path / "job.toml"
    if force:
        path.write_text("mine")
    done = run(tmp_path, "init", option, value, "--model", "m", *(["--force"] if force else []))
    assert done.status == 2
    assert told in done.err
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([("job.toml", "mine")] if force else [])


def test_a_file_that_cannot_be_replaced_stays_as_it_is(tmp_path: Path) -> None:
    """A full disk must not take the settings that were there with it."""
    path = tmp_path / "job.toml"
    path.write_text("mine")
    code = (
        "import resource, sys, pathlib; from s2a_batch.errors import OutputError\n"
        "from s2a_batch.jobfile.template import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n"
        "try:\n    write(pathlib.Path(sys.argv[1]), {}, force=True)\n"
        "except OutputError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert said.stdout == f"{path}: cannot be written: File too large\n"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("job.toml", "mine")]


def test_a_replaced_file_keeps_its_rights_and_its_link(tmp_path: Path) -> None:
    """The team that could read the old one can read the new one, and whatever points to it still does."""
    path, link = tmp_path / "job.toml", tmp_path / "link.toml"
    path.write_text("mine")
    path.chmod(0o640)
    link.symlink_to(path)
    write(link, {}, force=True)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert "s2a-batch run" in path.read_text()


@pytest.mark.parametrize("place", ["no/job.toml", "/dev/full"])
def test_a_place_that_takes_no_file_is_exit_3(tmp_path: Path, place: str) -> None:
    """As of all commands: a script tells a wrong option from a full disk."""
    done = run(tmp_path, "init", place, "--force")
    assert (done.status, "cannot be written: " in done.err) == (3, True)
