"""async-batch-llm: two streams, the second fed by the first; each has half of what may be open, and of the limit.

Its cooldown after a refusal is set to 1 s; the default of 300 s would stall it. A prompt is one text, as it wants it.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from async_batch_llm import ProcessorConfig, RateLimitConfig, llm, process_stream, pydantic_json_parser

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
    from collections.abc import AsyncIterator

    from pydantic import BaseModel


def _strategy(asked: Asked, shape: type[BaseModel], instructions: str) -> Any:  # noqa: ANN401  untyped here
    return llm(
        f"openai-compatible:{MODEL}",
        base_url=asked.base_url,
        api_key="none",
        system_instruction=instructions,
        response_parser=pydantic_json_parser(shape),
        generation_config={"response_format": response_format(shape)},
    )


async def _run(asked: Asked) -> None:
    limit = None if asked.requests_per_minute is None else asked.requests_per_minute / 2
    config = ProcessorConfig(
        concurrency=max(1, asked.open_requests // 2),
        max_requests_per_minute=limit,
        quota_burst_seconds=None if limit is None else 1.0,
        rate_limit=RateLimitConfig(cooldown_seconds=1.0),
        max_queue_size=1000,
        max_result_queue_size=1000,
    )
    system = asks_rewrite("")[0]["content"], asks_answer(Rewrite(relevant_context="", user_query=""))[0]["content"]
    first, second = _strategy(asked, Rewrite, system[0]), _strategy(asked, Answer, system[1])

    async def rewritten() -> AsyncIterator[tuple[str, str, Any]]:
        rows = ((str(row_id), prompt, (row_id, prompt)) for row_id, prompt in asked.rows())
        async for found in process_stream(first, rows, config=config):
            if found.success:
                yield found.item_id, asks_answer(found.output)[-1]["content"], (*found.context, found.output)

    with asked.output.open("w") as out:
        async for found in process_stream(second, rewritten(), config=config):
            if found.success:
                row_id, prompt, rewrite = found.context
                out.write(result_line(row_id, prompt, rewrite, found.output))


if __name__ == "__main__":
    main(lambda asked: asyncio.run(_run(asked)))
