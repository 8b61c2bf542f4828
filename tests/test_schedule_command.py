"""`s2a-batch schedule` as a process: its runs are children of its own, its signals drain them, it tells all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import anyio.lowlevel
import pytest

from s2a_batch.operations import Schedule
from s2a_batch.schedule.children import Ended, Orders, execute
from s2a_batch.schedule.roster import Entry
from s2a_batch.schedule.times import Times
from tests.processes import read_lines, run, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Program
    from tests.server import Plan, Upstream

RECORDS = 6
HOURLY = "0 * * * *"


def write_job(folder: Path, up: Upstream, name: str = "job", *more: str) -> Path:
    """A job that has missed its last hour by what the scheduler's memory says; and that memory."""
    path = folder / f"{name}.toml"
    head = ['input = "in.jsonl"', f'output = "{name}"', 'model = "m"', f'base_url = "{up.base_url}"']
    path.write_text("\n".join([*head, "limits.open_requests = 2", "[schedule]", f'cron = "{HOURLY}"', *more]))
    seen = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    jobs = {str(path): {"rule": f"{HOURLY} UTC", "seen": seen, "open": False} for path in folder.glob("*.toml")}
    (folder / "state.json").write_text(json.dumps({"schema": 1, "jobs": jobs}))
    return path


def until(program: Program, text: str, times: int = 1, within_s: float = 30) -> str:
    """Look until it has said a text so many times; what it said up to then."""
    end = time.monotonic() + within_s
    while (said := program.err()).count(text) < times:
        assert time.monotonic() < end, said
        program.process.join(0.02)  # no sleep: it ends with the process
    return said


def children_of(pid: int) -> list[int]:
    """The processes that one started and that still are there."""
    return [
        int(word) for path in Path(f"/proc/{pid}/task").iterdir() for word in (path / "children").read_text().split()
    ]


