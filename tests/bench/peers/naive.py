"""What the documents of instructor show: a patched client, a semaphore, and gather over all rows."""

from __future__ import annotations

import asyncio

import instructor
from openai import AsyncOpenAI

from tests.bench.peers.contract import MODEL, Answer, Asked, Rewrite, asks_answer, asks_rewrite, main, result_line


async def _run(asked: Asked) -> None:
    client = instructor.from_openai(AsyncOpenAI(base_url=asked.base_url, api_key="none"))
    semaphore = asyncio.Semaphore(asked.open_requests)
    with asked.output.open("w") as out:

        async def answer(row_id: object, prompt: str) -> None:
            async with semaphore:
                rewrite = await client.chat.completions.create(
                    model=MODEL,
                    response_model=Rewrite,
                    messages=asks_rewrite(prompt),  # type: ignore[arg-type]
                )
                found = await client.chat.completions.create(
                    model=MODEL,
                    response_model=Answer,
                    messages=asks_answer(rewrite),  # type: ignore[arg-type]
                )
            out.write(result_line(row_id, prompt, rewrite, found))

        await asyncio.gather(*[answer(*row) for row in asked.rows()], return_exceptions=True)


if __name__ == "__main__":
    main(lambda asked: asyncio.run(_run(asked)))
