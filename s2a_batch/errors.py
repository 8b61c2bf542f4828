"""The exception tree, ordered by what each error stops.

::

    S2AError
    ├── StopRun            the run ends; its exit status is the class's `exit_status`
    │   ├── JobError           2  the job, a file or a set-up is wrong; nothing was sent
    │   │   └── GoneError           a file or an object is not there
    │   ├── StoppedEarly       3  the rest stays pending; run the same command again
    │   │   ├── AccountError        key, quota, permission
    │   │   ├── EndpointError       model, path, proxy page, server gone
    │   │   ├── BudgetError         a cap of the job's budget is reached
    │   │   ├── InputError          the input cannot be read to its end
    │   │   └── OutputError         disk full, read-only, damaged run directory
    │   └── LockedError        4  another run holds the directory
    │       └── WaitEnded         128 + the signal that ended the wait for it
    ├── Drained            the run is draining: no new request may start, no more is read; what is left stays pending
    ├── RecordError        this record becomes a dead letter
    └── AttemptError       this attempt failed; `retry` decides what follows
        ├── TransientError     worth another attempt after a backoff
        ├── RateLimitedError   worth another attempt, after the wait that the server names
        ├── UnusableReply      a reply that cannot be used; worth a re-ask or not
        └── RequestRefused     the server will never take this request: the record fails

Knows nothing else of the package. Messages say what, where and the remedy; they never hold a key or a prompt.
"""

from __future__ import annotations

from typing import Final, Literal

FailureKind = Literal[
    # the input line
    "bad_json",
    "not_utf8",
    "not_an_object",
    "bad_prompt",
    "line_too_long",
    "cut_line",
    # the request
    "bad_request",
    "too_long",
    "content_filter",
    # the transport
    "connection",
    "timeout",
    "server_error",
    "rate_limited",
    # the reply
    "not_an_answer",
    "truncated",
    "refusal",
    "empty_rewrite",
    "empty_answer",
    "only_reasoning",
    "invalid_reply",
    "check_failed",
    # our own fault
    "bug",
]
"""Closed set of reasons: why a record or an attempt failed. Part of the output schema."""

BUG_STATUS: Final = 70  # EX_SOFTWARE of sysexits.h
_MEANINGS: Final[dict[int, str]] = {
    0: "all records answered, or nothing to do",
    1: "finished, some records failed",
    2: "command or job wrong, nothing was sent",
    3: "stopped early, the rest is pending",
    4: "another run holds the directory",
    BUG_STATUS: "a fault of this program, the rest is pending",
    129: "interrupted by SIGHUP, the rest is pending",
    130: "interrupted by SIGINT, the rest is pending",
    143: "interrupted by SIGTERM, the rest is pending",
}

TRANSIENT: Final[frozenset[FailureKind]] = frozenset(
    {"connection", "timeout", "server_error", "rate_limited", "not_an_answer"}
)
"""Reasons that lie with the endpoint and may be gone another night."""

UNCHANGING: Final[frozenset[FailureKind]] = frozenset(
    {"bad_json", "not_utf8", "not_an_object", "line_too_long", "cut_line"}
)
"""Reasons that lie with the line itself, by which it is known: the same line would only fail once more."""


class S2AError(Exception):
    """Root of all errors of this package."""


class StopRun(S2AError):
    """The run cannot go on. `exit_status` is what the process exits with."""

    exit_status: int = 3


class JobError(StopRun):
    """The job file, the command line or the set-up is wrong; nothing was sent."""

    exit_status = 2


class GoneError(JobError):
    """A file or an object is not there, or no longer."""


class StoppedEarly(StopRun):
    """The run stopped before its end; records without a result are pending."""


class AccountError(StoppedEarly):
    """The account refuses: wrong key, no permission, no quota left."""


class EndpointError(StoppedEarly):
    """The endpoint is not what the job thinks: no such model or path, a proxy's page, or it is gone."""


class BudgetError(StoppedEarly):
    """A cap of the job's budget is reached: requests, tokens, money or time."""


class InputError(StoppedEarly):
    """The input cannot be read to its end."""


class OutputError(StoppedEarly):
    """The run directory cannot be written or read."""


class LockedError(StopRun):
    """Another run holds the lock of the run directory."""

    exit_status = 4


class WaitEnded(LockedError):
    """A signal came while another run's end was waited for."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class Drained(S2AError):
    """No new request may start, and no more be read, because the run is draining; what is left stays pending."""


class RecordError(S2AError):
    """This record is lost; it becomes a dead letter.

    Attributes:
        kind: The reason code, part of the output schema.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class AttemptError(S2AError):
    """One attempt failed.

    Attributes:
        kind: The reason code, part of the output schema.
        status: HTTP status, None when there was none.
        request_id: The server's id of the request, None when it sent none.
        reply: The text that came back, None when there was none of use to an auditor.
        usage: Tokens it took all the same, by the names of `records.Usage`; None when unknown.
        excused: Whether the endpoint was down for everyone, so that the failure says nothing of the record.
    """

    def __init__(  # noqa: PLR0913  one attempt's whole story
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        reply: str | None = None,
        usage: dict[str, int | None] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.status = status
        self.request_id = request_id
        self.reply = reply
        self.usage = usage
        self.excused = False


class TransientError(AttemptError):
    """Connection, time-out, overload, or a 200 that is no answer: worth another attempt.

    Attributes:
        retry_after_s: Seconds that the server asked this request to wait, None when it named no usable wait.
    """

    def __init__(  # noqa: PLR0913  one attempt's whole story
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        reply: str | None = None,
        usage: dict[str, int | None] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(kind, message, status=status, request_id=request_id, reply=reply, usage=usage)
        self.retry_after_s = retry_after_s


class RateLimitedError(AttemptError):
    """The server asks to wait.

    Attributes:
        retry_after_s: Seconds the server asked for, None when it named no usable wait.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None,
        status: int | None = 429,
        request_id: str | None = None,
    ) -> None:
        super().__init__("rate_limited", message, status=status, request_id=request_id)
        self.retry_after_s = retry_after_s


class UnusableReply(AttemptError):
    """The model replied, and the reply cannot be used (truncated, refused, empty, not of the schema)."""


class RequestRefused(AttemptError):
    """The server refuses this request and would refuse it again (400, 413, 422, content filter)."""


def meaning(exit_status: int) -> str:
    """An exit status in words, as in the README's table."""
    return _MEANINGS.get(exit_status, f"ended with status {exit_status}, the rest is pending")
