"""What tokens cost, and what one call with each original prompt would have taken instead.

The estimate: a prompt's tokens by its characters, at the rate that the rewrite stage's own requests show; the same
answer; the answer stage's price. Invariant: only records whose every token is known are compared, so that both sides
are of the same records; a price that is not known is None.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from s2a_batch.htmlreport.gauges import Slope
from s2a_batch.records import Usage

if TYPE_CHECKING:
    from s2a_batch.htmlreport.readings import MeasuredReading, OneCallReading, SizeReading
    from s2a_batch.htmlreport.rows import Part, Row, Tokens
    from s2a_batch.prices import CostOf

_SIZES: Final = (0, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
_PROBE: Final = 100_000
_REMEMBERED: Final = 8_192
_ENOUGH: Final = 8
_FIT: Final = 0.8
_MOST_PER_CHAR: Final = 4.0


class Bill:
    """One stage's price.

    A list price costs 0.14 ms to look up, 2 minutes for a million requests; so where it is found to be a straight line
    up to 100,000 tokens, it is taken as one up to there.

    Args:
        cost_of: None when no price is known.
    """

    def __init__(self, cost_of: CostOf | None) -> None:
        self._cost_of = cost_of
        self._remembered: dict[tuple[int, int, int], float] = {}
        self._line = None if cost_of is None else _line(cost_of)

    def usd(self, given: float, cached: float, came: float) -> float | None:
        """What so many tokens in one request cost; None when no price is known."""
        if self._line is not None and given <= _PROBE and came <= _PROBE:
            a, b, c = self._line
            return (given - min(given, cached)) * a + min(given, cached) * b + came * c
        if self._cost_of is None:
            return None
        key = (round(given), round(cached), round(came))
        if key not in self._remembered:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = self._cost_of(_usage(*key))
        return self._remembered[key]


def _usage(given: int, cached: int, came: int) -> Usage:
    return Usage(input_tokens=given, cached_tokens=cached, output_tokens=came)


def _line(cost_of: CostOf) -> tuple[float, float, float] | None:
    """Dollars for a fresh, a cached and an output token; None when the price is no straight line."""
    n = _PROBE
    rates = tuple(cost_of(_usage(*tokens)) / n for tokens in ((n, 0, 0), (n, n, 0), (0, 0, n)))
    for given, cached, came in ((1_000, 0, 0), (1_000, 1_000, 0), (0, 0, 1_000), (n, n // 4, n), (n // 2, 0, n)):
        straight = (given - cached) * rates[0] + cached * rates[1] + came * rates[2]
        if not math.isclose(cost_of(_usage(given, cached, came)), straight, rel_tol=1e-9, abs_tol=1e-12):
            return None
    return rates[0], rates[1], rates[2]


@dataclass(slots=True)
class _Size:
    """Sums over the records of one size of prompt."""

    records: int = 0
    chars: int = 0
    given: int = 0
    came: int = 0
    answer_came: int = 0
    usd: float | None = 0.0

    def add(self, other: _Size) -> None:
        self.records += other.records
        self.chars += other.chars
        self.given += other.given
        self.came += other.came
        self.answer_came += other.answer_came
        self.usd = None if self.usd is None or other.usd is None else self.usd + other.usd


@dataclass(slots=True)
class OneCall:
    """Compares what answered records took with one call each.

    Attributes:
        answer_bill: The price that the one call would have.
    """

    answer_bill: Bill
    _sizes: dict[int, _Size] = field(default_factory=dict)
    _slope: Slope = field(default_factory=Slope)
    _sent_chars: int = 0
    _sent_tokens: int = 0
    _measured: int = 0
    _flips: int = 0
    _both_ways: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, row: Row, usd: dict[str, float | None]) -> None:
        """Count one record; `usd` is what its stages cost."""
        self._learn(row)
        answer = row.parts.get("answer")
        if row.status != "answered" or answer is None or row.prompt_chars is None:
            return
        took = [tokens_of(row.parts[name]) for name in ("rewrite", "answer") if name in row.parts]
        if any(tokens is None for tokens in took):
            return
        last = answer.sent[-1].metered
        costs = [usd[name] for name in ("rewrite", "answer") if name in row.parts]
        given, came = sum(t[0] for t in took if t), sum(t[1] for t in took if t)
        size = self._sizes.setdefault(bisect_right(_SIZES, row.prompt_chars) - 1, _Size())
        answer_came = (last.came or 0) if last is not None else 0
        known = [cost for cost in costs if cost is not None]
        size.add(_Size(1, row.prompt_chars, given, came, answer_came, sum(known) if len(known) == len(costs) else None))
        if row.flipped is not None and "baseline" in row.parts:
            one = tokens_of(row.parts["baseline"])
            if one is not None:
                self._measured += 1
                self._flips += row.flipped
                self._both_ways[0] += given + came
                self._both_ways[1] += sum(one)

    def _learn(self, row: Row) -> None:
        """Take in how many tokens a rewrite's request has for its characters; a re-ask, which has more, comes later."""
        part = row.parts.get("rewrite")
        first = None if part is None else next((sent.metered for sent in part.sent if sent.metered is not None), None)
        if part is None or first is None or first.given is None or row.prompt_chars is None:
            return
        self._slope.add(row.prompt_chars, first.given)
        if part.sent_chars:
            self._sent_chars += part.sent_chars
            self._sent_tokens += first.given

    def reading(self) -> OneCallReading:
        """The comparison, in all and by size of prompt."""
        rate, method = self._rate()
        total = _Size()
        for size in self._sizes.values():
            total.add(size)
        by_size = sorted(self._sizes.items())
        shown = [self._size(_SIZES[n], _bound(n), size, rate) for n, size in by_size] if rate is not None else []
        took, one = self._both_ways
        measured: MeasuredReading = {
            "records": self._measured,
            "flips": self._flips,
            "token_factor": took / one if one else None,
        }
        return {
            "tokens_per_char": rate,
            "method": method,
            "points": self._slope.n,
            "fit": self._slope.fit,
            "total": None if rate is None or not total.records else self._size(0, None, total, rate),
            "sizes": shown,
            "measured": measured,
        }

    def _rate(self) -> tuple[float | None, str]:
        """Tokens for a character of a prompt, and how that was found."""
        line = self._slope
        if line.n >= _ENOUGH and line.slope is not None and line.fit >= _FIT and 0 < line.slope < _MOST_PER_CHAR:
            return line.slope, "slope"
        if self._sent_chars:
            return self._sent_tokens / self._sent_chars, "ratio"
        return None, "unknown"

    def _size(self, low: int, high: int | None, size: _Size, rate: float) -> SizeReading:
        one_given, n = size.chars * rate, size.records
        each = self.answer_bill.usd(one_given / n, 0, size.answer_came / n)  # the mean request's
        one_usd = None if each is None else each * n
        one = one_given + size.answer_came
        return {
            "from_chars": low,
            "to_chars": high,
            "records": n,
            "input_tokens": size.given,
            "output_tokens": size.came,
            "cost_usd": size.usd,
            "one_input_tokens": one_given,
            "one_output_tokens": size.answer_came,
            "one_cost_usd": one_usd,
            "input_factor": size.given / one_given if one_given else None,
            "token_factor": (size.given + size.came) / one if one else None,
            "cost_factor": size.usd / one_usd if size.usd is not None and one_usd else None,
        }


def tokens_of(part: Part) -> tuple[int, int] | None:
    """Input and output tokens of all requests of a stage; None when a reply did not say."""
    given = came = 0
    for sent in part.sent:
        metered = sent.metered
        if metered is None:
            if sent.error is None:
                return None
            continue
        if metered.given is None or metered.came is None:
            return None
        given += metered.given
        came += metered.came
    return given, came


def cost_of(bill: Bill, tokens: Tokens) -> float | None:
    """What one request cost; None when tokens or price are not known."""
    if tokens.given is None or tokens.came is None:
        return None
    return bill.usd(tokens.given, tokens.cached or 0, tokens.came)


def _bound(n: int) -> int | None:
    return _SIZES[n + 1] if n + 1 < len(_SIZES) else None
