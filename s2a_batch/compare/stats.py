"""Statistics of right and wrong answers to the same records: intervals and tests. Pure functions over counts.

The bootstrap is computed and not drawn. A resample of n records of which a share p is right holds Binomial(n, p) right
ones, and the sum of n resampled differences, each -1, 0 or 1, has the coefficients of (a/z + b + cz)^n as its
distribution; the intervals are the quantiles of these: what a percentile bootstrap of ever more resamples comes to.
Invariant: no randomness, so the same counts give the same figures on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVEL: Final = 0.95
_Z: Final = 1.959963984540054
_IMPOSSIBLE: Final = -math.inf


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, both within it."""

    low: float
    high: float


def bootstrap_share(right: int, n: int) -> Interval | None:
    """The percentile bootstrap's 95 % interval of a share; None without records."""
    if not n:
        return None
    low, high = _quantiles(_binomial(n, right / n))
    return Interval(low / n, high / n)


def wilson_share(right: int, n: int) -> Interval | None:
    """Wilson's score interval of a share, of use where the bootstrap has none: at 0 and at 1. None without records."""
    if not n:
        return None
    p, z = right / n, _Z * _Z
    centre, half = p + z / (2 * n), _Z * math.sqrt(p * (1 - p) / n + z / (4 * n * n))
    low = 0.0 if right == 0 else (centre - half) / (1 + z / n)
    high = 1.0 if right == n else (centre + half) / (1 + z / n)
    return Interval(low, high)


def bootstrap_difference(better: int, worse: int, n: int) -> Interval | None:
    """The percentile bootstrap's 95 % interval of a difference of two shares over the same records.

    Args:
        better: Records that the second arm alone has right.
        worse: Records that the first arm alone has right.
        n: All records; None comes back without any.
    """
    if not n:
        return None
    if not better:
        low, high = _quantiles(_binomial(n, worse / n))
        return Interval(-high / n, -low / n + 0.0)
    if not worse:
        return bootstrap_share(better, n)
    low, high = _quantiles(_trinomial(n, worse / n, better / n))
    return Interval((low - n) / n, (high - n) / n)


def adjusted_difference(better: int, worse: int, n: int) -> Interval | None:
    """An interval of the same difference that has a width also where nothing turned; None without records.

    Wald's with half a record more in each of the four cells (Agresti and Min 2005, Statistics in Medicine 24).
    """
    if not n:
        return None
    size, difference = n + 2, better - worse
    centre = difference / size
    half = _Z * math.sqrt((better + worse + 1) - difference * difference / size) / size
    return Interval(max(-1.0, centre - half), min(1.0, centre + half))


def mcnemar(better: int, worse: int) -> tuple[float, float]:
    """McNemar's test of two arms over the same records: the exact two-sided p, and its mid-p.

    Under the null hypothesis each record that the arms do not share falls to either side by an even chance, so the
    smaller count is binomial; mid-p counts the observed case by half (Fagerland et al. 2013).
    """
    n, least = better + worse, min(better, worse)
    logs = [_log_choose(n, k) - n * math.log(2) for k in range(least + 1)]
    tail, point = math.fsum(map(math.exp, logs)), math.exp(logs[-1])
    return min(1.0, 2 * tail), min(1.0, 2 * tail - point)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being several (Holm 1979), in the same order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = most
    return adjusted


def _quantiles(logs: list[float]) -> tuple[int, int]:
    """The 2.5 and the 97.5 % point of a distribution over 0, 1, .., given by the logarithms of its weights."""
    top = max(logs)
    sums = list(accumulate(math.exp(log - top) for log in logs))
    tail = (1 - LEVEL) / 2 * sums[-1]
    low = next(index for index, total in enumerate(sums) if total >= tail)
    # From the other end, so that both ends are cut alike.
    return low, next(
        index for index in range(len(sums) - 1, -1, -1) if sums[-1] - (sums[index - 1] if index else 0.0) >= tail
    )


def _binomial(n: int, p: float) -> list[float]:
    """Logarithms of the weights of 0 to n."""
    if p in (0.0, 1.0):
        return [0.0 if k == n * p else _IMPOSSIBLE for k in range(n + 1)]
    log_p, log_q = math.log(p), math.log1p(-p)
    return [_log_choose(n, k) + k * log_p + (n - k) * log_q for k in range(n + 1)]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _trinomial(n: int, down: float, up: float) -> list[float]:
    """Logarithms of the weights of sums -n to n, of n steps that go down or up with these chances, else stay."""
    lower = _coefficients(n, down, 1 - down - up, up)
    upper = _coefficients(n, up, 1 - down - up, down)
    return [*lower, *reversed(upper[:-1])]


def _coefficients(n: int, a: float, b: float, c: float) -> list[float]:
    """Logarithms of the first n + 1 coefficients of (a + bz + cz^2)^n.

    From f' g = n g' f for f = g^n: a k t[k] = b (n - k + 1) t[k-1] + c (2n - k + 2) t[k-2]. So far all terms are
    positive and nothing is lost to cancellation; the other half is the same with a and c changed.
    """
    log_a, log_c = math.log(a), math.log(c)
    log_b = math.log(b) if b > 0 else _IMPOSSIBLE
    logs = [n * log_a]
    for k in range(1, n + 1):
        one = log_b + math.log(n - k + 1) + logs[-1]
        two = log_c + math.log(2 * n - k + 2) + logs[-2] if k > 1 else _IMPOSSIBLE
        logs.append(_log_sum(one, two) - log_a - math.log(k))
    return logs


def _log_sum(x: float, y: float) -> float:
    high, low = max(x, y), min(x, y)
    return high if low == _IMPOSSIBLE else high + math.log1p(math.exp(low - high))
