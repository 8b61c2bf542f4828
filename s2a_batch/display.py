"""What the person at the screen reads: notes and errors, the closing summary, how a run stands, one record in full.

Knows rich. Invariants: progress goes to stderr, data to stdout; off a terminal there are no escape codes and no
carriage returns; text of models and inputs cannot steer the terminal; what went wrong comes with what to do next.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from s2a_batch import inspect, marks, progress
from s2a_batch.account import StageSummary, Summary
from s2a_batch.errors import JobError
from s2a_batch.figures import dollars
from s2a_batch.records import Outcome, Rewrite
from s2a_batch.rundir import DEAD_LETTERS
from s2a_batch.web import viewrecord

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue
    from rich.console import RenderableType

    from s2a_batch.inspect import Preview, Standing
    from s2a_batch.live import Finished, Live
    from s2a_batch.web.viewrecord import Names

_AGAIN: Final = "run the same command again to go on"
_MOST_CHARS: Final = 200_000
_KILLED: Final = f"its end left no summary (a kill, a power cut): {_AGAIN}"


class Screen:
    """Prints for a person; `quiet` leaves errors and the summary of a run that was not all well."""

    def __init__(self, *, quiet: bool = False) -> None:
        # FORCE_COLOR of a CI would have rich draw its live display into a log; None streams are closed ones.
        colour: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        tty = [stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr)]
        self.out = _Out(highlight=False, soft_wrap=not tty[0], force_terminal=tty[0], color_system=colour)
        self.err = _Err(stderr=True, highlight=False, soft_wrap=True, force_terminal=tty[1], color_system=colour)
        self._quiet = quiet

    def put(self, text: str) -> None:
        """Data on stdout, as it is; a reader that has gone is no fault."""
        try:
            if sys.stdout is not None and not self.out.quiet:
                print(text, flush=True)  # noqa: T201  the data
        except BrokenPipeError:
            self.out.on_broken_pipe()

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            self._note(Text(_tame(text)))

    say_change = say  # a log has a line of its own for it

    def warn(self, text: str) -> None:
        """What is lost while the run goes on, quiet or not."""
        self._note(Text.assemble(("warning: ", "bold yellow"), _tame(text)))

    def error(self, text: str) -> None:
        """An error on stderr, quiet or not."""
        self._note(Text.assemble(("error: ", "bold red"), _tame(text)))

    async def watch(self, live: Live) -> None:
        """Show progress until cancelled, or until nobody can see it."""
        if not self._quiet:
            try:
                await progress.watch(self.err, live)
            except OSError:
                self.err.lose()

    def _note(self, text: RenderableType) -> None:
        try:
            self.err.print(text)
        except OSError:
            self.err.lose()

    def finished(self, found: Finished, output: Path) -> None:
        """The closing summary."""
        if found.fault is not None:
            self.error(str(found.fault))
        if isinstance(found.fault, JobError) or (self._quiet and found.exit_status == 0):
            return  # of a wrong job nothing was sent, so there is no account
        summary, status = found.summary, f"; exit {found.exit_status}" if found.exit_status else ""
        rows = [*_account(summary), *_remedies(summary), *_failures(output, summary.failed + summary.failed_before)]
        self._note(Text(_tame("\n".join([*rows, f"files in {output}{status}"]))))

    def preview(self, found: Preview, name: str) -> None:
        """What a dry run found in the input of this name."""
        for row in found.told(name):
            self._note(Text(_tame(row)))
        counts = f"{found.lines} lines: {found.pending} pending, {found.done} done"
        counts += f", {found.bad.total()} bad ({_kinds(found.bad)})" if found.bad else ""
        counts += f", {len(found.waiting)} unfinished" if found.waiting else ""
        tokens = count if (count := found.prompt_tokens) < 1000 else f"{count // 1000} thousand"  # noqa: PLR2004
        self.out.print(Text(f"{counts}; about {found.requests} requests, about {tokens} tokens of prompts"))
        if found.cut_short:
            self.error(found.cut_short)

    def standing(self, found: Standing, directory: Path, live: str | None = None) -> None:
        """How a run stands, by its own words where it tells them, and what to do when it stands still."""
        state = "running" if found.running else "not running"
        rows = [live or f"{directory}: {state}; {found.answered} answered, {found.failed} failed"]
        if found.waiting:
            rows.append(f"{found.waiting} finished rewrites wait for their answer")
        last = found.manifest.get("summary")
        summary = _summary(last) if isinstance(last, dict) else None
        if not found.running:
            rows += [] if summary is None else _account(summary)
            rows += [f"reason: {summary.stopped}"] if summary and summary.stopped and not _by_signal(summary) else []
            rows += [] if summary is None else [f"ended at {found.manifest.get('written_at')}"]
        rows += _in_all(found)
        if not found.running:
            rows += [_KILLED] if summary is None else _remedies(summary)
            rows += _failures(directory, found.failed)
        self.out.print(Text(_tame("\n".join(rows))))

    def record(self, line: bytes, names: Names) -> None:
        """One record in full: original with what was removed, rewrite, answers, attempts; `names` are of its input."""
        found = json.loads(line)
        outcome = Outcome.model_validate({name: found[name] for name in Outcome.model_fields if name in found})
        self.out.print(_head(found, outcome))
        if told := viewrecord.policy_told(found):
            self.out.print(_cut(f"policy: {told}"))
        self._part("original", _struck(viewrecord.original(found, names), outcome.rewrite))
        if outcome.rewrite is not None and outcome.policy != "skipped":
            self._part("rewrite", _cut(outcome.rewrite.relevant_context))
            self._part("query", _cut(outcome.rewrite.user_query))
        if outcome.error is not None:
            self._part("error", _cut(f"{outcome.error.kind}: {outcome.error.message}", "red"))
        elif outcome.answer is not None:
            self._part("answer", _cut(json.dumps(outcome.answer, ensure_ascii=False), "bold green"))
        if outcome.baseline is not None:
            self._part("baseline, the answer to the original", _cut(json.dumps(outcome.baseline, ensure_ascii=False)))
        for check in outcome.checks:
            self._part("check", _cut(f"{check.level} {check.name}: {check.message} {' '.join(check.words)}"))
        for name, audit in outcome.stages:
            if audit is not None:
                self._part(f"{name} attempts", _cut("\n".join(viewrecord.attempt_told(a) for a in audit.attempts)))

    def _part(self, title: str, body: RenderableType) -> None:
        self.out.print(Text(title, style="bold"))
        self.out.print(body)


class _Out(Console):
    """Stdout; when its reader has gone, as `head` does, it falls silent: the command's status stays what it is."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Err(Console):
    """Stderr; when its reader, its disk or its terminal is gone, it falls silent: that must not end a run."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def lose(self) -> None:
        """Write to nowhere from now on, also what is still in a buffer and would fail once more at the end."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _account(summary: Summary) -> list[str]:
    """What one execution did and used; the number of lines only when all were read."""
    counts = [f"{summary.answered} answered"] if not summary.rewritten else [f"{summary.rewritten} rewritten"]
    counts += [f"{summary.failed} failed ({_kinds(summary.kinds)})"] if summary.failed else ["0 failed"]
    if summary.skipped:
        earlier = f", {summary.failed_before} of them failed" if summary.failed_before else ""
        counts.append(f"{summary.skipped} done before{earlier}")
    if summary.read_all and summary.pending:
        counts.append(f"{summary.pending} pending")
    if summary.superseded:
        counts.append(f"{summary.superseded} superseded (their lines are gone from the input)")
    scope = f" of {summary.lines} lines read" if summary.read_all else "; the rest is pending"
    stages = {"rewrite": summary.rewrite, "answer": summary.answer}
    return [
        f"{_headline(summary)}: {', '.join(counts)}{scope}; {summary.seconds:.1f} s",
        *(_used(name, part) for name, part in stages.items() if part.requests),
        *_policies(summary),
    ]


