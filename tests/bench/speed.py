"""Ours beside its peers, on the same rows against the same upstream: ``python -m tests.bench.speed``.

Every round runs each client once, one after the other, and begins with another of them; a ratio is the median over the
rounds, each client against ours of the same round. Client and upstream have a core each. Three questions:
what a row costs in CPU (no latency; a long run less a short one), how much of the possible speed is reached with a
slow model (200 ms, 256 open), and how well a limit is used and kept (6,000 requests a minute, counted by the second).
A peer that cannot be installed, fails, or does not answer every row is in the table with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from tests.bench import envs
from tests.bench.clients import OURS, Client, Load, Machine
from tests.bench.reckon import Run, cpu_ms_a_row, ratio, share_of_allowed, share_of_ideal, start_cpu_s, table
from tests.bench.upstream import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_ROWS = 50
LATENCY_S, LATENCY_OPEN = 0.2, 256
PER_MINUTE = 6000.0
Rounds: TypeAlias = dict[str, list[Run]]


@dataclass
class Found:
    """All runs of a bench, by scenario and client, and the peers that could not be made."""

    rounds: dict[str, Rounds] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def clients(names: list[str], folder: Path, found: Found) -> list[Client]:
    """Ours and the peers, with their environments."""
    made = [Client(OURS)]
    for name in names:
        try:
            python = envs.python_of(name, folder)
        except envs.NotInstalled as error:
            found.absent[name] = f"not installed: {error}"
        else:
            made.append(Client(name, python, f"tests.bench.peers.{envs.MODULES.get(name, name)}"))
    return made


def rotated(all_clients: list[Client], round_number: int) -> list[Client]:
    """The clients in this round's order."""
    first = round_number % len(all_clients)
    return all_clients[first:] + all_clients[:first]


@dataclass(frozen=True)
class Stand:
    """What all scenarios are run with."""

    clients: list[Client]
    rounds: int
    machine: Machine


def play(scenario: str, load: Load, stand: Stand, found: Found) -> None:
    """Run a scenario's rounds."""
    kept = found.rounds.setdefault(scenario, {client.name: [] for client in stand.clients})
    for number in range(stand.rounds):
        for client in rotated(stand.clients, number):
            run = client.run(load, stand.machine)
            kept[client.name].append(run)
            said = run.problem or f"{run.span_s:.1f} s, CPU {run.cpu_s:.1f} s"
            print(f"{scenario}, round {number + 1}, {client.name}: {said}", file=sys.stderr, flush=True)


def cpu_table(found: Found, open_requests: int) -> str:
    """CPU a row and start-up with so many open requests."""
    full, few = found.rounds[f"cpu {open_requests}"], found.rounds[f"few {open_requests}"]

    def costs(name: str) -> list[float]:
        return [cpu_ms_a_row(one, short) for one, short in zip(full[name], few[name], strict=True)]

    ours = costs(OURS)
    lines = []
    for name, runs in full.items():
        if problem := _problem([*runs, *few[name]]):
            lines.append([name, *[""] * 6, problem])
            continue
        starts = [start_cpu_s(one, short) for one, short in zip(runs, few[name], strict=True)]
        first = median(run.start_s or 0.0 for run in few[name])
        rate = median(run.rows / run.span_s for run in runs)
        rss = max(run.peak_rss_kib for run in runs) / 1024
        cells = [f"{median(costs(name)):.2f}", f"{ratio(costs(name), ours):.2f}", f"{rate:.0f}"]
        lines.append([name, *cells, f"{median(starts):.2f}", f"{first:.2f}", f"{rss:.0f}", ""])
    head = ["client", "CPU ms/row", "x ours", "rows/s", "start CPU s", "first request s", "peak MiB", "note"]
    return table(head, lines + _absent(found, len(head)))


def latency_table(found: Found) -> str:
    """How much of the possible speed is reached with a slow model."""

    def share(run: Run) -> float:
        return share_of_ideal(run, LATENCY_S, LATENCY_OPEN)

    return _share_table(found, "latency", "share of ideal", share, lambda run: f"{run.max_in_flight} open at most")


def limit_table(found: Found) -> str:
    """How much of the limit is used, and how often it was broken."""

    def share(run: Run) -> float:
        return share_of_allowed(run, PER_MINUTE)

    return _share_table(found, "limit", "share of allowed", share, lambda run: f"{run.refused} refusals (429)")


def _share_table(
    found: Found, scenario: str, title: str, share: Callable[[Run], float], note: Callable[[Run], str]
) -> str:
    lines = []
    for name, runs in found.rounds[scenario].items():
        if any(run.served == 0 for run in runs):
            lines.append([name, "", "", "", _problem(runs)])
            continue
        worst = max(runs, key=lambda run: (run.refused, -run.max_in_flight))
        notes = [note(worst), _problem(runs)]
        shown = f"{median(share(run) for run in runs):.3f}"
        seconds, cpu_s = median(run.span_s for run in runs), median(run.cpu_s for run in runs)
        lines.append([name, shown, f"{seconds:.1f}", f"{cpu_s:.1f}", "; ".join(filter(None, notes))])
    head = ["client", title, "seconds", "CPU s", "note"]
    return table(head, lines + _absent(found, len(head)))


