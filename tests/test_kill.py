"""kill -9 at any moment costs nothing but the requests that were open: no record lost, none twice, none paid again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.processes import OPEN, RUN, JsonObject, Program, read_lines, run, running, strict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Reply, Upstream

RECORDS = 25
KILLS = 16


def kill_after(program: Program, up: Upstream, requests: int, jitter_s: float) -> None:
    """End it when the upstream has seen so many requests more, and a little later."""
    seen = up.stats().requests
    if requests:
        up.wait_until(lambda stats: stats.requests >= seen + requests)
    program.process.join(jitter_s)
    program.kill()
    up.wait_until(lambda stats: stats.in_flight == 0)


def whole_lines(path: Path) -> list[JsonObject]:
    """The lines of a file; all are strict JSON but for at most one unfinished last one."""
    *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return [strict(line) for line in lines]


def assert_finished(out: Path) -> None:
    """Every record is answered once, from its own rewrite."""
    results = read_lines(out / "results.jsonl")
    assert sorted(line["id"] for line in results) == list(range(RECORDS))
    for line in results:
        assert line["answer"] == {"answer": f"ANSWER [[r-{line['id']}]]"}
        assert line["rewrite"]["user_query"].startswith(f"[[r-{line['id']}]]")
    assert read_lines(out / "dead_letters.jsonl") == []
    assert len(read_lines(out / "rewrites.jsonl")) == RECORDS


def test_killed_again_and_again_a_run_still_ends_with_each_record_answered_once(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A machine that crashes every few seconds may make a night longer, never wrong or much dearer."""
    up = upstream({"latency_s": [0.01, 0.03]})
    draw, out, lost, kept = random.Random(7), folder / "out", 0, 0  # noqa: S311  no secret
    for _ in range(KILLS):
        paid = up.stats().answered
        with running(folder, *RUN, "--base-url", up.base_url) as program:
            requests = draw.choice([0, 1, 2, 2, 3, 4])
            kill_after(program, up, requests, draw.uniform(0, 0.02 if requests else 0.3))
        before = kept
        kept = sum(len(whole_lines(out / name)) for name in ("results.jsonl", "rewrites.jsonl"))
        wasted = up.stats().answered - paid - (kept - before)
        assert 0 <= wasted <= OPEN, "only what was open may be asked again"
        lost += wasted
    assert kept < 2 * RECORDS, "the kills came too late to prove anything"
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(out)
    stats = up.stats()
    assert stats.answered - lost == 2 * RECORDS
    assert all(min(paid.values()) >= 1 for paid in stats.per_record.values())


def test_a_kill_between_the_stages_keeps_the_rewrites(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A finished rewrite is paid for; asking it again would bill the same work twice."""
    up = upstream({"rules": [{"when": {"stage": "answer"}, "replies": [{"hang_s": 60}]}]})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.by_stage.get("answer", 0) == OPEN)
        program.kill()
    rewritten = len(read_lines(folder / "out" / "rewrites.jsonl"))
    assert rewritten >= OPEN
    up.wait_until(lambda stats: stats.in_flight == 0)
    upstream({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
    assert up.stats().by_stage == {"rewrite": RECORDS - rewritten, "answer": RECORDS}


def test_killed_while_failed_records_are_taken_up_again_each_keeps_one_result(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """Repairing last night's failures must be as safe to interrupt as the night itself."""
    refuse: Reply = {"status": 400, "error": {"message": "no"}}
    up = upstream({"rules": [{"when": {"stage": "answer", "contains": "[[r-1"}, "replies": [refuse]}]})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 1
    out, draw = folder / "out", random.Random(3)  # noqa: S311  no secret
    failed = len(read_lines(out / "dead_letters.jsonl"))
    assert failed == 11
    upstream({"latency_s": 0.02})
    for option in (["--retry-failed"], [], []):
        with running(folder, *RUN, "--base-url", up.base_url, *option) as program:
            kill_after(program, up, draw.choice([1, 2]), draw.uniform(0, 0.02))
        assert len(read_lines(out / "dead_letters.1.jsonl")) == failed, "kept for the audit"
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(out)
    assert up.stats().by_stage.keys() == {"answer"}, "their rewrites were finished"


def test_a_killed_run_leaves_no_lock_and_says_in_status_what_is_there(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """A stale lock that a person has to delete at night is an outage of its own."""
    up = upstream({"latency_s": [0.01, 0.03]})
    with running(folder, *RUN, "--base-url", up.base_url) as program:
        up.wait_until(lambda stats: stats.answered >= RECORDS)
        assert "out: running" in run(folder, "status", "out").out
        program.kill()
    assert (folder / "out" / ".lock").read_text().startswith(f"process {program.pid} on ")
    answered = len(whole_lines(folder / "out" / "results.jsonl"))
    told = run(folder, "status", "out")
    assert told.status == 0
    assert f"out: not running; {answered} answered, 0 failed" in told.out
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert_finished(folder / "out")
