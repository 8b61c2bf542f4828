"""The floor: aiohttp, orjson and pydantic by hand, no retries, no limits, no checks, no audit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import orjson  # type: ignore[import-not-found]  # of its own environment
from pydantic import BaseModel

from tests.bench.peers.contract import MODEL, Answer, Asked, Rewrite, asks_answer, asks_rewrite, main, response_format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from s2a_batch.prompts import Message

Shape = TypeVar("Shape", bound=BaseModel)


FORMATS: dict[type[BaseModel], dict[str, object]] = {model: response_format(model) for model in (Rewrite, Answer)}
HEADERS = {"content-type": "application/json", "authorization": "Bearer none"}


async def _ask(session: aiohttp.ClientSession, url: str, model: type[Shape], messages: list[Message]) -> Shape:
    body = orjson.dumps({"model": MODEL, "messages": messages, "response_format": FORMATS[model]})
    async with session.post(url, data=body, headers=HEADERS) as reply:
        found = orjson.loads(await reply.read())
        reply.raise_for_status()
    return model.model_validate_json(found["choices"][0]["message"]["content"])


async def _worker(session: aiohttp.ClientSession, url: str, rows: Iterator[tuple[object, str]], out: BinaryIO) -> None:
    for row_id, prompt in rows:
        try:
            rewrite = await _ask(session, url, Rewrite, asks_rewrite(prompt))
            answer = await _ask(session, url, Answer, asks_answer(rewrite))
        except (aiohttp.ClientError, ValueError):
            continue
        kept = {"id": row_id, "prompt": prompt, "rewrite": rewrite.model_dump(), "answer": answer.answer}
        out.write(orjson.dumps(kept) + b"\n")


async def _run(asked: Asked) -> None:
    url = f"{asked.base_url}/chat/completions"
    rows = asked.rows()
    with asked.output.open("wb") as out:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*[_worker(session, url, rows, out) for _ in range(asked.open_requests)])


if __name__ == "__main__":
    main(lambda asked: asyncio.run(_run(asked)))