def _problem(runs: list[Run]) -> str:
    return next((run.problem for run in runs if run.problem), "")


def _absent(found: Found, width: int) -> list[list[str]]:
    return [[name, *[""] * (width - 2), why] for name, why in found.absent.items()]


def report(found: Found, open_requests: list[int], command: str) -> str:
    """All tables, with what they were measured with."""
    parts = [f"{datetime.now(UTC):%Y-%m-%d}, {machine_in_a_line()}: `{command}`"]
    for number in open_requests:
        parts.append(f"CPU of a row, {number} open requests, no latency:\n\n{cpu_table(found, number)}")
        if "direct" in found.rounds[f"cpu {number}"]:
            parts[-1] += f"\n\nOurs is {_against_floor(found, number):.2f} times the direct loop."
    if "latency" in found.rounds:
        parts.append(f"{LATENCY_S:g} s latency, {LATENCY_OPEN} open requests:\n\n{latency_table(found)}")
    if "limit" in found.rounds:
        parts.append(f"A limit of {PER_MINUTE:.0f} requests a minute, held by the second:\n\n{limit_table(found)}")
    return "\n\n".join(parts)


def _against_floor(found: Found, open_requests: int) -> float:
    full, few = found.rounds[f"cpu {open_requests}"], found.rounds[f"few {open_requests}"]
    costs = {n: [cpu_ms_a_row(a, b) for a, b in zip(full[n], few[n], strict=True)] for n in (OURS, "direct")}
    return ratio(costs[OURS], costs["direct"])


def machine_in_a_line() -> str:
    """System, processor count and Python; nothing that names the machine."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def without_places(words: list[str]) -> list[str]:
    """A command line without what names a place on this machine."""
    kept = re.sub(r"--(envs|json)[ =]\S+ ?", "", " ".join(words))
    return kept.split()


def cores(text: str) -> tuple[int | None, int | None]:
    """Two cores, or none on a system that cannot bind."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    client, upstream = (int(core) for core in text.split(","))
    return client, upstream


def upstream_python(folder: Path) -> Path | str:
    """The upstream's interpreter: with uvloop, or this one."""
    try:
        return envs.python_of(envs.UPSTREAM, folder)
    except envs.NotInstalled as error:
        print(f"no uvloop for the upstream, its requests cost more: {error}", file=sys.stderr)
        return sys.executable


def measure(args: argparse.Namespace, folder: Path) -> Found:
    """Run all scenarios that were asked for."""
    found = Found()
    client_core, upstream_core = cores(args.cores)
    machine = Machine(client_core, upstream_core, upstream_python(folder))
    stand = Stand(clients(args.peers, folder, found), args.rounds, machine)
    if "cpu" in args.scenarios:
        for number in args.open:
            play(f"few {number}", Load(FEW_ROWS, number), stand, found)
            play(f"cpu {number}", Load(args.rows, number), stand, found)
    if "latency" in args.scenarios:
        slow = Load(args.latency_rows, LATENCY_OPEN, Behaviour(latency=str(LATENCY_S)))
        play("latency", slow, stand, found)
    if "limit" in args.scenarios:
        limited = Load(args.limit_rows, LATENCY_OPEN, Behaviour(latency="0.1", requests_per_minute=PER_MINUTE))
        play("limit", limited, stand, found)
    return found


def main() -> None:
    """Run it as the command line says."""
    peers = [name for name in envs.PINS if name != envs.UPSTREAM]
    scenarios = ["cpu", "latency", "limit"]
    parser = argparse.ArgumentParser(description="Ours beside its peers.")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--open", type=lambda text: [int(n) for n in text.split(",")], default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=lambda text: [n for n in text.split(",") if n], default=peers, help=str(peers))
    parser.add_argument("--scenarios", type=lambda text: text.split(","), default=scenarios, help=str(scenarios))
    parser.add_argument("--latency-rows", type=int, default=5000)
    parser.add_argument("--limit-rows", type=int, default=2000)
    parser.add_argument("--cores", default="0,1", help="the client's and the upstream's")
    parser.add_argument("--envs", type=Path, help="where the peers' environments are kept; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="where all runs go")
    parser.add_argument("--readme", action="store_true", help="print the tables alone, as the README has them")
    args = parser.parse_args()
    if unknown := set(args.peers) - set(peers):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
    with tempfile.TemporaryDirectory(prefix="s2a-bench-envs-") as temporary:
        found = measure(args, args.envs or Path(temporary))
    if args.json is not None:
        runs = {name: {c: [asdict(r) for r in rs] for c, rs in kept.items()} for name, kept in found.rounds.items()}
        args.json.write_text(json.dumps({"machine": machine_in_a_line(), "absent": found.absent, "runs": runs}))
    command = " ".join(["python -m tests.bench.speed", *without_places(sys.argv[1:])])
    print(report(found, args.open if "cpu" in args.scenarios else [], command))


if __name__ == "__main__":
    main()
