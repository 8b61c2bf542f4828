"""What one process meets at an account holds back all, once; and the shares together never pass the limit."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2a_batch.share import Share
from s2a_batch.siblings import Gauge, Notice, SharedLimiter, ShownLimiter
from tests.fakes import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


class Crew:
    """The limiters of several processes on one account, joined as by the process that passes notices on."""

    def __init__(
        self, of: int, *, open_requests: int = 16, per_minute: float | None = None, tokens: float | None = None
    ) -> None:
        self.told: list[tuple[int, Notice]] = []
        self.drain = anyio.Event()
        self.limiters: list[SharedLimiter] = []
        for index in range(of):
            share = Share(index, of)
            limiter = SharedLimiter(
                open_requests=share.count(open_requests),
                requests_per_minute=None if per_minute is None else share.rate(per_minute),
                tokens_per_minute=None if tokens is None else share.rate(tokens),
                drain=self.drain,
                rng=random.Random(index),  # noqa: S311  jitter
            )
            limiter.join(share, lambda notice, index=index: self._pass_on(index, notice))  # type: ignore[misc]
            self.limiters.append(limiter)
        self.lanes = [limiter.lane(None) for limiter in self.limiters]
        self.started: list[float] = []

    def _pass_on(self, index: int, notice: Notice) -> None:
        self.told.append((index, notice))
        for other, limiter in enumerate(self.limiters):
            if other != index:
                limiter.hear(notice)

    async def ask(self, index: int, seconds: float = 0.1, headers: Mapping[str, str] | None = None) -> None:
        """One good request of a process."""
        with await self.limiters[index].slot(self.lanes[index], 10) as slot:
            self.started.append(anyio.current_time())
            await anyio.sleep(seconds)
            slot.succeeded(10, headers or {}, anyio.current_time())

    async def refused(self, index: int, wait_s: float | None = 5.0) -> None:
        """One request of a process that is refused."""
        with await self.limiters[index].slot(self.lanes[index], 10) as slot:
            await anyio.sleep(0.1)
            slot.rate_limited(wait_s)

    async def lost(self, index: int) -> None:
        """One request of a process that finds nobody."""
        with await self.limiters[index].slot(self.lanes[index], 10) as slot:
            await anyio.sleep(0.1)
            slot.unanswered()


@settings(max_examples=25)
@given(of=st.integers(1, 5), limit=st.integers(5, 300), draw=st.randoms(use_true_random=False), tokens=st.booleans())
def test_no_minute_of_all_processes_together_holds_more_than_the_limit(
    of: int, limit: int, draw: random.Random, *, tokens: bool
) -> None:
    """A provider counts the account, not our processes; each refusal in its window costs everybody a wait."""

    async def run() -> list[float]:
        amount = {"tokens": limit * 10.0} if tokens else {"per_minute": float(limit)}
        crew = Crew(of, **amount)  # type: ignore[arg-type]
        async with anyio.create_task_group() as tasks:
            for _ in range(limit * 2 + 10):
                tasks.start_soon(crew.ask, draw.randrange(of), draw.random())
        return crew.started

    started = sorted(in_virtual_time(run))
    windows = (sum(1 for at in started if begin <= at < begin + 60) for begin in started)
    assert max(windows) <= limit


async def test_a_named_wait_holds_back_all_and_is_told_once() -> None:
    """Each refused request of one episode must not be passed on again and make the wait longer for everybody."""
    crew = Crew(3)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(crew.refused, 0)
    assert [index for index, notice in crew.told if notice.kind == "refused"] == [0]
    now = anyio.current_time()
    for index in range(3):
        await crew.ask(index)
    assert all(5.0 <= at - now + 0.1 <= 5.5 for at in crew.started)


async def test_refusals_of_two_processes_in_one_episode_are_one() -> None:
    """Both see the same full window: counting it twice would double the wait, and halve the pace for nothing."""
    crew = Crew(2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crew.refused, 0, None)
        tasks.start_soon(crew.refused, 1, None)
    assert len([notice for _, notice in crew.told if notice.kind == "refused"]) == 1
    assert all(0.9 < limiter.paused_until - anyio.current_time() < 1.1 for limiter in crew.limiters)


async def test_an_outage_is_known_to_all_and_so_is_its_end() -> None:
    """While a server restarts, processes that know nothing of it would each lose their records' attempts to it."""
    crew = Crew(3)
    await crew.lost(0)
    assert all(limiter.down for limiter in crew.limiters)
    await crew.lost(0)
    await crew.lost(0)
    await crew.ask(0)
    assert not any(limiter.down for limiter in crew.limiters)
    assert [notice.kind for _, notice in crew.told] == ["down", "down", "down", "up"]


async def test_who_waits_for_its_own_next_try_is_woken_by_the_end_of_the_outage() -> None:
    """After an hour's outage each process would wait up to a minute more, though the first one is answered already."""
    crew = Crew(2)
    await crew.lost(0)
    crew.limiters[1].hear(Notice("down", anyio.current_time()))
    assert crew.limiters[1].paused_until - crew.limiters[0].paused_until > 0.9
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crew.ask, 1)
        await crew.ask(0)
        back_at = anyio.current_time()
    assert crew.started[-1] - back_at < 0.01


async def test_an_old_success_ends_no_newer_outage() -> None:
    """A reply that was on its way when the server died says nothing of whether it is back."""
    crew = Crew(2)
    await crew.lost(0)
    await crew.lost(0)
    crew.limiters[1].hear(Notice("up", 0.0))
    assert crew.limiters[1].down


async def test_a_limit_that_the_server_tells_is_shared_out() -> None:
    """Each process reads the account's limit from its own replies; each taking all of it would pass it threefold."""
    crew = Crew(3)
    for index in range(3):
        await crew.ask(index, headers={"x-ratelimit-limit-requests": "100", "x-ratelimit-limit-tokens": "6000"})
    assert [limiter.requests.limit for limiter in crew.limiters] == [34, 33, 33]
    assert [limiter.tokens.limit for limiter in crew.limiters] == [2000, 2000, 2000]


async def test_a_limit_that_is_used_up_holds_back_all() -> None:
    """The reply that says `remaining: 0` reaches one process; the next request of any other would be refused."""
    crew = Crew(2)
    await crew.ask(0, headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7s"})
    told_at = anyio.current_time()
    await crew.ask(1)
    assert crew.started[-1] - told_at == pytest.approx(7)


async def test_what_is_shown_is_all_processes_together() -> None:
    """The person at the screen sees one run: open requests add up, and the longest wait is the one that holds."""
    crew = Crew(2, per_minute=60)
    for index in range(2):
        await crew.ask(index)
    await crew.refused(1)
    shown = ShownLimiter(crew.drain)
    shown.show(Gauge.of(limiter) for limiter in crew.limiters)
    now = anyio.current_time()
    assert (shown.cap, shown.open, shown.requests.limit, shown.tokens.limit) == (16, 0, 60, None)
    assert shown.paused_until == max(limiter.paused_until for limiter in crew.limiters) > now
    assert shown.requests.delay_s(now, 1) == min(limiter.requests.delay_s(now, 1) for limiter in crew.limiters)
