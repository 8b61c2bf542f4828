"""One run of a job as a child process, which ends in bounded time whatever it does.

Invariants: a child has a session of its own, so that a terminal's Ctrl-C reaches it once, through us, and what it
started can be killed with it; its stdin is empty; after a SIGTERM it has its job's drain time and a little more, then
its whole process group is killed; when it ends, what it left behind in that group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import Process

    from s2a_batch.schedule.roster import Entry

MARGIN_S: Final = 15.0  # after the drain: the last sync, run.json, a hook


@dataclass(frozen=True)
class Ended:
    """How a run ended; the status is negative for a signal. `timed_out`: it took longer than the job allows."""

    status: int
    timed_out: bool = False


@dataclass
class Orders:
    """What the scheduler tells a child: to stop, or to die."""

    stop: anyio.Event
    kill: anyio.Event


def command(file: Path, python: Path | None = None) -> list[str]:
    """What runs a job, with this interpreter or another. `-P`: a module beside the job is not taken for one of ours."""
    interpreter = str(sys.executable if python is None else python)
    return [interpreter, "-P", "-m", "s2a_batch", *arguments(file)]


def arguments(file: Path) -> list[str]:
    """What `s2a-batch` is told."""
    return ["run", str(file), "--quiet"]


async def execute(entry: Entry, orders: Orders, margin_s: float = MARGIN_S) -> Ended:
    """Run the job to its end.

    Args:
        entry: The job.
        orders: Whether it shall stop.
        margin_s: How long after the job's drain time it is killed.

    Cancelled, it kills the child and what that started. Raises OSError when no process can be started.
    """
    process = await anyio.open_process(
        command(entry.path), stdin=subprocess.DEVNULL, stdout=None, stderr=None, start_new_session=True
    )
    timed_out = False

    async def watch() -> None:
        nonlocal timed_out
        with anyio.move_on_after(entry.schedule.timeout_s):
            await orders.stop.wait()
        timed_out = not orders.stop.is_set()
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(entry.drain_s + margin_s):
            await orders.kill.wait()
        _kill(process)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            status = await process.wait()
            tasks.cancel_scope.cancel()
    finally:
        _kill(process)
        with anyio.CancelScope(shield=True):
            await process.wait()
    return Ended(status, timed_out)


def _kill(process: Process) -> None:
    """End it, and what it started in its process group, also when it has ended by itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
