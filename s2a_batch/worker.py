"""Runs a job: opens its directory, reads records for those that carry them, drains on a signal or a fault, sums up.

Invariants: whatever stops the run leaves the rest pending; the first signal drains, the second cancels; how many
processes carry the records changes nothing here.
"""

from __future__ import annotations

import os
import signal
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from s2a_batch import inputs, interrupts, source
from s2a_batch.dealer import Dealer
from s2a_batch.errors import BudgetError, Drained, OutputError, StopRun
from s2a_batch.fleet import Fleet
from s2a_batch.flow import Alone, Fingerprints, Front
from s2a_batch.keys import KeyIndex
from s2a_batch.ledger import Ledger
from s2a_batch.live import Finished, Live
from s2a_batch.records import Known, Waiting
from s2a_batch.report import Tally
from s2a_batch.resume import Resume, check_paths, refuse_own
from s2a_batch.rewrites import FinishedRewrites
from s2a_batch.rundir import DEAD_LETTERS, MANIFEST, RESULTS, REWRITES, RunDirectory
from s2a_batch.setup import check_setup
from s2a_batch.share import process_count

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping

    from s2a_batch.account import Summary
    from s2a_batch.flow import Crew, Pending
    from s2a_batch.job import Job
    from s2a_batch.limits import Limiter
    from s2a_batch.orders import Order
    from s2a_batch.resume import Options

ROLES: Final = {"results": RESULTS, "dead_letters": DEAD_LETTERS, "rewrites": REWRITES, "manifest": MANIFEST}
"""What of a run is in which file."""
_MOST_TOLD: Final = 5  # of a directory of many files that are all being written


