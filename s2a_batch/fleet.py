"""The members' processes: forked, ended, and never left behind.

Invariants: they are forked before this process has a loop or a thread; none outlives the block, however it is left.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Self

import anyio

from s2a_batch import member
from s2a_batch.assembly import Assembly
from s2a_batch.errors import JobError
from s2a_batch.ledger import SharedSpending
from s2a_batch.report import Tally
from s2a_batch.share import Share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from s2a_batch.flow import Pending
    from s2a_batch.job import Job
    from s2a_batch.ledger import Ledger
    from s2a_batch.rewrites import FinishedRewrites
    from s2a_batch.siblings import Gauge


_PREFETCH_BYTES: Final = 8 << 20


@dataclass(slots=True)
class Process:
    """A member as this process knows it.

    Attributes:
        waiting: Sizes of the records that wait in it, in bytes, in their order.
        ended: Whether it said that all is done.
        gone: Set when its end of the channel is closed.
    """

    number: int
    pid: int
    end: socket.socket
    tally: Tally = field(default_factory=Tally)
    gauges: tuple[Gauge, ...] = ()
    answered: tuple[int, ...] = ()
    waiting: deque[int] = field(default_factory=deque)
    dealt: int = 0
    ended: bool = False
    reaped: bool = False
    gone: anyio.Event = field(default_factory=anyio.Event)
    _waiting_bytes: int = 0

    def deal(self, record: Pending) -> None:
        """It is given a record."""
        size = len(record.input_json or b"")
        self.waiting.append(size)
        self._waiting_bytes += size
        self.dealt += 1

    def take(self, count: int) -> None:
        """It took so many up."""
        self._waiting_bytes -= sum(self.waiting.popleft() for _ in range(count))

    def has_room(self) -> bool:
        """Whether one more record may wait in it: there are few, and they are no books."""
        return len(self.waiting) < member.PREFETCH and self._waiting_bytes < _PREFETCH_BYTES


class Fleet:
    """The members' processes: forked on entry, before there is a loop or a thread; none is left on exit.

    Args:
        job: What to run.
        environ: Where keys are looked up.
        rewrites: Finished ones.
        count: How many processes.
        ledger: Where they count what they spend.
    """

    def __init__(
        self, job: Job, environ: Mapping[str, str], rewrites: FinishedRewrites, count: int, ledger: Ledger
    ) -> None:
        self._job = job
        self._environ = environ
        self._rewrites = rewrites
        self._count = count
        self.processes: list[Process] = []
        self.spending = SharedSpending(job.budget, ledger)

    def __enter__(self) -> Self:
        anyio.run(self._load)
        gc.freeze()  # pages that nobody's collector touches stay shared
        before = signal.pthread_sigmask(signal.SIG_BLOCK, member.SIGNALS)
        try:
            for index in range(self._count):
                self._fork(index)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                what = f"process {len(self.processes) + 1} of {self._count} cannot be started: {error.strerror}"
                raise JobError(f"{what}; fewer processes need less of the machine") from None
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with suppress(OSError):
                process.end.close()
            if not process.reaped:
                kill(process.pid)
                os.waitpid(process.pid, 0)

    async def _load(self) -> None:
        """Have the libraries load what they load at first use, once for all members."""

        async def keep_nothing(*_: object) -> None:
            pass

        drain = anyio.Event()
        assembly = Assembly(self._job, environ=self._environ, drain=drain, tally=Tally(), say=print)
        async with assembly.parts("", "", keep_nothing):
            pass

    def _fork(self, index: int) -> None:
        ours, theirs = socket.socketpair()
        front = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_member(index, theirs, front, [ours, *(process.end for process in self.processes)])
        theirs.close()
        self.processes.append(Process(index + 1, pid, ours))

    def _be_member(self, index: int, end: socket.socket, front: int, others: list[socket.socket]) -> NoReturn:
        try:
            # Else the end of this process would not be heard by the others' members.
            for other in others:
                other.close()
            share = Share(index, self._count)
            member.serve(end, front, member.Post(self._job, self._environ, self._rewrites, share, self.spending))
        finally:  # whatever went wrong, there is one front only
            os._exit(member.BUG_STATUS)


def kill(pid: int) -> None:
    """End a member at once; one that has ended is no matter."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
