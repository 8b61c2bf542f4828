"""What the person at the screen sees: progress, the closing summary, one record in full.

Knows rich. Invariants: progress goes to stderr, data to stdout; off a terminal there are no escape codes, no carriage
returns, and a bounded number of lines; text of models and inputs cannot steer the terminal.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Literal

import anyio
from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from s2a_batch.checks import removed_words
from s2a_batch.records import Outcome, StageSummary, Summary

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from s2a_batch.inspect import Preview, Standing
    from s2a_batch.records import Attempt
    from s2a_batch.report import StageTally
    from s2a_batch.worker import Finished, Live

_REFRESH_S: Final = 0.25
_RATE_WINDOW_S: Final = 10.0
_FIRST_PLAIN_S: Final = 10.0
_LONGEST_PLAIN_S: Final = 600.0


class Screen:
    """Prints for a person; `quiet` leaves errors and the summary of a run that was not all well."""

    def __init__(self, *, quiet: bool = False) -> None:
        # FORCE_COLOR of a CI would have rich draw its live display into a log; None streams are closed ones.
        colour: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        tty = [stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr)]
        self.out = Console(highlight=False, soft_wrap=not tty[0], force_terminal=tty[0], color_system=colour)
        self.err = _Err(stderr=True, highlight=False, soft_wrap=True, force_terminal=tty[1], color_system=colour)
        self._quiet = quiet

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            self._note(Text(_tame(text)))

    def error(self, text: str) -> None:
        """An error on stderr, quiet or not."""
        self._note(Text.assemble(("error: ", "bold red"), _tame(text)))

    async def watch(self, live: Live) -> None:
        """Show progress until cancelled, or until nobody can see it."""
        if not self._quiet:
            watch = self._watch_terminal if self.err.is_terminal else self._watch_plain
            try:
                await watch(live)
            except OSError:
                self.err.lose()

    def _note(self, text: RenderableType) -> None:
        try:
            self.err.print(text)
        except OSError:
            self.err.lose()

    async def _watch_terminal(self, live: Live) -> None:
        rates = _Rates()
        with RichLive(console=self.err, auto_refresh=False, transient=True) as screen:
            while True:
                rates.note(live)
                screen.update(_progress(live, rates), refresh=True)
                await anyio.sleep(_REFRESH_S)

    async def _watch_plain(self, live: Live) -> None:
        """A line after 10 s, then ever more seldom: a night is some dozens of lines in a cron mail."""
        pause_s = _FIRST_PLAIN_S
        while True:
            rates = _Rates(window_s=pause_s)
            rates.note(live)
            await anyio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PLAIN_S)
            rates.note(live)
            self.err.print(Text(f"{time.strftime('%H:%M:%S')} {_counts(live)}, {_speed(live, rates)}"))

    def finished(self, found: Finished, output: Path) -> None:
        """The closing summary."""
        if found.fault is not None:
            self.error(str(found.fault))
        if self._quiet and found.exit_status == 0:
            return
        self._note(_closing(found.summary, found.exit_status, output))

    def preview(self, found: Preview) -> None:
        """What a dry run found."""
        for number, message in found.samples:
            self._note(Text(f"line {number}: {_tame(message)}"))
        more = f", {found.bad.total()} bad ({_kinds(found.bad)})" if found.bad else ""
        counts = f"{found.lines} lines: {found.pending} pending, {found.done} done{more}"
        self.out.print(Text(f"{counts}; {found.prompt_chars} characters of prompts to ask"))
        if found.cut_short:
            self.error(found.cut_short)

    def standing(self, found: Standing, directory: Path) -> None:
        """How a run stands."""
        state = "running" if found.running else "not running"
        self.out.print(Text(f"{directory}: {state}; {found.answered} answered, {found.failed} failed"))
        if found.waiting:
            self.out.print(Text(f"{found.waiting} finished rewrites wait for their answer"))
        last = found.manifest.get("summary")
        if isinstance(last, dict) and not found.running:
            self.out.print(_closing(Summary.model_validate(last), None, directory))

    def record(self, line: bytes) -> None:
        """One record in full: original with what was removed, rewrite, answer, attempts."""
        found = json.loads(line)
        outcome = Outcome.model_validate({name: found[name] for name in Outcome.model_fields})
        given = found["input"]
        prompt = _prompt_of(outcome, given)
        self.out.print(_head(found, outcome))
        self._part("original", _struck(prompt, outcome))
        if outcome.rewrite is not None:
            self._part("rewrite", Text(_tame(outcome.rewrite.relevant_context)))
            self._part("query", Text(_tame(outcome.rewrite.user_query)))
        if outcome.error is not None:
            self._part("error", Text(_tame(f"{outcome.error.kind}: {outcome.error.message}"), style="red"))
        elif outcome.answer is not None:
            answer = json.dumps(outcome.answer, ensure_ascii=False, indent=None)
            self._part("answer", Text(_tame(answer), style="bold green"))
        for check in outcome.checks:
            self._part("check", Text(_tame(f"{check.level} {check.name}: {check.message} {' '.join(check.words)}")))
        for name, audit in (("rewrite", outcome.stages.rewrite), ("answer", outcome.stages.answer)):
            if audit is not None:
                self._part(f"{name} attempts", Text("\n".join(_tame(_attempt(a)) for a in audit.attempts)))

    def _part(self, title: str, body: RenderableType) -> None:
        self.out.print(Text(title, style="bold"))
        self.out.print(body)


class _Err(Console):
    """Stderr; when its reader, its disk or its terminal is gone, it falls silent: that must not end a run."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def lose(self) -> None:
        """Write to nowhere from now on, also what is still in a buffer and would fail once more at the end."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class _Rates:
    """Requests and tokens a second over a window that moves along."""

    def __init__(self, window_s: float = _RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, live: Live) -> None:
        now = anyio.current_time()
        self._seen.append((now, live.tally.requests, live.tally.tokens))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()

    def per_second(self) -> tuple[float, float]:
        (t0, requests0, tokens0), (t1, requests1, tokens1) = self._seen[0], self._seen[-1]
        span = max(t1 - t0, 1e-9)
        return ((requests1 - requests0) / span, (tokens1 - tokens0) / span) if t1 > t0 else (0.0, 0.0)


def _counts(live: Live) -> str:
    tally, left = live.tally, live.tally.left()
    done = f"{tally.rewritten} rewritten" if tally.rewritten else f"{tally.answered} answered"
    earlier = f", {tally.skipped} done before" if tally.skipped else ""
    return f"{done}, {tally.failed} failed{earlier}" + (f", ~{left} left" if left is not None else "")


def _speed(live: Live, rates: _Rates) -> str:
    requests, tokens = rates.per_second()
    wait_s = max((limiter.paused_until - anyio.current_time() for limiter in live.limiters), default=0.0)
    down = any(limiter.down for limiter in live.limiters)
    waiting = f", {'endpoint down' if down else 'rate limited'}: next try in {wait_s:.0f} s" if wait_s > 0 else ""
    stopping = f", {live.stopping}" if live.stopping else ""
    return f"{requests:.1f} requests/s, {tokens:.0f} tokens/s{waiting}{stopping}"


def _progress(live: Live, rates: _Rates) -> RenderableType:
    tally, left = live.tally, live.tally.left()
    elapsed = anyio.current_time() - live.started
    eta = f", ETA {_clock(elapsed * left / tally.finished)}" if left and tally.finished else ""
    head = Table.grid(padding=(0, 1))
    whole = None if left is None else tally.done + left
    head.add_row(ProgressBar(total=whole or None, completed=tally.done, width=30), Text(_counts(live)))
    stages = Table.grid(padding=(0, 2))
    for name, stage in (("rewrite", tally.rewrite), ("answer", tally.answer)):
        stages.add_row(Text(name, style="bold"), *_stage_cells(stage))
    return Group(head, stages, Text(f"{_clock(elapsed)}{eta}, {_speed(live, rates)}", style="dim"))


def _stage_cells(stage: StageTally) -> tuple[str, ...]:
    return (
        f"{stage.open} open",
        f"{stage.waiting} waiting",
        f"{stage.done} done",
        f"{stage.retries} retries",
        f"{stage.rate_limited} rate limited",
        f"{stage.usage.total_tokens} tokens",
    )


def _closing(summary: Summary, exit_status: int | None, output: Path) -> RenderableType:
    counts = [f"{summary.answered} answered"] if not summary.rewritten else [f"{summary.rewritten} rewritten"]
    counts += [f"{summary.failed} failed ({_kinds(summary.kinds)})"] if summary.failed else ["0 failed"]
    if summary.skipped:
        earlier = f", {summary.failed_before} of them failed" if summary.failed_before else ""
        counts.append(f"{summary.skipped} done before{earlier}")
    if not summary.read_all:
        counts.append("the rest of the input pending")
    elif summary.pending:
        counts.append(f"{summary.pending} pending")
    if summary.superseded:
        counts.append(f"{summary.superseded} superseded (their lines are gone from the input)")
    head = "stopped" if summary.stopped else _headline(summary)
    rows = [f"{head}: {', '.join(counts)} of {summary.lines} lines read, {summary.seconds:.1f} s"]
    stages = {"rewrite": summary.rewrite, "answer": summary.answer}
    rows += [_used(name, part) for name, part in stages.items() if part.requests]
    if exit_status is not None:
        rows.append(f"files in {output}" + (f"; exit {exit_status}" if exit_status else ""))
    return Text(_tame("\n".join(rows)))


def _headline(summary: Summary) -> str:
    if summary.lines == 0:
        return "nothing to do, the input is empty"
    return "nothing to do" if summary.lines == summary.skipped else "done"


def _used(name: str, part: StageSummary) -> str:
    retries = f", {part.retries} of them retries" if part.retries else ""
    least, came = "at least " if part.unknown_usage else "", part.usage.output_tokens or 0
    return f"{name}: {part.requests} requests{retries}; {least}{part.usage.input_tokens or 0} tokens in, {came} out"


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _head(found: dict[str, object], outcome: Outcome) -> Text:
    style = "bold green" if outcome.error is None else "bold red"
    place = f" line {found['line']}, id {json.dumps(found['id'], ensure_ascii=False)}, key {found['key']}"
    return Text.assemble((outcome.status, style), _tame(place), f", {outcome.seconds:.2f} s, {outcome.started_at}")


def _prompt_of(outcome: Outcome, given: object) -> str:
    """The user's text: what the rewrite stage sent last, else the input as it is."""
    sent = outcome.stages.rewrite.messages if outcome.stages.rewrite is not None else None
    return sent[-1].content if sent else json.dumps(given, ensure_ascii=False)


