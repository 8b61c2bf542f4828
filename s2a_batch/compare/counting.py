"""Counts records that were matched and judged, and makes the figures of it.

Invariants: arms are compared over the records that both have a judgement of; a failed record counts as wrong and is
told; what is left out is counted, with the reason; of what turned only so many are held, but all are counted.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal

from s2a_batch.compare import scoring, stats
from s2a_batch.compare.comparison import Agreement, ArmFigures, Pair, Share, Turn
from s2a_batch.compare.matching import Use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import JsonValue

    from s2a_batch.compare.matching import Matched, Shelf
    from s2a_batch.compare.plan import Arm

Judgement = Literal["right", "wrong", "failed", "pending", "no_oracle", "unjudged"]
"""What becomes of a record with a right answer in one arm."""

_SHOWN_TURNS: Final = 1_000
_MOST_GROUPS: Final = 100
_OTHERS: Final = "(all others)"


class Count:
    """Counts records as they come.

    Args:
        arms: In their order.
        gold: The name of the field with the right answer.
        by: The name of the field that groups are made by.
    """

    def __init__(self, arms: Sequence[Arm], gold: str, by: str | None) -> None:
        self._arms = arms
        self._gold = gold
        self._by = by
        self.lines = self.unusable = self.no_gold = 0
        self._tallies: list[Counter[str]] = [Counter() for _ in arms]
        self._failures: list[Counter[str]] = [Counter() for _ in arms]
        self._groups: dict[str, list[Counter[str]]] = {}
        self._pairs = [Pair(arm.name, arms[0].name) for arm in arms[1:]]
        self._agreements = {(a, b): Agreement(arms[a].name, arms[b].name) for a, b in combinations(range(len(arms)), 2)}

    def add(self, record: Matched, judged: Sequence[Judgement] | None, member: str) -> None:
        """Count one record.

        Args:
            record: In all arms.
            judged: By arm; None when it has no right answer.
            member: Which part of an answer object counts.
        """
        self.lines += 1
        if not record.usable:
            self.unusable += 1
            return
        said = [None if g is None or g.failure is not None else scoring.said(g.answer, member) for g in record.given]
        self._note_given(record)
        self._note_agreement(record, said)
        if judged is None:
            self.no_gold += 1
            self._note_changed(record, said)
            return
        group = self._group(record)
        for number, judgement in enumerate(judged):
            self._tallies[number][judgement] += 1
            if group is not None:
                group[number][judgement] += 1
        for number, pair in enumerate(self._pairs, 1):
            turn = Turn(record.line, record.id, (record.found or {}).get(self._gold), said[0], said[number])
            _note_pair(pair, judged[0], judged[number], turn)

    def finish(self, shelves: Sequence[Shelf]) -> tuple[list[ArmFigures], list[Pair], list[Agreement]]:
        """The figures."""
        for pair in self._pairs:
            if pair.n:
                pair.difference = (pair.better - pair.worse) / pair.n
                pair.bootstrap = stats.bootstrap_difference(pair.better, pair.worse, pair.n)
                pair.adjusted = stats.adjusted_difference(pair.better, pair.worse, pair.n)
                pair.p, pair.mid_p = stats.mcnemar(pair.better, pair.worse)
        tested = [pair for pair in self._pairs if pair.p is not None]
        for pair, adjusted in zip(tested, stats.holm([pair.p or 0.0 for pair in tested]), strict=True):
            pair.p_holm = adjusted
        arms = [self._figures(number, shelf) for number, shelf in enumerate(shelves)]
        return arms, self._pairs, list(self._agreements.values())

    def _figures(self, number: int, shelf: Shelf) -> ArmFigures:
        arm, tally, failures = self._arms[number], self._tallies[number], self._failures[number]
        pending = failures.pop("pending", 0)
        failed = failures.total()
        asked = self.lines - self.unusable
        no_oracle = failures.pop("no_oracle", 0)
        return ArmFigures(
            name=arm.name,
            directory=f"{arm.job.output.parent.name}/{arm.job.output.name}",
            same_as=arm.same_as,
            rewrites_of=arm.lender,
            answered=asked - pending - failed,
            failed=failed - no_oracle,
            pending=pending,
            failures=dict(sorted(failures.items())),
            judged=_share(tally),
            no_oracle=no_oracle,
            unjudged=tally["unjudged"],
            alone=shelf.alone.rounded(),
            paid=Use() if arm.same_as is not None else shelf.alone.without(shelf.borrowed),
            groups={name: _share(group[number]) for name, group in self._groups.items()},
        )

    def _note_given(self, record: Matched) -> None:
        for arm, given, failures in zip(self._arms, record.given, self._failures, strict=True):
            if given is None:
                failures["pending"] += 1
            elif given.failure is not None:
                failures["no_oracle" if arm.job.arm == "oracle" and record.oracle is None else given.failure] += 1

    def _note_agreement(self, record: Matched, said: Sequence[JsonValue]) -> None:
        there = [g is not None and g.failure is None for g in record.given]
        normal = [scoring.normal(one) for one in said]
        for (a, b), agreement in self._agreements.items():
            if there[a] and there[b]:
                agreement.n += 1
                agreement.alike += normal[a] == normal[b]

    def _note_changed(self, record: Matched, said: Sequence[JsonValue]) -> None:
        for number, pair in enumerate(self._pairs, 1):
            both = [record.given[0], record.given[number]]
            there = all(g is not None and g.failure is None for g in both)
            if there and scoring.normal(said[0]) != scoring.normal(said[number]) and len(pair.changed) < _SHOWN_TURNS:
                pair.changed.append(Turn(record.line, record.id, None, said[0], said[number]))

    def _group(self, record: Matched) -> list[Counter[str]] | None:
        if self._by is None:
            return None
        name = scoring.text_of((record.found or {}).get(self._by))
        if name not in self._groups and len(self._groups) >= _MOST_GROUPS:
            name = _OTHERS
        return self._groups.setdefault(name, [Counter() for _ in self._arms])


def _note_pair(pair: Pair, first: Judgement, second: Judgement, turn: Turn) -> None:
    if not {first, second} <= {"right", "wrong", "failed"}:
        pair.left_out += 1
        return
    pair.n += 1
    sides = first == "right", second == "right"
    pair.both_right += sides == (True, True)
    pair.both_wrong += sides == (False, False)
    pair.better += sides == (False, True)
    pair.worse += sides == (True, False)
    if sides[0] != sides[1]:
        turns = pair.to_right if sides[1] else pair.to_wrong
        if len(turns) < _SHOWN_TURNS:
            turns.append(turn)


def _share(tally: Counter[str]) -> Share:
    return Share.of(tally["right"], tally["right"] + tally["wrong"] + tally["failed"])
