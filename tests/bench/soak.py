"""A bad night: the real program against an upstream that fails in every way, for as many rows as asked.

``python -m tests.bench.soak --rows 50000`` prints a table and one JSON object; exit status 1 when a promise broke.
Of the requests 5 % get a 5xx, 1 % hang until their deadline, 10 % of the replies do not fit the schema; every so often
comes a storm: refusals with and without a wait, a rate far below what was sent, an outage.
Invariant: what is judged is read from the files, from /proc and from the upstream, never from the program's own counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.processes import ENVIRON, ROOT, strict, write_input
from tests.server import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import JsonObject, Plan, Reply, Rule

SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
WARM_ROWS = 5000
"""In a shorter night start and end are most of it: nothing is flat."""
MAY_GROW_KIB = 8 << 10
"""A learnt rate, a fuller cache: what memory may grow between the second and the last fifth, or 10 % of it."""


@dataclass(frozen=True)
class Night:
    """How bad a night it is. A storm begins with every so many rows that have a result; `settings` go to the job."""

    rows: int
    open_requests: int = 32
    latency_s: tuple[float, float] = (0.02, 0.06)
    deadline_s: float = 2.0
    storm_every_rows: int = 4000
    storm_s: float = 5.0
    sample_s: float = 1.0
    settings: tuple[str, ...] = ()

    def faults(self) -> Plan:
        """5 % 5xx, 1 % hung connections, 10 % replies that do not fit; the periods share no factor."""
        rules = [_every(101, {"hang_s": 10 * self.deadline_s})]
        rules += [_every(n, {"status": status}) for n, status in ((59, 500), (61, 502), (62, 503))]
        unfit: list[Reply] = [{"content": '{"answer": "cut'}, {"json": {"neither": 1}}, {"content": "Sure! Here it is"}]
        rules += [_every(n, reply) for n, reply in zip((29, 30, 31), unfit, strict=True)]
        return {"rules": rules, "latency_s": list(self.latency_s), "seed": 1}

    def storms(self) -> Iterator[Plan]:
        """One after the other, without end."""
        usual = self.faults()
        for_all: Rule = {"per_record": False, "replies": [{"status": 429, "headers": {"retry-after": "2"}}]}
        return cycle(
            (
                {**usual, "rules": [for_all]},
                {**usual, "limits": {"per_second": 20, "retry_after": "1"}},
                {**usual, "limits": {"per_second": 40}},
                {**usual, "down": [[0, self.storm_s]]},
            )
        )


def _every(n: int, reply: Reply) -> Rule:
    return {"when": {"every": n}, "replies": [reply], "per_record": False}


@dataclass(frozen=True)
class Sample:
    """The child at one moment."""

    at_s: float
    descriptors: int
    rss_kib: int
    threads: int
    cpu_s: float


@dataclass
class Found:
    """What the night showed.

    Attributes:
        descriptors: Median of each fifth of the time; `rss_kib` and `threads` likewise.
        broken: The promises that broke, in words; none: all held.
    """

    rows: int
    seconds: float = 0.0
    exit_status: int = -1
    answered: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    max_in_flight: int = 0
    storms: int = 0
    cpu_ms_a_row: float = 0.0
    descriptors: list[float] = field(default_factory=list)
    rss_kib: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    paid_twice: int = 0
    timeouts: int = 0
    verify_seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        """For a person."""
        fifths = {"descriptors": self.descriptors, "resident KiB": self.rss_kib, "threads": self.threads}
        rows: dict[str, object] = {
            "rows": f"{self.rows} in {self.seconds:.0f} s, {self.rows / self.seconds:.0f} a second",
            "answered, dead letters": f"{self.answered}, {self.dead or 0}",
            "requests": f"{self.requests} {self.by_status}",
            "most in flight, storms": f"{self.max_in_flight}, {self.storms}",
            "CPU a row": f"{self.cpu_ms_a_row:.1f} ms",
            **{f"{name} by fifths": ", ".join(f"{n:.0f}" for n in found) for name, found in fifths.items()},
            "good replies asked for again, timeouts": f"{self.paid_twice}, {self.timeouts}",
            "exit status, verify": f"{self.exit_status}, {self.verify_seconds:.1f} s",
            "broken": "; ".join(self.broken) or "nothing",
        }
        return "\n".join(f"{name:>50}  {value}" for name, value in rows.items())


def soak(night: Night, folder: Path) -> Found:
    """Live through a night in an empty folder."""
    write_input(folder / "in.jsonl", range(night.rows))
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    found = Found(night.rows)
    with Upstream(night.faults(), seconds=6 * 3600) as up:
        began = time.monotonic()
        with (
            (folder / "stderr").open("wb") as log,
            subprocess.Popen(
                _command(night, up.base_url), cwd=folder, stderr=log, env=ENVIRON | {"PYTHONPATH": str(ROOT)}
            ) as child,
        ):
            samples = list(_watched(child, night, up, found, folder / "out"))
        found.seconds, found.exit_status = time.monotonic() - began, child.returncode
        stats = up.stats()
    found.requests, found.by_status, found.max_in_flight = stats.requests, stats.by_status, stats.max_in_flight
    found.paid_twice = sum(max(0, n - 1) for paid in stats.per_record.values() for n in paid.values())
    if found.exit_status not in (0, 1):
        found.broken.append(f"exit status {found.exit_status}: {(folder / 'stderr').read_text()[-500:]}")
    _judge_files(folder / "out", found)
    late = found.timeouts - stats.by_status.get("gone", 0)
    if found.paid_twice > late:
        found.broken.append(f"{found.paid_twice} good replies were asked for again, {late} came after the deadline")
    _judge_samples(samples, night, found)
    _verify(folder, found)
    return found


def _command(night: Night, base_url: str) -> list[str]:
    words = ["run", "in.jsonl", "-o", "out", "--model", "m", "--base-url", base_url, "--answer", "schema.json", "-q"]
    words += ["--open-requests", str(night.open_requests), "--set", f"retry.deadline_s={night.deadline_s}"]
    words += [word for setting in night.settings for word in ("--set", setting)]
    return [sys.executable, "-m", "s2a_batch", *words]


def _watched(child: subprocess.Popen[bytes], night: Night, up: Upstream, found: Found, out: Path) -> Iterator[Sample]:
    """Sample the child to its end, and let storms come and go meanwhile."""
    began, storms, rows = time.monotonic(), night.storms(), Rows(out / "results.jsonl")
    next_at_row, calm_at = night.storm_every_rows, float("inf")
    while True:
        try:
            child.wait(night.sample_s)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if rows.count() and (sample := _sample(child.pid, now - began)) is not None:
                yield sample
            if now >= calm_at:
                up.replan(night.faults())
                next_at_row, calm_at = rows.count() + night.storm_every_rows, float("inf")
            elif calm_at == float("inf") and rows.count() >= next_at_row:
                found.storms += 1
                up.replan(next(storms))
                calm_at = now + night.storm_s
        else:
            return


class Rows:
    """How many lines a growing file has; what was counted is not read again."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._lines = path, 0, 0

    def count(self) -> int:
        """As many as it has now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                while block := file.read(1 << 20):
                    self._read += len(block)
                    self._lines += block.count(b"\n")
        return self._lines


def _sample(pid: int, at_s: float) -> Sample | None:
    """None when it has just ended."""
    place = Path("/proc") / str(pid)
    try:
        status = dict(re.findall(r"(\w+):\s+(\d+)", (place / "status").read_text()))
        times = (place / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        descriptors = sum(1 for _ in (place / "fd").iterdir())
        return Sample(at_s, descriptors, int(status["VmRSS"]), int(status["Threads"]), cpu_s)
    except (OSError, KeyError):
        return None


def _judge_files(out: Path, found: Found) -> None:
    """Every row is answered from its own rewrite, or dead with a reason; exactly one of both, exactly once."""
    seen: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    for name in ("results.jsonl", "dead_letters.jsonl"):
        if not (out / name).exists():
            continue
        with (out / name).open("rb") as file:
            for raw in file:
                line = strict(raw)
                seen[line["id"]] += 1
                attempts = [attempt for stage in line["stages"].values() if stage for attempt in stage["attempts"]]
                found.timeouts += sum(bool(a["error"]) and a["error"]["kind"] == "timeout" for a in attempts)
                if name == "results.jsonl":
                    found.answered += 1
                    _judge_answer(line, found)
                else:
                    reasons[line["error"]["kind"]] += 1
                    if not (line["error"]["message"] and line["error"]["stage"]):
                        found.broken.append(f"dead letter without a reason: {line['id']}")
    found.dead = dict(reasons)
    if missing := [n for n in range(found.rows) if not seen[n]]:
        found.broken.append(f"{len(missing)} rows without a result, first {missing[:3]}")
    if doubled := [n for n, times in seen.items() if times > 1]:
        found.broken.append(f"{len(doubled)} rows with several results, first {doubled[:3]}")


def _judge_answer(line: JsonObject, found: Found) -> None:
    mark = f"[[r-{line['id']}]]"
    if line["answer"] != {"answer": f"ANSWER {mark}"} or not line["rewrite"]["user_query"].startswith(mark):
        found.broken.append(f"row {line['id']} has the answer of another: {line['answer']}")


def _judge_samples(samples: list[Sample], night: Night, found: Found) -> None:
    """Descriptors and memory are flat: the second fifth (all is warm) against the last."""
    fifth = len(samples) // 5
    if not fifth:
        return
    parts = [samples[n * fifth : (n + 1) * fifth] for n in range(5)]
    found.descriptors = [median(s.descriptors for s in part) for part in parts]
    found.rss_kib = [median(s.rss_kib for s in part) for part in parts]
    found.threads = [median(s.threads for s in part) for part in parts]
    found.cpu_ms_a_row = 1000 * samples[-1].cpu_s / night.rows
    if night.rows < WARM_ROWS:
        return
    if found.descriptors[4] > found.descriptors[1] + night.open_requests:
        found.broken.append(f"descriptors grow: {found.descriptors}")
    if found.rss_kib[4] > found.rss_kib[1] + max(MAY_GROW_KIB, found.rss_kib[1] / 10):
        found.broken.append(f"memory grows: {found.rss_kib} KiB")


def _verify(folder: Path, found: Found) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "s2a_batch", "verify", "out", "--json"]
    environ = ENVIRON | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    found.verify_seconds = time.monotonic() - began
    if done.returncode:
        found.broken.append(f"verify says {done.returncode}: {(done.stdout + done.stderr)[-500:]}")


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description="A bad night: the real program against every fault at once.")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--open-requests", type=int, default=32)
    parser.add_argument("--storm-every", type=int, default=4000, metavar="ROWS")
    parser.add_argument("--storm", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the job, as for `run`")
    parser.add_argument("--folder", type=Path, help="an empty one that is kept; default: a temporary one")
    args = parser.parse_args()
    night = Night(
        args.rows,
        open_requests=args.open_requests,
        storm_every_rows=args.storm_every,
        storm_s=args.storm,
        settings=tuple(args.set),
    )
    with tempfile.TemporaryDirectory() as temporary:
        found = soak(night, args.folder or Path(temporary))
    print(found.table())
    print(json.dumps({"night": asdict(night), **asdict(found)}))
    sys.exit(1 if found.broken else 0)


if __name__ == "__main__":
    main()