def run_job(  # noqa: PLR0913  what it is told, and whom it tells
    job: Job,
    options: Options,
    *,
    say: Callable[[str], None],
    watch: Callable[[Live], Coroutine[None, None, None]],
    say_change: Callable[[str], None] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Finished:
    """Run a job to its end, or to what stops it.

    Args:
        job: What to run.
        options: How.
        say: Prints one line for the person at the screen.
        watch: Runs beside the job and is cancelled at its end.
        say_change: Prints what `watch` can see too; as `say` if not given.
        environ: Where keys are looked up.

    Raises:
        JobError: Job, input or set-up is wrong; nothing was sent.
        LockedError: Another run holds the output directory.
        OutputError: The output directory cannot be read or written from the start.
    """
    check_paths(job)
    check_setup(job, environ)
    with (
        RunDirectory(job.output, say if options.waits else None) as directory,
        KeyIndex() as keys,
        FinishedRewrites(job, keys, sound_only=options.retry_failed or job.retry.failed == "all") as rewrites,
    ):
        worker = _Worker(job, options, Resume(job, options, directory, keys, say), say, say_change or say)
        count = process_count(job)
        if count == 1:
            alone = partial(Alone, job=job, environ=environ, directory=directory, rewrites=rewrites, say=say)
            return anyio.run(worker.run, watch, alone)
        with Ledger() as ledger, Fleet(job, environ, rewrites, count, ledger) as fleet:
            crew = partial(Dealer, fleet=fleet, directory=directory, rewrites=rewrites, say=say)
            return anyio.run(worker.run, watch, crew)


class _Worker:
    """One execution."""

    def __init__(
        self,
        job: Job,
        options: Options,
        resume: Resume,
        say: Callable[[str], None],
        say_change: Callable[[str], None],
    ) -> None:
        self._job = job
        self._options = options
        self._resume = resume
        self._say = say
        self._say_change = say_change
        self._tally = Tally(limit=options.limit)
        self._drain = anyio.Event()
        self._fault: StopRun | None = None
        self._signal: int | None = None
        self._read_all = False
        self._prepared = False
        self._taken = self._met = self._unfinished = 0

    async def run(
        self, watch: Callable[[Live], Coroutine[None, None, None]], crew_of: Callable[[Front], Crew]
    ) -> Finished:
        self._scope = anyio.CancelScope()
        crew = crew_of(Front(self._tally, self._drain, self._scope, self._stop, self._note_opened))
        self._live = Live(
            self._tally,
            anyio.current_time(),
            directory=self._job.output,
            processes=process_count(self._job),
            steer=partial(self._steer, crew),
        )
        self._spending = crew.spending
        self._spending.begin(datetime.now(UTC))
        async with anyio.create_task_group() as outer:
            outer.start_soon(self._heed_signals)
            outer.start_soon(self._heed_budget)
            outer.start_soon(watch, self._live)
            try:
                self._live.done_before = await anyio.to_thread.run_sync(self._resume.prepare)
                self._prepared = True
                self._live.ready.set()
                self._spending.count_before(self._resume.totals)
                await self._process(crew)
            except StopRun as error:
                self._stop(error)
            outer.cancel_scope.cancel()
        return self._finish()

    # --- the flow

    async def _process(self, crew: Crew) -> None:
        """Have every pending record carried through; the endpoints are opened only when there is one."""
        async with aclosing(self._pending()) as pending:
            first = await anext(pending, None)
            if first is not None:
                fingerprints = Fingerprints(self._resume.fingerprint, self._resume.rewrite_fingerprint)
                async with aclosing(self._from(first, pending)) as records:
                    await crew.carry(records, fingerprints)

    async def _from(self, first: Pending, pending: AsyncIterator[Pending]) -> AsyncGenerator[Pending]:
        """The first one and the others, up to a fault of the input."""
        yield first
        try:
            async for record in pending:
                yield record
        except StopRun as error:
            # No drain: what was read before the fault of the input is whole, and gets its answer.
            self._fault = self._fault or error

    async def _pending(self) -> AsyncGenerator[Pending]:
        """The input's records that have no result yet, counted as they are read."""
        with suppress(Drained):
            found = await inputs.find(self._job.input, self._drain)
            # A link may have come since the set-up was checked.
            await anyio.to_thread.run_sync(refuse_own, self._job, found.parts)
            self._tally.total_bytes = found.size_bytes
            keys, reached = self._resume.keys, self._tally.reached
            reading = source.records(found, self._job.fields, keys, reached=reached, gone=self._leave_out)
            async with aclosing(reading) as records:
                async for record in records:
                    if isinstance(record, Known):
                        self._tally.skip(record)
                    elif isinstance(record, Waiting):
                        self._leave(record)
                    else:
                        self._tally.read()
                        if self._drain.is_set() or self._taken == self._options.limit:
                            return
                        self._met += 1
                        if self._met % self._options.every == 0:
                            self._taken += 1
                            yield record
                            if found.size_bytes is None and self._taken == self._options.limit:
                                return  # a pipe may be silent from here on
                    # A budget may have sufficed, which only a record that is still pending disproves.
                    if self._drain.is_set() and (self._signal or not isinstance(self._fault, BudgetError)):
                        return
            if self._unfinished > _MOST_TOLD:
                self._say(f"and {self._unfinished - _MOST_TOLD} more unfinished last lines")
            self._read_all = True

    def _leave_out(self, name: str) -> None:
        self._say(f"{name}: gone while the input was read; left out")

    def _leave(self, unfinished: Waiting) -> None:
        """Half a line stays pending, with a word about it."""
        self._tally.read()
        self._unfinished += 1
        if self._unfinished <= _MOST_TOLD:
            self._say(str(unfinished))

    def _steer(self, crew: Crew, order: Order) -> None:
        """Have all who ask heed a person's order. A pause stops no clock but those that count faults."""
        live, now = self._live, anyio.current_time()
        if order.held and live.held_at is None:
            live.held_at = now
        elif order.held is False and live.held_at is not None:
            live.held_s += now - live.held_at
            live.held_at = None
        crew.steer(order)

    def _note_opened(self, limiters: tuple[Limiter, ...]) -> None:
        self._live.limiters = limiters

    # --- the end

    async def _heed_signals(self) -> None:
        with anyio.open_signal_receiver(*interrupts.heeded()) as signals:
            async for number in signals:
                if self._signal is not None:
                    if not self._prepared:  # a thread repairs or reads; as with a kill, the next run mends what it left
                        os._exit(128 + number)
                    self._scope.cancel()
                    continue
                self._signal = number
                bound = self._job.retry.drain_s
                self._say_change(
                    f"stopping: open requests may finish within {bound:g} s; a second signal ends them at once"
                )
                self._begin_drain("stopping", signal.Signals(number))
                # Before the endpoints are open nothing is worth waiting for, such as the embedded model's start.
                self._scope.deadline = anyio.current_time() + (bound if self._live.limiters else 0.0)

    async def _heed_budget(self) -> None:
        """Stop when a cap is reached, also while everybody waits for a limit or a backoff."""
        await self._spending.exhausted()
        self._stop(self._spending.error())

    def _stop(self, error: StopRun) -> None:
        """Begin to drain because of a fault; the first one is the reason."""
        if self._fault is None:
            self._fault = error
        # What is open when a budget ends is paid for, and has a deadline of its own.
        if not (isinstance(error, BudgetError) and self._live.limiters):
            self._scope.deadline = min(self._scope.deadline, anyio.current_time() + self._job.retry.drain_s)
        self._begin_drain("stopping early", error)

    def _begin_drain(self, why: str, cause: StopRun | signal.Signals) -> None:
        self._live.stopping = why
        self._live.cause = self._live.cause or cause
        self._drain.set()
        for limiter in self._live.limiters:
            limiter.wake_all()

    def _finish(self) -> Finished:
        if isinstance(self._fault, BudgetError):  # it may have sufficed to the last request
            did_all = self._tally.finished == self._taken and (self._read_all or self._taken == self._options.limit)
            self._fault = None if did_all else self._spending.error()
        superseded = self._live.done_before - self._tally.skipped if self._read_all else 0
        fault = None if self._fault is None else str(self._fault)
        stopped = fault if self._signal is None else signal.Signals(self._signal).name
        seconds = anyio.current_time() - self._live.started
        summary = self._tally.summary(seconds=seconds, stopped=stopped, superseded=superseded, read_all=self._read_all)
        if self._prepared and not isinstance(self._fault, OutputError):
            self._resume.write_manifest(summary)
        return Finished(summary, self._exit_status(summary), self._fault)

    def _exit_status(self, summary: Summary) -> int:
        if self._fault is not None:
            return self._fault.exit_status
        if self._signal is not None:
            return 128 + self._signal
        return 1 if summary.failed or summary.failed_before else 0
