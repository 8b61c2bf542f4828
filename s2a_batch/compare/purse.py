"""What a comparison may still spend: the caps of its job, over all its arms together.

Knows the wall clock. Invariants: a cap of time is a moment, fixed when the comparison begins; what is left is never
negative, and nothing left is None.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from s2a_batch.caps import Budget, moment
from s2a_batch.errors import BudgetError
from s2a_batch.figures import dollars
from s2a_batch.resume import totals_in
from s2a_batch.rundir import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from s2a_batch.account import Summary


class Purse:
    """Counts what the arms spend.

    Args:
        caps: The job's.
        directories: The arms' and the judge's; what was spent there before counts when the caps say so.
        clock: Seconds that go on evenly.
    """

    def __init__(self, caps: Budget, directories: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._caps = caps
        self._clock = clock
        self._began = clock()
        self._until = None if caps.until is None else moment(caps.until, datetime.now(UTC))
        self._requests = self._tokens = 0
        self._cost_usd = 0.0
        if caps.over == "directory":
            for totals in (totals_in(read_manifest(directory)) for directory in directories):
                self._requests += totals.requests
                self._tokens += totals.input_tokens + totals.output_tokens
                self._cost_usd += totals.cost_usd or 0.0

    def pay(self, summary: Summary) -> None:
        """Count what an arm spent."""
        for stage in (summary.rewrite, summary.answer):
            self._requests += stage.requests
            self._tokens += stage.usage.total_tokens
            self._cost_usd += stage.cost_usd or 0.0

    def left(self) -> Budget | None:
        """The caps of the next arm; None when one of them is reached."""
        caps = self._caps
        if self._reached() is not None:
            return None
        return Budget(
            max_requests=None if caps.max_requests is None else caps.max_requests - self._requests,
            max_tokens=None if caps.max_tokens is None else caps.max_tokens - self._tokens,
            max_cost_usd=None if caps.max_cost_usd is None else caps.max_cost_usd - self._cost_usd,
            max_runtime_s=None if caps.max_runtime_s is None else caps.max_runtime_s - self._elapsed_s(),
            until=None if self._until is None else self._until.isoformat(),
        )

    def error(self) -> BudgetError:
        """Why the next arm cannot begin."""
        spent = f"{self._requests} requests, {self._tokens} tokens, {dollars(self._cost_usd)}"
        return BudgetError(
            f"budget.{self._reached()} is reached by all arms together ({spent}); the rest is pending: "
            "the same command with a larger budget goes on"
        )

    def _elapsed_s(self) -> float:
        return self._clock() - self._began

    def _reached(self) -> str | None:
        caps = self._caps
        for name, cap, spent in (
            ("max_requests", caps.max_requests, self._requests),
            ("max_tokens", caps.max_tokens, self._tokens),
            ("max_cost_usd", caps.max_cost_usd, self._cost_usd),
            ("max_runtime_s", caps.max_runtime_s, self._elapsed_s()),
        ):
            if cap is not None and spent >= cap:
                return f"{name} = {cap:g}"
        if self._until is not None and datetime.now(UTC) >= self._until:
            return f"until = {caps.until}"
        return None
