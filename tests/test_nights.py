"""Five weeks of nights: the scheduler on a simulated clock, and the job run for real in each of them.

The time zone is Casablanca's, the one whose clocks go back (before Ramadan) and forward again within five weeks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from s2a_batch.schedule.children import Ended, arguments
from s2a_batch.schedule.eventlog import EventLog
from s2a_batch.schedule.keeper import Keeper, Parts
from s2a_batch.schedule.memory import Memory
from s2a_batch.schedule.roster import Roster
from tests.processes import read_lines, run, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from s2a_batch.schedule.children import Orders
    from s2a_batch.schedule.roster import Entry
    from tests.processes import Done
    from tests.server import Plan, Upstream

BEGIN = datetime(2026, 2, 14, 12, tzinfo=UTC)
NIGHTS = 36  # from the night of February 15, when 2:30 comes twice, to that of March 22, which has none
OFF = range(24, 26)  # nights that the scheduler itself is off
EDIT, OUTAGES, KILL, FULL, HALF = 8, (11, 18), 14, 21, 29
OPEN = 4
DOWN: Plan = {"rules": [{"replies": [{"reset": True}]}]}
JOB = """
input = "in.jsonl"
output = "out"
model = "m"
base_url = "{url}"
limits.open_requests = {open}
retry = {{ attempts = 2, max_wait_s = 0.3, backoff_s = 0.01 }}
[schedule]
cron = "30 2 * * *"
timezone = "Africa/Casablanca"
jitter_s = 600
timeout_s = 7200
"""


@dataclass
class House:
    """Where the job lives: what happens to its input, its server, its disk and its process, night by night."""

    folder: Path
    up: Upstream
    clock: Callable[[], datetime]
    lines: list[str] = field(default_factory=list)
    ever: set[str] = field(default_factory=set)
    begun: list[datetime] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    good: Counter[int] = field(default_factory=Counter)  # replies that the server gave, by night
    lost: Counter[int] = field(default_factory=Counter)  # those that are in no file
    heard: list[str] = field(default_factory=list)  # what the job said

    async def execute(self, entry: Entry, _: Orders) -> Ended:
        """One night. It blocks, and so it takes no time on the simulated clock."""
        night = (self.clock() - BEGIN).days
        self.begun.append(self.clock())
        self._write(night)
        self.up.replan(DOWN if night in OUTAGES else {"latency_s": 0.2} if night == KILL else {})
        self.up.reset_stats()
        before = self._kept()
        done = self._run(night, arguments(entry.path))
        good = sum(row["good"] for row in self.up.requests())
        self.good[night] += good
        self.lost[night] += good - (self._kept() - before)
        self.statuses[night] = done.status
        self.heard += done.err.splitlines()
        return Ended(done.status)

    def _run(self, night: int, words: list[str]) -> Done:
        if night == KILL:
            program = start(self.folder, *words)
            self.up.wait_until(lambda seen: seen.answered >= 6, 60)
            program.kill()
            return program.wait()
        if night == FULL:
            size = (self.folder / "out" / "results.jsonl").stat().st_size
            return start(self.folder, *words, most_file_bytes=size + 2_000).wait()
        return run(self.folder, *words)

    def _write(self, night: int) -> None:
        if night == EDIT:
            self.lines[3] = self._line("edited")
        if night - 1 == HALF:
            self.lines[-1] = self._line("half")
        self.lines += [self._line(f"{len(self.begun)}.{n}") for n in range(12 if night in (KILL, FULL) else 3)]
        self.ever.update(self.lines)
        half = self._line("half")[:30] if night == HALF else ""
        (self.folder / "in.jsonl").write_text("".join(line + "\n" for line in self.lines) + half)
        if half:
            self.lines.append(half)

    def _line(self, name: str) -> str:
        return json.dumps({"id": name, "prompt": f"Is [[n-{name}]] right? I think it is."})

    def _kept(self) -> int:
        """How many replies the files hold, half-written lines apart."""
        out = self.folder / "out"
        return sum(
            line.endswith(b"\n")
            for name in ("results.jsonl", "rewrites.jsonl")
            if (out / name).exists()
            for line in (out / name).read_bytes().splitlines(keepends=True)
        )


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_five_weeks_of_nights_answer_every_line_once_and_are_told_on_two_screens(
    tmp_path: Path,
    upstream: Callable[[Plan], Upstream],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a user sets up once and looks at after a month: outages, a kill, a full disk, a restart, both changes."""
    folder, up = tmp_path / "work", upstream({})
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "nightly.toml").write_text(JOB.format(url=up.base_url, open=OPEN))
    origin = anyio.current_time()

    def clock() -> datetime:
        return BEGIN + timedelta(seconds=anyio.current_time() - origin)

    house, log = House(folder, up, clock), EventLog("text", clock)

    async def keep(days: int) -> None:
        """A scheduler that is on for so many days."""
        with Memory(tmp_path / "state.json", lambda text: log.say("state", "", text)) as memory:
            keeper = Keeper(Roster([folder]), memory, Parts(clock, house.execute, log.say, tick_s=900))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keeper.serve)
                await anyio.sleep(days * 86_400)
                keeper.stop()

    await keep(OFF[0])
    await anyio.sleep(len(OFF) * 86_400)
    await keep(NIGHTS - OFF[-1] - 1)

    told = capsys.readouterr().err.splitlines()
    nights = [n for n in range(NIGHTS) if n not in OFF]
    makes_up = OFF[-1] + 1  # at noon, and in the night that follows
    assert Counter((at - BEGIN).days for at in house.begun) == Counter([*nights, makes_up])
    bad = {night: status for night, status in house.statuses.items() if status != 0}
    assert {n: bad.pop(n) for n in (*OUTAGES, KILL, FULL)} == {11: 3, 18: 3, KILL: -9, FULL: 3}
    assert set(bad) <= {HALF}, "half a line may wait, or be a dead letter until it is whole"

    answered = Counter(row["id"] for row in read_lines(folder / "out" / "results.jsonl"))
    assert answered == Counter(json.loads(line)["id"] for line in house.ever if line.endswith("}"))
    assert run(folder, "verify", "out").status == 0
    requested = sum(house.good.values())
    assert requested - sum(house.lost.values()) == 2 * len(answered), "each line takes two requests, and not one more"
    wasted = {night: n for night, n in house.lost.items() if n}
    assert wasted.keys() <= {KILL, FULL}, "a night without a kill pays twice for nothing"
    assert sum(wasted.values()) <= 2 * OPEN
    assert len(told) <= 80
    assert max(map(len, told)) <= 160
    assert len(told) + len(house.heard) <= 100, "two screens, with all that the job itself said"
