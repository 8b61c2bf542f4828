"""All commands but those that run a job: each hands its options to the module that does the work, and loads it then.

Invariant: `COMMANDS` is their order in the help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from s2a_batch.commands import jobs, operate, results, timing

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    results.status,
    operate.tune,
    operate.pause,
    operate.resume,
    results.show,
    results.verify,
    results.compare,
    results.export,
    results.report,
    results.view,
    jobs.init,
    jobs.schema,
    jobs.check,
    operate.prune,
    timing.schedule,
)
