"""A container's share of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from s2a_batch.cores import usable_cores

if TYPE_CHECKING:
    from pathlib import Path

CORES = len(os.sched_getaffinity(0))
V1, V2 = "4:cpu,cpuacct:/kube/pod\n1:name=systemd:/x\n", "0::/kube/pod\n"


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("", {}, CORES),
        (V2, {}, CORES),
        (V2, {"kube/pod/cpu.max": "max 100000"}, CORES),
        (V2, {"kube/pod/cpu.max": "50000 100000"}, 1),
        (V2, {"kube/cpu.max": "100000 100000", "kube/pod/cpu.max": "max 100000"}, 1),
        (V2, {"cpu.max": "1 100000"}, 1),
        ("0::/../other\n", {"cpu.max": "100000 100000"}, 1),
        (V2, {"kube/pod/cpu.max": "900000 100000"}, CORES),
        (V1, {"cpu/kube/pod/cpu.cfs_quota_us": "-1", "cpu/kube/pod/cpu.cfs_period_us": "100000"}, CORES),
        (V1, {"cpu/kube/cpu.cfs_quota_us": "100000", "cpu/kube/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_the_share_of_a_container_counts(tmp_path: Path, group: str, files: dict[str, str], cores: int) -> None:
    """Thirty-two processes in a container of one core would take turns, and each its memory."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert usable_cores(tmp_path) == cores
