"""What all peers share: arguments, messages, shapes of the replies, result lines, and the report at the end.

``python -m tests.bench.peers.<peer> INPUT BASE_URL OUTPUT OPEN_REQUESTS [REQUESTS_PER_MINUTE]``: each row's prompt is
rewritten and answered from the rewrite, by two chat completions with our own messages; a line goes to OUTPUT for each
row that has an answer, and one JSON object to stdout. Knows pydantic, which every peer has.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from s2a_batch.prompts import answer_messages, rewrite_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s2a_batch.prompts import Message

MODEL = "bench"


class Rewrite(BaseModel):
    """Stage 1's reply."""

    relevant_context: str
    user_query: str


class Answer(BaseModel):
    """Stage 2's reply."""

    answer: int


def asks_rewrite(prompt: str) -> list[Message]:
    """Stage 1's messages."""
    return rewrite_messages(prompt)


def asks_answer(rewrite: Rewrite) -> list[Message]:
    """Stage 2's messages."""
    return answer_messages(rewrite.relevant_context, rewrite.user_query)


def response_format(model: type[BaseModel]) -> dict[str, object]:
    """The request's part that asks for a shape, for peers that do not make it themselves."""
    schema = model.model_json_schema() | {"additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": model.__name__, "strict": True, "schema": schema}}


def result_line(row_id: object, prompt: str, rewrite: Rewrite, answer: Answer) -> str:
    """A row's line in the output, LF included."""
    kept = {"id": row_id, "prompt": prompt, "rewrite": rewrite.model_dump(), "answer": answer.answer}
    return json.dumps(kept) + "\n"


@dataclass
class Asked:
    """The command line, and the clock that is read at the first request."""

    input: Path
    base_url: str
    output: Path
    open_requests: int
    requests_per_minute: float | None
    began: tuple[float, float] | None = field(default=None, init=False)

    def rows(self) -> Iterator[tuple[object, str]]:
        """Id and prompt of each row; the first request is about to be sent when the first is taken."""
        self.began = self.began or (time.perf_counter(), _cpu_s())
        with self.input.open() as lines:
            for line in lines:
                row = json.loads(line)
                yield row["id"], row["prompt"]


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(work: Callable[[Asked], None]) -> None:
    """Do a peer's work as the command line says, then report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("input", type=Path)
    parser.add_argument("base_url")
    parser.add_argument("output", type=Path)
    parser.add_argument("open_requests", type=int)
    parser.add_argument("requests_per_minute", type=float, nargs="?")
    asked = Asked(**vars(parser.parse_args()))
    work(asked)
    wall_s, cpu_s = asked.began or (time.perf_counter(), _cpu_s())
    report = {
        "rows": sum(1 for _ in asked.output.open()) if asked.output.exists() else 0,
        "span_s": time.perf_counter() - wall_s,
        "span_cpu_s": _cpu_s() - cpu_s,
        "cpu_s": _cpu_s(),
        "peak_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(report))
