"""The command: what a run answered comes out in the input's order, as a whole file or not at all."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from s2a_batch.rundir import LINE_FILES, MANIFEST
from tests.exported import directory, result
from tests.processes import ROOT, RUN, Done, read_lines, run, start, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 30
REFUSED: Plan = {
    "rules": [
        {
            "when": {"stage": "answer", "contains": "[[r-3]]"},
            "replies": [{"status": 400, "error": {"message": "no"}}],
        }
    ],
    "latency_s": [0.0, 0.02],
}


def answered(folder: Path, up: Upstream, *more: str, status: int = 1) -> None:
    """A run of the input against a server whose answers overtake each other."""
    done = run(folder, *RUN, "--base-url", up.base_url, *more)
    assert done.status == status, done.err


def exported(folder: Path, *argv: str | Path, status: int = 0) -> Done:
    """`s2a-batch export out ARGV`, without a traceback whatever happens."""
    done = run(folder, "export", "out", *argv)
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    return done


def leftovers(folder: Path) -> list[str]:
    """Half-written files."""
    return [path.name for path in folder.rglob("*.part")]


@pytest.fixture
def plain(folder: Path) -> Path:
    """A working directory with a run made by hand: every line answered, the last first."""
    lines = (folder / "in.jsonl").read_bytes().splitlines()
    directory(folder, lines, [("answered", result(line)) for line in reversed(lines)])
    return folder


def test_a_real_run_comes_out_in_the_order_of_its_input_in_every_form(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Results are written as they are finished; whoever pastes them beside the input needs the input's order."""
    twice = '{"id":"twice","prompt":"[[t]]?"}\n'
    with (folder / "in.jsonl").open("a") as file:
        file.write(f"{twice}\n{twice}{{bad\n")
    answered(folder, upstream(REFUSED))
    ids = [*range(RECORDS), "twice", "twice", None]
    numbers = [*range(1, RECORDS + 2), RECORDS + 3, RECORDS + 4]
    told = exported(folder, "-o", "x.jsonl")
    assert told.err == "x.jsonl: 33 rows of 33 input lines, in the input's order\n"
    lines = read_lines(folder / "x.jsonl")
    assert [line["line"] for line in read_lines(folder / "out/results.jsonl")] != sorted(numbers), "a test of no order"
    assert [(line["id"], line["line"]) for line in lines] == list(zip(ids, numbers, strict=True))
    assert [line["status"] for line in lines].count("failed") == 2
    exported(folder, "-o", "x.csv")
    with (folder / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["" if n is None else str(n) for n in ids]
    assert (rows[3]["error.kind"], rows[32]["error.kind"]) == ("bad_request", "bad_json")
    assert "[[r-4]]" in rows[4]["answer.answer"]
    exported(folder, "-o", "x.parquet")
    assert pq.read_table(folder / "x.parquet")["line"].to_pylist() == numbers
    told = exported(folder, "-o", "-", "--format", "chat", "--max-level", "error", "--any-policy")
    chats = [json.loads(line)["messages"] for line in told.out.splitlines()]
    assert "left out: 2 failed" in told.err
    assert [chat[0]["content"].partition("]]")[0] for chat in chats][:4] == [f"Is [[r-{n}" for n in (0, 1, 2, 4)]


def test_lines_that_moved_have_their_new_numbers_and_what_is_gone_is_told(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Between runs inputs are edited; a result of a removed line in the export would be one row too many."""
    answered(folder, upstream(REFUSED))
    lines = (folder / "in.jsonl").read_text().splitlines()
    (folder / "moved.jsonl").write_text("\n".join(['{"prompt":"new"}', *reversed(lines[:5])]) + "\n")
    told = exported(folder, "moved.jsonl", "-o", "-", "--fields", "line,id,status", "--status", "answered")
    assert [json.loads(line) for line in told.out.splitlines()] == [
        {"line": n, "id": i, "status": "answered"} for n, i in ((2, 4), (4, 2), (5, 1), (6, 0))
    ]
    assert told.err == (
        "stdout: 4 rows of 6 input lines, in the input's order\n"
        "left out: 1 pending, 1 failed\n"
        "25 superseded results left out: their lines are gone from the input\n"
    )
    told = exported(folder, "moved.jsonl", "-o", "-", "--all", "--fields", "status", "--status", "failed")
    assert told.out == '{"status":"pending"}\n{"status":"failed"}\n'


def test_it_works_beside_a_run_and_sees_whole_lines_only(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Nobody stops a night's run to look at its first answers."""
    up = upstream({"rules": [{"when": {"contains": "[[r-9]]"}, "replies": [{"hang_s": 30}]}]})
    program = start(folder, *RUN, "--base-url", up.base_url)
    results = folder / "out/results.jsonl"
    try:
        while not results.exists() or results.read_bytes().count(b"\n") < RECORDS - 1:
            assert program.process.exitcode is None, program.err()
            os.sched_yield()
        with results.open("ab") as file:
            file.write(result(b'{"prompt":"half"}')[:70])
        told = exported(folder, "-o", "x.jsonl")
        assert "29 rows of 30 input lines" in told.err
        assert "left out: 1 pending" in told.err
    finally:
        program.kill()
    assert [line["id"] for line in read_lines(folder / "x.jsonl")] == [n for n in range(RECORDS) if n != 9]


def test_a_run_of_rewrites_exports_its_rewrites(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """They are looked at before a cent is spent on answers."""
    answered(folder, upstream({}), "--only", "rewrite", status=0)
    exported(folder, "-o", "x.csv")
    with (folder / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(n) for n in range(RECORDS)]
    assert "[[r-7]]" in rows[7]["rewrite.relevant_context"] + rows[7]["rewrite.user_query"]


def test_a_file_is_private_and_replaced_only_when_told_to(plain: Path) -> None:
    """The export of yesterday may be the only one there is."""
    (plain / "x.jsonl").write_text("mine")
    told = exported(plain, "-o", "x.jsonl", status=2)
    assert "exists" in told.err
    assert (plain / "x.jsonl").read_text() == "mine"
    exported(plain, "-o", "x.jsonl", "--force", "-q")
    assert len(read_lines(plain / "x.jsonl")) == RECORDS
    exported(plain, "-o", "new.jsonl", "-q")
    assert stat.S_IMODE((plain / "new.jsonl").stat().st_mode) == 0o600
    (plain / "link.jsonl").symlink_to(plain / "x.jsonl")
    exported(plain, "-o", "link.jsonl", "--force")
    assert (plain / "link.jsonl").is_symlink()
    assert leftovers(plain) == []


def test_a_file_that_exists_is_refused_at_once_and_one_that_comes_meanwhile_is_kept(plain: Path) -> None:
    """Nobody waits an hour to be told; and what another program wrote in that hour is not ours."""
    os.mkfifo(plain / "slow.jsonl")  # to open it for reading waits for its writer
    (plain / "x.jsonl").write_text("mine")
    assert "exists" in exported(plain, "slow.jsonl", "-o", "x.jsonl", status=2).err
    program = start(plain, "export", "out", "slow.jsonl", "-o", "y.jsonl")
    with (plain / "slow.jsonl").open("wb") as writer:
        writer.write((plain / "in.jsonl").read_bytes())
        (plain / "y.jsonl").write_text("mine")
    assert (program.wait().status, (plain / "y.jsonl").read_text()) == (2, "mine")
    assert leftovers(plain) == []


@pytest.mark.parametrize("name", [*LINE_FILES, MANIFEST, ".lock", ".synced", "dead_letters.1.jsonl", "damaged.bin"])
def test_a_runs_own_files_are_never_written(plain: Path, name: str) -> None:
    """They are the checkpoint: one slip of the keyboard, even with --force, must not cost a night's answers."""
    other = directory(plain / "other", [], [])
    before = {path: path.read_bytes() for path in [*plain.rglob("*.json*")]}
    for place in (plain / "out" / name, other / name, plain / "out" / ".." / "out" / name):
        assert "belongs to a run" in exported(plain, "-o", place, "--force", status=2).err
    (plain / "link").symlink_to(plain / "out" / name)
    exported(plain, "-o", "link", "--force", status=2)
    assert before == {path: path.read_bytes() for path in before}


def test_the_input_is_never_written(plain: Path) -> None:
    """Nor under another name."""
    os.link(plain / "in.jsonl", plain / "same.jsonl")
    for name in ("in.jsonl", "same.jsonl"):
        assert "is the input" in exported(plain, "-o", name, "--force", status=2).err
    assert len(read_lines(plain / "in.jsonl")) == RECORDS


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("-o", "x.parquet.gz"), "drop the ending .gz"),
        (("-o", "x", "--format", "chat", "--fields", "id"), "--format chat"),
        (("-o", "x", "--format", "chat", "--pending"), "--format chat"),
        (("-o", "x", "--format", "chat", "--status", "failed"), "--format chat"),
        (("-o", "x", "--fields", "id,,line"), "is empty"),
        (("-o", "x", "--fields", "id,id"), "stands twice"),
        (("-o", "out"), "is a directory"),
        (("other.jsonl", "-o", "x"), "none of its 1 lines has a result"),
        (("none.jsonl", "-o", "x"), "no such file"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(plain: Path, argv: tuple[str, ...], said: str) -> None:
    """A wrong command that writes a plausible file is found when it is too late."""
    (plain / "other.jsonl").write_text('{"prompt":"else"}\n')
    assert said in exported(plain, *argv, status=2).err.replace("No such", "no such")
    assert not (plain / "x").exists()
    assert leftovers(plain) == []


def test_a_place_that_takes_no_file_is_exit_3(plain: Path) -> None:
    """As the table of exit statuses has it: the command was right, the disk is not."""
    assert "no/x: cannot be written" in exported(plain, "-o", "no/x", status=3).err


def test_without_a_run_there_is_nothing_to_export(folder: Path) -> None:
    """The message names the directory and what to give."""
    assert "no run here" in exported(folder, "-o", "x.jsonl", status=2).err
    directory(folder / "moved", [], [], {"input": "/nowhere.jsonl"})
    done = run(folder, "export", "moved/out", "-o", "x.jsonl")
    assert (done.status, "is not there; give it" in done.err) == (2, True)


def test_gz_packs(plain: Path) -> None:
    """The same bytes, in any tool that unpacks; and the same file each time."""
    exported(plain, "-o", "x.jsonl")
    for name in ("x.csv.gz", "x.jsonl.gz", "y.jsonl.gz"):
        exported(plain, "-o", name)
    assert gzip.decompress((plain / "x.jsonl.gz").read_bytes()) == (plain / "x.jsonl").read_bytes()
    assert (plain / "x.jsonl.gz").read_bytes() == (plain / "y.jsonl.gz").read_bytes()
    assert gzip.decompress((plain / "x.csv.gz").read_bytes()).startswith(b"id,line,status,")


def test_parquet_goes_to_stdout_too(plain: Path) -> None:
    """A pipe into a store needs no room on the way."""
    done = subprocess.run(
        [sys.executable, "-m", "s2a_batch", "export", "out", "-o", "-", "--format", "parquet"],
        cwd=plain,
        capture_output=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    (plain / "x.parquet").write_bytes(done.stdout)
    assert pq.read_table(plain / "x.parquet").num_rows == RECORDS


def large(folder: Path) -> Path:
    """A run with more results than a pipe or a buffer takes."""
    write_input(folder / "in.jsonl", range(2_000))
    lines = (folder / "in.jsonl").read_bytes().splitlines()
    return directory(folder, lines, [("answered", result(line, answer={"answer": "x" * 500})) for line in lines])


def test_a_closed_pipe_and_a_closed_stdout_end_it_without_a_traceback(folder: Path) -> None:
    """`| head` is how one looks at a large export."""
    large(folder)
    command = f"{sys.executable} -m s2a_batch export out -o -"
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    for shell, said in ((f"{command} | head -n 1", "its reader is gone"), (f"{command} >&-", "stdout is closed")):
        done = subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", shell],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env=environ,
        )
        assert (done.returncode, done.stdout.count("\n")) == (3, 1 if "head" in shell else 0)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.csv.gz"])
def test_a_full_disk_leaves_nothing_half_written(folder: Path, name: str) -> None:
    """Half a file with the right name is taken for the whole one."""
    large(folder)
    fields = ("--fields", "key,input,stages,answer")
    done = start(folder, "export", "out", "-o", name, *fields, most_file_bytes=60_000).wait()
    assert done.status == 3, done.err
    assert "Traceback" not in done.err
    assert not (folder / name).exists()
    assert leftovers(folder) == []


def test_dev_full_is_told(folder: Path) -> None:
    """A device is written to as it is, and its faults are told."""
    large(folder)
    for form in ("jsonl", "parquet", "csv"):
        done = exported(folder, "-o", "/dev/full", "--format", form, "--fields", "key,input,stages,answer", status=3)
        assert "No space left" in done.err
    exported(folder, "-o", "/dev/null")


def test_an_input_that_ends_too_early_leaves_no_file(plain: Path) -> None:
    """All lines up to a cut look like all lines."""
    packed = gzip.compress((plain / "in.jsonl").read_bytes())
    (plain / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut short" in exported(plain, "cut.jsonl.gz", "-o", "x.jsonl", status=3).err
    assert not (plain / "x.jsonl").exists()
    assert leftovers(plain) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(folder: Path, number: signal.Signals) -> None:
    """A job that is stopped cleans up after itself, and tells how it ended."""
    large(folder)
    os.mkfifo(folder / "slow.jsonl")  # an input that never ends
    program = start(folder, "export", "out", "slow.jsonl", "-o", "x.jsonl")
    writer = os.open(folder / "slow.jsonl", os.O_WRONLY)
    while not leftovers(folder):
        os.sched_yield()
    program.send(number)
    os.close(writer)
    done = program.wait()
    assert done.status == 128 + number
    assert not (folder / "x.jsonl").exists()
    assert leftovers(folder) == []


def test_a_missing_package_names_the_command(plain: Path) -> None:
    """The extra is optional; who lacks it must not read a traceback."""
    program = "import sys; sys.modules['pyarrow'] = None; from s2a_batch.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "out", "-o", "x.parquet"],
        cwd=plain,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, "pip install 's2a-batch[parquet]'" in done.stderr) == (2, True)


def test_other_forms_do_not_load_the_heavy_package(plain: Path) -> None:
    """It takes 60 MB and a second."""
    program = "import sys; from s2a_batch import cli, export; from pathlib import Path as P; "
    program += "export.export(P('out'), None, P('x.csv'), export.Options()); print('pyarrow' in sys.modules)"
    environ = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=plain, capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout == "False\n"
