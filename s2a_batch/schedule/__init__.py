"""Scheduled jobs: a scheduler that runs the job files which carry a schedule, and units for the schedulers of others.

::

    times      when a job's times come            eventlog   what is said
    roster     which jobs there are               children   one run, as a child process
    memory     what outlives the scheduler        keeper     begins what falls due
    units      what a unit needs to know          systemd, crontab, kubernetes   written for each

Invariants: each run is a child process, so whatever ends one touches nothing else; the scheduler holds no state that
its own end would lose.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import anyio

from s2a_batch.errors import JobError
from s2a_batch.schedule import children
from s2a_batch.schedule.eventlog import EventLog
from s2a_batch.schedule.keeper import Keeper, Parts
from s2a_batch.schedule.memory import Memory
from s2a_batch.schedule.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from s2a_batch.schedule.eventlog import Say


def keep(places: Sequence[Path], state: Path | None, at_most: int, form: Literal["text", "json"], *, once: bool) -> int:
    """Run the scheduled jobs of these places until a signal ends it, or with `once` those that are due.

    Returns:
        The exit status: 0 when a signal ended it and all runs drained; with `once` the worst of the runs'.

    Raises:
        JobError: A place is not there, no job has a schedule, or the state cannot be kept.
        LockedError: Another scheduler uses the state.
    """
    log = EventLog(form, _now)
    roster = Roster(places)
    roster.check_places()
    roster.look()
    if not roster.entries:
        raise JobError("\n".join(roster.faults.values()) or "no job here has a [schedule] with a cron expression")
    with Memory(state, lambda text: log.say("state", "", text)) as memory:
        keeper = Keeper(roster, memory, Parts(_now, children.execute, log.say, at_most))
        return anyio.run(_keep, keeper, log.say, [entry.name for entry in roster.entries.values()], once)


def coming(places: Sequence[Path], count: int = 3) -> str:
    """When each job runs next, in its own time zone; with the files that cannot be used."""
    roster = Roster(places)
    roster.check_places()
    roster.look()
    lines = []
    for entry in roster.entries.values():
        moment, shown = _now(), []
        for _ in range(count):
            moment = entry.times.after(moment)
            shown.append(f"{moment.astimezone(entry.times.zone):%a %Y-%m-%d %H:%M %z}")
        lines.append(f"{entry.name}: {', '.join(shown)} ({entry.rule})")
    lines += [f"cannot be used: {why}" for why in roster.faults.values()]
    return "\n".join(lines or ["no job with [schedule] cron"])


def _now() -> datetime:
    return datetime.now(UTC)


async def _keep(keeper: Keeper, say: Say, names: list[str], once: bool) -> int:  # noqa: FBT001  anyio.run gives by place
    received: list[int] = []
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:

            async def heed() -> None:
                async for number in signals:
                    if number == signal.SIGHUP:
                        keeper.reread()
                        continue
                    received.append(number)
                    going = f"waits for {', '.join(keeper.running)}" if keeper.running else "nothing runs"
                    again = len(received) > 1
                    say("stop", "", f"{number.name}: {'kills what runs' if again else going}")
                    keeper.stop(kill=again)

            tasks.start_soon(heed)
            if once:
                status = await keeper.once()
            else:
                say("start", "", f"keeps the times of {len(names)}: {', '.join(names)}")
                status = 0
                await keeper.serve()
            tasks.cancel_scope.cancel()
    if len(received) > 1 or (once and received and status == 0):
        return 128 + received[-1]
    return status
