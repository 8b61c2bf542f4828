"""How many cores of this machine the program may use.

Invariant: a container's share of the machine counts, not the machine.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that the scheduler lets this process run on, or as many as its control groups give it time for; at least 1.

    Args:
        root: Where `proc` and `sys` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group above this process allows; a group without a bound has none."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = mount / group.lstrip("/")
        for folder in (place, *place.parents) if ".." not in place.parts else (mount,):
            if controllers:  # version 1
                limit = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}".split()
            else:
                limit = _read(folder / "cpu.max").split()
            if len(limit) == 2 and limit[0].isdigit() and int(limit[1]) > 0:  # noqa: PLR2004  quota and period, in us
                yield int(limit[0]) / int(limit[1])
            if folder == mount:
                break


def _read(path: Path) -> str:
    """What a file says; nothing where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
