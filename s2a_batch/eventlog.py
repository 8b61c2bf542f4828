"""What a run says on stderr as JSON: one object a line, a line a change of state; for machines that read logs.

Speaks in place of `display.Screen`, by the same methods. Invariants: each line is one strict JSON object in ASCII,
written at once; a run that is refused, goes on, and is refused again all night says so ever more seldom; nothing here
is of a prompt or a key; a closed stderr is no fault.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import anyio

from s2a_batch import __version__, progress
from s2a_batch.errors import BudgetError, StopRun, meaning

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.inspect import Preview
    from s2a_batch.limits import Limiter
    from s2a_batch.live import Finished, Live

Level = Literal["info", "warning", "error"]
_LOOK_S: Final = 0.25
_PROGRESS_S: Final = 600.0
_CALM_S: Final = 5.0
_LONGEST_CALM_S: Final = 600.0
_LEVELS: Final[dict[int, Level]] = {0: "info", 1: "warning"}


class EventLog:
    """Writes events; `quiet` leaves errors, warnings of what is lost, and the end of a run that was not all well.

    Args:
        job: The job's name.
        run: The run's directory; None while it is not known.
    """

    def __init__(self, job: str, run: Path | None = None, *, quiet: bool = False) -> None:
        self.run = run
        self._job = job
        self._quiet = quiet
        self._lost = False

    def event(self, event: str, level: Level = "info", **fields: JsonValue) -> None:
        """One line, unless it is to be quiet; fields that are None are left out."""
        if not self._quiet or level == "error":
            self._write(event, level, fields)

    def _write(self, event: str, level: Level, fields: dict[str, JsonValue]) -> None:
        if self._lost or sys.stderr is None:
            return
        head: dict[str, JsonValue] = {"time": _clock(), "level": level, "event": event, "job": self._job}
        head["run"] = None if self.run is None else str(self.run)
        line: dict[str, JsonValue] = {name: value for name, value in {**head, **fields}.items() if value is not None}
        try:
            sys.stderr.write(_strict(line) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self._lose()

    def put(self, text: str) -> None:
        """Data on stdout, as it is; a reader that has gone is no fault."""
        if sys.stdout is not None:
            try:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(self, text: str) -> None:
        """What has no event of its own."""
        self.event("note", message=text)

    def say_change(self, text: str) -> None:
        """Nothing: of what changes in a run `watch` writes a line."""

    def warn(self, text: str) -> None:
        """What is lost while the run goes on, quiet or not."""
        self._write("note", "warning", {"message": text})

    def error(self, text: str) -> None:
        """What went wrong; quiet or not."""
        self.event("error", "error", message=text)

    async def watch(self, live: Live) -> None:
        """Tell the changes of a run until cancelled."""
        self.run = live.directory
        await live.ready.wait()
        self.event("started", done_before=live.done_before, pid=os.getpid(), version=__version__)
        seen = _Changes(self, live)
        try:
            while True:
                seen.look()
                await anyio.sleep(_LOOK_S)
        finally:
            seen.look()  # what came in the last moment

    def finished(self, found: Finished, output: Path) -> None:
        """The whole account of an execution."""
        self.run = output
        if self._quiet and found.exit_status == 0:
            return
        fields: dict[str, JsonValue] = {
            "exit_status": found.exit_status,
            "meaning": meaning(found.exit_status),
            "fault": None if found.fault is None else str(found.fault),
            "cost_usd": found.summary.cost_usd,
            "summary": found.summary.model_dump(mode="json"),
        }
        self._write("finished", _LEVELS.get(found.exit_status, "error"), fields)

    def preview(self, found: Preview, name: str) -> None:
        """What a dry run found in the input of this name."""
        for place, message in found.samples:
            self.event("bad_line", "warning", input=name, place=place, message=message)
        self.event(
            "checked",
            lines=found.lines,
            pending=found.pending,
            done=found.done,
            bad=found.bad.total(),
            kinds=dict(found.bad),
            unfinished=len(found.waiting),
            requests=found.requests,
            prompt_tokens=found.prompt_tokens,
        )
        if found.cut_short:
            self.error(found.cut_short)

    def _lose(self) -> None:
        """Write to nowhere from now on, also what is still in a buffer and would fail once more at the end."""
        self._lost = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@dataclass(slots=True)
class _Hold:
    """One account's pauses: which one goes on, since when, and how long it must be calm before it counts as over.

    That time doubles with each: an account that refuses every minute all night is some lines, not some thousands.
    """

    event: str | None = None
    since: float = 0.0
    until: float = 0.0
    calm_s: float = _CALM_S


class _Changes:
    """Compares a run with how it was when last looked at, and tells what changed."""

    def __init__(self, log: EventLog, live: Live) -> None:
        self._log = log
        self._live = live
        self._holds = [_Hold() for _ in live.limiters]
        self._draining = self._paused = False
        self._rates = progress.Rates(_PROGRESS_S)
        self._rates.note(live)
        self._told_at = anyio.current_time()

    def look(self) -> None:
        """Tell what changed."""
        live, now = self._live, anyio.current_time()
        if (live.held_at is not None) != self._paused:
            self._paused = live.held_at is not None
            self._log.event("paused" if self._paused else "resumed")
        if live.cause is not None and not self._draining:
            self._draining = True
            self._tell_drain(live.cause)
        if len(self._holds) != len(live.limiters):
            self._holds = [_Hold() for _ in live.limiters]
        for number, (hold, limiter) in enumerate(zip(self._holds, live.limiters, strict=True), 1):
            self._tell_hold(hold, limiter, now, number if len(self._holds) > 1 else None)
        if now - self._told_at >= _PROGRESS_S:
            self._told_at = now
            self._tell_progress()

    def _tell_drain(self, cause: StopRun | int) -> None:
        if isinstance(cause, BudgetError):
            self._log.event("budget_reached", "warning", reason=str(cause))
        reason = str(cause) if isinstance(cause, StopRun) else getattr(cause, "name", str(cause))
        self._log.event("draining", "warning", reason=reason, open=_open(self._live))

    def _tell_hold(self, hold: _Hold, limiter: Limiter, now: float, account: int | None) -> None:
        is_held = limiter.down or limiter.paused_until > now
        event = "outage" if limiter.down else "rate_limited"
        if is_held:
            hold.until = max(now, limiter.paused_until)
            if hold.event not in (event, "outage"):
                hold.event, hold.since = event, now
                until = _clock(limiter.paused_until - now)
                self._log.event(event, "warning", account=account, until=until)
        elif hold.event is not None and now - hold.until >= hold.calm_s:
            seconds = round(hold.until - hold.since, 1)
            self._log.event(f"{hold.event}_over", account=account, seconds=seconds)
            hold.event = None
            hold.calm_s = min(2 * hold.calm_s, _LONGEST_CALM_S)

    def _tell_progress(self) -> None:
        tally = self._live.tally
        self._rates.note(self._live)
        requests, tokens = self._rates.per_second()
        self._log.event(
            "progress",
            answered=tally.answered,
            rewritten=tally.rewritten,
            failed=tally.failed,
            left=tally.left(),
            open=_open(self._live),
            requests_per_second=round(requests, 2),
            tokens_per_second=round(tokens, 1),
        )


def _open(live: Live) -> int:
    return live.tally.rewrite.open + live.tally.answer.open


def _clock(in_s: float = 0.0) -> str:
    """The time in so many seconds, UTC."""
    moment = datetime.now(UTC) + timedelta(seconds=max(0.0, in_s))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _strict(line: dict[str, JsonValue]) -> str:
    """JSON in ASCII; a path that is no UTF-8 has its odd bytes spelled out, and no number is NaN."""
    text = json.dumps(line, allow_nan=False)
    return text if "\\ud" not in text else json.dumps(_tame(line), allow_nan=False)


def _tame(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _tame(part) for name, part in value.items()}
    return [_tame(part) for part in value] if isinstance(value, list) else value
