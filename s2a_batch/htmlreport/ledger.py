"""One stage of a run summed up: its requests, tokens, money, times and faults over all records.

Invariant: a request is counted as `report.StageTally` counts it while the run goes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from s2a_batch.htmlreport.onecall import cost_of

if TYPE_CHECKING:
    from s2a_batch.htmlreport.gauges import Histogram, Moment, Timeline
    from s2a_batch.htmlreport.onecall import Bill
    from s2a_batch.htmlreport.readings import Spread, StageReading
    from s2a_batch.htmlreport.rows import Part

Name = TypeVar("Name", str, tuple[str, str])

_MOST_NAMES: Final = 40
OTHER: Final = "other"


@dataclass(slots=True)
class StageLedger:
    """What one stage did, over all records."""

    model: str | None
    bill: Bill
    records: int = 0
    requests: int = 0
    retries: int = 0
    reasks: int = 0
    rate_limited: int = 0
    outage: int = 0
    unknown_usage: int = 0
    given: int = 0
    cached: int = 0
    came: int = 0
    reasoning: int = 0
    usd: float | None = None
    unpriced: int = 0
    models: Counter[str] = field(default_factory=Counter)
    models_answered: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    finishes: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, part: Part, timeline: Timeline) -> float | None:
        """Count one record's part; returns what it cost, None when that is not known."""
        self.records += 1
        count(self.models, part.model, OTHER)
        if part.answered_by is not None:
            count(self.models_answered, part.answered_by, OTHER)
        count(self.finishes, part.finish or "none", OTHER)
        cost: float | None = 0.0
        before: str | None = None
        for number, sent in enumerate(part.sent):
            bin_ = timeline.at(sent.at)
            self._count_request(name, part, number, before, bin_)
            before = sent.error
            if sent.metered is not None:
                paid = cost_of(self.bill, sent.metered) if part.model == self.model else None
                cost = None if cost is None or paid is None else cost + paid
                self._pay(paid)
            elif sent.error is None:
                cost = None
                self.unknown_usage += 1
        return cost

    def _count_request(self, name: str, part: Part, number: int, before: str | None, bin_: Moment) -> None:
        """As `report.StageTally` counts it: a re-ask follows a reply that did not fit, a retry any other fault."""
        sent = part.sent[number]
        self.requests += 1
        self.reasks += before == "invalid_reply"
        self.retries += before not in (None, "invalid_reply", "rate_limited")
        self.outage += sent.outage
        self.statuses[str(sent.status)] += 1
        bin_.outage += sent.outage
        bin_.request(name, sent.seconds, sent.waited_s)
        if sent.error is not None:
            count(self.errors, sent.error, OTHER)
            limited = sent.error == "rate_limited"
            self.rate_limited += limited
            bin_.rate_limited += limited
            bin_.errors += not limited
        if sent.metered is not None:
            tokens = sent.metered
            self.given += tokens.given or 0
            self.cached += tokens.cached or 0
            self.came += tokens.came or 0
            self.reasoning += tokens.reasoning or 0
            self.unknown_usage += not tokens.known

    def _pay(self, paid: float | None) -> None:
        if paid is None:
            self.unpriced += 1
        else:
            self.usd = paid if self.usd is None else self.usd + paid

    def reading(self, seconds: Histogram, waited: Histogram) -> StageReading:
        """As it is printed; seconds and waits are counted by time already."""
        return {
            "models": dict(self.models.most_common()),
            "models_answered": dict(self.models_answered.most_common()),
            "records": self.records,
            "requests": self.requests,
            "retries": self.retries,
            "reasks": self.reasks,
            "rate_limited": self.rate_limited,
            "outage": self.outage,
            "unknown_usage": self.unknown_usage,
            "input_tokens": self.given,
            "cached_tokens": self.cached,
            "output_tokens": self.came,
            "reasoning_tokens": self.reasoning,
            "cost_usd": self.usd,
            "unpriced": self.unpriced,
            "seconds": spread(seconds),
            "waited_s": spread(waited),
            "errors": dict(self.errors.most_common()),
            "statuses": dict(self.statuses.most_common()),
            "finish_reasons": dict(self.finishes.most_common()),
        }


def spread(found: Histogram) -> Spread:
    """A histogram as it is printed."""
    return {
        "n": found.n,
        "total": found.total,
        "mean": found.mean,
        "p50": found.quantile(0.50),
        "p95": found.quantile(0.95),
        "p99": found.quantile(0.99),
        "most": found.most if found.n else None,
    }


def count(counter: Counter[Name], name: Name, other: Name) -> Name:
    """Count a name that another may have chosen: the first 40 by themselves, all more as `other`; returns which."""
    if name not in counter and len(counter) >= _MOST_NAMES:
        name = other
    counter[name] += 1
    return name
