"""Whether and when an attempt is followed by another: the one retry layer.

Knows tenacity. Invariants: every error is classified once, by its class in `errors`; a rate limit or an outage is no
record's fault and costs no attempt, the limiter makes everyone wait; nothing is retried when the run drains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from s2a_batch.errors import AttemptError, Drained, EndpointError, RateLimitedError, TransientError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from s2a_batch.bounds import Retry

T = TypeVar("T")


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

    async def go_on(
        self,
        error: TransientError | RateLimitedError,
        attempt: Callable[[], Awaitable[T]],
        made: Callable[[], int],
        *,
        since: Callable[[], float],
    ) -> T:
        """After a first attempt that failed: attempt until one succeeds or none is left.

        Args:
            error: Of the first attempt; most need no second one, and no loop.
            attempt: Makes another one.
            made: As for `attempts`.
            since: As for `attempts`.

        Raises:
            AttemptError: Of the last attempt.
            Drained: The run drains; no further attempt starts.
            StopRun: The server asks for a longer wait than the job bears.
        """
        failed = [error]

        async def next_attempt() -> T:
            if failed:
                raise failed.pop()
            return await attempt()

        return await self.attempts(made, since=since)(next_attempt)

    def attempts(self, made: Callable[[], int], *, since: Callable[[], float]) -> AsyncRetrying:
        """A fresh tenacity loop; never share one between tasks, its state is not per call.

        Args:
            made: How many attempts of this stage and record count so far, re-asks included.
            since: When its first request was sent, on anyio's clock; the wait for a turn before that does not count.
        """
        return AsyncRetrying(
            retry=retry_if_exception(_worth_another),
            wait=self._wait_s,
            stop=lambda state: self._spent(_error(state), made(), _next_at(state) - since()),
            sleep=self._sleep,
            reraise=True,
        )

    def _wait_s(self, state: RetryCallState) -> float:
        """Full jitter (uniform between 0 and a bound that doubles), on top of the wait that an overloaded server names.

        After a rate limit the limiter holds the wait.
        """
        error = _error(state)
        if isinstance(error, RateLimitedError) or _excused(error):
            return 0.0
        bound_s = self.bounds.backoff_s * 2.0 ** (state.attempt_number - 1)
        named_s = (isinstance(error, TransientError) and error.retry_after_s) or 0.0
        return min(named_s, self.bounds.max_wait_s) + self.rng.uniform(0.0, min(self.bounds.max_backoff_s, bound_s))

    def _spent(self, error: BaseException | None, made: int, seconds: float) -> bool:
        if _excused(error):
            return False
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


def _excused(error: BaseException | None) -> bool:
    return isinstance(error, AttemptError) and error.excused


def _next_at(state: RetryCallState) -> float:
    """When the next attempt would start at the earliest, on anyio's clock."""
    return anyio.current_time() + state.upcoming_sleep


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


_OF_THE_RECORD: Final = frozenset({"refusal", "content_filter", "truncated", "only_reasoning"})
"""Failures that only an endpoint that works has."""
_UNCLEAR: Final = frozenset({"too_long"})
"""Failures that a long record has, and a wrong parameter too."""
_PASSING: Final = frozenset({"connection", "timeout", "server_error"})
"""Failures that may pass by themselves."""


class Health:
    """Whether an endpoint works: tells a fault of a record from one of the job, and from an outage.

    Args:
        patience: How many attempts may fail before the first one that succeeds; three times as many that may pass.
        max_wait_s: How long it may be gone, or answer with nothing but rate limits.
        again: Whether a later execution takes up records that failed: a lone one that the server answers with an error
            may then fail, though nothing shows that others would be answered.

    Attributes:
        answers: How many attempts were answered.
    """

    # Records that fail one after the other, none answered between: so many make an outage. No connection is no
    # record's fault; a 500 may be, so that takes more of them.
    _OUTAGE: Final = 3
    _OUTAGE_ANSWERED: Final = 8
    _PASSING_PATIENCE: Final = 3

    def __init__(self, patience: int = 8, max_wait_s: float = 600.0, *, again: bool = False) -> None:
        self.answers = 0
        self._patience = patience
        self._max_wait_s = max_wait_s
        self._again = again
        self._failures = 0
        self._weight = 0
        self._worked_at = float("-inf")
        self._bad_since: float | None = None
        self._unreached: set[int] = set()
        self._failed: set[int] = set()

    def note_success(self, now: float | None = None) -> None:
        """An attempt was answered; now, unless a time on anyio's clock is given."""
        self.answers += 1
        self._worked_at = anyio.current_time() if now is None else now
        self._bad_since = None
        self._unreached.clear()
        self._failed.clear()

    def note_failure(self, error: AttemptError, record: int = 0) -> bool:
        """An attempt failed.

        Args:
            error: Why.
            record: Tells records apart.

        Returns:
            Whether the endpoint is down for everyone, so that this attempt says nothing of its record.

        Raises:
            EndpointError: None has ever succeeded, and there were enough of them; or it is gone for too long.
        """
        if error.kind in _OF_THE_RECORD:
            self.note_success()
        if error.kind in _OF_THE_RECORD | _UNCLEAR:
            return False
        if isinstance(error, RateLimitedError):
            self._bear(error, "nothing but rate limits")
            return False
        if not self._worked():
            self._begin(error)
            return False
        return isinstance(error, TransientError) and self._is_down(error, record)

    def pass_over(self, began: float, now: float) -> None:
        """Nothing was sent from then on until now, as a person wished: that was no outage."""
        if self._bad_since is not None:
            self._bad_since += now - max(began, self._bad_since)

    def judge(self, error: AttemptError, *, since: float) -> None:
        """A record has no attempt left.

        Args:
            error: Of its last attempt.
            since: When its first attempt began.

        Raises:
            EndpointError: It is not the record: nothing has ever been answered, or nothing could be reached since.
        """
        lost = error.kind in _PASSING and not self._worked() and not (self._again and error.status is not None)
        if lost or (error.kind == "connection" and self._worked_at < since):
            raise EndpointError(f"{error}; nothing was answered since; is the server up, and base_url right?")

    def _worked(self) -> bool:
        return self._worked_at > float("-inf")

    def _begin(self, error: AttemptError) -> None:
        self._failures += 1
        self._weight += 1 if error.kind in _PASSING else self._PASSING_PATIENCE
        if self._weight >= self._patience * self._PASSING_PATIENCE:
            hint = "" if error.kind in _PASSING else " Does it take the job's model, mode and parameters?"
            raise EndpointError(
                f"none of the first {self._failures} requests was answered; the last one: {error}; is the server up, "
                f"and base_url right?{hint}"
            )

    def _is_down(self, error: TransientError, record: int) -> bool:
        self._failed.add(record)
        if error.kind == "connection":
            self._unreached.add(record)
        down = len(self._unreached) >= self._OUTAGE or len(self._failed) >= self._OUTAGE_ANSWERED
        if down:
            self._bear(error, "no answer")
        return down

    def _bear(self, error: AttemptError, what: str) -> None:
        """Count the time since the last answer; too much of it stops the run."""
        now = anyio.current_time()
        if self._bad_since is None:
            self._bad_since = now
        if now - self._bad_since > self._max_wait_s:
            raise EndpointError(
                f"{what} for {now - self._bad_since:.0f} s, retry.max_wait_s is {self._max_wait_s:.0f}; the last one: "
                f"{error}; run the same command again later"
            )