def test_modules_beside_a_job_are_not_taken_for_pythons(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A `queue.py` of the user would end every night with an import error, or be run without being asked for."""
    write_job(folder, upstream({}))
    for name in ("queue.py", "typer.py"):
        (folder / name).write_text("raise SystemExit('a module of the job')")
    done = run(folder, "schedule", ".", "--once", "--state", "state.json")
    assert "job.toml: ended with 0" in done.err


def test_what_a_run_leaves_behind_is_ended_with_it(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A helper that the answer's class started would pile up, one a night, though each run ended by itself."""
    write_job(folder, upstream({}), "job", "[answer]", 'class = "mine:Answer"')
    (folder / "mine.py").write_text("""
import pathlib, subprocess, pydantic
left = subprocess.Popen(["sleep", "1000"])
pathlib.Path(f"{left.pid}.left").touch()
class Answer(pydantic.BaseModel):
    text: str
""")
    done = run(folder, "schedule", ".", "--once", "--state", "state.json")
    assert "job.toml: ended with 0" in done.err
    pids = [int(path.stem) for path in folder.glob("*.left")]
    assert pids
    end = time.monotonic() + 10
    while still := [pid for pid in pids if _state(pid) not in "Z-"]:
        assert time.monotonic() < end, still


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "-"


def test_once_runs_what_is_due_and_then_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """The whole way, from a job file with a time to its answers, by one command that may come from any timer."""
    up = upstream({})
    write_job(folder, up)
    (folder / "plain.toml").write_text('input = "in.jsonl"\noutput = "plain"\n')
    done = run(folder, "schedule", ".", "--once", "--state", "state.json")
    assert (done.status, done.out) == (0, "")
    assert "job.toml: ended with 0: all records answered" in done.err
    assert len(read_lines(folder / "job" / "results.jsonl")) == RECORDS
    assert not (folder / "plain").exists(), "it has no time"
    again = run(folder, "schedule", ".", "--once", "--state", "state.json")
    assert (again.status, again.err) == (0, "")
    assert up.stats().requests == 2 * RECORDS


def test_sigterm_drains_the_run_and_the_next_start_goes_on_with_it(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A deployment in the night: nothing is cut off, nothing is paid twice, nothing waits for the next night."""
    up = upstream({"latency_s": 0.5})
    write_job(folder, up)
    with running(folder, "schedule", ".", "--state", "state.json", "--log", "json") as program:
        up.wait_until(lambda seen: seen.in_flight > 0, 30)
        (child,) = children_of(program.pid)
        assert os.getsid(child) == child, "a Ctrl-C of the terminal would reach it twice"
        program.send(signal.SIGTERM)
        done = program.wait()
    assert done.status == 0
    told = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert [row["event"] for row in told] == ["start", "begin", "stop", "end"]
    assert told[-1]["status"] == 143
    kept = len(read_lines(folder / "job" / "rewrites.jsonl")) + len(read_lines(folder / "job" / "results.jsonl"))
    assert kept == up.stats().answered, "every request that was open is kept"
    up.replan({})
    done = run(folder, "schedule", ".", "--once", "--state", "state.json")
    assert done.status == 0
    assert "its run was cut short" in done.err
    assert up.stats().requests == 2 * RECORDS


def test_a_second_signal_kills_what_runs(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Whoever asks twice will not wait for a server that hangs."""
    up = upstream({"rules": [{"replies": [{"hang_s": 100}]}]})
    write_job(folder, up)
    with running(folder, "schedule", "job.toml", "--state", "state.json") as program:
        up.wait_until(lambda seen: seen.in_flight > 0, 30)
        (child,) = children_of(program.pid)
        program.send(signal.SIGINT)
        until(program, "SIGINT: waits for job.toml")
        program.send(signal.SIGINT)
        done = program.wait(10)
    assert done.status == 130
    assert "killed by SIGKILL" in done.err
    assert not Path(f"/proc/{child}").exists()


def test_a_run_that_takes_too_long_is_drained_and_the_others_have_their_turn(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A server that never answers must not hold up the night of all other jobs."""
    up = upstream({"rules": [{"when": {"model": "slow"}, "replies": [{"hang_s": 100}]}]})
    write_job(folder, up, "a", "timeout_s = 4", "[retry]", "drain_s = 0.2", "[rewrite]", 'model = "slow"')
    write_job(folder, up, "b")
    done = run(folder, "schedule", "a.toml", "b.toml", "--once", "--state", "state.json")
    assert done.status == 143
    assert (
        "a.toml: ended with 143: interrupted by SIGTERM, the rest is pending (stopped after its timeout_s of 4)"
        in done.err
    )
    assert "b.toml: ended with 0" in done.err


@pytest.mark.anyio
async def test_a_run_that_does_not_heed_its_signal_is_killed(folder: Path) -> None:
    """Nothing waits without bound: a child that is stuck in the kernel of a network disk hears no SIGTERM."""
    path = folder / "job.toml"
    os.mkfifo(path)  # it waits for somebody to write
    schedule = Schedule(cron=HOURLY, timeout_s=0.2)
    entry = Entry(path, "job.toml", schedule, 0.1, Times(HOURLY, ZoneInfo("UTC")))
    found: list[Ended] = []

    async def child() -> None:
        found.append(await execute(entry, Orders(anyio.Event(), anyio.Event()), 0.3))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        while not (pids := [pid for pid in children_of(os.getpid()) if _is_ours(pid, path)]):
            await anyio.lowlevel.checkpoint()
        os.kill(pids[0], signal.SIGSTOP)  # deaf
    assert found == [Ended(-signal.SIGKILL, timed_out=True)]


def _is_ours(pid: int, path: Path) -> bool:
    try:
        return str(path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_sighup_rereads_and_a_bad_file_harms_no_other(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """What every daemon does on SIGHUP, so nobody restarts it to be sure."""
    write_job(folder, upstream({}))
    (folder / "bad.toml").write_text("[schedule]\ncron = '61 * * * *'\n")
    with running(folder, "schedule", ".", "--state", "state.json") as program:
        until(program, "ended with 0")
        (folder / "more.toml").write_text((folder / "job.toml").read_text())
        program.send(signal.SIGHUP)
        until(program, "job files read anew: new more.toml; 2 scheduled")
        told = "bad.toml:2: schedule.cron: minute '61': expected 0 to 59"
        assert until(program, told, 2).count(told) == 2, "at the start, and on demand"
        program.send(signal.SIGTERM)
        assert program.wait().status == 0


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["nowhere/"], 2, "no such file or directory"),
        (["."], 2, "no job here has a [schedule] with a cron expression"),
        (["bad"], 2, "schedule.cron: expected five fields"),
        ([".", "--print", "cron"], 2, "directory"),
        ([".", "--root", "/srv"], 2, "go with --print"),
        (["bad/bad.toml", ".", "--print", "cron"], 2, "one job file"),
        (["plain.toml", "--print", "cron"], 2, "schedule.cron is missing"),
        (["piped/piped.toml"], 2, "piped.toml: input: standard input is empty"),
        (["piped/piped.toml", "--once"], 2, "piped.toml: input: standard input is empty"),
        (["piped/piped.toml", "--print", "systemd"], 2, "piped.toml: input: standard input is empty"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_words(folder: Path, words: list[str], status: int, told: str) -> None:
    """A scheduler that starts, and has nothing to do, is found out after the first night that did not happen."""
    (folder / "plain.toml").write_text('input = "in.jsonl"\noutput = "plain"\n')
    (folder / "bad").mkdir()
    (folder / "piped").mkdir()
    (folder / "piped" / "piped.toml").write_text("input='-'\noutput='o'\n[schedule]\ncron = '@daily'\n")
    (folder / "bad" / "bad.toml").write_text("input='i'\noutput='o'\n[schedule]\ncron = '* *'\n")
    done = run(folder, "schedule", *words, "--state", "state.json")
    assert done.status == status
    assert told in done.err


def test_two_schedulers_with_one_memory_exit_4(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """As a run does when another holds its directory: a timer that comes again too soon is no fault."""
    write_job(folder, upstream({}))
    (folder / "state.json").unlink()  # nothing is due
    with running(folder, "schedule", ".", "--state", "state.json") as program:
        until(program, "keeps the times of 1: job.toml")
        assert run(folder, "schedule", ".", "--once", "--state", "state.json").status == 4
        program.send(signal.SIGTERM)
        assert program.wait().status == 0


def test_list_shows_the_coming_times_in_the_zone_of_the_job(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """To see that a line means what was meant, before a night is spent on finding out."""
    write_job(folder, upstream({}), "job", 'timezone = "Asia/Kolkata"')
    done = run(folder, "schedule", ".", "--list")
    assert done.status == 0
    assert done.out.count("+0530") == 3
    assert done.out.startswith("job.toml: ")


@pytest.mark.parametrize(
    "words", [(".", "--list"), ("job.toml", "--print", "cron"), ("job.toml", "--print", "systemd")]
)
def test_a_reader_that_goes_away_changes_no_status(
    folder: Path, upstream: Callable[[Plan], Upstream], words: tuple[str, ...]
) -> None:
    """`schedule --list | head -1` in a script under `pipefail` is no fault."""
    write_job(folder, upstream({}))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "s2a_batch", "schedule", *words]
    done = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_says_that_a_scheduled_job_reads_from_nobody(folder: Path) -> None:
    """It would succeed every night, and do nothing."""
    (folder / "job.toml").write_text("input='/dev/stdin'\noutput='o'\nmodel='m'\n[schedule]\ncron='@daily'\n")
    (folder / "empty").touch()
    done = run(folder, "check", "job.toml", stdin=folder / "empty")
    assert "standard input is empty at a scheduled run" in done.out
    assert done.status == 2
