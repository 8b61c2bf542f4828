"""All that is beside a run: the voice on stderr, the control socket, metrics, telemetry; and a run with all of them.

Invariants: what an observer lacks is said before anything is sent; while the run goes none of their faults, nor their
end, changes anything about it.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch.errors import LockedError, StopRun

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from s2a_batch.display import Screen
    from s2a_batch.eventlog import EventLog
    from s2a_batch.job import Job
    from s2a_batch.live import Finished, Live
    from s2a_batch.resume import Options
    from s2a_batch.watching.exposition import Exposition
    from s2a_batch.watching.telemetry import Telemetry


_BUG_STATUS: Final = 70


def run_watched(
    job: Job, options: Options, voice: Screen | EventLog, name: str, environ: Mapping[str, str] = os.environ
) -> Finished:
    """Run a job with all that the job wants beside it, and say how it ended; raises as `run_job`.

    Args:
        job: What to run.
        options: How.
        voice: Speaks on stderr.
        name: The job's.
        environ: Where keys are looked up.
    """
    from s2a_batch.worker import run_job  # noqa: PLC0415  it loads the SDK, and a dry run looks at observers too

    observers = Observers(job, voice, name, environ)
    try:
        found = run_job(job, options, say=voice.say, watch=observers.watch, environ=environ)
    except Exception as error:
        observers.refused(error)
        raise
    observers.finished(found)
    return found


class Observers:
    """Those of one run.

    Args:
        job: Says which there are.
        voice: Speaks on stderr, and is one of them.
        name: The job's.
        environ: Where values of headers are looked up.

    Raises:
        JobError: One of them lacks something.
    """

    def __init__(self, job: Job, voice: Screen | EventLog, name: str, environ: Mapping[str, str] = os.environ) -> None:
        self._voice = voice
        self._output = job.output
        self._exposition = _exposition(job, name, voice)
        self._telemetry = _telemetry(job, name, environ, voice)

    async def watch(self, live: Live) -> None:
        """Look at a run until cancelled."""
        async with anyio.create_task_group() as tasks:
            from s2a_batch.watching.control import control  # noqa: PLC0415  as for `run_job`

            tasks.start_soon(self._guard, partial(control, say=self._voice.say), live)
            for observer in (self._voice, self._exposition, self._telemetry):
                if observer is not None:
                    tasks.start_soon(self._guard, observer.watch, live)

    def finished(self, found: Finished) -> None:
        """Tell all how the run ended; its files are closed by now."""
        self._voice.finished(found, self._output)
        for observer in (self._exposition, self._telemetry):
            if observer is not None:
                self._heed(partial(observer.finished, found))

    def refused(self, error: Exception) -> None:
        """Nothing was run, or it ended by a bug. What is told of a run that goes on elsewhere stays."""
        if self._exposition is not None and not isinstance(error, LockedError):
            status = error.exit_status if isinstance(error, StopRun) else _BUG_STATUS
            self._heed(partial(self._exposition.ended, status, 0.0))

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
        self._voice.say(f"warning: {type(error).__name__} in what looks at the run: {error}; the run itself goes on")


def _exposition(job: Job, name: str, voice: Screen | EventLog) -> Exposition | None:
    if job.metrics.port is None and job.metrics.textfile is None:
        return None
    from s2a_batch.watching.exposition import Exposition  # noqa: PLC0415  for those who want it

    return Exposition(job.metrics, name, voice.say)


def _telemetry(job: Job, name: str, environ: Mapping[str, str], voice: Screen | EventLog) -> Telemetry | None:
    if job.telemetry.endpoint is None:
        return None
    from s2a_batch.watching.telemetry import Telemetry  # noqa: PLC0415  for those who want it

    return Telemetry(job, name, environ, voice.say)
