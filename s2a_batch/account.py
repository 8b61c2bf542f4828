"""The account of a run, as it stands in `run.json`: what one execution did and used, and all of a directory together.

Knows pydantic. Invariant: lines = answered + rewritten + failed + skipped + pending.
"""

from __future__ import annotations

from pydantic import Field

from s2a_batch.records import Usage, Wire


class StageSummary(Wire):
    """What one stage of one execution did and used."""

    requests: int
    done: int
    retries: int
    rate_limited: int
    reasks: int
    unknown_usage: int = Field(description="Replies without usage; with any, the token sums are lower bounds.")
    usage: Usage
    seconds: float = Field(description="Sum over the requests, so more than the run took when several were open.")
    cost_usd: float | None = Field(default=None, description="None: no price or no usage is known.")


class Summary(Wire):
    """The account of one execution; lines = answered + rewritten + failed + skipped + pending."""

    lines: int = Field(description="Non-blank input lines read.")
    answered: int
    rewritten: int = Field(description="Finished rewrites of a run that stops after stage 1.")
    failed: int
    skipped: int = Field(description="Done by an earlier execution.")
    failed_before: int = Field(description="Of those skipped: dead letters.")
    pending: int = Field(description="Of the lines read; with read_all all that is left.")
    read_all: bool
    superseded: int = Field(description="Earlier results whose line is gone from the input.")
    kinds: dict[str, int] = Field(description="Failures by reason.")
    rewrite: StageSummary
    answer: StageSummary
    seconds: float
    stopped: str | None
    policies: dict[str, int] = Field(default={}, description="Records that were not answered from a sound rewrite.")
    baselines: int = Field(default=0, description="Records whose prompt was also answered as it was given.")
    flips: int = Field(default=0, description="Of these: with another answer.")

    @property
    def cost_usd(self) -> float | None:
        """Of both stages; None when one sent requests whose cost is not known."""
        costs = [stage.cost_usd for stage in (self.rewrite, self.answer) if stage.requests]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


class Totals(Wire):
    """What all executions of a run's directory used together, as far as they came to an end."""

    executions: int = 0
    killed: int = Field(default=0, description="Executions that did not come to an end; what they used is not here.")
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = Field(default=0.0, description="None: not known of all.")

    def plus(self, summary: Summary | None) -> Totals:
        """With one more execution; None for one that was killed."""
        if summary is None:
            return self.model_copy(update={"executions": self.executions + 1, "killed": self.killed + 1})
        stages = (summary.rewrite, summary.answer)
        cost = None if self.cost_usd is None or summary.cost_usd is None else self.cost_usd + summary.cost_usd
        return Totals(
            executions=self.executions + 1,
            killed=self.killed,
            requests=self.requests + sum(stage.requests for stage in stages),
            input_tokens=self.input_tokens + sum(stage.usage.input_tokens or 0 for stage in stages),
            output_tokens=self.output_tokens + sum(stage.usage.output_tokens or 0 for stage in stages),
            cost_usd=cost if cost is None else round(cost, 9),
        )
