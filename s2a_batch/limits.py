"""What one account and model may have at a time and in a minute: open requests, requests, tokens, shared pauses.

Knows anyio's clock. Invariants: a slot is held only while a request is open; what is started gets finished, so a lane
of lower number goes first; a request larger than the token budget goes alone, it never waits for ever; a wait that the
server names holds back everyone, once.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch.errors import Drained

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

_FIRST_OPEN: Final = 4
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_GUESSED_PAUSE_S: Final = 60.0
_SPREAD: Final = 0.1


@dataclass(slots=True)
class Lane:
    """One stage's way through a limiter.

    Attributes:
        cap: Open requests of this stage, None for no cap of its own.
        open: How many are open now.
    """

    cap: int | None
    open: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)

    def has_room(self) -> bool:
        """Whether the lane's own cap allows one more."""
        return self.cap is None or self.open < self.cap


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: float
    wake: anyio.Event = field(default_factory=anyio.Event)


class _Bucket:
    """A smooth bucket (GCRA): an amount is let through when all before it has drained at the limit's rate."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 0.0 if per_minute is None else 60.0 / per_minute
        self._free_at = 0.0

    def delay_s(self, now: float) -> float:
        return max(0.0, self._free_at - now)

    def take(self, now: float, amount: float) -> None:
        self._free_at = max(now, self._free_at) + amount * self._seconds_each

    def correct(self, amount: float) -> None:
        self._free_at += amount * self._seconds_each


class Slot:
    """A permission to have one request open; tells the limiter how it went.

    Attributes:
        started: When it was given, on anyio's clock.
        waited_s: Seconds it was waited for.
    """

    def __init__(self, limiter: Limiter, tokens: float, *, started: float, waited_s: float) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self.started = started
        self.waited_s = waited_s

    def succeeded(self, used_tokens: int) -> None:
        """The request was answered; `used_tokens` (0: unknown) correct the estimate."""
        self._limiter.note_success(used_tokens - self._tokens if used_tokens else 0.0)

    def rate_limited(self, retry_after_s: float | None) -> float:
        """The server asks to wait; pauses everyone and returns for how many seconds."""
        return self._limiter.pause(retry_after_s, since=self.started)


class Limiter:
    """Limits of one account and model, shared by all that use it.

    Args:
        open_requests: Most requests open at a time; reached by slow start, so that a wrong key costs a handful.
        requests_per_minute: None for no limit.
        tokens_per_minute: Input and output together; None for no limit.
        drain: When set, no request starts any more.
        rng: Spreads wake-ups.
    """

    def __init__(
        self,
        *,
        open_requests: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        drain: anyio.Event,
        rng: random.Random,
    ) -> None:
        self.open = 0
        self.paused_until = 0.0
        self.cap = open_requests
        self._window = min(_FIRST_OPEN, open_requests)
        self._requests = _Bucket(requests_per_minute)
        self._tokens = _Bucket(tokens_per_minute)
        self._drain = drain
        self._rng = rng
        self._lanes: list[Lane] = []
        self._paused_at = float("-inf")
        self._strikes = 0

    def lane(self, cap: int | None) -> Lane:
        """A further lane; lanes made earlier go first when several wait."""
        self._lanes.append(Lane(cap))
        return self._lanes[-1]

    @asynccontextmanager
    async def slot(self, lane: Lane, tokens: float) -> AsyncIterator[Slot]:
        """Hold a slot while a request is open.

        Args:
            lane: The stage's lane.
            tokens: Estimate of the request's input and output tokens.

        Raises:
            Drained: The run is draining. A cancelled waiter takes nothing.
        """
        asked = anyio.current_time()
        await self._admit(lane, tokens)
        now = anyio.current_time()
        try:
            yield Slot(self, tokens, started=now, waited_s=now - asked)
        finally:
            self.open -= 1
            lane.open -= 1
            self._nudge()

    def note_success(self, surplus_tokens: float) -> None:
        """One more may be open; the token bucket learns what the request really took."""
        self._window = min(self.cap, self._window + 1)
        self._strikes = 0
        self._tokens.correct(surplus_tokens)
        self._nudge()

    def pause(self, retry_after_s: float | None, *, since: float) -> float:
        """Hold everyone back, and start slowly after; returns the seconds.

        Args:
            retry_after_s: What the server named; None: a guess that doubles from one episode to the next.
            since: When the refused request began; one that began before the current pause is the same episode.
        """
        now = anyio.current_time()
        if since >= self._paused_at:
            self._strikes += 1
            self._paused_at = now
        guess = min(_LONGEST_GUESSED_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._strikes - 1))
        # Added, never taken off: asking again before a named wait is over counts as a further offence.
        wait_s = (guess if retry_after_s is None else retry_after_s) * (1 + _SPREAD * self._rng.random())
        self.paused_until = max(self.paused_until, now + wait_s)
        self._window = min(_FIRST_OPEN, self.cap)
        return wait_s

    def wake_all(self) -> None:
        """Let every waiter look at the drain event."""
        for lane in self._lanes:
            for waiter in lane.waiting:
                waiter.wake.set()

    async def _admit(self, lane: Lane, tokens: float) -> None:
        me = _Waiter(tokens)
        lane.waiting.append(me)
        try:
            while True:
                if self._drain.is_set():
                    raise Drained
                delay_s = self._delay_s() if self._next() is me else None
                if delay_s is not None and delay_s <= 0:
                    break
                with anyio.move_on_after(delay_s):
                    await me.wake.wait()
                me.wake = anyio.Event()
            self._take(lane, tokens)
        finally:
            lane.waiting.remove(me)
            self._nudge()

    def _next(self) -> _Waiter | None:
        if self.open >= self._window:
            return None
        return next((lane.waiting[0] for lane in self._lanes if lane.waiting and lane.has_room()), None)

    def _delay_s(self) -> float:
        now = anyio.current_time()
        return max(self.paused_until - now, self._requests.delay_s(now), self._tokens.delay_s(now))

    def _take(self, lane: Lane, tokens: float) -> None:
        now = anyio.current_time()
        self.open += 1
        lane.open += 1
        self._requests.take(now, 1)
        self._tokens.take(now, tokens)

    def _nudge(self) -> None:
        waiter = self._next()
        if waiter is not None:
            waiter.wake.set()
