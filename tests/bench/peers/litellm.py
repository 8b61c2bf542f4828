"""litellm: acompletion with the shape as response_format, a semaphore, and gather over all rows."""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import asyncio
import os

from tests.bench.peers.contract import MODEL, Answer, Asked, Rewrite, asks_answer, asks_rewrite, main, result_line

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm


async def _run(asked: Asked) -> None:
    litellm.suppress_debug_info = True
    semaphore = asyncio.Semaphore(asked.open_requests)
    place = {"model": f"openai/{MODEL}", "api_base": asked.base_url, "api_key": "none", "num_retries": 2}
    with asked.output.open("w") as out:

        async def answer(row_id: object, prompt: str) -> None:
            async with semaphore:
                reply = await litellm.acompletion(messages=asks_rewrite(prompt), response_format=Rewrite, **place)
                rewrite = Rewrite.model_validate_json(reply.choices[0].message.content)
                reply = await litellm.acompletion(messages=asks_answer(rewrite), response_format=Answer, **place)
                found = Answer.model_validate_json(reply.choices[0].message.content)
            out.write(result_line(row_id, prompt, rewrite, found))

        await asyncio.gather(*[answer(*row) for row in asked.rows()], return_exceptions=True)


if __name__ == "__main__":
    main(lambda asked: asyncio.run(_run(asked)))
