"""The same records in the directories of several arms, side by side, and what each took.

Invariants: records come in the order of the input and by content, so a result whose line is gone counts for nothing;
memory does not grow with the file; a rewrite that an arm used and another paid for is known as such.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeAlias

from s2a_batch import linefiles, rundir, source
from s2a_batch.keys import KeyIndex
from s2a_batch.prices import prices_of
from s2a_batch.records import BadLine, Known, Record, Usage, Waiting
from s2a_batch.resume import retried

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from s2a_batch.job import Job
    from s2a_batch.prices import CostOf
    from s2a_batch.records import StageName
    from s2a_batch.resume import Options

_MOST_DIGITS: Final = 4_000


@dataclass(slots=True)
class Use:
    """What requests took.

    Attributes:
        cost_usd: None when a price or a reply's usage is not known.
        request_s: Seconds that they were open, added up.
        unknown_usage: Replies without usage: with any, the tokens are a lower bound.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    request_s: float = 0.0
    unknown_usage: int = 0

    def add(self, attempts: list[dict[str, Any]], cost_of: CostOf | None) -> None:
        """Count the attempts of one stage of a record, as they stand in its line."""
        for attempt in attempts:
            usage = Usage(**(attempt["usage"] or {}))
            blind = attempt["status"] == 200 and (usage.input_tokens is None or usage.output_tokens is None)  # noqa: PLR2004
            self.requests += 1
            self.input_tokens += usage.input_tokens or 0
            self.output_tokens += usage.output_tokens or 0
            self.request_s += attempt["seconds"]
            self.unknown_usage += blind
            unknown = self.cost_usd is None or cost_of is None or blind
            self.cost_usd = None if unknown else (self.cost_usd or 0.0) + (cost_of(usage) if cost_of else 0.0)

    def without(self, part: Use) -> Use:
        """What is left when a part of it was not paid."""
        known = self.cost_usd is not None and part.cost_usd is not None
        return Use(
            requests=self.requests - part.requests,
            input_tokens=self.input_tokens - part.input_tokens,
            output_tokens=self.output_tokens - part.output_tokens,
            cost_usd=(self.cost_usd or 0.0) - (part.cost_usd or 0.0) if known else None,
            request_s=self.request_s - part.request_s,
            unknown_usage=self.unknown_usage - part.unknown_usage,
        ).rounded()

    def rounded(self) -> Use:
        """Without the noise of sums."""
        cost = None if self.cost_usd is None else round(self.cost_usd, 9)
        return replace(self, cost_usd=cost, request_s=round(self.request_s, 6))


@dataclass(frozen=True, slots=True)
class Given:
    """What an arm made of a record.

    Attributes:
        answer: None when it failed.
        failure: Why it failed; None when it was answered.
    """

    answer: JsonValue
    failure: str | None


@dataclass(frozen=True, slots=True)
class Matched:
    """One input line in all arms.

    Attributes:
        key: Its identity in every file.
        found: The input object; None when the line is none.
        prompt: The text that was asked; "" when nothing could be.
        oracle: The text without noise, when the input has it.
        given: By arm; None where it is pending.
    """

    key: str
    line: int
    id: JsonValue
    found: dict[str, JsonValue] | None
    prompt: str
    oracle: str | None
    given: tuple[Given | None, ...]

    @property
    def usable(self) -> bool:
        """Whether it asks anything."""
        return bool(self.prompt)


@dataclass(slots=True)
class Shelf:
    """The results of one arm, found by key. A context manager.

    Attributes:
        alone: What the arm took, had it been the only one.
        borrowed: Of that: rewrites that another arm paid for.
    """

    job: Job
    alone: Use = field(default_factory=Use)
    borrowed: Use = field(default_factory=Use)
    _files: ExitStack = field(default_factory=ExitStack)
    _open: list[tuple[KeyIndex, BinaryIO]] = field(default_factory=list)
    _prices: dict[StageName, CostOf | None] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._prices.update(prices_of(self.job))
        for name in (rundir.RESULTS, rundir.DEAD_LETTERS):
            path = self.job.output / name
            if path.exists():
                self._open.append((self._index(path), self._files.enter_context(path.open("rb"))))
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def find(self, key: str) -> Given | None:
        """What became of the record, and count what it took; None: pending."""
        for index, file in self._open:
            if (offset := index.rewrite_offset(key)) is not None:
                file.seek(offset)
                line = _read(file.readline())
                self._count(line["stages"])
                failure = None if line["status"] == "answered" else str((line["error"] or {}).get("kind"))
                return Given(line["answer"], failure)
        return None

    def _count(self, stages: dict[str, Any]) -> None:
        for name, audit in stages.items():
            if audit is None:
                continue
            price = self._prices.get("rewrite" if name == "rewrite" else "answer")
            self.alone.add(audit["attempts"], price)
            if audit.get("borrowed"):
                self.borrowed.add(audit["attempts"], price)

    def _index(self, path: Path) -> KeyIndex:
        index = self._files.enter_context(KeyIndex())
        index.add_rewrites(linefiles.scan(path))
        return index


Taker: TypeAlias = "Callable[[Matched], None]"
"""Takes one record after the other."""


async def match(job: Job, shelves: Sequence[Shelf], limit: int | None) -> AsyncGenerator[Matched]:
    """Every record of the input in all arms.

    Args:
        job: Names the input and its fields.
        shelves: The arms', entered.
        limit: Only so many first records of the input; None: all.
    """
    with KeyIndex() as keys:
        async with aclosing(source.records(job.input, job.fields, keys)) as records:
            number = 0
            async for record in records:
                if number == limit:
                    return
                number += 1
                if not isinstance(record, Known | Waiting):
                    yield _matched(record, shelves)


def _matched(record: Record | BadLine, shelves: Sequence[Shelf]) -> Matched:
    found = None if record.input_json is None else _read(record.input_json)
    asked = record.asked if isinstance(record, Record) else None
    return Matched(
        key=record.key,
        line=record.line,
        id=_read(record.id_json),
        found=found if isinstance(found, dict) else None,
        prompt="" if asked is None else asked.prompt,
        oracle=None if asked is None else asked.oracle,
        given=tuple(shelf.find(record.key) for shelf in shelves),
    )


async def pending(job: Job, limit: int | None, options: Options) -> int:
    """How many records a run would take up, of the first so many of the input; None: of all.

    Args:
        job: Names the input and the directory.
        limit: So many first records of the input.
        options: Of the execution.
    """
    left = number = 0
    with KeyIndex() as keys, KeyIndex() as done:
        if not options.fresh:
            done.add_done((key for key, _ in linefiles.scan(job.output / rundir.RESULTS)), "answered")
            done.add_done(rundir.staying(job.output, retried(job, options)), "failed")
        async with aclosing(source.records(job.input, job.fields, keys)) as records:
            async for record in records:
                if number == limit:
                    break
                number += 1
                left += not isinstance(record, Known | Waiting) and done.done_as(record.key) is None
    return left


def _read(line: bytes) -> Any:  # noqa: ANN401  JSON
    return json.loads(line, parse_int=_whole)


def _whole(digits: str) -> int | str:
    """A number that Python reads; one with thousands of digits stays a text."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits
