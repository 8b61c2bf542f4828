"""The one fake of the suite: a scripted client at the seam that `stages.Client` names, and parts built around it.

A script is a list, or a function of the request, of replies in the words of `tests.server` (`{}` is a good reply,
`{"json": ..}`, `{"content": ..}`, `{"usage": None}`, `{"delay_s": 3}`) or of exceptions to raise.
Invariant: every request is recorded as it came, with its time on anyio's clock, before anything becomes of it.
"""

from __future__ import annotations

import copy
import json
import random
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio
import trio.testing

from s2a_batch.answers import RewriteReply
from s2a_batch.asker import Asker
from s2a_batch.bounds import Retry
from s2a_batch.budget import Meter, Spending
from s2a_batch.caps import Budget
from s2a_batch.completion import Reply, reply_of
from s2a_batch.forms import Asked
from s2a_batch.job import Job
from s2a_batch.limits import Limiter
from s2a_batch.masking import Mask
from s2a_batch.records import Record
from s2a_batch.report import StageTally
from s2a_batch.retry import Health, RetryPolicy
from s2a_batch.stagejob import AnswerJob, RewriteJob
from s2a_batch.stages import Stage
from tests import server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pydantic import BaseModel

    from s2a_batch.client import Request
    from s2a_batch.records import StageName

T = TypeVar("T")
Scripted: TypeAlias = "server.Reply | Exception"


class FakeClient:
    """Plays a script.

    Args:
        script: What each request gets in turn, or a function of the request; a list that is used up is a bug.
        seconds: How long each request takes, unless its reply names a `delay_s`.

    Attributes:
        requests: All requests, as they came.
        started: When each came, on anyio's clock.
        open: How many are open now.
        max_open: The most that ever were.
    """

    def __init__(self, script: Sequence[Scripted] | Callable[[Request], Scripted], *, seconds: float = 0.0) -> None:
        self._script = script if callable(script) else list(script)
        self._seconds = seconds
        self.requests: list[Request] = []
        self.started: list[float] = []
        self.open = self.max_open = 0

    async def send(self, request: Request, *, short: bool = False) -> Reply:  # noqa: ARG002  sent is the same
        """One scripted request."""
        self.requests.append(copy.deepcopy(request))
        self.started.append(anyio.current_time())
        scripted = self._next(request)
        seconds = self._seconds if isinstance(scripted, Exception) else scripted.get("delay_s", self._seconds)
        self.open += 1
        self.max_open = max(self.open, self.max_open)
        try:
            await anyio.sleep(seconds)
        finally:
            self.open -= 1
        if isinstance(scripted, Exception):
            raise scripted
        return reply_to(request, scripted, len(self.requests))

    def _next(self, request: Request) -> Scripted:
        if callable(self._script):
            return self._script(request)
        if len(self.requests) > len(self._script):
            raise AssertionError(f"request {len(self.requests)} of a script of {len(self._script)}")
        return self._script[len(self.requests) - 1]

    def texts(self) -> list[str]:
        """All text of each request's messages."""
        return [json.dumps(request["messages"], ensure_ascii=False) for request in self.requests]


def reply_to(request: Request, scripted: server.Reply, number: int = 1) -> Reply:
    """The reply of the loopback upstream to this request, without a network."""
    ask = server.Ask.read(json.dumps({"model": "m1"} | request).encode(), None)
    body = server.completion(ask, scripted, {}, number)
    return reply_of(body, {}, status=200, request_id=f"req-{number}", mask=Mask([]))


def usage(inputs: int, outputs: int) -> server.JsonObject:
    """Tokens as a reply's body names them."""
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}


def a_record(prompt: str = "Is [[r-1]] so?", line: int = 1) -> Record:
    """A record as the source makes it."""
    body = json.dumps({"id": line, "prompt": prompt}).encode()
    return Record(key=f"{line:032x}", line=line, id_json=str(line).encode(), input_json=body, asked=Asked(prompt))


def a_limiter(
    open_requests: int = 16,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    drain: anyio.Event | None = None,
) -> Limiter:
    """A limiter with a fixed seed."""
    return Limiter(
        open_requests=open_requests,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        drain=drain or anyio.Event(),
        rng=random.Random(7),  # noqa: S311  jitter
    )


def a_job(**table: object) -> Job:
    """A job for an endpoint that nobody calls."""
    places = {"input": "in.jsonl", "output": "out", "model": "m1", "base_url": "http://127.0.0.1:9/v1"}
    return Job.model_validate(places | table)


def a_stage(  # one part each
    client: FakeClient,
    *,
    name: StageName = "rewrite",
    job: RewriteJob | AnswerJob | None = None,
    retry: Retry | None = None,
    limiter: Limiter | None = None,
    health: Health | None = None,
    drain: anyio.Event | None = None,
    model: type[BaseModel] | None = RewriteReply,
    meter: Meter | None = None,
) -> Stage:
    """A stage around the fake client, all other parts real."""
    drain = drain or anyio.Event()
    limiter = limiter or a_limiter(drain=drain)
    tally = StageTally() if meter is None else meter.tally
    job = job or (RewriteJob(model="m1") if name == "rewrite" else AnswerJob(model="m1"))
    return Stage(
        name=name,
        job=job,
        asker=Asker(model, mode=job.mode, strict=job.strict, max_chars=job.max_chars),
        client=client,
        limiter=limiter,
        lane=limiter.lane(job.open_requests),
        retry=RetryPolicy(retry or Retry(), drain, random.Random(7)),  # noqa: S311  jitter
        health=health or Health(),
        tally=tally,
        meter=meter or Meter(Spending(Budget()), tally, None),
        keep_messages=True,
    )


def in_virtual_time(main: Callable[[], Awaitable[T]]) -> T:
    """Run to the end on a clock of its own, from 0, that jumps over every wait: for properties."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return anyio.run(main, backend="trio", backend_options={"clock": clock})
