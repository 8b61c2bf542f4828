"""Whether and when an attempt is followed by another, in virtual time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.bounds import Retry
from s2a_batch.errors import (
    AccountError,
    AttemptError,
    Drained,
    EndpointError,
    RateLimitedError,
    RecordError,
    RequestRefused,
    TransientError,
    UnusableReply,
)
from s2a_batch.retry import Health, RetryPolicy
from tests.fakes import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
DOWN = TransientError("connection", "gone")
BUSY = RateLimitedError("slow down", retry_after_s=None)


class Tried:
    """A function that fails as told, counted and timed."""

    def __init__(self, faults: Sequence[Exception], *, seconds: float = 0.0, made: int = 0) -> None:
        self.faults = list(faults)
        self.seconds = seconds
        self.made = made
        self.times: list[float] = []

    async def run(self, bounds: Retry, drain: anyio.Event | None = None, seed: int = 1) -> str:
        """Try until it succeeds or is given up."""
        policy = RetryPolicy(bounds, drain or anyio.Event(), random.Random(seed))  # noqa: S311  jitter
        began = anyio.current_time()
        found: Any = await policy.attempts(lambda: self.made, since=lambda: began)(self.once)
        return str(found)

    async def once(self) -> str:
        """One attempt."""
        self.times.append(anyio.current_time())
        await anyio.sleep(self.seconds)
        fault = self.faults.pop(0) if self.faults else None
        self.made += not isinstance(fault, RateLimitedError)
        if fault is not None:
            raise fault
        return "done"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    backoff_s=st.floats(0.01, 10),
    max_backoff_s=st.floats(0.01, 30),
    failures=st.integers(1, 9),
)
def test_a_backoff_is_drawn_between_zero_and_a_bound_that_doubles(
    seed: int, backoff_s: float, max_backoff_s: float, failures: int
) -> None:
    """Full jitter: without it all records that failed together come back together."""

    async def main() -> None:
        tried = Tried([DOWN] * failures)
        bounds = Retry(attempts=10, backoff_s=backoff_s, max_backoff_s=max_backoff_s)
        assert await tried.run(bounds, seed=seed) == "done"
        waits = [later - earlier for earlier, later in zip(tried.times, tried.times[1:], strict=False)]
        assert len(waits) == failures
        for n, wait_s in enumerate(waits):
            assert 0 <= wait_s <= min(max_backoff_s, backoff_s * 2**n) + 1e-9

    in_virtual_time(main)


async def test_backoffs_differ_between_records() -> None:
    """A jitter that is the same for all is none."""
    waits = set()
    for seed in range(20):
        tried = Tried([DOWN])
        await tried.run(Retry(), seed=seed)
        waits.add(tried.times[1] - tried.times[0])
    assert len(waits) == 20
    assert max(waits) - min(waits) > 0.25


@pytest.mark.parametrize("attempts", [1, 2, 6])
async def test_attempts_end_at_their_bound(attempts: int) -> None:
    """Each attempt is paid for; the last error says why the record is lost."""
    tried = Tried([TransientError("server_error", str(n)) for n in range(20)])
    with pytest.raises(TransientError, match=f"^{attempts - 1}$"):
        await tried.run(Retry(attempts=attempts))
    assert len(tried.times) == attempts


async def test_attempts_made_before_count() -> None:
    """Re-asks and transport faults of one record share one bound, or they multiply."""
    tried = Tried([DOWN] * 20, made=4)
    with pytest.raises(TransientError):
        await tried.run(Retry(attempts=6))
    assert len(tried.times) == 2


async def test_rate_limits_cost_no_attempt_and_no_backoff() -> None:
    """They are nobody's fault; the limiter holds the wait for all, a second one here would double it."""
    tried = Tried([BUSY] * 50)
    assert await tried.run(Retry(attempts=1)) == "done"
    assert len(tried.times) == 51
    assert tried.times[-1] == tried.times[0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), max_s=st.floats(0.5, 60), seconds=st.floats(0, 5))
