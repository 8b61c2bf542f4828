"""All that is beside a run: the voice on stderr, the control socket, metrics, telemetry; and runs with all of them.

Invariants: what an observer lacks is said before anything is sent; while the run goes none of their faults, nor their
end, changes anything about it.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from s2a_batch.errors import BUG_STATUS, LockedError, StopRun

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from s2a_batch.display import Screen
    from s2a_batch.eventlog import EventLog
    from s2a_batch.job import Job
    from s2a_batch.live import Finished, Live
    from s2a_batch.resume import Options
    from s2a_batch.watching.exposition import Exposition
    from s2a_batch.watching.telemetry import Telemetry


@contextmanager
def observing(job: Job, voice: Screen | EventLog, name: str) -> Iterator[Observers]:
    """Around a run, or the runs of a comparison: the metrics tell how it ended, also when it could not begin.

    Args:
        job: Says what is beside it.
        voice: Speaks on stderr.
        name: The job's.
    """
    found = Observers(job, voice, name)
    try:
        yield found
    except StopRun as error:
        found.exit_status = error.exit_status
        found.is_elsewhere = isinstance(error, LockedError)
        raise
    except KeyboardInterrupt:
        found.exit_status = 128 + signal.SIGINT
        raise
    finally:
        found.close()


class Observers:
    """Those of one run, or of the runs of one comparison, one after the other.

    Attributes:
        exit_status: How it ended, as far as it is known.
        is_elsewhere: Whether another process runs it, of which something may be told.
    """

    def __init__(self, job: Job, voice: Screen | EventLog, name: str) -> None:
        self.exit_status = BUG_STATUS
        self.is_elsewhere = False
        self._voice = voice
        self._name = name
        self._exposition = _exposition(job, name, voice)
        self._told: set[str] = set()

    def run(
        self, job: Job, options: Options, part: str | None = None, environ: Mapping[str, str] = os.environ
    ) -> Finished:
        """Run a job with all that it wants beside it, and say how it ended; raises as `run_job`.

        Args:
            job: What to run.
            options: How.
            part: What it is of the whole; None: all of it.
            environ: Where keys are looked up.
        """
        from s2a_batch.worker import run_job  # noqa: PLC0415  it loads the SDK, and a dry run looks at observers too

        telemetry = telemetry_of(job, self._name if part is None else f"{self._name}/{part}", environ, self._voice)
        watch = partial(self._watch, telemetry)
        voice = self._voice
        found = run_job(job, options, say=voice.say, watch=watch, say_change=voice.say_change, environ=environ)
        self.exit_status = found.exit_status
        self._voice.finished(found, job.output)
        for observer in (self._exposition, telemetry):
            if observer is not None:
                self._heed(partial(observer.finished, found))
        return found

    def close(self) -> None:
        """Tell how all of it ended. What is told of a run that goes on elsewhere stays."""
        if self._exposition is not None and (self._exposition.has_begun or not self.is_elsewhere):
            self._heed(partial(self._exposition.ended, self.exit_status))

    async def _watch(self, telemetry: Telemetry | None, live: Live) -> None:
        """Look at a run until cancelled."""
        async with anyio.create_task_group() as tasks:
            from s2a_batch.watching.control import control  # noqa: PLC0415  as for `run_job`

            tasks.start_soon(self._guard, partial(control, voice=self._voice), live)
            for observer in (self._voice, self._exposition, telemetry):
                if observer is not None:
                    tasks.start_soon(self._guard, observer.watch, live)

    async def _guard(self, watch: Callable[[Live], Coroutine[None, None, None]], live: Live) -> None:
        try:
            await watch(live)
        except Exception as error:  # noqa: BLE001  beside the run: whatever it is must not end a night's work
            self._lost(error)

    def _heed(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001  the run is over and its exit status is known
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        text = f"{type(error).__name__} in what looks at the run: {error}; the run itself goes on"
        if text not in self._told:
            self._told.add(text)
            self._voice.warn(text)


def _exposition(job: Job, name: str, voice: Screen | EventLog) -> Exposition | None:
    if job.metrics.port is None and job.metrics.textfile is None:
        return None
    from s2a_batch.watching.exposition import Exposition  # noqa: PLC0415  for those who want it

    return Exposition(job.metrics, name, voice.warn)


def telemetry_of(job: Job, name: str, environ: Mapping[str, str], voice: Screen | EventLog) -> Telemetry | None:
    """What sends the job's telemetry, where it wants any; `JobError` when something for it is not there."""
    if job.telemetry.endpoint is None:
        return None
    from s2a_batch.watching.telemetry import Telemetry  # noqa: PLC0415  for those who want it

    return Telemetry(job, name, environ, voice.warn)
