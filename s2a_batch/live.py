"""A run as those beside it see it: while it goes, and how it ended.

Invariant: whoever looks changes nothing; a person's orders go through `Live.steer` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from s2a_batch.account import Summary
    from s2a_batch.errors import StopRun
    from s2a_batch.limits import Limiter
    from s2a_batch.orders import Order
    from s2a_batch.report import Tally


@dataclass(frozen=True, slots=True)
class Finished:
    """How an execution ended.

    Attributes:
        exit_status: As in the README's table.
        fault: What stopped it early; None when nothing did.
    """

    summary: Summary
    exit_status: int
    fault: StopRun | None


@dataclass(slots=True)
class Live:
    """What those beside the run may look at while it goes; a display changes nothing.

    Attributes:
        started: On anyio's clock.
        cause: Why it drains: a fault or a signal; None while it does not.
        held_at: Since when a person has it paused, on anyio's clock; None: it is not.
        held_s: How long earlier pauses took.
        directory: The run's.
        processes: How many carry the records.
        steer: Has the run heed what a person changed.
        ready: Set once the directory is locked and repaired and it is known what is done, before anything is appended.
    """

    tally: Tally
    started: float
    limiters: tuple[Limiter, ...] = ()
    stopping: str | None = None
    cause: StopRun | signal.Signals | None = None
    held_at: float | None = None
    held_s: float = 0.0
    directory: Path = Path()
    processes: int = 1
    steer: Callable[[Order], None] = lambda _: None
    ready: anyio.Event = field(default_factory=anyio.Event)
    done_before: int = 0

    def eta_s(self) -> float | None:
        """About how long it takes from now on, at the pace so far; None when that cannot be told, or it stands."""
        left, done = self.tally.left(), self.tally.finished
        if not left or not done or self.stopping or self.held_at is not None:
            return None
        return (anyio.current_time() - self.started - self.held_s) * left / done
