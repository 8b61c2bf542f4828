"""Whether a job would run: all that can be found without spending, each fault told, not only the first.

Invariants: judged by the functions that a run judges by; nothing is written; nothing is sent unless `online` asks for
it, and then as little as proves that it works.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from zoneinfo import ZoneInfo

from s2a_batch import credentials, setup
from s2a_batch.errors import InputError, JobError, StopRun
from s2a_batch.inputs.inputnames import told
from s2a_batch.inspect import preview
from s2a_batch.lock import is_locked
from s2a_batch.prices import prices_of
from s2a_batch.schedule.roster import check_input
from s2a_batch.schedule.times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from s2a_batch.inspect import Preview
    from s2a_batch.job import Job
    from s2a_batch.jobfile import Parts
    from s2a_batch.resume import Options

Level = Literal["ok", "warning", "error"]

_FAULTY_LINES: Final = 1
_REFUSED: Final = JobError.exit_status
_CUT_SHORT: Final = InputError.exit_status


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `exit_status` is what it alone makes of the whole."""

    level: Level
    about: str
    message: str
    exit_status: int = 0


@dataclass(slots=True)
class Report:
    """What a check found, in the order that it looked."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 sound, 1 faulty lines, 2 a run would refuse the job, before it meets what makes it 3."""
        found = {finding.exit_status for finding in self.findings}
        return _REFUSED if _REFUSED in found else max(found, default=0)

    def add(self, level: Level, about: str, message: str, exit_status: int = 0) -> None:
        """Note one finding; a fault that two looks meet is told once."""
        if level == "ok" or all(message != finding.message for finding in self.findings):
            self.findings.append(Finding(level, about, message, exit_status))

    def add_lines(self, about: str, error: JobError) -> None:
        """Note the faults of a job, one a line."""
        for line in str(error).splitlines():
            self.add("error", about, line, error.exit_status)

    def look(self, about: str, look: Callable[[], object], ok: str = "") -> bool:
        """Whether this finds nothing to refuse."""
        try:
            look()
        except StopRun as error:
            self.add("error", about, str(error), error.exit_status)
            return False
        self.add("ok", about, ok)
        return True

    def to_text(self, *, only_faults: bool = False) -> str:
        """One line a finding, and more where its message has more."""
        shown = [finding for finding in self.findings if finding.level != "ok" or not only_faults]
        width = max((len(finding.about) for finding in shown), default=0)
        text = "\n".join(f"{f.level:<7}  {f.about:<{width}}  {f.message}".rstrip() for f in shown)
        return "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)

    def to_json(self) -> str:
        """One object."""
        rows = [{"level": f.level, "about": f.about, "message": f.message} for f in self.findings]
        return json.dumps({"exit_status": self.exit_status, "findings": rows}, ensure_ascii=False)


async def check(  # noqa: PLR0913  the command's options, each once
    make: Callable[[], Parts],
    options: Options,
    environ: Mapping[str, str],
    *,
    source: str,
    online: bool,
    say: Callable[[str], None],
) -> Report:
    """Look at everything.

    Args:
        make: Reads the parts of the job.
        options: Of the run that would follow.
        environ: Where variables are looked up.
        source: The job file, or an input.
        online: Ask each stage's endpoint once.
        say: Prints a line for the person at the screen.
    """
    report = Report()
    try:
        parts = make()
        job = parts.job()
    except JobError as error:
        report.add_lines("job", error)
        return report
    report.add("ok", "job", source)
    looks = setup.setup_looks(job, environ) | setup.directory_looks(job, options)
    del looks["prices"]  # which are looked at below
    faults = [about for about, look in looks.items() if not report.look(about, look)]
    if is_locked(job.output):
        report.add("warning", "output", f"{job.output}: a run holds it now")
    for line in credentials.warnings(job):
        report.add("warning", "key", line)
    _prices(report, job)
    if "compare" in job.model_fields_set:
        _compare(report, job, parts, options, environ)
    await _input(report, job, options)
    _tell_of_watching(report, job, environ)
    _schedule(report, job, source)
    if online and not faults:
        await _ask(report, job, environ, say)
    elif online:
        report.add("warning", "online", "nothing was sent, for the faults above")
    return report


def _prices(report: Report, job: Job) -> None:
    """An unknown price is no fault, but a bill that nobody sees coming."""
    try:
        unknown = [name for name, cost_of in prices_of(job).items() if cost_of is None]
    except JobError as error:
        report.add("error", "prices", str(error), _REFUSED)
        return
    what = f"no price is known for the stage {' and '.join(unknown)}, so no cost will be told" if unknown else ""
    report.add("warning" if unknown else "ok", "prices", what)


