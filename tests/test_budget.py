"""A budget is kept: no request more than it allows, tokens and money to the open requests, time through every wait."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.account import Totals
from s2a_batch.bounds import Retry
from s2a_batch.budget import Meter, Spending
from s2a_batch.caps import Budget
from s2a_batch.errors import (
    BudgetError,
    Drained,
    EndpointError,
    RateLimitedError,
    RecordError,
    TransientError,
)
from s2a_batch.report import StageTally
from s2a_batch.stages import Trail
from tests.fakes import FakeClient, Scripted, a_limiter, a_stage, in_virtual_time, usage
from tests.processes import OPEN, PRICES, RUN, caps, manifest, read_lines, run, start, write_input

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server import Plan, Upstream

RECORDS = 12
MESSAGES = [{"role": "user", "content": "[[r-1]] so?"}]
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def answered(folder: Path) -> list[int]:
    return sorted(line["id"] for line in read_lines(folder / "out" / "results.jsonl"))


# --- requests, tokens, money: the real program


@pytest.mark.parametrize("cap", [1, 7, 16])
def test_no_request_goes_out_beyond_the_cap_and_a_larger_one_goes_on(
    folder: Path, upstream: Callable[[Plan], Upstream], cap: int
) -> None:
    """Somebody who allows seven requests must not find eight on the bill, nor pay one of them twice."""
    up = upstream({"latency_s": 0.02})
    done = run(folder, *RUN, "--base-url", up.base_url, *caps(f"max_requests={cap}"))
    assert done.status == 3
    assert up.stats().requests == cap
    assert f"budget.max_requests = {cap} is reached: {cap} requests, " in done.err
    assert "the same command with a larger budget goes on" in done.err
    assert manifest(folder)["summary"]["failed"] == 0
    assert run(folder, *RUN, "--base-url", up.base_url, *caps("max_requests=24")).status == 0
    assert answered(folder) == list(range(RECORDS))
    assert up.stats().requests == 2 * RECORDS


def test_failed_attempts_count(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A server that fails all night must not be asked all night: each failure is a request too."""
    up = upstream({"rules": [{"when": {"every": 2}, "replies": [{"status": 503}]}]})
    more = ("--set", "retry.backoff_s=0.01", "--set", "retry.attempts=50")
    done = run(folder, *RUN, "--base-url", up.base_url, *more, *caps("max_requests=20"))
    assert done.status == 3
    assert up.stats().requests == 20
    assert up.stats().by_status["503"] == 10


def test_a_budget_that_suffices_to_the_last_request_is_no_fault(
    folder: Path, upstream: Callable[[Plan], Upstream]
) -> None:
    """All is answered: a status that says otherwise would start a repair at night."""
    up = upstream({})
    done = run(folder, *RUN, "--base-url", up.base_url, *caps(f"max_requests={2 * RECORDS}"))
    assert (done.status, manifest(folder)["summary"]["stopped"]) == (0, None)
    write_input(folder / "in.jsonl", range(2 * RECORDS))
    done = run(folder, *RUN, "--base-url", up.base_url, "--limit", "3", *caps("max_requests=6"))
    assert done.status == 0, "the limit was kept, and so was the budget"


@pytest.mark.parametrize("cap", ["max_tokens=2000", "max_cost_usd=2.5"])
def test_tokens_and_money_overshoot_by_what_was_open_at_most(
    folder: Path, upstream: Callable[[Plan], Upstream], cap: str
) -> None:
    """What is open cannot be called back, and it is paid for, so it is kept; nothing may start after it."""
    up = upstream({"latency_s": 0.02, "rules": [{"replies": [{"usage": usage(300, 100)}]}]})
    done = run(folder, *RUN, "--base-url", up.base_url, *PRICES, *caps(cap))
    assert done.status == 3
    requests = up.stats().requests
    enough = 5  # 5 * 400 tokens; 5 * $0.5
    assert enough <= requests <= enough + OPEN - 1
    totals = manifest(folder)["totals"]
    assert (totals["requests"], totals["cost_usd"]) == (requests, requests * 0.5)
    assert f"{requests} requests, {400 * requests} tokens, ${0.5 * requests:.2f} spent in this execution" in done.err
    assert up.stats().by_status == {"200": requests}, "nothing is broken off"
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert up.stats().requests == 2 * RECORDS


