"""The JSON Schema of a job file, for editors.

Invariant: it refuses no file that a run accepts; a file may extend another, so no key has to stand in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from s2a_batch.job import Job

if TYPE_CHECKING:
    from pydantic import JsonValue

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS: Final[dict[str, JsonValue]] = {
    "title": "Extends",
    "description": "Job files, relative to this one, whose keys count where this one has none; the last one wins.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def job_schema() -> dict[str, JsonValue]:
    """The schema, draft 2020-12; what only the program can judge (two keys that exclude each other) is not in it."""
    found = _as_toml(Job.model_json_schema())
    assert isinstance(found, dict)  # noqa: S101  of an object
    properties = found["properties"]
    assert isinstance(properties, dict)  # noqa: S101
    description = "A job of s2a-batch. Paths are relative to the file."
    return {"$schema": _DRAFT, **found, "description": description, "properties": {"extends": _EXTENDS, **properties}}


def as_text() -> str:
    """The schema as a file holds it."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


def _as_toml(schema: JsonValue) -> JsonValue:
    """Without null, which TOML has not, without keys that must be there, and without the defaults of whole tables."""
    if isinstance(schema, list):
        return [_as_toml(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: _as_toml(part)
        for name, part in schema.items()
        if name != "required" and not (name == "default" and (part is None or (isinstance(part, dict) and part)))
    }
    kinds = found.get("anyOf")
    if isinstance(kinds, list) and {"type": "null"} in kinds:
        kinds = [kind for kind in kinds if kind != {"type": "null"}]
        del found["anyOf"]
        only = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        return {**only, **found} if isinstance(only, dict) else found
    return found
