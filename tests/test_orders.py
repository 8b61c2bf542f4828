"""What a person changes holds at once and exactly, in virtual time; a pause is nobody's time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.assembly import Parts
from s2a_batch.bounds import Retry
from s2a_batch.errors import EndpointError, TransientError
from s2a_batch.orders import Order
from s2a_batch.pace import Window
from s2a_batch.retry import Health
from s2a_batch.share import Share
from s2a_batch.stages import Trail
from tests.fakes import FakeClient, a_limiter, a_stage, in_virtual_time

if TYPE_CHECKING:
    from s2a_batch.lanes import Lane
    from s2a_batch.limits import Limiter
    from s2a_batch.pipeline import Pipeline
    from tests.fakes import Scripted

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
MESSAGES = [{"role": "user", "content": "Is [[r-1]] so?"}]
LOST = TransientError("server_error", "HTTP 500", status=500)
GOOD: Scripted = {}


async def ask(limiter: Limiter, lane: Lane, started: list[float], seconds: float = 1.0) -> None:
    with await limiter.slot(lane, 1) as slot:
        started.append(anyio.current_time())
        await anyio.sleep(seconds)
        slot.succeeded(1, {}, anyio.current_time())


@settings(max_examples=60)
@given(
    orders=st.lists(st.tuples(st.floats(0.1, 20), st.integers(1, 12), st.booleans(), st.booleans()), max_size=8),
    seconds=st.lists(st.floats(0.1, 5), min_size=1, max_size=60),
)
def test_no_request_begins_over_the_cap_of_its_time_or_in_a_pause(
    orders: list[tuple[float, int, bool, bool]], seconds: list[float]
) -> None:
    """Whatever is tuned and paused in whatever order: the cap that holds is never passed, and all is done at last."""

    async def main() -> None:
        limiter, over, changed = a_limiter(4), list[str](), set[float]()
        lane = limiter.lane(None, "answer")

        async def one(took: float) -> None:
            with await limiter.slot(lane, 1) as slot:
                # What is given in the very moment of an order may have been given before it.
                if slot.started not in changed and (limiter.held_since is not None or limiter.open > limiter.cap):
                    over.append(f"{anyio.current_time()}: {limiter.open} of {limiter.cap}")
                await anyio.sleep(took)
                slot.succeeded(1, {}, anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for took in seconds:
                tasks.start_soon(one, took)
            for wait_s, cap, adaptive, held in orders:
                await anyio.sleep(wait_s)
                limiter.heed(Order(held=held, open_requests=cap, adaptive=adaptive))
                changed.add(anyio.current_time())
                assert limiter.held_since is None or held
            limiter.heed(Order(held=False))
        assert not over
        assert limiter.open == 0

    in_virtual_time(main)


@pytest.mark.parametrize(("tried", "first"), [(True, 20), (False, 4)])
async def test_a_higher_cap_is_given_at_once_when_the_account_has_answered(first: int, *, tried: bool) -> None:
    """A person does not wait for a slow start that is over; before the first answer a wrong key still costs four."""
    limiter, started = a_limiter(4), list[float]()
    lane = limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        if tried:
            await ask(limiter, lane, [])
        for _ in range(30):
            tasks.start_soon(ask, limiter, lane, started, 50)
        await anyio.sleep(1)
        limiter.heed(Order(open_requests=20))
        await anyio.sleep(1)
        assert len(started) == first


async def test_a_lower_cap_lets_what_is_open_finish_and_gives_nothing_before() -> None:
    """Breaking off what is paid for would be waste; opening more would be disobedience."""
    limiter, started = a_limiter(4), list[float]()
    lane = limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask, limiter, lane, started, 10)
        await anyio.sleep(1)
        limiter.heed(Order(open_requests=2))
    assert started == [0] * 4 + [10] * 2 + [20] * 2


async def test_auto_goes_on_from_where_it_is() -> None:
    """A cap that was good for an hour is the best first guess; it grows only while it is used up."""
    window = Window(4, adaptive=False)
    window.grow(4)
    window.tune(512, adaptive=True)
    assert window.size == 4
    window.grow(2)
    assert window.size == 4
    window.grow(4)
    assert window.size == 5
    window.shrink()
    assert window.size == 3


@pytest.mark.parametrize("limit", [0.5, 1.0, 30.0])
async def test_a_faster_pace_holds_at_once(limit: float) -> None:
    """Whoever raises a limit must not wait for the pace that was wrong, which is up to minutes."""
    limiter, started = a_limiter(16, requests_per_minute=limit), list[float]()
    lane = limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask, limiter, lane, started, 0.01)
        await anyio.sleep(0.5)
        limiter.heed(Order(requests_per_minute=math.inf))
    assert started == [0, 0.5, 0.5]
    limiter.heed(Order(requests_per_minute=0.5))
    assert limiter.requests.window_s == 120
    assert limiter.requests.limit == 1


async def test_a_slower_pace_counts_what_the_minute_holds() -> None:
    """Ten a minute after ten were sent is none for the rest of it."""
    limiter, started = a_limiter(64, requests_per_minute=600), list[float]()
    lane = limiter.lane(None)
    for _ in range(10):
        await ask(limiter, lane, started, 0)
    limiter.heed(Order(requests_per_minute=10))
    await ask(limiter, lane, started, 0)
    assert started[-1] > started[0] + 60


async def test_a_limit_that_is_named_takes_the_place_of_one_that_was_learnt() -> None:
    """A storm of refusals taught a crawl; the person who knows better must be heard."""
    limiter, started = a_limiter(64), list[float]()
    lane = limiter.lane(None)
    await ask(limiter, lane, [], 0.1)
    with await limiter.slot(lane, 1) as slot:
        slot.rate_limited(10.0)
    await ask(limiter, lane, started, 0)
    limiter.heed(Order(requests_per_minute=6000))
    for _ in range(5):
        await ask(limiter, lane, started, 0)
    assert started[-1] - started[0] < 1


async def test_an_order_for_a_stage_leaves_other_accounts_alone() -> None:
    """The rewriter's limit is not the answerer's."""
    rewriter, answerer = a_limiter(4), a_limiter(4)
    rewriter.lane(None, "rewrite")
    answerer.lane(None, "answer")
    for limiter in (rewriter, answerer):
        limiter.heed(Order(stage="rewrite", open_requests=9, tokens_per_minute=100))
    assert (rewriter.cap, rewriter.tokens.limit) == (9, 100)
    assert (answerer.cap, answerer.tokens.limit) == (4, None)


async def test_a_pause_takes_nothing_of_a_records_time() -> None:
    """`retry.max_s` bounds a record that the server fails, and not one that a person made wait over lunch."""
    limiter = a_limiter(4)
    client = FakeClient([LOST, LOST, GOOD], seconds=1)
    stage = a_stage(client, limiter=limiter, retry=Retry(max_s=60, backoff_s=0.1))
    stage.health.note_success()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.run, MESSAGES, Trail(anyio.current_time()))
        await anyio.sleep(0.5)
        limiter.heed(Order(held=True))
        await anyio.sleep(5_000)
        assert len(client.requests) == 1
        limiter.heed(Order(held=False))
    assert len(client.requests) == 3


def the_parts(limiter: Limiter, health: Health, share: Share) -> Parts:
    pipeline: Pipeline | None = None
    return Parts(pipeline, (limiter,), (health,), share)  # type: ignore[arg-type]


async def test_a_pause_is_no_outage() -> None:
    """`retry.max_wait_s` is patience with the server; a longer pause is no fault of it."""
    limiter, health = a_limiter(4), Health(max_wait_s=100)
    health.note_success()
    parts = the_parts(limiter, health, Share())
    for number in range(3):
        health.note_failure(TransientError("connection", "gone"), number)
    await anyio.sleep(60)
    parts.heed(Order(held=True))
    await anyio.sleep(1_000)
    parts.heed(Order(held=False))
    assert health.note_failure(TransientError("connection", "gone"), 4)
    await anyio.sleep(60)
    with pytest.raises(EndpointError, match="no answer for 120 s"):
        health.note_failure(TransientError("connection", "gone"), 5)


@given(of=st.integers(1, 8), cap=st.integers(8, 10_000), rate=st.integers(8, 10_000))
def test_the_parts_of_all_processes_are_what_was_ordered(of: int, cap: int, rate: int) -> None:
    """A provider counts the account; eight processes that each obey the whole order are eight times too many."""

    async def main() -> None:
        limiters = [a_limiter(8) for _ in range(of)]
        for index, limiter in enumerate(limiters):
            the_parts(limiter, Health(), Share(index, of)).heed(Order(open_requests=cap, requests_per_minute=rate))
        assert sum(limiter.cap for limiter in limiters) == cap
        assert sum(limiter.requests.limit or 0 for limiter in limiters) == rate

    in_virtual_time(main)
