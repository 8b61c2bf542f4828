"""Answers beside the lines they were asked for, in the input's order, in the form that the next tool reads.

Invariants: each input line comes once or is counted with the reason why it does not; memory does not grow with the
files; nothing of the run is changed, so it works beside a run that goes on.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import anyio

from s2a_batch import inputs, linefiles, rundir
from s2a_batch.errors import JobError
from s2a_batch.export import outfile, parquet, tables
from s2a_batch.export.joined import Joined
from s2a_batch.export.outfile import OutFile
from s2a_batch.export.spans import Paths, members
from s2a_batch.inputs import inputnames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from s2a_batch.export.joined import RowStatus
    from s2a_batch.export.tables import Table
    from s2a_batch.inputs import Found
    from s2a_batch.records import Level

Form = Literal["jsonl", "csv", "parquet", "chat"]
Wanted = Literal["all", "answered", "failed", "rewritten"]
_LEVELS: Final[tuple[Level, ...]] = ("info", "warn", "error")
_JUDGED: Final = ("checks", "policy")
_MOST_COLUMNS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Options:
    """What of a run is exported, and how.

    Attributes:
        form: None: as the file's name ends; JSON Lines where that tells nothing.
        fields: Dotted paths into the result line; None: whole lines, or the usual columns of a table.
        status: Which records.
        pending: Also those without a result.
        without_checks: None with a check of these names.
        max_level: None with a check above this level; None: any, but for a chat, which takes no errors.
        any_policy: Also answers that a policy for failed checks made, in a chat.
        formulas: Leave text of CSV files as it is although a spreadsheet would run it.
        force: Replace a file that is there.
    """

    form: Form | None = None
    fields: tuple[str, ...] | None = None
    status: Wanted = "all"
    pending: bool = False
    without_checks: frozenset[str] = frozenset()
    max_level: Level | None = None
    any_policy: bool = False
    formulas: bool = False
    force: bool = False


@dataclass(slots=True)
class Exported:
    """What an export wrote, and what not.

    Attributes:
        lines: Non-blank input lines.
        rows: Of these: written.
        left_out: The others, by reason.
        notes: What else the directory holds that is not in the export.
    """

    output: str
    lines: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """Some lines for a person."""
        rows = [f"{self.output}: {self.rows} rows of {self.lines} input lines, in the input's order"]
        if self.left_out:
            rows.append("left out: " + ", ".join(f"{number} {reason}" for reason, number in self.left_out.items()))
        return "\n".join(rows + self.notes)


def export(directory: Path, given: Sequence[str] | None, output: Path, options: Options) -> Exported:
    """Write a run's answers in the order of its input.

    Args:
        directory: The run's.
        given: The input; None: the one that `run.json` names.
        output: A file, or `-` for stdout.
        options: Of the command line.

    Raises:
        JobError: There is no run or no input, or the options do not fit.
        InputError: The input cannot be read to its end.
        OutputError: The output cannot be written, or the directory not be read.
    """
    job = _job_of(directory)
    names = given or inputnames.recorded(job, directory, f"s2a-batch export {directory} INPUT -o FILE")
    form = options.form or _form_of(output)
    _check(form, output, options)
    outfile.refuse_run_files(output, names)
    source = anyio.run(inputs.find, names)
    has_files = any(part.file is not None for part in source.parts)
    found = Exported("stdout" if output == outfile.STDOUT else str(output))
    named = job.get("fields")
    fields = named if isinstance(named, dict) else {}
    with ExitStack() as stack:
        stack.enter_context(outfile.ended_by_signals())
        out = stack.enter_context(OutFile(output, force=options.force))
        only_rewrite = job.get("only") == "rewrite"
        id_field = str(fields.get("id") or "id")
        joined = stack.enter_context(Joined(directory, only_rewrite=only_rewrite, id_field=id_field))
        paths = options.fields or _columns(directory, job, has_files=has_files)
        table: Table
        if form == "parquet":
            table = stack.enter_context(parquet.Parquet(out, paths))
        elif form == "csv":
            table = tables.Csv(out, paths, formulas=options.formulas)
        elif form == "chat":
            table = tables.Chat(out, fields)
        else:
            table = tables.Objects(out, options.fields) if options.fields else tables.Lines(out)
        sieve = _Sieve(options, chat=form == "chat")
        unseen = anyio.run(functools.partial(_write, joined, source, table, sieve, found))
        if joined.results and not joined.matched and not options.pending and found.lines:
            none = f"none of its {found.lines} lines has a result in {directory}"
            raise JobError(f"{inputnames.told(names)}: {none}; is it this run's input?")
        found.notes = [*_notes(joined), *sieve.notes()]
        if options.fields and found.rows and unseen:
            found.notes.append(f"no row has a value at: {', '.join(sorted(unseen))}")
    return found


async def _write(joined: Joined, source: Found, table: Table, sieve: _Sieve, found: Exported) -> set[str]:
    """Every row of the input to the table, unless the sieve holds it back; returns the paths that led nowhere."""
    paths, judged = Paths((*table.paths, *_JUDGED) if sieve.judges else table.paths), len(table.paths)
    unseen = set(enumerate(table.paths))
    needed = bool(table.paths) or sieve.judges
    async with aclosing(joined.rows(source)) as rows:
        async for row in rows:
            found.lines += 1
            reason = sieve.by_status(row.status)
            values = paths.values(row.line.decode()) if needed and reason is None else []
            reason = reason or (sieve.by_checks(*values[judged:]) if sieve.judges else None)
            if reason is None and not table.add(row.line, values[:judged]):
                reason = "of which it is not known what they asked"
            if reason is not None:
                found.left_out[reason] += 1
                continue
            found.rows += 1
            if unseen:
                unseen -= {(number, name) for number, name in unseen if values[number] is not None}
    table.end()
    return {name for _, name in unseen}


class _Sieve:
    """Which rows are wanted; says of the others why they are not."""

    def __init__(self, options: Options, *, chat: bool) -> None:
        self._status = "answered" if chat else options.status
        self._pending = options.pending
        self._without = options.without_checks
        self._unmet = set(options.without_checks)
        self._max_level = options.max_level or ("warn" if chat else None)
        self._no_policy = chat and not options.any_policy
        self.judges = bool(self._without) or self._max_level is not None or self._no_policy

    def by_status(self, status: RowStatus) -> str | None:
        """Why a row with this status is left out; None: it is not."""
        if status == "pending":
            return None if self._pending else "pending"
        return None if self._status in ("all", status) else status

    def by_checks(self, checks: str | None, policy: str | None) -> str | None:
        """Why a row with this JSON of checks and policy is left out; None: it is not."""
        if self._no_policy and policy not in (None, "null", '"none"'):
            return f"by policy {policy}"
        for check in json.loads(checks or "null") or ():
            name, level = check.get("name"), check.get("level")
            self._unmet.discard(name)
            if name in self._without:
                return f"with check {name}"
            if self._max_level is not None and _above(level, self._max_level):
                return f"with a check of level {level}"
        return None

    def notes(self) -> list[str]:
        """A name that no record's checks have may be mistyped."""
        return [f"no record has a check named {name}" for name in sorted(self._unmet)]