def test_no_attempt_starts_after_max_s(seed: int, max_s: float, seconds: float) -> None:
    """Nothing waits without bound: a record that keeps failing must make room, its backoff included."""

    async def main() -> None:
        tried = Tried([DOWN] * 100, seconds=seconds)
        with pytest.raises(TransientError):
            await tried.run(Retry(attempts=100, max_s=max_s), seed=seed)
        assert max(tried.times) - tried.times[0] <= max_s

    in_virtual_time(main)


@pytest.mark.parametrize("wait_s", [600.5, 604_800.0])
async def test_a_named_wait_above_the_ceiling_stops_the_run(wait_s: float) -> None:
    """Half a day of waiting looks like a hang; the message says when to come back, and the records stay pending."""
    tried = Tried([RateLimitedError("daily limit", retry_after_s=wait_s)])
    with pytest.raises(EndpointError, match=f"{wait_s:.0f} s"):
        await tried.run(Retry(max_wait_s=600))
    assert len(tried.times) == 1


async def test_a_named_wait_at_the_ceiling_is_taken() -> None:
    """The bound is what the job allows, not one second less."""
    tried = Tried([RateLimitedError("wait", retry_after_s=600)])
    assert await tried.run(Retry(max_wait_s=600)) == "done"


@pytest.mark.parametrize(
    "fault",
    [
        UnusableReply("refusal", "no"),
        RequestRefused("too_long", "long"),
        AccountError("key"),
        EndpointError("model"),
        RecordError("bug", "x"),
        Drained(),
        ZeroDivisionError("ours"),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_nothing_else_is_tried_again(fault: Exception) -> None:
    """Asked again, a refusal is refused again and paid twice; a bug stays a bug."""
    tried = Tried([fault])
    with pytest.raises(type(fault)) as caught:
        await tried.run(Retry())
    assert caught.value is fault
    assert len(tried.times) == 1


async def test_a_drain_ends_a_backoff_at_once() -> None:
    """A signal must not wait for a minute of backoff, and the record must stay pending, not fail."""
    drain = anyio.Event()
    tried = Tried([DOWN] * 5)
    ended = []

    async def run() -> None:
        with pytest.raises(Drained):
            await tried.run(Retry(backoff_s=1000, max_backoff_s=1000), drain, seed=3)
        ended.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.sleep(2)
        assert ended == []
        drain.set()
    assert ended == pytest.approx([2])
    assert len(tried.times) == 1


async def test_a_drain_before_the_backoff_starts_no_attempt() -> None:
    """The attempt that was open when the signal came fails: that is not the record's end."""
    drain = anyio.Event()
    tried = Tried([DOWN], seconds=5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_drain_at, drain, 1)
        with pytest.raises(Drained):
            await tried.run(Retry(), drain)
    assert len(tried.times) == 1


async def _drain_at(drain: anyio.Event, seconds: float) -> None:
    await anyio.sleep(seconds)
    drain.set()


async def test_cancellation_passes() -> None:
    """A retry loop that takes a cancellation for a failure cannot be stopped."""
    tried = Tried([DOWN] * 5, seconds=10)
    with anyio.move_on_after(15) as scope:
        await tried.run(Retry(backoff_s=0.01))
    assert scope.cancelled_caught
    assert anyio.current_time() == pytest.approx(15)


async def test_two_loops_at_once_share_no_state() -> None:
    """With shared state, tries are lost and a failure passes for success."""
    drain = anyio.Event()
    policy = RetryPolicy(Retry(attempts=4), drain, random.Random(1))  # noqa: S311  jitter
    tried = [Tried([DOWN] * failures, seconds=1) for failures in (0, 1, 2, 3, 9)]
    outcomes: dict[int, str] = {}

    async def one(n: int) -> None:
        try:
            outcomes[n] = str(await policy.attempts(lambda: tried[n].made, since=lambda: 0.0)(tried[n].once))
        except AttemptError as error:
            outcomes[n] = error.kind

    async with anyio.create_task_group() as tasks:
        for n in range(len(tried)):
            tasks.start_soon(one, n)
    assert outcomes == {0: "done", 1: "done", 2: "done", 3: "done", 4: "connection"}
    assert [len(t.times) for t in tried] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("error", "most"),
    [(RequestRefused("bad_request", "no"), 8), (TransientError("not_an_answer", "<html>"), 8), (DOWN, 24)],
)
async def test_an_endpoint_that_never_worked_stops_the_run(error: AttemptError, most: int) -> None:
    """A wrong address fails each record alike; what may pass by itself, as a server that starts, gets more patience."""
    health = Health()
    for n in range(most - 1):
        assert not health.note_failure(error, n)
    with pytest.raises(EndpointError, match="is the server up"):
        health.note_failure(error, most)


async def test_one_record_alone_is_no_outage() -> None:
    """A prompt that kills its connection each time is lost, not the night."""
    health = Health()
    health.note_success()
    assert not any(health.note_failure(DOWN, 7) for _ in range(100))


@pytest.mark.parametrize(("kind", "records"), [("connection", 3), ("server_error", 8), ("timeout", 8)])
async def test_records_that_fail_one_after_the_other_are_an_outage(kind: Any, records: int) -> None:  # noqa: ANN401
    """When everybody fails, nobody's attempts count; one answer shows that it is over."""
    health = Health()
    health.note_success()
    error = TransientError(kind, "gone")
    for _ in range(2):
        found = [health.note_failure(error, n) for n in range(records)]
        assert found == [False] * (records - 1) + [True]
        health.note_success()


async def test_an_outage_ends_the_run_when_it_lasts() -> None:
    """Nobody repairs it before the morning; the run ends, the records are pending."""
    health = Health(max_wait_s=600)
    health.note_success()
    for n in range(11):
        health.note_failure(DOWN, n)
        await anyio.sleep(60)
    await anyio.sleep(120)
    with pytest.raises(EndpointError, match=r"no answer for 6\d\d s"):
        health.note_failure(DOWN, 1)


async def test_a_record_that_reached_nothing_does_not_fail_for_it() -> None:
    """The server went away while one record was left: it stays pending, as in any other outage."""
    health = Health()
    with pytest.raises(EndpointError, match="nothing was answered"):
        health.judge(TransientError("server_error", "HTTP 500"), since=anyio.current_time())
    health.note_success()
    await anyio.sleep(1)
    since = anyio.current_time()
    health.judge(TransientError("server_error", "HTTP 500"), since=since)
    with pytest.raises(EndpointError, match="nothing was answered"):
        health.judge(DOWN, since=since)
    await anyio.sleep(1)
    health.note_success()
    health.judge(DOWN, since=since)


@pytest.mark.parametrize("kind", ["refusal", "content_filter", "truncated", "only_reasoning", "too_long"])
async def test_a_fault_of_the_record_is_none_of_the_endpoint(kind: Any) -> None:  # noqa: ANN401  a literal
    """A file that begins with eight bad prompts must not stop the run: one bad record never stops another."""
    health = Health()
    for n in range(100):
        assert not health.note_failure(UnusableReply(kind, "no"), n)


async def test_nothing_but_rate_limits_stops_the_run_in_the_end() -> None:
    """A daily quota that answers 429 without a wait would keep the run alive for ever, asking each minute."""
    health = Health(max_wait_s=600)
    health.note_success()
    for _ in range(11):
        health.note_failure(BUSY)
        await anyio.sleep(60)
    with pytest.raises(EndpointError, match="max_wait_s"):
        health.note_failure(BUSY)


async def test_one_answer_between_rate_limits_keeps_the_run_going() -> None:
    """A slow account that lets one request a minute through is slow, not gone."""
    health = Health(max_wait_s=600)
    for _ in range(100):
        health.note_failure(BUSY)
        await anyio.sleep(300)
        health.note_success()
