"""How much in a time, and how many at once: a bucket that holds exactly, a rate learnt from refusals, a window.

Pure arithmetic on times that are handed in. Invariants: no window of the bucket's length ever holds more than its limit
(by estimate, corrected by real usage), whatever the arrivals; an amount larger than the limit goes alone and holds up
the others for one window, never for ever.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

_MINUTE_S: Final = 60.0
# Servers enforce a minute's limit second by second too, and count arrivals: a fast pace is kept a little under its
# limit, so that a late timer may catch up.
_SHARE: Final = 0.985
_FAST_PER_SECOND: Final = 4.0
_LATE_S: Final = 0.005
"""Lateness of a timer that may be caught up, where it counts; more would be a burst."""
_MARGIN: Final = 1.005


@dataclass(slots=True)
class Taken:
    """One amount in a bucket's window; `correct` changes it while it is there."""

    at: float
    amount: float


class Bucket:
    """At most `limit` in any window.

    Args:
        limit: Amount in a window; None for no limit. It may be changed at any time.
        window_s: Length of the window in seconds.
        smooth: Spread evenly; else as soon as the window has room.
    """

    def __init__(self, limit: float | None, window_s: float = _MINUTE_S, *, smooth: bool = True) -> None:
        self._own_window_s = window_s
        self._set(limit)
        self._smooth = smooth
        self._window: deque[Taken] = deque()
        self._sum = 0.0
        self._free_at = float("-inf")

    def _set(self, limit: float | None) -> None:
        few = limit is not None and limit < 1  # less than one in a window is one in a longer window
        self.limit = 1.0 if few else limit
        self.window_s = self._own_window_s / limit if few and limit else self._own_window_s

    def tune(self, limit: float, now: float) -> None:
        """Hold another limit from now on, infinity for none: what the window holds counts on, the old pace does not."""
        self._set(limit if math.isfinite(limit) else None)
        self._free_at = min(self._free_at, now)

    @property
    def per_minute(self) -> float | None:
        """The limit as a minute has it; None for none."""
        return None if self.limit is None else self.limit * _MINUTE_S / self.window_s

    def delay_s(self, now: float, amount: float) -> float:
        """Seconds until this amount may be taken; 0 for at once."""
        if self.limit is None:
            return 0.0
        self._expire(now)
        return max(0.0, self._free_at - now if self._smooth else 0.0, self._room_at(amount) - now)

    def take(self, now: float, amount: float) -> Taken:
        """Take an amount; to be called when `delay_s` is 0."""
        taken = Taken(now, amount)
        if self.limit is None:
            return taken
        self._window.append(taken)
        self._sum += amount
        late_s = _LATE_S if self._is_fast() else 0.0
        self._free_at = max(now - late_s, self._free_at) + self._drain_s(amount)
        return taken

    def correct(self, taken: Taken, amount: float) -> None:
        """The amount was really this much."""
        if self._window and taken.at >= self._window[0].at:
            self._sum += amount - taken.amount
        self._free_at += self._drain_s(amount) - self._drain_s(taken.amount)
        taken.amount = amount

    def in_window(self, now: float) -> float:
        """What the window holds now."""
        self._expire(now)
        return self._sum

    def _drain_s(self, amount: float) -> float:
        """How long an amount keeps the smooth pace busy: at most one window."""
        if self.limit is None:
            return 0.0
        share = _SHARE if self._is_fast() else 1.0
        return min(amount / (self.limit * share), 1.0) * self.window_s

    def _is_fast(self) -> bool:
        return self.limit is not None and self.limit / self.window_s > _FAST_PER_SECOND

    def _room_at(self, amount: float) -> float:
        """When the window has room for an amount: when enough of the oldest has left it, at worst all of it."""
        surplus = self._sum + amount - (self.limit or 0.0)
        at = float("-inf")
        for taken in self._window:
            if surplus <= 0:
                break
            surplus -= taken.amount
            at = taken.at + self.window_s * _MARGIN
        return at

    def _expire(self, now: float) -> None:
        while self._window and self._window[0].at + self.window_s * _MARGIN <= now:
            self._sum -= self._window.popleft().amount
        if not self._window:
            self._sum = 0.0