def _above(level: str, most: Level) -> bool:
    return level not in _LEVELS or _LEVELS.index(level) > _LEVELS.index(most)


def _notes(joined: Joined) -> list[str]:
    """What the directory holds beside the rows."""
    superseded = joined.results - joined.matched - joined.damaged
    told = (
        (superseded, "superseded results left out: their lines are gone from the input"),
        (joined.doubled, "further results of a record that has one left out; see: s2a-batch verify"),
        (joined.damaged, "results are damaged, and their records count as pending; see: s2a-batch verify"),
    )
    return [f"{number} {what}" for number, what in told if number]


def _job_of(directory: Path) -> Mapping[str, JsonValue]:
    manifest = rundir.read_manifest(directory)
    if manifest is None:
        raise JobError(f"{directory}: no run here (it has no {rundir.MANIFEST}); give the directory that -o named")
    job = manifest.get("job")
    return job if isinstance(job, dict) else {}


def _form_of(output: Path) -> Form:
    ending = Path(output.name.removesuffix(".gz")).suffix
    return "csv" if ending == ".csv" else "parquet" if ending == ".parquet" else "jsonl"


def _check(form: Form, output: Path, options: Options) -> None:
    """Refuse what contradicts itself."""
    if form == "parquet":
        parquet.load()
        if output.suffix == ".gz":
            raise JobError(f"{output}: a Parquet file is packed within; drop the ending .gz")
    if form == "chat" and (options.fields or options.pending or options.status not in ("all", "answered")):
        raise JobError("--format chat takes answered records as they are: no --fields, --status or --pending")
    fields = options.fields or ()
    for name in fields:
        if not name or fields.count(name) > 1:
            raise JobError(f"--fields: '{name}' stands twice or is empty; give dotted paths: id,answer.answer")


def _columns(directory: Path, job: Mapping[str, JsonValue], *, has_files: bool) -> tuple[str, ...]:
    """The usual columns of a table: the answers' own names among them."""
    if job.get("only") == "rewrite":
        own = ["rewrite.relevant_context", "rewrite.user_query"]
    else:
        own = [f"answer.{name}" for name in _answer_names(directory, job)]
    return ("id", *(("file",) if has_files else ()), "line", "status", *own, "error.kind")


def _answer_names(directory: Path, job: Mapping[str, JsonValue]) -> list[str]:
    """The members of the answers, in the order in which they come first."""
    answer = job.get("answer")
    if isinstance(answer, dict) and not answer.get("class") and not answer.get("schema_file"):
        return ["answer"]
    names: dict[str, None] = {}
    answers = Paths(("answer",))
    for _, line in linefiles.lines(directory / rundir.RESULTS):
        if linefiles.whole(line):
            value = answers.values(line.decode())[0] or ""
            names |= dict.fromkeys(name for name, _, _ in members(value)) if value.startswith("{") else {}
        if len(names) > _MOST_COLUMNS:
            raise JobError(f"the answers have more than {_MOST_COLUMNS} names; choose some: --fields id,answer.NAME")
    return [name.replace("\\", "\\\\").replace(".", "\\.") for name in names]
