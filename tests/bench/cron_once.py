"""The generated crontab under this machine's real cron, once: ``python -m tests.bench.cron_once`` (root, two minutes).

Writes a job for the next minute but one into a folder with a blank and a % in its name, installs what
``schedule --print cron`` says as this user's crontab, starts ``cron -f`` with an environment of nothing, waits for the
answers, and puts the user's crontab back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from tests.processes import ROOT, read_lines, write_input
from tests.server import Upstream

_CRONTAB = "/usr/bin/crontab"
_WAIT_S = 150


def _is_over(manifest: Path) -> bool:
    """Whether a run has told its end; `run.json` is replaced as a whole."""
    return manifest.exists() and json.loads(manifest.read_text())["summary"] is not None


def main() -> int:
    """Run it, say what came of it, and return 0 when all lines were answered and nothing was printed."""
    with tempfile.TemporaryDirectory() as name, Upstream(seconds=300) as up:
        folder = Path(name) / "50% of it"
        folder.mkdir()
        write_input(folder / "in.jsonl", range(5))
        when = datetime.now().astimezone() + timedelta(minutes=1, seconds=5)
        job = ['input = "in.jsonl"', 'output = "out"', 'model = "m"', f'base_url = "{up.base_url}"', "[schedule]"]
        job += [f'cron = "{when.minute} {when.hour} * * *"', "jitter_s = 1", "timeout_s = 100"]
        (folder / "job.toml").write_text("\n".join(job))
        command = [sys.executable, "-m", "s2a_batch", "schedule", "--print", "cron", "job.toml"]
        lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
        print(lines)
        before = subprocess.run([_CRONTAB, "-l"], capture_output=True, text=True, check=False).stdout
        subprocess.run([_CRONTAB, "-"], input=lines, text=True, check=True)
        cron = subprocess.Popen(["/usr/bin/env", "-i", "/usr/sbin/cron", "-f", "-L", "15"], cwd="/")
        try:
            end = time.monotonic() + _WAIT_S
            while time.monotonic() < end and not _is_over(folder / "out" / "run.json"):
                with suppress(subprocess.TimeoutExpired):
                    cron.wait(1)  # no sleep: it ends with the process
        finally:
            cron.terminate()
            cron.wait()
            subprocess.run([_CRONTAB, "-" if before else "-r"], input=before, text=True, check=True)
        found = read_lines(folder / "out" / "results.jsonl")
        print(f"{len(found)} of 5 answered by cron at {datetime.now().astimezone():%H:%M:%S}")
        return 0 if len(found) == 5 else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
