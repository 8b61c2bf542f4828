"""Several processes on one run keep the promises of one: each record once, limits and budget shared, kills survived."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from s2a_batch.rundir import DEAD_LETTERS, LINE_FILES, RESULTS, REWRITES
from tests.processes import PRICES, Program, caps, manifest, read_lines, run, running, start
from tests.test_kill import assert_finished, kept, whole_lines, written_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Plan, Reply, Rule, Upstream

RECORDS = 60
OPEN = 12
KILLS = 8
RUN = ("run", "in.jsonl", "-o", "out", "--model", "m", "--open-requests", str(OPEN), "--processes", "3")
SLOW: Plan = {"latency_s": [0.005, 0.03]}
HANGS: Plan = {"rules": [{"when": {"stage": "answer", "from_request": 20}, "replies": [{"hang_s": 60}]}]}


def members(program: Program) -> list[int]:
    """Process ids of a run's members."""
    with suppress(FileNotFoundError):
        return [int(pid) for pid in Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(true: Callable[[], bool], within_s: float = 5) -> None:
    """Look until it is so; no sleep, a process that is waited for may need the core."""
    end = time.monotonic() + within_s
    while not true():
        os.sched_yield()
        assert time.monotonic() < end, "it never came true"


UNFIT: Rule = {"when": {"contains": "[[r-7]]"}, "replies": [{"content": '{"relevant_context": "cut'}], "then": "good"}
REFUSED: Rule = {"when": {"contains": "[[r-9]]"}, "replies": [{"status": 400, "error": {"message": "no"}}]}
FAILED: Rule = {"when": {"contains": "[[r-5]]"}, "replies": [{"status": 500}], "then": "good"}


def test_several_processes_say_and_count_what_one_does(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """More processes are for speed alone: an answer, a count or a cost that changed would be another run."""
    (folder / "in.jsonl").write_text((folder / "in.jsonl").read_text() + '{"prompt": 7}\n[1]\n')
    words = ("--set", "retry.backoff_s=0.01", "--set", "answer.baseline_share=0.5", *PRICES)
    found, sums = [], []
    for number in ("1", "3"):
        up = upstream({**SLOW, "rules": [UNFIT, REFUSED, FAILED]})
        assert run(folder, *RUN[:-1], number, "--base-url", up.base_url, *words, "--fresh").status == 1
        lines = [line for name in LINE_FILES for line in read_lines(folder / "out" / name)]
        assert len(lines) == len({(line["line"], line["status"]) for line in lines})
        parts = ("status", "answer", "baseline", "rewrite", "policy", "checks", "input", "fingerprint", "key")
        found.append({(line["line"], line["status"]): [line[part] for part in parts] for line in lines})
        summary = manifest(folder)["summary"]
        sums.append({name: value for name, value in summary.items() if name not in ("seconds", "rewrite", "answer")})
        for stage in ("rewrite", "answer"):
            sums[-1][stage] = {n: v for n, v in summary[stage].items() if n != "seconds"}
    assert found[0] == found[1]
    assert sums[0] == sums[1]
    assert sums[0]["kinds"] == {"bad_prompt": 1, "bad_request": 1, "not_an_object": 1}
    assert sums[0]["rewrite"]["retries"] == 1
    assert up.stats().connections >= 3, "more than one process asked"
    assert run(folder, "verify", "out").status == 0


@pytest.mark.parametrize(
    ("seed", "rules"),
    [(1, []), (2, [{"when": {"every": 6}, "replies": [{"reset": True}], "per_record": False}])],
    ids=["calm", "connections lost"],
)
def test_killed_again_and_again_each_record_is_answered_once(
    folder: Path, upstream: Callable[[Plan], Upstream], seed: int, rules: list[Rule]
) -> None:
    """The reader, one member or all of them: whoever dies, nothing that was written is asked or paid for again."""
    up, out, draw = upstream({**SLOW, "rules": rules, "seed": seed}), folder / "out", random.Random(seed)  # noqa: S311
    words = (
        *RUN,
        "--base-url",
        up.base_url,
        "--set",
        "retry.backoff_s=0.01",
        "--set",
        "limits.requests_per_minute=60000",
    )
    for n in range(KILLS + 1):
        before = kept(out)
        up.reset_stats()
        with running(folder, *words) as program:
            if n == KILLS:
                assert program.wait().status == 0
                break
            most = written_bytes(out) + draw.randint(1, 30_000)
            while written_bytes(out) < most and program.process.exitcode is None:
                program.process.join(0.0005)
            pids = members(program)
            victims = draw.choice([[program.pid], pids[-1:], pids[:1], [*pids, program.pid]])
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            done = program.wait(20)
            assert done.status in (0, 3, -signal.SIGKILL), done.err
            until(lambda pids=pids: not any(map(alive, pids)))  # type: ignore[misc]
        up.wait_until(lambda stats: stats.in_flight == 0)
        asked = {(row["stage"], row["markers"][0]) for row in up.requests()}
        again = {(stage, mark) for stage, mark in asked if mark in before[stage] or mark in before["answer"]}
        assert not again, "paid before, and asked again"
    assert_finished(out)


def test_a_killed_reader_leaves_no_process_that_goes_on_paying(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """An orphan would ask and pay all night, for results of which nobody takes account."""
    up = upstream(HANGS)
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.requests >= 20 and stats.in_flight >= 4)
        pids = members(program)
        assert len(pids) == 3
        program.kill()
        until(lambda: not any(map(alive, pids)), 2)
    up.wait_until(lambda stats: stats.in_flight == 0)
    upstream({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_member_stops_the_run_which_says_so_and_goes_on(
    folder: Path, upstream: Callable[[Plan], Upstream], victim: int
) -> None:
    """The kernel kills what takes most memory; a run that waits for it for ever, or fails its records, is lost."""
    up = upstream({"latency_s": 0.05})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.answered >= 30)
        pid = members(program)[victim]
        os.kill(pid, signal.SIGKILL)
        done = program.wait(10)
    assert done.status == 3
    assert f"process {victim + 1} of 3 (pid {pid}) was ended by SIGKILL" in done.err
    assert "run the same command again" in done.err
    stats = up.stats()
    assert stats.by_status.keys() <= {"200", "gone"}
    assert stats.by_status.get("gone", 0) <= OPEN // 3, "the others finish what is open"
    assert read_lines(folder / "out" / DEAD_LETTERS) == []
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")


def test_a_signal_to_all_of_them_drains_as_one(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A terminal or a service manager signals every process at once: one that dies of it breaks off what is paid."""
    up = upstream({"latency_s": 0.1})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) >= 15)
        for pid in [*members(program), program.pid]:
            os.kill(pid, signal.SIGTERM)
        up.wait_until(lambda _: "second signal" in program.err())
        seen = up.stats().requests
        done = program.wait(10)
    stats = up.stats()
    assert done.status == 143
    assert stats.by_status == {"200": stats.requests}, "nothing is broken off"
    assert stats.requests - seen <= OPEN, "at most what each began before it heard of it"
    assert stats.requests < 2 * RECORDS
    assert len(read_lines(folder / "out" / RESULTS)) == stats.by_stage["answer"]
    assert manifest(folder)["summary"]["answered"] == stats.by_stage["answer"]
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
    assert up.stats().requests == 2 * RECORDS


def test_a_second_signal_ends_all_of_them_at_once(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A person who presses Ctrl-C twice wants the prompt back, with what was written kept."""
    up = upstream(HANGS)
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.requests >= 20 and stats.in_flight >= 4)
        program.send(signal.SIGINT)
        up.wait_until(lambda _: "second signal" in program.err())
        began = time.monotonic()
        program.send(signal.SIGINT)
        done = program.wait(10)
        assert time.monotonic() - began < 4
    assert done.status == 130
    rewritten = len(read_lines(folder / "out" / REWRITES))
    up.wait_until(lambda stats: stats.in_flight == 0)
    upstream({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
    assert up.stats().by_stage["rewrite"] == RECORDS - rewritten


@pytest.mark.parametrize(
    "reply",
    [{"status": 404, "error": {"message": "no such model"}}, {"status": 500}],
    ids=["model", "always 500"],
)
def test_a_wrong_model_costs_no_more_requests_than_with_one_process(
    folder: Path, upstream: Callable[[Plan], Upstream], reply: Reply
) -> None:
    """One mistake must not be made by every process in its turn."""
    counts = []
    for number in ("1", "3"):
        up = upstream({"rules": [{"replies": [reply]}]})
        words = ("--base-url", up.base_url, "--set", "retry.backoff_s=0.01")
        assert run(folder, *RUN[:-1], number, *words).status == 3
        counts.append(up.stats().requests)
    assert counts[1] <= counts[0] + 3, "as many as were open"
    assert whole_lines(folder / "out" / DEAD_LETTERS) == []


@pytest.mark.parametrize(("most", "status"), [(37, 3), (2 * RECORDS, 0)])
def test_the_cap_on_requests_holds_over_all_of_them_to_the_request(
    folder: Path, upstream: Callable[[Plan], Upstream], most: int, status: int
) -> None:
    """Real money: three processes must not each spend the budget, nor stop short of what it buys."""
    up = upstream({"latency_s": 0.01})
    done = run(folder, *RUN, "--base-url", up.base_url, *caps(f"max_requests={most}"))
    assert (done.status, up.stats().requests) == (status, most)
    assert (f"budget.max_requests = {most} is reached: {most} requests" in done.err) == (status == 3)
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
    assert up.stats().requests == 2 * RECORDS


@pytest.mark.parametrize("cap", ["max_tokens=3000", "max_cost_usd=4.0", "max_runtime_s=2.5"])
def test_the_other_caps_hold_over_all_of_them(folder: Path, upstream: Callable[[Plan], Upstream], cap: str) -> None:
    """Tokens, money and time are counted together; what is open may come on top, and no more than that."""
    up = upstream({"latency_s": 0.6 if "runtime" in cap else 0.05})
    done = run(folder, *RUN, "--base-url", up.base_url, *PRICES, *caps(cap))
    summary = manifest(folder)["summary"]
    assert done.status == 3
    assert f"budget.{cap.replace('=', ' = ')}".removesuffix(".0") in done.err
    assert up.stats().by_status == {"200": up.stats().requests}, "what was open is kept"
    used = sum(
        summary[stage]["usage"][part] for stage in ("rewrite", "answer") for part in ("input_tokens", "output_tokens")
    )
    cost = sum(summary[stage]["cost_usd"] for stage in ("rewrite", "answer"))
    assert 0 < used < (3000 + OPEN * 400 if "tokens" in cap else 10**6)
    assert cost > 0
    assert f"{used} tokens" in done.err, "the message tells the sum of all"
    up.replan({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")


def test_a_cap_that_is_reached_while_all_wait_for_a_limit_ends_the_run_at_once(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Who has spent the budget at midnight must not find the run still waiting for its next request in the morning."""
    up, began = upstream({}), time.monotonic()
    slowly = ("--set", "limits.requests_per_minute=6", *caps("max_requests=3"))
    done = run(folder, *RUN, "--base-url", up.base_url, *slowly)
    assert time.monotonic() - began < 8, "each has sent one, and would send its next after 30 s"
    assert (done.status, up.stats().requests) == (3, 3)


def test_a_wait_that_one_is_told_holds_back_all(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A provider counts every request during its wait as a further offence, whichever process sends it."""
    refusal: Reply = {"status": 429, "headers": {"retry-after": "1"}, "error": {"message": "slow down"}}
    rule: Rule = {"when": {"from_request": 40}, "replies": [refusal], "then": "good", "per_record": False}
    up = upstream({"latency_s": 0.03, "rules": [rule]})
    told = ("--set", "limits.requests_per_minute=60000")
    assert run(folder, *RUN, "--base-url", up.base_url, *told).status == 0
    (refused_at,) = [row["t"] for row in up.requests() if row["status"] == 429]
    during = [row["t"] - refused_at for row in up.requests() if 0.25 < row["t"] - refused_at < 1.0]
    assert during == []
    assert_finished(folder / "out")


@pytest.mark.parametrize("most", [6_000, 33_000], ids=["rewrites", "results"])
def test_a_full_disk_stops_all_of_them_and_the_run_goes_on_with_room(
    folder: Path, upstream: Callable[[Plan], Upstream], most: int
) -> None:
    """Answers that cannot be kept must not be bought, by no process; and half a line must not spoil the file."""
    up = upstream({"latency_s": 0.02})
    done = start(folder, *RUN, "--base-url", up.base_url, most_file_bytes=most).wait(20)
    assert done.status == 3
    assert "cannot write" in done.err
    lines = {name: whole_lines(folder / "out" / name) for name in (RESULTS, REWRITES)}
    up.wait_until(lambda stats: stats.in_flight == 0)
    spent, lost = up.stats().answered, up.stats().answered - sum(map(len, lines.values()))
    assert lost <= OPEN
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
    assert up.stats().answered - spent == 2 * RECORDS - (spent - lost)


def test_a_fault_of_this_program_in_a_member_is_told_and_ends_all(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A bug that only a member sees must be as loud as in the one process, and leave nothing running."""
    (folder / "shapes.py").write_text(
        "from pydantic import BaseModel, field_validator\n"
        "class Fatal(BaseException): pass\n"
        "class Shape(BaseModel):\n"
        "    answer: str\n"
        "    @field_validator('answer')\n"
        "    @classmethod\n"
        "    def refuse(cls, value): raise Fatal('no way')\n"
    )
    up = upstream({})
    words = (*RUN, "--base-url", up.base_url, "--answer", "shapes:Shape")
    done = run(folder, *words, environ={"PYTHONPATH": str(folder)}, within_s=20)
    assert done.status == 70
    assert "in process 1 of 3" in done.err
    assert "no way" in done.err


def test_where_all_is_done_nothing_is_asked(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A timer that starts the finished job again must cost nothing, whatever the number of processes."""
    up = upstream({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    before = up.stats().requests
    done = run(folder, *RUN, "--base-url", up.base_url)
    assert (done.status, up.stats().requests) == (0, before)
    assert "nothing to do" in done.err


def test_the_arms_of_a_comparison_are_carried_by_several_processes_too(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Its arms are runs: they must share rewrites and the budget as with one process."""
    up = upstream({})
    arms = ("--set", 'compare.arms=["baseline", "s2a", "s2a_keep_original"]', *caps(f"max_requests={4 * RECORDS}"))
    words = ("compare", "in.jsonl", "-o", "out", "--model", "m", "--base-url", up.base_url, "--set", "processes=3")
    assert run(folder, *words, *arms).status == 0
    assert up.stats().requests == 4 * RECORDS
    for arm in ("baseline", "s2a", "s2a_keep_original"):
        assert run(folder, "verify", f"out/arms/{arm}").status == 0
