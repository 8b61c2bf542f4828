"""Proves from the files alone that each input line has exactly one result, and repairs what a crash left.

Invariants: nothing is taken from counts that a run wrote; what is compared is content, by key; beside a run that goes
on it changes nothing; memory does not grow with the files.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import anyio

from s2a_batch import linefiles, rundir, source
from s2a_batch.errors import JobError, LockedError
from s2a_batch.forms import Fields
from s2a_batch.inputs import inputnames
from s2a_batch.keys import KeyIndex, line_hash
from s2a_batch.records import Known, Waiting, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from s2a_batch.records import Status

_SHOWN: Final = 20
_HASH_CHARS: Final = 32
# An answer or an input may hold the same names, so each place is tried; no text can: its quotes are escaped.
_SPLICE: Final = re.compile(rb',"started_at":"[^"]*","seconds":[-+.0-9eE]+,"input":')
Kind = Literal["pending", "unfinished", "duplicates", "damaged", "torn", "mismatched", "superseded", "rewrites_waiting"]
_TOLD: Final[dict[Kind, str]] = {
    "pending": "pending: input lines without a result",
    "unfinished": "unfinished: last lines of the input, as if still being written; they wait for the next run",
    "duplicates": "duplicates: results of a record that has one already",
    "damaged": "damaged: lines that are not whole JSON of ours",
    "torn": "torn: unfinished last lines",
    "mismatched": "mismatched: results whose `input` does not hash to their key",
    "superseded": "superseded: results whose line is gone from the input",
    "rewrites_waiting": "waiting: finished rewrites without a result",
}
_HARMLESS: Final[frozenset[Kind]] = frozenset({"unfinished", "superseded", "rewrites_waiting"})


@dataclass(slots=True)
class Finding:
    """How often something was found, and where first: `12` or `b.jsonl:12` of the input, else a line of the run's."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(place)


@dataclass(slots=True)
class Verdict:
    """What a directory proves about its input.

    Attributes:
        running: A run holds the directory: it was looked at only, and more may have come since.
        read_only: Nothing can be written there: it was looked at only.
        lines: Non-blank input lines.
        answered: Of these: with an answer; in a run that stops after stage 1, with a rewrite.
        failed: Of these: with a dead letter.
        repaired: What was repaired, in words.
    """

    directory: str
    input: str
    running: bool = False
    read_only: bool = False
    lines: int = 0
    answered: int = 0
    failed: int = 0
    repaired: list[str] = field(default_factory=list)
    findings: dict[Kind, Finding] = field(default_factory=lambda: {kind: Finding() for kind in _TOLD})

    @property
    def holds(self) -> bool:
        """Whether every line has exactly one result, and no line of any file is damaged."""
        return not any(found.count for kind, found in self.findings.items() if kind not in _HARMLESS)

    def to_json(self) -> str:
        """One JSON object for machines."""
        return json.dumps({"holds": self.holds, **asdict(self)}, ensure_ascii=False)

    def to_text(self) -> str:
        """Some lines for a person."""
        head = "holds: every line has exactly one result" if self.holds else "does not hold"
        rows = [f"{self.directory} against {self.input}: {head}"]
        rows.append(f"{self.lines} lines: {self.answered} answered, {self.failed} failed")
        for kind, told in _TOLD.items():
            found = self.findings[kind]
            if found.count:
                more = [".."] if found.first and found.count > len(found.first) else []
                rows.append(f"{found.count} {told} ({', '.join([*found.first, *more])})".removesuffix(" ()"))
        rows += [f"repaired: {note}" for note in self.repaired]
        if self.read_only:
            rows.append("nothing can be written there: nothing was repaired")
        if self.running:
            rows.append("a run holds the directory: nothing was repaired, and its unfinished records count as pending")
        return "\n".join(rows)


