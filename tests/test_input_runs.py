"""Inputs of every kind through the real program: nights with a directory that fills up, pipes, signals meanwhile."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pty
import signal
from typing import TYPE_CHECKING

import pytest

from s2a_batch.rundir import DEAD_LETTERS, RESULTS
from tests.processes import manifest, read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 3


def line(number: int) -> str:
    """One good line with its end."""
    return json.dumps({"id": number, "prompt": f"Is [[r-{number}]] right? I think it is."}) + "\n"


def command(source: str, up: Upstream, out: str = "out") -> tuple[str, ...]:
    """The usual run of an input."""
    return ("run", source, "-o", out, "--model", "m", "--base-url", up.base_url, "--open-requests", "4")


def answered(folder: Path) -> list[tuple[str | None, int, int]]:
    """File, line and id of each result."""
    return sorted((row["file"], row["line"], row["id"]) for row in read_lines(folder / "out" / RESULTS))


def test_a_directory_that_fills_up_is_answered_night_after_night(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """One command for years: each night asks what has come, waits for what is half written, and exits 0."""
    up, drop = upstream({}), folder / "drop"
    drop.mkdir()
    assert run(folder, *command("drop", up)).status == 0
    (drop / "a.jsonl").write_text(line(1) + line(2)[:20])
    (drop / "b.jsonl.gz").write_bytes(gzip.compress(line(4).encode()))
    first = run(folder, *command("drop", up))
    assert first.status == 0
    assert "drop/a.jsonl line 2: no newline and no whole JSON, as if still being written" in first.err
    assert "2 answered, 0 failed, 1 pending of 3 lines read" in first.err
    assert answered(folder) == [("a.jsonl", 1, 1), ("b.jsonl.gz", 1, 4)]
    with (drop / "a.jsonl").open("a") as file:
        file.write(line(2)[20:] + line(3))
    (drop / "aa.jsonl").write_text(line(4))  # the equal line now comes first here: nothing of it is asked anew
    (drop / "b.jsonl.gz").unlink()
    second = run(folder, *command("drop", up))
    assert "2 answered, 0 failed, 2 done before of 4 lines read" in second.err
    assert run(folder, *command("drop", up), "-q").err == ""
    assert [row["markers"] for row in up.requests()].count(["[[r-4]]"]) == 2
    assert up.stats().requests == 2 * 4
    assert manifest(folder)["job"]["input"] == "drop"
    proof = run(folder, "verify", "out")
    assert (proof.status, "holds" in proof.out) == (0, True)


def test_half_a_last_line_is_told_by_every_command_and_harms_none(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A writer that is at work while we look is no fault of the night, and no failed record."""
    up = upstream({})
    with (folder / "in.jsonl").open("a") as file:
        file.write(line(3)[:9])
    dry = run(folder, *command("in.jsonl", up), "--dry-run")
    assert (dry.status, "3 pending, 0 done, 1 unfinished" in dry.out) == (0, True)
    assert "3 pending, 0 done, 0 bad, 1 unfinished" in run(folder, "estimate", *command("in.jsonl", up)[1:]).out
    assert run(folder, *command("in.jsonl", up)).status == 0
    assert read_lines(folder / "out" / DEAD_LETTERS) == []
    proof = run(folder, "verify", "out")
    assert (proof.status, "1 unfinished: last lines of the input" in proof.out) == (0, True)
    assert "(4)" in proof.out
    exported = run(folder, "export", "out", "-o", "-")
    assert len(exported.out.splitlines()) == RECORDS
    assert "left out: 1 pending" in exported.err


