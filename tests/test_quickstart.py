"""The README's first command on the real embedded model: killed in the middle, run again, whole at the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.processes import ROOT, read_lines

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = 2


def test_the_quickstart_survives_a_kill_on_the_real_model(tmp_path: Path) -> None:
    """What a newcomer runs first must hold the first promise: nothing is asked twice, nothing is lost."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "s2a_batch", "run", "jobs/quickstart.toml", "-o", str(out), "--limit"]
    with subprocess.Popen([*command, str(RECORDS)], cwd=ROOT, stderr=subprocess.PIPE, text=True) as killed:
        while not (out / "rewrites.jsonl").exists() or not read_lines(out / "rewrites.jsonl"):
            with suppress(subprocess.TimeoutExpired):
                assert killed.wait(0.1) is None, killed.stderr and killed.stderr.read()
        killed.send_signal(signal.SIGKILL)
    paid = {line["key"] for line in read_lines(out / "rewrites.jsonl")}
    left = RECORDS - len(read_lines(out / "results.jsonl")) - len(read_lines(out / "dead_letters.jsonl"))
    done = subprocess.run([*command, str(left)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    ended = read_lines(out / "results.jsonl") + read_lines(out / "dead_letters.jsonl")
    assert sorted(line["line"] for line in ended) == list(range(1, RECORDS + 1))
    rewritten = [line["key"] for line in read_lines(out / "rewrites.jsonl")]
    assert len(rewritten) == len(set(rewritten))
    assert paid <= set(rewritten)
    for line in read_lines(out / "results.jsonl"):
        assert isinstance(line["answer"]["answer"], int)
        assert line["stages"]["answer"]["usage"]["output_tokens"] > 0