class Window:
    """How many requests may be open: few at first, so that a wrong key costs a handful; each answer allows one more.

    Args:
        cap: Most that ever may be.
        adaptive: Look for the best number up to that: a refusal cuts it, answers let it grow while it is used up.

    Attributes:
        size: How many may be open now.
    """

    _FIRST: Final = 4
    _CUT: Final = 0.7

    def __init__(self, cap: int, *, adaptive: bool) -> None:
        self._cap = cap
        self._adaptive = adaptive
        self._slow_until = float(cap)
        self._works = False
        self.begin()

    def begin(self) -> None:
        """Start anew."""
        self._exact = float(min(self._FIRST, self._cap))
        self.size = int(self._exact)

    def tune(self, cap: int, *, adaptive: bool) -> None:
        """Another cap: a lower one at once; a higher fixed one at once too, when anything was ever answered."""
        self._cap, self._adaptive, self._slow_until = cap, adaptive, float(cap)
        self._exact = float(cap) if self._works and not adaptive else min(self._exact, float(cap))
        self.size = int(self._exact)

    def grow(self, in_use: int) -> None:
        """A request was answered: twice as many a round, then (adaptive) one more, and only while all are in use."""
        self._works = True
        if self.size == self._cap or (self._adaptive and in_use < self.size):
            return
        step = 1.0 if self._exact < self._slow_until else 1 / self._exact
        self._exact = min(float(self._cap), self._exact + step)
        self.size = int(self._exact)

    def shrink(self) -> None:
        """One cut an episode of refusals: adaptive, to a share of what was allowed; else back to the slow start."""
        if self._adaptive:
            self._exact = self._slow_until = max(1.0, self._exact * self._CUT)
            self.size = int(self._exact)
        else:
            self.begin()


class LearntRate:
    """The rate of a server that tells none: how many it took in the wait that it names, before it refused.

    Refused requests teach: what was answered of the window before the refusal is what the server takes in a window.
    A refusal with nothing answered before it is a storm and teaches nothing. A rate that fell to less than half is
    tried again soon, in steps that double; what is refused then has really fallen. After a calm minute one more is
    tried; a refusal right after it doubles the time to the next trial.
    """

    _CALM_S: Final = 60.0
    _LONGEST_CALM_S: Final = 960.0
    _RECOVERY_WINDOWS: Final = 3
    _GROWTH: Final = 1.05
    _CUT: Final = 0.95
    _ON_THE_WAY_S: Final = 0.05
    _KEPT: Final = 4096

    def __init__(self) -> None:
        self.bucket = Bucket(None, 1.0, smooth=False)
        self._answered: deque[float] = deque(maxlen=self._KEPT)
        self._refused: tuple[float, float] | None = None
        self._calm_s = self._CALM_S
        self._grow_at = float("inf")
        self._good = 0.0
        """What was once taken in a window, to go back to."""
        self._held: float | None = None
        """The limit before the last step of a recovery; None when it is over."""

    def answered(self, taken: Taken, now: float) -> None:
        """A request was answered; it reached the server some time between its start and now."""
        self._answered.append(taken.at)
        taken.at = min(now, taken.at + self._ON_THE_WAY_S)

    def refused(self, started: float, retry_after_s: float) -> None:
        """A request that started then was refused, with this wait: the first of its episode."""
        self._refused = (started, min(max(retry_after_s, 1.0), _MINUTE_S))

    def delay_s(self, now: float) -> float:
        """Seconds until one more may start."""
        if self._refused is not None:
            self._learn(*self._refused, now)
        elif now >= self._grow_at and self.bucket.limit is not None:
            self._grow(self.bucket.limit, now)
        return self.bucket.delay_s(now, 1)

    def take(self, now: float) -> Taken:
        """One starts."""
        return self.bucket.take(now, 1)

    def _grow(self, limit: float, now: float) -> None:
        if limit < self._good:
            self._held = limit
            self.bucket.limit = min(self._good, 2 * limit)
        else:
            self._held = None
            self.bucket.limit = max(limit + 1, limit * self._GROWTH)
        self._grow_at = now + self._wait_s(self.bucket.limit)

    def _wait_s(self, limit: float) -> float:
        return self._RECOVERY_WINDOWS * self.bucket.window_s if limit < self._good else self._calm_s

    def _learn(self, refused_at: float, window_s: float, now: float) -> None:
        """Called when the pause is over, so that all that was open then has been answered or refused."""
        self._refused = None
        took = sum(1 for started in self._answered if refused_at - window_s < started <= refused_at)
        if not took:
            self._grow_at = max(self._grow_at, now + self._wait_s(self.bucket.limit or 0.0))
            return
        scale = window_s / self.bucket.window_s
        known = None if self.bucket.limit is None else self.bucket.limit * scale
        limit, self._good = float(took), self._good * scale
        if known is None:
            self._good = limit
        elif self._held is not None:  # on the way back: it has really fallen
            limit = self._good = max(1.0, self._held * scale)
        elif took >= known / 2 and known >= self._good:  # a request too many, not another limit
            self._calm_s = min(2 * self._calm_s, self._LONGEST_CALM_S)
            limit = self._good = max(1.0, float(int(min(known - 1, known * self._CUT))))
        self._held = None
        self.bucket = Bucket(limit, window_s, smooth=False)
        self._grow_at = now + self._wait_s(limit)
