"""Which records of a run are worth reading: typical, most changed, objected to by a check, slow.

Invariant: the choice depends on the records alone, neither on their order in the files nor on chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from s2a_batch.htmlreport.gauges import Least

if TYPE_CHECKING:
    from s2a_batch.htmlreport.readings import ExampleReading, SlowReading
    from s2a_batch.htmlreport.rows import Row

_SAMPLED: Final = 60
_TYPICAL: Final = 3
_MOST_REMOVED: Final = 3
_OBJECTED: Final = 4
_CHECK_NAMES: Final = 12
_SLOWEST: Final = 10
_FEW_WORDS: Final = 8


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a record's line begins, in bytes."""

    file: str
    offset: int
    line: int
    key: str


@dataclass(slots=True)
class Picks:
    """Candidates, a few of each kind."""

    _sample: Least[tuple[float, Spot]] = field(default_factory=lambda: Least(_SAMPLED))
    _short: Least[Spot] = field(default_factory=lambda: Least(_MOST_REMOVED))
    _objected: dict[str, Least[Spot]] = field(default_factory=dict)
    _slow: Least[SlowReading] = field(default_factory=lambda: Least(_SLOWEST))

    def add(self, row: Row, spot: Spot) -> None:
        """Look at one record."""
        if self._slow.wants((-row.seconds,), row.key):
            self._slow.offer((-row.seconds,), row.key, _slow(row))
        if row.rewrite_words is None or not row.prompt_words:
            return
        share = row.rewrite_words / row.prompt_words
        for name, level in row.checks:
            if level == "error" and (name in self._objected or len(self._objected) < _CHECK_NAMES):
                self._objected.setdefault(name, Least(_OBJECTED)).offer((), row.key, spot)
        if row.status == "failed" or row.prompt_words < _FEW_WORDS:
            return
        self._sample.offer((), row.key, (share, spot))
        if share < 1:
            self._short.offer((share, -row.prompt_words), row.key, spot)

    def slowest(self) -> list[SlowReading]:
        """The slowest records, slowest first."""
        return self._slow.things()

    def examples(self, median: float | None) -> list[ExampleReading]:
        """The records to show, each once, with all reasons.

        Args:
            median: Of the share of words that the rewrites have of their prompts.
        """
        near = sorted(self._sample.things(), key=lambda found: (abs(found[0] - (median or 0.0)), found[1].key))
        shown: dict[Spot, list[str]] = {}
        for spot in [spot for _, spot in near[:_TYPICAL]]:
            shown.setdefault(spot, []).append("typical")
        for spot in self._short.things():
            shown.setdefault(spot, []).append("most removed")
        for name, spot in self._objections():
            shown.setdefault(spot, []).append(f"check {name}")
        return [_example(spot, why) for spot, why in shown.items()]

    def _objections(self) -> list[tuple[str, Spot]]:
        """By turns one of each check, as many as are to be shown."""
        by_name = {name: found.things() for name, found in sorted(self._objected.items())}
        turns = [
            (name, spots[turn]) for turn in range(_OBJECTED) for name, spots in by_name.items() if turn < len(spots)
        ]
        return turns[:_OBJECTED]


def _example(spot: Spot, why: list[str]) -> ExampleReading:
    return {"why": why, "line": spot.line, "key": spot.key, "file": spot.file, "offset": spot.offset}


def _slow(row: Row) -> SlowReading:
    return {
        "line": row.line,
        "file": row.file,
        "id": row.identity,
        "status": row.status,
        "seconds": row.seconds,
        "stages": {name: sum(sent.seconds for sent in part.sent) for name, part in row.parts.items()},
        "waited_s": sum(sent.waited_s for part in row.parts.values() for sent in part.sent),
        "requests": sum(len(part.sent) for part in row.parts.values()),
    }