def _compare(report: Report, job: Job, parts: Parts, options: Options, environ: Mapping[str, str]) -> None:
    """The arms of a comparison, and its judge."""
    from s2a_batch.compare import plan  # noqa: PLC0415  most jobs have none

    if unfit := plan.misplaced(job):
        report.add("warning", "compare", unfit)
        return
    jobs: dict[str, Job | None] = {}
    try:
        jobs |= {f"arm {arm.name}": arm.job for arm in plan.plan(job, parts)}
    except JobError as error:
        report.add_lines("compare", error)
    try:
        jobs["judge"] = plan.judge_job(job, parts)
    except JobError as error:
        report.add_lines("judge", error)
    for about, one in jobs.items():
        if one is not None:
            report.look(about, partial(plan.check, [one], options, environ))


async def _input(report: Report, job: Job, options: Options) -> None:
    """Lines and ids of the whole input."""
    try:
        found = await preview(job, options)
    except StopRun as error:
        report.add("error", "input", str(error), error.exit_status)
        return
    if found.cut_short:
        report.add("error", "input", found.cut_short, _CUT_SHORT)
    name = told(job.input)
    for place, message in found.samples:
        where = f"{name}:{place}" if place.isdigit() else place
        report.add("error", "line", f"{where}: {message}", _FAULTY_LINES)
    if more := found.bad.total() - len(found.samples):
        report.add("error", "line", f"{name}: {more} more faulty lines", _FAULTY_LINES)
    for waiting in found.waiting:
        report.add("warning", "line", str(waiting))
    report.add("ok", "lines", _counts(found))
    if found.without_id:
        report.add("ok", "ids", f"{found.without_id} of {found.pending} pending records have none")
    if found.same_id:
        report.add(
            "warning", "ids", f"{found.same_id} of {found.pending} pending records have the id of an earlier one"
        )


def _counts(found: Preview) -> str:
    asked = f"about {found.requests} requests, about {found.prompt_tokens} tokens of prompts"
    return f"{found.lines} lines: {found.pending} pending, {found.done} done, {found.bad.total()} faulty; {asked}"


def _tell(report: Report, about: str, faults: Iterator[str]) -> None:
    """Faults that no run is refused for."""
    found = list(faults)
    for fault in found:
        report.add("warning", about, fault)
    if not found:
        report.add("ok", about, "")


def _tell_of_watching(report: Report, job: Job, environ: Mapping[str, str]) -> None:
    """Metrics and telemetry."""
    if job.metrics.port is not None or job.metrics.textfile is not None:
        _tell(report, "metrics", _metrics_faults(job))
    if job.telemetry.endpoint is None:
        return
    if importlib.util.find_spec("opentelemetry") is None:
        hint = "needs OpenTelemetry; hint: pip install 's2a-batch[telemetry]'"
        report.add("error", "telemetry", f"telemetry.endpoint {hint}", _REFUSED)
        return
    missing = [variable for variable in job.telemetry.headers_env.values() if not environ.get(variable)]
    _tell(report, "telemetry", (f"the environment has no {variable}" for variable in missing))


def _metrics_faults(job: Job) -> Iterator[str]:
    textfile, port = job.metrics.textfile, job.metrics.port
    if textfile is not None and not os.access(textfile.parent, os.W_OK | os.X_OK):
        yield f"metrics.textfile: nothing can be written in {textfile.parent}"
    if port is not None:
        try:
            with socket.create_server((job.metrics.address, port)):
                pass
        except OSError as error:
            yield f"metrics.port {port} on {job.metrics.address} cannot be had now: {error.strerror}"


def _schedule(report: Report, job: Job, source: str) -> None:
    if job.schedule.cron is None:
        return
    try:
        check_input(Path(source), job)
    except JobError as error:
        report.add("error", "schedule", str(error), _REFUSED)
        return
    zone, moment, shown = ZoneInfo(job.schedule.timezone), datetime.now(UTC), list[str]()
    for _ in range(3):
        moment = Times(job.schedule.cron, zone).after(moment)
        shown.append(f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M %z}")
    report.add("ok", "schedule", f"{job.schedule.cron} ({zone.key}): {', '.join(shown)}")


async def _ask(report: Report, job: Job, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    from s2a_batch.probe import probe  # noqa: PLC0415  it loads the SDK

    for found in await probe(job, environ, say):
        about = f"online {found.stage}"
        if found.works:
            report.add("ok" if found.fits else "warning", about, found.message)
        else:
            report.add("error", about, found.message, _REFUSED)
