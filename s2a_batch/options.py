"""The options that several commands share, and the job that they stand for.

Knows typer. Invariant: what an option says wins over the job file; importing this loads no pydantic.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from s2a_batch.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from s2a_batch.display import Screen
    from s2a_batch.eventlog import EventLog
    from s2a_batch.job import Job
    from s2a_batch.jobfile import Parts

    Voice = Screen | EventLog

Source = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE..",
        help="A job file (.toml), or an input: .jsonl files (.gz, .zst), a directory, a URL, '-' for stdin.",
    ),
]
Output = Annotated[str | None, typer.Option("-o", "--output", metavar="DIR", help="The run's directory.")]
Model = Annotated[str | None, typer.Option(help="Model of both stages; 'embedded', or a .gguf file.")]
BaseUrl = Annotated[str | None, typer.Option(help="Endpoint of both stages; default: OpenAI's.")]
Answer = Annotated[
    str | None, typer.Option(help="text, int, float, bool, choice, a schema .json, or package.module:Model.")
]
Choice = Annotated[list[str] | None, typer.Option(help="An option of --answer choice; repeat it.")]
OpenRequests = Annotated[str | None, typer.Option(help="Most requests open at a time, or 'auto'.")]
Processes = Annotated[str | None, typer.Option(help="Processes that share the work and its limits, or 'auto'.")]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="Any key of the job: rewrite.temperature=0; repeat it.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take up at most this many pending records.")]
Only = Annotated[str | None, typer.Option(help="'rewrite': stop after stage 1.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Take up dead letters again.")]
AcceptChanges = Annotated[bool, typer.Option("--accept-changes", help="Resume with changed settings.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Set an earlier run aside and start anew.")]
Day = Annotated[
    str | None,
    typer.Option("--date", metavar="YYYY-MM-DD", help="What {date} in paths of the job stands for; default: today."),
]
IfRunning = Annotated[Literal["exit", "wait"], typer.Option(help="What to do when another run holds the directory.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing when all is well.")]
Log = Annotated[
    Literal["text", "json"] | None,
    typer.Option("--log", help="How to speak on stderr: text, or one JSON object a line."),
]
Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="[INPUT..]", help="The input; default: the one that run.json names.")
]
ExportFile = Annotated[Path, typer.Option("-o", "--output", help="A file to write; .gz packs it; '-': stdout.")]
ExportForm = Annotated[
    Literal["jsonl", "csv", "parquet", "chat"] | None,
    typer.Option("--format", help="Default: as the file's name ends, else jsonl."),
]
ExportFields = Annotated[
    str | None, typer.Option(metavar="A,B.C,..", help="Paths into the result line: id,answer.answer,input.topic.")
]
ExportStatus = Annotated[Literal["all", "answered", "failed", "rewritten"], typer.Option(help="Which results.")]
ExportPending = Annotated[bool, typer.Option("--pending", "--all", help="Also lines that have no result yet.")]
WithoutCheck = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Leave out records that have this check; repeat it.")
]
MaxLevel = Annotated[
    Literal["info", "warn", "error"] | None,
    typer.Option(help="Leave out records with a check above this level; of a chat the default is warn."),
]
AnyPolicy = Annotated[bool, typer.Option("--any-policy", help="In a chat also answers made by a policy.")]
Formulas = Annotated[bool, typer.Option("--formulas", help="Leave cells that a spreadsheet would run as they are.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file when it exists.")]


class Speech:
    """How a command speaks on stderr; known to whoever ends the process, so that each error has the asked form.

    Attributes:
        job: The job's name, as far as it is known.
    """

    def __init__(self) -> None:
        self.job = ""
        self._form: str | None = None
        self._quiet = False
        self._run: Path | None = None

    @property
    def is_json(self) -> bool:
        """Whether it is one JSON object a line, as far as it is known."""
        return self._form == "json"

    def overhear(self, words: list[str]) -> None:
        """What a command line says that may turn out to be wrong."""
        given = list(itertools.takewhile(lambda word: word != "--", words))
        if "--log=json" in given or ("--log", "json") in itertools.pairwise(given):
            self._form = "json"

    def ask(self, form: str | None, source: list[str], *, quiet: bool) -> None:
        """What the command line says, before there is a job."""
        self._form, self._quiet = form, quiet
        from s2a_batch.placeholders import name_of

        self.job = name_of(Path(source[0]))

    def of(self, job: Job) -> Voice:
        """The voice of a run of this job."""
        self._form, self.job = self._form or job.log.format, job.name or self.job
        self._run = job.output
        return self.voice()

    def voice(self) -> Voice:
        """Who speaks, as far as it is known how."""
        if self.is_json:
            from s2a_batch.eventlog import EventLog

            return EventLog(self.job, self._run, quiet=self._quiet)
        from s2a_batch.display import Screen

        return Screen(quiet=self._quiet)


def table_of(
    places: Mapping[str, Path | str | None], open_requests: str | None, processes: str | None = None
) -> dict[str, JsonValue]:
    """The part of a job that options stand for."""
    table: dict[str, JsonValue] = {name: str(value) for name, value in places.items() if value is not None}
    if open_requests is not None:
        table["limits"] = {"open_requests": _count(open_requests)}
    if processes is not None:
        table["processes"] = _count(processes)
    return table


def _count(text: str) -> int | str:
    """A number, or a word in its place."""
    return int(text) if text.isdigit() else text


def number(text: str) -> float | str:
    """A number, whole where it can be, or a word in its place."""
    try:
        found = float(text)
    except ValueError:
        return text
    return int(found) if found.is_integer() else found


def job_file(source: list[str]) -> Path | None:
    """The job file that a command was given; None: it was given an input."""
    files = [name for name in source if name.endswith(".toml")]
    if files and len(source) > 1:
        raise JobError(f"{files[0]}: a job file goes alone; it names the input itself")
    return Path(files[0]) if files else None


def load_job(source: list[str], table: dict[str, JsonValue], settings: list[str] | None, day: str | None = None) -> Job:
    """The job of a file or an input, under what the options say; `JobError` names every fault."""
    return job_parts(source, table, settings, day).job()


def job_parts(
    source: list[str], table: dict[str, JsonValue], settings: list[str] | None, day: str | None = None
) -> Parts:
    """What `load_job` makes the job of, read once and all of the same day."""
    from s2a_batch import jobfile
    from s2a_batch.jobfile.jobfaults import Layer
    from s2a_batch.placeholders import day_of, name_of

    parts = jobfile.option_layers(table, settings or ())
    if (path := job_file(source)) is not None:
        parts = [*jobfile.read(path), *parts]
    else:
        given: list[JsonValue] = [*source]
        parts = [Layer("command line", {"name": name_of(Path(source[0])), "input": given}), *parts]
    return jobfile.Parts(parts, datetime.now(UTC) if day is None else day_of(day))


def answer_table(answer: str | None, choices: list[str] | None, source: list[str]) -> dict[str, JsonValue]:
    """The [answer] table that --answer and --choice stand for."""
    if answer == "choice" and not choices and job_file(source) is None:
        raise JobError("--answer choice needs its options: --choice yes --choice no")
    found: dict[str, JsonValue] = {}
    if answer is not None:
        name = "class" if ":" in answer else "schema_file" if answer.endswith(".json") else "type"
        found[name] = answer
    if choices:
        if answer not in (None, "choice"):
            raise JobError(f"--choice goes with --answer choice, not with --answer {answer}")
        found["type"] = "choice"
        found["choices"] = list(choices)
    return {"answer": found} if found else {}
