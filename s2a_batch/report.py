"""Counts, tokens and rates of a run while it goes, and the summary at its end.

Knows nothing but the wire types. Invariant: every number here was counted once, where it happened; nothing is derived
from what was planned.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2a_batch.account import StageSummary, Summary
from s2a_batch.records import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from s2a_batch.records import Attempt, Known, Outcome, StageName


@dataclass(slots=True)
class StageTally:
    """One stage's counts since the run began."""

    open: int = 0
    waiting: int = 0
    requests: int = 0
    done: int = 0
    retries: int = 0
    rate_limited: int = 0
    reasks: int = 0
    unknown_usage: int = 0
    metered: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    waited_s: float = 0.0
    cost_usd: float | None = None

    def add(self, attempt: Attempt, before: Attempt | None) -> None:
        """Count one finished attempt; `before` is the one of the same stage and record before it, None for the first.

        A re-ask follows a reply that did not fit, a retry follows any other fault but a rate limit.
        """
        after = None if before is None or before.error is None else before.error.kind
        self.reasks += after in ("invalid_reply", "check_failed")
        self.retries += after not in (None, "invalid_reply", "check_failed", "rate_limited")
        self.seconds += attempt.seconds
        self.waited_s += attempt.waited_s
        self.rate_limited += attempt.error is not None and attempt.error.kind == "rate_limited"
        if attempt.usage is not None:
            self.usage += attempt.usage
            self.metered += attempt.usage.output_tokens is not None
            self.unknown_usage += attempt.usage.input_tokens is None or attempt.usage.output_tokens is None

    def __add__(self, other: StageTally) -> StageTally:
        """Both together, as if one had counted them."""
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return StageTally(
            open=self.open + other.open,
            waiting=self.waiting + other.waiting,
            requests=self.requests + other.requests,
            done=self.done + other.done,
            retries=self.retries + other.retries,
            rate_limited=self.rate_limited + other.rate_limited,
            reasks=self.reasks + other.reasks,
            unknown_usage=self.unknown_usage + other.unknown_usage,
            metered=self.metered + other.metered,
            usage=self.usage + other.usage,
            seconds=self.seconds + other.seconds,
            waited_s=self.waited_s + other.waited_s,
            cost_usd=sum(costs) if costs else None,
        )

    def summary(self) -> StageSummary:
        """The counts as they go to `run.json`."""
        return StageSummary(
            requests=self.requests,
            done=self.done,
            retries=self.retries,
            rate_limited=self.rate_limited,
            reasks=self.reasks,
            unknown_usage=self.unknown_usage,
            usage=self.usage,
            seconds=round(self.seconds, 3),
            cost_usd=None if self.cost_usd is None else round(self.cost_usd, 9),
        )


@dataclass(slots=True)
class Tally:
    """The run's counts.

    Attributes:
        lines: Non-blank input lines read so far.
        skipped: Of these: done by an earlier execution.
        failed_before: Of those: dead letters.
        read_bytes: Up to where the input has been read; with `total_bytes` the basis of what is left.
        total_bytes: Size of the input as it lies on the disk, None when unknown.
        limit: How many records this execution takes up at most; None: all.
    """

    rewrite: StageTally = field(default_factory=StageTally)
    answer: StageTally = field(default_factory=StageTally)
    lines: int = 0
    skipped: int = 0
    failed_before: int = 0
    answered: int = 0
    rewritten: int = 0
    failed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    baselines: int = 0
    flips: int = 0
    read_bytes: int = 0
    total_bytes: int | None = None
    limit: int | None = None

    def stage(self, name: StageName) -> StageTally:
        """The tally of the stage of this name."""
        return self.rewrite if name == "rewrite" else self.answer

    def reached(self, position: int) -> None:
        """The input has been read up to this byte."""
        self.read_bytes = position

    def read(self) -> None:
        """Count one input line whose record is to be done."""
        self.lines += 1

    def skip(self, known: Known) -> None:
        """Count input lines whose records an earlier execution brought to their end."""
        self.lines += known.lines
        self.skipped += known.lines
        self.failed_before += known.failed

    def note(self, outcome: Outcome | None) -> None:
        """Count one record that came to its end; None: a rewrite that is all that was wanted."""
        if outcome is None:
            self.rewritten += 1
            return
        if outcome.policy is not None:
            self.policies[outcome.policy] += 1
        self.baselines += outcome.baseline is not None
        self.flips += outcome.baseline is not None and outcome.baseline != outcome.answer
        if outcome.error is None:
            self.answered += 1
        else:
            self.failed += 1
            self.kinds[outcome.error.kind] += 1

    def gather(self, parts: Iterable[Tally]) -> None:
        """Take over what others counted of stages and records; what was read is counted here."""
        found = list(parts)
        self.rewrite = sum((part.rewrite for part in found), StageTally())
        self.answer = sum((part.answer for part in found), StageTally())
        self.kinds = sum((part.kinds for part in found), Counter[str]())
        self.policies = sum((part.policies for part in found), Counter[str]())
        self.answered = sum(part.answered for part in found)
        self.rewritten = sum(part.rewritten for part in found)
        self.failed = sum(part.failed for part in found)
        self.baselines = sum(part.baselines for part in found)
        self.flips = sum(part.flips for part in found)

    @property
    def done(self) -> int:
        """Records with a result, from this execution or an earlier one."""
        return self.skipped + self.finished

    @property
    def finished(self) -> int:
        """Records that this execution brought to their end."""
        return self.answered + self.rewritten + self.failed

    def left(self) -> int | None:
        """About how many records are left to this execution, by the bytes still unread; None when that is unknown."""
        # Of a limit's records `finished` are done; the others are under way or not yet taken.
        bounds = [] if self.limit is None else [self.limit - self.finished]
        if self.total_bytes is not None and self.read_bytes:
            unread = max(0, self.total_bytes - self.read_bytes) * self.lines // self.read_bytes
            bounds.append(self.lines - self.done + unread)
        return min(bounds, default=None)

    @property
    def requests(self) -> int:
        """HTTP requests of both stages."""
        return self.rewrite.requests + self.answer.requests

    @property
    def tokens(self) -> int:
        """Input and output tokens of both stages, as far as known."""
        return self.rewrite.usage.total_tokens + self.answer.usage.total_tokens

    def summary(self, *, seconds: float, stopped: str | None, superseded: int, read_all: bool) -> Summary:
        """The account of this execution.

        Args:
            seconds: How long it took.
            stopped: Why it stopped before the end of the input; None when it did not.
            superseded: Results of earlier executions whose line is gone from the input.
            read_all: Whether the input was read to its end, so that `pending` is all that is left.
        """
        return Summary(
            lines=self.lines,
            answered=self.answered,
            rewritten=self.rewritten,
            failed=self.failed,
            skipped=self.skipped,
            failed_before=self.failed_before,
            pending=self.lines - self.done,
            read_all=read_all,
            superseded=superseded,
            kinds=dict(sorted(self.kinds.items())),
            rewrite=self.rewrite.summary(),
            answer=self.answer.summary(),
            seconds=round(seconds, 3),
            stopped=stopped,
            policies=dict(sorted(self.policies.items())),
            baselines=self.baselines,
            flips=self.flips,
        )


def together(runs: list[Tally]) -> Tally:
    """What several runs counted, one after the other; of more than one it is not known what is left."""
    if len(runs) == 1:
        return runs[0]
    found = Tally(
        lines=sum(run.lines for run in runs),
        skipped=sum(run.skipped for run in runs),
        failed_before=sum(run.failed_before for run in runs),
    )
    found.gather(runs)
    return found
