"""From a job to its parts: endpoints with their keys, limiters, stages, the pipeline.

Invariant: stages that use the same account and model share one limiter, so a limit holds over both together.
"""

from __future__ import annotations

import functools
import math
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch import embedded, model_file
from s2a_batch.answers import REWRITE_REPLIES, answer_model, with_reasoning
from s2a_batch.asker import Asker
from s2a_batch.budget import Meter, Spending
from s2a_batch.client import Endpoint
from s2a_batch.credentials import Secrets, secrets_of
from s2a_batch.job import OPENAI_URL, is_embedded
from s2a_batch.limits import Limiter
from s2a_batch.pipeline import Pipeline
from s2a_batch.prices import prices_of
from s2a_batch.retry import Health, RetryPolicy
from s2a_batch.share import Share
from s2a_batch.siblings import SharedLimiter
from s2a_batch.stages import Stage
from s2a_batch.transport import make_room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from pydantic import BaseModel

    from s2a_batch.job import Job
    from s2a_batch.ledger import SharedSpending
    from s2a_batch.orders import Order
    from s2a_batch.records import StageName, Status
    from s2a_batch.report import Tally
    from s2a_batch.siblings import Notice
    from s2a_batch.stagejob import StageJob

# Record tasks for each open request. In virtual time over five workloads c1 + c2 tasks equal two worker pools joined by
# a queue (0.999-1.000 of its makespan); half as many again gains 5 %.
_TASKS_PER_OPEN: Final = 1.5


@dataclass(frozen=True, slots=True)
class Parts:
    """What the worker drives.

    Attributes:
        healths: Of the same accounts as the limiters.
        share: This process's part of the limits.
    """

    pipeline: Pipeline
    limiters: tuple[Limiter, ...]
    healths: tuple[Health, ...]
    share: Share

    @property
    def tasks(self) -> int:
        """How many records may be under way."""
        return math.ceil(_TASKS_PER_OPEN * sum(limiter.cap for limiter in self.limiters))

    def heed(self, order: Order) -> None:
        """Have every account heed this process's part of what a person changed."""
        mine = replace(
            order,
            open_requests=None if order.open_requests is None else self.share.count(order.open_requests),
            requests_per_minute=_part(order.requests_per_minute, self.share),
            tokens_per_minute=_part(order.tokens_per_minute, self.share),
        )
        for limiter, health in zip(self.limiters, self.healths, strict=True):
            began = limiter.held_since
            limiter.heed(mine)
            if began is not None and limiter.held_since is None:
                health.pass_over(began, anyio.current_time())
        make_room(sum(limiter.cap for limiter in self.limiters))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a stage's requests go."""

    base_url: str
    secrets: Secrets
    model: str
    open_requests: int | None = None
    """Most that the place itself can serve at a time; None when it does not say."""

    def account(self) -> tuple[str, str, str]:
        return self.base_url.rstrip("/"), self.secrets.api_key, self.model


@dataclass(frozen=True, slots=True)
class Crowd:
    """This process among those that carry one run.

    Attributes:
        share: Its part of the limits.
        spending: Of all of them.
        tell: Tells the others what was met at the account of this number.
    """

    share: Share
    spending: SharedSpending
    tell: Callable[[int, Notice], None]


@dataclass(slots=True)
class _Shared:
    """What all stages of one account share."""

    limiter: Limiter
    health: Health


def _remote(job: Job, name: StageName, environ: Mapping[str, str]) -> _Place:
    stage = job.stages()[name]
    return _Place(stage.base_url or OPENAI_URL, secrets_of(job, name, environ), str(stage.model))