def test_half_a_last_line_is_in_no_comparison(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A line that nobody could answer yet would make every comparison of a growing file an incomplete one."""
    with (folder / "in.jsonl").open("a") as file:
        file.write(line(3)[:9])
    argv = command("in.jsonl", upstream({}))[1:]
    done = run(folder, "compare", *argv, "--set", "compare.arms=['baseline', 'instructed']", "--json")
    assert (done.status, json.loads(done.out)["lines"]) == (0, RECORDS)


def test_results_of_several_files_are_found_by_file_and_line(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """`line 1` of three files is three records: whoever looks for one must get that one."""
    up = upstream({"rules": [{"when": {"contains": "[[r-6]]"}, "replies": [{"status": 400}]}]})
    (folder / "b.jsonl").write_text(line(5) + line(6))
    done = run(folder, "run", "in.jsonl", "b.jsonl", *command("", up)[2:])
    assert done.status == 1
    assert "look: s2a-batch show out b.jsonl:2" in done.err
    shown = run(folder, "show", "out", "b.jsonl:1")
    assert shown.out.startswith("answered b.jsonl line 1, id 5,")
    assert run(folder, "show", "out", "b.jsonl:2").out.startswith("failed b.jsonl line 2, id 6,")
    assert run(folder, "show", "out", "c.jsonl:1").status == 2
    (folder / "b.jsonl").rename(folder / "moved.jsonl")
    exported = run(folder, "export", "out", "in.jsonl", "moved.jsonl", "-o", "-", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(exported.out)))
    assert [(row["file"], row["line"], row["id"]) for row in rows[-2:]] == [
        ("moved.jsonl", "1", "5"), ("moved.jsonl", "2", "6"),
    ]  # fmt: skip
    proof = run(folder, "verify", "out", "in.jsonl", "moved.jsonl")
    assert (proof.status, "4 answered, 1 failed" in proof.out) == (0, True)
    assert manifest(folder)["job"]["input"] == ["in.jsonl", "b.jsonl"]


def test_a_pipe_is_read_to_its_end_and_another_one_goes_on(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """`zcat .. | s2a-batch run -` is asked once too: the next pipe with the same lines and more asks what is new."""
    up = upstream({})
    for number, content in enumerate((line(1) + line(2), line(0) + line(1) + line(2) + '{"pro')):
        (folder / "given").write_text(content)
        done = run(folder, *command("-", up), stdin=folder / "given")
        assert done.status == number  # what a pipe ends with is all that ever comes: half a line is lost
    assert answered(folder) == [(None, 1, 0), (None, 1, 1), (None, 2, 2)]
    assert read_lines(folder / "out" / DEAD_LETTERS)[0]["error"]["kind"] == "cut_line"
    assert up.stats().requests == 2 * 3
    proof = run(folder, "verify", "out")
    assert (proof.status, "the run read standard input" in proof.err) == (2, True)
    assert run(folder, "verify", "out", "-", stdin=folder / "given").status == 0


def test_a_pipe_is_refused_where_the_input_is_read_twice(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The second reading would find nothing, and call that the whole input."""
    up = upstream({})
    os.mkfifo(folder / "fifo")
    for source in ("-", "fifo"):
        for argv in (("estimate", *command(source, up)[1:], "--sample", "2"), ("compare", *command(source, up)[1:])):
            done = run(folder, *argv, stdin=folder / "in.jsonl")
            assert (done.status, f"{source}: a pipe; a " in done.err) == (2, True), done.err
    assert up.stats().requests == 0


@pytest.mark.parametrize("source", ["drop", "drop/*.jsonl*", "named"])
def test_a_file_that_is_moved_away_while_a_directory_is_read_is_left_out(
    folder: Path, upstream: Callable[[Plan], Upstream], source: str
) -> None:
    """What another program takes for its own use must not hold up the files behind it; one that was named is missed."""
    up, drop = upstream({}), folder / "drop"
    drop.mkdir()
    os.mkfifo(drop / "a.jsonl")
    names = ["a.jsonl", "b.jsonl", "c.jsonl.gz", "d.jsonl"]
    (drop / "b.jsonl").write_text(line(2))
    (drop / "c.jsonl.gz").write_bytes(gzip.compress(line(3).encode()))
    (drop / "d.jsonl").write_text(line(4))
    pipe = os.open(drop / "a.jsonl", os.O_RDWR)
    os.write(pipe, line(1).encode())
    given = [f"drop/{name}" for name in names] if source == "named" else [source]
    with running(folder, "run", *given, *command("", up)[2:]) as program:
        up.wait_until(lambda stats: stats.answered >= 2)  # it reads the first file and has listed the others
        (drop / "b.jsonl").rename(folder / "taken")
        (drop / "c.jsonl.gz").unlink()
        os.close(pipe)
        done = program.wait(20)
    ids = [row["id"] for row in read_lines(folder / "out" / RESULTS)]
    if source == "named":
        assert (done.status, ids) == (3, [1])
        assert "drop/b.jsonl: cannot read the input: No such file" in done.err
    else:
        assert (done.status, sorted(ids)) == (0, [1, 4])
        assert "drop/b.jsonl: gone while the input was read; left out" in done.err
        assert "2 answered, 0 failed" in done.err


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("source", ["-", "fifo"])
def test_a_limit_ends_a_run_whose_pipe_falls_silent(
    folder: Path, upstream: Callable[[Plan], Upstream], source: str, processes: str
) -> None:
    """A sample of a stream is there once its records are: the next one may come tomorrow."""
    os.mkfifo(folder / "fifo")
    pipe = os.open(folder / "fifo", os.O_RDWR)
    os.write(pipe, (line(1) + line(2)).encode())
    argv = (*command(source, upstream({})), "--limit", "2", "--processes", processes)
    done = run(folder, *argv, stdin=folder / "fifo" if source == "-" else None, within_s=20)
    os.close(pipe)
    assert (done.status, len(read_lines(folder / "out" / RESULTS))) == (0, 2)


@pytest.mark.parametrize("source", ["fifo.jsonl", ".", "f*.jsonl"])
def test_a_pipe_that_was_read_is_not_waited_for_a_second_time(
    folder: Path, upstream: Callable[[Plan], Upstream], source: str
) -> None:
    """Nobody writes into it any more: who asks for the proof of a run must not sit before a silent screen."""
    (folder / "in.jsonl").unlink()
    os.mkfifo(folder / "fifo.jsonl")
    up, pipe = upstream({}), os.open(folder / "fifo.jsonl", os.O_RDWR)
    os.write(pipe, line(1).encode())
    with running(folder, *command(source, up)) as program:
        up.wait_until(lambda stats: stats.answered >= 2)
        os.close(pipe)
        assert program.wait(20).status == 0
    for argv in (("verify", "out"), ("export", "out", "-o", "-")):
        done = run(folder, *argv, within_s=20)
        assert (done.status, f"the run read a pipe, {source}; give it" in done.err) == (2, True), done.err


def test_a_terminal_is_no_input(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A run that waits for someone to type JSON looks as if it hung."""
    ours, theirs = pty.openpty()
    try:
        done = run(folder, *command("-", upstream({})), stdin=folder / os.ttyname(theirs))
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.status, "is a terminal here; hint: pipe it in" in done.err) == (2, True)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("source", ["-", "fifo"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_signal_ends_a_run_whose_pipe_is_silent(  # noqa: PLR0917  the ways to wait
    folder: Path, upstream: Callable[[Plan], Upstream], number: int, processes: str, source: str, count: int
) -> None:
    """A service that reads a pipe must stop when it is told to, and not when somebody happens to write."""
    up = upstream({})
    os.mkfifo(folder / "fifo")
    stdin = folder / "fifo" if source == "-" else None
    argv = (*command(source, up), "--processes", processes)
    with running(folder, *argv, stdin=stdin) as program, (folder / "fifo").open("w") as pipe:
        pipe.write("".join(map(line, range(count))))
        pipe.flush()
        up.wait_until(lambda stats: stats.answered >= 2 * count and (folder / "out" / "run.json").exists())
        program.send(number)
        done = program.wait(10)
    assert done.status == 128 + number
    assert len(read_lines(folder / "out" / RESULTS)) == count


@pytest.mark.parametrize("source", ["out", "out/results.jsonl", "**/*.jsonl", "out/old-1/*", "./out/../out/"])
def test_a_run_never_reads_what_it_writes(folder: Path, upstream: Callable[[Plan], Upstream], source: str) -> None:
    """Answers that become prompts, which become answers: a run without an end, on real money."""
    up = upstream({})
    (folder / "out").mkdir()
    (folder / "out" / RESULTS).touch()
    done = run(folder, *command(source, up))
    assert (done.status, up.stats().requests) == (2, 0)
    assert "a run cannot read what it writes" in done.err


@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "aside", "old", "stdin"])
def test_a_run_knows_what_it_writes_under_every_name(
    folder: Path, upstream: Callable[[Plan], Upstream], kind: str
) -> None:
    """A dead letter that is read becomes the next dead letter, until the disk is full."""
    up = upstream({"rules": [{"when": {}, "replies": [{"status": 400}]}]})
    assert run(folder, *command("in.jsonl", up)).status == 1
    assert run(folder, *command("in.jsonl", up), "--retry-failed").status == 1
    up.reset_stats()
    drop, own, out = folder / "drop", folder / "out" / DEAD_LETTERS, folder / "out"
    drop.mkdir()
    (drop / "a.jsonl").write_text(line(7))
    source = "drop"
    match kind:
        case "link":
            (drop / "z.jsonl").symlink_to(own)
        case "hard link":
            (drop / "z.jsonl").hardlink_to(own)
        case "folder":
            (drop / "day").symlink_to(out)
            source = "drop/**/*.jsonl"
        case "aside":
            source = "out/dead_letters.[0-9].jsonl"
        case "old":
            assert run(folder, *command("in.jsonl", up), "--fresh").status == 1
            (drop / "z.jsonl").symlink_to(out / "old-1" / DEAD_LETTERS)
            up.reset_stats()
        case _:
            source = "-"
    for option in ("--dry-run", "-q"):  # a look ahead says so too
        done = run(folder, *command(source, up), option, stdin=own if source == "-" else None)
        assert (done.status, up.stats().requests) == (2, 0), done.err
        assert "a run cannot read what it writes" in done.err


def test_a_link_to_what_the_run_has_only_just_made_is_refused_too(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Before the first run there was nothing behind the link that a look ahead could have met."""
    up = upstream({})
    (folder / "drop").mkdir()
    (folder / "drop" / "a.jsonl").write_text(line(7))
    (folder / "drop" / "day").symlink_to(folder / "out")
    done = run(folder, *command("drop/**/*.json*", up))
    assert (done.status, up.stats().requests) == (2, 0)
    assert "drop/day/run.json: is out/run.json, and a run cannot read what it writes" in done.err


def test_an_export_into_the_directory_that_is_read_is_refused(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The next night would ask the answers of this one."""
    up = upstream({})
    (folder / "drop").mkdir()
    (folder / "drop" / "a.jsonl").write_text(line(1))
    assert run(folder, *command("drop", up)).status == 0
    done = run(folder, "export", "out", "-o", "drop/answers.jsonl")
    assert (done.status, "would be read as input by the next run" in done.err) == (2, True)
    assert run(folder, "export", "out", "-o", "drop/answers.csv").status == 0
