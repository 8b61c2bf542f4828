"""From the files of the arms to the figures: matches their results, judges each, counts.

Invariants: reads only, but for `records.jsonl`, which is written at once or not at all; a record without a usable right
answer is judged in no arm.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING

import anyio

from s2a_batch import linefiles, rundir
from s2a_batch.compare import judging, matching, scoring
from s2a_batch.compare.comparison import Comparison
from s2a_batch.compare.counting import Count
from s2a_batch.compare.matching import Shelf, Use
from s2a_batch.errors import OutputError
from s2a_batch.inputs import inputnames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import JsonValue

    from s2a_batch.arms import Score
    from s2a_batch.compare.counting import Judgement
    from s2a_batch.compare.matching import Given, Matched
    from s2a_batch.compare.plan import Arm
    from s2a_batch.job import Job

RECORDS = "records.jsonl"


class Weighing:
    """How the answers of some arms are judged.

    Args:
        base: The comparison's job.
        arms: All of them.
        judge: The judge's job; None: no model judges.
        limit: Only so many first records of the input; None: all.
    """

    def __init__(self, base: Job, arms: Sequence[Arm], judge: Job | None, limit: int | None) -> None:
        self._base = base
        self._arms = arms
        self._judge = judge
        self._limit = limit
        self._way: Score = base.compare.score or scoring.usual(base.answer)
        self._verdicts: dict[bytes, bool] = {}

    def ask(self) -> int:
        """Write what the judge is to be asked; returns how many questions there are. Without a judge: 0."""
        if self._judge is None:
            return 0
        with judging.Questions(self._judge.output / judging.QUESTIONS) as questions:

            def add(record: Matched) -> None:
                for name, line in self._questions(record):
                    questions.add(name, line)

            with ExitStack() as stack:
                self._read([stack.enter_context(Shelf(arm.job)) for arm in self._arms], add)
        return questions.count

    def figures(self) -> Comparison:
        """All figures; writes what became of each record to `records.jsonl`.

        Raises:
            OutputError: It cannot be written.
        """
        compare, judge = self._base.compare, self._judge
        self._verdicts = {} if judge is None else judging.verdicts(judge)
        count = Count(self._arms, compare.expected, compare.by)
        with ExitStack() as stack:
            shelves = [stack.enter_context(Shelf(arm.job)) for arm in self._arms]
            self._write_records(shelves, count)
            arms, pairs, agreements = count.finish(shelves)
        return Comparison(
            input=inputnames.told(self._base.input),
            output=str(self._base.output),
            way=self._way,
            expected=compare.expected,
            by=compare.by,
            limit=self._limit,
            lines=count.lines,
            unusable=count.unusable,
            no_gold=count.no_gold,
            arms=arms,
            pairs=pairs,
            agreements=agreements,
            judge=None if judge is None else _used_by(judge),
        )

    def _read(self, shelves: Sequence[Shelf], take: matching.Taker) -> None:
        async def read() -> None:
            async with aclosing(matching.match(self._base, shelves, self._limit)) as records:
                async for record in records:
                    take(record)

        anyio.run(read)

    def _write_records(self, shelves: Sequence[Shelf], count: Count) -> None:
        path = self._base.output / RECORDS
        temporary = path.with_name(path.name + linefiles.NEW)
        try:
            with open(temporary, "wb", opener=linefiles.open_private) as file:

                def take(record: Matched) -> None:
                    judged = self._judged(record)
                    count.add(record, judged, self._base.compare.answer)
                    file.write(self._line(record, judged))

                self._read(shelves, take)
            temporary.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None

    def _judged(self, record: Matched) -> list[Judgement] | None:
        """Of each arm; None when the record has no right answer that can be used."""
        gold = self._gold(record)
        options = self._options(record) if self._way == "choice" else {}
        if not record.usable or not scoring.is_given(gold):
            return None
        if self._way != "judge" and scoring.is_right(self._way, gold, "", options) is None:
            return None
        return [
            self._judgement(record, arm, given, gold, options)
            for arm, given in zip(self._arms, record.given, strict=True)
        ]

    def _judgement(
        self, record: Matched, arm: Arm, given: Given | None, gold: JsonValue, options: dict[str, str]
    ) -> Judgement:
        if given is None:
            return "pending"
        if given.failure is not None:
            return "no_oracle" if arm.job.arm == "oracle" and record.oracle is None else "failed"
        said = scoring.said(given.answer, self._base.compare.answer)
        if self._way == "judge":
            name, _ = judging.question(self._bare_question(record), gold, said)
            right = self._verdicts.get(bytes.fromhex(name))
            return "unjudged" if right is None else "right" if right else "wrong"
        return "right" if scoring.is_right(self._way, gold, said, options) else "wrong"

    def _questions(self, record: Matched) -> Iterator[tuple[str, bytes]]:
        gold = self._gold(record)
        if record.usable and scoring.is_given(gold):
            for given in record.given:
                if given is not None and given.failure is None:
                    said = scoring.said(given.answer, self._base.compare.answer)
                    yield judging.question(self._bare_question(record), gold, said)

    def _bare_question(self, record: Matched) -> str:
        """The question without what would sway a judge, as far as the input has it."""
        bare = (record.found or {}).get(self._base.compare.question)
        return bare if isinstance(bare, str) and bare.strip() else record.oracle or record.prompt

    def _gold(self, record: Matched) -> JsonValue:
        return (record.found or {}).get(self._base.compare.expected)

    def _options(self, record: Matched) -> dict[str, str]:
        given = (record.found or {}).get(self._base.compare.options)
        return scoring.options_of(given, record.prompt) or scoring.options_of([*self._base.answer.choices], "")

    def _line(self, record: Matched, judged: Sequence[Judgement] | None) -> bytes:
        arms: dict[str, JsonValue] = {}
        for number, (arm, given) in enumerate(zip(self._arms, record.given, strict=True)):
            arms[arm.name] = {
                "judgement": None if judged is None else judged[number],
                "answer": None if given is None else given.answer,
                "failure": None if given is None else given.failure,
            }
        line = {"key": record.key, "line": record.line, "id": record.id, "expected": self._gold(record), "arms": arms}
        return json.dumps(line).encode() + b"\n"


def _used_by(judge: Job) -> Use:
    """What the judge took for all that it was ever asked here."""
    with Shelf(judge) as shelf:
        for name in (rundir.RESULTS, rundir.DEAD_LETTERS):
            for key, _ in linefiles.scan(judge.output / name):
                shelf.find(key.decode())
        return shelf.alone.rounded()
