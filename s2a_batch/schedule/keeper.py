"""Keeps the times: begins each job when it falls due, one run of a job at a time, and remembers what was begun.

Invariants: a time is begun, or said to be skipped, and never both or neither; several missed times are made up by one
run; before a child starts its time is on disk as begun. The clock on the wall is asked again at least every half
minute, so a suspend or a clock that is set costs no more than that; what a clock that is set back shows again comes
again. Time comes in by `clock`, children by `execute`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch.schedule.children import Ended, Orders
from s2a_batch.schedule.eventlog import instant, meaning, span
from s2a_batch.schedule.memory import Memo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from s2a_batch.schedule.eventlog import Event, Say
    from s2a_batch.schedule.memory import Memory
    from s2a_batch.schedule.roster import Entry, Roster

_TICK_S: Final = 30.0
_LATE_S: Final = 60.0  # a time that is begun by then was not missed
_SET_BACK: Final = timedelta(minutes=10)  # by so much a clock is corrected, and no time comes twice
_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CUT: Final = (129, 130, 143)  # a drain that left something pending
_ORDER: Final = (0, 4, 1, 129, 130, 143, 3, 2)  # of exit statuses, the worst last; others are worse still


@dataclass
class _Standing:
    """One job as it stands: what is known of its times, what waits, what runs."""

    memo: Memo
    coming: datetime | None = None  # the first time after `memo.seen`, once it was asked for
    due: datetime | None = None  # the time that waits to be begun
    begin: datetime = _EVER  # when it may, after the jitter
    orders: Orders | None = None  # of the run that goes
    told: set[str] = field(default_factory=set)  # what was said of this wait
    untold: tuple[datetime, datetime] | None = None  # the first and last of the times skipped since a skip was said


@dataclass(frozen=True)
class Parts:
    """What the keeper works with.

    Attributes:
        clock: The time, in UTC.
        execute: Runs one job to its end.
        at_most: How many jobs may run side by side.
        dice: Draws the jitter.
        tick_s: How often the clock and the job files are looked at.
    """

    clock: Callable[[], datetime]
    execute: Callable[[Entry, Orders], Awaitable[Ended]]
    say: Say
    at_most: int = 1
    dice: random.Random = field(default_factory=random.SystemRandom)
    tick_s: float = _TICK_S


class Keeper:
    """Runs the jobs of a roster when they fall due."""

    def __init__(self, roster: Roster, memory: Memory, parts: Parts) -> None:
        self._roster = roster
        self._memory = memory
        self._parts = parts
        self._jobs: dict[Path, _Standing] = {}
        self._wake = anyio.Event()
        self._stop = False
        self._looked = False
        self._reread = False
        self._once = False
        self._statuses: list[int] = []

    async def serve(self) -> None:
        """Run jobs until `stop`; returns when those that ran have ended. Cancelled, it kills them."""
        async with anyio.create_task_group() as tasks:
            while not self._stop:
                self._wake = anyio.Event()
                self._look()
                self._fall_due()
                pause_s = self._begin(tasks)
                with anyio.move_on_after(pause_s):
                    await self._wake.wait()

    async def once(self) -> int:
        """Run what is due now, and return the worst exit status; a run by another hand (4) is no fault."""
        self._once = True
        async with anyio.create_task_group() as tasks:
            self._look()
            self._fall_due()
            while not self._stop and self._waiting():
                self._wake = anyio.Event()
                self._begin(tasks)
                if self._waiting():
                    await self._wake.wait()
        bad = [2] if self._roster.faults else []
        found = [128 - status if status < 0 else status for status in self._statuses] + bad
        worst = max(found, key=_rank, default=0)
        return 0 if worst == 4 else worst  # noqa: PLR2004  README's table

    def stop(self, *, kill: bool = False) -> None:
        """Begin nothing more, and tell what runs to stop; `kill`: at once."""
        self._stop = True
        for job in self._jobs.values():
            if job.orders is not None:
                job.orders.stop.set()
                if kill:
                    job.orders.kill.set()
        self._wake.set()

    def reread(self) -> None:
        """Read all job files anew."""
        self._reread = True
        self._wake.set()

    @property
    def running(self) -> list[str]:
        """The names of the jobs that run."""
        return [self._name(path) for path, job in self._jobs.items() if job.orders is not None]

    def _name(self, path: Path) -> str:
        entry = self._roster.entries.get(path)
        return str(path) if entry is None else entry.name

    def _look(self) -> None:
        """Take up what changed in the job files; a run that goes is left alone."""
        news = self._roster.look(anew=self._reread)
        for path, why in news.bad if self._looked else self._roster.faults.items():
            self._parts.say("bad_file", "", f"cannot be used, the others run: {why}", path=str(path))
        if self._looked and (self._reread or news.text):
            what = news.text or "nothing changed"
            self._parts.say("reread", "", f"job files read anew: {what}; {len(self._roster.entries)} scheduled")
        self._looked, self._reread = True, False
        for path, entry in self._roster.entries.items():
            job = self._jobs.get(path)
            if job is None:
                self._jobs[path] = _Standing(self._known(path, entry))
            elif job.memo.rule != entry.rule:
                if job.due is not None and job.due > job.memo.seen:
                    what = entry.shown(job.due, job.due)
                    self._parts.say("skip", entry.name, f"skipped {what}: its schedule was changed")
                job.memo = Memo(entry.rule, self._parts.clock(), job.memo.open)
                job.due = job.coming = None
                self._memory.put(path, job.memo)

    def _known(self, path: Path, entry: Entry) -> Memo:
        """What is known of a job that comes in: nothing was missed before it was first seen by a running scheduler."""
        memo = self._memory.get(path)
        if memo is not None and memo.rule == entry.rule:
            return memo
        seen = _EVER if self._once and memo is None else self._parts.clock()
        known = Memo(entry.rule, seen, memo is not None and memo.open)
        self._memory.put(path, known)
        return known

    def _fall_due(self) -> None:
        """Note for each job that waits for none the last of its times that came."""
        now = self._parts.clock()
        for path, entry in self._roster.entries.items():
            job = self._jobs[path]
            if max(job.memo.seen, job.due or _EVER) > now + _SET_BACK:
                last = instant(job.due or job.memo.seen)
                self._parts.say("state", entry.name, f"its time {last} lies after now: the clock was set back")
                job.memo, job.due, job.coming = replace(job.memo, seen=min(job.memo.seen, now)), None, None
            if job.due is not None:
                continue
            if _coming(entry, job) <= now:
                job.due = entry.times.last(job.memo.seen, now)
            if job.due is None and job.memo.open and job.orders is None:
                job.due = job.memo.seen  # its run was cut short
            if job.due is not None:
                jitter_s = 0.0 if self._once else self._parts.dice.uniform(0.0, entry.schedule.jitter_s)
                job.begin = job.due + timedelta(seconds=jitter_s)

    def _begin(self, tasks: TaskGroup) -> float:
        """Begin or skip what waits, the longest first; return for how many seconds nothing more will be due."""
        now = self._parts.clock()
        for path, job in sorted(self._jobs.items(), key=lambda item: item[1].due or now):
            entry = self._roster.entries.get(path)
            if entry is None:  # it is gone, or cannot be used
                job.due = None
                if job.orders is None and path not in self._roster.faults:
                    del self._jobs[path]
            elif job.due is not None and job.begin <= now:
                self._begin_one(tasks, path, entry, job)
        nexts = [job.begin for job in self._jobs.values() if job.due is not None and job.begin > now]
        for path, entry in self._roster.entries.items():
            if self._jobs[path].due is None:
                nexts.append(_coming(entry, self._jobs[path]))
        return min([self._parts.tick_s, *((moment - now).total_seconds() for moment in nexts)])

    def _begin_one(self, tasks: TaskGroup, path: Path, entry: Entry, job: _Standing) -> None:
        now = self._parts.clock()
        late_s = (now - job.begin).total_seconds()
        most_s = entry.schedule.misfire_grace_s or (_LATE_S if entry.schedule.misfire == "skip" else math.inf)
        due = entry.shown(job.due or now, job.due or now)
        if late_s > most_s:
            why = "its earlier run still goes" if job.orders is not None else f"{span(late_s)} late"
            first = job.due or now
            self._settle(path, entry, job, opened=job.orders is not None, until=now - timedelta(seconds=most_s))
            if "skip" in job.told:
                job.untold = (job.untold[0] if job.untold else first, job.memo.seen)
            else:
                self._tell(job, "skip", "skip", entry.name, f"skipped {entry.shown(first, job.memo.seen)}: {why}")
            if job.orders is None:
                job.told.clear()
        elif job.orders is not None:
            self._tell(job, "over", "late", entry.name, f"{due} waits: its earlier run still goes")
        elif len(self.running) >= self._parts.at_most:
            self._tell(job, "turn", "wait", entry.name, f"{due} waits for {', '.join(self.running)}")
        else:
            again = "; again, its run was cut short" if job.memo.open and job.due == job.memo.seen else ""
            late = f", {span(late_s)} late" if late_s > _LATE_S else ""
            self._parts.say("begin", entry.name, f"begins for {due}{late}{again}", due=instant(job.due or now))
            job.told.clear()
            self._settle(path, entry, job, opened=True, until=now)
            job.orders = Orders(anyio.Event(), anyio.Event())
            tasks.start_soon(self._run, path, entry, job, job.orders)

    def _tell(self, job: _Standing, mark: str, event: Event, name: str, text: str) -> None:
        """Say it once of this wait."""
        if mark not in job.told:
            job.told.add(mark)
            self._parts.say(event, name, text)

    def _settle(self, path: Path, entry: Entry, job: _Standing, *, opened: bool, until: datetime) -> None:
        """All times up to then are dealt with."""
        due = job.due or job.memo.seen
        job.memo = replace(job.memo, seen=entry.times.last(due, until) or due, open=opened)
        job.due = job.coming = None
        self._memory.put(path, job.memo)

    async def _run(self, path: Path, entry: Entry, job: _Standing, orders: Orders) -> None:
        began = self._parts.clock()
        try:
            ended = await self._parts.execute(entry, orders)
        except OSError as error:
            ended, text = Ended(3), f"could not be started: {error.strerror}"
        else:
            slow = f" (stopped after its timeout_s of {entry.schedule.timeout_s:g})" if ended.timed_out else ""
            text = f"ended with {ended.status}: {meaning(ended.status)}{slow}"
        seconds = (self._parts.clock() - began).total_seconds()
        self._parts.say("end", entry.name, f"{text}; {span(seconds)}", status=ended.status, seconds=round(seconds, 1))
        if job.untold is not None:
            self._parts.say("skip", entry.name, f"skipped {entry.shown(*job.untold)}, too: its earlier run still went")
        job.orders = job.untold = None
        job.told.clear()
        job.memo = replace(job.memo, open=orders.stop.is_set() and (ended.status < 0 or ended.status in _CUT))
        self._memory.put(path, job.memo)
        self._statuses.append(ended.status)
        self._wake.set()

    def _waiting(self) -> bool:
        return any(job.due is not None for job in self._jobs.values())


def _coming(entry: Entry, job: _Standing) -> datetime:
    """The first time that was not dealt with."""
    if job.coming is None:
        job.coming = entry.times.after(job.memo.seen)
    return job.coming


def _rank(status: int) -> int:
    return _ORDER.index(status) if status in _ORDER else len(_ORDER)