class Assembly:
    """Builds the parts of one execution.

    Args:
        job: What to run.
        environ: Where keys are looked up.
        drain: Set when no new request may start.
        tally: Counts.
        say: Prints a line for the person at the screen.
        crowd: The other processes of the run; None when this one is all.

    Attributes:
        spending: What is spent, against the job's budget.
    """

    def __init__(  # noqa: PLR0913  the parts, each once
        self,
        job: Job,
        *,
        environ: Mapping[str, str],
        drain: anyio.Event,
        tally: Tally,
        say: Callable[[str], None],
        crowd: Crowd | None = None,
    ) -> None:
        self._job = job
        self._environ = environ
        self._tally = tally
        self._crowd = crowd
        self._share = Share() if crowd is None else crowd.share
        self.spending = Spending(job.budget) if crowd is None else crowd.spending
        self._prices = prices_of(job)
        self._say = say
        self._drain = drain
        self._rng = random.Random()  # noqa: S311  jitter, no secret
        model = answer_model(job.answer)
        self._answer_model = with_reasoning(model, job.answer) if job.arm == "cot" else model
        self._places: dict[str, _Place] = {}
        self._limiters: dict[tuple[str, str, str], _Shared] = {}
        self._endpoints: dict[tuple[object, ...], Endpoint] = {}

    @asynccontextmanager
    async def parts(
        self, fingerprint: str, rewrite_fingerprint: str, write: Callable[[Status, bytes], Awaitable[None]]
    ) -> AsyncIterator[Parts]:
        """The parts, open while the context lasts; an embedded model server runs as long."""
        job = self._job
        async with AsyncExitStack() as stack:
            for name, stage in self._job.stages().items():
                self._places[name] = await self._place(stack, name, stage)
            # Lanes made first go first: what is started gets finished.
            answer = None if job.only else await self._stage(stack, "answer", job.answer, self._answer_model)
            rewrite = None
            if job.arm == "s2a":
                rewrite = await self._stage(stack, "rewrite", job.rewrite, REWRITE_REPLIES[job.rewrite.form])
            pipeline = Pipeline(
                rewrite,
                answer,
                job=job,
                fingerprint=fingerprint,
                rewrite_fingerprint=rewrite_fingerprint,
                write=write,
            )
            shared = self._limiters.values()
            limiters, healths = tuple(s.limiter for s in shared), tuple(s.health for s in shared)
            yield Parts(pipeline, limiters, healths, self._share)

    async def _place(self, stack: AsyncExitStack, name: StageName, stage: StageJob) -> _Place:
        if not is_embedded(stage):
            return _remote(self._job, name, self._environ)
        same = [n for n, other in self._job.stages().items() if n in self._places and other.model == stage.model]
        if same and is_embedded(self._job.stages()[same[0]]):
            return self._places[same[0]]
        slots = min(embedded.DEFAULT_SLOTS, (stage.limits or self._job.limits).most_open)
        path = await model_file.ensure_model(str(stage.model), self._say)
        served = await stack.enter_async_context(
            embedded.serve(path, slots=slots, context_tokens=embedded.DEFAULT_CONTEXT_TOKENS, say=self._say)
        )
        return _Place(served.base_url, Secrets(served.api_key, {}), served.model, slots)

    async def _stage(
        self, stack: AsyncExitStack, name: StageName, stage: StageJob, model: type[BaseModel] | None
    ) -> Stage:
        place = self._places[name]
        shared = self._limiter(stage, place)
        strict = stage.strict and not (name == "answer" and self._job.answer.schema_file is not None)
        return Stage(
            name=name,
            job=stage,
            asker=Asker(model, mode=stage.mode, strict=strict, max_chars=stage.max_chars),
            client=await self._endpoint(stack, place),
            limiter=shared.limiter,
            lane=shared.limiter.lane(
                None if stage.open_requests is None else self._share.count(stage.open_requests), name
            ),
            retry=RetryPolicy(self._job.retry, self._drain, self._rng),
            health=shared.health,
            tally=self._tally.stage(name),
            meter=Meter(self.spending, self._tally.stage(name), self._prices[name]),
            keep_messages=self._job.messages == "full",
        )

    def _limiter(self, stage: StageJob, place: _Place) -> _Shared:
        if (shared := self._limiters.get(place.account())) is not None:
            return shared
        limits, share = stage.limits or self._job.limits, self._share
        limiter = (Limiter if self._crowd is None else SharedLimiter)(
            open_requests=share.count(min(limits.most_open, place.open_requests or limits.most_open)),
            adaptive=limits.open_requests == "auto",
            requests_per_minute=_part(limits.requests_per_minute, share),
            tokens_per_minute=_part(limits.tokens_per_minute, share),
            drain=self._drain,
            rng=self._rng,
        )
        if self._crowd is not None and isinstance(limiter, SharedLimiter):
            limiter.join(share, functools.partial(self._crowd.tell, len(self._limiters)))
        retry = self._job.retry
        health = Health(max_wait_s=retry.max_wait_s, again=retry.failed != "never")
        return self._limiters.setdefault(place.account(), _Shared(limiter, health))

    async def _endpoint(self, stack: AsyncExitStack, place: _Place) -> Endpoint:
        key = (place.base_url, place.secrets.api_key, *sorted(place.secrets.headers.items()))
        if key not in self._endpoints:
            endpoint = Endpoint(
                base_url=place.base_url,
                api_key=place.secrets.api_key,
                headers=place.secrets.headers,
                deadline_s=self._job.retry.deadline_s,
                # Enough for both stages at once: waiting for a connection would eat the request's deadline.
                connections=sum(
                    self._share.count((s.limits or self._job.limits).most_open) for s in self._job.stages().values()
                ),
            )
            self._endpoints[key] = await stack.enter_async_context(endpoint)
        return self._endpoints[key]


def _part(limit: float | None, share: Share) -> float | None:
    return limit if limit is None or math.isinf(limit) else share.rate(limit)
