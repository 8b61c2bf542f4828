"""langchain-openai: one chain of two structured calls, and abatch over all rows with a bound on what is open."""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI

from tests.bench.peers.contract import MODEL, Answer, Asked, Rewrite, asks_answer, asks_rewrite, main, result_line


async def _run(asked: Asked) -> None:
    per_minute = asked.requests_per_minute
    limiter = None
    if per_minute is not None:
        limiter = InMemoryRateLimiter(requests_per_second=per_minute / 60, check_every_n_seconds=0.01)
    model = ChatOpenAI(model=MODEL, base_url=asked.base_url, api_key="none", rate_limiter=limiter)
    rewriter = model.with_structured_output(Rewrite, method="json_schema")
    answerer = model.with_structured_output(Answer, method="json_schema")
    with asked.output.open("w") as out:

        async def answer(rewrite: Rewrite) -> tuple[Rewrite, Answer]:
            return rewrite, await answerer.ainvoke(asks_answer(rewrite))

        chain = RunnableLambda(asks_rewrite) | rewriter | RunnableLambda(answer)
        rows = list(asked.rows())
        config: Any = {"max_concurrency": asked.open_requests}
        found = await chain.abatch([prompt for _, prompt in rows], config=config, return_exceptions=True)
        for (row_id, prompt), one in zip(rows, found, strict=True):
            if not isinstance(one, BaseException):
                out.write(result_line(row_id, prompt, *one))


if __name__ == "__main__":
    main(lambda asked: asyncio.run(_run(asked)))
