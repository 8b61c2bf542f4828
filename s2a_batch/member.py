"""One of several processes that carry records: takes what it is dealt, tells what it counted, heeds the others.

Runs in a process of its own, forked before any loop or thread was there. Invariants: it never outlives the process that
reads, so nobody pays for records that nobody accounts for; signals of the terminal are that process's business alone;
it ends by `os._exit`, so nothing of what it inherited is closed, flushed or signed twice.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from s2a_batch import wire
from s2a_batch.assembly import Assembly, Crowd, Parts
from s2a_batch.flow import Fingerprints, Flow, Front
from s2a_batch.report import Tally
from s2a_batch.rundir import LINE_FILES
from s2a_batch.sharedsink import SharedSink
from s2a_batch.siblings import Gauge, SharedLimiter
from s2a_batch.wire import Channel

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Awaitable, Mapping

    from s2a_batch.draft import FinishedRewrite
    from s2a_batch.errors import StopRun
    from s2a_batch.flow import Pending
    from s2a_batch.job import Job
    from s2a_batch.ledger import SharedSpending
    from s2a_batch.limits import Limiter
    from s2a_batch.records import Record
    from s2a_batch.rewrites import FinishedRewrites, Place
    from s2a_batch.share import Share

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Of the terminal and of service managers, which reach all processes of a group at once."""
PREFETCH: Final = 32
"""Records that wait in a member, so that it never waits for the one that reads."""
BUG_STATUS: Final = 70
_LOW: Final = PREFETCH // 2
_REPORT_S: Final = 0.05
_ORPHANED_STATUS: Final = 1
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Post:
    """What a member works on.

    Attributes:
        share: Its part of the limits.
        spending: Of all members.
    """

    job: Job
    environ: Mapping[str, str]
    rewrites: FinishedRewrites
    share: Share
    spending: SharedSpending


def serve(end: socket.socket, front_pid: int, post: Post) -> NoReturn:
    """Be a member until the work or the front ends; never returns."""
    status = BUG_STATUS
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _die_with(front_pid)
        anyio.run(_Member(post).run, end)
        status = 0
    finally:
        os._exit(status)


def _die_with(front_pid: int) -> None:
    """Have the kernel end this process with the one that reads, also while its loop is busy; where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != front_pid:
        os._exit(_ORPHANED_STATUS)


class _Member:
    """One member's work."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._tally = Tally()
        self._parts: Parts | None = None
        self._inbox: deque[wire.Deal] = deque()
        self._places: dict[str, Place] = {}
        self._worked: set[int] = set()
        self._no_more = False
        self._taken = 0

    async def run(self, end: socket.socket) -> None:
        self._channel = channel = Channel(end)
        self._drain = anyio.Event()
        self._begun = anyio.Event()
        self._arrived = anyio.Event()
        self._scope = anyio.CancelScope()
        self._flow = self._make_flow()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.run)
                tasks.start_soon(self._listen)
                await self._begun.wait()
                tasks.start_soon(self._keep_told)
                tasks.start_soon(self._heed_budget)
                await self._flow.carry(self._records(), self._fingerprints)
                self._tell()
                channel.put(wire.Ended())
                await channel.flush()
                tasks.cancel_scope.cancel()
        except BaseException:
            channel.put(wire.Crashed(traceback.format_exc()))
            await channel.flush()
            raise

    def _make_flow(self) -> Flow:
        post, put = self._post, self._channel.put
        front = Front(self._tally, self._drain, self._scope, self._stop, _nothing)
        crowd = Crowd(post.share, post.spending, lambda account, notice: put(wire.Met(account, notice)))
        assembly = Assembly(
            post.job, environ=post.environ, drain=self._drain, tally=self._tally, say=_nothing, crowd=crowd
        )
        output, fsync_s = post.job.output, post.job.fsync_s
        sink = SharedSink(output, LINE_FILES, fsync_s=fsync_s, told=lambda sizes: put(wire.Synced(sizes)))
        return Flow(assembly, sink, front, self._find, self._opened)

    async def _records(self) -> AsyncGenerator[Pending]:
        """What is dealt, as it is taken up."""
        while True:
            while not self._inbox:
                if self._no_more:
                    return
                self._arrived = anyio.Event()
                await self._arrived.wait()
            dealt = self._inbox.popleft()
            if dealt.place is not None:
                self._places[dealt.record.key] = dealt.place
            yield dealt.record
            self._taken += 1
            if self._taken >= _LOW:
                self._channel.put(wire.Taken(self._taken))
                self._taken = 0

    def _find(self, record: Record, made_by: str) -> Awaitable[FinishedRewrite | None]:
        return self._post.rewrites.read(record.key, made_by, self._places.pop(record.key, None))

    def _opened(self, parts: Parts) -> None:
        self._parts = parts
        self._note_worked()
        self._tell()

    def _stop(self, error: StopRun) -> None:
        """Tell what stops the run, and begin no request until the front says the same."""
        self._channel.put(wire.Stopped(error))
        self._begin_drain()

    def _begin_drain(self) -> None:
        self._drain.set()
        for limiter in () if self._parts is None else self._parts.limiters:
            limiter.wake_all()

    async def _heed_budget(self) -> None:
        """Tell that a cap is reached also while everybody waits for a limit or a backoff."""
        await self._post.spending.exhausted()
        self._stop(self._post.spending.error())

    # --- what is told

    async def _keep_told(self) -> None:
        while True:
            await anyio.sleep(_REPORT_S)
            self._tell()

    def _tell(self) -> None:
        """Tell how this process stands."""
        if self._parts is None:
            return
        if self._taken:
            self._channel.put(wire.Taken(self._taken))
            self._taken = 0
        gauges = tuple(Gauge.of(limiter) for limiter in self._parts.limiters)
        answered = tuple(n for n, health in enumerate(self._parts.healths) if health.answers)
        self._channel.put(wire.Report(self._tally, gauges, answered))

    # --- what is heard

    async def _listen(self) -> None:
        while (messages := await self._channel.receive()) is not None:
            for message in messages:
                self._heed(message)
        os._exit(_ORPHANED_STATUS)  # the front is gone: what is open must not go on to cost money

    def _heed(self, message: wire.Message) -> None:
        match message:
            case wire.Deal():
                self._inbox.append(message)
                self._arrived.set()
            case wire.Begin(result, rewrite, end):
                self._fingerprints = Fingerprints(result, rewrite)
                self._post.spending.end = end
                self._begun.set()
            case wire.NoMore():
                self._no_more = True
                self._arrived.set()
            case wire.Overheard(account, notice):
                if isinstance(limiter := self._limiter(account), SharedLimiter):
                    limiter.hear(notice)
            case wire.Worked(accounts):
                self._worked |= {*accounts}
                self._note_worked()
            case wire.Steer(order):
                self._flow.heed(order)
            case wire.Drain():
                self._begin_drain()
            case wire.Cancel():
                self._begin_drain()
                self._scope.cancel()
            case _:
                raise TypeError(message)

    def _limiter(self, account: int) -> Limiter | None:
        return None if self._parts is None else self._parts.limiters[account]

    def _note_worked(self) -> None:
        """An endpoint that answers others is no wrong one, whatever it says to this process first."""
        for account, health in enumerate(() if self._parts is None else self._parts.healths):
            if account in self._worked and not health.answers:
                health.note_success()


def _nothing(_: object) -> None:
    pass
