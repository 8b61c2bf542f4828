"""Has records carried by several processes of this machine, which share one set of limits and one set of files.

This process goes on to read, to show, to heed signals and to account; the members ask and write. Invariants: a record
is dealt to one member only, and to none but the first before the accounts have answered, so a wrong model costs what it
costs one process; a member that dies stops the run, and what it held stays pending.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from s2a_batch import wire
from s2a_batch.errors import BudgetError, OutputError, StoppedEarly
from s2a_batch.fleet import kill
from s2a_batch.records import BadLine
from s2a_batch.siblings import ShownLimiter
from s2a_batch.wire import Channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from s2a_batch.budget import Spending
    from s2a_batch.errors import StopRun
    from s2a_batch.fleet import Fleet, Process
    from s2a_batch.flow import Fingerprints, Front, Pending
    from s2a_batch.orders import Order
    from s2a_batch.rewrites import FinishedRewrites
    from s2a_batch.rundir import RunDirectory

_FIRST_RECORDS: Final = 6
"""So many may be under way before an account has answered: enough for the first four open requests."""
_TRUSTED_RECORDS: Final = 8
"""So many answered records show that all is well, though one account was not asked, as the job may have it."""
_SUM_S: Final = 0.1
_LAST_S: Final = 10.0
"""After all was cancelled, a member may take so long to write what it has."""


class Dealer:
    """Carries records by a fleet, as `flow.Crew`.

    Args:
        front: Where it is told.
        fleet: Its processes run.
        directory: The run's, locked.
        rewrites: Finished ones.
        say: Prints a line for the person at the screen.
    """

    def __init__(
        self,
        front: Front,
        *,
        fleet: Fleet,
        directory: RunDirectory,
        rewrites: FinishedRewrites,
        say: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._processes = fleet.processes
        self._channels = [Channel(process.end) for process in fleet.processes]
        self._directory = directory
        self._rewrites = rewrites
        self._say = say
        self._front = front
        self._changed = anyio.Event()
        self._trusted = False
        self._shown: tuple[ShownLimiter, ...] = ()
        self._synced: dict[str, int] = {}
        self._marking = anyio.Lock()

    @property
    def spending(self) -> Spending:
        """Of all members."""
        return self._fleet.spending

    def steer(self, order: Order) -> None:
        """As of `Crew`."""
        self._send(wire.Steer(order))
        for limiter in self._shown:
            limiter.heed(order)

    async def carry(self, records: AsyncIterator[Pending], fingerprints: Fingerprints) -> None:
        """As of `Crew`."""
        async with anyio.create_task_group() as tasks:
            for process, channel in zip(self._processes, self._channels, strict=True):
                tasks.start_soon(channel.run)
                tasks.start_soon(self._hear, process, channel)
            tasks.start_soon(self._pass_on_drain)
            tasks.start_soon(self._keep_summed_up)
            self._send(wire.Begin(fingerprints.result, fingerprints.rewrite, self._fleet.spending.end))
            with self._front.scope:
                await self._deal_all(records)
                self._send(wire.NoMore())
                await self._all_gone()
            if self._front.scope.cancel_called:
                await self._cancel()
            tasks.cancel_scope.cancel()
        self._sum_up()
        await anyio.to_thread.run_sync(self._leave_sound)

    # --- dealing

    async def _deal_all(self, records: AsyncIterator[Pending]) -> None:
        async for record in records:
            # When no one has room any more the record stays pending; that it was met is for the reader to know.
            if (process := await self._roomy(record)) is not None:
                place = self._rewrites.place(record.key)
                process.deal(record)
                self._channels[process.number - 1].put(wire.Deal(record, place))

    async def _roomy(self, record: Pending) -> Process | None:
        """The member with the fewest records that wait in it, once one has room; None when the run drains."""
        while not self._front.drain.is_set():
            process = min(self._open(record), key=lambda p: len(p.waiting), default=None)
            if process is not None and process.has_room():
                return process
            self._changed = anyio.Event()
            await self._changed.wait()
        return None

    def _open(self, record: Pending) -> Iterator[Process]:
        """Members that this record may be dealt to; a bad line asks nothing."""
        if self._trusted or isinstance(record, BadLine):
            return (process for process in self._processes if not process.gone.is_set())
        first = self._processes[0]
        return iter([first] if first.dealt - first.tally.finished < _FIRST_RECORDS else [])

    def _look_whether_trusted(self) -> None:
        """Whether the accounts have shown that they work, so that all members may ask."""
        answered = {n for process in self._processes for n in process.answered}
        first = self._processes[0]
        records = first.tally.answered + first.tally.rewritten
        self._trusted |= len(answered) == len(first.gauges) > 0 or records >= _TRUSTED_RECORDS
        for process in self._processes:
            if news := answered - {*process.answered}:
                self._channels[process.number - 1].put(wire.Worked(tuple(news)))

    # --- hearing

    async def _hear(self, process: Process, channel: Channel) -> None:
        while (messages := await channel.receive()) is not None:
            for message in messages:
                await self._heed(process, message)
        status = (await anyio.to_thread.run_sync(os.waitpid, process.pid, 0))[1]
        process.reaped = True
        if not process.ended and not self._front.scope.cancel_called:
            self._front.stop(StoppedEarly(self._story(process, status)))
        process.gone.set()
        self._changed.set()

    async def _heed(self, process: Process, message: wire.Message) -> None:
        match message:
            case wire.Taken(count):
                process.take(count)
                self._changed.set()
            case wire.Report():
                self._note(process, message)
            case wire.Met(account, notice):
                self._send(wire.Overheard(account, notice), but=process)
            case wire.Synced(sizes):
                await self._mark(sizes)
            case wire.Ended():
                process.ended = True
            case wire.Stopped(error):
                self._stop(error)
            case wire.Crashed(text):
                raise RuntimeError(f"in process {process.number} of {len(self._processes)}:\n{text}")
            case _:
                raise TypeError(message)

    def _stop(self, error: StopRun) -> None:
        if isinstance(error, BudgetError):
            self._fleet.spending.heed()
        self._front.stop(error)
        if isinstance(error, OutputError):
            self._front.scope.cancel()

    def _note(self, process: Process, report: wire.Report) -> None:
        process.tally, process.gauges = report.tally, report.gauges
        grown = report.answered != process.answered
        process.answered = report.answered
        if grown or not self._trusted:
            self._look_whether_trusted()
            self._changed.set()
        if not self._shown:
            self._shown = tuple(ShownLimiter(self._front.drain) for _ in report.gauges)
            self._sum_up()
            self._front.opened(self._shown)

    async def _keep_summed_up(self) -> None:
        while True:
            await anyio.sleep(_SUM_S)
            self._sum_up()

    def _sum_up(self) -> None:
        self._front.tally.gather(p.tally for p in self._processes)
        for n, limiter in enumerate(self._shown):
            limiter.show(p.gauges[n] for p in self._processes if p.gauges)

    async def _mark(self, sizes: Mapping[str, int]) -> None:
        """Note what is synced; one after the other, so that an older note never replaces a newer one."""
        self._synced |= {name: max(size, self._synced.get(name, 0)) for name, size in sizes.items()}
        async with self._marking:
            await anyio.to_thread.run_sync(self._directory.note_synced, dict(self._synced))

    def _story(self, process: Process, status: int) -> str:
        """How a member ended that should not have."""
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        hint = "; was memory short? fewer processes take less" if code == -signal.SIGKILL else ""
        return (
            f"process {process.number} of {len(self._processes)} (pid {process.pid}) {how}{hint}; what it held is "
            "pending: run the same command again"
        )

    # --- ending

    async def _pass_on_drain(self) -> None:
        await self._front.drain.wait()
        self._send(wire.Drain())
        self._changed.set()

    async def _cancel(self) -> None:
        """Break off, and wait a moment for what is written; who does not come to an end is killed."""
        self._send(wire.Cancel(), wire.NoMore())
        with anyio.move_on_after(_LAST_S):
            await self._all_gone()
        for process in self._processes:
            if not process.reaped:
                kill(process.pid)
        await self._all_gone()

    async def _all_gone(self) -> None:
        for process in self._processes:
            await process.gone.wait()

    def _leave_sound(self) -> None:
        """Cut what a member that was killed left, and bring to the disk what it wrote."""
        if all(process.ended for process in self._processes):
            return
        for note in self._directory.cut_tails():
            self._say(note)
        self._directory.note_synced()

    def _send(self, *messages: wire.Message, but: Process | None = None) -> None:
        for process, channel in zip(self._processes, self._channels, strict=True):
            if process is not but:
                channel.put(*messages)
