"""Who waits for a slot, by stage: a lane each, and what is started gets finished, so a lane made earlier goes first.

Invariant: a lane's own cap holds back that lane and no other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from s2a_batch.pace import Taken


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits for its slot; `taken` is what it was given."""

    tokens: float
    wake: anyio.Event = field(default_factory=anyio.Event)
    taken: tuple[Taken, Taken] | None = None


@dataclass(slots=True)
class Lane:
    """One stage's way through a limiter.

    Attributes:
        cap: Open requests of this stage, None for no cap of its own.
        open: How many are open now.
    """

    cap: int | None
    open: int = 0
    waiting: deque[Waiter] = field(default_factory=deque)

    def has_room(self) -> bool:
        """Whether the lane's own cap allows one more."""
        return self.cap is None or self.open < self.cap


class Lanes:
    """All lanes of one limiter."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []

    def add(self, cap: int | None) -> Lane:
        """A further lane, behind the others."""
        self._lanes.append(Lane(cap))
        return self._lanes[-1]

    def next(self) -> Lane | None:
        """The lane whose first waiter is next; None when nobody waits that may go."""
        for lane in self._lanes:
            if lane.waiting and lane.has_room():
                return lane
        return None

    def wake_all(self) -> None:
        """Let everyone look anew."""
        for lane in self._lanes:
            for waiter in lane.waiting:
                waiter.wake.set()
