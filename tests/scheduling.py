"""A scheduler on a simulated clock, whose jobs are not run for real."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio

from s2a_batch.schedule.children import Ended
from s2a_batch.schedule.keeper import Keeper, Parts
from s2a_batch.schedule.memory import Memory
from s2a_batch.schedule.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from s2a_batch.schedule.children import Orders
    from s2a_batch.schedule.roster import Entry

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def write(folder: Path, name: str, cron: str, **more: str | float) -> Path:
    """A job file; it is never run."""
    rows = [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    text = [f'input = "{name}.jsonl"', f'output = "{name}"', "[schedule]", f'cron = "{cron}"', *rows]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(text))
    return path


@dataclass
class World:
    """A scheduler whose jobs take so many seconds by name, and end with these statuses."""

    folder: Path
    takes: dict[str, float] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    at_most: int = 1
    shift: timedelta = timedelta()  # of the clock on the wall
    runs: list[tuple[str, float, float]] = field(default_factory=list)  # name, begin and end in seconds after noon
    said: list[tuple[str, str, str]] = field(default_factory=list)
    saved: Path | None = None

    def __post_init__(self) -> None:
        self.origin = anyio.current_time()
        self.roster = Roster([self.folder])

    def now(self) -> float:
        """Seconds after noon, whatever the clock on the wall says."""
        return anyio.current_time() - self.origin

    def clock(self) -> datetime:
        """What the clock on the wall says."""
        return NOON + timedelta(seconds=self.now()) + self.shift

    def say(self, event: str, job: str, text: str, **_: str | float | None) -> None:
        """Keep an event."""
        self.said.append((event, job, text))

    def events(self) -> list[str]:
        """What happened, in order."""
        return [event for event, _, _ in self.said]

    async def execute(self, entry: Entry, orders: Orders) -> Ended:
        """A run, which drains for five seconds when it is told to stop."""
        name, begin = entry.path.stem, self.now()
        with anyio.move_on_after(self.takes.get(name, 1.0)):
            await orders.stop.wait()
            await anyio.sleep(5)  # the drain
        self.runs.append((name, begin, self.now()))
        return Ended(143 if orders.stop.is_set() else self.ends.get(name, 0))

    def memory(self) -> Memory:
        """What outlives a scheduler."""
        return Memory(self.saved or self.folder / "state.json", lambda text: self.said.append(("state", "", text)))

    def keeper(self, memory: Memory) -> Keeper:
        """A scheduler."""
        parts = Parts(self.clock, self.execute, self.say, self.at_most, random.Random(1))  # noqa: S311  jitter
        return Keeper(self.roster, memory, parts)

    async def keep(self, seconds: float, meanwhile: Callable[[Keeper], Awaitable[None]] | None = None) -> None:
        """Serve for so long, and stop."""
        with self.memory() as memory:
            keeper = self.keeper(memory)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keeper.serve)
                if meanwhile is not None:
                    await meanwhile(keeper)
                else:
                    await anyio.sleep(seconds)
                keeper.stop()

    async def once(self) -> int:
        """Run what is due."""
        with self.memory() as memory:
            return await self.keeper(memory).once()

    def begins(self, name: str) -> list[float]:
        """When runs of a job began."""
        return [begin for found, begin, _ in self.runs if found == name]
