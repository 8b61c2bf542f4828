"""The clients of the bench: ours and its peers, each a command over the same input; one run of one is a `Run`."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.child import on_core, serving, spend
from tests.bench.reckon import Run
from tests.bench.replies import ANSWER, prompt
from tests.bench.tables import OURS
from tests.bench.upstream import Behaviour

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from tests.bench.child import Serving, Spent
    from tests.bench.upstream import Seen


@dataclass(frozen=True)
class Load:
    """What a client has to do, and how the upstream behaves meanwhile; `settings` are lines of our job file."""

    rows: int
    open_requests: int
    behaviour: Behaviour = field(default_factory=Behaviour)
    within_s: float = 900.0
    settings: str = ""


@dataclass(frozen=True)
class Machine:
    """Where all runs: the client's core, the upstream's, and its interpreter. None: anywhere."""

    client_core: int | None = None
    upstream_core: int | None = None
    upstream_python: Path | str = sys.executable

    def upstream(self, load: Load) -> AbstractContextManager[Serving]:
        """The upstream for a load, on its core, for as long as the load may take."""
        seconds = load.within_s + 60
        return serving(load.behaviour, core=self.upstream_core, python=self.upstream_python, seconds=seconds)


@dataclass(frozen=True)
class Client:
    """One way to do the work.

    Attributes:
        python: Interpreter of its environment.
        module: A peer's script; None: our own program.
    """

    name: str = OURS
    python: Path | str = sys.executable
    module: str | None = None
    environ: dict[str, str] = field(default_factory=dict)

    def command(self, folder: Path, base_url: str, load: Load) -> list[str | Path]:
        """The command line over `in.jsonl` of this folder; our own job file is written there."""
        if self.module is None:
            (folder / "job.toml").write_text(job(base_url, load))
            return [self.python, "-m", "s2a_batch", "run", "job.toml", "-q"]
        command = [self.python, "-m", self.module, folder / "in.jsonl", base_url, folder / "out.jsonl"]
        limit = load.behaviour.requests_per_minute
        return [*command, str(load.open_requests), *([] if limit is None else [str(limit)])]

    def output(self, folder: Path) -> Path:
        """Where its result lines are."""
        return folder / "out" / "results.jsonl" if self.module is None else folder / "out.jsonl"

    def run(self, load: Load, machine: Machine = Machine()) -> Run:
        """Do it once, in a folder that goes afterwards."""
        with tempfile.TemporaryDirectory(prefix="s2a-bench-") as temporary:
            folder = Path(temporary)
            write_rows(folder / "in.jsonl", range(load.rows))
            with (
                machine.upstream(load) as upstream,
                on_core(machine.client_core),
            ):
                command = self.command(folder, upstream.base_url, load)
                spent = spend(command, folder, within_s=load.within_s, environ=self.environ)
                seen = upstream.seen()
            return judged(self.name, load.rows, spent, seen, answered(self.output(folder)))


def job(base_url: str, load: Load) -> str:
    """Our job file: defaults, but for what the load says; it knows the limits."""
    lines = ['input = "in.jsonl"', 'output = "out"', 'model = "bench"', f'base_url = "{base_url}"', load.settings]
    lines += ["[answer]", 'type = "int"', "[limits]", f"open_requests = {load.open_requests}"]
    for name in ("requests_per_minute", "tokens_per_minute"):
        if (limit := getattr(load.behaviour, name)) is not None:
            lines.append(f"{name} = {limit}")
    return "\n".join(lines) + "\n"


def write_rows(path: Path, numbers: Iterable[int]) -> None:
    """The input of these rows."""
    with path.open("w") as file:
        file.writelines(json.dumps({"id": n, "prompt": prompt(n)}) + "\n" for n in numbers)


def answered(output: Path) -> int:
    """How many different rows have the right answer in an output."""
    if not output.exists():
        return 0
    right = set()
    with output.open("rb") as lines:
        for line in lines:
            with suppress(ValueError):  # the last one of a client that was killed
                found = json.loads(line)
                if found["answer"] in (ANSWER, {"answer": ANSWER}):
                    right.add(found["id"])
    return len(right)


def judged(name: str, rows: int, spent: Spent, seen: Seen, right: int) -> Run:
    """What was measured as a `Run`; a client that fails or answers less than all says so."""
    problem = ""
    if spent.status:
        last = (spent.err.strip() or spent.out.strip() or "no output").splitlines()[-1]
        problem = f"exit status {spent.status}: {last[:160]}"
    elif right < rows:
        problem = f"{rows - right} of {rows} rows without an answer"
    began, ended = seen.first_at, seen.last_at
    return Run(
        name,
        rows,
        answered=right,
        cpu_s=spent.cpu_s,
        peak_rss_kib=spent.peak_rss_kib,
        start_s=None if began is None else began - spent.started_at,
        span_s=0.0 if began is None or ended is None else ended - began,
        served=seen.served,
        refused=seen.refused,
        violations=int(sum(window["violations"] for window in seen.windows.values())),
        max_in_flight=seen.max_in_flight,
        upstream_cpu_s=seen.cpu_s,
        queued_s=spent.queued_s,
        problem=problem,
        windows=seen.windows,
    )
