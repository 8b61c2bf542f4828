"""Bespoke Curator: two blocks, one after the other, as its documents build pipelines; limits are set out of the way.

Telemetry and viewer are off; the tokenizer's file is the one that litellm brings, for else it would be downloaded.
"""

# mypy: disable-error-code="import-not-found,misc"
from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.bench.peers.contract import MODEL, Answer, Asked, Rewrite, asks_answer, asks_rewrite, main, result_line

_LITELLM = find_spec("litellm")
_TOKENIZERS = Path(_LITELLM.origin or "").parent / "litellm_core_utils" / "tokenizers" if _LITELLM else Path()
os.environ |= {
    "TELEMETRY_ENABLED": "false",
    "CURATOR_VIEWER": "0",
    "CURATOR_DISABLE_CACHE": "1",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TIKTOKEN_CACHE_DIR": str(_TOKENIZERS),
    "HF_HUB_OFFLINE": "1",
}

from bespokelabs import curator  # noqa: E402  after its environment


class _Rewriter(curator.LLM):
    response_format = Rewrite

    def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
        return asks_rewrite(row["prompt"])

    def parse(self, row: dict[str, Any], reply: Rewrite) -> dict[str, Any]:
        return row | reply.model_dump()


class _Answerer(curator.LLM):
    response_format = Answer

    def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
        return asks_answer(_rewrite(row))

    def parse(self, row: dict[str, Any], reply: Answer) -> dict[str, Any]:
        return row | reply.model_dump()


def _rewrite(row: dict[str, Any]) -> Rewrite:
    return Rewrite(relevant_context=row["relevant_context"], user_query=row["user_query"])


def _run(asked: Asked) -> None:
    settings = {
        "base_url": asked.base_url,
        "api_key": "none",
        "max_requests_per_minute": int(asked.requests_per_minute or 10_000_000),
        "max_tokens_per_minute": 1_000_000_000,
        "max_concurrent_requests": asked.open_requests,
    }
    found: Any = [{"id": row_id, "prompt": prompt} for row_id, prompt in asked.rows()]
    for block in (_Rewriter, _Answerer):
        found = block(model_name=MODEL, backend="openai", backend_params=dict(settings))(
            found, working_dir=str(asked.output.parent / "curator")
        ).dataset
    with asked.output.open("w") as out:
        for row in found:
            out.write(result_line(row["id"], row["prompt"], _rewrite(row), Answer(answer=row["answer"])))


if __name__ == "__main__":
    main(_run)
