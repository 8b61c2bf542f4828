"""How our own costs grow: ``python -m tests.bench.growth``.

Tables: CPU of a row and peak memory against the number of rows, CPU of a row against the number of open requests,
start-up, the time to go on after so many finished rows, rows a second against `processes`. With --long up to a million
rows. CPU of a row is of a long run less a short one, so start-up does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from s2a_batch.job import Job
from s2a_batch.keys import line_hash
from tests.bench.child import on_core, spend
from tests.bench.clients import Client, Load, Machine, answered, judged, write_rows
from tests.bench.reckon import Run, cpu_ms_a_row, said, table
from tests.bench.replies import prompt
from tests.bench.speed import FEW_ROWS, cores, machine_in_a_line, upstream_python
from tests.bench.tables import OURS, problem_of
from tests.bench.upstream import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

"""So that many requests are really open; without latency each is answered before the next is sent."""
STARTS = 5
US = Client()
LONGEST_S = 4 * 3600.0


class Bench:
    """Runs what is asked for and keeps each run; a line to stderr for each."""

    def __init__(self, machine: Machine, rounds: int, open_requests: int) -> None:
        self.machine, self.rounds, self.open_requests = machine, rounds, open_requests
        self.runs: dict[str, list[Run]] = {}

    def run(self, title: str, load: Load, machine: Machine | None = None) -> list[Run]:
        """A load's rounds."""
        found = [US.run(replace(load, within_s=LONGEST_S), machine or self.machine) for _ in range(self.rounds)]
        return self.keep(title, found)

    def keep(self, title: str, found: list[Run]) -> list[Run]:
        """Note runs made otherwise."""
        self.runs[title] = found
        print(f"{title}: {'; '.join(map(said, found))}", file=sys.stderr, flush=True)
        return found

    def by_rows(self, counts: Iterable[int]) -> str:
        """CPU of a row and peak memory against the number of rows."""
        few = self.run("few", Load(FEW_ROWS, self.open_requests))
        lines = []
        for count in counts:
            runs = self.run(f"rows {count}", Load(count, self.open_requests))
            lines.append([f"{count:,}", *_cells(runs, few)])
        return table(["rows", "CPU ms/row", "rows/s", "peak MiB", "note"], lines)

    def by_open(self, numbers: Iterable[int], rows: int) -> str:
        """CPU of a row against what is open, at a latency that as many requests bridge: a thousand rows a second.

        Connections are made once, so the few rows that are taken off use all of them.
        """
        lines = []
        for number in numbers:
            load = Load(max(rows, 6 * number), number, Behaviour(latency=str(number / 2000)))
            few = self.run(f"open {number}, few", replace(load, rows=max(FEW_ROWS, 2 * number)))
            runs = self.run(f"open {number}", load)
            most = max(run.max_in_flight for run in runs)
            lines.append([str(number), *_cells(runs, few)[:-1], str(most), problem_of(runs)])
        return table(["may be open", "CPU ms/row", "rows/s", "peak MiB", "were open", "note"], lines)

    def start_up(self) -> str:
        """Time and CPU of the help, and time to the first request."""
        with tempfile.TemporaryDirectory() as temporary, on_core(self.machine.client_core):
            command = [sys.executable, "-m", "s2a_batch", "--help"]
            helps = [spend(command, Path(temporary), within_s=60) for _ in range(STARTS)]
        runs = [US.run(Load(1, 1), self.machine) for _ in range(STARTS)]
        self.keep("start-up", runs)
        shown = [f"{median(one.seconds for one in helps):.2f}", f"{median(one.cpu_s for one in helps):.2f}"]
        first = f"{median(run.start_s or 0.0 for run in runs):.2f}"
        lines = [["`--help`", *shown], ["first request of a run", first, f"{median(run.cpu_s for run in runs):.2f}"]]
        return table(["start-up", "seconds", "CPU s"], lines)

    def by_finished(self, counts: Iterable[int]) -> str:
        """Time to the first request against the rows that are done: nothing known of the files, then all."""
        lines = []
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="s2a-bench-") as temporary:
                folder = Path(temporary)
                self._finish(folder, count)
                for n, state in enumerate(("nothing known of the files", "as the last run left it")):
                    went_on = self._asked_again(self._go_on(folder, count + (n + 1) * FEW_ROWS))
                    run = self.keep(f"finished {count}, {state}", [went_on])[0]
                    start = "" if run.start_s is None else f"{run.start_s:.2f}"
                    peak = f"{run.peak_rss_kib / 1024:.0f}"
                    lines.append([f"{count:,}", state, start, f"{run.cpu_s:.2f}", peak, run.problem])
        return table(["finished rows", "state", "first request s", "CPU s", "peak MiB", "note"], lines)

    def _finish(self, folder: Path, count: int) -> None:
        """A directory as a run over so many rows leaves it: the lines of one real row, again and again."""
        self._go_on(folder, 1)
        write_rows(folder / "in.jsonl", range(count))
        for name in ("results.jsonl", "rewrites.jsonl"):
            path = folder / "out" / name
            pattern = path.read_bytes()
            key = json.loads(pattern)["key"].encode()
            with (folder / "in.jsonl").open("rb") as lines, path.open("wb") as out:
                out.writelines(as_row(pattern, key, line.rstrip(b"\n"), n) for n, line in enumerate(lines))
        (folder / "out" / ".synced").unlink()

    def _go_on(self, folder: Path, rows: int) -> Run:
        """Run over an input of so many rows, of which the folder may hold finished ones."""
        write_rows(folder / "in.jsonl", range(rows))
        load = Load(rows, self.open_requests, within_s=LONGEST_S)
        with (
            self.machine.upstream(load) as upstream,
            on_core(self.machine.client_core),
        ):
            spent = spend(US.command(folder, upstream.base_url, load), folder, within_s=load.within_s)
            return judged(OURS, rows, spent, upstream.seen(), answered(US.output(folder)))

    def _asked_again(self, run: Run) -> Run:
        """A run that asked for finished rows too is no result."""
        more = run.served - 2 * FEW_ROWS
        return replace(run, problem=f"{more} requests for finished rows") if more and not run.problem else run

    def by_processes(self, numbers: Iterable[int], rows: int) -> str:
        """Rows a second against the number of processes, on any core; nothing to say while a job knows none."""
        if "processes" not in Job.model_fields:
            return "`processes` is no key of a job yet: skipped."
        lines = []
        anywhere = replace(self.machine, client_core=None)
        for number in numbers:
            load = Load(rows, self.open_requests, settings=f"processes = {number}")
            runs = self.run(f"processes {number}", load, anywhere)
            rate = median(run.rows / run.span_s for run in runs)
            lines.append([str(number), f"{rate:.0f}", f"{median(run.cpu_s for run in runs):.1f}", problem_of(runs)])
        return table(["processes", "rows/s", "CPU s", "note"], lines)


