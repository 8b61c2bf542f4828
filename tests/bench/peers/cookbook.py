"""The way of OpenAI's cookbook script: token buckets for requests and tokens, a task a request, one pass a stage.

Both buckets start full, each request sleeps 1 ms, nothing bounds what is open: so it is made there, and kept here.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from pydantic import BaseModel

from tests.bench.peers.contract import (
    MODEL,
    Answer,
    Asked,
    Rewrite,
    asks_answer,
    asks_rewrite,
    main,
    response_format,
    result_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ATTEMPTS = 5
UNLIMITED = 1e9
PAUSE_S = 15
Shape = TypeVar("Shape", bound=BaseModel)


class _Pass:
    """One pass of the script over a file of requests."""

    def __init__(self, asked: Asked) -> None:
        self.url = f"{asked.base_url}/chat/completions"
        self.per_minute = asked.requests_per_minute or UNLIMITED
        self.again: deque[tuple[Any, dict[str, Any], int]] = deque()
        self.done: list[tuple[Any, Any]] = []
        self.open = 0
        self.refused_at = 0.0

    async def run(self, requests: Iterable[tuple[Any, dict[str, Any]]]) -> list[tuple[Any, Any]]:
        """Send all, and what failed again; the replies with what came along with each request."""
        left: Iterator[tuple[Any, dict[str, Any]]] = iter(requests)
        capacity, updated = self.per_minute, time.time()
        tasks: set[asyncio.Task[None]] = set()
        waiting: tuple[Any, dict[str, Any], int] | None = None
        async with aiohttp.ClientSession() as session:
            while True:
                if waiting is None:
                    fresh = None if self.again else next(left, None)
                    waiting = self.again.popleft() if self.again else None if fresh is None else (*fresh, ATTEMPTS)
                now = time.time()
                capacity = min(capacity + self.per_minute * (now - updated) / 60, self.per_minute)
                updated = now
                if waiting is not None and capacity >= 1:
                    capacity -= 1
                    self.open += 1
                    tasks.add(task := asyncio.create_task(self._call(session, *waiting)))
                    task.add_done_callback(tasks.discard)
                    waiting = None
                if waiting is None and self.open == 0 and not self.again:
                    return self.done
                await asyncio.sleep(0.001)
                if time.time() - self.refused_at < PAUSE_S:
                    await asyncio.sleep(PAUSE_S - (time.time() - self.refused_at))

    async def _call(self, session: aiohttp.ClientSession, label: Any, request: dict[str, Any], left: int) -> None:  # noqa: ANN401
        try:
            async with session.post(self.url, headers={"Authorization": "Bearer none"}, json=request) as reply:
                found = await reply.json()
            if "error" in found:
                if "rate limit" in found["error"].get("message", "").lower():
                    self.refused_at = time.time()
                raise ValueError(found["error"])  # noqa: TRY301  as the script does
            self.done.append((label, found))
        except (aiohttp.ClientError, ValueError):
            if left:
                self.again.append((label, request, left - 1))
        finally:
            self.open -= 1


def _request(messages: list[dict[str, str]], shape: type[BaseModel]) -> dict[str, Any]:
    return {"model": MODEL, "messages": messages, "response_format": response_format(shape)}


def _read(found: dict[str, Any], shape: type[Shape]) -> Shape:
    return shape.model_validate(json.loads(found["choices"][0]["message"]["content"]))


async def _run(asked: Asked) -> None:
    first = [((row_id, prompt), _request(asks_rewrite(prompt), Rewrite)) for row_id, prompt in asked.rows()]
    rewrites = [(label, _read(found, Rewrite)) for label, found in await _Pass(asked).run(first)]
    second = [((label, rewrite), _request(asks_answer(rewrite), Answer)) for label, rewrite in rewrites]
    with asked.output.open("w") as out:
        for ((row_id, prompt), rewrite), found in await _Pass(asked).run(second):
            out.write(result_line(row_id, prompt, rewrite, _read(found, Answer)))


if __name__ == "__main__":
    main(lambda asked: asyncio.run(_run(asked)))
