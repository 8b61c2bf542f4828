"""Carries records through the pipeline, a task each, and writes what comes of them.

A process that is alone does so with all that it reads, each of several with what it is dealt.

Invariants: a record's result is on disk before it counts as done; what stops the run leaves the other records pending;
when the disk is full nothing is waited for.
"""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import anyio

from s2a_batch.assembly import Assembly, Parts
from s2a_batch.errors import Drained, OutputError, StopRun
from s2a_batch.records import BadLine, Record
from s2a_batch.rundir import FILES, LINE_FILES
from s2a_batch.sink import Sink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from s2a_batch.budget import Spending
    from s2a_batch.draft import FinishedRewrite
    from s2a_batch.job import Job
    from s2a_batch.limits import Limiter
    from s2a_batch.orders import Order
    from s2a_batch.records import Status
    from s2a_batch.report import Tally
    from s2a_batch.rewrites import FinishedRewrites
    from s2a_batch.rundir import RunDirectory

Pending: TypeAlias = "Record | BadLine"
"""What waits for its result."""


_COLLECT: Final = (50_000, 20, 20)
"""As seldom as this cycles are looked for: at 2,048 open requests that is a fifth of all CPU, and finds little."""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of the settings that make results, and of those that make rewrites."""

    result: str
    rewrite: str


@dataclass(frozen=True, slots=True)
class Front:
    """What whoever carries records shares with whoever reads them and ends the run.

    Attributes:
        tally: Counts.
        drain: Set when no new request may start.
        scope: Cancelled when nothing is worth waiting for any more.
        stop: Told what stops the run; sets `drain`.
        opened: Told the limiters, once the endpoints are open.
    """

    tally: Tally
    drain: anyio.Event
    scope: anyio.CancelScope
    stop: Callable[[StopRun], None]
    opened: Callable[[tuple[Limiter, ...]], None]


class Crew(Protocol):
    """Who carries records: this process alone, or several."""

    @property
    def spending(self) -> Spending:
        """What is spent, against the job's budget."""
        ...

    def steer(self, order: Order) -> None:
        """Have all who ask heed what a person changed, now or as soon as they begin."""
        ...

    async def carry(self, records: AsyncIterator[Pending], fingerprints: Fingerprints) -> None:
        """Carry them all through, or until the front's scope is cancelled; returns when nothing goes on any more."""
        ...


class _Supply:
    """Records that are read and not yet taken up: few, and of few bytes.

    Whoever comes takes the next one at once. Handed over by a stream or a lock, each would wait for a turn of the loop
    of its own; with one record a turn all else costs 0.3 ms a record more.
    """

    _MOST: Final = 32
    _MOST_BYTES: Final = 1 << 20

    def __init__(self) -> None:
        self._ready: deque[Pending] = deque()
        self._bytes = 0
        self._changed = anyio.Event()
        self._low = anyio.Event()
        self._is_over = False

    async def fill(self, records: AsyncIterator[Pending]) -> None:
        """Read until there are no more."""
        async for record in records:
            self._ready.append(record)
            self._bytes += _size(record)
            self._wake()
            if len(self._ready) >= self._MOST or self._bytes >= self._MOST_BYTES:
                self._low = anyio.Event()
                await self._low.wait()
        self._is_over = True
        self._wake()

    async def take(self) -> Pending | None:
        """The next record; None after the last. A cancellation takes none."""
        while not self._ready:
            if self._is_over:
                return None
            await self._changed.wait()
        record = self._ready.popleft()
        self._bytes -= _size(record)
        if len(self._ready) <= self._MOST // 2 and self._bytes <= self._MOST_BYTES // 2:
            self._low.set()
        return record

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _size(record: Pending) -> int:
    return len(record.input_json or b"")