def as_row(pattern: bytes, key: bytes, line: bytes, n: int) -> bytes:
    """The line of row 0, which has this key, as that of row n: key, place, id, input, and all text that names it."""
    changed = pattern.replace(key, line_hash(line).hex().encode(), 1)
    changed = changed.replace(b'"line":1,', b'"line":%d,' % (n + 1), 1).replace(b'"id":0,', b'"id":%d,' % n, 1)
    changed = changed.replace(json.dumps({"id": 0, "prompt": prompt(0)}).encode(), line)
    return changed.replace(b"Box 0 ", b"Box %d " % n).replace(b"box 0?", b"box %d?" % n)


def _cells(runs: list[Run], few: list[Run]) -> list[str]:
    cost = median(cpu_ms_a_row(full, short) for full, short in zip(runs, few, strict=True))
    rate = median(run.rows / run.span_s for run in runs)
    return [f"{cost:.2f}", f"{rate:.0f}", f"{max(run.peak_rss_kib for run in runs) / 1024:.0f}", problem_of(runs + few)]


def main() -> None:
    """Run it as the command line says."""
    tables = ["rows", "open", "start", "resume", "processes"]
    parser = argparse.ArgumentParser(description="How our own costs grow.")
    parser.add_argument("--tables", type=lambda text: text.split(","), default=tables, help=str(tables))
    parser.add_argument("--long", action="store_true", help="up to a million rows: hours, and 10 GB of disk")
    parser.add_argument("--most", type=int, help="no more rows than these, for a smoke test")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--open-requests", type=int, default=64)
    parser.add_argument("--cores", default="0,1", help="the client's and the upstream's")
    parser.add_argument(
        "--envs", type=Path, help="where the upstream's environment is kept; default: a temporary folder"
    )
    parser.add_argument("--json", type=Path, help="where all runs go")
    args = parser.parse_args()
    counts = [
        n for n in (1000, 10_000, 100_000, 1_000_000) if n <= (args.most or (1_000_000 if args.long else 100_000))
    ]
    with tempfile.TemporaryDirectory(prefix="s2a-bench-envs-") as temporary:
        bench = Bench(
            Machine(*cores(args.cores), upstream_python(args.envs or Path(temporary))), args.rounds, args.open_requests
        )
        rows = min(args.most or 5000, 5000)
        made: dict[str, Callable[[], str]] = {
            "rows": lambda: bench.by_rows(counts),
            "open": lambda: bench.by_open((16, 64, 256, 1024, 2048), rows),
            "start": bench.start_up,
            "resume": lambda: bench.by_finished([n for n in counts if n != 10_000]),
            "processes": lambda: bench.by_processes((1, 2), rows),
        }
        print(f"{datetime.now(UTC):%Y-%m-%d}, {machine_in_a_line()}")
        for name in args.tables:
            print(f"\n{made[name]()}", flush=True)
    if args.json is not None:
        runs = {title: [asdict(run) for run in found] for title, found in bench.runs.items()}
        args.json.write_text(json.dumps({"machine": machine_in_a_line(), "runs": runs}))


if __name__ == "__main__":
    main()
