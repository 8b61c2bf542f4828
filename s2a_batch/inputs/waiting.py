"""Waits that a drain ends at once: for a descriptor that is silent, and for a call in a thread that hangs.

Knows anyio's threads. Invariant: what is given up leaves nothing that the end of the process would wait for.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from s2a_batch.errors import Drained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Result = TypeVar("Result")


async def readable(fd: int, drain: anyio.Event | None) -> None:
    """Wait until a pipe or a socket can be read, or is at its end; raises `Drained` when the run drains first."""
    await _before(drain, lambda: anyio.wait_readable(fd))


async def apart(call: Callable[[], Result], drain: anyio.Event | None) -> Result:
    """Call in a thread that nobody waits for when the run drains (`Drained`) or is cancelled.

    anyio's own threads hold up the end of the process for as long as a server is silent.
    """
    token, done = anyio.lowlevel.current_token(), anyio.Event()
    found: list[Result] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001  whoever waits gets it
            faults.append(error)
        with suppress(RuntimeError, anyio.RunFinishedError):  # nobody waits any more
            anyio.from_thread.run_sync(done.set, token=token)

    threading.Thread(target=work, name="input", daemon=True).start()
    await _before(drain, done.wait)
    if faults:
        raise faults[0]
    return found[0]


async def _before(drain: anyio.Event | None, wait: Callable[[], Awaitable[None]]) -> None:
    if drain is None:
        await wait()
        return
    came = False
    async with anyio.create_task_group() as both:
        both.start_soon(_cancel_after, drain, both.cancel_scope)
        await wait()
        came = True
        both.cancel_scope.cancel()
    if not came:
        raise Drained


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
