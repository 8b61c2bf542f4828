"""A power cut costs what was not yet synced and nothing else, whatever the file system makes of it.

What a cut leaves: each file up to its last fsync, then any part of the rest: cut at any byte, zeros, pages missing.
That fsync is called when promised is seen from outside, by strace.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from s2a_batch import jobfile
from s2a_batch.resume import Options
from s2a_batch.rundir import DEAD_LETTERS, LINE_FILES, MANIFEST, RESULTS, REWRITES
from s2a_batch.verify import verify
from s2a_batch.worker import run_job
from tests.processes import ENVIRON, OPEN, ROOT, RUN, read_lines, run, strict, write_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s2a_batch.live import Live
    from tests.server import Plan, Upstream

RECORDS = 12
REFUSED = 3
"""1, 10 and 11: they end as dead letters."""
PAGE = 4096
PLAN: Plan = {
    "rules": [{"when": {"stage": "answer", "contains": "[[r-1"}, "replies": [{"status": 400, "error": "no"}]}],
    "latency_s": [0.0, 0.002],
}
LONG = "Is [[r-{n}]] right? I think it is. " + "It was said before. " * 40


async def unwatched(_: Live) -> None:
    """No display."""
    await anyio.sleep_forever()


def execute(folder: Path, up: Upstream) -> int:
    """One execution in this process; returns its exit status."""
    table = {"input": str(folder / "in.jsonl"), "output": str(folder / "out"), "model": "m"}
    job = jobfile.build({**table, "base_url": up.base_url, "limits": {"open_requests": OPEN}}, "test")
    return run_job(job, Options(), say=lambda _: None, watch=unwatched, environ={}).exit_status


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, upstream_process: Upstream) -> dict[str, bytes]:
    """What a finished run has written, by name."""
    folder = tmp_path_factory.mktemp("night")
    write_input(folder / "in.jsonl", range(RECORDS), LONG)
    upstream_process.replan(PLAN)
    assert execute(folder, upstream_process) == 1
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.name != ".lock"}


@dataclass(frozen=True)
class Torn:
    """One file after a power cut.

    Attributes:
        synced: So many bytes were synced; what is behind them may be anything.
        left: The file; None: not there.
    """

    synced: int
    left: bytes | None


@st.composite
def torn(draw: st.DrawFn, data: bytes) -> Torn:
    """What a cut may leave of a file that was appended to line by line."""
    ends = [0, *(found.end() for found in re.finditer(b"\n", data))]
    synced = draw(st.sampled_from(ends))
    size = draw(st.integers(synced, len(data)))
    left = bytearray(data[:size])
    match draw(st.sampled_from(["cut", "zeros", "pages", "absent"])):
        case "zeros":
            start = draw(st.integers(synced, size))
            left[start:] = bytes(size - start)
        case "pages":
            for start in range(synced // PAGE * PAGE, size, PAGE):
                if draw(st.booleans()):
                    begin, end = max(start, synced), min(start + PAGE, size)
                    left[begin:end] = bytes(end - begin)
        case "absent" if synced == 0:
            return Torn(0, None)
    return Torn(synced, bytes(left))


@st.composite
def leftover(draw: st.DrawFn, data: bytes) -> bytes | None:
    """A file that was being written anew, not synced: not there, or any part of it."""
    if draw(st.booleans()):
        return None
    found = data[: draw(st.integers(0, len(data)))]
    return bytes(len(found)) if draw(st.booleans()) else found


def put(path: Path, data: bytes | None) -> None:
    """Leave a file as the cut did."""
    if data is not None:
        path.write_bytes(data)


def lines_of(data: bytes) -> set[bytes]:
    """Its finished lines."""
    return {*data.split(b"\n")[:-1]}


@settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.generate))  # to shrink takes minutes
@given(data=st.data())
def test_after_any_power_cut_a_resume_asks_for_what_was_lost_and_for_nothing_else(
    data: st.DataObject, night: dict[str, bytes], upstream_process: Upstream
) -> None:
    """Whoever comes back to a machine without power must find every synced answer, and pay for the others only."""
    up = upstream_process
    cut = {name: data.draw(torn(night[name]), name) for name in LINE_FILES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out = folder / "out"
        out.mkdir()
        write_input(folder / "in.jsonl", range(RECORDS), LONG)
        for name, whole in night.items():
            if name[0] == ".":  # it says how far all is synced: further than here, so it is lost or torn
                half = whole[: len(whole) // 2]
                put(out / name, data.draw(st.sampled_from([None, b"", half, bytes(len(half))]), name))
                continue
            put(out / name, cut[name].left if name in cut else data.draw(st.sampled_from([None, whole]), name))
            put(out / f"{name}.new", data.draw(leftover(whole), f"{name}.new"))
        up.replan(PLAN)
        up.reset_stats()
        if (out / MANIFEST).exists() and data.draw(st.booleans(), "verified first"):
            verify(out, None)
        assert execute(folder, up) == 1
        assert_whole(out, cut, night, up)


def assert_whole(out: Path, cut: dict[str, Torn], night: dict[str, bytes], up: Upstream) -> None:
    """All is there once; what was synced is kept; only what is not kept was asked for."""
    now = {name: (out / name).read_bytes() for name in LINE_FILES}
    kept = {name: lines_of(now[name]) & lines_of(night[name]) for name in LINE_FILES}
    for name in LINE_FILES:
        assert lines_of(night[name][: cut[name].synced]) <= kept[name], "a synced line is lost"
    ids = {name: {strict(line)["id"] for line in kept[name]} for name in LINE_FILES}
    done = ids[RESULTS] | ids[DEAD_LETTERS]
    asked = up.stats().by_stage
    assert asked.get("answer", 0) == RECORDS - len(done)
    assert asked.get("rewrite", 0) == RECORDS - len(done | ids[REWRITES])
    assert len(read_lines(out / RESULTS)) == RECORDS - REFUSED
    assert len(read_lines(out / DEAD_LETTERS)) == REFUSED
    verdict = verify(out, None)
    assert verdict.holds, verdict.to_text()


# --- fsync as the kernel sees it

STRACE = shutil.which("strace") or ""
needs_strace = pytest.mark.skipif(not STRACE, reason="only strace sees what reaches the kernel")
CALL = re.compile(r"(?P<pid>\d+) +(?P<at>[\d.]+) (?P<name>\w+)\((?P<args>.*?)(?P<open> <unfinished \.\.\.>|\) += .*)")
RESUMED = re.compile(r"(?P<pid>\d+) +(?P<at>[\d.]+) <\.\.\. \w+ resumed>.*\) += (?P<value>-?\d+)")


@dataclass(frozen=True)
class Call:
    """A system call: its place among all moments of the trace, when it began and ended, and what it was about.

    Attributes:
        file: Name of the file in the run's directory; else "".
        value: What it returned; None: the process ended before.
    """

    name: str
    args: str
    file: str
    began: int
    began_at: float
    ended: int = 1 << 60
    ended_at: float = float("inf")
    value: int | None = None


def calls_of(trace: Path) -> list[Call]:
    """The calls of a trace in the order they began."""
    found: list[Call] = []
    under_way: dict[str, int] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        if call := CALL.fullmatch(line):
            path = re.match(r"\d+<[^>]*/out/([^>/]+)>", call["args"])
            at = float(call["at"])
            made = Call(call["name"], call["args"], path[1] if path else "", number, at)
            under_way[call["pid"]] = len(found)
            if value := re.match(r"\) += (-?\d+)", call["open"]):
                made = replace(made, ended=number, ended_at=at, value=int(value[1]))
            found.append(made)
        elif end := RESUMED.fullmatch(line.partition(" (")[0]) or RESUMED.match(line):
            place = under_way[end["pid"]]
            found[place] = replace(found[place], ended=number, ended_at=float(end["at"]), value=int(end["value"]))
    return found


@contextmanager
def tracing(folder: Path, *words: str, inject: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The program under strace, which writes what it asks of the kernel to `trace`."""
    what = ["-e", "trace=write,writev,fsync,fdatasync,sendto,sendmsg", *(["-e", f"inject={inject}"] if inject else [])]
    command = [STRACE, "-f", "-ttt", "-y", "-s", "60000", "--seccomp-bpf", "-o", "trace", *what]
    command += [sys.executable, "-m", "s2a_batch", *words, "-q"]
    environ = ENVIRON | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL) as strace:
        yield strace