class Flow:
    """Carries records in this process.

    Args:
        assembly: Builds the parts.
        sink: Writes; only this flow runs it.
        front: Where it is told.
        find: Looks a finished rewrite of a record up, made by settings of this fingerprint.
        opened: Told the parts, once the endpoints are open.
    """

    def __init__(
        self,
        assembly: Assembly,
        sink: Sink,
        front: Front,
        find: Callable[[Record, str], Awaitable[FinishedRewrite | None]],
        opened: Callable[[Parts], None],
    ) -> None:
        self._assembly = assembly
        self._sink = sink
        self._front = front
        self._find = find
        self._opened = opened
        self._parts: Parts | None = None
        self._orders: list[Order] = []
        self._workers = 0

    def heed(self, order: Order) -> None:
        """Do what a person wishes: now, or as soon as the endpoints are open."""
        if self._parts is None:
            self._orders.append(order)
        else:
            self._parts.heed(order)
            self._hire()

    async def carry(self, records: AsyncIterator[Pending], fingerprints: Fingerprints) -> None:
        """As of `Crew`."""
        async with anyio.create_task_group() as writing:
            writing.start_soon(self._run_sink)
            try:
                with self._front.scope:
                    await self._through(records, fingerprints)
            finally:
                self._sink.close()

    async def _through(self, records: AsyncIterator[Pending], fingerprints: Fingerprints) -> None:
        try:
            async with self._assembly.parts(fingerprints.result, fingerprints.rewrite, self._write) as parts:
                for order in self._orders:
                    parts.heed(order)
                self._opened(parts)
                # The libraries' objects stay: to look through them takes 90 ms each time, in which no request starts.
                gc.freeze()
                gc.set_threshold(*_COLLECT)
                self._supply = _Supply()
                self._fingerprints = fingerprints
                async with anyio.create_task_group() as self._tasks:
                    self._tasks.start_soon(self._supply.fill, records)
                    self._parts = parts
                    self._hire()
        except StopRun as error:
            self._front.stop(error)
        finally:
            self._parts = None

    def _hire(self) -> None:
        """As many record tasks as the caps ask for; too many wait for a slot, and do no harm."""
        while self._parts is not None and self._workers < self._parts.tasks:
            self._workers += 1
            self._tasks.start_soon(self._work, self._parts)

    async def _work(self, parts: Parts) -> None:
        while (record := await self._supply.take()) is not None:
            try:
                await self._one(record, parts)
            except Drained:
                continue
            except StopRun as error:
                self._front.stop(error)

    async def _one(self, record: Pending, parts: Parts) -> None:
        pipeline, tally = parts.pipeline, self._front.tally
        if isinstance(record, BadLine):
            tally.note(await pipeline.settle(record, pipeline.dead_letter(record)))
            return
        tally.note(await pipeline.process(record, await self._find(record, self._fingerprints.rewrite)))

    async def _write(self, status: Status, line: bytes) -> None:
        await self._sink.append(FILES[status], line)

    async def _run_sink(self) -> None:
        try:
            await self._sink.run()
        except OutputError as error:
            # What comes back now cannot be kept: nothing is worth waiting for.
            self._front.stop(error)
            self._front.scope.cancel()


class Alone:
    """This process carries all records itself.

    Args:
        front: Where it is told.
        job: What to run.
        environ: Where keys are looked up.
        directory: The run's, locked.
        rewrites: Finished ones.
        say: Prints a line for the person at the screen.
    """

    def __init__(  # noqa: PLR0913  the parts, each once
        self,
        front: Front,
        *,
        job: Job,
        environ: Mapping[str, str],
        directory: RunDirectory,
        rewrites: FinishedRewrites,
        say: Callable[[str], None],
    ) -> None:
        def find(record: Record, made_by: str) -> Awaitable[FinishedRewrite | None]:
            return rewrites.find(record.key, made_by)

        def opened(parts: Parts) -> None:
            front.opened(parts.limiters)

        assembly = Assembly(job, environ=environ, drain=front.drain, tally=front.tally, say=say)
        sink = Sink(job.output, LINE_FILES, fsync_s=job.fsync_s, synced=directory.note_synced)
        self._flow = Flow(assembly, sink, front, find, opened)
        self.spending = assembly.spending

    def steer(self, order: Order) -> None:
        """As of `Crew`."""
        self._flow.heed(order)

    async def carry(self, records: AsyncIterator[Pending], fingerprints: Fingerprints) -> None:
        """As of `Crew`."""
        await self._flow.carry(records, fingerprints)
