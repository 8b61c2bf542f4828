"""From some records that were run to all that are pending: means with a 95 % interval.

Invariant: a record of the sample counts with all its attempts of this execution, whatever became of it; what an earlier
execution paid for it counts not.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final

from s2a_batch import linefiles, rundir
from s2a_batch.estimate import Survey, total
from s2a_batch.figures import Estimate, Range, StageEstimate
from s2a_batch.pipeline import is_drawn
from s2a_batch.prices import prices_of
from s2a_batch.records import Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from s2a_batch.job import Job
    from s2a_batch.prices import CostOf
    from s2a_batch.records import StageAudit, StageName

_Z: Final = 1.959964
_STUDENT: Final = (12.706, 4.303, 3.182, 2.776)
"""The 97.5 % points of Student's t for 1 to 4 degrees of freedom."""

_ASSUMED: Final = (
    "means of the sample, with 95 % intervals for the sum over the rest",
    "the server is as fast as it was for the sample",
)


@dataclass(frozen=True, slots=True)
class _Used:
    """What one record took in one stage; the answer to its prompt as given, which some have, is apart."""

    requests: float = 0
    input_tokens: float = 0
    output_tokens: float = 0
    cost_usd: float | None = 0.0
    open_s: float = 0


def extrapolate(job: Job, found: Survey, since: datetime) -> Estimate:
    """What is left after a sample, from what the sample took.

    Args:
        job: What was run.
        found: What was pending before the sample.
        since: When the sample began, in UTC; results of before do not count.
    """
    prices = prices_of(job)
    rows: dict[StageName, list[_Used]] = {name: [] for name in prices}
    records = 0
    for key, outcome in _outcomes(job, since):
        records += 1
        for name in prices:
            drawn = name == "answer" and job.arm == "s2a" and is_drawn(key, job.answer.baseline_share)
            audits = [getattr(outcome.stages, name), *([outcome.stages.baseline] if drawn else [])]
            used = [_used(audit, since, prices[name]) for audit in audits]
            # A rewrite may have been paid before or be spared, and what has no oracle's prompt is not asked at all.
            sparing = name == "rewrite" or job.arm == "oracle"
            rows[name] += [unit for unit in used if unit.requests or not sparing]
    rest = replace(
        found,
        done=found.done + records,
        pending=max(0, found.pending - records),
        rewrites=max(0, found.rewrites - len(rows.get("rewrite", ()))),
        answers=max(0, found.answers - len(rows.get("answer", ()))),
    )
    left = {"rewrite": rest.rewrites, "answer": rest.answers}
    known = total(job, rest, {name: _scaled(rows[name], left[name]) for name in prices})
    costs = [used.cost_usd for part in rows.values() for used in part]
    paid = None if None in costs else math.fsum(cost or 0.0 for cost in costs)
    return replace(known, sampled=records, sample_cost_usd=paid, assumed=_ASSUMED)


def _outcomes(job: Job, since: datetime) -> Iterator[tuple[str, Outcome]]:
    """The records, with their keys, that came to their end since then; lines that cannot be asked are none."""
    names = (rundir.REWRITES, rundir.DEAD_LETTERS) if job.only else (rundir.RESULTS, rundir.DEAD_LETTERS)
    began = since.isoformat(timespec="milliseconds")
    for name in names:
        for _, line in linefiles.lines(job.output / name):
            found = json.loads(line)
            outcome = Outcome.model_validate({name: found[name] for name in Outcome.model_fields if name in found})
            is_record = outcome.error is None or outcome.error.stage != "input"
            if outcome.started_at >= began and is_record:
                yield str(found["key"]), outcome


def _used(audit: StageAudit | None, since: datetime, cost_of: CostOf | None) -> _Used:
    began = since.isoformat(timespec="milliseconds")
    attempts = [a for a in audit.attempts if a.started >= began] if audit is not None else []
    usage = [a.usage or Usage() for a in attempts]
    metered = all(a.error is not None or (a.usage and a.usage.input_tokens is not None) for a in attempts)
    return _Used(
        requests=len(attempts),
        input_tokens=sum(u.input_tokens or 0 for u in usage),
        output_tokens=sum(u.output_tokens or 0 for u in usage),
        cost_usd=math.fsum(map(cost_of, usage)) if cost_of is not None and metered else None,
        open_s=math.fsum(a.seconds for a in attempts),
    )


def _scaled(rows: list[_Used], n: int) -> StageEstimate:
    """The sum over `n` further records."""
    costs = [used.cost_usd for used in rows]
    known = [cost for cost in costs if cost is not None]
    return StageEstimate(
        requests=_sum_of([used.requests for used in rows], n),
        input_tokens=_sum_of([used.input_tokens for used in rows], n),
        output_tokens=_sum_of([used.output_tokens for used in rows], n),
        cost_usd=_sum_of(known, n) if rows and len(known) == len(costs) else None,
        open_s=_sum_of([used.open_s for used in rows], n) if rows else None,
    )


def _sum_of(sample: list[float], n: int) -> Range:
    """The 95 % interval of the sum over `n` records that are like the sample's; all is possible after one alone."""
    if not n or not sample:
        return Range(0.0, 0.0, 0.0)
    mean = fmean(sample)
    if len(sample) == 1:
        return Range(0.0, math.inf, n * mean)
    # The rest is drawn from the same records: n values of their own variance, beside the mean's.
    spread = student(len(sample) - 1) * stdev(sample) * math.sqrt(n + n * n / len(sample))
    return Range(max(0.0, n * mean - spread), n * mean + spread, n * mean)


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t (Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5; 1 % at most off)."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = _Z
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
