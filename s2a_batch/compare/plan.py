"""From one job to the jobs of its arms: where each runs, which use the rewrites of another, which are the same.

Invariants: two arms share only what is equal in all that can change it, the endpoint included; every arm is checked
before the first of them sends anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2a_batch import resume, rundir
from s2a_batch.compare.judging import QUESTIONS
from s2a_batch.errors import JobError
from s2a_batch.job import fingerprint
from s2a_batch.setup import check_setup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from s2a_batch.job import Job
    from s2a_batch.jobfile import Parts
    from s2a_batch.resume import Options
    from s2a_batch.stagejob import StageJob

ARMS: Final = "arms"
JUDGE: Final = "judge"
_VERDICT: Final = "s2a_batch.compare.judging:Verdict"
_FROM: Final = "rewrite.from: "


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer the records.

    Attributes:
        job: An ordinary one, with a directory of its own.
        lender: The arm whose rewrites it uses; None: it has none, or asks for its own.
        same_as: The arm that asks the very same, and runs in its stead; None: it runs itself.
    """

    name: str
    job: Job
    lender: str | None = None
    same_as: str | None = None


def plan(base: Job, parts: Parts) -> list[Arm]:
    """The arms of a job.

    Args:
        base: The job without an arm's changes.
        parts: What it is made of.

    Raises:
        JobError: Keys of some arms are wrong, with all their faults.
    """
    if unfit := misplaced(base):
        raise JobError(unfit)
    arms: list[Arm] = []
    lenders: dict[str, Arm] = {}
    for name, job in _jobs(base, parts).items():
        same = next((arm for arm in arms if _all_of(arm.job) == _all_of(job)), None)
        lender = lenders.setdefault(_rewriting_of(job), Arm(name, job)) if job.arm == "s2a" else None
        if same is not None:
            arms.append(Arm(name, same.job, same.lender, same.same_as or same.name))
        elif lender is None or lender.name == name:
            arms.append(Arm(name, job))
        else:
            # Absolute: the same comparison may be run from another working directory.
            arms.append(Arm(name, job.model_copy(update={"rewrites": lender.job.output.absolute()}), lender.name))
    return arms


def misplaced(base: Job) -> str:
    """What of the job has no place in a comparison; "" for nothing."""
    found = next((key for key, value in (("only", base.only), ("rewrites", base.rewrites)) if value is not None), None)
    return f"{found}: has no place in a comparison, which shares rewrites by itself; leave it out" if found else ""


def judge_job(base: Job, parts: Parts) -> Job | None:
    """The job that asks the judge about the answers; None when no judge is wanted.

    Raises:
        JobError: The judge's keys are wrong.
    """
    if base.compare.score != "judge":
        return None
    shared = base.model_dump(mode="json", include={"limits", "retry", "fsync_s", "messages"})
    shared |= {name: value for name in ("model", "base_url", "api_key_env") if (value := getattr(base, name))}
    shared |= {} if base.api_key_file is None else {"api_key_file": str(base.api_key_file)}
    if base.price is not None and not base.compare.judge.keys() & {"model", "price"}:
        shared["price"] = base.price.model_dump(mode="json")
    table: dict[str, JsonValue] = {
        **shared,
        "input": str(base.output / JUDGE / QUESTIONS),
        "output": str(base.output / JUDGE),
        "arm": "baseline",
        "fields": {"system": "system"},
        "answer": {"class": _VERDICT},
    }
    job = parts.judge(("compare", JUDGE), ("answer",), table)
    # Another judge is another run: what the first one found stays, and neither stands in the other's way.
    place = base.output / JUDGE / fingerprint(resume.settings_of(job))
    return job.model_copy(update={"input": (str(place / QUESTIONS),), "output": place})


def check(jobs: Sequence[Job], options: Options, environ: Mapping[str, str]) -> None:
    """Look for all that can be known to be wrong with any of the jobs before one of them sends anything.

    Raises:
        JobError: A key, a file or the settings of an earlier run stand in the way.
    """
    for job in jobs:
        check_setup(job, environ)
        rundir.RunDirectory(job.output).refuse_foreign_files()
        if not moved_only(job):
            resume.check_changes(job, options)


def moved_only(job: Job) -> bool:
    """Whether all that changed since the last run is where the lender of rewrites lies; that changes no answer."""
    found = resume.compare(rundir.read_manifest(job.output), resume.settings_of(job), job.only)
    return bool(found) and all(change.startswith(_FROM) for change in found)


def _jobs(base: Job, parts: Parts) -> dict[str, Job]:
    """Each arm's job by its name."""
    found: dict[str, Job] = {}
    faults: list[str] = []
    for name in base.compare.names():
        output = os.path.normpath(base.output / ARMS / name)
        place = ("compare", "variants", name)
        try:
            found[name] = parts.arm(place, base.compare.known(name), {"output": output})
        except JobError as error:
            own = f" {'.'.join(place)}."
            faults += [line if own in line else f"{line} (arm '{name}')" for line in str(error).splitlines()]
    if faults:
        raise JobError("\n".join(faults))
    return found


def _all_of(job: Job) -> str:
    """All that can change an arm's results."""
    settings = {name: value for name, value in resume.settings_of(job).items() if not name.startswith("rewrite.from")}
    return json.dumps([settings, [_place(stage) for stage in job.stages().values()]], sort_keys=True)


def _rewriting_of(job: Job) -> str:
    """All that can change an arm's rewrites."""
    settings = resume.settings_of(job).items()
    mine = {name: value for name, value in settings if not name.startswith(("answer.", "rewrite.from"))}
    return json.dumps([mine, _place(job.rewrite)], sort_keys=True)


def _place(stage: StageJob) -> list[JsonValue]:
    return [stage.base_url, stage.api_key_env, str(stage.api_key_file), dict(stage.headers_env)]
