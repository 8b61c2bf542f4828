"""A run ends as it should, whatever stops it: signals, faults, full disks; and it says so by its exit status."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import anyio
import pytest
from blockbuster import BlockBuster

from s2a_batch.job import Job
from s2a_batch.resume import Options
from s2a_batch.worker import run_job
from tests.processes import RUN, Done, Program, read_lines, run, running, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s2a_batch.live import Live
    from tests.server import Plan, Reply, Upstream

RECORDS = 12
ANSWER_HANGS: Plan = {"rules": [{"when": {"stage": "answer"}, "replies": [{"hang_s": 60}]}]}


def answered(folder: Path) -> list[int]:
    return sorted(line["id"] for line in read_lines(folder / "out" / "results.jsonl"))


def failed(folder: Path) -> dict[int, str]:
    return {line["line"]: line["error"]["kind"] for line in read_lines(folder / "out" / "dead_letters.jsonl")}


def ended_within(program: Program, seconds: float) -> Done:
    """Its end, if it comes in time."""
    began = time.monotonic()
    done = program.wait(seconds + 5)
    assert time.monotonic() - began < seconds, done.err
    return done


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_open_requests_finish_and_leaves_the_rest_pending(
    folder: Path, upstream: Callable[[Plan], Upstream], number: signal.Signals, status: int
) -> None:
    """What is open is paid for; whoever presses Ctrl-C or shuts a machine down must not throw it away."""
    up = upstream({"latency_s": 0.15})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) >= 2)
        program.send(number)
        seen = up.stats().requests
        done = program.wait()
    stats = up.stats()
    assert done.status == status
    assert "a second signal ends them at once" in done.err
    assert "stopped by " in done.err.splitlines()[1]
    assert f"exit {status}" in done.err
    assert stats.requests - seen <= 1, "nothing new is sent"
    assert stats.by_status == {"200": stats.requests}, "nothing is broken off"
    assert len(answered(folder)) == stats.by_stage["answer"]
    assert 0 < len(answered(folder)) < RECORDS
    before = stats.requests
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert answered(folder) == list(range(RECORDS))
    assert up.stats().requests == 2 * RECORDS
    assert before < 2 * RECORDS


def test_a_second_signal_ends_a_run_whose_server_hangs(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A person who presses Ctrl-C twice wants the prompt back, and the same command must still go on from there."""
    up = upstream(ANSWER_HANGS)
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) == 4)
        program.send(signal.SIGINT)
        up.wait_until(lambda _: "second signal" in program.err())
        program.send(signal.SIGINT)
        done = ended_within(program, 2)
    assert done.status == 130
    assert "0 answered" in done.err
    up.replan({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert answered(folder) == list(range(RECORDS))
    assert up.stats().by_stage["rewrite"] == RECORDS, "what was finished before the signal is kept"


def test_a_drain_has_a_bound_of_its_own(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A service manager kills what does not end by itself; one signal must do, even with a server that hangs."""
    up = upstream(ANSWER_HANGS)
    with running(folder, *RUN, "--base-url", up.base_url, "--set", "retry.drain_s=0.3") as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) == 4)
        program.send(signal.SIGTERM)
        assert ended_within(program, 4).status == 143


@pytest.mark.parametrize(
    "reply",
    [
        {"status": 429, "headers": {"retry-after": "60"}},
        {"status": 503, "headers": {"retry-after": "60"}},
        {"status": 500},
    ],
    ids=["rate limited", "overloaded", "backoff"],
)
def test_a_signal_ends_every_kind_of_wait(folder: Path, upstream: Callable[[Plan], Upstream], reply: Reply) -> None:
    """A run that sleeps off a rate limit when the machine shuts down must not be killed in its sleep."""
    good_first: Plan = {"rules": [{"when": {"from_request": 3}, "replies": [reply]}]}
    up = upstream(good_first)
    slow = ("--set", "retry.backoff_s=60", "--set", "retry.attempts=50")
    with running(folder, *RUN, "--base-url", up.base_url, *slow) as program:
        up.wait_until(lambda stats: stats.by_status.get(str(reply["status"]), 0) >= 2)
        program.process.join(0.4)
        assert program.process.exitcode is None, "it has taken the replies in, and waits"
        program.send(signal.SIGTERM)
        done = ended_within(program, 5)
    assert done.status == 143
    assert failed(folder) == {}, "the rest is pending, not failed"


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ({"status": 401, "error": {"message": "Incorrect API key provided"}}, "check the key"),
        ({"status": 429, "error": {"code": "insufficient_quota", "message": "quota"}}, "check the billing"),
        ({"status": 404, "error": {"message": "no such model"}}, "check the model's name"),
    ],
    ids=["key", "quota", "model"],
)
def test_a_fault_of_the_account_stops_the_run_and_no_record_fails_for_it(
    folder: Path, upstream: Callable[[Plan], Upstream], reply: Reply, says: str
) -> None:
    """A wrong key is one mistake; ten thousand dead letters for it would be ten thousand more."""
    up = upstream({"rules": [{"replies": [reply]}]})
    done = run(folder, *RUN, "--base-url", up.base_url)
    assert done.status == 3
    assert says in done.err
    assert up.stats().requests <= 8
    assert (answered(folder), failed(folder)) == ([], {})
    up.replan({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert answered(folder) == list(range(RECORDS))


def test_a_bad_line_and_a_refused_record_fail_alone(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """One faulty line of a million must neither stop the night nor vanish from the account."""
    with (folder / "in.jsonl").open("a") as file:
        file.write('{"prompt": \n\n[1]\n{"prompt": 7}\n')
    refuse: Reply = {"status": 400, "error": {"message": "no"}}
    up = upstream({"rules": [{"when": {"contains": "[[r-3]]"}, "replies": [refuse]}]})
    done = run(folder, *RUN, "--base-url", up.base_url)
    assert done.status == 1
    assert answered(folder) == [n for n in range(RECORDS) if n != 3]
    assert failed(folder) == {4: "bad_request", 13: "bad_json", 15: "not_an_object", 16: "bad_prompt"}
    assert "11 answered, 4 failed" in done.err
    assert "of 15 lines read" in done.err


def test_a_limit_takes_up_so_many_records_and_the_next_run_goes_on(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A try with five records is how a careful person begins; the five must count for the whole."""
    up = upstream({})
    for done_before, taken in ((0, 5), (5, 10), (10, RECORDS), (RECORDS, RECORDS)):
        done = run(folder, *RUN, "--base-url", up.base_url, "--limit", "5")
        assert done.status == 0
        assert answered(folder) == list(range(taken)), done_before
        assert up.stats().requests == 2 * taken
    assert "nothing to do" in done.err


@pytest.mark.parametrize("most", [60, 6_000, 33_000], ids=["manifest", "rewrites", "results"])
def test_a_full_disk_stops_the_run_at_once_and_it_goes_on_with_room(
    folder: Path, upstream: Callable[[Plan], Upstream], most: int
) -> None:
    """Answers that cannot be kept must not be bought; and half a line must not spoil the file."""
    up = upstream({"latency_s": 0.02})
    done = start(folder, *RUN, "--base-url", up.base_url, most_file_bytes=most).wait(10)
    assert done.status == 3
    assert "cannot write" in done.err
    kept = len(read_whole(folder / "out" / "results.jsonl")) + len(read_whole(folder / "out" / "rewrites.jsonl"))
    spent = up.stats().answered
    assert spent - kept <= 4
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert answered(folder) == list(range(RECORDS))
    assert up.stats().answered - (spent - kept) == 2 * RECORDS


def read_whole(path: Path) -> list[bytes]:
    """Whole lines of a file that may be missing or end in half a line."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@pytest.mark.parametrize("where", ["/dev/full", ""], ids=["full disk", "pipe without a reader"])
def test_a_log_that_cannot_be_written_costs_no_answer(
    folder: Path, upstream: Callable[[Plan], Upstream], where: str
) -> None:
    """A closed terminal or a full log partition must not end a night's work, nor change its exit status."""
    up = upstream({})
    done = start(folder, *RUN, "--base-url", up.base_url, err=where).wait()
    assert done.status == 0
    assert answered(folder) == list(range(RECORDS))


def test_a_server_that_dies_for_good_stops_the_run_with_the_rest_pending(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """An endpoint that was never there is the job's fault: no record must carry it as its own."""
    up = upstream({"down": [[0, 1000]]})
    done = run(folder, *RUN, "--base-url", up.base_url, "--set", "retry.backoff_s=0.01")
    assert done.status == 3
    assert (answered(folder), failed(folder)) == ([], {})
    assert "exit 3" in done.err


def test_nothing_blocks_the_loop_while_records_are_under_way(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """One blocking read on a slow disk would hold up every open request at once.

    SQLite's bounded page cache is left out: its look-ups take microseconds, and a thread for each would cost more.
    """
    up = upstream({"latency_s": 0.01})
    guard = BlockBuster("s2a_batch")
    guarded = [name for name in guard.functions if not name.startswith("sqlite3")]

    async def watch(live: Live) -> None:
        while not live.tally.requests:  # before, the SDK is set up: it imports and reads certificates
            await anyio.lowlevel.checkpoint()
        for name in guarded:
            guard.functions[name].activate()
        try:
            await anyio.sleep_forever()
        finally:
            guard.deactivate()

    table = {"input": folder / "in.jsonl", "output": folder / "out", "model": "m", "base_url": up.base_url}
    for only in ("rewrite", None):
        said: list[str] = []
        job = Job.model_validate({**table, "only": only, "limits": {"open_requests": 4}, "fsync_s": 0})
        found = run_job(job, Options(), say=said.append, watch=watch, environ={})
        assert (found.exit_status, found.fault) == (0, None)
    assert answered(folder) == list(range(RECORDS))


def test_a_server_gone_for_a_while_fails_no_record(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A restart of the server in the night must not cost a dead letter for each record that met it."""
    up = upstream({"latency_s": 0.02, "down": [[0.05, 1.6]]})
    done = run(folder, *RUN, "--base-url", up.base_url, "--open-requests", "4")
    assert done.status == 0, done.err
    assert len(read_lines(folder / "out" / "results.jsonl")) == RECORDS
    assert up.stats().by_status["reset"] < 30


def test_a_server_that_names_no_real_wait_is_not_hammered(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """`Retry-After: 0` for an hour would be a hundred thousand requests."""
    limited: Reply = {"status": 429, "headers": {"Retry-After": "0"}, "error": {"message": "slow down"}}
    up = upstream({"rules": [{"when": {}, "replies": [limited]}]})
    argv = (*RUN, "--base-url", up.base_url, "--set", "retry.max_wait_s=2")
    done = run(folder, *argv)
    assert done.status == 3
    assert "nothing but rate limits" in done.err
    assert up.stats().requests < 40
