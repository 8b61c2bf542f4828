"""Ours beside its peers, on the same rows against the same upstream: ``python -m tests.bench.speed``.

Every round runs each client once, one after the other, and begins with another of them; a ratio is the median over the
rounds, each client against ours of the same round. Client and upstream have a core each. Three questions:
what a row costs in CPU (no latency; a long run less a short one), how much of the possible speed is reached with a
slow model (200 ms, 256 open), and how well a limit is used and kept (6,000 requests a minute, counted by the second).
A peer that cannot be installed, fails, or does not answer every row is in the table with its reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import envs
from tests.bench.clients import Client, Load, Machine
from tests.bench.reckon import said
from tests.bench.tables import LATENCY_OPEN, LATENCY_S, PER_MINUTE, Found, readme, report
from tests.bench.upstream import Behaviour

PEERS = [name for name in envs.PINS if name != envs.UPSTREAM]
SCENARIOS = ["cpu", "latency", "limit"]
FEW_ROWS = 50
LIMIT_WITHIN_S = 300.0
"""A client that takes this long under a limit has stalled: 2,000 rows need 40 s."""


def clients(names: list[str], folder: Path, found: Found) -> list[Client]:
    """Ours and the peers, with their environments."""
    made = [Client()]
    for name in names:
        try:
            python = envs.python_of(name, folder)
        except envs.NotInstalled as error:
            found.absent[name] = f"not installed: {error}"
        else:
            made.append(Client(name, python, f"tests.bench.peers.{name.replace('-', '_')}"))
    return made


def rotated(all_clients: list[Client], round_number: int) -> list[Client]:
    """The clients in this round's order."""
    first = round_number % len(all_clients)
    return all_clients[first:] + all_clients[:first]


@dataclass(frozen=True)
class Stand:
    """What all scenarios are run with; `kept` is the file that gets all runs after each scenario."""

    clients: list[Client]
    rounds: int
    machine: Machine
    kept: Path | None


def play(scenario: str, load: Load, stand: Stand, found: Found) -> None:
    """Run a scenario's rounds."""
    kept = found.rounds.setdefault(scenario, {client.name: [] for client in stand.clients})
    for number in range(stand.rounds):
        for client in rotated(stand.clients, number):
            run = client.run(load, stand.machine)
            kept[client.name].append(run)
            print(f"{scenario}, round {number + 1}, {client.name}: {said(run)}", file=sys.stderr, flush=True)
    if stand.kept is not None:
        found.save(stand.kept)


def machine_in_a_line() -> str:
    """System, processor count and Python; nothing that names the machine."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def command_in_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """The command, and in words what was asked for besides; without what names a place on this machine."""
    given = {name: value for name, value in vars(args).items() if value != parser.get_default(name)}
    asked = [
        f"{name.replace('_', ' ')} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in given.items()
        if name not in {"envs", "json", "readme", "shown"}
    ]
    return "`python -m tests.bench.speed`" + (f" with {'; '.join(asked)}" if asked else "")


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


def measure(args: argparse.Namespace, folder: Path, words: str) -> Found:
    """Run all scenarios that were asked for."""
    found = Found(f"{datetime.now(UTC):%Y-%m-%d}, {machine_in_a_line()}: {words}")
    client_core, upstream_core = cores(args.cores)
    machine = Machine(client_core, upstream_core, upstream_python(folder))
    stand = Stand(clients(args.peers, folder, found), args.rounds, machine, args.json)
    if "cpu" in args.scenarios:
        for number in args.open:
            play(f"few {number}", Load(FEW_ROWS, number), stand, found)
            play(f"cpu {number}", Load(args.rows, number), stand, found)
    if "latency" in args.scenarios:
        slow = Load(args.latency_rows, LATENCY_OPEN, Behaviour(latency=str(LATENCY_S)))
        play("latency", slow, stand, found)
    if "limit" in args.scenarios:
        how = Behaviour(latency="0.1", requests_per_minute=PER_MINUTE)
        limited = Load(args.limit_rows, LATENCY_OPEN, how, within_s=LIMIT_WITHIN_S)
        play("limit", limited, stand, found)
    return found


def arguments() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(description="Ours beside its peers.")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--open", type=lambda text: [int(n) for n in text.split(",")], default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=lambda text: [n for n in text.split(",") if n], default=PEERS, help=str(PEERS))
    parser.add_argument("--scenarios", type=lambda text: text.split(","), default=SCENARIOS, help=str(SCENARIOS))
    parser.add_argument("--latency-rows", type=int, default=5000)
    parser.add_argument("--limit-rows", type=int, default=2000)
    parser.add_argument("--cores", default="0,1", help="the client's and the upstream's")
    parser.add_argument("--envs", type=Path, help="where the peers' environments are kept; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="where all runs go")
    parser.add_argument("--readme", action="store_true", help="print one table, as the README has it")
    parser.add_argument("--from", type=Path, dest="shown", metavar="JSON", help="measure nothing, show these runs")
    return parser


def main() -> None:
    """Run it as the command line says."""
    parser = arguments()
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if args.shown is not None:
        found = Found.load(args.shown)
    else:
        with tempfile.TemporaryDirectory(prefix="s2a-bench-envs-") as temporary:
            found = measure(args, args.envs or Path(temporary), command_in_words(parser, args))
    if args.readme:
        print(report(found), file=sys.stderr)
    print(readme(found) if args.readme else report(found))


if __name__ == "__main__":
    main()