def _policies(summary: Summary) -> list[str]:
    """What was done in place of answering from a sound rewrite, and how often a rewrite turned the answer."""
    told = [f"policies: {_kinds(summary.policies)}"] if summary.policies else []
    turned = f"{summary.baselines} also answered as given, {summary.flips} with another answer"
    told += [turned] if summary.baselines else []
    return ["; ".join(told)] if told else []


def _headline(summary: Summary) -> str:
    if summary.stopped:
        return f"stopped by {summary.stopped}" if _by_signal(summary) else "stopped"
    if not summary.read_all:
        return "limit reached"
    if summary.lines == 0:
        return "nothing to do, the input is empty"
    return "nothing to do" if summary.lines == summary.skipped else "done"


def _in_all(found: Standing) -> list[str]:
    """What the executions used together that are over; nothing when there is none, or none is known."""
    if (totals := found.totals) is None or not totals.executions:
        return []
    killed = f" ({totals.killed} killed, whose use is not known)" if totals.killed else ""
    least = "at least " if totals.killed else ""
    used = f"{least}{totals.requests} requests; {totals.input_tokens} tokens in, {totals.output_tokens} out"
    which = "all executions before this one" if found.running else "all executions"
    return [f"{which}: {totals.executions}{killed}; {used}; cost {dollars(totals.cost_usd)}"]


