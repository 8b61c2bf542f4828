"""What `run.json` tells of a run, for a digest: what was run, how it stands, what all its executions used.

Invariant: what it does not tell, or told of another moment than now, is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.htmlreport.readings import RunReading

_SETTINGS: Final = (
    ("rewrite", "model"),
    ("rewrite", "base_url"),
    ("rewrite", "preset"),
    ("rewrite", "temperature"),
    ("answer", "model"),
    ("answer", "base_url"),
    ("answer", "type"),
    ("answer", "temperature"),
    ("answer", "keep_original"),
)
_VALUE_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Told:
    """A run's manifest, read for a report."""

    directory: Path
    manifest: Mapping[str, JsonValue]
    running: bool

    def run(self) -> RunReading:
        """Which run it is, and how it stands."""
        job, totals, summary = self._table("job"), self._table("totals"), self._table("summary")
        cost, stopped = totals.get("cost_usd"), summary.get("stopped")
        unfinished = 0 if self.running or summary else 1  # the last one came to no end
        executions = _number(totals.get("executions"))
        return {
            "directory": str(self.directory),
            "input": str(job.get("input", "")),
            "version": str(self.manifest.get("s2a_batch")),
            "fingerprint": str(self.manifest.get("fingerprint")),
            "running": self.running,
            "stopped": None if stopped is None or self.running else str(stopped)[: 2 * _VALUE_CHARS],
            "only_rewrite": job.get("only") == "rewrite",
            "executions": executions + (1 if self.running else unfinished),
            "killed": _number(totals.get("killed")) + unfinished,
            "requests": _number(totals.get("requests")),
            "cost_usd": float(cost) if isinstance(cost, int | float) and executions else None,
            "settings": self._settings(),
        }

    def pending(self) -> int | None:
        """Input lines without a result; None while it runs, after a kill, or when the input was not read to its end."""
        return self._of_whole_input("pending")

    def superseded(self) -> int | None:
        """Results whose line is gone from the input; None as for those pending."""
        return self._of_whole_input("superseded")

    def set_aside(self) -> int:
        """How many files of dead letters were set aside by a retry; what is in them is in no number."""
        return sum(1 for _ in self.directory.glob("dead_letters.[0-9]*.jsonl"))

    def _of_whole_input(self, name: str) -> int | None:
        summary = self._table("summary")
        value = summary.get(name)
        whole = not self.running and summary.get("read_all") is True
        return value if whole and isinstance(value, int) else None

    def _table(self, name: str) -> Mapping[str, JsonValue]:
        found = self.manifest.get(name)
        return found if isinstance(found, dict) else {}

    def _settings(self) -> dict[str, str]:
        job = self._table("job")
        found = {}
        for stage, name in _SETTINGS:
            table = job.get(stage)
            value = table.get(name) if isinstance(table, dict) else None
            if value not in (None, False):
                found[f"{stage}.{name}"] = str(value)[:_VALUE_CHARS]
        return found


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
