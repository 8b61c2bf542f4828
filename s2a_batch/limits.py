"""What one account and model may have at a time and in a minute: open requests, requests, tokens, shared pauses.

Knows anyio's clock. Invariants: a slot is held only while a request is open or its reply unwritten; what is started
gets finished, so a lane made earlier goes first; a wait that the server names holds back everyone, once; while the
endpoint is down one request at a time asks whether it is back; while a person holds it back nothing is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, TypeAlias

import anyio

from s2a_batch.errors import Drained
from s2a_batch.headers import number, seconds
from s2a_batch.lanes import Lanes, Waiter
from s2a_batch.pace import Bucket, LearntRate, Taken, Window

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from s2a_batch.lanes import Lane
    from s2a_batch.orders import Order

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_GUESSED_PAUSE_S: Final = 60.0
_LONGEST_RESET_S: Final = 60.0
_SPREAD: Final = 0.02
_Names: TypeAlias = tuple[str, str, str]
_OF_REQUESTS: Final = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_OF_TOKENS: Final = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")


class Slot:
    """A permission to have one request open; tells the limiter how it went.

    As a context manager it is given back at the end of the block, unless it is kept.
    A request whose reply is paid for counts as open until that is written, so that a kill loses no more than these.

    Attributes:
        started: When it was given, on anyio's clock.
        kept: Stay taken after the block, until `release`.
    """

    def __init__(self, limiter: Limiter, lane: Lane, taken: Taken, one: Taken) -> None:
        self._limiter = limiter
        self._lane: Lane | None = lane
        self.kept = False
        self._taken = taken
        self._one = one
        self.started = one.at

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.release()

    def release(self) -> None:
        """Give the slot back, if that has not been done."""
        if self._lane is not None:
            self._limiter.leave(self._lane)
            self._lane = None

    def succeeded(self, used_tokens: int, headers: Mapping[str, str], now: float) -> None:
        """The request was answered; `used_tokens` (0: unknown) correct the estimate, the headers may tell limits."""
        if used_tokens:
            self._limiter.tokens.correct(self._taken, used_tokens)
        self._limiter.note_success(self._one, headers, now)

    def rate_limited(self, retry_after_s: float | None) -> float:
        """The server asks to wait; pauses everyone and returns for how many seconds."""
        self._limiter.tokens.correct(self._taken, 0.0)
        return self._limiter.pause(retry_after_s, since=self.started)

    def unanswered(self) -> float:
        """The endpoint is down for everyone; pauses everyone and returns for how many seconds."""
        self._limiter.tokens.correct(self._taken, 0.0)
        return self._limiter.go_down(since=self.started)


class Limiter:
    """Limits of one account and model, shared by all that use it.

    Args:
        open_requests: Most requests open at a time; reached by slow start, so that a wrong key costs a handful.
        adaptive: Look for the best number of open requests up to that: a refusal cuts it, answers let it grow while
            it is used up.
        requests_per_minute: None: learnt from the server's headers, or from its refusals.
        tokens_per_minute: Input and output together; None: learnt from the server's headers.
        drain: When set, no request starts any more.
        rng: Spreads wake-ups.
    """

    def __init__(  # noqa: PLR0913  the limits, each once
        self,
        *,
        open_requests: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        drain: anyio.Event,
        rng: random.Random,
        adaptive: bool = False,
    ) -> None:
        self.open = 0
        self.paused_until = float("-inf")
        self.cap = open_requests
        self.adaptive = adaptive
        self.stages: tuple[str, ...] = ()
        self.held_since: float | None = None
        self._held_s = 0.0
        self.down = False
        self.requests = Bucket(requests_per_minute)
        self.tokens = Bucket(tokens_per_minute)
        self.learnt = LearntRate()
        self._window = Window(open_requests, adaptive=adaptive)
        self._drain = drain
        self._rng = rng
        self._lanes = Lanes()
        self._paused_at = float("-inf")
        self._strikes = 0

    def lane(self, cap: int | None, *stages: str) -> Lane:
        """A further lane, for the stage of this name; lanes made earlier go first when several wait."""
        self.stages += stages
        return self._lanes.add(cap)

    async def slot(self, lane: Lane, tokens: float) -> Slot:
        """A slot for one request, as soon as there is one.

        Args:
            lane: The stage's lane.
            tokens: Estimate of the request's input and output tokens.

        Raises:
            Drained: The run is draining. A cancelled waiter takes nothing.
        """
        return Slot(self, lane, *(await self._admit(lane, tokens, anyio.current_time())))

    def leave(self, lane: Lane) -> None:
        """One request of this lane is no longer open."""
        self.open -= 1
        lane.open -= 1
        self._give()

    def note_success(self, one: Taken, headers: Mapping[str, str], now: float) -> None:
        """A request was answered: the endpoint is up, and more may be open."""
        self.down = False
        self._strikes = 0
        self.learnt.answered(one, now)
        self._heed(_OF_REQUESTS, self.requests, headers, now)
        self._heed(_OF_TOKENS, self.tokens, headers, now)
        self._window.grow(self.open)
        self._give()

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
            self._window.shrink()
            if retry_after_s is not None and self.requests.limit is None:
                self.learnt.refused(since, retry_after_s)
        return self._hold(retry_after_s, now)

    def go_down(self, *, since: float) -> float:
        """The endpoint is gone for everyone: one request at a time asks, ever more seldom; returns the seconds.

        Args:
            since: When the lost request began; one that began before the current pause belongs to it.
        """
        now = anyio.current_time()
        if since < self._paused_at:
            return max(0.0, self.paused_until - now)
        self.down = True
        self._strikes += 1
        self._paused_at = now
        self._window.begin()
        return self._hold(None, now)

    def wake_all(self) -> None:
        """Let every waiter look at the drain event."""
        self._lanes.wake_all()

    def heed(self, order: Order) -> None:
        """Change what a person changed; what it frees is given at once, and what is open finishes.

        A limit that is named takes the place of one that was learnt.
        """
        now = anyio.current_time()
        if order.held is False and self.held_since is not None:
            self._held_s += now - self.held_since
            self.held_since = None
        elif order.held and self.held_since is None:
            self.held_since = now
        if order.stage is None or order.stage in self.stages:
            if order.open_requests is not None:
                self.cap, self.adaptive = order.open_requests, order.adaptive
                self._window.tune(self.cap, adaptive=self.adaptive)
            if order.requests_per_minute is not None:
                self.requests.tune(order.requests_per_minute, now)
                self.learnt = LearntRate()
            if order.tokens_per_minute is not None:
                self.tokens.tune(order.tokens_per_minute, now)
        self._give()

    def held_s(self) -> float:
        """For how many seconds up to now a person held everything back."""
        return self._held_s + (0.0 if self.held_since is None else anyio.current_time() - self.held_since)

    def _hold(self, wait_s: float | None, now: float) -> float:
        guess = min(_LONGEST_GUESSED_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._strikes - 1))
        # A named wait that did not help once is not enough: "0" would make a hot loop of it.
        least = guess if self._strikes > 1 else 0.0
        # Added, never taken off: asking again before a named wait is over counts as a further offence.
        held = (guess if wait_s is None else max(wait_s, least)) * (1 + _SPREAD * self._rng.random())
        self.paused_until = max(self.paused_until, now + held)
        return held

    def _heed(self, names: _Names, bucket: Bucket, headers: Mapping[str, str], now: float) -> None:
        """Learn a limit that the job does not give, and wait where a budget is used up."""
        if bucket.limit is None and (limit := number(headers.get(names[0]))) is not None and limit >= 1:
            bucket.limit = limit  # -1 is how some say that there is none
        left = number(headers.get(names[1]))
        if left is not None and left <= 0:
            reset_s = seconds(headers.get(names[2]))
            if reset_s is not None and reset_s <= _LONGEST_RESET_S:
                self.paused_until = max(self.paused_until, now + reset_s)

    async def _admit(self, lane: Lane, tokens: float, now: float) -> tuple[Taken, Taken]:
        if self._is_free(lane) and self._delay_s(tokens, now) <= 0:
            return self._take(lane, tokens, now)
        me = Waiter(tokens)
        lane.waiting.append(me)
        try:
            while me.taken is None or self._drain.is_set():
                await self._wait(me)
        except BaseException:
            if me.taken is None:
                lane.waiting.remove(me)
                self._give()
            else:
                self.leave(lane)
            raise
        return me.taken

    async def _wait(self, me: Waiter) -> None:
        if self._drain.is_set():
            raise Drained
        if self._next() is not me:
            await me.wake.wait()
        elif (delay_s := self._delay_s(me.tokens, anyio.current_time())) > 0:
            with anyio.move_on_after(delay_s):
                await me.wake.wait()
        me.wake = anyio.Event()
        self._give(me)

    def _is_free(self, lane: Lane) -> bool:
        return not self._drain.is_set() and lane.has_room() and self._has_room() and self._lanes.next() is None

    def _has_room(self) -> bool:
        return self.held_since is None and self.open < (1 if self.down else self._window.size)

    def _next(self) -> Waiter | None:
        if not self._has_room():
            return None
        lane = self._lanes.next()
        return None if lane is None else lane.waiting[0]

    def _delay_s(self, tokens: float, now: float) -> float:
        if self.paused_until > now:
            return self.paused_until - now
        return max(self.learnt.delay_s(now), self.requests.delay_s(now, 1), self.tokens.delay_s(now, tokens))

    def _take(self, lane: Lane, tokens: float, now: float) -> tuple[Taken, Taken]:
        self.open += 1
        lane.open += 1
        self.requests.take(now, 1)
        return self.tokens.take(now, tokens), self.learnt.take(now)

    def _give(self, me: Waiter | None = None) -> None:
        """Give what is free to those who wait first, all at once: one a turn of the loop would cost 0.2 ms a record."""
        while not self._drain.is_set() and self._has_room() and (lane := self._lanes.next()) is not None:
            now, waiter = anyio.current_time(), lane.waiting[0]
            if self._delay_s(waiter.tokens, now) > 0:
                if waiter is not me:
                    waiter.wake.set()  # it waits for that itself
                return
            waiter.taken = self._take(lane, waiter.tokens, now)
            lane.waiting.popleft().wake.set()
