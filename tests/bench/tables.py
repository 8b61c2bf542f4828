"""What the speed bench found, as tables: each scenario at length, and all of it in one table for the README."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from tests.bench.reckon import Run, cpu_ms_a_row, ratio, share_of_allowed, share_of_ideal, start_cpu_s, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS = "s2a-batch"
FLOOR = "direct"
LATENCY_S, LATENCY_OPEN = 0.2, 256
PER_MINUTE = 6000.0
Rounds: TypeAlias = dict[str, list[Run]]


@dataclass
class Found:
    """All runs of a bench, by scenario and client.

    Attributes:
        title: Date, machine and command in a line.
        absent: The peers that could not be made, with the reason.
    """

    title: str = ""
    rounds: dict[str, Rounds] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def opened(self) -> list[int]:
        """With how many open requests CPU was measured."""
        return [int(name.removeprefix("cpu ")) for name in self.rounds if name.startswith("cpu ")]

    def costs(self, client: str, open_requests: int) -> list[float]:
        """CPU of a row in each round; empty when a run of them is no result."""
        full, few = (self.rounds[f"{kind} {open_requests}"].get(client, []) for kind in ("cpu", "few"))
        if problem_of([*full, *few]):
            return []
        return [cpu_ms_a_row(one, short) for one, short in zip(full, few, strict=True)]

    def names(self) -> list[str]:
        """The clients that ran, ours first."""
        return list(dict.fromkeys([OURS, *(name for kept in self.rounds.values() for name in kept)]))

    def save(self, path: Path) -> None:
        """Write all of it."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Found:
        """Read what `save` wrote."""
        kept = json.loads(path.read_text())
        rounds = {
            name: {client: [Run(**run) for run in runs] for client, runs in clients.items()}
            for name, clients in kept["rounds"].items()
        }
        return cls(kept["title"], rounds, kept["absent"])


def problem_of(runs: list[Run]) -> str:
    """The first reason why one of the runs is no result."""
    return next((run.problem for run in runs if run.problem), "")


def against(found: Found, client: str, base: str, open_requests: int) -> str:
    """A client's CPU of a row against another's; empty when either has none."""
    theirs, ours = found.costs(client, open_requests), found.costs(base, open_requests)
    return f"{ratio(theirs, ours):.2f}" if theirs and ours else ""


def cpu_table(found: Found, open_requests: int) -> str:
    """CPU of a row and start-up with so many open requests."""
    full, few = found.rounds[f"cpu {open_requests}"], found.rounds[f"few {open_requests}"]
    lines = []
    for name, runs in full.items():
        costs = found.costs(name, open_requests)
        if not costs:
            lines.append([name, *[""] * 6, problem_of([*runs, *few[name]])])
            continue
        starts = [start_cpu_s(one, short) for one, short in zip(runs, few[name], strict=True)]
        first = median(run.start_s or 0.0 for run in few[name])
        rate = median(run.rows / run.span_s for run in runs)
        rss = max(run.peak_rss_kib for run in runs) / 1024
        cells = [f"{median(costs):.2f}", against(found, name, OURS, open_requests), f"{rate:.0f}"]
        lines.append([name, *cells, f"{median(starts):.2f}", f"{first:.2f}", f"{rss:.0f}", ""])
    head = ["client", "CPU ms/row", "x ours", "rows/s", "start CPU s", "first request s", "peak MiB", "note"]
    return table(head, lines + _absent(found, len(head)))


def _upstream_us(found: Found, open_requests: int) -> str:
    """What the upstream itself used, as it served the floor."""
    runs = found.rounds[f"cpu {open_requests}"][FLOOR]
    return f"{median(1e6 * run.upstream_cpu_s / run.served for run in runs):.0f} us"


def ideal(runs: list[Run]) -> str:
    """Share of the possible speed with the slow model."""
    return f"{median(share_of_ideal(run, LATENCY_S, LATENCY_OPEN) for run in runs):.3f}"


def allowed(runs: list[Run]) -> str:
    """Share of the limit that went into answered rows."""
    return f"{median(share_of_allowed(run, PER_MINUTE) for run in runs):.3f}"


def share_table(found: Found, scenario: str, head: str, share: Callable[[list[Run]], str], note: str) -> str:
    """One share for each client, with the worst of a number of its runs as note."""
    lines = []
    for name, runs in found.rounds[scenario].items():
        if any(run.served == 0 for run in runs):
            lines.append([name, *[""] * 3, problem_of(runs)])
            continue
        worst = [f"{max(run.refused for run in runs)} refusals" if note == "refused" else ""]
        worst = worst if worst[0] else [f"{min(run.max_in_flight for run in runs)} open at most"]
        seconds, cpu_s = median(run.span_s for run in runs), median(run.cpu_s for run in runs)
        notes = "; ".join(filter(None, [*worst, problem_of(runs)]))
        lines.append([name, share(runs), f"{seconds:.1f}", f"{cpu_s:.1f}", notes])
    return table(["client", head, "seconds", "CPU s", "note"], lines + _absent(found, 5))


def _absent(found: Found, width: int) -> list[list[str]]:
    return [[name, *[""] * (width - 2), why] for name, why in found.absent.items()]


def report(found: Found) -> str:
    """All tables at length."""
    parts = [found.title]
    for number in found.opened:
        parts.append(f"CPU of a row, {number} open requests, no latency:\n\n{cpu_table(found, number)}")
        if floor := against(found, OURS, FLOOR, number):
            parts.append(
                f"Ours is {floor} times the direct loop; {_upstream_us(found, number)} of the upstream's a request."
            )
    if "latency" in found.rounds:
        shown = share_table(found, "latency", "share of ideal", ideal, "open")
        parts.append(f"{LATENCY_S:g} s latency, {LATENCY_OPEN} open requests:\n\n{shown}")
    if "limit" in found.rounds:
        shown = share_table(found, "limit", "share of allowed", allowed, "refused")
        parts.append(f"A limit of {PER_MINUTE:.0f} requests a minute, held by the second:\n\n{shown}")
    return "\n\n".join(parts)


def readme(found: Found) -> str:
    """All of it in one table, with the line that says how it was made."""
    head = ["client", *(f"CPU ms a row, {n} open" for n in found.opened)]
    head += [
        f"x ours, {found.opened[0]} open" if found.opened else "x ours",
        "speed with a slow model",
        "use of a limit",
        "refused",
        "lost rows",
    ]
    lines = []
    for name in found.names():
        costs = [found.costs(name, n) for n in found.opened]
        cells = [f"{median(one):.2f}" if one else "" for one in costs]
        cells.append(against(found, name, OURS, found.opened[0]) if found.opened else "")
        slow, limited = (found.rounds.get(scenario, {}).get(name, []) for scenario in ("latency", "limit"))
        cells.append(_percent(slow, ideal))
        cells.append(_percent(limited, allowed))
        cells += (
            [str(max(run.refused for run in limited)), str(max(run.rows - run.answered for run in limited))]
            if limited
            else ["", ""]
        )
        lines.append([name, *cells])
    lines += [[name, *[""] * (len(head) - 2), why] for name, why in found.absent.items()]
    return f"{found.title}\n\n{table(head, lines)}"


def _percent(runs: list[Run], share: Callable[[list[Run]], str]) -> str:
    """A share as a percentage; empty for a client that lost everything, whose pace says nothing."""
    return f"{float(share(runs)):.0%}" if runs and all(run.answered for run in runs) else ""