def verify(directory: Path, given: Sequence[str] | None) -> Verdict:
    """Compare a run's directory with its input, and repair it unless a run holds it.

    Args:
        directory: The run's.
        given: The input; None: the one that `run.json` names.

    Raises:
        JobError: There is no run, or no input.
        InputError: The input cannot be read to its end.
        OutputError: The directory cannot be repaired.
    """
    manifest = rundir.read_manifest(directory)
    if manifest is None:
        raise JobError(f"{directory}: no run here (it has no {rundir.MANIFEST}); give the directory that -o named")
    job = manifest.get("job")
    table = job if isinstance(job, dict) else {}
    names = given or inputnames.recorded(table, directory, f"s2a-batch verify {directory} INPUT")
    found = Verdict(str(directory), inputnames.told(names))
    run = rundir.RunDirectory(directory)
    with ExitStack() as stack, KeyIndex() as keys:
        try:
            found.read_only = not os.access(directory, os.W_OK)
            if not found.read_only:
                stack.enter_context(run)
        except LockedError:
            found.running = True
        _read_results(directory, keys, found, only_rewrite=table.get("only") == "rewrite")
        _find_duplicates(directory, keys, found)
        if not (found.running or found.read_only) and (found.findings["damaged"].count or found.findings["torn"].count):
            found.repaired = run.repair()
        anyio.run(_read_input, names, keys, found)
        found.findings["rewrites_waiting"].count = keys.rewrite_count()
        if gone := sum(keys.done().values()) - found.answered - found.failed:
            _find_superseded(directory, keys, found.findings["superseded"], gone)
    return found


def _read_results(directory: Path, keys: KeyIndex, found: Verdict, *, only_rewrite: bool) -> None:
    """Judge every line of the run's files by itself."""
    findings = found.findings
    kinds: tuple[tuple[str, Status | None], ...] = (
        (rundir.RESULTS, "answered"),
        (rundir.DEAD_LETTERS, "failed"),
        (rundir.REWRITES, "rewritten" if only_rewrite else None),
    )
    for name, status in kinds:
        end = 0
        for number, (offset, line) in enumerate(linefiles.lines(directory / name), 1):
            end = offset + len(line) + 1
            if not linefiles.whole(line):
                findings["damaged"].add(f"{name}:{number}")
                continue
            key = linefiles.key_of(line)
            if not holds_its_input(line, key):
                findings["mismatched"].add(f"{name}:{number}")
            if status is None:
                keys.add_rewrites([(key, offset)])
            else:
                keys.add_done([key], status)
        # Beside a run the end of a file is half written at times.
        if not found.running and (directory / name).exists() and (directory / name).stat().st_size > end:
            findings["torn"].add(name)


def _find_duplicates(directory: Path, keys: KeyIndex, found: Verdict) -> None:
    """Results of a record that has one already; a dead letter beside an answer is one."""
    damaged = found.findings["damaged"].count
    for name in rundir.LINE_FILES[:2]:
        for number, (_, line) in enumerate(linefiles.lines(directory / name), 1):
            if not (linefiles.whole(line) if damaged else linefiles.is_sound(line)):
                continue
            if keys.meet_key(linefiles.key_of(line)):
                found.findings["duplicates"].add(f"{name}:{number}")
    keys.begin_pass()


async def _read_input(names: Sequence[str], keys: KeyIndex, found: Verdict) -> None:
    # Under which names a line holds its prompt and id changes nothing of its key.
    async with aclosing(source.records(names, Fields(), keys)) as records:
        async for record in records:
            if isinstance(record, Known):
                found.lines += record.lines
                found.failed += record.failed
                found.answered += record.lines - record.failed
            else:
                found.lines += 1
                kind: Kind = "unfinished" if isinstance(record, Waiting) else "pending"
                found.findings[kind].add(place_of(record.line, record.file))


def _find_superseded(directory: Path, keys: KeyIndex, finding: Finding, count: int) -> None:
    """The first places of the results that no line of the input was met for."""
    for name in rundir.LINE_FILES[:2]:
        for number, (_, line) in enumerate(linefiles.lines(directory / name), 1):
            if len(finding.first) == min(_SHOWN, count):
                break
            if linefiles.is_sound(line) and not keys.is_met(linefiles.key_of(line)):
                finding.add(f"{name}:{number}")
    finding.count = count


def holds_its_input(line: bytes, key: bytes) -> bool:
    """Whether the `input` (or `raw`) of a whole line hashes to its key.

    A `raw` that was cut or had bytes that are no UTF-8 is no longer the line, so it proves nothing and passes.
    """
    digest = key[:_HASH_CHARS]
    return any(_hashes_to(line[found.end() : -1], digest) for found in _SPLICE.finditer(line))


def _hashes_to(given: bytes, digest: bytes) -> bool:
    if given.startswith(b"null,"):
        try:
            rest = json.loads(b"{" + given[len(b"null,") :] + b"}")
        except ValueError:
            return False  # Not the line's own `input`, but one in an answer.
        raw = rest.get("raw") or ""
        if not isinstance(raw, str):
            return False
        if "\\x" in raw or raw.endswith(source.CUT_MARK):
            return True
        given = raw.encode(errors="replace")
    return line_hash(given).hex().encode() == digest
