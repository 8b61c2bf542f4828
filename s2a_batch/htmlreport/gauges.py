"""Quantiles, courses over time and small choices of a stream that is read once.

Invariants: what each holds does not grow with the stream, and does not depend on its order; nothing here is random.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

_PER_OCTAVE: Final = 32
RESOLUTION: Final = 2 ** (0.5 / _PER_OCTAVE) - 1
"""A quantile is off by no more than this share of itself: 1.1 %; the least and the largest value are exact."""
_LEAST: Final = 1e-6


@dataclass(slots=True)
class Histogram:
    """Counts in buckets that grow by 2.2 %, for quantiles of positive numbers; about 1,900 buckets at most.

    Attributes:
        zeros: How many values were zero (or below a millionth).
    """

    n: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = 0.0
    zeros: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, value: float) -> None:
        """Count one value."""
        self.n += 1
        self.total += value
        if value < self.least:  # noqa: PLR1730  min() and max() take three times as long
            self.least = value
        if value > self.most:  # noqa: PLR1730
            self.most = value
        if value < _LEAST:
            self.zeros += 1
        else:
            bucket = math.floor(math.log2(value) * _PER_OCTAVE)
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add all that another one counted."""
        self.n += other.n
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)
        self.zeros += other.zeros
        for bucket, n in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + n

    def quantile(self, share: float) -> float | None:
        """The smallest value that at least this share of all values do not exceed; None without values."""
        if not self.n:
            return None
        rank = max(1, math.ceil(share * self.n - 1e-9))
        if rank == self.n:
            return self.most
        seen = self.zeros
        if rank <= seen:
            return max(0.0, self.least)
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(self.most, max(self.least, 2 ** ((bucket + 0.5) / _PER_OCTAVE)))
        return self.most

    @property
    def mean(self) -> float | None:
        """The mean, exact; None without values."""
        return self.total / self.n if self.n else None


@dataclass(slots=True)
class Moment:
    """What fell into one bin of time. Requests count where they began, records where they ended.

    Attributes:
        seconds: Of the requests, by stage.
        waited: Before they were sent, by stage.
    """

    answered: int = 0
    failed: int = 0
    rewritten: int = 0
    requests: int = 0
    rate_limited: int = 0
    errors: int = 0
    outage: int = 0
    waited: dict[str, Histogram] = field(default_factory=dict)
    seconds: dict[str, Histogram] = field(default_factory=dict)

    def merge(self, other: Moment) -> None:
        """Add what fell into the next bin, when two become one."""
        for name in ("answered", "failed", "rewritten", "requests", "rate_limited", "errors", "outage"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for stage, seconds in other.seconds.items():
            self.seconds.setdefault(stage, Histogram()).merge(seconds)
        for stage, waited in other.waited.items():
            self.waited.setdefault(stage, Histogram()).merge(waited)

    def request(self, stage: str, seconds: float, waited_s: float) -> None:
        """Count a request of a stage."""
        self.requests += 1
        if stage not in self.seconds:
            self.seconds[stage], self.waited[stage] = Histogram(), Histogram()
        self.seconds[stage].add(seconds)
        self.waited[stage].add(waited_s)


@dataclass(slots=True)
class Timeline:
    """Bins of time; when more than `most_bins` hold something, each two become one. Time without events costs nothing.

    Attributes:
        width_s: Of a bin; whole seconds, a power of two.
    """

    most_bins: int = 120
    width_s: int = 1
    bins: dict[int, Moment] = field(default_factory=dict)

    def at(self, moment_s: float) -> Moment:
        """The bin of this moment (seconds of Unix time), to count in."""
        number = int(moment_s // self.width_s)
        found = self.bins.get(number)
        if found is None:
            found = self.bins[number] = Moment()
            if len(self.bins) > self.most_bins:
                self._widen()
                return self.bins[int(moment_s // self.width_s)]
        return found

    def course(self) -> Iterator[tuple[int, Moment]]:
        """Each bin's beginning (Unix time) and what fell into it, in order."""
        for number in sorted(self.bins):
            yield number * self.width_s, self.bins[number]

    def merged(self, stage: str) -> tuple[Histogram, Histogram]:
        """A stage's seconds and waits over all bins."""
        seconds, waited = Histogram(), Histogram()
        for moment in self.bins.values():
            if stage in moment.seconds:
                seconds.merge(moment.seconds[stage])
                waited.merge(moment.waited[stage])
        return seconds, waited

    def _widen(self) -> None:
        while len(self.bins) > self.most_bins:
            narrow, self.bins = self.bins, {}
            self.width_s *= 2
            for number, moment in narrow.items():
                self.bins.setdefault(number // 2, Moment()).merge(moment)


@dataclass(slots=True)
class Least(Generic[T]):
    """The `size` things with the smallest marks; of equal marks the one with the smaller name.

    With equal marks and a record's key as name, which is a hash, this is a random sample that is the same each time.
    """

    size: int
    _heap: list[_Entry[T]] = field(default_factory=list)

    def wants(self, mark: tuple[float, ...], name: str) -> bool:
        """Whether it would take a thing, so that others need not be made."""
        if len(self._heap) < self.size:
            return True
        last = self._heap[0]
        return (mark, name) < (last.mark, last.name)

    def offer(self, mark: tuple[float, ...], name: str, thing: T) -> None:
        """Take it if it is among the smallest."""
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, _Entry(mark, name, thing))
        elif self.wants(mark, name):
            heapq.heapreplace(self._heap, _Entry(mark, name, thing))

    def things(self) -> list[T]:
        """From the smallest mark on."""
        return [entry.thing for entry in sorted(self._heap, reverse=True)]


@dataclass(slots=True)
class _Entry(Generic[T]):
    """Ordered backwards, so that the heap's first is the one to give up."""

    mark: tuple[float, ...]
    name: str
    thing: T

    def __lt__(self, other: _Entry[T]) -> bool:
        return (self.mark, self.name) > (other.mark, other.name)


@dataclass(slots=True)
class Slope:
    """A straight line through points by least squares, and how well they lie on it."""

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """Count one point (Welford's updates: no cancellation with large numbers)."""
        self.n += 1
        dx, dy = x - self.x, y - self.y
        self.x += dx / self.n
        self.y += dy / self.n
        self.xx += dx * (x - self.x)
        self.xy += dx * (y - self.y)
        self.yy += dy * (y - self.y)

    @property
    def slope(self) -> float | None:
        """Rise for each unit of x; None when all x are equal."""
        return self.xy / self.xx if self.xx > 0 else None

    @property
    def fit(self) -> float:
        """The share of the variance of y that the line explains, 0 to 1."""
        return self.xy**2 / (self.xx * self.yy) if self.xx > 0 and self.yy > 0 else 0.0
