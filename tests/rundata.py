"""Result lines of all kinds as a run writes them, and a run's directory to put them in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from s2a_batch.keys import line_hash

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import JsonObject

PROMPT = "Ann has {n} cats. I think it is 99. How many cats does Ann have?"
NAMES = {"answered": "results.jsonl", "failed": "dead_letters.jsonl", "rewritten": "rewrites.jsonl"}


def attempt(n: int = 1, started: str = "2026-11-25T02:00:00.500+00:00", **changes: object) -> JsonObject:
    """One attempt that went well."""
    usage = {"input_tokens": 30, "cached_tokens": 0, "output_tokens": 6, "reasoning_tokens": None}
    return {
        "n": n, "started": started, "seconds": 0.4, "waited_s": 0.1, "status": 200, "request_id": f"req-{n}",
        "model": "m-1", "finish_reason": "stop", "usage": usage, "reask": False, "retry_after_s": None,
        "outage": False, "error": None, "reply": None, **changes,
    }  # fmt: skip


def stage(*messages: str, attempts: list[JsonObject] | None = None, **changes: object) -> JsonObject:
    """A stage's audit; the last message is the user's."""
    turns = [{"role": "system" if n == 0 else "user", "content": text} for n, text in enumerate(messages)]
    tries = attempts or [attempt()]
    usage = {"input_tokens": 30 * len(tries), "cached_tokens": 0, "output_tokens": 6, "reasoning_tokens": None}
    return {
        "model": "m", "model_answered": "m-1", "prompt_version": "1", "messages": turns or None,
        "messages_sha256": "0" * 64, "parameters": {"temperature": 0.0}, "usage": usage, "finish_reason": "stop",
        "attempts": tries, "raw": None, **changes,
    }  # fmt: skip


def result(n: int, **changes: object) -> JsonObject:
    """The line of record n, answered unless told otherwise; `None` takes a field's value away."""
    prompt = str(changes.pop("prompt", PROMPT.replace("{n}", str(n))))
    given: JsonObject = {"id": changes.pop("id", f"row-{n}"), "prompt": prompt}
    rewrite = {"relevant_context": f"Ann has {n} cats.", "user_query": "How many cats does Ann have?", "raw": "{}"}
    line: JsonObject = {
        "schema": 1, "key": line_hash(json.dumps(given).encode()).hex(), "line": n, "id": given["id"],
        "status": "answered", "answer": {"answer": n}, "rewrite": rewrite, "error": None,
        "checks": [{"name": "numbers_dropped", "level": "info", "message": "numbers left out", "words": ["99"]}],
        "policy": None, "stages": {"rewrite": stage("Rewrite.", prompt), "answer": stage("Answer.", "Ann ..")},
        "fingerprint": "f" * 32, "started_at": "2026-11-25T02:00:00.000+00:00", "seconds": float(n),
        "input": given,
    }  # fmt: skip
    return line | changes


def failed(n: int, kind: str = "timeout", **changes: object) -> JsonObject:
    """The line of a dead letter."""
    error = {"kind": kind, "message": "no complete reply", "stage": "answer", "line": n}
    return result(n, **{"status": "failed", "answer": None, "error": error, **changes})


def bad_line(n: int) -> JsonObject:
    """The dead letter of an input line that is no JSON: nothing was sent, there is no input."""
    error = {"kind": "bad_json", "message": "column 3", "stage": "input", "line": n}
    nothing: JsonObject = {"rewrite": None, "checks": [], "stages": {"rewrite": None, "answer": None}, "input": None}
    return failed(n, id=None) | {"error": error, "seconds": 0.0, "raw": "{oops"} | nothing


def encoded(line: JsonObject) -> bytes:
    """A line as it stands in the file."""
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def append(directory: Path, *lines: JsonObject | bytes) -> None:
    """Put lines at the end of the files that they belong to; bytes go to the results as they are."""
    for line in lines:
        name = NAMES["answered" if isinstance(line, bytes) else line["status"]]
        with (directory / name).open("ab") as file:
            file.write(line if isinstance(line, bytes) else encoded(line))


def run_directory(directory: Path, *lines: JsonObject | bytes) -> Path:
    """A run's directory with these lines."""
    directory.mkdir(parents=True)
    manifest = {"s2a_batch": "0.1.0", "job": {"fields": {"prompt": "prompt", "id": "id"}}}
    (directory / "run.json").write_text(json.dumps(manifest))
    append(directory, *lines)
    return directory