def _struck(prompt: str, outcome: Outcome) -> Text:
    """The prompt with what the rewrite left out marked [-so-], in colour where there is colour."""
    if outcome.rewrite is None:
        return Text(_tame(prompt))
    text = Text()
    for piece, kept in removed_words(prompt, outcome.rewrite):
        if kept:
            text.append(_tame(piece))
        else:
            bare = piece.rstrip()
            text.append(_tame(f"[-{bare}-]"), style="red strike").append(_tame(piece[len(bare) :]))
    return text


def _attempt(a: Attempt) -> str:
    used = "tokens unknown" if a.usage is None else f"{a.usage.input_tokens} tokens in, {a.usage.output_tokens} out"
    came = a.finish_reason or "" if a.error is None else f"{a.error.kind}: {a.error.message}"
    times = f"{a.started}, {a.seconds:.2f} s, waited {a.waited_s:.2f} s"
    where = f"HTTP {a.status or '-'} {a.request_id or ''}".rstrip()
    return f"  {a.n}. {'re-ask, ' if a.reask else ''}{times}; {where}; {used}; {came}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"  # noqa: PLR2004


def _tame(text: str) -> str:
    """Control characters made visible, so that no reply moves the cursor or recolours the terminal."""
    return "".join(c if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") else f"\\x{ord(c):02x}" for c in text)
