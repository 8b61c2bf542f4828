"""The limiter in virtual time: hours of traffic in milliseconds, and exact times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.errors import Drained
from s2a_batch.pace import Taken
from tests.fakes import a_limiter, in_virtual_time

if TYPE_CHECKING:
    from s2a_batch.lanes import Lane
    from s2a_batch.limits import Limiter

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]
SECONDS = st.floats(0.0, 30.0)


@dataclass
class Watch:
    """What a limiter let through, and the most that was ever open."""

    limiter: Limiter
    started: list[tuple[float, str, float]] = field(default_factory=list)
    most: int = 0
    drained: int = 0

    async def request(self, lane: Lane, name: str, tokens: float = 0, seconds: float = 1, arrive: float = 0) -> None:
        """Arrive after a while, take a slot, hold it, say it went well."""
        await anyio.sleep(arrive)
        try:
            with await self.limiter.slot(lane, tokens) as slot:
                self.started.append((anyio.current_time(), name, tokens))
                self.most = max(self.most, self.limiter.open)
                await anyio.sleep(seconds)
                slot.succeeded(0, {}, anyio.current_time())
        except Drained:
            self.drained += 1

    def times(self) -> list[float]:
        """When each started."""
        return [at for at, _, _ in self.started]


@settings(max_examples=60, deadline=None)
@given(
    cap=st.integers(1, 12),
    lane_caps=st.tuples(st.none() | st.integers(1, 5), st.none() | st.integers(1, 5)),
    requests=st.lists(st.tuples(st.integers(0, 1), SECONDS, SECONDS), min_size=1, max_size=40),
)
def test_never_more_are_open_than_the_caps(
    cap: int, lane_caps: tuple[int | None, int | None], requests: list[tuple[int, float, float]]
) -> None:
    """One request too many is a 429 for everyone, or a crash of a small server; none too few may wait for ever."""

    async def main() -> None:
        limiter = a_limiter(cap)
        lanes = [limiter.lane(own) for own in lane_caps]
        most = [0, 0]
        done = 0

        async def one(lane: int, arrive: float, seconds: float) -> None:
            nonlocal done
            await anyio.sleep(arrive)
            with await limiter.slot(lanes[lane], 10) as slot:
                assert limiter.open <= cap
                most[lane] = max(most[lane], lanes[lane].open)
                await anyio.sleep(seconds)
                slot.succeeded(10, {}, anyio.current_time())
            done += 1

        async with anyio.create_task_group() as tasks:
            for request in requests:
                tasks.start_soon(one, *request)
        assert done == len(requests)
        assert (limiter.open, lanes[0].open, lanes[1].open) == (0, 0, 0)
        assert all(own is None or seen <= own for own, seen in zip(lane_caps, most, strict=True))

    in_virtual_time(main)


async def test_a_start_is_slow_and_doubles_with_success() -> None:
    """A wrong key must cost a handful of requests, not as many as may be open."""
    limiter = a_limiter(64)
    watch = Watch(limiter)
    lane = limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for n in range(200):
            tasks.start_soon(watch.request, lane, str(n))
        await anyio.sleep(0.5)
        assert limiter.open == 4
        await anyio.sleep(1)
        assert limiter.open == 8
        await anyio.sleep(1)
        assert limiter.open == 16
    assert watch.most == 64


async def test_all_that_is_free_is_given_at_once() -> None:
    """One slot a turn of the loop made each record wait for as many turns as there were others."""
    limiter = a_limiter(8)
    lane, given = limiter.lane(None), list[int]()

    async def take(n: int) -> None:
        await limiter.slot(lane, 1)
        given.append(n)

    slots = [await limiter.slot(lane, 1) for _ in range(4)]
    for slot in slots:
        slot.succeeded(1, {}, anyio.current_time())
    slots += [await limiter.slot(lane, 1) for _ in range(4)]
    async with anyio.create_task_group() as tasks:
        for n in range(8):
            tasks.start_soon(take, n)
        await anyio.sleep(1)
        assert not given
        for slot in slots:
            slot.release()
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert sorted(given) == list(range(8))


async def test_a_slot_that_comes_with_the_drain_is_given_back() -> None:
    """Given in the same turn in which the run begins to drain, it would start a request, or be lost."""
    drain = anyio.Event()
    limiter = a_limiter(1, drain=drain)
    lane = limiter.lane(None)
    first = await limiter.slot(lane, 1)
    drained = []

    async def take() -> None:
        try:
            await limiter.slot(lane, 1)
        except Drained:
            drained.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await anyio.sleep(1)
        first.release()
        assert limiter.open == 1, "it is given at once"
        drain.set()
        limiter.wake_all()
    assert drained
    assert (limiter.open, lane.open, len(lane.waiting)) == (0, 0, 0)


@pytest.mark.parametrize("limit", ["-1", "0", "nan", "inf", "0.2", "none", ""])
async def test_a_header_that_is_no_limit_limits_nothing(limit: str) -> None:
    """-1 is how some servers say that there is none; taken for one, a night ran at a request a minute."""
    limiter = a_limiter(4)
    lane = limiter.lane(None)
    headers = {f"x-ratelimit-limit-{name}": limit for name in ("requests", "tokens")}
    for _ in range(20):
        with await limiter.slot(lane, 100) as slot:
            slot.succeeded(100, headers, anyio.current_time())
    assert (anyio.current_time(), limiter.requests.limit, limiter.tokens.limit) == (0, None, None)


async def test_answers_go_before_rewrites() -> None:
    """What is started gets finished: else all rewrites are paid before the first answer, and a stop wastes them."""
    limiter = a_limiter(1)
    watch = Watch(limiter)
    answer, rewrite = limiter.lane(None), limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(watch.request, rewrite, f"rewrite {n}", 0, 1, n / 100)
        await anyio.sleep(0.5)
        for n in range(2):
            tasks.start_soon(watch.request, answer, f"answer {n}", 0, 1, n / 100)
    assert [name for _, name, _ in watch.started] == ["rewrite 0", "answer 0", "answer 1", "rewrite 1", "rewrite 2"]


async def test_a_full_lane_lets_the_other_pass() -> None:
    """Answers at their own cap must not hold back rewrites that have room."""
    limiter = a_limiter(3)
    watch = Watch(limiter)
    answer, rewrite = limiter.lane(1), limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(watch.request, answer, f"answer {n}", 0, 10, n / 100)
        for n in range(2):
            tasks.start_soon(watch.request, rewrite, f"rewrite {n}", 0, 1, n / 100)
        await anyio.sleep(0.5)
        assert {name for _, name, _ in watch.started} == {"answer 0", "rewrite 0", "rewrite 1"}


@settings(max_examples=40, deadline=None)
@given(per_minute=st.floats(1, 600), arrivals=st.lists(SECONDS, min_size=2, max_size=60), seconds=SECONDS)
def test_no_minute_sees_more_requests_than_the_limit(per_minute: float, arrivals: list[float], seconds: float) -> None:
    """The server counts over any minute, or second by second; and a smooth pace never bursts."""

    async def main() -> None:
        limiter = a_limiter(50, requests_per_minute=per_minute)
        watch = Watch(limiter)
        lane = limiter.lane(None)
        async with anyio.create_task_group() as tasks:
            for n, arrive in enumerate(arrivals):
                tasks.start_soon(watch.request, lane, str(n), 0, seconds, arrive)
        times = watch.times()
        assert len(times) == len(arrivals)
        if per_minute <= 240:
            assert all(later - earlier >= 60 / per_minute - 1e-6 for earlier, later in pairwise(times))
        for first in times:
            assert sum(first <= at < first + 1 for at in times) <= math.ceil(per_minute / 60)
            assert sum(first <= at < first + 60 for at in times) <= per_minute

    in_virtual_time(main)


@settings(max_examples=40, deadline=None)
@given(per_minute=st.floats(50, 5000), sizes=st.lists(st.floats(1, 800), min_size=2, max_size=40))
def test_no_minute_sees_more_tokens_than_the_limit(per_minute: float, sizes: list[float]) -> None:
    """The server counts over any minute; a request that is larger than a whole one has its minute alone."""

    async def main() -> None:
        limiter = a_limiter(50, tokens_per_minute=per_minute)
        watch = Watch(limiter)
        lane = limiter.lane(None)
        async with anyio.create_task_group() as tasks:
            for n, size in enumerate(sizes):
                tasks.start_soon(watch.request, lane, str(n), size)
        assert len(watch.started) == len(sizes)
        starts = [at for at, _, _ in watch.started]
        for first in starts:
            minute = [tokens for at, _, tokens in watch.started if first <= at < first + 60]
            assert sum(minute) <= per_minute + 1e-6 or len(minute) == 1

    in_virtual_time(main)


async def test_a_pace_is_kept_and_not_undercut() -> None:
    """A limit of 60 a minute that lets 30 through costs half the night."""
    limiter = a_limiter(10, requests_per_minute=60)
    watch = Watch(limiter)
    lane = limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for n in range(31):
            tasks.start_soon(watch.request, lane, str(n))
    assert watch.times() == pytest.approx([float(n) for n in range(31)])


async def test_a_request_larger_than_the_budget_goes_alone() -> None:
    """It can never fit a minute: held back it would wait for ever, and all behind it too."""
    limiter = a_limiter(tokens_per_minute=100)
    watch = Watch(limiter)
    lane = limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for n, tokens in enumerate((10, 1000, 10)):
            tasks.start_soon(watch.request, lane, str(tokens), tokens, 1, n / 100)
    assert watch.times() == pytest.approx([0, 60.3, 120.6])


@pytest.mark.parametrize(("used", "next_at"), [(200, 60.3), (50, 30.0), (0, 60.3)])
async def test_real_usage_corrects_the_estimate(used: int, next_at: float) -> None:
    """Replies are longer or shorter than guessed; without a correction the limit is broken, or half of it wasted."""
    limiter = a_limiter(tokens_per_minute=100)
    watch = Watch(limiter)
    lane = limiter.lane(None)
    with await limiter.slot(lane, 100) as slot:
        await anyio.sleep(1)
        slot.succeeded(used, {}, anyio.current_time())
    await watch.request(lane, "next", 10)
    assert watch.times() == pytest.approx([next_at])


@settings(max_examples=60, deadline=None)
@given(after=st.none() | st.floats(0.5, 500), refused=st.integers(1, 20), lag=st.floats(0, 0.4))
def test_one_episode_of_rate_limits_pauses_everyone_once(after: float | None, refused: int, lag: float) -> None:
    """Twenty open requests refused at once are one offence: the wait is taken once, in full, by all, and no longer."""

    async def main() -> None:
        limiter = a_limiter(32)
        lane = limiter.lane(None)
        began, told = [], []

        async def one(n: int) -> None:
            with await limiter.slot(lane, 1) as slot:
                await anyio.sleep(1 + n * lag / refused)
                told.append((anyio.current_time(), slot.rate_limited(after)))
            with await limiter.slot(lane, 1):
                began.append(anyio.current_time())

        limiter.note_success(Taken(0, 1), {}, anyio.current_time())
        for _ in range(32):
            limiter.note_success(Taken(0, 1), {}, anyio.current_time())
        async with anyio.create_task_group() as tasks:
            for n in range(refused):
                tasks.start_soon(one, n)
        named = 1.0 if after is None else after
        assert len(began) == refused
        assert min(began) >= max(at + named for at, _ in told) - 1e-9
        assert max(began) <= max(at for at, _ in told) + named * 1.1 + 1e-9
        assert all(named <= wait_s <= named * 1.1 + 1e-9 for _, wait_s in told)

    in_virtual_time(main)


async def test_a_shorter_wait_does_not_cut_a_longer_one() -> None:
    """Of two waits that a server names, the longer one binds; also when the shorter one comes last."""
    limiter = a_limiter()
    lane = limiter.lane(None)
    with await limiter.slot(lane, 1) as first, await limiter.slot(lane, 1) as second:
        await anyio.sleep(1)
        first.rate_limited(100)
        second.rate_limited(5)
    with await limiter.slot(lane, 1) as slot:
        assert slot.started >= 101


async def test_guessed_pauses_double_from_one_episode_to_the_next() -> None:
    """A server that names no wait must be asked less and less, not every second of the night."""
    limiter = a_limiter()
    lane = limiter.lane(None)
    waits = []
    for _ in range(9):
        with await limiter.slot(lane, 1) as slot:
            await anyio.sleep(0.1)
            waits.append(slot.rate_limited(None))
    for wait_s, guess in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert guess <= wait_s <= guess * 1.1
    with await limiter.slot(lane, 1) as slot:
        slot.succeeded(1, {}, anyio.current_time())
    with await limiter.slot(lane, 1) as slot:
        assert slot.rate_limited(None) <= 1.1


async def test_after_a_pause_the_start_is_slow_and_grows_step_by_step() -> None:
    """All waiters at once would be refused at once."""
    limiter = a_limiter(64)
    watch = Watch(limiter)
    lane = limiter.lane(None)
    for _ in range(64):
        limiter.note_success(Taken(0, 1), {}, anyio.current_time())
    limiter.pause(10, since=anyio.current_time())
    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(watch.request, lane, str(n), 0, 5)
        await anyio.sleep(11.5)
        assert limiter.open == 4
        await anyio.sleep(5)
        assert limiter.open == 8


@settings(max_examples=60, deadline=None)
@given(
    cancelled=st.lists(st.booleans(), min_size=1, max_size=20), at=st.integers(1, 200).map(lambda n: n / 10 + 0.012345)
)
def test_a_cancelled_waiter_leaves_no_trace(cancelled: list[bool], at: float) -> None:
    """A slot or budget taken by one who is gone would be lost for the rest of the run.

    Whoever is given a slot in the very moment of leaving costs one interval, so they leave at odd moments.
    """

    async def main() -> None:
        limiter = a_limiter(2, requests_per_minute=30, tokens_per_minute=600)
        watch = Watch(limiter)
        lane, other = limiter.lane(None), limiter.lane(1)

        async def leave(scope: anyio.CancelScope, n: int) -> None:
            with scope:
                await watch.request(other if n % 2 else lane, "gone", 20, 3)

        async with anyio.create_task_group() as tasks:
            for n, gone in enumerate(cancelled):
                scope = anyio.CancelScope(deadline=at if gone else float("inf"))
                tasks.start_soon(leave, scope, n)
        assert (limiter.open, lane.open, other.open) == (0, 0, 0)
        assert not lane.waiting
        assert not other.waiting
        # Only what really started was taken from the budget: the next waits for no more than that.
        paced = [started for started, _, _ in watch.started]
        before = anyio.current_time()
        await watch.request(lane, "next", 1)
        assert watch.times()[-1] <= max(before, (paced[-1] if paced else 0) + 2.0 / 0.985) + 1e-6

    in_virtual_time(main)


async def test_a_drain_wakes_all_who_wait_and_lets_the_open_finish() -> None:
    """A signal must not wait for a pause of ten minutes; and an open request is paid for, so it is awaited."""
    drain = anyio.Event()
    limiter = a_limiter(2, drain=drain)
    watch = Watch(limiter)
    lanes = limiter.lane(None), limiter.lane(None)
    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(watch.request, lanes[n % 2], str(n), 0, 30)
        await anyio.sleep(1)
        limiter.pause(600, since=anyio.current_time())
        drain.set()
        limiter.wake_all()
        await anyio.sleep(0.001)
        assert (watch.drained, limiter.open) == (8, 2)
    assert anyio.current_time() == pytest.approx(30)
    with pytest.raises(Drained), await limiter.slot(lanes[0], 1):
        raise AssertionError
    assert limiter.open == 0


async def test_a_request_that_fails_gives_its_slot_back() -> None:
    """One lost slot for each error, and after sixteen of them the run stands still."""
    limiter = a_limiter(1)
    lane = limiter.lane(None)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), await limiter.slot(lane, 1):
            raise ZeroDivisionError
    assert (limiter.open, lane.open) == (0, 0)


async def test_a_slot_says_when_it_was_given() -> None:
    """The audit tells waiting from answering; without it nobody knows what to tune."""
    limiter = a_limiter(requests_per_minute=6)
    lane = limiter.lane(None)
    given = []
    for _ in range(3):
        with await limiter.slot(lane, 1) as slot:
            given.append(slot.started)
            await anyio.sleep(4)
    assert given == pytest.approx([0, 10, 20])
