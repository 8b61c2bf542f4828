"""What an execution has spent, and whether another request may go out.

Knows anyio's clock. Invariants: requests are counted when they are admitted, so their cap is never passed; tokens and
money are counted when a request ends, so what is open may come on top; a reply whose server names no tokens counts by
its length. Durations are monotonic: the wall clock is read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from s2a_batch.caps import moment
from s2a_batch.errors import BudgetError
from s2a_batch.figures import dollars
from s2a_batch.records import Usage

if TYPE_CHECKING:
    from datetime import datetime

    from s2a_batch.account import Totals
    from s2a_batch.caps import Budget
    from s2a_batch.client import Request
    from s2a_batch.completion import Reply
    from s2a_batch.prices import CostOf
    from s2a_batch.records import Attempt
    from s2a_batch.report import StageTally

_CHARS_PER_TOKEN: Final = 3.5


class Spent(Protocol):
    """Where the counts stand: in this process, or where others of the same run count too."""

    requests: int
    tokens: int
    cost_usd: float
    priced: bool | None
    """Whether the cost of all is known; None before the first."""


@dataclass(slots=True)
class SpentHere:
    """The counts of one process alone."""

    requests: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    priced: bool | None = None


class Spending:
    """What one execution spends, against its caps; both stages share it.

    Args:
        caps: The job's.
        spent: Where it is counted.
    """

    def __init__(self, caps: Budget, spent: Spent | None = None) -> None:
        self._caps = caps
        self._spent: Spent = SpentHere() if spent is None else spent
        self._deadline = math.inf
        self._deadline_cap = ""
        self._reached: str | None = None
        self._event = anyio.Event()

    def begin(self, now: datetime) -> None:
        """Begin to count time.

        Args:
            now: The wall clock, with its time zone; `until` is reckoned from it and then kept by the monotonic clock.
        """
        caps, clock_s = self._caps, anyio.current_time()
        if caps.max_runtime_s is not None:
            self._deadline, self._deadline_cap = clock_s + caps.max_runtime_s, f"max_runtime_s = {caps.max_runtime_s:g}"
        if caps.until is not None:
            at = moment(caps.until, now)
            left_s = (at - now).total_seconds()
            if clock_s + left_s < self._deadline:
                self._deadline = clock_s + left_s
                self._deadline_cap = f"until = {caps.until} ({at.isoformat(timespec='minutes')})"

    def count_before(self, totals: Totals) -> None:
        """Count what earlier executions spent, when the job says so."""
        if self._caps.over == "directory":
            self._spent.requests += totals.requests
            self._add(totals.input_tokens + totals.output_tokens, totals.cost_usd)
            self._look()

    def admit(self) -> None:
        """Count a request that is about to go out.

        Raises:
            BudgetError: A cap is reached; it must not go out.
        """
        if self._reached is None and self._deadline < math.inf and anyio.current_time() >= self._deadline:
            self._reach(self._deadline_cap)
        if self._reached is not None:
            raise self.error()
        self._spent.requests += 1
        self._look()

    def note(self, tokens: int, cost_usd: float | None) -> None:
        """Count what a request used; never raises, as its reply is still to be kept."""
        self._add(tokens, cost_usd)
        self._look()

    async def exhausted(self) -> None:
        """Wait until a cap is reached, one of time too. A cancellation changes nothing."""
        with anyio.CancelScope(deadline=self._deadline):
            await self._event.wait()
        self._reach(self._deadline_cap)

    def error(self) -> BudgetError:
        """Why no more requests go out, with what was spent up to now."""
        spent = self._spent
        money = f", {dollars(spent.cost_usd)}" if spent.priced else ""
        over = "in this directory" if self._caps.over == "directory" else "in this execution"
        return BudgetError(
            f"budget.{self._reached} is reached: {spent.requests} requests, {spent.tokens} tokens{money} spent {over}; "
            "the rest is pending: the same command with a larger budget goes on"
        )

    def _add(self, tokens: int, cost_usd: float | None) -> None:
        spent = self._spent
        spent.tokens += tokens
        spent.cost_usd += cost_usd or 0.0
        spent.priced = cost_usd is not None and spent.priced is not False

    def _look(self) -> None:
        caps, spent = self._caps, self._spent
        if caps.max_requests is not None and spent.requests >= caps.max_requests:
            self._reach(f"max_requests = {caps.max_requests}")
        if caps.max_tokens is not None and spent.tokens >= caps.max_tokens:
            self._reach(f"max_tokens = {caps.max_tokens}")
        if caps.max_cost_usd is not None and spent.cost_usd >= caps.max_cost_usd:
            self._reach(f"max_cost_usd = {caps.max_cost_usd}")

    def _reach(self, cap: str) -> None:
        if self._reached is None:
            self._reached = cap
            self._event.set()


@dataclass(frozen=True, slots=True)
class Meter:
    """One stage's part in the spending.

    Attributes:
        cost_of: The stage's prices; None when they are not known.
    """

    spending: Spending
    tally: StageTally
    cost_of: CostOf | None

    def admit(self) -> None:
        """Count a request that is about to go out; `BudgetError` when it must not."""
        self.spending.admit()

    def note(self, attempt: Attempt, request: Request, reply: Reply | None) -> None:
        """Count what a finished attempt used, as its server says, else by its length."""
        known = attempt.usage
        if known is None or known.input_tokens is None or known.output_tokens is None:
            used = _by_length(attempt, request, reply)
        else:
            used = known
            self.tally.cost_usd = _sum(self.tally.cost_usd, self._cost_usd(known))
        self.spending.note(used.total_tokens, self._cost_usd(used))

    def _cost_usd(self, usage: Usage) -> float | None:
        return None if self.cost_of is None else self.cost_of(usage)


def _sum(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else a + b


def _by_length(attempt: Attempt, request: Request, reply: Reply | None) -> Usage:
    """About what a request took whose server did not say; one that was refused or never arrived took nothing."""
    if reply is None and (attempt.error is None or attempt.error.kind != "timeout"):
        return Usage()
    sent, came = len(str(request["messages"])), len(reply.text) if reply is not None else 0
    return Usage(input_tokens=math.ceil(sent / _CHARS_PER_TOKEN), output_tokens=math.ceil(came / _CHARS_PER_TOKEN))
