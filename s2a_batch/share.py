"""How a job's limits are split over several processes, and over how many.

Invariants: the shares of a limit add up to the limit, and are whole numbers but for one, as a window that has room for
half a request has room for none; no process has a share that is too small to work with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from s2a_batch.cores import usable_cores
from s2a_batch.job import is_embedded

if TYPE_CHECKING:
    from s2a_batch.job import Job

LEAST_TOKENS_PER_MINUTE: Final = 20_000
"""A request with more tokens than its process's share would go on top of the others' shares."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one process among several.

    Attributes:
        index: Which one, from 0.
        of: How many there are.
    """

    index: int = 0
    of: int = 1

    def count(self, whole: int) -> int:
        """This process's part of a number of things; the first ones take what does not divide."""
        return whole // self.of + (self.index < whole % self.of)

    def rate(self, whole: float) -> float:
        """This process's part of an amount in a time; at least 1, where there is less than that for each."""
        rest = whole % 1 if self.index == 0 else 0.0
        return whole if self.of == 1 else max(1.0, self.count(int(whole)) + rest)


def process_count(job: Job) -> int:
    """Over how many processes a job runs: as many as it says, and never more than its limits have shares for."""
    stages = job.stages().values()
    if any(is_embedded(stage) for stage in stages):
        return 1
    most = [usable_cores() if job.processes == "auto" else job.processes]
    for stage in stages:
        limits = stage.limits or job.limits
        most.append(limits.most_open)
        if stage.open_requests is not None:
            most.append(stage.open_requests)
        if limits.requests_per_minute is not None:
            most.append(int(limits.requests_per_minute))
        if limits.tokens_per_minute is not None:
            most.append(int(limits.tokens_per_minute / LEAST_TOKENS_PER_MINUTE))
    return max(1, min(most))
