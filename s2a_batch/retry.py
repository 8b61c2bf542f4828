"""Whether and when an attempt is followed by another: the one retry layer.

Knows tenacity. Invariants: every error is classified once, by its class in `errors`; a rate limit is nobody's fault and
costs no attempt, the limiter makes everyone wait; nothing is retried when the run drains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from s2a_batch.errors import AttemptError, Drained, EndpointError, RateLimitedError, TransientError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from s2a_batch.job import Retry


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The job's bounds, with what a decision needs from outside.

    Attributes:
        drain: Set when no further attempt may start.
        rng: Draws the jitter.
    """

    bounds: Retry
    drain: anyio.Event
    rng: random.Random

    def attempts(self, made: Callable[[], int], *, since: float) -> AsyncRetrying:
        """A fresh tenacity loop; never share one between tasks, its state is not per call.

        Args:
            made: How many attempts of this stage and record count so far, re-asks included.
            since: When the stage of the record began, on anyio's clock.
        """
        return AsyncRetrying(
            retry=retry_if_exception(_worth_another),
            wait=self._wait_s,
            stop=lambda state: self._spent(_error(state), made(), anyio.current_time() - since),
            sleep=self._sleep,
            reraise=True,
        )

    def _wait_s(self, state: RetryCallState) -> float:
        """Full jitter (uniform between 0 and a bound that doubles); after a rate limit the limiter holds the wait."""
        error = _error(state)
        if isinstance(error, RateLimitedError):
            return 0.0
        bound_s = self.bounds.backoff_s * 2.0 ** (state.attempt_number - 1)
        return self.rng.uniform(0.0, min(self.bounds.max_backoff_s, bound_s))

    def _spent(self, error: BaseException | None, made: int, seconds: float) -> bool:
        if not isinstance(error, RateLimitedError):
            return made >= self.bounds.attempts or seconds >= self.bounds.max_s
        wait_s = error.retry_after_s or 0.0
        if wait_s > self.bounds.max_wait_s:
            raise EndpointError(
                f"{error}; the server asks to wait {wait_s:.0f} s, retry.max_wait_s is {self.bounds.max_wait_s:.0f}; "
                "run the same command again after that time"
            )
        return False

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self.drain.wait()
            raise Drained


def _worth_another(error: BaseException) -> bool:
    return isinstance(error, (TransientError, RateLimitedError))


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


class Health:
    """Whether an endpoint ever worked: the first requests decide between a fault of a record and one of the job.

    Args:
        patience: How many attempts may fail before the first one that succeeds.
    """

    def __init__(self, patience: int = 8) -> None:
        self._patience = patience
        self._failures = 0
        self._worked = False

    def note_success(self) -> None:
        """An attempt was answered."""
        self._worked = True

    def note_failure(self, error: AttemptError) -> None:
        """An attempt failed.

        Raises:
            EndpointError: None has ever succeeded, and there were enough of them.
        """
        self._failures += not isinstance(error, RateLimitedError)
        if not self._worked and self._failures >= self._patience:
            raise EndpointError(f"none of the first {self._failures} requests was answered; the last one: {error}")
