"""One stage of a record: asks until a reply fits, and every request on the way is limited, retried and counted.

Owns the seam to the model (`Client`). Invariant: one HTTP request = one pass of the limiter = one attempt in the audit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import anyio
from pydantic_core import PydanticSerializationError, to_json

from s2a_batch import prompts
from s2a_batch.errors import (
    AttemptError,
    FailureKind,
    RateLimitedError,
    RecordError,
    RequestRefused,
    TransientError,
)
from s2a_batch.records import Attempt, Fault, Message, StageAudit, StageName, Usage

if TYPE_CHECKING:
    from pydantic import BaseModel

    from s2a_batch.asker import Asker
    from s2a_batch.budget import Meter
    from s2a_batch.client import Request
    from s2a_batch.completion import Reply
    from s2a_batch.lanes import Lane
    from s2a_batch.limits import Limiter, Slot
    from s2a_batch.report import StageTally
    from s2a_batch.retry import Health, RetryPolicy
    from s2a_batch.stagejob import StageJob

_CHARS_PER_TOKEN: Final = 3.5
_REPLY_TOKENS: Final = 256
_MOST_REFUSALS: Final = 20


class Client(Protocol):
    """What a stage needs of an endpoint; a test's scripted client and a faster transport have it too."""

    async def send(self, request: Request, *, short: bool = False) -> Reply:
        """Send exactly one request, if need be with as little work as it takes; raises `AttemptError` or `StopRun`."""
        ...


