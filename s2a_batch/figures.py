"""The figures of an estimate, and how they read.

Invariant: what is not known is None and reads "unknown", never 0.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import JsonValue

    from s2a_batch.records import StageName


_CENT: Final = 0.01
_HOUR: Final = 60  # minutes


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`; `mean` is None where nothing was measured."""

    low: float = 0.0
    high: float = 0.0
    mean: float | None = None

    def __add__(self, other: Range) -> Range:
        """Both at their low, both at their high."""
        mean = None if self.mean is None or other.mean is None else self.mean + other.mean
        return Range(self.low + other.low, self.high + other.high, mean)

    def times(self, low: float, high: float | None = None) -> Range:
        """The low end times the one, the high end times the other (None: the same)."""
        if high is not None:
            return Range(self.low * low, self.high * high)
        return Range(self.low * low, self.high * low, None if self.mean is None else self.mean * low)

    def capped(self, cap: float) -> Range:
        """Neither end above the cap."""
        return Range(min(self.low, cap), min(self.high, cap))


def added(ranges: Iterable[Range]) -> Range:
    """The sum."""
    first, *others = list(ranges) or [Range(0, 0, 0)]
    return sum(others, first)


def most(ranges: list[Range]) -> Range:
    """The largest of each end and of the means."""
    means = [found.mean for found in ranges if found.mean is not None]
    mean = max(means) if len(means) == len(ranges) else None
    return Range(max(found.low for found in ranges), max(found.high for found in ranges), mean)


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage's part.

    Attributes:
        cost_usd: None when no price is known.
        open_s: Seconds that its requests are open, added up; None when nothing is known about the server.
    """

    requests: Range
    input_tokens: Range
    output_tokens: Range
    cost_usd: Range | None
    open_s: Range | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the pending records of a job will take.

    Attributes:
        lines: Non-blank lines read; `bad` of them cannot be asked, `done` have a result, `unfinished` ones wait.
        cost_usd: Of both stages; None when a price is not known.
        seconds: None when nothing is known about the server's speed.
        assumed: What the figures rest on.
        sampled: How many records were run for it; 0: none, and there are no means.
        sample_cost_usd: What they cost; None when that is not known.
    """

    lines: int
    bad: int
    done: int
    pending: int
    stages: dict[StageName, StageEstimate]
    cost_usd: Range | None
    seconds: Range | None
    assumed: tuple[str, ...]
    unfinished: int = 0
    sampled: int = 0
    sample_cost_usd: float | None = None

    def as_json(self) -> str:
        """One strict JSON object; an end without bound is null."""
        return json.dumps(_strict(asdict(self)), indent=2)

    def as_text(self) -> str:
        """Some lines for a person."""
        rows = [f"{self.lines} lines: {self.pending} pending, {self.done} done, {self.bad} bad"]
        rows[0] += f", {self.unfinished} unfinished" if self.unfinished else ""
        if self.sampled:
            rows[0] += f"; {self.sampled} of those done are the sample, which cost {dollars(self.sample_cost_usd)}"
        for name, part in self.stages.items():
            tokens = f"{_count(part.input_tokens)} tokens in, {_count(part.output_tokens)} out"
            rows.append(f"{name}: {_count(part.requests)} requests; {tokens}; cost {_cost(part.cost_usd)}")
        rows += [f"cost: {_cost(self.cost_usd)}", f"time: {_time(self.seconds)}"]
        return "\n".join([*rows, *(f"assumed: {line}" for line in self.assumed)])


def dollars(cost: float | None) -> str:
    """Money with as many digits as it needs; None reads "unknown"."""
    if cost is None:
        return "unknown"
    if not math.isfinite(cost):
        return "no bound"
    digits = 2 if cost >= 1 or not cost else 4 if cost >= _CENT else 6
    return f"${cost:.{digits}f}"


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss."""
    if not math.isfinite(seconds):
        return "no bound"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // _HOUR}:{minutes % _HOUR:02}:{rest:02}" if minutes >= _HOUR else f"{minutes}:{rest:02}"


def _strict(value: object) -> JsonValue:
    if isinstance(value, dict):
        return {str(name): _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value if isinstance(value, str | int) else None


def _between(low: str, high: str, mean: str | None) -> str:
    if mean is not None:
        return mean if low == high else f"{mean} ({low} to {high})"
    return low if low == high else f"{low} to {high}"


def _count(found: Range) -> str:
    return _between(f"{found.low:.0f}", f"{found.high:.0f}", None if found.mean is None else f"{found.mean:.0f}")


def _cost(found: Range | None) -> str:
    if found is None:
        return dollars(None)
    return _between(dollars(found.low), dollars(found.high), None if found.mean is None else dollars(found.mean))


def _time(found: Range | None) -> str:
    if found is None:
        return "unknown; --sample finds out"
    return _between(clock(found.low), clock(found.high), None if found.mean is None else clock(found.mean))
