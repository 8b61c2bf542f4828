"""Runs written by hand: result lines as a run writes them, of which a test says what matters to it alone."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

JsonObject = dict[str, Any]
BEGIN = datetime(2026, 3, 1, 22, 0, 0, tzinfo=UTC)
PRICE = {"usd_per_million_input": 2.0, "usd_per_million_output": 10.0, "usd_per_million_cached": 1.0}
JOB: JsonObject = {
    "input": "in.jsonl",
    "output": "out",
    "model": "m",
    "base_url": "http://127.0.0.1:9/v1",
    "price": PRICE,
}
SUMMARY: JsonObject = {"pending": 0, "superseded": 0, "read_all": True, "stopped": None}


def moment(second: float) -> str:
    """So many seconds after the run began, as a line writes it."""
    return (BEGIN + timedelta(seconds=second)).isoformat(timespec="milliseconds")


def attempt(at: float = 0.0, seconds: float = 1.0, **other: Any) -> JsonObject:  # noqa: ANN401  JSON
    """One request; `tokens` are (input, output), `error` is its kind."""
    tokens, error = other.pop("tokens", (100, 10)), other.pop("error", None)
    usage = None if tokens is None else {"input_tokens": tokens[0], "output_tokens": tokens[1]}
    found = {"n": 1, "started": moment(at), "seconds": seconds, "waited_s": 0.0, "status": 200, "usage": usage}
    return found | {"error": None if error is None else {"kind": error, "message": "so"}} | other


def stage(*attempts: JsonObject, **other: Any) -> JsonObject:  # noqa: ANN401  JSON
    """A stage's audit with these requests."""
    finish = {"model": "m", "model_answered": "m-2", "finish_reason": "stop", "messages": None}
    return finish | {"attempts": list(attempts)} | other


def line(number: int, prompt: str | None = "one two three four", **other: Any) -> JsonObject:  # noqa: ANN401  JSON
    """A result line; without more it is answered, without stages, and its rewrite keeps all."""
    key = other.pop("key", hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest())
    rewrite = other.pop("rewrite", (prompt, ""))
    made = None if rewrite is None else {"relevant_context": rewrite[0], "user_query": rewrite[1], "raw": "{}"}
    head = {"schema": 1, "key": key, "line": number, "id": number, "status": "answered", "answer": {"answer": "yes"}}
    tail: JsonObject = {"rewrite": made, "error": None, "checks": [], "policy": None, "stages": {}, "fingerprint": "f"}
    times = {"started_at": moment(0), "seconds": 1.0}
    return head | tail | times | {"input": None if prompt is None else {"id": number, "prompt": prompt}} | other


def failed(number: int, kind: str, **other: Any) -> JsonObject:  # noqa: ANN401  JSON
    """A dead letter of this kind."""
    error = {"kind": kind, "message": f"what is wrong with line {number}", "stage": "answer", "line": number}
    return line(number, **{"status": "failed", "answer": None, "error": error, **other})


def write_run(
    directory: Path,
    results: Iterable[JsonObject | bytes] = (),
    dead_letters: Iterable[JsonObject | bytes] = (),
    rewrites: Iterable[JsonObject | bytes] = (),
    **manifest: Any,  # noqa: ANN401  JSON
) -> Path:
    """Write a run's files; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, lines in (("results", results), ("dead_letters", dead_letters), ("rewrites", rewrites)):
        content = b"".join(_bytes(found) + b"\n" for found in lines)
        if content:
            (directory / f"{name}.jsonl").write_bytes(content)
    totals = {"executions": 1, "killed": 0, "requests": 0, "cost_usd": 0.0}
    table = {"s2a_batch": "0", "fingerprint": "f", "job": JOB, "summary": SUMMARY, "totals": totals} | manifest
    (directory / "run.json").write_text(json.dumps(table))
    return directory


def _bytes(found: JsonObject | bytes) -> bytes:
    return found if isinstance(found, bytes) else json.dumps(found, separators=(",", ":")).encode()
