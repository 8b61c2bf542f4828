"""Runs' directories made by hand, for what reads them: any input lines, results in any order, any damage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from s2a_batch.keys import key_text, line_hash
from s2a_batch.records import BadLine, Outcome, Status, result_line
from s2a_batch.rundir import FILES, LINE_FILES, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.processes import JsonObject

FULL = {
    "status": "answered",
    "answer": {"answer": "yes"},
    "fingerprint": "f",
    "started_at": "2026-01-01T00:00:00+00:00",
    "seconds": 1.0,
}


def result(text: bytes, number: int = 1, *, occurrence: int = 0, id_json: bytes = b"null", **more: object) -> bytes:
    """The result line, LF included, of an input line without its ends."""
    key = key_text(line_hash(text), occurrence)
    given = text if text.startswith(b"{") and _is_json(text) else None
    record = BadLine(key, number, id_json, given, None if given else "raw", "bad_prompt", "")
    return result_line(record, Outcome.model_validate(FULL | more))


def failed(text: bytes, number: int = 1, *, occurrence: int = 0, **more: object) -> bytes:
    """A dead letter of an input line."""
    error = {"kind": "refusal", "message": "no", "stage": "answer", "line": number}
    fields: JsonObject = {"status": "failed", "answer": None, "error": error} | more
    return result(text, number, occurrence=occurrence, **fields)


def directory(
    folder: Path, lines: Iterable[bytes], found: Iterable[tuple[Status, bytes]], job: JsonObject | None = None
) -> Path:
    """An input `in.jsonl` of these lines and a run's directory `out` with these result lines; returns the latter."""
    out = folder / "out"
    out.mkdir(parents=True)
    (folder / "in.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    for name in LINE_FILES:
        (out / name).touch()
    for status, line in found:
        with (out / FILES[status]).open("ab") as file:
            file.write(line)
    given = {"input": str(folder / "in.jsonl"), "fields": {"prompt": "prompt", "id": "id"}, "answer": {"type": "text"}}
    (out / MANIFEST).write_text(json.dumps({"s2a_batch": "0", "job": given | (job or {})}))
    return out


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