def test_a_server_that_names_no_tokens_is_counted_by_length(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Many servers of one's own send no usage; a cap that never sees a token would be no cap."""
    up = upstream({"latency_s": 0.02, "rules": [{"replies": [{"usage": None}]}]})
    done = run(folder, *RUN, "--base-url", up.base_url, *PRICES, *caps("max_cost_usd=1"))
    assert done.status == 3
    assert 0 < up.stats().requests < RECORDS
    stage = manifest(folder)["summary"]["rewrite"]
    assert (stage["requests"] > 0, stage["cost_usd"]) == (True, None), "what is reported is what the server said"
    assert "cost unknown" in done.err


def test_the_whole_directory_can_have_one_budget(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A service that restarts whatever exits would spend an execution's budget again and again."""
    up = upstream({"latency_s": 0.02})
    over = caps("over=directory")
    for _ in range(3):
        done = run(folder, *RUN, "--base-url", up.base_url, *caps("max_requests=7"), *over)
        assert (done.status, up.stats().requests) == (3, 7)
    assert "7 requests" in done.err
    assert "spent in this directory" in done.err
    assert run(folder, *RUN, "--base-url", up.base_url, *caps("max_requests=10"), *over).status == 3
    assert up.stats().requests == 10
    assert run(folder, *RUN, "--base-url", up.base_url, *caps("max_requests=7")).status == 3
    assert up.stats().requests == 17
    assert manifest(folder)["totals"] | {"input_tokens": 0, "output_tokens": 0} == {
        "executions": 5,
        "killed": 0,
        "requests": 17,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": None,
    }


def test_a_killed_execution_is_named_in_the_totals(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """What it spent is lost; a total that hides this looks complete and is not."""
    up = upstream({"latency_s": 5})
    program = start(folder, *RUN, "--base-url", up.base_url)
    up.wait_until(lambda stats: stats.requests > 0)
    program.kill()
    up = upstream({})
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    totals = manifest(folder)["totals"]
    assert (totals["executions"], totals["killed"], totals["requests"]) == (2, 1, 2 * RECORDS)


def test_an_earlier_run_without_totals_is_resumed(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """Directories of an older version are on disks; what they say of their last execution counts."""
    up = upstream({"latency_s": 0.02})
    run(folder, *RUN, "--base-url", up.base_url, *caps("max_requests=4"))
    old = manifest(folder)
    del old["totals"]
    for stage in ("rewrite", "answer"):
        del old["summary"][stage]["cost_usd"]
    (folder / "out" / "run.json").write_text(json.dumps(old))
    assert run(folder, *RUN, "--base-url", up.base_url).status == 0
    assert (manifest(folder)["totals"]["executions"], manifest(folder)["totals"]["requests"]) == (2, 2 * RECORDS)


# --- time


@pytest.mark.parametrize(
    ("plan", "more"),
    [
        ({"rules": [{"replies": [{"status": 429, "headers": {"retry-after": "60"}}]}]}, ()),
        ({"rules": [{"replies": [{"status": 503}]}]}, ("--set", "retry.backoff_s=500", "--set", "retry.attempts=3")),
        ({}, ("--set", "limits.requests_per_minute=2")),
    ],
    ids=["pause", "backoff", "limit"],
)
def test_time_ends_a_run_that_only_waits(
    folder: Path, upstream: Callable[[Plan], Upstream], plan: Plan, more: tuple[str, ...]
) -> None:
    """The night ends at six, whether the server lets us work or not."""
    up = upstream(plan)
    began = time.monotonic()
    done = run(
        folder, *RUN, "--base-url", up.base_url, *more, *caps("max_runtime_s=1.5"), "--set", "retry.max_backoff_s=500"
    )
    assert done.status == 3
    assert 1.5 <= time.monotonic() - began < 6
    assert "budget.max_runtime_s = 1.5 is reached" in done.err
    assert manifest(folder)["summary"]["failed"] == 0


def test_open_requests_finish_after_the_hour(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """They are paid for; a drain's own bound is for people who wait at a terminal."""
    up = upstream({"latency_s": 1.5})
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    more = ("--set", "retry.drain_s=0.1", *caps(f'until="{at}"'))
    done = run(folder, *RUN, "--base-url", up.base_url, *more)
    assert done.status == 3
    assert f"budget.until = {at} (" in done.err
    assert up.stats().by_status == {"200": OPEN}
    assert len(read_lines(folder / "out" / "rewrites.jsonl")) == OPEN


def test_an_hour_that_is_over_sends_nothing(folder: Path, upstream: Callable[[Plan], Upstream]) -> None:
    """A late start must not buy anything after the moment that was named."""
    up = upstream({})
    done = run(folder, *RUN, "--base-url", up.base_url, *caps("until=2026-01-01T06:00:00Z"))
    assert (done.status, up.stats().requests) == (3, 0)


async def until_stopped(spending: Spending, stage_waits: Callable[[], object], drain: anyio.Event) -> float:
    """When the budget stops, on a clock from 0; then drains as a worker does."""
    await spending.exhausted()
    at = anyio.current_time()
    drain.set()
    stage_waits()
    return at


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("wait", ["pause", "backoff"])
async def test_the_hour_wakes_a_pause_and_a_backoff_at_its_second(wait: str) -> None:
    """Eighteen hours of virtual night: the run ends at six sharp, in the middle of a wait of days."""
    drain = anyio.Event()
    limiter = a_limiter(drain=drain)
    fault = TransientError("server_error", "HTTP 503")
    client = FakeClient(lambda _: RateLimitedError("wait", retry_after_s=3e5) if wait == "pause" else fault)
    spending = Spending(Budget(until="06:00Z"))
    meter = Meter(spending, StageTally(), None)
    bounds = Retry(max_wait_s=1e6, backoff_s=9e5, max_backoff_s=9e5, max_s=1e7)
    stage = a_stage(client, limiter=limiter, drain=drain, meter=meter, retry=bounds)
    ended: list[float] = []

    async def one() -> None:
        with pytest.raises(Drained):
            await stage.run(MESSAGES, Trail(anyio.current_time()))
        ended.append(anyio.current_time())

    begun = anyio.current_time()
    spending.begin(NOON)
    async with anyio.create_task_group() as group:
        group.start_soon(one)
        at = await until_stopped(spending, limiter.wake_all, drain)
    assert at - begun == pytest.approx(18 * 3600)
    assert ended == [at]
    assert len(client.requests) == 1


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_the_first_of_two_deadlines_decides() -> None:
    """A runtime and an hour may both be given; neither may hide the other."""
    for text, runtime_s, expected, named in (("12:10Z", 60, 60, "max_runtime_s"), ("12:00:30Z", 60, 30, "until")):
        spending = Spending(Budget(until=text, max_runtime_s=runtime_s))
        begun = anyio.current_time()
        spending.begin(NOON)
        await spending.exhausted()
        assert anyio.current_time() - begun == pytest.approx(expected)
        assert f"budget.{named} = " in str(spending.error())


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_no_request_starts_at_or_after_the_deadline() -> None:
    """Between the clock's stroke and the drain other tasks run; none of them may slip through."""
    spending = Spending(Budget(max_runtime_s=10))
    spending.begin(NOON)
    await anyio.sleep(9)
    spending.admit()
    await anyio.sleep(1)
    with pytest.raises(BudgetError):
        spending.admit()


# --- counting


@settings(max_examples=50, deadline=None)
@given(
    cap=st.integers(1, 30),
    fates=st.lists(st.sampled_from(["good", "bad", "busy", "down"]), min_size=1, max_size=40),
)
def test_requests_never_pass_their_cap_whatever_comes_back(cap: int, fates: list[str]) -> None:
    """Retries, re-asks and rate limits are ways around a cap that is counted anywhere but at the door."""
    replies: dict[str, Scripted] = {
        "good": {},
        "bad": {"json": "no json"},
        "busy": RateLimitedError("slow down", retry_after_s=1),
        "down": TransientError("connection", "gone"),
    }

    async def main() -> int:
        left = list(fates)
        client = FakeClient(lambda _: replies[left.pop() if left else "good"], seconds=1)
        stage = a_stage(client, meter=Meter(Spending(Budget(max_requests=cap)), StageTally(), None))
        stopped = 0

        async def one() -> None:
            nonlocal stopped
            trail = Trail(anyio.current_time())
            try:
                await stage.run(MESSAGES, trail)
            except BudgetError:
                stopped += 1
            except RecordError:
                pass
            finally:
                trail.release()

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)
        assert stopped or len(client.requests) <= cap
        return len(client.requests)

    assert in_virtual_time(main) <= cap


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_what_a_failed_attempt_used_counts_and_what_never_arrived_does_not() -> None:
    """A time-out may be billed in full; a refused connection is not, and must not eat a night's tokens."""
    for fault, least in ((TransientError("timeout", "late"), 10), (TransientError("connection", "gone"), 0)):
        spending = Spending(Budget())
        stage = a_stage(FakeClient([fault]), meter=Meter(spending, StageTally(), None), retry=Retry(attempts=1))
        with pytest.raises((RecordError, EndpointError)):
            await stage.run(MESSAGES, Trail(anyio.current_time()))
        tokens = int(str(spending.error()).split(" tokens")[0].split()[-1])
        assert (tokens > least) if least else tokens == 0


def test_totals_add_up_and_unknown_money_stays_unknown() -> None:
    """A sum over an unknown part is no sum."""
    totals = Totals(executions=1, requests=5, cost_usd=None)
    assert totals.plus(None) == Totals(executions=2, killed=1, requests=5, cost_usd=None)