def traced(folder: Path, *words: str, inject: str = "") -> tuple[int, list[Call]]:
    """Run the program under strace to its end; returns its exit status and what it asked of the kernel."""
    with tracing(folder, *words, inject=inject) as strace:
        status = strace.wait(60)
    return status, calls_of(folder / "trace")


def of(calls: list[Call], name: str, file: str) -> list[Call]:
    """The calls of this name about this file."""
    return [call for call in calls if call.name == name and call.file == file]


@needs_strace
def test_with_fsync_of_every_commit_no_answer_is_asked_for_before_its_rewrite_is_synced(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Who sets fsync_s = 0 pays for each fsync so that no paid reply is ever lost; a later one would be no use."""
    up = upstream(PLAN)
    status, calls = traced(folder, *RUN, "--base-url", up.base_url, "--set", "fsync_s=0")
    assert status == 1
    sent_out = [call for call in calls if not call.file and "POST /v1" in call.args and "[[r-" in call.args]
    answers = [call for call in sent_out if "relevant_context" not in call.args]
    assert len(answers) == RECORDS
    for sent in answers:
        mark = re.findall(r"\[\[r-\d+\]\]", sent.args)[-1]
        (written,) = [call for call in of(calls, "write", REWRITES) if mark in call.args]
        synced = [
            call for call in of(calls, "fsync", REWRITES) if written.ended < call.began <= call.ended < sent.began
        ]
        assert synced, f"{mark} is asked for while its rewrite is not synced"
        assert synced[0].value == 0


@needs_strace
def test_what_is_written_is_synced_in_time_and_all_of_it_at_the_end(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """The time that fsync_s names is what a power cut may cost; more often would slow a disk down for nothing."""
    up, fsync_s, grace_s = upstream({**PLAN, "latency_s": 0.2}), 0.25, 0.5
    status, calls = traced(folder, *RUN, "--base-url", up.base_url, "--set", f"fsync_s={fsync_s}")
    assert status == 1
    for name in LINE_FILES:
        written, synced = of(calls, "write", name), of(calls, "fsync", name)
        assert written
        for call in written:
            first = next((other for other in synced if other.began > call.ended), None)
            assert first, f"{name} is not synced at the end"
            assert first.began_at - call.ended_at <= fsync_s + grace_s
        lasted_s = written[-1].ended_at - written[0].began_at
        assert len(synced) <= lasted_s / fsync_s + 2


def cut_to_synced(out: Path, calls: list[Call]) -> dict[str, int]:
    """Zero all that no finished fsync covers; returns the bytes that are left of each file."""
    left = {}
    for name in LINE_FILES:
        done = [call for call in of(calls, "fsync", name) if call.value == 0]
        size = sum(call.value or 0 for call in of(calls, "write", name) if done and call.ended < done[-1].began)
        if (out / name).exists():
            data = (out / name).read_bytes()
            (out / name).write_bytes(data[:size] + bytes(len(data) - size))
        left[name] = size
    return left


@needs_strace
@pytest.mark.parametrize("requests", [10, 17])
def test_a_cut_at_any_moment_of_a_real_run_costs_what_no_fsync_covers(
    folder: Path, upstream: Callable[[Plan], Upstream], requests: int
) -> None:
    """The worst moment: on a slow disk, data is on its way, and what says how far it got is not."""
    up, out = upstream({**PLAN, "latency_s": 0.05}), folder / "out"
    words = (*RUN, "--base-url", up.base_url)
    with tracing(folder, *words, "--set", "fsync_s=0.02", inject="fsync:delay_enter=30000") as strace:
        paid = up.wait_until(lambda stats: stats.requests >= requests, within_s=40)
        (pid,) = Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split()
        os.kill(int(pid), signal.SIGKILL)
    up.wait_until(lambda stats: stats.in_flight == 0)
    calls = calls_of(folder / "trace")
    left = cut_to_synced(out, calls)
    kept = {name: (out / name).read_bytes()[:size].splitlines() for name, size in left.items()}
    assert kept[REWRITES], "cut too early to prove anything"
    assert paid.requests < 2 * RECORDS, "cut too late to prove anything"
    up.reset_stats()
    assert run(folder, *words).status == 1
    for name in LINE_FILES:
        assert kept[name] == (out / name).read_bytes().splitlines()[: len(kept[name])], "a synced line is lost"
    done = {strict(line)["id"] for name in (RESULTS, DEAD_LETTERS) for line in kept[name]}
    rewritten = {strict(line)["id"] for line in kept[REWRITES]}
    asked = up.stats().by_stage
    assert asked == {"rewrite": RECORDS - len(done | rewritten), "answer": RECORDS - len(done)}
    assert run(folder, "verify", "out").status == 0


@needs_strace
def test_a_disk_that_fails_to_sync_stops_the_run_and_the_same_command_goes_on(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """After a failed fsync nobody knows what the disk holds: paying for more answers to put there is money lost."""
    up = upstream({**PLAN, "latency_s": 0.01})
    words = (*RUN, "--base-url", up.base_url)
    status, _ = traced(folder, *words, "--set", "fsync_s=0", inject="fsync:error=EIO:when=4+")
    assert status == 3
    assert up.stats().requests <= 3 * OPEN
    up.reset_stats()
    assert run(folder, *words).status == 1
    assert run(folder, "verify", "out").status == 0