@dataclass(slots=True)
class Trail:
    """What one stage of one record did so far; becomes its audit."""

    started: float
    free_at: float = 0.0
    messages: list[dict[str, str]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    text: str = ""
    model_answered: str | None = None
    slot: Slot | None = None
    refusals: int = 0
    answers_seen: int = 0
    held_s: float = 0.0

    def __post_init__(self) -> None:
        self.free_at = self.started

    def add(self, attempt: Attempt, reply: Reply | None) -> None:
        """Note a finished attempt."""
        self.attempts.append(attempt)
        if reply is not None:
            self.text, self.model_answered = reply.text, reply.model

    def release(self) -> None:
        """The last reply is written, or of no more use: another request may be open in its stead."""
        if self.slot is not None:
            self.slot.release()
            self.slot = None

    def is_refused_alone(self, answers: int) -> bool:
        """Count a rate limit; whether there were so many, each with answers to others before, that it is its own."""
        self.refusals += answers > self.answers_seen
        self.answers_seen = answers
        return self.refusals >= _MOST_REFUSALS

    def counted(self) -> int:
        """Attempts that count against the bound: neither a rate limit nor an outage is the record's fault."""
        return sum(not a.outage and (a.error is None or a.error.kind != "rate_limited") for a in self.attempts)

    def mark_invalid(self, kind: FailureKind, reason: str) -> None:
        """The last reply did not fit; keep it, with the reason."""
        error = Fault(kind=kind, message=reason)
        self.attempts[-1] = self.attempts[-1].model_copy(update={"error": error, "reply": self.text})


@dataclass(frozen=True)
class Stage:
    """One stage with all that its requests pass through."""

    name: StageName
    job: StageJob
    asker: Asker
    client: Client
    limiter: Limiter
    lane: Lane
    retry: RetryPolicy
    health: Health
    tally: StageTally
    meter: Meter
    keep_messages: bool

    async def run(self, messages: list[dict[str, str]], trail: Trail) -> BaseModel | str:
        """Ask until a reply fits.

        Args:
            messages: As they go out first.
            trail: Filled on the way, also when this raises; a cancellation leaves the attempts finished so far. It
                holds the slot of the last reply, which the caller releases once that is written.

        Raises:
            RecordError: The record is lost.
            Drained: The record stays pending.
            StopRun: The run cannot go on.
        """
        bounds = self.retry.bounds

        async def send(request: Request) -> Reply:
            reask = bool(trail.attempts) and trail.attempts[-1].error is not None
            if trail.counted() >= bounds.attempts:
                last = trail.attempts[-1].error
                raise RecordError("invalid_reply", f"no attempt left; the last reply: {last.message if last else ''}")
            if not trail.messages:
                trail.messages = _sent(request)
            body: Request = {"model": self.job.model, **request, **self.parameters}
            try:
                return await self._attempt(body, trail, reask=reask)
            except (TransientError, RateLimitedError) as error:
                failed = error
            attempt = partial(self._attempt, body, trail, reask=reask)
            return await self.retry.go_on(failed, attempt, trail.counted, since=lambda: trail.started + trail.held_s)

        try:
            parsed = await self.asker.ask(send, messages, reasks=bounds.reasks, on_invalid=trail.mark_invalid)
        except AttemptError as error:
            self.health.judge(error, since=trail.started)
            empty_rewrite = error.kind == "empty_answer" and self.name == "rewrite"
            raise RecordError("empty_rewrite" if empty_rewrite else error.kind, str(error)) from None
        return parsed

    @cached_property
    def parameters(self) -> Request:
        """The request's parameters apart from model, messages and schema."""
        names = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens")
        found: Request = {name: value for name in names if (value := getattr(self.job, name)) is not None}
        return found | ({"extra_body": self.job.extra_body} if self.job.extra_body else {})

    def audit(self, trail: Trail) -> StageAudit | None:
        """The trail as it goes to the disk; None when nothing was sent."""
        if not trail.attempts:
            return None
        used = [a.usage for a in trail.attempts if a.usage is not None]
        return StageAudit(
            model=str(self.job.model),
            model_answered=trail.model_answered,
            prompt_version=prompts.PROMPT_VERSION if self.job.instructions is None else "job",
            messages=tuple([Message(**m) for m in trail.messages]) if self.keep_messages else None,
            messages_sha256=hashlib.sha256(_json(trail.messages)).hexdigest(),
            parameters={**self.parameters, "mode": self.job.mode},
            usage=used[0] if len(used) == 1 else sum(used, Usage()),
            finish_reason=trail.attempts[-1].finish_reason,
            attempts=tuple(trail.attempts),
            raw=trail.text or None if self.name == "answer" else None,
        )

    async def _attempt(self, request: Request, trail: Trail, *, reask: bool) -> Reply:
        """One request: through the limiter, out, and into the trail whatever becomes of it.

        One that stops the run or is cancelled is counted, but in no audit: its record stays pending.
        """
        trail.release()
        paused_s = self.limiter.held_s() if trail.attempts else 0.0
        with await self._slot(request) as slot:
            self.meter.admit()
            if not trail.attempts:
                trail.started = slot.started
            else:  # a person's pause is nobody's time
                trail.held_s += self.limiter.held_s() - paused_s
            sent = _Sent(len(trail.attempts) + 1, datetime.now(UTC), slot.started - trail.free_at, reask)
            reply: Reply | None = None
            fault: AttemptError | None = None
            self.tally.requests += 1
            self.tally.open += 1
            try:
                reply = await self.client.send(request, short=not trail.attempts)
                slot.kept, trail.slot = True, slot
            except AttemptError as error:
                fault = error
                error.excused = self.health.note_failure(error, id(trail))
                if isinstance(error, RateLimitedError) and trail.is_refused_alone(self.health.answers):
                    message = f"{error}; {trail.refusals} times, while others were answered"
                    fault = RequestRefused("rate_limited", message, status=error.status, request_id=error.request_id)
                    raise fault from None
                raise
            finally:
                self.tally.open -= 1
                trail.free_at = anyio.current_time()
                if reply is not None:
                    self.health.note_success(trail.free_at)
                if reply is not None or fault is not None:
                    held_s = _told(slot, reply, fault, trail.free_at)
                    attempt = _attempt(sent, reply, fault, seconds=trail.free_at - slot.started, held_s=held_s)
                    self.tally.add(attempt, trail.attempts[-1] if trail.attempts else None)
                    trail.add(attempt, reply)
                    self.meter.note(attempt, request, reply)
        return reply

    async def _slot(self, request: Request) -> Slot:
        self.tally.waiting += 1
        try:
            return await self.limiter.slot(self.lane, self._estimate(request))
        finally:
            self.tally.waiting -= 1

    def _estimate(self, request: Request) -> float:
        """Tokens of a request before it is sent: its characters, and what replies took so far."""
        messages = request["messages"]
        chars = (
            sum(len(str(m.get("content"))) for m in messages if isinstance(m, dict))
            if isinstance(messages, list)
            else 0
        )
        used = self.tally.usage.output_tokens
        reply = used / self.tally.metered if used and self.tally.metered else _REPLY_TOKENS
        return chars / _CHARS_PER_TOKEN + reply


def _json(messages: list[dict[str, str]]) -> bytes:
    try:
        return to_json(messages)
    except PydanticSerializationError:  # half of a surrogate pair
        return json.dumps(messages).encode()


def _told(slot: Slot, reply: Reply | None, fault: AttemptError | None, now: float) -> float | None:
    """Tell the limiter how the request went; returns the wait that it made of a rate limit."""
    if isinstance(fault, RateLimitedError):
        return slot.rate_limited(fault.retry_after_s)
    if fault is not None and fault.excused:
        return slot.unanswered()
    used = reply.usage if reply is not None else _usage(fault)
    if used is not None:
        slot.succeeded(used.total_tokens, {} if reply is None else reply.headers, now)
    return None


class _Sent(NamedTuple):
    """What is known of a request when it goes out."""

    n: int
    at: datetime
    waited_s: float
    reask: bool


def _attempt(
    sent: _Sent, reply: Reply | None, fault: AttemptError | None, *, seconds: float, held_s: float | None
) -> Attempt:
    """The audit of one request, of which came a reply or a fault."""
    seen = reply or fault
    return Attempt(
        n=sent.n,
        started=sent.at.isoformat(timespec="milliseconds"),
        seconds=round(seconds, 6),
        waited_s=round(max(0.0, sent.waited_s), 6),
        reask=sent.reask,
        status=None if seen is None else seen.status,
        request_id=None if seen is None else seen.request_id,
        model=None if reply is None else reply.model,
        finish_reason=None if reply is None else reply.finish_reason,
        usage=reply.usage if reply is not None else _usage(fault),
        retry_after_s=None if held_s is None else round(held_s, 3),
        outage=fault is not None and fault.excused,
        error=None if fault is None else Fault(kind=fault.kind, message=str(fault)),
        reply=None if fault is None else fault.reply,
    )


def _usage(fault: AttemptError | None) -> Usage | None:
    return None if fault is None or fault.usage is None else Usage.model_validate(fault.usage)


def _sent(request: Request) -> list[dict[str, str]]:
    messages = request["messages"]
    found = messages if isinstance(messages, list) else []
    return [{name: str(value) for name, value in m.items()} for m in found if isinstance(m, dict)]
