"""Compares arms: runs each over the same records, has the answers judged, and counts.

Invariants: an arm is an ordinary run in a directory of its own, so it resumes, drains and is proved as any other; arms
run one after the other, and what one pays for (a rewrite, an equal request) no other pays again; the job's budget caps
all of them together; the figures come from the files alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio

from s2a_batch import linefiles, rundir
from s2a_batch.caps import Budget
from s2a_batch.compare import htmlpage, matching, plan
from s2a_batch.compare.purse import Purse
from s2a_batch.compare.weighing import RECORDS, Weighing
from s2a_batch.compare.wording import as_text
from s2a_batch.errors import OutputError
from s2a_batch.inputs import inputnames
from s2a_batch.resume import check_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from s2a_batch.compare.comparison import Comparison
    from s2a_batch.compare.plan import Arm
    from s2a_batch.job import Job
    from s2a_batch.jobfile import Parts
    from s2a_batch.live import Finished
    from s2a_batch.resume import Options

FIGURES: Final = "compare.json"
ROLES: Final = {"figures": FIGURES, "records": RECORDS}


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a comparison tells how it goes.

    Attributes:
        say: Prints one line for the person at the screen.
        run: Runs one arm with all that looks at it, and tells how it ended.
    """

    say: Callable[[str], None]
    run: Callable[[Job, Options, Mapping[str, str]], Finished]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a comparison ended; without figures when it was stopped early."""

    exit_status: int
    found: Comparison | None = None


def compare(
    parts: Parts,
    options: Options,
    audience: Audience,
    environ: Mapping[str, str] = os.environ,
) -> Ended:
    """Run what is pending of each arm, judge and count; write `compare.json` and `records.jsonl`.

    Args:
        parts: What the job is made of.
        options: How each arm runs; its limit is on the first records of the input, done or not.
        audience: Whom to tell.
        environ: Where keys are looked up.

    Raises:
        JobError: Something is wrong with the job, an arm or the judge; nothing was sent.
        BudgetError: The budget is used up before an arm that has something to do.
        LockedError: Another comparison or run holds the directory.
        OutputError: The directory cannot be read or written.
    """
    base = parts.job()
    check_paths(base)
    inputnames.check_lasting(base.input, "a comparison reads its input once for each arm and once more")
    arms, judge = plan.plan(base, parts), plan.judge_job(base, parts)
    running = [arm for arm in arms if arm.same_as is None]
    jobs = [*(arm.job for arm in running), *([] if judge is None else [judge])]
    plan.check(jobs, options, environ)
    with rundir.RunDirectory(base.output):
        purse = Purse(base.budget, [job.output for job in jobs])
        for number, arm in enumerate(running, 1):
            audience.say(f"arm {number} of {len(running)}: {arm.name}{_sharing(arm, arms)}")
            status = _run(_borrowing(arm.job), options, purse, audience, environ)
            if status not in (0, 1):
                return Ended(status)
        weighing, status = Weighing(base, arms, judge, options.limit), 0
        if judge is not None and (count := weighing.ask()):
            audience.say(f"judge: {count} different answers")
            status = _run(judge, replace(options, limit=None), purse, audience, environ)
        if status not in (0, 1):
            return Ended(status)
        found = weighing.figures()
        _write(base.output / FIGURES, found)
    return Ended(1 if found.incomplete or status else 0, found)


def compare_and_report(
    parts: Parts,
    options: Options,
    audience: Audience,
    html: Path | None,
    *,
    as_json: bool,
) -> tuple[int, str]:
    """Compare, and tell it: the exit status, and what goes to stdout; the page is written when one is wanted."""
    if html is not None:
        htmlpage.check_place(html)
    ended = compare(parts, options, audience)
    if ended.found is None:
        return ended.exit_status, ""
    if html is not None:
        htmlpage.write(html, ended.found)
    return ended.exit_status, to_json(ended.found) if as_json else as_text(ended.found)


def to_json(found: Comparison) -> str:
    """The figures as one JSON object, as in `compare.json`."""
    return json.dumps(found.as_dict(), indent=1)


def _run(job: Job, options: Options, purse: Purse, audience: Audience, environ: Mapping[str, str]) -> int:
    """Run what is pending of one arm; returns its exit status."""
    how, left = options, purse.left()
    if options.limit is not None or left is None:
        todo = anyio.run(matching.pending, job, options.limit, options)
        if todo and left is None:
            raise purse.error()
        how = replace(options, limit=todo)
    if plan.moved_only(job):
        how = replace(how, accept_changes=True)
    capped = job.model_copy(update={"budget": left or Budget()})
    found = audience.run(capped, how, environ)
    purse.pay(found.summary)
    return found.exit_status


def _borrowing(job: Job) -> Job:
    """The job as it can run: an arm whose lender has no rewrite at all asks for its own."""
    if job.rewrites is None or (job.rewrites / rundir.REWRITES).is_file():
        return job
    return job.model_copy(update={"rewrites": None})


def _sharing(arm: Arm, arms: Sequence[Arm]) -> str:
    same = [other.name for other in arms if other.same_as == arm.name]
    parts = [f"counts as {', '.join(same)} too"] if same else []
    parts += [f"uses the rewrites of {arm.lender}"] if arm.lender else []
    return f" ({'; '.join(parts)})" if parts else ""


def _write(path: Path, found: Comparison) -> None:
    temporary = path.with_name(path.name + linefiles.NEW)
    try:
        with open(temporary, "w", encoding="utf-8", opener=linefiles.open_private) as file:
            file.write(to_json(found) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