def _by_signal(summary: Summary) -> bool:
    return summary.stopped in signal.Signals.__members__


def _remedies(summary: Summary) -> list[str]:
    """How to go on when something is left."""
    if summary.stopped and not _by_signal(summary):
        return [f"when the reason is mended, {_AGAIN}"]
    return [_AGAIN] if summary.stopped or summary.pending or not summary.read_all else []


def _failures(directory: Path, failed: int) -> list[str]:
    """Where failed records are, how to look at one, how to ask again."""
    first = inspect.first_failed(directory) if failed else None
    if first is None:
        return []
    place, file = shlex.quote(str(directory)), directory / DEAD_LETTERS
    return [f"failed records: {file}; look: s2a-batch show {place} {shlex.quote(first)}; again: --retry-failed"]


def _used(name: str, part: StageSummary) -> str:
    retries = f", {part.retries} of them retries" if part.retries else ""
    least, used = "at least " if part.unknown_usage else "", part.usage
    tokens = f"{least}{used.input_tokens or 0} tokens in, {used.output_tokens or 0} out"
    cost = dollars(None) if part.cost_usd is None else least + dollars(part.cost_usd)
    return f"{name}: {part.requests} requests{retries}; {tokens}; cost {cost}"


def _summary(last: dict[str, JsonValue]) -> Summary | None:
    """The summary of `run.json`, as far as this version knows it."""
    try:
        return Summary.model_validate({name: last[name] for name in Summary.model_fields if name in last})
    except ValidationError:
        return None


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _head(found: dict[str, object], outcome: Outcome) -> Text:
    style = "bold green" if outcome.error is None else "bold red"
    where = f" {found['file']}" if found.get("file") else ""
    place = f"{where} line {found['line']}, id {json.dumps(found['id'], ensure_ascii=False)}, key {found['key']}"
    return Text.assemble((outcome.status, style), _tame(place), f", {outcome.seconds:.2f} s, {outcome.started_at}")


def _struck(prompt: str, rewrite: Rewrite | None) -> Text:
    """The prompt with what the rewrite left out marked [-so-]; of long texts the beginnings are compared."""
    text, begin = Text(), prompt[:_MOST_CHARS]
    cut = {name: value[:_MOST_CHARS] for name, value in rewrite or ()}
    for piece, kept in marks.removed(begin, Rewrite(**cut)) if cut else [(begin, True)]:
        if kept:
            text.append(_tame(piece))
        else:
            bare = piece.rstrip()
            text.append(_tame(f"[-{bare}-]"), style="red strike").append(_tame(piece[len(bare) :]))
    return text.append(_rest(prompt))


def _cut(whole: str, style: str = "") -> Text:
    """A text as far as a person reads it."""
    return Text(_tame(whole[:_MOST_CHARS]) + _rest(whole), style=style)


def _rest(whole: str) -> str:
    more = len(whole) - _MOST_CHARS
    return f"\n(cut: {more} of {len(whole)} characters are not shown; --json has all)" if more > 0 else ""


def _tame(text: str) -> str:
    """Control characters made visible, so that no reply moves the cursor or recolours the terminal."""
    return "".join(c if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") else f"\\x{ord(c):02x}" for c in text)
