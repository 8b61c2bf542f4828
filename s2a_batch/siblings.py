"""One process's share of what an account and model may have, which heeds what the other processes met.

Knows anyio's clock, which all processes of a machine read alike. Invariants: what holds one back (a wait that the
server names, an outage, its end) is told to all, once, by the one that met it; what is told is never told on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import anyio

from s2a_batch.limits import Limiter
from s2a_batch.pace import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from s2a_batch.pace import Taken
    from s2a_batch.share import Share

_WORTH_TELLING_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Notice:
    """What one process met at an account and model.

    Attributes:
        kind: Refused for its rate; the endpoint is down; it is up again; its headers say that a limit is used up.
        at: When the request began that met it; of a limit that is used up, until when.
        wait_s: The wait that the server named, None for none.
    """

    kind: Literal["refused", "down", "up", "used_up"]
    at: float
    wait_s: float | None = None


class SharedLimiter(Limiter):
    """As `Limiter`, for a share of the limits; `join` makes it one of several."""

    def join(self, share: Share, tell: Callable[[Notice], None]) -> None:
        """Take part.

        Args:
            share: Of limits that the server tells.
            tell: Tells the other processes.
        """
        self._share = share
        self._tell = tell

    def hear(self, notice: Notice) -> None:
        """Heed what another process met."""
        now = anyio.current_time()
        match notice.kind:
            case "refused":
                super().pause(notice.wait_s, since=notice.at)
            case "down":
                super().go_down(since=notice.at)
            case "used_up":
                self.paused_until = max(self.paused_until, notice.at)
            case "up" if self.down and notice.at >= self._paused_at:
                self.down = False
                self._strikes = 0
                self.paused_until = min(self.paused_until, now)
        self.wake_all()

    def pause(self, retry_after_s: float | None, *, since: float) -> float:
        """As for one process; the first to be refused tells the others."""
        if since >= self._paused_at:
            self._tell(Notice("refused", since, retry_after_s))
        return super().pause(retry_after_s, since=since)

    def go_down(self, *, since: float) -> float:
        """As for one process; the first to see it tells the others."""
        if since >= self._paused_at:
            self._tell(Notice("down", since))
        return super().go_down(since=since)

    def note_success(self, one: Taken, headers: Mapping[str, str], now: float) -> None:
        """As for one process; the first to see that the endpoint is back tells the others."""
        was_down, until = self.down, self.paused_until
        super().note_success(one, headers, now)
        if was_down:
            self._tell(Notice("up", one.at))
        if self.paused_until > until + _WORTH_TELLING_S:
            self._tell(Notice("used_up", self.paused_until))

    def _heed(self, names: tuple[str, str, str], bucket: Bucket, headers: Mapping[str, str], now: float) -> None:
        was = bucket.limit
        super()._heed(names, bucket, headers, now)
        if was is None and bucket.limit is not None:
            bucket.limit = self._share.rate(bucket.limit)


@dataclass(frozen=True, slots=True)
class Gauge:
    """How one process's limiter stands.

    Attributes:
        limits: A minute: of requests, of tokens, and of requests as refusals taught it; None where there is none.
        waits: Seconds until one more may go by each of these.
    """

    open: int
    cap: int
    down: bool
    paused_until: float
    limits: tuple[float | None, ...]
    waits: tuple[float, ...]
    adaptive: bool = False
    stages: tuple[str, ...] = ()

    @classmethod
    def of(cls, limiter: Limiter) -> Gauge:
        """Of this limiter, now."""
        now, buckets = anyio.current_time(), (limiter.requests, limiter.tokens, limiter.learnt.bucket)
        return cls(
            limiter.open,
            limiter.cap,
            limiter.down,
            limiter.paused_until,
            tuple([bucket.per_minute for bucket in buckets]),
            tuple([bucket.delay_s(now, 1) for bucket in buckets]),
            limiter.adaptive,
            limiter.stages,
        )


class _ShownBucket(Bucket):
    """A bucket that only shows what those of the processes say."""

    free_at: float = float("-inf")

    def delay_s(self, now: float, amount: float) -> float:
        del amount
        return max(0.0, self.free_at - now)


class ShownLimiter(Limiter):
    """All processes' shares together, for whoever looks; nothing goes through it."""

    def __init__(self, drain: anyio.Event) -> None:
        rng = random.Random(0)  # noqa: S311  draws nothing
        super().__init__(open_requests=1, requests_per_minute=None, tokens_per_minute=None, drain=drain, rng=rng)

    def show(self, gauges: Iterable[Gauge]) -> None:
        """Show how they stand."""
        found, now = list(gauges), anyio.current_time()
        self.open = sum(g.open for g in found)
        self.cap = sum(g.cap for g in found)
        self.adaptive, self.stages = found[0].adaptive, found[0].stages
        self.down = any(g.down for g in found)
        self.paused_until = max(g.paused_until for g in found)
        buckets = []
        for n in range(3):
            known = [limit for g in found if (limit := g.limits[n]) is not None]
            bucket = _ShownBucket(sum(known) if known else None)
            bucket.free_at = now + min(g.waits[n] for g in found)
            buckets.append(bucket)
        self.requests, self.tokens, self.learnt.bucket = buckets
