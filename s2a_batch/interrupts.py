"""Signals that ask this process to end, where it must not die of one without a word.

Invariant: what whoever started us ignores stays ignored, as nohup does with SIGHUP.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded() -> list[signal.Signals]:
    """Those that are not ignored."""
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


async def cancel(scope: anyio.CancelScope, told: Callable[[signal.Signals], None] = lambda _: None) -> None:
    """Have each signal from now on cancel this scope, and tell which one it was."""
    with anyio.open_signal_receiver(*heeded()) as signals:
        async for number in signals:
            told(signal.Signals(number))
            scope.cancel()


@contextmanager
def raising(error: Callable[[signal.Signals], Exception]) -> Iterator[None]:
    """Have a signal raise this within the block; only the main thread can."""

    def heed(number: int, _: FrameType | None) -> None:
        raise error(signal.Signals(number))

    numbers = heeded() if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, heed) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
